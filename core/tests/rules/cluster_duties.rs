//! What agents do to a Redis Cluster: made, joined, met again, hastened, forgotten; and when nothing is done.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::cluster::HASTE_LEFT_TO_ONE_MS;
use consul_redis_core::cluster::make::{BlankNode, plan};
use consul_redis_core::cluster::order::{NodeCommand, NodeOrder};
use consul_redis_core::cluster::record::AnnouncedNode;
use consul_redis_core::cluster::slots::{SLOTS, count};
use consul_redis_core::cluster::table::NodeId;
use consul_redis_core::cluster::wanted::{ClusterDuties, Wanted};
use consul_redis_core::cluster::watch::{ClusterInput, ClusterOutput, NodeReading, TOLD_AGAIN_MS};
use consul_redis_core::group::Aftermath;
use consul_redis_core::identity::address::Address;
use consul_redis_core::known::observed::{Death, DeathSign, ProcessState, ProofKind};
use consul_redis_core::time::Mono;
use proptest::prelude::*;
use serde_json::Value;

use crate::cluster::{Cluster, Line, NODES, Node, SLOTS_OF, at, id, link_to};
use crate::cluster_names::{AT_ONCE, LATER, STEP_MS, Stage, another_answers_at, ats, layout};

pub(crate) const ALL: ClusterDuties = ClusterDuties {
    manage: true,
    make: Some(Wanted { nodes: 6, shards: 3 }),
    replicas_max: None,
    hasten: true,
    forget_after_ms: Some(60_000),
};
/// Four times `cluster-node-timeout`, and more.
const LED_FOR_LONG: usize = 25_000 / STEP_MS as usize;

fn name_of(id: &NodeId) -> char {
    id.as_str().chars().next().expect("an id")
}

/// What a node does that is told something, if all others heard of it at once.
pub(crate) fn obey(cluster: &mut Cluster, order: &NodeOrder) {
    let own = name_of(&order.id);
    match &order.command {
        NodeCommand::SetEpoch(epoch) => cluster.say(&[own], own, |line| line.epoch = *epoch),
        NodeCommand::AddSlots(slots) => {
            cluster.say(&[own], own, |line| line.slots = slots.to_string())
        }
        NodeCommand::Meet(met) => {
            let other = name_of(&met.id);
            let (one, two) = (cluster.0[&own].table.clone(), cluster.0[&other].table.clone());
            let known: BTreeSet<char> = one.keys().chain(two.keys()).copied().collect();
            let line = |of: char| cluster.0[&of].table[&of].clone();
            let table: BTreeMap<char, Line> = known.iter().map(|of| (*of, line(*of))).collect();
            for name in known {
                cluster.node(name).table.clone_from(&table);
                cluster.node(name).state_ok = true;
            }
        }
        NodeCommand::Replicate(of) => {
            let of = name_of(of);
            let everyone: Vec<char> = cluster.0.keys().copied().collect();
            cluster.say(&everyone, own, |line| *line = Line::replica(of, 1));
            cluster.node(own).link = Some(link_to(of, true, Some(1)));
        }
        NodeCommand::Forget(of) => drop(cluster.node(own).table.remove(&name_of(of))),
        NodeCommand::Failover | NodeCommand::ForcedFailover => panic!("an operator's alone"),
        NodeCommand::NodeTimeout(ms) => cluster.node(own).timeout_ms = Some(*ms),
    }
}

pub(crate) fn blank_node(name: char) -> Node {
    Node {
        table: BTreeMap::from([(name, Line::primary(0, ""))]),
        answers: true,
        state_ok: false,
        not_ready: None,
        link: None,
        has_keys: false,
        timeout_ms: Some(5_000),
    }
}

pub(crate) fn blank() -> Cluster {
    Cluster(NODES.into_iter().map(|name| (name, blank_node(name))).collect())
}

fn stage(cluster: Cluster, agents: usize, duties: ClusterDuties) -> Stage {
    let mut stage = Stage::with_duties(cluster, agents, duties);
    stage.obeys = obey;
    stage.seed(&NODES.map(at));
    stage
}

fn published(agents: usize) -> Stage {
    let mut stage = stage(Cluster::healthy(), agents, ALL);
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-primary"), ats("abc"));
    assert_eq!(stage.told, []);
    stage
}

/// An agent stands beside it.
fn announce(stage: &mut Stage, name: char, host: &str) {
    let node = AnnouncedNode { agent: host.to_owned(), host: host.to_owned(), zone: None };
    let key = format!("{}nodes/{}", layout().root(), at(name));
    stage.put(&layout().agent(host), "{}");
    stage.put(&key, &serde_json::to_string(&node).expect("JSON"));
}

/// The agents' sessions go with them.
fn goes(stage: &mut Stage, agent: &str) {
    stage.delete(&layout().agent(agent));
}

fn commands(stage: &Stage) -> Vec<String> {
    stage.told.iter().map(|(_, o)| format!("{}: {}", name_of(&o.id), o.command)).collect()
}

fn kinds(stage: &Stage) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for (_, order) in &stage.told {
        *kinds.entry(order.command.kind()).or_default() += 1;
    }
    kinds
}

#[test]
fn blank_nodes_become_a_cluster_whose_plan_is_recorded_before_the_first_command() {
    let mut stage = stage(blank(), 3, ALL);
    stage.obeys = |_, _| {};
    stage.turn(AT_ONCE);
    let record = stage.record();
    assert!(record.claims.making.is_some() && record.nodes.is_empty(), "{record:#?}");
    let told: BTreeSet<&str> = stage.told.iter().map(|(by, _)| by.as_str()).collect();
    assert_eq!(told, BTreeSet::from([record.claims.making.unwrap().begun.by.as_str()]));
    stage.obeys = obey;
    stage.turn(LATER);
    let record = stage.record();
    assert_eq!((record.claims.is_none(), record.served(), record.generation), (true, SLOTS, 1));
    assert_eq!(stage.named("orders").len(), 6);
    let numbers: Vec<u32> = record.shards.keys().copied().collect();
    assert_eq!(numbers, [1, 2, 3]);
    for shard in record.shards.values() {
        assert!(count(&shard.slots).abs_diff(SLOTS / 3) <= 1, "{shard:?}");
    }
    let kinds = kinds(&stage);
    assert_eq!((kinds["meet"], kinds["replicate"]), (5, 3), "{:#?}", commands(&stage));
    let told = stage.told.len();
    stage.turn(LATER);
    assert_eq!(stage.told.len(), told, "{:#?}", commands(&stage));
}

#[test]
fn whichever_command_its_agent_dies_after_another_one_goes_on_with_the_plan() {
    for after in 1..12 {
        let mut stage = stage(blank(), 2, ALL);
        while stage.told.len() < after {
            stage.turn(1);
        }
        let by = stage.record().claims.making.unwrap().begun.by;
        stage.agents.retain(|agent| agent.name != by);
        stage.turn(LATER + 10_000 / STEP_MS as usize);
        let record = stage.record();
        let made = (record.claims.is_none(), record.served(), stage.named("orders").len());
        assert_eq!(made, (true, SLOTS, 6), "after {after}: {:#?}", commands(&stage));
    }
}

/// The port of the bus is closed, say.
#[test]
fn nodes_that_do_not_find_one_another_are_named_after_30_s_and_what_they_need() {
    let mut stage = stage(blank(), 2, ALL);
    stage.obeys = |cluster, order| {
        if !matches!(order.command, NodeCommand::Meet(_)) {
            obey(cluster, order);
        }
    };
    stage.turn(29_000 / STEP_MS as usize);
    assert_eq!(stage.said(0, "nothing has come of it"), 0, "{:?}", stage.agents[0].said);
    stage.turn(4_000 / STEP_MS as usize);
    for agent in 0..2 {
        let said = stage.agents[agent].said.join("\n");
        let words = "nothing has come of it for 30 s: 10.0.0.1:6379 does not know 10.0.0.2:6379, 10.0.0.3:6379, \
                     10.0.0.4:6379 and 2 more; 10.0.0.2:6379 does not know 10.0.0.1:6379";
        assert!(said.contains(words) && said.contains("its port + 10000"), "{said}");
        let problems = stage.shown(agent).problems;
        assert!(problems.iter().any(|problem| problem.text.contains(words)), "{problems:#?}");
    }
    // The port is opened.
    stage.obeys = obey;
    stage.turn(LATER);
    assert_eq!((stage.record().claims.is_none(), stage.named("orders").len()), (true, 6));
    let left = stage.shown(0).problems;
    assert!(!left.iter().any(|problem| problem.text.contains("is not made")), "{left:#?}");
}

/// All but f are in their places.
fn half_made() -> Stage {
    let mut stage = stage(blank(), 2, ALL);
    stage.obeys = |cluster, order| match order.command {
        NodeCommand::Replicate(_) if name_of(&order.id) == 'f' => {}
        _ => obey(cluster, order),
    };
    stage.turn(LATER);
    assert!(stage.record().claims.making.is_some());
    stage.cluster.dies('a');
    stage.cluster.say(&NODES, 'a', |line| line.flags = "master,fail".to_owned());
    stage.cluster.d_is_elected();
    stage.obeys = obey;
    stage
}

#[test]
fn a_planned_primary_that_was_replaced_meanwhile_holds_nothing_up() {
    // It is back, as a replica.
    let mut stage = half_made();
    let table = stage.cluster.0[&'b'].table.clone();
    let a = stage.cluster.node('a');
    (a.answers, a.table, a.link) = (true, table, Some(link_to('d', true, Some(1))));
    stage.cluster.say(&NODES, 'a', |line| *line = Line::replica('d', 4));
    stage.turn(LATER);
    let record = stage.record();
    assert_eq!((record.claims.is_none(), record.served()), (true, SLOTS), "{:?}", commands(&stage));
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert_eq!(stage.named("orders-replica"), ats("aef"));
}

#[test]
fn a_planned_primary_that_is_dead_and_was_replaced_holds_nothing_up() {
    let mut stage = half_made();
    stage.turn(LATER);
    let record = stage.record();
    assert_eq!((record.claims.is_none(), record.served()), (true, SLOTS), "{:?}", record.claims);
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert_eq!(stage.named("orders-replica"), ats("ef"));
    // One whose slots no other node has does.
    let mut stage = half_made();
    stage.cluster.say(&NODES, 'd', |line| *line = Line::replica('a', 1));
    stage.cluster.say(&NODES, 'a', |line| line.slots = SLOTS_OF[0].to_owned());
    stage.turn(LATER);
    assert!(stage.record().claims.making.is_some());
    assert!(stage.said(0, "10.0.0.1:6379 (aaaaaaaa) does not answer") > 0);
}

/// By `CLUSTER RESET HARD`.
#[test]
fn a_plan_is_given_up_where_all_of_its_nodes_are_blank_and_have_other_ids() {
    let mut stage = stage(blank(), 2, ALL);
    stage.obeys = |_, _| {};
    stage.turn(AT_ONCE);
    let planned = stage.record().claims.making.unwrap();
    // One after the other.
    let new = ['1', '2', '3', '4', '5', '6'];
    stage.cluster.0.clear();
    for (old, new) in NODES.into_iter().zip(new) {
        let line =
            format!("{} {}@16379 myself,master - 0 0 0 connected\n", id(new).as_str(), at(old));
        let table = consul_redis_core::cluster::table::Table::parse(&line).expect("a table");
        let answer = crate::cluster::bare(table, false);
        stage.others.insert(at(old), Ok(answer));
        stage.turn(1);
    }
    stage.turn(LATER);
    let next = stage.record().claims.making.unwrap();
    assert_ne!(next, planned);
    let ids: BTreeSet<NodeId> = next.nodes().map(|node| node.id.clone()).collect();
    assert_eq!(ids, new.map(id).into());
}

#[test]
fn no_cluster_is_made_of_too_few_nodes_or_of_any_that_is_not_blank_or_does_not_answer() {
    let not_made = |change: fn(&mut Cluster), words: &str| {
        let mut cluster = blank();
        change(&mut cluster);
        let mut stage = stage(cluster, 1, ALL);
        stage.turn(LATER);
        assert_eq!((stage.told.len(), stage.kept.writes.len()), (0, 0), "{words}");
        let said = &stage.agents[0].said;
        assert!(said.iter().any(|line| line.contains(words)), "{words}: {said:?}");
    };
    not_made(|cluster| cluster.node('c').has_keys = true, "10.0.0.3:6379 has keys");
    not_made(|cluster| cluster.node('c').answers = false, "10.0.0.3:6379 does not answer");
    not_made(
        |cluster| cluster.say(&['c'], 'c', |line| line.epoch = 3),
        "10.0.0.3:6379 is no blank node: it has an epoch, which CLUSTER RESET SOFT leaves",
    );
    let loading = |cluster: &mut Cluster| cluster.node('c').not_ready = Some("LOADING".to_owned());
    not_made(loading, "is no blank node");
    let mut stage = Stage::with_duties(blank(), 1, ALL);
    stage.seed(&[at('a'), at('b')]);
    stage.turn(LATER);
    let said = stage.said(0, "2 of 6 blank nodes are there");
    assert_eq!((stage.told.len(), said), (0, 1), "{:?}", stage.agents[0].said);
}

#[test]
fn nothing_is_told_without_manage() {
    let mut stage = stage(blank(), 1, ClusterDuties { manage: false, ..ALL });
    stage.turn(LATER);
    assert_eq!((stage.told.len(), stage.kept.writes.len()), (0, 0));
}

fn hosts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..5, 1..8)
}

proptest! {
    /// No replica is beside its primary or another replica of it, where hosts have no more nodes than there are shards
    /// and there are hosts enough.
    #[test]
    fn a_plan_uses_every_node_once_and_parts_what_can_be_parted(hosts in hosts(), shards in 1_usize..8) {
        let nodes: Vec<BlankNode> = hosts.iter().enumerate().flat_map(|(host, count)| {
            (0..*count).map(move |n| BlankNode {
                zone: None,
                host: format!("host-{host}"),
                address: format!("10.0.{host}.{n}:6379").parse().unwrap(),
                id: NodeId::parse(&format!("{:040x}", host * 100 + n)).unwrap(),
            })
        }).collect();
        prop_assume!(nodes.len() >= shards);
        let planned = plan(&nodes, shards);
        let all: BTreeSet<&Address> =
            planned.iter().flat_map(|s| s.replicas.iter().chain([&s.primary])).map(|n| &n.address).collect();
        prop_assert_eq!(all.len(), nodes.len());
        prop_assert_eq!(planned.iter().map(|s| s.slots.count()).sum::<usize>(), SLOTS);
        let sizes: Vec<usize> = planned.iter().map(|s| s.replicas.len()).collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        let beside: usize = planned.iter().map(|s| {
            let hosts: BTreeSet<&str> =
                s.replicas.iter().chain([&s.primary]).map(|n| n.address.host().rsplit_once('.').unwrap().0).collect();
            s.replicas.len() + 1 - hosts.len()
        }).sum();
        let largest = hosts.iter().max().unwrap();
        let most = nodes.len().div_ceil(shards);
        if hosts.len() > most && *largest < shards {
            prop_assert_eq!(beside, 0, "{:?}", planned);
        }
    }
}

#[test]
fn a_blank_node_beside_an_agent_becomes_a_replica_of_the_shard_that_needs_it_most() {
    let mut stage = published(2);
    // e is gone for good, and was forgotten: shard 2 has no replica.
    stage.cluster.0.remove(&'e');
    for node in stage.cluster.0.values_mut() {
        node.table.remove(&'e');
    }
    stage.cluster.0.insert('9', blank_node('9'));
    stage.seed(&[at('a'), at('9')]);
    stage.turn(LATER);
    assert_eq!(stage.told, [], "it is a stranger's, as long as no agent is beside it");
    announce(&mut stage, '9', "host-9");
    stage.turn(LATER);
    let met = format!("CLUSTER MEET {} ({})", at('9'), id('9'));
    let commands = commands(&stage);
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(
        commands[0].ends_with(&met) && commands[1].contains("9: CLUSTER REPLICATE bbbb"),
        "{commands:?}"
    );
    let NodeCommand::Meet(met) = &stage.told[0].1.command else { panic!("{commands:?}") };
    assert!(met.blank);
    assert_eq!(stage.tags("orders-replica", '9'), ["shard-2"]);
    assert!(stage.record().claims.is_none());
}

/// 8 has a firewall before its bus.
fn all_but_8(cluster: &mut Cluster, order: &NodeOrder) {
    match &order.command {
        NodeCommand::Meet(met) if name_of(&met.id) == '8' => {}
        _ => obey(cluster, order),
    }
}

#[test]
fn a_node_that_cannot_join_keeps_no_other_from_joining_and_no_dead_one_from_being_forgotten() {
    let mut stage = published(1);
    stage.obeys = all_but_8;
    for name in ['8', '9'] {
        stage.cluster.0.insert(name, blank_node(name));
        announce(&mut stage, name, &format!("host-{name}"));
    }
    stage.cluster.dies('f');
    stage.cluster.say(&NODES, 'f', |line| line.flags = "slave,fail".to_owned());
    stage.turn(70_000 / STEP_MS as usize);
    assert_eq!(stage.tags("orders-replica", '9').len(), 1, "{:?}", commands(&stage));
    assert_eq!(kinds(&stage).get("forget"), Some(&6), "{:?}", commands(&stage));
    assert!(stage.record().claims.left.contains_key(&id('f')));
    // Ten minutes: the first attempt, and others after 30, 60 and 120 s.
    stage.turn(600_000 / STEP_MS as usize);
    assert_eq!(stage.said(0, "10.0.0.108:6379 (88888888) becomes a replica"), 4);
    assert!(stage.said(0, "(88888888) has not joined in time") > 0);
    // An agent that begins now knows of it.
    assert_eq!(stage.record().claims.given_up[&id('8')].times, 4);
    stage.obeys = obey;
    stage.turn(500_000 / STEP_MS as usize);
    assert_eq!(stage.tags("orders-replica", '8').len(), 1, "{:?}", stage.record().claims);
    assert!(stage.record().claims.given_up.is_empty());
}

#[test]
fn one_that_cannot_be_forgotten_keeps_no_other_from_joining() {
    let mut stage = published(1);
    // b is not told.
    stage.obeys = |cluster, order| match order.command {
        NodeCommand::Forget(_) if name_of(&order.id) == 'b' => {}
        _ => obey(cluster, order),
    };
    stage.cluster.dies('f');
    stage.cluster.say(&NODES, 'f', |line| line.flags = "slave,fail".to_owned());
    stage.turn(65_000 / STEP_MS as usize);
    assert!(stage.record().claims.leaving.is_some());
    stage.cluster.0.insert('9', blank_node('9'));
    announce(&mut stage, '9', "host-9");
    stage.turn(10_000 / STEP_MS as usize);
    assert_eq!(stage.tags("orders-replica", '9').len(), 1, "{:?}", commands(&stage));
    let claims = stage.record().claims;
    assert_eq!((claims.given_up[&id('f')].times, claims.left.len()), (1, 1), "{claims:?}");
}

/// Its address may be another cluster's by now.
#[test]
fn what_an_agent_said_that_is_away_counts_no_more_and_is_deleted_after_a_while() {
    let mut stage = published(2);
    stage.cluster.0.insert('9', blank_node('9'));
    announce(&mut stage, '9', "host-9");
    goes(&mut stage, "host-9");
    let key = layout().announced(&at('9'));
    stage.turn(55_000 / STEP_MS as usize);
    assert_eq!(stage.told, [], "it is beside no agent");
    assert!(stage.agents[0].followed.iter().all(|followed| *followed != at('9')));
    assert!(stage.kept.keys.contains_key(&key));
    // It is back: its key is as it was, and counts.
    stage.put(&layout().agent("host-9"), "{}");
    stage.turn(LATER);
    assert_eq!(kinds(&stage)["replicate"], 1, "{:?}", commands(&stage));
    // Away for good, after all.
    goes(&mut stage, "host-9");
    stage.turn(55_000 / STEP_MS as usize);
    assert!(stage.kept.keys.contains_key(&key));
    stage.turn(10_000 / STEP_MS as usize);
    assert!(!stage.kept.keys.contains_key(&key));
    assert!(stage.said(0, "agent host-9, which said that it is beside 10.0.0.109:6379") > 0);
}

#[test]
fn what_an_agent_says_again_is_not_deleted_and_nor_is_another_one_s() {
    let mut stage = published(1);
    stage.cluster.0.insert('9', blank_node('9'));
    announce(&mut stage, '9', "host-9");
    goes(&mut stage, "host-9");
    stage.turn(40_000 / STEP_MS as usize);
    // Written anew: its time begins anew.
    let key = layout().announced(&at('9'));
    let value = stage.value_of(&key);
    stage.put(&key, &value);
    stage.turn(40_000 / STEP_MS as usize);
    assert!(stage.kept.keys.contains_key(&key));
    // Its name is the beginning of another one's.
    let longer = format!("{key}0");
    stage.put(&longer, &value);
    stage.turn(70_000 / STEP_MS as usize);
    assert!(stage.kept.keys.contains_key(&key));
    assert!(!stage.kept.keys.contains_key(&longer));
    stage.turn(70_000 / STEP_MS as usize);
    assert!(!stage.kept.keys.contains_key(&key));
}

#[test]
fn a_node_that_was_met_and_belongs_to_no_shard_is_made_a_replica_where_an_agent_is_beside_it() {
    let mut stage = published(1);
    stage.cluster.0.insert('9', blank_node('9'));
    let line = Line::primary(0, "");
    for name in NODES {
        stage.cluster.node(name).table.insert('9', line.clone());
    }
    let mut table = stage.cluster.0[&'a'].table.clone();
    table.insert('9', line);
    (stage.cluster.node('9').table, stage.cluster.node('9').state_ok) = (table, true);
    stage.turn(LATER);
    assert_eq!(stage.told, [], "an operator may be about to give it slots");
    announce(&mut stage, '9', "host-9");
    stage.turn(LATER);
    assert_eq!(commands(&stage), [format!("9: CLUSTER REPLICATE {}", id('a'))]);
    assert_eq!(stage.tags("orders-replica", '9'), ["shard-1"]);
}

#[test]
fn a_node_that_no_shard_needs_waits_until_one_does() {
    let mut stage = stage(Cluster::healthy(), 1, ClusterDuties { replicas_max: Some(1), ..ALL });
    stage.cluster.0.insert('9', blank_node('9'));
    stage.turn(AT_ONCE);
    announce(&mut stage, '9', "host-9");
    stage.turn(LATER);
    assert_eq!(stage.told, []);
    stage.cluster.dies('e');
    stage.cluster.say(&NODES, 'e', |line| line.flags = "slave,fail".to_owned());
    stage.turn(60_000 / STEP_MS as usize + LATER);
    let kinds = kinds(&stage);
    assert_eq!(
        (kinds["forget"], kinds["meet"], kinds["replicate"]),
        (5, 1, 1),
        "{:?}",
        commands(&stage)
    );
    assert_eq!(stage.tags("orders-replica", '9'), ["shard-2"]);
}

#[test]
fn a_node_that_has_keys_or_a_cluster_of_its_own_does_not_join() {
    type Change = fn(&mut Node);
    let changes: [(Change, &str); 4] = [
        (|node| node.has_keys = true, "(99999999) does not join: it has keys"),
        (|node| node.table.get_mut(&'9').unwrap().epoch = 4, "CLUSTER RESET HARD"),
        (|node| node.table.get_mut(&'9').unwrap().slots = "0-5".to_owned(), "it owns slots"),
        (|node| drop(node.table.insert('8', Line::primary(2, "0-5"))), ""),
    ];
    for (change, words) in changes {
        let mut stage = published(1);
        let mut node = blank_node('9');
        change(&mut node);
        stage.cluster.0.insert('9', node);
        announce(&mut stage, '9', "host-9");
        stage.turn(LATER);
        assert_eq!(stage.told, []);
        let left = stage.shown(0).problems;
        let said = left.iter().any(|problem| problem.text.contains("does not join"));
        let why = left.iter().any(|problem| problem.text.contains(words));
        assert_eq!((said, why), (!words.is_empty(), !left.is_empty()), "{words}: {left:?}");
        // It keeps no other one from it.
        stage.cluster.0.insert('7', blank_node('7'));
        announce(&mut stage, '7', "host-7");
        stage.turn(LATER);
        assert_eq!(stage.tags("orders-replica", '7').len(), 1, "{:?}", commands(&stage));
    }
}

#[test]
fn beside_a_stranger_nothing_is_done() {
    let mut stage = published(1);
    stage.cluster.say(&['b'], 'b', |_| {});
    stage.cluster.node('b').table.insert('7', Line::primary(9, ""));
    stage.cluster.0.insert('9', blank_node('9'));
    announce(&mut stage, '9', "host-9");
    stage.turn(LATER);
    assert_eq!(stage.told, []);
    assert_eq!(stage.said(0, "its voters know node 77777777"), 1, "{:?}", stage.agents[0].said);
}

/// It has an id of its own until it answers, and may never do.
#[test]
fn a_node_that_is_being_met_keeps_from_nothing() {
    let mut stage = published(1);
    let handshake =
        Line { flags: "handshake".to_owned(), link: "disconnected", ..Line::primary(0, "") };
    stage.cluster.node('b').table.insert('7', handshake);
    stage.turn(LED_FOR_LONG);
    dies(&mut stage.cluster);
    stage.turn(3);
    assert_eq!(kinds(&stage)["node-timeout"], 5, "{:?}", stage.agents[0].said);
}

/// a is gone: its host refuses, d has lost its link, and b and c theirs.
fn dies(cluster: &mut Cluster) {
    cluster.dies('a');
    cluster.node('d').link = Some(link_to('a', false, None));
}

#[test]
fn where_an_owner_is_certainly_gone_the_others_wait_for_a_moment_until_its_replica_is_elected() {
    let mut stage = published(3);
    stage.turn(LED_FOR_LONG);
    dies(&mut stage.cluster);
    stage.turn(3);
    let hastened = stage.record().claims.hastened.unwrap();
    assert_eq!((hastened.dead, hastened.waited_ms.len()), (id('a'), 5));
    assert!(hastened.waited_ms.values().all(|ms| *ms == 5_000));
    for name in ['b', 'c', 'd', 'e', 'f'] {
        assert_eq!(stage.cluster.0[&name].timeout_ms, Some(500), "{name}: {:?}", commands(&stage));
    }
    let by = hastened.begun.by;
    // The agent that began it dies with it.
    stage.agents.retain(|agent| agent.name != by);
    stage.cluster.d_is_elected();
    stage.turn(AT_ONCE + 10_000 / STEP_MS as usize);
    for name in ['b', 'c', 'd', 'e', 'f'] {
        assert_eq!(
            stage.cluster.0[&name].timeout_ms,
            Some(5_000),
            "{name}: {:?}",
            commands(&stage)
        );
    }
    assert!(stage.record().claims.is_none(), "{:?}", stage.record().claims);
    assert_eq!(kinds(&stage), BTreeMap::from([("node-timeout", 10)]), "{:?}", commands(&stage));
}

const PID: u32 = 4711;

/// The kernel of its host tells an agent that its process has ended.
fn ended(stage: &mut Stage, agent: usize, name: char) {
    let (run_id, kind) = (format!("run-of-{name}"), ProofKind::Process);
    let death = Death { run_id, pid: PID, kind, at: Mono(stage.now) };
    stage.hand_in(agent, ClusterInput::Process(at(name), ProcessState::Ended(death)));
}

/// The others have not noticed anything yet: no link is lost. The agent beside it knows.
#[test]
fn the_kernel_s_word_is_enough_and_is_told_to_all_agents_with_its_evidence() {
    let mut stage = published(3);
    stage.turn(LED_FOR_LONG);
    let watched = ProcessState::Watched { run_id: "run-of-a".to_owned(), pid: PID };
    stage.hand_in(1, ClusterInput::Process(at('a'), watched));
    assert_eq!(stage.said(1, "the end of process 4711 of 10.0.0.1:6379 would be seen at once"), 1);
    stage.cluster.node('a').answers = false;
    ended(&mut stage, 1, 'a');
    let hastened = stage.record().claims.hastened.unwrap();
    assert_eq!((hastened.begun.by.as_str(), hastened.dead), ("agent-1", id('a')));
    assert_eq!((hastened.evidence.as_str(), hastened.pid), ("process", Some(PID)));
    assert_eq!(kinds(&stage)["node-timeout"], 5, "{:?}", commands(&stage));
    stage.turn(1);
    let words = "the others wait for a moment only (its process 4711 has ended, as agent-1 sees)";
    for agent in 0..3 {
        assert_eq!(stage.said(agent, words), 1, "{agent}: {:?}", stage.agents[agent].said);
        assert!(stage.shown(agent).under_way[0].contains(words));
    }
    stage.cluster.dies('a');
    stage.cluster.d_is_elected();
    stage.turn(AT_ONCE);
    assert!(stage.record().claims.is_none(), "{:?}", stage.record().claims);
    let history: Value = serde_json::from_str(&stage.value_of(&layout().history())).unwrap();
    assert_eq!(history[0]["evidence"], "process", "{history:#}");
}

/// Another agent has just taken it out of the names, and no node has been asked since.
#[test]
fn the_kernel_s_word_waits_for_no_other_node_s_answer() {
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    let refused = consul_redis_core::cluster::renewal::NoAnswer::Refused("refused".to_owned());
    let asked = Mono(stage.now);
    let reading = NodeReading { asked, answer: Err(refused.clone()) };
    stage.hand_in(0, ClusterInput::Node(at('a'), reading));
    // The other one hears of that, and the rest of the nodes do not answer yet.
    let now = consul_redis_core::time::Now {
        mono: Mono(stage.now + 5),
        wall: jiff::Timestamp::from_millisecond(1_700_000_000_000 + stage.now as i64 + 5).unwrap(),
    };
    let death = Death { run_id: "a".to_owned(), pid: PID, kind: ProofKind::Process, at: asked };
    let store = stage.store();
    let machine = &mut stage.agents[1].machine;
    machine.on(ClusterInput::Process(at('a'), ProcessState::Ended(death)), now);
    machine.on(ClusterInput::Watched(store), now);
    let reading = NodeReading { asked: now.mono, answer: Err(refused) };
    let outputs = machine.on(ClusterInput::Node(at('a'), reading), now);
    let written = outputs.iter().find_map(|output| match output {
        ClusterOutput::Write(ops) => Some(ops),
        _ => None,
    });
    let written = format!("{:?}", written.expect("a write"));
    assert!(written.contains("hastened") && written.contains("4711"), "{written}");
}

/// It may come late, and more than once.
#[test]
fn the_kernel_s_word_about_a_process_that_was_started_again_says_nothing() {
    let mut stage = published(1);
    stage.turn(LED_FOR_LONG);
    let told = Mono(stage.now);
    let late = Death { run_id: "a".to_owned(), pid: PID, kind: ProofKind::Child, at: told };
    stage.cluster.node('a').answers = false;
    stage.hand_in(0, ClusterInput::Process(at('a'), ProcessState::Ended(late.clone())));
    assert_eq!(stage.record().claims.hastened.unwrap().evidence, "child");
    stage.cluster.node('a').answers = true;
    stage.turn(AT_ONCE);
    assert!(stage.record().claims.is_none(), "{:?}", stage.record().claims);
    stage.told.clear();
    // It has answered since: what is silent now is not that process.
    stage.hand_in(0, ClusterInput::Process(at('a'), ProcessState::Ended(late)));
    stage.deafen(0, "a", consul_redis_core::cluster::renewal::NoAnswer::Silent);
    stage.turn(LATER);
    assert_eq!(stage.told, []);
    // And while it answers, what is said of its end is about another one.
    let mut stage = published(1);
    stage.turn(LED_FOR_LONG);
    ended(&mut stage, 0, 'a');
    stage.turn(LATER);
    assert_eq!(stage.told, []);
}

#[test]
fn the_agent_that_began_it_may_die_before_it_has_told_a_node() {
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    stage.obeys = |_, _| {};
    ended(&mut stage, 0, 'a');
    assert!(stage.record().claims.hastened.is_some());
    stage.agents.remove(0);
    (stage.told, stage.obeys) = (Vec::new(), obey);
    stage.turn(HASTE_LEFT_TO_ONE_MS as usize / STEP_MS as usize);
    assert_eq!(stage.told, [], "it may be about to tell them");
    stage.turn(2);
    assert_eq!(kinds(&stage)["node-timeout"], 5, "{:?}", commands(&stage));
    assert!(stage.told.iter().all(|(by, _)| by == "agent-1"));
}

/// An operator takes it out of service.
fn keep_out(stage: &mut Stage, name: char) {
    let nodes = format!("{{\"{}\": \"no\"}}", id(name).as_str());
    stage.put(&format!("{}maintenance", layout().root()), &nodes);
}

/// An agent that hears late that it is over takes no node for one that was never told.
#[test]
fn a_node_that_was_told_once_is_not_hurried_again_when_it_waits_as_before() {
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    ended(&mut stage, 0, 'a');
    stage.turn(2);
    assert_eq!(kinds(&stage)["node-timeout"], 5, "{:?}", commands(&stage));
    // Another one has put it back, and Consul has not said so yet.
    stage.told.clear();
    stage.cluster.node('e').timeout_ms = Some(5_000);
    stage.turn(12);
    assert!(!stage.record().claims.hastened.expect("it goes on").over);
    assert_eq!(stage.told, []);
}

/// What speaks against it is said.
#[test]
fn the_kernel_s_word_hurries_no_node_where_something_speaks_against_it() {
    let left = |change: fn(&mut Stage), why: &str| {
        let mut stage = published(1);
        stage.turn(LED_FOR_LONG);
        change(&mut stage);
        stage.turn(1);
        stage.cluster.node('a').answers = false;
        ended(&mut stage, 0, 'a');
        stage.turn(AT_ONCE);
        assert_eq!(
            (&stage.told[..], stage.said(0, why)),
            (&[][..], 1),
            "{:?}",
            stage.agents[0].said
        );
    };
    left(|stage| keep_out(stage, 'a'), "it is in maintenance");
    left(|stage| keep_out(stage, 'd'), "no replica of it answers");
    left(|stage| stage.cluster.node('d').answers = false, "no replica of it answers");
    let moving = |stage: &mut Stage| {
        stage.cluster.say(&['b'], 'b', |line| line.slots.push_str(" [5461->-x]"));
    };
    left(moving, "slots are moving");
    // The operator has switched it off.
    let off = ClusterDuties { hasten: false, ..ALL };
    let mut stage = stage(Cluster::healthy(), 1, off);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    ended(&mut stage, 0, 'a');
    stage.turn(LATER);
    assert_eq!(stage.told, []);
}

/// `consul-redis pause`.
#[test]
fn a_paused_cluster_is_published_and_its_nodes_are_told_nothing() {
    let key = layout().pause();
    let at = |ms: u64| jiff::Timestamp::from_millisecond(1_700_000_000_000 + ms as i64).unwrap();
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    // One was left with what it was told for a moment.
    stage.cluster.node('f').timeout_ms = Some(500);
    let (since, until) = (at(stage.now), at(stage.now + 60_000));
    let pause = format!(r#"{{"since": "{since}", "by": "root@h1", "until": "{until}"}}"#);
    stage.put(&key, &pause);
    stage.turn(2);
    dies(&mut stage.cluster);
    stage.turn(AT_ONCE);
    stage.cluster.d_is_elected();
    stage.turn(40_000 / STEP_MS as usize);
    assert_eq!(stage.told, [], "{:?}", commands(&stage));
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    let shown = stage.shown(0);
    assert!(shown.problems.iter().any(|p| p.text.contains("paused since")), "{shown:#?}");
    assert_eq!(shown.problems.iter().filter(|p| p.text.contains("paused")).count(), 1);
    assert!(shown.pause.is_some_and(|pause| pause.by.as_deref() == Some("root@h1")));
    // It ends by itself, and what was left undone is done.
    stage.turn(60_000 / STEP_MS as usize);
    assert!(stage.told.iter().any(|(_, order)| order.id == id('f')), "{:?}", commands(&stage));
    assert_eq!(stage.said(0, "the pause is over"), 1);
    assert_eq!(stage.shown(0).pause, None);
    // The key stays as it is through writes of agents, and what cannot be read is a pause, too.
    assert_eq!(stage.value_of(&key), pause);
    stage.put(&key, "?");
    stage.turn(2);
    assert!(stage.shown(0).pause.is_some());
}

#[test]
fn a_pause_in_the_middle_of_a_hastened_election_has_the_nodes_wait_as_before() {
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    ended(&mut stage, 0, 'a');
    stage.turn(1);
    assert_eq!(kinds(&stage)["node-timeout"], 5, "{:?}", commands(&stage));
    stage.put(&layout().pause(), r#"{"since": "2023-11-14T22:13:20Z", "by": "root@h1"}"#);
    stage.turn(AT_ONCE);
    for name in ['b', 'c', 'd', 'e', 'f'] {
        assert_eq!(stage.cluster.0[&name].timeout_ms, Some(5_000), "{:?}", commands(&stage));
    }
    stage.told.clear();
    stage.turn(LATER);
    assert_eq!(stage.told, []);
}

/// For the agents' metrics.
#[test]
fn of_each_death_one_agent_counts_what_became_of_it() {
    let proven = DeathSign::Proven(ProofKind::Process);
    let mut stage = published(2);
    stage.turn(LED_FOR_LONG);
    stage.cluster.node('a').answers = false;
    let began = stage.now;
    ended(&mut stage, 1, 'a');
    stage.turn(2);
    assert_eq!(stage.agents[1].died, [(proven, Aftermath::Voting)]);
    stage.cluster.dies('a');
    stage.cluster.d_is_elected();
    stage.turn(AT_ONCE);
    let [_, (sign, Aftermath::Replaced(ms))] = stage.agents[1].died[..] else {
        panic!("{:?}", stage.agents[1].died);
    };
    assert_eq!(sign, proven);
    assert!((1..=stage.now - began).contains(&ms), "{ms} ms");
    assert_eq!(stage.agents[0].died, [], "the one that began it counts it");
    // It is back, and has its slots.
    let mut stage = published(1);
    stage.turn(LED_FOR_LONG);
    dies(&mut stage.cluster);
    stage.turn(3);
    stage.cluster.node('a').answers = true;
    stage.turn(AT_ONCE);
    let refused = |aftermath| (DeathSign::Refused, aftermath);
    let died = &stage.agents[0].died;
    assert_eq!(*died, [refused(Aftermath::Voting), refused(Aftermath::Stayed)]);
}

/// Once, however long it lasts.
#[test]
fn of_a_death_that_is_left_to_the_nodes_own_pace_it_is_counted_why() {
    let counted = |duties: ClusterDuties, change: fn(&mut Stage)| {
        let mut stage = stage(Cluster::healthy(), 1, duties);
        stage.turn(LED_FOR_LONG);
        change(&mut stage);
        stage.turn(1);
        stage.cluster.node('a').answers = false;
        ended(&mut stage, 0, 'a');
        stage.turn(LATER);
        let [(_, Aftermath::Left(why))] = stage.agents[0].died[..] else {
            panic!("{:?}", stage.agents[0].died);
        };
        why
    };
    assert_eq!(counted(ALL, |stage| keep_out(stage, 'a')), "maintenance");
    assert_eq!(counted(ALL, |stage| stage.cluster.node('d').answers = false), "no-replica");
    assert_eq!(counted(ALL, |stage| stage.cluster.node('c').timeout_ms = None), "timeout-unknown");
    let off = ClusterDuties { hasten: false, ..ALL };
    assert_eq!(counted(off, |_| {}), "switched-off");
    // The next one is another death.
    let mut stage = stage(Cluster::healthy(), 1, off);
    stage.turn(LED_FOR_LONG);
    for _ in 0..2 {
        stage.cluster.node('a').answers = false;
        ended(&mut stage, 0, 'a');
        stage.turn(AT_ONCE);
        stage.cluster.node('a').answers = true;
        stage.turn(AT_ONCE);
    }
    assert_eq!(stage.agents[0].died.len(), 2, "{:?}", stage.agents[0].died);
}

/// A primary that is started again by its service manager again and again.
#[test]
fn nodes_are_hurried_for_one_owner_once_in_four_times_what_they_wait_for() {
    let mut stage = published(1);
    stage.turn(LED_FOR_LONG);
    for _ in 0..2 {
        stage.cluster.node('a').answers = false;
        ended(&mut stage, 0, 'a');
        stage.turn(1);
        stage.cluster.node('a').answers = true;
        stage.turn(AT_ONCE);
    }
    assert_eq!(kinds(&stage)["node-timeout"], 10, "{:?}", commands(&stage));
    assert_eq!(stage.said(0, "they were told to hurry for it"), 1);
    stage.turn(21_000 / STEP_MS as usize);
    stage.cluster.node('a').answers = false;
    ended(&mut stage, 0, 'a');
    assert_eq!(kinds(&stage)["node-timeout"], 15, "{:?}", commands(&stage));
}

#[test]
fn it_is_over_after_5_s_where_no_replica_is_elected_and_when_the_owner_answers() {
    for back in [false, true] {
        let mut stage = published(1);
        stage.turn(LED_FOR_LONG);
        dies(&mut stage.cluster);
        stage.turn(3);
        assert_eq!(kinds(&stage)["node-timeout"], 5);
        if back {
            stage.cluster.node('a').answers = true;
            stage.turn(AT_ONCE);
        } else {
            stage.turn(5_000 / STEP_MS as usize + AT_ONCE);
        }
        assert_eq!(kinds(&stage)["node-timeout"], 10, "{:?}", commands(&stage));
        assert_eq!(stage.cluster.0[&'b'].timeout_ms, Some(5_000));
        let claims = stage.record().claims;
        assert_eq!(back, claims.is_none(), "{claims:?}");
        assert!(back || claims.hastened.unwrap().is_past());
    }
}

/// It was cut off for longer than it is told again, or what was recorded is gone.
#[test]
fn a_node_that_was_left_with_the_moment_s_timeout_waits_as_most_others_do_again() {
    let mut stage = published(1);
    stage.cluster.node('e').timeout_ms = Some(500);
    stage.turn(29_000 / STEP_MS as usize);
    assert_eq!(stage.told, [], "another agent may have begun something");
    stage.turn(3_000 / STEP_MS as usize);
    assert_eq!(commands(&stage), ["e: CONFIG SET cluster-node-timeout 5000"]);
    // Where there is no such thing as what most have, or they have that very one, it stays.
    for change in [
        |cluster: &mut Cluster| {
            for (name, ms) in [('a', 1_000), ('b', 1_000), ('c', 2_000), ('e', 500), ('f', 500)] {
                cluster.node(name).timeout_ms = Some(ms);
            }
        },
        |cluster: &mut Cluster| {
            for name in ['a', 'b', 'c', 'e'] {
                cluster.node(name).timeout_ms = Some(500);
            }
        },
    ] {
        let mut stage = published(1);
        change(&mut stage.cluster);
        stage.turn(40_000 / STEP_MS as usize);
        assert_eq!(stage.told, []);
    }
}

#[test]
fn what_is_no_certain_death_is_left_to_the_nodes_own_pace() {
    let left = |change: fn(&mut Cluster)| {
        let mut stage = published(1);
        stage.turn(LED_FOR_LONG);
        dies(&mut stage.cluster);
        change(&mut stage.cluster);
        stage.turn(LATER);
        assert_eq!(stage.told, []);
        stage
    };
    // b still has a link.
    left(|cluster| cluster.say(&['b'], 'a', |line| line.link = "connected"));
    // So has its replica.
    left(|cluster| cluster.node('d').link = Some(link_to('a', true, Some(1))));
    // No replica could take its place.
    left(|cluster| cluster.node('d').answers = false);
    // Slots are moving.
    let moving =
        left(|cluster| cluster.say(&['b'], 'b', |line| line.slots.push_str(" [5461->-x]")));
    assert_eq!(moving.said(0, "slots are moving"), 1, "{:?}", moving.agents[0].said);
    let unknown = left(|cluster| cluster.node('c').timeout_ms = None);
    assert_eq!(unknown.said(0, "does not say its cluster-node-timeout"), 1);
    // It has had its slots for less than four times the timeout.
    let mut stage = published(1);
    dies(&mut stage.cluster);
    stage.turn(AT_ONCE);
    assert_eq!((stage.told.len(), stage.said(0, "has had it for")), (0, 1));
    // And one that is silent.
    let mut stage = published(1);
    stage.turn(LED_FOR_LONG);
    dies(&mut stage.cluster);
    stage.deafen(0, "a", consul_redis_core::cluster::renewal::NoAnswer::Silent);
    stage.turn(LATER);
    assert_eq!(stage.told, []);
}

/// b answers at another address, and no other node finds it.
fn moved(cluster: &mut Cluster, flags: &str) -> Node {
    let others: Vec<char> = NODES.into_iter().filter(|name| *name != 'b').collect();
    cluster.say(&others, 'b', |line| {
        (line.flags, line.link) = (flags.to_owned(), "disconnected");
    });
    let mut node = cluster.0.remove(&'b').expect("b");
    node.state_ok = false;
    for name in ['a', 'c', 'd', 'e', 'f'] {
        let line = node.table.get_mut(&name).expect("a line");
        line.link = "disconnected";
        line.flags.push_str(",fail?");
    }
    node
}

#[test]
fn a_member_at_another_address_is_met_again_by_its_id() {
    let mut stage = published(1);
    let node = moved(&mut stage.cluster, "master,fail?");
    let there: Address = "10.0.9.9:6379".parse().unwrap();
    let text = {
        let mut alone = Cluster::healthy();
        *alone.node('b') = node;
        alone.readings().remove(&at('b')).unwrap()
    };
    stage.obeys = |_, _| {};
    stage.others.insert(there.clone(), text);
    let mut seeds = NODES.map(at).to_vec();
    seeds.push(there.clone());
    stage.seed(&seeds);
    stage.turn(AT_ONCE);
    let met: BTreeSet<String> = stage
        .told
        .iter()
        .map(|(_, order)| {
            let NodeCommand::Meet(met) = &order.command else { panic!("{order:?}") };
            assert!(met.id != id('b') || met.address == there, "{order:?}");
            format!("{}{}", name_of(&order.id), name_of(&met.id))
        })
        .collect();
    // Where b is known to be: the others have it for dead where it was. It finds them where they are, when they meet it.
    let wanted = ["ab", "cb", "db", "eb", "fb"];
    assert_eq!(met, wanted.map(str::to_owned).into_iter().collect(), "{:?}", commands(&stage));
}

/// Each pair of nodes by each agent would be many messages.
#[test]
fn one_agent_has_members_meet_and_another_one_where_that_one_does_not() {
    let mut stage = published(3);
    for agent in ["agent-0", "agent-1", "agent-2"] {
        stage.put(&layout().agent(agent), "{}");
    }
    stage.turn(AT_ONCE);
    let old = consul_redis_core::cluster::judgement::ReplicaLink {
        up: false,
        heard_s: None,
        primary: Some("10.0.7.7:6379".parse().unwrap()),
    };
    let others = stage.agents.split_off(1);
    let first = std::mem::replace(&mut stage.agents, others);
    stage.cluster.node('d').link = Some(old.clone());
    stage.obeys = |_, _| {};
    stage.turn(9_000 / STEP_MS as usize);
    assert_eq!(stage.told, [], "they leave it to agent-0, which is there, and does nothing");
    stage.turn(4_000 / STEP_MS as usize);
    let by: BTreeSet<&str> = stage.told.iter().map(|(by, _)| by.as_str()).collect();
    assert_eq!(by, BTreeSet::from(["agent-1"]));
    // It is back, and the first to see it.
    stage.told.clear();
    drop(stage.agents.splice(0..0, first));
    stage.cluster.node('d').link = Some(link_to('a', true, Some(1)));
    stage.turn(LATER);
    stage.cluster.node('d').link = Some(old);
    stage.turn(AT_ONCE);
    let by: BTreeSet<&str> = stage.told.iter().map(|(by, _)| by.as_str()).collect();
    assert_eq!(by, BTreeSet::from(["agent-0"]));
}

#[test]
fn a_replica_that_follows_an_old_address_is_told_to_follow_the_same_node() {
    let mut stage = published(1);
    let old = consul_redis_core::cluster::judgement::ReplicaLink {
        up: false,
        heard_s: None,
        primary: Some("10.0.7.7:6379".parse().unwrap()),
    };
    stage.cluster.node('d').link = Some(old);
    stage.turn(AT_ONCE);
    assert_eq!(commands(&stage), [format!("d: CLUSTER REPLICATE {}", id('a'))]);
    // Where the link to the right host is down, it is not told anything: the port may be that of TLS.
    let mut stage = published(1);
    let mut other_port = link_to('a', false, None);
    other_port.primary = Some("10.0.0.1:6380".parse().unwrap());
    stage.cluster.node('d').link = Some(other_port);
    stage.turn(AT_ONCE);
    assert_eq!(stage.told, []);
    let mut stage = published(1);
    stage.cluster.node('d').link = Some(link_to('a', false, None));
    stage.turn(AT_ONCE);
    assert_eq!(stage.told, []);
}

#[test]
fn a_dead_replica_is_forgotten_by_all_others_after_a_while_and_joins_again_when_it_returns() {
    let mut stage = published(2);
    stage.cluster.dies('f');
    stage.cluster.say(&NODES, 'f', |line| line.flags = "slave,fail".to_owned());
    let table = stage.cluster.0[&'f'].table.clone();
    stage.turn(50_000 / STEP_MS as usize);
    assert_eq!(stage.told, []);
    stage.turn(12_000 / STEP_MS as usize);
    assert_eq!(kinds(&stage), BTreeMap::from([("forget", 5)]), "{:?}", commands(&stage));
    let record = stage.record();
    assert!(!record.nodes.contains_key(&id('f')) && record.claims.left.contains_key(&id('f')));
    let f = stage.cluster.node('f');
    (f.answers, f.table) = (true, table);
    stage.cluster.say(&['f'], 'f', |line| *line = Line::replica('c', 3));
    // No seed leads to it, nor any table.
    stage.seed(&[at('a'), at('b')]);
    stage.turn(40_000 / STEP_MS as usize);
    assert_eq!(stage.told.len(), 5, "{:?}", commands(&stage));
    stage.turn(30_000 / STEP_MS as usize);
    let kinds = kinds(&stage);
    assert_eq!(kinds["meet"], 1, "{:?}", commands(&stage));
    assert!(stage.record().claims.is_none(), "{:?}", stage.record().claims);
    assert!(stage.named("orders-replica").contains(&at('f').to_string()), "{:#?}", stage.record());
    assert_eq!(stage.tags("orders-replica", 'f'), ["shard-3"]);
}

/// Slots may be moving to the dead one, or from what it followed.
#[test]
fn no_dead_member_is_forgotten_while_slots_move() {
    let mut stage = published(1);
    stage.cluster.dies('f');
    stage.cluster.say(&NODES, 'f', |line| line.flags = "slave,fail".to_owned());
    stage.cluster.say(&['b'], 'b', |line| line.slots.push_str(" [5461->-x]"));
    stage.turn(80_000 / STEP_MS as usize);
    assert_eq!(stage.told, []);
    stage.cluster.say(&['b'], 'b', |line| line.slots = line.slots.replace(" [5461->-x]", ""));
    stage.turn(15_000 / STEP_MS as usize);
    assert_eq!(kinds(&stage), BTreeMap::from([("forget", 5)]), "{:?}", commands(&stage));
}

/// A node of another cluster has its address, so that the others have none of it any more, and ping it no more.
#[test]
fn a_dead_replica_of_which_the_others_have_no_address_is_forgotten_like_any_other() {
    let mut stage = published(1);
    another_answers_at(&mut stage, 'f');
    stage.turn(50_000 / STEP_MS as usize);
    assert_eq!(stage.told, []);
    stage.turn(15_000 / STEP_MS as usize);
    assert_eq!(kinds(&stage), BTreeMap::from([("forget", 5)]), "{:?}", commands(&stage));
    assert!(stage.record().claims.left.contains_key(&id('f')));
}

/// c was away when the others were told, and is back with what it knew.
#[test]
fn a_member_that_one_gives_back_that_was_away_is_forgotten_again_while_it_is_dead() {
    let mut stage = published(1);
    stage.cluster.dies('f');
    stage.cluster.say(&NODES, 'f', |line| line.flags = "slave,fail".to_owned());
    let line = stage.cluster.0[&'c'].table[&'f'].clone();
    stage.turn(65_000 / STEP_MS as usize);
    assert!(stage.record().claims.left.contains_key(&id('f')), "{:?}", commands(&stage));
    stage.told.clear();
    stage.cluster.node('c').table.insert('f', line.clone());
    stage.turn(AT_ONCE);
    assert_eq!(commands(&stage), [format!("c: CLUSTER FORGET {}", id('f'))]);
    assert!(!stage.cluster.0[&'c'].table.contains_key(&'f'));
    // Not where it lives for one of them, or answers.
    stage.told.clear();
    stage.cluster.node('c').table.insert('f', line.clone());
    stage.cluster.node('b').table.insert('f', Line::replica('c', 3));
    stage.turn(LATER);
    assert_eq!(stage.told, []);
    stage.cluster.node('b').table.remove(&'f');
    stage.cluster.node('f').answers = true;
    stage.turn(AT_ONCE);
    assert_eq!(kinds(&stage).get("forget"), None, "{:?}", commands(&stage));
}

/// One of the others was away when they were told; the simulation of clusters found it.
#[test]
fn a_member_that_was_forgotten_is_no_stranger_when_it_is_back_and_owns_slots() {
    let mut stage = published(1);
    stage.cluster.dies('d');
    stage.cluster.say(&NODES, 'd', |line| line.flags = "slave,fail".to_owned());
    stage.turn(70_000 / STEP_MS as usize);
    assert!(stage.record().claims.left.contains_key(&id('d')), "{:?}", commands(&stage));
    // The others know it again, and have elected it.
    let lines = Cluster::healthy().0[&'b'].table.clone();
    for name in NODES {
        stage.cluster.node(name).table.clone_from(&lines);
    }
    stage.cluster.node('d').answers = true;
    stage.cluster.dies('a');
    stage.cluster.d_is_elected();
    stage.turn(LATER);
    assert_eq!(stage.named("orders-primary"), ats("bcd"), "{:?}", stage.agents[0].said);
    assert_eq!(stage.said(0, "nothing enters the names"), 0, "{:?}", stage.agents[0].said);
}

#[test]
fn an_owner_of_slots_or_a_primary_that_is_followed_is_not_forgotten() {
    let mut stage = published(1);
    stage.cluster.dies('a');
    stage.cluster.say(&NODES, 'a', |line| line.flags = "master,fail".to_owned());
    stage.turn(100_000 / STEP_MS as usize);
    assert_eq!(kinds(&stage).get("forget"), None, "{:?}", commands(&stage));
    // d has its slots, and e still follows it.
    stage.cluster.d_is_elected();
    stage.cluster.say(&['e'], 'e', |line| *line = Line::replica('a', 1));
    stage.turn(100_000 / STEP_MS as usize);
    assert_eq!(kinds(&stage).get("forget"), None, "{:?}", commands(&stage));
    stage.cluster.say(&['e'], 'e', |line| *line = Line::replica('b', 1));
    stage.turn(100_000 / STEP_MS as usize);
    assert!(kinds(&stage).contains_key("forget"), "{:?}", commands(&stage));
}

#[test]
fn what_is_told_in_vain_is_told_again_with_pauses_and_not_where_consul_may_hold_something_else() {
    let mut stage = stage(blank(), 1, ALL);
    stage.obeys = |_, _| {};
    while stage.told.is_empty() {
        stage.turn(1);
    }
    let first = stage.told.len();
    assert_eq!(first, 3, "{:?}", commands(&stage));
    stage.turn(TOLD_AGAIN_MS as usize / STEP_MS as usize - 1);
    assert_eq!(stage.told.len(), first);
    stage.turn(2);
    assert_eq!(stage.told.len(), 2 * first);
    assert_eq!(SLOTS_OF.len(), first);
    stage.hand_in(0, ClusterInput::ConsulSilent);
}
