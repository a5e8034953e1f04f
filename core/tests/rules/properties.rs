//! What must hold in any scene at all, however contradictory.

use std::collections::BTreeSet;

use consul_redis_core::action::{Action, Purpose};
use consul_redis_core::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, Role, SentinelReplica,
};
use consul_redis_core::projection::{Op, Rows, TXN_OPS_MAX, project, row_changes};
use consul_redis_core::publication::Verdict;
use consul_redis_core::record::{InstanceRecord, Level, PublishedRole, Record};
use proptest::prelude::*;

use crate::scene::{A, B, C, Scene, at, layout, primary, replica};

const NAMES: [&str; 3] = [A, B, C];

fn instance() -> impl Strategy<Value = Option<InstanceAnswer>> {
    let ids = (0..4_u64, proptest::option::of(0..4_u64));
    let of = 0..3_usize;
    prop_oneof![
        Just(None),
        (ids, proptest::sample::subsequence(NAMES.to_vec(), 0..=3))
            .prop_map(|((id, id2), replicas)| Some(primary(id, id2, &replicas))),
        (0..4_u64, of, any::<bool>()).prop_map(|(id, of, link_up)| {
            let mut answer = replica(id, NAMES[of]);
            answer.role = Role::Replica { of: at(NAMES[of]), link_up };
            Some(answer)
        }),
        (0..4_u64).prop_map(|id| {
            let mut answer = primary(id, None, &[]);
            answer.not_ready = Some("LOADING".to_owned());
            Some(answer)
        }),
    ]
}

#[derive(Debug, Clone)]
struct Said {
    silent: bool,
    blank: bool,
    tilt: bool,
    primary: usize,
    monitored: usize,
    epoch: u64,
    down: u8,
    failover: Option<u8>,
    forced: bool,
    chosen: Option<usize>,
    others: usize,
    down_replicas: Vec<bool>,
}

fn said() -> impl Strategy<Value = Said> {
    (
        (prop::bool::weighted(0.15), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        (0..3_usize, 0..3_usize, 0..4_u64),
        (0..3_u8, proptest::option::weighted(0.4, 0..6_u8), any::<bool>()),
        (proptest::option::of(0..3_usize), 0..5_usize, prop::collection::vec(any::<bool>(), 3)),
    )
        .prop_map(|((silent, blank, tilt), (primary, monitored, epoch), rest, more)| Said {
            silent,
            blank,
            tilt,
            primary,
            monitored,
            epoch,
            down: rest.0,
            failover: rest.1,
            forced: rest.2,
            chosen: more.0,
            others: more.1,
            down_replicas: more.2,
        })
}

fn phase(number: u8) -> FailoverPhase {
    [
        FailoverPhase::WaitStart,
        FailoverPhase::SelectReplica,
        FailoverPhase::SendReplicaofNoOne,
        FailoverPhase::WaitPromotion,
        FailoverPhase::ReconfReplicas,
        FailoverPhase::UpdateConfig,
    ][usize::from(number)]
}

fn apply(scene: Scene, index: usize, said: &Said) -> Scene {
    if said.silent {
        return scene.silent(index);
    }
    let scene = scene.answer(index, |answer| answer.tilt = said.tilt);
    if said.blank {
        return scene.answer(index, |answer| answer.group = None);
    }
    scene.sentinel(index, |group| {
        group.primary = at(NAMES[said.primary]);
        group.monitored = at(NAMES[said.monitored]);
        group.config_epoch = said.epoch;
        group.down = [DownOpinion::Up, DownOpinion::Subjective, DownOpinion::Objective]
            [usize::from(said.down)];
        group.failover = said.failover.map(phase);
        group.failover_forced = said.forced;
        group.other_sentinels = said.others;
        group.replicas = NAMES
            .iter()
            .enumerate()
            .map(|(at_index, name)| SentinelReplica {
                address: at(name),
                s_down: said.down_replicas[at_index],
                promoted: said.chosen == Some(at_index),
                priority: None,
            })
            .collect();
    })
}

prop_compose! {
    /// Any scene: whatever is published, whatever anybody says, however long it has lasted.
    fn scene()(
        published in 0..3_u8,
        level in any::<bool>(),
        sentinels in prop::collection::vec(said(), 3),
        instances in prop::collection::vec(instance(), 3),
        age_ms in prop_oneof![Just(100_u64), Just(3_000), Just(20_000)],
        lasting_ms in prop_oneof![Just(0_u64), Just(5_000), Just(40_000)],
    ) -> Scene {
        let mut scene = match published {
            0 => Scene::unpublished(3),
            1 => Scene::healthy(3),
            _ => Scene::healthy(3).promoted(B, age_ms),
        };
        scene.policy.publish = if level { Level::Promotion } else { Level::Quorum };
        for (index, said) in sentinels.iter().enumerate() {
            scene = apply(scene, index, said);
        }
        for (name, answer) in NAMES.iter().zip(instances) {
            scene = match answer {
                Some(answer) => scene.instance(name, answer),
                None => scene.dead(name),
            };
        }
        scene.lasting(lasting_ms)
    }
}

fn says_primary(scene: &Scene, name: &consul_redis_core::address::Address) -> bool {
    let answer =
        scene.observed.instances.get(name).and_then(|reading| reading.result.as_ref().ok());
    answer.is_some_and(|answer| {
        matches!(answer.role, Role::Primary { .. }) && answer.not_ready.is_none()
    })
}

/// Carries a write out, as Consul would.
fn commit(rows: &mut Option<Rows>, ops: &[Op]) {
    for op in ops {
        match op {
            Op::NodeSet { row, .. } => match rows {
                Some(rows) => rows.node = row.clone(),
                None => {
                    *rows = Some(Rows {
                        node: row.clone(),
                        services: Default::default(),
                        checks: Default::default(),
                    });
                }
            },
            Op::ServiceSet { id, row, .. } => {
                let rows = rows.as_mut().expect("the node comes first");
                rows.services.insert(id.clone(), row.clone());
            }
            Op::ServiceDelete { id, .. } => {
                if let Some(rows) = rows {
                    rows.services.remove(id);
                    rows.checks.retain(|_, check| &check.service_id != id);
                }
            }
            Op::CheckSet { id, row, .. } => {
                let rows = rows.as_mut().expect("the node comes first");
                assert!(rows.services.contains_key(&row.service_id), "a check without its service");
                rows.checks.insert(id.clone(), row.clone());
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_published_writer_has_said_that_it_is_the_primary(scene in scene()) {
        if let Verdict::Publish { to, .. } = scene.verdict() {
            prop_assert!(says_primary(&scene, &to.address));
        }
    }

    #[test]
    fn the_same_scene_gives_the_same_decision(scene in scene()) {
        prop_assert_eq!(scene.decision(), scene.decision());
    }

    #[test]
    fn every_write_is_one_transaction_with_one_writer_and_one_story(scene in scene()) {
        for action in scene.decision().actions() {
            let Action::Write(write) = action else { continue };
            prop_assert!(write.ops.len() <= TXN_OPS_MAX);
            let Some(record) = &write.record else { continue };
            let fence = matches!(&write.ops[0], Op::KeyCas { index, .. } if *index == write.base_index);
            prop_assert!(fence, "the fence comes first");
            let mut rows = scene.observed.rows.as_ref().and_then(|rows| rows.found.clone());
            commit(&mut rows, &write.ops);
            prop_assert_eq!(rows.as_ref(), Some(&project(record).rows));
            let primaries = record.instances.iter().filter(|i| i.role == PublishedRole::Primary);
            prop_assert_eq!(
                primaries.map(|i| &i.address).collect::<Vec<_>>(),
                record.writer_address().into_iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_generation_begins_exactly_when_the_writer_changes(scene in scene()) {
        let before = scene.observed.record().cloned();
        for action in scene.decision().actions() {
            let Action::Write(write) = action else { continue };
            let Some(record) = &write.record else { continue };
            let old = before.as_ref().map_or(0, |record| record.generation);
            let moved = before.as_ref().and_then(Record::writer_address) != record.writer_address();
            prop_assert_eq!(record.generation > old, moved);
            prop_assert_eq!(matches!(write.purpose, Purpose::Publish | Purpose::Withdraw), moved);
        }
    }

    #[test]
    fn a_minority_cannot_move_a_writer_that_the_majority_names(
        liar in said(),
        instances in prop::collection::vec(instance(), 2),
    ) {
        // All that a single Sentinel can do is to know of Sentinels that nobody else knows; and an
        // elected leader is a majority's choice, whoever reports it.
        let liar = Said { others: liar.others.min(2), failover: None, ..liar };
        let mut scene = apply(Scene::healthy(3), 0, &liar).at_level(Level::Quorum);
        for (name, answer) in [B, C].iter().zip(instances) {
            if let Some(answer) = answer {
                scene = scene.instance(name, answer);
            }
        }
        let moved = matches!(
            scene.lasting(60_000).verdict(),
            Verdict::Publish { .. } | Verdict::Withdraw(_)
        );
        prop_assert!(!moved);
    }

    #[test]
    fn silence_changes_nothing(scene in scene()) {
        let scene = (0..3).fold(scene, Scene::silent);
        let scene = NAMES.iter().fold(scene, |scene, name| scene.dead(name));
        let quiet = scene.decision().actions().iter().all(
            |action| matches!(action, Action::Write(write) if write.purpose == Purpose::Repair),
        );
        prop_assert!(quiet, "{:?}", scene.decision());
    }

    #[test]
    fn a_decision_once_carried_out_is_not_made_again(scene in scene()) {
        let mut scene = scene;
        for _ in 0..4 {
            let Some(write) = scene.decision().write else { return Ok(()) };
            let Some(record) = &write.record else { return Ok(()) };
            scene.show(record);
            scene.memory.generation_max = record.generation;
            scene = scene.remembering();
        }
        prop_assert!(false, "it goes on for ever: {:?}", scene.decision());
    }
}

fn record_of(instances: &[(u8, u8)], writer: Option<u8>) -> Record {
    let mut record = Scene::healthy(3).observed.record().expect("a record").clone();
    let name = |index: u8| at(&format!("10.0.2.{}:6379", index + 1));
    let role = |number: u8| {
        [PublishedRole::Replica, PublishedRole::OutOfSync, PublishedRole::Down][usize::from(number)]
    };
    let unique: BTreeSet<u8> = instances.iter().map(|(index, _)| *index).collect();
    record.writer = writer.map(|index| consul_redis_core::record::Writer {
        address: name(index),
        replid: consul_redis_core::observed::ReplId("1".to_owned()),
    });
    record.instances = unique
        .into_iter()
        .filter(|index| Some(*index) != writer)
        .map(|index| {
            let found = instances.iter().find(|(i, _)| *i == index).map_or(0, |(_, role)| *role);
            InstanceRecord { address: name(index), role: role(found) }
        })
        .collect();
    if let Some(index) = writer {
        record
            .instances
            .push(InstanceRecord { address: name(index), role: PublishedRole::Primary });
    }
    record.instances.sort();
    record
}

proptest! {
    #[test]
    fn changes_lead_from_any_rows_to_any_others(
        from in prop::collection::vec((0..9_u8, 0..3_u8), 0..9),
        from_writer in proptest::option::of(0..9_u8),
        to in prop::collection::vec((0..9_u8, 0..3_u8), 0..9),
        to_writer in proptest::option::of(0..9_u8),
    ) {
        let (old, new) = (project(&record_of(&from, from_writer)), project(&record_of(&to, to_writer)));
        let mut rows = Some(old.rows.clone());
        commit(&mut rows, &row_changes("node", Some(&old.rows), &new.rows));
        prop_assert_eq!(rows, Some(new.rows.clone()));
        let mut fresh = None;
        commit(&mut fresh, &row_changes("node", None, &new.rows));
        prop_assert_eq!(fresh, Some(new.rows));
    }
}

#[test]
fn a_group_of_a_hundred_is_published_in_several_transactions_the_writer_in_the_first() {
    let names: Vec<String> = (1..=100).map(|n| format!("10.0.3.{n}:6379")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = Scene::unpublished(3).instance(A, primary(1, None, &all));
    for index in 0..3 {
        scene = scene.sentinel(index, |group| {
            group.replicas = names
                .iter()
                .map(|name| SentinelReplica {
                    address: at(name),
                    s_down: false,
                    promoted: false,
                    priority: None,
                })
                .collect();
        });
    }
    for name in &names {
        scene = scene.instance(name, replica(1, A));
    }
    let mut writes = 0;
    while let Some(write) = scene.decision().write {
        assert!(write.ops.len() <= TXN_OPS_MAX, "{}", write.ops.len());
        let record = write.record.clone().expect("a record");
        assert_eq!(record.writer_address(), Some(&at(A)));
        scene.show(&record);
        scene.memory.generation_max = record.generation;
        writes += 1;
        assert!(writes < 20, "it goes on for ever");
    }
    let record = scene.observed.record().expect("a record");
    assert_eq!(record.replicas().count(), 100);
    assert!(writes >= 5, "{writes}");
    assert_eq!(layout().node(), "redis-ha-redis");
}
