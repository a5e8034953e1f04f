//! The old primary that is back and detached before another instance has taken its place.

use consul_redis_core::duty::action::{Action, Promote};
use consul_redis_core::duty::safety::veto;
use consul_redis_core::known::memory::Condition;
use consul_redis_core::known::observed::{
    Continued, DownOpinion, FailoverPhase, InstanceAnswer, ReplId, Role,
};
use consul_redis_core::policy::REINSTATED_AFTER_MS;
use consul_redis_core::published::projection::detached_address;
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::situation::promote_again::{NotPromotedAgain, condition, promote_again};
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, at, layout, primary, promoted_b, replica, run};

/// A detached instance, with so much of history 1.
fn waiting(offset: u64) -> InstanceAnswer {
    let role = Role::Replica { of: detached_address(), link_up: false };
    InstanceAnswer { role, offset, ..replica(1, A) }
}

/// A has come back detached, with all that the others have.
pub fn returned() -> Scene {
    Scene::healthy(3).instance(A, waiting(1_000))
}

/// A has been back for so long.
fn waited(mut scene: Scene, ms: u64) -> Scene {
    assert_eq!(condition(&scene.view()), Some(Condition::Returned(at(A))));
    scene.memory.since.insert(Condition::Returned(at(A)), Mono(NOW - ms));
    scene
}

fn promoted(scene: &Scene) -> Vec<String> {
    let all = scene.decision().actions();
    let of = |action: &Action| match action {
        Action::Promote(promote) => Some(promote.instance.to_string()),
        _ => None,
    };
    all.iter().filter_map(of).collect()
}

fn why_not(scene: &Scene) -> NotPromotedAgain {
    assert_eq!(promoted(scene), Vec::<String>::new());
    promote_again(&scene.view()).expect_err("a reason")
}

#[test]
fn it_is_the_primary_again_when_it_holds_what_all_others_hold() {
    assert_eq!(promoted(&returned()), [A]);
    // The name goes first: a client that writes to it now would be refused.
    assert!(returned().withdraws().contains("replica of 192.0.2.1:6379"));
    let blank = |scene: Scene, address| {
        let answer = InstanceAnswer { keys: 0, offset: 0, ..waiting(0) };
        scene.instance(address, answer)
    };
    let alone = returned().instance(B, replica(1, A)).dead(C);
    let alone = (0..3).fold(alone, |scene, index| {
        scene.sentinel(index, |group| {
            for replica in &mut group.replicas {
                replica.s_down = replica.address == at(C);
            }
        })
    });
    // A majority calls the silent one down: it may have another address now, and show up at that.
    assert_eq!(why_not(&alone), NotPromotedAgain::Unheard(at(C)));
    assert_eq!(
        why_not(&waited(alone.clone(), REINSTATED_AFTER_MS - 1)),
        NotPromotedAgain::Unheard(at(C))
    );
    assert_eq!(promoted(&waited(alone.clone(), REINSTATED_AFTER_MS)), [A]);
    let d = "10.0.0.4:6379";
    let mut shown = waited(alone, REINSTATED_AFTER_MS).instance(d, waiting(2_000));
    shown.observed.registered.insert(at(d));
    assert_eq!(why_not(&shown), NotPromotedAgain::Behind { old: at(A), than: at(d) });
    assert_eq!(
        promoted(&blank(blank(blank(returned(), A), B), C)),
        [A],
        "no instance holds anything"
    );
    assert_eq!(promoted(&blank(returned(), B)), [A]);
}

#[test]
fn an_empty_or_older_one_is_left_to_the_sentinels() {
    let behind = NotPromotedAgain::Behind { old: at(A), than: at(B) };
    let empty = InstanceAnswer { keys: 0, ..waiting(0) };
    assert_eq!(why_not(&returned().instance(A, empty)), behind);
    assert_eq!(why_not(&returned().instance(A, waiting(999))), behind);
    let said = returned().instance(A, waiting(999)).decision().said();
    assert!(said.contains(&format!("{A} is back with less data than {B}: left to the Sentinels")));
}

#[test]
fn one_that_may_hold_more_has_to_be_heard() {
    assert_eq!(why_not(&returned().dead(C)), NotPromotedAgain::Unheard(at(C)));
    let loading = InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..waiting(1_000) };
    assert_eq!(why_not(&returned().instance(A, loading)), NotPromotedAgain::NotReady(at(A)));
}

#[test]
fn the_instance_that_takes_its_place_goes_first() {
    assert_eq!(why_not(&returned().instance(B, promoted_b())), NotPromotedAgain::Rival(at(B)));
    let phase = FailoverPhase::SelectReplica;
    assert_eq!(why_not(&returned().leading(0, B, phase)), NotPromotedAgain::BeingReplaced);
    let down = returned().down(&[0], DownOpinion::Objective);
    assert_eq!(why_not(&down), NotPromotedAgain::BeingReplaced);
    let named = returned().naming(&[0, 1], B, 2);
    assert_eq!(why_not(&named), NotPromotedAgain::NoCase);
    assert_eq!(why_not(&returned().silent(0).silent(1)), NotPromotedAgain::NoCase);
}

#[test]
fn the_operator_may_want_to_do_it_himself() {
    let mut scene = returned();
    scene.policy.bootstrap = false;
    assert_eq!(why_not(&scene), NotPromotedAgain::SwitchedOff);
    let mut scene = returned();
    scene.policy.leave_alone();
    assert_eq!(why_not(&scene), NotPromotedAgain::SwitchedOff);
}

#[test]
fn one_that_follows_another_instance_is_left_alone() {
    let role = Role::Replica { of: at(B), link_up: false };
    let demoted = InstanceAnswer { role, ..replica(1, A) };
    assert_eq!(why_not(&returned().instance(A, demoted)), NotPromotedAgain::NoCase);
    assert_eq!(why_not(&Scene::healthy(3)), NotPromotedAgain::NoCase);
}

#[test]
fn the_veto_knows_it_too() {
    let promote =
        |address: &str| Action::Promote(Promote { instance: at(address), run_id: run(address) });
    assert_eq!(veto(&returned().view(), &promote(A)), None);
    let refused = |scene: &Scene, address: &str| veto(&scene.view(), &promote(address)).unwrap();
    assert!(refused(&returned(), B).contains("was not the last writer"));
    assert!(refused(&returned().naming(&[0, 1], B, 2), A).contains("does not name"));
    let rival = returned().instance(B, primary(2, Some(1), &[]));
    assert!(refused(&rival, A).contains("says that it is the primary"));
}

/// Sentinels let a replica be that they know and that is detached, for `failover-timeout`.
#[test]
fn a_known_detached_instance_is_pointed_at_the_writer() {
    let mut scene = Scene::healthy(3).instance(C, waiting(900));
    scene.observed.registered.insert(at(C));
    let stray = Condition::Stray(at(C));
    scene.memory.since.insert(stray, Mono(0));
    let fence = scene.decision().actions().into_iter().find_map(|action| match action {
        Action::Fence(fence) => Some((fence.instance, fence.follow)),
        _ => None,
    });
    assert_eq!(fence, Some((at(C), at(A))));
}

/// It is a replica, and is to follow the writer once it has been seen for long enough, and every Sentinel was asked since.
#[test]
fn one_that_is_to_be_pointed_at_the_writer_is_no_second_primary() {
    let mut scene = Scene::healthy(3).instance(C, waiting(900));
    scene.observed.registered.insert(at(C));
    for seen in [None, Some(NOW), Some(0)] {
        scene.memory.since.clear();
        scene.memory.since.extend(seen.map(|at_| (Condition::Stray(at(C)), Mono(at_))));
        let status = assess(&scene.view(), &layout(), &scene.decision());
        let mut codes = status.problems.iter().map(|problem| problem.code);
        assert!(codes.all(|code| code != ProblemCode::SecondPrimary), "{:?}", status.problems);
    }
}

/// All were stopped and started again. Their files do not say which history they hold, their notes do.
#[test]
fn the_one_that_wrote_the_last_history_is_the_primary_again() {
    let began = |id: &str| InstanceAnswer {
        replid: ReplId(id.to_owned()),
        append_only: true,
        ..waiting(1)
    };
    let noted = |mut scene: Scene, history: &str, of: &str, led: bool| {
        let of = Continued { of: ReplId(of.to_owned()), led };
        let store = scene.observed.store.as_mut().expect("a record");
        store.continued.insert(ReplId(history.to_owned()), of);
        scene
    };
    let back = returned().instance(A, began("a")).instance(B, began("b")).instance(C, began("c"));
    let behind = NotPromotedAgain::Behind { old: at(A), than: at(B) };
    assert_eq!(why_not(&back), behind);
    let told = noted(back.clone(), "a", "1", true);
    assert_eq!(promoted(&told), [A], "the others are in their places, with files of their own");
    assert_eq!(promoted(&noted(told.clone(), "b", "1", false)), [A]);
    let unheard = told.clone().dead(C);
    assert_eq!(why_not(&unheard), NotPromotedAgain::Unheard(at(C)));
    let down = (0..3).fold(unheard, |scene, index| {
        scene.sentinel(index, |group| {
            for replica in &mut group.replicas {
                replica.s_down = replica.address == at(C);
            }
        })
    });
    assert_eq!(promoted(&down), [A], "there is no more of it at another address");
    // It followed that history, or wrote one before.
    assert_eq!(why_not(&noted(back.clone(), "a", "1", false)), behind);
    assert_eq!(why_not(&noted(back, "a", "0", true)), behind);
    // One that ran on may hold what the last moment's file does not.
    assert_eq!(why_not(&told.clone().instance(B, replica(1, A))), behind);
    assert_eq!(why_not(&told.instance(B, promoted_b())), NotPromotedAgain::Rival(at(B)));
}
