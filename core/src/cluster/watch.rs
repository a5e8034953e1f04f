//! One cluster's loop, as a state machine without I/O: readings in, things to do out. Whatever arrives, it decides anew
//! from everything it knows.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::claims::Claims;
use super::duties::{DutyMemory, claim_death, due};
use super::judgement::{Judgement, NodeAnswer, NodeReadings, judge};
use super::order::NodeOrder;
use super::record::{
    ClusterRecord, ClusterRole, ClusterStore, MAINTENANCE, NodeRecord, StoredCluster, retract,
};
use super::renewal::{
    ClusterPolicy, ClusterView, Held, NoAnswer, NodeSeen, Renewed, differences, led_to,
    nothing_yet, renew,
};
use super::rows::{Found, ops_to, plain_after, project, step};
use super::shown::{AgentHears, ClusterStatus, cluster_status};
use super::slots::SLOTS;
use super::table::{NODES_MAX, NodeId};
use crate::group::{Aftermath, LogLevel, LogLine, Outcome};
use crate::identity::address::Address;
use crate::known::observed::{Death, DeathSign, ProcessState, RowsAnswer};
use crate::published::pause::PauseStatus;
use crate::published::projection::{Op, TXN_OPS_MAX};
use crate::time::{Mono, Now};

mod deaths;

use deaths::HastenedDeath;

/// How often the nodes are asked when nothing happens, in ms.
pub const ASK_MS: u64 = 1_000;
/// How often they are asked after something has, in ms, ...
pub const ASK_QUICK_MS: u64 = 200;
/// ... of a large cluster after so long for each of them: their tables grow with their number.
const QUICK_PER_NODE_MS: u64 = 10;
/// How often meanwhile where slots are not served, in ms: a replica is about to own them, and no event tells of it.
const ASK_OPEN_MS: u64 = 20;
/// ... of a large cluster after so long for each of them.
const OPEN_PER_NODE_MS: u64 = 3;
/// ... and for how long, in ms.
pub const QUICK_FOR_MS: u64 = 30_000;
/// How often those that do not vote are asked for all of their table, in ms.
pub const ASK_ALL_MS: u64 = 10_000;
/// What a round of questions brings is waited for this long, in ms, before it is gone by in part: the tables of a moment
/// belong together. A node that answers no more is not waited with.
pub const SETTLE_MS: u64 = 30;
/// How often the rows are compared with the record, in ms.
pub const CLUSTER_AUDIT_MS: u64 = 10_000;
/// Pause before a write that Consul refused is tried again, or a read that failed, in ms.
const AGAIN_MS: u64 = 2_000;
/// Changes that alter no name, such as slots that move, are written no more often than this, in ms.
const CALM_WRITE_MS: u64 = 1_000;
/// A problem is said again after so long, in ms, and another one after [`SAID_GAP_MS`].
const SAID_AGAIN_MS: u64 = 300_000;
/// See [`SAID_AGAIN_MS`].
const SAID_GAP_MS: u64 = 10_000;
/// A node that was told something is told it again after so long, in ms, while it is still wanted.
pub const TOLD_AGAIN_MS: u64 = 2_000;
/// After the first refusal of a node that has answered before, all are asked again after so long, in ms.
const REFUSED_AGAIN_MS: u64 = 60;
/// A cluster that is not recorded yet, and has slots that no node owns, is taken to be as it is after so long, in ms.
const WHOLE_WITHIN_MS: u64 = 10_000;
/// What is said while what the nodes say is not followed.
const HELD: &str = "nothing enters the names";
/// Lines of one change that are said each.
const LINES_MAX: usize = 20;

/// What one node said, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReading {
    /// When it was asked.
    pub asked: Mono,
    /// Its answer.
    pub answer: Result<NodeAnswer, NoAnswer>,
}

/// What a shell hands in.
#[derive(Debug, Clone)]
pub enum ClusterInput {
    /// The addresses that the seeds stand for.
    Seeds(BTreeSet<Address>),
    /// A node answered, or did not.
    Node(Address, NodeReading),
    /// The cluster's keys, from the watch.
    Watched(ClusterStore),
    /// The cluster's keys, from a read that the leader confirmed.
    Consistent(ClusterStore),
    /// The rows of the cluster's node in Consul.
    Rows(RowsAnswer),
    /// A read of Consul failed.
    ReadFailed,
    /// Consul did not answer the watch: it may be another one, or a restored one, when it is back. No write before that
    /// is known.
    ConsulSilent,
    /// How the write ended.
    Written(Outcome),
    /// What the kernel tells of the process of a node on this host.
    Process(Address, ProcessState),
    /// The members of each other cluster that the agent is configured with, as their records have them.
    Others(Vec<BTreeSet<NodeId>>),
    /// A node was told this; or why it was not, or did not do it.
    Told(NodeOrder, Result<(), String>),
    /// Look at everything now.
    Look,
    /// Time has passed.
    Tick,
}

/// One look at a cluster.
#[derive(Debug, Clone)]
pub struct ClusterLook {
    /// The addresses that the seeds stand for.
    pub seeds: BTreeSet<Address>,
    /// Its keys.
    pub store: ClusterStore,
    /// Its rows.
    pub rows: RowsAnswer,
    /// What its nodes say.
    pub readings: NodeReadings,
}

/// What an agent would do now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterPlan {
    /// The transaction in Consul; empty where what it shows is right.
    pub ops: Vec<Op>,
    /// What nodes would be told.
    pub orders: Vec<NodeOrder>,
    /// What is wanted and not done, and why not.
    pub not_done: Vec<String>,
}

/// What the loop wants a shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterOutput {
    /// Stay connected to exactly these nodes.
    Follow(BTreeSet<Address>),
    /// Ask every node; these for all of their tables.
    Ask(BTreeSet<Address>),
    /// Read the keys with the leader's confirmation.
    ReadStore,
    /// Read the rows.
    ReadRows,
    /// Send this transaction and report its [`Outcome`].
    Write(Vec<Op>),
    /// Send this transaction: whether it was carried out shows in the keys.
    Retract(Vec<Op>),
    /// Tell a node this, where it is still the one that is meant, unless it is later than this.
    Tell(NodeOrder, Mono),
    /// Write to the log.
    Say(LogLine),
    /// The owner of slots has died, which is known by this, and this becomes of it.
    Died(DeathSign, Aftermath),
}

/// What is shown of a cluster in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterFigures {
    /// Number of the publication.
    pub generation: u64,
    /// Slots with a published primary.
    pub slots_served: usize,
    /// Nodes published as primaries.
    pub primaries: usize,
    /// Nodes published as replicas.
    pub replicas: usize,
    /// Members in no name.
    pub unfit: usize,
    /// Voters known, and how many of them answer this agent; 0 where no majority is heard.
    pub voters: usize,
    /// See `voters`.
    pub answering: usize,
    /// Since when it is paused, where it is and that is known; and whether that ends by itself.
    pub paused: Option<(Option<Timestamp>, bool)>,
}

/// A write under way.
#[derive(Debug)]
struct Sent {
    /// The record that it makes, where it makes one.
    record: Option<ClusterRecord>,
    silent: BTreeSet<NodeId>,
}

/// What is read in Consul before anything is decided.
#[derive(Debug, Default)]
struct ClusterReads {
    /// The keys are being read, or are to be at that time.
    store: Option<Mono>,
    rows: Option<Mono>,
}

/// What a problem is about: each is said at its own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    /// What enters no name.
    Names,
    /// What is not written.
    Consul,
    /// What is not done to the nodes.
    Duties,
    /// What a node was told in vain.
    Told,
}

/// What was said of a problem, and when.
#[derive(Debug)]
struct Said {
    text: String,
    at: Mono,
}

/// One cluster's loop: [`ClusterInput`]s in, [`ClusterOutput`]s out.
#[derive(Debug)]
pub struct ClusterLoop {
    policy: ClusterPolicy,
    seeds: BTreeSet<Address>,
    nodes: BTreeMap<Address, NodeSeen>,
    followed: BTreeSet<Address>,
    store: Option<ClusterStore>,
    rows: Option<RowsAnswer>,
    /// The rows that were asked for then, and the keys of today, are what the record has.
    compared: Option<Mono>,
    /// When the keys last changed, by whichever agent.
    stored: Mono,
    /// When another agent last changed them.
    changed: Mono,
    sent: Option<Sent>,
    /// What the watch said meanwhile.
    late: Option<ClusterStore>,
    reads: ClusterReads,
    next_write: Mono,
    next_ask: Mono,
    next_all: Mono,
    quick_until: Mono,
    generation: u64,
    /// What this agent has withdrawn since it is silent.
    silenced: BTreeSet<NodeId>,
    overruled: BTreeSet<NodeId>,
    unheard_since: Option<Mono>,
    unheard_said: Option<Mono>,
    others_hear: bool,
    judged: Option<Judgement>,
    /// All nodes had been asked when it last decided.
    looked: bool,
    /// Those of this round that have not answered yet.
    pending: BTreeSet<Address>,
    /// They are waited for until then.
    settles: Option<Mono>,
    problems: BTreeMap<Topic, Said>,
    served_all: Option<bool>,
    /// Since when a cluster that is not recorded yet has been seen, with slots that no node owns.
    partial_since: Option<Mono>,
    /// What is begun, and since when this agent knows of it.
    claims: (Claims, Mono),
    duties: DutyMemory,
    /// The members of each other cluster.
    others: Vec<BTreeSet<NodeId>>,
    /// The nodes' keys whose agents are away, as they were then, and since when.
    unattended: BTreeMap<(Address, u64), Mono>,
    /// What the kernel tells of the processes of this host's nodes.
    processes: BTreeMap<Address, ProcessState>,
    /// Those of members that have ended, until the member answers again.
    deaths: BTreeMap<NodeId, Death>,
    /// Those whose election this agent has hastened, until it is known what came of it.
    hastened: BTreeMap<NodeId, HastenedDeath>,
    /// Those that are left to the nodes' own pace, until the node answers again or owns no slots.
    unhurried: BTreeSet<NodeId>,
    /// The pause that was on when it last decided.
    pause: Option<PauseStatus>,
    /// What is wanted of the nodes and not done.
    left_undone: Option<String>,
    /// What nodes were told, and when.
    told: BTreeMap<NodeOrder, Mono>,
}

impl ClusterLoop {
    /// A loop that knows nothing yet.
    pub fn new(policy: ClusterPolicy) -> Self {
        Self {
            policy,
            seeds: BTreeSet::new(),
            nodes: BTreeMap::new(),
            followed: BTreeSet::new(),
            store: None,
            rows: None,
            compared: None,
            stored: Mono::default(),
            changed: Mono::default(),
            sent: None,
            late: None,
            reads: ClusterReads { store: None, rows: Some(Mono::default()) },
            next_write: Mono::default(),
            next_ask: Mono::default(),
            next_all: Mono::default(),
            quick_until: Mono::default(),
            generation: 0,
            silenced: BTreeSet::new(),
            overruled: BTreeSet::new(),
            unheard_since: None,
            unheard_said: None,
            others_hear: false,
            judged: None,
            looked: false,
            pending: BTreeSet::new(),
            settles: None,
            problems: BTreeMap::new(),
            served_all: None,
            partial_since: None,
            claims: (Claims::default(), Mono::default()),
            duties: DutyMemory::default(),
            others: Vec::new(),
            unattended: BTreeMap::new(),
            processes: BTreeMap::new(),
            deaths: BTreeMap::new(),
            hastened: BTreeMap::new(),
            unhurried: BTreeSet::new(),
            pause: None,
            left_undone: None,
            told: BTreeMap::new(),
        }
    }

    /// The members that its record has.
    pub fn members(&self) -> impl Iterator<Item = &NodeId> {
        let record = self.store.as_ref().and_then(ClusterStore::record);
        record.into_iter().flat_map(|record| record.nodes.keys())
    }

    /// What a loop decides that has looked once. It remembers nothing, so that what must last before it counts has not
    /// lasted.
    pub fn planned(policy: ClusterPolicy, look: ClusterLook, now: Now) -> ClusterPlan {
        let ClusterLook { seeds, store, rows, readings } = look;
        let unheard = judge(&readings).err().map(|none| none.to_string());
        let seen = |reading: Result<NodeAnswer, String>| {
            let (answer, missing) = match reading {
                Ok(answer) => (Some((now.mono, answer)), None),
                Err(why) => (None, Some(NoAnswer::Silent(why))),
            };
            NodeSeen { asked: now.mono, answer, missing, refused_since: None }
        };
        let mut cluster = Self::new(policy);
        cluster.seeds = seeds;
        cluster.followed = readings.keys().cloned().collect();
        cluster.nodes = readings.into_iter().map(|(at, reading)| (at, seen(reading))).collect();
        cluster.generation = store.record().map_or(0, |record| record.generation);
        cluster.store = Some(store);
        // They count as read after the last write, of which it knows nothing.
        cluster.rows = Some(RowsAnswer { asked: cluster.stored.plus_ms(1), ..rows });
        let mut outputs = Vec::new();
        cluster.decide(now, &mut outputs);
        let mut plan = ClusterPlan::default();
        for output in outputs {
            match output {
                ClusterOutput::Write(ops) => plan.ops = ops,
                ClusterOutput::Tell(order, _) => plan.orders.push(order),
                _ => {}
            }
        }
        let said = cluster.problems.into_values().map(|said| said.text);
        plan.not_done = unheard.into_iter().chain(said).collect();
        plan
    }

    /// When it is to be woken if nothing happens before.
    pub fn next_wake(&self) -> Mono {
        let reads = [self.reads.store, self.reads.rows].into_iter().flatten();
        reads.chain(self.settles).chain([self.next_ask]).min().unwrap_or(self.next_ask)
    }

    /// What is known, in figures.
    pub fn figures(&self) -> ClusterFigures {
        let judged = self.judged.as_ref();
        let (voters, answering) = judged.map_or((0, 0), |j| (j.voters.len(), j.answering));
        let paused = self.pause.as_ref().map(|pause| (pause.since, pause.until.is_some()));
        let Some(record) = self.store.as_ref().and_then(ClusterStore::record) else {
            return ClusterFigures { voters, answering, paused, ..ClusterFigures::default() };
        };
        let published = |role: Option<ClusterRole>| {
            let is = |node: &&NodeRecord| node.serves().map(|(role, _)| role) == role;
            record.nodes.values().filter(is).count()
        };
        ClusterFigures {
            generation: record.generation,
            slots_served: record.served(),
            primaries: published(Some(ClusterRole::Primary)),
            replicas: published(Some(ClusterRole::Replica)),
            unfit: published(None),
            voters,
            answering,
            paused,
        }
    }

    /// What operators are told of it.
    pub fn shown(&self) -> ClusterStatus {
        let record = self.store.as_ref().and_then(ClusterStore::record);
        let said = |about: Topic| self.problems.get(&about).map(|said| said.text.clone());
        let other = || said(Topic::Duties).or_else(|| said(Topic::Consul));
        let held = said(Topic::Names);
        let hears = AgentHears {
            answering: self.judged.as_ref().map_or(0, |judged| judged.answering),
            held: if record.is_none() { other().or(held) } else { held },
            left_undone: self.left_undone.clone().filter(|_| record.is_some()),
        };
        let mut status = cluster_status(&self.policy, self.store.as_ref(), None, Some(&hears));
        status.note_ends(&self.processes);
        status.note_pause(self.pause.clone());
        status
    }

    /// Takes what happened, and says what to do.
    pub fn on(&mut self, input: ClusterInput, now: Now) -> Vec<ClusterOutput> {
        let mut outputs = Vec::new();
        let mut is_news = true;
        match input {
            ClusterInput::Seeds(seeds) => self.seeds = seeds,
            ClusterInput::Node(address, reading) => {
                is_news = self.see(address, reading, now.mono) || !self.looked;
                is_news |= self.settles.is_some() && self.pending.is_empty();
            }
            ClusterInput::Watched(store) => self.watched(store, now.mono, &mut outputs),
            ClusterInput::Consistent(store) => {
                self.reads.store = None;
                self.confirmed(store, now.mono, &mut outputs);
            }
            ClusterInput::Rows(rows) => {
                // Those of before the last write say nothing: they are asked for again.
                let fresh = rows.asked > self.stored;
                let wait = if fresh { CLUSTER_AUDIT_MS } else { 1 };
                self.reads.rows = Some(now.mono.plus_ms(wait));
                if self.rows.as_ref().is_none_or(|known| known.asked <= rows.asked) {
                    self.rows = Some(rows);
                }
            }
            ClusterInput::ReadFailed => {
                let again = now.mono.plus_ms(AGAIN_MS);
                self.reads.store = self.reads.store.map(|_| again);
                self.reads.rows = Some(again);
            }
            ClusterInput::ConsulSilent => drop(self.reads.store.get_or_insert(now.mono)),
            ClusterInput::Written(outcome) => self.written(outcome, now, &mut outputs),
            ClusterInput::Process(address, state) => {
                self.process(address, state, now.mono, &mut outputs);
            }
            ClusterInput::Told(order, result) => self.was_told(&order, result, now, &mut outputs),
            ClusterInput::Others(others) => self.others = others,
            ClusterInput::Look => self.hurry(now.mono),
            ClusterInput::Tick => {}
        }
        if is_news {
            self.ask(now.mono, &mut outputs);
            self.decide(now, &mut outputs);
            self.retract_unattended(now.mono, &mut outputs);
        }
        outputs
    }

    /// Deletes the key of a node whose agent has been away for as long as a dead member is: one at a time, and not where
    /// it has changed since.
    fn retract_unattended(&mut self, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        let (Some(store), None) = (&self.store, self.reads.store) else { return };
        let duties = self.policy.duties;
        let Some(after_ms) = duties.forget_after_ms.filter(|_| duties.manage) else { return };
        let away: BTreeSet<(Address, u64)> =
            store.unattended().map(|(at, index)| (at.clone(), index)).collect();
        self.unattended.retain(|key, _| away.contains(key));
        for key in away {
            self.unattended.entry(key).or_insert(now);
        }
        let due = self.unattended.iter_mut().find(|(_, since)| now - **since >= after_ms);
        let Some(((address, _), since)) = due else { return };
        // It is gone from the keys by then.
        *since = now;
        let Some(ops) = retract(&self.policy.layout, &store.announcements, address) else { return };
        let agent = store.announcements.get(address).map(|found| found.node.agent.as_str());
        let text = format!(
            "agent {}, which said that it is beside {address}, has been away for {} s: its word is deleted",
            agent.unwrap_or_default(),
            after_ms / 1_000
        );
        outputs.extend([say(LogLevel::Info, text), ClusterOutput::Retract(ops)]);
    }

    /// Everything is asked at once, and often for a while.
    fn hurry(&mut self, now: Mono) {
        self.quick_until = now.plus_ms(QUICK_FOR_MS);
        self.next_ask = self.next_ask.min(now.plus_ms(ASK_QUICK_MS));
        self.next_all = self.next_all.min(now);
    }

    /// Takes a reading. Whether it says something else than the one before: the same again is no reason to decide.
    fn see(&mut self, address: Address, reading: NodeReading, now: Mono) -> bool {
        let NodeReading { asked, answer } = reading;
        let seen = NodeSeen { asked, answer: None, missing: None, refused_since: None };
        if !self.followed.contains(&address) {
            return false;
        }
        self.pending.remove(&address);
        let seen = self.nodes.entry(address).or_insert(seen);
        if asked < seen.asked {
            return false;
        }
        let before = seen.answer.as_ref().filter(|_| seen.missing.is_none());
        let is_news = match (&answer, before) {
            (Ok(answer), Some((_, before))) => answer != before,
            (Ok(_), None) => true,
            (Err(missing), _) => seen.missing.as_ref() != Some(missing),
        };
        let is_lost = answer.is_err() && before.is_some();
        let hint = match (&answer, before) {
            (Ok(answer), Some((_, before))) => {
                answer.state_ok != before.state_ok || answer.table != before.table
            }
            (Ok(_), None) => true,
            (Err(_), before) => before.is_some(),
        };
        seen.asked = asked;
        let refused = matches!(answer, Err(NoAnswer::Refused(_)));
        let first = refused && seen.refused_since.is_none() && seen.answer.is_some();
        seen.refused_since = seen.refused_since.or(Some(asked)).filter(|_| refused);
        match answer {
            Ok(answer) => {
                // It was started again.
                let own = &answer.table.own;
                self.deaths.retain(|id, death| id != own || asked <= death.at);
                (seen.answer, seen.missing) = (Some((asked, answer)), None);
            }
            Err(missing) => seen.missing = Some(missing),
        }
        if hint {
            self.hurry(now);
        }
        if first {
            self.next_ask = self.next_ask.min(now.plus_ms(REFUSED_AGAIN_MS));
        }
        if is_lost {
            self.settles = None;
            self.pending.clear();
        } else if is_news && !self.pending.is_empty() {
            self.settles.get_or_insert(now.plus_ms(SETTLE_MS));
        }
        is_news
    }

    /// Takes what the kernel tells. Once it tells of an end, every node is asked.
    fn process(
        &mut self,
        at: Address,
        state: ProcessState,
        now: Mono,
        outputs: &mut Vec<ClusterOutput>,
    ) {
        let text = match &state {
            ProcessState::Watched { pid, .. } => {
                format!("the end of process {pid} of {at} would be seen at once")
            }
            ProcessState::Unseen(why) => {
                format!("the end of {at} would not be seen at once, but by what it refuses: {why}")
            }
            ProcessState::Ended(Death { pid, .. }) => format!("process {pid} of {at} has ended"),
        };
        if self.processes.get(&at) != Some(&state) {
            outputs.push(say(LogLevel::Info, text));
        }
        if let ProcessState::Ended(death) = &state {
            let last = self.nodes.get(&at).and_then(|seen| seen.answer.as_ref());
            // One that has answered since was started again.
            if let Some((_, answer)) = last.filter(|(asked, _)| *asked <= death.at) {
                self.deaths.insert(answer.table.own.clone(), death.clone());
            }
            self.hurry(now);
            self.next_ask = now;
        }
        self.processes.insert(at, state);
    }

    /// An older state is that of a server that lags, or of a Consul that was wiped: a consistent read tells.
    fn watched(&mut self, store: ClusterStore, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        let generation = store.record().map_or(0, |record| record.generation);
        self.generation = self.generation.max(generation);
        match &self.store {
            Some(known) if store.index < known.index => {
                self.reads.store.get_or_insert(now);
            }
            // It may be this agent's own write, of which the answer is on its way.
            Some(_) if self.sent.is_some() => self.late = Some(store),
            _ => self.take(store, now, outputs),
        }
    }

    /// What the leader has confirmed, unless more has been written since it was asked.
    fn confirmed(&mut self, store: ClusterStore, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        let known = self.store.as_ref();
        match known.is_some_and(|known| store.index < known.index) && store.asked < self.stored {
            true => self.reads.store = Some(now),
            false => self.take(store, now, outputs),
        }
    }

    /// Goes by what another agent may have written.
    fn take(&mut self, store: ClusterStore, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        self.compared = None;
        let known = self.store.as_ref();
        if known.is_some_and(|known| known.index == store.index) {
            self.store = Some(store);
            return;
        }
        let before = known.and_then(ClusterStore::record);
        let record = store.record();
        let fit = |record: Option<&ClusterRecord>, id: &NodeId| {
            record.and_then(|record| record.nodes.get(id)).is_some_and(|node| node.fit)
        };
        let back = self.silenced.iter().filter(|id| fit(record, id)).cloned();
        let back: BTreeSet<NodeId> = back.collect();
        self.silenced.retain(|id| !back.contains(id));
        self.overruled.extend(back);
        let doubts = |record: Option<&ClusterRecord>| {
            let unheard = record.and_then(|record| record.unheard.as_ref());
            unheard.is_some_and(|unheard| unheard.by == self.policy.agent)
        };
        if doubts(before)
            && !doubts(record)
            && record.is_some_and(|r| r.nodes.values().any(|n| n.fit))
        {
            self.others_hear = self.unheard_since.is_some();
        }
        (self.changed, self.stored) = (now, now);
        self.adopt(store, now, outputs);
        self.hurry(now);
        self.next_ask = now;
        self.reads.rows = Some(now.plus_ms(1));
    }

    /// Makes it what is known, and says what is new.
    fn adopt(&mut self, store: ClusterStore, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        self.compared = None;
        let before = self.store.as_ref().and_then(ClusterStore::record);
        if let Some(record) = store.record() {
            self.generation = self.generation.max(record.generation);
            let lines = differences(before, record);
            let (generation, by) = (record.generation, &record.by);
            let more = lines.len().saturating_sub(LINES_MAX);
            // What was there before this agent is of no interest.
            for line in lines.iter().take(LINES_MAX).filter(|_| self.store.is_some()) {
                outputs
                    .push(say(LogLevel::Info, format!("generation {generation} by {by}: {line}")));
            }
            if more > 0 && self.store.is_some() {
                outputs.push(say(LogLevel::Info, format!("generation {generation}: {more} more")));
            }
            let served = record.served();
            let all = served == SLOTS;
            if self.served_all != Some(all) {
                let level = if all { LogLevel::Info } else { LogLevel::Warn };
                let text =
                    format!("{served} of {SLOTS} slots are served (generation {generation})");
                outputs.push(say(level, text));
                self.served_all = Some(all);
            }
        }
        let claims = store.record().map(|record| record.claims.clone()).unwrap_or_default();
        if claims != self.claims.0 {
            let lines = claims.differ_in_words(&self.claims.0);
            outputs.extend(lines.into_iter().map(|line| say(LogLevel::Info, line)));
            self.note_hastened(&store, &claims, now, outputs);
            self.claims = (claims, now);
        }
        let unheard = store.record().is_some_and(|record| record.unheard.is_some());
        self.unheard_said = unheard.then(|| self.unheard_said.unwrap_or(now));
        self.note_replaced(&store, now, outputs);
        self.store = Some(store);
    }

    fn written(&mut self, outcome: Outcome, now: Now, outputs: &mut Vec<ClusterOutput>) {
        let Some(Sent { record, silent }) = self.sent.take() else { return };
        match outcome {
            Outcome::Committed { index } => {
                self.stored = now.mono;
                self.reads.rows = Some(now.mono.plus_ms(1));
                let Some(record) = record else { return self.repaired(now.mono, outputs) };
                let fit = |id: &NodeId| record.nodes.get(id).is_some_and(|node| node.fit);
                self.silenced = silent.into_iter().filter(|id| !fit(id)).collect();
                let plain = plain_after(self.store.as_ref(), &record);
                let state = StoredCluster::Known(Box::new(record));
                let before = self.store.as_ref();
                let announced = before.map(|store| store.announced.clone()).unwrap_or_default();
                let announcements = before.map(|store| store.announcements.clone());
                let announcements = announcements.unwrap_or_default();
                let asked = now.mono;
                let store = ClusterStore { asked, state, index, plain, announced, announcements };
                self.adopt(store, now.mono, outputs);
                self.hurry(now.mono);
            }
            Outcome::Lost => self.reads.store = Some(now.mono),
            Outcome::Refused(why) => {
                self.next_write = now.mono.plus_ms(AGAIN_MS);
                self.reads.store = Some(now.mono.plus_ms(AGAIN_MS));
                let text = format!("Consul refuses what is to be written: {why}");
                self.complain(Topic::Consul, text, now, outputs);
            }
            Outcome::Unknown(why) => {
                self.reads.store = Some(now.mono.plus_ms(ASK_QUICK_MS));
                outputs.push(say(LogLevel::Debug, format!("the write has no answer: {why}")));
            }
        }
        self.take_late(now.mono, outputs);
    }

    /// What was put back is taken to be there until it is read.
    fn repaired(&mut self, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        if let Some(store) = &mut self.store
            && let Some(plain) = store.record().map(|record| plain_after(Some(&*store), record))
        {
            store.plain = plain;
        }
        self.take_late(now, outputs);
    }

    fn take_late(&mut self, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        if let Some(late) = self.late.take() {
            self.watched(late, now, outputs);
        }
    }

    /// Says a problem, and not too often.
    fn complain(&mut self, about: Topic, text: String, now: Now, outputs: &mut Vec<ClusterOutput>) {
        let due = self.problems.get(&about).is_none_or(|said| {
            let gap = if said.text == text { SAID_AGAIN_MS } else { SAID_GAP_MS };
            now.mono - said.at >= gap
        });
        if due {
            outputs.push(say(LogLevel::Warn, text.clone()));
            self.problems.insert(about, Said { text, at: now.mono });
        }
    }

    /// Where it begins to look: the seeds, and the nodes that agents stand beside.
    fn places(&self) -> BTreeSet<Address> {
        let announced = self.store.iter().flat_map(|store| store.announced.keys());
        self.seeds.iter().chain(announced).cloned().collect()
    }

    /// Follows the nodes that are known, and asks what is due.
    fn ask(&mut self, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        let record = self.store.as_ref().and_then(ClusterStore::record);
        let seeds = self.places();
        let mut known = seeds.clone();
        known.extend(record.into_iter().flat_map(|r| r.nodes.values()).map(|n| n.address.clone()));
        // Those that were forgotten may come back.
        let left = record.into_iter().flat_map(|record| record.claims.left.values());
        known.extend(left.map(|left| left.address.clone()));
        let own: BTreeSet<&NodeId> =
            record.map(|record| record.nodes.keys().collect()).unwrap_or_default();
        // What a node of another cluster knows is none of this one.
        let led = if own.is_empty() { led_to(&seeds, &self.nodes) } else { BTreeSet::new() };
        let answers =
            self.nodes.iter().filter_map(|(at, seen)| Some((at, &seen.answer.as_ref()?.1)));
        let members = answers
            .filter(|(at, answer)| own.contains(&answer.table.own) || led.contains(*at))
            .map(|(_, answer)| answer);
        let named = members.flat_map(|answer| answer.table.rows.values());
        known.extend(named.filter_map(|row| row.address.clone()));
        let known: BTreeSet<Address> = known.into_iter().take(NODES_MAX).collect();
        if known != self.followed {
            self.nodes.retain(|address, _| known.contains(address));
            outputs.push(ClusterOutput::Follow(known.clone()));
            self.followed = known;
        }
        for (due, output) in [
            (&mut self.reads.store, ClusterOutput::ReadStore),
            (&mut self.reads.rows, ClusterOutput::ReadRows),
        ] {
            if due.is_some_and(|at| at <= now) {
                // Until it is answered, or failed.
                *due = Some(now.plus_ms(CLUSTER_AUDIT_MS));
                outputs.push(output);
            }
        }
        if now < self.next_ask {
            return;
        }
        let all = now >= self.next_all;
        let votes = |seen: &NodeSeen| {
            let own = seen.answer.as_ref().and_then(|(_, answer)| answer.table.own_row());
            own.is_none_or(|row| !row.slots.is_empty())
        };
        let full = self.followed.iter().filter(|at| all || self.nodes.get(at).is_none_or(votes));
        outputs.push(ClusterOutput::Ask(full.cloned().collect()));
        self.pending = self.followed.clone();
        if all {
            self.next_all = now.plus_ms(ASK_ALL_MS);
        }
        let nodes = u64::try_from(self.followed.len()).unwrap_or(u64::MAX);
        let open = self.served_all == Some(false);
        let quick = match open {
            true => nodes.saturating_mul(OPEN_PER_NODE_MS).clamp(ASK_OPEN_MS, ASK_MS),
            false => nodes.saturating_mul(QUICK_PER_NODE_MS).clamp(ASK_QUICK_MS, ASK_MS),
        };
        let every = if now < self.quick_until { quick } else { ASK_MS };
        self.next_ask = now.plus_ms(every);
    }

    /// Each node was asked since the record last changed, but for those that gave no answer.
    fn has_looked(&self) -> bool {
        let late = |seen: &NodeSeen| seen.missing.is_none() && seen.asked < self.changed;
        self.followed.iter().all(|at| self.nodes.get(at).is_some_and(|seen| !late(seen)))
    }

    fn decide(&mut self, now: Now, outputs: &mut Vec<ClusterOutput>) {
        let whole = self.has_settled(now.mono);
        let Some(store) = self.store.as_ref().filter(|_| whole || !self.deaths.is_empty()) else {
            return;
        };
        let seeds = self.places();
        let maintenance = store.maintenance();
        let unread = maintenance.as_ref().err().map(|why| {
            format!("key {MAINTENANCE} cannot be read, and no node is in maintenance: {why}")
        });
        let maintenance = maintenance.unwrap_or_default().into_keys().collect();
        let agents: BTreeSet<String> = store.agents().map(str::to_owned).collect();
        let pause = store.paused(now.wall);
        let view = ClusterView {
            paused: pause.is_some(),
            maintenance: &maintenance,
            policy: &self.policy,
            record: store.record(),
            nodes: &self.nodes,
            announced: &store.announced,
            agents: &agents,
            seeds: &seeds,
            changed: self.changed,
            overruled: &self.overruled,
            unheard_since: self.unheard_since,
            unheard_said: self.unheard_said,
            others_hear: self.others_hear,
            deaths: &self.deaths,
            others: &self.others,
            generation: self.generation,
            now,
        };
        let renewed = renew(&view);
        if !whole {
            let claimed = claim_death(&view, &renewed, &self.duties);
            if let Some(claimed) = claimed.filter(|_| self.may_write(now.mono)) {
                self.write(claimed, self.silenced.clone(), now, outputs);
            }
            return;
        }
        let due = due(&view, &renewed, now.mono - self.claims.1, &mut self.duties);
        let Renewed { record, held, judged, silent } = with_claims(&view, renewed, due.claims);
        self.overruled.retain(|id| silent.contains(id));
        match &judged {
            Some(_) => {
                self.others_hear = false;
                if self.unheard_since.take().is_some() {
                    // The first ones that are heard again are a majority before all of them are.
                    self.changed = now.mono;
                    self.next_ask = now.mono;
                    self.looked = false;
                    return self.ask(now.mono, outputs);
                }
            }
            None => drop(self.unheard_since.get_or_insert(now.mono)),
        }
        let record = record.filter(|wanted| !self.is_early(judged.as_ref(), wanted, now.mono));
        self.judged = judged;
        self.say_held(held, now, outputs);
        self.note_left(due.left, outputs);
        let obstacle = due.obstacle.or(unread);
        self.left_undone.clone_from(&obstacle);
        self.note_pause(pause, outputs);
        let obstacle = self.pause.as_ref().map(ToString::to_string).or(obstacle);
        match obstacle {
            Some(obstacle) => self.complain(Topic::Duties, obstacle, now, outputs),
            None => drop(self.problems.remove(&Topic::Duties)),
        }
        self.tell(due.orders, now.mono, outputs);
        if let Some(wanted) = record.filter(|_| self.may_write(now.mono)) {
            self.write(wanted, silent, now, outputs);
        }
    }

    /// That it is paused is said when it begins and when it ends.
    fn note_pause(&mut self, pause: Option<PauseStatus>, outputs: &mut Vec<ClusterOutput>) {
        if self.pause.is_some() && pause.is_none() {
            let text = "the pause is over: agents do again what is wanted of the nodes";
            outputs.push(say(LogLevel::Info, text.to_owned()));
        }
        self.pause = pause;
    }

    /// The tables of a moment are here, and each node has been asked since the record last changed.
    fn has_settled(&mut self, now: Mono) -> bool {
        let settled = self.settles.is_none_or(|at| at <= now || self.pending.is_empty());
        if settled {
            self.settles = None;
            self.looked = self.has_looked();
        }
        settled && self.looked && !self.followed.is_empty()
    }

    fn may_write(&self, now: Mono) -> bool {
        self.sent.is_none() && self.reads.store.is_none() && now >= self.next_write
    }

    /// A cluster that is being made has slots that no node owns: it is recorded when it is whole, or stays as it is. One
    /// that agents are to make is theirs to make.
    fn is_early(&mut self, judged: Option<&Judgement>, wanted: &ClusterRecord, now: Mono) -> bool {
        let known = self.store.as_ref().and_then(ClusterStore::record);
        let begins = known.is_none_or(|record| record.nodes.is_empty());
        let partial = judged.is_some_and(|judged| !judged.unowned.is_empty());
        if !begins || !partial || !wanted.claims.is_none() {
            self.partial_since = None;
            return false;
        }
        let since = *self.partial_since.get_or_insert(now);
        self.policy.duties.make.is_some() || now - since < WHOLE_WITHIN_MS
    }

    /// Tells what has not been told a moment ago. Nothing is told by a record that Consul may not hold any more, but that
    /// nodes are to wait as before.
    fn tell(&mut self, orders: Vec<NodeOrder>, now: Mono, outputs: &mut Vec<ClusterOutput>) {
        self.told.retain(|_, at| now - *at < TOLD_AGAIN_MS);
        let unsure = self.reads.store.is_some();
        for order in orders {
            if self.told.contains_key(&order) || (unsure && !order.command.undoes()) {
                continue;
            }
            let text = format!("{} ({}) is told: {}", order.to, order.id, order.command);
            let until = now.plus_ms(order.command.within_ms());
            outputs.extend([say(LogLevel::Info, text), ClusterOutput::Tell(order.clone(), until)]);
            self.told.insert(order, now);
        }
    }

    /// What it has changed is looked at.
    fn was_told(
        &mut self,
        order: &NodeOrder,
        result: Result<(), String>,
        now: Now,
        outputs: &mut Vec<ClusterOutput>,
    ) {
        if let Err(why) = result {
            let NodeOrder { to, id, command } = order;
            let text = format!("{to} ({id}) was told in vain: {command}: {why}");
            self.complain(Topic::Told, text, now, outputs);
        }
        self.hurry(now.mono);
    }

    fn say_held(&mut self, held: Option<Held>, now: Now, outputs: &mut Vec<ClusterOutput>) {
        let lasts = self.unheard_since.is_none_or(|at| now.mono - at >= ASK_MS);
        match held {
            Some(held) if lasts => {
                let text = format!("{HELD}: {held}");
                self.complain(Topic::Names, text, now, outputs);
            }
            Some(_) => {}
            None => {
                if self.problems.remove(&Topic::Names).is_some() {
                    let text = "a majority of the voters is heard, and followed".to_owned();
                    outputs.push(say(LogLevel::Info, text));
                }
            }
        }
    }

    /// Writes what is wanted, or puts back what another program has changed.
    fn write(
        &mut self,
        wanted: ClusterRecord,
        silent: BTreeSet<NodeId>,
        now: Now,
        outputs: &mut Vec<ClusterOutput>,
    ) {
        let (Some(store), Some(rows)) = (&self.store, &self.rows) else { return };
        let (layout, record) = (&self.policy.layout, store.record());
        if let Some(why) = self.obstacle(store, rows) {
            return self.complain(Topic::Consul, why, now, outputs);
        }
        if record == Some(&wanted) && self.compared == Some(rows.asked) {
            return;
        }
        let fresh = rows.asked > self.stored;
        let shown = record.map(|record| project(record).rows);
        let found = Found {
            rows: if fresh { rows.found.as_ref() } else { shown.as_ref() },
            plain: &store.plain,
            leftovers: fresh && record.is_none(),
        };
        let key = layout.state();
        if record == Some(&wanted) {
            let mut ops = ops_to(layout, &found, &wanted);
            self.compared = ops.is_empty().then_some(rows.asked);
            // Where Consul keeps something else than was written, it is not written over and over.
            if ops.is_empty() || now.mono - self.stored < CALM_WRITE_MS {
                return;
            }
            ops.insert(0, Op::KeyCheckIndex { key, index: store.index });
            ops.truncate(TXN_OPS_MAX);
            let text = "rows or keys in Consul are not what was published: put back".to_owned();
            outputs.extend([say(LogLevel::Info, text), ClusterOutput::Write(ops)]);
            self.sent = Some(Sent { record: None, silent });
            return;
        }
        let calm = record.is_some_and(|r| {
            r.names_as(&wanted) && r.unheard == wanted.unheard && r.claims == wanted.claims
        });
        if (calm && now.mono - self.stored < CALM_WRITE_MS) || (record.is_none() && !fresh) {
            return;
        }
        let (record, mut ops) = match step(layout, &found, record, &wanted) {
            Some((record, ops)) => (Some(record), ops),
            // There is more to repair than one transaction has room for.
            None => (None, record.map(|r| ops_to(layout, &found, r)).unwrap_or_default()),
        };
        let index = store.index;
        let state = record.as_ref().map(|r| serde_json::to_string(r).unwrap_or_default());
        let fence = match state {
            Some(value) => Op::KeyCas { key, index, value },
            None => Op::KeyCheckIndex { key, index },
        };
        ops.insert(0, fence);
        ops.truncate(TXN_OPS_MAX);
        outputs.push(ClusterOutput::Write(ops));
        self.sent = Some(Sent { record, silent });
    }

    /// Why nothing may be written at all.
    fn obstacle(&self, store: &ClusterStore, rows: &RowsAnswer) -> Option<String> {
        let ClusterPolicy { service, layout, .. } = &self.policy;
        let node = layout.node();
        if let StoredCluster::Unreadable(why) = &store.state {
            return Some(format!("key {} is left alone: {why}", layout.state()));
        }
        if rows.is_anothers(layout) {
            return Some(format!("node {node} in Consul is another's: nothing is published"));
        }
        let others: Vec<&str> = rows
            .others
            .iter()
            .filter(|n| !n.eq_ignore_ascii_case(&node))
            .map(String::as_str)
            .collect();
        (store.record().is_none() && !others.is_empty()).then(|| {
            let (name, nodes) = (service.primary(), others.join(", "));
            format!("service {name} is already on node {nodes}: nothing is published beside it")
        })
    }
}

/// What is begun is part of what is recorded; while a cluster is made, it is all of it.
fn with_claims(view: &ClusterView<'_>, renewed: Renewed, claims: Claims) -> Renewed {
    let making = claims.making.is_some();
    let known = || view.record.cloned();
    let record = match renewed.record {
        Some(record) if !making => Some(record),
        _ if !claims.is_none() => Some(known().unwrap_or_else(|| nothing_yet(view))),
        other => other,
    };
    let record = record.map(|record| ClusterRecord { claims, ..record });
    Renewed { record, ..renewed }
}

fn say(weight: LogLevel, text: String) -> ClusterOutput {
    ClusterOutput::Say(LogLine { weight, text })
}
