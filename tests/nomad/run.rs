//! The jobs' tasks as processes: each with the command line, the environment and the directories that Nomad would give
//! it. What a scheduler does besides, and Docker, are not here.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::published::record::{Level, Record, decode};
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::redis::patiently;
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port};
use consul_redis::redis_link::{Link, LinkSettings, fields};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::files::consumer_template;
use crate::job::{Client, JobFile, root, text};
use crate::template::render;
use crate::writers::{Writers, none_lost};

/// Writes before the handover, and after it.
const SOME: usize = 200;

/// Where Nomad's clients would have the servers' programs: in the image.
struct Image {
    bin: PathBuf,
    env: Vec<(String, String)>,
}

impl Image {
    fn new(dir: &Path) -> Self {
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let tool = tools::redis_server().unwrap();
        for (name, more) in [("redis-server", ""), ("redis-sentinel", " --sentinel")] {
            let path = bin.join(name);
            // Ends with its parent, however that ends.
            let server = tool.path.display();
            let script =
                format!("#!/bin/sh\nexec setpriv --pdeathsig KILL {server} \"$@\"{more}\n");
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut env = vec![
            ("PATH".to_owned(), format!("{}:{path}", bin.display())),
            // What the Dockerfile puts there.
            ("CONSUL_REDIS_CONF_DIR".to_owned(), root().join("docker").display().to_string()),
        ];
        let library = tool.library_path.map(|path| path.display().to_string());
        env.extend(library.map(|path| ("LD_LIBRARY_PATH".to_owned(), path)));
        Self { bin, env }
    }
}

/// One task of an allocation.
struct Allocation {
    address: String,
    kill_timeout: Duration,
    process: Process,
}

fn place(world: &mut World, image: &Image, job: &str, name: &str) -> Allocation {
    assert!(image.bin.exists());
    let ip = world.address();
    let port = free_port(&[std::net::Ipv4Addr::UNSPECIFIED]).unwrap();
    let alloc = world.dir().join(name);
    let data = alloc.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let client = Client { node: name.to_owned(), ip: ip.to_string(), port, alloc };
    let file = JobFile::parse(&text(job)).unwrap();
    let consul = world.consul.http.to_string();
    let task = file.job(&[("consul_http_addr", consul.into())], &client).unwrap().task();
    let mut env: Vec<(String, String)> = image.env.clone();
    for (name, value) in &task.env {
        // The volume is mounted there.
        let is_mounted = task.mounts.contains(value);
        let value = if is_mounted { data.display().to_string() } else { value.clone() };
        env.push((name.clone(), value));
    }
    let tool = Tool::at(env!("CARGO_BIN_EXE_consul-redis").into());
    let words = task.words();
    let process = Process::start(name, &tool, &words[1..], &env, world.dir(), Life::WithUs);
    let address = format!("{ip}:{port}");
    Allocation { address, kill_timeout: task.kill_timeout, process: process.unwrap() }
}

async fn state(world: &World) -> Result<String, LabError> {
    world.consul.key("redis-ha/redis/state").await?.ok_or_else(|| LabError::new("no state"))
}

/// Waits for a writer that a majority has confirmed, and that is not `other`, with so many replicas.
async fn until_writer(world: &World, other: Option<&str>, replicas: usize, logs: &str) -> String {
    let found = until("a confirmed writer and its replicas", Duration::from_secs(60), || async {
        let record: Record = decode(state(world).await?.as_bytes()).map_err(LabError)?;
        let writer = record.writer_address().map(ToString::to_string);
        let all = record.replicas().count() >= replicas;
        match writer {
            Some(writer)
                if record.evidence.level() == Level::Quorum
                    && all
                    && Some(writer.as_str()) != other =>
            {
                Ok(writer)
            }
            _ => Err(LabError(format!("{writer:?}: {}: {:?}", record.why, record.instances))),
        }
    });
    found.await.unwrap_or_else(|error| panic!("{error}\n{logs}"))
}

async fn ask(address: &str, command: &[&str]) -> Result<redis::Value, LabError> {
    let address: Address = address.parse().map_err(LabError::new)?;
    let mut link =
        Link::open(&address, &patiently(&LinkSettings::default())).await.map_err(LabError::new)?;
    link.call(command).await.map_err(LabError::new)
}

/// What the application's environment would be.
async fn consumed(world: &World) -> Result<String, String> {
    let state = state(world).await.map_err(|error| error.to_string())?;
    render(&consumer_template(), &[("redis-ha/redis/state", &state)])
}

/// Three Sentinels, three Redis and an observer start blank and at once, and become a group. The primary's allocation
/// is stopped as Nomad stops it: it hands over within `kill_timeout`, and every template is rendered with the new
/// writer.
#[tokio::test]
async fn the_jobs_become_a_group_and_a_stopped_allocation_hands_over() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let spec = WorldSpec { redis: 0, sentinels: 0, from_scratch: true, ..WorldSpec::default() };
    let mut world = World::start(spec).await.unwrap();
    let image = Image::new(world.dir());
    let mut all = Vec::new();
    for job in ["sentinel", "redis"] {
        for index in 0..3 {
            all.push(place(&mut world, &image, job, &format!("{job}-{index}")));
        }
    }
    let observer = place(&mut world, &image, "observer", "observer");
    let logs = || all.iter().map(|one| one.process.log()).collect::<Vec<_>>().join("\n---\n");
    let first = until_writer(&world, None, 2, &logs()).await;

    // The settings of the job are those of every Sentinel.
    for sentinel in &all[..3] {
        until("its settings", Duration::from_secs(20), || async {
            let answer = ask(&sentinel.address, &["SENTINEL", "MASTER", "redis"]).await?;
            let fields = fields(&answer).map_err(LabError)?;
            let names = ["down-after-milliseconds", "failover-timeout", "quorum"];
            let said = names.map(|name| fields.get(name).cloned().unwrap_or_default());
            if said == ["5000", "20000", "2"] { Ok(()) } else { Err(LabError(said.join(" "))) }
        })
        .await
        .unwrap();
    }
    assert!(consumed(&world).await.unwrap().contains(&format!("redis://{first}\n")));
    let writers = Writers::by_name(world.consul.dns);
    writers.until_more(SOME).await;
    // The observer answers on the host's loopback address.
    let port = observer.address.rsplit(':').next().unwrap();
    let url = format!("http://127.0.0.1:{port}/primary?instance={first}");
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200, "{}", observer.process.log());

    let at = all.iter().position(|one| one.address == first).expect("one of them");
    let mut stopped = all.remove(at);
    let start = Instant::now();
    stopped.process.signal(Signal::SIGTERM).unwrap();
    let code = stopped.process.end(stopped.kill_timeout).await.unwrap();
    let took = start.elapsed();
    assert_eq!(code, 0, "{}", stopped.process.log());
    let logs = || stopped.process.log();
    let second = until_writer(&world, Some(&first), 1, &logs()).await;
    println!("{first} handed over to {second} and ended within {} ms", took.as_millis());
    writers.until_more(SOME).await;
    none_lost(&writers.stop(), &first, &second).await;
    assert!(logs().contains("handed over from"), "{}", logs());
    assert!(consumed(&world).await.unwrap().contains(&format!("redis://{second}\n")));
    assert_eq!(reqwest::get(&url).await.unwrap().status().as_u16(), 503, "it is stopped");
}
