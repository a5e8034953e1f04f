//! Every finding of `doctor` on a world that has exactly that fault, and a healthy world, which has none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use consul_redis_core::doctor::{
    ConsulAgent, ConsulLoginFailure, ConsulRow, Facts, Finding, FindingCode, FleetFacts,
    InstanceFacts, LoginFacts, NameAnswer, NameKind, ReadFields, Refused, Right, RightKind,
    SentinelFacts, Severity, diagnose, rights, short_down_after,
};
use consul_redis_core::identity::address::{Address, ServiceName};
use consul_redis_core::known::observed::{
    ConnectedReplica, DownOpinion, InstanceAnswer, Role, SentinelGroup, StoreAnswer, StoredState,
};
use consul_redis_core::published::name_check::DnsAnswer;
use consul_redis_core::published::notices::{Delivery, NoticeKind, NoticeLog};
use consul_redis_core::published::pause::{Pause, PauseKey};
use consul_redis_core::published::record::{Change, InstanceRecord, PublishedRole, Timeline};
use consul_redis_core::published::store::AgentClock;
use consul_redis_core::published::words::{AgentWords, InstanceWords, Words};
use consul_redis_core::shown::status::{Problem, ProblemCode, assess};
use jiff::{SignedDuration, Timestamp};

use crate::scene::{A, B, C, Scene, at, layout, primary, replica, run, sentinel_at};

/// What `doctor` reads.
struct World {
    scene: Scene,
    problems: Vec<Problem>,
    sentinels: BTreeMap<Address, SentinelFacts>,
    instances: BTreeMap<Address, InstanceFacts>,
    consul: Result<ConsulAgent, String>,
    rows: Result<Vec<ConsulRow>, String>,
    rights: Result<Option<Vec<(Right, bool)>>, String>,
    names: Vec<NameAnswer>,
    login: Option<LoginFacts>,
    fleet: Option<FleetFacts>,
    consul_login: Option<ConsulLoginFailure>,
}

fn fields(pairs: &[(&str, &str)]) -> ReadFields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn nothing_refused() -> Refused {
    Refused { user: "consul-redis".to_owned(), commands: Vec::new() }
}

fn refused(commands: &[(&str, &str)]) -> Refused {
    let commands = commands.iter().map(|(c, words)| ((*c).to_owned(), (*words).to_owned()));
    Refused { commands: commands.collect(), ..nothing_refused() }
}

fn sentinel_facts() -> SentinelFacts {
    SentinelFacts {
        config: Ok(fields(&[("resolve-hostnames", "no"), ("announce-hostnames", "no")])),
        quorum: Ok(Ok("OK 3 usable Sentinels.".to_owned())),
        version: Ok("7.0.15".to_owned()),
        valkey: false,
        refused: Ok(nothing_refused()),
        saved: Ok(Ok(())),
    }
}

fn login_facts() -> LoginFacts {
    LoginFacts {
        named: "user sentinel, password in /run/sentinel-auth".to_owned(),
        chosen: true,
        not_storable: None,
        refused: BTreeMap::new(),
        lacks: BTreeMap::new(),
    }
}

fn instance_facts() -> InstanceFacts {
    InstanceFacts {
        config: Ok(fields(&[
            ("min-replicas-to-write", "1"),
            ("save", "3600 1"),
            ("appendonly", "no"),
            ("replica-announce-ip", ""),
            ("replica-announce-port", "0"),
            ("replica-read-only", "yes"),
            ("repl-diskless-sync", "yes"),
            ("repl-diskless-sync-delay", "5"),
            ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 1 1 1"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
        ])),
        info: Ok(fields(&[
            ("rdb_last_bgsave_status", "ok"),
            ("aof_last_write_status", "ok"),
            ("config_file", "/etc/redis.conf"),
            ("used_memory", "1000000"),
        ])),
        clock_ahead_ms: Ok(3),
        sentinel_users: Ok([("sentinel".to_owned(), String::new())].into()),
        refused: Ok(nothing_refused()),
        renamed: Ok(Vec::new()),
        death_unseen: None,
    }
}

fn row(service: &str, address: &str) -> ConsulRow {
    ConsulRow {
        service: service.to_owned(),
        node: layout().node(),
        id: service.to_owned(),
        address: address.to_owned(),
        tags: Vec::new(),
        status: "passing".to_owned(),
        group: Some("redis".to_owned()),
    }
}

fn answer(ips: &[&str]) -> DnsAnswer {
    let target = |ip: &&str| (format!("{ip}.addr.dc1.consul."), 6379);
    DnsAnswer {
        ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
        services: ips.iter().map(target).collect(),
    }
}

fn fleet(agents: usize) -> Vec<String> {
    (0..agents).map(|index| format!("agent-{index}")).collect()
}

impl World {
    fn healthy() -> Self {
        let mut scene = Scene::healthy(3);
        for index in 0..3 {
            scene = scene.sentinel(index, |group| group.settings.down_after_ms = 1_500);
        }
        let mut world = Self {
            scene,
            problems: Vec::new(),
            sentinels: (0..3).map(|index| (sentinel_at(index), sentinel_facts())).collect(),
            instances: [A, B, C].map(|address| (at(address), instance_facts())).into(),
            consul: Ok(ConsulAgent {
                node: "host-a".to_owned(),
                version: "1.20.1".to_owned(),
                acls: true,
                allow_stale: true,
                max_stale: Some(SignedDuration::from_secs(5)),
                only_passing: false,
                use_cache: false,
                truncate: false,
                udp_answers: 3,
                service_ttl: BTreeMap::new(),
            }),
            rows: Ok(vec![
                row("redis", A),
                row("redis-primary", A),
                row("redis-replica", B),
                row("redis-replica", C),
            ]),
            rights: Ok(None),
            names: Vec::new(),
            login: Some(login_facts()),
            consul_login: None,
            fleet: Some(FleetFacts { agents: fleet(2), wanted: 2 }),
        };
        let all = rights(&layout(), &world.scene.policy.service);
        world.rights = Ok(Some(all.into_iter().map(|right| (right, true)).collect()));
        for kind in NameKind::ALL {
            let ips = if kind == NameKind::Replica { &["10.0.0.2"][..] } else { &["10.0.0.1"] };
            world.names.push(NameAnswer {
                server: at("127.0.0.1:8600"),
                named: true,
                kind,
                name: format!("{}.service.consul", kind.label(&world.scene.policy.service)),
                answer: Ok(answer(ips)),
            });
        }
        world.store().agents = ["agent-0", "agent-1"].map(str::to_owned).into();
        world.scene.policy.settings.reboot_down_after_ms = Some(5_000);
        world
    }

    fn findings(&self) -> Vec<Finding> {
        let view = self.scene.view();
        diagnose(&Facts {
            view: &view,
            layout: &layout(),
            problems: &self.problems,
            sentinels: self.sentinels.clone(),
            instances: self.instances.clone(),
            consul: self.consul.clone(),
            rows: self.rows.clone(),
            rights: self.rights.clone(),
            names: self.names.clone(),
            login: self.login.clone(),
            consul_login: self.consul_login.clone(),
            fleet: self.fleet.clone(),
        })
    }

    fn change(&mut self, change: impl FnOnce(Scene) -> Scene) {
        self.scene = change(self.scene.clone());
    }

    fn login(&mut self) -> &mut LoginFacts {
        self.login.as_mut().expect("a login")
    }

    fn store(&mut self) -> &mut StoreAnswer {
        self.scene.observed.store.as_mut().expect("a store")
    }

    /// Both agents know of it.
    fn pause(&mut self) {
        let since = self.scene.view().now.wall - SignedDuration::from_mins(10);
        let by = "root@h1".to_owned();
        let store = self.store();
        store.pausing = store.agents.clone();
        store.pause =
            PauseKey::Known(Box::new(Pause { since, by, until: None, why: None, resumed: None }));
    }

    fn sentinel(&mut self, index: usize, change: impl FnOnce(&mut SentinelGroup)) {
        self.change(|scene| scene.sentinel(index, change));
    }

    fn every_sentinel(&mut self, change: impl Fn(&mut SentinelGroup)) {
        for index in 0..3 {
            self.sentinel(index, &change);
        }
    }

    /// So many Sentinels, alike.
    fn count(&mut self, count: usize) {
        let (agents, policy) = (self.store().agents.clone(), self.scene.policy.clone());
        self.scene = Scene::healthy(count);
        self.scene.policy.settings = policy.settings;
        self.store().agents = agents;
        for index in 0..count {
            self.sentinel(index, |group| group.settings.down_after_ms = 1_500);
        }
    }

    fn set(&mut self, address: &str, name: &str, value: &str) {
        let facts = self.instances.get_mut(&at(address)).expect("an instance");
        facts.config.as_mut().expect("settings").insert(name.to_owned(), value.to_owned());
    }

    fn set_all(&mut self, name: &str, value: &str) {
        [A, B, C].into_iter().for_each(|address| self.set(address, name, value));
    }

    fn info(&mut self, address: &str, name: &str, value: &str) {
        let facts = self.instances.get_mut(&at(address)).expect("an instance");
        facts.info.as_mut().expect("INFO").insert(name.to_owned(), value.to_owned());
    }

    fn priority_zero(&mut self, address: &str) {
        let mut answer = replica(1, A);
        answer.priority = Some(0);
        self.scene.set_instance(address, answer);
    }

    /// Agents say that these instances stand there.
    fn zones(&mut self, zones: &[(&str, &str)]) {
        let said = zones.iter().map(|(address, zone)| {
            let zone = Some(zone.parse().expect("a zone"));
            (at(address), InstanceWords { zone, ..InstanceWords::default() })
        });
        let instances: BTreeMap<Address, InstanceWords> = said.collect();
        let store = self.store();
        for agent in &store.agents {
            let words = AgentWords { instances: instances.clone(), ..AgentWords::default() };
            store.words.insert(agent.clone(), words);
        }
    }

    /// The operator's order, and replicas that have Redis' own priority.
    fn prefer(&mut self, zones: &[&str]) {
        let zones = zones.iter().map(|zone| zone.parse().expect("a zone"));
        self.scene.policy.prefer_zones = zones.collect();
        for address in [B, C] {
            self.set_priority(address, 100);
        }
    }

    fn set_priority(&mut self, address: &str, priority: u64) {
        let answer = InstanceAnswer { priority: Some(priority), ..replica(1, A) };
        self.scene.set_instance(address, answer);
    }

    fn agent(&mut self) -> &mut ConsulAgent {
        self.consul.as_mut().expect("an agent")
    }

    fn rows(&mut self) -> &mut Vec<ConsulRow> {
        self.rows.as_mut().expect("rows")
    }

    fn answers(&mut self, kind: NameKind, answer: Result<DnsAnswer, String>) {
        let name = self.names.iter_mut().find(|name| name.kind == kind).expect("a name");
        name.answer = answer;
    }

    fn deny(&mut self, denied: impl Fn(&Right) -> bool) {
        let rights = self.rights.as_mut().expect("rights").as_mut().expect("ACLs");
        for (right, allowed) in rights {
            *allowed = !denied(right);
        }
    }
}

/// One fault.
type Fault = fn(&mut World);

const SENTINEL_FAULTS: &[(FindingCode, Fault)] = &[
    (FindingCode::NoMajority, |w| {
        w.change(|scene| scene.answer(0, |a| a.group = None).answer(1, |a| a.group = None))
    }),
    (FindingCode::QuorumTooHigh, |w| w.every_sentinel(|group| group.settings.quorum = 4)),
    (FindingCode::NoQuorum, |w| {
        let refusal = "NOQUORUM 1 usable Sentinels.".to_owned();
        w.sentinels.get_mut(&sentinel_at(1)).expect("it").quorum = Ok(Err(refusal));
    }),
    (FindingCode::SentinelsDisagree, |w| w.change(|scene| scene.naming(&[2], B, 1))),
    (FindingCode::SameSentinelId, |w| {
        w.change(|scene| scene.answer(1, |answer| answer.id = crate::scene::id(0)));
    }),
    (FindingCode::RelayRefused, |w| {
        let words = "NOPERM this user has no permissions to access one of the channels";
        w.change(|scene| scene.answer(1, |answer| answer.refuses_relay = Some(words.to_owned())));
    }),
    (FindingCode::ReplicasForgotten, |w| {
        w.every_sentinel(|group| {
            group.replicas.clear();
            group.down = DownOpinion::Subjective;
        });
        for address in [B, C] {
            let mut orphan = replica(1, A);
            orphan.role = Role::Replica { of: at(A), link_up: false };
            w.scene.set_instance(address, orphan);
        }
        let agents = w.store().agents.clone();
        w.change(|scene| scene.published(|record| record.writer = None).dead(A));
        w.store().agents = agents;
        w.names.clear();
    }),
    (FindingCode::Tilt, |w| w.change(|scene| scene.answer(1, |answer| answer.tilt = true))),
    (FindingCode::NamesNotResolved, |w| {
        w.every_sentinel(|group| group.replicas.clear());
        named_everywhere(w);
        for index in 0..2 {
            let facts = w.sentinels.get_mut(&sentinel_at(index)).expect("it");
            facts.config.as_mut().expect("it").insert("resolve-hostnames".into(), "yes".into());
        }
    }),
    (FindingCode::SentinelLogin, |w| {
        w.login().refused.insert(at(A), "WRONGPASS invalid username-password pair".to_owned());
    }),
    (FindingCode::SentinelUserWeak, |w| {
        let weak = [("consul-redis".to_owned(), "SLAVEOF, MULTI".to_owned())].into();
        w.instances.get_mut(&at(B)).expect("it").sentinel_users = Ok(weak);
    }),
    (FindingCode::SentinelLoginWeak, |w| {
        w.login().chosen = false;
        w.login().lacks.insert(at(A), "refuses it MULTI".to_owned());
    }),
    (FindingCode::SentinelConfigUnsaved, |w| {
        let words = "ERR Failed to save config file. Check server logs.".to_owned();
        w.sentinels.get_mut(&sentinel_at(1)).expect("it").saved = Ok(Err(words));
    }),
    (FindingCode::SentinelDown, |w| {
        for index in 0..2 {
            w.sentinel(index, |group| {
                let peers = group.peers.iter_mut();
                peers.filter(|p| p.address == sentinel_at(2)).for_each(|p| p.s_down = true);
            });
        }
        w.change(|scene| scene.silent(2));
    }),
    (FindingCode::SentinelUnreachable, |w| w.change(|scene| scene.silent(2))),
    (FindingCode::SentinelLacksGroup, |w| w.change(|scene| scene.answer(2, |a| a.group = None))),
    (FindingCode::SentinelCountDiffers, |w| w.sentinel(2, |group| group.other_sentinels = 1)),
    (FindingCode::SentinelsFew, |w| w.count(2)),
    (FindingCode::SentinelsEven, |w| w.count(4)),
    (FindingCode::QuorumNoSpare, |w| w.every_sentinel(|group| group.settings.quorum = 3)),
    (FindingCode::QuorumOne, |w| w.every_sentinel(|group| group.settings.quorum = 1)),
    (FindingCode::QuorumDiffers, |w| {
        w.count(5);
        w.sentinel(4, |group| group.settings.quorum = 3);
    }),
    (FindingCode::DownAfterDiffers, |w| {
        w.sentinel(0, |group| group.settings.down_after_ms = 2_000)
    }),
    (FindingCode::DownAfterShort, |w| {
        w.every_sentinel(|group| group.settings.down_after_ms = 1_000)
    }),
    (FindingCode::FailoverTimeoutDiffers, |w| {
        w.sentinel(0, |group| group.settings.failover_timeout_ms = 20_000);
    }),
    (FindingCode::FailoverTimeoutShort, |w| {
        w.every_sentinel(|group| group.settings.failover_timeout_ms = 2_000);
    }),
    (FindingCode::ParallelSyncsDiffers, |w| {
        w.sentinel(0, |group| group.settings.parallel_syncs = 5)
    }),
    (FindingCode::SettingsNotKept, |w| {
        w.store().config.as_mut().expect("settings").down_after_ms = Some(5_000);
    }),
    (FindingCode::CalledDown, |w| {
        w.every_sentinel(|group| {
            let replica = group.replicas.iter_mut().find(|replica| replica.address == at(C));
            replica.expect("a replica").s_down = true;
        });
    }),
    (FindingCode::GhostReplica, |w| {
        w.every_sentinel(|group| {
            let mut stale_peer = group.replicas[0].clone();
            (stale_peer.address, stale_peer.s_down) = (at("10.0.0.9:6379"), true);
            group.replicas.push(stale_peer);
        });
        w.change(|scene| scene.dead("10.0.0.9:6379"));
    }),
    (FindingCode::NamesMixed, |w| {
        for facts in w.sentinels.values_mut() {
            facts.config.as_mut().expect("it").insert("resolve-hostnames".into(), "yes".into());
        }
        w.sentinel(1, |group| group.replicas[0].address = at("redis-1.example.com:6379"));
    }),
    (FindingCode::LoopbackAnnounced, |w| {
        w.sentinel(1, |group| group.peers[0].address = at("127.0.0.1:26379"));
    }),
    (FindingCode::SentinelRight, |w| {
        let words = "NOPERM this user has no permissions to run the 'sentinel|reset' command";
        let refused = refused(&[("SENTINEL RESET", words)]);
        w.sentinels.get_mut(&sentinel_at(1)).expect("it").refused = Ok(refused);
    }),
    (FindingCode::SentinelVersion, |w| {
        w.sentinels.get_mut(&sentinel_at(1)).expect("it").version = Ok("6.2.1".to_owned());
    }),
    (FindingCode::DownAfterLong, |w| {
        w.every_sentinel(|group| group.settings.down_after_ms = 30_000)
    }),
    (FindingCode::RebootUnbounded, |w| {
        w.scene.policy.settings.reboot_down_after_ms = None;
    }),
    (FindingCode::FailoverTimeoutLong, |w| {
        w.every_sentinel(|group| group.settings.failover_timeout_ms = 180_000);
    }),
];

/// The writer is announced by name, and published as such.
fn named_everywhere(world: &mut World) {
    let named = "redis-0.example.com:6379";
    let agents = world.store().agents.clone();
    world.change(|scene| {
        let scene = scene.naming(&[0, 1, 2], named, 1);
        scene.instance(named, primary(1, None, &[B, C])).published(|record| {
            record.writer.as_mut().expect("a writer").address = at(named);
        })
    });
    world.store().agents = agents;
    world.scene.observed.instances.remove(&at(A));
    for replicas in [B, C] {
        world.scene.set_instance(replicas, replica(1, named));
    }
    let facts = world.instances.remove(&at(A)).expect("it");
    world.instances.insert(at(named), facts);
    for name in world.names.iter_mut().filter(|name| name.kind != NameKind::Replica) {
        let services = [("redis-0.example.com.".to_owned(), 6379)].into();
        name.answer = Ok(DnsAnswer { ips: BTreeSet::new(), services });
    }
}

const INSTANCE_FAULTS: &[(FindingCode, Fault)] = &[
    (FindingCode::SecondPrimary, |w| w.scene.set_instance(C, primary(2, None, &[]))),
    (FindingCode::NoReplicas, |w| w.scene.set_instance(A, primary(1, None, &[]))),
    (FindingCode::NobodyEligible, |w| [B, C].into_iter().for_each(|a| w.priority_zero(a))),
    (FindingCode::MinReplicasUnmet, |w| w.set_all("min-replicas-to-write", "3")),
    (FindingCode::PersistenceFails, |w| w.info(B, "rdb_last_bgsave_status", "err")),
    (FindingCode::InstanceSilent, |w| w.change(|scene| scene.dead(C))),
    (FindingCode::InstanceNotReady, |w| {
        let mut loading = replica(1, A);
        loading.not_ready = Some("LOADING Redis is loading the dataset in memory".to_owned());
        w.scene.set_instance(C, loading);
    }),
    (FindingCode::LinkDown, |w| {
        let mut cut = replica(1, A);
        cut.role = Role::Replica { of: at(A), link_up: false };
        w.scene.set_instance(C, cut);
    }),
    (FindingCode::TwoAddresses, |w| {
        let second = InstanceAnswer { run_id: run(C), ..replica(1, A) };
        w.scene.set_instance("10.9.0.3:6379", second);
    }),
    (FindingCode::LoopbackAddress, |w| {
        w.scene.observed.registered.insert(at("127.0.0.1:6379"));
    }),
    (FindingCode::ReplicaUnannounced, |w| {
        let hidden = InstanceAnswer { announced: false, ..replica(1, A) };
        w.scene.set_instance(C, hidden);
    }),
    (FindingCode::InstanceRight, |w| {
        let refused = refused(&[
            ("REPLICAOF", "NOPERM this user has no permissions to run the 'replicaof' command"),
            (
                "CLIENT PAUSE",
                "NOPERM this user has no permissions to run the 'client|pause' command",
            ),
        ]);
        w.instances.get_mut(&at(B)).expect("it").refused = Ok(refused);
    }),
    (FindingCode::CommandRenamed, |w| {
        let renamed = ["SLAVEOF", "CONFIG REWRITE"].map(str::to_owned).to_vec();
        w.instances.get_mut(&at(B)).expect("it").renamed = Ok(renamed);
    }),
    (FindingCode::WritesNotHeld, |w| {
        for (at, answer) in [(A, primary(1, None, &[B, C])), (B, replica(1, A)), (C, replica(1, A))]
        {
            w.scene.set_instance(at, InstanceAnswer { version: "6.0.16".to_owned(), ..answer });
        }
    }),
    (FindingCode::FollowsAnother, |w| w.scene.set_instance(C, replica(1, B))),
    (FindingCode::ReplicaLags, |w| {
        let late = |address: &str, lag_s| ConnectedReplica {
            address: at(address),
            online: true,
            offset: 900,
            lag_s,
        };
        let mut answer = primary(1, None, &[]);
        answer.role = Role::Primary { replicas: vec![late(B, 0), late(C, 40)] };
        w.scene.set_instance(A, answer);
    }),
    (FindingCode::MinReplicasNoSpare, |w| w.set_all("min-replicas-to-write", "2")),
    (FindingCode::MinReplicasDiffer, |w| w.set(B, "min-replicas-to-write", "0")),
    (FindingCode::PersistenceOff, |w| w.set(B, "save", "")),
    (FindingCode::AnnounceDiffers, |w| w.set(B, "replica-announce-ip", "192.168.0.2")),
    (FindingCode::ReplicaWritable, |w| w.set(B, "replica-read-only", "no")),
    (FindingCode::ReplicaBufferSmall, |w| w.info(A, "used_memory", "40000000000")),
    (FindingCode::MaxmemoryDiffers, |w| w.set(B, "maxmemory", "1000000")),
    (FindingCode::MaxmemoryPolicyDiffers, |w| w.set(B, "maxmemory-policy", "allkeys-lru")),
    (FindingCode::ConfigFileMissing, |w| w.info(B, "config_file", "")),
    (FindingCode::ClockSkew, |w| {
        w.instances.get_mut(&at(B)).expect("it").clock_ahead_ms = Ok(-90_000);
    }),
    (FindingCode::VersionsDiffer, |w| {
        let mut old = replica(1, A);
        old.version = "6.2.7".to_owned();
        w.scene.set_instance(C, old);
    }),
    (FindingCode::GroupOneZone, |w| {
        w.zones(&[(A, "eu-1a"), (B, "eu-1a"), (C, "eu-1a"), ("10.0.0.4:6379", "eu-1b")]);
    }),
    (FindingCode::PriorityZero, |w| w.priority_zero(C)),
    (FindingCode::ZoneOrder, |w| {
        w.zones(&[(A, "eu-1a"), (B, "eu-1b"), (C, "eu-1c")]);
        w.prefer(&["eu-1a", "eu-1b"]);
    }),
    (FindingCode::MinReplicasOff, |w| w.set_all("min-replicas-to-write", "0")),
    (FindingCode::DisklessDelay, |w| w.set(A, "repl-diskless-sync-delay", "60")),
    (FindingCode::InMaintenance, |w| {
        w.priority_zero(C);
        w.store().maintenance.as_mut().expect("a list").insert(at(C), 100);
    }),
    (FindingCode::DeathUnseen, |w| {
        let why = "/proc does not show process 4711".to_owned();
        w.instances.get_mut(&at(A)).expect("an instance").death_unseen = Some(why);
    }),
];

const CONSUL_FAULTS: &[(FindingCode, Fault)] = &[
    (FindingCode::ConsulLogin, |w| {
        let said = "cannot log in to Consul by auth method `nomad-workloads`: the JWT in /secrets/nomad_login.jwt \
                    expired 60 s ago";
        w.consul_login = Some(ConsulLoginFailure {
            said: said.to_owned(),
            mend: "what writes the file has not renewed it".to_owned(),
            named: "logged in by auth method nomad-workloads".to_owned(),
        });
    }),
    (FindingCode::ConsulTags, |w| w.agent().version = "1.19.1+ent".to_owned()),
    (FindingCode::ForeignRow, |w| {
        let theirs = row("redis-primary", "10.9.9.9:6379");
        w.rows().push(ConsulRow { node: "host-b".to_owned(), id: "theirs".to_owned(), ..theirs });
    }),
    (FindingCode::ForeignNode, |w| w.scene.observed.rows.as_mut().expect("rows").foreign = true),
    (FindingCode::AclRight, |w| w.deny(|right| right.on == "redis-primary")),
    (FindingCode::DnsToken, |w| {
        NameKind::ALL.into_iter().for_each(|kind| w.answers(kind, Ok(DnsAnswer::default())));
    }),
    (FindingCode::ConsulTxnAcl, |w| w.agent().version = "1.8.7".to_owned()),
    (FindingCode::MaxStale, |w| w.agent().max_stale = Some(SignedDuration::from_hours(87_600))),
    (FindingCode::ServiceTtl, |w| {
        let ttl = SignedDuration::from_secs(30);
        w.agent().service_ttl = [("*", SignedDuration::ZERO), ("redis*", ttl)]
            .map(|(name, ttl)| (name.to_owned(), ttl))
            .into();
    }),
    (FindingCode::DnsCache, |w| w.agent().use_cache = true),
    (FindingCode::OnlyPassing, |w| w.rows()[2].status = "warning".to_owned()),
    (FindingCode::AclSession, |w| w.deny(|right| right.kind == RightKind::Session)),
    (FindingCode::AclFleet, |w| w.deny(|right| right.kind == RightKind::Fleet)),
    (FindingCode::DnsTruncate, |w| {
        let agents = w.store().agents.clone();
        w.change(|scene| {
            scene.published(|record| {
                for last in 10..14 {
                    let address = at(&format!("10.0.0.{last}:6379"));
                    let role = PublishedRole::Replica;
                    record.instances.push(InstanceRecord { address, role });
                }
            })
        });
        w.store().agents = agents;
    }),
    (FindingCode::DnsWrong, |w| {
        w.answers(NameKind::Primary, Ok(answer(&["10.0.0.1", "10.9.9.9"])))
    }),
    (FindingCode::DnsTagWrong, |w| w.answers(NameKind::Tag, Ok(answer(&["10.0.0.1", "10.0.0.2"])))),
    (FindingCode::DnsReplicasWrong, |w| w.answers(NameKind::Replica, Ok(answer(&["10.0.0.1"])))),
    (FindingCode::DnsSilent, |w| {
        NameKind::ALL.into_iter().for_each(|kind| w.answers(kind, Err("refused".to_owned())));
    }),
];

const AGENT_FAULTS: &[(FindingCode, Fault)] = &[
    (FindingCode::NotOurs, |w| {
        w.problems = vec![ProblemCode::NotOurs.says("another group is published as redis")];
    }),
    (FindingCode::NoAgents, |w| w.store().agents.clear()),
    (FindingCode::NotHealthy, |w| {
        w.problems = vec![ProblemCode::NoWriter.says("there is no writer: it is down")];
    }),
    (FindingCode::KeyUnreadable, |w| w.store().config = Err("expected value".to_owned())),
    (FindingCode::NotifyFailed, |w| {
        let at = w.scene.view().now.wall - SignedDuration::from_mins(10);
        let mut log = NoticeLog::default();
        for (generation, word) in [(1, "delivered"), (2, "failed: HTTP 500")] {
            let (by, run) = ("agent-1".to_owned(), "1".to_owned());
            let targets = [("pager".to_owned(), word.to_owned())].into();
            let (id, event, notice) = (generation.to_string(), NoticeKind::Switch, None);
            log.note(Delivery { id, event, generation, at, by, run, notice, targets });
        }
        w.store().notices = Ok(log);
    }),
    (FindingCode::Paused, |w| w.pause()),
    (FindingCode::PauseUnaware, |w| {
        w.pause();
        w.store().pausing.remove("agent-1");
    }),
    (FindingCode::OneAgent, |w| {
        w.store().agents.remove("agent-1");
    }),
    (FindingCode::FewerWatchers, |w| {
        w.fleet = Some(FleetFacts { agents: fleet(2), wanted: 3 });
    }),
    (FindingCode::Flapping, |w| {
        let at = w.scene.view().now.wall - SignedDuration::from_mins(10);
        w.store().history = (0..4).map(|generation| change(generation, at)).collect();
    }),
    (FindingCode::NotStarted, |w| {
        let service = w.scene.policy.service.clone();
        w.store().agents.clear();
        w.store().state = StoredState::Absent;
        w.store().plain.clear();
        w.scene.observed.rows.as_mut().expect("rows").found = None;
        w.rows().retain(|row| row.service == service.as_str());
        NameKind::ALL.into_iter().for_each(|kind| w.answers(kind, Ok(DnsAnswer::default())));
    }),
    (FindingCode::AgentClock, |w| {
        let now = w.scene.view().now.wall;
        let (at, asks) = (now + SignedDuration::from_mins(10), false);
        let here = AgentClock { at, asks, ahead: BTreeMap::new() };
        let ahead = BTreeMap::from([("agent-0".to_owned(), 600_000)]);
        let clocks = &mut w.store().clocks;
        clocks.insert("agent-0".to_owned(), here);
        clocks.insert("agent-1".to_owned(), AgentClock { at: now, asks, ahead });
    }),
    (FindingCode::WordsDiffer, |w| {
        for (agent, tag) in [("agent-0", "blue"), ("agent-1", "green")] {
            let group = Words { tags: vec![tag.to_owned()], ..Words::default() };
            let words = AgentWords { group, ..AgentWords::default() };
            w.store().words.insert(agent.to_owned(), words);
        }
    }),
    (FindingCode::Unread, |w| w.consul = Err("Consul denies GET /v1/agent/self".to_owned())),
];

fn change(generation: u64, at: Timestamp) -> Change {
    let (from, to, level, epoch) = (None, None, None, None);
    let (why, by, timeline) = ("down".to_owned(), "agent-0".to_owned(), Timeline::default());
    Change { generation, at, from, to, level, epoch, why, by, timeline }
}

fn faults() -> impl Iterator<Item = (FindingCode, Fault)> {
    let all = [SENTINEL_FAULTS, INSTANCE_FAULTS, CONSUL_FAULTS, AGENT_FAULTS];
    all.into_iter().flatten().copied()
}

fn codes(findings: &[Finding]) -> Vec<FindingCode> {
    findings.iter().map(|finding| finding.code).collect()
}

/// Sentinels that do not know the group are no majority, and a fault each; replicas of a dead primary have no link.
fn besides(code: FindingCode) -> &'static [FindingCode] {
    match code {
        FindingCode::NoMajority => &[FindingCode::SentinelLacksGroup],
        FindingCode::ReplicasForgotten => &[FindingCode::LinkDown],
        FindingCode::PauseUnaware => &[FindingCode::Paused],
        _ => &[],
    }
}

#[test]
fn a_healthy_world_has_no_findings() {
    assert_eq!(World::healthy().findings(), []);
}

#[test]
fn each_fault_is_found_and_nothing_else_is() {
    let (mut said, mut wrong) = (String::new(), String::new());
    for (code, fault) in faults() {
        let mut world = World::healthy();
        fault(&mut world);
        let findings = world.findings();
        let wanted: Vec<FindingCode> = [&[code], besides(code)].concat();
        if codes(&findings) != wanted {
            let _ = writeln!(wrong, "{code}: {findings:?}");
            continue;
        }
        let Finding { severity, text, evidence, mend, .. } = &findings[0];
        assert!(!evidence.is_empty() && !mend.is_empty(), "{findings:#?}");
        let _ = writeln!(said, "{} {code}: {text}", severity.as_str());
        for seen in evidence {
            let _ = writeln!(said, "    {}: {}", seen.from, seen.read);
        }
        let _ = writeln!(said, "    do: {mend}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    insta::assert_snapshot!("findings", said);
}

/// A group that outlives no zone is found where an instance of another one could lead, with what lets it.
#[test]
fn a_group_in_one_zone_is_found_where_another_zone_is_there() {
    let (a, b) = ("eu-1a", "eu-1b");
    let found = |change: fn(&mut World), zones: &[(&str, &str)]| {
        let mut world = World::healthy();
        world.zones(zones);
        change(&mut world);
        let findings = world.findings();
        let mut found = findings.iter().filter(|one| one.code == FindingCode::GroupOneZone);
        found.next().map(|one| one.mend.clone())
    };
    let nothing: fn(&mut World) = |_| {};
    let never = |w: &mut World| w.priority_zero(C);
    let out = |w: &mut World| {
        w.store().maintenance.as_mut().expect("a list").insert(at(C), 100);
    };
    let dead = |w: &mut World| w.change(|scene| scene.dead(C));
    let spread = [(A, a), (B, a), (C, b)];
    let mends = [never, out, dead].map(|change| found(change, &spread).unwrap_or_default());
    assert_eq!(mends[0], "redis-cli -h 10.0.0.3 -p 6379 CONFIG SET replica-priority 100");
    assert_eq!(mends[1], "consul-redis maintenance off 10.0.0.3:6379");
    assert_eq!(mends[2], "start 10.0.0.3:6379, or a replica in another zone");
    let other = found(nothing, &[(A, a), (B, a), (C, a), ("10.0.0.4:6379", b)]);
    assert_eq!(other.as_deref(), Some("start 10.0.0.4:6379, or a replica in another zone"));
    // It is spread, there is no other zone, or it is not known where one stands that may lead.
    let well: [&[(&str, &str)]; 4] =
        [&spread, &[(A, a), (B, a), (C, a)], &[(B, a), (C, a)], &[(A, a), (B, a)]];
    for zones in well {
        assert_eq!(found(nothing, zones), None, "{zones:?}");
    }
    // Where none may be chosen there is a graver finding.
    let none = |w: &mut World| [B, C].into_iter().for_each(|at| w.priority_zero(at));
    assert_eq!(found(none, &spread), None);
}

/// Only what may lead, and is a replica, has a place in the order.
#[test]
fn a_priority_that_is_not_what_the_order_says_is_found() {
    let zones = [(A, "eu-1a"), (B, "eu-1b"), (C, "us-1")];
    let found = |zones: &[(&str, &str)], b: u64, c: u64| {
        let mut world = World::healthy();
        world.zones(zones);
        world.prefer(&["eu-1a", "eu-1b"]);
        world.set_priority(B, b);
        world.set_priority(C, c);
        let findings = world.findings();
        let found = findings.into_iter().filter(|one| one.code == FindingCode::ZoneOrder);
        found.map(|one| one.mend).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(found(&zones, 20, 100), "");
    assert_eq!(found(&zones, 0, 100), "");
    let set = |host: &str, to: u64| {
        format!("redis-cli -h {host} -p 6379 CONFIG SET replica-priority {to}")
    };
    assert_eq!(found(&zones, 100, 100), set("10.0.0.2", 20));
    assert_eq!(found(&zones, 20, 7), set("10.0.0.3", 100));
    assert!(found(&zones[..2], 20, 100).contains("start an agent beside it"));
}

/// What is wrong with several servers in the same way is said once, with all of them.
#[test]
fn a_finding_of_several_servers_is_one_with_all_their_evidence() {
    type Everywhere = (FindingCode, usize, fn(&mut World));
    let everywhere: [Everywhere; 8] = [
        (FindingCode::PersistenceOff, 3, |w| w.set_all("save", "")),
        (FindingCode::ReplicaWritable, 3, |w| w.set_all("replica-read-only", "no")),
        (FindingCode::DisklessDelay, 3, |w| w.set_all("repl-diskless-sync-delay", "60")),
        (FindingCode::PersistenceFails, 3, |w| {
            [A, B, C].into_iter().for_each(|at| w.info(at, "rdb_last_bgsave_status", "err"));
        }),
        (FindingCode::ConfigFileMissing, 3, |w| {
            [A, B, C].into_iter().for_each(|at| w.info(at, "config_file", ""));
        }),
        (FindingCode::ClockSkew, 3, |w| {
            w.instances.values_mut().for_each(|facts| facts.clock_ahead_ms = Ok(-7_000));
        }),
        (FindingCode::Tilt, 3, |w| {
            for reading in w.scene.observed.sentinels.values_mut() {
                reading.result.as_mut().expect("an answer").tilt = true;
            }
        }),
        (FindingCode::NamesNotResolved, 3, |w| {
            for facts in w.sentinels.values_mut() {
                facts.config = Ok(fields(&[("resolve-hostnames", "no")]));
            }
            w.every_sentinel(|group| group.replicas[0].address = at("r1.test:6379"));
        }),
    ];
    for (code, count, fault) in everywhere {
        let mut world = World::healthy();
        fault(&mut world);
        let findings = world.findings();
        let found: Vec<&Finding> = findings.iter().filter(|f| f.code == code).collect();
        let [one] = found[..] else { panic!("{code}: {findings:#?}") };
        assert_eq!(one.evidence.len(), count, "{one:#?}");
        let servers: BTreeSet<&str> = one.evidence.iter().map(|seen| seen.from.as_str()).collect();
        assert_eq!(servers.len(), count, "{one:#?}");
        assert!(servers.iter().all(|server| one.text.contains(server)), "{one:#?}");
        // A cure that is a command to one server is there for each.
        if one.mend.starts_with("redis-cli -h") {
            assert_eq!(one.mend.matches("redis-cli -h").count(), count, "{}", one.mend);
        }
    }
    // What differs is not the same.
    let mut world = World::healthy();
    world.set(B, "repl-diskless-sync-delay", "60");
    world.set(C, "repl-diskless-sync-delay", "90");
    assert_eq!(codes(&world.findings()), [FindingCode::DisklessDelay, FindingCode::DisklessDelay]);
}

/// One that is not announced is to have priority 0, and is then not said to have it by mistake.
/// The commands first, for Redis names the key only to a user that may run them.
#[test]
fn what_a_login_lacks_for_the_mark_is_a_finding_of_its_own() {
    let run =
        |command: &str| format!("NOPERM User x has no permissions to run the '{command}' command");
    let mends = |commands: &[(&str, &str)]| {
        let mut world = World::healthy();
        world.scene.policy.mark = Some("app:mark".parse().expect("a key"));
        world.instances.get_mut(&at(B)).expect("it").refused = Ok(refused(commands));
        let findings = world.findings();
        assert!(findings.iter().all(|found| found.code == FindingCode::InstanceRight));
        findings.into_iter().map(|found| found.mend).collect::<Vec<_>>()
    };
    let user = format!("redis-cli -h 10.0.0.2 -p 6379 ACL SETUSER {}", nothing_refused().user);
    let both = [("GETRANGE", run("getrange")), ("SET", run("set"))];
    let both = both.each_ref().map(|(command, words)| (*command, words.as_str()));
    assert_eq!(mends(&both), [format!("{user} +getrange +set")]);
    let key = "NOPERM No permissions to access a key";
    let old = "NOPERM this user has no permissions to access one of the keys used as arguments";
    assert_eq!(mends(&[("GETRANGE", key), ("SET", key)]), [format!("{user} ~app:mark")]);
    assert_eq!(mends(&[("GETRANGE", old), ("SET", both[1].1)]), [format!("{user} ~app:mark +set")]);
    let hold = run("client|pause");
    let two = mends(&[("CLIENT PAUSE", &hold), both[1]]);
    assert_eq!(two, [format!("{user} +client|pause"), format!("{user} +set")]);
}

#[test]
fn the_cure_of_an_unannounced_replica_is_no_finding() {
    let mut world = World::healthy();
    world.change(|scene| {
        let mut answer = replica(1, A);
        (answer.announced, answer.priority) = (false, Some(0));
        scene.instance(B, answer)
    });
    let found = codes(&world.findings());
    assert!(!found.contains(&FindingCode::PriorityZero), "{found:?}");
    assert!(!found.contains(&FindingCode::ReplicaUnannounced), "{found:?}");
}

#[test]
fn every_code_has_a_world_with_its_fault() {
    let tested = faults().map(|(code, _)| code).chain(crate::cluster_doctor::tested());
    let tested: Vec<FindingCode> = tested.collect();
    let distinct: BTreeSet<FindingCode> = tested.iter().copied().collect();
    assert_eq!(tested.len(), distinct.len(), "each once");
    assert_eq!(distinct, FindingCode::ALL.iter().copied().collect());
    assert!(tested.len() >= 40, "{}", tested.len());
}

/// What could not be read is said, once, and is no fault of anything else.
#[test]
fn what_cannot_be_read_raises_no_alarm() {
    let mut world = World::healthy();
    let denied = || "NOPERM".to_owned();
    for facts in world.sentinels.values_mut() {
        facts.config = Err(denied());
        facts.quorum = Err(denied());
        facts.version = Err(denied());
    }
    for facts in world.instances.values_mut() {
        facts.config = Err(denied());
        facts.info = Err(denied());
        facts.clock_ahead_ms = Err(denied());
    }
    world.consul = Err(denied());
    world.rows = Err(denied());
    world.rights = Err(denied());
    world.names.clear();
    let findings = world.findings();
    assert_eq!(codes(&findings), [FindingCode::Unread]);
    assert_eq!(findings[0].evidence.len(), 3 * 3 + 3 * 3 + 3);
    // A server that the operator did not name may not be there at all.
    let mut world = World::healthy();
    for name in &mut world.names {
        (name.named, name.answer) = (false, Err("refused".to_owned()));
    }
    assert_eq!(world.findings(), []);
    // And where there are no ACLs, there are no rights.
    world.rights = Ok(None);
    assert_eq!(world.findings(), []);
}

/// A policy is completed at once, and not by a right a run.
#[test]
fn all_rules_that_a_token_lacks_are_one_finding() {
    let mut world = World::healthy();
    world.deny(|right| matches!(right.kind, RightKind::Key | RightKind::Node));
    let findings = world.findings();
    let [lacks] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(lacks.code, FindingCode::AclRight);
    let rules = [
        "key_prefix \"redis-ha/redis/\" { policy = \"write\" }",
        "node \"redis-ha-redis\" { policy = \"write\" }",
        "node \"redis-ha-sentinels\" { policy = \"write\" }",
    ];
    assert_eq!(lacks.mend, format!("add to its policy:\n{}", rules.join("\n")));
    let read: Vec<&str> = lacks.evidence.iter().map(|seen| seen.read.as_str()).collect();
    assert_eq!(read, rules.map(|rule| format!("{rule}: denied")));
    assert!(lacks.text.contains(", the key redis-ha/redis/history, "), "{}", lacks.text);
}

/// What comes before the first agent is no fault, and `status` says nothing else of it.
#[test]
fn a_group_that_was_never_started_is_a_hint() {
    let (_, never) = faults().find(|(code, _)| *code == FindingCode::NotStarted).expect("a fault");
    let mut world = World::healthy();
    never(&mut world);
    let view = world.scene.view();
    world.problems = assess(&view, &layout(), &world.scene.decision()).problems;
    let problems: Vec<ProblemCode> = world.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(problems, [ProblemCode::NothingPublished, ProblemCode::NoAgents]);
    let findings = world.findings();
    assert_eq!(codes(&findings), [FindingCode::NotStarted]);
    assert_eq!(findings[0].severity, Severity::Hint);
    // An agent that runs and publishes nothing is another matter.
    world.store().agents.insert("agent-0".to_owned());
    world.problems.pop();
    assert_eq!(codes(&world.findings()), [FindingCode::NotHealthy, FindingCode::OneAgent]);
}

/// Which agents there are is known: a finding asks no riddle.
#[test]
fn settings_that_no_agent_may_keep_are_said_with_the_agents() {
    let mend = |change: fn(&mut StoreAnswer)| {
        let mut world = World::healthy();
        world.store().config.as_mut().expect("settings").down_after_ms = Some(5_000);
        change(world.store());
        let findings = world.findings();
        let found = findings.iter().find(|finding| finding.code == FindingCode::SettingsNotKept);
        found.expect("settings that are not kept").mend.clone()
    };
    assert!(mend(|_| ()).starts_with("an agent with tell_sentinels"));
    assert!(mend(|store| store.agents.clear()).starts_with("start an agent"));
    let all = mend(|store| store.publishing_only = store.agents.clone());
    assert!(all.starts_with("all agents have manage = false (agent-0, agent-1)"), "{all}");
    let one = mend(|store| {
        store.publishing_only.insert("agent-0".to_owned());
    });
    assert!(one.starts_with("an agent with tell_sentinels"), "{one}");
}

/// A primary that all Sentinels lost, and that answers, is not to be started again.
#[test]
fn an_instance_that_answers_is_no_stale_peer_however_many_call_it_down() {
    let mut world = World::healthy();
    world.change(|scene| scene.down(&[0, 1, 2], DownOpinion::Objective));
    world.every_sentinel(|group| group.replicas.iter_mut().for_each(|r| r.s_down = true));
    let findings = world.findings();
    let [down] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(down.code, FindingCode::CalledDown);
    assert!([A, B, C].iter().all(|at| down.text.contains(at)), "{}", down.text);
    // One that loads, or cannot save, has a finding of its own.
    world.change(|scene| {
        let loading =
            |of| InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..replica(1, of) };
        scene.instance(B, loading(A)).instance(C, loading(A))
    });
    let findings = world.findings();
    let down = findings.iter().find(|finding| finding.code == FindingCode::CalledDown);
    assert!(!down.expect("the primary").text.contains(B), "{findings:#?}");
}

/// The command has the service's name, too.
#[test]
fn agents_are_started_for_the_service_that_was_published() {
    let mut world = World::healthy();
    world.store().agents.clear();
    assert_eq!(world.findings()[0].mend, "consul-redis agent --group redis");
    let service = "cache".parse::<ServiceName>().expect("a name");
    world.change(|scene| scene.published(|record| record.service = service));
    let findings = world.findings();
    let found = findings.iter().find(|finding| finding.code == FindingCode::NoAgents);
    assert_eq!(found.expect("no agents").mend, "consul-redis agent --group redis=cache");
}

/// An operator who moves the primary on purpose, again and again, has done it.
#[test]
fn planned_moves_are_no_flapping() {
    let mut world = World::healthy();
    let at = world.scene.view().now.wall - SignedDuration::from_mins(10);
    let moved = |generation| Change {
        from: Some(crate::scene::at(A)),
        to: Some(crate::scene::at(B)),
        ..change(generation, at)
    };
    world.store().history = (0..12).map(moved).collect();
    assert_eq!(world.findings(), []);
    world.store().history = (0..3).map(|generation| change(generation, at)).collect();
    assert_eq!(world.findings(), []);
}

/// At 1100 ms and less Sentinel itself is at fault; up to 1500 a new primary that is slow for a moment is.
#[test]
fn a_short_down_after_is_reported_with_its_reason() {
    let with = |ms: u64| {
        let mut world = World::healthy();
        world.every_sentinel(|group| group.settings.down_after_ms = ms);
        let findings = world.findings();
        findings.iter().map(|finding| (finding.code, finding.text.clone())).collect::<Vec<_>>()
    };
    for (ms, why) in [
        (100, "replaces a healthy new primary by itself"),
        (1_100, "replaces a healthy new primary by itself"),
        (1_101, "slow for a moment"),
        (1_499, "slow for a moment"),
    ] {
        let found = with(ms);
        let [(code, text)] = &found[..] else { panic!("{ms}: {found:?}") };
        assert!(*code == FindingCode::DownAfterShort && text.contains(why), "{ms}: {text}");
        assert_eq!(short_down_after(Some(ms)), Some(text.as_str()), "check-config says the same");
    }
    assert_eq!(with(1_500), []);
    assert_eq!(short_down_after(None), None);
}

/// `status` and `doctor` look at the same world: what both see is said once, and what `doctor` has no check for is said.
#[test]
fn a_problem_is_a_finding_where_no_other_finding_explains_it() {
    let mut explained = 0;
    for (code, fault) in faults() {
        let problems = code.explains().iter().map(|problem| problem.says(problem.as_str()));
        let problems: Vec<Problem> = problems.collect();
        explained += problems.len();
        let mut world = World::healthy();
        fault(&mut world);
        let without = codes(&world.findings());
        world.problems.extend(problems.clone());
        assert_eq!(codes(&world.findings()), without, "{code}");
        let mut world = World::healthy();
        world.problems.clone_from(&problems);
        assert_eq!(codes(&world.findings()), vec![FindingCode::NotHealthy; problems.len()]);
    }
    assert!(explained > 20, "{explained}");
}

#[test]
fn the_worst_comes_first() {
    let mut world = World::healthy();
    world.set_all("min-replicas-to-write", "0");
    world.set(B, "save", "");
    world.scene.set_instance(C, primary(2, None, &[]));
    let wanted =
        [FindingCode::SecondPrimary, FindingCode::PersistenceOff, FindingCode::MinReplicasOff];
    assert_eq!(codes(&world.findings()), wanted);
}
