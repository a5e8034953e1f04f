//! What commands know of Redis Clusters: which there are, what Consul holds of one, and how it is told as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::terminal::{self, HISTORY_SHOWN, Style, age};
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::{Consul, ConsulError};
use crate::core::cluster::history::ClusterChange;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::shown::{ClusterStatus, ShardStatus, UnfitMember, cluster_status};
use crate::core::cluster::slots::{SLOTS, in_words};
use crate::core::cluster::wanted::ClusterDuties;
use crate::core::identity::address::GroupName;
use crate::core::known::observed::SEEN_AT_ONCE;
use crate::core::published::projection::Layout;
use crate::observe::published_of_cluster;

/// The clusters that the config has, else those that Consul knows, unless groups were named.
///
/// # Errors
/// A [`ConsulError`] when Consul says something else than keys. One that denies it, or is away, knows none.
pub async fn clusters(
    config: &Config,
    consul: &Consul,
    clock: &Clock,
) -> Result<Vec<ClusterPolicy>, ConsulError> {
    if config.groups_named || !config.clusters.is_empty() {
        return Ok(config.clusters.iter().map(|cluster| cluster.policy.clone()).collect());
    }
    let listed = match consul.clusters(&config.prefix).await {
        Err(ConsulError::Denied { .. }) => BTreeSet::new(),
        Err(error) if error.leaves_unread() => BTreeSet::new(),
        listed => listed?,
    };
    let mut all = Vec::new();
    for name in listed {
        all.extend(recorded(config, consul, clock, &name).await?);
    }
    Ok(all)
}

/// A cluster that is not in the config, as Consul knows it.
async fn recorded(
    config: &Config,
    consul: &Consul,
    clock: &Clock,
    name: &GroupName,
) -> Result<Option<ClusterPolicy>, ConsulError> {
    let layout = Layout::of_cluster(&config.prefix, name);
    let store = consul.cluster(&layout, clock).await?;
    Ok(store.record().map(|record| ClusterPolicy {
        name: name.clone(),
        service: record.service.clone(),
        layout,
        agent: String::new(),
        zone: None,
        duties: ClusterDuties::NONE,
    }))
}

/// The cluster that a command's argument means: one of the config, else a published one. A group of that name goes before
/// it, where it is in the config, or published and the cluster is not in the config.
///
/// # Errors
/// A [`ConsulError`] when Consul does not say.
pub async fn cluster_meant(
    config: &Config,
    consul: &Consul,
    clock: &Clock,
    name: &GroupName,
) -> Result<Option<ClusterPolicy>, ConsulError> {
    if config.groups_named && config.groups.iter().any(|group| group.policy.group == *name) {
        return Ok(None);
    }
    if let Some(own) = config.clusters.iter().find(|cluster| cluster.policy.name == *name) {
        return Ok(Some(own.policy.clone()));
    }
    let group = Layout::new(&config.prefix, name).state();
    if consul.key(&group).await.or_else(unless_unknown)?.is_some() {
        return Ok(None);
    }
    recorded(config, consul, clock, name).await.or_else(unless_unknown)
}

/// What may not be read, or cannot now, is not known to be there.
fn unless_unknown<T>(error: ConsulError) -> Result<Option<T>, ConsulError> {
    match error {
        ConsulError::Denied { .. } => Ok(None),
        error if error.leaves_unread() => Ok(None),
        error => Err(error),
    }
}

/// What Consul holds of a cluster.
///
/// # Errors
/// A [`ConsulError`] without an answer.
pub async fn look(
    policy: &ClusterPolicy,
    consul: &Consul,
    clock: &Clock,
) -> Result<ClusterStatus, ConsulError> {
    let (store, rows) = published_of_cluster(policy, consul, clock).await?;
    let mut status = cluster_status(policy, Some(&store), Some(&rows), None);
    status.note_pause(store.paused(clock.now().wall));
    Ok(status)
}

/// One cluster, as text.
pub fn describe(status: &ClusterStatus, now: Timestamp, style: Style) -> String {
    let mut text = String::new();
    let health = style.health(status.healthy, status.degraded);
    let _ = writeln!(
        text,
        "{}: {health}, {} -> {} of {SLOTS} slots are served",
        style.bold(status.cluster.as_str()),
        status.name,
        status.slots_served
    );
    for problem in &status.problems {
        let _ = writeln!(text, "  {} {}", style.bad("problem:"), problem.text);
    }
    if let (Some(since), Some(by), Some(why)) = (status.since, &status.by, &status.why) {
        let age = age(now.duration_since(since));
        let generation = status.generation;
        let _ = writeln!(
            text,
            "  generation {generation}, since {since:.0} ({age} ago), by {by}: {why}"
        );
    }
    for line in &status.under_way {
        let _ = writeln!(text, "  under way: {line}");
    }
    let agents =
        if status.agents.is_empty() { "none".to_owned() } else { status.agents.join(", ") };
    let _ = writeln!(text, "  watched by: {agents}");
    let shards = status.shards.iter().map(|shard| shard_row(status, shard));
    table(&mut text, "shards", shards.collect(), style);
    let moving = status.migrations.iter();
    let moving =
        moving.map(|one| vec![in_words(&one.slots), format!("{} -> {}", one.from, one.to)]);
    table(&mut text, "slots that migrate", moving.collect(), style);
    let unfit = status.unfit.iter().map(|node| unfit_row(status, node));
    table(&mut text, "in no name", unfit.collect(), style);
    let unseen = status.ends_seen.iter().filter(|(_, seen)| *seen != SEEN_AT_ONCE);
    let unseen = unseen.map(|(at, why)| vec![at.to_string(), why.clone()]);
    table(&mut text, "their end would not be seen at once", unseen.collect(), style);
    let history = status.history.iter().take(HISTORY_SHOWN).map(change_row);
    table(&mut text, "history", history.collect(), style);
    text
}

fn shard_row(status: &ClusterStatus, shard: &ShardStatus) -> Vec<String> {
    let primary = shard.primary.as_ref();
    let primary = primary.map_or_else(|| "no primary".to_owned(), |at| status.placed(at));
    let replicas: Vec<String> = shard.replicas.iter().map(|at| status.placed(at)).collect();
    let replicas = match &replicas[..] {
        [] => "no replica".to_owned(),
        some => format!("replicas {}", some.join(" ")),
    };
    vec![shard.shard.to_string(), in_words(&shard.slots), primary, replicas]
}

fn unfit_row(status: &ClusterStatus, node: &UnfitMember) -> Vec<String> {
    let place = match (node.role, node.shard) {
        (Some(role), Some(shard)) => format!("{} of shard {shard}", role.as_str()),
        _ => "of no shard".to_owned(),
    };
    vec![status.placed(&node.address), node.id.to_string(), place, node.why.clone()]
}

fn change_row(change: &ClusterChange) -> Vec<String> {
    let what = match &change.what[..] {
        [] => String::new(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first}, and {} more", more.len()),
    };
    vec![change.generation.to_string(), format!("{:.3}", change.at), what]
}

fn table(text: &mut String, title: &str, rows: Vec<Vec<String>>, style: Style) {
    if !rows.is_empty() {
        let _ = writeln!(text, "  {}", style.dim(title));
        terminal::columns(text, "    ", rows, style);
    }
}
