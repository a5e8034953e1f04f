//! What answers at the addresses of a Redis Cluster's nodes, and is none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consul_redis::cluster::ask;
use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::redis::{LabServer, patiently};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::{
    AT_ONCE, CALM, NODE_TIMEOUT_MS, REPLACED_WITHIN, ats, blank_alone, cluster_agents, config,
    state, text_of, until_answers,
};
use crate::support::{agent, get, http_address, logs, run, world};

/// Longer than a `CLUSTER MEET` that a node sends by itself is armed, and than two clusters take to merge.
const STRANGE_FOR: Duration = Duration::from_millis(2 * NODE_TIMEOUT_MS);

/// Two primaries with a replica each.
async fn four(world: &mut World, name: &str) -> LabCluster {
    let names: Vec<String> = (0..4).map(|n| format!("{name}-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cluster = LabCluster::start_blank(world, &names, NODE_TIMEOUT_MS).await.unwrap();
    cluster.create().await.unwrap();
    cluster
}

/// The nodes that a node knows, itself too.
async fn known(node: &LabServer) -> BTreeSet<String> {
    let table = ask(&node.address, &patiently(&node.login)).await.unwrap().table;
    table.rows.keys().map(|id| id.as_str().to_owned()).collect()
}

async fn ids(nodes: &[LabServer]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for node in nodes {
        all.insert(id(node).await.unwrap());
    }
    all
}

/// The addresses that a cluster's names answer.
async fn named(world: &World, cluster: &str) -> Result<BTreeSet<String>, LabError> {
    let mut all = BTreeSet::new();
    for name in ["", "-primary", "-replica"] {
        all.extend(world.consul.passing(&format!("{cluster}{name}")).await?);
    }
    Ok(all)
}

/// What is said of a stranger: nothing enters the names, or nothing is done to the nodes.
const ALARMS: [&str; 2] = ["held", "left-undone"];

/// The codes of each cluster's problems, as an agent has them.
async fn problems(url: &str) -> Result<BTreeMap<String, BTreeSet<String>>, LabError> {
    let (_, said) = get(&format!("{url}/status.json"), None).await?;
    let said: Value = serde_json::from_str(&said).map_err(LabError::new)?;
    let word = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    let codes = |one: &Value| {
        one["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|problem| word(&problem["code"]))
            .collect()
    };
    let all = said.as_array().into_iter().flatten();
    Ok(all.map(|one| (word(&one["cluster"]), codes(one))).collect())
}

fn all_alarmed(problems: &BTreeMap<String, BTreeSet<String>>) -> bool {
    problems.values().all(|of| ALARMS.iter().any(|code| of.contains(*code)))
}

/// What agents had nodes meet: who was told, and whom.
fn met(log: &str) -> Vec<(String, String)> {
    let told = log.lines().filter_map(|line| line.split_once(" is told: CLUSTER MEET "));
    let word = |text: &str| text.split([' ', ',']).next().unwrap_or_default().to_owned();
    told.map(|(to, whom)| {
        let to = to.rsplit_once(" (").map_or(to, |(to, _)| to);
        (to.rsplit(' ').next().unwrap_or_default().to_owned(), word(whom))
    })
    .collect()
}

/// A primary of each. On Valkey 9 the two may merge by themselves, which no agent can prevent: it is an alarm then, as in
/// the end here, where an operator has the two meet.
#[tokio::test]
pub async fn two_clusters_whose_nodes_swap_their_addresses_stay_two() {
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let mut orders = four(&mut world, "orders").await;
    let mut carts = four(&mut world, "carts").await;
    let own = (ids(&orders.nodes).await, ids(&carts.nodes).await);
    let config = config(&world, &[("orders", &orders), ("carts", &carts)]);
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    let args = ["--config", &config, "--listen", "127.0.0.1:0"];
    let agents = [agent(&world, "agent-0", &args, &env)];
    let url = http_address(&agents[0]).await;
    for (name, cluster) in [("orders", &orders), ("carts", &carts)] {
        let all = ats(&cluster.nodes.iter().collect::<Vec<_>>());
        until_answers(&world, name, AT_ONCE, |found| found == all).await;
    }
    let places = [&orders, &carts].map(|cluster| cluster.nodes[0].address.clone());
    orders.nodes[0].kill();
    carts.nodes[0].kill();
    for (name, place) in ["orders", "carts"].into_iter().zip(&places) {
        let place = place.to_string();
        until_answers(&world, name, AT_ONCE, |found| !found.contains(&place)).await;
    }
    let start = async |name: &str, index: usize| {
        let at = &places[index];
        LabCluster::start_at(&world, name, at, NODE_TIMEOUT_MS, "").await.unwrap()
    };
    orders.nodes[0] = start("orders-0", 1).await;
    carts.nodes[0] = start("carts-0", 0).await;
    let at = |cluster: &LabCluster| {
        cluster.nodes.iter().map(|node| node.address.to_string()).collect::<BTreeSet<_>>()
    };
    let merges = text_of(&orders.nodes[1], &["INFO", "server"]).await.contains("valkey_version:9");
    let apart = until("each name has its own cluster's nodes", REPLACED_WITHIN, || async {
        let found = (named(&world, "orders").await?, named(&world, "carts").await?);
        assert!(found.0.is_disjoint(&at(&carts)), "{found:?}: {}", logs(&agents));
        assert!(found.1.is_disjoint(&at(&orders)), "{found:?}: {}", logs(&agents));
        match found == (at(&orders), at(&carts)) {
            true => Ok(true),
            false if merges && all_alarmed(&problems(&url).await?) => Ok(false),
            false => Err(LabError(format!("{found:?}"))),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&agents)));
    if !apart {
        assert_eq!(met(&logs(&agents)), [], "{}", logs(&agents));
        return;
    }
    tokio::time::sleep(CALM).await;
    for (cluster, own) in [(&orders, &own.0), (&carts, &own.1)] {
        for node in &cluster.nodes {
            assert_eq!(&known(node).await, own, "{}: {}", node.name(), logs(&agents));
        }
    }
    for (to, whom) in met(&logs(&agents)) {
        assert_eq!(at(&orders).contains(&to), at(&orders).contains(&whom), "{}", logs(&agents));
    }

    orders.nodes[1].meet(&carts.nodes[1]).await.unwrap();
    until("it is an alarm", REPLACED_WITHIN, || async {
        let mut led = Vec::new();
        for name in ["orders-primary", "carts-primary"] {
            led.push(world.consul.passing(name).await?.into_iter().collect::<BTreeSet<_>>());
        }
        assert!(led[0].is_disjoint(&at(&carts)), "{led:?}: {}", logs(&agents));
        assert!(led[1].is_disjoint(&at(&orders)), "{led:?}: {}", logs(&agents));
        let found = problems(&url).await?;
        if all_alarmed(&found) { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&agents)));
}

/// A primary of another cluster, a server without one that has keys, and a blank node, each where a node was that has
/// died: a primary and two replicas.
#[tokio::test]
pub async fn what_answers_at_dead_nodes_addresses_and_is_none_of_them_counts_for_nothing() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let names = ["carts-0", "carts-1"];
    let mut carts = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    carts.create().await.unwrap();
    let own = (ids(&cluster.nodes).await, ids(&carts.nodes).await);
    let agents = cluster_agents(&world, &cluster, 2);
    let all = ats(&cluster.nodes.iter().collect::<Vec<_>>());
    until_answers(&world, "orders", AT_ONCE, |found| found == all).await;
    for dead in [0, 4, 5] {
        cluster.nodes[dead].kill();
    }
    let left = ats(&[&cluster.nodes[1], &cluster.nodes[2], &cluster.nodes[3]]);
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found == left).await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == left).await;
    carts.nodes[0].kill();
    let start = async |name: &str, dead: usize, more: &str| {
        let at = &cluster.nodes[dead].address;
        LabCluster::start_at(&world, name, at, NODE_TIMEOUT_MS, more).await.unwrap()
    };
    carts.nodes[0] = start("carts-0", 0, "").await;
    let mut alone = start("alone", 4, "cluster-enabled no\n").await;
    alone.ask(&["SET", "cart:7", "of one"]).await.unwrap();
    let mut blank = start("blank", 5, "").await;
    let begun = Instant::now();
    while begun.elapsed() < STRANGE_FOR {
        let found = named(&world, "orders").await.unwrap();
        assert_eq!(found, left.iter().cloned().collect(), "{}", logs(&agents));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = run(&world, &["status", "orders", "--json"], &[]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let unfit = status[0]["unfit"].as_array().unwrap().iter();
    let unfit: BTreeSet<&str> = unfit.map(|node| node["address"].as_str().unwrap()).collect();
    let dead = ats(&[&cluster.nodes[0], &cluster.nodes[4], &cluster.nodes[5]]);
    let dead: BTreeSet<&str> = dead.iter().map(String::as_str).collect();
    assert_eq!(unfit, dead, "they are members, and in no name: {status:#}");
    for node in &cluster.nodes[1..4] {
        assert_eq!(known(node).await, own.0, "{}: {}", node.name(), logs(&agents));
    }
    for node in &carts.nodes {
        assert_eq!(known(node).await, own.1, "{}: {}", node.name(), logs(&agents));
    }
    assert!(ask(&blank.address, &patiently(&blank.login)).await.unwrap().is_blank());
    assert_eq!(text_of(&alone, &["GET", "cart:7"]).await, "of one");
    assert_eq!(met(&logs(&agents)), [], "{}", logs(&agents));

    carts.nodes[0].kill();
    alone.kill();
    blank.kill();
    for dead in [0, 4, 5] {
        cluster.nodes[dead].restart().await.unwrap();
    }
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found == left).await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == all).await;
    let recorded = state(&world).await["nodes"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(own.0, recorded);
    // Where the voters had no address of one any more, it is met again.
    for (to, whom) in met(&logs(&agents)) {
        assert!(all.contains(&to) && all.contains(&whom), "{}", logs(&agents));
    }
}
