//! The next transaction: the record that a decision asks for, its rows, and the operations that lead to both.

use std::collections::BTreeMap;

use crate::duty::action::{Purpose, Write};
use crate::duty::sentinels::{addresses, ids};
use crate::duty::stale_peers::Forget;
use crate::identity::address::Address;
use crate::known::observed::{DownOpinion, InstanceAnswer, RowsAnswer, StoreAnswer, StoredState};
use crate::known::view::View;
use crate::policy::{FastFailover, IN_DNS_WITHIN_MS, Policy, REPAIR_AGAIN_MS};
use crate::published::agreed::agreed;
use crate::published::projection::{
    Layout, Op, Rows, TXN_OPS_MAX, plain_changes, project, row_changes,
};
use crate::published::publication::{KeepReason, Verdict, WithdrawReason};
use crate::published::record::{
    Basis, Change, DeathRecord, Evidence, HISTORY_LEN_MAX, HasteRecord, InstanceRecord, Level,
    PublishedRole, RECORD_VERSION, Record, Reset, Timeline, Writer, encode,
};
use crate::published::replicas::InstanceRows;
use crate::published::store::RefusedNote;
use crate::published::words::RowWords;
use crate::shown::reasons::Reason;
use crate::situation::data_loss::{Replace, noted};
use crate::situation::haste::{is_rested, own_refusal, speaks_for};
use crate::situation::proof::proven;
use crate::situation::writer::WriterTest;
use crate::time::{Mono, Now, after};

/// Operations of a write that are not rows or plain keys: `state` and `history`.
const FIXED_OPS: usize = 2;
/// What one transaction takes at most, in bytes: Consul's default is 512 KiB, of which the history has some 50.
const TXN_LEN_MAX: usize = 400 * 1_024;
/// What Consul's form of an operation is longer than ours, in bytes at most.
const OP_LEN: usize = 200;

/// After so long an acknowledgement is late, in ms: that is written down by itself.
const ACKNOWLEDGED_LATE_MS: i64 = 1_000;

/// What is to be written.
pub enum WantedWrite {
    /// This transaction.
    Write(Box<Write>),
    /// Nothing: rows and keys were compared with the record, and show it.
    Sound,
    /// No transaction is needed.
    Nothing,
}

/// What is done to a Sentinel once it is written down.
#[derive(Default)]
pub struct Next<'n> {
    /// The Sentinel that is to forget next.
    pub forget: Option<&'n Forget>,
    /// The failover that is to be asked for next.
    pub replace: Option<&'n Replace>,
    /// The failover that is asked for with the withdrawal, since the writer's process has ended.
    pub fast: Option<&'n Replace>,
    /// Why Sentinels are to wait for a moment only.
    pub haste: Option<&'n HasteRecord>,
}

/// The write that the verdict, the roster or a repair asks for; and when all is written, what was seen of this host's
/// instances.
///
/// # Errors
/// [`Reason`]: why nothing can be written.
pub fn write(
    view: &View<'_>,
    layout: &Layout,
    verdict: &Verdict,
    next_to: &Next<'_>,
) -> Result<WantedWrite, Box<Reason>> {
    let done = match published(view, layout, verdict, next_to)? {
        write @ WantedWrite::Write(_) => return Ok(write),
        done => done,
    };
    let noted = refused_here(view, layout)
        .or_else(|| is_quiet(view).then(|| seen_here(view, layout)).flatten());
    Ok(noted.map_or(done, |write| WantedWrite::Write(Box::new(write))))
}

/// A majority names the published writer, and no Sentinel calls it down: a switch does not wait for a write that could
/// have waited.
fn is_quiet(view: &View<'_>) -> bool {
    let elected = view.tally.elected.as_ref().map(|elected| &elected.address);
    elected.is_some()
        && elected == view.writer()
        && view.tally.failovers.is_empty()
        && view.groups().all(|group| group.down == DownOpinion::Up)
}

/// What was seen of the instances on this host, where that is not what is noted; and what was noted of an instance
/// whose history is the group's no more goes.
fn seen_here(view: &View<'_>, layout: &Layout) -> Option<Write> {
    let (store, record) = (view.observed.store.as_ref()?, view.record?);
    let mut ops = Vec::new();
    for (address, answer) in view.policy.local.iter().filter_map(|a| Some((a, view.instance(a)?))) {
        let Some(now) = answer.seen().filter(|now| record.lineage.contains(&now.of)) else {
            continue;
        };
        if !store.seen.get(address).is_some_and(|noted| noted.is_as(&now)) {
            let value = serde_json::to_string(&now).ok()?;
            ops.push(Op::KeySet { key: layout.seen(address), value });
        }
    }
    if !view.policy.local.is_empty() {
        let over = store.seen.iter().filter(|(_, seen)| !record.lineage.contains(&seen.of));
        ops.extend(over.map(|(at, _)| Op::KeyDeleteTree { prefix: layout.seen_dir(at) }));
    }
    let own = layout.refused_dir(&view.policy.agent);
    let note = store.refused.get(&view.policy.agent);
    // Of a writer of before, or of one that answers again.
    let over = |note: &RefusedNote| own_refusal(view, &note.instance).is_none();
    ops.extend(note.filter(|note| over(note)).map(|_| Op::KeyDeleteTree { prefix: own }));
    noted_here(view, layout, ops)
}

/// That the writer refuses this agent, which the others are to know, and do not yet.
fn refused_here(view: &View<'_>, layout: &Layout) -> Option<Write> {
    let (store, writer) = (view.observed.store.as_ref()?, view.writer()?);
    let wanted = view.policy.fast_failover == FastFailover::Vote && view.policy.tell_sentinels;
    let refusal = own_refusal(view, writer).filter(|_| wanted && store.agents.len() > 1)?;
    let note = RefusedNote { instance: writer.clone(), run_id: refusal.run_id.clone() };
    if store.refused.get(&view.policy.agent) == Some(&note) {
        return None;
    }
    let (key, value) = (layout.refused(&view.policy.agent), serde_json::to_string(&note).ok()?);
    noted_here(view, layout, vec![Op::KeySet { key, value }])
}

fn noted_here(view: &View<'_>, layout: &Layout, mut ops: Vec<Op>) -> Option<Write> {
    let store = view.observed.store.as_ref()?;
    if ops.is_empty() {
        return None;
    }
    ops.truncate(TXN_OPS_MAX - 1);
    ops.insert(0, Op::KeyCheckIndex { key: layout.state(), index: store.state_index });
    let (purpose, base_index) = (Purpose::Seen, store.state_index);
    let (record, history, forget, replace) = (None, None, None, None);
    Some(Write { purpose, base_index, record, history, forget, replace, ops })
}

/// Takes over what an agent has just noted of instances.
pub fn take_seen(store: &mut StoreAnswer, layout: &Layout, ops: &[Op]) {
    for op in ops {
        match op {
            Op::KeySet { key, value } => {
                if let Some(name) = layout.history_in(key) {
                    store.note_history(name, value.as_bytes());
                }
                if let Some(agent) = layout.refused_in(key) {
                    store.note_refused(agent, value.as_bytes());
                }
            }
            Op::KeyDeleteTree { prefix } => {
                store.seen.retain(|address, _| layout.seen_dir(address) != *prefix);
                store.refused.retain(|agent, _| layout.refused_dir(agent) != *prefix);
            }
            _ => {}
        }
    }
}

/// The write that the verdict, the roster or a repair asks for.
fn published(
    view: &View<'_>,
    layout: &Layout,
    verdict: &Verdict,
    next_to: &Next<'_>,
) -> Result<WantedWrite, Box<Reason>> {
    let Some(store) = &view.observed.store else { return Ok(WantedWrite::Nothing) };
    let rows = may_write(view, layout, store)?;
    let record = view.record;
    let (mut purpose, mut next) = match (next_record(view, verdict), record) {
        (Some(next), _) => next,
        // Rows can wait until a failover is over; the switch must not lose a race against them.
        (None, Some(record)) if settled(view, record) => match renumbered(view, record, verdict) {
            Some(next) => (Purpose::Publish, next),
            None => (Purpose::InstanceRows, record.clone()),
        },
        (None, _) => return Ok(WantedWrite::Nothing),
    };
    next.instances = InstanceRows::new(view).rows(next.writer_address());
    next.words = agreed(store, &view.policy.agent, record, &next.instances);
    note_whose(view, layout, &mut next);
    let fast =
        next_to.fast.filter(|_| matches!(verdict, Verdict::Withdraw(WithdrawReason::Died { .. })));
    if let Some(fast) = fast {
        next.death = died(view, fast);
    }
    purpose = note_haste(view, &mut next, purpose, next_to.haste);
    if purpose == Purpose::InstanceRows && next_to.replace.is_some() {
        next.data_loss = noted(view, next_to.replace);
        purpose = Purpose::Replace;
    }
    if purpose == Purpose::InstanceRows && Some(&next) == record {
        if let Some(forget) = next_to.forget {
            let number = next.reset.as_ref().map_or(0, |reset| reset.number).saturating_add(1);
            next.reset = Some(Reset { number, sentinel: forget.sentinel.clone() });
            purpose = Purpose::Forget;
        } else {
            let repair = repair(view, layout, store, &next);
            let due = view.tally.failovers.is_empty()
                && better_known(view, store, &next).is_some_and(|better| is_news(store, &better));
            if !due || matches!(repair, Some(WantedWrite::Write(_))) {
                return Ok(repair.unwrap_or(WantedWrite::Nothing));
            }
            purpose = Purpose::Note;
        }
    }
    if purpose == Purpose::InstanceRows && !looked_since_last_change(view) {
        return Ok(WantedWrite::Nothing);
    }
    let base = Base::new(view, rows);
    let changes = fit(layout, &base, store, &mut next);
    if purpose == Purpose::InstanceRows && Some(&next) == record {
        return Err(Box::new(Reason::NoRoom));
    }
    let policy = view.policy;
    next.nonce = format!("{}-{}-{}", policy.agent, policy.run, view.memory.written);
    policy.agent.clone_into(&mut next.by);
    next.v = RECORD_VERSION;
    let forget = next_to.forget.filter(|_| purpose == Purpose::Forget).cloned();
    let replace = next_to.replace.filter(|_| purpose == Purpose::Replace).or(fast).cloned();
    let history = match purpose {
        Purpose::Publish | Purpose::Withdraw => {
            Some(history(store, record, &next, timeline(view, &next)))
        }
        _ => better_known(view, store, &next),
    };
    let ops = transaction(layout, store, &next, changes, history.as_deref());
    let (base_index, record) = (store.state_index, Some(next));
    let write = Write { purpose, base_index, record, history, forget, replace, ops };
    Ok(WantedWrite::Write(Box::new(write)))
}

/// Other nodes show the service that the group is published as: its name would answer with two writers.
pub(crate) fn taken(view: &View<'_>, layout: &Layout) -> Option<Reason> {
    let rows = view.observed.rows.as_ref()?;
    let own = layout.node();
    let others = rows.others.iter().filter(|node| !node.eq_ignore_ascii_case(&own));
    let nodes: Vec<String> = others.cloned().collect();
    let service = view.record.map_or(&view.policy.service, |record| &record.service).primary();
    (!nodes.is_empty()).then_some(Reason::Taken { service, nodes })
}

/// Notes that Sentinels are to wait for a moment only, that the instance answers, or that it is over; what the write is
/// for then.
fn note_haste(
    view: &View<'_>,
    next: &mut Record,
    purpose: Purpose,
    wanted: Option<&HasteRecord>,
) -> Purpose {
    if next.haste.as_ref().is_some_and(|haste| is_rested(view, haste)) {
        next.haste = None;
    }
    let answers = next.haste.as_ref().and_then(|haste| speaks_for(view, haste));
    let says = answers.is_some();
    if let Some(haste) = next.haste.as_mut().filter(|_| says) {
        haste.answers = answers;
    }
    let due = wanted.filter(|_| purpose == Purpose::InstanceRows);
    if let Some(haste) = due {
        next.haste = Some(haste.clone());
    }
    match purpose {
        Purpose::InstanceRows if says || due.is_some() => Purpose::Hasten,
        other => other,
    }
}

/// Notes which Sentinels the record rests on, and whose it is.
fn note_whose(view: &View<'_>, layout: &Layout, next: &mut Record) {
    if let Some(sentinels) = addresses(view) {
        next.sentinels = sentinels;
        next.sentinel_ids = ids(view);
    }
    next.prefix = Some(layout.prefix.clone());
    if next.installation.is_none() {
        next.installation.clone_from(&view.policy.installation);
    }
}

/// The rows as they were found, where nothing speaks against writing any.
fn may_write<'a>(
    view: &View<'a>,
    layout: &Layout,
    store: &StoreAnswer,
) -> Result<&'a RowsAnswer, Box<Reason>> {
    if let StoredState::Unreadable(error) = &store.state {
        let (key, error) = (layout.state(), error.clone());
        return Err(Box::new(Reason::StateUnreadable { key, error }));
    }
    let Some(rows) = &view.observed.rows else {
        return Err(Box::new(Reason::CatalogUnread));
    };
    if rows.is_anothers(layout) {
        return Err(Box::new(Reason::ForeignNode(layout.node())));
    }
    let published = view.record.is_some_and(|record| record.last_writer.is_some());
    if let Some(others) = taken(view, layout).filter(|_| !published) {
        return Err(Box::new(others));
    }
    Ok(rows)
}

/// What is on the node before a write.
enum Base {
    /// What it was found with, or what the record shows; `None` when there is no node.
    Rows(Option<Rows>),
    /// What a lost record has left: all of it goes first.
    Leftovers,
}

impl Base {
    fn new(view: &View<'_>, rows: &RowsAnswer) -> Self {
        match view.record {
            // Another program may have changed the rows: what was found since the record last changed is the truth.
            Some(_) if rows.asked >= view.memory.store_changed => Self::Rows(rows.found.clone()),
            Some(record) => Self::Rows(Some(project(record).rows)),
            None if rows.found.is_some() => Self::Leftovers,
            None => Self::Rows(None),
        }
    }

    fn ops_to(&self, node: &str, rows: &Rows) -> Vec<Op> {
        match self {
            Self::Rows(base) => row_changes(node, base.as_ref(), rows),
            Self::Leftovers => {
                let mut ops = vec![Op::NodeDelete { node: node.to_owned() }];
                ops.extend(row_changes(node, None, rows));
                ops
            }
        }
    }
}

/// No failover is under way, or only one that has its published writer and still points replicas at it.
fn settled(view: &View<'_>, record: &Record) -> bool {
    let writer = record.writer_address().filter(|_| !record.evidence.is_unconfirmed());
    view.tally.failovers.iter().all(|f| writer.is_some() && f.chosen.as_ref() == writer)
}

/// What the rows are made of has been asked for since the record last changed: else two agents with readings of
/// different ages would undo each other's rows.
fn looked_since_last_change(view: &View<'_>) -> bool {
    let since = view.memory.store_changed;
    let sentinels = view.observed.sentinels.values().filter(|r| r.since(since).is_some()).count();
    let writer = view.writer().and_then(|writer| view.observed.instances.get(writer));
    sentinels >= view.tally.majority() && writer.is_none_or(|reading| reading.asked >= since)
}

/// The same writer above a generation that was published before Consul lost its data.
fn renumbered(view: &View<'_>, record: &Record, verdict: &Verdict) -> Option<Record> {
    let seen = view.memory.generation_max;
    let writer = record.writer_address().filter(|_| record.generation < seen)?;
    let sure = matches!(verdict, Verdict::Keep(KeepReason::Confirmed { .. }))
        && matches!(view.test(writer), WriterTest::Passes(_));
    sure.then(|| Record {
        generation: seen.saturating_add(1),
        since: view.now.wall,
        why: format!("generation {seen} had been published before Consul lost its data"),
        ..record.clone()
    })
}

/// The record that the verdict asks for, without its rows; `None` when the writer stays as it is.
fn next_record(view: &View<'_>, verdict: &Verdict) -> Option<(Purpose, Record)> {
    let (policy, now) = (view.policy, view.now);
    let before = view.memory.generation_max.max(view.record.map_or(0, |r| r.generation));
    let generation = before.saturating_add(1);
    match (verdict, view.record) {
        (Verdict::Publish { to, evidence, why }, _) => {
            let mut next = view.record.cloned().unwrap_or_else(|| blank(policy, evidence, now));
            next.generation = generation;
            next.writer = Some(to.clone());
            next.last_writer = Some(to.clone());
            next.claim = None;
            next.data_loss = None;
            if is_another(view, to) {
                // Data of the histories before is no more the group's own: no instance is made to copy what replaced
                // it.
                next.lineage.clear();
            }
            next.note_lineage();
            next.evidence = evidence.clone();
            next.since = now.wall;
            next.why = why.to_string();
            Some((Purpose::Publish, next))
        }
        (Verdict::Withdraw(why), Some(record)) => {
            let mut next = record.clone();
            next.generation = generation;
            next.writer = None;
            next.evidence.basis = Basis::None { votes: next.evidence.basis.votes() };
            next.data_loss = noted(view, None);
            next.since = now.wall;
            next.why = why.to_string();
            Some((Purpose::Withdraw, next))
        }
        (Verdict::Confirm { writer, evidence }, Some(record)) => {
            let mut next = record.clone();
            next.writer = Some(writer.clone());
            next.last_writer = Some(writer.clone());
            next.note_lineage();
            next.evidence = evidence.clone();
            Some((Purpose::Confirm, next))
        }
        (Verdict::Claim(claim), record) => {
            let basis = Basis::Agents;
            let evidence = Evidence { basis, confirmed_epoch: 0, known: view.tally.known };
            let mut next = record.cloned().unwrap_or_else(|| blank(policy, &evidence, now));
            next.claim = Some(claim.clone());
            next.why = claimed(view, claim);
            Some((Purpose::Claim, next))
        }
        (Verdict::Withdraw(_) | Verdict::Confirm { .. } | Verdict::Keep(_), _) => None,
    }
}

/// What the record notes of the writer's death.
fn died(view: &View<'_>, fast: &Replace) -> Option<DeathRecord> {
    let (instance, death) = proven(view)?;
    Some(DeathRecord {
        instance: instance.clone(),
        run_id: death.run_id.clone(),
        pid: death.pid,
        evidence: death.kind.as_str().to_owned(),
        at: view.now.wall_at(death.at),
        sentinel: fast.sentinel.clone(),
        epoch: view.tally.elected.as_ref()?.epoch,
    })
}

/// The writer's data does not go on from any that was published before. (One that has its history anew and stayed where
/// it was has read it from an append-only file, which keeps no name of it.)
fn is_another(view: &View<'_>, to: &Writer) -> bool {
    let Some(last) = view.record.and_then(|record| record.last_writer.as_ref()) else {
        return false;
    };
    let answer = view.instance(&to.address);
    let known = answer.is_some_and(|answer| view.age(answer).is_some());
    let placed = answer.is_some_and(|answer| is_known_by_its_place(view, &to.address, answer));
    let moved = last.address != to.address;
    !known && !placed && (moved || answer.is_some_and(|answer| answer.started_empty))
}

/// A replica of the group that was started from its append-only file, and promoted before it had copied anything: the
/// file does not hold whose data it is. One that was started as a primary may hold what an operator has put there.
fn is_known_by_its_place(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let has_row = view.record.is_some_and(|record| record.role_of(address).is_some());
    has_row && answer.append_only && answer.is_primary() && !answer.not_lately_promoted()
}

pub(crate) fn claimed(view: &View<'_>, claim: &Address) -> String {
    let first = view.record.is_none_or(|record| record.last_writer.is_none());
    let what = if first { "first primary" } else { "primary" };
    format!("{claim} is to become the {what}")
}

fn blank(policy: &Policy, evidence: &Evidence, now: Now) -> Record {
    Record {
        v: RECORD_VERSION,
        group: policy.group.clone(),
        service: policy.service.clone(),
        generation: 0,
        nonce: String::new(),
        by: policy.agent.clone(),
        writer: None,
        last_writer: None,
        evidence: evidence.clone(),
        since: now.wall,
        why: String::new(),
        instances: Vec::new(),
        sentinels: Vec::new(),
        sentinel_ids: Vec::new(),
        prefix: None,
        installation: None,
        lineage: Vec::new(),
        claim: None,
        reset: None,
        data_loss: None,
        death: None,
        haste: None,
        words: BTreeMap::new(),
    }
}

/// Keeps a write within one transaction: what concerns the writer goes first, and of the other
/// instances' changes as many as fit. The rest follow in the next write. What changes then.
fn fit(layout: &Layout, base: &Base, store: &StoreAnswer, next: &mut Record) -> Vec<Op> {
    let all = changes(layout, base, store, next);
    if fits(next, &all) {
        return all;
    }
    let before = store.record();
    let wanted = std::mem::take(&mut next.instances);
    let words = std::mem::take(&mut next.words);
    let concerns_writer = |i: &InstanceRecord| {
        let was = before.and_then(|record| record.role_of(&i.address));
        i.role == PublishedRole::Primary || was == Some(PublishedRole::Primary)
    };
    let kept = before.iter().flat_map(|record| &record.instances);
    next.instances = kept.filter(|i| i.role != PublishedRole::Primary).cloned().collect();
    let kept = before.iter().flat_map(|record| &record.words);
    let kept = kept.filter(|(at, _)| next.role_of(at).is_some());
    next.words = kept.map(|(at, words)| (at.clone(), words.clone())).collect();
    for instance in wanted.iter().filter(|i| concerns_writer(i)) {
        put(next, instance.clone(), &words);
    }
    let gone: Vec<Address> = next
        .instances
        .iter()
        .map(|i| i.address.clone())
        .filter(|address| wanted.iter().all(|w| &w.address != address))
        .collect();
    for address in gone {
        let mut trial = next.clone();
        trial.instances.retain(|i| i.address != address);
        trial.words.remove(&address);
        if fits(&trial, &changes(layout, base, store, &trial)) {
            *next = trial;
        }
    }
    for instance in wanted {
        let mut trial = next.clone();
        put(&mut trial, instance, &words);
        if fits(&trial, &changes(layout, base, store, &trial)) {
            *next = trial;
        }
    }
    changes(layout, base, store, next)
}

/// So many operations, and no more than Consul takes in one transaction. Only the operator's words make a row long.
fn fits(next: &Record, changes: &[Op]) -> bool {
    let json = |op: &Op| serde_json::to_string(op).map_or(0, |json| json.len()) + OP_LEN;
    let len = || encode(next).len() * 4 / 3 + changes.iter().map(json).sum::<usize>();
    FIXED_OPS + changes.len() <= TXN_OPS_MAX && (next.words.is_empty() || len() <= TXN_LEN_MAX)
}

/// What changes behind the fence: rows and plain keys.
fn changes(layout: &Layout, base: &Base, store: &StoreAnswer, next: &Record) -> Vec<Op> {
    let to = project(next);
    let mut ops = base.ops_to(&layout.node(), &to.rows);
    ops.extend(plain_changes(layout, &store.plain, &to.plain));
    ops
}

fn put(record: &mut Record, instance: InstanceRecord, words: &BTreeMap<Address, RowWords>) {
    let (at, instances) = (instance.address.clone(), &mut record.instances);
    instances.retain(|i| i.address != at);
    instances.push(instance);
    instances.sort();
    match words.get(&at) {
        Some(words) => record.words.insert(at, words.clone()),
        None => record.words.remove(&at),
    };
}

fn history(
    store: &StoreAnswer,
    before: Option<&Record>,
    next: &Record,
    timeline: Timeline,
) -> Vec<Change> {
    let level = next.writer.as_ref().map(|_| next.evidence.level());
    // A majority names it already.
    let confirmed = level.filter(|level| *level == Level::Quorum).map(|_| next.since);
    let noted = before.and_then(|record| record.death.as_ref());
    let died = next.death.as_ref().filter(|death| next.writer.is_none() && noted != Some(*death));
    let died = died.map(|death| death.at);
    let change = Change {
        generation: next.generation,
        at: next.since,
        from: before.and_then(Record::writer_address).cloned(),
        to: next.writer_address().cloned(),
        level,
        epoch: next.evidence.basis.epoch(),
        why: next.why.clone(),
        by: next.by.clone(),
        timeline: Timeline { died, confirmed, ..timeline },
    };
    remembered(store, change)
}

/// What this agent saw on the way to the next record, on its own clock.
fn timeline(view: &View<'_>, next: &Record) -> Timeline {
    let (memory, now) = (view.memory, view.now);
    let at = |moment: Option<Mono>| moment.map(|moment| now.wall_at(moment));
    let last = view.record.and_then(|record| record.last_writer.as_ref());
    let answered = memory.writer_answered.as_ref();
    let answered = answered.filter(|(of, _)| last.is_some_and(|last| last.address == *of));
    let withdrawn = view.record.is_some_and(|r| r.writer.is_none() && r.last_writer.is_some());
    let withdrawn = memory.generation.filter(|_| withdrawn && memory.saw_it_begin);
    let haste = view.record.and_then(|record| record.haste.as_ref());
    let hastened = haste.is_some_and(|haste| last.is_some_and(|l| l.address == haste.instance));
    let decided = memory.decided.as_ref();
    let decided = decided.filter(|(of, _)| Some(of) == next.writer_address());
    let decided = decided.map_or(now.mono, |(_, at)| *at);
    Timeline {
        answered: at(answered.map(|(_, at)| *at)),
        died: None,
        hastened: at(memory.hastened.at().filter(|_| hastened)),
        down_agreed: at(memory.steps.down_agreed),
        withdrawn: at(withdrawn.map(|(_, at)| at)),
        selected: at(memory.steps.selected),
        promoted: at(memory.steps.promoted),
        decided: at(next.writer.as_ref().map(|_| decided)),
        acknowledged: None,
        in_dns: None,
        confirmed: None,
    }
}

/// The history with one more change.
pub(crate) fn remembered(store: &StoreAnswer, change: Change) -> Vec<Change> {
    std::iter::once(change).chain(store.history.iter().cloned()).take(HISTORY_LEN_MAX).collect()
}

/// The history with the moments in which Consul had acknowledged the last switch, a majority had followed it, and DNS
/// was seen to; `None` when it has all that is known. This agent's own moments are counted from when it saw the
/// generation in Consul, which the agent that published it did as it was acknowledged.
fn better_known(view: &View<'_>, store: &StoreAnswer, next: &Record) -> Option<Vec<Change>> {
    let memory = view.memory;
    let change = store.history.first().filter(|change| change.generation == next.generation)?;
    change.to.as_ref()?;
    let before = &change.timeline;
    let own = memory.acknowledged.filter(|(generation, _)| *generation == next.generation);
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let acknowledged = own.map(|(_, taken_ms)| after(change.at, ms(taken_ms)));
    let acknowledged = before.acknowledged.or(acknowledged);
    // Who has not seen it begin cannot say how long after that anything was.
    let began =
        memory.generation.filter(|(seen, _)| memory.saw_it_begin && *seen == next.generation);
    let since = |moment: Mono| {
        let (_, began) = began?;
        Some(after(acknowledged.unwrap_or(change.at), ms(moment - began)))
    };
    let follows = change.level == Some(Level::Promotion) && next.evidence.level() == Level::Quorum;
    let confirmed = before.confirmed.or_else(|| since(view.now.mono).filter(|_| follows));
    let seen = memory.in_dns.filter(|(generation, at)| {
        let in_time = began.is_some_and(|(_, began)| *at - began <= IN_DNS_WITHIN_MS);
        in_time && *generation == next.generation
    });
    let in_dns = before.in_dns.or_else(|| since(seen?.1));
    let timeline = Timeline { acknowledged, confirmed, in_dns, ..before.clone() };
    if timeline == *before {
        return None;
    }
    let first = Change { timeline, ..change.clone() };
    Some(std::iter::once(first).chain(store.history.iter().skip(1).cloned()).collect())
}

/// What is known better is worth a write of its own. That Consul acknowledged at once can wait for the next one.
fn is_news(store: &StoreAnswer, better: &[Change]) -> bool {
    let times = |change: &Change| (change.timeline.confirmed, change.timeline.in_dns);
    let (Some(before), Some(now)) = (store.history.first(), better.first()) else { return false };
    let slow = now
        .timeline
        .acknowledged
        .is_some_and(|at| at.as_millisecond() - now.at.as_millisecond() >= ACKNOWLEDGED_LATE_MS);
    slow || times(before) != times(now)
}

/// The whole transaction: the fence, what changes behind it, and the history.
pub(crate) fn transaction(
    layout: &Layout,
    store: &StoreAnswer,
    next: &Record,
    changes: Vec<Op>,
    history: Option<&[Change]>,
) -> Vec<Op> {
    let mut ops =
        vec![Op::KeyCas { key: layout.state(), index: store.state_index, value: encode(next) }];
    ops.extend(changes);
    if let Some(history) = history {
        let value = serde_json::to_string(history).unwrap_or_else(|_| "[]".to_owned());
        ops.push(Op::KeySet { key: layout.history(), value });
    }
    ops
}

/// Puts back rows and keys that another program changed, as the record shows them.
fn repair(
    view: &View<'_>,
    layout: &Layout,
    store: &StoreAnswer,
    record: &Record,
) -> Option<WantedWrite> {
    let rows = view.observed.rows.as_ref();
    // Rows read before the record changed would show differences that are none.
    let rows = rows.filter(|rows| rows.asked >= view.memory.store_changed)?;
    if view.memory.audited == Some((rows.asked, store.asked)) {
        return None;
    }
    if view.memory.repaired.is_some_and(|at| view.now.mono - at < REPAIR_AGAIN_MS) {
        return None;
    }
    let shown = project(record);
    let mut ops = row_changes(&layout.node(), rows.found.as_ref(), &shown.rows);
    ops.extend(plain_changes(layout, &store.plain, &shown.plain));
    if ops.is_empty() {
        return Some(WantedWrite::Sound);
    }
    let guard = Op::KeyCheckIndex { key: layout.state(), index: store.state_index };
    ops.insert(0, guard);
    ops.truncate(TXN_OPS_MAX);
    let base_index = store.state_index;
    let (purpose, record, history) = (Purpose::Repair, None, None);
    let (forget, replace) = (None, None);
    let write = Write { purpose, base_index, record, history, forget, replace, ops };
    Some(WantedWrite::Write(Box::new(write)))
}
