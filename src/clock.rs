//! The one place where time is read.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::info;

use crate::core::time::{Mono, Now};

/// Both clocks, from one start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// This instant on both clocks.
    pub fn now(&self) -> Now {
        let elapsed_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Starts above 0, so that "asked at 0" stays before everything.
        Now { mono: Mono(elapsed_ms + 1), wall: wall() }
    }

    /// A moment of the runtime's clock on this one.
    pub fn mono(&self, at: tokio::time::Instant) -> Mono {
        let since_start = at.into_std().saturating_duration_since(self.start);
        Mono(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }

    /// A moment of this clock as the runtime's own.
    pub fn instant(&self, at: Mono) -> tokio::time::Instant {
        let since_start = Duration::from_millis(at.0.saturating_sub(1));
        tokio::time::Instant::from_std(self.start + since_start)
    }
}

/// Ticks, the first one at once. Those that were missed, while the machine or we stood still, are not made up for.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn ticks_every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The wall clock, for what only people read.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// How often the program notes that it runs.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// Without a note for so long it stood still: it was suspended, or had no processor.
const STOOD_STILL_AFTER: Duration = Duration::from_secs(2);
/// What was asked before that ends late for as long after it.
const LATE_FOR: Duration = Duration::from_secs(3);

/// A note that is later than this had no processor meanwhile.
const LATE: Duration = Duration::from_millis(100);

/// What the program's own notes say of it.
#[derive(Default)]
struct Turns {
    /// When it last noted that it runs.
    last: Option<Instant>,
    /// Until then, what ends late is its own fault.
    late_until: Option<Instant>,
    /// For how long it had no processor, all in all.
    lost: Duration,
}

static LIFE: Mutex<Turns> =
    Mutex::new(Turns { last: None, late_until: None, lost: Duration::ZERO });

/// Notes that the program runs, for as long as it does.
pub async fn keep_beating() {
    let mut ticks = ticks_every(BEAT_EVERY);
    loop {
        ticks.tick().await;
        beat(BEAT_EVERY);
    }
}

/// Notes that the program runs, where it does so this often. Until when what ends late is its own fault.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn beat(every: Duration) -> Option<Instant> {
    let now = Instant::now();
    let mut life = LIFE.lock().unwrap_or_else(PoisonError::into_inner);
    let gap = life.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
    let late = gap.saturating_sub(every);
    if late > LATE {
        life.lost += late;
    }
    if gap >= STOOD_STILL_AFTER {
        let s = gap.as_secs();
        info!("this program stood still for {s} s: answers that came meanwhile are late");
        life.late_until = Some(now + LATE_FOR);
    }
    life.last = Some(now);
    life.late_until.filter(|until| *until > now)
}

/// For how long the program had no processor, as its notes say; no time where it notes nothing.
pub fn stood_still_for() -> Duration {
    LIFE.lock().unwrap_or_else(PoisonError::into_inner).lost
}

/// The program itself stood still until a moment ago: that an answer did not come in time says nothing of the server
/// that was asked. False where [`keep_beating`] does not run.
pub fn stood_still() -> bool {
    beat(BEAT_EVERY).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_processor_knows_for_how_long() {
        let every = Duration::from_millis(20);
        beat(every);
        let before = stood_still_for();
        std::thread::sleep(Duration::from_millis(300));
        beat(every);
        // Other tests of this process may beat as well.
        let lost = stood_still_for() - before;
        assert!(lost >= Duration::from_millis(250), "{lost:?}");
    }

    #[tokio::test]
    async fn ticks_that_were_missed_are_not_made_up_for() {
        let mut ticks = ticks_every(Duration::from_millis(20));
        ticks.tick().await;
        std::thread::sleep(Duration::from_millis(300));
        let window = tokio::time::Instant::now() + Duration::from_millis(10);
        let mut count = 0;
        while tokio::time::timeout_at(window, ticks.tick()).await.is_ok() {
            count += 1;
        }
        assert!(count <= 2, "{count} at once");
    }
}
