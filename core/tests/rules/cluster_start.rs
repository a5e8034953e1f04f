//! Whether a node may be started as it is, and whether a shard may be moved.

use std::collections::BTreeMap;

use consul_redis_core::cluster::judgement::{NodeReadings, judge};
use consul_redis_core::cluster::record::{ClusterRecord, ClusterRole, IN_MAINTENANCE};
use consul_redis_core::cluster::shard_move::{MovedShard, WantedMove, prepare_shard};
use consul_redis_core::cluster::start::{
    ReplPosition, StartWait, StoppedNode, StoredData, may_start,
};
use consul_redis_core::cluster::table::{NodeId, Table};
use consul_redis_core::identity::ids::ReplId;
use consul_redis_core::time::after;

use crate::cluster::{Cluster, at, id, link_to};
use crate::cluster_names::{AT_ONCE, Stage};

/// A cluster as it was published, and the file that each of its nodes has.
fn published() -> (ClusterRecord, Cluster) {
    let mut stage = Stage::new(Cluster::healthy(), 1);
    stage.turn(AT_ONCE);
    (stage.record(), Cluster::healthy())
}

fn file(cluster: &Cluster, node: char) -> Table {
    cluster.readings()[&at(node)].as_ref().expect("an answer").table.clone()
}

/// What those answer that are left.
fn others(cluster: &Cluster, but: &str) -> NodeReadings {
    let mut readings = cluster.readings();
    but.chars().for_each(|node| drop(readings.remove(&at(node))));
    readings
}

/// d leads in a's place.
fn replaced(record: &mut ClusterRecord) {
    record.shards.get_mut(&1).expect("a shard").owner = id('d');
    let d = record.nodes.get_mut(&id('d')).expect("a node");
    (d.role, d.primary) = (Some(ClusterRole::Primary), None);
}

fn why(
    cluster: &Cluster,
    node: char,
    has_data: bool,
    record: Option<Option<&ClusterRecord>>,
    others: &NodeReadings,
) -> Option<String> {
    let data = if has_data { StoredData::Writes } else { StoredData::None };
    wait(cluster, node, &data, record, others, &BTreeMap::new()).map(|wait| wait.why)
}

fn wait(
    cluster: &Cluster,
    node: char,
    data: &StoredData,
    record: Option<Option<&ClusterRecord>>,
    others: &NodeReadings,
    positions: &BTreeMap<NodeId, ReplPosition>,
) -> Option<StartWait> {
    let file = file(cluster, node);
    may_start(&StoppedNode { file: &file, data, record, others, positions }).err()
}

fn position(history: &str, offset: u64) -> ReplPosition {
    ReplPosition { history: ReplId(history.to_owned()), offset }
}

/// What an operator took out of service takes no shard over.
#[test]
fn a_shard_is_moved_to_no_replica_in_maintenance() {
    let (mut record, cluster) = published();
    let readings = cluster.readings();
    let judged = judge(&readings).expect("a majority");
    let target = |record: &ClusterRecord| {
        let now = after(record.since, 3_600_000);
        let wanted = WantedMove { shard: MovedShard::Numbered(1), to: None, forced: false };
        prepare_shard(record, &judged, &readings, wanted, now).1.map(|made| made.to.1)
    };
    assert_eq!(target(&record), Some(at('d')));
    let d = record.nodes.get_mut(&id('d')).expect("a node");
    (d.fit, d.why) = (false, Some(IN_MAINTENANCE.to_owned()));
    assert_eq!(target(&record), None);
}

#[test]
fn a_replica_and_an_owner_that_still_owns_its_slots_with_its_data_are_started() {
    let (record, cluster) = published();
    let none = NodeReadings::new();
    assert_eq!(why(&cluster, 'd', false, None, &none), None);
    assert_eq!(why(&cluster, 'a', true, Some(Some(&record)), &none), None);
    assert_eq!(why(&cluster, 'a', true, None, &others(&cluster, "a")), None);
    // No agent has ever published it.
    assert_eq!(why(&cluster, 'a', true, Some(None), &none), None);
    assert_eq!(why(&cluster, 'a', false, Some(None), &none), None);
}

#[test]
fn an_owner_without_its_data_waits_for_its_replica_to_own_its_slots_and_one_without_replicas_does_not()
 {
    let (mut record, mut cluster) = published();
    let said = why(&cluster, 'a', false, Some(Some(&record)), &others(&cluster, "a")).unwrap();
    assert!(said.contains("owns slots 0-5460 and has no data"), "{said}");
    let file = cluster.clone();
    cluster.dies('a');
    cluster.d_is_elected();
    assert_eq!(why(&file, 'a', false, Some(Some(&record)), &others(&cluster, "a")), None);
    record.nodes.remove(&id('d'));
    assert_eq!(why(&file, 'a', false, Some(Some(&record)), &NodeReadings::new()), None);
}

#[test]
fn an_owner_whose_snapshot_is_older_than_what_its_replica_has_waits_for_the_replica_to_own_its_slots()
 {
    let (record, mut cluster) = published();
    let file = cluster.clone();
    cluster.dies('a');
    let living = others(&cluster, "a");
    let waits = |end: Option<ReplPosition>, its: Option<ReplPosition>, others: &NodeReadings| {
        let positions = its.map(|its| (id('d'), its)).into_iter().collect();
        let data = StoredData::Snapshot(end);
        wait(&file, 'a', &data, Some(Some(&record)), others, &positions)
    };
    let said = waits(Some(position("h", 70)), Some(position("h", 71)), &living).unwrap();
    assert!(said.for_election && said.why.contains("has a snapshot alone"), "{said:?}");
    // It was stopped, and has saved all of it; or its replica has copied nothing.
    assert_eq!(waits(Some(position("h", 70)), Some(position("h", 70)), &living), None);
    assert_eq!(waits(Some(position("h", 70)), Some(position("other", 0)), &living), None);
    // Where it is not known which of them has more, the one that has run on is taken for that.
    for (end, its) in [
        (Some(position("h", 70)), Some(position("other", 7))),
        (None, Some(position("h", 7))),
        (Some(position("h", 70)), None),
    ] {
        assert!(waits(end.clone(), its.clone(), &living).is_some(), "{end:?} {its:?}");
    }
    // Without its replica, or without votes for it, there will be no election.
    for gone in ["ad", "ab", "abcd"] {
        let left = others(&cluster, gone);
        assert_eq!(waits(None, Some(position("h", 7)), &left), None, "{gone}");
    }
    let data = StoredData::Writes;
    assert_eq!(wait(&file, 'a', &data, Some(Some(&record)), &living, &BTreeMap::new()), None);
    cluster.d_is_elected();
    assert_eq!(waits(None, None, &others(&cluster, "a")), None);
}

#[test]
fn an_election_that_may_never_come_is_waited_for_and_an_answer_that_must_come_is_waited_for_longer()
{
    let (mut record, cluster) = published();
    let none = (NodeReadings::new(), BTreeMap::new());
    let waits = |data: StoredData, record: Option<Option<&ClusterRecord>>| {
        wait(&cluster, 'a', &data, record, &none.0, &none.1).unwrap().for_election
    };
    assert!(waits(StoredData::None, Some(Some(&record))));
    assert!(waits(StoredData::None, None));
    assert!(!waits(StoredData::Writes, None));
    replaced(&mut record);
    assert!(!waits(StoredData::None, Some(Some(&record))));
}

#[test]
fn an_owner_that_was_replaced_waits_for_a_node_that_answers() {
    let (mut record, cluster) = published();
    replaced(&mut record);
    let none = NodeReadings::new();
    for has_data in [true, false] {
        let said = why(&cluster, 'a', has_data, Some(Some(&record)), &none).unwrap();
        assert!(said.contains("was replaced"), "{said}");
        assert_eq!(
            why(&cluster, 'a', has_data, Some(Some(&record)), &others(&cluster, "abc")),
            None
        );
    }
}

/// All addresses have changed, and another cluster has one of the old ones.
#[test]
fn what_answers_at_an_old_address_of_theirs_and_is_of_another_cluster_says_nothing() {
    let (record, cluster) = published();
    let text =
        format!("{} {}@1 myself,master - 0 0 9 connected 0-16383\n", id('9').as_str(), at('b'));
    let table = Table::parse(&text).expect("a table");
    let foreign = NodeReadings::from([(at('b'), Ok(crate::cluster::bare(table, true)))]);
    assert_eq!(why(&cluster, 'a', true, Some(Some(&record)), &foreign), None);
}

#[test]
fn where_neither_consul_nor_another_node_says_who_owns_its_slots_it_is_not_started() {
    let (record, cluster) = published();
    let said = why(&cluster, 'a', true, None, &NodeReadings::new()).unwrap();
    assert!(said.contains("neither Consul nor another node says"), "{said}");
    // Another cluster's record says nothing of it.
    let mut other = record;
    other.nodes.clear();
    assert!(why(&cluster, 'a', true, Some(Some(&other)), &NodeReadings::new()).is_some());
}

#[test]
fn a_shard_moves_to_a_replica_that_can_take_requests_and_not_soon_after_its_last_change() {
    let (record, mut cluster) = published();
    let since = record.shards[&1].since.unwrap();
    let prepared = |cluster: &Cluster, moved: MovedShard<'_>, to: Option<char>, later_ms: i64| {
        let readings = cluster.readings();
        let judged = judge(&readings).unwrap();
        let to = to.map(at);
        let now = after(since, later_ms);
        let wanted = WantedMove { shard: moved, to: to.as_ref(), forced: false };
        let (checks, plan) = prepare_shard(&record, &judged, &readings, wanted, now);
        let wrong: Vec<String> = checks.into_iter().filter_map(|check| check.found.err()).collect();
        (wrong.join("; "), plan)
    };
    let first = MovedShard::Numbered(1);
    let (wrong, plan) = prepared(&cluster, first, None, 20_000);
    assert_eq!(wrong, "");
    let plan = plan.unwrap();
    assert_eq!((plan.from, plan.to, plan.epoch), ((id('a'), at('a')), (id('d'), at('d')), 1));
    let here = at('a');
    assert_eq!(prepared(&cluster, MovedShard::OwnedAt(&here), Some('d'), 20_000).0, "");
    for (moved, to, later_ms, words) in [
        (first, None, 19_000, "again after 20 s, four times cluster-node-timeout"),
        (first, Some('e'), 20_000, "10.0.0.5:6379 is no replica of this shard"),
        (MovedShard::Numbered(4), None, 20_000, "no such shard: there are 1, 2, 3"),
    ] {
        let (wrong, plan) = prepared(&cluster, moved, to, later_ms);
        assert!(wrong.contains(words) && plan.is_none(), "{wrong}");
    }
    cluster.say(&['b'], 'b', |line| line.slots.push_str(" [5461->-x]"));
    assert!(
        prepared(&cluster, first, None, 20_000)
            .0
            .contains("slots are moving from or to 10.0.0.2:6379")
    );
    cluster.dies('d');
    assert!(
        prepared(&cluster, first, None, 20_000)
            .0
            .contains("no replica of this shard can take requests")
    );
    cluster.dies('a');
    assert!(prepared(&cluster, first, None, 20_000).0.contains("cannot take requests"));
}

/// Only where the owner gives no answer, and by the operator's word: what the replica has not copied is lost.
#[test]
fn a_shard_is_forced_away_from_a_dead_owner_alone() {
    let (record, mut cluster) = published();
    let now = after(record.shards[&1].since.unwrap(), 60_000);
    let prepared = |cluster: &Cluster, forced: bool| {
        let readings = cluster.readings();
        let judged = judge(&readings).unwrap();
        let wanted = WantedMove { shard: MovedShard::Numbered(1), to: None, forced };
        let (checks, plan) = prepare_shard(&record, &judged, &readings, wanted, now);
        let wrong: Vec<String> = checks.into_iter().filter_map(|check| check.found.err()).collect();
        (wrong.join("; "), plan)
    };
    let (wrong, plan) = prepared(&cluster, true);
    assert!(wrong.contains("answers: without force, nothing is lost") && plan.is_none(), "{wrong}");
    cluster.dies('a');
    cluster.node('d').link = Some(link_to('a', false, Some(7)));
    assert!(prepared(&cluster, false).0.contains("cannot take requests"));
    let (wrong, plan) = prepared(&cluster, true);
    let plan = plan.unwrap_or_else(|| panic!("{wrong}"));
    assert_eq!((plan.from, plan.to), ((id('a'), at('a')), (id('d'), at('d'))));
    assert!(plan.forced);
}
