//! A primary that has come back without its data.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::fence::fences;
use consul_redis_core::duty::safety::veto;
use consul_redis_core::known::memory::{Asked, Condition, InstanceRun, Origin};
use consul_redis_core::known::observed::{InstanceAnswer, ReplId, Role};
use consul_redis_core::policy::{REINSTATED_AFTER_MS, REPLACE_AGAIN_MS};
use consul_redis_core::published::projection::detached_address;
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::DataLossRecord;
use consul_redis_core::shown::status::{Problem, assess};
use consul_redis_core::situation::data_loss::{Detach, condition, data_loss, replace};
use consul_redis_core::time::Mono;

use crate::scene::{A, ASKED, B, C, NOW, Scene, at, layout, primary, replica, run};

/// A new history, no keys.
fn blank() -> InstanceAnswer {
    InstanceAnswer {
        keys: 0,
        offset: 14,
        started_empty: true,
        uptime_s: 1,
        ..primary(9, None, &[])
    }
}

/// An instance with the group's data, without a link to its primary.
fn holder(of: &str) -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: at(of), link_up: false }, ..replica(1, of) }
}

/// An instance that is detached.
fn detached() -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: detached_address(), link_up: false }, ..holder(A) }
}

/// A is back empty; B and C hold the data, and are about to copy it.
pub fn reborn() -> Scene {
    Scene::healthy(3)
        .published(|record| record.lineage = vec![ReplId("1".to_owned())])
        .instance(A, blank())
        .instance(B, holder(A))
        .instance(C, holder(A))
}

/// The same once it is published that there is no writer, and B and C have let go.
fn withdrawn() -> Scene {
    let scene = reborn().published(|record| {
        record.writer = None;
        record.instances.retain(|instance| instance.address != at(A));
    });
    scene.instance(B, detached()).instance(C, detached())
}

fn kept_from_copying(scene: &Scene) -> Vec<String> {
    let all = scene.decision().actions();
    let of = |action: &Action| match action {
        Action::Detach(detach) => Some(detach.instance.to_string()),
        _ => None,
    };
    all.iter().filter_map(of).collect()
}

fn asked(scene: &Scene) -> Option<String> {
    let write = scene.decision().actions().into_iter().find_map(|action| match action {
        Action::Write(write) if write.purpose == Purpose::Replace => Some(write),
        _ => None,
    })?;
    let noted = write.record.as_ref()?.data_loss.clone()?;
    let replace = write.replace?;
    assert_eq!((&noted.instance, noted.sentinel), (&at(A), Some(replace.sentinel.clone())));
    Some(replace.primary.to_string())
}

#[test]
fn a_primary_that_is_back_without_its_data_is_withdrawn_and_no_instance_copies_that() {
    let scene = reborn();
    assert!(scene.withdraws().contains("came back without its data, and 10.0.0.3:6379 holds 10"));
    assert_eq!(kept_from_copying(&scene), [B, C]);
    let noted = scene.write().record.unwrap().data_loss.unwrap();
    assert_eq!((noted.instance, noted.asked), (at(A), 0));
    // What clients have written to it since is not the group's data.
    let written = InstanceAnswer { keys: 3, ..blank() };
    assert_eq!(kept_from_copying(&reborn().instance(A, written)), [B, C]);
}

/// They may have had none at that time, and have got some from it before it died.
#[test]
fn what_the_others_said_before_it_was_started_says_nothing_of_what_it_has_lost() {
    let nothing = || InstanceAnswer { keys: 0, ..holder(A) };
    let begun = |uptime_s| {
        let scene = reborn().instance(A, InstanceAnswer { uptime_s, ..blank() });
        scene.instance(B, nothing()).instance(C, nothing())
    };
    let noted = |scene: &Scene| match scene.verdict() {
        Verdict::Confirm { writer, .. } => Some(writer.replid),
        Verdict::Keep(_) => None,
        other => panic!("{other:?}"),
    };
    let its_own = Some(ReplId("9".to_owned()));
    assert_eq!(noted(&begun(0)), its_own, "a group without data has lost none");
    assert_eq!(noted(&begun(0).instance_asked(B, ASKED - 1)), None);
    assert_eq!(noted(&begun(2).instance_asked(B, ASKED - 2_001)), None);
    assert_eq!(noted(&begun(2).instance_asked(B, ASKED - 2_000)), its_own);
    let held = begun(0).instance(B, holder(A));
    assert!(held.withdraws().contains("10.0.0.2:6379 holds 10"), "{}", held.withdraws());
}

#[test]
fn one_sentinel_is_asked_to_replace_it_once_the_data_is_safe() {
    assert_eq!(asked(&withdrawn()), Some(A.to_owned()));
    let exposed = withdrawn().instance(C, holder(A));
    assert_eq!((asked(&exposed), kept_from_copying(&exposed)), (None, vec![C.to_owned()]));
}

#[test]
fn no_sentinel_is_asked_again_for_a_while() {
    let noted = |asked| DataLossRecord { instance: at(A), run_id: run(A), asked, sentinel: None };
    let mut scene = withdrawn().published(|record| record.data_loss = Some(noted(1)));
    let seen = |ago_ms| {
        let mut seen = Asked::default();
        seen.see(Some(&noted(1)), Mono(NOW - ago_ms));
        seen
    };
    scene.memory.replacing = seen(REPLACE_AGAIN_MS - 1);
    assert_eq!(asked(&scene), None);
    // An older agent has dropped it from the record.
    scene.memory.replacing.see(None, Mono(NOW));
    assert_eq!(asked(&scene.published(|record| record.data_loss = None)), None);
    let mut scene = withdrawn().published(|record| record.data_loss = Some(noted(1)));
    scene.memory.replacing = seen(REPLACE_AGAIN_MS);
    assert_eq!(scene.write().record.unwrap().data_loss.unwrap().asked, 2);
}

#[test]
fn a_sentinel_that_would_choose_one_without_data_is_not_asked() {
    let data_loss = InstanceAnswer { keys: 0, offset: 5_000, ..replica(9, A) };
    let scene = withdrawn().instance(C, data_loss.clone());
    assert_eq!(asked(&scene), None);
    let why = replace(&scene.view()).unwrap_err().to_string();
    assert!(why.contains("would choose 10.0.0.3:6379, which does not hold it"), "{why}");
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let said = |problem: &Problem| problem.text.contains("Set `replica-priority 0` there");
    assert!(status.problems.iter().any(said), "{:?}", status.problems);
    let never = InstanceAnswer { priority: Some(0), ..data_loss };
    assert_eq!(asked(&withdrawn().instance(C, never)), Some(A.to_owned()));
}

#[test]
fn one_that_may_hold_more_is_waited_for() {
    let mut scene = withdrawn().dead(C);
    assert!(
        replace(&scene.view())
            .unwrap_err()
            .to_string()
            .contains("10.0.0.3:6379, which may hold more")
    );
    assert_eq!(condition(&scene.view()), Some(Condition::DataLoss(at(A))));
    scene.memory.since.insert(Condition::DataLoss(at(A)), Mono(NOW - REINSTATED_AFTER_MS));
    assert_eq!(asked(&scene), Some(A.to_owned()));
}

#[test]
fn while_no_instance_says_what_it_holds_it_is_not_published_for_as_long_as_a_first_primary_waits() {
    let mut scene = reborn().dead(B).dead(C);
    assert!(scene.withdraws().contains("10.0.0.2:6379, 10.0.0.3:6379 may hold it"));
    assert_eq!(asked(&scene), None);
    let wait = scene.policy.bootstrap_wait_ms;
    scene.memory.since.insert(Condition::DataLoss(at(A)), Mono(NOW - wait));
    assert_eq!(data_loss(&scene.view()), None);
    // One that is still loading has yet to say.
    let loading = InstanceAnswer { not_ready: Some("LOADING".to_owned()), keys: 0, ..holder(A) };
    let scene = reborn().instance(B, loading).instance(C, InstanceAnswer { keys: 0, ..holder(A) });
    assert!(scene.withdraws().contains("10.0.0.2:6379 may hold it"));
}

#[test]
fn where_no_instance_has_data_or_it_is_the_same_data_nothing_is_done() {
    let none = InstanceAnswer { keys: 0, ..holder(A) };
    let scene = reborn().instance(B, none.clone()).instance(C, none);
    assert_eq!((data_loss(&scene.view()), kept_from_copying(&scene)), (None, vec![]));
    // FLUSHALL, and the others are a moment behind.
    let flushed = InstanceAnswer { keys: 0, ..primary(1, None, &[B, C]) };
    assert_eq!(data_loss(&reborn().instance(A, flushed).view()), None);
    // Restarted with its data, from a snapshot or from an append-only file.
    for own in [primary(2, Some(1), &[]), primary(9, None, &[])] {
        assert_eq!(data_loss(&reborn().instance(A, own).view()), None);
    }
}

#[test]
fn one_that_has_led_for_long_with_data_of_its_own_stays() {
    let grown = InstanceAnswer { keys: 50, uptime_s: 100, ..blank() };
    assert_eq!(data_loss(&reborn().instance(A, grown.clone()).view()), None);
    // Unless it was found to be emptied in this very run, and is being replaced.
    let noted = DataLossRecord { instance: at(A), run_id: run(A), asked: 1, sentinel: None };
    let scene = withdrawn().instance(A, grown).published(|record| record.data_loss = Some(noted));
    assert!(data_loss(&scene.view()).is_some());
}

#[test]
fn no_instance_with_foreign_data_is_detached() {
    // It has no place in the group, and no history of it.
    let foreign = InstanceAnswer { replid: ReplId("77".to_owned()), ..primary(77, None, &[]) };
    let scene = reborn().instance(B, foreign).instance(C, InstanceAnswer { keys: 0, ..holder(A) });
    assert_eq!((data_loss(&scene.view()), kept_from_copying(&scene)), (None, vec![]));
}

#[test]
fn one_that_keeps_its_data_in_an_append_only_file_alone_is_kept_by_its_place() {
    let aof = InstanceAnswer { replid: ReplId("88".to_owned()), offset: 1, ..holder(A) };
    let none = InstanceAnswer { keys: 0, offset: 0, priority: Some(0), ..holder(A) };
    let scene = reborn().instance(B, aof).instance(C, none);
    assert_eq!(kept_from_copying(&scene), [B]);
}

#[test]
fn a_stray_primary_with_the_data_is_kept_unless_it_may_have_been_promoted() {
    let second = primary(2, Some(1), &[]);
    let lived = |origin| {
        let mut scene = reborn().instance(B, second.clone());
        scene.memory.lives.insert(at(B), InstanceRun { run_id: run(B), origin });
        scene.memory.since.insert(Condition::Stray(at(B)), Mono(NOW - 1_000));
        kept_from_copying(&scene)
    };
    assert_eq!(lived(Origin::Started), [B, C]);
    assert_eq!(lived(Origin::WasReplica), [C]);
}

#[test]
fn a_late_command_does_nothing() {
    let scene = reborn();
    let all = scene.decision().actions();
    let detach = all.iter().find_map(|action| match action {
        Action::Detach(detach) if detach.instance == at(B) => Some(detach.clone()),
        _ => None,
    });
    let detach: Detach = detach.unwrap();
    let holder = |of| InstanceAnswer { run_id: run(B), ..holder(of) };
    assert!(detach.still_holds(&holder(A)));
    // It follows another instance, was promoted, was restarted, or has copied it already.
    assert!(!detach.still_holds(&holder(C)));
    assert!(!detach.still_holds(&primary(2, Some(1), &[])));
    assert!(!detach.still_holds(&InstanceAnswer { run_id: "other".to_owned(), ..holder(A) }));
    assert!(!detach.still_holds(&InstanceAnswer { keys: 0, ..replica(9, A) }));
}

#[test]
fn the_veto_knows_who_must_not_be_touched() {
    let all = reborn().decision().actions();
    let detach = all.iter().find(|action| matches!(action, Action::Detach(_))).unwrap();
    assert_eq!(veto(&reborn().view(), detach), None);
    let sound = Scene::healthy(3);
    assert!(veto(&sound.view(), detach).unwrap().contains("is no primary without data"));
    let blank_one = reborn().instance(B, InstanceAnswer { keys: 0, ..holder(A) });
    assert!(veto(&blank_one.view(), detach).unwrap().contains("has no data to keep"));
    let named = reborn().naming(&[0], B, 2);
    assert!(veto(&named.view(), detach).unwrap().contains("names or promotes"));
}

#[test]
fn no_instance_is_made_to_follow_it_while_it_is_still_published() {
    let mut scene = reborn().instance(B, detached());
    scene.observed.registered.insert(at(B));
    scene.memory.since.insert(Condition::Stray(at(B)), Mono(NOW - 60_000));
    let fenced = |scene: &Scene| fences(&scene.view()).0.len();
    assert_eq!(fenced(&scene), 0);
    // What would be done otherwise, where it has keys by now.
    scene = scene.instance(A, InstanceAnswer { keys: 3, ..blank() });
    assert_eq!(fenced(&scene), 0);
    scene.policy.replace_emptied = false;
    assert_eq!(fenced(&scene), 1);
}

#[test]
fn one_that_has_copied_the_data_since_it_was_started_is_not_empty() {
    let promoted = InstanceAnswer { started_empty: true, uptime_s: 5, ..primary(2, Some(1), &[]) };
    let strange = InstanceAnswer { replid: ReplId("3".to_owned()), ..holder(A) };
    let scene = reborn().instance(A, promoted).instance(B, strange.clone()).instance(C, strange);
    assert_eq!(data_loss(&scene.view()), None);
}

#[test]
fn it_can_be_switched_off() {
    let mut scene = reborn();
    scene.policy.replace_emptied = false;
    assert_eq!((data_loss(&scene.view()), kept_from_copying(&scene)), (None, vec![]));
}

/// The address of A in their words is a name, and no resolver says where that leads.
#[test]
fn holders_that_follow_a_name_are_kept_from_copying_it() {
    let named = || InstanceAnswer { role: holder("redis-master:6379").role, ..holder(A) };
    let scene = reborn().instance(B, named()).instance(C, named());
    assert_eq!(kept_from_copying(&scene), [B, C]);
    let waits = withdrawn().instance(C, named());
    assert_eq!((asked(&waits), kept_from_copying(&waits)), (None, vec![C.to_owned()]));
    // So are those whose data is in an append-only file alone, whose history is in no record.
    let aof = InstanceAnswer { replid: ReplId("88".to_owned()), offset: 1, ..named() };
    assert_eq!(kept_from_copying(&reborn().instance(B, aof)), [B, C]);
    // Another address of A itself.
    let second = "10.9.0.1:6379";
    let scene = reborn().instance(second, InstanceAnswer { run_id: run(A), ..blank() });
    assert_eq!(kept_from_copying(&scene.instance(B, holder(second))), [B, C]);
    // One that follows another one that is known follows that one, whether it answers or not.
    let chained = reborn().instance(B, holder(C));
    assert_eq!(kept_from_copying(&chained), [C]);
    assert_eq!(kept_from_copying(&chained.dead(C)), Vec::<String>::new());
}

#[test]
fn a_late_command_knows_whom_it_followed_by_a_name() {
    let named = InstanceAnswer { role: holder("redis-master:6379").role, ..holder(A) };
    let scene = reborn().instance(B, named.clone());
    let all = scene.decision().actions();
    let detach = all.iter().find_map(|action| match action {
        Action::Detach(detach) if detach.instance == at(B) => Some(detach.clone()),
        _ => None,
    });
    let (detach, named) = (detach.unwrap(), InstanceAnswer { run_id: run(B), ..named });
    assert!(detach.still_holds(&named));
    assert!(detach.still_holds(&InstanceAnswer { role: holder(A).role, ..named.clone() }));
    assert!(!detach.still_holds(&InstanceAnswer { role: holder(C).role, ..named }));
}

/// All its keys were deleted, or none was ever written; a stray primary has some of old.
#[test]
fn a_writer_without_keys_that_never_restarted_has_lost_nothing() {
    let old = |scene: Scene| {
        let second = InstanceAnswer { keys: 1, ..primary(7, None, &[]) };
        scene.published(|record| record.lineage.push(ReplId("7".to_owned()))).instance(B, second)
    };
    let without = InstanceAnswer { keys: 0, ..primary(1, None, &[C]) };
    let empty = || old(reborn().instance(A, without.clone()));
    assert_eq!(data_loss(&empty().view()), None);
    // It was promoted a moment ago.
    let promoted = InstanceAnswer { keys: 0, ..primary(2, Some(1), &[C]) };
    let mut scene = old(reborn().instance(A, promoted));
    scene.memory.lives.insert(at(A), InstanceRun { run_id: run(A), origin: Origin::WasReplica });
    assert_eq!(data_loss(&scene.view()), None);
    // A snapshot of long ago names the history too, as the one before its own.
    scene.memory.lives.insert(at(A), InstanceRun { run_id: run(A), origin: Origin::Started });
    assert!(data_loss(&scene.view()).is_some());
    assert!(data_loss(&old(reborn()).view()).is_some());
}
