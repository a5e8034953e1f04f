//! Asking the nodes of a Redis Cluster: each that a seed or another node's table names, once.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::Value;

use crate::core::cluster::judgement::{NodeAnswer, NodeReadings, ReplicaLink};
use crate::core::cluster::table::{NODES_MAX, Table};
use crate::core::identity::address::Address;
use crate::dns::{DnsError, Names};
use crate::redis_link::{Fields, Link, LinkError, LinkSettings, text};

/// How often new addresses may come up in what those before have answered: nodes that know one another at all do so
/// after one or two.
const ROUNDS_MAX: usize = 8;

/// Asks every node that can be found from these addresses. A name stands for all of its A and AAAA records.
///
/// # Errors
/// [`DnsError`] when a name gives no address; a node that does not answer is part of what is seen.
pub async fn look(
    seeds: &[Address],
    login: &LinkSettings,
    names: &Names,
) -> Result<NodeReadings, DnsError> {
    let mut next = BTreeSet::new();
    for seed in seeds {
        next.extend(names.addresses(seed).await?);
    }
    let mut readings = NodeReadings::new();
    for _ in 0..ROUNDS_MAX {
        let asked = next.iter().map(|address| async {
            let answer = ask(address, login).await.map_err(|error| error.to_string());
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
    let mut link = Link::open(address, login).await?;
    let mut commands = redis::pipe();
    commands.cmd("PING").cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("NODES");
    commands.cmd("INFO").arg("replication");
    let answers = link.ask(&commands).await?;
    let [ping, info, nodes, replication] = answers.as_slice() else {
        return Err(LinkError::Unexpected("four answers expected".to_owned()));
    };
    read(ping, info, nodes, replication).map_err(LinkError::Unexpected)
}

fn read(
    ping: &Value,
    info: &Value,
    nodes: &Value,
    replication: &Value,
) -> Result<NodeAnswer, String> {
    let table = Table::parse(&text(nodes)?)?;
    let info = text(info)?;
    let state_ok = Fields::of_info(&info).get("cluster_state").is_some_and(|state| state == "ok");
    let replication = text(replication)?;
    let link = replica_link(&Fields::of_info(&replication))?;
    Ok(NodeAnswer { table, state_ok, not_ready: text(ping).err(), link })
}

/// None on a primary.
fn replica_link(replication: &Fields<'_>) -> Result<Option<ReplicaLink>, String> {
    let Some(status) = replication.get("master_link_status") else { return Ok(None) };
    let heard = replication.get("master_last_io_seconds_ago").unwrap_or("-1");
    // -1: there is no link.
    let heard: i64 = heard.parse().map_err(|_| format!("`{heard}` is no number of seconds"))?;
    Ok(Some(ReplicaLink { up: status == "up", heard_s: u64::try_from(heard).ok() }))
}
