//! Rule 5: two truths are none. Hold what is published while it still has its majority; never guess.

use consul_redis_core::published::record::Level;

use crate::scene::{A, B, C, Scene, primary, promoted_b, replica};

#[test]
fn two_primaries_named_at_one_epoch_are_both_not_published() {
    // Two SENTINEL FAILOVER at once, before the leaders point their choices at each other.
    let scene = Scene::healthy(3)
        .naming(&[0], B, 2)
        .naming(&[1, 2], C, 2)
        .instance(B, promoted_b())
        .instance(C, primary(3, Some(1), &[]))
        .at_level(Level::Quorum);
    assert!(scene.keeps().contains("are both named at one epoch and both take writes"));
    let lasting = scene.lasting(1_000);
    assert_eq!(
        lasting.withdraws(),
        format!("the majority left {A} for {C}, which cannot be published")
    );
}

#[test]
fn a_sentinel_stuck_on_a_dead_address_at_the_new_epoch_blocks_nothing() {
    // It could not resolve the new primary's name (docs/facts/sentinel.md 2.1).
    let scene = Scene::healthy(3).naming(&[0, 1], B, 2).naming(&[2], A, 2).dead(A);
    let scene = scene.instance(B, promoted_b());
    assert_eq!(scene.published_now(), (B.to_owned(), Level::Quorum));
}

#[test]
fn the_published_writer_stays_through_a_contest_that_it_wins() {
    let scene = Scene::healthy(3).naming(&[2], B, 1).instance(B, promoted_b());
    assert!(scene.keeps().contains("named by 2 of 3"), "{}", scene.keeps());
}

#[test]
fn a_stray_primary_without_a_majority_moves_nothing() {
    let scene = Scene::healthy(3).instance(B, promoted_b()).silent(0).silent(1).silent(2);
    assert!(scene.keeps().starts_with(&format!("writer {A} stays")), "{}", scene.keeps());
}

#[test]
fn a_split_without_a_majority_withdraws_once_it_lasts() {
    let scene = Scene::healthy(4).naming(&[2, 3], B, 1).instance(B, promoted_b());
    assert!(scene.keeps().contains("no majority (4 of 4 Sentinels answer)"), "{}", scene.keeps());
    assert_eq!(scene.lasting(1_000).withdraws(), format!("the Sentinels are split over {A}"));
}

#[test]
fn a_split_with_a_dead_rival_is_none() {
    let scene = Scene::healthy(4).naming(&[2, 3], B, 1).dead(B).lasting(60_000);
    assert!(scene.keeps().starts_with(&format!("writer {A} stays")), "{}", scene.keeps());
}

#[test]
fn the_writer_that_the_majority_left_is_withdrawn_when_its_successor_cannot_be_proved() {
    let scene = Scene::healthy(3).naming(&[0, 1, 2], B, 2).dead(B);
    assert!(scene.keeps().starts_with(&format!("writer {A} stays")), "one read may be late");
    assert!(scene.lasting(1_000).withdraws().contains("the majority left"));
}

#[test]
fn two_choices_that_follow_each_other_leave_no_writer() {
    // B and C replicate each other (docs/facts/sentinel.md 2.1).
    let scene = Scene::healthy(3)
        .published(|record| record.writer = None)
        .naming(&[0], B, 2)
        .naming(&[1, 2], C, 2)
        .instance(B, replica(3, C))
        .instance(C, replica(2, B));
    assert_eq!(scene.keeps(), format!("no writer: {C} says it is a replica of {B}"));
}
