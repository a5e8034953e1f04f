//! One group's loop, as a state machine without I/O: readings in, things to do out.
//!
//! The agent runs it over real connections; the simulation runs thousands of it over a scripted world.
//! Whatever arrives only wakes it: it decides anew from everything it knows each time.

use std::collections::BTreeSet;

use super::action::{Action, Promote, Purpose, Write};
use super::address::{Address, ServiceName};
use super::bootstrap::is_blank;
use super::decide::{Decision, decide};
use super::election::Tally;
use super::emptied::{self, Replace, Shelter};
use super::fence::{Fence, strays};
use super::ghosts::{self, Forget};
use super::hold::{Hold, is_cut_off};
use super::memory::{Condition, Memory};
use super::moved;
use super::observed::{
    DownOpinion, InstanceAnswer, Observed, Reading, RowsAnswer, SentinelAnswer, StoreAnswer,
    StoredState,
};
use super::policy::{ANSWER_AGE_MAX_MS, HOLD_MS, Policy};
use super::projection::{Layout, project};
use super::publication::{KeepReason, Verdict, conditions};
use super::record::{Change, Record, Timeline};
use super::reinstate;
use super::replicas::Roster;
use super::sentinels::{Tell, conditions as disagreements};
use super::status::{GroupStatus, assess};
use super::time::{Mono, Now};
use super::view::{Found, View};
use super::writer::writer_test;

/// How often everything is read again when nothing happens, in ms.
pub const TICK_MS: u64 = 1_000;
/// The same while a failover is under way, a promotion waits for its majority, or there is no writer.
pub const TICK_URGENT_MS: u64 = 100;
/// How long the shorter period is kept up, in ms.
pub const URGENT_FOR_MS: u64 = 60_000;
/// How often a chosen replica is asked whether it is the primary yet. The closed connection tells
/// sooner (`docs/facts/sentinel.md` 6); this is for when it does not.
pub const CHASE_MS: u64 = 20;
/// How often the rows and keys are compared with what they should be, in ms.
pub const AUDIT_MS: u64 = 10_000;
/// Pause after a write that Consul refused (not one that lost a race), in ms.
pub const REFUSED_PAUSE_MS: u64 = 2_000;
/// Without an outcome for this long a write counts as unanswered, in ms. Longer than any deadline of
/// the client, so it only ends a wait for an answer that was lost inside the agent.
pub const WRITE_ANSWER_MAX_MS: u64 = 20_000;
/// How long after it was decided a Sentinel is still made to forget, in ms.
pub const FORGET_WITHIN_MS: u64 = 5_000;
/// How long after it was decided a Sentinel is still asked for a failover, in ms: twice this is less than
/// [`REPLACE_AGAIN_MS`](super::policy::REPLACE_AGAIN_MS), so that no two are under way.
pub const REPLACE_WITHIN_MS: u64 = 2_000;
/// How long the same obstacle must stand before it is worth a warning, in ms.
pub const OBSTACLE_SAID_AFTER_MS: u64 = 5_000;

/// Something that happened.
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
    /// DNS answers what was published with this generation.
    SeenInDns(u64),
    /// How the write with this number ended.
    Written(u64, Outcome),
    /// Time passed.
    Tick,
    /// Look at everything now, somebody says.
    Look,
    /// What is wanted of the group has changed.
    Policy(Box<Policy>),
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Applied, all of it.
    Committed {
        /// The new ModifyIndex of `state`.
        index: u64,
    },
    /// Not applied: somebody else was first.
    Lost,
    /// Not applied: Consul will not have it.
    Refused(String),
    /// Applied or not: the answer was lost.
    Unknown(String),
}

impl Outcome {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::Lost => "lost",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Something to do.
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
    /// Hold an instance's writes.
    Hold(Hold),
    /// Turn a second primary into a replica of the writer.
    Fence(Fence),
    /// Have an instance keep its data instead of copying a primary that has none.
    Shelter(Shelter),
    /// Make a replica the first primary.
    Promote(Promote),
    /// Tell a Sentinel about the group.
    Tell(Tell),
    /// Have a Sentinel forget those who are gone for good, unless it is later than this.
    Forget(Forget, Mono),
    /// Another generation is in Consul.
    Published(Box<Published>),
    /// Ask a Sentinel for a failover, unless it is later than this.
    Replace(Replace, Mono),
    /// Tell people.
    Say(Saying),
}

/// A generation that is in Consul now.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Its number.
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

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// How much it matters.
    pub weight: Weight,
    /// The line.
    pub text: String,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// For finding errors.
    Debug,
    /// A decision that changed something.
    Info,
    /// Something a person should look at.
    Warn,
}

/// One group's loop.
pub struct GroupLoop {
    policy: Policy,
    layout: Layout,
    memory: Memory,
    observed: Observed,
    in_flight: Option<InFlight>,
    known: BTreeSet<Address>,
    following: BTreeSet<Address>,
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
    obstacle: Option<Obstacle>,
    decision: Option<Decision>,
    /// Where the decision differs from what was decided before.
    pub differences: Vec<(String, String)>,
}

struct InFlight {
    id: u64,
    write: Write,
    sent: Mono,
    /// Since when it is known that no answer will come.
    unanswered: Option<Mono>,
}

struct Obstacle {
    text: String,
    since: Mono,
    said: bool,
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
            paused_until: Mono(0),
            urgent_since: None,
            doubtful: false,
            blind: false,
            next_look: Mono(0),
            next_chase: Mono(0),
            next_audit: Mono(0),
            obstacle: None,
            decision: None,
            differences: Vec::new(),
        }
    }

    /// What is known now.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The last decision.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// What a person wants to know, from what is known now.
    pub fn status(&self, now: Now) -> GroupStatus {
        let view = View::new(&self.policy, &self.memory, &self.observed, now);
        match &self.decision {
            Some(decision) => assess(&view, &self.layout, decision),
            None => assess(&view, &self.layout, &decide(&view, &self.layout)),
        }
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_wake(&self) -> Mono {
        let chase = self.chosen().map_or(self.next_look, |_| self.next_chase);
        self.next_look.min(chase).min(self.next_audit)
    }

    /// Takes one input and says what is to be done.
    pub fn on(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.fold(input, now, &mut out);
        let found = self.remember(now, &mut out);
        self.look(now, &mut out);
        self.act(found, now, &mut out);
        self.follow(&mut out);
        out
    }

    fn fold(&mut self, input: Input, now: Now, out: &mut Vec<Output>) {
        match input {
            Input::Sentinel(address, reading) => {
                let known = self.observed.sentinels.get(&address);
                if known.is_none_or(|old| old.asked <= reading.asked) {
                    self.observed.sentinels.insert(address, reading);
                }
            }
            Input::SentinelGone(address) => {
                self.observed.sentinels.remove(&address);
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
            Input::SeenInDns(generation) => self.memory.see_in_dns(generation, now),
            Input::Tick => {}
            Input::Look => self.next_look = now.mono,
            Input::Policy(policy) => {
                self.policy = *policy;
                self.next_look = now.mono;
            }
        }
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
        // The leader has spoken: a write without an answer was not applied.
        self.in_flight.take_if(|flight| flight.unanswered.is_some_and(|since| since <= asked));
    }

    /// A watch may be answered by a server that lags behind; only a confirmed read goes back.
    fn fold_watched(&mut self, answer: StoreAnswer, now: Now, out: &mut Vec<Output>) {
        let index = self.observed.store.as_ref().map_or(0, |store| store.state_index);
        if answer.state_index < index {
            out.push(Output::ReadStore);
            return;
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
                // Somebody deleted the record, so the rows may be other than they were.
                self.next_audit = now.mono;
            }
        }
        let old = before.and_then(StoreAnswer::record);
        let from = old.and_then(|record| record.last_writer.as_ref()).map(|w| &w.address);
        if let Some(record) = answer.record() {
            let text = change_line(record, from, None);
            if before.is_none() {
                out.push(say(Weight::Info, format!("{text} (found in Consul)")));
            } else if old.map(|old| old.generation) != Some(record.generation) {
                out.push(say(Weight::Info, format!("{text} (published by {})", record.by)));
            }
            if old.map(|old| old.generation) != Some(record.generation) {
                let history = answer.history.clone();
                out.push(self.published(record, history, now, false));
            }
        }
        self.observed.store = Some(answer);
    }

    fn fold_outcome(&mut self, id: u64, outcome: Outcome, now: Now, out: &mut Vec<Output>) {
        // The watch may have told the end of it before the answer came.
        let Some(mut flight) = self.in_flight.take_if(|flight| flight.id == id) else { return };
        match outcome {
            Outcome::Committed { index } => self.committed(flight, index, now, out),
            Outcome::Lost => {
                let purpose = flight.write.purpose.as_str();
                let text = format!("{}: another agent was first ({purpose})", self.policy.group);
                out.push(say(Weight::Debug, text));
                out.push(Output::ReadStore);
            }
            Outcome::Refused(error) => {
                self.paused_until = now.mono.plus_ms(REFUSED_PAUSE_MS);
                let purpose = flight.write.purpose.as_str();
                let text = format!(
                    "{}: Consul refused to {purpose}, trying again in {} s: {error}",
                    self.policy.group,
                    REFUSED_PAUSE_MS / 1_000
                );
                out.push(say(Weight::Warn, text));
                out.push(Output::ReadStore);
                // The rows may not be what they were taken for.
                out.push(Output::ReadRows);
            }
            Outcome::Unknown(error) => {
                let text = format!(
                    "{}: Consul's answer was lost, reading what became of it: {error}",
                    self.policy.group
                );
                out.push(say(Weight::Warn, text));
                flight.unanswered = Some(now.mono);
                self.in_flight = Some(flight);
                out.push(Output::ReadStore);
            }
        }
    }

    /// The nonce says whether what is in Consul is what we wrote, with or without an answer.
    fn recognise(&mut self, answer: &StoreAnswer, now: Now, out: &mut Vec<Output>) {
        let Some(found) = answer.record().map(|record| &record.nonce) else { return };
        let flight = self.in_flight.take_if(|flight| {
            flight.write.record.as_ref().is_some_and(|record| &record.nonce == found)
        });
        if let Some(flight) = flight {
            self.committed(flight, answer.state_index, now, out);
        }
    }

    fn committed(&mut self, flight: InFlight, index: u64, now: Now, out: &mut Vec<Output>) {
        let InFlight { write, sent, .. } = flight;
        let Write { purpose, record, history, forget, replace, .. } = write;
        let known = self.observed.store.as_ref().map_or(0, |store| store.state_index);
        if index < known && record.is_some() {
            // It was applied, and somebody has written after it.
            return;
        }
        self.memory.store_changed = now.mono;
        // Written down, so it is ours to do; but not when the answer has been long in coming.
        if let Some(forget) = forget.filter(|_| now.mono - sent < FORGET_WITHIN_MS) {
            out.push(Output::Forget(forget, now.mono.plus_ms(FORGET_WITHIN_MS)));
        }
        if let Some(replace) = replace.filter(|_| now.mono - sent < REPLACE_WITHIN_MS) {
            out.push(Output::Replace(replace, now.mono.plus_ms(REPLACE_WITHIN_MS)));
        }
        let Some(record) = record else {
            self.memory.repaired = Some(now.mono);
            let text = format!("{}: put back rows or keys that were changed", self.policy.group);
            out.push(say(Weight::Info, text));
            out.push(Output::ReadRows);
            return;
        };
        self.say_committed(purpose, &record, now, out);
        if matches!(purpose, Purpose::Publish | Purpose::Withdraw) {
            let history = history.clone().unwrap_or_default();
            out.push(self.published(&record, history, now, true));
        }
        if let Some(store) = &mut self.observed.store {
            store.plain.extend(project(&record).plain);
            store.history = history.unwrap_or_else(|| std::mem::take(&mut store.history));
            store.state_index = index;
            store.state = StoredState::Known(Box::new(record));
        }
        if purpose == Purpose::Publish {
            self.memory.timeline = Timeline::default();
            self.memory.promoted = None;
        }
    }

    fn published(&self, record: &Record, history: Vec<Change>, now: Now, ours: bool) -> Output {
        let writer = record.writer_address();
        let promoted = self.memory.promoted.as_ref().filter(|(a, _)| Some(a) == writer);
        Output::Published(Box::new(Published {
            generation: record.generation,
            service: record.service.clone(),
            writer: writer.cloned(),
            promoted: promoted.map(|(_, at)| *at),
            at: now.mono,
            ours,
            history,
        }))
    }

    fn say_committed(&self, purpose: Purpose, record: &Record, now: Now, out: &mut Vec<Output>) {
        let text = match purpose {
            Purpose::Publish => {
                let old = self.observed.record();
                let from = old.and_then(|record| record.last_writer.as_ref()).map(|w| &w.address);
                let promoted = self.memory.promoted.as_ref();
                let promoted = promoted
                    .filter(|(address, _)| Some(address) == record.writer_address())
                    .map(|(_, at)| now.mono - *at);
                change_line(record, from, promoted)
            }
            Purpose::Withdraw => change_line(record, None, None),
            Purpose::Claim => format!("{}: {}", record.group, record.why),
            Purpose::Confirm => format!(
                "{}: writer {} confirmed by {} of {} Sentinels at epoch {}",
                record.group,
                record.writer_address().map(ToString::to_string).unwrap_or_default(),
                record.evidence.basis.votes(),
                record.evidence.known,
                record.evidence.confirmed_epoch
            ),
            Purpose::Roster => {
                let rows: Vec<String> = record
                    .instances
                    .iter()
                    .map(|i| format!("{} {}", i.address, i.role.as_str()))
                    .collect();
                format!("{}: instances: {}", record.group, rows.join(", "))
            }
            Purpose::Forget => {
                let sentinel = record.reset.as_ref().map(|reset| reset.sentinel.to_string());
                format!("{}: Sentinel {} is to forget", record.group, sentinel.unwrap_or_default())
            }
            Purpose::Replace => {
                let emptied = record.emptied.as_ref();
                let primary = emptied.map(|emptied| emptied.instance.to_string());
                let sentinel = emptied.and_then(|e| e.sentinel.as_ref()).map(ToString::to_string);
                format!(
                    "{}: Sentinel {} is asked to replace {}, which came back without its data",
                    record.group,
                    sentinel.unwrap_or_default(),
                    primary.unwrap_or_default()
                )
            }
            Purpose::Note | Purpose::Repair => return,
        };
        out.push(say(Weight::Info, text));
    }

    /// Folds what is known into what is remembered; what was found in the readings meanwhile.
    fn remember(&mut self, now: Now, out: &mut Vec<Output>) -> (Tally, Found) {
        let before = self.memory.generation.map(|(generation, _)| generation);
        self.memory.see_generation(&self.observed, now);
        let after = self.memory.generation.map(|(generation, _)| generation);
        if before != after {
            // What was read before this generation must not overrule it: read everything again.
            self.next_look = now.mono;
        }
        self.memory.see_instances(&self.observed);
        let view = View::new(&self.policy, &self.memory, &self.observed, now);
        let roster = Roster::new(&view);
        let mut holding = conditions(&view);
        holding.extend(roster.conditions());
        let strays: BTreeSet<Condition> =
            strays(&view).map(|(address, _)| Condition::Stray(address.clone())).collect();
        if strays.iter().any(|stray| !self.memory.since.contains_key(stray)) {
            // The Sentinels are asked anew, now that it has been seen.
            self.next_look = now.mono;
        }
        holding.extend(strays);
        self.blind = !view.policy.local.is_empty() && view.tally.heard < view.tally.majority();
        holding.extend(disagreements(&view));
        holding.extend(ghosts::conditions(&view));
        holding.extend(is_blank(&view).then_some(Condition::NoPrimaryAnywhere));
        holding.extend(moved::condition(&view));
        holding.extend(reinstate::condition(&view));
        holding.extend(emptied::condition(&view));
        holding.extend(is_cut_off(&view).then_some(Condition::CutOff));
        self.known.clone_from(roster.followed());
        let View { tally, found, .. } = view;
        self.memory.keep(holding, now);
        self.remember_timeline(&tally, now);
        self.note_urgency(now);
        let (known, recent) = (&self.known, Mono(now.mono.0.saturating_sub(ANSWER_AGE_MAX_MS)));
        self.observed.instances.retain(|a, reading| known.contains(a) || reading.asked > recent);
        self.memory.held.retain(|address, _| known.contains(address));
        let sentinels = &self.observed.sentinels;
        self.memory.told.retain(|(address, _), _| sentinels.contains_key(address));
        let overdue = self
            .in_flight
            .as_ref()
            .filter(|flight| {
                flight.unanswered.is_none() && now.mono - flight.sent > WRITE_ANSWER_MAX_MS
            })
            .map(|flight| flight.id);
        if let Some(id) = overdue {
            self.fold_outcome(id, Outcome::Unknown("no answer at all".to_owned()), now, out);
        }
        (tally, found)
    }

    /// Notes when each step of a failover was first seen, for the log and the history.
    fn remember_timeline(&mut self, tally: &Tally, now: Now) {
        let record = self.observed.record();
        let Some((record, last)) = record.and_then(|r| Some((r, r.last_writer.as_ref()?))) else {
            return;
        };
        let down = tally.agree_down(&last.address);
        let settled = record.writer.is_some() && !record.evidence.is_unconfirmed();
        if settled && !down && tally.failovers.is_empty() {
            self.memory.timeline = Timeline::default();
            self.memory.promoted = None;
            return;
        }
        let chosen = tally.failovers.iter().find_map(|failover| failover.chosen.as_ref());
        let next = chosen.or(tally.elected.as_ref().map(|elected| &elected.address));
        let promoted = next
            .filter(|next| **next != last.address)
            .filter(|next| writer_test(&self.observed, next, Mono(0)).is_primary());
        let timeline = &mut self.memory.timeline;
        if down {
            timeline.down_agreed.get_or_insert(now.wall);
        }
        if chosen.is_some() {
            timeline.selected.get_or_insert(now.wall);
        }
        if let Some(next) = promoted
            && self.memory.promoted.as_ref().is_none_or(|(address, _)| address != next)
        {
            timeline.promoted = Some(now.wall);
            self.memory.promoted = Some((next.clone(), now.mono));
        }
    }

    /// Asks for what is due.
    fn look(&mut self, now: Now, out: &mut Vec<Output>) {
        if now.mono >= self.next_look {
            let period = if self.urgent(now) { TICK_URGENT_MS } else { TICK_MS };
            self.next_look = now.mono.plus_ms(period);
            out.push(Output::AskSentinels);
            out.push(Output::Probe(self.known.clone()));
            let unanswered = self.in_flight.as_ref().is_some_and(|f| f.unanswered.is_some());
            // Whether Consul answers is only known by asking.
            if unanswered || self.blind || self.doubtful {
                out.push(Output::ReadStore);
            }
        } else if let Some(chosen) = self.chosen().filter(|_| now.mono >= self.next_chase) {
            self.next_chase = now.mono.plus_ms(CHASE_MS);
            out.push(Output::Probe(BTreeSet::from([chosen])));
        }
        if now.mono >= self.next_audit {
            // Nothing can be written before the rows were read once.
            let period = if self.observed.rows.is_some() { AUDIT_MS } else { TICK_MS };
            self.next_audit = now.mono.plus_ms(period);
            out.push(Output::ReadRows);
        }
    }

    /// The replica that a leader has chosen and that is not published yet.
    fn chosen(&self) -> Option<Address> {
        let published = self.observed.record().and_then(|r| r.writer_address());
        self.observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
            .filter(|group| group.failover.is_some_and(super::observed::FailoverPhase::elected))
            .find_map(|group| group.replicas.iter().find(|r| r.promoted).map(|r| r.address.clone()))
            .filter(|chosen| Some(chosen) != published)
    }

    /// A failover is under way, a promotion waits for its majority, or there is no writer: look
    /// often, but only for the minute that such a thing takes, not for days of a broken group.
    fn note_urgency(&mut self, now: Now) {
        let record = self.observed.record();
        let unsettled = record.is_some_and(|r| r.writer.is_none() || r.evidence.is_unconfirmed());
        let trouble = self
            .observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
            .any(|group| group.down > DownOpinion::Up || group.failover.is_some());
        let trouble = trouble || self.blind;
        self.urgent_since = match (unsettled || trouble, self.urgent_since) {
            (true, None) => Some(now.mono),
            (true, since) => since,
            (false, _) => None,
        };
    }

    fn urgent(&self, now: Now) -> bool {
        self.urgent_since.is_some_and(|since| now.mono - since < URGENT_FOR_MS)
    }

    /// Decides, and turns the decision into outputs.
    fn act(&mut self, found: (Tally, Found), now: Now, out: &mut Vec<Output>) {
        let view = View::with(&self.policy, &self.memory, &self.observed, now, found);
        let decision = decide(&view, &self.layout);
        let differences = super::before::differences(&view, &self.layout, &decision);
        self.differences.extend(differences);
        self.note_obstacle(&decision, now, out);
        for action in decision.actions() {
            match &action {
                Action::Write(write) => {
                    let free = self.in_flight.is_none() && !self.doubtful;
                    if free && now.mono >= self.paused_until {
                        let (id, write) = (self.memory.written, Write::clone(write));
                        out.push(Output::Write(id, Box::new(write.clone())));
                        let flight = InFlight { id, write, sent: now.mono, unanswered: None };
                        // Every attempt has a nonce of its own, so a lost answer is told apart.
                        self.memory.written += 1;
                        self.in_flight = Some(flight);
                    }
                }
                Action::Hold(hold) => {
                    let last = self.memory.held.get(&hold.instance);
                    if last.is_none_or(|at| now.mono - *at > HOLD_MS) {
                        let Hold { instance, why, .. } = hold;
                        let text =
                            format!("{}: holding writes on {instance}: {why}", self.policy.group);
                        out.push(say(Weight::Info, text));
                    }
                    self.memory.held.insert(hold.instance.clone(), now.mono);
                    out.push(Output::Hold(hold.clone()));
                }
                Action::Fence(fence) => {
                    self.memory.fenced.insert(fence.instance.clone(), now.mono);
                    out.push(Output::Fence(fence.clone()));
                }
                Action::Shelter(shelter) => {
                    self.memory.fenced.insert(shelter.instance.clone(), now.mono);
                    out.push(Output::Shelter(shelter.clone()));
                }
                Action::Promote(promote) => {
                    self.memory.fenced.insert(promote.instance.clone(), now.mono);
                    out.push(Output::Promote(promote.clone()));
                }
                Action::Tell(tell) => {
                    self.memory.told.insert((tell.sentinel.clone(), tell.what), now.mono);
                    out.push(Output::Tell(tell.clone()));
                }
            }
        }
        if decision.sound {
            let asked = self.observed.rows.as_ref().map(|rows| rows.asked);
            self.memory.audited = asked.zip(self.observed.store.as_ref().map(|store| store.asked));
        }
        self.decision = Some(decision);
    }

    /// Says, once, what has stood in the way for a while.
    fn note_obstacle(&mut self, decision: &Decision, now: Now, out: &mut Vec<Output>) {
        let blocked = match &decision.verdict {
            Verdict::Keep(KeepReason::Confirmed { .. } | KeepReason::AwaitingConfirmation(_)) => {
                None
            }
            Verdict::Keep(_) => Some(decision.summary.clone()),
            Verdict::Publish { .. }
            | Verdict::Withdraw(_)
            | Verdict::Claim(_)
            | Verdict::Confirm { .. } => None,
        };
        // Why there is no first primary, or no other one, goes before whatever else waits for one.
        let first = matches!(
            &decision.verdict,
            Verdict::Keep(KeepReason::NoFirst(_) | KeepReason::NotMoved(_))
        );
        let blocked = match blocked {
            Some(blocked) if first => Some(blocked),
            blocked => decision.reasons.first().map(ToString::to_string).or(blocked),
        };
        let Some(text) = blocked else {
            if self.obstacle.take().is_some_and(|obstacle| obstacle.said) {
                out.push(say(Weight::Info, decision.summary.clone()));
            }
            return;
        };
        if self.obstacle.is_none() {
            self.obstacle = Some(Obstacle { text: text.clone(), since: now.mono, said: false });
        }
        let Some(obstacle) = self.obstacle.as_mut() else { return };
        if obstacle.text != text {
            obstacle.text.clone_from(&text);
            obstacle.since = now.mono;
            obstacle.said = false;
        }
        if !obstacle.said && now.mono - obstacle.since >= OBSTACLE_SAID_AFTER_MS {
            obstacle.said = true;
            out.push(say(Weight::Warn, text));
        }
    }

    fn follow(&mut self, out: &mut Vec<Output>) {
        if self.known != self.following {
            self.following.clone_from(&self.known);
            out.push(Output::Follow(self.known.clone()));
        }
    }
}

/// A generation in words: `redis: writer 10.0.0.5:6379 -> 10.0.0.6:6379, generation 8, promoted by
/// Sentinel epoch 3, published 3 ms after promotion`.
fn change_line(record: &Record, from: Option<&Address>, promoted_ms: Option<u64>) -> String {
    let Record { group, generation, why, .. } = record;
    let Some(writer) = record.writer_address() else {
        return format!("{group}: no writer, generation {generation}: {why}");
    };
    let arrow =
        from.filter(|from| *from != writer).map(|from| format!("{from} -> ")).unwrap_or_default();
    let published =
        promoted_ms.map(|ms| format!(", published {ms} ms after promotion")).unwrap_or_default();
    format!("{group}: writer {arrow}{writer}, generation {generation}, {why}{published}")
}

fn say(weight: Weight, text: String) -> Output {
    Output::Say(Saying { weight, text })
}
