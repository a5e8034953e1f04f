//! What the loops show of themselves: on the page, in metrics, to systemd.

use serde::Serialize;

use crate::core::cluster::shown::ClusterStatus;
use crate::core::decide::Decision;
use crate::core::group::GroupLoop;
use crate::core::shown::status::GroupStatus;
use crate::core::shown::status::Problem;
use crate::core::time::Now;
use crate::name_check::Findings;

/// One element of what `status --json` prints: a cluster's has `cluster` where a group's has `group`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AnyStatus {
    /// A group that Sentinel monitors.
    Group(Box<GroupStatus>),
    /// A Redis Cluster.
    Cluster(Box<ClusterStatus>),
}

impl AnyStatus {
    /// It does its work.
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Group(status) => status.healthy,
            Self::Cluster(status) => status.healthy,
        }
    }

    /// What is wrong with it, in words.
    pub fn problems(&self) -> Vec<&str> {
        match self {
            Self::Group(status) => status.problems.iter().map(|p| p.text.as_str()).collect(),
            Self::Cluster(status) => status.problems.iter().map(|p| p.text.as_str()).collect(),
        }
    }

    /// It does, and survives less than it could.
    pub fn is_degraded(&self) -> bool {
        match self {
            Self::Group(status) => status.degraded,
            Self::Cluster(status) => status.degraded,
        }
    }
}

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
