//! The one write that is under way: how it ended, and what follows.

use super::narrate::say;
use super::{Aftermath, GroupLoop, LogLevel, Outcome, Output, Published};
use crate::duty::action::{Purpose, Write};
use crate::known::memory::Steps;
use crate::known::observed::{StoreAnswer, StoredState};
use crate::published::projection::{Op, project};
use crate::published::record::{Change, Record};
use crate::published::write::take_seen;
use crate::situation::data_loss::WhyReplace;
use crate::time::{Mono, Now};

/// Pause after a write that Consul refused (not one that lost a race), in ms.
pub const REFUSED_PAUSE_MS: u64 = 2_000;
/// Without an outcome for this long a write counts as unanswered, in ms. Longer than any deadline of
/// the client, so it only ends a wait for an answer that was lost inside the agent.
pub const WRITE_ANSWER_MAX_MS: u64 = 20_000;
/// Rows and keys that are named when they were put back.
const PUT_BACK_NAMED_MAX: usize = 4;
/// How long after it was decided a Sentinel is still made to forget, in ms.
pub const FORGET_WITHIN_MS: u64 = 5_000;
/// How long after it was decided a Sentinel is still asked for a failover, in ms: twice this is less than
/// [`REPLACE_AGAIN_MS`](crate::policy::REPLACE_AGAIN_MS), so that no two are under way.
pub const REPLACE_WITHIN_MS: u64 = 2_000;

/// How long after it was sent a write that turns out to be committed is still followed up, in ms: Consul's followers
/// learn of it by themselves within 100 ms of its commit (`docs/facts/consul.md` 3).
pub const FOLLOW_UP_WITHIN_MS: u64 = 2_000;

/// One write that was sent.
pub(super) struct InFlight {
    pub(super) id: u64,
    pub(super) write: Write,
    pub(super) sent: Mono,
    /// Since when it is known that no answer will come.
    pub(super) unanswered: Option<Mono>,
}

/// The least of a transaction that was committed which makes an entry in Consul's log when it is sent once more. It fails,
/// for `state` has another index by now, and what it would set is what was set.
fn followed_up(ops: Vec<Op>) -> Vec<Op> {
    let check = ops.iter().find_map(|op| match op {
        Op::KeyCas { key, index, .. } if *index > 0 => {
            Some(Op::KeyCheckIndex { key: key.clone(), index: *index })
        }
        _ => None,
    });
    let set = ops.iter().find(|op| matches!(op, Op::KeySet { .. }));
    match (check, set) {
        (Some(check), Some(set)) => vec![check, set.clone()],
        // A first record has no index to check.
        _ => ops,
    }
}

impl GroupLoop {
    pub(super) fn fold_outcome(
        &mut self,
        id: u64,
        outcome: Outcome,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        // The watch may have shown the end of it before the answer came.
        let Some(mut flight) = self.in_flight.take_if(|flight| flight.id == id) else { return };
        match outcome {
            Outcome::Committed { index } => self.committed(flight, index, now, out),
            Outcome::Lost => {
                let purpose = flight.write.purpose.as_str();
                let text = format!("{}: another agent was first ({purpose})", self.policy.group);
                out.push(say(LogLevel::Debug, text));
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
                out.push(say(LogLevel::Warn, text));
                out.push(Output::ReadStore);
                // The rows may not be what they were taken for.
                out.push(Output::ReadRows);
            }
            Outcome::Unknown(error) => {
                let text = format!(
                    "{}: Consul's answer was lost, reading what became of it: {error}",
                    self.policy.group
                );
                // Of one write it is said once. Where this agent stood still meanwhile, nothing is wrong with Consul.
                let level = if flight.sent < self.woke { LogLevel::Info } else { LogLevel::Warn };
                if flight.unanswered.is_none() {
                    out.push(say(level, text));
                }
                flight.unanswered = Some(now.mono);
                self.in_flight = Some(flight);
                out.push(Output::ReadStore);
            }
        }
    }

    /// The nonce says whether what is in Consul is what we wrote, with or without an answer.
    pub(super) fn recognise(&mut self, answer: &StoreAnswer, now: Now, out: &mut Vec<Output>) {
        let Some(found) = answer.record().map(|record| &record.nonce) else { return };
        let flight = self.in_flight.take_if(|flight| {
            flight.write.record.as_ref().is_some_and(|record| &record.nonce == found)
        });
        if let Some(flight) = flight {
            self.committed(flight, answer.state_index, now, out);
        }
    }

    pub(super) fn committed(
        &mut self,
        flight: InFlight,
        index: u64,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let InFlight { write, sent, .. } = flight;
        let Write { purpose, record, history, forget, replace, ops, .. } = write;
        let known = self.observed.store.as_ref().map_or(0, |store| store.state_index);
        if index < known && record.is_some() {
            // It was applied, and another agent has written after it.
            return;
        }
        if purpose == Purpose::Seen {
            if let Some(store) = &mut self.observed.store {
                take_seen(store, &self.layout, &ops);
            }
            return;
        }
        self.memory.store_changed = now.mono;
        // Written down, so it is ours to do; but not when the answer has been long in coming.
        if let Some(forget) = forget.filter(|_| now.mono - sent < FORGET_WITHIN_MS) {
            out.push(Output::Forget(forget, now.mono.plus_ms(FORGET_WITHIN_MS)));
        }
        if let Some(replace) = replace {
            let within = now.mono - sent < REPLACE_WITHIN_MS;
            let (due, until) = match &replace.why {
                WhyReplace::DataLoss => (within, now.mono.plus_ms(REPLACE_WITHIN_MS)),
                WhyReplace::Died { until, .. } => (now.mono <= *until, *until),
            };
            if due {
                let death = self.observed.deaths.get(&replace.primary);
                let died = death.filter(|_| replace.why != WhyReplace::DataLoss);
                out.extend(died.map(|death| Output::Died(death.sign(), Aftermath::Asked)));
                out.push(Output::Replace(replace, until));
            }
        }
        let Some(record) = record else {
            self.memory.repaired = Some(now.mono);
            let group = &self.policy.group;
            let what = put_back(&ops);
            let text = format!("{group}: put back rows or keys that were changed: {what}");
            let line = self.repair_line.line(text, now.mono);
            out.extend(line.map(|text| say(LogLevel::Info, text)));
            out.push(Output::ReadRows);
            return;
        };
        self.say_committed(purpose, &record, now, out);
        if purpose == Purpose::Hasten {
            self.tell_voting(&record, now, out);
        }
        if purpose == Purpose::Publish {
            self.memory.acknowledged = Some((record.generation, now.mono - sent));
        }
        if matches!(purpose, Purpose::Publish | Purpose::Withdraw) {
            // The agent that wrote it follows it up, and no other: a group of nine agents gets one.
            if now.mono - sent < FOLLOW_UP_WITHIN_MS {
                out.push(Output::FollowUp(followed_up(ops)));
            }
            let history = history.clone().unwrap_or_default();
            out.push(self.published(&record, history, now, true));
            self.tell_replaced(&record, now, out);
        }
        if let Some(store) = &mut self.observed.store {
            store.plain.extend(project(&record).plain);
            store.history = history.unwrap_or_else(|| std::mem::take(&mut store.history));
            store.state_index = index;
            store.state = StoredState::Known(Box::new(record));
        }
        if purpose == Purpose::Publish {
            self.memory.steps = Steps::default();
            self.memory.promoted = None;
            self.memory.decided = None;
        }
    }

    pub(super) fn published(
        &self,
        record: &Record,
        history: Vec<Change>,
        now: Now,
        ours: bool,
    ) -> Output {
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

    /// Sends a write, unless one is under way, or Consul may not be the one that was read.
    pub(super) fn send(&mut self, write: &Write, now: Now, out: &mut Vec<Output>) {
        let free = self.in_flight.is_none() && !self.doubtful;
        if free && now.mono >= self.paused_until {
            let (id, write) = (self.memory.written, write.clone());
            out.push(Output::Write(id, Box::new(write.clone())));
            let flight = InFlight { id, write, sent: now.mono, unanswered: None };
            // Every attempt has a nonce of its own, so a write whose answer was lost is recognised.
            self.memory.written += 1;
            self.in_flight = Some(flight);
        }
    }

    /// Takes a write that has been under way for too long for one whose answer was lost.
    pub(super) fn give_up_waiting(&mut self, now: Now, out: &mut Vec<Output>) {
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
    }

    /// The leader has spoken: a write without an answer by then was not applied.
    pub(super) fn leader_spoke(&mut self, asked: Mono) {
        self.in_flight.take_if(|flight| flight.unanswered.is_some_and(|since| since <= asked));
    }
}

/// What a repair has put back, in words: `node redis-ha-redis, redis-primary, key primary, and 3 more`.
fn put_back(ops: &[Op]) -> String {
    let name = |op: &Op| match op {
        Op::NodeSet { node, .. } | Op::NodeDelete { node } => Some(format!("node {node}")),
        Op::ServiceSet { id, .. } | Op::ServiceDelete { id, .. } => Some(format!("service {id}")),
        Op::CheckSet { id, .. } => Some(format!("check of {id}")),
        Op::KeySet { key, .. } => Some(format!("key {key}")),
        Op::KeyCas { .. } | Op::KeyCheckIndex { .. } | Op::KeyDeleteTree { .. } => None,
    };
    let all: Vec<String> = ops.iter().filter_map(name).collect();
    let more = all.len().saturating_sub(PUT_BACK_NAMED_MAX);
    let named = all.into_iter().take(PUT_BACK_NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named}, and {more} more") }
}
