//! What operators are told of a cluster: what its record says, and what an agent hears besides.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::history::{ClusterChange, changes_of};
use super::migration::SlotMigration;
use super::record::{
    ClusterRecord, ClusterRole, ClusterStore, IN_MAINTENANCE, NodeRecord, StoredCluster,
};
use super::renewal::ClusterPolicy;
use super::rows::project;
use super::slots::{SLOTS, SlotRange, in_words};
use super::table::NodeId;
use crate::identity::address::{Address, GroupName, Zone};
use crate::known::observed::{ProcessState, RowsAnswer};
use crate::published::pause::PauseStatus;
use crate::published::projection::differences;

/// Nodes that one problem names.
const NAMED_MAX: usize = 5;

/// What `status` and the page show of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// The cluster's name in the agents' config.
    pub cluster: GroupName,
    /// The name that DNS answers with every node that can take requests.
    pub name: String,
    /// Every slot has a published primary, what Consul shows agrees, and an agent watches.
    pub healthy: bool,
    /// It is healthy, and survives less than it could: a node is in no name, or a shard has no replica.
    pub degraded: bool,
    /// Consul has been read.
    pub consul_read: bool,
    /// What is wrong, worst first.
    pub problems: Vec<ClusterProblem>,
    /// The generation; 0 before the first publication.
    pub generation: u64,
    /// When the generation began.
    pub since: Option<Timestamp>,
    /// The agent that wrote it.
    pub by: Option<String>,
    /// What has changed with it, in one line.
    pub why: Option<String>,
    /// Slots with a published primary, of 16384.
    pub slots_served: usize,
    /// The primaries that own slots, and vote; 0 before the first publication.
    pub voters: usize,
    /// How many of them answer; `None` where that was not asked (`status` reads Consul alone).
    pub voters_answering: Option<usize>,
    /// Who serves which slots, by the shard's number.
    pub shards: Vec<ShardStatus>,
    /// The members that are in no name.
    pub unfit: Vec<UnfitMember>,
    /// The zones of members, where they are known.
    pub zones: BTreeMap<Address, Zone>,
    /// The nodes of this host, where their end is to be acted on at once (`fast_failover`): `at once`, or why it would not
    /// be seen.
    pub ends_seen: BTreeMap<Address, String>,
    /// The agents that watch the cluster.
    pub agents: Vec<String>,
    /// What agents have begun to do to the nodes, in words.
    pub under_way: Vec<String>,
    /// Slots that move between two members.
    pub migrations: Vec<MigrationStatus>,
    /// The pause that an operator has asked for, while it is on.
    pub pause: Option<PauseStatus>,
    /// The last changes, newest first.
    pub history: Vec<ClusterChange>,
}

/// One shard, as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardStatus {
    /// Its number: that of the tag `shard-N`.
    pub shard: u32,
    /// The slots, in order.
    pub slots: Vec<SlotRange>,
    /// The epoch of its owner's claim.
    pub epoch: u64,
    /// Its primary, where that can take requests.
    pub primary: Option<Address>,
    /// Its replicas that serve reads.
    pub replicas: Vec<Address>,
}

/// Slots that move between two members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationStatus {
    /// The slots, in order.
    pub slots: Vec<SlotRange>,
    /// The member that has had them: its address, or where that is not recorded its id.
    pub from: String,
    /// The member that gets them, likewise.
    pub to: String,
}

/// A member that is in no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnfitMember {
    /// Where the voters have it.
    pub address: Address,
    /// Its id.
    pub id: NodeId,
    /// Its shard, where it belongs to one.
    pub shard: Option<u32>,
    /// What it is to its shard.
    pub role: Option<ClusterRole>,
    /// Why it is in no name.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// One problem of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterProblem {
    /// Which kind of problem.
    pub code: ClusterProblemCode,
    /// In words, with the nodes in question.
    pub text: String,
}

/// The kinds of things that can be wrong with a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterProblemCode {
    /// The key `state` is damaged, or a newer version wrote it.
    StateUnreadable,
    /// Nothing was ever published.
    NothingPublished,
    /// Slots have no published primary.
    SlotsUnserved,
    /// An agent hears no majority of the voters.
    NoMajority,
    /// Nothing enters the names: what the nodes say is not followed.
    Held,
    /// No agent watches the cluster: what is published may be old.
    NoAgents,
    /// Rows or keys in Consul are not what the record implies.
    Drift,
    /// Another program has the cluster's node in Consul.
    ForeignNode,
    /// Consul refuses what an agent needs.
    ConsulRefuses,
    /// The login to Consul fails.
    ConsulLogin,
    /// Members are in no name.
    NodesUnfit,
    /// A shard has no published replica.
    NoReplica,
    /// What is wanted of the nodes cannot be done.
    LeftUndone,
    /// An operator has paused the cluster.
    Paused,
    /// Consul has not been read.
    ConsulUnread,
}

impl ClusterProblemCode {
    /// All codes.
    pub const ALL: [Self; 15] = [
        Self::StateUnreadable,
        Self::NothingPublished,
        Self::SlotsUnserved,
        Self::NoMajority,
        Self::Held,
        Self::NoAgents,
        Self::Drift,
        Self::ForeignNode,
        Self::ConsulRefuses,
        Self::ConsulLogin,
        Self::NodesUnfit,
        Self::NoReplica,
        Self::LeftUndone,
        Self::Paused,
        Self::ConsulUnread,
    ];

    /// As it stands in JSON and in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StateUnreadable => "state-unreadable",
            Self::NothingPublished => "nothing-published",
            Self::SlotsUnserved => "slots-unserved",
            Self::NoMajority => "no-majority",
            Self::Held => "held",
            Self::NoAgents => "no-agents",
            Self::Drift => "drift",
            Self::ForeignNode => "foreign-node",
            Self::ConsulRefuses => "consul-refuses",
            Self::ConsulLogin => "consul-login",
            Self::NodesUnfit => "nodes-unfit",
            Self::NoReplica => "no-replica",
            Self::LeftUndone => "left-undone",
            Self::Paused => "paused",
            Self::ConsulUnread => "consul-unread",
        }
    }

    /// With nothing worse the cluster works.
    pub fn only_degrades(self) -> bool {
        use ClusterProblemCode::{ConsulLogin, LeftUndone, NoReplica, NodesUnfit, Paused};
        matches!(self, NodesUnfit | NoReplica | LeftUndone | Paused | ConsulLogin)
    }

    /// A problem of this kind.
    pub fn says(self, text: impl Into<String>) -> ClusterProblem {
        ClusterProblem { code: self, text: text.into() }
    }
}

/// What a running agent knows besides the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentHears {
    /// Voters that answer it; 0 where it hears no majority.
    pub answering: usize,
    /// Why nothing enters the names, or nothing is published.
    pub held: Option<String>,
    /// What is wanted of the nodes and not done, and why.
    pub left_undone: Option<String>,
}

/// What is shown of a cluster. `store` is `None` until Consul is read; `rows` are compared with the record where they were
/// read after it; `hears` is what a running agent knows besides.
pub fn cluster_status(
    policy: &ClusterPolicy,
    store: Option<&ClusterStore>,
    rows: Option<&RowsAnswer>,
    hears: Option<&AgentHears>,
) -> ClusterStatus {
    let record = store.and_then(ClusterStore::record);
    let service = record.map_or(&policy.service, |record| &record.service);
    let own = hears.map(|_| policy.agent.as_str());
    let agents = store.into_iter().flat_map(ClusterStore::agents).chain(own);
    let agents: BTreeSet<String> = agents.map(str::to_owned).collect();
    let mut status = ClusterStatus {
        cluster: policy.name.clone(),
        name: format!("{service}.service.consul"),
        healthy: false,
        degraded: false,
        consul_read: store.is_some(),
        problems: Vec::new(),
        generation: record.map_or(0, |record| record.generation),
        since: record.map(|record| record.since),
        by: record.map(|record| record.by.clone()),
        why: record.map(|record| record.why.clone()),
        slots_served: record.map_or(0, ClusterRecord::served),
        voters: record.map_or(0, |record| record.voters.len()),
        voters_answering: hears.map(|hears| hears.answering),
        shards: record.map(shards).unwrap_or_default(),
        unfit: record.map(unfit).unwrap_or_default(),
        zones: record.map(zones).unwrap_or_default(),
        ends_seen: BTreeMap::new(),
        agents: agents.into_iter().collect(),
        under_way: record.map(|record| record.claims.in_words()).unwrap_or_default(),
        migrations: record.map(migrations).unwrap_or_default(),
        pause: None,
        history: store.map(changes_of).unwrap_or_default(),
    };
    let mut problems = problems(policy, store, rows, &status);
    problems.extend(hears.and_then(|hears| held(hears, &status)));
    let left = hears.and_then(|hears| hears.left_undone.clone());
    problems.extend(left.map(|text| ClusterProblemCode::LeftUndone.says(text)));
    status.add(problems);
    status
}

impl ClusterStatus {
    /// A member's address, with its zone where that is known.
    pub fn placed(&self, address: &Address) -> String {
        match self.zones.get(address) {
            Some(zone) => format!("{address} ({zone})"),
            None => address.to_string(),
        }
    }

    /// Takes what the kernel tells of this host's nodes.
    pub fn note_ends(&mut self, processes: &BTreeMap<Address, ProcessState>) {
        let seen = |(at, state): (&Address, &ProcessState)| {
            Some((at.clone(), state.end_seen()?.to_owned()))
        };
        self.ends_seen = processes.iter().filter_map(seen).collect();
    }

    /// Takes the pause that is on.
    pub fn note_pause(&mut self, pause: Option<PauseStatus>) {
        self.add(pause.iter().map(|pause| ClusterProblemCode::Paused.says(pause.to_string())));
        self.pause = pause;
    }

    /// Adds what was found wrong elsewhere.
    pub fn add(&mut self, problems: impl IntoIterator<Item = ClusterProblem>) {
        self.problems.extend(problems);
        self.problems.sort_by_key(|problem| problem.code);
        self.healthy = self.problems.iter().all(|problem| problem.code.only_degrades());
        self.degraded = self.healthy && !self.problems.is_empty();
    }
}

/// What an agent holds back, where the record does not say so already.
fn held(hears: &AgentHears, status: &ClusterStatus) -> Option<ClusterProblem> {
    let text = hears.held.as_ref()?;
    let said = ClusterProblemCode::NoMajority;
    let known = |problem: &ClusterProblem| problem.code == said || text.contains(&problem.text);
    (!status.problems.iter().any(known)).then(|| ClusterProblemCode::Held.says(text.clone()))
}

fn shards(record: &ClusterRecord) -> Vec<ShardStatus> {
    let shard = |(number, shard): (&u32, &super::record::ShardRecord)| {
        let mut replicas: Vec<Address> =
            record.serving(*number, ClusterRole::Replica).cloned().collect();
        replicas.sort();
        ShardStatus {
            shard: *number,
            slots: shard.slots.clone(),
            epoch: shard.epoch,
            primary: record.serving(*number, ClusterRole::Primary).next().cloned(),
            replicas,
        }
    };
    record.shards.iter().map(shard).collect()
}

fn unfit(record: &ClusterRecord) -> Vec<UnfitMember> {
    let unfit = record.nodes.iter().filter(|(_, node)| node.serves().is_none());
    let member = |(id, node): (&NodeId, &NodeRecord)| UnfitMember {
        address: node.address.clone(),
        id: id.clone(),
        shard: node.shard,
        role: node.role,
        why: node.why.clone().unwrap_or_else(|| "it belongs to no shard".to_owned()),
        since: node.since,
    };
    let mut all: Vec<UnfitMember> = unfit.map(member).collect();
    all.sort_by(|one, other| one.address.cmp(&other.address));
    all
}

fn migrations(record: &ClusterRecord) -> Vec<MigrationStatus> {
    let place = |id: &NodeId| match record.nodes.get(id) {
        Some(node) => node.address.to_string(),
        None => id.as_str().to_owned(),
    };
    let shown = |one: &SlotMigration| MigrationStatus {
        slots: one.slots.clone(),
        from: place(&one.from),
        to: place(&one.to),
    };
    record.migrations.iter().map(shown).collect()
}

fn zones(record: &ClusterRecord) -> BTreeMap<Address, Zone> {
    let zone = |node: &NodeRecord| Some((node.address.clone(), node.zone.clone()?));
    record.nodes.values().filter_map(zone).collect()
}

fn problems(
    policy: &ClusterPolicy,
    store: Option<&ClusterStore>,
    rows: Option<&RowsAnswer>,
    status: &ClusterStatus,
) -> Vec<ClusterProblem> {
    use ClusterProblemCode as Code;
    let layout = &policy.layout;
    let Some(store) = store else {
        return vec![Code::ConsulUnread.says("Consul has not been read")];
    };
    let mut problems = Vec::new();
    if status.agents.is_empty() {
        problems.push(
            Code::NoAgents.says("no agent watches the cluster: what is published may be old"),
        );
    }
    if rows.is_some_and(|rows| rows.is_anothers(layout)) {
        problems
            .push(Code::ForeignNode.says(format!("node {} in Consul is another's", layout.node())));
    }
    let record = match &store.state {
        StoredCluster::Known(record) => record,
        StoredCluster::Absent => {
            problems.push(Code::NothingPublished.says("nothing was ever published"));
            return problems;
        }
        StoredCluster::Unreadable(why) => {
            let text = format!("key {} cannot be used: {why}", layout.state());
            problems.push(Code::StateUnreadable.says(text));
            return problems;
        }
    };
    problems.extend(unserved(status));
    problems.extend(record.unheard.as_ref().map(|unheard| {
        Code::NoMajority.says(format!("{} hears no majority: {}", unheard.by, unheard.why))
    }));
    if let Some(rows) = rows.filter(|rows| !rows.is_anothers(layout)) {
        let ops = differences(layout, &project(record), rows.found.as_ref(), &store.plain);
        if ops > 0 {
            let text = format!("{ops} rows or keys in Consul are not what was published");
            problems.push(Code::Drift.says(text));
        }
    }
    problems.extend(unfit_in_words(status));
    problems.extend(no_replica(status));
    problems
}

fn unserved(status: &ClusterStatus) -> Option<ClusterProblem> {
    let missing = SLOTS.saturating_sub(status.slots_served);
    if missing == 0 {
        return None;
    }
    let without = status.shards.iter().filter(|shard| shard.primary.is_none());
    let named: Vec<String> = without
        .take(NAMED_MAX)
        .map(|shard| format!("shard {} ({})", shard.shard, in_words(&shard.slots)))
        .collect();
    let named = match named[..] {
        [] => "no node owns them".to_owned(),
        [..] => format!("no primary in {}", named.join(", ")),
    };
    Some(
        ClusterProblemCode::SlotsUnserved
            .says(format!("{missing} of {SLOTS} slots are not served: {named}")),
    )
}

fn unfit_in_words(status: &ClusterStatus) -> Option<ClusterProblem> {
    // What an operator took out of service is no problem.
    let all = status.unfit.iter().filter(|node| node.why != IN_MAINTENANCE);
    let all: Vec<&UnfitMember> = all.collect();
    let named = all.iter().take(NAMED_MAX).map(|node| format!("{}: {}", node.address, node.why));
    let named: Vec<String> = named.collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let count = if all.len() == 1 { "a member is" } else { "members are" };
    let text = format!("{count} in no name: {}{more}", named.join("; "));
    (!all.is_empty()).then(|| ClusterProblemCode::NodesUnfit.says(text))
}

fn no_replica(status: &ClusterStatus) -> Option<ClusterProblem> {
    let alone = status.shards.iter().filter(|shard| shard.primary.is_some());
    let alone = alone.filter(|shard| shard.replicas.is_empty());
    let named: Vec<String> = alone.map(|shard| shard.shard.to_string()).collect();
    let text = match &named[..] {
        [] => return None,
        [one] => format!("shard {one} has no replica that could take its slots over"),
        more => {
            format!("shards {} have no replica that could take their slots over", more.join(", "))
        }
    };
    Some(ClusterProblemCode::NoReplica.says(text))
}
