//! The first primary: a blank group gets one, and no instance's data is lost for it.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::safety;
use consul_redis_core::known::memory::Condition;
use consul_redis_core::known::observed::{InstanceAnswer, Role};
use consul_redis_core::policy::FIRST_REPLICAS_MS;
use consul_redis_core::published::record::Level;
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, at, group_view, primary, replica, sentinel_at};

/// Nothing is published, three Sentinels know nothing, and these instances are registered.
pub fn unknown(instances: &[(&str, InstanceAnswer)]) -> Scene {
    let mut scene = Scene::unpublished(3);
    scene.observed.instances.clear();
    for (address, answer) in instances {
        scene.observed.registered.insert(at(address));
        scene.set_instance(address, answer.clone());
    }
    for index in 0..3 {
        scene = scene.answer(index, |answer| answer.group = None);
    }
    scene.policy.expect = Some(instances.len());
    scene
}

pub fn blank(replid: u64) -> InstanceAnswer {
    InstanceAnswer { keys: 0, offset: 0, ..primary(replid, None, &[]) }
}

/// It was restarted as a primary: its own history begins where it had come to in history 1.
fn restarted(replid: u64, offset: u64) -> InstanceAnswer {
    let answer = primary(replid, Some(1), &[]);
    InstanceAnswer { offset, forked_at: Some(offset + 1), ..answer }
}

#[test]
fn of_blank_instances_the_lowest_address_leads() {
    let scene = unknown(&[(B, blank(2)), (A, blank(3)), (C, blank(4))]);
    assert_eq!(scene.published_now(), (A.to_owned(), Level::Promotion));
    let write = scene.write();
    assert_eq!((write.base_index, write.record.unwrap().generation), (0, 1));
}

#[test]
fn instances_are_waited_for() {
    let mut scene = unknown(&[(A, blank(1)), (B, blank(2))]);
    scene.policy.expect = Some(3);
    assert!(scene.keeps().contains("2 of 3 expected instances answer"), "{}", scene.keeps());
    scene.policy.expect = None;
    assert!(scene.keeps().contains("2 instances answer, others may follow"), "{}", scene.keeps());
    let wait = |ms| Mono(NOW - ms);
    scene.memory.since.insert(Condition::NoPrimaryAnywhere, wait(29_999));
    assert!(scene.keeps().contains("others may follow"), "{}", scene.keeps());
    scene.memory.since.insert(Condition::NoPrimaryAnywhere, wait(30_000));
    assert_eq!(scene.published_now().0, A);
}

#[test]
fn the_instance_with_the_most_data_leads_and_an_empty_one_never() {
    let scene = unknown(&[(A, blank(9)), (B, restarted(2, 900)), (C, restarted(3, 1_000))]);
    assert_eq!(scene.published_now().0, C);
    let promoted = primary(4, Some(1), &[]);
    let scene = unknown(&[(B, restarted(2, 400)), (C, promoted)]);
    assert_eq!(scene.published_now().0, C, "it went on from the history of the other");
}

#[test]
fn data_that_has_gone_different_ways_is_left_to_the_operator() {
    let mut own = restarted(2, 900);
    own.offset = 950;
    let scene = unknown(&[(B, own), (C, restarted(3, 1_000))]);
    assert!(scene.keeps().contains("has gone different ways"), "{}", scene.keeps());
    let strangers = unknown(&[(B, primary(2, None, &[])), (C, primary(3, None, &[]))]);
    assert!(strangers.keeps().contains("has gone different ways"), "{}", strangers.keeps());
    assert!(strangers.decision().actions().is_empty(), "{:?}", strangers.decision());
}

#[test]
fn one_that_is_loading_may_have_the_most_data() {
    let mut loading = blank(3);
    loading.not_ready = Some("LOADING".to_owned());
    let scene = unknown(&[(A, blank(1)), (B, loading)]);
    assert!(scene.keeps().contains("may have more data"), "{}", scene.keeps());
}

#[test]
fn a_replica_is_written_down_before_it_is_made_the_first_primary() {
    let mut scene = unknown(&[(A, replica(1, "10.0.0.9:6379")), (B, blank(2))]);
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Claim);
    let record = write.record.unwrap();
    assert_eq!((record.generation, record.writer.is_none()), (0, true));
    assert_eq!(record.claim, Some(at(A)));
    assert!(promoted(&scene).is_empty(), "not before it is written down");
    scene.show(&record);
    assert_eq!(promoted(&scene), [A]);
    // Another agent that sees more would choose another one; the one written down goes on.
    let mut more = primary(1, None, &[]);
    more.offset = 5_000;
    let scene = scene.instance(C, more);
    assert_eq!(promoted(&scene), [A]);
    let scene = scene.instance(A, primary(7, Some(1), &[]));
    assert_eq!(scene.published_now().0, A);
    assert_eq!(scene.write().record.unwrap().claim, None);
}

fn promoted(scene: &Scene) -> Vec<String> {
    let decision = scene.decision();
    let promotes = decision.actions().into_iter().filter_map(|action| match action {
        Action::Promote(promote) => Some(promote.instance.to_string()),
        _ => None,
    });
    promotes.collect()
}

#[test]
fn a_group_that_consul_or_a_sentinel_knows_is_not_bootstrapped() {
    let known = unknown(&[(A, blank(1))]).answer(0, |answer| {
        answer.group = Some(group_view(0, 3));
    });
    assert!(!known.keeps().contains("first primary"), "{}", known.keeps());
    let mut published = unknown(&[(A, blank(1))]);
    let record = Scene::healthy(3).observed.record().unwrap().clone();
    published.show(&record);
    assert!(!published.keeps().contains("first primary"), "{}", published.keeps());
    let few = unknown(&[(A, blank(1))]).silent(0).silent(1);
    assert!(few.keeps().contains("1 of 3 Sentinels answer"), "{}", few.keeps());
    let mut off = unknown(&[(A, blank(1))]);
    off.policy.bootstrap = false;
    assert!(off.keeps().contains("bootstrap = false"), "{}", off.keeps());
    let observer = unknown(&[]);
    assert!(
        observer.keeps().contains("Sentinels answer; none knows `redis`"),
        "{}",
        observer.keeps()
    );
}

/// What was decided is in Consul, and was seen so many ms ago.
fn published(scene: &mut Scene, ago_ms: u64) {
    let record = scene.write().record.expect("a record");
    scene.show(&record);
    scene.memory.generation = Some((1, Mono(NOW - ago_ms)));
    scene.memory.generation_max = 1;
    let strays = [A, B, C].map(|address| (Condition::Stray(at(address)), Mono(NOW - 100)));
    scene.memory.since.extend(strays);
}

/// What is done to instances and Sentinels, in words.
fn told(scene: &Scene) -> Vec<String> {
    let words = |action: Action| match action {
        Action::Fence(fence) => Some(format!("{} follows {}", fence.instance, fence.follow)),
        Action::Reconfigure(tell) => Some(format!("{} monitors {}", tell.sentinel, tell.primary)),
        _ => None,
    };
    scene.decision().actions().into_iter().filter_map(words).collect()
}

/// All three are told of this one.
fn all_monitor(primary: &str) -> Vec<String> {
    (0..3).map(|index| format!("{} monitors {primary}", sentinel_at(index))).collect()
}

#[test]
fn the_sentinels_get_the_first_primary_before_they_can_confirm_it() {
    let mut scene = unknown(&[(A, blank(1))]);
    published(&mut scene, 500);
    assert_eq!(told(&scene), all_monitor(A));
}

/// They find replicas in the INFO that they ask for when they are told, and ten seconds later: a primary that died in
/// between would have none to follow it.
#[test]
fn the_sentinels_are_told_once_the_first_primary_has_its_replicas() {
    let mut scene = unknown(&[(A, blank(1)), (B, blank(2)), (C, blank(3))]);
    published(&mut scene, 500);
    let follow = [format!("{B} follows {A}"), format!("{C} follows {A}")];
    assert_eq!(told(&scene), follow);
    // They have been told so, and connect.
    let role = || Role::Replica { of: at(A), link_up: false };
    for replica_at in [B, C] {
        let begins = InstanceAnswer { keys: 0, role: role(), ..replica(9, A) };
        scene.set_instance(replica_at, begins);
    }
    assert_eq!(told(&scene), [""; 0]);
    // C is still to come.
    scene.set_instance(A, InstanceAnswer { keys: 0, ..primary(1, None, &[B]) });
    assert_eq!(told(&scene), [""; 0]);
    let mut all = scene.clone();
    all.set_instance(A, InstanceAnswer { keys: 0, ..primary(1, None, &[B, C]) });
    assert_eq!(told(&all), all_monitor(A));
    // It has it at another address, or is dead: neither is waited for, and no instance is for long.
    let mut linked = scene.clone();
    linked.set_instance(C, InstanceAnswer { keys: 0, ..replica(1, A) });
    assert_eq!(told(&linked), all_monitor(A));
    assert_eq!(told(&scene.clone().dead(C)), all_monitor(A));
    scene.memory.generation = Some((1, Mono(NOW - FIRST_REPLICAS_MS)));
    assert_eq!(told(&scene), all_monitor(A));
}

#[test]
fn nothing_follows_a_first_primary_that_a_sentinel_may_know_better_of_or_that_does_not_answer() {
    let mut scene = unknown(&[(A, blank(1)), (B, blank(2))]);
    published(&mut scene, 500);
    assert_eq!(told(&scene), [format!("{B} follows {A}")]);
    let knows = scene.clone().answer(0, |answer| answer.group = Some(group_view(0, 3)));
    assert!(!told(&knows).contains(&format!("{B} follows {A}")), "{:?}", told(&knows));
    let few = scene.clone().silent(0).silent(1);
    assert_eq!(told(&few), [format!("{} monitors {A}", sentinel_at(2))]);
    assert_eq!(told(&scene.clone().dead(A)), [""; 0]);
    // It has the writer by another one of its names, and its first sync has begun.
    let role = Role::Replica { of: at("redis-a:6379"), link_up: false };
    let begins = scene.clone().instance(B, InstanceAnswer { role, ..replica(9, A) });
    let listed = begins.instance(A, InstanceAnswer { keys: 0, ..primary(1, None, &[B]) });
    assert_eq!(told(&listed), all_monitor(A));
    // Confirmed it can be only once the Sentinels are told: what has to wait for that holds nothing up.
    let data = scene.clone().instance(B, InstanceAnswer { keys: 5, ..blank(2) });
    let data = data.instance(A, InstanceAnswer { keys: 9, ..primary(1, None, &[]) });
    assert_eq!(told(&data), all_monitor(A));
    // What it took itself may be lost to it.
    let kept = scene.clone().instance(B, InstanceAnswer { keys: 5, ..blank(2) });
    assert!(!told(&kept).contains(&format!("{B} follows {A}")), "{:?}", told(&kept));
    let fence = scene.decision().actions().into_iter().find(|a| matches!(a, Action::Fence(_)));
    let veto = |scene: &Scene| safety::veto(&scene.view(), fence.as_ref().expect("one"));
    assert_eq!(veto(&scene), None);
    for refused in [knows, kept] {
        assert!(veto(&refused).is_some());
    }
    scene.policy.fence = false;
    assert_eq!(told(&scene), all_monitor(A));
}

#[test]
fn a_priority_of_0_never_leads() {
    let mut never = replica(1, "10.0.0.9:6379");
    never.priority = Some(0);
    let scene = unknown(&[(A, never), (B, replica(1, "10.0.0.9:6379"))]);
    assert_eq!(scene.write().record.unwrap().claim, Some(at(B)));
}

/// It has replicas already, which hold as much.
#[test]
fn one_that_is_a_primary_goes_before_its_replicas() {
    let scene = unknown(&[(A, replica(1, B)), (B, primary(1, None, &[A, C])), (C, replica(1, B))]);
    assert_eq!(scene.published_now(), (B.to_owned(), Level::Promotion));
}

/// With `replica-serve-stale-data no` a detached instance refuses PING.
#[test]
fn one_that_serves_nothing_stale_can_be_the_first_primary() {
    let mut refuses = replica(1, "10.0.0.9:6379");
    refuses.not_ready = Some("MASTERDOWN Link with MASTER is down".to_owned());
    let mut scene = unknown(&[(A, refuses)]);
    assert_eq!(scene.write().purpose, Purpose::Claim);
    scene.show(&scene.write().record.unwrap());
    assert_eq!(promoted(&scene), [A]);
}

/// Else one Sentinel alone could call it down until the others are counted.
#[test]
fn the_first_quorum_counts_all_sentinels_that_answer() {
    let mut scene = unknown(&[(A, blank(1))]);
    scene.policy.sentinels_configured = 0;
    published(&mut scene, 500);
    let quorums: Vec<u64> = scene
        .decision()
        .actions()
        .iter()
        .filter_map(|action| match action {
            Action::Reconfigure(reconfigure) => Some(reconfigure.settings.quorum),
            _ => None,
        })
        .collect();
    assert_eq!(quorums, [2, 2, 2]);
}
