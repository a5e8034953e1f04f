//! Which instances have a row, and what each is published as.

use consul_redis_core::duty::action::Purpose;
use consul_redis_core::duty::switchover::prepare;
use consul_redis_core::known::memory::Condition;
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, Role, SentinelReplica,
};
use consul_redis_core::policy::UNNAMED_AFTER_MS;
use consul_redis_core::published::projection::Op;
use consul_redis_core::published::record::{Basis, InstanceRecord, PublishedRole, Record};
use consul_redis_core::shown::health::{is_ready, serves};
use consul_redis_core::shown::status::{GroupStatus, ProblemCode, assess};
use consul_redis_core::situation::relocated::stranded;
use consul_redis_core::time::Mono;
use jiff::Timestamp;

use crate::scene::{A, ASKED, B, C, NOW, Scene, at, layout, primary, promoted_b, replica, run};

const D: &str = "10.0.0.4:6379";

/// A fourth instance that all Sentinels list.
fn joined(scene: Scene) -> Scene {
    (0..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| {
            group.replicas.push(SentinelReplica {
                address: at(D),
                s_down: false,
                promoted: false,
                priority: None,
            });
        })
    })
}

#[test]
fn a_healthy_group_needs_no_write() {
    let decision = Scene::healthy(3).decision();
    assert!(decision.actions().is_empty(), "{decision:?}");
    assert!(decision.sound);
}

#[test]
fn a_new_replica_is_published_once_the_writer_says_it_is_in_sync() {
    let scene = joined(Scene::healthy(3)).instance(D, replica(1, A));
    assert_eq!(scene.rows()[3], format!("{D} out of sync"));
    let scene = scene.instance(A, primary(1, None, &[B, C, D]));
    assert_eq!(scene.rows()[3], format!("{D} replica"));
    assert_eq!(scene.write().purpose, Purpose::InstanceRows);
}

#[test]
fn a_replica_that_lags_leaves_after_the_time_it_was_given() {
    let mut late = primary(1, None, &[B, C]);
    if let Role::Primary { replicas } = &mut late.role {
        replicas[1].lag_s = 11;
    }
    let scene = Scene::healthy(3).instance(A, late);
    assert!(scene.decision().actions().is_empty(), "it has ten seconds");
    let scene = scene.lasting(10_000);
    assert_eq!(
        scene.rows(),
        [format!("{A} primary"), format!("{B} replica"), format!("{C} out of sync")]
    );
}

#[test]
fn a_replica_with_a_broken_link_leaves_after_the_time_it_was_given() {
    let mut alone = replica(1, A);
    alone.role = Role::Replica { of: at(A), link_up: false };
    let scene =
        Scene::healthy(3).instance(C, alone).instance(A, primary(1, None, &[B])).lasting(10_000);
    assert_eq!(scene.rows()[2], format!("{C} out of sync"));
}

#[test]
fn replicas_stay_while_there_is_no_writer_to_ask() {
    let scene = Scene::healthy(3).dead(A).lasting(60_000);
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
}

#[test]
fn an_agent_that_cannot_reach_a_replica_has_no_say_about_it() {
    let scene = Scene::healthy(3).dead(B).lasting(60_000);
    assert!(scene.decision().actions().is_empty(), "the writer says that it is in sync");
}

#[test]
fn a_dead_replica_is_down_when_a_majority_says_so() {
    let dead = |scene: Scene, index| scene.sentinel(index, |group| group.replicas[1].s_down = true);
    let scene = dead(Scene::healthy(3).dead(C), 0);
    assert!(scene.decision().actions().is_empty(), "one opinion is not enough");
    let scene = dead(scene, 1);
    assert_eq!(scene.rows()[2], format!("{C} down"));
}

#[test]
fn a_stray_primary_is_no_read_endpoint() {
    let scene = Scene::healthy(3).instance(B, promoted_b());
    assert_eq!(scene.rows()[1], format!("{B} out of sync"));
}

#[test]
fn down_ends_with_a_sign_of_life() {
    let down = |record: &mut Record| {
        record.instances[2].role = PublishedRole::Down;
    };
    let scene = Scene::healthy(3).published(down).dead(C).instance(A, primary(1, None, &[B]));
    assert!(scene.decision().actions().is_empty(), "no Sentinel has heard of it");
    let scene = scene.instance(C, replica(1, A));
    assert_eq!(scene.rows()[2], format!("{C} out of sync"));
}

#[test]
fn an_instance_that_no_sentinel_names_loses_its_row() {
    let forget = |scene: Scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|r| r.address != at(C)))
    };
    let scene = (0..3).fold(Scene::healthy(3).dead(C), forget);
    assert!(
        scene.clone().lasting(14_999).decision().actions().is_empty(),
        "a reset Sentinel forgets too"
    );
    let scene = scene.lasting(15_000);
    assert_eq!(scene.rows(), [format!("{A} primary"), format!("{B} replica")]);
    // One that follows the writer, and says so, is known without them.
    let lives = scene.instance(C, replica(1, A));
    assert!(lives.decision().actions().is_empty(), "{:?}", lives.decision());
}

/// One that waits for a primary that is gone, and has no row, is the group's by its data.
#[test]
fn a_replica_without_a_link_keeps_its_row_while_it_answers_with_the_groups_data() {
    let forget = |scene: Scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|r| r.address != at(C)))
    };
    let waits = |change: fn(&mut InstanceAnswer)| {
        let mut answer = replica(1, "10.0.9.9:6379");
        answer.role = Role::Replica { of: at("10.0.9.9:6379"), link_up: false };
        change(&mut answer);
        let scene = (0..3).fold(Scene::healthy(3).instance(C, answer), forget);
        scene.lasting(60_000)
    };
    assert_eq!(waits(|_| ()).rows()[2], format!("{C} out of sync"));
    let two = [format!("{A} primary"), format!("{B} replica")];
    // Another group's, one without data, and one that its operator has pointed elsewhere.
    assert_eq!(waits(|answer| answer.replid = replica(9, A).replid).rows(), two);
    assert_eq!(waits(|answer| answer.keys = 0).rows(), two);
    let led = |answer: &mut InstanceAnswer| {
        answer.role = Role::Replica { of: at("10.0.9.9:6379"), link_up: true };
    };
    assert_eq!(waits(led).rows(), two);
}

/// Every Sentinel was reset as the primary died: it knows neither replicas nor other Sentinels.
pub fn reset_as_it_died() -> Scene {
    let forget = |scene: Scene, index| {
        scene.sentinel(index, |group| {
            group.replicas.clear();
            group.peers.clear();
            (group.other_sentinels, group.down) = (0, DownOpinion::Subjective);
        })
    };
    let orphan = |behind| {
        let mut answer = replica(1, A);
        answer.role = Role::Replica { of: at(A), link_up: false };
        answer.offset -= behind;
        answer
    };
    let scene = (0..3).fold(Scene::healthy(3).dead(A), forget);
    let scene = scene.instance(B, orphan(10)).instance(C, orphan(0));
    let withdrawn = |record: &mut Record| {
        record.writer = None;
        record.instances[0].role = PublishedRole::Down;
    };
    scene.published(withdrawn).lasting(60_000)
}

#[test]
fn no_row_goes_for_want_of_a_sentinels_word_while_there_is_no_writer() {
    let mut scene = reset_as_it_died();
    // Agents that only observe.
    scene.policy.tell_sentinels = false;
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
    let found = status(&scene);
    let offsets: Vec<_> = found.instances.iter().map(|i| (i.address.clone(), i.offset)).collect();
    assert_eq!(offsets, [(at(A), None), (at(B), Some(990)), (at(C), Some(1_000))]);
    // One that does not answer either is no read endpoint, and keeps its row.
    let gone = reset_as_it_died().dead(C).lasting(60_000);
    assert_eq!(gone.rows()[2], format!("{C} down"));
}

#[test]
fn the_one_that_holds_the_most_is_named_where_no_sentinel_knows_a_replica() {
    let best = |scene: &Scene| stranded(&scene.view()).map(|(address, _)| address.to_string());
    assert_eq!(best(&reset_as_it_died()), Some(C.to_owned()));
    // Agents may choose among those that are registered, and do.
    let mut registered = reset_as_it_died();
    registered.observed.registered.insert(at(B));
    assert_eq!(best(&registered), None);
    // A Sentinel that knows a replica can elect it.
    let known = reset_as_it_died().sentinel(0, |group| {
        group.replicas.push(SentinelReplica {
            address: at(B),
            s_down: false,
            promoted: false,
            priority: None,
        });
    });
    assert_eq!(best(&known), None);
    assert_eq!(best(&Scene::healthy(3)), None);
}

#[test]
fn an_instance_that_is_down_for_long_loses_its_row() {
    let scene = (0..3).fold(Scene::healthy(3).dead(C), |scene, index| {
        scene.sentinel(index, |group| group.replicas[1].s_down = true)
    });
    let mut scene = scene.published(|record| record.instances[2].role = PublishedRole::Down);
    assert!(scene.clone().lasting(3_599_999).decision().actions().is_empty());
    scene.now += 3_600_000;
    for reading in scene.observed.sentinels.values_mut() {
        reading.asked.0 += 3_600_000;
    }
    for reading in scene.observed.instances.values_mut() {
        reading.asked.0 += 3_600_000;
    }
    let scene = scene.lasting(3_600_000);
    assert_eq!(scene.rows(), [format!("{A} primary"), format!("{B} replica")]);
}

#[test]
fn rows_wait_until_a_failover_is_over() {
    use consul_redis_core::known::observed::FailoverPhase;
    let scene = Scene::healthy(3)
        .promoted(B, 100)
        .leading(0, B, FailoverPhase::ReconfReplicas)
        .instance(B, promoted_b());
    assert!(
        !scene
            .decision()
            .actions()
            .iter()
            .any(|action| matches!(action, consul_redis_core::duty::action::Action::Write(_)))
    );
}

#[test]
fn rows_that_another_program_changed_are_put_back() {
    let mut scene = Scene::healthy(3);
    let rows = scene.observed.rows.as_mut().unwrap().found.as_mut().unwrap();
    rows.services.remove("redis-primary");
    rows.services.get_mut(&format!("redis:{B}")).unwrap().tags = vec!["primary".to_owned()];
    let write = scene.write();
    assert_eq!((write.purpose, write.record.is_none()), (Purpose::Repair, true));
    assert_eq!(write.ops.len(), 3, "the guard and two rows: {:?}", write.ops);
}

#[test]
fn rows_that_do_not_stay_are_put_back_twice_a_second() {
    let mut scene = Scene::healthy(3);
    let rows = scene.observed.rows.as_mut().unwrap().found.as_mut().unwrap();
    rows.services.remove("redis-primary");
    scene.memory.repaired = Some(Mono(NOW - 499));
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
    assert!(!scene.decision().sound, "they are not as they should be");
    scene.memory.repaired = Some(Mono(NOW - 500));
    assert_eq!(scene.write().purpose, Purpose::Repair);
}

#[test]
fn keys_that_another_program_changed_are_put_back() {
    let mut scene = Scene::healthy(3);
    let store = scene.observed.store.as_mut().unwrap();
    store.plain.insert("primary".to_owned(), B.to_owned());
    assert_eq!(scene.write().ops.len(), 2);
}

#[test]
fn a_node_of_another_program_is_left_alone() {
    let mut scene = Scene::unpublished(3);
    scene.observed.rows.as_mut().unwrap().foreign = true;
    let decision = scene.decision();
    assert!(decision.actions().is_empty());
    assert!(decision.said()[0].contains("node redis-ha-redis exists and is not this group's"));
}

#[test]
fn a_record_of_a_newer_version_is_left_alone() {
    let mut scene = Scene::healthy(3).naming(&[0, 1, 2], B, 2).instance(B, promoted_b());
    let text = r#"{"v": 2, "whatever": true}"#;
    let error = consul_redis_core::published::record::decode(text.as_bytes()).unwrap_err();
    scene.observed.store.as_mut().unwrap().state =
        consul_redis_core::known::observed::StoredState::Unreadable(error);
    let decision = scene.decision();
    assert!(decision.actions().is_empty());
    assert!(decision.said()[0].contains("written by a newer consul-redis"), "{decision:?}");
}

#[test]
fn a_lost_record_is_made_anew_above_the_last_generation() {
    let mut scene = Scene::healthy(3);
    let store = scene.observed.store.as_mut().unwrap();
    store.state = consul_redis_core::known::observed::StoredState::Absent;
    store.state_index = 0;
    let record = scene.write().record.unwrap();
    assert_eq!(record.generation, 8);
    assert_eq!(record.writer_address(), Some(&at(A)));
}

#[test]
fn rows_are_only_changed_on_what_was_asked_since_the_last_change() {
    // Else two agents whose readings are of different age would undo each other's rows.
    let mut scene = Scene::healthy(3).instance(A, primary(1, None, &[B])).lasting(10_000);
    scene.memory.store_changed = Mono(ASKED);
    assert_eq!(scene.write().purpose, Purpose::InstanceRows);
    scene.memory.store_changed = Mono(ASKED + 1);
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
}

#[test]
fn a_replica_that_was_down_comes_up_when_a_majority_says_so() {
    let down = |record: &mut Record| {
        record.instances[2].role = PublishedRole::Down;
    };
    let called_down =
        |scene: Scene, index| scene.sentinel(index, |group| group.replicas[1].s_down = true);
    let disputed = called_down(Scene::healthy(3).silent(2), 0).published(down);
    assert!(disputed.decision().actions().is_empty(), "{:?}", disputed.decision());
    let up = called_down(Scene::healthy(3), 0).published(down);
    assert_eq!(up.rows()[2], format!("{C} replica"));
}

#[test]
fn rows_go_on_while_a_leader_still_points_replicas_at_the_published_writer() {
    let scene = Scene::healthy(3)
        .naming(&[0, 1, 2], B, 2)
        .leading(0, B, FailoverPhase::ReconfReplicas)
        .sentinel(0, |group| group.monitored = at(A))
        .instance(B, primary(2, Some(1), &[C]))
        .instance(A, replica(2, B))
        .promoted(B, 60_000)
        .published(|record| {
            record.evidence.basis = Basis::Majority { epoch: 2, votes: 3 };
            record.evidence.confirmed_epoch = 2;
        });
    assert_eq!(scene.rows()[2], format!("{C} replica"));
}

#[test]
fn rows_that_another_program_deleted_do_not_block_other_rows() {
    let mut scene = Scene::healthy(3).instance(A, primary(1, None, &[B])).lasting(10_000);
    let rows = scene.observed.rows.as_mut().and_then(|rows| rows.found.as_mut()).unwrap();
    rows.services.clear();
    rows.checks.clear();
    let ops = scene.write().ops;
    let set = |op: &&Op| matches!(op, Op::ServiceSet { .. });
    assert_eq!(ops.iter().filter(set).count(), 5, "every row of the group is put back: {ops:?}");
    assert!(!ops.iter().any(|op| matches!(op, Op::ServiceDelete { .. })), "{ops:?}");
}

#[test]
fn what_a_lost_record_has_left_goes_first_however_much_it_is() {
    let mut scene = Scene::unpublished(3);
    let many = Scene::healthy(3).published(|record| {
        for index in 10..60 {
            let address = at(&format!("10.0.0.{index}:6379"));
            record.instances.push(InstanceRecord { address, role: PublishedRole::Replica });
        }
    });
    scene.observed.rows = many.observed.rows;
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Publish);
    assert!(matches!(&write.ops[1], Op::NodeDelete { .. }), "{:?}", write.ops);
}

#[test]
fn a_group_keeps_its_service_until_it_is_retired() {
    let mut scene = Scene::healthy(3);
    scene.policy.service = "cache".parse().unwrap();
    let decision = scene.decision();
    assert!(decision.actions().is_empty(), "{decision:?}");
    assert!(decision.said()[0].contains("consul-redis retire redis --force"), "{decision:?}");
}

#[test]
fn a_writer_is_published_above_what_was_seen_before_consul_lost_its_data() {
    let mut scene = Scene::healthy(3);
    scene.memory.generation_max = 11;
    let record = scene.write().record.unwrap();
    assert_eq!((record.generation, record.writer_address()), (12, Some(&at(A))));
}

#[test]
fn an_instance_in_maintenance_is_no_read_endpoint_and_no_target() {
    let mut scene = Scene::healthy(3);
    let store = scene.observed.store.as_mut().expect("a store");
    store.maintenance = Ok([(at(B), 100), (at(A), 100)].into());
    let rows = [format!("{A} primary"), format!("{B} in maintenance"), format!("{C} replica")];
    assert_eq!(scene.rows(), rows, "the writer stays the writer");
    let (_, switchover) = prepare(&scene.view(), Some(&at(B)));
    assert_eq!(switchover, None);
    let mut unreadable = Scene::healthy(3);
    unreadable.observed.store.as_mut().expect("a store").maintenance = Err("damaged".to_owned());
    let decision = unreadable.decision();
    assert!(decision.actions().is_empty(), "{decision:?}");
    assert_eq!(decision.said(), ["redis-ha/redis/maintenance is ignored: damaged"]);
    // An instance that was taken out stays out.
    let out = |record: &mut Record| record.instances[1].role = PublishedRole::Maintenance;
    let mut kept = Scene::healthy(3).published(out);
    kept.observed.store.as_mut().expect("a store").maintenance = Err("damaged".to_owned());
    assert_eq!(kept.decision().actions(), []);
}

/// `replica-announced no`: no Sentinel shows it, and each may choose it.
#[test]
fn one_that_is_not_announced_is_no_read_endpoint_and_may_be_chosen() {
    let hidden = || InstanceAnswer { announced: false, ..replica(1, A) };
    let d = "10.0.0.4:6379";
    let mut new = Scene::healthy(3).instance(A, primary(1, None, &[B, C, d])).instance(d, hidden());
    new.observed.registered.insert(at(d));
    assert!(new.decision().write.is_none(), "it gets no row");
    // One that had a row loses its part in it at once.
    let shown = Scene::healthy(3).instance(C, hidden());
    assert!(shown.rows().contains(&format!("{C} out of sync")), "{:?}", shown.rows());
    // It is watched in a move, and said; and it cannot be asked for.
    let (checks, _) = prepare(&new.view(), None);
    let said = format!("among them {d}, which is not announced");
    let target = checks.iter().find(|check| check.what == "target").expect("it");
    assert!(target.found.as_ref().is_ok_and(|found| found.ends_with(&said)), "{target:?}");
    let (checks, switchover) = prepare(&new.view(), Some(&at(d)));
    assert_eq!(switchover, None);
    let refused = |why: &String| why.contains("replica-announced no");
    let found = checks.iter().any(|check| check.found.as_ref().is_err_and(refused));
    assert!(found, "{checks:?}");
}

/// What PING says of a server whose disk is full.
const DISK_FULL: &str = "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk";

/// What `status` says, where an agent watches the group.
fn status(scene: &Scene) -> GroupStatus {
    let mut scene = scene.clone();
    scene.observed.store.as_mut().expect("a store").agents = ["agent-0".to_owned()].into();
    assess(&scene.view(), &layout(), &scene.decision())
}

fn unable_to_save() -> InstanceAnswer {
    InstanceAnswer { not_ready: Some(DISK_FULL.to_owned()), ..replica(1, A) }
}

#[test]
fn a_replica_that_cannot_save_its_data_serves_reads_and_is_a_problem() {
    // The Sentinels that get MISCONF for an answer do not count as getting none.
    let scene = Scene::healthy(3).instance(B, unable_to_save()).instance(C, unable_to_save());
    let (decision, view) = (scene.decision(), scene.view());
    assert!(decision.actions().is_empty(), "{decision:?}");
    for address in [B, C] {
        assert_eq!(serves(&view, &decision, &at(address)), Some(PublishedRole::Replica));
        assert!(!is_ready(&view, &at(address)));
    }
    let found = status(&scene);
    assert!(found.healthy && found.degraded, "{:?}", found.problems);
    let codes: Vec<ProblemCode> = found.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, [ProblemCode::CannotSave, ProblemCode::CannotSave]);
    assert!(found.problems[0].text.contains(DISK_FULL), "{}", found.problems[0].text);
    // One that has no link, or that the writer does not list, does not.
    let mut alone = unable_to_save();
    alone.role = Role::Replica { of: at(A), link_up: false };
    let scene = scene.instance(B, alone).instance(A, primary(1, None, &[])).lasting(10_000);
    assert_eq!(scene.rows()[1..], [format!("{B} out of sync"), format!("{C} out of sync")]);
}

#[test]
fn a_writer_that_cannot_save_its_data_is_a_problem_that_names_it() {
    let full =
        InstanceAnswer { not_ready: Some(DISK_FULL.to_owned()), ..primary(1, None, &[B, C]) };
    let scene = Scene::healthy(3).instance(A, full);
    let (decision, view) = (scene.decision(), scene.view());
    assert_eq!(serves(&view, &decision, &at(A)), None);
    let found = status(&scene);
    assert!(!found.healthy && !found.degraded, "{:?}", found.problems);
    assert!(found.problems[0].text.contains(DISK_FULL), "{:?}", found.problems);
}

#[test]
fn a_name_without_replicas_is_a_problem_that_says_why_of_each() {
    let down = |scene: Scene, index| {
        scene.sentinel(index, |group| group.replicas.iter_mut().for_each(|r| r.s_down = true))
    };
    let scene = (0..3).fold(Scene::healthy(3).dead(B).dead(C), down).published(|record| {
        record.instances[1..].iter_mut().for_each(|i| i.role = PublishedRole::Down);
    });
    let found = status(&scene);
    assert!(found.healthy && found.degraded, "{:?}", found.problems);
    let all: Vec<String> =
        found.problems.iter().map(|p| format!("{}: {}", p.code.as_str(), p.text)).collect();
    let wanted = [
        format!(
            "no-replicas: no replica can be read from: {B} is down (no answer); {C} is down (no answer)"
        ),
        format!("instance-down: {B} is down: no answer"),
        format!("instance-down: {C} is down: no answer"),
    ];
    assert_eq!(all, wanted);
    // A group of one instance has lost nothing.
    let alone = Scene::healthy(3).published(|record| record.instances.truncate(1));
    let found = status(&alone);
    assert!(!found.degraded, "{:?}", found.problems);
    // A Sentinel that is gone is missed, although a majority answers.
    let fewer = Scene::healthy(3).silent(2);
    let found = status(&fewer);
    assert_eq!(found.problems[0].code, ProblemCode::SentinelsMissing);
    assert!(found.healthy && found.degraded, "{:?}", found.problems);
}

#[test]
fn replicas_of_a_primary_that_loads_stay_for_as_long_as_they_may_lag() {
    let loading = InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..primary(1, None, &[]) };
    let mut alone = replica(1, A);
    alone.role = Role::Replica { of: at(A), link_up: false };
    let scene = Scene::healthy(3).instance(A, loading).instance(B, alone.clone());
    let scene = scene.instance(C, alone).lasting(9_999);
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
    let late = scene.lasting(10_000);
    assert_eq!(late.rows()[1..], [format!("{B} out of sync"), format!("{C} out of sync")]);
}

/// What one replica lacks, and that it serves no reads, reduces what the group survives.
#[test]
fn a_replica_that_is_out_of_sync_for_some_seconds_degrades_the_group() {
    let late = || {
        let mut scene = Scene::healthy(3);
        let link_up = false;
        let mut answer = replica(1, A);
        answer.role = Role::Replica { of: at(A), link_up };
        scene.set_instance(B, answer);
        scene.set_instance(A, primary(1, None, &[C]));
        scene.observed.store.as_mut().unwrap().agents.insert("agent-0".to_owned());
        scene
    };
    let found = |scene: &Scene| assess(&scene.view(), &layout(), &scene.decision());
    let code = ProblemCode::ReplicaOutOfSync;
    let said = |status: &GroupStatus| status.problems.iter().any(|p| p.code == code);
    assert!(!said(&found(&late().lasting(4_999))), "it may be back in a moment");
    let status = found(&late().lasting(5_000));
    assert!(status.healthy && status.degraded && said(&status), "{:?}", status.problems);
    let text = &status.problems.iter().find(|p| p.code == code).unwrap().text;
    assert!(text.contains(&format!("{B} is out of sync (its link to {A} is down)")), "{text}");
    // One look cannot tell for how long, but for how long there has been this writer.
    let one_look = |led_s: i64| {
        let mut scene = late().published(|record| {
            record.since = Timestamp::from_second(1_700_000_000 - led_s).expect("a time");
            for instance in record.instances.iter_mut().filter(|i| i.address == at(B)) {
                instance.role = PublishedRole::OutOfSync;
            }
        });
        scene.memory.generation = None;
        said(&found(&scene))
    };
    assert!(!one_look(4) && one_look(5), "right after a switch every replica is, for a moment");
    // A replica that its operator does not show is kept out on purpose.
    let mut hidden = late();
    let mut answer = replica(1, A);
    answer.announced = false;
    hidden.set_instance(B, answer);
    assert!(!said(&found(&hidden.lasting(60_000))));
}

/// It follows the writer and answers; but it is B, which has a row already.
#[test]
fn another_address_of_an_instance_loses_its_row_once_no_sentinel_names_it() {
    let row = |process: &str| {
        let mut scene = Scene::healthy(3).instance(D, replica(1, A)).published(|record| {
            let role = PublishedRole::OutOfSync;
            record.instances.push(InstanceRecord { address: at(D), role });
        });
        let reading = scene.observed.instances.get_mut(&at(D)).expect("a reading");
        reading.result.as_mut().expect("an answer").run_id = run(process);
        scene.memory.since.insert(Condition::Unnamed(at(D)), Mono(NOW - UNNAMED_AFTER_MS));
        let write = scene.decision().write;
        let record = write.and_then(|write| write.record);
        record.is_none_or(|record| record.role_of(&at(D)).is_some())
    };
    assert!(row(D), "an instance of its own keeps it");
    assert!(!row(B));
}

/// The move takes no vote: one that trusts its clock is asked, and the others follow.
#[test]
fn a_move_needs_a_majority_of_sentinels_that_trust_their_clocks() {
    let tilted = |count: usize| {
        let scene = (0..count).fold(Scene::healthy(3), |scene, index| {
            scene.answer(index, |answer| answer.tilt = true)
        });
        let mut scene = scene;
        let store = scene.observed.store.as_mut().expect("a store");
        store.agents.insert("agent-0".to_owned());
        let (checks, switchover) = prepare(&scene.view(), None);
        let said = checks.into_iter().find(|check| check.what == "Sentinels").expect("it").found;
        (said, switchover.map(|switchover| switchover.sentinel))
    };
    let (said, asked) = tilted(1);
    assert!(said.is_ok(), "{said:?}");
    assert_eq!(asked, Some(crate::scene::sentinel_at(1)), "not the one in TILT");
    let (said, asked) = tilted(2);
    assert!(said.is_err_and(|why| why.contains("in TILT")), "it names them");
    assert_eq!(asked, None);
}
