//! Agents that come, go, die, and are asked to leave.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::promises::PRESENCE;
use crate::support::{
    agent, agents, logs, on_one_and_three_servers, run, text, until_in_sync, until_record,
    until_writer, world,
};

on_one_and_three_servers!(an_agent_that_is_killed_in_mid_switch_is_not_missed);

async fn present(world: &World) -> Result<Vec<String>, LabError> {
    let client = world.consul.client()?;
    let path = "/v1/kv/redis-ha/redis/agents/";
    let timeout = Duration::from_secs(5);
    let query = [("keys", "")];
    let answer = client.call(reqwest::Method::GET, path, &query, None, timeout).await;
    let answer = answer.map_err(LabError::new)?;
    if answer.status == 404 {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = serde_json::from_slice(&answer.body).map_err(LabError::new)?;
    Ok(keys.iter().filter_map(|key| key.rsplit('/').next().map(str::to_owned)).collect())
}

async fn until_present(world: &World, seconds: u64, wanted: &[&str]) {
    until("the agents that are present", Duration::from_secs(seconds), || async {
        let found = present(world).await?;
        if found == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

async fn an_agent_that_is_killed_in_mid_switch_is_not_missed(consul_servers: u8) {
    let mut world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let mut agents = agents(&world, 2, &["--publish", "quorum"]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    // The one that has just withdrawn the old writer is in the middle of it.
    let record =
        until_record(&world, "redis", 10, "the writer is withdrawn", |r| r.writer.is_none()).await;
    let busy = agents.iter().position(|agent| agent.name() == record.by).unwrap();
    agents[busy].kill();
    let other = agents[1 - busy].name().to_owned();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    let record = until_record(&world, "redis", 5, "written", |_| true).await;
    assert_eq!(record.by, other, "{}", logs(&agents));
    assert_ne!(first, second);
}

#[tokio::test]
async fn agents_that_die_change_nothing_that_is_published() {
    let world = world(WorldSpec::default()).await;
    let mut agents = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    until_present(&world, 10, &["agent-0", "agent-1"]).await;
    for agent in &mut agents {
        agent.kill();
    }
    // Consul itself takes the keys away: at most twice the session's ten seconds later.
    let died = Instant::now();
    until_present(&world, PRESENCE.patience_s(), &[]).await;
    PRESENCE.kept(died.elapsed());
    let after = until_record(&world, "redis", 5, "still there", |_| true).await;
    assert_eq!(after, before);
    let status = run(&world, &["status"], &[]);
    assert_eq!(status.status.code(), Some(2), "{}", text(&status));
    assert!(text(&status).contains("no agent watches this group: nothing will follow a failover"));
}

#[tokio::test]
async fn sigterm_stops_cleanly_and_at_once() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let mut agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_present(&world, 10, &["agent-0"]).await;
    agents[0].signal(Signal::SIGTERM).unwrap();
    let code = agents[0].end(Duration::from_secs(2)).await.unwrap();
    assert_eq!(code, 0, "{}", logs(&agents));
    assert_eq!(present(&world).await.unwrap(), Vec::<String>::new());
    assert!(logs(&agents).contains("stopped; what is published stays"));
    assert!(until_record(&world, "redis", 5, "stays", |_| true).await.writer.is_some());
}

#[tokio::test]
async fn sigterm_stops_an_agent_that_hangs_on_a_frozen_consul() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let mut agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_present(&world, 10, &["agent-0"]).await;
    world.consul.signal(Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    agents[0].signal(Signal::SIGTERM).unwrap();
    agents[0].end(Duration::from_secs(2)).await.unwrap();
}

#[tokio::test]
async fn sighup_looks_now_and_json_logs_are_json() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let agent = agent(&world, "agent-0", &["--log-format", "json"], &[]);
    until_writer(&world, "redis", 20, None).await;
    agent.signal(Signal::SIGHUP).unwrap();
    until("it says that it looks", Duration::from_secs(5), || async {
        let log = agent.log();
        if log.contains("SIGHUP: reading the config again, and looking at everything now") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await
    .unwrap();
    for line in agent.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(line["timestamp"].is_string() && line["message"].is_string(), "{line}");
    }
}

/// An agent that changes no instance and no Sentinel is named so, as long as it is one; and settings that none keeps
/// are not taken in silence.
#[tokio::test]
async fn an_agent_that_only_publishes_is_shown_as_one() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let path = world.dir().join("a.toml");
    let config = "[[group]]\nname = \"redis\"\n";
    std::fs::write(&path, format!("{config}manage = false\n")).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let publisher = agent(&world, "publisher", &args, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_shown(&world, "watched by: publisher (manage = false)").await;
    let set = |timeout: &str| text(&run(&world, &["config", "redis", timeout], &[]));
    let said = set("failover_timeout=31s");
    let warning = "all agents of the group have manage = false (publisher)";
    assert!(said.contains(warning), "{said}");
    // One that does both stands beside it: the settings are kept.
    let _manager = agent(&world, "manager", &[], &[]);
    until_shown(&world, "watched by: manager, publisher (manage = false)").await;
    let said = set("failover_timeout=32s");
    assert!(!said.contains("warning"), "{said}");
    std::fs::write(&path, config).unwrap();
    publisher.signal(Signal::SIGHUP).unwrap();
    until_shown(&world, "watched by: manager, publisher\n").await;
    std::fs::write(&path, format!("{config}manage = false\n")).unwrap();
    publisher.signal(Signal::SIGHUP).unwrap();
    until_shown(&world, "watched by: manager, publisher (manage = false)\n").await;
}

async fn until_shown(world: &World, wanted: &str) {
    until(&format!("`{wanted}`"), Duration::from_secs(20), || async {
        let said = text(&run(world, &["status"], &[]));
        if said.contains(wanted) { Ok(()) } else { Err(LabError(said)) }
    })
    .await
    .unwrap();
}
