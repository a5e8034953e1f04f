//! Making a cluster of blank nodes: the plan is recorded first, then carried out step by step. Each step is seen in what
//! the nodes say, so that any agent can go on after any of them.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{Making, PlannedNode, PlannedShard};
use super::judgement::NodeAnswer;
use super::order::{MetNode, NodeCommand};
use super::scene::{Due, Present, Scene};
use super::slots::{SLOTS, SlotRange};
use super::table::{NodeId, TableRole};
use super::wanted::Wanted;
use crate::identity::address::Address;

/// A blank node, and the host that it is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlankNode {
    /// The host, by the name that its agent gives it, or by its address.
    pub host: String,
    /// Where it answers.
    pub address: Address,
    /// Its id.
    pub id: NodeId,
}

/// Who owns what, and who follows whom: primaries on as many hosts as there are, and no replica beside its primary or
/// another replica of it, where that can be had.
pub fn plan(nodes: &[BlankNode], shards: usize) -> Vec<PlannedShard> {
    let spread = across_hosts(nodes);
    let (primaries, others) = spread.split_at(shards.min(spread.len()));
    let mut groups: Vec<Vec<&BlankNode>> = primaries.iter().map(|node| vec![*node]).collect();
    for node in others {
        let beside = |group: &[&BlankNode]| group.iter().filter(|n| n.host == node.host).count();
        let best = groups.iter_mut().min_by_key(|group| (group.len(), beside(group)));
        if let Some(group) = best {
            group.push(node);
        }
    }
    part(&mut groups);
    let planned =
        |node: &BlankNode| PlannedNode { id: node.id.clone(), address: node.address.clone() };
    let count = groups.len();
    let ranges = (0..count).filter_map(|n| share(n, count));
    let shards = groups.iter().zip(ranges).filter_map(|(group, slots)| {
        let (primary, replicas) = group.split_first()?;
        let replicas = replicas.iter().map(|node| planned(node)).collect();
        Some(PlannedShard { slots, primary: planned(primary), replicas })
    });
    shards.collect()
}

/// The slots of one shard of so many.
fn share(index: usize, shards: usize) -> Option<SlotRange> {
    let (first, end) = (index * SLOTS / shards, (index + 1) * SLOTS / shards);
    SlotRange::new(u16::try_from(first).ok()?, u16::try_from(end.checked_sub(1)?).ok()?)
}

/// One of each host, then the next of each.
fn across_hosts(nodes: &[BlankNode]) -> Vec<&BlankNode> {
    let mut hosts: BTreeMap<&str, Vec<&BlankNode>> = BTreeMap::new();
    for node in nodes {
        hosts.entry(&node.host).or_default().push(node);
    }
    for of_host in hosts.values_mut() {
        of_host.sort();
    }
    let rounds = hosts.values().map(Vec::len).max().unwrap_or(0);
    let round = |n: usize| hosts.values().filter_map(move |of_host| of_host.get(n).copied());
    (0..rounds).flat_map(round).collect()
}

/// Exchanges replicas between shards while that parts more nodes of one host.
fn part(groups: &mut [Vec<&BlankNode>]) {
    let beside = |group: &[&BlankNode]| {
        let hosts: BTreeSet<&str> = group.iter().map(|node| node.host.as_str()).collect();
        group.len() - hosts.len()
    };
    let places: Vec<(usize, usize)> =
        (0..groups.len()).flat_map(|g| (1..groups[g].len()).map(move |n| (g, n))).collect();
    loop {
        let mut better = false;
        for (index, (g, n)) in places.iter().copied().enumerate() {
            for (h, m) in places.iter().skip(index + 1).copied().filter(|(h, _)| *h != g) {
                let before = beside(&groups[g]) + beside(&groups[h]);
                let (one, other) = (groups[g][n], groups[h][m]);
                (groups[g][n], groups[h][m]) = (other, one);
                if beside(&groups[g]) + beside(&groups[h]) < before {
                    better = true;
                } else {
                    (groups[g][n], groups[h][m]) = (one, other);
                }
            }
        }
        if !better {
            return;
        }
    }
}

/// What is to be made of nodes and what they answer, or what there has to be first.
///
/// # Errors
/// What is waited for.
pub fn blank_nodes<'a>(
    nodes: impl Iterator<Item = (&'a Address, Option<&'a NodeAnswer>)>,
    host: impl Fn(&Address) -> String,
    wanted: Wanted,
) -> Result<Vec<BlankNode>, String> {
    let mut found: BTreeMap<NodeId, BlankNode> = BTreeMap::new();
    for (address, answer) in nodes {
        let Some(answer) = answer else {
            return Err(format!("{address} does not answer"));
        };
        if !answer.is_blank() {
            let what = if answer.has_keys { "has keys" } else { "is no blank node" };
            return Err(format!("{address} {what}"));
        }
        let id = answer.table.own.clone();
        let node = BlankNode { host: host(address), address: address.clone(), id: id.clone() };
        found.entry(id).or_insert(node);
    }
    match found.len() == wanted.nodes {
        true => Ok(found.into_values().collect()),
        false => Err(format!("{} of {} blank nodes are there", found.len(), wanted.nodes)),
    }
}

/// Goes on with what was planned.
pub(super) fn go_on(scene: &Scene<'_>, making: &Making, due: &mut Due) {
    let present = scene.present();
    let planned: BTreeSet<&NodeId> = making.nodes().map(|node| &node.id).collect();
    for node in making.nodes() {
        let Some(found) = present.get(&node.id) else {
            let PlannedNode { id, address } = node;
            let words = format!("the cluster is not made yet: {address} ({id}) does not answer");
            due.obstacle = Some(words);
            return;
        };
        let other =
            found.answer.table.rows.values().find(|row| !planned.contains(&row.id) && !row.outside);
        if let Some(row) = other {
            let (at, id) = (found.address, &row.id);
            due.obstacle =
                Some(format!("the cluster is not made: {at} knows node {id}, which is not of it"));
            return;
        }
    }
    if is_made(making, &present) {
        due.claims.making = None;
        return;
    }
    if scene.is_mine(&making.begun) {
        next_step(making, &present, due);
    }
}

/// Every node knows all others, and what they are.
fn is_made(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>) -> bool {
    making.nodes().all(|node| {
        let Some(Present { answer, .. }) = present.get(&node.id) else { return false };
        let rows = &answer.table.rows;
        let as_planned = |shard: &PlannedShard| {
            let owns = rows.get(&shard.primary.id).is_some_and(|row| row.slots == [shard.slots]);
            let led = TableRole::Replica(shard.primary.id.clone());
            owns && shard
                .replicas
                .iter()
                .all(|n| rows.get(&n.id).is_some_and(|row| row.role == led))
        };
        let linked = answer.link.as_ref().is_none_or(|link| link.up);
        rows.len() == making.nodes().count()
            && rows.values().all(|row| row.is_well())
            && making.shards.iter().all(as_planned)
            && linked
            && answer.state_ok
    })
}

fn next_step(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>, due: &mut Due) {
    let at = |node: &PlannedNode| present.get(&node.id).copied();
    let mut owned = true;
    for (index, shard) in making.shards.iter().enumerate() {
        let Some(Present { address, answer }) = at(&shard.primary) else { return };
        let Some(own) = answer.table.own_row() else { return };
        if own.slots == [shard.slots] {
            continue;
        }
        owned = false;
        let id = &shard.primary.id;
        if answer.table.is_alone() && own.slots.is_empty() && own.config_epoch == 0 {
            let epoch = u64::try_from(index + 1).unwrap_or(1);
            due.tell(address, id, NodeCommand::SetEpoch(epoch));
        } else if own.slots.is_empty() {
            due.tell(address, id, NodeCommand::AddSlots(shard.slots));
        } else {
            due.obstacle = Some(format!("the cluster is not made: {address} owns other slots"));
        }
    }
    if !owned {
        return;
    }
    let Some((first, others)) = making.shards.split_first() else { return };
    let Some(Present { address, answer }) = at(&first.primary) else { return };
    let others = first.replicas.iter().chain(
        others.iter().flat_map(|shard| std::iter::once(&shard.primary).chain(&shard.replicas)),
    );
    let mut met = true;
    for node in others {
        let row = answer.table.rows.get(&node.id);
        if row.is_some_and(|row| !row.outside) {
            continue;
        }
        met = false;
        let Some(other) = at(node) else { return };
        let Some(bus_port) = other.answer.table.own_row().and_then(|row| row.bus_port) else {
            return;
        };
        let blank = false;
        let (id, at) = (node.id.clone(), other.address.clone());
        let command = NodeCommand::Meet(MetNode { id, address: at, bus_port, blank });
        due.tell(address, &first.primary.id, command);
    }
    let known = |node: &PlannedNode| {
        let rows = at(node).map(|present| &present.answer.table.rows);
        rows.is_some_and(|rows| {
            making.nodes().all(|n| rows.get(&n.id).is_some_and(|r| r.is_well()))
        })
    };
    if !met || !making.nodes().all(known) {
        return;
    }
    for shard in &making.shards {
        let led = TableRole::Replica(shard.primary.id.clone());
        for node in &shard.replicas {
            let Some(Present { address, answer }) = at(node) else { return };
            if answer.table.own_row().is_some_and(|row| row.role != led) {
                due.tell(address, &node.id, NodeCommand::Replicate(shard.primary.id.clone()));
            }
        }
    }
}
