//! Node mode: when the writes of this host's primary are held because the host may be isolated, and until when.

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::hold::{HoldReason, is_blind, is_isolated};
use consul_redis_core::known::memory::{Condition, InstanceRun, Origin};
use consul_redis_core::known::observed::InstanceAnswer;
use consul_redis_core::policy::{CONSUL_SILENT_MS, CUT_OFF_AFTER_MS};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;

use crate::fencing::stray;
use crate::scene::{A, B, C, NOW, Scene, at, layout, primary, promoted_b, replica, run};

/// A leads on this host, which sees nothing of the others but its own Sentinel, and has not for so long.
fn alone(ms: u64) -> Scene {
    let mut scene = Scene::healthy(3).silent(1).silent(2);
    scene.policy.local.insert(at(A));
    scene.memory.since.insert(Condition::Isolated, Mono(NOW - ms));
    consul_silent(scene)
}

fn consul_silent(mut scene: Scene) -> Scene {
    let store = scene.observed.store.as_mut().expect("a store");
    store.asked = Mono(NOW - CONSUL_SILENT_MS - 1);
    scene
}

/// The network has healed: the Sentinels name B, and Consul is not back yet.
fn healing() -> Scene {
    let scene = consul_silent(Scene::healthy(3)).naming(&[1, 2], B, 2);
    let mut scene = scene.instance(B, promoted_b());
    scene.policy.local.insert(at(A));
    scene.memory.since.insert(Condition::Isolated, Mono(NOW - CUT_OFF_AFTER_MS));
    scene
}

fn held(scene: &Scene) -> Vec<String> {
    let decision = scene.decision();
    let holds = decision.actions().into_iter().filter_map(|action| match action {
        Action::Hold(hold) if hold.why == HoldReason::Isolated => Some(hold.instance.to_string()),
        _ => None,
    });
    holds.collect()
}

#[test]
fn a_host_that_sees_neither_consul_nor_a_majority_holds_its_primary_after_a_second() {
    let scene = alone(CUT_OFF_AFTER_MS);
    assert!(is_isolated(&scene.view()));
    assert_eq!(held(&scene), [A]);
    assert_eq!(held(&alone(CUT_OFF_AFTER_MS - 1)), Vec::<String>::new());
    assert_eq!(held(&alone(CUT_OFF_AFTER_MS).instance(A, replica(1, B))), Vec::<String>::new());
    let mut off = alone(CUT_OFF_AFTER_MS);
    off.policy.hold_when_cut_off = false;
    assert_eq!(held(&off), Vec::<String>::new());
}

/// That writes are held is what its clients meet. Redis before 6.2 has no `CLIENT PAUSE ... WRITE`: that is said, and no
/// command is sent that it would refuse.
#[test]
fn whether_writes_are_held_is_a_problem_while_a_host_is_isolated() {
    let with = |version: &str, ms: u64| {
        let answer = InstanceAnswer { version: version.to_owned(), ..primary(1, None, &[B, C]) };
        let scene = alone(ms).instance(A, answer);
        let status = assess(&scene.view(), &layout(), &scene.decision());
        let codes: Vec<ProblemCode> = status.problems.iter().map(|problem| problem.code).collect();
        let of_writes = [ProblemCode::WritesHeld, ProblemCode::WritesNotHeld];
        (held(&scene), of_writes.map(|code| codes.contains(&code)))
    };
    assert_eq!(with("6.2.0", CUT_OFF_AFTER_MS), (vec![A.to_owned()], [true, false]));
    assert_eq!(with("6.0.16", CUT_OFF_AFTER_MS), (Vec::new(), [false, true]));
    assert_eq!(with("6.2.0", CUT_OFF_AFTER_MS - 1), (Vec::new(), [false, false]));
}

#[test]
fn one_that_was_isolated_holds_on_until_it_sees_who_leads() {
    let scene = healing();
    assert!(is_isolated(&scene.view()), "the Sentinels name another one");
    assert_eq!(held(&scene), [A]);
    // What was withdrawn was the last writer all the same.
    let withdrawn = consul_silent(healing().published(|record| record.writer = None));
    assert_eq!(held(&withdrawn), [A]);
    // Consul is back and shows the new writer: until it is fenced.
    let mut moved = healing().promoted(B, 100);
    let life = InstanceRun { run_id: run(A), origin: Origin::WasWriter };
    moved.memory.lives.insert(at(A), life);
    assert!(is_isolated(&moved.view()));
    // It follows already.
    assert!(!is_isolated(&healing().instance(A, replica(2, B)).view()));
}

#[test]
fn one_that_still_leads_is_let_go_at_once() {
    let mut named = consul_silent(Scene::healthy(3));
    named.policy.local.insert(at(A));
    named.memory.since.insert(Condition::Isolated, Mono(NOW - CUT_OFF_AFTER_MS));
    assert!(!is_isolated(&named.view()), "the Sentinels name it");
    let mut shown = Scene::healthy(3).silent(1).silent(2);
    shown.policy.local.insert(at(A));
    shown.memory.since.insert(Condition::Isolated, Mono(NOW - CUT_OFF_AFTER_MS));
    assert!(!is_isolated(&shown.view()), "Consul shows it, and no majority says otherwise");
}

#[test]
fn no_writes_are_held_on_one_that_did_not_lead_or_that_no_agent_would_fence() {
    let mut foreign = healing().instance(C, primary(9, None, &[]));
    foreign.policy.local = [at(C)].into();
    assert!(!is_isolated(&foreign.view()), "it never led");
    let mut left = healing();
    left.policy.fence = false;
    assert!(!is_isolated(&left.view()), "Sentinel would not touch it while it is held");
    let mut never = healing();
    never.memory.since.clear();
    assert!(!is_isolated(&never.view()), "it was not isolated");
}

/// They were made anew, or were told to let go of the primary before, and are about to be told of this one.
#[test]
fn a_host_whose_sentinels_answer_and_do_not_know_the_group_is_not_isolated() {
    let mut scene = consul_silent(Scene::healthy(3));
    scene.policy.local.insert(at(A));
    let blank = |scene: Scene, index| scene.answer(index, |answer| answer.group = None);
    let isolated = |scene: &Scene| (is_blind(&scene.view()), is_isolated(&scene.view()));
    let two = blank(blank(scene.clone(), 1), 2);
    assert_eq!(isolated(&two), (false, false));
    assert_eq!(isolated(&blank(two, 0)), (false, false));
    // One that is silent is not seen, whatever it knew.
    assert_eq!(isolated(&blank(scene, 1).silent(0).silent(2)), (true, true));
}

/// The writer is certain, and fencing leaves what was the writer as it is: a hold without end would be the agent's word
/// for "isolated", on a host that sees all.
#[test]
fn one_that_no_agent_would_fence_for_its_data_is_not_held_for_ever() {
    let returned = |answer: InstanceAnswer| {
        let mut scene = stray(60_000, Origin::WasWriter).instance(C, answer);
        scene.policy.local.insert(at(C));
        scene.memory.since.insert(Condition::Isolated, Mono(NOW - CUT_OFF_AFTER_MS));
        is_isolated(&scene.view())
    };
    assert!(returned(primary(3, Some(1), &[])), "it is about to be fenced");
    assert!(!returned(primary(9, Some(8), &[])), "its data is another group's");
}
