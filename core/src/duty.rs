//! What is done to one instance, and to one Sentinel: by its type at most one thing in one decision.
//!
//! Several rules may want something of the same instance. The order in which they come is that of [`Duty`]: what makes
//! an instance a primary goes first, then what keeps its data, then what makes it a replica, then what only holds it,
//! then the mark in its data set, then its place in the order of zones.

pub mod action;
pub mod fence;
pub mod hold;
pub mod mark;
pub mod relay;
pub mod safety;
pub mod sentinels;
pub mod stale_peers;
pub mod switchover;
pub mod zone_order;

use std::collections::BTreeMap;

use crate::duty::action::Action;
use crate::duty::fence::{Fence, fences};
use crate::duty::hold::{Hold, holds, unproven};
use crate::duty::mark::{Marking, marking};
use crate::duty::relay::{Relay, relays};
use crate::duty::sentinels::{Reconfigure, paces, reconfigurations};
use crate::duty::stale_peers::Forget;
use crate::duty::zone_order::{Prioritize, priorities};
use crate::identity::address::Address;
use crate::known::view::View;
use crate::shown::reasons::{LeftAlone, Reason};
use crate::situation::Situation;
use crate::situation::bootstrap::Promote;
use crate::situation::data_loss::{Detach, Replace, detachments};

/// What is done to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Make it a primary.
    Promote(Promote),
    /// Detach it, so that it keeps its data.
    Detach(Detach),
    /// Make it a replica of the writer.
    Fence(Fence),
    /// Hold its writes for a moment.
    Hold(Hold),
    /// Write the mark into its data set.
    Mark(Marking),
    /// Keep its `replica-priority` as the order of zones has it.
    Prioritize(Prioritize),
    /// No command: it is as it should be, or a reason says why not.
    Leave,
}

/// What is done to one Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentinelDuty {
    /// Tell it how an election ended whose leader does not.
    Relay(Relay),
    /// Change what it monitors, or its settings.
    Reconfigure(Reconfigure),
    /// Have it forget those that are gone for good, once that is written down.
    Forget(Forget),
    /// Ask it for a failover, once that is written down.
    Replace(Replace),
    /// No command: it is as it should be, or must not be disturbed.
    Leave,
}

impl Duty {
    /// The action that carries it out; `None` for [`Duty::Leave`].
    pub fn action(&self) -> Option<Action> {
        match self.clone() {
            Self::Promote(promote) => Some(Action::Promote(promote)),
            Self::Detach(detach) => Some(Action::Detach(detach)),
            Self::Fence(fence) => Some(Action::Fence(fence)),
            Self::Hold(hold) => Some(Action::Hold(hold)),
            Self::Mark(marking) => Some(Action::Mark(marking)),
            Self::Prioritize(prioritize) => Some(Action::Prioritize(prioritize)),
            Self::Leave => None,
        }
    }
}

impl SentinelDuty {
    /// The action that carries it out at once; `None` for [`SentinelDuty::Leave`], and where a write in Consul comes
    /// first.
    pub fn action(&self) -> Option<Action> {
        match self.clone() {
            Self::Relay(relay) => Some(Action::Relay(relay)),
            Self::Reconfigure(reconfigure) => Some(Action::Reconfigure(reconfigure)),
            Self::Forget(_) | Self::Replace(_) | Self::Leave => None,
        }
    }
}

/// What is to be done to the instances.
#[derive(Debug, Default)]
pub struct Duties {
    /// Those that are not left alone.
    pub instances: BTreeMap<Address, Duty>,
    /// Stray primaries that are left alone.
    pub left_alone: Vec<LeftAlone>,
    /// Why the writer's data set lacks the mark, and which priorities are not as the order of zones has them.
    pub not_done: Vec<Reason>,
    /// What the safety layer forbids.
    pub refused: Vec<Reason>,
}

/// What every rule wants of the instances, by instance, in the order of [`Duty`].
#[derive(Default)]
struct WantedDuties(BTreeMap<Address, Vec<Duty>>);

impl WantedDuties {
    fn add(&mut self, instance: &Address, duty: Duty) {
        self.0.entry(instance.clone()).or_default().push(duty);
    }
}

/// What is to be done to each instance.
pub fn duties(view: &View<'_>, situation: &Situation) -> Duties {
    let mut wanted = WantedDuties::default();
    let due = |promote: &&Promote| view.memory.commanded_long_ago(&promote.instance, view.now);
    if let Some(promote) = situation.promotes().filter(due) {
        wanted.add(&promote.instance, Duty::Promote(promote.clone()));
    }
    for detach in detachments(view) {
        wanted.add(&detach.instance.clone(), Duty::Detach(detach));
    }
    let (fences, left_alone) = fences(view);
    for fence in fences {
        wanted.add(&fence.instance.clone(), Duty::Fence(fence));
    }
    for hold in holds(view).into_iter().chain(unproven(view, &left_alone)) {
        wanted.add(&hold.instance.clone(), Duty::Hold(hold));
    }
    let (marking, not_marked) = marking(view);
    if let Some(marking) = marking {
        wanted.add(&marking.instance.clone(), Duty::Mark(marking));
    }
    let (prioritized, not_preferred) = priorities(view);
    for prioritize in prioritized {
        wanted.add(&prioritize.instance.clone(), Duty::Prioritize(prioritize));
    }
    let not_preferred = not_preferred.into_iter().map(Reason::NotPreferred);
    let not_done = not_marked.map(Reason::NotMarked).into_iter().chain(not_preferred).collect();
    let mut duties = Duties { left_alone, not_done, ..Duties::default() };
    for (instance, wanted) in wanted.0 {
        let duty = duty(view, wanted, &mut duties.refused);
        if duty != Duty::Leave {
            duties.instances.insert(instance, duty);
        }
    }
    duties
}

/// The first thing wanted of an instance that is not forbidden.
fn duty(view: &View<'_>, wanted: Vec<Duty>, refused: &mut Vec<Reason>) -> Duty {
    for duty in wanted {
        match duty.action().and_then(|action| safety::veto(view, &action)) {
            None => return duty,
            Some(veto) => refused.push(Reason::Refused(veto)),
        }
    }
    Duty::Leave
}

/// What is to be done to each Sentinel now.
pub fn sentinel_duties(
    view: &View<'_>,
    refused: &mut Vec<Reason>,
) -> BTreeMap<Address, SentinelDuty> {
    let relays =
        relays(view).into_iter().map(|relay| (relay.sentinel.clone(), SentinelDuty::Relay(relay)));
    let reconfigurations = paces(view)
        .into_iter()
        .chain(reconfigurations(view))
        .map(|tell| (tell.sentinel.clone(), SentinelDuty::Reconfigure(tell)));
    let mut sentinel_duties = BTreeMap::new();
    for (sentinel, duty) in relays.chain(reconfigurations) {
        match duty.action().and_then(|action| safety::veto(view, &action)) {
            None => {
                sentinel_duties.entry(sentinel).or_insert(duty);
            }
            Some(veto) => refused.push(Reason::Refused(veto)),
        }
    }
    sentinel_duties
}
