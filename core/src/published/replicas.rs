//! Which instances have a row, and what each is published as.
//!
//! Everything here rests on what all agents see alike: the Sentinels' majority and the writer's own
//! list of its replicas. An agent that cannot reach a replica itself has no say about it, so two agents
//! with different views of the network cannot rewrite each other's rows for ever.

use std::collections::BTreeSet;

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::observed::{InstanceAnswer, Role, SentinelGroup};
use crate::known::view::View;
use crate::policy::{INSTANCES_MAX, UNNAMED_AFTER_MS};
use crate::published::record::{InstanceRecord, PublishedRole};

/// One look at the instances of a group.
pub struct InstanceRows<'v, 'a> {
    view: &'v View<'a>,
}

impl<'v, 'a> InstanceRows<'v, 'a> {
    /// A look at `view`, which keeps what is worked out.
    pub fn new(view: &'v View<'a>) -> Self {
        Self { view }
    }

    /// Every instance a recent answer or the record names.
    pub fn known(&self) -> &'v BTreeSet<Address> {
        self.view.found.known.get_or_init(|| {
            let recorded = self.view.record.iter().flat_map(|record| &record.instances);
            let named = self.view.groups().flat_map(named_by);
            let all: BTreeSet<&Address> = recorded.map(|i| &i.address).chain(named).collect();
            let some = all.into_iter().take(INSTANCES_MAX);
            some.chain(self.view.writer()).cloned().collect()
        })
    }

    /// Everything to stay connected to: besides the known ones those that are registered for the group, or on
    /// this host, and that no Sentinel has found yet.
    pub fn followed(&self) -> &'v BTreeSet<Address> {
        self.view.found.followed.get_or_init(|| {
            let more = self.view.observed.registered.iter().chain(&self.view.policy.local);
            let refused = self.view.refused();
            let more = more.filter(|address| !refused.contains(*address));
            self.known().iter().chain(more.take(INSTANCES_MAX)).cloned().collect()
        })
    }

    /// All that are asked: besides those to stay connected to the writers of the last hour (`forget_after`), which may
    /// come back as primaries although no Sentinel lists them any more (`SENTINEL RESET`). They count for nothing but
    /// that.
    pub fn watched(&self) -> &'v BTreeSet<Address> {
        let view = self.view;
        view.found.watched.get_or_init(|| {
            let store = view.observed.store.iter();
            let within_ms = view.policy.forget_after_ms;
            let former = store.flat_map(|store| store.former_writers(view.now.wall, within_ms));
            self.followed().iter().chain(former.take(INSTANCES_MAX)).cloned().collect()
        })
    }

    /// The known ones, and registered ones that the writer lists: Sentinels find those within 10 s.
    fn with_newcomers(&self, writer: Option<&Address>) -> Vec<&'v Address> {
        let known = self.known();
        let mut all: Vec<&Address> = known.iter().collect();
        let answer = writer.and_then(|writer| self.view.instance(writer));
        if let Some(Role::Primary { replicas }) = answer.map(|answer| &answer.role) {
            let registered = &self.view.observed.registered;
            let listed = replicas.iter().map(|replica| &replica.address);
            let shown = |a: &Address| self.view.instance(a).is_none_or(|own| own.announced);
            let new = |a: &&Address| registered.contains(*a) && !known.contains(*a) && shown(a);
            all.extend(listed.filter(new));
        }
        all
    }

    /// The conditions of this module that hold now, for [`crate::known::memory::Memory::keep`].
    pub fn conditions(&self) -> BTreeSet<Condition> {
        let writer = self.view.writer();
        let mut holding = BTreeSet::new();
        for address in self.with_newcomers(writer) {
            if !self.named(address) {
                holding.insert(Condition::Unnamed(address.clone()));
            }
            if self.down(address) {
                holding.insert(Condition::Down(address.clone()));
            }
            if self.in_sync(address, writer) == Some(false) {
                holding.insert(Condition::OutOfSync(address.clone()));
            }
        }
        holding
    }

    /// The rows there should be, given the writer that is about to be published.
    pub fn rows(&self, writer: Option<&Address>) -> Vec<InstanceRecord> {
        let mut known = self.with_newcomers(writer);
        known.extend(writer);
        known.sort();
        known.dedup();
        known
            .into_iter()
            .filter(|address| Some(*address) == writer || !self.forgotten(address, writer))
            .map(|address| InstanceRecord {
                role: self.role(address, writer),
                address: address.clone(),
            })
            .collect()
    }

    /// An instance loses its row once no Sentinel names it, or once it has been down for long. That Sentinels have
    /// forgotten their replicas (`SENTINEL RESET`) is no reason while there is no writer, through which alone they find
    /// them again; nor while the instance itself answers and follows one of the group, or waits for one that is gone
    /// with the group's data. Another address of a process that has a row is no instance.
    fn forgotten(&self, address: &Address, writer: Option<&Address>) -> bool {
        let down = Condition::Down(address.clone());
        let unnamed = is_unnamed(self.view, address);
        let ours = self.view.alias_of(address).is_none()
            && (self.follows_one_of_us(address) || self.waits_with_our_data(address));
        unnamed && writer.is_some() && !ours || self.lasted(&down, self.view.policy.forget_after_ms)
    }

    /// It says that it follows the last writer, or another instance that has a row.
    fn follows_one_of_us(&self, address: &Address) -> bool {
        let answer = self.view.instance(address);
        let Some(Role::Replica { of, .. }) = answer.map(|answer| &answer.role) else {
            return false;
        };
        self.view.record.is_some_and(|record| {
            record.role_of(of).is_some()
                || record.last_writer.as_ref().is_some_and(|last| &last.address == of)
        })
    }

    /// A replica without a link, of whatever address, that holds data of the group: the primary that it followed has no
    /// row any more, and Sentinels find a replica through its primary alone.
    fn waits_with_our_data(&self, address: &Address) -> bool {
        self.view.instance(address).is_some_and(|answer| {
            answer.is_detached() && answer.keys > 0 && self.view.age(answer).is_some()
        })
    }

    fn role(&self, address: &Address, writer: Option<&Address>) -> PublishedRole {
        let before = self.view.record.and_then(|record| record.role_of(address));
        if Some(address) == writer {
            return PublishedRole::Primary;
        }
        if self.view.in_maintenance(address) {
            return PublishedRole::Maintenance;
        }
        // Two agents that hear different Sentinels must not undo each other's rows: it takes a majority to
        // call a replica down, and a majority to call it up again.
        let opinion = self.down_or_up(address);
        if opinion == Some(true) || opinion.is_none() && before == Some(PublishedRole::Down) {
            return PublishedRole::Down;
        }
        let own = self.view.instance(address);
        // Neither a Sentinel nor a writer speaks for it, and it does not itself.
        let unknown = writer.is_none() && own.is_none() && is_unnamed(self.view, address);
        if unknown && before == Some(PublishedRole::Replica) {
            return PublishedRole::Down;
        }
        // Another primary is no read endpoint: its data is about to be discarded.
        let primary = own.is_some_and(|answer| answer.is_primary());
        let not_ready = own.is_some_and(|answer| !answer.serves_reads());
        // Nor is one that its operator keeps from being shown (`replica-announced no`).
        let hidden = own.is_some_and(|answer| !answer.announced);
        if primary || not_ready || hidden {
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
            replica.online
                && replica.lag_s.saturating_mul(1_000) <= self.view.policy.replica_lag_max_ms
        });
        let denies = self.view.instance(address).is_some_and(InstanceAnswer::is_detached);
        Some(fresh && !denies)
    }

    /// A majority of the known Sentinels gets no answer from the instance (true), or does (false).
    fn down_or_up(&self, address: &Address) -> Option<bool> {
        if self.down(address) {
            return Some(true);
        }
        let tally = &self.view.tally;
        let up = tally.replicas.get(address).map_or(0, |count| count.up);
        let as_primary = tally.votes_for(address);
        (up.max(as_primary) >= tally.majority()).then_some(false)
    }

    /// A majority of the known Sentinels gets no answer from it.
    pub(crate) fn down(&self, address: &Address) -> bool {
        let tally = &self.view.tally;
        let as_primary = tally.down.get(address).map_or(0, |down| down.subjective);
        let as_replica = tally.replicas.get(address).map_or(0, |count| count.down);
        as_primary.max(as_replica) >= tally.majority()
    }

    /// Some Sentinel names the instance, or too few answered to say that none does.
    fn named(&self, address: &Address) -> bool {
        self.view.tally.answering < self.view.tally.majority()
            || self.view.groups().any(|group| named_by(group).any(|named| named == address))
    }

    fn lasted(&self, condition: &Condition, ms: u64) -> bool {
        self.view.memory.lasted(condition, ms, self.view.now)
    }
}

/// No Sentinel has named it for long.
pub(crate) fn is_unnamed(view: &View<'_>, address: &Address) -> bool {
    view.lasted(&Condition::Unnamed(address.clone()), UNNAMED_AFTER_MS)
}

/// The instances one Sentinel names.
pub fn named_by(group: &SentinelGroup) -> impl Iterator<Item = &Address> {
    [&group.primary, &group.monitored]
        .into_iter()
        .chain(group.replicas.iter().map(|replica| &replica.address))
}
