//! The last changes of a cluster, as its key `history` holds them: written with the record that each led to, in the same
//! transaction.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{ClusterRecord, ClusterStore};
use super::renewal::differences;
use super::slots::SLOTS;
use crate::known::observed::DeathSign;
use crate::time::between_ms;

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
    /// When the others were told to wait for a moment only, where an owner's successor was elected so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hastened: Option<Timestamp>,
    /// What its death was taken from then: `process`, `child` or `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// From the change in which slots lost their primary to that in which all had one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOutage {
    /// The generation in which it began.
    pub generation: u64,
    /// When that was.
    pub at: Timestamp,
    /// How many slots had no published primary, at the most.
    pub slots: usize,
    /// How long it took, in ms; `None` while it lasts.
    pub ms: Option<u64>,
    /// What happened, and how many ms after the first of them.
    pub steps: Vec<(u64, String)>,
}

fn told_in_words(evidence: Option<&str>) -> String {
    let from = match evidence {
        Some(refused) if refused == DeathSign::Refused.as_str() => "its host refuses connections: ",
        Some(_) => "the process of the primary has ended: ",
        None => "",
    };
    format!("{from}the others are told to wait for a moment only")
}

/// The outages in these changes, newest first. The clocks of agents may differ: no step is before the one before it.
pub fn outages(changes: &[ClusterChange]) -> Vec<ClusterOutage> {
    let mut found: Vec<ClusterOutage> = Vec::new();
    let mut whole = false;
    for change in changes.iter().rev() {
        let missing = SLOTS.saturating_sub(change.slots_served);
        let lasts = found.last().is_some_and(|outage| outage.ms.is_none());
        // A cluster that was never whole was not made yet.
        if !lasts && (missing == 0 || !whole) {
            whole |= missing == 0;
            continue;
        }
        if !lasts {
            let (generation, at) = (change.generation, change.at);
            found.push(ClusterOutage { generation, at, slots: 0, ms: None, steps: Vec::new() });
        }
        let Some(outage) = found.last_mut() else { continue };
        outage.slots = outage.slots.max(missing);
        let told = change.hastened.map(|at| (at, told_in_words(change.evidence.as_deref())));
        let changed = change.what.iter().map(|what| (change.at, what.clone()));
        for (at, what) in told.into_iter().chain(changed) {
            let least = outage.steps.last().map_or(0, |(ms, _)| *ms);
            outage.steps.push((between_ms(outage.at, at).max(least), what));
        }
        if missing == 0 {
            outage.ms = outage.steps.last().map(|(ms, _)| *ms);
        }
    }
    found.reverse();
    found
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
    let hastened = after.claims.hastened.as_ref().filter(|hastened| {
        let owns = |record: &ClusterRecord| {
            record.shards.values().any(|shard| shard.owner == hastened.dead)
        };
        before.is_some_and(owns) && !owns(after)
    });
    ClusterChange {
        hastened: hastened.map(|hastened| hastened.begun.at),
        evidence: hastened.map(|hastened| hastened.evidence.clone()),
        generation: after.generation,
        at: after.since,
        by: after.by.clone(),
        slots_served: after.served(),
        what,
    }
}
