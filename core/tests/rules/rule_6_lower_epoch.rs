//! Rule 6: an epoch lower than recorded moves nothing, unless a majority and the writer test agree for
//! long; then it is the new baseline.

use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::Basis;

use crate::scene::{A, B, Scene, primary, promoted_b};

fn recorded_at_9(scene: Scene) -> Scene {
    scene.published(|record| {
        record.evidence.confirmed_epoch = 9;
        record.evidence.basis = Basis::Majority { epoch: 9, votes: 3 };
    })
}

#[test]
fn a_rolled_back_majority_does_not_move_the_writer() {
    let scene = recorded_at_9(Scene::healthy(3)).naming(&[0, 1], B, 0).instance(B, promoted_b());
    assert_eq!(
        scene.keeps(),
        format!("writer {A} stays: {B} is named at epoch 0, lower than recorded")
    );
    assert!(scene.lasting(9_999).keeps().contains("lower than recorded"));
}

#[test]
fn rebuilt_sentinels_are_believed_when_they_stay_with_it() {
    let scene = recorded_at_9(Scene::healthy(3)).naming(&[0, 1, 2], B, 0).instance(B, promoted_b());
    let scene = scene.lasting(10_000);
    assert_eq!(scene.published_now().0, B);
    assert_eq!(scene.write().record.unwrap().evidence.confirmed_epoch, 0);
}

#[test]
fn rebuilt_sentinels_that_name_the_writer_only_give_a_new_baseline() {
    let scene = recorded_at_9(Scene::healthy(3));
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
    let scene = scene.lasting(10_000);
    let Verdict::Confirm { evidence, .. } = scene.verdict() else {
        panic!("{:?}", scene.verdict())
    };
    assert_eq!(evidence.confirmed_epoch, 1);
    assert_eq!(scene.write().record.unwrap().generation, 7);
}

#[test]
fn one_sentinel_rolled_back_to_an_old_address_moves_nothing() {
    let scene = recorded_at_9(Scene::healthy(3)).naming(&[0, 1], A, 9).naming(&[2], B, 0);
    let scene = scene.instance(B, promoted_b()).lasting(60_000);
    assert!(scene.keeps().contains("named by 2 of 3"), "{}", scene.keeps());
}

#[test]
fn a_restarted_sentinel_s_old_epoch_does_not_withdraw_a_writer_that_lost_a_vote() {
    // One Sentinel is not heard and one says what was true long ago: that is no split.
    let scene = recorded_at_9(Scene::healthy(3))
        .naming(&[0], A, 9)
        .silent(1)
        .naming(&[2], B, 0)
        .instance(B, primary(3, Some(1), &[]))
        .lasting(60_000);
    assert!(scene.keeps().contains("stays"), "{}", scene.keeps());
}
