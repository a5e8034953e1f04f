//! A planned move of a shard to one of its replicas: whether it can be made now, and everything that speaks against it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::judgement::{Fitness, JudgedNode, Judgement, NodeReadings};
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
}

/// Which shard is to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovedShard<'a> {
    /// The one with this number.
    Numbered(u32),
    /// The one that this node owns.
    OwnedAt(&'a Address),
}

/// Looks at everything, and says what move can be made; `None` when a check has failed.
pub fn prepare_shard(
    record: &ClusterRecord,
    judged: &Judgement,
    readings: &NodeReadings,
    moved: MovedShard<'_>,
    to: Option<&Address>,
    now: Timestamp,
) -> (Vec<Check>, Option<ShardMove>) {
    let found = record.shards.iter().find(|(number, shard)| match moved {
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
    let owner = by_id.get(&shard.owner).filter(|node| node.fitness == Fitness::Primary);
    let target = target(judged, &shard.owner, to);
    let checks = vec![
        Check {
            what: "owner",
            found: match owner {
                Some(node) => Ok(format!("{} owns shard {number}", node.address)),
                None => Err(format!(
                    "node {}, which owns shard {number}, cannot take requests",
                    shard.owner
                )),
            },
        },
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
    let made = owner.zip(target.ok()).filter(|_| well).and_then(|(from, to)| {
        let from = (shard.owner.clone(), from.address.clone());
        let to = (to.id.clone()?, to.address.clone());
        Some(ShardMove { shard: *number, from, to, epoch: shard.epoch })
    });
    (checks, made)
}

fn target<'a>(
    judged: &'a Judgement,
    owner: &NodeId,
    to: Option<&Address>,
) -> Result<&'a JudgedNode, String> {
    let follows =
        |node: &&JudgedNode| node.fitness == Fitness::Replica && node.owner.as_ref() == Some(owner);
    let mut fit = judged.nodes.iter().filter(follows);
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
