//! An owner of slots whose process is gone: the others are told to wait for a moment only before they call it failing, so
//! that its replica is elected within about a second. The nodes look for themselves and vote, so that nothing comes of
//! it where the owner lives (`docs/facts/cluster.md` 2.4).
//!
//! The agent beside it knows from the kernel, at once ([`Death`](crate::known::observed::Death)); each other one from what
//! refuses, and who has lost a link. Whichever begins writes it down, and so all of them know.

use std::collections::BTreeMap;
use std::fmt;

use super::claims::Hastened;
use super::order::{HASTE_TIMEOUT_MS, NodeCommand, usual_timeout};
use super::record::NodeRecord;
use super::renewal::NoAnswer;
use super::scene::{Due, DutyMemory, LeftDeath, Present, Scene};
use super::table::{NodeId, TableRole};
use crate::identity::address::Address;
use crate::known::observed::{Death, DeathSign};
use crate::policy::DEATH_KNOWN_MS;
use crate::time::between_ms;

/// The owner refuses connections for so long at least, in ms: twice.
pub const REFUSED_FOR_MS: u64 = 50;
/// So long the nodes are left to the agent that began to tell them, in ms: its host may be lost with the owner.
pub const HASTE_LEFT_TO_ONE_MS: u64 = 500;
/// They wait as before after so long at the latest, in ms.
pub const HASTE_FOR_MS: u64 = 5_000;
/// Nodes that cannot be told to wait as before are told again for so long, in ms. One that was started again does.
const RESTORED_WITHIN_MS: u64 = 600_000;

/// So long it is remembered for whom, in ms.
const HASTENED_KNOWN_MS: u64 = 3_600_000;
/// A node that is left with that while most others wait for longer, and for which nothing is recorded any more, is told
/// what they have after so long, in ms: it was away, or the record was.
const LEFT_BEHIND_MS: u64 = 30_000;

/// Why the death of an owner is left to the nodes' own pace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyUnhurried {
    /// The operator wants it (`fast_failover = "off"`).
    SwitchedOff,
    /// Slots are moving.
    Moving,
    /// It is in maintenance.
    Maintenance,
    /// No replica of it answers that stands for election.
    NoReplica,
    /// The node at this address does not say what it waits for.
    TimeoutUnknown(Address),
    /// The nodes wait for a moment only as it is.
    TimeoutShort,
    /// It has owned its slots for so many seconds only.
    OwnedLately(u64),
    /// The nodes were told to hurry for it so many seconds ago.
    HurriedLately(u64),
}

impl WhyUnhurried {
    /// As the label `outcome` of the metrics has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched-off",
            Self::Moving => "slots-moving",
            Self::Maintenance => "maintenance",
            Self::NoReplica => "no-replica",
            Self::TimeoutUnknown(_) => "timeout-unknown",
            Self::TimeoutShort => "timeout-short",
            Self::OwnedLately(_) => "owned-lately",
            Self::HurriedLately(_) => "hurried-lately",
        }
    }
}

impl fmt::Display for WhyUnhurried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => f.write_str("fast_failover is off"),
            Self::Moving => f.write_str("slots are moving"),
            Self::Maintenance => f.write_str("it is in maintenance"),
            Self::NoReplica => f.write_str("no replica of it answers that stands for election"),
            Self::TimeoutUnknown(at) => write!(f, "{at} does not say its cluster-node-timeout"),
            Self::TimeoutShort => f.write_str("they wait for a moment only as it is"),
            Self::OwnedLately(s) => write!(f, "its shard has had it for {s} s only"),
            Self::HurriedLately(s) => write!(f, "they were told to hurry for it {s} s ago"),
        }
    }
}

/// Remembers for whom, and which nodes were told.
pub(super) fn note(scene: &Scene<'_>, hastened: &Hastened, memory: &mut DutyMemory) {
    let now = scene.view.now.mono;
    memory.hastened.retain(|_, at| now - *at < HASTENED_KNOWN_MS);
    memory.hastened.insert(hastened.dead.clone(), now);
    let told = memory.hurried.take_if(|(begun, _)| *begun == hastened.begun);
    let mut told = told.map(|(_, told)| told).unwrap_or_default();
    let hurries = |found: &Present<'_>| found.answer.timeout_ms == Some(HASTE_TIMEOUT_MS);
    let members = scene.members().into_iter().filter(|(_, found)| hurries(found));
    told.extend(members.map(|(id, _)| id.clone()));
    memory.hurried = Some((hastened.begun.clone(), told));
}

/// Begins, where an owner's process is certainly gone.
pub(super) fn begin(scene: &Scene<'_>, memory: &DutyMemory, due: &mut Due) {
    let Some(judged) = scene.judged else { return };
    let before = scene.record.claims.hastened.as_ref();
    for shard in scene.record.shards.values() {
        // Once is enough.
        if before.is_some_and(|before| before.dead == shard.owner) {
            continue;
        }
        let Some(node) = scene.record.nodes.get(&shard.owner) else { continue };
        let dead = &shard.owner;
        let death = proven(scene, dead, node);
        if !judged.voters.contains(dead) || (death.is_none() && !is_gone(scene, dead, node)) {
            continue;
        }
        let sign = death.map_or(DeathSign::Refused, Death::sign);
        match may_hurry(scene, dead, node, memory) {
            Ok(waited_ms) => {
                due.claims.hastened = Some(Hastened {
                    begun: scene.view.begun(),
                    dead: dead.clone(),
                    evidence: sign.as_str().to_owned(),
                    pid: death.map(|death| death.pid),
                    waited_ms,
                    over: false,
                });
                return;
            }
            Err(why) => {
                let at = &node.address;
                let label = why.as_str();
                // What the operator wants is no obstacle.
                if why != WhyUnhurried::SwitchedOff {
                    due.obstacle = Some(format!(
                        "the death of {at} ({dead}) is left to the nodes' own pace: {why}"
                    ));
                }
                due.left = Some(LeftDeath { dead: dead.clone(), sign, why: label });
            }
        }
    }
}

/// The kernel of its host says that its process has ended, and what was asked there last has no answer.
fn proven<'a>(scene: &Scene<'a>, id: &NodeId, node: &NodeRecord) -> Option<&'a Death> {
    let death = scene.view.deaths.get(id)?;
    let seen = scene.view.nodes.get(&node.address)?;
    let silent = matches!(seen.missing, Some(NoAnswer::Refused(_) | NoAnswer::Silent(_)));
    (silent && scene.view.now.mono - death.at <= DEATH_KNOWN_MS).then_some(death)
}

/// Its host refuses connections, each replica that answers has lost its link to it, and so have more than half of the
/// voters.
fn is_gone(scene: &Scene<'_>, id: &NodeId, node: &NodeRecord) -> bool {
    let Some(seen) = scene.view.nodes.get(&node.address) else { return false };
    if seen.refused_for_ms().is_none_or(|ms| ms < REFUSED_FOR_MS) {
        return false;
    }
    let members = scene.members();
    let replicas: Vec<bool> = replicas(&members, id).map(|found| has_lost_link(found)).collect();
    let voters = scene.judged.map(|judged| &judged.voters);
    let voters = voters.into_iter().flatten();
    let (mut all, mut lost) = (0_usize, 0_usize);
    for voter in voters {
        all += 1;
        let row = members.get(voter).and_then(|found| found.answer.table.rows.get(id));
        lost += usize::from(voter != id && row.is_some_and(|row| !row.linked));
    }
    !replicas.is_empty() && replicas.iter().all(|lost| *lost) && lost * 2 > all
}

fn replicas<'a, 'b>(
    members: &'b BTreeMap<&'a NodeId, Present<'a>>,
    of: &'b NodeId,
) -> impl Iterator<Item = &'b Present<'a>> {
    members.values().filter(move |found| {
        let own = found.answer.table.own_row();
        own.is_some_and(|row| row.role == TableRole::Replica(of.clone()))
    })
}

fn has_lost_link(replica: &Present<'_>) -> bool {
    replica.answer.link.as_ref().is_some_and(|link| !link.up)
}

/// What each of the others waits for.
///
/// # Errors
/// Why it is left to the cluster's own pace.
fn may_hurry(
    scene: &Scene<'_>,
    dead: &NodeId,
    node: &NodeRecord,
    memory: &DutyMemory,
) -> Result<BTreeMap<NodeId, u64>, WhyUnhurried> {
    if !scene.view.policy.duties.hasten {
        return Err(WhyUnhurried::SwitchedOff);
    }
    if scene.migrating() {
        return Err(WhyUnhurried::Moving);
    }
    if scene.view.maintenance.contains(dead) {
        return Err(WhyUnhurried::Maintenance);
    }
    let members = scene.members();
    // Those in maintenance stand for no election.
    let electable = |found: &Present<'_>| !scene.view.maintenance.contains(&found.answer.table.own);
    if !replicas(&members, dead).any(electable) {
        return Err(WhyUnhurried::NoReplica);
    }
    let mut waited = BTreeMap::new();
    for (id, found) in members.into_iter().filter(|(id, _)| *id != dead) {
        let Some(ms) = found.answer.timeout_ms else {
            return Err(WhyUnhurried::TimeoutUnknown(found.address.clone()));
        };
        waited.insert(id.clone(), ms);
    }
    let longest = waited.values().copied().max().unwrap_or(0);
    if longest <= HASTE_TIMEOUT_MS {
        return Err(WhyUnhurried::TimeoutShort);
    }
    // Redis before Valkey 9 counts the votes of one election twice within that time.
    let (led_ms, least_ms) = (led_ms(scene, dead, node), longest.saturating_mul(4));
    if led_ms < least_ms {
        return Err(WhyUnhurried::OwnedLately(led_ms / 1_000));
    }
    // They may have voted, and it was back before one was elected.
    let ago_ms = memory.hastened.get(dead).map(|at| scene.view.now.mono - *at);
    match ago_ms.filter(|ago_ms| *ago_ms < least_ms) {
        Some(ago_ms) => Err(WhyUnhurried::HurriedLately(ago_ms / 1_000)),
        None => Ok(waited),
    }
}

/// For how long it has owned its slots, as far as that is recorded.
fn led_ms(scene: &Scene<'_>, id: &NodeId, node: &NodeRecord) -> u64 {
    let shard = scene.record.shards.values().find(|shard| shard.owner == *id);
    let since = shard.and_then(|shard| shard.since).unwrap_or(node.since);
    between_ms(since, scene.view.now.wall)
}

/// Goes on with an election that is hastened.
pub(super) fn go_on(scene: &Scene<'_>, hastened: &Hastened, memory: &DutyMemory, due: &mut Due) {
    let members = scene.members();
    if hastened.over {
        return wait_as_before(scene, hastened, &members, due);
    }
    let owned = scene.record.shards.values().any(|shard| shard.owner == hastened.dead);
    if !owned || is_back(scene, hastened, &members) || scene.claims_ms >= HASTE_FOR_MS {
        due.claims.hastened = Some(Hastened { over: true, ..hastened.clone() });
        // At once, whether Consul can be told that it is over or not.
        put_back(hastened, &members, due);
        return;
    }
    let its = hastened.begun.by == scene.view.policy.agent;
    if !its && scene.claims_ms < HASTE_LEFT_TO_ONE_MS {
        return;
    }
    // One that waits as before again was told so by an agent that knows of the end already.
    let told = memory.hurried.as_ref().map(|(_, told)| told);
    let due_for = |id: &NodeId| {
        hastened.waited_ms.contains_key(id) && told.is_none_or(|told| !told.contains(id))
    };
    for (id, found) in members.iter().filter(|(id, _)| due_for(id)) {
        if found.answer.timeout_ms.is_some_and(|ms| ms > HASTE_TIMEOUT_MS) {
            due.tell(found.address, id, NodeCommand::NodeTimeout(HASTE_TIMEOUT_MS));
        }
    }
}

/// Nothing is hastened any more: all wait as before.
pub(super) fn end(scene: &Scene<'_>, hastened: &Hastened, due: &mut Due) {
    let members = scene.members();
    if hastened.over {
        return wait_as_before(scene, hastened, &members, due);
    }
    due.claims.hastened = Some(Hastened { over: true, ..hastened.clone() });
    put_back(hastened, &members, due);
}

/// It answers, and was asked since this agent knows that it has died.
fn is_back(
    scene: &Scene<'_>,
    hastened: &Hastened,
    members: &BTreeMap<&NodeId, Present<'_>>,
) -> bool {
    let asked = |found: &Present<'_>| scene.view.nodes.get(found.address)?.answer.as_ref();
    let asked = members.get(&hastened.dead).and_then(asked).map(|(asked, _)| *asked);
    asked.is_some_and(|asked| scene.view.now.mono - asked < scene.claims_ms)
}

/// All agents put it back, whichever began it.
fn wait_as_before(
    scene: &Scene<'_>,
    hastened: &Hastened,
    members: &BTreeMap<&NodeId, Present<'_>>,
    due: &mut Due,
) {
    let missing = |id: &&NodeId| !members.contains_key(*id) && scene.record.nodes.contains_key(*id);
    let left = put_back(hastened, members, due) | hastened.waited_ms.keys().any(|id| missing(&id));
    if !left || scene.claims_ms >= RESTORED_WITHIN_MS {
        let owns = scene.record.shards.values().any(|shard| shard.owner == hastened.dead);
        let dead = owns && !members.contains_key(&hastened.dead);
        let past = Hastened { waited_ms: BTreeMap::new(), ..hastened.clone() };
        due.claims.hastened = dead.then_some(past);
    }
}

/// Has the nodes that answer wait as before. Whether one of them did not.
fn put_back(hastened: &Hastened, members: &BTreeMap<&NodeId, Present<'_>>, due: &mut Due) -> bool {
    let mut left = false;
    for (id, waited_ms) in &hastened.waited_ms {
        let Some(found) = members.get(id) else { continue };
        if found.answer.timeout_ms == Some(HASTE_TIMEOUT_MS) && *waited_ms != HASTE_TIMEOUT_MS {
            left = true;
            due.tell(found.address, id, NodeCommand::NodeTimeout(*waited_ms));
        }
    }
    left
}

/// Has nodes wait as most others do that were left with what they were told for the moment of an election.
pub(super) fn catch_up(scene: &Scene<'_>, memory: &mut DutyMemory, due: &mut Due) {
    let hastened = scene.record.claims.hastened.as_ref();
    let hurried = hastened.is_some_and(|hastened| !hastened.is_past());
    let members = scene.members();
    let timeouts: BTreeMap<&NodeId, u64> =
        members.iter().filter_map(|(id, found)| Some((*id, found.answer.timeout_ms?))).collect();
    let usual = usual_timeout(timeouts.values().copied()).filter(|_| !hurried);
    let left = |id: &NodeId| timeouts.get(id) == Some(&HASTE_TIMEOUT_MS) && usual.is_some();
    memory.left_behind.retain(|id, _| left(id));
    let Some(usual) = usual else { return };
    let now = scene.view.now.mono;
    for (id, found) in members.iter().filter(|(id, _)| left(id)) {
        let since = *memory.left_behind.entry((*id).clone()).or_insert(now);
        let wanted_ms = (now - since).checked_sub(LEFT_BEHIND_MS);
        if wanted_ms.is_some_and(|ms| scene.is_its_turn(ms)) {
            due.tell(found.address, id, NodeCommand::NodeTimeout(usual));
        }
    }
}
