//! What is shown of a Redis Cluster, and its history in Consul.

use std::collections::BTreeMap;

use consul_redis_core::cluster::claims::{Begun, Hastened};
use consul_redis_core::cluster::history::{ClusterChange, changes_of};
use consul_redis_core::cluster::record::{ClusterRecord, ClusterStore, StoredCluster};
use consul_redis_core::cluster::renewal::NoAnswer;
use consul_redis_core::cluster::rows::plain_after;
use consul_redis_core::cluster::shown::{
    AgentHears, ClusterProblemCode, ClusterStatus, cluster_status,
};
use consul_redis_core::cluster::slots::{SLOTS, in_words};
use consul_redis_core::known::observed::RowsAnswer;
use consul_redis_core::published::projection::Layout;
use jiff::Timestamp;

use crate::cluster::{NODES, at, id};
use crate::cluster_names::{Stage, policy};

/// Long enough for whatever agents do at once.
const AT_ONCE: usize = 4;
/// Long enough for all that takes time.
const LATER: usize = 60;

fn watched(store: &ClusterStore) -> ClusterStore {
    let mut store = store.clone();
    store.plain.insert("agents/agent-0".to_owned(), "{}".to_owned());
    store
}

fn status(stage: &Stage) -> ClusterStatus {
    cluster_status(&policy("agent-0"), Some(&watched(&stage.store())), None, None)
}

fn codes(status: &ClusterStatus) -> Vec<ClusterProblemCode> {
    status.problems.iter().map(|problem| problem.code).collect()
}

fn history(stage: &Stage) -> Vec<ClusterChange> {
    changes_of(&stage.store())
}

#[test]
fn a_healthy_cluster_is_shown_with_its_shards_and_no_problem() {
    let shown = status(&Stage::published());
    assert_eq!((shown.healthy, shown.degraded, codes(&shown)), (true, false, Vec::new()));
    assert_eq!(
        (shown.name.as_str(), shown.slots_served, shown.voters),
        ("orders.service.consul", SLOTS, 3)
    );
    assert_eq!(shown.shards.len(), 3);
    let first = &shown.shards[0];
    assert_eq!(
        (first.shard, &first.primary, &first.replicas[..]),
        (1, &Some(at('a')), &[at('d')][..])
    );
    assert_eq!(
        (shown.generation, shown.by.as_deref(), shown.voters_answering),
        (1, Some("agent-0"), None)
    );
}

fn moves(stage: &Stage) -> Vec<(String, String, String)> {
    let shown = status(stage).migrations.into_iter();
    shown.map(|one| (in_words(&one.slots), one.from, one.to)).collect()
}

fn opens(stage: &mut Stage, node: char, slots: &str) {
    stage.cluster_mut().say(&[node], node, |line| line.slots.push_str(slots));
}

/// Each of the two has it in its own row alone; one is enough, and in Valkey a replica has what its primary has.
#[test]
fn slots_that_move_are_recorded_and_shown_and_are_no_change_of_the_cluster() {
    let mut stage = Stage::published_by(2);
    let (b, c) = (id('b'), id('c'));
    let (b, c) = (b.as_str(), c.as_str());
    opens(&mut stage, 'b', &format!(" [5461->-{c}] [5462->-{c}] [7000->-{c}]"));
    opens(&mut stage, 'c', &format!(" [5461-<-{b}] [9-<-{}]", id('a').as_str()));
    opens(&mut stage, 'e', &format!(" [5461->-{c}]"));
    stage.turn(LATER);
    let (a, b, c) = (at('a').to_string(), at('b').to_string(), at('c').to_string());
    let first = ("9".to_owned(), a, c.clone());
    assert_eq!(moves(&stage), [first, ("5461-5462 7000".to_owned(), b, c)]);
    let shown = status(&stage);
    assert_eq!((shown.healthy, shown.degraded, shown.generation), (true, false, 1));
    assert_eq!((stage.kept.writes.len(), history(&stage).len()), (1, 1));
    for node in ['b', 'c', 'e'] {
        stage.cluster_mut().say(&[node], node, |line| {
            line.slots.truncate(line.slots.find('[').unwrap());
        });
    }
    stage.turn(LATER);
    assert_eq!((moves(&stage), stage.kept.writes.len()), (Vec::new(), 2));
}

/// Else the two would write in turn.
#[test]
fn an_agent_that_does_not_hear_one_of_the_two_leaves_recorded_what_moves() {
    let mut stage = Stage::published_by(2);
    let c = id('c');
    opens(&mut stage, 'b', &format!(" [5461->-{}]", c.as_str()));
    stage.turn(LATER);
    stage.kept.writes.clear();
    stage.deafen(1, "b", NoAnswer::Silent);
    stage.turn(LATER);
    assert_eq!(moves(&stage).len(), 1);
    // That b does not answer one of them may be written once, and put back by the other one.
    let writes = stage.kept.writes.len();
    assert!(writes <= 2, "{:?}", stage.kept.writes);
    stage.turn(LATER);
    assert_eq!((moves(&stage).len(), stage.kept.writes.len()), (1, writes));
    // It is dead for the cluster, too, and what it gave away moves no more.
    stage.cluster_mut().dies('b');
    for name in NODES {
        stage.cluster_mut().say(&[name], 'b', |line| line.flags = "master,fail".to_owned());
    }
    stage.turn(LATER);
    assert_eq!(moves(&stage), []);
}

/// 2 while slots are not served, 3 while only a node is missing.
#[test]
fn a_dead_primary_is_unhealthy_until_it_is_replaced_and_degraded_until_it_is_back() {
    let mut stage = Stage::published();
    stage.cluster_mut().dies('a');
    stage.turn(1);
    let shown = status(&stage);
    assert!(!shown.healthy && !shown.degraded, "{shown:#?}");
    assert_eq!(codes(&shown)[0], ClusterProblemCode::SlotsUnserved);
    assert!(shown.problems[0].text.contains("shard 1 (0-5460)"), "{:?}", shown.problems);
    let [dead] = &shown.unfit[..] else { panic!("{shown:#?}") };
    assert_eq!((&dead.address, dead.why.as_str()), (&at('a'), "cannot connect: refused"));
    stage.cluster_mut().d_is_elected();
    stage.turn(1);
    let shown = status(&stage);
    assert!(shown.healthy && shown.degraded, "{shown:#?}");
    assert_eq!(codes(&shown), [ClusterProblemCode::NodesUnfit, ClusterProblemCode::NoReplica]);
}

#[test]
fn what_is_not_known_is_said_as_such() {
    let unread = cluster_status(&policy("agent-0"), None, None, None);
    assert_eq!(
        (unread.consul_read, codes(&unread)),
        (false, vec![ClusterProblemCode::ConsulUnread])
    );
    let stage = Stage::published();
    let unwatched = cluster_status(&policy("agent-0"), Some(&stage.store()), None, None);
    assert_eq!(codes(&unwatched), [ClusterProblemCode::NoAgents]);
    let mut store = watched(&stage.store());
    store.state = StoredCluster::Absent;
    let absent = cluster_status(&policy("agent-0"), Some(&store), None, None);
    assert_eq!(codes(&absent), [ClusterProblemCode::NothingPublished]);
    store.state = StoredCluster::Unreadable("its version is 9".to_owned());
    let newer = cluster_status(&policy("agent-0"), Some(&store), None, None);
    assert_eq!(codes(&newer), [ClusterProblemCode::StateUnreadable]);
}

#[test]
fn rows_that_another_program_changed_are_drift() {
    let stage = Stage::published();
    let (store, mut rows) = (watched(&stage.store()), stage.rows());
    let shown =
        |rows: &RowsAnswer| cluster_status(&policy("agent-0"), Some(&store), Some(rows), None);
    assert_eq!(codes(&shown(&rows)), []);
    let found = rows.found.as_mut().expect("rows");
    found.services.pop_first();
    assert_eq!(codes(&shown(&rows)), [ClusterProblemCode::Drift]);
}

#[test]
fn an_agent_shows_what_it_hears_and_why_it_holds_back() {
    let stage = Stage::published();
    let held = "nothing enters the names: were two clusters merged?".to_owned();
    let hears = AgentHears { answering: 2, held: Some(held.clone()), left_undone: None };
    let shown = cluster_status(&policy("agent-7"), Some(&stage.store()), None, Some(&hears));
    assert_eq!((shown.voters_answering, &shown.agents[..]), (Some(2), &["agent-7".to_owned()][..]));
    assert_eq!((codes(&shown), &shown.problems[0].text), (vec![ClusterProblemCode::Held], &held));
    let loop_shows = stage.shown(0);
    assert_eq!((loop_shows.voters_answering, loop_shows.healthy), (Some(3), true));
}

/// Every change is in it once, with the agent that wrote it, whichever that was.
#[test]
fn each_change_is_in_the_history_with_its_generation_agent_and_nodes() {
    let mut stage = Stage::published_by(2);
    let [first] = &history(&stage)[..] else { panic!("{:#?}", history(&stage)) };
    assert_eq!((first.generation, first.slots_served, first.what.len()), (1, SLOTS, 6));
    stage.cluster_mut().dies('a');
    stage.turn(AT_ONCE);
    stage.cluster_mut().d_is_elected();
    stage.turn(AT_ONCE);
    let record = stage.record();
    let all = history(&stage);
    let generations: Vec<u64> = all.iter().map(|change| change.generation).collect();
    let wanted: Vec<u64> = (1..=record.generation).rev().collect();
    assert_eq!(generations, wanted);
    assert_eq!((&all[0].by, all[0].at), (&record.by, record.since));
    let leaves = &all[all.len() - 2];
    assert_eq!(leaves.slots_served, SLOTS - 5_461);
    assert!(leaves.what[0].contains("primary of shard 1, leaves"), "{leaves:?}");
    assert!(all[0].what.iter().any(|line| line.ends_with("is primary of shard 1")), "{all:#?}");
}

/// When the others were told to hurry stands beside the change that came of it, and beside no other.
#[test]
fn an_election_that_was_hastened_says_since_when() {
    let stage = Stage::published();
    let mut after = stage.record();
    after.generation += 1;
    let at = Timestamp::from_millisecond(1_700_000_000_700).expect("a time");
    let begun = Begun { by: "agent-0".to_owned(), at };
    let (dead, evidence, waited_ms) = (id('a'), "process".to_owned(), BTreeMap::new());
    after.claims.hastened =
        Some(Hastened { begun, dead, evidence, pid: Some(7), waited_ms, over: false });
    let last = |after: &ClusterRecord| {
        let plain = plain_after(Some(&stage.store()), after);
        let all: Vec<ClusterChange> = serde_json::from_str(&plain["history"]).expect("a history");
        all[0].hastened.zip(all[0].evidence.clone())
    };
    assert_eq!(last(&after), None, "it owns its slots still");
    after.shards.get_mut(&1).expect("a shard").owner = id('d');
    assert_eq!(last(&after), Some((at, "process".to_owned())));
}

/// A node that comes and goes for days neither fills Consul nor loses what was last.
#[test]
fn the_history_is_bounded_and_keeps_the_last() {
    let mut stage = Stage::published();
    for _ in 0..40 {
        stage.cluster_mut().node('f').state_ok = false;
        stage.turn(AT_ONCE);
        stage.cluster_mut().node('f').state_ok = true;
        stage.turn(AT_ONCE);
    }
    let (record, all) = (stage.record(), history(&stage));
    assert!(record.generation > 60, "{}", record.generation);
    assert_eq!((all.len(), all[0].generation), (50, record.generation));
    let key = Layout::of_cluster("redis-ha", &record.cluster).history();
    assert!(stage.value_of(&key).len() <= 32 * 1024);
}

/// Where `state` was deleted so that agents begin anew, what was before stays told.
#[test]
fn a_damaged_history_begins_anew_and_a_deleted_state_keeps_it() {
    let mut stage = Stage::published();
    let layout = Layout::of_cluster("redis-ha", &stage.record().cluster);
    stage.delete(&layout.state());
    stage.turn(60);
    let generations: Vec<u64> = history(&stage).iter().map(|change| change.generation).collect();
    assert_eq!(generations, [2, 1]);
    stage.put(&layout.history(), "[{\"generation\": \"x\"}]");
    stage.turn(1);
    stage.cluster_mut().dies('e');
    stage.turn(AT_ONCE);
    let generations: Vec<u64> = history(&stage).iter().map(|change| change.generation).collect();
    assert_eq!(generations, [3]);
}
