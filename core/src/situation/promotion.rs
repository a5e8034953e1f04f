//! Rule 3: the replica that an elected leader has chosen, once it says itself that it is the primary.

use crate::duty::relay::refusing;
use crate::identity::address::Address;
use crate::known::view::View;
use crate::published::record::{Basis, Evidence, Level, Writer};
use crate::situation::election::Failover;
use crate::situation::writer::{Lineage, WriterTest};

/// A promotion that no majority has confirmed.
#[derive(Debug, Clone, PartialEq)]
pub enum Promotion {
    /// It is to be published.
    Chosen {
        /// The replica that the leader has chosen, as a writer.
        writer: Writer,
        /// The basis that goes into the record: the promotion.
        evidence: Evidence,
        /// The leading Sentinel.
        leader: Address,
        /// The epoch of the election, when known.
        epoch: Option<u64>,
        /// An operator gave `SENTINEL FAILOVER`: there was no election.
        forced: bool,
    },
    /// It is published, and still has time to be confirmed.
    Awaited(Address),
}

/// The promotion that is to be published.
pub fn chosen(view: &View<'_>) -> Option<Promotion> {
    if view.policy.publish != Level::Promotion || !refusing(view).is_empty() {
        return None;
    }
    // Without a last writer there is no history that the new one could be seen to continue.
    let record = view.record.filter(|record| record.last_writer.is_some())?;
    let (failover, chosen) = only_choice(view)?;
    if record.writer_address() == Some(chosen) {
        return None;
    }
    let confirmed = record.evidence.confirmed_epoch;
    if failover.epoch.is_some_and(|epoch| epoch <= confirmed) || is_outdated(view, failover) {
        return None;
    }
    if view.tally.agree_down(chosen) || view.tally.being_replaced(chosen) {
        return None;
    }
    let WriterTest::Passes(answer) = view.test(chosen) else { return None };
    if !Lineage::of(answer, view.record).continues() {
        return None;
    }
    let (leader, epoch, forced) = (failover.leader.clone(), failover.epoch, failover.forced);
    let votes = view.tally.votes_for(chosen);
    Some(Promotion::Chosen {
        writer: Writer::of(chosen, answer),
        evidence: Evidence {
            basis: Basis::Promotion { leader: leader.clone(), epoch, votes },
            confirmed_epoch: confirmed,
            known: view.tally.known,
        },
        leader,
        epoch,
        forced,
    })
}

/// A majority has already followed a newer failover than this one.
fn is_outdated(view: &View<'_>, failover: &Failover) -> bool {
    let confirmed = view.record.map_or(0, |record| record.evidence.confirmed_epoch);
    view.tally.elected.as_ref().is_some_and(|elected| {
        elected.epoch > confirmed && failover.epoch.is_none_or(|epoch| epoch <= elected.epoch)
    })
}

/// The one replica that a leader has chosen, and that no majority has followed. Two leaders with two choices are no
/// choice. Of two with one choice the newest counts.
fn only_choice<'v>(view: &'v View<'_>) -> Option<(&'v Failover, &'v Address)> {
    let elected = view.tally.elected.as_ref();
    let open = |f: &&Failover| elected.is_none_or(|elected| !f.is_reached(elected));
    let open = view.tally.failovers.iter().filter(open);
    let mut choices = open.filter_map(|f| f.chosen.as_ref().map(|chosen| (f, chosen)));
    let first = choices.next()?;
    choices.try_fold(first, |newest, other| {
        let newer = if other.0.epoch > newest.0.epoch { other } else { newest };
        (other.1 == first.1).then_some(newer)
    })
}

/// The published writer is an unconfirmed promotion that still has time, or whose leader is
/// still at work.
pub fn is_awaited(view: &View<'_>) -> bool {
    let Some((record, writer)) = view.record.zip(view.writer()) else { return false };
    if !record.evidence.is_unconfirmed() {
        return false;
    }
    let age_ms = view.now.mono - view.memory.generation_seen();
    let leader_at_work = view.tally.failovers.iter().any(|f| f.chosen.as_ref() == Some(writer));
    age_ms <= view.policy.confirm_within_ms || leader_at_work
}
