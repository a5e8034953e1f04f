//! The order of zones in which Sentinel is to prefer replicas (`prefer_zones`): which `replica-priority` an instance is
//! kept at.
//!
//! Sentinel chooses the replica with the lowest priority above 0, as it read it last (`INFO`, every 10 s). The agent
//! beside an instance keeps it, while the instance is a replica of the published writer and nothing goes on: a primary
//! does not say its priority, and gets it once it is a replica again. What an operator has set to 0 stays 0.

use crate::identity::address::{Address, Zone};
use crate::known::observed::{DownOpinion, InstanceAnswer, Role};
use crate::known::view::View;
use crate::policy::{PRIORITY_AGAIN_MS, PRIORITY_REFUSED_MS};
use crate::published::record::PublishedRole;
use crate::shown::reasons::{NotPreferred, WhyNotPreferred};
use crate::situation::data_loss::{DEFAULT_PRIORITY, data_loss};
use crate::situation::haste::is_voting;
use crate::situation::proof::undisturbed;
use crate::situation::writer::WriterTest;

/// Zones in one order, at the most: the priorities of more would reach Redis' default.
pub const PREFER_ZONES_MAX: usize = 9;
/// How far apart the priorities of two zones are: `switchover --to` and operators have room below and between them.
const PRIORITY_STEP: u64 = 10;

/// The `replica-priority` of what stands in a zone: 10, 20 and so on in the order, and Redis' default in any other one.
pub fn priority_in(order: &[Zone], zone: &Zone) -> u64 {
    let places = (1..).map(|place: u64| place.saturating_mul(PRIORITY_STEP));
    let listed = order.iter().zip(places).find(|(listed, _)| *listed == zone);
    listed.map_or(DEFAULT_PRIORITY, |(_, priority)| priority.min(DEFAULT_PRIORITY))
}

/// A `replica-priority` that is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prioritize {
    /// The replica beside this agent.
    pub instance: Address,
    /// The run of it that was seen: another run must be looked at anew.
    pub run_id: String,
    /// The primary that it follows.
    pub follows: Address,
    /// The zone that it stands in.
    pub zone: Zone,
    /// The priority that was seen; never 0.
    pub had: u64,
    /// The one that it is to have.
    pub priority: u64,
}

impl Prioritize {
    /// Whether what the instance says at the last moment is still what this was decided on.
    pub fn still_holds(&self, now: &InstanceAnswer) -> bool {
        now.run_id == self.run_id
            && now.is_linked()
            && now.follows(&self.follows)
            && now.not_ready.is_none()
            && !now.failover_running
            && now.priority == Some(self.had)
    }
}

/// What is to be set now, and which priorities stay other than the order has them.
pub fn priorities(view: &View<'_>) -> (Vec<Prioritize>, Vec<NotPreferred>) {
    let (mut wanted, mut not) = (Vec::new(), Vec::new());
    let order = &view.policy.prefer_zones;
    let zone = view.policy.zone.as_ref().filter(|_| !order.is_empty());
    let (Some(zone), Some(writer)) = (zone, settled(view)) else { return (wanted, not) };
    let priority = priority_in(order, zone);
    for instance in &view.policy.local {
        let Some((answer, follows)) = member(view, writer, instance) else { continue };
        let Some(had) = answer.priority.filter(|had| ![0, priority].contains(had)) else {
            continue;
        };
        let instance = instance.clone();
        let prioritize = Prioritize {
            run_id: answer.run_id.clone(),
            follows: follows.clone(),
            zone: zone.clone(),
            instance: instance.clone(),
            had,
            priority,
        };
        let failed = match keeper(view, &instance) {
            PriorityKeeper::NotThere => continue,
            PriorityKeeper::Another(agent) => {
                let why = WhyNotPreferred::Another(agent.to_owned());
                not.push(NotPreferred { instance, had, priority, why });
                continue;
            }
            PriorityKeeper::ThisOne => view.memory.not_prioritized.get(&instance),
        };
        let failed = failed.filter(|failed| failed.run_id == answer.run_id);
        let pause_ms = if failed.is_some() { PRIORITY_REFUSED_MS } else { PRIORITY_AGAIN_MS };
        let last = view.memory.prioritized.get(&instance);
        if last.is_none_or(|at| view.now.mono - *at >= pause_ms) {
            wanted.push(prioritize);
        }
        not.extend(failed.map(|failed| {
            let why = WhyNotPreferred::Refused(failed.words.clone());
            NotPreferred { instance, had, priority, why }
        }));
    }
    (wanted, not)
}

/// The published writer, while nothing goes on in the group: an order that changes in an election, or while a planned
/// move has a priority of its own, would have another outcome than either.
fn settled<'a>(view: &View<'a>) -> Option<&'a Address> {
    let writer = view.writer()?;
    let calm = undisturbed(view, writer, DownOpinion::Subjective).is_ok()
        && view.tally.failovers.is_empty()
        && !is_voting(view)
        && data_loss(view).is_none();
    match view.test(writer) {
        WriterTest::Passes(answer) if calm && !answer.failover_running => Some(writer),
        _ => None,
    }
}

/// What an instance says, and whom it follows, where it is a replica of the writer with the group's data, and in service.
fn member<'a>(
    view: &View<'a>,
    writer: &Address,
    instance: &Address,
) -> Option<(&'a InstanceAnswer, &'a Address)> {
    let answer = view.instance(instance)?;
    let Role::Replica { of, link_up: true } = &answer.role else { return None };
    let role = view.record?.role_of(instance)?;
    let in_service = [PublishedRole::Replica, PublishedRole::OutOfSync].contains(&role);
    // By a name that leads to the writer, what is connected decides.
    let follows = of == writer || view.lists(writer, instance);
    let well = answer.not_ready.is_none() && !answer.failover_running;
    let ours = view.age(answer) == Some(0) && view.alias_of(instance).is_none();
    let out = view.in_maintenance(instance);
    (in_service && follows && well && ours && !out).then_some((answer, of))
}

/// Which agent keeps the priority of an instance.
enum PriorityKeeper<'a> {
    /// This agent.
    ThisOne,
    /// This agent does not show itself yet.
    NotThere,
    /// Another one that stands beside the instance as well, and comes first by its id.
    Another(&'a str),
}

/// Two agents beside one instance may have other zones and other orders: they would write in turn.
fn keeper<'a>(view: &View<'a>, instance: &Address) -> PriorityKeeper<'a> {
    let own = &view.policy.agent;
    let words = view.observed.store.iter().flat_map(|store| &store.words);
    let beside = words.filter(|(_, words)| words.instances.contains_key(instance));
    let beside: Vec<&str> = beside.map(|(agent, _)| agent.as_str()).collect();
    // One look does not show itself: it speaks for the agent that stands there.
    let looks_once = view.memory.generation.is_none();
    match beside.first() {
        Some(first) if first == own => PriorityKeeper::ThisOne,
        Some(first) if !looks_once || beside.contains(&own.as_str()) => {
            PriorityKeeper::Another(first)
        }
        None if !looks_once => PriorityKeeper::NotThere,
        _ => PriorityKeeper::ThisOne,
    }
}
