//! What a group's loop shows of itself: on the page, in metrics, to systemd.

use crate::core::decide::Decision;
use crate::core::group::GroupLoop;
use crate::core::shown::status::GroupStatus;
use crate::core::shown::status::Problem;
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
    /// What `machine` knows now; `findings` are what is wrong with DNS's answers, and `more` what else is.
    pub fn of(machine: &GroupLoop, findings: &Findings, more: &[Problem], now: Now) -> Self {
        let mut status = machine.status(now);
        status.add(findings.values().chain(more).cloned());
        let decision = machine.decision();
        Self {
            status,
            summary: decision.map(|decision| decision.summary.clone()),
            reasons: decision.map(Decision::said).unwrap_or_default(),
        }
    }
}
