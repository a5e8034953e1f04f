//! All Sentinels there are: those in the list, those behind a DNS name or a Consul service, and those
//! that the others name. One watcher each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::watch::{SentinelHandle, SentinelReport, WatchSettings, watch_sentinel};
use crate::config::SentinelSources;
use crate::consul::client::Consul;
use crate::consul::sentinel_rows::SentinelNews;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::GaveUp;
use crate::core::known::observed::{Reading, SentinelAnswer};
use crate::core::situation::data_loss::Replace;
use crate::discovery::{ServerSource, look_up};
use crate::dns::Names;

/// Sentinels watched at the most. More than that is a mistake in a name or a service.
pub const SENTINELS_MAX: usize = 64;
/// A Sentinel that the others have not named for this long is not asked any more.
const PEER_FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Pause between two look-ups while no Sentinel has been found at all: a group that is being started has some soon.
const REFRESH_UNTIL_FOUND: Duration = Duration::from_secs(1);
/// Reports waiting to be passed on.
const REPORTS_MAX: usize = 1_024;

/// Sentinels, and the name under which each was listed: what its TLS certificate is made out to.
pub type FoundSentinels = BTreeMap<Address, Option<String>>;

/// The Sentinels that the sources give now, and what went wrong.
pub async fn find(
    sources: &SentinelSources,
    names: &Names,
    consul: &Consul,
) -> (FoundSentinels, Vec<String>) {
    let (mut found, mut failures) = (FoundSentinels::new(), Vec::new());
    for (source, addresses) in look_up(&sources.all(), names, consul).await {
        match (source, addresses) {
            (ServerSource::Listed(listed), Ok(addresses)) => {
                let name = listed.ip().is_none().then(|| listed.host().to_owned());
                found.extend(addresses.into_iter().map(|address| (address, name.clone())));
            }
            (ServerSource::Service(..), Ok(addresses)) => {
                for address in addresses {
                    found.entry(address).or_insert(None);
                }
            }
            (_, Err(error)) => failures.push(error.to_string()),
        }
    }
    (found.into_iter().take(SENTINELS_MAX).collect(), failures)
}

/// What a group's loop hears of its Sentinels.
#[derive(Debug)]
pub enum PoolReport {
    /// One answered, or failed to.
    Answered(Address, Box<Reading<SentinelAnswer>>),
    /// One is asked no more.
    Gone(Address),
    /// What is wrong with the login for the instances that one has or is to get.
    Login(Address, Option<String>),
    /// One says that it has given up a failover.
    GaveUp(Address, GaveUp),
    /// One that was asked for a failover begins none: its words.
    NotBegun(Box<Replace>, String),
    /// One has said that it waits for a moment only.
    Hurried(Address),
}

/// Where the reports on each group's Sentinels go.
pub type Hearers = BTreeMap<GroupName, mpsc::Sender<PoolReport>>;

/// What is watched, and for which groups. It may change while the pool runs.
#[derive(Clone)]
pub struct Watched {
    /// Names, addresses and the Consul service to find Sentinels by.
    pub sources: SentinelSources,
    /// How to look up names.
    pub names: Names,
    /// For each watcher.
    pub settings: WatchSettings,
    /// The receiver of each group's answers.
    pub groups: Hearers,
}

impl Watched {
    /// Waits until there is room for it. A group that is watched no more hears nothing.
    async fn tell(&self, group: &GroupName, report: PoolReport) {
        if let Some(hearer) = self.groups.get(group) {
            let _ = hearer.send(report).await;
        }
    }
}

/// The way to each Sentinel that is watched.
pub type SentinelHandles = BTreeMap<Address, SentinelHandle>;

/// Keeps one watcher for each Sentinel there is.
pub struct Pool {
    /// What is watched.
    pub watched: watch::Receiver<Watched>,
    /// For the Consul service.
    pub consul: Consul,
    /// Where the ways to the watchers are to be found.
    pub handles: watch::Sender<SentinelHandles>,
    /// Where the addresses of Sentinels go.
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
    ) -> (mpsc::Receiver<(FoundSentinels, Vec<String>)>, AbortOnDropHandle<()>) {
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
        let (SentinelReport::Answer { sentinel, .. }
        | SentinelReport::Again { sentinel, .. }
        | SentinelReport::Inventory { sentinel, .. }
        | SentinelReport::Login { sentinel, .. }
        | SentinelReport::GaveUp { sentinel, .. }
        | SentinelReport::Hurried { sentinel, .. }
        | SentinelReport::NotBegun { replace: Replace { sentinel, .. }, .. }) = &report;
        if !state.watchers.contains_key(sentinel) {
            // It is not watched any more, and the groups know: a late report would bring it back for good.
            return;
        }
        if let SentinelReport::Answer { sentinel, reading, .. } = &report
            && self.is_quiet(sentinel, reading.result.is_ok(), watched, state).await
        {
            return;
        }
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
                watched.tell(&group, PoolReport::Answered(sentinel, reading)).await;
            }
            SentinelReport::Again { sentinel, group, reading } => {
                state.name_again(&reading);
                watched.tell(&group, PoolReport::Answered(sentinel, reading)).await;
            }
            SentinelReport::Login { sentinel, group, wrong } => {
                watched.tell(&group, PoolReport::Login(sentinel, wrong)).await;
            }
            SentinelReport::GaveUp { sentinel, group, why } => {
                watched.tell(&group, PoolReport::GaveUp(sentinel, why)).await;
            }
            SentinelReport::NotBegun { group, replace, words } => {
                watched.tell(&group, PoolReport::NotBegun(Box::new(replace), words)).await;
            }
            SentinelReport::Hurried { sentinel, group } => {
                watched.tell(&group, PoolReport::Hurried(sentinel)).await;
            }
            SentinelReport::Inventory { sentinel, groups } => {
                let _ = self.news.try_send(SentinelNews::Monitors(sentinel, groups));
            }
        }
    }

    /// What is said of it is not passed on: it is one more address of a Sentinel, or of none. The groups hear no more
    /// of it until it answers.
    async fn is_quiet(
        &self,
        sentinel: &Address,
        answers: bool,
        watched: &Watched,
        state: &mut PoolState,
    ) -> bool {
        if answers || !state.is_candidate(sentinel) {
            state.quiet.remove(sentinel);
            return false;
        }
        if state.quiet.insert(sentinel.clone()) {
            for hearer in watched.groups.values() {
                let _ = hearer.send(PoolReport::Gone(sentinel.clone())).await;
            }
        }
        true
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
            state.quiet.remove(&address);
            info!("Sentinel {address} is not named any more");
            for hearer in watched.groups.values() {
                let _ = hearer.send(PoolReport::Gone(address.clone())).await;
            }
        }
        for address in wanted {
            // Under another name it has another certificate.
            let found = state.found.get(&address);
            let named = state.watchers.get(&address).map(|watcher| &watcher.name);
            if let (Some(found), Some(named)) = (found, named)
                && found != named
            {
                state.watchers.remove(&address);
            }
            let name = found.cloned().flatten();
            state.watchers.entry(address.clone()).or_insert_with(|| {
                debug!("watching Sentinel {address}");
                let (handle, orders) = SentinelHandle::new();
                let (settings, report) = (settings.clone(), report.clone());
                let consul = self.consul.clone();
                let watching =
                    watch_sentinel(address, name.clone(), settings, orders, consul, report);
                KnownSentinel {
                    name,
                    handle,
                    _task: AbortOnDropHandle::new(tokio::spawn(watching)),
                }
            });
        }
        let watchers = &state.watchers;
        self.handles.send_if_modified(|handles| {
            let same = handles.len() == watchers.len()
                && watchers.iter().all(|(a, w)| handles.get(a).is_some_and(|h| h.is(&w.handle)));
            if !same {
                let now = watchers.iter().map(|(a, w)| (a.clone(), w.handle.clone()));
                *handles = now.collect();
            }
            !same
        });
    }
}

fn note(found: FoundSentinels, failures: Vec<String>, state: &mut PoolState) {
    if failures.is_empty() {
        state.found = found;
    } else {
        // A look-up that failed is unknown: keep the Sentinels that were there, add those that were found.
        state.found.extend(found);
    }
    if failures != state.said_failures {
        for failure in &failures {
            warn!("looking for Sentinels: {failure}");
        }
        state.said_failures = failures;
    }
}

/// One Sentinel's watcher.
struct KnownSentinel {
    /// The name that it was listed under.
    name: Option<String>,
    handle: SentinelHandle,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct PoolState {
    found: FoundSentinels,
    named: BTreeMap<Address, Instant>,
    ids: BTreeMap<Address, crate::core::known::observed::SentinelId>,
    watchers: BTreeMap<Address, KnownSentinel>,
    /// Those of whom the groups hear nothing.
    quiet: BTreeSet<Address>,
    said_failures: Vec<String>,
}

impl PoolState {
    /// What a Sentinel says again names the same peers as before.
    fn name_again(&mut self, reading: &Reading<SentinelAnswer>) {
        let groups = reading.result.iter().flat_map(|answer| &answer.group);
        for peer in groups.flat_map(|group| &group.peers) {
            if let Some(at) = self.named.get_mut(&peer.address) {
                *at = Instant::now();
            }
        }
    }

    /// It has never answered, no Sentinel names it, and another address of the same name has answered: a name's A and
    /// AAAA are where its server may be, and not that many servers.
    fn is_candidate(&self, sentinel: &Address) -> bool {
        let name = self.found.get(sentinel).and_then(Option::as_ref);
        let Some(name) = name.filter(|_| !self.ids.contains_key(sentinel)) else { return false };
        let beside = |(other, under): (&Address, &Option<String>)| {
            under.as_ref() == Some(name)
                && other.port() == sentinel.port()
                && self.ids.contains_key(other)
        };
        !self.named.contains_key(sentinel) && self.found.iter().any(beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::consul::endpoint::ConsulEndpoint;
    use crate::core::known::observed::SentinelId;
    use crate::core::time::Mono;
    use crate::redis_link::LinkSettings;

    /// What it said is in a queue when it is let go of.
    #[tokio::test]
    async fn a_late_word_does_not_bring_back_a_sentinel_that_was_let_go_of() {
        let (news, _heard) = mpsc::channel(8);
        let group: GroupName = "redis".parse().unwrap();
        let sentinel: Address = "10.0.0.1:26379".parse().unwrap();
        let (hearer, mut hears) = mpsc::channel(8);
        let watched = Watched {
            sources: SentinelSources {
                listed: Vec::new(),
                consul_service: None,
                peers: true,
                installation: None,
                refresh: Duration::from_secs(10),
            },
            names: Names::new(None),
            settings: WatchSettings {
                link: LinkSettings::default(),
                groups: vec![group.clone()],
                logins: BTreeMap::new(),
                relays: false,
                clock: Clock::start(),
            },
            groups: BTreeMap::from([(group.clone(), hearer)]),
        };
        let pool = Pool {
            watched: watch::Sender::new(watched.clone()).subscribe(),
            consul: Consul::new(&ConsulEndpoint::default()).unwrap(),
            handles: watch::Sender::default(),
            news,
        };
        let answer = || {
            let result = Ok(SentinelAnswer {
                id: SentinelId("a".to_owned()),
                process: None,
                tilt: false,
                group: None,
                others: Vec::new(),
                refuses_relay: None,
            });
            let reading = Box::new(Reading { asked: Mono(1), answered: Mono(2), result });
            SentinelReport::Answer { sentinel: sentinel.clone(), group: group.clone(), reading }
        };
        let mut state = PoolState::default();
        pool.pass_on(answer(), &watched, &mut state).await;
        assert!(hears.try_recv().is_err());
        assert_eq!(state.ids, BTreeMap::new());
        let (handle, _orders) = SentinelHandle::new();
        let _task = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        state.watchers.insert(sentinel.clone(), KnownSentinel { name: None, handle, _task });
        pool.pass_on(answer(), &watched, &mut state).await;
        assert!(matches!(hears.try_recv(), Ok(PoolReport::Answered(from, _)) if from == sentinel));
    }

    #[test]
    fn addresses_of_one_name_are_candidates_until_they_answer() {
        let at = |text: &str| text.parse::<Address>().unwrap();
        let (four, six, other) =
            (at("10.0.0.1:26379"), at("[fd00::1]:26379"), at("10.0.0.1:26380"));
        let mut state = PoolState::default();
        for address in [&four, &six, &other] {
            state.found.insert(address.clone(), Some("s.test".to_owned()));
        }
        assert!(!state.is_candidate(&six), "none of them answers: any may be the one");
        state.ids.insert(four.clone(), SentinelId("a".to_owned()));
        assert!(state.is_candidate(&six));
        assert!(!state.is_candidate(&four));
        assert!(!state.is_candidate(&other), "another port is another Sentinel");
        state.named.insert(six.clone(), Instant::now());
        assert!(!state.is_candidate(&six), "the others name it");
        let listed = at("10.0.0.9:26379");
        state.found.insert(listed.clone(), None);
        assert!(!state.is_candidate(&listed), "it was listed by its address");
    }
}
