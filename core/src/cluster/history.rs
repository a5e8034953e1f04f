//! The last changes of a cluster, as its key `history` holds them: written with the record that each led to, in the same
//! transaction.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{ClusterRecord, ClusterStore};
use super::renewal::differences;

/// The name of the key, below the cluster's root.
pub const HISTORY: &str = "history";
/// Changes that are kept.
const CHANGES_MAX: usize = 50;
/// What all of them may take together, in bytes: a transaction holds 512 KB.
const HISTORY_LEN_MAX: usize = 32 * 1024;
/// Lines that are kept of one change.
const LINES_MAX: usize = 10;
/// What is kept of one line, in characters.
const LINE_LEN_MAX: usize = 200;

/// One change: a generation began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterChange {
    /// The generation that began.
    pub generation: u64,
    /// When, by the clock of the agent that wrote it.
    pub at: Timestamp,
    /// The agent that wrote it.
    pub by: String,
    /// Slots with a published primary since.
    pub slots_served: usize,
    /// What has changed, a line for each node.
    pub what: Vec<String>,
}

/// The changes that were read, newest first. A damaged history costs the history, and no more.
pub fn changes_of(store: &ClusterStore) -> Vec<ClusterChange> {
    store.plain.get(HISTORY).map(|text| parsed(text)).unwrap_or_default()
}

fn parsed(text: &str) -> Vec<ClusterChange> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The history with the change that leads to `after`; `None` where its generation is that of `before`.
pub(super) fn appended(
    text: Option<&String>,
    before: Option<&ClusterRecord>,
    after: &ClusterRecord,
) -> Option<String> {
    if before.is_some_and(|before| before.generation == after.generation) {
        return None;
    }
    let mut kept = text.map(|text| parsed(text)).unwrap_or_default();
    kept.insert(0, change(before, after));
    kept.truncate(CHANGES_MAX);
    let mut written = serde_json::to_string(&kept).ok()?;
    while written.len() > HISTORY_LEN_MAX && kept.len() > 1 {
        kept.truncate(kept.len().div_ceil(2));
        written = serde_json::to_string(&kept).ok()?;
    }
    Some(written)
}

fn change(before: Option<&ClusterRecord>, after: &ClusterRecord) -> ClusterChange {
    let lines = differences(before, after);
    let more = lines.len().saturating_sub(LINES_MAX);
    let short = |line: &String| line.chars().take(LINE_LEN_MAX).collect();
    let mut what: Vec<String> = lines.iter().take(LINES_MAX).map(short).collect();
    if more > 0 {
        what.push(format!("and {more} more"));
    }
    if what.is_empty() {
        what.push(short(&after.why));
    }
    ClusterChange {
        generation: after.generation,
        at: after.since,
        by: after.by.clone(),
        slots_served: after.served(),
        what,
    }
}
