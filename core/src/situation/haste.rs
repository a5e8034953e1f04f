//! The writer seems to be dead, and nothing proves it: the Sentinels are told to wait for a moment only, look for
//! themselves, and vote.
//!
//! A host whose kernel goes on refusing connections at the instance's own address, where a process has answered before,
//! runs no such process, as a rule: what stands before it (a proxy, a firewall) may refuse in its place. So a majority
//! of the agents must see it, every replica that answers must have lost its link, and a majority of the Sentinels their
//! connection. Then `down-after-milliseconds` of as many Sentinels as must agree is set to [`HASTE_MS`] or a little more,
//! and put back as soon as one is elected. A primary that lives answers them, and nothing happens.
//!
//! A Sentinel chooses no replica whose link was lost ten times `down-after-milliseconds` before it called the primary down:
//! with too short a time, told too late, they would elect one of them to choose none, and wait for long. So what they are
//! told depends on how long the writer has been dead ([`pace_of`]).
//!
//! Sentinels that begin at the same moment vote each for itself, and elect none (`docs/facts/sentinel.md` 12). So those
//! that only have to agree are told first, and the one that is to lead once they call the writer down: it finds them
//! agreed, and stands alone, for they ask one another no more than once a second.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::known::observed::{DeathSign, DownOpinion, InstanceAnswer, Refusal, SentinelGroup};
use crate::known::view::View;
use crate::policy::{
    CLOCKS_APART_MAX_MS, FastFailover, HASTE_FOR_MS, HASTE_KEPT_MS, HASTE_LATE_MS, HASTE_MAX_MS,
    HASTE_MS, LINK_DOWN_FACTOR, REFUSED_KNOWN_MS,
};
use crate::published::record::{HASTE_DOWN_AFTER_MIN_MS, HasteRecord, is_haste};
use crate::shown::reasons::{End, NotFast, WhyNotFast};
use crate::situation::proof::{back, candidates, not_asked_lately, proven, undisturbed};
use crate::time::Mono;

/// What is to be written down before the Sentinels are told; `None` when the writer is not taken for dead here, or they
/// are told already.
///
/// # Errors
/// What speaks against it.
pub fn due(view: &View<'_>) -> Result<Option<HasteRecord>, Box<NotFast>> {
    let wanted = view.policy.fast_failover == FastFailover::Vote && view.policy.tell_sentinels;
    let Some(writer) = view.writer().filter(|_| wanted && !is_voting(view)) else {
        return Ok(None);
    };
    // Where it is back, Sentinels that look for themselves find it alive.
    let gone = proven(view).filter(|(_, death)| back(view, writer, death).is_none());
    let (run_id, sign, end, died) = if let Some((_, death)) = gone {
        (&death.run_id, death.sign(), End::Proven(death.pid), death.at)
    } else if let Some(refusal) = own_refusal(view, writer) {
        (&refusal.run_id, DeathSign::Refused, End::Refused(refusal.since), refusal.since)
    } else {
        return Ok(None);
    };
    let haste = || {
        let epoch = calm(view, writer)?;
        if let End::Refused(since) = end {
            refused(view, writer, run_id, since)?;
        }
        let (leader, before) = told(view, writer)?;
        let (instance, run_id) = (writer.clone(), run_id.clone());
        let (evidence, at) = (sign.as_str().to_owned(), view.now.wall);
        let dead_for_ms = dead_for(view, writer, died);
        let pace_ms = pace_of(dead_for_ms, &before);
        // They would elect a leader that gives up, and wait for longer than by themselves.
        if dead_for_ms.saturating_add(HASTE_LATE_MS) > LINK_DOWN_FACTOR * longest(&before) {
            return Err(WhyNotFast::LinksLost { ago_ms: dead_for_ms });
        }
        let answers = None;
        Ok(HasteRecord { instance, run_id, evidence, at, epoch, leader, before, pace_ms, answers })
    };
    match haste() {
        Ok(haste) => Ok(Some(haste)),
        // It is what they are wanted to do.
        Err(WhyNotFast::Failover) => Ok(None),
        Err(why) => Err(Box::new(NotFast { instance: writer.clone(), end: end.clone(), why })),
    }
}

/// How long the writer has been dead, in ms: since this agent saw it, or since its replicas lost their links, for an agent
/// that stood still sees late what they say. Those that had none before it died say nothing of it.
fn dead_for(view: &View<'_>, writer: &Address, died: Mono) -> u64 {
    let answers = view.observed.instances.values().filter_map(|reading| reading.since(died));
    let lost = answers.filter(|answer| answer.follows(writer)).filter_map(|a| a.link_down_s).min();
    (view.now.mono - died).max(lost.unwrap_or(0).saturating_mul(1_000))
}

/// The most that these Sentinels may be told to wait for, in ms.
fn longest(before: &BTreeMap<Address, u64>) -> u64 {
    let least = before.values().min().copied().unwrap_or(HASTE_DOWN_AFTER_MIN_MS);
    odd(least / 2).clamp(HASTE_MS, HASTE_MAX_MS)
}

/// What Sentinels are to wait for, in ms, so that a replica can be chosen at the end of the time that they have. Where the
/// writer died just now that would hold them up, and they have two seconds in any case.
fn pace_of(dead_for_ms: u64, before: &BTreeMap<Address, u64>) -> u64 {
    let called_down_ms = dead_for_ms.saturating_add(HASTE_FOR_MS + HASTE_LATE_MS);
    odd((called_down_ms / LINK_DOWN_FACTOR).min(dead_for_ms / 2)).clamp(HASTE_MS, longest(before))
}

/// The next number below that is told from an operator's ([`is_haste`]).
fn odd(ms: u64) -> u64 {
    ms / 100 * 100 + 1
}

/// It is written down, and they are at it.
pub fn is_voting(view: &View<'_>) -> bool {
    view.record.and_then(|record| record.haste.as_ref()).is_some_and(|haste| is_on(view, haste))
}

/// A majority of the agents is refused, its replicas have lost their links, and a majority of the Sentinels their
/// connections.
fn refused(view: &View<'_>, writer: &Address, run_id: &str, since: Mono) -> Result<(), WhyNotFast> {
    let notes = view.observed.store.as_ref();
    let same = |agent: &&String| {
        let note = notes.and_then(|store| store.refused.get(*agent));
        note.is_some_and(|note| &note.instance == writer && note.run_id == run_id)
    };
    let own = &view.policy.agent;
    let others = notes.into_iter().flat_map(|store| store.agents.iter().filter(|a| *a != own));
    let agents = 1 + others.clone().count();
    let refused = 1 + others.filter(same).count();
    if refused * 2 <= agents {
        return Err(WhyNotFast::NotAllRefused { refused, agents });
    }
    let readings = view.observed.instances.iter().filter(|(address, _)| *address != writer);
    let mut answers =
        readings.filter_map(|(at, reading)| Some((at, reading.since(since)?))).peekable();
    if answers.peek().is_none() {
        return Err(WhyNotFast::ReplicasSilent);
    }
    let linked = |answer: &InstanceAnswer| answer.follows(writer) && !answer.is_detached();
    if let Some((at, _)) = answers.find(|(_, answer)| linked(answer)) {
        return Err(WhyNotFast::Followed(at.clone()));
    }
    let lost = view
        .sentinels()
        .filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)))
        .filter(|(at, group)| {
            let asked = view.observed.sentinels.get(*at).is_some_and(|r| r.asked >= since);
            asked && group.disconnected && &group.monitored == writer
        })
        .count();
    if lost < view.tally.majority() {
        return Err(WhyNotFast::Connected { lost, known: view.tally.known });
    }
    Ok(())
}

/// The writer refuses this agent's connections, and has not answered since.
pub fn own_refusal<'a>(view: &View<'a>, writer: &Address) -> Option<&'a Refusal> {
    let refusal = view.observed.refusals.get(writer)?;
    let fresh = view.now.mono - refusal.latest <= REFUSED_KNOWN_MS;
    let answered =
        view.observed.instances.get(writer).and_then(|reading| reading.since(refusal.since));
    let life = view.memory.lives.get(writer).is_some_and(|life| life.run_id == refusal.run_id);
    (fresh && answered.is_none() && life).then_some(refusal)
}

/// Nothing else is under way: the epoch at which a majority names the writer.
fn calm(view: &View<'_>, writer: &Address) -> Result<u64, WhyNotFast> {
    let epoch = undisturbed(view, writer, DownOpinion::Objective)?;
    if candidates(view).next().is_none() {
        return Err(WhyNotFast::NoReplica);
    }
    not_asked_lately(view)?;
    let same = |haste: &HasteRecord| &haste.instance == writer && haste.epoch == epoch;
    if view.record.and_then(|record| record.haste.as_ref()).is_some_and(same) {
        return Err(WhyNotFast::AskedAtThisEpoch(epoch));
    }
    Ok(epoch)
}

/// Which Sentinels are told, and what each waits for now: as many as must agree, and of them the one that is to lead.
fn told(
    view: &View<'_>,
    writer: &Address,
) -> Result<(Address, BTreeMap<Address, u64>), WhyNotFast> {
    // One that is reached at two addresses is one.
    let mut heard = BTreeSet::new();
    let mut well: Vec<(&Address, &SentinelGroup)> = view
        .sentinels()
        .filter(|(_, answer)| !answer.tilt && heard.insert(&answer.id))
        .filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)))
        .filter(|(_, group)| &group.primary == writer)
        .collect();
    let least = well.iter().map(|(_, group)| group.settings.down_after_ms).min();
    if let Some(ms) = least.filter(|ms| *ms < HASTE_DOWN_AFTER_MIN_MS) {
        return Err(WhyNotFast::DownAfter(ms));
    }
    // One that has a replica to choose leads, and of another host: the writer's may be about to end.
    let finds = |group: &SentinelGroup| candidates(view).any(|address| group.sees(address));
    well.sort_by_key(|(at, group)| (!finds(group), at.host() == writer.host(), *at));
    let (leader, group) = well.first().ok_or(WhyNotFast::TooFew)?;
    if !finds(group) {
        return Err(WhyNotFast::NoSentinel);
    }
    let quorum = usize::try_from(group.settings.quorum).unwrap_or(usize::MAX).max(1);
    if well.len() < quorum {
        return Err(WhyNotFast::TooFew);
    }
    let told = well.iter().take(quorum);
    let told = told.map(|(at, group)| ((*at).clone(), group.settings.down_after_ms));
    Ok(((*leader).clone(), told.collect()))
}

/// Its word for all agents, where the instance has answered this one since: what refuses the others is not its host.
pub fn speaks_for(view: &View<'_>, haste: &HasteRecord) -> Option<String> {
    let seen = view.memory.hastened.at().filter(|_| is_recent(view, haste))?;
    let reading = view.observed.instances.get(&haste.instance)?;
    let answers = reading.asked >= seen && reading.since(seen).is_some();
    (answers && haste.answers.is_none()).then(|| view.policy.agent.clone())
}

/// The Sentinels are still to wait for a moment only.
pub fn is_on(view: &View<'_>, haste: &HasteRecord) -> bool {
    let published = view.record.and_then(|record| record.last_writer.as_ref());
    let same = published.is_some_and(|last| last.address == haste.instance);
    let led = view.groups().any(|group| group.failover.is_some_and(|phase| phase.elected()));
    let silent = view.instance(&haste.instance).is_none() && haste.answers.is_none();
    is_recent(view, haste) && same && !led && silent
}

/// It is not old, and was not there before this agent was started.
fn is_recent(view: &View<'_>, haste: &HasteRecord) -> bool {
    let fresh = view.memory.hastened.at().is_some_and(|at| view.now.mono - at < HASTE_FOR_MS);
    let age_ms = view.now.wall.as_millisecond() - haste.at.as_millisecond();
    fresh && age_ms.unsigned_abs() < CLOCKS_APART_MAX_MS
}

/// What a Sentinel is to wait for now, in ms, where it has been told to hurry or is to be. It is told so once: where it
/// waits as before again, an agent that knows more has put that back. A command that came too late is given again.
pub fn pace(view: &View<'_>, at: &Address, group: &SentinelGroup) -> Option<u64> {
    let haste = view.record.and_then(|record| record.haste.as_ref())?;
    let before = *haste.before.get(at)?;
    let now = group.settings.down_after_ms;
    if view.policy.paused || !is_on(view, haste) {
        return (is_haste(now) && before != now).then_some(before);
    }
    let agreed = || {
        let mut followers = haste.before.keys().filter(|other| **other != haste.leader);
        followers.all(|other| {
            let answer = view.sentinels().find(|(at, _)| *at == other);
            answer.and_then(|(_, a)| a.group.as_ref()).is_some_and(|g| g.down > DownOpinion::Up)
        })
    };
    let asked = view.observed.sentinels.get(at).map_or(view.now.mono, |reading| reading.asked);
    let told = view.memory.has_hurried(at, asked);
    // One that calls it down as soon by itself would stand still to keep that, in the midst of the election.
    let seen_ms = view.memory.hastened.at().map_or(before, |seen| view.now.mono - seen);
    let pace_ms = pace_then(haste, seen_ms, before);
    let sooner = seen_ms.saturating_add(pace_ms) < before;
    let due = now == before && !told && sooner && (at != &haste.leader || agreed());
    due.then_some(pace_ms)
}

/// What one that is told so late is to wait for, in ms: the writer has been silent for longer than that.
fn pace_then(haste: &HasteRecord, seen_ms: u64, before: u64) -> u64 {
    let late_ms = seen_ms.saturating_add(HASTE_LATE_MS).div_ceil(LINK_DOWN_FACTOR);
    let most = HASTE_MAX_MS.max(haste.pace_ms);
    odd(late_ms.saturating_add(99).min(seen_ms / 2).min(before / 2)).clamp(haste.pace_ms, most)
}

/// Every Sentinel that was told waits as before again, as far as it answers, and no command is on its way any more.
pub fn is_rested(view: &View<'_>, haste: &HasteRecord) -> bool {
    let slow = |at: &Address| {
        let answer = view.sentinels().find(|(other, _)| *other == at);
        let group = answer.and_then(|(_, answer)| answer.group.as_ref());
        group.is_some_and(|group| !is_haste(group.settings.down_after_ms))
    };
    // One that is gone for good is waited for no longer.
    let gone = |at: &Address| view.record.is_some_and(|record| !record.sentinels.contains(at));
    let age_ms = view.now.wall.as_millisecond() - haste.at.as_millisecond();
    let kept = (0..HASTE_KEPT_MS).contains(&age_ms);
    !kept && !is_on(view, haste) && haste.before.keys().all(|at| slow(at) || gone(at))
}
