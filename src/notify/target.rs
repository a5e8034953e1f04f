//! One target: what waits for it, and its tries. What hangs or is down holds up no other target, and no group's loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::send::{Teller, TryError};
use crate::core::identity::address::GroupName;
use crate::core::published::notices::{DELIVERED, Notice};
use crate::meter::NoticeMeter;
use crate::retry::Retry;

/// Events that wait for one target at the most: the oldest is dropped.
pub const QUEUE_MAX: usize = 256;
/// Groups whose events one target is told at a time.
pub const AT_ONCE_MAX: usize = 4;
/// Pause before what failed is tried again: the first and the longest one.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The word of a target that had too many events waiting.
pub const DROPPED: &str = "dropped: too many events wait";

/// An event for one target, and where to say what became of it.
#[derive(Debug)]
pub struct QueuedNotice {
    /// The event.
    pub notice: Arc<Notice>,
    /// The group's loop.
    pub report: mpsc::Sender<TargetReport>,
}

/// What became of an event at one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// The event's.
    pub id: String,
    /// The target's name.
    pub target: String,
    /// [`DELIVERED`], or why it was not.
    pub word: String,
}

/// The way to a target, for the groups' loops.
#[derive(Debug, Clone)]
pub struct TargetHandle {
    /// What tells it now.
    pub teller: Arc<Teller>,
    /// What waits for it.
    pub queue: mpsc::Sender<QueuedNotice>,
}

/// One target's task.
pub struct TargetTask {
    /// What tells it: a reload changes that, and what waits stays.
    pub teller: watch::Receiver<Arc<Teller>>,
    /// New events.
    pub queue: mpsc::Receiver<QueuedNotice>,
    /// The target's metrics.
    pub meter: NoticeMeter,
}

impl TargetTask {
    /// Tells until `stop`. What is not told by then, another agent tells.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut waiting: VecDeque<QueuedNotice> = VecDeque::new();
        let mut running: JoinSet<GroupName> = JoinSet::new();
        let mut busy: BTreeSet<GroupName> = BTreeSet::new();
        loop {
            self.meter.waiting(waiting.len() + busy.len());
            // Cancel safe: a token, a channel and tasks' ends.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = running.join_next(), if !running.is_empty() => match ended {
                    Ok(group) => drop(busy.remove(&group)),
                    // A task panicked: it is not known whose it was, and none may wait for ever.
                    Err(error) => {
                        error!("notify {}: {error}", self.teller.borrow().config.name);
                        if running.is_empty() {
                            busy.clear();
                        }
                    }
                },
                queued = self.queue.recv() => {
                    let Some(queued) = queued else {
                        stop.cancelled().await;
                        return;
                    };
                    waiting.push_back(queued);
                    if waiting.len() > QUEUE_MAX && let Some(oldest) = waiting.pop_front() {
                        self.drop_one(oldest);
                    }
                }
            }
            while running.len() < AT_ONCE_MAX
                && let Some(at) = waiting.iter().position(|q| !busy.contains(&q.notice.group))
                && let Some(queued) = waiting.remove(at)
            {
                busy.insert(queued.notice.group.clone());
                running.spawn(tell(self.teller.clone(), queued, self.meter.clone()));
            }
        }
    }

    fn drop_one(&self, queued: QueuedNotice) {
        let QueuedNotice { notice, report } = queued;
        let target = self.teller.borrow().config.name.clone();
        warn!("{}: {target} is not told of {}: {DROPPED}", notice.group, notice.id);
        self.meter.ended("dropped");
        let id = notice.id.clone();
        // A loop that has no place for it learns of nothing: it is noted by another agent, or not at all.
        let _ = report.try_send(TargetReport { id, target, word: DROPPED.to_owned() });
    }
}

/// Tells one event, as often as it takes and may take. Its group, for the next one.
async fn tell(
    teller: watch::Receiver<Arc<Teller>>,
    queued: QueuedNotice,
    meter: NoticeMeter,
) -> GroupName {
    let QueuedNotice { notice, report } = queued;
    let (group, id, event) = (notice.group.clone(), notice.id.clone(), notice.event.as_str());
    let mut retry = Retry::between(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let mut tried = 0_u8;
    let (target, word) = loop {
        // As it is now: a reload may have mended what is wrong.
        let teller = teller.borrow().clone();
        let target = teller.config.name.clone();
        tried = tried.saturating_add(1);
        match teller.send(&notice).await {
            Ok(()) => {
                info!("{group}: {target} is told of {event} {id}");
                break (target, DELIVERED.to_owned());
            }
            Err(TryError::Again(words)) if tried < teller.config.tries => {
                let pause = retry.next_delay();
                let ms = pause.as_millis();
                warn!(
                    "{group}: {target} is not told of {event} {id}, trying again in {ms} ms: {words}"
                );
                tokio::time::sleep(pause).await;
            }
            Err(error) => {
                let words = error.words();
                let times = if tried == 1 { "time" } else { "times" };
                error!(
                    "{group}: {target} is not told of {event} {id}, tried {tried} {times}: {words}"
                );
                break (target, format!("failed: {words}"));
            }
        }
    };
    meter.ended(if word == DELIVERED { DELIVERED } else { "failed" });
    let _ = report.send(TargetReport { id, target, word }).await;
    group
}

/// What became of one event at its targets, while that is not known of all.
#[derive(Debug, Default)]
pub struct Answers {
    /// Those that have not said yet.
    pub awaited: BTreeSet<String>,
    /// What the others have said.
    pub words: BTreeMap<String, String>,
}
