//! More groups than an agent watches each by itself: their keys are watched together, Sentinels are asked for all of them
//! at once, and instances that say nothing new are only asked whether they answer.

use std::time::Duration;

use consul_redis::core::policy::FEW_GROUPS_MAX;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::fields;
use nix::sys::signal::Signal;

use crate::support::{
    agents, record, run, text, until_in_sync, until_logged, until_named, until_writer, world,
};

/// A group of each name, with a primary and a replica.
fn names() -> Vec<String> {
    (0..=FEW_GROUPS_MAX).map(|n| format!("g{n}")).collect()
}

async fn many(count: usize) -> (World, Vec<Process>, Vec<String>) {
    let spec = WorldSpec { redis: 2, groups: names(), ..WorldSpec::default() };
    let world = world(spec).await;
    let names = names();
    let flags: Vec<&str> = names.iter().flat_map(|name| ["--group", name]).collect();
    let running = agents(&world, count, &flags);
    let mut writers = Vec::new();
    for name in &names {
        writers.push(until_writer(&world, name, 30, None).await);
        until_in_sync(&world, name, 1).await;
    }
    (world, running, writers)
}

/// Connections that a process has to Consul's HTTP.
fn connections(world: &World, agent: &Process) -> usize {
    let port = format!(":{:04X}", world.consul.http.port());
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", agent.id()))
        .unwrap()
        .filter_map(|fd| {
            std::fs::read_link(fd.ok()?.path()).ok()?.into_os_string().into_string().ok()
        })
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let open = table.lines().filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, remote, "01", _, _, _, _, _, inode, ..] = fields.as_slice() else {
            return false;
        };
        remote.ends_with(&port) && sockets.iter().any(|socket| socket == inode)
    });
    open.count()
}

#[tokio::test]
async fn very_many_groups_are_watched_over_few_connections_and_each_fails_over() {
    let (mut world, running, writers) = many(2).await;
    for agent in &running {
        let open = connections(&world, agent);
        assert!(open <= 16, "{open} connections to Consul");
    }
    // Several at once, and the others notice nothing.
    let untouched = record(&world, "g8").await.unwrap();
    for writer in &writers[..3] {
        world.server_mut(writer).unwrap().kill();
    }
    for (n, old) in writers[..3].iter().enumerate() {
        let new = until_writer(&world, &format!("g{n}"), 40, Some(old)).await;
        until_named(&world, &format!("g{n}-primary"), &[new]).await;
    }
    let after = record(&world, "g8").await.unwrap();
    assert_eq!((after.generation, &after.writer), (untouched.generation, &untouched.writer));
    // A line for each, and those first that are not well.
    let shown = run(&world, &["status"], &[]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("9: 6 healthy, "), "{shown}");
    assert_eq!(lines.len(), 1 + names().len(), "{shown}");
    for (n, line) in lines[1..4].iter().enumerate() {
        let ill = line.starts_with(&format!("g{n}  ")) && !line.contains("  healthy  ");
        assert!(ill && line.contains(", generation 3  "), "{shown}");
    }
    // The old primaries are back, as replicas.
    for (n, old) in writers[..3].iter().enumerate() {
        world.server_mut(old).unwrap().restart().await.unwrap();
        until_in_sync(&world, &format!("g{n}"), 1).await;
    }
    let moved = run(&world, &["switchover", "g5", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}", text(&moved));
    until_writer(&world, "g5", 40, Some(&writers[5])).await;
}

/// A replica that answers no more, and whose connection stays open, is told by the Sentinels: it is not asked in between.
#[tokio::test]
async fn a_replica_that_hangs_is_noticed_among_very_many_groups() {
    let (world, _running, writers) = many(1).await;
    let mut servers = world.groups[6].redis.iter().map(|redis| redis.address.to_string());
    let replica = servers.find(|at| *at != writers[6]).unwrap();
    world.server(&replica).unwrap().signal(Signal::SIGSTOP).unwrap();
    until("it is down", Duration::from_secs(60), || async {
        let record = record(&world, "g6").await?;
        let role = record.role_of(&replica.parse().unwrap()).map(|role| role.as_str());
        if role == Some("down") { Ok(()) } else { Err(LabError(format!("{role:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_in_other_keys_than_the_record_counts_for_very_many_groups_too() {
    let (world, _running, _) = many(1).await;
    let set = run(&world, &["config", "g4", "down_after=2345ms"], &[]);
    assert_eq!(set.status.code(), Some(0), "{}", text(&set));
    until("the Sentinels have the setting", Duration::from_secs(40), || async {
        for sentinel in &world.sentinels {
            let master = sentinel.ask(&["SENTINEL", "MASTER", "g4"]).await?;
            let master = fields(&master).map_err(LabError)?;
            let set = master.get("down-after-milliseconds").cloned().unwrap_or_default();
            if set != "2345" {
                return Err(LabError(set));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_consul_that_was_away_and_lost_all_has_very_many_groups_again() {
    let (mut world, running, writers) = many(1).await;
    world.consul.kill();
    world.server_mut(&writers[1]).unwrap().kill();
    const SAID: &str = "trying again, and what is published stays";
    until_logged(|| running[0].log(), 60, SAID, 1).await;
    world.consul.restart().await.unwrap();
    until_writer(&world, "g1", 60, Some(&writers[1])).await;
    for (name, writer) in names().iter().zip(&writers).filter(|(name, _)| *name != "g1") {
        let again = until_writer(&world, name, 60, None).await;
        assert_eq!(again, *writer, "{name}");
    }
    // Said once, and not for each group.
    let said = running[0].log();
    assert_eq!(said.matches(SAID).count(), 1, "{said}");
}
