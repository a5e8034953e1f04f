//! `consul-redis status`

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use super::beside::{self, AgentBeside};
use super::clusters;
use super::history::or_none;
use super::retire::known_groups;
use super::terminal::{self, HISTORY_SHOWN, Style, age, columns};
use crate::cli::StatusArgs;
use crate::clock::{Clock, ticks_every};
use crate::cluster::processes_beside;
use crate::config::{Config, GroupConfig, ONLY_PUBLISHES};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::fleet::FleetReader;
use crate::consul::store::ReadMode;
use crate::core::cluster::shown::{ClusterStatus, cluster_status};
use crate::core::decide::decide;
use crate::core::fleet::{FleetLayout, FleetView, GroupList, ranked};
use crate::core::identity::address::GroupName;
use crate::core::known::memory::Memory;
use crate::core::known::observed::SEEN_AT_ONCE;
use crate::core::known::view::View;
use crate::core::policy::{FEW_GROUPS_MAX, FastFailover, Policy};
use crate::core::published::projection::Layout;
use crate::core::published::record::{Level, PublishedRole, Record};
use crate::core::published::words::AgentWords;
use crate::core::shown::status::{
    GroupStatus, InstanceStatus, ProblemCode, SentinelStatus, assess,
};
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::fleet::hash_of;
use crate::name_check;
use crate::observe::{look, look_without_consul};
use crate::snapshot::AnyStatus;

/// Groups that are looked at at a time.
const AT_ONCE_MAX: usize = 16;
/// What is said of an agent that changes no instance and no Sentinel.
const MANAGES_NOTHING: &str = " (manage = false)";

/// Shows every group and cluster, once or until interrupted. [`Exit::Unhealthy`] when one of them was not healthy at the last look,
/// else [`Exit::Degraded`] when one was degraded.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read; with `--watch` it is shown instead.
pub async fn run(config: Config, args: &StatusArgs) -> Result<Exit, Failure> {
    let looker = Looker::new(config, args.shown.clone())?;
    match args.watch {
        None => {
            let all = looker.look().await?;
            if args.json {
                println!("{}", terminal::json(&all)?);
            } else {
                print!("{}", looker.text(&all, Style::of_stdout()));
            }
            match looker.away.take() {
                Some(error) => Err(error.into()),
                None => Ok(health_of(&all)),
            }
        }
        Some(every) => looker.watch(args.json, Duration::from_millis(every.as_ms())).await,
    }
}

/// Every group and cluster as `status --json` shows it, and why Consul was not read, where it was not.
///
/// # Errors
/// A [`Failure`] when Consul refuses.
pub async fn report(config: Config) -> Result<(Vec<AnyStatus>, Option<ConsulError>), Failure> {
    let looker = Looker::new(config, None)?;
    let all = looker.look().await?;
    Ok((all, looker.away.take()))
}

fn health_of(all: &[AnyStatus]) -> Exit {
    match all {
        _ if !all.iter().all(AnyStatus::is_healthy) => Exit::Unhealthy,
        _ if all.iter().any(AnyStatus::is_degraded) => Exit::Degraded,
        _ => Exit::Done,
    }
}

/// What it takes to look at all groups and clusters again and again.
struct Looker {
    config: Config,
    consul: Consul,
    names: Names,
    clock: Clock,
    /// The only group or cluster that is looked at.
    only: Option<GroupName>,
    /// Why Consul was not read at the last look.
    away: Cell<Option<ConsulError>>,
}

impl Looker {
    fn new(config: Config, only: Option<GroupName>) -> Result<Self, Failure> {
        Ok(Self {
            only,
            consul: Consul::new(&config.consul)?,
            names: Names::new(config.resolver),
            clock: Clock::start(),
            away: Cell::new(None),
            config,
        })
    }

    async fn look(&self) -> Result<Vec<AnyStatus>, Failure> {
        self.away.set(None);
        let groups = self.look_at_groups().await?.into_iter().map(Box::new).map(AnyStatus::Group);
        let clusters = self.look_at_clusters().await?.into_iter();
        let all: Vec<AnyStatus> =
            groups.chain(clusters.map(Box::new).map(AnyStatus::Cluster)).collect();
        match &self.only {
            Some(only) if all.is_empty() && !self.is_away() => {
                let message =
                    format!("no group and no cluster {only} is configured here or known to Consul");
                let hint = known_groups(&self.config, &self.consul).await;
                Err(Failure::new(Exit::Config, message).hint(hint))
            }
            _ => Ok(all),
        }
    }

    fn is_wanted(&self, name: &GroupName) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    async fn look_at_clusters(&self) -> Result<Vec<ClusterStatus>, Failure> {
        let Self { config, consul, names, clock, away, .. } = self;
        let mut all = Vec::new();
        let known = clusters::clusters(config, consul, clock).await?;
        for policy in known.iter().filter(|policy| self.is_wanted(&policy.name)) {
            let mut status = match clusters::look(policy, consul, clock).await {
                Err(error) if error.leaves_unread() => {
                    away.set(Some(error));
                    cluster_status(policy, None, None, None)
                }
                seen => seen?,
            };
            let own = config.clusters.iter().find(|own| own.policy.name == policy.name);
            if let Some(own) = own {
                status.note_ends(&processes_beside(own, names).await);
            }
            all.push(status);
        }
        Ok(all)
    }

    async fn look_at_groups(&self) -> Result<Vec<GroupStatus>, Failure> {
        let Self { config, consul, clock, .. } = self;
        let known = groups(config, consul, clock).await?;
        let list = Arc::new(GroupList::new(known.iter().map(hash_of)));
        let wanted: Vec<GroupConfig> =
            known.into_iter().filter(|group| self.is_wanted(&group.policy.group)).collect();
        let hashes: Vec<_> = wanted.iter().map(hash_of).collect();
        let looks = wanted.iter().map(|group| self.look_at_group(group));
        let mut all: Vec<GroupStatus> =
            futures_util::stream::iter(looks).buffered(AT_ONCE_MAX).try_collect().await?;
        if !self.is_away() {
            let fleet = self.fleet(list).await;
            for (status, group) in all.iter_mut().zip(hashes) {
                let agents = ranked(&fleet, group).into_iter();
                status.configured_agents = agents.map(str::to_owned).collect();
            }
        } else {
            let beside = AgentBeside::ask(config).await;
            all.iter_mut().for_each(|status| status.known_by_agent = beside.of(&status.group));
        }
        Ok(all)
    }

    async fn look_at_group(&self, group: &GroupConfig) -> Result<GroupStatus, Failure> {
        let Self { config, consul, names, clock, away, .. } = self;
        let seen = match look(config, group, consul, names, clock).await {
            // What can be seen without it is shown beside what is not known.
            Err(error) if error.leaves_unread() => {
                away.set(Some(error));
                look_without_consul(config, group, consul, names, clock).await
            }
            seen => seen?,
        };
        let memory = Memory::default();
        let view = View::of_one_look(&group.policy, &memory, &seen.observed, clock.now());
        let mut status = assess(&view, &group.layout, &decide(&view, &group.layout));
        let failures = seen.failures.into_iter();
        status.add(failures.map(|text| ProblemCode::SentinelsNotFound.says(text)));
        if let (Some(dns), Some(record)) = (&config.dns, seen.observed.record()) {
            let found = name_check::look(dns, &group.layout, record, consul, clock).await?;
            status.add(found);
        }
        Ok(status)
    }

    /// The agents that share groups; most have this `list`. A token that may not read them sees none.
    async fn fleet(&self, list: Arc<GroupList>) -> FleetView {
        let layout = FleetLayout { prefix: self.config.prefix.clone() };
        let mut reader = FleetReader::new(self.consul.clone(), layout, list);
        reader.read().await.unwrap_or_default()
    }

    /// Consul did not answer at the last look.
    fn is_away(&self) -> bool {
        let error = self.away.take();
        let away = error.is_some();
        self.away.set(error);
        away
    }

    fn text(&self, all: &[AnyStatus], style: Style) -> String {
        let now = self.clock.now().wall;
        if self.only.is_none() && all.len() > FEW_GROUPS_MAX {
            return brief(all, style);
        }
        let texts = all.iter().map(|status| match status {
            AnyStatus::Group(status) => self.group_text(status, now, style),
            AnyStatus::Cluster(status) => clusters::describe(status, now, style),
        });
        let texts: Vec<String> = texts.collect();
        texts.join("\n")
    }

    fn group_text(&self, status: &GroupStatus, now: Timestamp, style: Style) -> String {
        let known = status.known_by_agent.as_ref().map(beside::describe).unwrap_or_default();
        let mut own = self.config.groups.iter().filter(|own| own.policy.group == status.group);
        let only = self.config.groups_named && own.any(GroupConfig::only_publishes);
        let note = if only {
            format!("  by this config:{}\n", ONLY_PUBLISHES.trim_start_matches(';'))
        } else {
            String::new()
        };
        describe(status, now, style) + &note + &known
    }

    /// On a terminal each look takes the place of the last one; else they follow one another.
    async fn watch(&self, json: bool, every: Duration) -> Result<Exit, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut ticks = ticks_every(every);
        let mut last = Exit::Done;
        loop {
            let next = async {
                ticks.tick().await;
                self.look().await
            };
            // Cancel safe: signals are kept, and a look that is given up changes nothing.
            let seen = tokio::select! {
                _ = terminate.recv() => return Ok(last),
                _ = interrupt.recv() => return Ok(last),
                seen = next => seen,
            };
            last = match &seen {
                Ok(_) if self.is_away() => Exit::Unavailable,
                Ok(all) => health_of(all),
                Err(_) => Exit::Unhealthy,
            };
            let frame = match (&seen, json) {
                (Ok(all), true) => terminal::json_line(all)?,
                (Ok(all), false) => self.text(all, Style::of_stdout()),
                // A failure to look is not taken for a finding.
                (Err(failure), true) => {
                    eprintln!("{failure}");
                    continue;
                }
                (Err(failure), false) => format!("{failure}\n"),
            };
            if terminal::show(&frame, self.clock.now().wall, json).is_err() {
                // The output is closed (`status --watch | head`).
                return Ok(last);
            }
        }
    }
}

/// The groups that were named, else those that Consul knows.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read.
pub async fn groups(
    config: &Config,
    consul: &Consul,
    clock: &Clock,
) -> Result<Vec<GroupConfig>, Failure> {
    if config.groups_named {
        return Ok(config.groups.clone());
    }
    let mut groups = Vec::new();
    let listed = match consul.groups(&config.prefix).await {
        // A token for one group lists no others, and a Consul that is away none: those that the config names are looked
        // at.
        Err(ConsulError::Denied { .. }) => BTreeSet::new(),
        Err(error) if error.leaves_unread() => BTreeSet::new(),
        listed => listed?,
    };
    for name in listed {
        let layout = Layout::new(&config.prefix, &name);
        let store = consul.group(&layout, ReadMode::Consistent, clock).await?.value;
        let Some(record) = store.record() else { continue };
        groups.push(unconfigured(config, name, record, layout));
    }
    // The default is for Sentinels: where there are clusters alone, it is none that was asked for.
    let sources = &config.sources;
    let no_sentinels = sources.listed.is_empty() && sources.consul_service.is_none();
    let alone = groups.is_empty()
        && no_sentinels
        && consul.clusters(&config.prefix).await.is_ok_and(|clusters| !clusters.is_empty());
    if groups.is_empty() && !alone { Ok(config.groups.clone()) } else { Ok(groups) }
}

/// A group that is not configured here, as Consul knows it: who only looks belongs to no other installation.
pub fn unconfigured(
    config: &Config,
    name: GroupName,
    record: &Record,
    layout: Layout,
) -> GroupConfig {
    let own = config.sources.installation.clone();
    let installation = own.or_else(|| record.installation.clone());
    let policy = Policy { installation, ..Policy::new(name, record.service.clone(), "", "") };
    let login = config.instance_login.clone();
    let sentinel_auth = crate::config::auth_of(&login);
    GroupConfig { policy, layout, login, sentinel_auth, words: AgentWords::default() }
}

/// Very many groups and clusters: how many are well, and a line for each, with those first that are not.
fn brief(all: &[AnyStatus], style: Style) -> String {
    let (ill, rest): (Vec<&AnyStatus>, Vec<&AnyStatus>) =
        all.iter().partition(|status| !status.is_healthy());
    let (poor, well): (Vec<&AnyStatus>, Vec<&AnyStatus>) =
        rest.into_iter().partition(|status| status.is_degraded());
    let mut text = format!(
        "{}: {} healthy, {} degraded, {} not healthy (`consul-redis status NAME` shows all of one)\n",
        all.len(),
        well.len(),
        poor.len(),
        ill.len()
    );
    let rows = ill.into_iter().chain(poor).chain(well).map(|status| {
        let (name, shown) = match status {
            AnyStatus::Group(group) => {
                let writer = group.writer.as_ref().map(ToString::to_string);
                let writer = writer.unwrap_or_else(|| "(no writer)".to_owned());
                (&group.group, format!("{writer}, generation {}", group.generation))
            }
            AnyStatus::Cluster(cluster) => {
                (&cluster.cluster, format!("cluster, generation {}", cluster.generation))
            }
        };
        let problems = status.problems();
        let more = match problems.len() {
            0 | 1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let problem = problems.first().map(|text| format!("{text}{more}")).unwrap_or_default();
        let health = terminal::health(status.is_healthy(), status.is_degraded());
        vec![name.to_string(), health.to_owned(), shown, problem]
    });
    columns(&mut text, "", rows.collect(), style);
    text
}

/// One group, as text.
pub fn describe(status: &GroupStatus, now: Timestamp, style: Style) -> String {
    let mut text = String::new();
    let health = style.health(status.healthy, status.degraded);
    let writer =
        status.writer.as_ref().map_or_else(|| "(no writer)".to_owned(), ToString::to_string);
    let _ = writeln!(
        text,
        "{}: {health}, {} -> {}",
        style.bold(status.group.as_str()),
        status.name,
        style.bold(&writer)
    );
    for problem in &status.problems {
        let _ = writeln!(text, "  {} {}", style.bad("problem:"), problem.text);
    }
    if let (Some(since), Some(why)) = (status.since, &status.why) {
        let age = age(now.duration_since(since));
        let _ = writeln!(
            text,
            "  generation {}, since {since:.0} ({age} ago): {why}",
            status.generation
        );
    }
    if status.known_sentinels > 0 {
        let _ = writeln!(text, "  {}", named_by(status));
    }
    let agents = match status.agents.as_slice() {
        [] => "none".to_owned(),
        agents => {
            let named = agents.iter().map(|agent| {
                let note =
                    if status.publishing_only.contains(agent) { MANAGES_NOTHING } else { "" };
                format!("{agent}{note}")
            });
            named.collect::<Vec<_>>().join(", ")
        }
    };
    // The agents that leave the group to these.
    let others = status.configured_agents.iter().filter(|agent| !status.agents.contains(agent));
    let shared = match others.count() {
        0 => String::new(),
        _ => format!(" (of {} agents that share the groups)", status.configured_agents.len()),
    };
    let _ = writeln!(text, "  watched by: {agents}{shared}");
    // The default needs no line.
    if status.fast_failover != FastFailover::Vote.as_str() {
        let _ = writeln!(text, "  fast_failover: {}", status.fast_failover);
    }
    table(&mut text, "instances", status.instances.iter().map(instance_row).collect(), style);
    table(&mut text, "Sentinels", status.sentinels.iter().map(sentinel_row).collect(), style);
    let history = status.history.iter().take(HISTORY_SHOWN).map(|change| {
        vec![
            change.generation.to_string(),
            format!("{:.3}", change.at),
            format!("{} -> {}", or_none(change.from.as_ref()), or_none(change.to.as_ref())),
            change.why.clone(),
        ]
    });
    table(&mut text, "history", history.collect(), style);
    text
}

/// How many Sentinels name the writer now; without a writer, how many answer: each of them has a row with what it names.
fn named_by(status: &GroupStatus) -> String {
    let known = status.known_sentinels;
    let Some(level) = status.level else {
        let answering = status.sentinels.iter().filter(|one| one.names.is_some()).count();
        return format!("now {answering} of {known} Sentinels answer, and no writer is published");
    };
    let level = match level {
        Level::Promotion => "not yet confirmed by a majority",
        Level::Quorum => "confirmed by a majority",
    };
    let epoch = status.epoch.map(|epoch| format!(" at epoch {epoch}")).unwrap_or_default();
    format!("now named by {} of {known} Sentinels{epoch}, {level}", status.votes)
}

fn instance_row(instance: &InstanceStatus) -> Vec<String> {
    let published = instance.published.map_or("not published", PublishedRole::as_str);
    let says = match (&instance.says, &instance.error) {
        (Some(says), Some(error)) => format!("{says}, {error}"),
        (Some(says), None) => format!("says {says}"),
        (None, Some(error)) => error.clone(),
        (None, None) => String::new(),
    };
    let behind = match (instance.behind_bytes, instance.lag_s, instance.offset) {
        (Some(bytes), Some(lag), _) => format!("{bytes} bytes and {lag} s behind"),
        (Some(bytes), None, _) => format!("{bytes} bytes behind"),
        (None, _, Some(offset)) => format!("at offset {offset}"),
        (None, _, None) => String::new(),
    };
    let unseen = instance.end_seen.as_deref().filter(|seen| *seen != SEEN_AT_ONCE);
    let unseen = unseen.map(|why| format!("its end would not be seen at once: {why}"));
    let zone = instance.zone.as_ref().map(|zone| format!(" in zone {zone}")).unwrap_or_default();
    vec![
        instance.address.to_string(),
        format!("{published}{zone}"),
        behind,
        says,
        unseen.unwrap_or_default(),
    ]
}

fn sentinel_row(sentinel: &SentinelStatus) -> Vec<String> {
    let says = match (&sentinel.names, sentinel.epoch, &sentinel.error) {
        (Some(names), Some(epoch), _) => format!("names {names} at epoch {epoch}"),
        (_, _, Some(error)) => error.clone(),
        _ => String::new(),
    };
    let opinion = sentinel.opinion.map(|opinion| format!("says it is {opinion}"));
    let tilt = if sentinel.tilt { "in TILT" } else { "" };
    vec![sentinel.address.to_string(), says, opinion.unwrap_or_default(), tilt.to_owned()]
}

fn table(text: &mut String, title: &str, rows: Vec<Vec<String>>, style: Style) {
    if !rows.is_empty() {
        let _ = writeln!(text, "  {}", style.dim(title));
        columns(text, "    ", rows, style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(writer: Option<Level>) -> GroupStatus {
        let names = |n: u8, address: Option<&str>| SentinelStatus {
            address: format!("10.0.0.{n}:26379").parse().unwrap(),
            names: address.map(|address| address.parse().unwrap()),
            epoch: Some(4),
            opinion: None,
            tilt: false,
            error: None,
        };
        let (down, next) = (Some("10.0.0.1:6379"), Some("10.0.0.2:6379"));
        GroupStatus {
            group: "redis".parse().unwrap(),
            name: "redis-primary.service.consul".to_owned(),
            healthy: false,
            degraded: false,
            consul_read: true,
            problems: Vec::new(),
            writer: writer.and(next).map(|address| address.parse().unwrap()),
            generation: 7,
            pause: None,
            since: None,
            why: None,
            level: writer,
            epoch: writer.and(Some(4)),
            votes: if writer.is_some() { 1 } else { 0 },
            known_sentinels: 3,
            instances: Vec::new(),
            sentinels: vec![names(1, down), names(2, next), names(3, None)],
            agents: Vec::new(),
            configured_agents: Vec::new(),
            fast_failover: "vote",
            publishing_only: Vec::new(),
            history: Vec::new(),
            known_by_agent: None,
        }
    }

    /// While no writer is published, none is named by 0 Sentinels: each of them names an address all the same.
    #[test]
    fn without_a_writer_it_is_not_said_how_many_name_it() {
        assert_eq!(
            named_by(&status(None)),
            "now 2 of 3 Sentinels answer, and no writer is published"
        );
        assert_eq!(
            named_by(&status(Some(Level::Promotion))),
            "now named by 1 of 3 Sentinels at epoch 4, not yet confirmed by a majority"
        );
    }
}
