//! Three hosts on one switch. The test itself stands at the switch, and sees what any other host would see.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::published::record::{Level, Record, decode};
use consul_redis::lab::LabError;
use consul_redis::lab::consul::{ClusterSpec, ConsulServer, ConsulSpec, USUAL_PORTS};
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::redis::{LabServer, ServerSpec};
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::redis_link::{LinkSettings, fields};
use consul_redis::secret::SecretSource;
use tempfile::TempDir;

use crate::namespace::{Namespace, Switch};

/// The hosts, at the addresses of docs/. They exist in namespaces of their own only.
pub const HOSTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
/// Where the test stands.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// Lines of each log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// The token that may do everything, where Consul has ACLs.
pub const MANAGEMENT_TOKEN: &str = "5d9a9ce8-3f5c-4d0b-9a53-0d0e9d1f6c11";
/// The password of Redis' user `default`, where it has one.
pub const FIRST_PASSWORD: &str = "the-first-password";

/// What hosts are made of.
#[derive(Debug, Clone, Default)]
pub struct HostsSpec {
    /// Sentinel's `down-after-milliseconds`.
    pub down_after_ms: u64,
    /// The agents' `hold_when_cut_off`.
    pub hold_when_cut_off: bool,
    /// Consul has ACLs, Redis has a password, and agents read both below this directory, as below /etc.
    pub secrets: Option<PathBuf>,
}

/// One host and what runs on it.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its network.
    pub namespace: Namespace,
    /// Its Consul server.
    pub consul: ConsulServer,
    /// Its Redis.
    pub redis: LabServer,
    /// Its Sentinel.
    pub sentinel: LabServer,
    agent: Option<Process>,
    config: PathBuf,
}

/// Three hosts and the switch between them.
#[derive(Debug)]
pub struct Hosts {
    /// The hosts.
    pub all: Vec<Host>,
    switch: Switch,
    dir: TempDir,
}

impl Hosts {
    /// Starts three blank hosts, except that the Redis on Consul's leader has a key, and so
    /// must lead. Waits until all agents and Sentinels agree on that, and moves the calling thread to the switch.
    pub async fn start(spec: HostsSpec) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut hosts = Self::boot(&spec).await.unwrap_or_else(|error| panic!("{error}"));
        let first = hosts.consul_leader().await.expect("Consul's leader");
        hosts.all[first].redis.ask(&["SET", "first", "1"]).await.expect("a key");
        for host in &mut hosts.all {
            host.start_agent().expect("an agent");
        }
        let all: Vec<usize> = (0..hosts.all.len()).collect();
        let writer = hosts.all[first].redis.address.clone();
        if spec.secrets.is_some() {
            // No name is answered before Consul's DNS has a token.
            assert_eq!(hosts.until_writer(&all, None).await, writer);
            for host in &hosts.all {
                let calm = until("its Sentinel is calm", Duration::from_secs(60), || async {
                    host.sentinel_is_calm(&writer, 2, Some(spec.down_after_ms)).await
                });
                calm.await.unwrap_or_else(|error| panic!("{}: {error}", host.name));
            }
            return hosts;
        }
        hosts.until_settled(&all, &writer, Some(spec.down_after_ms)).await;
        hosts
    }

    async fn boot(spec: &HostsSpec) -> Result<Self, LabError> {
        let switch = Switch::new(SWITCH)?;
        switch.enter()?;
        let dir = tempfile::Builder::new().prefix("consul-redis-hosts-").tempdir()?;
        let mut begun = Vec::new();
        for (index, ip) in HOSTS.into_iter().enumerate() {
            let name = format!("h{}", index + 1);
            let namespace = Namespace::new()?;
            switch.connect(&name, &namespace, ip)?;
            let home = dir.path().join(&name);
            std::fs::create_dir_all(&home)?;
            let consul = start_consul(spec, &name, &namespace, ip, &home)?;
            begun.push((name, ip, namespace, home, consul));
        }
        let mut all = Vec::new();
        for (name, ip, namespace, home, consul) in begun {
            consul.until_led().await?;
            let redis = start_redis(spec, &namespace, ip, &home).await?;
            let sentinel = start_sentinel(&namespace, ip, &home).await?;
            let config = home.join("agent.toml");
            std::fs::write(&config, agent_config(spec, ip))?;
            let agent = None;
            all.push(Host { name, namespace, consul, redis, sentinel, agent, config });
        }
        Ok(Self { all, switch, dir })
    }

    /// The host whose Consul server leads.
    async fn consul_leader(&self) -> Result<usize, LabError> {
        let client = self.all[0].consul.client()?;
        let leader: String =
            client.get("/v1/status/leader", &[]).await.map_err(LabError::new)?.value;
        let is_leader =
            |host: &Host| leader.starts_with(&format!("{}:", host.redis.address.host()));
        self.all.iter().position(is_leader).ok_or_else(|| LabError(format!("leader {leader}")))
    }

    /// The host of a Redis.
    pub fn of(&self, redis: &Address) -> usize {
        let found = self.all.iter().position(|host| &host.redis.address == redis);
        found.unwrap_or_else(|| panic!("no host has {redis}"))
    }

    /// The hosts but one.
    pub fn others(&self, than: usize) -> Vec<usize> {
        (0..self.all.len()).filter(|index| *index != than).collect()
    }

    /// Cuts a host off: from now on nothing reaches it, and nothing comes from it.
    pub fn cut(&self, host: usize) {
        self.switch.cut(&self.all[host].name).expect("cut off");
    }

    /// Connects it again.
    pub fn heal(&self, host: usize) {
        self.switch.heal(&self.all[host].name).expect("healed");
    }

    /// A firewall on a host resets every connection from these to its Redis, made or to be made.
    pub fn reject(&self, host: usize, from: &[usize]) {
        let from: Vec<String> = from.iter().map(|from| HOSTS[*from].to_string()).collect();
        let commands = format!(
            "add table inet firewall; \
             add chain inet firewall in {{ type filter hook input priority 0; }}; \
             add rule inet firewall in ip saddr {{ {} }} tcp dport 6379 reject with tcp reset",
            from.join(", ")
        );
        self.all[host].namespace.nft(&commands).expect("a firewall");
    }

    /// Takes it away.
    pub fn let_in(&self, host: usize) {
        self.all[host].namespace.nft("delete table inet firewall").expect("no firewall");
    }

    /// What a host's agent has said.
    pub fn agent_log(&self, host: usize) -> String {
        self.all[host].agent.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Ends everything on a host at once.
    pub fn kill(&mut self, host: usize) {
        let host = &mut self.all[host];
        host.kill_agent();
        host.redis.kill();
        host.sentinel.kill();
        host.consul.kill();
    }

    /// Ends a host's Sentinel, and its config with it: it is blank when it is started again.
    pub fn lose_sentinel(&mut self, host: usize) {
        let ip = HOSTS[host];
        let host = &mut self.all[host];
        host.sentinel.kill();
        let dir = host.config.parent().expect("a directory").join("sentinel");
        let config = sentinel_config(&dir).replace("{ip}", &ip.to_string());
        let config = config.replace("{port}", "26379");
        std::fs::write(dir.join("server.conf"), config).expect("its config");
    }

    /// Throws away the data of all Consul servers, and starts them again.
    pub async fn wipe_consul(&mut self) {
        for host in &mut self.all {
            host.consul.wipe().expect("Consul's data");
        }
        let [first, second, third] = &mut self.all[..] else { panic!("three hosts") };
        let restarted = tokio::try_join!(
            first.consul.restart(),
            second.consul.restart(),
            third.consul.restart()
        );
        restarted.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts everything on a host again, on the files that it left.
    pub async fn boot_again(&mut self, host: usize) {
        let host = &mut self.all[host];
        host.consul.restart().await.expect("Consul");
        host.redis.restart().await.expect("Redis");
        host.sentinel.restart().await.expect("Sentinel");
        host.start_agent().expect("an agent");
    }

    /// The config of a host's agent.
    pub fn config(&self, host: usize) -> &Path {
        &self.all[host].config
    }

    /// Waits until these hosts agree on a writer: Consul's record and its DNS, every Redis, and every Sentinel.
    #[track_caller]
    pub fn until_settled<'a>(
        &'a self,
        on: &'a [usize],
        writer: &'a Address,
        down_after_ms: Option<u64>,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            for index in on {
                let host = &self.all[*index];
                let replicas = on.len() - 1;
                let what = format!("{} agrees on {writer}", host.name);
                let agrees = until(&what, Duration::from_secs(60), || async {
                    host.shows(writer, replicas).await?;
                    host.follows_or_is(writer).await?;
                    host.sentinel_is_calm(writer, replicas, down_after_ms).await
                });
                if let Err(error) = agrees.await {
                    panic!("{error} (at {caller})");
                }
            }
        }
    }

    /// Waits until a host's old primary is a replica of the new one.
    pub async fn until_follows(&self, host: usize, new: &Address) {
        let follows =
            until("the old primary follows the new one", Duration::from_secs(40), || async {
                match self.all[host].redis.follows().await? {
                    Some(found) if &found == new => Ok(()),
                    other => Err(LabError(format!("it follows {other:?}"))),
                }
            });
        follows.await.unwrap();
    }

    /// The writer that one of these hosts shows, once it is another one than `old` and a majority has confirmed it.
    pub async fn until_writer(&self, on: &[usize], other_than: Option<&Address>) -> Address {
        let found = until("a confirmed writer", Duration::from_secs(40), || async {
            let record = self.all[on[0]].record().await?;
            let writer = record.writer_address().filter(|writer| Some(*writer) != other_than);
            match (writer, record.evidence.level()) {
                (Some(writer), Level::Quorum) => Ok(writer.clone()),
                _ => Err(LabError(format!("{:?}: {}", record.writer_address(), record.why))),
            }
        });
        found.await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Host {
    /// Starts the agent.
    pub fn start_agent(&mut self) -> Result<(), LabError> {
        let program = Tool::at(PathBuf::from(env!("CARGO_BIN_EXE_consul-redis")));
        let tool = program.within(&self.namespace.path());
        let args = ["agent", "--config"].map(str::to_owned);
        let args = [&args[..], &[self.config.display().to_string()]].concat();
        let env = [
            ("CONSUL_HTTP_ADDR".to_owned(), self.consul.http.to_string()),
            ("CONSUL_REDIS_ID".to_owned(), self.name.clone()),
        ];
        let dir = self.config.parent().unwrap_or(Path::new("/"));
        self.agent = Some(Process::start("agent", &tool, &args, &env, dir, Life::WithUs)?);
        Ok(())
    }

    /// Ends the agent at once.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Has the agent read its config again.
    pub fn reload_agent(&self) {
        let agent = self.agent.as_ref().expect("an agent");
        agent.signal(nix::sys::signal::Signal::SIGHUP).expect("a signal");
    }

    async fn record(&self) -> Result<Record, LabError> {
        let key = "redis-ha/redis/state";
        let value = self.consul.key(key).await?.ok_or_else(|| LabError::new("no state"))?;
        decode(value.as_bytes()).map_err(LabError)
    }

    /// This writer and so many replicas, in the record and in DNS.
    async fn shows(&self, writer: &Address, replicas: usize) -> Result<(), LabError> {
        let record = self.record().await?;
        let confirmed = record.evidence.level() == Level::Quorum;
        if record.writer_address() != Some(writer)
            || record.replicas().count() != replicas
            || !confirmed
        {
            let (found, why) = (record.writer_address(), &record.why);
            return Err(LabError(format!("{found:?}, {why}, {:?}", record.instances)));
        }
        let names = self.consul.names()?;
        let found = names.a("redis-primary.service.consul").await.map_err(LabError::new)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        if found != [writer.host()] {
            return Err(LabError(format!("redis-primary is {found:?}")));
        }
        let found = names.srv("redis-replica.service.consul").await.map_err(LabError::new)?;
        if found.len() != replicas {
            return Err(LabError(format!("redis-replica is {found:?}")));
        }
        Ok(())
    }

    async fn follows_or_is(&self, writer: &Address) -> Result<(), LabError> {
        let follows = self.redis.follows().await?;
        let is_writer = &self.redis.address == writer;
        if follows.as_ref() == Some(writer) || (is_writer && follows.is_none()) {
            return Ok(());
        }
        Err(LabError(format!("{} follows {follows:?}", self.redis.address)))
    }

    async fn sentinel_is_calm(
        &self,
        writer: &Address,
        replicas: usize,
        down_after_ms: Option<u64>,
    ) -> Result<(), LabError> {
        let answer = self.sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
        let master = fields(&answer).map_err(LabError)?;
        let is = |name: &str, wanted: &str| master.get(name).is_some_and(|value| value == wanted);
        let down_after =
            down_after_ms.is_none_or(|ms| is("down-after-milliseconds", &ms.to_string()));
        // The lost ones are listed too, but every one that is here has to be.
        let listed = master.get("num-slaves").and_then(|n| n.parse().ok()).unwrap_or(0);
        let calm =
            is("ip", writer.host()) && is("flags", "master") && is("num-other-sentinels", "2");
        if calm && down_after && replicas <= listed {
            return Ok(());
        }
        Err(LabError(format!("{master:?}")))
    }
}

/// One of three Consul servers.
pub fn start_consul(
    spec: &HostsSpec,
    name: &str,
    namespace: &Namespace,
    ip: Ipv4Addr,
    home: &Path,
) -> Result<ConsulServer, LabError> {
    ConsulServer::spawn(ConsulSpec {
        tool: tools::consul()?.within(&namespace.path()),
        ip,
        dir: home,
        master_token: spec.secrets.is_some().then_some(MANAGEMENT_TOKEN),
        tls: None,
        script_checks: false,
        cluster: Some(ClusterSpec { node: name, servers: &HOSTS, ports: USUAL_PORTS }),
        life: Life::WithUs,
    })
}

async fn start_redis(
    spec: &HostsSpec,
    namespace: &Namespace,
    ip: Ipv4Addr,
    home: &Path,
) -> Result<LabServer, LabError> {
    let dir = home.join("redis");
    let config = format!(
        "bind {{ip}}\nport {{port}}\nprotected-mode no\ndir {}\nappendonly yes\n\
         repl-diskless-sync-delay 0\n{}",
        dir.display(),
        if spec.secrets.is_some() {
            format!("requirepass {FIRST_PASSWORD}\nmasterauth {FIRST_PASSWORD}\n")
        } else {
            String::new()
        }
    );
    let password = match spec.secrets {
        Some(_) => SecretSource::Value(FIRST_PASSWORD.to_owned().into()),
        None => SecretSource::None,
    };
    LabServer::start(ServerSpec {
        name: "redis",
        tool: tools::redis_server()?.within(&namespace.path()),
        ip: ip.into(),
        host: &ip.to_string(),
        port: 6379,
        published: None,
        config: &config,
        args: &[],
        login: LinkSettings { password, ..LinkSettings::default() },
        dir: home,
        life: Life::WithUs,
    })
    .await
}

async fn start_sentinel(
    namespace: &Namespace,
    ip: Ipv4Addr,
    home: &Path,
) -> Result<LabServer, LabError> {
    let dir = home.join("sentinel");
    let config = sentinel_config(&dir);
    LabServer::start(ServerSpec {
        name: "sentinel",
        tool: tools::redis_server()?.within(&namespace.path()),
        ip: ip.into(),
        host: &ip.to_string(),
        port: 26379,
        published: None,
        config: &config,
        args: &["--sentinel"],
        login: LinkSettings::default(),
        dir: home,
        life: Life::WithUs,
    })
    .await
}

/// A Sentinel that knows no group.
fn sentinel_config(dir: &Path) -> String {
    format!("bind {{ip}}\nport {{port}}\ndir {}\n", dir.display())
}

/// Node mode, with Sentinels found by list.
fn agent_config(spec: &HostsSpec, ip: Ipv4Addr) -> String {
    let sentinels: Vec<String> = HOSTS.iter().map(|ip| format!("\"{ip}:26379\"")).collect();
    let secrets = spec.secrets.as_ref().map(|etc| {
        let etc = etc.display();
        format!(
            "[consul]\ntoken_file = \"{etc}/consul-redis/consul-token\"\n\n\
             [instances]\npassword_file = \"{etc}/redis/password\"\n\n"
        )
    });
    format!(
        "{}[sentinels]\naddresses = [{}]\n\n\
         [[group]]\nname = \"redis\"\nexpect = {}\nhold_when_cut_off = {}\n\n\
         [group.settings]\nquorum = \"auto\"\ndown_after = \"{}ms\"\nfailover_timeout = \"10s\"\n\n\
         [[redis]]\naddress = \"{ip}:6379\"\ncheck_interval = \"1s\"\n\n\
         [[sentinel]]\naddress = \"{ip}:26379\"\ncheck_interval = \"1s\"\n",
        secrets.unwrap_or_default(),
        sentinels.join(", "),
        HOSTS.len(),
        spec.hold_when_cut_off,
        spec.down_after_ms
    )
}

/// When a test fails, what every server and agent saw is the better half of why.
impl Drop for Hosts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for host in &self.all {
            for file in ["agent.log", "redis/redis.log", "sentinel/sentinel.log"] {
                let path = self.dir.path().join(&host.name).join(file);
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
                eprintln!("--- {} {file}\n{}", host.name, lines[from..].join("\n"));
            }
        }
    }
}
