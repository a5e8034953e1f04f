//! `rename-command`, as guides to harden a Redis advise: Sentinel has the other name in its config, and an agent does
//! not know it.

use consul_redis::lab::world::WorldSpec;
use tokio::time::Instant;

use crate::fencing::{until_all_have, until_all_settled, until_fenced};
use crate::support::{agents, logs, run, text, until_in_sync, until_named, until_writer, world};

/// A failover, the return of the old primary, and a planned move; what the agents say of the second.
async fn without(redis_lines: &'static str, sentinel_lines: &'static str) -> String {
    let spec = WorldSpec { redis_lines, sentinel_lines, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let server = world.server_mut(&old).unwrap();
    server.ask(&["SET", "kept", "1"]).await.unwrap();
    until_all_have(&world, "kept").await;
    let server = world.server_mut(&old).unwrap();
    server.ask(&["SAVE"]).await.unwrap();
    server.kill();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    until_all_settled(&world, &old, &new).await;
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let (server, returned) = (world.server(&old).unwrap(), Instant::now());
    until_fenced(server, "a stray primary", &new, returned, &agents).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&agents));
    if redis_lines.contains("CONFIG") {
        // Whether Sentinels were told, no command of theirs says.
        let said = "Sentinels must know the other names of CONFIG REWRITE at ";
        assert!(text(&moved).contains(said), "{}", text(&moved));
        let doctor = text(&run(&world, &["doctor", "redis"], &[]));
        for code in ["command-renamed", "instance-right"] {
            assert!(doctor.contains(code), "no {code} in\n{doctor}");
        }
    }
    let third = until_writer(&world, "redis", 5, Some(&new)).await;
    // The old one takes no write that would be lost.
    let refused = world.server(&new).unwrap().ask(&["SET", "late", "1"]).await.unwrap_err();
    assert!(refused.to_string().contains("READONLY"), "{refused}");
    until_named(&world, "redis-primary", &[third]).await;
    logs(&agents)
}

#[tokio::test]
async fn an_old_primary_is_fenced_where_config_is_renamed() {
    let log = without(
        "rename-command CONFIG hidden-config\n",
        "sentinel rename-command {group} CONFIG hidden-config\n",
    )
    .await;
    assert!(log.contains("it refused CONFIG REWRITE: "), "{log}");
}

/// Sentinel says SLAVEOF itself.
#[tokio::test]
async fn an_old_primary_is_fenced_where_replicaof_is_renamed() {
    without("rename-command REPLICAOF \"\"\n", "").await;
}
