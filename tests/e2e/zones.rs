//! The order of zones (`prefer_zones`): which replica a failover chooses, and which priorities stay an operator's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{fields, list};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cures::{set, until_found_among, until_gone};
use crate::support::{
    agent, logs, must_follow_a_failover, run, text, until_in_sync, until_logged, until_writer,
    world,
};

/// How long a priority may take on a busy machine: one that was set a moment ago, or refused, is left for a while.
const SET_WITHIN: Duration = Duration::from_secs(60);
/// Longer than an agent waits between two attempts to set one priority.
const IDLE: Duration = Duration::from_secs(12);
const NEAR: &str = "eu-1a";
const FAR: &str = "eu-1b";
const LAST: &str = "eu-1c";

/// Where the config is of the agent beside the server of this number.
fn path(world: &World, number: usize) -> PathBuf {
    world.dir().join(format!("zones-{number}.toml"))
}

fn configure(world: &World, number: usize, zone: &str, order: &[&str]) {
    let address = &world.groups[0].redis[number].address;
    let order =
        if order.is_empty() { String::new() } else { format!("prefer_zones = {order:?}\n") };
    let text = format!(
        "[agent]\nzone = \"{zone}\"\n[[group]]\nname = \"redis\"\n{order}[[redis]]\naddress = \"{address}\"\n"
    );
    std::fs::write(path(world, number), text).unwrap();
}

/// An agent beside each server, in these zones.
fn start(world: &World, zones: [&str; 3], order: &[&str]) -> Vec<Process> {
    let all = zones.into_iter().enumerate();
    all.map(|(number, zone)| {
        configure(world, number, zone, order);
        let path = path(world, number);
        agent(world, &format!("agent-{number}"), &["--config", path.to_str().unwrap()], &[])
    })
    .collect()
}

fn at(world: &World, number: usize) -> String {
    world.groups[0].redis[number].address.to_string()
}

/// The priority that a server has, whatever it is at the moment.
async fn priority(world: &World, number: usize) -> Result<String, LabError> {
    let answer = world.groups[0].redis[number].ask(&["CONFIG", "GET", "replica-priority"]).await?;
    Ok(fields(&answer).map_err(LabError)?.remove("replica-priority").unwrap_or_default())
}

async fn until_priority(world: &World, number: usize, wanted: &str) {
    until(&format!("server {number} has priority {wanted}"), SET_WITHIN, || async {
        let found = priority(world, number).await?;
        if found == wanted { Ok(()) } else { Err(LabError(found)) }
    })
    .await
    .unwrap();
}

/// Waits until every Sentinel knows these priorities, by the address of the replica.
async fn until_sentinels_know(world: &World, wanted: &BTreeMap<String, &str>) {
    until("all Sentinels know the priorities", SET_WITHIN, || async {
        for sentinel in &world.sentinels {
            let rows = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            let mut known = BTreeMap::new();
            for row in list(&rows).map_err(LabError)? {
                let row = fields(row).map_err(LabError)?;
                known.insert(
                    format!("{}:{}", row["ip"], row["port"]),
                    row["slave-priority"].clone(),
                );
            }
            let fits = |(at, priority): (&String, &&str)| {
                known.get(at).is_some_and(|known| known == priority)
            };
            if !wanted.iter().all(fits) {
                return Err(LabError(format!("{known:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_replica_of_the_first_zone_leads_and_a_planned_move_goes_where_it_is_to() {
    let mut world = world(WorldSpec::default()).await;
    // At the same offset Sentinel chooses the lower run id: that one is to be left out.
    let mut by_run = Vec::new();
    for number in [1, 2] {
        by_run.push((world.groups[0].redis[number].probe().await.unwrap().run_id, number));
    }
    by_run.sort();
    let [(_, other), (_, preferred)] = by_run.try_into().unwrap();
    let mut zones = [LAST; 3];
    (zones[preferred], zones[other]) = (NEAR, FAR);
    let running = start(&world, zones, &[NEAR, FAR, LAST]);
    let old = until_writer(&world, "redis", 20, None).await;
    assert_eq!(old, at(&world, 0));
    until_in_sync(&world, "redis", 2).await;
    until_priority(&world, preferred, "10").await;
    until_priority(&world, other, "20").await;
    // A primary does not say its priority.
    assert_eq!(priority(&world, 0).await.unwrap(), "100");
    let known = [(at(&world, preferred), "10"), (at(&world, other), "20")];
    until_sentinels_know(&world, &known.into()).await;

    world.server_mut(&old).unwrap().kill();
    let new = until_writer(&world, "redis", 30, Some(&old)).await;
    assert_eq!(new, at(&world, preferred), "{}", logs(&running));
    world.server_mut(&old).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    until_priority(&world, 0, "30").await;
    let log = logs(&running);
    for (number, to) in [(0, 30), (preferred, 10), (other, 20)] {
        let line = format!("the replica-priority of {} is {to}, was 100", at(&world, number));
        assert_eq!(log.matches(&line).count(), 1, "{line}: {log}");
    }

    // It has the last zone, and a priority of its own for as long as the move takes.
    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes", "--to", &old], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&running));
    assert_eq!(until_writer(&world, "redis", 5, Some(&new)).await, old);
    until_priority(&world, preferred, "10").await;
    assert_eq!(priority(&world, 0).await.unwrap(), "30");
    assert!(!logs(&running).contains("was 1:"), "{}", logs(&running));
    until_in_sync(&world, "redis", 2).await;
    must_follow_a_failover(&mut world).await;
}

fn reload(world: &World, agents: &[Process], order: &[&str], zones: [&str; 3]) {
    for (number, agent) in agents.iter().enumerate() {
        configure(world, number, zones[number], order);
        agent.signal(Signal::SIGHUP).unwrap();
    }
}

/// A command with the config of the agent beside the server of this number.
fn with_config(world: &World, number: usize, args: &[&str]) -> Output {
    let path = path(world, number);
    run(world, &[args, &["--config", path.to_str().unwrap()]].concat(), &[])
}

/// The codes of the findings that doctor has with that config, and the cure of each.
fn found(world: &World, number: usize) -> BTreeMap<String, String> {
    let output = with_config(world, number, &["doctor", "redis", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let findings = said[0]["findings"].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings.iter().map(|one| (word(&one["code"]), word(&one["mend"]))).collect()
}

#[tokio::test]
async fn an_operators_0_stays_and_what_redis_refuses_is_said() {
    // Rights to a part of a command that is taken away again.
    let mut world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let redis = &world.groups[0].redis;
    set(&redis[1..2], "replica-priority", "0").await;
    set(&redis[2..], "replica-priority", "50").await;
    let zones = [LAST, FAR, NEAR];
    let running = start(&world, zones, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    configure(&world, 2, NEAR, &[NEAR, FAR]);
    let planned = text(&with_config(&world, 2, &["plan"]));
    let line =
        format!("set the replica-priority of {}, 50 now, to 10: prefer_zones", at(&world, 2));
    assert!(planned.contains(&line), "{planned}");
    assert_eq!(priority(&world, 2).await.unwrap(), "50");
    reload(&world, &running, &[NEAR, FAR], zones);
    until_priority(&world, 2, "10").await;
    until_logged(|| running[2].log(), 10, "is 10, was 50: prefer_zones, zone eu-1a", 1).await;

    // In maintenance it stays at 0, whatever the order becomes; after that it is what the order says.
    let out = at(&world, 2);
    let on = run(&world, &["maintenance", "on", &out], &[]);
    assert_eq!(on.status.code(), Some(0), "{}", text(&on));
    reload(&world, &running, &[FAR, NEAR], zones);
    until_logged(|| running[2].log(), 20, "the new config is in force", 2).await;
    tokio::time::sleep(IDLE).await;
    assert_eq!(priority(&world, 2).await.unwrap(), "0");
    let off = run(&world, &["maintenance", "off", &out], &[]);
    assert_eq!(off.status.code(), Some(0), "{}", text(&off));
    until_priority(&world, 2, "20").await;

    let redis = &world.groups[0].redis;
    redis[2].ask(&["ACL", "SETUSER", "default", "-config|set"]).await.unwrap();
    reload(&world, &running, &[NEAR, FAR], zones);
    until_logged(|| running[2].log(), 40, "could not be set (`NOPERM", 1).await;
    assert_eq!(priority(&world, 2).await.unwrap(), "20");
    let cures = found(&world, 2);
    assert!(cures["zone-order"].ends_with("CONFIG SET replica-priority 10"), "{cures:?}");
    let cure = &cures["instance-right"];
    assert!(cure.ends_with("ACL SETUSER default +config|set"), "{cures:?}");
    redis[2].ask(&["ACL", "SETUSER", "default", "+config|set"]).await.unwrap();
    until_priority(&world, 2, "10").await;
    until("doctor finds neither", SET_WITHIN, || async {
        let now = found(&world, 2);
        let gone = !now.contains_key("zone-order") && !now.contains_key("instance-right");
        if gone { Ok(()) } else { Err(LabError(format!("{now:?}"))) }
    })
    .await
    .unwrap();
    let said = running[2].log();
    assert_eq!(said.matches("could not be set (`NOPERM").count(), 1, "{said}");

    // Never touched, and never chosen.
    assert_eq!(priority(&world, 1).await.unwrap(), "0");
    until_sentinels_know(&world, &[(at(&world, 1), "0"), (at(&world, 2), "10")].into()).await;
    assert_eq!(must_follow_a_failover(&mut world).await, out, "{}", logs(&running));
    assert_eq!(priority(&world, 1).await.unwrap(), "0");
}

/// What `group-one-zone` and `zone-order` say is done, and they are gone.
#[tokio::test]
async fn a_group_that_outlives_no_zone_is_found_and_spread() {
    let mut world = world(WorldSpec::default()).await;
    set(&world.groups[0].redis[2..], "replica-priority", "0").await;
    let running = start(&world, [NEAR, NEAR, FAR], &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let findings = until_found_among(&world, "group-one-zone").await;
    let one = findings.iter().find(|finding| finding["code"] == "group-one-zone").unwrap();
    let (host, port) =
        at(&world, 2).rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let cure = format!("redis-cli -h {host} -p {port} CONFIG SET replica-priority 100");
    assert_eq!(one["mend"], cure.as_str(), "{findings:#?}");
    set(&world.groups[0].redis[2..], "replica-priority", "100").await;
    until_gone(&world, "group-one-zone").await;
    // Another config than the agents have.
    configure(&world, 2, FAR, &[FAR, NEAR]);
    assert!(found(&world, 2)["zone-order"].contains("CONFIG SET replica-priority"));
    reload(&world, &running, &[FAR, NEAR], [NEAR, NEAR, FAR]);
    until_priority(&world, 2, "10").await;
    until_priority(&world, 1, "20").await;
    until("doctor finds the order kept", SET_WITHIN, || async {
        let now = found(&world, 2);
        if now.contains_key("zone-order") { Err(LabError(format!("{now:?}"))) } else { Ok(()) }
    })
    .await
    .unwrap();
    until_sentinels_know(&world, &[(at(&world, 2), "10"), (at(&world, 1), "20")].into()).await;
    let last = at(&world, 2);
    assert_eq!(must_follow_a_failover(&mut world).await, last, "{}", logs(&running));
}

#[tokio::test]
async fn an_order_that_cannot_be_kept_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    let check = |order: &str| {
        let config = format!("[[group]]\nname = \"redis\"\nprefer_zones = {order}\n");
        std::fs::write(&file, config).unwrap();
        let output = std::process::Command::new(crate::support::program())
            .args(["check-config", "--sentinels", "127.0.0.1:1", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code(), text(&output))
    };
    let many: Vec<String> = (0..10).map(|n| format!("eu-{n}")).collect();
    let wrong = [
        ("[\"eu-1a\", \"eu-1a\"]".to_owned(), "a.toml:3: prefer_zones: eu-1a is there twice"),
        (format!("{many:?}"), "a.toml:3: prefer_zones: 10 zones, and there may be 9"),
        ("[\"EU\"]".to_owned(), "zone `EU` must be"),
        ("\"eu-1a\"".to_owned(), "at line 3"),
    ];
    for (order, says) in wrong {
        let (code, said) = check(&order);
        assert_eq!(code, Some(64), "{order}: {said}");
        assert!(said.contains(says), "{order}: {said}");
    }
    let (code, said) = check(&format!("{:?}", &many[..9]));
    assert_eq!(code, Some(0), "{said}");
}
