//! `doctor` on real servers: none of its findings where all is well, and each fault as an operator makes it.

use std::collections::BTreeSet;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};

use crate::support::{agents, off_schema, run, text, until_in_sync, until_writer, world};

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

/// What `doctor --json` says: its exit code, and the findings.
fn doctor(world: &World, env: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let dns = world.consul.dns.to_string();
    let output = run(world, &["doctor", "redis", "--json", "--dns", &dns], env);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    assert_eq!(off_schema("doctor", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!(said[0]["group"], "redis");
    (output.status.code(), said[0]["findings"].as_array().unwrap().clone())
}

fn codes(findings: &[Value]) -> BTreeSet<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// Waits until the findings are exactly of these kinds.
async fn until_found(world: &World, env: &[(&str, &str)], wanted: &[&str]) -> Vec<Value> {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    until(&format!("doctor finds {wanted:?}"), Duration::from_secs(30), || async {
        let (code, findings) = doctor(world, env);
        let error = findings.iter().any(|finding| finding["severity"] == "error");
        assert_eq!(code, Some(if error { 2 } else { 0 }), "{findings:#?}");
        if codes(&findings) == wanted {
            Ok(findings)
        } else {
            Err(LabError(format!("{findings:#?}")))
        }
    })
    .await
    .unwrap()
}

async fn set(servers: &[LabServer], name: &str, value: &str) {
    for server in servers {
        server.ask(&["CONFIG", "SET", name, value]).await.unwrap();
    }
}

async fn tell(sentinels: &[LabServer], option: &str, value: &str) {
    for sentinel in sentinels {
        sentinel.ask(&["SENTINEL", "SET", "redis", option, value]).await.unwrap();
    }
}

/// A world in which all is well: saved to disk, and held to one replica.
async fn well(spec: WorldSpec) -> (World, Vec<Process>, String) {
    let world = world(spec).await;
    set(&world.groups[0].redis, "save", "3600 1").await;
    set(&world.groups[0].redis, "min-replicas-to-write", "1").await;
    let running = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let kept = run(&world, &["config", "redis", "reboot_down_after=3s"], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    (world, running, writer)
}

async fn register(consul: &ConsulServer, body: &Value) {
    let client = consul.client().unwrap();
    client.put("/v1/agent/service/register", &[], Some(body)).await.unwrap();
}

#[tokio::test]
async fn where_all_is_well_it_finds_nothing() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    until_found(&world, &[], &[]).await;
    let dns = world.consul.dns.to_string();
    let output = run(&world, &["doctor", "--dns", &dns], &[]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "redis: no findings\n"));
    let unknown = run(&world, &["doctor", "cache"], &[]);
    assert_eq!(unknown.status.code(), Some(64), "{}", text(&unknown));
    // Consul without what consul/consul-agent.hcl says.
    std::fs::write(world.dir().join("consul/consul-agent.hcl"), "").unwrap();
    world.consul.restart().await.unwrap();
    let findings = until_found(&world, &[], &["max-stale"]).await;
    assert_eq!(findings[0]["evidence"][0]["read"], "dns_config: allow_stale, max_stale 87600 h");
    let dns = world.consul.dns.to_string();
    let output = run(&world, &["doctor", "--dns", &dns], &[]);
    let said = text(&output);
    assert!(said.starts_with("redis: 1 warning\n  warning max-stale: "), "{said}");
    assert!(said.contains("\n    do: set dns_config"), "{said}");
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
}

#[tokio::test]
async fn what_is_wrong_with_redis_is_found() {
    let (world, _agents, writer) = well(WorldSpec::default()).await;
    let redis = &world.groups[0].redis;
    let replicas: Vec<&LabServer> =
        redis.iter().filter(|server| server.address.to_string() != writer).collect();
    replicas[0].ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    until_found(&world, &[], &["priority-zero"]).await;
    replicas[1].ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    let findings = until_found(&world, &[], &["nobody-eligible"]).await;
    let mend = findings[0]["mend"].as_str().unwrap();
    assert!(mend.contains("CONFIG SET replica-priority 100; redis-cli"), "{mend}");
    set(redis, "replica-priority", "100").await;
    replicas[0].ask(&["CONFIG", "SET", "save", ""]).await.unwrap();
    replicas[1].ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    set(redis, "min-replicas-to-write", "5").await;
    let wanted = ["persistence-off", "maxmemory-policy-differs", "min-replicas-unmet"];
    let findings = until_found(&world, &[], &wanted).await;
    assert_eq!(findings[0]["code"], "min-replicas-unmet", "the worst comes first");
    assert_eq!(findings[0]["evidence"][0]["from"], *writer);
}

#[tokio::test]
async fn what_is_wrong_with_sentinels_is_found() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    tell(&world.sentinels[..1], "down-after-milliseconds", "3000").await;
    until_found(&world, &[], &["down-after-differs"]).await;
    tell(&world.sentinels, "down-after-milliseconds", "1500").await;
    tell(&world.sentinels, "quorum", "4").await;
    until_found(&world, &[], &["quorum-too-high"]).await;
    tell(&world.sentinels, "quorum", "2").await;
    let fourth = world.start_sentinel("sentinel-3", true).await.unwrap();
    world.sentinels.push(fourth);
    world.settle().await.unwrap();
    until_found(&world, &[], &["sentinels-even"]).await;
    // After down-after, no Sentinel hears one that is gone; a replica too.
    world.sentinels[3].kill();
    until_found(&world, &[], &["sentinels-even", "sentinel-down"]).await;
    world.groups[0].redis[2].kill();
    let wanted = ["sentinels-even", "sentinel-down", "ghost-replica", "min-replicas-no-spare"];
    set(&world.groups[0].redis[..2], "min-replicas-to-write", "0").await;
    let wanted = [&wanted[..3], &["min-replicas-off"]].concat();
    until_found(&world, &[], &wanted).await;
}

#[tokio::test]
async fn another_program_under_the_same_name_is_found() {
    let (world, _agents, writer) = well(WorldSpec::default()).await;
    let theirs =
        json!({"Name": "redis-primary", "ID": "theirs", "Address": "10.9.9.9", "Port": 6379});
    register(&world.consul, &theirs).await;
    let findings = until_found(&world, &[], &["foreign-row", "dns-wrong"]).await;
    assert_eq!(findings[0]["mend"], "consul services deregister -id=theirs, on that node");
    let published = &findings[1]["evidence"][1];
    assert_eq!(
        (&published["from"], &published["read"]),
        (&json!("key redis-ha/redis/state"), &json!(writer))
    );
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let (world, _agents, _) = well(spec).await;
    // DNS asks without a token, and this Consul is of 2020.
    let always = ["consul-txn-acl", "dns-token"];
    until_found(&world, &[], &always).await;
    let policy = "key_prefix \"redis-ha/\" { policy = \"write\" }\nnode_prefix \"\" { policy = \"write\" }\n\
                  service_prefix \"redis\" { policy = \"write\" }\nservice \"redis-replica\" { policy = \"read\" }\n\
                  agent_prefix \"\" { policy = \"read\" }\n";
    let token = world.consul.token("little", policy).await.unwrap();
    let env = [("CONSUL_HTTP_TOKEN", token.as_str())];
    let wanted = [&always[..], &["acl-right", "acl-session"]].concat();
    let findings = until_found(&world, &env, &wanted).await;
    let missing = findings.iter().find(|finding| finding["code"] == "acl-right").unwrap();
    let rule = "service \"redis-replica\" { policy = \"write\" }";
    assert_eq!(missing["mend"], format!("add to its policy: {rule}"));
}
