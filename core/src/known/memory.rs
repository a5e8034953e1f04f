//! What an agent remembers of one group between two looks: only when things were first seen.
//!
//! Losing it (a restart) costs time, never correctness: every "for so long" starts again.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::identity::ids::{ReplId, SentinelId};
use crate::identity::mark::FailedMark;
use crate::known::clocks::Clocks;
use crate::known::observed::GaveUp;
use crate::known::observed::{Observed, Role};
use crate::policy::{FENCE_AGAIN_MS, HASTE_WITHIN_MS, STRAY_PROMOTED_MS, STRAY_UNSEEN_MS};
use crate::published::record::{DataLossRecord, DeathRecord, HasteRecord, Reset, is_haste};
use crate::time::{Mono, Now};

/// Something that must last before it counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A majority names this address at a lower epoch than the recorded one.
    LowerEpoch(Address, u64),
    /// The published writer has lost its majority to another address, or to a split.
    Displaced(Address),
    /// The published writer answers neither us nor any Sentinel that answers.
    OutOfReach(Address),
    /// All Sentinels heard agree on an electorate smaller than the recorded one.
    FewerKnown(usize),
    /// The replica is not in sync with the writer.
    OutOfSync(Address),
    /// No Sentinel names the instance.
    Unnamed(Address),
    /// A majority of the Sentinels gets no answer from the instance.
    Down(Address),
    /// The instance says it is a primary, and is not the writer.
    Stray(Address),
    /// This host sees neither Consul nor a majority of the Sentinels.
    Isolated,
    /// Neither Consul nor any Sentinel knows a primary.
    NoPrimaryAnywhere,
    /// No address that the Sentinels know answers, and these instances have shown up.
    Relocated(Vec<ReturnedInstance>),
    /// Most Sentinels have forgotten the group, and the last writer is back, in this run.
    Forgotten(Address, String),
    /// The old primary is back, detached.
    Returned(Address),
    /// The primary that a majority announces has come back without its data.
    DataLoss(Address),
    /// The Sentinel names another primary than the majority.
    Disagrees(Address),
    /// No other Sentinel hears the Sentinel.
    SentinelSilent(SentinelId),
    /// No Sentinel hears the replica.
    ReplicaSilent(Address),
    /// The Sentinels reach the instance, and this agent does not.
    Unreachable(Address),
    /// The published writer refuses writes, by what it says of itself.
    RefusesWrites(Address),
}

/// One instance that is back, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReturnedInstance {
    /// The address that it answers at.
    pub address: Address,
    /// Its `run_id`: a restart of it is another case.
    pub run_id: String,
    /// It has read its data.
    pub is_ready: bool,
    /// How many writers came after the one whose data it holds; `None` when it is not known to hold any of theirs.
    pub age: Option<usize>,
}

/// In which way a Sentinel is reconfigured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReconfigureKind {
    /// It does not know the group: `MONITOR`, and the settings.
    Monitor,
    /// It has disagreed with the majority for long: `REMOVE`, `MONITOR`, and the settings.
    Repoint,
    /// It knows only addresses that do not answer ([`crate::situation::relocated`]), at this epoch: `REMOVE`.
    Remove(u64),
    /// Its settings differ from those that are wanted.
    Settings,
    /// What it waits for, in ms, for a moment or as before ([`crate::situation::haste`]): `down-after-milliseconds`.
    Pace(u64),
    /// `master-reboot-down-after-period`, in ms, which no Sentinel shows (`docs/facts/sentinel.md` 18).
    Reboot(u64),
}

/// A replica or a Sentinel that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StalePeer {
    /// By its id, and the address that it had last.
    Sentinel(SentinelId, Address),
    /// By its address.
    Replica(Address),
}

/// One run of an instance, as far as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRun {
    /// The `run_id` of the process.
    pub run_id: String,
    /// What it has been in that run.
    pub origin: Origin,
}

/// Where a primary comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was a primary when it was first seen.
    Unseen,
    /// It was started after it was first seen, and has been a primary since.
    Started,
    /// It was the published writer, confirmed by a majority.
    WasWriter,
    /// It was a replica in this very run.
    WasReplica,
}

impl Origin {
    /// How long a stray primary of this origin is left alone, in ms: Sentinels may be promoting it.
    pub fn left_alone_ms(self) -> u64 {
        match self {
            Self::WasReplica => STRAY_PROMOTED_MS,
            Self::Unseen => STRAY_UNSEEN_MS,
            Self::Started | Self::WasWriter => 0,
        }
    }
}

/// What was last asked of a Sentinel, as the record has it, and when that was first seen. An agent of an older version
/// drops from the record what it does not know: when something was asked is remembered all the same.
#[derive(Debug, Clone)]
pub struct Asked<T> {
    last: Option<T>,
    at: Option<Mono>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { last: None, at: None }
    }
}

impl<T: Clone + PartialEq> Asked<T> {
    /// Notes what the record has now.
    pub fn see(&mut self, found: Option<&T>, at: Mono) {
        if self.last.as_ref() == found {
            return;
        }
        if found.is_some() {
            self.at = Some(at);
        }
        self.last = found.cloned();
    }

    /// When the last one was first seen.
    pub fn at(&self) -> Option<Mono> {
        self.at
    }
}

/// A priority that could not be set, and in which run of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPriority {
    /// The run of it.
    pub run_id: String,
    /// Its words, or why it did not answer.
    pub words: String,
}

/// An election whose outcome was seen: a majority voted for one leader at one epoch, and the leader chose a replica. Or
/// a forced failover, whose leader was not voted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// The Sentinel that was elected, or asked.
    pub leader: SentinelId,
    /// The epoch of the votes. Of a forced failover: one that no other has, above all that are seen.
    pub epoch: u64,
    /// The failover was forced (`SENTINEL FAILOVER`).
    pub forced: bool,
    /// The primary that is replaced.
    pub old: Address,
    /// The replica that the leader chose.
    pub chosen: Address,
    /// When the choice was first seen.
    pub seen: Mono,
    /// When the replica first said that it is the primary.
    pub promoted: Option<Mono>,
}

/// When each step of a failover was first seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    /// The Sentinels agreed that the old primary is down.
    pub down_agreed: Option<Mono>,
    /// A leader had chosen a replica.
    pub selected: Option<Mono>,
    /// The chosen replica first said that it is the primary.
    pub promoted: Option<Mono>,
}

/// What a group's loop knows of the past: since when conditions last, and what was done when.
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
    /// When rows or keys were last put back.
    pub repaired: Option<Mono>,
    /// Since when each condition has been true without a break.
    pub since: BTreeMap<Condition, Mono>,
    /// This agent has seen that generation begin: an earlier one, or none, was there when it first looked.
    pub saw_it_begin: bool,
    /// The wall clocks of the agents.
    pub clocks: Clocks,
    /// The steps of the failover that is under way.
    pub steps: Steps,
    /// When the chosen replica first said that it is the primary.
    pub promoted: Option<(Address, Mono)>,
    /// When the published writer last answered as the primary, and ready for commands.
    pub writer_answered: Option<(Address, Mono)>,
    /// Which writer is to be published, and when that was first decided.
    pub decided: Option<(Address, Mono)>,
    /// The generation that this agent published last, and after how many ms Consul had acknowledged it.
    pub acknowledged: Option<(u64, u64)>,
    /// When each instance's writes were last held.
    pub held: BTreeMap<Address, Mono>,
    /// When each instance was last commanded to follow another one, or to be a primary.
    pub fenced: BTreeMap<Address, Mono>,
    /// When this agent last set about to write the mark in the data set.
    pub marked: Option<Mono>,
    /// The mark that could not be written last.
    pub not_marked: Option<FailedMark>,
    /// When this agent last set about to set the priority of each instance.
    pub prioritized: BTreeMap<Address, Mono>,
    /// The priorities that could not be set last.
    pub not_prioritized: BTreeMap<Address, FailedPriority>,
    /// What each instance has been in its present run, as far as it was seen.
    pub lives: BTreeMap<Address, InstanceRun>,
    /// The last history of the group that was seen at each address.
    pub histories: BTreeMap<Address, ReplId>,
    /// When each Sentinel was last told what about the group.
    pub reconfigured: BTreeMap<(Address, ReconfigureKind), Mono>,
    /// The last failover that a Sentinel gave up: which Sentinel, why, and when that was heard.
    pub gave_up: Option<(Address, GaveUp, Mono)>,
    /// The last election whose outcome was seen, until a majority has followed.
    pub election: Option<Election>,
    /// The newest epoch at which each Sentinel had votes while it led no failover: they are none of its next one's.
    pub voted_before: BTreeMap<SentinelId, u64>,
    /// When each Sentinel was last told how an election ended, and of which epoch that was.
    pub relayed: BTreeMap<Address, (u64, Mono)>,
    /// The last `SENTINEL RESET` in the record.
    pub reset: Asked<Reset>,
    /// The generation that DNS was last seen to answer, and when.
    pub in_dns: Option<(u64, Mono)>,
    /// The last failover in the record that was asked for because of a primary without its data.
    pub replacing: Asked<DataLossRecord>,
    /// The last failover in the record that was asked for because the writer's process had ended.
    pub superseding: Asked<DeathRecord>,
    /// The last time in the record that Sentinels were to wait for a moment only.
    pub hastened: Asked<HasteRecord>,
    /// When each Sentinel was last seen to wait for a moment only, or said that it would.
    pub hurried: BTreeMap<Address, Mono>,
    /// The run of a process whose end was proven, and for which the Sentinel that this agent asked begins no failover.
    pub not_superseded: Option<String>,
    /// How many records this agent has written: the changing part of its nonces.
    pub written: u64,
}

impl Memory {
    /// Notes the votes that are in a Sentinel's list while it leads no failover. An election that led to nothing
    /// leaves votes above the epoch in force.
    pub fn see_votes(&mut self, observed: &Observed) {
        let answers =
            || observed.sentinels.values().filter_map(|reading| reading.result.as_ref().ok());
        for answer in answers() {
            let leads = answer.group.as_ref().is_some_and(|group| group.failover.is_some());
            if let Some(epoch) = answer.votes().max().filter(|_| !leads) {
                self.voted_before.insert(answer.id.clone(), epoch);
            }
        }
        let last = || observed.sentinels_answered.values();
        let last = || last().filter_map(|reading| reading.result.as_ref().ok());
        self.voted_before.retain(|id, _| last().chain(answers()).any(|answer| &answer.id == id));
    }

    /// Notes the Sentinels that wait for a moment only.
    pub fn see_paces(&mut self, observed: &Observed) {
        for (at, reading) in &observed.sentinels {
            let group = reading.result.as_ref().ok().and_then(|answer| answer.group.as_ref());
            if group.is_some_and(|group| is_haste(group.settings.down_after_ms)) {
                self.hurried.insert(at.clone(), reading.answered);
            }
        }
        self.hurried.retain(|at, _| observed.sentinels.contains_key(at));
    }

    /// This Sentinel has been told to wait for a moment only, by this agent or another one, since that was written down;
    /// or it may have been: one that was asked after the command's end, and is as it was, was not told.
    pub fn has_hurried(&self, at: &Address, asked: Mono) -> bool {
        let told = self.reconfigured.iter().filter(|((to, what), told)| {
            let hastens = matches!(what, ReconfigureKind::Pace(ms) if is_haste(*ms));
            to == at && hastens && asked <= told.plus_ms(HASTE_WITHIN_MS)
        });
        let since = self.hastened.at();
        let mut when = told.map(|(_, told)| told).chain(self.hurried.get(at));
        when.any(|when| since.is_some_and(|since| *when >= since))
    }

    /// Notes the generation that is published now.
    pub fn see_generation(&mut self, observed: &Observed, now: Now) {
        let Some(store) = &observed.store else { return };
        let generation = store.record().map_or(0, |record| record.generation);
        self.generation_max = self.generation_max.max(generation);
        if self.generation.is_none_or(|(seen, _)| seen != generation) {
            self.saw_it_begin = self.generation.is_some();
            self.generation = Some((generation, now.mono));
        }
        let record = store.record();
        self.reset.see(record.and_then(|record| record.reset.as_ref()), now.mono);
        // Only what was asked for has to be waited for.
        let data_loss = record.and_then(|record| record.data_loss.as_ref());
        self.replacing.see(data_loss.filter(|data_loss| data_loss.asked > 0), now.mono);
        self.superseding.see(record.and_then(|record| record.death.as_ref()), now.mono);
        // An agent of an earlier version drops from it what Sentinels are to wait for: it is the same one.
        let haste = record.and_then(|record| record.haste.clone());
        let haste = haste.map(|haste| HasteRecord { pace_ms: 0, ..haste });
        self.hastened.see(haste.as_ref(), now.mono);
    }

    /// DNS answers what was published with this generation: the first time counts.
    pub fn see_in_dns(&mut self, generation: u64, now: Now) {
        if self.in_dns.is_none_or(|(seen, _)| seen < generation) {
            self.in_dns = Some((generation, now.mono));
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

    /// Notes when the published writer last answered as one.
    pub fn see_writer(&mut self, observed: &Observed) {
        let writer = observed.record().and_then(|record| record.writer_address());
        let reading = writer.and_then(|writer| Some((writer, observed.instances.get(writer)?)));
        let Some((writer, reading)) = reading else { return };
        let Ok(answer) = &reading.result else { return };
        if answer.not_ready.is_none() && answer.is_primary() {
            self.writer_answered = Some((writer.clone(), reading.answered));
        }
    }

    /// Notes what each instance has been.
    pub fn see_instances(&mut self, observed: &Observed) {
        // The leader of a promotion that no majority has confirmed may still be at work on it.
        let confirmed = observed.record().filter(|record| !record.evidence.is_unconfirmed());
        let writer = confirmed.and_then(|record| record.writer_address());
        for (address, reading) in &observed.instances {
            let Ok(answer) = &reading.result else { continue };
            let life = self.lives.get(address);
            let before = life.filter(|life| life.run_id == answer.run_id).map(|life| life.origin);
            let origin = match (&answer.role, before) {
                (Role::Replica { .. }, _) => Origin::WasReplica,
                (Role::Primary { .. }, _) if writer == Some(address) => Origin::WasWriter,
                (Role::Primary { .. }, Some(before)) => before,
                (Role::Primary { .. }, None) if life.is_some() => Origin::Started,
                (Role::Primary { .. }, None) => Origin::Unseen,
            };
            let lineage = observed.record().map(|record| record.lineage.as_slice());
            if lineage.is_some_and(|lineage| lineage.contains(&answer.replid)) {
                self.histories.insert(address.clone(), answer.replid.clone());
            }
            let run_id = answer.run_id.clone();
            self.lives.insert(address.clone(), InstanceRun { run_id, origin });
        }
        let known = &observed.instances;
        self.lives.retain(|address, _| known.contains_key(address));
        self.histories.retain(|address, _| known.contains_key(address));
        self.fenced.retain(|address, _| known.contains_key(address));
        self.prioritized.retain(|address, _| known.contains_key(address));
        self.not_prioritized.retain(|address, _| known.contains_key(address));
    }

    /// What an instance has been in this run.
    pub fn origin(&self, address: &Address, run_id: &str) -> Origin {
        let life = self.lives.get(address).filter(|life| life.run_id == run_id);
        life.map_or(Origin::Unseen, |life| life.origin)
    }

    /// The instance may get another `REPLICAOF`, which it gets once a second at the most.
    pub fn commanded_long_ago(&self, instance: &Address, now: Now) -> bool {
        let last = self.fenced.get(instance);
        last.is_none_or(|at| now.mono - *at >= FENCE_AGAIN_MS)
    }

    /// The condition has been true for at least `ms`.
    pub fn lasted(&self, condition: &Condition, ms: u64, now: Now) -> bool {
        self.since.get(condition).is_some_and(|since| now.mono - *since >= ms)
    }
}
