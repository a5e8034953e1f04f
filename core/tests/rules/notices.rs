//! Which agent tells targets outside what has happened, and when ([`NoticeKeeper`]).

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::group::{
    BEHIND_MS, GONE_FOR_MS, NoticeKeeper, NoticeOutput, Outcome, PASS_ON_MS, UNNOTED_FOR_MS,
};
use consul_redis_core::published::notices::{
    DELIVERED, Notice, NoticeKind, NoticeSeverity, NoticeSubject, SeenProblem,
};
use consul_redis_core::published::projection::{Layout, Op};
use consul_redis_core::published::store::{Key, StoreAnswer};
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;
use serde_json::json;

const DEBOUNCE_MS: u64 = 10_000;
const TICK_MS: u64 = 1_000;

/// Agents, and a Consul that every one of them reads at once.
struct World {
    now: u64,
    keepers: BTreeMap<&'static str, NoticeKeeper>,
    /// What each agent has wrong.
    problems: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// The agents that Consul shows, and whether they tell targets.
    agents: BTreeMap<&'static str, bool>,
    writer: Option<&'static str>,
    history: Vec<serde_json::Value>,
    notices: Option<String>,
    index: u64,
    /// Targets take nothing.
    hangs: bool,
    /// What was told, by which agent.
    told: Vec<(&'static str, Notice)>,
    writes: usize,
}

fn layout() -> Layout {
    Layout::new("redis-ha", &"redis".parse().expect("it is there"))
}

fn keeper(agent: &str, run: &str) -> NoticeKeeper {
    let subject = NoticeSubject {
        prefix: "redis-ha".to_owned(),
        group: "redis".parse().expect("it is there"),
        service: "redis".parse().expect("it is there"),
        installation: None,
        agent: agent.to_owned(),
    };
    NoticeKeeper::new(subject, layout().notices(), run.to_owned(), DEBOUNCE_MS)
}

impl World {
    /// All agents know generation 1, made by `a`.
    fn new(agents: &[&'static str]) -> Self {
        let mut world = Self {
            now: 1_000,
            keepers: agents.iter().map(|agent| (*agent, keeper(agent, "1"))).collect(),
            problems: BTreeMap::new(),
            agents: agents.iter().map(|agent| (*agent, true)).collect(),
            writer: None,
            history: Vec::new(),
            notices: None,
            index: 10,
            hangs: false,
            told: Vec::new(),
            writes: 0,
        };
        world.publish("a", Some("10.0.0.1:6379"), None);
        world.run(3 * TICK_MS);
        assert_eq!(world.said(), Vec::<String>::new(), "what was there before is not told");
        world
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millisecond(
            1_800_000_000_000 + i64::try_from(self.now).expect("it is there"),
        )
        .expect("it is there")
    }

    fn publish(&mut self, by: &str, to: Option<&'static str>, died: Option<Timestamp>) {
        let generation = self.history.len() + 1;
        let timeline = died.map_or(json!({}), |died| json!({"died": died}));
        let change = json!({
            "generation": generation, "at": self.wall(), "from": self.writer, "to": to,
            "level": to.map(|_| "quorum"), "epoch": 1, "why": "a test", "by": by, "timeline": timeline,
        });
        self.history.insert(0, change);
        self.writer = to;
        self.index += 1;
    }

    fn store(&self) -> StoreAnswer {
        let side = |a: &str| json!({"address": a, "replid": "a".repeat(40)});
        let record = json!({
            "v": 1, "group": "redis", "service": "redis", "generation": self.history.len(), "nonce": "n",
            "by": "a", "writer": self.writer.map(side), "last_writer": null,
            "evidence": {"level": "quorum", "config_epoch": 1, "confirmed_epoch": 1, "votes": 3, "known": 3,
                         "sentinel": null},
            "since": "2026-11-21T00:00:00Z", "why": "a test", "instances": [], "sentinels": [],
        });
        let layout = layout();
        let key = |key: String, value: String| Key {
            key,
            value: value.into_bytes(),
            modify_index: self.index,
            locked: true,
        };
        let history = json!(self.history).to_string();
        let mut keys =
            vec![key(layout.state(), record.to_string()), key(layout.history(), history)];
        keys.extend(self.agents.iter().map(|(agent, notifies)| {
            key(layout.agent(agent), json!({"notifies": notifies}).to_string())
        }));
        keys.extend(self.notices.clone().map(|notices| key(layout.notices(), notices)));
        StoreAnswer::from_keys(&layout, Mono(self.now), keys)
    }

    /// One agent looks; what it wants written is.
    fn look(&mut self, agent: &'static str) {
        let now = Now { mono: Mono(self.now), wall: self.wall() };
        let store = self.store();
        let problems = self.problems.get(agent).cloned().unwrap_or_default();
        let seen = |code: &str| {
            let seen = SeenProblem { text: format!("{code}!"), degrades: code == "paused" };
            (code.to_owned(), seen)
        };
        let problems = problems.into_iter().map(seen).collect();
        let keeper = self.keepers.get_mut(agent).expect("it is there");
        let out = keeper.look(Some(&store), problems, now);
        for output in out {
            match output {
                NoticeOutput::Tell(notice) => {
                    if !self.hangs {
                        let targets = [("chat".to_owned(), DELIVERED.to_owned())].into();
                        self.keepers.get_mut(agent).expect("it is there").told(&notice.id, targets);
                    }
                    self.told.push((agent, *notice));
                }
                NoticeOutput::Write(ops) => {
                    let [Op::KeyCas { value, index, .. }] = &ops[..] else { panic!("{ops:?}") };
                    assert_eq!(*index, store.notices_index);
                    self.notices = Some(value.clone());
                    self.index += 1;
                    self.writes += 1;
                    let outcome = Outcome::Committed { index: self.index };
                    self.keepers.get_mut(agent).expect("it is there").wrote(&outcome, now.mono);
                }
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let agents: Vec<&'static str> = self.keepers.keys().copied().collect();
        for _ in 0..ms / TICK_MS {
            self.now += TICK_MS;
            for agent in &agents {
                self.look(agent);
            }
        }
    }

    fn leaves(&mut self, agent: &'static str) {
        self.keepers.remove(agent);
        self.agents.remove(agent);
        self.problems.remove(agent);
    }

    /// What was told since the last call: `agent event id`.
    fn said(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.told);
        let line = |(agent, notice): (&str, Notice)| {
            let what = notice.code.unwrap_or_else(|| notice.generation.to_string());
            format!("{agent} {} {what}", notice.event.as_str())
        };
        told.into_iter().map(line).collect()
    }

    fn has(&mut self, agent: &'static str, code: &'static str) {
        self.problems.entry(agent).or_default().insert(code);
    }

    fn has_not(&mut self, agent: &'static str, code: &'static str) {
        self.problems.entry(agent).or_default().remove(code);
    }
}

#[test]
fn the_agent_that_made_a_change_tells_it_once_and_in_order() {
    let mut world = World::new(&["a", "b", "c"]);
    world.publish("b", None, Some(world.wall()));
    world.run(TICK_MS);
    assert_eq!(world.said(), ["b proof 2", "b withdrawal 2"]);
    assert_eq!(world.writes, 0, "the next publication goes before");
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.run(2 * TICK_MS);
    assert_eq!(world.said(), ["a switch 3"]);
    world.run(UNNOTED_FOR_MS + 5 * TICK_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    let store = world.store();
    let log = store.notices.expect("it is there");
    assert_eq!(log.deliveries.len(), 3);
    assert!(log.deliveries.iter().all(|d| d.notice.is_none() && d.targets["chat"] == DELIVERED));
    assert_eq!(log.failing(), BTreeMap::new());
}

#[test]
fn a_later_change_waits_until_the_one_before_is_told() {
    let mut world = World::new(&["a", "b"]);
    world.hangs = true;
    world.publish("b", None, None);
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.run(GONE_FOR_MS);
    assert_eq!(world.said(), ["b withdrawal 2"], "b is still trying");
    let id = "redis-ha/redis/2";
    let failed = [("chat".to_owned(), "failed: HTTP 500".to_owned())].into();
    world.keepers.get_mut("b").expect("it is there").told(id, failed);
    world.run(2 * TICK_MS);
    assert_eq!(world.said(), ["a switch 3"]);
    assert!(world.store().notices.expect("it is there").failing().contains_key("chat"));
}

#[test]
fn after_a_withdrawal_nothing_is_noted_for_a_moment() {
    let mut world = World::new(&["a"]);
    world.publish("a", None, None);
    world.run(BEHIND_MS);
    assert_eq!(world.writes, 0);
    world.run(2 * TICK_MS);
    assert_eq!(world.writes, 1);
}

#[test]
fn what_an_agent_that_is_gone_has_changed_is_told_by_another_one() {
    let mut world = World::new(&["a", "b", "c"]);
    world.publish("a", None, None);
    world.leaves("a");
    world.run(GONE_FOR_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    world.run(5 * TICK_MS);
    let said = world.said();
    assert_eq!(said, ["b withdrawal 2"], "one of them");
    world.publish("c", Some("10.0.0.2:6379"), None);
    world.run(2 * TICK_MS);
    assert_eq!(world.said(), ["c switch 3"]);
}

#[test]
fn what_an_agent_without_targets_has_changed_is_told_at_once() {
    let mut world = World::new(&["a", "b"]);
    world.keepers.remove("a");
    world.agents.insert("a", false);
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.run(2 * TICK_MS);
    assert_eq!(world.said(), ["b switch 2"]);
}

#[test]
fn an_agent_that_says_nothing_is_not_waited_for_without_end() {
    let mut world = World::new(&["a", "b"]);
    world.keepers.remove("a");
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.run(UNNOTED_FOR_MS - TICK_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    world.run(5 * TICK_MS);
    assert_eq!(world.said(), ["b switch 2"]);
}

#[test]
fn what_was_begun_is_told_again_by_an_agent_that_follows() {
    let mut world = World::new(&["a", "b"]);
    world.hangs = true;
    world.has("a", "no-majority");
    world.run(DEBOUNCE_MS + 3 * TICK_MS);
    assert_eq!(world.said(), ["a problem no-majority"]);
    world.hangs = false;
    world.leaves("a");
    world.has("b", "no-majority");
    world.run(GONE_FOR_MS + 5 * TICK_MS);
    assert_eq!(world.said(), ["b problem no-majority"], "told again, and open as before");
    world.has_not("b", "no-majority");
    world.run(DEBOUNCE_MS + 3 * TICK_MS);
    assert_eq!(world.said(), ["b resolved no-majority"]);
}

#[test]
fn a_problem_is_told_by_one_agent_once_it_has_lasted() {
    let mut world = World::new(&["a", "b", "c"]);
    for _ in 0..5 {
        world.has("a", "no-replicas");
        world.run(DEBOUNCE_MS - 2 * TICK_MS);
        world.has_not("a", "no-replicas");
        world.run(TICK_MS);
    }
    assert_eq!(world.said(), Vec::<String>::new(), "it comes and goes");
    for agent in ["a", "b", "c"] {
        world.has(agent, "no-replicas");
    }
    world.run(5 * DEBOUNCE_MS);
    assert_eq!(world.said().len(), 1);
    for agent in ["a", "b", "c"] {
        world.has_not(agent, "no-replicas");
    }
    world.run(DEBOUNCE_MS - TICK_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    world.run(PASS_ON_MS + 5 * TICK_MS);
    let said = world.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].ends_with("resolved no-replicas"), "{said:?}");
}

#[test]
fn a_problem_that_another_agent_still_has_is_passed_on() {
    let mut world = World::new(&["a", "b"]);
    world.has("a", "instance-silent");
    world.run(DEBOUNCE_MS + 2 * TICK_MS);
    assert_eq!(world.said(), ["a problem instance-silent"]);
    world.has("b", "instance-silent");
    world.run(2 * DEBOUNCE_MS);
    world.has_not("a", "instance-silent");
    world.run(5 * DEBOUNCE_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    world.has_not("b", "instance-silent");
    world.run(2 * DEBOUNCE_MS);
    assert_eq!(world.said(), ["b resolved instance-silent"]);
}

#[test]
fn the_problems_of_an_agent_that_is_gone_are_over_when_no_other_has_them() {
    let mut world = World::new(&["a", "b"]);
    world.has("a", "instance-silent");
    world.run(DEBOUNCE_MS + 4 * TICK_MS);
    assert_eq!(world.said(), ["a problem instance-silent"]);
    world.leaves("a");
    world.run(GONE_FOR_MS + PASS_ON_MS + 5 * TICK_MS);
    assert_eq!(world.said(), ["b resolved instance-silent"]);
    assert_eq!(world.store().notices.expect("it is there").open, BTreeMap::new());
}

#[test]
fn an_agent_that_was_started_anew_goes_on_with_what_it_had_told() {
    let mut world = World::new(&["a"]);
    world.has("a", "no-replicas");
    world.run(DEBOUNCE_MS + 4 * TICK_MS);
    assert_eq!(world.said(), ["a problem no-replicas"]);
    world.keepers.insert("a", keeper("a", "2"));
    world.run(3 * DEBOUNCE_MS);
    assert_eq!(world.said(), Vec::<String>::new());
    world.has_not("a", "no-replicas");
    world.run(2 * DEBOUNCE_MS);
    assert_eq!(world.said(), ["a resolved no-replicas"]);
}

#[test]
fn without_consul_each_agent_tells_its_own_problems() {
    let mut world = World::new(&["a", "b"]);
    world.has("a", "consul-silent");
    world.has("a", "writer-fails");
    world.has("b", "consul-silent");
    world.run(DEBOUNCE_MS + 2 * TICK_MS);
    let said = world.said();
    assert_eq!(
        said,
        ["a problem consul-silent", "a problem writer-fails", "b problem consul-silent"]
    );
    assert_eq!(world.writes, 0);
    world.problems.clear();
    world.run(DEBOUNCE_MS + 2 * TICK_MS);
    assert_eq!(world.said().len(), 3);
    assert_eq!(world.writes, 0);
}

#[test]
fn a_key_that_cannot_be_read_is_left_alone() {
    let mut world = World::new(&["a"]);
    world.notices = Some("{".to_owned());
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.has("a", "no-replicas");
    world.run(3 * DEBOUNCE_MS);
    assert_eq!(world.said(), ["a switch 2"]);
    assert_eq!(world.writes, 0);
}

#[test]
fn a_switch_ends_what_a_withdrawal_began() {
    let mut world = World::new(&["a"]);
    world.publish("a", None, Some(world.wall()));
    world.publish("a", Some("10.0.0.2:6379"), None);
    world.run(TICK_MS);
    let told: Vec<Notice> = world.told.drain(..).map(|(_, notice)| notice).collect();
    let [proof, withdrawal, switch] = &told[..] else { panic!("{told:#?}") };
    assert_eq!((proof.event, proof.severity), (NoticeKind::Proof, NoticeSeverity::Warning));
    assert_eq!(
        (withdrawal.severity, switch.severity),
        (NoticeSeverity::Critical, NoticeSeverity::Info)
    );
    assert!(told.iter().all(|notice| notice.incident == "redis-ha/redis/writer"));
    assert_eq!((withdrawal.ends, switch.ends), (false, true));
    assert_eq!(withdrawal.old.as_ref().expect("it is there").to_string(), "10.0.0.1:6379");
    assert_eq!(switch.new.as_ref().expect("it is there").to_string(), "10.0.0.2:6379");
    assert_eq!(switch.text, "redis: writer 10.0.0.1:6379 -> 10.0.0.2:6379, generation 3: a test");
}
