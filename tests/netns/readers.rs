//! Readers at the switch that ask every host's Consul for the writer all the time.

use std::net::IpAddr;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hosts::{Host, Hosts};

/// Between two questions of one reader.
const PAUSE: Duration = Duration::from_millis(3);
/// Where the writer's name is.
const NAME: &str = "redis-primary.service.consul";
/// Where the writer is.
const KEY: &str = "redis-ha/redis/primary/host";

/// One answer to one reader.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The host that was asked.
    pub host: usize,
    /// How it was asked.
    pub kind: &'static str,
    /// When the question was sent.
    pub sent: Instant,
    /// When the answer was received.
    pub received: Instant,
    /// The writers in it.
    pub writers: Vec<String>,
}

/// Readers at work.
pub struct Readers {
    stop: CancellationToken,
    answers: mpsc::UnboundedReceiver<Answer>,
    tasks: Vec<JoinHandle<()>>,
}

/// All answers that the readers got, once they have stopped.
pub struct Told(Vec<Answer>);

impl Readers {
    /// Starts asking every host, by DNS and by KV.
    pub fn start(hosts: &Hosts) -> Self {
        let stop = CancellationToken::new();
        let (send, answers) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for (index, host) in hosts.all.iter().enumerate() {
            for kind in ["DNS", "KV"] {
                tasks.push(tokio::spawn(read(host, index, kind, stop.clone(), send.clone())));
            }
        }
        Self { stop, answers, tasks }
    }

    /// Stops them.
    pub async fn stop(mut self) -> Told {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("a reader");
        }
        let mut all = Vec::new();
        while let Ok(answer) = self.answers.try_recv() {
            all.push(answer);
        }
        all.sort_by_key(|answer| answer.received);
        Told(all)
    }
}

fn read(
    host: &Host,
    index: usize,
    kind: &'static str,
    stop: CancellationToken,
    send: mpsc::UnboundedSender<Answer>,
) -> impl Future<Output = ()> + use<> {
    let names = host.consul.names().expect("a DNS client");
    let client = host.consul.client().expect("a client");
    async move {
        let ask = async || -> Result<Vec<String>, LabError> {
            if kind == "DNS" {
                let found = names.a(NAME).await.map_err(LabError::new)?;
                return Ok(found.iter().map(IpAddr::to_string).collect());
            }
            let path = format!("/v1/kv/{KEY}");
            let deadline = Duration::from_secs(2);
            let answer =
                client.call(reqwest::Method::GET, &path, &[("raw", "")], None, deadline).await;
            let answer = answer.map_err(LabError::new)?;
            let host = String::from_utf8_lossy(&answer.body).into_owned();
            if answer.status != 200 {
                return Err(LabError(host));
            }
            Ok(Some(host).filter(|host| !host.is_empty()).into_iter().collect())
        };
        while !stop.is_cancelled() {
            let sent = Instant::now();
            if let Ok(writers) = ask().await {
                let _ = send.send(Answer {
                    host: index,
                    kind,
                    sent,
                    received: Instant::now(),
                    writers,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Told {
    /// When any reader first got the writer.
    pub fn first_named(&self, writer: &Address) -> Instant {
        let first = self.0.iter().find(|answer| answer.writers == [writer.host()]);
        first.unwrap_or_else(|| panic!("{writer} was never named")).received
    }

    /// No answer ever held two writers.
    pub fn never_two(&self) {
        let two = self.0.iter().find(|answer| answer.writers.len() > 1);
        assert!(two.is_none(), "two writers: {two:?}");
    }

    /// These hosts, once they have named `new`, named no other writer again.
    pub fn never_back_from(&self, new: &Address, on: &[usize]) {
        for host in on {
            for kind in ["DNS", "KV"] {
                let mut answers =
                    self.0.iter().filter(|answer| answer.host == *host && answer.kind == kind);
                let moved = answers.find(|answer| answer.writers == [new.host()]);
                let moved = moved.unwrap_or_else(|| panic!("h{} {kind} never moved", host + 1));
                let back = answers.find(|answer| {
                    answer.sent >= moved.received
                        && answer.writers.first().is_some_and(|writer| writer != new.host())
                });
                assert!(back.is_none(), "went back: {back:?}");
            }
        }
    }
}
