//! A group that most of its Sentinels have forgotten: a scheduler has made them anew, blank, and the last writer is
//! back.
//!
//! The Sentinel that still knows the group is no majority, and the blank ones are told of a writer only once there is
//! one. Where all Sentinels that live are blank or name the last writer, and it holds everything that the others hold,
//! nothing else could lead: it is named again, and the blank ones are told. A Sentinel that is listed and lives
//! elsewhere would show itself by its hellos, through the very instances, within 2 s.

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::observed::{DownOpinion, InstanceAnswer, Role, SentinelGroup};
use crate::known::view::View;
use crate::policy::FORGOTTEN_AFTER_MS;
use crate::published::projection::is_detached_address;
pub use crate::shown::reasons::NotAgain;
use crate::situation::bootstrap::{Step, includes, loading};
use crate::situation::election::{answering, is_superseded};

/// The next step to the last writer as the writer again, or why it is not; `None` where that is not called for.
pub fn again(view: &View<'_>) -> Option<Result<Step, NotAgain>> {
    let (last, answer) = last_writer(view)?;
    Some(step(view, last, answer))
}

/// The condition of this module, for [`crate::known::memory::Memory::keep`].
pub fn condition(view: &View<'_>) -> Option<Condition> {
    last_writer(view)
        .map(|(last, answer)| Condition::Forgotten(last.clone(), answer.run_id.clone()))
}

fn step(view: &View<'_>, last: &Address, answer: &InstanceAnswer) -> Result<Step, NotAgain> {
    if !view.policy.bootstrap || !view.policy.tell_sentinels {
        return Err(NotAgain::SwitchedOff);
    }
    if let Some((address, error)) = loading(&(last, answer)) {
        return Err(NotAgain::NotReady(address.clone(), error.clone()));
    }
    let places = view.record.iter().flat_map(|record| &record.instances);
    for other in places.map(|place| &place.address).filter(|other| *other != last) {
        let Some(own) = view.instance(other) else {
            return Err(NotAgain::Unheard(other.clone()));
        };
        if own.keys == 0 {
            continue;
        }
        if own.is_primary() {
            return Err(NotAgain::Rival(other.clone()));
        }
        if answer.keys == 0 || !(includes(answer, own) || went_on(view, answer, own)) {
            return Err(NotAgain::Behind { last: last.clone(), than: other.clone() });
        }
    }
    let since = Condition::Forgotten(last.clone(), answer.run_id.clone());
    if !view.memory.lasted(&since, FORGOTTEN_AFTER_MS, view.now) {
        return Err(NotAgain::Waiting(last.clone()));
    }
    if answer.is_primary() {
        return Ok(Step::publish(last, answer));
    }
    let claim = view.record.and_then(|record| record.claim.as_ref());
    Ok(match claim == Some(last) {
        true => Step::promote(last, answer),
        false => Step::Claim(last.clone()),
    })
}

/// It has its history anew, from the append-only file that it wrote itself, and the other one is of that history: how
/// far each came is not known, and the writer has all of it.
fn went_on(view: &View<'_>, answer: &InstanceAnswer, other: &InstanceAnswer) -> bool {
    let led = view.continued(answer).is_some_and(|continued| continued.led);
    led && view.age(answer) == Some(0) && view.age(other).is_some()
}

/// The last writer that answers, where no writer is published, a minority of the Sentinels names it, and all others
/// that there are know no group.
fn last_writer<'a>(view: &View<'a>) -> Option<(&'a Address, &'a InstanceAnswer)> {
    let record = view.record.filter(|record| record.writer.is_none())?;
    let last = &record.last_writer.as_ref()?.address;
    let named = view.tally.votes_for(last);
    let minority = (1..view.tally.majority()).contains(&named);
    let here = answering(&view.observed.sentinels, view.recent);
    let names_it = |group: &SentinelGroup| {
        &group.primary == last
            && &group.monitored == last
            && group.failover.is_none()
            && group.down < DownOpinion::Objective
            && group
                .peers
                .iter()
                .all(|peer| here.values().any(|id| **id == peer.id) || is_superseded(peer, &here))
    };
    let all = view.sentinels_answering() >= view.tally.known && !view.any_tilt();
    if !minority || !all || !view.groups().all(names_it) {
        return None;
    }
    // Asked since what is published now was: it may have been told something else in the meantime.
    let (last, reading) = view.observed.instances.get_key_value(last)?;
    let answer = reading.since(view.since)?;
    let waits = match &answer.role {
        Role::Primary { .. } => true,
        Role::Replica { of, link_up } => !link_up && is_detached_address(of),
    };
    waits.then_some((last, answer))
}
