//! Redis Cluster on real nodes: which of them can take requests.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};

use crate::support::{off_schema, run, text, world};

/// `cluster-node-timeout`, in ms.
const NODE_TIMEOUT_MS: u64 = 2_000;
/// How long a cluster may take to replace a primary: three of these, on a busy machine.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

/// Six nodes that know nothing, in a world that has little else.
async fn blank() -> (World, LabCluster) {
    let spec = WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    (world, cluster)
}

async fn whole() -> (World, LabCluster) {
    let (world, cluster) = blank().await;
    cluster.create().await.unwrap();
    (world, cluster)
}

/// The exit code of `cluster`, and what it prints for programs.
fn asked(world: &World, seed: &LabServer) -> (Option<i32>, Value) {
    let output = run(world, &["cluster", &seed.address.to_string(), "--json"], &[]);
    let said: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    assert_eq!(off_schema("cluster", &said), Vec::<String>::new(), "{said:#}");
    (output.status.code(), said)
}

/// Waits until `cluster` ends with this and says what fits.
async fn until_asked(
    world: &World,
    seed: &LabServer,
    code: i32,
    fits: impl Fn(&Value) -> bool,
) -> Value {
    until("the cluster is as expected", REPLACED_WITHIN, || async {
        let (found, said) = asked(world, seed);
        let right = found == Some(code) && fits(&said);
        if right { Ok(said) } else { Err(LabError(format!("{found:?}: {said:#}"))) }
    })
    .await
    .unwrap()
}

/// What is said of one node.
fn of<'a>(said: &'a Value, node: &LabServer) -> &'a Value {
    let nodes = said["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|found| found["address"] == node.address.to_string());
    found.unwrap_or_else(|| panic!("{said:#}"))
}

#[tokio::test]
pub async fn from_blank_nodes_to_a_cluster_whose_primary_dies_and_comes_back() {
    let (world, mut cluster) = blank().await;
    let (code, said) = asked(&world, &cluster.nodes[0]);
    assert_eq!(code, Some(2), "{said:#}");
    assert_eq!(said["why_not"], "no node owns a slot: the nodes are blank");
    cluster.create().await.unwrap();

    let said = until_asked(&world, &cluster.nodes[5], 0, |said| said["whole"] == true).await;
    assert_eq!((&said["slots_served"], &said["voters_answering"]), (&json!(16_384), &json!(3)));
    let shards = said["shards"].as_array().unwrap();
    for (index, shard) in shards.iter().enumerate() {
        let (primary, replica) = (&cluster.nodes[index], &cluster.nodes[index + 3]);
        assert_eq!(shard["primary"], primary.address.to_string(), "{said:#}");
        assert_eq!(shard["replicas"], json!([replica.address.to_string()]), "{said:#}");
        assert_eq!(shard["owner"], id(primary).await.unwrap());
    }
    let shown = run(&world, &["cluster", &cluster.nodes[1].address.to_string()], &[]);
    let head = "16384 of 16384 slots are served; 3 of 3 voters answer";
    assert!(text(&shown).starts_with(head), "{}", text(&shown));

    let seed = cluster.nodes.pop().unwrap();
    let next = cluster.nodes[3].address.to_string();
    cluster.nodes[0].kill();
    let (code, said) = asked(&world, &seed);
    assert_eq!(
        (code, of(&said, &cluster.nodes[0])["serves"].clone()),
        (Some(2), Value::Null),
        "{said:#}"
    );
    let replaced = |said: &Value| said["shards"][0]["primary"] == next;
    let said = until_asked(&world, &seed, 3, replaced).await;
    let dead = of(&said, &cluster.nodes[0]);
    assert!(dead["why_not"].as_str().unwrap().contains("cannot connect"), "{said:#}");
    assert_eq!(said["slots_served"], 16_384);

    cluster.nodes[0].restart().await.unwrap();
    let back = |said: &Value| said["whole"] == true;
    let said = until_asked(&world, &seed, 0, back).await;
    assert_eq!(of(&said, &cluster.nodes[0])["serves"], "replica", "{said:#}");
}

/// It goes on as ever, says that all is well, and is a member for no other node.
#[tokio::test]
pub async fn a_node_that_all_others_have_forgotten_is_fit_for_nothing() {
    let (world, cluster) = whole().await;
    let forgotten = &cluster.nodes[5];
    let its = id(forgotten).await.unwrap();
    for node in &cluster.nodes[..5] {
        node.ask(&["CLUSTER", "FORGET", &its]).await.unwrap();
    }
    let unlisted = |said: &Value| {
        let said = of(said, forgotten);
        said["serves"].is_null()
            && said["why_not"]
                == "0 of 3 voters know it: it was forgotten, or is none of the cluster"
    };
    until_asked(&world, forgotten, 3, unlisted).await;
    let info = text_of(forgotten, &["CLUSTER", "INFO"]).await;
    assert!(info.contains("cluster_state:ok"), "{info}");
}

/// A primary that was replaced, and is started again where it reaches none of the others.
#[tokio::test]
pub async fn a_minority_is_not_believed_and_neither_is_a_server_without_a_cluster() {
    let (world, mut cluster) = whole().await;
    for node in &mut cluster.nodes[1..] {
        node.kill();
    }
    let (code, said) = asked(&world, &cluster.nodes[0]);
    assert_eq!(code, Some(2), "{said:#}");
    let why = "no majority: of 3 primaries that own slots, 1 answer and agree on who they are";
    assert_eq!(said["why_not"], why);
    let single = &world.groups[0].redis[0];
    let shown = run(&world, &["cluster", &single.address.to_string()], &[]);
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
    assert!(text(&shown).contains("cluster support disabled"), "{}", text(&shown));
}

async fn text_of(node: &LabServer, command: &[&str]) -> String {
    consul_redis::redis_link::text(&node.ask(command).await.unwrap()).unwrap()
}
