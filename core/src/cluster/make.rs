//! Making a cluster of blank nodes: the plan is recorded first, then carried out step by step. Each step is seen in what
//! the nodes say, so that any agent can go on after any of them.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{Making, PlannedNode, PlannedShard};
use super::judgement::{JudgedNode, NodeAnswer};
use super::order::{MetNode, NodeCommand};
use super::record::NodeSite;
use super::scene::{Due, DutyMemory, Present, Scene};
use super::slots::{SLOTS, SlotRange, count};
use super::table::{NodeId, TableRole, TableRow};
use super::wanted::Wanted;
use crate::identity::address::{Address, Zone};

/// It is said why nothing has come of a plan for so long, in ms.
pub const STANDS_STILL_MS: u64 = 30_000;
/// Nodes that are named of several.
const NAMED_MAX: usize = 3;

/// A blank node, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlankNode {
    /// The zone of the host, where it is known.
    pub zone: Option<Zone>,
    /// The host, by the name that its agent gives it, or by its address.
    pub host: String,
    /// Where it answers.
    pub address: Address,
    /// Its id.
    pub id: NodeId,
}

/// Who owns what, and who follows whom: primaries in as many zones as there are, and on as many hosts; no replica in the
/// zone of its primary or of another replica of it, and none on their hosts, where that can be had.
pub fn plan(nodes: &[BlankNode], shards: usize) -> Vec<PlannedShard> {
    let spread = across_zones(nodes);
    let (primaries, others) = spread.split_at(shards.min(spread.len()));
    let mut groups: Vec<Vec<&BlankNode>> = primaries.iter().map(|node| vec![*node]).collect();
    for node in others {
        let best = groups.iter_mut().min_by_key(|group| (group.len(), beside(group, node)));
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

/// One of each zone, then the next of each: of each zone one of each host, and so on.
fn across_zones(nodes: &[BlankNode]) -> Vec<&BlankNode> {
    let mut zones: BTreeMap<Option<&Zone>, BTreeMap<&str, Vec<&BlankNode>>> = BTreeMap::new();
    for node in nodes {
        let hosts = zones.entry(node.zone.as_ref()).or_default();
        hosts.entry(&node.host).or_default().push(node);
    }
    zones.values_mut().flat_map(BTreeMap::values_mut).for_each(|of_host| of_host.sort());
    let hosts = zones.into_values().map(|hosts| in_turn(hosts.into_values().collect()));
    in_turn(hosts.collect())
}

/// The first of each, then the second of each, and so on.
fn in_turn(lists: Vec<Vec<&BlankNode>>) -> Vec<&BlankNode> {
    let rounds = lists.iter().map(Vec::len).max().unwrap_or(0);
    let round = |n: usize| lists.iter().filter_map(move |list| list.get(n).copied());
    (0..rounds).flat_map(round).collect()
}

/// What a node has in common with a shard, worst first: the zone of the primary, those of how many of its nodes, and
/// their hosts.
fn beside(shard: &[&BlankNode], node: &BlankNode) -> [usize; 3] {
    let in_zone = |other: &&BlankNode| node.zone.is_some() && other.zone == node.zone;
    let leads = shard.first().is_some_and(in_zone);
    let zones = shard.iter().filter(|other| in_zone(other)).count();
    let hosts = shard.iter().filter(|other| other.host == node.host).count();
    [usize::from(leads), zones, hosts]
}

/// Exchanges replicas between shards, and moves one to a shard that has one less, while that parts more nodes of one zone
/// or host.
fn part(groups: &mut [Vec<&BlankNode>]) {
    while exchange(groups) || move_one(groups) {}
}

/// Moves a replica to a smaller shard that it has less in common with, where there is one.
fn move_one(groups: &mut [Vec<&BlankNode>]) -> bool {
    let places = (0..groups.len()).flat_map(|g| (1..groups[g].len()).map(move |n| (g, n)));
    let better = places.into_iter().find_map(|(g, n)| {
        let (node, mut left) = (groups[g][n], groups[g].clone());
        left.remove(n);
        let fits = |group: &Vec<&BlankNode>| {
            group.len() < groups[g].len() && beside(group, node) < beside(&left, node)
        };
        Some((g, n, groups.iter().position(fits)?))
    });
    let Some((from, place, to)) = better else { return false };
    let node = groups[from].remove(place);
    groups[to].push(node);
    true
}

/// Exchanges replicas of two shards where that parts more nodes.
fn exchange(groups: &mut [Vec<&BlankNode>]) -> bool {
    let sum = |one: [usize; 3], other: [usize; 3]| -> [usize; 3] {
        std::array::from_fn(|n| one[n] + other[n])
    };
    let together = |group: &[&BlankNode]| {
        let each = (1..group.len()).map(|n| beside(&group[..n], group[n]));
        each.fold([0; 3], sum)
    };
    let places: Vec<(usize, usize)> =
        (0..groups.len()).flat_map(|g| (1..groups[g].len()).map(move |n| (g, n))).collect();
    let mut better = false;
    for (index, (g, n)) in places.iter().copied().enumerate() {
        for (h, m) in places.iter().skip(index + 1).copied().filter(|(h, _)| *h != g) {
            let before = sum(together(&groups[g]), together(&groups[h]));
            let (one, other) = (groups[g][n], groups[h][m]);
            (groups[g][n], groups[h][m]) = (other, one);
            if sum(together(&groups[g]), together(&groups[h])) < before {
                better = true;
            } else {
                (groups[g][n], groups[h][m]) = (one, other);
            }
        }
    }
    better
}

/// What is to be made of nodes and what they answer, or what there has to be first; `own` is the zone of the agent's own
/// nodes.
///
/// # Errors
/// What is waited for.
pub fn blank_nodes<'a>(
    nodes: impl Iterator<Item = (&'a Address, Option<&'a NodeAnswer>)>,
    site: impl Fn(&Address) -> NodeSite,
    wanted: Wanted,
    own: Option<&Zone>,
) -> Result<Vec<BlankNode>, String> {
    let mut found: BTreeMap<NodeId, BlankNode> = BTreeMap::new();
    for (address, answer) in nodes {
        let Some(answer) = answer else {
            return Err(format!("{address} does not answer"));
        };
        if let Some(what) = answer.why_not_blank() {
            return Err(format!("{address} {what}"));
        }
        let id = answer.table.own.clone();
        let NodeSite { zone, host } = site(address);
        let node = BlankNode { zone, host, address: address.clone(), id: id.clone() };
        found.entry(id).or_insert(node);
    }
    if found.len() != wanted.nodes {
        return Err(format!("{} of {} blank nodes are there", found.len(), wanted.nodes));
    }
    let nodes: Vec<BlankNode> = found.into_values().collect();
    zones_known(&nodes, own)?;
    Ok(nodes)
}

/// Where the zone of one is known, or the agent's own nodes have one, those of all have to be: what is made is made once.
///
/// # Errors
/// Whose is waited for.
fn zones_known(nodes: &[BlankNode], own: Option<&Zone>) -> Result<(), String> {
    let zoned = own.is_some() || nodes.iter().any(|node| node.zone.is_some());
    match nodes.iter().find(|node| zoned && node.zone.is_none()) {
        Some(BlankNode { address, .. }) => Err(format!(
            "no agent says in which zone {address} is: each agent beside a node has a zone, or none has"
        )),
        None => Ok(()),
    }
}

/// Goes on with what was planned.
pub(super) fn go_on(scene: &Scene<'_>, making: &Making, memory: &mut DutyMemory, due: &mut Due) {
    let present = scene.present();
    if is_begun_anew(scene, making, &present) {
        due.claims.making = None;
        return;
    }
    let planned: BTreeSet<&NodeId> = making.nodes().map(|node| &node.id).collect();
    for Present { address, answer } in making.nodes().filter_map(|node| present.get(&node.id)) {
        let stranger = |row: &&TableRow| !planned.contains(&row.id) && !row.outside;
        if let Some(row) = answer.table.rows.values().find(stranger) {
            let id = &row.id;
            due.obstacle = Some(format!(
                "the cluster is not made: {address} knows node {id}, which is not of it"
            ));
            return;
        }
    }
    if is_made(scene, making, &present) {
        due.claims.making = None;
        return;
    }
    if let Some(node) = making.nodes().find(|node| !present.contains_key(&node.id)) {
        let PlannedNode { id, address } = node;
        let words = format!("the cluster is not made yet: {address} ({id}) does not answer");
        due.obstacle = Some(words);
        // It may be dead for good, once the others have their places.
        if scene.is_mine(&making.begun) {
            follow(making, &present, due);
        }
        return;
    }
    if scene.is_mine(&making.begun) {
        next_step(making, &present, due);
    }
    let (now, done) = (scene.view.now.mono, done(making, &present));
    let known = memory.made.filter(|(most, _)| *most >= done);
    let (_, since) = *memory.made.insert(known.unwrap_or((done, now)));
    if due.obstacle.is_none() && now - since >= STANDS_STILL_MS {
        let (what, s) = (missing(making, &present), STANDS_STILL_MS / 1_000);
        due.obstacle =
            Some(format!("the cluster is not made, and nothing has come of it for {s} s: {what}"));
    }
}

/// An operator has reset all of its nodes: they have other ids, and are blank.
fn is_begun_anew(
    scene: &Scene<'_>,
    making: &Making,
    present: &BTreeMap<&NodeId, Present<'_>>,
) -> bool {
    making.nodes().all(|node| {
        let answer = scene.answer(&node.address);
        !present.contains_key(&node.id) && answer.is_some_and(NodeAnswer::is_blank)
    })
}

/// All slots are owned by nodes of the plan, and each of the others follows one of these, as all of them say. It need
/// not be as planned: an owner may have been replaced meanwhile. One that gives no answer has had its place, and a majority
/// calls it failing.
fn is_made(scene: &Scene<'_>, making: &Making, present: &BTreeMap<&NodeId, Present<'_>>) -> bool {
    let Some(judged) = scene.judged.filter(|judged| judged.unowned.is_empty()) else {
        return false;
    };
    let owners: BTreeSet<&NodeId> = judged.shards.iter().map(|shard| &shard.owner).collect();
    let all: BTreeSet<&NodeId> = making.nodes().map(|node| &node.id).collect();
    let had_its_place = |id: &NodeId| {
        let dead = |node: &&JudgedNode| node.id.as_ref() == Some(id) && !node.trusted;
        let placed = |node: &JudgedNode| {
            node.owner.is_some() || making.shards.iter().any(|shard| shard.primary.id == *id)
        };
        judged.nodes.iter().find(dead).is_some_and(placed)
    };
    let agrees = |answer: &NodeAnswer| {
        let rows = &answer.table.rows;
        let owned: usize = answer.table.owners().map(|row| count(&row.slots)).sum();
        let right = |row: &TableRow| match &row.role {
            _ if !present.contains_key(&row.id) => true,
            TableRole::Replica(of) => row.is_well() && owners.contains(of),
            TableRole::Primary | TableRole::Unknown => row.is_well() && owners.contains(&row.id),
        };
        owned == SLOTS
            && answer.table.owners().all(|row| owners.contains(&row.id))
            && all.iter().all(|id| rows.get(*id).is_some_and(right))
            && answer.link.as_ref().is_none_or(|link| link.up)
            && answer.state_ok
    };
    owners.iter().all(|owner| all.contains(owner) && present.contains_key(owner))
        && all.iter().all(|id| match present.get(id) {
            Some(found) => agrees(found.answer),
            None => had_its_place(id),
        })
}

/// The node that owns the shard's slots by its own word: its primary, unless one of its replicas was elected meanwhile.
fn leader<'a>(
    shard: &'a PlannedShard,
    present: &BTreeMap<&NodeId, Present<'_>>,
) -> Option<&'a NodeId> {
    let owned = |id: &NodeId| {
        let own = present.get(id)?.answer.table.own_row()?;
        (own.slots == [shard.slots]).then_some(own.config_epoch)
    };
    let nodes = std::iter::once(&shard.primary).chain(&shard.replicas).map(|node| &node.id);
    nodes.filter(|id| owned(id).is_some()).max_by_key(|id| owned(id))
}

/// How much of it is there: slots that are owned, nodes that know one another, and replicas that follow.
fn done(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>) -> usize {
    let owned = making.shards.iter().filter(|shard| leader(shard, present).is_some()).count();
    let known: usize = making.nodes().map(|node| known_to(making, present, node).count()).sum();
    owned + known + making.nodes().count() - strays(making, present).len()
}

/// The nodes of the plan that a node knows well.
fn known_to<'a>(
    making: &'a Making,
    present: &'a BTreeMap<&NodeId, Present<'_>>,
    node: &PlannedNode,
) -> impl Iterator<Item = &'a PlannedNode> {
    let rows = present.get(&node.id).map(|found| &found.answer.table.rows);
    let known = move |other: &&PlannedNode| {
        rows.is_some_and(|rows| rows.get(&other.id).is_some_and(TableRow::is_well))
    };
    making.nodes().filter(known)
}

/// The nodes that neither own their shard's slots nor follow the node that does.
fn strays<'a>(
    making: &'a Making,
    present: &BTreeMap<&NodeId, Present<'_>>,
) -> Vec<&'a PlannedNode> {
    let mut found = Vec::new();
    for shard in &making.shards {
        let leader = leader(shard, present);
        for node in std::iter::once(&shard.primary).chain(&shard.replicas) {
            let own = present.get(&node.id).and_then(|found| found.answer.table.own_row());
            let follows = |row: &TableRow| match &row.role {
                TableRole::Replica(of) => Some(of) == leader,
                TableRole::Primary | TableRole::Unknown => Some(&node.id) == leader,
            };
            if !own.is_some_and(follows) {
                found.push(node);
            }
        }
    }
    found
}

/// What keeps it from being made, as far as it can be seen.
fn missing(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>) -> String {
    let named = |nodes: &[&PlannedNode]| {
        let at = nodes.iter().take(NAMED_MAX).map(|node| node.address.to_string());
        let more = nodes.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{}{more}", at.collect::<Vec<_>>().join(", "))
    };
    let mut nodes: Vec<&PlannedNode> = making.nodes().collect();
    nodes.sort_by(|one, other| one.address.cmp(&other.address));
    let unknown = nodes.iter().filter_map(|node| {
        let known: BTreeSet<&NodeId> = known_to(making, present, node).map(|n| &n.id).collect();
        let others = nodes.iter().copied();
        let unknown: Vec<&PlannedNode> =
            others.filter(|other| !known.contains(&other.id)).collect();
        (!unknown.is_empty()).then(|| format!("{} does not know {}", node.address, named(&unknown)))
    });
    let unknown: Vec<String> = unknown.collect();
    if !unknown.is_empty() {
        let more = unknown.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!("; and {more} more nodes") };
        return format!(
            "{}{more}. Each node has to reach the bus port of every other one: its port + 10000, unless cluster-port says another",
            unknown.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; ")
        );
    }
    match &strays(making, present)[..] {
        [] => "its nodes do not agree yet, or say cluster_state:fail".to_owned(),
        strays => format!("these have not got their places: {}", named(strays)),
    }
}

fn next_step(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>, due: &mut Due) {
    let at = |node: &PlannedNode| present.get(&node.id).copied();
    let mut owned = true;
    for (index, shard) in making.shards.iter().enumerate() {
        if leader(shard, present).is_some() {
            continue;
        }
        let Some(Present { address, answer }) = at(&shard.primary) else { return };
        let Some(own) = answer.table.own_row() else { return };
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
    let count = making.nodes().count();
    if met && making.nodes().all(|node| known_to(making, present, node).count() == count) {
        follow(making, present, due);
    }
}

/// Has the nodes follow the owner of their shard's slots, where all slots have one and they know it.
fn follow(making: &Making, present: &BTreeMap<&NodeId, Present<'_>>, due: &mut Due) {
    if making.shards.iter().any(|shard| leader(shard, present).is_none()) {
        return;
    }
    for shard in &making.shards {
        let Some(leader) = leader(shard, present) else { continue };
        let led = TableRole::Replica(leader.clone());
        for node in std::iter::once(&shard.primary).chain(&shard.replicas) {
            let Some(Present { address, answer }) = present.get(&node.id) else { continue };
            let other = |row: &TableRow| row.role != led && row.slots.is_empty();
            let known = answer.table.rows.get(leader).is_some_and(TableRow::is_well);
            if known && node.id != *leader && answer.table.own_row().is_some_and(other) {
                due.tell(address, &node.id, NodeCommand::Replicate(leader.clone()));
            }
        }
    }
}
