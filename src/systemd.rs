//! Notifies systemd, where it has started us (`Type=notify`): that we are ready, what the groups are like, and that
//! their loops turn.

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::clock::ticks_every;
use crate::http::Groups;
use crate::meter::Meter;
use crate::snapshot::Snapshot;

/// How often it is looked whether the status line has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A loop that has not turned for this long hangs: it turns once a second at least.
const LOOP_AGE_MAX_S: f64 = 10.0;

/// systemd has started us and listens (`NOTIFY_SOCKET`).
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// The agent works, by the config that it has now.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The agent is up, and goes on once Consul answers: to be killed for that, after systemd's time for a start, would be
/// of no use.
pub fn waiting(consul: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("waiting for Consul at {consul}"))]);
}

/// Says that we live, as often as systemd wants to hear it, for as long as it is let: while there is no loop yet.
pub async fn keep_alive() {
    let Some(within) = sd_notify::watchdog_enabled() else { return pending().await };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(within / 2).await;
    }
}

/// The config is about to be read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(since) => tell(&[NotifyState::Reloading, since]),
        Err(error) => debug!("cannot notify systemd: {error}"),
    }
}

/// The agent is about to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(what: &[NotifyState<'_>]) {
    // Does nothing without `NOTIFY_SOCKET`.
    if let Err(error) = sd_notify::notify(what) {
        debug!("cannot notify systemd: {error}");
    }
}

/// Sends the status line of the groups whenever that changes, and that we are alive as often as systemd wants to hear
/// it, for as long as every group's loop turns.
pub async fn keep_telling(groups: watch::Receiver<Groups>, meter: Meter, stop: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of what it waits, as its manual says.
    let every = watchdog.map_or(LOOK_EVERY, |within| LOOK_EVERY.min(within / 2));
    let mut ticks = ticks_every(every);
    let mut told = String::new();
    let mut hangs = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (status, hanging) = {
            let groups = groups.borrow();
            let mut hanging = groups.keys().filter(|group| meter.loop_age(group) > LOOP_AGE_MAX_S);
            let all = groups.values().filter_map(|(shown, _)| Some(line(shown.borrow().as_ref()?)));
            (all.collect::<Vec<_>>().join("; "), hanging.next().cloned())
        };
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        match &hanging {
            Some(group) if !hangs => error!("{group}: the loop does not turn any more"),
            None if watchdog.is_some() => tell(&[NotifyState::Watchdog]),
            _ => {}
        }
        hangs = hanging.is_some();
    }
}

/// `redis: writer 10.0.0.5:6379, generation 8`
fn line(snapshot: &Snapshot) -> String {
    let status = &snapshot.status;
    let writer = status.writer.as_ref().map_or("no writer".to_owned(), |w| format!("writer {w}"));
    let problems = match status.problems.len() {
        0 => String::new(),
        1 => ", 1 problem".to_owned(),
        count => format!(", {count} problems"),
    };
    format!("{}: {writer}, generation {}{problems}", status.group, status.generation)
}
