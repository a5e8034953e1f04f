//! How fast a storm of changes may make a file change: at once at first, and slower when it goes on.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Changes of a file that come as fast as they are known...
const BURST_MAX: usize = 5;
/// ... within this long.
const BURST_WINDOW: Duration = Duration::from_secs(10);

/// When a file was last changed.
#[derive(Debug, Default)]
pub struct ChangePace(VecDeque<Instant>);

impl ChangePace {
    /// Notes a change.
    pub fn changed(&mut self, at: Instant) {
        if self.0.len() == BURST_MAX {
            self.0.pop_front();
        }
        self.0.push_back(at);
    }

    /// When the next change may come; `None`: now.
    pub fn next(&self) -> Option<Instant> {
        self.0.front().filter(|_| self.0.len() == BURST_MAX).map(|oldest| *oldest + BURST_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_changes_come_at_once_and_the_rest_in_turn() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = ChangePace::default();
        for at in 0..5 {
            assert_eq!(pace.next(), None);
            pace.changed(ms(at * 100));
        }
        assert_eq!(pace.next(), Some(ms(10_000)));
        pace.changed(ms(10_000));
        assert_eq!(pace.next(), Some(ms(10_100)));
    }
}
