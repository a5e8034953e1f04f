//! What strangers write into Consul, and say for a node or a Sentinel: whatever it is, it is read or refused, and
//! decided upon, without a panic or a number that does not fit.

use consul_redis_core::cluster::record::{ClusterStore, StoredCluster};
use consul_redis_core::cluster::table::Table;
use consul_redis_core::duty::action::Action;
use consul_redis_core::identity::address::Address;
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, Role, SentinelGroup, StoredState,
};
use consul_redis_core::published::pause::PauseKey;
use consul_redis_core::published::record::{decode, encode};
use consul_redis_core::published::store::{Key, Layout, StoreAnswer};
use consul_redis_core::shown::status::assess;
use consul_redis_core::time::Mono;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::mutations::{hostile, is_showable};
use crate::properties::scene;
use crate::scene::{C, NOW, Scene, at, layout};

/// What `CLUSTER NODES` answers: six nodes, a slot that moves, a name.
const NODES: &str = "\
07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,host4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,host2 master - 0 1426238316232 2 connected 5461-10922
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 127.0.0.1:30003@31003,host3 master - 0 1426238318243 3 connected 10923-16383
6ec23923021cf3ffec47632106199cb7f496ce01 127.0.0.1:30005@31005 slave,fail? 67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 0 1426238316232 5 disconnected
824fe116063bc5fcf9f4ffd895bc17aee7731ac3 :0@0 slave,noaddr 292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 0 1426238317741 6 connected
e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 127.0.0.1:30001@31001,host1 myself,master - 0 0 1 connected 0-5460 [77->-67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1] [93-<-292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f]
";

/// The keys of a group that are JSON, but for `state`.
const KEYS: [(&str, &str); 10] = [
    (
        "history",
        r#"[{"generation":7,"at":"2026-11-21T00:00:00Z","from":null,"to":"10.0.0.1:6379","level":"quorum","epoch":3,"why":"a majority","by":"agent-0","timeline":{"decided":"2026-11-21T00:00:00Z"}}]"#,
    ),
    ("config", r#"{"quorum":2,"down_after_ms":5000}"#),
    ("maintenance", r#"{"10.0.0.2:6379":100}"#),
    (
        "pause",
        r#"{"since":"2026-11-21T00:00:00Z","until":"2026-11-21T01:00:00Z","by":"an operator","why":"an upgrade"}"#,
    ),
    ("notices", r#"{"v":1,"deliveries":[],"problems":{}}"#),
    ("move", "2026-11-21T00:00:00Z"),
    (
        "agents/agent-0",
        r#"{"version":"0.1.0","sentinels":["10.0.1.1:26379"],"clock":{"at":"2026-11-21T00:00:00Z","ahead":{"agent-1":900}},"manage":true,"pauses":true,"notifies":true}"#,
    ),
    (
        "histories/10.0.0.1:6379/seen",
        r#"{"of":"1","led":true,"offset":1000,"run_id":"run","config_file":"/data/redis.conf"}"#,
    ),
    ("histories/2", r#"{"of":"1","led":false}"#),
    ("refused/agent-0/note", r#"{"instance":"10.0.0.1:6379","run_id":"run"}"#),
];

const CLUSTER: &str = r#"{"v":1,"cluster":"c","service":"c","prefix":"redis-ha","generation":3,"by":"a","since":"2026-11-21T00:00:00Z","why":"a node joined","voters":["07c37dfeb235213a872192d90877d0cd55635b91"],"shards":{},"next_shard":4,"nodes":{}}"#;

fn key(layout: &Layout, name: &str, value: Vec<u8>) -> Key {
    let key = format!("{}{name}", layout.root());
    Key { key, value, modify_index: u64::MAX, locked: true }
}

fn state() -> String {
    encode(Scene::healthy(3).observed.record().expect("a record"))
}

/// The numbers that servers give, as far as they can go.
fn number() -> impl Strategy<Value = u64> {
    select(vec![
        0,
        1,
        2,
        i64::MAX as u64 - 1,
        i64::MAX as u64,
        u64::MAX - 8,
        u64::MAX - 1,
        u64::MAX,
    ])
}

/// Any scene, and in the place of its numbers such as no honest server gives.
fn strange() -> impl Strategy<Value = Scene> {
    (scene(), vec(number(), 24), vec(any::<bool>(), 24)).prop_map(|(mut scene, numbers, set)| {
        let mut drawn = numbers.into_iter().zip(set).cycle();
        let mut change = |number: &mut u64| {
            if let Some((drawn, true)) = drawn.next() {
                *number = drawn;
            }
        };
        for reading in scene.observed.sentinels.values_mut() {
            let Ok(answer) = &mut reading.result else { continue };
            let Some(group) = &mut answer.group else { continue };
            change(&mut group.config_epoch);
            let settings = &mut group.settings;
            for setting in [
                &mut settings.quorum,
                &mut settings.down_after_ms,
                &mut settings.failover_timeout_ms,
                &mut settings.parallel_syncs,
            ] {
                change(setting);
            }
            let mut others = group.other_sentinels as u64;
            change(&mut others);
            group.other_sentinels = usize::try_from(others).unwrap_or(usize::MAX);
            let votes = group.peers.iter_mut().filter_map(|peer| peer.voted.as_mut());
            votes.for_each(|(_, epoch)| change(epoch));
            let priorities = group.replicas.iter_mut().filter_map(|r| r.priority.as_mut());
            priorities.for_each(&mut change);
        }
        for reading in scene.observed.instances.values_mut() {
            let Ok(answer) = &mut reading.result else { continue };
            let mut forked = answer.forked_at.unwrap_or_default();
            for number in [&mut answer.offset, &mut answer.keys, &mut answer.uptime_s, &mut forked]
            {
                change(number);
            }
            answer.forked_at = Some(forked);
            if let Role::Primary { replicas } = &mut answer.role {
                for replica in replicas {
                    change(&mut replica.offset);
                    change(&mut replica.lag_s);
                }
            }
        }
        if let Some(mut record) = scene.observed.record().cloned() {
            change(&mut record.generation);
            change(&mut record.evidence.confirmed_epoch);
            let mut known = record.evidence.known as u64;
            change(&mut known);
            record.evidence.known = usize::try_from(known).unwrap_or(usize::MAX);
            if let Some(store) = &mut scene.observed.store {
                store.state = StoredState::Known(Box::new(record));
            }
        }
        scene
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_table_is_read_or_refused(text in hostile(NODES)) {
        let text = String::from_utf8_lossy(&text);
        match Table::parse(&text) {
            Ok(table) => {
                prop_assert!(table.rows.contains_key(&table.own));
                prop_assert!(table.own_row().is_some());
            }
            // Its words are made harmless where they are read: a line of it is no longer than a line.
            Err(why) => prop_assert!(why.len() < 2_000, "{why}"),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_or_refused(text in hostile(&state())) {
        match decode(&text) {
            Ok(record) => prop_assert_eq!(decode(encode(&record).as_bytes()), Ok(record)),
            Err(why) => prop_assert!(why.len() < 2_000, "{why}"),
        }
    }

    #[test]
    fn keys_that_cannot_be_read_cost_no_other_key(
        which in 0..KEYS.len(),
        text in (0..KEYS.len()).prop_flat_map(|n| hostile(KEYS[n].1)),
    ) {
        let layout = layout();
        let whole = state();
        let keys = [key(&layout, KEYS[which].0, text), key(&layout, "state", whole.clone().into())];
        let answer = StoreAnswer::from_keys(&layout, Mono(NOW), keys);
        prop_assert_eq!(answer.record().map(encode), Some(whole));
        let pause = matches!(answer.pause, PauseKey::Absent) || KEYS[which].0 == "pause";
        prop_assert!(pause);
        for why in [answer.maintenance.as_ref().err(), answer.config.as_ref().err(), answer.notices.as_ref().err()] {
            prop_assert!(why.is_none_or(|why| why.len() < 2_000));
        }
        // What is read of it is decided upon.
        let mut scene = Scene::healthy(3);
        let store = scene.observed.store.take().expect("a store");
        scene.observed.store = Some(StoreAnswer {
            asked: store.asked, state_index: store.state_index, plain: store.plain, ..answer
        });
        scene.decision();
    }

    #[test]
    fn a_clusters_record_is_read_or_refused(text in hostile(CLUSTER), name in hostile("nodes/10.0.0.1:6379")) {
        let layout = layout();
        let name = String::from_utf8_lossy(&name).into_owned();
        let keys = [key(&layout, "state", text.clone()), key(&layout, &name, text)];
        if let StoredCluster::Unreadable(why) = ClusterStore::from_keys(&layout, Mono(NOW), keys).state {
            prop_assert!(why.len() < 2_000, "{why}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_was_read(text in hostile("redis-0.redis:6379")) {
        if let Ok(address) = String::from_utf8_lossy(&text).parse::<Address>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address.clone()));
            prop_assert!(is_showable(&address.to_string()) && address.to_string().len() < 300);
        }
    }

    #[test]
    fn numbers_that_no_honest_server_gives_are_decided_upon(scene in strange()) {
        let decision = scene.decision();
        prop_assert!(decision.actions().len() < 100);
        assess(&scene.view(), &layout(), &decision);
    }
}

/// A record that is cut anywhere, as by a proxy that bounds what it passes on.
#[test]
fn half_a_record_is_none() {
    let whole = state();
    for len in 0..whole.len() {
        assert!(decode(whole.get(..len).expect("ASCII").as_bytes()).is_err(), "{len}");
    }
    // Two writers are no record, whichever is the first.
    let twice = whole.replacen("\"writer\":", "\"writer\":null,\"writer\":", 1);
    assert!(decode(twice.as_bytes()).expect_err("two").contains("duplicate field `writer`"));
    // What quotes all of it is cut.
    let long = whole.replacen("\"quorum\"", &format!("\"{}\"", "q".repeat(400_000)), 1);
    let why = decode(long.as_bytes()).expect_err("no level");
    assert!(why.len() < 1_000 && why.ends_with("bytes)"), "{why}");
}

/// What one Sentinel may say.
type Lie = fn(&mut SentinelGroup);

/// One Sentinel of three says what it likes: the other two name the writer.
#[test]
fn one_hostile_sentinel_moves_no_name() {
    let lies: [(&str, Lie); 7] = [
        ("another primary, at the highest epoch", |group| {
            (group.primary, group.monitored) = (at(C), at(C));
            group.config_epoch = u64::MAX;
        }),
        ("the highest epoch", |group| group.config_epoch = u64::MAX),
        ("all is down", |group| {
            group.down = DownOpinion::Objective;
            group.replicas.iter_mut().for_each(|replica| replica.s_down = true);
        }),
        ("a failover of its own", |group| {
            group.failover = Some(FailoverPhase::WaitPromotion);
            group.replicas.iter_mut().for_each(|replica| replica.promoted = true);
            group.config_epoch = u64::MAX;
        }),
        ("hundreds of others", |group| group.other_sentinels = 256),
        ("more than there are numbers", |group| group.other_sentinels = usize::MAX),
        ("no others", |group| (group.other_sentinels, group.peers) = (0, Vec::new())),
    ];
    let writer = Scene::healthy(3).observed.record().and_then(|r| r.writer_address().cloned());
    for (what, lie) in lies {
        for ms in [0, 5_000, 60_000] {
            let scene = Scene::healthy(3).sentinel(2, lie).lasting(ms);
            let decision = scene.decision();
            for action in decision.actions() {
                if let Action::Write(write) = &action
                    && let Some(record) = &write.record
                {
                    assert_eq!(record.writer_address(), writer.as_ref(), "{what}: {}", record.why);
                }
                let harms = matches!(
                    action,
                    Action::Fence(_) | Action::Hold(_) | Action::Promote(_) | Action::Detach(_)
                );
                assert!(!harms, "{what}: {action:?}");
            }
        }
    }
}
