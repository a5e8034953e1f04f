//! The one place where time is read.

use std::time::Instant;

use jiff::Timestamp;

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
        let since_start = std::time::Duration::from_millis(at.0.saturating_sub(1));
        tokio::time::Instant::from_std(self.start + since_start)
    }
}

/// The wall clock, for what only people read.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn wall() -> Timestamp {
    Timestamp::now()
}
