//! How a Consul that does not answer is asked again: by one query at a time, whatever the number of groups, so that one
//! that comes back is met by one question and not by all at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::retry::Retry;

/// Pause between two questions to a Consul that does not answer: the first and the longest one. All blocking queries of
/// an agent share it, so it may be short: a failover waits for it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// Between two queries that go on once Consul answers again.
const RESUME_GAP: Duration = Duration::from_millis(5);

/// Whether one Consul answers, and when it may be asked again where it does not. For all blocking queries of a client.
#[derive(Debug)]
pub(super) struct Recovery(watch::Sender<State>);

#[derive(Debug)]
struct State {
    failing: bool,
    /// When the next query may be sent.
    next: Instant,
    retry: Retry,
}

impl State {
    /// Takes the next turn, or says when that is.
    fn claim(&mut self, now: Instant) -> Result<(), Instant> {
        if now < self.next {
            return Err(self.next);
        }
        let gap = if self.failing { self.retry.next_delay() } else { RESUME_GAP };
        self.next = now + gap;
        Ok(())
    }
}

impl Recovery {
    pub fn new() -> Self {
        let retry = Retry::between(PAUSE.0, PAUSE.1);
        Self(watch::Sender::new(State { failing: false, next: Instant::now(), retry }))
    }

    /// For a query that was not answered: waits until it may ask again. Cancel safe.
    pub async fn turn(&self) {
        let mut changed = self.0.subscribe();
        loop {
            let mut claimed = Ok(());
            self.0.send_if_modified(|state| {
                claimed = state.claim(Instant::now());
                false
            });
            let Err(next) = claimed else { return };
            // The sender is ours, so this only ends by a change or in time.
            let _ = tokio::time::timeout_at(next, changed.changed()).await;
        }
    }

    /// A query was not answered.
    pub fn failed(&self) {
        self.0.send_if_modified(|state| {
            if !state.failing {
                state.failing = true;
                state.retry.reset();
                state.next = state.next.max(Instant::now() + state.retry.next_delay());
            }
            false
        });
    }

    /// A query was answered: the others need not wait any more.
    pub fn answered(&self) {
        self.0.send_if_modified(|state| {
            let recovered = std::mem::take(&mut state.failing);
            if recovered {
                state.next = Instant::now();
            }
            recovered
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    const QUERIES: usize = 50;

    /// Queries of which each counts its turns, and says what came of it.
    fn queries(recovery: &Arc<Recovery>, answer: bool) -> (JoinSet<()>, Arc<AtomicUsize>) {
        let turns = Arc::new(AtomicUsize::new(0));
        let mut all = JoinSet::new();
        for _ in 0..QUERIES {
            let (recovery, turns) = (recovery.clone(), turns.clone());
            all.spawn(async move {
                loop {
                    recovery.turn().await;
                    turns.fetch_add(1, Ordering::Relaxed);
                    if answer {
                        return recovery.answered();
                    }
                    recovery.failed();
                }
            });
        }
        (all, turns)
    }

    #[tokio::test]
    async fn a_consul_that_is_away_is_asked_by_one_query_at_a_time() {
        let recovery = Arc::new(Recovery::new());
        recovery.failed();
        let (_all, turns) = queries(&recovery, false);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let turns = turns.load(Ordering::Relaxed);
        // After 0.1, 0.3, 0.7, 1.2, 1.7 and 2.2 s, each pause a third more or less.
        assert!((2..=9).contains(&turns), "{turns}");
    }

    #[tokio::test]
    async fn the_first_answer_lets_the_others_go_on_one_after_the_other() {
        let recovery = Arc::new(Recovery::new());
        for _ in 0..5 {
            recovery.failed();
        }
        let began = Instant::now();
        let (mut all, turns) = queries(&recovery, true);
        while all.join_next().await.is_some() {}
        assert_eq!(turns.load(Ordering::Relaxed), QUERIES);
        let took = began.elapsed();
        let apart = RESUME_GAP * u32::try_from(QUERIES - 1).unwrap();
        assert!(took >= apart, "{took:?}");
        // The pause before the first, and a slow machine.
        assert!(took <= apart + Duration::from_secs(2), "{took:?}");
    }
}
