//! A whole world: Consul, Redis servers, Sentinels, agents.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;

use super::LabError;
use super::consul::{ClusterSpec, ConsulServer, ConsulSpec, consul_ports};
pub use super::net::{TlsFiles, free_port, free_ports};
use super::process::{Life, Process};
use super::redis::{LabServer, ServerSpec};
use super::tools;
use super::wait::until;
use crate::core::identity::address::Address;
use crate::redis_link::{LinkSettings, TlsSettings};
use crate::secret::SecretSource;

/// Sentinel's down-after-milliseconds, unless a world says otherwise. At 1000 or less, one failover in ten is
/// followed by a false one: a Sentinel that has just followed a switch may wait a second before it connects
/// to the new primary, which it then calls down (`docs/facts/sentinel.md` 6).
const DOWN_AFTER_MS: u64 = 1_500;
/// Sentinel's `failover-timeout` unless said otherwise, in ms. Where an election ends without a leader or finds no good
/// replica, the next one begins after twice as long and up to 1 s more (`docs/facts/sentinel.md`): what waits for a
/// failover for 20 s outlasts one that failed.
const FAILOVER_TIMEOUT_MS: u64 = 6_000;
/// Worlds that one process can have.
const WORLDS_MAX: u8 = 8;
/// Lines of each log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;
/// Addresses for each world.
pub const ADDRESSES_PER_WORLD: u8 = 30;
/// How often Sentinels ask for INFO and say hello by themselves, in ms (`docs/facts/sentinel.md` 2.3).
const INFO_PERIOD_MS: u64 = 10_000;
const PUBLISH_PERIOD_MS: u64 = 2_000;
/// The same while a world is waited for that has nothing to do but find itself.
const HURRIED_PERIOD_MS: u64 = 300;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldSpec {
    /// Redis servers; the first is the primary at first.
    pub redis: usize,
    /// How many Sentinels.
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
    /// ACL user of every Redis and Sentinel that the passwords belong to, instead of the default one.
    pub username: Option<String>,
    /// Everything speaks TLS with these certificates, and nothing else.
    pub tls: Option<TlsFiles>,
    /// Consul servers, each with a disk and an address of its own.
    pub consul_servers: u8,
    /// Consul denies by default, and this token may do everything.
    pub master_token: Option<String>,
    /// No server knows a primary: every Redis is by itself and blank, and the Sentinels know no group.
    pub from_scratch: bool,
    /// Consul runs checks that are scripts.
    pub script_checks: bool,
    /// The Redis or Valkey of `.tools/versions` that [`tools::version`] finds by this, instead of the usual one.
    pub version: Option<&'static str>,
    /// The Redis that has brought what the world is for (`7.0`): an older one is not started
    /// ([`tools::redis_server_since`]).
    pub since: Option<&'static str>,
    /// What Redis and Sentinels announce themselves as.
    pub announced: Announced,
    /// More lines for every Redis' config file.
    pub redis_lines: &'static str,
    /// More lines for every Sentinel's config file and group, with `{group}` for its name.
    pub sentinel_lines: &'static str,
    /// Sentinels run `client-reconfig-script` with this.
    pub reconfig_script: Option<PathBuf>,
    /// More of the environment of every Redis and Sentinel.
    pub server_env: Vec<(String, String)>,
    /// How long the servers live.
    pub life: Life,
}

impl Default for WorldSpec {
    fn default() -> Self {
        Self {
            redis: 3,
            sentinels: 3,
            groups: vec!["redis".to_owned()],
            down_after_ms: DOWN_AFTER_MS,
            failover_timeout_ms: FAILOVER_TIMEOUT_MS,
            redis_password: None,
            sentinel_password: None,
            username: None,
            tls: None,
            consul_servers: 1,
            master_token: None,
            from_scratch: false,
            script_checks: false,
            version: None,
            since: None,
            announced: Announced::Ipv4,
            redis_lines: "",
            sentinel_lines: "",
            reconfig_script: None,
            server_env: Vec::new(),
            life: Life::WithUs,
        }
    }
}

/// What servers announce themselves as. Consul stays at an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// Their loopback address.
    Ipv4,
    /// Another loopback address and another port than they listen at, from where everything is forwarded to them: they
    /// are behind NAT, or in containers with published ports.
    Published,
    /// An address in `fd00::/64`, which is there already: in a network of the world's own.
    Ipv6,
    /// A name that ends in `.lab`, which is added to this hosts file. It is the one that the world's processes see.
    Name(PathBuf),
}

/// One group's servers.
#[derive(Debug)]
pub struct Group {
    /// The name that the Sentinels have for it.
    pub name: String,
    /// Its Redis servers; the first was the primary at first.
    pub redis: Vec<LabServer>,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    /// Consul. Of several servers, the last one: the test asks it.
    pub consul: ConsulServer,
    /// The servers before it, the leader first. `agent-0` asks the first of all, `agent-1` the second, and so on.
    pub more_consul: Vec<ConsulServer>,
    /// One for each of the spec.
    pub groups: Vec<Group>,
    /// All of them monitor all groups.
    pub sentinels: Vec<LabServer>,
    /// What it was made of.
    pub spec: WorldSpec,
    base: u8,
    next_address: u8,
    /// All Redis servers of a world have one port and an address each, as in production, so that an
    /// A record is enough to reach them.
    redis_port: u16,
    dir: TempDir,
}

impl World {
    /// Starts everything and waits until the Sentinels know one another and all replicas.
    ///
    /// # Errors
    /// When a server does not come up.
    pub async fn start(spec: WorldSpec) -> Result<Self, LabError> {
        static WORLDS: AtomicU8 = AtomicU8::new(0);
        super::wait::note_stalls();
        let world = WORLDS.fetch_add(1, Ordering::Relaxed) % WORLDS_MAX;
        let base = 1 + world * ADDRESSES_PER_WORLD;
        let dir = tempfile::Builder::new().prefix("consul-redis-lab-").tempdir()?;
        let (consul, more_consul) = start_consul(&spec, base, dir.path()).await?;
        let addresses: Vec<Ipv4Addr> =
            (0..ADDRESSES_PER_WORLD).map(|n| loopback(base + n)).collect();
        let mut world = Self {
            redis_port: free_port(&addresses)?,
            consul,
            more_consul,
            groups: Vec::new(),
            sentinels: Vec::new(),
            base,
            next_address: base + spec.consul_servers.max(1),
            dir,
            spec,
        };
        for name in world.spec.groups.clone() {
            let mut redis: Vec<LabServer> = Vec::new();
            for index in 0..world.spec.redis {
                let primary = redis.first().filter(|_| !world.spec.from_scratch);
                let primary = primary.map(|first| first.address.clone());
                redis.push(world.start_redis(&format!("{name}-{index}"), primary.as_ref()).await?);
            }
            world.groups.push(Group { name, redis });
        }
        for index in 0..world.spec.sentinels {
            let knows = !world.spec.from_scratch;
            let sentinel = world.start_sentinel(&format!("sentinel-{index}"), knows).await?;
            world.sentinels.push(sentinel);
        }
        if !world.spec.from_scratch {
            world.settle().await?;
        }
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
    ) -> Result<LabServer, LabError> {
        let (ip, host) = self.place(name)?;
        let mut config = format!(
            "bind {{ip}}\n{}dir {}\nsave \"\"\nappendonly no\n\
             replica-announce-ip {{host}}\nreplica-announce-port {{announced}}\n\
             repl-diskless-sync yes\nrepl-diskless-sync-delay 0\n{}",
            self.port_lines(),
            self.dir.path().join(name).display(),
            self.spec.redis_lines,
        );
        if let Some(primary) = primary {
            config.push_str(&format!("replicaof {} {}\n", primary.host(), primary.port()));
        }
        if let Some(password) = &self.spec.redis_password {
            config.push_str(&self.user_lines(password));
            config.push_str(&format!("masterauth {password}\n"));
            if let Some(user) = &self.spec.username {
                config.push_str(&format!("masteruser {user}\n"));
            }
        }
        let login = self.login(self.spec.redis_password.as_deref());
        let (dir, life) = (self.dir.path(), self.spec.life);
        let (tool, config, args, host) = (self.tool()?, config.as_str(), &[][..], host.as_str());
        let (port, published) = (self.redis_port, self.published(host)?);
        let spec =
            ServerSpec { name, tool, ip, host, port, published, config, args, login, dir, life };
        LabServer::start(spec).await
    }

    /// Starts one more Sentinel, which knows the groups or nothing at all.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_sentinel(&mut self, name: &str, knows: bool) -> Result<LabServer, LabError> {
        let (ip, host) = self.place(name)?;
        let hostnames = match self.spec.announced {
            Announced::Name(_) => {
                "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
            }
            Announced::Ipv4 | Announced::Published | Announced::Ipv6 => "",
        };
        let mut config = format!(
            "bind {{ip}}\n{}dir {}\n{hostnames}sentinel announce-ip {{host}}\n\
             sentinel announce-port {{announced}}\n",
            self.port_lines(),
            self.dir.path().join(name).display()
        );
        if let Some(password) = &self.spec.sentinel_password {
            config.push_str(&self.user_lines(password));
            // What Sentinels use towards one another: the same password, unless there is a user (6.2).
            if let Some(user) = &self.spec.username {
                config.push_str(&format!("sentinel sentinel-pass {password}\n"));
                config.push_str(&format!("sentinel sentinel-user {user}\n"));
            }
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
                if let Some(user) = &self.spec.username {
                    config.push_str(&format!("sentinel auth-user {name} {user}\n"));
                }
            }
            config.push_str(&self.spec.sentinel_lines.replace("{group}", name));
            if let Some(script) = &self.spec.reconfig_script {
                let script = script.display();
                config.push_str(&format!("sentinel client-reconfig-script {name} {script}\n"));
            }
        }
        let login = self.login(self.spec.sentinel_password.as_deref());
        let (dir, life) = (self.dir.path(), self.spec.life);
        let (tool, config, args) = (self.tool()?, config.as_str(), &["--sentinel"][..]);
        let at = match ip {
            IpAddr::V4(ip) => ip,
            // No other server is in that network.
            IpAddr::V6(_) => loopback(self.base),
        };
        let (port, published) = (free_port(&[at])?, self.published(&host)?);
        let host = host.as_str();
        let spec =
            ServerSpec { name, tool, ip, host, port, published, config, args, login, dir, life };
        LabServer::start(spec).await
    }

    /// All Consul servers in their order.
    pub fn consul_servers(&self) -> impl Iterator<Item = &ConsulServer> {
        self.more_consul.iter().chain([&self.consul])
    }

    /// The Consul server that an agent of this name asks: by the number at its end.
    pub fn consul_of(&self, agent: &str) -> &ConsulServer {
        let number = agent.rsplit('-').next().and_then(|text| text.parse().ok());
        let number: usize = number.unwrap_or_default();
        self.consul_servers().nth(number % (self.more_consul.len() + 1)).unwrap_or(&self.consul)
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
        let tool = tools::Tool::at(program.to_owned());
        let mut all: Vec<String> = vec!["agent".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut envs = self.agent_env();
        envs.push(("CONSUL_REDIS_ID".to_owned(), name.to_owned()));
        envs.push(("CONSUL_HTTP_ADDR".to_owned(), self.consul_of(name).http.to_string()));
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
            // Not the config file of the machine.
            ("CONSUL_REDIS_CONFIG".to_owned(), "/dev/null".to_owned()),
        ];
        let secrets = [
            ("CONSUL_REDIS_PASSWORD", &self.spec.redis_password),
            ("CONSUL_REDIS_SENTINEL_PASSWORD", &self.spec.sentinel_password),
            ("CONSUL_HTTP_TOKEN", &self.spec.master_token),
            ("CONSUL_REDIS_USERNAME", &self.spec.username),
            ("CONSUL_REDIS_SENTINEL_USERNAME", &self.spec.username),
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
    pub fn server(&self, address: &str) -> Option<&LabServer> {
        self.groups
            .iter()
            .flat_map(|group| &group.redis)
            .find(|server| server.address.to_string() == address)
    }

    /// The server at an address.
    pub fn server_mut(&mut self, address: &str) -> Option<&mut LabServer> {
        self.groups
            .iter_mut()
            .flat_map(|group| &mut group.redis)
            .find(|server| server.address.to_string() == address)
    }

    /// Waits until every Sentinel knows all others and all replicas of every group. Meanwhile they look more often than
    /// they do by themselves, and are back at their own pace when this returns.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settle(&self) -> Result<(), LabError> {
        self.set_periods(HURRIED_PERIOD_MS, HURRIED_PERIOD_MS).await;
        let settled = self.until_all_known().await;
        self.set_periods(INFO_PERIOD_MS, PUBLISH_PERIOD_MS).await;
        settled
    }

    async fn until_all_known(&self) -> Result<(), LabError> {
        for sentinel in &self.sentinels {
            for group in &self.groups {
                let what = format!("{} knows all of {}", sentinel.name(), group.name);
                until(&what, Duration::from_secs(40), || self.knows_all(sentinel, group)).await?;
            }
        }
        Ok(())
    }

    /// Waits until no Sentinel has anything on its mind: no failover, nothing down, every replica
    /// reporting itself as one. Before that, a Sentinel may yet undo what another one does. Meanwhile they ask for INFO
    /// more often than they do by themselves.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn calm(&self) -> Result<(), LabError> {
        self.hurry().await;
        let calm = self.until_all_calm().await;
        self.set_periods(INFO_PERIOD_MS, PUBLISH_PERIOD_MS).await;
        calm
    }

    /// Sentinels ask for INFO more often than they do by themselves, until [`Self::calm`] returns: a primary that says
    /// it is a replica is called down two of these periods after `down-after-milliseconds`. Their hellos keep their
    /// pace: how soon they turn an old primary into a replica depends on that.
    pub async fn hurry(&self) {
        self.set_periods(HURRIED_PERIOD_MS, PUBLISH_PERIOD_MS).await;
    }

    /// A Sentinel that is down, or older than 7.0 and without `SENTINEL DEBUG`, keeps its own pace.
    async fn set_periods(&self, info_ms: u64, publish_ms: u64) {
        let (info, publish) = (info_ms.to_string(), publish_ms.to_string());
        let command = ["SENTINEL", "DEBUG", "info-period", &info, "publish-period", &publish];
        for sentinel in &self.sentinels {
            let _ = sentinel.ask(&command).await;
        }
    }

    async fn until_all_calm(&self) -> Result<(), LabError> {
        for sentinel in &self.sentinels {
            for group in &self.groups {
                let what = format!("{} is calm about {}", sentinel.name(), group.name);
                until(&what, Duration::from_secs(60), || is_calm(sentinel, &group.name)).await?;
            }
        }
        Ok(())
    }

    async fn knows_all(&self, sentinel: &LabServer, group: &Group) -> Result<(), LabError> {
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

    fn port_lines(&self) -> String {
        let Some(tls) = &self.spec.tls else { return "port {port}\n".to_owned() };
        format!(
            "port 0\ntls-port {{port}}\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n\
             tls-replication yes\n",
            tls.ca.display(),
            tls.cert.display(),
            tls.key.display()
        )
    }

    fn user_lines(&self, password: &str) -> String {
        match &self.spec.username {
            Some(user) => format!("user default off\nuser {user} on >{password} ~* &* +@all\n"),
            None => format!("requirepass {password}\n"),
        }
    }

    fn login(&self, password: Option<&str>) -> LinkSettings {
        LinkSettings {
            username: self.spec.username.clone(),
            password: password.map_or(SecretSource::None, |password| {
                SecretSource::Value(SecretString::from(password.to_owned()))
            }),
            tls: self.spec.tls.as_ref().map(|tls| TlsSettings {
                ca_cert: Some(tls.ca.clone()),
                client_cert: Some((tls.cert.clone(), tls.key.clone())),
                server_name: Some(tls.name.clone()),
            }),
            ..LinkSettings::default()
        }
    }

    fn tool(&self) -> Result<tools::Tool, LabError> {
        let tool = match (self.spec.version, self.spec.since) {
            (Some(name), _) => tools::version(name)?,
            (None, Some(least)) => tools::redis_server_since(least)?,
            (None, None) => tools::redis_server()?,
        };
        Ok(tools::Tool { env: self.spec.server_env.clone(), ..tool })
    }

    /// Where a server listens, and what it announces itself as.
    fn place(&mut self, name: &str) -> Result<(IpAddr, String), LabError> {
        let ip = self.address();
        match &self.spec.announced {
            Announced::Ipv4 => Ok((ip.into(), ip.to_string())),
            Announced::Published => Ok((ip.into(), self.address().to_string())),
            Announced::Ipv6 => {
                let [.., last] = ip.octets();
                let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into());
                Ok((ip.into(), ip.to_string()))
            }
            Announced::Name(hosts) => {
                let host = format!("{name}.lab");
                let mut hosts = File::options().append(true).open(hosts)?;
                writeln!(hosts, "{ip} {host}")?;
                Ok((ip.into(), host))
            }
        }
    }

    /// The port that a server announces, where that is another one than it listens on.
    fn published(&self, host: &str) -> Result<Option<u16>, LabError> {
        if self.spec.announced != Announced::Published {
            return Ok(None);
        }
        free_port(&[host.parse().map_err(LabError::new)?]).map(Some)
    }

    /// A loopback address that no other server has: of this process, this world, this server.
    pub fn address(&mut self) -> Ipv4Addr {
        let address = loopback(self.next_address);
        self.next_address = self.base + (self.next_address - self.base + 1) % ADDRESSES_PER_WORLD;
        address
    }
}

/// Starts a world's Consul: the server that the test asks, and those before it.
async fn start_consul(
    spec: &WorldSpec,
    base: u8,
    dir: &Path,
) -> Result<(ConsulServer, Vec<ConsulServer>), LabError> {
    let ips: Vec<Ipv4Addr> = (0..spec.consul_servers.max(1)).map(|n| loopback(base + n)).collect();
    let ports = consul_ports(&ips)?;
    let mut servers = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let node = format!("consul-{index}");
        let cluster = ClusterSpec { node: &node, servers: &ips, ports };
        servers.push(ConsulServer::spawn(ConsulSpec {
            tool: tools::consul()?,
            ip: *ip,
            dir,
            master_token: spec.master_token.as_deref(),
            tls: spec.tls.as_ref(),
            script_checks: spec.script_checks,
            cluster: (ips.len() > 1).then_some(cluster),
            life: spec.life,
        })?);
    }
    for server in &servers {
        server.until_led().await?;
    }
    let none = || LabError::new("no Consul server");
    let leader = servers.first().ok_or_else(none)?.leader().await?;
    // Which server won the election does not matter to a client that asks the leader.
    servers.sort_by_key(|server| server.http.ip() != leader);
    Ok((servers.pop().ok_or_else(none)?, servers))
}

async fn is_calm(sentinel: &LabServer, group: &str) -> Result<(), LabError> {
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

/// When a test fails, what every server and agent saw is the better half of why.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let show = |name: &str, log: &str| {
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- {name}\n{}", lines.get(from..).unwrap_or_default().join("\n"));
        };
        for entry in std::fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name().into_string().unwrap_or_default(), entry.path());
            // Consul says a lot, and little of it matters.
            if path.extension().is_some_and(|e| e == "log") && name != "consul.log" {
                show(&name, &std::fs::read_to_string(path).unwrap_or_default());
            }
        }
        for sentinel in &self.sentinels {
            show(sentinel.name(), &sentinel.log());
        }
    }
}

fn loopback(last: u8) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0.x.x is where other programs listen.
    Ipv4Addr::new(127, 1 + high % 254, low, last)
}
