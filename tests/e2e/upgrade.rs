//! An agent of this version on what older agents have left in Consul, and on what a newer one has.

use std::collections::BTreeSet;
use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    agent, base64, history, record, run, text, until_in_sync, until_named, until_record,
    until_writer, world,
};

/// The generation of the forms.
const GENERATION: u64 = 7;

/// Every form with a writer that its Sentinels know, newest first, with the addresses and the history of a real group.
fn forms(world: &World, published: &Record) -> Vec<(String, Value)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/forms");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let writer = published.last_writer.as_ref().unwrap();
    let others = published.instances.iter().map(|i| &i.address).filter(|a| **a != writer.address);
    let read = |path: std::path::PathBuf| {
        let mut form =
            std::fs::read_to_string(&path).unwrap().replace(&"b".repeat(40), &writer.replid.0);
        let redis = std::iter::once(&writer.address).chain(others.clone());
        for (index, address) in redis.enumerate() {
            form = form.replace(&format!("10.0.0.{}:6379", index + 1), &address.to_string());
        }
        for (index, sentinel) in world.sentinels.iter().enumerate() {
            let named = format!("10.0.0.{}:26379", index + 1);
            form = form.replace(&named, &sentinel.address.to_string());
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str::<Value>(&form).unwrap())
    };
    let forms = files.into_iter().rev().map(read);
    forms.filter(|(_, form)| form["state"]["writer"].is_object()).collect()
}

/// Puts the keys of a form in the place of all that are there.
async fn put(world: &World, form: &Value) {
    let key = |name: &str| format!("redis-ha/redis/{name}");
    let mut ops = Vec::new();
    for name in ["state", "history", "config", "maintenance"] {
        ops.push(match form.get(name) {
            Some(value) => json!({"KV": {"Verb": "set", "Key": key(name),
                                         "Value": base64(&value.to_string())}}),
            None => json!({"KV": {"Verb": "delete", "Key": key(name)}}),
        });
    }
    world.consul.client().unwrap().put("/v1/txn", &[], Some(&json!(ops))).await.unwrap();
}

/// Asks DNS for the name all the time, until it is stopped: every answer that there was.
fn read_all_the_time(world: &World) -> (CancellationToken, JoinHandle<BTreeSet<String>>) {
    let (stop, names) = (CancellationToken::new(), world.consul.names().unwrap());
    let stopped = stop.clone();
    let reader = tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        while !stopped.is_cancelled() {
            if let Ok(found) = names.a("redis-primary.service.consul").await {
                seen.insert(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen
    });
    (stop, reader)
}

/// Waits until the rows are those of this generation.
async fn until_shown(world: &World, generation: u64) {
    let client = world.consul.client().unwrap();
    until("the rows of the generation", Duration::from_secs(20), || async {
        let path = "/v1/health/checks/redis-primary";
        let checks: Value = client.get(path, &[]).await.map_err(LabError::new)?.value;
        let output = checks[0]["Output"].as_str().unwrap_or_default();
        if output.starts_with(&format!("generation {generation}: ")) {
            Ok(())
        } else {
            Err(LabError(output.to_owned()))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_takes_over_from_every_older_form_without_moving_the_name() {
    let mut world = world(WorldSpec::default()).await;
    let before = agent(&world, "before", &[], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    let published = until_in_sync(&world, "redis", 2).await;
    drop(before);
    let (stop, reader) = read_all_the_time(&world);
    let mut last = None;
    for (name, form) in forms(&world, &published) {
        // No other agent is there that could take it over.
        drop(last.take());
        put(&world, &form).await;
        let agent = agent(&world, &name, &[], &[]);
        until_shown(&world, GENERATION).await;
        let taken = record(&world, "redis").await.unwrap();
        assert_eq!(taken.generation, GENERATION, "{name}: {}", agent.log());
        assert_eq!(taken.writer, published.writer, "{name}");
        // What it knew is still there.
        let state = &form["state"];
        assert_eq!(
            taken.reset.map(|reset| reset.number),
            state["reset"]["number"].as_u64(),
            "{name}"
        );
        let kept = world.consul.key("redis-ha/redis/maintenance").await.unwrap();
        assert_eq!(kept, form.get("maintenance").map(ToString::to_string), "{name}");
        assert_eq!(history(&world).await.unwrap().len(), 2, "{name}");
        last = Some((name, agent));
    }
    stop.cancel();
    let host = writer.split(':').next().unwrap().to_owned();
    assert_eq!(reader.await.unwrap(), BTreeSet::from([host]), "the name never moved");
    // The oldest form comes last. It goes on from there.
    let (name, agent) = last.unwrap();
    assert_eq!(name, "1-first");
    world.server_mut(&writer).unwrap().kill();
    let next = until_writer(&world, "redis", 20, Some(&writer)).await;
    let now = record(&world, "redis").await.unwrap();
    assert!(now.generation > GENERATION, "{}: {}", now.generation, agent.log());
    let replid = published.last_writer.unwrap().replid;
    assert!(now.lineage.contains(&replid), "{:?} lacks {replid:?}", now.lineage);
    let changes: Vec<u64> =
        history(&world).await.unwrap().iter().map(|change| change.generation).collect();
    assert!(changes.is_sorted_by(|newer, older| newer > older), "{changes:?}");
    assert!(changes.ends_with(&[GENERATION, GENERATION - 1]), "{changes:?}");
    until_named(&world, "redis-primary", &[next]).await;
    world.server_mut(&writer).unwrap().restart().await.unwrap();
    until_record(&world, "redis", 40, "it is back", |r| r.replicas().count() == 2).await;
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_left_alone() {
    let mut world = world(WorldSpec::default()).await;
    let before = agent(&world, "before", &[], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    drop(before);
    let state = world.consul.key("redis-ha/redis/state").await.unwrap().unwrap();
    let newer = state.replacen("{\"v\":1,", "{\"v\":2,\"quorum_of\":[\"dc1\",\"dc2\"],", 1);
    assert_ne!(newer, state);
    put(&world, &json!({"state": serde_json::from_str::<Value>(&newer).unwrap()})).await;
    let newer = world.consul.key("redis-ha/redis/state").await.unwrap();
    let agent = agent(&world, "older", &[], &[]);
    let told = "written by a newer consul-redis (format 2, this build knows 1): upgrade this one";
    until("it says so", Duration::from_secs(20), || async {
        let log = agent.log();
        if log.contains(told) { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
    let status = run(&world, &["status"], &[]);
    assert_eq!(status.status.code(), Some(2), "{}", text(&status));
    assert!(text(&status).contains(told), "{}", text(&status));
    // Not even a failover makes it write.
    world.server_mut(&writer).unwrap().kill();
    until("another primary", Duration::from_secs(20), || async {
        for server in world.groups[0].redis.iter().filter(|s| s.address.to_string() != writer) {
            if server.probe().await.is_ok_and(|answer| answer.is_primary()) {
                return Ok(());
            }
        }
        Err(agent.log())
    })
    .await
    .unwrap();
    let looked = run(&world, &["plan"], &[]);
    assert!(text(&looked).contains(told), "{}", text(&looked));
    assert_eq!(world.consul.key("redis-ha/redis/state").await.unwrap(), newer);
    let named = world.consul.passing("redis-primary").await.unwrap();
    assert_eq!(
        named,
        std::slice::from_ref(&writer),
        "the last one that the newer version published"
    );
    // It was able to: with the record as this version writes it, the failover is published.
    put(&world, &json!({"state": serde_json::from_str::<Value>(&state).unwrap()})).await;
    until_writer(&world, "redis", 20, Some(&writer)).await;
}
