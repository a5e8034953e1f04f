//! What `doctor` finds of a Redis Cluster: each finding on a cluster that has that fault, and none on a healthy one.

use std::collections::BTreeMap;

use consul_redis_core::cluster::claims::{Begun, Hastened};
use consul_redis_core::cluster::judgement::NodeReadings;
use consul_redis_core::cluster::record::{ClusterStore, StoredCluster};
use consul_redis_core::cluster::shown::cluster_status;
use consul_redis_core::doctor::{
    ClusterFacts, Finding, FindingCode, NodeFacts, ReadFields, diagnose_cluster,
};
use consul_redis_core::identity::address::Address;

use crate::cluster::{Cluster, Line, NODES, SLOTS_OF, at, id};
use crate::cluster_names::{Stage, policy};

/// What `doctor` reads of a cluster.
pub(crate) struct ClusterWorld {
    cluster: Cluster,
    store: ClusterStore,
    nodes: BTreeMap<Address, NodeFacts>,
    /// Nodes that are elsewhere than [`at`].
    moved: BTreeMap<char, Address>,
}

type ClusterFault = fn(&mut ClusterWorld);

fn node_facts() -> NodeFacts {
    let pairs = [
        ("cluster-node-timeout", "5000"),
        ("cluster-require-full-coverage", "no"),
        ("cluster-allow-reads-when-down", "no"),
        ("min-replicas-to-write", "0"),
        ("save", "3600 1"),
        ("appendonly", "no"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let info = ReadFields::from([("redis_version".to_owned(), "7.0.15".to_owned())]);
    NodeFacts { config: Ok(pairs.map(owned).into()), info: Ok(info), death_unseen: None }
}

impl ClusterWorld {
    fn healthy() -> Self {
        let mut store = Stage::published().store();
        for agent in ["agents/agent-0", "agents/agent-1"] {
            store.plain.insert(agent.to_owned(), "{}".to_owned());
        }
        let nodes = NODES.map(|name| (at(name), node_facts())).into();
        Self { cluster: Cluster::healthy(), store, nodes, moved: BTreeMap::new() }
    }

    fn set(&mut self, name: char, setting: &str, value: &str) {
        let node = self.nodes.get_mut(&at(name)).expect("a node");
        node.config.as_mut().expect("read").insert(setting.to_owned(), value.to_owned());
    }

    fn set_all(&mut self, setting: &str, value: &str) {
        NODES.into_iter().for_each(|name| self.set(name, setting, value));
    }

    /// The nodes from a on are in the zones of these letters.
    fn zones(&mut self, zones: &str) {
        let StoredCluster::Known(record) = &mut self.store.state else { panic!("a record") };
        for (name, zone) in NODES.into_iter().zip(zones.chars()) {
            let node = record.nodes.get_mut(&id(name)).expect("a member");
            node.zone = Some(zone.to_string().parse().expect("a zone"));
        }
    }

    /// It is dead, and all others call it failing.
    fn fails(&mut self, name: char) {
        self.cluster.dies(name);
        self.cluster.say(&NODES, name, |line| line.flags.push_str(",fail"));
        self.nodes.remove(&at(name));
    }

    fn readings(&self) -> NodeReadings {
        let mut readings = self.cluster.readings();
        for (name, to) in &self.moved {
            for answer in readings.values_mut().flatten() {
                if let Some(row) = answer.table.rows.get_mut(&id(*name)) {
                    row.address = Some(to.clone());
                }
            }
            let own = readings.remove(&at(*name)).expect("a node");
            readings.insert(to.clone(), own);
        }
        readings
    }

    fn findings(&self) -> Vec<Finding> {
        let readings = self.readings();
        let status = cluster_status(&policy("agent-0"), Some(&self.store), None, None);
        let (record, nodes) = (self.store.record(), self.nodes.clone());
        diagnose_cluster(&ClusterFacts { status: &status, record, readings: &readings, nodes })
    }
}

const FAULTS: &[(FindingCode, ClusterFault)] = &[
    (FindingCode::ClusterNodeTimeout, |w| w.set_all("cluster-node-timeout", "15000")),
    (FindingCode::ClusterHasteLeft, |w| w.set('e', "cluster-node-timeout", "500")),
    (FindingCode::ClusterFullCoverage, |w| w.set_all("cluster-require-full-coverage", "yes")),
    (FindingCode::ClusterReadsWhenDown, |w| w.set('e', "cluster-allow-reads-when-down", "yes")),
    (FindingCode::ClusterMinReplicas, |w| w.set('b', "min-replicas-to-write", "1")),
    (FindingCode::ClusterPersistenceOff, |w| w.set('c', "save", "")),
    (FindingCode::ClusterOneHost, |w| {
        w.moved.insert('d', "10.0.0.1:6380".parse().expect("an address"));
    }),
    (FindingCode::ClusterOneZone, |w| w.zones("xyzxzy")),
    (FindingCode::ClusterNoReplica, |w| w.fails('d')),
    (FindingCode::ClusterNodeSilent, |w| w.cluster.node('d').answers = false),
    (FindingCode::ClusterGhost, |w| {
        for name in ['a', 'b', 'c', 'd', 'e'] {
            w.cluster.node(name).table.remove(&'f');
        }
    }),
    (FindingCode::ClusterStranger, |w| {
        for name in NODES {
            w.cluster.node(name).table.insert('1', Line::primary(0, ""));
        }
    }),
    (FindingCode::ClusterNotForgotten, |w| {
        w.fails('d');
        let node = w.nodes.get_mut(&at('e')).expect("a node");
        let info = node.info.as_mut().expect("read");
        info.insert("valkey_version".to_owned(), "9.0.1".to_owned());
    }),
    (FindingCode::ClusterSelfPromoted, |w| {
        w.fails('a');
        w.cluster.say(&['d'], 'd', |line| *line = Line::primary(7, SLOTS_OF[0]));
        w.cluster.say(&['d'], 'a', |line| line.slots.clear());
        w.cluster.node('d').link = None;
    }),
    (FindingCode::ClusterUnelectable, |w| {
        w.fails('a');
        for name in ['b', 'c', 'e', 'f'] {
            w.cluster.node(name).table.remove(&'a');
        }
    }),
    (FindingCode::ClusterNoMajority, |w| {
        w.fails('b');
        w.fails('c');
    }),
    (FindingCode::ClusterDegraded, |w| {
        let StoredCluster::Known(record) = &mut w.store.state else { panic!("a record") };
        let node = record.nodes.get_mut(&id('f')).expect("a node");
        (node.fit, node.why) = (false, Some("it answers `LOADING`".to_owned()));
    }),
];

/// The codes that are tested here.
pub(crate) fn tested() -> impl Iterator<Item = FindingCode> {
    FAULTS.iter().map(|(code, _)| *code)
}

/// Its shard is without a replica, where a replica is what fails.
fn besides(code: FindingCode) -> Vec<FindingCode> {
    match code {
        FindingCode::ClusterNodeSilent
        | FindingCode::ClusterGhost
        | FindingCode::ClusterNotForgotten
        | FindingCode::ClusterSelfPromoted => vec![FindingCode::ClusterNoReplica],
        // A node in no name, and the shard that has no replica by that.
        FindingCode::ClusterDegraded => vec![FindingCode::ClusterDegraded],
        _ => Vec::new(),
    }
}

fn codes(findings: &[Finding]) -> Vec<FindingCode> {
    findings.iter().map(|finding| finding.code).collect()
}

fn only(fault: ClusterFault, code: FindingCode) -> Finding {
    let mut world = ClusterWorld::healthy();
    fault(&mut world);
    let found = world.findings().into_iter().find(|finding| finding.code == code);
    found.unwrap_or_else(|| panic!("{code} is not found"))
}

fn fault(code: FindingCode) -> ClusterFault {
    FAULTS.iter().find(|(of, _)| *of == code).expect("a fault").1
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    assert_eq!(ClusterWorld::healthy().findings(), []);
}

#[test]
fn each_fault_of_a_cluster_is_found_and_nothing_else_is() {
    let mut wrong = String::new();
    for (code, fault) in FAULTS {
        let mut world = ClusterWorld::healthy();
        fault(&mut world);
        let findings = world.findings();
        let mut wanted = vec![*code];
        wanted.extend(besides(*code));
        let mut found = codes(&findings);
        wanted.sort_by_key(|code| (code.severity(), *code));
        found.sort_by_key(|code| (code.severity(), *code));
        if found != wanted {
            wrong.push_str(&format!("{code}: {findings:#?}\n"));
        }
        for finding in &findings {
            assert!(!finding.evidence.is_empty() && finding.mend.len() > 10, "{finding:#?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What only a person can decide is told as the command, with the node that it is for.
#[test]
fn what_a_person_has_to_decide_is_named_with_its_command() {
    let code = FindingCode::ClusterSelfPromoted;
    let found = only(fault(code), code);
    assert!(found.mend.contains("redis-cli -h 10.0.0.4 -p 6379 CLUSTER BUMPEPOCH"), "{found:#?}");
    let code = FindingCode::ClusterUnelectable;
    let found = only(fault(code), code);
    let takeover = "redis-cli -h 10.0.0.4 -p 6379 CLUSTER FAILOVER TAKEOVER";
    assert!(found.mend.contains(takeover) && found.text.contains("0-5460"), "{found:#?}");
}

/// A replaced primary that is back and has not heard of it says the same, and finds out by itself.
#[test]
fn a_replaced_primary_is_not_taken_for_one_that_promoted_itself() {
    let mut world = ClusterWorld::healthy();
    world.cluster.d_is_elected();
    let codes = codes(&world.findings());
    assert!(!codes.contains(&FindingCode::ClusterSelfPromoted), "{codes:?}");
}

/// Doctor's exchange parts both shards, and there is none to be found where it would not.
#[test]
fn a_shard_in_one_zone_is_told_with_whom_to_change_places() {
    let code = FindingCode::ClusterOneZone;
    // e follows b, which is in another zone than d.
    let mut world = ClusterWorld::healthy();
    world.zones("xyzxzy");
    let findings = world.findings();
    assert_eq!(codes(&findings), [code]);
    let replicate = |at: &str, of: char| {
        format!("redis-cli -h 10.0.0.{at} -p 6379 CLUSTER REPLICATE {}", id(of).as_str())
    };
    let wanted = format!("{}; then {}", replicate("5", 'a'), replicate("4", 'b'));
    assert_eq!(findings[0].mend, wanted);
    assert!(findings[0].text.contains("in zone x: when that zone is gone"), "{findings:#?}");
    // All others are there, too; it is in two; or the other shard would be in one then.
    for zones in ["xxxxxx", "xyzyzx", "xxxxyz"] {
        world.zones(zones);
        assert_eq!(world.findings(), [], "{zones}");
    }
    world.zones("xyzxzy");
    let StoredCluster::Known(record) = &mut world.store.state else { panic!("a record") };
    record.nodes.get_mut(&id('d')).expect("a member").zone = None;
    assert_eq!(world.findings(), []);
}

/// The same of several nodes is one finding, with the command for each.
#[test]
fn a_setting_of_all_nodes_is_one_finding() {
    let code = FindingCode::ClusterNodeTimeout;
    let found = only(fault(code), code);
    assert_eq!((found.evidence.len(), found.mend.matches("CONFIG SET").count()), (6, 6));
}

/// Where an operator wants it so, or an election is hastened, a short one is no fault.
#[test]
fn a_short_node_timeout_is_a_fault_where_most_others_have_a_longer_one_for_good() {
    let code = FindingCode::ClusterHasteLeft;
    let found = only(fault(code), code);
    assert!(found.mend.contains("-h 10.0.0.5 -p 6379 CONFIG SET cluster-node-timeout 5000"));
    let mut world = ClusterWorld::healthy();
    world.set_all("cluster-node-timeout", "500");
    assert_eq!(world.findings(), []);
    let mut world = ClusterWorld::healthy();
    fault(code)(&mut world);
    let StoredCluster::Known(record) = &mut world.store.state else { panic!("a record") };
    let begun = Begun { by: "agent-0".to_owned(), at: record.since };
    let (dead, evidence) = (id('a'), "refused".to_owned());
    let waited_ms = BTreeMap::from([(id('e'), 5_000)]);
    record.claims.hastened =
        Some(Hastened { begun, dead, evidence, pid: None, waited_ms, over: false });
    assert_eq!(world.findings(), []);
}

/// A setting that cannot be read is no fault.
#[test]
fn what_a_node_does_not_tell_is_said_and_not_guessed() {
    let mut world = ClusterWorld::healthy();
    world.nodes.get_mut(&at('a')).expect("a node").config = Err("NOPERM".to_owned());
    assert_eq!(codes(&world.findings()), [FindingCode::Unread]);
}

#[test]
fn agents_that_are_missing_are_said() {
    let mut world = ClusterWorld::healthy();
    world.store.plain.remove("agents/agent-1");
    assert_eq!(codes(&world.findings()), [FindingCode::OneAgent]);
    world.store.plain.remove("agents/agent-0");
    assert_eq!(codes(&world.findings()), [FindingCode::NoAgents]);
}

#[test]
fn a_node_of_this_host_whose_end_would_not_be_seen_is_found() {
    let mut world = ClusterWorld::healthy();
    let why = "process 7, which it names, is none of those that this agent sees";
    world.nodes.get_mut(&at('a')).expect("a node").death_unseen = Some(why.to_owned());
    let found = world.findings();
    assert_eq!(codes(&found), [FindingCode::DeathUnseen]);
    let evidence = format!("{:?}", found[0].evidence);
    assert!(evidence.contains(why) && found[0].text.contains("10.0.0.1:6379"), "{found:?}");
}
