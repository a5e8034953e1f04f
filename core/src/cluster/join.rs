//! A blank node beside an agent becomes a replica of the shard that needs one most.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{Joining, PlannedNode};
use super::order::{MetNode, NodeCommand};
use super::record::{ClusterRole, NodeRecord, NodeSite};
use super::relink::knows_a_stranger;
use super::scene::{Due, Present, Scene};
use super::table::{NodeId, TableRole};
use crate::time::between_ms;

/// For so long a node that was forgotten is not taken back by those that were told to, in ms (`docs/facts/cluster.md` 6),
/// and a little more.
pub const FORGOTTEN_FOR_MS: u64 = 65_000;
/// A node that has not joined after so long is given up, in ms; another attempt follows after a pause.
pub const JOINED_WITHIN_MS: u64 = 60_000;
/// For so long a node that joins may give no answer, in ms.
const FORGIVEN_MS: u64 = 5_000;

/// A node that may join.
struct JoinCandidate {
    node: PlannedNode,
    site: NodeSite,
    back: bool,
    /// Why it may not: it is to be blank, and is not.
    not_blank: Option<&'static str>,
}

/// Begins, where a node waits and a shard needs it.
pub(super) fn begin(scene: &Scene<'_>, replicas_max: Option<usize>, due: &mut Due) {
    let (claims, now) = (&scene.record.claims, scene.view.now.wall);
    let mut candidates = candidates(scene);
    // Where one cannot join, the next one gets its turn.
    candidates.retain(|found| !claims.pauses(&found.node.id, now));
    let Some(JoinCandidate { node: PlannedNode { id, address }, .. }) = candidates.first() else {
        return;
    };
    if scene.migrating() {
        due.obstacle = Some(format!("{address} ({id}) does not join while slots move"));
        return;
    }
    // Where none needs it, it is a spare: it waits until a replica is forgotten.
    let needs = |candidate: JoinCandidate| {
        let (need, shard) = neediest(scene, &candidate.site, replicas_max)?;
        Some((need, shard, candidate))
    };
    let wanted = candidates.into_iter().filter_map(needs);
    let first =
        wanted.min_by_key(|(need, _, found)| (found.not_blank.is_some(), !found.back, *need));
    let Some((_, shard, JoinCandidate { node, back, not_blank, .. })) = first else { return };
    if let Some(what) = not_blank {
        let PlannedNode { id, address } = &node;
        due.obstacle = Some(format!("{address} ({id}) does not join: it {what}"));
        return;
    }
    due.claims.joining = Some(Joining { begun: scene.view.begun(), node, shard, back });
}

/// Blank nodes that agents stand beside, members beside agents that belong to no shard, and those that were forgotten and
/// are back.
fn candidates(scene: &Scene<'_>) -> Vec<JoinCandidate> {
    let mut found = Vec::new();
    for (id, Present { address, answer }) in scene.present() {
        let recorded = scene.record.nodes.get(id);
        let own = answer.table.own_row();
        // Another attempt was given up after it had been met.
        let idle = recorded.is_some_and(|node| node.role.is_none())
            && own.is_some_and(|row| row.role == TableRole::Primary && row.slots.is_empty())
            && scene.view.announced.contains_key(address);
        if recorded.is_some() && !idle {
            continue;
        }
        let node = PlannedNode { id: id.clone(), address: address.clone() };
        let site = scene.view.site(address);
        let left = scene.record.claims.left.get(id);
        let back = left.is_some_and(|left| {
            between_ms(left.at, scene.view.now.wall) >= FORGOTTEN_FOR_MS
                && answer.not_ready.is_none()
        });
        let back = idle || (back && !knows_a_stranger(scene, &Present { address, answer }));
        // What knows other nodes, and was never a member, belongs to another cluster.
        let may = left.is_none() && answer.not_ready.is_none() && answer.table.is_alone();
        if back || (may && scene.view.announced.contains_key(address)) {
            let not_blank = answer.why_not_blank().filter(|_| !back);
            found.push(JoinCandidate { node, site, back, not_blank });
        }
    }
    // Those that were members before: they have the most of the data.
    found.sort_by(|one, other| {
        let blank = one.not_blank.is_some().cmp(&other.not_blank.is_some());
        let back = other.back.cmp(&one.back);
        blank.then(back).then(one.node.address.cmp(&other.node.address))
    });
    found
}

/// The shard with the fewest replicas; of several, one that is led in another zone, or has fewer nodes in this one, or is
/// on other hosts. With it, how well it fits: the less the better.
fn neediest(
    scene: &Scene<'_>,
    site: &NodeSite,
    replicas_max: Option<usize>,
) -> Option<([usize; 4], u32)> {
    let members = |shard: u32| {
        let of = move |node: &&NodeRecord| node.shard == Some(shard);
        scene.record.nodes.values().filter(of)
    };
    let replicas =
        |shard: u32| members(shard).filter(|n| n.role == Some(ClusterRole::Replica)).count();
    let beside = |shard: u32| {
        members(shard).filter(|node| scene.view.host(&node.address) == site.host).count()
    };
    let in_zone =
        |shard: u32| members(shard).filter(|node| site.zone.is_some() && node.zone == site.zone);
    let led = |shard: u32| in_zone(shard).filter(|n| n.role == Some(ClusterRole::Primary)).count();
    let need = |shard: u32| [replicas(shard), led(shard), in_zone(shard).count(), beside(shard)];
    let mut shards: Vec<u32> = scene.record.shards.keys().copied().collect();
    shards.retain(|shard| replicas_max.is_none_or(|most| replicas(*shard) < most));
    shards.into_iter().map(|shard| (need(shard), shard)).min()
}

/// Goes on with a node that joins.
pub(super) fn go_on(scene: &Scene<'_>, joining: &Joining, due: &mut Due) {
    let PlannedNode { id, address } = &joining.node;
    let owner = scene.record.shards.get(&joining.shard).map(|shard| &shard.owner);
    let present = scene.present();
    let (Some(owner), Some(node)) = (owner, present.get(id)) else {
        return give_up(scene, due, format!("{address} ({id}) does not join: it does not answer"));
    };
    let own = node.answer.table.own_row();
    let follows = own.is_some_and(|row| matches!(row.role, TableRole::Replica(_)));
    let recorded = scene.record.nodes.get(id);
    if follows && recorded.is_some_and(|node| node.role == Some(ClusterRole::Replica)) {
        due.claims.joining = None;
        due.claims.left.remove(id);
        due.claims.given_up.remove(id);
        return;
    }
    if scene.claims_ms >= JOINED_WITHIN_MS {
        return give_up(scene, due, format!("{address} ({id}) has not joined in time"));
    }
    if !scene.is_mine(&joining.begun) {
        return;
    }
    let members = scene.members();
    let voters: Vec<(&&NodeId, &Present<'_>)> = voters(scene, &members);
    let knows = |present: &Present<'_>| {
        present.answer.table.rows.get(id).is_some_and(|row| row.is_well() && row.linked)
    };
    let known = voters.iter().filter(|(_, voter)| knows(voter)).count();
    let all = scene.judged.map_or(0, |judged| judged.voters.len());
    let its = &node.answer.table.rows;
    let knows_all = voters.iter().all(|(id, _)| its.get(**id).is_some_and(|row| row.is_well()));
    if known * 2 > all && knows_all {
        if !follows || joining.back && owner_of(own.map(|row| &row.role)) != Some(owner) {
            due.tell(node.address, id, NodeCommand::Replicate(owner.clone()));
        }
        return;
    }
    if knows_a_stranger(scene, node) {
        return give_up(
            scene,
            due,
            format!("{address} ({id}) does not join: it knows another cluster's node"),
        );
    }
    // Always the same one: where two have it meet them, both wait for the other's answer.
    let Some(bus_port) = own.and_then(|row| row.bus_port) else { return };
    let first = voters.first().filter(|(_, voter)| !voter.answer.table.rows.contains_key(id));
    if let Some((voter, Present { address, .. })) = first
        && known == 0
    {
        let blank = !joining.back && node.answer.table.is_alone();
        let (id, at) = (id.clone(), node.address.clone());
        due.tell(address, voter, NodeCommand::Meet(MetNode { id, address: at, bus_port, blank }));
    }
}

fn owner_of(role: Option<&TableRole>) -> Option<&NodeId> {
    match role? {
        TableRole::Replica(of) => Some(of),
        TableRole::Primary | TableRole::Unknown => None,
    }
}

/// Those that own slots and answer.
fn voters<'a, 'b>(
    scene: &Scene<'_>,
    members: &'b BTreeMap<&'a NodeId, Present<'a>>,
) -> Vec<(&'b &'a NodeId, &'b Present<'a>)> {
    let none = BTreeSet::new();
    let voters = scene.judged.map_or(&none, |judged| &judged.voters);
    members.iter().filter(|(id, _)| voters.contains(**id)).collect()
}

/// The agent that began it, or any after a while.
fn give_up(scene: &Scene<'_>, due: &mut Due, why: String) {
    let joining = due.claims.joining.clone().filter(|joining| scene.is_mine(&joining.begun));
    if let Some(joining) = joining.filter(|_| scene.claims_ms >= FORGIVEN_MS) {
        due.claims.joining = None;
        due.claims.give_up(&joining.node.id, scene.view.now.wall);
    }
    due.obstacle = Some(why);
}
