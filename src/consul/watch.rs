//! Blocking queries on one group's keys (`docs/facts/consul.md` 4).

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::client::{Consul, ConsulError, WATCH_WAIT};
use super::store::ReadMode;
use crate::clock::Clock;
use crate::core::group::Input;
use crate::core::observed::StoreAnswer;
use crate::core::projection::Layout;
use crate::retry::Retry;

/// One group's keys, asked for again and again.
#[derive(Debug)]
pub struct GroupWatch {
    consul: Consul,
    layout: Layout,
    clock: Clock,
    wait: Duration,
    index: u64,
    retry: Retry,
    failed: bool,
}

impl GroupWatch {
    /// Answers as soon as something changes, and after `wait` in any case.
    pub fn new(consul: Consul, layout: Layout, clock: Clock, wait: Duration) -> Self {
        Self { consul, layout, clock, wait, index: 0, retry: Retry::consul(), failed: false }
    }

    /// The next answer; the first one at once. After an error it pauses before it asks again. Cancel safe.
    ///
    /// # Errors
    /// Any [`ConsulError`]. What was read before stays what is known.
    pub async fn next(&mut self) -> Result<StoreAnswer, ConsulError> {
        if self.failed {
            tokio::time::sleep(self.retry.next_delay()).await;
        }
        let mode = ReadMode::Watch { index: self.index, wait: self.wait };
        match self.consul.group(&self.layout, mode, &self.clock).await {
            Ok(answer) => {
                self.retry.reset();
                self.failed = false;
                // An index that went back (a restored or wiped Consul) starts again, and 0 would
                // not block at all.
                self.index = if answer.index < self.index { 0 } else { answer.index.max(1) };
                Ok(answer.value)
            }
            Err(error) => {
                self.failed = true;
                self.index = 0;
                Err(error)
            }
        }
    }
}

impl Consul {
    /// The same answer, unless it shows an older generation than `known`: then what a consistent read shows. A server
    /// that has lost the leadership and does not know it yet is not believed; a Consul that was wiped is.
    ///
    /// # Errors
    /// Any [`ConsulError`] of the consistent read.
    pub async fn confirmed(
        &self,
        layout: &Layout,
        clock: &Clock,
        answer: StoreAnswer,
        known: Option<u64>,
    ) -> Result<StoreAnswer, ConsulError> {
        if !is_older(&answer, known) {
            return Ok(answer);
        }
        Ok(self.group(layout, ReadMode::Consistent, clock).await?.value)
    }
}

/// It shows an older generation than one that was read before.
fn is_older(answer: &StoreAnswer, known: Option<u64>) -> bool {
    match (answer.record(), known) {
        (Some(record), Some(known)) => record.generation < known,
        _ => false,
    }
}

/// Hands every change of the group's keys to `inputs`, until nobody takes them any more.
///
/// Consul away changes nothing: the last answer stays what is known, and this says so once.
pub async fn watch_group(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
) {
    let mut watch = GroupWatch::new(consul.clone(), layout.clone(), clock, WATCH_WAIT);
    let mut away = false;
    while !inputs.is_closed() {
        match watch.next().await {
            Ok(answer) => {
                if away {
                    info!("{}: Consul at {} answers again", layout.group, consul.address());
                    away = false;
                }
                if inputs.send(Input::Watched(answer)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !away {
                    warn!(
                        "{}: {error}; trying again, and what is published stays as it is",
                        layout.group
                    );
                    away = true;
                }
                if inputs.send(Input::ConsulSilent).await.is_err() {
                    return;
                }
            }
        }
    }
}
