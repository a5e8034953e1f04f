//! Rule 3: as soon as an elected leader has chosen a replica and that replica says it is the primary,
//! publish it; until the majority confirms it, the old answer at the old epoch does not overrule it.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase};
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::{Change, Level, Timeline, Writer};
use consul_redis_core::time::{Mono, after};

use jiff::Timestamp;

use crate::scene::{A, B, C, NOW, Scene, at, id, primary, promoted_b, replica};

/// A is dead, Sentinel 0 leads, B got the command and has become the primary; no majority names it yet.
fn promotion() -> Scene {
    Scene::healthy(3)
        .down(&[0, 1, 2], DownOpinion::Objective)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b())
        .instance(C, replica(1, A))
}

#[test]
fn a_chosen_replica_that_says_it_is_primary_is_published_at_once() {
    let scene = promotion();
    assert_eq!(scene.published_now(), (B.to_owned(), Level::Promotion));
    let record = scene.write().record.unwrap();
    assert_eq!(record.why, "promoted by Sentinel epoch 2");
    assert_eq!(record.evidence.basis.epoch(), Some(2));
    assert_eq!(record.evidence.confirmed_epoch, 1, "no majority has confirmed more");
}

#[test]
fn at_level_quorum_it_waits_for_the_majority() {
    let scene = promotion().at_level(Level::Quorum);
    assert!(scene.withdraws().contains("is down"), "only the dead one is withdrawn");
}

#[test]
fn a_leader_that_still_waits_for_its_election_has_chosen_no_replica() {
    let scene = promotion().leading(0, B, FailoverPhase::WaitStart);
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn a_chosen_replica_that_does_not_say_so_is_not_published() {
    let scene = promotion().instance(B, replica(1, A));
    assert!(scene.withdraws().contains("is down"));
    let scene = promotion().dead(B);
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn a_primary_that_no_leader_has_chosen_is_not_published() {
    // SLAVEOF NO ONE by hand.
    let scene = Scene::healthy(3).instance(C, primary(3, Some(1), &[]));
    assert!(scene.keeps().contains("named by 3 of 3"), "{}", scene.keeps());
}

#[test]
fn a_chosen_replica_of_another_history_is_not_published_before_the_majority() {
    let scene = promotion().instance(B, primary(9, Some(8), &[]));
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn two_leaders_with_two_choices_are_no_choice() {
    let scene = promotion()
        .leading(1, C, FailoverPhase::WaitPromotion)
        .instance(C, primary(3, Some(1), &[]));
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn of_two_leaders_with_one_choice_the_newer_one_counts() {
    for (old, new) in [(1, 2), (2, 1)] {
        let scene = Scene::healthy(3)
            .down(&[0, 1, 2], DownOpinion::Objective)
            .leading(new, B, FailoverPhase::WaitPromotion)
            // It leads one that the majority has followed since.
            .leading(old, B, FailoverPhase::ReconfReplicas)
            .sentinel(old, |group| {
                group.config_epoch = 1;
                group.peers.iter_mut().for_each(|peer| peer.voted = None);
            })
            .dead(A)
            .instance(B, promoted_b());
        assert_eq!(scene.published_now(), (B.to_owned(), Level::Promotion), "{old} is over");
        assert_eq!(scene.write().record.unwrap().why, "promoted by Sentinel epoch 2");
    }
}

/// Sentinel 0 has made B the primary at epoch 2, and cannot end that since B died.
fn never_ended(epoch: u64) -> Scene {
    Scene::healthy(3)
        .published(|record| {
            let replid = promoted_b().replid;
            record.generation = 9;
            record.writer = None;
            record.last_writer = Some(Writer { address: at(B), replid: replid.clone() });
            record.lineage.push(replid);
            record.evidence.confirmed_epoch = 2;
        })
        .leading(0, B, FailoverPhase::ReconfReplicas)
        .sentinel(0, |group| {
            (group.primary, group.config_epoch, group.down) = (at(B), epoch, DownOpinion::Up);
        })
        .dead(B)
}

#[test]
fn a_failover_whose_epoch_a_majority_has_reached_replaces_nothing() {
    // A hello has raised the epoch of the one that is stuck, and left its address.
    for epoch in [2, 3] {
        let scene = never_ended(epoch).naming(&[1, 2], A, 3).instance(A, primary(3, Some(2), &[]));
        assert_eq!(scene.published_now(), (A.to_owned(), Level::Quorum), "{epoch}");
    }
    let newer = never_ended(4).naming(&[1, 2], A, 3).instance(A, primary(3, Some(2), &[]));
    assert!(!matches!(newer.verdict(), Verdict::Publish { .. }), "{:?}", newer.verdict());
}

#[test]
fn a_failover_that_a_majority_has_followed_is_no_second_choice() {
    let scene = |epoch| {
        never_ended(epoch)
            .naming(&[1, 2], B, 2)
            .leading(1, C, FailoverPhase::WaitPromotion)
            .sentinel(1, |group| {
                group.peers.iter_mut().for_each(|peer| peer.voted = Some((id(1), 3)));
            })
            .instance(C, primary(3, Some(2), &[]))
    };
    assert_eq!(scene(2).published_now(), (C.to_owned(), Level::Promotion));
    assert!(!matches!(scene(3).verdict(), Verdict::Publish { .. }), "two choices");
}

#[test]
fn a_choice_from_an_election_that_is_over_is_not_published() {
    let scene = promotion().published(|record| record.evidence.confirmed_epoch = 2);
    assert!(scene.withdraws().contains("is down"));
}

#[test]
fn a_forced_failover_is_published_while_the_old_primary_still_lives() {
    let scene = Scene::healthy(3)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .sentinel(0, |group| {
            group.failover_forced = true;
            group.down = DownOpinion::Up;
        })
        .instance(B, promoted_b());
    assert_eq!(scene.published_now(), (B.to_owned(), Level::Promotion));
    assert_eq!(
        scene.write().record.unwrap().why,
        "promoted by SENTINEL FAILOVER on 10.0.1.1:26379"
    );
}

/// Before Redis 7.0 a Sentinel does not say that it was forced, and its list still has the votes of the election
/// before.
#[test]
fn a_forced_failover_is_none_of_the_election_before() {
    let forced = |objective: bool| {
        Scene::healthy(3).leading(0, B, FailoverPhase::WaitPromotion).sentinel(0, |group| {
            group.down = if objective { DownOpinion::Objective } else { DownOpinion::Up };
            group.peers.iter_mut().for_each(|peer| peer.voted = Some((id(0), group.config_epoch)));
        })
    };
    let promoted = forced(false).instance(B, promoted_b());
    assert_eq!(promoted.published_now(), (B.to_owned(), Level::Promotion));
    let why = promoted.write().record.unwrap().why;
    assert_eq!(why, "promoted by SENTINEL FAILOVER on 10.0.1.1:26379");
    // It is no majority's word that the primary is down, either.
    assert!(forced(true).keeps().contains("named by 3 of 3"), "{}", forced(true).keeps());
    let elected = Scene::healthy(3).leading(0, B, FailoverPhase::WaitPromotion);
    assert!(elected.withdraws().contains("is down"));
}

#[test]
fn a_single_sentinel_is_elected_without_a_vote_to_be_seen() {
    let scene = Scene::healthy(1).leading(0, B, FailoverPhase::WaitPromotion);
    assert!(scene.clone().withdraws().contains("is down"));
    let why = scene.instance(B, promoted_b()).write().record.unwrap().why;
    assert_eq!(why, "promoted by Sentinel 10.0.1.1:26379");
}

#[test]
fn the_majoritys_old_answer_does_not_overrule_a_promotion() {
    let scene = Scene::healthy(3).promoted(B, 500).instance(B, promoted_b());
    assert_eq!(scene.keeps(), format!("writer {B}, promoted, not yet confirmed by a majority"));
}

#[test]
fn a_higher_epoch_overrules_a_promotion() {
    let scene = Scene::healthy(3)
        .promoted(B, 500)
        .naming(&[0, 1, 2], C, 3)
        .instance(B, promoted_b())
        .instance(C, primary(3, Some(2), &[]));
    assert_eq!(scene.published_now(), (C.to_owned(), Level::Quorum));
}

#[test]
fn the_majority_confirms_a_promotion() {
    let scene = Scene::healthy(3)
        .promoted(B, 500)
        .naming(&[0, 2], B, 2)
        .instance(B, primary(2, Some(1), &[C]))
        .instance(C, replica(2, B));
    let Verdict::Confirm { evidence, .. } = scene.verdict() else {
        panic!("{:?}", scene.verdict());
    };
    assert_eq!(
        (evidence.level(), evidence.confirmed_epoch, evidence.basis.votes()),
        (Level::Quorum, 2, 2)
    );
    assert_eq!(scene.write().record.unwrap().generation, 8, "the writer is the same");
}

/// B was promoted and published as generation 8, and a majority names it now.
fn confirmed() -> Scene {
    let mut scene = Scene::healthy(3)
        .promoted(B, 500)
        .naming(&[0, 2], B, 2)
        .instance(B, primary(2, Some(1), &[C]))
        .instance(C, replica(2, B));
    let change = |generation, to: &str| Change {
        generation,
        at: scene.view().now.wall,
        from: None,
        to: Some(at(to)),
        level: Some(Level::Promotion),
        epoch: Some(generation),
        why: String::new(),
        by: String::new(),
        timeline: Timeline::default(),
    };
    let history = vec![change(8, B), change(7, A)];
    scene.memory.saw_it_begin = true;
    scene.observed.store.as_mut().expect("a store").history = history;
    scene
}

#[test]
fn a_confirmation_writes_down_when_it_was_and_when_dns_was_seen_to_answer() {
    let mut scene = confirmed();
    let before = scene.observed.store.as_ref().unwrap().history.clone();
    let (now, seen) = (scene.view().now, scene.memory.generation_seen());
    // The change was sent just now, by another agent; what this one saw counts from when it saw the generation.
    let sent = before[0].at;
    scene.memory.in_dns = Some((8, seen.plus_ms(30)));
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Confirm);
    let history = write.history.unwrap();
    let timeline = &history[0].timeline;
    let ms = |ms: u64| Some(after(sent, i64::try_from(ms).unwrap()));
    assert_eq!((timeline.confirmed, timeline.in_dns), (ms(now.mono - seen), ms(30)));
    assert_eq!(timeline.acknowledged, None, "only the agent that sent it knows");
    assert_eq!(history[1..], before[1..], "what was before stays as it was");
    // What DNS answered of another generation says nothing of this one.
    scene.memory.in_dns = Some((7, seen.plus_ms(30)));
    assert_eq!(scene.write().history.unwrap()[0].timeline.in_dns, None);
    // Written down once: a later confirmation at a higher epoch leaves it as it is.
    scene.memory.in_dns = Some((8, seen.plus_ms(30)));
    scene.observed.store.as_mut().unwrap().history = history;
    assert_eq!(scene.write().history, None);
}

#[test]
fn the_agent_that_published_it_writes_down_when_consul_had_acknowledged_it() {
    let mut scene = confirmed();
    let sent = scene.observed.store.as_ref().unwrap().history[0].at;
    let seen = scene.memory.generation_seen();
    scene.memory.acknowledged = Some((8, 11_000));
    scene.memory.in_dns = Some((8, seen.plus_ms(30)));
    let history = scene.write().history.unwrap();
    let timeline = &history[0].timeline;
    assert_eq!(timeline.acknowledged, Some(after(sent, 11_000)));
    assert_eq!(timeline.in_dns, Some(after(sent, 11_030)), "after it was in Consul");
    scene.memory.acknowledged = Some((7, 11_000));
    assert_eq!(scene.write().history.unwrap()[0].timeline.acknowledged, None);
}

/// A leads since generation 7, and no agent has written down when DNS answered it.
fn published(level: Level, ago_ms: i64) -> Scene {
    let mut scene = Scene::healthy(3);
    let now = scene.view().now.wall;
    let began = Timestamp::from_millisecond(now.as_millisecond() - ago_ms).expect("a time");
    let confirmed = Some(began);
    let change = Change {
        generation: 7,
        at: began,
        from: None,
        to: Some(at(A)),
        level: Some(level),
        epoch: Some(1),
        why: String::new(),
        by: String::new(),
        timeline: Timeline { confirmed, ..Timeline::default() },
    };
    scene.observed.store.as_mut().expect("a store").history = vec![change];
    let now = scene.view().now;
    scene.memory.generation = Some((7, Mono(now.mono.0 - ago_ms.unsigned_abs())));
    scene.memory.saw_it_begin = true;
    scene.memory.in_dns = Some((7, now.mono));
    scene
}

/// That an acknowledgement came at once is no reason to write; that it came late is.
#[test]
fn a_late_acknowledgement_is_written_down_by_itself() {
    for (taken_ms, noted) in [(40, false), (999, false), (1_000, true), (11_000, true)] {
        let mut scene = published(Level::Quorum, 300);
        scene.memory.in_dns = None;
        scene.memory.acknowledged = Some((7, taken_ms));
        let actions = scene.decision().actions();
        assert_eq!(!actions.is_empty(), noted, "{taken_ms} ms: {actions:?}");
    }
}

#[test]
fn what_dns_answered_after_the_confirmation_is_written_down_when_all_is_quiet() {
    for level in [Level::Promotion, Level::Quorum] {
        let mut scene = published(level, 300);
        let write = scene.write();
        assert_eq!(write.purpose, Purpose::Note);
        let history = write.history.unwrap();
        let (timeline, before) =
            (&history[0].timeline, &scene.observed.store.as_ref().unwrap().history);
        assert_eq!(timeline.in_dns, Some(scene.view().now.wall));
        assert_eq!(timeline.confirmed, before[0].timeline.confirmed, "it stays as it was");
        let record = write.record.unwrap();
        assert_eq!((record.generation, record.writer_address()), (7, Some(&at(A))));
        scene.observed.store.as_mut().unwrap().history = history;
        assert!(scene.decision().actions().is_empty(), "once: {:?}", scene.decision());
    }
    let noted = |scene: &Scene| {
        let mut actions = scene.decision().actions().into_iter();
        actions.any(|action| matches!(action, Action::Write(w) if w.purpose == Purpose::Note))
    };
    assert!(noted(&published(Level::Quorum, 60_000)));
    assert!(!noted(&published(Level::Quorum, 60_001)), "that was not the first time");
    let mut later = published(Level::Quorum, 300);
    later.memory.saw_it_begin = false;
    assert!(!noted(&later), "an agent that was started later has not seen when it began");
    let mut other = published(Level::Quorum, 300);
    other.memory.in_dns = Some((6, other.view().now.mono));
    assert!(!noted(&other), "another generation's answer");
    let failing = published(Level::Quorum, 300).leading(0, B, FailoverPhase::WaitPromotion);
    assert!(!noted(&failing), "a failover has the right of way");
}

#[test]
fn what_dns_answered_goes_with_whatever_is_written_next() {
    let scene = published(Level::Quorum, 300).instance(A, primary(1, None, &[B])).lasting(10_000);
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::InstanceRows);
    assert_eq!(write.history.unwrap()[0].timeline.in_dns, Some(scene.view().now.wall));
}

#[test]
fn a_promotion_that_no_majority_confirms_in_time_is_withdrawn() {
    let scene = Scene::healthy(3).promoted(B, 5_001).instance(B, promoted_b()).dead(A);
    assert_eq!(scene.withdraws(), format!("no majority confirmed {B} within 5000 ms"));
}

#[test]
fn an_unconfirmed_promotion_stays_while_its_leader_is_at_work() {
    let scene = promotion().promoted(B, 8_000);
    assert!(scene.keeps().contains("promoted, not yet confirmed"), "{}", scene.keeps());
}

#[test]
fn silence_of_the_sentinels_is_no_denial_of_a_promotion() {
    let scene = Scene::healthy(3).promoted(B, 60_000).instance(B, promoted_b());
    let scene = scene.silent(0).silent(1);
    assert!(scene.keeps().starts_with(&format!("writer {B} stays")), "{}", scene.keeps());
}

#[test]
fn the_old_primary_comes_back_once_its_replacement_was_undone() {
    let scene = Scene::healthy(3)
        .promoted(B, 5_001)
        .instance(B, promoted_b())
        .instance(A, primary(1, None, &[C]));
    assert_eq!(scene.published_now(), (A.to_owned(), Level::Quorum));
}

fn holds(scene: &Scene) -> Vec<String> {
    let decision = scene.decision();
    let held = decision.actions().into_iter().filter_map(|action| match action {
        Action::Hold(hold) => Some(hold.instance.to_string()),
        _ => None,
    });
    held.collect()
}

#[test]
fn a_superseded_primary_that_still_lives_has_its_writes_held() {
    let scene = promotion().instance(A, primary(1, None, &[C]));
    assert_eq!(holds(&scene), [A]);
}

#[test]
fn a_hold_ends_when_the_majority_has_followed() {
    // Held any longer, Sentinel would call it down and never turn it into a replica.
    let confirmed = Scene::healthy(3)
        .promoted(B, 500)
        .leading(0, B, FailoverPhase::ReconfReplicas)
        .naming(&[1, 2], B, 2)
        .instance(B, promoted_b());
    assert!(holds(&confirmed).is_empty());
}

#[test]
fn writes_are_held_at_level_quorum_too() {
    let scene = promotion().instance(A, primary(1, None, &[C])).at_level(Level::Quorum);
    assert_eq!(holds(&scene), [A], "what A takes now is lost, published or not");
}

#[test]
fn a_hold_is_renewed_and_not_repeated() {
    let mut scene = promotion().instance(A, primary(1, None, &[C]));
    scene.memory.held.insert(at(A), Mono(scene.now - 999));
    assert!(holds(&scene).is_empty());
    scene.memory.held.insert(at(A), Mono(scene.now - 1_000));
    assert_eq!(holds(&scene), [A]);
}

#[test]
fn the_only_primary_is_never_held() {
    assert!(holds(&Scene::healthy(3)).is_empty());
    let chosen_but_not_yet =
        promotion().instance(A, primary(1, None, &[])).instance(B, replica(1, A));
    assert!(holds(&chosen_but_not_yet).is_empty());
}

#[test]
fn a_primary_of_another_history_is_none_of_ours_to_hold() {
    let scene = promotion().instance(A, primary(40, Some(41), &[]));
    assert!(holds(&scene).is_empty());
}

#[test]
fn no_writes_are_held_when_the_majority_contradicts_what_is_published() {
    // The leader died after the promotion: it is unknown which instance will win.
    let scene = Scene::healthy(3).promoted(B, 500).instance(B, promoted_b());
    assert!(holds(&scene).is_empty());
}

#[test]
fn holding_can_be_switched_off() {
    let mut scene = promotion().instance(A, primary(1, None, &[C]));
    scene.policy.hold_writes = false;
    assert!(holds(&scene).is_empty());
}

#[test]
fn no_writes_are_held_for_a_failover_that_is_over_or_takes_for_ever() {
    let outdated = promotion()
        .instance(A, primary(1, None, &[C]))
        .published(|record| record.evidence.confirmed_epoch = 2);
    assert!(holds(&outdated).is_empty(), "the majority has passed it by");
    let mut endless = promotion().instance(A, primary(1, None, &[C]));
    let since = |ms| Some((at(B), Mono(NOW - ms)));
    endless.memory.promoted = since(endless.policy.confirm_within_ms);
    assert_eq!(holds(&endless), [A]);
    endless.memory.promoted = since(endless.policy.confirm_within_ms + 1);
    assert!(holds(&endless).is_empty());
}
