//! Moving a shard to one of its replicas: the replica is asked once, and a majority of the voters says when it is done.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{look, tell};
use crate::core::cluster::judgement::{NodeReadings, judge};
use crate::core::cluster::order::{NodeCommand, NodeOrder};
use crate::core::cluster::shard_move::ShardMove;
use crate::core::identity::address::Address;
use crate::dns::Names;
use crate::redis_link::LinkSettings;

/// A replica that has not taken over after so long does not do it any more: it gives up after 5 s.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(6);
/// Between two looks at the voters.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks the replica to take over, and waits until more than half of the voters have it for the owner by a newer claim.
/// How long that took.
///
/// # Errors
/// What the replica said instead of `OK`, or that it has not taken over in time: then the shard is where it was.
pub async fn move_shard(
    plan: &ShardMove,
    nodes: &[Address],
    login: &LinkSettings,
    names: &Names,
) -> Result<Duration, String> {
    let (id, address) = &plan.to;
    let command = if plan.forced { NodeCommand::ForcedFailover } else { NodeCommand::Failover };
    let order = NodeOrder { to: address.clone(), id: id.clone(), command };
    let asked = Instant::now();
    tell(&order, login, || true)
        .await
        .map_err(|why| format!("{address} does not take over: {why}"))?;
    while asked.elapsed() < TAKEN_OVER_WITHIN {
        let readings = look(nodes, login, names, false).await.unwrap_or_default();
        if is_moved(plan, &readings) {
            return Ok(asked.elapsed());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let s = TAKEN_OVER_WITHIN.as_secs();
    Err(format!("{address} has not taken over within {s} s: the shard is where it was"))
}

fn is_moved(plan: &ShardMove, readings: &NodeReadings) -> bool {
    judge(readings).is_ok_and(|judged| {
        judged.shards.iter().any(|shard| shard.owner == plan.to.0 && shard.epoch > plan.epoch)
    })
}
