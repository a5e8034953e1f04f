//! Rule 2: the candidate is the address a majority names; it must pass the writer test itself.

use consul_redis_core::known::observed::DownOpinion;
use consul_redis_core::published::publication::{PublishReason, Verdict};
use consul_redis_core::published::record::Level;

use crate::scene::{A, ASKED, B, NOW, Scene, primary, promoted_b, replica};

pub(crate) fn failed_over() -> Scene {
    Scene::healthy(3).naming(&[0, 1, 2], B, 2).at_level(Level::Quorum)
}

#[test]
fn the_first_writer_is_the_one_a_majority_names() {
    let scene = Scene::unpublished(3);
    assert_eq!(scene.published_now(), (A.to_owned(), Level::Quorum));
    let record = scene.write().record.unwrap();
    assert_eq!(
        (record.generation, record.why.as_str()),
        (1, "named by 3 of 3 Sentinels at epoch 1")
    );
}

#[test]
fn a_candidate_that_says_it_is_a_replica_is_not_published() {
    let scene = failed_over().instance(B, replica(1, A));
    assert_eq!(scene.keeps(), format!("writer {A} stays: {B} says it is a replica of {A}"));
}

#[test]
fn a_candidate_that_is_loading_is_not_published() {
    let mut loading = promoted_b();
    loading.not_ready = Some("LOADING Redis is loading the dataset in memory".to_owned());
    let scene = failed_over().instance(B, loading);
    assert!(scene.keeps().contains("answers `LOADING"), "{}", scene.keeps());
}

#[test]
fn a_candidate_that_hands_its_role_over_is_not_published() {
    let mut leaving = promoted_b();
    leaving.failover_running = true;
    let scene = failed_over().instance(B, leaving);
    assert!(scene.keeps().contains("is handing its role over"), "{}", scene.keeps());
}

#[test]
fn a_candidate_that_cannot_be_asked_is_not_published() {
    let scene = failed_over().dead(B);
    assert_eq!(scene.keeps(), format!("writer {A} stays: {B} could not be asked: no answer"));
}

#[test]
fn the_word_of_a_candidate_must_be_recent() {
    let scene = failed_over().instance(B, promoted_b()).instance_asked(B, NOW - 3_001);
    assert!(scene.keeps().contains("its last answer is too old"), "{}", scene.keeps());
    let scene = failed_over().instance(B, promoted_b()).instance_asked(B, ASKED);
    assert_eq!(scene.published_now().0, B);
}

#[test]
fn a_history_that_goes_on_is_published_without_remark() {
    let scene = failed_over().instance(B, promoted_b());
    let Verdict::Publish { why, .. } = scene.verdict() else { panic!("{:?}", scene.verdict()) };
    assert!(matches!(why, PublishReason::Majority { unrelated: false, .. }), "{why:?}");
}

#[test]
fn a_history_that_does_not_go_on_is_published_with_a_remark() {
    // Restarted from an append-only file, which keeps no replication id.
    let scene = failed_over().instance(B, primary(77, None, &[]));
    let record = scene.write().record.unwrap();
    assert!(record.why.ends_with("as after a restart from an append-only file or a restore"));
}

#[test]
fn the_history_of_the_writer_is_followed_through_a_restart() {
    let scene = Scene::healthy(3).instance(A, primary(5, Some(1), &[B, C_]));
    let write = scene.write();
    let record = write.record.unwrap();
    assert_eq!(record.generation, 7, "the writer is the same");
    assert_eq!(record.last_writer.unwrap().replid.0, "5");
}

const C_: &str = crate::scene::C;

#[test]
fn an_address_being_replaced_is_not_published_again() {
    use consul_redis_core::known::observed::FailoverPhase;
    let scene = Scene::healthy(3)
        .published(|record| record.writer = None)
        .sentinel(0, |group| group.failover = Some(FailoverPhase::WaitPromotion));
    assert_eq!(scene.keeps(), format!("no writer: a failover is replacing {A}"));
}

#[test]
fn an_address_that_one_sentinel_has_heard_a_quorum_call_down_is_not_published() {
    // Another agent may hear the majority that calls it down, and withdraw it.
    let scene = Scene::unpublished(3).down(&[1], DownOpinion::Objective);
    assert!(scene.keeps().contains("agree that it is down"), "{}", scene.keeps());
}

#[test]
fn what_a_majority_names_is_confirmed_as_it_is_published() {
    let scene = failed_over().instance(B, promoted_b());
    let write = scene.write();
    let change = write.history.unwrap().remove(0);
    assert_eq!((change.level, change.timeline.confirmed), (Some(Level::Quorum), Some(change.at)));
    assert_eq!(change.timeline.in_dns, None, "no agent has asked yet");
}
