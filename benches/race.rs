//! The race: how long after a primary's death can a client write through each name again?
//!
//! Three Consul servers with disks, three Redis, three Sentinels, and every contender at once, each with a name of its
//! own in that Consul. An oracle asks all Redis directly; its first acknowledged write is the first instant that any
//! write was possible. consul-redis has a client for each Consul server, whose DNS it asks; each other contender has
//! one, at the server where it registers. The figures are the first acknowledged write of the first client and of the
//! last, behind the oracle. `docs/race.md` explains the contenders and keeps the table.
//!
//! `make race` runs it; `RACE_KILLS=<n>` sets the number of kills, `RACE_CONSULS=1` the number of Consul servers,
//! `RACE_ANNOUNCE=eager` who tells the Sentinels.

#![expect(clippy::expect_used, clippy::panic, reason = "a race that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
#[path = "support/peers.rs"]
mod peers;
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::{NameWriter, Written, first_primary, write_to};
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use figures::{median, worst};
use peers::{PEERS, reconfig_script};

/// Kills, unless RACE_KILLS says otherwise.
const KILLS: usize = 20;
/// Consul servers, unless RACE_CONSULS says otherwise.
const CONSULS: u8 = 3;
/// Pause of every client between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// How long all clients write before a kill.
const WARM_UP: Duration = Duration::from_millis(300);
/// Longest wait for the slowest contender.
const SLOWEST: Duration = Duration::from_secs(30);
/// Returns of an old primary without agents, each of which takes Sentinel's own ten seconds.
const RETURNS_ALONE: usize = 3;
/// How long an agent's idle CPU is measured.
const IDLE: Duration = Duration::from_secs(30);

/// The names that ours keep, and what each is.
const OURS: [(&str, &str); 2] = [
    ("promotion-primary", "consul-redis, `promotion`"),
    ("quorum-primary", "consul-redis, `quorum`"),
];

/// All contenders: the name that each keeps, and what it is.
fn contenders() -> impl Iterator<Item = (&'static str, &'static str)> {
    OURS.into_iter().chain(PEERS)
}

fn main() {
    support::run(race());
}

async fn race() {
    let kills = std::env::var("RACE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let consuls = std::env::var("RACE_CONSULS").ok().and_then(|n| n.parse().ok());
    let consul_servers = consuls.unwrap_or(CONSULS);
    let dir = tempfile::tempdir().expect("a directory");
    let script = reconfig_script(dir.path());
    let spec = WorldSpec {
        script_checks: true,
        reconfig_script: Some(script),
        down_after_ms: 1_000,
        consul_servers,
        ..WorldSpec::default()
    };
    let mut world = World::start(spec).await.expect("a world");
    let first = world.groups[0].redis[0].address.clone();
    let agents = start_agents(&world);
    let _peers = peers::start(&world, dir.path(), &first).await;
    all_names_answer(&world, &first).await;
    let footprint = footprint(&agents).await;

    let mut behind: BTreeMap<&str, Vec<Behind>> = BTreeMap::new();
    let mut oracle_ms = Vec::new();
    let mut step_ms = Vec::new();
    let mut void = 0;
    let mut returns = Returns::default();
    while oracle_ms.len() < kills {
        let Some(lap) = one_kill(&mut world, &mut returns).await else {
            void += 1;
            eprintln!("void: Sentinel failed over again before every name had moved");
            assert!(void <= kills, "more void laps than laps");
            continue;
        };
        let round = oracle_ms.len() + 1;
        eprint!("kill {round} of {kills}: writable after {:.0} ms;", lap.oracle);
        for (name, ms) in &lap.behind {
            eprint!(" {name} +{:.1} to +{:.1}", ms.first, ms.last);
        }
        eprintln!("; the old primary took writes for {:.0} ms", lap.returned);
        oracle_ms.push(lap.oracle);
        step_ms.push(lap.step);
        for (name, ms) in lap.behind {
            behind.entry(name).or_default().push(ms);
        }
    }
    println!("{}", table(kills, consul_servers, &oracle_ms, &behind));
    println!("Laps that do not count, because Sentinel failed over twice: {void}.\n");
    println!("{footprint}");
    drop(agents);
    let mut alone = Vec::new();
    for _ in 0..RETURNS_ALONE {
        one_kill_alone(&mut world, &mut alone).await;
    }
    println!("{}", returns_table(&returns, &alone));
    check_reach(&behind, median(&step_ms));
    let held = if worst(&returns.calm) <= 250.0 { "held" } else { "NOT held" };
    println!("a returning old primary takes writes for at most 250 ms: {held}");
}

fn start_agents(world: &World) -> Vec<Process> {
    let program = &support::program();
    let announce = std::env::var("RACE_ANNOUNCE").unwrap_or_else(|_| "leader".to_owned());
    ["promotion", "quorum"]
        .iter()
        .map(|level| {
            let group = format!("redis={level}");
            let prefix = format!("race-{level}");
            let config = world.dir().join(format!("{level}.toml"));
            let text = format!("[[group]]\nname = \"redis\"\nannounce = \"{announce}\"\n");
            std::fs::write(&config, text).expect("a config");
            let config = config.to_str().expect("a path");
            let args =
                ["--group", &group, "--prefix", &prefix, "--publish", level, "--config", config];
            world.start_agent(program, level, &args, &[]).expect("an agent")
        })
        .collect()
}

async fn all_names_answer(world: &World, wanted: &Address) {
    for (name, _) in contenders() {
        until(name, SLOWEST, || async {
            for server in world.consul_servers() {
                let found = server.passing(name).await?;
                if found != [wanted.to_string()] {
                    return Err(LabError(format!("{found:?} at {}", server.http)));
                }
            }
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The first acknowledged writes of a contender's clients, behind the oracle, in ms.
#[derive(Clone, Copy)]
struct Behind {
    /// Of the client that was the first.
    first: f64,
    /// Of the client that was the last.
    last: f64,
}

struct Lap {
    /// Milliseconds from the kill to the first write that any server acknowledged.
    oracle: f64,
    /// For each contender, milliseconds behind that.
    behind: Vec<(&'static str, Behind)>,
    /// Milliseconds from one of a client's writes to its next, before the kill.
    step: f64,
    /// Milliseconds for which the old primary took writes when it came back.
    returned: f64,
}

/// For how long old primaries took writes when they came back, in ms.
#[derive(Default)]
struct Returns {
    /// Nothing else happened.
    calm: Vec<f64>,
    /// Sentinel failed over once more, and no instance is made a replica in the middle of that.
    disturbed: Vec<f64>,
}

/// `None`: Sentinel failed over once more before every name had moved, so that a name that follows late had
/// nowhere to go.
async fn one_kill(world: &mut World, returns: &mut Returns) -> Option<Lap> {
    let servers = &world.groups[0].redis;
    let (old, _) = first_primary(servers).await;
    let (port, login) = (old.port(), servers[0].login.clone());
    let mut writers: Vec<Client> = Vec::new();
    // Ours are asked of each Consul server, the peers' of the one where they register: more clients would keep two
    // cores busy.
    let ours = |name: &str| OURS.iter().any(|(own, _)| *own == name);
    let asks = |name: &str, s: &ConsulServer| ours(name) || s.http == world.consul.http;
    let all = contenders().flat_map(|(name, _)| world.consul_servers().map(move |s| (name, s)));
    for (contender, server) in all.filter(|(name, s)| asks(name, s)) {
        let names = server.names().expect("a DNS client");
        let name = format!("{contender}.service.consul");
        let writer = NameWriter { names, name, port, login: login.clone() };
        let (written, task) = writer.keep_writing(PAUSE);
        writers.push((contender, written, task));
        // So that they do not all wake up at once.
        tokio::time::sleep(Duration::from_micros(350)).await;
    }
    let oracle = oracle(world, &old);
    let before = acknowledged(&writers);
    tokio::time::sleep(WARM_UP).await;
    let steps = acknowledged(&writers).saturating_sub(before).max(1);
    let step = ms(WARM_UP) * writers.len() as f64 / steps as f64;
    world.server_mut(&old.to_string()).expect("the primary").kill();
    let killed = Instant::now();
    let (new, writable) = tokio::time::timeout(SLOWEST, oracle).await.expect("a failover");
    let mut behind: Option<BTreeMap<&str, Behind>> = Some(BTreeMap::new());
    for (name, written, _) in &mut writers {
        let by_new = |written: &Written| {
            written.first.iter().find(|(address, _)| address == &new).map(|(_, at)| *at)
        };
        let done = tokio::time::timeout(SLOWEST, written.wait_for(|w| by_new(w).is_some())).await;
        let at = done.ok().and_then(Result::ok).and_then(|written| by_new(&written));
        let Some(at) = at else {
            let (now, _) = first_primary(&world.groups[0].redis).await;
            assert_ne!(now, new, "{name} never moved to {new}, which is the primary");
            behind = None;
            break;
        };
        if let Some(behind) = &mut behind {
            let at = ms(at.saturating_duration_since(writable));
            let of = behind.entry(*name).or_insert(Behind { first: at, last: at });
            *of = Behind { first: of.first.min(at), last: of.last.max(at) };
        }
    }
    drop(writers);
    let returned = recover(world, &old, &new, returns).await;
    let oracle = ms(writable.saturating_duration_since(killed));
    behind.map(|behind| {
        let behind = behind.into_iter().collect();
        Lap { oracle, behind, step, returned }
    })
}

/// A client of one name, what it has written, and its task.
type Client = (&'static str, watch::Receiver<Written>, AbortOnDropHandle<()>);

/// All writes of all clients so far.
fn acknowledged(clients: &[Client]) -> u64 {
    clients.iter().map(|(_, written, _)| written.borrow().acknowledged).sum()
}

/// The old primary comes back as a primary; for how long it takes writes, in ms. Then waits until all Sentinels and
/// agents agree on everything.
async fn recover(world: &mut World, old: &Address, new: &Address, returns: &mut Returns) -> f64 {
    let returned = come_back(world, old).await;
    world.calm().await.expect("calm Sentinels");
    // Sentinel may have failed over once more meanwhile.
    let (primary, _) = first_primary(&world.groups[0].redis).await;
    let kept = if &primary == new { &mut returns.calm } else { &mut returns.disturbed };
    kept.push(returned);
    peers::put_right(world, &primary).await;
    all_names_answer(world, &primary).await;
    returned
}

/// From its first PONG to its last acknowledged write, in ms.
async fn come_back(world: &mut World, old: &Address) -> f64 {
    let login = world.groups[0].redis[0].login.clone();
    let address = old.clone();
    let client = tokio::spawn(async move {
        let (mut first, mut last) = (None, None);
        let begun = Instant::now();
        loop {
            let written = write_to(&address, &login, "old").await;
            let now = Instant::now();
            match written {
                Ok(()) => {
                    first.get_or_insert(now);
                    last = Some(now);
                }
                // Its answer to a write once it is a replica.
                Err(error) if error.to_string().contains("READONLY") => break,
                Err(_) => {}
            }
            if begun.elapsed() > SLOWEST {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.zip(last).map_or(0.0, |(first, last)| ms(last.saturating_duration_since(first)))
    });
    world.server_mut(&old.to_string()).expect("the old primary").restart().await.expect("back");
    client.await.expect("a client")
}

/// The same without agents: Sentinel alone.
async fn one_kill_alone(world: &mut World, alone: &mut Vec<f64>) {
    let (old, _) = first_primary(&world.groups[0].redis).await;
    let oracle = oracle(world, &old);
    world.server_mut(&old.to_string()).expect("the primary").kill();
    tokio::time::timeout(SLOWEST, oracle).await.expect("a failover");
    // Until the leader, the last one to switch, has switched.
    tokio::time::sleep(Duration::from_secs(4)).await;
    alone.push(come_back(world, &old).await);
    world.calm().await.expect("calm Sentinels");
}

fn returns_table(returns: &Returns, alone: &[f64]) -> String {
    let mut text = "A returning old primary, from its first to its last acknowledged write:\n\n\
                    | | returns | median ms | worst ms |\n|---|---:|---:|---:|\n"
        .to_owned();
    let rows = [
        ("with agents", returns.calm.as_slice()),
        ("with agents, while Sentinel failed over once more", &returns.disturbed),
        ("Sentinel alone", alone),
    ];
    for (name, values) in rows.into_iter().filter(|(_, values)| !values.is_empty()) {
        let (count, median, worst) = (values.len(), median(values), worst(values));
        let _ = writeln!(text, "| {name} | {count} | {median:.0} | {worst:.0} |");
    }
    text
}

/// Writes to every server but `old` all the time; the first that acknowledges, and when.
fn oracle(world: &World, old: &Address) -> impl Future<Output = (Address, Instant)> + use<> {
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let others = world.groups[0].redis.iter().filter(|server| &server.address != old);
    let askers: Vec<AbortOnDropHandle<()>> = others
        .map(|server| {
            let (address, login, send) =
                (server.address.clone(), server.login.clone(), send.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    if write_to(&address, &login, "oracle").await.is_ok() {
                        let _ = send.send((address.clone(), Instant::now())).await;
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }))
        })
        .collect();
    async move {
        let found = receive.recv().await.expect("an oracle");
        drop(askers);
        found
    }
}

/// How many percent of them are within a time.
fn percent_within(values: &[f64], ms: f64) -> f64 {
    let within = values.iter().filter(|value| **value <= ms).count();
    100.0 * within as f64 / values.len().max(1) as f64
}

/// What the clients that asked the first server, and the last, waited for.
fn first_and_last(behind: &[Behind]) -> (Vec<f64>, Vec<f64>) {
    behind.iter().map(|of| (of.first, of.last)).unzip()
}

fn table(
    kills: usize,
    consuls: u8,
    oracle: &[f64],
    behind: &BTreeMap<&str, Vec<Behind>>,
) -> String {
    let mut text = format!(
        "First acknowledged write through each name, behind the oracle, {kills} kills, Consul servers: {consuls} \
         (the oracle itself: {:.0} ms after the kill, worst {:.0} ms):\n\n\
         | contender | first server: median ms | worst ms | last server: median ms | worst ms |\n\
         |---|---:|---:|---:|---:|\n",
        median(oracle),
        worst(oracle)
    );
    for (name, label) in contenders() {
        let (first, last) = first_and_last(&behind[name]);
        let _ = writeln!(
            text,
            "| {label} | {:.1} | {:.1} | {:.1} | {:.1} |",
            median(&first),
            worst(&first),
            median(&last),
            worst(&last)
        );
    }
    text
}

/// What an agent with one group costs while nothing happens.
async fn footprint(agents: &[Process]) -> String {
    let before: Vec<f64> = agents.iter().map(|agent| cpu_seconds(agent.id())).collect();
    tokio::time::sleep(IDLE).await;
    let mut text = format!(
        "An agent with one group, idle for {} s:\n\n\
         | agent | resident MB | CPU, % of a core |\n|---|---:|---:|\n",
        IDLE.as_secs()
    );
    for (agent, before) in agents.iter().zip(before) {
        let percent = (cpu_seconds(agent.id()) - before) / IDLE.as_secs_f64() * 100.0;
        let resident = resident_mb(agent.id());
        let _ = writeln!(text, "| {} | {resident:.1} | {percent:.2} |", agent.name());
    }
    let size = std::fs::metadata(support::program()).expect("the program").len();
    let _ = writeln!(text, "\nThe stripped binary: {:.1} MB.", size as f64 / 1e6);
    text
}

fn resident_mb(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1_024.0 / 1e6
}

fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("the statistics");
    // Fields 14 and 15, in hundredths of a second; field 2 may hold spaces and ends at `)`.
    let rest = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<f64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / 100.0
}

/// What is claimed, said as held or not. Two names that move at the same time come out in any order: each
/// client tries once in [`PAUSE`] plus what one try takes.
fn check_reach(behind: &BTreeMap<&str, Vec<Behind>>, step_ms: f64) {
    let last = |name| first_and_last(&behind[name]).1;
    let promotion = last("promotion-primary");
    let quorum = median(&last("quorum-primary")) - median(&last("listener-all"));
    let held = |held: bool| if held { "held" } else { "NOT held" };
    let within = percent_within(&promotion, 40.0);
    println!(
        "promotion on the last server within 12 ms median, and 95 % within 40 ms: {} ({within:.0} %)",
        held(median(&promotion) <= 12.0 && within >= 95.0)
    );
    println!(
        "quorum no later than the listener on all: {} ({quorum:+.1} ms; a client's step is {:.1} ms)",
        held(quorum <= step_ms),
        step_ms
    );
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
