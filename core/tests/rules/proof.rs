//! The writer's process has ended, and the kernel of its host says so.

use std::collections::BTreeMap;

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::hold::HoldReason;
use consul_redis_core::duty::safety::veto;
use consul_redis_core::known::memory::{Asked, InstanceRun, Origin};
use consul_redis_core::known::observed::{
    Death, DownOpinion, FailoverPhase, InstanceAnswer, ProofKind, Role,
};
use consul_redis_core::policy::{
    DEATH_KNOWN_MS, FAST_WITHIN_MAX_MS, FastFailover, SUPERSEDED_FOR_MS, SUPERSEDED_HELD_MS,
};
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::{DeathRecord, PublishedRole};
use consul_redis_core::situation::data_loss::{Replace, WhyReplace};
use consul_redis_core::situation::proof::fast;
use consul_redis_core::time::Mono;
use jiff::Timestamp;

use crate::scene::{A, B, C, NOW, Scene, at, primary, replica, run, sentinel_at};

/// How long ago the process of A ended, in ms.
const AGO: u64 = 2;

fn lonely() -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: at(A), link_up: false }, ..replica(1, A) }
}

/// The Sentinels wait for 30 s, and the process of A, which is published, has just ended.
pub fn died() -> Scene {
    let mut scene = Scene::healthy(3);
    for index in 0..3 {
        scene = scene.sentinel(index, |group| group.settings.down_after_ms = 30_000);
    }
    let mut scene = scene.dead(A).instance(B, lonely()).instance(C, lonely());
    scene.policy.fast_failover = FastFailover::Proof;
    let life = InstanceRun { run_id: run(A), origin: Origin::WasWriter };
    scene.memory.lives = BTreeMap::from([(at(A), life)]);
    let (run_id, at_ms) = (run(A), Mono(NOW - AGO));
    let death = Death { run_id, pid: 4711, kind: ProofKind::Process, at: at_ms };
    scene.observed.deaths = BTreeMap::from([(at(A), death)]);
    scene
}

/// What the record says once a Sentinel was asked.
fn noted() -> DeathRecord {
    DeathRecord {
        instance: at(A),
        run_id: run(A),
        pid: 4711,
        evidence: "process".to_owned(),
        at: Timestamp::from_second(1_700_000_000).expect("a time"),
        sentinel: sentinel_at(0),
        epoch: 1,
    }
}

fn seen(noted: &DeathRecord, ago_ms: u64) -> Asked<DeathRecord> {
    let mut seen = Asked::default();
    seen.see(Some(noted), Mono(NOW - ago_ms));
    seen
}

/// The name is withdrawn and a Sentinel is asked, so many ms ago.
fn asked_ago(ago_ms: u64) -> Scene {
    let mut scene = died().published(|record| {
        record.writer = None;
        record.death = Some(noted());
    });
    scene.memory.superseding = seen(&noted(), ago_ms);
    scene
}

fn asked(scene: &Scene) -> Option<Replace> {
    fast(&scene.view()).unwrap_or_else(|why| panic!("{why}"))
}

#[track_caller]
fn why_not(scene: &Scene) -> String {
    let why = fast(&scene.view()).expect_err("nothing is asked").to_string();
    let (start, why) = why.split_once(": ").expect("a reason");
    assert!(start.starts_with("process 4711 of 10.0.0.1:6379 has ended"), "{start}");
    // Nothing is withdrawn for it, and it is said.
    scene.keeps();
    let said = scene.decision().said();
    assert!(said.iter().any(|said| said.contains(why)), "{said:?}");
    why.to_owned()
}

/// A is back as another process.
fn back(answer: InstanceAnswer) -> InstanceAnswer {
    InstanceAnswer { run_id: "another run".to_owned(), ..answer }
}

#[test]
fn the_writer_is_withdrawn_and_one_sentinel_asked_in_one_write() {
    let scene = died();
    let why = "process 4711 of 10.0.0.1:6379 has ended, and Sentinel 10.0.1.1:26379 is asked for a failover";
    assert_eq!(scene.withdraws(), why);
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Withdraw);
    let record = write.record.unwrap();
    assert_eq!((record.writer, record.generation), (None, 8));
    let death = record.death.unwrap();
    assert_eq!((death.instance, death.run_id, death.epoch), (at(A), run(A), 1));
    assert_eq!(
        (death.pid, death.evidence.as_str(), &death.sentinel),
        (4711, "process", &sentinel_at(0))
    );
    let replace = write.replace.unwrap();
    let until = Mono(NOW - AGO + FAST_WITHIN_MAX_MS);
    assert_eq!(replace.why, WhyReplace::Died { run_id: run(A), until });
    assert_eq!((replace.primary, replace.sentinel), (at(A), sentinel_at(0)));
}

#[test]
fn a_silence_proves_nothing() {
    let mut scene = died();
    scene.observed.deaths.clear();
    assert_eq!(asked(&scene), None);
    scene.keeps();
}

#[test]
fn the_end_of_another_run_proves_nothing() {
    let mut scene = died();
    scene.observed.deaths.get_mut(&at(A)).unwrap().run_id = "an older run".to_owned();
    assert_eq!(asked(&scene), None);
    let mut unseen = died();
    unseen.memory.lives.clear();
    assert_eq!(asked(&unseen), None);
    let mut old = died();
    old.observed.deaths.get_mut(&at(A)).unwrap().at = Mono(NOW - DEATH_KNOWN_MS - 1);
    assert_eq!(asked(&old), None);
    // A replica's end is no case.
    let mut replica = died().instance(A, primary(1, None, &[C])).dead(B);
    let death = replica.observed.deaths.remove(&at(A)).unwrap();
    replica.observed.deaths.insert(at(B), death);
    assert_eq!(asked(&replica), None);
}

#[test]
fn what_answers_in_the_same_run_has_not_died() {
    let scene = died().instance(A, primary(1, None, &[B, C])).instance_asked(A, NOW - 1);
    assert_eq!(asked(&scene), None);
    // What it said before is what the dead one said.
    let before = died().instance(A, primary(1, None, &[B, C])).instance_asked(A, NOW - 50);
    assert_eq!(asked(&before).unwrap().primary, at(A));
}

#[test]
fn one_that_is_back_before_anything_was_asked_keeps_the_role_with_all_its_data_only() {
    let with = |answer| died().instance(A, back(answer)).instance_asked(A, NOW - 1);
    let restarted = InstanceAnswer { offset: 1_000, ..primary(5, Some(1), &[]) };
    let whole = InstanceAnswer { forked_at: Some(1_001), ..restarted.clone() };
    assert_eq!(asked(&with(whole.clone())), None);
    let confirmed = |scene: &Scene| matches!(scene.verdict(), Verdict::Confirm { .. });
    assert!(confirmed(&with(whole.clone())), "it is the writer, with another history");
    // An older copy of its data, of which the replicas hold more.
    let older = InstanceAnswer { forked_at: Some(900), offset: 900, ..restarted };
    assert!(asked(&with(older)).is_some());
    // It loads, for minutes perhaps.
    let loads = InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..whole };
    assert!(asked(&with(loads)).is_some());
    // What was begun anew from an append-only file cannot be compared, and leads as it would without agents.
    let anew = InstanceAnswer { append_only: true, ..primary(9, None, &[]) };
    assert_eq!(asked(&with(anew)), None);
}

#[test]
fn whatever_else_is_under_way_goes_first() {
    let mut off = died();
    off.policy.fast_failover = FastFailover::Off;
    assert_eq!(why_not(&off), "fast_failover = \"off\"");
    let mut unmanaged = died();
    unmanaged.policy.leave_alone();
    assert_eq!(why_not(&unmanaged), "fast_failover = \"off\"");
    let mut moving = died();
    let wall = Timestamp::from_second(1_700_000_000 - 60).unwrap();
    moving.observed.store.as_mut().unwrap().moving = Some(wall);
    assert_eq!(why_not(&moving), "a planned move is under way");
    let wall = Timestamp::from_second(1_700_000_000 - 121).unwrap();
    moving.observed.store.as_mut().unwrap().moving = Some(wall);
    assert!(asked(&moving).is_some(), "that move has died");
    let mut maintained = died();
    maintained.observed.store.as_mut().unwrap().maintenance = Ok(BTreeMap::from([(at(A), 100)]));
    assert_eq!(why_not(&maintained), "it is in maintenance");
    let few = died().silent(0).silent(1);
    assert_eq!(why_not(&few), "only 1 of 3 known Sentinels answer");
    let led = died().sentinel(2, |group| group.failover = Some(FailoverPhase::WaitStart));
    assert_eq!(why_not(&led), "a failover is under way");
    // The first Sentinel sees it by itself: this agent is late.
    let seen = died().down(&[1], DownOpinion::Subjective);
    assert_eq!(why_not(&seen), "a failover is under way");
}

#[test]
fn sentinels_that_see_it_soon_are_left_to_it() {
    let soon = |ms| died().sentinel(1, move |group| group.settings.down_after_ms = ms);
    let why = why_not(&soon(2_999));
    assert!(why.contains("with down-after-milliseconds 2999 they see it so soon"), "{why}");
    let least = soon(3_000);
    let WhyReplace::Died { until, .. } = asked(&least).unwrap().why else { panic!("no death") };
    assert_eq!(until, Mono(NOW - AGO + 500));
    let late = |ago| {
        let mut scene = soon(3_000);
        scene.observed.deaths.get_mut(&at(A)).unwrap().at = Mono(NOW - ago);
        scene
    };
    assert!(asked(&late(500)).is_some());
    let why = why_not(&late(501));
    assert!(why.contains("it ended 501 ms ago, and they are about to see it"), "{why}");
}

#[test]
fn a_sentinel_is_asked_once_at_an_epoch_and_once_in_two_failover_timeouts() {
    let before = DeathRecord { instance: at(B), run_id: run(B), epoch: 0, ..noted() };
    let after = |ago_ms: u64| {
        let mut scene = died().published(|record| record.death = Some(before.clone()));
        scene.memory.superseding = seen(&before, ago_ms);
        scene
    };
    assert_eq!(why_not(&after(19_999)), "one was asked for a failover 19 s ago");
    assert!(asked(&after(20_000)).is_some());
    // An agent that has just been started finds one of long ago.
    let long_ago =
        DeathRecord { at: Timestamp::from_second(1_699_000_000).unwrap(), ..before.clone() };
    let mut fresh = died().published(|record| record.death = Some(long_ago.clone()));
    fresh.memory.superseding = seen(&long_ago, 1);
    assert!(asked(&fresh).is_some());
    // It was started again, was published at the same epoch, and has died once more.
    let mut same = died().published(|record| record.death = Some(noted()));
    same.memory.superseding = seen(&noted(), 60_000);
    assert_eq!(why_not(&same), "one was asked for a failover at epoch 1 already");
}

#[test]
fn a_replica_that_was_in_sync_must_be_there_and_be_seen() {
    let none = died().published(|record| {
        for instance in record.instances.iter_mut().filter(|i| i.address != at(A)) {
            instance.role = PublishedRole::OutOfSync;
        }
    });
    assert_eq!(why_not(&none), "no replica that was in sync answers, and may be chosen");
    let never = |address| InstanceAnswer { priority: Some(0), ..replica(1, address) };
    let never = died().instance(B, never(A)).dead(C);
    assert_eq!(why_not(&never), "no replica that was in sync answers, and may be chosen");
    let mut tilted = died();
    for index in 0..3 {
        tilted = tilted.answer(index, |answer| answer.tilt = true);
    }
    assert_eq!(why_not(&tilted), "none that trusts its clock sees a replica that was in sync");
    let one = died().answer(0, |answer| answer.tilt = true);
    assert_eq!(asked(&one).unwrap().sentinel, sentinel_at(1));
}

#[test]
fn a_sentinel_of_another_host_is_asked_first() {
    let mut scene = died();
    let beside = scene.observed.sentinels.remove(&sentinel_at(0)).unwrap();
    scene.observed.sentinels.insert(at("10.0.0.1:26379"), beside);
    assert_eq!(asked(&scene).unwrap().sentinel, sentinel_at(1));
}

#[test]
fn what_is_back_meanwhile_is_not_the_writer_again() {
    let returned = || back(primary(5, Some(1), &[]));
    let within = asked_ago(SUPERSEDED_FOR_MS - 1).instance(A, returned());
    assert!(within.keeps().contains("a failover is replacing 10.0.0.1:6379"), "{}", within.keeps());
    // Another agent knows no more than the record.
    let mut other = within.clone();
    other.observed.deaths.clear();
    other.memory.lives.clear();
    assert!(other.keeps().contains("a failover is replacing 10.0.0.1:6379"));
    // Whatever became of the request, the Sentinels go on naming it.
    let after = asked_ago(SUPERSEDED_FOR_MS).instance(A, returned());
    assert_eq!(after.published_now().0, A);
    // The Sentinel that was asked has refused, as the agent that asked knows.
    let mut refused = within.clone();
    refused.memory.not_superseded = Some(run(A));
    assert_eq!(refused.published_now().0, A);
    // It was chosen again since, at a later epoch.
    let chosen = within.naming(&[0, 1, 2], A, 2);
    assert_eq!(chosen.published_now().0, A);
}

#[test]
fn what_it_would_take_meanwhile_is_held() {
    let returned = || back(primary(5, Some(1), &[]));
    let held = |scene: &Scene| {
        let all = scene.decision().actions();
        let of = |action: &Action| match action {
            Action::Hold(hold) => Some((hold.instance.clone(), hold.why.clone())),
            _ => None,
        };
        all.iter().find_map(of)
    };
    let scene = asked_ago(SUPERSEDED_HELD_MS - 1).instance(A, returned());
    assert_eq!(held(&scene), Some((at(A), HoldReason::BeingReplaced)));
    let hold = scene.decision().actions().into_iter().find(|a| matches!(a, Action::Hold(_)));
    assert_eq!(hold.as_ref().map(|hold| veto(&scene.view(), hold)), Some(None));
    let led = scene.clone().published(|record| record.writer.clone_from(&record.last_writer));
    assert!(veto(&led.view(), &hold.unwrap()).is_some());
    let mut off = scene.clone();
    off.policy.hold_writes = false;
    assert_eq!(held(&off), None);
    assert_eq!(held(&asked_ago(SUPERSEDED_HELD_MS).instance(A, returned())), None);
    // The replicas are not held, nor is one that follows.
    assert_eq!(held(&asked_ago(1).instance(A, back(replica(1, B)))), None);
}

#[test]
fn the_replica_that_the_sentinel_promotes_is_published_as_after_any_failover() {
    let scene = asked_ago(150)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .sentinel(0, |group| (group.down, group.failover_forced) = (DownOpinion::Up, true))
        .instance(B, primary(2, Some(1), &[]));
    assert_eq!(scene.published_now().0, B);
    let Verdict::Publish { why, .. } = scene.verdict() else { panic!("nothing is published") };
    assert_eq!(why.to_string(), "promoted by SENTINEL FAILOVER on 10.0.1.1:26379");
}

#[test]
fn nothing_is_asked_without_the_proof_or_against_an_answer() {
    let scene = died();
    let write = Action::Write(Box::new(scene.write()));
    assert_eq!(veto(&scene.view(), &write), None);
    let refused = |scene: &Scene| veto(&scene.view(), &write).unwrap_or_default();
    let mut unproven = scene.clone();
    unproven.observed.deaths.clear();
    assert!(refused(&unproven).contains("nothing proves"), "{}", refused(&unproven));
    let alive = scene.clone().instance(A, primary(1, None, &[])).instance_asked(A, NOW - 1);
    assert_eq!(refused(&alive), "10.0.0.1:6379 answers");
    let alone = scene.clone().dead(B).dead(C);
    assert_eq!(refused(&alone), "no replica of 10.0.0.1:6379 answers");
    let led = scene.sentinel(1, |group| group.failover = Some(FailoverPhase::SelectReplica));
    assert_eq!(refused(&led), "a failover is under way");
}
