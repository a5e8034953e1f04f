//! Histories of Redis Clusters: agents, one Consul, and nodes that fail in every way there is, and what must hold
//! whatever happens.
//!
//! A failing seed prints its history. `SIM_SEED=<n>` runs that one alone; `CONSUL_REDIS_HISTORIES=<n>` sets how many are
//! drawn (2,000 unless set).
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../sim/memory_consul.rs"]
#[expect(dead_code, reason = "the other simulation's, which uses all of it")]
mod memory_consul;
mod nodes;
mod operation;
mod scenarios;
mod world;
mod zones;

use operation::{Operation, Sizes};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use world::{Counts, QUIET_MS, World};

/// Faults are drawn for so long, in ms.
const FAULTS_MS: u64 = 12_000;
/// How long after the faults an operator repairs what does not heal, in ms.
const REPAIR_AFTER_MS: u64 = 4_000;
/// The world is still when nothing has changed for so long, in ms.
const STILL_MS: u64 = 12_000;
/// It is waited for that for so long, in ms.
const STILL_WITHIN_MS: u64 = 150_000;

/// In so many histories even what is rare has happened.
const RARE_AFTER: u64 = 500;

/// What must have happened then.
const KINDS: [&str; 48] = [
    "killed",
    "primaries killed",
    "started",
    "started without data",
    "started without nodes.conf",
    "frozen",
    "pairs cut",
    "nodes cut off",
    "hosts cut off",
    "minorities cut off",
    "cut in one direction",
    "deaf",
    "agents cut from nodes",
    "agents cut from Consul",
    "agents killed",
    "Consul away",
    "Consul restored",
    "Consul wiped",
    "rows deleted",
    "planned failovers",
    "forgotten",
    "foreign nodes at a dead one's address",
    "addresses swapped",
    "foreign nodes met",
    "moved",
    "all moved",
    "slots begin to move",
    "slots moved",
    "timeouts set",
    "blank nodes joined",
    "merged",
    "without a majority",
    "doubts",
    "all names withdrawn",
    "replicas that became primaries",
    "published writes lost",
    "races lost",
    "reset",
    "promotions by old votes",
    "MEETs that nodes sent by themselves",
    "replicas that moved alone",
    // What agents tell nodes.
    "meet",
    "replicate",
    "forget",
    "node-timeout",
    "begun by refusals",
    "begun by the kernel's word",
    "agents killed with their node",
];

fn histories() -> u64 {
    match std::env::var("CONSUL_REDIS_HISTORIES") {
        Ok(count) => count.parse().expect("CONSUL_REDIS_HISTORIES is a number"),
        Err(_) => 2_000,
    }
}

/// How a history ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Names are as they should be.
    Served,
    /// The cluster has no majority, or is two, and no name is there that should not be.
    Unserved,
    /// The cluster itself never came to rest.
    Restless,
}

/// Draws faults, ends them, and lets the world come to rest.
fn history(seed: u64) -> (World, End) {
    let mut rng = StdRng::seed_from_u64(seed);
    let foreign = rng.random_range(0..4) == 0;
    let spares = rng.random_range(0..3) / 2;
    let sizes = Sizes {
        agents: [1, 1, 1, 2, 2, 1, 2, 3][rng.random_range(0..8)],
        nodes: 6 + spares,
        foreign,
    };
    let mut world = World::new(seed, sizes.agents, spares, foreign);
    let begin = world.now;
    let end = begin + FAULTS_MS;
    let mut at = begin + rng.random_range(500..3_000);
    while at < end {
        world.schedule(at, Operation::draw(&mut rng, sizes));
        at += match rng.random_range(0..4) {
            0 => rng.random_range(1..300),
            1 => rng.random_range(300..2_000),
            _ => rng.random_range(1_500..4_000),
        };
    }
    world.schedule(end, Operation::HealAll);
    world.schedule(end + REPAIR_AFTER_MS, Operation::Repair);
    world.run(end + REPAIR_AFTER_MS + 1);
    rest(&mut world);
    if world.waits_for_the_operator() {
        world.schedule(world.now, Operation::BeginAnew);
        world.run_for(1);
        rest(&mut world);
    }
    let end = match world.is_still(STILL_MS) {
        true if world.check_converged() => End::Served,
        true => End::Unserved,
        false => End::Restless,
    };
    // Some are looked at for long: nothing is written any more.
    if seed.is_multiple_of(32) && end != End::Restless {
        world.run_for(2 * QUIET_MS);
        world.check_converged();
    }
    if let Some(what) = &world.broken {
        panic!("seed {seed}: {what}\n{}", world.log.join("\n"));
    }
    (world, end)
}

/// Runs until nothing changes any more, or never will.
fn rest(world: &mut World) {
    let latest = world.now + STILL_WITHIN_MS;
    while world.broken.is_none() && !world.is_still(STILL_MS) && world.now < latest {
        world.run_for(1_000);
    }
}

fn hold(from: u64, count: u64) {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let (world, end) = history(seed.parse().expect("SIM_SEED is a number"));
        return println!("{}\n{}\n{end:?}", world.log.join("\n"), world.state());
    }
    let (mut counts, mut served, mut restless) = (Counts::default(), 0, Vec::new());
    for seed in from..from + count {
        let (world, end) = history(seed);
        counts.add(&world.counts);
        for (what, times) in [
            ("elections", world.nodes.elected.len()),
            ("promotions by old votes", world.nodes.without_votes),
            ("MEETs that nodes sent by themselves", world.nodes.own_meets),
            ("replicas that moved alone", world.nodes.migrated),
            ("commits", world.commits),
        ] {
            *counts.0.entry(what).or_default() += times;
        }
        served += u64::from(end == End::Served);
        restless.extend((end == End::Restless).then_some(seed));
    }
    println!("{count} histories, {served} of them served in the end, restless: {restless:?}");
    println!("{:#?}", counts.0);
    // Else nothing was tried.
    let missing: Vec<&str> = KINDS.into_iter().filter(|kind| counts.of(kind) == 0).collect();
    assert!(missing.is_empty() || count < RARE_AFTER, "never: {missing:?}");
    assert!(counts.of("elections") as u64 * 2 >= count, "{}", counts.of("elections"));
    assert!(served * 10 >= count * 8, "only {served} of {count} histories were served");
    // An operator has to say rarely that a claim is right.
    assert!(counts.of("begun anew") as u64 * 25 <= count, "{}", counts.of("begun anew"));
    assert!(restless.len() as u64 * 50 <= count, "restless: {restless:?}");
}

/// Two halves, so that two cores have work.
#[test]
fn drawn_clusters_hold() {
    hold(0, histories() / 2);
}

#[test]
fn more_drawn_clusters_hold() {
    hold(histories() / 2, histories() / 2);
}
