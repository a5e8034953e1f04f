//! One simulated history: agents, Consul and the nodes of one cluster or two, with every delay, loss and fault drawn from
//! one seed.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::cluster::judgement::NodeAnswer;
use consul_redis_core::cluster::order::{NodeCommand, NodeOrder};
use consul_redis_core::cluster::record::{AnnouncedNode, ClusterRecord, ClusterRole, ClusterStore};
use consul_redis_core::cluster::renewal::{ClusterPolicy, NoAnswer};
use consul_redis_core::cluster::table::{NodeId, Table, TableRole};
use consul_redis_core::cluster::wanted::ClusterDuties;
use consul_redis_core::cluster::watch::{ClusterInput, ClusterLoop, ClusterOutput, NodeReading};
use consul_redis_core::group::Outcome;
use consul_redis_core::identity::address::{Address, Zone};
use consul_redis_core::known::observed::{Death, Key, ProcessState, ProofKind};
use consul_redis_core::published::projection::{Layout, Op};
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::memory_consul::MemoryConsul;
use crate::nodes::{Id, Nodes, Process, Version};
use crate::operation::Operation;

mod faults;
mod invariants;
mod places;

pub use invariants::QUIET_MS;

/// Deadline of a question to a node, in ms.
const ASK_TIMEOUT_MS: u64 = 500;
/// Deadline of a call to Consul, in ms.
const CONSUL_TIMEOUT_MS: u64 = 3_000;
/// How often the nodes go on, in ms.
const TICK_MS: u64 = 25;
/// How often the names of seeds are looked up, in ms.
const SEEDS_EVERY_MS: u64 = 10_000;
/// How often Consul's watch looks, in ms.
const WATCH_MS: u64 = 40;
/// How often a state of Consul is kept that it may be restored to, in ms.
const BACKUP_MS: u64 = 4_000;

enum Event {
    NodesTick,
    Operation(Operation),
    Wake(usize, u64),
    Deliver(usize, u64, Box<ClusterInput>),
    /// An agent asks what is at an address, for all of its table or not.
    Question(usize, u64, Address, bool, u64),
    Read(usize, u64, ReadKind),
    Apply(usize, u64, Vec<Op>, Fate, u64),
    /// A node is told something by an agent.
    Tell(usize, u64, NodeOrder, Mono),
    Seeds(usize, u64),
    Backup,
    /// The end of a slot's move.
    EndMove(Process, Process, u16, u16),
    /// A blank node that was met follows the owner of a slot.
    Follow(Process, u16),
}

#[derive(Clone, Copy, PartialEq)]
enum ReadKind {
    Consistent,
    Rows,
    Watch,
}

/// What becomes of a transaction's request and answer.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    AnswerLost,
    RequestLost,
}

/// An agent's connection to an address.
#[derive(Default)]
struct Line {
    busy: bool,
    /// It is to be asked again, for all or not.
    again: Option<bool>,
    table: Option<Table>,
    run: Option<(Process, u64)>,
}

struct Agent {
    machine: ClusterLoop,
    up: bool,
    since: u64,
    life: u64,
    cut: BTreeSet<Process>,
    cut_from_consul: bool,
    next_wake: u64,
    lines: BTreeMap<Address, Line>,
    /// What its watch has seen.
    watched: Option<u64>,
    away: bool,
    /// The highest generation that it has been handed.
    generation: u64,
}

/// How often what is drawn, and what is of interest, has happened.
#[derive(Debug, Clone, Default)]
pub struct Counts(pub BTreeMap<&'static str, usize>);

impl Counts {
    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// A node that is in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub role: ClusterRole,
    pub shard: String,
    pub address: String,
}

/// An acknowledged write that is looked at again.
#[derive(Debug, Clone, Copy)]
struct Pending {
    write: usize,
    looked_at: u64,
}

/// How the kernel tells agents of the processes beside them: a node's agent is that of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proofs {
    /// No agent stands beside a node.
    None,
    /// Once, and soon.
    Prompt,
    /// On a busy host, more than once, and now and then the agent dies as well.
    Drawn,
}

/// The world and what must hold in it.
pub struct World {
    /// What agents may do to the nodes.
    pub duties: ClusterDuties,
    pub nodes: Nodes,
    /// Which processes are the cluster's own.
    pub ours: Vec<bool>,
    /// Every id that one of those ever had.
    own_ids: BTreeSet<Id>,
    pub consul: MemoryConsul,
    pub layout: Layout,
    pub now: u64,
    pub log: Vec<String>,
    /// The first broken invariant.
    pub broken: Option<String>,
    pub counts: Counts,
    /// What Consul's names have.
    pub named: BTreeMap<NodeId, Named>,
    /// Transactions committed.
    pub commits: usize,
    /// `cluster-node-timeout` as it was set up, in ms.
    pub timeout: u64,
    agents: Vec<Agent>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    rng: StdRng,
    consul_away: bool,
    consul_life: u64,
    backups: Vec<MemoryConsul>,
    /// Rows or keys are not what the record has, by a fault.
    tampered: bool,
    /// Seeds are names, which follow the nodes.
    named_seeds: Vec<Process>,
    first_seeds: BTreeSet<Address>,
    next_address: u32,
    /// What each process was last seen to answer, and when that last changed, or anything else did.
    seen: BTreeMap<Process, Option<NodeAnswer>>,
    last_change: u64,
    last_commit: u64,
    /// Nodes of two clusters know one another.
    pub merged: bool,
    /// When a majority last gave a node slots.
    owned_at: BTreeMap<Id, u64>,
    /// Since when a named node has been wrong, by its id.
    wrong: BTreeMap<NodeId, u64>,
    /// Since when a node hears less than a majority of the voters.
    apart: BTreeMap<Process, u64>,
    voters: BTreeSet<Id>,
    /// Since when no majority, or more than one, is there.
    none_since: Option<u64>,
    /// Acknowledged by a node that was in the names as a primary then: when it had been apart since, and whether all
    /// replicas had the write soon after.
    published_acks: BTreeMap<usize, (Option<u64>, bool)>,
    /// Since when there is an agent that hears everything.
    sees_all_since: Option<u64>,
    pending: Vec<Pending>,
    acks_seen: usize,
    ticks: u64,
    /// How the kernel tells agents of the processes beside them.
    pub proofs: Proofs,
    /// The zone of each agent's host.
    pub zones: Vec<Zone>,
    /// When each process was last killed.
    killed_at: BTreeMap<Id, u64>,
    /// A node was started without its data, or data went with slots: what is lost then is no one's fault.
    data_moved: bool,
}

fn address(text: String) -> Address {
    text.parse().expect("an address")
}

impl World {
    /// A cluster that has been made, agents that begin, and another cluster beside it.
    pub fn new(seed: u64, agents: usize, spares: usize, foreign: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let version = [Version::Redis7, Version::Redis8, Version::Valkey9][rng.random_range(0..3)];
        let timeout = [1_000, 1_000, 2_000, 5_000][rng.random_range(0..4)];
        let mut world = Self::founded(seed, version, timeout, 6 + spares, foreign);
        if seed % 5 == 4 {
            for node in &mut world.nodes.nodes {
                node.full_coverage = false;
            }
        }
        if seed % 4 == 3 {
            world.nodes.silent = world.own().iter().map(|p| world.nodes.nodes[*p].place).collect();
        }
        world.named_seeds = if seed.is_multiple_of(3) { Vec::new() } else { vec![5, 0] };
        // In every other world agents only ask.
        if seed.is_multiple_of(2) {
            let forget_after_ms = Some(4_000);
            world.duties = ClusterDuties { forget_after_ms, ..ClusterDuties::default() };
            world.proofs = if seed.is_multiple_of(4) { Proofs::Drawn } else { Proofs::None };
        }
        for _ in 0..agents {
            world.add_agent();
        }
        world
    }

    /// Six nodes, and no agent yet.
    pub fn of(seed: u64, version: Version, timeout: u64, foreign: bool) -> Self {
        let mut world = Self::founded(seed, version, timeout, 6, foreign);
        world.named_seeds = vec![5, 0];
        world
    }

    fn founded(seed: u64, version: Version, timeout: u64, own: usize, foreign: bool) -> Self {
        let mut world = Self::blank(seed, version, timeout);
        for index in 0..own {
            world.start_own(&address(format!("10.0.0.{}:6379", index + 1)));
        }
        if foreign {
            for index in 0..3 {
                let at = address(format!("10.9.0.{}:6379", index + 1));
                world.nodes.start_blank(&at, timeout);
                world.ours.push(false);
            }
            // Its claims are the newer ones in some worlds.
            world.make(&[own, own + 1, own + 2], 3, 1 + seed % 2 * 20);
        }
        let all: Vec<Process> = (0..own).collect();
        world.make(&all, 3, 1);
        world.nodes.begin_writes(own);
        world.first_seeds =
            [5, 0].map(|process: Process| world.nodes.address(process).clone()).into();
        world
    }

    /// No node, no agent.
    pub fn blank(seed: u64, version: Version, timeout: u64) -> Self {
        Self {
            duties: ClusterDuties::NONE,
            nodes: Nodes::new(seed, version),
            ours: Vec::new(),
            own_ids: BTreeSet::new(),
            consul: MemoryConsul::default(),
            layout: Layout::of_cluster("redis-ha", &"orders".parse().expect("a name")),
            now: 1,
            log: vec![format!("{version:?}, T = {timeout} ms")],
            broken: None,
            counts: Counts::default(),
            named: BTreeMap::new(),
            commits: 0,
            timeout,
            agents: Vec::new(),
            events: BTreeMap::from([((1, 0), Event::NodesTick), ((BACKUP_MS, 0), Event::Backup)]),
            next_event: 1,
            rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            consul_away: false,
            consul_life: 0,
            backups: Vec::new(),
            tampered: false,
            named_seeds: Vec::new(),
            first_seeds: BTreeSet::new(),
            next_address: 0,
            seen: BTreeMap::new(),
            last_change: 0,
            last_commit: 0,
            merged: false,
            owned_at: BTreeMap::new(),
            wrong: BTreeMap::new(),
            apart: BTreeMap::new(),
            voters: BTreeSet::new(),
            none_since: None,
            published_acks: BTreeMap::new(),
            sees_all_since: None,
            pending: Vec::new(),
            acks_seen: 0,
            ticks: 0,
            proofs: Proofs::None,
            zones: Vec::new(),
            killed_at: BTreeMap::new(),
            data_moved: false,
        }
    }

    /// An agent says in Consul that it stands beside a node.
    pub fn announce(&mut self, process: Process, agent: usize) {
        let (name, zone) = (format!("agent-{agent}"), self.zones.get(agent).cloned());
        let node = AnnouncedNode { agent: name.clone(), host: name.clone(), zone };
        let key = self.layout.announced(self.nodes.address(process));
        let value = serde_json::to_string(&node).expect("JSON");
        let session = Op::KeySet { key: self.layout.agent(&name), value: "{}".to_owned() };
        self.consul.txn(&[session, Op::KeySet { key, value }], "");
        self.last_change = self.now;
    }

    pub fn start_own(&mut self, at: &Address) -> Process {
        let process = self.nodes.start_blank(at, self.timeout);
        self.ours.push(true);
        self.own_ids.insert(self.nodes.nodes[process].id);
        process
    }

    /// Makes a cluster of blank nodes: the first own slots, the others follow them in turn (4).
    pub fn make(&mut self, all: &[Process], primaries: usize, first_epoch: u64) {
        let share = 16_384_usize.div_ceil(primaries);
        for (index, process) in all.iter().take(primaries).enumerate() {
            let (first, end) = (index * share, ((index + 1) * share).min(16_384));
            let epoch = first_epoch + index as u64;
            self.nodes.set_config_epoch(*process, epoch).expect("a blank node");
            self.nodes.add_slots(*process, first as u16, (end - 1) as u16).expect("free slots");
        }
        for other in &all[1..] {
            let at = self.nodes.address(*other).clone();
            self.nodes.meet(all[0], &at).expect("a node");
        }
        self.settle(all, |nodes, p| nodes.is_linked(p) && nodes.peers_of(p) + 1 == all.len());
        for (index, process) in all.iter().enumerate().skip(primaries) {
            let name = self.nodes.name(all[index % primaries]).clone();
            self.nodes.replicate(*process, &name).expect("a primary");
        }
        self.settle(all, |nodes, p| {
            let is_replica = nodes.follows(p, nodes.nodes[p].id).is_some();
            nodes.nodes[p].state_ok && (!is_replica || nodes.copies(p).is_some())
        });
    }

    fn settle(&mut self, all: &[Process], fits: impl Fn(&Nodes, Process) -> bool) {
        let end = self.now + 60_000;
        while !all.iter().all(|process| fits(&self.nodes, *process)) {
            assert!(self.now < end, "the nodes do not agree");
            self.now += TICK_MS;
            self.nodes.tick(self.now);
        }
    }

    pub fn add_agent(&mut self) -> usize {
        let agent = self.agents.len();
        self.agents.push(Agent {
            machine: ClusterLoop::new(self.policy(agent)),
            up: false,
            since: 0,
            life: 0,
            cut: BTreeSet::new(),
            cut_from_consul: false,
            next_wake: u64::MAX,
            lines: BTreeMap::new(),
            watched: None,
            away: false,
            generation: 0,
        });
        self.start_agent(agent);
        agent
    }

    fn policy(&self, agent: usize) -> ClusterPolicy {
        ClusterPolicy {
            name: "orders".parse().expect("a name"),
            service: "orders".parse().expect("a name"),
            layout: self.layout.clone(),
            agent: format!("agent-{agent}"),
            zone: self.zones.get(agent).cloned(),
            duties: self.duties,
        }
    }

    pub fn start_agent(&mut self, index: usize) {
        if self.agents[index].up {
            return;
        }
        let machine = ClusterLoop::new(self.policy(index));
        let agent = &mut self.agents[index];
        (agent.machine, agent.up, agent.since) = (machine, true, self.now);
        agent.life += 1;
        (agent.next_wake, agent.watched, agent.away, agent.generation) = (u64::MAX, None, false, 0);
        agent.lines.clear();
        let life = agent.life;
        let start = self.now + self.rng.random_range(1..300);
        self.push(start, Event::Seeds(index, life));
        self.push(start, Event::Read(index, life, ReadKind::Watch));
    }

    pub fn schedule(&mut self, at: u64, operation: Operation) {
        self.push(at, Event::Operation(operation));
    }

    fn push(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now), self.next_event), event);
    }

    /// Runs until `end`, or until an invariant breaks.
    pub fn run(&mut self, end: u64) {
        while let Some(entry) = self.events.first_entry() {
            let at = entry.key().0;
            if at > end || self.broken.is_some() {
                break;
            }
            let event = entry.remove();
            self.now = self.now.max(at);
            self.step(event);
        }
        self.now = self.now.max(end);
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run(self.now + ms);
    }

    fn clock(&self) -> Now {
        let wall = Timestamp::from_millisecond(1_700_000_000_000 + self.now as i64);
        Now { mono: Mono(self.now), wall: wall.expect("a time") }
    }

    /// Mostly quick, sometimes slow, now and then very slow.
    fn delay(&mut self) -> u64 {
        match self.rng.random_range(0..100) {
            0..92 => self.rng.random_range(0..4),
            92..99 => self.rng.random_range(4..120),
            _ => self.rng.random_range(120..700),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::NodesTick => {
                self.nodes.tick(self.now);
                self.look_at_truth();
                self.push(self.now + TICK_MS, Event::NodesTick);
            }
            Event::Operation(operation) => {
                self.log.push(format!("{} {operation:?}", self.now));
                self.last_change = self.now;
                self.operate(operation);
            }
            Event::Wake(agent, life) => {
                if self.lives(agent, life) && self.agents[agent].next_wake <= self.now {
                    self.input(agent, ClusterInput::Tick);
                }
            }
            Event::Deliver(agent, life, input) => {
                if self.lives(agent, life) {
                    self.input(agent, *input);
                }
            }
            Event::Question(agent, life, address, whole, asked) => {
                if self.lives(agent, life) {
                    self.question(agent, address, whole, asked);
                }
            }
            Event::Read(agent, life, kind) => {
                if self.lives(agent, life) {
                    self.read(agent, kind);
                }
            }
            Event::Apply(agent, life, ops, fate, consul_life) => {
                // What waited for a Consul that was restored is gone with it.
                let fate = if consul_life == self.consul_life { fate } else { Fate::RequestLost };
                self.apply(agent, life, &ops, fate);
            }
            Event::Tell(agent, life, order, until) => {
                let late = self.now > until.0;
                let result = match late {
                    true => Err("its answers come too late".to_owned()),
                    false => self.tell(agent, &order),
                };
                let input = Box::new(ClusterInput::Told(order, result));
                let at = self.now + self.delay();
                self.push(at, Event::Deliver(agent, life, input));
            }
            Event::Seeds(agent, life) => {
                if self.lives(agent, life) {
                    let seeds = self.seeds();
                    self.input(agent, ClusterInput::Seeds(seeds));
                    self.push(self.now + SEEDS_EVERY_MS, Event::Seeds(agent, life));
                }
            }
            Event::Backup => {
                self.backups.push(self.consul.clone());
                self.push(self.now + BACKUP_MS, Event::Backup);
            }
            Event::EndMove(from, to, first, last) => self.end_move(from, to, first, last),
            Event::Follow(process, slot) => self.follow(process, slot),
        }
    }

    fn lives(&self, agent: usize, life: u64) -> bool {
        self.agents[agent].up && self.agents[agent].life == life
    }

    fn seeds(&self) -> BTreeSet<Address> {
        match &self.named_seeds[..] {
            [] => self.first_seeds.clone(),
            nodes => nodes.iter().map(|process| self.nodes.address(*process).clone()).collect(),
        }
    }

    fn input(&mut self, agent: usize, input: ClusterInput) {
        if let ClusterInput::Watched(store) | ClusterInput::Consistent(store) = &input {
            let seen = store.record().map_or(0, |record| record.generation);
            let known = &mut self.agents[agent].generation;
            *known = seen.max(*known);
        }
        let answered = match &input {
            ClusterInput::Node(address, _) => Some(address.clone()),
            _ => None,
        };
        let now = self.clock();
        let outputs = self.agents[agent].machine.on(input, now);
        for output in outputs {
            self.carry_out(agent, output);
        }
        if let Some(address) = answered
            && let Some(line) = self.agents[agent].lines.get_mut(&address)
        {
            line.busy = false;
            if let Some(whole) = line.again.take() {
                self.post(agent, &address, whole);
            }
        }
        let wake = self.agents[agent].machine.next_wake().0.max(self.now + 1);
        let due = &mut self.agents[agent].next_wake;
        if wake < *due || *due <= self.now {
            *due = wake;
            let life = self.agents[agent].life;
            self.push(wake, Event::Wake(agent, life));
        }
    }

    fn carry_out(&mut self, agent: usize, output: ClusterOutput) {
        let life = self.agents[agent].life;
        match output {
            ClusterOutput::Follow(addresses) => {
                self.agents[agent].lines.retain(|at, _| addresses.contains(at));
                for address in addresses {
                    if !self.agents[agent].lines.contains_key(&address) {
                        self.agents[agent].lines.insert(address.clone(), Line::default());
                        self.post(agent, &address, true);
                    }
                }
            }
            ClusterOutput::Ask(whole) => {
                let all: Vec<Address> = self.agents[agent].lines.keys().cloned().collect();
                for address in all {
                    self.post(agent, &address, whole.contains(&address));
                }
            }
            ClusterOutput::ReadStore => {
                let at = self.now + self.delay();
                self.push(at, Event::Read(agent, life, ReadKind::Consistent));
            }
            ClusterOutput::ReadRows => {
                let at = self.now + self.delay();
                self.push(at, Event::Read(agent, life, ReadKind::Rows));
            }
            ClusterOutput::Retract(ops) => {
                self.break_with(format!("no agent is beside a node: {ops:?}"))
            }
            ClusterOutput::Write(ops) => {
                let fate = match self.rng.random_range(0..100) {
                    0..93 => Fate::Answered,
                    93..97 => Fate::AnswerLost,
                    _ => Fate::RequestLost,
                };
                // A request may sit in a queue for long after it was given up.
                let late = self.rng.random_range(0..100) < 2;
                let delay = if late { self.rng.random_range(500..4_000) } else { self.delay() };
                let event = Event::Apply(agent, life, ops, fate, self.consul_life);
                self.push(self.now + delay, event);
            }
            ClusterOutput::Tell(order, until) => {
                // A busy host may be late with it.
                let late = self.rng.random_range(0..100) < 5;
                let delay = if late { self.rng.random_range(300..4_000) } else { self.delay() };
                self.push(self.now + delay, Event::Tell(agent, life, order, until));
            }
            ClusterOutput::Say(line) => {
                self.log.push(format!("{} agent-{agent}: {}", self.now, line.text));
            }
            ClusterOutput::Died(sign, aftermath) => {
                let (sign, outcome) = (sign.as_str(), aftermath.as_str());
                self.log.push(format!("{} agent-{agent} counts: {sign} {outcome}", self.now));
            }
        }
    }

    /// What an agent's command does: it is sent where the node is the one that is meant.
    fn tell(&mut self, agent: usize, order: &NodeOrder) -> Result<(), String> {
        let at = |world: &mut Self, address: &Address, id: &NodeId| {
            let place = world.nodes.place(address);
            let found = world.nodes.at(place).filter(|process| {
                let hears = !world.agents[agent].cut.contains(process);
                hears && !world.nodes.nodes[*process].frozen && world.nodes.name(*process) == id
            });
            found.ok_or_else(|| format!("{address} is not node {id}"))
        };
        let process = at(self, &order.to, &order.id)?;
        self.counts.note(order.command.kind());
        self.log.push(format!("{} agent-{agent} tells {}: {}", self.now, order.to, order.command));
        match &order.command {
            NodeCommand::SetEpoch(epoch) => self.nodes.set_config_epoch(process, *epoch),
            NodeCommand::AddSlots(slots) => {
                self.nodes.add_slots(process, slots.first(), slots.last())
            }
            NodeCommand::Meet(met) => {
                let other = at(self, &met.address, &met.id)?;
                if self.ours[process] != self.ours[other] {
                    let what = format!("{} is told to meet a node of another cluster", order.to);
                    self.break_with(what);
                }
                if met.blank && !self.nodes.answer(other).is_blank() {
                    return Err("it is not blank any more".to_owned());
                }
                self.nodes.meet(process, &met.address)
            }
            NodeCommand::Replicate(of) => self.nodes.replicate(process, of),
            NodeCommand::Forget(id) => self.nodes.forget(process, id),
            NodeCommand::NodeTimeout(ms) => self.nodes.set_timeout(process, *ms),
            NodeCommand::Failover | NodeCommand::ForcedFailover => {
                Err("an operator's alone".to_owned())
            }
        }
    }

    /// A question that waits for the one before.
    fn post(&mut self, agent: usize, address: &Address, whole: bool) {
        let delay = self.delay();
        let life = self.agents[agent].life;
        let Some(line) = self.agents[agent].lines.get_mut(address) else { return };
        if line.busy {
            line.again = Some(line.again.unwrap_or(false) | whole);
            return;
        }
        line.busy = true;
        let asked = self.now;
        self.push(self.now + delay, Event::Question(agent, life, address.clone(), whole, asked));
    }

    /// What an agent hears from an address.
    fn question(&mut self, agent: usize, address: Address, whole: bool, asked: u64) {
        let place = self.nodes.place(&address);
        let silent = || Err(NoAnswer::Silent("no answer within 500 ms".to_owned()));
        let refused = |what: &str| Err(NoAnswer::Refused(what.to_owned()));
        let process = self.nodes.at(place);
        let answer = match process {
            None if self.nodes.silent.contains(&place) => silent(),
            None => refused("cannot connect: refused"),
            Some(process) if self.agents[agent].cut.contains(&process) => silent(),
            Some(process) if self.nodes.nodes[process].frozen => silent(),
            Some(process)
                if self.nodes.loads(process) && self.nodes.version != Version::Valkey9 =>
            {
                refused("LOADING")
            }
            Some(process) => Ok(self.nodes.answer(process)),
        };
        if let Some(process) = process {
            self.note_seen(process, answer.as_ref().ok());
        }
        let answer = match (answer, process) {
            (Ok(answer), Some(process)) => {
                Ok(self.as_asked(agent, &address, process, whole, answer))
            }
            (answer, _) => answer,
        };
        let at = match answer {
            Err(NoAnswer::Silent(_)) => asked.max(self.now) + ASK_TIMEOUT_MS,
            _ => self.now + self.delay(),
        };
        let reading = NodeReading { asked: Mono(asked), answer };
        let life = self.agents[agent].life;
        let input = Box::new(ClusterInput::Node(address, reading));
        self.push(at, Event::Deliver(agent, life, input));
    }

    /// As the program asks: for all of the table where that is wanted, or the connection is new, or the role is.
    fn as_asked(
        &mut self,
        agent: usize,
        address: &Address,
        process: Process,
        whole: bool,
        mut answer: NodeAnswer,
    ) -> NodeAnswer {
        let run = Some((process, self.nodes.nodes[process].life));
        let Some(line) = self.agents[agent].lines.get_mut(address) else { return answer };
        let is_replica = answer.link.is_some();
        let has_role = |table: &&Table| {
            let own = table.own_row();
            own.is_some_and(|row| matches!(row.role, TableRole::Replica(_)) == is_replica)
        };
        let same = line.table.as_ref() == Some(&answer.table);
        let known = line.table.as_ref().filter(|_| !whole && line.run == run).filter(has_role);
        match known {
            _ if same => {}
            Some(table) => answer.table = table.clone(),
            None => line.table = Some(answer.table.clone()),
        }
        line.run = run;
        answer
    }

    fn consul_answers(&self, agent: usize) -> bool {
        !self.consul_away && !self.agents[agent].cut_from_consul
    }

    fn read(&mut self, agent: usize, kind: ReadKind) {
        let life = self.agents[agent].life;
        if kind == ReadKind::Watch {
            self.push(self.now + WATCH_MS, Event::Read(agent, life, ReadKind::Watch));
        }
        if !self.consul_answers(agent) {
            let input = match kind {
                // Noticed once, when the connection breaks.
                ReadKind::Watch if std::mem::replace(&mut self.agents[agent].away, true) => return,
                ReadKind::Watch => ClusterInput::ConsulSilent,
                ReadKind::Consistent | ReadKind::Rows => ClusterInput::ReadFailed,
            };
            return self.push(self.now, Event::Deliver(agent, life, Box::new(input)));
        }
        if kind == ReadKind::Watch && std::mem::take(&mut self.agents[agent].away) {
            self.agents[agent].watched = None;
        }
        let version = self.consul.version();
        let news = self.agents[agent].watched != Some(version);
        if kind == ReadKind::Watch && !news && self.rng.random_range(0..500) > 0 {
            return;
        }
        let asked = Mono(self.now);
        let input = match kind {
            ReadKind::Consistent => ClusterInput::Consistent(self.store(&self.consul, asked)),
            ReadKind::Rows => ClusterInput::Rows(self.consul.rows(&self.layout.node(), asked)),
            ReadKind::Watch => {
                self.agents[agent].watched = Some(version);
                // The rows have a watch of their own, after which they are read.
                let at = self.now + self.delay();
                self.push(at, Event::Read(agent, life, ReadKind::Rows));
                // A server that lags answers with the past.
                let stale = self.rng.random_range(0..40) == 0;
                let past = self.backups.last().filter(|_| stale).unwrap_or(&self.consul);
                self.agents[agent].watched = (!stale).then_some(version);
                ClusterInput::Watched(self.store(past, asked))
            }
        };
        let at = self.now + self.delay();
        self.push(at, Event::Deliver(agent, life, Box::new(input)));
    }

    fn store(&self, consul: &MemoryConsul, asked: Mono) -> ClusterStore {
        // Those of agents have a session that never ends.
        let keys = consul.keys().map(|key| Key { locked: key.key.contains("/agents/"), ..key });
        ClusterStore::from_keys(&self.layout, asked, keys)
    }

    /// What Consul holds of the cluster.
    pub fn record(&self) -> Option<ClusterRecord> {
        self.store(&self.consul, Mono(self.now)).record().cloned()
    }

    fn apply(&mut self, agent: usize, life: u64, ops: &[Op], fate: Fate) {
        let reaches = self.consul_answers(agent) && fate != Fate::RequestLost;
        let unknown = Outcome::Unknown("no answer in time".to_owned());
        let (outcome, delay) = if reaches {
            let before = self.record();
            let outcome = self.consul.txn(ops, &self.layout.state());
            match &outcome {
                Outcome::Committed { .. } => self.committed(agent, before),
                Outcome::Lost => self.counts.note("races lost"),
                Outcome::Refused(why) => self.break_with(format!("Consul refuses: {why}: {ops:?}")),
                Outcome::Unknown(_) => {}
            }
            match fate {
                Fate::Answered => (outcome, self.delay()),
                Fate::AnswerLost | Fate::RequestLost => (unknown, CONSUL_TIMEOUT_MS),
            }
        } else {
            (unknown, CONSUL_TIMEOUT_MS)
        };
        let input = Box::new(ClusterInput::Written(outcome));
        self.push(self.now + delay, Event::Deliver(agent, life, input));
    }

    /// The addresses that a name answers.
    pub fn answered(&self, service: &str) -> BTreeSet<String> {
        self.consul.passing(service, None).into_iter().collect()
    }

    pub fn break_with(&mut self, what: String) {
        if self.broken.is_none() {
            self.log.push(format!("{} BROKEN: {what}", self.now));
            self.broken = Some(what);
        }
    }
}
