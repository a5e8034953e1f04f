//! `consul-redis pause`: agents observe and publish, and change nothing else, until the pause ends.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{fields, text as reply};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::{
    CALM, NODE_TIMEOUT_MS, REPLACED_WITHIN, blank_alone, until_answers, until_calm,
};
use crate::fencing::{self, until_all_settled};
use crate::promises::SETTINGS_TOLD;
use crate::support::{
    agent, agents, http_address, logs, off_schema, run, text, until_in_sync, until_logged,
    until_writer, world,
};

/// What a Redis is told by agents alone: Sentinel says SLAVEOF.
const BY_AGENTS: [&str; 2] = ["cmdstat_replicaof:", "cmdstat_client|pause:"];
/// What the Sentinels are to have, and what one of them is given by hand.
const DOWN_AFTER: (&str, &str) = ("2300", "9000");

/// Which of those commands a server has had since it was started, or its counts were reset.
async fn told(server: &LabServer) -> Result<Vec<String>, LabError> {
    let stats = reply(&server.ask(&["INFO", "commandstats"]).await?).map_err(LabError)?;
    assert!(stats.contains("cmdstat_"), "it counts commands: {stats}");
    let found = stats.lines().filter(|line| BY_AGENTS.iter().any(|name| line.starts_with(name)));
    Ok(found.map(str::to_owned).collect())
}

async fn down_after(sentinel: &LabServer) -> Result<String, LabError> {
    let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
    Ok(fields(&answer).map_err(LabError)?["down-after-milliseconds"].clone())
}

async fn until_all_have(world: &World, wanted: &str) {
    for sentinel in &world.sentinels {
        until("it has what is wanted", SETTINGS_TOLD.patience(), || async {
            let found = down_after(sentinel).await?;
            if found == wanted { Ok(()) } else { Err(LabError(found)) }
        })
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", sentinel.name()));
    }
}

/// The primary dies with all that it has on disk, and every Sentinel knows of its death and of the next one: an agent
/// would have it follow as soon as it is back. The new writer.
async fn replaced(world: &mut World, old: &str) -> String {
    let server = world.server(old).unwrap();
    server.ask(&["SET", "kept", old]).await.unwrap();
    until_in_sync(world, "redis", 2).await;
    fencing::until_all_have(world, "kept").await;
    let server = world.server_mut(old).unwrap();
    server.ask(&["SAVE"]).await.unwrap();
    server.kill();
    let new = until_writer(world, "redis", 30, Some(old)).await;
    until_all_settled(world, old, &new).await;
    new
}

fn paused(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = run(world, args, &[]);
    (output.status.code(), text(&output))
}

/// What a command prints for programs, whatever its exit code is.
fn shown(world: &World, schema: &str, args: &[&str]) -> Value {
    let output = run(world, args, &[]);
    let said: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    assert_eq!(off_schema(schema, &said), Vec::<String>::new(), "{said:#}");
    said
}

/// Which problems `status` has of the only group or cluster.
fn problems(world: &World) -> Vec<String> {
    let all = shown(world, "status", &["status", "--json"]);
    let found = all[0]["problems"].as_array().unwrap().iter();
    found.map(|problem| problem["code"].as_str().unwrap().to_owned()).collect()
}

async fn until_not_paused(world: &World) {
    until("it is not paused", Duration::from_secs(20), || async {
        let found = problems(world);
        if found.contains(&"paused".to_owned()) {
            Err(LabError(format!("{found:?}")))
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
}

/// Everything that shows a group shows its pause.
async fn is_seen(world: &World, url: &str, finding: &str) {
    let plan = run(world, &["plan"], &[]);
    assert!(text(&plan).contains("paused since"), "{}", text(&plan));
    let status = run(world, &["status"], &[]);
    assert!(text(&status).contains("problem: paused since"), "{}", text(&status));
    assert!(status.status.code() != Some(0), "{}", text(&status));
    let all = shown(world, "status", &["status", "--json"]);
    assert_eq!(all[0]["pause"]["why"], "a drill", "{all:#}");
    assert_eq!(all[0]["pause"]["unaware"], Value::Array(Vec::new()));
    let (_, found) = crate::support::get(&format!("{url}/metrics"), None).await.unwrap();
    let line = "consul_redis_paused_since_seconds{group=\"redis\",ends=\"never\"} 1";
    assert!(found.contains(line), "{found}");
    let doctor = shown(world, "doctor", &["doctor", "redis", "--json"]);
    let findings = doctor[0]["findings"].as_array().unwrap().iter();
    let codes: Vec<&Value> = findings.map(|one| &one["code"]).collect();
    assert!(codes.contains(&&Value::from(finding)), "{doctor:#}");
    let waits = run(world, &["wait", "redis", "--replicas", "7", "--timeout", "1s"], &[]);
    assert!(text(&waits).contains("; paused since"), "{}", text(&waits));
}

#[tokio::test]
async fn a_paused_group_is_followed_and_told_nothing_until_it_is_resumed() {
    let spec = WorldSpec { down_after_ms: 3_000, since: Some("7.0"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let running = agents(&world, 2, &["--listen", "127.0.0.1:0"]);
    let url = http_address(&running[0]).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let (wanted, by_hand) = DOWN_AFTER;
    let (code, said) = paused(&world, &["config", "redis", &format!("down_after={wanted}ms")]);
    assert_eq!(code, Some(0), "{said}");
    until_all_have(&world, wanted).await;
    let (code, said) = paused(&world, &["pause", "redis", "--why", "a drill"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("redis: paused since ") && said.contains("(a drill)"), "{said}");
    assert!(said.contains("warning: it does not end by itself"), "{said}");
    assert!(!said.contains("knows no pause"), "{said}");
    until_logged(|| logs(&running), 10, "agents observe and publish, and change nothing else", 2)
        .await;
    for redis in &world.groups[0].redis {
        redis.ask(&["CONFIG", "RESETSTAT"]).await.unwrap();
    }
    // Unpaused, agents mend the first within seconds, and make the second a replica within one.
    let set = ["SENTINEL", "SET", "redis", "down-after-milliseconds", by_hand];
    world.sentinels[1].ask(&set).await.unwrap();
    let second = replaced(&mut world, &first).await;
    is_seen(&world, &url, "paused").await;
    // Sentinel does it by itself, at its own pace.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    let old = world.server(&first).unwrap();
    until("Sentinel has made it a replica", Duration::from_secs(60), || async {
        let follows = old.follows().await?.map(|at| at.to_string());
        if follows.as_deref() == Some(&second) {
            Ok(())
        } else {
            Err(LabError(format!("{follows:?}")))
        }
    })
    .await
    .unwrap();
    for redis in &world.groups[0].redis {
        assert_eq!(told(redis).await.unwrap(), Vec::<String>::new(), "{}", logs(&running));
    }
    assert_eq!(down_after(&world.sentinels[1]).await.unwrap(), by_hand, "{}", logs(&running));
    for line in ["holding writes", "a replica of the writer again"] {
        assert!(!logs(&running).contains(line), "{}", logs(&running));
    }

    let (code, said) = paused(&world, &["resume", "redis"]);
    assert_eq!((code, said.as_str()), (Some(0), "redis: not paused: agents do what is wanted\n"));
    until_logged(|| logs(&running), 10, "the pause is over", 2).await;
    until_not_paused(&world).await;
    let history = run(&world, &["history", "redis"], &[]);
    assert!(text(&history).contains("was paused from "), "{}", text(&history));
    // Duties again: what was set by hand is mended, and an old primary is made a replica by agents.
    until_all_have(&world, wanted).await;
    replaced(&mut world, &second).await;
    world.server_mut(&second).unwrap().restart().await.unwrap();
    let old = world.server(&second).unwrap();
    until("agents have told it to follow", Duration::from_secs(20), || async {
        let found = told(old).await?;
        if found.is_empty() { Err(LabError::new("it was told nothing")) } else { Ok(()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
}

#[tokio::test]
async fn a_pause_ends_by_itself_and_what_is_wrong_is_said() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let running = agents(&world, 1, &["--listen", "127.0.0.1:0"]);
    let url = http_address(&running[0]).await;
    until_writer(&world, "redis", 20, None).await;
    for (args, code, words) in [
        (&["pause", "nosuch"][..], 1, "Consul knows no group `nosuch`"),
        (&["pause", "redis", "--for", "0s"], 64, "is no length of time"),
        (&["pause", "redis", "--for", "soon"], 64, "--for"),
        (&["pause", "redis", "--all"], 64, "--all"),
        (&["resume", "nosuch"], 1, "Consul knows no group `nosuch`"),
    ] {
        let (found, said) = paused(&world, args);
        assert_eq!(found, Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let (code, said) = paused(&world, &["resume"]);
    assert_eq!((code, said.as_str()), (Some(0), "redis: not paused: agents do what is wanted\n"));
    let begun = Instant::now();
    let (code, said) = paused(&world, &["pause", "--all", "--for", "6s"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(", until 2") && !said.contains("warning"), "{said}");
    let since = "consul_redis_paused_since_seconds{group=\"redis\",ends=\"by-itself\"}";
    until("the metric", Duration::from_secs(5), || async {
        let (_, all) = crate::support::get(&format!("{url}/metrics"), None).await?;
        if all.contains(since) { Ok(()) } else { Err(LabError(all)) }
    })
    .await
    .unwrap();
    until_logged(|| logs(&running), 20, "the pause is over", 1).await;
    assert!(begun.elapsed() >= Duration::from_secs(6), "{:?}", begun.elapsed());
    until_not_paused(&world).await;
    // A key that cannot be read is a pause that was wanted, until `resume` writes it anew.
    let key = "redis-ha/redis/pause";
    let path = format!("/v1/kv/{key}");
    world.consul.client().unwrap().put(&path, &[], Some(&serde_json::json!("{"))).await.unwrap();
    until_logged(|| logs(&running), 20, "the key pause cannot be read", 1).await;
    let (code, said) = paused(&world, &["resume"]);
    assert_eq!(code, Some(0), "{said}");
    until_logged(|| logs(&running), 20, "the pause is over", 2).await;
}

#[tokio::test]
async fn a_paused_cluster_is_followed_and_its_nodes_are_told_nothing() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let path = world.dir().join("agent.toml");
    let seed = &cluster.nodes[5].address;
    std::fs::write(&path, format!("[[cluster]]\nname = \"orders\"\nseeds = [\"{seed}\"]\n"))
        .unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let running = [agent(&world, "agent-0", &args, &[("CONSUL_REDIS_SENTINELS", "")])];
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
    // A death would be hastened by now.
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 1_000)).await;
    until_calm(&world).await;
    let (code, said) = paused(&world, &["pause", "orders", "--for", "1h"]);
    assert_eq!(code, Some(0), "{said}");
    until_logged(|| logs(&running), 10, "agents observe and publish", 1).await;
    cluster.nodes[0].kill();
    let next = cluster.nodes[3].address.to_string();
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.contains(&next)).await;
    assert!(!logs(&running).contains("is told:"), "{}", logs(&running));
    let status = run(&world, &["status", "orders"], &[]);
    assert!(text(&status).contains("problem: paused since"), "{}", text(&status));
    let (code, said) = paused(&world, &["resume", "orders"]);
    assert_eq!(code, Some(0), "{said}");
    until_logged(|| logs(&running), 10, "the pause is over", 1).await;
    tokio::time::sleep(CALM).await;
    let history = run(&world, &["history", "orders"], &[]);
    assert!(text(&history).contains("was paused from "), "{}", text(&history));
}
