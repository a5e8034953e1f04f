//! The Redis Cluster of docker-compose.yml, and the one of swarm/cluster.yml with containers for its tasks: six containers that know of one another only where Consul is.

use std::collections::BTreeSet;
use std::time::Duration;

use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::redis_link::text;
use redis::Value;
use serde_json::Value as Json;

use crate::PATIENCE;
use crate::docker::{Project, is_here};

/// The service of the compose file.
const SERVICE: &str = "redis-cluster";

/// Four times the default `cluster-node-timeout` of 15 s, and a little more.
const LED_FOR: Duration = Duration::from_secs(63);

/// Waits until the names answer three primaries and three replicas, which all run; the primaries.
async fn until_whole(project: &Project, service: &str) -> BTreeSet<String> {
    let names = Names::new(Some(project.dns()));
    let found = until("three primaries and three replicas", PATIENCE, || async {
        let mut all = Vec::new();
        for name in ["orders-primary.service.consul", "orders-replica.service.consul"] {
            let ips = names.a(name).await.map_err(LabError::new)?;
            all.push(ips.iter().map(ToString::to_string).collect::<BTreeSet<String>>());
        }
        let running = project.running(service).into_iter().map(|container| container.ip);
        let running: BTreeSet<String> = running.collect();
        let named: BTreeSet<String> = all.iter().flatten().cloned().collect();
        match (all[0].len(), all[1].len(), named == running) {
            (3, 3, true) => Ok(all.remove(0)),
            _ => Err(LabError(format!("{all:?}, of {running:?}"))),
        }
    })
    .await;
    found.unwrap_or_else(|error| panic!("{error}\n{}", project.logs()))
}

/// Writes some keys, each where its slot is, and waits until a replica has it.
async fn write(project: &Project, primaries: &BTreeSet<String>) {
    for n in 0..30 {
        let key = format!("key-{n}");
        let mut kept = 0;
        for ip in primaries {
            let commands = [&["SET", &key, "kept"][..], &["WAIT", "1", "10000"][..]];
            match project.ask_in_turn(ip, &commands).await {
                Ok(Value::Int(count)) => kept += count,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.0.contains("MOVED"), "{error}"),
            }
        }
        assert_eq!(kept, 1, "{key}\n{}", project.logs());
    }
}

async fn all_kept(project: &Project, primaries: &BTreeSet<String>) {
    for n in 0..30 {
        let key = format!("key-{n}");
        let mut found = Vec::new();
        for ip in primaries {
            let answer = project.ask(ip, &["GET", &key]).await;
            found.extend(answer.ok().and_then(|answer| text(&answer).ok()));
        }
        assert_eq!(found, ["kept"], "{key}\n{}", project.logs());
    }
}

#[tokio::test]
async fn six_containers_become_a_cluster_and_stay_one_at_other_addresses() {
    if !is_here() {
        return;
    }
    let project = Project::with_profile("nodes", "cluster");
    project.compose(&["build", SERVICE]);
    project.compose(&["up", "-d", "consul", SERVICE]);
    let primaries = until_whole(&project, SERVICE).await;
    write(&project, &primaries).await;

    // Everything stops, and comes back in another order, at addresses that no container had.
    let before: BTreeSet<String> = project.running(SERVICE).into_iter().map(|c| c.ip).collect();
    project.compose(&["stop", "--timeout", "40"]);
    let taken = project.take_addresses(project.all().len() + 1);
    for container in project.all().iter().rev() {
        project.docker(&["start", container]);
    }
    drop(taken);
    let after: BTreeSet<String> = project.running(SERVICE).into_iter().map(|c| c.ip).collect();
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    let primaries = until_whole(&project, SERVICE).await;
    all_kept(&project, &primaries).await;

    // One is killed, and comes back.
    let dead = primaries.first().expect("a primary").clone();
    let container = project.named(SERVICE, &dead);
    project.docker(&["kill", &container]);
    let names = Names::new(Some(project.dns()));
    until("another one in its place", PATIENCE, || async {
        let found = names.a("orders-primary.service.consul").await.map_err(LabError::new)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        if found.len() == 3 && !found.contains(&dead) {
            Ok(())
        } else {
            Err(LabError(format!("{found:?}")))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", project.logs()));
    project.docker(&["start", &container]);
    let primaries = until_whole(&project, SERVICE).await;
    all_kept(&project, &primaries).await;
}

/// Under Swarm each task has a machine of its own; here they are containers of one. What they are told is the file's.
#[tokio::test]
async fn the_tasks_of_the_swarm_file_become_a_cluster_and_one_that_is_replaced_hands_over() {
    if !is_here() {
        return;
    }
    const TASKS: &str = "redis";
    Project::with_profile("image", "cluster").compose(&["build", SERVICE]);
    let text = include_str!("../../swarm/cluster.yml");
    let file: Json = serde_saphyr::from_str(text).expect("YAML");
    let tasks = &file["services"][TASKS];
    let count = tasks["deploy"]["replicas"].as_u64().expect("a number of tasks");
    assert_eq!(tasks["environment"]["CONSUL_REDIS_EXPECT"], count.to_string().as_str());
    // `stop-first`, one at a time: no two primaries are away at once.
    let update = &tasks["deploy"]["update_config"];
    assert_eq!((&update["parallelism"], &update["order"]), (&1.into(), &"stop-first".into()));
    let project = Project::of("swarm", &["swarm/cluster.yml", "tests/compose/swarm.yml"]);
    project.compose(&["up", "-d", "--scale", &format!("{TASKS}={count}")]);
    let primaries = until_whole(&project, TASKS).await;
    write(&project, &primaries).await;

    let replaced = project.named(TASKS, primaries.first().expect("a primary"));
    // No shard is handed over before it has been led for four times the default cluster-node-timeout.
    tokio::time::sleep(LED_FOR).await;
    let grace = tasks["stop_grace_period"].as_str().expect("a time").trim_end_matches('s');
    project.docker(&["stop", "--time", grace, &replaced]);
    let said = project.docker_log(&replaced);
    assert!(said.contains("handed over from"), "{said}");
    project.docker(&["start", &replaced]);
    let primaries = until_whole(&project, TASKS).await;
    all_kept(&project, &primaries).await;
}
