//! docs/consul.md: another datacenter, a prepared query, and the entries of the mesh, on two Consuls that know each
//! other.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use consul_redis::consul::client::Consul;
use consul_redis::consul::endpoint::ConsulEndpoint;
use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::consul::consul_ports;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{agent, agents, host, until_in_sync, until_writer, world};

/// Longest wait for what Consul does by itself.
const SOON: Duration = Duration::from_secs(30);
/// What the other datacenter has under the names: another group's instances.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A Consul of another datacenter, which has instances of its own.
struct Elsewhere {
    consul: Consul,
    dns: Names,
    wan: String,
    _process: Process,
}

impl Elsewhere {
    async fn start(world: &mut World) -> Self {
        let ip = world.address();
        let dir = world.dir().join("dc2");
        std::fs::create_dir_all(&dir).unwrap();
        let [http, dns, server, serf_lan, serf_wan, _] = consul_ports(&[ip]).unwrap();
        let config = json!({
            "datacenter": "dc2", "node_name": "elsewhere", "server": true, "bootstrap_expect": 1,
            "data_dir": dir.join("data"), "bind_addr": ip, "client_addr": ip, "advertise_addr": ip,
            "advertise_addr_wan": ip, "disable_update_check": true, "log_level": "warn",
            "performance": {"raft_multiplier": 1}, "connect": {"enabled": true},
            "ports": {"http": http, "dns": dns, "server": server, "serf_lan": serf_lan,
                      "serf_wan": serf_wan, "grpc": -1, "https": -1},
        });
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let file = dir.join("config.json").display().to_string();
        let args = ["agent".to_owned(), "-config-file".to_owned(), file];
        let tool = tools::consul().unwrap();
        let process = Process::start("consul-dc2", &tool, &args, &[], &dir, Life::WithUs).unwrap();
        let endpoint = ConsulEndpoint {
            address: format!("{ip}:{http}").parse().unwrap(),
            ..ConsulEndpoint::default()
        };
        let consul = Consul::new(&endpoint).unwrap();
        until("the other Consul has a leader", SOON, || async {
            let body = json!([{"KV": {"Verb": "set", "Key": "lab/started", "Value": "eWVz"}}]);
            consul.put("/v1/txn", &[], Some(&body)).await.map_err(LabError::new)
        })
        .await
        .unwrap();
        let dns = Names::new(Some((ip, dns).into()));
        Self { consul, dns, wan: format!("{ip}:{serf_wan}"), _process: process }
    }

    /// Registers an instance, as agents there do.
    async fn register(&self, service: &str) {
        let row = json!({"Node": format!("there-{service}"), "Address": THERE,
                         "Service": {"Service": service, "Address": THERE, "Port": 6379}});
        self.consul.put("/v1/catalog/register", &[], Some(&row)).await.unwrap();
    }
}

fn file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("consul").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

async fn make_query(consul: &Consul, query: &Value) {
    let made = consul.call(Method::POST, "/v1/query", &[], Some(query), SOON).await.unwrap();
    assert_eq!(made.status.as_u16(), 200, "{}", String::from_utf8_lossy(&made.body));
}

/// Waits until a name has these addresses, and no other.
async fn until_answers(names: &Names, name: &str, wanted: &[&str]) {
    until(&format!("{name} is {wanted:?}"), SOON, || async {
        let found = names.a(name).await.map_err(LabError::new)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        if found == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn another_datacenter_answers_by_its_own_name_and_for_reads() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let _agents = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 1).await;
    let elsewhere = Elsewhere::start(&mut world).await;
    elsewhere.register("redis-primary").await;
    elsewhere.register("redis-replica").await;
    let (consul, names) = (world.consul.client().unwrap(), world.consul.names().unwrap());
    let join = format!("/v1/agent/join/{}", elsewhere.wan);
    consul.put(&join, &[("wan", "1")], None).await.unwrap();
    let (here, there) = (host(&writer).to_owned(), THERE.to_string());
    until_answers(&names, "redis-primary.service.dc2.consul", &[&there]).await;
    until_answers(&names, "redis-primary.service.consul", &[&here]).await;
    until_answers(&elsewhere.dns, "redis-primary.service.dc1.consul", &[&here]).await;

    // Reads: of this datacenter, and of the other one while there is no replica here.
    make_query(&consul, &file("queries/redis-reads.json")).await;
    // What must not be done.
    make_query(
        &consul,
        &json!({"Name": "writer", "Service": {
        "Service": "redis-primary", "Failover": {"Datacenters": ["dc2"]}}}),
    )
    .await;
    let servers = world.groups[0].redis.iter().map(|redis| redis.address.to_string());
    let other = servers.clone().find(|at| *at != writer).unwrap();
    until_answers(&names, "redis-reads.query.consul", &[host(&other)]).await;
    until_answers(&names, "writer.query.consul", &[&here]).await;
    world.server_mut(&other).unwrap().kill();
    until_answers(&names, "redis-reads.query.consul", &[&there]).await;
    world.server_mut(&writer).unwrap().kill();
    until_answers(&names, "redis-primary.service.consul", &[]).await;
    until_answers(&names, "writer.query.consul", &[&there]).await;
}

#[tokio::test]
async fn consul_takes_the_entries_of_the_mesh_and_the_subset_is_the_writer() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    // The agents publish where the mesh is.
    let elsewhere = Elsewhere::start(&mut world).await;
    let consul = &elsewhere.consul;
    let address = consul.address();
    let _agent = agent(&world, "agent-mesh", &[], &[("CONSUL_HTTP_ADDR", &address)]);
    for entry in ["service-defaults", "service-resolver", "terminating-gateway"] {
        let entry = file(&format!("mesh/{entry}.json"));
        consul.put("/v1/config", &[], Some(&entry)).await.unwrap();
    }
    let gateway = consul.get::<Value>("/v1/catalog/gateway-services/redis-gateway", &[]).await;
    assert_eq!(gateway.unwrap().value[0]["Service"]["Name"], "redis");
    let chain = consul.get::<Value>("/v1/discovery-chain/redis", &[]).await.unwrap().value;
    let start = chain["Chain"]["StartNode"].as_str().unwrap_or_default().to_owned();
    assert!(start.starts_with("resolver:primary.redis."), "{chain}");
    // What the gateway would connect to: the healthy rows that the subset's filter leaves.
    let filter = file("mesh/service-resolver.json")["Subsets"]["primary"]["Filter"].clone();
    let filter = filter.as_str().unwrap().to_owned();
    let subset = |filter: String| async move {
        let query = [("passing", ""), ("filter", filter.as_str())];
        let rows = consul.get::<Value>("/v1/health/service/redis", &query).await;
        let rows = rows.map_err(LabError::new)?.value;
        let address = |row: &Value| row["Service"]["Address"].as_str().unwrap_or("-").to_owned();
        let found: Vec<String> = rows.as_array().into_iter().flatten().map(address).collect();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            all => Err(LabError(format!("{all:?}"))),
        }
    };
    let first = until("the subset has the writer", SOON, || subset(filter.clone())).await.unwrap();
    let servers = world.groups[0].redis.iter().map(|redis| redis.address.to_string());
    let old = servers.clone().find(|at| host(at) == first).unwrap();
    world.server_mut(&old).unwrap().kill();
    until("the subset has the next writer", SOON, || async {
        match subset(filter.clone()).await? {
            again if again == first => Err(LabError(again)),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
}
