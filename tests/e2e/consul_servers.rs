//! Three Consul servers with disks, of which one dies.

use std::time::Duration;

use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};

use crate::hammer::Hammer;
use crate::support::{agents, logs, until_in_sync, until_named, until_record, until_writer, world};

/// How long Consul takes to elect another leader, with `raft_multiplier = 1` and on a busy machine. Until then a follower
/// may not know that what the dead leader acknowledged last is committed.
const ELECTION_MAX: Duration = Duration::from_secs(10);

/// Which of `more_consul` leads. The test asks another one, wherever the leadership has gone since the start.
async fn leader(world: &mut World) -> usize {
    let leader = world.consul.leader().await.unwrap();
    if world.consul.http.ip() == leader {
        std::mem::swap(&mut world.consul, &mut world.more_consul[0]);
    }
    world.more_consul.iter().position(|server| server.http.ip() == leader).unwrap()
}

/// Between the withdrawal of the old writer and the publication of the new one. An agent asks one Consul, so the one whose
/// server that was can only wait for it; the others publish.
#[tokio::test]
async fn the_name_follows_although_the_leader_of_consul_dies_in_mid_switch() {
    let mut world = world(WorldSpec { consul_servers: 3, ..WorldSpec::default() }).await;
    let agents = agents(&world, 3, &["--publish", "quorum"]);
    let first = until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    until_named(&world, "redis-primary", std::slice::from_ref(&first)).await;
    let leader = leader(&mut world).await;
    let dead = world.more_consul[leader].http;
    let hammer = Hammer::start(&world);
    hammer.until_answered().await;
    world.server_mut(&first).unwrap().kill();
    until_record(&world, "redis", 10, "the writer is withdrawn", |r| r.writer.is_none()).await;
    world.more_consul[leader].kill();
    let killed = tokio::time::Instant::now();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    eprintln!("published {} ms after the leader's death", killed.elapsed().as_millis());
    hammer.until_told(&second, 2).await;
    let after = until_in_sync(&world, "redis", 1).await;
    assert_eq!(after.generation, before.generation + 2, "withdrawn and published, once each");
    let lost = format!("Consul at http://{dead} does not answer");
    let mute = agents.iter().find(|agent| agent.log().contains(&lost)).expect("its agent says so");

    let seen = hammer.stop().await;
    let published = seen.change(after.generation);
    assert_ne!(published.by, mute.name(), "{}", logs(&agents));
    seen.never_two_writers();
    let late = seen.in_order();
    assert!(late <= ELECTION_MAX, "{late:?}");
    let seen = seen.without(dead);
    seen.never_back_from(&second);

    // It comes back with what it has on its disk, and learns the rest.
    world.more_consul[leader].restart().await.unwrap();
    until_named(&world, "redis-primary", &[second]).await;
    until("its agent goes on", Duration::from_secs(10), || async {
        let log = mute.log();
        if log.contains(&format!("Consul at http://{dead} answers again")) {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await
    .unwrap();
}
