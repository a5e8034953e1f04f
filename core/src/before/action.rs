//! What an agent may do to the world. Nothing else writes to it.

use super::emptied::{Replace, Shelter};
use super::fence::Fence;
use super::ghosts::Forget;
use super::hold::Hold;
use super::sentinels::Tell;
use crate::address::Address;
use crate::projection::Op;
use crate::record::{Change, Record};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// One transaction in Consul.
    Write(Box<Write>),
    /// Hold an instance's writes for a moment.
    Hold(Hold),
    /// Turn a second primary into a replica of the writer.
    Fence(Fence),
    /// Have an instance keep its data instead of copying a primary that has none.
    Shelter(Shelter),
    /// Make a replica the first primary of a group that has none, or the old one a primary again.
    Promote(Promote),
    /// Tell a Sentinel about the group.
    Tell(Tell),
}

/// One replica that is to become a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promote {
    /// The replica.
    pub instance: Address,
    /// The run of it that was seen.
    pub run_id: String,
}

/// One transaction, guarded by the ModifyIndex of `state`.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// What it is for.
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
    /// The operations, at most [`crate::projection::TXN_OPS_MAX`].
    pub ops: Vec<Op>,
}

/// What a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Another writer.
    Publish,
    /// No writer.
    Withdraw,
    /// No writer yet; who is to become the first one.
    Claim,
    /// The same writer, better known.
    Confirm,
    /// The same writer, other rows.
    Roster,
    /// The same writer; a Sentinel is about to be made to forget.
    Forget,
    /// Still no writer; a Sentinel is about to be asked to replace one without data.
    Replace,
    /// The same writer; when DNS was first seen to answer it.
    Note,
    /// Rows or keys that somebody else changed.
    Repair,
}

impl Purpose {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Withdraw => "withdraw",
            Self::Claim => "claim",
            Self::Confirm => "confirm",
            Self::Roster => "roster",
            Self::Forget => "forget",
            Self::Replace => "replace",
            Self::Note => "note",
            Self::Repair => "repair",
        }
    }
}
