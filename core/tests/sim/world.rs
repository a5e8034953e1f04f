//! One simulated history: agents, Consul, Sentinels and instances, with every delay, loss and fault drawn
//! from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use consul_redis_core::action::{Promote, Purpose, Write};
use consul_redis_core::address::{Address, GroupName};
use consul_redis_core::emptied::{Replace, Shelter};
use consul_redis_core::fence::Fence;
use consul_redis_core::ghosts::Forget;
use consul_redis_core::group::{GroupLoop, Input, Outcome, Output};
use consul_redis_core::memory::Memory;
use consul_redis_core::observed::{Reading, Role, StoreAnswer, StoredState};
use consul_redis_core::policy::{Policy, WantedQuorum};
use consul_redis_core::projection::{Layout, Op, project};
use consul_redis_core::record::{Basis, Level, PublishedRole, Record, decode, encode};
use consul_redis_core::sentinels::{Tell, TellWhat};
use consul_redis_core::switchover::prepare;
use consul_redis_core::time::{Mono, Now};
use consul_redis_core::view::View;
use consul_redis_core::writer::is_of_lineage;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{Cluster, Instance, PRIORITY, SENTINEL_TICK_MS, Sentinel};
use crate::memory_consul::MemoryConsul;
use crate::operation::Operation;

/// How long a planned move holds the old primary's writes, in ms.
const MOVE_HOLD_MS: u64 = 5_000;
/// How long a primary that is cut off may take writes: 3 s, and the model's slowest messages.
const ISOLATED_MAX_MS: u64 = 5_000;
/// 30 s by the book, less the time that a command is on its way.
const FORGET_GAP_MS: u64 = 22_000;
/// 5 s, less the time that a command may be late.
const REPLACE_GAP_MS: u64 = 1_000;
/// A renewed hold may come this much late, for the same reason.
const HOLD_GAP_MS: u64 = 1_000;
/// What is younger nobody can have been told yet. Whoever follows one that has just lost its data is sheltered afterwards.
const UNSEEN_MS: u64 = 150;
/// Deadline of a question to a Sentinel or an instance, in ms.
const ASK_TIMEOUT_MS: u64 = 500;
/// Deadline of a call to Consul, in ms.
const CONSUL_TIMEOUT_MS: u64 = 3_000;

/// An answer may be three seconds old, and have been on its way for one.
const PROOF_AGE_MAX_MS: u64 = 4_500;

/// How long a wrong name may stay while an agent sees everything: a lost answer of Consul, the time to
/// confirm a promotion, and a little.
const WRONG_FOR_MAX_MS: u64 = 12_000;

/// What an older version did not know of a record, by version: each forgot it whenever it wrote.
const UNKNOWN: [&[&str]; 3] =
    [&["emptied"], &["emptied", "reset"], &["emptied", "reset", "claim", "lineage"]];

/// Who can be cut off from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Consul,
    Sentinel(usize),
    Instance(usize),
}

enum Event {
    ClusterTick,
    Operation(Operation),
    Wake(usize),
    Deliver(usize, Box<Input>),
    AskSentinel(usize, usize, u64),
    AskInstance(usize, usize, u64),
    Hold(usize, usize, u64),
    Fence(usize, usize, Fence),
    Shelter(usize, usize, Shelter),
    Replace(usize, usize, Replace, Mono),
    Promote(usize, usize, Promote),
    Tell(usize, usize, Tell),
    Forget(usize, usize, Forget, Mono),
    Apply(usize, u64, Box<Write>, Fate, u64),
    Read(usize, ReadKind),
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

struct Agent {
    machine: GroupLoop,
    up: bool,
    life: u64,
    cut: BTreeSet<Peer>,
    next_wake: u64,
    /// Sampled at the instance: when it last told this agent that it is the primary.
    said_primary: BTreeMap<Address, u64>,
    generation_max: u64,
    watched: Option<u64>,
    /// Its watch has found Consul away.
    away: bool,
    seen_kicks: BTreeMap<Address, u64>,
    seen_events: Vec<u64>,
}

/// The world and what must hold in it.
pub struct World {
    pub cluster: Cluster,
    pub consul: MemoryConsul,
    pub now: u64,
    pub log: Vec<String>,
    /// The first broken invariant.
    pub broken: Option<String>,
    /// The Sentinels agreed on a sound primary in the end, so the agents had to as well.
    pub converged: bool,
    /// Transactions committed, by purpose.
    pub commits: BTreeMap<Purpose, usize>,
    /// Holds carried out.
    pub holds: usize,
    /// Stray primaries made replicas.
    pub fences: usize,
    /// Sentinels told.
    pub tells: usize,
    /// Sentinels that were told to let go of those who are gone.
    pub removals: usize,
    /// Writers published in a group that has moved.
    pub successors: usize,
    /// Sentinels made to forget.
    pub forgets: usize,
    /// Instances kept from copying a primary without data.
    pub shelters: usize,
    /// Primaries moved on purpose.
    pub moves: usize,
    /// Failovers asked for because of one without data.
    pub replacements: usize,
    pub layout: Layout,
    /// In a world that began without a primary: the one that must become the first.
    most_data: Option<Address>,
    /// How often everything has moved.
    moved: u8,
    agents: Vec<Agent>,
    /// Hosts that are cut from everything, and since when their agents have known it.
    isolated: BTreeMap<usize, u64>,
    /// Since when each instance has been a primary that answers.
    primary_since: BTreeMap<usize, u64>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queue: BTreeMap<u64, Event>,
    next_event: u64,
    rng: StdRng,
    consul_away: bool,
    consul_life: u64,
    old_consul: MemoryConsul,
    generation_max: u64,
    tampered: bool,
    last_commit: u64,
    policies: Vec<Policy>,
    /// Agents of an older version, and what each does not know of a record.
    older: BTreeMap<usize, &'static [&'static str]>,
    wrong_since: Option<u64>,
    last_record: Option<Record>,
    /// When the published generation was committed.
    generation_at: u64,
    /// For each ModifyIndex of `state`, when its generation was committed.
    commit_times: BTreeMap<u64, u64>,
    /// When a Sentinel was last made to forget, and which.
    last_forget: Option<(u64, usize)>,
    /// When a failover was last asked for because of a primary without data.
    last_replacement: Option<u64>,
    /// When a majority of the Sentinels last named each address.
    named_at: BTreeMap<Address, u64>,
    /// When an elected leader last had chosen each address.
    chosen_at: BTreeMap<Address, u64>,
}

/// Agents that are not configured alike must not harm either.
fn policies(
    rng: &mut StdRng,
    group: &GroupName,
    agents: usize,
    instances: usize,
    sentinels: usize,
) -> Vec<Policy> {
    (0..agents)
        .map(|index| {
            let service = "redis".parse().expect("a service");
            let mut policy =
                Policy::new(group.clone(), service, &format!("agent-{index}"), "run-0");
            let promotion = rng.random_range(0..10) < 7;
            policy.publish = if promotion { Level::Promotion } else { Level::Quorum };
            policy.sentinels_configured = sentinels;
            policy.forget_sentinels_after_ms = 3_000;
            policy.forget_after_ms = 3_000;
            policy.settings.quorum = Some(WantedQuorum::Auto);
            if index < instances {
                policy.local = BTreeSet::from([crate::cluster::address(0, index)]);
            }
            policy
        })
        .collect()
}

impl World {
    pub fn new(seed: u64, agents: usize, instances: usize, sentinels: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let group: GroupName = "redis".parse().expect("a group");
        let layout = Layout::new("redis-ha", &group);
        let policies = policies(&mut rng, &group, agents, instances, sentinels);
        let new_agent = |policy: &Policy| Agent {
            machine: GroupLoop::new(policy.clone(), layout.clone()),
            up: true,
            life: 0,
            cut: BTreeSet::new(),
            next_wake: u64::MAX,
            said_primary: BTreeMap::new(),
            generation_max: 0,
            watched: None,
            away: false,
            seen_kicks: BTreeMap::new(),
            seen_events: vec![0; sentinels],
        };
        let machines: Vec<Agent> = policies.iter().map(new_agent).collect();
        let mut world = Self {
            cluster: Cluster::new(seed, instances, sentinels),
            consul: MemoryConsul::default(),
            now: 1,
            log: Vec::new(),
            broken: None,
            converged: false,
            commits: BTreeMap::new(),
            holds: 0,
            fences: 0,
            tells: 0,
            removals: 0,
            successors: 0,
            forgets: 0,
            shelters: 0,
            replacements: 0,
            moves: 0,
            last_forget: None,
            last_replacement: None,
            layout,
            agents: machines,
            most_data: None,
            moved: 0,
            isolated: BTreeMap::new(),
            primary_since: BTreeMap::new(),
            events: BinaryHeap::new(),
            queue: BTreeMap::new(),
            next_event: 0,
            rng,
            consul_away: false,
            consul_life: 0,
            old_consul: MemoryConsul::default(),
            generation_max: 0,
            tampered: false,
            last_commit: 0,
            policies,
            older: BTreeMap::new(),
            wrong_since: None,
            last_record: None,
            generation_at: 0,
            commit_times: BTreeMap::new(),
            named_at: BTreeMap::new(),
            chosen_at: BTreeMap::new(),
        };
        world.push(1, Event::ClusterTick);
        for agent in 0..agents {
            let start = world.rng.random_range(1..500);
            world.push(start, Event::Wake(agent));
            world.push(start, Event::Read(agent, ReadKind::Watch));
        }
        world
    }

    /// The same with nobody who knows of a primary.
    pub fn from_scratch(seed: u64, agents: usize, instances: usize, sentinels: usize) -> Self {
        let mut world = Self::new(seed, agents, instances, sentinels);
        let data = world.rng.random_range(0..2) == 0;
        let as_replicas = world.rng.random_range(0..2) == 0;
        let offsets: Vec<u64> = (0..instances)
            .map(|_| if data { world.rng.random_range(0..4) * 100 } else { 0 })
            .collect();
        world.cluster.forget_everything(&offsets, as_replicas);
        let most = (0..instances).max_by_key(|index| (offsets[*index], Reverse(*index)));
        world.most_data = most.map(|index| world.cluster.instances[index].address.clone());
        let all: BTreeSet<Address> =
            world.cluster.instances.iter().map(|instance| instance.address.clone()).collect();
        for agent in 0..agents {
            let mut policy = world.policies[agent].clone();
            policy.expect = Some(instances);
            world.policies[agent] = policy.clone();
            world.agents[agent].machine = GroupLoop::new(policy, world.layout.clone());
            let delay = world.delay();
            let registered = Box::new(Input::Registered(all.clone()));
            world.push(delay, Event::Deliver(agent, registered));
        }
        world
    }

    /// The same with agents that keep the rows of those who are down for a minute.
    pub fn patient(seed: u64, agents: usize, instances: usize, sentinels: usize) -> Self {
        let mut world = Self::new(seed, agents, instances, sentinels);
        for agent in 0..agents {
            world.policies[agent].forget_after_ms = 60_000;
            let machine = GroupLoop::new(world.policies[agent].clone(), world.layout.clone());
            world.agents[agent].machine = machine;
        }
        world
    }

    /// The same with agents of an older version, of which one at least stays until [`Operation::Upgrade`].
    pub fn half_upgraded(seed: u64, agents: usize, instances: usize, sentinels: usize) -> Self {
        let mut world = Self::new(seed, agents, instances, sentinels);
        let known = world.rng.random_range(0..UNKNOWN.len());
        let count = world.rng.random_range(1..agents.max(2));
        for agent in 0..count {
            world.older.insert(agent, UNKNOWN[known]);
            world.agents[agent].machine = GroupLoop::new(world.policy(agent), world.layout.clone());
        }
        world
    }

    /// What an agent does: an older one has not the duties that came with what it does not know.
    fn policy(&self, agent: usize) -> Policy {
        let mut policy = self.policies[agent].clone();
        let unknown = self.older.get(&agent).copied().unwrap_or_default();
        policy.replace_emptied &= !unknown.contains(&"emptied");
        policy.forget_ghosts &= !unknown.contains(&"reset");
        policy.bootstrap &= !unknown.contains(&"claim");
        policy
    }

    /// What an agent takes a record for, or leaves of it: an older one drops what it does not know.
    fn as_known(&self, agent: usize, state: &str) -> String {
        let mut record: serde_json::Value = serde_json::from_str(state).expect("a record");
        let fields = record.as_object_mut().expect("a record");
        for unknown in self.older.get(&agent).copied().unwrap_or_default() {
            fields.remove(*unknown);
        }
        serde_json::to_string(&record).expect("a record")
    }

    /// The group's keys as an agent understands them.
    fn group_for(&self, agent: usize, consul: &MemoryConsul, asked: Mono) -> StoreAnswer {
        let mut answer = consul.group(&self.layout, asked);
        if let Some(record) = answer.record().filter(|_| self.older.contains_key(&agent)) {
            let known = self.as_known(agent, &encode(record));
            answer.state =
                StoredState::Known(Box::new(decode(known.as_bytes()).expect("a record")));
        }
        answer
    }

    pub fn schedule(&mut self, at: u64, operation: Operation) {
        self.push(at, Event::Operation(operation));
    }

    fn push(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.push(Reverse((at.max(self.now), self.next_event)));
        self.queue.insert(self.next_event, event);
    }

    /// Runs until `end`, or until an invariant breaks.
    pub fn run(&mut self, end: u64) {
        while let Some(Reverse((at, id))) = self.events.peek().copied() {
            if at > end || self.broken.is_some() {
                break;
            }
            self.events.pop();
            self.now = at;
            if let Some(event) = self.queue.remove(&id) {
                self.step(event);
            }
        }
        self.now = self.now.max(end);
    }

    fn clock(&self) -> Now {
        let wall = Timestamp::from_millisecond(1_700_000_000_000 + self.now as i64);
        Now { mono: Mono(self.now), wall: wall.expect("a time") }
    }

    /// Mostly quick, sometimes slow, now and then very slow.
    fn delay(&mut self) -> u64 {
        match self.rng.random_range(0..100) {
            0..90 => self.rng.random_range(0..4),
            90..98 => self.rng.random_range(4..120),
            _ => self.rng.random_range(120..900),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::ClusterTick => self.cluster_tick(),
            Event::Operation(operation) => {
                self.log.push(format!("{} {operation:?}", self.now));
                self.operate(operation);
                self.note_truth();
            }
            Event::Wake(agent) => {
                if self.agents[agent].up && self.now >= self.agents[agent].next_wake.min(self.now) {
                    self.input(agent, Input::Tick);
                }
            }
            Event::Deliver(agent, input) => {
                if self.agents[agent].up {
                    if let Input::Watched(answer) | Input::Consistent(answer) = input.as_ref() {
                        let seen = answer.record().map_or(0, |record| record.generation);
                        let remembered = &mut self.agents[agent].generation_max;
                        *remembered = seen.max(*remembered);
                    }
                    self.input(agent, *input);
                }
            }
            Event::AskSentinel(agent, sentinel, asked) => self.ask_sentinel(agent, sentinel, asked),
            Event::AskInstance(agent, instance, asked) => self.ask_instance(agent, instance, asked),
            Event::Hold(agent, instance, for_ms) => self.hold(agent, instance, for_ms),
            Event::Promote(agent, instance, promote) => {
                let reached = !self.agents[agent].cut.contains(&Peer::Instance(instance));
                let now = self.cluster.probe(&promote.instance);
                if reached && now.is_some_and(|now| now.run_id == promote.run_id) {
                    self.cluster.promote(&promote.instance);
                }
            }
            Event::Shelter(agent, instance, shelter) => self.shelter(agent, instance, &shelter),
            Event::Replace(agent, sentinel, replace, until) => {
                self.replace(agent, sentinel, &replace, until);
            }
            Event::Fence(agent, instance, fence) => self.fence(agent, instance, &fence),
            Event::Tell(agent, sentinel, tell) => self.tell(agent, sentinel, &tell),
            Event::Forget(agent, sentinel, forget, until) => {
                self.forget(agent, sentinel, &forget, until);
            }
            Event::Apply(agent, id, write, fate, life) => {
                // What waited for a Consul that was wiped is gone with it.
                let fate = if life == self.consul_life { fate } else { Fate::RequestLost };
                self.apply(agent, id, &write, fate);
            }
            Event::Read(agent, kind) => self.read(agent, kind),
        }
    }

    fn tell(&mut self, agent: usize, sentinel: usize, tell: &Tell) {
        if self.agents[agent].cut.contains(&Peer::Sentinel(sentinel)) {
            return;
        }
        let Sentinel { up, knows, .. } = self.cluster.sentinels[sentinel];
        match tell.what {
            TellWhat::Monitor if up && !knows => {}
            TellWhat::Repoint if up => {}
            TellWhat::Settings if up && knows => {
                self.cluster.sentinels[sentinel].quorum = tell.settings.quorum;
                return;
            }
            TellWhat::Remove(_) => {
                let now = self.cluster.ask(sentinel, self.now);
                if now.is_some_and(|now| tell.still_holds(&now)) {
                    self.removals += 1;
                    self.cluster.remove(sentinel);
                }
                return;
            }
            _ => return,
        }
        self.cluster.sentinels[sentinel].quorum = tell.settings.quorum;
        self.tells += 1;
        self.cluster.remonitor(sentinel, &tell.primary);
        self.note_truth();
    }

    /// Events and closed connections reach the agents as hints.
    fn cluster_tick(&mut self) {
        self.cluster.tick(self.now);
        self.note_truth();
        self.check_timely();
        self.check_isolated();
        let jitter = self.rng.random_range(0..20);
        self.push(self.now + SENTINEL_TICK_MS - 10 + jitter, Event::ClusterTick);
        for agent in 0..self.agents.len() {
            for sentinel in 0..self.cluster.sentinels.len() {
                let events = self.cluster.sentinels[sentinel].events;
                if self.agents[agent].seen_events[sentinel] != events {
                    self.agents[agent].seen_events[sentinel] = events;
                    // A hint may be missed; then the next tick has to do.
                    if self.rng.random_range(0..10) > 0 {
                        self.send_ask(agent, sentinel);
                    }
                }
            }
            for index in 0..self.cluster.instances.len() {
                let (address, kicks) = {
                    let instance = &self.cluster.instances[index];
                    (instance.address.clone(), instance.kicks)
                };
                let seen = self.agents[agent].seen_kicks.insert(address, kicks);
                if seen.is_some_and(|seen| seen != kicks) && self.rng.random_range(0..10) > 0 {
                    self.send_probe(agent, index);
                }
            }
        }
    }

    /// While some agent sees everything, the name does not stay with a writer that the Sentinels agree
    /// is dead, nor with a promotion that they deny.
    fn check_timely(&mut self) {
        let record = self.last_record.as_ref();
        let wrong = record.is_some_and(|record| {
            let Some(writer) = record.writer_address() else { return false };
            let denied = record.evidence.level() == Level::Promotion
                && self.cluster.majority().is_some_and(|majority| &majority != writer)
                && self.cluster.chosen().is_empty();
            denied || self.cluster.agree_down(writer)
        });
        let seen =
            !self.consul_away && self.agents.iter().any(|agent| agent.up && agent.cut.is_empty());
        if !(wrong && seen) {
            self.wrong_since = None;
            return;
        }
        let since = *self.wrong_since.get_or_insert(self.now);
        if self.now - since > WRONG_FOR_MAX_MS {
            let writer = record.and_then(Record::writer_address).cloned();
            self.break_with(format!("{writer:?} has been wrong since {since}"));
        }
    }

    fn input(&mut self, agent: usize, input: Input) {
        let now = self.clock();
        let outputs = self.agents[agent].machine.on(input, now);
        for output in outputs {
            self.carry_out(agent, output);
        }
        let wake = self.agents[agent].machine.next_wake().0.max(self.now + 1);
        if wake < self.agents[agent].next_wake || self.agents[agent].next_wake <= self.now {
            self.agents[agent].next_wake = wake;
            self.push(wake, Event::Wake(agent));
        }
    }

    fn carry_out(&mut self, agent: usize, output: Output) {
        match output {
            Output::AskSentinels => {
                for sentinel in 0..self.cluster.sentinels.len() {
                    self.send_ask(agent, sentinel);
                }
            }
            Output::Probe(addresses) => {
                for index in 0..self.cluster.instances.len() {
                    if addresses.contains(&self.cluster.instances[index].address) {
                        self.send_probe(agent, index);
                    }
                }
            }
            Output::Follow(_) | Output::Published(_) => {}
            Output::ReadStore => {
                let delay = self.delay();
                self.push(self.now + delay, Event::Read(agent, ReadKind::Consistent));
            }
            Output::ReadRows => {
                let delay = self.delay();
                self.push(self.now + delay, Event::Read(agent, ReadKind::Rows));
            }
            Output::Write(id, write) => {
                self.check_proof(agent, &write);
                let fate = match self.rng.random_range(0..100) {
                    0..92 => Fate::Answered,
                    92..97 => Fate::AnswerLost,
                    _ => Fate::RequestLost,
                };
                // A request may sit in a queue for long after it was given up.
                let late = self.rng.random_range(0..100) < 3;
                let delay = if late { self.rng.random_range(500..6_000) } else { self.delay() };
                self.push(self.now + delay, Event::Apply(agent, id, write, fate, self.consul_life));
            }
            Output::Say(saying) => {
                self.log.push(format!("{} agent-{agent}: {}", self.now, saying.text));
            }
            output => self.command(agent, output),
        }
    }

    /// Commands to instances and Sentinels.
    fn command(&mut self, agent: usize, output: Output) {
        match output {
            Output::Hold(hold) => {
                let index = self.index_of(&hold.instance);
                let delay = self.delay();
                if let Some(index) = index {
                    self.push(self.now + delay, Event::Hold(agent, index, hold.for_ms));
                }
            }
            Output::Fence(fence) => {
                let index = self.index_of(&fence.instance);
                let delay = self.delay();
                if let Some(index) = index {
                    self.push(self.now + delay, Event::Fence(agent, index, fence));
                }
            }
            Output::Shelter(shelter) => {
                let index = self.index_of(&shelter.instance);
                let delay = self.delay();
                if let Some(index) = index {
                    self.push(self.now + delay, Event::Shelter(agent, index, shelter));
                }
            }
            Output::Replace(replace, until) => {
                let is_it = |s: &Sentinel| s.address == replace.sentinel;
                let delay = self.delay();
                if let Some(sentinel) = self.cluster.sentinels.iter().position(is_it) {
                    self.push(self.now + delay, Event::Replace(agent, sentinel, replace, until));
                }
            }
            Output::Promote(promote) => {
                let index = self.index_of(&promote.instance);
                let delay = self.delay();
                if let Some(index) = index {
                    self.push(self.now + delay, Event::Promote(agent, index, promote));
                }
            }
            Output::Tell(tell) => {
                let sentinel =
                    self.cluster.sentinels.iter().position(|s| s.address == tell.sentinel);
                let delay = self.delay();
                if let Some(sentinel) = sentinel {
                    self.push(self.now + delay, Event::Tell(agent, sentinel, tell));
                }
            }
            Output::Forget(forget, until) => {
                let is_it = |s: &Sentinel| s.address == forget.sentinel;
                // Now and then it is on its way for long.
                let late = self.rng.random_range(0..10) == 0;
                let delay = if late { self.rng.random_range(500..9_000) } else { self.delay() };
                if let Some(sentinel) = self.cluster.sentinels.iter().position(is_it) {
                    self.push(self.now + delay, Event::Forget(agent, sentinel, forget, until));
                }
            }
            other => panic!("{other:?} is no command"),
        }
    }

    fn index_of(&self, address: &Address) -> Option<usize> {
        self.cluster.instances.iter().position(|instance| &instance.address == address)
    }

    fn send_ask(&mut self, agent: usize, sentinel: usize) {
        let (asked, delay) = (self.now, self.delay());
        self.push(self.now + delay, Event::AskSentinel(agent, sentinel, asked));
    }

    fn send_probe(&mut self, agent: usize, instance: usize) {
        let (asked, delay) = (self.now, self.delay());
        self.push(self.now + delay, Event::AskInstance(agent, instance, asked));
    }

    fn ask_sentinel(&mut self, agent: usize, sentinel: usize, asked: u64) {
        let cut = self.agents[agent].cut.contains(&Peer::Sentinel(sentinel));
        let answer = if cut { None } else { self.cluster.ask(sentinel, self.now) };
        let (result, delay) = match answer {
            Some(answer) => (Ok(answer), self.delay()),
            None => (Err("no answer".to_owned()), ASK_TIMEOUT_MS),
        };
        let answered = Mono(self.now + delay);
        let reading = Reading { asked: Mono(asked), answered, result };
        let address = self.cluster.sentinels[sentinel].address.clone();
        self.push(
            self.now + delay,
            Event::Deliver(agent, Box::new(Input::Sentinel(address, reading))),
        );
    }

    fn ask_instance(&mut self, agent: usize, instance: usize, asked: u64) {
        let cut = self.agents[agent].cut.contains(&Peer::Instance(instance));
        let address = self.cluster.instances[instance].address.clone();
        let answer = if cut { None } else { self.cluster.probe(&address) };
        let (result, delay) = match answer {
            Some(answer) => {
                if matches!(answer.role, Role::Primary { .. }) {
                    self.agents[agent].said_primary.insert(address.clone(), self.now);
                }
                (Ok(answer), self.delay())
            }
            None => (Err("no answer".to_owned()), ASK_TIMEOUT_MS),
        };
        let answered = Mono(self.now + delay);
        let reading = Reading { asked: Mono(asked), answered, result };
        self.push(
            self.now + delay,
            Event::Deliver(agent, Box::new(Input::Instance(address, reading))),
        );
    }

    fn hold(&mut self, agent: usize, instance: usize, for_ms: u64) {
        if self.agents[agent].cut.contains(&Peer::Instance(instance)) {
            return;
        }
        self.holds += 1;
        let until = self.now + for_ms;
        let instance = &mut self.cluster.instances[instance];
        if instance.answers() {
            instance.held_until = instance.held_until.max(until);
        }
    }

    /// Nobody whom the Sentinels want to be the primary is ever made a replica, however late the command
    /// arrives, and nobody with data ever follows one without.
    fn fence(&mut self, agent: usize, index: usize, fence: &Fence) {
        if self.agents[agent].cut.contains(&Peer::Instance(index)) {
            return;
        }
        let has_data = self.cluster.instances[index].offset > 0;
        if !self.cluster.fence(index, fence) {
            return;
        }
        self.fences += 1;
        let instance = &fence.instance;
        self.log.push(format!("{} agent-{agent} fences {instance}", self.now));
        if self.cluster.majority().as_ref() == Some(instance) {
            self.break_with(format!("{instance} was fenced, and a majority names it"));
        }
        if self.cluster.chosen().contains(instance) {
            self.break_with(format!("{instance} was fenced while a Sentinel promotes it"));
        }
        let empty = |leads: &Instance| leads.offset == 0 && self.now - leads.started > UNSEEN_MS;
        let leads = self.cluster.instance(&fence.follow);
        if has_data && leads.is_some_and(empty) {
            self.break_with(format!("{instance} has data and was made to follow an empty one"));
        }
    }

    /// Nobody whom the Sentinels want to be the primary is ever kept from being it, and only data is kept.
    fn shelter(&mut self, agent: usize, index: usize, shelter: &Shelter) {
        if self.agents[agent].cut.contains(&Peer::Instance(index)) {
            return;
        }
        let led = self.cluster.instances[index].is_primary();
        if !self.cluster.shelter(index, shelter) {
            return;
        }
        self.shelters += 1;
        let instance = &shelter.instance;
        self.log.push(format!("{} agent-{agent} shelters {instance}", self.now));
        if led && self.cluster.majority().as_ref() == Some(instance) {
            self.break_with(format!("{instance} was sheltered, and a majority names it"));
        }
        if led && self.cluster.chosen().contains(instance) {
            self.break_with(format!("{instance} was sheltered while a Sentinel promotes it"));
        }
        if self.cluster.instances[index].offset == 0 {
            self.break_with(format!("{instance} has no data, and was sheltered"));
        }
    }

    /// At most one failover is asked for at a time.
    fn replace(&mut self, agent: usize, sentinel: usize, replace: &Replace, until: Mono) {
        let cut = self.agents[agent].cut.contains(&Peer::Sentinel(sentinel));
        let answer = self.cluster.ask(sentinel, self.now).filter(|_| !cut);
        if self.now > until.0 || !answer.is_some_and(|answer| replace.still_holds(&answer)) {
            return;
        }
        self.log.push(format!("{} agent-{agent} has {sentinel} replace", self.now));
        self.replacements += 1;
        let last = self.last_replacement.replace(self.now);
        if let Some(at) = last.filter(|at| self.now - at < REPLACE_GAP_MS) {
            self.break_with(format!("a failover was asked for, and another one at {at}"));
        }
        self.cluster.start_failover(sentinel, self.now, true);
    }

    /// One Sentinel at a time: the last one knows everybody again.
    fn forget(&mut self, agent: usize, sentinel: usize, forget: &Forget, until: Mono) {
        let cut = self.agents[agent].cut.contains(&Peer::Sentinel(sentinel));
        let answer = self.cluster.ask(sentinel, self.now).filter(|_| !cut);
        if self.now > until.0 || !answer.is_some_and(|answer| forget.still_holds(&answer)) {
            return;
        }
        self.log.push(format!("{} agent-{agent} has {sentinel} forget", self.now));
        self.forgets += 1;
        self.cluster.reset(sentinel);
        let last = self.last_forget.replace((self.now, sentinel));
        if let Some((at, other)) = last.filter(|(at, _)| self.now - at < FORGET_GAP_MS) {
            self.break_with(format!("{sentinel} was reset, and {other} at {at}"));
        }
    }

    fn read(&mut self, agent: usize, kind: ReadKind) {
        if kind == ReadKind::Watch {
            // A blocking query that is always there; the change reaches it after a while.
            self.push(self.now + 40, Event::Read(agent, ReadKind::Watch));
        }
        if !self.agents[agent].up {
            return;
        }
        if !self.consul_answers(agent) {
            // Noticed once, when the connection breaks.
            if kind == ReadKind::Watch && !std::mem::replace(&mut self.agents[agent].away, true) {
                let silent = Box::new(Input::ConsulSilent);
                self.push(self.now, Event::Deliver(agent, silent));
            }
            return;
        }
        let back = kind == ReadKind::Watch && std::mem::take(&mut self.agents[agent].away);
        if back {
            self.agents[agent].watched = None;
        }
        let asked = Mono(self.now);
        // A blocking query comes back when something changed, and now and then for no reason.
        let news = self.agents[agent].watched != Some(self.consul.version());
        if kind == ReadKind::Watch && !news && self.rng.random_range(0..500) > 0 {
            return;
        }
        let input = match kind {
            ReadKind::Consistent => Input::Consistent(self.group_for(agent, &self.consul, asked)),
            ReadKind::Rows => Input::Rows(self.consul.rows(&self.layout.node(), asked)),
            ReadKind::Watch => {
                // A deposed leader, or a server that lags, answers with the past.
                let stale = self.rng.random_range(0..40) == 0;
                self.agents[agent].watched = (!stale).then(|| self.consul.version());
                let source = if stale { &self.old_consul } else { &self.consul };
                Input::Watched(self.group_for(agent, source, asked))
            }
        };
        let delay = self.delay();
        self.push(self.now + delay, Event::Deliver(agent, Box::new(input)));
    }

    /// An operation as an agent of its version sends it.
    fn as_sent(&self, agent: usize, op: &Op) -> Op {
        match op {
            Op::KeyCas { key, index, value } if self.older.contains_key(&agent) => {
                let value = self.as_known(agent, value);
                Op::KeyCas { key: key.clone(), index: *index, value }
            }
            other => other.clone(),
        }
    }

    fn consul_answers(&self, agent: usize) -> bool {
        !self.consul_away && !self.agents[agent].cut.contains(&Peer::Consul)
    }

    fn apply(&mut self, agent: usize, id: u64, write: &Write, fate: Fate) {
        let reaches = self.consul_answers(agent) && fate != Fate::RequestLost;
        let unknown = Outcome::Unknown("no answer in time".to_owned());
        let (outcome, delay) = if reaches {
            let before = self.consul.clone();
            let ops: Vec<Op> = write.ops.iter().map(|op| self.as_sent(agent, op)).collect();
            let outcome = self.consul.txn(&ops, &self.layout.state());
            if matches!(outcome, Outcome::Committed { .. }) {
                self.old_consul = before;
                self.committed(agent, write);
            }
            match fate {
                Fate::Answered => (outcome, self.delay()),
                Fate::AnswerLost | Fate::RequestLost => (unknown, CONSUL_TIMEOUT_MS),
            }
        } else {
            (unknown, CONSUL_TIMEOUT_MS)
        };
        self.push(self.now + delay, Event::Deliver(agent, Box::new(Input::Written(id, outcome))));
    }

    /// Never published without its own word for it.
    fn check_proof(&mut self, agent: usize, write: &Write) {
        let Some(record) = write.record.as_ref().filter(|_| write.purpose == Purpose::Publish)
        else {
            return;
        };
        let Some(writer) = record.writer_address() else {
            return self.break_with(format!("agent-{agent} publishes nobody"));
        };
        // It said so after the generation that it is to follow was committed, or its word is older than
        // what it overrules.
        let base = self.commit_times.get(&write.base_index).copied().unwrap_or(0);
        let said = self.agents[agent].said_primary.get(writer).copied();
        if said.is_none_or(|said| said < base || self.now - said > PROOF_AGE_MAX_MS) {
            let what = format!("agent-{agent} publishes {writer}, which last said so at {said:?}");
            self.break_with(what);
        }
        let named = self.named_recently(writer, record.evidence.level());
        // The first primary of a group that no Sentinel knows: the one with the most data.
        let first = self.most_data.is_some() && record.generation == 1;
        if first && self.most_data.as_ref() != Some(writer) {
            let what = format!("{writer} is the first primary, {:?} has more", self.most_data);
            return self.break_with(what);
        }
        // Where everything has moved, no Sentinel knows anybody who is left.
        let by_itself = record.evidence.basis == Basis::Agents;
        let moved = self.moved > 0 && by_itself;
        if let Some(holder) = self.holder_passed_over(agent, record, writer).filter(|_| moved) {
            let what = format!("agent-{agent} publishes {writer} without data, {holder} has some");
            return self.break_with(what);
        }
        self.successors += usize::from(moved);
        if !named && !first && !moved {
            let what =
                format!("agent-{agent} publishes {writer}, which the Sentinels did not name");
            self.break_with(what);
        }
    }

    /// A blank one is about to lead: somebody whom the agent reaches, and who has been there for a while, holds the group's data.
    fn holder_passed_over(&self, agent: usize, next: &Record, writer: &Address) -> Option<Address> {
        self.cluster.instance(writer).filter(|leads| leads.offset == 0)?;
        let ours = |i: &Instance| {
            self.cluster.probe(&i.address).is_some_and(|a| is_of_lineage(Some(next), &a))
        };
        let holds = |(index, i): &(usize, &Instance)| {
            let reached = !self.agents[agent].cut.contains(&Peer::Instance(*index));
            reached && i.answers() && i.offset > 0 && self.now - i.started > 3_000 && ours(i)
        };
        let mut all = self.cluster.instances.iter().enumerate();
        all.find(holds).map(|(_, holder)| holder.address.clone())
    }

    /// In truth, not in anybody's view: a majority named it, or an elected leader had chosen it.
    fn named_recently(&self, writer: &Address, level: Level) -> bool {
        let from = self.now.saturating_sub(PROOF_AGE_MAX_MS);
        let kept = match level {
            Level::Quorum => &self.named_at,
            Level::Promotion => &self.chosen_at,
        };
        kept.get(writer).is_some_and(|at| *at >= from)
    }

    fn note_truth(&mut self) {
        if let Some(majority) = self.cluster.majority() {
            self.named_at.insert(majority, self.now);
        }
        for chosen in self.cluster.chosen() {
            self.chosen_at.insert(chosen, self.now);
        }
    }

    fn committed(&mut self, agent: usize, write: &Write) {
        *self.commits.entry(write.purpose).or_default() += 1;
        self.last_commit = self.now;
        let begins = matches!(write.purpose, Purpose::Publish | Purpose::Withdraw);
        let answer = self.consul.group(&self.layout, Mono(self.now));
        let Some(record) = answer.record().cloned() else {
            return self.break_with("a write left no record".to_owned());
        };
        self.log.push(format!(
            "{} agent-{agent} {}: generation {}, writer {:?}, level {}, {}",
            self.now,
            write.purpose.as_str(),
            record.generation,
            record.writer_address(),
            record.evidence.level().as_str(),
            record.why
        ));
        if record.writer.is_some() {
            self.cluster.idle = false;
        }
        self.check_no_step_back(&record);
        self.last_record = Some(record.clone());
        if begins {
            self.generation_at = self.now;
        }
        self.commit_times.insert(answer.state_index, self.generation_at);
        if record.generation < self.generation_max
            || (begins && record.generation == self.generation_max)
        {
            let before = self.generation_max;
            self.break_with(format!("generation {} after {before}", record.generation));
        }
        self.generation_max = record.generation;
        let remembered = &mut self.agents[agent].generation_max;
        if begins && record.generation <= *remembered {
            let what = format!("agent-{agent} knew of generation {remembered} already");
            return self.break_with(what);
        }
        *remembered = record.generation;
        self.check_answers(&record, &answer);
    }

    /// The majority's old answer does not overrule a promotion that still has time.
    fn check_no_step_back(&mut self, record: &Record) {
        let Some(last) = &self.last_record else { return };
        let young = self.now - self.generation_at < 4_000;
        let promoted = last.evidence.level() == Level::Promotion && last.writer.is_some();
        let moved = record.writer.is_some() && record.writer_address() != last.writer_address();
        let old_epoch = record.evidence.level() == Level::Quorum
            && record.evidence.basis.epoch() <= Some(last.evidence.confirmed_epoch);
        if young && promoted && moved && old_epoch {
            self.break_with("the old answer overruled a promotion".to_owned());
        }
    }

    /// One writer in every answer, and the same story everywhere.
    fn check_answers(&mut self, record: &Record, answer: &StoreAnswer) {
        let wanted: Vec<String> =
            record.writer_address().map(ToString::to_string).into_iter().collect();
        let by_name = self.consul.passing("redis-primary", None);
        let by_tag = self.consul.passing("redis", Some("primary"));
        let key = answer.plain.get("primary").cloned().unwrap_or_default();
        if by_name.len() > 1 || by_tag.len() > 1 {
            self.break_with(format!("two writers: {by_name:?} {by_tag:?}"));
        }
        if key != wanted.concat() {
            self.break_with(format!("the key says {key:?}, the record {wanted:?}"));
        }
        if self.tampered {
            return;
        }
        if by_name != wanted || by_tag != wanted {
            self.break_with(format!("DNS says {by_name:?} {by_tag:?}, the record {wanted:?}"));
        }
        let shown = self.consul.rows(&self.layout.node(), Mono(self.now)).found;
        if shown.as_ref() != Some(&project(record).rows) {
            self.break_with(format!("the rows are not the record's: {shown:?}"));
        }
    }

    fn break_with(&mut self, what: String) {
        self.log.push(format!("{} BROKEN: {what}", self.now));
        self.broken.get_or_insert(what);
    }

    fn operate(&mut self, operation: Operation) {
        match operation {
            Operation::KillInstance(_)
            | Operation::StartInstance { .. }
            | Operation::FreezeInstance(_)
            | Operation::ThawInstance(_)
            | Operation::KillPrimary
            | Operation::EmptyPrimary
            | Operation::MoveAll
            | Operation::ReplicaOfNoOne(_) => self.operate_on_instances(operation),
            Operation::CutSentinels(a, b) => {
                self.cluster.cut_sentinels.insert((a.min(b), a.max(b)));
            }
            Operation::CutSentinelInstance(s, i) => {
                let address = self.cluster.instances[i].address.clone();
                self.cluster.cut_instances.insert((s, address));
            }
            Operation::CutAgent(agent, peer) => {
                if peer == Peer::Instance(agent) {
                    self.isolated.remove(&agent);
                }
                self.agents[agent].cut.insert(peer);
            }
            Operation::IsolateHost(host) => self.isolate(host),
            Operation::Maintenance { instance, on } => self.maintain(instance, on),
            Operation::Switchover(agent) => self.switch_over(agent),
            Operation::KillAgent(agent) => {
                self.agents[agent].up = false;
                self.isolated.remove(&agent);
            }
            Operation::StartAgent(agent) => self.start_agent(agent),
            Operation::Upgrade(agent) => {
                self.older.remove(&agent);
                self.operate(Operation::KillAgent(agent));
                self.start_agent(agent);
            }
            Operation::ConsulAway => self.consul_away = true,
            Operation::ConsulBack => self.consul_away = false,
            Operation::WipeConsul => {
                // The fence itself is gone; only what agents remember keeps it from going back.
                self.generation_max = 0;
                self.last_record = None;
                self.consul_life += 1;
                self.consul.wipe();
                self.old_consul.wipe();
                // Every watch breaks with it.
                for agent in 0..self.agents.len() {
                    self.agents[agent].away = true;
                    self.push(self.now, Event::Deliver(agent, Box::new(Input::ConsulSilent)));
                }
            }
            Operation::Tamper(pick) => {
                self.tampered = true;
                self.consul.tamper(&self.layout.node(), pick);
            }
            Operation::HealAll => self.heal(),
            operation => self.operate_on_sentinels(operation),
        }
    }

    /// As `consul-redis maintenance` does: the key says who, and the priority keeps Sentinels from choosing it.
    fn maintain(&mut self, index: usize, on: bool) {
        if on == (self.cluster.instances[index].priority == 0) {
            return;
        }
        self.cluster.instances[index].priority = if on { 0 } else { PRIORITY };
        let kept = self.cluster.instances.iter().filter(|instance| instance.priority == 0);
        let kept: BTreeMap<&Address, u64> = kept.map(|i| (&i.address, PRIORITY)).collect();
        let (key, value) = (self.layout.maintenance(), serde_json::to_string(&kept));
        let set = Op::KeySet { key, value: value.expect("a map of addresses") };
        self.consul.txn(&[set], &self.layout.state());
    }

    /// As `consul-redis switchover` does: by what it sees, and only when nothing speaks against it.
    fn switch_over(&mut self, agent: usize) {
        let mut observed = self.agents[agent].machine.observed().clone();
        if let Some(store) = &mut observed.store {
            // Their presence is bound to sessions, which are not simulated.
            store.agents.insert(self.policies[agent].agent.clone());
        }
        let memory = Memory::default();
        let view = View::of_one_look(&self.policies[agent], &memory, &observed, self.clock());
        let Some(planned) = prepare(&view, None).1.filter(|_| self.agents[agent].up) else {
            return;
        };
        let sentinel = |s: &Sentinel| s.address == planned.sentinel;
        let index = self.index_of(&planned.from);
        let sentinel = self.cluster.sentinels.iter().position(sentinel);
        let Some((index, sentinel)) = index.zip(sentinel) else { return };
        let reached = [Peer::Instance(index), Peer::Sentinel(sentinel)];
        let asked = &self.cluster.sentinels[sentinel];
        let free = asked.up && asked.knows && asked.failover.is_none();
        if free && reached.iter().all(|peer| !self.agents[agent].cut.contains(peer)) {
            self.moves += 1;
            self.hold(agent, index, MOVE_HOLD_MS);
            self.cluster.start_failover(sentinel, self.now, true);
        }
    }

    fn operate_on_instances(&mut self, operation: Operation) {
        let instances = &mut self.cluster.instances;
        match operation {
            Operation::KillInstance(i) => instances[i].up = false,
            Operation::FreezeInstance(i) => instances[i].frozen = true,
            Operation::ThawInstance(i) => instances[i].frozen = false,
            Operation::StartInstance { instance, empty } => {
                self.cluster.start_instance(instance, empty);
            }
            Operation::KillPrimary => {
                let primary = self.cluster.majority();
                if let Some(index) = primary.and_then(|primary| self.index_of(&primary)) {
                    self.cluster.instances[index].up = false;
                }
            }
            Operation::MoveAll => self.move_all(),
            Operation::EmptyPrimary => {
                let primary = self.cluster.majority();
                if let Some(index) = primary.and_then(|primary| self.index_of(&primary)) {
                    self.cluster.instances[index].up = false;
                    self.cluster.start_instance(index, true);
                }
            }
            Operation::ReplicaOfNoOne(i) => {
                let address = instances[i].address.clone();
                self.cluster.promote(&address);
            }
            other => panic!("{other:?} is not about instances"),
        }
    }

    /// Containers that are made anew have other addresses, and agents that know them.
    fn move_all(&mut self) {
        self.moved += 1;
        let count = self.cluster.instances.len();
        let to: Vec<Address> =
            (0..count).map(|index| crate::cluster::address(10 + self.moved, index)).collect();
        for (index, to) in to.iter().enumerate() {
            self.cluster.move_instance(index, to.clone());
        }
        for agent in 0..self.agents.len() {
            if let Some(to) = to.get(agent) {
                self.policies[agent].local = BTreeSet::from([to.clone()]);
            }
            self.operate(Operation::KillAgent(agent));
            self.start_agent(agent);
            let delay = 2_000 + 10 * self.delay();
            let registered = Box::new(Input::Registered(to.iter().cloned().collect()));
            self.push(self.now + delay, Event::Deliver(agent, registered));
        }
    }

    fn operate_on_sentinels(&mut self, operation: Operation) {
        let now = self.now;
        let sentinels = &mut self.cluster.sentinels;
        match operation {
            Operation::KillSentinel(s) => sentinels[s].up = false,
            Operation::RemoveSentinel(s) => {
                sentinels[s].up = false;
                sentinels[s].gone = true;
            }
            Operation::KillLeader => {
                if let Some(leader) = sentinels.iter_mut().find(|s| s.up && s.failover.is_some()) {
                    leader.up = false;
                    leader.failover = None;
                }
            }
            Operation::StartSentinel { sentinel, blank } => {
                sentinels[sentinel].up = true;
                if blank {
                    sentinels[sentinel].knows = false;
                    sentinels[sentinel].peers.clear();
                }
            }
            Operation::Tilt(s) => sentinels[s].tilt_until = now + 10_000,
            Operation::Rollback { sentinel, to } => {
                let address = self.cluster.instances[to].address.clone();
                self.cluster.remonitor(sentinel, &address);
            }
            Operation::Reset(s) => self.cluster.reset(s),
            Operation::ResetLeader => {
                if let Some(leader) = sentinels.iter().position(|s| s.failover.is_some()) {
                    self.cluster.reset(leader);
                }
            }
            Operation::ForceFailover(s) => {
                if sentinels[s].up && sentinels[s].failover.is_none() {
                    self.cluster.start_failover(s, now, true);
                }
            }
            Operation::ForceTwoFailovers(a, b) => {
                self.operate(Operation::ForceFailover(a));
                self.operate(Operation::ForceFailover(b));
            }
            other => panic!("{other:?} is not about Sentinels"),
        }
    }

    fn start_agent(&mut self, agent: usize) {
        let life = self.agents[agent].life + 1;
        if self.agents[agent].up {
            return;
        }
        let mut policy = self.policy(agent);
        policy.run = format!("run-{life}");
        let machine = GroupLoop::new(policy, self.layout.clone());
        let sentinels = self.cluster.sentinels.len();
        let cut = self.agents[agent].cut.clone();
        // Messages of the old life still arrive: they belong to no question of the new one, but they
        // are true, so they must do no harm.
        self.agents[agent] = Agent {
            machine,
            up: true,
            life,
            cut,
            next_wake: u64::MAX,
            said_primary: self.agents[agent].said_primary.clone(),
            generation_max: 0,
            watched: None,
            away: false,
            seen_kicks: BTreeMap::new(),
            seen_events: vec![0; sentinels],
        };
        self.push(self.now + 1, Event::Wake(agent));
    }

    fn isolate(&mut self, host: usize) {
        if host >= self.agents.len() || host >= self.cluster.instances.len() {
            return;
        }
        let address = self.cluster.instances[host].address.clone();
        self.agents[host].cut.insert(Peer::Consul);
        for sentinel in 0..self.cluster.sentinels.len() {
            self.agents[host].cut.insert(Peer::Sentinel(sentinel));
            self.cluster.cut_instances.insert((sentinel, address.clone()));
        }
        for agent in (0..self.agents.len()).filter(|agent| *agent != host) {
            self.agents[agent].cut.insert(Peer::Instance(host));
        }
        for other in (0..self.cluster.instances.len()).filter(|other| *other != host) {
            self.agents[host].cut.insert(Peer::Instance(other));
        }
        // One that has never seen anything has nothing to lose.
        let knows = self.agents[host].machine.observed().record().is_some();
        if self.agents[host].up && knows {
            let blind_to_own = self.agents[host].cut.contains(&Peer::Instance(host));
            if !blind_to_own {
                self.isolated.entry(host).or_insert(self.now);
            }
        }
    }

    /// A primary on a host that has been cut off for long takes no writes.
    fn check_isolated(&mut self) {
        for host in 0..self.agents.len().min(self.cluster.instances.len()) {
            let instance = &self.cluster.instances[host];
            if !(instance.answers() && instance.is_primary()) {
                self.primary_since.remove(&host);
                continue;
            }
            let primary_since = *self.primary_since.entry(host).or_insert(self.now);
            let Some(since) = self.isolated.get(&host).map(|since| primary_since.max(*since))
            else {
                continue;
            };
            let held = instance.held_until + HOLD_GAP_MS > self.now;
            if self.now - since > ISOLATED_MAX_MS && !held {
                let address = instance.address.clone();
                self.break_with(format!("{address} takes writes, cut off since {since}"));
            }
        }
    }

    /// Every fault ends: what stopped starts, what was cut is joined.
    fn heal(&mut self) {
        self.consul_away = false;
        self.isolated.clear();
        // One is left where the operator has put it.
        for index in 1..self.cluster.instances.len() {
            self.maintain(index, false);
        }
        self.cluster.cut_sentinels.clear();
        self.cluster.cut_instances.clear();
        for index in 0..self.cluster.instances.len() {
            self.cluster.instances[index].frozen = false;
            self.cluster.start_instance(index, false);
        }
        for sentinel in &mut self.cluster.sentinels {
            sentinel.up = !sentinel.gone;
            sentinel.tilt_until = 0;
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].cut.clear();
            self.start_agent(agent);
        }
    }

    /// What all agents must agree on once the world has been still for long.
    pub fn check_converged(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let answer = self.consul.group(&self.layout, Mono(self.now));
        let published = answer.record().and_then(Record::writer_address).cloned();
        let level = answer.record().map(|record| record.evidence.level());
        // Equal epochs for two addresses never converge in Sentinel itself; then nobody is named.
        let Some(majority) = self.cluster.majority() else { return };
        let sound = self.cluster.instance(&majority).is_some_and(|i| i.is_primary() && i.answers());
        if !sound {
            return;
        }
        if published.is_none() && self.cluster.is_left_to_the_operator(&majority) {
            return;
        }
        self.converged = true;
        if published.as_ref() != Some(&majority) {
            self.break_with(format!("{published:?} is published, the Sentinels name {majority}"));
        }
        if level != Some(Level::Quorum) {
            self.break_with("the promotion was never confirmed".to_owned());
        }
        for agent in 0..self.agents.len() {
            let store = self.agents[agent].machine.observed().store.as_ref();
            let seen = store.and_then(StoreAnswer::record).and_then(Record::writer_address);
            if seen != Some(&majority) {
                let seen = seen.cloned();
                self.break_with(format!("agent-{agent} sees {seen:?}, not {majority}"));
            }
        }
        let kept = answer.maintenance.as_ref().expect("a map of addresses").keys();
        let role = |address: &&Address| answer.record().and_then(|r| r.role_of(address));
        if let Some(kept) = kept.clone().find(|a| role(a) == Some(PublishedRole::Replica)) {
            self.break_with(format!("{kept} is in maintenance, and published"));
        }
        let wanted = answer.record().map(|record| project(record).rows);
        if self.consul.rows(&self.layout.node(), Mono(self.now)).found != wanted {
            self.break_with("the rows are not the record's in the end".to_owned());
        }
        if self.now - self.last_commit < 3_000 {
            self.break_with("the agents still write in a still world".to_owned());
        }
    }
}
