//! Nodes of a Redis Cluster as containers run them: each is the child of a process of ours, and knows of the others only
//! where Consul is.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::{Signal, kill};
use redis::Value;
use serde_json::json;

use crate::cluster::{AT_ONCE, CALM, REPLACED_WITHIN, state, until_answers};
use crate::containers::{Container, PLAIN, Said};
use crate::support::{run, until_logged, world};

/// A key in the first of three shards.
const KEY: &str = "orders";

/// Six blank containers that become a cluster.
async fn made() -> (World, Vec<Container>) {
    made_with("save \"\"\nappendonly yes\n").await
}

/// The same, with what they keep on disk; a death is left to the nodes' own pace.
async fn made_with(keeps: &str) -> (World, Vec<Container>) {
    made_as(keeps, "fast_failover = \"off\"\n").await
}

async fn made_as(keeps: &str, more: &str) -> (World, Vec<Container>) {
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let server = world.dir().join("image.conf");
    let text = format!(
        "cluster-enabled yes\ncluster-node-timeout 3000\n{keeps}repl-diskless-sync-delay 0\n"
    );
    std::fs::write(&server, text).unwrap();
    let agent = world.dir().join("agent.toml");
    let text = format!("[[cluster]]\nname = \"orders\"\nexpect = 6\nreplicas = 1\n{more}");
    std::fs::write(&agent, text).unwrap();
    let env = [("CONSUL_REDIS_CONFIG", agent.to_str().unwrap())];
    let mut nodes = Vec::new();
    for index in 0..6 {
        let said = Said { env: &env, config: Some(&server), ..PLAIN };
        nodes.push(Container::new(&mut world, &format!("node-{index}"), said));
    }
    for node in &mut nodes {
        node.restart(&world);
    }
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 3).await;
    (world, nodes)
}

/// A node is started again while the others still wait for it, however slowly its container ends.
const PATIENT: &str = "cluster-node-timeout 8000\n";

/// Who owns the slot of [`KEY`], as it is published.
async fn owner(world: &World) -> Option<String> {
    let slots = world.consul.key("redis-ha/cluster/orders/slots").await.unwrap()?;
    let line = slots.lines().find(|line| line.starts_with("0-"))?;
    Some(line.split_whitespace().nth(1)?.to_owned()).filter(|owner| owner != "-")
}

async fn until_owner(world: &World, not: Option<&str>) -> String {
    until("a primary of the first shard", REPLACED_WITHIN, || async {
        let owner = owner(world).await;
        owner
            .filter(|o| Some(o.as_str()) != not)
            .ok_or_else(|| LabError::new("none, or the old one"))
    })
    .await
    .unwrap()
}

fn at(nodes: &[Container], address: &str) -> usize {
    nodes.iter().position(|node| node.address.to_string() == address).unwrap()
}

/// Writes one key, and waits until its replica has it.
async fn write(node: &Container) {
    assert_eq!(node.ask(&["SET", KEY, "kept"]).await.unwrap(), Value::Okay);
    assert_eq!(node.ask(&["WAIT", "1", "10000"]).await.unwrap(), Value::Int(1));
}

/// The owner of the first shard, and which of the nodes it is, once its death would be acted on at once.
async fn owner_that_is_watched(world: &World, nodes: &[Container]) -> (String, usize) {
    let old = until_owner(world, None).await;
    let index = at(nodes, &old);
    let said = format!("of {old} would be seen at once");
    until_logged(|| nodes[index].log(), 20, &said, 1).await;
    // It must have owned its slots for four times what the nodes wait for.
    tokio::time::sleep(Duration::from_millis(4 * 3_000 + 1_000)).await;
    write(&nodes[index]).await;
    (old, index)
}

#[tokio::test]
pub async fn blank_containers_become_a_cluster_and_a_killed_primary_comes_back_as_a_replica() {
    let (world, mut nodes) = made().await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    write(&nodes[index]).await;
    assert_eq!(nodes[index].kill_server().await, 137, "128 and SIGKILL");
    let new = until_owner(&world, Some(&old)).await;
    nodes[index].restart(&world);
    nodes[index].until_answers().await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&old)).await;
    assert_eq!(until_owner(&world, None).await, new);
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept");
}

#[tokio::test]
pub async fn the_end_of_execs_child_is_acted_on_before_exec_ends() {
    let (world, mut nodes) = made_as("save \"\"\nappendonly yes\n", "").await;
    let (old, index) = owner_that_is_watched(&world, &nodes).await;
    assert_eq!(nodes[index].kill_server().await, 137);
    // Where its host is busy, another agent may be a moment sooner, by what refuses.
    for said in [format!("of {old} has ended"), "the others wait for a moment only".to_owned()] {
        assert!(nodes[index].log().contains(&said), "{}", nodes[index].log());
    }
    let new = until_owner(&world, Some(&old)).await;
    nodes[index].restart(&world);
    nodes[index].until_answers().await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&old)).await;
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept");
}

/// The other agents stand still meanwhile, and the nodes do not: what is recorded is the word of the agent whose child it
/// was.
#[tokio::test]
pub async fn the_death_of_execs_child_is_recorded_as_such_and_the_names_move() {
    let (world, mut nodes) = made_as("save \"\"\nappendonly yes\n", "").await;
    let (old, index) = owner_that_is_watched(&world, &nodes).await;
    let others: Vec<usize> = (0..nodes.len()).filter(|other| *other != index).collect();
    for other in &others {
        nodes[*other].process().signal(Signal::SIGSTOP).unwrap();
    }
    let child = nodes[index].child();
    kill(child, Signal::SIGKILL).unwrap();
    let claim = until("the claim", AT_ONCE, || async {
        let claim = state(&world).await["claims"]["hastened"].clone();
        if claim.is_null() { Err(LabError::new("none yet")) } else { Ok(claim) }
    });
    let claim = claim.await;
    for other in others {
        nodes[other].process().signal(Signal::SIGCONT).unwrap();
    }
    let claim = claim.unwrap_or_else(|error| panic!("{error}\n{}", nodes[index].log()));
    assert_eq!((&claim["evidence"], &claim["pid"]), (&json!("child"), &json!(child.as_raw())));
    assert_eq!(nodes[index].process().end(AT_ONCE).await.unwrap(), 137);
    let new = until_owner(&world, Some(&old)).await;
    let answered = |found: &[String]| found.contains(&new) && !found.contains(&old);
    until_answers(&world, "orders-primary", REPLACED_WITHIN, answered).await;
    let history = run(&world, &["history", "orders", "--json"], &[]);
    let changes: serde_json::Value = serde_json::from_slice(&history.stdout).unwrap();
    let proven = |change: &serde_json::Value| change["evidence"] == "child";
    assert!(changes.as_array().unwrap().iter().any(proven), "{changes:#}");
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept");
}

#[tokio::test]
pub async fn a_primary_without_its_data_is_not_started_before_its_replica_has_its_place() {
    let keeps = format!("save \"\"\nappendonly yes\n{PATIENT}");
    let (world, mut nodes) = made_with(&keeps).await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    write(&nodes[index]).await;
    nodes[index].kill_server().await;
    // The data is gone, and the file with its place in the cluster is not.
    std::fs::remove_dir_all(nodes[index].data.join("appendonlydir")).unwrap();
    // What the server does not read is no data of its.
    for name in ["temp-4711.rdb", "dump.rdb"] {
        std::fs::write(nodes[index].data.join(name), "REDIS0011").unwrap();
    }
    nodes[index].restart(&world);
    let new = until_owner(&world, Some(&old)).await;
    nodes[index].until_answers().await;
    let log = nodes[index].log();
    assert!(log.contains("not started yet: node") && log.contains("has no data"), "{log}");
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&old)).await;
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept", "{log}");
}

/// It was killed: what was written after the snapshot is on its replica alone.
#[tokio::test]
pub async fn a_primary_with_an_old_snapshot_is_not_started_before_its_replica_has_its_place() {
    let (world, mut nodes) = made_with(&format!("save \"\"\nappendonly no\n{PATIENT}")).await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    assert_eq!(nodes[index].ask(&["SET", KEY, "old"]).await.unwrap(), Value::Okay);
    assert_eq!(nodes[index].ask(&["SAVE"]).await.unwrap(), Value::Okay);
    write(&nodes[index]).await;
    nodes[index].kill_server().await;
    nodes[index].restart(&world);
    let new = until_owner(&world, Some(&old)).await;
    nodes[index].until_answers().await;
    let log = nodes[index].log();
    assert!(log.contains("not started yet: node") && log.contains("has a snapshot alone"), "{log}");
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&old)).await;
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept", "{log}");
    // One whose snapshot has all that it had is started at once. Its replicas are sent nothing more after it.
    let index = at(&nodes, &new);
    let quiet = ["CONFIG", "SET", "repl-ping-replica-period", "3600"];
    assert_eq!(nodes[index].ask(&quiet).await.unwrap(), Value::Okay);
    assert_eq!(nodes[index].ask(&["SAVE"]).await.unwrap(), Value::Okay);
    nodes[index].kill_server().await;
    nodes[index].restart(&world);
    nodes[index].until_answers().await;
    let log = nodes[index].log();
    assert!(!log.contains("not started yet"), "{log}");
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
    assert_eq!(nodes[at(&nodes, &until_owner(&world, None).await)].get(KEY).await, "kept", "{log}");
}

#[tokio::test]
pub async fn a_primary_that_was_replaced_is_not_started_where_no_other_node_answers() {
    let (world, mut nodes) = made().await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    nodes[index].kill_server().await;
    until_owner(&world, Some(&old)).await;
    let others: Vec<usize> = (0..nodes.len()).filter(|other| *other != index).collect();
    for other in &others {
        nodes[*other].process().kill();
    }
    nodes[index].restart(&world);
    let words = "it was replaced";
    until(words, AT_ONCE, || async {
        let log = nodes[index].log();
        if log.contains("was replaced, and would take requests") {
            Ok(())
        } else {
            Err(LabError(log))
        }
    })
    .await
    .unwrap();
    tokio::time::sleep(CALM).await;
    assert!(nodes[index].ask(&["PING"]).await.is_err(), "{}", nodes[index].log());
    for other in others {
        nodes[other].restart(&world);
    }
    nodes[index].until_answers().await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
}

/// All of them at once, and all that they have is on their volumes.
#[tokio::test]
pub async fn containers_that_are_all_stopped_and_started_are_the_same_cluster() {
    let (world, mut nodes) = made().await;
    let owner = until_owner(&world, None).await;
    write(&nodes[at(&nodes, &owner)]).await;
    let before = state(&world).await["voters"].clone();
    for node in &mut nodes {
        node.process().kill();
    }
    for node in &mut nodes {
        node.restart(&world);
    }
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
    let owner = until_owner(&world, None).await;
    assert_eq!(nodes[at(&nodes, &owner)].get(KEY).await, "kept");
    assert_eq!(
        state(&world).await["voters"].as_array().unwrap().len(),
        before.as_array().unwrap().len()
    );
}

#[tokio::test]
pub async fn a_container_that_is_stopped_hands_its_shard_over() {
    let (world, mut nodes) = made().await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    write(&nodes[index]).await;
    // Four times cluster-node-timeout after the last change.
    tokio::time::sleep(Duration::from_secs(13)).await;
    nodes[index].process().signal(Signal::SIGTERM).unwrap();
    let code = nodes[index].process().end(Duration::from_secs(30)).await.unwrap();
    assert_eq!(code, 0, "{}", nodes[index].log());
    let log = nodes[index].log();
    assert!(log.contains("handed over from"), "{log}");
    let new = until_owner(&world, Some(&old)).await;
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept", "{log}");
}

/// Another node then, at the address of one that is gone for good.
#[tokio::test]
pub async fn a_container_that_has_lost_its_volume_joins_as_a_new_node() {
    let (world, mut nodes) = made().await;
    let old = until_owner(&world, None).await;
    let index = at(&nodes, &old);
    write(&nodes[index]).await;
    nodes[index].kill_server().await;
    let new = until_owner(&world, Some(&old)).await;
    std::fs::remove_dir_all(&nodes[index].data).unwrap();
    std::fs::create_dir(&nodes[index].data).unwrap();
    nodes[index].restart(&world);
    nodes[index].until_answers().await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&old)).await;
    assert_eq!(until_owner(&world, None).await, new);
    assert_eq!(nodes[at(&nodes, &new)].get(KEY).await, "kept", "{}", nodes[index].log());
    until("it has what its primary has", AT_ONCE, || async {
        nodes[index].ask(&["READONLY"]).await?;
        match nodes[index].info("master_link_status").await?.as_str() {
            "up" => Ok(()),
            other => Err(LabError(other.to_owned())),
        }
    })
    .await
    .unwrap();
}
