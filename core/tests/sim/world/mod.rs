//! One simulated history: agents, Consul, Sentinels and instances, with every delay, loss and fault drawn
//! from one seed.

mod faults;
mod invariants;
mod network;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use consul_redis_core::duty::action::{Promote, Purpose, Write};
use consul_redis_core::duty::fence::Fence;
use consul_redis_core::duty::mark::Marking;
use consul_redis_core::duty::relay::Relay;
use consul_redis_core::duty::sentinels::{Reconfigure, ReconfigureKind};
use consul_redis_core::duty::stale_peers::Forget;
use consul_redis_core::duty::switchover::{Switchover, has_all, prepare, retire};
use consul_redis_core::duty::zone_order::Prioritize;
use consul_redis_core::group::{GroupLoop, Input, Outcome, Output};
use consul_redis_core::identity::address::{Address, GroupName};
use consul_redis_core::known::memory::Memory;
use consul_redis_core::known::observed::{
    Death, InstanceAnswer, ProcessState, ProofKind, Reading, Refusal, Role, StoreAnswer,
    StoredState,
};
use consul_redis_core::known::view::View;
use consul_redis_core::policy::{Announce, FastFailover, Policy, WantedQuorum};
use consul_redis_core::published::projection::{Layout, Op, project};
use consul_redis_core::published::record::{Level, PublishedRole, Record, decode, encode};
use consul_redis_core::situation::data_loss::{Detach, Replace, WhyReplace};
use consul_redis_core::situation::writer::is_of_lineage;
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{Cluster, Instance, PRIORITY, Sentinel, has_aliases, has_marks};
use crate::memory_consul::MemoryConsul;
use crate::operation::{Change, Operation};

/// How long a planned move holds the old primary's writes, in ms.
const MOVE_HOLD_MS: u64 = 5_000;
/// How long replicas may take to have every write then, in ms.
const CATCH_UP_MAX_MS: u64 = 1_000;
/// How long a Sentinel may take to promote one of them, in ms.
const PROMOTION_MAX_MS: u64 = 4_000;
/// How long all may take to follow, in ms.
const FOLLOW_MAX_MS: u64 = 30_000;
/// How long the key `move` of one that died holds off the next one, in ms.
const MOVE_LOCK_MS: u64 = 120_000;
/// Pause between two looks at a planned move, in ms.
const MOVE_STEP_MS: u64 = 20;
/// How long a primary on an isolated host may take writes: 3 s, and the model's slowest messages.
const ISOLATED_MAX_MS: u64 = 5_000;
/// 30 s by the book, less the time that a command is on its way.
const FORGET_GAP_MS: u64 = 22_000;
/// 5 s, less the time that a command may be late.
const REPLACE_GAP_MS: u64 = 1_000;
/// A renewed hold may come this much late, for the same reason.
const HOLD_GAP_MS: u64 = 1_000;
/// What is younger no agent can know yet. An instance that follows one which has just lost its data is detached
/// afterwards.
const UNSEEN_MS: u64 = 150;
/// Deadline of a question to a Sentinel or an instance, in ms.
const ASK_TIMEOUT_MS: u64 = 500;
/// Deadline of a call to Consul, in ms.
const CONSUL_TIMEOUT_MS: u64 = 3_000;

/// `down-after-milliseconds` where agents hear of deaths, in ms.
const PATIENT_DOWN_AFTER_MS: u64 = 5_000;

/// An answer may be three seconds old, and have been on its way for one.
const PROOF_AGE_MAX_MS: u64 = 4_500;

/// How long a wrong name may stay while an agent sees everything: a lost answer of Consul, the time to
/// confirm a promotion, and a little.
const WRONG_FOR_MAX_MS: u64 = 12_000;

/// What an older version did not know of a record, by version: each forgot it whenever it wrote. What is noted at every
/// look (`sentinel_ids`, `installation`) cannot be shown so: these agents, which are of our code, would miss it and
/// note it again.
const UNKNOWN: [&[&str]; 4] = [
    &["death"],
    &["death", "emptied"],
    &["death", "emptied", "reset"],
    &["death", "emptied", "reset", "claim", "lineage"],
];

/// So long after a failover its replicas have been made to follow, have copied everything, and are published.
const REST_MS: u64 = 25_000;

/// Which two cannot reach each other.
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
    AskAlias(usize, usize, Address, u64),
    Hold(usize, usize, u64),
    Fence(usize, usize, Fence),
    Mark(usize, usize, Marking),
    Prioritize(usize, usize, Prioritize, Mono),
    Detach(usize, usize, Detach),
    Replace(usize, usize, Replace, Mono),
    Relay(usize, usize, Relay, Mono),
    Promote(usize, usize, Promote),
    Move(usize, Move),
    Reconfigure(usize, usize, Reconfigure, Mono),
    Forget(usize, usize, Forget, Mono),
    Apply(usize, u64, Box<Write>, Fate, u64),
    Read(usize, ReadKind),
    FollowUp(usize, Vec<Op>, u64),
}

/// A planned move that is under way: the steps of `consul-redis switchover`.
#[derive(Clone)]
struct Move {
    planned: Switchover,
    from: usize,
    sentinel: usize,
    /// The run and the history of the old primary, and how far that had come when its writes were held.
    run: u64,
    replid: u64,
    target: u64,
    begun: u64,
    step: Step,
}

#[derive(Clone, PartialEq)]
enum Step {
    CatchUp,
    Promote,
    Follow(Address),
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
    /// Sampled at the instance: when it last answered this agent that it is the primary.
    said_primary: BTreeMap<Address, u64>,
    generation_max: u64,
    watched: Option<u64>,
    /// Its watch has found Consul away.
    away: bool,
    seen_kicks: BTreeMap<Address, u64>,
    seen_events: Vec<u64>,
    /// Commands to instances, and to Sentinels, are dropped until then.
    full_until: u64,
    lags_until: u64,
    /// The Sentinels that it does not ask: since when, and until when.
    dismissed: BTreeMap<usize, (u64, u64)>,
}

impl Agent {
    /// One that has just been started for the first time.
    fn new(machine: GroupLoop, sentinels: usize) -> Self {
        Self {
            machine,
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
            full_until: 0,
            lags_until: 0,
            dismissed: BTreeMap::new(),
        }
    }
}

/// How often what is drawn has happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Sentinels that followed an election's outcome because an agent told it.
    pub relays: usize,
    /// How often a Sentinel was told to wait for a moment only, or as before again: where agents vote, which drawn
    /// histories do not.
    pub paces: usize,
    /// Sentinels that were not hurried, for the agent was late.
    pub late_paces: usize,
    /// Sentinels that an agent found no more.
    pub dismissals: usize,
    /// Answers of those that came afterwards.
    pub late_answers: usize,
    /// Commands to instances that were dropped.
    pub full_queues: usize,
    /// Commands to Sentinels that were dropped.
    pub lags: usize,
    /// Commands that were carried out half a second after they were given, or later.
    pub late_commands: usize,
    /// Instances with unrelated data that were seen as primaries beside the group's.
    pub foreign: usize,
    /// Marks written into a data set.
    pub marks: usize,
    /// Priorities that were set for an order of zones.
    pub priorities: usize,
    pub reloads: usize,
    pub looks: usize,
    /// Planned moves that ended well, without a write lost.
    pub moves_done: usize,
    /// Histories that were run without agents, too, since the Sentinels did not agree.
    pub controls: usize,
    /// Failovers that were ended by telling their leader whom to monitor.
    pub failovers_ended: usize,
}

impl Counts {
    fn all(&mut self) -> [&mut usize; 14] {
        [
            &mut self.relays,
            &mut self.dismissals,
            &mut self.late_answers,
            &mut self.full_queues,
            &mut self.lags,
            &mut self.late_commands,
            &mut self.foreign,
            &mut self.marks,
            &mut self.priorities,
            &mut self.reloads,
            &mut self.looks,
            &mut self.moves_done,
            &mut self.controls,
            &mut self.failovers_ended,
        ]
    }

    pub fn add(&mut self, mut other: Self) {
        for (sum, count) in self.all().into_iter().zip(other.all()) {
            *sum += *count;
        }
    }

    /// Whatever is drawn has happened at least once.
    pub fn nothing_is_missing(mut self) -> bool {
        self.all()[..12].iter().all(|count| **count > 0)
    }
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
    /// Changes of the writer that were followed up.
    pub follow_ups: usize,
    /// Holds carried out.
    pub holds: usize,
    /// Stray primaries made replicas.
    pub fences: usize,
    /// Sentinels reconfigured.
    pub reconfigurations: usize,
    /// Sentinels that got `REMOVE` for a primary that is gone.
    pub removals: usize,
    /// Writers published in a group that has moved.
    pub successors: usize,
    /// Sentinels made to forget.
    pub forgets: usize,
    /// Instances kept from copying a primary without data.
    pub detachments: usize,
    /// Primaries moved on purpose.
    pub moves: usize,
    /// Failovers asked for because of one without data.
    pub replacements: usize,
    /// Failovers asked for because the writer's process had ended, by its address and the epoch then.
    pub superseded: BTreeSet<(Address, u64)>,
    /// The agents hear of the ends of the processes beside them.
    told: bool,
    /// Agents are refused by what has died, and have the Sentinels vote at once.
    refused: bool,
    pub counts: Counts,
    /// What is left is for the operator to decide.
    pub left_to_the_operator: bool,
    /// The group is one of very many of its agents, which decide nothing while all is as it was.
    crowded: bool,
    /// Agents are never started.
    no_agents: bool,
    /// Any command may be on its way for long; else only those to forget.
    tardy: bool,
    /// Until when the last planned move may be under way.
    moving_until: u64,
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
    /// On which primary, that answers as one, a majority of the Sentinels agrees, and since when.
    settled: Option<(Address, u64)>,
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

/// What differs from world to world, and not from agent to agent.
fn vary(policies: &mut [Policy], seed: u64, instances: usize) {
    if seed % 4 == 3 {
        policies.iter_mut().for_each(|policy| policy.announce = Announce::Eager);
    }
    use_marks(seed, policies);
    if seed % 3 == 1 {
        use_zones(policies);
    }
    if has_aliases(seed) {
        use_aliases(policies, instances);
    }
}

/// The agents beside instances have other addresses of these in their configs than the Sentinels.
fn use_aliases(policies: &mut [Policy], instances: usize) {
    for (host, policy) in policies.iter_mut().enumerate().take(instances) {
        policy.local = BTreeSet::from([crate::cluster::address(8, host)]);
    }
}

/// In some worlds the operator has an order of zones. Not all agents have the same one.
fn use_zones(policies: &mut [Policy]) {
    let zones = ["eu-1a", "eu-1b", "eu-1c"].map(|zone| zone.parse().expect("a zone"));
    for (index, policy) in policies.iter_mut().enumerate() {
        policy.zone = zones.iter().cycle().nth(index).cloned();
        policy.prefer_zones = zones.iter().skip(index % 2).cloned().collect();
    }
}

/// In some worlds the agents keep a mark in the data set.
fn use_marks(seed: u64, policies: &mut [Policy]) {
    let key = has_marks(seed).then(|| "consul-redis".parse().expect("a key"));
    for policy in policies {
        policy.mark.clone_from(&key);
    }
}

impl World {
    pub fn new(seed: u64, agents: usize, instances: usize, sentinels: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let group: GroupName = "redis".parse().expect("a group");
        let layout = Layout::new("redis-ha", &group);
        let mut policies = policies(&mut rng, &group, agents, instances, sentinels);
        vary(&mut policies, seed, instances);
        let new_agent =
            |policy: &Policy| Agent::new(GroupLoop::new(policy.clone(), layout.clone()), sentinels);
        let machines: Vec<Agent> = policies.iter().map(new_agent).collect();
        let mut world = Self {
            cluster: Cluster::new(seed, instances, sentinels),
            consul: MemoryConsul::default(),
            now: 1,
            log: Vec::new(),
            broken: None,
            converged: false,
            commits: BTreeMap::new(),
            follow_ups: 0,
            holds: 0,
            fences: 0,
            reconfigurations: 0,
            removals: 0,
            successors: 0,
            forgets: 0,
            detachments: 0,
            replacements: 0,
            superseded: BTreeSet::new(),
            told: false,
            refused: false,
            counts: Counts::default(),
            left_to_the_operator: false,
            crowded: seed % 3 == 1,
            no_agents: false,
            tardy: false,
            moving_until: 0,
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
            settled: None,
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

    /// The same with a blank group.
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

    /// The same without agents: what the Sentinels do by themselves.
    pub fn without_agents(mut self) -> Self {
        self.no_agents = true;
        for agent in &mut self.agents {
            agent.up = false;
        }
        self
    }

    /// The same with Sentinels that wait for long, and agents that hear of the ends of the processes beside them.
    pub fn told_of_deaths(mut self) -> Self {
        self.cluster.down_after_ms = PATIENT_DOWN_AFTER_MS;
        self.told = true;
        self
    }

    /// The same with agents that are refused by what has died.
    pub fn refused_by_the_dead(mut self) -> Self {
        self.cluster.down_after_ms = PATIENT_DOWN_AFTER_MS;
        self.refused = true;
        for (agent, policy) in self.agents.iter_mut().zip(&mut self.policies) {
            policy.fast_failover = FastFailover::Vote;
            policy.settings.down_after_ms = None;
            let machine = GroupLoop::new(policy.clone(), self.layout.clone());
            agent.machine = machine;
        }
        self
    }

    /// The same with commands of which any may come late.
    pub fn tardy(mut self) -> Self {
        self.tardy = true;
        self
    }

    /// The Sentinels have agreed on a sound primary for so long that its replicas are where they belong.
    pub fn is_at_rest(&self) -> bool {
        let since = self.settled.as_ref().map(|(_, since)| *since);
        since.is_some_and(|since| self.now - since >= REST_MS)
    }

    fn note_rest(&mut self) {
        let named = self.cluster.majority().filter(|_| self.cluster.is_settled());
        self.settled = named.map(|named| match self.settled.take() {
            Some((before, since)) if before == named => (before, since),
            _ => (named, self.now),
        });
    }

    pub fn has_agents(&self) -> bool {
        !self.no_agents
    }

    /// What an agent does: an older one has not the duties that came with what it does not know.
    fn policy(&self, agent: usize) -> Policy {
        let mut policy = self.policies[agent].clone();
        let unknown = self.older.get(&agent).copied().unwrap_or_default();
        policy.replace_emptied &= !unknown.contains(&"emptied");
        policy.forget_ghosts &= !unknown.contains(&"reset");
        policy.bootstrap &= !unknown.contains(&"claim");
        policy.relay &= unknown.is_empty();
        policy.write_mark &= unknown.is_empty();
        if unknown.contains(&"death") {
            policy.fast_failover = FastFailover::Off;
        }
        policy
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
                    self.note_late_answer(agent, &input);
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
            Event::AskAlias(agent, instance, alias, asked) => {
                self.ask_instance_at(agent, instance, alias, asked);
            }
            Event::Hold(agent, instance, for_ms) => self.hold(agent, instance, for_ms),
            Event::Promote(agent, instance, promote) => {
                self.promote(agent, instance, &promote);
            }
            Event::Move(agent, planned) => self.go_on(agent, planned),
            Event::Detach(agent, instance, detach) => self.detach(agent, instance, &detach),
            Event::Replace(agent, sentinel, replace, until) => {
                self.replace(agent, sentinel, &replace, until);
            }
            Event::Relay(agent, sentinel, relay, until) => {
                self.relay(agent, sentinel, &relay, until);
            }
            Event::Fence(agent, instance, fence) => self.fence(agent, instance, &fence),
            Event::Mark(agent, instance, marking) => self.mark(agent, instance, &marking),
            Event::Prioritize(agent, instance, prioritize, until) => {
                self.prioritize(agent, instance, &prioritize, until);
            }
            Event::Reconfigure(agent, sentinel, reconfigure, until) => {
                self.reconfigure(agent, sentinel, &reconfigure, until);
            }
            Event::Forget(agent, sentinel, forget, until) => {
                self.forget(agent, sentinel, &forget, until);
            }
            Event::Apply(agent, id, write, fate, life) => {
                // What waited for a Consul that was wiped is gone with it.
                let fate = if life == self.consul_life { fate } else { Fate::RequestLost };
                self.apply(agent, id, &write, fate);
            }
            Event::Read(agent, kind) => self.read(agent, kind),
            Event::FollowUp(agent, ops, life) => self.follow_up(agent, &ops, life),
        }
    }

    /// Events and closed connections reach the agents as hints.
    fn cluster_tick(&mut self) {
        self.cluster.tick(self.now);
        self.note_truth();
        self.note_rest();
        self.check_timely();
        self.check_isolated();
        self.dismiss_the_unnamed();
        self.check_dismissed();
        let foreign = |i: &Instance| i.foreign && i.is_primary() && i.answers();
        let seen = self.cluster.instances.iter().filter(|i| foreign(i)).count();
        self.counts.foreign += seen;
        let pause = self.cluster.pause();
        self.push(self.now + pause, Event::ClusterTick);
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
}
