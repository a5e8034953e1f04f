//! Agents make themselves visible: a key for each agent and group that it watches, and one for the fleet, bound to a
//! session that ends soon after the agent does. The former are for people; by the latter agents share the groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::client::{CALL_TIMEOUT, Consul, ConsulError};
use super::shared_watch::SharedWatch;
use super::txn::{self, OPS_MAX};
use crate::clock::stood_still;
use crate::core::fleet::{FleetAgent, FleetLayout, GroupList};
use crate::core::published::projection::Layout;
use crate::core::published::store::AgentClock;
use crate::core::published::words::AgentWords;
use crate::retry::Retry;

/// The least Consul allows; it lets up to twice as long pass (`docs/facts/consul.md` 5).
const SESSION_TTL: &str = "10s";
/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Deadline for showing what the clock says: the session has to be renewed meanwhile.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// What Consul says of a key that another session holds.
const ALREADY_HELD: &str = "lock is already held";
/// Deadline for taking the keys away on a clean stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(700);

#[derive(Debug, Deserialize)]
struct SessionId {
    #[serde(rename = "ID")]
    id: String,
}

/// A group that an agent watches.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedGroup {
    /// Where its keys are.
    pub layout: Layout,
    /// The agent changes instances and Sentinels of it; else it only publishes (`manage = false`).
    pub manages: bool,
    /// The agent tells targets outside of the group.
    pub notifies: bool,
    /// What its config says of the group's rows; `None` of a cluster, whose rows have none.
    pub words: Option<AgentWords>,
}

/// An agent that shows itself.
pub struct Presence {
    /// Where.
    pub consul: Consul,
    /// Under this name.
    pub agent: String,
    /// Below each of these groups.
    pub groups: watch::Receiver<Vec<WatchedGroup>>,
    /// What its keys say.
    pub value: Value,
    /// What the key below each group says of clocks as well, by the group's root.
    pub clocks: watch::Receiver<BTreeMap<String, AgentClock>>,
    /// Where the fleet's keys are.
    pub fleet: FleetLayout,
    /// The groups that it is configured with.
    pub configured: watch::Receiver<Arc<GroupList>>,
    /// What watches the keys of very many groups: this changes them.
    pub keys_watch: SharedWatch,
}

/// Why a session is kept no longer.
enum SessionEnd {
    /// We are to stop.
    Stopped,
    /// It is gone, or what it holds cannot be brought up to date.
    Lost,
}

/// The agent as the fleet knows it.
#[derive(Default)]
struct FleetMember {
    /// It was shown, at some time.
    shown: bool,
    /// Why it is not shown now.
    alone: Option<ConsulError>,
}

impl FleetMember {
    /// What is denied stays so until the next session.
    fn is_to_try_again(&self) -> bool {
        let denied = |error: &ConsulError| matches!(error, ConsulError::Denied { .. });
        self.alone.as_ref().is_some_and(|error| !denied(error))
    }
}

/// Keeps the agent's keys in place until `stop`, then takes them away.
pub async fn be_present(mut presence: Presence, stop: CancellationToken) {
    let mut member = FleetMember::default();
    let mut retry = Retry::consul();
    let mut said = false;
    loop {
        let session = tokio::select! {
            () = stop.cancelled() => return,
            session = presence.open() => session,
        };
        match session {
            Ok((session, shown)) => {
                retry.reset();
                said = false;
                presence.join_fleet(&session, &mut member).await;
                let kept = presence.keep(&session, shown, &mut member, &stop).await;
                leave(&presence.consul, &session).await;
                match kept {
                    SessionEnd::Stopped => return,
                    SessionEnd::Lost => debug!("session {session} is gone, opening another"),
                }
            }
            Err(error) => {
                if !said && !stood_still() {
                    warn!("this agent does not show in `status`: {error}");
                    said = true;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(retry.next_delay()) => {}
                }
            }
        }
    }
}

impl Presence {
    /// A session, and the groups whose keys it holds.
    async fn open(&mut self) -> Result<(String, Vec<WatchedGroup>), ConsulError> {
        let name = format!("consul-redis {}", self.agent);
        let session =
            json!({"Name": name, "TTL": SESSION_TTL, "Behavior": "delete", "LockDelay": "0s"});
        let body = self.consul.put("/v1/session/create", &[], Some(&session)).await?;
        let SessionId { id } =
            serde_json::from_slice(&body).map_err(|error| ConsulError::Unreadable {
                call: "PUT /v1/session/create".to_owned(),
                what: error.to_string(),
            })?;
        let groups = self.groups.borrow_and_update().clone();
        if let Err(error) = self.show_all(&groups, &id).await {
            // The session of this agent's former life may hold a key, until it ends.
            leave(&self.consul, &id).await;
            return Err(error);
        }
        Ok((id, groups))
    }

    async fn show_all(&self, groups: &[WatchedGroup], session: &str) -> Result<(), ConsulError> {
        // What was said of clocks is out of date by now: the group's loop has it said anew.
        let shown: Vec<_> = groups.iter().map(|group| (group, None)).collect();
        self.show(&shown, session).await
    }

    /// Many at a time: a session that is not renewed yet must outlive all of it.
    async fn show(
        &self,
        shown: &[(&WatchedGroup, Option<&AgentClock>)],
        session: &str,
    ) -> Result<(), ConsulError> {
        for some in shown.chunks(OPS_MAX) {
            let mut keys: Vec<(String, Value)> = Vec::new();
            for (group, clock) in some {
                let mut value = self.value.clone();
                if let Some(value) = value.as_object_mut() {
                    value.insert("manage".to_owned(), json!(group.manages));
                    value.insert("pauses".to_owned(), json!(true));
                    value.insert("notifies".to_owned(), json!(group.notifies));
                    value.extend(group.words.as_ref().map(|w| ("words".to_owned(), json!(w))));
                    value.extend(clock.map(|clock| ("clock".to_owned(), json!(clock))));
                }
                keys.push((group.layout.agent(&self.agent), value));
            }
            self.lock(&keys, session).await?;
            let changed = some.iter().map(|(group, _)| group.layout.root());
            self.keys_watch.changed(changed.collect());
        }
        Ok(())
    }

    /// Writes keys that this session holds from now on, all of them or none.
    async fn lock(&self, keys: &[(String, Value)], session: &str) -> Result<(), ConsulError> {
        let each = keys.iter().map(|(key, value)| (key.clone(), value));
        let body = txn::locked(each, session, &self.consul.tenancy());
        let answer =
            self.consul.call(Method::PUT, "/v1/txn", &[], Some(&body), CALL_TIMEOUT).await?;
        let failed = txn::failed_ops(answer)?;
        let Some((op, what)) = failed.into_iter().next() else { return Ok(()) };
        let key = keys.get(op).map(|(key, _)| key.as_str()).unwrap_or_default();
        if what.contains(ALREADY_HELD) {
            return Err(held_by_another(key));
        }
        // The session has ended meanwhile, for instance.
        Err(ConsulError::Unreadable { call: format!("lock {key}"), what })
    }

    /// Shows the agent to the fleet, with what it is configured with. Others watch what they would without one that
    /// cannot be shown; why it cannot is said once.
    async fn join_fleet(&mut self, session: &str, member: &mut FleetMember) {
        let list = self.configured.borrow_and_update().clone();
        if list.is_empty() && !member.shown {
            return;
        }
        let failed = self.show_in_fleet(&list, session).await.err();
        member.shown |= failed.is_none();
        match &failed {
            Some(error) if member.alone.is_none() && !error.is_transient() => {
                info!("other agents do not count on this one: {error}");
            }
            Some(error) => debug!("other agents do not count on this one: {error}"),
            None => {}
        }
        member.alone = failed;
    }

    /// The list first: those that read the key know where to find it.
    async fn show_in_fleet(&self, list: &GroupList, session: &str) -> Result<(), ConsulError> {
        if let Some(text) = list.text() {
            self.acquire(&self.fleet.list(&self.agent), &json!(text), session).await?;
        }
        let shown = FleetAgent { digest: list.digest(), groups: list.len() };
        let mut value = json!(shown);
        if let (Some(value), Some(own)) = (value.as_object_mut(), self.value.as_object()) {
            let same = ["version", "since"].into_iter();
            value.extend(same.filter_map(|key| Some((key.to_owned(), own.get(key)?.clone()))));
        }
        self.acquire(&self.fleet.agent(&self.agent), &value, session).await
    }

    /// Writes a key that this session holds from now on. The list of a large fleet is more than a transaction takes.
    async fn acquire(&self, key: &str, value: &Value, session: &str) -> Result<(), ConsulError> {
        let path = format!("/v1/kv/{key}");
        let acquired = self.consul.put(&path, &[("acquire", session)], Some(value)).await?;
        if acquired.starts_with(b"true") {
            return Ok(());
        }
        Err(held_by_another(key))
    }

    /// Renews until `stop`, or until the session is lost.
    async fn keep(
        &mut self,
        session: &str,
        mut shown: Vec<WatchedGroup>,
        member: &mut FleetMember,
        stop: &CancellationToken,
    ) -> SessionEnd {
        let path = format!("/v1/session/renew/{session}");
        let mut next = Instant::now() + RENEW_EVERY;
        let mut told = self.clocks.borrow_and_update().clone();
        loop {
            // Cancel safe: a token, a timer, and a watch that keeps its value.
            tokio::select! {
                () = stop.cancelled() => return SessionEnd::Stopped,
                () = tokio::time::sleep_until(next) => {}
                Ok(()) = self.groups.changed() => {
                    let wanted = self.groups.borrow_and_update().clone();
                    if let Err(error) = self.show_instead(&wanted, &shown, session).await {
                        debug!("the groups that this agent watches cannot be shown: {error}");
                        return SessionEnd::Lost;
                    }
                    shown = wanted;
                    continue;
                }
                Ok(()) = self.configured.changed() => {
                    self.join_fleet(session, member).await;
                    continue;
                }
                Ok(()) = self.clocks.changed() => {
                    let clocks = self.clocks.borrow_and_update().clone();
                    self.show_clocks(&shown, (&clocks, &told), session).await;
                    told = clocks;
                    continue;
                }
            }
            next = Instant::now() + RENEW_EVERY;
            match self.consul.call(Method::PUT, &path, &[], None, CALL_TIMEOUT).await {
                Ok(answer) if is_lost(answer.status) => return SessionEnd::Lost,
                // Consul away: the session may still be there when it is back.
                Ok(_) | Err(_) => {}
            }
            if member.is_to_try_again() {
                self.join_fleet(session, member).await;
            }
        }
    }

    /// Where that is lost, the group's loop does not see it, and has it said again.
    async fn show_clocks(
        &self,
        shown: &[WatchedGroup],
        (clocks, told): (&BTreeMap<String, AgentClock>, &BTreeMap<String, AgentClock>),
        session: &str,
    ) {
        let said = shown.iter().map(|group| (group, group.layout.root()));
        let said = said.filter(|(_, root)| clocks.get(root) != told.get(root));
        let changed: Vec<_> = said.map(|(group, root)| (group, clocks.get(&root))).collect();
        let showing = tokio::time::timeout(CLOCK_TIMEOUT, self.show(&changed, session)).await;
        if !matches!(showing, Ok(Ok(()))) {
            debug!("what this agent's clock says is not shown below {} groups", changed.len());
        }
    }

    async fn show_instead(
        &self,
        wanted: &[WatchedGroup],
        shown: &[WatchedGroup],
        session: &str,
    ) -> Result<(), ConsulError> {
        let new = wanted.iter().filter(|group| !shown.contains(group));
        self.show_all(&new.cloned().collect::<Vec<_>>(), session).await?;
        let left = |group: &&WatchedGroup| wanted.iter().all(|new| new.layout != group.layout);
        for group in shown.iter().filter(left) {
            let path = format!("/v1/kv/{}", group.layout.agent(&self.agent));
            let answer = self.consul.call(Method::DELETE, &path, &[], None, CALL_TIMEOUT).await?;
            answer.ok(&format!("DELETE {path}"))?;
        }
        Ok(())
    }
}

fn held_by_another(key: &str) -> ConsulError {
    ConsulError::Unreadable {
        call: format!("lock {key}"),
        what: "another agent has this id: give each agent one of its own (--id); an agent that was killed holds it for \
               20 s"
            .to_owned(),
    }
}

/// The session has ended, or the token may not keep it any more: which the next one says.
fn is_lost(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

async fn leave(consul: &Consul, session: &str) {
    let path = format!("/v1/session/destroy/{session}");
    let _ = consul.call(Method::PUT, &path, &[], None, LEAVE_TIMEOUT).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::proxy::Proxy;

    /// One after the other they would take longer than the session lives without being renewed.
    #[tokio::test]
    async fn many_groups_are_shown_while_the_session_lives() {
        let slow = Proxy::late(Duration::from_millis(200), |_, head| {
            let body = if head.contains("/session/create") { r#"{"ID":"s"}"# } else { "true" };
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        })
        .await;
        let layout = |n: usize| Layout::new("redis-ha", &format!("group-{n}").parse().unwrap());
        let group =
            |n| WatchedGroup { layout: layout(n), manages: true, notifies: false, words: None };
        let groups: Vec<WatchedGroup> = (0..64).map(group).collect();
        let mut presence = Presence {
            consul: slow.consul.clone(),
            agent: "a".to_owned(),
            groups: watch::Sender::new(groups.clone()).subscribe(),
            value: json!({}),
            clocks: watch::Sender::new(BTreeMap::new()).subscribe(),
            fleet: FleetLayout { prefix: "redis-ha".to_owned() },
            configured: watch::Sender::default().subscribe(),
            keys_watch: SharedWatch::default(),
        };
        let began = Instant::now();
        let (session, shown) = presence.open().await.unwrap();
        assert_eq!((session.as_str(), shown), ("s", groups));
        // The session, and one transaction.
        assert_eq!(slow.requests(), 2);
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }
}
