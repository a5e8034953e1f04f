//! How many requests an agent has at Consul at a time, whatever the number of its groups. What has no place waits for
//! one, and a write waits for no read.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Reads of single groups, those of the watch of very many groups, looks for registered instances, and writes, at a
/// time. With two blocking queries, the presence and the rows of Sentinels these are 16 connections.
const READS_MAX: usize = 3;
const WATCHED_MAX: usize = 2;
const POLLS_MAX: usize = 1;
const WRITES_MAX: usize = 6;
/// Of those, withdrawals of writers, and writes that no name waits for.
const WITHDRAWALS_MAX: usize = 3;
const LATER_MAX: usize = 2;
/// How long a write may wait, by its kind: what it rests on is looked at anew then. For a withdrawal that is soon: a new
/// writer may be there to be published instead.
const PUBLICATION_WAIT_MAX: Duration = Duration::from_secs(2);
const WITHDRAWAL_WAIT_MAX: Duration = Duration::from_millis(200);
const LATER_WAIT_MAX: Duration = Duration::from_secs(8);

/// What a write is for, as far as its place goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// It publishes a writer: a name waits for it, and it goes before all others.
    Publication,
    /// It withdraws a writer.
    Withdrawal,
    /// No name waits for it.
    Later,
}

/// The places of one client and its clones.
#[derive(Debug)]
pub struct Places {
    reads: Semaphore,
    watched: Semaphore,
    polls: Semaphore,
    writes: Semaphore,
    withdrawals: Semaphore,
    later: Semaphore,
}

/// A place for a write, until it is dropped.
#[derive(Debug)]
pub struct WritePlace<'a> {
    _all: SemaphorePermit<'a>,
    _of_kind: Option<SemaphorePermit<'a>>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            reads: Semaphore::new(READS_MAX),
            watched: Semaphore::new(WATCHED_MAX),
            polls: Semaphore::new(POLLS_MAX),
            writes: Semaphore::new(WRITES_MAX),
            withdrawals: Semaphore::new(WITHDRAWALS_MAX),
            later: Semaphore::new(LATER_MAX),
        }
    }
}

impl Places {
    /// For a read. Cancel safe. The semaphores are never closed.
    pub async fn read(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    /// For a read of the watch of very many groups, which no single group's waits behind. Cancel safe.
    pub async fn watched(&self) -> Option<SemaphorePermit<'_>> {
        self.watched.acquire().await.ok()
    }

    /// For a look for registered instances. Cancel safe.
    pub async fn poll(&self) -> Option<SemaphorePermit<'_>> {
        self.polls.acquire().await.ok()
    }

    /// For a write; `None` when it has waited for so long that what it rests on is to be looked at anew. Cancel safe.
    pub async fn write(&self, kind: WriteKind) -> Option<WritePlace<'_>> {
        let (few, wait) = match kind {
            WriteKind::Publication => (None, PUBLICATION_WAIT_MAX),
            WriteKind::Withdrawal => (Some(&self.withdrawals), WITHDRAWAL_WAIT_MAX),
            WriteKind::Later => (Some(&self.later), LATER_WAIT_MAX),
        };
        let place = async {
            let of_kind = match few {
                Some(few) => Some(few.acquire().await.ok()?),
                None => None,
            };
            Some(WritePlace { _all: self.writes.acquire().await.ok()?, _of_kind: of_kind })
        };
        tokio::time::timeout(wait, place).await.ok()?
    }

    /// For a write that is of use only where no other one comes behind it: `None` while others wait or are written.
    pub fn write_alone(&self) -> Option<WritePlace<'_>> {
        if self.writes.available_permits() < WRITES_MAX - 1 {
            return None;
        }
        Some(WritePlace { _all: self.writes.try_acquire().ok()?, _of_kind: None })
    }
}
