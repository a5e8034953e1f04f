//! One cluster's loop over real connections: what happens is turned into [`ClusterInput`]s, and the outputs of
//! [`ClusterLoop`] are carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, ticks_every};
use crate::cluster::{NodeQuestions, follow_node, tell};
use crate::config::ClusterConfig;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::watch::{watch_cluster, watch_rows};
use crate::core::cluster::order::NodeOrder;
use crate::core::cluster::record::{AnnouncedNode, Announcement, ClusterStore, retract};
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::shown::{ClusterProblemCode, ClusterStatus};
use crate::core::cluster::table::NodeId;
use crate::core::cluster::watch::{ClusterInput, ClusterLoop, ClusterOutput, NodeReading};
use crate::core::group::{LogLevel, LogLine, Outcome};
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::ProcessState;
use crate::core::published::projection::Op;
use crate::core::time::Mono;
use crate::discovery::{ServerSource, SourceError, look_up};
use crate::dns::Names;
use crate::mailbox::Mailbox;
use crate::meter::ClusterMeter;
use crate::process::watch_process;
use crate::redis_link::LinkSettings;

/// How often the names of seeds are looked up, and what is registered in Consul.
const SEEDS_EVERY: Duration = Duration::from_secs(10);
/// Readings and ends of calls to Consul that wait for one cluster.
const WAITING_MAX: usize = 1_024;
/// Between two attempts to write down which nodes this agent stands beside.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(5);
/// How long a node may take for what it is told.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers of Consul's watches that wait.
const ANSWERS_MAX: usize = 16;

/// The settings and connections of one cluster's task.
pub struct ClusterTask {
    /// The cluster.
    pub cluster: ClusterConfig,
    /// The client for its keys and rows.
    pub consul: Consul,
    /// The clock of all readings.
    pub clock: Clock,
    /// Looks up the names of seeds.
    pub names: Names,
    /// Grows when everything is to be looked at now, as on SIGHUP.
    pub look: watch::Receiver<u64>,
    /// The cluster's metrics.
    pub meter: ClusterMeter,
    /// What the page shows of it.
    pub shown: watch::Sender<Option<ClusterStatus>>,
    /// Which node is which cluster's: this task keeps its own, and reads the others'.
    pub members: MembersOfAll,
}

/// The members of each cluster that an agent is configured with, as their records have them.
pub type MembersOfAll = watch::Sender<BTreeMap<GroupName, BTreeSet<NodeId>>>;

/// One node that is followed.
struct FollowedNode {
    questions: Arc<Mailbox<NodeQuestions>>,
    _task: AbortOnDropHandle<()>,
}

/// The nodes that this agent stands beside, and which nodes agents say that of.
struct NodesBeside {
    local: watch::Receiver<BTreeSet<Address>>,
    /// As Consul last told; `None` while it does not answer.
    announced: Option<BTreeMap<Address, Announcement>>,
    /// Nothing is written before that.
    next: Instant,
}

/// Where what happens is told.
struct NewsSenders {
    readings: mpsc::Sender<(Address, NodeReading)>,
    done: mpsc::Sender<ClusterInput>,
    process_news: mpsc::Sender<Box<(Address, ProcessState)>>,
}

/// Carries out what the loop asks for.
struct ClusterHands {
    cluster: ClusterConfig,
    consul: Consul,
    clock: Clock,
    news: NewsSenders,
    nodes: BTreeMap<Address, FollowedNode>,
    /// The tasks that watch the processes of this host's nodes.
    processes: BTreeMap<Address, AbortOnDropHandle<()>>,
    login: watch::Sender<LinkSettings>,
    meter: ClusterMeter,
    /// What Consul refuses.
    refused: Option<String>,
}

impl ClusterTask {
    /// Runs until `stop`. Nothing that is published changes when it ends.
    pub async fn run(mut self, stop: CancellationToken) {
        self.look.mark_unchanged();
        let mut machine = ClusterLoop::new(self.cluster.policy.clone());
        let layout = self.cluster.policy.layout.clone();
        let (readings, mut read) = mpsc::channel(WAITING_MAX);
        let (done, mut ended) = mpsc::channel(WAITING_MAX);
        let (send, mut keys) = mpsc::channel(ANSWERS_MAX);
        let watched = watch_cluster(self.consul.clone(), layout.clone(), self.clock, send);
        let (send, mut rows) = mpsc::channel(ANSWERS_MAX);
        let rows_watched = watch_rows(self.consul.clone(), layout.node(), send);
        let (found_local, local) = watch::channel(BTreeSet::new());
        let seeds = SeedLookup {
            cluster: self.cluster.clone(),
            names: self.names,
            consul: self.consul.clone(),
            known: BTreeMap::new(),
            failing: BTreeSet::new(),
        };
        let seeds = seeds.keep_looking(done.clone(), found_local);
        let _tasks = [
            AbortOnDropHandle::new(tokio::spawn(watched)),
            AbortOnDropHandle::new(tokio::spawn(rows_watched)),
            AbortOnDropHandle::new(tokio::spawn(seeds)),
        ];
        let (process_news, mut ends) = mpsc::channel(ANSWERS_MAX);
        let clock = self.clock;
        let news = NewsSenders { readings, done, process_news };
        let mut hands = ClusterHands::new(self.cluster, self.consul, clock, self.meter, news);
        let mut beside = NodesBeside { local, announced: None, next: Instant::now() };
        let (name, members) = (hands.cluster.policy.name.clone(), self.members);
        let mut all = members.subscribe();
        all.mark_changed();
        loop {
            // Cancel safe: a token, channels and a timer.
            let input = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    members.send_modify(|all| drop(all.remove(&name)));
                    return;
                }
                Some(news) = ends.recv() => ClusterInput::Process(news.0, news.1),
                Some((address, reading)) = read.recv() => ClusterInput::Node(address, reading),
                Some(input) = ended.recv() => input,
                Some(answer) = keys.recv() => {
                    beside.announced = answer.as_ref().ok().map(|store| store.announcements.clone());
                    hands.watched(answer)
                }
                Some(()) = rows.recv() => {
                    hands.read_rows();
                    ClusterInput::Tick
                }
                Ok(()) = self.look.changed() => ClusterInput::Look,
                Ok(()) = all.changed() => others(&all.borrow_and_update(), &name),
                () = tokio::time::sleep_until(clock.instant(machine.next_wake())) => {
                    ClusterInput::Tick
                }
            };
            let is_reading = matches!(input, ClusterInput::Node(..));
            if let ClusterInput::Told(order, result) = &input {
                hands.meter.told(order.command.kind(), result.is_ok());
            }
            for output in machine.on(input, clock.now()) {
                hands.carry_out(output);
            }
            // Ticks come all the time.
            if !is_reading {
                keep_members(&members, &name, &machine);
                hands.show(&machine, &mut beside, &self.shown);
            }
        }
    }
}

fn others(all: &BTreeMap<GroupName, BTreeSet<NodeId>>, own: &GroupName) -> ClusterInput {
    let others = all.iter().filter(|(name, _)| *name != own);
    ClusterInput::Others(others.map(|(_, members)| members.clone()).collect())
}

/// Copies the members only where they are other ones: it is looked at with each tick.
fn keep_members(all: &MembersOfAll, name: &GroupName, machine: &ClusterLoop) {
    all.send_if_modified(|all| {
        let is_news = all.get(name).is_none_or(|known| !known.iter().eq(machine.members()));
        if is_news {
            all.insert(name.clone(), machine.members().cloned().collect());
        }
        is_news
    });
}

/// What the seeds, the service in Consul and the nodes beside this agent stand for.
struct SeedLookup {
    cluster: ClusterConfig,
    names: Names,
    consul: Consul,
    /// As they were last looked up.
    known: BTreeMap<ServerSource, Vec<Address>>,
    /// Those that gave nothing: that is said once.
    failing: BTreeSet<ServerSource>,
}

impl SeedLookup {
    /// Looks them up again and again. One of which nothing is known now keeps the addresses that it had.
    async fn keep_looking(
        mut self,
        found: mpsc::Sender<ClusterInput>,
        local: watch::Sender<BTreeSet<Address>>,
    ) {
        let sources = self.cluster.sources();
        let mut ticks = ticks_every(SEEDS_EVERY);
        loop {
            ticks.tick().await;
            for (source, addresses) in look_up(&sources, &self.names, &self.consul).await {
                self.note(source, addresses).await;
            }
            let all = self.known.values().flatten().cloned().collect();
            let beside = self.cluster.local.iter().cloned().map(ServerSource::Listed);
            let beside: BTreeSet<Address> =
                beside.filter_map(|source| self.known.get(&source)).flatten().cloned().collect();
            local.send_if_modified(|local| {
                let changed = *local != beside;
                *local = beside;
                changed
            });
            if found.send(ClusterInput::Seeds(all)).await.is_err() {
                return;
            }
        }
    }

    async fn note(&mut self, source: &ServerSource, found: Result<Vec<Address>, SourceError>) {
        let failure = match (found, source) {
            (Ok(addresses), ServerSource::Service(service, _)) => {
                let none = addresses.is_empty().then(|| {
                    format!(
                        "no node is registered in Consul under service {service}, or the token may not read it"
                    )
                });
                // Nodes know one another by addresses, and a service may have been registered with names.
                let mut all = Vec::new();
                for address in addresses {
                    all.extend(self.names.addresses(&address).await.unwrap_or_default());
                }
                self.known.insert(source.clone(), all);
                none
            }
            (Ok(addresses), ServerSource::Listed(_)) => {
                self.known.insert(source.clone(), addresses);
                None
            }
            (Err(error), _) => Some(error.to_string()),
        };
        match failure {
            None => drop(self.failing.remove(source)),
            Some(why) => {
                if self.failing.insert(source.clone()) {
                    warn!("{}: {why}", self.cluster.policy.name);
                }
            }
        }
    }
}

impl ClusterHands {
    fn new(
        cluster: ClusterConfig,
        consul: Consul,
        clock: Clock,
        meter: ClusterMeter,
        news: NewsSenders,
    ) -> Self {
        let login = watch::Sender::new(cluster.login.clone());
        let (nodes, processes) = (BTreeMap::new(), BTreeMap::new());
        Self { cluster, consul, clock, news, nodes, processes, login, meter, refused: None }
    }

    /// What others, in Consul, in metrics and on the page, are to see of it.
    fn show(
        &mut self,
        machine: &ClusterLoop,
        beside: &mut NodesBeside,
        page: &watch::Sender<Option<ClusterStatus>>,
    ) {
        self.announce(beside);
        self.watch_processes(&beside.local.borrow());
        self.meter.show(&machine.figures());
        let status = self.with_refusal(machine.shown());
        page.send_if_modified(|shown| {
            let is_news = shown.as_ref() != Some(&status);
            *shown = Some(status);
            is_news
        });
    }

    /// What the watch says. That Consul is away it has said itself.
    fn watched(&mut self, answer: Result<ClusterStore, ConsulError>) -> ClusterInput {
        let refused = match &answer {
            Err(error) if error.is_refusal() => {
                Some(format!("{error} ({})", self.consul.token_named()))
            }
            _ => None,
        };
        if let Some(why) = &refused
            && self.refused.as_ref() != Some(why)
        {
            error!("{}: {why}", self.cluster.policy.name);
        }
        self.refused = refused;
        answer.map_or(ClusterInput::ConsulSilent, ClusterInput::Watched)
    }

    /// Writes down which nodes this agent stands beside, where Consul has something else.
    fn announce(&self, beside: &mut NodesBeside) {
        if beside.next > Instant::now() {
            return;
        }
        let local = beside.local.borrow().clone();
        let ClusterPolicy { layout, agent, zone, duties, .. } = &self.cluster.policy;
        let is_of_use = duties.manage || zone.is_some();
        let Some(announced) = beside.announced.as_ref().filter(|_| is_of_use) else { return };
        let (host, zone) = (agent.clone(), zone.clone());
        let mine = AnnouncedNode { agent: agent.clone(), host, zone };
        let mut ops = Vec::new();
        let is_mine =
            |address: &&Address| announced.get(*address).is_some_and(|found| found.node == mine);
        for address in local.iter().filter(|address| !is_mine(address)) {
            let value = serde_json::to_string(&mine).unwrap_or_default();
            ops.push(Op::KeySet { key: layout.announced(address), value });
        }
        let old = announced
            .iter()
            .filter(|(address, found)| found.node.agent == *agent && !local.contains(address));
        ops.extend(old.filter_map(|(address, _)| retract(layout, announced, address)).flatten());
        if ops.is_empty() {
            return;
        }
        beside.next = Instant::now() + ANNOUNCE_PAUSE;
        let (consul, name) = (self.consul.clone(), self.cluster.policy.name.clone());
        tokio::spawn(async move {
            if let Outcome::Refused(why) | Outcome::Unknown(why) = consul.txn(&ops, "").await {
                warn!("{name}: the node of this host is not announced: {why}");
            }
        });
    }

    /// Watches the processes of this host's nodes, where that is of use.
    fn watch_processes(&mut self, local: &BTreeSet<Address>) {
        if !self.cluster.policy.duties.acts_on_deaths() {
            return;
        }
        self.processes.retain(|address, _| local.contains(address));
        for address in local {
            let (login, clock) = (self.login.subscribe(), self.clock);
            let news = self.news.process_news.clone();
            self.processes.entry(address.clone()).or_insert_with(|| {
                let watching = watch_process(address.clone(), login, clock, news);
                AbortOnDropHandle::new(tokio::spawn(watching))
            });
        }
    }

    fn with_refusal(&self, mut status: ClusterStatus) -> ClusterStatus {
        let refused = self.refused.as_ref();
        status.add(refused.map(|why| ClusterProblemCode::ConsulRefuses.says(why.clone())));
        let failure = self.consul.login_failure();
        status.add(failure.map(|error| ClusterProblemCode::ConsulLogin.says(error.to_string())));
        status
    }

    /// Starts what an output asks for. Never waits.
    fn carry_out(&mut self, output: ClusterOutput) {
        match output {
            ClusterOutput::Follow(addresses) => self.follow(addresses),
            ClusterOutput::Ask(whole) => {
                for (address, node) in &self.nodes {
                    node.questions.post(|questions| questions.add(whole.contains(address)));
                }
            }
            ClusterOutput::ReadStore => self.read_store(),
            ClusterOutput::ReadRows => self.read_rows(),
            ClusterOutput::Write(ops) => self.write(ops),
            ClusterOutput::Retract(ops) => self.retract(ops),
            ClusterOutput::Tell(order, until) => self.tell(order, until),
            ClusterOutput::Died(sign, aftermath) => self.meter.died(sign, aftermath),
            ClusterOutput::Say(LogLine { weight, text }) => {
                let name = &self.cluster.policy.name;
                match weight {
                    LogLevel::Debug => debug!("{name}: {text}"),
                    LogLevel::Info => info!("{name}: {text}"),
                    LogLevel::Warn => warn!("{name}: {text}"),
                }
            }
        }
    }

    fn follow(&mut self, wanted: BTreeSet<Address>) {
        self.nodes.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let (login, clock) = (self.cluster.login.clone(), self.clock);
            let settings = self.cluster.policy.duties.manage;
            let readings = self.news.readings.clone();
            self.nodes.entry(address.clone()).or_insert_with(|| {
                let questions = Arc::<Mailbox<NodeQuestions>>::default();
                let task =
                    follow_node(address, login, settings, clock, questions.clone(), readings);
                let task = AbortOnDropHandle::new(tokio::spawn(task));
                FollowedNode { questions, _task: task }
            });
        }
    }

    fn read_store(&self) {
        let (consul, clock, done) = (self.consul.clone(), self.clock, self.news.done.clone());
        let (name, layout) = (self.cluster.policy.name.clone(), self.cluster.policy.layout.clone());
        tokio::spawn(async move {
            let input = match consul.cluster(&layout, &clock).await {
                Ok(store) => ClusterInput::Consistent(store),
                Err(error) => {
                    debug!("{name}: {error}");
                    ClusterInput::ReadFailed
                }
            };
            let _ = done.send(input).await;
        });
    }

    fn read_rows(&self) {
        let (consul, clock, done) = (self.consul.clone(), self.clock, self.news.done.clone());
        let policy = self.cluster.policy.clone();
        tokio::spawn(async move {
            let node = policy.layout.node();
            let input = match consul.rows_of(&node, &policy.service, &clock).await {
                Ok(rows) => ClusterInput::Rows(rows),
                Err(error) => {
                    debug!("{}: {error}", policy.name);
                    ClusterInput::ReadFailed
                }
            };
            let _ = done.send(input).await;
        });
    }

    fn tell(&self, order: NodeOrder, until: Mono) {
        let (login, done, clock) = (self.cluster.login.clone(), self.news.done.clone(), self.clock);
        tokio::spawn(async move {
            let in_time = || clock.now().mono <= until;
            let told = tokio::time::timeout(TELL_TIMEOUT, tell(&order, &login, in_time)).await;
            let result = told.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let _ = done.send(ClusterInput::Told(order, result)).await;
        });
    }

    fn retract(&self, ops: Vec<Op>) {
        let (consul, name) = (self.consul.clone(), self.cluster.policy.name.clone());
        tokio::spawn(async move {
            let outcome = consul.txn(&ops, "").await;
            debug!("{name}: what an agent said that is gone: {outcome:?}");
        });
    }

    fn write(&self, ops: Vec<Op>) {
        let (consul, done) = (self.consul.clone(), self.news.done.clone());
        let fence = self.cluster.policy.layout.state();
        tokio::spawn(async move {
            let outcome = consul.txn(&ops, &fence).await;
            let _ = done.send(ClusterInput::Written(outcome)).await;
        });
    }
}
