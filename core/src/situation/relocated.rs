//! A relocated group: none of the addresses that its Sentinels know answers, and its instances are back at others.
//!
//! A Sentinel finds replicas through the primary that it monitors, and nowhere else. When everything is started anew at
//! other addresses, as containers are, it has no replica to choose (`-failover-abort-no-good-slave`), for ever. But the
//! instances are registered, and hold the group's data: the one whose data includes that of all others is written down
//! (`claim`), made the primary, and published. Then every Sentinel gets `REMOVE` for the dead one, and, when none names
//! it any more, `MONITOR` for this one: a Sentinel that got it earlier would be changed back by the others, whose epoch
//! is higher.
//!
//! The same holds for a group whose Sentinels were reset while its primary was dead (`SENTINEL RESET`): where agents
//! run beside none of the instances, and so register none, those that have a row and answer with the last writer's own
//! data take the place of the registered ones.

use crate::identity::address::Address;
use crate::known::memory::{Condition, ReturnedInstance};
use crate::known::observed::{DownOpinion, InstanceAnswer, SentinelGroup};
use crate::known::view::View;
use crate::policy::REINSTATED_AFTER_MS;
use crate::published::record::{InstanceRecord, Record};
use crate::published::replicas::is_unnamed;
use crate::shown::reasons::NoFirst;
pub use crate::shown::reasons::NotRelocated;
use crate::situation::bootstrap::{Candidate, Step, claimed, leader, loading};

/// Looks for the instance that is to lead a relocated group.
///
/// # Errors
/// [`NotRelocated`]: why there is none.
pub fn successor(view: &View<'_>) -> Result<Step, NotRelocated> {
    let back = back(view);
    if back.is_empty() {
        return Err(NotRelocated::NoCase);
    }
    if !view.policy.bootstrap || !view.policy.tell_sentinels {
        return Err(NotRelocated::SwitchedOff);
    }
    let (answered, known) = (view.sentinels_answering(), view.tally.known);
    if answered < view.tally.majority() {
        return Err(NotRelocated::Sentinels { answered, of: known });
    }
    if let Some((address, error)) = back.iter().find_map(loading) {
        return Err(NotRelocated::NotReady(address.clone(), error.clone()));
    }
    let Able { candidates, data } = able(view, &back)?;
    // Rows that no Sentinel names stay while there is no writer: no instance is waited for because of them.
    let counts = |instance: &&InstanceRecord| !is_unnamed(view, &instance.address);
    let places = match unregistered(view) {
        // Nothing but its row tells of an instance: all but the last writer are waited for.
        true => places_besides_the_last(view),
        false => view.record.map_or(0, |record| record.instances.iter().filter(counts).count()),
    };
    // The rows of instances that were relocated before stay for an hour: an `expect` of the operator's is believed.
    let all = view.policy.expect.is_some_and(|expect| back.len() >= expect)
        || (1..=back.len()).contains(&places);
    let claim = view.record.and_then(|record| record.claim.as_ref());
    let claim_answers = claim.is_none_or(|claim| view.instance(claim).is_some());
    let sure = all && answered >= known && claim_answers && data != Data::Unsure;
    let wait_ms = if sure { REINSTATED_AFTER_MS } else { view.policy.bootstrap_wait_ms };
    // Where the instances that are back hold less than the last writer's history, the others are waited for, however
    // long; when even their rows are gone, none is left to wait for.
    let hopeless = places == 0;
    let waited = view.memory.lasted(&same(view, &back), wait_ms, view.now);
    if !waited || (data == Data::Older && !all && !hopeless) {
        let of = view.policy.expect.unwrap_or(places).max(back.len());
        return Err(NotRelocated::Waiting { answered: back.len(), of });
    }
    let (address, answer) = match claimed(view, &candidates) {
        Some(claimed) => claimed,
        None => leader(&candidates).map_err(|why| match why {
            NoFirst::Diverged(a, b) => NotRelocated::Diverged(a, b),
            _ => NotRelocated::NeverToLead,
        })?,
    };
    if answer.is_primary() {
        return Ok(Step::publish(address, answer));
    }
    let rival =
        |(other, own): &&Candidate<'_>| *other != address && own.keys > 0 && own.is_primary();
    if let Some((rival, _)) = back.iter().find(rival) {
        return Err(NotRelocated::Rival(address.clone(), (*rival).clone()));
    }
    Ok(match claim == Some(address) {
        true => Step::promote(address, answer),
        false => Step::Claim(address.clone()),
    })
}

/// The condition of this module, for [`crate::known::memory::Memory::keep`]: since when the very same are back, with
/// what each is known to hold.
pub fn condition(view: &View<'_>) -> Option<Condition> {
    let back = back(view);
    (!back.is_empty()).then(|| same(view, &back))
}

fn same(view: &View<'_>, back: &[Candidate<'_>]) -> Condition {
    let known = |(address, answer): &Candidate<'_>| ReturnedInstance {
        address: (*address).clone(),
        run_id: answer.run_id.clone(),
        is_ready: answer.shows_its_data(),
        age: view.age(answer),
    };
    Condition::Relocated(back.iter().map(known).collect())
}

/// No instance that this Sentinel knows answers: neither the primary that it monitors nor any replica. An instance that
/// has lost its place, and says so, may have got the address of the old primary.
pub fn knows_only_silent(view: &View<'_>, group: &SentinelGroup) -> bool {
    let leads_nobody = view.instance(&group.monitored).is_none_or(InstanceAnswer::is_detached);
    let gone = |address: &Address| view.instance(address).is_none();
    group.down > DownOpinion::Up
        && leads_nobody
        && group.replicas.iter().all(|replica| replica.s_down && gone(&replica.address))
}

/// No agent runs beside any instance, so that none is registered.
fn unregistered(view: &View<'_>) -> bool {
    view.observed.registered.is_empty() && view.policy.local.is_empty()
}

/// The rows besides that of the last writer.
fn places_besides_the_last(view: &View<'_>) -> usize {
    let Some(record) = view.record else { return 0 };
    let last = record.last_writer.as_ref().map(|last| &last.address);
    record.instances.iter().filter(|instance| Some(&instance.address) != last).count()
}

/// It holds the last writer's own data, or is the one that was written down. Another group's instance that answers at
/// the address of a row is neither.
fn holds_the_last_data(view: &View<'_>, (address, answer): &Candidate<'_>) -> bool {
    let claimed = view.record.is_some_and(|record| record.claim.as_ref() == Some(address));
    claimed || view.age(answer) == Some(0)
}

/// The registered instances that answer, those in maintenance too, when the Sentinels know none but dead ones, and none
/// follows an instance that is alive; else empty. Where none is registered, those that have a row.
fn back<'a>(view: &View<'a>) -> Vec<Candidate<'a>> {
    let withdrawn = view.record.is_some_and(|r| r.writer.is_none() && r.last_writer.is_some());
    let alone = |group: &SentinelGroup| knows_only_silent(view, group);
    if !withdrawn || view.any_tilt() || view.sentinels_answering() == 0 || !view.groups().all(alone)
    {
        return Vec::new();
    }
    let by_row = unregistered(view);
    let ours = |address: &Address| {
        let known =
            view.observed.registered.contains(address) || view.policy.local.contains(address);
        let has_row = |record: &Record| record.role_of(address).is_some();
        let known = known || (by_row && view.record.is_some_and(has_row));
        known && !view.refused().contains(address) && view.alias_of(address).is_none()
    };
    let all = view.observed.instances.iter().filter(|(address, _)| ours(address));
    let back: Vec<Candidate<'a>> =
        all.filter_map(|(address, reading)| Some((address, reading.since(view.recent)?))).collect();
    if back.iter().any(|(_, answer)| follows_a_living_one(answer)) {
        return Vec::new();
    }
    back.into_iter().filter(|candidate| !by_row || holds_the_last_data(view, candidate)).collect()
}

/// The instance that is to lead a group whose Sentinels know none of its replicas any more (`SENTINEL RESET` while the
/// primary was dead), and which no agent may choose, since none has registered it: the one with the most of the last
/// writer's history. What an operator is told ([`crate::doctor`]).
pub fn stranded<'a>(view: &View<'a>) -> Option<(&'a Address, &'a InstanceAnswer)> {
    let withdrawn = view.record.is_some_and(|r| r.writer.is_none() && r.last_writer.is_some());
    let none_known = view.groups().all(|group| knows_only_silent(view, group));
    if !withdrawn || !none_known || view.tally.answering < view.tally.majority() || view.any_tilt()
    {
        return None;
    }
    let answers = || view.observed.instances.keys().filter_map(|a| Some((a, view.instance(a)?)));
    let registered =
        |a: &Address| view.observed.registered.contains(a) || view.policy.local.contains(a);
    let leads = |answer: &InstanceAnswer| answer.is_primary() || follows_a_living_one(answer);
    if answers().any(|(address, answer)| registered(address) || leads(answer)) {
        return None;
    }
    let may = |(_, answer): &(&Address, &InstanceAnswer)| {
        view.age(answer) == Some(0) && answer.priority != Some(0) && answer.shows_its_data()
    };
    answers().filter(may).max_by_key(|(_, answer)| answer.offset)
}

/// Its link is up, so the instance that it follows is alive.
pub(crate) fn follows_a_living_one(answer: &InstanceAnswer) -> bool {
    answer.is_linked()
}

/// Those with the best data, and what is known of it.
struct Able<'a> {
    candidates: Vec<Candidate<'a>>,
    data: Data,
}

/// What the instances that are back hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// The last writer's history.
    Last,
    /// The same, and how far each has come is not known.
    Unsure,
    /// The history of a writer before that, or nothing.
    Older,
}

/// Those with the group's data as the last of its writers have left it that are back, or, where none holds any, all of
/// them. An instance that has stayed behind in the history of an earlier writer may hold writes that were lost when
/// another one took its place.
fn able<'a>(view: &View<'a>, back: &[Candidate<'a>]) -> Result<Able<'a>, NotRelocated> {
    let with_data = |(_, answer): &&Candidate<'a>| answer.keys > 0;
    let Some((address, answer)) = back.iter().find(with_data) else {
        return Ok(Able { candidates: back.to_vec(), data: Data::Older });
    };
    let ages = back.iter().filter(with_data).filter_map(|(_, answer)| view.age(answer));
    let youngest =
        ages.min().ok_or_else(|| NotRelocated::Unrelated((*address).clone(), answer.keys))?;
    let of_it = if youngest == 0 { Data::Last } else { Data::Older };
    let last = |(_, answer): &&Candidate<'a>| view.age(answer) == Some(youngest);
    let last: Vec<Candidate<'a>> = back.iter().filter(with_data).filter(last).copied().collect();
    let began_anew = |(_, answer): &&Candidate<'a>| view.continued(answer).is_some();
    if !last.iter().any(|candidate| began_anew(&candidate)) {
        return Ok(Able { candidates: last, data: of_it });
    }
    // How far each has come is not known: the instance that wrote it has all of it.
    let led = |(_, answer): &&Candidate<'a>| view.continued(answer).is_some_and(|of| of.led);
    if let Some(led) = last.iter().find(led) {
        return Ok(Able { candidates: vec![*led], data: of_it });
    }
    let known: Vec<Candidate<'a>> = last.iter().filter(|c| !began_anew(c)).copied().collect();
    let may = |(_, answer): &&Candidate<'a>| answer.priority != Some(0);
    let lowest = last.iter().filter(may).min_by_key(|(address, _)| *address);
    let candidates = if known.is_empty() { lowest.into_iter().copied().collect() } else { known };
    let data = if youngest == 0 { Data::Unsure } else { Data::Older };
    Ok(Able { candidates, data })
}
