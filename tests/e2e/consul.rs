//! Consul that is away, restarted, wiped, or says no.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use tokio::time::Instant;

use crate::hammer::Hammer;
use crate::support::{
    agent, agents, get, http_address, logs, must_follow_a_failover, on_one_and_three_servers,
    program, record, run, text, until_in_sync, until_named, until_record, until_writer, world,
};

on_one_and_three_servers!(
    our_policies_are_enough_where_consul_denies_by_default,
    a_token_that_is_wrong_or_too_weak_is_a_clear_error,
    without_sessions_the_agent_works_and_says_that_it_does_not_show,
);

#[tokio::test]
async fn a_failover_while_consul_is_away_is_published_when_it_is_back() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 3, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    until_all_say(&agents, ", generation 1,").await;
    world.consul.kill();
    world.server_mut(&first).unwrap().kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.consul.restart().await.unwrap();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    until_named(&world, "redis-primary", &[second]).await;
    assert!(record(&world, "redis").await.unwrap().generation > before.generation);
    until("all say so", Duration::from_secs(10), || async {
        let log = logs(&agents);
        let away = log.matches("trying again, and what is published stays as it is").count();
        let back = log.matches("redis: Consul at ").count();
        let again = log.matches(" answers again").count();
        if away >= 3 && back >= 3 && again >= 3 { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_restart_of_consul_changes_nothing() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    until_all_say(&agents, ", generation 1,").await;
    let hammer = Hammer::start(&world);
    world.consul.restart().await.unwrap();
    until_all_say(&agents, " answers again").await;
    let after = record(&world, "redis").await.unwrap();
    assert_eq!((after.generation, after.writer), (before.generation, before.writer));
    hammer.until_enough().await;
    hammer.stop().await.never_another_than(&writer);
    must_follow_a_failover(&mut world).await;
}

/// Waits until every agent has said this.
async fn until_all_say(agents: &[Process], said: &str) {
    until("all say so", Duration::from_secs(20), || async {
        let all = agents.iter().all(|agent| agent.log().contains(said));
        if all { Ok(()) } else { Err(logs(agents)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_wiped_consul_is_filled_again_above_the_last_generation() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_all_say(&agents, ", generation 1,").await;
    world.consul.wipe().unwrap();
    world.consul.restart().await.unwrap();
    let again = until_record(&world, "redis", 40, "published again", |r| r.writer.is_some()).await;
    assert_eq!(again.generation, 2, "one above what the agents remember");
    until_named(&world, "redis-primary", &[writer]).await;
    until_in_sync(&world, "redis", 2).await;
}

#[tokio::test]
async fn rows_and_keys_that_another_program_changes_are_put_back() {
    let world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let client = world.consul.client().unwrap();
    let body = serde_json::json!([
        {"KV": {"Verb": "set", "Key": "redis-ha/redis/primary", "Value": "bGllcw=="}},
        {"Service": {"Verb": "delete", "Node": "redis-ha-redis",
                     "Service": {"ID": "redis-primary", "Service": "redis-primary"}}},
    ]);
    client.put("/v1/txn", &[], Some(&body)).await.unwrap();
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    until("the key is put back", Duration::from_secs(15), || async {
        let key = world.consul.key("redis-ha/redis/primary").await.unwrap().unwrap_or_default();
        if key == writer { Ok(()) } else { Err(key) }
    })
    .await
    .unwrap();
}

fn policy(name: &str) -> String {
    let path = format!("{}/consul/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the policy")
}

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

async fn our_policies_are_enough_where_consul_denies_by_default(consul_servers: u8) {
    let spec =
        WorldSpec { master_token: Some(MASTER.to_owned()), consul_servers, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let writes = world.consul.token("agent", &policy("agent-policy.hcl")).await.unwrap();
    let reads = world.consul.token("reader", &policy("reader-policy.hcl")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, &writes).unwrap();
    let token = [("CONSUL_HTTP_TOKEN", ""), ("CONSUL_HTTP_TOKEN_FILE", file.to_str().unwrap())];
    let agent = agent(&world, "agent-0", &[], &token);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_passing(&world, "redis-sentinel", 3).await;
    all_is_well(&world, &writes).await;
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    // Once all rows are what they should be: with what it may see, the agent sees all of them.
    until("all is well, with this token", Duration::from_secs(20), || async {
        let status = run(&world, &["status"], &[("CONSUL_HTTP_TOKEN", &writes)]);
        let text = text(&status);
        if text.contains(" rows or keys ") { Err(text) } else { Ok(()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
    assert!(!agent.log().contains("enied"), "{}", agent.log());
    assert!(
        !agent.log().contains("put back"),
        "no other program changes anything: {}",
        agent.log()
    );
    // A reader reads, and no more.
    let status = run(&world, &["status"], &[("CONSUL_HTTP_TOKEN", &reads)]);
    assert!(text(&status).contains("watched by: agent-0"), "{}", text(&status));
    let history = run(&world, &["history", "redis"], &[("CONSUL_HTTP_TOKEN", &reads)]);
    assert_eq!(history.status.code(), Some(0), "{}", text(&history));
    // Without a token Consul shows an empty list, which is no answer.
    for args in [&["status"][..], &["history", "redis"], &["wait", "redis", "--timeout", "5s"]] {
        let blind = run(&world, args, &[("CONSUL_HTTP_TOKEN", "")]);
        let said = text(&blind);
        assert_eq!(blind.status.code(), Some(77), "{args:?}: {said}");
        assert!(said.contains("consul/reader-policy.hcl"), "{args:?}: {said}");
    }
    let retire = run(&world, &["retire", "redis", "--force"], &[("CONSUL_HTTP_TOKEN", &reads)]);
    assert_eq!(retire.status.code(), Some(77), "{}", text(&retire));
    let reader = world.consul.client_with(Some(&reads)).unwrap();
    let found: serde_json::Value =
        reader.get("/v1/health/service/redis-primary", &[]).await.unwrap().value;
    assert_eq!(found.as_array().map(Vec::len), Some(1));
}

/// Commands with the agent's own token see all that it has written, and nothing wrong with it.
async fn all_is_well(world: &consul_redis::lab::world::World, token: &str) {
    let token = [("CONSUL_HTTP_TOKEN", token)];
    let healthy = || async {
        let status = run(world, &["status", "--dns-check=false"], &token);
        if status.status.code() == Some(0) { Ok(()) } else { Err(LabError(text(&status))) }
    };
    until("status is well", Duration::from_secs(10), healthy).await.unwrap();
    // And goes on seeing it.
    for _ in 0..5 {
        healthy().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let doctor = run(world, &["doctor", "redis", "--json"], &token);
    let found: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let found = found[0]["findings"].as_array().unwrap();
    // DNS has no token here, this Consul is of 2020, the lab's Redis save nothing, one agent is enough, and so is Redis
    // 6.0.
    let expected =
        ["dns-token", "consul-txn-acl", "persistence-off", "one-agent", "sentinel-version"];
    let unexpected: Vec<_> = found
        .iter()
        .filter(|finding| finding["severity"] != "hint")
        .filter(|finding| !expected.contains(&finding["code"].as_str().unwrap()))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

async fn until_passing(world: &consul_redis::lab::world::World, service: &str, count: usize) {
    until(service, Duration::from_secs(15), || async {
        let found = world.consul.passing(service).await.unwrap();
        if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

async fn a_token_that_is_wrong_or_too_weak_is_a_clear_error(consul_servers: u8) {
    let spec = WorldSpec {
        redis: 1,
        sentinels: 1,
        master_token: Some(MASTER.to_owned()),
        consul_servers,
        ..WorldSpec::default()
    };
    let world = world(spec).await;
    let unknown = run(&world, &["agent"], &[("CONSUL_HTTP_TOKEN", "no-such-token")]);
    assert_eq!(unknown.status.code(), Some(77));
    assert_eq!(
        text(&unknown),
        "error: Consul denies GET /v1/kv/redis-ha/redis/: ACL not found\n\
         hint: Consul does not know this token: the one in CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or [consul] \
         token_file is mistyped, of another cluster, or was deleted\n"
    );
    let rules =
        policy("agent-policy.hcl").replace("service \"redis-primary\"", "service \"other\"");
    let weak = world.consul.token("weak", &rules).await.unwrap();
    let weak = run(&world, &["agent"], &[("CONSUL_HTTP_TOKEN", &weak)]);
    assert_eq!(weak.status.code(), Some(77));
    assert!(
        text(&weak).contains("Consul denies to write service redis-primary"),
        "{}",
        text(&weak)
    );
}

async fn without_sessions_the_agent_works_and_says_that_it_does_not_show(consul_servers: u8) {
    let spec =
        WorldSpec { master_token: Some(MASTER.to_owned()), consul_servers, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let rules =
        policy("agent-policy.hcl").replace("session_prefix \"\" { policy = \"write\" }", "");
    let token = world.consul.token("no-sessions", &rules).await.unwrap();
    let agent = agent(&world, "agent-0", &[], &[("CONSUL_HTTP_TOKEN", &token)]);
    until_writer(&world, "redis", 20, None).await;
    until("it says so", Duration::from_secs(5), || async {
        let log = agent.log();
        if log.contains("this agent does not show in `status`") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
    until_in_sync(&world, "redis", 2).await;
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn a_token_that_is_revoked_is_said() {
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let world = world(spec).await;
    let token = world.consul.token("agent", &policy("agent-policy.hcl")).await.unwrap();
    let agent = agent(&world, "agent-0", &[], &[("CONSUL_HTTP_TOKEN", &token)]);
    until_writer(&world, "redis", 20, None).await;
    until("it shows", Duration::from_secs(10), || async {
        let key = world.consul.key("redis-ha/redis/agents/agent-0").await?;
        key.map(drop).ok_or_else(|| LabError(agent.log()))
    })
    .await
    .unwrap();
    let own = world.consul.client_with(Some(&token)).unwrap();
    let me: serde_json::Value = own.get("/v1/acl/token/self", &[]).await.unwrap().value;
    let path = format!("/v1/acl/token/{}", me["AccessorID"].as_str().unwrap());
    let client = world.consul.client().unwrap();
    let (method, timeout) = (reqwest::Method::DELETE, Duration::from_secs(5));
    client.call(method, &path, &[], None, timeout).await.unwrap().ok("DELETE").unwrap();
    until("it says so", Duration::from_secs(15), || async {
        let log = agent.log();
        let said = "this agent does not show in `status`: Consul denies PUT /v1/session/create";
        if log.contains(said) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
}

/// A token that may not register the Redis of this host.
#[tokio::test]
async fn what_cannot_be_registered_keeps_nothing_else_from_it() {
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let world = world(spec).await;
    let rules = policy("agent-policy.hcl").replace("service \"redis-server\"", "service \"other\"");
    let token = world.consul.token("agent", &rules).await.unwrap();
    let (redis, sentinel) = (&world.groups[0].redis[0].address, &world.sentinels[0].address);
    let config = world.dir().join("node.toml");
    let text =
        format!("[[redis]]\naddress = \"{redis}\"\n[[sentinel]]\naddress = \"{sentinel}\"\n");
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()];
    let agent = agent(&world, "agent-0", &args, &[("CONSUL_HTTP_TOKEN", &token)]);
    until("the Sentinel is registered", Duration::from_secs(20), || async {
        let client = world.consul.client()?;
        let found = client.get::<serde_json::Value>("/v1/agent/services", &[]).await;
        let found = found.map_err(LabError::new)?.value;
        match &found[format!("redis-sentinel:{sentinel}")] {
            serde_json::Value::Null => Err(LabError(format!("{found}\n{}", agent.log()))),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    let said = format!("trying again: redis-server:{redis}: Consul denies");
    until("and says what is not", Duration::from_secs(10), || async {
        if agent.log().contains(&said) { Ok(()) } else { Err(LabError(agent.log())) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_that_starts_before_consul_waits_for_it() {
    let mut world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    world.consul.kill();
    let mut agent = agent(&world, "agent-0", &[], &[]);
    let address = world.consul.http;
    until("it says that it tries again", Duration::from_secs(5), || async {
        let log = agent.log();
        let line = format!("Consul at http://{address} does not answer: ");
        // As every command says it, with what to look at.
        let hint =
            "; is Consul running there? set CONSUL_HTTP_ADDR or --http-addr; trying again in ";
        if log.contains(&line) && log.contains(hint) { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
    assert_eq!(agent.ended(), None);
    world.consul.restart().await.unwrap();
    until_writer(&world, "redis", 30, None).await;
    let status = std::process::Command::new(program())
        .arg("status")
        .env("CONSUL_HTTP_ADDR", "127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(69), "{}", text(&status));
}

/// As HAProxy does before a Consul, at a bound that is shorter than any wait of ours.
#[tokio::test]
async fn a_proxy_that_ends_long_polls_is_no_consul_that_is_away() {
    let mut world = world(WorldSpec::default()).await;
    let at = world.address();
    let port = consul_redis::lab::world::free_port(&[at]).unwrap();
    let config = world.dir().join("haproxy.cfg");
    let text = format!(
        "defaults\n mode http\n timeout connect 1s\n timeout client 60s\n timeout server 3s\n\
         frontend consul\n bind {at}:{port}\n default_backend consul\n\
         backend consul\n server consul {}\n",
        world.consul.http
    );
    std::fs::write(&config, text).unwrap();
    let args = ["-W", "-db", "-f", config.to_str().unwrap()].map(str::to_owned);
    let tool = consul_redis::lab::tools::haproxy().unwrap();
    let life = consul_redis::lab::process::Life::WithUs;
    let _proxy = Process::start("haproxy", &tool, &args, &[], world.dir(), life).unwrap();
    let consul = format!("{at}:{port}");
    let listens = || async { tokio::net::TcpStream::connect(&consul).await };
    until("HAProxy listens", Duration::from_secs(10), listens).await.unwrap();
    let env = [("CONSUL_HTTP_ADDR", consul.as_str())];
    let running = [agent(&world, "agent-0", &["--listen", "127.0.0.1:0"], &env)];
    let url = http_address(&running[0]).await;
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    // Five bounds long.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        let log = logs(&running);
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (_, metrics) = get(&format!("{url}/metrics"), None).await.unwrap();
    let errors =
        metrics.lines().filter(|line| line.starts_with("consul_redis_consul_errors_total"));
    let counted: Vec<&str> = errors.filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(counted, Vec::<&str>::new(), "{}", logs(&running));
    must_follow_a_failover(&mut world).await;
}
