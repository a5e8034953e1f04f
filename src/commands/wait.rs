//! `consul-redis wait GROUP`: for scripts that need the writer, or replicas, before they go on.

use tokio::time::Instant;

use crate::cli::WaitArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::{Consul, ConsulError, WATCH_WAIT};
use crate::consul::watch::GroupWatch;
use crate::core::observed::{StoreAnswer, StoredState};
use crate::core::projection::Layout;
use crate::core::record::Record;
use crate::exit::{Code, Failure};

/// Waits until the group is as wanted, and prints the addresses. [`Code::Unhealthy`] when it was not in time.
///
/// # Errors
/// A [`Failure`] when Consul denies it, or did not answer in time.
pub async fn run(config: Config, args: &WaitArgs) -> Result<Code, Failure> {
    let consul = Consul::new(&config.consul)?;
    let layout = Layout::new(&config.prefix, &args.awaited);
    let mut watch = GroupWatch::new(consul, layout.clone(), Clock::start(), WATCH_WAIT);
    let end = Instant::now() + args.timeout.0;
    let mut last: Result<String, ConsulError> = Ok("Consul has not answered".to_owned());
    while let Ok(answer) = tokio::time::timeout_at(end, watch.next()).await {
        last = match answer {
            Ok(keys) => match look(&layout, &keys, args.replicas) {
                Ok(addresses) => {
                    print!("{addresses}");
                    return Ok(Code::Done);
                }
                Err(why) => Ok(why),
            },
            Err(error) if error.is_transient() => Err(error),
            Err(error) => return Err(error.into()),
        };
    }
    let why = last?;
    eprintln!("{}: not within {} ms: {why}", args.awaited, args.timeout.as_ms());
    Ok(Code::Unhealthy)
}

/// What was waited for, one address a line; or why it is not there.
fn look(layout: &Layout, keys: &StoreAnswer, replicas: Option<u16>) -> Result<String, String> {
    match (&keys.state, replicas) {
        (StoredState::Known(record), None) => writer(record),
        (StoredState::Known(record), Some(count)) => in_sync(record, usize::from(count)),
        (StoredState::Absent, _) => Err("nothing was ever published".to_owned()),
        (StoredState::Unreadable(why), _) => {
            Err(format!("the key {} cannot be used: {why}", layout.state()))
        }
    }
}

fn writer(record: &Record) -> Result<String, String> {
    let writer = record.writer_address().map(|writer| format!("{writer}\n"));
    writer.ok_or_else(|| format!("there is no writer: {}", record.why))
}

fn in_sync(record: &Record, count: usize) -> Result<String, String> {
    let replicas: Vec<String> = record.replicas().map(|replica| format!("{replica}\n")).collect();
    if replicas.len() >= count {
        return Ok(replicas.concat());
    }
    Err(format!("{} of {count} replicas are in sync", replicas.len()))
}
