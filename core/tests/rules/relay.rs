//! The outcome of an election, told to the other Sentinels where the leader does not tell them itself.

use consul_redis_core::duty::SentinelDuty;
use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::relay::{Relay, RelayReason, election};
use consul_redis_core::duty::safety;
use consul_redis_core::group::{GroupLoop, Input, Output};
use consul_redis_core::known::memory::Election;
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase, Reading, SentinelId};
use consul_redis_core::policy::{
    Announce, FORCED_EPOCH_AHEAD, LEADER_SILENT_MS, RELAY_AGAIN_MS, TELL_WITHIN_MS,
};
use consul_redis_core::published::record::Level;
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

use crate::scene::{
    A, ASKED, B, C, NOW, Scene, at, id, layout, primary, promoted_b, replica, sentinel_at,
};

/// A is dead, Sentinel 0 leads, and B has become the primary.
fn promotion(sentinels: usize) -> Scene {
    Scene::healthy(sentinels)
        .down(&(0..sentinels).collect::<Vec<_>>(), DownOpinion::Objective)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b())
}

/// What an agent remembers that has seen this scene.
fn remembered(mut scene: Scene) -> Scene {
    // The replica was asked after that.
    scene.memory.election =
        election(&scene.view()).map(|seen| Election { seen: Mono(ASKED), ..seen });
    scene.memory.election = election(&scene.view());
    scene
}

fn elected() -> Scene {
    remembered(promotion(3))
}

fn relays(scene: &Scene) -> Vec<Relay> {
    let duties = scene.decision().sentinels.into_values();
    duties
        .filter_map(|duty| match duty {
            SentinelDuty::Relay(relay) => Some(relay),
            _ => None,
        })
        .collect()
}

fn told(scene: &Scene) -> Vec<(String, RelayReason)> {
    relays(scene).into_iter().map(|relay| (relay.sentinel.to_string(), relay.why)).collect()
}

fn both(why: RelayReason) -> Vec<(String, RelayReason)> {
    [1, 2].map(|index| (sentinel_at(index).to_string(), why)).into()
}

#[test]
fn an_election_is_a_majority_of_votes_and_a_choice() {
    let seen = elected().memory.election.expect("an election");
    let wanted = Election {
        leader: id(0),
        epoch: 2,
        forced: false,
        old: at(A),
        chosen: at(B),
        seen: Mono(ASKED),
        promoted: Some(Mono(NOW)),
    };
    assert_eq!(seen, wanted);
    // One that was not voted for was forced.
    let none = |scene: Scene| assert!(election(&scene.view()).is_none_or(|seen| seen.forced));
    none(promotion(3).leading(0, B, FailoverPhase::WaitStart));
    none(
        promotion(3)
            .sentinel(0, |group| group.replicas.iter_mut().for_each(|r| r.promoted = false)),
    );
    none(promotion(3).sentinel(0, |group| group.peers.iter_mut().for_each(|p| p.voted = None)));
    // Votes stay in the leader's list when a failover is forced, which a Sentinel before 7.0 does not say.
    let voted = |at: u64, in_force: u64| {
        move |group: &mut consul_redis_core::known::observed::SentinelGroup| {
            group.peers.iter_mut().for_each(|peer| peer.voted = Some((id(0), at)));
            group.config_epoch = in_force;
        }
    };
    none(promotion(3).sentinel(0, voted(1, 1)));
    let reconf = || promotion(3).leading(0, B, FailoverPhase::ReconfReplicas);
    none(reconf().sentinel(0, voted(1, 2)));
    assert_eq!(election(&reconf().sentinel(0, voted(2, 2)).view()).map(|e| e.epoch), Some(2));
    // So do those of an election that led to nothing, above the epoch in force.
    let mut seen = promotion(3);
    let idle = promotion(3).sentinel(0, |group| group.failover = None);
    seen.memory.see_votes(&idle.observed);
    none(seen);
    // Two of five is half of the votes.
    let half = |group: &mut consul_redis_core::known::observed::SentinelGroup| {
        group.peers.iter_mut().skip(1).for_each(|peer| peer.voted = None);
    };
    none(promotion(5).sentinel(0, half));
    assert!(election(&promotion(3).sentinel(0, half).view()).is_some(), "two of three");
}

/// Sentinel 0 was asked for a failover; A lives, and no other Sentinel has begun anything.
fn forced() -> Scene {
    let scene = Scene::healthy(3).leading(0, B, FailoverPhase::WaitPromotion);
    let scene = scene.sentinel(0, |group| {
        group.failover_forced = true;
        group.peers.iter_mut().for_each(|peer| peer.voted = None);
    });
    remembered(scene.instance(B, promoted_b()))
}

#[test]
fn a_forced_failover_is_told_at_an_epoch_that_no_election_has() {
    let seen = forced().memory.election.expect("a forced failover");
    assert_eq!((seen.forced, seen.epoch), (true, 1 + FORCED_EPOCH_AHEAD));
    assert_eq!(told(&forced()), [], "its leader is at work");
    let scene = forced().silent(0);
    assert_eq!(told(&scene), both(RelayReason::Silent));
    let hello = relays(&scene)[0].hello(&"redis".parse().expect("a group"));
    assert_eq!(hello, "10.0.1.1,26379,sentinel-0,9,redis,10.0.0.2,6379,9");
    // Seen once more, it is the same one.
    let again = forced();
    assert_eq!(election(&again.view()), again.memory.election);
    assert_eq!(election(&scene.clone().naming(&[1, 2], B, 9).view()), None, "a majority follows");
}

#[test]
fn a_forced_failover_is_not_told_where_another_one_may_have_begun() {
    let scene = || forced().silent(0);
    assert_eq!(told(&scene().down(&[2], DownOpinion::Subjective)), []);
    let stands = scene().sentinel(1, |group| group.failover = Some(FailoverPhase::WaitStart));
    assert_eq!(told(&stands), []);
    assert_eq!(told(&scene().leading(1, C, FailoverPhase::SelectReplica)), []);
    assert_eq!(told(&scene().naming(&[1], C, 2)), [], "it has ended");
    let voted = scene().sentinel(1, |group| {
        group.peers.iter_mut().for_each(|peer| peer.voted = Some((id(1), 2)));
    });
    assert_eq!(told(&voted), []);
    let forced_too = scene().leading(1, B, FailoverPhase::WaitPromotion).sentinel(1, |group| {
        group.failover_forced = true;
        group.peers.iter_mut().for_each(|peer| peer.voted = None);
    });
    assert_eq!(told(&forced_too), []);
    assert_eq!(election(&scene().naming(&[1, 2], C, 2).view()), None, "and is over");
}

#[test]
fn an_election_after_a_forced_failover_takes_its_place() {
    let mut scene = elected();
    let known = forced().memory.election;
    scene.memory.election = known.clone();
    assert_eq!(election(&scene.view()).map(|seen| (seen.forced, seen.epoch)), Some((false, 2)));
    let mut later = elected();
    later.memory.election = known.map(|known| Election { epoch: 2 + FORCED_EPOCH_AHEAD, ..known });
    assert_eq!(election(&later.view()).map(|seen| seen.forced), Some(true), "it was before");
}

#[test]
fn a_forced_failover_that_comes_late_finds_that_it_does_not_hold() {
    let relay = relays(&forced().silent(0)).remove(0);
    let says = |scene: &Scene| {
        let answer = scene.observed.sentinels[&sentinel_at(1)].result.clone();
        relay.still_holds(&answer.expect("an answer"))
    };
    assert!(says(&forced()));
    assert!(!says(&forced().down(&[1], DownOpinion::Subjective)));
    let veto = safety::veto(
        &forced().silent(0).down(&[2], DownOpinion::Subjective).view(),
        &Action::Relay(relay),
    );
    assert!(veto.unwrap_or_default().contains("calls 10.0.0.1:6379 down"));
}

#[test]
fn it_is_remembered_until_a_majority_has_followed() {
    let scene = elected().silent(0);
    assert_eq!(election(&scene.view()).map(|seen| seen.epoch), Some(2));
    let followed = scene.naming(&[1, 2], B, 2);
    assert_eq!(election(&followed.view()), None);
    let mut older = elected();
    older.memory.election.as_mut().expect("one").epoch = 3;
    assert_eq!(election(&older.view()).map(|seen| seen.epoch), Some(3), "the newest counts");
}

#[test]
fn a_leader_at_work_is_left_to_it() {
    assert_eq!(told(&elected()), []);
}

#[test]
fn what_a_silent_leader_would_say_is_said_in_its_place() {
    let scene = elected().silent(0);
    assert_eq!(told(&scene), both(RelayReason::Silent));
    let hello = relays(&scene)[0].hello(&"redis".parse().expect("a group"));
    assert_eq!(hello, "10.0.1.1,26379,sentinel-0,2,redis,10.0.0.2,6379,2");
    let late = |ms| elected().sentinel_asked(0, NOW - ms);
    assert_eq!(told(&late(LEADER_SILENT_MS)), []);
    assert_eq!(told(&late(LEADER_SILENT_MS + 1)), both(RelayReason::Silent));
}

#[test]
fn a_leader_that_has_given_up_or_was_started_again_tells_no_sentinel() {
    let scene = elected().sentinel(0, |group| {
        group.failover = None;
        group.replicas.iter_mut().for_each(|replica| replica.promoted = false);
    });
    assert_eq!(told(&scene), both(RelayReason::GaveUp));
    // It has done all of it, and the others are about to hear.
    let done = scene.sentinel(0, |group| (group.primary, group.config_epoch) = (at(B), 2));
    assert_eq!(told(&done), []);
}

#[test]
fn a_leader_that_no_sentinel_hears_is_late() {
    let since = |ms| {
        let mut scene = elected();
        scene.memory.election.as_mut().expect("one").promoted = Some(Mono(NOW - ms));
        told(&scene)
    };
    assert_eq!(since(TELL_WITHIN_MS), []);
    assert_eq!(since(TELL_WITHIN_MS + 1), both(RelayReason::Late));
}

#[test]
fn where_the_operator_wants_it_agents_tell_it_at_once() {
    let eager = |mut scene: Scene| {
        scene.policy.announce = Announce::Eager;
        scene
    };
    assert_eq!(told(&eager(elected())), both(RelayReason::Eager));
    assert_eq!(told(&eager(forced())), both(RelayReason::Eager));
    // Told in any case, so a leader that is slow to answer is not why.
    assert_eq!(told(&eager(elected().silent(0))), both(RelayReason::Eager));
    assert_eq!(told(&eager(promotion(3))), [], "it was not asked since");
}

#[test]
fn only_what_the_replica_says_of_itself_is_told() {
    assert_eq!(told(&elected().silent(0).instance(B, replica(1, A))), []);
    assert_eq!(told(&elected().silent(0).dead(B)), []);
    assert_eq!(told(&elected().silent(0).instance(B, primary(9, Some(8), &[]))), [], "other data");
    let before = elected().silent(0).instance_asked(B, ASKED - 1);
    assert_eq!(told(&before), [], "it said so before it was chosen");
}

#[test]
fn each_sentinel_is_told_only_what_it_lacks_and_can_place() {
    let first = || vec![(sentinel_at(1).to_string(), RelayReason::Silent)];
    let scene = || elected().silent(0);
    assert_eq!(told(&scene().naming(&[2], B, 2)), first(), "it has heard");
    let stranger = |group: &mut consul_redis_core::known::observed::SentinelGroup| {
        group.peers.retain(|peer| peer.id != id(0));
    };
    assert_eq!(told(&scene().sentinel(2, stranger)), first(), "it does not know the leader");
    assert_eq!(told(&scene().sentinel(2, |group| group.replicas.clear())), first());
    assert_eq!(told(&scene().silent(2)), first());
    let known_as = |group: &mut consul_redis_core::known::observed::SentinelGroup| {
        group.peers.iter_mut().for_each(|peer| peer.address = at("sentinel.example:5000"));
    };
    let named = relays(&scene().sentinel(1, known_as))[0].hello(&"redis".parse().expect("a group"));
    assert_eq!(named, "sentinel.example,5000,sentinel-0,2,redis,10.0.0.2,6379,2");
}

#[test]
fn nothing_is_told_against_another_failover_or_a_newer_epoch() {
    let scene = || elected().silent(0);
    let rival = scene().leading(1, C, FailoverPhase::SendReplicaofNoOne);
    assert_eq!(told(&rival), []);
    let forced = scene()
        .leading(1, B, FailoverPhase::SendReplicaofNoOne)
        .sentinel(1, |group| group.failover_forced = true);
    assert_eq!(told(&forced), []);
    assert_eq!(told(&scene().naming(&[2], C, 2)), [], "two at one epoch");
    assert_eq!(told(&scene().naming(&[2], C, 3)), []);
    // One that only stands for election may lose it.
    let candidate = scene().sentinel(1, |group| group.failover = Some(FailoverPhase::WaitStart));
    assert_eq!(told(&candidate), both(RelayReason::Silent));
}

#[test]
fn nothing_is_told_where_agents_are_to_leave_sentinels_alone() {
    let mut scene = elected().silent(0);
    scene.policy.relay = false;
    assert_eq!(told(&scene), []);
    let mut scene = elected().silent(0);
    scene.policy.leave_alone();
    assert_eq!(told(&scene), []);
}

#[test]
fn a_sentinel_is_told_again_after_a_while_only() {
    let mut scene = elected().silent(0);
    let last = |scene: &mut Scene, epoch, ms| {
        scene.memory.relayed = [1, 2].map(|n| (sentinel_at(n), (epoch, Mono(NOW - ms)))).into();
        told(scene)
    };
    assert_eq!(last(&mut scene, 2, RELAY_AGAIN_MS - 1), []);
    assert_eq!(last(&mut scene, 2, RELAY_AGAIN_MS), both(RelayReason::Silent));
    assert_eq!(last(&mut scene, 1, 0), both(RelayReason::Silent), "of another election");
}

/// What was decided is compared with what the Sentinel says right before.
#[test]
fn a_relay_that_comes_late_finds_that_it_does_not_hold() {
    let scene = elected().silent(0);
    let relay = relays(&scene).remove(0);
    let says = |scene: &Scene| {
        let answer = scene.observed.sentinels[&sentinel_at(1)].result.clone();
        relay.still_holds(&answer.expect("an answer"))
    };
    assert!(says(&scene));
    assert!(!says(&scene.clone().naming(&[1], C, 3)));
    assert!(!says(&scene.clone().naming(&[1], B, 2)));
    assert!(!says(&scene.clone().leading(1, C, FailoverPhase::SelectReplica)));
    assert!(!says(&scene.clone().answer(1, |answer| answer.group = None)));
}

/// Said again without the rule's own code.
#[test]
fn the_safety_layer_forbids_what_is_not_so() {
    let scene = elected().silent(0);
    let veto = |scene: &Scene| {
        let relay = relays(&elected().silent(0)).remove(0);
        safety::veto(&scene.view(), &Action::Relay(relay))
    };
    assert_eq!(veto(&scene), None);
    for (wrong, said) in [
        (scene.clone().instance(B, replica(1, A)), "has not said that it is the primary"),
        (scene.clone().naming(&[1], A, 2), "names 10.0.0.1:6379 at epoch 2"),
        (scene.clone().naming(&[2], C, 2), "names 10.0.0.3:6379 at epoch 2"),
        (scene.clone().leading(2, C, FailoverPhase::SelectReplica), "leads another failover"),
    ] {
        let veto = veto(&wrong).unwrap_or_default();
        assert!(veto.contains(said), "`{veto}` lacks `{said}`");
    }
}

/// Where the leader's death could lose it, a promotion is not published before a majority names it.
#[test]
fn where_sentinels_refuse_it_a_writer_is_published_at_quorum() {
    let refuse = |scene: Scene, index| {
        let words = "NOPERM this user has no permissions to run the 'publish' command";
        scene.answer(index, |answer| answer.refuses_relay = Some(words.to_owned()))
    };
    let scene = refuse(promotion(3), 1);
    assert!(scene.withdraws().contains("is down"), "only the dead one is withdrawn");
    let said = scene.decision().said().join("\n");
    assert!(said.contains("10.0.1.2:26379 (`NOPERM"), "{said}");
    // Four of five are left, and one of them leads.
    assert_eq!(refuse(promotion(5), 1).published_now(), (B.to_owned(), Level::Promotion));
    assert!(refuse(refuse(promotion(5), 1), 2).withdraws().contains("is down"));
    let mut unwanted = refuse(promotion(3), 1);
    unwanted.policy.relay = false;
    assert_eq!(unwanted.published_now(), (B.to_owned(), Level::Promotion));
    let said = refuse(promotion(3), 1).at_level(Level::Quorum).decision().said().join("\n");
    assert!(!said.contains("NOPERM"), "a majority is waited for anyway: {said}");
}

/// The loop remembers the election, and tells once the leader's connection is closed.
#[test]
fn a_loop_tells_the_others_when_the_leader_closes_its_connection() {
    let scene = promotion(3);
    let now =
        |ms| Now { mono: Mono(ms), wall: Timestamp::from_second(1_700_000_000).expect("a time") };
    let mut machine = GroupLoop::new(scene.policy.clone(), layout());
    machine.on(Input::Watched(scene.observed.store.clone().expect("a store")), now(1_000));
    let mut outputs = Vec::new();
    for (address, reading) in &scene.observed.sentinels {
        let reading = Reading { asked: Mono(1_003), answered: Mono(1_004), ..reading.clone() };
        outputs.extend(machine.on(Input::Sentinel(address.clone(), reading), now(1_004)));
    }
    for (address, reading) in &scene.observed.instances {
        let reading = Reading { asked: Mono(1_005), answered: Mono(1_006), ..reading.clone() };
        outputs.extend(machine.on(Input::Instance(address.clone(), reading), now(1_006)));
    }
    let relayed = |outputs: &[Output]| -> Vec<SentinelId> {
        let relays = outputs.iter().filter_map(|output| match output {
            Output::Relay(relay, _) => Some(relay.leader.clone()),
            _ => None,
        });
        relays.collect()
    };
    assert_eq!(relayed(&outputs), []);
    let closed = Err("the connection was closed".to_owned());
    let reading = Reading { asked: Mono(1_010), answered: Mono(1_010), result: closed };
    let outputs = machine.on(Input::Sentinel(sentinel_at(0), reading), now(1_010));
    assert_eq!(relayed(&outputs), [id(0), id(0)]);
    assert_eq!(relayed(&machine.on(Input::Tick, now(1_020))), [], "each once");
}
