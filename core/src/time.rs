//! Time as the core sees it: handed in, never read.

use std::fmt;
use std::ops::Sub;

use jiff::{SignedDuration, Timestamp};

/// A moment on the agent's monotonic clock, in milliseconds since the agent started.
///
/// Ages and deadlines use this one; it never jumps. Wall-clock time is only for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl Sub for Mono {
    type Output = u64;

    /// Milliseconds from `earlier` to `self`, or 0 when `earlier` is later.
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For ages and deadlines: it never jumps.
    pub mono: Mono,
    /// For what people read: it may jump.
    pub wall: Timestamp,
}

impl Now {
    /// What the wall clock would have said at an earlier moment, had it never been set.
    pub fn wall_at(&self, earlier: Mono) -> Timestamp {
        let ago_ms = i64::try_from(self.mono - earlier).unwrap_or(i64::MAX);
        after(self.wall, ago_ms.saturating_neg())
    }
}

/// That moment and so many ms.
pub fn after(at: Timestamp, ms: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_millis(ms)).unwrap_or(at)
}

/// How long after the one moment the other is, in ms; 0 where it is before.
pub fn between_ms(earlier: Timestamp, later: Timestamp) -> u64 {
    u64::try_from(later.duration_since(earlier).as_millis()).unwrap_or_default()
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.wall)
    }
}
