//! What scripts do with a group: `wait` for it, and read its `history`.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use consul_redis::lab::world::WorldSpec;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{agent, program, run, text, until_in_sync, until_writer, world};

#[tokio::test]
async fn a_script_waits_for_what_it_needs_and_reads_what_happened() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    // Nobody publishes anything yet.
    let nobody = run(&world, &["wait", "redis", "--timeout", "300ms"], &[]);
    assert_eq!(nobody.status.code(), Some(2), "{}", text(&nobody));
    assert_eq!(text(&nobody), "redis: not within 300 ms: nothing was ever published\n");
    let none = run(&world, &["history", "redis"], &[]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));

    let _agent = agent(&world, "agent", &[], &[]);
    let waiting = run(&world, &["wait", "redis"], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    assert_eq!((waiting.status.code(), text(&waiting)), (Some(0), format!("{first}\n")));
    until_in_sync(&world, "redis", 1).await;
    let replica = run(&world, &["wait", "redis", "--replicas", "1"], &[]);
    let other = world.groups[0].redis[1].address.to_string();
    assert_eq!((replica.status.code(), text(&replica)), (Some(0), format!("{other}\n")));
    let too_many = run(&world, &["wait", "redis", "--replicas", "2", "--timeout", "300ms"], &[]);
    assert_eq!(text(&too_many), "redis: not within 300 ms: 1 of 2 replicas are in sync\n");

    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    let history = text(&run(&world, &["history", "redis"], &[]));
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 4, "{history}");
    assert!(
        lines[1].starts_with('3') && lines[1].contains(&format!("none -> {other}")),
        "{history}"
    );
    assert!(lines[2].contains(&format!("{first} -> none")), "{history}");
    let json = run(&world, &["history", "redis", "--json"], &[]);
    let changes: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(changes[0]["to"], other.as_str(), "{changes}");
}

/// What the schemas in `docs/schemas` say of it; empty when it is as they say.
fn wrong(schema: &str, value: &Value) -> Vec<String> {
    let path = format!("{}/docs/schemas/{schema}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[tokio::test]
async fn status_is_watched_through_a_failover_as_the_schemas_say() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let mut watching = std::process::Command::new(program())
        .args(["status", "--watch", "200ms", "--json"])
        .envs(world.agent_env())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _agent = agent(&world, "agent", &[], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    // A look or two more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let id = i32::try_from(watching.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), Signal::SIGINT).unwrap();
    let mut said = String::new();
    watching.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let code = watching.wait().unwrap().code();
    let looks: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for look in &looks {
        assert_eq!(wrong("status", look), Vec::<String>::new(), "{look:#}");
    }
    let writers: Vec<&Value> = looks.iter().map(|look| &look[0]["writer"]).collect();
    for wanted in [&Value::Null, &Value::from(first), &Value::from(second.clone())] {
        assert!(writers.contains(&wanted), "{wanted} was never seen: {writers:?}");
    }
    let last = &looks.last().unwrap()[0];
    assert_eq!(last["writer"], second.as_str(), "{last:#}");
    assert_eq!(code, Some(if last["healthy"] == true { 0 } else { 2 }), "{last:#}");
    let history = run(&world, &["history", "redis", "--json"], &[]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(wrong("history", &history), Vec::<String>::new(), "{history:#}");
    // A schema that takes anything would hold nothing.
    assert!(!wrong("status", &serde_json::json!([{ "group": 1 }])).is_empty());
}
