//! From a cluster's record to what a template sees of it. Pure: values in, values out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::endpoint::Endpoint;
use crate::config::file::OnNoWriter;
use crate::core::cluster::record::{ClusterRecord, ClusterRole, NodeRecord};
use crate::core::identity::address::Address;

/// What is known of one cluster.
#[derive(Debug, Clone)]
pub struct KnownCluster {
    /// What was read last, or why nothing was.
    latest: Result<Arc<ClusterRecord>, String>,
    /// The last primary of each shard.
    primaries: BTreeMap<u32, Address>,
    /// The last nodes that could take requests.
    seeds: BTreeSet<Address>,
}

/// One cluster as a template sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterValue {
    /// What the config calls it.
    pub name: String,
    /// What Consul calls it.
    pub service: String,
    /// Every node that can take requests, in the order of their addresses: what clients begin with.
    pub seeds: Vec<Endpoint>,
    /// Its shards, by their numbers.
    pub shards: Vec<ShardValue>,
    /// The zone of each node, by its address; none where it is not known.
    pub zones: BTreeMap<String, Option<String>>,
    /// Slots with a primary, of 16384.
    pub slots_served: usize,
    /// +1 with each change.
    pub generation: u64,
    /// When the generation began (RFC 3339).
    pub since: String,
    /// What changed with it, in one line.
    pub why: String,
}

/// One shard of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardValue {
    /// Its number, which it keeps when a replica takes over.
    pub number: u32,
    /// Its slots, as ranges: `0-5460`.
    pub slots: Vec<String>,
    /// Its primary; none while none can take requests.
    pub primary: Option<Endpoint>,
    /// Its replicas that serve reads, in the order of their addresses.
    pub replicas: Vec<Endpoint>,
}

impl KnownCluster {
    /// Nothing is known of it.
    pub fn unread() -> Self {
        let latest = Err("Consul has not been read yet".to_owned());
        Self { latest, primaries: BTreeMap::new(), seeds: BTreeSet::new() }
    }

    /// The generation that was read last.
    pub fn generation(&self) -> Option<u64> {
        self.latest.as_ref().ok().map(|record| record.generation)
    }

    /// Takes in a record. Whether it is another one.
    pub fn learn(&mut self, record: ClusterRecord) -> bool {
        if self.latest.as_ref().is_ok_and(|latest| **latest == record) {
            return false;
        }
        for number in record.shards.keys() {
            if let Some(primary) = record.serving(*number, ClusterRole::Primary).next() {
                self.primaries.insert(*number, primary.clone());
            }
        }
        self.primaries.retain(|number, _| record.shards.contains_key(number));
        let seeds = seeds(&record);
        if !seeds.is_empty() {
            self.seeds = seeds;
        }
        self.latest = Ok(Arc::new(record));
        true
    }

    /// Takes in that there is no record to be read. What was read before stays. Whether that is news.
    pub fn miss(&mut self, why: &str) -> bool {
        match &mut self.latest {
            Err(before) if before != why => {
                *before = why.to_owned();
                true
            }
            _ => false,
        }
    }

    /// What a template sees. A shard without a primary keeps its last one, and a cluster without nodes its last ones,
    /// unless the template is to see that there are none.
    ///
    /// # Errors
    /// Why it cannot be shown.
    pub fn value(&self, on_no_writer: OnNoWriter) -> Result<ClusterValue, String> {
        let record = self.latest.as_ref().map_err(Clone::clone)?;
        let kept = |number: &u32| match on_no_writer {
            OnNoWriter::Render => Ok(None),
            OnNoWriter::Keep => match self.primaries.get(number) {
                Some(last) => Ok(Some(last)),
                None => Err(format!("shard {number} has no primary: {}", record.why)),
            },
        };
        let shards = record.shards.iter().map(|(number, shard)| {
            let primary = match record.serving(*number, ClusterRole::Primary).next() {
                Some(primary) => Some(primary),
                None => kept(number)?,
            };
            let replicas: BTreeSet<&Address> =
                record.serving(*number, ClusterRole::Replica).collect();
            Ok(ShardValue {
                number: *number,
                slots: shard.slots.iter().map(ToString::to_string).collect(),
                primary: primary.map(Endpoint::of),
                replicas: replicas.into_iter().map(Endpoint::of).collect(),
            })
        });
        let shards: Vec<ShardValue> = shards.collect::<Result<_, String>>()?;
        let now = seeds(record);
        let seeds = match on_no_writer {
            OnNoWriter::Keep if now.is_empty() => &self.seeds,
            OnNoWriter::Keep | OnNoWriter::Render => &now,
        };
        let mut zones = zones(record);
        // One that is kept may be no member any more.
        let shown = shards.iter().filter_map(|shard| shard.primary.as_ref());
        let shown = shown.map(|at| at.address.clone());
        for at in shown.chain(seeds.iter().map(ToString::to_string)) {
            zones.entry(at).or_insert(None);
        }
        Ok(ClusterValue {
            name: record.cluster.to_string(),
            service: record.service.to_string(),
            seeds: seeds.iter().map(Endpoint::of).collect(),
            shards,
            zones,
            slots_served: record.served(),
            generation: record.generation,
            since: record.since.to_string(),
            why: record.why.clone(),
        })
    }
}

fn zones(record: &ClusterRecord) -> BTreeMap<String, Option<String>> {
    let zone = |node: &NodeRecord| node.zone.as_ref().map(ToString::to_string);
    record.nodes.values().map(|node| (node.address.to_string(), zone(node))).collect()
}

fn seeds(record: &ClusterRecord) -> BTreeSet<Address> {
    let fit = record.nodes.values().filter(|node| node.serves().is_some());
    fit.map(|node| node.address.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::context::GroupRecords;
    use super::super::engine::render;
    use super::*;

    /// A record of two shards as it stands in Consul; these nodes of `a`, `b` (owners), `c` and `d` are fit.
    fn record(generation: u64, owner_of_first: &str, fit: &str) -> ClusterRecord {
        let id = |name: &str| name.repeat(40);
        let node = |name: &str, last: u8, shard: u32, owner: &str| {
            let role = if name == owner { "primary" } else { "replica" };
            let value = json!({"address": format!("10.0.0.{last}:6379"), "role": role, "shard": shard,
                "epoch": 1, "fit": fit.contains(name), "since": "2026-11-21T00:00:00Z", "generation": 1});
            (id(name), value)
        };
        let nodes = [
            node("a", 1, 1, owner_of_first),
            node("c", 3, 1, owner_of_first),
            node("b", 2, 2, "b"),
            node("d", 10, 2, "b"),
        ];
        let nodes: serde_json::Map<String, Value> = nodes.into_iter().collect();
        let value = json!({
            "v": 1, "cluster": "orders", "service": "orders", "prefix": "redis-ha/cluster",
            "generation": generation, "by": "agent-0", "since": "2026-11-21T00:00:00Z", "why": "a test",
            "voters": [id(owner_of_first), id("b")], "next_shard": 3, "nodes": nodes,
            "shards": {
                "1": {"owner": id(owner_of_first), "epoch": 1, "slots": ["0-8191"]},
                "2": {"owner": id("b"), "epoch": 2, "slots": ["8192-16383"]},
            },
        });
        serde_json::from_value(value).unwrap()
    }

    fn known(records: impl IntoIterator<Item = ClusterRecord>) -> GroupRecords {
        let name = "orders".parse().unwrap();
        let mut picture = GroupRecords::new([]).with_clusters([name]);
        for record in records {
            let name = record.cluster.clone();
            assert!(picture.learn_cluster(&name, record));
        }
        picture
    }

    fn primaries(picture: &GroupRecords, on_no_writer: OnNoWriter) -> Vec<Option<String>> {
        let context = picture.context(on_no_writer).unwrap();
        let shards = context.clusters["orders"].shards.iter();
        shards.map(|shard| shard.primary.as_ref().map(|at| at.host.clone())).collect()
    }

    fn template(name: &str) -> String {
        let path = format!("{}/templates/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_cluster_is_seen_with_its_shards_and_seeds_in_order() {
        let picture = known([record(1, "a", "abcd")]);
        let context = picture.context(OnNoWriter::Keep).unwrap();
        let seen = &context.clusters["orders"];
        let seeds: Vec<&str> = seen.seeds.iter().map(|at| at.host.as_str()).collect();
        assert_eq!(seeds, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.10"]);
        assert_eq!(
            (seen.slots_served, &seen.shards[1].slots[..]),
            (16_384, &["8192-16383".to_owned()][..])
        );
        assert_eq!(seen.shards[0].replicas[0].address, "10.0.0.3:6379");
        assert_eq!(context.writers().len(), 2);
    }

    #[test]
    fn a_template_sees_the_zone_of_each_node_that_has_one() {
        let mut zoned = record(1, "a", "abcd");
        for (host, zone) in [("10.0.0.1", "eu-1a"), ("10.0.0.3", "eu-1b"), ("10.0.0.2", "eu-1b")] {
            let node = zoned.nodes.values_mut().find(|node| node.address.host() == host);
            node.unwrap().zone = Some(zone.parse().unwrap());
        }
        let context = known([zoned]).context(OnNoWriter::Keep).unwrap();
        let near = "{% set cluster = clusters[\"orders\"] %}{% for shard in cluster.shards %}{% for at in shard.replicas if \
                    cluster.zones[at.address] == \"eu-1b\" %}{{ at.address }}{% endfor %}{% endfor %}";
        assert_eq!(render("near", near, &context).unwrap(), "10.0.0.3:6379");
        let of = "{{ clusters[\"orders\"].zones[\"10.0.0.10:6379\"] or \"no zone\" }}";
        assert_eq!(render("of", of, &context).unwrap(), "no zone");
    }

    /// The other shards go on, as other groups do.
    #[test]
    fn a_shard_without_a_primary_keeps_its_last_one_unless_it_is_to_be_seen() {
        let mut picture = known([record(1, "a", "abcd"), record(2, "a", "bcd")]);
        let first = Some("10.0.0.1".to_owned());
        let second = Some("10.0.0.2".to_owned());
        assert_eq!(primaries(&picture, OnNoWriter::Keep), [first, second.clone()]);
        assert_eq!(primaries(&picture, OnNoWriter::Render), [None, second.clone()]);
        assert!(picture.learn_cluster(&"orders".parse().unwrap(), record(3, "c", "bcd")));
        let next = [Some("10.0.0.3".to_owned()), second];
        assert_eq!(primaries(&picture, OnNoWriter::Keep), next);
        assert!(!picture.learn_cluster(&"orders".parse().unwrap(), record(3, "c", "bcd")));
    }

    #[test]
    fn what_was_never_there_is_waited_for() {
        let mut picture = known([]);
        let name = "orders".parse().unwrap();
        let missing = picture.context(OnNoWriter::Render).unwrap_err();
        assert_eq!(missing.to_string(), "orders: Consul has not been read yet");
        assert!(picture.miss_cluster(&name, "nothing was ever published"));
        assert!(!picture.miss_cluster(&name, "nothing was ever published"));
        assert!(picture.learn_cluster(&name, record(1, "a", "bcd")));
        let missing = picture.context(OnNoWriter::Keep).unwrap_err();
        assert_eq!(missing.to_string(), "orders: shard 1 has no primary: a test");
        assert!(picture.context(OnNoWriter::Render).is_ok());
        assert!(!picture.miss_cluster(&name, "gone"), "what was read stays");
    }

    #[test]
    fn without_any_node_the_last_seeds_stay() {
        let picture = known([record(1, "a", "abcd"), record(2, "a", "")]);
        let seeds = |on| picture.context(on).unwrap().clusters["orders"].seeds.len();
        assert_eq!((seeds(OnNoWriter::Keep), seeds(OnNoWriter::Render)), (4, 0));
    }

    #[test]
    fn our_templates_make_seeds_aliases_and_proxies_of_it() {
        let context = known([record(1, "a", "abcd")]).context(OnNoWriter::Keep).unwrap();
        let rendered = |name: &str| render(name, &template(name), &context).unwrap();
        let env = rendered("cluster.env.j2");
        assert!(
            env.contains("ORDERS_SEEDS=10.0.0.1:6379,10.0.0.2:6379,10.0.0.3:6379,10.0.0.10:6379\n"),
            "{env}"
        );
        let json: Value = serde_json::from_str(&rendered("cluster.json.j2")).unwrap();
        assert_eq!(json["orders"]["seeds"][0], json!({"host": "10.0.0.1", "port": 6379}));
        assert_eq!(json["orders"]["shards"][1]["primary"], "10.0.0.2:6379");
        let aliases = rendered("cluster-aliases.sh.j2");
        assert!(
            aliases.contains("alias redis-cli-orders='redis-cli -c -h 10.0.0.1 -p 6379'\n"),
            "{aliases}"
        );
        assert!(
            aliases.contains("alias redis-cli-orders-shard-2='redis-cli -h 10.0.0.2 -p 6379'\n"),
            "{aliases}"
        );
        let proxy = rendered("haproxy-cluster.cfg.j2");
        assert!(proxy.contains("listen orders-shard-1-primary\n"), "{proxy}");
        assert!(proxy.contains("    server primary 10.0.0.2:6379\n"), "{proxy}");
        let without = known([record(1, "a", "bcd")]).context(OnNoWriter::Render).unwrap();
        let name = "cluster-aliases.sh.j2";
        let aliases = render(name, &template(name), &without).unwrap();
        assert!(aliases.contains("alias redis-cli-orders-shard-1='echo"), "{aliases}");
    }
}
