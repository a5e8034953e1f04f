//! Who tells targets outside what has happened (`[[notify]]`), and when: one group's part of an agent, as a state machine
//! without I/O. What it goes by is the key `notices` and the history, so any number of agents agree with nothing but
//! compare-and-set.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::Outcome;
use crate::known::observed::StoreAnswer;
use crate::published::notices::{
    Delivery, Notice, NoticeLog, NoticeSubject, OpenNotice, SeenProblem,
};
use crate::published::projection::Op;
use crate::published::record::Change;
use crate::shown::status::ProblemCode;
use crate::time::{Mono, Now};

/// An agent that Consul has seen go is waited for this long, in ms: a session may be lost for a moment.
pub const GONE_FOR_MS: u64 = 15_000;
/// An agent that lives, and has not noted what became of a change, is waited for this long, in ms: longer than all tries
/// of a target with the usual settings.
pub const UNNOTED_FOR_MS: u64 = 120_000;
/// After a withdrawal nothing is noted for this long, in ms: the next publication goes before.
pub const BEHIND_MS: u64 = 2_000;
/// An agent that has a problem no more waits this long for one that still has it, in ms.
pub const PASS_ON_MS: u64 = 5_000;
/// Pause after a write that Consul refused or has not answered, in ms.
const PAUSE_MS: u64 = 2_000;
/// The same where another agent was first: its write is about to be seen.
const LOST_PAUSE_MS: u64 = 200;
/// How often it is looked at all of it where nothing has changed, in ms.
const LOOK_EVERY_MS: u64 = 1_000;
/// Problems with which agents cannot agree by Consul: each tells by itself.
const AWAY: [ProblemCode; 3] =
    [ProblemCode::ConsulSilent, ProblemCode::ConsulRefuses, ProblemCode::ConsulUnread];

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum NoticeOutput {
    /// Tell the targets, after all that they were told of before.
    Tell(Box<Notice>),
    /// Send this transaction, and report how it ended.
    Write(Vec<Op>),
}

/// A problem that this agent has, or had a moment ago.
#[derive(Debug)]
struct LastingProblem {
    is_there: bool,
    since: Mono,
    seen: SeenProblem,
}

/// One loop's part of telling targets.
#[derive(Debug)]
pub struct NoticeKeeper {
    subject: NoticeSubject,
    key: String,
    run: String,
    debounce_ms: u64,
    began: Option<Mono>,
    /// The generation that was there at the first look: what was before is not told.
    baseline: Option<u64>,
    /// When each later generation that is not settled was first seen.
    unsettled: BTreeMap<u64, Mono>,
    /// What the targets are being told, or were and it is not noted yet.
    telling: BTreeMap<String, Notice>,
    /// What became of it, by target.
    over: BTreeMap<String, BTreeMap<String, String>>,
    problems: BTreeMap<String, LastingProblem>,
    /// Problems that were told without Consul.
    alone: BTreeMap<String, OpenNotice>,
    /// Agents that are to be followed in what they had to tell, and since when they are gone.
    gone: BTreeMap<String, Mono>,
    /// Problems that this agent passes on, and since when.
    passing: BTreeMap<String, Mono>,
    is_writing: bool,
    /// What was written last, and its index.
    written: Option<(u64, NoticeLog)>,
    /// What is on its way.
    sent: Option<NoticeLog>,
    paused_until: Mono,
    /// What was looked at last: the indexes of `state` and of the key, and when.
    looked: Option<(u64, u64, Mono)>,
}

impl NoticeKeeper {
    /// One that has told nothing yet; `key` is the group's key `notices`, `run` this loop's own.
    pub fn new(subject: NoticeSubject, key: String, run: String, debounce_ms: u64) -> Self {
        Self {
            subject,
            key,
            run,
            debounce_ms,
            began: None,
            baseline: None,
            unsettled: BTreeMap::new(),
            telling: BTreeMap::new(),
            over: BTreeMap::new(),
            problems: BTreeMap::new(),
            alone: BTreeMap::new(),
            gone: BTreeMap::new(),
            passing: BTreeMap::new(),
            is_writing: false,
            written: None,
            sent: None,
            paused_until: Mono(0),
            looked: None,
        }
    }

    /// The operator wants another time.
    pub fn set_debounce(&mut self, debounce_ms: u64) {
        self.debounce_ms = debounce_ms;
    }

    /// Something has changed, or was not looked at for a while.
    pub fn is_due(&self, store: Option<&StoreAnswer>, now: Mono) -> bool {
        let Some((state, key, at)) = self.looked else { return true };
        let changed = store.is_some_and(|s| s.state_index != state || s.notices_index != key);
        changed || now - at >= LOOK_EVERY_MS
    }

    /// Something was told, or is to be, and Consul does not say so yet.
    pub fn is_busy(&self) -> bool {
        self.is_writing || !self.telling.is_empty()
    }

    /// What was told is over: what became of it, by target.
    pub fn told(&mut self, id: &str, targets: BTreeMap<String, String>) {
        if self.telling.contains_key(id) {
            self.over.insert(id.to_owned(), targets);
            self.looked = None;
        }
    }

    /// The write has ended.
    pub fn wrote(&mut self, outcome: &Outcome, now: Mono) {
        self.is_writing = false;
        let sent = self.sent.take();
        match outcome {
            Outcome::Committed { index } => self.written = sent.map(|log| (*index, log)),
            Outcome::Lost => self.paused_until = now.plus_ms(LOST_PAUSE_MS),
            Outcome::Refused(_) | Outcome::Unknown(_) => {
                self.paused_until = now.plus_ms(PAUSE_MS);
            }
        }
        self.looked = None;
    }

    /// Looks at what Consul says, and at the problems that this agent has by their codes.
    pub fn look(
        &mut self,
        store: Option<&StoreAnswer>,
        problems: BTreeMap<String, SeenProblem>,
        now: Now,
    ) -> Vec<NoticeOutput> {
        let began = *self.began.get_or_insert(now.mono);
        self.looked = Some((
            store.map_or(0, |store| store.state_index),
            store.map_or(0, |store| store.notices_index),
            now.mono,
        ));
        let away = AWAY.iter().any(|code| problems.contains_key(code.as_str()));
        self.see_problems(problems, now.mono);
        let mut out = Vec::new();
        self.end_alone(now, &mut out);
        let Some(store) = store else {
            self.tell_alone(away, None, now, &mut out);
            return out;
        };
        let generation = store.record().map_or(0, |record| record.generation);
        self.baseline.get_or_insert(generation);
        self.written.take_if(|(index, _)| *index <= store.notices_index);
        let (index, log) = match (&self.written, &store.notices) {
            (Some((index, log)), _) => (*index, log.clone()),
            (None, Ok(log)) => (store.notices_index, log.clone()),
            // It is not ours to write: what this agent changes it tells all the same.
            (None, Err(_)) => (0, NoticeLog::default()),
        };
        let readable = self.written.is_some() || store.notices.is_ok();
        self.forget_what_is_noted(&log);
        self.tell_claimed(&log, &mut out);
        if away {
            self.tell_alone(away, Some(&log), now, &mut out);
        }
        let mut next = log.clone();
        self.see_agents(store, &log, now.mono);
        self.changes(store, &log, &mut next, now, &mut out);
        self.note_what_is_over(&mut next, now);
        if !away {
            self.agree(store, &mut next, generation, began, now);
        }
        self.retake(store, &mut next, now);
        if readable && !away && next != log && self.may_write(store, now.mono) {
            let value = serde_json::to_string(&next).unwrap_or_default();
            out.push(NoticeOutput::Write(vec![Op::KeyCas { key: self.key.clone(), value, index }]));
            self.is_writing = true;
            self.sent = Some(next);
        }
        out
    }

    fn may_write(&self, store: &StoreAnswer, now: Mono) -> bool {
        let has_writer = store.record().is_some_and(|record| record.writer.is_some());
        let latest = self.unsettled.values().max();
        let behind = has_writer || latest.is_none_or(|seen| now - *seen >= BEHIND_MS);
        behind && !self.is_writing && now >= self.paused_until
    }

    fn see_problems(&mut self, seen: BTreeMap<String, SeenProblem>, now: Mono) {
        for (code, lasting) in &mut self.problems {
            if lasting.is_there && !seen.contains_key(code) {
                (lasting.is_there, lasting.since) = (false, now);
            }
        }
        for (code, seen) in seen {
            let lasting = self.problems.entry(code).or_insert_with(|| LastingProblem {
                is_there: true,
                since: now,
                seen: seen.clone(),
            });
            if !lasting.is_there {
                (lasting.is_there, lasting.since) = (true, now);
            }
            lasting.seen = seen;
        }
        let debounce_ms = self.debounce_ms;
        self.problems.retain(|_, lasting| lasting.is_there || now - lasting.since < debounce_ms);
    }

    /// The problems that have lasted, in the order of their codes.
    fn lasting(&self, now: Mono) -> Vec<(String, SeenProblem)> {
        let lasts =
            |(_, l): &(&String, &LastingProblem)| l.is_there && now - l.since >= self.debounce_ms;
        self.problems.iter().filter(lasts).map(|(c, l)| (c.clone(), l.seen.clone())).collect()
    }

    /// Tells problems that cannot be agreed on.
    fn tell_alone(
        &mut self,
        away: bool,
        log: Option<&NoticeLog>,
        now: Now,
        out: &mut Vec<NoticeOutput>,
    ) {
        let known = |code: &String| log.is_some_and(|log| log.open.contains_key(code));
        for (code, seen) in self.lasting(now.mono) {
            if away && !known(&code) && !self.alone.contains_key(&code) {
                let told = self.subject.opened(&code, &seen, &self.run, now.wall);
                let notice = self.subject.of_problem(&told, &code, self.baseline.unwrap_or(0));
                out.push(NoticeOutput::Tell(Box::new(notice)));
                self.alone.insert(code, told);
            }
        }
    }

    /// Tells that what was told without Consul is over.
    fn end_alone(&mut self, now: Now, out: &mut Vec<NoticeOutput>) {
        let over: Vec<String> =
            self.alone.keys().filter(|code| !self.problems.contains_key(*code)).cloned().collect();
        for code in over {
            let Some(told) = self.alone.remove(&code) else { continue };
            let generation = self.baseline.unwrap_or(0);
            let notice = self.subject.of_end(&told, &code, generation, now.wall);
            out.push(NoticeOutput::Tell(Box::new(notice)));
        }
    }

    fn is_own(&self, by: &str, run: &str) -> bool {
        by == self.subject.agent && run == self.run
    }

    /// Notes since when agents are gone that have something to tell.
    fn see_agents(&mut self, store: &StoreAnswer, log: &NoticeLog, now: Mono) {
        let baseline = self.baseline.unwrap_or(0);
        let changes = store.history.iter().filter(|change| change.generation > baseline);
        let named = changes.map(|change| &change.by).chain(log.open.values().map(|open| &open.by));
        let told = log.deliveries.iter().filter(|delivery| delivery.notice.is_some());
        let named: BTreeSet<&String> = named.chain(told.map(|delivery| &delivery.by)).collect();
        let gone = |agent: &&&String| !store.agents.contains(**agent);
        let gone: BTreeSet<String> = named.iter().filter(gone).map(|a| (**a).clone()).collect();
        self.gone.retain(|agent, _| gone.contains(agent));
        for agent in gone {
            self.gone.entry(agent).or_insert(now);
        }
    }

    /// That agent tells nothing any more: it has left, or is not to.
    fn is_silent(&self, store: &StoreAnswer, by: &str, now: Mono) -> bool {
        match self.gone.get(by) {
            Some(since) => now - *since >= GONE_FOR_MS,
            None => store.agents.contains(by) && !store.notifying.contains(by),
        }
    }

    /// The same of a loop: one of this agent's own from before tells nothing.
    fn is_over(&self, store: &StoreAnswer, by: &str, run: &str, now: Mono) -> bool {
        match by == self.subject.agent {
            true => run != self.run,
            false => self.is_silent(store, by, now),
        }
    }

    /// The changes since the first look, one after the other: its own are told, those of agents that do not tell any more are
    /// claimed, and all others are waited for.
    fn changes(
        &mut self,
        store: &StoreAnswer,
        log: &NoticeLog,
        next: &mut NoticeLog,
        now: Now,
        out: &mut Vec<NoticeOutput>,
    ) {
        let baseline = self.baseline.unwrap_or(0);
        let mut changes: Vec<&Change> =
            store.history.iter().filter(|change| change.generation > baseline).collect();
        changes.sort_by_key(|change| change.generation);
        let known: BTreeSet<u64> = changes.iter().map(|change| change.generation).collect();
        self.unsettled.retain(|generation, _| known.contains(generation));
        for change in &changes {
            self.unsettled.entry(change.generation).or_insert(now.mono);
        }
        for change in changes {
            let Some(seen) = self.unsettled.get(&change.generation).copied() else { continue };
            let id = self.subject.id_of(change.generation);
            let late = now.mono - seen >= UNNOTED_FOR_MS;
            match log.delivery(&id) {
                Some(Delivery { notice: None, .. }) => continue,
                Some(known) if self.is_own(&known.by, &known.run) => continue,
                Some(known) => {
                    if late || self.is_over(store, &known.by, &known.run, now.mono) {
                        self.claim(change, store, next, now);
                    }
                    return;
                }
                None if self.telling.contains_key(&id) => continue,
                None if change.by == self.subject.agent => {
                    for notice in self.subject.of_change(change, &store.history) {
                        self.begin_telling(notice, out);
                    }
                }
                None => {
                    if late || self.is_silent(store, &change.by, now.mono) {
                        self.claim(change, store, next, now);
                    }
                    return;
                }
            }
        }
    }

    /// This agent is to tell it, once that is written.
    fn claim(&self, change: &Change, store: &StoreAnswer, next: &mut NoticeLog, now: Now) {
        for notice in self.subject.of_change(change, &store.history) {
            next.note(self.begun(notice, now));
        }
    }

    fn begun(&self, notice: Notice, now: Now) -> Delivery {
        Delivery {
            id: notice.id.clone(),
            event: notice.event,
            generation: notice.generation,
            at: now.wall,
            by: self.subject.agent.clone(),
            run: self.run.clone(),
            notice: Some(Box::new(notice)),
            targets: BTreeMap::new(),
        }
    }

    /// What stands in Consul as its own to tell, and was not told yet: oldest first.
    fn tell_claimed(&mut self, log: &NoticeLog, out: &mut Vec<NoticeOutput>) {
        for delivery in log.deliveries.iter().rev() {
            let Some(notice) = &delivery.notice else { continue };
            let own = self.is_own(&delivery.by, &delivery.run);
            if own && !self.telling.contains_key(&delivery.id) {
                let told_by = self.subject.agent.clone();
                self.begin_telling(Notice { told_by, ..(**notice).clone() }, out);
            }
        }
    }

    /// Has it told, and remembers that until it is noted.
    fn begin_telling(&mut self, notice: Notice, out: &mut Vec<NoticeOutput>) {
        self.telling.insert(notice.id.clone(), notice.clone());
        out.push(NoticeOutput::Tell(Box::new(notice)));
    }

    fn forget_what_is_noted(&mut self, log: &NoticeLog) {
        let noted = |id: &String| log.delivery(id).is_some_and(|known| known.notice.is_none());
        self.over.retain(|id, _| !noted(id));
        self.telling.retain(|id, _| !noted(id));
    }

    fn note_what_is_over(&self, next: &mut NoticeLog, now: Now) {
        for (id, targets) in &self.over {
            let Some(notice) = self.telling.get(id) else { continue };
            let begun = self.begun(notice.clone(), now);
            next.note(Delivery { notice: None, targets: targets.clone(), ..begun });
        }
    }

    /// Problems that have lasted and that are over, and whose they are.
    fn agree(
        &mut self,
        store: &StoreAnswer,
        next: &mut NoticeLog,
        generation: u64,
        began: Mono,
        now: Now,
    ) {
        let agent = self.subject.agent.clone();
        for (code, seen) in self.lasting(now.mono) {
            if self.alone.contains_key(&code) {
                continue;
            }
            let Some(open) = next.open.get_mut(&code) else {
                let open = self.subject.opened(&code, &seen, &self.run, now.wall);
                next.note(self.begun(self.subject.of_problem(&open, &code, generation), now));
                next.open.insert(code, open);
                continue;
            };
            if open.passed_on || self.is_over(store, &open.by, &open.run, now.mono) {
                (open.by, open.run, open.passed_on) = (agent.clone(), self.run.clone(), false);
            }
        }
        let alone = store.agents.iter().all(|other| *other == agent);
        let over = |code: &String| {
            !self.problems.contains_key(code) && now.mono - began >= self.debounce_ms
        };
        let over: Vec<String> = next.open.keys().filter(|code| over(code)).cloned().collect();
        self.passing.retain(|code, _| over.contains(code));
        for code in over {
            let Some(open) = next.open.get_mut(&code) else { continue };
            if !self.is_own(&open.by, &open.run) {
                self.passing.remove(&code);
                if self.is_over(store, &open.by, &open.run, now.mono) {
                    (open.by, open.run) = (agent.clone(), self.run.clone());
                    open.passed_on = true;
                }
                continue;
            }
            let passed = open.passed_on;
            open.passed_on = true;
            let since = *self.passing.entry(code.clone()).or_insert(now.mono);
            if alone || (passed && now.mono - since >= PASS_ON_MS) {
                let end = self.subject.of_end(open, &code, generation, now.wall);
                next.open.remove(&code);
                next.note(self.begun(end, now));
            }
        }
    }

    /// What another agent had begun to tell, and will not any more. Changes have their turn ([`Self::changes`]).
    fn retake(&self, store: &StoreAnswer, next: &mut NoticeLog, now: Now) {
        let over: Vec<Notice> = next
            .deliveries
            .iter()
            .filter(|delivery| !self.is_own(&delivery.by, &delivery.run))
            .filter(|delivery| self.is_over(store, &delivery.by, &delivery.run, now.mono))
            .filter_map(|delivery| delivery.notice.as_deref())
            .filter(|notice| notice.code.is_some())
            .cloned()
            .collect();
        for notice in over {
            next.note(self.begun(notice, now));
        }
    }
}
