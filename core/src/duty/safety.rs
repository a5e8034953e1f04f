//! The veto layer: what must never be done, checked again, apart from the rules that wanted it.

use crate::duty::action::{Action, Purpose, Write};
use crate::duty::fence::{Fence, StrayKind, is_left_behind};
use crate::duty::hold::{Hold, HoldReason};
use crate::duty::mark::Marking;
use crate::duty::relay::Relay;
use crate::duty::sentinels::{Reconfigure, ReconfigureKind};
use crate::duty::stale_peers::Forget;
use crate::duty::zone_order::Prioritize;
use crate::identity::address::Address;
use crate::known::observed::{DownOpinion, InstanceAnswer, Role, SentinelGroup};
use crate::known::view::View;
use crate::policy::MOVE_KNOWN_MS;
use crate::published::projection::{TXN_OPS_MAX, is_detached_address};
use crate::published::record::{PublishedRole, is_haste};
use crate::published::replicas::named_by;
use crate::situation::bootstrap::may_follow_untold;
use crate::situation::data_loss::{Detach, Replace};
use crate::situation::election::led_in_silence;

/// Why an action must not be done, or `None` when it may.
pub fn veto(view: &View<'_>, action: &Action) -> Option<String> {
    if view.pause().is_some() && !is_done_while_paused(action) {
        return Some("the group is paused".to_owned());
    }
    match action {
        Action::Write(write) => veto_write(view, write),
        Action::Relay(relay) => veto_relay(view, relay),
        Action::Hold(hold) => veto_hold(view, hold),
        Action::Fence(fence) => veto_fence(view, fence),
        Action::Detach(detach) => veto_detach(view, detach),
        Action::Promote(promote) => veto_promote(view, &promote.instance),
        Action::Mark(marking) => veto_mark(view, marking),
        Action::Prioritize(prioritize) => veto_prioritize(view, prioritize),
        Action::Reconfigure(reconfigure) if is_pace(reconfigure) => veto_pace(view, reconfigure),
        Action::Reconfigure(reconfigure) => {
            if view.writer() != Some(&reconfigure.primary) {
                return Some(format!("{} is not the published writer", reconfigure.primary));
            }
            let leaving = view.tally.being_replaced(&reconfigure.primary);
            leaving.then(|| format!("{} is being replaced", reconfigure.primary))
        }
    }
}

/// While an operator has paused the group, Consul is written alone, and Sentinels are told to wait as before.
fn is_done_while_paused(action: &Action) -> bool {
    match action {
        Action::Write(write) => write.replace.is_none() && write.forget.is_none(),
        Action::Reconfigure(reconfigure) => is_pace(reconfigure) && !reconfigure.hastens(),
        _ => false,
    }
}

fn is_pace(reconfigure: &Reconfigure) -> bool {
    matches!(reconfigure.what, ReconfigureKind::Pace(_))
}

/// What a Sentinel waits for is changed as it is written down, and back; no primary that answers is given less time.
fn veto_pace(view: &View<'_>, reconfigure: &Reconfigure) -> Option<String> {
    let Reconfigure { sentinel, settings, had, primary, .. } = reconfigure;
    let haste = view.record.and_then(|record| record.haste.as_ref());
    let known = haste.and_then(|haste| Some((haste.pace_ms, *haste.before.get(sentinel)?)));
    let Some((pace_ms, before)) = known else {
        return Some(format!("what Sentinel {sentinel} waits for is not written down"));
    };
    let (down_after_ms, quicker) =
        (settings.down_after_ms, settings.down_after_ms < had.down_after_ms);
    if quicker && view.instance(primary).is_some() {
        return Some(format!("{primary} answers"));
    }
    let hastens = is_haste(down_after_ms) && down_after_ms >= pace_ms;
    (!hastens && down_after_ms != before)
        .then(|| format!("Sentinel {sentinel} was not to wait for {down_after_ms} ms"))
}

/// Only the published writer's data set is marked as that of what is published.
fn veto_mark(view: &View<'_>, marking: &Marking) -> Option<String> {
    let Marking { instance, mark, .. } = marking;
    if view.writer() != Some(instance) || !says_primary(view, instance) {
        return Some(format!("{instance} is not the writer, and gets no mark"));
    }
    if view.tally.votes_for(instance) < view.tally.majority() {
        return Some(format!("the majority does not name {instance}"));
    }
    let published = view.record.map(|record| record.generation);
    (published != Some(mark.generation))
        .then(|| format!("generation {} is not the published one", mark.generation))
}

/// Only the priority of a replica on this host is changed, never one of 0, and never while Sentinels or an operator are
/// choosing.
fn veto_prioritize(view: &View<'_>, prioritize: &Prioritize) -> Option<String> {
    let Prioritize { instance, had, priority, .. } = prioritize;
    if !view.policy.local.contains(instance) {
        return Some(format!("{instance} is not on this host"));
    }
    let own = view.instance(instance);
    if *had == 0 || own.is_none_or(|own| own.is_primary() || own.priority != Some(*had)) {
        return Some(format!("the priority of {instance} is not known to be {had}, or is 0"));
    }
    if *priority == 0 {
        return Some(format!("{instance} would never lead"));
    }
    if view.in_maintenance(instance) {
        return Some(format!("{instance} is in maintenance"));
    }
    if view.writer().is_none_or(|writer| !says_primary(view, writer)) {
        return Some("there is no certain writer".to_owned());
    }
    let calm = |group: &SentinelGroup| group.failover.is_none() && group.down == DownOpinion::Up;
    if !view.groups().all(calm) {
        return Some("something is going on among the Sentinels".to_owned());
    }
    let moving = view.observed.store.as_ref().and_then(|store| store.moving);
    let age = moving.map(|since| view.now.wall.duration_since(since).unsigned_abs());
    let moves = age.is_some_and(|age| age.as_millis() < u128::from(MOVE_KNOWN_MS));
    moves.then(|| "a planned move is under way".to_owned())
}

/// No Sentinel is told of an epoch that it has reached, of a primary that has not said so, or of one that others
/// contradict.
fn veto_relay(view: &View<'_>, relay: &Relay) -> Option<String> {
    let Relay { sentinel, leader, epoch, forced, old, chosen, .. } = relay;
    if !says_primary(view, chosen) {
        return Some(format!("{chosen} has not said that it is the primary"));
    }
    let reached = |(at, group): &(&Address, &SentinelGroup)| {
        group.config_epoch >= *epoch && (*at == sentinel || &group.primary != chosen)
    };
    let named = view.sentinels().filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)));
    if let Some((at, group)) = named.into_iter().find(reached) {
        return Some(format!(
            "Sentinel {at} names {} at epoch {}",
            group.primary, group.config_epoch
        ));
    }
    let mut failovers = view.tally.failovers.iter();
    let other = failovers.find(|f| f.chosen.as_ref().is_some_and(|other| other != chosen));
    if let Some(other) = other {
        return Some(format!("Sentinel {} leads another failover", other.leader));
    }
    // No votes stand for a forced failover: an election of the others would.
    let down = |group: &SentinelGroup| &group.primary == old && group.down > DownOpinion::Up;
    let mut others = view.sentinels().filter(|(_, answer)| &answer.id != leader);
    let doubts = others.find(|(_, answer)| answer.group.as_ref().is_some_and(down));
    doubts.filter(|_| *forced).map(|(at, _)| format!("Sentinel {at} calls {old} down"))
}

/// Only the instance in `claim`, while no Sentinel names an instance that is up; and the last writer while a majority
/// names it and no other instance leads.
fn veto_promote(view: &View<'_>, instance: &Address) -> Option<String> {
    let up = |group: &SentinelGroup| {
        let answers = |replica: &Address| view.instance(replica).is_some();
        group.down == DownOpinion::Up
            || says_primary(view, &group.monitored)
            || group.replicas.iter().any(|replica| !replica.s_down || answers(&replica.address))
    };
    let agreed = view.record.and_then(|record| record.claim.as_ref()) == Some(instance);
    // The last writer, which each agent that knows the group names.
    let again = || {
        let last = view.record.and_then(|record| record.last_writer.as_ref());
        let names = |group: &SentinelGroup| &group.primary == instance && group.failover.is_none();
        last.is_some_and(|last| &last.address == instance) && view.groups().all(names)
    };
    if agreed && view.writer().is_none() && (!view.groups().any(up) || again()) {
        // The first primary replaces no other one.
        let past = view.record.is_some_and(|record| record.last_writer.is_some());
        let others = || view.observed.instances.keys().filter(|other| *other != instance);
        let all = || others().filter(|_| past);
        let more = all().find(|other| keys(view, other) > 0).filter(|_| keys(view, instance) == 0);
        let rival = all().find(|other| says_primary(view, other) && keys(view, other) > 0);
        return more
            .map(|more| format!("{instance} has no data, and {more} has some"))
            .or_else(|| rival.map(|rival| format!("{rival} says that it is the primary")));
    }
    if view.writer().is_none() && view.groups().next().is_none() {
        return Some(format!("{instance} is not the primary that was agreed on"));
    }
    let last = view.record.and_then(|record| record.last_writer.as_ref());
    if last.is_none_or(|last| &last.address != instance) {
        return Some(format!("{instance} was not the last writer"));
    }
    if view.tally.votes_for(instance) < view.tally.majority() {
        return Some(format!("the majority does not name {instance}"));
    }
    let all = view.observed.instances.keys();
    let others = all.filter(|other| *other != instance && !same_process(view, other, instance));
    let mut rivals = others.filter(|other| says_primary(view, other));
    rivals.next().map(|rival| format!("{rival} says that it is the primary"))
}

/// Only an instance with data is kept from copying one without, or one that had none when it was started; never one
/// that a Sentinel may want as the primary.
fn veto_detach(view: &View<'_>, detach: &Detach) -> Option<String> {
    let Detach { instance, from, .. } = detach;
    if view.instance(instance).is_none_or(|answer| answer.keys == 0) {
        return Some(format!("{instance} has no data to keep"));
    }
    if let Some(why) = not_lost_its_data(view, from) {
        return Some(why);
    }
    let silent = led_in_silence(view.observed, view.recent);
    let mut failovers = view.tally.failovers.iter().chain(&silent);
    let wanted = view.groups().any(|group| &group.primary == instance)
        || failovers.any(|f| f.chosen.as_ref() == Some(instance));
    wanted.then(|| format!("a Sentinel names or promotes {instance}"))
}

fn not_lost_its_data(view: &View<'_>, primary: &Address) -> Option<String> {
    let empty = view
        .instance(primary)
        .is_some_and(|answer| answer.is_primary() && (answer.keys == 0 || answer.started_empty));
    if !empty {
        return Some(format!("{primary} is no primary without data"));
    }
    let named = view.tally.votes_for(primary) >= view.tally.majority();
    (!named).then(|| format!("the majority does not name {primary}"))
}

/// A failover is asked for only while no writer is published, none is under way, and another instance has data.
fn veto_replace(view: &View<'_>, replace: &Replace) -> Option<String> {
    if let Some(why) = not_lost_its_data(view, &replace.primary) {
        return Some(why);
    }
    if let Some(writer) = view.writer() {
        return Some(format!("{writer} is published"));
    }
    if view.groups().any(|group| group.failover.is_some()) {
        return Some("a failover is under way".to_owned());
    }
    let others = view.observed.instances.keys().filter(|address| **address != replace.primary);
    let held = others.filter_map(|address| view.instance(address)).any(|own| own.keys > 0);
    (!held).then(|| format!("no instance but {} has data", replace.primary))
}

/// A failover is asked for at once only where the writer's process is known to have ended and does not answer since,
/// and another instance has the data.
fn veto_fast(view: &View<'_>, replace: &Replace) -> Option<String> {
    let Replace { primary, .. } = replace;
    let Some(death) = view.observed.deaths.get(primary) else {
        return Some(format!("nothing proves that the process of {primary} has ended"));
    };
    let answers = view.instance(primary).is_some_and(|own| own.run_id == death.run_id)
        && view.observed.instances.get(primary).is_some_and(|own| own.asked > death.at);
    if answers {
        return Some(format!("{primary} answers"));
    }
    if view.groups().any(|group| group.failover.is_some()) {
        return Some("a failover is under way".to_owned());
    }
    let others = view.observed.instances.keys().filter(|address| *address != primary);
    let all = others.filter_map(|address| view.instance(address));
    (!all.into_iter().any(InstanceAnswer::is_replica))
        .then(|| format!("no replica of {primary} answers"))
}

/// Only what another primary has superseded for certain is held, or what is on our own host while we are blind.
fn veto_hold(view: &View<'_>, hold: &Hold) -> Option<String> {
    let Hold { instance, why, .. } = hold;
    match why {
        HoldReason::SupersededBy(successor) => {
            let another = successor != instance && !same_process(view, instance, successor);
            let certain = another && says_primary(view, successor);
            (!certain).then(|| format!("nothing supersedes {instance} for certain"))
        }
        HoldReason::Unproven(writer) => {
            let named = view.groups().any(|group| named_by(group).any(|named| named == instance));
            let certain = writer != instance
                && view.writer() == Some(writer)
                && view.tally.votes_for(writer) >= view.tally.majority()
                && !same_process(view, instance, writer)
                && says_primary(view, writer);
            (named || !certain).then(|| format!("{instance} is not held beside {writer}"))
        }
        HoldReason::BeingReplaced => {
            let death = view.record.and_then(|record| record.death.as_ref());
            let died = death.is_some_and(|death| {
                &death.instance == instance
                    && view.instance(instance).is_some_and(|own| own.run_id != death.run_id)
            });
            let certain = died && view.writer().is_none();
            (!certain).then(|| format!("{instance} is not being replaced"))
        }
        HoldReason::Isolated => {
            let named = view.tally.votes_for(instance) >= view.tally.majority();
            let ours = view.policy.local.contains(instance);
            (named || !ours).then(|| format!("{instance} is not on an isolated host"))
        }
    }
}

/// No instance that any Sentinel that matters wants to be the primary is ever made a replica.
fn veto_fence(view: &View<'_>, fence: &Fence) -> Option<String> {
    let Fence { instance, follow, .. } = fence;
    let placed = view.instance(instance).is_none_or(|answer| match &answer.role {
        Role::Primary { .. } => false,
        Role::Replica { of, link_up } => *link_up || !is_detached_address(of),
    });
    let named = view.groups().any(|group| named_by(group).any(|named| named == instance));
    let left = fence.kind == StrayKind::LeftBehind
        && view.instance(instance).is_some_and(|answer| is_left_behind(view, instance, answer));
    if placed && named && !left {
        return Some(format!("{instance} is a replica that Sentinels know"));
    }
    if instance == follow || view.writer() != Some(follow) {
        return Some(format!("{follow} is not the published writer"));
    }
    if !says_primary(view, follow) {
        return Some(format!("{follow} has not said that it is the primary"));
    }
    if same_process(view, instance, follow) || Some(&fence.run_id) == fence.follow_run.as_ref() {
        return Some(format!("{instance} and {follow} are one process"));
    }
    if fence.kind != StrayKind::RestartedEmpty
        && keys(view, instance) > 0
        && keys(view, follow) == 0
    {
        return Some(format!("{instance} has data and {follow} has none"));
    }
    let tally = &view.tally;
    let names = |address: &Address| tally.votes_for(address) >= tally.majority();
    if names(instance) || !(names(follow) || may_follow_untold(view, instance)) {
        return Some(format!("the majority does not name {follow}"));
    }
    let silent = led_in_silence(view.observed, view.recent);
    // One whose epoch a majority has reached with another primary promotes nothing any more.
    let reached = tally.votes.get(follow).map_or(0, |votes| votes.epoch);
    let open = silent.iter().filter(|f| f.epoch.is_none_or(|epoch| epoch > reached));
    let mut failovers = tally.failovers.iter().chain(open);
    let chosen = failovers.any(|f| f.chosen.as_ref() == Some(instance));
    if chosen {
        return Some(format!("a Sentinel is promoting {instance}"));
    }
    tally.any_objective(follow).then(|| format!("a Sentinel calls {follow} down"))
}

fn veto_write(view: &View<'_>, write: &Write) -> Option<String> {
    if write.ops.len() > TXN_OPS_MAX {
        return Some(format!("{} operations in one transaction", write.ops.len()));
    }
    let record = write.record.as_ref()?;
    let primaries: Vec<&Address> = record
        .instances
        .iter()
        .filter(|i| i.role == PublishedRole::Primary)
        .map(|i| &i.address)
        .collect();
    if primaries != record.writer_address().into_iter().collect::<Vec<_>>() {
        return Some("the rows and the writer would tell different stories".to_owned());
    }
    let begins = matches!(write.purpose, Purpose::Publish | Purpose::Withdraw);
    if begins && record.generation <= view.memory.generation_max {
        return Some(format!("generation {} has been used", record.generation));
    }
    if !begins && view.writer() != record.writer_address() {
        return Some(format!("a {} cannot change the writer", write.purpose.as_str()));
    }
    if let Some(forget) = &write.forget {
        return veto_forget(view, forget);
    }
    if let Some(replace) = &write.replace {
        return match write.purpose {
            Purpose::Withdraw => veto_fast(view, replace),
            _ => veto_replace(view, replace),
        };
    }
    let writer = record.writer_address().filter(|_| write.purpose == Purpose::Publish)?;
    if let Some(veto) = veto_strangers(view, writer) {
        return Some(veto);
    }
    let proved = says_primary(view, writer);
    (!proved).then(|| format!("{writer} has not said that it is the primary"))
}

/// No instance is published on the word of Sentinels that have nothing to do with those of the record.
fn veto_strangers(view: &View<'_>, writer: &Address) -> Option<String> {
    let recorded = view.record.filter(|record| !record.sentinel_ids.is_empty())?;
    let names = view
        .sentinels()
        .filter(|(_, answer)| answer.group.as_ref().is_some_and(|group| &group.primary == writer));
    let mut named = false;
    for (at, answer) in names {
        let group = answer.group.iter();
        let peers = group.clone().flat_map(|group| &group.peers);
        let mut ids = peers.map(|peer| &peer.id).chain([&answer.id]);
        let known = ids.any(|id| recorded.sentinel_ids.contains(id));
        let mut places = group.flat_map(named_by);
        let of_place = places.any(|place| {
            recorded.role_of(place).is_some()
                || recorded.last_writer.as_ref().is_some_and(|last| &last.address == place)
        });
        if known || of_place || recorded.sentinels.contains(at) {
            return None;
        }
        named = true;
    }
    let answer = view.instance(writer)?;
    let is_the_data = view.age(answer).is_some();
    (named && !is_the_data).then(|| format!("no Sentinel of the record names {writer}"))
}

/// A Sentinel is reset only while all that are heard, and they are a majority, name the writer and see nothing wrong.
fn veto_forget(view: &View<'_>, forget: &Forget) -> Option<String> {
    let tally = &view.tally;
    if tally.answering < tally.majority() || tally.votes_for(&forget.primary) < tally.answering {
        return Some(format!("not all Sentinels name {}", forget.primary));
    }
    let calm = |group: &SentinelGroup| group.failover.is_none() && group.down == DownOpinion::Up;
    (!view.groups().all(calm)).then(|| "something is going on among the Sentinels".to_owned())
}

/// How many keys the instance holds, by its last recent answer.
fn keys(view: &View<'_>, address: &Address) -> u64 {
    view.instance(address).map_or(0, |answer| answer.keys)
}

/// The same process answers at both addresses, by their last recent answers.
fn same_process(view: &View<'_>, one: &Address, other: &Address) -> bool {
    let run = |address: &Address| view.instance(address).map(|answer| &answer.run_id);
    run(one).is_some_and(|own| run(other) == Some(own))
}

/// The instance's last answer is recent and says primary.
fn says_primary(view: &View<'_>, address: &Address) -> bool {
    view.instance(address).is_some_and(|answer| answer.is_primary())
}
