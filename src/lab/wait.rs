//! Waiting for a condition, with a deadline, and with the last thing seen when it does not come.

use std::fmt::Display;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::LabError;

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

/// How often it is seen whether this program runs.
const BEAT: Duration = Duration::from_millis(20);
/// Later than this by so much, the machine stood still.
const LATE: Duration = Duration::from_millis(100);

static STOOD_STILL_MS: AtomicU64 = AtomicU64::new(0);

/// Begins to note for how long this program has no processor: what stands still beside it does so, too.
pub fn note_stalls() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        std::thread::spawn(|| {
            loop {
                let before = Instant::now();
                std::thread::sleep(BEAT);
                let late = before.elapsed().saturating_sub(BEAT);
                if late > LATE {
                    let ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                    STOOD_STILL_MS.fetch_add(ms, Ordering::Relaxed);
                }
            }
        });
    });
}

/// For how long it had none since [`note_stalls`].
pub fn stood_still() -> Duration {
    Duration::from_millis(STOOD_STILL_MS.load(Ordering::Relaxed))
}

/// Looks until `look` gives a value.
///
/// # Errors
/// After `deadline`: what was awaited, and what was seen last.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, LabError> {
    let end = Instant::now() + deadline;
    let mut last = "nothing".to_owned();
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last.push_str(", and the last look did not come back"),
        }
        if Instant::now() + STEP > end {
            return Err(LabError(format!(
                "{what}: not within {} ms; last seen: {last}",
                deadline.as_millis()
            )));
        }
        tokio::time::sleep(STEP).await;
    }
}
