//! What an agent remembers of one group between two looks: only when things were first seen.
//!
//! Losing it (a restart) costs time, never correctness: every "for so long" starts again.

use std::collections::{BTreeMap, BTreeSet};

use super::address::Address;
use super::observed::Observed;
use super::record::Timeline;
use super::time::{Mono, Now};

/// Something that must last before it counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A majority names this address at a lower epoch than the recorded one.
    LowerEpoch(Address, u64),
    /// The published writer has lost its majority to another address, or to a split.
    Displaced(Address),
    /// All Sentinels heard agree on an electorate smaller than the recorded one.
    FewerKnown(usize),
    /// The replica is not in sync with the writer.
    OutOfSync(Address),
    /// No Sentinel names the instance.
    Unnamed(Address),
    /// A majority of the Sentinels gets no answer from the instance.
    Down(Address),
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The generation last seen in Consul, and when it was first seen: what was asked of Sentinels
    /// and instances before that must not overrule it.
    pub generation: Option<(u64, Mono)>,
    /// The highest generation ever seen or written: a wiped Consul does not start again at 1.
    pub generation_max: u64,
    /// When the record last changed, in any way.
    pub store_changed: Mono,
    /// Which rows and which keys, by when they were asked for, have been found to be as they should.
    pub audited: Option<(Mono, Mono)>,
    /// Since when each condition has been true without a break.
    pub since: BTreeMap<Condition, Mono>,
    /// The steps of the failover that is under way.
    pub timeline: Timeline,
    /// When the chosen replica first said that it is the primary.
    pub promoted: Option<(Address, Mono)>,
    /// When each instance's writes were last held.
    pub held: BTreeMap<Address, Mono>,
    /// When each Sentinel was last told about the group.
    pub told: BTreeMap<Address, Mono>,
    /// How many records this agent has written: the changing part of its nonces.
    pub written: u64,
}

impl Memory {
    /// Notes the generation that is published now.
    pub fn see_generation(&mut self, observed: &Observed, now: Now) {
        let Some(store) = &observed.store else { return };
        let generation = store.record().map_or(0, |record| record.generation);
        self.generation_max = self.generation_max.max(generation);
        if self.generation.is_none_or(|(seen, _)| seen != generation) {
            self.generation = Some((generation, now.mono));
        }
    }

    /// When the published generation was first seen.
    pub fn generation_seen(&self) -> Mono {
        self.generation.map_or(Mono(0), |(_, at)| at)
    }

    /// Keeps the conditions that are still true and starts the clock of new ones.
    pub fn keep(&mut self, holding: BTreeSet<Condition>, now: Now) {
        let before = std::mem::take(&mut self.since);
        self.since = holding
            .into_iter()
            .map(|c| {
                let at = before.get(&c).copied().unwrap_or(now.mono);
                (c, at)
            })
            .collect();
    }

    /// The condition has been true for at least `ms`.
    pub fn lasted(&self, condition: &Condition, ms: u64, now: Now) -> bool {
        self.since.get(condition).is_some_and(|since| now.mono - *since >= ms)
    }
}
