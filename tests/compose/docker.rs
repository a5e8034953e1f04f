//! One project of docker-compose, taken away at the end whatever happens.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::redis::patiently;
use consul_redis::lab::world::free_ports;
use consul_redis::redis_link::{Link, LinkSettings, fields, list, text};
use redis::Value;

/// What scripts/images.sh makes.
pub const STANDIN: &str = "consul-redis-standin";
/// Lines of each container's log that a failing test shows.
const LOG_LINES: &str = "150";

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    pub ip: String,
}

/// One `docker compose` project: it is brought down with its volumes when it is dropped.
pub struct Project {
    name: String,
    files: Vec<String>,
    env: Vec<(&'static str, String)>,
    dns: SocketAddr,
    /// Those of containers that scaling has taken away stay behind, without the project's name.
    volumes: RefCell<BTreeSet<String>>,
}

/// Whether there is a Docker to test with; says so loudly when there is none.
pub fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        let answers = |program: &str, arg: &str| {
            let output = Command::new(program).arg(arg).output();
            output.is_ok_and(|output| output.status.success())
        };
        if answers("docker", "info") && compose_program().is_some() {
            let made = Command::new(root().join("scripts/images.sh"))
                .arg(env!("CARGO_BIN_EXE_consul-redis"))
                .status()
                .expect("scripts/images.sh");
            assert!(made.success(), "the stand-ins for the public images cannot be made");
            return true;
        }
        eprintln!("\n*** SKIPPED: no Docker with compose answers here; docker-compose.yml was NOT tested ***\n");
        false
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `docker compose`, or `docker-compose` as it was called before.
fn compose_program() -> Option<&'static [&'static str]> {
    const PROGRAMS: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    PROGRAMS.into_iter().find(|words| {
        let output = Command::new(words[0]).args(&words[1..]).arg("version").output();
        output.is_ok_and(|output| output.status.success())
    })
}

impl Project {
    /// A project of its own: no other one has its name or its ports.
    pub fn new(name: &str, files: &[&str]) -> Self {
        let all = [&["docker-compose.yml"], files].concat();
        Self::of(name, &all)
    }

    /// The same of these files alone.
    pub fn of(name: &str, files: &[&str]) -> Self {
        let ports = free_ports(&[Ipv4Addr::LOCALHOST], 2).expect("two ports");
        let (http, dns) = (ports[0], ports[1]);
        let env = vec![
            // Not the name that a person's own image has.
            ("IMAGE", format!("{STANDIN}/consul-redis")),
            ("CONSUL_IMAGE", format!("{STANDIN}/consul:1")),
            ("REDIS_IMAGE", format!("{STANDIN}/redis:7-bookworm")),
            ("RUST_IMAGE", format!("{STANDIN}/rust:1-bookworm")),
            ("CONSUL_HTTP_PORT", http.to_string()),
            ("CONSUL_DNS_PORT", dns.to_string()),
            ("DOCKER_BUILDKIT", "0".to_owned()),
        ];
        Self {
            name: format!("crtest{name}{}", std::process::id()),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            env,
            dns: SocketAddr::from((Ipv4Addr::LOCALHOST, dns)),
            volumes: RefCell::default(),
        }
    }

    /// The same, with the services of a profile.
    pub fn with_profile(name: &str, profile: &str) -> Self {
        let mut project = Self::new(name, &[]);
        project.env.push(("COMPOSE_PROFILES", profile.to_owned()));
        project
    }

    /// What everything of it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where Consul's DNS is.
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    fn command(&self, args: &[&str]) -> Command {
        let words = compose_program().expect("compose");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(root()).envs(self.env.iter().map(|(n, v)| (n, v)));
        for file in &self.files {
            command.args(["-f", file]);
        }
        command.args(["-p", &self.name]).args(args);
        command
    }

    /// Runs a command of docker-compose.
    pub fn compose(&self, args: &[&str]) -> String {
        self.note_volumes();
        run(self.command(args))
    }

    /// Notes the volumes of all containers, to take them away at the end.
    pub fn note_volumes(&self) {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let containers = self.docker(&["ps", "--all", "--quiet", "--filter", &project]);
        let format = "{{range .Mounts}}{{.Name}} {{end}}";
        for container in containers.lines() {
            let mounts = self.docker(&["inspect", "--format", format, container]);
            let names = mounts.split_whitespace().map(str::to_owned);
            self.volumes.borrow_mut().extend(names);
        }
    }

    /// Runs a command of docker.
    pub fn docker(&self, args: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.args(args);
        run(command)
    }

    /// The network that all are on.
    pub fn network(&self) -> String {
        format!("{}_default", self.name)
    }

    /// The containers of a service that run and are on the network.
    pub fn running(&self, service: &str) -> Vec<Container> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        let format = "{{.Names}}";
        let list = ["ps", "--filter", &project, "--filter", &service, "--filter", "status=running"];
        let names = self.docker(&[&list[..], &["--format", format]].concat());
        let all = names.lines().map(|name| Container { name: name.to_owned(), ip: self.ip(name) });
        let mut all: Vec<Container> = all.filter(|container| !container.ip.is_empty()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All containers, whether they run or not, by name.
    pub fn all(&self) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let names = ["ps", "--all", "--filter", &project, "--format", "{{.Names}}"];
        let mut all: Vec<String> = self.docker(&names).lines().map(str::to_owned).collect();
        all.sort();
        all
    }

    /// What a container has said.
    pub fn docker_log(&self, container: &str) -> String {
        let output = Command::new("docker").args(["logs", container]).output().expect("docker");
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    }

    /// A container's address; empty while it has none.
    pub fn ip(&self, container: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        self.docker(&["inspect", "--format", format, container]).trim().to_owned()
    }

    /// The container at an address.
    pub fn named(&self, service: &str, ip: &str) -> String {
        let found = self.running(service).into_iter().find(|container| container.ip == ip);
        found.unwrap_or_else(|| panic!("no container is at {ip}\n{}", self.logs())).name
    }

    /// One more container of a service, which gets the lowest address that is free; its name.
    pub fn take_address(&self, service: &str) -> String {
        let before: Vec<String> = self.running(service).into_iter().map(|c| c.name).collect();
        // One is disconnected from the network, and counts.
        let count = format!("{service}={}", before.len() + 2);
        self.compose(&["up", "-d", "--no-recreate", "--scale", &count, "--scale", "sentinel=5"]);
        let now = self.running(service).into_iter().map(|c| c.name);
        now.into_iter().find(|name| !before.contains(name)).expect("a new container")
    }

    /// One command to the Redis at an address.
    pub async fn ask(&self, ip: &str, command: &[&str]) -> Result<Value, LabError> {
        ask(ip, 6379, command).await
    }

    /// Commands on one connection; the last answer.
    pub async fn ask_in_turn(&self, ip: &str, commands: &[&[&str]]) -> Result<Value, LabError> {
        ask_in_turn(ip, 6379, commands).await
    }

    /// `INFO replication`.
    pub async fn info(&self, ip: &str) -> Result<BTreeMap<String, String>, LabError> {
        let info = text(&self.ask(ip, &["INFO", "replication"]).await?).map_err(LabError)?;
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// What a Redis says that it is.
    pub async fn role(&self, ip: &str) -> Result<String, LabError> {
        Ok(self.info(ip).await?.remove("role").unwrap_or_default())
    }

    /// `SENTINEL MASTER redis`.
    pub async fn sentinel(&self, ip: &str) -> Result<BTreeMap<String, String>, LabError> {
        let answer = ask(ip, 26379, &["SENTINEL", "MASTER", "redis"]).await?;
        let fields = fields(&answer).map_err(LabError)?;
        Ok(fields.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// The replicas that a Sentinel lists and gets an answer from.
    pub async fn replicas(&self, ip: &str) -> Result<Vec<String>, LabError> {
        let answer = ask(ip, 26379, &["SENTINEL", "REPLICAS", "redis"]).await?;
        let rows = list(&answer).map_err(LabError)?.iter().map(fields);
        let rows: Result<Vec<BTreeMap<String, String>>, String> = rows.collect();
        let up = rows.map_err(LabError)?.into_iter().filter(|row| row["flags"] == "slave");
        Ok(up.filter_map(|mut row| row.remove("ip")).collect())
    }

    /// The end of all logs.
    pub fn logs(&self) -> String {
        let output = self.command(&["logs", "--no-color", "--tail", LOG_LINES]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

async fn ask(ip: &str, port: u16, command: &[&str]) -> Result<Value, LabError> {
    ask_in_turn(ip, port, &[command]).await
}

async fn ask_in_turn(ip: &str, port: u16, commands: &[&[&str]]) -> Result<Value, LabError> {
    let address = Address::new(ip, port).map_err(LabError::new)?;
    let login = patiently(&LinkSettings::default());
    let failed = |error| LabError(format!("{address}: {error}"));
    let mut link = Link::open(&address, &login).await.map_err(failed)?;
    let mut answer = Value::Nil;
    for command in commands {
        answer = link.call(command).await.map_err(failed)?;
    }
    Ok(answer)
}

#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What was made is taken away: containers, volumes, the network. The image stays, for the next time.
/// Containers that do nothing but have an address.
pub struct Placeholders(Vec<String>);

impl Project {
    /// Takes the lowest addresses that are free.
    pub fn take_addresses(&self, count: usize) -> Placeholders {
        let (network, image) = (self.network(), format!("{STANDIN}/redis:7-bookworm"));
        let mut taken = Placeholders(Vec::new());
        for _ in 0..count {
            let run = ["run", "--detach", "--network", &network, "--entrypoint", "sleep", &image];
            let id = self.docker(&[&run[..], &["3600"]].concat());
            taken.0.push(id.trim().to_owned());
        }
        taken
    }
}

impl Drop for Placeholders {
    fn drop(&mut self) {
        let remove = ["rm", "--force", "--volumes"];
        let _ = Command::new("docker").args(remove).args(&self.0).output();
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "2"];
        let _ = self.command(&down).output();
        // Those that are gone already are no error.
        let volumes = self.volumes.take();
        let _ = Command::new("docker").args(["volume", "rm"]).args(volumes).output();
    }
}
