//! Rules 3, 4 and 5: why the published writer must go.

use std::collections::BTreeSet;

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::observed::{DownOpinion, SentinelGroup};
use crate::known::view::View;
use crate::policy::{DISPLACED_AFTER_MS, OUT_OF_REACH_AFTER_MS};
use crate::published::record::Basis;
use crate::shown::reasons::WithdrawReason;
use crate::situation::data_loss::data_loss;
use crate::situation::majority::{epoch_allows, passes};
use crate::situation::promotion::is_awaited;
use crate::situation::proof::{fast, proven};
use crate::situation::relocated;
use crate::situation::writer::{NotWriter, WriterTest};

/// Why the published writer must go, if it must.
pub fn withdrawal(view: &View<'_>) -> Option<WithdrawReason> {
    let writer = view.writer()?;
    if let WriterTest::Fails(NotWriter::IsReplica { of }) = view.test(writer) {
        return Some(WithdrawReason::IsReplica { writer: writer.clone(), of });
    }
    if let Ok(Some(fast)) = fast(view) {
        let pid = proven(view).map_or(0, |(_, death)| death.pid);
        let sentinel = fast.sentinel;
        return Some(WithdrawReason::Died { writer: writer.clone(), pid, sentinel });
    }
    let known = view.tally.known;
    if view.tally.agree_down(writer) {
        let votes = view.tally.down.get(writer).map_or(0, |down| down.subjective);
        return Some(WithdrawReason::Down { writer: writer.clone(), votes, known });
    }
    if let Some(loss) = data_loss(view).filter(|loss| &loss.primary == writer) {
        return Some(WithdrawReason::DataLoss(loss.why()));
    }
    if let Some((writer, heard)) = out_of_reach(view) {
        let condition = Condition::OutOfReach(writer.clone());
        if view.lasted(&condition, OUT_OF_REACH_AFTER_MS) {
            return Some(WithdrawReason::OutOfReach { writer, heard, known });
        }
    }
    let chosen_by_agents = view.record.is_some_and(|record| record.evidence.basis == Basis::Agents);
    if chosen_by_agents && view.groups().all(|group| relocated::knows_only_silent(view, group)) {
        // That they name a dead one is no denial: they are about to be reconfigured.
        return None;
    }
    if confirmation_overdue(view, writer) {
        let within_ms = view.policy.confirm_within_ms;
        return Some(WithdrawReason::Unconfirmed { writer: writer.clone(), within_ms });
    }
    let (displaced, by) = displaced(view)?;
    let condition = Condition::Displaced(displaced);
    view.lasted(&condition, DISPLACED_AFTER_MS)
        .then(|| WithdrawReason::Displaced { writer: writer.clone(), by })
}

/// The conditions of this module that hold now, for [`crate::known::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    let displaced = displaced(view).map(|(writer, _)| Condition::Displaced(writer));
    let out_of_reach = out_of_reach(view).map(|(writer, _)| Condition::OutOfReach(writer));
    displaced.into_iter().chain(out_of_reach).collect()
}

fn confirmation_overdue(view: &View<'_>, writer: &Address) -> bool {
    let unconfirmed = view.record.is_some_and(|record| record.evidence.is_unconfirmed());
    let elected = view.tally.elected.as_ref().is_some_and(|e| &e.address == writer);
    // Silence is not a denial: with no majority heard at all, what is published stays.
    let majority_heard = view.tally.answering >= view.tally.majority();
    unconfirmed && !elected && majority_heard && !is_awaited(view)
}

/// The published writer, when it does not answer us, and a majority of the Sentinels answers and has no primary: each
/// calls the writer down, or none knows the group. And how many they are. Where they know nothing, it may be our
/// login that does not fit: then no instance answers us; or only we do not reach it: then its replicas have their link.
fn out_of_reach(view: &View<'_>) -> Option<(Address, usize)> {
    let writer = view.writer().filter(|writer| view.instance(writer).is_none())?;
    let heard = view.sentinels_answering();
    let lost = |group: &SentinelGroup| {
        &group.primary == writer && group.down > DownOpinion::Up && group.failover.is_none()
    };
    let all = !view.any_tilt() && view.groups().all(lost);
    let confirmed = view.groups().count() >= view.tally.majority();
    let answers = || view.observed.instances.values().filter_map(|r| r.since(view.recent));
    let alone = answers().next().is_some() && !answers().any(relocated::follows_a_living_one);
    let forgotten = view.groups().next().is_none() && heard >= view.tally.majority() && alone;
    (all && (confirmed || forgotten)).then(|| (writer.clone(), heard))
}

/// The published writer, when its majority has gone to another address or into a split.
fn displaced(view: &View<'_>) -> Option<(Address, Option<Address>)> {
    let writer = view.writer()?;
    match &view.tally.elected {
        Some(elected) if &elected.address == writer => None,
        Some(elected) => epoch_allows(view, elected)
            .is_ok()
            .then(|| (writer.clone(), Some(elected.address.clone()))),
        None => {
            let split = view.tally.answering >= view.tally.majority();
            // Rule 6: what a Sentinel says at an older epoch is about to be corrected.
            let confirmed = view.record.map_or(0, |record| record.evidence.confirmed_epoch);
            let rival = view.tally.votes.iter().any(|(named, votes)| {
                named != writer && votes.epoch >= confirmed && passes(view, named).is_ok()
            });
            let settled = !is_awaited(view);
            (split && rival && settled).then(|| (writer.clone(), None))
        }
    }
}
