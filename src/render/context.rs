//! From the records of groups and clusters to what a template sees. Pure: values in, values out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::clusters::{ClusterValue, KnownCluster};
use super::endpoint::Endpoint;
use crate::config::file::OnNoWriter;
use crate::core::cluster::record::ClusterRecord;
use crate::core::identity::address::GroupName;
use crate::core::published::record::{PublishedRole, Record};

/// What is known of every group and cluster that templates see.
#[derive(Debug, Clone)]
pub struct GroupRecords {
    groups: BTreeMap<GroupName, KnownRecord>,
    clusters: BTreeMap<GroupName, KnownCluster>,
}

#[derive(Debug, Clone)]
enum KnownRecord {
    /// It was not read yet, or there is nothing to read: why.
    Nothing(String),
    /// What was read last.
    Read {
        latest: Arc<Record>,
        /// When it last had a writer.
        with_writer: Option<Arc<Record>>,
    },
}

/// A group or a cluster that a template cannot be rendered without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{group}: {why}")]
pub struct Missing {
    /// Its name.
    pub group: GroupName,
    /// Why it cannot be shown.
    pub why: String,
}

/// What a template sees: `groups` and `clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Context {
    /// Every group by its name.
    pub groups: BTreeMap<String, GroupValue>,
    /// Every Redis Cluster by its name.
    pub clusters: BTreeMap<String, ClusterValue>,
}

impl Context {
    /// Each group's writer, by the group's name; and the primary of each shard of each cluster.
    pub fn writers(&self) -> BTreeMap<String, Option<String>> {
        let writer = |group: &GroupValue| group.writer.as_ref().map(|at| at.address.clone());
        let groups = self.groups.iter().map(|(name, group)| (name.clone(), writer(group)));
        let shards = self.clusters.iter().flat_map(|(name, cluster)| {
            cluster.shards.iter().map(move |shard| {
                let primary = shard.primary.as_ref().map(|at| at.address.clone());
                // No group's name has a slash.
                (format!("{name}/{}", shard.number), primary)
            })
        });
        groups.chain(shards).collect()
    }
}

/// One group as a template sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupValue {
    /// What Sentinel calls it.
    pub name: String,
    /// What Consul calls it.
    pub service: String,
    /// The writer; none while there is no writer.
    pub writer: Option<Endpoint>,
    /// The replicas in sync, in the order of their addresses.
    pub replicas: Vec<Endpoint>,
    /// +1 whenever the writer changes.
    pub generation: u64,
    /// When the generation began (RFC 3339).
    pub since: String,
    /// Why, in one sentence.
    pub why: String,
    /// All instances, in the order of their addresses.
    pub instances: Vec<InstanceValue>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceValue {
    /// `host:port`, or `[v6]:port`.
    pub address: String,
    /// The host, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// `primary`, `replica`, `out-of-sync`, `down` or `maintenance`.
    pub role: PublishedRole,
}

impl GroupRecords {
    /// Nothing is known of these groups yet.
    pub fn new(groups: impl IntoIterator<Item = GroupName>) -> Self {
        let nothing = || KnownRecord::Nothing("Consul has not been read yet".to_owned());
        let groups = groups.into_iter().map(|group| (group, nothing())).collect();
        Self { groups, clusters: BTreeMap::new() }
    }

    /// Nor of these clusters.
    #[must_use]
    pub fn with_clusters(mut self, clusters: impl IntoIterator<Item = GroupName>) -> Self {
        let unread = clusters.into_iter().map(|cluster| (cluster, KnownCluster::unread()));
        self.clusters.extend(unread);
        self
    }

    /// The generation of a cluster that was read last.
    pub fn cluster_generation(&self, cluster: &GroupName) -> Option<u64> {
        self.clusters.get(cluster)?.generation()
    }

    /// Takes in a cluster's record. Whether a template may see a difference.
    pub fn learn_cluster(&mut self, cluster: &GroupName, record: ClusterRecord) -> bool {
        self.clusters.get_mut(cluster).is_some_and(|known| known.learn(record))
    }

    /// Takes in that there is no record of a cluster to be read, as [`Self::miss`].
    pub fn miss_cluster(&mut self, cluster: &GroupName, why: &str) -> bool {
        self.clusters.get_mut(cluster).is_some_and(|known| known.miss(why))
    }

    /// The generation that was read last.
    pub fn generation(&self, group: &GroupName) -> Option<u64> {
        match self.groups.get(group)? {
            KnownRecord::Nothing(_) => None,
            KnownRecord::Read { latest, .. } => Some(latest.generation),
        }
    }

    /// Takes in a record. Whether a template may see a difference.
    pub fn learn(&mut self, group: &GroupName, record: Record) -> bool {
        let Some(known) = self.groups.get_mut(group) else { return false };
        let record = Arc::new(record);
        let before = match known {
            KnownRecord::Read { latest, .. } if **latest == *record => return false,
            KnownRecord::Read { with_writer, .. } => with_writer.clone(),
            KnownRecord::Nothing(_) => None,
        };
        let with_writer = if record.writer.is_some() { Some(record.clone()) } else { before };
        *known = KnownRecord::Read { latest: record, with_writer };
        true
    }

    /// Takes in that there is no record to be read. What was read before stays: unknown is not gone. Whether that
    /// is news.
    pub fn miss(&mut self, group: &GroupName, why: &str) -> bool {
        match self.groups.get_mut(group) {
            Some(KnownRecord::Nothing(before)) if before != why => {
                *before = why.to_owned();
                true
            }
            _ => false,
        }
    }

    /// What a template sees.
    ///
    /// # Errors
    /// [`Missing`]: the first group or cluster that nothing is known of; or that never had a writer, or a primary for each
    /// shard, where it must have one.
    pub fn context(&self, on_no_writer: OnNoWriter) -> Result<Context, Missing> {
        let shown = |(group, known): (&GroupName, &KnownRecord)| {
            let missing = |why: String| Missing { group: group.clone(), why };
            let record = match (known, on_no_writer) {
                (KnownRecord::Nothing(why), _) => return Err(missing(why.clone())),
                (KnownRecord::Read { latest, .. }, OnNoWriter::Render) => latest,
                (KnownRecord::Read { latest, with_writer }, OnNoWriter::Keep) => with_writer
                    .as_ref()
                    .ok_or_else(|| missing(format!("there is no writer: {}", latest.why)))?,
            };
            Ok((group.to_string(), GroupValue::of(record)))
        };
        let cluster = |(cluster, known): (&GroupName, &KnownCluster)| {
            let missing = |why: String| Missing { group: cluster.clone(), why };
            Ok((cluster.to_string(), known.value(on_no_writer).map_err(missing)?))
        };
        Ok(Context {
            groups: self.groups.iter().map(shown).collect::<Result<_, _>>()?,
            clusters: self.clusters.iter().map(cluster).collect::<Result<_, _>>()?,
        })
    }
}

impl GroupValue {
    fn of(record: &Record) -> Self {
        let mut instances: Vec<_> = record.instances.iter().collect();
        instances.sort_by(|a, b| a.address.cmp(&b.address));
        let replicas = instances.iter().filter(|i| i.role == PublishedRole::Replica);
        Self {
            name: record.group.to_string(),
            service: record.service.to_string(),
            writer: record.writer_address().map(Endpoint::of),
            replicas: replicas.map(|instance| Endpoint::of(&instance.address)).collect(),
            generation: record.generation,
            since: record.since.to_string(),
            why: record.why.clone(),
            instances: instances
                .iter()
                .map(|instance| {
                    let Endpoint { address, host, port } = Endpoint::of(&instance.address);
                    InstanceValue { address, host, port, role: instance.role }
                })
                .collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as it stands in Consul.
    pub fn record(group: &str, generation: u64, writer: Option<&str>) -> Record {
        let side =
            |address: &str| serde_json::json!({"address": address, "replid": "a".repeat(40)});
        let role = |a: &str| if Some(a) == writer { "primary" } else { "replica" };
        let instances = ["10.0.0.10:1", "10.0.0.9:1"]
            .map(|address| serde_json::json!({"address": address, "role": role(address)}));
        let value = serde_json::json!({
            "v": 1, "group": group, "service": group, "generation": generation, "nonce": "n", "by": "a",
            "writer": writer.map(side), "last_writer": null,
            "evidence": {"level": "quorum", "config_epoch": 1, "confirmed_epoch": 1, "votes": 3,
                         "known": 3, "sentinel": null},
            "since": "2026-11-21T00:00:00Z", "why": "a test", "instances": instances, "sentinels": [],
        });
        serde_json::from_value(value).unwrap()
    }

    fn name(text: &str) -> GroupName {
        text.parse().unwrap()
    }

    fn writers(context: &Context) -> Vec<Option<String>> {
        context.groups.values().map(|g| g.writer.as_ref().map(|w| w.address.clone())).collect()
    }

    #[test]
    fn nothing_is_shown_before_every_group_was_read() {
        let mut picture = GroupRecords::new([name("a"), name("b")]);
        let missing = picture.context(OnNoWriter::Render).unwrap_err();
        assert_eq!(missing.to_string(), "a: Consul has not been read yet");
        assert!(picture.learn(&name("a"), record("a", 1, Some("10.0.0.9:1"))));
        assert!(picture.miss(&name("b"), "nothing was ever published"));
        assert!(!picture.miss(&name("b"), "nothing was ever published"));
        let missing = picture.context(OnNoWriter::Render).unwrap_err();
        assert_eq!(missing.to_string(), "b: nothing was ever published");
        assert!(picture.learn(&name("b"), record("b", 1, Some("10.0.0.10:1"))));
        let context = picture.context(OnNoWriter::Keep).unwrap();
        assert_eq!(
            writers(&context),
            [Some("10.0.0.9:1".to_owned()), Some("10.0.0.10:1".to_owned())]
        );
        assert!(!picture.learn(&name("other"), record("other", 1, None)));
    }

    #[test]
    fn what_was_read_stays_when_it_cannot_be_read_again() {
        let mut picture = GroupRecords::new([name("a")]);
        picture.learn(&name("a"), record("a", 1, Some("10.0.0.9:1")));
        assert!(!picture.miss(&name("a"), "gone"));
        assert!(!picture.learn(&name("a"), record("a", 1, Some("10.0.0.9:1"))), "no news");
        assert_eq!(writers(&picture.context(OnNoWriter::Render).unwrap()).len(), 1);
    }

    #[test]
    fn a_group_without_a_writer_stays_as_it_was_and_others_go_on() {
        let mut picture = GroupRecords::new([name("a"), name("b")]);
        picture.learn(&name("a"), record("a", 1, Some("10.0.0.9:1")));
        picture.learn(&name("b"), record("b", 1, Some("10.0.0.9:1")));
        assert!(picture.learn(&name("a"), record("a", 2, None)));
        picture.learn(&name("b"), record("b", 2, Some("10.0.0.10:1")));
        let kept = picture.context(OnNoWriter::Keep).unwrap();
        assert_eq!(writers(&kept), [Some("10.0.0.9:1".to_owned()), Some("10.0.0.10:1".to_owned())]);
        assert_eq!(kept.groups["a"].generation, 1, "all of it is as it was");
        let shown = picture.context(OnNoWriter::Render).unwrap();
        assert_eq!(writers(&shown), [None, Some("10.0.0.10:1".to_owned())]);
        assert_eq!(picture.generation(&name("a")), Some(2));
    }

    #[test]
    fn a_group_that_never_had_a_writer_is_waited_for() {
        let mut picture = GroupRecords::new([name("a")]);
        picture.learn(&name("a"), record("a", 1, None));
        let missing = picture.context(OnNoWriter::Keep).unwrap_err();
        assert_eq!(missing.to_string(), "a: there is no writer: a test");
        assert!(picture.context(OnNoWriter::Render).is_ok());
    }

    #[test]
    fn replicas_and_instances_are_in_numeric_order() {
        let mut picture = GroupRecords::new([name("a")]);
        picture.learn(&name("a"), record("a", 1, None));
        let context = picture.context(OnNoWriter::Render).unwrap();
        let hosts: Vec<&str> =
            context.groups["a"].replicas.iter().map(|r| r.host.as_str()).collect();
        assert_eq!(hosts, ["10.0.0.9", "10.0.0.10"]);
    }
}
