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
/// Of those, writes that no name waits for.
const LATER_MAX: usize = 2;
/// How long a write may wait that a name waits for, and another one: what it rests on is looked at anew then.
const AWAITED_WAIT_MAX: Duration = Duration::from_secs(2);
const WRITE_WAIT_MAX: Duration = Duration::from_secs(8);

/// The places of one client and its clones.
#[derive(Debug)]
pub struct Places {
    reads: Semaphore,
    watched: Semaphore,
    polls: Semaphore,
    writes: Semaphore,
    later: Semaphore,
}

/// A place for a write, until it is dropped.
#[derive(Debug)]
pub struct WritePlace<'a> {
    _all: SemaphorePermit<'a>,
    _later: Option<SemaphorePermit<'a>>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            reads: Semaphore::new(READS_MAX),
            watched: Semaphore::new(WATCHED_MAX),
            polls: Semaphore::new(POLLS_MAX),
            writes: Semaphore::new(WRITES_MAX),
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

    /// For a write that a name waits for, or for another one; `None` when all places are taken for seconds.
    /// Cancel safe.
    pub async fn write(&self, awaited: bool) -> Option<WritePlace<'_>> {
        let place = async {
            let later = if awaited { None } else { Some(self.later.acquire().await.ok()?) };
            Some(WritePlace { _all: self.writes.acquire().await.ok()?, _later: later })
        };
        let wait = if awaited { AWAITED_WAIT_MAX } else { WRITE_WAIT_MAX };
        tokio::time::timeout(wait, place).await.ok()?
    }

    /// For a write that is of use only where no other one comes behind it: `None` while others wait or are written.
    pub fn write_alone(&self) -> Option<WritePlace<'_>> {
        if self.writes.available_permits() < WRITES_MAX - 1 {
            return None;
        }
        Some(WritePlace { _all: self.writes.try_acquire().ok()?, _later: None })
    }
}
