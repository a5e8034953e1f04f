//! A Redis Cluster over three hosts, of which one is cut off from the others (docs/facts/cluster.md 3.1): with the agent on
//! either side of the cut, or on both.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::redis::{LabServer, ServerSpec};
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::redis_link::LinkSettings;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::hosts::{HOSTS, HostsSpec, SWITCH, start_consul};
use crate::namespace::{Namespace, Switch};

/// `cluster-node-timeout`, in ms.
const NODE_TIMEOUT_MS: u64 = 2_000;
/// Between two looks at the names.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For a cut that is followed, and for one that has healed.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a node that is cut off may be in the names: 1.8 times what the nodes wait (`docs/guarantees.md`), a question
/// each second, and the machine's own slowness.
const LEAVES_WITHIN: Duration = Duration::from_millis(1_800 * NODE_TIMEOUT_MS / 1_000 + 3_000);
/// The two nodes of a host.
const PORTS: [u16; 2] = [6_379, 6_380];

/// One host: a Consul server, two nodes and an agent beside them.
struct Host {
    name: String,
    namespace: Namespace,
    consul: ConsulServer,
    _nodes: Vec<LabServer>,
    agent: Option<Process>,
    config: PathBuf,
}

/// Three hosts with a cluster of six nodes, which the agents have made.
struct Cut {
    hosts: Vec<Host>,
    switch: Switch,
    /// The host that is to be cut off, and its primary.
    lost: usize,
    old: String,
    /// The number of the shard of that.
    shard: String,
    _dir: TempDir,
}

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The host's nodes from all others: its agent reaches these alone, and Consul.
    Nodes,
    /// The bus of the nodes alone: each agent reaches all of them.
    Bus,
    /// All of the host, its Consul server as well.
    All,
    /// The same, and no answer at all to what is sent there: neither a refusal nor that there is no such host.
    Dropped,
}

impl Host {
    fn start_agent(&mut self) {
        let program = Tool::at(PathBuf::from(env!("CARGO_BIN_EXE_consul-redis")));
        let tool = program.within(&self.namespace.path());
        let args = ["agent", "--config", self.config.to_str().unwrap()].map(str::to_owned);
        let env = [
            ("CONSUL_HTTP_ADDR".to_owned(), self.consul.http.to_string()),
            ("CONSUL_REDIS_ID".to_owned(), self.name.clone()),
            ("CONSUL_REDIS_SENTINELS".to_owned(), String::new()),
        ];
        let dir = self.config.parent().unwrap_or(Path::new("/"));
        let agent = Process::start("agent", &tool, &args, &env, dir, Life::WithUs);
        self.agent = Some(agent.expect("an agent"));
    }

    fn log(&self) -> String {
        self.agent.as_ref().map(Process::log).unwrap_or_default()
    }
}

async fn node(namespace: &Namespace, ip: Ipv4Addr, port: u16, home: &Path) -> LabServer {
    let name = format!("node-{port}");
    let config = format!(
        "bind {{ip}}\nport {{port}}\nprotected-mode no\ndir {}\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n\
         cluster-enabled yes\ncluster-node-timeout {NODE_TIMEOUT_MS}\n",
        home.join(&name).display()
    );
    let spec = ServerSpec {
        name: &name,
        tool: tools::redis_server_since("7.0").unwrap().within(&namespace.path()),
        ip: ip.into(),
        host: &ip.to_string(),
        port,
        published: None,
        config: &config,
        args: &[],
        login: LinkSettings::default(),
        dir: home,
        life: Life::WithUs,
    };
    LabServer::start(spec).await.unwrap()
}

fn agent_config(ip: Ipv4Addr, more: &str) -> String {
    let beside = PORTS.map(|port| {
        format!(
            "[[redis]]\naddress = \"{ip}:{port}\"\ncluster = \"orders\"\ncheck_interval = \"1s\"\n"
        )
    });
    let cluster = "[[cluster]]\nname = \"orders\"\nexpect = 6\nreplicas = 1\n";
    format!("{cluster}{more}{}", beside.concat())
}

impl Cut {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with more in the config of each agent.
    async fn start_with(more: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let switch = Switch::new(SWITCH).unwrap();
        switch.enter().unwrap();
        let dir = tempfile::Builder::new().prefix("consul-redis-cut-").tempdir().unwrap();
        let mut begun = Vec::new();
        for (index, ip) in HOSTS.into_iter().enumerate() {
            let name = format!("h{}", index + 1);
            let namespace = Namespace::new().unwrap();
            switch.connect(&name, &namespace, ip).unwrap();
            let home = dir.path().join(&name);
            std::fs::create_dir_all(&home).unwrap();
            let consul = start_consul(&HostsSpec::default(), &name, &namespace, ip, &home).unwrap();
            begun.push((name, ip, namespace, home, consul));
        }
        let mut hosts = Vec::new();
        for (name, ip, namespace, home, consul) in begun {
            consul.until_led().await.unwrap();
            let mut nodes = Vec::new();
            for port in PORTS {
                nodes.push(node(&namespace, ip, port, &home).await);
            }
            let config = home.join("agent.toml");
            std::fs::write(&config, agent_config(ip, more)).unwrap();
            hosts.push(Host { name, namespace, consul, _nodes: nodes, agent: None, config });
        }
        hosts.iter_mut().for_each(Host::start_agent);
        let (lost, old, shard) = (0, String::new(), String::new());
        let mut cut = Self { hosts, switch, lost, old, shard, _dir: dir };
        cut.until_names(0, "orders", |names| names.len() == 6).await;
        cut.until_names(0, "orders-primary", |names| names.len() == 3).await;
        // Not where Consul's leader is: an election of its servers is no subject of this.
        let leader: String = cut.hosts[0]
            .consul
            .client()
            .unwrap()
            .get("/v1/status/leader", &[])
            .await
            .unwrap()
            .value;
        let is_led = |at: &Ipv4Addr| leader.starts_with(&format!("{at}:"));
        cut.lost = (HOSTS.iter().position(is_led).unwrap() + 1) % 3;
        let shards = cut.state(cut.lost).await["shards"].clone();
        let ip = HOSTS[cut.lost].to_string();
        for (number, shard) in shards.as_object().unwrap() {
            let at = cut.address_of(shard["owner"].as_str().unwrap()).await;
            if at.starts_with(&format!("{ip}:")) {
                (cut.old, cut.shard) = (at, number.clone());
            }
        }
        assert!(!cut.old.is_empty(), "primaries are on three hosts: {shards:#}");
        cut
    }

    fn other(&self) -> usize {
        (self.lost + 1) % 3
    }

    async fn state(&self, at: usize) -> Value {
        let text = self.hosts[at].consul.key("redis-ha/cluster/orders/state").await.unwrap();
        serde_json::from_str(&text.unwrap()).unwrap()
    }

    async fn address_of(&self, id: &str) -> String {
        let state = self.state(self.other()).await;
        state["nodes"][id]["address"].as_str().unwrap().to_owned()
    }

    async fn names(&self, at: usize, service: &str) -> Result<BTreeSet<String>, LabError> {
        Ok(self.hosts[at].consul.passing(service).await?.into_iter().collect())
    }

    async fn until_names(&self, at: usize, name: &str, fits: impl Fn(&BTreeSet<String>) -> bool) {
        let found = until(name, WITHIN, || async {
            let names = self.names(at, name).await?;
            if fits(&names) { Ok(()) } else { Err(LabError(format!("{names:?}"))) }
        });
        found.await.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
    }

    fn logs(&self) -> String {
        let logs = self.hosts.iter().map(|host| format!("--- {}\n{}", host.name, host.log()));
        logs.collect()
    }

    fn cut(&self, side: Side) {
        let host = &self.hosts[self.lost];
        if side == Side::All {
            return self.switch.cut(&host.name).unwrap();
        }
        if side == Side::Dropped {
            let commands = "add table inet cut; \
                add chain inet cut in { type filter hook input priority 0; }; \
                add chain inet cut out { type filter hook output priority 0; }; \
                add rule inet cut in iifname != lo drop; \
                add rule inet cut out oifname != lo drop";
            return host.namespace.nft(commands).unwrap();
        }
        let bus = PORTS.map(|port| (port + 10_000).to_string());
        let all = [&PORTS.map(|port| port.to_string())[..], &bus].concat().join(", ");
        let ports = if side == Side::Bus { bus.join(", ") } else { all };
        let others: Vec<String> =
            HOSTS.iter().filter(|ip| **ip != HOSTS[self.lost]).map(Ipv4Addr::to_string).collect();
        let others = others.join(", ");
        // Answers on connections that are open are dropped as well: they come from those ports.
        let commands = format!(
            "add table inet cut; \
             add chain inet cut in {{ type filter hook input priority 0; }}; \
             add chain inet cut out {{ type filter hook output priority 0; }}; \
             add rule inet cut in ip saddr {{ {others} }} tcp dport {{ {ports} }} drop; \
             add rule inet cut in ip saddr {{ {others} }} tcp sport {{ {ports} }} drop; \
             add rule inet cut out ip daddr {{ {others} }} tcp dport {{ {ports} }} drop; \
             add rule inet cut out ip daddr {{ {others} }} tcp sport {{ {ports} }} drop"
        );
        host.namespace.nft(&commands).unwrap();
    }

    fn heal(&self, side: Side) {
        let host = &self.hosts[self.lost];
        match side {
            Side::All => self.switch.heal(&host.name).unwrap(),
            Side::Nodes | Side::Bus | Side::Dropped => {
                host.namespace.nft("delete table inet cut").unwrap()
            }
        }
    }

    /// Looks at the primaries' name until it fits. The old one is not back once the cluster has had time to find out;
    /// how long it stayed.
    async fn follow(&self, what: &str, fits: impl Fn(&BTreeSet<String>) -> bool) -> Duration {
        let (begun, mut left) = (Instant::now(), None);
        loop {
            // A Consul that is late, as on a disk that is busy, says nothing.
            let Ok(names) = self.names(self.other(), "orders-primary").await else {
                assert!(begun.elapsed() < WITHIN, "{what}: Consul is silent");
                continue;
            };
            match (names.contains(&self.old), left) {
                (false, None) => left = Some(begun.elapsed()),
                // The voters may not agree yet: until then it takes writes as before.
                (true, Some(_)) if begun.elapsed() < LEAVES_WITHIN => left = None,
                (true, Some(at)) => panic!("it left after {at:?}, and is back\n{}", self.logs()),
                (_, _) => {}
            }
            assert!(names.len() <= 3, "{names:?}");
            if let (true, Some(left)) = (fits(&names), left) {
                return left;
            }
            assert!(begun.elapsed() < WITHIN, "{what}: {names:?}\n{}", self.logs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All six are in the names again, and the old primary follows: who leads is as it was decided.
    async fn until_healed(&self, side: Side, primaries: &BTreeSet<String>) {
        self.heal(side);
        let at = self.other();
        let healed = until("all are back", WITHIN, || async {
            let all = self.names(at, "orders").await?;
            let now = self.names(at, "orders-primary").await?;
            let same = now == *primaries;
            if all.len() == 6 && same { Ok(()) } else { Err(LabError(format!("{all:?} {now:?}"))) }
        });
        healed.await.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
        for host in &self.hosts {
            // Each host's Consul says the same.
            let index = self.hosts.iter().position(|other| other.name == host.name).unwrap();
            self.until_names(index, "orders-primary", |now| now == primaries).await;
        }
    }

    /// The primary of the cut host leaves in time, and another one is in its place.
    async fn follows_the_majority(&self, side: Side) -> BTreeSet<String> {
        self.cut(side);
        let begun = Instant::now();
        let left = self.follow("another one in its place", |names| names.len() == 3).await;
        let (gone, replaced) = (left.as_millis(), begun.elapsed().as_millis());
        println!("{side:?}: it left the names after {gone} ms, and was replaced after {replaced}");
        assert!(left < LEAVES_WITHIN, "{left:?}\n{}", self.logs());
        let primaries = self.names(self.other(), "orders-primary").await.unwrap();
        let ip = format!("{}:", HOSTS[self.lost]);
        assert!(!primaries.iter().any(|at| at.starts_with(&ip)), "{primaries:?}");
        let key = format!("redis-ha/cluster/orders/shards/{}/primary", self.shard);
        let named = self.hosts[self.other()].consul.key(&key).await.unwrap().unwrap();
        assert!(primaries.contains(&named), "{named} {primaries:?}");
        // What stays cut off stays out.
        self.hold(Duration::from_secs(8), &primaries).await;
        primaries
    }

    async fn hold(&self, long: Duration, primaries: &BTreeSet<String>) {
        let begun = Instant::now();
        while begun.elapsed() < long {
            if let Ok(now) = self.names(self.other(), "orders-primary").await {
                assert_eq!(now, *primaries, "{}", self.logs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[tokio::test]
async fn a_primary_that_no_other_node_reaches_is_replaced_where_every_agent_reaches_all() {
    let cut = Cut::start().await;
    let primaries = cut.follows_the_majority(Side::Bus).await;
    cut.until_healed(Side::Bus, &primaries).await;
}

/// The agent beside it hears its two nodes alone, and writes to Consul as the others do.
#[tokio::test]
async fn an_agent_on_the_cut_primarys_side_changes_nothing_that_the_majority_says() {
    let cut = Cut::start().await;
    let primaries = cut.follows_the_majority(Side::Nodes).await;
    let said = cut.hosts[cut.lost].log();
    assert!(said.contains("no majority: of 3 primaries"), "{said}");
    cut.until_healed(Side::Nodes, &primaries).await;
}

#[tokio::test]
async fn a_host_that_is_cut_off_with_its_agent_and_its_consul_is_replaced_and_joins_again() {
    let cut = Cut::start().await;
    let primaries = cut.follows_the_majority(Side::All).await;
    cut.until_healed(Side::All, &primaries).await;
}

/// The agents of the majority are dead: nothing that a minority says enters the names, and what was there goes.
#[tokio::test]
async fn an_agent_that_hears_the_cut_primary_alone_names_none() {
    let mut cut = Cut::start().await;
    let lost = cut.lost;
    for index in (0..3).filter(|index| *index != lost) {
        cut.hosts[index].agent.take().unwrap().kill();
    }
    let before = cut.names(cut.other(), "orders-primary").await.unwrap();
    cut.cut(Side::Nodes);
    cut.follow("no primary", BTreeSet::is_empty).await;
    let none = BTreeSet::new();
    cut.hold(Duration::from_secs(4), &none).await;
    // Who leads on the other side no agent has seen.
    let state = cut.state(cut.other()).await;
    let owner = state["shards"][&cut.shard]["owner"].as_str().unwrap();
    assert_eq!(state["nodes"][owner]["address"], cut.old.as_str(), "{state:#}");
    for index in (0..3).filter(|index| *index != lost) {
        cut.hosts[index].start_agent();
    }
    cut.until_names(cut.other(), "orders-primary", |names| names.len() == 3).await;
    let primaries = cut.names(cut.other(), "orders-primary").await.unwrap();
    assert!(!primaries.contains(&cut.old) && primaries != before, "{}", cut.logs());
    cut.until_healed(Side::Nodes, &primaries).await;
}

/// Nothing refuses a connection, so no agent takes that for a death, whatever `fast_failover` says: it may be the network.
#[tokio::test]
async fn a_host_that_drops_every_packet_is_replaced_at_the_nodes_own_pace() {
    for fast_failover in ["vote", "off"] {
        let cut = Cut::start_with(&format!("fast_failover = \"{fast_failover}\"\n")).await;
        // The death of an owner of less than that is left to the nodes anyway.
        tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS)).await;
        println!("fast_failover = {fast_failover}");
        let primaries = cut.follows_the_majority(Side::Dropped).await;
        let logs = cut.logs();
        assert!(!logs.contains("wait for a moment only"), "{logs}");
        cut.until_healed(Side::Dropped, &primaries).await;
    }
}
