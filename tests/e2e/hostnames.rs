//! Redis and Sentinels that announce names instead of addresses, which a hosts file of the scenario's own leads to.

use std::path::{Path, PathBuf};

use consul_redis::lab::world::{Announced, World, WorldSpec};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cures::{until_found_among, until_gone};
use crate::support::{
    logs, node_agents, run, text, until_in_sync, until_named, until_well, until_writer, world,
};

/// A hosts file that this thread, and whatever it starts, sees as the system's. The system keeps its own.
pub fn own_hosts_file(dir: &Path) -> PathBuf {
    let path = dir.join("hosts");
    std::fs::write(&path, "127.0.0.1 localhost\n").unwrap();
    let none = None::<&Path>;
    let hidden = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| mount(Some(&path), "/etc/hosts", none, MsFlags::MS_BIND, none));
    hidden.unwrap_or_else(|error| {
        panic!(
            "cannot have a hosts file of our own: {error}\nhint: this takes root, or what looks like it: \
             unshare --map-root-user cargo nextest run --test e2e hostnames"
        )
    });
    path
}

/// SRV leads to the name, which the client looks up itself.
async fn until_shown(world: &World, writer: &str) {
    until_named(world, "redis-primary", &[writer.to_owned()]).await;
    let (host, port) = writer.rsplit_once(':').unwrap();
    let services = world.consul.names().unwrap().srv("redis-primary.service.consul").await.unwrap();
    let wanted: (String, u16) = (format!("{host}."), port.parse().unwrap());
    assert_eq!(services, [wanted]);
    for (key, wanted) in [("primary", writer), ("primary/host", host)] {
        let found = world.consul.key(&format!("redis-ha/redis/{key}")).await.unwrap();
        assert_eq!(found.as_deref(), Some(wanted));
    }
}

#[tokio::test]
async fn names_that_sentinels_announce_are_followed_through_a_failover() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = own_hosts_file(dir.path());
    let spec =
        WorldSpec { announced: Announced::Name(hosts), since: Some("6.2"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = node_agents(&world, "");
    let first = until_writer(&world, "redis", 20, None).await;
    assert_eq!(first, world.groups[0].redis[0].address.to_string());
    assert!(first.starts_with("redis-0.lab:"), "{first}");
    let record = until_in_sync(&world, "redis", 2).await;
    // Each instance once, under its name.
    let mut wanted: Vec<String> =
        world.groups[0].redis.iter().map(|server| server.address.to_string()).collect();
    let mut found: Vec<String> =
        record.instances.iter().map(|instance| instance.address.to_string()).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(record.evidence.known, 3, "each Sentinel counts once: {record:?}");
    until_shown(&world, &first).await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until_shown(&world, &second).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    let follows = world.server(&first).unwrap().follows().await.unwrap();
    assert_eq!(follows.map(|of| of.to_string()), Some(second.clone()), "in Sentinel's words");

    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&agents));
    let third = until_writer(&world, "redis", 5, Some(&second)).await;
    until_shown(&world, &third).await;
    // Sentinel has nothing to repair at what was pointed there by us.
    until_well(&world).await;
}

/// One Sentinel answers with addresses where the others answer with names, and then looks up no names at all.
#[tokio::test]
async fn sentinels_that_do_not_use_names_as_the_others_do_are_found_and_cured() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = own_hosts_file(dir.path());
    let spec =
        WorldSpec { announced: Announced::Name(hosts), since: Some("6.2"), ..WorldSpec::default() };
    let world = world(spec).await;
    let _agents = node_agents(&world, "");
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    for (setting, code) in
        [("announce-hostnames", "names-mixed"), ("resolve-hostnames", "names-not-resolved")]
    {
        let sentinel = &world.sentinels[1];
        sentinel.ask(&["SENTINEL", "CONFIG", "SET", setting, "no"]).await.unwrap();
        let found = until_found_among(&world, code).await;
        let mend = found.iter().find(|finding| finding["code"] == code).unwrap()["mend"].clone();
        assert!(mend.as_str().unwrap().contains(setting), "{mend}");
        sentinel.ask(&["SENTINEL", "CONFIG", "SET", setting, "yes"]).await.unwrap();
        // It may list a server by its name and by its address.
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
        until_gone(&world, code).await;
    }
    until_well(&world).await;
}
