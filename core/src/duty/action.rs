//! What an agent may do to the world. Nothing else writes to it.

use crate::duty::fence::Fence;
use crate::duty::hold::Hold;
use crate::duty::mark::Marking;
use crate::duty::relay::Relay;
use crate::duty::sentinels::Reconfigure;
use crate::duty::stale_peers::Forget;
use crate::duty::zone_order::Prioritize;
use crate::published::projection::Op;
use crate::published::record::{Change, Record};
pub use crate::situation::bootstrap::Promote;
use crate::situation::data_loss::{Detach, Replace};

/// One command that an agent may give to Consul, to an instance or to a Sentinel.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// One transaction in Consul.
    Write(Box<Write>),
    /// Tell a Sentinel how an election ended.
    Relay(Relay),
    /// Hold an instance's writes for a moment.
    Hold(Hold),
    /// Turn a stray primary into a replica of the writer.
    Fence(Fence),
    /// Have an instance keep its data instead of copying a primary that has none.
    Detach(Detach),
    /// Make a replica the first primary of a group that has none, or the old one a primary again.
    Promote(Promote),
    /// Change what a Sentinel monitors, or its settings.
    Reconfigure(Reconfigure),
    /// Write the mark into the writer's data set.
    Mark(Marking),
    /// Keep a replica's `replica-priority` as the order of zones has it.
    Prioritize(Prioritize),
}

impl Action {
    /// In which order they are carried out.
    pub(crate) fn order(&self) -> u8 {
        match self {
            Self::Write(_) => 0,
            Self::Relay(_) => 1,
            Self::Detach(_) => 2,
            Self::Hold(_) => 3,
            Self::Fence(_) => 4,
            Self::Promote(_) => 5,
            Self::Reconfigure(_) => 6,
            Self::Mark(_) => 7,
            Self::Prioritize(_) => 8,
        }
    }
}

/// One transaction, guarded by the ModifyIndex of `state`.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// What it is for; the label `purpose` of `consul_redis_writes_total`.
    pub purpose: Purpose,
    /// The ModifyIndex that `state` must still have; 0 when it must not exist.
    pub base_index: u64,
    /// The record it makes, unless it only repairs what the recorded one should show.
    pub record: Option<Record>,
    /// The history it leaves, newest first, when a generation begins or more is known of it.
    pub history: Option<Vec<Change>>,
    /// The Sentinel that is made to forget once this is written.
    pub forget: Option<Forget>,
    /// The failover that is asked for once this is written.
    pub replace: Option<Replace>,
    /// The operations, at most [`crate::published::projection::TXN_OPS_MAX`].
    pub ops: Vec<Op>,
}

/// What a write is for: the label `purpose` of `consul_redis_writes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Publishes another writer, which begins a generation.
    Publish,
    /// Publishes that there is no writer, which begins a generation.
    Withdraw,
    /// Writes down in `claim` which instance is to become the first writer.
    Claim,
    /// The same writer, better known.
    Confirm,
    /// The same writer, other rows.
    InstanceRows,
    /// The same writer; a Sentinel is about to be made to forget.
    Forget,
    /// Still no writer; a Sentinel is about to be asked to replace one without data.
    Replace,
    /// The same writer; Sentinels are about to be told to wait for a moment only.
    Hasten,
    /// The same writer; when DNS was first seen to answer it.
    Note,
    /// Rows or keys that another program changed.
    Repair,
    /// What this agent has seen: of the instances on its own host, and of those that refuse it.
    Seen,
}

impl Purpose {
    /// As the label `purpose` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Withdraw => "withdraw",
            Self::Claim => "claim",
            Self::Confirm => "confirm",
            Self::InstanceRows => "roster",
            Self::Forget => "forget",
            Self::Replace => "replace",
            Self::Hasten => "hasten",
            Self::Note => "note",
            Self::Repair => "repair",
            Self::Seen => "seen",
        }
    }
}
