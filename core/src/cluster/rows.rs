//! From a cluster's record to everything that Consul shows of it, and the operations that lead there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::history::{HISTORY, appended};
use super::record::{ClusterRecord, ClusterRole, ClusterStore, MAINTENANCE, NodeRecord};
use super::slots::SlotRange;
use super::table::NodeId;
use crate::identity::address::{Address, Zone};
use crate::published::pause::PAUSE;
use crate::published::projection::{
    Op, Projection, Rows, ServiceRow, TXN_OPS_MAX, Weights, marked_node, plain_changes,
    row_changes, row_meta,
};
use crate::published::store::{AGENTS, Layout, SHARDS, shard_dir};

/// Longest value of a row's metadata: Consul's own bound.
const META_LEN_MAX: usize = 512;

/// Everything Consul is to show of `record`: two rows for each node that can take requests, and none for the others. A
/// shard has keys once it has a member.
pub fn project(record: &ClusterRecord) -> Projection {
    let node = marked_node(None, Some(&record.prefix), &record.cluster);
    let mut rows = Rows { node, services: BTreeMap::new(), checks: BTreeMap::new() };
    for (id, node) in &record.nodes {
        let Some((role, shard)) = node.serves() else { continue };
        let named = match role {
            ClusterRole::Primary => record.service.primary(),
            ClusterRole::Replica => record.service.replica(),
        };
        let mut tags = vec![format!("shard-{shard}")];
        tags.extend(node.zone.as_ref().map(Zone::tag));
        let all = [vec![role.as_str().to_owned()], tags.clone()].concat();
        for (service, tags) in [(record.service.to_string(), all), (named, tags)] {
            let key = format!("{service}:{}", node.address);
            rows.services.insert(key, row(record, id, node, service, tags));
        }
    }
    Projection { plain: plain_keys(record), rows }
}

fn row(
    record: &ClusterRecord,
    id: &NodeId,
    node: &NodeRecord,
    service: String,
    tags: Vec<String>,
) -> ServiceRow {
    let shard = node.shard.and_then(|shard| record.shards.get(&shard));
    let slots = shard.map(|shard| shard.slots.as_slice()).unwrap_or_default();
    let mut meta = row_meta(&record.cluster);
    let more = [
        ("node", id.as_str().to_owned()),
        ("slots", in_meta(slots)),
        ("epoch", node.epoch.to_string()),
        ("generation", node.generation.to_string()),
    ];
    meta.extend(more.map(|(key, value)| (key.to_owned(), value)));
    meta.extend(node.zone.as_ref().map(Zone::meta));
    let (address, port) = (node.address.host().to_owned(), node.address.port());
    ServiceRow { service, address, port, tags, meta, weights: Weights::default() }
}

/// As many of the ranges as there is room for.
fn in_meta(slots: &[SlotRange]) -> String {
    const MORE: &str = " ...";
    let mut text = String::new();
    for range in slots {
        let next = format!("{}{range}", if text.is_empty() { "" } else { " " });
        if text.len() + next.len() + MORE.len() > META_LEN_MAX {
            text.push_str(MORE);
            break;
        }
        text.push_str(&next);
    }
    text
}

/// The keys that templates and scripts read.
fn plain_keys(record: &ClusterRecord) -> BTreeMap<String, String> {
    let lines = |addresses: &mut dyn Iterator<Item = &Address>| {
        let sorted: BTreeSet<&Address> = addresses.collect();
        sorted.into_iter().map(|address| format!("{address}\n")).collect::<String>()
    };
    let fit = |node: &&NodeRecord| node.serves().is_some();
    let seeds = lines(&mut record.nodes.values().filter(fit).map(|node| &node.address));
    let mut ranges: Vec<(SlotRange, String)> = Vec::new();
    let mut plain = BTreeMap::from([("seeds".to_owned(), seeds)]);
    let with_members: BTreeSet<u32> = record.nodes.values().filter_map(|node| node.shard).collect();
    for (number, shard) in &record.shards {
        let primary = record.serving(*number, ClusterRole::Primary).next();
        let named = primary.map(ToString::to_string);
        let shown = named.clone().unwrap_or_else(|| "-".to_owned());
        ranges.extend(shard.slots.iter().map(|range| (*range, shown.clone())));
        if with_members.contains(number) {
            let dir = shard_dir(&number.to_string());
            plain.insert(format!("{dir}primary"), named.unwrap_or_default());
            let replicas = lines(&mut record.serving(*number, ClusterRole::Replica));
            plain.insert(format!("{dir}replicas"), replicas);
        }
    }
    ranges.sort();
    let mut slots = String::new();
    for (range, primary) in ranges {
        let _ = writeln!(slots, "{}-{} {primary}", range.first(), range.last());
    }
    plain.insert("slots".to_owned(), slots);
    plain
}

/// The plain keys once `record` is written where `before` was read, the history with them, and those that are not the
/// record's: of agents, and operators' words.
pub fn plain_after(
    before: Option<&ClusterStore>,
    record: &ClusterRecord,
) -> BTreeMap<String, String> {
    let mut plain = project(record).plain;
    let others = before.into_iter().flat_map(|store| &store.plain);
    let operators = |name: &str| name == MAINTENANCE || name == PAUSE;
    let others = others.filter(|(name, _)| name.starts_with(AGENTS) || operators(name));
    plain.extend(others.map(|(name, value)| (name.clone(), value.clone())));
    let kept = before.and_then(|store| store.plain.get(HISTORY));
    let history = appended(kept, before.and_then(ClusterStore::record), record);
    plain.extend(history.or_else(|| kept.cloned()).map(|text| (HISTORY.to_owned(), text)));
    plain
}

/// What Consul holds of a cluster before a write.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// What is on its node; `None` when there is no node.
    pub rows: Option<&'a Rows>,
    /// Its plain keys.
    pub plain: &'a BTreeMap<String, String>,
    /// There is no record that the rows would belong to: all of them go first.
    pub leftovers: bool,
}

/// The operations that lead from what was found to what the record implies, without `state`.
pub fn ops_to(layout: &Layout, found: &Found<'_>, record: &ClusterRecord) -> Vec<Op> {
    let to = project(record);
    let mut ops = Vec::new();
    let node = layout.node();
    let base = found.rows.filter(|_| !found.leftovers);
    if found.leftovers && found.rows.is_some() {
        ops.push(Op::NodeDelete { node: node.clone() });
    }
    ops.extend(row_changes(&node, base, &to.rows));
    let gone: BTreeSet<&str> = found
        .plain
        .keys()
        .filter(|name| !to.plain.contains_key(*name))
        .filter_map(|name| name.strip_prefix(SHARDS)?.split('/').next())
        .collect();
    let gone = gone.into_iter().map(|shard| format!("{}{}", layout.root(), shard_dir(shard)));
    ops.extend(gone.map(|prefix| Op::KeyDeleteTree { prefix }));
    ops.extend(plain_changes(layout, found.plain, &to.plain));
    ops
}

/// As much of the way to `wanted` as one transaction has room for: nodes leave the names first, then primaries enter,
/// then replicas. The record of that, and the operations besides `state`, the history's with them; `None` where there is
/// no room for any.
pub fn step(
    layout: &Layout,
    found: &Found<'_>,
    before: Option<&ClusterRecord>,
    wanted: &ClusterRecord,
) -> Option<(ClusterRecord, Vec<Op>)> {
    let fitting = |record: ClusterRecord| {
        let mut ops = ops_to(layout, found, &record);
        let history = appended(found.plain.get(HISTORY), before, &record);
        ops.extend(history.map(|value| Op::KeySet { key: layout.history(), value }));
        (ops.len() < TXN_OPS_MAX).then_some((record, ops))
    };
    if let Some(all) = fitting(wanted.clone()) {
        return Some(all);
    }
    let none = BTreeMap::new();
    let old = before.map_or(&none, |record| &record.nodes);
    let mut changes: Vec<&NodeId> =
        old.keys().chain(wanted.nodes.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    changes.retain(|id| old.get(*id) != wanted.nodes.get(*id));
    changes.sort_by_key(|id| {
        let serves = |nodes: &BTreeMap<NodeId, NodeRecord>| nodes.get(*id)?.serves();
        match (serves(old), serves(&wanted.nodes)) {
            (Some(_), None) => 0,
            (_, Some((ClusterRole::Primary, _))) => 1,
            (_, Some((ClusterRole::Replica, _))) => 2,
            (None, None) => 3,
        }
    });
    let with = |count: usize| {
        let mut record = ClusterRecord { nodes: old.clone(), ..wanted.clone() };
        for id in changes.iter().take(count) {
            match wanted.nodes.get(*id) {
                Some(node) => drop(record.nodes.insert((*id).clone(), node.clone())),
                None => drop(record.nodes.remove(*id)),
            }
        }
        fitting(record)
    };
    // Each change takes operations, so what has room is found by halving.
    let (mut least, mut most) = (0, changes.len());
    let mut best = None;
    while least < most {
        let half = (least + most).div_ceil(2);
        match with(half) {
            Some(fits) => (best, least) = (Some(fits), half),
            None => most = half - 1,
        }
    }
    best
}
