//! Very many groups on one agent: what it costs, and how late a name is.
//!
//! One Consul server, three Sentinels, two instances a group. The Sentinels and instances are RESP servers in this
//! process that answer as Redis and Sentinel do (`consul_redis::lab::many`): no bench machine holds 2,000 Redis. Their
//! deaths have a script, and the oracle is the instant at which the replica says that it is the primary. A name is there
//! when a blocking query of the key that is written with it answers. `docs/scale.md` keeps the table.
//!
//! `make scale` runs it; `SCALE_GROUPS=10,100` sets the numbers of groups, `SCALE_KILLS=<n>` those of single kills,
//! `SCALE_AT_ONCE=<n>` how many die at once, `SCALE_AGENTS=<n>` the number of agents.

#![expect(clippy::expect_used, reason = "a bench that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::many::{CommandCounts, ManyGroups};
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use figures::{median, worst};

/// Numbers of groups, unless SCALE_GROUPS says otherwise.
const GROUPS: &str = "10,100,300,1000";
/// Single kills, unless SCALE_KILLS says otherwise.
const KILLS: usize = 10;
/// Primaries that die at once, unless SCALE_AT_ONCE says otherwise; half of the groups at most.
const AT_ONCE: usize = 100;
/// Longest wait until all groups are published.
const START_MAX: Duration = Duration::from_secs(60);
/// After the start, until nothing is done any more that is done once: all keys are read once more, 25 ms a group.
const SETTLED_AFTER: Duration = Duration::from_secs(20);
const SETTLED_SHARE: Duration = Duration::from_millis(25);
/// How long the idle agent is watched.
const IDLE: Duration = Duration::from_secs(30);
/// Longest wait for a name.
const NAME_MAX: Duration = Duration::from_secs(60);
/// Until a failover is over for all Sentinels, and the old primary is a replica.
const CALM_AFTER: Duration = Duration::from_secs(4);
/// Where this process asks Consul from: Consul counts connections by address.
const OUR_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

fn main() {
    support::run(scale());
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

async fn scale() {
    let sizes = std::env::var("SCALE_GROUPS").unwrap_or_else(|_| GROUPS.to_owned());
    let sizes: Vec<usize> = sizes.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let agents = number("SCALE_AGENTS", 1);
    println!("Agents: {agents}. CPU, memory and connections are those of the first one.\n");
    println!(
        "| groups | start, s | CPU idle, % | memory, MB | connections to Consul | requests to Consul, /s | commands \
         at a Sentinel, /s | commands at instances, /s | one failover: behind the oracle, ms, median (worst) | entries \
         in Consul's log a failover | at once | behind, ms, median (worst) |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for groups in sizes {
        println!("{}", Figures::measure(groups, agents).await.row());
    }
}

struct Figures {
    groups: usize,
    start: Duration,
    cpu: f64,
    memory_mb: f64,
    connections: usize,
    requests: f64,
    at_sentinel: f64,
    at_instances: f64,
    single: Vec<f64>,
    /// Entries in Consul's log, for each single kill.
    entries: f64,
    at_once: Vec<f64>,
}

impl Figures {
    async fn measure(groups: usize, agents: usize) -> Self {
        let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
        let world = World::start(spec).await.expect("a world");
        let many = ManyGroups::start(groups).await.expect("groups");
        let http = reqwest::Client::builder().local_address(OUR_IP).build().expect("a client");
        let consul = Asker { http, base: format!("http://{}", world.consul.http) };
        let config = world.dir().join("agent.toml");
        std::fs::write(&config, config_of(&many)).expect("a config");
        let args = ["--config", config.to_str().expect("a path")];
        let began = Instant::now();
        let running: Vec<Process> = (0..agents)
            .map(|n| {
                let name = format!("agent-{n}");
                world.start_agent(&support::program(), &name, &args, &[]).expect("an agent")
            })
            .collect();
        let agent = running.first().expect("an agent");
        until("all groups are published", START_MAX, || async {
            let found = consul.primaries().await?;
            if found == groups { Ok(()) } else { Err(LabError(format!("{found} of {groups}"))) }
        })
        .await
        .expect("all groups published");
        let start = began.elapsed();
        let share = SETTLED_SHARE.saturating_mul(u32::try_from(groups).expect("a number"));
        tokio::time::sleep(SETTLED_AFTER + share).await;
        let (cpu, asked) = (cpu_of(agent.id()), many.asked());
        tokio::time::sleep(IDLE).await;
        let cpu = (cpu_of(agent.id()) - cpu) / IDLE.as_secs_f64() * 100.0;
        let asked = less(many.asked(), asked);
        let rate = |count: u64| count as f64 / IDLE.as_secs_f64();
        let (requests, memory_mb) = (consul.requests().await, memory_of(agent.id()));
        let connections = connections_to(world.consul.http.port());
        let mut single = Vec::new();
        let entries = consul.entries().await;
        for kill in 0..number("SCALE_KILLS", KILLS).min(groups) {
            let group = kill * (groups / number("SCALE_KILLS", KILLS).clamp(1, groups));
            single.extend(kill_all(&many, &consul, vec![group]).await);
            tokio::time::sleep(CALM_AFTER).await;
        }
        let entries = (consul.entries().await - entries) / single.len().max(1) as f64;
        let count = number("SCALE_AT_ONCE", AT_ONCE).min(groups / 2);
        let all: Vec<usize> = (0..count).map(|n| n * (groups / count) + 1).collect();
        let at_once = kill_all(&many, &consul, all).await;
        if let Some(kept) = std::env::var_os("SCALE_LOG") {
            std::fs::write(kept, agent.log()).expect("a log");
        }
        Self {
            groups,
            start,
            cpu,
            memory_mb,
            connections,
            requests,
            at_sentinel: rate(asked.sentinels) / 3.0,
            at_instances: rate(asked.instances),
            single,
            entries,
            at_once,
        }
    }

    fn row(&self) -> String {
        format!(
            "| {} | {:.1} | {:.1} | {:.0} | {} | {:.1} | {:.0} | {:.0} | {:.1} ({:.1}) | {:.1} | {} | {:.1} ({:.1}) |",
            self.groups,
            self.start.as_secs_f64(),
            self.cpu,
            self.memory_mb,
            self.connections,
            self.requests,
            self.at_sentinel,
            self.at_instances,
            median(&self.single),
            worst(&self.single),
            self.entries,
            self.at_once.len(),
            median(&self.at_once),
            worst(&self.at_once)
        )
    }
}

fn less(now: CommandCounts, before: CommandCounts) -> CommandCounts {
    CommandCounts {
        sentinels: now.sentinels - before.sentinels,
        instances: now.instances - before.instances,
    }
}

fn config_of(many: &ManyGroups) -> String {
    let sentinels: Vec<String> =
        many.sentinels().iter().map(|sentinel| format!("\"{sentinel}\"")).collect();
    let mut text = format!("[sentinels]\naddresses = [{}]\n", sentinels.join(", "));
    for name in many.names() {
        text.push_str(&format!("[[group]]\nname = \"{name}\"\nservice = \"{name}\"\n"));
    }
    text
}

/// Kills the primaries of these groups at once. How long after the promotion each name answered the new one, in ms.
async fn kill_all(many: &ManyGroups, consul: &Asker, groups: Vec<usize>) -> Vec<f64> {
    let names = many.names();
    let mut watches = JoinSet::new();
    for group in &groups {
        let (asker, name) = (consul.clone(), names[*group].clone());
        let old = many.writer(*group).expect("a writer").to_string();
        watches.spawn(async move { (name.clone(), asker.until_moved(&name, &old).await) });
    }
    // So that all of them wait by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let kills = groups.iter().map(|group| many.kill(*group));
    let promoted = futures_util::future::join_all(kills).await;
    let mut at = std::collections::BTreeMap::new();
    for (group, promoted) in groups.iter().zip(promoted) {
        at.insert(names[*group].clone(), promoted.expect("a failover").0);
    }
    let mut behind = Vec::new();
    while let Some(moved) = watches.join_next().await {
        let (name, moved) = moved.expect("a watch");
        behind.push(moved.duration_since(at[&name]).as_secs_f64() * 1_000.0);
    }
    behind
}

/// Asks Consul.
#[derive(Clone)]
struct Asker {
    http: reqwest::Client,
    base: String,
}

impl Asker {
    async fn get(&self, path: &str) -> Result<(u64, Value), LabError> {
        let (index, text) = self.get_text(path).await?;
        Ok((index, serde_json::from_str(&text).map_err(LabError::new)?))
    }

    async fn get_text(&self, path: &str) -> Result<(u64, String), LabError> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await;
        let answer = answer.map_err(LabError::new)?;
        let index = answer.headers().get("X-Consul-Index");
        let index = index.and_then(|index| index.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok((index, answer.text().await.map_err(LabError::new)?))
    }

    /// How many services of primaries there are.
    async fn primaries(&self) -> Result<usize, LabError> {
        let (_, services) = self.get("/v1/catalog/services").await?;
        let services = services.as_object().cloned().unwrap_or_default();
        Ok(services.keys().filter(|name| name.ends_with("-primary")).count())
    }

    /// When Consul first has another writer of a group than `old`.
    async fn until_moved(&self, group: &str, old: &str) -> Instant {
        let (began, mut index) = (Instant::now(), 0);
        while began.elapsed() < NAME_MAX {
            let path = format!("/v1/kv/redis-ha/{group}/primary?raw&wait=30s&index={index}");
            let (now, named) = self.get_text(&path).await.expect("an answer");
            index = now;
            if !named.is_empty() && named != old {
                return Instant::now();
            }
        }
        began + NAME_MAX
    }

    /// Entries in Consul's log.
    async fn entries(&self) -> f64 {
        let (_, own) = self.get("/v1/agent/self").await.expect("an answer");
        let last = own["Stats"]["raft"]["last_log_index"].as_str().unwrap_or_default();
        last.parse().expect("a number")
    }

    /// HTTP requests a second that Consul has answered in the last 10 s, but for this one.
    async fn requests(&self) -> f64 {
        let (_, metrics) = self.get("/v1/agent/metrics").await.expect("metrics");
        let samples = metrics["Samples"].as_array().cloned().unwrap_or_default();
        let of_http = samples.iter().filter(|sample| {
            let name = sample["Name"].as_str().unwrap_or_default();
            name.contains(".http.") || name.ends_with("api.http")
        });
        of_http.filter_map(|sample| sample["Count"].as_f64()).sum::<f64>() / 10.0
    }
}

/// The CPU time of a process, in s.
fn cpu_of(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// The resident memory of a process, in MB.
fn memory_of(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1_024.0
}

/// Open connections to a port, but for ours.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let ours = format!("{:08X}", u32::from_le_bytes([127, 0, 0, 9]));
    let open = table.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, "01", ..] = fields.as_slice() else { return false };
        remote.ends_with(&format!(":{port:04X}")) && !local.starts_with(&ours)
    });
    open.count()
}
