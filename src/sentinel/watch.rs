//! One Sentinel, watched for all groups: one connection for questions, one subscription for hints.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::PubSub;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::events::groups_of;
use super::query;
use crate::clock::Clock;
use crate::config::SentinelAuth;
use crate::core::address::{Address, GroupName};
use crate::core::emptied::Replace;
use crate::core::ghosts::Forget;
use crate::core::observed::{Reading, SentinelAnswer, SentinelId};
use crate::core::sentinels::{Tell, TellWhat};
use crate::core::time::Mono;
use crate::redis_link::{Link, LinkError, LinkSettings, subscribe};
use crate::retry::Retry;

/// How often a subscription is asked for a sign of life: a half-open one would hint no more.
const SUBSCRIPTION_PING: Duration = Duration::from_secs(5);
/// How often the list of monitored groups is read, for the Sentinel's tags.
const INVENTORY_EVERY: Duration = Duration::from_secs(10);
/// Hints waiting to be acted on. Those that do not fit are covered by the ones that do.
const HINTS_MAX: usize = 256;
/// Commands to all Sentinels waiting for the slowest. One that falls behind asks for everything.
pub const COMMANDS_MAX: usize = 256;

/// Something for the Sentinels to do. Every watcher hears every command.
#[derive(Debug, Clone)]
pub enum SentinelCommand {
    /// All: say what you know of this group.
    Ask(GroupName),
    /// One: monitor this group.
    Tell(GroupName, Tell),
    /// One: forget those who are gone for good, unless it is later than this.
    Forget(GroupName, Forget, Mono),
    /// One: put another primary in the place of one without data, unless it is later than this.
    Replace(GroupName, Replace, Mono),
}

/// What a watcher reports.
#[derive(Debug)]
pub enum SentinelReport {
    /// A Sentinel's answer about a group, or its failure to answer.
    Answer {
        /// The Sentinel.
        sentinel: Address,
        /// The group.
        group: GroupName,
        /// What it said.
        reading: Box<Reading<SentinelAnswer>>,
    },
    /// The groups that a Sentinel monitors.
    Inventory {
        /// The Sentinel.
        sentinel: Address,
        /// The groups, in order.
        groups: Vec<GroupName>,
    },
}

/// What a watcher needs. It may change while one watches: connections that are open stay as they are.
#[derive(Clone)]
pub struct WatchSettings {
    /// How to log in to Sentinels.
    pub link: LinkSettings,
    /// The groups to ask about.
    pub groups: Vec<GroupName>,
    /// For each group whose Sentinels are told anything, the login that they need for its instances.
    pub auths: BTreeMap<GroupName, SentinelAuth>,
    /// The clock of all readings.
    pub clock: Clock,
}

fn say_told(group: &GroupName, tell: &Tell) {
    let Tell { sentinel, primary, settings, .. } = tell;
    match tell.what {
        TellWhat::Monitor => info!(
            "{group}: told Sentinel {sentinel} that the primary is {primary} (quorum {})",
            settings.quorum
        ),
        TellWhat::Repoint => info!(
            "{group}: told Sentinel {sentinel}, which had disagreed, that the primary is {primary}"
        ),
        TellWhat::Remove(_) => {
            info!("{group}: told Sentinel {sentinel} to let go of those it knows, who are gone")
        }
        TellWhat::Settings => info!(
            "{group}: told Sentinel {sentinel} its settings: quorum {}, down-after {} ms, \
             failover-timeout {} ms, parallel-syncs {}",
            settings.quorum,
            settings.down_after_ms,
            settings.failover_timeout_ms,
            settings.parallel_syncs
        ),
    }
}

impl WatchSettings {
    /// The same for a Sentinel that was listed under a name.
    #[must_use]
    pub fn expecting(mut self, name: Option<&str>) -> Self {
        self.link = self.link.expecting(name);
        self
    }
}

/// Watches one Sentinel until nobody listens any more; `name` is the one it was listed under.
pub async fn watch_sentinel(
    sentinel: Address,
    name: Option<String>,
    mut live: watch::Receiver<WatchSettings>,
    mut commands: broadcast::Receiver<SentinelCommand>,
    reports: mpsc::Sender<SentinelReport>,
) {
    let (hint, mut hints) = mpsc::channel(HINTS_MAX);
    let listener = listen(sentinel.clone(), name.clone(), live.clone(), hint);
    let _listener = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(listener));
    let settings = live.borrow_and_update().clone().expecting(name.as_deref());
    let mut watcher = Watcher {
        sentinel,
        settings,
        reports,
        link: None,
        said_failure: None,
        retry_at: None,
        logins: BTreeMap::new(),
        hasher: RandomState::new(),
    };
    let mut inventory = tokio::time::interval(INVENTORY_EVERY);
    let mut pending: BTreeSet<GroupName> = watcher.settings.groups.iter().cloned().collect();
    loop {
        watcher.answer_all(&mut pending).await;
        // Cancel safe: channels, a timer and a token.
        tokio::select! {
            command = commands.recv() => match command {
                Ok(SentinelCommand::Ask(group)) => { pending.insert(group); }
                Ok(SentinelCommand::Tell(group, tell)) => watcher.tell(&group, &tell).await,
                Ok(SentinelCommand::Forget(group, forget, until)) => {
                    watcher.forget(&group, &forget, until).await;
                }
                Ok(SentinelCommand::Replace(group, replace, until)) => {
                    watcher.replace(&group, &replace, until).await;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    pending.extend(watcher.settings.groups.iter().cloned());
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            Some(group) = hints.recv() => { pending.insert(group); }
            Ok(()) = live.changed() => {
                watcher.settings = live.borrow_and_update().clone().expecting(name.as_deref());
                pending.extend(watcher.settings.groups.iter().cloned());
            }
            () = watcher.closed() => {
                watcher.link = None;
                pending.extend(watcher.settings.groups.iter().cloned());
            }
            _ = inventory.tick() => watcher.inventory().await,
        }
        while let Ok(group) = hints.try_recv() {
            pending.insert(group);
        }
    }
}

struct Watcher {
    sentinel: Address,
    settings: WatchSettings,
    reports: mpsc::Sender<SentinelReport>,
    link: Option<(Link, SentinelId)>,
    said_failure: Option<String>,
    retry_at: Option<Instant>,
    /// For each group, which login its instances were known by when last looked, and no more of it than whether another
    /// one is the same.
    logins: BTreeMap<GroupName, u64>,
    hasher: RandomState,
}

/// Least time between two attempts to connect to one Sentinel.
const RECONNECT_GAP: Duration = Duration::from_millis(50);

impl Watcher {
    async fn closed(&self) {
        match &self.link {
            Some((link, _)) => link.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn link(&mut self) -> Result<&mut (Link, SentinelId), LinkError> {
        let link = match self.link.take() {
            Some(link) => link,
            None => {
                if let Some(at) = self.retry_at {
                    tokio::time::sleep_until(at).await;
                }
                self.retry_at = Some(Instant::now() + RECONNECT_GAP);
                let mut link = Link::open(&self.sentinel, &self.settings.link).await?;
                let id = query::identity(&mut link).await?;
                (link, id)
            }
        };
        Ok(self.link.insert(link))
    }

    /// Does something on the connection. One that failed to answer would answer the next question with this one's.
    async fn on_link<T>(
        &mut self,
        act: impl AsyncFnOnce(&mut Link, &SentinelId) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let result = match self.link().await {
            Ok((link, id)) => act(link, id).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.link = None;
        }
        result
    }

    async fn answer_all(&mut self, pending: &mut BTreeSet<GroupName>) {
        while let Some(group) = pending.pop_first() {
            let reading = self.ask(&group).await;
            self.note(&reading);
            let failed = reading.result.is_err();
            self.report(group, reading.clone()).await;
            if failed {
                // One silence is the answer to all questions waiting.
                for group in std::mem::take(pending) {
                    self.report(group, reading.clone()).await;
                }
            }
        }
    }

    async fn report(&self, group: GroupName, reading: Reading<SentinelAnswer>) {
        let sentinel = self.sentinel.clone();
        // Nobody listens any more: the loop ends with the commands.
        let reading = Box::new(reading);
        let _ = self.reports.send(SentinelReport::Answer { sentinel, group, reading }).await;
    }

    async fn ask(&mut self, group: &GroupName) -> Reading<SentinelAnswer> {
        let clock = self.settings.clock;
        let mut asked = clock.now().mono;
        let ask = async |link: &mut Link, id: &SentinelId| {
            asked = clock.now().mono;
            query::ask(link, id, group).await
        };
        let result = self.on_link(ask).await;
        let result = result.map_err(|error| error.to_string());
        Reading { asked, answered: clock.now().mono, result }
    }

    /// One line when a Sentinel stops answering, one when it answers again.
    fn note(&mut self, reading: &Reading<SentinelAnswer>) {
        match (&reading.result, &self.said_failure) {
            (Err(error), None) => {
                warn!("Sentinel {} does not answer: {error}", self.sentinel);
                self.said_failure = Some(error.clone());
            }
            (Ok(_), Some(_)) => {
                info!("Sentinel {} answers again", self.sentinel);
                self.said_failure = None;
            }
            (Ok(_), None) | (Err(_), Some(_)) => {}
        }
    }

    async fn inventory(&mut self) {
        let ask = async |link: &mut Link, _: &SentinelId| query::groups(link).await;
        if let Ok(groups) = self.on_link(ask).await {
            for group in &groups {
                self.renew_login(group).await;
            }
            let sentinel = self.sentinel.clone();
            let _ = self.reports.send(SentinelReport::Inventory { sentinel, groups }).await;
        }
    }

    /// Tells the Sentinel a login for the instances that has changed since we look: by the old one it would soon call
    /// them down.
    async fn renew_login(&mut self, group: &GroupName) {
        // One that cannot be read now may be in a moment.
        let Ok(login) = self.instance_auth(group) else { return };
        if login.is_empty() {
            return;
        }
        let now = self.hasher.hash_one(&login);
        let known = *self.logins.entry(group.clone()).or_insert(now);
        if known == now {
            return;
        }
        let set = async |link: &mut Link, _: &SentinelId| query::set(link, group, &login).await;
        let sentinel = self.sentinel.clone();
        match self.on_link(set).await {
            Ok(()) => {
                info!("{group}: told Sentinel {sentinel} the new login for the instances");
                self.logins.insert(group.clone(), now);
            }
            Err(error) => {
                warn!("{group}: cannot tell Sentinel {sentinel} the new login: {error}");
            }
        }
    }

    async fn tell(&mut self, group: &GroupName, tell: &Tell) {
        if tell.sentinel != self.sentinel {
            return;
        }
        if matches!(tell.what, TellWhat::Remove(_)) {
            return self.remove(group, tell).await;
        }
        let auth = match self.instance_auth(group) {
            Ok(auth) => auth,
            Err(error) => {
                warn!("{group}: cannot tell Sentinel {} about the group: {error}", self.sentinel);
                return;
            }
        };
        let result = match self.link().await {
            Ok((link, _)) => query::tell(link, group, tell, &auth).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => say_told(group, tell),
            // Several agents tell it at once when a group begins.
            Err(error) if error.to_string().contains("Duplicate master name") => {
                debug!("{group}: another agent has told Sentinel {}", self.sentinel);
            }
            Err(error) => {
                self.link = None;
                warn!("{group}: cannot tell Sentinel {} about the group: {error}", self.sentinel);
            }
        }
    }

    async fn remove(&mut self, group: &GroupName, tell: &Tell) {
        let ask =
            async |link: &mut Link, id: &SentinelId| query::remove(link, id, group, tell).await;
        match self.on_link(ask).await {
            Ok(true) => say_told(group, tell),
            Ok(false) => debug!("{group}: Sentinel {} knows somebody by now", self.sentinel),
            // Several agents tell it at once.
            Err(error) if error.to_string().contains("No such master") => {
                debug!("{group}: another agent has told Sentinel {}", self.sentinel);
            }
            Err(error) => {
                warn!("{group}: Sentinel {} cannot let go of the group: {error}", self.sentinel);
            }
        }
    }

    async fn forget(&mut self, group: &GroupName, forget: &Forget, until: Mono) {
        if forget.sentinel != self.sentinel || self.settings.clock.now().mono > until {
            return;
        }
        let ask =
            async |link: &mut Link, id: &SentinelId| query::forget(link, id, group, forget).await;
        let result = self.on_link(ask).await;
        let (sentinel, names) = (&self.sentinel, forget.names());
        match result {
            Ok(true) => info!("{group}: Sentinel {sentinel} was made to forget {names}"),
            Ok(false) => debug!("{group}: Sentinel {sentinel} has changed its mind about {names}"),
            Err(error) => {
                warn!("{group}: cannot make Sentinel {sentinel} forget {names}: {error}");
            }
        }
    }

    async fn replace(&mut self, group: &GroupName, replace: &Replace, until: Mono) {
        if replace.sentinel != self.sentinel || self.settings.clock.now().mono > until {
            return;
        }
        let ask =
            async |link: &mut Link, id: &SentinelId| query::replace(link, id, group, replace).await;
        let result = self.on_link(ask).await;
        let Replace { sentinel, primary, .. } = replace;
        match result {
            Ok(true) => info!("{group}: Sentinel {sentinel} replaces {primary}"),
            Ok(false) => debug!("{group}: Sentinel {sentinel} does not have to replace {primary}"),
            Err(error) => warn!("{group}: Sentinel {sentinel} cannot replace {primary}: {error}"),
        }
    }

    /// The login that the Sentinel needs for the group's instances.
    fn instance_auth(
        &self,
        group: &GroupName,
    ) -> Result<Vec<(&'static str, String)>, crate::secret::SecretError> {
        use secrecy::ExposeSecret;
        let Some(login) = self.settings.auths.get(group) else { return Ok(Vec::new()) };
        let mut auth = Vec::new();
        if let Some(password) = login.password.read()? {
            auth.push(("auth-pass", password.expose_secret().to_owned()));
            if let Some(username) = &login.username {
                auth.push(("auth-user", username.clone()));
            }
        }
        Ok(auth)
    }
}

/// Keeps a subscription open and turns each event into hints.
async fn listen(
    sentinel: Address,
    name: Option<String>,
    live: watch::Receiver<WatchSettings>,
    hint: mpsc::Sender<GroupName>,
) {
    let mut retry = Retry::reconnecting();
    loop {
        let settings = live.borrow().clone().expecting(name.as_deref());
        match subscribe(&sentinel, &settings.link).await {
            Ok(events) => {
                retry.reset();
                // What happened before the subscription is only seen by looking.
                for group in &settings.groups {
                    let _ = hint.try_send(group.clone());
                }
                forward(events, &sentinel, &live, &hint).await;
            }
            Err(error) => debug!(%sentinel, %error, "cannot subscribe"),
        }
        if hint.is_closed() {
            return;
        }
        tokio::time::sleep(retry.next_delay()).await;
    }
}

async fn forward(
    events: PubSub,
    sentinel: &Address,
    live: &watch::Receiver<WatchSettings>,
    hint: &mpsc::Sender<GroupName>,
) {
    let (mut sink, mut stream) = events.split();
    let mut ping = tokio::time::interval(SUBSCRIPTION_PING);
    ping.tick().await;
    loop {
        // Cancel safe: a stream and a timer.
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message else { return };
                let payload = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                debug!(%sentinel, event = message.get_channel_name(), payload);
                for group in groups_of(&payload, &live.borrow().groups) {
                    let _ = hint.try_send(group.clone());
                }
            }
            _ = ping.tick() => {
                let timeout = live.borrow().link.timeout;
                let alive = tokio::time::timeout(timeout, sink.ping::<redis::Value>());
                if !matches!(alive.await, Ok(Ok(_))) {
                    debug!(%sentinel, "subscription lost");
                    return;
                }
            }
        }
    }
}
