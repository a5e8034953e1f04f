//! One group's loop, as a state machine without I/O: readings in, things to do out.
//!
//! The agent runs it over real connections; the simulation runs thousands of it over a scripted world.
//! Whatever arrives only wakes it: it decides anew from everything it knows each time.

mod deaths;
mod flight;
mod narrate;
mod notices;
mod pace;

use std::collections::{BTreeMap, BTreeSet};

use self::flight::InFlight;
pub use self::flight::{
    FOLLOW_UP_WITHIN_MS, FORGET_WITHIN_MS, REFUSED_PAUSE_MS, REPLACE_WITHIN_MS, WRITE_ANSWER_MAX_MS,
};
pub use self::narrate::OBSTACLE_SAID_AFTER_MS;
use self::narrate::{LinePace, Obstacles, OpenProblems, change_line, say};
pub use self::notices::{
    BEHIND_MS, GONE_FOR_MS, NoticeKeeper, NoticeOutput, PASS_ON_MS, UNNOTED_FOR_MS,
};
pub use self::pace::{CHASE_MS, TICK_MS, URGENT_FOR_MS};
use crate::decide::{Decision, decide};
use crate::duty::action::{Action, Promote, Write};
use crate::duty::fence::Fence;
use crate::duty::hold::Hold;
use crate::duty::mark::Marking;
use crate::duty::relay::{Relay, election};
use crate::duty::sentinels::Reconfigure;
use crate::duty::stale_peers::Forget;
use crate::duty::zone_order::Prioritize;
use crate::identity::address::{Address, ServiceName};
use crate::identity::mark::FailedMark;
use crate::known::conditions::conditions;
use crate::known::memory::{Condition, FailedPriority, Memory};
use crate::known::observed::GaveUp;
use crate::known::observed::{
    Death, DeathSign, InstanceAnswer, Observed, ProcessState, Reading, Refusal, RowsAnswer,
    SentinelAnswer, StoreAnswer, StoredState,
};
use crate::known::view::{Derived, View};
use crate::policy::{ANSWER_AGE_MAX_MS, DEATH_KNOWN_MS, HOLD_MS, Policy};
use crate::published::projection::{Layout, Op};
use crate::published::record::Change;
use crate::published::replicas::InstanceRows;
use crate::published::store::AgentClock;
use crate::shown::reasons::NotFast;
use crate::shown::status::{GroupStatus, Problem, ProblemCode, assess, problems, standing};
use crate::situation::data_loss::{Detach, Replace, WhyReplace};
use crate::situation::election::Tally;
use crate::time::{Mono, Now};
use deaths::Voting;

/// How long it is remembered that a Sentinel was dismissed, in ms: no report waits in a queue for longer.
pub const DISMISSED_FOR_MS: u64 = 60_000;
/// How long after it was decided a Sentinel is still told how an election ended, in ms: it is decided anew after
/// [`RELAY_AGAIN_MS`](crate::policy::RELAY_AGAIN_MS).
pub const RELAY_WITHIN_MS: u64 = 500;

/// How long after it was decided a priority is still set, in ms.
pub const PRIORITY_WITHIN_MS: u64 = 1_000;

/// A decision stands for so long at the most, in ms, where nothing is different: what depends on the time alone is in no
/// hurry.
pub const DECIDED_ANEW_MS: u64 = 10_000;
/// Without an input for so long the agent itself stood still, in ms.
const STOOD_STILL_MS: u64 = 3_000;

/// What a shell hands in: a reading, the end of a command, or the time.
#[derive(Debug, Clone)]
pub enum Input {
    /// A Sentinel answered, or failed to.
    Sentinel(Address, Reading<SentinelAnswer>),
    /// A Sentinel is no longer among those to ask.
    SentinelGone(Address),
    /// An instance answered, or failed to.
    Instance(Address, Reading<InstanceAnswer>),
    /// The group's keys, from the watch.
    Watched(StoreAnswer),
    /// The group's keys, from a read that the leader confirmed.
    Consistent(StoreAnswer),
    /// Consul did not answer the watch: it may be another one, or a restored one, when it is back.
    ConsulSilent,
    /// The rows of the group's node.
    Rows(RowsAnswer),
    /// The instances registered for the group.
    Registered(BTreeSet<Address>),
    /// A Sentinel says that it has given up a failover.
    GaveUp(Address, GaveUp),
    /// An instance has closed its connection and refuses this agent's since; `None`: it does not refuse any more, or
    /// something else is in the way.
    Refused(Address, Option<Refusal>),
    /// What the kernel tells of the process of an instance on this host.
    Process(Address, ProcessState),
    /// The Sentinel that was asked to replace a primary whose process (`run_id`) had ended begins no failover: its
    /// words.
    NotBegun(Replace, String),
    /// A Sentinel was told to wait for a moment only, and has said that it does.
    Hurried(Address),
    /// How the mark in the data set was written: whether it was, or the words of the instance.
    Marked(Marking, Result<bool, String>),
    /// How a priority was set: whether it was, or the words of the instance.
    Prioritized(Prioritize, Result<bool, String>),
    /// DNS answers what was published with this generation.
    SeenInDns(u64),
    /// How the write with this number ended.
    Written(u64, Outcome),
    /// The write with this number was not sent: it has waited for others for so long that what it rests on is to be
    /// looked at anew.
    NotSent(u64),
    /// A second passed: what is due is looked at.
    Tick,
    /// Look at everything now: SIGHUP asks for it.
    Look,
    /// What is wanted of the group has changed.
    Policy(Box<Policy>),
}

/// How a transaction in Consul ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Applied, all of it.
    Committed {
        /// The new ModifyIndex of `state`.
        index: u64,
    },
    /// Not applied: another agent was first.
    Lost,
    /// Not applied: Consul will not have it.
    Refused(String),
    /// Applied or not: the answer was lost.
    Unknown(String),
}

impl Outcome {
    /// As the label `outcome` of the metrics has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::Lost => "lost",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// What the loop wants a shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Ask every Sentinel.
    AskSentinels,
    /// Ask these instances.
    Probe(BTreeSet<Address>),
    /// Stay connected to exactly these instances.
    Follow(BTreeSet<Address>),
    /// Read the group's keys with the leader's confirmation.
    ReadStore,
    /// Read the rows of the group's node.
    ReadRows,
    /// Send this transaction and report its [`Outcome`] under this number.
    Write(u64, Box<Write>),
    /// Send a part of a transaction that was committed once more, for Consul's followers: it fails, for `state` has moved
    /// on, and changes nothing. How it ends is of no interest.
    FollowUp(Vec<Op>),
    /// Hold an instance's writes.
    Hold(Hold),
    /// Turn a stray primary into a replica of the writer.
    Fence(Fence),
    /// Have an instance keep its data instead of copying a primary that has none.
    Detach(Detach),
    /// Make a replica the first primary.
    Promote(Promote),
    /// Write the mark into the writer's data set, and report how that ended.
    Mark(Marking),
    /// Set a replica's priority, unless it is later than this, and report how that ended.
    Prioritize(Prioritize, Mono),
    /// Tell a Sentinel how an election ended, unless it is later than this.
    Relay(Relay, Mono),
    /// Change what a Sentinel monitors, or its settings, unless it is later than this.
    Reconfigure(Reconfigure, Mono),
    /// Have a Sentinel forget its stale peers, unless it is later than this.
    Forget(Forget, Mono),
    /// Another generation is in Consul.
    Published(Box<Published>),
    /// Ask a Sentinel for a failover, unless it is later than this.
    Replace(Replace, Mono),
    /// Have this agent's key say this of its clock.
    ShowClock(AgentClock),
    /// What became of a process whose end this agent has seen, or takes for ended.
    Died(DeathSign, Aftermath),
    /// Write to the log.
    Say(LogLine),
}

/// What becomes of the writer's death once it was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// A Sentinel is asked for a failover.
    Asked,
    /// It has refused.
    Refused,
    /// The Sentinels are to look for themselves, and to vote.
    Voting,
    /// They have left the writer in its place.
    Stayed,
    /// It is left to the Sentinels, for this reason
    /// ([`WhyNotFast::as_str`](crate::shown::reasons::WhyNotFast::as_str)).
    Left(&'static str),
    /// Another writer is published, so many ms after the death.
    Replaced(u64),
}

impl Aftermath {
    /// As the label `outcome` of the metrics has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Refused => "refused",
            Self::Voting => "voting",
            Self::Stayed => "stayed",
            Self::Left(why) => why,
            Self::Replaced(_) => "replaced",
        }
    }
}

/// A generation that is in Consul now.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The generation, which never decreases.
    pub generation: u64,
    /// The service it is published as.
    pub service: ServiceName,
    /// The writer; `None` when there is none.
    pub writer: Option<Address>,
    /// When the writer was first seen to be a primary, where this agent saw that.
    pub promoted: Option<Mono>,
    /// When this agent learnt that it is in Consul.
    pub at: Mono,
    /// This agent published it.
    pub ours: bool,
    /// The changes that led to it, newest first.
    pub history: Vec<Change>,
}

/// One line of the log, without group and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The level that the line is logged at.
    pub weight: LogLevel,
    /// The words of the line.
    pub text: String,
}

/// The level of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For finding errors.
    Debug,
    /// A decision that changed something.
    Info,
    /// Something a person should look at.
    Warn,
}

/// One group's loop as a state machine: [`Input`]s in, [`Output`]s out.
pub struct GroupLoop {
    policy: Policy,
    layout: Layout,
    memory: Memory,
    observed: Observed,
    in_flight: Option<InFlight>,
    known: BTreeSet<Address>,
    following: BTreeSet<Address>,
    /// The Sentinels that are not asked any more, and since when.
    dismissed: BTreeMap<Address, Mono>,
    paused_until: Mono,
    urgent_since: Option<Mono>,
    /// Consul has been away since it was last read. A wiped one counts its indexes from the start, so the index
    /// alone would not keep a write for the old one out.
    doubtful: bool,
    /// In node mode: no majority of the Sentinels answers.
    blind: bool,
    next_look: Mono,
    next_chase: Mono,
    next_audit: Mono,
    /// The rows were read, and the next audit is in the group's turn.
    audited: bool,
    /// When the last input came.
    turned: Mono,
    /// When this agent last went on after it had stood still.
    woke: Mono,
    obstacles: Obstacles,
    /// What has been said that still is so.
    standing: BTreeSet<(ProblemCode, Address)>,
    noted: OpenProblems,
    /// Lines on changes of rows, and on what was put back.
    rows_line: LinePace,
    repair_line: LinePace,
    /// The death of which it was said why it is left to the Sentinels.
    not_fast: Option<NotFast>,
    /// What this agent had the Sentinels vote on.
    voting: Option<Voting>,
    decision: Option<Decision>,
    /// When it was decided last, where nothing was to be done and nothing stands in the way.
    at_rest: Option<Mono>,
    /// How often it was decided.
    decisions: u64,
    /// It was paused at the last decision.
    paused: bool,
    /// What was wrong when it was last looked for problems.
    problems: Vec<Problem>,
}

impl GroupLoop {
    /// A loop that knows nothing yet.
    pub fn new(policy: Policy, layout: Layout) -> Self {
        Self {
            policy,
            layout,
            memory: Memory::default(),
            observed: Observed::default(),
            in_flight: None,
            known: BTreeSet::new(),
            following: BTreeSet::new(),
            dismissed: BTreeMap::new(),
            paused_until: Mono(0),
            urgent_since: None,
            doubtful: false,
            blind: false,
            next_look: Mono(0),
            next_chase: Mono(0),
            next_audit: Mono(0),
            audited: false,
            turned: Mono(0),
            woke: Mono(0),
            obstacles: Obstacles::default(),
            standing: BTreeSet::new(),
            noted: OpenProblems::default(),
            rows_line: LinePace::default(),
            repair_line: LinePace::default(),
            not_fast: None,
            voting: None,
            decision: None,
            at_rest: None,
            decisions: 0,
            paused: false,
            problems: Vec::new(),
        }
    }

    /// The last reading of each server, and of Consul.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The last decision; `None` before the first input.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// What is wrong, as it was found a second ago at the most.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How often it was decided.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// What a person wants to know, from what is known now.
    pub fn status(&self, now: Now) -> GroupStatus {
        let view = View::new(&self.policy, &self.memory, &self.observed, now);
        match &self.decision {
            Some(decision) => assess(&view, &self.layout, decision),
            None => assess(&view, &self.layout, &decide(&view, &self.layout)),
        }
    }

    /// Takes one input and says what is to be done.
    pub fn on(&mut self, input: Input, now: Now) -> Vec<Output> {
        self.on_all(vec![input], now)
    }

    /// As [`GroupLoop::on`], of several inputs and with one decision: those that came together.
    pub fn on_all(&mut self, inputs: Vec<Input>, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        if now.mono - self.turned >= STOOD_STILL_MS {
            // It ticks every second: this agent stood still, and nothing stood in its way meanwhile.
            self.obstacles.keep_what_was_said();
            self.woke = now.mono;
        }
        self.turned = now.mono;
        for input in inputs {
            self.fold(input, now, &mut out);
        }
        let found = self.remember(now, &mut out);
        self.look(now, &mut out);
        self.act(found, now, &mut out);
        self.follow(&mut out);
        out
    }

    /// As [`GroupLoop::on_all`], for agents of very many groups: what says the same again is taken in, and nothing is
    /// decided where the last decision stands.
    pub fn on_news(&mut self, inputs: Vec<Input>, now: Now) -> Vec<Output> {
        let mut ticks = false;
        let mut news = Vec::new();
        for input in inputs {
            match input {
                Input::Tick => ticks = true,
                input => news.extend(self.note(input, now)),
            }
        }
        let mut out = Vec::new();
        match (news.is_empty(), ticks) {
            (true, false) => {}
            (true, true) if self.stands(now) => {
                self.turned = now.mono;
                self.look(now, &mut out);
            }
            (_, ticks) => {
                news.extend(ticks.then_some(Input::Tick));
                out = self.on_all(news, now);
            }
        }
        out
    }

    /// The last decision stands: it asked for nothing, nothing is different from what it rests on, and nothing lasts that
    /// would count for more by now.
    fn stands(&self, now: Now) -> bool {
        let young = |at: Mono| now.mono - at < DECIDED_ANEW_MS && now.mono >= at;
        let recent = |asked: Mono| now.mono - asked < ANSWER_AGE_MAX_MS;
        self.at_rest.is_some_and(young)
            && self.is_calm(now)
            && now.mono - self.turned < STOOD_STILL_MS
            && self.observed.sentinels.values().all(|reading| recent(reading.asked))
            && self.observed.instances.values().all(|reading| recent(reading.asked))
    }

    /// Takes in a reading that says the same as the one before, and decides nothing. Gives back what is to be decided by
    /// at once.
    fn note(&mut self, input: Input, now: Now) -> Option<Input> {
        let same = match &input {
            Input::Sentinel(address, reading) => {
                self.observed.sentinels.get(address).is_some_and(|old| old.result == reading.result)
            }
            Input::Instance(address, reading) => {
                self.observed.instances.get(address).is_some_and(|old| old.result == reading.result)
            }
            _ => false,
        };
        if !same || !self.is_calm(now) {
            return Some(input);
        }
        self.fold(input, now, &mut Vec::new());
        None
    }

    fn fold(&mut self, input: Input, now: Now, out: &mut Vec<Output>) {
        match input {
            Input::Sentinel(address, reading) => {
                // A question that was on its way when it was dismissed says nothing: it would stay for ever.
                if self.dismissed.get(&address).is_none_or(|at| *at < reading.asked) {
                    self.dismissed.remove(&address);
                    self.observed.see_sentinel(address, reading);
                }
            }
            Input::SentinelGone(address) => {
                self.observed.dismiss_sentinel(&address);
                self.dismissed.retain(|_, at| now.mono - *at < DISMISSED_FOR_MS);
                self.dismissed.insert(address, now.mono);
            }
            Input::Instance(address, reading) => {
                let known = self.observed.instances.get(&address);
                if known.is_none_or(|old| old.asked <= reading.asked) {
                    self.observed.instances.insert(address, reading);
                }
            }
            Input::Watched(answer) => self.fold_watched(answer, now, out),
            Input::Consistent(answer) => self.fold_consistent(answer, now, out),
            Input::ConsulSilent => {
                self.doubtful = true;
                out.push(Output::ReadStore);
            }
            Input::Rows(answer) => self.observed.rows = Some(answer),
            Input::Registered(instances) => self.observed.registered = instances,
            Input::Written(id, outcome) => self.fold_outcome(id, outcome, now, out),
            Input::NotSent(id) => drop(self.in_flight.take_if(|flight| flight.id == id)),
            Input::GaveUp(sentinel, why) => {
                self.memory.gave_up = Some((sentinel, why, now.mono));
            }
            Input::Process(instance, state) => self.fold_process(instance, state, now, out),
            Input::Refused(instance, refusal) => self.fold_refused(instance, refusal, now),
            Input::Hurried(sentinel) => drop(self.memory.hurried.insert(sentinel, now.mono)),
            Input::NotBegun(replace, words) => {
                if let WhyReplace::Died { run_id, .. } = replace.why {
                    self.memory.not_superseded = Some(run_id);
                    let death = self.observed.deaths.get(&replace.primary);
                    out.extend(death.map(|d| Output::Died(d.sign(), Aftermath::Refused)));
                }
                let text = format!(
                    "{}: Sentinel {} begins no failover in the place of {}: {words}",
                    self.policy.group, replace.sentinel, replace.primary
                );
                out.push(say(LogLevel::Warn, text));
            }
            Input::Marked(wanted, outcome) => {
                let Marking { run_id, mark, .. } = wanted;
                self.memory.not_marked =
                    outcome.err().map(|words| FailedMark { run_id, mark, words });
            }
            Input::Prioritized(wanted, outcome) => self.fold_prioritized(wanted, outcome, out),
            Input::SeenInDns(generation) => self.memory.see_in_dns(generation, now),
            Input::Tick => {}
            Input::Look => self.next_look = now.mono,
            Input::Policy(policy) => {
                self.policy = *policy;
                self.next_look = now.mono;
            }
        }
    }

    /// What an operator had set is said.
    fn fold_prioritized(
        &mut self,
        wanted: Prioritize,
        outcome: Result<bool, String>,
        out: &mut Vec<Output>,
    ) {
        let Prioritize { instance, run_id, zone, had, priority, .. } = wanted;
        match outcome {
            Ok(done) => {
                self.memory.not_prioritized.remove(&instance);
                let text = format!(
                    "{}: the replica-priority of {instance} is {priority}, was {had}: prefer_zones, zone {zone}",
                    self.policy.group
                );
                out.extend(done.then(|| say(LogLevel::Info, text)));
            }
            Err(words) => {
                self.memory.not_prioritized.insert(instance, FailedPriority { run_id, words });
            }
        }
    }

    /// Once an instance refuses connections, every Sentinel and instance is asked: what is decided on is to be new.
    fn fold_refused(&mut self, instance: Address, refusal: Option<Refusal>, now: Now) {
        let before = match refusal.clone() {
            Some(refusal) => self.observed.refusals.insert(instance, refusal),
            None => self.observed.refusals.remove(&instance),
        };
        let since = |refusal: Option<Refusal>| refusal.map(|refusal| refusal.since);
        if refusal.is_some() && since(refusal) != since(before) {
            self.next_look = now.mono;
        }
    }

    /// What the kernel tells. Once it tells of an end, every Sentinel and instance is asked: what is decided on is to
    /// be new.
    fn fold_process(
        &mut self,
        instance: Address,
        state: ProcessState,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let group = &self.policy.group;
        let before = self.observed.processes.get(&instance);
        let text = match &state {
            ProcessState::Watched { pid, .. } => {
                format!("{group}: the end of process {pid} of {instance} would be seen at once")
            }
            ProcessState::Unseen(why) => format!(
                "{group}: the end of {instance} would not be seen at once, and is left to the Sentinels: {why}"
            ),
            ProcessState::Ended(Death { pid, .. }) => {
                format!("{group}: process {pid} of {instance} has ended")
            }
        };
        if before != Some(&state) {
            out.push(say(LogLevel::Info, text));
        }
        if let ProcessState::Ended(death) = &state {
            self.observed.deaths.insert(instance.clone(), death.clone());
            self.next_look = now.mono;
        }
        self.observed.processes.insert(instance, state);
    }

    /// The leader's word, unless something newer was heard while it was on its way.
    fn fold_consistent(&mut self, answer: StoreAnswer, now: Now, out: &mut Vec<Output>) {
        let asked = answer.asked;
        let known = self.observed.store.as_ref().map_or(0, |store| store.state_index);
        if answer.state_index < known && asked <= self.memory.store_changed {
            out.push(Output::ReadStore);
            return;
        }
        self.fold_store(answer, now, out);
        self.leader_spoke(asked);
    }

    /// A watch may be answered by a server that lags behind; only a confirmed read goes back.
    fn fold_watched(&mut self, mut answer: StoreAnswer, now: Now, out: &mut Vec<Output>) {
        let index = self.observed.store.as_ref().map_or(0, |store| store.state_index);
        if answer.state_index < index {
            out.push(Output::ReadStore);
            return;
        }
        if let Some(store) = self.observed.store.as_ref().filter(|_| answer.state_index == index) {
            // It may know the record, and not yet what we have noted since.
            let local = &self.policy.local;
            let ours = store.seen.iter().filter(|(address, _)| local.contains(*address));
            answer.seen.extend(ours.map(|(address, seen)| (address.clone(), seen.clone())));
        }
        self.fold_store(answer, now, out);
    }

    fn fold_store(&mut self, answer: StoreAnswer, now: Now, out: &mut Vec<Output>) {
        self.doubtful = false;
        self.recognise(&answer, now, out);
        let before = self.observed.store.as_ref();
        // A wiped Consul may come to the same index with another record.
        let same =
            |old: &StoreAnswer| old.state_index == answer.state_index && old.state == answer.state;
        if !before.is_some_and(same) {
            self.memory.store_changed = now.mono;
            if answer.state == StoredState::Absent {
                // The record was deleted, so the rows may be other than they were.
                self.next_audit = now.mono;
            }
        }
        let old = before.and_then(StoreAnswer::record);
        let from = old.and_then(|record| record.last_writer.as_ref()).map(|w| &w.address);
        if let Some(record) = answer.record() {
            let text = change_line(record, from, None);
            if before.is_none() {
                out.push(say(LogLevel::Info, format!("{text} (found in Consul)")));
            } else if old.map(|old| old.generation) != Some(record.generation) {
                out.push(say(LogLevel::Info, format!("{text} (published by {})", record.by)));
            }
            if old.map(|old| old.generation) != Some(record.generation) {
                let history = answer.history.clone();
                out.push(self.published(record, history, now, false));
                self.tell_replaced(record, now, out);
            }
        }
        self.observed.store = Some(answer);
    }

    /// Folds what is known into what is remembered; what was found in the readings meanwhile.
    fn remember(&mut self, now: Now, out: &mut Vec<Output>) -> (Tally, Derived) {
        let before = self.memory.generation.map(|(generation, _)| generation);
        self.memory.see_generation(&self.observed, now);
        let after = self.memory.generation.map(|(generation, _)| generation);
        if before != after {
            if self.observed.record().is_some_and(|record| record.writer.is_some()) {
                self.memory.gave_up = None;
            }
            // What was read before this generation must not overrule it: read everything again.
            self.next_look = now.mono;
        }
        self.memory.see_instances(&self.observed);
        self.memory.see_writer(&self.observed);
        self.memory.see_votes(&self.observed);
        self.memory.see_paces(&self.observed);
        let view = View::new(&self.policy, &self.memory, &self.observed, now);
        let holding = conditions(&view);
        let seen = &self.memory.since;
        let stray = |c: &Condition| matches!(c, Condition::Stray(_)) && !seen.contains_key(c);
        if holding.iter().any(stray) {
            // The Sentinels are asked anew, now that it has been seen.
            self.next_look = now.mono;
        }
        self.blind = !view.policy.local.is_empty() && view.tally.answering < view.tally.majority();
        self.known.clone_from(InstanceRows::new(&view).watched());
        let election = election(&view);
        let View { tally, found, .. } = view;
        self.memory
            .relayed
            .retain(|_, (epoch, _)| election.as_ref().is_some_and(|e| e.epoch == *epoch));
        self.memory.election = election;
        self.memory.keep(holding, now);
        self.remember_steps(&tally, now);
        self.note_urgency(now);
        if let Some(store) = &self.observed.store {
            let clock = self.memory.clocks.look(store, &self.policy.agent, now);
            out.extend(clock.map(Output::ShowClock));
        }
        let (known, recent) = (&self.known, Mono(now.mono.0.saturating_sub(ANSWER_AGE_MAX_MS)));
        self.observed.instances.retain(|a, reading| known.contains(a) || reading.asked > recent);
        self.observed.deaths.retain(|_, death| now.mono - death.at < DEATH_KNOWN_MS);
        self.observed.refusals.retain(|_, refusal| now.mono - refusal.latest < DEATH_KNOWN_MS);
        self.memory.held.retain(|address, _| known.contains(address));
        let sentinels = &self.observed.sentinels;
        self.memory.reconfigured.retain(|(address, _), _| sentinels.contains_key(address));
        self.give_up_waiting(now, out);
        (tally, found)
    }

    /// Decides, and turns the decision into outputs.
    fn act(&mut self, found: (Tally, Derived), now: Now, out: &mut Vec<Output>) {
        let view = View::with(&self.policy, &self.memory, &self.observed, now, found);
        let decision = decide(&view, &self.layout);
        let standing = standing(&view);
        let found = self.noted.is_due(now).then(|| problems(&view, &self.layout, &decision));
        if let Some(found) = found {
            self.problems.clone_from(&found);
            self.note_problems(found, now, out);
        }
        self.remember_decided(&decision, now);
        self.note_obstacle(&decision, now, out);
        self.note_not_fast(&decision, now, out);
        let actions = decision.actions();
        let at_rest = actions.is_empty() && decision.reasons.is_empty() && standing.is_empty();
        self.at_rest = (at_rest && self.memory.since.is_empty()).then_some(now.mono);
        for action in actions {
            match &action {
                Action::Write(write) => self.send(write, now, out),
                Action::Hold(hold) => self.hold(hold, now, out),
                Action::Relay(relay) => self.relay(relay, now, out),
                Action::Fence(fence) => {
                    self.memory.fenced.insert(fence.instance.clone(), now.mono);
                    out.push(Output::Fence(fence.clone()));
                }
                Action::Detach(detach) => {
                    self.memory.fenced.insert(detach.instance.clone(), now.mono);
                    out.push(Output::Detach(detach.clone()));
                }
                Action::Promote(promote) => {
                    self.memory.fenced.insert(promote.instance.clone(), now.mono);
                    out.push(Output::Promote(promote.clone()));
                }
                Action::Mark(marking) => {
                    self.memory.marked = Some(now.mono);
                    out.push(Output::Mark(marking.clone()));
                }
                Action::Prioritize(prioritize) => {
                    self.memory.prioritized.insert(prioritize.instance.clone(), now.mono);
                    let until = now.mono.plus_ms(PRIORITY_WITHIN_MS);
                    out.push(Output::Prioritize(prioritize.clone(), until));
                }
                Action::Reconfigure(reconfigure) => {
                    self.memory
                        .reconfigured
                        .insert((reconfigure.sentinel.clone(), reconfigure.what), now.mono);
                    let until = now.mono.plus_ms(reconfigure.within_ms());
                    out.push(Output::Reconfigure(reconfigure.clone(), until));
                }
            }
        }
        if decision.sound {
            let asked = self.observed.rows.as_ref().map(|rows| rows.asked);
            self.memory.audited = asked.zip(self.observed.store.as_ref().map(|store| store.asked));
        }
        self.decision = Some(decision);
        self.decisions += 1;
        self.note_standing(standing, out);
    }

    fn relay(&mut self, relay: &Relay, now: Now, out: &mut Vec<Output>) {
        let Relay { sentinel, leader_at, epoch, forced, chosen, why, .. } = relay;
        let how = if *forced {
            format!("was asked for a failover (from now on epoch {epoch})")
        } else {
            format!("was elected at epoch {epoch}")
        };
        let text = format!(
            "{}: telling Sentinel {sentinel} that {leader_at} {how} and made {chosen} the primary: {why}",
            self.policy.group
        );
        out.push(say(LogLevel::Info, text));
        self.memory.relayed.insert(sentinel.clone(), (*epoch, now.mono));
        out.push(Output::Relay(relay.clone(), now.mono.plus_ms(RELAY_WITHIN_MS)));
    }

    fn hold(&mut self, hold: &Hold, now: Now, out: &mut Vec<Output>) {
        let Hold { instance, why, .. } = hold;
        let last = self.memory.held.get(instance);
        if last.is_none_or(|at| now.mono - *at > HOLD_MS) {
            let text = format!("{}: holding writes on {instance}: {why}", self.policy.group);
            out.push(say(LogLevel::Info, text));
        }
        self.memory.held.insert(instance.clone(), now.mono);
        out.push(Output::Hold(hold.clone()));
    }

    fn follow(&mut self, out: &mut Vec<Output>) {
        if self.known != self.following {
            self.following.clone_from(&self.known);
            out.push(Output::Follow(self.known.clone()));
        }
    }
}
