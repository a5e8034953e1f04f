//! Planned moves: how long no write is possible, and for how long two instances take writes.
//!
//! `consul-redis switchover` under both levels, beside a bare `SENTINEL FAILOVER` without agents, in one run.
//! `make race` runs it too; `docs/race.md` keeps the table.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made has no result")]

mod support;

use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::{NameWriter, first_primary, write_to};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Moves for each figure.
const MOVES: usize = 10;
/// Moves without agents, each of which takes Sentinel's own time.
const BARE_MOVES: usize = 3;
/// Pause between two writes of a client.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a client goes on after a move.
const AFTER: Duration = Duration::from_secs(3);
/// The same without agents: longer than Sentinel leaves two primaries alone.
const AFTER_BARE: Duration = Duration::from_secs(14);

fn main() {
    support::run(async {
        println!("| move | no write for, median ms | worst ms | two take writes for, worst ms |");
        println!("|---|---:|---:|---:|");
        for level in ["promotion", "quorum"] {
            let (gaps, overlaps) = switchovers(level).await;
            let name = format!("`consul-redis switchover`, `{level}`");
            row(&name, &gaps, &overlaps);
        }
        let overlaps = bare().await;
        row("`SENTINEL FAILOVER` alone", &[], &overlaps);
    });
}

fn row(name: &str, gaps: &[f64], overlaps: &[f64]) {
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let mut sorted = gaps.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.get(sorted.len() / 2) {
        Some(median) => {
            println!("| {name} | {median:.0} | {:.0} | {:.0} |", worst(gaps), worst(overlaps));
        }
        None => println!("| {name} | | | {:.0} |", worst(overlaps)),
    }
}

/// An acknowledged write: by whom, and when.
type Ack = (Address, Instant);

async fn switchovers(level: &str) -> (Vec<f64>, Vec<f64>) {
    let program = &support::program();
    let world = World::start(WorldSpec::default()).await.expect("a world");
    let _agents: Vec<_> = ["agent-a", "agent-b"]
        .iter()
        .map(|name| world.start_agent(program, name, &["--publish", level], &[]).expect("an agent"))
        .collect();
    let (mut gaps, mut overlaps) = (Vec::new(), Vec::new());
    for _ in 0..MOVES {
        in_sync(&world).await;
        let (acks, clients) = clients(&world);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut command = tokio::process::Command::new(program);
        command.args(["switchover", "redis", "--yes"]).envs(world.agent_env());
        let output = command.output().await.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        tokio::time::sleep(AFTER).await;
        let (through_name, direct) = collect(acks, clients).await;
        gaps.push(longest_gap(&through_name));
        overlaps.push(overlap(&direct));
        eprintln!("{level}: {:.0} ms without a write", gaps[gaps.len() - 1]);
    }
    (gaps, overlaps)
}

async fn bare() -> Vec<f64> {
    let world = World::start(WorldSpec::default()).await.expect("a world");
    let mut overlaps = Vec::new();
    for _ in 0..BARE_MOVES {
        world.calm().await.expect("calm Sentinels");
        let (acks, clients) = clients(&world);
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.sentinels[0].fail_over("redis").await.expect("a failover");
        tokio::time::sleep(AFTER_BARE).await;
        let (_, direct) = collect(acks, clients).await;
        overlaps.push(overlap(&direct));
        eprintln!("alone: {:.0} ms with two", overlaps[overlaps.len() - 1]);
    }
    overlaps
}

/// Until all Sentinels and all replicas have settled on the primary there is.
async fn in_sync(world: &World) {
    world.calm().await.expect("calm Sentinels");
    let (primary, _) = first_primary(&world.groups[0].redis).await;
    until("the name", Duration::from_secs(30), || async {
        let found = world.consul.passing("redis-primary").await?;
        let replicas = world.consul.passing("redis-replica").await?.len();
        let right = found == [primary.to_string()] && replicas == 2;
        if right { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .expect("the name");
}

struct Clients {
    _tasks: Vec<AbortOnDropHandle<()>>,
}

type Acks = (mpsc::UnboundedReceiver<Ack>, mpsc::UnboundedReceiver<Ack>);

/// One that writes through the name, and one that writes to each Redis directly.
fn clients(world: &World) -> (Acks, Clients) {
    let (named, through_name) = mpsc::unbounded_channel();
    let (all, direct) = mpsc::unbounded_channel();
    let servers = &world.groups[0].redis;
    let (port, login) = (servers[0].address.port(), servers[0].login.clone());
    let names = world.consul.names().expect("a DNS client");
    let name = "redis-primary.service.consul".to_owned();
    let writer = NameWriter { names, name, port, login };
    let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if let Ok(address) = writer.write("bench").await {
                let _ = named.send((address, Instant::now()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }))];
    for server in servers {
        let (address, login, all) = (server.address.clone(), server.login.clone(), all.clone());
        tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                if write_to(&address, &login, "bench").await.is_ok() {
                    let _ = all.send((address.clone(), Instant::now()));
                }
                tokio::time::sleep(PAUSE).await;
            }
        })));
    }
    ((through_name, direct), Clients { _tasks: tasks })
}

async fn collect(acks: Acks, clients: Clients) -> (Vec<Ack>, Vec<Ack>) {
    drop(clients);
    let (mut through_name, mut direct) = acks;
    let mut all = (Vec::new(), Vec::new());
    while let Some(ack) = through_name.recv().await {
        all.0.push(ack);
    }
    while let Some(ack) = direct.recv().await {
        all.1.push(ack);
    }
    all
}

fn longest_gap(acks: &[Ack]) -> f64 {
    let gaps = acks.windows(2).map(|pair| pair[1].1.saturating_duration_since(pair[0].1));
    gaps.max().unwrap_or_default().as_secs_f64() * 1_000.0
}

/// From the new primary's first write to the old one's last.
fn overlap(acks: &[Ack]) -> f64 {
    let Some((old, _)) = acks.first() else { return 0.0 };
    let first_new = acks.iter().find(|(address, _)| address != old).map(|(_, at)| *at);
    let last_old = acks.iter().rfind(|(address, _)| address == old).map(|(_, at)| *at);
    let both = first_new.zip(last_old).map(|(new, old)| old.saturating_duration_since(new));
    both.unwrap_or_default().as_secs_f64() * 1_000.0
}
