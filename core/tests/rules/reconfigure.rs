//! A Sentinel that does not know the group gets the primary by `MONITOR`.

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::sentinels::{Reconfigure, ReconfigureKind};
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase, SentinelSettings};
use consul_redis_core::policy::{DISAGREES_AFTER_MS, WantedQuorum, WantedSettings};
use consul_redis_core::time::Mono;

use crate::scene::{A, B, Scene, at, promoted_b, sentinel_at};

fn ignorant(scene: Scene) -> Scene {
    scene.answer(2, |answer| answer.group = None)
}

fn told(scene: &Scene) -> Vec<Reconfigure> {
    let decision = scene.decision();
    let reconfigurations = decision.actions().into_iter().filter_map(|action| match action {
        Action::Reconfigure(reconfigure) => Some(reconfigure),
        _ => None,
    });
    reconfigurations.collect()
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
    let what = ReconfigureKind::Monitor;
    let (sentinel, primary) = (sentinel_at(2), at(A));
    let wanted = Reconfigure { sentinel, what, primary, settings, had: settings, epoch: 0 };
    assert_eq!(told(&scene), [wanted]);
}

#[test]
fn what_the_operator_fixed_goes_first() {
    let mut scene = ignorant(Scene::healthy(3));
    scene.policy.settings.quorum = Some(WantedQuorum::Fixed(3));
    scene.policy.settings.down_after_ms = Some(700);
    let reconfigure = &told(&scene)[0];
    assert_eq!((reconfigure.settings.quorum, reconfigure.settings.down_after_ms), (3, 700));
    assert_eq!(reconfigure.settings.failover_timeout_ms, 10_000);
}

#[test]
fn no_sentinel_gets_what_is_not_certain() {
    let cases = [
        ("no writer", ignorant(Scene::healthy(3)).published(|record| record.writer = None)),
        ("not confirmed", ignorant(Scene::healthy(3)).promoted(B, 100).instance(B, promoted_b())),
        ("contradicted", ignorant(Scene::healthy(3)).naming(&[1], B, 1)),
        ("not heard from", ignorant(Scene::healthy(3)).dead(A)),
        (
            "being replaced",
            ignorant(Scene::healthy(3)).down(&[0], DownOpinion::Up).leading(
                0,
                B,
                FailoverPhase::SelectReplica,
            ),
        ),
    ];
    for (why, scene) in cases {
        assert!(told(&scene).is_empty(), "{why}");
    }
}

#[test]
fn it_is_reconfigured_again_after_a_while_and_can_be_left_alone() {
    let mut scene = ignorant(Scene::healthy(3));
    let before = (sentinel_at(2), ReconfigureKind::Monitor);
    scene.memory.reconfigured.insert(before.clone(), Mono(scene.now - 4_999));
    assert!(told(&scene).is_empty());
    scene.memory.reconfigured.insert(before.clone(), Mono(scene.now - 5_000));
    assert_eq!(told(&scene).len(), 1);
    scene.policy.tell_sentinels = false;
    assert!(told(&scene).is_empty());
}

#[test]
fn one_that_does_not_answer_is_not_reconfigured() {
    assert!(told(&Scene::healthy(3).silent(2)).is_empty());
}

#[test]
fn one_whose_settings_differ_gets_those_that_are_wanted_and_no_others() {
    let mut scene = Scene::healthy(3);
    scene.policy.settings.down_after_ms = Some(700);
    scene.policy.settings.parallel_syncs = Some(1);
    let shared = WantedSettings {
        quorum: Some(WantedQuorum::Auto),
        down_after_ms: Some(2_000),
        ..WantedSettings::default()
    };
    scene.observed.store.as_mut().unwrap().config = Ok(shared);
    let told = told(&scene);
    assert_eq!(told.len(), 3);
    assert!(
        told.iter().all(|reconfigure| reconfigure.what == ReconfigureKind::Settings),
        "{told:?}"
    );
    let settings = told[0].settings;
    assert_eq!((settings.quorum, settings.down_after_ms), (2, 2_000), "Consul goes before a file");
    assert_eq!(settings.failover_timeout_ms, 10_000, "what is not configured stays");
}

#[test]
fn what_an_operator_changes_meanwhile_is_not_undone() {
    let mut scene = Scene::healthy(3);
    scene.policy.settings.down_after_ms = Some(2_000);
    scene.policy.settings.quorum = Some(WantedQuorum::Fixed(2));
    let reconfigure = &told(&scene)[0];
    let has = reconfigure.had;
    assert_eq!(reconfigure.to_set(has), [("down-after-milliseconds", 2_000)], "only what differs");
    let changed = SentinelSettings { parallel_syncs: 7, failover_timeout_ms: 60_000, ..has };
    assert_eq!(reconfigure.to_set(changed), [("down-after-milliseconds", 2_000)]);
    let done = SentinelSettings { down_after_ms: 2_000, ..changed };
    assert_eq!(reconfigure.to_set(done), [], "another agent was first");
    let unknown = Reconfigure { what: ReconfigureKind::Monitor, ..reconfigure.clone() };
    assert_eq!(unknown.to_set(has).len(), 4, "one that is new gets all");
}

#[test]
fn an_automatic_quorum_follows_the_number_of_sentinels() {
    let mut scene = Scene::healthy(5);
    scene.policy.settings.quorum = Some(WantedQuorum::Auto);
    let told = told(&scene);
    assert_eq!(told.len(), 5);
    assert_eq!(told[0].settings.quorum, 3);
}

#[test]
fn settings_that_cannot_be_read_are_ignored_and_said() {
    let mut scene = Scene::healthy(3);
    // Nor does this agent's file count: a newer agent may read what this one cannot, and keep it.
    scene.policy.settings.down_after_ms = Some(9_000);
    scene.observed.store.as_mut().unwrap().config = Err("expected value".to_owned());
    let decision = scene.decision();
    assert!(decision.actions().is_empty(), "{decision:?}");
    assert!(decision.said()[0].contains("redis-ha/redis/config is ignored"), "{decision:?}");
}

/// A Sentinel goes on with a failover while the replica that it promoted is down, whatever the others name.
#[test]
fn one_that_leads_a_failover_that_is_over_is_reconfigured() {
    let leads = |epoch| {
        Scene::healthy(3)
            .leading(0, B, FailoverPhase::ReconfReplicas)
            .sentinel(0, |group| {
                (group.primary, group.config_epoch) = (at(B), epoch);
                group.replicas.iter_mut().for_each(|replica| replica.s_down = replica.promoted);
            })
            .dead(B)
            .lasting(DISAGREES_AFTER_MS)
    };
    let over = told(&leads(1));
    let wanted = (ReconfigureKind::Repoint, &sentinel_at(0));
    assert_eq!(over.iter().map(|told| (told.what, &told.sentinel)).collect::<Vec<_>>(), [wanted]);
    assert!(told(&leads(2)).is_empty());
}

#[test]
fn one_that_disagrees_with_the_majority_for_long_is_reconfigured() {
    let stuck = || Scene::healthy(3).naming(&[2], B, 1);
    assert!(told(&stuck().lasting(DISAGREES_AFTER_MS - 1)).is_empty());
    let told_now = told(&stuck().lasting(DISAGREES_AFTER_MS));
    assert_eq!(told_now.len(), 1, "{told_now:?}");
    assert_eq!(
        (told_now[0].what, &told_now[0].sentinel),
        (ReconfigureKind::Repoint, &sentinel_at(2))
    );
    let no_majority = stuck().silent(1).lasting(DISAGREES_AFTER_MS);
    assert!(told(&no_majority).is_empty());
}

#[test]
fn how_long_a_restarted_primary_may_load_is_told_once_an_hour() {
    let told =
        |scene: &Scene| -> Vec<ReconfigureKind> { told(scene).iter().map(|t| t.what).collect() };
    // It is not wanted, and Sentinels that an operator has set up are left as they are.
    assert_eq!(told(&Scene::healthy(3)), []);
    let mut scene = Scene::healthy(3);
    scene.policy.settings.reboot_down_after_ms = Some(8_000);
    assert_eq!(told(&scene), [ReconfigureKind::Reboot(8_000); 3]);
    for index in 0..3 {
        let key = (sentinel_at(index), ReconfigureKind::Reboot(8_000));
        scene.memory.reconfigured.insert(key, Mono(scene.now - 50_000));
    }
    assert_eq!(told(&scene), []);
    // Another value is told at once.
    scene.policy.settings.reboot_down_after_ms = Some(9_000);
    assert_eq!(told(&scene), [ReconfigureKind::Reboot(9_000); 3]);
    // One that we have told of the group is told what fits.
    let mut ours = Scene::healthy(3);
    ours.memory
        .reconfigured
        .insert((sentinel_at(1), ReconfigureKind::Monitor), Mono(ours.now - 10));
    assert_eq!(told(&ours), [ReconfigureKind::Reboot(3_000)]);
}
