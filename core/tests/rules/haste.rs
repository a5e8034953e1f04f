//! The writer refuses connections, and nothing proves its death: the Sentinels are told to wait for a moment only.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::duty::SentinelDuty;
use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::safety;
use consul_redis_core::known::memory::{Asked, InstanceRun, Origin, ReconfigureKind};
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, Refusal, Role,
};
use consul_redis_core::policy::{
    FastFailover, HASTE_FOR_MS, HASTE_KEPT_MS, HASTE_MAX_MS, HASTE_MS, HASTE_WITHIN_MS,
};
use consul_redis_core::published::record::{HasteRecord, Record, is_haste};
use consul_redis_core::published::store::RefusedNote;
use consul_redis_core::shown::reasons::WhyNotFast;
use consul_redis_core::situation::haste::due;
use consul_redis_core::time::Mono;
use jiff::Timestamp;

use crate::scene::{A, ASKED, B, C, NOW, Scene, at, primary, replica, run, sentinel_at};

/// What the Sentinels wait for by themselves, in ms.
const PATIENT_MS: u64 = 30_000;

fn lonely() -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: at(A), link_up: false }, ..replica(1, A) }
}

/// A refuses two of three agents since it closed their connections, and all that followed it have lost it.
pub(crate) fn refused() -> Scene {
    let mut scene = Scene::healthy(3);
    for index in 0..3 {
        scene = scene.sentinel(index, |group| {
            group.settings.down_after_ms = PATIENT_MS;
            group.disconnected = true;
        });
    }
    let mut scene = scene.dead(A).instance(B, lonely()).instance(C, lonely());
    scene.policy.fast_failover = FastFailover::Vote;
    let life = InstanceRun { run_id: run(A), origin: Origin::WasWriter };
    scene.memory.lives = BTreeMap::from([(at(A), life)]);
    let refusal = Refusal { run_id: run(A), since: Mono(ASKED), latest: Mono(ASKED) };
    scene.observed.refusals = BTreeMap::from([(at(A), refusal)]);
    let own = scene.policy.agent.clone();
    let store = scene.observed.store.as_mut().expect("a store");
    store.agents = BTreeSet::from([own, "second".to_owned(), "third".to_owned()]);
    let note = RefusedNote { instance: at(A), run_id: run(A) };
    store.refused = BTreeMap::from([("second".to_owned(), note)]);
    scene
}

/// It is written down, and the Sentinels are to hurry.
pub(crate) fn hurried() -> Scene {
    let haste = due(&refused().view()).expect("nothing against it").expect("it is due");
    let scene = refused().published(|record| record.haste = Some(haste));
    remembered(scene, 10)
}

/// The same, seen so many ms ago.
fn remembered(mut scene: Scene, ago_ms: u64) -> Scene {
    let haste = scene.view().record.and_then(|record| record.haste.clone());
    scene.memory.hastened = Asked::<HasteRecord>::default();
    scene.memory.hastened.see(haste.as_ref(), Mono(NOW - ago_ms));
    scene
}

/// What each Sentinel is told to wait for now.
fn told(scene: &Scene) -> Vec<(String, u64)> {
    let duties = scene.decision().sentinels;
    let paces = duties.into_iter().filter_map(|(at, duty)| match duty {
        SentinelDuty::Reconfigure(tell) => match tell.what {
            ReconfigureKind::Pace(ms) => Some((at.to_string(), ms)),
            _ => None,
        },
        _ => None,
    });
    paces.collect()
}

#[test]
fn as_many_sentinels_as_must_agree_are_written_down_with_what_they_waited_for() {
    let scene = refused();
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Hasten);
    let record = write.record.expect("a record");
    assert_eq!(record.writer_address(), Some(&at(A)), "the name stays until they agree");
    let haste = record.haste.expect("it is in it");
    assert_eq!((haste.instance, haste.evidence.as_str(), haste.epoch), (at(A), "refused", 1));
    assert_eq!(haste.leader, sentinel_at(0));
    let before = BTreeMap::from([(sentinel_at(0), PATIENT_MS), (sentinel_at(1), PATIENT_MS)]);
    assert_eq!(haste.before, before);
    assert_eq!(told(&scene), [], "nothing is told before that");
}

#[test]
fn a_minority_of_the_agents_a_link_or_a_connection_that_is_left_speak_against_it() {
    let none = |scene: Scene| assert!(!matches!(due(&scene.view()), Ok(Some(_))));
    let mut alone = refused();
    alone.observed.store.as_mut().expect("a store").refused.clear();
    none(alone.clone());
    // One agent is all of one.
    alone.observed.store.as_mut().expect("a store").agents.clear();
    assert!(due(&alone.view()).is_ok_and(|haste| haste.is_some()));
    none(refused().instance(B, replica(1, A)));
    none(refused().dead(B).dead(C));
    none(refused().instance_asked(B, ASKED - 1).instance_asked(C, ASKED - 1));
    let connected = |scene: Scene, index| scene.sentinel(index, |group| group.disconnected = false);
    assert!(
        due(&connected(refused(), 2).view()).is_ok_and(|haste| haste.is_some()),
        "two of three"
    );
    none(connected(connected(refused(), 2), 1));
    none(refused().instance(A, primary(1, None, &[B, C])));
    let mut another = refused();
    another.observed.refusals.get_mut(&at(A)).expect("one").run_id = "another".to_owned();
    none(another);
}

/// Elected, it would give up, and wait for twice `failover-timeout` (`-failover-abort-no-good-slave`).
#[test]
fn a_sentinel_without_a_replica_to_choose_never_leads() {
    let blind = |scene: Scene, index| scene.sentinel(index, |group| group.replicas.clear());
    let haste = due(&blind(refused(), 0).view()).expect("another leads").expect("it is due");
    assert_eq!(haste.leader, sentinel_at(1));
    assert!(haste.before.contains_key(&sentinel_at(2)), "{haste:?}");
    let none = blind(blind(refused(), 0), 1);
    assert_eq!(due(&none.view()).map(|_| ()), Ok(()));
    let why = due(&blind(none, 2).view()).expect_err("none finds any").why;
    assert_eq!(why, WhyNotFast::NoSentinel);
}

#[test]
fn whatever_else_is_under_way_goes_before_it() {
    let none = |scene: Scene| assert!(!matches!(due(&scene.view()), Ok(Some(_))));
    none(refused().leading(1, B, FailoverPhase::WaitStart));
    none(refused().down(&[0, 1], DownOpinion::Objective));
    none(refused().naming(&[0, 1], B, 2));
    none(refused().sentinel(1, |group| group.settings.down_after_ms = HASTE_MS));
    for policy in [FastFailover::Proof, FastFailover::Off] {
        let mut scene = refused();
        scene.policy.fast_failover = policy;
        none(scene);
    }
    let mut observing = refused();
    observing.policy.leave_alone();
    none(observing);
    // Once an epoch.
    none(hurried());
}

#[test]
fn the_one_that_is_to_lead_is_told_once_the_others_agree() {
    let second = (sentinel_at(1).to_string(), HASTE_MS);
    assert_eq!(told(&hurried()), [second]);
    let lowered = |scene: Scene, index| {
        scene.sentinel(index, |group| group.settings.down_after_ms = HASTE_MS)
    };
    assert_eq!(told(&lowered(hurried(), 1)), []);
    let agreed = lowered(hurried(), 1).down(&[1], DownOpinion::Subjective);
    assert_eq!(told(&agreed), [(sentinel_at(0).to_string(), HASTE_MS)]);
}

/// A Sentinel chooses no replica that had lost its link ten times `down-after-milliseconds` before it called the primary
/// down, and it may be told late.
#[test]
fn the_longer_a_writer_has_been_dead_the_longer_they_wait() {
    let pace = |scene: &Scene| due(&scene.view()).expect("nothing against").expect("due").pace_ms;
    assert_eq!(pace(&refused()), HASTE_MS);
    // An agent that has seen it for long, for Consul was away, say.
    let seen = |ago_ms| {
        let mut scene = refused();
        scene.observed.refusals.get_mut(&at(A)).expect("one").since = Mono(NOW - ago_ms);
        scene
    };
    assert_eq!(pace(&seen(3_000)), 701);
    // One that stood still does not know: its replicas do. One of them had no link before it died.
    let lost = |seconds| InstanceAnswer { link_down_s: Some(seconds), ..lonely() };
    let told = |seconds| refused().instance(B, lost(seconds)).instance(C, lost(3_600));
    assert_eq!(pace(&told(5)), HASTE_MAX_MS);
    // None could be chosen any more.
    let late = due(&told(8).view()).expect_err("too late").why;
    assert!(matches!(late, WhyNotFast::LinksLost { ago_ms: 8_000 }), "{late:?}");
    // One that is told late calls it down late, and must find a replica to choose all the same.
    let told_after = |ms| {
        let (_, wait) = super::haste::told(&remembered(hurried(), ms)).remove(0);
        wait
    };
    assert_eq!([0, 500, 1_000, 2_000, 2_900].map(told_after), [201, 201, 301, 401, 501]);
    // Never as long as they would by themselves.
    let quick = (0..3).fold(seen(1_500), |scene, index| {
        scene.sentinel(index, |group| group.settings.down_after_ms = 1_000)
    });
    assert_eq!(pace(&quick), 501);
    for pace in [501, 701, HASTE_MAX_MS] {
        assert!(is_haste(pace) && !is_haste(pace - 1), "{pace} is no number of an operator");
    }
}

/// It drops what it does not know of a record, and the Sentinels wait as before all the same.
#[test]
fn an_agent_of_an_earlier_version_loses_what_they_wait_for() {
    let mut text = serde_json::to_value(hurried().view().record).expect("JSON");
    assert!(text["haste"].as_object_mut().expect("one").remove("pace_ms").is_some());
    let record: Record = serde_json::from_value(text).expect("a record");
    let left = [501, HASTE_MS].into_iter().enumerate().fold(
        hurried().published(|now| now.haste.clone_from(&record.haste)),
        |scene, (index, ms)| scene.sentinel(index, |group| group.settings.down_after_ms = ms),
    );
    let both: Vec<(String, u64)> =
        [0, 1].map(|index| (sentinel_at(index).to_string(), PATIENT_MS)).into();
    assert_eq!(told(&remembered(left, HASTE_FOR_MS)), both);
}

/// An agent that does not know yet that one was elected undoes nothing of what another has put back.
#[test]
fn a_sentinel_is_told_to_hurry_once() {
    let told_to = |hurry: &dyn Fn(&mut Scene)| {
        let mut scene = hurried();
        hurry(&mut scene);
        told(&scene).len()
    };
    assert_eq!(told_to(&|_| ()), 1);
    let seen = |ago_ms| {
        move |scene: &mut Scene| {
            let answer = scene.observed.sentinels.get_mut(&sentinel_at(1)).expect("one");
            let before = answer.clone();
            answer.answered = Mono(NOW - ago_ms);
            let group = answer.result.as_mut().expect("an answer").group.as_mut();
            group.expect("the group").settings.down_after_ms = HASTE_MS;
            scene.memory.see_paces(&scene.observed);
            scene.observed.sentinels.insert(sentinel_at(1), before);
        }
    };
    assert_eq!(told_to(&seen(10)), 0, "it was told by another agent");
    assert_eq!(told_to(&seen(11)), 1, "about an election of before");
    let by_us = |ago_ms| {
        let key = (sentinel_at(1), ReconfigureKind::Pace(HASTE_MS));
        move |scene: &mut Scene| {
            scene.memory.reconfigured.insert(key.clone(), Mono(NOW - ago_ms));
        }
    };
    assert_eq!(told_to(&by_us(10)), 0);
    assert_eq!(told_to(&by_us(2_000)), 1);
    // The Sentinel was asked after the end of the command, and is as it was: the command came too late.
    let late = |ago_ms| {
        move |scene: &mut Scene| {
            *scene = remembered(scene.clone(), 1_000);
            by_us(ago_ms)(scene);
        }
    };
    let asked_ago_ms = NOW - ASKED;
    assert_eq!(told_to(&late(asked_ago_ms + HASTE_WITHIN_MS)), 0);
    assert_eq!(told_to(&late(asked_ago_ms + HASTE_WITHIN_MS + 1)), 1);
    // It calls the writer down as soon by itself.
    let quick = |before: u64| {
        move |scene: &mut Scene| {
            let quick = scene.clone().published(|record| {
                let haste = record.haste.as_mut().expect("it is in it");
                haste.before.values_mut().for_each(|ms| *ms = before);
            });
            *scene =
                remembered(quick, 1_000).sentinel(1, |group| group.settings.down_after_ms = before);
        }
    };
    let late_ms = 1_000 + HASTE_MS + 100;
    assert_eq!(told_to(&quick(late_ms)), 0);
    assert_eq!(told_to(&quick(late_ms + 1)), 1);
}

#[test]
fn they_wait_as_before_once_one_is_elected_or_it_is_over() {
    let all = || {
        (0..2).fold(hurried(), |scene, index| {
            scene.sentinel(index, |group| group.settings.down_after_ms = HASTE_MS)
        })
    };
    assert_eq!(told(&all()), []);
    let both: Vec<(String, u64)> =
        [0, 1].map(|index| (sentinel_at(index).to_string(), PATIENT_MS)).into();
    assert_eq!(told(&all().leading(0, B, FailoverPhase::SelectReplica)), both);
    assert_eq!(told(&all().leading(0, B, FailoverPhase::WaitStart)), []);
    assert_eq!(told(&remembered(all(), HASTE_FOR_MS)), both);
    assert_eq!(told(&all().instance(A, primary(1, None, &[B, C]))), both, "it answers");
    // Whichever agent is left does it, one that has just been started as well.
    let mut fresh = all();
    fresh.memory.hastened = Asked::default();
    assert_eq!(told(&fresh), both);
    // Then the record has it no more, once no command can be on its way.
    let rested = |ago_ms: i64| {
        let scene = remembered(hurried().instance(A, primary(1, None, &[B, C])), HASTE_FOR_MS);
        let scene = scene.published(|record| {
            let haste = record.haste.as_mut().expect("it is in it");
            haste.at =
                Timestamp::from_millisecond(haste.at.as_millisecond() - ago_ms).expect("a time");
        });
        let record = scene.decision().write.and_then(|write| write.record);
        record.map(|record| record.haste.is_none())
    };
    assert_eq!(rested(HASTE_KEPT_MS), Some(true));
    assert_ne!(rested(HASTE_KEPT_MS - 1), Some(true));
}

/// A firewall refuses most agents: the one that reaches it speaks for it, once, and all others go by that.
#[test]
fn an_agent_that_it_answers_has_them_wait_as_before() {
    let lowered = |scene: Scene| {
        (0..2).fold(scene, |scene, index| {
            scene.sentinel(index, |group| group.settings.down_after_ms = HASTE_MS)
        })
    };
    let answering = |scene: Scene| {
        lowered(scene).instance(A, primary(1, None, &[B, C])).instance_asked(A, NOW - 5)
    };
    let reaching = answering(hurried());
    let write = reaching.write();
    assert_eq!(write.purpose, Purpose::Hasten);
    let answers = write.record.expect("a record").haste.expect("it is in it").answers;
    assert_eq!(answers.as_deref(), Some(reaching.policy.agent.as_str()));
    let spoken = |scene: Scene| {
        scene.published(|record| {
            record.haste.as_mut().expect("it is in it").answers = Some("another".to_owned());
        })
    };
    let both: Vec<(String, u64)> =
        [0, 1].map(|index| (sentinel_at(index).to_string(), PATIENT_MS)).into();
    assert_eq!(told(&spoken(lowered(hurried()))), both, "the ones that are refused, too");
    let says = |scene: Scene| scene.decision().write.and_then(|w| w.record?.haste?.answers);
    assert_eq!(says(reaching.clone().instance_asked(A, NOW - 20)), None, "answered before that");
    assert_eq!(says(reaching), answers);
    assert_eq!(says(spoken(answering(hurried()))), None, "it is said once");
}

#[test]
fn the_safety_layer_gives_no_primary_that_answers_less_time() {
    let tell = |scene: &Scene| {
        let mut duties = scene.decision().sentinels.into_values();
        duties.find_map(|duty| duty.action()).expect("a Sentinel is told")
    };
    let action: Action = tell(&hurried());
    let veto = |scene: &Scene| safety::veto(&scene.view(), &action);
    assert_eq!(veto(&hurried()), None);
    let lives = veto(&hurried().instance(A, primary(1, None, &[B, C])));
    assert_eq!(lives.as_deref(), Some("10.0.0.1:6379 answers"));
    let unwritten = veto(&refused()).unwrap_or_default();
    assert!(unwritten.contains("is not written down"), "{unwritten}");
}
