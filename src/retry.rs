//! The delay schedule of everything that is tried again. The only user of `backoff`.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// Growing, randomised delays, without an end: an agent never gives up, it only slows down.
#[derive(Debug)]
pub struct Retry {
    schedule: ExponentialBackoff,
}

impl Retry {
    /// Delays from `first`, doubling up to `most`, each ±30 %.
    pub fn between(first: Duration, most: Duration) -> Self {
        let mut schedule = ExponentialBackoff {
            initial_interval: first,
            max_interval: most,
            multiplier: 2.0,
            randomization_factor: 0.3,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        schedule.reset();
        Self { schedule }
    }

    /// For connections to Redis and Sentinel: 50 ms to 1 s, so that a returning server is seen
    /// within a tick.
    pub fn reconnecting() -> Self {
        Self::between(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// For connections to a Redis that is down: 20 to 150 ms, so that an old primary that returns is
    /// fenced before it has taken many writes.
    pub fn returning() -> Self {
        Self::between(Duration::from_millis(20), Duration::from_millis(150))
    }

    /// For calls to Consul: 100 ms to 2 s.
    pub fn consul() -> Self {
        Self::between(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        // `None` would mean that the time is up, and there is no limit.
        self.schedule.next_backoff().unwrap_or(self.schedule.max_interval)
    }

    /// Start again with the first delay: the last attempt succeeded.
    pub fn reset(&mut self) {
        self.schedule.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_start_again() {
        let ms = Duration::from_millis;
        let mut retry = Retry::between(ms(100), ms(1_000));
        let delays: Vec<Duration> = (0..20).map(|_| retry.next_delay()).collect();
        assert!(delays[0] >= ms(70) && delays[0] <= ms(131), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= ms(1_301)), "{delays:?}");
        assert!(delays[19] >= ms(700), "{delays:?}");
        retry.reset();
        assert!(retry.next_delay() <= ms(131));
    }
}
