//! What one cluster's `state` key holds: everything that its rows and keys are made from.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::claims::Claims;
use super::migration::SlotMigration;
use super::slots::{SlotRange, count};
use super::table::NodeId;
use crate::brief::unread;
use crate::identity::address::{Address, GroupName, ServiceName, Zone};
use crate::published::pause::{PAUSE, PauseKey, PauseStatus};
use crate::published::projection::Op;
use crate::published::record::decode_form;
use crate::published::store::{AGENTS, ANNOUNCED, Key, Layout};
use crate::time::Mono;

/// Version of the format. A record with a higher one is left alone.
pub const CLUSTER_RECORD_VERSION: u32 = 1;

/// The published truth about one cluster. Its rows and plain keys are a function of this value
/// ([`crate::cluster::rows::project`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Version of the format, [`CLUSTER_RECORD_VERSION`].
    pub v: u32,
    /// The cluster's name in the agents' config.
    pub cluster: GroupName,
    /// The service name that it is published under.
    pub service: ServiceName,
    /// Below which prefix its keys are: what its node in Consul is told apart by.
    pub prefix: String,
    /// +1 whenever a node or a shard changes.
    pub generation: u64,
    /// The id of the agent that wrote this.
    pub by: String,
    /// When this generation began.
    pub since: Timestamp,
    /// What has changed with it, in one line.
    pub why: String,
    /// The primaries that own slots, and vote.
    pub voters: BTreeSet<NodeId>,
    /// Who owns which slots, by the shard's own number, which it keeps when its owner changes.
    pub shards: BTreeMap<u32, ShardRecord>,
    /// The number of the next new shard: no number is used again.
    pub next_shard: u32,
    /// Every member, those in no name too.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Slots that move between two members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrations: Vec<SlotMigration>,
    /// An agent hears no majority of the voters. Another one that hears it takes this out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<Unheard>,
    /// What agents have begun to do to it.
    #[serde(default, skip_serializing_if = "Claims::is_none")]
    pub claims: Claims,
}

/// Who hears no majority, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// The agent.
    pub by: String,
    /// What it hears instead.
    pub why: String,
}

/// The slots that are owned together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The node that a majority gives them to; of slots that have no owner now, the last one.
    pub owner: NodeId,
    /// The epoch of its claim.
    pub epoch: u64,
    /// The slots, in order.
    pub slots: Vec<SlotRange>,
    /// Since when this owner has been seen to have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// What a node is to its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterRole {
    /// It owns the slots.
    Primary,
    /// It follows the owner.
    Replica,
}

impl ClusterRole {
    /// The word of tags and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Where it answers clients, as the voters have it.
    pub address: Address,
    /// What it is to its shard; none of a node that belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<ClusterRole>,
    /// Its shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// The slots that it owns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotRange>,
    /// Whom it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<NodeId>,
    /// The epoch of its shard's owner.
    pub epoch: u64,
    /// It can take requests, and so is in the names.
    pub fit: bool,
    /// Why it was found unfit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The zone of its host, where the agent beside it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Since when all of this is so.
    pub since: Timestamp,
    /// The generation that this began with.
    pub generation: u64,
}

impl NodeRecord {
    /// It says the same of the node. Why it is unfit, agents see differently; that an operator took it out of service,
    /// they do not.
    pub fn is_as(&self, other: &Self) -> bool {
        if self.in_maintenance() != other.in_maintenance() {
            return false;
        }
        let Self { why, since, generation, .. } = other.clone();
        *other == Self { why, since, generation, ..self.clone() }
    }

    /// An operator has taken it out of service.
    pub fn in_maintenance(&self) -> bool {
        !self.fit && self.why.as_deref() == Some(IN_MAINTENANCE)
    }

    /// What it is in the names.
    pub fn serves(&self) -> Option<(ClusterRole, u32)> {
        self.role.zip(self.shard).filter(|_| self.fit)
    }
}

impl ClusterRecord {
    /// It says the same of every node and shard.
    pub fn is_as(&self, other: &Self) -> bool {
        let same = |(id, node): (&NodeId, &NodeRecord)| {
            self.nodes.get(id).is_some_and(|own| own.is_as(node))
        };
        self.shards == other.shards
            && self.voters == other.voters
            && self.nodes.len() == other.nodes.len()
            && other.nodes.iter().all(same)
    }

    /// The names and their rows are the same: what differs can wait.
    pub fn names_as(&self, other: &Self) -> bool {
        fn named(
            record: &ClusterRecord,
        ) -> impl Iterator<Item = (&NodeId, &Address, Option<(ClusterRole, u32)>)> {
            let fit = record.nodes.iter().filter(|(_, node)| node.fit);
            fit.map(|(id, node)| (id, &node.address, node.serves()))
        }
        named(self).eq(named(other))
    }

    /// It is a member, or was one until it was forgotten, by all others or by some.
    pub fn is_own(&self, id: &NodeId) -> bool {
        let Claims { leaving, left, .. } = &self.claims;
        let leaves = leaving.as_ref().is_some_and(|leaving| leaving.id == *id);
        leaves || self.nodes.contains_key(id) || left.contains_key(id)
    }

    /// The nodes of a shard that can take requests as this.
    pub fn serving(&self, shard: u32, role: ClusterRole) -> impl Iterator<Item = &Address> {
        let serves = move |node: &&NodeRecord| node.serves() == Some((role, shard));
        self.nodes.values().filter(serves).map(|node| &node.address)
    }

    /// How many slots have an owner that can take requests.
    pub fn served(&self) -> usize {
        let served = self
            .shards
            .iter()
            .filter(|(number, _)| self.serving(**number, ClusterRole::Primary).next().is_some());
        served.map(|(_, shard)| count(&shard.slots)).sum()
    }
}

/// The name of the key with the nodes in maintenance, below the cluster's root.
pub const MAINTENANCE: &str = "maintenance";
/// Why a node that an operator took out of service is in no name.
pub const IN_MAINTENANCE: &str = "in maintenance";

/// A node that an agent stands beside, below the key `nodes/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedNode {
    /// The agent.
    pub agent: String,
    /// The host that both are on.
    pub host: String,
    /// The zone of that host, where the agent was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
}

/// Where a node is: nodes on one host, or in one zone, may be lost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSite {
    /// The zone, where it is known.
    pub zone: Option<Zone>,
    /// The host, as the agent beside the node calls it, or the node's address.
    pub host: String,
}

impl NodeSite {
    /// Of a node, as its agent says it.
    pub fn of(announced: &BTreeMap<Address, AnnouncedNode>, address: &Address) -> Self {
        let zone = announced.get(address).and_then(|node| node.zone.clone());
        Self { zone, host: host_of(announced, address) }
    }
}

/// The key of a node that an agent stands beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What it says.
    pub node: AnnouncedNode,
    /// Its ModifyIndex.
    pub index: u64,
}

/// The operations that delete a node's key, if it is still as it was read; `None` where another one's name begins with its
/// name, for then both would go.
pub fn retract(
    layout: &Layout,
    all: &BTreeMap<Address, Announcement>,
    address: &Address,
) -> Option<Vec<Op>> {
    let (key, index) = (layout.announced(address), all.get(address)?.index);
    let longer = |other: &Address| *other != *address && layout.announced(other).starts_with(&key);
    let guard = Op::KeyCheckIndex { key: key.clone(), index };
    (!all.keys().any(longer)).then(|| vec![guard, Op::KeyDeleteTree { prefix: key }])
}

/// The host that a node is on: as its agent calls it, or its address.
pub fn host_of(announced: &BTreeMap<Address, AnnouncedNode>, address: &Address) -> String {
    let named = announced.get(address).map(|node| node.host.clone());
    named.unwrap_or_else(|| address.host().to_owned())
}

/// The `state` key of a cluster, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredCluster {
    /// The key does not exist.
    Absent,
    /// A record that this version understands.
    Known(Box<ClusterRecord>),
    /// Something else: a newer version's record, or damage. Never overwritten.
    Unreadable(String),
}

/// What an agent's key says of pauses.
#[derive(Deserialize)]
struct PausingAgent {
    // Agents before this one do not say it.
    #[serde(default)]
    pauses: bool,
}

/// A cluster's keys, read as one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStore {
    /// When it was asked for.
    pub asked: Mono,
    /// The record.
    pub state: StoredCluster,
    /// ModifyIndex of `state`, 0 when it does not exist.
    pub index: u64,
    /// All other keys, by their name below the cluster's root: the plain keys, the history, those of living agents.
    pub plain: BTreeMap<String, String>,
    /// The nodes that agents stand beside that are there.
    pub announced: BTreeMap<Address, AnnouncedNode>,
    /// Every such key: those of agents that are away, too. An address of theirs may be another cluster's by now.
    pub announcements: BTreeMap<Address, Announcement>,
}

impl ClusterStore {
    /// Makes sense of the keys below a cluster's root.
    pub fn from_keys(layout: &Layout, asked: Mono, keys: impl IntoIterator<Item = Key>) -> Self {
        let state = StoredCluster::Absent;
        let (plain, announced, announcements) = Default::default();
        let mut answer = Self { asked, state, index: 0, plain, announced, announcements };
        let root = layout.root();
        for Key { key, value, modify_index, locked } in keys {
            match key.strip_prefix(&root) {
                Some("state") => {
                    answer.index = modify_index;
                    answer.state =
                        match decode_form(&value, CLUSTER_RECORD_VERSION, "a cluster's record") {
                            Ok(record) => StoredCluster::Known(Box::new(record)),
                            Err(error) => StoredCluster::Unreadable(error),
                        };
                }
                Some(name) if name.starts_with(ANNOUNCED) => {
                    let address = name.strip_prefix(ANNOUNCED).and_then(|at| at.parse().ok());
                    let node = serde_json::from_slice(&value).ok();
                    let found = node.map(|node| Announcement { node, index: modify_index });
                    answer.announcements.extend(address.zip(found));
                }
                // The key of an agent whose session is gone is about to go too.
                Some(name) if name.starts_with(AGENTS) && !locked => {}
                Some(name) => {
                    let text = String::from_utf8_lossy(&value).into_owned();
                    answer.plain.insert(name.to_owned(), text);
                }
                None => {}
            }
        }
        let there: BTreeSet<&str> = answer.agents().collect();
        let counts =
            |(_, found): &(&Address, &Announcement)| there.contains(found.node.agent.as_str());
        let announced = answer.announcements.iter().filter(counts);
        let announced = announced.map(|(at, found)| (at.clone(), found.node.clone())).collect();
        answer.announced = announced;
        answer
    }

    /// The nodes in maintenance, with the `cluster-replica-no-failover` that each had before: `yes` or `no`.
    ///
    /// # Errors
    /// Why the key cannot be read.
    pub fn maintenance(&self) -> Result<BTreeMap<NodeId, String>, String> {
        let Some(text) = self.plain.get(MAINTENANCE) else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|error| unread(&error))
    }

    /// What the key `pause` says.
    pub fn pause(&self) -> PauseKey {
        let text = self.plain.get(PAUSE);
        text.map_or(PauseKey::Absent, |text| PauseKey::read(text.as_bytes()))
    }

    /// The pause that is on now.
    pub fn paused(&self, now: Timestamp) -> Option<PauseStatus> {
        let knows = |name: &str| {
            let text = self.plain.get(&format!("{AGENTS}{name}"));
            let value = text.and_then(|text| serde_json::from_str::<PausingAgent>(text).ok());
            value.is_some_and(|value| value.pauses)
        };
        self.pause().on(now, self.agents().filter(|name| !knows(name)))
    }

    /// The keys of agents that are away.
    pub fn unattended(&self) -> impl Iterator<Item = (&Address, u64)> {
        let away = |(at, _): &(&Address, &Announcement)| !self.announced.contains_key(*at);
        self.announcements.iter().filter(away).map(|(at, found)| (at, found.index))
    }

    /// The agents that watch the cluster now.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.plain.keys().filter_map(|name| name.strip_prefix(AGENTS))
    }

    /// The record, where there is one that can be read.
    pub fn record(&self) -> Option<&ClusterRecord> {
        match &self.state {
            StoredCluster::Known(record) => Some(record),
            StoredCluster::Absent | StoredCluster::Unreadable(_) => None,
        }
    }
}
