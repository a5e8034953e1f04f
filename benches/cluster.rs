//! A shard of a Redis Cluster: how long after the death of its primary can a client write to its slots again?
//!
//! Six nodes, one Consul server, one agent, and what people run today. An oracle writes to the shard's replica directly;
//! its first acknowledged write is the first instant that any was possible. The client of consul-redis looks the shard's
//! name up for each write, and follows no redirection. Beside it a poller that asks each node every second for its
//! `cluster_state`, whose client follows one redirection, and redis-py's own discovery. The figures are the first
//! acknowledged write of each, behind the oracle. `docs/race.md` keeps the table.
//!
//! `make race` runs it; `CLUSTER_KILLS=<n>` sets the number of kills, `CLUSTER_HASTE=off` leaves the death to the nodes.

#![expect(clippy::expect_used, clippy::panic, reason = "a race that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use consul_redis::clock::wall;
use consul_redis::cluster::ask;
use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::write_to;
use consul_redis::lab::cluster::LabCluster;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::Tool;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::LinkSettings;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use figures::{median, worst};

/// Kills, unless CLUSTER_KILLS says otherwise.
const KILLS: usize = 10;
/// `cluster-node-timeout`, in ms.
const NODE_TIMEOUT_MS: u64 = 3_000;
/// Pause of every client between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// How long all clients write before a kill.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for the slowest contender.
const SLOWEST: Duration = Duration::from_secs(60);
/// The slot of the key that is written (`consul-redis`).
const SLOT: u64 = 360;
/// The reach: behind the oracle, median, in ms.
const REACH_MS: f64 = 60.0;
/// The poller's name.
const POLLER: &str = "poller";

const CONTENDERS: [(&str, &str); 3] = [
    ("shard", "consul-redis, the shard's name"),
    (POLLER, "poller of cluster_state, every second"),
    ("redis-py", "redis-py's own discovery"),
];

fn main() {
    support::run(race());
}

async fn race() {
    let kills = std::env::var("CLUSTER_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let haste = std::env::var("CLUSTER_HASTE").unwrap_or_else(|_| "vote".to_owned());
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = World::start(spec).await.expect("a world");
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await;
    let mut cluster = cluster.expect("nodes");
    cluster.create().await.expect("a cluster");
    let seeds: Vec<String> = cluster.nodes.iter().map(|n| format!("\"{}\"", n.address)).collect();
    let config = world.dir().join("agent.toml");
    let text = format!(
        "[[cluster]]\nname = \"orders\"\nseeds = [{}]\nfast_failover = \"{haste}\"\n",
        seeds.join(", ")
    );
    std::fs::write(&config, text).expect("a config");
    let args = ["--config", config.to_str().expect("a path")];
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    let _agent = world.start_agent(&support::program(), "agent", &args, &env).expect("an agent");
    let _poller = poll(&world, &cluster);
    let shard = until_published(&world).await;

    let mut behind: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut oracle = Vec::new();
    for kill in 1..=kills {
        let lap = one_kill(&world, &mut cluster, shard).await;
        eprintln!(
            "kill {kill} of {kills}: writable after {:.0} ms; {:.1?}",
            lap.oracle, lap.behind
        );
        oracle.push(lap.oracle);
        for (name, ms) in lap.behind {
            behind.entry(name).or_default().push(ms);
        }
        until_settled(&world, &cluster).await;
    }
    println!(
        "First acknowledged write to a shard whose primary died, behind the oracle, {kills} kills, cluster-node-timeout \
         {NODE_TIMEOUT_MS}, fast_failover {haste} (the oracle itself: {:.0} ms after the kill, worst {:.0} ms):\n\n\
         | contender | median ms | worst ms |\n|---|---:|---:|",
        median(&oracle),
        worst(&oracle)
    );
    for (name, label) in CONTENDERS {
        println!("| {label} | {:.1} | {:.1} |", median(&behind[name]), worst(&behind[name]));
    }
    let reached = median(&behind["shard"]) <= REACH_MS;
    let held = if reached { "held" } else { "NOT held" };
    println!("\nthe shard's name at most {REACH_MS} ms behind the oracle, median: {held}");
}

/// What is published. `None` before that.
async fn state(world: &World) -> Option<Value> {
    let text = world.consul.key("redis-ha/cluster/orders/state").await.ok()??;
    serde_json::from_str(&text).ok()
}

/// The number of the shard that is killed, once all are published.
async fn until_published(world: &World) -> u64 {
    until("three primaries and three replicas", SLOWEST, || async {
        for name in ["orders-primary", "orders-replica"] {
            let found = world.consul.passing(name).await?;
            if found.len() != 3 {
                return Err(LabError(format!("{name}: {found:?}")));
            }
        }
        let state = state(world).await.ok_or_else(|| LabError::new("no state"))?;
        let shards = state["shards"].as_object().cloned().unwrap_or_default();
        let of_slot = shards.into_iter().find(|(_, shard)| {
            let first = shard["slots"][0].as_str().unwrap_or_default().split('-').next();
            first == Some("0")
        });
        let number = of_slot.and_then(|(number, _)| number.parse().ok());
        number.ok_or_else(|| LabError::new("no shard"))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

/// All nodes are in the names again, and the shard has had its primary for four times the timeout.
async fn until_settled(world: &World, cluster: &LabCluster) {
    until_published(world).await;
    until("every node says that all is well", SLOWEST, || async {
        for node in &cluster.nodes {
            let answer = ask(&node.address, &node.login).await.map_err(LabError::new)?;
            if !answer.state_ok || answer.table.rows.values().any(|row| !row.is_well()) {
                return Err(LabError(format!("{}: {answer:?}", node.address)));
            }
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 500)).await;
}

/// Registers every second each node that says `cluster_state:ok`, as scripts do.
fn poll(world: &World, cluster: &LabCluster) -> AbortOnDropHandle<()> {
    let client = world.consul.client().expect("a client");
    let nodes: Vec<(Address, LinkSettings)> =
        cluster.nodes.iter().map(|node| (node.address.clone(), node.login.clone())).collect();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            for (address, login) in &nodes {
                let ok = ask(address, login).await.is_ok_and(|answer| answer.state_ok);
                let id = format!("{POLLER}-{address}");
                let service = json!({"ID": id, "Service": POLLER, "Address": address.host(),
                    "Port": address.port()});
                let (path, body) = match ok {
                    true => (
                        "/v1/catalog/register",
                        json!({"Node": POLLER, "Address": "127.0.0.1", "Service": service}),
                    ),
                    false => ("/v1/catalog/deregister", json!({"Node": POLLER, "ServiceID": id})),
                };
                let _ = client.put(path, &[], Some(&body)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }))
}

struct Lap {
    /// From the kill to the first write that the shard took, in ms.
    oracle: f64,
    /// For each contender, ms behind that.
    behind: Vec<(&'static str, f64)>,
}

/// The last acknowledged write of a client: who took it, and when.
type Last = watch::Receiver<Option<(Address, Instant)>>;

async fn one_kill(world: &World, cluster: &mut LabCluster, shard: u64) -> Lap {
    let old = owner(world, shard).await;
    let by_name = write_by_shard(world, cluster, shard);
    let by_poller = write_by_poller(world, cluster);
    let library = Library::start(world, cluster);
    tokio::time::sleep(WARM_UP).await;
    let index = cluster.nodes.iter().position(|node| node.address == old).expect("the owner");
    cluster.nodes[index].kill();
    let (killed, killed_at) = (Instant::now(), wall());
    let oracle = oracle(cluster, index).await;
    let mut behind = Vec::new();
    for (name, (mut last, _task)) in [("shard", by_name), (POLLER, by_poller)] {
        let moved = |last: &Option<(Address, Instant)>| {
            last.as_ref().is_some_and(|(by, at)| *by != old && *at > killed)
        };
        let found = tokio::time::timeout(SLOWEST, last.wait_for(moved)).await;
        let found = found.unwrap_or_else(|_| panic!("{name} never moved")).expect("a client");
        let at = found.as_ref().expect("a write").1;
        behind.push((name, ms(at.saturating_duration_since(oracle))));
    }
    let took = library.first_after(killed_at).await;
    let oracle_ms = ms(oracle.saturating_duration_since(killed));
    behind.push(("redis-py", (took - oracle_ms).max(0.0)));
    cluster.nodes[index].restart().await.expect("back");
    Lap { oracle: oracle_ms, behind }
}

/// Who owns the shard, as it is published.
async fn owner(world: &World, shard: u64) -> Address {
    let key = format!("redis-ha/cluster/orders/shards/{shard}/primary");
    let found = world.consul.key(&key).await.expect("an answer").expect("a primary");
    found.parse().expect("an address")
}

/// Writes to all that are left, without pause, until one takes it.
async fn oracle(cluster: &LabCluster, dead: usize) -> Instant {
    let nodes: Vec<_> = cluster.nodes.iter().enumerate().filter(|(n, _)| *n != dead).collect();
    let ended = tokio::time::timeout(SLOWEST, async {
        loop {
            for (_, node) in &nodes {
                if write_to(&node.address, &node.login, "oracle").await.is_ok() {
                    return Instant::now();
                }
            }
        }
    });
    ended.await.expect("a failover")
}

/// Looks the shard's name up for each write, and follows no redirection.
fn write_by_shard(
    world: &World,
    cluster: &LabCluster,
    shard: u64,
) -> (Last, AbortOnDropHandle<()>) {
    let names = world.consul.names().expect("a DNS client");
    let login = cluster.nodes[0].login.clone();
    let name = format!("shard-{shard}.orders-primary.service.consul");
    let (send, last) = watch::channel(None);
    let task = tokio::spawn(async move {
        loop {
            let (ips, ports) = tokio::join!(names.a(&name), names.srv(&name));
            let place = ips.ok().and_then(|ips| ips.first().copied());
            let port = ports.ok().and_then(|found| found.first().map(|(_, port)| *port));
            if let (Some(ip), Some(port)) = (place, port)
                && let Ok(address) = Address::new(&ip.to_string(), port)
                && write_to(&address, &login, "name").await.is_ok()
            {
                send.send_replace(Some((address, Instant::now())));
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    (last, AbortOnDropHandle::new(task))
}

/// Asks for all nodes that say that they are well, and goes where the first of them sends it.
fn write_by_poller(world: &World, cluster: &LabCluster) -> (Last, AbortOnDropHandle<()>) {
    let client = world.consul.client().expect("a client");
    let login = cluster.nodes[0].login.clone();
    let (send, last) = watch::channel(None);
    let task = tokio::spawn(async move {
        loop {
            let path = format!("/v1/catalog/service/{POLLER}");
            let found = client.get::<Vec<Value>>(&path, &[]).await;
            let found = found.map(|answer| answer.value).unwrap_or_default();
            for row in found {
                let (host, port) = (row["ServiceAddress"].as_str(), row["ServicePort"].as_u64());
                let Some((host, port)) = host.zip(port) else { continue };
                let port = u16::try_from(port).unwrap_or_default();
                let Ok(address) = Address::new(host, port) else { continue };
                let to = match write_to(&address, &login, "poller").await {
                    Ok(()) => address,
                    Err(LabError(why)) => {
                        let moved = why.split_once(&format!("MOVED {SLOT} "));
                        let Some((_, to)) = moved else { continue };
                        let to = to.trim_end_matches(|c: char| !c.is_ascii_digit());
                        let Ok(to) = to.parse::<Address>() else { continue };
                        if write_to(&to, &login, "poller").await.is_err() {
                            continue;
                        }
                        to
                    }
                };
                send.send_replace(Some((to, Instant::now())));
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    (last, AbortOnDropHandle::new(task))
}

/// A program with redis-py, which says when each write was acknowledged.
struct Library {
    process: Process,
}

impl Library {
    fn start(world: &World, cluster: &LabCluster) -> Self {
        let script = world.dir().join("library.py");
        std::fs::write(&script, include_str!("support/library.py")).expect("a script");
        let python = std::env::var_os("PYTHON_WITH_REDIS").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/python-with-redis"),
            PathBuf::from,
        );
        let mut args = vec![script.display().to_string()];
        args.extend(cluster.nodes.iter().map(|node| node.address.to_string()));
        let tool = Tool::at(python);
        let process = Process::start("library", &tool, &args, &[], world.dir(), Life::WithUs);
        Self { process: process.expect("Python with redis-py: scripts/tools.sh clients") }
    }

    /// From then to its first write that was acknowledged after that, in ms.
    async fn first_after(&self, killed: Timestamp) -> f64 {
        let killed = killed.as_microsecond() as f64 / 1e6;
        let found = until("redis-py writes again", SLOWEST, || async {
            let log = self.process.log();
            // What was under way at the kill may have been answered before.
            let times = log.lines().filter_map(|line| line.parse::<f64>().ok());
            let mut after = times.filter(|at| *at > killed + 0.05);
            after.next().ok_or_else(|| LabError(log.lines().last().unwrap_or_default().to_owned()))
        });
        (found.await.unwrap_or_else(|error| panic!("{error}")) - killed) * 1_000.0
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
