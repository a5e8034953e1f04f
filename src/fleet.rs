//! This agent's part in the fleet: which of the groups that it is configured with it watches, and which it leaves to
//! others ([`crate::core::fleet`]). Consul away, or denied, changes nothing: what was read last stays, and before
//! anything was read the agent watches all.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::fleet::{FLEET_PAUSE, FleetReader};
use crate::core::fleet::{FleetLayout, GroupHash, GroupList, Share};
use crate::core::identity::address::GroupName;
use crate::core::published::projection::Layout;

/// Deadline for the first look at the fleet: an agent that starts need not wait for it.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Groups of which it is asked at a time whether others watch them by now.
const ASKED_AT_ONCE_MAX: usize = 64;
/// Groups that a line of the log names.
const NAMED_MAX: usize = 5;

/// What an agent's part depends on besides the other agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSettings {
    watchers: usize,
    layouts: Vec<Layout>,
    hashes: Arc<[GroupHash]>,
    /// The groups, by their places, that this agent stands beside an instance of.
    kept: BTreeSet<usize>,
}

impl FleetSettings {
    /// Of this config.
    pub fn of(config: &Config) -> Self {
        let groups = &config.groups;
        let is_beside = |(place, group): (usize, &GroupConfig)| {
            (!group.policy.local.is_empty()).then_some(place)
        };
        Self {
            watchers: config.watchers,
            layouts: groups.iter().map(|group| group.layout.clone()).collect(),
            hashes: groups.iter().map(hash_of).collect(),
            kept: groups.iter().enumerate().filter_map(is_beside).collect(),
        }
    }

    /// The groups that the agent is configured with.
    pub fn list(&self) -> Arc<GroupList> {
        Arc::new(GroupList::new(self.hashes.iter().copied()))
    }
}

/// A group as it stands in the lists of agents.
pub fn hash_of(group: &GroupConfig) -> GroupHash {
    GroupHash::new(group.policy.installation.as_deref(), &group.policy.group)
}

/// The agents that are configured with each group that this one watches, in the order in which they are to watch it.
pub type GroupAgents = BTreeMap<GroupName, Vec<String>>;

/// Keeps [`FleetTask::left`] and [`FleetTask::agents`] up to date.
pub struct FleetTask {
    consul: Consul,
    clock: Clock,
    reader: FleetReader,
    now: FleetSettings,
    settings: watch::Receiver<FleetSettings>,
    share: Share,
    left: watch::Sender<BTreeSet<GroupName>>,
    agents: watch::Sender<GroupAgents>,
}

impl FleetTask {
    /// Looks at the fleet once. What this agent does not watch by that it leaves to others from the start: it has not
    /// watched it before.
    pub async fn begin(
        consul: &Consul,
        clock: Clock,
        config: &Config,
        mut settings: watch::Receiver<FleetSettings>,
    ) -> Self {
        let now = settings.borrow_and_update().clone();
        let share = Share::new(&config.agent, now.watchers, now.hashes.clone(), now.kept.clone());
        let layout = FleetLayout { prefix: config.prefix.clone() };
        let reader = FleetReader::new(consul.clone(), layout, share.list().clone());
        let (left, agents) = (watch::Sender::default(), watch::Sender::default());
        let consul = consul.clone();
        let mut task = Self { consul, clock, reader, now, settings, share, left, agents };
        match tokio::time::timeout(FIRST_LOOK_TIMEOUT, task.reader.read()).await {
            Ok(Ok(fleet)) => task.share.saw(&fleet, clock.now().mono),
            Ok(Err(error)) => debug!("the fleet was not read: {error}"),
            Err(_) => debug!("the fleet was not read in time"),
        }
        task.share.take();
        task.tell();
        let (watched, all) = (task.share.watched(), task.now.layouts.len());
        if watched < all {
            let agents = task.share.others().len() + 1;
            info!("{agents} agents share the groups: this one watches {watched} of {all}");
        }
        task
    }

    /// The groups that this agent leaves to others.
    pub fn left(&self) -> watch::Receiver<BTreeSet<GroupName>> {
        self.left.subscribe()
    }

    /// The agents that share the groups that this agent watches.
    pub fn agents(&self) -> watch::Receiver<GroupAgents> {
        self.agents.subscribe()
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (send, mut seen) = mpsc::channel(1);
        let reader = self.reader.clone();
        let _watch = AbortOnDropHandle::new(tokio::spawn(reader.watch(send)));
        loop {
            // Cancel safe: a token, a channel, a watch that keeps its value, and a timer.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(fleet) = seen.recv() => {
                    self.share.saw(&fleet, self.clock.now().mono);
                    self.tell();
                }
                Ok(()) = self.settings.changed() => {
                    self.configure_anew();
                    self.tell();
                }
                () = wait(self.share.has_more() || self.share.is_outranked()) => {}
            }
            let taken = self.share.take();
            self.tell_of(&taken, "watching", "now");
            // Cancel safe: questions that change nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                gone = self.let_go() => self.tell_of(&gone, "leaving", "to agents that watch them now"),
            }
        }
    }

    fn configure_anew(&mut self) {
        self.now = self.settings.borrow_and_update().clone();
        let FleetSettings { watchers, hashes, kept, .. } = self.now.clone();
        self.share = self.share.configured_anew(watchers, hashes, kept, self.clock.now().mono);
    }

    /// Lets the groups go that enough others watch by now: their keys say so, whatever the ranks do.
    async fn let_go(&mut self) -> Vec<usize> {
        let mut gone = Vec::new();
        let now = self.clock.now().mono;
        for group in self.share.to_let_go(now).into_iter().take(ASKED_AT_ONCE_MAX) {
            let Some(layout) = self.now.layouts.get(group) else { continue };
            let watchers = match self.consul.watchers(layout).await {
                Ok(watchers) => watchers,
                Err(error) => {
                    debug!("{}: who watches it is not known: {error}", layout.group);
                    break;
                }
            };
            let watches = |agent: &&str| watchers.iter().any(|watcher| watcher == agent);
            if self.share.successors(group).iter().all(watches) {
                self.share.let_go(group);
                gone.push(group);
            } else {
                self.share.wait_for_others(group, now);
            }
        }
        gone
    }

    fn tell(&self) {
        let groups = self.now.layouts.iter().map(|layout| layout.group.clone()).enumerate();
        let (own, left): (Vec<_>, Vec<_>) =
            groups.partition(|(place, _)| self.share.watches(*place));
        let ranked = |(place, group): (usize, GroupName)| {
            let agents = self.share.ranked(place).into_iter();
            (group, agents.map(str::to_owned).collect())
        };
        self.agents.send_replace(own.into_iter().map(ranked).collect());
        let left: BTreeSet<GroupName> = left.into_iter().map(|(_, group)| group).collect();
        self.left.send_if_modified(|before| {
            let changed = *before != left;
            *before = left;
            changed
        });
    }

    /// These have changed hands. One line in the log, however many there are.
    fn tell_of(&self, groups: &[usize], what: &str, then: &str) {
        if groups.is_empty() {
            return;
        }
        self.tell();
        let names = groups.iter().filter_map(|place| self.now.layouts.get(*place));
        let mut names: Vec<&str> = names.map(|layout| layout.group.as_str()).collect();
        let more = names.len().saturating_sub(NAMED_MAX);
        names.truncate(NAMED_MAX);
        let (first, agents) = (names.join(", "), self.share.others().len() + 1);
        let first = if more == 0 { first } else { format!("{first} and {more} more") };
        info!("{what} {first} {then}: {agents} agents share the groups");
    }
}

/// Until the next attempt, where there is something to try again. Cancel safe.
async fn wait(is_due: bool) {
    if is_due { tokio::time::sleep(FLEET_PAUSE).await } else { pending().await }
}
