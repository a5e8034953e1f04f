//! Zones: where agents say that their hosts stand, and what a Redis Cluster makes of it.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::cluster::make::{BlankNode, plan};
use consul_redis_core::cluster::record::{AnnouncedNode, ClusterRecord, ClusterRole};
use consul_redis_core::cluster::renewal::ClusterPolicy;
use consul_redis_core::cluster::table::NodeId;
use consul_redis_core::cluster::wanted::ClusterDuties;
use consul_redis_core::cluster::watch::ClusterLoop;
use consul_redis_core::identity::address::{Address, Zone};
use proptest::prelude::*;

use crate::cluster::{Cluster, NODES, at};
use crate::cluster_duties::{ALL, blank, blank_node, obey};
use crate::cluster_names::{LATER, Stage, layout, policy};

fn zone(name: &str) -> Zone {
    name.parse().expect("a zone")
}

/// An agent stands beside a node, on a host of its own.
fn announce(stage: &mut Stage, node: char, zone_of: Option<&str>) {
    let host = format!("host-{node}");
    stage.put(&layout().agent(&host), "{}");
    let node = (AnnouncedNode { agent: host.clone(), host, zone: zone_of.map(zone) }, at(node));
    let key = format!("{}nodes/{}", layout().root(), node.1);
    stage.put(&key, &serde_json::to_string(&node.0).expect("JSON"));
}

/// Each node in the zone of this letter.
fn announce_all(stage: &mut Stage, nodes: &str, zones: &str) {
    for (node, zone) in nodes.chars().zip(zones.chars()) {
        announce(stage, node, Some(&zone.to_string()));
    }
}

fn zone_of(record: &ClusterRecord, node: char) -> Option<&str> {
    let found = record.nodes.values().find(|found| found.address == at(node));
    found.expect("a member").zone.as_ref().map(Zone::as_str)
}

/// Blank nodes that no agent has been told of yet.
fn nothing_yet(duties: ClusterDuties) -> Stage {
    let mut stage = Stage::with_duties(blank(), 1, duties);
    stage.obeys = obey;
    stage
}

#[test]
fn a_cluster_is_made_over_zones_and_its_rows_say_where_each_node_is() {
    let mut stage = nothing_yet(ALL);
    announce_all(&mut stage, "abcdef", "xxyyzz");
    stage.seed(&NODES.map(at));
    stage.turn(LATER);
    let record = stage.record();
    assert_eq!(stage.named("orders").len(), 6);
    let in_zones = |fits: &dyn Fn(u32, ClusterRole) -> bool| {
        let nodes =
            record.nodes.values().filter(|node| fits(node.shard.unwrap(), node.role.unwrap()));
        nodes.map(|node| node.zone.clone().expect("a zone")).collect::<BTreeSet<Zone>>()
    };
    let led = in_zones(&|_, role| role == ClusterRole::Primary);
    assert_eq!(led, ["x", "y", "z"].map(zone).into());
    for number in record.shards.keys() {
        assert_eq!(in_zones(&|shard, _| shard == *number).len(), 2, "{record:#?}");
    }
    let shown = stage.shown(0);
    for (node, in_zone) in NODES.into_iter().zip("xxyyzz".chars()) {
        let in_zone = in_zone.to_string();
        let tags = stage.tags("orders", node);
        assert_eq!(tags.last(), Some(&format!("zone-{in_zone}")), "{tags:?}");
        assert_eq!(shown.zones.get(&at(node)), Some(&zone(&in_zone)));
        let rows = &stage.kept.rows.as_ref().unwrap().services;
        assert_eq!(rows[&format!("orders:{}", at(node))].meta["zone"], in_zone);
    }
    let primary = record.nodes.values().find(|node| node.role == Some(ClusterRole::Primary));
    let primary = &primary.unwrap().address;
    let rows = &stage.kept.rows.as_ref().unwrap().services;
    assert_eq!(rows[&format!("orders-primary:{primary}")].tags.len(), 2, "the shard and the zone");
}

/// It is made once: an agent that comes a moment later has a zone, too.
#[test]
fn no_cluster_is_made_before_all_zones_are_known_where_one_is() {
    let mut stage = nothing_yet(ALL);
    announce_all(&mut stage, "abcde", "xxyyz");
    stage.seed(&NODES.map(at));
    stage.turn(LATER);
    let words = format!("no agent says in which zone {} is", at('f'));
    assert_eq!((stage.told.len(), stage.said(0, &words)), (0, 1), "{:?}", stage.agents[0].said);
    announce(&mut stage, 'f', Some("z"));
    stage.turn(LATER);
    assert_eq!(stage.named("orders").len(), 6);
}

#[test]
fn an_agent_in_a_zone_waits_for_the_zones_of_all_nodes() {
    let mut stage = nothing_yet(ALL);
    let own = ClusterPolicy { zone: Some(zone("x")), duties: ALL, ..policy("agent-0") };
    stage.agents[0].machine = ClusterLoop::new(own);
    stage.seed(&NODES.map(at));
    stage.turn(LATER);
    assert_eq!((stage.told.len(), stage.said(0, "no agent says in which zone")), (0, 1));
    announce_all(&mut stage, "abcdef", "xyzxyz");
    stage.turn(LATER);
    assert_eq!(stage.named("orders").len(), 6);
}

fn published(zones: &str, duties: ClusterDuties) -> Stage {
    let mut stage = Stage::with_duties(Cluster::healthy(), 1, duties);
    stage.obeys = obey;
    announce_all(&mut stage, "abcdef", zones);
    stage.seed(&NODES.map(at));
    stage.turn(LATER);
    assert_eq!((stage.named("orders").len(), stage.told.len()), (6, 0));
    stage
}

#[test]
fn a_node_joins_a_shard_that_is_led_in_another_zone_and_has_no_node_in_its_own() {
    // Shard 1 is led in x, shard 2 has its replica there.
    let mut stage = published("xyzyxy", ALL);
    stage.cluster.0.insert('9', blank_node('9'));
    announce(&mut stage, '9', Some("x"));
    stage.turn(LATER);
    assert_eq!(stage.tags("orders-replica", '9'), ["shard-3", "zone-x"]);
}

#[test]
fn of_several_spares_the_one_in_another_zone_than_the_primary_joins() {
    let duties = ClusterDuties { replicas_max: Some(1), ..ALL };
    let mut stage = published("xyzyxy", duties);
    // Shard 1 has lost its replica for good.
    stage.cluster.0.remove(&'d');
    for node in stage.cluster.0.values_mut() {
        node.table.remove(&'d');
    }
    for (spare, zone) in [('7', "x"), ('8', "y")] {
        stage.cluster.0.insert(spare, blank_node(spare));
        announce(&mut stage, spare, Some(zone));
    }
    stage.turn(LATER);
    assert_eq!(stage.tags("orders-replica", '8'), ["shard-1", "zone-y"]);
    assert!(!stage.named("orders").contains(&at('7').to_string()));
}

/// What an agent has said of a node's address holds until an agent says something else of it.
#[test]
fn a_zone_is_recorded_when_it_is_said_and_kept_while_no_agent_says_anything() {
    let mut stage = Stage::published();
    let state = layout().state();
    assert!(!stage.value_of(&state).contains("zone"), "as agents of before write it");
    let before = stage.record().generation;
    announce(&mut stage, 'a', Some("x"));
    stage.turn(LATER);
    let record = stage.record();
    assert_eq!((zone_of(&record, 'a'), zone_of(&record, 'b')), (Some("x"), None));
    assert_eq!(record.generation, before + 1);
    assert!(record.why.ends_with("is in zone x"), "{}", record.why);
    assert_eq!(stage.tags("orders-primary", 'a'), ["shard-1", "zone-x"]);
    stage.delete(&format!("{}nodes/{}", layout().root(), at('a')));
    stage.turn(LATER);
    assert_eq!(zone_of(&stage.record(), 'a'), Some("x"));
    // An agent of before, or one without a zone.
    let key = format!("{}nodes/{}", layout().root(), at('a'));
    stage.put(&key, r#"{"agent": "host-a", "host": "host-a"}"#);
    stage.turn(LATER);
    assert_eq!(zone_of(&stage.record(), 'a'), None);
    assert_eq!(stage.tags("orders-primary", 'a'), ["shard-1"]);
}

/// How many nodes each zone has, each on a host of its own.
fn zones() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..6, 2..6)
}

proptest! {
    /// Where no zone has more nodes than there are shards, and there is a zone for each node of a shard and one more.
    #[test]
    fn a_plan_has_no_two_nodes_of_a_shard_in_one_zone_where_there_is_room(
        zones in zones(), shards in 1_usize..7
    ) {
        let nodes: Vec<BlankNode> = zones.iter().enumerate().flat_map(|(in_zone, count)| {
            (0..*count).map(move |n| BlankNode {
                zone: Some(zone(&format!("z{in_zone}"))),
                host: format!("host-{in_zone}-{n}"),
                address: format!("10.0.{in_zone}.{n}:6379").parse().unwrap(),
                id: NodeId::parse(&format!("{:040x}", in_zone * 100 + n)).unwrap(),
            })
        }).collect();
        prop_assume!(nodes.len() >= shards);
        let planned = plan(&nodes, shards);
        let zone_of: BTreeMap<&Address, &Option<Zone>> =
            nodes.iter().map(|node| (&node.address, &node.zone)).collect();
        let led: BTreeSet<&Option<Zone>> =
            planned.iter().map(|shard| zone_of[&shard.primary.address]).collect();
        prop_assert_eq!(led.len(), zones.len().min(shards), "{:?}", planned);
        let most = nodes.len().div_ceil(shards);
        if zones.len() > most && *zones.iter().max().unwrap() <= shards {
            for shard in &planned {
                let of = shard.replicas.iter().chain([&shard.primary]);
                let of: BTreeSet<&Option<Zone>> = of.map(|node| zone_of[&node.address]).collect();
                prop_assert_eq!(of.len(), shard.replicas.len() + 1, "{:?}", planned);
            }
        }
    }
}
