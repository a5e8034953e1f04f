//! Containers, more or less: each is a process of ours with a Redis or a Sentinel as its child, and all that it knows
//! is where Consul is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::redis::patiently;
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port};
use consul_redis::redis_link::{Link, LinkSettings, fields, text as reply};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::Value;

use crate::support::program;

/// One container, more or less.
pub struct Container {
    pub name: String,
    pub address: Address,
    pub data: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    process: Option<Process>,
}

/// What is said to a container.
#[derive(Default)]
pub struct Said<'a> {
    pub options: &'a [&'a str],
    /// Stands before the program.
    pub wrapper: &'a [&'a str],
    pub env: &'a [(&'a str, &'a str)],
    /// The server's own config, as an image brings it.
    pub config: Option<&'a Path>,
}

impl Container {
    pub async fn start(world: &mut World, name: &str, said: Said<'_>) -> Self {
        let container = Self::new(world, name, said);
        container.run(world).await
    }

    pub fn new(world: &mut World, name: &str, said: Said<'_>) -> Self {
        let ip = world.address();
        let address = Address::new(&ip.to_string(), free_port(&[ip]).unwrap()).unwrap();
        let data = world.dir().join(name);
        std::fs::create_dir_all(&data).unwrap();
        let tool = tools::redis_server().unwrap();
        let mut args = vec!["exec".to_owned()];
        args.extend(said.options.iter().map(|word| (*word).to_owned()));
        let own = ["--announce", &address.to_string(), "--data-dir", data.to_str().unwrap(), "--"];
        args.extend(own.map(str::to_owned));
        args.extend(said.wrapper.iter().map(|word| (*word).to_owned()));
        // Ends with us, however we end.
        args.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        args.push(tool.path.display().to_string());
        args.extend(said.config.map(|path| path.display().to_string()));
        if name.starts_with("sentinel") {
            args.push("--sentinel".to_owned());
        }
        let port = address.port().to_string();
        args.extend(["--bind", address.host(), "--port", &port].map(str::to_owned));
        let mut env = vec![
            ("CONSUL_HTTP_ADDR".to_owned(), world.consul.http.to_string()),
            ("CONSUL_REDIS_ID".to_owned(), name.to_owned()),
        ];
        env.extend(said.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let library = tool.library_path.map(|path| path.display().to_string());
        env.extend(library.map(|path| ("LD_LIBRARY_PATH".to_owned(), path)));
        Self { name: name.to_owned(), address, data, args, env, process: None }
    }

    async fn run(mut self, world: &World) -> Self {
        self.restart(world);
        self.until_answers().await;
        self
    }

    pub fn restart(&mut self, world: &World) {
        self.process = None;
        let tool = Tool::at(program().to_owned());
        let process =
            Process::start(&self.name, &tool, &self.args, &self.env, world.dir(), Life::WithUs);
        self.process = Some(process.unwrap());
    }

    /// Where it listens is left to its own config.
    pub fn without_bind(&mut self) {
        let at = self.args.iter().position(|word| word == "--bind").unwrap();
        self.args.drain(at..at + 2);
    }

    /// It is gone at once, and will be started at another address, with the same volume.
    pub fn move_on(&mut self, world: &mut World) {
        self.process = None;
        let ip = world.address();
        let to = Address::new(&ip.to_string(), free_port(&[ip]).unwrap()).unwrap();
        let from = std::mem::replace(&mut self.address, to.clone());
        let words = |a: &Address| [a.to_string(), a.host().to_owned(), a.port().to_string()];
        let (old, new) = (words(&from), words(&to));
        for word in &mut self.args {
            if let Some(index) = old.iter().position(|old| old == word) {
                word.clone_from(&new[index]);
            }
        }
    }

    pub async fn until_answers(&self) {
        let what = format!("{} answers", self.name);
        let answers = until(&what, Duration::from_secs(30), || self.ask(&["PING"])).await;
        answers.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    pub async fn ask(&self, command: &[&str]) -> Result<Value, LabError> {
        let login = patiently(&LinkSettings::default());
        let mut link = Link::open(&self.address, &login).await.map_err(LabError::new)?;
        link.call(command).await.map_err(LabError::new)
    }

    /// `INFO replication`'s field.
    pub async fn info(&self, field: &str) -> Result<String, LabError> {
        let info = reply(&self.ask(&["INFO", "replication"]).await?).map_err(LabError)?;
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).ok_or_else(|| LabError(format!("no {field}")))
    }

    pub async fn get(&self, key: &str) -> String {
        let what = format!("{} has {key}", self.name);
        let found = until(&what, Duration::from_secs(30), || async {
            reply(&self.ask(&["GET", key]).await?).map_err(LabError)
        });
        found.await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The server itself.
    pub fn child(&self) -> Pid {
        let log = self.log();
        let id = log.lines().rev().find_map(|line| line.split("runs as process ").nth(1));
        Pid::from_raw(id.and_then(|id| id.trim().parse().ok()).expect("the server's process id"))
    }

    /// Kills the server, and waits for the container's end; its exit code.
    pub async fn kill_server(&mut self) -> i32 {
        kill(self.child(), Signal::SIGKILL).unwrap();
        self.process().end(Duration::from_secs(10)).await.unwrap()
    }
}

pub const PLAIN: Said<'static> = Said { options: &[], wrapper: &[], env: &[], config: None };

pub fn spec() -> WorldSpec {
    WorldSpec { redis: 0, sentinels: 0, from_scratch: true, ..WorldSpec::default() }
}

pub struct Group {
    pub redis: Vec<Container>,
    pub sentinels: Vec<Container>,
}

/// So many containers, started all at once; the name of the service is all that they have in common.
pub async fn group(world: &mut World, redis: usize, env: &[(&str, &str)]) -> Group {
    group_with(world, redis, env, None).await
}

/// The same with a config for each Redis.
pub async fn group_with(
    world: &mut World,
    redis: usize,
    env: &[(&str, &str)],
    config: Option<&Path>,
) -> Group {
    let expect = redis.to_string();
    let mut all = Vec::new();
    for index in 0..redis {
        let options = &["--expect", &expect][..];
        let said = Said { options, env, config, ..PLAIN };
        all.push(Container::new(world, &format!("redis-{index}"), said));
    }
    let mut sentinels = Vec::new();
    for index in 0..3 {
        let said = Said { env, ..PLAIN };
        sentinels.push(Container::new(world, &format!("sentinel-{index}"), said));
    }
    for container in all.iter_mut().chain(&mut sentinels) {
        container.restart(world);
    }
    for container in all.iter().chain(&sentinels) {
        container.until_answers().await;
    }
    Group { redis: all, sentinels }
}

impl Group {
    pub fn at(&mut self, address: &str) -> &mut Container {
        self.redis.iter_mut().find(|c| c.address.to_string() == address).expect("an address")
    }

    pub fn index(&self, address: &str) -> usize {
        let at = |c: &Container| c.address.to_string() == address;
        self.redis.iter().position(at).expect("an address")
    }

    /// Every Sentinel lists every replica, and trusts its clock, which it does not for 30 s where the machine stood
    /// still: from now on a failover has a replica to choose.
    pub async fn until_known(&self) {
        for sentinel in &self.sentinels {
            let what = format!("{} knows all replicas", sentinel.name);
            until(&what, Duration::from_secs(60), || async {
                let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
                let fields = fields(&answer).map_err(LabError)?;
                let counts = [fields.get("num-slaves"), fields.get("num-other-sentinels")];
                let counts = counts.map(|count| count.and_then(|c| c.parse::<usize>().ok()));
                let wanted = [Some(self.redis.len() - 1), Some(2)];
                let info = reply(&sentinel.ask(&["INFO", "sentinel"]).await?).map_err(LabError)?;
                match info.contains("sentinel_tilt:0") {
                    true if counts == wanted => Ok(()),
                    _ => Err(LabError(format!("{counts:?} {info}"))),
                }
            })
            .await
            .unwrap();
        }
    }
}
