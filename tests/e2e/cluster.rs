//! Redis Cluster on real nodes: which of them can take requests, and which are in Consul's names.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};

use crate::support::{
    agent, http_address, logs, off_schema, run, text, until_logged, until_metric, until_named,
    until_writer, world,
};

/// `cluster-node-timeout`, in ms: longer than a busy machine has a node stand still.
pub(crate) const NODE_TIMEOUT_MS: u64 = 4_000;
/// How long a cluster may take to replace a primary: three of these, on a busy machine.
pub(crate) const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// How long agents may take for what they do at once, on a busy machine.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(20);
/// For so long it is looked whether nothing happens.
pub(crate) const CALM: Duration = Duration::from_secs(2);

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

pub(crate) async fn text_of(node: &LabServer, command: &[&str]) -> String {
    consul_redis::redis_link::text(&node.ask(command).await.unwrap()).unwrap()
}

/// Six nodes that know nothing, and nothing else but Consul.
pub(crate) async fn blank_alone() -> (World, LabCluster) {
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    (world, cluster)
}

/// The config of an agent that publishes these clusters, each from its last node.
pub fn config(world: &World, clusters: &[(&str, &LabCluster)]) -> String {
    let table = |(name, cluster): &(&str, &LabCluster)| {
        let seed = &cluster.nodes.last().unwrap().address;
        // Where the nodes are left to their own pace, none is taken for dead by a busy machine.
        format!("[[cluster]]\nname = \"{name}\"\nseeds = [\"{seed}\"]\nfast_failover = \"off\"\n")
    };
    let path = world.dir().join("clusters.toml");
    std::fs::write(&path, clusters.iter().map(table).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Agents that publish `orders`, and know no Sentinel.
pub fn cluster_agents(world: &World, cluster: &LabCluster, count: usize) -> Vec<Process> {
    let config = config(world, &[("orders", cluster)]);
    let args = ["--config", &config, "--listen", "127.0.0.1:0"];
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    (0..count).map(|n| agent(world, &format!("agent-{n}"), &args, &env)).collect()
}

/// The addresses of these nodes, as a name answers them.
pub(crate) fn ats(nodes: &[&LabServer]) -> Vec<String> {
    let mut all: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    all.sort();
    all
}

pub(crate) async fn until_all_named(world: &World, cluster: &LabCluster) {
    let nodes: Vec<&LabServer> = cluster.nodes.iter().collect();
    let (primaries, replicas) = nodes.split_at(nodes.len() / 2);
    until_named(world, "orders-primary", &ats(primaries)).await;
    until_named(world, "orders-replica", &ats(replicas)).await;
    until_named(world, "orders", &ats(&nodes)).await;
}

/// Waits until a name answers what fits.
pub(crate) async fn until_answers(
    world: &World,
    service: &str,
    within: Duration,
    fits: impl Fn(&[String]) -> bool,
) {
    until(service, within, || async {
        let found = world.consul.passing(service).await?;
        if fits(&found) { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

/// What is published.
pub(crate) async fn state(world: &World) -> Value {
    let text = world.consul.key("redis-ha/cluster/orders/state").await.unwrap();
    text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// The number of a node's shard. Which is which depends on what was seen first, where the cluster was still being made.
pub(crate) async fn shard_of(world: &World, node: &LabServer) -> u32 {
    let (state, its) = (state(world).await, node.address.to_string());
    let mut nodes = state["nodes"].as_object().unwrap().values();
    let found = nodes.find(|found| found["address"] == its.as_str()).unwrap();
    u32::try_from(found["shard"].as_u64().unwrap()).unwrap()
}

pub(crate) async fn generation(world: &World) -> u64 {
    state(world).await["generation"].as_u64().unwrap()
}

/// Waits until nothing is written any more. The generation.
pub(crate) async fn until_calm(world: &World) -> u64 {
    until("nothing is written any more", REPLACED_WITHIN, || async {
        let before = state(world).await;
        tokio::time::sleep(CALM).await;
        let after = state(world).await;
        if before == after { Ok(()) } else { Err(LabError(format!("{after:#}"))) }
    })
    .await
    .unwrap();
    generation(world).await
}

/// The shard of a node, by its tag in DNS.
async fn until_in_shard(world: &World, shard: u32, node: &LabServer) {
    let name = format!("shard-{shard}.orders-primary.service.consul");
    until(&name, AT_ONCE, || async {
        let found = world.consul.names()?.srv(&name).await.map_err(LabError::new)?;
        let ports: Vec<u16> = found.into_iter().map(|(_, port)| port).collect();
        if ports == [node.address.port()] { Ok(()) } else { Err(LabError(format!("{ports:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
pub async fn a_cluster_is_in_the_names_through_the_death_of_a_primary_and_its_return() {
    let (world, mut cluster) = blank_alone().await;
    let agents = cluster_agents(&world, &cluster, 1);
    let log = || logs(&agents);
    until_logged(log, 20, "the nodes are blank", 1).await;
    assert_eq!(state(&world).await, Value::Null);
    cluster.create().await.unwrap();
    until_all_named(&world, &cluster).await;
    let mut shards = Vec::new();
    for node in &cluster.nodes[..3] {
        shards.push(shard_of(&world, node).await);
        until_in_shard(&world, shards[shards.len() - 1], node).await;
    }
    let its = shards[0];
    shards.sort_unstable();
    shards.dedup();
    assert_eq!(shards.len(), 3, "{shards:?}");
    let seeds = world.consul.key("redis-ha/cluster/orders/seeds").await.unwrap().unwrap();
    assert_eq!(seeds.lines().count(), 6, "{seeds}");
    let url = http_address(&agents[0]).await;
    until_metric(&url, "consul_redis_cluster_slots_served{cluster=\"orders\"} 16384.0").await;
    let before = until_calm(&world).await;

    let dead = cluster.nodes[0].address.to_string();
    cluster.nodes[0].kill();
    until_answers(&world, "orders-primary", AT_ONCE, |found| !found.contains(&dead)).await;
    let nodes = &cluster.nodes;
    let primaries = ats(&[&nodes[1], &nodes[2], &nodes[3]]);
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found == primaries).await;
    until_named(&world, "orders-primary", &primaries).await;
    until_named(&world, "orders-replica", &ats(&[&nodes[4], &nodes[5]])).await;
    until_in_shard(&world, its, &nodes[3]).await;
    let key = format!("redis-ha/cluster/orders/shards/{its}/primary");
    let key = world.consul.key(&key).await.unwrap();
    assert_eq!(key, Some(nodes[3].address.to_string()));
    let after = until_calm(&world).await;
    assert!(after > before, "{after}");
    let asked = run(&world, &["cluster", "orders", "--json"], &[]);
    assert_eq!(asked.status.code(), Some(3), "{}", text(&asked));
    let said: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(off_schema("cluster", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!(said["published"]["generation"], after);
    assert_eq!(said["published"]["unfit"][0]["address"], dead);

    cluster.nodes[0].restart().await.unwrap();
    let nodes = &cluster.nodes;
    let replicas = ats(&[&nodes[0], &nodes[4], &nodes[5]]);
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found == replicas).await;
    let shown = run(&world, &["cluster", "orders"], &[]);
    assert!(
        text(&shown).contains("published as orders: 3 in orders-primary, 3 in orders-replica"),
        "{}",
        text(&shown)
    );
    let log = logs(&agents);
    assert!(
        log.contains(&format!("{dead} ("))
            && log.contains(&format!("primary of shard {its}, leaves")),
        "{log}"
    );
}

/// It says that all is well, and serves reads that grow old.
#[tokio::test]
pub async fn a_node_that_all_others_have_forgotten_is_in_no_name() {
    let (world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let _agents = cluster_agents(&world, &cluster, 1);
    until_all_named(&world, &cluster).await;
    let forgotten = &cluster.nodes[5];
    let (its, address) = (id(forgotten).await.unwrap(), forgotten.address.to_string());
    for node in &cluster.nodes[..5] {
        node.ask(&["CLUSTER", "FORGET", &its]).await.unwrap();
    }
    until_answers(&world, "orders", AT_ONCE, |found| found.len() == 5 && !found.contains(&address))
        .await;
    let info = text_of(forgotten, &["CLUSTER", "INFO"]).await;
    assert!(info.contains("cluster_state:ok"), "{info}");
}

#[tokio::test]
pub async fn of_two_agents_one_is_enough_and_each_change_is_written_once() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let mut agents = cluster_agents(&world, &cluster, 2);
    until_all_named(&world, &cluster).await;
    let before = until_calm(&world).await;
    // On a busy machine another node may be silent for a moment, and that is a change, too.
    let its = format!("{} (", cluster.nodes[4].address);
    let departures = |log: String| {
        log.lines().filter(|line| line.contains(&its) && line.contains(" leaves: ")).count()
    };
    let left = departures(agents[1].log());
    cluster.nodes[4].kill();
    let nodes = &cluster.nodes;
    until_named(&world, "orders-replica", &ats(&[&nodes[3], &nodes[5]])).await;
    let after = until_calm(&world).await;
    assert_eq!(departures(agents[1].log()), left + 1, "{}", logs(&agents));
    agents[0].kill();
    cluster.nodes[4].restart().await.unwrap();
    until_all_named(&world, &cluster).await;
    assert!(after > before && until_calm(&world).await > after);
    assert_eq!(state(&world).await["by"], "agent-1");
}

#[tokio::test]
pub async fn all_nodes_stop_and_are_started_again() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let agents = cluster_agents(&world, &cluster, 2);
    until_all_named(&world, &cluster).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    for service in ["orders", "orders-primary", "orders-replica"] {
        until_answers(&world, service, AT_ONCE, <[String]>::is_empty).await;
    }
    let before = generation(&world).await;
    for node in &mut cluster.nodes {
        node.restart().await.unwrap();
    }
    let all: Vec<&LabServer> = cluster.nodes.iter().collect();
    let all = ats(&all);
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == all).await;
    // Which of them lead is the cluster's own matter.
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    assert!(generation(&world).await > before, "{}", logs(&agents));
}

/// Beside a group, with the rights that the page names and no others.
#[tokio::test]
pub async fn two_clusters_and_a_group_are_in_one_consul() {
    let master_token = Some("11111111-2222-3333-4444-555555555555".to_owned());
    let spec = WorldSpec { redis: 2, sentinels: 1, master_token, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let mut clusters = Vec::new();
    for name in ["orders", "carts"] {
        let names: Vec<String> = (0..4).map(|n| format!("{name}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
        cluster.create().await.unwrap();
        clusters.push(cluster);
    }
    let read = |path: &str| {
        std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let page = read("docs/cluster.md");
    let rules = page.split("```hcl\n").nth(1).unwrap().split("```").next().unwrap();
    let rules =
        [read("consul/agent-policy.hcl"), rules.to_owned(), rules.replace("orders", "carts")];
    let token = world.consul.token("agent", &rules.concat()).await.unwrap();
    let config = config(&world, &[("orders", &clusters[0]), ("carts", &clusters[1])]);
    let args = ["--config", &config, "--listen", "127.0.0.1:0"];
    let agent = agent(&world, "agent-0", &args, &[("CONSUL_HTTP_TOKEN", &token)]);
    until_writer(&world, "redis", 40, None).await;
    for (name, cluster) in ["orders", "carts"].into_iter().zip(&mut clusters) {
        let all: Vec<&LabServer> = cluster.nodes.iter().collect();
        let (all, primaries) = (ats(&all), ats(&all[..2]));
        until_answers(&world, name, AT_ONCE, |found| found == all).await;
        let named = format!("{name}-primary");
        until_answers(&world, &named, AT_ONCE, |found| found == primaries).await;
    }
    clusters[1].nodes[3].kill();
    until_answers(&world, "carts-replica", AT_ONCE, |found| found.len() == 1).await;
    assert_eq!(world.consul.passing("orders").await.unwrap().len(), 4);
    // The agent hears of the write's end a moment after readers see it.
    let line = "consul_redis_cluster_nodes{cluster=\"carts\",published=\"none\"} 1.0";
    until_metric(&http_address(&agent).await, line).await;
    // The directory of the clusters is no group.
    let status = run(&world, &["status"], &[]);
    assert!(!text(&status).contains("cluster:"), "{}", text(&status));
}

/// Waits until `status` says that these slots migrate.
async fn until_migrating(world: &World, wanted: &Value) {
    until("the slots that migrate", AT_ONCE, || async {
        let shown = run(world, &["status", "orders", "--json"], &[]);
        let said: Value = serde_json::from_slice(&shown.stdout).map_err(LabError::new)?;
        assert_eq!(off_schema("status", &said), Vec::<String>::new(), "{said:#}");
        let found = &said[0]["migrations"];
        if found == wanted { Ok(()) } else { Err(LabError(format!("{found:#}"))) }
    })
    .await
    .unwrap();
}

/// As `redis-cli --cluster reshard` moves them.
#[tokio::test]
pub async fn a_slot_that_moves_is_followed_and_changes_no_name() {
    let (world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let agents = cluster_agents(&world, &cluster, 2);
    until_all_named(&world, &cluster).await;
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[2]);
    let (its, other) = (id(from).await.unwrap(), id(to).await.unwrap());
    let shards = (shard_of(&world, from).await, shard_of(&world, to).await);
    to.ask(&["CLUSTER", "SETSLOT", "0", "IMPORTING", &its]).await.unwrap();
    from.ask(&["CLUSTER", "SETSLOT", "0", "MIGRATING", &other]).await.unwrap();
    let (at, there) = (from.address.to_string(), to.address.to_string());
    until_migrating(&world, &json!([{"slots": ["0"], "from": at, "to": there}])).await;
    for command in ["status", "cluster"] {
        let shown = text(&run(&world, &[command, "orders"], &[]));
        let row = shown.split_once("slots that migrate").map(|(_, rest)| rest.trim_start());
        assert!(row.is_some_and(|row| row.starts_with(&format!("0  {at} -> {there}"))), "{shown}");
    }
    for node in [to, from] {
        node.ask(&["CLUSTER", "SETSLOT", "0", "NODE", &other]).await.unwrap();
    }
    let moved = format!("0-0 {}\n1-5461 {}\n", to.address, from.address);
    until("the keys follow", AT_ONCE, || async {
        let slots = world.consul.key("redis-ha/cluster/orders/slots").await?.unwrap_or_default();
        if slots.starts_with(&moved) { Ok(()) } else { Err(LabError(slots)) }
    })
    .await
    .unwrap();
    until_migrating(&world, &json!([])).await;
    until_all_named(&world, &cluster).await;
    until_in_shard(&world, shards.0, from).await;
    until_in_shard(&world, shards.1, to).await;
    let log = logs(&agents);
    assert!(!log.contains("nothing enters the names"), "{log}");
}
