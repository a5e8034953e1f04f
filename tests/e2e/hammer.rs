//! Readers that never stop asking, and what they must never see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consul_redis::core::address::Address;
use consul_redis::core::observed::Role;
use consul_redis::dns::Names;
use consul_redis::instance::probe;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::World;
use consul_redis::redis_link::{Link, LinkSettings};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The ways of asking.
const WAYS: [&str; 5] = ["A", "SRV", "health", "catalog", "key"];
/// Answers in each way that are enough to see a name that flaps.
const ENOUGH: usize = 40;

/// One answer to one reader.
#[derive(Debug, Clone)]
struct Answer {
    kind: &'static str,
    sent: Instant,
    received: Instant,
    writers: Vec<String>,
}

/// One look at an instance's role.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    replica: bool,
}

/// Readers of one group's name, and watchers of its instances' roles.
pub struct Hammer {
    stop: CancellationToken,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    answers: JoinHandle<Vec<Answer>>,
    roles: Vec<(String, JoinHandle<Vec<Look>>)>,
    readers: Vec<JoinHandle<()>>,
    ips: BTreeMap<String, String>,
}

/// What the readers saw, once they have stopped.
pub struct Seen {
    answers: Vec<Answer>,
    roles: BTreeMap<String, Vec<Look>>,
}

impl Hammer {
    /// Starts asking for `redis-primary` in every way there is.
    pub fn start(world: &World) -> Self {
        let stop = CancellationToken::new();
        let (send, mut receive) = mpsc::unbounded_channel::<Answer>();
        let group = &world.groups[0];
        let ips: BTreeMap<String, String> = group
            .redis
            .iter()
            .map(|server| (server.address.host().to_owned(), server.address.to_string()))
            .collect();
        let mut readers = Vec::new();
        let counts = Arc::<Mutex<BTreeMap<&str, usize>>>::default();
        for kind in WAYS {
            let (stop, send, counts) = (stop.clone(), send.clone(), counts.clone());
            let names = world.consul.names().expect("a DNS client");
            let client = world.consul.client().expect("a client");
            let by_ip = ips.clone();
            readers.push(tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let sent = Instant::now();
                    let answer = match kind {
                        "A" => names.a("redis-primary.service.consul").await.ok().map(|found| {
                            let known = |ip: std::net::IpAddr| {
                                by_ip
                                    .get(&ip.to_string())
                                    .cloned()
                                    .unwrap_or_else(|| ip.to_string())
                            };
                            found.into_iter().map(known).collect()
                        }),
                        "SRV" => srv(&names).await,
                        "key" => key(&client).await,
                        path => http(&client, path).await,
                    };
                    if let Some(writers) = answer {
                        let received = Instant::now();
                        *counts.lock().unwrap().entry(kind).or_default() += 1;
                        let _ = send.send(Answer { kind, sent, received, writers });
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }));
        }
        drop(send);
        let answers = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(answer) = receive.recv().await {
                all.push(answer);
            }
            all
        });
        let roles = group
            .redis
            .iter()
            .map(|server| {
                let (address, login) = (server.address.clone(), server.login.clone());
                let name = address.to_string();
                (name, tokio::spawn(watch_role(address, login, stop.clone())))
            })
            .collect();
        Self { stop, counts, answers, roles, readers, ips }
    }

    /// Waits until every way of asking has got enough answers more to show a name that flaps.
    pub async fn until_enough(&self) {
        let counted = |way| self.counts.lock().unwrap().get(way).copied().unwrap_or_default();
        let from = WAYS.map(counted);
        until("enough answers", Duration::from_secs(30), || async {
            let more: Vec<usize> =
                WAYS.into_iter().zip(from).map(|(way, from)| counted(way) - from).collect();
            let enough = more.iter().all(|more| *more > ENOUGH);
            if enough { Ok(()) } else { Err(LabError(format!("{more:?}"))) }
        })
        .await
        .unwrap();
    }

    /// Stops all readers.
    pub async fn stop(self) -> Seen {
        self.stop.cancel();
        for reader in self.readers {
            let _ = reader.await;
        }
        let answers = self.answers.await.expect("answers");
        let mut roles = BTreeMap::new();
        for (name, looks) in self.roles {
            roles.insert(name, looks.await.expect("roles"));
        }
        assert_eq!(self.ips.len(), roles.len());
        Seen { answers, roles }
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

async fn key(client: &consul_redis::consul::client::Consul) -> Option<Vec<String>> {
    let path = "/v1/kv/redis-ha/redis/primary";
    let timeout = Duration::from_secs(5);
    let query = [("raw", "")];
    let answer = client.call(reqwest::Method::GET, path, &query, None, timeout).await.ok()?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let found = || if text.is_empty() { Vec::new() } else { vec![text] };
    match answer.status.as_u16() {
        200 => Some(found()),
        404 => Some(Vec::new()),
        _ => None,
    }
}

async fn http(client: &consul_redis::consul::client::Consul, kind: &str) -> Option<Vec<String>> {
    let path = format!("/v1/{kind}/service/redis-primary");
    let query: &[(&str, &str)] = if kind == "health" { &[("passing", "")] } else { &[] };
    let rows: serde_json::Value = client.get(&path, query).await.ok()?.value;
    let row = |row: &serde_json::Value| {
        let (host, port) = match kind {
            "health" => (&row["Service"]["Address"], &row["Service"]["Port"]),
            _ => (&row["ServiceAddress"], &row["ServicePort"]),
        };
        format!("{}:{port}", host.as_str().unwrap_or_default())
    };
    Some(rows.as_array()?.iter().map(row).collect())
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
                    let replica = matches!(answer.role, Role::Replica { .. });
                    looks.push(Look { at: Instant::now(), replica });
                }
                Err(_) => link = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    looks
}

impl Seen {
    /// How many answers there were, and none with two writers; every way of asking got answers.
    #[track_caller]
    pub fn never_two_writers(&self) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for answer in &self.answers {
            *counts.entry(answer.kind).or_default() += 1;
            assert!(answer.writers.len() <= 1, "two writers in one answer: {answer:?}");
        }
        assert_eq!(counts.len(), 5, "{counts:?}");
        // Some thousands on an idle machine; on a busy one still enough to see a name that flaps.
        assert!(counts.values().all(|count| *count > ENOUGH), "too few answers: {counts:?}");
    }

    /// No answer named an instance that was a replica all the while the question was under way.
    #[track_caller]
    pub fn never_a_replica(&self) {
        for answer in &self.answers {
            let Some(writer) = answer.writers.first() else { continue };
            let Some(looks) = self.roles.get(writer) else { panic!("a stranger: {answer:?}") };
            let before = looks.iter().rev().find(|look| look.at <= answer.sent);
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

    /// No answer named another writer than this one. A Consul server that has just been started may not know of any yet.
    #[track_caller]
    pub fn never_another_than(&self, writer: &str) {
        self.never_two_writers();
        let other =
            self.answers.iter().find(|answer| answer.writers.iter().any(|found| found != writer));
        assert!(other.is_none(), "not {writer}: {other:?}");
    }

    /// Once a way of asking has named `new`, it names none of the others again.
    #[track_caller]
    pub fn never_back_from(&self, new: &str) {
        let mut moved: BTreeMap<&str, Instant> = BTreeMap::new();
        for answer in &self.answers {
            let Some(writer) = answer.writers.first() else { continue };
            if writer == new {
                moved.entry(answer.kind).or_insert(answer.received);
            } else if let Some(at) = moved.get(answer.kind) {
                assert!(answer.sent < *at, "went back to {writer}: {answer:?}");
            }
        }
        assert_eq!(moved.len(), 5, "not every way of asking has named {new}: {moved:?}");
    }
}
