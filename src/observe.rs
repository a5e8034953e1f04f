//! One look at everything, for commands that look once: the same questions as the agent's, asked in
//! order, with the same deadlines.

use std::collections::BTreeSet;

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::core::address::{Address, GroupName};
use crate::core::observed::{InstanceAnswer, Observed, Reading, SentinelAnswer};
use crate::core::replicas::named_by;
use crate::dns::Names;
use crate::instance;
use crate::redis_link::{Link, LinkError, LinkSettings};
use crate::sentinel::pool::{SENTINELS_MAX, find};
use crate::sentinel::query;

/// One look at a group.
pub struct Look {
    /// What was seen.
    pub observed: Observed,
    /// Sentinels that could not even be looked for, and why.
    pub failures: Vec<String>,
}

/// Looks at one group: Consul first, then its Sentinels, then the instances they name.
///
/// # Errors
/// [`ConsulError`] when Consul cannot be read; Sentinels and instances that do not answer are part of
/// what is seen.
pub async fn look(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
) -> Result<Look, ConsulError> {
    let store = consul.group(&group.layout, ReadMode::Consistent, clock).await?.value;
    let rows = consul.rows(&group.layout.node(), clock).await?;
    let (mut sentinels, failures) = find(&config.sources, names, consul).await;
    // Whoever looks without a list of Sentinels uses the recorded one.
    sentinels.extend(store.record().into_iter().flat_map(|record| record.sentinels.clone()));
    let mut observed =
        Observed { store: Some(store), rows: Some(rows), ..Observed::default() };
    ask_sentinels(config, &group.policy.group, sentinels, clock, &mut observed).await;
    let mut instances: BTreeSet<Address> = observed
        .sentinels
        .values()
        .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
        .flat_map(|group| named_by(group).cloned().collect::<Vec<_>>())
        .collect();
    if let Some(record) = observed.record() {
        instances.extend(record.instances.iter().map(|i| i.address.clone()));
    }
    let probes = instances.into_iter().map(|address| async {
        let reading = probe(&address, &group.login, clock).await;
        (address, reading)
    });
    observed.instances = futures_util::future::join_all(probes).await.into_iter().collect();
    Ok(Look { observed, failures })
}

/// Asks all Sentinels, and then those that they name and that were not asked.
async fn ask_sentinels(
    config: &Config,
    group: &GroupName,
    first: BTreeSet<Address>,
    clock: &Clock,
    observed: &mut Observed,
) {
    let mut next = first;
    for _round in 0..2 {
        let asks = next.iter().take(SENTINELS_MAX).map(|address| async {
            (address.clone(), ask(address, group, &config.sentinel_login, clock).await)
        });
        let answers: Vec<_> = futures_util::future::join_all(asks).await;
        observed.sentinels.extend(answers);
        if !config.sources.peers {
            return;
        }
        let ids: Vec<_> = observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok())
            .map(|answer| answer.id.clone())
            .collect();
        next = observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
            .flat_map(|group| &group.peers)
            .filter(|peer| !ids.contains(&peer.id))
            .map(|peer| peer.address.clone())
            .filter(|address| !observed.sentinels.contains_key(address))
            .collect();
    }
}

async fn ask(
    address: &Address,
    group: &GroupName,
    login: &LinkSettings,
    clock: &Clock,
) -> Reading<SentinelAnswer> {
    let asked = clock.now().mono;
    let answer = async {
        let mut link = Link::open(address, login).await?;
        let id = query::identity(&mut link).await?;
        query::ask(&mut link, &id, group).await
    };
    reading(asked, answer.await, clock)
}

async fn probe(
    address: &Address,
    login: &LinkSettings,
    clock: &Clock,
) -> Reading<InstanceAnswer> {
    let asked = clock.now().mono;
    let answer = async {
        let mut link = Link::open(address, login).await?;
        instance::probe(&mut link).await
    };
    reading(asked, answer.await, clock)
}

fn reading<T>(
    asked: crate::core::time::Mono,
    result: Result<T, LinkError>,
    clock: &Clock,
) -> Reading<T> {
    Reading { asked, answered: clock.now().mono, result: result.map_err(|e| e.to_string()) }
}
