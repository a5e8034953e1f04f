//! The Redis Cluster of docker-compose.yml: six containers that know of one another only where Consul is.

use std::collections::BTreeSet;

use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::redis_link::text;
use redis::Value;

use crate::PATIENCE;
use crate::docker::{Project, is_here};

/// The service of the compose file.
const SERVICE: &str = "redis-cluster";

/// Waits until the names answer three primaries and three replicas, which all run; the primaries.
async fn until_whole(project: &Project) -> BTreeSet<String> {
    let names = Names::new(Some(project.dns()));
    let found = until("three primaries and three replicas", PATIENCE, || async {
        let mut all = Vec::new();
        for name in ["orders-primary.service.consul", "orders-replica.service.consul"] {
            let ips = names.a(name).await.map_err(LabError::new)?;
            all.push(ips.iter().map(ToString::to_string).collect::<BTreeSet<String>>());
        }
        let running = project.running(SERVICE).into_iter().map(|container| container.ip);
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
    let primaries = until_whole(&project).await;
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
    let primaries = until_whole(&project).await;
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
    let primaries = until_whole(&project).await;
    all_kept(&project, &primaries).await;
}
