//! Rule 3, the other half: while a promotion waits for its majority, the old primary must not go on
//! taking writes that will be lost.
//!
//! A hold is `CLIENT PAUSE <ms> WRITE`: reads go on, it ends by itself, and Sentinel's own `SLAVEOF` is not held up by
//! it (`docs/facts/sentinel.md` 4.3). It must be short: Sentinel's own PUBLISH is a write, so a Sentinel whose PUBLISH
//! is held gets no answer to the PINGs behind it and calls the instance down, and an instance that it calls down it
//! never turns into a replica. So a hold lasts until the majority has followed, and is not the way to fence an old
//! primary for good. Redis before 6.2 can hold no writes alone: a pause of all clients holds PING and REPLICAOF as
//! well, and cannot be ended, so nothing is held there (`docs/facts/sentinel.md` 19).

use std::collections::BTreeSet;
use std::fmt;

use crate::duty::fence::is_left_for_good;
use crate::identity::address::Address;
use crate::known::memory::{Condition, Origin};
use crate::known::observed::InstanceAnswer;
use crate::known::view::View;
use crate::policy::{CONSUL_SILENT_MS, CUT_OFF_AFTER_MS, HOLD_MS, HOLD_RENEW_MS};
use crate::shown::reasons::{LeftAlone, WhyLeft};
use crate::situation::election::Failover;
use crate::situation::superseded::back_too_soon;
use crate::situation::writer::{WriterTest, share_history};

/// One instance whose writes are to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The instance that gets `CLIENT PAUSE ... WRITE`.
    pub instance: Address,
    /// The reason, which the log and `plan` say.
    pub why: HoldReason,
    /// For how long, in ms.
    pub for_ms: u64,
}

/// Why an instance's writes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldReason {
    /// Another primary has taken its place.
    SupersededBy(Address),
    /// Another one is the writer, and this one was the group's and cannot prove whose data it holds: it is left as it
    /// is, and what it took would be lost.
    Unproven(Address),
    /// Its process had ended, a Sentinel was asked to replace it, and it is back before that is done.
    BeingReplaced,
    /// It is on a host that sees neither Consul nor a majority of the Sentinels: they may have put another
    /// primary in its place, and it cannot know. Or the host saw neither, and does not know yet.
    Isolated,
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SupersededBy(successor) => write!(f, "{successor} has taken its place"),
            Self::Unproven(writer) => {
                write!(f, "{writer} is the writer, and whose data this one holds is not known")
            }
            Self::BeingReplaced => {
                f.write_str("its process had ended, and a Sentinel was asked to replace it")
            }
            Self::Isolated => {
                f.write_str("this host sees neither Consul nor a majority of the Sentinels")
            }
        }
    }
}

/// The instances whose writes are to be held now.
pub fn holds(view: &View<'_>) -> Vec<Hold> {
    let mut holds = superseded(view);
    holds.extend(being_replaced(view));
    holds.extend(isolated(view));
    holds
}

/// What is back before the failover that replaces it has ended. What it took would be lost.
fn being_replaced(view: &View<'_>) -> Option<Hold> {
    let back = back_too_soon(view).filter(|address| view.policy.hold_writes && due(view, address));
    back.map(|address| Hold {
        instance: address.clone(),
        why: HoldReason::BeingReplaced,
        for_ms: HOLD_MS,
    })
}

/// Stray primaries that are left alone because no agent knows what they hold. A primary that a Sentinel lists is about
/// to be made a replica by it, which a hold would keep it from.
pub fn unproven(view: &View<'_>, left: &[LeftAlone]) -> Vec<Hold> {
    let listed = |address: &Address| view.tally.replicas.contains_key(address);
    let due = |left: &&LeftAlone| {
        view.policy.hold_writes && !listed(&left.instance) && due(view, &left.instance)
    };
    let hold = |left: &LeftAlone| match &left.why {
        WhyLeft::Unproven { writer, holds: true, .. } => Some(Hold {
            instance: left.instance.clone(),
            why: HoldReason::Unproven(writer.clone()),
            for_ms: HOLD_MS,
        }),
        _ => None,
    };
    left.iter().filter(due).filter_map(hold).collect()
}

/// This host cannot see that it is not cut off: no majority of the known Sentinels answers, and Consul has not
/// answered since that was noticed. One that was cut off is so until it sees again that its primary still leads:
/// when a network heals, Sentinels answer at once, and Consul only after its servers have elected a leader anew.
pub fn is_isolated(view: &View<'_>) -> bool {
    let was = view.memory.since.contains_key(&Condition::Isolated);
    let mut local = view.policy.local.iter();
    (is_blind(view) && !view.policy.local.is_empty()) || (was && local.any(|a| in_doubt(view, a)))
}

/// We see neither a majority of the known Sentinels nor Consul. A Sentinel that answers and does not know the group is
/// seen: it is about to be told, and can elect none before.
pub fn is_blind(view: &View<'_>) -> bool {
    view.sentinels_answering() < view.tally.majority() && !consul_answers(view)
}

fn consul_answers(view: &View<'_>) -> bool {
    let age_ms = view.observed.store.as_ref().map(|store| view.now.mono - store.asked);
    age_ms.is_some_and(|age_ms| age_ms <= CONSUL_SILENT_MS)
}

/// It led when the host became isolated, and nothing says yet that it still does. Where no agent makes a replica
/// of it, for fencing is off or its data is not the writer's, it is not in doubt but the operator's: Sentinel does not
/// touch one whose writes are held for long.
fn in_doubt(view: &View<'_>, address: &Address) -> bool {
    let address = view.alias_of(address).unwrap_or(address);
    let answer = view.instance(address);
    let replica = answer.is_some_and(InstanceAnswer::is_replica);
    let last = view.record.and_then(|record| record.last_writer.as_ref());
    let led = last.is_some_and(|last| &last.address == address)
        || answer.is_some_and(|a| view.memory.origin(address, &a.run_id) == Origin::WasWriter);
    let leads = match &view.tally.elected {
        Some(elected) => &elected.address == address,
        None => consul_answers(view) && view.writer() == Some(address),
    };
    let left = || answer.is_some_and(|answer| is_left_for_good(view, address, answer));
    view.policy.fence && led && !replica && !leads && !left()
}

/// A hold ends by itself, so nothing is left behind when the agent dies or the network heals.
fn isolated(view: &View<'_>) -> Vec<Hold> {
    let primaries = isolated_primaries(view);
    primaries
        .filter(|(address, answer)| answer.can_hold_writes() && due(view, address))
        .map(|(address, _)| Hold {
            instance: address.clone(),
            why: HoldReason::Isolated,
            for_ms: HOLD_MS,
        })
        .collect()
}

/// The primaries of this host, once it has been isolated for long enough: their writes are to be held.
pub fn isolated_primaries<'a>(
    view: &View<'a>,
) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> + use<'a> {
    let lasted = view.memory.lasted(&Condition::Isolated, CUT_OFF_AFTER_MS, view.now);
    let held = view.policy.hold_when_cut_off && view.record.is_some() && lasted;
    let local: &'a BTreeSet<Address> = &view.policy.local;
    let (observed, recent) = (view.observed, view.recent);
    let local = local.iter().filter(move |_| held);
    local
        .filter_map(move |address| Some((address, observed.instances.get(address)?.since(recent)?)))
        .filter(|(_, answer)| answer.is_primary())
}

fn due(view: &View<'_>, address: &Address) -> bool {
    let last = view.memory.held.get(address);
    last.is_none_or(|at| view.now.mono - *at >= HOLD_RENEW_MS)
}

/// The instances that another primary has superseded.
///
/// An instance is superseded when it says it is a primary while the one replica that a leader has chosen
/// says so too and shares its history. An instance of unrelated history is none of ours.
fn superseded(view: &View<'_>) -> Vec<Hold> {
    if !view.policy.hold_writes {
        return Vec::new();
    }
    let Some(successor) = successor(view) else { return Vec::new() };
    let WriterTest::Passes(new) = view.test(&successor) else { return Vec::new() };
    view.observed
        .instances
        .iter()
        .filter(|(address, _)| **address != successor && due(view, address))
        .filter_map(|(address, reading)| Some((address, reading.since(view.since)?)))
        .filter(|(_, answer)| answer.is_primary())
        .filter(|(_, answer)| answer.can_hold_writes())
        .filter(|(_, answer)| share_history(answer, new) && answer.run_id != new.run_id)
        .map(|(address, _)| Hold {
            instance: address.clone(),
            why: HoldReason::SupersededBy(successor.clone()),
            for_ms: HOLD_MS,
        })
        .collect()
}

/// The choice of the only leader, until a majority names it.
fn successor(view: &View<'_>) -> Option<Address> {
    // A failover that the majority has already passed by has no successor to offer, and one that takes for ever
    // must not hold an instance for ever.
    let confirmed = view.record.map_or(0, |record| record.evidence.confirmed_epoch);
    let current = |failover: &&Failover| failover.epoch.is_none_or(|epoch| epoch > confirmed);
    let chosen: BTreeSet<&Address> = view
        .tally
        .failovers
        .iter()
        .filter(current)
        .filter_map(|failover| failover.chosen.as_ref())
        .collect();
    let only = chosen.first().copied().filter(|_| chosen.len() == 1)?;
    let followed = view.tally.elected.as_ref().is_some_and(|elected| &elected.address == only);
    let promoted = view.memory.promoted.as_ref().filter(|(address, _)| address == only);
    let overdue =
        promoted.is_some_and(|(_, at)| view.now.mono - *at > view.policy.confirm_within_ms);
    (!followed && !overdue).then(|| only.clone())
}
