//! Clients at the switch: two that look the name up for each write, two that keep their connection, readers of every
//! Consul server, a sampler of the instances, and a reader of what agents say is wrong. They run on a thread of their
//! own, so that a command of the test holds none of them up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::dns::{self, Asked};
use crate::fault::HOSTS;
use crate::history::{Answer, Look, Manner, Ms, Outcome, Said, Sample, Seen, Way, Write};
use crate::http::{Http, MANAGEMENT};
use crate::namespace::Switch;
use crate::resp::{Conn, Fail, Reply};

/// Between two writes of a client.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// Between a failed write and the next one.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// Between two reads of a name.
const READ_EVERY: Duration = Duration::from_millis(50);
/// The same by the ways that few clients use.
const OTHER_EVERY: Duration = Duration::from_millis(150);
/// Between two looks at an instance.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at what an agent says.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is noted that this runs.
const BEAT: Duration = Duration::from_millis(20);
/// Clients of each manner.
const CLIENTS: usize = 2;
/// The writer's name.
pub const NAME: &str = "redis-primary.service.consul";
/// The same by its tag.
const TAG: &str = "primary.redis.service.consul";

/// Where everything is, and what opens it.
#[derive(Debug, Clone)]
pub struct Places {
    /// The hosts.
    pub ips: [std::net::Ipv4Addr; HOSTS],
    /// The token of `/status.json`.
    pub listen_token: String,
    /// Redis' password, as it is now.
    pub password: watch::Receiver<String>,
    /// The begin of the run.
    pub start: Instant,
}

impl Places {
    /// Now.
    pub fn now(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A server of a host.
    pub fn at(&self, host: usize, port: u16) -> SocketAddr {
        SocketAddr::from((self.ips[host], port))
    }

    fn login(&self) -> String {
        self.password.borrow().clone()
    }
}

/// Clients at work.
pub struct Clients {
    stop: watch::Sender<bool>,
    still: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    /// What they have seen.
    pub seen: mpsc::UnboundedReceiver<Seen>,
}

type Send = mpsc::UnboundedSender<Seen>;

impl Clients {
    /// Starts them at the switch.
    pub fn start(places: &Places, switch: Arc<Switch>) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (send, seen) = mpsc::unbounded_channel();
        let (places, still) = (places.clone(), Arc::new(AtomicU64::new(0)));
        let noted = Arc::clone(&still);
        let thread = std::thread::spawn(move || {
            switch.enter().expect("the switch");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                for number in 0..CLIENTS {
                    tokio::spawn(looks(number, places.clone(), send.clone()));
                    tokio::spawn(keeps(number, places.clone(), send.clone()));
                }
                for host in 0..HOSTS {
                    for way in [Way::A, Way::Srv, Way::Tag, Way::Health, Way::Catalog, Way::Kv] {
                        tokio::spawn(reads(host, way, places.clone(), send.clone()));
                    }
                    tokio::spawn(samples(host, places.clone(), send.clone()));
                    tokio::spawn(asks(host, places.clone(), send.clone()));
                }
                drop(send);
                tokio::spawn(beats(noted));
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        });
        Self { stop, still, thread: Some(thread), seen }
    }

    /// For how long the machine had no time for them, since this was asked last.
    pub fn still(&self) -> Ms {
        self.still.swap(0, Ordering::Relaxed)
    }

    /// Stops them.
    pub fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Notes for how long at a time this thread has no processor: what runs beside it has none, either.
async fn beats(still: Arc<AtomicU64>) {
    loop {
        let begun = Instant::now();
        sleep(BEAT).await;
        let late = begun.elapsed().saturating_sub(BEAT).as_millis();
        still.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What an application does without a pool.
async fn looks(client: usize, places: Places, send: Send) {
    for number in 0_usize.. {
        let server = (client + number) % HOSTS;
        let looked = (server, places.now());
        let found = dns::ask(places.at(server, 8600), NAME, Asked::A, PATIENCE).await;
        let Some(host) = found.ok().and_then(|all| all.into_iter().next()) else {
            sleep(RETRY_EVERY).await;
            continue;
        };
        let to = format!("{host}:6379");
        let key = format!("looks-{client}-{number}");
        let (invoked, login) = (places.now(), places.login());
        let outcome = match to.parse() {
            Ok(at) => match Conn::open(at, Some(&login), PATIENCE).await {
                Ok(mut conn) => set(&mut conn, &key).await,
                Err(fail) => Outcome::Failed(fail.text().to_owned()),
            },
            Err(_) => Outcome::Failed("no address".to_owned()),
        };
        let acked = outcome == Outcome::Acked;
        let (manner, done) = (Manner::Looks, places.now());
        let _ = send.send(Seen::Write(Write { manner, key, looked, to, invoked, done, outcome }));
        sleep(if acked { WRITE_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn set(conn: &mut Conn, key: &str) -> Outcome {
    match conn.call(&["SET", key, "1"]).await {
        Ok(Reply::Text(_)) => Outcome::Acked,
        Ok(Reply::Error(error)) => Outcome::Failed(error),
        Ok(other) => Outcome::Failed(format!("{other:?}")),
        Err(Fail::Unsent(error)) => Outcome::Failed(error),
        Err(Fail::Unknown(error)) => Outcome::Unknown(error),
    }
}

/// What docs/clients.md asks of a pool: SRV, `ROLE` on a new connection, a deadline, and another connection after
/// READONLY, LOADING, MASTERDOWN and whatever gets no answer.
async fn keeps(client: usize, places: Places, send: Send) {
    let mut open: Option<(String, (usize, Ms), Conn)> = None;
    for number in 0_usize.. {
        if open.is_none() {
            open = connect((client + number) % HOSTS, &places).await;
        }
        let Some((to, looked, conn)) = &mut open else {
            sleep(RETRY_EVERY).await;
            continue;
        };
        let key = format!("keeps-{client}-{number}");
        let invoked = places.now();
        let outcome = set(conn, &key).await;
        let (manner, done, to, looked) = (Manner::Keeps, places.now(), to.clone(), *looked);
        let acked = outcome == Outcome::Acked;
        let _ = send.send(Seen::Write(Write { manner, key, looked, to, invoked, done, outcome }));
        if !acked {
            open = None;
        }
        sleep(if acked { WRITE_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn connect(server: usize, places: &Places) -> Option<(String, (usize, Ms), Conn)> {
    let looked = (server, places.now());
    let found = dns::ask(places.at(server, 8600), NAME, Asked::Srv, PATIENCE).await.ok()?;
    let to = found.into_iter().next()?;
    let mut conn = Conn::open(to.parse().ok()?, Some(&places.login()), PATIENCE).await.ok()?;
    let Ok(Reply::List(role)) = conn.call(&["ROLE"]).await else { return None };
    (role.first()?.text()? == "master").then_some((to, looked, conn))
}

async fn reads(server: usize, way: Way, places: Places, send: Send) {
    let http = Http::new();
    loop {
        let sent = places.now();
        if let Ok((writers, generation, why)) = read(server, way, &places, &http).await {
            let received = places.now();
            let answer = Answer { sent, received, server, way, writers, generation, why };
            let _ = send.send(Seen::Answer(answer));
        }
        sleep(if [Way::Tag, Way::Catalog].contains(&way) { OTHER_EVERY } else { READ_EVERY }).await;
    }
}

type Read = (Vec<String>, Option<u64>, String);

async fn read(server: usize, way: Way, places: &Places, http: &Http) -> Result<Read, String> {
    let url = |path: &str| format!("http://{}{path}", places.at(server, 8500));
    match way {
        Way::A | Way::Srv | Way::Tag => {
            let asked = if way == Way::Srv { Asked::Srv } else { Asked::A };
            let name = if way == Way::Tag { TAG } else { NAME };
            let writers = dns::ask(places.at(server, 8600), name, asked, PATIENCE).await?;
            Ok((writers, None, String::new()))
        }
        Way::Health | Way::Catalog => {
            let path = match way {
                Way::Health => "/v1/health/service/redis-primary?passing",
                _ => "/v1/catalog/service/redis-primary",
            };
            let rows = http.get(&url(path), MANAGEMENT).await?.unwrap_or_default();
            let address = |row: &Value| match way {
                Way::Health => row["Service"]["Address"].as_str().map(str::to_owned),
                _ => row["ServiceAddress"].as_str().map(str::to_owned),
            };
            let writers = rows.as_array().into_iter().flatten().filter_map(address).collect();
            Ok((writers, None, String::new()))
        }
        Way::Kv => {
            let path = url("/v1/kv/redis-ha/redis/state?raw");
            let Some(state) = http.get(&path, MANAGEMENT).await? else {
                return Ok((Vec::new(), Some(0), "no key".to_owned()));
            };
            Ok(of_state(&state))
        }
    }
}

fn of_state(state: &Value) -> Read {
    let writer = &state["writer"];
    let writer = writer.as_str().or_else(|| writer["address"].as_str()).map(str::to_owned);
    let why = state["why"].as_str().unwrap_or_default().to_owned();
    (writer.into_iter().collect(), state["generation"].as_u64(), why)
}

async fn samples(host: usize, places: Places, send: Send) {
    let mut open: Option<Conn> = None;
    loop {
        let sent = places.now();
        if open.is_none() {
            let login = places.login();
            open = Conn::open(places.at(host, 6379), Some(&login), PATIENCE).await.ok();
        }
        let mut said = None;
        if let Some(conn) = &mut open {
            match conn.call(&["INFO", "replication"]).await {
                Ok(Reply::Text(info)) => said = parse_info(&info),
                _ => open = None,
            }
        }
        let received = places.now();
        let _ = send.send(Seen::Sample(Sample { sent, received, host, said }));
        sleep(SAMPLE_EVERY).await;
    }
}

fn parse_info(info: &str) -> Option<Said> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let primary = field("role")? == "master";
    let offset = if primary { "master_repl_offset" } else { "slave_repl_offset" };
    let offset = field(offset)?.parse().unwrap_or(0);
    Some(Said { primary, replid: field("master_replid")?.to_owned(), offset })
}

async fn asks(host: usize, places: Places, send: Send) {
    let http = Http::new();
    let url = format!("http://{}/status.json", places.at(host, 9790));
    loop {
        if let Ok(Some(all)) = http.get(&url, &places.listen_token).await {
            let codes = all[0]["problems"].as_array().into_iter().flatten();
            let problems = codes.filter_map(|one| Some(one["code"].as_str()?.to_owned())).collect();
            let received = places.now();
            let _ = send.send(Seen::Look(Look { received, host, problems }));
        }
        sleep(LOOK_EVERY).await;
    }
}
