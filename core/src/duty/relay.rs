//! Telling the other Sentinels how an election ended, where its leader does not tell them itself.
//!
//! The outcome of an election is unique: a majority of the Sentinels voted for one leader at one epoch, the leader
//! chose one replica, and the replica obeyed. For up to a second only the leader knows that. If it dies then, the
//! others elect another replica, and what was written meanwhile is lost. A hello that says what the leader is about to
//! say makes them follow at once, and elect no other (`docs/facts/sentinel.md` 14).
//!
//! A forced failover (`SENTINEL FAILOVER`) has no votes, and another Sentinel may have its epoch. It is told only while
//! no other has begun anything: none calls the old primary down, none was voted for since, and all name the old one. Then
//! the epoch is one that no election can have ([`FORCED_EPOCH_AHEAD`]).

use std::fmt;

use crate::identity::address::{Address, GroupName};
use crate::known::memory::Election;
use crate::known::observed::{
    DownOpinion, FailoverPhase, SentinelAnswer, SentinelGroup, SentinelId,
};
use crate::known::view::View;
use crate::policy::{
    Announce, FORCED_EPOCH_AHEAD, LEADER_SILENT_MS, RELAY_AGAIN_MS, TELL_WITHIN_MS,
};
use crate::situation::election::{elected_by, led_in_silence};
use crate::situation::writer::{Lineage, WriterTest};

/// The outcome of an election, to be told to one Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The Sentinel that is told.
    pub sentinel: Address,
    /// The Sentinel that was elected.
    pub leader: SentinelId,
    /// The leader's address, as the Sentinel that is told lists it.
    pub leader_at: Address,
    /// The epoch of the election.
    pub epoch: u64,
    /// The failover was forced, and its epoch is ours.
    pub forced: bool,
    /// The primary that the Sentinel still names.
    pub old: Address,
    /// The replica that the leader chose, and that is a primary now.
    pub chosen: Address,
    /// Why the leader does not do it.
    pub why: RelayReason,
}

/// Why agents tell what the leader would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayReason {
    /// The leader does not answer, or has closed its connection.
    Silent,
    /// The leader answers, and leads no failover any more.
    GaveUp,
    /// No majority has heard of it for long.
    Late,
    /// The operator wants it at once (`announce = "eager"`).
    Eager,
}

impl fmt::Display for RelayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the leader does not answer",
            Self::GaveUp => "the leader has given up the failover, or was started again",
            Self::Late => "the leader has told no majority in time",
            Self::Eager => "announce = \"eager\"",
        })
    }
}

impl Relay {
    /// The hello of the leader, as Sentinels say it to one another.
    pub fn hello(&self, group: &GroupName) -> String {
        let Self { leader, leader_at, epoch, chosen, .. } = self;
        format!(
            "{},{},{},{epoch},{group},{},{},{epoch}",
            leader_at.host(),
            leader_at.port(),
            leader.0,
            chosen.host(),
            chosen.port()
        )
    }

    /// What was decided still holds for what the Sentinel says now.
    pub fn still_holds(&self, now: &SentinelAnswer) -> bool {
        let Self { leader, epoch, old, chosen, .. } = self;
        let calm = !self.forced || now.group.as_ref().is_some_and(is_calm);
        calm && lacks(now, leader, *epoch, (old, chosen)) == Some(&self.leader_at)
    }
}

/// It may be about to begin no election.
fn is_calm(group: &SentinelGroup) -> bool {
    group.down == DownOpinion::Up && group.failover.is_none()
}

/// The Sentinel has yet to hear how the election ended, and leads none itself: where it knows the leader. A hello whose
/// sender a Sentinel does not know would bring another Sentinel into its list.
fn lacks<'a>(
    answer: &'a SentinelAnswer,
    leader: &SentinelId,
    epoch: u64,
    (old, chosen): (&Address, &Address),
) -> Option<&'a Address> {
    let group = answer.group.as_ref().filter(|_| &answer.id != leader)?;
    let led = group.failover.is_some_and(FailoverPhase::elected);
    let listed = group.replicas.iter().any(|replica| &replica.address == chosen);
    if group.config_epoch >= epoch || &group.primary != old || led || !listed {
        return None;
    }
    group.peers.iter().find(|peer| &peer.id == leader).map(|peer| &peer.address)
}

/// The last election whose outcome was seen, for [`crate::known::memory::Memory::election`]: what was remembered, or a
/// newer one.
pub fn election(view: &View<'_>) -> Option<Election> {
    let known = view.memory.election.as_ref().filter(|known| !is_over(view, known));
    let newest = view.sentinels().filter_map(|(_, answer)| won(view, answer));
    let newest = newest.max_by_key(|election| election.epoch);
    // Of one epoch there is one outcome: the one that was seen first stays, with when it was.
    let mut election = match (known, newest) {
        (Some(known), Some(new)) if is_newer(&new, known) => new,
        (None, Some(new)) => new,
        (known, _) => known?.clone(),
    };
    if election.promoted.is_none() && promoted(view, &election).is_some() {
        election.promoted = Some(view.now.mono);
    }
    Some(election)
}

/// The highest epoch that was seen when it was.
fn seen_at(election: &Election) -> u64 {
    let ahead = if election.forced { FORCED_EPOCH_AHEAD } else { 0 };
    election.epoch.saturating_sub(ahead)
}

fn is_newer(new: &Election, known: &Election) -> bool {
    let another = (&new.leader, &new.chosen) != (&known.leader, &known.chosen);
    match new.forced {
        true => (another || !known.forced) && seen_at(new) >= seen_at(known),
        false => new.epoch > seen_at(known),
    }
}

/// The Sentinel leads a failover for which a majority voted, or that was forced, and has chosen a replica.
fn won(view: &View<'_>, answer: &SentinelAnswer) -> Option<Election> {
    let group = answer.group.as_ref()?;
    let chosen = group.replicas.iter().find(|replica| replica.promoted)?;
    let of = |epoch, forced| Election {
        leader: answer.id.clone(),
        epoch,
        forced,
        old: group.monitored.clone(),
        chosen: chosen.address.clone(),
        seen: view.now.mono,
        promoted: None,
    };
    let Some((epoch, votes)) = elected_by(answer, group) else {
        let forced = group.failover.is_some_and(FailoverPhase::elected) && !group.peers.is_empty();
        return forced.then(|| of(highest_epoch(view).saturating_add(FORCED_EPOCH_AHEAD), true));
    };
    if view.memory.voted_before.get(&answer.id).is_some_and(|before| *before >= epoch) {
        return None;
    }
    (votes >= view.tally.majority()).then(|| of(epoch, false))
}

/// The highest epoch that any Sentinel shows, or that was recorded.
fn highest_epoch(view: &View<'_>) -> u64 {
    let in_force = view.groups().map(|group| group.config_epoch);
    let voted = view.sentinels().flat_map(|(_, answer)| answer.votes());
    let recorded = view.record.map_or(0, |record| record.evidence.confirmed_epoch);
    in_force.chain(voted).max().unwrap_or(0).max(recorded)
}

/// A majority has followed it, or a newer one.
fn is_over(view: &View<'_>, election: &Election) -> bool {
    view.tally.elected.as_ref().is_some_and(|elected| {
        elected.epoch >= election.epoch || (election.forced && elected.address != election.old)
    })
}

/// The chosen replica says, since the election was seen, that it is the primary, and goes on from what was published.
fn promoted(view: &View<'_>, election: &Election) -> Option<()> {
    let reading = view.observed.instances.get(&election.chosen)?;
    let WriterTest::Passes(answer) = view.test(&election.chosen) else { return None };
    let ours = Lineage::of(answer, view.record) != Lineage::Unrelated;
    (reading.asked >= election.seen && ours).then_some(())
}

/// The Sentinels that are to be told now.
pub fn relays(view: &View<'_>) -> Vec<Relay> {
    let Some(election) = view.memory.election.as_ref().filter(|_| view.policy.relay) else {
        return Vec::new();
    };
    if is_over(view, election) || promoted(view, election).is_none() || is_disputed(view, election)
    {
        return Vec::new();
    }
    let Some(why) = untold(view, election) else { return Vec::new() };
    let Election { leader, epoch, forced, old, chosen, .. } = election;
    view.sentinels()
        .filter_map(|(sentinel, answer)| {
            let leader_at = lacks(answer, leader, *epoch, (old, chosen))?.clone();
            let last = view.memory.relayed.get(sentinel).filter(|(told, _)| told == epoch);
            let due = last.is_none_or(|(_, at)| view.now.mono - *at >= RELAY_AGAIN_MS);
            let (sentinel, leader, epoch) = (sentinel.clone(), leader.clone(), *epoch);
            let (old, chosen, forced) = (old.clone(), chosen.clone(), *forced);
            due.then_some(Relay { sentinel, leader, leader_at, epoch, forced, old, chosen, why })
        })
        .collect()
}

/// Another failover is under way, or a Sentinel names another primary at that epoch or a later one.
fn is_disputed(view: &View<'_>, election: &Election) -> bool {
    let silent = led_in_silence(view.observed, view.recent);
    let mut failovers = view.tally.failovers.iter().chain(&silent);
    let later = |group: &SentinelGroup| {
        group.config_epoch >= election.epoch && group.primary != election.chosen
    };
    let own = |leader: &Address| election.forced && leads_at(view, election, leader);
    failovers.any(|f| f.chosen.as_ref() != Some(&election.chosen) || (f.forced && !own(&f.leader)))
        || view.groups().any(later)
        || (election.forced && may_be_overtaken(view, election))
}

/// The leader was last heard at this address.
fn leads_at(view: &View<'_>, election: &Election, at: &Address) -> bool {
    let readings = [view.observed.sentinels.get(at), view.observed.sentinels_answered.get(at)];
    let mut answers = readings.into_iter().flatten().filter_map(|r| r.result.as_ref().ok());
    answers.any(|answer| answer.id == election.leader)
}

/// Another Sentinel has begun an election since a failover was forced, or may be about to, or has ended one.
fn may_be_overtaken(view: &View<'_>, election: &Election) -> bool {
    let others = view.sentinels().filter(|(_, answer)| answer.id != election.leader);
    let since = seen_at(election);
    let mut others = others.filter_map(|(_, answer)| Some((answer, answer.group.as_ref()?)));
    others.any(|(answer, group)| {
        let newer = group.config_epoch > since && group.config_epoch < election.epoch;
        let follows = group.primary == election.chosen;
        newer || answer.votes().any(|epoch| epoch > since) || (!follows && !is_calm(group))
    })
}

/// Why agents tell the others; `None` while the leader may yet. Where the operator wants it at once it is told whatever the
/// leader does, so a leader whose disk keeps it from answering is no reason.
fn untold(view: &View<'_>, election: &Election) -> Option<RelayReason> {
    if view.policy.announce == Announce::Eager {
        return Some(RelayReason::Eager);
    }
    let readings = view.observed.sentinels.values();
    let mut answers = readings.filter_map(|reading| Some((reading, reading.result.as_ref().ok()?)));
    let Some((reading, answer)) = answers.find(|(_, answer)| answer.id == election.leader) else {
        return Some(RelayReason::Silent);
    };
    if view.now.mono - reading.asked > LEADER_SILENT_MS {
        return Some(RelayReason::Silent);
    }
    let goes_on = answer.group.as_ref().is_some_and(|group| {
        group.failover.is_some_and(FailoverPhase::elected) || group.config_epoch >= election.epoch
    });
    if !goes_on {
        return Some(RelayReason::GaveUp);
    }
    let late = election.promoted.is_some_and(|at| view.now.mono - at > TELL_WITHIN_MS);
    late.then_some(RelayReason::Late)
}

/// The Sentinels that do not let this agent tell them, and their words, where too few others are left: a promotion
/// could be lost with its leader, so a writer is published when a majority names it.
pub fn refusing<'v>(view: &'v View<'_>) -> Vec<(&'v Address, &'v str)> {
    if !view.policy.relay {
        return Vec::new();
    }
    let refuse: Vec<(&Address, &str)> = view
        .sentinels()
        .filter(|(_, answer)| answer.group.is_some())
        .filter_map(|(at, answer)| Some((at, answer.refuses_relay.as_deref()?)))
        .collect();
    // One of the others leads.
    let left = view.tally.known.saturating_sub(refuse.len() + 1);
    if left >= view.tally.majority() { Vec::new() } else { refuse }
}
