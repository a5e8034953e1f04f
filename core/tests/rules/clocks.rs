//! Wall clocks of agents that differ: found by what each shows of its own, whatever the way through Consul takes.

use std::collections::BTreeMap;

use consul_redis_core::known::clocks::{Clocks, skews};
use consul_redis_core::published::store::StoreAnswer;
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::{Mono, Now};
use jiff::{SignedDuration, Timestamp};

use crate::scene::{Scene, layout};

const AGENTS: [&str; 2] = ["agent-0", "agent-1"];
const HOURS_MS: i64 = 7_200_000;

/// Two agents that read one Consul, each with a clock of its own.
struct Pair {
    store: StoreAnswer,
    clocks: [Clocks; 2],
    /// How far each wall clock is off, in ms.
    off: [i64; 2],
    /// True time, in ms.
    now: u64,
    writes: usize,
}

impl Pair {
    fn new(off: [i64; 2]) -> Self {
        let store = Scene::healthy(3).observed.store.expect("a store");
        let clocks = [Clocks::default(), Clocks::default()];
        Self { store, clocks, off, now: 1_000_000, writes: 0 }
    }

    fn start(&mut self, agent: usize) {
        self.store.agents.insert(AGENTS[agent].to_owned());
    }

    /// Each looks every 100 ms, and what it writes is there `late_ms` later.
    fn run(&mut self, for_ms: u64, late_ms: u64) {
        let until = self.now + for_ms;
        let mut under_way = Vec::new();
        while self.now < until {
            for (agent, name) in AGENTS.iter().enumerate() {
                let wall_ms = 1_800_000_000_000 + self.now as i64 + self.off[agent];
                let wall = Timestamp::from_millisecond(wall_ms).expect("a time");
                // No two were started at one moment.
                let mono = Mono(self.now + 77_000 * agent as u64);
                if let Some(clock) = self.clocks[agent].look(&self.store, name, Now { mono, wall })
                {
                    self.writes += 1;
                    under_way.push((self.now + late_ms, (*name).to_owned(), clock));
                }
            }
            self.now += 100;
            under_way.retain(|(at, name, clock)| {
                let arrives = *at <= self.now;
                if arrives {
                    self.store.clocks.insert(name.clone(), clock.clone());
                }
                !arrives
            });
        }
    }

    fn found(&self) -> Vec<(&str, &str, u64)> {
        skews(&self.store).collect()
    }
}

#[test]
fn whichever_of_two_clocks_is_ahead_the_agent_behind_finds_it() {
    for (off, ahead, behind) in
        [([HOURS_MS, 0], 0, 1), ([0, HOURS_MS], 1, 0), ([-HOURS_MS, 0], 1, 0), ([0, -1_500], 0, 1)]
    {
        for first in [0, 1] {
            let mut pair = Pair::new(off);
            pair.start(first);
            // Long enough that what the first one showed lies in the past of any clock.
            pair.run(30_000, 20);
            pair.start(1 - first);
            pair.run(30_000, 20);
            let found = pair.found();
            let [(fast, slow, ms)] = found[..] else { panic!("{off:?} {first}: {found:?}") };
            assert_eq!((fast, slow), (AGENTS[ahead], AGENTS[behind]), "{off:?}");
            let true_ms = off[0].abs_diff(off[1]);
            assert!(ms <= true_ms && ms + 500 > true_ms, "{ms} of {true_ms}");
            // And then there is nothing left to say.
            let said = pair.writes;
            pair.run(300_000, 20);
            assert_eq!(pair.writes, said, "a quiet group is not written to");
        }
    }
}

#[test]
fn clocks_that_agree_are_never_said_to_differ_however_slow_consul_is() {
    for late_ms in [20, 3_000, 60_000] {
        for off in [[0, 0], [900, 0], [0, 900]] {
            let mut pair = Pair::new(off);
            pair.start(0);
            pair.start(1);
            for _ in 0..30 {
                pair.run(10_000, late_ms);
                assert_eq!(pair.found(), [], "{late_ms} ms");
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_is_shown_anew_and_the_finding_is_gone() {
    for (off, wrong) in [([HOURS_MS, 0], 0), ([0, HOURS_MS], 1), ([-HOURS_MS, 0], 0)] {
        let mut pair = Pair::new(off);
        pair.start(0);
        pair.start(1);
        pair.run(60_000, 20);
        assert_eq!(pair.found().len(), 1);
        pair.off[wrong] = 0;
        pair.run(2_000, 20);
        assert_eq!(pair.found(), [], "{off:?}");
        // And the other way: one that is set wrong while both run.
        pair.off[wrong] = 5_000;
        pair.run(30_000, 20);
        assert_eq!(pair.found().len(), 1, "{off:?}");
    }
}

#[test]
fn an_agent_without_a_key_shows_nothing_and_one_that_is_gone_is_not_said() {
    let mut pair = Pair::new([HOURS_MS, 0]);
    pair.start(1);
    pair.run(5_000, 20);
    assert_eq!(pair.store.clocks.keys().collect::<Vec<_>>(), ["agent-1"]);
    pair.start(0);
    pair.run(30_000, 20);
    assert_eq!(pair.found().len(), 1);
    pair.store.agents.remove("agent-0");
    pair.store.clocks.remove("agent-0");
    pair.run(5_000, 20);
    assert_eq!(pair.found(), []);
}

#[test]
fn clocks_that_differ_are_a_problem_that_leaves_the_group_healthy() {
    let mut scene = Scene::healthy(3);
    let now = scene.view().now.wall;
    let store = scene.observed.store.as_mut().unwrap();
    store.agents = AGENTS.iter().map(|agent| (*agent).to_owned()).collect();
    let ahead = BTreeMap::from([("agent-1".to_owned(), 7_199_998)]);
    let at = now - SignedDuration::from_hours(1);
    let clock = consul_redis_core::published::store::AgentClock { at, asks: false, ahead };
    store.clocks.insert("agent-0".to_owned(), clock);
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let [problem] = &status.problems[..] else { panic!("{:?}", status.problems) };
    assert_eq!(problem.code, ProblemCode::ClockSkew);
    let wanted =
        "clocks of agents differ: the clock of agent-1 is 7199 s or more ahead of agent-0's";
    assert_eq!(problem.text, wanted);
    assert!(status.healthy && status.degraded);
}
