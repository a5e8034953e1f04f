//! Very many Redis groups in one process: servers that speak RESP and answer as Redis and Sentinel do, for a bench that
//! needs more of them than a machine holds. `tests/contract.rs` holds what they answer to real ones.
//!
//! Each group has a primary and a replica, and all groups have the same three Sentinels. A primary that is killed
//! closes its connections and refuses; the Sentinels agree, one leads, and the replica is promoted, at a pace of ours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::LabError;
use crate::core::identity::address::Address;

/// Sentinels of all groups.
pub const SENTINELS: usize = 3;
/// From a death until all Sentinels agree.
const AGREED_AFTER: Duration = Duration::from_millis(200);
/// From there until a leader has chosen the replica, until that is the primary, and until all Sentinels are told.
const CHOSEN_AFTER: Duration = Duration::from_millis(100);
const PROMOTED_AFTER: Duration = Duration::from_millis(50);
const TOLD_AFTER: Duration = Duration::from_millis(900);
/// HeardEvents waiting for one subscriber.
const EVENTS_MAX: usize = 4_096;
/// Longest command that is read, in bytes.
const COMMAND_LEN_MAX: usize = 64 * 1024;

/// How far a group's failover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Calm,
    /// The primary is dead, and no Sentinel says so yet.
    Dead,
    Agreed,
    Chosen,
    Promoted,
}

/// One group as all Sentinels see it.
#[derive(Debug)]
struct ManyGroup {
    name: String,
    addresses: [Address; 2],
    /// Which of the two is named as the primary.
    primary: usize,
    phase: Phase,
    epoch: u64,
    /// Down-after, in ms, as each Sentinel has it.
    down_after_ms: [u64; SENTINELS],
    /// The replication history of the primary, and how often another one began.
    forks: u64,
    /// What is in the key of the mark.
    mark: Option<String>,
}

impl ManyGroup {
    fn replica(&self) -> usize {
        1 - self.primary
    }

    fn leader(&self) -> usize {
        usize::try_from(self.epoch).unwrap_or(0) % SENTINELS
    }

    /// Which of the two takes writes.
    fn writer(&self) -> Option<usize> {
        match self.phase {
            Phase::Calm => Some(self.primary),
            Phase::Promoted => Some(self.replica()),
            Phase::Dead | Phase::Agreed | Phase::Chosen => None,
        }
    }

    fn replid(&self, forks: u64) -> String {
        let name: String = self.name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut id = format!("{forks:04x}{name}");
        id.truncate(40);
        format!("{id:a<40}")
    }
}

/// What is asked of one kind of server since the start.
#[derive(Debug, Default, Clone, Copy)]
pub struct CommandCounts {
    /// Commands at all Sentinels together.
    pub sentinels: u64,
    /// Commands at all instances together.
    pub instances: u64,
}

#[derive(Debug)]
struct ManyState {
    groups: Vec<ManyGroup>,
    by_name: BTreeMap<String, usize>,
    sentinels: Vec<Address>,
    asked: CommandCounts,
}

/// Everything that the servers share.
struct Shared {
    state: Mutex<ManyState>,
    events: Vec<broadcast::Sender<(String, String)>>,
    /// For each instance a number that grows when its connections are closed, and whether it listens.
    doors: Vec<watch::Sender<(u64, bool)>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, ManyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, sentinel: usize, event: &str, payload: &str) {
        // Fails where no connection listens.
        let _ = self.events[sentinel].send((event.to_owned(), payload.to_owned()));
    }

    fn say_all(&self, event: &str, payload: &str) {
        for sentinel in 0..SENTINELS {
            self.say(sentinel, event, payload);
        }
    }
}

/// The servers. They end when this is dropped.
pub struct ManyGroups {
    shared: Arc<Shared>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl ManyGroups {
    /// Starts `count` groups, named `g0000` and so on, with a `down-after-milliseconds` of 5,000.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub async fn start(count: usize) -> Result<Self, LabError> {
        let mut listeners = Vec::new();
        let mut sentinel_listeners = Vec::new();
        for n in 0..SENTINELS {
            let ip = Ipv4Addr::new(127, 200, 0, u8::try_from(n + 1).unwrap_or(1));
            sentinel_listeners.push(TcpListener::bind((ip, 0)).await?);
        }
        let mut groups = Vec::new();
        for n in 0..count {
            let mut addresses = Vec::new();
            for side in 0..2_u8 {
                let [_, _, high, low] = u32::try_from(n).unwrap_or(0).to_be_bytes();
                let ip = Ipv4Addr::new(127, 201 + side, high, low.max(1));
                let listener = TcpListener::bind((ip, 0)).await?;
                addresses.push(address_of(&listener)?);
                listeners.push(listener);
            }
            let [first, second] = [addresses.remove(0), addresses.remove(0)];
            groups.push(ManyGroup {
                name: format!("g{n:04}"),
                addresses: [first, second],
                primary: 0,
                phase: Phase::Calm,
                epoch: 0,
                down_after_ms: [5_000; SENTINELS],
                forks: 0,
                mark: None,
            });
        }
        let sentinels = sentinel_listeners.iter().map(address_of).collect::<Result<_, _>>()?;
        let by_name = groups.iter().enumerate().map(|(n, group)| (group.name.clone(), n)).collect();
        let state = ManyState { groups, by_name, sentinels, asked: CommandCounts::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            events: (0..SENTINELS).map(|_| broadcast::channel(EVENTS_MAX).0).collect(),
            doors: listeners.iter().map(|_| watch::Sender::new((0, true))).collect(),
        });
        let mut tasks = Vec::new();
        for (n, listener) in sentinel_listeners.into_iter().enumerate() {
            let task = serve_sentinel(shared.clone(), n, listener);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        for (n, listener) in listeners.into_iter().enumerate() {
            let task = serve_instance(shared.clone(), n, listener);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        Ok(Self { shared, _tasks: tasks })
    }

    /// The addresses of the Sentinels.
    pub fn sentinels(&self) -> Vec<Address> {
        self.shared.state().sentinels.clone()
    }

    /// The names of the groups.
    pub fn names(&self) -> Vec<String> {
        self.shared.state().groups.iter().map(|group| group.name.clone()).collect()
    }

    /// Which instance of a group takes writes now.
    pub fn writer(&self, group: usize) -> Option<Address> {
        let state = self.shared.state();
        let group = state.groups.get(group)?;
        Some(group.addresses[group.writer()?].clone())
    }

    /// Which instance of a group is its replica, as its Sentinels see it.
    pub fn replica(&self, group: usize) -> Option<Address> {
        let state = self.shared.state();
        let group = state.groups.get(group)?;
        Some(group.addresses[group.replica()].clone())
    }

    /// What was asked since the start.
    pub fn asked(&self) -> CommandCounts {
        self.shared.state().asked
    }

    /// Kills a group's primary. Returns once its replica is the primary: when that was, and which it is. The failover
    /// goes on until all Sentinels name it.
    ///
    /// # Errors
    /// When the group has a failover already.
    pub async fn kill(&self, group: usize) -> Result<(Instant, Address), LabError> {
        let (old, new) = self.step(group, Phase::Calm, Phase::Dead)?;
        self.door(old, false);
        tokio::time::sleep(AGREED_AFTER).await;
        self.step(group, Phase::Dead, Phase::Agreed)?;
        let (name, primary) = self.named(group, false);
        let master = format!("master {name} {} {}", primary.host(), primary.port());
        self.shared.say_all("+sdown", &master);
        self.shared.say_all("+odown", &format!("{master} #quorum 3/2"));
        tokio::time::sleep(CHOSEN_AFTER).await;
        let leader = {
            let mut state = self.shared.state();
            let group = &mut state.groups[group];
            group.epoch += 1;
            group.phase = Phase::Chosen;
            group.leader()
        };
        let (_, replica) = self.named(group, true);
        let slave = format!(
            "slave {replica} {} {} @ {name} {} {}",
            replica.host(),
            replica.port(),
            primary.host(),
            primary.port()
        );
        self.shared.say(leader, "+elected-leader", &master);
        self.shared.say(leader, "+selected-slave", &slave);
        self.shared.say(leader, "+failover-state-wait-promotion", &slave);
        tokio::time::sleep(PROMOTED_AFTER).await;
        self.shared.state().groups[group].forks += 1;
        self.step(group, Phase::Chosen, Phase::Promoted)?;
        // A replica that is promoted closes the connections of its clients.
        let at = Instant::now();
        self.door(new, true);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TOLD_AFTER).await;
            {
                let mut state = shared.state();
                let group = &mut state.groups[group];
                group.primary = group.replica();
                group.phase = Phase::Calm;
            }
            shared.say(leader, "+promoted-slave", &slave);
            let switch = format!(
                "{name} {} {} {} {}",
                primary.host(),
                primary.port(),
                replica.host(),
                replica.port()
            );
            shared.say_all("+switch-master", &switch);
            // The old primary is back, as a replica.
            shared.doors[old].send_modify(|door| *door = (door.0 + 1, true));
        });
        let (_, promoted) = self.named(group, true);
        Ok((at, promoted))
    }

    fn step(&self, group: usize, from: Phase, to: Phase) -> Result<(usize, usize), LabError> {
        let mut state = self.shared.state();
        let n = group;
        let group = state.groups.get_mut(n).ok_or_else(|| LabError::new("no such group"))?;
        if group.phase != from {
            return Err(LabError(format!("{} is {:?} and not {from:?}", group.name, group.phase)));
        }
        group.phase = to;
        Ok((2 * n + group.primary, 2 * n + group.replica()))
    }

    /// The name of a group, and the address of its primary or its replica, as Sentinels name them.
    fn named(&self, group: usize, replica: bool) -> (String, Address) {
        let state = self.shared.state();
        let group = &state.groups[group];
        let which = if replica { group.replica() } else { group.primary };
        (group.name.clone(), group.addresses[which].clone())
    }

    fn door(&self, instance: usize, open: bool) {
        self.shared.doors[instance].send_modify(|door| *door = (door.0 + 1, open));
    }
}

fn address_of(listener: &TcpListener) -> Result<Address, LabError> {
    let at: SocketAddr = listener.local_addr()?;
    Address::new(&at.ip().to_string(), at.port()).map_err(LabError::new)
}

async fn serve_sentinel(shared: Arc<Shared>, n: usize, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut events = None;
            let mut client = Client::new(stream);
            loop {
                // Cancel safe: a channel, and a read that keeps what it has.
                let said = tokio::select! {
                    command = client.next() => match command {
                        Some(command) => sentinel_answers(&shared, n, &command, &mut events),
                        None => return,
                    },
                    event = heard(&mut events) => match event {
                        Some((channel, payload)) => message(&channel, &payload),
                        None => return,
                    },
                };
                if client.say(&said).await.is_none() {
                    return;
                }
            }
        });
    }
}

type HeardEvents = Option<broadcast::Receiver<(String, String)>>;

async fn heard(events: &mut HeardEvents) -> Option<(String, String)> {
    match events {
        Some(events) => events.recv().await.ok(),
        None => std::future::pending().await,
    }
}

async fn serve_instance(shared: Arc<Shared>, n: usize, listener: TcpListener) {
    let mut door = shared.doors[n].subscribe();
    let at = listener.local_addr();
    let mut open = Some(listener);
    loop {
        let (_, wanted) = *door.borrow_and_update();
        match (&open, wanted, &at) {
            (Some(_), false, _) => open = None,
            (None, true, Ok(at)) => open = TcpListener::bind(at).await.ok(),
            _ => {}
        }
        let accepted = tokio::select! {
            changed = door.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = accept(open.as_ref()) => accepted,
        };
        let Some(stream) = accepted else { continue };
        let (shared, mut door) = (shared.clone(), shared.doors[n].subscribe());
        tokio::spawn(async move {
            let mut client = Client::new(stream);
            loop {
                tokio::select! {
                    _ = door.changed() => return,
                    command = client.next() => {
                        let Some(command) = command else { return };
                        let said = instance_answers(&shared, n, &command);
                        if client.say(&said).await.is_none() {
                            return;
                        }
                    }
                }
            }
        });
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => Some(listener.accept().await.ok()?.0),
        None => std::future::pending().await,
    }
}

/// One connection: commands in, answers out.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    /// Answers that wait until all commands that came together are answered.
    out: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, read: Vec::new(), out: Vec::new() }
    }

    /// The next command, once all of it is there. `None`: the connection is closed. Cancel safe.
    async fn next(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some((command, len)) = parse(&self.read) {
                self.read.drain(..len);
                return Some(command);
            }
            if self.read.len() > COMMAND_LEN_MAX
                || self.stream.read_buf(&mut self.read).await.ok()? == 0
            {
                return None;
            }
        }
    }

    async fn say(&mut self, answer: &str) -> Option<()> {
        self.out.extend_from_slice(answer.as_bytes());
        if parse(&self.read).is_none() {
            let out = std::mem::take(&mut self.out);
            self.stream.write_all(&out).await.ok()?;
        }
        Some(())
    }
}

/// The first command in `bytes`, and how long it is.
fn parse(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let line = |at: &mut usize, mark: u8| -> Option<usize> {
        let rest = bytes.get(*at..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let number = rest.get(..end)?.strip_prefix(&[mark])?;
        *at += end + 2;
        std::str::from_utf8(number).ok()?.parse().ok()
    };
    let mut command = Vec::new();
    for _ in 0..line(&mut at, b'*')? {
        let len = line(&mut at, b'$')?;
        let word = bytes.get(at..at + len)?;
        bytes.get(at + len..at + len + 2)?;
        command.push(String::from_utf8_lossy(word).into_owned());
        at += len + 2;
    }
    Some((command, at))
}

/// `text` as a bulk string of RESP.
pub fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn list(words: &[&str]) -> String {
    let all: String = words.iter().map(|word| bulk(word)).collect();
    format!("*{}\r\n{all}", words.len())
}

fn message(channel: &str, payload: &str) -> String {
    list(&["pmessage", "*", channel, payload])
}

fn words_of(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

const OK: &str = "+OK\r\n";

fn instance_answers(shared: &Shared, n: usize, command: &[String]) -> String {
    let mut state = shared.state();
    state.asked.instances += 1;
    let group = &mut state.groups[n / 2];
    let side = n % 2;
    let words = words_of(command);
    let name = words.first().map(|name| name.to_uppercase()).unwrap_or_default();
    match (name.as_str(), words.get(1..).unwrap_or_default()) {
        ("PING", _) => "+PONG\r\n".to_owned(),
        ("INFO", [section]) => bulk(&info(group, side, section)),
        ("GETRANGE", _) => bulk(group.mark.as_deref().unwrap_or_default()),
        ("SET", [_, value, ..]) if group.writer() == Some(side) => {
            group.mark = Some((*value).to_owned());
            OK.to_owned()
        }
        ("CONFIG", ["GET", name]) => list(&[name, ""]),
        ("CLIENT", _) => OK.to_owned(),
        _ => format!("-ERR unknown command '{name}'\r\n"),
    }
}

/// `INFO section` of one instance of a group.
fn info(group: &ManyGroup, side: usize, section: &str) -> String {
    let is_primary =
        group.writer() == Some(side) || (group.writer().is_none() && group.primary == side);
    let forks = group.forks;
    let offset = 1_000 + forks;
    match section {
        "server" => format!(
            "# Server\r\nredis_version:8.0.2\r\nrun_id:{:a<40}\r\nuptime_in_seconds:1000\r\nconfig_file:/etc/redis/redis.conf\r\n",
            format!("{}{side}", group.name)
        ),
        "keyspace" => "# Keyspace\r\ndb0:keys=1000,expires=0,avg_ttl=0\r\n".to_owned(),
        "persistence" => "# Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_last_load_keys_loaded:1000\r\naof_enabled:0\r\n".to_owned(),
        "memory" => "# Memory\r\nused_memory:1000000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n".to_owned(),
        "replication" if is_primary => {
            let other = &group.addresses[1 - side];
            let mut text = "# Replication\r\nrole:master\r\n".to_owned();
            if group.phase == Phase::Calm {
                let _ = write!(
                    text,
                    "connected_slaves:1\r\nslave0:ip={},port={},state=online,offset={offset},lag=0\r\n",
                    other.host(),
                    other.port()
                );
            } else {
                text.push_str("connected_slaves:0\r\n");
            }
            let before = if forks == 0 { "0".repeat(40) } else { group.replid(forks - 1) };
            let _ = write!(
                text,
                "master_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{before}\r\nmaster_repl_offset:{offset}\r\nsecond_repl_offset:{}\r\n",
                group.replid(forks),
                if forks == 0 { "-1".to_owned() } else { offset.to_string() }
            );
            text
        }
        "replication" => {
            let of = &group.addresses[1 - side];
            let up = if group.phase == Phase::Calm { "up" } else { "down" };
            format!(
                "# Replication\r\nrole:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\nmaster_link_status:{up}\r\nslave_repl_offset:{offset}\r\nslave_priority:100\r\nreplica_announced:1\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{}\r\nmaster_repl_offset:{offset}\r\nsecond_repl_offset:-1\r\n",
                of.host(),
                of.port(),
                group.replid(forks),
                "0".repeat(40)
            )
        }
        _ => String::new(),
    }
}

fn sentinel_answers(
    shared: &Shared,
    n: usize,
    command: &[String],
    events: &mut HeardEvents,
) -> String {
    let mut state = shared.state();
    state.asked.sentinels += 1;
    let words = words_of(command);
    let name = words.first().map(|name| name.to_uppercase()).unwrap_or_default();
    match (name.as_str(), words.get(1..).unwrap_or_default()) {
        ("PING", _) if events.is_some() => list(&["pong", ""]),
        ("PING", _) => "+PONG\r\n".to_owned(),
        ("PSUBSCRIBE" | "SUBSCRIBE", channels) => {
            *events = Some(shared.events[n].subscribe());
            let kind = name.to_lowercase();
            let all = channels.iter().enumerate();
            all.map(|(n, channel)| format!("*3\r\n{}{}:{}\r\n", bulk(&kind), bulk(channel), n + 1))
                .collect()
        }
        ("PUBLISH", _) => ":1\r\n".to_owned(),
        ("INFO", ["server"]) => bulk(&format!("run_id:{:f<40}\r\n", format!("{n}"))),
        ("INFO", _) => bulk(&info_sentinel(&state)),
        ("SENTINEL", rest) => of_group(&mut state, n, rest),
        _ => format!("-ERR unknown command '{name}'\r\n"),
    }
}

/// `INFO sentinel`: a line a group.
fn info_sentinel(state: &ManyState) -> String {
    let mut text = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_running_scripts:0\r\n",
        state.groups.len()
    );
    for (n, group) in state.groups.iter().enumerate() {
        let status = if is_down(group) { "odown" } else { "ok" };
        let primary = &group.addresses[group.primary];
        let _ = write!(
            text,
            "master{n}:name={},status={status},address={primary},slaves=1,sentinels={SENTINELS}\r\n",
            group.name
        );
    }
    text
}

fn is_down(group: &ManyGroup) -> bool {
    group.phase >= Phase::Agreed
}

fn of_group(state: &mut ManyState, n: usize, words: &[&str]) -> String {
    let what = words.first().map(|what| what.to_uppercase()).unwrap_or_default();
    if what == "MYID" {
        return bulk(&id_of(n));
    }
    if what == "MASTERS" {
        let rows: String = state.groups.iter().map(|group| master(group, n)).collect();
        return format!("*{}\r\n{rows}", state.groups.len());
    }
    let known = words.get(1).and_then(|name| state.by_name.get(*name)).copied();
    let Some(known) = known else {
        return match what.as_str() {
            "GET-MASTER-ADDR-BY-NAME" => "*-1\r\n".to_owned(),
            _ => "-ERR No such master with that name\r\n".to_owned(),
        };
    };
    let sentinels = state.sentinels.clone();
    let group = &mut state.groups[known];
    match what.as_str() {
        "GET-MASTER-ADDR-BY-NAME" => {
            // A leader names the one that it has promoted.
            let leads = n == group.leader() && group.phase == Phase::Promoted;
            let named = if leads { group.replica() } else { group.primary };
            let named = &group.addresses[named];
            list(&[named.host(), &named.port().to_string()])
        }
        "MASTER" => master(group, n),
        "REPLICAS" | "SLAVES" => format!("*1\r\n{}", replica(group, n)),
        "SENTINELS" => {
            let others = sentinels.iter().enumerate().filter(|(other, _)| *other != n);
            let rows: String = others.map(|(other, at)| peer(group, other, at)).collect();
            format!("*{}\r\n{rows}", SENTINELS - 1)
        }
        "SET" => {
            if let [_, _, "down-after-milliseconds", ms] = words {
                group.down_after_ms[n] = ms.parse().unwrap_or(5_000);
            }
            OK.to_owned()
        }
        _ => format!("-ERR Unknown sentinel subcommand '{what}'\r\n"),
    }
}

fn id_of(sentinel: usize) -> String {
    format!("{:f<40}", sentinel.to_string())
}

fn master(group: &ManyGroup, n: usize) -> String {
    let primary = &group.addresses[group.primary];
    let leads = n == group.leader() && group.phase >= Phase::Chosen;
    let flags = match (is_down(group), leads) {
        (false, _) => "master",
        (true, false) => "s_down,o_down,master",
        (true, true) => "s_down,o_down,master,failover_in_progress",
    };
    let (port, epoch) = (primary.port().to_string(), config_epoch(group).to_string());
    let down_after = group.down_after_ms[n].to_string();
    let run_id = format!("{:a<40}", format!("{}{}", group.name, group.primary));
    let mut row = vec![
        "name",
        &group.name,
        "ip",
        primary.host(),
        "port",
        &port,
        "runid",
        &run_id,
        "flags",
        flags,
        "config-epoch",
        &epoch,
        "num-slaves",
        "1",
        "num-other-sentinels",
        "2",
        "quorum",
        "2",
        "down-after-milliseconds",
        &down_after,
        "failover-timeout",
        "60000",
        "parallel-syncs",
        "1",
    ];
    if leads {
        let state = match group.phase {
            Phase::Promoted => "reconf_slaves",
            _ => "wait_promotion",
        };
        row.extend(["failover-state", state]);
    }
    list(&row)
}

/// The epoch of the configuration that Sentinels have agreed on.
fn config_epoch(group: &ManyGroup) -> u64 {
    if group.phase >= Phase::Chosen { group.epoch - 1 } else { group.epoch }
}

fn replica(group: &ManyGroup, n: usize) -> String {
    let (primary, replica) = (&group.addresses[group.primary], &group.addresses[group.replica()]);
    let leads = n == group.leader() && group.phase >= Phase::Chosen;
    let flags = if leads { "slave,promoted" } else { "slave" };
    let name = replica.to_string();
    let (port, of) = (replica.port().to_string(), primary.port().to_string());
    let down_after = group.down_after_ms[n].to_string();
    list(&[
        "name",
        &name,
        "ip",
        replica.host(),
        "port",
        &port,
        "flags",
        flags,
        "last-ok-ping-reply",
        "100",
        "last-ping-reply",
        "100",
        "down-after-milliseconds",
        &down_after,
        "master-link-status",
        "ok",
        "master-host",
        primary.host(),
        "master-port",
        &of,
        "slave-priority",
        "100",
    ])
}

fn peer(group: &ManyGroup, other: usize, at: &Address) -> String {
    let (name, port, id) = (id_of(other), at.port().to_string(), id_of(other));
    let (leader, epoch) = match group.phase {
        Phase::Chosen | Phase::Promoted => (id_of(group.leader()), group.epoch.to_string()),
        _ => ("?".to_owned(), "0".to_owned()),
    };
    list(&[
        "name",
        &name,
        "ip",
        at.host(),
        "port",
        &port,
        "runid",
        &id,
        "flags",
        "sentinel",
        "voted-leader",
        &leader,
        "voted-leader-epoch",
        &epoch,
    ])
}
