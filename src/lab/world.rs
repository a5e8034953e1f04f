//! A whole world: one Consul, Redis servers, Sentinels, agents.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;

use super::LabError;
use super::consul::ConsulServer;
use super::process::{Life, Process};
use super::redis::Server;
use super::tools;
use super::wait::until;
use crate::core::address::Address;
use crate::redis_link::LinkSettings;
use crate::secret::SecretSource;

/// Worlds that one process can have.
const WORLDS_MAX: u8 = 8;
/// Addresses for each world.
const ADDRESSES_PER_WORLD: u8 = 30;

/// A port that is free for TCP and UDP on `ip`.
///
/// # Errors
/// When none can be had.
pub fn free_port(ip: Ipv4Addr) -> Result<u16, LabError> {
    for _ in 0..64 {
        let tcp = TcpListener::bind((ip, 0))?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind((ip, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LabError(format!("no free port on {ip}")))
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldSpec {
    /// Redis servers; the first is the primary at first.
    pub redis: usize,
    /// Sentinels.
    pub sentinels: usize,
    /// The groups. Each has `redis` servers of its own; all are on the same Sentinels.
    pub groups: Vec<String>,
    /// Sentinel's `down-after-milliseconds`.
    pub down_after_ms: u64,
    /// Sentinel's `failover-timeout`, in ms.
    pub failover_timeout_ms: u64,
    /// Password of every Redis.
    pub redis_password: Option<String>,
    /// Password of every Sentinel.
    pub sentinel_password: Option<String>,
    /// Consul denies by default, and this token may do everything.
    pub master_token: Option<String>,
    /// Sentinels run `client-reconfig-script` with this.
    pub reconfig_script: Option<PathBuf>,
    /// How long the servers live.
    pub life: Life,
}

impl Default for WorldSpec {
    fn default() -> Self {
        Self {
            redis: 3,
            sentinels: 3,
            groups: vec!["redis".to_owned()],
            down_after_ms: 1_000,
            failover_timeout_ms: 10_000,
            redis_password: None,
            sentinel_password: None,
            master_token: None,
            reconfig_script: None,
            life: Life::WithUs,
        }
    }
}

/// One group's servers.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its servers.
    pub redis: Vec<Server>,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    /// Consul.
    pub consul: ConsulServer,
    /// The groups.
    pub groups: Vec<Group>,
    /// The Sentinels.
    pub sentinels: Vec<Server>,
    /// What it was made of.
    pub spec: WorldSpec,
    base: u8,
    next_address: u8,
    dir: Dir,
}

#[derive(Debug)]
enum Dir {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Dir {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

impl World {
    /// Starts everything and waits until the Sentinels know one another and all replicas.
    ///
    /// # Errors
    /// When a server does not come up.
    pub async fn start(spec: WorldSpec) -> Result<Self, LabError> {
        static WORLDS: AtomicU8 = AtomicU8::new(0);
        let world = WORLDS.fetch_add(1, Ordering::Relaxed) % WORLDS_MAX;
        let base = 1 + world * ADDRESSES_PER_WORLD;
        let dir = tempfile::Builder::new().prefix("consul-redis-lab-").tempdir()?;
        let dir = match spec.life {
            Life::WithUs => Dir::Temporary(dir),
            Life::OutlivesUs => Dir::Kept(dir.keep()),
        };
        let token = spec.master_token.as_deref();
        let consul_ip = loopback(base);
        let consul =
            ConsulServer::start(&tools::consul()?, consul_ip, dir.path(), token, spec.life).await?;
        let mut world = Self {
            consul,
            groups: Vec::new(),
            sentinels: Vec::new(),
            base,
            next_address: base + 1,
            dir,
            spec,
        };
        for name in world.spec.groups.clone() {
            let mut redis: Vec<Server> = Vec::new();
            for index in 0..world.spec.redis {
                let primary = redis.first().map(|first| first.address.clone());
                redis.push(world.start_redis(&format!("{name}-{index}"), primary.as_ref()).await?);
            }
            world.groups.push(Group { name, redis });
        }
        for index in 0..world.spec.sentinels {
            let sentinel = world.start_sentinel(&format!("sentinel-{index}"), true).await?;
            world.sentinels.push(sentinel);
        }
        world.settle().await?;
        Ok(world)
    }

    /// Starts one more Redis, as a replica of `primary` where one is given.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_redis(
        &mut self,
        name: &str,
        primary: Option<&Address>,
    ) -> Result<Server, LabError> {
        let ip = self.address();
        let mut config = format!(
            "bind {{ip}}\nport {{port}}\ndir {}\nsave \"\"\nappendonly no\n\
             replica-announce-ip {{ip}}\nreplica-announce-port {{port}}\n\
             repl-diskless-sync-delay 0\n",
            self.dir.path().join(name).display()
        );
        if let Some(primary) = primary {
            config.push_str(&format!("replicaof {} {}\n", primary.host(), primary.port()));
        }
        if let Some(password) = &self.spec.redis_password {
            config.push_str(&format!("requirepass {password}\nmasterauth {password}\n"));
        }
        let login = login(self.spec.redis_password.as_deref());
        let tool = tools::redis_server()?;
        Server::start(name, &tool, ip, &config, &[], login, self.dir.path(), self.spec.life).await
    }

    /// Starts one more Sentinel, which knows the groups or nothing at all.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_sentinel(&mut self, name: &str, knows: bool) -> Result<Server, LabError> {
        let ip = self.address();
        let mut config = format!(
            "bind {{ip}}\nport {{port}}\ndir {}\nsentinel announce-ip {{ip}}\n\
             sentinel announce-port {{port}}\n",
            self.dir.path().join(name).display()
        );
        if let Some(password) = &self.spec.sentinel_password {
            config.push_str(&format!("requirepass {password}\n"));
        }
        let quorum = self.spec.sentinels / 2 + 1;
        for group in self.groups.iter().filter(|_| knows) {
            let Some(primary) = group.redis.first() else { continue };
            let (host, port) = (primary.address.host(), primary.address.port());
            let name = &group.name;
            config.push_str(&format!(
                "sentinel monitor {name} {host} {port} {quorum}\n\
                 sentinel down-after-milliseconds {name} {}\n\
                 sentinel failover-timeout {name} {}\nsentinel parallel-syncs {name} 1\n",
                self.spec.down_after_ms, self.spec.failover_timeout_ms
            ));
            if let Some(password) = &self.spec.redis_password {
                config.push_str(&format!("sentinel auth-pass {name} {password}\n"));
            }
            if let Some(script) = &self.spec.reconfig_script {
                let script = script.display();
                config.push_str(&format!("sentinel client-reconfig-script {name} {script}\n"));
            }
        }
        let login = login(self.spec.sentinel_password.as_deref());
        let tool = tools::redis_server()?;
        let (dir, life) = (self.dir.path(), self.spec.life);
        Server::start(name, &tool, ip, &config, &["--sentinel"], login, dir, life).await
    }

    /// Starts an agent of this world.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(
        &self,
        program: &Path,
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Process, LabError> {
        let tool = tools::Tool { path: program.to_owned(), library_path: None };
        let mut all: Vec<String> = vec!["agent".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut envs = self.agent_env();
        envs.push(("CONSUL_REDIS_ID".to_owned(), name.to_owned()));
        envs.extend(env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        Process::start(name, &tool, &all, &envs, self.dir.path(), self.spec.life)
    }

    /// The environment that points any command at this world.
    pub fn agent_env(&self) -> Vec<(String, String)> {
        let sentinels: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        let mut env = vec![
            ("CONSUL_HTTP_ADDR".to_owned(), self.consul.http.to_string()),
            ("CONSUL_REDIS_SENTINELS".to_owned(), sentinels.join(",")),
        ];
        let secrets = [
            ("CONSUL_REDIS_PASSWORD", &self.spec.redis_password),
            ("CONSUL_REDIS_SENTINEL_PASSWORD", &self.spec.sentinel_password),
            ("CONSUL_HTTP_TOKEN", &self.spec.master_token),
        ];
        for (name, value) in secrets {
            env.extend(value.clone().map(|value| (name.to_owned(), value)));
        }
        env
    }

    /// Where the servers' files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server at an address.
    pub fn server(&self, address: &str) -> Option<&Server> {
        self.groups
            .iter()
            .flat_map(|group| &group.redis)
            .find(|server| server.address.to_string() == address)
    }

    /// The server at an address.
    pub fn server_mut(&mut self, address: &str) -> Option<&mut Server> {
        self.groups
            .iter_mut()
            .flat_map(|group| &mut group.redis)
            .find(|server| server.address.to_string() == address)
    }

    /// Waits until every Sentinel knows all others and all replicas of every group.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settle(&self) -> Result<(), LabError> {
        for sentinel in &self.sentinels {
            for group in &self.groups {
                let what = format!("{} knows all of {}", sentinel.name(), group.name);
                until(&what, Duration::from_secs(40), || self.knows_all(sentinel, group)).await?;
            }
        }
        Ok(())
    }

    /// Waits until no Sentinel has anything on its mind: no failover, nobody down, every replica
    /// reporting itself as one. Before that, a Sentinel may yet undo what another one does.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn calm(&self) -> Result<(), LabError> {
        for sentinel in &self.sentinels {
            for group in &self.groups {
                let what = format!("{} is calm about {}", sentinel.name(), group.name);
                until(&what, Duration::from_secs(60), || is_calm(sentinel, &group.name)).await?;
            }
        }
        Ok(())
    }

    async fn knows_all(&self, sentinel: &Server, group: &Group) -> Result<(), LabError> {
        let answer = sentinel.ask(&["SENTINEL", "MASTER", &group.name]).await?;
        let fields = crate::redis_link::fields(&answer).map_err(LabError)?;
        let count = |name: &str| fields.get(name).and_then(|text| text.parse::<usize>().ok());
        let wanted = (Some(group.redis.len() - 1), Some(self.sentinels.len() - 1));
        let found = (count("num-slaves"), count("num-other-sentinels"));
        if found == wanted {
            return Ok(());
        }
        Err(LabError(format!("{found:?} replicas and Sentinels instead of {wanted:?}")))
    }

    /// A loopback address that no other server has: of this process, this world, this server.
    fn address(&mut self) -> Ipv4Addr {
        let address = loopback(self.next_address);
        self.next_address = self.base + (self.next_address - self.base + 1) % ADDRESSES_PER_WORLD;
        address
    }
}

async fn is_calm(sentinel: &Server, group: &str) -> Result<(), LabError> {
    let fields = |value: &redis::Value| crate::redis_link::fields(value).map_err(LabError);
    let master = fields(&sentinel.ask(&["SENTINEL", "MASTER", group]).await?)?;
    if master.get("flags").map(String::as_str) != Some("master") {
        return Err(LabError(format!("flags {:?}", master.get("flags"))));
    }
    let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", group]).await?;
    for row in crate::redis_link::list(&replicas).map_err(LabError)? {
        let row = fields(row)?;
        let is = |name: &str, wanted: &str| row.get(name).is_some_and(|value| value == wanted);
        let calm = is("flags", "slave") && is("role-reported", "slave");
        if !calm || !is("master-link-status", "ok") {
            return Err(LabError(format!("{row:?}")));
        }
    }
    Ok(())
}

/// When a test fails, what the Sentinels saw is the better half of why.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for sentinel in &self.sentinels {
                eprintln!("--- {} at {}\n{}", sentinel.name(), sentinel.address, sentinel.log());
            }
        }
    }
}

fn loopback(last: u8) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0.x.x is where everybody else is.
    Ipv4Addr::new(127, 1 + high % 254, low, last)
}

fn login(password: Option<&str>) -> LinkSettings {
    LinkSettings {
        password: password.map_or(SecretSource::None, |password| {
            SecretSource::Value(SecretString::from(password.to_owned()))
        }),
        ..LinkSettings::default()
    }
}
