//! The first primary of a group that is blank everywhere: nothing was ever published, and no Sentinel monitors the
//! group.
//!
//! The instances that are registered for the group are compared by what they hold (`docs/facts/sentinel.md` 8). The
//! instance whose data includes that of all others leads; of blank ones the lowest address. Where the data of two has
//! gone different ways, nothing is done, and the operator is asked. One agent's transaction decides: `state` is
//! created, or changed, at the index that was read.

use crate::identity::address::Address;
use crate::identity::ids::ReplId;
use crate::known::memory::Condition;
use crate::known::observed::{InstanceAnswer, Role, StoredState};
use crate::known::view::View;
use crate::published::record::{Basis, Record, Writer};
use crate::published::replicas::InstanceRows;
use crate::shown::reasons::NoFirst;

/// One instance that is to get `REPLICAOF NO ONE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promote {
    /// The instance that gets the command.
    pub instance: Address,
    /// Its `run_id` when that was decided: another run is another case.
    pub run_id: String,
}

/// The next step to a primary that no Sentinel has named.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// This one says that it is a primary, and is to be published.
    Publish(Writer),
    /// This one is to lead, and has to be made a primary: first it is written down.
    Claim(Address),
    /// This one was written down and is to be made a primary now.
    Promote(Promote),
}

impl Step {
    /// The step for an instance that reports the role `master` already.
    pub(crate) fn publish(address: &Address, answer: &InstanceAnswer) -> Self {
        Self::Publish(Writer::of(address, answer))
    }

    /// The command to promote `address`, while its run id is that of `answer`.
    pub(crate) fn promote(address: &Address, answer: &InstanceAnswer) -> Self {
        Self::Promote(Promote { instance: address.clone(), run_id: answer.run_id.clone() })
    }
}

/// The group has no past: neither here, nor in Consul, nor among the Sentinels.
pub fn is_blank(view: &View<'_>) -> bool {
    let Some(store) = &view.observed.store else { return false };
    let blank = match &store.state {
        StoredState::Absent => true,
        StoredState::Known(record) => record.writer.is_none() && record.last_writer.is_none(),
        StoredState::Unreadable(_) => false,
    };
    blank && view.groups().next().is_none()
}

/// The agents have published the writer, and none of the Sentinels knows the group yet, of which a majority answers: none
/// chooses another instance meanwhile.
pub(crate) fn is_untold(view: &View<'_>) -> bool {
    let by_agents = view.record.is_some_and(|record| record.evidence.basis == Basis::Agents);
    let heard = || view.sentinels_answering() >= view.tally.majority();
    by_agents && view.groups().next().is_none() && heard()
}

/// The instance has nothing to lose as a replica of that writer, which no Sentinel has to confirm first.
pub(crate) fn may_follow_untold(view: &View<'_>, instance: &Address) -> bool {
    view.instance(instance).is_some_and(InstanceAnswer::loses_nothing) && is_untold(view)
}

/// The next step to a first primary, or why there is none; `None` where it is not called for: the group has a past, or
/// Sentinels know it, or no instance is registered.
pub fn bootstrap(view: &View<'_>) -> Option<Result<Step, NoFirst>> {
    let candidates = Some(view).filter(|view| is_blank(view)).map(candidates)?;
    (!candidates.is_empty()).then(|| first(view, &candidates))
}

fn first<'a>(view: &View<'a>, candidates: &[Candidate<'a>]) -> Result<Step, NoFirst> {
    if !view.policy.bootstrap {
        return Err(NoFirst::SwitchedOff);
    }
    let answered = view.sentinels().count();
    let of = view.observed.sentinels.len().max(view.policy.sentinels_configured);
    if answered < of / 2 + 1 {
        return Err(NoFirst::Sentinels { answered, of });
    }
    if let Some((address, answer)) = claimed(view, candidates) {
        return Ok(match answer.role {
            Role::Primary { .. } => Step::publish(address, answer),
            Role::Replica { .. } => Step::promote(address, answer),
        });
    }
    let leader = leader(candidates);
    if let Err(diverged @ NoFirst::Diverged(..)) = leader {
        // An instance that comes later is unlikely to change that.
        return Err(diverged);
    }
    enough(view, candidates)?;
    let (address, answer) = leader?;
    Ok(match answer.role {
        Role::Primary { .. } => Step::publish(address, answer),
        Role::Replica { .. } => Step::Claim(address.clone()),
    })
}

pub(crate) type Candidate<'a> = (&'a Address, &'a InstanceAnswer);

fn candidates<'a>(view: &View<'a>) -> Vec<Candidate<'a>> {
    let followed = InstanceRows::new(view).followed();
    let instances = view.observed.instances.iter();
    instances
        .filter(|(address, _)| followed.contains(*address) && !view.in_maintenance(address))
        .filter(|(address, _)| view.alias_of(address).is_none())
        .filter_map(|(address, reading)| Some((address, reading.since(view.recent)?)))
        .collect()
}

/// The instance in `claim`, while it answers.
pub(crate) fn claimed<'a>(view: &View<'a>, candidates: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let claim = view.record.and_then(|record: &Record| record.claim.as_ref())?;
    candidates
        .iter()
        .find(|candidate| candidate.0 == claim && loading(candidate).is_none())
        .copied()
}

/// As many as are expected, or those that there are after the wait.
fn enough(view: &View<'_>, candidates: &[Candidate<'_>]) -> Result<(), NoFirst> {
    let policy = view.policy;
    let answered = candidates.len();
    let all = policy.expect.is_some_and(|expect| answered >= expect);
    let waited =
        view.memory.lasted(&Condition::NoPrimaryAnywhere, policy.bootstrap_wait_ms, view.now);
    if answered == 0 || !(all || waited) {
        return Err(NoFirst::Waiting { answered, expect: policy.expect });
    }
    match candidates.iter().find_map(loading) {
        Some((address, error)) => Err(NoFirst::NotReady(address.clone(), error.clone())),
        None => Ok(()),
    }
}

/// It has not read all of its data yet, in its own words.
pub(crate) fn loading<'a>((address, answer): &Candidate<'a>) -> Option<(&'a Address, &'a String)> {
    Some((*address, answer.not_ready.as_ref().filter(|_| !answer.shows_its_data())?))
}

/// The instance whose data includes that of all others; of several the instance that is a primary already.
pub(crate) fn leader<'a>(candidates: &[Candidate<'a>]) -> Result<Candidate<'a>, NoFirst> {
    // An instance without data never leads one with data.
    let with_data: Vec<Candidate<'a>> =
        candidates.iter().filter(|(_, answer)| answer.keys > 0).copied().collect();
    let none = NoFirst::Waiting { answered: 0, expect: None };
    let first = |(address, answer): &&Candidate<'a>| (answer.is_replica(), *address);
    if with_data.is_empty() {
        let may = |(_, answer): &&Candidate<'a>| answer.priority != Some(0);
        let lowest = candidates.iter().filter(may).min_by_key(first);
        return lowest.copied().ok_or(none);
    }
    let includes_all = |a: &Candidate<'a>| with_data.iter().all(|b| includes(a.1, b.1));
    let may = |(_, answer): &&Candidate<'a>| answer.priority != Some(0);
    let best = with_data.iter().filter(may).filter(|a| includes_all(a)).min_by_key(first);
    if let Some(best) = best {
        return Ok(*best);
    }
    let apart = |a: &Candidate<'a>, b: &Candidate<'a>| !includes(a.1, b.1) && !includes(b.1, a.1);
    let pairs = with_data.iter().flat_map(|a| with_data.iter().map(move |b| (a, b)));
    let pair = pairs.into_iter().find(|(a, b)| apart(a, b));
    pair.map_or(Err(none), |(a, b)| Err(NoFirst::Diverged(a.0.clone(), b.0.clone())))
}

/// `a` holds everything that `b` holds: by the rule that Redis itself uses for a partial resynchronisation, one
/// history includes another that it has gone on from, up to where it did.
pub(crate) fn includes(a: &InstanceAnswer, b: &InstanceAnswer) -> bool {
    if a.replid == b.replid {
        return a.offset >= b.offset;
    }
    let went_on_from =
        |child: &InstanceAnswer, parent: &ReplId| child.replid2.as_ref() == Some(parent);
    if went_on_from(a, &b.replid) {
        return b.offset < a.forked_at.unwrap_or(0);
    }
    // Both were restarted as primaries: each began a history of its own, where it stood.
    let nothing_of_its_own = b.offset < b.forked_at.unwrap_or(0);
    let siblings = b.replid2.as_ref().is_some_and(|parent| went_on_from(a, parent));
    siblings && nothing_of_its_own && a.offset >= b.offset
}
