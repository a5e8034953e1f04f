//! `fast_failover = "vote"`: the writer's host refuses connections, and the Sentinels vote at once.

use std::collections::BTreeSet;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{fields, text as said};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::promises::VOTED;
use crate::support::{
    agents, logs, node_agents, record, until_in_sync, until_record, until_writer, world,
};

/// What the Sentinels wait for by themselves, in ms: longer than any scenario here.
const PATIENT_MS: u64 = 60_000;
/// Longer than ten of the 200 ms that Sentinels were once told to wait for, shorter than the sessions of the agents.
const STOOD_STILL: Duration = Duration::from_secs(4);
/// Longer than it takes Sentinels to vote, and a leader to give up.
const VOTE: Duration = Duration::from_secs(2);
/// Kills of one scenario.
const KILLS: usize = 3;

/// A world whose Sentinels wait for a minute, and three agents elsewhere.
async fn voting() -> (World, Vec<Process>, String) {
    let world = world(WorldSpec { down_after_ms: PATIENT_MS, ..WorldSpec::default() }).await;
    let config = world.dir().join("vote.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nfast_failover = \"vote\"\n").unwrap();
    let agents = agents(&world, 3, &["--config", config.to_str().unwrap()]);
    let first = until_ready(&world, &agents).await;
    (world, agents, first)
}

/// All agents and Sentinels know the group and are at rest. The writer.
async fn until_ready(world: &World, agents: &[Process]) -> String {
    let first = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    world.calm().await.unwrap();
    until_connected(world, &first, agents).await;
    first
}

/// Each agent has asked the writer something, on a connection that it keeps: one that never heard it does not know whose
/// end it sees.
pub async fn until_connected(world: &World, writer: &str, agents: &[Process]) {
    until("the agents are connected to the writer", Duration::from_secs(20), || async {
        let server = world.server(writer).unwrap();
        let clients = said(&server.ask(&["CLIENT", "LIST", "TYPE", "normal"]).await?);
        let clients = clients.map_err(LabError)?;
        let has_asked = |line: &&str| !line.contains(" cmd=NULL");
        let asked: BTreeSet<u16> = clients.lines().filter(has_asked).filter_map(port).collect();
        let is_connected = |agent: &&Process| !ports_of(agent.id()).is_disjoint(&asked);
        match agents.iter().find(|agent| !is_connected(agent)) {
            None => Ok(()),
            Some(agent) => Err(LabError(format!("{} is not among\n{clients}", agent.name()))),
        }
    })
    .await
    .unwrap();
}

/// The client's port in a line of CLIENT LIST: `id=3 addr=127.0.0.1:43210 laddr=...`
fn port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once(" addr=")?;
    rest.split(' ').next()?.rsplit_once(':')?.1.parse().ok()
}

/// The ports that a process has connections from.
fn ports_of(pid: u32) -> BTreeSet<u16> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let sockets: BTreeSet<String> = links.map(|link| link.display().to_string()).collect();
    let rows = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |row: &str| {
        let words: Vec<&str> = row.split_ascii_whitespace().collect();
        let (_, port) = words.get(1)?.rsplit_once(':')?;
        let its = sockets.contains(&format!("socket:[{}]", words.get(9)?));
        u16::from_str_radix(port, 16).ok().filter(|_| its)
    };
    rows.lines().filter_map(port).collect()
}

/// What each Sentinel waits for now.
async fn paces(world: &World) -> Result<Vec<u64>, LabError> {
    let mut paces = Vec::new();
    for sentinel in &world.sentinels {
        let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
        let fields = fields(&answer).map_err(LabError)?;
        paces.push(fields["down-after-milliseconds"].parse().map_err(LabError::new)?);
    }
    Ok(paces)
}

/// All Sentinels wait for a primary as long as they did before.
pub async fn until_patient(world: &World, agents: &[Process], patient_ms: u64) {
    let patient = vec![patient_ms; world.sentinels.len()];
    until("the Sentinels wait as before", Duration::from_secs(10), || async {
        let now = paces(world).await?;
        if now == patient { Ok(()) } else { Err(LabError(format!("{now:?}\n{}", logs(agents)))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_writer_that_refuses_all_agents_is_voted_out_at_once() {
    let (mut world, agents, mut writer) = voting().await;
    for _ in 0..KILLS {
        world.server_mut(&writer).unwrap().kill();
        let begun = Instant::now();
        let next = until_writer(&world, "redis", 20, Some(&writer)).await;
        let took = begun.elapsed();
        eprintln!("another writer {} ms after the kill", took.as_millis());
        VOTED.kept(took);
        let noted = logs(&agents);
        assert!(noted.contains("seems to be dead (refused)"), "{noted}");
        until_patient(&world, &agents, PATIENT_MS).await;
        world.server_mut(&writer).unwrap().restart().await.unwrap();
        until_in_sync(&world, "redis", 2).await;
        world.calm().await.unwrap();
        // Sentinels are not told again within two failover-timeouts.
        tokio::time::sleep(Duration::from_millis(2 * world.spec.failover_timeout_ms)).await;
        writer = next;
    }
    until_patient(&world, &agents, PATIENT_MS).await;
    until_record(&world, "redis", 40, "it is written down no more", |record| {
        record.haste.is_none()
    })
    .await;
}

/// The agent beside it would have proved its end, and has died first: what the others see is enough.
#[tokio::test]
async fn one_whose_agent_has_died_too_is_voted_out_by_what_the_others_see() {
    let mut world = world(WorldSpec { down_after_ms: PATIENT_MS, ..WorldSpec::default() }).await;
    let mut agents = node_agents(&world, "");
    let first = until_ready(&world, &agents).await;
    let beside = world.groups[0].redis.iter().position(|s| s.address.to_string() == first);
    agents.remove(beside.unwrap()).kill();
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 40, Some(&first)).await;
    let noted = logs(&agents);
    assert!(noted.contains("seems to be dead (refused)"), "{noted}");
    until_patient(&world, &agents, PATIENT_MS).await;
    assert_eq!(record(&world, "redis").await.unwrap().death, None, "{noted}");
}

fn signal_all(agents: &[Process], signal: Signal) {
    agents.iter().for_each(|agent| agent.signal(signal).unwrap());
}

/// A busy host, a paused machine: the agents see late that the writer is dead, and stand still once more while the
/// Sentinels vote. Its replicas know since when it is dead, and what the Sentinels were told to wait for leaves them time to
/// choose one.
#[tokio::test]
async fn agents_that_stood_still_as_the_writer_died_have_it_voted_out() {
    let (mut world, agents, writer) = voting().await;
    signal_all(&agents, Signal::SIGSTOP);
    world.server_mut(&writer).unwrap().kill();
    tokio::time::sleep(STOOD_STILL).await;
    signal_all(&agents, Signal::SIGCONT);
    until("a majority is told to hurry", Duration::from_secs(20), || async {
        let now = paces(&world).await?;
        let hurry = now.iter().filter(|ms| **ms < PATIENT_MS).count();
        if hurry * 2 > now.len() { Ok(()) } else { Err(LabError(format!("{now:?}"))) }
    })
    .await
    .unwrap();
    signal_all(&agents, Signal::SIGSTOP);
    tokio::time::sleep(VOTE).await;
    signal_all(&agents, Signal::SIGCONT);
    until_writer(&world, "redis", 20, Some(&writer)).await;
    until_patient(&world, &agents, PATIENT_MS).await;
}

/// It refuses no connection: it takes them, and does not answer.
#[tokio::test]
async fn a_writer_that_stands_still_is_left_to_the_sentinels_pace() {
    let (world, agents, writer) = voting().await;
    let before = record(&world, "redis").await.unwrap();
    world.server(&writer).unwrap().signal(Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(paces(&world).await.unwrap(), vec![PATIENT_MS; 3]);
    let after = record(&world, "redis").await.unwrap();
    assert_eq!(after.generation, before.generation, "{}", logs(&agents));
    world.server(&writer).unwrap().signal(Signal::SIGCONT).unwrap();
    until_in_sync(&world, "redis", 2).await;
    let after = record(&world, "redis").await.unwrap();
    assert_eq!((after.generation, after.haste), (before.generation, None), "{}", logs(&agents));
    assert_eq!(paces(&world).await.unwrap(), vec![PATIENT_MS; 3]);
}
