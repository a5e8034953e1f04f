//! A server under `exec` is told to stop, and its writes are held for a handover that does not end well: whatever
//! becomes of it, the server takes none again. What it acknowledged then would be lost where another one leads.

use std::net::SocketAddr;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::containers::{Group, group, spec};
use crate::support::{until_in_sync, until_writer, world};
use crate::writers::{Done, Find, Kind, Writers, lost};

/// Writes before the stop.
const SOME: usize = 200;
/// How long the agent may take to leave, and the server to end.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Each instance and the agents may do everything here.
const MASTER: &str = "11111111-2222-3333-4444-555555555555";

/// Clients of this server alone, wherever the name leads.
fn writers_at(address: &str) -> Writers {
    let at: SocketAddr = address.parse().unwrap();
    Writers::start(|| move || Box::new(move || Some(at)) as Find)
}

async fn begun(spec: WorldSpec, env: &[(&str, &str)]) -> (World, Group, String) {
    let mut world = world(spec).await;
    let group = group(&mut world, 3, env).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    (world, group, writer)
}

/// Nothing that the old one acknowledged is missing on the new one.
async fn kept(done: &[Done], new: &str) {
    let writes = done.iter().filter(|done| done.kind != Kind::Reader).count();
    let lost = lost(done, new).await;
    let first: Vec<_> = lost.iter().take(3).collect();
    println!("{writes} writes acknowledged, {} lost", lost.len());
    assert!(writes >= SOME && lost.is_empty(), "{} of {writes} lost: {first:#?}", lost.len());
}

/// The Sentinel that is asked dies before it has told any replica.
#[tokio::test]
async fn a_server_whose_handover_fails_takes_no_writes_until_it_has_stopped() {
    // Its Sentinels do not take it for dead while its writes are held.
    let (world, mut group, old) = begun(spec(), &[("REDIS_DOWN_AFTER_MS", "8000")]).await;
    for sentinel in &group.sentinels {
        let fails = ["SENTINEL", "SIMULATE-FAILURE", "crash-after-election"];
        sentinel.ask(&fails).await.unwrap();
    }
    let writers = writers_at(&old);
    writers.until_more(SOME).await;
    let stopped = group.at(&old).process();
    stopped.signal(Signal::SIGTERM).unwrap();
    let code = stopped.end(STOPPED_WITHIN).await.unwrap();
    let log = group.at(&old).log();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("promoted no replica"), "{log}");
    // Those that are left elect another one.
    for sentinel in &group.sentinels {
        let _ = sentinel.ask(&["SENTINEL", "SIMULATE-FAILURE", "help"]).await;
    }
    let new = until_writer(&world, "redis", 60, Some(&old)).await;
    kept(&writers.stop(), &new).await;
}

/// What agents may do from now on: everything but to show a writer.
async fn forbid_publishing(world: &World, rules: &str) {
    let client = world.consul.client().unwrap();
    let all: Value = client.get("/v1/acl/policies", &[]).await.unwrap().value;
    let ours = all.as_array().unwrap().iter().find(|policy| policy["Name"] == "agents").unwrap();
    let path = format!("/v1/acl/policy/{}", ours["ID"].as_str().unwrap());
    let node = "node \"redis-ha-redis\" { policy = \"read\" }";
    let policy = json!({ "Name": "agents", "Rules": format!("{rules}\n{node}") });
    client.put(&path, &[], Some(&policy)).await.unwrap();
}

/// Another one is promoted, no agent can publish it, and Consul does not answer as the agent leaves.
#[tokio::test]
async fn a_server_whose_successor_is_not_published_takes_no_writes_until_it_has_stopped() {
    let rules = "key_prefix \"\" { policy = \"write\" }\nservice_prefix \"\" { policy = \"write\" }\n\
                 session_prefix \"\" { policy = \"write\" }\nagent_prefix \"\" { policy = \"read\" }\n";
    let all = format!("{rules}\nnode_prefix \"\" {{ policy = \"write\" }}");
    let mut world = world(WorldSpec { master_token: Some(MASTER.to_owned()), ..spec() }).await;
    let token = world.consul.token("agents", &all).await.unwrap();
    let mut group = group(&mut world, 3, &[("CONSUL_HTTP_TOKEN", &token)]).await;
    let old = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let index = group.index(&old);
    forbid_publishing(&world, &format!("{rules}\nnode_prefix \"\" {{ policy = \"read\" }}")).await;
    let writers = writers_at(&old);
    writers.until_more(SOME).await;
    group.redis[index].process().signal(Signal::SIGTERM).unwrap();
    let new = until("another one is promoted", Duration::from_secs(20), || async {
        for (_, other) in group.redis.iter().enumerate().filter(|(at, _)| *at != index) {
            if other.info("role").await? == "master" {
                return Ok(other.address.to_string());
            }
        }
        Err(LabError("none is".to_owned()))
    })
    .await
    .unwrap();
    world.consul.signal(Signal::SIGSTOP).unwrap();
    let ended = group.redis[index].process().end(STOPPED_WITHIN).await;
    world.consul.signal(Signal::SIGCONT).unwrap();
    let log = group.redis[index].log();
    assert_eq!(ended.unwrap(), 0, "{log}");
    assert!(log.contains("not everything was handed over"), "{log}");
    kept(&writers.stop(), &new).await;
}
