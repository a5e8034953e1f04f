//! The order of zones (`prefer_zones`): which `replica-priority` is kept, by which agent, and when it is left alone.

use std::collections::BTreeMap;

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::safety;
use consul_redis_core::duty::zone_order::{PREFER_ZONES_MAX, Prioritize, priority_in};
use consul_redis_core::group::{GroupLoop, Input, LogLevel, Output, PRIORITY_WITHIN_MS};
use consul_redis_core::identity::address::Zone;
use consul_redis_core::known::memory::{FailedPriority, Memory};
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, ReplId, Role,
};
use consul_redis_core::known::view::View;
use consul_redis_core::policy::{MOVE_KNOWN_MS, PRIORITY_AGAIN_MS, PRIORITY_REFUSED_MS};
use consul_redis_core::published::pause::{Pause, PauseKey};
use consul_redis_core::published::record::PublishedRole;
use consul_redis_core::published::words::{AgentWords, InstanceWords};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;
use jiff::SignedDuration;

use crate::scene::{
    A, ASKED, B, C, NOW, SEEN, Scene, at, layout, primary, promoted_b, replica, run,
};

fn zone(name: &str) -> Zone {
    name.parse().expect("a zone")
}

/// B, with this priority.
fn b(priority: u64) -> InstanceAnswer {
    InstanceAnswer { priority: Some(priority), ..replica(1, A) }
}

/// These agents stand beside B, and say so.
fn beside(mut scene: Scene, agents: &[&str]) -> Scene {
    let store = scene.observed.store.as_mut().expect("a store");
    for agent in agents {
        let instances = BTreeMap::from([(at(B), InstanceWords::default())]);
        let words = AgentWords { instances, ..AgentWords::default() };
        store.agents.insert((*agent).to_owned());
        store.words.insert((*agent).to_owned(), words);
    }
    scene
}

/// A healthy group, whose agent stands beside B in the second zone of the order.
fn scene(priority: u64) -> Scene {
    let mut scene = Scene::healthy(3).instance(B, b(priority));
    scene.policy.local = [at(B)].into();
    scene.policy.zone = Some(zone("eu-1b"));
    scene.policy.prefer_zones = vec![zone("eu-1a"), zone("eu-1b")];
    beside(scene, &["agent-0"])
}

fn wanted(had: u64) -> Prioritize {
    let (instance, follows) = (at(B), at(A));
    Prioritize { instance, run_id: run(B), follows, zone: zone("eu-1b"), had, priority: 20 }
}

fn prioritized(scene: &Scene) -> Option<Prioritize> {
    let mut all = scene.decision().actions().into_iter().filter_map(|action| match action {
        Action::Prioritize(prioritize) => Some(prioritize),
        _ => None,
    });
    all.next()
}

fn said(scene: &Scene) -> String {
    scene.decision().said().join("\n")
}

fn veto(scene: &Scene, prioritize: &Prioritize) -> String {
    safety::veto(&scene.view(), &Action::Prioritize(prioritize.clone())).unwrap_or_default()
}

#[test]
fn the_place_of_its_zone_in_the_order_is_its_priority() {
    let order: Vec<Zone> = (1..=PREFER_ZONES_MAX).map(|n| zone(&format!("eu-{n}"))).collect();
    let priorities: Vec<u64> = order.iter().map(|zone| priority_in(&order, zone)).collect();
    assert_eq!(priorities, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
    assert_eq!(priority_in(&order, &zone("us-1")), 100);
    // Whatever stood in a policy, no priority is above Redis' default, or 0.
    let long: Vec<Zone> = (1..30).map(|n| zone(&format!("eu-{n}"))).collect();
    assert_eq!(priority_in(&long, &zone("eu-29")), 100);
}

#[test]
fn a_replica_beside_the_agent_gets_the_priority_of_its_zone() {
    // Redis' default, and what an operator has set by hand.
    for had in [100, 1, 50] {
        assert_eq!(prioritized(&scene(had)), Some(wanted(had)));
        assert_eq!(said(&scene(had)), "");
        assert_eq!(veto(&scene(had), &wanted(had)), "");
    }
    assert_eq!(prioritized(&scene(20)), None);
    let mut elsewhere = scene(20);
    elsewhere.policy.zone = Some(zone("us-1"));
    assert_eq!(prioritized(&elsewhere).map(|wanted| wanted.priority), Some(100));
    // One that is late is the group's, too; and one that follows the writer by a name.
    let late = scene(100).published(|record| {
        let own = record.instances.iter_mut().find(|instance| instance.address == at(B));
        own.expect("B").role = PublishedRole::OutOfSync;
    });
    assert_eq!(prioritized(&beside(late, &["agent-0"])), Some(wanted(100)));
    let role = Role::Replica { of: at("redis-a.example:6379"), link_up: true };
    let by_name = scene(100).instance(B, InstanceAnswer { role, ..b(100) });
    let follows = prioritized(&by_name).map(|wanted| wanted.follows.to_string());
    assert_eq!(follows.as_deref(), Some("redis-a.example:6379"));
}

#[test]
fn without_an_order_or_a_zone_nothing_is_touched() {
    let mut no_order = scene(100);
    no_order.policy.prefer_zones.clear();
    let mut no_zone = scene(100);
    no_zone.policy.zone = None;
    let mut remote = scene(100);
    remote.policy.local.clear();
    let mut only_publishes = scene(100);
    only_publishes.policy.leave_alone();
    for scene in [no_order, no_zone, remote.clone(), only_publishes] {
        assert_eq!(prioritized(&scene), None);
        assert_eq!(said(&scene), "");
    }
    assert!(veto(&remote, &wanted(100)).contains("is not on this host"));
}

#[test]
fn a_priority_of_0_is_never_changed_nor_that_of_an_instance_in_maintenance() {
    assert_eq!(prioritized(&scene(0)), None);
    assert!(veto(&scene(0), &wanted(0)).contains("is not known to be 0, or is 0"));
    assert!(veto(&scene(0), &wanted(100)).contains("is not known to be 100, or is 0"));
    assert!(veto(&scene(100), &Prioritize { priority: 0, ..wanted(100) }).contains("never lead"));
    let mut kept = scene(100);
    let store = kept.observed.store.as_mut().expect("a store");
    store.maintenance = Ok([(at(B), 100)].into());
    assert_eq!(prioritized(&kept), None);
    assert!(veto(&kept, &wanted(100)).contains("is in maintenance"));
    // Nor while the list cannot be read, of one that was in it.
    let damaged = scene(100).published(|record| {
        let own = record.instances.iter_mut().find(|instance| instance.address == at(B));
        own.expect("B").role = PublishedRole::Maintenance;
    });
    let mut damaged = beside(damaged, &["agent-0"]);
    damaged.observed.store.as_mut().expect("a store").maintenance = Err("no JSON".to_owned());
    assert_eq!(prioritized(&damaged), None);
    // It is back with the priority that it had before.
    kept.observed.store.as_mut().expect("a store").maintenance = Ok(BTreeMap::new());
    assert_eq!(prioritized(&kept), Some(wanted(100)));
}

#[test]
fn nothing_is_set_while_sentinels_or_an_operator_choose() {
    let down = |opinion| scene(100).down(&[2], opinion);
    let doubted = down(DownOpinion::Subjective);
    let agreed = down(DownOpinion::Objective);
    let leading = scene(100).leading(0, C, FailoverPhase::SelectReplica);
    let again = |scene| beside(scene, &["agent-0"]);
    let unconfirmed = again(scene(100).promoted(A, 100));
    let split = scene(100).naming(&[0, 1], B, 2);
    let silent = scene(100).silent(0).silent(1);
    let dead = scene(100).dead(A);
    let by_hand = InstanceAnswer { failover_running: true, ..primary(1, None, &[B, C]) };
    let by_hand = scene(100).instance(A, by_hand);
    let no_writer = again(scene(100).published(|record| record.writer = None));
    let wall = scene(100).view().now.wall;
    let moving = |ago_ms: u64| {
        let mut scene = scene(100);
        let ago = SignedDuration::from_millis(i64::try_from(ago_ms).expect("ms"));
        scene.observed.store.as_mut().expect("a store").moving = Some(wall - ago);
        scene
    };
    let vetoed = [&doubted, &agreed, &leading, &dead, &no_writer, &moving(1_000)];
    for scene in vetoed {
        assert_ne!(veto(scene, &wanted(100)), "");
    }
    for scene in [doubted, agreed, leading, unconfirmed, split, silent, dead, by_hand, no_writer] {
        assert_eq!(prioritized(&scene), None, "{:?}", scene.decision());
    }
    assert_eq!(prioritized(&moving(1_000)), None);
    // A move that died leaves its key behind.
    assert_eq!(prioritized(&moving(MOVE_KNOWN_MS + 1)), Some(wanted(100)));
    assert_eq!(veto(&moving(MOVE_KNOWN_MS + 1), &wanted(100)), "");
    let mut paused = scene(100);
    let pause = Pause {
        since: wall - SignedDuration::from_mins(10),
        by: "root@h1".to_owned(),
        until: None,
        why: None,
        resumed: None,
    };
    paused.observed.store.as_mut().expect("a store").pause = PauseKey::Known(Box::new(pause));
    assert_eq!(prioritized(&paused), None);
    assert!(veto(&paused, &wanted(100)).contains("paused"));
}

#[test]
fn what_is_no_replica_of_the_group_or_says_no_priority_is_left_alone() {
    let with = |answer: InstanceAnswer| scene(100).instance(B, answer);
    let link_down = Role::Replica { of: at(A), link_up: false };
    let of_another = Role::Replica { of: at("10.9.9.9:6379"), link_up: true };
    // A primary says none, nor does Redis whose INFO lacks it.
    let as_primary = with(promoted_b());
    let none = with(InstanceAnswer { priority: None, ..b(100) });
    let detached = with(InstanceAnswer { role: link_down, ..b(100) });
    let mut stranger = with(InstanceAnswer { role: of_another, ..b(100) });
    stranger.set_instance(A, primary(1, None, &[C]));
    let other_data = with(InstanceAnswer { replid: ReplId("99".to_owned()), ..b(100) });
    let loads = with(InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..b(100) });
    let no_row = scene(100).published(|record| record.instances.retain(|i| i.address != at(B)));
    let no_row = beside(no_row, &["agent-0"]);
    let silent = scene(100).dead(B);
    for scene in [as_primary, none, detached, stranger, other_data, loads, no_row, silent] {
        assert_eq!(prioritized(&scene), None, "{:?}", scene.decision());
    }
}

/// Two agents beside one instance would write in turn: the first by its id keeps it.
#[test]
fn of_two_agents_beside_an_instance_the_first_one_keeps_its_priority() {
    let mut two = beside(scene(100), &["agent-9"]);
    assert_eq!(prioritized(&two), Some(wanted(100)));
    two = beside(two, &["agent"]);
    assert_eq!(prioritized(&two), None);
    assert!(said(&two).contains("agent agent stands beside it, too"), "{}", said(&two));
    let status = assess(&two.view(), &layout(), &two.decision());
    assert!(status.problems.iter().any(|problem| problem.code == ProblemCode::ZoneOrder));
    // Where it is as both want it, nothing is said.
    assert_eq!(said(&beside(scene(20), &["agent"])), "");
    // An agent that does not show itself yet does not know which others are there.
    let mut late = scene(100);
    late.observed.store.as_mut().expect("a store").words.clear();
    assert_eq!((prioritized(&late), said(&late)), (None, String::new()));
    // One look speaks for the agent that stands there, whatever that one is called.
    let memory = Memory::default();
    let now = late.view().now;
    for scene in [&late, &beside(late.clone(), &["agent"])] {
        let view = View::of_one_look(&scene.policy, &memory, &scene.observed, now);
        let decision = consul_redis_core::decide::decide(&view, &layout());
        assert!(decision.actions().contains(&Action::Prioritize(wanted(100))));
    }
}

#[test]
fn what_has_changed_by_the_last_moment_is_left_alone() {
    let wanted = wanted(100);
    let well = InstanceAnswer { run_id: run(B), ..b(100) };
    assert!(wanted.still_holds(&well));
    let set = |priority| InstanceAnswer { priority, ..well.clone() };
    let restarted = InstanceAnswer { run_id: "another".to_owned(), ..well.clone() };
    let of_c = InstanceAnswer { role: replica(1, C).role, ..well.clone() };
    let led = InstanceAnswer { role: primary(1, None, &[]).role, ..well.clone() };
    let loads = InstanceAnswer { not_ready: Some("LOADING".to_owned()), ..well.clone() };
    let unlinked = Role::Replica { of: at(A), link_up: false };
    let unlinked = InstanceAnswer { role: unlinked, ..well.clone() };
    let promotes = InstanceAnswer { failover_running: true, ..well.clone() };
    let changed = [set(Some(0)), set(Some(1)), set(None), restarted, of_c, led, loads, unlinked];
    for now in changed.into_iter().chain([promotes]) {
        assert!(!wanted.still_holds(&now), "{now:?}");
    }
}

#[test]
fn a_refusal_is_said_and_tried_again_at_a_pace() {
    let mut scene = scene(100);
    scene.memory.prioritized.insert(at(B), Mono(NOW - PRIORITY_AGAIN_MS + 1));
    assert_eq!((prioritized(&scene), said(&scene)), (None, String::new()));
    scene.memory.prioritized.insert(at(B), Mono(NOW - PRIORITY_AGAIN_MS));
    assert_eq!(prioritized(&scene), Some(wanted(100)));
    let words = "NOPERM this user has no permissions".to_owned();
    scene.memory.not_prioritized.insert(at(B), FailedPriority { run_id: run(B), words });
    assert_eq!(prioritized(&scene), None);
    assert!(
        said(&scene).contains("(`NOPERM this user has no permissions`: the agents' user needs")
    );
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let problem = status.problems.iter().find(|problem| problem.code == ProblemCode::ZoneOrder);
    assert!(problem.is_some_and(|problem| problem.text.contains(B)), "{:?}", status.problems);
    scene.memory.prioritized.insert(at(B), Mono(NOW - PRIORITY_REFUSED_MS));
    assert_eq!(prioritized(&scene), Some(wanted(100)));
    // Another run may have other rights.
    scene.memory.prioritized.insert(at(B), Mono(NOW - PRIORITY_AGAIN_MS));
    let words = "NOPERM".to_owned();
    scene.memory.not_prioritized.insert(at(B), FailedPriority { run_id: "1".to_owned(), words });
    assert_eq!((prioritized(&scene), said(&scene)), (Some(wanted(100)), String::new()));
}

/// The loop of an agent that sees this scene.
struct Running {
    machine: GroupLoop,
    scene: Scene,
}

impl Running {
    fn start(scene: Scene) -> (Self, Vec<Output>) {
        let machine = GroupLoop::new(scene.policy.clone(), layout());
        let mut running = Self { machine, scene };
        let mut outputs = Vec::new();
        // What was asked before the generation was seen counts for nothing.
        for now in [SEEN, NOW] {
            outputs = running.see(now);
        }
        (running, outputs)
    }

    fn see(&mut self, now: u64) -> Vec<Output> {
        let observed = self.scene.observed.clone();
        let again = |asked: &mut Mono| *asked = Mono(now - (NOW - ASKED));
        let mut inputs = vec![Input::Watched(observed.store.expect("a store"))];
        inputs.extend(observed.rows.map(Input::Rows));
        for (at, mut reading) in observed.sentinels {
            again(&mut reading.asked);
            inputs.push(Input::Sentinel(at, reading));
        }
        for (at, mut reading) in observed.instances {
            again(&mut reading.asked);
            inputs.push(Input::Instance(at, reading));
        }
        self.on(inputs, now)
    }

    fn on(&mut self, inputs: Vec<Input>, now: u64) -> Vec<Output> {
        self.scene.now = now;
        let now = self.scene.view().now;
        self.machine.on_all(inputs, now)
    }
}

fn commands(outputs: &[Output]) -> Vec<(&Prioritize, Mono)> {
    let commands = outputs.iter().filter_map(|output| match output {
        Output::Prioritize(wanted, until) => Some((wanted, *until)),
        _ => None,
    });
    commands.collect()
}

#[test]
fn the_command_has_an_end_and_what_it_replaced_is_said_once() {
    let (mut running, outputs) = Running::start(scene(50));
    let until = Mono(NOW + PRIORITY_WITHIN_MS);
    assert_eq!(commands(&outputs), [(&wanted(50), until)]);
    // It is on its way.
    assert_eq!(commands(&running.see(NOW + 100)), []);
    let done = running.on(vec![Input::Prioritized(wanted(50), Ok(true))], NOW + 200);
    let lines = done.iter().filter_map(|output| match output {
        Output::Say(line) if line.text.contains("replica-priority") => Some(line),
        _ => None,
    });
    let lines: Vec<_> = lines.map(|line| (line.weight, line.text.as_str())).collect();
    let text =
        format!("redis: the replica-priority of {B} is 20, was 50: prefer_zones, zone eu-1b");
    assert_eq!(lines, [(LogLevel::Info, text.as_str())]);
    // One that came to nothing is no news.
    let none = running.on(vec![Input::Prioritized(wanted(50), Ok(false))], NOW + 300);
    assert!(!none.iter().any(|output| matches!(output, Output::Say(_))), "{none:?}");
    // A refusal keeps it from another attempt for longer.
    let refused = Input::Prioritized(wanted(50), Err("NOPERM".to_owned()));
    running.on(vec![refused], NOW + 400);
    assert_eq!(commands(&running.see(NOW + PRIORITY_AGAIN_MS + 1)), []);
    let again = running.see(NOW + PRIORITY_REFUSED_MS + 1);
    assert_eq!(commands(&again).len(), 1, "{again:?}");
}
