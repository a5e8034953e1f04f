//! Scenes for the rules: a healthy group, and what is different about it.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::decide::{Decision, decide};
use consul_redis_core::duty::action::{Action, Write};
use consul_redis_core::identity::address::Address;
use consul_redis_core::identity::mark::FoundMark;
use consul_redis_core::known::memory::{Condition, Memory};
use consul_redis_core::known::observed::{
    ConnectedReplica, DownOpinion, FailoverPhase, InstanceAnswer, Observed, Reading, ReplId, Role,
    RowsAnswer, SentinelAnswer, SentinelGroup, SentinelId, SentinelPeer, SentinelReplica,
    SentinelSettings, StoreAnswer, StoredState,
};
use consul_redis_core::known::view::View;
use consul_redis_core::policy::Policy;
use consul_redis_core::published::projection::{Layout, project};
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::{
    Basis, Change, Evidence, InstanceRecord, Level, PublishedRole, RECORD_VERSION, Record,
    Timeline, Writer,
};
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

/// Now, in every scene.
pub const NOW: u64 = 100_000;
/// When everything was asked, unless a scene says otherwise.
pub const ASKED: u64 = NOW - 50;
/// When the published generation was first seen.
pub const SEEN: u64 = NOW - 60_000;

/// The primary of a healthy group.
pub const A: &str = "10.0.0.1:6379";
/// Its replicas.
pub const B: &str = "10.0.0.2:6379";
pub const C: &str = "10.0.0.3:6379";

pub fn at(address: &str) -> Address {
    address.parse().expect("an address")
}

/// The run of an instance, unless a scene says otherwise: each is a process of its own.
pub fn run(address: &str) -> String {
    format!("run of {address}")
}

pub fn sentinel_at(index: usize) -> Address {
    at(&format!("10.0.1.{}:26379", index + 1))
}

pub fn id(index: usize) -> SentinelId {
    SentinelId(format!("sentinel-{index}"))
}

/// C was the writer until then.
pub fn ceased(then: Timestamp) -> Change {
    Change {
        generation: 7,
        at: then,
        from: Some(at(C)),
        to: Some(at(A)),
        level: Some(Level::Quorum),
        epoch: Some(1),
        why: String::new(),
        by: String::new(),
        timeline: Timeline::default(),
    }
}

/// One group as one agent sees it.
#[derive(Debug, Clone)]
pub struct Scene {
    pub policy: Policy,
    pub memory: Memory,
    pub observed: Observed,
    pub now: u64,
}

impl Scene {
    /// `sentinels` name A at epoch 1; A is the primary of B and C; A is published as generation 7.
    pub fn healthy(sentinels: usize) -> Self {
        let group = "redis".parse().expect("a group");
        let service = "redis".parse().expect("a service");
        let mut policy = Policy::new(group, service, "agent-0", "run-0");
        policy.sentinels_configured = sentinels;
        let generation = Some((7, Mono(SEEN)));
        let memory = Memory { generation, generation_max: 7, ..Memory::default() };
        let mut scene = Self { policy, memory, observed: Observed::default(), now: NOW };
        for index in 0..sentinels {
            scene.set_sentinel(index, group_view(index, sentinels));
        }
        scene.set_instance(A, primary(1, None, &[B, C]));
        scene.set_instance(B, replica(1, A));
        scene.set_instance(C, replica(1, A));
        let record = record(sentinels);
        scene.show(&record);
        scene
    }

    /// Nothing was ever published.
    pub fn unpublished(sentinels: usize) -> Self {
        let mut scene = Self::healthy(sentinels);
        scene.memory.generation = Some((0, Mono(SEEN)));
        scene.memory.generation_max = 0;
        scene.observed.store = Some(empty_store());
        scene.observed.rows = Some(RowsAnswer {
            asked: Mono(ASKED),
            found: None,
            foreign: false,
            others: BTreeSet::new(),
        });
        scene
    }

    /// Consul holds this record, and everything that it shows.
    pub fn show(&mut self, record: &Record) {
        let mut store = empty_store();
        store.state = StoredState::Known(Box::new(record.clone()));
        store.state_index = 100 + record.generation;
        store.plain = project(record).plain;
        self.observed.store = Some(store);
        let found = Some(project(record).rows);
        self.observed.rows =
            Some(RowsAnswer { asked: Mono(ASKED), found, foreign: false, others: BTreeSet::new() });
    }

    /// Changes what Consul holds.
    pub fn published(mut self, change: impl FnOnce(&mut Record)) -> Self {
        let mut record = self.observed.record().expect("a record").clone();
        change(&mut record);
        self.show(&record);
        self
    }

    /// A writer that was published by promotion and not confirmed, `age_ms` ago.
    pub fn promoted(self, writer: &str, age_ms: u64) -> Self {
        let mut scene = self.published(|record| {
            record.generation = 8;
            record.writer = Some(Writer { address: at(writer), replid: ReplId("2".to_owned()) });
            record.last_writer.clone_from(&record.writer);
            let (leader, epoch) = (sentinel_at(0), Some(2));
            record.evidence.basis = Basis::Promotion { leader, epoch, votes: 1 };
            for instance in &mut record.instances {
                instance.role = if instance.address == at(writer) {
                    PublishedRole::Primary
                } else {
                    PublishedRole::OutOfSync
                };
            }
        });
        scene.memory.generation = Some((8, Mono(NOW - age_ms)));
        scene.memory.generation_max = 8;
        scene
    }

    pub fn set_sentinel(&mut self, index: usize, group: SentinelGroup) {
        let answer = SentinelAnswer {
            id: id(index),
            process: Some(index.to_string()),
            tilt: false,
            group: Some(group),
            others: Vec::new(),
            refuses_relay: None,
        };
        self.observed.sentinels.insert(sentinel_at(index), answered(answer));
    }

    /// Changes what one Sentinel says of the group.
    pub fn sentinel(mut self, index: usize, change: impl FnOnce(&mut SentinelGroup)) -> Self {
        let reading = self.observed.sentinels.get_mut(&sentinel_at(index)).expect("a Sentinel");
        let answer = reading.result.as_mut().expect("an answer");
        change(answer.group.as_mut().expect("a group"));
        self
    }

    /// Changes what one Sentinel says of itself.
    pub fn answer(mut self, index: usize, change: impl FnOnce(&mut SentinelAnswer)) -> Self {
        let reading = self.observed.sentinels.get_mut(&sentinel_at(index)).expect("a Sentinel");
        change(reading.result.as_mut().expect("an answer"));
        self
    }

    /// One Sentinel does not answer.
    pub fn silent(mut self, index: usize) -> Self {
        self.observed.sentinels.insert(sentinel_at(index), no_answer());
        self
    }

    /// These Sentinels name another primary.
    pub fn naming(mut self, sentinels: &[usize], primary: &str, epoch: u64) -> Self {
        for index in sentinels {
            self = self.sentinel(*index, |group| {
                group.primary = at(primary);
                group.monitored = at(primary);
                group.config_epoch = epoch;
            });
        }
        self
    }

    /// These Sentinels call A down.
    pub fn down(mut self, sentinels: &[usize], opinion: DownOpinion) -> Self {
        for index in sentinels {
            self = self.sentinel(*index, |group| group.down = opinion);
        }
        self
    }

    /// One Sentinel leads a failover that has chosen a replica, and its peers have voted for it.
    pub fn leading(self, leader: usize, chosen: &str, phase: FailoverPhase) -> Self {
        self.sentinel(leader, |group| {
            group.failover = Some(phase);
            group.down = DownOpinion::Objective;
            for replica in &mut group.replicas {
                replica.promoted = replica.address == at(chosen);
            }
            for peer in &mut group.peers {
                peer.voted = Some((id(leader), 2));
            }
        })
    }

    pub fn set_instance(&mut self, address: &str, mut answer: InstanceAnswer) {
        if answer.run_id == "run" {
            answer.run_id = run(address);
        }
        self.observed.instances.insert(at(address), answered(answer));
    }

    /// An instance says something else.
    pub fn instance(mut self, address: &str, answer: InstanceAnswer) -> Self {
        self.set_instance(address, answer);
        self
    }

    /// An instance does not answer.
    pub fn dead(mut self, address: &str) -> Self {
        self.observed.instances.insert(at(address), no_answer());
        self
    }

    /// An answer was asked for at another time.
    pub fn instance_asked(mut self, address: &str, asked: u64) -> Self {
        self.observed.instances.get_mut(&at(address)).expect("an instance").asked = Mono(asked);
        self
    }

    /// An answer was asked for at another time.
    pub fn sentinel_asked(mut self, index: usize, asked: u64) -> Self {
        let reading = self.observed.sentinels.get_mut(&sentinel_at(index)).expect("a Sentinel");
        reading.asked = Mono(asked);
        self
    }

    /// All conditions that hold have held for so long.
    pub fn lasting(mut self, ms: u64) -> Self {
        let holding = self.conditions();
        for condition in holding {
            self.memory.since.insert(condition, Mono(self.now.saturating_sub(ms)));
        }
        self
    }

    /// What no longer holds is forgotten, as the loop does after each input.
    pub fn remembering(mut self) -> Self {
        let (holding, now) = (self.conditions(), self.view().now);
        self.memory.keep(holding, now);
        self
    }

    /// The conditions that hold.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        let view = self.view();
        let mut holding = consul_redis_core::published::publication::conditions(&view);
        holding
            .extend(consul_redis_core::published::replicas::InstanceRows::new(&view).conditions());
        holding.extend(consul_redis_core::duty::sentinels::conditions(&view));
        holding.extend(consul_redis_core::duty::stale_peers::conditions(&view));
        holding.extend(consul_redis_core::shown::unreachable::conditions(&view));
        let refuses = consul_redis_core::shown::unreachable::refuses_writes(&view);
        holding.extend(refuses.map(|at| Condition::RefusesWrites(at.clone())));
        holding
    }

    pub fn at_level(mut self, level: Level) -> Self {
        self.policy.publish = level;
        self
    }

    pub fn view(&self) -> View<'_> {
        let wall = Timestamp::from_second(1_700_000_000).expect("a time");
        View::new(&self.policy, &self.memory, &self.observed, Now { mono: Mono(self.now), wall })
    }

    pub fn decision(&self) -> Decision {
        decide(&self.view(), &layout())
    }

    pub fn verdict(&self) -> Verdict {
        self.decision().verdict
    }

    /// The address that is to be published.
    #[track_caller]
    pub fn published_now(&self) -> (String, Level) {
        match self.verdict() {
            Verdict::Publish { to, evidence, .. } => (to.address.to_string(), evidence.level()),
            other => panic!("nothing is to be published: {other:?}"),
        }
    }

    /// Nothing changes about the writer.
    #[track_caller]
    pub fn keeps(&self) -> String {
        match self.verdict() {
            Verdict::Keep(why) => why.to_string(),
            other => panic!("something changes: {other:?}"),
        }
    }

    /// The writer is withdrawn.
    #[track_caller]
    pub fn withdraws(&self) -> String {
        match self.verdict() {
            Verdict::Withdraw(why) => why.to_string(),
            other => panic!("nothing is withdrawn: {other:?}"),
        }
    }

    /// The one write of the decision.
    #[track_caller]
    pub fn write(&self) -> Write {
        let decision = self.decision();
        let write = decision.actions().iter().find_map(|action| match action {
            Action::Write(write) => Some((**write).clone()),
            _ => None,
        });
        write.unwrap_or_else(|| panic!("nothing is written: {decision:?}"))
    }

    /// The rows of the next write, as `address role`.
    #[track_caller]
    pub fn rows(&self) -> Vec<String> {
        let record = self.write().record.expect("a record");
        record.instances.iter().map(|i| format!("{} {}", i.address, i.role.as_str())).collect()
    }
}

pub fn layout() -> Layout {
    Layout::new("redis-ha", &"redis".parse().expect("a group"))
}

fn empty_store() -> StoreAnswer {
    StoreAnswer::from_keys(&layout(), Mono(ASKED), [])
}

fn answered<T>(value: T) -> Reading<T> {
    Reading { asked: Mono(ASKED), answered: Mono(ASKED + 1), result: Ok(value) }
}

fn no_answer<T>() -> Reading<T> {
    Reading { asked: Mono(ASKED), answered: Mono(ASKED + 1), result: Err("no answer".to_owned()) }
}

/// What Sentinel `index` of `count` says of a healthy group.
pub fn group_view(index: usize, count: usize) -> SentinelGroup {
    let replica = |address: &str| SentinelReplica {
        address: at(address),
        s_down: false,
        promoted: false,
        priority: None,
    };
    SentinelGroup {
        primary: at(A),
        monitored: at(A),
        config_epoch: 1,
        down: DownOpinion::Up,
        only_master_flag: true,
        disconnected: false,
        failover: None,
        failover_forced: false,
        other_sentinels: count - 1,
        settings: SentinelSettings {
            quorum: 2,
            down_after_ms: 1_000,
            failover_timeout_ms: 10_000,
            parallel_syncs: 1,
        },
        replicas: vec![replica(B), replica(C)],
        peers: (0..count)
            .filter(|other| *other != index)
            .map(|other| SentinelPeer {
                address: sentinel_at(other),
                id: id(other),
                s_down: false,
                voted: None,
            })
            .collect(),
    }
}

fn answer(role: Role, replid: u64, replid2: Option<u64>) -> InstanceAnswer {
    InstanceAnswer {
        role,
        not_ready: None,
        failover_running: false,
        run_id: "run".to_owned(),
        config_file: "/etc/redis/redis.conf".to_owned(),
        version: "7.0.15".to_owned(),
        replid: ReplId(replid.to_string()),
        replid2: replid2.map(|id| ReplId(id.to_string())),
        forked_at: replid2.map(|_| 500),
        offset: 1_000,
        keys: 10,
        mark: FoundMark::Unknown,
        started_empty: false,
        append_only: false,
        announced: true,
        uptime_s: 1_000,
        priority: None,
        link_down_s: None,
        refuses_writes: None,
    }
}

/// A primary with a history, the one before it, and replicas in sync.
pub fn primary(replid: u64, replid2: Option<u64>, replicas: &[&str]) -> InstanceAnswer {
    let replicas = replicas
        .iter()
        .map(|address| ConnectedReplica {
            address: at(address),
            online: true,
            offset: 1_000,
            lag_s: 0,
        })
        .collect();
    answer(Role::Primary { replicas }, replid, replid2)
}

/// A replica whose link is up.
pub fn replica(replid: u64, of: &str) -> InstanceAnswer {
    answer(Role::Replica { of: at(of), link_up: true }, replid, None)
}

/// B after it was promoted.
pub fn promoted_b() -> InstanceAnswer {
    primary(2, Some(1), &[])
}

fn record(sentinels: usize) -> Record {
    let writer = Writer { address: at(A), replid: ReplId("1".to_owned()) };
    let row = |address: &str, role| InstanceRecord { address: at(address), role };
    Record {
        v: RECORD_VERSION,
        group: "redis".parse().expect("a group"),
        service: "redis".parse().expect("a service"),
        generation: 7,
        nonce: "before".to_owned(),
        by: "agent-9".to_owned(),
        writer: Some(writer.clone()),
        last_writer: Some(writer),
        evidence: Evidence {
            basis: Basis::Majority { epoch: 1, votes: sentinels },
            confirmed_epoch: 1,
            known: sentinels,
        },
        since: Timestamp::from_second(1_600_000_000).expect("a time"),
        why: "named by 3 of 3 Sentinels at epoch 1".to_owned(),
        instances: vec![
            row(A, PublishedRole::Primary),
            row(B, PublishedRole::Replica),
            row(C, PublishedRole::Replica),
        ],
        sentinels: (0..sentinels).map(sentinel_at).collect(),
        sentinel_ids: (0..sentinels).map(id).collect(),
        prefix: Some("redis-ha".to_owned()),
        installation: None,
        lineage: vec![ReplId("1".to_owned())],
        claim: None,
        reset: None,
        data_loss: None,
        death: None,
        haste: None,
        words: BTreeMap::new(),
    }
}
