//! The main job: whatever happens to the primary, the name follows the writer and nothing else.

use std::sync::Arc;
use std::time::Duration;

use consul_redis::clock::Clock;
use consul_redis::instance::{InstanceCommand, Todo, follow};
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::mailbox::Mailbox;
use consul_redis::redis_link::LinkSettings;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use crate::hammer::Hammer;
use crate::promises::LATE_SERVER;
use crate::support::{
    agents, history, logs, on_one_and_three_servers, record, until_in_sync, until_named,
    until_record, until_writer, world,
};

on_one_and_three_servers!(
    the_name_follows_the_writer_at_level_promotion,
    the_name_follows_the_writer_at_level_quorum,
    writes_on_the_old_primary_are_held_while_it_is_being_replaced,
);

async fn named_everywhere(world: &World, writer: &str) {
    until_named(world, "redis-primary", &[writer.to_owned()]).await;
    for server in world.consul_servers() {
        let key = server.key("redis-ha/redis/primary").await.unwrap();
        assert_eq!(key.as_deref(), Some(writer));
        let tagged = server.names().unwrap().srv("primary.redis.service.consul").await.unwrap();
        assert_eq!(tagged.len(), 1, "{tagged:?}");
    }
}

/// A single server is never behind itself.
#[track_caller]
fn in_time(late: Duration, consul_servers: u8) {
    match consul_servers {
        1 => assert_eq!(late, Duration::ZERO),
        _ => LATE_SERVER.kept(late),
    }
}

/// The primary is killed, comes back, is frozen, thaws, and is replaced by hand, under three agents and
/// readers that never stop.
async fn life_of_a_group(level: &str, consul_servers: u8) {
    let mut world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let agents = agents(&world, 3, &["--publish", level]);
    let first = until_writer(&world, "redis", 20, None).await;
    assert_eq!(first, world.groups[0].redis[0].address.to_string());
    until_in_sync(&world, "redis", 2).await;
    named_everywhere(&world, &first).await;

    // Killed.
    let hammer = Hammer::start(&world);
    hammer.until_answered().await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    named_everywhere(&world, &second).await;
    // The old primary comes back as a primary. The name does not move.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    let generation = record(&world, "redis").await.unwrap().generation;
    until_in_sync(&world, "redis", 2).await;
    assert_eq!(record(&world, "redis").await.unwrap().generation, generation, "{}", logs(&agents));
    hammer.until_enough().await;
    let seen = hammer.stop().await;
    seen.never_two_writers();
    in_time(seen.in_order(), consul_servers);
    seen.never_a_replica();
    seen.never_back_from(&second);

    world.calm().await.unwrap();

    // Frozen: it does not close its connections, and wakes up as a primary.
    let hammer = Hammer::start(&world);
    hammer.until_answered().await;
    world.server(&second).unwrap().signal(Signal::SIGSTOP).unwrap();
    let third = until_writer(&world, "redis", 30, Some(&second)).await;
    named_everywhere(&world, &third).await;
    world.server(&second).unwrap().signal(Signal::SIGCONT).unwrap();
    until_in_sync(&world, "redis", 2).await;
    hammer.until_enough().await;
    let seen = hammer.stop().await;
    seen.never_two_writers();
    in_time(seen.in_order(), consul_servers);
    seen.never_a_replica();
    seen.never_back_from(&third);

    world.calm().await.unwrap();

    // Replaced by hand, while it is alive and well.
    let hammer = Hammer::start(&world);
    hammer.until_answered().await;
    world.sentinels[1].fail_over("redis").await.unwrap();
    let fourth = until_writer(&world, "redis", 30, Some(&third)).await;
    named_everywhere(&world, &fourth).await;
    until_in_sync(&world, "redis", 2).await;
    hammer.until_enough().await;
    let seen = hammer.stop().await;
    seen.never_two_writers();
    in_time(seen.in_order(), consul_servers);
    seen.never_a_replica();
    seen.never_back_from(&fourth);

    let log = logs(&agents);
    let line = format!("redis: writer {first} -> {second}, generation ");
    assert!(log.contains(&line), "no `{line}` in\n{log}");
    let promoted = log.contains(" ms after promotion");
    assert!(promoted, "{log}");
    if level == "promotion" {
        assert!(log.contains(", promoted by Sentinel epoch "), "{log}");
        assert!(log.contains(", promoted by SENTINEL FAILOVER on "), "{log}");
    } else {
        assert!(!log.contains(", promoted by "), "{log}");
    }
}

pub async fn the_name_follows_the_writer_at_level_promotion(consul_servers: u8) {
    life_of_a_group("promotion", consul_servers).await;
}

pub async fn the_name_follows_the_writer_at_level_quorum(consul_servers: u8) {
    life_of_a_group("quorum", consul_servers).await;
}

pub async fn writes_on_the_old_primary_are_held_while_it_is_being_replaced(consul_servers: u8) {
    // Redis before that cannot hold writes (docs/facts/sentinel.md 19).
    let since = Some("6.2");
    let world = world(WorldSpec { consul_servers, since, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    // A primary begins a history with its first replica; a replica is published at once that goes on from what is
    // recorded.
    let replid = world.server(&old).unwrap().probe().await.unwrap().replid;
    let known = |r: &consul_redis::core::published::record::Record| {
        r.writer.as_ref().is_some_and(|writer| writer.replid == replid)
    };
    until_record(&world, "redis", 20, "the writer's history", known).await;
    // The writer lists a replica before that one has read all of its first copy (seen on Valkey 9.1): until then, its
    // history is another one.
    for server in &world.groups[0].redis {
        until("it has the writer's history", Duration::from_secs(20), || async {
            let found = server.probe().await?.replid;
            if found == replid { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap();
    }
    world.sentinels[0].fail_over("redis").await.unwrap();
    let moved = |r: &consul_redis::core::published::record::Record| {
        r.writer_address().is_some_and(|writer| writer.to_string() != old)
    };
    let new = until_record(&world, "redis", 20, "another writer", moved).await;
    // What it takes from here on is lost, and Sentinel alone would let it until it follows (docs/facts/sentinel.md
    // 4.1).
    tokio::time::sleep(Duration::from_millis(50)).await;
    let server = world.server(&old).unwrap();
    let write = server.ask(&["SET", "lost", "1"]).await;
    assert!(write.is_err(), "a write was acknowledged that is going to be lost");
    let change = history(&world).await.unwrap().remove(0);
    let first = consul_redis::core::published::record::Level::Promotion;
    let found = (change.generation, change.level);
    assert_eq!(found, (new.generation, Some(first)), "{}", logs(&agents));
    assert!(server.ask(&["GET", "lost"]).await.is_ok(), "reads go on");
    until_in_sync(&world, "redis", 2).await;
    assert!(server.ask(&["SET", "x", "1"]).await.unwrap_err().to_string().contains("READONLY"));
}

#[tokio::test]
pub async fn a_replica_that_dies_leaves_the_read_endpoints_and_comes_back() {
    let mut world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 2, &[]);
    let record = until_in_sync(&world, "redis", 2).await;
    let replicas: Vec<String> = record.replicas().map(ToString::to_string).collect();
    until_named(&world, "redis-replica", &replicas).await;
    world.server_mut(&replicas[0]).unwrap().kill();
    until_named(&world, "redis-replica", &replicas[1..]).await;
    world.server_mut(&replicas[0]).unwrap().restart().await.unwrap();
    until_named(&world, "redis-replica", &replicas).await;
}

#[tokio::test]
pub async fn an_instance_that_the_sentinels_forget_loses_its_row() {
    let mut world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 1, &[]);
    let record = until_in_sync(&world, "redis", 2).await;
    let gone = record.replicas().next().unwrap().to_string();
    world.server_mut(&gone).unwrap().kill();
    until_record(&world, "redis", 20, "down", |r| r.replicas().count() == 1).await;
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    }
    let has_row = |r: &consul_redis::core::published::record::Record| {
        r.instances.iter().any(|i| i.address.to_string() == gone)
    };
    let record = until_record(&world, "redis", 60, "its row is gone", |r| !has_row(r)).await;
    assert_eq!(record.instances.len(), 2, "{record:?}");
    assert_eq!(record.writer_address(), Some(&world.groups[0].redis[0].address));
}

/// At a promotion Redis closes its connections, and may do so while it is being asked whether it has been promoted.
#[tokio::test]
pub async fn an_instance_that_closes_the_connection_while_it_is_asked_is_asked_again() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let server = &world.groups[0].redis[0];
    let todo = Arc::<Mailbox<Todo>>::default();
    let (answers, mut readings) = mpsc::channel(1);
    let login = watch::Sender::new(LinkSettings::default());
    let (address, clock) = (server.address.clone(), Clock::start());
    tokio::spawn(follow(
        "redis".parse().unwrap(),
        address,
        login.subscribe(),
        clock,
        todo.clone(),
        answers,
        mpsc::channel(1).0,
    ));
    let (_, first) = readings.recv().await.unwrap();
    assert!(first.result.is_ok(), "{first:?}");
    let mut other = server.link().await.unwrap();
    // Frozen, it finds both when it wakes up, in their order.
    server.signal(Signal::SIGSTOP).unwrap();
    let kill = tokio::spawn(async move { other.call(&["CLIENT", "KILL", "TYPE", "normal"]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    todo.post(|todo| todo.add(InstanceCommand::Probe));
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.signal(Signal::SIGCONT).unwrap();
    let (_, second) = readings.recv().await.unwrap();
    assert!(second.result.is_ok(), "{second:?}");
    assert!(matches!(kill.await.unwrap().unwrap(), redis::Value::Int(1..)));
}
