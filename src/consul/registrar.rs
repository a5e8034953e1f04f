//! Node mode: this host's Redis and Sentinels on the local Consul agent.
//!
//! Only health is registered here, no role: the check is run by Consul itself, so it outlives us, and a
//! registration that Consul's agent writes back at a time of its own (`docs/facts/consul.md` 1) can say nothing
//! wrong. A registration that is lost (agent restarted, wiped) is seen and made again.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::client::{CALL_TIMEOUT, Consul, ConsulError};
use crate::clock::{stood_still, ticks_every};
use crate::core::identity::address::{Address, GroupName};
use crate::core::published::sentinel_rows::SERVICE as SENTINEL_SERVICE;

/// How often registrations are looked for.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Deadline for taking them away on a clean stop, all together.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(900);

/// How often the catalog is looked at meanwhile.
const GONE_EVERY: Duration = Duration::from_millis(20);

/// The groups that each Sentinel says it monitors.
pub type Monitored = BTreeMap<Address, Vec<GroupName>>;

/// One service on the local Consul agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The service id, unique on the Consul agent.
    pub id: String,
    /// The name of the service.
    pub service: String,
    /// Where it listens.
    pub address: Address,
    /// The tags that it is registered with.
    pub tags: Vec<String>,
    /// Metadata of the service.
    pub meta: BTreeMap<String, String>,
    /// How often Consul tries to connect.
    pub check_interval: Duration,
    /// Consul forgets it after this long without an answer.
    pub forgotten_after: Option<Duration>,
}

impl Registration {
    fn body(&self) -> Value {
        let mut body = json!({
            "ID": self.id,
            "Name": self.service,
            "Address": self.address.host(),
            "Port": self.address.port(),
            "Tags": self.tags,
            "Meta": self.meta,
            "Check": {
                "CheckID": format!("{}:tcp", self.id),
                "Name": format!("TCP {}", self.address),
                "TCP": self.address.to_string(),
                "Interval": format!("{}ms", self.check_interval.as_millis()),
                "Timeout": "1s",
            },
        });
        if let Some(after) = self.forgotten_after {
            body["Check"]["DeregisterCriticalServiceAfter"] =
                json!(format!("{}s", after.as_secs()));
        }
        body
    }

    /// The same with a Sentinel's tags: the groups that it reports itself.
    fn tagged(&self, monitored: &Monitored) -> Self {
        let mut tagged = self.clone();
        if self.service == SENTINEL_SERVICE {
            let groups = monitored.get(&self.address).into_iter().flatten();
            tagged.tags = groups.map(ToString::to_string).collect();
        }
        tagged
    }

    /// Another one of the same server, which differs in its tags alone.
    fn differs_in_tags(&self, other: &Self) -> bool {
        self.tags != other.tags && Self { tags: other.tags.clone(), ..self.clone() } == *other
    }

    /// The registered service says the same as this one.
    fn matches(&self, found: &Value) -> bool {
        let tags: Vec<&str> =
            found["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let meta = |name: &String| found["Meta"][name.as_str()].as_str();
        found["Service"] == self.service.as_str()
            && found["Address"] == self.address.host()
            && found["Port"] == self.address.port()
            && tags == self.tags
            && self.meta.iter().all(|(name, value)| meta(name) == Some(value.as_str()))
    }
}

/// What was registered, and with the how many-th token of the login: Consul's agent uses it on, and must have the next one
/// before that is deleted.
struct Registered {
    what: Registration,
    token: u64,
}

/// Keeps this host's servers registered until `stop`, then takes them away.
pub async fn keep_registered(
    consul: Consul,
    mut local: watch::Receiver<Vec<Registration>>,
    mut monitored: watch::Receiver<Monitored>,
    stop: CancellationToken,
) {
    let mut done: BTreeMap<String, Registered> = BTreeMap::new();
    let mut said: Option<String> = None;
    let mut look = ticks_every(LOOK_EVERY);
    loop {
        // Cancel safe: a token, a timer, and a watch that keeps its value.
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
            Ok(()) = monitored.changed() => {}
            Ok(()) = local.changed() => {}
        }
        let all: Vec<Registration> = {
            let monitored = monitored.borrow_and_update();
            local
                .borrow_and_update()
                .iter()
                .map(|registration| registration.tagged(&monitored))
                .collect()
        };
        let failures = register_all(&consul, &all, &mut done).await;
        let failed = (!failures.is_empty() && !stood_still()).then(|| failures.join("; "));
        if let Some(what) = failed.as_ref().filter(|what| said.as_ref() != Some(what)) {
            warn!("cannot register on the local Consul agent, trying again: {what}");
        }
        said = failed;
    }
    let all = async {
        let leaving = done.values().map(|registered| leave(&consul, &registered.what));
        futures_util::future::join_all(leaving).await;
        // A token by a login is deleted next, and Consul's agent takes them out of the catalog with it.
        if consul.token_number() > 0 {
            until_gone(&consul, done.values().map(|registered| &registered.what)).await;
        }
    };
    if tokio::time::timeout(LEAVE_TIMEOUT, all).await.is_err() {
        warn!("the local Consul agent did not answer in time; its checks will mark what is left");
    }
}

/// Waits until the catalog has none of them.
async fn until_gone(consul: &Consul, all: impl Iterator<Item = &Registration>) {
    for registration in all {
        let path = format!("/v1/catalog/service/{}", registration.service);
        let is_it = |row: &Value| row["ServiceID"] == registration.id.as_str();
        while let Ok(rows) = consul.get::<Vec<Value>>(&path, &[]).await {
            if !rows.value.iter().any(is_it) {
                break;
            }
            tokio::time::sleep(GONE_EVERY).await;
        }
    }
}

/// Takes a registration away, unless another agent has taken it over: a container that was isolated may come back
/// when another one has its address.
async fn leave(consul: &Consul, registration: &Registration) -> Result<(), ConsulError> {
    if !is_registered(consul, registration).await? {
        return Ok(());
    }
    deregister(consul, &registration.id).await
}

/// Brings every registration about that can be; what cannot, and why.
async fn register_all(
    consul: &Consul,
    wanted: &[Registration],
    done: &mut BTreeMap<String, Registered>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let gone: Vec<String> =
        done.keys().filter(|id| wanted.iter().all(|w| &w.id != *id)).cloned().collect();
    for id in gone {
        match deregister(consul, &id).await {
            Ok(()) => drop(done.remove(&id)),
            Err(error) => {
                failures.push(format!("{id} stays: {error}"));
                if is_silent(&error) {
                    return failures;
                }
            }
        }
    }
    for registration in wanted {
        if let Err(error) = register(consul, registration, done).await {
            failures.push(format!("{}: {error}", registration.id));
            if is_silent(&error) {
                return failures;
            }
        }
    }
    failures
}

/// It would keep us waiting for each of the others.
fn is_silent(error: &ConsulError) -> bool {
    matches!(error, ConsulError::Unreachable { .. })
}

async fn register(
    consul: &Consul,
    registration: &Registration,
    done: &mut BTreeMap<String, Registered>,
) -> Result<(), ConsulError> {
    let token = consul.token_number();
    let known = done.get(&registration.id);
    let renewed = known.is_some_and(|known| known.token != token);
    let registered = || Registered { what: registration.clone(), token };
    // What is asked back says nothing of how it is checked.
    let checked_so = known.is_none_or(|known| known.what == *registration);
    if checked_so && !renewed && is_registered(consul, registration).await? {
        done.insert(registration.id.clone(), registered());
        return Ok(());
    }
    // Without replace-existing-checks a running check keeps its status.
    consul.put("/v1/agent/service/register", &[], Some(&registration.body())).await?;
    let known = done.insert(registration.id.clone(), registered());
    let known = known.map(|known| known.what);
    if renewed && checked_so {
        debug!("{} is registered with the next token", registration.id);
    } else {
        info!("{}", said_of(known.as_ref(), registration));
    }
    Ok(())
}

/// What the log says of a registration that was made, by the one that this agent had made before.
fn said_of(known: Option<&Registration>, made: &Registration) -> String {
    let Registration { address, service, .. } = made;
    match known {
        None => format!("registered {address} as {service} on the local Consul agent"),
        Some(known) if known == made => {
            format!("registered again {address} as {service} on the local Consul agent")
        }
        // Nothing was lost: the Sentinel has said which groups it monitors.
        Some(known) if service == SENTINEL_SERVICE && known.differs_in_tags(made) => {
            let groups = made.tags.join(", ");
            format!("{service} {address} is shown with the groups that it monitors: {groups}")
        }
        Some(_) => {
            format!("changed the registration of {address} as {service} on the local Consul agent")
        }
    }
}

async fn is_registered(consul: &Consul, registration: &Registration) -> Result<bool, ConsulError> {
    let path = format!("/v1/agent/service/{}", registration.id);
    let answer = consul.call(Method::GET, &path, &[], None, CALL_TIMEOUT).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(false);
    }
    let found: Value = answer.decode(&format!("GET {path}"))?.value;
    Ok(registration.matches(&found))
}

async fn deregister(consul: &Consul, id: &str) -> Result<(), ConsulError> {
    debug!("deregistering {id}");
    let path = format!("/v1/agent/service/deregister/{id}");
    let answer = consul.call(Method::PUT, &path, &[], None, CALL_TIMEOUT).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(()),
        _ => answer.ok(&format!("PUT {path}")).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinel(tags: &[&str]) -> Registration {
        Registration {
            id: "redis-sentinel-10.0.0.1:26379".to_owned(),
            service: SENTINEL_SERVICE.to_owned(),
            address: "10.0.0.1:26379".parse().unwrap(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            meta: BTreeMap::new(),
            check_interval: Duration::from_secs(1),
            forgotten_after: None,
        }
    }

    /// A Sentinel is registered at once, and says a moment later which groups it monitors.
    #[test]
    fn only_what_was_lost_is_said_to_be_registered_again() {
        let (bare, tagged) = (sentinel(&[]), sentinel(&["redis", "cache"]));
        let server = "10.0.0.1:26379 as redis-sentinel on the local Consul agent";
        assert_eq!(said_of(None, &bare), format!("registered {server}"));
        assert_eq!(
            said_of(Some(&bare), &tagged),
            "redis-sentinel 10.0.0.1:26379 is shown with the groups that it monitors: redis, cache"
        );
        assert_eq!(said_of(Some(&tagged), &tagged), format!("registered again {server}"));
        let slower = Registration { check_interval: Duration::from_secs(9), ..tagged.clone() };
        assert_eq!(
            said_of(Some(&tagged), &slower),
            format!("changed the registration of {server}")
        );
    }
}
