//! A planned move of a shard to one of its replicas: whether it can be made now, and everything that speaks against it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::judgement::{Fitness, JudgedNode, Judgement, NodeReadings, Unfit};
use super::record::ClusterRecord;
use super::table::NodeId;
use crate::duty::switchover::Check;
use crate::identity::address::Address;
use crate::time::between_ms;

/// What a node waits for before it calls another one failing, where it does not say that: Redis's own default, in ms.
const TIMEOUT_MS: u64 = 15_000;

/// A move that can be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMove {
    /// The number of the shard.
    pub shard: u32,
    /// Who owns it now, and where that is.
    pub from: (NodeId, Address),
    /// Who is to own it, and where that is.
    pub to: (NodeId, Address),
    /// The epoch of the claim now: the new one has a greater one.
    pub epoch: u64,
    /// Without the owner, which is dead.
    pub forced: bool,
}

/// Which shard is to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovedShard<'a> {
    /// The one with this number.
    Numbered(u32),
    /// The one that this node owns.
    OwnedAt(&'a Address),
}

/// What an operator or an agent wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedMove<'a> {
    /// Which shard.
    pub shard: MovedShard<'a>,
    /// To which of its replicas; `None`: any.
    pub to: Option<&'a Address>,
    /// The owner is dead, and no replica was elected by itself: one is told to take over without it. What that one has
    /// not copied is lost.
    pub forced: bool,
}

/// Looks at everything, and says what move can be made; `None` when a check has failed.
pub fn prepare_shard(
    record: &ClusterRecord,
    judged: &Judgement,
    readings: &NodeReadings,
    wanted: WantedMove<'_>,
    now: Timestamp,
) -> (Vec<Check>, Option<ShardMove>) {
    let forced = wanted.forced;
    let found = record.shards.iter().find(|(number, shard)| match wanted.shard {
        MovedShard::Numbered(wanted) => **number == wanted,
        MovedShard::OwnedAt(at) => {
            record.nodes.get(&shard.owner).is_some_and(|node| node.address == *at)
        }
    });
    let Some((number, shard)) = found else {
        let numbers: Vec<String> = record.shards.keys().map(ToString::to_string).collect();
        let why = format!("no such shard: there are {}", numbers.join(", "));
        return (vec![Check { what: "shard", found: Err(why) }], None);
    };
    let by_id: BTreeMap<&NodeId, &JudgedNode> =
        judged.nodes.iter().filter_map(|node| Some((node.id.as_ref()?, node))).collect();
    let owner = by_id.get(&shard.owner).copied();
    let from = owner.map(|node| &node.address);
    let from = from.or_else(|| record.nodes.get(&shard.owner).map(|node| &node.address));
    let target = target(record, judged, &shard.owner, wanted);
    let checks = vec![
        Check { what: "owner", found: may_leave(*number, &shard.owner, owner, forced) },
        Check {
            what: "target",
            found: match &target {
                Ok(node) => Ok(format!("{} follows it", node.address)),
                Err(why) => Err(why.clone()),
            },
        },
        Check { what: "slots", found: still(judged) },
        Check {
            what: "last change",
            found: settled(shard.since.unwrap_or(record.since), readings, now),
        },
    ];
    let well = checks.iter().all(|check| check.found.is_ok());
    let made = from.zip(target.ok()).filter(|_| well).and_then(|(from, to)| {
        let from = (shard.owner.clone(), from.clone());
        let to = (to.id.clone()?, to.address.clone());
        Some(ShardMove { shard: *number, from, to, epoch: shard.epoch, forced })
    });
    (checks, made)
}

/// An owner that takes requests gives them away itself; one without an answer is passed over where that is wanted.
fn may_leave(
    shard: u32,
    owner: &NodeId,
    node: Option<&JudgedNode>,
    forced: bool,
) -> Result<String, String> {
    let silent = |node: &JudgedNode| matches!(node.fitness, Fitness::Unfit(Unfit::Silent(_)));
    match (node, forced) {
        (Some(node), false) if node.fitness == Fitness::Primary => {
            Ok(format!("{} owns shard {shard}", node.address))
        }
        (_, false) => Err(format!("node {owner}, which owns shard {shard}, cannot take requests")),
        (Some(node), true) if !silent(node) => Err(format!(
            "{}, which owns shard {shard}, answers: without force, nothing is lost",
            node.address
        )),
        (_, true) => Ok(format!(
            "node {owner}, which owns shard {shard}, gives no answer: what the other one has not copied is lost"
        )),
    }
}

fn target<'a>(
    record: &ClusterRecord,
    judged: &'a Judgement,
    owner: &NodeId,
    wanted: WantedMove<'_>,
) -> Result<&'a JudgedNode, String> {
    let WantedMove { to, forced, .. } = wanted;
    let follows = |node: &&JudgedNode| {
        let fit = match &node.fitness {
            Fitness::Replica => true,
            // Its owner is dead.
            Fitness::Unfit(Unfit::LinkDown | Unfit::Stale(_) | Unfit::StateFail) => forced,
            _ => false,
        };
        fit && node.id.as_ref() != Some(owner) && node.owner.as_ref() == Some(owner)
    };
    let in_service = |node: &&JudgedNode| {
        let recorded = node.id.as_ref().and_then(|id| record.nodes.get(id));
        recorded.is_none_or(|node| !node.in_maintenance())
    };
    let mut fit = judged.nodes.iter().filter(follows).filter(in_service);
    match to {
        Some(to) => fit
            .find(|node| node.address == *to)
            .ok_or_else(|| format!("{to} is no replica of this shard that can take requests")),
        None => fit.next().ok_or_else(|| "no replica of this shard can take requests".to_owned()),
    }
}

fn still(judged: &Judgement) -> Result<String, String> {
    let moving: Vec<String> =
        judged.nodes.iter().filter(|n| n.migrating).map(|n| n.address.to_string()).collect();
    match moving.is_empty() {
        true => Ok("none is moving".to_owned()),
        false => Err(format!("slots are moving from or to {}", moving.join(", "))),
    }
}

/// Redis before Valkey 9 counts the votes of one election twice within four times `cluster-node-timeout`
/// (`docs/facts/cluster.md` 2.5).
fn settled(since: Timestamp, readings: &NodeReadings, now: Timestamp) -> Result<String, String> {
    let timeouts = readings.values().flatten().filter_map(|answer| answer.timeout_ms);
    let wait_ms = timeouts.max().unwrap_or(TIMEOUT_MS).saturating_mul(4);
    let led_ms = between_ms(since, now);
    match led_ms >= wait_ms {
        true => Ok(format!("{} s ago", led_ms / 1_000)),
        false => Err(format!(
            "the shard changed hands {} s ago; again after {} s, four times cluster-node-timeout",
            led_ms / 1_000,
            wait_ms / 1_000
        )),
    }
}
