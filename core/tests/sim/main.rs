//! Histories: many agents, one Consul, Sentinels and instances that fail in every way there is, and what
//! must hold whatever happens.
//!
//! A failing seed prints its history. `SIM_SEED=<n>` runs that one alone; `CONSUL_REDIS_HISTORIES=<n>` sets how
//! many are drawn (2,000 unless set), and how many seeds the scripted ones are run with, in proportion.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod cluster;
mod memory_consul;
mod operation;
mod scenarios;
mod world;

use operation::{Operation, Sizes};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use world::{Counts, World};

/// Faults are drawn until then, in ms.
const FAULTS_UNTIL_MS: u64 = 30_000;
/// How long the world is still before the agents must agree, in ms: long enough for Sentinel's own
/// second attempt at a failover.
const STILL_MS: u64 = 45_000;
/// How often that is, until the Sentinels have agreed for long, with agents and without.
const STILL_PERIODS_MAX: u64 = 3;

fn histories() -> u64 {
    match std::env::var("CONSUL_REDIS_HISTORIES") {
        Ok(count) => count.parse().expect("CONSUL_REDIS_HISTORIES is a number"),
        Err(_) => 2_000,
    }
}

/// The stories of the histories that came to rest without agents, and not with them.
#[derive(Default)]
struct Unlike(Vec<String>);

impl Unlike {
    /// Runs a history, and where the Sentinels did not agree in the end without agents, too.
    fn judged(
        &mut self,
        seed: u64,
        drawn: impl Fn(u64, fn(World) -> World) -> Result<World, String>,
    ) -> World {
        let run = |as_it_is| drawn(seed, as_it_is).unwrap_or_else(|story| panic!("{story}"));
        let mut world = run(|world| world);
        if world.converged || world.left_to_the_operator {
            return world;
        }
        world.counts.controls += 1;
        let alone = run(World::without_agents);
        if alone.cluster.is_settled() && !world.cluster.is_settled() {
            let (log, with, without) =
                (world.log.join("\n"), world.cluster.state(), alone.cluster.state());
            self.0.push(format!("seed {seed}:\n{log}\nWith agents:\n{with}\nWithout:\n{without}"));
        }
        world
    }

    /// Whatever comes to rest without agents must do so with them.
    fn check(&self) {
        let (count, stories) = (self.0.len(), self.0.join("\n\n"));
        assert!(count == 0, "{count} come to rest without agents, and not with them\n{stories}");
    }
}

/// Runs one drawn history; what broke, with the story.
fn history(seed: u64, as_it_is: fn(World) -> World) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes = Sizes {
        agents: rng.random_range(1..=3),
        instances: rng.random_range(2..=4),
        sentinels: if rng.random_range(0..3) == 0 { 5 } else { 3 },
        moving: false,
    };
    let world = as_it_is(World::new(seed, sizes.agents, sizes.instances, sizes.sentinels).tardy());
    play(world, &mut rng, sizes, (seed, STILL_MS))
}

/// Draws faults, ends them, and lets the world come to rest.
fn play(
    mut world: World,
    rng: &mut StdRng,
    sizes: Sizes,
    (seed, still_ms): (u64, u64),
) -> Result<World, String> {
    let mut at = rng.random_range(1_000..6_000);
    while at < FAULTS_UNTIL_MS {
        world.schedule(at, Operation::draw(rng, sizes));
        at += match rng.random_range(0..4) {
            0 => rng.random_range(1..400),
            1 => rng.random_range(400..3_000),
            _ => rng.random_range(3_000..9_000),
        };
    }
    world.schedule(FAULTS_UNTIL_MS, Operation::HealAll);
    // Some need another of Sentinel's attempts, or two.
    for periods in 1..=STILL_PERIODS_MAX {
        world.run(FAULTS_UNTIL_MS + periods * still_ms);
        if world.is_at_rest() || world.broken.is_some() {
            break;
        }
    }
    if world.has_agents() && world.is_at_rest() {
        world.check_converged();
    }
    match &world.broken {
        None => Ok(world),
        Some(what) => Err(format!("seed {seed}: {what}\n{}", world.log.join("\n"))),
    }
}

/// One drawn history in which agents of an older version take part, and are upgraded one after the other; in some, one
/// is left behind.
fn rolling_history(seed: u64, as_it_is: fn(World) -> World) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes =
        Sizes { agents: 3, instances: rng.random_range(2..=4), sentinels: 3, moving: false };
    let world = World::half_upgraded(seed, sizes.agents, sizes.instances, sizes.sentinels);
    let mut world = as_it_is(world);
    let left_behind = rng.random_range(0..3) == 0;
    for agent in usize::from(left_behind)..sizes.agents {
        world.schedule(rng.random_range(5_000..FAULTS_UNTIL_MS), Operation::Upgrade(agent));
    }
    play(world, &mut rng, sizes, (seed, STILL_MS))
}

/// One drawn history in which all instances are made anew at other addresses, once or twice.
fn moving_history(seed: u64, as_it_is: fn(World) -> World) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes = Sizes { agents: 3, instances: rng.random_range(2..=4), sentinels: 3, moving: true };
    let world = World::patient(seed, sizes.agents, sizes.instances, sizes.sentinels);
    let mut world = as_it_is(world);
    for _ in 0..rng.random_range(1..=2) {
        world.schedule(rng.random_range(5_000..FAULTS_UNTIL_MS), Operation::MoveAll);
    }
    // Those who do not come back are waited for, keep their rows for a minute, and are forgotten one Sentinel after the
    // other.
    play(world, &mut rng, sizes, (seed, 5 * STILL_MS))
}

/// Whatever else happens meanwhile.
#[test]
fn relocated_groups_hold() {
    let count = histories() / 16;
    let seeds = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (from, to) = seeds.map_or((0, count), |seed: u64| (seed, seed + 1));
    let (mut converged, mut successors) = (0, 0);
    let mut unlike = Unlike::default();
    for seed in from..to {
        let world = unlike.judged(seed, moving_history);
        converged += u64::from(world.converged);
        successors += world.successors as u64;
    }
    println!("{count} histories, {converged} of them with one writer in the end");
    unlike.check();
    println!("{successors} times one took the place of those who were gone");
    if from == 0 {
        assert!(successors * 2 >= count, "only {successors}");
        // In the rest the operator has to decide (data that has gone two ways, above all), or a Sentinel was pointed at
        // one that is no primary, which the model's do not see.
        assert!(converged * 10 >= count * 7, "only {converged} of {count} histories came to rest");
    }
}

/// One drawn history in which agents hear of the ends of the processes beside them. Primaries die, and some are back at
/// once.
fn told_history(seed: u64, as_it_is: fn(World) -> World) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes =
        Sizes { agents: 3, instances: rng.random_range(2..=4), sentinels: 3, moving: false };
    let world = World::patient(seed, sizes.agents, sizes.instances, sizes.sentinels);
    let mut world = as_it_is(world.told_of_deaths());
    for _ in 0..rng.random_range(1..=2) {
        let at = rng.random_range(4_000..FAULTS_UNTIL_MS - 4_000);
        world.schedule(at, Operation::KillPrimary);
        if rng.random_range(0..4) == 0 {
            // The next one dies as soon as it leads, or before.
            world.schedule(at + rng.random_range(1..2_000), Operation::KillPrimary);
        }
        if rng.random_range(0..4) == 0 {
            world.schedule(at + rng.random_range(50..1_500), Operation::KillLeader);
        }
        if rng.random_range(0..4) == 0 {
            let agent = rng.random_range(0..sizes.agents);
            world.schedule(at + rng.random_range(0..30), Operation::KillAgent(agent));
        }
        if rng.random_range(0..2) == 0 {
            let empty = rng.random_range(0..3) == 0;
            let back = at + rng.random_range(1..2_500);
            world.schedule(back, Operation::StartDead { empty });
        }
    }
    play(world, &mut rng, sizes, (seed, 2 * STILL_MS))
}

/// Proofs come late and twice, agents and the Sentinels that they ask die in between, and what has died is back at
/// every step.
#[test]
fn proven_deaths_hold() {
    let count = histories() / 16;
    let seeds = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (from, to) = seeds.map_or((0, count), |seed: u64| (seed, seed + 1));
    let (mut converged, mut superseded) = (0, 0);
    let mut unlike = Unlike::default();
    for seed in from..to {
        let world = unlike.judged(seed, told_history);
        converged += u64::from(world.converged);
        superseded += world.superseded.len() as u64;
    }
    println!("{count} histories, {converged} of them with one writer in the end");
    println!("{superseded} failovers asked for at once");
    unlike.check();
    if from == 0 {
        assert!(superseded * 2 >= count, "only {superseded} were asked for");
        assert!(converged * 10 >= count * 8, "only {converged} of {count} histories came to rest");
    }
}

/// Two halves, so that two cores have work.
#[test]
fn drawn_histories_hold() {
    let count = histories() / 2;
    hold(0, count);
}

#[test]
fn more_drawn_histories_hold() {
    let count = histories() / 2;
    hold(count, count);
}

/// While some agents are of an older version, all invariants hold that hold among equals.
#[test]
fn agents_of_an_older_version_do_no_harm() {
    let count = histories() / 8;
    let seeds = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (from, to) = seeds.map_or((0, count), |seed: u64| (seed, seed + 1));
    let (mut converged, mut detachments) = (0, 0);
    let mut unlike = Unlike::default();
    for seed in from..to {
        let world = unlike.judged(seed, rolling_history);
        converged += u64::from(world.converged);
        detachments += world.detachments as u64;
    }
    println!("{count} histories, {converged} of them with one writer in the end");
    unlike.check();
    if from == 0 {
        assert!(detachments * 50 >= count, "only {detachments} were kept from copying");
        assert!(converged * 10 >= count * 9, "only {converged} of {count} histories came to rest");
    }
}

fn hold(from: u64, count: u64) {
    let mut unlike = Unlike::default();
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let world = unlike.judged(seed.parse().expect("SIM_SEED is a number"), history);
        println!("{}\n{}", world.log.join("\n"), world.cluster.state());
        return unlike.check();
    }
    let (mut converged, mut moves, mut detachments) = (0, 0, 0);
    let mut counts = Counts::default();
    for seed in from..from + count {
        let world = unlike.judged(seed, history);
        counts.add(world.counts);
        converged += u64::from(world.converged);
        moves += world.moves as u64;
        detachments += world.detachments as u64;
    }
    println!("{count} histories, {converged} of them with one writer in the end");
    println!("{moves} planned moves, {detachments} kept from copying a primary without data");
    println!("{counts:?}");
    // Else nothing was tried.
    assert!(counts.nothing_is_missing(), "{counts:?}");
    unlike.check();
    assert!(moves * 20 >= count, "only {moves} planned moves");
    assert!(detachments * 50 >= count, "only {detachments} were kept from copying");
    // In the rest the Sentinels themselves never agree again: two addresses at one epoch.
    assert!(converged * 10 >= count * 9, "only {converged} of {count} histories came to rest");
}
