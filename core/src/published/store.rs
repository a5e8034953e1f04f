//! The group's part of the KV store: where its keys are, and what was read there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::brief::unread;
use crate::identity::address::{Address, GroupName};
use crate::identity::ids::{ReplId, SentinelId};
use crate::policy::WantedSettings;
use crate::published::notices::{NOTICES, NoticeLog};
use crate::published::pause::{PAUSE, PauseKey, PauseStatus};
use crate::published::record::{Change, Record, decode};
use crate::published::words::AgentWords;
use crate::time::Mono;

/// Where one group's things are in Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// KV prefix shared by all groups, without a slash at the end. Default `redis-ha`.
    pub prefix: String,
    /// The group's name, as Sentinel has it.
    pub group: GroupName,
}

impl Layout {
    /// Where `group` lives under `prefix`.
    pub fn new(prefix: &str, group: &GroupName) -> Self {
        Self { prefix: prefix.to_owned(), group: group.clone() }
    }

    /// Where the cluster `name` lives under `prefix`: as a group would below a prefix of its own.
    pub fn of_cluster(prefix: &str, name: &GroupName) -> Self {
        Self::new(&format!("{prefix}/{CLUSTERS}"), name)
    }

    /// The prefix of all the group's keys, with a slash at the end.
    pub fn root(&self) -> String {
        format!("{}/{}/", self.prefix, self.group)
    }

    /// The key of the record; every transaction checks its index.
    ///
    /// Holds JSON: writer, `generation`, evidence, since, why, instances. The plain keys are written together with it,
    /// in one transaction.
    pub fn state(&self) -> String {
        format!("{}state", self.root())
    }

    /// The key of the last published changes.
    ///
    /// Holds JSON: the last 50 changes, with times and reasons; of a [cluster](cluster.md), what changed of which node.
    pub fn history(&self) -> String {
        format!("{}history", self.root())
    }

    /// The Sentinel settings that all agents keep.
    ///
    /// Holds JSON: the Sentinel settings that agents keep, written by `consul-redis config`.
    pub fn config(&self) -> String {
        format!("{}config", self.root())
    }

    /// The instances that the operator has taken out of service.
    ///
    /// Holds JSON: the instances in maintenance, with the `replica-priority` that each had before.
    pub fn maintenance(&self) -> String {
        format!("{}maintenance", self.root())
    }

    /// The operator's word that agents are to change nothing but Consul for a while.
    ///
    /// Holds JSON: the last [pause](how-to/pause.md), since when, by whom, until when, and whether it was ended. It stays
    /// when the pause is over.
    pub fn pause(&self) -> String {
        format!("{}{PAUSE}", self.root())
    }

    /// The key that says what targets outside were told, and which problems they know of.
    ///
    /// Holds JSON: what the targets of [`[[notify]]`](notify.md) were told, by which agent and what became of it, and the
    /// problems that they know of. There once an agent has told something.
    pub fn notices(&self) -> String {
        format!("{}{NOTICES}", self.root())
    }

    /// The key that says that an agent watches the group.
    ///
    /// Holds JSON: version, mode, since when, where it looks for Sentinels, whether it changes instances and Sentinels
    /// (`manage`), that it knows pauses (`pauses`), whether it tells targets of the group (`notifies`), and the tags,
    /// metadata, weights and zones of its config (`words`). One key for each agent that watches; gone at most 20 s after
    /// the agent. `clock` says what its wall clock said then, and whose are ahead of it.
    pub fn agent(&self, id: &str) -> String {
        format!("{}{AGENTS}{id}", self.root())
    }

    /// What a history goes on from that an instance had to begin anew.
    ///
    /// Holds JSON: for a history that an instance under `exec` had to begin anew, the history that it continues; gone
    /// when the instance has its role.
    pub fn continued(&self, history: &ReplId) -> String {
        format!("{}{HISTORIES}{}", self.root(), history.0)
    }

    /// The key of what an agent has seen of an instance on its own host.
    ///
    /// Holds JSON: the [history](glossary.md#history) that an agent in node mode last saw its own instance write or
    /// follow, with run id, offset and config file; gone when that history is no more in the
    /// [lineage](glossary.md#lineage).
    pub fn seen(&self, instance: &Address) -> String {
        format!("{}{SEEN}", self.seen_dir(instance))
    }

    /// The directory of that key, with a slash at the end: no other instance's begins with it.
    pub fn seen_dir(&self, instance: &Address) -> String {
        format!("{}{HISTORIES}{instance}/", self.root())
    }

    /// The rest of a key below [`HISTORIES`].
    pub(crate) fn history_in<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.root())?.strip_prefix(HISTORIES)
    }

    /// The key that holds off a second planned move while one is under way.
    ///
    /// Holds the time since when a planned move is under way: a second one does not begin.
    pub fn moving(&self) -> String {
        format!("{}move", self.root())
    }

    /// The key that says that agents gave this Sentinel its login for the instances.
    ///
    /// Holds which agent `given by` this Sentinel its login for the instances, or is about to (`giving by`), so that
    /// one tells it. Agents that gave it renew it; delete it to keep the Sentinel's login to yourself.
    pub fn login_given(&self, sentinel: &SentinelId) -> String {
        format!("{}logins/{}", self.root(), sentinel.0)
    }

    /// The key of what an agent notes of an instance that refuses its connections.
    ///
    /// Holds JSON: with `fast_failover = "vote"`, the instance that closed this agent's connection and has refused each
    /// one since, and its `run_id`; gone when another instance is the writer.
    pub fn refused(&self, agent: &str) -> String {
        format!("{}{NOTE}", self.refused_dir(agent))
    }

    /// The directory of that key, with a slash at the end: no other agent's begins with it.
    pub fn refused_dir(&self, agent: &str) -> String {
        format!("{}{REFUSED}{agent}/", self.root())
    }

    /// The agent whose key of that kind this is.
    pub(crate) fn refused_in<'k>(&self, key: &'k str) -> Option<&'k str> {
        refused_by(key.strip_prefix(&self.root())?)
    }

    /// The nodes of a cluster that can take requests.
    ///
    /// Holds of a [cluster](cluster.md): every node that can take requests, one `host:port` a line.
    pub fn seeds(&self) -> String {
        format!("{}seeds", self.root())
    }

    /// Who serves which slots of a cluster.
    ///
    /// Holds of a cluster: a line for each range of slots, `FIRST-LAST HOST:PORT`; `-` where no node serves it.
    pub fn slots(&self) -> String {
        format!("{}slots", self.root())
    }

    /// A node that an agent stands beside.
    ///
    /// Holds JSON: the agent that stands beside a node of a cluster, its host and its zone; counts while that agent is
    /// there, and gone when its config names another one, or it has been away for `forget_after`.
    pub fn announced(&self, node: &Address) -> String {
        format!("{}{ANNOUNCED}{node}", self.root())
    }

    /// Who serves a shard's slots.
    ///
    /// Holds of a cluster: `host:port` of the shard's primary; empty while it has none that can take requests.
    pub fn shard_primary(&self, shard: &str) -> String {
        format!("{}{}primary", self.root(), shard_dir(shard))
    }

    /// Who can be read in its place.
    ///
    /// Holds of a cluster: the shard's replicas that can take requests, one `host:port` a line.
    pub fn shard_replicas(&self, shard: &str) -> String {
        format!("{}{}replicas", self.root(), shard_dir(shard))
    }

    /// The synthetic node.
    pub fn node(&self) -> String {
        format!("{}-{}", self.prefix.replace('/', "-"), self.group)
    }
}

/// The directory of all clusters' keys, below the prefix.
pub const CLUSTERS: &str = "cluster";

/// The directory of a shard's keys, below [`Layout::root`], with a slash at the end.
pub fn shard_dir(shard: &str) -> String {
    format!("{SHARDS}{shard}/")
}

/// The directory of all shards' keys, below [`Layout::root`].
pub const SHARDS: &str = "shards/";
/// Where the nodes of a cluster are, below its root, that agents stand beside.
pub const ANNOUNCED: &str = "nodes/";

/// The directory of the agents' keys, below [`Layout::root`].
pub const AGENTS: &str = "agents/";

/// The directory of the histories that were begun anew, below [`Layout::root`].
pub const HISTORIES: &str = "histories/";

/// The directory of what agents note of instances that refuse them, below [`Layout::root`].
pub const REFUSED: &str = "refused/";

/// The name of what was seen of an instance, below its directory.
const SEEN: &str = "seen";

/// The name of what an agent notes, below its directory.
const NOTE: &str = "note";

fn refused_by(name: &str) -> Option<&str> {
    name.strip_prefix(REFUSED)?.strip_suffix(NOTE)?.strip_suffix('/')
}

/// The group's part of the KV store, read as one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreAnswer {
    /// When it was asked for.
    pub asked: Mono,
    /// The fence and its ModifyIndex; the index is 0 when the key does not exist.
    pub state: StoredState,
    /// ModifyIndex of `state`, 0 when it does not exist.
    pub state_index: u64,
    /// The last changes, newest first.
    pub history: Vec<Change>,
    /// The plain keys, by their name below the group's prefix (`primary`, `primary/host`, ...).
    pub plain: BTreeMap<String, String>,
    /// The agents that watch this group now.
    pub agents: BTreeSet<String>,
    /// Those of them that change no instance and no Sentinel of it (`manage = false`).
    pub publishing_only: BTreeSet<String>,
    /// Those of them that know the key `pause`.
    pub pausing: BTreeSet<String>,
    /// Those of them that tell targets outside of the group (`[[notify]]`).
    pub notifying: BTreeSet<String>,
    /// What each of them that knows words has in its config of the group and of the instances beside it.
    pub words: BTreeMap<String, AgentWords>,
    /// Where each of them looks for Sentinels, where it says so.
    pub agent_sources: BTreeMap<String, BTreeSet<String>>,
    /// What each of them says of its clock, and of those of others, where it does.
    pub clocks: BTreeMap<String, AgentClock>,
    /// The histories that instances have begun anew since they were started, and what each goes on from.
    pub continued: BTreeMap<ReplId, Continued>,
    /// What the agents in node mode have seen of the instances beside them, while these had data of the group.
    pub seen: BTreeMap<Address, SeenHistory>,
    /// The instances that are in maintenance, with the replica-priority that each had before, from the key
    /// `maintenance`; or why it cannot be read.
    pub maintenance: Result<BTreeMap<Address, u64>, String>,
    /// ModifyIndex of `maintenance`, 0 when it does not exist.
    pub maintenance_index: u64,
    /// The Sentinel settings in the key `config`, or why it cannot be read.
    pub config: Result<WantedSettings, String>,
    /// ModifyIndex of `config`, 0 when it does not exist.
    pub config_index: u64,
    /// The last pause, from the key `pause`.
    pub pause: PauseKey,
    /// What targets were told, from the key `notices`; or why it cannot be read.
    pub notices: Result<NoticeLog, String>,
    /// ModifyIndex of `notices`, 0 when it does not exist.
    pub notices_index: u64,
    /// Since when a planned move is under way, from the key `move`: one that died leaves it behind.
    pub moving: Option<Timestamp>,
    /// Which instance refuses the connections of which agent, and which run of it closed the last one.
    pub refused: BTreeMap<String, RefusedNote>,
}

/// What an agent notes of an instance that refuses its connections ([`crate::known::observed::Refusal`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedNote {
    /// The instance.
    pub instance: Address,
    /// The `run_id` of the process that closed the last connection.
    pub run_id: String,
}

/// The `state` key, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredState {
    /// The key does not exist: nothing was ever published.
    Absent,
    /// A record this version understands.
    Known(Box<Record>),
    /// Something else: a newer version's record, or damage. Never overwritten.
    Unreadable(String),
}

/// One key of the group as it was read.
#[derive(Debug, Clone)]
pub struct Key {
    /// The name, with the prefix.
    pub key: String,
    /// The value as Consul holds it.
    pub value: Vec<u8>,
    /// The index of its last change, which a check-and-set compares.
    pub modify_index: u64,
    /// A session holds it: the agent that wrote it is alive.
    pub locked: bool,
}

impl StoreAnswer {
    /// Makes sense of the keys below a group's prefix.
    pub fn from_keys(layout: &Layout, asked: Mono, keys: impl IntoIterator<Item = Key>) -> Self {
        let mut answer = Self {
            asked,
            state: StoredState::Absent,
            state_index: 0,
            history: Vec::new(),
            plain: BTreeMap::new(),
            agents: BTreeSet::new(),
            publishing_only: BTreeSet::new(),
            pausing: BTreeSet::new(),
            notifying: BTreeSet::new(),
            words: BTreeMap::new(),
            agent_sources: BTreeMap::new(),
            clocks: BTreeMap::new(),
            continued: BTreeMap::new(),
            seen: BTreeMap::new(),
            maintenance: Ok(BTreeMap::new()),
            maintenance_index: 0,
            config: Ok(WantedSettings::default()),
            config_index: 0,
            pause: PauseKey::Absent,
            notices: Ok(NoticeLog::default()),
            notices_index: 0,
            moving: None,
            refused: BTreeMap::new(),
        };
        let root = layout.root();
        for Key { key, value, modify_index, locked } in keys {
            let Some(name) = key.strip_prefix(&root) else { continue };
            match name {
                "state" => {
                    answer.state_index = modify_index;
                    answer.state = match decode(&value) {
                        Ok(record) => StoredState::Known(Box::new(record)),
                        Err(error) => StoredState::Unreadable(error),
                    };
                }
                "config" => {
                    answer.config_index = modify_index;
                    answer.config = serde_json::from_slice(&value).map_err(|error| unread(&error));
                }
                "maintenance" => {
                    answer.maintenance_index = modify_index;
                    answer.maintenance =
                        serde_json::from_slice(&value).map_err(|error| unread(&error));
                }
                PAUSE => answer.pause = PauseKey::read(&value),
                NOTICES => {
                    answer.notices_index = modify_index;
                    answer.notices = NoticeLog::read(&value);
                }
                "move" => answer.moving = String::from_utf8_lossy(&value).parse().ok(),
                // A damaged history costs the history, not the service.
                "history" => answer.history = serde_json::from_slice(&value).unwrap_or_default(),
                "primary" | "primary/host" | "primary/port" | "replicas" => {
                    let text = String::from_utf8_lossy(&value).into_owned();
                    answer.plain.insert(name.to_owned(), text);
                }
                _ => answer.note_one_of_many(name, &value, locked),
            }
        }
        answer
    }

    /// A key of which there may be several: of agents, and of what they note.
    fn note_one_of_many(&mut self, name: &str, value: &[u8], locked: bool) {
        // The key of an agent whose session is gone is about to go too.
        if let Some(agent) = name.strip_prefix(AGENTS).filter(|_| locked) {
            self.note_agent(agent, value);
        }
        if let Some(history) = name.strip_prefix(HISTORIES) {
            self.note_history(history, value);
        }
        if let Some(agent) = refused_by(name) {
            self.note_refused(agent, value);
        }
    }

    /// What an agent that is there says of itself.
    fn note_agent(&mut self, agent: &str, value: &[u8]) {
        self.agents.insert(agent.to_owned());
        let key: AgentKey = serde_json::from_slice(value).unwrap_or_default();
        let AgentKey { sentinels, clock, manage, pauses, notifies, words } = key;
        if manage == Some(false) {
            self.publishing_only.insert(agent.to_owned());
        }
        if pauses {
            self.pausing.insert(agent.to_owned());
        }
        if notifies {
            self.notifying.insert(agent.to_owned());
        }
        if let Some(words) = words {
            // What another program wrote there is worth nothing, and no reason to take this agent for an older one.
            let read = serde_json::from_value(words).ok().filter(AgentWords::is_sound);
            self.words.insert(agent.to_owned(), read.unwrap_or_default());
        }
        self.agent_sources.extend(sentinels.map(|sources| (agent.to_owned(), sources)));
        self.clocks.extend(clock.map(|clock| (agent.to_owned(), clock)));
    }

    /// The pause that is on now.
    pub fn paused(&self, now: Timestamp) -> Option<PauseStatus> {
        let unaware = self.agents.difference(&self.pausing).map(String::as_str);
        self.pause.on(now, unaware)
    }

    /// The instances that ceased to be the writer less than `ms` ago, as far as the history goes back.
    pub fn former_writers(&self, now: Timestamp, ms: u64) -> impl Iterator<Item = &Address> {
        let since = now.as_millisecond().saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
        let lately = self.history.iter().filter(move |change| change.at.as_millisecond() >= since);
        lately.filter_map(|change| change.from.as_ref())
    }

    /// What is noted of a history, by its key below [`HISTORIES`]: of one that was begun anew, or of the one that an
    /// instance was seen with.
    pub(crate) fn note_history(&mut self, name: &str, value: &[u8]) {
        let seen = name.strip_suffix(SEEN).and_then(|name| name.strip_suffix('/'));
        match seen.and_then(|address| address.parse().ok()) {
            Some(address) => {
                if let Ok(seen) = serde_json::from_slice(value) {
                    self.seen.insert(address, seen);
                }
            }
            None => {
                if let Ok(of) = serde_json::from_slice(value) {
                    self.continued.insert(ReplId(name.to_owned()), of);
                }
            }
        }
    }

    /// What an agent notes of an instance that refuses its connections, by the agent's id.
    pub(crate) fn note_refused(&mut self, agent: &str, value: &[u8]) {
        if let Ok(note) = serde_json::from_slice(value) {
            self.refused.insert(agent.to_owned(), note);
        }
    }

    /// The record, when there is one that can be read.
    pub fn record(&self) -> Option<&Record> {
        match &self.state {
            StoredState::Known(record) => Some(record),
            StoredState::Absent | StoredState::Unreadable(_) => None,
        }
    }
}

/// What an agent's key says of it, as far as others need it.
#[derive(Default, Deserialize)]
struct AgentKey {
    sentinels: Option<BTreeSet<String>>,
    clock: Option<AgentClock>,
    // Agents before this one do not say it.
    manage: Option<bool>,
    #[serde(default)]
    pauses: bool,
    #[serde(default)]
    notifies: bool,
    words: Option<serde_json::Value>,
}

/// What an agent's key says of wall clocks ([`crate::known::clocks`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentClock {
    /// What the agent's own clock said when this was written.
    pub at: Timestamp,
    /// The other agents are to show theirs, once each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// The agents whose clocks are ahead of it, by at least how many ms.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ahead: BTreeMap<String, u64>,
}

/// What a history goes on from. An append-only file does not hold how its data's history is called, so an instance that
/// has nothing else begins another one when it is started; `exec` has noted on the volume which it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continued {
    /// The history that the data belongs to.
    pub of: ReplId,
    /// The instance wrote that history itself.
    pub led: bool,
}

/// What an agent has seen of an instance on its own host, kept where an agent that is started anew finds it: an
/// append-only file does not hold how its data's history is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenHistory {
    /// The history that it wrote or followed, one of the group's.
    pub of: ReplId,
    /// It wrote that history itself.
    pub led: bool,
    /// How far it had come in it when this was noted, in bytes.
    pub offset: u64,
    /// Its run.
    pub run_id: String,
    /// The config file that it was started with: what else listens at its address some day has another one.
    pub config_file: String,
}

impl SeenHistory {
    /// The same but for how far it has come, which changes all the time.
    pub fn is_as(&self, other: &Self) -> bool {
        *self == Self { offset: self.offset, ..other.clone() }
    }
}
