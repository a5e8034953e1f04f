//! Rust programs that ask for the writer: the crate's own API, and the example that uses it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use consul_redis::client::{Error, Writer, Writers};
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::Tool;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::json;

use crate::support::{
    agent, agents, base64, program, record, until_in_sync, until_record, until_writer, world,
};

/// A change is reported within this long after it was published, on a machine that does much else.
const CHANGE_WITHIN: Duration = Duration::from_millis(500);

/// The example, built as it is now: not every way to run this test builds it.
fn example() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let dir = program().parent().unwrap();
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--offline", "--example", "writer"]);
    build.arg("--target-dir").arg(dir.parent().unwrap());
    build.args(dir.ends_with("release").then_some("--release"));
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    dir.join("examples/writer")
}

fn start(world: &World, name: &str, args: &[&str]) -> Process {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let tool = Tool::at(example());
    Process::start(name, &tool, &args, &world.agent_env(), world.dir(), Life::WithUs).unwrap()
}

async fn until_line(process: &Process, line: &str) {
    until(line, Duration::from_secs(20), || async {
        let log = process.log();
        if log.lines().last() == Some(line) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
}

fn by_keys(world: &World) -> Writers {
    Writers::builder().consul(&world.consul.http.to_string()).start().unwrap()
}

#[tokio::test]
async fn a_program_follows_the_writer_by_keys_and_by_dns() {
    let mut world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let by_keys = start(&world, "by-keys", &["redis"]);
    let server = world.consul.dns.to_string();
    let by_dns = start(&world, "by-dns", &["redis-primary.service.consul", &server]);
    until_line(&by_keys, &format!("writer {first}, generation 1")).await;
    until_line(&by_dns, &format!("writer {first}")).await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until_line(&by_keys, &format!("writer {second}, generation 3")).await;
    until_line(&by_dns, &format!("writer {second}")).await;
    let log = by_keys.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(lines[1].starts_with("no writer: ") && lines[1].contains(&first), "{log}");
    // DNS is asked every half second; that there was no writer may be over by then.
    let log = by_dns.log();
    assert!(log.lines().filter(|line| !line.starts_with("no writer: ")).count() == 2, "{log}");

    // The name of a group that does not exist is an error at once.
    let mut unknown = start(&world, "unknown", &["radis"]);
    assert_eq!(unknown.end(Duration::from_secs(5)).await.unwrap(), 1);
    assert!(unknown.log().contains("NothingPublished(\"radis\")"), "{}", unknown.log());
}

#[tokio::test]
async fn a_change_is_reported_at_once_and_no_writer_is_an_answer() {
    let mut world = world(WorldSpec { redis: 2, sentinels: 1, ..WorldSpec::default() }).await;
    let _agent = agent(&world, "agent", &[], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    let writers = by_keys(&world);
    let known = writers.writer().await.unwrap().unwrap();
    assert_eq!((known.to_string(), known.generation), (first.clone(), Some(1)));
    let since = record(&world, "redis").await.unwrap().since;
    assert_eq!(known.since, Some(since.into()));
    let mut changes = writers.watch();
    assert_eq!(changes.next().await, Some(known));

    // No instance is left to take its place.
    for server in &mut world.groups[0].redis {
        server.kill();
    }
    assert_eq!(changes.next().await, None);
    let took = std::time::SystemTime::from(consul_redis::clock::wall());
    let down = until_record(&world, "redis", 5, "no writer", |r| r.writer.is_none()).await;
    let took = took.duration_since(down.since.into()).unwrap();
    assert!(took < CHANGE_WITHIN, "{took:?}");
    assert_eq!(writers.writer().await, Ok(None));
    let waited = Duration::from_millis(200);
    let none = writers.wait_for_writer(waited).await.unwrap_err();
    assert_eq!(none, Error::NoWriter { waited, why: down.why });

    for server in &mut world.groups[0].redis {
        server.restart().await.unwrap();
    }
    let back = writers.wait_for_writer(Duration::from_secs(40)).await.unwrap();
    assert!(back.generation > Some(2), "{back:?}");
    assert_eq!(changes.next().await, Some(back));
}

/// Publishes as an agent would that has this record.
async fn publish(world: &World, record: &consul_redis::core::published::record::Record) {
    let value = base64(&consul_redis::core::published::record::encode(record));
    let set = json!([{"KV": {"Verb": "set", "Key": "redis-ha/redis/state", "Value": value}}]);
    world.consul.client().unwrap().put("/v1/txn", &[], Some(&set)).await.unwrap();
}

#[tokio::test]
async fn silence_and_lost_data_take_no_writer_away() {
    let mut world = world(WorldSpec { redis: 2, sentinels: 1, ..WorldSpec::default() }).await;
    let running = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let steady = until_in_sync(&world, "redis", 1).await;
    drop(running);
    let mut later = steady.clone();
    later.generation = 7;
    publish(&world, &later).await;
    let writers = by_keys(&world);
    let known = writers.writer().await.unwrap();
    assert_eq!(known.as_ref().and_then(|writer| writer.generation), Some(7));
    assert!(writers.seen().unwrap().age() < Duration::from_secs(2));

    let is = async |what: &str, wanted: fn(&Option<Error>) -> bool| {
        until(what, Duration::from_secs(20), || async {
            let seen = writers.seen().unwrap();
            if wanted(&seen.trouble) { Ok(()) } else { Err(LabError(format!("{seen:?}"))) }
        })
        .await
        .unwrap();
    };
    world.consul.kill();
    is("silent", |trouble| matches!(trouble, Some(Error::Silent(_)))).await;
    let aged = writers.seen().unwrap().age();
    assert_eq!(writers.writer().await.unwrap(), known);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(writers.seen().unwrap().age() >= aged + Duration::from_millis(300));
    // A client without an earlier answer gets the error that Consul does not answer.
    let late = by_keys(&world);
    let error = late.wait_for_writer(Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(&error, Error::Silent(text) if text.contains("does not answer")), "{error}");
    assert!(error.hint().is_some());

    world.consul.wipe().unwrap();
    world.consul.restart().await.unwrap();
    is("empty", |trouble| matches!(trouble, Some(Error::NothingPublished(_)))).await;
    assert_eq!(writers.writer().await.unwrap(), known);
    // What a consistent read shows is the truth, be it older.
    publish(&world, &steady).await;
    let again = |writer: &Option<Writer>| writer.as_ref().and_then(|writer| writer.generation);
    let mut changes = writers.watch();
    let mut last = changes.next().await;
    while again(&last) != Some(steady.generation) {
        let next = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
        last = next.expect("the older generation");
    }
    is("well", Option::is_none).await;
    assert!(late.wait_for_writer(Duration::from_secs(10)).await.is_ok());
}

#[tokio::test]
async fn a_client_that_may_not_read_gets_an_error() {
    let spec = WorldSpec {
        redis: 1,
        sentinels: 1,
        master_token: Some("11111111-2222-3333-4444-555555555555".to_owned()),
        ..WorldSpec::default()
    };
    let world = world(spec).await;
    let _agent = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let builder = || Writers::builder().consul(&world.consul.http.to_string());
    let unknown = builder().token("99999999-2222-3333-4444-555555555555").start().unwrap();
    let error = unknown.writer().await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    // Consul filters a list by rights; a single key says whether there is nothing, or nothing to be seen.
    let anonymous = builder().start().unwrap().writer().await.unwrap_err();
    assert!(matches!(anonymous, Error::Denied(_)), "{anonymous}");

    let rules = std::fs::read_to_string("consul/reader-policy.hcl").unwrap();
    let token = world.consul.token("reader", &rules).await.unwrap();
    let file = world.dir().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let reader = builder().token_file(&file).start().unwrap();
    assert!(reader.writer().await.unwrap().is_some());
}
