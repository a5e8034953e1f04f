//! A Sentinel that does not know the group is told where the primary lives.

use consul_redis::core::action::Action;
use consul_redis::core::observed::{DownOpinion, FailoverPhase, SentinelSettings};
use consul_redis::core::sentinels::Tell;

use crate::scene::{A, B, Scene, at, promoted_b, sentinel_at};

fn ignorant(scene: Scene) -> Scene {
    scene.answer(2, |answer| answer.group = None)
}

fn told(scene: &Scene) -> Vec<Tell> {
    let decision = scene.decision();
    let tells = decision.actions.into_iter().filter_map(|action| match action {
        Action::Tell(tell) => Some(tell),
        _ => None,
    });
    tells.collect()
}

#[test]
fn it_gets_the_address_and_the_settings_of_the_others() {
    let settings = SentinelSettings {
        quorum: 2,
        down_after_ms: 2_500,
        failover_timeout_ms: 33_000,
        parallel_syncs: 4,
    };
    let scene = (0..2).fold(ignorant(Scene::healthy(3)), |scene, index| {
        scene.sentinel(index, |group| group.settings = settings)
    });
    let wanted = Tell { sentinel: sentinel_at(2), primary: at(A), settings };
    assert_eq!(told(&scene), [wanted]);
}

#[test]
fn what_the_operator_fixed_goes_first() {
    let mut scene = ignorant(Scene::healthy(3));
    scene.policy.settings.quorum = Some(3);
    scene.policy.settings.down_after_ms = Some(700);
    let tell = &told(&scene)[0];
    assert_eq!((tell.settings.quorum, tell.settings.down_after_ms), (3, 700));
    assert_eq!(tell.settings.failover_timeout_ms, 10_000);
}

#[test]
fn nobody_is_told_what_is_not_certain() {
    let cases = [
        ("no writer", ignorant(Scene::healthy(3)).published(|record| record.writer = None)),
        ("not confirmed", ignorant(Scene::healthy(3)).promoted(B, 100).instance(B, promoted_b())),
        ("contradicted", ignorant(Scene::healthy(3)).naming(&[1], B, 1)),
        ("not heard from", ignorant(Scene::healthy(3)).dead(A)),
        (
            "being replaced",
            ignorant(Scene::healthy(3))
                .down(&[0], DownOpinion::Up)
                .leading(0, B, FailoverPhase::SelectReplica),
        ),
    ];
    for (why, scene) in cases {
        assert!(told(&scene).is_empty(), "{why}");
    }
}

#[test]
fn it_is_told_again_after_a_while_and_can_be_left_alone() {
    let mut scene = ignorant(Scene::healthy(3));
    scene.memory.told.insert(sentinel_at(2), consul_redis::core::time::Mono(scene.now - 4_999));
    assert!(told(&scene).is_empty());
    scene.memory.told.insert(sentinel_at(2), consul_redis::core::time::Mono(scene.now - 5_000));
    assert_eq!(told(&scene).len(), 1);
    scene.policy.tell_sentinels = false;
    assert!(told(&scene).is_empty());
}

#[test]
fn one_that_does_not_answer_is_not_told() {
    assert!(told(&Scene::healthy(3).silent(2)).is_empty());
}
