//! The Redis Clusters.

use std::collections::BTreeMap;

use super::{CommonToAll, Resolver};
use toml::Spanned;

use crate::config::file::{ClusterHaste, ClusterTable, Span};
use crate::config::{ClusterConfig, ConfigError, GroupConfig};
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::wanted::{ClusterDuties, FORGET_AFTER_MS, Wanted};
use crate::core::identity::address::{Address, ServiceName};
use crate::core::published::projection::Layout;
use crate::core::published::sentinel_rows;
use crate::core::published::store::CLUSTERS;

impl Resolver<'_> {
    pub(super) fn clusters(
        &self,
        groups: &[GroupConfig],
        common: &CommonToAll<'_>,
    ) -> Result<Vec<ClusterConfig>, ConfigError> {
        let wanted = self.file.cluster.iter().map(|table| self.cluster(table, common));
        let clusters: Vec<ClusterConfig> = wanted.collect::<Result<_, _>>()?;
        self.refuse_unknown_clusters()?;
        self.refuse_taken_names(groups, &clusters)?;
        Ok(clusters)
    }

    fn cluster(
        &self,
        table: &ClusterTable,
        common: &CommonToAll<'_>,
    ) -> Result<ClusterConfig, ConfigError> {
        let name = table.name.get_ref();
        let here = self.file.redis.iter().filter(|redis| {
            redis.cluster.as_ref().is_some_and(|cluster| cluster.get_ref() == name)
        });
        let local: Vec<Address> = here.map(|redis| redis.address.get_ref().clone()).collect();
        let seeds = table.seeds.as_ref();
        let policy = ClusterPolicy {
            name: name.clone(),
            service: self.cluster_service(table)?,
            layout: Layout::of_cluster(common.prefix, name),
            agent: common.agent.to_owned(),
            zone: self.zone().filter(|_| !local.is_empty()),
            duties: self.duties(table)?,
        };
        let mut seeds = seeds.map(|seeds| seeds.get_ref().clone()).unwrap_or_default();
        seeds.sort();
        seeds.dedup();
        let consul_service = self.nodes_service(table)?;
        let login = common.login.clone();
        Ok(ClusterConfig { policy, seeds, consul_service, local, login })
    }

    /// The service that its nodes are registered under.
    fn nodes_service(&self, table: &ClusterTable) -> Result<Option<String>, ConfigError> {
        let Some(service) = &table.consul_service else { return Ok(None) };
        let name = service.get_ref();
        let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(in_path) {
            let what =
                format!("consul_service `{name}` is no service's name: write A-Z a-z 0-9 - _ .");
            return Err(self.source.contradiction(service, what));
        }
        Ok(Some(name.clone()))
    }

    fn duties(&self, table: &ClusterTable) -> Result<ClusterDuties, ConfigError> {
        let count =
            |given: &Option<Spanned<u16>>| given.as_ref().map(|n| usize::from(*n.get_ref()));
        let replicas = count(&table.replicas);
        let make = match &table.expect {
            Some(expect) => {
                let made =
                    Wanted::new(usize::from(*expect.get_ref()), count(&table.shards), replicas);
                Some(made.map_err(|what| self.source.contradiction(expect, what))?)
            }
            None => None,
        };
        let alone = table.shards.as_ref().filter(|_| table.expect.is_none());
        if let Some(shards) = alone {
            let what =
                "shards needs expect: the number of nodes that are made into a cluster".to_owned();
            return Err(self.source.contradiction(shards, what));
        }
        let forget_after = table.forget_after.map_or(FORGET_AFTER_MS, Span::as_ms);
        Ok(ClusterDuties {
            manage: table.manage.unwrap_or(true),
            make,
            replicas_max: replicas,
            hasten: table.fast_failover != Some(ClusterHaste::Off),
            forget_after_ms: Some(forget_after).filter(|ms| *ms > 0),
        })
    }

    fn refuse_unknown_clusters(&self) -> Result<(), ConfigError> {
        for table in &self.file.redis {
            let Some(cluster) = &table.cluster else { continue };
            if let Some(group) = &table.group {
                let what =
                    "a Redis belongs to a group or to a cluster: write one of them".to_owned();
                return Err(self.source.contradiction(group, what));
            }
            let words = [
                table.tags.as_ref().map(Spanned::span),
                table.meta.as_ref().map(Spanned::span),
                table.weights.as_ref().map(Spanned::span),
            ];
            if let Some(at) = words.into_iter().flatten().next() {
                let what = "tags, meta and weights are for the instances of a group: the rows of a cluster's nodes have none";
                return Err(self.source.contradiction_at(at.start, what.to_owned()));
            }
            let known = |table: &ClusterTable| table.name.get_ref() == cluster.get_ref();
            if !self.file.cluster.iter().any(known) {
                let name = cluster.get_ref();
                let what = format!(
                    "cluster `{name}` is not configured: add [[cluster]] name = \"{name}\""
                );
                return Err(self.source.contradiction(cluster, what));
            }
        }
        Ok(())
    }

    fn cluster_service(&self, table: &ClusterTable) -> Result<ServiceName, ConfigError> {
        if let Some(service) = &table.service {
            return Ok(service.get_ref().clone());
        }
        let name = table.name.get_ref();
        name.as_str().parse().map_err(|_| {
            let what = format!(
                "cluster `{name}` needs a service name, for DNS has none like it: write service = \"...\""
            );
            self.source.contradiction(&table.name, what)
        })
    }

    /// What publishes one service, or is on one node in Consul, would answer for the other.
    fn refuse_taken_names(
        &self,
        groups: &[GroupConfig],
        clusters: &[ClusterConfig],
    ) -> Result<(), ConfigError> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        owners.insert(sentinel_rows::SERVICE.to_owned(), "the Sentinels".to_owned());
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for group in groups {
            let owner = format!("group `{}`", group.policy.group);
            let services = group.policy.service.all();
            owners.extend(services.map(|name| (name.to_ascii_lowercase(), owner.clone())));
            places.insert(group.layout.node().to_ascii_lowercase(), owner.clone());
            places.insert(group.layout.root(), owner);
        }
        for (cluster, table) in clusters.iter().zip(&self.file.cluster) {
            let ClusterPolicy { name, service, layout, .. } = &cluster.policy;
            let place = |what| Err(self.source.contradiction(&table.name, what));
            let owner = format!("cluster `{name}`");
            let named = |group: &&GroupConfig| {
                group.policy.group.as_str().eq_ignore_ascii_case(name.as_str())
            };
            if let Some(group) = groups.iter().find(named) {
                let group = &group.policy.group;
                return place(format!("{owner} and group `{group}` cannot have one name"));
            }
            for service in [service.as_str().to_owned(), service.primary(), service.replica()] {
                let taken = owners.insert(service.to_ascii_lowercase(), owner.clone());
                if let Some(other) = taken {
                    return place(format!(
                        "{other} and {owner} would both be published as `{service}`"
                    ));
                }
            }
            let clusters = groups.iter().find(|group| group.policy.group.as_str() == CLUSTERS);
            if clusters.is_some() {
                return place(format!(
                    "no group can be called `{CLUSTERS}` beside {owner}: their keys would be below its own"
                ));
            }
            let node = layout.node();
            if let Some(other) = places.insert(node.to_ascii_lowercase(), owner.clone()) {
                return place(format!("{other} and {owner} would both be on node `{node}`"));
            }
        }
        self.refuse_circles(&owners)
    }

    /// Nodes that are found under what is published of them would be found no more once they have left it.
    fn refuse_circles(&self, owners: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        for table in &self.file.cluster {
            let Some(service) = &table.consul_service else { continue };
            let (name, of) = (table.name.get_ref(), service.get_ref());
            if let Some(owner) = owners.get(&of.to_ascii_lowercase()) {
                let what = format!(
                    "cluster `{name}` cannot find its nodes under service `{of}`: that is what agents publish of {owner}"
                );
                return Err(self.source.contradiction(service, what));
            }
        }
        Ok(())
    }
}
