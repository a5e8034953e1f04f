//! What an agent is made of while it runs, and how it goes from one config to the next: what has not changed is not
//! touched, and the subscriptions to Sentinels stay in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, tellers};
use crate::clock::{Clock, keep_beating};
use crate::cluster_task::{ClusterTask, MembersOfAll};
use crate::config::{ClusterConfig, Config, DnsConfig, GroupConfig, ONLY_PUBLISHES};
use crate::consul::client::{Consul, Prepared};
use crate::consul::presence::{Presence, WatchedGroup, be_present};
use crate::consul::registrar::{Monitored, Registration, keep_registered};
use crate::consul::sentinel_rows;
use crate::consul::services::AGENT;
use crate::consul::shared_watch::SharedWatch;
use crate::core::fleet::{FleetLayout, GroupList};
use crate::core::group::Published;
use crate::core::identity::address::GroupName;
use crate::core::policy::FEW_GROUPS_MAX;
use crate::core::published::sentinel_rows::{INSTALLATION, SERVICE as SENTINEL_SERVICE};
use crate::core::published::store::AgentClock;
use crate::dns::Names;
use crate::exit::Failure;
use crate::fleet::{FleetSettings, FleetTask, GroupAgents};
use crate::group_task::{EVENTS_MAX, GroupTask, RIGHT_MAX};
use crate::http::{
    Clusters, Groups, HttpServer, HttpSources, Shown, ShownCluster, check_certificates,
    keep_answering,
};
use crate::meter::{ClusterMeter, GroupMeter, Meter, NoticeMeter};
use crate::name_check::{Checker, Findings, NameQuestions};
use crate::notify::group::TargetHandles;
use crate::notify::send::Teller;
use crate::notify::target::{QUEUE_MAX, QueuedNotice, TargetHandle, TargetTask};
use crate::render::task::{FileState, Renderer};
use crate::sentinel::login::{Giving, Login};
use crate::sentinel::pool::{Pool, PoolReport, SentinelHandles, Watched};
use crate::sentinel::watch::WatchSettings;
use crate::supervisor::{Supervisor, TaskEnded, TaskHandle};
use crate::systemd;

/// News about Sentinels waiting to be published.
const NEWS_MAX: usize = 256;

/// How long a stop waits until what is being told is told, where something is.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// All tasks of an agent, and how to reach them.
pub struct AgentTasks {
    /// The config in force.
    pub config: Config,
    /// The client that all tasks share.
    pub consul: Consul,
    /// The clock that all tasks share.
    pub clock: Clock,
    /// Stops all tasks, and notices when one ends by itself.
    pub supervisor: Supervisor,
    /// The groups of the config that other agents watch.
    pub left: watch::Receiver<BTreeSet<GroupName>>,
    sharing: watch::Receiver<GroupAgents>,
    shared: watch::Sender<FleetSettings>,
    configured: watch::Sender<Arc<GroupList>>,
    meter: Meter,
    look: watch::Receiver<u64>,
    groups: BTreeMap<GroupName, GroupPart>,
    clusters: BTreeMap<GroupName, ClusterPart>,
    members: MembersOfAll,
    keys_watch: SharedWatch,
    questions: Arc<NameQuestions>,
    sentinels: watch::Sender<SentinelHandles>,
    watched: watch::Sender<Watched>,
    watched_groups: watch::Sender<Vec<WatchedGroup>>,
    clocks: watch::Sender<BTreeMap<String, AgentClock>>,
    registrations: watch::Sender<Vec<Registration>>,
    monitored: watch::Sender<Monitored>,
    registrar: Option<TaskHandle>,
    shown: watch::Sender<Groups>,
    shown_clusters: watch::Sender<Clusters>,
    looked_at: watch::Sender<bool>,
    http: Option<TaskHandle>,
    renderer: Option<TaskHandle>,
    files: watch::Sender<Vec<FileState>>,
    targets: BTreeMap<String, TargetPart>,
    told: watch::Sender<TargetHandles>,
}

/// One target's task, and the way to it.
struct TargetPart {
    teller: watch::Sender<Arc<Teller>>,
    queue: mpsc::Sender<QueuedNotice>,
    task: TaskHandle,
    meter: NoticeMeter,
}

/// One group's loop, and beside it the question whether DNS answers what the loop published.
struct GroupPart {
    task: TaskHandle,
    checker: Option<TaskHandle>,
    config: watch::Sender<GroupConfig>,
    reports: mpsc::Sender<PoolReport>,
    in_dns: mpsc::Sender<u64>,
    shown: Shown,
    published: watch::Receiver<Option<Published>>,
    findings: watch::Sender<Findings>,
    telling: watch::Receiver<bool>,
}

/// One cluster's loop.
struct ClusterPart {
    config: ClusterConfig,
    task: TaskHandle,
    shown: ShownCluster,
}

/// What a reload changed, and what waits for a restart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReloadChanges {
    /// The parts that are in force now.
    done: Vec<String>,
    /// Keys that wait until the agent is started again.
    waiting: Vec<&'static str>,
}

impl ReloadChanges {
    /// Logs what was changed and what waits for a restart.
    pub fn say(&self) {
        match self.done.as_slice() {
            [] => info!("the config is unchanged"),
            done => info!("the new config is in force: {}", done.join(", ")),
        }
        if !self.waiting.is_empty() {
            warn!("waits until the agent is started again: {}", self.waiting.join(", "));
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
    }

    fn note_if(&mut self, changed: bool, what: &str) {
        if changed {
            self.note(what);
        }
    }
}

impl AgentTasks {
    /// Starts everything.
    ///
    /// # Errors
    /// A [`Failure`] when the HTTP server cannot listen, or its certificates cannot be read.
    pub async fn start(agent: Agent, look: watch::Receiver<u64>) -> Result<Self, Failure> {
        let Agent { config, consul, clock, renderer, tellers } = agent;
        let watched = watched(&config, &BTreeMap::new(), clock);
        let shared = watch::Sender::new(FleetSettings::of(&config));
        let list = shared.borrow().list();
        let fleet = FleetTask::begin(&consul, clock, &config, shared.subscribe()).await;
        let mut running = Self {
            left: fleet.left(),
            sharing: fleet.agents(),
            configured: watch::Sender::new(list),
            shared,
            meter: {
                let of_login = consul.clone();
                Meter::new(clock, consul.errors()).with_login(move || of_login.login())
            },
            look,
            groups: BTreeMap::new(),
            clusters: BTreeMap::new(),
            members: MembersOfAll::default(),
            keys_watch: SharedWatch::default(),
            questions: Arc::default(),
            sentinels: watch::Sender::default(),
            watched: watch::Sender::new(watched),
            watched_groups: watch::Sender::default(),
            clocks: watch::Sender::new(BTreeMap::new()),
            registrations: watch::Sender::new(registrations(&config)),
            monitored: watch::Sender::default(),
            registrar: None,
            shown: watch::Sender::default(),
            shown_clusters: watch::Sender::default(),
            looked_at: watch::Sender::default(),
            http: None,
            renderer: None,
            files: watch::Sender::default(),
            targets: BTreeMap::new(),
            told: watch::Sender::default(),
            supervisor: Supervisor::default(),
            config,
            consul,
            clock,
        };
        let server = match &running.config.http {
            Some(http) => Some(HttpServer::bind(http, running.exhibits()).await?),
            None => None,
        };
        running.looked_at.send_replace(server.is_some() || systemd::listens());
        running.turn_targets(tellers).await;
        let left = running.left.borrow_and_update().clone();
        for group in running.own_groups(&left) {
            running.start_group(group);
        }
        for cluster in running.config.clusters.clone() {
            running.start_cluster(cluster);
        }
        running.show_watched();
        running.start_common();
        running.supervisor.spawn("the fleet", |stop| fleet.run(stop));
        running.answer(server);
        running.render(renderer);
        running.say_start();
        Ok(running)
    }

    /// The tasks that there are whatever the config says.
    fn start_common(&mut self) {
        let (news, heard) = mpsc::channel(NEWS_MAX);
        let monitored = self.monitored.clone();
        let consul = || self.consul.clone();
        let prefix = self.config.prefix.clone();
        let watched = self.watched.subscribe();
        let installation = move || watched.borrow().sources.installation.clone();
        let left = self.left.clone();
        let rows = sentinel_rows::publish(
            consul(),
            prefix,
            self.clock,
            installation,
            left,
            heard,
            monitored,
        );
        let pool = Pool {
            watched: self.watched.subscribe(),
            consul: consul(),
            handles: self.sentinels.clone(),
            news,
        };
        let presence = Presence {
            consul: consul(),
            agent: self.config.agent.clone(),
            groups: self.watched_groups.subscribe(),
            value: self.presence(),
            clocks: self.clocks.subscribe(),
            keys_watch: self.keys_watch.clone(),
            fleet: FleetLayout { prefix: self.config.prefix.clone() },
            configured: self.configured.subscribe(),
        };
        let certificates = consul().keep_certificates_fresh();
        let shown = self.shown.subscribe();
        let meter = self.meter.clone();
        let keys_watch =
            self.keys_watch.clone().run(consul(), self.config.prefix.clone(), self.clock);
        let all = &mut self.supervisor;
        all.spawn("the watch of all groups' keys", |stop| until(stop, keys_watch));
        all.spawn("the heartbeat", |stop| until(stop, keep_beating()));
        all.spawn("the Sentinels' pool", |stop| until(stop, pool.run()));
        all.spawn("the Sentinels' rows", |stop| until(stop, rows));
        all.spawn("the agent's presence", |stop| be_present(presence, stop));
        all.spawn("the certificates for Consul", |stop| until(stop, certificates));
        if systemd::listens() {
            all.spawn("systemd's notifications", |stop| systemd::keep_telling(shown, meter, stop));
        }
        self.keep_registered();
    }

    fn keep_registered(&mut self) {
        let (local, monitored) = (self.registrations.subscribe(), self.monitored.subscribe());
        let consul = self.consul.clone();
        let task = |stop| keep_registered(consul, local, monitored, stop);
        self.registrar = Some(self.supervisor.spawn("the registrar", task));
    }

    /// Goes on by `next`. What can go wrong comes first, so that either all of it counts or nothing.
    ///
    /// # Errors
    /// A [`Failure`]: everything is as it was.
    pub async fn apply_config(&mut self, next: Config) -> Result<ReloadChanges, Failure> {
        let mut changes = ReloadChanges { done: Vec::new(), waiting: next.waiting.clone() };
        let renderer = Renderer::new(&next, self.consul.clone(), self.clock)?;
        let tellers = tellers(&next)?;
        // Certificates are read now: they may have changed by the time that the way is taken.
        let way = Consul::prepare(&next.consul)?;
        if let Some(http) = &next.http {
            check_certificates(http)?;
        }
        let before = std::mem::replace(&mut self.config, next);
        self.turn_consul(way, &before, &mut changes).await;
        self.turn_http(&before, &mut changes).await;
        self.turn_targets(tellers).await;
        self.turn_groups(&before, &mut changes).await;
        self.turn_clusters(&before, &mut changes).await;
        let registered = self.registrations.send_replace(registrations(&self.config));
        let shared = FleetSettings::of(&self.config);
        self.configured.send_if_modified(|list| replaced(list, shared.list()));
        self.shared.send_if_modified(|now| replaced(now, shared));
        self.show_watched();
        let now = &self.config;
        let sentinels = before.sources != now.sources
            || before.resolver != now.resolver
            || before.sentinel_login != now.sentinel_login;
        let templates = before.templates != now.templates || configured(&before) != configured(now);
        changes.note_if(sentinels, "[sentinels]");
        changes.note_if(registered != *self.registrations.borrow(), "what this host registers");
        changes.note_if(before.handover != now.handover, "[agent] handover");
        changes.note_if(before.watchers != now.watchers, "[agent] watchers");
        changes.note_if(before.log != now.log, "[log] level");
        changes.note_if(before.templates != now.templates, "[[template]]");
        changes.note_if(before.notify != now.notify, "[[notify]]");
        if templates {
            if let Some(renderer) = self.renderer.take() {
                renderer.end().await;
            }
            self.render(renderer);
        }
        Ok(changes)
    }

    /// This host's servers leave the Consul that they were registered on, if it is another one now.
    async fn turn_consul(&mut self, way: Prepared, before: &Config, changes: &mut ReloadChanges) {
        let elsewhere = before.consul != self.config.consul;
        if elsewhere && let Some(registrar) = self.registrar.take() {
            registrar.end().await;
        }
        // Its certificates were read again in any case.
        self.consul.apply_config(way);
        if elsewhere {
            self.keep_registered();
            changes.note(format!("Consul is at {}", self.consul.address()));
        }
    }

    async fn turn_http(&mut self, before: &Config, changes: &mut ReloadChanges) {
        if before.http == self.config.http {
            return;
        }
        if let Some(http) = self.http.take() {
            http.end().await;
        }
        self.looked_at.send_replace(self.config.http.is_some() || systemd::listens());
        self.answer(None);
        changes.note("[http]");
    }

    /// Starts groups that are new, ends those that are gone, and passes the changes to the others. A group that is
    /// published as another service begins anew.
    async fn turn_groups(&mut self, before: &Config, changes: &mut ReloadChanges) {
        let own = self.own_groups(&self.left.borrow()).into_iter();
        let wanted: BTreeMap<GroupName, GroupConfig> =
            own.map(|group| (group.policy.group.clone(), group)).collect();
        let is_over = |group: &GroupName, part: &GroupPart| {
            let now = &part.config.borrow().policy;
            wanted.get(group).is_none_or(|next| {
                next.policy.service != now.service || next.policy.installation != now.installation
            })
        };
        let gone: Vec<GroupName> = self
            .groups
            .iter()
            .filter(|(group, part)| is_over(group, part))
            .map(|(group, _)| group.clone())
            .collect();
        for group in gone {
            let Some(part) = self.groups.remove(&group) else { continue };
            if !wanted.contains_key(&group) {
                changes.note(format!("group {group} is not watched any more"));
            }
            // Pages show what it showed last, until the others are shown.
            part.end().await;
        }
        let dns_changed = before.dns != self.config.dns;
        for (group, next) in wanted {
            match self.groups.get_mut(&group) {
                None => {
                    changes.note(format!("group {group} is watched"));
                    self.start_group(next);
                }
                Some(part) => {
                    let changed = part.config.send_if_modified(|now| {
                        let changed = *now != next;
                        *now = next;
                        changed
                    });
                    if changed {
                        changes.note(format!("group {group}"));
                    }
                    if dns_changed {
                        if let Some(checker) = part.checker.take() {
                            checker.end().await;
                        }
                        self.check_name(&group);
                    }
                }
            }
        }
        if dns_changed {
            changes.note("[dns]");
        }
    }

    /// Goes by what [`AgentTasks::left`] says now: groups that were taken are watched before those that were let go end.
    pub async fn share_groups(&mut self) {
        let left = self.left.borrow_and_update().clone();
        for group in self.own_groups(&left) {
            if !self.groups.contains_key(&group.policy.group) {
                self.start_group(group);
            }
        }
        let over: Vec<GroupPart> =
            left.iter().filter_map(|group| self.groups.remove(group)).collect();
        self.show_watched();
        for part in over {
            part.end().await;
        }
    }

    /// The groups that this agent watches: all that others do not watch in its place.
    fn own_groups(&self, left: &BTreeSet<GroupName>) -> Vec<GroupConfig> {
        let is_own = |group: &&GroupConfig| !left.contains(&group.policy.group);
        self.config.groups.iter().filter(is_own).cloned().collect()
    }

    /// Ends the clusters that are gone or have changed, and starts those that are new. Nothing that is published changes
    /// with that, and what a loop forgets it sees again within a second.
    async fn turn_clusters(&mut self, before: &Config, changes: &mut ReloadChanges) {
        let resolver = before.resolver != self.config.resolver;
        let wanted = self.config.clusters.clone();
        let stays = |running: &ClusterConfig| !resolver && wanted.contains(running);
        let over: Vec<GroupName> = self
            .clusters
            .iter()
            .filter(|(_, part)| !stays(&part.config))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            let Some(part) = self.clusters.remove(&name) else { continue };
            if !wanted.iter().any(|cluster| cluster.policy.name == name) {
                changes.note(format!("cluster {name} is not watched any more"));
            }
            part.task.end().await;
        }
        for cluster in wanted {
            if !self.clusters.contains_key(&cluster.policy.name) {
                changes.note(format!("cluster {} is watched", cluster.policy.name));
                self.start_cluster(cluster);
            }
        }
    }

    fn start_cluster(&mut self, cluster: ClusterConfig) {
        let name = cluster.policy.name.clone();
        let (show, shown) = watch::channel(None);
        let task = ClusterTask {
            cluster: cluster.clone(),
            consul: self.consul.clone(),
            clock: self.clock,
            names: Names::new(self.config.resolver),
            look: self.look.clone(),
            meter: ClusterMeter::new(&self.meter, name.clone()),
            shown: show,
            members: self.members.clone(),
        };
        let task = self.supervisor.spawn("a cluster's loop", |stop| task.run(stop));
        self.clusters.insert(name, ClusterPart { config: cluster, task, shown });
    }

    fn start_group(&mut self, group: GroupConfig) {
        let name = group.policy.group.clone();
        let (reports, heard) = mpsc::channel(EVENTS_MAX);
        let (in_dns, right) = mpsc::channel(RIGHT_MAX);
        let (show, shown) = watch::channel(None);
        let (publish, published) = watch::channel(None);
        let (findings, found) = watch::channel(Findings::new());
        let (config, configs) = watch::channel(group);
        let (tells, telling) = watch::channel(false);
        // Each of few groups has blocking queries of its own, which tell the sooner.
        let many = self.config.groups.len() > FEW_GROUPS_MAX;
        let task = GroupTask {
            shared: many.then(|| self.keys_watch.clone()),
            group: configs,
            consul: self.consul.clone(),
            clock: self.clock,
            sentinels: self.sentinels.subscribe(),
            reports: heard,
            in_dns: right,
            look: self.look.clone(),
            shown: show,
            looked_at: self.looked_at.subscribe(),
            meter: self.group_meter(&name),
            published: publish,
            findings: found,
            clocks: self.clocks.clone(),
            targets: self.told.subscribe(),
            telling: tells,
        };
        let task = self.supervisor.spawn("a group's loop", |stop| task.run(stop));
        let checker = None;
        let part = GroupPart {
            task,
            checker,
            config,
            reports,
            in_dns,
            shown,
            published,
            findings,
            telling,
        };
        self.groups.insert(name.clone(), part);
        self.check_name(&name);
    }

    /// What a loop counts with, which is about to turn.
    fn group_meter(&self, group: &GroupName) -> GroupMeter {
        let meter = GroupMeter::new(self.meter.clone(), group.clone());
        meter.beat(self.clock.now().mono);
        meter
    }

    /// Asks DNS for a group's name, where that is wanted.
    fn check_name(&mut self, group: &GroupName) {
        let (Some(dns), Some(part)) = (&self.config.dns, self.groups.get_mut(group)) else {
            return;
        };
        let checker = Checker {
            group: group.clone(),
            dns: DnsConfig::clone(dns),
            clock: self.clock,
            meter: self.meter.clone(),
            published: part.published.clone(),
            look: self.look.clone(),
            findings: part.findings.clone(),
            right: part.in_dns.clone(),
            questions: self.questions.clone(),
            pause_min_ms: part.config.borrow().policy.pace.name_pause_ms(),
        };
        let task = |stop| checker.run(stop);
        part.checker = Some(self.supervisor.spawn("the check of the name", task));
    }

    /// Ends the targets that are gone, passes the changes to the others, and starts those that are new. What waits for a
    /// target that stays is kept.
    async fn turn_targets(&mut self, tellers: Vec<Arc<Teller>>) {
        let stays = |name: &String| tellers.iter().any(|teller| teller.config.name == *name);
        let gone: Vec<String> = self.targets.keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            let Some(part) = self.targets.remove(&name) else { continue };
            part.task.end().await;
            part.meter.end();
        }
        for teller in tellers {
            let name = teller.config.name.clone();
            if let Some(part) = self.targets.get(&name) {
                part.teller.send_replace(teller);
                continue;
            }
            let (queue, waiting) = mpsc::channel(QUEUE_MAX);
            let (teller, tells) = watch::channel(teller);
            let meter = NoticeMeter::new(&self.meter, &name);
            let task = TargetTask { teller: tells, queue: waiting, meter: meter.clone() };
            let task = self.supervisor.spawn("a target's task", |stop| task.run(stop));
            self.targets.insert(name, TargetPart { teller, queue, task, meter });
        }
        let handle = |part: &TargetPart| TargetHandle {
            teller: part.teller.borrow().clone(),
            queue: part.queue.clone(),
        };
        let handles: Vec<TargetHandle> = self.targets.values().map(handle).collect();
        self.told.send_replace(Arc::new(handles));
    }

    /// Waits for a moment until what this agent has changed is told, and noted in Consul. Else another agent tells it.
    pub async fn settle_notices(&mut self) {
        let settled = async {
            for part in self.groups.values_mut() {
                // A loop that has ended tells nothing.
                let _ = part.telling.wait_for(|telling| !telling).await;
            }
        };
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settled).await;
    }

    fn exhibits(&self) -> HttpSources {
        HttpSources {
            groups: self.shown.subscribe(),
            clusters: self.shown_clusters.subscribe(),
            agents: self.sharing.clone(),
            files: self.files.subscribe(),
            meter: self.meter.clone(),
        }
    }

    /// Answers by HTTP, where that is wanted.
    fn answer(&mut self, bound: Option<HttpServer>) {
        let Some(http) = self.config.http.clone() else { return };
        let exhibits = self.exhibits();
        let task = |stop| keep_answering(http, exhibits, bound, stop);
        self.http = Some(self.supervisor.spawn("the HTTP server", task));
    }

    fn render(&mut self, renderer: Option<Renderer>) {
        self.files.send_replace(Vec::new());
        let (look, files) = (self.look.clone(), self.files.clone());
        self.renderer = renderer.map(|renderer| {
            self.supervisor.spawn("the templates", |stop| renderer.run(stop, look, files))
        });
    }

    /// Tells the others which groups are watched now: the Sentinels' pool, the agent's keys, and what shows them.
    fn show_watched(&self) {
        self.watched.send_replace(self.now_watched());
        let own = |group: &GroupName| self.groups.contains_key(group);
        self.watched_groups.send_replace(watched_groups(&self.config, own));
        self.meter.shares(self.config.groups.len(), self.groups.len());
        self.show_groups();
    }

    /// Shows the groups to the HTTP server and to systemd.
    fn show_groups(&self) {
        let all = self.groups.iter().map(|(name, part)| {
            let local = part.config.borrow().policy.local.iter().cloned().collect();
            (name.clone(), (part.shown.clone(), local))
        });
        self.shown.send_replace(all.collect());
        let clusters = self.clusters.iter().map(|(name, part)| (name.clone(), part.shown.clone()));
        self.shown_clusters.send_replace(clusters.collect());
    }

    fn now_watched(&self) -> Watched {
        watched(&self.config, &self.groups, self.clock)
    }

    fn say_start(&self) {
        let own = |group: &&GroupConfig| self.groups.contains_key(&group.policy.group);
        for group in self.config.groups.iter().filter(own) {
            let only = if group.only_publishes() { ONLY_PUBLISHES } else { "" };
            info!(
                "{}: watching, publishing {}.service.consul at level {}{only}",
                group.policy.group,
                group.policy.service.primary(),
                group.policy.publish.as_str()
            );
        }
        for cluster in &self.config.clusters {
            let (name, service) = (&cluster.policy.name, &cluster.policy.service);
            info!("{name}: watching the cluster, publishing {service}.service.consul");
        }
        for group in self.config.groups.iter().filter(|group| group.policy.tell_sentinels) {
            let login = Login::read(&group.sentinel_auth).ok().flatten();
            if let Some((login, why)) = login.and_then(|l| l.not_storable().map(|why| (l, why))) {
                let (name, named) = (&group.policy.group, login.named());
                warn!("{name}: no Sentinel is given {named}: {why}");
            }
        }
        let (agent, consul) = (&self.config.agent, self.consul.address());
        let mode = if is_remote(&self.config) { "remote" } else { "node" };
        info!("agent {agent} in {mode} mode, Consul at {consul}");
        let listed = self.config.sources.listed.len();
        if listed > 0 && listed.is_multiple_of(2) {
            warn!("{listed} Sentinels are listed; an odd number survives more");
        }
    }

    fn presence(&self) -> serde_json::Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "mode": mode(&self.config),
            "since": self.clock.now().wall.to_string(),
            "sentinels": self.config.sources.names(),
        })
    }

    /// Ends everything, since a part was lost.
    pub async fn give_up(self, lost: TaskEnded) -> Failure {
        self.supervisor.give_up(lost).await.into()
    }
}

impl GroupPart {
    async fn end(self) {
        if let Some(checker) = self.checker {
            checker.end().await;
        }
        self.task.end().await;
    }
}

/// The mode as the agent's key in Consul has it: `observer` is the word of before for remote mode.
fn mode(config: &Config) -> &'static str {
    if is_remote(config) { "observer" } else { "node" }
}

/// No server of this host is configured.
fn is_remote(config: &Config) -> bool {
    config.redis.is_empty() && config.sentinels.is_empty()
}

/// All groups and clusters.
fn configured(config: &Config) -> Vec<WatchedGroup> {
    watched_groups(config, |_| true)
}

/// All clusters, and the groups that are its own.
fn watched_groups(config: &Config, is_own: impl Fn(&GroupName) -> bool) -> Vec<WatchedGroup> {
    let shown = |group: &GroupConfig| WatchedGroup {
        layout: group.layout.clone(),
        manages: !group.only_publishes(),
        notifies: config.notify.iter().any(|target| target.hears_of(&group.policy.group)),
        words: Some(group.words.clone()),
    };
    let cluster = |cluster: &ClusterConfig| WatchedGroup {
        layout: cluster.policy.layout.clone(),
        manages: false,
        notifies: false,
        words: None,
    };
    let own = config.groups.iter().filter(|group| is_own(&group.policy.group));
    own.map(shown).chain(config.clusters.iter().map(cluster)).collect()
}

fn watched(config: &Config, parts: &BTreeMap<GroupName, GroupPart>, clock: Clock) -> Watched {
    let own = |group: &&GroupConfig| parts.contains_key(&group.policy.group);
    let groups: Vec<&GroupConfig> = config.groups.iter().filter(own).collect();
    let name = |group: &GroupConfig| group.policy.group.clone();
    let told = groups.iter().filter(|group| group.policy.tell_sentinels);
    Watched {
        sources: config.sources.clone(),
        names: Names::new(config.resolver),
        settings: WatchSettings {
            link: config.sentinel_login.clone(),
            groups: groups.iter().map(|group| name(group)).collect(),
            logins: told.map(|group| (name(group), giving(group, &config.agent))).collect(),
            relays: groups.iter().any(|group| group.policy.relay),
            clock,
        },
        groups: parts.iter().map(|(name, part)| (name.clone(), part.reports.clone())).collect(),
    }
}

fn giving(group: &GroupConfig, agent: &str) -> Giving {
    let GroupConfig { layout, login, sentinel_auth, .. } = group.clone();
    Giving { auth: sentinel_auth, way: login, layout, by: agent.to_owned() }
}

/// This host's servers as the local Consul agent is to know them.
fn registrations(config: &Config) -> Vec<Registration> {
    let meta = |group: Option<&GroupName>| {
        let mut meta = BTreeMap::from([
            (AGENT.to_owned(), config.agent.clone()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        meta.extend(group.map(|group| ("group".to_owned(), group.to_string())));
        let installation = config.sources.installation.clone();
        meta.extend(installation.map(|name| (INSTALLATION.to_owned(), name)));
        meta
    };
    let redis = config.redis.iter().map(|local| Registration {
        id: format!("{}:{}", local.service, local.address),
        service: local.service.clone(),
        address: local.address.clone(),
        tags: Vec::new(),
        meta: meta(Some(&local.group)),
        check_interval: local.check_interval,
        forgotten_after: local.forgotten_after,
    });
    let sentinels = config.sentinels.iter().map(|local| Registration {
        id: format!("{SENTINEL_SERVICE}:{}", local.address),
        service: SENTINEL_SERVICE.to_owned(),
        address: local.address.clone(),
        tags: Vec::new(),
        meta: meta(None),
        check_interval: local.check_interval,
        forgotten_after: local.forgotten_after,
    });
    redis.chain(sentinels).collect()
}

/// Puts `next` in the place of what there is; whether that is something else.
fn replaced<T: PartialEq>(now: &mut T, next: T) -> bool {
    let changed = *now != next;
    *now = next;
    changed
}

/// Runs `task` until `stop`.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}
