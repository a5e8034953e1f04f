//! The writer test: what one instance says about itself, and whose data it holds.

use std::fmt;

use crate::identity::address::Address;
use crate::known::observed::{InstanceAnswer, Observed, ReplId, Role};
use crate::published::record::{Record, Writer};
use crate::time::Mono;

/// Outcome of the writer test.
#[derive(Debug, Clone, PartialEq)]
pub enum WriterTest<'a> {
    /// It says it is the primary, answers PONG, and runs no failover.
    Passes(&'a InstanceAnswer),
    /// It says itself that it cannot be the writer.
    Fails(NotWriter),
    /// It did not say, or not recently enough.
    Unknown(String),
}

impl WriterTest<'_> {
    /// It says that it is the primary, whether or not it is ready.
    pub fn is_primary(&self) -> bool {
        matches!(
            self,
            Self::Passes(_) | Self::Fails(NotWriter::NotReady(_) | NotWriter::HandingOver)
        )
    }
}

/// Why an instance says that it is not the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWriter {
    /// It follows another instance.
    IsReplica {
        /// The instance that it follows.
        of: Address,
    },
    /// PING did not say PONG: loading, or busy with a script (ROLE says master meanwhile).
    NotReady(String),
    /// A `FAILOVER` command is handing its role over.
    HandingOver,
}

impl fmt::Display for NotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IsReplica { of } => write!(f, "says it is a replica of {of}"),
            Self::NotReady(error) => write!(f, "answers `{error}`"),
            Self::HandingOver => f.write_str("is handing its role over (FAILOVER)"),
        }
    }
}

/// Puts one instance to the writer test, with answers asked for at `since` or later.
pub fn writer_test<'a>(observed: &'a Observed, address: &Address, since: Mono) -> WriterTest<'a> {
    let Some(reading) = observed.instances.get(address) else {
        return WriterTest::Unknown("not asked yet".to_owned());
    };
    let answer = match &reading.result {
        Ok(answer) if reading.asked >= since => answer,
        Ok(_) => return WriterTest::Unknown("its last answer is too old".to_owned()),
        Err(error) => return WriterTest::Unknown(error.clone()),
    };
    if let Role::Replica { of, .. } = &answer.role {
        return WriterTest::Fails(NotWriter::IsReplica { of: of.clone() });
    }
    // ROLE says master while a data set is loading; only PING tells (`docs/facts/sentinel.md` 8).
    if let Some(error) = &answer.not_ready {
        return WriterTest::Fails(NotWriter::NotReady(error.clone()));
    }
    if answer.failover_running {
        return WriterTest::Fails(NotWriter::HandingOver);
    }
    WriterTest::Passes(answer)
}

/// How an instance's data set relates to what was published before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// Nothing was published before.
    First,
    /// It writes the very history that was published.
    Same,
    /// Its history goes on from the one that was published (`master_replid2`).
    Continues,
    /// It knows nothing of the history that was published: restarted without its replication
    /// state, restored, or another group's data.
    Unrelated,
}

impl Lineage {
    /// Compares an instance's history with the last writer's.
    pub fn of(answer: &InstanceAnswer, record: Option<&Record>) -> Self {
        let Some(last) = record.and_then(|r| r.last_writer.as_ref()) else { return Self::First };
        Self::after(answer, last)
    }

    fn after(answer: &InstanceAnswer, last: &Writer) -> Self {
        if answer.replid == last.replid {
            Self::Same
        } else if answer.replid2.as_ref() == Some(&last.replid) {
            Self::Continues
        } else {
            Self::Unrelated
        }
    }

    /// The history is the published one or goes on from it.
    pub fn continues(self) -> bool {
        matches!(self, Self::Same | Self::Continues)
    }
}

/// Two instances share a history: one of each one's two histories is the other's.
pub fn share_history(a: &InstanceAnswer, b: &InstanceAnswer) -> bool {
    histories(a).any(|id| histories(b).any(|other| id == other))
}

/// It writes, follows, or goes on from a history that a writer of this group has written.
pub fn is_of_lineage(record: Option<&Record>, answer: &InstanceAnswer) -> bool {
    let lineage = record.map(|record| record.lineage.as_slice()).unwrap_or_default();
    histories(answer).any(|id| lineage.contains(id))
}

/// The history an instance writes or follows, and the one before its last promotion.
pub fn histories(answer: &InstanceAnswer) -> impl Iterator<Item = &ReplId> {
    std::iter::once(&answer.replid).chain(&answer.replid2)
}

impl Writer {
    /// An instance as the writer, by what it says of its history.
    pub fn of(address: &Address, answer: &InstanceAnswer) -> Self {
        Self { address: address.clone(), replid: answer.replid.clone() }
    }
}
