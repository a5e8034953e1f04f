//! One look at everything, for commands that look once: the same questions as the agent's, asked in
//! order, with the same deadlines.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::services::RegisteredBy;
use crate::consul::store::ReadMode;
use crate::core::cluster::record::ClusterStore;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::rows::project as project_cluster;
use crate::core::identity::address::Address;
use crate::core::identity::electorate::is_known;
use crate::core::known::observed::{
    InstanceAnswer, Observed, Reading, Role, RowsAnswer, SentinelAnswer, StoreAnswer,
};
use crate::core::policy::{INSTANCES_MAX, Policy};
use crate::core::published::projection::{Layout, Projection, differences, project};
use crate::core::published::replicas::named_by;
use crate::core::situation::writer::is_of_lineage;
use crate::dns::Names;
use crate::instance;
use crate::process;
use crate::redis_link::{Link, LinkError, LinkSettings};
use crate::sentinel::pool::{FoundSentinels, SENTINELS_MAX, find};
use crate::sentinel::query;

/// How often Consul is looked at while what is published changes in the middle of each look.
const LOOKS_MAX: usize = 4;

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
    let (store, rows) = published(group, consul, clock).await?;
    let server = group.policy.service.server();
    let by = RegisteredBy::Installation(group.policy.installation.clone());
    let registered = consul.service_addresses(&server, &by).await?.into_iter().collect();
    let read = Observed { store: Some(store), rows: Some(rows), registered, ..Observed::default() };
    Ok(see_servers(config, group, consul, names, clock, read).await)
}

/// What is published of a group, and what Consul shows of it.
async fn published(
    group: &GroupConfig,
    consul: &Consul,
    clock: &Clock,
) -> Result<(StoreAnswer, RowsAnswer), ConsulError> {
    let GroupConfig { layout, policy, .. } = group;
    let read = consul.group(layout, ReadMode::Consistent, clock);
    let (mut store, mut look) = (read.await?.value, Looks::default());
    loop {
        let service = store.record().map_or(&policy.service, |record| &record.service);
        let rows = consul.rows_of(&layout.node(), service, clock).await?;
        let shown = store.record().map(project);
        if look.is_one(layout, shown.as_ref(), &rows, &store.plain) {
            return Ok((store, rows));
        }
        let now = consul.group(layout, ReadMode::Consistent, clock).await?.value;
        if now.state_index == store.state_index {
            return Ok((store, rows));
        }
        store = now;
    }
}

/// What is published of a cluster, and what Consul shows of it.
///
/// # Errors
/// A [`ConsulError`] without an answer.
pub async fn published_of_cluster(
    policy: &ClusterPolicy,
    consul: &Consul,
    clock: &Clock,
) -> Result<(ClusterStore, RowsAnswer), ConsulError> {
    let ClusterPolicy { layout, service, .. } = policy;
    let (mut store, mut look) = (consul.cluster(layout, clock).await?, Looks::default());
    loop {
        let rows = consul.rows_of(&layout.node(), service, clock).await?;
        let shown = store.record().map(project_cluster);
        if look.is_one(layout, shown.as_ref(), &rows, &store.plain) {
            return Ok((store, rows));
        }
        let now = consul.cluster(layout, clock).await?;
        if now.index == store.index {
            return Ok((store, rows));
        }
        store = now;
    }
}

/// The record and the rows are two questions, and a change between them shows as a difference: then both are asked
/// again.
#[derive(Default)]
struct Looks(usize);

impl Looks {
    /// Both are of one moment, as far as can be told: they agree, or have been asked often.
    fn is_one(
        &mut self,
        layout: &Layout,
        shown: Option<&Projection>,
        rows: &RowsAnswer,
        plain: &BTreeMap<String, String>,
    ) -> bool {
        self.0 += 1;
        let found = rows.found.as_ref();
        let differs = shown.is_some_and(|shown| differences(layout, shown, found, plain) > 0);
        !differs || self.0 >= LOOKS_MAX
    }
}

/// The same while Consul does not answer: the Sentinels that the config names, and the instances that they name.
pub async fn look_without_consul(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
) -> Look {
    see_servers(config, group, consul, names, clock, Observed::default()).await
}

/// The Sentinels and instances, besides what was read in Consul.
async fn see_servers(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
    mut observed: Observed,
) -> Look {
    let (found, failures) = find(&config.sources, names, consul).await;
    // A command without a list of Sentinels uses the recorded one.
    let recorded: Vec<Address> =
        observed.record().map(|record| record.sentinels.clone()).unwrap_or_default();
    let sentinels: BTreeSet<Address> = recorded.iter().chain(found.keys()).cloned().collect();
    let recorded: BTreeSet<Address> = recorded.into_iter().collect();
    let asker = Asker { config, group: &group.policy, found: &found, clock };
    asker.ask_all(sentinels, &mut observed).await;
    if are_strangers(&observed, &found) {
        // What is recorded is another group's: its Sentinels are none of those that were asked for.
        observed.sentinels.clear();
        asker.ask_all(found.keys().cloned().collect(), &mut observed).await;
    }
    for address in candidates(&found, &recorded, &observed) {
        observed.dismiss_sentinel(&address);
    }
    let mut instances: BTreeSet<Address> = observed
        .sentinels
        .values()
        .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
        .flat_map(|group| named_by(group).cloned().collect::<Vec<_>>())
        .collect();
    instances.extend(observed.registered.iter().cloned());
    if let Some(record) = observed.record() {
        instances.extend(record.instances.iter().map(|i| i.address.clone()));
    }
    let probes = instances.into_iter().map(|address| async {
        let reading = probe(&address, &group.login, clock).await;
        (address, reading)
    });
    let local = group.policy.local.iter().filter(|at| group.policy.acts_on_death_of(at));
    let looks = local
        .map(async |address| Some((address.clone(), process::look(address, &group.login).await?)));
    let (probed, seen) =
        tokio::join!(futures_util::future::join_all(probes), futures_util::future::join_all(looks));
    observed.instances = probed.into_iter().collect();
    observed.processes = seen.into_iter().flatten().collect();
    // What follows a primary of the group and no Sentinel shows (`replica-announced no`), where it answers.
    let connected = |answer: &InstanceAnswer| match &answer.role {
        Role::Primary { replicas } => replicas.iter().map(|r| r.address.clone()).collect(),
        Role::Replica { .. } => Vec::new(),
    };
    let answers = observed.instances.values().filter_map(|reading| reading.result.as_ref().ok());
    let shown: BTreeSet<Address> = answers.flat_map(connected).collect();
    // And a writer of before that may be back, where it answers with data.
    let (wall, within_ms) = (clock.now().wall, group.policy.forget_after_ms);
    let store = observed.store.iter();
    let former = store.flat_map(|store| store.former_writers(wall, within_ms)).cloned();
    let more: BTreeSet<Address> = shown.iter().cloned().chain(former).collect();
    let more = more.into_iter().filter(|at| !observed.instances.contains_key(at));
    let probes = more.take(INSTANCES_MAX).map(|address| async {
        let reading = probe(&address, &group.login, clock).await;
        (address, reading)
    });
    let more: Vec<_> = futures_util::future::join_all(probes.collect::<Vec<_>>()).await;
    let record = observed.record().cloned();
    let counts = |(address, reading): &(Address, Reading<InstanceAnswer>)| {
        let answer = reading.result.as_ref();
        answer.is_ok_and(|answer| {
            let own = answer.append_only || is_of_lineage(record.as_ref(), answer);
            shown.contains(address) || answer.is_primary() && answer.keys > 0 && own
        })
    };
    observed.instances.extend(more.into_iter().filter(counts));
    Look { observed, failures }
}

/// Further addresses of a name under which a Sentinel answers, which do not answer, and which no Sentinel names: they
/// are no Sentinels.
fn candidates(
    found: &FoundSentinels,
    recorded: &BTreeSet<Address>,
    observed: &Observed,
) -> Vec<Address> {
    let answers = |at: &Address| observed.sentinels.get(at).is_some_and(|r| r.result.is_ok());
    let groups =
        || observed.sentinels.values().filter_map(|r| r.result.as_ref().ok()?.group.as_ref());
    let named = |at: &Address| groups().any(|group| group.peers.iter().any(|p| &p.address == at));
    let beside = |at: &Address, name: &Option<String>| {
        let mut others =
            found.iter().filter(|(other, under)| *under == name && other.port() == at.port());
        name.is_some() && others.any(|(other, _)| answers(other))
    };
    let is_one = |(at, name): &(&Address, &Option<String>)| {
        !answers(at) && !recorded.contains(*at) && !named(at) && beside(at, name)
    };
    found.iter().filter(is_one).map(|(at, _)| at.clone()).collect()
}

/// Some Sentinel that was asked for knows the group, and the record knows none of those.
fn are_strangers(observed: &Observed, found: &FoundSentinels) -> bool {
    let Some(record) = observed.record() else { return false };
    let answers = observed.sentinels.iter().filter(|(at, _)| found.contains_key(*at));
    let mut heard = answers.filter_map(|(at, reading)| {
        let answer = reading.result.as_ref().ok()?;
        answer.group.as_ref().map(|_| is_known(record, at, answer))
    });
    heard.next().is_some_and(|first| !first && !heard.any(|known| known))
}

/// One question to every Sentinel.
struct Asker<'a> {
    config: &'a Config,
    group: &'a Policy,
    found: &'a FoundSentinels,
    clock: &'a Clock,
}

impl Asker<'_> {
    /// Asks all Sentinels, and then those that they name and that were not asked.
    async fn ask_all(&self, first: BTreeSet<Address>, observed: &mut Observed) {
        let mut next = first;
        for _round in 0..2 {
            let asks = next
                .iter()
                .take(SENTINELS_MAX)
                .map(|address| async { (address.clone(), self.ask(address).await) });
            let answers: Vec<_> = futures_util::future::join_all(asks).await;
            observed.sentinels.extend(answers);
            observed.name_sentinels();
            if !self.config.sources.peers {
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

    async fn ask(&self, address: &Address) -> Reading<SentinelAnswer> {
        let asked = self.clock.now().mono;
        let name = self.found.get(address).and_then(Option::as_deref);
        let login = self.config.sentinel_login.clone().expecting(name);
        let answer = async {
            let mut link = Link::open(address, &login).await?;
            let mut id = query::identity(&mut link).await?;
            if self.group.relay {
                id.refuses_relay = query::may_relay(&mut link).await?;
            }
            query::ask(&mut link, &id, &self.group.group).await
        };
        reading(asked, answer.await, self.clock)
    }
}

async fn probe(address: &Address, login: &LinkSettings, clock: &Clock) -> Reading<InstanceAnswer> {
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
