//! Stale peers: Sentinels and replicas that are gone for good.
//!
//! A Sentinel never forgets either by itself: a dead Sentinel counts in every majority for ever, a dead replica is
//! asked for ever. The only way is `SENTINEL RESET`, which makes it forget all peers and find the living again, and
//! which does harm in the wrong moment. So it is done by the book (`docs/facts/sentinel.md` 5): one Sentinel at a time,
//! the next no sooner than 30 s later and only when the last one knows all peers again, and only while all of them
//! agree that nothing is going on. Which one is next is written into `state` first, so that any number of agents do it
//! once.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::known::memory::Condition;
pub use crate::known::memory::StalePeer;
use crate::known::observed::{Role, SentinelAnswer, SentinelGroup, SentinelId};
use crate::known::view::View;
use crate::policy::RESET_GAP_MS;
use crate::shown::reasons::{NotAtRest, NotForgotten};
use crate::situation::writer::WriterTest;

/// One Sentinel that is to get `SENTINEL RESET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// The Sentinel that gets the command.
    pub sentinel: Address,
    /// The primary that it must still name when it is reset.
    pub primary: Address,
    /// The stale peers that it lists and is to forget.
    pub stale_peers: Vec<StalePeer>,
}

impl Forget {
    /// What was decided still holds for what the Sentinel says now.
    pub fn still_holds(&self, now: &SentinelAnswer) -> bool {
        let Some(group) = &now.group else { return false };
        let quiet = !now.tilt && is_quiet(group, &self.primary);
        let holds = |stale_peer: &StalePeer| holds_for_dead(&now.id, group, stale_peer);
        quiet && self.stale_peers.iter().any(holds)
    }

    /// The stale peers in words, for the log and the record.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.stale_peers.iter().map(ToString::to_string).collect();
        names.join(", ")
    }
}

/// The peers that no Sentinel hears any more, for [`crate::known::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    if view.tally.answering < view.tally.majority() {
        return BTreeSet::new();
    }
    let silent = silent(view).into_iter();
    silent
        .map(|stale_peer| match stale_peer {
            StalePeer::Sentinel(id, _) => Condition::SentinelSilent(id),
            StalePeer::Replica(address) => Condition::ReplicaSilent(address),
        })
        .collect()
}

/// The peers that have been silent for so long that they are to be forgotten.
pub fn stale_peers(view: &View<'_>) -> BTreeSet<StalePeer> {
    let silence =
        |c: &Condition| matches!(c, Condition::SentinelSilent(_) | Condition::ReplicaSilent(_));
    if !view.memory.since.keys().any(silence) {
        return BTreeSet::new();
    }
    let gone = |stale_peer: &StalePeer| match stale_peer {
        StalePeer::Sentinel(id, _) => {
            let silent = Condition::SentinelSilent(id.clone());
            view.memory.lasted(&silent, view.policy.forget_sentinels_after_ms, view.now)
        }
        StalePeer::Replica(address) => {
            let silent = Condition::ReplicaSilent(address.clone());
            view.memory.lasted(&silent, view.policy.forget_after_ms, view.now)
        }
    };
    silent(view).into_iter().filter(gone).collect()
}

/// The Sentinel that is to forget next, when there is something to forget and nothing speaks against it.
///
/// # Errors
/// What speaks against it now.
pub fn forget(view: &View<'_>) -> Result<Option<Forget>, Box<NotForgotten>> {
    if !view.policy.forget_ghosts {
        return Ok(None);
    }
    let stale_peers = stale_peers(view);
    let Some(first) = stale_peers.first() else { return Ok(None) };
    let wait = |why: NotAtRest| Box::new(NotForgotten { stale_peer: first.clone(), why });
    let writer = quiet_writer(view).map_err(wait)?;
    all_know_the_living(view, writer, &stale_peers).map_err(wait)?;
    let recent = [Some(view.memory.generation_seen()), view.memory.reset.at()];
    if recent.into_iter().flatten().any(|at| view.now.mono - at < RESET_GAP_MS) {
        return Ok(None);
    }
    let next = heard(view).into_iter().find_map(|(id, (sentinel, group))| {
        let its: Vec<StalePeer> = stale_peers
            .iter()
            .filter(|stale_peer| holds_for_dead(id, group, stale_peer))
            .cloned()
            .collect();
        let (sentinel, primary) = (sentinel.clone(), writer.clone());
        (!its.is_empty()).then_some(Forget { sentinel, primary, stale_peers: its })
    });
    Ok(next)
}

/// The peers that all Sentinels which know them call down, and that do not answer us either.
fn silent(view: &View<'_>) -> BTreeSet<StalePeer> {
    let heard: BTreeSet<&SentinelId> = view.sentinels().map(|(_, answer)| &answer.id).collect();
    let listed = connected(view);
    let mut sentinels: BTreeMap<(&SentinelId, &Address), bool> = BTreeMap::new();
    let mut replicas: BTreeMap<&Address, bool> = BTreeMap::new();
    for group in view.groups() {
        for peer in group.peers.iter().filter(|peer| !heard.contains(&peer.id)) {
            *sentinels.entry((&peer.id, &peer.address)).or_insert(true) &= peer.s_down;
        }
        for replica in &group.replicas {
            let speaks =
                listed.contains(&replica.address) || view.instance(&replica.address).is_some();
            let down = replica.s_down && !speaks && !replica.promoted;
            *replicas.entry(&replica.address).or_insert(true) &= down;
        }
    }
    let sentinels = sentinels.into_iter().filter(|(_, down)| *down);
    let sentinels = sentinels.map(|((id, at), _)| StalePeer::Sentinel(id.clone(), at.clone()));
    let replicas = replicas.into_iter().filter(|(_, down)| *down);
    let replicas = replicas.map(|(address, _)| StalePeer::Replica(address.clone()));
    sentinels.chain(replicas).chain(listed_by_themselves(view)).collect()
}

/// The Sentinels that list themselves, which they do for ever (`docs/facts/sentinel.md` 22): each counts itself twice.
fn listed_by_themselves(view: &View<'_>) -> Vec<StalePeer> {
    let itself = |(_, answer): (&Address, &SentinelAnswer)| {
        let itself = answer.group.as_ref()?.peers.iter().find(|peer| peer.id == answer.id)?;
        Some(StalePeer::Sentinel(itself.id.clone(), itself.address.clone()))
    };
    view.sentinels().filter_map(itself).collect()
}

/// The replicas that the writer has online.
fn connected<'a>(view: &View<'a>) -> BTreeSet<&'a Address> {
    let writer = view.writer().and_then(|writer| view.instance(writer));
    match writer.map(|writer| &writer.role) {
        Some(Role::Primary { replicas }) => {
            replicas.iter().filter(|r| r.online).map(|r| &r.address).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// What each Sentinel says, once each, and where it is reached.
fn heard<'a>(view: &View<'a>) -> BTreeMap<&'a SentinelId, (&'a Address, &'a SentinelGroup)> {
    let answers = view.sentinels();
    answers.filter_map(|(at, answer)| Some((&answer.id, (at, answer.group.as_ref()?)))).collect()
}

/// The writer, when everything is at rest around it.
fn quiet_writer<'a>(view: &View<'a>) -> Result<&'a Address, NotAtRest> {
    let record = view.record.ok_or(NotAtRest::NothingPublished)?;
    let writer = record.writer_address().ok_or(NotAtRest::NoWriter)?;
    if record.evidence.is_unconfirmed() {
        return Err(NotAtRest::Unconfirmed(writer.clone()));
    }
    if !matches!(view.test(writer), WriterTest::Passes(_)) {
        return Err(NotAtRest::NotPrimary(writer.clone()));
    }
    for (sentinel, answer) in view.sentinels() {
        let Some(group) = &answer.group else {
            return Err(NotAtRest::Blank(sentinel.clone()));
        };
        if answer.tilt || !is_quiet(group, writer) {
            return Err(NotAtRest::Busy(sentinel.clone()));
        }
    }
    Ok(writer)
}

fn is_quiet(group: &SentinelGroup, writer: &Address) -> bool {
    group.only_master_flag
        && group.failover.is_none()
        && &group.primary == writer
        && &group.monitored == writer
}

/// Every Sentinel is heard, or is stale; and each knows all the others that are heard, and every replica: the last
/// Sentinel that was reset has found all peers again.
fn all_know_the_living(
    view: &View<'_>,
    writer: &Address,
    stale_peers: &BTreeSet<StalePeer>,
) -> Result<(), NotAtRest> {
    let heard = heard(view);
    if heard.len() < view.tally.majority() {
        return Err(NotAtRest::NoMajority);
    }
    // No Sentinel ever shows one that is not announced (`replica-announced no`).
    let shows = |group: &SentinelGroup, replica: &Address| {
        group.replicas.iter().any(|listed| &listed.address == replica)
    };
    let announced = |replica: &&Address| match view.instance(replica) {
        Some(own) => own.announced,
        None => view.groups().any(|group| shows(group, replica)),
    };
    let replicas: BTreeSet<&Address> = connected(view).into_iter().filter(announced).collect();
    for (id, (sentinel, group)) in &heard {
        for peer in &group.peers {
            let stale_peer = StalePeer::Sentinel(peer.id.clone(), peer.address.clone());
            if !heard.contains_key(&peer.id) && !stale_peers.contains(&stale_peer) {
                return Err(NotAtRest::MayBeAlive(peer.address.clone()));
            }
        }
        let knows =
            |other: &SentinelId| group.peers.iter().any(|peer| &peer.id == other && !peer.s_down);
        if let Some(other) = heard.keys().find(|other| **other != *id && !knows(other)) {
            let peer = heard.get(*other).map(|(at, _)| (*at).clone());
            return Err(NotAtRest::PeerUnknown { sentinel: (*sentinel).clone(), peer });
        }
        if let Some(missing) = replicas.iter().find(|a| **a != writer && !group.sees(a)) {
            let (sentinel, replica) = ((*sentinel).clone(), (*missing).clone());
            return Err(NotAtRest::ReplicaUnknown { sentinel, replica });
        }
    }
    Ok(())
}

/// The Sentinel `own` lists the stale peer, and calls it down, or is it itself.
fn holds_for_dead(own: &SentinelId, group: &SentinelGroup, stale_peer: &StalePeer) -> bool {
    match stale_peer {
        StalePeer::Sentinel(id, _) => {
            group.peers.iter().any(|peer| &peer.id == id && (peer.s_down || id == own))
        }
        StalePeer::Replica(address) => {
            group.replicas.iter().any(|replica| &replica.address == address && replica.s_down)
        }
    }
}
