//! A writer whose process ends: its host's kernel tells the agent there, which has it replaced long before Sentinels
//! would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::containers::{group_with, spec as containers};
use crate::promises::PROVEN;
use crate::support::{
    logs, node_agents, on_one_and_three_servers, record, until_all_have, until_in_sync,
    until_logged, until_record, until_writer, world,
};

on_one_and_three_servers!(
    a_writer_that_is_killed_is_replaced_at_once_at_level_promotion,
    a_writer_that_is_killed_is_replaced_at_once_at_level_quorum,
);

/// What Sentinels wait for, in ms: longer than any scenario here.
const PATIENT_MS: u64 = 60_000;

/// What a Redis may take that is to run out of memory, besides what it has taken before.
const OOM_BYTES: u64 = 48 << 20;

/// A world whose Sentinels wait for a minute, and an agent beside each Redis.
async fn proving(spec: WorldSpec, more: &str) -> (World, Vec<Process>, String) {
    let world = world(spec).await;
    let agents = node_agents(&world, more);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let server = world.server(&first).unwrap();
    until_all_have(server, "kept", 2).await;
    let pid = server.id().unwrap();
    let said = format!("the end of process {pid} of {first} would be seen at once");
    until_logged(|| logs(&agents), 20, &said, 1).await;
    // A Sentinel that is asked chooses among replicas whose links it has seen up.
    world.calm().await.unwrap();
    (world, agents, first)
}

fn patient() -> WorldSpec {
    WorldSpec { down_after_ms: PATIENT_MS, ..WorldSpec::default() }
}

/// Another writer is published, and all that was replicated is there.
async fn until_replaced(world: &World, first: &str) -> Record {
    let replaced = until_record(world, "redis", 20, "another writer", |record| {
        record.writer_address().is_some_and(|writer| writer.to_string() != first)
    });
    let found = replaced.await;
    let writer = found.writer_address().unwrap().to_string();
    let kept = world.server(&writer).unwrap().ask(&["GET", "kept"]).await.unwrap();
    assert_eq!(kept, redis::Value::BulkString(b"1".to_vec()));
    found
}

/// How often a Sentinel was asked.
fn asked(agents: &[Process], first: &str) -> usize {
    logs(agents).matches(&format!(" replaces {first}")).count()
}

async fn killed(level: &str, consul_servers: u8) {
    let spec = WorldSpec { consul_servers, ..patient() };
    let publish = format!("publish = \"{level}\"");
    let (mut world, agents, first) = proving(spec, &publish).await;
    let server = world.server_mut(&first).unwrap();
    let pid = server.id().unwrap();
    let begun = Instant::now();
    server.kill();
    let found = until_replaced(&world, &first).await;
    let took = begun.elapsed();
    eprintln!("level {level}: another writer {} ms after the kill", took.as_millis());
    PROVEN.kept(took);
    let death = found.death.expect("it is written down");
    assert_eq!((death.instance.to_string(), death.pid), (first.clone(), pid));
    assert_eq!(death.evidence, "process");
    assert_eq!(asked(&agents, &first), 1, "{}", logs(&agents));
    until_writer(&world, "redis", 20, Some(&first)).await;
    // It comes back, and follows.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
}

async fn a_writer_that_is_killed_is_replaced_at_once_at_level_promotion(consul_servers: u8) {
    killed("promotion", consul_servers).await;
}

async fn a_writer_that_is_killed_is_replaced_at_once_at_level_quorum(consul_servers: u8) {
    killed("quorum", consul_servers).await;
}

/// However it ends.
async fn ends_by(spec: WorldSpec, command: &[&str]) {
    let (world, agents, first) = proving(spec, "").await;
    let _ = world.server(&first).unwrap().ask(command).await;
    until_replaced(&world, &first).await;
    assert_eq!(asked(&agents, &first), 1, "{}", logs(&agents));
}

#[tokio::test]
async fn one_that_is_told_to_shut_down_is_replaced_at_once() {
    ends_by(patient(), &["SHUTDOWN", "NOSAVE"]).await;
}

#[tokio::test]
async fn one_that_crashes_is_replaced_at_once() {
    let (redis_lines, since) = ("enable-debug-command yes\n", Some("7.0"));
    ends_by(WorldSpec { redis_lines, since, ..patient() }, &["DEBUG", "SEGFAULT"]).await;
}

/// A cgroup with a limit on memory, of either version. It goes when it is dropped, which its processes must be gone for.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// Puts a process into it.
    fn on(pid: u32, bytes: u64) -> std::io::Result<Self> {
        let (root, limit) = match Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let made = Self(Path::new(root).join(format!("consul-redis-{pid}")));
        std::fs::create_dir(&made.0)?;
        std::fs::write(made.0.join(limit), bytes.to_string())?;
        std::fs::write(made.0.join("cgroup.procs"), pid.to_string())?;
        Ok(made)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The kernel kills it for the memory that it takes.
#[tokio::test]
async fn one_that_runs_out_of_memory_is_replaced_at_once() {
    let (world, agents, first) = proving(patient(), "").await;
    let server = world.server(&first).unwrap();
    let limit = match MemoryLimit::on(server.id().unwrap(), OOM_BYTES) {
        Ok(limit) => limit,
        Err(error) => {
            // Without cgroups, or the right to make one, no limit can be set: the other ends are tried all the same.
            return eprintln!("NOT APPLICABLE: no cgroup with a limit on memory here: {error}");
        }
    };
    let value = "x".repeat(1 << 20);
    let mut taken = 0;
    while server.ask(&["SET", &format!("filler:{taken}"), &value]).await.is_ok() {
        taken += 1;
        assert!(taken < OOM_BYTES >> 18, "it takes more than its limit");
    }
    eprintln!("killed after {taken} MiB");
    let found = until_replaced(&world, &first).await;
    assert_eq!(found.death.expect("it is written down").instance.to_string(), first);
    assert_eq!(asked(&agents, &first), 1, "{}", logs(&agents));
    drop(limit);
}

/// Nothing ends, so nothing is proven: Sentinel's own pace, and no worse than that.
#[tokio::test]
async fn one_that_hangs_is_left_to_the_sentinels() {
    let spec = WorldSpec { down_after_ms: 4_000, ..WorldSpec::default() };
    let (world, agents, first) = proving(spec, "").await;
    let begun = Instant::now();
    world.server(&first).unwrap().signal(Signal::SIGSTOP).unwrap();
    let found = until_replaced(&world, &first).await;
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!((found.death, asked(&agents, &first)), (None, 0), "{}", logs(&agents));
    world.server(&first).unwrap().signal(Signal::SIGCONT).unwrap();
    until_in_sync(&world, "redis", 2).await;
}

/// The agent of its host is dead, too: the others prove nothing.
#[tokio::test]
async fn one_whose_agent_is_dead_is_left_to_the_sentinels() {
    let spec = WorldSpec { down_after_ms: 4_000, ..WorldSpec::default() };
    let (mut world, mut agents, first) = proving(spec, "fast_failover = \"proof\"").await;
    let beside = world.groups[0].redis.iter().position(|s| s.address.to_string() == first);
    agents.remove(beside.unwrap()).kill();
    let begun = Instant::now();
    world.server_mut(&first).unwrap().kill();
    let found = until_replaced(&world, &first).await;
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((found.death, asked(&agents, &first)), (None, 0), "{}", logs(&agents));
}

#[tokio::test]
async fn what_the_operator_switches_off_is_left_to_the_sentinels() {
    let spec = WorldSpec { down_after_ms: 4_000, ..WorldSpec::default() };
    let world = world(spec).await;
    let agents = node_agents(&world, "fast_failover = \"off\"");
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let mut world = world;
    world.server_mut(&first).unwrap().kill();
    let replaced = until_record(&world, "redis", 30, "another writer", |record| {
        record.writer_address().is_some_and(|writer| writer.to_string() != first)
    });
    assert_eq!(replaced.await.death, None);
    assert_eq!(asked(&agents, &first), 0, "{}", logs(&agents));
}

/// It is started again after so many ms. Whichever of the two leads in the end, one does, what was replicated is there,
/// and all others follow.
async fn back_after(pause_ms: u64, lines: &'static str) {
    let (mut world, agents, first) =
        proving(WorldSpec { redis_lines: lines, ..patient() }, "").await;
    let old = world.server_mut(&first).unwrap();
    old.kill();
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    old.restart().await.unwrap();
    let found = until_in_sync(&world, "redis", 2).await;
    let leads = found.writer_address().unwrap().to_string();
    eprintln!("back after {pause_ms} ms: {leads} leads, it was {first}");
    if asked(&agents, &first) > 0 {
        assert_ne!(leads, first, "a failover that has begun goes on\n{}", logs(&agents));
    }
    // One that copies is online for its primary a moment before it has loaded what it was sent.
    for server in &world.groups[0].redis {
        until("it has what was replicated", Duration::from_secs(20), || async {
            let kept = server.ask(&["GET", "kept"]).await?;
            let whole = kept == redis::Value::BulkString(b"1".to_vec());
            if whole { Ok(()) } else { Err(LabError(format!("{}: {kept:?}", server.name()))) }
        })
        .await
        .unwrap();
    }
    let leading = until("one leads", Duration::from_secs(20), || async {
        let mut leading = Vec::new();
        for server in &world.groups[0].redis {
            if server.follows().await?.is_none() {
                leading.push(server.address.to_string());
            }
        }
        if leading.len() == 1 { Ok(leading) } else { Err(LabError(format!("{leading:?}"))) }
    });
    assert_eq!(leading.await.unwrap(), [leads]);
    assert!(asked(&agents, &first) <= 1, "{}", logs(&agents));
    assert!(record(&world, "redis").await.unwrap().generation < 6, "{}", logs(&agents));
}

/// Its data is gone with it.
const BLANK: &str = "repl-diskless-sync-delay 3\n";
/// It is on disk.
const WITH_DATA: &str = "appendonly yes\nappendfsync always\n";

#[tokio::test]
async fn one_that_is_back_blank_after_20_ms_does_not_take_the_role_back() {
    back_after(20, BLANK).await;
}

#[tokio::test]
async fn one_that_is_back_blank_after_100_ms_does_not_take_the_role_back() {
    back_after(100, BLANK).await;
}

#[tokio::test]
async fn one_that_is_back_blank_after_500_ms_does_not_take_the_role_back() {
    back_after(500, BLANK).await;
}

#[tokio::test]
async fn one_that_is_back_with_its_data_after_20_ms_leaves_one_writer() {
    back_after(20, WITH_DATA).await;
}

#[tokio::test]
async fn one_that_is_back_with_its_data_after_100_ms_leaves_one_writer() {
    back_after(100, WITH_DATA).await;
}

#[tokio::test]
async fn one_that_is_back_with_its_data_after_500_ms_leaves_one_writer() {
    back_after(500, WITH_DATA).await;
}

/// Under `exec` the agent does not leave with its server before it has acted on that.
#[tokio::test]
async fn the_end_of_execs_child_is_acted_on_before_exec_ends() {
    let mut world = world(containers()).await;
    let settings = [("REDIS_DOWN_AFTER_MS", "60000")];
    let mut group = group_with(&mut world, 3, &settings, None).await;
    let first = until_writer(&world, "redis", 40, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let old = group.index(&first);
    let said = "would be seen at once";
    until_logged(|| group.redis[old].log(), 20, said, 1).await;
    // Sentinels have looked at their replicas since these are in sync: they do so every 10 s.
    for sentinel in &group.sentinels {
        until("its replicas have links", Duration::from_secs(30), || async {
            let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            let text = format!("{replicas:?}");
            let up = text.matches("master-link-status").count();
            let ok = text.matches("\"ok\"").count() + text.matches("'ok'").count();
            if up == 2 && ok == 2 { Ok(()) } else { Err(LabError(text)) }
        })
        .await
        .unwrap();
    }
    assert_eq!(group.redis[old].kill_server().await, 137);
    let found = record(&world, "redis").await.unwrap();
    let death = found.death.clone().expect("it is written down");
    assert_eq!((death.instance.to_string(), death.evidence.as_str()), (first.clone(), "child"));
    let new = until_writer(&world, "redis", 20, Some(&first)).await;
    group.redis[old].restart(&world);
    group.redis[old].until_answers().await;
    until_in_sync(&world, "redis", 2).await;
    assert_eq!(until_writer(&world, "redis", 5, None).await, new);
}
