//! Whose Sentinels these are: an electorate is a recorded set of Sentinels, and not a name that two teams may choose.
//!
//! The record notes the ids of the Sentinels that it rests on. An agent none of whose Sentinels is among them
//! publishes, withdraws and commands nothing: what it sees is another group of the same name. Sentinels change their
//! ids when they are made anew, and their addresses when they move, so a Sentinel is known as well by the address that
//! is recorded, by a Sentinel or an instance of the record that it lists, or by the data of the primary that it names.

use std::collections::BTreeSet;

use crate::identity::address::Address;
use crate::known::observed::{SentinelAnswer, SentinelGroup, SentinelId};
use crate::known::view::View;
use crate::published::record::Record;
use crate::published::replicas::named_by;
use crate::shown::reasons::NotOurs;

/// Why the record is not about the group that we see; `None` when it is, or when there is nothing that could tell.
pub fn not_ours(view: &View<'_>) -> Option<NotOurs> {
    let record = view.record?;
    if record.installation != view.policy.installation && record.installation.is_some() {
        return Some(NotOurs::Installation {
            key: record.group.clone(),
            recorded: record.installation.clone().unwrap_or_default(),
            ours: view.policy.installation.clone(),
        });
    }
    let is_of_some = !record.sentinel_ids.is_empty()
        || !record.sentinels.is_empty()
        || record.last_writer.is_some();
    let voters = voters(view);
    let known = |(at, answer): &Heard<'_>| is_known(record, at, answer);
    if !is_of_some || voters.is_empty() || voters.iter().any(known) || continues(view) {
        return None;
    }
    Some(NotOurs::Sentinels {
        key: record.group.clone(),
        writer: record.last_writer.as_ref().map(|last| last.address.clone()),
        recorded: record.sentinels.clone(),
        by: record.by.clone(),
        heard: voters.iter().map(|(at, ..)| (*at).clone()).collect(),
        named: view.tally.elected.as_ref().map(|elected| elected.address.clone()),
    })
}

type Heard<'a> = (&'a Address, &'a SentinelAnswer);

/// Those that know the group; where a majority names a primary, those that name it: one stranger in the list of another
/// group's agents makes none of that group.
fn voters<'a>(view: &View<'a>) -> Vec<Heard<'a>> {
    let elected = view.tally.elected.as_ref().map(|elected| &elected.address);
    let votes = |group: &SentinelGroup| elected.is_none_or(|elected| elected == &group.primary);
    view.sentinels().filter(|(_, answer)| answer.group.as_ref().is_some_and(votes)).collect()
}

/// The record knows the Sentinel, a Sentinel that it lists, or an instance that it names.
pub fn is_known(record: &Record, at: &Address, answer: &SentinelAnswer) -> bool {
    let known = |id: &SentinelId, at: &Address| {
        record.sentinel_ids.contains(id)
            || (!at.is_each_hosts_own() && record.sentinels.contains(at))
    };
    let last = record.last_writer.as_ref().map(|last| &last.address);
    let placed = |named: &Address| Some(named) == last || record.role_of(named).is_some();
    known(&answer.id, at)
        || answer.group.as_ref().is_some_and(|group| {
            group.peers.iter().any(|peer| known(&peer.id, &peer.address))
                || named_by(group).any(placed)
        })
}

/// The primary that is named holds the data of the record's last writers, and nothing is left of where that was: the
/// group has moved, with Sentinels that were made anew. Data alone proves nothing while others may have the original: a
/// copy of it, restored for another group, has the same history.
fn continues(view: &View<'_>) -> bool {
    let elected = view.tally.elected.as_ref().map(|elected| &elected.address);
    let Some(answer) = elected.and_then(|elected| view.instance(elected)) else { return false };
    let is_the_data = answer.is_primary() && answer.keys > 0 && view.age(answer).is_some();
    let places = view.record.iter().flat_map(|record| &record.instances);
    let last = view.record.and_then(|record| record.last_writer.as_ref());
    let mut places = places.map(|instance| &instance.address).chain(last.map(|last| &last.address));
    is_the_data && places.all(|place| is_silent(view, place)) && !others_watch(view)
}

/// It was asked a moment ago, and did not answer.
fn is_silent(view: &View<'_>, instance: &Address) -> bool {
    let reading = view.observed.instances.get(instance);
    reading.is_some_and(|reading| reading.asked >= view.recent && reading.result.is_err())
}

/// An agent is there that looks for its Sentinels elsewhere, or does not say where.
fn others_watch(view: &View<'_>) -> bool {
    let Some(store) = &view.observed.store else { return true };
    let (own, ours) = (&view.policy.agent, &view.policy.sources);
    let looks_here = |sources: &BTreeSet<String>| !sources.is_disjoint(ours);
    let mut others = store.agents.iter().filter(|agent| *agent != own);
    others.any(|agent| !store.agent_sources.get(agent).is_some_and(looks_here))
}
