//! Asking the nodes of a Redis Cluster: each that a seed or another node's table names, once, or one of them again and
//! again; and telling one of them something.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::{Clock, stood_still};
use crate::config::ClusterConfig;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::services::RegisteredBy;
use crate::core::cluster::judgement::{NodeAnswer, NodeReadings, ReplicaLink};
use crate::core::cluster::order::{MetNode, NodeCommand, NodeOrder};
use crate::core::cluster::renewal::NoAnswer;
use crate::core::cluster::start::ReplPosition;
use crate::core::cluster::table::{NODES_MAX, Table, TableRole};
use crate::core::cluster::watch::NodeReading;
use crate::core::identity::address::Address;
use crate::core::identity::ids::ReplId;
use crate::core::known::observed::ProcessState;
use crate::dns::{DnsError, Names};
use crate::foreign::brief;
use crate::mailbox::Mailbox;
use crate::process;
use crate::redis_link::{Fields, Link, LinkError, LinkSettings, fields, id, line, text};

/// How often new addresses may come up in what those before have answered: nodes that know one another at all do so
/// after one or two.
const ROUNDS_MAX: usize = 8;
/// Least time between two attempts to connect to a node.
const CONNECT_GAP: Duration = Duration::from_millis(50);
/// How long nodes wait before they take another one for dead, in ms.
const NODE_TIMEOUT: &str = "cluster-node-timeout";

/// Where the nodes of a cluster of the config are looked for: its seeds, by the names that they have, and the instances of
/// its service in Consul.
///
/// # Errors
/// [`ConsulError`] when Consul does not say what is registered.
pub async fn seeds_of(
    cluster: &ClusterConfig,
    consul: &Consul,
) -> Result<Vec<Address>, ConsulError> {
    let mut seeds = cluster.seeds.clone();
    if let Some(service) = &cluster.consul_service {
        seeds.extend(consul.service_addresses(service, &RegisteredBy::Others).await?);
    }
    Ok(seeds)
}

/// What the kernel tells of the nodes of this host, where agents act on their end. A name without an address has none.
pub async fn processes_beside(
    cluster: &ClusterConfig,
    names: &Names,
) -> BTreeMap<Address, ProcessState> {
    if !cluster.policy.duties.acts_on_deaths() {
        return BTreeMap::new();
    }
    let named = cluster.local.iter().map(|at| names.addresses(at));
    let addresses = join_all(named).await.into_iter().flatten().flatten();
    let looks = addresses.map(async |at| {
        let state = process::look(&at, &cluster.login).await?;
        Some((at, state))
    });
    join_all(looks).await.into_iter().flatten().collect()
}

/// Asks every node that can be found from these addresses; with `settings` for those that agents change, too. A name
/// stands for all of its A and AAAA records.
///
/// # Errors
/// [`DnsError`] when no name gives an address; a node that does not answer is part of what is seen.
pub async fn look(
    seeds: &[Address],
    login: &LinkSettings,
    names: &Names,
    settings: bool,
) -> Result<NodeReadings, DnsError> {
    let (mut next, mut unknown) = (BTreeSet::new(), None);
    for seed in seeds {
        match names.addresses(seed).await {
            Ok(addresses) => next.extend(addresses),
            Err(error) => unknown = Some(error),
        }
    }
    if let Some(error) = unknown.filter(|_| next.is_empty()) {
        return Err(error);
    }
    let mut readings = NodeReadings::new();
    for _ in 0..ROUNDS_MAX {
        let asked = next.iter().map(|address| async {
            let answer = opened(address, login, settings).await;
            let answer = answer.map(|(_, answer)| answer).map_err(|error| error.to_string());
            (address.clone(), answer)
        });
        readings.extend(join_all(asked).await);
        let tables = readings.values().flatten().map(|answer| &answer.table);
        let named =
            tables.flat_map(|table| table.rows.values()).filter_map(|row| row.address.clone());
        next = named.filter(|address| !readings.contains_key(address)).collect();
        let room = NODES_MAX.saturating_sub(readings.len());
        next = next.into_iter().take(room).collect();
        if next.is_empty() {
            break;
        }
    }
    Ok(readings)
}

/// Asks one node, in one write.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read: of a server that is no node of a cluster.
pub async fn ask(address: &Address, login: &LinkSettings) -> Result<NodeAnswer, LinkError> {
    ask_over(&mut Link::open(address, login).await?, None, false).await
}

/// How far a node's data goes.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that does not say it.
pub async fn position(address: &Address, login: &LinkSettings) -> Result<ReplPosition, LinkError> {
    let mut link = Link::open(address, login).await?;
    let replication = text(&link.call(&["INFO", "replication"]).await?);
    let replication = replication.map_err(LinkError::Unexpected)?;
    let replication = Fields::of_info(&replication);
    let offset = replication.get("master_repl_offset").and_then(|text| text.parse().ok());
    let found = replication.get("master_replid").zip(offset);
    let position = |(history, offset): (&str, u64)| {
        Some(ReplPosition { history: ReplId(id(history).ok()?), offset })
    };
    found.and_then(position).ok_or_else(|| LinkError::Unexpected("it names no history".to_owned()))
}

/// Asks over an open connection. With `table`, which is the node's own of a moment ago, it is not asked for all of
/// it, unless its role is another one now. With `settings` it is asked for those that agents change, too.
async fn ask_over(
    link: &mut Link,
    table: Option<&Table>,
    settings: bool,
) -> Result<NodeAnswer, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("PING").cmd("CLUSTER").arg("INFO").cmd("INFO").arg("replication");
    if settings {
        commands.cmd("CONFIG").arg("GET").arg(NODE_TIMEOUT);
    }
    if table.is_none() {
        commands.cmd("CLUSTER").arg("NODES");
    }
    let answers = link.ask(&commands).await?;
    let [ping, info, replication, more @ ..] = answers.as_slice() else {
        return Err(LinkError::Unexpected("three answers expected".to_owned()));
    };
    let (timeout, nodes) = more.split_at_checked(usize::from(settings)).unwrap_or_default();
    let replication = text(replication).map_err(LinkError::Unexpected)?;
    let replication = Fields::of_info(&replication);
    let table = match (table, nodes) {
        (Some(table), _) if has_role(table, &replication) => table.clone(),
        (_, [nodes, ..]) => table_of(nodes)?,
        (_, []) => table_of(&link.call(&["CLUSTER", "NODES"]).await?)?,
    };
    let info = text(info).map_err(LinkError::Unexpected)?;
    let state_ok = Fields::of_info(&info).get("cluster_state").is_some_and(|state| state == "ok");
    let to_primary = replica_link(&replication).map_err(LinkError::Unexpected)?;
    let has_keys = table.is_alone() && has_keys(link).await?;
    let timeout = timeout.first().and_then(|answer| fields(answer).ok());
    let timeout_ms = timeout.and_then(|all| all.get(NODE_TIMEOUT)?.parse().ok());
    Ok(NodeAnswer {
        table,
        state_ok,
        not_ready: text(ping).err(),
        link: to_primary,
        has_keys,
        timeout_ms,
    })
}

/// Redis before 7 takes one section a question.
async fn has_keys(link: &mut Link) -> Result<bool, LinkError> {
    let keyspace = link.call(&["INFO", "keyspace"]).await?;
    let keyspace = text(&keyspace).map_err(LinkError::Unexpected)?;
    Ok(keyspace.lines().any(|line| line.starts_with("db")))
}

/// Sends a node what it is told, where it is still the one that is meant and it is not too late; a node that it is to
/// meet, too.
///
/// # Errors
/// Why it was not sent, or what the node said instead of `OK`.
pub async fn tell(
    order: &NodeOrder,
    login: &LinkSettings,
    in_time: impl Fn() -> bool,
) -> Result<(), String> {
    let words = |error: LinkError| error.to_string();
    if let NodeCommand::Meet(MetNode { id, address, blank, .. }) = &order.command {
        let met = ask(address, login).await.map_err(words)?;
        if met.table.own != *id {
            return Err(format!("{address} is node {}", met.table.own));
        }
        if *blank && !met.is_blank() {
            return Err(format!("{address} is not blank any more"));
        }
    }
    let mut link = Link::open(&order.to, login).await.map_err(words)?;
    let own = link.call(&["CLUSTER", "MYID"]).await.map_err(words)?;
    let own = line(&own)?;
    if own != order.id.as_str() {
        return Err(format!("node {} answers there", brief(&own)));
    }
    if !in_time() {
        return Err("its answers come too late".to_owned());
    }
    let command = order.command.words();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let said = line(&link.call(&command).await.map_err(words)?)?;
    if said == "OK" { Ok(()) } else { Err(brief(&said).into_owned()) }
}

fn table_of(nodes: &Value) -> Result<Table, LinkError> {
    text(nodes).and_then(|nodes| Table::parse(&nodes)).map_err(LinkError::Unexpected)
}

/// The node's own row has the role that it says it has.
fn has_role(table: &Table, replication: &Fields<'_>) -> bool {
    let is_replica = replication.get("role") == Some("slave");
    table.own_row().is_some_and(|row| matches!(row.role, TableRole::Replica(_)) == is_replica)
}

/// What one node is to be asked.
#[derive(Debug, Default, PartialEq)]
pub struct NodeQuestions {
    due: bool,
    whole_table: bool,
}

impl NodeQuestions {
    /// It is to be asked; for all of its table as well.
    pub fn add(&mut self, whole_table: bool) {
        self.due = true;
        self.whole_table |= whole_table;
    }
}

/// Stays connected to one node and asks it when that is wanted, and at once when the connection is closed. Ends when
/// the receiver of the readings has ended.
pub async fn follow_node(
    address: Address,
    login: LinkSettings,
    settings: bool,
    clock: Clock,
    questions: Arc<Mailbox<NodeQuestions>>,
    readings: mpsc::Sender<(Address, NodeReading)>,
) {
    let mut link: Option<Link> = None;
    let mut table: Option<Table> = None;
    questions.post(|questions| questions.add(true));
    loop {
        let wanted = match &mut link {
            // Cancel safe: a token, and a mailbox.
            Some(open) => tokio::select! {
                () = open.closed() => NodeQuestions { due: true, whole_table: true },
                wanted = questions.take() => wanted,
            },
            None => questions.take().await,
        };
        let (asked, started) = (clock.now().mono, Instant::now());
        let open = link.take().and_then(|mut open| (!open.is_closed()).then_some(open));
        let known = table.as_ref().filter(|_| !wanted.whole_table);
        let answer = match open {
            Some(mut open) => match ask_over(&mut open, known, settings).await {
                // It was closed meanwhile: whether it may be opened again says more.
                Err(LinkError::Redis(error)) if error.is_io_error() => {
                    opened(&address, &login, settings).await
                }
                answer => answer.map(|answer| (open, answer)),
            },
            None => opened(&address, &login, settings).await,
        };
        let answer = match answer {
            Ok((open, answer)) => {
                (link, table) = (Some(open), Some(answer.table.clone()));
                Ok(answer)
            }
            Err(error) => Err(no_answer(&error)),
        };
        // That it was late is this program's own fault.
        let says_nothing = matches!(answer, Err(NoAnswer::Silent(_))) && stood_still();
        if !says_nothing
            && readings.send((address.clone(), NodeReading { asked, answer })).await.is_err()
        {
            return;
        }
        if link.is_none() {
            tokio::time::sleep_until(started + CONNECT_GAP).await;
        }
    }
}

/// Asks over a new connection.
async fn opened(
    address: &Address,
    login: &LinkSettings,
    settings: bool,
) -> Result<(Link, NodeAnswer), LinkError> {
    let mut link = Link::open(address, login).await?;
    let answer = ask_over(&mut link, None, settings).await?;
    Ok((link, answer))
}

/// What it says of the node that it gave no answer.
fn no_answer(error: &LinkError) -> NoAnswer {
    let words = error.to_string();
    match error {
        LinkError::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
            NoAnswer::Refused(words)
        }
        LinkError::Connect(_) | LinkError::Timeout(_) | LinkError::Lookup(_) => {
            NoAnswer::Silent(words)
        }
        // A server that closes the connection while it is asked is about to end, as a rule.
        LinkError::Redis(error) if error.is_io_error() => NoAnswer::Silent(words),
        // Redis before Valkey 9 says that of its table, too.
        LinkError::Unexpected(said) if said.starts_with("LOADING") => NoAnswer::Refused(words),
        LinkError::Unexpected(said) if !said.starts_with("NO") => NoAnswer::Silent(words),
        // `NOPERM`, `NOAUTH`: the login.
        LinkError::Unexpected(_)
        | LinkError::Redis(_)
        | LinkError::TurnedAway(_)
        | LinkError::Refused { .. }
        | LinkError::Tls(_)
        | LinkError::Secret(_) => NoAnswer::Denied(words),
    }
}

/// None on a primary.
fn replica_link(replication: &Fields<'_>) -> Result<Option<ReplicaLink>, String> {
    let Some(status) = replication.get("master_link_status") else { return Ok(None) };
    let heard = replication.get("master_last_io_seconds_ago").unwrap_or("-1");
    // -1: there is no link.
    let heard: i64 = heard.parse().map_err(|_| format!("`{heard}` is no number of seconds"))?;
    let place = replication.get("master_host").zip(replication.get("master_port"));
    let primary = place.and_then(|(host, port)| Address::new(host, port.parse().ok()?).ok());
    Ok(Some(ReplicaLink { up: status == "up", heard_s: u64::try_from(heard).ok(), primary }))
}
