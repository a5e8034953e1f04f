//! Blank groups: every Redis by itself, Sentinels that monitor nothing, an agent on each host.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use consul_redis::redis_link::list;

use crate::support::{
    logs, node_agents, on_one_and_three_servers, run, text, until_in_sync, until_named,
    until_writer, world,
};

/// Sooner than a Sentinel asks a primary for its replicas a second time.
const KNOWN_WITHIN: Duration = Duration::from_secs(4);

on_one_and_three_servers!(
    blank_instances_and_sentinels_that_know_nothing_become_a_group,
    the_one_with_data_leads_wherever_it_is,
    data_that_has_gone_different_ways_is_left_to_the_operator,
    of_replicas_without_a_primary_the_one_with_the_most_data_is_promoted,
    one_that_dies_at_once_has_a_successor,
);

pub async fn blank_instances_and_sentinels_that_know_nothing_become_a_group(consul_servers: u8) {
    let world =
        world(WorldSpec { from_scratch: true, consul_servers, ..WorldSpec::default() }).await;
    let agents = node_agents(&world, "expect = 3");
    let writer = until_writer(&world, "redis", 30, None).await;
    assert_eq!(writer, world.groups[0].redis[0].address.to_string(), "the lowest address");
    let record = until_in_sync(&world, "redis", 2).await;
    assert_eq!(record.generation, 1, "{}", logs(&agents));
    until_named(&world, "redis-primary", &[writer]).await;
    world.settle().await.unwrap();
    let first = logs(&agents);
    assert!(first.contains("generation 1, the first primary: no Sentinel knew of one"), "{first}");
    let status = run(&world, &["status"], &[]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
}

pub async fn the_one_with_data_leads_wherever_it_is(consul_servers: u8) {
    let world =
        world(WorldSpec { from_scratch: true, consul_servers, ..WorldSpec::default() }).await;
    let last = &world.groups[0].redis[2];
    last.ask(&["SET", "kept", "1"]).await.unwrap();
    let agents = node_agents(&world, "expect = 3");
    let writer = until_writer(&world, "redis", 30, None).await;
    assert_eq!(writer, last.address.to_string(), "{}", logs(&agents));
    until_in_sync(&world, "redis", 2).await;
    for server in &world.groups[0].redis {
        let kept = server.ask(&["GET", "kept"]).await.unwrap();
        assert_eq!(consul_redis::redis_link::text(&kept).unwrap(), "1", "{}", server.name());
    }
}

pub async fn data_that_has_gone_different_ways_is_left_to_the_operator(consul_servers: u8) {
    let world =
        world(WorldSpec { from_scratch: true, consul_servers, ..WorldSpec::default() }).await;
    for (index, server) in world.groups[0].redis.iter().take(2).enumerate() {
        server.ask(&["SET", "mine", &index.to_string()]).await.unwrap();
    }
    let agents = node_agents(&world, "expect = 3");
    until("the agents say why", Duration::from_secs(20), || async {
        let log = logs(&agents);
        if log.contains("has gone different ways") { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    for (index, server) in world.groups[0].redis.iter().take(2).enumerate() {
        let mine = server.ask(&["GET", "mine"]).await.unwrap();
        assert_eq!(consul_redis::redis_link::text(&mine).unwrap(), index.to_string());
        assert_eq!(server.follows().await.unwrap(), None);
    }
    let status = run(&world, &["status", "--group", "redis"], &[]);
    assert_eq!(status.status.code(), Some(2), "{}", text(&status));
    assert!(text(&status).contains("has gone different ways"), "{}", text(&status));
}

/// Everything is started as a replica of something that is gone, as `consul-redis exec` and careful people do.
pub async fn of_replicas_without_a_primary_the_one_with_the_most_data_is_promoted(
    consul_servers: u8,
) {
    let mut world =
        world(WorldSpec { from_scratch: true, consul_servers, ..WorldSpec::default() }).await;
    let port = world.groups[0].redis[0].address.port().to_string();
    let [a, b, c] = &world.groups[0].redis[..] else { panic!("three") };
    // All had one history, and the last one has heard the most of it.
    a.ask(&["SET", "x", "1"]).await.unwrap();
    for (server, of) in [(b, a), (c, b)] {
        server.ask(&["REPLICAOF", of.address.host(), &port]).await.unwrap();
    }
    until("the last one is in sync", Duration::from_secs(20), || async {
        let found = c.ask(&["GET", "x"]).await?;
        if found == redis::Value::Nil { Err(LabError::new("not yet")) } else { Ok(()) }
    })
    .await
    .unwrap();
    world.groups[0].redis[0].kill();
    let [_, b, c] = &world.groups[0].redis[..] else { panic!("three") };
    for server in [b, c] {
        server.ask(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    }
    let (b, agents) = (b.address.to_string(), node_agents(&world, "expect = 2"));
    let writer = until_writer(&world, "redis", 30, None).await;
    assert_eq!(writer, b, "both have everything: the lower address\n{}", logs(&agents));
    assert!(logs(&agents).contains("is to become the first primary"), "{}", logs(&agents));
    until_in_sync(&world, "redis", 1).await;
}

/// A Sentinel asks a primary for its replicas when it is told of it, and ten seconds later.
pub async fn one_that_dies_at_once_has_a_successor(consul_servers: u8) {
    let mut world =
        world(WorldSpec { from_scratch: true, consul_servers, ..WorldSpec::default() }).await;
    let agents = node_agents(&world, "expect = 3");
    let first = until_writer(&world, "redis", 30, None).await;
    until("all Sentinels know its replicas", KNOWN_WITHIN, || async {
        for sentinel in &world.sentinels {
            let rows = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            let found = list(&rows).map_err(LabError)?.len();
            if found != 2 {
                return Err(LabError(format!("{found} at {}", sentinel.name())));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    // What no instance holds but the one that dies is waited for.
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    let next = until_writer(&world, "redis", 20, Some(&first)).await;
    assert_ne!(next, first);
    let log = logs(&agents);
    assert!(!log.contains("gave up a failover"), "{log}");
    assert!(!log.contains("relocated"), "{log}");
    until_in_sync(&world, "redis", 1).await;
}
