//! Clusters that agents make of blank nodes and extend, over zones that are drawn, while agents and nodes die.

use consul_redis_core::cluster::wanted::{ClusterDuties, Wanted};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nodes::{Keeps, Version};
use crate::operation::Operation;
use crate::world::{Counts, World};

/// A member that is dead for so long is forgotten, so that a spare takes its place, in ms.
const FORGOTTEN_AFTER_MS: u64 = 4_000;

fn history(seed: u64) -> World {
    let mut rng = StdRng::seed_from_u64(seed);
    let version = [Version::Redis7, Version::Redis8, Version::Valkey9][rng.random_range(0..3)];
    let mut world = World::blank(seed, version, 1_000);
    let (agents, zones) = (rng.random_range(2..5), rng.random_range(1..4));
    world.zones = (0..agents)
        .map(|_| format!("zone-{}", rng.random_range(0..zones)).parse().expect("a zone"))
        .collect();
    world.duties = ClusterDuties {
        make: Some(Wanted::new(6, None, Some(1)).expect("a cluster")),
        forget_after_ms: Some(FORGOTTEN_AFTER_MS),
        ..ClusterDuties::default()
    };
    for index in 0..6 {
        start(&mut world, index, rng.random_range(0..agents));
    }
    for _ in 0..agents {
        world.add_agent();
    }
    // One of them dies while it makes the cluster, and is back later.
    let dies = rng.random_range(0..agents);
    world.schedule(rng.random_range(500..6_000), Operation::KillAgent(dies));
    world.schedule(9_000, Operation::StartAgent(dies));
    world.run(40_000);
    let spares = rng.random_range(1..4);
    for index in 6..6 + spares {
        start(&mut world, index, rng.random_range(0..agents));
        world.run_for(rng.random_range(0..4_000));
    }
    world.run_for(20_000);
    // A replica is gone for good, and another one comes back in time.
    let (gone, back) = (rng.random_range(0..6), rng.random_range(0..6));
    world.schedule(world.now, Operation::Kill(gone));
    world.schedule(world.now + 500, Operation::Kill(back));
    world.schedule(world.now + 2_000, Operation::Start(back, Keeps::ALL, 0));
    world.run_for(30_000);
    if let Some(what) = &world.broken {
        panic!("seed {seed}: {what}\n{}", world.log.join("\n"));
    }
    world
}

fn start(world: &mut World, index: usize, agent: usize) {
    let at = format!("10.0.0.{}:6379", index + 1).parse().expect("an address");
    let process = world.start_own(&at);
    world.announce(process, agent);
}

#[test]
fn drawn_zones_part_replicas_from_their_primaries() {
    let count = (crate::histories() / 4).max(50);
    let (mut counts, mut made) = (Counts::default(), 0);
    for seed in 0..count {
        let world = history(seed);
        made += u64::from(world.named.len() >= 6);
        counts.add(&world.counts);
    }
    println!("{count} histories, {made} with six nodes or more in the end\n{:#?}", counts.0);
    for kind in [
        "made over zones",
        "planned in the primary's zone",
        "joined elsewhere than the primary",
        "joined in the primary's zone",
    ] {
        assert!(counts.of(kind) > 0, "never: {kind}");
    }
    assert!(made * 10 >= count * 9, "{made} of {count}");
}
