//! Containers on two networks, and a Consul that either of them leads to. The test stands on the machine between.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::published::record::{Level, Record, decode};
use consul_redis::lab::LabError;
use consul_redis::lab::consul::{ConsulServer, ConsulSpec};
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::redis::patiently;
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::redis_link::{Link, LinkSettings, text};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::namespace::Namespace;

/// Where Consul is: on neither network.
const CONSUL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Where the test and the Sentinels are in each network.
const BETWEEN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 254), Ipv4Addr::new(10, 1, 0, 254)];
/// The Sentinels' ports there.
const PORTS: [u16; 3] = [26_379, 26_380, 26_381];
/// How long an address would have been another one by: `exec` looks every 2 s, and believes it twice.
const LOOKS: Duration = Duration::from_secs(8);

/// One Redis under `exec`, on both networks.
struct Container {
    namespace: Namespace,
    number: usize,
    args: Vec<String>,
    process: Option<Process>,
}

impl Container {
    /// Its address in one of the networks.
    fn ip(&self, network: usize) -> Ipv4Addr {
        let last = u8::try_from(self.number + 1).expect("a small number");
        Ipv4Addr::new(10, u8::from(network == 1), 0, last)
    }

    fn address(&self, network: usize) -> String {
        format!("{}:6379", self.ip(network))
    }

    fn connect(&self, between: &Namespace) {
        let there = self.namespace.path().display().to_string();
        for (network, name) in ["a", "b"].into_iter().enumerate() {
            let port = format!("{name}{}", self.number);
            let link = format!("link add {port} type veth peer name eth{network} netns {there}");
            between.ip(&link).unwrap();
            between.ip(&format!("link set {port} master net-{name} up")).unwrap();
            let ip = self.ip(network);
            self.namespace.ip(&format!("addr add {ip}/24 dev eth{network}")).unwrap();
            self.namespace.ip(&format!("link set eth{network} up")).unwrap();
        }
    }

    /// From now on the way to Consul is through this network.
    fn lead(&self, network: usize) {
        let via = BETWEEN[network];
        let route = format!("route replace {CONSUL}/32 via {via} dev eth{network}");
        self.namespace.ip(&route).unwrap();
    }

    fn start(&mut self, consul: &ConsulServer, dir: &Path) {
        let tool = program().within(&self.namespace.path());
        let name = format!("redis-{}", self.number);
        let started =
            Process::start(&name, &tool, &self.args, &env(consul, &name), dir, Life::WithUs);
        self.process = Some(started.unwrap());
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }
}

fn program() -> Tool {
    let path = Path::new(env!("CARGO_BIN_EXE_consul-redis")).to_owned();
    Tool::at(path)
}

fn env(consul: &ConsulServer, name: &str) -> Vec<(String, String)> {
    let mut all = vec![
        ("CONSUL_HTTP_ADDR".to_owned(), consul.http.to_string()),
        ("CONSUL_REDIS_ID".to_owned(), name.to_owned()),
        ("REDIS_DOWN_AFTER_MS".to_owned(), "1500".to_owned()),
    ];
    let library = tools::redis_server().unwrap().library_path;
    all.extend(library.map(|path| ("LD_LIBRARY_PATH".to_owned(), path.display().to_string())));
    all
}

/// `exec` with these options, and a server with these, which ends with it.
fn exec(dir: &Path, name: &str, options: &[&str], server: &[&str]) -> Vec<String> {
    let data = dir.join(format!("{name}-data"));
    std::fs::create_dir_all(&data).unwrap();
    let (data, redis) = (data.display().to_string(), tools::redis_server().unwrap().path);
    let redis = redis.display().to_string();
    let own = ["exec", "--data-dir", &data];
    let child = ["--", "setpriv", "--pdeathsig", "KILL", &redis];
    own.iter().chain(options).chain(&child).chain(server).map(|word| (*word).to_owned()).collect()
}

/// Two Redis, three Sentinels, and Consul.
struct Networks {
    redis: Vec<Container>,
    consul: ConsulServer,
    _sentinels: Vec<Process>,
    _between: Namespace,
    dir: TempDir,
}

impl Networks {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("consul-redis-networks-").tempdir().unwrap();
        let between = Namespace::new().unwrap();
        for (name, ip) in ["net-a", "net-b"].into_iter().zip(BETWEEN) {
            between.ip(&format!("link add {name} type bridge")).unwrap();
            between.ip(&format!("addr add {ip}/24 dev {name}")).unwrap();
            between.ip(&format!("link set {name} up")).unwrap();
        }
        between.ip(&format!("addr add {CONSUL}/32 dev lo")).unwrap();
        between.enter().unwrap();
        let consul = ConsulServer::start(ConsulSpec {
            tool: tools::consul().unwrap(),
            ip: CONSUL,
            dir: dir.path(),
            master_token: None,
            tls: None,
            script_checks: false,
            cluster: None,
            life: Life::WithUs,
        });
        let consul = consul.await.unwrap();
        let mut redis = Vec::new();
        for number in 0..2 {
            let server = ["--bind", "0.0.0.0", "--port", "6379", "--protected-mode", "no"];
            let server = [&server[..], &["--repl-diskless-sync-delay", "0"]].concat();
            let args = exec(dir.path(), &format!("redis-{number}"), &["--expect", "2"], &server);
            let namespace = Namespace::new().unwrap();
            let mut container = Container { namespace, number, args, process: None };
            container.connect(&between);
            container.lead(0);
            container.start(&consul, dir.path());
            redis.push(container);
        }
        let mut sentinels = Vec::new();
        for (number, port) in PORTS.into_iter().enumerate() {
            let (name, port) = (format!("sentinel-{number}"), port.to_string());
            let ip = BETWEEN[0].to_string();
            let announced = format!("{ip}:{port}");
            let server = ["--sentinel", "--bind", &ip, "--port", &port];
            let args = exec(dir.path(), &name, &["--announce", &announced], &server);
            let env = env(&consul, &name);
            sentinels.push(
                Process::start(&name, &program(), &args, &env, dir.path(), Life::WithUs).unwrap(),
            );
        }
        Self { redis, consul, _sentinels: sentinels, _between: between, dir }
    }

    /// Waits until a confirmed writer and a replica in sync are published.
    async fn until_whole(&self, other_than: Option<&str>) -> Record {
        until("a writer and a replica", Duration::from_secs(120), || async {
            let found = self.consul.key("redis-ha/redis/state").await?;
            let found = found.ok_or_else(|| LabError::new("nothing is published"))?;
            let record = decode(found.as_bytes()).map_err(LabError)?;
            let writer = record.writer_address().map(ToString::to_string);
            let whole = writer.is_some()
                && writer.as_deref() != other_than
                && record.evidence.level() == Level::Quorum
                && record.replicas().count() == 1;
            if whole { Ok(record) } else { Err(LabError(format!("{record:?}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    /// Every Sentinel knows the replica and the others, and trusts its clock, which it does not for 30 s where the
    /// machine stood still: a handover begins only then.
    async fn until_calm(&self) {
        for port in PORTS {
            let at = Address::new(&BETWEEN[0].to_string(), port).unwrap();
            until(&format!("the Sentinel at {at} is calm"), Duration::from_secs(60), || async {
                let mut link = Link::open(&at, &patiently(&LinkSettings::default()))
                    .await
                    .map_err(LabError::new)?;
                let info = link.call(&["INFO", "sentinel"]).await.map_err(LabError::new)?;
                let info = text(&info).map_err(LabError)?;
                let calm = ["sentinel_tilt:0", "status=ok", "slaves=1", "sentinels=3"];
                match calm.iter().all(|said| info.contains(said)) {
                    true => Ok(()),
                    false => Err(LabError(info)),
                }
            })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
        }
    }

    fn logs(&self) -> String {
        self.redis.iter().map(|c| format!("--- redis-{}\n{}\n", c.number, c.log())).collect()
    }
}

/// The way to Consul leads through the other network, and back: the address by which others know a server works all the
/// time, and stays. A server that is stopped and started again announces the other one, and a primary is handed over
/// first.
#[tokio::test]
async fn a_container_on_two_networks_keeps_its_address_and_a_primary_moves_by_handover() {
    let mut networks = Networks::start().await;
    let before = networks.until_whole(None).await;
    let old = before.writer_address().unwrap().to_string();
    let leads = networks.redis.iter().position(|container| container.address(0) == old).unwrap();
    for container in &networks.redis {
        container.lead(1);
    }
    tokio::time::sleep(LOOKS).await;
    let after = networks.until_whole(None).await;
    assert_eq!(after.writer, before.writer, "{}", networks.logs());
    assert_eq!(after.generation, before.generation, "{}", networks.logs());
    let mut shown: Vec<_> = after.instances.iter().map(|i| i.address.to_string()).collect();
    shown.sort();
    assert_eq!(shown, [0, 1].map(|number| networks.redis[number].address(0)));

    networks.until_calm().await;
    let stopped = networks.redis[leads].process();
    stopped.signal(Signal::SIGTERM).unwrap();
    let code = stopped.end(Duration::from_secs(60)).await.unwrap();
    let log = networks.redis[leads].log();
    let new = networks.redis[1 - leads].address(0);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains(&format!("handed over from {old} to {new}")), "{log}");
    let Networks { redis, consul, dir, .. } = &mut networks;
    redis[leads].start(consul, dir.path());
    let other = networks.redis[leads].address(1);
    let said = format!("for {other} (the interface that leads to Consul)");
    until("it announces the other address", Duration::from_secs(30), || async {
        let log = networks.redis[leads].log();
        if log.contains(&said) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    let now = networks.until_whole(Some(&old)).await;
    assert_eq!(now.writer_address().unwrap().to_string(), new, "{}", networks.logs());
}
