//! The mark in the data set: when it is written, and what one that is found proves.

use std::time::Duration;

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::fence::{Fence, StrayKind};
use consul_redis_core::duty::mark::Marking;
use consul_redis_core::duty::safety;
use consul_redis_core::group::{GroupLoop, Input, Output};
use consul_redis_core::identity::mark::{DataMark, FailedMark, FoundMark, MarkKey};
use consul_redis_core::known::memory::{Condition, InstanceRun, Memory, Origin};
use consul_redis_core::known::observed::{FailoverPhase, InstanceAnswer, ReplId, SentinelReplica};
use consul_redis_core::known::view::View;
use consul_redis_core::policy::{MARK_AGAIN_MS, MARK_LATE_S};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;

use crate::scene::{A, ASKED, B, C, NOW, Scene, at, ceased, layout, primary, run};

/// No Sentinel of the scene knows it.
const D: &str = "10.0.0.4:6379";

fn key() -> MarkKey {
    "consul-redis".parse().expect("a key")
}

/// The mark of generation 7, which is published.
fn own() -> DataMark {
    DataMark::of(Scene::healthy(3).observed.record().expect("a record")).expect("a writer")
}

/// A healthy group whose agents keep a mark, and whose writer has this in the key.
fn scene(found: FoundMark) -> Scene {
    let mut scene =
        Scene::healthy(3).instance(A, InstanceAnswer { mark: found, ..primary(1, None, &[B, C]) });
    scene.policy.mark = Some(key());
    scene
}

fn marking(scene: &Scene) -> Option<Marking> {
    let mut marks = scene.decision().actions().into_iter().filter_map(|action| match action {
        Action::Mark(marking) => Some(marking),
        _ => None,
    });
    marks.next()
}

fn said(scene: &Scene) -> String {
    scene.decision().said().join("\n")
}

#[test]
fn the_writer_gets_the_mark_of_what_is_published() {
    let wanted = Marking { instance: at(A), run_id: run(A), key: key(), mark: own() };
    let before = DataMark { generation: 6, history: ReplId("0".to_owned()), ..own() };
    let anothers = DataMark { group: "other".parse().expect("a group"), ..own() };
    // One of a Consul whose data was lost: what is published now counts.
    let later = DataMark { generation: 99, ..own() };
    for found in
        [FoundMark::Absent, FoundMark::Is(before), FoundMark::Is(anothers), FoundMark::Is(later)]
    {
        let scene = scene(found);
        assert_eq!(marking(&scene), Some(wanted.clone()));
        assert_eq!(said(&scene), "");
    }
    let mut off = scene(FoundMark::Absent);
    off.policy.mark = None;
    let mut only_read = scene(FoundMark::Absent);
    only_read.policy.leave_alone();
    assert_eq!(only_read.policy.mark, Some(key()));
    let has_it = scene(FoundMark::Is(own()));
    // It is being read.
    let unknown = scene(FoundMark::Unknown);
    for scene in [off, only_read, has_it, unknown] {
        assert_eq!(marking(&scene), None);
        assert_eq!(said(&scene), "");
    }
}

#[test]
fn what_is_no_mark_is_never_overwritten() {
    let other = scene(FoundMark::Other);
    assert_eq!(marking(&other), None);
    assert!(said(&other).contains("holds something that is no mark, which is left as it is"));
    let refused = scene(FoundMark::Refused("NOPERM no key".to_owned()));
    assert_eq!(marking(&refused), None);
    assert!(said(&refused).contains("may not read it (`NOPERM no key`"), "{}", said(&refused));
    // Nor what an application has made of it by the last moment.
    let wanted = marking(&scene(FoundMark::Absent)).expect("it");
    let answer = |mark: FoundMark| InstanceAnswer { mark, run_id: run(A), ..primary(1, None, &[]) };
    let is = |mark: DataMark| FoundMark::Is(mark);
    for mark in [FoundMark::Absent, is(DataMark { generation: 1, ..own() })] {
        assert!(wanted.still_holds(&answer(mark)));
    }
    let well = answer(FoundMark::Absent);
    let restarted = InstanceAnswer { run_id: "another".to_owned(), ..well.clone() };
    let promoted_again = InstanceAnswer { replid: ReplId("2".to_owned()), ..well.clone() };
    let follows = InstanceAnswer { role: crate::scene::replica(1, B).role, ..well.clone() };
    let loads = InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..well };
    let refused = answer(FoundMark::Refused("NOPERM".to_owned()));
    let others = [answer(FoundMark::Other), answer(FoundMark::Unknown), refused];
    for changed in others.into_iter().chain([restarted, promoted_again, follows, loads]) {
        assert!(!wanted.still_holds(&changed), "{changed:?}");
    }
}

#[test]
fn it_is_written_where_a_majority_names_the_writer_and_nothing_goes_on() {
    let scene = || scene(FoundMark::Absent);
    let unconfirmed = scene().promoted(A, 100);
    let leading = scene().leading(0, B, FailoverPhase::SelectReplica);
    let split = scene().naming(&[0, 1], B, 2);
    let silent = scene().silent(0).silent(1);
    let dead = scene().dead(A);
    let stale = scene().instance_asked(A, 1);
    // Its history is about to be recorded.
    let anew = InstanceAnswer { mark: FoundMark::Absent, ..primary(5, None, &[B, C]) };
    let anew = scene().instance(A, anew);
    for scene in [unconfirmed, leading, split, silent, dead, stale, anew] {
        assert_eq!(marking(&scene), None, "{:?}", scene.decision());
    }
    // The safety layer says it again.
    let veto = |scene: &Scene, marking: Marking| {
        safety::veto(&scene.view(), &Action::Mark(marking)).unwrap_or_default()
    };
    let wanted = marking(&scene()).expect("it");
    assert_eq!(veto(&scene(), wanted.clone()), "");
    let of_b = Marking { instance: at(B), ..wanted.clone() };
    assert!(veto(&scene(), of_b).contains("is not the writer"));
    assert!(veto(&scene().dead(A), wanted.clone()).contains("is not the writer"));
    let named = scene().naming(&[0, 1], B, 2);
    assert!(veto(&named, wanted.clone()).contains("the majority does not name"));
    let old = DataMark { generation: 6, ..own() };
    assert!(veto(&scene(), Marking { mark: old, ..wanted }).contains("is not the published one"));
}

/// Each agent tries once in a few seconds, and says what became of it.
#[test]
fn it_is_written_once_in_a_while_and_a_refusal_is_said() {
    let mut scene = scene(FoundMark::Absent);
    let wanted = marking(&scene).expect("it");
    scene.memory.marked = Some(Mono(NOW - MARK_AGAIN_MS + 1));
    assert_eq!(marking(&scene), None);
    scene.memory.marked = Some(Mono(NOW - MARK_AGAIN_MS));
    assert_eq!(marking(&scene), Some(wanted.clone()));
    let words = "NOPERM User app has no permissions to run the 'set' command".to_owned();
    let Marking { run_id, mark, .. } = wanted;
    scene.memory.not_marked = Some(FailedMark { run_id, mark, words });
    scene.observed.store.as_mut().expect("it").agents.insert("agent-0".to_owned());
    assert!(said(&scene).contains("could not be written (`NOPERM User app has no"));
    assert!(marking(&scene).is_some(), "it is tried again");
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let codes: Vec<ProblemCode> = status.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, [ProblemCode::MarkMissing]);
    assert!(status.healthy && status.degraded);
    // What was refused of a generation before says nothing of this one.
    let next = scene.published(|record| record.generation = 8);
    assert!(!said(&next).contains("could not be written"));
}

/// `status` has not tried itself.
#[test]
fn one_look_says_that_it_is_missing_for_long() {
    let since = |ago_s: i64| {
        let scene = scene(FoundMark::Absent);
        let wall = scene.view().now.wall;
        let mut scene = scene.published(|record| {
            record.since = wall - jiff::SignedDuration::from_secs(ago_s);
        });
        scene.memory = Memory::default();
        scene
    };
    let look = |scene: &Scene| {
        let now = scene.view().now;
        let view = View::of_one_look(&scene.policy, &scene.memory, &scene.observed, now);
        consul_redis_core::decide::decide(&view, &layout()).said().join("\n")
    };
    assert_eq!(look(&since(MARK_LATE_S - 1)), "");
    assert!(look(&since(MARK_LATE_S)).contains("no agent has written it"));
}

/// What the loop does with it.
#[test]
fn how_a_mark_was_written_is_remembered() {
    let scene = scene(FoundMark::Absent);
    let now = scene.view().now;
    let mut machine = GroupLoop::new(scene.policy.clone(), layout());
    let mut outputs = Vec::new();
    for (at, reading) in scene.observed.sentinels.clone() {
        outputs.extend(machine.on(Input::Sentinel(at, reading), now));
    }
    for (at, reading) in scene.observed.instances.clone() {
        outputs.extend(machine.on(Input::Instance(at, reading), now));
    }
    outputs.extend(machine.on(Input::Watched(scene.observed.store.clone().expect("it")), now));
    // The answers were asked for before the generation was seen.
    assert!(!outputs.iter().any(|output| matches!(output, Output::Mark(_))));
    let later = |ms: u64| {
        let mut now = now;
        now.mono = now.mono.plus_ms(ms);
        now
    };
    let ask = |machine: &mut GroupLoop, ms: u64| {
        let mut outputs = Vec::new();
        for (at, mut reading) in scene.observed.sentinels.clone() {
            reading.asked = later(ms).mono;
            outputs.extend(machine.on(Input::Sentinel(at, reading), later(ms)));
        }
        for (at, mut reading) in scene.observed.instances.clone() {
            reading.asked = later(ms).mono;
            outputs.extend(machine.on(Input::Instance(at, reading), later(ms)));
        }
        let marks = outputs.into_iter().filter_map(|output| match output {
            Output::Mark(marking) => Some(marking),
            _ => None,
        });
        marks.collect::<Vec<Marking>>()
    };
    let marks = ask(&mut machine, 100);
    let [wanted] = marks.as_slice() else { panic!("{marks:?}") };
    assert_eq!(ask(&mut machine, 1_000), []);
    machine.on(Input::Marked(wanted.clone(), Err("OOM".to_owned())), later(1_000));
    let reasons = || machine.decision().expect("one").said().join("\n");
    assert!(reasons().contains("could not be written (`OOM`)"), "{}", reasons());
    assert_eq!(ask(&mut machine, 100 + MARK_AGAIN_MS), marks);
    machine.on(Input::Marked(wanted.clone(), Ok(true)), later(100 + MARK_AGAIN_MS));
    let reasons = machine.decision().expect("one").said().join("\n");
    assert!(!reasons.contains("could not be written"), "{reasons}");
}

/// An append-only file does not hold which history its data is of.
fn from_a_file(mark: FoundMark) -> InstanceAnswer {
    InstanceAnswer { append_only: true, mark, ..primary(9, None, &[]) }
}

/// C is back as a primary, no Sentinel lists it any more, and it has no row; it was the writer a while ago.
fn back(answer: InstanceAnswer) -> Scene {
    let mut scene = scene(FoundMark::Is(own())).instance(C, answer);
    for index in 0..3 {
        scene = scene
            .sentinel(index, |group| group.replicas.retain(|replica| replica.address != at(C)));
    }
    let mut scene = scene.published(|record| {
        record.instances.retain(|i| i.address != at(C));
        record.lineage = vec![ReplId("1".to_owned()), ReplId("0".to_owned())];
    });
    let wall = scene.view().now.wall;
    let change = ceased(wall - Duration::from_secs(60));
    scene.observed.store.as_mut().expect("it").history.push(change);
    scene.memory.lives.insert(at(C), InstanceRun { run_id: run(C), origin: Origin::Unseen });
    // It was seen a moment ago, and all were asked since.
    scene.memory.since.insert(Condition::Stray(at(C)), Mono(ASKED));
    scene
}

fn fences(scene: &Scene) -> Vec<Fence> {
    let fences = scene.decision().actions().into_iter().filter_map(|action| match action {
        Action::Fence(fence) => Some(fence),
        _ => None,
    });
    fences.collect()
}

fn held(scene: &Scene) -> bool {
    let all = scene.decision().actions();
    all.iter().any(|action| matches!(action, Action::Hold(hold) if hold.instance == at(C)))
}

#[track_caller]
fn left_alone(scene: &Scene, why: &str) {
    assert_eq!(fences(scene), []);
    assert!(said(scene).contains(why), "{}", said(scene));
}

/// The mark of generation 6, as its writer had it.
fn old() -> DataMark {
    DataMark { generation: 6, history: ReplId("0".to_owned()), ..own() }
}

#[test]
fn an_old_primary_is_known_by_the_mark_in_its_data() {
    for mark in [old(), own()] {
        let scene = back(from_a_file(FoundMark::Is(mark)));
        let fence = fences(&scene);
        let [fence] = fence.as_slice() else { panic!("{:?}", scene.decision()) };
        assert_eq!((&fence.instance, fence.kind), (&at(C), StrayKind::Returned));
        assert!(!held(&scene));
    }
    // Redis before 7.0 does not know its history by a snapshot either.
    let version = "6.0.16".to_owned();
    let six = InstanceAnswer { append_only: false, version, ..from_a_file(FoundMark::Is(old())) };
    assert_eq!(fences(&back(six))[0].kind, StrayKind::Returned);
    // Without the setting it is not asked, and nothing has changed.
    let unknown = back(from_a_file(FoundMark::Unknown));
    left_alone(&unknown, "cannot prove whose data it holds. Its writes are held");
    assert!(held(&unknown));
}

#[test]
fn a_mark_that_proves_nothing_says_what_it_is() {
    let refused = FoundMark::Refused("NOPERM no key".to_owned());
    let later = DataMark { generation: 8, ..old() };
    let forgotten = DataMark { history: ReplId("77".to_owned()), ..old() };
    for (mark, why) in [
        (FoundMark::Absent, "(it has no mark)"),
        (FoundMark::Other, "(the key of its mark holds something else)"),
        (refused, "(its mark cannot be read: NOPERM no key)"),
        (FoundMark::Is(later), "(its mark is of generation 8, and 7 is published)"),
        (
            FoundMark::Is(forgotten),
            "(its mark is of generation 6, and names a history that is none of the last writers')",
        ),
    ] {
        let scene = back(from_a_file(mark));
        left_alone(&scene, &format!("cannot prove whose data it holds {why}. Its writes are held"));
        assert!(held(&scene), "{why}");
    }
}

/// Neither fenced nor held: it is another group's.
#[test]
fn the_mark_of_another_group_is_left_alone_wherever_it_is() {
    let foreign = ReplId("77".to_owned());
    let group = "other".parse().expect("a group");
    let of_group = DataMark { group, history: foreign.clone(), ..old() };
    let of_prefix =
        DataMark { prefix: Some("staging".to_owned()), history: foreign.clone(), ..old() };
    let of_installation =
        DataMark { installation: Some("staging".to_owned()), history: foreign, ..old() };
    for (mark, says) in [
        (of_group, "its mark is of group other"),
        (of_prefix, "its mark is of group redis below staging"),
        (of_installation, "of installation staging"),
    ] {
        // At the address of a writer of before, it is another group's that has the address by now.
        let scene = back(from_a_file(FoundMark::Is(mark.clone())));
        assert_eq!(fences(&scene), []);
        assert!(!held(&scene) && !said(&scene).contains(C), "{}", said(&scene));
        // A majority lists the address, and it has a row: without the mark it would be taken for the one that was there.
        let listed = |mark: FoundMark| {
            let mut scene = self::scene(FoundMark::Is(own())).instance(C, from_a_file(mark));
            scene.memory.since.insert(Condition::Stray(at(C)), Mono(ASKED));
            scene
        };
        let scene = listed(FoundMark::Is(mark));
        left_alone(&scene, says);
        left_alone(&scene, "10 keys of an unrelated history");
        assert!(!held(&scene));
        assert_eq!(fences(&listed(FoundMark::Absent))[0].kind, StrayKind::Returned);
    }
    // The group's own data from before it got another prefix: the history decides.
    let moved = DataMark { prefix: Some("before".to_owned()), ..old() };
    let scene = back(from_a_file(FoundMark::Is(moved)));
    left_alone(
        &scene,
        "its mark is of group redis below before, generation 6). Its writes are held",
    );
}

/// A copy of the data carries the mark, too: only where the group knows the address does it prove something.
#[test]
fn a_copy_of_the_data_elsewhere_is_left_alone() {
    let copy = from_a_file(FoundMark::Is(old()));
    // It has got the address of a writer of before, and replicas of its own.
    let leads = InstanceAnswer { role: primary(9, None, &[D]).role, ..copy.clone() };
    let scene = back(leads);
    assert_eq!(fences(&scene), []);
    assert!(!held(&scene) && !said(&scene).contains(C), "{}", said(&scene));
    // It was the writer longer ago than that is remembered: it is not looked at.
    let mut long_ago = back(copy.clone());
    long_ago.policy.forget_after_ms = 59_000;
    assert_eq!(fences(&long_ago), []);
    assert!(!held(&long_ago) && !said(&long_ago).contains(C), "{}", said(&long_ago));
    // A single Sentinel lists it, by mistake.
    let one = long_ago.clone().sentinel(0, |group| {
        let (address, priority) = (at(C), None);
        group.replicas.push(SentinelReplica { address, s_down: false, promoted: false, priority });
    });
    assert_eq!(fences(&one), []);
    // Registered for the group, it is one of its own.
    let mut registered = long_ago;
    registered.observed.registered.insert(at(C));
    assert_eq!(fences(&registered)[0].kind, StrayKind::Returned);
    // An instance with a row that leads others: a Sentinel would make it a replica, no agent does by its mark.
    let leads = InstanceAnswer { role: primary(9, None, &[D]).role, ..copy };
    let mut with_row = back(leads).published(|record| {
        let role = consul_redis_core::published::record::PublishedRole::Down;
        record.lineage = vec![ReplId("1".to_owned()), ReplId("0".to_owned())];
        let row = consul_redis_core::published::record::InstanceRecord { address: at(C), role };
        record.instances.push(row);
    });
    with_row.memory.since.insert(Condition::Stray(at(C)), Mono(ASKED));
    left_alone(&with_row, "(it has replicas that the group does not know)");
}

/// What knows its own history is judged by that.
#[test]
fn a_mark_says_nothing_where_the_history_is_known() {
    let snapshot = InstanceAnswer { append_only: false, ..from_a_file(FoundMark::Is(old())) };
    let mut listed = scene(FoundMark::Is(own())).instance(C, snapshot.clone());
    listed.memory.since.insert(Condition::Stray(at(C)), Mono(ASKED));
    left_alone(&listed, "10 keys of an unrelated history: neither published");
    let unlisted = back(snapshot);
    assert_eq!(fences(&unlisted), []);
    assert!(!said(&unlisted).contains(C), "{}", said(&unlisted));
    // Nor is any published for its mark.
    let scene = back(from_a_file(FoundMark::Is(own()))).dead(A);
    assert_eq!(fences(&scene), []);
    assert!(!matches!(
        scene.verdict(),
        consul_redis_core::published::publication::Verdict::Publish { .. }
    ));
}
