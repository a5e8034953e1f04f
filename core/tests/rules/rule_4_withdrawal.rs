//! Rule 4: a writer that the majority calls down, or that says itself that it is a replica, is withdrawn.

use consul_redis_core::known::observed::GaveUp;
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase};
use consul_redis_core::published::projection::Op;
use consul_redis_core::shown::status::assess;
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, layout, primary, replica, sentinel_at};

#[test]
fn a_majority_that_agrees_on_its_death_withdraws_the_writer() {
    let scene = Scene::healthy(3)
        .down(&[0], DownOpinion::Objective)
        .down(&[1], DownOpinion::Subjective)
        .dead(A);
    assert_eq!(scene.withdraws(), format!("{A} is down, say 2 of 3 Sentinels"));
    let write = scene.write();
    let record = write.record.unwrap();
    assert_eq!((record.generation, record.writer), (8, None));
    assert_eq!(scene.rows(), [format!("{A} down"), format!("{B} replica"), format!("{C} replica")]);
    let empty = |name: &str| {
        write.ops.iter().any(
            |op| matches!(op, Op::KeySet { key, value } if key.ends_with(name) && value.is_empty()),
        )
    };
    assert!(empty("/primary") && empty("/primary/host") && empty("/primary/port"));
}

#[test]
fn one_sentinels_opinion_withdraws_nothing() {
    let scene = Scene::healthy(3).down(&[0], DownOpinion::Subjective).dead(A);
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
}

#[test]
fn opinions_that_no_quorum_has_agreed_on_withdraw_nothing() {
    let scene = Scene::healthy(3).down(&[0, 1, 2], DownOpinion::Subjective).dead(A);
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
}

#[test]
fn a_leader_elected_to_replace_the_writer_withdraws_it() {
    // Quorum 1: the leader alone calls it down, but a majority has voted for replacing it.
    let scene = Scene::healthy(3).leading(0, B, FailoverPhase::SelectReplica).dead(A);
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn opinions_in_tilt_do_not_count() {
    let scene = Scene::healthy(3).down(&[0, 1], DownOpinion::Objective);
    let scene = scene.answer(0, |answer| answer.tilt = true);
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
}

#[test]
fn opinions_about_another_address_do_not_count() {
    // The leader already names B; its flags are about A (docs/facts/sentinel.md 0.1).
    let scene = Scene::healthy(3).promoted(B, 100).naming(&[0, 1, 2], B, 2);
    let scene = (0..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| {
            group.monitored = crate::scene::at(A);
            group.down = DownOpinion::Objective;
        })
    });
    let scene = scene.instance(B, primary(2, Some(1), &[C])).instance(C, replica(2, B)).dead(A);
    assert!(matches!(
        scene.verdict(),
        consul_redis_core::published::publication::Verdict::Confirm { .. }
    ));
}

#[test]
fn a_writer_that_says_it_is_a_replica_is_withdrawn() {
    let scene = Scene::healthy(3).instance(A, replica(2, B));
    assert_eq!(scene.withdraws(), format!("{A} says it is a replica of {B} now"));
}

#[test]
fn what_a_writer_said_before_it_was_published_does_not_withdraw_it() {
    let mut scene = Scene::healthy(3).instance(A, replica(2, B));
    scene.memory.generation = Some((7, Mono(NOW - 10)));
    assert!(scene.keeps().contains("stays"), "{}", scene.keeps());
}

#[test]
fn silence_withdraws_nothing() {
    let scene = Scene::healthy(3).silent(0).silent(1).silent(2).dead(A).dead(B).dead(C);
    assert_eq!(
        scene.keeps(),
        format!("writer {A} stays: no Sentinel that knows the group answers")
    );
}

#[test]
fn a_writer_that_is_loading_stays() {
    let mut loading = primary(1, None, &[]);
    loading.not_ready = Some("LOADING".to_owned());
    let scene = Scene::healthy(3).instance(A, loading);
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
}

#[test]
fn a_withdrawn_writer_that_was_not_dead_comes_back() {
    let scene = Scene::healthy(3).published(|record| record.writer = None);
    assert_eq!(scene.published_now().0, A);
}

#[test]
fn a_dead_primary_that_the_sentinels_still_name_is_not_published() {
    let scene = Scene::healthy(3)
        .published(|record| record.writer = None)
        .down(&[0, 1, 2], DownOpinion::Objective)
        .dead(A);
    assert_eq!(
        scene.keeps(),
        format!("no writer: the Sentinels name {A} and agree that it is down")
    );
}

#[test]
fn a_failover_that_a_sentinel_gave_up_is_said_with_its_reason_and_when_it_is_tried_again() {
    let mut scene = Scene::healthy(3)
        .down(&[0, 1, 2], DownOpinion::Objective)
        .dead(A)
        .published(|record| record.writer = None);
    let at = Mono(scene.now - 5_000);
    scene.memory.gave_up = Some((sentinel_at(1), GaveUp::NoGoodReplica, at));
    // failover-timeout is 10 s, and twice that has to pass.
    let said = scene.decision().said();
    let wanted = "Sentinel 10.0.1.2:26379 gave up a failover 5 s ago: it sees no replica that it could choose";
    assert!(said[0].starts_with(wanted) && said[0].ends_with("in some 15 s"), "{said:?}");
    let status = assess(&scene.view(), &layout(), &scene.decision());
    assert!(status.problems[0].text.contains("gave up a failover"), "{:?}", status.problems);
    scene.memory.gave_up = Some((sentinel_at(1), GaveUp::NotElected, Mono(scene.now - 40_000)));
    assert_eq!(scene.decision().said(), [""; 0], "it was tried again since");
    scene.memory.gave_up = Some((sentinel_at(1), GaveUp::NotElected, at));
    let led = scene.leading(0, B, FailoverPhase::SendReplicaofNoOne);
    assert_eq!(led.decision().said(), [""; 0], "one is under way");
}
