//! Servers whose disks take their time, as a full virtual disk, or one that a neighbour uses: a Sentinel stands still each
//! time that it has its config kept, at an election and at every change of a setting.

use std::path::PathBuf;
use std::process::Command;

use consul_redis::core::published::record::Record;
use consul_redis::lab::process::Process;
use consul_redis::lab::world::{World, WorldSpec};

use crate::support::{
    agents, logs, must_follow_within, node_agents, record, run, text, until_in_sync, until_logged,
    until_record, until_writer, world, writers,
};
use crate::switchover::run_async;
use crate::votes::{until_connected, until_patient};
use crate::writers::none_lost;

/// What a disk takes longer for each file that it is to keep, in ms: more than Sentinels are given to answer before agents
/// take them for silent, and than they wait for a primary that seems to be dead.
const SLOW_DISK_MS: u64 = 80;
/// Writes before a move, and after it.
const SOME: usize = 200;
/// How long an election may take, in s. A Sentinel stands still for a quarter of a second to keep its own vote, and where all
/// three vote for themselves meanwhile none is elected: they try again after twice `failover-timeout`, 40 s.
const ELECTED_WITHIN_S: u64 = 120;
/// What Sentinels wait for by themselves where the agents are to be sooner, in ms.
const PATIENT_MS: u64 = 60_000;

/// The library that makes them slow, built by the compiler that links Rust's programs.
fn library() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shared/slow_disk.c");
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // Tests are programs of their own: each puts it there whole.
    let made = dir.join(format!("slow_disk-{}.so", std::process::id()));
    let built = dir.join("slow_disk.so");
    let output =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&made).arg(source).output();
    let output = output.expect("cc, which Rust links by");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(made, &built).expect("the library");
    built
}

async fn slow(spec: WorldSpec) -> World {
    let server_env = vec![
        ("LD_PRELOAD".to_owned(), library().display().to_string()),
        ("SLOW_DISK_MS".to_owned(), SLOW_DISK_MS.to_string()),
    ];
    world(WorldSpec { server_env, ..spec }).await
}

/// What is published stays as it is: one withdrawal and one publication are all that a failover needs.
fn assert_moved_once(before: &Record, after: &Record, log: &str) {
    let published = after.generation - before.generation;
    assert!((1..=2).contains(&published), "{published} generations\n{log}");
}

/// The primary dies, and the agents have it replaced: by the word of its host's kernel, or where they are refused.
async fn replaced(mut world: World, agents: Vec<Process>, said: &str) {
    let first = until_writer(&world, "redis", 40, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let before = record(&world, "redis").await.unwrap();
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 40, Some(&first)).await;
    let after = until_in_sync(&world, "redis", 1).await;
    let log = logs(&agents);
    assert_moved_once(&before, &after, &log);
    assert!(log.contains(said), "{log}");
    // What was shortened is put back, however late a Sentinel says so.
    until_patient(&world, &agents, PATIENT_MS).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    let back = until_in_sync(&world, "redis", 2).await;
    assert_eq!(back.generation, after.generation, "{}", logs(&agents));
}

#[tokio::test]
async fn a_proven_death_is_acted_upon_once() {
    let world = slow(WorldSpec { down_after_ms: PATIENT_MS, ..WorldSpec::default() }).await;
    let agents = node_agents(&world, "");
    let first = until_writer(&world, "redis", 40, None).await;
    let pid = world.server(&first).unwrap().id().unwrap();
    let said = format!("the end of process {pid} of {first} would be seen at once");
    until_logged(|| logs(&agents), 20, &said, 1).await;
    replaced(world, agents, "has ended, and Sentinel").await;
}

#[tokio::test]
async fn a_primary_that_refuses_connections_is_voted_out() {
    let world = slow(WorldSpec { down_after_ms: PATIENT_MS, ..WorldSpec::default() }).await;
    let agents = agents(&world, 3, &[]);
    let first = until_writer(&world, "redis", 40, None).await;
    until_connected(&world, &first, &agents).await;
    replaced(world, agents, "seems to be dead (refused)").await;
}

#[tokio::test]
async fn an_election_is_followed_and_not_undone() {
    let mut world = slow(WorldSpec::default()).await;
    let config = world.dir().join("off.toml");
    let lines = "[[group]]\nname = \"redis\"\nfast_failover = \"off\"\n";
    std::fs::write(&config, lines).unwrap();
    let agents = agents(&world, 3, &["--config", config.to_str().unwrap()]);
    let first = until_writer(&world, "redis", 40, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", ELECTED_WITHIN_S, Some(&first)).await;
    let after = until_in_sync(&world, "redis", 1).await;
    assert_moved_once(&before, &after, &logs(&agents));
    assert_eq!(after.writer_address().map(ToString::to_string), Some(second));
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    must_follow_within(&mut world, ELECTED_WITHIN_S).await;
}

#[tokio::test]
async fn a_planned_move_loses_no_acknowledged_write() {
    let world = slow(WorldSpec::default()).await;
    let all = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 40, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let writers = writers(&world);
    writers.until_more(SOME).await;
    let output = run_async(&world, &["switchover", "redis", "--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output), logs(&all));
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    writers.until_more(SOME).await;
    none_lost(&writers.stop(), &old, &new).await;
    let after = until_in_sync(&world, "redis", 2).await;
    assert_moved_once(&before, &after, &logs(&all));
}

#[tokio::test]
async fn blank_servers_become_a_group() {
    let mut world = slow(WorldSpec { from_scratch: true, ..WorldSpec::default() }).await;
    let agents = node_agents(&world, "expect = 3");
    let record = until_record(&world, "redis", 60, "a first primary", |record| {
        record.writer.is_some() && record.replicas().count() == 2
    })
    .await;
    let first = record.writer_address().map(ToString::to_string).unwrap();
    world.calm().await.unwrap();
    let status = run(&world, &["status"], &[]);
    assert_eq!(status.status.code(), Some(0), "{}{}", text(&status), logs(&agents));
    assert_ne!(must_follow_within(&mut world, ELECTED_WITHIN_S).await, first);
}
