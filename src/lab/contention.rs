//! How busy the machine is: how many tasks wait for each processor. What a world's servers do takes that much longer, so
//! that a wait for them has to be longer, too.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Samples that are kept: five minutes, one in 20 ms.
const SAMPLES_MAX: usize = 15_000;
/// How much longer a wait becomes at the most.
const STRETCH_MAX: u32 = 3;

/// Since the program began to look: when, and for how long what was to be done waited for a processor until then.
static WAITED: Mutex<VecDeque<(Instant, Duration)>> = Mutex::new(VecDeque::new());

/// Takes one sample: what had to be done since the last one has had a share of a processor.
pub(super) fn sample() {
    let Some(tasks) = runnable() else { return };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let now = Instant::now();
    let mut waited = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, before) = waited.back().copied().unwrap_or((now, Duration::ZERO));
    let more = lost(now.saturating_duration_since(last), tasks, processors);
    if waited.len() >= SAMPLES_MAX {
        waited.pop_front();
    }
    waited.push_back((now, before + more));
}

/// Of a time in which so many tasks shared so many processors, what one of them has lost to the others.
fn lost(time: Duration, tasks: u32, processors: usize) -> Duration {
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    time.saturating_sub(time.saturating_mul(processors.min(tasks.max(1))) / tasks.max(1))
}

/// Tasks that run or wait for a processor now, on the whole machine; `None` where the system does not say.
fn runnable() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let (running, _) = text.split(' ').nth(3)?.split_once('/')?;
    // This one reads.
    running.parse::<u32>().ok().map(|running| running.saturating_sub(1))
}

/// For how long what a world does has waited for a processor, of the `time` that ends now: no time where nothing was
/// noted.
pub fn waited_within(time: Duration) -> Duration {
    let waited = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((now, all)) = waited.back().copied() else { return Duration::ZERO };
    let before =
        now.checked_sub(time).map_or(0, |begun| waited.partition_point(|(at, _)| *at <= begun));
    let before = waited.get(before.saturating_sub(1)).map_or(Duration::ZERO, |(_, before)| *before);
    all.saturating_sub(before).min(time)
}

/// A wait of this long that began so long ago is over, on a machine as busy as this one was meanwhile.
pub(super) fn is_over(deadline: Duration, took: Duration) -> bool {
    let is_late = || took.saturating_sub(waited_within(took)) >= deadline;
    took >= deadline && (took >= deadline * STRETCH_MAX || is_late())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_processor_with_three_has_lost_three_quarters_of_its_time() {
        let s = Duration::from_secs;
        assert_eq!(lost(s(8), 4, 1), s(6));
        assert_eq!(lost(s(8), 4, 2), s(4));
        assert_eq!(lost(s(8), 2, 2), s(0));
        assert_eq!(lost(s(8), 0, 2), s(0));
    }

    #[test]
    fn this_machine_says_how_many_tasks_it_has() {
        assert!(runnable().is_some());
        sample();
        std::thread::sleep(Duration::from_millis(30));
        sample();
        assert!(waited_within(Duration::from_secs(1)) <= Duration::from_secs(1));
        assert!(is_over(Duration::from_secs(1), Duration::from_secs(3)));
        assert!(!is_over(Duration::from_secs(1), Duration::from_millis(999)));
    }
}
