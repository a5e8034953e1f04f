//! What `doctor` reads of a Redis Cluster: what is published, every node's table, and its settings.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::read;
use crate::clock::Clock;
use crate::cluster::{look, processes_beside, seeds_of};
use crate::config::Config;
use crate::consul::client::{Consul, ConsulError};
use crate::core::cluster::record::ClusterStore;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::shown::{ClusterProblemCode, cluster_status};
use crate::core::doctor::{ClusterFacts, Finding, NodeFacts, diagnose_cluster};
use crate::core::identity::address::Address;
use crate::core::known::observed::{ProcessState, SEEN_AT_ONCE};
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::observe::published_of_cluster;
use crate::redis_link::{Link, LinkError, LinkSettings};

/// Examines one cluster. What Consul does not tell is left out, and comes with the error.
///
/// # Errors
/// A [`Failure`] when Consul denies it, or the name of a seed gives no address.
pub async fn examine_cluster(
    config: &Config,
    policy: &ClusterPolicy,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
) -> Result<(Vec<Finding>, Option<ConsulError>), Failure> {
    let (store, rows, away) = match published_of_cluster(policy, consul, clock).await {
        Ok((store, rows)) => (Some(store), Some(rows), None),
        Err(error) if error.leaves_unread() => (None, None, Some(error)),
        Err(error) => return Err(error.into()),
    };
    let record = store.as_ref().and_then(ClusterStore::record);
    let own = config.clusters.iter().find(|cluster| cluster.policy.name == policy.name);
    let login = own.map_or(&config.instance_login, |own| &own.login);
    let mut seeds: Vec<Address> = own.map(|own| own.seeds.clone()).unwrap_or_default();
    if let Some(own) = own.filter(|_| away.is_none()) {
        seeds = seeds_of(own, consul).await?;
    }
    let nodes = record.into_iter().flat_map(|record| record.nodes.values());
    seeds.extend(nodes.map(|node| node.address.clone()));
    let found = look(&seeds, login, names, false).await;
    let readings = found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let processes = match own {
        Some(own) => processes_beside(own, names).await,
        None => BTreeMap::new(),
    };
    let answering = readings.iter().filter(|(_, reading)| reading.is_ok());
    let asks = answering.map(|(at, _)| async {
        let facts = node(at, login).await.unwrap_or_else(|error| {
            let error = error.to_string();
            NodeFacts { config: Err(error.clone()), info: Err(error), death_unseen: None }
        });
        let beside = processes.get(at).and_then(ProcessState::end_seen);
        let death_unseen = beside.filter(|seen| *seen != SEEN_AT_ONCE).map(str::to_owned);
        (at.clone(), NodeFacts { death_unseen, ..facts })
    });
    let nodes: BTreeMap<Address, NodeFacts> = join_all(asks).await.into_iter().collect();
    let mut status = cluster_status(policy, store.as_ref(), rows.as_ref(), None);
    let failure = consul.login_failure();
    status.add(failure.map(|error| ClusterProblemCode::ConsulLogin.says(error.to_string())));
    status.note_pause(store.as_ref().and_then(|store| store.paused(clock.now().wall)));
    let facts = ClusterFacts { status: &status, record, readings: &readings, nodes };
    Ok((diagnose_cluster(&facts), away))
}

async fn node(at: &Address, login: &LinkSettings) -> Result<NodeFacts, LinkError> {
    let mut link = Link::open(at, login).await?;
    let mut server = redis::cmd("INFO");
    server.arg("server");
    let (info, config) = read(&mut link, server, &NodeFacts::SETTINGS).await?;
    Ok(NodeFacts { config, info, death_unseen: None })
}
