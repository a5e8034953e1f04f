//! A node of a Redis Cluster is not started where what it would serve is not, or no longer, its own to serve.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::data_files::DataFiles;
use crate::clock::Clock;
use crate::cluster::{look, position, seeds_of};
use crate::config::{ClusterConfig, Config};
use crate::consul::client::Consul;
use crate::core::cluster::judgement::NodeReadings;
use crate::core::cluster::start::{ReplPosition, StartWait, StoppedNode, StoredData, may_start};
use crate::core::cluster::table::{NodeId, Table, TableRole};
use crate::core::identity::address::Address;
use crate::dns::Names;

/// How often it is looked whether it may be started.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long Consul may take to answer.
const CONSUL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the reason is said again.
const SAID_EVERY: Duration = Duration::from_secs(30);
/// A node that waits for the election of a replica is started after so long all the same: none will be elected any more.
const ELECTED_MAX: Duration = Duration::from_secs(60);
/// The line of the file that is no node's.
const VARS: &str = "vars ";

/// Waits until the node in this directory may be started.
pub async fn until_safe(
    config: &Config,
    cluster: &ClusterConfig,
    consul: &Consul,
    own: &Address,
    files: &DataFiles,
    file: &Path,
) {
    let Some(table) = read(file) else { return };
    let (names, clock, begun) = (Names::new(config.resolver), Clock::start(), Instant::now());
    let mut said: Option<(String, Instant)> = None;
    loop {
        let reading = consul.cluster(&cluster.policy.layout, &clock);
        let store = tokio::time::timeout(CONSUL_TIMEOUT, reading).await.ok().and_then(Result::ok);
        let recorded = store.as_ref().and_then(|store| store.record());
        let mut places: Vec<Address> =
            table.rows.values().filter_map(|row| row.address.clone()).collect();
        places.extend(
            recorded.iter().flat_map(|record| record.nodes.values()).map(|n| n.address.clone()),
        );
        let seeds = tokio::time::timeout(CONSUL_TIMEOUT, seeds_of(cluster, consul)).await;
        let seeds = seeds.ok().and_then(Result::ok);
        places.extend(seeds.unwrap_or_else(|| cluster.seeds.clone()));
        places.extend(store.iter().flat_map(|store| store.announced.keys()).cloned());
        places.retain(|place| place != own);
        let others = look(&places, &cluster.login, &names, false).await.unwrap_or_default();
        let record = store.as_ref().map(|_| recorded);
        let data = files.stored();
        let positions = match data {
            StoredData::Snapshot(_) => positions(cluster, &table.own, &others).await,
            StoredData::None | StoredData::Writes => BTreeMap::new(),
        };
        let (data, positions) = (&data, &positions);
        let node = StoppedNode { file: &table, data, record, others: &others, positions };
        let Err(StartWait { why, for_election }) = may_start(&node) else { return };
        if for_election && begun.elapsed() >= ELECTED_MAX {
            let with = if *data == StoredData::None { "without data" } else { "with its snapshot" };
            return warn!("starts {with} all the same: no other node has taken its slots over");
        }
        let again =
            said.as_ref().is_none_or(|(text, at)| *text != why || at.elapsed() >= SAID_EVERY);
        if again {
            info!("not started yet: {why}");
            said = Some((why, Instant::now()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far the data of its replicas goes, of those that say it.
async fn positions(
    cluster: &ClusterConfig,
    id: &NodeId,
    others: &NodeReadings,
) -> BTreeMap<NodeId, ReplPosition> {
    let mut found = BTreeMap::new();
    for (at, answer) in others.iter().filter_map(|(at, answer)| Some((at, answer.as_ref().ok()?))) {
        let own = answer.table.own_row();
        if own.is_some_and(|row| row.role == TableRole::Replica(id.clone()))
            && let Ok(position) = position(at, &cluster.login).await
        {
            found.insert(answer.table.own.clone(), position);
        }
    }
    found
}

/// What the node's file says it was; `None` where there is none, or one that the server will not read either.
fn read(file: &Path) -> Option<Table> {
    let text = std::fs::read_to_string(file).ok()?;
    let nodes: Vec<&str> = text.lines().filter(|line| !line.starts_with(VARS)).collect();
    match Table::parse(&nodes.join("\n")) {
        Ok(table) => Some(table),
        Err(why) => {
            warn!("{} cannot be read: {why}", file.display());
            None
        }
    }
}
