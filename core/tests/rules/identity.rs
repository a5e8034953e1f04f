//! An instance is a process: what answers at a second address of it is the same one, and nothing is done to it there.

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::fence::{Fence, StrayKind};
use consul_redis_core::duty::safety::veto;
use consul_redis_core::known::memory::{Condition, InstanceRun, Origin};
use consul_redis_core::known::observed::{FailoverPhase, InstanceAnswer, ReplId, Role};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;

use crate::scene::{A, ASKED, B, C, NOW, Scene, at, layout, primary, promoted_b, replica, run};

/// Where A listens as well.
const SECOND: &str = "10.9.0.1:6379";
const LOOPBACK: &str = "127.0.0.1:6379";

/// An agent beside A has another address of it in its config.
fn configured(address: &str, answer: InstanceAnswer) -> Scene {
    let mut scene = Scene::healthy(3).instance(address, answer);
    scene.policy.local.insert(at(address));
    scene.observed.registered.insert(at(address));
    scene.memory.since.insert(Condition::Stray(at(address)), Mono(NOW - 60_000));
    scene
}

fn of_a(answer: InstanceAnswer) -> InstanceAnswer {
    InstanceAnswer { run_id: run(A), ..answer }
}

fn done(scene: &Scene) -> Vec<Action> {
    let all = scene.decision().actions().into_iter();
    all.filter(|action| !matches!(action, Action::Write(_))).collect()
}

fn problems(scene: &Scene) -> Vec<ProblemCode> {
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let all = status.problems.iter().map(|problem| problem.code);
    all.filter(|code| *code != ProblemCode::NoAgents).collect()
}

#[test]
fn what_answers_with_the_writer_s_run_is_the_writer() {
    let scene = configured(SECOND, of_a(primary(1, None, &[B, C])));
    assert_eq!(done(&scene), []);
    let said = format!("{SECOND} and {A} are two addresses of one process: only {A} counts");
    let reasons = scene.decision().said();
    assert!(reasons.iter().any(|reason| reason.starts_with(&said)), "{reasons:?}");
    assert_eq!(problems(&scene), [ProblemCode::TwoAddresses]);
    // Another process there, with the group's data, is a stray primary.
    let other = configured(SECOND, primary(1, None, &[]));
    assert!(matches!(done(&other)[..], [Action::Fence(_)]), "{:?}", done(&other));
}

/// Its own address does not answer us for a moment: its run is remembered.
#[test]
fn its_run_is_known_while_it_does_not_answer_at_its_own_address() {
    let mut scene = configured(SECOND, of_a(primary(1, None, &[B, C]))).dead(A);
    assert_eq!(problems(&scene), [ProblemCode::WriterFails, ProblemCode::SecondPrimary]);
    let life = InstanceRun { run_id: run(A), origin: Origin::WasWriter };
    scene.memory.lives.insert(at(A), life);
    assert_eq!(problems(&scene), [ProblemCode::WriterFails, ProblemCode::TwoAddresses]);
}

/// It was started again, and was heard at its second address first: the writer is asked anew before anything is done.
#[test]
fn the_writer_is_asked_after_another_primary_was_seen() {
    let mut scene = configured(SECOND, primary(5, Some(1), &[]));
    scene
        .memory
        .lives
        .insert(at(SECOND), InstanceRun { run_id: run(SECOND), origin: Origin::Started });
    scene.memory.since.insert(Condition::Stray(at(SECOND)), Mono(ASKED));
    let late = scene.clone().instance_asked(A, ASKED - 1);
    assert_eq!(done(&late), []);
    assert_eq!(done(&scene).len(), 1);
}

#[test]
fn no_command_is_pointed_at_itself() {
    let fence = Fence {
        instance: at(SECOND),
        run_id: run(A),
        follow: at(A),
        follow_run: Some(run(A)),
        kind: StrayKind::Returned,
        replid: ReplId("1".to_owned()),
    };
    let answer = of_a(primary(1, None, &[B, C]));
    let scene = configured(SECOND, answer.clone());
    let refused = format!("{SECOND} and {A} are one process");
    assert_eq!(veto(&scene.view(), &Action::Fence(fence.clone())), Some(refused));
    assert!(!fence.still_holds(&answer));
    let other = Fence { follow_run: Some("another".to_owned()), ..fence };
    assert!(other.still_holds(&answer));
}

#[test]
fn the_successor_s_second_address_is_not_held() {
    let leading = |run_id: String| {
        let answer = InstanceAnswer { run_id, ..promoted_b() };
        let mut scene = configured(SECOND, answer).instance(B, promoted_b());
        scene = scene.leading(0, B, FailoverPhase::WaitPromotion);
        let holds = done(&scene).into_iter();
        holds
            .filter_map(|action| match action {
                Action::Hold(hold) => Some(hold.instance.to_string()),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(leading(run(B)), [A]);
    assert_eq!(leading("another".to_owned()), [A, SECOND]);
}

/// Its link is down for a moment, and no Sentinel knows it at that address.
#[test]
fn a_replica_s_second_address_is_not_lost() {
    let down = InstanceAnswer {
        role: Role::Replica { of: at(B), link_up: false },
        replid: ReplId("8".to_owned()),
        ..replica(1, A)
    };
    let scene = configured(SECOND, InstanceAnswer { run_id: run(C), ..down.clone() });
    assert_eq!(done(&scene), []);
    assert_eq!(problems(&scene), [ProblemCode::TwoAddresses]);
    assert_eq!(done(&configured(SECOND, InstanceAnswer { keys: 0, ..down })).len(), 1);
}

/// On each host another Redis answers there.
#[test]
fn a_loopback_address_is_refused_where_the_group_is_known_elsewhere() {
    let blank = InstanceAnswer { keys: 0, ..primary(9, None, &[]) };
    for address in [LOOPBACK, "localhost:6379", "[::1]:6379"] {
        let scene = configured(address, blank.clone());
        assert_eq!(done(&scene), [], "{address}");
        let said =
            format!("{address} is configured here and ignored: it leads every host to itself");
        let reasons = scene.decision().said();
        assert!(reasons.iter().any(|reason| reason.starts_with(&said)), "{reasons:?}");
        assert_eq!(problems(&scene), [ProblemCode::LoopbackAddress]);
    }
    // All of the group is there: a group on one machine.
    let mut one_host = Scene::unpublished(3).naming(&[0, 1, 2], "127.0.0.1:7000", 0);
    one_host.observed.instances.clear();
    one_host = one_host.instance(LOOPBACK, blank).instance("127.0.0.1:7000", primary(1, None, &[]));
    one_host.observed.registered.insert(at(LOOPBACK));
    assert_eq!(one_host.view().refused().len(), 0);
}
