//! What is watched in Consul for as long as an agent runs: a group's keys, and the instances registered for it.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::blocking::{BlockingQuery, WATCH_WAIT};
use super::client::{CALL_TIMEOUT, Consul, ConsulError, Response};
use super::services;
use super::shared_watch::KeysSender;
use super::store::{ReadMode, cluster_in_answer, in_answer, keys_path};
use crate::clock::{Clock, stood_still};
use crate::core::cluster::record::ClusterStore;
use crate::core::identity::address::Address;
use crate::core::known::observed::{StoreAnswer, StoredState};
use crate::core::published::projection::Layout;

/// Pause between two changes of the registered instances: a check that flaps wakes us, and changes nothing.
const REGISTERED_PAUSE: Duration = Duration::from_millis(200);

/// Pause between two questions for the registered instances of a group that has no writer.
const URGENT_PAUSE: Duration = Duration::from_secs(1);

/// Pause between two looks for a node that is not there. Consul does not wait for one.
const MISSING_PAUSE: Duration = Duration::from_millis(500);

/// One group's keys, asked for again and again.
#[derive(Debug)]
pub struct GroupWatch {
    query: BlockingQuery,
    layout: Layout,
    clock: Clock,
}

impl GroupWatch {
    /// Answers as soon as something changes, and after `wait` in any case.
    pub fn new(consul: Consul, layout: Layout, clock: Clock, wait: Duration) -> Self {
        let query = BlockingQuery::new(consul, keys_path(&layout), vec![("recurse", "")], wait);
        Self { query, layout, clock }
    }

    /// The next answer; the first one at once. After an error it pauses before it asks again. Cancel safe.
    ///
    /// # Errors
    /// Any [`ConsulError`]. What was read before stays what is known.
    pub async fn next(&mut self) -> Result<StoreAnswer, ConsulError> {
        let Self { query, layout, clock } = self;
        query.next(|answer| in_answer(layout, clock, answer)).await
    }
}

impl Consul {
    /// The same answer, unless it shows an older generation than `known`, or nothing: then what a consistent read shows.
    /// A server that has lost the leadership and does not know it yet is not believed; a Consul that was wiped is.
    ///
    /// # Errors
    /// Any [`ConsulError`] of the consistent read.
    pub async fn confirmed(
        &self,
        layout: &Layout,
        clock: &Clock,
        answer: StoreAnswer,
        known: Option<u64>,
    ) -> Result<StoreAnswer, ConsulError> {
        if !is_older(&answer, known) {
            return Ok(answer);
        }
        Ok(self.group(layout, ReadMode::Consistent, clock).await?.value)
    }
}

/// It shows an older generation than one that was read before, or none.
fn is_older(answer: &StoreAnswer, known: Option<u64>) -> bool {
    match (&answer.state, known) {
        (StoredState::Known(record), Some(known)) => record.generation < known,
        (StoredState::Absent, Some(_)) => true,
        _ => false,
    }
}

/// Hands every answer about the group's keys to `answers`, and every failure to get one, until the receiver takes no
/// more.
///
/// Consul away changes nothing: the last answer stays what is known, and this says so once.
pub async fn watch_group(consul: Consul, layout: Layout, clock: Clock, answers: KeysSender) {
    // Boxed: a channel keeps room for several, and a record is large.
    watch_keys(consul, layout, clock, in_answer, Box::new, answers).await;
}

/// The same of a cluster.
pub async fn watch_cluster(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    answers: mpsc::Sender<Result<ClusterStore, ConsulError>>,
) {
    watch_keys(consul, layout, clock, cluster_in_answer, |answer| answer, answers).await;
}

async fn watch_keys<T, A>(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    read: fn(&Layout, &Clock, Response) -> Result<T, ConsulError>,
    put: fn(Result<T, ConsulError>) -> A,
    answers: mpsc::Sender<A>,
) {
    let (path, query) = (keys_path(&layout), vec![("recurse", "")]);
    let mut query = BlockingQuery::new(consul.clone(), path, query, WATCH_WAIT);
    let mut away = false;
    while !answers.is_closed() {
        let answer = query.next(|answer| read(&layout, &clock, answer)).await;
        match &answer {
            Ok(_) if away => {
                info!("{}: Consul at {} answers again", layout.group, consul.address());
                away = false;
            }
            // Said by whom it is handed to, with the token in question.
            Err(error) if error.is_refusal() => {}
            Err(error) if stood_still() => debug!("{}: {error}", layout.group),
            Err(error) if !away => {
                let group = &layout.group;
                warn!("{group}: {error}; trying again, and what is published stays as it is");
                away = true;
            }
            Ok(_) | Err(_) => {}
        }
        if answers.send(put(answer)).await.is_err() {
            return;
        }
    }
}

/// Hands the addresses registered under a service to `found` whenever they may have changed, until the receiver takes
/// no more. Consul away is unknown, not gone: those that were registered stay.
pub async fn watch_registered(
    consul: Consul,
    service: String,
    installation: Option<String>,
    found: mpsc::Sender<BTreeSet<Address>>,
) {
    let query = BlockingQuery::new(consul, services::path(&service), Vec::new(), WATCH_WAIT);
    let mut query = query.paced(REGISTERED_PAUSE);
    let call = query.call();
    while !found.is_closed() {
        match query.next(|answer| services::addresses(answer, &call, installation.as_deref())).await
        {
            Ok(registered) => {
                if found.send(registered).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!("{service}: {error}"),
        }
    }
}

/// The same without a blocking query, for an agent of very many groups: asked every second while `urgent`, and else
/// every `calm`, one group after the other.
pub async fn poll_registered(
    consul: Consul,
    service: String,
    installation: Option<String>,
    found: mpsc::Sender<BTreeSet<Address>>,
    (mut urgent, calm): (watch::Receiver<bool>, Duration),
) {
    /// By the leader: a server that has just been started shows what was registered before.
    const CONFIRMED: [(&str, &str); 1] = [("consistent", "")];
    let path = services::path(&service);
    let call = format!("GET {path}");
    let mut before = None;
    while !found.is_closed() {
        let asked = {
            let _place = consul.places().poll().await;
            consul.call(Method::GET, &path, &CONFIRMED, None, CALL_TIMEOUT).await
        };
        match asked.and_then(|answer| services::addresses(answer, &call, installation.as_deref())) {
            Ok(registered) if before.as_ref() != Some(&registered) => {
                before = Some(registered.clone());
                if found.send(registered).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => debug!("{service}: {error}"),
        }
        let pause = if *urgent.borrow_and_update() { URGENT_PAUSE } else { calm };
        // Cancel safe: a timer and a channel, whose sender ends with the receiver of what is found.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = urgent.changed() => tokio::time::sleep(REGISTERED_PAUSE).await,
        }
    }
}

/// Says whenever what is on a group's node may have changed, until the receiver takes no more. A node that is still
/// missing may have been there between two looks: it is said at each.
pub async fn watch_rows(consul: Consul, node: String, changed: mpsc::Sender<()>) {
    let path = format!("/v1/catalog/node-services/{node}");
    let query = BlockingQuery::new(consul, path, Vec::new(), WATCH_WAIT);
    let mut query = query.paced(REGISTERED_PAUSE);
    let call = query.call();
    let mut before = None;
    while !changed.is_closed() {
        match query.next(|answer| answer.ok(&call)).await {
            Ok(answer) => {
                let is_missing = is_no_node(&answer.body);
                if is_missing || before.as_ref() != Some(&answer.body) {
                    before = Some(answer.body);
                    if changed.send(()).await.is_err() {
                        return;
                    }
                }
                if is_missing {
                    tokio::time::sleep(MISSING_PAUSE).await;
                }
            }
            Err(error) => debug!("{node}: {error}"),
        }
    }
}

/// Consul knows no such node.
fn is_no_node(body: &[u8]) -> bool {
    let answer: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    answer.is_none_or(|answer| answer.get("Node").is_none_or(serde_json::Value::is_null))
}

#[cfg(test)]
mod tests {
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::consul::proxy::Proxy;

    /// A Consul that has just been started: what it shows without the leader's word is nothing.
    async fn restarted(shown: &'static str) -> Proxy {
        Proxy::start(move |_, head| {
            let (status, index, body) = match head.contains("consistent") {
                true => ("200 OK", 9, shown),
                false if head.contains("/v1/kv/") => ("404 Not Found", 4, "[]"),
                false => ("200 OK", 4, "[]"),
            };
            let length = body.len();
            format!("HTTP/1.1 {status}\r\nX-Consul-Index: {index}\r\nContent-Length: {length}\r\n\r\n{body}")
        })
        .await
    }

    #[tokio::test]
    async fn what_a_consul_shows_that_has_just_been_started_is_not_taken_for_an_end() {
        let entry = r#"[{"Node": {"Node": "a", "Address": "192.0.2.7"}, "Service": {"Address": "", "Port": 6379}}]"#;
        let proxy = restarted(entry).await;
        let (tell, mut found) = mpsc::channel(1);
        let (_urgent, urgent) = watch::channel(false);
        let often = (urgent, Duration::from_secs(5));
        let polling =
            poll_registered(proxy.consul.clone(), "redis".to_owned(), None, tell.clone(), often);
        let _polling = AbortOnDropHandle::new(tokio::spawn(polling));
        let registered = BTreeSet::from(["192.0.2.7:6379".parse().unwrap()]);
        let mut found = async || {
            tokio::time::timeout(Duration::from_secs(10), found.recv()).await.unwrap().unwrap()
        };
        assert_eq!(found().await, registered, "polled");
        let watching = watch_registered(proxy.consul.clone(), "redis".to_owned(), None, tell);
        let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
        assert_eq!(found().await, registered, "watched");
    }

    #[tokio::test]
    async fn a_record_that_was_read_is_not_gone_before_the_leader_says_so() {
        let proxy = restarted("[]").await;
        let layout = Layout::new("redis-ha", &"redis".parse().unwrap());
        let (consul, clock) = (proxy.consul.clone(), Clock::start());
        let read = || consul.group(&layout, ReadMode::Consistent, &clock);
        let nothing = read().await.unwrap().value;
        assert_eq!(nothing.state, StoredState::Absent);
        consul.confirmed(&layout, &clock, nothing.clone(), None).await.unwrap();
        assert_eq!(proxy.requests(), 1, "there was none before");
        let confirmed = consul.confirmed(&layout, &clock, nothing, Some(7)).await.unwrap();
        assert_eq!((confirmed.state, proxy.requests()), (StoredState::Absent, 2), "it was wiped");
    }
}
