//! The writer seems to be dead, and nothing proves it: the Sentinels are told to wait for a moment only, look for
//! themselves, and vote.
//!
//! A host whose kernel refuses connections at the instance's own address, after its process has closed the last one,
//! runs no such process, as a rule: what stands before it (a proxy, a firewall) may refuse in its place. So a majority
//! of the agents must see it, every replica that answers must have lost its link, and a majority of the Sentinels their
//! connection. Then `down-after-milliseconds` of as many Sentinels as must agree is set to [`HASTE_MS`], and put back as
//! soon as one is elected. A primary that lives answers them, and nothing happens.
//!
//! Sentinels that begin at the same moment vote each for itself, and elect none (`docs/facts/sentinel.md` 12). So those
//! that only have to agree are told first, and the one that is to lead once they call the writer down: it finds them
//! agreed, and stands alone, for they ask one another no more than once a second.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::known::observed::{DownOpinion, Refusal, SentinelGroup, SentinelSettings};
use crate::known::view::View;
use crate::policy::{
    CLOCKS_APART_MAX_MS, FastFailover, HASTE_DOWN_AFTER_MIN_MS, HASTE_FOR_MS, HASTE_KEPT_MS,
    HASTE_MS, REFUSED_KNOWN_MS,
};
use crate::published::record::HasteRecord;
use crate::situation::proof::{candidates, is_moving, proven};
use crate::time::Mono;

/// What the writer's death is taken from.
struct Suspicion<'a> {
    writer: &'a Address,
    run_id: &'a str,
    evidence: &'static str,
}

/// What is to be written down before the Sentinels are told; `None` when nothing is.
pub fn due(view: &View<'_>) -> Option<HasteRecord> {
    if view.policy.fast_failover != FastFailover::Vote || !view.policy.tell_sentinels {
        return None;
    }
    let suspicion = proved(view).or_else(|| refused(view))?;
    let Suspicion { writer, run_id, evidence } = suspicion;
    let epoch = calm(view, writer)?;
    let (leader, before) = told(view, writer)?;
    let at = view.now.wall;
    let (instance, run_id, evidence) = (writer.clone(), run_id.to_owned(), evidence.to_owned());
    Some(HasteRecord { instance, run_id, evidence, at, epoch, leader, before })
}

/// The kernel of its host says so.
fn proved<'a>(view: &View<'a>) -> Option<Suspicion<'a>> {
    let (writer, death) = proven(view)?;
    Some(Suspicion { writer, run_id: &death.run_id, evidence: death.kind.as_str() })
}

/// A majority of the agents is refused, its replicas have lost their links, and a majority of the Sentinels their
/// connections.
fn refused<'a>(view: &View<'a>) -> Option<Suspicion<'a>> {
    let writer = view.writer()?;
    let refusal = own_refusal(view, writer)?;
    let store = view.observed.store.as_ref()?;
    let same = |agent: &String| {
        store
            .refused
            .get(agent)
            .is_some_and(|note| &note.instance == writer && note.run_id == refusal.run_id)
    };
    let own = &view.policy.agent;
    let others = store.agents.iter().filter(|agent| *agent != own);
    let seeing = 1 + others.clone().filter(|agent| same(agent)).count();
    if seeing * 2 <= 1 + others.count() {
        return None;
    }
    let readings = view.observed.instances.iter().filter(|(address, _)| *address != writer);
    let mut answers = readings.filter_map(|(_, reading)| reading.since(refusal.since)).peekable();
    answers.peek()?;
    let lost = answers.all(|answer| !answer.follows(writer) || answer.is_detached());
    let lost_by = view
        .sentinels()
        .filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)))
        .filter(|(at, group)| {
            let since = view.observed.sentinels.get(*at).is_some_and(|r| r.asked >= refusal.since);
            since && group.disconnected && &group.monitored == writer
        })
        .count();
    (lost && lost_by >= view.tally.majority()).then(|| Suspicion {
        writer,
        run_id: &refusal.run_id,
        evidence: "refused",
    })
}

/// The writer refuses this agent's connections, and has not answered since.
pub fn own_refusal<'a>(view: &View<'a>, writer: &Address) -> Option<&'a Refusal> {
    let refusal = view.observed.refusals.get(writer)?;
    let fresh = view.now.mono - refusal.since <= REFUSED_KNOWN_MS;
    let answered =
        view.observed.instances.get(writer).and_then(|reading| reading.since(refusal.since));
    let life = view.memory.lives.get(writer).is_some_and(|life| life.run_id == refusal.run_id);
    (fresh && answered.is_none() && life).then_some(refusal)
}

/// Nothing else is under way: the epoch at which a majority names the writer.
fn calm(view: &View<'_>, writer: &Address) -> Option<u64> {
    let (tally, record) = (&view.tally, view.record?);
    let elected = tally.elected.as_ref().filter(|elected| &elected.address == writer)?;
    let mut groups = view.groups();
    let busy = groups.any(|group| group.failover.is_some() || group.down == DownOpinion::Objective);
    let again = record
        .haste
        .as_ref()
        .is_some_and(|haste| &haste.instance == writer && haste.epoch == elected.epoch);
    let lately = |at: Option<Mono>| {
        let timeout_ms = view.groups().map(|g| g.settings.failover_timeout_ms).max().unwrap_or(0);
        at.is_some_and(|at| view.now.mono - at < timeout_ms.saturating_mul(2))
    };
    let calm = !busy
        && !again
        && !record.evidence.is_unconfirmed()
        && !is_moving(view)
        && !view.in_maintenance(writer)
        && tally.answering >= tally.majority()
        && candidates(view).next().is_some()
        && !lately(view.memory.hastened.at())
        && !lately(view.memory.superseding.at());
    calm.then_some(elected.epoch)
}

/// Which Sentinels are told, and what each waits for now: as many as must agree, and of them the one that is to lead.
fn told(view: &View<'_>, writer: &Address) -> Option<(Address, BTreeMap<Address, u64>)> {
    // One that is reached at two addresses is one.
    let mut heard = BTreeSet::new();
    let mut well: Vec<(&Address, &SentinelSettings)> = view
        .sentinels()
        .filter(|(_, answer)| !answer.tilt && heard.insert(&answer.id))
        .filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)))
        .filter(|(_, group)| &group.primary == writer)
        .map(|(at, group)| (at, &group.settings))
        .collect();
    let slow = |settings: &SentinelSettings| settings.down_after_ms >= HASTE_DOWN_AFTER_MIN_MS;
    if !well.iter().all(|(_, settings)| slow(settings)) {
        return None;
    }
    // One of another host leads: the writer's may be about to end.
    well.sort_by_key(|(at, _)| (at.host() == writer.host(), *at));
    let (leader, settings) = well.first()?;
    let quorum = usize::try_from(settings.quorum).ok()?.max(1);
    let before: BTreeMap<Address, u64> =
        well.iter().take(quorum).map(|(at, s)| ((*at).clone(), s.down_after_ms)).collect();
    (before.len() == quorum).then(|| ((*leader).clone(), before))
}

/// The Sentinels are still to wait for a moment only.
pub fn is_on(view: &View<'_>, haste: &HasteRecord) -> bool {
    let fresh = view.memory.hastened.at().is_some_and(|at| view.now.mono - at < HASTE_FOR_MS);
    let published = view.record.and_then(|record| record.last_writer.as_ref());
    let same = published.is_some_and(|last| last.address == haste.instance);
    let led = view.groups().any(|group| group.failover.is_some_and(|phase| phase.elected()));
    // What is old, or is there since this agent was started, is over.
    let age_ms = view.now.wall.as_millisecond() - haste.at.as_millisecond();
    let recent = age_ms.unsigned_abs() < CLOCKS_APART_MAX_MS;
    fresh && recent && same && !led && view.instance(&haste.instance).is_none()
}

/// What a Sentinel is to wait for now, in ms, where it has been told to hurry or is to be.
pub fn pace(view: &View<'_>, at: &Address, group: &SentinelGroup) -> Option<u64> {
    let haste = view.record.and_then(|record| record.haste.as_ref())?;
    let before = *haste.before.get(at)?;
    let now = group.settings.down_after_ms;
    if !is_on(view, haste) {
        return (now == HASTE_MS && before != HASTE_MS).then_some(before);
    }
    let agreed = || {
        let mut followers = haste.before.keys().filter(|other| **other != haste.leader);
        followers.all(|other| {
            let answer = view.sentinels().find(|(at, _)| *at == other);
            answer.and_then(|(_, a)| a.group.as_ref()).is_some_and(|g| g.down > DownOpinion::Up)
        })
    };
    let due = now == before && (at != &haste.leader || agreed());
    due.then_some(HASTE_MS)
}

/// Every Sentinel that was told waits as before again, as far as it answers, and no command is on its way any more.
pub fn is_rested(view: &View<'_>, haste: &HasteRecord) -> bool {
    let slow = |at: &Address| {
        let answer = view.sentinels().find(|(other, _)| *other == at);
        let group = answer.and_then(|(_, answer)| answer.group.as_ref());
        group.is_some_and(|group| group.settings.down_after_ms != HASTE_MS)
    };
    // One that is gone for good is waited for no longer.
    let gone = |at: &Address| view.record.is_some_and(|record| !record.sentinels.contains(at));
    let age_ms = view.now.wall.as_millisecond() - haste.at.as_millisecond();
    let kept = (0..HASTE_KEPT_MS).contains(&age_ms);
    !kept && !is_on(view, haste) && haste.before.keys().all(|at| slow(at) || gone(at))
}
