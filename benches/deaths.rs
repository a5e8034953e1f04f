//! Deaths: how long after the end of the writer's process can a client write through the name again, whatever
//! `down-after-milliseconds` says?
//!
//! A world for each `down-after-milliseconds` and each `fast_failover`: three Consul servers with disks, three Redis,
//! three Sentinels and three agents; in node mode beside each Redis with `proof` and `off`, elsewhere with `vote`. A
//! client for each Consul server looks `redis-primary` up for each write; the figure is from the kill to the first write
//! that the last of them gets acknowledged. The peers are in the world with `off`, where no agent hastens the Sentinels
//! for them too; it runs at the same time as the other two, one after the other. `docs/race.md` keeps the table.
//!
//! `make race` runs it; `DEATHS_KILLS=<n>` sets the number of kills, `DEATHS_DOWN_AFTER=<ms>[,<ms>]` the settings.

#![expect(clippy::expect_used, clippy::panic, reason = "a race that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
#[path = "support/peers.rs"]
mod peers;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::clients::{NameWriter, first_primary};
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use tokio::time::Instant;

use figures::{median, worst};
use peers::{PEERS, reconfig_script};

/// Kills in each world, unless DEATHS_KILLS says otherwise.
const KILLS: usize = 20;
/// What Sentinels wait for, in ms, unless DEATHS_DOWN_AFTER says otherwise.
const DOWN_AFTER: &str = "1500,5000,30000";
/// Agents ask for no failover within twice this long of the last one, in ms.
const FAILOVER_TIMEOUT_MS: u64 = 3_000;
/// Pause of a client between two attempts, ...
const PAUSE: Duration = Duration::from_millis(2);
/// ... and where it waits for seconds, beside clients that do not.
const PAUSE_OFF: Duration = Duration::from_millis(20);
/// How long the clients write before a kill.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a failover may take beyond what Sentinels wait for.
const FAILOVER_MAX: Duration = Duration::from_secs(60);
/// The reach with `proof` at 3000 ms and more: median and worst, in ms.
const PROOF_REACH: (f64, f64) = (300.0, 500.0);
/// The reach with `vote`: median, in ms.
const VOTE_REACH: f64 = 700.0;
/// The name that agents keep.
const OURS: &str = "redis-primary";

fn main() {
    support::run(deaths());
}

async fn deaths() {
    let kills = std::env::var("DEATHS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let settings = std::env::var("DEATHS_DOWN_AFTER").unwrap_or_else(|_| DOWN_AFTER.to_owned());
    println!(
        "From the kill to the first acknowledged write through the name, {kills} kills each:\n\n\
         | down-after | contender | median ms | worst ms |\n\
         |---:|---|---:|---:|"
    );
    let (mut proof, mut vote) = (None, None);
    for down_after in settings.split(',') {
        let down_after_ms: u64 = down_after.parse().expect("milliseconds");
        let hastened = async {
            let by_proof = run(down_after_ms, "proof", kills).await;
            (by_proof, run(down_after_ms, "vote", kills).await)
        };
        let ((by_proof, by_vote), off) = tokio::join!(hastened, run(down_after_ms, "off", kills));
        for (mode, took) in [("proof", &by_proof), ("vote", &by_vote), ("off", &off)] {
            let took = &took[OURS];
            let label = format!("consul-redis, `{mode}`");
            println!("{}", row(down_after_ms, &label, took));
            let (held, reached) = match mode {
                "proof" if down_after_ms >= 3_000 => {
                    (&mut proof, median(took) <= PROOF_REACH.0 && worst(took) <= PROOF_REACH.1)
                }
                "vote" => (&mut vote, median(took) <= VOTE_REACH),
                _ => continue,
            };
            *held = Some(held.unwrap_or(true) && reached);
        }
        for (name, label) in PEERS {
            println!("{}", row(down_after_ms, label, &off[name]));
        }
    }
    let words = |held: Option<bool>| match held {
        Some(true) => "held",
        Some(false) => "NOT held",
        None => "not run",
    };
    println!(
        "\nproof at 3000 ms and more, at most {} ms median and {} ms worst: {}; vote, at most {VOTE_REACH} ms median: {}",
        PROOF_REACH.0,
        PROOF_REACH.1,
        words(proof),
        words(vote)
    );
}

fn row(down_after_ms: u64, label: &str, took: &[f64]) -> String {
    format!("| {down_after_ms} | {label} | {:.0} | {:.0} |", median(took), worst(took))
}

/// The names that clients look up in the world with this mode.
fn names(mode: &str) -> impl Iterator<Item = &'static str> {
    let peers = PEERS.into_iter().map(|(name, _)| name).filter(move |_| mode == "off");
    std::iter::once(OURS).chain(peers)
}

/// From each kill to the first acknowledged write through each name, in ms.
async fn run(down_after_ms: u64, mode: &str, kills: usize) -> BTreeMap<&'static str, Vec<f64>> {
    let dir = tempfile::tempdir().expect("a directory");
    let spec = WorldSpec {
        down_after_ms,
        failover_timeout_ms: FAILOVER_TIMEOUT_MS,
        consul_servers: 3,
        script_checks: true,
        reconfig_script: (mode == "off").then(|| reconfig_script(dir.path())),
        ..WorldSpec::default()
    };
    let mut world = World::start(spec).await.expect("a world");
    let _agents = start_agents(&world, mode);
    let first = world.groups[0].redis[0].address.clone();
    let mut _peers = Vec::new();
    if mode == "off" {
        _peers = peers::start(&world, dir.path(), &first).await;
    }
    let mut all = BTreeMap::<&str, Vec<f64>>::new();
    settle(&world, mode).await;
    for _ in 0..kills {
        for (name, took) in one_kill(&mut world, down_after_ms, mode).await {
            all.entry(name).or_default().push(took);
        }
    }
    all
}

fn start_agents(world: &World, mode: &str) -> Vec<Process> {
    let program = support::program();
    let servers = world.groups[0].redis.iter();
    servers
        .map(|server| {
            let name = server.name();
            let path = world.dir().join(format!("{name}.toml"));
            let mut text = format!("[[group]]\nname = \"redis\"\nfast_failover = \"{mode}\"\n");
            if mode != "vote" {
                text.push_str(&format!("[[redis]]\naddress = \"{}\"\n", server.address));
            }
            std::fs::write(&path, text).expect("a config");
            let args = ["--config", path.to_str().expect("a path")];
            world.start_agent(&program, &format!("agent-{name}"), &args, &[]).expect("an agent")
        })
        .collect()
}

async fn one_kill(
    world: &mut World,
    down_after_ms: u64,
    mode: &str,
) -> BTreeMap<&'static str, f64> {
    let (old, _) = first_primary(&world.groups[0].redis).await;
    let login = world.groups[0].redis[0].login.clone();
    let mut clients = Vec::new();
    for server in world.consul_servers() {
        for name in names(mode) {
            // The peers register on one server.
            if name != OURS && server.http != world.consul.http {
                continue;
            }
            let names = server.names().expect("a DNS client");
            let writer = NameWriter {
                names,
                name: format!("{name}.service.consul"),
                port: old.port(),
                login: login.clone(),
            };
            let pause = if mode == "off" { PAUSE_OFF } else { PAUSE };
            let (written, task) = writer.keep_writing(pause);
            clients.push((name, written, task));
        }
    }
    tokio::time::sleep(WARM_UP).await;
    world.server_mut(&old.to_string()).expect("the primary").kill();
    let killed = Instant::now();
    let within = Duration::from_millis(down_after_ms) + FAILOVER_MAX;
    let mut took = BTreeMap::<&str, f64>::new();
    for (name, written, _) in &mut clients {
        let by_another = |written: &consul_redis::lab::clients::Written| {
            written
                .first
                .iter()
                .find(|(address, at)| address != &old && *at > killed)
                .map(|(_, at)| *at)
        };
        let moved = written.wait_for(|written| by_another(written).is_some());
        let moved = tokio::time::timeout(within, moved).await;
        let moved = moved.unwrap_or_else(|_| panic!("{name} never moved from {old}"));
        let at = by_another(&moved.expect("a client")).expect("a write");
        let last = took.entry(*name).or_default();
        *last = last.max(ms(at.saturating_duration_since(killed)));
    }
    drop(clients);
    eprintln!("down-after {down_after_ms}, {mode}: {took:.0?}");
    world.server_mut(&old.to_string()).expect("the old one").restart().await.expect("back");
    settle(world, mode).await;
    // Another failover is asked for after that only.
    tokio::time::sleep(Duration::from_millis(2 * FAILOVER_TIMEOUT_MS)).await;
    took
}

/// Sentinels have nothing on their minds, and every name answers the primary alone.
async fn settle(world: &World, mode: &str) {
    world.calm().await.expect("calm Sentinels");
    let (primary, _) = first_primary(&world.groups[0].redis).await;
    if mode == "off" {
        peers::put_right(world, &primary).await;
    }
    for name in names(mode) {
        let wanted = [primary.to_string()];
        until(name, Duration::from_secs(60), || async {
            let found = world.consul.passing(name).await?;
            if found == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
