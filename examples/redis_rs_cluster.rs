//! Writes to a Redis Cluster that is found by its name in Consul, through failovers. Needs redis with the feature
//! `cluster-async`, hickory-resolver and tokio.
//!
//! ```sh
//! CONSUL_DNS=127.0.0.1:8600 cargo run --example redis_rs_cluster
//! ```
//!
//! Without `CONSUL_DNS`, the system's resolver is asked, which has to pass `consul.` on to Consul, and the port is
//! 6379.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, FromRedisValue};
use tokio::time::{sleep, timeout};

/// With a dot at its end: no search domain is tried.
const NAME: &str = "orders.service.consul.";
/// A connection without an answer for so long is no good any more: a host that is gone closes nothing.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between a failure and the next attempt: until a replica has taken over, its slots take no writes.
const PAUSE: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

/// Every node that can take requests, as Consul has it now.
async fn seeds() -> Result<Vec<String>, Failure> {
    let Ok(server) = std::env::var("CONSUL_DNS") else {
        return Ok(vec![format!("redis://{NAME}:6379")]);
    };
    let server: SocketAddr = server.parse()?;
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    // A new one each time has nothing in its cache.
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()?;
    let rows = timeout(TIMEOUT, resolver.srv_lookup(NAME)).await??;
    let mut seeds = Vec::new();
    for record in rows.answers() {
        let RData::SRV(row) = &record.data else { continue };
        let addresses = timeout(TIMEOUT, resolver.lookup_ip(row.target.to_utf8())).await??;
        let seed = |ip| format!("redis://{}", SocketAddr::new(ip, row.port));
        seeds.extend(addresses.iter().map(seed));
    }
    Ok(seeds)
}

/// A client of the cluster, which all tasks can share; another one after each failure: it looks the name up, and asks who
/// has which slots.
#[derive(Default)]
struct Writer {
    connection: Option<ClusterConnection>,
}

impl Writer {
    /// Runs a command once. To repeat it is the caller's decision: it may have been done already.
    async fn call<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Self::open().await?,
        };
        let answer = command.query_async(&mut connection).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn open() -> Result<ClusterConnection, Failure> {
        let client = ClusterClientBuilder::new(seeds().await?)
            .connection_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
            // By default it repeats whatever failed, INCR too.
            .retries(0)
            .build()?;
        Ok(timeout(TIMEOUT, client.get_async_connection()).await??)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut writer = Writer::default();
    for number in 0_u64.. {
        let command = Cmd::new().arg("SET").arg(format!("written:{number}")).arg(number).to_owned();
        match writer.call(&command).await {
            Ok(()) => {
                println!("acknowledged {number}");
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => {
                println!("failed {number} {error}");
                sleep(PAUSE).await;
            }
        }
    }
}
