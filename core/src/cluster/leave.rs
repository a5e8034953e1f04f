//! Members that are dead for good are forgotten by all others, so that their places can be taken (`docs/facts/cluster.md`
//! 9.7): never an owner of slots, and never one that answers.

use std::collections::BTreeSet;

use super::claims::{Leaving, Left, keep_newest};
use super::judgement::{Fitness, Unfit};
use super::order::NodeCommand;
use super::record::{ClusterRole, NodeRecord};
use super::scene::{Due, DutyMemory, Present, Scene};
use super::table::{NodeId, TableRole};
use crate::time::between_ms;

/// So many that were forgotten are remembered.
const LEFT_MAX: usize = 100;
/// All others are told again for so long, in ms: one that cannot be told gives the dead one back to the others.
const TOLD_WITHIN_MS: u64 = 10_000;

/// Begins with the member that has been dead for the longest, once no slots move: they may be moving to it.
pub(super) fn begin(scene: &Scene<'_>, after_ms: u64, due: &mut Due) {
    if scene.migrating() {
        return;
    }
    let (claims, now) = (&scene.record.claims, scene.view.now.wall);
    let dead = scene
        .record
        .nodes
        .iter()
        .filter(|(id, node)| !claims.pauses(id, now) && is_dead(scene, id, node, after_ms));
    if let Some((id, node)) = dead.min_by_key(|(_, node)| node.since) {
        let (begun, address) = (scene.view.begun(), Some(node.address.clone()));
        due.claims.leaving = Some(Leaving { begun, id: id.clone(), address });
    }
}

/// A majority calls it failing, or has no address of it; it gives no answer, it owns nothing, no node that answers follows
/// it, and its shard has a primary; and all of that for long.
fn is_dead(scene: &Scene<'_>, id: &NodeId, node: &NodeRecord, after_ms: u64) -> bool {
    let long = between_ms(node.since, scene.view.now.wall) >= after_ms;
    if node.fit || !long || scene.view.maintenance.contains(id) {
        return false;
    }
    let judged = scene.judged.into_iter().flat_map(|judged| &judged.nodes);
    let failing = judged.into_iter().any(|found| {
        let silent = matches!(found.fitness, Fitness::Unfit(Unfit::Silent(_)));
        found.id.as_ref() == Some(id) && silent && !found.trusted
    });
    // What another node's answer has taken from its row is not pinged, and so never called failing.
    let voters = scene.judged.map(|judged| &judged.voters);
    let unplaced = |(voter, found): &(&&NodeId, &Present<'_>)| {
        let row = found.answer.table.rows.get(id);
        voters.is_some_and(|voters| voters.contains(**voter))
            && row.is_some_and(|row| row.address.is_none())
    };
    let owns = scene.record.shards.values().any(|shard| shard.owner == *id);
    let led = |found: &Present<'_>| {
        let rows = found.answer.table.own_row();
        rows.is_some_and(|row| row.role == TableRole::Replica(id.clone()))
    };
    let members = scene.members();
    let led = members.values().any(led);
    let lost = members.iter().filter(unplaced).count() * 2 > voters.map_or(0, BTreeSet::len);
    let claims = |found: &Present<'_>| {
        found.answer.table.rows.get(id).is_some_and(|row| !row.slots.is_empty())
    };
    let has_primary = node
        .shard
        .is_none_or(|shard| scene.record.serving(shard, ClusterRole::Primary).next().is_some());
    let settled = !owns && !led && has_primary && !members.contains_key(id);
    (failing || lost) && settled && !members.values().any(claims)
}

/// Goes on with one that is forgotten.
pub(super) fn go_on(scene: &Scene<'_>, leaving: &Leaving, due: &mut Due) {
    let members = scene.members();
    let knows = |found: &Present<'_>| found.answer.table.rows.contains_key(&leaving.id);
    let known = members.values().any(knows);
    // It is back.
    if members.contains_key(&leaving.id) {
        due.claims.leaving = None;
        return;
    }
    // A node cannot be told: all of it is looked at anew, and what else waits has its turn.
    if known && scene.claims_ms >= TOLD_WITHIN_MS {
        due.claims.leaving = None;
        due.claims.give_up(&leaving.id, scene.view.now.wall);
        // It is none of the cluster's any more, although some know it.
        if !scene.record.nodes.contains_key(&leaving.id) {
            has_left(scene, leaving, due);
        }
        return;
    }
    if !known {
        due.claims.leaving = None;
        due.claims.given_up.remove(&leaving.id);
        has_left(scene, leaving, due);
        return;
    }
    if !scene.is_mine(&leaving.begun) {
        return;
    }
    for (id, found) in &members {
        if knows(found) {
            due.tell(found.address, id, NodeCommand::Forget(leaving.id.clone()));
        }
    }
}

/// Those that were forgotten, and that a node that was away meanwhile has given back to others: they are forgotten again,
/// while they are dead.
pub(super) fn forget_again(scene: &Scene<'_>, memory: &mut DutyMemory, due: &mut Due) {
    let (present, members) = (scene.present(), scene.members());
    let mut wanted = Due::default();
    for left in scene.record.claims.left.keys() {
        // What is recorded again has its time again.
        if scene.record.nodes.contains_key(left) || present.contains_key(left) {
            continue;
        }
        let lives = |found: &Present<'_>| {
            let row = found.answer.table.rows.get(left);
            row.is_some_and(|row| !row.failing || !row.slots.is_empty())
        };
        let led = |found: &Present<'_>| {
            let own = found.answer.table.own_row();
            own.is_some_and(|row| row.role == TableRole::Replica(left.clone()))
        };
        if members.values().any(|found| lives(found) || led(found)) {
            continue;
        }
        let knows = |found: &Present<'_>| found.answer.table.rows.contains_key(left);
        for (id, found) in members.iter().filter(|(_, found)| knows(found)) {
            wanted.tell(found.address, id, NodeCommand::Forget(left.clone()));
        }
    }
    scene.in_turn(wanted, &mut memory.given_back, due);
}

fn has_left(scene: &Scene<'_>, leaving: &Leaving, due: &mut Due) {
    let recorded = scene.record.nodes.get(&leaving.id).map(|node| node.address.clone());
    let Some(address) = recorded.or_else(|| leaving.address.clone()) else { return };
    let (at, left) = (scene.view.now.wall, &mut due.claims.left);
    left.insert(leaving.id.clone(), Left { address, at });
    keep_newest(left, LEFT_MAX, |left| left.at);
}
