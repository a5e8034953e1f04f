//! Handing over: before an agent that is stopped takes its host's Redis out of Consul, it moves the primaries that
//! are on this host away.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::cluster::look as look_at_nodes;
use crate::config::{ClusterConfig, Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::cluster::judgement::judge;
use crate::core::cluster::shard_move::{MovedShard, WantedMove, prepare_shard};
use crate::core::cluster::table::NodeId;
use crate::core::duty::switchover::prepare;
use crate::core::identity::address::Address;
use crate::core::known::memory::Memory;
use crate::core::known::view::View;
use crate::dns::Names;
use crate::exit::Failure;
use crate::observe::{Look, look};
use crate::shard_move::move_shard;
use crate::switchover::{Mover, SwitchoverStep, rights};

/// How long all of it may take. Less than the 30 s after which Kubernetes and Nomad kill.
pub const HAND_OVER_MAX: Duration = Duration::from_secs(20);

/// What a Sentinel answers that has not asked its replicas since they came into sync: it does so every 10 s.
const NO_GOOD_REPLICA: &str = "NOGOODSLAVE";
/// Under `exec` the others may be about to be stopped as well: those that are chosen then would be promoted when they
/// are started again. They are gone by the end of this.
const STOPPED_TOGETHER: Duration = Duration::from_secs(1);
/// Between two attempts then; writes are held for some milliseconds in each.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Moves every primary of this host away, where another instance can take its place. What cannot be moved is said, and
/// left to Sentinel.
pub async fn hand_over(config: &Config, consul: &Consul, clock: Clock) {
    let groups = config.groups.iter().filter(|group| !group.policy.local.is_empty());
    let moves = groups.map(|group| hand_over_one(config, group, consul, clock));
    let clusters = config
        .clusters
        .iter()
        .filter(|cluster| !cluster.local.is_empty() && cluster.policy.duties.manage);
    let shards = clusters.map(|cluster| async {
        if let Err(why) = hand_over_shards(config, cluster, consul, clock).await {
            warn!("{}: a shard is not handed over: {why}", cluster.policy.name);
        }
    });
    let all = async {
        tokio::join!(join_all(moves), join_all(shards));
    };
    if tokio::time::timeout(HAND_OVER_MAX, all).await.is_err() {
        warn!("not everything was handed over in {} s", HAND_OVER_MAX.as_secs());
    }
}

/// Moves the shards that nodes of this host own to replicas of theirs elsewhere.
async fn hand_over_shards(
    config: &Config,
    cluster: &ClusterConfig,
    consul: &Consul,
    clock: Clock,
) -> Result<(), String> {
    let (name, names) = (&cluster.policy.name, Names::new(config.resolver));
    let store = consul.cluster(&cluster.policy.layout, &clock).await;
    let store = store.map_err(|error| error.to_string())?;
    if let Some(pause) = store.paused(clock.now().wall) {
        return Err(pause.to_string());
    }
    let Some(record) = store.record() else { return Ok(()) };
    let nodes: Vec<Address> = record.nodes.values().map(|node| node.address.clone()).collect();
    for local in &cluster.local {
        for at in names.addresses(local).await.map_err(|error| error.to_string())? {
            let owns = |id: &NodeId| record.nodes.get(id).is_some_and(|node| node.address == at);
            if !record.shards.values().any(|shard| owns(&shard.owner)) {
                continue;
            }
            let readings = look_at_nodes(&nodes, &cluster.login, &names, true).await;
            let readings = readings.map_err(|error| error.to_string())?;
            let judged = judge(&readings).map_err(|none| none.to_string())?;
            let shard = MovedShard::OwnedAt(&at);
            let (wanted, now) = (WantedMove { shard, to: None, forced: false }, clock.now().wall);
            let (checks, plan) = prepare_shard(record, &judged, &readings, wanted, now);
            let Some(plan) = plan else {
                let wrong = checks.into_iter().filter_map(|check| check.found.err());
                return Err(wrong.collect::<Vec<_>>().join("; "));
            };
            let took = move_shard(&plan, &nodes, &cluster.login, &names).await?;
            let (to, ms) = (&plan.to.1, took.as_millis());
            info!("{name}: shard {} handed over from {at} to {to} in {ms} ms", plan.shard);
        }
    }
    Ok(())
}

/// Under `exec` the server is told to stop as soon as the agent has left.
fn server_stops(config: &Config) -> bool {
    config.redis.iter().any(|redis| redis.forgotten_after.is_some())
}

async fn hand_over_one(config: &Config, group: &GroupConfig, consul: &Consul, clock: Clock) {
    let name = &group.policy.group;
    let (mut said, mut waited) = (false, !server_stops(config));
    loop {
        match try_hand_over(config, group, consul, clock, &mut waited).await {
            Ok(()) => return,
            Err(failure) if failure.message.contains(NO_GOOD_REPLICA) => {
                if !said {
                    info!(
                        "{name}: the Sentinels do not know yet that a replica is in sync; trying again"
                    );
                    said = true;
                }
                tokio::time::sleep(AGAIN_EVERY).await;
            }
            Err(failure) => {
                return warn!("{name}: the primary is not handed over: {}", failure.message);
            }
        }
    }
}

/// The instance is on this host: it may be configured by another of its addresses.
fn is_here(view: &View<'_>, instance: &Address) -> bool {
    let local = &view.policy.local;
    local.contains(instance) || local.iter().any(|at| view.alias_of(at) == Some(instance))
}

fn leads_here(group: &GroupConfig, seen: &Look, clock: Clock) -> bool {
    let memory = Memory::default();
    let view = View::of_one_look(&group.policy, &memory, &seen.observed, clock.now());
    view.writer().is_some_and(|writer| is_here(&view, writer))
}

async fn try_hand_over(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    clock: Clock,
    waited: &mut bool,
) -> Result<(), Failure> {
    let (name, names) = (&group.policy.group, Names::new(config.resolver));
    let mut seen = look(config, group, consul, &names, &clock).await?;
    if !*waited && leads_here(group, &seen, clock) {
        *waited = true;
        tokio::time::sleep(STOPPED_TOGETHER).await;
        seen = look(config, group, consul, &names, &clock).await?;
    }
    let memory = Memory::default();
    let view = View::of_one_look(&group.policy, &memory, &seen.observed, clock.now());
    let Some(writer) = view.writer().filter(|writer| is_here(&view, writer)) else {
        debug!("{name}: the primary is not on this host");
        return Ok(());
    };
    if let Some(pause) = view.pause() {
        warn!("{name}: the primary {writer} is not handed over: {pause}");
        return Ok(());
    }
    info!("{name}: handing {writer} over before the agent stops");
    let (mut checks, switchover) = prepare(&view, None);
    let switchover = match switchover {
        Some(switchover) => {
            checks.push(rights(group, &switchover).await);
            Some(switchover).filter(|_| checks.iter().all(|check| check.found.is_ok()))
        }
        None => None,
    };
    let Some(switchover) = switchover else {
        for check in checks {
            if let Err(why) = check.found {
                warn!("{name}: the primary {writer} stays where it is: {} {why}", check.what);
            }
        }
        return Ok(());
    };
    let server_stops = server_stops(config);
    let report = |step: SwitchoverStep| debug!("{name}: {} {}", step.what, step.detail);
    // The agent is about to stop.
    let waits_for_consul = Duration::ZERO;
    let mover =
        Mover { config, group, consul, clock, server_stops, waits_for_consul, report: &report };
    let moved = mover.go(&switchover).await?;
    let gap = moved.gap.as_millis();
    info!("{name}: handed over from {} to {}, {gap} ms without a write", moved.from, moved.to);
    Ok(())
}
