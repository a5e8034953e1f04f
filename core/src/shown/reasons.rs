//! Why something is done, and why something is not: all that a decision says, as values.
//!
//! What it is in words is here and nowhere else: the log, `plan`, `status`, the page and the record take it from here.

use std::fmt;

use crate::identity::address::{Address, GroupName, ServiceName};
use crate::identity::mark::{DataMark, MarkKey};
use crate::known::memory::StalePeer;
use crate::known::observed::GaveUp;
use crate::published::pause::PauseStatus;
use crate::situation::writer::NotWriter;
use crate::time::Mono;

/// Why a writer is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishReason {
    /// Rule 2: a majority names it.
    Majority {
        /// How many Sentinels name the writer.
        votes: usize,
        /// How many are known.
        known: usize,
        /// The highest `config-epoch` of its voters.
        epoch: u64,
        /// Its history does not go on from the last writer's.
        unrelated: bool,
    },
    /// Rule 3: an elected leader chose it and it says it is the primary.
    Promotion {
        /// The leading Sentinel.
        leader: Address,
        /// The epoch of the election, when known.
        epoch: Option<u64>,
        /// An operator gave `SENTINEL FAILOVER`: there was no election.
        forced: bool,
    },
    /// Consul and the Sentinels knew no primary, and this one's data includes that of all others.
    First,
    /// The Sentinels knew only addresses that do not answer, and this one's data includes that of all others.
    Relocated,
    /// It was the last writer and holds all data, and the Sentinels that do not name it were made anew.
    Again,
}

/// Why the writer is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithdrawReason {
    /// Rule 4: the Sentinels agree that it is down.
    Down {
        /// The writer that is withdrawn.
        writer: Address,
        /// How many Sentinels get no answer from it.
        votes: usize,
        /// How many are known.
        known: usize,
    },
    /// Rule 4: it answers neither us nor any Sentinel that answers, and those cannot agree: they do not find one
    /// another, or have lost what they knew.
    OutOfReach {
        /// The published one.
        writer: Address,
        /// How many Sentinels answer.
        heard: usize,
        /// How many are known.
        known: usize,
    },
    /// Rule 4: it says itself that it is a replica now.
    IsReplica {
        /// The published one.
        writer: Address,
        /// The instance that it follows now.
        of: Address,
    },
    /// Its process has ended, and a Sentinel is asked to replace it.
    Died {
        /// The writer.
        writer: Address,
        /// The process.
        pid: u32,
        /// The Sentinel that is asked.
        sentinel: Address,
    },
    /// It came back without its data, and others hold it or may.
    DataLoss(WhyDataLoss),
    /// Rule 3: the majority did not follow in time.
    Unconfirmed {
        /// The published one.
        writer: Address,
        /// How long it had, in ms.
        within_ms: u64,
    },
    /// Rule 5: the majority has left it, and the one it names cannot be published.
    Displaced {
        /// The published one.
        writer: Address,
        /// The address that the majority names, when there is a majority.
        by: Option<Address>,
    },
}

/// Why what is published under our name is not about the group that we see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOurs {
    /// It belongs to another installation.
    Installation {
        /// The group whose record it is.
        key: GroupName,
        /// The installation that it belongs to.
        recorded: String,
        /// Ours, where we were told.
        ours: Option<String>,
    },
    /// It rests on other Sentinels.
    Sentinels {
        /// The group whose record it is.
        key: GroupName,
        /// The last writer that it had.
        writer: Option<Address>,
        /// Its Sentinels.
        recorded: Vec<Address>,
        /// The agent that wrote it last.
        by: String,
        /// The Sentinels that answer here.
        heard: Vec<Address>,
        /// The primary that they name.
        named: Option<Address>,
    },
}

/// Why a group is not adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdopted {
    /// Nothing was ever published: the first agent does it.
    NothingPublished,
    /// Some other program's node has the name of the group's.
    ForeignNode(String),
    /// It rests on the Sentinels that answer here.
    IsOurs,
    /// No primary has a majority of the Sentinels here.
    NoPrimary(NotYet),
    /// The primary that they name fails the writer test.
    NotPrimary(Address),
}

impl fmt::Display for NotAdopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingPublished => f.write_str("nothing is published: there is nothing to adopt"),
            Self::ForeignNode(node) => write!(f, "node {node} is missing, or is not ours"),
            Self::IsOurs => f.write_str(
                "nothing to adopt: no Sentinel here names a primary, or what is published rests on these Sentinels already",
            ),
            Self::NoPrimary(why) => write!(f, "the Sentinels here name no primary: {why}"),
            Self::NotPrimary(primary) => {
                write!(f, "{primary}, which the Sentinels here name, does not say that it is the primary")
            }
        }
    }
}

/// Why nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    /// Consul has not been read yet.
    ConsulUnread,
    /// `state` holds something this version must not overwrite.
    StateUnreadable(String),
    /// `state` is about another group.
    NotOurs(NotOurs),
    /// The published writer is the one the majority names.
    Confirmed {
        /// The published one.
        writer: Address,
        /// How many Sentinels name it.
        votes: usize,
        /// How many are known.
        known: usize,
        /// At which epoch.
        epoch: u64,
    },
    /// An unconfirmed promotion, within its time.
    AwaitingConfirmation(Address),
    /// There is a writer, and nothing that could be proved says otherwise.
    Holding(Address, NotYet),
    /// No Sentinel knows a primary that answers, and the instance in `claim` is being promoted.
    Promoting(Address),
    /// Consul and the Sentinels know no primary, and there is none yet.
    NoFirst(NoFirst),
    /// The Sentinels know only addresses that do not answer, and no other instance leads yet.
    NotRelocated(NotRelocated),
    /// Most Sentinels have forgotten the group, and the last writer is not named again yet.
    NotAgain(NotAgain),
    /// There is no writer, and no instance that could be proved to be one.
    NoWriter(NotYet),
}

/// Why no instance can be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotYet {
    /// No Sentinel answered, or none knows the group.
    NoSentinels {
        /// How many answered.
        answer: usize,
        /// The group that was asked for.
        group: GroupName,
        /// Which groups those know that answered.
        others: Vec<GroupName>,
    },
    /// No address has a majority of the known Sentinels.
    NoMajority {
        /// How many Sentinels answered.
        heard: usize,
        /// How many are known.
        known: usize,
    },
    /// The Sentinels agree that it is down.
    Down(Address),
    /// A failover is replacing it.
    BeingReplaced(Address),
    /// It says that it is not the writer.
    Refuses(Address, NotWriter),
    /// It could not be asked.
    Unproven(Address, String),
    /// It came back without its data, and others hold it or may.
    DataLoss(WhyDataLoss),
    /// Another primary is named at the same epoch.
    Contested(Address, Address),
    /// The majority's epoch is not above the one of the promotion being awaited.
    OldEpoch(Address, u64),
    /// The majority's epoch is lower than recorded, and has been for too short a time.
    LowerEpoch(Address, u64),
}

/// Why there is no first primary yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoFirst {
    /// The operator decides (`bootstrap = false`).
    SwitchedOff,
    /// Too few Sentinels answer to say that none knows the group.
    Sentinels {
        /// How many answer.
        answered: usize,
        /// How many there are.
        of: usize,
    },
    /// Instances are waited for.
    Waiting {
        /// How many answer.
        answered: usize,
        /// How many are expected, when that was said.
        expect: Option<usize>,
    },
    /// One may have more data than the others, and is not ready.
    NotReady(Address, String),
    /// The data of two has gone different ways.
    Diverged(Address, Address),
}

/// Why no instance takes the place of those that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRelocated {
    /// The group has a writer or never had one, its Sentinels know an instance that answers, or no other one is
    /// registered.
    NoCase,
    /// The operator does it himself (`bootstrap = false`, or `tell_sentinels = false`).
    SwitchedOff,
    /// Too few Sentinels answer to say that no instance is left.
    Sentinels {
        /// How many answer.
        answered: usize,
        /// How many are known.
        of: usize,
    },
    /// Others may follow, with more data.
    Waiting {
        /// How many answer.
        answered: usize,
        /// How many instances the group had.
        of: usize,
    },
    /// One may have more data than the others, and is not ready.
    NotReady(Address, String),
    /// The instance with the most data is never to lead (`replica-priority 0`).
    NeverToLead,
    /// Another one with data is a primary already.
    Rival(Address, Address),
    /// No instance's data is the group's for certain, and one has some.
    Unrelated(Address, u64),
    /// The data of two has gone different ways.
    Diverged(Address, Address),
}

/// Why the last writer is not named again, where most Sentinels have forgotten the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAgain {
    /// The operator does it himself (`bootstrap = false`, or `tell_sentinels = false`).
    SwitchedOff,
    /// It was seen a moment ago.
    Waiting(Address),
    /// It has not read its data yet.
    NotReady(Address, String),
    /// An instance that may hold more does not answer.
    Unheard(Address),
    /// Another one with data is a primary already.
    Rival(Address),
    /// An instance holds what it does not.
    Behind {
        /// The last writer.
        last: Address,
        /// Who has more.
        than: Address,
    },
}

/// Why the old primary is not made one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPromotedAgain {
    /// There is none: the group has a writer, or the instance that a majority names is not detached.
    NoCase,
    /// The operator does it himself (`bootstrap = false`).
    SwitchedOff,
    /// A failover is under way, or the Sentinels call it down.
    BeingReplaced,
    /// Another instance says that it is the primary.
    Rival(Address),
    /// It is not ready, or has not said anything since the last change.
    NotReady(Address),
    /// An instance that may hold more does not answer.
    Unheard(Address),
    /// An instance holds what it does not.
    Behind {
        /// The old primary, which is back.
        old: Address,
        /// The instance that holds more.
        than: Address,
    },
}

/// Why a stray primary is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// The stray primary.
    pub instance: Address,
    /// What keeps the agents from fencing it.
    pub why: WhyLeft,
}

/// Why one stray primary is not fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyLeft {
    /// Its data has nothing to do with the group's.
    Unrelated {
        /// How many keys it holds.
        keys: u64,
        /// What its mark says, where that is another group's.
        mark: Option<NoProof>,
    },
    /// It was an instance of the group, and begins with another history than any of the group's: whose data it holds
    /// cannot be told. Its writes are held where they can be.
    Unproven {
        /// How many keys it holds.
        keys: u64,
        /// The generation with which it ceased to be the writer, when it was.
        until: Option<u64>,
        /// The writer that it should follow.
        writer: Address,
        /// It keeps an append-only file; else it is a Redis that reads no history from a snapshot as a primary.
        append_only: bool,
        /// Its writes can be held.
        holds: bool,
        /// Why its mark proves nothing, where one is asked for.
        mark: Option<NoProof>,
    },
    /// It has data and the writer has none, which would delete them: the writer may have come back without its own.
    WriterIsEmpty {
        /// The writer, which is without keys.
        writer: Address,
        /// How many keys the stray primary holds.
        keys: u64,
    },
    /// It is blank, and only a minority of the Sentinels says that it belongs to the group.
    Stranger,
    /// Sentinels may be promoting it.
    MayBePromoted,
    /// The writer is not certain at this moment.
    NoCertainWriter(&'static str),
    /// `fence = false` leaves it to Sentinel.
    SwitchedOff,
}

/// Why the mark of a stray primary does not prove that its data is the group's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoProof {
    /// It has none.
    Absent,
    /// The key holds something that is no mark.
    Other,
    /// It does not let this login read the key, in these words.
    Unread(String),
    /// It is another group's.
    Anothers(Box<DataMark>),
    /// It is of a generation that was not published yet.
    Later {
        /// The generation of the mark.
        generation: u64,
        /// The one that is published.
        published: u64,
    },
    /// It has the group's names, and its history is none of the last 20 writers'.
    UnknownHistory {
        /// The generation of the mark.
        generation: u64,
    },
    /// The instance has replicas that the group does not know.
    LeadsOthers,
    /// The group does not know its address.
    NoPlace,
}

/// Why the writer's data set has no mark of what is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotMarked {
    /// The writer.
    pub writer: Address,
    /// The generation that is published.
    pub generation: u64,
    /// The key of the mark.
    pub key: MarkKey,
    /// What is in the way.
    pub why: WhyNotMarked,
}

/// What keeps the mark out of the writer's data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNotMarked {
    /// The key holds something that is no mark, which is never overwritten.
    Other,
    /// The writer does not let this login read the key, in these words.
    Unread(String),
    /// It could not be written: the words of the writer, or why it did not answer.
    Unwritten(String),
    /// The names in it are too long.
    TooLong,
    /// One look cannot tell: no agent has written it for long.
    Late,
}

/// A `replica-priority` that is not as the order of zones has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPreferred {
    /// The replica.
    pub instance: Address,
    /// The priority that it has.
    pub had: u64,
    /// The one that it is to have.
    pub priority: u64,
    /// What is in the way.
    pub why: WhyNotPreferred,
}

/// What keeps this agent from setting a priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNotPreferred {
    /// It could not be set: the words of the instance, or why it did not answer.
    Refused(String),
    /// Another agent stands beside the instance, and comes first by its id.
    Another(String),
}

/// Why a primary without data is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyDataLoss {
    /// The one without data.
    pub primary: Address,
    /// The instance with the most data, and how many keys it holds.
    pub holder: Option<(Address, u64)>,
    /// The instances that may hold it, when none does for certain.
    pub unheard: Vec<Address>,
}

/// Why no failover is asked for in the place of a primary without data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReplaced {
    /// The primary, and the instances that hold its data.
    pub loss: WhyDataLoss,
    /// What speaks against it.
    pub why: WhyNotReplaced,
}

/// Why no Sentinel is asked for a failover yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNotReplaced {
    /// An instance that may hold more does not answer.
    Unheard(Address),
    /// Too few Sentinels answer.
    NoMajority,
    /// An instance with data would still copy the primary that has none.
    StillFollows(Address),
    /// The Sentinels see no replica that is up.
    NoReplica,
    /// The Sentinels would choose an instance that does not hold the data.
    WouldChoose(Address),
    /// No Sentinel that trusts its clock sees the instance that is to be chosen.
    NoSentinel(Address),
}

/// Why the Sentinels are neither asked for a failover nor to vote at once, although the writer's process has ended, or
/// seems to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFast {
    /// The writer.
    pub instance: Address,
    /// What is known of its process.
    pub end: End,
    /// What speaks against it.
    pub why: WhyNotFast,
}

/// What is known of the end of the writer's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is proven: its process id.
    Proven(u32),
    /// It refuses this agent's connections: since when, by this agent's clock.
    Refused(Mono),
}

/// What speaks against a failover at once. The Sentinels begin theirs when they see the death themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNotFast {
    /// An operator has paused the group.
    Paused,
    /// The operator decides (`fast_failover = "off"`, `manage = false`).
    SwitchedOff,
    /// A planned move is under way.
    Switchover,
    /// The operator has taken the writer out of service.
    Maintenance,
    /// Too few Sentinels answer.
    NoMajority {
        /// How many answer.
        heard: usize,
        /// How many are known.
        known: usize,
    },
    /// A failover is under way, or about to be.
    Failover,
    /// The Sentinels see it soon themselves, and two failovers could collide: their least `down-after-milliseconds`.
    DownAfter(u64),
    /// One was asked for a short while ago.
    AskedLately {
        /// How long ago, in seconds.
        ago_s: u64,
    },
    /// One was asked for already at the epoch that is in force.
    AskedAtThisEpoch(u64),
    /// It ended too long ago: the Sentinels are about to see it themselves.
    TooLate {
        /// How long ago, in ms.
        ago_ms: u64,
    },
    /// It died so long ago that Sentinels which were told to hurry would choose no replica: their links are lost for too
    /// long.
    LinksLost {
        /// How long ago, in ms.
        ago_ms: u64,
    },
    /// No replica that was in sync answers, and may be chosen.
    NoReplica,
    /// No Sentinel that trusts its clock sees such a replica.
    NoSentinel,
    /// Not more than half of the agents are refused.
    NotAllRefused {
        /// How many are.
        refused: usize,
        /// How many there are.
        agents: usize,
    },
    /// No replica has answered since.
    ReplicasSilent,
    /// A replica has its link to it still.
    Followed(Address),
    /// Too many Sentinels have a connection to it still.
    Connected {
        /// How many have lost it.
        lost: usize,
        /// How many are known.
        known: usize,
    },
    /// Too few Sentinels that name it and trust their clocks can be told.
    TooFew,
}

impl WhyNotFast {
    /// As the label `outcome` has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::SwitchedOff => "switched-off",
            Self::Switchover => "switchover",
            Self::Maintenance => "maintenance",
            Self::NoMajority { .. } => "no-majority",
            Self::Failover => "failover",
            Self::DownAfter(_) => "down-after",
            Self::AskedLately { .. } | Self::AskedAtThisEpoch(_) => "asked-lately",
            Self::TooLate { .. } | Self::LinksLost { .. } => "too-late",
            Self::NoReplica => "no-replica",
            Self::NoSentinel | Self::TooFew => "no-sentinel",
            Self::NotAllRefused { .. }
            | Self::ReplicasSilent
            | Self::Followed(_)
            | Self::Connected { .. } => "disagree",
        }
    }
}

/// Why a Sentinel or replica that is gone for good is not forgotten yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotForgotten {
    /// The Sentinel or replica.
    pub stale_peer: StalePeer,
    /// What speaks against it.
    pub why: NotAtRest,
}

/// Why no Sentinel may be reset now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAtRest {
    /// Nothing was ever published.
    NothingPublished,
    /// There is no writer.
    NoWriter,
    /// No majority has confirmed the writer.
    Unconfirmed(Address),
    /// The writer fails the writer test.
    NotPrimary(Address),
    /// A Sentinel does not know the group.
    Blank(Address),
    /// A Sentinel sees something going on.
    Busy(Address),
    /// Too few Sentinels answer.
    NoMajority,
    /// A Sentinel is named that neither answers nor is gone for good.
    MayBeAlive(Address),
    /// A Sentinel does not know another one that answers.
    PeerUnknown {
        /// The Sentinel that knows too little.
        sentinel: Address,
        /// The address of the peer that it does not know.
        peer: Option<Address>,
    },
    /// A Sentinel does not know a replica that the writer has.
    ReplicaUnknown {
        /// The Sentinel that lacks it.
        sentinel: Address,
        /// What it lacks.
        replica: Address,
    },
}

/// What was not done, and why not.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// An operator has paused the group.
    Paused(PauseStatus),
    /// The config wants another service name than the published one.
    Renamed {
        /// The group whose service it is.
        group: GroupName,
        /// The service it is published as.
        published: ServiceName,
        /// The service that the config says.
        wanted: ServiceName,
    },
    /// The record is not ours to change.
    StateUnreadable {
        /// The path of the record.
        key: String,
        /// What is wrong with it.
        error: String,
    },
    /// Nothing can be written before the rows were read.
    CatalogUnread,
    /// The node belongs to another program.
    ForeignNode(String),
    /// Other nodes publish the service.
    Taken {
        /// The service that both would publish.
        service: String,
        /// They.
        nodes: Vec<String>,
    },
    /// A single row is too large for a transaction.
    NoRoom,
    /// The old primary is back, and is not made one again.
    NotPromotedAgain(NotPromotedAgain),
    /// A stray primary is left alone.
    LeftAlone(LeftAlone),
    /// A primary without data is not replaced.
    NotReplaced(NotReplaced),
    /// The writer's process has ended, and it is left to the Sentinels to see that.
    NotFast(NotFast),
    /// A Sentinel or replica that is gone for good is not forgotten.
    NotForgotten(NotForgotten),
    /// These Sentinels have one id, and count as one.
    SameId(Vec<Address>),
    /// Sentinels do not let this agent tell them how an election ended, in these words.
    RelayRefused(Vec<(Address, String)>),
    /// There is no writer, and a Sentinel has given up the last failover that it began.
    GaveUp {
        /// The Sentinel that gave up.
        sentinel: Address,
        /// The event in which it said so.
        why: GaveUp,
        /// How long ago, in seconds.
        ago_s: u64,
        /// When Sentinels may try again, in seconds.
        again_s: u64,
    },
    /// The writer's data set has no mark of what is published.
    NotMarked(NotMarked),
    /// A priority is not as the order of zones has it.
    NotPreferred(NotPreferred),
    /// The safety layer forbids it.
    Refused(String),
    /// An instance answers at an address besides the one that the group knows it by.
    TwoAddresses {
        /// Where it answers as well.
        address: Address,
        /// The one that the group knows.
        of: Address,
    },
    /// A loopback address is registered for a group that is known elsewhere, or configured on this host.
    Loopback {
        /// The loopback address.
        address: Address,
        /// It stands in this agent's config.
        configured: bool,
    },
    /// The host is isolated, and the writes of its primary are held.
    Held(Address),
    /// The host is isolated, and its primary is a Redis that cannot hold its writes.
    NotHeld {
        /// The primary.
        instance: Address,
        /// Its version.
        version: String,
    },
    /// No tags, metadata and zones are shown, for these agents know none and would take them off again.
    WordsHidden(Vec<String>),
    /// The configs of agents have different tags, metadata or weights of the group. The first agent's are shown.
    WordsDiffer(Vec<(String, String)>),
    /// A key that operators write cannot be read.
    Ignored {
        /// Its path.
        key: String,
        /// What is wrong with it.
        error: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed { group, published, wanted } => write!(
                f,
                "published as service {published}, and the config says {wanted}: to rename it, run \
                 `consul-redis retire {group} --force`, after which the agents publish it as {wanted}"
            ),
            Self::StateUnreadable { key, error } => write!(f, "{key} is left alone: {error}"),
            Self::CatalogUnread => f.write_str("the catalog has not been read yet"),
            Self::ForeignNode(node) => {
                write!(
                    f,
                    "node {node} exists and is not this group's; use another prefix or group name, or rename it"
                )
            }
            Self::Taken { service, nodes } => write!(
                f,
                "service {service} is published by another node, {}: its name has two writers, or would have. Choose another \
                 service (--group NAME=SERVICE); where the group moves to another prefix, take it out of the old one first \
                 (consul-redis retire)",
                nodes.join(", ")
            ),
            Self::NoRoom => f.write_str("not even one more row fits into a transaction"),
            Self::NotPromotedAgain(why) => write!(f, "{why}"),
            Self::LeftAlone(left) => write!(f, "{left}"),
            Self::NotReplaced(why) => write!(f, "{why}"),
            Self::NotFast(why) => write!(f, "{why}"),
            Self::NotForgotten(why) => write!(f, "{why}"),
            Self::Paused(pause) => write!(f, "{pause}"),
            Self::SameId(sentinels) => same_id(f, sentinels),
            Self::RelayRefused(refusing) => relay_refused(f, refusing),
            Self::GaveUp { sentinel, why, ago_s, again_s } => {
                write!(f, "Sentinel {sentinel} gave up a failover {ago_s} s ago: {why}; ")?;
                match again_s {
                    0 => f.write_str("it may try again now"),
                    seconds => write!(f, "Sentinels try again in some {seconds} s"),
                }
            }
            Self::NotMarked(why) => write!(f, "{why}"),
            Self::NotPreferred(why) => write!(f, "{why}"),
            Self::Refused(veto) => write!(f, "refused: {veto}"),
            Self::TwoAddresses { address, of } => write!(
                f,
                "{address} and {of} are two addresses of one process: only {of} counts. Write {of} where {address} is \
                 configured or registered"
            ),
            Self::Loopback { address, configured } => {
                let is = if *configured { "configured here" } else { "registered" };
                write!(
                    f,
                    "{address} is {is} and ignored: it leads every host to itself, and the group is known at other \
                     addresses. Write the address that the Sentinels know in [[redis]]"
                )
            }
            Self::Held(instance) => write!(
                f,
                "this host sees neither Consul nor a majority of the Sentinels: the writes of {instance} are held, and its \
                 clients wait"
            ),
            Self::NotHeld { instance, version } => write!(
                f,
                "this host sees neither Consul nor a majority of the Sentinels, and {instance} takes writes that may be lost: \
                 Redis {version} cannot hold them (6.2 and later can). `min-replicas-to-write` 1 there refuses them"
            ),
            Self::WordsHidden(agents) => words_hidden(f, agents),
            Self::WordsDiffer(said) => words_differ(f, said),
            Self::Ignored { key, error } => write!(f, "{key} is ignored: {error}"),
        }
    }
}

fn same_id(f: &mut fmt::Formatter<'_>, sentinels: &[Address]) -> fmt::Result {
    let names: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
    write!(
        f,
        "Sentinels {} have the same id: they do not find one another, and count as one. Delete the line `sentinel myid` in \
         the config of all but one, and start those again",
        names.join(", ")
    )
}

/// The agents that know no words.
fn words_hidden(f: &mut fmt::Formatter<'_>, agents: &[String]) -> fmt::Result {
    write!(
        f,
        "the rows show no tags, meta, weights and zones of the config: agents of a version that knows none would take them off \
         again ({}). Upgrade them, or stop them",
        agents.join(", ")
    )
}

/// Each agent, and what its config says.
fn words_differ(f: &mut fmt::Formatter<'_>, said: &[(String, String)]) -> fmt::Result {
    f.write_str("agents have different tags, meta or weights of the group in their configs: ")?;
    for (place, (agent, words)) in said.iter().enumerate() {
        let shown = if place == 0 { " (which the rows show)" } else { "" };
        write!(f, "{agent} has {words}{shown}, ")?;
    }
    f.write_str("so write the same in [[group]] of each, and reload them (SIGHUP)")
}

/// Each Sentinel that refuses, and its words.
fn relay_refused(f: &mut fmt::Formatter<'_>, refusing: &[(Address, String)]) -> fmt::Result {
    let each: Vec<String> =
        refusing.iter().map(|(at, words)| format!("{at} (`{words}`)")).collect();
    write!(
        f,
        "Sentinels do not let this agent tell them how an election ended whose leader dies: {}. Give its user there +publish \
         and &__sentinel__:hello, or set relay = false; until then a new writer is published when a majority names it",
        each.join(", ")
    )
}

impl fmt::Display for NotReplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.loss)?;
        match &self.why {
            WhyNotReplaced::Unheard(unheard) => {
                write!(f, "{unheard}, which may hold more, does not answer yet")
            }
            WhyNotReplaced::NoMajority => f.write_str("no majority of the Sentinels answers"),
            WhyNotReplaced::StillFollows(address) => write!(f, "{address} has yet to let go of it"),
            WhyNotReplaced::NoReplica => {
                f.write_str("the Sentinels see no replica that they could choose")
            }
            WhyNotReplaced::WouldChoose(first) => write!(
                f,
                "the Sentinels would choose {first}, which does not hold it. Set `replica-priority 0` there (CONFIG \
                 SET), and lower it where the data is"
            ),
            WhyNotReplaced::NoSentinel(first) => {
                write!(f, "no Sentinel sees {first} and trusts its clock")
            }
        }
    }
}

impl fmt::Display for NotFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, end, why } = self;
        match end {
            End::Proven(pid) => write!(f, "process {pid} of {instance} has ended")?,
            End::Refused(_) => write!(f, "{instance} refuses connections")?,
        }
        write!(f, ", and it is left to the Sentinels: {why}")
    }
}

impl fmt::Display for WhyNotFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("the group is paused"),
            Self::SwitchedOff => f.write_str("fast_failover = \"off\""),
            Self::Switchover => f.write_str("a planned move is under way"),
            Self::Maintenance => f.write_str("it is in maintenance"),
            Self::NoMajority { heard, known } => {
                write!(f, "only {heard} of {known} known Sentinels answer")
            }
            Self::Failover => f.write_str("a failover is under way"),
            Self::DownAfter(ms) => write!(
                f,
                "with down-after-milliseconds {ms} they see it so soon that two failovers could collide"
            ),
            Self::AskedLately { ago_s } => write!(f, "one was asked for a failover {ago_s} s ago"),
            Self::AskedAtThisEpoch(epoch) => {
                write!(f, "one was asked for a failover at epoch {epoch} already")
            }
            Self::TooLate { ago_ms } => {
                write!(f, "it ended {ago_ms} ms ago, and they are about to see it themselves")
            }
            Self::LinksLost { ago_ms } => write!(
                f,
                "it died {ago_ms} ms ago, and Sentinels that are told to hurry choose no replica whose link is lost for so long"
            ),
            Self::NoReplica => {
                f.write_str("no replica that was in sync answers, and may be chosen")
            }
            Self::NoSentinel => {
                f.write_str("none that trusts its clock sees a replica that was in sync")
            }
            Self::NotAllRefused { refused, agents } => {
                write!(f, "{refused} of {agents} agents are refused")
            }
            Self::ReplicasSilent => f.write_str("no replica has answered since"),
            Self::Followed(replica) => write!(f, "{replica} has its link to it still"),
            Self::Connected { lost, known } => {
                write!(f, "only {lost} of {known} known Sentinels have lost their connection to it")
            }
            Self::TooFew => f.write_str("too few that trust their clocks name it"),
        }
    }
}

impl fmt::Display for NotForgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is gone for good, and not forgotten yet: {}", self.stale_peer, self.why)
    }
}

impl fmt::Display for NotAtRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingPublished => f.write_str("nothing is published"),
            Self::NoWriter => f.write_str("there is no writer"),
            Self::Unconfirmed(writer) => write!(f, "{writer} is not confirmed by a majority"),
            Self::NotPrimary(writer) => {
                write!(f, "{writer} does not say that it is the primary")
            }
            Self::Blank(sentinel) => write!(f, "Sentinel {sentinel} does not know the group"),
            Self::Busy(sentinel) => write!(f, "Sentinel {sentinel} is not at rest"),
            Self::NoMajority => f.write_str("no majority answers"),
            Self::MayBeAlive(sentinel) => write!(f, "Sentinel {sentinel} may be alive"),
            Self::PeerUnknown { sentinel, peer } => {
                let peer = peer.as_ref().map(ToString::to_string).unwrap_or_default();
                write!(f, "Sentinel {sentinel} does not know {peer} yet")
            }
            Self::ReplicaUnknown { sentinel, replica } => {
                write!(f, "Sentinel {sentinel} does not know replica {replica} yet")
            }
        }
    }
}

/// What is said of a writer whose replication history does not continue the last writer's.
const UNRELATED: &str =
    ", with a new replication history, as after a restart from an append-only file or a restore";

impl fmt::Display for PublishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Majority { votes, known, epoch, unrelated } => {
                write!(f, "named by {votes} of {known} Sentinels at epoch {epoch}")?;
                if *unrelated {
                    f.write_str(UNRELATED)?;
                }
                Ok(())
            }
            Self::Promotion { leader, forced: true, .. } => {
                write!(f, "promoted by SENTINEL FAILOVER on {leader}")
            }
            Self::Promotion { epoch: Some(epoch), .. } => {
                write!(f, "promoted by Sentinel epoch {epoch}")
            }
            Self::Promotion { leader, .. } => write!(f, "promoted by Sentinel {leader}"),
            Self::First => f.write_str("the first primary: no Sentinel knew of one"),
            Self::Relocated => {
                f.write_str("it has the data, and the Sentinels know no address that answers")
            }
            Self::Again => f.write_str(
                "it was the last writer and has the data, and the Sentinels that do not name it were made anew",
            ),
        }
    }
}

impl fmt::Display for WithdrawReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down { writer, votes, known } => {
                write!(f, "{writer} is down, say {votes} of {known} Sentinels")
            }
            Self::OutOfReach { writer, heard, known } => write!(
                f,
                "{writer} answers neither us nor any of the {heard} of {known} Sentinels that answer, and they do not \
                 replace it"
            ),
            Self::IsReplica { writer, of } => {
                write!(f, "{writer} says it is a replica of {of} now")
            }
            Self::Died { writer, pid, sentinel } => write!(
                f,
                "process {pid} of {writer} has ended, and Sentinel {sentinel} is asked for a failover"
            ),
            Self::DataLoss(why) => write!(f, "{why}"),
            Self::Unconfirmed { writer, within_ms } => {
                write!(f, "no majority confirmed {writer} within {within_ms} ms")
            }
            Self::Displaced { writer, by: Some(by) } => {
                write!(f, "the majority left {writer} for {by}, which cannot be published")
            }
            Self::Displaced { writer, by: None } => {
                write!(f, "the Sentinels are split over {writer}")
            }
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsulUnread => f.write_str("Consul has not answered yet"),
            Self::StateUnreadable(error) => write!(f, "the `state` key is left alone: {error}"),
            Self::NotOurs(why) => write!(f, "{why}"),
            Self::Confirmed { writer, votes, known, epoch } => {
                write!(f, "writer {writer}, named by {votes} of {known} Sentinels at epoch {epoch}")
            }
            Self::AwaitingConfirmation(writer) => {
                write!(f, "writer {writer}, promoted, not yet confirmed by a majority")
            }
            Self::Holding(writer, not_yet) => write!(f, "writer {writer} stays: {not_yet}"),
            Self::Promoting(address) => write!(f, "{address} is being made the primary"),
            Self::NoFirst(why) => write!(f, "{why}"),
            Self::NotRelocated(why) => write!(f, "no writer: {why}"),
            Self::NotAgain(why) => write!(f, "no writer: {why}"),
            Self::NoWriter(not_yet) => write!(f, "no writer: {not_yet}"),
        }
    }
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[Address]| {
            let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let key = match self {
            Self::Installation { key, recorded, ours } => {
                write!(f, "group {key} belongs to installation `{recorded}`, and this agent to ")?;
                match ours {
                    Some(ours) => write!(f, "`{ours}`")?,
                    None => f.write_str("none")?,
                }
                key
            }
            Self::Sentinels { key, writer, recorded, by, heard, named } => {
                write!(f, "another group is published as {key}, by {by}")?;
                if let Some(writer) = writer {
                    write!(f, ": its last writer is {writer}")?;
                }
                if !recorded.is_empty() {
                    write!(f, ", its Sentinels are {}", list(recorded))?;
                }
                write!(f, ". The Sentinels here are others: {}", list(heard))?;
                if let Some(named) = named {
                    write!(f, ", which name {named}")?;
                }
                key
            }
        };
        write!(
            f,
            ". Nothing is published or changed from here. Give this group another name (in Sentinel, and as --group), or \
             publish it elsewhere (--group {key}=SERVICE with another --prefix). "
        )?;
        if matches!(self, Self::Installation { .. }) {
            f.write_str("If this agent belongs there, set `installation` in its config; if")?;
        } else {
            f.write_str("If")?;
        }
        write!(f, " the group was moved here, run `consul-redis adopt {key}`")
    }
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSentinels { answer: 0, .. } => {
                f.write_str("no Sentinel that knows the group answers")
            }
            Self::NoSentinels { answer, group, others } => {
                write!(f, "{answer} Sentinels answer; none knows `{group}`")?;
                let names: Vec<&str> = others.iter().map(GroupName::as_str).collect();
                if names.is_empty() {
                    return Ok(());
                }
                write!(f, "; they know: {}", names.join(", "))
            }
            Self::NoMajority { heard, known } => {
                write!(f, "no majority ({heard} of {known} Sentinels answer)")
            }
            Self::Down(a) => write!(f, "the Sentinels name {a} and agree that it is down"),
            Self::BeingReplaced(a) => write!(f, "a failover is replacing {a}"),
            Self::Refuses(a, why) => write!(f, "{a} {why}"),
            Self::Unproven(a, why) => write!(f, "{a} could not be asked: {why}"),
            Self::DataLoss(why) => write!(f, "{why}"),
            Self::Contested(a, rival) => {
                write!(f, "{a} and {rival} are both named at one epoch and both take writes")
            }
            Self::OldEpoch(a, epoch) => write!(f, "{a} is only named at the old epoch {epoch}"),
            Self::LowerEpoch(a, epoch) => {
                write!(f, "{a} is named at epoch {epoch}, lower than recorded")
            }
        }
    }
}

impl fmt::Display for NoFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => {
                f.write_str("no first primary: bootstrap = false leaves it to the operator")
            }
            Self::Sentinels { answered, of } => {
                write!(f, "no first primary: {answered} of {of} Sentinels answer")
            }
            Self::Waiting { answered, expect: Some(expect) } => {
                write!(f, "no first primary: {answered} of {expect} expected instances answer")
            }
            Self::Waiting { answered, expect: None } => write!(
                f,
                "no first primary: {answered} instances answer, others may follow (set `expect`)"
            ),
            Self::NotReady(address, error) => {
                write!(f, "no first primary: {address} answers `{error}`, and may have more data")
            }
            Self::Diverged(a, b) => write!(
                f,
                "no first primary: the data of {a} and {b} has gone different ways, and neither is \
                 recorded as the last writer. Decide which is to lead, and run SENTINEL MONITOR with \
                 its address, or empty the other"
            ),
        }
    }
}

impl fmt::Display for NotRelocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NoCase {
            return f.write_str("the group was not relocated");
        }
        f.write_str("no address that the Sentinels know answers; ")?;
        match self {
            Self::NoCase => Ok(()),
            Self::SwitchedOff => f.write_str("bootstrap or tell_sentinels = false leaves it to the operator"),
            Self::Sentinels { answered, of } => write!(f, "{answered} of {of} Sentinels answer"),
            Self::Waiting { answered, of } if answered >= of => write!(
                f,
                "{answered} instances that they do not know answer, and one of them is about to lead"
            ),
            Self::Waiting { answered, of } => write!(
                f,
                "{answered} of {of} instances that they do not know answer, and others are waited for"
            ),
            Self::NotReady(address, error) => {
                write!(f, "{address} answers `{error}`, and may have more data")
            }
            Self::NeverToLead => f.write_str(
                "the instance with the most data elsewhere has `replica-priority 0`. Set another one where you want the primary",
            ),
            Self::Rival(best, rival) => write!(
                f,
                "{best} holds the most data, and {rival} is a primary with data. If that is of no use, run REPLICAOF there"
            ),
            Self::Unrelated(address, keys) => write!(
                f,
                "{address} holds {keys} keys of a history that is not known to be the group's. If they are, run \
                 REPLICAOF NO ONE there, and SENTINEL REMOVE and SENTINEL MONITOR with its address on every Sentinel"
            ),
            Self::Diverged(a, b) => write!(
                f,
                "the data of {a} and {b} has gone different ways. Decide which is to lead, run REPLICAOF NO ONE \
                 there, and SENTINEL REMOVE and SENTINEL MONITOR with its address on every Sentinel"
            ),
        }
    }
}

impl fmt::Display for NotAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("most Sentinels were made anew and do not know the group; ")?;
        match self {
            Self::SwitchedOff => {
                f.write_str("bootstrap or tell_sentinels = false leaves it to the operator")
            }
            Self::Waiting(last) => write!(f, "{last} is about to be named again"),
            Self::NotReady(last, error) => write!(f, "{last} answers `{error}`"),
            Self::Unheard(other) => write!(f, "{other}, which may hold more, does not answer"),
            Self::Rival(rival) => write!(f, "{rival} says that it is the primary"),
            Self::Behind { last, than } => write!(
                f,
                "{last}, which the others name, holds less than {than}. Decide which is to lead: run REPLICAOF NO ONE there, and \
                 SENTINEL REMOVE and SENTINEL MONITOR with its address on every Sentinel"
            ),
        }
    }
}

impl fmt::Display for NotPromotedAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => {
                f.write_str("the old primary is back; bootstrap = false leaves it to the operator")
            }
            Self::NoCase => f.write_str("no primary has come back detached"),
            Self::BeingReplaced => f.write_str("the Sentinels are replacing the old primary"),
            Self::Rival(rival) => write!(f, "{rival} says that it is the primary"),
            Self::NotReady(old) => write!(f, "{old} is back, and not ready yet"),
            Self::Unheard(other) => {
                write!(
                    f,
                    "the old primary is back, and {other}, which may hold more, does not answer"
                )
            }
            Self::Behind { old, than } => {
                write!(f, "{old} is back with less data than {than}: left to the Sentinels")
            }
        }
    }
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.instance;
        match &self.why {
            WhyLeft::Unrelated { keys, mark } => {
                let mark = in_brackets(mark.as_ref());
                write!(
                    f,
                    "{address} is a primary with {keys} keys of an unrelated history{mark}: neither published, nor \
                     made a replica, which would delete them. If they are of no use, run REPLICAOF there"
                )
            }
            WhyLeft::Unproven { until, writer, append_only, holds, mark, .. } => {
                let mark = in_brackets(mark.as_ref());
                let was = match until {
                    Some(generation) => format!("was the writer until generation {generation}"),
                    None => "was an instance of this group".to_owned(),
                };
                let what = match append_only {
                    true => "its append-only file",
                    false => "a snapshot, as Redis before 7.0 reads it,",
                };
                let held = match holds {
                    true => "are held",
                    false => "cannot be held before Redis 6.2",
                };
                write!(
                    f,
                    "{address} {was} and is a primary again; {what} cannot prove whose data it holds{mark}. Its \
                     writes {held} and its data is not touched. If the data is of no use, run REPLICAOF {} {} there",
                    writer.host(),
                    writer.port()
                )
            }
            WhyLeft::WriterIsEmpty { writer, keys } => write!(
                f,
                "{address} holds {keys} keys and the writer {writer} none: it is not made a replica, which would \
                 delete them. If they are of no use, run REPLICAOF there; if they are, make a copy before \
                 Sentinel does"
            ),
            WhyLeft::Stranger => write!(
                f,
                "{address} is a blank primary that only a minority of the Sentinels takes for this group's"
            ),
            WhyLeft::MayBePromoted => {
                write!(f, "{address} is a stray primary, and Sentinels may be promoting it")
            }
            WhyLeft::NoCertainWriter(why) => {
                write!(f, "{address} is a stray primary, and {why}")
            }
            WhyLeft::SwitchedOff => {
                write!(
                    f,
                    "{address} is a stray primary, and it is left to Sentinel (fence = false, manage = false, or a pause)"
                )
            }
        }
    }
}

/// What a mark says, behind what it is about.
fn in_brackets(mark: Option<&NoProof>) -> String {
    mark.map(|mark| format!(" ({mark})")).unwrap_or_default()
}

impl fmt::Display for NoProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it has no mark"),
            Self::Other => f.write_str("the key of its mark holds something else"),
            Self::Unread(words) => write!(f, "its mark cannot be read: {words}"),
            Self::Anothers(mark) => {
                write!(f, "its mark is of group {}", mark.group)?;
                if let Some(prefix) = &mark.prefix {
                    write!(f, " below {prefix}")?;
                }
                if let Some(installation) = &mark.installation {
                    write!(f, " of installation {installation}")?;
                }
                write!(f, ", generation {}", mark.generation)
            }
            Self::Later { generation, published } => {
                write!(f, "its mark is of generation {generation}, and {published} is published")
            }
            Self::UnknownHistory { generation } => write!(
                f,
                "its mark is of generation {generation}, and names a history that is none of the last writers'"
            ),
            Self::LeadsOthers => f.write_str("it has replicas that the group does not know"),
            Self::NoPlace => f.write_str("the group does not know its address"),
        }
    }
}

impl fmt::Display for NotMarked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writer, generation, key, why } = self;
        write!(
            f,
            "the data set of the writer {writer} has no mark of generation {generation} in its key {key}: {why}. Until it \
             has, an old primary with an append-only file may only be held when it comes back"
        )
    }
}

impl fmt::Display for WhyNotMarked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str(
                "the key holds something that is no mark, which is left as it is (choose another key in `mark`)",
            ),
            Self::Unread(words) => {
                write!(f, "this login may not read it (`{words}`: it needs +getrange, +set and the key)")
            }
            Self::Unwritten(words) => write!(f, "it could not be written (`{words}`)"),
            Self::TooLong => f.write_str("prefix and installation are too long for one"),
            Self::Late => f.write_str("no agent has written it"),
        }
    }
}

impl fmt::Display for NotPreferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, had, priority, why } = self;
        write!(
            f,
            "the replica-priority of {instance} is {had}, and by prefer_zones it is to be {priority}: "
        )?;
        match why {
            WhyNotPreferred::Refused(words) => {
                write!(f, "it could not be set (`{words}`: the agents' user needs +config|set)")
            }
            WhyNotPreferred::Another(agent) => write!(
                f,
                "agent {agent} stands beside it, too, and its config alone counts. Have one agent beside each instance, or \
                 the same zone and prefer_zones in all of them"
            ),
        }
    }
}

impl fmt::Display for WhyDataLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = &self.primary;
        if let Some((holder, keys)) = &self.holder {
            return write!(
                f,
                "{primary} came back without its data, and {holder} holds {keys} keys"
            );
        }
        let unheard: Vec<String> = self.unheard.iter().map(ToString::to_string).collect();
        let unheard = unheard.join(", ");
        write!(f, "{primary} came back without its data, and {unheard} may hold it")
    }
}

impl fmt::Display for StalePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sentinel(_, address) => write!(f, "Sentinel {address}"),
            Self::Replica(address) => write!(f, "replica {address}"),
        }
    }
}
