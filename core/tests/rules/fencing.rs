//! Stray primaries: when one is made a replica, and when never.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::fence::{Fence, StrayKind};
use consul_redis_core::duty::safety;
use consul_redis_core::known::memory::{Condition, InstanceRun, Origin};
use consul_redis_core::known::observed::{
    Continued, DownOpinion, FailoverPhase, InstanceAnswer, Reading, ReplId, Role, SeenHistory,
    SentinelGroup, SentinelReplica,
};
use consul_redis_core::policy::{
    ANSWER_AGE_MAX_MS, Announce, FENCE_AGAIN_MS, LEFT_BEHIND_FOR_MS, LEFT_BEHIND_MS,
    RESTARTED_EMPTY_UPTIME_MAX_S, STRAY_PROMOTED_MS, STRAY_UNSEEN_MS,
};
use consul_redis_core::published::projection::Op;
use consul_redis_core::published::record::{Basis, Level};
use consul_redis_core::published::write::take_seen;
use consul_redis_core::time::Mono;

use crate::scene::{
    A, ASKED, B, C, NOW, Scene, at, ceased, id, layout, primary, promoted_b, replica, run,
    sentinel_at,
};

/// No Sentinel of the scene knows it.
const D: &str = "10.0.0.4:6379";

fn fences(scene: &Scene) -> Vec<Fence> {
    let decision = scene.decision();
    let fences = decision.actions().into_iter().filter_map(|action| match action {
        Action::Fence(fence) => Some(fence),
        _ => None,
    });
    fences.collect()
}

#[track_caller]
fn left_alone(scene: &Scene, why: &str) {
    assert_eq!(fences(scene), []);
    let reasons = scene.decision().said().join("\n");
    assert!(reasons.contains(why), "{reasons}");
}

/// C says that it is a primary, first seen so long ago, with this past.
pub(crate) fn stray(ms_ago: u64, origin: Origin) -> Scene {
    let mut scene = Scene::healthy(3).instance(C, primary(3, Some(1), &[]));
    let life = InstanceRun { run_id: run(C), origin };
    scene.memory.lives.insert(at(C), life);
    scene.memory.since.insert(Condition::Stray(at(C)), Mono(NOW - ms_ago));
    scene
}

#[test]
fn a_returned_old_primary_is_fenced_as_soon_as_a_majority_has_spoken_since() {
    let fence = Fence {
        instance: at(C),
        run_id: run(C),
        follow: at(A),
        follow_run: Some(run(A)),
        kind: StrayKind::Returned,
        replid: ReplId("3".to_owned()),
    };
    assert_eq!(fences(&stray(NOW - ASKED, Origin::Started)), [fence]);
    left_alone(&stray(NOW - ASKED - 1, Origin::Started), "not every Sentinel has been asked since");
    let slow = stray(NOW - ASKED, Origin::Started).sentinel_asked(2, ASKED - 1);
    left_alone(&slow, "not every Sentinel has been asked since");
    let once = stray(NOW - ASKED, Origin::Started).instance_asked(C, ASKED - 1);
    left_alone(&once, "it has not been asked since");
    let dead = stray(NOW - ASKED, Origin::Started).silent(2);
    assert_eq!(fences(&dead).len(), 1, "one that was asked and is dead leads nothing");
}

/// Only the leader knows whom it promotes, and it is slow to answer once.
#[test]
fn what_a_leader_promotes_is_left_alone_when_the_leader_times_out() {
    let leads = stray(STRAY_UNSEEN_MS, Origin::Unseen)
        .leading(2, C, FailoverPhase::WaitPromotion)
        .sentinel(2, |group| group.down = DownOpinion::Subjective);
    left_alone(&leads, "a failover is under way");
    let fence = fences(&stray(STRAY_UNSEEN_MS, Origin::Unseen)).remove(0);
    let timed_out = |mut scene: Scene| {
        let result = Err("no answer in time".to_owned());
        let reading = Reading { asked: Mono(ASKED + 1), answered: Mono(ASKED + 2), result };
        scene.observed.see_sentinel(sentinel_at(2), reading);
        scene
    };
    let silent = timed_out(leads.clone());
    left_alone(&silent, "a failover is under way");
    let veto = safety::veto(&silent.view(), &Action::Fence(fence.clone()));
    assert_eq!(veto, Some(format!("a Sentinel is promoting {C}")));
    let long_ago = timed_out(leads.sentinel_asked(2, NOW - ANSWER_AGE_MAX_MS - 1));
    assert_eq!(fences(&long_ago), [fence], "one that is dead leads nothing");
}

#[test]
fn no_instance_is_made_a_replica_of_a_writer_that_a_sentinel_calls_objectively_down() {
    let scene = stray(STRAY_UNSEEN_MS, Origin::Unseen).down(&[1], DownOpinion::Objective);
    left_alone(&scene, "a Sentinel calls the writer down");
    let fence = fences(&stray(STRAY_UNSEEN_MS, Origin::Unseen)).remove(0);
    let veto = safety::veto(&scene.view(), &Action::Fence(fence));
    assert_eq!(veto, Some(format!("a Sentinel calls {A} down")));
}

/// The writer came back without its data, or was emptied on purpose: no agent can know which.
#[test]
fn no_instance_with_data_is_made_a_replica_of_a_writer_without() {
    let empty = |scene: Scene| {
        let answer = InstanceAnswer { keys: 0, ..primary(1, None, &[B]) };
        scene.instance(A, answer)
    };
    let with_data = empty(stray(NOW - ASKED, Origin::Started));
    left_alone(&with_data, &format!("{C} holds 10 keys and the writer {A} none"));
    let mut scene = empty(stray(NOW - ASKED, Origin::Started));
    scene.set_instance(C, InstanceAnswer { keys: 0, ..primary(3, Some(1), &[]) });
    assert_eq!(fences(&scene).len(), 1, "neither has any");
    // The veto says so by itself.
    let fence = fences(&stray(NOW - ASKED, Origin::Started)).remove(0);
    let veto = safety::veto(&with_data.view(), &Action::Fence(fence));
    assert_eq!(veto, Some(format!("{C} has data and {A} has none")));
}

#[test]
fn a_blank_instance_joins() {
    let mut blank = primary(9, None, &[]);
    blank.keys = 0;
    let scene = stray(100, Origin::Started).instance(C, blank);
    assert_eq!(fences(&scene)[0].kind, StrayKind::Blank);
}

#[test]
fn one_that_was_restarted_without_its_data_and_has_taken_writes_since_is_fenced() {
    let mut data_loss = primary(9, None, &[]);
    (data_loss.started_empty, data_loss.uptime_s) = (true, RESTARTED_EMPTY_UPTIME_MAX_S);
    let scene = |origin, answer: &InstanceAnswer| stray(60_000, origin).instance(C, answer.clone());
    assert_eq!(fences(&scene(Origin::Started, &data_loss))[0].kind, StrayKind::RestartedEmpty);
    left_alone(&scene(Origin::Unseen, &data_loss), "unrelated history");
    // The first write comes between the question and the command.
    let unwritten = InstanceAnswer { keys: 0, ..data_loss.clone() };
    let fence = fences(&scene(Origin::Started, &unwritten)).remove(0);
    assert_eq!(fence.kind, StrayKind::RestartedEmpty);
    assert!(fence.still_holds(&InstanceAnswer { run_id: run(C), ..data_loss.clone() }));
    let mut loaded = data_loss.clone();
    loaded.started_empty = false;
    left_alone(&scene(Origin::Started, &loaded), "unrelated history");
    let mut long_ago = data_loss.clone();
    long_ago.uptime_s = RESTARTED_EMPTY_UPTIME_MAX_S + 1;
    left_alone(&scene(Origin::Started, &long_ago), "unrelated history");
    let unlisted = (0..3).fold(scene(Origin::Started, &data_loss), |scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|replica| replica.address != at(C)))
    });
    assert_eq!(fences(&unlisted), [], "no Sentinel says that it is the group's");
}

#[test]
fn one_that_comes_back_with_a_history_of_long_ago_is_the_group_s_own() {
    let scene = stray(60_000, Origin::Started).instance(C, primary(9, Some(8), &[]));
    left_alone(&scene, "unrelated history");
    let known = scene.published(|record| record.lineage.push(ReplId("8".to_owned())));
    assert_eq!(fences(&known)[0].kind, StrayKind::Returned);
}

#[test]
fn a_writer_s_history_is_noted_and_kept_when_another_one_follows() {
    let scene = Scene::healthy(3)
        .naming(&[0, 1, 2], B, 2)
        .at_level(Level::Quorum)
        .instance(B, promoted_b())
        .dead(A);
    let lineage = scene.write().record.unwrap().lineage;
    assert_eq!(lineage, [ReplId("2".to_owned()), ReplId("1".to_owned())]);
}

#[test]
fn a_blank_instance_that_one_sentinel_was_pointed_at_by_mistake_is_left_alone() {
    let d = "10.0.0.4:6379";
    let mut blank = primary(9, None, &[]);
    blank.keys = 0;
    let mut scene = Scene::healthy(3).naming(&[2], d, 0).instance(d, blank);
    scene.memory.since.insert(Condition::Stray(at(d)), Mono(NOW - 60_000));
    left_alone(&scene, "only a minority of the Sentinels takes for this group's");
    scene.observed.registered.insert(at(d));
    assert_eq!(fences(&scene)[0].kind, StrayKind::Blank);
}

/// It was begun anew when the instance was started, and its note says what it goes on from.
#[test]
fn a_history_that_goes_on_from_the_group_s_is_the_group_s() {
    let role = Role::Replica { of: at("192.0.2.1:6379"), link_up: false };
    let began = InstanceAnswer { role, replid: ReplId("c".to_owned()), ..replica(1, A) };
    let mut scene = Scene::healthy(3).instance(C, began);
    scene.observed.registered.insert(at(C));
    let scene = scene.lasting(0);
    let stray = Condition::Stray(at(C));
    let fenced = |scene: &Scene| {
        let mut scene = scene.clone();
        scene.memory.since.insert(stray.clone(), Mono(0));
        scene.decision().actions().iter().any(|action| matches!(action, Action::Fence(_)))
    };
    assert!(!fenced(&scene));
    for (of, ours) in [("1", true), ("9", false)] {
        let mut scene = scene.clone();
        let store = scene.observed.store.as_mut().expect("a record");
        let of = Continued { of: ReplId(of.to_owned()), led: false };
        store.continued.insert(ReplId("c".to_owned()), of);
        assert_eq!(fenced(&scene), ours);
    }
}

#[test]
fn data_of_an_unrelated_history_is_never_wiped() {
    let scene = stray(60_000, Origin::Started).instance(C, primary(9, Some(8), &[]));
    left_alone(&scene, "10 keys of an unrelated history");
}

#[test]
fn one_that_was_a_replica_in_this_run_may_have_been_promoted() {
    left_alone(&stray(STRAY_PROMOTED_MS - 1, Origin::WasReplica), "may be promoting");
    assert_eq!(fences(&stray(STRAY_PROMOTED_MS, Origin::WasReplica)).len(), 1);
}

/// It was chosen, hung, and obeyed when another one had been elected: it goes on from the writer before.
fn overtaken() -> Scene {
    let scene = stray(NOW - ASKED, Origin::WasReplica).instance(C, primary(3, Some(8), &[]));
    scene.published(|record| record.lineage.push(ReplId("8".to_owned())))
}

#[test]
fn one_whose_failover_was_overtaken_by_another_is_fenced_at_once() {
    assert_eq!(fences(&overtaken())[0].kind, StrayKind::Returned);
    // Its agents were started after it had obeyed.
    let mut unseen = overtaken();
    unseen.memory.lives.insert(at(C), InstanceRun { run_id: run(C), origin: Origin::Unseen });
    assert_eq!(fences(&unseen).len(), 1);
    let own = overtaken().instance(C, primary(3, Some(1), &[]));
    left_alone(&own, "may be promoting");
    let promoting = overtaken().leading(0, C, FailoverPhase::WaitPromotion);
    left_alone(&promoting, "a failover is under way");
}

/// The Sentinel that leads may be one that this agent does not reach.
#[test]
fn one_that_a_sentinel_may_promote_which_only_the_others_reach_is_left_alone() {
    left_alone(&overtaken().silent(2), "may be promoting");
    let down = |scene: Scene, index: usize| {
        scene.sentinel(index, |group| {
            group.peers.iter_mut().for_each(|peer| peer.s_down = peer.id == id(2));
        })
    };
    left_alone(&down(overtaken().silent(2), 0), "may be promoting");
    let dead = down(down(overtaken().silent(2), 0), 1);
    assert_eq!(fences(&dead).len(), 1, "one that is dead leads nothing");
}

/// The leader hung with the replica that it chose, on one host, and was overtaken.
#[test]
fn a_silent_leader_whose_epoch_a_majority_has_reached_promotes_nothing() {
    let leads = |epoch: u64| {
        let mut scene = Scene::healthy(3)
            .leading(2, C, FailoverPhase::WaitPromotion)
            .answer(2, |answer| {
                let peers = answer.group.iter_mut().flat_map(|group| &mut group.peers);
                peers.for_each(|peer| peer.voted = Some((id(2), epoch)));
            })
            .sentinel(2, |group| group.config_epoch = 1);
        let reading = Reading {
            asked: Mono(ASKED + 1),
            answered: Mono(ASKED + 2),
            result: Err("no answer in time".to_owned()),
        };
        scene.observed.see_sentinel(sentinel_at(2), reading);
        for index in [0, 1] {
            scene = scene.sentinel(index, |group| {
                group.config_epoch = 3;
                group.peers.iter_mut().for_each(|peer| peer.s_down = peer.id == id(2));
            });
        }
        let scene = scene.published(|record| {
            record.lineage.push(ReplId("8".to_owned()));
            record.evidence.basis = Basis::Majority { epoch: 3, votes: 2 };
            record.evidence.confirmed_epoch = 3;
        });
        let mut scene = scene.instance(C, primary(3, Some(8), &[]));
        let life = InstanceRun { run_id: run(C), origin: Origin::WasReplica };
        scene.memory.lives.insert(at(C), life);
        scene.memory.since.insert(Condition::Stray(at(C)), Mono(ASKED));
        scene
    };
    let over = leads(2);
    let fence = fences(&over).remove(0);
    assert_eq!(safety::veto(&over.view(), &Action::Fence(fence.clone())), None);
    let newer = leads(4);
    left_alone(&newer, "a failover is under way");
    let veto = safety::veto(&newer.view(), &Action::Fence(fence));
    assert_eq!(veto, Some(format!("a Sentinel is promoting {C}")));
}

#[test]
fn one_whose_past_no_agent_saw_may_have_been_promoted() {
    left_alone(&stray(STRAY_UNSEEN_MS - 1, Origin::Unseen), "may be promoting");
    assert_eq!(fences(&stray(STRAY_UNSEEN_MS, Origin::Unseen)).len(), 1);
    let mut other_run = stray(STRAY_UNSEEN_MS - 1, Origin::Started);
    let life = InstanceRun { run_id: "another run".to_owned(), origin: Origin::Started };
    other_run.memory.lives.insert(at(C), life);
    left_alone(&other_run, "may be promoting");
}

#[test]
fn no_instance_is_fenced_while_a_failover_has_not_ended_in_the_writer() {
    for phase in [FailoverPhase::SelectReplica, FailoverPhase::WaitPromotion] {
        let scene = stray(60_000, Origin::WasWriter).leading(0, B, phase);
        left_alone(&scene, "a failover is under way");
    }
}

#[test]
fn the_old_primary_is_fenced_while_its_successor_s_leader_still_points_replicas() {
    let mut scene = Scene::healthy(3)
        .naming(&[0, 1, 2], B, 2)
        .leading(0, B, FailoverPhase::ReconfReplicas)
        .sentinel(0, |group| group.monitored = at(A))
        .instance(B, promoted_b())
        .instance(A, primary(1, None, &[C]))
        .promoted(B, 1_000)
        .published(|record| {
            record.evidence.basis = Basis::Majority { epoch: 2, votes: 3 };
            record.evidence.confirmed_epoch = 2;
        });
    scene.memory.since.insert(Condition::Stray(at(A)), Mono(ASKED));
    let life = InstanceRun { run_id: run(A), origin: Origin::WasWriter };
    scene.memory.lives.insert(at(A), life);
    assert_eq!(fences(&scene)[0].follow, at(B));
}

#[test]
fn no_instance_is_fenced_for_a_writer_that_is_not_certain() {
    let ready = || stray(60_000, Origin::Started);
    left_alone(&ready().silent(0).silent(1), "no majority has named the writer since");
    left_alone(&ready().dead(A), "the writer does not answer");
    left_alone(&ready().naming(&[0], C, 1), "the Sentinels do not agree");
    let unconfirmed = ready().published(|record| record.evidence.basis = Basis::Agents);
    left_alone(&unconfirmed, "not confirmed by a majority yet");
    let none = ready().published(|record| {
        record.writer = None;
        record.instances.clear();
    });
    assert_eq!(fences(&none), []);
}

#[test]
fn a_fence_is_repeated_after_a_while_and_not_sooner() {
    let mut scene = stray(60_000, Origin::Started);
    scene.memory.fenced.insert(at(C), Mono(NOW - FENCE_AGAIN_MS + 1));
    assert_eq!(fences(&scene), []);
    scene.memory.fenced.insert(at(C), Mono(NOW - FENCE_AGAIN_MS));
    assert_eq!(fences(&scene).len(), 1);
}

#[test]
fn fencing_can_be_switched_off() {
    let mut scene = stray(60_000, Origin::Started);
    scene.policy.fence = false;
    left_alone(&scene, "fence = false");
}

#[test]
fn the_veto_knows_better_than_a_rule_that_errs() {
    let fence = |instance: &str, follow: &str| {
        Action::Fence(Fence {
            instance: at(instance),
            run_id: run(instance),
            follow: at(follow),
            follow_run: None,
            kind: StrayKind::Returned,
            replid: ReplId("3".to_owned()),
        })
    };
    let scene = stray(60_000, Origin::Started);
    let veto = |scene: &Scene, action: &Action| safety::veto(&scene.view(), action);
    assert_eq!(veto(&scene, &fence(C, A)), None);
    assert!(veto(&scene, &fence(A, C)).unwrap().contains("not the published writer"));
    assert!(veto(&scene, &fence(A, A)).unwrap().contains("not the published writer"));
    let named = scene.clone().naming(&[0, 1], C, 2);
    assert!(veto(&named, &fence(C, A)).unwrap().contains("does not name"));
    let promoting = scene.clone().leading(0, C, FailoverPhase::WaitPromotion);
    assert!(veto(&promoting, &fence(C, A)).unwrap().contains("is promoting"));
    let silent = scene.dead(A);
    assert!(veto(&silent, &fence(C, A)).unwrap().contains("has not said"));
}

#[test]
fn what_has_changed_by_the_last_moment_is_looked_at_anew() {
    let fence = &fences(&stray(60_000, Origin::Started))[0];
    let now = InstanceAnswer { run_id: run(C), ..primary(3, Some(1), &[]) };
    assert!(fence.still_holds(&now));
    let mut restarted = now.clone();
    restarted.run_id = "run-2".to_owned();
    let mut loading = now.clone();
    loading.not_ready = Some("LOADING".to_owned());
    let promoted_again = InstanceAnswer { replid: ReplId("4".to_owned()), ..now.clone() };
    let follows = InstanceAnswer { role: replica(1, A).role, ..now.clone() };
    for changed in [restarted, loading, promoted_again, follows] {
        assert!(!fence.still_holds(&changed), "{changed:?}");
    }
    let mut blank = InstanceAnswer { run_id: run(C), ..primary(9, None, &[]) };
    blank.keys = 0;
    let joining = &fences(&stray(60_000, Origin::Started).instance(C, blank.clone()))[0];
    assert!(joining.still_holds(&blank));
    blank.keys = 1;
    assert!(!joining.still_holds(&blank), "it was given data meanwhile");
}

#[test]
fn a_registered_replica_of_something_dead_is_pointed_at_the_writer() {
    let d = "10.0.0.4:6379";
    let mut lost = replica(1, "10.0.0.9:6379");
    lost.role = Role::Replica { of: at("10.0.0.9:6379"), link_up: false };
    let mut scene = Scene::healthy(3).instance(d, lost.clone());
    scene.memory.since.insert(Condition::Stray(at(d)), Mono(NOW - STRAY_UNSEEN_MS));
    assert_eq!(fences(&scene), [], "it is none of this group's");
    scene.observed.registered.insert(at(d));
    let fence = &fences(&scene)[0];
    assert_eq!((fence.kind, &fence.follow), (StrayKind::Lost, &at(A)));
    lost.run_id = run(d);
    assert!(fence.still_holds(&lost));
    let mut found = lost.clone();
    found.role = Role::Replica { of: at("10.0.0.9:6379"), link_up: true };
    assert!(!fence.still_holds(&found));
    assert!(!fence.still_holds(&primary(1, None, &[])));
    // One that Sentinels know is theirs to point.
    let known = (0..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| {
            group.replicas.push(SentinelReplica {
                address: at(d),
                s_down: false,
                promoted: false,
                priority: None,
            });
        })
    });
    assert_eq!(fences(&known), []);
}

/// An append-only file does not hold which history its data is of.
fn from_a_file() -> InstanceAnswer {
    InstanceAnswer { append_only: true, ..primary(9, None, &[]) }
}

fn unlisted(scene: Scene) -> Scene {
    (0..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|replica| replica.address != at(C)))
    })
}

#[test]
fn one_with_an_append_only_file_is_known_by_its_place() {
    let listed = stray(NOW - ASKED, Origin::Started).instance(C, from_a_file());
    assert_eq!(fences(&listed)[0].kind, StrayKind::Returned);
    // No Sentinel lists it any more, and we have seen the run before, on our own host.
    let seen = |local: bool, history: &str| {
        let mut scene = unlisted(listed.clone());
        scene.memory.histories.insert(at(C), ReplId(history.to_owned()));
        if local {
            scene.policy.local.insert(at(C));
        }
        scene
    };
    assert_eq!(fences(&seen(true, "1"))[0].kind, StrayKind::Returned);
    for scene in [seen(false, "1"), seen(true, "77")] {
        left_alone(&scene, "its append-only file cannot prove whose data it holds");
    }
}

/// The agent on its host was started anew as well: what it saw before is in Consul.
#[test]
fn one_with_an_append_only_file_is_known_by_what_its_agent_has_noted() {
    let noted = |of: &str, config_file: &str| {
        let mut scene = unlisted(stray(NOW - ASKED, Origin::Unseen).instance(C, from_a_file()));
        let store = scene.observed.store.as_mut().expect("a record");
        let (of, config_file) = (ReplId(of.to_owned()), config_file.to_owned());
        let seen =
            SeenHistory { of, led: true, offset: 1, run_id: "before".to_owned(), config_file };
        store.seen.insert(at(C), seen);
        scene
    };
    let own = from_a_file().config_file;
    // It was not promoted in this run, so that there is nothing to wait for.
    assert_eq!(fences(&noted("1", &own))[0].kind, StrayKind::Returned);
    for scene in [noted("77", &own), noted("1", "/etc/redis/another.conf")] {
        left_alone(&scene, "its append-only file cannot prove whose data it holds");
    }
    let mut snapshot = noted("1", &own);
    snapshot.set_instance(C, InstanceAnswer { append_only: false, ..from_a_file() });
    left_alone(&snapshot, "10 keys of an unrelated history");
}

#[test]
fn what_an_agent_sees_of_its_own_instances_is_noted_and_goes_with_their_history() {
    let sound = |scene: &mut Scene| {
        let write = scene.decision().write;
        write.filter(|write| write.purpose == Purpose::Seen)
    };
    let mut scene = Scene::healthy(3);
    assert_eq!(sound(&mut scene), None, "none is on this host");
    scene.policy.local.insert(at(B));
    let write = sound(&mut scene).expect("a write");
    let key = |instance: &str| format!("redis-ha/redis/histories/{instance}/seen");
    assert!(
        matches!(&write.ops[1..], [Op::KeySet { key: set, .. }] if *set == key(B)),
        "{write:?}"
    );
    take_seen(scene.observed.store.as_mut().expect("it"), &layout(), &write.ops);
    assert_eq!(sound(&mut scene), None, "it is noted");
    let own = scene.observed.store.as_ref().expect("it").seen[&at(B)].clone();
    assert!(own.of == ReplId("1".to_owned()) && !own.led, "{own:?}");
    // It goes on in the same history: nothing to note.
    scene.set_instance(B, InstanceAnswer { offset: 2_000, ..replica(1, A) });
    assert_eq!(sound(&mut scene), None);
    // Data of another history is not the group's, and what was noted stays.
    scene.set_instance(B, primary(9, None, &[]));
    assert_eq!(sound(&mut scene), None);
    scene.set_instance(B, replica(1, A));
    // Of one that is gone: twenty writers later.
    let old = SeenHistory { of: ReplId("0".to_owned()), ..own };
    scene.observed.store.as_mut().expect("it").seen.insert(at(D), old);
    let write = sound(&mut scene).expect("a write");
    let prefix = format!("redis-ha/redis/histories/{D}/");
    assert!(matches!(&write.ops[1..], [Op::KeyDeleteTree { prefix: gone }] if *gone == prefix));
}

/// Redis before 7.0 begins a new history when it restarts as a primary, whatever its snapshot says.
#[test]
fn one_of_an_old_version_is_known_by_its_place() {
    let old =
        |version: &str| InstanceAnswer { version: version.to_owned(), ..primary(9, None, &[]) };
    let with = |version: &str| stray(NOW - ASKED, Origin::Started).instance(C, old(version));
    for version in ["6.0.16", "6.2.14"] {
        assert_eq!(fences(&with(version))[0].kind, StrayKind::Returned, "{version}");
    }
    left_alone(&with("7.0.15"), "of an unrelated history");
    // It cannot hold its writes, and it is not said that they are held.
    let unproven = unlisted(with("6.0.16"));
    left_alone(&unproven, "as Redis before 7.0 reads it, cannot prove whose data it holds");
    left_alone(&unproven, "writes cannot be held before Redis 6.2");
    let decision = unproven.decision();
    assert!(!decision.actions().iter().any(|action| matches!(action, Action::Hold(_))));
    left_alone(&unlisted(with("6.2.14")), "Its writes are held");
}

#[test]
fn what_cannot_prove_its_data_takes_no_writes() {
    let held = |scene: &Scene| {
        let all = scene.decision().actions();
        all.iter().any(|action| matches!(action, Action::Hold(hold) if hold.instance == at(C)))
    };
    let scene = unlisted(stray(60_000, Origin::Started).instance(C, from_a_file()));
    left_alone(&scene, "was an instance of this group and is a primary again");
    assert!(held(&scene));
    // It was the writer of generation 6.
    let mut was = scene.clone();
    let change = ceased(jiff::Timestamp::UNIX_EPOCH);
    was.observed.store.as_mut().expect("it").history.push(change);
    left_alone(&was, "was the writer until generation 6 and is a primary again");
    left_alone(&was, "run REPLICAOF 10.0.0.1 6379 there");
    // A Sentinel that lists it makes it a replica, unless its writes are held.
    let one = |group: &mut SentinelGroup| {
        let (address, priority) = (at(C), None);
        group.replicas.push(SentinelReplica { address, s_down: false, promoted: false, priority });
    };
    assert!(!held(&scene.clone().sentinel(0, one)));
    // Another group's is left alone altogether.
    let foreign = scene.published(|record| record.instances.retain(|i| i.address != at(C)));
    assert!(!held(&foreign));
    let mut off = was;
    off.policy.hold_writes = false;
    assert!(!held(&off));
}

/// It ceased to be the writer a while ago, no Sentinel lists it any more (`SENTINEL RESET`), and it has no row.
#[test]
fn a_writer_of_before_is_looked_at_although_no_sentinel_lists_it() {
    let former = |answer: InstanceAnswer, ago_ms: u64| {
        let scene = unlisted(stray(60_000, Origin::Started).instance(C, answer));
        let mut scene = scene.published(|record| record.instances.retain(|i| i.address != at(C)));
        let wall = scene.view().now.wall;
        let change = ceased(wall - std::time::Duration::from_millis(ago_ms));
        scene.observed.store.as_mut().expect("it").history.push(change);
        scene
    };
    let held = |scene: &Scene| {
        let all = scene.decision().actions();
        all.iter().any(|action| matches!(action, Action::Hold(hold) if hold.instance == at(C)))
    };
    let within = Scene::healthy(3).policy.forget_after_ms;
    let unproven = former(from_a_file(), within);
    left_alone(&unproven, "was the writer until generation 6 and is a primary again");
    assert!(held(&unproven));
    assert_eq!(fences(&former(primary(3, Some(1), &[]), within))[0].kind, StrayKind::Returned);
    // The address may be another group's by now: its data says so, or it leads others, or it is long ago.
    let leads = InstanceAnswer { role: primary(9, None, &[D]).role, ..from_a_file() };
    let blank = InstanceAnswer { keys: 0, ..from_a_file() };
    for (answer, ago_ms) in [
        (primary(9, None, &[]), within),
        (leads, within),
        (blank, within),
        (from_a_file(), within + 1),
    ] {
        let scene = former(answer, ago_ms);
        assert!(!held(&scene));
        left_alone(&scene, "");
        assert!(
            !scene.decision().said().iter().any(|said| said.contains(C)),
            "{:?}",
            scene.decision()
        );
    }
}

/// It follows another replica, as its operator wants.
#[test]
fn what_follows_a_known_instance_is_not_lost_while_that_one_is_away() {
    let d = "10.0.0.4:6379";
    let role = Role::Replica { of: at(B), link_up: false };
    let chained = InstanceAnswer { role, ..replica(1, A) };
    let scene = |answer: InstanceAnswer| {
        let mut scene = Scene::healthy(3).dead(B).instance(d, answer);
        scene.observed.registered.insert(at(d));
        scene.memory.since.insert(Condition::Stray(at(d)), Mono(NOW - 60_000));
        scene
    };
    assert_eq!(fences(&scene(chained.clone())), []);
    // It has the history of a primary that is gone: it followed that one.
    let old = InstanceAnswer { replid: ReplId("0".to_owned()), keys: 0, ..chained.clone() };
    assert_eq!(fences(&scene(old))[0].kind, StrayKind::Lost);
    // No Sentinel knows that one any more.
    let gone = scene(chained).published(|record| record.instances.retain(|i| i.address != at(B)));
    let gone = (0..3).fold(gone, |scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|replica| replica.address != at(B)))
    });
    assert_eq!(fences(&gone)[0].kind, StrayKind::Lost);
}

/// A leads in the place of C, and B still follows C.
#[test]
fn a_replica_that_no_leader_points_at_the_writer_is_pointed_there() {
    let scene = |announce, of: &str, link_up, seen_ms| {
        let mut left = replica(1, C);
        left.role = Role::Replica { of: at(of), link_up };
        let mut scene = Scene::healthy(3).instance(B, left);
        scene.policy.announce = announce;
        scene.memory.since.insert(Condition::Stray(at(B)), Mono(NOW - seen_ms));
        let then = scene.view().now.wall;
        scene.observed.store.as_mut().expect("a store").history.push(ceased(then));
        scene
    };
    let (leader, eager) = (Announce::Leader, Announce::Eager);
    for (announce, link_up) in [(eager, false), (eager, true), (leader, false), (leader, true)] {
        let fence = &fences(&scene(announce, C, link_up, LEFT_BEHIND_MS))[0];
        assert_eq!((fence.kind, &fence.follow), (StrayKind::LeftBehind, &at(A)));
        let mut now = replica(1, C);
        now.run_id = run(B);
        assert!(fence.still_holds(&now));
        now.role = Role::Replica { of: at(A), link_up };
        assert!(!fence.still_holds(&now), "Sentinel was first");
    }
    // Its leader may have told it, or be about to; agents that are eager have told the Sentinels themselves.
    assert_eq!(fences(&scene(leader, C, false, LEFT_BEHIND_MS - 1)), []);
    let works = |scene: Scene| scene.leading(2, A, FailoverPhase::ReconfReplicas);
    assert_eq!(fences(&works(scene(leader, C, false, LEFT_BEHIND_MS))), []);
    assert_eq!(fences(&scene(eager, A, false, LEFT_BEHIND_MS)), []);
    // An operator's wish: of something else, or of an instance that no Sentinel lists.
    assert_eq!(fences(&scene(eager, "10.0.0.9:6379", true, LEFT_BEHIND_MS)), []);
    let unlisted = (0..3).fold(scene(leader, C, true, LEFT_BEHIND_MS), |scene, index| {
        scene.sentinel(index, |group| group.replicas.retain(|replica| replica.address != at(B)))
    });
    assert_eq!(fences(&unlisted), []);
    // It began to follow that one just before the failover, and no Sentinel will ever hear of it.
    let mut beside = unlisted;
    beside.policy.local.insert(at(B));
    let mut since = |began: bool, ago_ms| {
        beside.memory.saw_it_begin = began;
        beside.memory.generation = Some((7, Mono(NOW - ago_ms)));
        fences(&beside)
    };
    assert_eq!(since(true, LEFT_BEHIND_FOR_MS)[0].kind, StrayKind::LeftBehind);
    // Its operator has it follow a primary of before.
    assert_eq!(since(true, LEFT_BEHIND_FOR_MS + 1), []);
    assert_eq!(since(false, LEFT_BEHIND_MS), []);
}
