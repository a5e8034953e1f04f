//! A paused group: what is published follows, and nothing else is changed.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::safety;
use consul_redis_core::duty::{Duty, SentinelDuty};
use consul_redis_core::known::memory::{Origin, ReconfigureKind};
use consul_redis_core::policy::HASTE_MS;
use consul_redis_core::published::pause::{Pause, PauseKey};
use consul_redis_core::shown::reasons::Reason;
use consul_redis_core::shown::status::{ProblemCode, assess};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::fencing::stray;
use crate::haste::{hurried, refused};
use crate::properties::scene;
use crate::rule_2_majority::failed_over;
use crate::scene::{ASKED, B, NOW, Scene, layout, promoted_b, sentinel_at};

fn pause(since: Timestamp) -> Pause {
    let by = "root@h1".to_owned();
    Pause { since, by, until: None, why: Some("an upgrade".to_owned()), resumed: None }
}

/// The same while it is paused.
fn paused(mut scene: Scene) -> Scene {
    let since = scene.view().now.wall - SignedDuration::from_mins(5);
    if let Some(store) = &mut scene.observed.store {
        store.pause = PauseKey::Known(Box::new(pause(since)));
    }
    scene
}

/// What is done besides writes in Consul.
fn done(scene: &Scene) -> Vec<Action> {
    let mut all = scene.decision().actions();
    all.retain(|action| !matches!(action, Action::Write(_)));
    all
}

#[test]
fn it_is_on_until_its_end_or_until_it_is_ended() {
    let at = Scene::healthy(3).view().now.wall;
    let later = at + SignedDuration::from_hours(2);
    let just_before = later - SignedDuration::from_millis(1);
    let until = Pause { until: Some(later), ..pause(at) };
    assert!(until.is_on(just_before) && !until.is_on(later));
    assert!(pause(at).is_on(later + SignedDuration::from_hours(10_000)));
    let ended = Pause { resumed: Some(just_before), ..until.clone() };
    assert!(!ended.is_on(just_before));
    assert!(ended.in_words(later).starts_with("was paused from "), "{}", ended.in_words(later));
    assert!(until.in_words(at).contains(", until "), "{}", until.in_words(at));
    let words = pause(at).in_words(at);
    assert!(words.ends_with("until `consul-redis resume` ends it"), "{words}");
    // What cannot be read was wanted by an operator.
    let unreadable = PauseKey::read(b"{}").on(later, ["agent-0"].into_iter()).expect("on");
    let words = unreadable.to_string();
    assert!(words.contains("cannot be read"), "{words}");
    assert!(
        words.ends_with("; agent-0 is of a version that knows no pause, and goes on"),
        "{words}"
    );
    assert_eq!(PauseKey::Absent.on(at, ["agent-0"].into_iter()), None);
}

#[test]
fn what_is_published_follows_and_says_that_it_is_paused() {
    let scene = paused(failed_over().instance(B, promoted_b()));
    assert_eq!(scene.write().purpose, Purpose::Publish);
    let decision = scene.decision();
    assert!(matches!(&decision.reasons[0], Reason::Paused(_)), "{:?}", decision.reasons);
    let status = assess(&scene.view(), &layout(), &decision);
    let problem = status.problems.iter().find(|problem| problem.code == ProblemCode::Paused);
    let text = &problem.expect("a problem").text;
    assert!(text.contains("by root@h1 (an upgrade)"), "{text}");
    assert!(status.pause.is_some());
}

#[test]
fn sentinels_are_not_told_to_hurry_and_those_that_do_are_told_to_wait_as_before() {
    assert_eq!(refused().write().purpose, Purpose::Hasten);
    let write = paused(refused()).decision().write;
    assert!(write.is_none_or(|write| write.purpose != Purpose::Hasten));
    let hurries = |scene: Scene| scene.sentinel(0, |group| group.settings.down_after_ms = HASTE_MS);
    let told = paused(hurries(hurried())).decision().sentinels;
    let SentinelDuty::Reconfigure(tell) = &told[&sentinel_at(0)] else { panic!("{told:?}") };
    assert!(matches!(tell.what, ReconfigureKind::Pace(ms) if ms > HASTE_MS), "{tell:?}");
    assert_eq!(told.len(), 1, "the others are not told to hurry: {told:?}");
}

/// The safety layer says it again, without the rules' own code.
#[test]
fn a_stray_primary_is_left_alone() {
    let stray = stray(NOW - ASKED, Origin::Started);
    let duty = stray.decision().instances.into_values().find(|duty| matches!(duty, Duty::Fence(_)));
    let fence = duty.and_then(|duty| duty.action()).expect("it is fenced");
    assert_eq!(safety::veto(&stray.view(), &fence), None);
    let stray = paused(stray);
    assert_eq!(done(&stray), []);
    assert_eq!(safety::veto(&stray.view(), &fence).as_deref(), Some("the group is paused"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever is going on, with whatever is switched on.
    #[test]
    fn a_paused_group_is_published_as_by_agents_that_only_publish(scene in scene()) {
        let mut alone = scene.clone();
        alone.policy.leave_alone();
        let scene = paused(scene);
        let waits = |action: &Action| match action {
            Action::Reconfigure(tell) => {
                matches!(tell.what, ReconfigureKind::Pace(ms) if ms != HASTE_MS)
            }
            _ => false,
        };
        prop_assert!(done(&scene).iter().all(waits), "{:?}", done(&scene));
        prop_assert_eq!(scene.decision().verdict, alone.decision().verdict);
    }
}
