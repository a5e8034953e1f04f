//! Writes by the writer's name, whatever happens to the primary. Needs redis, hickory-resolver and tokio.
//!
//! ```sh
//! CONSUL_DNS=127.0.0.1:8600 cargo run --example redis_rs
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
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, Value, from_redis_value_ref,
};
use tokio::time::{sleep, timeout};

const NAME: &str = "redis-primary.service.consul.";
/// A connection without an answer for so long is no good any more: a host that is gone closes nothing.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between a failure and the next attempt: there may be no writer for a while.
const PAUSE: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

/// Host and port of the writer, as Consul has it now.
async fn lookup() -> Result<(String, u16), Failure> {
    let Ok(server) = std::env::var("CONSUL_DNS") else { return Ok((NAME.to_owned(), 6379)) };
    let server: SocketAddr = server.parse()?;
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    // A new one each time has nothing in its cache.
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()?;
    let rows = timeout(TIMEOUT, resolver.srv_lookup(NAME)).await??;
    let row = rows.answers().iter().find_map(|record| match &record.data {
        RData::SRV(row) => Some((row.target.to_utf8(), row.port)),
        _ => None,
    });
    let (target, port) = row.ok_or("no writer")?;
    let addresses = timeout(TIMEOUT, resolver.lookup_ip(target)).await??;
    let address = addresses.iter().next().ok_or("no address")?;
    Ok((address.to_string(), port))
}

/// What an answer says of the command itself leaves the connection as it is. Everything else means that the
/// connection, or the primary behind it, is gone.
fn is_gone(error: &RedisError) -> bool {
    match error.code() {
        Some(code) => ["READONLY", "LOADING", "MASTERDOWN", "UNBLOCKED"].contains(&code),
        None => true,
    }
}

/// A connection to the present writer, which all tasks can share; another one after each failure that may mean another
/// writer. A `ConnectionManager` would hide those.
#[derive(Default)]
struct Writer {
    connection: Option<MultiplexedConnection>,
}

impl Writer {
    /// Runs a command once. To repeat it is the caller's decision: it may have been done already.
    async fn call<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Self::open().await?,
        };
        // Not `send_packed_command`, to which a refusal is an answer like any other.
        let answer = command.query_async(&mut connection).await;
        if !answer.as_ref().is_err_and(is_gone) {
            self.connection = Some(connection);
        }
        Ok(answer?)
    }

    async fn open() -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let (host, port) = lookup().await?;
        let client = Client::open((host.as_str(), port))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // What a name leads to may be another server than the one that is meant.
        let said: Vec<Value> = Cmd::new().arg("ROLE").query_async(&mut connection).await?;
        match said.first().map(from_redis_value_ref::<String>) {
            Some(Ok(role)) if role == "master" => Ok(connection),
            _ => Err(format!("{host}:{port} is no primary").into()),
        }
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
