//! `consul-redis maintenance` for a node of a Redis Cluster: the key `maintenance` below the cluster's root keeps it out of
//! the names, whatever agents there are; its `cluster-replica-no-failover` keeps it from standing for election. What that
//! was before stands in the key.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use super::kept_out::{FOLLOW_MAX, STEP, set, setting, write_kept};
use super::terminal::{self, Progress};
use crate::cli::{MaintenanceArgs, MaintenanceWhat};
use crate::clock::Clock;
use crate::config::{ClusterConfig, Config};
use crate::consul::client::Consul;
use crate::core::cluster::record::{ClusterStore, MAINTENANCE, NodeRecord};
use crate::core::cluster::table::NodeId;
use crate::core::identity::address::{Address, GroupName};
use crate::exit::{Exit, Failure};

/// The setting with which a replica stands for no election.
const NO_FAILOVER: &str = "cluster-replica-no-failover";

/// The nodes in maintenance with the setting that each had before, and the ModifyIndex of the key, 0 where there is none.
type KeptOut = (BTreeMap<NodeId, String>, u64);

/// One cluster, and what of it is out of service.
pub struct ClusterKeeper<'a> {
    cluster: &'a ClusterConfig,
    consul: &'a Consul,
    clock: &'a Clock,
}

/// Those that are out, for programs.
#[derive(Debug, Serialize)]
struct NodesOut<'a> {
    cluster: &'a GroupName,
    nodes: Vec<NodeOut<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeOut<'a> {
    id: &'a NodeId,
    /// Where it is, while it is recorded.
    address: Option<&'a Address>,
    /// The `cluster-replica-no-failover` that it gets back.
    no_failover_before: &'a str,
}

/// The cluster of the config that has a node at the address that was named, or, where none is and the config names no
/// group, its only cluster.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read.
pub async fn cluster_meant<'a>(
    config: &'a Config,
    args: &MaintenanceArgs,
    consul: &'a Consul,
    clock: &'a Clock,
) -> Result<Option<ClusterKeeper<'a>>, Failure> {
    let keeper = |cluster| ClusterKeeper { cluster, consul, clock };
    let Some(named) = &args.instance else {
        let only = <&[ClusterConfig; 1]>::try_from(config.clusters.as_slice()).ok();
        let only = only.filter(|_| !config.groups_named && config.redis.is_empty());
        return Ok(only.map(|[only]| keeper(only)));
    };
    for cluster in &config.clusters {
        let store = consul.cluster(&cluster.policy.layout, clock).await?;
        if node_at(&store, named).is_some() {
            return Ok(Some(keeper(cluster)));
        }
    }
    Ok(None)
}

fn node_at<'a>(store: &'a ClusterStore, at: &Address) -> Option<(&'a NodeId, &'a NodeRecord)> {
    store.record()?.nodes.iter().find(|(_, node)| node.address == *at)
}

impl ClusterKeeper<'_> {
    /// Takes a node out of service, puts it back, or lists those that are out.
    ///
    /// # Errors
    /// A [`Failure`] when the node owns slots or does not answer, or Consul cannot be read or written.
    pub async fn run(&self, args: &MaintenanceArgs) -> Result<(), Failure> {
        let (kept, store) = (self.kept().await?, self.store().await?);
        let said = match (args.what, &args.instance) {
            (MaintenanceWhat::List, _) => {
                return self.list(&store, &kept.0, args.json);
            }
            (_, None) => {
                let hint = "consul-redis status lists the nodes";
                return Err(
                    Failure::new(Exit::Config, "which node? name it as HOST:PORT").hint(hint)
                );
            }
            (MaintenanceWhat::On, Some(at)) => self.on(&store, kept, at, args.json).await?,
            (MaintenanceWhat::Off, Some(at)) => self.off(&store, kept, at).await?,
        };
        if !args.json {
            println!("{said}");
            return Ok(());
        }
        self.list(&self.store().await?, &self.kept().await?.0, true)
    }

    async fn store(&self) -> Result<ClusterStore, Failure> {
        Ok(self.consul.cluster(&self.cluster.policy.layout, self.clock).await?)
    }

    fn key(&self) -> String {
        format!("{}{MAINTENANCE}", self.cluster.policy.layout.root())
    }

    fn list(
        &self,
        store: &ClusterStore,
        kept: &BTreeMap<NodeId, String>,
        json: bool,
    ) -> Result<(), Failure> {
        let cluster = &self.cluster.policy.name;
        let address = |id| Some(&store.record()?.nodes.get(id)?.address);
        if json {
            let nodes = kept.iter().map(|(id, before)| NodeOut {
                id,
                address: address(id),
                no_failover_before: before,
            });
            println!("{}", terminal::json(&NodesOut { cluster, nodes: nodes.collect() })?);
            return Ok(());
        }
        for (id, before) in kept {
            let at = address(id).map_or_else(|| "not recorded".to_owned(), ToString::to_string);
            println!("{at}  ({id})  in maintenance ({NO_FAILOVER} was {before})");
        }
        if kept.is_empty() {
            println!("{cluster}: none in maintenance");
        }
        Ok(())
    }

    /// Which nodes are out.
    async fn kept(&self) -> Result<KeptOut, Failure> {
        let key = self.key();
        let Some((value, index)) = self.consul.key(&key).await? else {
            return Ok(KeptOut::default());
        };
        let kept = serde_json::from_slice(&value).map_err(|why| {
            let hint = format!("consul kv delete {key} takes all out of maintenance");
            Failure::new(Exit::Failed, format!("{key} cannot be read: {why}")).hint(hint)
        })?;
        Ok((kept, index))
    }

    async fn on(
        &self,
        store: &ClusterStore,
        (mut kept, index): KeptOut,
        at: &Address,
        json: bool,
    ) -> Result<String, Failure> {
        let name = &self.cluster.policy.name;
        let Some((id, _)) = node_at(store, at) else {
            return Err(Failure::new(Exit::Failed, format!("{at} is no node of {name}")));
        };
        let shards = store.record().into_iter().flat_map(|record| &record.shards);
        if let Some((number, _)) = shards.into_iter().find(|(_, shard)| shard.owner == *id) {
            let message = format!("{at} owns the slots of shard {number}");
            let hint = format!("consul-redis switchover {name} --shard {number} moves them away");
            return Err(Failure::new(Exit::Failed, message).hint(hint));
        }
        let before = setting(at, &self.cluster.login, NO_FAILOVER).await?;
        // Taken out twice, it goes back to what it was before the first time.
        kept.entry(id.clone()).or_insert(before);
        write_kept(self.consul, self.key(), &kept, index).await?;
        set(at, &self.cluster.login, NO_FAILOVER, "yes").await?;
        let progress = (!json).then(|| Progress::new("waiting for the agents"));
        let deadline = Instant::now() + FOLLOW_MAX;
        while Instant::now() < deadline {
            let store = self.store().await?;
            let out = |record: &NodeRecord| record.serves().is_none();
            if store.record().and_then(|record| record.nodes.get(id)).is_none_or(out) {
                drop(progress);
                return Ok(format!("{at} is out of the names, and stands for no election"));
            }
            tokio::time::sleep(STEP).await;
        }
        let message = format!("{at} is in maintenance, and no agent has seen it");
        let hint = format!("consul-redis status {name} says which agents watch");
        Err(Failure::new(Exit::Failed, message).hint(hint))
    }

    async fn off(
        &self,
        store: &ClusterStore,
        (mut kept, index): KeptOut,
        at: &Address,
    ) -> Result<String, Failure> {
        let removed = node_at(store, at).and_then(|(id, _)| kept.remove(id));
        let Some(before) = removed else {
            return Ok(format!("{at} is not in maintenance"));
        };
        let restored = set(at, &self.cluster.login, NO_FAILOVER, &before).await;
        if let Err(failure) = &restored {
            eprintln!("{}: its {NO_FAILOVER}, {before} before, is still yes", failure.message);
        }
        write_kept(self.consul, self.key(), &kept, index).await?;
        Ok(match restored {
            Ok(()) => format!("{at} is back; it is in the names once it can take requests"),
            Err(_) => {
                format!("{at} is in maintenance no more; it is in no name while it does not answer")
            }
        })
    }
}
