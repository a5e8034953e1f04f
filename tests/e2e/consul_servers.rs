//! Three Consul servers with disks: what their logs hold, and what happens when one dies.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::hammer::Hammer;
use crate::support::{
    agents, logs, record, until_in_sync, until_named, until_record, until_writer, world,
};

/// Transactions that are sent and fail.
const SENT: u64 = 200;

/// How long Consul takes to elect another leader, with `raft_multiplier = 1` and on a busy machine. Until then a
/// follower may not know that what the dead leader acknowledged last is committed.
const ELECTION_MAX: Duration = Duration::from_secs(10);

/// Which of `more_consul` leads. The test asks another one, wherever the leadership has gone since the start.
async fn leader(world: &mut World) -> usize {
    let leader = world.consul.leader().await.unwrap();
    if world.consul.http.ip() == leader {
        std::mem::swap(&mut world.consul, &mut world.more_consul[0]);
    }
    world.more_consul.iter().position(|server| server.http.ip() == leader).unwrap()
}

/// Between the withdrawal of the old writer and the publication of the new one. An agent asks one Consul, so the one
/// whose server that was can only wait for it; the others publish.
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
    // Of the one that is going to die, too.
    hammer.until_enough().await;
    world.server_mut(&first).unwrap().kill();
    until_record(&world, "redis", 10, "the writer is withdrawn", |r| r.writer.is_none()).await;
    world.more_consul[leader].kill();
    let killed = Instant::now();
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

/// The last entry of a server's log.
async fn last_entry(server: &ConsulServer) -> Result<u64, LabError> {
    let client = server.client()?;
    let found = client.get::<Value>("/v1/agent/self", &[]).await.map_err(LabError::new)?;
    let index = found.value["Stats"]["raft"]["last_log_index"].as_str().map(str::parse);
    index.and_then(Result::ok).ok_or_else(|| LabError::new("no last_log_index"))
}

/// A follower learns with the next entry that the last one is committed. An agent that has changed the writer sends its
/// transaction once more: it fails, changes nothing, and is an entry of Consul's log all the same. How soon the last
/// server answers with it and without is measured by the race.
#[tokio::test]
async fn a_transaction_that_fails_is_an_entry_of_every_servers_log() {
    let world = world(WorldSpec { consul_servers: 3, ..WorldSpec::default() }).await;
    let agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    drop(agents);
    let client = world.consul.client().unwrap();
    let before = record(&world, "redis").await.unwrap();
    let key = json!({"Verb": "cas", "Key": "redis-ha/redis/state", "Value": "", "Index": 1});
    // Those of others come once in seconds.
    let from = last_entry(&world.consul).await.unwrap();
    for _ in 0..SENT {
        let refused = client.put("/v1/txn", &[], Some(&json!([{ "KV": key }]))).await;
        assert!(refused.unwrap_err().to_string().contains("409"));
    }
    for server in world.consul_servers() {
        until("it has all of them", Duration::from_secs(10), || async {
            let more = last_entry(server).await? - from;
            if more >= SENT { Ok(()) } else { Err(LabError::new(more)) }
        })
        .await
        .unwrap();
    }
    let more = last_entry(&world.consul).await.unwrap() - from;
    assert!(more < 2 * SENT, "{more} entries for {SENT} transactions");
    assert_eq!(record(&world, "redis").await.unwrap(), before, "nothing has changed");
}
