//! Which agents watch which groups, where many agents are configured with the same ones.
//!
//! Agents do not agree on it: each ranks the agents that it knows of by a hash, for each group, and watches the groups
//! for which it is among the first. Two agents that know the same agents come to the same result; where they do not,
//! the one that knows of fewer watches more. So a view that is late, or not there at all, costs work and leaves no group
//! alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::address::GroupName;
use crate::time::Mono;

/// Every agent watches a group while no more than so many are configured with it, where the operator says nothing.
pub const WATCHED_BY_ALL_MAX: usize = 5;
/// How many watch a group that more agents are configured with, where the operator says nothing.
pub const WATCHERS_OF_MANY: usize = 3;
/// Groups that an agent begins to watch at a time: where Consul has lost all sessions, each agent is alone for a moment.
pub const TAKEN_AT_ONCE_MAX: usize = 1_000;
/// For how long enough others must have come before an agent for a group, in ms, before it lets the group go: an agent
/// that comes and goes is given nothing, and one that stays has begun by then.
pub const LET_GO_AFTER_MS: u64 = 10_000;
/// Groups in the list of an agent: Consul stores 512 KiB under one key, and a group takes 16 bytes. Agents with more
/// share them with those alone that have exactly the same.
pub const LISTED_MAX: usize = 32_000;
/// Digits of a hash.
const HASH_LEN: usize = 16;

/// How many of so many agents that are configured with a group are to watch it. `watchers` is what the operator says; 0
/// is the default.
pub fn wanted_watchers(watchers: usize, agents: usize) -> usize {
    match watchers {
        0 if agents <= WATCHED_BY_ALL_MAX => agents,
        0 => WATCHERS_OF_MANY,
        watchers => watchers,
    }
}

/// Where the agents of all groups below one prefix show themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetLayout {
    /// KV prefix shared by all groups, without a slash at the end.
    pub prefix: String,
}

impl FleetLayout {
    /// The directory of all keys of the fleet, with a slash at the end. No group's name has a `=`, and Consul 1.21.5 takes no `~` in a key.
    pub fn root(&self) -> String {
        format!("{}/=fleet/", self.prefix)
    }

    /// The directory of the agents' keys, with a slash at the end.
    pub fn agents(&self) -> String {
        format!("{}agents/", self.root())
    }

    /// The key that says that an agent is there.
    ///
    /// Holds JSON: version, since when, how many groups the agent is configured with, and the digest of their list. One
    /// key for each agent; gone at most 20 s after the agent.
    pub fn agent(&self, id: &str) -> String {
        format!("{}{id}", self.agents())
    }

    /// The key of the groups that an agent is configured with.
    ///
    /// Holds the hashes of the groups that the agent is configured with, up to 32000, 16 digits each; read by agents
    /// that do not know the digest yet, and gone with the agent.
    pub fn list(&self, id: &str) -> String {
        format!("{}groups/{id}", self.root())
    }
}

/// A group, as agents of all versions hash it: XXH3 (64 bits, no seed) of the installation, a zero byte and the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupHash(u64);

impl GroupHash {
    /// Of a group that belongs to this installation.
    pub fn new(installation: Option<&str>, group: &GroupName) -> Self {
        Self(xxh3_64(format!("{}\0{group}", installation.unwrap_or_default()).as_bytes()))
    }
}

/// An agent, as agents of all versions hash it: XXH3 (64 bits, no seed) of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AgentHash(u64);

impl AgentHash {
    fn new(id: &str) -> Self {
        Self(xxh3_64(id.as_bytes()))
    }

    /// What this agent ranks by for a group, the highest first: the last step of SplitMix64, of both hashes' difference.
    /// It takes each number to another one, so two agents are equal for all groups or for none.
    fn weight(self, group: GroupHash) -> u64 {
        let mut mixed = self.0 ^ group.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The groups that one agent is configured with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupList {
    /// In order, each once.
    hashes: Vec<GroupHash>,
    digest: u64,
}

impl GroupList {
    /// Of these groups.
    pub fn new(groups: impl IntoIterator<Item = GroupHash>) -> Self {
        let mut hashes: Vec<GroupHash> = groups.into_iter().collect();
        hashes.sort_unstable();
        hashes.dedup();
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
        Self { hashes, digest: xxh3_64(&bytes) }
    }

    /// The same for the same groups, in hexadecimal digits.
    pub fn digest(&self) -> String {
        format!("{:016x}", self.digest)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The group is one of them.
    pub fn has(&self, group: GroupHash) -> bool {
        self.hashes.binary_search(&group).is_ok()
    }

    /// As it stands in Consul; `None` where that takes no more than [`LISTED_MAX`].
    pub fn text(&self) -> Option<String> {
        let digits = |hash: &GroupHash| format!("{:016x}", hash.0);
        (self.len() <= LISTED_MAX).then(|| self.hashes.iter().map(digits).collect())
    }

    /// From what stands in Consul; `None` where that is no such list.
    pub fn of_text(text: &str) -> Option<Self> {
        let digits = text.as_bytes().chunks(HASH_LEN);
        let hash = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.len() == HASH_LEN)?;
            u64::from_str_radix(digits, 16).ok().map(GroupHash)
        };
        Some(Self::new(digits.map(hash).collect::<Option<Vec<_>>>()?))
    }
}

/// What an agent's key says of it, as far as others need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetAgent {
    /// Of the groups that it is configured with.
    pub digest: String,
    /// How many these are.
    pub groups: usize,
}

/// The agents that are there, and the groups of each.
pub type FleetView = BTreeMap<String, Arc<GroupList>>;

/// The agents of a view that are configured with a group, in the order in which they are to watch it.
pub fn ranked(fleet: &FleetView, group: GroupHash) -> Vec<&str> {
    // Most agents have the same list.
    let mut last = None;
    let mut has_it = |list: &GroupList| match last {
        Some((digest, has_it)) if digest == list.digest => has_it,
        _ => last.insert((list.digest, list.has(group))).1,
    };
    let configured = fleet.iter().filter(|(_, list)| has_it(list));
    let mut agents: Vec<(u64, &str)> =
        configured.map(|(id, _)| (AgentHash::new(id).weight(group), id.as_str())).collect();
    // Of two that are equal, the one whose id is the first.
    agents.sort_unstable_by(|(a, id), (b, other)| b.cmp(a).then(id.cmp(other)));
    agents.into_iter().map(|(_, id)| id).collect()
}

/// The part of an agent in the fleet: which of its groups it watches, and which it leaves to others. A group is named by
/// its place among those that the agent is configured with.
#[derive(Debug, Clone)]
pub struct Share {
    own: String,
    watchers: usize,
    groups: Arc<[GroupHash]>,
    list: Arc<GroupList>,
    /// Those that this agent watches in any case.
    kept: BTreeSet<usize>,
    /// The other agents, as they were last read.
    others: FleetView,
    /// How many of them are configured with each group.
    configured: Vec<u16>,
    /// How many of these come before this agent.
    ahead: Vec<u16>,
    watched: Vec<bool>,
    /// Since when enough others come before this agent for a group that it watches.
    outranked: BTreeMap<usize, Mono>,
    /// Something has changed since it was last looked what to take.
    is_due: bool,
}

impl Share {
    /// Of the agent `own`, which watches nothing yet and knows of no other one. It watches the groups in `kept` whatever
    /// others do.
    pub fn new(
        own: &str,
        watchers: usize,
        groups: Arc<[GroupHash]>,
        kept: BTreeSet<usize>,
    ) -> Self {
        let count = groups.len();
        Self {
            own: own.to_owned(),
            watchers,
            list: Arc::new(GroupList::new(groups.iter().copied())),
            groups,
            kept,
            others: FleetView::new(),
            configured: vec![0; count],
            ahead: vec![0; count],
            watched: vec![false; count],
            outranked: BTreeMap::new(),
            is_due: true,
        }
    }

    /// The groups that it is configured with.
    pub fn list(&self) -> &Arc<GroupList> {
        &self.list
    }

    /// What it knows of the others.
    pub fn others(&self) -> &FleetView {
        &self.others
    }

    /// It watches this group.
    pub fn watches(&self, group: usize) -> bool {
        self.watched.get(group).copied().unwrap_or_default()
    }

    /// How many groups it watches.
    pub fn watched(&self) -> usize {
        self.watched.iter().filter(|watched| **watched).count()
    }

    /// The fleet was read. An agent counts itself in any case.
    pub fn saw(&mut self, fleet: &FleetView, now: Mono) {
        let stays = |id: &String, list: &Arc<GroupList>| {
            fleet.get(id).is_some_and(|next| next.digest == list.digest)
        };
        let gone: Vec<(String, Arc<GroupList>)> = self
            .others
            .iter()
            .filter(|(id, list)| !stays(id, list))
            .map(|(id, list)| (id.clone(), list.clone()))
            .collect();
        for (id, _) in &gone {
            self.others.remove(id);
        }
        self.count(&gone, u16::saturating_sub);
        let new = |(id, _): &(&String, &Arc<GroupList>)| {
            **id != self.own && !self.others.contains_key(*id)
        };
        let new: Vec<(String, Arc<GroupList>)> =
            fleet.iter().filter(new).map(|(id, list)| (id.clone(), list.clone())).collect();
        self.others.extend(new.iter().cloned());
        self.count(&new, u16::saturating_add);
        if !gone.is_empty() || !new.is_empty() {
            self.is_due = true;
            self.note_outranked(now);
        }
    }

    /// Counts agents in or out, each for the groups that it is configured with.
    fn count(&mut self, agents: &[(String, Arc<GroupList>)], change: fn(u16, u16) -> u16) {
        if agents.is_empty() {
            return;
        }
        let own = AgentHash::new(&self.own);
        let hashed = |(id, list): &(String, Arc<GroupList>)| {
            (AgentHash::new(id), *id < self.own, list.clone())
        };
        let hashed = agents.iter().map(hashed);
        // Most agents have the same groups as this one.
        let (same, others): (Vec<_>, Vec<_>) =
            hashed.partition(|(.., list)| list.digest == self.list.digest);
        let same: Vec<(AgentHash, bool)> = same.iter().map(|(id, wins, _)| (*id, *wins)).collect();
        let counts = self.configured.iter_mut().zip(&mut self.ahead);
        for (group, (configured, ahead)) in self.groups.iter().zip(counts) {
            let own = own.weight(*group);
            let comes_before = |agent: AgentHash, wins: bool| {
                let weight = agent.weight(*group);
                u16::from((weight > own) | ((weight == own) & wins))
            };
            let before: u16 = same.iter().map(|(id, wins)| comes_before(*id, *wins)).sum();
            let with_it = others.iter().filter(|(.., list)| list.has(*group));
            let (mut count, mut more) = (same.len(), before);
            for (id, wins, _) in with_it {
                count += 1;
                more += comes_before(*id, *wins);
            }
            *configured = change(*configured, u16::try_from(count).unwrap_or(u16::MAX));
            *ahead = change(*ahead, more);
        }
    }

    fn note_outranked(&mut self, now: Mono) {
        let mut before = std::mem::take(&mut self.outranked);
        for group in 0..self.groups.len() {
            if self.watches(group) && !self.is_wanted(group) {
                let since = before.remove(&group).unwrap_or(now);
                self.outranked.insert(group, since);
            }
        }
    }

    fn is_wanted(&self, group: usize) -> bool {
        let count = |counts: &[u16]| counts.get(group).copied().map_or(0, usize::from);
        let wanted = wanted_watchers(self.watchers, count(&self.configured) + 1);
        count(&self.ahead) < wanted || self.kept.contains(&group)
    }

    /// Takes the groups that it is to watch and does not yet, [`TAKEN_AT_ONCE_MAX`] at most: those first that fewest
    /// agents come before it for, since these may be watched by none.
    pub fn take(&mut self) -> Vec<usize> {
        if !self.is_due {
            return Vec::new();
        }
        let is_new = |group: &usize| !self.watches(*group) && self.is_wanted(*group);
        let mut new: Vec<usize> = (0..self.groups.len()).filter(is_new).collect();
        let first = |group: &usize| {
            (!self.kept.contains(group), self.ahead.get(*group).copied().unwrap_or_default())
        };
        new.sort_by_key(first);
        self.is_due = new.len() > TAKEN_AT_ONCE_MAX;
        new.truncate(TAKEN_AT_ONCE_MAX);
        for group in &new {
            self.watch(*group);
        }
        new
    }

    /// It watches this group from now on.
    pub fn watch(&mut self, group: usize) {
        if let Some(watched) = self.watched.get_mut(group) {
            *watched = true;
        }
    }

    /// There is more to take than it took at once.
    pub fn has_more(&self) -> bool {
        self.is_due
    }

    /// The groups that it may let go, once [`Share::successors`] watch them.
    pub fn to_let_go(&self, now: Mono) -> Vec<usize> {
        let due = self.outranked.iter().filter(|(_, since)| now - **since >= LET_GO_AFTER_MS);
        due.map(|(group, _)| *group).collect()
    }

    /// It watches groups that are to be let go some time.
    pub fn is_outranked(&self) -> bool {
        !self.outranked.is_empty()
    }

    /// The agents that are configured with a group, this one among them, in the order in which they are to watch it.
    pub fn ranked(&self, group: usize) -> Vec<&str> {
        let Some(hash) = self.groups.get(group) else { return Vec::new() };
        let own = AgentHash::new(&self.own).weight(*hash);
        let mut agents = ranked(&self.others, *hash);
        let before = |id: &&str| {
            let weight = AgentHash::new(id).weight(*hash);
            weight > own || (weight == own && *id < self.own.as_str())
        };
        let place = agents.partition_point(before);
        agents.insert(place, &self.own);
        agents
    }

    /// The agents that are to watch a group in its place.
    pub fn successors(&self, group: usize) -> Vec<&str> {
        let Some(hash) = self.groups.get(group) else { return Vec::new() };
        let mut agents = ranked(&self.others, *hash);
        agents.truncate(wanted_watchers(self.watchers, agents.len() + 1));
        agents
    }

    /// Those are not all there yet: it goes on with this group as if enough others had come only now.
    pub fn wait_for_others(&mut self, group: usize, now: Mono) {
        self.outranked.entry(group).and_modify(|since| *since = now);
    }

    /// It watches this group no more.
    pub fn let_go(&mut self, group: usize) {
        self.outranked.remove(&group);
        if let Some(watched) = self.watched.get_mut(group) {
            *watched = false;
        }
    }

    /// The same agent with other settings. It goes on with what it watches, and watches what it was not configured with
    /// before.
    #[must_use]
    pub fn configured_anew(
        &self,
        watchers: usize,
        groups: Arc<[GroupHash]>,
        kept: BTreeSet<usize>,
        now: Mono,
    ) -> Self {
        let left: BTreeSet<GroupHash> = (self.groups.iter().zip(&self.watched))
            .filter(|(_, watched)| !**watched)
            .map(|(group, _)| *group)
            .collect();
        let mut next = Self::new(&self.own, watchers, groups, kept);
        for group in 0..next.groups.len() {
            if next.groups.get(group).is_some_and(|group| !left.contains(group)) {
                next.watch(group);
            }
        }
        next.saw(&self.others, now);
        next.note_outranked(now);
        next
    }
}
