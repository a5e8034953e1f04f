//! How fast a storm of changes may make a file change: at once at first, and slower when it goes on.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Changes of a file that come as fast as they are known...
const BURST_MAX: usize = 5;
/// ... within this long.
const BURST_WINDOW: Duration = Duration::from_secs(10);

/// What is new in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileNews {
    /// A group has another writer, or none.
    Writer,
    /// Whatever else a template shows.
    Rest,
}

/// When a file was last changed. A change of a writer has room of its own: no storm of others delays it.
#[derive(Debug, Default)]
pub struct ChangePace {
    all: Burst,
    of_writers: Burst,
}

#[derive(Debug, Default)]
struct Burst(VecDeque<Instant>);

impl ChangePace {
    /// Notes a change.
    pub fn changed(&mut self, news: FileNews, at: Instant) {
        self.all.note(at);
        if news == FileNews::Writer {
            self.of_writers.note(at);
        }
    }

    /// When the next change may come; `None`: at once.
    pub fn next(&self, news: FileNews) -> Option<Instant> {
        let any = self.all.over();
        match news {
            FileNews::Rest => any,
            FileNews::Writer => any.and_then(|any| Some(any.min(self.of_writers.over()?))),
        }
    }
}

impl Burst {
    fn note(&mut self, at: Instant) {
        if self.0.len() == BURST_MAX {
            self.0.pop_front();
        }
        self.0.push_back(at);
    }

    fn over(&self) -> Option<Instant> {
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
            assert_eq!(pace.next(FileNews::Rest), None);
            pace.changed(FileNews::Rest, ms(at * 100));
        }
        assert_eq!(pace.next(FileNews::Rest), Some(ms(10_000)));
        pace.changed(FileNews::Rest, ms(10_000));
        assert_eq!(pace.next(FileNews::Rest), Some(ms(10_100)));
    }

    #[tokio::test]
    async fn a_writer_waits_for_no_other_change_but_for_writers() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = ChangePace::default();
        for at in 0..5 {
            pace.changed(FileNews::Rest, ms(at));
        }
        for at in 5..10 {
            assert_eq!(pace.next(FileNews::Writer), None);
            pace.changed(FileNews::Writer, ms(at));
        }
        assert_eq!(pace.next(FileNews::Writer), Some(ms(10_005)));
        assert_eq!(pace.next(FileNews::Rest), Some(ms(10_005)));
    }
}
