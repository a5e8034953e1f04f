//! What a group's loop shows of itself: on the page, in metrics, to systemd.

use crate::core::decide::Decision;
use crate::core::group::GroupLoop;
use crate::core::status::GroupStatus;
use crate::core::time::Now;
use crate::name_check::Findings;

/// One group as its loop knows it at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What `status` shows.
    pub status: GroupStatus,
    /// What the loop concluded last, in one sentence.
    pub summary: Option<String>,
    /// What it did not do, and why not.
    pub reasons: Vec<String>,
}

impl Snapshot {
    /// What `machine` knows now; `findings` are what is wrong with DNS's answers.
    pub fn of(machine: &GroupLoop, findings: &Findings, now: Now) -> Self {
        let mut status = machine.status(now);
        status.add(findings.values().cloned());
        let decision = machine.decision();
        Self {
            status,
            summary: decision.map(|decision| decision.summary.clone()),
            reasons: decision.map(Decision::said).unwrap_or_default(),
        }
    }
}
