//! Clients on one host that write to that host's Redis again and again, and note what it acknowledges.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::hosts::Host;

/// Clients that keep their connection, and wait for each answer as long as it takes.
const KEPT: usize = 4;
/// How long a client with a new connection for each write waits for its answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often a client that waits looks whether it is to stop.
const STEP: Duration = Duration::from_millis(50);
/// Between two writes or reads of one client.
const PAUSE: Duration = Duration::from_millis(3);

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It keeps its connection.
    Kept,
    /// It connects for each write.
    New,
    /// It connects for each read, and reads.
    Reader,
}

/// One acknowledged write, or one answered read.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// The client.
    pub kind: Kind,
    /// When the answer was received.
    pub at: Instant,
}

/// Clients at work on a host.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Done>>>,
}

impl Writers {
    /// Starts them in the host's network, at the host's own Redis.
    pub fn start(host: &Host) -> Self {
        let address: SocketAddr = host.redis.address.to_string().parse().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let kinds = std::iter::repeat_n(Kind::Kept, KEPT).chain([Kind::New, Kind::Reader]);
        let (entered, wait) = std::sync::mpsc::channel();
        let start = |(number, kind)| {
            let (stop, entered) = (Arc::clone(&stop), entered.clone());
            let network = host.namespace.handle().expect("the host's network");
            std::thread::spawn(move || {
                network.enter().expect("the host's network");
                entered.send(()).expect("somebody waits");
                Client { number, kind, address, stop, connection: None, done: Vec::new() }.work()
            })
        };
        let threads: Vec<_> = kinds.enumerate().map(start).collect();
        for _ in &threads {
            wait.recv().expect("all have entered");
        }
        Self { stop, threads }
    }

    /// Stops them: all that was acknowledged, in order.
    pub fn stop(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client"));
        let mut done: Vec<Done> = done.collect();
        done.sort_by_key(|done| done.at);
        done
    }
}

struct Client {
    number: usize,
    kind: Kind,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    connection: Option<BufReader<TcpStream>>,
    done: Vec<Done>,
}

impl Client {
    fn work(mut self) -> Vec<Done> {
        for count in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let command = match self.kind {
                Kind::Reader => "GET first\r\n".to_owned(),
                Kind::Kept | Kind::New => format!("SET key-{}-{count} {count}\r\n", self.number),
            };
            match self.ask(&command) {
                Some(true) => self.done.push(Done { kind: self.kind, at: Instant::now() }),
                Some(false) => {}
                None => self.connection = None,
            }
            if self.kind != Kind::Kept {
                self.connection = None;
            }
            std::thread::sleep(PAUSE);
        }
        self.done
    }

    /// Whether it was done; `None` without an answer.
    fn ask(&mut self, command: &str) -> Option<bool> {
        if self.connection.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(STEP)).ok()?;
            self.connection = Some(BufReader::new(stream));
        }
        let reader = self.connection.as_mut()?;
        reader.get_mut().write_all(command.as_bytes()).ok()?;
        let (asked, mut line) = (Instant::now(), Vec::new());
        loop {
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                // An error of Redis begins with `-`.
                Ok(_) => return Some(line.first().is_some_and(|first| *first != b'-')),
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
