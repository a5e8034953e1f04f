//! Zones: whether the group outlives one, and whether Sentinel prefers them as the operator does.

use super::{CheckFn, Facts, Finding, FindingCode, redis_cli, seen};
use crate::duty::zone_order::priority_in;
use crate::identity::address::{Address, Zone};
use crate::known::observed::InstanceAnswer;

pub(super) const CHECKS: &[CheckFn] = &[one_zone, order];

/// The zone of an instance: as its rows show it, or as the agent beside it says.
fn zone_of<'a>(facts: &Facts<'a>, at: &Address) -> Option<&'a Zone> {
    zones(facts).find(|(known, _)| *known == at).map(|(_, zone)| zone)
}

/// Every instance whose zone is known.
fn zones<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Address, &'a Zone)> {
    let view = facts.view;
    let rows = view.record.into_iter().flat_map(|record| &record.words);
    let rows = rows.filter_map(|(at, words)| Some((at, words.instance.zone.as_ref()?)));
    let agents = view.observed.store.iter().flat_map(|store| store.words.values());
    let beside = agents.flat_map(|words| &words.instances);
    rows.chain(beside.filter_map(|(at, words)| Some((at, words.zone.as_ref()?))))
}

/// Replicas of the group, and what each says of itself.
fn members<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> {
    let record = facts.view.record;
    let is_known = move |at: &Address| record.is_some_and(|record| record.role_of(at).is_some());
    facts.replicas().filter(move |(at, _)| is_known(at))
}

fn may_lead(facts: &Facts<'_>, at: &Address, answer: &InstanceAnswer) -> bool {
    answer.priority != Some(0) && !facts.view.in_maintenance(at)
}

fn one_zone(facts: &Facts<'_>) -> Vec<Finding> {
    let able: Vec<&Address> =
        members(facts).filter(|(at, own)| may_lead(facts, at, own)).map(|(at, _)| at).collect();
    // Where none may be chosen there is a graver finding.
    let writer = facts.view.writer().filter(|_| !able.is_empty());
    let Some((writer, zone)) = writer.and_then(|at| Some((at, zone_of(facts, at)?))) else {
        return Vec::new();
    };
    if !able.iter().all(|at| zone_of(facts, at) == Some(zone)) {
        return Vec::new();
    }
    let Some((other, its)) = zones(facts).find(|(_, its)| *its != zone) else { return Vec::new() };
    let answer = facts.view.instance(other);
    let (why, mend) = match answer {
        _ if facts.view.in_maintenance(other) => {
            ("is in maintenance", format!("consul-redis maintenance off {other}"))
        }
        Some(own) if own.priority == Some(0) => {
            ("is never to lead", redis_cli(other, "CONFIG SET replica-priority 100"))
        }
        Some(_) => ("is no replica of it", {
            redis_cli(other, format!("REPLICAOF {} {}", writer.host(), writer.port()))
        }),
        None => ("does not answer", format!("start {other}, or a replica in another zone")),
    };
    let text = format!(
        "the writer {writer} and all replicas that may be chosen are in zone {zone}: when that zone is gone, no failover is \
         possible; {other}, in zone {its}, {why}"
    );
    let mut evidence = vec![seen(writer, format!("writer, zone {zone}"))];
    evidence.extend(able.iter().map(|at| seen(at, format!("replica, zone {zone}"))));
    evidence.push(seen(other, format!("zone {its}, {why}")));
    vec![FindingCode::GroupOneZone.found(text, evidence, mend)]
}

/// A replica that the operator keeps out of elections is in no order.
fn order(facts: &Facts<'_>) -> Vec<Finding> {
    let order = &facts.view.policy.prefer_zones;
    let members = members(facts).filter(|(at, own)| !order.is_empty() && may_lead(facts, at, own));
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let priority = answer.priority?;
        let Some(zone) = zone_of(facts, at) else {
            let text = format!(
                "the zone of {at} is not known, so prefer_zones does not reach it: its replica-priority stays as it is"
            );
            let mend = "start an agent beside it, with its address in [[redis]] and its zone in [agent] zone";
            let evidence = vec![seen(at, format!("slave_priority:{priority}, no zone"))];
            return Some(FindingCode::ZoneOrder.found(text, evidence, mend));
        };
        let wanted = priority_in(order, zone);
        let text = format!(
            "the replica-priority of {at} is not what prefer_zones says: a failover may choose another zone than it should"
        );
        let read = format!("slave_priority:{priority}, {wanted} for zone {zone}");
        let mend = redis_cli(at, format!("CONFIG SET replica-priority {wanted}"));
        (priority != wanted).then(|| FindingCode::ZoneOrder.found(text, vec![seen(at, read)], mend))
    };
    members.filter_map(say).collect()
}
