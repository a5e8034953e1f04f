//! What a group's loop makes of each input, where that is no matter of a rule.

use consul_redis_core::group::{GroupLoop, Input, LogLevel, Output};
use consul_redis_core::known::observed::{InstanceAnswer, Reading, ReplId, SentinelAnswer};
use consul_redis_core::policy::Policy;
use consul_redis_core::published::record::Level;
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

use crate::scene::{A, B, C, Scene, at, layout, primary, replica, run, sentinel_at};

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
