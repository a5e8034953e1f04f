//! Sentinels that were made anew, blank, at their old addresses, and a last writer that is back.

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::safety;
use consul_redis_core::duty::sentinels::ReconfigureKind;
use consul_redis_core::known::memory::Condition;
use consul_redis_core::known::observed::{InstanceAnswer, Role};
use consul_redis_core::policy::FORGOTTEN_AFTER_MS;
use consul_redis_core::published::projection::detached_address;
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::{Basis, PublishedRole};
use consul_redis_core::situation::Situation;
use consul_redis_core::situation::bootstrap::Promote;
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, at, id, primary, replica, run, sentinel_at};

/// It follows no instance, and holds the last writer's history up to there.
fn waiting(offset: u64) -> InstanceAnswer {
    let role = Role::Replica { of: detached_address(), link_up: false };
    InstanceAnswer { role, offset, ..replica(1, A) }
}

fn cut_loose(of: &str) -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: at(of), link_up: false }, ..replica(1, of) }
}

/// One of three Sentinels knows the group; A, the last writer, is back with all data.
pub fn forgotten() -> Scene {
    let mut scene = Scene::healthy(3).published(|record| {
        record.writer = None;
        record.evidence.basis = Basis::None { votes: 3 };
        for instance in &mut record.instances {
            instance.role = PublishedRole::OutOfSync;
        }
    });
    for index in [1, 2] {
        scene = scene.answer(index, |answer| (answer.id, answer.group) = (id(index + 10), None));
    }
    let scene = scene.instance(A, waiting(1_000)).instance(B, cut_loose(A));
    seen(scene.instance(C, cut_loose(A)), FORGOTTEN_AFTER_MS)
}

fn seen(mut scene: Scene, ms: u64) -> Scene {
    let condition = Condition::Forgotten(at(A), run(A));
    scene.memory.since.insert(condition, Mono(NOW - ms));
    scene
}

#[track_caller]
fn is_not_called_for(scene: &Scene) {
    let situation = scene.decision().situation;
    assert!(!matches!(situation, Situation::Forgotten(_)), "{situation:?}");
}

#[test]
fn the_last_writer_is_named_again_where_the_other_sentinels_are_blank() {
    let scene = forgotten();
    assert_eq!(scene.verdict(), Verdict::Claim(at(A)));
    let claimed = scene.published(|record| record.claim = Some(at(A)));
    let promote = Promote { instance: at(A), run_id: run(A) };
    assert_eq!(claimed.decision().actions().last(), Some(&Action::Promote(promote)));
    // It began its own history where it stood.
    let leads = InstanceAnswer { forked_at: Some(1_001), ..primary(2, Some(1), &[]) };
    let promoted = claimed.instance(A, leads);
    let write = promoted.write();
    let record = write.record.unwrap();
    assert_eq!(record.writer_address(), Some(&at(A)));
    assert_eq!(record.evidence.basis, Basis::Agents);
    assert!(record.why.contains("were made anew"), "{}", record.why);
    // The blank ones are told, and it does not fall while they are.
    let told = promoted.published(|was| *was = record);
    let reconfigurations: Vec<_> = told
        .decision()
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Reconfigure(reconfigure) => Some((reconfigure.sentinel, reconfigure.what)),
            _ => None,
        })
        .collect();
    let monitor = |index| (sentinel_at(index), ReconfigureKind::Monitor);
    assert_eq!(reconfigurations, [monitor(1), monitor(2)]);
    assert!(!matches!(told.verdict(), Verdict::Withdraw(_)), "{:?}", told.verdict());
}

#[test]
fn it_is_not_named_again_while_anything_may_lead_elsewhere() {
    let early = seen(forgotten(), FORGOTTEN_AFTER_MS - 1);
    assert!(early.keeps().contains("is about to be named again"), "{}", early.keeps());
    // One that has kept its file is at another address now.
    is_not_called_for(&forgotten().sentinel(0, |group| {
        group.peers[0].address = at("10.0.7.7:26379");
    }));
    is_not_called_for(&forgotten().silent(1));
    is_not_called_for(&forgotten().sentinel(0, |group| group.primary = at(B)));
    is_not_called_for(&forgotten().answer(1, |answer| answer.tilt = true));
    // It waits for another instance.
    is_not_called_for(&forgotten().instance(A, cut_loose(B)));
    let why = |scene: Scene| scene.keeps();
    assert!(why(forgotten().instance(A, waiting(999))).contains(&format!("holds less than {B}")));
    assert!(why(forgotten().dead(C)).contains(&format!("{C}, which may hold more")));
    let rival = forgotten().instance(B, primary(1, None, &[]));
    assert!(why(rival).contains(&format!("{B} says that it is the primary")));
    // The veto says so by itself.
    let claimed = forgotten().published(|record| record.claim = Some(at(A)));
    let promote = Action::Promote(Promote { instance: at(A), run_id: run(A) });
    assert_eq!(safety::veto(&claimed.view(), &promote), None);
    let elsewhere = claimed.sentinel(0, |group| group.primary = at(B));
    assert!(safety::veto(&elsewhere.view(), &promote).is_some());
}

#[test]
fn a_sentinel_at_whose_address_another_answers_counts_no_more() {
    let known = |scene: &Scene| scene.view().tally.counted;
    // Told anew, they know one another; the third one still lists those before them, at the same addresses.
    let mut scene = Scene::healthy(3);
    for index in [1, 2] {
        scene = scene.answer(index, |answer| answer.id = id(index + 10));
        scene = scene.sentinel(index, |group| {
            for peer in &mut group.peers {
                if peer.id != id(0) {
                    peer.id = id(13 - index);
                }
            }
        });
    }
    assert_eq!(known(&scene), 3);
    let lists_both = |scene: Scene| {
        scene.sentinel(0, |group| {
            let mut more = group.peers.clone();
            for (peer, index) in more.iter_mut().zip([11, 12]) {
                peer.id = id(index);
            }
            group.peers.extend(more);
            group.other_sentinels = 4;
        })
    };
    assert_eq!(known(&lists_both(scene.clone())), 3);
    // It answers there, and here as well: the address is one of two.
    let mut twice = lists_both(scene);
    let reading = twice.observed.sentinels[&sentinel_at(1)].clone();
    twice.observed.sentinels.insert(at("10.0.8.1:26379"), reading);
    let mut twice = twice.answer(1, |answer| answer.id = id(11));
    let old = at("10.0.8.1:26379");
    if let Ok(answer) = &mut twice.observed.sentinels.get_mut(&old).unwrap().result {
        answer.id = id(1);
    }
    assert_eq!(known(&twice), 4);
}
