//! One Redis: asking it, holding its writes, and noticing at once when it closes the connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::core::duty::action::Promote;
use crate::core::duty::fence::{Fence, StrayKind};
use crate::core::duty::mark::Marking;
use crate::core::duty::zone_order::Prioritize;
use crate::core::identity::address::{Address, GroupName};
use crate::core::identity::mark::{FoundMark, MARK_LEN_MAX};
use crate::core::known::observed::{
    ConnectedReplica, InstanceAnswer, Reading, Refusal, ReplId, Role,
};
use crate::core::published::projection::detached_address;
use crate::core::situation::data_loss::Detach;
use crate::core::time::Mono;
use crate::foreign::brief;
use crate::mailbox::Mailbox;
use crate::redis_link::{
    Fields, Link, LinkError, LinkSettings, has_closed, id, kind_of, list, server_error, text, words,
};
use crate::refusal::RefusalWatch;
use crate::retry::Retry;

/// Replicas read from one primary's INFO.
const REPLICAS_MAX: usize = 256;
/// Least time between two attempts to connect, so that a refusing port is not hammered.
const RECONNECT_GAP: Duration = Duration::from_millis(5);
/// What an instance's task is asked to do.
#[derive(Debug, Clone)]
pub enum InstanceCommand {
    /// Ask it about itself.
    Probe,
    /// Ask it whether it answers, where it has said the rest a short time ago.
    Ping,
    /// Ask it nothing where it has said all of it a short time ago, and the connection is open.
    Listen,
    /// Hold its writes for this long.
    Hold {
        /// For how long, in ms.
        for_ms: u64,
    },
    /// Make it a replica.
    Fence(Fence),
    /// Detach it, so that it keeps its data.
    Detach(Detach),
    /// Make it a primary.
    Promote(Promote),
}

/// Asks an instance about itself, in one write; a primary that says how many replicas keep up is asked how many must.
/// What a replica was the last time is not asked for its memory, which only a primary refuses writes for: where it has
/// become one, the next look asks.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn probe(link: &mut Link) -> Result<InstanceAnswer, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("PING").cmd("INFO").arg("replication").cmd("INFO").arg("server");
    commands.cmd("INFO").arg("keyspace").cmd("INFO").arg("persistence");
    if !link.was_replica {
        commands.cmd("INFO").arg("memory");
    }
    if let Some(key) = &link.mark {
        // No more of it than a mark has, whatever the key holds; and after the count of the keys.
        commands.cmd("GETRANGE").arg(key.as_str()).arg(0).arg(MARK_LEN_MAX);
    }
    let mut answers = link.ask(&commands).await?;
    let mark = link.mark.as_ref().and_then(|_| answers.pop());
    let mark = mark.as_ref().map(found_mark).unwrap_or_default();
    let [ping, replication, server, keyspace, persistence, memory @ ..] = answers.as_slice() else {
        return Err(LinkError::Unexpected("six answers expected".to_owned()));
    };
    let not_ready = match ping {
        Value::SimpleString(pong) if pong == "PONG" => None,
        Value::ServerError(_) => text(ping).err(),
        other => Some(format!("{} instead of PONG", kind_of(other))),
    };
    let replication = words(replication).map_err(LinkError::Unexpected)?;
    let server = words(server).map_err(LinkError::Unexpected)?;
    let keyspace = words(keyspace).map_err(LinkError::Unexpected)?;
    // An instance that has nothing but the mark has no data.
    let keys = count_keys(&Fields::of_info(&keyspace));
    let keys = keys.saturating_sub(u64::from(mark.mark().is_some()));
    let persistence = words(persistence).map_err(LinkError::Unexpected)?;
    let persistence = Fields::of_info(&persistence);
    let started_empty = started_empty(&persistence);
    let append_only = persistence.get("aof_enabled") == Some("1");
    // A replica that serves nothing stale refuses PING with that, and hides that it is loading.
    let loads = |name: &str| persistence.get(name) == Some("1");
    let loading = loads("loading") || loads("async_loading");
    let not_ready = if loading { Some("LOADING".to_owned()) } else { not_ready };
    let memory = memory.first().map(words).transpose().map_err(LinkError::Unexpected)?;
    let memory = memory.as_deref().map(Fields::of_info).unwrap_or_default();
    let replication = Fields::of_info(&replication);
    let refuses_writes = match too_few_replicas(link, &replication).await? {
        None => refuses_writes(&replication, &memory),
        few => few,
    };
    let answer = parse(not_ready, &replication, &Fields::of_info(&server));
    let answer = answer.map_err(LinkError::Unexpected)?;
    link.was_replica = answer.is_replica();
    Ok(InstanceAnswer { keys, mark, started_empty, append_only, refuses_writes, ..answer })
}

/// What `GETRANGE` gave. A key that does not exist is an empty string for it.
fn found_mark(answer: &Value) -> FoundMark {
    match answer {
        Value::BulkString(value) => FoundMark::of_value(value),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => FoundMark::Other,
        // One that loads, or serves nothing stale, cannot tell.
        Value::ServerError(error) if ["LOADING", "MASTERDOWN"].contains(&error.code()) => {
            FoundMark::Unknown
        }
        Value::ServerError(error) => FoundMark::Refused(server_error(error)),
        _ => FoundMark::Unknown,
    }
}

pub(crate) fn parse(
    not_ready: Option<String>,
    replication: &Fields<'_>,
    server: &Fields<'_>,
) -> Result<InstanceAnswer, String> {
    let field = |name: &str| replication.get(name).ok_or_else(|| format!("INFO has no `{name}`"));
    let role = match field("role")? {
        "master" => Role::Primary { replicas: connected_replicas(replication) },
        "slave" => {
            let port = field("master_port")?.parse().map_err(|_| "bad `master_port`")?;
            let of = Address::new(field("master_host")?, port).map_err(|e| e.to_string())?;
            Role::Replica { of, link_up: field("master_link_status")? == "up" }
        }
        other => return Err(format!("unknown role `{other}`")),
    };
    // Before 6.2 there is neither FAILOVER nor this field.
    let failover = replication.get("master_failover_state").unwrap_or("no-failover");
    // A history of forty zeros is none.
    let replid2 = replication.get("master_replid2").filter(|id| id.bytes().any(|b| b != b'0'));
    // A replica that never synced has no offset yet.
    let offset = match role {
        Role::Primary { .. } => replication.get("master_repl_offset"),
        Role::Replica { .. } => {
            replication.get("slave_repl_offset").or_else(|| replication.get("master_repl_offset"))
        }
    };
    Ok(InstanceAnswer {
        role,
        not_ready,
        failover_running: failover != "no-failover",
        run_id: server.get("run_id").map(id).transpose()?.unwrap_or_default(),
        config_file: brief(server.get("config_file").unwrap_or_default()).into_owned(),
        version: server
            .get("valkey_version")
            .or_else(|| server.get("redis_version"))
            .map(|version| brief(version).into_owned())
            .unwrap_or_default(),
        replid: ReplId(id(field("master_replid")?)?),
        replid2: replid2.map(|replid| id(replid).map(ReplId)).transpose()?,
        forked_at: replication.get("second_repl_offset").and_then(|at| at.parse().ok()),
        offset: offset.and_then(|offset| offset.parse().ok()).unwrap_or(0),
        keys: 0,
        mark: FoundMark::Unknown,
        started_empty: false,
        append_only: false,
        // Before 6.2 there is neither the setting nor this field, and a primary does not say.
        announced: replication.get("replica_announced") != Some("0"),
        uptime_s: server.get("uptime_in_seconds").and_then(|up| up.parse().ok()).unwrap_or(0),
        priority: replication.get("slave_priority").and_then(|priority| priority.parse().ok()),
        // -1 before it first had one; Redis before 6.2.2 says when that was, which is no number of seconds that fits.
        link_down_s: replication
            .get("master_link_down_since_seconds")
            .and_then(|seconds| seconds.parse().ok())
            .filter(|seconds| *seconds < LINK_DOWN_MAX_S),
        refuses_writes: None,
    })
}

/// Fewer replicas keep up than a primary's `min-replicas-to-write` asks for, and some do. INFO does not say how many it
/// asks for.
async fn too_few_replicas(
    link: &mut Link,
    replication: &Fields<'_>,
) -> Result<Option<String>, LinkError> {
    let good = replication.get("min_slaves_good_slaves").and_then(|good| good.parse::<u64>().ok());
    let Some(good) = good.filter(|good| *good > 0) else { return Ok(None) };
    let wanted = link.setting("min-replicas-to-write").await?;
    let wanted = wanted.and_then(|wanted| wanted.parse::<u64>().ok());
    let few = wanted.filter(|wanted| good < *wanted);
    Ok(few.map(|wanted| {
        format!("NOREPLICAS, for `min-replicas-to-write` is {wanted} and fewer replicas keep up")
    }))
}

/// Why a primary refuses writes that PING says nothing of. Without a number that changes all the time: the text is
/// compared.
fn refuses_writes(replication: &Fields<'_>, memory: &Fields<'_>) -> Option<String> {
    if replication.get("role") != Some("master") {
        return None;
    }
    // Only there where `min-replicas-to-write` is set, which is one at least.
    if replication.get("min_slaves_good_slaves") == Some("0") {
        return Some(
            "NOREPLICAS, for `min-replicas-to-write` is set and no replica keeps up".to_owned(),
        );
    }
    let number = |name: &str| memory.get(name).and_then(|value| value.parse::<u64>().ok());
    let (used, max) = (number("used_memory")?, number("maxmemory").filter(|max| *max > 0)?);
    let counted = used.saturating_sub(number("mem_not_counted_for_evict").unwrap_or(0));
    let keeps_all = memory.get("maxmemory_policy") == Some("noeviction");
    let why = "OOM, for `maxmemory` is used up under `noeviction`";
    (keeps_all && counted > max).then(|| why.to_owned())
}

/// Before 7.0 Redis does not say how many keys it has loaded; then it counts as unknown.
fn started_empty(persistence: &Fields<'_>) -> bool {
    let is = |name: &str| persistence.get(name) == Some("0");
    is("rdb_last_load_keys_loaded") && is("aof_enabled")
}

/// `db0:keys=12,expires=0,avg_ttl=0`, a line for each database that holds any.
pub(crate) fn count_keys(keyspace: &Fields<'_>) -> u64 {
    let keys = |row: &str| row.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok();
    // More than can be counted are many, and not none.
    keyspace.iter().filter_map(|(_, row)| keys(row)).fold(0, u64::saturating_add)
}

/// `slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=1`
fn connected_replicas(replication: &Fields<'_>) -> Vec<ConnectedReplica> {
    let is_row = |name: &str| {
        name.strip_prefix("slave")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    replication
        .iter()
        .filter(|(name, _)| is_row(name))
        .take(REPLICAS_MAX)
        .filter_map(|(_, row)| {
            let row: BTreeMap<&str, &str> =
                row.split(',').filter_map(|pair| pair.split_once('=')).collect();
            let port = row.get("port")?.parse().ok()?;
            Some(ConnectedReplica {
                address: Address::new(row.get("ip")?, port).ok()?,
                online: row.get("state") == Some(&"online"),
                offset: row.get("offset")?.parse().ok()?,
                lag_s: row.get("lag").and_then(|lag| lag.parse().ok()).unwrap_or(0),
            })
        })
        .collect()
}

/// Holds an instance's writes for `for_ms`. Reads, replication and Sentinel go on.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn hold(link: &mut Link, for_ms: u64) -> Result<(), LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("CLIENT").arg("PAUSE").arg(for_ms).arg("WRITE");
    let answers = link.ask(&commands).await?;
    for answer in &answers {
        text(answer).map_err(LinkError::Unexpected)?;
    }
    Ok(())
}

/// What [`follow_at_once`] sends.
pub const FOLLOW_AT_ONCE: [&[&str]; 3] = [
    &["CLIENT", "LIST", "TYPE", "replica"],
    &["CLIENT", "KILL", "TYPE", "normal"],
    &["CLIENT", "KILL", "TYPE", "pubsub"],
];

/// Makes a primary that cannot hold its writes a replica of another instance, and closes its clients' connections in
/// the same moment. Redis answers clients, and sends replicas what it has taken, at the end of each round of its loop:
/// what it has taken in this round goes to no replica any more, and is acknowledged to no client either. What it took
/// before was sent, unless a replica's connection was full; whether none was. (`docs/facts/sentinel.md` 19.)
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal: then nothing of it is done.
pub async fn follow_at_once(link: &mut Link, of: &Address) -> Result<bool, LinkError> {
    let mut refused = None;
    for word in ["REPLICAOF", "SLAVEOF"] {
        let [list, kill_normal, kill_pubsub] = FOLLOW_AT_ONCE;
        let port = of.port().to_string();
        let follow = [word, of.host(), &port];
        let mut commands = redis::pipe();
        for command in [&["MULTI"][..], list, &follow, kill_normal, kill_pubsub, &["EXEC"]] {
            let [name, args @ ..] = command else { continue };
            commands.cmd(name);
            for arg in args {
                commands.arg(*arg);
            }
        }
        let answers = link.ask(&commands).await?;
        let done = match answers.last() {
            Some(Value::ServerError(error)) => Err(server_error(error)),
            Some(done) => list_of(done),
            None => Err("no answer".to_owned()),
        };
        match done {
            Ok(done) => {
                let [replicas, followed, ..] = done.as_slice() else {
                    return Err(LinkError::Unexpected("four answers expected".to_owned()));
                };
                text(followed).map_err(LinkError::Unexpected)?;
                let replicas = text(replicas).map_err(LinkError::Unexpected)?;
                return Ok(!replicas.lines().any(is_full));
            }
            // The first refusal has the reason; EXEC only says that there was one.
            Err(error) => {
                let why = answers.iter().find_map(|answer| text(answer).err());
                refused.get_or_insert(why.unwrap_or(error));
            }
        }
    }
    Err(LinkError::Unexpected(refused.unwrap_or_default()))
}

fn list_of(value: &Value) -> Result<Vec<Value>, String> {
    list(value).map(<[Value]>::to_vec)
}

/// A line of `CLIENT LIST`: Redis waits until the connection takes more.
fn is_full(line: &str) -> bool {
    line.split(' ').filter_map(|word| word.strip_prefix("events=")).any(|on| on.contains('w'))
}

/// Turns a stray primary into a replica, as Sentinel would. Whether it did. The rest is [`after_fence`]'s: in a
/// transaction with that, it would not be done where one command of the rest is renamed or forbidden
/// (`docs/facts/sentinel.md` 15).
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn fence(link: &mut Link, fence: &Fence) -> Result<bool, LinkError> {
    let now = probe(link).await?;
    if !fence.still_holds(&now) {
        return Ok(false);
    }
    replica_of(link, fence.follow.host(), &fence.follow.port().to_string()).await?;
    Ok(true)
}

/// What a fenced instance can do without: its clients are disconnected, which find the writer when they look it up
/// again, and its config file says that it is a replica. What was refused of that: a command, and the server's words.
///
/// # Errors
/// [`LinkError`] without an answer.
pub async fn after_fence(link: &mut Link, fence: &Fence) -> Result<Vec<String>, LinkError> {
    let mut commands: Vec<&[&str]> = Vec::new();
    if !matches!(fence.kind, StrayKind::Lost | StrayKind::LeftBehind) {
        // A replica's clients read; those of a primary must find the writer.
        commands.push(&["CLIENT", "KILL", "TYPE", "normal"]);
        commands.push(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
    // So that it comes back as a replica, as after Sentinel's own SLAVEOF. Fails without a config file.
    commands.push(&["CONFIG", "REWRITE"]);
    let mut refused = Vec::new();
    for command in commands {
        match link.call_to_save(command).await {
            Ok(_) => {}
            Err(LinkError::Unexpected(error)) => {
                refused.push(format!("{}: {error}", command.join(" ")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// `REPLICAOF`, or `SLAVEOF` where that one is renamed or forbidden.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn replica_of(link: &mut Link, host: &str, port: &str) -> Result<(), LinkError> {
    match link.call(&["REPLICAOF", host, port]).await {
        Err(LinkError::Unexpected(refused)) => {
            let older = link.call(&["SLAVEOF", host, port]).await;
            older.map(|_| ()).map_err(|_| LinkError::Unexpected(refused))
        }
        done => done.map(|_| ()),
    }
}

/// Detaches an instance, so that it keeps its data. Whether it did. Its config file is left as it is: this is
/// for the moment until Sentinel has put another primary in the place of one without data.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn detach(link: &mut Link, wanted: &Detach) -> Result<bool, LinkError> {
    if !wanted.still_holds(&probe(link).await?) {
        return Ok(false);
    }
    let detached_address = detached_address();
    replica_of(link, detached_address.host(), &detached_address.port().to_string()).await?;
    Ok(true)
}

/// Promotes a detached instance. Whether it did.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn promote(link: &mut Link, wanted: &Promote) -> Result<bool, LinkError> {
    let now = probe(link).await?;
    let replica = now.is_replica();
    if now.run_id != wanted.run_id || !replica || !now.shows_its_data() {
        return Ok(false);
    }
    replica_of(link, "NO", "ONE").await?;
    Ok(true)
}

/// Writes the mark into the writer's data set, on a connection of its own: an instance whose writes are held does not
/// answer, and what else is asked of it must not wait for that. Whether it did: what is in the key and is no mark is
/// left as it is.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn write_mark(wanted: &Marking, settings: &LinkSettings) -> Result<bool, LinkError> {
    let mut link = Link::open(&wanted.instance, settings).await?;
    let now = probe(&mut link).await?;
    if !wanted.still_holds(&now) {
        return Ok(false);
    }
    let (key, value) = (wanted.key.as_str(), wanted.mark.encode());
    // An application may have made the key meanwhile; and an empty value is one.
    let set: &[&str] = match now.mark {
        FoundMark::Absent => &["SET", key, &value, "NX"],
        _ => &["SET", key, &value],
    };
    Ok(link.call(set).await? != Value::Nil)
}

/// The setting that Sentinel chooses by.
pub const PRIORITY: &str = "replica-priority";

/// Sets a replica's priority, on a connection of its own. Whether it did. What an operator sets in the same moment
/// stays: the priority is asked for together with the command, and put back where it was another one by then.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal.
pub async fn prioritize(
    wanted: &Prioritize,
    settings: &LinkSettings,
    in_time: impl Fn() -> bool,
) -> Result<bool, LinkError> {
    let mut link = Link::open(&wanted.instance, settings).await?;
    if !wanted.still_holds(&probe(&mut link).await?) || !in_time() {
        return Ok(false);
    }
    let mut commands = redis::pipe();
    commands.cmd("INFO").arg("replication");
    commands.cmd("CONFIG").arg("SET").arg(PRIORITY).arg(wanted.priority);
    let answers = link.ask(&commands).await?;
    let [before, set] = answers.as_slice() else {
        return Err(LinkError::Unexpected("two answers expected".to_owned()));
    };
    text(set).map_err(LinkError::Unexpected)?;
    let before = words(before).map_err(LinkError::Unexpected)?;
    let before = Fields::of_info(&before).get("slave_priority").map(str::to_owned);
    match before.filter(|before| *before != wanted.had.to_string()) {
        None => Ok(true),
        Some(before) => {
            link.call(&["CONFIG", "SET", PRIORITY, &before]).await?;
            Ok(false)
        }
    }
}

/// That an instance refuses connections, or no more.
pub type RefusalNews = (Address, Option<Refusal>);

/// Stays connected to one instance of a group, answers commands, and asks anew the moment the connection closes:
/// a replica that is promoted closes it in the very transaction that promotes it
/// (`docs/facts/sentinel.md` 6).
///
/// Another login counts from the next connection on. Ends when the receiver of the readings has ended.
pub async fn follow(
    group: GroupName,
    address: Address,
    settings: watch::Receiver<LinkSettings>,
    clock: Clock,
    commands: Arc<Mailbox<Todo>>,
    readings: mpsc::Sender<(Address, Box<Reading<InstanceAnswer>>)>,
    refusals: mpsc::Sender<Box<RefusalNews>>,
) {
    let refusal = RefusalWatch::default();
    let said = None;
    let mut follower = Follower { group, address, settings, clock, link: None, refusal, said };
    let mut retry = Retry::returning();
    let mut next_attempt = Some(Instant::now());
    loop {
        let todo = tokio::select! {
            // Cancel safe: a token, a mailbox and a timer; nothing is lost with the others.
            () = follower.closed() => {
                follower.link = None;
                follower.said = None;
                follower.refusal.closed(clock.now().mono);
                debug!(instance = %follower.address, "connection closed");
                commands.post(Todo::probe);
                commands.take().await
            }
            () = sleep_until(next_attempt) => {
                commands.post(Todo::probe);
                commands.take().await
            }
            todo = commands.take() => todo,
        };
        let started = Instant::now();
        // Boxed: their futures are large, and rarely there.
        if let Some(for_ms) = todo.hold {
            Box::pin(follower.hold(for_ms)).await;
        }
        if let Some(fence) = &todo.fence {
            Box::pin(follower.fence(fence)).await;
        }
        if let Some(detach) = &todo.detach {
            Box::pin(follower.detach(detach)).await;
        }
        if let Some(promote) = &todo.promote {
            Box::pin(follower.promote(promote)).await;
        }
        let reading = match todo.probe {
            None => None,
            Some(question) => Some(match follower.said_again(question).await {
                Some(reading) => reading,
                None => follower.probe(&refusals).await,
            }),
        };
        next_attempt = if follower.link.is_some() {
            retry.reset();
            None
        } else {
            Some(started + retry.next_delay().max(RECONNECT_GAP))
        };
        if let Some(reading) = reading
            && readings.send((follower.address.clone(), Box::new(reading))).await.is_err()
        {
            return;
        }
        if follower.link.is_none() {
            tokio::time::sleep_until(started + RECONNECT_GAP).await;
        }
    }
}

/// What is to be done with one instance: a place for each kind of command, so none is ever left out because others
/// wait. Another one of a kind takes the place of the one before, which says nothing that this one does not.
#[derive(Debug, Default, PartialEq)]
pub struct Todo {
    hold: Option<u64>,
    fence: Option<Fence>,
    detach: Option<Detach>,
    promote: Option<Promote>,
    /// A reading is wanted, by a question of this kind at least.
    probe: Option<InstanceQuestion>,
}

/// How much an instance is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum InstanceQuestion {
    /// Nothing: its connection is open.
    Nothing,
    /// Whether it answers.
    Ping,
    /// All that it says of itself.
    Whole,
}

impl Todo {
    /// Adds a command; the newest one of its kind counts.
    pub fn add(&mut self, command: InstanceCommand) {
        let question = match &command {
            InstanceCommand::Hold { .. } => None,
            InstanceCommand::Listen => Some(InstanceQuestion::Nothing),
            InstanceCommand::Ping => Some(InstanceQuestion::Ping),
            // What became of it is worth knowing at once.
            _ => Some(InstanceQuestion::Whole),
        };
        self.probe = self.probe.max(question);
        match command {
            InstanceCommand::Probe | InstanceCommand::Ping | InstanceCommand::Listen => {}
            InstanceCommand::Hold { for_ms } => self.hold = Some(for_ms),
            InstanceCommand::Promote(promote) => self.promote = Some(promote),
            InstanceCommand::Detach(detach) => self.detach = Some(detach),
            InstanceCommand::Fence(fence) => self.fence = Some(fence),
        }
    }

    fn probe(&mut self) {
        self.probe = Some(InstanceQuestion::Whole);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Follower {
    group: GroupName,
    address: Address,
    settings: watch::Receiver<LinkSettings>,
    clock: Clock,
    link: Option<Link>,
    refusal: RefusalWatch,
    /// What it said last of itself on this connection, and when it was asked.
    said: Option<(Mono, InstanceAnswer)>,
}

/// No replica has been without its link for longer than ten years, in seconds.
const LINK_DOWN_MAX_S: u64 = 10 * 365 * 86_400;
/// How old what an instance has said may be while it only answers PING, in ms.
const SAID_AGE_MAX_MS: u64 = 10_000;

/// What is done to an instance.
#[derive(Clone, Copy)]
enum ToldInstance<'a> {
    Hold(u64),
    Fence(&'a Fence),
    Detach(&'a Detach),
    Promote(&'a Promote),
}

impl Follower {
    async fn closed(&mut self) {
        match &mut self.link {
            Some(link) => link.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn link(&mut self) -> Result<&mut Link, LinkError> {
        let link = match self.link.take() {
            Some(link) => link,
            None => {
                let settings = self.settings.borrow().clone();
                // Its future is large, and rarely there.
                Box::pin(Link::open(&self.address, &settings)).await?
            }
        };
        let link = self.link.insert(link);
        // Unlike a login it counts on an open connection as well.
        let wanted = self.settings.borrow();
        if link.mark != wanted.mark {
            link.mark.clone_from(&wanted.mark);
        }
        drop(wanted);
        Ok(link)
    }

    /// Does something on the connection. A server that failed to answer would answer the next question with this one's. That
    /// it has closed the connection is noted, whatever it was asked: an instance that is promoted does so, and at the end of a
    /// failover the connections of the old primary's clients are closed.
    async fn on_link<T>(
        &mut self,
        act: impl AsyncFnOnce(&mut Link) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let was_open = self.link.is_some();
        let result = match self.link().await {
            Ok(link) => act(link).await,
            Err(error) => Err(error),
        };
        if has_closed(was_open, &result) {
            self.refusal.closed(self.clock.now().mono);
        }
        if result.is_err() {
            self.link = None;
            self.said = None;
        }
        result
    }

    /// It answers, and is what it was a short time ago: what it has said since then counts as said again. `None` where it
    /// has to be asked for all of it.
    async fn said_again(&mut self, question: InstanceQuestion) -> Option<Reading<InstanceAnswer>> {
        let asked = self.clock.now().mono;
        let (at, said) = self.said.as_ref().filter(|_| question < InstanceQuestion::Whole)?;
        let open = self.link.as_mut().is_some_and(|link| !link.is_closed());
        if !open || asked - *at > SAID_AGE_MAX_MS || said.not_ready.is_some() {
            return None;
        }
        let said = said.clone();
        if question == InstanceQuestion::Nothing {
            return Some(Reading { asked, answered: asked, result: Ok(said) });
        }
        let pong = self.on_link(async |link: &mut Link| link.call(&["PING"]).await).await.ok()?;
        let ready = matches!(pong, Value::SimpleString(pong) if pong == "PONG");
        ready.then(|| Reading { asked, answered: self.clock.now().mono, result: Ok(said) })
    }

    /// Does one thing to the instance, and once more where it has closed the connection: a hold may be sent twice, and
    /// before all others it is asked what it is by now. Whether it was done.
    async fn tell(&mut self, what: ToldInstance<'_>) -> Result<bool, LinkError> {
        let was_open = self.link.is_some();
        let result = self.tell_once(what).await;
        if has_closed(was_open, &result) { self.tell_once(what).await } else { result }
    }

    async fn tell_once(&mut self, what: ToldInstance<'_>) -> Result<bool, LinkError> {
        self.on_link(async |link: &mut Link| match what {
            ToldInstance::Hold(for_ms) => hold(link, for_ms).await.map(|()| true),
            ToldInstance::Fence(wanted) => fence(link, wanted).await,
            ToldInstance::Detach(wanted) => detach(link, wanted).await,
            ToldInstance::Promote(wanted) => promote(link, wanted).await,
        })
        .await
    }

    async fn probe(
        &mut self,
        refusals: &mpsc::Sender<Box<RefusalNews>>,
    ) -> Reading<InstanceAnswer> {
        let was_open = self.link.is_some();
        let (mut asked, mut result) = self.probe_once().await;
        if has_closed(was_open, &result) {
            (asked, result) = self.probe_once().await;
        }
        let answered = self.clock.now().mono;
        let news = match &result {
            Ok(answer) => {
                self.refusal.answered(&answer.run_id);
                self.said = Some((asked, answer.clone()));
                None
            }
            Err(error) => self.refusal.failed(error, answered),
        };
        if let Some(news) = news {
            // Its receiver lives as long as that of the readings.
            let _ = refusals.send(Box::new((self.address.clone(), news))).await;
        }
        Reading { asked, answered, result: result.map_err(|e| e.to_string()) }
    }

    /// When it was asked, and what it said.
    async fn probe_once(&mut self) -> (Mono, Result<InstanceAnswer, LinkError>) {
        let clock = self.clock;
        let mut asked = clock.now().mono;
        let ask = async |link: &mut Link| {
            asked = clock.now().mono;
            probe(link).await
        };
        let result = self.on_link(ask).await;
        (asked, result)
    }

    async fn fence(&mut self, wanted: &Fence) {
        let group = self.group.clone();
        let Fence { instance, follow, run_id, .. } = wanted;
        // What answers there is asked right before: a process that listens at two addresses never follows itself.
        match self.probe_at(follow).await {
            Ok(writer) if wanted.is_led_by(&writer) => {}
            Ok(writer) if writer.run_id == *run_id => {
                return warn!("{group}: {instance} and {follow} are one process: nothing is done");
            }
            Ok(_) => return debug!(%instance, "{follow} is not the writer that it was"),
            Err(error) => return debug!(%instance, %error, "the writer {follow} does not answer"),
        }
        let result = self.tell(ToldInstance::Fence(wanted)).await;
        let what = match wanted.kind {
            StrayKind::Returned => "a stray primary",
            StrayKind::Blank => "blank",
            StrayKind::RestartedEmpty => "a stray primary, restarted without its data",
            StrayKind::Lost => "a replica of an address that does not answer",
            StrayKind::LeftBehind => "a replica of the primary before",
        };
        match result {
            Ok(true) => info!("{group}: {instance} was {what}; it is a replica of {follow} now"),
            Ok(false) => return debug!(%instance, "no stray primary any more"),
            Err(error) if self.is_now(|now| now.follows(follow)).await => {
                return debug!(%instance, %error, "another agent has made it a replica of {follow}");
            }
            Err(error) => {
                return warn!(%instance, %error, "{group}: cannot make it a replica of {follow}");
            }
        }
        let rest = self.on_link(async |link: &mut Link| after_fence(link, wanted).await).await;
        match rest {
            Ok(refused) => {
                for refused in refused {
                    info!(%instance, "{group}: a replica now, it refused {refused}");
                }
            }
            // Another agent's fence disconnects this one, too.
            Err(error) => debug!(%instance, %error, "a replica now, and not asked for the rest"),
        }
    }

    /// What another address answers.
    async fn probe_at(&self, address: &Address) -> Result<InstanceAnswer, LinkError> {
        let settings = self.settings.borrow().clone();
        probe(&mut Link::open(address, &settings).await?).await
    }

    /// Asked after a command that came to nothing: a peer that was faster disconnects us, and so does Sentinel. Whether what
    /// was wanted is done is for the instance to say.
    async fn is_now(&mut self, done: impl Fn(&InstanceAnswer) -> bool) -> bool {
        let (_, answer) = self.probe_once().await;
        answer.is_ok_and(|now| done(&now))
    }

    async fn detach(&mut self, wanted: &Detach) {
        let group = self.group.clone();
        let result = self.tell(ToldInstance::Detach(wanted)).await;
        let Detach { instance, from, .. } = wanted;
        match result {
            Ok(true) => info!(
                "{group}: {instance} is detached and keeps its data: {from} came back without its data"
            ),
            Ok(false) => debug!(%instance, "not what it was any more"),
            Err(error) if self.is_now(|now| !now.follows(from)).await => {
                debug!(%instance, %error, "another agent has detached it");
            }
            Err(error) => warn!(%instance, %error, "{group}: cannot keep it from following {from}"),
        }
    }

    async fn promote(&mut self, wanted: &Promote) {
        let group = self.group.clone();
        let result = self.tell(ToldInstance::Promote(wanted)).await;
        let instance = &wanted.instance;
        match result {
            Ok(true) => info!("{group}: {instance} was detached; it is a primary now"),
            Ok(false) => debug!(%instance, "not what it was any more"),
            Err(error) if self.is_now(InstanceAnswer::is_primary).await => {
                debug!(%instance, %error, "another agent has made it a primary");
            }
            Err(error) => warn!(%instance, %error, "{group}: cannot make it a primary"),
        }
    }

    async fn hold(&mut self, for_ms: u64) {
        let group = self.group.clone();
        match self.tell(ToldInstance::Hold(for_ms)).await {
            Ok(_) => debug!(instance = %self.address, for_ms, "writes held"),
            Err(error) if self.is_now(|now| !now.is_primary()).await => {
                debug!(instance = %self.address, %error, "a replica by now: it takes no writes");
            }
            Err(error) => warn!(instance = %self.address, %error, "{group}: cannot hold writes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::core::known::observed::ReplId;
    use crate::scripted::{Scripted, bulk};

    fn a_fence(instance: &Address) -> Fence {
        Fence {
            instance: instance.clone(),
            follow: "10.0.0.1:6379".parse().unwrap(),
            follow_run: None,
            kind: StrayKind::Returned,
            run_id: "a".to_owned(),
            replid: ReplId("b".to_owned()),
        }
    }

    #[test]
    fn a_replica_whose_connection_is_full_is_known() {
        let line = |events: &str| format!("id=5 addr=127.0.0.1:43210 events={events} cmd=replconf");
        assert!(!is_full(&line("r")));
        assert!(is_full(&line("rw")));
    }

    #[test]
    fn the_last_of_a_kind_counts_and_none_is_left_out() {
        let instance: Address = "10.0.0.2:6379".parse().unwrap();
        let fence = a_fence(&instance);
        let mut todo = Todo::default();
        todo.add(InstanceCommand::Hold { for_ms: 1 });
        assert_eq!(todo.probe, None);
        todo.add(InstanceCommand::Fence(fence.clone()));
        for for_ms in 0..10_000 {
            todo.add(InstanceCommand::Probe);
            todo.add(InstanceCommand::Hold { for_ms });
        }
        let (hold, fence) = (Some(9_999), Some(fence));
        let wanted = Todo { hold, fence, probe: Some(InstanceQuestion::Whole), ..Todo::default() };
        assert_eq!(todo, wanted);
    }

    /// A task that follows one instance of `redis`, with a deadline of `timeout_ms`, and its readings.
    struct Following {
        todo: Arc<Mailbox<Todo>>,
        read: mpsc::Receiver<(Address, Box<Reading<InstanceAnswer>>)>,
        _login: watch::Sender<LinkSettings>,
        refused: mpsc::Receiver<Box<RefusalNews>>,
        _task: AbortOnDropHandle<()>,
    }

    impl Following {
        fn start(instance: &Address, timeout_ms: u64) -> Self {
            let timeout = Duration::from_millis(timeout_ms);
            let settings = LinkSettings { timeout, ..Default::default() };
            let (login, settings) = watch::channel(settings);
            let (readings, read) = mpsc::channel(1_024);
            let (refusals, refused) = mpsc::channel(1);
            let todo = Arc::new(Mailbox::<Todo>::default());
            let (group, instance) = ("redis".parse().unwrap(), instance.clone());
            let (clock, todos) = (Clock::start(), todo.clone());
            let task = follow(group, instance, settings, clock, todos, readings, refusals);
            let task = AbortOnDropHandle::new(tokio::spawn(task));
            Self { todo, read, _login: login, refused, _task: task }
        }
    }

    /// As a stopped process does, it takes connections and answers nothing: what is asked of it meanwhile waits.
    #[tokio::test]
    async fn a_hold_reaches_one_that_hangs_however_much_waited_before_it() {
        let (heard, mut ears) = watch::channel(String::new());
        let server = Scripted::start(move |_, words| {
            heard.send_modify(|all| all.push_str(words));
            Some(String::new())
        });
        let server = server.await;
        let mut following = Following::start(&server.address, 50);
        assert!(following.read.recv().await.unwrap().1.result.is_err());
        for _ in 0..1_000 {
            following.todo.post(|todo| todo.add(InstanceCommand::Probe));
        }
        following.todo.post(|todo| todo.add(InstanceCommand::Hold { for_ms: 2_000 }));
        let held = ears.wait_for(|words| words.contains("PAUSE") && words.contains("2000"));
        let held = tokio::time::timeout(Duration::from_secs(10), held).await;
        assert!(held.is_ok(), "not held");
    }

    /// What a primary answers to a probe, or a replica of `of`.
    fn to_a_probe(of: Option<&Address>) -> String {
        says(of, "")
    }

    /// The same, and more of its replication.
    fn says(of: Option<&Address>, more: &str) -> String {
        let role = match of {
            None => "role:master".to_owned(),
            Some(of) => format!(
                "role:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\nmaster_link_status:up",
                of.host(),
                of.port()
            ),
        };
        let replication = format!("{role}\r\n{more}master_replid:b\r\nmaster_repl_offset:1\r\n");
        let rest = [bulk("run_id:a\r\n"), bulk(""), bulk(""), bulk("")].concat();
        format!("+PONG\r\n{}{rest}", bulk(&replication))
    }

    /// A server that closes the first connection on which it hears `command`, once it was asked for it there, as it does
    /// when a failover ends. What it heard on each connection.
    async fn closes_at(
        command: &'static str,
        of: Option<Address>,
    ) -> (Scripted, watch::Receiver<Vec<(usize, String)>>) {
        let (heard, ears) = watch::channel(Vec::new());
        let server = Scripted::start(move |connection, words| {
            heard.send_modify(|all| all.push((connection, words.to_owned())));
            match words {
                words if words.contains("PING") => Some(to_a_probe(of.as_ref())),
                words if words.contains(command) && connection == 0 => None,
                _ => Some("+OK\r\n".to_owned()),
            }
        });
        (server.await, ears)
    }

    /// Sends `todo` to a server that closes the connection at `command`, and waits until it has come on another one.
    async fn comes_again(command: &'static str, of: Option<Address>, todo: InstanceCommand) {
        let (server, mut ears) = closes_at(command, of).await;
        let mut following = Following::start(&server.address, 500);
        assert!(following.read.recv().await.unwrap().1.result.is_ok());
        following.todo.post(|todos| todos.add(todo));
        let again = ears.wait_for(|heard| {
            heard.iter().any(|(connection, words)| *connection > 0 && words.contains(command))
        });
        let again = tokio::time::timeout(Duration::from_secs(10), again).await.is_ok();
        assert!(again, "{command} came once: {:?}", ears.borrow());
    }

    /// A process ends while it is asked by PING alone, and its host refuses connections from then on.
    #[tokio::test]
    async fn one_that_ends_at_a_ping_is_seen_to_refuse() {
        let server = Scripted::start(|_, words| match words {
            words if words.contains("INFO") => Some(to_a_probe(None)),
            _ => None,
        });
        let server = server.await;
        let mut following = Following::start(&server.address, 500);
        assert!(following.read.recv().await.unwrap().1.result.is_ok());
        drop(server);
        following.todo.post(|todos| todos.add(InstanceCommand::Ping));
        let told = tokio::time::timeout(Duration::from_secs(10), following.refused.recv()).await;
        let (_, refusal) = *told.expect("it is told").unwrap();
        assert_eq!(refusal.map(|refusal| refusal.run_id), Some("a".to_owned()));
    }

    /// A replica whose priority is this when it is asked, and that when it is set; what it was told.
    async fn prioritized(
        asked: u64,
        set: u64,
        in_time: bool,
    ) -> (Result<bool, LinkError>, Vec<String>) {
        let primary: Address = "10.0.0.1:6379".parse().unwrap();
        let (heard, ears) = watch::channel(Vec::new());
        let of = primary.clone();
        let server = Scripted::start(move |_, words| {
            if words.contains("CONFIG") {
                heard.send_modify(|all: &mut Vec<String>| all.push(words.to_owned()));
            }
            let now = bulk(&format!("role:slave\r\nslave_priority:{set}\r\n"));
            match (words.contains("PING"), words.contains("CONFIG"), words.contains("INFO")) {
                (true, ..) => Some(says(Some(&of), &format!("slave_priority:{asked}\r\n"))),
                (_, true, true) => Some(format!("{now}+OK\r\n")),
                _ => Some("+OK\r\n".to_owned()),
            }
        });
        let server = server.await;
        let wanted = Prioritize {
            instance: server.address.clone(),
            run_id: "a".to_owned(),
            follows: primary,
            zone: "eu-1a".parse().unwrap(),
            had: 100,
            priority: 10,
        };
        let done = prioritize(&wanted, &LinkSettings::default(), || in_time).await;
        let told = ears.borrow().clone();
        (done, told)
    }

    /// Redis has no compare-and-set for a setting: what an operator sets in the same moment is put back.
    #[tokio::test]
    async fn a_priority_that_changes_while_it_is_set_is_put_back() {
        let (done, told) = prioritized(100, 100, true).await;
        assert!(matches!(done, Ok(true)), "{done:?}");
        assert!(told.len() == 1 && told[0].contains("replica-priority"), "{told:?}");
        let (done, told) = prioritized(100, 0, true).await;
        assert!(matches!(done, Ok(false)), "{done:?}");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].contains("SET") && told[1].ends_with("$1\r\n0\r\n"), "{told:?}");
        // It was another one before; or the command came too late.
        for (asked, in_time) in [(0, true), (7, true), (100, false)] {
            let (done, told) = prioritized(asked, asked, in_time).await;
            assert!(matches!(done, Ok(false)) && told.is_empty(), "{done:?} {told:?}");
        }
    }

    /// A failover ends with the clients of the old primary disconnected, and agents are clients.
    #[tokio::test]
    async fn a_command_whose_connection_is_closed_is_sent_on_another() {
        let primary: Address = "10.0.0.1:6379".parse().unwrap();
        comes_again("PAUSE", None, InstanceCommand::Hold { for_ms: 2_000 }).await;
        let promote = Promote { instance: primary.clone(), run_id: "a".to_owned() };
        comes_again("REPLICAOF", Some(detached_address()), InstanceCommand::Promote(promote)).await;
    }
}
