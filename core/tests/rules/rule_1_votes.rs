//! Rule 1: votes(addr, epoch) are counted against known Sentinels (the most that any of them knows), not
//! those that can be reached.

use consul_redis_core::published::record::Level;

use crate::scene::{A, B, Scene, promoted_b};

#[test]
fn two_of_three_are_a_majority() {
    let scene = Scene::healthy(3).naming(&[0, 1], B, 2).instance(B, promoted_b());
    assert_eq!(scene.published_now(), (B.to_owned(), Level::Quorum));
}

#[test]
fn one_of_three_is_none_even_when_the_others_are_silent() {
    let scene = Scene::healthy(3).naming(&[0], B, 2).silent(1).silent(2).instance(B, promoted_b());
    let scene = scene.at_level(Level::Quorum);
    assert_eq!(scene.keeps(), format!("writer {A} stays: no majority (1 of 3 Sentinels answer)"));
}

#[test]
fn the_electorate_is_the_largest_that_any_sentinel_knows() {
    // One of them still remembers two dead ones.
    let scene = Scene::healthy(3).naming(&[0, 1], B, 2).instance(B, promoted_b());
    let scene = scene.sentinel(2, |group| group.other_sentinels = 4).at_level(Level::Quorum);
    assert!(scene.keeps().contains("no majority (3 of 5 Sentinels answer)"), "{}", scene.keeps());
}

#[test]
fn a_sentinel_that_knows_only_itself_is_not_the_electorate() {
    // Restarted without its state, and the only one this agent can reach.
    let scene = Scene::healthy(3).silent(1).silent(2).naming(&[0], B, 9);
    let scene = scene.sentinel(0, |group| group.other_sentinels = 0).instance(B, promoted_b());
    let scene = scene.at_level(Level::Quorum);
    assert!(scene.keeps().contains("no majority (1 of 3 Sentinels answer)"), "{}", scene.keeps());
}

#[test]
fn before_anything_is_recorded_the_configured_sentinels_are_the_electorate() {
    let scene = Scene::unpublished(3).silent(1).silent(2);
    let scene = scene.sentinel(0, |group| group.other_sentinels = 0);
    assert!(scene.keeps().contains("no majority (1 of 3 Sentinels answer)"), "{}", scene.keeps());
}

#[test]
fn a_smaller_electorate_is_believed_when_all_agree_for_long() {
    let scene = Scene::healthy(5).silent(3).silent(4);
    let scene = (0..3).fold(scene, |s, i| s.sentinel(i, |group| group.other_sentinels = 2));
    assert!(scene.keeps().contains("named by 3 of 5 Sentinels"), "{}", scene.keeps());
    let scene = scene.lasting(30_000);
    let record = scene.write().record.unwrap();
    assert_eq!(record.evidence.known, 3);
}

#[test]
fn a_sentinel_reached_at_two_addresses_has_one_vote() {
    let mut scene = Scene::healthy(3).naming(&[0], B, 2).silent(1).silent(2);
    let twice = scene.observed.sentinels[&crate::scene::sentinel_at(0)].clone();
    scene.observed.sentinels.insert(crate::scene::at("192.168.0.1:26379"), twice);
    let scene = scene.instance(B, promoted_b()).at_level(Level::Quorum);
    assert!(scene.keeps().contains("no majority (1 of 3 Sentinels answer)"), "{}", scene.keeps());
}

#[test]
fn one_sentinel_that_lies_moves_nothing() {
    let scene = Scene::healthy(3).naming(&[2], B, 99).instance(B, promoted_b());
    assert!(scene.keeps().contains("named by 2 of 3 Sentinels"), "{}", scene.keeps());
}

#[test]
fn an_answer_asked_for_before_the_published_generation_was_seen_is_no_vote() {
    let mut scene = Scene::healthy(3).naming(&[0, 1, 2], B, 2).instance(B, promoted_b());
    // Another agent published A a moment ago, on newer answers than ours.
    scene.memory.generation = Some((7, consul_redis_core::time::Mono(crate::scene::ASKED + 1)));
    assert_eq!(
        scene.keeps(),
        format!("writer {A} stays: no Sentinel that knows the group answers")
    );
}

#[test]
fn an_answer_that_is_too_old_is_no_vote() {
    let old = crate::scene::NOW - 3_001;
    let scene = (0..3).fold(Scene::healthy(3), |scene, index| scene.sentinel_asked(index, old));
    assert_eq!(
        scene.keeps(),
        format!("writer {A} stays: no Sentinel that knows the group answers")
    );
}
