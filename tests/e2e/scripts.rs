//! What scripts do with a group: `wait` for it, and read its `history`.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    agent, agents, json, off_schema, program, run, text, until_in_sync, until_writer, world,
};

#[tokio::test]
async fn a_script_waits_for_what_it_needs_and_reads_what_happened() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    // No agent publishes anything yet.
    let too_early = run(&world, &["wait", "redis", "--timeout", "300ms"], &[]);
    assert_eq!(too_early.status.code(), Some(2), "{}", text(&too_early));
    let hint = "hint: consul-redis status --group redis says what is wrong\n";
    let said = "redis: not within 300 ms: nothing was ever published\n";
    assert_eq!(text(&too_early), format!("{said}{hint}"));
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
    let said = "redis: not within 300 ms: 1 of 2 replicas are in sync\n";
    assert_eq!(text(&too_many), format!("{said}{hint}"));
    let all = json(&world, "wait", &["wait", "redis", "--replicas", "1", "--json"]);
    assert_eq!((&all["writer"], &all["replicas"]), (&first.into(), &json!([other])));
    let first = all["writer"].as_str().unwrap().to_owned();

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
    let changes = json(&world, "history", &["history", "redis", "--json"]);
    assert_eq!(changes[0]["to"], other.as_str(), "{changes}");
    // A name that no group has is told from one that is about to be there.
    let mistyped = run(&world, &["wait", "radis", "--timeout", "300ms"], &[]);
    let said = "radis: nothing was ever published, waiting; the groups there are: redis\n";
    assert!(text(&mistyped).contains(said), "{}", text(&mistyped));
    let asked =
        [("CONSUL_REDIS_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", "4"), ("_CLAP_IFS", "\n")];
    let words = ["--", "consul-redis", "--group", "ours", "wait", ""];
    let completed = text(&run(&world, &words, &asked));
    let groups = completed.split_whitespace().filter(|word| !word.starts_with('-'));
    assert_eq!(groups.collect::<Vec<_>>(), ["ours", "redis"]);
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
        assert_eq!(off_schema("status", look), Vec::<String>::new(), "{look:#}");
    }
    let writers: Vec<&Value> = looks.iter().map(|look| &look[0]["writer"]).collect();
    for wanted in [&Value::Null, &Value::from(first), &Value::from(second.clone())] {
        assert!(writers.contains(&wanted), "{wanted} was never seen: {writers:?}");
    }
    let last = &looks.last().unwrap()[0];
    assert_eq!(last["writer"], second.as_str(), "{last:#}");
    let wanted = match (&last["healthy"], &last["degraded"]) {
        (Value::Bool(true), Value::Bool(true)) => 3,
        (Value::Bool(true), _) => 0,
        _ => 2,
    };
    assert_eq!(code, Some(wanted), "{last:#}");
    json(&world, "history", &["history", "redis", "--json"]);
}

/// What `plan` would do in each group, by word.
fn planned(world: &World) -> Vec<String> {
    let plan = json(world, "plan", &["plan", "--json"]);
    let actions = plan[0]["actions"].as_array().unwrap().iter();
    let word = |action: &Value| {
        let purpose = action["purpose"].as_str().or(action["action"].as_str());
        purpose.unwrap().to_owned()
    };
    actions.map(word).collect()
}

#[tokio::test]
async fn programs_read_what_people_do_as_the_schemas_say() {
    let world = world(WorldSpec::default()).await;
    assert_eq!(planned(&world), ["publish"]);
    let _agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    assert_eq!(planned(&world), Vec::<String>::new());
    let set = json(&world, "config", &["config", "redis", "quorum=auto", "--json"]);
    let unset = json!({"group": "redis", "quorum": "auto", "down_after_ms": null,
                       "failover_timeout_ms": null, "parallel_syncs": null, "reboot_down_after_ms": null});
    assert_eq!(set, unset);
    let set =
        json(&world, "config", &["config", "redis", "quorum=2", "down_after=1600ms", "--json"]);
    assert_eq!((&set["quorum"], &set["down_after_ms"]), (&json!(2), &json!(1600)));
    let refused = run(&world, &["switchover", "redis", "--yes", "--json", "--to", &first], &[]);
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert_eq!(off_schema("switchover", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!(
        (&said["moved"], &said["why_not"]),
        (&json!(false), &json!("not moved: 1 of 6 checks failed"))
    );
    let moved = json(&world, "switchover", &["switchover", "redis", "--yes", "--json"]);
    assert_eq!((&moved["moved"], &moved["from"]), (&json!(true), &json!(first)), "{moved:#}");
    let words: Vec<&str> = moved["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["what"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["paused", "caught up", "promoted", "published", "followed", "fenced"]);
    let none = json(&world, "maintenance", &["maintenance", "list", "--json"]);
    assert_eq!(none, json!({"group": "redis", "instances": []}));
    let on = json(&world, "maintenance", &["maintenance", "on", &first, "--json"]);
    assert_eq!(on["instances"], json!([{"address": first, "priority_before": 100}]));
    assert_eq!(json(&world, "maintenance", &["maintenance", "list", "--json"]), on);
    assert_eq!(json(&world, "maintenance", &["maintenance", "off", &first, "--json"]), none);
}
