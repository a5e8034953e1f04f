//! What stands around a world and looks at it: a client that writes through a name, and an oracle that asks
//! every server directly.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::LabError;
use super::redis::LabServer;
use crate::core::identity::address::Address;
use crate::dns::Names;
use crate::instance::probe;
use crate::redis_link::{Link, LinkSettings, text};

/// A client as many applications are: for each write it looks the name up, connects, and writes.
#[derive(Clone)]
pub struct NameWriter {
    /// The DNS it asks.
    pub names: Names,
    /// The name it looks up, which Consul answers.
    pub name: String,
    /// The port of every Redis.
    pub port: u16,
    /// How it logs in.
    pub login: LinkSettings,
}

impl NameWriter {
    /// Writes once; the instance that acknowledged it.
    ///
    /// # Errors
    /// When the name has no address, or the write is not acknowledged.
    pub async fn write(&self, value: &str) -> Result<Address, LabError> {
        let found = self.names.a(&self.name).await.map_err(LabError::new)?;
        let ip = found.first().ok_or_else(|| LabError(format!("{} has no address", self.name)))?;
        let address = Address::new(&ip.to_string(), self.port).map_err(LabError::new)?;
        write_to(&address, &self.login, value).await?;
        Ok(address)
    }

    /// Writes again and again, `pause` apart, and reports each result with when it came, until the
    /// handle is dropped.
    pub fn keep_writing(
        self,
        pause: Duration,
    ) -> (watch::Receiver<Written>, AbortOnDropHandle<()>) {
        let (send, receive) = watch::channel(Written::default());
        let task = tokio::spawn(async move {
            loop {
                let result = self.write("demo").await;
                let at = Instant::now();
                send.send_modify(|written| written.note(result, at));
                tokio::time::sleep(pause).await;
            }
        });
        (receive, AbortOnDropHandle::new(task))
    }
}

/// What became of many writes.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// How many were not.
    pub failed: u64,
    /// The instance that acknowledged the last one, and when.
    pub last: Option<(Address, Instant)>,
    /// For each server in turn, when it first acknowledged one.
    pub first: Vec<(Address, Instant)>,
}

impl Written {
    fn note(&mut self, result: Result<Address, LabError>, at: Instant) {
        match result {
            Ok(address) => {
                self.acknowledged += 1;
                if self.first.iter().all(|(known, _)| known != &address) {
                    self.first.push((address.clone(), at));
                }
                self.last = Some((address, at));
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// One write to one server.
///
/// # Errors
/// When it is not acknowledged.
pub async fn write_to(
    address: &Address,
    login: &LinkSettings,
    value: &str,
) -> Result<(), LabError> {
    let mut link = Link::open(address, login).await.map_err(LabError::new)?;
    let mut command = redis::pipe();
    command.cmd("SET").arg("consul-redis").arg(value);
    let answers = link.ask(&command).await.map_err(LabError::new)?;
    let answer = answers.first().ok_or_else(|| LabError::new("no answer"))?;
    text(answer).map_err(LabError).map(|_| ())
}

/// Waits for the first of these servers to say that it is the primary, asking all of them all the time.
pub async fn first_primary(servers: &[LabServer]) -> (Address, Instant) {
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let _askers: Vec<AbortOnDropHandle<()>> = servers
        .iter()
        .map(|server| {
            let (address, login, send) =
                (server.address.clone(), server.login.clone(), send.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut link: Option<Link> = None;
                loop {
                    if link.is_none() {
                        link = Link::open(&address, &login).await.ok();
                    }
                    let answer = match &mut link {
                        Some(open) => probe(open).await.ok(),
                        None => None,
                    };
                    match answer {
                        Some(answer) if answer.is_primary() => {
                            let _ = send.send((address.clone(), Instant::now())).await;
                            return;
                        }
                        Some(_) => {}
                        None => link = None,
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }))
        })
        .collect();
    match receive.recv().await {
        Some(found) => found,
        None => std::future::pending().await,
    }
}
