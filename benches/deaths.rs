//! Deaths: how long after the end of the writer's process can a client write through the name again, whatever
//! `down-after-milliseconds` says?
//!
//! A world for each `down-after-milliseconds` and each `fast_failover`: three Consul servers with disks, three Redis,
//! three Sentinels and three agents; in node mode beside each Redis with `proof` and `off`, elsewhere with `vote`. A client for each Consul server looks `redis-primary` up for
//! each write; the figure is from the kill to the first write that the last of them gets acknowledged. Beside it a
//! listener of `+switch-master` on all Sentinels keeps a name of its own. `docs/race.md` keeps the table.
//!
//! `make race` runs it; `DEATHS_KILLS=<n>` sets the number of kills, `DEATHS_DOWN_AFTER=<ms>[,<ms>]` the settings.

#![expect(clippy::expect_used, clippy::panic, reason = "a race that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
#[path = "support/listeners.rs"]
mod listeners;
mod support;

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::clients::{NameWriter, first_primary};
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use tokio::time::Instant;

use figures::{median, worst};
use listeners::{listen, register};

/// Kills in each world, unless DEATHS_KILLS says otherwise.
const KILLS: usize = 20;
/// What Sentinels wait for, in ms, unless DEATHS_DOWN_AFTER says otherwise.
const DOWN_AFTER: &str = "1500,5000,30000";
/// Agents ask for no failover within twice this long of the last one, in ms.
const FAILOVER_TIMEOUT_MS: u64 = 3_000;
/// Pause of a client between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the clients write before a kill.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a failover may take beyond what Sentinels wait for.
const FAILOVER_MAX: Duration = Duration::from_secs(60);
/// The reach with `proof` at 3000 ms and more: median and worst, in ms.
const PROOF_REACH: (f64, f64) = (300.0, 500.0);
/// The reach with `vote`: median, in ms.
const VOTE_REACH: f64 = 700.0;
/// The names that are looked up.
const NAMES: [&str; 2] = ["redis-primary", PEER];
/// The name that a peer keeps: a listener of `+switch-master` on all Sentinels.
const PEER: &str = "listener";

fn main() {
    support::run(deaths());
}

async fn deaths() {
    let kills = std::env::var("DEATHS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let settings = std::env::var("DEATHS_DOWN_AFTER").unwrap_or_else(|_| DOWN_AFTER.to_owned());
    println!(
        "From the kill to the first acknowledged write through the name, {kills} kills each:\n\n\
         | down-after | fast_failover | median ms | worst ms | listener of +switch-master, median ms |\n\
         |---:|---|---:|---:|---:|"
    );
    let (mut proof, mut vote) = (None, None);
    for down_after in settings.split(',') {
        let down_after_ms: u64 = down_after.parse().expect("milliseconds");
        for mode in ["proof", "vote", "off"] {
            let [ours, peer] = run(down_after_ms, mode, kills).await;
            let (median_ms, worst_ms) = (median(&ours), worst(&ours));
            let peer = median(&peer);
            println!("| {down_after_ms} | `{mode}` | {median_ms:.0} | {worst_ms:.0} | {peer:.0} |");
            let (held, reached) = match mode {
                "proof" if down_after_ms >= 3_000 => {
                    (&mut proof, median_ms <= PROOF_REACH.0 && worst_ms <= PROOF_REACH.1)
                }
                "vote" => (&mut vote, median_ms <= VOTE_REACH),
                _ => continue,
            };
            *held = Some(held.unwrap_or(true) && reached);
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

/// From each kill to the first acknowledged write through each name, in ms.
async fn run(down_after_ms: u64, mode: &str, kills: usize) -> [Vec<f64>; 2] {
    let spec = WorldSpec {
        down_after_ms,
        failover_timeout_ms: FAILOVER_TIMEOUT_MS,
        consul_servers: 3,
        ..WorldSpec::default()
    };
    let mut world = World::start(spec).await.expect("a world");
    let _agents = start_agents(&world, mode);
    let first = world.groups[0].redis[0].address.clone();
    register(&world, PEER, &first).await.expect("registered");
    let _listeners = listen(&world, PEER, world.sentinels.len());
    let mut all = [Vec::new(), Vec::new()];
    settle(&world).await;
    for _ in 0..kills {
        let took = one_kill(&mut world, down_after_ms).await;
        for (all, took) in all.iter_mut().zip(took) {
            all.push(took);
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

async fn one_kill(world: &mut World, down_after_ms: u64) -> [f64; 2] {
    let (old, _) = first_primary(&world.groups[0].redis).await;
    let login = world.groups[0].redis[0].login.clone();
    let mut clients = Vec::new();
    for server in world.consul_servers() {
        for name in NAMES {
            // The peer registers on one server.
            if name == PEER && server.http != world.consul.http {
                continue;
            }
            let names = server.names().expect("a DNS client");
            let writer = NameWriter {
                names,
                name: format!("{name}.service.consul"),
                port: old.port(),
                login: login.clone(),
            };
            let (written, task) = writer.keep_writing(PAUSE);
            clients.push((name, written, task));
        }
    }
    tokio::time::sleep(WARM_UP).await;
    world.server_mut(&old.to_string()).expect("the primary").kill();
    let killed = Instant::now();
    let within = Duration::from_millis(down_after_ms) + FAILOVER_MAX;
    let mut took = [0.0_f64; 2];
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
        let index = usize::from(*name == PEER);
        took[index] = took[index].max(ms(at.saturating_duration_since(killed)));
    }
    drop(clients);
    eprintln!("down-after {down_after_ms}: {:.0} ms, the listener {:.0} ms", took[0], took[1]);
    world.server_mut(&old.to_string()).expect("the old one").restart().await.expect("back");
    settle(world).await;
    // Another failover is asked for after that only.
    tokio::time::sleep(Duration::from_millis(2 * FAILOVER_TIMEOUT_MS)).await;
    took
}

/// Sentinels have nothing on their minds, and both names answer the primary alone.
async fn settle(world: &World) {
    world.calm().await.expect("calm Sentinels");
    let (primary, _) = first_primary(&world.groups[0].redis).await;
    register(world, PEER, &primary).await.expect("registered");
    for name in NAMES {
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
