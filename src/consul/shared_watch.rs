//! The keys of very many groups, watched over a fixed number of connections: Consul allows 200 from one address, and a
//! blocking query a group would need one each.
//!
//! One blocking query tells that something below the prefix has changed, and not what. A transaction of `check-index`
//! tells for 64 groups which records are other ones; it is read only, so it is in no log (`docs/facts/consul.md` 4). The
//! keys of those groups are read. What is in other keys than the record, or was missed, is found by reading all groups
//! in turn, which is quicker for a while after a change that no record explains.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::blocking::{BlockingQuery, WATCH_WAIT};
use super::client::{CALL_TIMEOUT, Consul, ConsulError};
use super::store::{in_answer, keys_path};
use super::txn::{self, OPS_MAX};
use crate::clock::{Clock, stood_still};
use crate::core::known::observed::StoreAnswer;
use crate::core::published::projection::Layout;
use crate::mailbox::Mailbox;

/// Least time between two answers to the question whether something has changed.
const WAKE_GAP: Duration = Duration::from_millis(50);
/// The same for each group, once that is more: a look asks for the records of all of them.
const WAKE_GAP_SHARE: Duration = Duration::from_micros(250);
/// Groups of which the last read came to nothing that are read again with the next one in turn.
const AGAIN_MAX: usize = 3;
/// Pause between two groups that are read in turn: usually, and after a change that no record explains.
const TURN_PAUSE: Duration = Duration::from_millis(250);
const TURN_PAUSE_SHORT: Duration = Duration::from_millis(25);
/// Groups that are read at once where what has changed is in no record.
const BUSY_MAX: usize = 16;
/// How often groups hear that Consul does not answer.
const SILENT_EVERY: Duration = Duration::from_secs(5);

/// What a group hears of its keys.
pub type KeysSender = mpsc::Sender<Box<Result<StoreAnswer, ConsulError>>>;

/// A group whose keys are to be watched.
struct JoiningGroup {
    layout: Layout,
    answers: KeysSender,
    busy: watch::Receiver<bool>,
}

/// The way to the watch: for each group that is to be watched. Cheap to clone.
#[derive(Clone, Default)]
pub struct SharedWatch(Arc<Mailbox<Joined>>);

#[derive(Default)]
struct Joined {
    groups: Vec<JoiningGroup>,
    /// Records that were written, by the root of their group, and their indexes.
    written: Vec<(String, u64)>,
    /// The roots of groups of which another key has changed.
    changed: Vec<String>,
}

impl PartialEq for Joined {
    /// What a mailbox asks is whether it is empty.
    fn eq(&self, other: &Self) -> bool {
        let is_empty = |joined: &Self| {
            joined.groups.is_empty() && joined.written.is_empty() && joined.changed.is_empty()
        };
        is_empty(self) && is_empty(other)
    }
}

impl SharedWatch {
    /// Hands every answer about a group's keys to `answers`, the first one soon, until the receiver takes no more. While
    /// the group is `busy`, all of its keys count and not the record alone.
    pub fn join(&self, layout: Layout, answers: KeysSender, busy: watch::Receiver<bool>) {
        self.0.post(|joined| joined.groups.push(JoiningGroup { layout, answers, busy }));
    }

    /// A group's loop has written its record, and knows it.
    pub fn written(&self, layout: &Layout, index: u64) {
        self.0.post(|joined| joined.written.push((layout.root(), index)));
    }

    /// Other keys than the records of these groups have changed, by the roots of the groups.
    pub fn changed(&self, roots: Vec<String>) {
        self.0.post(|joined| joined.changed.extend(roots));
    }

    /// Watches what lies below `prefix`, for as long as it is let.
    pub async fn run(self, consul: Consul, prefix: String, clock: Clock) {
        let (tell, mut woken) = mpsc::channel(1);
        // An agent of few groups has nothing to be woken for.
        let mut first = self.0.take().await;
        while first.groups.is_empty() {
            first = self.0.take().await;
        }
        let waking = AbortOnDropHandle::new(tokio::spawn(wake(consul.clone(), prefix, tell)));
        let mut hub = Hub {
            consul,
            clock,
            groups: BTreeMap::new(),
            turn: None,
            due: Instant::now(),
            hurried: 0,
            wrote: false,
            away: None,
            rested: Instant::now(),
            _waking: waking,
        };
        hub.join(first.groups).await;
        loop {
            // Cancel safe: a mailbox, a channel and a timer.
            tokio::select! {
                joined = self.0.take() => {
                    for (root, index) in joined.written {
                        hub.note_written(&root, index);
                    }
                    hub.wrote |= !joined.changed.is_empty();
                    hub.join(joined.groups).await;
                    hub.read(joined.changed).await;
                }
                Some(woken) = rested(&mut woken, hub.rested) => {
                    hub.woken(woken).await;
                    let share = u32::try_from(hub.groups.len()).unwrap_or(u32::MAX);
                    hub.rested = Instant::now() + WAKE_GAP_SHARE.saturating_mul(share);
                }
                () = tokio::time::sleep_until(hub.due), if !hub.groups.is_empty() => {
                    hub.next_in_turn().await;
                }
            }
        }
    }
}

/// The next that wakes, and not before `at`. Cancel safe.
async fn rested<T>(woken: &mut mpsc::Receiver<T>, at: Instant) -> Option<T> {
    tokio::time::sleep_until(at).await;
    woken.recv().await
}

/// Says whenever something below the prefix has changed, or that Consul does not answer. A query that ended with its
/// time, at the index of before, has seen no change.
async fn wake(consul: Consul, prefix: String, tell: mpsc::Sender<Result<(), ConsulError>>) {
    let query = vec![("keys", ""), ("separator", "/")];
    let query = BlockingQuery::new(consul, format!("/v1/kv/{prefix}/"), query, WATCH_WAIT);
    let mut query = query.paced(WAKE_GAP);
    let mut seen = None;
    loop {
        let woken = query.next(|answer| match answer.status.as_u16() {
            404 => Ok(answer.index),
            _ => answer.ok("GET the names of the groups").map(|answer| answer.index),
        });
        let woken = woken.await;
        let index = woken.as_ref().ok().copied();
        if index.is_some() && index == seen {
            continue;
        }
        seen = index;
        if tell.send(woken.map(drop)).await.is_err() {
            return;
        }
    }
}

/// One group.
struct SharedGroup {
    layout: Layout,
    answers: KeysSender,
    busy: watch::Receiver<bool>,
    /// The index of its record, 0 where there is none; `None` until it was read.
    index: Option<u64>,
}

struct Hub {
    consul: Consul,
    clock: Clock,
    /// By the root of their keys.
    groups: BTreeMap<String, SharedGroup>,
    /// Which group was read last in turn, and when the next one is.
    turn: Option<String>,
    due: Instant,
    /// So many are read with the short pause.
    hurried: usize,
    /// Something has changed since the last look that this agent wrote itself.
    wrote: bool,
    /// Consul does not answer: when groups heard so last.
    away: Option<Instant>,
    /// When it looks again what has changed, at the earliest.
    rested: Instant,
    _waking: AbortOnDropHandle<()>,
}

impl Hub {
    async fn join(&mut self, joining: Vec<JoiningGroup>) {
        let roots: Vec<String> = joining.iter().map(|joining| joining.layout.root()).collect();
        for JoiningGroup { layout, answers, busy } in joining {
            self.groups.insert(layout.root(), SharedGroup { layout, answers, busy, index: None });
        }
        self.read(roots).await;
    }

    async fn woken(&mut self, woken: Result<(), ConsulError>) {
        match woken {
            Ok(()) => {
                if self.away.take().is_some() {
                    info!("Consul at {} answers again", self.consul.address());
                    // It may be another one, or a restored one.
                    return self.read(self.groups.keys().cloned().collect()).await;
                }
                let mut changed = self.changed().await;
                if changed.is_empty() && !std::mem::take(&mut self.wrote) {
                    self.hurry();
                    changed.extend(self.busy());
                }
                self.read(changed).await;
            }
            Err(error) if error.is_transient() => self.silent(&error),
            // It answers, and not this: all groups are read in turn.
            Err(error) => {
                debug!("{error}: all groups are read in turn");
                self.hurry();
            }
        }
    }

    /// Groups in which something is going on that another key than the record may be about. Those of a large outage have
    /// their turn with the others.
    fn busy(&self) -> Vec<String> {
        let busy = self.groups.iter().filter(|(_, group)| *group.busy.borrow());
        busy.map(|(root, _)| root.clone()).take(BUSY_MAX).collect()
    }

    fn note_written(&mut self, root: &str, index: u64) {
        self.wrote = true;
        if let Some(group) = self.groups.get_mut(root) {
            group.index = group.index.map(|known| known.max(index));
        }
    }

    /// Every group hears that Consul does not answer, and hears it again as long as that lasts.
    fn silent(&mut self, error: &ConsulError) {
        let now = Instant::now();
        match self.away {
            Some(at) if now - at < SILENT_EVERY => return,
            Some(_) => {}
            None if stood_still() => debug!("{error}"),
            None => warn!("{error}; trying again, and what is published stays as it is"),
        }
        self.away = Some(now);
        for group in self.groups.values() {
            // Fails where answers wait already.
            let _ = group.answers.try_send(Box::new(Err(self.silence(error))));
        }
    }

    /// The same error once more: one of them is for each group.
    fn silence(&self, error: &ConsulError) -> ConsulError {
        let reason = match error {
            ConsulError::Unreachable { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        ConsulError::Unreachable { address: self.consul.address(), reason }
    }

    /// The roots of the groups whose record is not the one that was read.
    async fn changed(&mut self) -> Vec<String> {
        let known: Vec<(String, String, u64)> = self
            .groups
            .iter()
            .filter_map(|(root, group)| Some((root.clone(), group.layout.state(), group.index?)))
            .collect();
        let mut asked = JoinSet::new();
        for some in known.chunks(OPS_MAX) {
            let (consul, some) = (self.consul.clone(), some.to_vec());
            asked.spawn(async move {
                let _place = consul.places().watched().await;
                let changed = consul.changed(&some).await;
                changed.unwrap_or_else(|error| {
                    debug!("{error}: groups are read");
                    some.into_iter().map(|(root, ..)| root).collect()
                })
            });
        }
        asked.join_all().await.concat()
    }

    /// Reads the keys of these groups, and hands them over.
    async fn read(&mut self, roots: Vec<String>) {
        let mut asked = JoinSet::new();
        for root in roots {
            let Some(group) = self.groups.get(&root) else { continue };
            let (consul, layout, clock) = (self.consul.clone(), group.layout.clone(), self.clock);
            asked.spawn(async move {
                let _place = consul.places().watched().await;
                (root, consul.keys_of(&layout, &clock).await)
            });
        }
        while let Some(read) = asked.join_next().await {
            let Ok((root, answer)) = read else { continue };
            let Some(group) = self.groups.get_mut(&root) else { continue };
            let index = answer.as_ref().ok().map(|answer| answer.state_index);
            match group.answers.try_send(Box::new(answer)) {
                Ok(()) => group.index = index,
                // It is read again: it did not hear this.
                Err(mpsc::error::TrySendError::Full(_)) => group.index = None,
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.groups.remove(&root);
                }
            }
        }
    }

    fn hurry(&mut self) {
        self.hurried = self.groups.len();
        self.due = self.due.min(Instant::now() + TURN_PAUSE_SHORT);
    }

    /// Reads the next group in turn, and all that could not be read before.
    async fn next_in_turn(&mut self) {
        self.hurried = self.hurried.saturating_sub(1);
        let pause = if self.hurried > 0 { TURN_PAUSE_SHORT } else { TURN_PAUSE };
        self.due = Instant::now() + pause;
        if self.away.is_some() {
            return;
        }
        let after = self.turn.take();
        let next = match &after {
            Some(last) => self.groups.keys().find(|root| *root > last),
            None => None,
        };
        self.turn = next.or_else(|| self.groups.keys().next()).cloned();
        let unread = self.groups.iter().filter(|(_, group)| group.index.is_none());
        let mut roots: Vec<String> = unread.map(|(root, _)| root.clone()).take(AGAIN_MAX).collect();
        roots.extend(self.turn.clone());
        roots.dedup();
        self.read(roots).await;
    }
}

impl Consul {
    /// A group's keys, as a blocking query reads them: not confirmed by the leader.
    async fn keys_of(&self, layout: &Layout, clock: &Clock) -> Result<StoreAnswer, ConsulError> {
        let (path, query) = (keys_path(layout), [("recurse", "")]);
        let answer = self.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        in_answer(layout, clock, answer)
    }

    /// Of groups by root, record and its index: the roots of those whose record has another index by now.
    async fn changed(&self, known: &[(String, String, u64)]) -> Result<Vec<String>, ConsulError> {
        let checks = known.iter().map(|(_, record, index)| (record.as_str(), *index));
        let body = txn::unchanged(checks, &self.tenancy());
        let answer = self.call(Method::PUT, "/v1/txn", &[], Some(&body), CALL_TIMEOUT).await?;
        let failed = txn::failed_ops(answer)?;
        let roots =
            failed.into_iter().filter_map(|(op, _)| known.get(op)).map(|(root, ..)| root.clone());
        Ok(roots.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::proxy::Proxy;

    /// With nothing new, each query ends with its time: all groups were read again for each.
    #[tokio::test]
    async fn a_query_that_ends_with_its_time_has_seen_no_change() {
        let proxy = Proxy::start(|n, _| {
            let index = match n {
                0..5 => 7,
                5 => 8,
                6 => return String::new(),
                _ => 8,
            };
            format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: 2\r\n\r\n[]")
        })
        .await;
        let (tell, mut woken) = mpsc::channel(1);
        let waking = wake(proxy.consul.clone(), "redis-ha".to_owned(), tell);
        let _waking = AbortOnDropHandle::new(tokio::spawn(waking));
        assert!(woken.recv().await.unwrap().is_ok(), "it begins");
        assert!(woken.recv().await.unwrap().is_ok(), "something has changed");
        assert!(proxy.requests() > 5, "{} questions before that", proxy.requests());
        assert!(woken.recv().await.unwrap().is_err(), "Consul does not answer");
        assert!(woken.recv().await.unwrap().is_ok(), "it answers again, at whatever index");
    }
}
