//! The agents of a fleet, as Consul shows them: a key for each, watched by one blocking query, and the list of its
//! groups, read once for all agents that have the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;
use tracing::debug;

use super::blocking::{BlockingQuery, WATCH_WAIT};
use super::client::{CALL_TIMEOUT, Consul, ConsulError};
use super::store::any_keys_in;
use crate::core::fleet::{FleetAgent, FleetLayout, FleetView, GroupList};
use crate::core::published::projection::Layout;
use crate::core::published::store::{AGENTS, Key};

/// The interval of a fleet: between two readings of it, and between two attempts at what did not succeed.
pub const FLEET_PAUSE: Duration = Duration::from_secs(1);
/// How often the lists are asked for that could not be read, before the next change.
const LIST_TRIES: usize = 3;
/// Deadline for asking who watches a group: what is not answered is asked again.
const WATCHERS_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the agents below one prefix, and remembers their lists.
#[derive(Debug, Clone)]
pub struct FleetReader {
    consul: Consul,
    layout: FleetLayout,
    /// By digest.
    lists: BTreeMap<String, Arc<GroupList>>,
}

/// The agents whose keys were read, by id.
type FoundAgents = BTreeMap<String, FleetAgent>;

impl FleetReader {
    /// One that knows this `list`, which need not be read.
    pub fn new(consul: Consul, layout: FleetLayout, list: Arc<GroupList>) -> Self {
        Self { consul, layout, lists: BTreeMap::from([(list.digest(), list)]) }
    }

    /// All agents that are there now.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn read(&mut self) -> Result<FleetView, ConsulError> {
        let (path, call) = (self.path(), self.call());
        let query = [("recurse", ""), ("consistent", "")];
        let answer = self.consul.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        let found = self.found(any_keys_in(answer, &call)?);
        self.know(&found).await;
        Ok(self.view(&found))
    }

    fn path(&self) -> String {
        format!("/v1/kv/{}", self.layout.agents())
    }

    fn call(&self) -> String {
        format!("GET {}", self.path())
    }

    /// The agents that are alive. A key that says what this version does not understand is none's.
    fn found(&self, keys: Vec<Key>) -> FoundAgents {
        let directory = self.layout.agents();
        let agent = |key: Key| {
            let id = key.key.strip_prefix(&directory).filter(|_| key.locked)?;
            Some((id.to_owned(), serde_json::from_slice(&key.value).ok()?))
        };
        keys.into_iter().filter_map(agent).collect()
    }

    /// Reads the lists that are not known yet. Says whether it knows all.
    async fn know(&mut self, found: &FoundAgents) -> bool {
        let mut all = true;
        for (id, agent) in found {
            if self.lists.contains_key(&agent.digest) {
                continue;
            }
            match self.list(id).await {
                Ok(Some(list)) if list.digest() == agent.digest => {
                    self.lists.insert(agent.digest.clone(), Arc::new(list));
                }
                Ok(_) => all = false,
                Err(error) => {
                    debug!("the groups of agent {id}: {error}");
                    all = false;
                }
            }
        }
        all
    }

    async fn list(&self, id: &str) -> Result<Option<GroupList>, ConsulError> {
        let found = self.consul.key(&self.layout.list(id)).await?;
        let text = found.and_then(|(value, _)| serde_json::from_slice::<String>(&value).ok());
        Ok(text.and_then(|text| GroupList::of_text(&text)))
    }

    /// An agent whose groups are not known does not count: others watch more meanwhile.
    fn view(&self, found: &FoundAgents) -> FleetView {
        let with_list = |(id, agent): (&String, &FleetAgent)| {
            Some((id.clone(), self.lists.get(&agent.digest)?.clone()))
        };
        found.iter().filter_map(with_list).collect()
    }

    /// Hands every picture of the fleet to `seen`, until the receiver takes no more. Consul away changes nothing.
    pub async fn watch(mut self, seen: mpsc::Sender<FleetView>) {
        let (path, call) = (self.path(), self.call());
        let query =
            BlockingQuery::new(self.consul.clone(), path, vec![("recurse", "")], WATCH_WAIT);
        let mut query = query.paced(FLEET_PAUSE);
        while !seen.is_closed() {
            let keys = match query.next(|answer| any_keys_in(answer, &call)).await {
                Ok(keys) => keys,
                Err(error) => {
                    debug!("the agents below {}: {error}", self.layout.prefix);
                    continue;
                }
            };
            let found = self.found(keys);
            for _ in 0..LIST_TRIES {
                let all = self.know(&found).await;
                if seen.send(self.view(&found)).await.is_err() {
                    return;
                }
                if all {
                    break;
                }
                tokio::time::sleep(FLEET_PAUSE).await;
            }
        }
    }
}

impl Consul {
    /// The agents whose keys say that they watch a group now.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn watchers(&self, layout: &Layout) -> Result<Vec<String>, ConsulError> {
        let path = format!("/v1/kv/{}{AGENTS}", layout.root());
        let query = [("keys", ""), ("consistent", "")];
        let answer = self.call(Method::GET, &path, &query, None, WATCHERS_TIMEOUT).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = answer.decode(&format!("GET {path}"))?.value;
        let head = format!("{}{AGENTS}", layout.root());
        Ok(keys.iter().filter_map(|key| Some(key.strip_prefix(&head)?.to_owned())).collect())
    }
}
