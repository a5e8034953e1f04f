//! One Sentinel, watched for all groups: one connection for questions, one subscription for hints.

mod crowd;
mod renewal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::crowd::Crowd;
use self::renewal::KnownLogin;
use super::events::groups_of;
use super::login::{Giving, Login};
use super::query::{self, Identity, Reconfigured};
use crate::clock::{Clock, stood_still, ticks_every};
use crate::consul::client::Consul;
use crate::core::duty::relay::Relay;
use crate::core::duty::sentinels::{Reconfigure, ReconfigureKind};
use crate::core::duty::stale_peers::Forget;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::GaveUp;
use crate::core::known::observed::{Reading, SentinelAnswer};
use crate::core::situation::data_loss::{Replace, WhyReplace};
use crate::core::time::Mono;
use crate::mailbox::Mailbox;
use crate::redis_link::{
    Link, LinkError, LinkSettings, Subscription, SubscriptionNews, has_closed, subscribe,
};
use crate::retry::Retry;

/// How often a subscription is asked for a sign of life: a half-open one would hint no more.
const SUBSCRIPTION_PING: Duration = Duration::from_secs(5);
/// How often the list of monitored groups is read, for the Sentinel's tags.
const INVENTORY_EVERY: Duration = Duration::from_secs(10);
/// Hints waiting to be acted on. Those that do not fit are covered by the ones that do.
const HINTS_MAX: usize = 4_096;
/// Commands of all groups waiting for one Sentinel. One more is left out: what is wanted is decided anew after
/// [`RECONFIGURE_AGAIN_MS`](crate::core::policy::RECONFIGURE_AGAIN_MS), and what was written down first is written down
/// again.
pub const COMMANDS_MAX: usize = 4_096;

/// What a watcher is asked to do with its Sentinel.
#[derive(Debug, Clone)]
pub enum SentinelCommand {
    /// Hear how an election ended, unless it is later than this.
    Relay(GroupName, Relay, Mono),
    /// Monitor this group, or with other settings, unless it is later than this.
    Reconfigure(GroupName, Reconfigure, Mono),
    /// Forget stale peers, unless it is later than this.
    Forget(GroupName, Forget, Mono),
    /// Put another primary in the place of one without data, or of one that has died, unless it is later than this.
    Replace(GroupName, Replace, Mono),
}

impl SentinelCommand {
    /// The group that it is about.
    pub fn group(&self) -> &GroupName {
        match self {
            Self::Relay(group, ..)
            | Self::Reconfigure(group, ..)
            | Self::Forget(group, ..)
            | Self::Replace(group, ..) => group,
        }
    }

    /// After this it is not carried out any more: what it rests on may have changed.
    fn until(&self) -> Mono {
        match self {
            Self::Relay(.., until)
            | Self::Reconfigure(.., until)
            | Self::Forget(.., until)
            | Self::Replace(.., until) => *until,
        }
    }
}

/// The way to one Sentinel's watcher. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SentinelHandle {
    /// The groups to ask about: each counts once, however often it is asked for.
    questions: Arc<Mailbox<BTreeSet<GroupName>>>,
    commands: mpsc::Sender<SentinelCommand>,
}

/// [`COMMANDS_MAX`] commands wait for a Sentinel already.
#[derive(Debug)]
pub struct QueueFull;

/// What a watcher is to do: the other end of a [`SentinelHandle`].
#[derive(Debug)]
pub struct Orders {
    questions: Arc<Mailbox<BTreeSet<GroupName>>>,
    commands: mpsc::Receiver<SentinelCommand>,
}

impl SentinelHandle {
    /// A way to a watcher that is about to be started.
    pub fn new() -> (Self, Orders) {
        let questions = Arc::new(Mailbox::default());
        let (send, commands) = mpsc::channel(COMMANDS_MAX);
        (Self { questions: questions.clone(), commands: send }, Orders { questions, commands })
    }

    /// It leads to the same watcher.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.questions, &other.questions)
    }

    /// Has the Sentinel asked about a group. Never left out.
    pub fn ask(&self, group: &GroupName) {
        self.questions.post(|groups| {
            groups.insert(group.clone());
        });
    }

    /// Has the Sentinel do something.
    ///
    /// # Errors
    /// [`QueueFull`]: it is left out.
    pub fn command(&self, command: SentinelCommand) -> Result<(), QueueFull> {
        self.commands.try_send(command).map_err(|_| QueueFull)
    }
}

/// The groups that a Sentinel is to be asked about: those that were hinted at go first.
#[derive(Debug, Default)]
struct Questions {
    hinted: BTreeSet<GroupName>,
    due: BTreeSet<GroupName>,
}

impl Questions {
    fn next(&mut self) -> Option<GroupName> {
        let next = self.hinted.pop_first().or_else(|| self.due.pop_first())?;
        self.due.remove(&next);
        Some(next)
    }

    fn is_empty(&self) -> bool {
        self.hinted.is_empty() && self.due.is_empty()
    }

    /// Some of those that were hinted at.
    fn hinted_first(&mut self, count: usize) -> Vec<GroupName> {
        let some: Vec<GroupName> = self.hinted.iter().take(count).cloned().collect();
        for group in &some {
            self.hinted.remove(group);
            self.due.remove(group);
        }
        some
    }

    /// All of them.
    fn take(&mut self) -> BTreeSet<GroupName> {
        let mut all = std::mem::take(&mut self.due);
        all.append(&mut self.hinted);
        all
    }
}

/// What a watcher reports.
#[derive(Debug)]
pub enum SentinelReport {
    /// A Sentinel's answer about a group, or its failure to answer.
    Answer {
        /// The address that it is watched at.
        sentinel: Address,
        /// The group that was asked about.
        group: GroupName,
        /// The answer, or why there is none.
        reading: Box<Reading<SentinelAnswer>>,
    },
    /// A Sentinel's answer about a group, which is the one before: as far as the Sentinel tells, it still holds.
    Again {
        /// The address that it is watched at.
        sentinel: Address,
        /// The group that was asked about.
        group: GroupName,
        /// The answer.
        reading: Box<Reading<SentinelAnswer>>,
    },
    /// The groups that a Sentinel monitors.
    Inventory {
        /// The Sentinel that answered.
        sentinel: Address,
        /// The groups, in order.
        groups: Vec<GroupName>,
    },
    /// What is wrong with the login for a group's instances that a Sentinel has or is to get, if anything is.
    Login {
        /// The Sentinel that has it, or is to get it.
        sentinel: Address,
        /// The group whose instances it is for.
        group: GroupName,
        /// In a sentence.
        wrong: Option<String>,
    },
    /// A Sentinel says that it has given up a failover. Nothing is decided by it: it is said.
    GaveUp {
        /// The Sentinel that said so.
        sentinel: Address,
        /// The group that it would have failed over.
        group: GroupName,
        /// The event in which it said so.
        why: GaveUp,
    },
    /// A Sentinel that was asked for a failover has refused.
    NotBegun {
        /// The group.
        group: GroupName,
        /// What was asked of it.
        replace: Replace,
        /// Its words.
        words: String,
    },
    /// A Sentinel has said that it waits for a moment only.
    Hurried {
        /// The Sentinel that was told to.
        sentinel: Address,
        /// The group whose primary it is about.
        group: GroupName,
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
    pub logins: BTreeMap<GroupName, Giving>,
    /// Some group's agents tell Sentinels how an election ended: whether the login may is asked on each connection, and
    /// every 10 s.
    pub relays: bool,
    /// The clock of all readings.
    pub clock: Clock,
}

fn say_reconfigured(group: &GroupName, reconfigure: &Reconfigure, done: &Reconfigured) {
    let Reconfigure { sentinel, primary, settings, .. } = reconfigure;
    match reconfigure.what {
        ReconfigureKind::Monitor => info!(
            "{group}: reconfigured Sentinel {sentinel}: the primary is {primary} (quorum {})",
            settings.quorum
        ),
        ReconfigureKind::Repoint => info!(
            "{group}: reconfigured Sentinel {sentinel}, which had disagreed: the primary is {primary}"
        ),
        ReconfigureKind::Remove(_) => {
            info!(
                "{group}: reconfigured Sentinel {sentinel}: it let go of addresses that do not answer"
            )
        }
        ReconfigureKind::Settings | ReconfigureKind::Pace(_) => {
            let set: Vec<String> =
                done.set.iter().map(|(name, value)| format!("{name} {value}")).collect();
            info!("{group}: reconfigured Sentinel {sentinel}: {}", set.join(", "));
        }
        ReconfigureKind::Reboot(ms) => info!(
            "{group}: told Sentinel {sentinel} that a restarted primary may load for {ms} ms \
             (master-reboot-down-after-period)"
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

/// Watches one Sentinel until the receiver of its reports has ended; `name` is the one it was listed under.
pub async fn watch_sentinel(
    sentinel: Address,
    name: Option<String>,
    mut live: watch::Receiver<WatchSettings>,
    mut orders: Orders,
    consul: Consul,
    reports: mpsc::Sender<SentinelReport>,
) {
    let (hint, mut hints) = mpsc::channel(HINTS_MAX);
    let hears_events = Arc::<AtomicBool>::default();
    let ears = Ears { hint, reports: reports.clone(), hears: hears_events.clone() };
    let listener = listen(sentinel.clone(), name.clone(), live.clone(), ears);
    let _listener = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(listener));
    let settings = live.borrow_and_update().clone().expecting(name.as_deref());
    let mut watcher = Watcher {
        sentinel,
        settings,
        reports,
        link: None,
        said_failure: None,
        retry_at: None,
        consul,
        logins: BTreeMap::new(),
        said_unsaved: false,
        crowd: Crowd::default(),
        hears_events,
    };
    let mut inventory = ticks_every(INVENTORY_EVERY);
    let mut questions = Questions { due: watcher.all_groups(), ..Questions::default() };
    loop {
        // What it is to do, then what was hinted at, then what is due; each may have come while the last one was
        // answered.
        loop {
            while let Ok(group) = hints.try_recv() {
                questions.hinted.insert(group);
            }
            if let Ok(command) = orders.commands.try_recv() {
                watcher.carry_out(command).await;
            } else if watcher.has_crowd() && !questions.is_empty() {
                watcher.answer_some(&mut questions).await;
            } else if let Some(group) = questions.next() {
                watcher.answer(group, &mut questions).await;
            } else {
                break;
            }
        }
        // Cancel safe: channels, a timer and a token.
        tokio::select! {
            command = orders.commands.recv() => match command {
                Some(command) => watcher.carry_out(command).await,
                None => return,
            },
            groups = orders.questions.take() => questions.due.extend(groups),
            Some(group) = hints.recv() => { questions.hinted.insert(group); }
            Ok(()) = live.changed() => {
                watcher.settings = live.borrow_and_update().clone().expecting(name.as_deref());
                questions.due.extend(watcher.all_groups());
                inventory.reset_immediately();
            }
            () = watcher.closed() => {
                watcher.link = None;
                questions.due.extend(watcher.all_groups());
            }
            _ = inventory.tick() => watcher.inventory().await,
        }
    }
}

struct Watcher {
    sentinel: Address,
    settings: WatchSettings,
    reports: mpsc::Sender<SentinelReport>,
    link: Option<(Link, Identity)>,
    said_failure: Option<String>,
    retry_at: Option<Instant>,
    /// Where it is noted which Sentinels were given a login.
    consul: Consul,
    logins: BTreeMap<GroupName, KnownLogin>,
    /// It was said that the Sentinel cannot write its config file.
    said_unsaved: bool,
    /// What it said of very many groups.
    crowd: Crowd,
    /// Its events are heard.
    hears_events: Arc<AtomicBool>,
}

/// Least time between two attempts to connect to one Sentinel.
const RECONNECT_GAP: Duration = Duration::from_millis(50);

impl Watcher {
    async fn closed(&mut self) {
        match &mut self.link {
            Some((link, _)) => link.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn link(&mut self) -> Result<&mut (Link, Identity), LinkError> {
        // What is sent on a closed connection is lost, and may be a command that is sent once.
        let open = self.link.take();
        let link = match open.and_then(|mut open| (!open.0.is_closed()).then_some(open)) {
            Some(link) => link,
            None => {
                if let Some(at) = self.retry_at {
                    tokio::time::sleep_until(at).await;
                }
                self.retry_at = Some(Instant::now() + RECONNECT_GAP);
                let mut link = Link::open(&self.sentinel, &self.settings.link).await?;
                let mut id = query::identity(&mut link).await?;
                if self.settings.relays {
                    id.refuses_relay = query::may_relay(&mut link).await?;
                }
                (link, id)
            }
        };
        let crowded = self.has_crowd();
        let link = self.link.insert(link);
        if !crowded {
            // Of few groups it is asked anew each time.
            link.1.summary = None;
        }
        Ok(link)
    }

    /// Does something on the connection. A server that failed to answer would answer the next question with this one's.
    async fn on_link<T>(
        &mut self,
        act: impl AsyncFnOnce(&mut Link, &Identity) -> Result<T, LinkError>,
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

    fn all_groups(&self) -> BTreeSet<GroupName> {
        self.settings.groups.iter().cloned().collect()
    }

    async fn carry_out(&mut self, command: SentinelCommand) {
        if self.settings.clock.now().mono > command.until() {
            debug!("{}: too late for Sentinel {}: {command:?}", command.group(), self.sentinel);
            return;
        }
        match command {
            SentinelCommand::Relay(group, relay, _) => self.relay(&group, &relay).await,
            SentinelCommand::Reconfigure(group, reconfigure, until) => {
                self.reconfigure(&group, &reconfigure, until).await
            }
            SentinelCommand::Forget(group, forget, _) => self.forget(&group, &forget).await,
            SentinelCommand::Replace(group, replace, _) => self.replace(&group, &replace).await,
        }
    }

    /// Asks about a group. One silence is the answer to all questions waiting.
    async fn answer(&mut self, group: GroupName, questions: &mut Questions) {
        let reading = self.ask(&group).await;
        self.note(&reading);
        if let Ok(answer) = &reading.result {
            self.judge_login(&group, answer).await;
        }
        let silent = if reading.result.is_err() { questions.take() } else { BTreeSet::new() };
        self.report_all(silent, &reading).await;
        self.report(group, reading).await;
    }

    async fn report_all(&self, groups: BTreeSet<GroupName>, reading: &Reading<SentinelAnswer>) {
        for group in groups {
            self.report(group, reading.clone()).await;
        }
    }

    async fn report(&self, group: GroupName, reading: Reading<SentinelAnswer>) {
        let sentinel = self.sentinel.clone();
        // Fails when the receiver has ended: the loop ends with the commands.
        let reading = Box::new(reading);
        let _ = self.reports.send(SentinelReport::Answer { sentinel, group, reading }).await;
    }

    async fn ask(&mut self, group: &GroupName) -> Reading<SentinelAnswer> {
        let was_open = self.link.is_some();
        let (mut asked, mut result) = self.ask_once(group).await;
        // As it does when it is started again.
        if has_closed(was_open, &result) {
            (asked, result) = self.ask_once(group).await;
        }
        let result = result.map_err(|error| error.to_string());
        Reading { asked, answered: self.settings.clock.now().mono, result }
    }

    /// When it was asked, and what it said.
    async fn ask_once(&mut self, group: &GroupName) -> (Mono, Result<SentinelAnswer, LinkError>) {
        let clock = self.settings.clock;
        let mut asked = clock.now().mono;
        let ask = async |link: &mut Link, id: &Identity| {
            asked = clock.now().mono;
            query::ask(link, id, group).await
        };
        let result = self.on_link(ask).await;
        (asked, result)
    }

    /// One line when a Sentinel stops answering, one when it answers again.
    fn note(&mut self, reading: &Reading<SentinelAnswer>) {
        match (&reading.result, &self.said_failure) {
            (Err(error), None) if stood_still() => debug!("Sentinel {}: {error}", self.sentinel),
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
        self.look_at_rights().await;
        if self.has_crowd() {
            return self.inventory_of_many().await;
        }
        let ask = async |link: &mut Link, _: &Identity| query::groups(link).await;
        if let Ok(groups) = self.on_link(ask).await {
            for group in &groups {
                self.look_at_login(group).await;
            }
            let sentinel = self.sentinel.clone();
            let _ = self.reports.send(SentinelReport::Inventory { sentinel, groups }).await;
        }
    }

    /// Whether the login may say a hello, which may have changed since the connection was opened.
    async fn look_at_rights(&mut self) {
        if !self.settings.relays {
            return;
        }
        let ask = async |link: &mut Link, _: &Identity| query::may_relay(link).await;
        if let Ok(refused) = self.on_link(ask).await
            && let Some((_, id)) = &mut self.link
        {
            id.refuses_relay = refused;
        }
    }

    /// One line when the Sentinel has done what it was told and cannot write it into its config file.
    fn note_saved(&mut self, group: &GroupName, saved: bool) {
        if !saved && !self.said_unsaved {
            warn!(
                "{group}: Sentinel {} does what it is told and cannot save its config file: after a restart it has \
                 forgotten it (is the file mounted by itself? mount its directory)",
                self.sentinel
            );
        }
        self.said_unsaved = !saved;
    }

    async fn reconfigure(&mut self, group: &GroupName, reconfigure: &Reconfigure, until: Mono) {
        if matches!(reconfigure.what, ReconfigureKind::Remove(_)) {
            return self.remove(group, reconfigure).await;
        }
        let login = match reconfigure.what {
            ReconfigureKind::Settings | ReconfigureKind::Pace(_) | ReconfigureKind::Reboot(_) => {
                None
            }
            _ => match self.login_for(group, reconfigure).await {
                Ok(login) => login,
                Err(wrong) => return self.report_login(group, wrong).await,
            },
        };
        let auth = login.as_ref().map(Login::options).unwrap_or_default();
        let clock = self.settings.clock;
        let in_time = || clock.now().mono <= until;
        let result = match self.link().await {
            Ok((link, id)) => {
                query::reconfigure(link, id, group, reconfigure, &auth, in_time).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(Some(done)) => {
                say_reconfigured(group, reconfigure, &done);
                self.note_saved(group, done.saved);
                if let Some(login) = login {
                    self.has_been_given(group, login).await;
                }
                if reconfigure.hastens() {
                    let (sentinel, group) = (self.sentinel.clone(), group.clone());
                    let _ = self.reports.send(SentinelReport::Hurried { sentinel, group }).await;
                }
            }
            Ok(None) => {
                debug!("{group}: Sentinel {} has changed what it knows, or is late", self.sentinel);
            }
            // Several agents reconfigure it at once when a group begins.
            Err(error) if error.to_string().contains("Duplicate master name") => {
                debug!("{group}: another agent has reconfigured Sentinel {}", self.sentinel);
            }
            Err(error) => {
                self.link = None;
                warn!("{group}: cannot reconfigure Sentinel {}: {error}", self.sentinel);
            }
        }
    }

    async fn remove(&mut self, group: &GroupName, reconfigure: &Reconfigure) {
        let ask = async |link: &mut Link, id: &Identity| {
            query::remove(link, id, group, reconfigure).await
        };
        match self.on_link(ask).await {
            Ok(Some(done)) => {
                say_reconfigured(group, reconfigure, &done);
                self.note_saved(group, done.saved);
            }
            Ok(None) => debug!("{group}: Sentinel {} has changed what it knows", self.sentinel),
            // Several agents tell it at once.
            Err(error) if error.to_string().contains("No such master") => {
                debug!("{group}: another agent has reconfigured Sentinel {}", self.sentinel);
            }
            Err(error) => {
                warn!("{group}: Sentinel {} cannot let go of the group: {error}", self.sentinel);
            }
        }
    }

    async fn relay(&mut self, group: &GroupName, relay: &Relay) {
        let ask = async |link: &mut Link, id: &Identity| query::relay(link, id, group, relay).await;
        let result = self.on_link(ask).await;
        let (sentinel, Relay { chosen, epoch, .. }) = (&self.sentinel, relay);
        match result {
            Ok(true) => {
                info!(
                    "{group}: told Sentinel {sentinel} of {chosen}, the primary at epoch {epoch}"
                );
            }
            Ok(false) => {
                debug!("{group}: Sentinel {sentinel} has heard of epoch {epoch}, or of another")
            }
            Err(error) => {
                warn!(
                    "{group}: cannot tell Sentinel {sentinel} of {chosen}, the primary at epoch {epoch}: {error}"
                );
            }
        }
    }

    async fn forget(&mut self, group: &GroupName, forget: &Forget) {
        let ask =
            async |link: &mut Link, id: &Identity| query::forget(link, id, group, forget).await;
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

    async fn replace(&mut self, group: &GroupName, replace: &Replace) {
        let ask =
            async |link: &mut Link, id: &Identity| query::replace(link, id, group, replace).await;
        let result = self.on_link(ask).await;
        let Replace { sentinel, primary, .. } = replace;
        match result {
            Ok(true) => info!("{group}: Sentinel {sentinel} replaces {primary}"),
            Ok(false) => debug!("{group}: Sentinel {sentinel} does not have to replace {primary}"),
            // It has answered, and so begins none. What is silent may have begun one.
            Err(LinkError::Unexpected(words)) if matches!(replace.why, WhyReplace::Died { .. }) => {
                let (group, replace) = (group.clone(), replace.clone());
                let _ = self.reports.send(SentinelReport::NotBegun { group, replace, words }).await;
            }
            Err(error) => warn!("{group}: Sentinel {sentinel} cannot replace {primary}: {error}"),
        }
    }
}

/// Where a Sentinel's events go.
struct Ears {
    hint: mpsc::Sender<GroupName>,
    reports: mpsc::Sender<SentinelReport>,
    /// Whether they are heard.
    hears: Arc<AtomicBool>,
}

/// Keeps a subscription open and turns each event into hints.
async fn listen(
    sentinel: Address,
    name: Option<String>,
    live: watch::Receiver<WatchSettings>,
    ears: Ears,
) {
    let Ears { hint, .. } = &ears;
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
                ears.hears.store(true, Ordering::Relaxed);
                forward(events, &sentinel, &live, &ears).await;
                ears.hears.store(false, Ordering::Relaxed);
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
    mut events: Subscription,
    sentinel: &Address,
    live: &watch::Receiver<WatchSettings>,
    Ears { hint, reports, .. }: &Ears,
) {
    let mut ping = ticks_every(SUBSCRIPTION_PING);
    ping.tick().await;
    // When the answer to a PING is late.
    let mut late = None;
    loop {
        // Cancel safe: a subscription and timers. The answer counts that is there with the deadline.
        tokio::select! {
            biased;
            heard = events.next() => {
                let Some(heard) = heard else { return };
                let SubscriptionNews::Event(event, payload) = heard else {
                    late = None;
                    continue;
                };
                debug!(%sentinel, %event, %payload);
                let why = GaveUp::of_event(&event);
                for group in groups_of(&payload, &live.borrow().groups) {
                    let _ = hint.try_send(group.clone());
                    if let Some(why) = why {
                        let (sentinel, group) = (sentinel.clone(), group.clone());
                        let _ = reports.try_send(SentinelReport::GaveUp { sentinel, group, why });
                    }
                }
            }
            () = until(late) => {
                debug!(%sentinel, "subscription lost");
                return;
            }
            _ = ping.tick() => {
                if events.ping().await.is_err() {
                    debug!(%sentinel, "subscription lost");
                    return;
                }
                late = Some(Instant::now() + live.borrow().link.timeout);
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::endpoint::ConsulEndpoint;
    use crate::core::known::observed::SentinelSettings;
    use crate::scripted::{Scripted, bulk};

    fn groups(names: &[&str]) -> BTreeSet<GroupName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_group_that_was_hinted_at_goes_before_those_that_are_due() {
        let mut questions =
            Questions { due: groups(&["a", "b", "m", "z"]), hinted: groups(&["m"]) };
        let mut asked = Vec::new();
        while let Some(group) = questions.next() {
            asked.push(group.to_string());
            if asked.len() == 2 {
                questions.hinted.extend(groups(&["z", "a"]));
            }
        }
        // `m` is asked about once, and `a` again: the hint came after the question.
        assert_eq!(asked, ["m", "a", "a", "z", "b"]);
        let mut questions = Questions { due: groups(&["a"]), hinted: groups(&["a", "b"]) };
        assert_eq!(questions.take(), groups(&["a", "b"]));
        assert_eq!(questions.next(), None);
    }

    #[tokio::test]
    async fn a_full_queue_leaves_a_command_out_and_says_so_and_no_question_is_lost() {
        let (handle, mut orders) = SentinelHandle::new();
        let group: GroupName = "redis".parse().unwrap();
        let settings = SentinelSettings {
            quorum: 2,
            down_after_ms: 1_500,
            failover_timeout_ms: 20_000,
            parallel_syncs: 1,
        };
        let reconfigure = |port: u16| {
            let address = |port| Address::new("10.0.0.1", port).unwrap();
            let (sentinel, primary) = (address(26_379), address(port));
            let reconfigure = Reconfigure {
                sentinel,
                what: ReconfigureKind::Monitor,
                primary,
                settings,
                had: settings,
                epoch: 0,
            };
            SentinelCommand::Reconfigure(group.clone(), reconfigure, Mono(1))
        };
        for n in 0..COMMANDS_MAX {
            handle.command(reconfigure(u16::try_from(n).unwrap() + 1)).unwrap();
            handle.ask(&group);
        }
        assert!(handle.command(reconfigure(9_999)).is_err());
        handle.ask(&"cache".parse().unwrap());
        assert_eq!(orders.questions.take().await, groups(&["cache", "redis"]));
        let mut count = 0;
        while let Ok(command) = orders.commands.try_recv() {
            assert!(
                !matches!(command, SentinelCommand::Reconfigure(_, reconfigure, _) if reconfigure.primary.port() == 9_999)
            );
            count += 1;
        }
        assert_eq!(count, COMMANDS_MAX);
        handle.command(reconfigure(1)).unwrap();
    }

    /// What watches one Sentinel, with a deadline of `timeout_ms`, and where it reports.
    fn a_watcher(sentinel: &Address, timeout_ms: u64) -> (Watcher, mpsc::Receiver<SentinelReport>) {
        let (reports, heard) = mpsc::channel(8);
        let timeout = Duration::from_millis(timeout_ms);
        let link = LinkSettings { timeout, ..Default::default() };
        let (groups, logins, clock) = (Vec::new(), BTreeMap::new(), Clock::start());
        let watcher = Watcher {
            sentinel: sentinel.clone(),
            settings: WatchSettings { link, groups, logins, relays: false, clock },
            reports,
            link: None,
            said_failure: None,
            retry_at: None,
            consul: Consul::new(&ConsulEndpoint::default()).unwrap(),
            logins: BTreeMap::new(),
            said_unsaved: false,
            crowd: Crowd::default(),
            hears_events: Arc::default(),
        };
        (watcher, heard)
    }

    /// One that is started again at once, or whose clients are disconnected, closes the connection on which it is asked.
    #[tokio::test]
    async fn a_sentinel_that_closes_a_connection_is_asked_on_another() {
        let sentinel = Scripted::start(|connection, words| match words {
            words if words.contains("MYID") => Some(format!("{}{}", bulk("a"), bulk("run_id:a"))),
            // The second question of the first connection.
            words if words.contains("other") && connection == 0 => None,
            _ => Some(format!("$-1\r\n{}{}", "-ERR No such master\r\n".repeat(3), bulk(""))),
        });
        let sentinel = sentinel.await;
        let (mut watcher, _heard) = a_watcher(&sentinel.address, 500);
        for group in ["redis", "other"] {
            let reading = watcher.ask(&group.parse().unwrap()).await;
            assert_eq!(reading.result.map(|answer| answer.group), Ok(None), "{group}");
        }
    }

    #[tokio::test]
    async fn a_command_that_comes_too_late_is_not_carried_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sentinel = Address::new("127.0.0.1", port).unwrap();
        let (mut watcher, _heard) = a_watcher(&sentinel, 50);
        let group: GroupName = "redis".parse().unwrap();
        let forget = |until| {
            let primary = "10.0.0.1:6379".parse().unwrap();
            let forget = Forget { sentinel: sentinel.clone(), primary, stale_peers: Vec::new() };
            SentinelCommand::Forget(group.clone(), forget, until)
        };
        watcher.carry_out(forget(Mono(0))).await;
        let came = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(came.is_err(), "{came:?}");
        watcher.carry_out(forget(watcher.settings.clock.now().mono.plus_ms(60_000))).await;
        tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
    }
}
