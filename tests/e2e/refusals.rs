//! Servers that do not let an agent in, or refuse what it or a client wants: said within seconds, with the cause.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use consul_redis::redis_link::{fields, list};
use nix::sys::signal::Signal;
use tokio::io::AsyncBufReadExt as _;

use crate::support::{
    agent, agents, get, http_address, logs, must_follow_a_failover, run, text, until_in_sync,
    until_logged, until_metric, until_named, until_writer, world, writers,
};
use crate::writers::none_lost;

async fn until_said(agent: &Process, what: &str) {
    until_logged(|| agent.log(), 30, what, 1).await;
}

/// Waits until `/status.json` has this, or has it not.
async fn until_status(url: &str, what: &str, has: bool) {
    until(what, Duration::from_secs(40), || async {
        let (_, status) = get(&format!("{url}/status.json"), None).await?;
        if status.contains(what) == has { Ok(()) } else { Err(LabError(status)) }
    })
    .await
    .unwrap();
}

async fn ready(url: &str) -> u16 {
    get(&format!("{url}/readyz"), None).await.unwrap().0
}

/// The user of the agents is on two of three instances: Redis does not replicate users.
#[tokio::test]
async fn an_instance_that_does_not_let_the_agent_in_is_said_before_and_while_it_leads() {
    let spec = WorldSpec { redis_password: Some("theirs".to_owned()), ..WorldSpec::default() };
    let world = world(spec).await;
    let user = ["ACL", "SETUSER", "ours", "on", ">secret", "~*", "+@all"];
    for redis in &world.groups[0].redis[..2] {
        redis.ask(&user).await.unwrap();
    }
    let env = [("CONSUL_REDIS_USERNAME", "ours"), ("CONSUL_REDIS_PASSWORD", "secret")];
    let running = agent(&world, "agent-0", &["--listen", "127.0.0.1:0"], &env);
    let url = http_address(&running).await;
    let writer = until_writer(&world, "redis", 20, None).await;
    let stranger = world.groups[0].redis[2].address.to_string();
    let said = format!("{stranger} does not let this agent in: login refused: WRONGPASS");
    until_said(&running, &said).await;
    assert!(
        running.log().contains("(user ours, password from the environment)"),
        "{}",
        running.log()
    );
    until_status(&url, "\"instance-refuses\"", true).await;
    assert_eq!(ready(&url).await, 503);
    // It is promoted all the same.
    let other = world.groups[0].redis[1].address.to_string();
    let other = world.server(&other).unwrap();
    other.ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    world.hurry().await;
    let sentinel = &world.sentinels[0];
    until("Sentinel knows the priority", Duration::from_secs(20), || async {
        let answer = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
        let rows = list(&answer).map_err(LabError)?;
        let zero = |row| fields(row).is_ok_and(|row| row["slave-priority"] == "0");
        if rows.iter().any(zero) { Ok(()) } else { Err(LabError::new("not yet")) }
    })
    .await
    .unwrap();
    sentinel.fail_over("redis").await.unwrap();
    until_status(&url, &format!("a majority of the Sentinels names {stranger}, and {said}"), true)
        .await;
    world.server(&stranger).unwrap().ask(&user).await.unwrap();
    until_writer(&world, "redis", 20, Some(&writer)).await;
    until_status(&url, "\"instance-refuses\"", false).await;
    assert_eq!(ready(&url).await, 200);
    let count = running.log().matches(&said).count();
    assert!(count <= 2, "said {count} times: {}", running.log());
}

#[tokio::test]
async fn a_consul_token_that_is_revoked_is_said_with_its_file() {
    const MASTER: &str = "11111111-2222-3333-4444-555555555555";
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let file = world.dir().join("token");
    std::fs::write(&file, MASTER).unwrap();
    let token = [("CONSUL_HTTP_TOKEN", ""), ("CONSUL_HTTP_TOKEN_FILE", file.to_str().unwrap())];
    let running = agent(&world, "agent-0", &["--listen", "127.0.0.1:0"], &token);
    let url = http_address(&running).await;
    until_writer(&world, "redis", 20, None).await;
    std::fs::write(&file, "99999999-2222-3333-4444-555555555555").unwrap();
    until_said(&running, &format!("(token in {})", file.display())).await;
    until_status(&url, "\"consul-refuses\"", true).await;
    assert_eq!(ready(&url).await, 503);
    std::fs::write(&file, MASTER).unwrap();
    until_status(&url, "\"consul-refuses\"", false).await;
    assert_eq!(ready(&url).await, 200);
    // A Consul that does not answer is no less of one.
    world.consul.signal(Signal::SIGSTOP).unwrap();
    until_status(&url, "\"consul-silent\"", true).await;
    assert_eq!(ready(&url).await, 503);
    let problem = "consul_redis_problem{group=\"redis\",code=\"consul-silent\"}";
    until_metric(&url, &format!("{problem} 1.0")).await;
    world.consul.signal(Signal::SIGCONT).unwrap();
    until_status(&url, "\"consul-silent\"", false).await;
    until_metric(&url, &format!("{problem} 0.0")).await;
    assert_eq!(ready(&url).await, 200);
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn a_writer_that_refuses_every_write_is_said_with_the_cause() {
    let spec = WorldSpec {
        redis: 2,
        redis_lines: "min-replicas-to-write 1\nmin-replicas-max-lag 1\n",
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let running = agent(&world, "agent-0", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    world.groups[0].redis[1].kill();
    until_said(&running, &format!("the writer {writer} refuses writes: NOREPLICAS")).await;
    until_status(&url, "\"writes-refused\"", true).await;
    let redis = world.server(&writer).unwrap();
    let refused = redis.ask(&["SET", "a", "b"]).await.unwrap_err().to_string();
    assert!(refused.contains("NOREPLICAS"), "{refused}");
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await.unwrap();
    until_status(&url, "\"writes-refused\"", false).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "100kb"]).await.unwrap();
    until_said(&running, &format!("the writer {writer} refuses writes: OOM")).await;
    // The name stays: there is no other that could take its place.
    until_named(&world, "redis-primary", &[writer]).await;
}

/// INFO says how many replicas keep up, and not how many are asked for.
#[tokio::test]
async fn a_writer_that_asks_for_more_replicas_than_are_left_is_said() {
    let redis_lines = "min-replicas-to-write 2\nmin-replicas-max-lag 1\n";
    let world = &mut world(WorldSpec { redis_lines, ..WorldSpec::default() }).await;
    let running = agent(world, "agent-0", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let writer = until_writer(world, "redis", 20, None).await;
    let record = until_in_sync(world, "redis", 2).await;
    until_status(&url, "\"writes-refused\"", false).await;
    let replica = record.replicas().next().unwrap().to_string();
    world.server_mut(&replica).unwrap().kill();
    until_said(&running, &format!("the writer {writer} refuses writes: NOREPLICAS")).await;
    until_status(&url, "\"writes-refused\"", true).await;
    let refused = world.server(&writer).unwrap().ask(&["SET", "a", "b"]).await.unwrap_err();
    assert!(refused.to_string().contains("NOREPLICAS"), "{refused}");
    world.server_mut(&replica).unwrap().restart().await.unwrap();
    until_status(&url, "\"writes-refused\"", false).await;
    must_follow_a_failover(world).await;
}

#[tokio::test]
async fn a_move_that_lacks_a_right_does_not_begin_and_one_begins_at_a_time() {
    let world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let all = agents(&world, 1, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    for redis in &world.groups[0].redis {
        let user = ["ACL", "SETUSER", "mover", "on", ">secret", "+@all", "-client|pause", "~*"];
        redis.ask(&user).await.unwrap();
    }
    let env = [("CONSUL_REDIS_USERNAME", "mover"), ("CONSUL_REDIS_PASSWORD", "secret")];
    let switchover = ["switchover", "redis", "--yes"];
    let refused = run(&world, &switchover, &env);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let said = format!("NO  rights     {old} refuses CLIENT PAUSE: NOPERM");
    assert!(text(&refused).contains(&said), "{}", text(&refused));
    assert!(!text(&refused).contains("paused"), "{}", text(&refused));
    // Another one is under way, or has died.
    let since = |seconds: i64| {
        let now = consul_redis::clock::Clock::start().now().wall;
        (now - jiff::SignedDuration::from_secs(seconds)).to_string()
    };
    let consul = world.consul.client().unwrap();
    put(&consul, &since(3)).await;
    let second = run(&world, &switchover, &[]);
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    assert!(text(&second).contains("another move is under way since"), "{}", text(&second));
    put(&consul, &since(600)).await;
    let moved = run(&world, &switchover, &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&all));
    assert_eq!(world.consul.key("redis-ha/redis/move").await.unwrap(), None);
}

async fn put(consul: &consul_redis::consul::client::Consul, value: &str) {
    let op = consul_redis::core::published::projection::Op::KeySet {
        key: "redis-ha/redis/move".to_owned(),
        value: value.to_owned(),
    };
    consul.txn(&[op], "").await;
}

/// No agent publishes for longer than one pause lasts: the old primary takes nothing meanwhile.
#[tokio::test]
async fn a_move_that_takes_long_holds_writes_until_the_old_primary_follows() {
    let world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let all = agents(&world, 1, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let writers = writers(&world);
    writers.until_more(200).await;
    let mut moving = tokio::process::Command::new(crate::support::program())
        .args(["switchover", "redis", "--yes"])
        .envs(world.agent_env())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(moving.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push(line);
        if said.iter().any(|line| line.contains(" paused ")) {
            break;
        }
    }
    all[0].signal(Signal::SIGSTOP).unwrap();
    // Longer than one pause.
    tokio::time::sleep(Duration::from_secs(8)).await;
    all[0].signal(Signal::SIGCONT).unwrap();
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push(line);
    }
    let ended = moving.wait().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{said:#?}{}", logs(&all));
    let new = until_writer(&world, "redis", 10, Some(&old)).await;
    writers.until_more(200).await;
    none_lost(&writers.stop(), &old, &new).await;
}
