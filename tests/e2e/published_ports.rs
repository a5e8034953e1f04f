//! Servers that announce another address and another port than they listen at: behind NAT, or with a container's
//! published port.

use consul_redis::lab::world::{Announced, World, WorldSpec};
use consul_redis::redis_link::text as said;

use crate::fencing::{until_all_have, until_all_settled, until_follows};
use crate::support::{
    logs, node_agents, run, text, until_in_sync, until_logged, until_named, until_well,
    until_writer, world,
};

/// The name, the rows and the keys are what the server announces.
async fn until_shown(world: &World, writer: &str) {
    until_named(world, "redis-primary", &[writer.to_owned()]).await;
    let found = world.consul.key("redis-ha/redis/primary").await.unwrap();
    assert_eq!(found.as_deref(), Some(writer));
}

#[tokio::test]
async fn servers_behind_published_ports_are_followed_fenced_and_moved() {
    let redis_lines = "appendonly yes\n";
    let spec = WorldSpec { announced: Announced::Published, redis_lines, ..WorldSpec::default() };
    let mut world = world(spec).await;
    for server in world.groups[0].redis.iter().chain(&world.sentinels) {
        let listens = said(&server.ask(&["INFO", "server"]).await.unwrap()).unwrap();
        let port = format!("tcp_port:{}\r", server.address.port());
        assert!(!listens.contains(&port), "{} listens where it announces", server.name());
    }
    let agents = node_agents(&world, "");
    let first = until_writer(&world, "redis", 20, None).await;
    assert_eq!(first, world.groups[0].redis[0].address.to_string());
    let record = until_in_sync(&world, "redis", 2).await;
    // Each instance and each Sentinel once, by what it announces.
    let mut wanted: Vec<_> = world.groups[0].redis.iter().map(|s| s.address.clone()).collect();
    let mut found: Vec<_> = record.instances.iter().map(|i| i.address.clone()).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(record.evidence.known, 3, "{record:?}");
    until_shown(&world, &first).await;
    world.server(&first).unwrap().ask(&["SET", "kept", "1"]).await.unwrap();
    until_all_have(&world, "kept").await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    until_shown(&world, &second).await;
    until_all_settled(&world, &first, &second).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_follows(world.server(&first).unwrap(), &second).await;
    let fenced = format!("{first} was a stray primary; it is a replica of {second} now");
    until_logged(|| logs(&agents), 10, &fenced, 1).await;
    until_in_sync(&world, "redis", 2).await;

    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&agents));
    let third = until_writer(&world, "redis", 10, Some(&second)).await;
    until_shown(&world, &third).await;
    until_well(&world).await;
}
