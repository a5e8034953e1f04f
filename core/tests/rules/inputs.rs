//! What a group's loop makes of each input, where that is no matter of a rule.

use consul_redis_core::duty::action::{Purpose, Write};
use consul_redis_core::group::{FOLLOW_UP_WITHIN_MS, GroupLoop, Input, LogLevel, Outcome, Output};
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, Reading, ReplId, SentinelAnswer,
};
use consul_redis_core::policy::{Policy, REPAIR_AGAIN_MS};
use consul_redis_core::published::projection::Op;
use consul_redis_core::published::record::Level;
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

use crate::scene::{A, B, C, Scene, at, layout, primary, promoted_b, replica, run, sentinel_at};

fn now(ms: u64) -> Now {
    Now { mono: Mono(ms), wall: Timestamp::from_second(1_700_000_000).expect("a time") }
}

fn policy() -> Policy {
    Scene::healthy(3).policy
}

/// An answer, or a failure to answer, to a question of that time.
fn reading(asked: u64, answers: bool) -> Reading<SentinelAnswer> {
    let answer = Scene::healthy(3).observed.sentinels[&sentinel_at(0)].result.clone();
    let result = if answers { answer } else { Err("no answer in time".to_owned()) };
    Reading { asked: Mono(asked), answered: Mono(asked + 500), result }
}

/// Else it would never be asked again, and what asks for an answer of every Sentinel would wait for ever.
#[test]
fn a_late_answer_does_not_bring_a_dismissed_sentinel_back() {
    for answers in [true, false] {
        let mut machine = GroupLoop::new(policy(), layout());
        let late = |machine: &mut GroupLoop, asked, at| {
            machine.on(Input::Sentinel(sentinel_at(0), reading(asked, answers)), now(at));
            machine.observed().sentinels.len()
        };
        assert_eq!(late(&mut machine, 1_000, 1_500), 1);
        machine.on(Input::SentinelGone(sentinel_at(0)), now(2_000));
        assert_eq!(machine.observed().sentinels.len(), 0);
        assert_eq!(late(&mut machine, 1_990, 2_490), 0, "asked before it was dismissed");
        assert_eq!(late(&mut machine, 2_600, 3_100), 1, "found again");
    }
}

#[test]
fn all_are_asked_at_once_on_sighup_or_when_the_config_is_another() {
    let mut other = policy();
    other.publish = Level::Quorum;
    for input in [Input::Look, Input::Policy(Box::new(other))] {
        let mut machine = GroupLoop::new(policy(), layout());
        let asks = |outputs: Vec<Output>| outputs.contains(&Output::AskSentinels);
        assert!(asks(machine.on(Input::Tick, now(1_000))));
        assert!(!asks(machine.on(Input::Tick, now(1_001))), "it has just been done");
        assert!(asks(machine.on(input, now(1_002))));
    }
}

/// A loop that is fed the same world second by second, and what it says at WARN.
struct Fed {
    machine: GroupLoop,
    at: u64,
    warned: Vec<String>,
}

impl Fed {
    fn new() -> Self {
        let mut machine = GroupLoop::new(policy(), layout());
        let scene = Scene::healthy(3);
        machine.on(Input::Watched(scene.observed.store.clone().expect("a store")), now(1_000));
        let mut rows = scene.observed.rows.expect("rows");
        rows.asked = Mono(1_001);
        machine.on(Input::Rows(rows), now(1_002));
        Self { machine, at: 1_002, warned: Vec::new() }
    }

    fn say(&mut self, outputs: Vec<Output>) {
        self.warned.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Say(saying) if saying.weight == LogLevel::Warn => Some(saying.text),
            _ => None,
        }));
    }

    /// A second passes, in which all answer.
    fn second(&mut self, instances: &[(&str, InstanceAnswer)]) {
        self.at += 1_000;
        let time = now(self.at);
        for (address, answer) in instances {
            let answer = InstanceAnswer { run_id: run(address), ..answer.clone() };
            let (asked, result) = (Mono(self.at - 10), Ok(answer));
            let reading = Reading { asked, answered: Mono(self.at), result };
            let outputs = self.machine.on(Input::Instance(at(address), reading), time);
            self.say(outputs);
        }
        for index in 0..3 {
            let mut reading = Scene::healthy(3).observed.sentinels[&sentinel_at(index)].clone();
            (reading.asked, reading.answered) = (Mono(self.at - 10), Mono(self.at));
            let outputs = self.machine.on(Input::Sentinel(sentinel_at(index), reading), time);
            self.say(outputs);
        }
        let outputs = self.machine.on(Input::Tick, time);
        self.say(outputs);
    }
}

#[test]
fn a_writer_that_fails_its_test_is_said_once_it_has_for_some_seconds() {
    let mut fed = Fed::new();
    let loading =
        || InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..primary(1, None, &[]) };
    for _ in 0..5 {
        fed.second(&[(A, primary(1, None, &[B, C])), (B, replica(1, A)), (C, replica(1, A))]);
    }
    assert_eq!(fed.warned, Vec::<String>::new());
    for _ in 0..5 {
        fed.second(&[(A, loading()), (B, replica(1, A)), (C, replica(1, A))]);
    }
    assert_eq!(fed.warned, Vec::<String>::new(), "it may take a moment");
    for _ in 0..20 {
        fed.second(&[(A, loading()), (B, replica(1, A)), (C, replica(1, A))]);
    }
    let wanted = format!("redis: the writer {A} answers `LOADING`");
    assert_eq!(fed.warned.iter().filter(|text| **text == wanted).count(), 1, "{:?}", fed.warned);
}

#[test]
fn a_number_that_changes_in_a_text_does_not_restart_its_clock() {
    let mut fed = Fed::new();
    let stray =
        |keys| InstanceAnswer { keys, replid: ReplId("other".to_owned()), ..primary(9, None, &[]) };
    for keys in 0..15 {
        let writer = primary(1, None, &[B]);
        fed.second(&[(A, writer), (B, replica(1, A)), (C, stray(100 + keys))]);
    }
    assert_eq!(fed.warned.len(), 1, "{:?}", fed.warned);
    assert!(fed.warned[0].contains("keys of an unrelated history"), "{:?}", fed.warned);
}

#[test]
fn other_words_for_the_same_do_not_restart_its_clock() {
    // Each look finds it in another state, and it takes no command in any.
    let mut fed = Fed::new();
    for second in 0..10 {
        let not_ready = ["LOADING it loads", "BUSY a script runs"][second % 2].to_owned();
        let fails = InstanceAnswer { not_ready: Some(not_ready), ..primary(1, None, &[B, C]) };
        fed.second(&[(A, fails), (B, replica(1, A)), (C, replica(1, A))]);
    }
    let said = format!("redis: the writer {A} answers `");
    let count = fed.warned.iter().filter(|text| text.starts_with(&said)).count();
    assert_eq!(count, 1, "{:?}", fed.warned);
}

#[test]
fn a_second_primary_whose_data_is_told_otherwise_each_time_is_said_all_the_same() {
    let mut fed = Fed::new();
    for second in 0..12 {
        // With a key, of another history; and just restarted, when it may have been promoted.
        let mut stray = InstanceAnswer {
            keys: 100,
            replid: ReplId("other".to_owned()),
            ..primary(9, None, &[])
        };
        if second % 2 == 1 {
            stray.not_ready = Some("LOADING".to_owned());
            stray.replid = primary(1, None, &[]).replid;
        }
        fed.second(&[(A, primary(1, None, &[B])), (B, replica(1, A)), (C, stray)]);
    }
    let about = fed.warned.iter().filter(|text| text.contains(C)).count();
    assert_eq!(about, 1, "{:?}", fed.warned);
}

/// Feeds a loop a scene, and returns the write that it sends.
fn sent(scene: &Scene, machine: &mut GroupLoop) -> (u64, Write) {
    let mut outputs = Vec::new();
    let mut rows = scene.observed.rows.clone().expect("rows");
    machine.on(Input::Watched(scene.observed.store.clone().expect("a store")), now(1_000));
    rows.asked = Mono(1_001);
    machine.on(Input::Rows(rows), now(1_002));
    for (address, reading) in &scene.observed.instances {
        let reading = Reading { asked: Mono(1_003), answered: Mono(1_004), ..reading.clone() };
        outputs.extend(machine.on(Input::Instance(address.clone(), reading), now(1_005)));
    }
    for (address, reading) in &scene.observed.sentinels {
        let reading = Reading { asked: Mono(1_003), answered: Mono(1_004), ..reading.clone() };
        outputs.extend(machine.on(Input::Sentinel(address.clone(), reading), now(1_005)));
    }
    let write = outputs.into_iter().find_map(|output| match output {
        Output::Write(id, write) => Some((id, *write)),
        _ => None,
    });
    write.expect("a write")
}

fn follow_ups(outputs: &[Output]) -> Vec<&Output> {
    outputs.iter().filter(|output| matches!(output, Output::FollowUp(_))).collect()
}

/// Consul's followers learn with the next entry that the last one is committed. The agent whose transaction was
/// committed sends that entry, and no other agent does; so however many there are, a change of the writer has one.
#[test]
fn a_change_of_the_writer_is_followed_up_once_by_the_agent_that_wrote_it() {
    let promoted = Scene::healthy(3)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b());
    let down = Scene::healthy(3).down(&[0, 1, 2], DownOpinion::Objective).dead(A);
    for (scene, purpose) in [(promoted, Purpose::Publish), (down, Purpose::Withdraw)] {
        let begun = || {
            let mut machine = GroupLoop::new(scene.policy.clone(), layout());
            let (id, write) = sent(&scene, &mut machine);
            assert_eq!(write.purpose, purpose);
            (machine, id, write)
        };
        let committed = |id| Input::Written(id, Outcome::Committed { index: 500 });
        let (mut machine, id, write) = begun();
        let outputs = machine.on(committed(id), now(1_010));
        // As little as makes an entry: a check that fails, and what was set.
        let [Output::FollowUp(ops)] = follow_ups(&outputs)[..] else { panic!("{outputs:?}") };
        let check = Op::KeyCheckIndex { key: layout().state(), index: write.base_index };
        assert_eq!(ops.len(), 2, "{purpose:?}");
        assert!(ops[0] == check && write.ops.contains(&ops[1]), "{ops:?}");
        assert!(matches!(ops[1], Op::KeySet { .. }), "{ops:?}");
        assert!(follow_ups(&machine.on(committed(id), now(1_011))).is_empty(), "once");
        let (mut machine, id, _) = begun();
        let outputs = machine.on(Input::Written(id, Outcome::Lost), now(1_010));
        assert!(follow_ups(&outputs).is_empty(), "the agent that was first does it");
        let (mut machine, id, _) = begun();
        let outputs = machine.on(committed(id), now(1_010 + FOLLOW_UP_WITHIN_MS));
        assert!(follow_ups(&outputs).is_empty(), "they know by themselves");
    }
}

/// Clients have no writer: a log that is filtered by level shows that, too.
#[test]
fn the_log_has_a_withdrawal_as_a_warning() {
    let promoted = Scene::healthy(3)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b());
    let down = Scene::healthy(3).down(&[0, 1, 2], DownOpinion::Objective).dead(A);
    for (scene, level, said) in [
        (promoted, LogLevel::Info, "redis: writer 10.0.0.1:6379 -> 10.0.0.2:6379, generation 8"),
        (down, LogLevel::Warn, "redis: no writer, generation 8: 10.0.0.1:6379 is down"),
    ] {
        let mut machine = GroupLoop::new(scene.policy.clone(), layout());
        let (id, _) = sent(&scene, &mut machine);
        let outputs = machine.on(Input::Written(id, Outcome::Committed { index: 500 }), now(1_010));
        let lines = outputs.iter().filter_map(|output| match output {
            Output::Say(line) => Some((line.weight, line.text.as_str())),
            _ => None,
        });
        let lines: Vec<_> = lines.collect();
        assert!(lines.iter().any(|(l, text)| *l == level && text.starts_with(said)), "{lines:?}");
    }
}

/// The same writer, better known: no name changes.
#[test]
fn what_changes_no_writer_is_not_followed_up() {
    let scene = Scene::healthy(3)
        .promoted(B, 60_000)
        .naming(&[0, 1, 2], B, 2)
        .dead(A)
        .instance(B, promoted_b());
    let mut machine = GroupLoop::new(scene.policy.clone(), layout());
    let (id, write) = sent(&scene, &mut machine);
    assert_eq!(write.purpose, Purpose::Confirm);
    let outputs = machine.on(Input::Written(id, Outcome::Committed { index: 500 }), now(1_010));
    assert!(follow_ups(&outputs).is_empty());
}

/// A clean-up job takes one row after the other: the second one does not wait for the next look as well.
#[test]
fn what_is_swept_right_after_a_repair_is_put_back_as_soon_as_it_may_be() {
    let mut fed = Fed::new();
    for _ in 0..3 {
        fed.second(&[(A, primary(1, None, &[B, C])), (B, replica(1, A)), (C, replica(1, A))]);
    }
    let mut rows = Scene::healthy(3).observed.rows.expect("rows");
    rows.asked = Mono(fed.at + 1);
    rows.found.as_mut().expect("a node").services.remove("redis-primary");
    let outputs = fed.machine.on(Input::Rows(rows), now(fed.at + 2));
    let id = outputs.iter().find_map(|output| match output {
        Output::Write(id, write) if write.purpose == Purpose::Repair => Some(*id),
        _ => None,
    });
    let (repaired, id) = (fed.at + 10, id.expect("a repair"));
    fed.machine.on(Input::Written(id, Outcome::Committed { index: 500 }), now(repaired));
    let free = Mono(repaired + REPAIR_AGAIN_MS);
    assert_eq!(fed.machine.next_wake(), free);
    fed.machine.on(Input::Tick, now(free.0));
    assert!(fed.machine.next_wake() > free, "once");
}

/// What the loop says of a lost answer, by level, when it runs at these times and the client gives up at the last one.
fn said_of_a_lost_answer(turns: impl Iterator<Item = u64>) -> Vec<LogLevel> {
    let promoted = Scene::healthy(3)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b());
    let mut machine = GroupLoop::new(promoted.policy.clone(), layout());
    let (id, _) = sent(&promoted, &mut machine);
    let (mut last, mut outputs) = (1_005, Vec::new());
    for turn in turns {
        last = turn;
        outputs.extend(machine.on(Input::Tick, now(turn)));
    }
    let unknown = Outcome::Unknown("no answer in time".to_owned());
    outputs.extend(machine.on(Input::Written(id, unknown), now(last + 5)));
    let said = outputs.into_iter().filter_map(|output| match output {
        Output::Say(saying) if saying.text.contains("answer was lost") => Some(saying.weight),
        _ => None,
    });
    said.collect()
}

/// An agent that was suspended in the middle of a write has lost the answer by itself: Consul is not to blame, and an
/// operator has nothing to look for.
#[test]
fn a_lost_answer_is_said_once_and_is_a_warning_unless_the_agent_stood_still() {
    assert_eq!(said_of_a_lost_answer((2..8).map(|s| s * 1_000)), [LogLevel::Warn], "in time");
    assert_eq!(said_of_a_lost_answer((2..40).map(|s| s * 1_000)), [LogLevel::Warn], "overdue");
    assert_eq!(said_of_a_lost_answer([61_000].into_iter()), [LogLevel::Info], "suspended");
    assert_eq!(said_of_a_lost_answer([6_000].into_iter()), [LogLevel::Info], "for 5 s");
    let at_once = said_of_a_lost_answer(std::iter::empty());
    assert_eq!(at_once, [LogLevel::Warn], "at once");
}
