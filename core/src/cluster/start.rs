//! Whether a node of a cluster may be started as it is. It begins as what its own file says it was, and takes requests 2 s
//! later where it reaches no other node (`docs/facts/cluster.md` 0.1); with its data gone, its replicas copy nothing
//! from it (0.11), and with old data they go back to that.

use std::collections::{BTreeMap, BTreeSet};

use super::judgement::{NodeReadings, judge};
use super::record::{ClusterRecord, ClusterRole, NodeRecord};
use super::slots::in_words;
use super::table::{NodeId, Table, TableRole};
use crate::identity::ids::ReplId;

/// How far a copy of the data goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplPosition {
    /// The history that it is of (`master_replid`).
    pub history: ReplId,
    /// Its end, in bytes of that history (`master_repl_offset`).
    pub offset: u64,
}

/// The data that a server will read when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredData {
    /// None: it begins empty.
    None,
    /// Append-only files: every write, but for those of a last moment.
    Writes,
    /// A snapshot alone, and where it ends, if it says that: nothing that was written after it.
    Snapshot(Option<ReplPosition>),
}

/// Why a node is not started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartWait {
    /// What would be lost, and what is waited for.
    pub why: String,
    /// It is an election that may never come: it is waited for it for a while, and no longer.
    pub for_election: bool,
}

/// What is known of a node that is about to be started.
#[derive(Debug, Clone, Copy)]
pub struct StoppedNode<'a> {
    /// Its own file: the table that it had.
    pub file: &'a Table,
    /// The data that it will read.
    pub data: &'a StoredData,
    /// What is recorded, as Consul's leader says now; `None` where Consul does not answer.
    pub record: Option<Option<&'a ClusterRecord>>,
    /// What the others answer.
    pub others: &'a NodeReadings,
    /// How far the data of those goes that follow it; what is missing here is not known.
    pub positions: &'a BTreeMap<NodeId, ReplPosition>,
}

/// It may be started, or what is waited for.
///
/// # Errors
/// What would be lost.
pub fn may_start(node: &StoppedNode<'_>) -> Result<(), StartWait> {
    let id = &node.file.own;
    let Some(own) = node.file.own_row().filter(|row| !row.slots.is_empty()) else { return Ok(()) };
    let owner_now = owner_now(node);
    // No agent has ever published it, and no other node runs: nothing is known that speaks against it.
    if node.record == Some(None) && !answers_any(node) {
        return Ok(());
    }
    let wait = |for_election: bool, why: String| Err(StartWait { why, for_election });
    match owner_now {
        // It comes back among others that know better.
        Some(SlotOwner::Another) if answers_any(node) => return Ok(()),
        Some(SlotOwner::Another) => {
            let why = format!(
                "node {id} was replaced, and would take requests where it reaches no other node: waiting for one that answers"
            );
            return wait(false, why);
        }
        Some(SlotOwner::Itself) | None => {}
    }
    let slots = in_words(&own.slots);
    if *node.data == StoredData::None {
        let replicas = replicas(node, id);
        if replicas > 0 || owner_now.is_none() {
            let why = format!(
                "node {id} owns slots {slots} and has no data: as it is, its replicas would be emptied, too; waiting until another node owns them"
            );
            return wait(true, why);
        }
        return Ok(());
    }
    if owner_now.is_none() {
        let why = format!(
            "node {id} owned slots, and neither Consul nor another node says whether it still does"
        );
        return wait(false, why);
    }
    match replica_ahead(node, id) {
        None => Ok(()),
        Some(replica) => {
            let why = format!(
                "node {id} owns slots {slots} and has a snapshot alone, and its replica {replica} what was written after that: as it is, that would be lost; waiting until the replica owns them"
            );
            wait(true, why)
        }
    }
}

/// A replica that has more than the node's snapshot, where enough voters answer to elect it.
fn replica_ahead<'a>(node: &StoppedNode<'a>, id: &NodeId) -> Option<&'a NodeId> {
    let StoredData::Snapshot(end) = node.data else { return None };
    let answering = || node.others.values().flatten().map(|answer| &answer.table);
    let voters: BTreeSet<&NodeId> = match node.record.flatten() {
        Some(record) => record.voters.iter().collect(),
        None => node.file.owners().map(|row| &row.id).collect(),
    };
    let voting: BTreeSet<&NodeId> =
        answering().map(|table| &table.own).filter(|own| voters.contains(own)).collect();
    if voting.len() * 2 <= voters.len() {
        return None;
    }
    let follows = |table: &&Table| {
        table.own_row().is_some_and(|row| row.role == TableRole::Replica(id.clone()))
    };
    let is_ahead = |own: &&NodeId| match (end, node.positions.get(*own)) {
        // It has copied nothing yet.
        (_, Some(position)) if position.offset == 0 => false,
        (Some(end), Some(position)) if end.history == position.history => {
            position.offset > end.offset
        }
        (_, Some(_) | None) => true,
    };
    answering().filter(follows).map(|table| &table.own).find(is_ahead)
}

enum SlotOwner {
    Itself,
    Another,
}

/// Who owns its slots: by a majority of those that answer, or by the record.
fn owner_now(node: &StoppedNode<'_>) -> Option<SlotOwner> {
    let id = &node.file.own;
    let owner = |owns: bool| if owns { SlotOwner::Itself } else { SlotOwner::Another };
    let recorded = |of: &NodeId| node.record.flatten().is_some_and(|record| record.is_own(of));
    let mut others = node.others.clone();
    // What answers at an address of theirs may belong to another cluster.
    others.retain(|_, reading| match reading {
        Ok(answer) => node.file.rows.contains_key(&answer.table.own) || recorded(&answer.table.own),
        Err(_) => true,
    });
    if let Ok(judged) = judge(&others) {
        return Some(owner(judged.shards.iter().any(|shard| shard.owner == *id)));
    }
    let record = node.record??;
    record.nodes.contains_key(id).then(|| owner(record.shards.values().any(|s| s.owner == *id)))
}

fn answers_any(node: &StoppedNode<'_>) -> bool {
    let listed = |id: &NodeId| node.file.rows.contains_key(id);
    node.others.values().flatten().any(|answer| listed(&answer.table.own))
}

/// How many nodes could take its place.
fn replicas(node: &StoppedNode<'_>, id: &NodeId) -> usize {
    let recorded = node.record.flatten().map(|record| {
        let follows = |found: &&NodeRecord| {
            found.role == Some(ClusterRole::Replica) && found.primary.as_ref() == Some(id)
        };
        record.nodes.values().filter(follows).count()
    });
    let in_file = node.file.rows.values().filter(|row| row.role == TableRole::Replica(id.clone()));
    recorded.unwrap_or_else(|| in_file.count())
}
