//! What a node of a cluster is told, and what must be so of it before it is.

use std::collections::BTreeMap;

use super::slots::SlotRange;
use super::table::NodeId;
use crate::identity::address::Address;

/// What nodes wait for, in ms, while an election is hastened.
pub const HASTE_TIMEOUT_MS: u64 = 500;

/// How long after it was decided a node is told, at the most, in ms.
const TOLD_WITHIN_MS: u64 = 5_000;
/// The same where it is to wait for a moment only: once the election is over, no agent puts that back.
const HASTE_WITHIN_MS: u64 = 500;

/// The `cluster-node-timeout` that more than half of the nodes have, in ms, where it is longer than the one for the
/// moment of an election.
pub fn usual_timeout(timeouts: impl Iterator<Item = u64>) -> Option<u64> {
    let mut counts = BTreeMap::<u64, usize>::new();
    timeouts.for_each(|ms| *counts.entry(ms).or_default() += 1);
    let all: usize = counts.values().sum();
    let (usual, _) = counts.into_iter().find(|(_, count)| count * 2 > all)?;
    (usual > HASTE_TIMEOUT_MS).then_some(usual)
}

/// A node that another one is to meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetNode {
    /// Which node must answer there.
    pub id: NodeId,
    /// Where.
    pub address: Address,
    /// The port of its bus.
    pub bus_port: u16,
    /// It must be blank, besides: it knows no other node, owns no slot and has no key.
    pub blank: bool,
}

/// One command to one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeCommand {
    /// `CLUSTER SET-CONFIG-EPOCH`: of a blank node.
    SetEpoch(u64),
    /// `CLUSTER ADDSLOTS`: slots that no node owns.
    AddSlots(SlotRange),
    /// `CLUSTER MEET`.
    Meet(MetNode),
    /// `CLUSTER REPLICATE`.
    Replicate(NodeId),
    /// `CLUSTER FORGET`.
    Forget(NodeId),
    /// `CONFIG SET cluster-node-timeout`, in ms.
    NodeTimeout(u64),
    /// `CLUSTER FAILOVER`: of a replica, with its primary's consent, so that no write is lost.
    Failover,
    /// `CLUSTER FAILOVER FORCE`: of a replica whose primary is dead, where an operator asked for it.
    ForcedFailover,
}

impl NodeCommand {
    /// The word for it in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SetEpoch(_) => "set-config-epoch",
            Self::AddSlots(_) => "add-slots",
            Self::Meet(_) => "meet",
            Self::Replicate(_) => "replicate",
            Self::Forget(_) => "forget",
            Self::NodeTimeout(_) => "node-timeout",
            Self::Failover => "failover",
            Self::ForcedFailover => "forced-failover",
        }
    }

    /// It undoes what agents did.
    pub fn undoes(&self) -> bool {
        matches!(self, Self::NodeTimeout(ms) if *ms > HASTE_TIMEOUT_MS)
    }

    /// How long after it was decided it may be sent, in ms.
    pub fn within_ms(&self) -> u64 {
        let hastens = matches!(self, Self::NodeTimeout(_)) && !self.undoes();
        if hastens { HASTE_WITHIN_MS } else { TOLD_WITHIN_MS }
    }

    /// As the server reads it.
    pub fn words(&self) -> Vec<String> {
        let cluster = |word: &str, more: Vec<String>| {
            let mut words = vec!["CLUSTER".to_owned(), word.to_owned()];
            words.extend(more);
            words
        };
        match self {
            Self::SetEpoch(epoch) => cluster("SET-CONFIG-EPOCH", vec![epoch.to_string()]),
            // Redis 6 has no ADDSLOTSRANGE.
            Self::AddSlots(slots) => {
                cluster("ADDSLOTS", (slots.first()..=slots.last()).map(|n| n.to_string()).collect())
            }
            Self::Meet(MetNode { address, bus_port, .. }) => {
                let port = address.port().to_string();
                cluster("MEET", vec![address.host().to_owned(), port, bus_port.to_string()])
            }
            Self::Replicate(id) => cluster("REPLICATE", vec![id.as_str().to_owned()]),
            Self::Forget(id) => cluster("FORGET", vec![id.as_str().to_owned()]),
            Self::Failover => cluster("FAILOVER", Vec::new()),
            Self::ForcedFailover => cluster("FAILOVER", vec!["FORCE".to_owned()]),
            Self::NodeTimeout(ms) => ["CONFIG", "SET", "cluster-node-timeout"]
                .map(str::to_owned)
                .into_iter()
                .chain([ms.to_string()])
                .collect(),
        }
    }
}

impl std::fmt::Display for NodeCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddSlots(slots) => write!(f, "CLUSTER ADDSLOTS {slots}"),
            Self::Replicate(id) => write!(f, "CLUSTER REPLICATE {id}"),
            Self::Forget(id) => write!(f, "CLUSTER FORGET {id}"),
            Self::Meet(met) => write!(f, "CLUSTER MEET {} ({})", met.address, met.id),
            other => f.write_str(&other.words().join(" ")),
        }
    }
}

/// A command, and the node that it is for: it is sent where that node answers, and to no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeOrder {
    /// Where the node answers.
    pub to: Address,
    /// Its id: a node with another one is told nothing.
    pub id: NodeId,
    /// What it is told.
    pub command: NodeCommand,
}
