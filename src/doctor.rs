//! What `doctor` reads besides one look at the group: settings and clocks of the instances, what Sentinels say of their
//! quorum, Consul's settings, rows and rights, and what DNS answers. [`crate::core::doctor`] draws the conclusions.

mod clusters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use redis::Value;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::{CALL_TIMEOUT, Consul, ConsulError};
use crate::consul::fleet::FleetReader;
use crate::consul::store::ReadMode;
use crate::core::decide::decide;
use crate::core::doctor::{
    ConsulAgent, ConsulLoginFailure, ConsulRow, Facts, Finding, FleetFacts, InstanceFacts,
    LoginFacts, NameAnswer, ReadFields, Refused, Right, SentinelFacts, diagnose, rights,
};
use crate::core::fleet::{FleetLayout, GroupList, ranked, wanted_watchers};
use crate::core::identity::address::{Address, ServiceName};
use crate::core::identity::mark::MarkKey;
use crate::core::known::memory::Memory;
use crate::core::known::observed::{InstanceAnswer, Observed, Reading};
use crate::core::known::view::View;
use crate::core::policy::Policy;
use crate::core::published::projection::MANAGED_BY;
use crate::core::published::record::Record;
use crate::core::shown::status::{ProblemCode, assess};
use crate::dns::Names;
use crate::fleet::hash_of;
use crate::instance::PRIORITY;
use crate::name_check;
use crate::observe::{look, look_without_consul};
use crate::process::{NamedProcess, is_provable};
use crate::redis_link::{Fields as Answered, Link, LinkError, LinkSettings, fields, list, text};
use crate::rights::{Rights, either_follows, is_unknown, lacks, may, named};
use crate::sentinel::login::{Login, SENTINEL_NEEDS, Trial};
use crate::sentinel::query::NOT_SAVED;

pub use clusters::examine_cluster;

/// Settings of a Sentinel that are read. Not all of them: one is a password.
const SENTINEL_SETTINGS: [&str; 2] = ["resolve-hostnames", "announce-hostnames"];
/// Rows read of one service. More is a mistake somewhere.
const ROWS_MAX: usize = 1_000;

/// Examines one group.
///
/// # Errors
/// [`ConsulError`] when the group's keys are denied; whatever else cannot be read is a finding. Where Consul does not
/// answer, that error comes with what was found without it.
pub async fn examine(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
) -> Result<(Vec<Finding>, Option<ConsulError>), ConsulError> {
    let (seen, away) = match look(config, group, consul, names, clock).await {
        Err(error) if error.leaves_unread() => {
            (look_without_consul(config, group, consul, names, clock).await, Some(error))
        }
        seen => (seen?, None),
    };
    let memory = Memory::default();
    let now = clock.now();
    let view = View::of_one_look(&group.policy, &memory, &seen.observed, now);
    let decision = decide(&view, &group.layout);
    let mut problems = assess(&view, &group.layout, &decision).problems;
    let failures = seen.failures.into_iter();
    problems.extend(failures.map(|text| ProblemCode::SentinelsNotFound.says(text)));
    let service = view.record.map_or(&group.policy.service, |record| &record.service);
    let wanted = rights(&group.layout, service);
    let (sentinels, instances, agent, rows, rights, names, login, fleet) = tokio::join!(
        all_sentinels(config, group, &seen.observed),
        all_instances(group, &seen.observed, clock),
        agent(consul),
        rows(consul, service),
        allowed(consul, &wanted),
        answers(config, group, consul, view.record, clock),
        sentinel_login(group, &seen.observed),
        fleet(config, group, consul),
    );
    let findings = diagnose(&Facts {
        view: &view,
        layout: &group.layout,
        problems: &problems,
        sentinels,
        instances,
        consul: agent,
        rows,
        rights,
        names,
        login,
        consul_login: consul_login(consul),
        fleet,
    });
    Ok((findings, away))
}

/// Why the login that gives the token fails, where it does.
fn consul_login(consul: &Consul) -> Option<ConsulLoginFailure> {
    let failure = consul.login_failure()?;
    let (said, mend) = (failure.to_string(), failure.hint().to_owned());
    Some(ConsulLoginFailure { said, mend, named: consul.token_named() })
}

/// The agents that share the group.
async fn fleet(config: &Config, group: &GroupConfig, consul: &Consul) -> Option<FleetFacts> {
    let layout = FleetLayout { prefix: config.prefix.clone() };
    let list = Arc::new(GroupList::new(config.groups.iter().map(hash_of)));
    let mut reader = FleetReader::new(consul.clone(), layout, list);
    let fleet = reader.read().await.ok()?;
    let agents = ranked(&fleet, hash_of(group)).into_iter().map(str::to_owned);
    let agents: Vec<String> = agents.collect();
    let wanted = wanted_watchers(config.watchers, agents.len());
    Some(FleetFacts { agents, wanted })
}

/// What the instances make of the login that agents give Sentinels.
async fn sentinel_login(group: &GroupConfig, observed: &Observed) -> Option<LoginFacts> {
    if !group.policy.tell_sentinels {
        return None;
    }
    let login = Login::read(&group.sentinel_auth).ok()??;
    let ask = |at: &Address| {
        let (at, login) = (at.clone(), &login);
        async move {
            let trial = login.try_on(&at, &group.login).await;
            (at, trial)
        }
    };
    let asks = answering(&observed.instances).map(ask);
    let mut facts = LoginFacts {
        named: login.named().to_owned(),
        chosen: group.sentinel_auth.chosen,
        not_storable: login.not_storable(),
        refused: BTreeMap::new(),
        lacks: BTreeMap::new(),
    };
    for (at, trial) in futures_util::future::join_all(asks).await {
        match trial {
            Trial::Refused(words) => facts.refused.insert(at, words),
            Trial::Lacks(what) => facts.lacks.insert(at, format!("refuses it {what}")),
            Trial::Accepted | Trial::Silent(_) => None,
        };
    }
    Some(facts)
}

/// Those that have answered once already.
fn answering<T>(readings: &BTreeMap<Address, Reading<T>>) -> impl Iterator<Item = &Address> {
    readings.iter().filter(|(_, reading)| reading.result.is_ok()).map(|(at, _)| at)
}

async fn all_sentinels(
    config: &Config,
    group: &GroupConfig,
    observed: &Observed,
) -> BTreeMap<Address, SentinelFacts> {
    let ask = |at: &Address| {
        let at = at.clone();
        async move {
            let answer = sentinel(&at, &config.sentinel_login, group).await;
            let facts = answer.unwrap_or_else(|error| {
                let error = error.to_string();
                SentinelFacts {
                    config: Err(error.clone()),
                    quorum: Err(error.clone()),
                    version: Err(error.clone()),
                    valkey: false,
                    refused: Err(error.clone()),
                    saved: Err(error),
                }
            });
            (at, facts)
        }
    };
    let knows = |at: &&Address| {
        let answer = observed.sentinels.get(*at).and_then(|reading| reading.result.as_ref().ok());
        answer.is_some_and(|answer| answer.group.is_some())
    };
    let asks = answering(&observed.sentinels).filter(knows).map(ask);
    futures_util::future::join_all(asks).await.into_iter().collect()
}

async fn sentinel(
    at: &Address,
    login: &LinkSettings,
    group: &GroupConfig,
) -> Result<SentinelFacts, LinkError> {
    let mut link = Link::open(at, login).await?;
    let mut commands = redis::pipe();
    commands
        .cmd("SENTINEL")
        .arg("CKQUORUM")
        .arg(group.policy.group.as_str())
        .cmd("INFO")
        .arg("server");
    // It writes what the Sentinel has already.
    commands.cmd("SENTINEL").arg("FLUSHCONFIG");
    for name in SENTINEL_SETTINGS {
        commands.cmd("SENTINEL").arg("CONFIG").arg("GET").arg(name);
    }
    let answers = link.ask(&commands).await?;
    let [quorum, info, saved, settings @ ..] = answers.as_slice() else {
        return Err(LinkError::Unexpected("more answers expected".to_owned()));
    };
    let info = text(info);
    let info = info.as_ref().map(|info| Answered::of_info(info));
    let version = info.as_ref().map_err(|error| (*error).clone()).and_then(|info| {
        let version = info.get("valkey_version").or_else(|| info.get("redis_version"));
        version.map(str::to_owned).ok_or_else(|| "INFO has no version".to_owned())
    });
    let valkey = info.is_ok_and(|info| info.get("valkey_version").is_some());
    let saved = match text(saved) {
        Err(error) if error.contains(NOT_SAVED) => Ok(Err(error)),
        saved => saved.map(|_| Ok(())),
    };
    let quorum = refusal(quorum);
    // Before 6.2 there is no SENTINEL CONFIG, and a Sentinel knows no names.
    let config = match merged(settings) {
        Err(error) if error.to_lowercase().contains("unknown sentinel subcommand") => {
            Ok(ReadFields::new())
        }
        config => config,
    };
    let refused = Ok(Refused {
        user: named_user(login),
        commands: refused_by_sentinel(&mut link, group).await?,
    });
    Ok(SentinelFacts { config, quorum, version, valkey, refused, saved })
}

/// The user that a login is of.
fn named_user(login: &LinkSettings) -> String {
    login.username.clone().unwrap_or_else(|| "default".to_owned())
}

/// What a Sentinel forbids of what agents tell it. It is asked about a group that it does not have, and of which it
/// says that: there is no transaction there.
async fn refused_by_sentinel(
    link: &mut Link,
    group: &GroupConfig,
) -> Result<Vec<(String, String)>, LinkError> {
    /// No group is called that: a Sentinel takes no such name.
    const NO_GROUP: &str = "no group/is called that";
    let policy = &group.policy;
    let mut asked: Vec<&[&str]> = vec![&["SENTINEL", "FAILOVER", NO_GROUP]];
    if policy.tell_sentinels {
        // A quorum of 0 is refused in any case.
        asked.push(&["SENTINEL", "MONITOR", NO_GROUP, "127.0.0.1", "1", "0"]);
        asked.push(&["SENTINEL", "SET", NO_GROUP, "quorum", "1"]);
        asked.push(&["SENTINEL", "REMOVE", NO_GROUP]);
        asked.push(&["SENTINEL", "RESET", NO_GROUP]);
    }
    let mut refused = Vec::new();
    for command in asked {
        if let Err(LinkError::Unexpected(words)) = link.call(command).await
            && words.starts_with("NOPERM")
        {
            refused.push((named(command), words));
        }
    }
    Ok(refused)
}

/// What CKQUORUM says, in either way. Any other error is none of its answers.
fn refusal(value: &Value) -> Result<Result<String, String>, String> {
    match text(value) {
        Ok(said) => Ok(Ok(said)),
        Err(error) if error.starts_with("NOQUORUM") || error.starts_with("NOGOODSLAVE") => {
            Ok(Err(error))
        }
        Err(error) => Err(error),
    }
}

/// What a server was read to say, or its words instead.
type ServerSaid = Result<ReadFields, String>;

/// What a server says of itself, and its settings of these names.
async fn read(
    link: &mut Link,
    info: redis::Cmd,
    names: &[&str],
) -> Result<(ServerSaid, ServerSaid), LinkError> {
    let mut commands = redis::pipe();
    commands.add_command(info);
    for name in names {
        commands.cmd("CONFIG").arg("GET").arg(*name);
    }
    let answers = link.ask(&commands).await?;
    let [info, settings @ ..] = answers.as_slice() else {
        return Err(LinkError::Unexpected("more answers expected".to_owned()));
    };
    let owned = |info: String| -> ReadFields {
        let fields = Answered::of_info(&info);
        fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    Ok((text(info).map(owned), merged(settings)))
}

/// The answers to one CONFIG GET each, as one. Some servers know more names than others, and answer nothing.
fn merged(answers: &[Value]) -> Result<ReadFields, String> {
    let mut all = ReadFields::new();
    for answer in answers {
        all.extend(fields(answer)?);
    }
    Ok(all)
}

async fn all_instances(
    group: &GroupConfig,
    observed: &Observed,
    clock: &Clock,
) -> BTreeMap<Address, InstanceFacts> {
    let ask = |at: &Address| {
        let at = at.clone();
        let reading = observed.instances.get(&at).and_then(|reading| reading.result.as_ref().ok());
        let can_hold = reading.is_none_or(InstanceAnswer::can_hold_writes);
        async move {
            let answer = instance(&at, group, can_hold, clock).await;
            let facts = answer.unwrap_or_else(|error| {
                let error = error.to_string();
                InstanceFacts {
                    config: Err(error.clone()),
                    info: Err(error.clone()),
                    clock_ahead_ms: Err(error.clone()),
                    sentinel_users: Err(error.clone()),
                    refused: Err(error.clone()),
                    renamed: Err(error),
                    death_unseen: None,
                }
            });
            let death_unseen = death_unseen(group, &at, &facts).await;
            (at, InstanceFacts { death_unseen, ..facts })
        }
    };
    let asks = answering(&observed.instances).map(ask);
    futures_util::future::join_all(asks).await.into_iter().collect()
}

/// Why the end of an instance of this host would not be seen from here.
async fn death_unseen(group: &GroupConfig, at: &Address, facts: &InstanceFacts) -> Option<String> {
    if !group.policy.acts_on_death_of(at) {
        return None;
    }
    let named = NamedProcess {
        run_id: facts.info("run_id")?.to_owned(),
        pid: facts.info("process_id")?.parse().ok()?,
        port: facts.info("tcp_port")?.parse().ok()?,
    };
    tokio::task::spawn_blocking(move || is_provable(&named)).await.ok()?.err()
}

async fn instance(
    at: &Address,
    group: &GroupConfig,
    can_hold: bool,
    clock: &Clock,
) -> Result<InstanceFacts, LinkError> {
    let mut link = Link::open(at, &group.login).await?;
    let (info, config) = read(&mut link, redis::cmd("INFO"), &InstanceFacts::SETTINGS).await?;
    // By itself, so that the answer comes as soon as it is asked for.
    let mut time = redis::pipe();
    time.cmd("TIME");
    let before = clock.now().wall;
    let answered = link.ask(&time).await?;
    let clock_ahead_ms = match answered.first() {
        Some(answer) => ahead(answer, before, clock.now().wall),
        None => Err("no answer".to_owned()),
    };
    let sentinel_users = sentinel_users(&mut link).await?;
    let renamed = match may(&mut link, &SENTINEL_NEEDS).await? {
        Rights::Refuses(refused) => Ok(refused
            .into_iter()
            .filter(|(_, words)| is_unknown(words))
            .map(|(command, _)| command)
            .collect()),
        Rights::Unknown(words) => Err(words),
    };
    let user = named_user(&group.login);
    let mark = group.policy.mark.as_ref().map(MarkKey::as_str).unwrap_or_default();
    let (read, write) = (["GETRANGE", mark, "0", "0"], ["SET", mark, ""]);
    let mut needs = needs(&group.policy, can_hold);
    if !mark.is_empty() {
        needs.push(&read);
        needs.extend(group.policy.write_mark.then_some(&write[..]));
    }
    let refused = match may(&mut link, &needs).await? {
        Rights::Refuses(mut commands) => {
            either_follows(&mut commands);
            // A replica refuses it to every login, and so does a primary that is full.
            let is_right = |words: &str| words.starts_with("NOPERM") || is_unknown(words);
            commands.retain(|(command, words)| command != "SET" || is_right(words));
            Ok(Refused { user, commands })
        }
        Rights::Unknown(words) => Err(words),
    };
    Ok(InstanceFacts {
        config,
        info,
        clock_ahead_ms,
        sentinel_users,
        refused,
        renamed,
        death_unseen: None,
    })
}

/// What agents with this policy do to an instance, sooner or later.
fn needs<'a>(policy: &Policy, can_hold: bool) -> Vec<&'a [&'a str]> {
    const FENCE: [&[&str]; 4] = [
        &["REPLICAOF", "NO", "ONE"],
        &["SLAVEOF", "NO", "ONE"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CONFIG", "REWRITE"],
    ];
    const HOLD: [&[&str]; 2] = [&["CLIENT", "PAUSE", "1", "WRITE"], &["CLIENT", "UNPAUSE"]];
    const PREFER: [&[&str]; 1] = [&["CONFIG", "SET", PRIORITY, "100"]];
    let mut needs = Vec::new();
    if !policy.prefer_zones.is_empty() {
        needs.extend(PREFER);
    }
    if policy.fence {
        needs.extend(FENCE);
    }
    if can_hold && (policy.hold_writes || policy.hold_when_cut_off) {
        needs.extend(HOLD);
    }
    needs
}

/// The users that Sentinels are logged in as, and what each may not do that Sentinel needs, in a list. `Err(_)` within:
/// it cannot be asked by this login, or of this version.
///
/// # Errors
/// [`LinkError`] without an answer.
pub async fn sentinel_users(
    link: &mut Link,
) -> Result<Result<BTreeMap<String, String>, String>, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal");
    let clients = link.ask(&commands).await?;
    let clients = match clients.first().map(text) {
        Some(Ok(clients)) => clients,
        Some(Err(error)) => return Ok(Err(error)),
        None => return Ok(Err("no answer".to_owned())),
    };
    let user =
        |line: &str| line.split(' ').find_map(|w| w.strip_prefix("user=").map(str::to_owned));
    let sentinels = clients.lines().filter(|line| line.contains(" name=sentinel-"));
    let mut users = BTreeMap::new();
    for user in sentinels.filter_map(user).collect::<BTreeSet<String>>() {
        let needs: Vec<&[&str]> =
            SENTINEL_NEEDS.into_iter().chain([&["MULTI"][..], &["EXEC"][..]]).collect();
        match lacks(link, &user, &needs).await? {
            Ok(lacks) => users.insert(user, lacks.join(", ")),
            Err(words) => return Ok(Err(words)),
        };
    }
    Ok(Ok(users))
}

/// How far a clock is ahead of ours in ms: whatever the question itself may have taken is not held against it.
fn ahead(time: &Value, before: Timestamp, after: Timestamp) -> Result<i64, String> {
    let [seconds, micros] = list(time)? else { return Err("two numbers expected".to_owned()) };
    let number = |value: &Value| text(value)?.parse::<i64>().map_err(|error| error.to_string());
    let theirs_ms = number(seconds)? * 1_000 + number(micros)? / 1_000;
    let (before, after) = (before.as_millisecond(), after.as_millisecond());
    Ok(match theirs_ms {
        theirs if theirs < before => theirs - before,
        theirs if theirs > after => theirs - after,
        _ => 0,
    })
}

/// The part of `/v1/agent/self` that matters. What an older or newer Consul does not say has Consul's default.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentSelf {
    config: AgentConfig,
    debug_config: DebugConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentConfig {
    node_name: String,
    version: String,
}

#[derive(Deserialize)]
struct DebugConfig {
    #[serde(rename = "ACLsEnabled", default)]
    acls: bool,
    #[serde(rename = "DNSAllowStale", default)]
    allow_stale: bool,
    #[serde(rename = "DNSMaxStale", default)]
    max_stale: String,
    #[serde(rename = "DNSOnlyPassing", default)]
    only_passing: bool,
    #[serde(rename = "DNSUseCache", default)]
    use_cache: bool,
    #[serde(rename = "DNSEnableTruncate", default)]
    truncate: bool,
    #[serde(rename = "DNSUDPAnswerLimit", default)]
    udp_answers: u64,
    #[serde(rename = "DNSServiceTTL", default)]
    service_ttl: Option<BTreeMap<String, String>>,
}

/// A time as Go writes it: `87600h0m0s`.
fn duration(text: &str) -> Option<SignedDuration> {
    text.parse().ok()
}

async fn agent(consul: &Consul) -> Result<ConsulAgent, String> {
    let answer = consul.get::<AgentSelf>("/v1/agent/self", &[]).await;
    let AgentSelf { config, debug_config } = answer.map_err(|error| error.to_string())?.value;
    let ttl = debug_config.service_ttl.unwrap_or_default().into_iter();
    Ok(ConsulAgent {
        node: config.node_name,
        version: config.version,
        acls: debug_config.acls,
        allow_stale: debug_config.allow_stale,
        max_stale: duration(&debug_config.max_stale),
        only_passing: debug_config.only_passing,
        use_cache: debug_config.use_cache,
        truncate: debug_config.truncate,
        udp_answers: debug_config.udp_answers,
        service_ttl: ttl.filter_map(|(name, ttl)| Some((name, duration(&ttl)?))).collect(),
    })
}

/// One entry of `/v1/health/service`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthRow {
    node: AnsweredNode,
    service: AnsweredService,
    checks: Vec<AnsweredCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnsweredNode {
    node: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnsweredService {
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u16,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnsweredCheck {
    status: String,
}

/// Every row of the services that only an agent writes.
async fn rows(consul: &Consul, service: &ServiceName) -> Result<Vec<ConsulRow>, String> {
    let mut rows = Vec::new();
    for name in [service.as_str().to_owned(), service.primary(), service.replica()] {
        let path = format!("/v1/health/service/{name}");
        let found = consul.get::<Vec<HealthRow>>(&path, &[("consistent", "")]).await;
        let found = found.map_err(|error| error.to_string())?.value;
        rows.extend(found.into_iter().take(ROWS_MAX).map(|row| {
            let HealthRow { node, service, checks } = row;
            let has = |status: &str| checks.iter().any(|check| check.status == status);
            let worst = ["critical", "warning"].into_iter().find(|status| has(status));
            let (mark, ours) = MANAGED_BY;
            let meta = service.meta.unwrap_or_default();
            let published = meta.get(mark).is_some_and(|value| value == ours);
            let host = if service.address.is_empty() { node.address } else { service.address };
            ConsulRow {
                service: name.clone(),
                node: node.node,
                id: service.id,
                address: format!("{host}:{}", service.port),
                tags: service.tags.unwrap_or_default(),
                status: worst.unwrap_or("passing").to_owned(),
                group: meta.get("group").filter(|_| published).cloned(),
            }
        }));
    }
    Ok(rows)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Authorized {
    allow: bool,
}

/// Which rights the token has, asked one by one and without using any. `None` where Consul has no ACLs.
async fn allowed(consul: &Consul, wanted: &[Right]) -> Result<Option<Vec<(Right, bool)>>, String> {
    const PATH: &str = "/v1/internal/acl/authorize";
    let question = wanted.iter().map(|right| {
        json!({"Resource": right.kind.as_str(), "Access": right.access, "Segment": right.on})
    });
    let body = question.collect();
    let answer = consul.call(Method::POST, PATH, &[], Some(&body), CALL_TIMEOUT).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let off = answer.status == StatusCode::UNAUTHORIZED
        && String::from_utf8_lossy(&answer.body).contains("ACL support disabled");
    if off {
        return Ok(None);
    }
    let said = answer.decode::<Vec<Authorized>>(&format!("POST {PATH}"));
    let said = said.map_err(|error| error.to_string())?.value;
    if said.len() != wanted.len() {
        return Err(format!("{} answers to {} questions", said.len(), wanted.len()));
    }
    Ok(Some(wanted.iter().cloned().zip(said.into_iter().map(|right| right.allow)).collect()))
}

/// What DNS answers, unless something else was published while it was asked.
async fn answers(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    record: Option<&Record>,
    clock: &Clock,
) -> Vec<NameAnswer> {
    let (Some(dns), Some(record)) = (&config.dns, record) else { return Vec::new() };
    let answers = name_check::answers(dns, record, clock).await;
    let same =
        |now: &Record| (now.generation, &now.instances) == (record.generation, &record.instances);
    match consul.group(&group.layout, ReadMode::Consistent, clock).await {
        Ok(store) if store.value.record().is_some_and(same) => answers,
        Ok(_) | Err(_) => Vec::new(),
    }
}
