//! One Redis: asking it, holding its writes, and noticing at once when it closes the connection.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::clock::Clock;
use crate::core::address::Address;
use crate::core::observed::{ConnectedReplica, InstanceAnswer, Reading, ReplId, Role};
use crate::redis_link::{Link, LinkError, LinkSettings, text};
use crate::retry::Retry;
use crate::sentinel::query::info_fields;

/// Replicas read from one primary's INFO.
const REPLICAS_MAX: usize = 256;
/// Least time between two attempts to connect, so that a refusing port is not hammered.
const RECONNECT_GAP: Duration = Duration::from_millis(5);
/// Commands waiting for one instance. All but the last of a kind are redundant.
pub const COMMANDS_MAX: usize = 16;

/// Something to do with an instance.
#[derive(Debug, Clone, Copy)]
pub enum InstanceCommand {
    /// Ask it about itself.
    Probe,
    /// Hold its writes for this long.
    Hold {
        /// In ms.
        for_ms: u64,
    },
}

/// Asks an instance about itself, in one write.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn probe(link: &mut Link) -> Result<InstanceAnswer, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("PING").cmd("INFO").arg("replication").cmd("INFO").arg("server");
    let answers = link.ask(&commands).await?;
    let [ping, replication, server] = answers.as_slice() else {
        return Err(LinkError::Unexpected("three answers expected".to_owned()));
    };
    let not_ready = match ping {
        Value::SimpleString(pong) if pong == "PONG" => None,
        Value::ServerError(_) => text(ping).err(),
        other => Some(format!("{other:?}")),
    };
    let replication = text(replication).map_err(LinkError::Unexpected)?;
    let server = text(server).map_err(LinkError::Unexpected)?;
    parse(not_ready, &info_fields(&replication), &info_fields(&server))
        .map_err(LinkError::Unexpected)
}

fn parse(
    not_ready: Option<String>,
    replication: &BTreeMap<&str, &str>,
    server: &BTreeMap<&str, &str>,
) -> Result<InstanceAnswer, String> {
    let field = |name: &str| {
        replication.get(name).copied().ok_or_else(|| format!("INFO has no `{name}`"))
    };
    let role = match field("role")? {
        "master" => Role::Primary { replicas: connected_replicas(replication) },
        "slave" => {
            let port = field("master_port")?.parse().map_err(|_| "bad `master_port`")?;
            let of = Address::new(field("master_host")?, port).map_err(|e| e.to_string())?;
            Role::Replica { of, link_up: field("master_link_status")? == "up" }
        }
        other => return Err(format!("unknown role `{other}`")),
    };
    // Before 6.2 there is neither FAILOVER nor this field.
    let failover = replication.get("master_failover_state").copied().unwrap_or("no-failover");
    // A history of forty zeros is none.
    let replid2 = replication.get("master_replid2").filter(|id| id.bytes().any(|b| b != b'0'));
    // A replica that never synced has no offset yet.
    let offset = match role {
        Role::Primary { .. } => replication.get("master_repl_offset"),
        Role::Replica { .. } => {
            replication.get("slave_repl_offset").or_else(|| replication.get("master_repl_offset"))
        }
    };
    Ok(InstanceAnswer {
        role,
        not_ready,
        failover_running: failover != "no-failover",
        run_id: server.get("run_id").copied().unwrap_or_default().to_owned(),
        version: server
            .get("valkey_version")
            .or_else(|| server.get("redis_version"))
            .copied()
            .unwrap_or_default()
            .to_owned(),
        replid: ReplId(field("master_replid")?.to_owned()),
        replid2: replid2.map(|id| ReplId((*id).to_owned())),
        offset: offset.and_then(|offset| offset.parse().ok()).unwrap_or(0),
    })
}

/// `slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=1`
fn connected_replicas(replication: &BTreeMap<&str, &str>) -> Vec<ConnectedReplica> {
    let is_row = |name: &str| {
        name.strip_prefix("slave").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    replication
        .iter()
        .filter(|(name, _)| is_row(name))
        .take(REPLICAS_MAX)
        .filter_map(|(_, row)| {
            let row: BTreeMap<&str, &str> =
                row.split(',').filter_map(|pair| pair.split_once('=')).collect();
            let port = row.get("port")?.parse().ok()?;
            Some(ConnectedReplica {
                address: Address::new(row.get("ip")?, port).ok()?,
                online: row.get("state") == Some(&"online"),
                offset: row.get("offset")?.parse().ok()?,
                lag_s: row.get("lag").and_then(|lag| lag.parse().ok()).unwrap_or(0),
            })
        })
        .collect()
}

/// Holds an instance's writes for `for_ms`. Reads, replication and Sentinel go on.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn hold(link: &mut Link, for_ms: u64) -> Result<(), LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("CLIENT").arg("PAUSE").arg(for_ms).arg("WRITE");
    let answers = link.ask(&commands).await?;
    for answer in &answers {
        text(answer).map_err(LinkError::Unexpected)?;
    }
    Ok(())
}

/// Stays connected to one instance, answers commands, and asks anew the moment the connection closes:
/// a replica that is promoted closes it in the very transaction that promotes it
/// (`docs/facts/sentinel.md` 6).
///
/// Ends when `commands` is closed or nobody takes the readings any more.
pub async fn follow(
    address: Address,
    settings: LinkSettings,
    clock: Clock,
    mut commands: mpsc::Receiver<InstanceCommand>,
    readings: mpsc::Sender<(Address, Reading<InstanceAnswer>)>,
) {
    let mut follower = Follower { address, settings, clock, link: None };
    let mut retry = Retry::reconnecting();
    let mut next_attempt = Some(Instant::now());
    loop {
        let command = tokio::select! {
            // Cancel safe: a token, a channel and a timer; nothing is lost with the others.
            () = follower.closed() => {
                follower.link = None;
                debug!(instance = %follower.address, "connection closed");
                Some(InstanceCommand::Probe)
            }
            () = sleep_until(next_attempt) => Some(InstanceCommand::Probe),
            command = commands.recv() => command,
        };
        let Some(command) = command else { return };
        let started = Instant::now();
        let (hold, probe) = gather(command, &mut commands);
        if let Some(for_ms) = hold {
            follower.hold(for_ms).await;
        }
        let reading = if probe { Some(follower.probe().await) } else { None };
        next_attempt = if follower.link.is_some() {
            retry.reset();
            None
        } else {
            Some(started + retry.next_delay().max(RECONNECT_GAP))
        };
        if let Some(reading) = reading
            && readings.send((follower.address.clone(), reading)).await.is_err()
        {
            return;
        }
        if follower.link.is_none() {
            tokio::time::sleep_until(started + RECONNECT_GAP).await;
        }
    }
}

/// Everything that is waiting, as one hold and one probe: more of a kind would say nothing new.
fn gather(first: InstanceCommand, more: &mut mpsc::Receiver<InstanceCommand>) -> (Option<u64>, bool) {
    let (mut hold, mut probe) = (None, false);
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            InstanceCommand::Probe => probe = true,
            InstanceCommand::Hold { for_ms } => hold = Some(for_ms),
        }
        next = more.try_recv().ok();
    }
    (hold, probe)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Follower {
    address: Address,
    settings: LinkSettings,
    clock: Clock,
    link: Option<Link>,
}

impl Follower {
    async fn closed(&self) {
        match &self.link {
            Some(link) => link.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn link(&mut self) -> Result<&mut Link, LinkError> {
        let link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.address, &self.settings).await?,
        };
        Ok(self.link.insert(link))
    }

    async fn probe(&mut self) -> Reading<InstanceAnswer> {
        let clock = self.clock;
        let mut asked = clock.now().mono;
        let result = match self.link().await {
            Ok(link) => {
                asked = clock.now().mono;
                probe(link).await
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            // A connection that failed to answer would answer the next question with this one's.
            self.link = None;
        }
        Reading { asked, answered: clock.now().mono, result: result.map_err(|e| e.to_string()) }
    }

    async fn hold(&mut self, for_ms: u64) {
        let result = match self.link().await {
            Ok(link) => hold(link, for_ms).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => debug!(instance = %self.address, for_ms, "writes held"),
            Err(error) => {
                self.link = None;
                tracing::warn!(instance = %self.address, %error, "cannot hold writes");
            }
        }
    }
}
