//! `fast_failover = "vote"`: the writer's host refuses connections, and the Sentinels vote at once.

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
    // Last: one that has just started may have two for a moment.
    until_connected(world, &first, agents.len()).await;
    first
}

/// So many agents have a connection to the writer: what closes none is not missed.
async fn until_connected(world: &World, writer: &str, count: usize) {
    until("the agents are connected to the writer", Duration::from_secs(20), || async {
        let server = world.server(writer).unwrap();
        let clients = said(&server.ask(&["CLIENT", "LIST", "TYPE", "normal"]).await?);
        let clients = clients.map_err(LabError)?;
        // Sentinels' have names, and this one asks for the list.
        let is_agent = |line: &&str| line.contains(" name= ") && !line.contains(" cmd=client");
        let agents = clients.lines().filter(is_agent).count();
        if agents >= count { Ok(()) } else { Err(LabError(clients)) }
    })
    .await
    .unwrap();
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

async fn until_patient(world: &World, agents: &[Process]) {
    let patient = vec![PATIENT_MS; world.sentinels.len()];
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
        until_patient(&world, &agents).await;
        world.server_mut(&writer).unwrap().restart().await.unwrap();
        until_in_sync(&world, "redis", 2).await;
        world.calm().await.unwrap();
        // Sentinels are not told again within two failover-timeouts.
        tokio::time::sleep(Duration::from_millis(2 * world.spec.failover_timeout_ms)).await;
        writer = next;
    }
    until_patient(&world, &agents).await;
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
    until_patient(&world, &agents).await;
    assert_eq!(record(&world, "redis").await.unwrap().death, None, "{noted}");
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
