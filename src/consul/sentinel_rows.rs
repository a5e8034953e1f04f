//! Publishes where Sentinels are. What the rows are is decided in [`crate::core::published::sentinel_rows`].

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::client::{Consul, ConsulError};
use super::registrar::Monitored;
use super::services::HealthEntry;
use crate::clock::{Clock, stood_still, ticks_every};
use crate::core::group::Outcome;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::SentinelGroup;
use crate::core::published::projection::{TXN_OPS_MAX, row_changes};
use crate::core::published::sentinel_rows::{Directory, SERVICE, node};

/// How often the rows are compared with what the Sentinels report.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a Sentinel said that matters here.
#[derive(Debug)]
pub enum SentinelNews {
    /// A Sentinel, and the groups that it monitors.
    Monitors(Address, Vec<GroupName>),
    /// What it says of one group, its peers among it.
    Peers(Address, GroupName, Box<SentinelGroup>),
}

impl Consul {
    /// The Sentinels that Consul agents have registered themselves, on other nodes than ours.
    async fn registered_elsewhere(&self, ours: &str) -> Result<BTreeSet<Address>, ConsulError> {
        let entries = self.instances(SERVICE).await?;
        let elsewhere = entries.iter().filter(|entry| entry.node() != ours);
        Ok(elsewhere.filter_map(HealthEntry::address).collect())
    }
}

/// Publishes the Sentinels' rows until all watchers have ended, as those of the installation that `installation` gives.
/// `left` are the groups that other agents watch.
pub async fn publish(
    consul: Consul,
    prefix: String,
    clock: Clock,
    installation: impl Fn() -> Option<String>,
    left: watch::Receiver<BTreeSet<GroupName>>,
    mut news: mpsc::Receiver<SentinelNews>,
    monitored: watch::Sender<Monitored>,
) {
    let mut directory = Directory::default();
    let mut look = ticks_every(LOOK_EVERY);
    let mut said: Option<String> = None;
    loop {
        // Cancel safe: a channel and a timer.
        tokio::select! {
            heard = news.recv() => {
                let due = match heard {
                    None => return,
                    Some(SentinelNews::Monitors(sentinel, groups)) => {
                        monitored.send_if_modified(|all| {
                            all.insert(sentinel.clone(), groups.clone()).as_ref() != Some(&groups)
                        });
                        directory.hear(sentinel, groups, clock.now())
                    }
                    Some(SentinelNews::Peers(sentinel, group, view)) => {
                        directory.note_peers(sentinel, group, &view, clock.now());
                        false
                    }
                };
                if !due {
                    continue;
                }
            }
            _ = look.tick() => {}
        }
        let ours = installation();
        directory.leave(&left.borrow());
        let failure = update(&consul, &prefix, ours.as_deref(), clock, &mut directory).await.err();
        let failure = failure.filter(|_| !stood_still());
        if let Some(failure) = failure.as_ref().filter(|failure| said.as_ref() != Some(failure)) {
            warn!("cannot publish where the Sentinels are: {failure}");
        }
        said = failure;
    }
}

async fn update(
    consul: &Consul,
    prefix: &str,
    installation: Option<&str>,
    clock: Clock,
    directory: &mut Directory,
) -> Result<(), String> {
    let node = node(prefix);
    let found = consul.rows(&node, &clock).await.map_err(|error| error.to_string())?;
    if found.foreign {
        return Err(format!("node {node} exists and is not ours"));
    }
    let elsewhere = consul.registered_elsewhere(&node).await.map_err(|error| error.to_string())?;
    let wanted = directory.rows(found.found.as_ref(), &elsewhere, installation, clock.now());
    if found.found.is_none() && wanted.services.is_empty() {
        return Ok(());
    }
    let mut ops = row_changes(&node, found.found.as_ref(), &wanted);
    if ops.is_empty() {
        return Ok(());
    }
    ops.truncate(TXN_OPS_MAX);
    debug!("{} changes to the Sentinels' rows", ops.len());
    match consul.txn(&ops, "").await {
        Outcome::Committed { .. } | Outcome::Lost => Ok(()),
        Outcome::Refused(error) | Outcome::Unknown(error) => Err(error),
    }
}
