//! Clients that write again and again, each write with a key of its own, and note what is acknowledged: afterwards
//! every acknowledged key can be looked for by itself. A counter could not tell: one write that was applied and not
//! acknowledged would hide one that was acknowledged and lost.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::redis::patiently;
use consul_redis::lab::wait::until;
use consul_redis::redis_link::{Link, LinkSettings};
use redis::Value;
use tokio::time::Instant;

/// Clients that keep their connection, and wait for each answer as long as it takes.
const KEPT: usize = 4;
/// How long a client with a new connection for each write waits for its answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often a client that waits looks whether it is to stop.
const STEP: Duration = Duration::from_millis(50);
/// Between two writes or reads of one client.
const PAUSE: Duration = Duration::from_millis(3);
/// Keys that are looked for at once.
const BATCH: usize = 500;

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It keeps its connection until that is closed, or refuses writes.
    Kept,
    /// It connects for each write.
    New,
    /// It connects for each read, and reads.
    Reader,
}

/// One acknowledged write, or one answered read.
#[derive(Debug, Clone)]
pub struct Done {
    /// The client.
    pub kind: Kind,
    /// When the answer was received.
    pub at: Instant,
    /// The server that answered.
    pub by: SocketAddr,
    /// What was written, or read.
    pub key: String,
}

/// Where one client works: the server that it connects to next, if there is one.
pub type Find = Box<dyn FnMut() -> Option<SocketAddr>>;

/// Clients at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Done>>>,
}

impl Writers {
    /// Starts them, each on a thread of its own. `begin` is called on that thread, once: it may enter a network, and
    /// gives how the client finds the server.
    pub fn start<B: FnOnce() -> Find + Send + 'static>(begin: impl Fn() -> B) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let kinds = std::iter::repeat_n(Kind::Kept, KEPT).chain([Kind::New, Kind::Reader]);
        let (begun, wait) = std::sync::mpsc::channel();
        let start = |(number, kind)| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (begin, begun) = (begin(), begun.clone());
            std::thread::spawn(move || {
                let find = begin();
                begun.send(()).expect("the test waits");
                let (connection, done) = (None, Vec::new());
                Client { number, kind, find, stop, acknowledged, connection, done }.work()
            })
        };
        let threads: Vec<_> = kinds.enumerate().map(start).collect();
        for _ in &threads {
            wait.recv().expect("all have begun");
        }
        Self { stop, acknowledged, threads }
    }

    /// Starts them at whatever `redis-primary` leads to, as this DNS server has it when a client connects.
    pub fn by_name(dns: SocketAddr) -> Self {
        Self::start(|| {
            move || {
                // Its own, on the client's thread: the test's may be busy with a command.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let (runtime, names) = (runtime.expect("a runtime"), Names::new(Some(dns)));
                Box::new(move || runtime.block_on(named(&names))) as Find
            }
        })
    }

    /// Waits until so many more writes have been acknowledged.
    pub async fn until_more(&self, count: usize) {
        let from = self.acknowledged.load(Ordering::Relaxed);
        until("more writes are acknowledged", Duration::from_secs(20), || async {
            let more = self.acknowledged.load(Ordering::Relaxed) - from;
            if more >= count { Ok(()) } else { Err(LabError(format!("{more} of {count}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops them: all that was done, in order.
    pub fn stop(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client"));
        let mut done: Vec<Done> = done.collect();
        done.sort_by_key(|done| done.at);
        done
    }
}

/// Of what was acknowledged, the writes whose keys this server lacks.
pub async fn lost<'a>(done: &'a [Done], server: &str) -> Vec<&'a Done> {
    let found = look_for(done, server).await;
    found.unwrap_or_else(|error| panic!("{server}: {error}"))
}

async fn look_for<'a>(done: &'a [Done], server: &str) -> Result<Vec<&'a Done>, LabError> {
    let address: Address = server.parse().map_err(LabError::new)?;
    let mut link =
        Link::open(&address, &patiently(&LinkSettings::default())).await.map_err(LabError::new)?;
    let writes: Vec<&Done> = done.iter().filter(|done| done.kind != Kind::Reader).collect();
    let mut lost = Vec::new();
    for batch in writes.chunks(BATCH) {
        let mut command = redis::pipe();
        for write in batch {
            command.cmd("EXISTS").arg(&write.key);
        }
        let answers = link.ask(&command).await.map_err(LabError::new)?;
        for (write, answer) in batch.iter().zip(&answers) {
            match answer {
                Value::Int(1) => {}
                Value::Int(0) => lost.push(*write),
                other => return Err(LabError(format!("{}: {other:?}", write.key))),
            }
        }
    }
    Ok(lost)
}

/// The new writer has every write that was acknowledged, and both it and the old one have acknowledged some.
pub async fn none_lost(done: &[Done], old: &str, new: &str) {
    let (by_old, by_new) = (acknowledged_by(done, old), acknowledged_by(done, new));
    let lost = lost(done, new).await;
    println!("{by_old} writes acknowledged by the old, {by_new} by the new; {} lost", lost.len());
    let first: Vec<_> = lost.iter().take(5).collect();
    assert!(lost.is_empty(), "{} lost, the first of them {first:#?}", lost.len());
    assert!(by_old > 0 && by_new > 0, "acknowledged by the old {by_old}, by the new {by_new}");
}

fn acknowledged_by(done: &[Done], server: &str) -> usize {
    let writes = done.iter().filter(|done| done.kind != Kind::Reader);
    writes.filter(|done| done.by.to_string() == server).count()
}

async fn named(names: &Names) -> Option<SocketAddr> {
    let (target, port) =
        names.srv("redis-primary.service.consul").await.ok()?.into_iter().next()?;
    let ip: IpAddr = names.a(&target).await.ok()?.into_iter().next()?;
    Some(SocketAddr::new(ip, port))
}

struct Client {
    number: usize,
    kind: Kind,
    find: Find,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    connection: Option<(SocketAddr, BufReader<TcpStream>)>,
    done: Vec<Done>,
}

impl Client {
    fn work(mut self) -> Vec<Done> {
        for count in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (kind, key) = match self.kind {
                Kind::Reader => (Kind::Reader, "first".to_owned()),
                kind => (kind, format!("write-{}-{count}", self.number)),
            };
            let command = match kind {
                Kind::Reader => format!("GET {key}\r\n"),
                Kind::Kept | Kind::New => format!("SET {key} {count}\r\n"),
            };
            match self.ask(&command) {
                Some(by) => {
                    self.acknowledged
                        .fetch_add(usize::from(kind != Kind::Reader), Ordering::Relaxed);
                    self.done.push(Done { kind, at: Instant::now(), by, key });
                }
                None => self.connection = None,
            }
            if kind != Kind::Kept {
                self.connection = None;
            }
            std::thread::sleep(PAUSE);
        }
        self.done
    }

    /// Who has done it; `None` for an error, and without an answer.
    fn ask(&mut self, command: &str) -> Option<SocketAddr> {
        if self.connection.is_none() {
            let address = (self.find)()?;
            let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(STEP)).ok()?;
            self.connection = Some((address, BufReader::new(stream)));
        }
        let (by, reader) = self.connection.as_mut()?;
        reader.get_mut().write_all(command.as_bytes()).ok()?;
        let (asked, mut line) = (Instant::now(), Vec::new());
        loop {
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                // An error of Redis begins with `-`.
                Ok(_) => return line.first().is_some_and(|first| *first != b'-').then_some(*by),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
            let patient = self.kind == Kind::Kept || asked.elapsed() < PATIENCE;
            if !patient || self.stop.load(Ordering::Relaxed) {
                return None;
            }
        }
    }
}
