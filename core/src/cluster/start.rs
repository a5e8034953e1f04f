//! Whether a node of a cluster may be started as it is. It begins as what its own file says it was, and takes requests 2 s
//! later where it reaches no other node (`docs/facts/cluster.md` 0.1); with its data gone, its replicas copy nothing
//! from it (0.11).

use super::judgement::{NodeReadings, judge};
use super::record::{ClusterRecord, ClusterRole, NodeRecord};
use super::slots::in_words;
use super::table::{NodeId, Table, TableRole};

/// What is known of a node that is about to be started.
#[derive(Debug, Clone, Copy)]
pub struct StoppedNode<'a> {
    /// Its own file: the table that it had.
    pub file: &'a Table,
    /// Its data is there.
    pub has_data: bool,
    /// What is recorded, as Consul's leader says now; `None` where Consul does not answer.
    pub record: Option<Option<&'a ClusterRecord>>,
    /// What the others answer.
    pub others: &'a NodeReadings,
}

/// It may be started, or what is waited for.
///
/// # Errors
/// What would be lost.
pub fn may_start(node: &StoppedNode<'_>) -> Result<(), String> {
    let id = &node.file.own;
    let Some(own) = node.file.own_row().filter(|row| !row.slots.is_empty()) else { return Ok(()) };
    let owner_now = owner_now(node);
    // No agent has ever published it, and no other node runs: nothing is known that speaks against it.
    if node.record == Some(None) && !answers_any(node) {
        return Ok(());
    }
    match owner_now {
        // It comes back among others that know better.
        Some(SlotOwner::Another) if answers_any(node) => return Ok(()),
        Some(SlotOwner::Another) => {
            return Err(format!(
                "node {id} was replaced, and would take requests where it reaches no other node: waiting for one that answers"
            ));
        }
        Some(SlotOwner::Itself) | None => {}
    }
    if !node.has_data {
        let replicas = replicas(node, id);
        if replicas > 0 || owner_now.is_none() {
            return Err(format!(
                "node {id} owns slots {} and has no data: as it is, its replicas would be emptied, too; waiting until another node owns them",
                in_words(&own.slots)
            ));
        }
        return Ok(());
    }
    match owner_now {
        Some(_) => Ok(()),
        None => Err(format!(
            "node {id} owned slots, and neither Consul nor another node says whether it still does"
        )),
    }
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
