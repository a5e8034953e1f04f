//! Waiting for a condition, with a deadline, and with the last thing seen when it does not come.

use std::fmt::Display;
use std::sync::Once;
use std::time::Duration;

use tokio::time::Instant;

use super::{LabError, contention};
use crate::clock;

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

/// How often it is noted that this program runs.
const BEAT: Duration = Duration::from_millis(20);

/// Begins to note for how long this program has no processor ([`clock::stood_still_for`]), for what runs beside it has
/// none meanwhile, either; and how many tasks share each processor ([`contention`]).
pub fn note_stalls() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        std::thread::spawn(|| {
            loop {
                clock::beat(BEAT);
                contention::sample();
                std::thread::sleep(BEAT);
            }
        });
    });
}

/// Looks until `look` gives a value.
///
/// # Errors
/// After `deadline`, and the time in which the world waited for a processor: what was awaited, and what was seen last.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, LabError> {
    note_stalls();
    let begun = Instant::now();
    let mut last = "nothing".to_owned();
    loop {
        match tokio::time::timeout(deadline, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last.push_str(", and the last look did not come back"),
        }
        let took = begun.elapsed();
        if contention::is_over(deadline, took + STEP) {
            return Err(LabError(format!(
                "{what}: not within {} ms, of which {} ms were waited for a processor; last seen: {last}",
                took.as_millis(),
                contention::waited_within(took).as_millis()
            )));
        }
        tokio::time::sleep(STEP).await;
    }
}
