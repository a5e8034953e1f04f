//! Redis instances and Sentinels as far as they differ when seen from outside: a small model of what
//! `docs/facts/sentinel.md` measured, down to the second in which only the leader knows.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::duty::fence::Fence;
use consul_redis_core::duty::mark::Marking;
use consul_redis_core::duty::relay::Relay;
use consul_redis_core::duty::zone_order::Prioritize;
use consul_redis_core::identity::address::Address;
use consul_redis_core::identity::mark::{DataMark, FoundMark};
use consul_redis_core::known::observed::{
    ConnectedReplica, DownOpinion, FailoverPhase, InstanceAnswer, ReplId, Role, SentinelAnswer,
    SentinelGroup, SentinelId, SentinelPeer, SentinelReplica, SentinelSettings,
};
use consul_redis_core::policy::LINK_DOWN_FACTOR;
use consul_redis_core::published::projection::{detached_address, is_detached_address};
use consul_redis_core::situation::data_loss::Detach;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// `down-after-milliseconds` of the model.
pub const DOWN_AFTER_MS: u64 = 1_000;
/// `failover-timeout` of the model, in ms.
pub const FAILOVER_TIMEOUT_MS: u64 = 6_000;
/// Sentinel's timer, in ms.
const SENTINEL_TICK_MS: u64 = 100;
/// The INFO period that a leader waits for, in ms.
const INFO_MS: u64 = 1_000;
/// The INFO period of a monitored primary, in ms.
const PRIMARY_INFO_MS: u64 = 10_000;
/// For how long a primary must have reported the replica role until a Sentinel calls it down, in ms
/// (`docs/facts/sentinel.md` 4.1).
const ROLE_DOWN_AFTER_MS: u64 = DOWN_AFTER_MS + 2 * PRIMARY_INFO_MS;
/// `replica-priority` unless changed.
pub const PRIORITY: u64 = 100;
/// `repl-diskless-sync-delay`: a copy of everything begins this long after a replica asks for it, in ms.
const SYNC_DELAY_MS: u64 = 5_000;
/// How long a stray primary is left alone, in ms.
const CONVERT_AFTER_MS: u64 = 9_000;

/// One Redis.
#[derive(Debug, Clone)]
pub struct Instance {
    pub address: Address,
    /// Another address of the same process, which no Sentinel knows.
    pub alias: Option<Address>,
    /// Another Redis on the host has another one.
    pub config_file: &'static str,
    pub up: bool,
    pub frozen: bool,
    pub follows: Option<Address>,
    /// It keeps an append-only file alone, which does not hold the history.
    pub append_only: bool,
    /// The mark in its data set, in a world whose agents keep one.
    pub mark: Option<DataMark>,
    /// Its config has a name for whom it follows, and so it says; what it is told has an address.
    pub by_name: bool,
    pub link_up: bool,
    /// Since when the link is lost that it had.
    pub link_lost: Option<u64>,
    pub replid: u64,
    pub replid2: Option<u64>,
    pub forked_at: u64,
    pub offset: u64,
    pub held_until: u64,
    pub stray_since: Option<u64>,
    /// Counts the times it closed its connections.
    pub kicks: u64,
    /// Counts the times it was started.
    pub run: u64,
    /// When it was started, and that it had no data then.
    pub started: u64,
    pub started_empty: bool,
    /// Whose data it is about to copy, and when that arrives.
    pub copying: Option<(Address, u64)>,
    /// `replica-priority`, 0 for never.
    pub priority: u64,
    /// Its data is unrelated.
    pub foreign: bool,
    /// The last write that it acknowledged: the history, and the place in it. No other write has both.
    pub wrote: (u64, u64),
}

impl Instance {
    /// It listens at this address.
    pub fn is_at(&self, address: &Address) -> bool {
        &self.address == address || self.alias.as_ref() == Some(address)
    }

    pub fn answers(&self) -> bool {
        self.up && !self.frozen
    }

    pub fn is_primary(&self) -> bool {
        self.follows.is_none()
    }

    /// It has no link, and none that it lost: it is a primary, or has just been told whom to follow.
    fn unlink(&mut self) {
        (self.link_up, self.link_lost) = (false, None);
    }

    /// It can send the other one just what that lacks.
    fn goes_on_from(&self, other: &Self) -> bool {
        let same = self.replid == other.replid && self.offset >= other.offset;
        same || (self.replid2 == Some(other.replid) && other.offset < self.forked_at)
    }
}

/// One Sentinel.
#[derive(Debug, Clone)]
pub struct Sentinel {
    pub address: Address,
    pub id: SentinelId,
    pub up: bool,
    /// Stopped for good: no part of the electorate any more.
    pub gone: bool,
    pub knows: bool,
    pub primary: Address,
    pub config_epoch: u64,
    pub current_epoch: u64,
    pub voted: (u64, Option<usize>),
    pub last_ok: BTreeMap<Address, u64>,
    /// When its primary is next sent INFO, and since when that has reported the replica role.
    pub primary_info_due: u64,
    pub says_replica_since: Option<u64>,
    /// Since when it calls its primary down.
    pub down_since: Option<u64>,
    pub replicas: BTreeSet<Address>,
    pub peers: BTreeSet<usize>,
    pub hold_off_until: u64,
    pub quorum: u64,
    pub objective: bool,
    pub failover: Option<Failover>,
    pub tilt_until: u64,
    /// What it was told to wait for, in ms, in the place of all Sentinels' own.
    pub pace: Option<u64>,
    /// Counts the events it has published.
    pub events: u64,
}

impl Sentinel {
    /// Its connections are new, and what it knew of its primary's role is forgotten.
    fn begin_anew(&mut self) {
        self.last_ok.clear();
        (self.primary_info_due, self.says_replica_since) = (0, None);
        self.down_since = None;
    }

    /// Its primary answers, and has reported the replica role for long.
    fn primary_is_none(&self, now: u64) -> bool {
        self.says_replica_since.is_some_and(|since| now - since > ROLE_DOWN_AFTER_MS)
    }
}

#[derive(Debug, Clone)]
pub struct Failover {
    pub phase: FailoverPhase,
    pub epoch: u64,
    pub forced: bool,
    pub chosen: Option<Address>,
    pub next_info: u64,
    pub started: u64,
    pub reconf_until: u64,
}

/// Everything that is not Consul and not an agent.
pub struct Cluster {
    pub instances: Vec<Instance>,
    pub sentinels: Vec<Sentinel>,
    /// Pairs that cannot speak: Sentinel and Sentinel.
    pub cut_sentinels: BTreeSet<(usize, usize)>,
    /// Pairs that cannot speak: Sentinel and instance.
    pub cut_instances: BTreeSet<(usize, Address)>,
    /// By epoch, which leaders a majority has elected, and what each chose: one, unless a Sentinel was made anew and
    /// voted twice.
    pub elections: BTreeMap<u64, BTreeSet<(usize, Address)>>,
    /// Which replica each Sentinel chose in a forced failover.
    forced: BTreeSet<(usize, Address)>,
    /// `down-after-milliseconds`.
    pub down_after_ms: u64,
    /// No client writes yet.
    pub idle: bool,
    /// They say of a failover that it was forced, as they do from Redis 7.0 on.
    says_forced: bool,
    /// The time of the last tick.
    now: u64,
    rng: StdRng,
    next_replid: u64,
    /// Agents keep a mark in the data set.
    marks: bool,
}

/// In some worlds with append-only files the agents keep a mark in the data set.
pub fn has_marks(seed: u64) -> bool {
    seed % 16 == 13
}

/// In some worlds the agents beside the instances have other addresses of them in their configs than the Sentinels.
pub fn has_aliases(seed: u64) -> bool {
    seed % 10 == 7
}

pub fn address(kind: u8, index: usize) -> Address {
    format!("10.0.{kind}.{}:6379", index + 1).parse().expect("an address")
}

impl Cluster {
    pub fn new(seed: u64, instances: usize, sentinels: usize) -> Self {
        let primary = address(0, 0);
        let replicas: BTreeSet<Address> = (1..instances).map(|index| address(0, index)).collect();
        let instance = |index: usize| Instance {
            address: address(0, index),
            alias: has_aliases(seed).then(|| address(8, index)),
            config_file: "redis.conf",
            up: true,
            frozen: false,
            follows: (index > 0).then(|| primary.clone()),
            append_only: seed % 8 == 5,
            mark: None,
            by_name: seed % 4 == 3,
            link_up: index > 0,
            link_lost: None,
            replid: 1,
            replid2: None,
            forked_at: 0,
            offset: 100,
            held_until: 0,
            stray_since: None,
            kicks: 0,
            run: 0,
            started: 0,
            started_empty: false,
            copying: None,
            priority: PRIORITY,
            foreign: false,
            wrote: (1, 100),
        };
        let sentinel = |index: usize| Sentinel {
            address: address(1, index),
            id: SentinelId(format!("sentinel-{index}")),
            up: true,
            gone: false,
            knows: true,
            primary: primary.clone(),
            config_epoch: 0,
            current_epoch: 0,
            voted: (0, None),
            last_ok: BTreeMap::new(),
            primary_info_due: 0,
            says_replica_since: None,
            down_since: None,
            replicas: replicas.clone(),
            peers: (0..sentinels).filter(|other| *other != index).collect(),
            hold_off_until: 0,
            quorum: (sentinels / 2 + 1) as u64,
            objective: false,
            failover: None,
            tilt_until: 0,
            pace: None,
            events: 0,
        };
        Self {
            instances: (0..instances).map(instance).collect(),
            sentinels: (0..sentinels).map(sentinel).collect(),
            cut_sentinels: BTreeSet::new(),
            cut_instances: BTreeSet::new(),
            elections: BTreeMap::new(),
            forced: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed ^ 0x5e17_14e1),
            down_after_ms: DOWN_AFTER_MS,
            idle: false,
            says_forced: seed % 3 != 1,
            now: 0,
            next_replid: 2,
            marks: has_marks(seed),
        }
    }

    /// A blank group: the Sentinels know nothing, and every instance has been started by itself, with
    /// as much of one history as `offsets` says.
    pub fn forget_everything(&mut self, offsets: &[u64], as_replicas: bool) {
        self.idle = true;
        for sentinel in &mut self.sentinels {
            sentinel.knows = false;
            sentinel.peers.clear();
        }
        for (index, offset) in offsets.iter().enumerate() {
            let replid = self.new_replid();
            let instance = &mut self.instances[index];
            instance.offset = *offset;
            instance.forked_at = *offset + 1;
            instance.follows = as_replicas.then(|| address(9, 9));
            instance.unlink();
            (instance.replid, instance.replid2) = match (*offset, as_replicas) {
                (0, _) => (replid, None),
                (_, true) => (1, None),
                (_, false) => (replid, Some(1)),
            };
        }
    }

    pub fn instance(&self, address: &Address) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.is_at(address))
    }

    fn instance_mut(&mut self, address: &Address) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.is_at(address))
    }

    fn new_replid(&mut self) -> u64 {
        self.next_replid += 1;
        self.next_replid
    }

    /// The address a majority of all Sentinels names, when they are all well.
    pub fn majority(&self) -> Option<Address> {
        let mut counts: BTreeMap<&Address, usize> = BTreeMap::new();
        for sentinel in self.sentinels.iter().filter(|s| s.up && s.knows) {
            *counts.entry(announced(sentinel)).or_default() += 1;
        }
        let needed = self.electorate() / 2 + 1;
        counts.into_iter().find(|(_, count)| *count >= needed).map(|(a, _)| a.clone())
    }

    /// A majority of all Sentinels calls `address`, which they monitor, objectively down.
    pub fn agree_down(&self, address: &Address) -> bool {
        let agree = |s: &&Sentinel| s.up && s.knows && s.objective && &s.primary == address;
        self.sentinels.iter().filter(agree).count() > self.electorate() / 2
    }

    fn electorate(&self) -> usize {
        self.sentinels.iter().filter(|sentinel| !sentinel.gone).count()
    }

    /// The replicas that leaders past their election have chosen.
    pub fn chosen(&self) -> Vec<Address> {
        let failovers = self.sentinels.iter().filter_map(|sentinel| sentinel.failover.as_ref());
        failovers.filter(|f| f.phase.elected()).filter_map(|f| f.chosen.clone()).collect()
    }

    /// The leader whose chosen replica is a primary, while no other Sentinel has heard of that.
    pub fn awaits_promotion(&self) -> Option<(usize, Address)> {
        self.sentinels.iter().enumerate().find_map(|(index, sentinel)| {
            let failover = sentinel.failover.as_ref()?;
            let chosen = failover.chosen.clone()?;
            let waits = failover.phase == FailoverPhase::WaitPromotion;
            (waits && self.instance(&chosen)?.is_primary()).then_some((index, chosen))
        })
    }

    /// How long until the next tick. Drawn here, so that Sentinels do the same in a world without agents as in one
    /// whose agents leave them alone.
    pub fn pause(&mut self) -> u64 {
        SENTINEL_TICK_MS - 10 + self.rng.random_range(0..20)
    }

    /// One tick of everything, at time `now`.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        self.replicate();
        for index in 0..self.sentinels.len() {
            if self.sentinels[index].up && self.sentinels[index].knows {
                self.look(index, now);
                self.lead(index, now);
                self.tidy(index, now);
            }
        }
        self.say_hello();
    }

    fn replicate(&mut self) {
        let sources: BTreeMap<Address, Instance> =
            self.instances.iter().map(|i| (i.address.clone(), i.clone())).collect();
        let (idle, now) = (self.idle, self.now);
        for instance in self.instances.iter_mut().filter(|instance| instance.answers()) {
            match &instance.follows {
                None if idle || now < instance.held_until => {}
                None => {
                    instance.offset += 10;
                    instance.wrote = (instance.replid, instance.offset);
                }
                Some(of) => {
                    let source = sources.get(of).filter(|source| source.answers());
                    // One that was restarted has lost how long it waits.
                    let goes_on = source.is_some_and(|source| source.goes_on_from(instance));
                    let due = match &instance.copying {
                        _ if goes_on => now,
                        Some((from, due)) if from == of => *due,
                        _ => now + SYNC_DELAY_MS,
                    };
                    let waits = source.is_some() && !goes_on;
                    instance.copying = waits.then(|| (of.clone(), due));
                    let source = source.filter(|_| now >= due);
                    instance.link_lost = match (instance.link_up, source) {
                        (_, Some(_)) => None,
                        (true, None) => Some(now),
                        (false, None) => instance.link_lost,
                    };
                    instance.link_up = source.is_some();
                    if let Some(source) = source {
                        (instance.replid, instance.offset) = (source.replid, source.offset);
                        instance.replid2 = None;
                        instance.foreign = source.foreign;
                        instance.mark.clone_from(&source.mark);
                    }
                }
            }
        }
    }

    fn reaches(&self, sentinel: usize, instance: &Address) -> bool {
        !self.cut_instances.contains(&(sentinel, instance.clone()))
            && self.instance(instance).is_some_and(Instance::answers)
    }

    fn sentinels_speak(&self, a: usize, b: usize) -> bool {
        self.sentinels[b].up && !self.cut_sentinels.contains(&(a.min(b), a.max(b)))
    }

    /// Pings, and the opinions that follow from them.
    fn look(&mut self, index: usize, now: u64) {
        let known: Vec<Address> = {
            let sentinel = &self.sentinels[index];
            std::iter::once(&sentinel.primary).chain(&sentinel.replicas).cloned().collect()
        };
        for address in known {
            if self.reaches(index, &address) {
                self.sentinels[index].last_ok.insert(address, now);
            } else {
                self.sentinels[index].last_ok.entry(address).or_insert(now);
            }
        }
        self.read_role(index, now);
        let tilt = now < self.sentinels[index].tilt_until;
        let primary = self.sentinels[index].primary.clone();
        let agree = (0..self.sentinels.len())
            .filter(|other| *other == index || self.sentinels_speak(index, *other))
            .filter(|other| self.sentinels[*other].knows)
            .filter(|other| {
                self.sentinels[*other].primary == primary && self.subjective(*other, &primary, now)
            })
            .count();
        let down = self.subjective(index, &primary, now);
        let sentinel = &mut self.sentinels[index];
        sentinel.down_since = down.then(|| sentinel.down_since.unwrap_or(now));
        let objective = agree as u64 >= sentinel.quorum && !tilt;
        if objective != sentinel.objective {
            sentinel.objective = objective;
            sentinel.events += 1;
        }
    }

    /// The role in its primary's answer to INFO.
    fn read_role(&mut self, index: usize, now: u64) {
        let Sentinel { primary, primary_info_due, .. } = &self.sentinels[index];
        if now < *primary_info_due || !self.reaches(index, primary) {
            return;
        }
        let is_replica = self.instance(primary).is_some_and(|instance| !instance.is_primary());
        let sentinel = &mut self.sentinels[index];
        sentinel.primary_info_due = now + PRIMARY_INFO_MS;
        let since = sentinel.says_replica_since.unwrap_or(now);
        sentinel.says_replica_since = is_replica.then_some(since);
    }

    fn subjective(&self, index: usize, address: &Address, now: u64) -> bool {
        let sentinel = &self.sentinels[index];
        let wait_ms = sentinel.pace.unwrap_or(self.down_after_ms);
        let silent = sentinel.last_ok.get(address).is_some_and(|ok| now - ok > wait_ms);
        let is_none = address == &sentinel.primary && sentinel.primary_is_none(now);
        now >= sentinel.tilt_until && (silent || is_none)
    }

    /// Starts and leads failovers, one phase a tick.
    fn lead(&mut self, index: usize, now: u64) {
        if now < self.sentinels[index].tilt_until {
            return;
        }
        let sentinel = &self.sentinels[index];
        if sentinel.failover.is_none() {
            let due = sentinel.objective && now >= sentinel.hold_off_until;
            if due {
                self.start_failover(index, now, false);
            }
            return;
        }
        let Some(failover) = self.sentinels[index].failover.clone() else { return };
        let timed_out = now > failover.started + FAILOVER_TIMEOUT_MS;
        match failover.phase {
            FailoverPhase::WaitStart => {
                if failover.forced || self.is_elected(index, failover.epoch) {
                    self.advance(index, FailoverPhase::SelectReplica);
                } else if timed_out {
                    self.abort(index);
                }
            }
            FailoverPhase::SelectReplica => match self.best_replica(index) {
                Some(chosen) => {
                    let outcome = (index, chosen.clone());
                    if failover.forced {
                        self.forced.insert(outcome);
                    } else {
                        self.elections.entry(failover.epoch).or_default().insert(outcome);
                    }
                    if let Some(failover) = &mut self.sentinels[index].failover {
                        failover.chosen = Some(chosen);
                    }
                    self.advance(index, FailoverPhase::SendReplicaofNoOne);
                }
                None => self.abort(index),
            },
            FailoverPhase::SendReplicaofNoOne => {
                let chosen = failover.chosen.filter(|chosen| self.reaches(index, chosen));
                match chosen {
                    Some(chosen) => {
                        self.promote(&chosen);
                        self.advance(index, FailoverPhase::WaitPromotion);
                    }
                    None if timed_out => self.abort(index),
                    None => {}
                }
            }
            FailoverPhase::WaitPromotion => self.await_promotion(index, &failover, now),
            FailoverPhase::ReconfReplicas | FailoverPhase::UpdateConfig => {
                self.reconfigure(index, &failover, now);
            }
        }
    }

    /// Sees the promotion at its next INFO, and only then.
    fn await_promotion(&mut self, index: usize, failover: &Failover, now: u64) {
        let Some(chosen) = &failover.chosen else { return };
        let seen = now >= failover.next_info
            && self.reaches(index, chosen)
            && self.instance(chosen).is_some_and(Instance::is_primary);
        if seen {
            let wait = self.rng.random_range(1_000..1_400);
            let sentinel = &mut self.sentinels[index];
            sentinel.config_epoch = failover.epoch;
            if let Some(failover) = &mut sentinel.failover {
                failover.reconf_until = now + wait;
            }
            self.advance(index, FailoverPhase::ReconfReplicas);
        } else if now > failover.started + FAILOVER_TIMEOUT_MS {
            self.abort(index);
        }
    }

    fn reconfigure(&mut self, index: usize, failover: &Failover, now: u64) {
        let Some(chosen) = &failover.chosen else { return };
        let old = self.sentinels[index].primary.clone();
        let replicas = self.sentinels[index].replicas.clone();
        for replica in replicas.iter().filter(|replica| *replica != chosen) {
            if self.reaches(index, replica) {
                self.replicaof(replica, chosen);
            }
        }
        if now >= failover.reconf_until {
            self.switch(index, &old, chosen);
        }
    }

    pub fn start_failover(&mut self, index: usize, now: u64, forced: bool) {
        let next_info = now + self.rng.random_range(200..=INFO_MS);
        let late = self.rng.random_range(0..1_000);
        let sentinel = &mut self.sentinels[index];
        sentinel.current_epoch += 1;
        let epoch = sentinel.current_epoch;
        sentinel.voted = (epoch, Some(index));
        sentinel.hold_off_until = now + 2 * FAILOVER_TIMEOUT_MS + late;
        sentinel.failover = Some(Failover {
            phase: FailoverPhase::WaitStart,
            epoch,
            forced,
            chosen: None,
            next_info,
            started: now,
            reconf_until: 0,
        });
        sentinel.events += 1;
        if forced {
            return;
        }
        for other in 0..self.sentinels.len() {
            if other == index || !self.sentinels_speak(index, other) {
                continue;
            }
            let voter = &mut self.sentinels[other];
            if voter.knows && epoch > voter.voted.0 && epoch > voter.current_epoch {
                voter.current_epoch = epoch;
                voter.voted = (epoch, Some(index));
                voter.hold_off_until = now + 2 * FAILOVER_TIMEOUT_MS + late;
                voter.events += 1;
            }
        }
    }

    fn is_elected(&self, index: usize, epoch: u64) -> bool {
        let votes = (0..self.sentinels.len())
            .filter(|other| *other == index || self.sentinels_speak(index, *other))
            .filter(|other| self.sentinels[*other].voted == (epoch, Some(index)))
            .count();
        let voters = self.sentinels[index].peers.len() + 1;
        votes > voters / 2
    }

    /// Who is listed as a replica and reports to be a primary may be chosen, too; its offset is not read then. One that had
    /// lost its link long before the primary was called down may not.
    pub fn best_replica(&self, index: usize) -> Option<Address> {
        let sentinel = &self.sentinels[index];
        let down_ms = sentinel.down_since.map_or(0, |since| self.now.saturating_sub(since));
        let wait_ms = sentinel.pace.unwrap_or(self.down_after_ms);
        let lost_max_ms = down_ms + LINK_DOWN_FACTOR * wait_ms;
        let linked = |instance: &Instance| {
            let lost = instance.link_lost.filter(|_| !instance.is_primary());
            lost.is_none_or(|at| self.now - at <= lost_max_ms)
        };
        let good = |address: &&Address| {
            let fits = |i: &Instance| i.priority > 0 && linked(i);
            self.reaches(index, address) && self.instance(address).is_some_and(fits)
        };
        let offset = |instance: &Instance| if instance.is_primary() { 0 } else { instance.offset };
        self.sentinels[index]
            .replicas
            .iter()
            .filter(good)
            .max_by_key(|address| self.instance(address).map(offset))
            .cloned()
    }

    fn advance(&mut self, index: usize, phase: FailoverPhase) {
        let sentinel = &mut self.sentinels[index];
        if let Some(failover) = &mut sentinel.failover {
            failover.phase = phase;
        }
        sentinel.events += 1;
    }

    /// It dies. The replica whose promotion it has seen is its primary when it is back: that is in its file.
    pub fn kill(&mut self, index: usize) {
        let sentinel = &mut self.sentinels[index];
        sentinel.up = false;
        let old = sentinel.primary.clone();
        let new = announced(sentinel).clone();
        sentinel.failover = None;
        if new != old {
            self.switch(index, &old, &new);
        }
    }

    pub fn abort(&mut self, index: usize) {
        self.sentinels[index].failover = None;
        self.sentinels[index].events += 1;
    }

    /// MULTI / SLAVEOF NO ONE / CLIENT KILL / EXEC
    pub fn promote(&mut self, address: &Address) {
        let replid = self.new_replid();
        if let Some(instance) = self.instance_mut(address).filter(|i| !i.is_primary()) {
            instance.follows = None;
            instance.unlink();
            instance.replid2 = Some(instance.replid);
            instance.forked_at = instance.offset + 1;
            instance.replid = replid;
            instance.kicks += 1;
        }
    }

    /// MULTI / SLAVEOF / CLIENT KILL / EXEC
    pub fn replicaof(&mut self, address: &Address, of: &Address) {
        if let Some(instance) =
            self.instance_mut(address).filter(|i| i.follows.as_ref() != Some(of))
        {
            instance.follows = Some(of.clone());
            instance.by_name = false;
            instance.unlink();
            instance.stray_since = None;
            instance.kicks += 1;
        }
    }

    fn switch(&mut self, index: usize, old: &Address, new: &Address) {
        let sentinel = &mut self.sentinels[index];
        sentinel.replicas.insert(old.clone());
        sentinel.replicas.remove(new);
        sentinel.primary = new.clone();
        sentinel.failover = None;
        sentinel.objective = false;
        sentinel.begin_anew();
        sentinel.events += 1;
    }

    /// What a Sentinel does about instances that are not where they belong.
    fn tidy(&mut self, index: usize, now: u64) {
        let sentinel = &self.sentinels[index];
        if sentinel.failover.is_some() || now < sentinel.tilt_until {
            return;
        }
        let primary = sentinel.primary.clone();
        let sane = self.reaches(index, &primary)
            && self.instance(&primary).is_some_and(Instance::is_primary);
        if !sane {
            return;
        }
        for address in sentinel.replicas.clone() {
            if !self.reaches(index, &address) {
                continue;
            }
            let Some(instance) = self.instance_mut(&address) else { continue };
            let misplaced = instance.follows.as_ref() != Some(&primary);
            if !misplaced {
                instance.stray_since = None;
                continue;
            }
            let since = *instance.stray_since.get_or_insert(now);
            if now - since > CONVERT_AFTER_MS {
                self.replicaof(&address, &primary);
            }
        }
    }

    /// Higher epochs win; equal ones never converge.
    fn say_hello(&mut self) {
        for from in 0..self.sentinels.len() {
            if !self.sentinels[from].up || !self.sentinels[from].knows {
                continue;
            }
            let said = announced(&self.sentinels[from]).clone();
            let (epoch, current) =
                (self.sentinels[from].config_epoch, self.sentinels[from].current_epoch);
            for to in 0..self.sentinels.len() {
                if to == from || !self.sentinels_speak(from, to) || !self.sentinels[to].knows {
                    continue;
                }
                // The direct hello is quick, but not at once.
                if self.rng.random_range(0..10) >= 7 {
                    continue;
                }
                let sentinel = &mut self.sentinels[to];
                sentinel.current_epoch = sentinel.current_epoch.max(current);
                sentinel.peers.insert(from);
                if sentinel.config_epoch < epoch {
                    sentinel.config_epoch = epoch;
                    if sentinel.primary != said {
                        let old = sentinel.primary.clone();
                        self.switch(to, &old, &said);
                    }
                }
            }
        }
    }

    /// A hello that an agent says in a leader's place. Whether it brought a newer configuration.
    ///
    /// # Errors
    /// When no election has ended so, or the epoch of the Sentinel would go back.
    pub fn relay(&mut self, to: usize, relay: &Relay) -> Result<bool, String> {
        let Relay { leader, epoch, forced, chosen, .. } = relay;
        let elected = self.elections.get(epoch).into_iter().flatten();
        let ended: Vec<_> = if *forced { self.forced.iter().collect() } else { elected.collect() };
        let mut ended = ended.iter().map(|(index, chosen)| (&self.sentinels[*index].id, chosen));
        if !ended.any(|outcome| outcome == (leader, chosen)) {
            return Err(format!("{chosen} was told for epoch {epoch}, and no election ended so"));
        }
        let other = |s: &Sentinel| s.config_epoch == *epoch && announced(s) != chosen;
        if self.sentinels.iter().any(other) {
            return Err(format!("{chosen} was told for epoch {epoch}, which another one has"));
        }
        let sentinel = &mut self.sentinels[to];
        let before = (sentinel.config_epoch, sentinel.current_epoch);
        sentinel.current_epoch = sentinel.current_epoch.max(*epoch);
        if sentinel.config_epoch >= *epoch {
            return Ok(false);
        }
        sentinel.config_epoch = *epoch;
        if &sentinel.primary != chosen {
            let old = sentinel.primary.clone();
            self.switch(to, &old, chosen);
        }
        let sentinel = &self.sentinels[to];
        if before.0 > sentinel.config_epoch || before.1 > sentinel.current_epoch {
            return Err(format!("{to} went back from epoch {before:?}"));
        }
        Ok(true)
    }

    /// `SENTINEL RESET`: forgets replicas and peers, aborts its failover, keeps the epoch and the
    /// address it monitored (`docs/facts/sentinel.md` 1.4).
    pub fn reset(&mut self, index: usize) {
        let primary = self.sentinels[index].primary.clone();
        let replicas: BTreeSet<Address> = self
            .instances
            .iter()
            .filter(|instance| instance.answers() && instance.follows.as_ref() == Some(&primary))
            .map(|instance| instance.address.clone())
            .collect();
        let sentinel = &mut self.sentinels[index];
        sentinel.failover = None;
        sentinel.replicas = replicas;
        sentinel.peers.clear();
        sentinel.objective = false;
        sentinel.begin_anew();
        sentinel.hold_off_until = 0;
        sentinel.events += 1;
    }

    /// `SENTINEL REMOVE` and `SENTINEL MONITOR` at some address, with epoch 0.
    pub fn remonitor(&mut self, index: usize, primary: &Address) {
        let replicas: BTreeSet<Address> = self
            .instances
            .iter()
            .map(|instance| instance.address.clone())
            .filter(|address| address != primary)
            .collect();
        let sentinel = &mut self.sentinels[index];
        sentinel.knows = true;
        sentinel.failover = None;
        sentinel.primary = primary.clone();
        sentinel.config_epoch = 0;
        sentinel.replicas = replicas;
        sentinel.objective = false;
        sentinel.begin_anew();
        sentinel.events += 1;
    }

    /// `SENTINEL REMOVE`
    pub fn remove(&mut self, index: usize) {
        let sentinel = &mut self.sentinels[index];
        sentinel.knows = false;
        sentinel.failover = None;
        sentinel.objective = false;
        sentinel.peers.clear();
        sentinel.events += 1;
    }

    /// An instance is made anew at another address, with its data, and detached.
    pub fn move_instance(&mut self, index: usize, to: Address) {
        let instance = &mut self.instances[index];
        instance.address = to;
        (instance.up, instance.frozen) = (true, false);
        instance.follows = Some(detached_address());
        instance.unlink();
        (instance.stray_since, instance.copying) = (None, None);
        instance.started_empty = instance.offset == 0;
        instance.run += 1;
        instance.kicks += 1;
        instance.started = self.now;
    }

    /// An instance starts again: with its data set, as what its config says it was.
    pub fn start_instance(&mut self, index: usize, empty: bool) {
        let replid = self.new_replid();
        let instance = &mut self.instances[index];
        if instance.up {
            return;
        }
        instance.up = true;
        instance.run += 1;
        instance.unlink();
        instance.frozen = false;
        instance.held_until = 0;
        instance.copying = None;
        (instance.started, instance.started_empty) = (self.now, empty);
        if empty {
            (instance.replid, instance.replid2, instance.offset) = (replid, None, 0);
            (instance.foreign, instance.mark) = (false, None);
        } else if instance.append_only {
            (instance.replid, instance.replid2) = (replid, None);
        } else if instance.is_primary() {
            instance.replid2 = Some(instance.replid);
            instance.forked_at = instance.offset + 1;
            instance.replid = replid;
        }
        instance.kicks += 1;
    }

    /// An instance is replaced by one with unrelated data, a primary by its own config. history: an append-only file at
    /// a place that the Sentinels know is taken for the one that was there (`docs/guarantees.md`), unless it has the
    /// mark of another group.
    pub fn start_foreign(&mut self, index: usize) {
        let (replid, marks) = (self.new_replid(), self.marks);
        let instance = &mut self.instances[index];
        let mark = DataMark {
            group: "other".parse().expect("a group"),
            prefix: Some("redis-ha".to_owned()),
            installation: None,
            generation: 1,
            history: ReplId("f".repeat(40)),
        };
        instance.mark = marks.then_some(mark);
        (instance.append_only, instance.config_file) = (marks, "other.conf");
        (instance.up, instance.frozen, instance.held_until) = (true, false, 0);
        instance.follows = None;
        instance.unlink();
        (instance.stray_since, instance.copying) = (None, None);
        (instance.replid, instance.replid2, instance.offset) = (replid, None, 500);
        (instance.started, instance.started_empty, instance.foreign) = (self.now, false, true);
        instance.run += 1;
        instance.kicks += 1;
    }

    /// `REPLICAOF`, as an agent gives it to a stray primary: after it has looked once more.
    pub fn fence(&mut self, index: usize, fence: &Fence) -> bool {
        let now = self.probe(&self.instances[index].address);
        let writer = self.probe(&fence.follow);
        let led = writer.is_some_and(|writer| fence.is_led_by(&writer));
        if !led || !now.is_some_and(|now| fence.still_holds(&now)) {
            return false;
        }
        let instance = &mut self.instances[index];
        instance.follows = Some(fence.follow.clone());
        instance.by_name = false;
        instance.unlink();
        instance.stray_since = None;
        instance.kicks += 1;
        true
    }

    /// `SET`, as an agent writes the mark: after it has looked once more.
    pub fn mark(&mut self, index: usize, marking: &Marking) -> bool {
        let now = self.probe(&self.instances[index].address);
        let holds = now.is_some_and(|now| marking.still_holds(&now));
        let instance = &mut self.instances[index];
        if holds && self.now >= instance.held_until {
            instance.mark = Some(marking.mark.clone());
            return true;
        }
        false
    }

    /// `CONFIG SET replica-priority`, as an agent does it: after it has looked once more.
    pub fn prioritize(&mut self, index: usize, prioritize: &Prioritize) -> bool {
        let now = self.probe(&self.instances[index].address);
        let holds = now.is_some_and(|now| prioritize.still_holds(&now));
        if holds {
            self.instances[index].priority = prioritize.priority;
        }
        holds
    }

    /// Detaches an instance, as an agent does with one that would copy a primary without data.
    pub fn detach(&mut self, index: usize, detach: &Detach) -> bool {
        let now = self.probe(&self.instances[index].address);
        if !now.is_some_and(|now| detach.still_holds(&now)) {
            return false;
        }
        let instance = &mut self.instances[index];
        instance.follows = Some(detached_address());
        instance.unlink();
        instance.stray_since = None;
        true
    }

    /// What an instance answers.
    pub fn probe(&self, address: &Address) -> Option<InstanceAnswer> {
        let instance = self.instance(address).filter(|instance| instance.answers())?;
        let name = |replid: u64| ReplId(format!("{replid:040x}"));
        let role = match &instance.follows {
            Some(of) if instance.by_name && !is_detached_address(of) => {
                let name = format!("name-of-{}", of.host().replace(':', "-"));
                let of = Address::new(&name, of.port()).expect("a name");
                Role::Replica { of, link_up: instance.link_up }
            }
            Some(of) => Role::Replica { of: of.clone(), link_up: instance.link_up },
            None => Role::Primary { replicas: self.connected(&instance.address) },
        };
        Some(InstanceAnswer {
            role,
            not_ready: None,
            failover_running: false,
            run_id: format!("run-{}-{}", instance.run, instance.address),
            config_file: instance.config_file.to_owned(),
            version: "7.0.15".to_owned(),
            replid: name(instance.replid),
            replid2: instance.replid2.map(name),
            forked_at: instance.replid2.map(|_| instance.forked_at),
            offset: instance.offset,
            keys: instance.offset / 10,
            mark: match (self.marks, &instance.mark) {
                (false, _) => FoundMark::Unknown,
                (true, None) => FoundMark::Absent,
                (true, Some(mark)) => FoundMark::Is(mark.clone()),
            },
            started_empty: instance.started_empty,
            append_only: instance.append_only,
            announced: true,
            uptime_s: self.now.saturating_sub(instance.started) / 1_000,
            priority: instance.follows.is_some().then_some(instance.priority),
            link_down_s: instance.link_lost.map(|at| self.now.saturating_sub(at) / 1_000),
            refuses_writes: None,
        })
    }

    fn connected(&self, to: &Address) -> Vec<ConnectedReplica> {
        self.instances
            .iter()
            .filter(|replica| replica.follows.as_ref() == Some(to) && replica.link_up)
            .filter(|replica| replica.answers())
            .map(|replica| ConnectedReplica {
                address: replica.address.clone(),
                online: true,
                offset: replica.offset,
                lag_s: 0,
            })
            .collect()
    }

    /// The data of a primary that a majority names is the group's, as is what others have copied of it.
    pub fn adopt(&mut self, primary: &Address) {
        let leads = self.instance(primary).filter(|leads| leads.foreign && leads.is_primary());
        // One that has copied it before its promotion goes on from it.
        let histories = leads.map(|leads| (leads.replid, leads.replid2));
        let Some((own, before)) = histories else { return };
        let adopted = |i: &&mut Instance| i.replid == own || Some(i.replid) == before;
        for instance in self.instances.iter_mut().filter(adopted) {
            instance.foreign = false;
        }
    }

    /// A majority names one that is a primary and answers.
    pub fn is_settled(&self) -> bool {
        let named = self.majority().and_then(|named| self.instance(&named).cloned());
        named.is_some_and(|named| named.is_primary() && named.answers())
    }

    /// How everything is, for the story of a history.
    pub fn state(&self) -> String {
        let sentinels = self.sentinels.iter().map(|s| {
            let Sentinel { id, up, gone, knows, primary, config_epoch, current_epoch, .. } = s;
            let (down, failover, replicas, peers) =
                (s.objective, s.failover.as_ref().map(|f| f.phase), &s.replicas, &s.peers);
            format!(
                "{id:?}: up {up}, gone {gone}, knows {knows}, names {primary} at {config_epoch} of {current_epoch}, \
                 down {down}, quorum {}, failover {failover:?}, voted {:?}, peers {peers:?}, replicas {replicas:?}",
                s.quorum, s.voted
            )
        });
        let instances = self.instances.iter().map(|i| {
            let Instance { address, up, follows, replid, offset, priority, foreign, .. } = i;
            format!(
                "{address}: up {up}, follows {follows:?}, history {replid} at {offset}, priority {priority}, \
                 foreign {foreign}"
            )
        });
        sentinels.chain(instances).collect::<Vec<_>>().join("\n")
    }

    /// The primary was restarted without its data, and Sentinels would choose one that has copied that (because no
    /// agent could reach it in time) before one that has not, or may not choose the one that has not: an agent that
    /// asks for a failover loses the data.
    pub fn is_left_to_the_operator(&self, primary: &Address) -> bool {
        let Some(leads) = self.instance(primary).filter(|leads| leads.started_empty) else {
            return false;
        };
        let others = self.instances.iter().filter(|i| &i.address != primary);
        let (copied, held): (Vec<&Instance>, Vec<&Instance>) =
            others.partition(|other| other.replid == leads.replid);
        let best = |all: &[&Instance]| {
            all.iter().filter(|i| i.priority > 0).map(|instance| instance.offset).max()
        };
        !held.is_empty() && best(&copied) >= best(&held)
    }

    /// What a Sentinel answers.
    pub fn ask(&self, index: usize, now: u64) -> Option<SentinelAnswer> {
        let sentinel = self.sentinels.get(index).filter(|sentinel| sentinel.up)?;
        let settings = SentinelSettings {
            quorum: sentinel.quorum,
            down_after_ms: sentinel.pace.unwrap_or(self.down_after_ms),
            failover_timeout_ms: FAILOVER_TIMEOUT_MS,
            parallel_syncs: 1,
        };
        let group = sentinel.knows.then(|| SentinelGroup {
            primary: announced(sentinel).clone(),
            monitored: sentinel.primary.clone(),
            config_epoch: sentinel.config_epoch,
            down: if sentinel.objective {
                DownOpinion::Objective
            } else if self.subjective(index, &sentinel.primary, now) {
                DownOpinion::Subjective
            } else {
                DownOpinion::Up
            },
            only_master_flag: sentinel.failover.is_none()
                && !sentinel.objective
                && !self.subjective(index, &sentinel.primary, now),
            disconnected: !self.reaches(index, &sentinel.primary),
            failover: sentinel.failover.as_ref().map(|failover| failover.phase),
            failover_forced: self.says_forced
                && sentinel.failover.as_ref().is_some_and(|failover| failover.forced),
            other_sentinels: sentinel.peers.len(),
            settings,
            replicas: sentinel
                .replicas
                .iter()
                .map(|replica| SentinelReplica {
                    address: replica.clone(),
                    s_down: self.subjective(index, replica, now),
                    promoted: sentinel
                        .failover
                        .as_ref()
                        .is_some_and(|failover| failover.chosen.as_ref() == Some(replica)),
                    priority: None,
                })
                .collect(),
            peers: sentinel
                .peers
                .iter()
                .map(|peer| {
                    let other = &self.sentinels[*peer];
                    // Now and then the reply with the vote was lost on its way to this one.
                    let lost = (other.voted.0 + *peer as u64 + index as u64).is_multiple_of(7);
                    let leader = other.voted.1.filter(|_| !lost);
                    let leader = leader.map(|leader| self.sentinels[leader].id.clone());
                    SentinelPeer {
                        address: other.address.clone(),
                        id: other.id.clone(),
                        s_down: !self.sentinels_speak(index, *peer),
                        voted: leader.map(|leader| (leader, other.voted.0)),
                    }
                })
                .collect(),
        });
        Some(SentinelAnswer {
            id: sentinel.id.clone(),
            process: None,
            tilt: now < sentinel.tilt_until,
            group,
            others: Vec::new(),
            refuses_relay: None,
        })
    }
}

/// What the Sentinel tells clients: the chosen replica as soon as its promotion was seen.
fn announced(sentinel: &Sentinel) -> &Address {
    let promoted = sentinel
        .failover
        .as_ref()
        .filter(|failover| failover.phase >= FailoverPhase::ReconfReplicas)
        .and_then(|failover| failover.chosen.as_ref());
    promoted.unwrap_or(&sentinel.primary)
}
