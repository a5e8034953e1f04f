//! What one group's `state` key holds: the fence, and everything the rows are made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::brief::unread;
use crate::identity::address::{Address, GroupName, ServiceName};
use crate::identity::ids::{ReplId, SentinelId};
use crate::published::words::RowWords;

/// The least `down-after-milliseconds`, in ms, with which Sentinels are told to wait for a moment only: below it there is
/// little to gain.
pub const HASTE_DOWN_AFTER_MIN_MS: u64 = 1_000;
/// What they were told to wait for, in ms, before a record said it.
const FIRST_HASTE_MS: u64 = 200;
/// Version of the record format. A record with a higher one is left alone.
///
/// While a fleet is upgraded, older agents write this record too, and drop the fields that they do not know. A new
/// field that may be lost so leaves the version as it is; one that may not, or a new word in a field of old, raises it
/// (`docs/packages.md`, "Upgrade and rollback").
pub const RECORD_VERSION: u32 = 1;
/// How many changes `history` keeps.
pub const HISTORY_LEN_MAX: usize = 50;
/// Histories of past writers kept.
pub const LINEAGE_LEN_MAX: usize = 20;

/// The published truth about one group. Every role row, tag, check and plain key is a function of
/// this value ([`crate::published::projection::project`]), so they cannot tell different stories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format, [`RECORD_VERSION`]; an agent leaves a newer one alone.
    pub v: u32,
    /// The group's name, as Sentinel has it.
    pub group: GroupName,
    /// The service name it is published under.
    pub service: ServiceName,
    /// +1 whenever the published writer changes, to or from none included.
    pub generation: u64,
    /// Unique to each write, so that a lost answer can be recognised.
    pub nonce: String,
    /// The id of the agent that wrote this.
    pub by: String,
    /// The published writer; `None` while there is none.
    pub writer: Option<Writer>,
    /// The writer, or the last one while there is none: whose history the next one must continue.
    pub last_writer: Option<Writer>,
    /// Why the writer is the writer.
    pub evidence: Evidence,
    /// When this generation began.
    pub since: Timestamp,
    /// Why, in one sentence.
    pub why: String,
    /// Every instance that has a row.
    pub instances: Vec<InstanceRecord>,
    /// Every Sentinel of the group, as they name one another.
    pub sentinels: Vec<Address>,
    /// Their ids: the electorate that the record rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentinel_ids: Vec<SentinelId>,
    /// Below which prefix its keys are: what its node is told apart by, whose name is made of that and the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The installation that the group belongs to, where its agents were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
    /// The last histories that writers of this group have written, newest first: an instance that comes back with an
    /// old one of them is the group's own.
    #[serde(default)]
    pub lineage: Vec<ReplId>,
    /// The instance that is to become the first primary of a group that has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Address>,
    /// The Sentinel that was last made to forget stale peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// The primary that the Sentinels announce, and that has come back without the group's data.
    #[serde(default, rename = "emptied", skip_serializing_if = "Option::is_none")]
    pub data_loss: Option<DataLossRecord>,
    /// The last writer whose process was seen to end, and for which a Sentinel was asked for a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub death: Option<DeathRecord>,
    /// The Sentinels that are to wait for a moment only, since the writer seems to be dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub haste: Option<HasteRecord>,
    /// The operator's own words on the rows of each instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<Address, RowWords>,
}

/// Why Sentinels are to wait for a moment only, and what they waited for before, written down before they are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HasteRecord {
    /// The writer that seems to be dead.
    pub instance: Address,
    /// The `run_id` of its process: a restart of it is another case.
    pub run_id: String,
    /// What that rests on: `refused`, `process` or `child`.
    pub evidence: String,
    /// When, by the clock of the agent that wrote it.
    pub at: Timestamp,
    /// The epoch at which the Sentinels named it: at one epoch they are told once at most.
    pub epoch: u64,
    /// The Sentinel that is to lead the failover: it is told last, so that no two stand for election at once.
    pub leader: Address,
    /// What each Sentinel that is told waited for before (`down-after-milliseconds`), the leader among them.
    pub before: BTreeMap<Address, u64>,
    /// What they are to wait for meanwhile, in ms: the longer the writer has been dead already, the more.
    #[serde(default = "first_haste_ms")]
    pub pace_ms: u64,
    /// The agent that it answers: the Sentinels wait as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
}

fn first_haste_ms() -> u64 {
    FIRST_HASTE_MS
}

/// A Sentinel that waits so long, in ms, is one that was told to: less than a second, and no number that an operator would
/// write. What a record says of it an agent of an earlier version drops.
pub fn is_haste(down_after_ms: u64) -> bool {
    let odd = down_after_ms < HASTE_DOWN_AFTER_MIN_MS && down_after_ms % 100 == 1;
    odd || down_after_ms == FIRST_HASTE_MS
}

/// The proven end of the writer's process, written down before a Sentinel is asked to replace it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathRecord {
    /// The writer.
    pub instance: Address,
    /// The `run_id` of the process: a restart of it is another case.
    pub run_id: String,
    /// Its process id, on its host.
    pub pid: u32,
    /// What its end was seen by: `process` or `child`.
    pub evidence: String,
    /// When its end was seen, by the clock of the agent beside it.
    pub at: Timestamp,
    /// The Sentinel that is asked, once.
    pub sentinel: Address,
    /// The epoch at which the Sentinels named the writer: at one epoch a Sentinel is asked once at most.
    pub epoch: u64,
}

/// A primary without its data, written down before a Sentinel is asked to replace it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataLossRecord {
    /// The primary without its data.
    pub instance: Address,
    /// Its `run_id`: a restart of it is another case.
    pub run_id: String,
    /// How many failovers were asked for.
    pub asked: u64,
    /// The Sentinel that was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<Address>,
}

/// One `SENTINEL RESET`, written down before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// Grows with each reset, so that each is done once.
    pub number: u64,
    /// The Sentinel that gets `SENTINEL RESET`.
    pub sentinel: Address,
}

impl Record {
    /// Notes the history that the writer writes now.
    pub fn note_lineage(&mut self) {
        let Some(writer) = &self.writer else { return };
        if self.lineage.first() != Some(&writer.replid) {
            self.lineage.retain(|id| id != &writer.replid);
            self.lineage.insert(0, writer.replid.clone());
            self.lineage.truncate(LINEAGE_LEN_MAX);
        }
    }
}

/// A writer and the history it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Where it listens.
    pub address: Address,
    /// Its `master_replid` when last seen.
    pub replid: ReplId,
}

/// How sure a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// An elected leader chose it and it says it is the primary; the majority has yet to follow.
    Promotion,
    /// A majority of the known Sentinels names it.
    Quorum,
}

impl Level {
    /// The word used in configs, keys and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promotion => "promotion",
            Self::Quorum => "quorum",
        }
    }
}

/// What a publication rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EvidenceForm", into = "EvidenceForm")]
pub struct Evidence {
    /// A majority, a promotion, or the agents' own choice.
    pub basis: Basis,
    /// The highest epoch a majority has ever confirmed. Only a higher one, or the end of
    /// `confirm_within`, overrules an unconfirmed promotion.
    pub confirmed_epoch: u64,
    /// How many Sentinels are known, reachable or not: what votes are counted against.
    pub known: usize,
}

/// The Sentinels or agents that say that the published writer is the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// A majority of the known Sentinels.
    Majority {
        /// The epoch at which it names the writer.
        epoch: u64,
        /// How many Sentinels do.
        votes: usize,
    },
    /// An elected leader has chosen it, and it says that it is the primary; the majority has yet to follow.
    Promotion {
        /// The leading Sentinel.
        leader: Address,
        /// The epoch that the leader was elected in, when known.
        epoch: Option<u64>,
        /// How many Sentinels name it so far.
        votes: usize,
    },
    /// No Sentinel has named it, and none could have: the agents' own choice, by what the instances hold.
    Agents,
    /// Nothing: there is no writer.
    None {
        /// How many Sentinels named the last one. Older agents read it.
        votes: usize,
    },
}

impl Basis {
    /// How sure it is, in the word of `state`: no writer is as sure as a majority's.
    pub fn level(&self) -> Level {
        match self {
            Self::Majority { .. } | Self::None { .. } => Level::Quorum,
            Self::Promotion { .. } | Self::Agents => Level::Promotion,
        }
    }

    /// Sentinel's epoch for it, when known.
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Majority { epoch, .. } => Some(*epoch),
            Self::Promotion { epoch, .. } => *epoch,
            Self::Agents | Self::None { .. } => None,
        }
    }

    /// How many Sentinels name it.
    pub fn votes(&self) -> usize {
        match self {
            Self::Majority { votes, .. } | Self::Promotion { votes, .. } | Self::None { votes } => {
                *votes
            }
            Self::Agents => 0,
        }
    }
}

impl Evidence {
    /// The level of the basis.
    pub fn level(&self) -> Level {
        self.basis.level()
    }

    /// The majority has yet to confirm it.
    pub fn is_unconfirmed(&self) -> bool {
        self.level() == Level::Promotion
    }
}

/// [`Evidence`] as `state` has always held it. Absent fields say what kind it is.
#[derive(Serialize, Deserialize)]
struct EvidenceForm {
    level: Level,
    config_epoch: Option<u64>,
    confirmed_epoch: u64,
    votes: usize,
    known: usize,
    sentinel: Option<Address>,
}

impl From<EvidenceForm> for Evidence {
    fn from(form: EvidenceForm) -> Self {
        let EvidenceForm { level, config_epoch, confirmed_epoch, votes, known, sentinel } = form;
        let basis = match (level, sentinel, config_epoch) {
            (Level::Quorum, _, Some(epoch)) => Basis::Majority { epoch, votes },
            (Level::Quorum, _, None) => Basis::None { votes },
            (Level::Promotion, Some(leader), epoch) => Basis::Promotion { leader, epoch, votes },
            (Level::Promotion, None, _) => Basis::Agents,
        };
        Self { basis, confirmed_epoch, known }
    }
}

impl From<Evidence> for EvidenceForm {
    fn from(evidence: Evidence) -> Self {
        let Evidence { basis, confirmed_epoch, known } = evidence;
        let (level, config_epoch, votes) = (basis.level(), basis.epoch(), basis.votes());
        let sentinel = match basis {
            Basis::Promotion { leader, .. } => Some(leader),
            Basis::Majority { .. } | Basis::Agents | Basis::None { .. } => None,
        };
        Self { level, config_epoch, confirmed_epoch, votes, known, sentinel }
    }
}

/// One instance's row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Where it listens.
    pub address: Address,
    /// What it is published as.
    pub role: PublishedRole,
}

/// What an instance is published as. Only `primary` and `replica` answer in DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublishedRole {
    /// The writer: the row of `<service>-primary`.
    Primary,
    /// In sync: a read endpoint.
    Replica,
    /// Alive, but not in sync, or not yet where it belongs.
    OutOfSync,
    /// A majority of the Sentinels gets no answer from it.
    Down,
    /// The operator has taken it out of service.
    Maintenance,
}

impl PublishedRole {
    /// The tag on the instance's row, when it has one.
    pub fn tag(self) -> Option<&'static str> {
        match self {
            Self::Primary => Some("primary"),
            Self::Replica => Some("replica"),
            Self::OutOfSync | Self::Down | Self::Maintenance => None,
        }
    }

    /// In one word, as `state` has it.
    pub fn as_word(self) -> &'static str {
        match self {
            Self::OutOfSync => "out-of-sync",
            Self::Maintenance => "maintenance",
            other => other.as_str(),
        }
    }

    /// The word used in tags, `status` and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::OutOfSync => "out of sync",
            Self::Down => "down",
            Self::Maintenance => "in maintenance",
        }
    }
}

impl Record {
    /// The published writer's address.
    pub fn writer_address(&self) -> Option<&Address> {
        self.writer.as_ref().map(|w| &w.address)
    }

    /// What an instance is published as, when it has a row.
    pub fn role_of(&self, address: &Address) -> Option<PublishedRole> {
        self.instances.iter().find(|i| &i.address == address).map(|i| i.role)
    }

    /// The addresses published as read endpoints, in order.
    pub fn replicas(&self) -> impl Iterator<Item = &Address> {
        self.instances.iter().filter(|i| i.role == PublishedRole::Replica).map(|i| &i.address)
    }
}

/// One entry of `history`: a generation began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The generation that began.
    pub generation: u64,
    /// When it was published, by the agent's clock.
    pub at: Timestamp,
    /// The writer before it.
    pub from: Option<Address>,
    /// The writer since.
    pub to: Option<Address>,
    /// How sure it was; `None` when the writer was withdrawn.
    pub level: Option<Level>,
    /// Sentinel's epoch, when known.
    pub epoch: Option<u64>,
    /// Why, in one sentence.
    pub why: String,
    /// The agent that published it.
    pub by: String,
    /// When what led to it was first seen by that agent.
    pub timeline: Timeline,
}

/// The steps of a failover, all on the clock of the agent that published it: their differences are those of its
/// monotonic clock. What another agent has seen after the publication is as long after it as that agent saw it after
/// the generation was in Consul. Times of two agents' wall clocks are never compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The writer before it had last said that it is the primary, and ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Timestamp>,
    /// The old primary's process ended, as its host's kernel said; a Sentinel was asked for a failover with this
    /// change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Timestamp>,
    /// The Sentinels were to wait for the old primary for a moment only, and to vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hastened: Option<Timestamp>,
    /// The Sentinels agreed that the old primary is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_agreed: Option<Timestamp>,
    /// Consul was seen to have no writer any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Timestamp>,
    /// A leader had chosen a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Timestamp>,
    /// The chosen replica first said that it is the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Timestamp>,
    /// The agent had first decided to publish it. What was sent may be later: Consul may have been away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Timestamp>,
    /// Consul had acknowledged it to that agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Timestamp>,
    /// Consul's DNS was first seen to answer the new writer, by the agent that wrote this down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_dns: Option<Timestamp>,
    /// A majority had followed; at level quorum it had before the change, which is then the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Timestamp>,
}

/// A record as the bytes of its key.
///
/// # Panics
/// Never: every field has a JSON form.
#[expect(clippy::expect_used, reason = "every field has a JSON form")]
pub fn encode(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has no map keys that are not strings")
}

/// A record from the bytes of its key.
///
/// # Errors
/// Says what is wrong when the bytes are not a record of a version this build knows.
pub fn decode(bytes: &[u8]) -> Result<Record, String> {
    let mut record: Record = decode_form(bytes, RECORD_VERSION, "a record")?;
    // From before `lineage` was kept: the last writer's history is known all the same.
    if record.lineage.is_empty() {
        record.lineage.extend(record.last_writer.iter().map(|writer| writer.replid.clone()));
    }
    Ok(record)
}

/// What a `state` key holds, from its bytes: of a form that this build knows, up to this version.
pub(crate) fn decode_form<T: DeserializeOwned>(
    bytes: &[u8],
    newest: u32,
    what: &str,
) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let form = |error: serde_json::Error| format!("not {what}: {}", unread(&error));
    let Version { v } = serde_json::from_slice(bytes).map_err(form)?;
    if v > newest {
        return Err(format!(
            "written by a newer consul-redis (format {v}, this build knows {newest}): upgrade this one"
        ));
    }
    serde_json::from_slice(bytes).map_err(form)
}
