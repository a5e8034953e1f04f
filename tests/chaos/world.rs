//! Three hosts on one switch, each with a Consul server, a Redis, a Sentinel and an agent, and a Redis beside them that
//! belongs to other people.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use consul_redis::lab::consul::{ClusterSpec, ConsulServer, ConsulSpec, USUAL_PORTS};
use consul_redis::lab::process::Life;
use consul_redis::lab::tools::{self, Tool};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clients::Places;
use crate::fault::HOSTS;
use crate::history::host_of;
use crate::http::{Http, MANAGEMENT};
use crate::namespace::{Namespace, Switch};
use crate::resp::{Reply, ask};
use crate::server::Server;

/// The hosts' addresses. They exist in namespaces of their own only.
pub const IPS: [Ipv4Addr; HOSTS] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
/// Where clients are.
const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// Where the Redis of other people is.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);
/// Keys that it has.
const FOREIGN_KEYS: usize = 50;
/// The token that opens `/status.json`.
const LISTEN_TOKEN: &str = "listen-token-4f1d2c77";
/// Redis' first password; each later one has a number.
const PASSWORD: &str = "redis-password-8b31-";
/// `down-after-milliseconds`: from here on a cut-off primary is promised to stop in time (docs/guarantees.md).
pub const DOWN_AFTER_MS: u64 = 5_000;
/// Sentinel's `failover-timeout`.
const FAILOVER_TIMEOUT_S: u64 = 10;
/// The size of a disk of Redis, in MB.
const DISK_MB: usize = 96;
/// How long a server may take to answer a command of the test.
const PATIENCE: Duration = Duration::from_secs(1);

/// How agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Remote mode: no agent knows of the servers on its host.
    Observer,
    /// Node mode.
    Node,
    /// `consul-redis exec` runs each Redis and each Sentinel.
    Exec,
}

/// What a world is made of.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// How agents run.
    pub mode: Mode,
    /// `publish` of the group.
    pub level: &'static str,
    /// Which hosts keep append-only files: those whose number is even with 0, the others with 1.
    pub parity: usize,
    /// `hold_when_cut_off`: a checker that finds nothing without it would find nothing at all.
    pub hold: bool,
}

/// One host.
pub struct Host {
    /// Its network.
    pub namespace: Namespace,
    /// Its directory.
    pub dir: PathBuf,
    /// The disk of its Redis.
    pub disk: PathBuf,
    /// Its Consul server.
    pub consul: ConsulServer,
    /// Its Redis.
    pub redis: Server,
    /// Its Sentinel.
    pub sentinel: Server,
    /// Its agent; under `exec` there is none beside those of the servers.
    pub agent: Option<Server>,
}

/// All of it.
pub struct World {
    /// What it is made of.
    pub spec: Spec,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The switch.
    pub switch: Arc<Switch>,
    /// Where everything is.
    pub places: Places,
    /// HTTP from the switch.
    pub http: Http,
    /// Redis' password, and how many there have been.
    pub password: (watch::Sender<String>, usize),
    /// Where all is kept.
    pub dir: tempfile::TempDir,
    /// Passwords and tokens that no log may have.
    pub secrets: Vec<String>,
    foreign: (Namespace, Server),
}

impl World {
    /// Starts one, and waits for nothing but Consul and what the agents need.
    pub async fn start(spec: Spec) -> Result<Self, String> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Disks of a bounded size, which are gone with this thread and its children.
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|error| format!("no mounts of our own: {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(words)?;
        let switch = Arc::new(Switch::new(SWITCH).map_err(words)?);
        switch.enter().map_err(words)?;
        let dir =
            tempfile::Builder::new().prefix("consul-redis-chaos-").tempdir().map_err(words)?;
        let password = format!("{PASSWORD}0");
        let mut begun = Vec::new();
        for (number, ip) in IPS.into_iter().enumerate() {
            let namespace = Namespace::new().map_err(words)?;
            switch.connect(&name(number), &namespace, ip).map_err(words)?;
            let home = dir.path().join(name(number));
            std::fs::create_dir_all(&home).map_err(words)?;
            let consul = start_consul(number, &namespace, &home)?;
            begun.push((namespace, home, consul));
        }
        let http = Http::new();
        for (_, _, consul) in &begun {
            consul.until_led().await.map_err(words)?;
        }
        let tokens = set_up_consul(&http).await?;
        let mut hosts = Vec::new();
        for (number, (namespace, home, consul)) in begun.into_iter().enumerate() {
            std::fs::write(home.join("token"), &tokens[number]).map_err(words)?;
            std::fs::write(home.join("password"), &password).map_err(words)?;
            std::fs::write(home.join("listen"), LISTEN_TOKEN).map_err(words)?;
            hosts.push(host(spec, number, namespace, home, consul, &password)?);
        }
        let foreign = foreign(&switch, dir.path())?;
        let (send, receive) = watch::channel(password.clone());
        let (listen_token, start) = (LISTEN_TOKEN.to_owned(), Instant::now());
        let places = Places { ips: IPS, listen_token, password: receive, start };
        let secrets = [&tokens[..], &[MANAGEMENT.to_owned(), LISTEN_TOKEN.to_owned(), password]];
        let secrets = secrets.concat();
        let password = (send, 0);
        let mut world = Self { spec, hosts, switch, places, http, password, dir, secrets, foreign };
        world.begin().await?;
        Ok(world)
    }

    async fn begin(&mut self) -> Result<(), String> {
        self.foreign.1.start()?;
        for host in &mut self.hosts {
            host.redis.start()?;
            host.sentinel.start()?;
        }
        self.until("other people's Redis", 10, async |world: &Self| {
            for number in 0..FOREIGN_KEYS {
                let key = format!("theirs-{number}");
                expect_text(world.foreign_ask(&["SET", &key, "theirs"]).await?)?;
            }
            Ok(())
        })
        .await?;
        // The first one leads: it alone has data.
        self.until("the first key", 20, async |world: &Self| {
            world.redis(0, &["SET", "first", "1"]).await.and_then(expect_text)
        })
        .await?;
        if self.spec.mode == Mode::Observer {
            self.until("a group made by hand", 20, async |world: &Self| world.by_hand().await)
                .await?;
        }
        for agent in self.hosts.iter_mut().filter_map(|host| host.agent.as_mut()) {
            agent.start()?;
        }
        Ok(())
    }

    /// What an operator does where agents are not to choose a first primary.
    async fn by_hand(&self) -> Result<(), String> {
        let first = IPS[0].to_string();
        for number in 0..HOSTS {
            if number > 0 {
                expect_text(self.redis(number, &["REPLICAOF", &first, "6379"]).await?)?;
            }
            let _ = self
                .sentinel(number, &["SENTINEL", "MONITOR", "redis", &first, "6379", "2"])
                .await?;
            let password = self.places.password.borrow().clone();
            let timeout = (FAILOVER_TIMEOUT_S * 1_000).to_string();
            for (key, value) in [
                ("auth-pass", password.as_str()),
                ("down-after-milliseconds", &DOWN_AFTER_MS.to_string()),
                ("failover-timeout", &timeout),
            ] {
                let set = self.sentinel(number, &["SENTINEL", "SET", "redis", key, value]).await?;
                expect_text(set)?;
            }
        }
        Ok(())
    }

    /// Looks until it is well.
    pub async fn until(
        &self,
        what: &str,
        seconds: u64,
        look: impl AsyncFn(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match look(self).await {
                Ok(()) => return Ok(()),
                Err(last) if Instant::now() > end => {
                    return Err(format!("{what}: not within {seconds} s; last seen: {last}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// A command on a host's Redis.
    pub async fn redis(&self, host: usize, command: &[&str]) -> Result<Reply, String> {
        let password = self.places.password.borrow().clone();
        let asked = ask(self.places.at(host, 6379), Some(&password), PATIENCE, command).await;
        asked.map_err(|fail| fail.text().to_owned())
    }

    /// A command on a host's Sentinel.
    pub async fn sentinel(&self, host: usize, command: &[&str]) -> Result<Reply, String> {
        let asked = ask(self.places.at(host, 26_379), None, PATIENCE, command).await;
        asked.map_err(|fail| fail.text().to_owned())
    }

    /// Consul's JSON, as one of its servers has it.
    pub async fn consul(&self, host: usize, path: &str) -> Result<Option<Value>, String> {
        let url = format!("http://{}{path}", self.places.at(host, 8500));
        self.http.get(&url, MANAGEMENT).await
    }

    /// The host of Consul's leader, as any of its servers knows it.
    pub async fn consul_leader(&self) -> Result<usize, String> {
        let ask = async |host| match self.consul(host, "/v1/status/leader").await? {
            Some(Value::String(leader)) => host_of(&leader).ok_or("no leader".to_owned()),
            other => Err(format!("{other:?}")),
        };
        self.first(ask).await
    }

    /// What Consul shows as the state.
    pub async fn state(&self) -> Result<Value, String> {
        let path = "/v1/kv/redis-ha/redis/state?raw";
        self.first(async |host| self.consul(host, path).await?.ok_or("no key".to_owned())).await
    }

    /// The first answer of any host; a host that is cut off holds nothing up.
    async fn first<T>(&self, ask: impl AsyncFn(usize) -> Result<T, String>) -> Result<T, String> {
        let all = (0..HOSTS).map(|host| Box::pin(ask(host)));
        futures_util::future::select_ok(all).await.map(|(answer, _)| answer)
    }

    /// Gives a host's agent another token, and deletes the one that it has if that is asked for.
    pub async fn new_token(&mut self, host: usize, at: usize) -> Result<(), String> {
        let token = create_token(&self.http, at, host).await?;
        std::fs::write(self.hosts[host].dir.join("token"), &token).map_err(words)?;
        self.secrets.push(token);
        Ok(())
    }

    /// Deletes the token that a host's agent has.
    pub async fn revoke(&self, host: usize, at: usize) -> Result<(), String> {
        let token = std::fs::read_to_string(self.hosts[host].dir.join("token")).map_err(words)?;
        let url = |path: &str| format!("http://{}{path}", self.places.at(at, 8500));
        let own = self.http.get(&url("/v1/acl/token/self"), &token).await?.ok_or("no token")?;
        let id = own["AccessorID"].as_str().ok_or("no accessor")?;
        let path = url(&format!("/v1/acl/token/{id}"));
        self.http.send(Method::DELETE, &path, &Value::Null).await.map(|_| ())
    }

    /// Starts a host's Consul server again, on its files.
    pub fn start_consul(&mut self, host: usize) -> Result<(), String> {
        let one = &mut self.hosts[host];
        if one.consul.id().is_none() {
            one.consul = start_consul(host, &one.namespace, &one.dir)?;
        }
        Ok(())
    }

    /// The environment of a command on a host.
    pub fn env(&self, host: usize) -> Vec<(String, String)> {
        agent_env(host)
    }

    async fn foreign_ask(&self, command: &[&str]) -> Result<Reply, String> {
        let asked = ask((FOREIGN, 6379).into(), None, PATIENCE, command).await;
        asked.map_err(|fail| fail.text().to_owned())
    }

    /// What is wrong with other people's Redis.
    pub async fn foreign_is_touched(&self) -> Option<String> {
        let role = match self.foreign_ask(&["ROLE"]).await {
            Ok(Reply::List(role)) => role.first().and_then(Reply::text).map(str::to_owned),
            other => return Some(format!("ROLE: {other:?}")),
        };
        if role.as_deref() != Some("master") {
            return Some(format!("it is no primary any more: {role:?}"));
        }
        let keys = i64::try_from(FOREIGN_KEYS).unwrap_or(0);
        match self.foreign_ask(&["DBSIZE"]).await {
            Ok(Reply::Int(found)) if found == keys => None,
            other => Some(format!("it had {keys} keys, and now {other:?}")),
        }
    }

    /// Runs a program in a host's network, and waits for it.
    pub fn run_in(&self, host: usize, program: &str, args: &[&str]) -> Result<(), String> {
        let net = format!("--net={}", self.hosts[host].namespace.path().display());
        let output = Command::new("nsenter").arg(net).arg(program).args(args).output();
        let output = output.map_err(words)?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// An error in words.
pub fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A status for an answer, and not an error.
pub fn expect_text(reply: Reply) -> Result<(), String> {
    match reply {
        Reply::Text(_) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A host's name.
pub fn name(host: usize) -> String {
    format!("h{}", host + 1)
}

fn start_consul(host: usize, namespace: &Namespace, home: &Path) -> Result<ConsulServer, String> {
    let spec = ConsulSpec {
        tool: tools::consul().map_err(words)?.within(&namespace.path()),
        ip: IPS[host],
        dir: home,
        master_token: Some(MANAGEMENT),
        tls: None,
        script_checks: false,
        cluster: Some(ClusterSpec { node: &name(host), servers: &IPS, ports: USUAL_PORTS }),
        life: Life::WithUs,
    };
    ConsulServer::spawn(spec).map_err(words)
}

/// Policies, the rights of DNS, and a token for each agent.
async fn set_up_consul(http: &Http) -> Result<Vec<String>, String> {
    let policy = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("consul/{name}-policy.hcl"));
        std::fs::read_to_string(file).map_err(words)
    };
    let url = |path: &str| format!("http://{}:8500{path}", IPS[0]);
    for name in ["agent", "reader"] {
        let body = json!({"Name": name, "Rules": policy(name)?});
        http.send(Method::PUT, &url("/v1/acl/policy"), &body).await?;
    }
    let anonymous = "00000000-0000-0000-0000-000000000002";
    let body = json!({"AccessorID": anonymous, "Policies": [{"Name": "reader"}]});
    http.send(Method::PUT, &url(&format!("/v1/acl/token/{anonymous}")), &body).await?;
    let mut tokens = Vec::new();
    for host in 0..HOSTS {
        tokens.push(create_token(http, 0, host).await?);
    }
    Ok(tokens)
}

async fn create_token(http: &Http, at: usize, host: usize) -> Result<String, String> {
    let url = format!("http://{}:8500/v1/acl/token", IPS[at]);
    let body = json!({"Description": name(host), "Policies": [{"Name": "agent"}]});
    let made = http.send(Method::PUT, &url, &body).await?;
    made["SecretID"].as_str().map(str::to_owned).ok_or_else(|| format!("no SecretID: {made}"))
}

fn host(
    spec: Spec,
    number: usize,
    namespace: Namespace,
    dir: PathBuf,
    consul: ConsulServer,
    password: &str,
) -> Result<Host, String> {
    let disk = dir.join("redis");
    for dir in [&disk, &dir.join("sentinel"), &dir.join("stash")] {
        std::fs::create_dir_all(dir).map_err(words)?;
    }
    let size = format!("size={DISK_MB}m");
    let flags = MsFlags::empty();
    mount(Some("chaos"), &disk, Some("tmpfs"), flags, Some(size.as_str())).map_err(words)?;
    let appends = number % 2 == spec.parity;
    let config = format!(
        "bind {} 127.0.0.1\nport 6379\nprotected-mode no\ndir {}\nrequirepass {password}\n\
         masterauth {password}\nsave 3 1\nappendonly {}\n",
        IPS[number],
        disk.display(),
        if appends { "yes" } else { "no" }
    );
    let file = dir.join("redis.conf");
    std::fs::write(&file, config).map_err(words)?;
    write_sentinel_config(number, &dir)?;
    std::fs::write(dir.join("agent.toml"), agent_config(spec, number, &dir)).map_err(words)?;
    let tool = tools::redis_server().map_err(words)?.within(&namespace.path());
    if spec.mode == Mode::Exec {
        return under_exec(spec, number, namespace, dir, consul);
    }
    let args = vec![file.display().to_string()];
    let redis = Server::new("redis", &dir, tool.clone(), args, Vec::new());
    let file = dir.join("sentinel/server.conf").display().to_string();
    let args = vec![file, "--sentinel".to_owned()];
    let sentinel = Server::new("sentinel", &dir, tool, args, Vec::new());
    let config = dir.join("agent.toml").display().to_string();
    let args = ["agent", "--config"].map(str::to_owned);
    let args = [&args[..], &[config]].concat();
    let mut env = agent_env(number);
    env.extend(clock_env(&dir));
    let program = program().within(&namespace.path());
    let agent = Some(Server::new("agent", &dir, program, args, env));
    Ok(Host { namespace, dir, disk, consul, redis, sentinel, agent })
}

/// Redis and Sentinel as children of `consul-redis exec`, which has an agent for each.
fn under_exec(
    spec: Spec,
    number: usize,
    namespace: Namespace,
    dir: PathBuf,
    consul: ConsulServer,
) -> Result<Host, String> {
    let tool = tools::redis_server().map_err(words)?;
    let (disk, home) = (dir.join("redis"), dir.join("sentinel"));
    std::fs::remove_file(home.join("server.conf")).map_err(words)?;
    let ip = IPS[number].to_string();
    let server = |name: &str, port: &str, volume: &Path, config: &str, first: Option<&Path>| {
        let mut args: Vec<String> =
            ["exec", "--config", config, "--announce"].map(str::to_owned).into();
        args.extend([
            format!("{ip}:{port}"),
            "--data-dir".to_owned(),
            volume.display().to_string(),
        ]);
        if name == "redis" {
            args.extend(["--expect".to_owned(), HOSTS.to_string()]);
        }
        // Ends with us, however we end.
        args.extend(["--", "setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        args.push(tool.path.display().to_string());
        match first {
            Some(first) => args.push(first.display().to_string()),
            None => args.push("--sentinel".to_owned()),
        }
        args.extend(["--bind", &ip, "--port", port].map(str::to_owned));
        let mut env = agent_env(number);
        env[1].1 = format!("{}-{name}", env[1].1);
        let library = tool.library_path.iter().map(|path| path.display().to_string());
        env.extend(library.map(|path| ("LD_LIBRARY_PATH".to_owned(), path)));
        Server::new(name, &dir, program().within(&namespace.path()), args, env).with_child()
    };
    let config = agent_config(spec, number, &dir);
    let config = config.replace("addresses = ", "refresh = \"2s\"\n# addresses = ");
    // Two agents of a host do not listen at one address.
    let (before, rest) = config.split_once("[http]").ok_or("no listener")?;
    let (_, behind) = rest.split_once("\n\n").ok_or("no end of it")?;
    std::fs::write(dir.join("sentinel.toml"), format!("{before}{behind}")).map_err(words)?;
    std::fs::write(dir.join("agent.toml"), &config).map_err(words)?;
    let at = |file: &str| dir.join(file).display().to_string();
    let first = dir.join("redis.conf");
    let redis = server("redis", "6379", &disk, &at("agent.toml"), Some(&first));
    let sentinel = server("sentinel", "26379", &home, &at("sentinel.toml"), None);
    Ok(Host { namespace, dir, disk, consul, redis, sentinel, agent: None })
}

/// A Sentinel that knows no group, and has no id yet.
pub fn write_sentinel_config(host: usize, dir: &Path) -> Result<(), String> {
    let home = dir.join("sentinel");
    let config = format!("bind {}\nport 26379\ndir {}\n", IPS[host], home.display());
    std::fs::write(home.join("server.conf"), config).map_err(words)
}

/// The program.
pub fn program() -> Tool {
    Tool::at(PathBuf::from(env!("CARGO_BIN_EXE_consul-redis")))
}

fn agent_env(host: usize) -> Vec<(String, String)> {
    vec![
        ("CONSUL_HTTP_ADDR".to_owned(), format!("{}:8500", IPS[host])),
        ("CONSUL_REDIS_ID".to_owned(), name(host)),
    ]
}

/// A wall clock that can be set, where libfaketime is.
fn clock_env(dir: &Path) -> Vec<(String, String)> {
    let Ok(library) = tools::faketime() else { return Vec::new() };
    let file = dir.join("clock");
    let _ = std::fs::write(&file, "+0");
    let env = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    env.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Sets a host's agent's wall clock; an error without libfaketime.
pub fn set_clock(dir: &Path, seconds: i64) -> Result<(), String> {
    tools::faketime().map_err(words)?;
    // At once: half a file would be no time.
    let new = dir.join("clock.new");
    std::fs::write(&new, format!("{seconds:+}")).map_err(words)?;
    std::fs::rename(new, dir.join("clock")).map_err(words)
}

fn agent_config(spec: Spec, host: usize, dir: &Path) -> String {
    let sentinels: Vec<String> = IPS.iter().map(|ip| format!("\"{ip}:26379\"")).collect();
    let (ip, dir, level) = (IPS[host], dir.display(), spec.level);
    let beside = format!(
        "[[redis]]\naddress = \"{ip}:6379\"\ncheck_interval = \"1s\"\n\n\
         [[sentinel]]\naddress = \"{ip}:26379\"\ncheck_interval = \"1s\"\n"
    );
    format!(
        "[consul]\ntoken_file = \"{dir}/token\"\n\n[instances]\npassword_file = \"{dir}/password\"\n\n\
         [http]\nlisten = \"{ip}:9790\"\ntoken_file = \"{dir}/listen\"\n\n\
         [sentinels]\naddresses = [{}]\n\n\
         [[group]]\nname = \"redis\"\npublish = \"{level}\"\nexpect = {HOSTS}\n\
         hold_when_cut_off = {}\nforget_sentinels_after = \"30s\"\n\n\
         [group.settings]\nquorum = \"auto\"\ndown_after = \"{DOWN_AFTER_MS}ms\"\n\
         failover_timeout = \"{FAILOVER_TIMEOUT_S}s\"\nreboot_down_after = \"3s\"\n\n{}",
        sentinels.join(", "),
        spec.hold,
        if spec.mode == Mode::Node { beside.as_str() } else { "" }
    )
}

fn foreign(switch: &Switch, dir: &Path) -> Result<(Namespace, Server), String> {
    let namespace = Namespace::new().map_err(words)?;
    switch.connect("foreign", &namespace, FOREIGN).map_err(words)?;
    let home = dir.join("foreign");
    std::fs::create_dir_all(&home).map_err(words)?;
    let file = home.join("server.conf");
    let config = format!("bind {FOREIGN}\nport 6379\nprotected-mode no\ndir {}\n", home.display());
    std::fs::write(&file, config).map_err(words)?;
    let tool = tools::redis_server().map_err(words)?.within(&namespace.path());
    let args = vec![file.display().to_string()];
    Ok((namespace, Server::new("redis", &home, tool, args, Vec::new())))
}
