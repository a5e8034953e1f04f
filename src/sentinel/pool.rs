//! All Sentinels there are: those in the list, those behind a DNS name or a Consul service, and those
//! that the others name. One watcher each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::watch::{SentinelCommand, SentinelReport, WatchSettings, watch_sentinel};
use crate::consul::client::Consul;
use crate::consul::sentinel_rows::SentinelNews;
use crate::core::address::{Address, GroupName};
use crate::core::observed::{Reading, SentinelAnswer};
use crate::dns::Names;

/// Sentinels watched at the most. More than that is a mistake in a name or a service.
pub const SENTINELS_MAX: usize = 64;
/// A Sentinel that the others have not named for this long is not asked any more.
const PEER_FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Pause between two look-ups while no Sentinel has been found at all: a group that is being started has some soon.
const REFRESH_UNTIL_FOUND: Duration = Duration::from_secs(1);
/// Reports waiting to be passed on.
const REPORTS_MAX: usize = 1_024;

/// Where Sentinels are to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelSources {
    /// Listed. A host that is a name stands for all its addresses.
    pub listed: Vec<Address>,
    /// Registered in Consul under this service.
    pub consul_service: Option<String>,
    /// Ask the ones that are found about the others.
    pub peers: bool,
    /// How often names and the service are looked up again.
    pub refresh: Duration,
}

/// Sentinels, and the name under which each was listed: what its TLS certificate is made out to.
pub type Found = BTreeMap<Address, Option<String>>;

/// The Sentinels that the sources give now, and what went wrong.
pub async fn find(
    sources: &SentinelSources,
    names: &Names,
    consul: &Consul,
) -> (Found, Vec<String>) {
    let (mut found, mut failures) = (Found::new(), Vec::new());
    let lookups = sources.listed.iter().map(|listed| async {
        (listed.ip().is_none().then(|| listed.host().to_owned()), names.addresses(listed).await)
    });
    for (name, addresses) in futures_util::future::join_all(lookups).await {
        match addresses {
            Ok(addresses) => found.extend(addresses.into_iter().map(|a| (a, name.clone()))),
            Err(error) => failures.push(error.to_string()),
        }
    }
    if let Some(service) = &sources.consul_service {
        match consul.service_addresses(service).await {
            Ok(addresses) => {
                for address in addresses {
                    found.entry(address).or_insert(None);
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    (found.into_iter().take(SENTINELS_MAX).collect(), failures)
}

/// What a group's loop hears of its Sentinels.
#[derive(Debug)]
pub enum PoolReport {
    /// One answered, or failed to.
    Answered(Address, Reading<SentinelAnswer>),
    /// One is asked no more.
    Gone(Address),
}

/// Who hears about each group's Sentinels.
pub type Hearers = BTreeMap<GroupName, mpsc::Sender<PoolReport>>;

/// What is watched, and for whom. It may change while the pool runs.
#[derive(Clone)]
pub struct Watched {
    /// Where to look.
    pub sources: SentinelSources,
    /// How to look up names.
    pub names: Names,
    /// For each watcher.
    pub settings: WatchSettings,
    /// Where answers go.
    pub groups: Hearers,
}

/// Keeps one watcher for each Sentinel there is.
pub struct Pool {
    /// What is watched.
    pub watched: watch::Receiver<Watched>,
    /// For the Consul service.
    pub consul: Consul,
    /// The commands that all watchers hear.
    pub commands: broadcast::Sender<SentinelCommand>,
    /// Who hears where Sentinels are.
    pub news: mpsc::Sender<SentinelNews>,
}

impl Pool {
    /// Runs for as long as it is let.
    pub async fn run(mut self) {
        let (report, mut reports) = mpsc::channel(REPORTS_MAX);
        let mut now = self.watched.borrow_and_update().clone();
        let (tell, settings) = watch::channel(now.settings.clone());
        let mut state = PoolState::default();
        let mut lookups = self.look_up_regularly(&now);
        loop {
            // Cancel safe: channels.
            tokio::select! {
                Some(found) = reports.recv() => self.pass_on(found, &now, &mut state).await,
                Some((found, failures)) = lookups.0.recv() => note(found, failures, &mut state),
                Ok(()) = self.watched.changed() => {
                    now = self.watched.borrow_and_update().clone();
                    tell.send_replace(now.settings.clone());
                    lookups = self.look_up_regularly(&now);
                }
            }
            self.adjust(&now, &settings, &mut state, &report).await;
        }
    }

    /// In a task of its own: a DNS server that does not answer must not hold up a failover.
    fn look_up_regularly(
        &self,
        watched: &Watched,
    ) -> (mpsc::Receiver<(Found, Vec<String>)>, AbortOnDropHandle<()>) {
        let (send, receive) = mpsc::channel(1);
        let (sources, names, consul) =
            (watched.sources.clone(), watched.names.clone(), self.consul.clone());
        let task = tokio::spawn(async move {
            loop {
                let found = find(&sources, &names, &consul).await;
                let pause = if found.0.is_empty() { REFRESH_UNTIL_FOUND } else { sources.refresh };
                if send.send(found).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause.min(sources.refresh)).await;
            }
        });
        (receive, AbortOnDropHandle::new(task))
    }

    async fn pass_on(&self, report: SentinelReport, watched: &Watched, state: &mut PoolState) {
        match report {
            SentinelReport::Answer { sentinel, group, reading } => {
                if let Ok(answer) = &reading.result {
                    state.ids.insert(sentinel.clone(), answer.id.clone());
                    let peers = answer.group.iter().flat_map(|group| &group.peers);
                    for peer in peers.filter(|_| watched.sources.peers) {
                        let known = state.ids.iter().any(|(address, id)| {
                            id == &peer.id
                                && address != &peer.address
                                && state.found.contains_key(address)
                        });
                        if !known {
                            state.named.insert(peer.address.clone(), Instant::now());
                        }
                    }
                }
                if let Some(view) = reading.result.as_ref().ok().and_then(|a| a.group.clone()) {
                    // Never waits: the rows can do without one opinion, a switch cannot wait.
                    let view = Box::new(view);
                    let news = SentinelNews::Peers(sentinel.clone(), group.clone(), view);
                    let _ = self.news.try_send(news);
                }
                if let Some(hearer) = watched.groups.get(&group) {
                    let _ = hearer.send(PoolReport::Answered(sentinel, *reading)).await;
                }
            }
            SentinelReport::Inventory { sentinel, groups } => {
                let _ = self.news.try_send(SentinelNews::Monitors(sentinel, groups));
            }
        }
    }

    async fn adjust(
        &self,
        watched: &Watched,
        settings: &watch::Receiver<WatchSettings>,
        state: &mut PoolState,
        report: &mpsc::Sender<SentinelReport>,
    ) {
        state.named.retain(|_, at| at.elapsed() < PEER_FORGOTTEN_AFTER);
        let wanted: BTreeSet<Address> =
            state.found.keys().chain(state.named.keys()).take(SENTINELS_MAX).cloned().collect();
        let gone: Vec<Address> =
            state.watchers.keys().filter(|address| !wanted.contains(*address)).cloned().collect();
        for address in gone {
            state.watchers.remove(&address);
            state.ids.remove(&address);
            info!("Sentinel {address} is not named any more");
            for hearer in watched.groups.values() {
                let _ = hearer.send(PoolReport::Gone(address.clone())).await;
            }
        }
        for address in wanted {
            // Under another name it has another certificate.
            let found = state.found.get(&address);
            let named = state.watchers.get(&address).map(|(name, _)| name);
            if let (Some(found), Some(named)) = (found, named)
                && found != named
            {
                state.watchers.remove(&address);
            }
            let name = found.cloned().flatten();
            state.watchers.entry(address.clone()).or_insert_with(|| {
                debug!("watching Sentinel {address}");
                let (settings, commands) = (settings.clone(), self.commands.subscribe());
                let watcher =
                    watch_sentinel(address, name.clone(), settings, commands, report.clone());
                (name, AbortOnDropHandle::new(tokio::spawn(watcher)))
            });
        }
    }
}

fn note(found: Found, failures: Vec<String>, state: &mut PoolState) {
    if failures.is_empty() {
        state.found = found;
    } else {
        // A look-up that failed is unknown: keep who was there, add who was found.
        state.found.extend(found);
    }
    if failures != state.said_failures {
        for failure in &failures {
            warn!("looking for Sentinels: {failure}");
        }
        state.said_failures = failures;
    }
}

#[derive(Default)]
struct PoolState {
    found: Found,
    named: BTreeMap<Address, Instant>,
    ids: BTreeMap<Address, crate::core::observed::SentinelId>,
    /// Each with the name that it was listed under.
    watchers: BTreeMap<Address, (Option<String>, AbortOnDropHandle<()>)>,
    said_failures: Vec<String>,
}
