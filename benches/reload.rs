//! How long after a switch is published does the command that reloads a proxy start?
//!
//! `render --watch`, with and without a check of the new file, beside a script that reads the key `primary` once a
//! second, as many do. A switch is one transaction in Consul, as an agent publishes it; each contender's command writes
//! down when it was started.
//!
//! `make race` runs it.

#![expect(clippy::expect_used, clippy::panic, reason = "a race that cannot be run has no result")]

#[path = "support/figures.rs"]
mod figures;
mod support;

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_redis::clock::wall;
use consul_redis::consul::client::Consul;
use consul_redis::core::published::record::{Record, decode, encode};
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::{Tool, haproxy};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::json;

use figures::{median, worst};

/// Switches.
const SWITCHES: u64 = 20;
/// Between two switches, at least: as slow as a file may be changed for long.
const PAUSE: Duration = Duration::from_millis(2_050);
/// What a pause differs from the last one, so that a poller is met at every moment of its second.
const SHIFT_MS: u64 = 370;
/// A command must start within this long, in ms.
const REACH_MS: f64 = 50.0;

fn main() {
    support::run(race());
}

async fn race() {
    let spec = WorldSpec { redis: 2, sentinels: 1, ..WorldSpec::default() };
    let world = World::start(spec).await.expect("a world");
    let mut record = published(&world).await;
    let (mut rendered, mut polled) = (Vec::new(), Vec::new());
    // One after the other: beside each other they would wait for each other's disk.
    for check in CHECKS {
        let lap = lap(&world, &mut record, check).await;
        rendered.push(lap.by_renderer);
        polled.extend(lap.by_poller);
    }
    println!("From the transaction's answer to the command's start, {SWITCHES} switches each:\n");
    println!("| contender | median ms | worst ms |\n|---|---:|---:|");
    for (check, values) in CHECKS.iter().zip(&rendered) {
        println!("| {} | {:.0} | {:.0} |", check.label(), median(values), worst(values));
    }
    let (label, values) = ("a script that polls every second", &polled);
    println!("| {label} | {:.0} | {:.0} |", median(values), worst(values));
    for (check, values) in CHECKS.iter().zip(&rendered) {
        let held = if worst(values) <= REACH_MS { "held" } else { "NOT held" };
        println!("\nwithin {REACH_MS} ms of a switch, {}: {held}", check.label());
    }
}

/// What looks at the new file before it is put in place.
#[derive(Debug, Clone, Copy)]
enum Check {
    Unchecked,
    Grep,
    HaProxy,
}

const CHECKS: [Check; 3] = [Check::Unchecked, Check::Grep, Check::HaProxy];

impl Check {
    fn label(self) -> &'static str {
        match self {
            Self::Unchecked => "`consul-redis render --watch`",
            Self::Grep => "the same, with `grep` as its `check`",
            Self::HaProxy => "the same, with `haproxy -c` as its `check`",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Grep => "checked-by-grep",
            Self::HaProxy => "checked-by-haproxy",
        }
    }

    /// The template, and the check's line in the config.
    fn of_template(self) -> (String, String) {
        let small = || "{{ groups.redis.writer.address }}\n".to_owned();
        match self {
            Self::Unchecked => (small(), String::new()),
            Self::Grep => (small(), "check = [\"grep\", \"-q\", \":\", \"{}\"]\n".to_owned()),
            Self::HaProxy => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/haproxy.cfg.j2");
                let tool = haproxy().unwrap_or_else(|error| panic!("{error}"));
                // One that is on PATH finds its libraries as we do.
                let libraries = tool.library_path.map(|path| path.display().to_string());
                let env = libraries.map(|path| format!("\"env\", \"LD_LIBRARY_PATH={path}\", "));
                let (env, program) = (env.unwrap_or_default(), tool.path);
                let check = format!("check = [{env}{program:?}, \"-c\", \"-f\", \"{{}}\"]\n");
                (std::fs::read_to_string(path).expect("a template"), check)
            }
        }
    }
}

/// From the transaction's answer to the command's start, in ms, for each switch.
struct Lap {
    by_renderer: Vec<f64>,
    by_poller: Vec<f64>,
}

async fn lap(world: &World, record: &mut Record, check: Check) -> Lap {
    let path = |who: &str| world.dir().join(format!("{who}-{}.times", check.name()));
    let (rendered, polled) = (path("rendered"), path("polled"));
    let _renderer = renderer(world, check, &rendered);
    let _poller = poller(world, check, &polled);
    // Both begin with what is there.
    for begun in [&rendered, &polled] {
        until_count(begun, 1).await;
    }
    let client = world.consul.client().expect("a client");
    let mut lap = Lap { by_renderer: Vec::new(), by_poller: Vec::new() };
    for switch in 1..=SWITCHES {
        let shift = Duration::from_millis(switch * SHIFT_MS % 1_000);
        tokio::time::sleep(PAUSE + shift).await;
        let counts = (times(&rendered).len(), times(&polled).len());
        let other = record.instances.iter().find(|i| Some(&i.address) != record.writer_address());
        let other = other.expect("another instance").address.clone();
        record.writer.as_mut().expect("a writer").address = other;
        record.generation += 1;
        let at = publish(&client, record).await;
        lap.by_renderer.push(until_count(&rendered, counts.0 + 1).await - at);
        lap.by_poller.push(until_count(&polled, counts.1 + 1).await - at);
        let (of_renderer, of_poller) = (lap.by_renderer.last(), lap.by_poller.last());
        eprintln!("{}, switch {switch}: {of_renderer:?} {of_poller:?}", check.name());
    }
    lap
}

/// A group as an agent publishes it; the agent is gone afterwards.
async fn published(world: &World) -> Record {
    let program = &support::program();
    let _agent = world.start_agent(program, "agent", &[], &[]).expect("an agent");
    until("a group", Duration::from_secs(30), || async {
        let state = world.consul.key("redis-ha/redis/state").await?;
        let record = decode(state.unwrap_or_default().as_bytes()).map_err(LabError)?;
        let whole = record.writer.is_some() && record.instances.len() == 2;
        if whole { Ok(record) } else { Err(LabError::new(record.why)) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Publishes, as one transaction; when the answer came, in ms of the wall clock.
async fn publish(client: &Consul, record: &Record) -> f64 {
    let set = |key: &str, value: &str| {
        let key = format!("redis-ha/redis/{key}");
        json!({"KV": {"Verb": "set", "Key": key, "Value": BASE64.encode(value)}})
    };
    let writer = record.writer_address().expect("a writer").to_string();
    let ops = json!([set("state", &encode(record)), set("primary", &writer)]);
    client.put("/v1/txn", &[], Some(&ops)).await.expect("published");
    wall().as_nanosecond() as f64 / 1e6
}

fn renderer(world: &World, check: Check, noted: &Path) -> Process {
    let path = |what: &str| world.dir().join(format!("{}{what}", check.name()));
    let (source, config) = (path(".j2"), path(".toml"));
    let (template, check_line) = check.of_template();
    std::fs::write(&source, template).expect("a template");
    let text = format!(
        "[[template]]\nsource = {source:?}\ndestination = {:?}\n{check_line}\
         command = [\"sh\", \"-c\", \"date +%s%N >> {}\"]\n",
        path(".rendered"),
        noted.display()
    );
    std::fs::write(&config, text).expect("a config");
    let tool = Tool::at(support::program());
    let args = ["render", "--watch", "--config", config.to_str().expect("a path")];
    start(world, &format!("render-{}", check.name()), &tool, &args)
}

fn poller(world: &World, check: Check, noted: &Path) -> Process {
    let script = format!(
        "while :; do now=$(curl -s 'http://{}/v1/kv/redis-ha/redis/primary?raw'); \
         [ \"$now\" = \"$was\" ] || date +%s%N >> {}; was=$now; sleep 1; done",
        world.consul.http,
        noted.display()
    );
    let tool = Tool::at("/bin/sh".into());
    start(world, &format!("poller-{}", check.name()), &tool, &["-c", &script])
}

fn start(world: &World, name: &str, tool: &Tool, args: &[&str]) -> Process {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Process::start(name, tool, &args, &world.agent_env(), world.dir(), Life::WithUs)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// When the command was started, each time, in ms of the wall clock.
fn times(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse::<f64>().ok()).map(|ns| ns / 1e6).collect()
}

/// Waits until the command was started so often; when it was, the last time.
async fn until_count(path: &Path, count: usize) -> f64 {
    until("a command", Duration::from_secs(20), || async {
        let times = times(path);
        match times.last() {
            Some(last) if times.len() >= count => Ok(*last),
            _ => Err(LabError(format!("{} of {count} in {}", times.len(), path.display()))),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}
