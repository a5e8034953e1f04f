//! What agents have begun to do to a cluster: written into its record before the first command, so that any agent can go
//! on with it, and no two begin different things.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::slots::SlotRange;
use super::table::NodeId;
use crate::identity::address::Address;
use crate::known::observed::DeathSign;
use crate::time::between_ms;

/// For so long what was begun is left to the agent that began it, in ms; then all agents go on with it.
pub const LEFT_TO_ONE_MS: u64 = 10_000;

/// After an attempt that came to nothing the next one with the same node waits for so long, in ms, and twice as long after
/// each further one, ...
pub const GIVEN_UP_FOR_MS: u64 = 30_000;
/// ... and no longer than this, in ms.
pub const GIVEN_UP_FOR_MAX_MS: u64 = 1_800_000;
/// So many nodes are remembered with which attempts came to nothing.
const GIVEN_UP_MAX: usize = 100;

/// Who began something, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The agent.
    pub by: String,
    /// When, by its clock.
    pub at: Timestamp,
}

impl Begun {
    /// It is this agent's to go on with, which has known of it for so many ms.
    pub fn is_for(&self, agent: &str, known_ms: u64) -> bool {
        self.by == agent || known_ms >= LEFT_TO_ONE_MS
    }
}

/// A node of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Its id.
    pub id: NodeId,
    /// Where it answered.
    pub address: Address,
}

/// A shard of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// The slots that its primary is to own.
    pub slots: SlotRange,
    /// Its primary.
    pub primary: PlannedNode,
    /// Those that follow it.
    pub replicas: Vec<PlannedNode>,
}

/// Blank nodes become a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    /// Who began it.
    pub begun: Begun,
    /// What becomes of each node.
    pub shards: Vec<PlannedShard>,
}

impl Making {
    /// Every node of the plan.
    pub fn nodes(&self) -> impl Iterator<Item = &PlannedNode> {
        self.shards.iter().flat_map(|shard| std::iter::once(&shard.primary).chain(&shard.replicas))
    }
}

/// A node becomes a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// Who began it.
    pub begun: Begun,
    /// The node.
    pub node: PlannedNode,
    /// The number of the shard that it is for.
    pub shard: u32,
    /// It was a member before, and was forgotten.
    #[serde(default)]
    pub back: bool,
}

/// The owner of slots has died, and the others wait for a moment only before they call it failing and elect its replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hastened {
    /// Who began it.
    pub begun: Begun,
    /// The one that has died.
    pub dead: NodeId,
    /// What its death is taken from: `process` or `child` where the kernel of its host says so, and else `refused`.
    #[serde(default = "refused")]
    pub evidence: String,
    /// Its process on its host, where the kernel says that it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `cluster-node-timeout` of each other node before, in ms.
    pub waited_ms: BTreeMap<NodeId, u64>,
    /// It is over: they are to wait as before.
    #[serde(default)]
    pub over: bool,
}

/// What agents took it from before they said.
fn refused() -> String {
    DeathSign::Refused.as_str().to_owned()
}

impl Hastened {
    /// All nodes wait as before. It is remembered for as long as the dead one owns slots: once is enough.
    pub fn is_past(&self) -> bool {
        self.over && self.waited_ms.is_empty()
    }
}

/// A member that is dead for good is forgotten by all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who began it.
    pub begun: Begun,
    /// The member.
    pub id: NodeId,
    /// Where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// A member that was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Where it was.
    pub address: Address,
    /// When it was forgotten.
    pub at: Timestamp,
}

/// Attempts with one node that came to nothing: others get their turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// How many there were.
    pub times: u32,
    /// When the last one was given up.
    pub at: Timestamp,
}

impl GivenUp {
    /// How long it is until the next attempt, in ms: twice as long each time.
    fn pause_ms(&self) -> u64 {
        let doubled = 1_u64.checked_shl(self.times.saturating_sub(1)).unwrap_or(u64::MAX);
        GIVEN_UP_FOR_MS.saturating_mul(doubled).min(GIVEN_UP_FOR_MAX_MS)
    }

    fn since_ms(&self, now: Timestamp) -> u64 {
        between_ms(self.at, now)
    }
}

/// Takes the oldest out until there are no more than `most`.
pub(super) fn keep_newest<T>(
    all: &mut BTreeMap<NodeId, T>,
    most: usize,
    at: impl Fn(&T) -> Timestamp,
) {
    while all.len() > most {
        let oldest = all.iter().min_by_key(|(_, one)| at(one));
        let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
        all.remove(&oldest);
    }
}

/// Everything that is begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// A cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,
    /// A node joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<Joining>,
    /// An election is hastened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hastened: Option<Hastened>,
    /// A member is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// Those that were forgotten, and may come back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<NodeId, Left>,
    /// Those that did not join, or could not be forgotten, for a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given_up: BTreeMap<NodeId, GivenUp>,
}

impl Claims {
    /// An attempt with this node came to nothing.
    pub fn give_up(&mut self, id: &NodeId, now: Timestamp) {
        // What is long past counts no more.
        self.given_up.retain(|_, last| {
            last.since_ms(now) < last.pause_ms().saturating_add(GIVEN_UP_FOR_MAX_MS)
        });
        let times = self.given_up.get(id).map_or(0, |last| last.times).saturating_add(1);
        self.given_up.insert(id.clone(), GivenUp { times, at: now });
        keep_newest(&mut self.given_up, GIVEN_UP_MAX, |last| last.at);
    }

    /// The next attempt with this node has to wait.
    pub fn pauses(&self, id: &NodeId, now: Timestamp) -> bool {
        self.given_up.get(id).is_some_and(|last| last.since_ms(now) < last.pause_ms())
    }

    /// Nothing was begun, and no member was forgotten.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Something is under way. That nodes are yet to wait as before keeps from nothing.
    pub fn is_busy(&self) -> bool {
        let Self { making, joining, hastened, leaving, left: _, given_up: _ } = self;
        let hastened = hastened.as_ref().is_some_and(|hastened| !hastened.over);
        making.is_some() || joining.is_some() || hastened || leaving.is_some()
    }

    /// What is under way that was not before, a line each.
    pub fn differ_in_words(&self, before: &Self) -> Vec<String> {
        let was = before.in_words();
        self.in_words().into_iter().filter(|line| !was.contains(line)).collect()
    }

    /// What is under way, a line each.
    pub fn in_words(&self) -> Vec<String> {
        let Self { making, joining, hastened, leaving, left: _, given_up: _ } = self;
        let lines = [
            making.as_ref().map(ToString::to_string),
            joining.as_ref().map(ToString::to_string),
            hastened.as_ref().filter(|h| !h.is_past()).map(ToString::to_string),
            leaving.as_ref().map(ToString::to_string),
        ];
        lines.into_iter().flatten().collect()
    }
}

impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blank nodes become a cluster of {} shards",
            self.nodes().count(),
            self.shards.len()
        )
    }
}

impl fmt::Display for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlannedNode { id, address } = &self.node;
        write!(f, "{address} ({id}) becomes a replica of shard {}", self.shard)
    }
}

impl fmt::Display for Hastened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, dead, pid, .. } = self;
        if self.over {
            return write!(f, "the others wait as before primary {dead} died");
        }
        write!(f, "primary {dead} has died: the others wait for a moment only ")?;
        match pid {
            Some(pid) => write!(f, "(its process {pid} has ended, as {} sees)", begun.by),
            None => write!(f, "(its host refuses connections)"),
        }
    }
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dead member {} is forgotten by all others", self.id)
    }
}
