//! What a group's loop makes of each input, where that is no matter of a rule.

use consul_redis_core::group::{GroupLoop, Input, Output};
use consul_redis_core::observed::{Reading, SentinelAnswer};
use consul_redis_core::policy::Policy;
use consul_redis_core::record::Level;
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

use crate::scene::{Scene, layout, sentinel_at};

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
