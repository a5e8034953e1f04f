//! Readers that never stop asking every Consul server, and what they must never see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consul_redis::consul::client::Consul;
use consul_redis::core::identity::address::Address;
use consul_redis::core::published::record::{Change, decode};
use consul_redis::dns::Names;
use consul_redis::instance::probe;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::World;
use consul_redis::redis_link::{Link, LinkSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::promises::LATE_SERVER;

/// The ways of asking. `state` is the whole record, the others are what is made of it.
const KINDS: [&str; 6] = ["A", "SRV", "health", "catalog", "key", "state"];
/// How often each reader of one server asks, at most; of several, each asks so many times less often.
const ASK_EVERY: Duration = Duration::from_millis(3);
/// Answers that each reader has before anything happens.
const ANSWERS_BEFORE: usize = 20;
/// Answers that each reader has in the end.
const ANSWERS_MIN: usize = 41;
/// One answer that a reader gets.
#[derive(Debug)]
struct Told {
    writers: Vec<String>,
    /// Where the answer holds it.
    generation: Option<u64>,
}

/// One answer to one reader.
#[derive(Debug, Clone)]
struct Answer {
    /// The Consul server, and how it was asked.
    reader: (SocketAddr, &'static str),
    generation: Option<u64>,
    sent: Instant,
    received: Instant,
    writers: Vec<String>,
}

impl Answer {
    /// Whether it is what this change published, or the absence of it.
    fn shows(&self, change: &Change) -> bool {
        let writer = change.to.as_ref().map(ToString::to_string);
        let is_of = self.generation.is_none_or(|generation| generation == change.generation);
        is_of && self.writers.iter().eq(&writer)
    }
}

/// One look at an instance's role.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    replica: bool,
}

/// All answers so far; those of one reader in their order.
type Answers = Arc<Mutex<Vec<Answer>>>;

/// Readers of one group's name, and watchers of its instances' roles.
pub struct Hammer {
    stop: CancellationToken,
    consul: Consul,
    answers: Answers,
    roles: Vec<(String, JoinHandle<Vec<Look>>)>,
    readers: Vec<JoinHandle<()>>,
    servers: usize,
}

/// What the readers saw, once they have stopped.
pub struct Seen {
    answers: Vec<Answer>,
    roles: BTreeMap<String, Vec<Look>>,
    /// The last changes of the writer, the oldest first.
    changes: Vec<Change>,
    servers: usize,
}

impl Hammer {
    /// Starts asking every Consul server for `redis-primary` in every way there is. Every server has answered the first
    /// generation before.
    pub fn start(world: &World) -> Self {
        let stop = CancellationToken::new();
        let answers = Answers::default();
        let group = &world.groups[0];
        let servers = world.consul_servers().count();
        let mut readers = Vec::new();
        for server in world.consul_servers() {
            for kind in KINDS {
                let reader = Reader {
                    names: server.names().expect("a DNS client"),
                    client: server.client().expect("a client"),
                    // What this server itself knows, where there are others that may know more.
                    stale: servers > 1,
                    port: group.redis[0].address.port(),
                    of: (server.http, kind),
                };
                let pause = ASK_EVERY * u32::try_from(servers).unwrap();
                readers.push(tokio::spawn(reader.run(pause, stop.clone(), answers.clone())));
            }
        }
        let roles = group
            .redis
            .iter()
            .map(|server| {
                let (address, login) = (server.address.clone(), server.login.clone());
                let name = address.to_string();
                (name, tokio::spawn(watch_role(address, login, stop.clone())))
            })
            .collect();
        let consul = world.consul.client().expect("a client");
        Self { stop, consul, answers, roles, readers, servers }
    }

    /// Waits until every reader has been answered a few times: what happens from now on is seen.
    #[track_caller]
    pub fn until_answered(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let wanted = KINDS.len() * self.servers;
        async move {
            let answered = until("all readers are answered", Duration::from_secs(20), || async {
                let counts = counts(&self.answers.lock().unwrap());
                let enough = counts.values().filter(|count| **count >= ANSWERS_BEFORE).count();
                if enough == wanted { Ok(()) } else { Err(LabError(format!("{counts:?}"))) }
            });
            answered.await.unwrap_or_else(|error| panic!("{error} (at {caller})"));
        }
    }

    /// Waits until every reader has been answered often enough to show a name that flaps.
    pub async fn until_enough(&self) {
        let from = counts(&self.answers.lock().unwrap());
        until("enough answers", Duration::from_secs(30), || async {
            let mut more = counts(&self.answers.lock().unwrap());
            for (reader, count) in &mut more {
                *count -= from.get(reader).copied().unwrap_or_default();
            }
            let enough = more.values().filter(|count| **count >= ANSWERS_MIN).count();
            let all = KINDS.len() * self.servers;
            if enough == all { Ok(()) } else { Err(LabError(format!("{more:?}"))) }
        })
        .await
        .unwrap();
    }

    /// Waits until every reader of so many servers has got this writer.
    #[track_caller]
    pub fn until_told(&self, writer: &str, servers: usize) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let told = until("all readers get it", Duration::from_secs(20), || async {
                let answers = self.answers.lock().unwrap();
                let are = answers.iter().filter(|answer| answer.writers == [writer]);
                let readers: BTreeSet<_> = are.map(|answer| answer.reader).collect();
                let all = readers.len() == KINDS.len() * servers;
                if all { Ok(()) } else { Err(LabError(format!("{readers:?}"))) }
            });
            told.await.unwrap_or_else(|error| panic!("{error} (at {caller})"));
        }
    }

    /// Stops all readers.
    pub async fn stop(self) -> Seen {
        self.stop.cancel();
        for reader in self.readers {
            reader.await.expect("a reader");
        }
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        let mut roles = BTreeMap::new();
        for (name, looks) in self.roles {
            roles.insert(name, looks.await.expect("roles"));
        }
        let history = value(&self.consul, "history", &[("raw", "")]).await.expect("the history");
        let mut changes: Vec<Change> = serde_json::from_str(&history).expect("the history");
        changes.reverse();
        Seen { answers, roles, changes, servers: self.servers }
    }
}

/// One way of asking one server.
struct Reader {
    names: Names,
    client: Consul,
    stale: bool,
    /// The port of every Redis, which an A record does not tell.
    port: u16,
    of: (SocketAddr, &'static str),
}

impl Reader {
    async fn run(self, pause: Duration, stop: CancellationToken, answers: Answers) {
        while !stop.is_cancelled() {
            let sent = Instant::now();
            if let Some(Told { writers, generation }) = self.ask().await {
                let (reader, received) = (self.of, Instant::now());
                let answer = Answer { reader, generation, sent, received, writers };
                answers.lock().unwrap().push(answer);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask(&self) -> Option<Told> {
        let mut query = vec![("raw", "")];
        if self.stale {
            query.push(("stale", ""));
        }
        let writers = match self.of.1 {
            "A" => {
                let found = self.names.a("redis-primary.service.consul").await.ok()?;
                found.into_iter().map(|ip| format!("{ip}:{}", self.port)).collect()
            }
            "SRV" => srv(&self.names).await?,
            "key" => {
                let text = value(&self.client, "primary", &query).await?;
                Some(text).filter(|text| !text.is_empty()).into_iter().collect()
            }
            "state" => {
                let text = value(&self.client, "state", &query).await?;
                if text.is_empty() {
                    return Some(Told { writers: Vec::new(), generation: None });
                }
                let record = decode(text.as_bytes()).expect("a record that can be read");
                let writers = record.writer_address().map(ToString::to_string);
                let generation = Some(record.generation);
                return Some(Told { writers: writers.into_iter().collect(), generation });
            }
            path => return http(&self.client, path, &query[1..]).await,
        };
        Some(Told { writers, generation: None })
    }
}

async fn srv(names: &Names) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for (target, port) in names.srv("redis-primary.service.consul").await.ok()? {
        // The target is a name made of the address itself, so this is no second opinion.
        let ips = names.a(&target).await.ok()?;
        found.extend(ips.into_iter().map(|ip| format!("{ip}:{port}")));
    }
    Some(found)
}

/// One key of the group, empty where it does not exist; `None` without an answer.
async fn value(client: &Consul, key: &str, query: &[(&str, &str)]) -> Option<String> {
    let path = format!("/v1/kv/redis-ha/redis/{key}");
    let timeout = Duration::from_secs(5);
    let answer = client.call(reqwest::Method::GET, &path, query, None, timeout).await.ok()?;
    match answer.status.as_u16() {
        200 => Some(String::from_utf8_lossy(&answer.body).into_owned()),
        404 => Some(String::new()),
        _ => None,
    }
}

async fn http(client: &Consul, kind: &str, query: &[(&str, &str)]) -> Option<Told> {
    let path = format!("/v1/{kind}/service/redis-primary");
    let passing = Some(("passing", "")).filter(|_| kind == "health");
    let query: Vec<_> = query.iter().copied().chain(passing).collect();
    let rows: serde_json::Value = client.get(&path, &query).await.ok()?.value;
    let rows = rows.as_array()?;
    let fields = |row: &serde_json::Value| match kind {
        "health" => ["Address", "Port", "Meta"].map(|name| row["Service"][name].clone()),
        _ => ["ServiceAddress", "ServicePort", "ServiceMeta"].map(|name| row[name].clone()),
    };
    let writer = |row: &serde_json::Value| {
        let [host, port, _] = fields(row);
        format!("{}:{port}", host.as_str().unwrap_or_default())
    };
    let generation = rows.first().map(|row| {
        let [_, _, meta] = fields(row);
        meta["generation"].as_str().and_then(|text| text.parse().ok()).expect("a generation")
    });
    Some(Told { writers: rows.iter().map(writer).collect(), generation })
}

async fn watch_role(address: Address, login: LinkSettings, stop: CancellationToken) -> Vec<Look> {
    let mut looks: Vec<Look> = Vec::new();
    let mut link: Option<Link> = None;
    while !stop.is_cancelled() {
        if link.is_none() {
            link = Link::open(&address, &login).await.ok();
        }
        if let Some(open) = &mut link {
            match probe(open).await {
                Ok(answer) => {
                    let replica = answer.is_replica();
                    looks.push(Look { at: Instant::now(), replica });
                }
                Err(_) => link = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    looks
}

/// How many answers each reader has.
fn counts(answers: &[Answer]) -> BTreeMap<(SocketAddr, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.reader).or_default() += 1;
    }
    counts
}

impl Seen {
    /// How long a server may be behind another one.
    fn late_max(&self) -> Duration {
        let several = self.servers > 1;
        if several { LATE_SERVER.patience() } else { Duration::ZERO }
    }

    /// The change that began a generation.
    #[track_caller]
    pub fn change(&self, generation: u64) -> &Change {
        let found = self.changes.iter().find(|change| change.generation == generation);
        found.unwrap_or_else(|| panic!("no generation {generation}: {:?}", self.changes))
    }

    /// The same without one server's answers.
    pub fn without(self, server: SocketAddr) -> Self {
        let of_others = |answer: &Answer| answer.reader.0 != server;
        let answers = self.answers.into_iter().filter(of_others).collect();
        Self { answers, servers: self.servers - 1, ..self }
    }

    /// How many answers there were, and none with two writers; every way of asking got answers of every server.
    #[track_caller]
    pub fn never_two_writers(&self) {
        for answer in &self.answers {
            assert!(answer.writers.len() <= 1, "two writers in one answer: {answer:?}");
        }
        let counts = counts(&self.answers);
        assert_eq!(counts.len(), KINDS.len() * self.servers, "{counts:?}");
        // Some thousands on an idle machine; on a busy one still enough to see a name that flaps.
        let few = counts.values().any(|count| *count < ANSWERS_MIN);
        assert!(!few, "too few answers: {counts:?}");
    }

    /// No answer named an instance that was a replica all the while the question was under way; one of several servers
    /// may be late.
    #[track_caller]
    pub fn never_a_replica(&self) {
        for answer in &self.answers {
            let Some(writer) = answer.writers.first() else { continue };
            let Some(looks) = self.roles.get(writer) else { panic!("a stranger: {answer:?}") };
            let asked = answer.sent - self.late_max();
            let before = looks.iter().rev().find(|look| look.at <= asked);
            let after = looks.iter().find(|look| look.at >= answer.received);
            let replica =
                before.is_some_and(|look| look.replica) && after.is_some_and(|look| look.replica);
            assert!(!replica, "{writer} was a replica and was named as the writer: {answer:?}");
        }
    }

    /// Every answer named this writer: the name has not moved, and was never gone.
    #[track_caller]
    pub fn always(&self, writer: &str) {
        self.never_two_writers();
        let other = self.answers.iter().find(|answer| answer.writers != [writer]);
        assert!(other.is_none(), "not {writer}: {other:?}");
    }

    /// No answer named another writer than this one. A Consul server that has just been started may not know of any
    /// yet.
    #[track_caller]
    pub fn never_another_than(&self, writer: &str) {
        self.never_two_writers();
        let other =
            self.answers.iter().find(|answer| answer.writers.iter().any(|found| found != writer));
        assert!(other.is_none(), "not {writer}: {other:?}");
    }

    /// Every server's answers are of generations in their order, and each of them is what that generation published.
    ///
    /// Returns how long a server went on giving an older answer once another one had given a newer one.
    #[track_caller]
    pub fn in_order(&self) -> Duration {
        // The first answer of all that cannot be of an older generation than this one.
        let mut first: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut reached: BTreeMap<_, u64> = BTreeMap::new();
        for answer in &self.answers {
            let since = reached.entry(answer.reader).or_default();
            let change = self.changes.iter().find(|c| c.generation >= *since && answer.shows(c));
            let changes = &self.changes;
            let Some(change) = change else { panic!("behind {since}: {answer:?}\n{changes:?}") };
            *since = change.generation;
            let at = first.entry(change.generation).or_insert(answer.received);
            *at = answer.received.min(*at);
        }
        let mut worst = (Duration::ZERO, None);
        for answer in &self.answers {
            let newest = self.changes.iter().rev().find(|change| answer.shows(change));
            let newest = newest.map_or(0, |change| change.generation);
            let known = first.range(newest + 1..).map(|(_, at)| *at).min();
            let late = known.map_or(Duration::ZERO, |at| answer.sent.saturating_duration_since(at));
            if late > worst.0 {
                worst = (late, Some(answer));
            }
        }
        let (late, answer) = worst;
        println!("the last answer: {answer:?}");
        late
    }

    /// Once a reader has got `new`, it gets none of the others again; and every one has got it.
    #[track_caller]
    pub fn never_back_from(&self, new: &str) {
        let mut moved = BTreeSet::new();
        for answer in &self.answers {
            let Some(writer) = answer.writers.first() else { continue };
            if writer == new {
                moved.insert(answer.reader);
            } else {
                assert!(!moved.contains(&answer.reader), "went back to {writer}: {answer:?}");
            }
        }
        let readers = KINDS.len() * self.servers;
        assert_eq!(moved.len(), readers, "not every reader got {new}: {moved:?}");
    }
}
