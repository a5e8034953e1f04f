//! A failover that was overtaken by another one, and whose chosen replica obeys late.

use std::collections::BTreeMap;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::clients::write_to;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::fencing::until_all_settled;
use crate::promises::OVERTAKEN;
use crate::support::{
    agents, logs, until_all_have, until_in_sync, until_logged, until_replicas_are, until_writer,
    world,
};

/// Waits until a Sentinel chooses, stops the replica that it is about to choose, and waits until it has sent that one
/// what promotes it. A Sentinel whose last look at the replicas is too old gives up, and chooses again later.
async fn hang_as_it_is_chosen(world: &World, chosen: &LabServer) {
    const CHOOSES: [&str; 2] = ["select_slave", "send_slaveof_noone"];
    until("a choice, and no more", Duration::from_secs(120), || async {
        for sentinel in &world.sentinels {
            let state = sentinel.failover_state("redis").await.ok().flatten();
            if !state.as_deref().is_some_and(|state| CHOOSES.contains(&state)) {
                continue;
            }
            chosen.signal(Signal::SIGSTOP)?;
            let mut now = state;
            while now.as_deref().is_some_and(|state| CHOOSES.contains(&state)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                now = sentinel.failover_state("redis").await.ok().flatten();
            }
            if now.as_deref() == Some("wait_promotion") {
                return Ok(());
            }
            chosen.signal(Signal::SIGCONT)?;
        }
        Err(LabError("none chooses".to_owned()))
    })
    .await
    .unwrap();
}

/// The chosen replica hangs before it reads REPLICAOF NO ONE. The leader gives up, another one is elected; the first
/// one wakes, and obeys.
#[tokio::test]
async fn a_replica_that_was_chosen_before_the_writer_and_wakes_is_fenced_at_once() {
    // The leader waits for it for as long, and the next election comes after twice as long.
    let spec = WorldSpec { failover_timeout_ms: 4_000, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let (chosen, other) = (&world.groups[0].redis[1], &world.groups[0].redis[2]);
    let (chosen, other) = (chosen.address.to_string(), other.address.to_string());
    assert!(chosen != first && other != first);
    world.server(&other).unwrap().ask(&["CONFIG", "SET", "replica-priority", "200"]).await.unwrap();
    let known =
        |row: &BTreeMap<String, String>| row["name"] != other || row["slave-priority"] == "200";
    until_replicas_are(&world, "all Sentinels know the priority", 20, known).await;
    world.calm().await.unwrap();
    let server = world.server(&first).unwrap();
    until_all_have(server, "kept", 2).await;
    world.server_mut(&first).unwrap().kill();
    hang_as_it_is_chosen(&world, world.server(&chosen).unwrap()).await;
    let writer = until_writer(&world, "redis", 120, Some(&first)).await;
    assert_eq!(writer, other, "the other one is elected\n{}", logs(&agents));
    until_all_settled(&world, &chosen, &writer).await;

    let sleeper = world.server(&chosen).unwrap();
    sleeper.signal(Signal::SIGCONT).unwrap();
    let written = takes_writes_until_it_follows(sleeper, &writer);
    let took = tokio::time::timeout(Duration::from_secs(30), written).await.unwrap();
    OVERTAKEN.kept(took);
    let said = format!("{chosen} was a stray primary; it is a replica of {writer} now");
    until_logged(|| logs(&agents), 5, &said, 1).await;
    until_in_sync(&world, "redis", 1).await;
}

/// From the first to the last write that this server takes, until it is a replica of that one.
async fn takes_writes_until_it_follows(server: &LabServer, of: &str) -> Duration {
    let (mut first, mut last) = (None, None);
    loop {
        let written = write_to(&server.address, &server.login, "late").await;
        let now = Instant::now();
        match written {
            Ok(()) => {
                first.get_or_insert(now);
                last = Some(now);
            }
            // Before it obeys it is a replica as well.
            Err(_) => {
                let follows = server.follows().await.ok().flatten();
                if follows.is_some_and(|found| found.to_string() == of) {
                    return first.zip(last).map(|(first, last)| last - first).unwrap_or_default();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
