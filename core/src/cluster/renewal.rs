//! The next record of a cluster, from what its nodes answer and the last one.
//!
//! A majority of the voters decides, and a cluster is the nodes that are recorded: where another node claims their
//! slots, or no majority is heard, nothing enters the names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::claims::Begun;
use super::judgement::{
    Fitness, JudgedNode, Judgement, NoVoters, NodeAnswer, NodeReadings, Unfit, judge,
};
use super::migration;
use super::record::{
    AnnouncedNode, CLUSTER_RECORD_VERSION, ClusterRecord, ClusterRole, IN_MAINTENANCE, NodeRecord,
    NodeSite, ShardRecord, Unheard, host_of,
};
use super::slots::{SlotRange, common, count, in_words};
use super::table::{NodeId, TableRow};
use super::wanted::ClusterDuties;
use crate::identity::address::{Address, GroupName, ServiceName, Zone};
use crate::known::observed::Death;
use crate::published::store::Layout;
use crate::time::{Mono, Now};
use jiff::Timestamp;

/// A node that gives no answer for so long is silent, in ms. One that refuses the connection is at once.
pub const SILENT_AFTER_MS: u64 = 1_500;
/// An agent that has heard no majority for so long says so in the record, in ms: another one may hear it.
pub const UNHEARD_SAID_AFTER_MS: u64 = 1_000;
/// Where no majority is heard for so long, and no other agent hears one, all nodes leave the names, in ms.
pub const HOLD_NAMES_MS: u64 = 5_000;
/// For how long at least the other agents are given to say that they hear it, in ms.
const OBJECTION_MS: u64 = 3_000;

/// Why a node is in no name whose address another one has.
const ANOTHER: &str = "another node answers at its address";
/// Why a node is in no name whose address another one has, so that the voters have none of it any more.
const NO_ADDRESS: &str = "the voters have no address of it: another node answers where it was";
/// Why a recorded node is in no name that the voters have forgotten, or that those of a merged cluster never knew.
const UNKNOWN: &str = "too few voters know it";

/// What is wanted of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Its name.
    pub name: GroupName,
    /// The service that it is published as.
    pub service: ServiceName,
    /// Where its keys and its node are.
    pub layout: Layout,
    /// This agent.
    pub agent: String,
    /// The zone of the nodes that it stands beside; none where it stands beside none.
    pub zone: Option<Zone>,
    /// What it may do besides.
    pub duties: ClusterDuties,
}

/// Why a node gives no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// Its host says that nothing listens there: certain.
    Refused(String),
    /// Nothing is heard: unknown, until it lasts.
    Silent(String),
    /// It answers, and not what was asked: the login, TLS. Nothing is known of it.
    Denied(String),
}

/// What one address was last heard to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// When it was last asked, with or without an answer.
    pub asked: Mono,
    /// When the last answer was asked for, and what it is.
    pub answer: Option<(Mono, NodeAnswer)>,
    /// Why there was none since.
    pub missing: Option<NoAnswer>,
    /// Since when each connection has been refused.
    pub refused_since: Option<Mono>,
}

impl NodeSeen {
    /// What counts now.
    pub fn reading(&self, now: Mono) -> Result<NodeAnswer, String> {
        let answer = self.answer.as_ref();
        match (&self.missing, answer) {
            (None, Some((_, answer))) => Ok(answer.clone()),
            (Some(NoAnswer::Silent(_)), Some((at, answer))) if now - *at < SILENT_AFTER_MS => {
                Ok(answer.clone())
            }
            (Some(NoAnswer::Refused(why) | NoAnswer::Silent(why) | NoAnswer::Denied(why)), _) => {
                Err(why.clone())
            }
            (None, None) => Err("not asked yet".to_owned()),
        }
    }

    /// Its answer, where the last question has one.
    pub fn now(&self) -> Option<&NodeAnswer> {
        self.answer.as_ref().filter(|_| self.missing.is_none()).map(|(_, answer)| answer)
    }

    /// For how long it has refused each connection, in ms.
    pub fn refused_for_ms(&self) -> Option<u64> {
        self.refused_since.map(|since| self.asked - since)
    }

    fn is_denied(&self) -> bool {
        matches!(self.missing, Some(NoAnswer::Denied(_)))
    }
}

/// All that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct ClusterView<'a> {
    /// What is wanted.
    pub policy: &'a ClusterPolicy,
    /// The record, where there is one.
    pub record: Option<&'a ClusterRecord>,
    /// What the nodes say.
    pub nodes: &'a BTreeMap<Address, NodeSeen>,
    /// The nodes that agents stand beside.
    pub announced: &'a BTreeMap<Address, AnnouncedNode>,
    /// The nodes in maintenance.
    pub maintenance: &'a BTreeSet<NodeId>,
    /// The agents that are there.
    pub agents: &'a BTreeSet<String>,
    /// Where the operator has it begin to look.
    pub seeds: &'a BTreeSet<Address>,
    /// When another agent last changed the record: what was asked before that changes nothing of it.
    pub changed: Mono,
    /// An operator has paused the cluster: its nodes are told nothing.
    pub paused: bool,
    /// What this agent took for silent, and another one has put back since.
    pub overruled: &'a BTreeSet<NodeId>,
    /// Since when no majority is heard.
    pub unheard_since: Option<Mono>,
    /// Since when the record says that an agent hears none.
    pub unheard_said: Option<Mono>,
    /// Another agent hears a majority that this one does not.
    pub others_hear: bool,
    /// The members whose processes have ended, as this host's kernel says, and that have not answered since.
    pub deaths: &'a BTreeMap<NodeId, Death>,
    /// The members of each other cluster that this agent knows of.
    pub others: &'a [BTreeSet<NodeId>],
    /// The highest generation that was ever seen.
    pub generation: u64,
    /// This instant.
    pub now: Now,
}

impl ClusterView<'_> {
    /// The host that a node is on: as its agent calls it, or its address.
    pub fn host(&self, address: &Address) -> String {
        host_of(self.announced, address)
    }

    /// Its host, and the zone of that.
    pub fn site(&self, address: &Address) -> NodeSite {
        NodeSite::of(self.announced, address)
    }

    /// The zone of a member: as the agent beside it says, or said at the same address.
    fn zone(&self, address: &Address, recorded: Option<&NodeRecord>) -> Option<Zone> {
        match self.announced.get(address) {
            Some(announced) => announced.zone.clone(),
            None => recorded.filter(|node| node.address == *address)?.zone.clone(),
        }
    }

    /// It begins now, by this agent.
    pub fn begun(&self) -> Begun {
        Begun { by: self.policy.agent.clone(), at: self.now.wall }
    }
}

/// What is to be published, and what keeps it from being all of what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The next record; `None` where there is none to begin with.
    pub record: Option<ClusterRecord>,
    /// Why nothing enters the names.
    pub held: Option<Held>,
    /// What a majority says, where one is heard.
    pub judged: Option<Judgement>,
    /// The members that this agent takes for silent.
    pub silent: BTreeSet<NodeId>,
}

/// Why nothing enters the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// No majority is heard.
    NoMajority(NoVoters),
    /// A node that is no recorded member owns slots of one.
    Stranger(NodeId, Vec<SlotRange>),
    /// A node's claim to slots is not newer than the recorded one of another node.
    OldClaim(NodeId, u64, u64),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMajority(none) => none.fmt(f),
            Self::Stranger(id, slots) => write!(
                f,
                "node {id}, which is not recorded, owns slots {} of recorded nodes: were two clusters merged?",
                in_words(slots)
            ),
            Self::OldClaim(id, epoch, recorded) => write!(
                f,
                "node {id} owns slots by epoch {epoch}, and the recorded claim of another node has {recorded}"
            ),
        }
    }
}

/// Decides.
pub fn renew(view: &ClusterView<'_>) -> Renewed {
    let readings = members(view);
    match judge(&readings) {
        Ok(judged) => followed(view, &readings, judged),
        Err(none) => unheard(view, none),
    }
}

/// The readings of recorded nodes, and of those that a recorded node's table lists: what else answers at an address of
/// theirs belongs to another cluster. Where nothing is recorded, of those that the seeds lead to.
fn members(view: &ClusterView<'_>) -> NodeReadings {
    let now = view.now.mono;
    let all: NodeReadings =
        view.nodes.iter().map(|(address, seen)| (address.clone(), seen.reading(now))).collect();
    let Some(record) = view.record.filter(|record| !record.nodes.is_empty()) else {
        let led = led_to(view.seeds, view.nodes);
        return all
            .into_iter()
            .filter(|(at, answer)| answer.is_err() || led.contains(at))
            .collect();
    };
    let own = all.values().flatten().filter(|a| record.nodes.contains_key(&a.table.own));
    let mut listed: BTreeSet<NodeId> = record.nodes.keys().cloned().collect();
    listed.extend(own.flat_map(|answer| answer.table.rows.keys().cloned()));
    let keep = |reading: &Result<NodeAnswer, String>| match reading {
        Ok(answer) => listed.contains(&answer.table.own),
        Err(_) => true,
    };
    all.into_iter().filter(|(_, reading)| keep(reading)).collect()
}

/// The addresses that seeds lead to, from table to table. What answers at an address that a table has for another node
/// belongs to another cluster, and leads nowhere.
pub(super) fn led_to(
    seeds: &BTreeSet<Address>,
    nodes: &BTreeMap<Address, NodeSeen>,
) -> BTreeSet<Address> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<(&Address, Option<&NodeId>)> = seeds.iter().map(|at| (at, None)).collect();
    while let Some((at, id)) = ahead.pop() {
        let Some((_, answer)) = nodes.get(at).and_then(|seen| seen.answer.as_ref()) else {
            continue;
        };
        if id.is_none_or(|id| *id == answer.table.own) && found.insert(at.clone()) {
            let rows = answer.table.rows.values();
            ahead.extend(rows.filter_map(|row| Some((row.address.as_ref()?, Some(&row.id)))));
        }
    }
    found
}

/// Where the voters have each node that more than half of them know; `None` where none of those has an address of it.
fn addresses(readings: &NodeReadings, judged: &Judgement) -> BTreeMap<NodeId, Option<Address>> {
    let mut seen = BTreeSet::new();
    let tables = readings.values().flatten().map(|answer| &answer.table);
    let tables =
        tables.filter(|table| judged.voters.contains(&table.own) && seen.insert(table.own.clone()));
    let mut votes: BTreeMap<NodeId, BTreeMap<Option<Address>, usize>> = BTreeMap::new();
    for row in tables.flat_map(|table| table.rows.values()) {
        *votes.entry(row.id.clone()).or_default().entry(row.address.clone()).or_default() += 1;
    }
    let known = |votes: &BTreeMap<Option<Address>, usize>| {
        let all: usize = votes.values().sum();
        all * 2 > judged.voters.len()
    };
    let most = |votes: BTreeMap<Option<Address>, usize>| {
        votes.into_iter().filter(|(at, _)| at.is_some()).max_by_key(|(_, n)| *n)?.0
    };
    votes
        .into_iter()
        .filter(|(_, votes)| known(votes))
        .map(|(id, votes)| (id, most(votes)))
        .collect()
}

/// Goes by the majority.
fn followed(view: &ClusterView<'_>, readings: &NodeReadings, judged: Judgement) -> Renewed {
    let held = view.record.and_then(|record| foreign_claim(record, &judged));
    let (shards, next_shard) = numbered(view.record, &judged, view.now.wall);
    let addresses = addresses(readings, &judged);
    let mut silent = BTreeSet::new();
    let mut next = match (view.record, &held) {
        (Some(record), Some(_)) => record.clone(),
        (record, _) => {
            let voters = judged.voters.clone();
            let nodes = record.map(|record| record.nodes.clone()).unwrap_or_default();
            ClusterRecord { shards, next_shard, voters, nodes, ..nothing_yet(view) }
        }
    };
    if held.is_none() {
        next.nodes.retain(|id, _| addresses.contains_key(id));
    }
    for (_, node) in next.nodes.iter_mut().filter(|(id, _)| !addresses.contains_key(*id)) {
        withdraw(Some(node), Some(UNKNOWN.to_owned()));
    }
    for (id, address) in addresses {
        let Some(address) = address else {
            let owns = next.shards.values().any(|shard| shard.owner == id);
            without_address(next.nodes.get_mut(&id), owns);
            continue;
        };
        let at = |node: &&JudgedNode| node.address == address;
        let Some(node) = judged.nodes.iter().find(at) else {
            // What answers there is no member.
            if view.nodes.contains_key(&address) {
                withdraw(next.nodes.get_mut(&id), Some(ANOTHER.to_owned()));
            }
            continue;
        };
        let (found, is_silent) = member(view, &id, node, &next);
        silent.extend(is_silent.then(|| id.clone()));
        let Some(found) = found else { continue };
        match &held {
            None if !may_join(view, &id, readings.get(&node.address)) => {}
            None => drop(next.nodes.insert(id, found)),
            // What is unfit leaves the names all the same.
            Some(_) if !found.fit => withdraw(next.nodes.get_mut(&id), found.why),
            Some(_) => {}
        }
    }
    next.unheard = None;
    let before = view.record.map(|record| &record.migrations[..]).unwrap_or_default();
    next.migrations =
        migration::recorded(&judged.migrations, before, |id| unheard_by_it(&judged, id));
    let record = Some(finished(view, next));
    Renewed { record, held, judged: Some(judged), silent }
}

/// A node is recorded once its own table gives the recorded slots to recorded nodes. Where two clusters are being merged,
/// the voters know the other one's nodes before their claims: recorded then, they would be no strangers any more. Nor
/// where the other one has lost all its slots by then: its nodes are its own for as long as its record has them.
fn may_join(
    view: &ClusterView<'_>,
    id: &NodeId,
    reading: Option<&Result<NodeAnswer, String>>,
) -> bool {
    let record = view.record.filter(|record| !record.nodes.is_empty());
    let Some(record) = record else { return true };
    // One that shares members with this one is the same cluster under another name.
    let is_another = |ids: &&BTreeSet<NodeId>| !ids.iter().any(|id| record.nodes.contains_key(id));
    let mut others = view.others.iter().filter(is_another);
    // What agents have chosen was blank: it has left the other one.
    let joins = record.claims.joining.as_ref().is_some_and(|joining| joining.node.id == *id);
    if !record.is_own(id) && !joins && others.any(|ids| ids.contains(id)) {
        return false;
    }
    let Some(Ok(answer)) = reading else { return record.nodes.contains_key(id) };
    let takes = |row: &TableRow| {
        let others = record.shards.values().filter(|shard| shard.owner != row.id);
        others.into_iter().any(|shard| !common(&shard.slots, &row.slots).is_empty())
    };
    let strange = |row: &TableRow| !record.is_own(&row.id) && takes(row);
    record.is_own(id) || !answer.table.owners().any(strange)
}

/// A member that a majority calls well gives this agent no answer.
fn unheard_by_it(judged: &Judgement, id: &NodeId) -> bool {
    let silent = |node: &JudgedNode| matches!(node.fitness, Fitness::Unfit(Unfit::Silent(_)));
    let is = |node: &&JudgedNode| node.id.as_ref() == Some(id) && node.trusted;
    judged.nodes.iter().filter(is).any(silent)
}

/// A member whose address another node has taken from it stays one, as it was but for slots that it owns no more.
fn without_address(node: Option<&mut NodeRecord>, owns: bool) {
    let Some(node) = node else { return };
    if node.role == Some(ClusterRole::Primary) && !owns {
        (node.role, node.shard) = (None, None);
        node.slots.clear();
    }
    withdraw(Some(node), Some(NO_ADDRESS.to_owned()));
}

fn withdraw(node: Option<&mut NodeRecord>, why: Option<String>) {
    if let Some(node) = node.filter(|node| node.fit) {
        node.fit = false;
        node.why = why;
    }
}

/// What is to be recorded of a member, if anything is known of it; and whether this agent takes it for silent.
fn member(
    view: &ClusterView<'_>,
    id: &NodeId,
    node: &JudgedNode,
    next: &ClusterRecord,
) -> (Option<NodeRecord>, bool) {
    let seen = view.nodes.get(&node.address);
    let recorded = view.record.and_then(|record| record.nodes.get(id));
    let shard = node.owner.as_ref().filter(|_| node.id.as_ref() == Some(id));
    let shard = shard.and_then(|owner| {
        next.shards.iter().find(|(_, shard)| shard.owner == *owner).map(|(n, s)| (*n, s))
    });
    let owns = shard.is_some_and(|(_, shard)| shard.owner == *id);
    let role = shard.map(|_| if owns { ClusterRole::Primary } else { ClusterRole::Replica });
    let elsewhere = node.id.as_ref() != Some(id);
    // An owner stays: its slots would be in no name.
    let kept_out = !owns && view.maintenance.contains(id);
    let why = match &node.fitness {
        _ if elsewhere => Some(ANOTHER.to_owned()),
        _ if kept_out => Some(IN_MAINTENANCE.to_owned()),
        Fitness::Unfit(why) => Some(why.to_string()),
        Fitness::Primary | Fitness::Replica => None,
    };
    let silent = !elsewhere && matches!(node.fitness, Fitness::Unfit(Unfit::Silent(_)));
    let mut found = NodeRecord {
        address: node.address.clone(),
        role,
        shard: shard.map(|(number, _)| number),
        slots: shard.filter(|_| owns).map(|(_, shard)| shard.slots.clone()).unwrap_or_default(),
        primary: shard.filter(|_| !owns).map(|(_, shard)| shard.owner.clone()),
        epoch: shard.map(|(_, shard)| shard.epoch).unwrap_or_default(),
        fit: why.is_none() && role.is_some(),
        why,
        zone: view.zone(&node.address, recorded),
        since: view.now.wall,
        generation: 0,
    };
    // What only this agent sees, or has seen before another one changed the record, changes nothing.
    let old = seen.is_none_or(|seen| seen.asked < view.changed);
    let unknown = seen.is_some_and(NodeSeen::is_denied) || view.overruled.contains(id);
    if old || (silent && unknown && node.trusted) {
        let Some(recorded) = recorded else { return (None, silent) };
        let same_place = recorded.role == role && recorded.address == found.address;
        found.fit = recorded.fit && role.is_some() && same_place && (old || node.trusted);
        found.why = if found.fit { None } else { found.why.or_else(|| recorded.why.clone()) };
    }
    (Some(found), silent)
}

/// A new owner of recorded slots that cannot be a successor.
fn foreign_claim(record: &ClusterRecord, judged: &Judgement) -> Option<Held> {
    judged.shards.iter().find_map(|shard| {
        let others = record.shards.values().filter(|old| old.owner != shard.owner);
        others.into_iter().find_map(|old| {
            let taken = common(&old.slots, &shard.slots);
            if taken.is_empty() {
                return None;
            }
            if !record.is_own(&shard.owner) {
                return Some(Held::Stranger(shard.owner.clone(), taken));
            }
            let owner = || shard.owner.clone();
            (shard.epoch <= old.epoch).then(|| Held::OldClaim(owner(), shard.epoch, old.epoch))
        })
    })
}

/// The shards by their numbers: an owner keeps its number; a new owner takes that of the shard whose slots it has; and
/// slots that no node owns now keep theirs.
fn numbered(
    record: Option<&ClusterRecord>,
    judged: &Judgement,
    now: Timestamp,
) -> (BTreeMap<u32, ShardRecord>, u32) {
    let mut left = record.map(|record| record.shards.clone()).unwrap_or_default();
    let mut next = record.map_or(1, |record| record.next_shard);
    let (mut shards, mut open) = (BTreeMap::new(), Vec::new());
    for shard in &judged.shards {
        let (owner, slots) = (shard.owner.clone(), shard.slots.clone());
        let found = ShardRecord { owner, epoch: shard.epoch, slots, since: Some(now) };
        let same = left.iter().find(|(_, old)| old.owner == found.owner).map(|(n, _)| *n);
        match same {
            Some(number) => {
                // By a newer claim it may have lost and taken back its slots meanwhile.
                let old = left.remove(&number).filter(|old| old.epoch == found.epoch);
                let since = old.map_or(found.since, |old| old.since);
                shards.insert(number, ShardRecord { since, ..found });
            }
            None => open.push(found),
        }
    }
    for found in open {
        let shared = |old: &ShardRecord| count(&common(&old.slots, &found.slots));
        let best = left.iter().filter(|(_, old)| shared(old) > 0);
        let best = best.max_by_key(|(_, old)| shared(old)).map(|(number, _)| *number);
        let number = best.unwrap_or(next);
        next = next.max(number.saturating_add(1));
        left.remove(&number);
        shards.insert(number, found);
    }
    for (number, old) in left {
        let slots = common(&old.slots, &judged.unowned);
        if !slots.is_empty() {
            shards.insert(number, ShardRecord { slots, ..old });
        }
    }
    (shards, next)
}

/// Without a majority: what certainly takes no requests leaves the names at once, all others when it lasts and no other
/// agent hears one.
fn unheard(view: &ClusterView<'_>, none: NoVoters) -> Renewed {
    let mut silent = BTreeSet::new();
    let Some(record) = view.record else {
        return Renewed { record: None, held: Some(Held::NoMajority(none)), judged: None, silent };
    };
    let mut next = record.clone();
    for (id, node) in &mut next.nodes {
        let Some(seen) = view.nodes.get(&node.address) else { continue };
        silent.extend(seen.reading(view.now.mono).is_err().then(|| id.clone()));
        let certain = match (&seen.missing, &seen.answer) {
            (Some(NoAnswer::Refused(why)), _) if !view.overruled.contains(id) => Some(why.clone()),
            (None, Some((_, answer))) if answer.table.own != *id => Some(ANOTHER.to_owned()),
            (None, Some((_, answer))) => match &answer.not_ready {
                Some(words) => Some(Unfit::NotReady(words.clone()).to_string()),
                None => (!answer.state_ok).then(|| Unfit::StateFail.to_string()),
            },
            _ => None,
        };
        let certain = certain.filter(|_| seen.asked >= view.changed);
        if certain.is_some() {
            withdraw(Some(node), certain);
        }
    }
    // A login that fails everywhere, or several clusters, says nothing of whether requests are taken.
    let denied = view.nodes.values().any(NodeSeen::is_denied);
    let speaks = !denied && !view.others_hear && !matches!(none, NoVoters::Several(_));
    let lasts = |since: Option<Mono>, ms: u64| since.is_some_and(|at| view.now.mono - at >= ms);
    if next.nodes.values().all(|node| !node.fit) {
        next.unheard = None;
    } else if speaks
        && lasts(view.unheard_since, HOLD_NAMES_MS)
        && lasts(view.unheard_said, OBJECTION_MS)
    {
        let why = format!("no majority was heard for {HOLD_NAMES_MS} ms: {none}");
        next.nodes.values_mut().for_each(|node| withdraw(Some(node), Some(why.clone())));
        next.unheard = None;
    } else if speaks && next.unheard.is_none() && lasts(view.unheard_since, UNHEARD_SAID_AFTER_MS) {
        next.unheard = Some(Unheard { by: view.policy.agent.clone(), why: none.to_string() });
    }
    let record = Some(finished(view, next));
    Renewed { record, held: Some(Held::NoMajority(none)), judged: None, silent }
}

/// A record without a node.
pub fn nothing_yet(view: &ClusterView<'_>) -> ClusterRecord {
    let ClusterPolicy { name, service, layout, agent, .. } = view.policy;
    ClusterRecord {
        v: CLUSTER_RECORD_VERSION,
        cluster: name.clone(),
        service: service.clone(),
        prefix: layout.prefix.clone(),
        generation: view.record.map_or(0, |record| record.generation),
        by: agent.clone(),
        since: view.record.map_or(view.now.wall, |record| record.since),
        why: view.record.map(|record| record.why.clone()).unwrap_or_default(),
        voters: BTreeSet::new(),
        shards: BTreeMap::new(),
        next_shard: 1,
        nodes: BTreeMap::new(),
        migrations: Vec::new(),
        unheard: None,
        claims: view.record.map(|record| record.claims.clone()).unwrap_or_default(),
    }
}

/// With a generation of its own where it says something else than the record before; what is as it was keeps its time.
fn finished(view: &ClusterView<'_>, mut next: ClusterRecord) -> ClusterRecord {
    let before = view.record.map_or(0, |record| record.generation);
    let generation = view.generation.max(before).saturating_add(1);
    let none = BTreeMap::new();
    let before = view.record.map_or(&none, |record| &record.nodes);
    for (id, node) in &mut next.nodes {
        match before.get(id) {
            Some(old) if old.is_as(node) => node.clone_from(old),
            _ => (node.since, node.generation) = (view.now.wall, generation),
        }
    }
    // Consul was wiped, or has an older record again.
    let lower = view.record.is_some_and(|record| record.generation < view.generation);
    let service = view.record.is_none_or(|record| record.service == next.service);
    let same = view.record.is_some_and(|record| record.is_as(&next)) && !lower && service;
    next.by.clone_from(&view.policy.agent);
    if same {
        return match view.record {
            Some(record) => {
                let ClusterRecord { migrations, unheard, claims, .. } = next;
                ClusterRecord { migrations, unheard, claims, ..record.clone() }
            }
            None => next,
        };
    }
    next.generation = generation;
    next.since = view.now.wall;
    let changes = differences(view.record, &next);
    next.why = match &changes[..] {
        [] => "its slots or voters".to_owned(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first}, and {} more", more.len()),
    };
    next
}

/// What another record says of the nodes, a line each.
pub fn differences(before: Option<&ClusterRecord>, after: &ClusterRecord) -> Vec<String> {
    let old = |id: &NodeId| before.and_then(|record| record.nodes.get(id));
    let is = |node: &NodeRecord| {
        node.serves().map(|(role, n)| format!("{} of shard {n}", role.as_str()))
    };
    let mut lines = Vec::new();
    for (id, node) in &after.nodes {
        let (was, now) = (old(id).and_then(is), is(node));
        let moved = old(id).is_some_and(|old| old.address != node.address);
        let zoned = old(id).is_some_and(|old| old.zone != node.zone);
        let (at, why) = (&node.address, node.why.as_deref().unwrap_or("it belongs to no shard"));
        match (was, now) {
            (was, Some(now)) if moved || was.as_ref() != Some(&now) => {
                lines.push(format!("{at} ({id}) is {now}"));
            }
            (Some(was), None) => lines.push(format!("{at} ({id}), {was}, leaves: {why}")),
            (None, None) if old(id).is_none() => {
                lines.push(format!("{at} ({id}) is a member, and in no name: {why}"));
            }
            _ if zoned => lines.push(match &node.zone {
                Some(zone) => format!("{at} ({id}) is in zone {zone}"),
                None => format!("{at} ({id}) is in no known zone"),
            }),
            _ => {}
        }
    }
    let nodes = before.into_iter().flat_map(|record| &record.nodes);
    for (id, node) in nodes.filter(|(id, _)| !after.nodes.contains_key(*id)) {
        lines.push(format!("{} ({id}) leaves: the voters have forgotten it", node.address));
    }
    lines
}
