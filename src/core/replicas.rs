//! Which instances have a row, and what each is published as.
//!
//! Everything here rests on what all agents see alike: the Sentinels' majority and the writer's own
//! list of its replicas. An agent that cannot reach a replica itself has no say about it, so two agents
//! with different views of the network cannot rewrite each other's rows for ever.

use std::collections::BTreeSet;

use super::address::Address;
use super::memory::Condition;
use super::observed::{Role, SentinelGroup};
use super::policy::{INSTANCES_MAX, UNNAMED_AFTER_MS};
use super::record::{InstanceRecord, PublishedRole};
use super::view::View;

/// One look at the instances of a group.
pub struct Roster<'v, 'a> {
    view: &'v View<'a>,
}

impl<'v, 'a> Roster<'v, 'a> {
    /// Looks.
    pub fn new(view: &'v View<'a>) -> Self {
        Self { view }
    }

    /// Every instance a recent answer or the record names.
    pub fn known(&self) -> BTreeSet<Address> {
        let recorded = self.view.record.iter().flat_map(|record| &record.instances);
        let named = self.view.groups().flat_map(named_by);
        let all: BTreeSet<&Address> = recorded.map(|i| &i.address).chain(named).collect();
        let some = all.into_iter().take(INSTANCES_MAX);
        some.chain(self.view.writer()).cloned().collect()
    }

    /// The conditions of this module that hold now, for [`Memory::keep`].
    pub fn conditions(&self) -> BTreeSet<Condition> {
        let writer = self.view.writer();
        let mut holding = BTreeSet::new();
        for address in self.known() {
            if !self.named(&address) {
                holding.insert(Condition::Unnamed(address.clone()));
            }
            if self.down(&address) {
                holding.insert(Condition::Down(address.clone()));
            }
            if self.in_sync(&address, writer) == Some(false) {
                holding.insert(Condition::OutOfSync(address));
            }
        }
        holding
    }

    /// The rows there should be, given the writer that is about to be published.
    pub fn rows(&self, writer: Option<&Address>) -> Vec<InstanceRecord> {
        let mut known = self.known();
        known.extend(writer.cloned());
        known
            .into_iter()
            .filter(|address| Some(address) == writer || !self.forgotten(address))
            .map(|address| InstanceRecord { role: self.role(&address, writer), address })
            .collect()
    }

    /// An instance loses its row once no Sentinel names it, or once it has been down for long.
    fn forgotten(&self, address: &Address) -> bool {
        let unnamed = Condition::Unnamed(address.clone());
        let down = Condition::Down(address.clone());
        self.lasted(&unnamed, UNNAMED_AFTER_MS)
            || self.lasted(&down, self.view.policy.forget_after_ms)
    }

    fn role(&self, address: &Address, writer: Option<&Address>) -> PublishedRole {
        let before = self.view.record.and_then(|record| record.role_of(address));
        if Some(address) == writer {
            return PublishedRole::Primary;
        }
        if self.down(address) {
            return PublishedRole::Down;
        }
        let own = self.view.instance(address);
        // Another primary is no read endpoint: its data is about to be discarded.
        let primary = own.is_some_and(|answer| matches!(answer.role, Role::Primary { .. }));
        let not_ready = own.is_some_and(|answer| answer.not_ready.is_some());
        if primary || not_ready {
            return PublishedRole::OutOfSync;
        }
        let late = Condition::OutOfSync(address.clone());
        match (self.in_sync(address, writer), before) {
            (Some(true), _) => PublishedRole::Replica,
            // Replicas reconnect within seconds of a switch; until then they still serve reads.
            (Some(false), Some(PublishedRole::Replica))
                if !self.lasted(&late, self.view.policy.replica_lag_max_ms) =>
            {
                PublishedRole::Replica
            }
            (None, Some(PublishedRole::Replica)) => PublishedRole::Replica,
            // Down ends with a sign of life, not with a Sentinel that has yet to look.
            (_, Some(PublishedRole::Down)) if own.is_none() => PublishedRole::Down,
            _ => PublishedRole::OutOfSync,
        }
    }

    /// Whether the writer lists the replica as online and recent, and the replica does not itself
    /// deny it. `None` when the writer has not said.
    fn in_sync(&self, address: &Address, writer: Option<&Address>) -> Option<bool> {
        let writer = self.view.instance(writer?)?;
        let Role::Primary { replicas } = &writer.role else { return None };
        let listed = replicas.iter().find(|replica| &replica.address == address);
        let fresh = listed.is_some_and(|replica| {
            replica.online && replica.lag_s.saturating_mul(1_000) <= self.view.policy.replica_lag_max_ms
        });
        let denies = self
            .view
            .instance(address)
            .is_some_and(|own| matches!(own.role, Role::Replica { link_up: false, .. }));
        Some(fresh && !denies)
    }

    /// A majority of the known Sentinels gets no answer from the instance.
    fn down(&self, address: &Address) -> bool {
        let tally = &self.view.tally;
        let as_primary = tally.down.get(address).map_or(0, |down| down.subjective);
        let sure = self.view.sentinels().filter(|(_, answer)| !answer.tilt);
        let as_replica = sure
            .filter_map(|(_, answer)| answer.group.as_ref())
            .filter(|group| group.replicas.iter().any(|r| &r.address == address && r.s_down))
            .count();
        as_primary.max(as_replica) >= tally.majority()
    }

    /// Some Sentinel names the instance, or too few answered to say that none does.
    fn named(&self, address: &Address) -> bool {
        self.view.tally.heard < self.view.tally.majority()
            || self.view.groups().any(|group| named_by(group).any(|named| named == address))
    }

    fn lasted(&self, condition: &Condition, ms: u64) -> bool {
        self.view.memory.lasted(condition, ms, self.view.now)
    }
}

/// The instances one Sentinel names.
pub fn named_by(group: &SentinelGroup) -> impl Iterator<Item = &Address> {
    [&group.primary, &group.monitored]
        .into_iter()
        .chain(group.replicas.iter().map(|replica| &replica.address))
}
