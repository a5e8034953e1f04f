//! `consul-redis wait GROUP|CLUSTER`: for scripts that need the writer, or replicas, before they go on; of a cluster, every
//! slot.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::clusters::cluster_meant;
use super::terminal::{self, Progress};
use crate::cli::WaitArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::blocking::WATCH_WAIT;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::watch::{GroupWatch, watch_cluster};
use crate::core::cluster::record::{ClusterRole, ClusterStore, StoredCluster};
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::slots::SLOTS;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::{StoreAnswer, StoredState};
use crate::core::published::pause::PauseStatus;
use crate::core::published::projection::Layout;
use crate::core::published::record::Record;
use crate::exit::{Exit, Failure};

/// A group that is as wanted.
#[derive(Debug, Serialize)]
struct Awaited<'a> {
    group: &'a GroupName,
    generation: u64,
    since: Timestamp,
    writer: Option<&'a Address>,
    replicas: Vec<&'a Address>,
}

/// Waits until the group is as wanted, and prints the addresses. [`Exit::Unhealthy`] when it was not in time.
///
/// # Errors
/// A [`Failure`] when Consul denies it, or did not answer in time.
pub async fn run(config: Config, args: &WaitArgs) -> Result<Exit, Failure> {
    let (consul, clock) = (Consul::new(&config.consul)?, Clock::start());
    let end = Instant::now() + args.timeout.0;
    if let Some(cluster) = cluster_meant(&config, &consul, &clock, &args.awaited).await? {
        return wait_for_cluster(&cluster, consul, clock, args, end).await;
    }
    let layout = Layout::new(&config.prefix, &args.awaited);
    let mut watch = GroupWatch::new(consul.clone(), layout.clone(), clock, WATCH_WAIT);
    let mut last: Result<String, ConsulError> = Ok("Consul has not answered".to_owned());
    let mut unknown = false;
    let progress = Progress::new(format!("{}: waiting for Consul", args.awaited));
    while let Ok(answer) = tokio::time::timeout_at(end, watch.next()).await {
        if let Ok(keys) = &answer {
            let was_unknown = std::mem::replace(&mut unknown, keys.state == StoredState::Absent);
            if unknown {
                // Of nothing it is not known whether it is there.
                consul.may_read(&layout.state()).await?;
            }
            if unknown && !was_unknown {
                tell_others(&config, &consul, &args.awaited).await;
            }
        }
        let not_yet = match answer {
            Ok(keys) => match look(&layout, &keys, args.replicas)
                .map_err(|why| besides(why, keys.paused(clock.now().wall)))
            {
                Ok(record) => {
                    drop(progress);
                    show(record, args)?;
                    return Ok(Exit::Done);
                }
                Err(why) => Ok(why),
            },
            Err(error) => Err(error),
        };
        last = told(not_yet, &progress, args)?;
    }
    drop(progress);
    Ok(late(&last?, &format!("--group {}", args.awaited), args))
}

/// Shows what is waited for: what is not as wanted yet, or Consul.
///
/// # Errors
/// The [`ConsulError`] that does not pass by waiting.
fn told(
    not_yet: Result<String, ConsulError>,
    progress: &Progress,
    args: &WaitArgs,
) -> Result<Result<String, ConsulError>, ConsulError> {
    match &not_yet {
        Ok(why) => progress.tell(format!("{}: {why}", args.awaited)),
        Err(error) if error.is_transient() => progress.tell(error.to_string()),
        Err(_) => return not_yet.map(Ok),
    }
    Ok(not_yet)
}

/// What is waited for, and that agents do nothing about it.
fn besides(why: String, pause: Option<PauseStatus>) -> String {
    pause.map_or_else(|| why.clone(), |pause| format!("{why}; {pause}"))
}

/// `named` is what `status` takes.
fn late(why: &str, named: &str, args: &WaitArgs) -> Exit {
    eprintln!("{}: not within {} ms: {why}", args.awaited, args.timeout.as_ms());
    eprintln!("hint: consul-redis status {named} says what is wrong");
    Exit::Unhealthy
}

/// A cluster that is as wanted.
#[derive(Debug, Serialize)]
struct AwaitedCluster {
    cluster: GroupName,
    generation: u64,
    since: Timestamp,
    slots_served: usize,
    primaries: Vec<Address>,
    replicas: Vec<Address>,
}

/// Waits until every slot of it is served, and each shard has as many replicas as wanted.
async fn wait_for_cluster(
    cluster: &ClusterPolicy,
    consul: Consul,
    clock: Clock,
    args: &WaitArgs,
    end: Instant,
) -> Result<Exit, Failure> {
    let (send, mut answers) = mpsc::channel(1);
    let watched = watch_cluster(consul.clone(), cluster.layout.clone(), clock, send);
    let _watch = AbortOnDropHandle::new(tokio::spawn(watched));
    let mut last: Result<String, ConsulError> = Ok("Consul has not answered".to_owned());
    let progress = Progress::new(format!("{}: waiting for Consul", args.awaited));
    while let Ok(Some(answer)) = tokio::time::timeout_at(end, answers.recv()).await {
        let not_yet = match answer {
            Ok(store) => {
                if store.state == StoredCluster::Absent {
                    consul.may_read(&cluster.layout.state()).await?;
                }
                match look_at_cluster(cluster, &store, args.replicas) {
                    Ok(found) => {
                        drop(progress);
                        show_cluster(&found, args)?;
                        return Ok(Exit::Done);
                    }
                    Err(why) => Ok(besides(why, store.paused(clock.now().wall))),
                }
            }
            Err(error) => Err(error),
        };
        last = told(not_yet, &progress, args)?;
    }
    drop(progress);
    Ok(late(&last?, args.awaited.as_str(), args))
}

/// The cluster, when it is as wanted; else why it is not.
fn look_at_cluster(
    cluster: &ClusterPolicy,
    store: &ClusterStore,
    replicas: Option<u16>,
) -> Result<AwaitedCluster, String> {
    let record = match &store.state {
        StoredCluster::Known(record) => record,
        StoredCluster::Absent => return Err("nothing was ever published".to_owned()),
        StoredCluster::Unreadable(why) => {
            return Err(format!("the key {} cannot be used: {why}", cluster.layout.state()));
        }
    };
    let slots_served = record.served();
    if slots_served < SLOTS {
        return Err(format!("{slots_served} of {SLOTS} slots are served: {}", record.why));
    }
    let wanted = replicas.map(usize::from).unwrap_or_default();
    for number in record.shards.keys() {
        let found = record.serving(*number, ClusterRole::Replica).count();
        if found < wanted {
            return Err(format!("shard {number} has {found} of {wanted} replicas"));
        }
    }
    let fit = |role| {
        let of = move |number: &u32| record.serving(*number, role).cloned();
        let all: BTreeSet<Address> = record.shards.keys().flat_map(of).collect();
        all.into_iter().collect()
    };
    Ok(AwaitedCluster {
        cluster: record.cluster.clone(),
        generation: record.generation,
        since: record.since,
        slots_served,
        primaries: fit(ClusterRole::Primary),
        replicas: fit(ClusterRole::Replica),
    })
}

fn show_cluster(found: &AwaitedCluster, args: &WaitArgs) -> Result<(), Failure> {
    if args.json {
        println!("{}", terminal::json(found)?);
        return Ok(());
    }
    let addresses = if args.replicas.is_some() { &found.replicas } else { &found.primaries };
    for address in addresses {
        println!("{address}");
    }
    Ok(())
}

/// Says which groups there are while there is not the one that is waited for: its name may be mistyped.
async fn tell_others(config: &Config, consul: &Consul, awaited: &GroupName) {
    let known = consul.groups(&config.prefix).await.unwrap_or_default();
    if !known.is_empty() {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        let known = known.join(", ");
        eprintln!("{awaited}: nothing was ever published, waiting; the groups there are: {known}");
    }
}

/// The record, when it has what was waited for; else why it is not there.
fn look<'a>(
    layout: &Layout,
    keys: &'a StoreAnswer,
    replicas: Option<u16>,
) -> Result<&'a Record, String> {
    let record = match &keys.state {
        StoredState::Known(record) => record,
        StoredState::Absent => return Err("nothing was ever published".to_owned()),
        StoredState::Unreadable(why) => {
            return Err(format!("the key {} cannot be used: {why}", layout.state()));
        }
    };
    match replicas.map(usize::from) {
        None if record.writer.is_none() => Err(format!("there is no writer: {}", record.why)),
        Some(count) if record.replicas().count() < count => {
            Err(format!("{} of {count} replicas are in sync", record.replicas().count()))
        }
        _ => Ok(record),
    }
}

/// What was waited for, one address a line; or all of it as JSON.
fn show(record: &Record, args: &WaitArgs) -> Result<(), Failure> {
    let Record { group, generation, since, .. } = record;
    let writer = record.writer_address();
    let replicas: Vec<&Address> = record.replicas().collect();
    if args.json {
        let (generation, since) = (*generation, *since);
        println!("{}", terminal::json(&Awaited { group, generation, since, writer, replicas })?);
        return Ok(());
    }
    let addresses = if args.replicas.is_some() { replicas } else { Vec::from_iter(writer) };
    for address in addresses {
        println!("{address}");
    }
    Ok(())
}
