//! Rule 3, the other half: while a promotion waits for its majority, the old primary must not go on
//! taking writes that will be lost.
//!
//! A hold is `CLIENT PAUSE <ms> WRITE`: reads go on, it ends by itself, and Sentinel's own `SLAVEOF` is not
//! held up by it (`docs/facts/sentinel.md` 4.3). It must be short: Sentinel's own PUBLISH is a write, so a
//! Sentinel whose PUBLISH is held gets no answer to the PINGs behind it and calls the instance down, and
//! one that it calls down it never turns into a replica. So a hold lasts until the majority has followed,
//! and is not the way to fence an old primary for good.

use std::collections::BTreeSet;

use super::address::Address;
use super::observed::Role;
use super::policy::{HOLD_MS, HOLD_RENEW_MS};
use super::view::View;
use super::writer::{WriterTest, share_history};

/// One instance whose writes are to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The instance.
    pub instance: Address,
    /// The primary that has taken its place.
    pub superseded_by: Address,
    /// For how long, in ms.
    pub for_ms: u64,
}

/// The instances whose writes are to be held now.
///
/// An instance is superseded when it says it is a primary while the one replica that a leader has chosen
/// says so too and shares its history. An instance of unrelated history is none of ours.
pub fn holds(view: &View<'_>) -> Vec<Hold> {
    if !view.policy.hold_writes {
        return Vec::new();
    }
    let Some(successor) = successor(view) else { return Vec::new() };
    let WriterTest::Passes(new) = view.test(&successor) else { return Vec::new() };
    let due = |address: &Address| {
        let last = view.memory.held.get(address);
        last.is_none_or(|at| view.now.mono - *at >= HOLD_RENEW_MS)
    };
    view.observed
        .instances
        .iter()
        .filter(|(address, _)| **address != successor && due(address))
        .filter_map(|(address, reading)| Some((address, reading.since(view.since)?)))
        .filter(|(_, answer)| matches!(answer.role, Role::Primary { .. }))
        .filter(|(_, answer)| share_history(answer, new))
        .map(|(address, _)| Hold {
            instance: address.clone(),
            superseded_by: successor.clone(),
            for_ms: HOLD_MS,
        })
        .collect()
}

/// The choice of the only leader, until a majority names it.
fn successor(view: &View<'_>) -> Option<Address> {
    let chosen: BTreeSet<&Address> =
        view.tally.failovers.iter().filter_map(|failover| failover.chosen.as_ref()).collect();
    let only = chosen.first().copied().filter(|_| chosen.len() == 1)?;
    let followed = view.tally.elected.as_ref().is_some_and(|elected| &elected.address == only);
    (!followed).then(|| only.clone())
}
