//! Where the nodes of a Redis Cluster are: found by a service in Consul that another program keeps, and in which zones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clients::{Line, Sample, example, interpreter, sample};
use crate::cluster::{
    AT_ONCE, CALM, NODE_TIMEOUT_MS, REPLACED_WITHIN, ats, blank_alone, state, until_all_named,
    until_answers,
};
use crate::containers::{Container, PLAIN, Said};
use crate::support::{agent, json as printed, logs, run, text, until_logged, world};

/// What the nodes are registered as, each on a node of Consul's catalog.
const SERVICE: &str = "redis-nodes";
/// The right that it takes to find them, as docs/cluster.md has it.
const RIGHT: &str = "service \"redis-nodes\" { policy = \"read\" }";
const OFF: &str = "fast_failover = \"off\"\n";

async fn put(world: &World, path: &str, body: Value) {
    world.consul.client().unwrap().put(path, &[], Some(&body)).await.unwrap();
}

async fn register(world: &World, node: &LabServer) {
    let (id, host, port) = (node.name(), node.address.host(), node.address.port());
    let service = json!({"ID": id, "Service": SERVICE, "Address": host, "Port": port});
    let body = json!({"Node": format!("host-{id}"), "Address": host, "Service": service});
    put(world, "/v1/catalog/register", body).await;
}

async fn deregister(world: &World, node: &LabServer) {
    let body = json!({"Node": format!("host-{}", node.name())});
    put(world, "/v1/catalog/deregister", body).await;
}

/// A config that knows of the nodes by their service alone.
fn config(world: &World, more: &str) -> String {
    let path = world.dir().join("places.toml");
    let table = format!("[[cluster]]\nname = \"orders\"\nconsul_service = \"{SERVICE}\"\n{more}");
    std::fs::write(&path, table).unwrap();
    path.to_str().unwrap().to_owned()
}

/// With the rights that the page names and no others.
#[tokio::test]
pub async fn the_instances_of_a_service_become_a_cluster_when_all_are_registered() {
    let master_token = Some("11111111-2222-3333-4444-555555555555".to_owned());
    let groups = Vec::new();
    let spec = WorldSpec { redis: 0, sentinels: 0, groups, master_token, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    let page = std::fs::read_to_string(format!("{}/docs/cluster.md", env!("CARGO_MANIFEST_DIR")));
    let page = page.unwrap();
    assert!(page.contains(RIGHT), "{RIGHT}");
    let rules = page.split("```hcl\n").nth(1).unwrap().split("```").next().unwrap();
    let sessions = "session_prefix \"\" { policy = \"write\" }";
    let token = world.consul.token("agent", &format!("{rules}{RIGHT}\n{sessions}")).await.unwrap();
    let config = config(&world, &format!("expect = 6\nreplicas = 1\n{OFF}"));
    let env = [("CONSUL_REDIS_SENTINELS", ""), ("CONSUL_HTTP_TOKEN", token.as_str())];
    let (last, five) = cluster.nodes.split_last().unwrap();
    for node in five {
        register(&world, node).await;
    }
    let waits = "5 of 6 blank nodes are there";
    let plan = ["--config", &config, "cluster", "create", "orders", "--plan"];
    let planned = run(&world, &plan, &env);
    assert!(text(&planned).contains(waits), "{}", text(&planned));
    let agents = [agent(&world, "agent-0", &["--config", &config], &env)];
    until_logged(|| logs(&agents), 20, waits, 1).await;
    register(&world, last).await;
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    let all: Vec<&LabServer> = cluster.nodes.iter().collect();
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == ats(&all)).await;
    // What has left the service is a member as before: the agents have its address.
    for node in &cluster.nodes {
        deregister(&world, node).await;
    }
    let none = "no node is registered in Consul under service redis-nodes";
    until_logged(|| logs(&agents), 20, none, 1).await;
    tokio::time::sleep(CALM).await;
    assert_eq!(world.consul.passing("orders").await.unwrap(), ats(&all), "{}", logs(&agents));
}

fn started(world: &World, config: &str) -> Process {
    agent(world, "agent-0", &["--config", config], &[("CONSUL_REDIS_SENTINELS", "")])
}

#[tokio::test]
pub async fn one_instance_leads_to_all_nodes_and_the_service_to_their_new_addresses() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    register(&world, &cluster.nodes[5]).await;
    let config = config(&world, OFF);
    // As an agent would: from one instance of the service to all nodes, in one write.
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    let planned = run(&world, &["--config", &config, "plan"], &env);
    assert_eq!(planned.status.code(), Some(0), "{}", text(&planned));
    let planned = text(&planned);
    for node in &cluster.nodes {
        let at = (node.address.host(), node.address.port());
        assert!(planned.contains(&format!(" at {}:{}", at.0, at.1)), "{planned}");
    }
    assert!(planned.contains("create redis-ha/cluster/orders/state"), "{planned}");
    assert_eq!(state(&world).await, Value::Null, "a plan changes nothing");
    let agents = [started(&world, &config)];
    until_all_named(&world, &cluster).await;
    deregister(&world, &cluster.nodes[5]).await;
    all_move(&mut world, &mut cluster).await;
    let shown = run(&world, &["--config", &config, "cluster", "orders"], &[]);
    let head = "16384 of 16384 slots are served";
    assert!(text(&shown).starts_with(head), "{}\n{}", text(&shown), logs(&agents));
}

/// All nodes come back at other addresses, and the service lists them, until the name has them all.
async fn all_move(world: &mut World, cluster: &mut LabCluster) {
    cluster.move_all(world, NODE_TIMEOUT_MS).await.unwrap();
    for node in &cluster.nodes {
        register(world, node).await;
    }
    let all: Vec<&LabServer> = cluster.nodes.iter().collect();
    let all = ats(&all);
    until_answers(world, "orders", REPLACED_WITHIN * 2, |found| found == all).await;
}

/// All addresses of its own file are old ones: the service alone leads to a node that knows of its cluster. That one hears
/// no majority, so nothing tells whether another node owns the slots now.
#[tokio::test]
pub async fn a_node_is_not_started_on_its_own_word_where_its_service_lists_another_one() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    for node in &mut cluster.nodes[1..] {
        node.kill();
    }
    let living = &cluster.nodes[0];
    register(&world, living).await;
    let server = world.dir().join("image.conf");
    std::fs::write(&server, "cluster-enabled yes\nappendonly yes\n").unwrap();
    let config = config(&world, OFF);
    let env = [("CONSUL_REDIS_CONFIG", config.as_str())];
    let said = Said { env: &env, config: Some(&server), ..PLAIN };
    let mut stopped = Container::new(&mut world, "node-6", said);
    let (own, other) = ("f".repeat(40), id(living).await.unwrap());
    let (host, there) = (living.address.host(), &stopped.address);
    let file = format!(
        "{own} {there}@17000 myself,master - 0 0 9 connected 0-5460\n\
         {other} {host}:1@10001 master - 0 0 8 connected 5461-16383\n\
         vars currentEpoch 9 lastVoteEpoch 0\n"
    );
    std::fs::write(stopped.data.join("nodes.conf"), file).unwrap();
    let appended = stopped.data.join("appendonlydir");
    std::fs::create_dir(&appended).unwrap();
    std::fs::write(appended.join("appendonly.aof.manifest"), "file a.aof seq 1 type b\n").unwrap();
    stopped.restart(&world);
    let words = "and neither Consul nor another node says whether it still does";
    until_logged(|| stopped.log(), AT_ONCE.as_secs(), words, 1).await;
    tokio::time::sleep(CALM).await;
    assert!(stopped.ask(&["PING"]).await.is_err(), "{}", stopped.log());
    assert_eq!(state(&world).await, Value::Null);
}

const ZONES: [&str; 3] = ["eu-1a", "eu-1b", "eu-1c"];

/// An agent beside two nodes of one zone, which its config or its environment names.
fn zone_agent(world: &World, cluster: &LabCluster, index: usize) -> Process {
    let (zone, name) = (ZONES[index], format!("agent-{index}"));
    let own = if index == 0 { format!("[agent]\nzone = \"{zone}\"\n") } else { String::new() };
    let all: Vec<String> = cluster.nodes.iter().map(|n| format!("\"{}\"", n.address)).collect();
    let seeds = all.join(", ");
    let beside = all[2 * index..2 * index + 2].iter();
    let beside: String =
        beside.map(|at| format!("[[redis]]\naddress = {at}\ncluster = \"orders\"\n")).collect();
    let table = format!(
        "{own}[[cluster]]\nname = \"orders\"\nseeds = [{seeds}]\nexpect = 6\nreplicas = 1\n{OFF}{beside}"
    );
    let path = world.dir().join(format!("{name}.toml"));
    std::fs::write(&path, table).unwrap();
    let env = [("CONSUL_REDIS_SENTINELS", ""), ("CONSUL_REDIS_ZONE", zone)];
    let env = if index == 0 { &env[..1] } else { &env[..] };
    agent(world, &name, &["--config", path.to_str().unwrap()], env)
}

#[tokio::test]
pub async fn a_cluster_is_made_over_the_zones_of_its_agents_and_dns_answers_by_zone() {
    let (world, cluster) = blank_alone().await;
    let zone_of: BTreeMap<String, &str> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (node.address.to_string(), ZONES[index / 2]))
        .collect();
    let keys = "/v1/kv/redis-ha/cluster/orders/nodes/";
    let client = world.consul.client().unwrap();
    let session = client.put("/v1/session/create", &[], Some(&json!({}))).await.unwrap();
    let session: Value = serde_json::from_slice(&session).unwrap();
    let session = session["ID"].as_str().unwrap();
    let present = "/v1/kv/redis-ha/cluster/orders/agents/before";
    client.put(present, &[("acquire", session)], Some(&json!({}))).await.unwrap();
    for (at, zone) in &zone_of {
        let said = json!({"agent": "before", "host": at, "zone": zone});
        put(&world, &format!("{keys}{at}"), said).await;
    }
    let mut seeds: Vec<String> = zone_of.keys().map(|at| format!("\"{at}\"")).collect();
    seeds.sort();
    let path = world.dir().join("plan.toml");
    let wanted = format!("seeds = [{}]\nexpect = 6\nreplicas = 1\n", seeds.join(", "));
    std::fs::write(&path, format!("[[cluster]]\nname = \"orders\"\n{wanted}")).unwrap();
    let plan = ["--config", path.to_str().unwrap(), "cluster", "create", "orders", "--plan"];
    let planned = text(&run(&world, &plan, &[("CONSUL_REDIS_SENTINELS", "")]));
    for row in planned.lines().skip(3) {
        let in_zones = ZONES.iter().filter(|zone| row.contains(&format!(" ({zone})"))).count();
        assert_eq!(in_zones, 2, "{planned}");
    }
    assert_eq!(planned.lines().count(), 6, "{planned}");
    client.call(Method::DELETE, keys, &[("recurse", "")], None, AT_ONCE).await.unwrap();
    client.call(Method::DELETE, present, &[], None, AT_ONCE).await.unwrap();
    // One agent alone waits for the zones that the others are to say.
    let mut agents = vec![zone_agent(&world, &cluster, 0)];
    until_logged(|| logs(&agents), 20, "no agent says in which zone", 1).await;
    agents.extend((1..3).map(|index| zone_agent(&world, &cluster, index)));
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
    let status = printed(&world, "status", &["status", "orders", "--json"]);
    let status = &status[0];
    assert_eq!(status["zones"], json!(zone_of), "{}", logs(&agents));
    for shard in status["shards"].as_array().unwrap() {
        let replica = &shard["replicas"][0];
        let zones = [&shard["primary"], replica].map(|at| zone_of[at.as_str().unwrap()]);
        assert_ne!(zones[0], zones[1], "{shard:#}");
    }
    let shown = text(&run(&world, &["status", "orders"], &[]));
    for (at, zone) in &zone_of {
        assert!(shown.contains(&format!("{at} ({zone})")), "{shown}");
        let name = format!("zone-{zone}.orders.service.consul");
        let ports: BTreeSet<u16> = cluster
            .nodes
            .iter()
            .filter(|node| zone_of[&node.address.to_string()] == *zone)
            .map(|node| node.address.port())
            .collect();
        until(&name, AT_ONCE, || async {
            let found = world.consul.names()?.srv(&name).await.map_err(LabError::new)?;
            let found: BTreeSet<u16> = found.into_iter().map(|(_, port)| port).collect();
            if found == ports { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap();
    }
}

fn codes(world: &World, config: &str) -> Vec<(String, String)> {
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    let said = run(world, &["--config", config, "doctor", "--json"], &env);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let word = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    let clusters = said.as_array().unwrap().iter().filter(|one| one["cluster"] == "orders");
    let all = clusters.flat_map(|one| one["findings"].as_array().unwrap());
    all.map(|finding| (word(finding, "code"), word(finding, "mend"))).collect()
}

/// A shard that was made before its nodes had zones.
#[tokio::test]
async fn a_shard_that_is_in_one_zone_is_spread_as_doctor_says() {
    let (world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let zones = ["eu-1a", "eu-1b", "eu-1c", "eu-1a", "eu-1c", "eu-1b"];
    let agents: Vec<Process> = cluster
        .nodes
        .iter()
        .zip(zones)
        .enumerate()
        .map(|(index, (node, zone))| {
            let table = format!(
                "[[cluster]]\nname = \"orders\"\nseeds = [\"{0}\"]\n{OFF}[[redis]]\naddress = \"{0}\"\ncluster = \"orders\"\n",
                node.address
            );
            let name = format!("agent-{index}");
            let path = world.dir().join(format!("{name}.toml"));
            std::fs::write(&path, table).unwrap();
            let env = [("CONSUL_REDIS_SENTINELS", ""), ("CONSUL_REDIS_ZONE", zone)];
            agent(&world, &name, &["--config", path.to_str().unwrap()], &env)
        })
        .collect();
    until_all_named(&world, &cluster).await;
    let config = world.dir().join("agent-0.toml");
    let config = config.to_str().unwrap();
    let of = |found: Vec<(String, String)>| {
        found.into_iter().find(|(code, _)| code == "cluster-one-zone").map(|(_, mend)| mend)
    };
    let mend = until("the shard is in one zone", REPLACED_WITHIN, || async {
        of(codes(&world, config)).ok_or_else(|| LabError::new("no such finding"))
    });
    let mend = mend.await.unwrap_or_else(|error| panic!("{error}\n{}", logs(&agents)));
    for command in mend.split("; then ") {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["redis-cli", "-h", host, "-p", port, command @ ..] = &words[..] else {
            panic!("{mend}");
        };
        let at = format!("{host}:{port}");
        let node = cluster.nodes.iter().find(|node| node.address.to_string() == at).unwrap();
        node.ask(command).await.unwrap();
    }
    until("each shard is in two zones", REPLACED_WITHIN, || async {
        // A replica that changes its primary is in no name for a moment.
        let status = run(&world, &["status", "orders", "--json"], &[]);
        let status: Value = serde_json::from_slice(&status.stdout).map_err(LabError::new)?;
        let apart = status[0]["shards"].as_array().unwrap().iter().all(|shard| {
            let zone = |at: &Value| &status[0]["zones"][at.as_str().unwrap_or_default()];
            let replicas = shard["replicas"].as_array().unwrap();
            replicas.len() == 1 && zone(&shard["primary"]) != zone(&replicas[0])
        });
        let found = of(codes(&world, config));
        if apart && found.is_none() { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

/// How long a client that was kept is given once the names are right again.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// node-redis, left to itself with the addresses that it was given.
const KEPT_NODE_REDIS: &str = "
const { createCluster } = require('redis');
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
async function main() {
  const client = createCluster({ rootNodes: process.argv.slice(2).map((at) => ({ url: `redis://${at}` })) });
  client.on('error', () => {});
  await client.connect();
  for (let number = 0; ; number++) {
    try {
      const late = sleep(1000).then(() => { throw new Error('no answer within 1000 ms'); });
      await Promise.race([client.set(`kept:${number}`, 'x'), late]);
      console.log('acknowledged', number);
    } catch (error) {
      console.log('failed', number, error.message);
    }
    await sleep(100);
  }
}
process.on('unhandledRejection', () => {});
main();
";

/// All nodes come back at other addresses, as containers do that are started anew, while a program writes; until the
/// names are right.
async fn all_addresses_change(
    name: &str,
    interpreter: &Path,
    args: impl Fn(&World, &LabCluster) -> Vec<String>,
) -> (World, LabCluster, Sample, Vec<Process>) {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    register(&world, &cluster.nodes[0]).await;
    let config = config(&world, OFF);
    let agents = vec![started(&world, &config)];
    until_all_named(&world, &cluster).await;
    let sample = Sample::start(&world, interpreter, &args(&world, &cluster));
    sample.until_some_more().await;
    deregister(&world, &cluster.nodes[0]).await;
    all_move(&mut world, &mut cluster).await;
    println!("{name}: the name has all new addresses");
    (world, cluster, sample, agents)
}

/// A sample of docs/clients.md looks the name up anew.
async fn a_sample_writes_on(name: &str, interpreter: PathBuf, args: Vec<String>) {
    let (_world, _cluster, sample, _agents) =
        all_addresses_change(name, &interpreter, |_, _| args.clone()).await;
    let (begun, seen) = (Instant::now(), sample.lines().len());
    let again = |lines: &[Line]| lines.iter().any(|line| line.acknowledged);
    sample.until("it writes again", seen, again).await;
    println!("{name} writes {} ms after the name was right", begun.elapsed().as_millis());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    sample.until_some_more().await;
}

#[tokio::test]
async fn the_sample_for_redis_py_writes_on_when_all_addresses_change() {
    let args = sample("redis_py_cluster.py");
    a_sample_writes_on("redis-py", interpreter("python-with-redis"), args).await;
}

#[tokio::test]
async fn the_sample_for_redis_rs_writes_on_when_all_addresses_change() {
    a_sample_writes_on("redis-rs", example("redis_rs_cluster"), Vec::new()).await;
}

#[tokio::test]
async fn the_sample_for_node_redis_writes_on_when_all_addresses_change() {
    let args = sample("node_redis_cluster.js");
    a_sample_writes_on("node-redis", interpreter("node-with-redis"), args).await;
}

/// Without a new client: as docs/clients.md says.
#[tokio::test]
async fn a_node_redis_that_is_kept_does_not_find_the_new_addresses() {
    let args = |world: &World, cluster: &LabCluster| {
        let script = world.dir().join("kept.js");
        std::fs::write(&script, KEPT_NODE_REDIS).unwrap();
        let at = cluster.nodes.iter().map(|node| node.address.to_string());
        std::iter::once(script.display().to_string()).chain(at).collect()
    };
    let node = interpreter("node-with-redis");
    let (_world, _cluster, kept, _agents) = all_addresses_change("kept", &node, args).await;
    let seen = kept.lines().len();
    tokio::time::sleep(KEPT_FOR).await;
    let back = kept.lines().iter().skip(seen).any(|line| line.acknowledged);
    assert!(!back, "docs/clients.md says otherwise\n{}", kept.process.log());
}

#[tokio::test]
async fn a_redis_rs_connection_that_is_kept_does_not_find_the_new_addresses() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    register(&world, &cluster.nodes[0]).await;
    let config = config(&world, OFF);
    let _agents = [started(&world, &config)];
    until_all_named(&world, &cluster).await;
    let at = cluster.nodes.iter().map(|node| format!("redis://{}", node.address));
    let client = redis::cluster::ClusterClientBuilder::new(at)
        .connection_timeout(Duration::from_secs(1))
        .response_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut kept = client.get_async_connection().await.unwrap();
    let set = redis::Cmd::new().arg("SET").arg("kept").arg(1).to_owned();
    set.query_async::<()>(&mut kept).await.unwrap();
    deregister(&world, &cluster.nodes[0]).await;
    all_move(&mut world, &mut cluster).await;
    let begun = Instant::now();
    while begun.elapsed() < KEPT_FOR {
        let said = tokio::time::timeout(KEPT_FOR, set.query_async::<()>(&mut kept)).await;
        assert!(!matches!(said, Ok(Ok(()))), "docs/clients.md says otherwise");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The names are right: another client writes.
    let at = cluster.nodes.iter().map(|node| format!("redis://{}", node.address));
    let client = redis::cluster::ClusterClient::new(at).unwrap();
    let mut next = client.get_async_connection().await.unwrap();
    set.query_async::<()>(&mut next).await.unwrap();
}
