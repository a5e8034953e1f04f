//! Sentinels and replicas that are gone for good are forgotten: one Sentinel at a time, and only at rest.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::stale_peers::{Forget, StalePeer};
use consul_redis_core::known::memory::Asked;
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase, InstanceAnswer, SentinelId};
use consul_redis_core::policy::RESET_GAP_MS;
use consul_redis_core::published::record::{Basis, Reset};
use consul_redis_core::shown::status::assess;
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, at, layout, primary, replica, sentinel_at};

/// After this they are gone for good, in these scenes.
const AFTER: u64 = 50_000;
const LONG: u64 = AFTER + 10_000;

fn soon(mut scene: Scene) -> Scene {
    scene.policy.forget_sentinels_after_ms = AFTER;
    scene.policy.forget_after_ms = AFTER;
    scene
}

/// One of four Sentinels does not answer, and its peers call it down.
fn one_silent() -> Scene {
    (0..3).fold(soon(Scene::healthy(4).silent(3)), |scene, index| {
        scene.sentinel(index, |group| {
            for peer in group.peers.iter_mut().filter(|peer| peer.address == sentinel_at(3)) {
                peer.s_down = true;
            }
        })
    })
}

/// C does not answer, the Sentinels call it down, and the primary has lost it.
fn one_replica_silent() -> Scene {
    let scene = soon(Scene::healthy(3)).dead(C).instance(A, primary(1, None, &[B]));
    let scene = (0..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| {
            for replica in group.replicas.iter_mut().filter(|replica| replica.address == at(C)) {
                replica.s_down = true;
            }
        })
    });
    scene.published(|record| record.instances.retain(|i| i.address != at(C)))
}

fn forgets(scene: &Scene) -> Option<Forget> {
    let actions = scene.decision().actions();
    actions.into_iter().find_map(|action| match action {
        Action::Write(write) if write.purpose == Purpose::Forget => write.forget,
        _ => None,
    })
}

fn stale_sentinel() -> StalePeer {
    StalePeer::Sentinel(SentinelId("sentinel-3".to_owned()), sentinel_at(3))
}

#[test]
fn a_sentinel_that_is_gone_for_good_is_forgotten_by_one_that_lists_it() {
    let wanted =
        Forget { sentinel: sentinel_at(0), primary: at(A), stale_peers: vec![stale_sentinel()] };
    assert_eq!(forgets(&one_silent().lasting(LONG)), Some(wanted));
}

#[test]
fn a_replica_that_is_gone_for_good_is_forgotten_too() {
    let found = forgets(&one_replica_silent().lasting(LONG));
    assert_eq!(found.map(|forget| forget.stale_peers), Some(vec![StalePeer::Replica(at(C))]));
}

/// A Sentinel that was made anew, and has heard a late hello of its former self.
fn one_lists_itself() -> Scene {
    soon(Scene::healthy(3)).sentinel(1, |group| {
        let mut itself = group.peers[0].clone();
        (itself.id, itself.address) = (SentinelId("sentinel-1".to_owned()), sentinel_at(1));
        group.peers.push(itself);
        group.other_sentinels += 1;
    })
}

#[test]
fn a_sentinel_that_lists_itself_counts_once() {
    assert_eq!(one_lists_itself().view().tally.known, 3);
}

#[test]
fn a_sentinel_that_lists_itself_forgets_that_and_no_other_one_is_reset() {
    let itself = StalePeer::Sentinel(SentinelId("sentinel-1".to_owned()), sentinel_at(1));
    let wanted = Forget { sentinel: sentinel_at(1), primary: at(A), stale_peers: vec![itself] };
    assert_eq!(forgets(&one_lists_itself().lasting(LONG)), Some(wanted.clone()));
    // It may have been found again by others meanwhile, and lists itself no more.
    let scene = Scene::healthy(3);
    let answer = |index| scene.observed.sentinels[&sentinel_at(index)].result.clone().unwrap();
    assert!(!wanted.still_holds(&answer(1)), "it lists itself no more");
    let lists = one_lists_itself().observed.sentinels[&sentinel_at(1)].result.clone().unwrap();
    assert!(wanted.still_holds(&lists));
}

fn last(number: u64) -> Reset {
    Reset { number, sentinel: sentinel_at(2) }
}

/// What an agent remembers of a reset that it first saw so long ago.
fn seen(number: u64, ago_ms: u64) -> Asked<Reset> {
    let mut seen = Asked::default();
    seen.see(Some(&last(number)), Mono(NOW - ago_ms));
    seen
}

#[test]
fn the_write_says_which_sentinel_and_counts() {
    let scene = one_silent().published(|record| record.reset = Some(last(4)));
    let mut scene = scene.lasting(LONG);
    scene.memory.reset = seen(4, RESET_GAP_MS);
    let record = scene.write().record.expect("a record");
    assert_eq!(record.reset, Some(Reset { number: 5, sentinel: sentinel_at(0) }));
    assert_eq!(record.generation, 7);
}

#[test]
fn the_next_one_waits_until_the_last_one_knows_all_peers_again() {
    let mut scene = one_silent().lasting(LONG);
    scene.memory.reset = seen(1, RESET_GAP_MS - 1);
    assert_eq!(forgets(&scene), None);
    // An older agent has dropped it from the record.
    scene.memory.reset.see(None, Mono(NOW));
    assert_eq!(forgets(&scene), None);
    let scene = one_silent().sentinel(0, |group| group.peers.clear()).lasting(LONG);
    assert_eq!(forgets(&scene), None);
    let scene = one_silent().sentinel(0, |group| group.replicas.clear()).lasting(LONG);
    assert_eq!(forgets(&scene), None);
    let done = one_silent().sentinel(0, |group| {
        group.peers.retain(|peer| peer.address != sentinel_at(3));
    });
    let next = forgets(&done.lasting(LONG)).map(|forget| forget.sentinel);
    assert_eq!(next, Some(sentinel_at(1)));
}

#[test]
fn a_peer_that_may_be_alive_is_not_forgotten() {
    assert_eq!(forgets(&one_silent().lasting(AFTER - 1)), None, "not for long enough");
    let heard_by_one = one_silent().sentinel(1, |group| {
        group.peers.iter_mut().for_each(|peer| peer.s_down = false);
    });
    assert_eq!(forgets(&heard_by_one.lasting(LONG)), None);
    let back = one_replica_silent().instance(C, replica(1, A));
    assert_eq!(forgets(&back.lasting(LONG)), None);
    let connected = one_replica_silent().instance(A, primary(1, None, &[B, C]));
    assert_eq!(forgets(&connected.lasting(LONG)), None);
}

#[test]
fn one_that_is_only_late_keeps_the_others_from_being_forgotten() {
    // Sentinel 3 is gone for good; Sentinel 2 fell silent a moment ago.
    let scene = (0..2).fold(one_silent().silent(2), |scene, index| {
        scene.sentinel(index, |group| group.peers.iter_mut().for_each(|peer| peer.s_down = true))
    });
    assert_eq!(forgets(&scene.lasting(LONG)), None, "no majority of four");
}

#[test]
fn no_sentinel_is_reset_unless_all_is_at_rest() {
    let still = [
        one_silent().sentinel(1, |group| group.down = DownOpinion::Subjective),
        one_silent().sentinel(1, |group| group.failover = Some(FailoverPhase::WaitStart)),
        one_silent().sentinel(1, |group| group.only_master_flag = false),
        one_silent().answer(1, |answer| answer.tilt = true),
        one_silent().answer(1, |answer| answer.group = None),
        one_silent().naming(&[1], B, 1),
        one_silent().dead(A),
        one_silent().published(|record| record.evidence.basis = Basis::Agents),
    ];
    for (index, scene) in still.into_iter().enumerate() {
        assert_eq!(forgets(&scene.lasting(LONG)), None, "scene {index}");
    }
    let mut young = one_silent().lasting(LONG);
    young.memory.generation = Some((7, Mono(NOW - RESET_GAP_MS + 1)));
    assert_eq!(forgets(&young), None, "just switched");
}

#[test]
fn it_can_be_left_to_the_operator() {
    let mut scene = one_silent().lasting(LONG);
    scene.policy.forget_ghosts = false;
    assert_eq!(forgets(&scene), None);
    let mut scene = one_silent().lasting(LONG);
    scene.policy.leave_alone();
    assert_eq!(scene.decision().actions(), []);
}

#[test]
fn a_command_that_comes_late_finds_what_has_changed() {
    let scene = one_silent().lasting(LONG);
    let forget = forgets(&scene).expect("something to forget");
    let says = |scene: &Scene| {
        let reading = scene.observed.sentinels.get(&sentinel_at(0)).expect("a Sentinel");
        reading.result.clone().expect("an answer")
    };
    assert!(forget.still_holds(&says(&scene)));
    let changed = [
        scene.clone().sentinel(0, |group| group.failover = Some(FailoverPhase::WaitStart)),
        scene.clone().sentinel(0, |group| group.only_master_flag = false),
        scene.clone().naming(&[0], B, 2),
        scene.clone().sentinel(0, |group| group.peers.clear()),
        scene.clone().answer(0, |answer| answer.tilt = true),
    ];
    for (index, scene) in changed.into_iter().enumerate() {
        assert!(!forget.still_holds(&says(&scene)), "change {index}");
    }
}

/// `replica-announced no`: no Sentinel ever shows it, and the writer has it.
#[test]
fn a_replica_that_is_not_announced_keeps_nobody_from_being_forgotten() {
    let d = "10.0.0.4:6379";
    let with = || one_silent().instance(A, primary(1, None, &[B, C, d]));
    assert!(forgets(&with().lasting(LONG)).is_some(), "no agent asks it");
    let hidden = InstanceAnswer { announced: false, ..replica(1, A) };
    assert!(forgets(&with().instance(d, hidden).lasting(LONG)).is_some());
    assert_eq!(forgets(&with().instance(d, replica(1, A)).lasting(LONG)), None);
}

/// One of three was started anew three times, with another id and at another address each time: three of six answer.
#[test]
fn where_most_that_are_counted_are_gone_the_operator_is_told_what_to_reset() {
    let mut scene = Scene::healthy(6).silent(3).silent(4).silent(5);
    for index in 0..3 {
        scene = scene.sentinel(index, |group| {
            for peer in &mut group.peers {
                peer.s_down = (3..6).any(|gone| peer.id == crate::scene::id(gone));
            }
        });
    }
    let said = |scene: &Scene| {
        let decision = scene.decision();
        assert!(decision.write.is_none(), "no agent does it");
        let status = assess(&scene.view(), &layout(), &decision);
        status.problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>().join("\n")
    };
    let reset = "call 10.0.1.4:26379, 10.0.1.5:26379, 10.0.1.6:26379 down. If these are gone for good, run SENTINEL RESET redis \
                 on 10.0.1.1:26379, then 10.0.1.2:26379, then 10.0.1.3:26379, 30 s apart";
    assert!(said(&scene).contains(reset), "{}", said(&scene));
    // One that lives may not be among those that answer.
    let hidden = scene.clone().silent(2);
    assert!(!said(&hidden).contains("SENTINEL RESET"), "{}", said(&hidden));
    let split = scene.naming(&[0], B, 2);
    assert!(!said(&split).contains("SENTINEL RESET"), "{}", said(&split));
}
