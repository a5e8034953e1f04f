//! What was read from the world: values with the time they were asked for, no opinions.
//!
//! A read that failed is *unknown*, never *down*: [`Reading::result`] keeps the error so that a
//! person can see it, and every rule treats it as no answer at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::identity::address::{Address, GroupName};
pub use crate::identity::ids::{ReplId, SentinelId};
use crate::identity::mark::FoundMark;
use crate::published::projection::{Layout, Rows, is_of_another_group};
use crate::published::record::Record;
pub use crate::published::store::{Continued, Key, SeenHistory, StoreAnswer, StoredState};
use crate::time::Mono;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading<T> {
    /// When the question was sent. What the answer says was true no earlier than this.
    pub asked: Mono,
    /// When the answer, or the failure, arrived.
    pub answered: Mono,
    /// The answer, or why there is none.
    pub result: Result<T, String>,
}

impl<T> Reading<T> {
    /// The answer, if it was asked for at `since` or later.
    pub fn since(&self, since: Mono) -> Option<&T> {
        if self.asked < since { None } else { self.result.as_ref().ok() }
    }
}

/// Everything one agent knows of one group.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The last reading of each Sentinel, by the address we reach it at.
    pub sentinels: BTreeMap<Address, Reading<SentinelAnswer>>,
    /// The last answer of each Sentinel whose last reading is a failure: a Sentinel that times out may still lead a
    /// failover.
    pub sentinels_answered: BTreeMap<Address, Reading<SentinelAnswer>>,
    /// The last reading of each instance, by the address Sentinel announces.
    pub instances: BTreeMap<Address, Reading<InstanceAnswer>>,
    /// The instances that node-mode agents have registered for the group (`<service>-server`).
    pub registered: BTreeSet<Address>,
    /// The group's keys in Consul, once they have been read.
    pub store: Option<StoreAnswer>,
    /// The rows on the group's synthetic node, once they have been read.
    pub rows: Option<RowsAnswer>,
    /// The processes of this host's instances, as far as its kernel tells of them.
    pub processes: BTreeMap<Address, ProcessState>,
    /// The last process of each of this host's instances whose end was proven.
    pub deaths: BTreeMap<Address, Death>,
    /// The instances that refuse this agent's connections since they closed the one that it had.
    pub refusals: BTreeMap<Address, Refusal>,
}

impl Observed {
    /// The published record, when there is one that can be read.
    pub fn record(&self) -> Option<&Record> {
        self.store.as_ref()?.record()
    }

    /// Takes a Sentinel's answer, or its failure to answer, unless a later question has been answered already.
    pub fn see_sentinel(&mut self, address: Address, reading: Reading<SentinelAnswer>) {
        let known = self.sentinels.get(&address);
        if known.is_some_and(|old| old.asked > reading.asked) {
            return;
        }
        if reading.result.is_ok() {
            self.sentinels_answered.remove(&address);
        }
        let silent = reading.result.is_err();
        let before = self.sentinels.insert(address.clone(), reading);
        self.name_sentinels();
        self.keep_name(&address, before.as_ref());
        if let Some(answered) = before.filter(|old| silent && old.result.is_ok()) {
            self.sentinels_answered.insert(address, answered);
        }
    }

    /// While no other lists it, a Sentinel that does not say its id keeps the one that this process was known by.
    fn keep_name(&mut self, at: &Address, before: Option<&Reading<SentinelAnswer>>) {
        let before = before.and_then(|reading| reading.result.as_ref().ok());
        let now = self.sentinels.get_mut(at).and_then(|reading| reading.result.as_mut().ok());
        if let (Some(now), Some(before)) = (now, before)
            && now.is_unnamed()
            && now.process == before.process
        {
            now.id = before.id.clone();
        }
    }

    /// Gives Sentinels before 6.2, which do not say their id and answer with their process, the id by which the others
    /// list them at their address: it is what peers, votes and the record know them by.
    pub fn name_sentinels(&mut self) {
        let mut listed: BTreeMap<Address, BTreeMap<SentinelId, usize>> = BTreeMap::new();
        let answers = self.sentinels.values().filter_map(|reading| reading.result.as_ref().ok());
        for peer in answers.filter_map(|answer| answer.group.as_ref()).flat_map(|g| &g.peers) {
            *listed.entry(peer.address.clone()).or_default().entry(peer.id.clone()).or_default() +=
                1;
        }
        for (at, reading) in &mut self.sentinels {
            let Ok(answer) = &mut reading.result else { continue };
            let ids = listed.get(at).filter(|_| answer.is_unnamed());
            if let Some((id, _)) = ids.and_then(|ids| ids.iter().max_by_key(|(_, count)| **count)) {
                answer.id = id.clone();
            }
        }
    }

    /// A Sentinel is no longer among those to ask.
    pub fn dismiss_sentinel(&mut self, address: &Address) {
        self.sentinels.remove(address);
        self.sentinels_answered.remove(address);
    }
}

/// That an instance closed the connection that an agent had, and that its host has refused each one since: twice at
/// least, some time apart. It is no proof: what stands before the instance may do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The `run_id` of the process that closed it.
    pub run_id: String,
    /// When.
    pub since: Mono,
    /// When it last refused one.
    pub latest: Mono,
}

/// That the process of an instance has ended, as its host's kernel says. Nothing else is one of these: no closed
/// connection, no refusal and no silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The `run_id` of the process.
    pub run_id: String,
    /// Its process id.
    pub pid: u32,
    /// What the kernel said it by.
    pub kind: ProofKind,
    /// When.
    pub at: Mono,
}

/// What the end of a process is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofKind {
    /// A handle of the process (`pidfd`), taken while it answered and owned the socket that it listens on.
    Process,
    /// The same, of a child of this very process (`exec`).
    Child,
}

impl ProofKind {
    /// As the label `kind` and the record have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Child => "child",
        }
    }
}

/// What the writer's death is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathSign {
    /// Its host's kernel says so.
    Proven(ProofKind),
    /// It refuses connections ([`Refusal`]), and all else speaks for it: the Sentinels are to look for themselves.
    Refused,
}

impl DeathSign {
    /// As the label `kind` and the record have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven(kind) => kind.as_str(),
            Self::Refused => "refused",
        }
    }
}

impl Death {
    /// What it is taken from.
    pub fn sign(&self) -> DeathSign {
        DeathSign::Proven(self.kind)
    }
}

/// What this host's kernel tells of one of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// Its end is told at once.
    Watched {
        /// The `run_id` of the process.
        run_id: String,
        /// Its process id.
        pid: u32,
    },
    /// Its end would not be told: why.
    Unseen(String),
    /// It has ended.
    Ended(Death),
}

/// What of [`ProcessState::end_seen`] is well.
pub const SEEN_AT_ONCE: &str = "at once";

impl ProcessState {
    /// Whether its end would be seen: [`SEEN_AT_ONCE`], or why not; `None` once it has ended.
    pub fn end_seen(&self) -> Option<&str> {
        match self {
            Self::Watched { .. } => Some(SEEN_AT_ONCE),
            Self::Unseen(why) => Some(why),
            Self::Ended(_) => None,
        }
    }
}

/// What one Sentinel says about itself and one group.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelAnswer {
    /// Its `SENTINEL MYID`.
    pub id: SentinelId,
    /// Its process (`run_id`), where it says so: two with one id are copies.
    pub process: Option<String>,
    /// It is in TILT: its opinions on what is down do not count, its votes do (`docs/facts/sentinel.md` 5).
    pub tilt: bool,
    /// What it says of the group; `None` when it does not monitor it.
    pub group: Option<SentinelGroup>,
    /// Which groups it monitors, where it does not monitor this one.
    pub others: Vec<GroupName>,
    /// Its words when it does not let this agent say a hello to it (`PUBLISH __sentinel__:hello`); `None` as well where
    /// it was not asked.
    pub refuses_relay: Option<String>,
}

impl SentinelAnswer {
    /// The epochs at which its peers have voted for it, as far as it knows: for its failover, or for one before.
    pub fn votes(&self) -> impl Iterator<Item = u64> {
        let peers = self.group.iter().flat_map(|group| &group.peers);
        let voted = peers.filter_map(|peer| peer.voted.as_ref());
        voted.filter(|(id, _)| id == &self.id).map(|(_, epoch)| *epoch)
    }

    /// It has said its process, and no id.
    fn is_unnamed(&self) -> bool {
        self.process.as_ref() == Some(&self.id.0)
    }
}

/// `GET-MASTER-ADDR-BY-NAME`, `MASTER`, `REPLICAS` and `SENTINELS` of one group, read in one write.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelGroup {
    /// The primary it announces (`GET-MASTER-ADDR-BY-NAME`). The only address that goes with
    /// `config_epoch` (`docs/facts/sentinel.md` 0.1).
    pub primary: Address,
    /// The address that `down` and `failover` are about (`SENTINEL MASTER`): still the old one
    /// while the leader reconfigures replicas.
    pub monitored: Address,
    /// The epoch of the configuration it announces.
    pub config_epoch: u64,
    /// Its opinion on `monitored`.
    pub down: DownOpinion,
    /// Its flags for `monitored` are `master` and nothing else: nothing is going on.
    pub only_master_flag: bool,
    /// It has lost its connection to `monitored`.
    pub disconnected: bool,
    /// The failover it leads, if it leads one.
    pub failover: Option<FailoverPhase>,
    /// That failover was forced by `SENTINEL FAILOVER` and needed no election, as it says from Redis 7.0 on.
    pub failover_forced: bool,
    /// How many other Sentinels it knows for this group, reachable or not.
    pub other_sentinels: usize,
    /// Its settings for the group.
    pub settings: SentinelSettings,
    /// The replicas it lists.
    pub replicas: Vec<SentinelReplica>,
    /// The other Sentinels it lists.
    pub peers: Vec<SentinelPeer>,
}

impl SentinelGroup {
    /// It lists this replica, and does not call it down.
    pub fn sees(&self, address: &Address) -> bool {
        self.replicas.iter().any(|replica| &replica.address == address && !replica.s_down)
    }

    /// It leads a failover that does not end by itself: the replica that it has promoted is down
    /// (`docs/facts/sentinel.md` 13).
    pub fn is_stuck(&self) -> bool {
        let promoted = self.replicas.iter().any(|replica| replica.promoted && replica.s_down);
        promoted && self.failover >= Some(FailoverPhase::ReconfReplicas)
    }
}

/// How far one Sentinel's opinion of a primary's death has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DownOpinion {
    /// Neither flag is set.
    Up,
    /// `s_down`: it gets no answer itself.
    Subjective,
    /// `o_down`: a quorum of Sentinels gets no answer.
    Objective,
}

/// The failover state machine of a leading Sentinel (`failover-state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverPhase {
    /// Waiting to be elected.
    WaitStart,
    /// Elected, choosing a replica.
    SelectReplica,
    /// A replica is chosen and is about to get `SLAVEOF NO ONE`.
    SendReplicaofNoOne,
    /// It got the command; the leader waits until it reports the role.
    WaitPromotion,
    /// Promoted; pointing the others at it.
    ReconfReplicas,
    /// Done; about to switch its own table.
    UpdateConfig,
}

impl FailoverPhase {
    /// The phase, from the text of `failover-state`. `none` and unknown texts give `None`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "wait_start" => Self::WaitStart,
            "select_slave" => Self::SelectReplica,
            "send_slaveof_noone" => Self::SendReplicaofNoOne,
            "wait_promotion" => Self::WaitPromotion,
            "reconf_slaves" => Self::ReconfReplicas,
            "update_config" => Self::UpdateConfig,
            _ => return None,
        })
    }

    /// The leader was elected: `sentinelFailoverWaitStart` lets no Sentinel past without a majority,
    /// or without being forced.
    pub fn elected(self) -> bool {
        self > Self::WaitStart
    }
}

/// The per-group settings of one Sentinel. Sentinels do not share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SentinelSettings {
    /// How many Sentinels must agree that a primary is down.
    pub quorum: u64,
    /// Silence after which it calls an instance down, in ms.
    pub down_after_ms: u64,
    /// Bound on each phase of a failover, in ms.
    pub failover_timeout_ms: u64,
    /// Replicas pointed at a new primary at the same time.
    pub parallel_syncs: u64,
}

/// One row of `SENTINEL REPLICAS`.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelReplica {
    /// Where the replica listens.
    pub address: Address,
    /// This Sentinel gets no answer from it. One that answers PING with an error other than `LOADING` and `MASTERDOWN`
    /// is called down as well (a full disk: `MISCONF`), and is not down here (`docs/facts/sentinel.md` 8).
    pub s_down: bool,
    /// The failover this Sentinel leads has chosen it.
    pub promoted: bool,
    /// Its `replica-priority`, as this Sentinel last read it: up to 10 s ago.
    pub priority: Option<u64>,
}

/// One row of `SENTINEL SENTINELS`.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelPeer {
    /// Where the peer listens.
    pub address: Address,
    /// The peer's `SENTINEL MYID`.
    pub id: SentinelId,
    /// This Sentinel gets no answer from it.
    pub s_down: bool,
    /// Which Sentinel the peer voted for, and in which epoch, as far as this one knows.
    pub voted: Option<(SentinelId, u64)>,
}

/// What one Redis says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceAnswer {
    /// Its role, with what only that role knows.
    pub role: Role,
    /// `None` when PING said PONG, else the error it gave (`LOADING ...`, `MASTERDOWN ...`).
    pub not_ready: Option<String>,
    /// A `FAILOVER` is running on it (`master_failover_state`, Redis 6.2 and later).
    pub failover_running: bool,
    /// `run_id`: it changes with each start of the process.
    pub run_id: String,
    /// The path of the config file that it was started with; empty without one.
    pub config_file: String,
    /// Version text, e.g. `7.0.15`.
    pub version: String,
    /// The history it writes or follows.
    pub replid: ReplId,
    /// The history before the last promotion, when there was one.
    pub replid2: Option<ReplId>,
    /// Where `replid` began: the first offset that is not `replid2`'s (`second_repl_offset`).
    pub forked_at: Option<u64>,
    /// How far it has come in `replid`, in bytes.
    pub offset: u64,
    /// Keys in all its databases, without the mark.
    pub keys: u64,
    /// What its data set says of whose data it is, where that is asked for.
    pub mark: FoundMark,
    /// It had no data when it was started, and keeps no append-only file: all its keys were written since.
    pub started_empty: bool,
    /// It keeps an append-only file, and what it was started with is from that: such a file does not hold which history
    /// its data belongs to (`docs/facts/sentinel.md` 8).
    pub append_only: bool,
    /// Sentinels are to show it to others (`replica-announced`). They choose one that is not announced all the same.
    pub announced: bool,
    /// How long its process has run, in seconds.
    pub uptime_s: u64,
    /// Its priority in elections, 0 for never; only a replica says it.
    pub priority: Option<u64>,
    /// How long a replica has had no link to its primary, in seconds; none while it has one, and before it first had.
    pub link_down_s: Option<u64>,
    /// Why it refuses writes although it is a primary and ready, as far as INFO says so (`NOREPLICAS ...`, `OOM ...`).
    pub refuses_writes: Option<String>,
}

impl InstanceAnswer {
    /// It says that it is a primary.
    pub fn is_primary(&self) -> bool {
        matches!(self.role, Role::Primary { .. })
    }

    /// It says that it is a replica, with a link or without one.
    pub fn is_replica(&self) -> bool {
        matches!(self.role, Role::Replica { .. })
    }

    /// It says that it is a replica whose link to its primary is up.
    pub fn is_linked(&self) -> bool {
        matches!(self.role, Role::Replica { link_up: true, .. })
    }

    /// It says that it is a replica whose link to its primary is down.
    pub fn is_detached(&self) -> bool {
        matches!(self.role, Role::Replica { link_up: false, .. })
    }

    /// It says that it is a replica of this one.
    pub fn follows(&self, primary: &Address) -> bool {
        matches!(&self.role, Role::Replica { of, .. } if of == primary)
    }

    /// It has taken no writes of its own that it would lose as a replica of another one: it is blank, or a replica whose
    /// link is down.
    pub fn loses_nothing(&self) -> bool {
        self.is_detached() || (self.is_primary() && self.keys == 0 && self.shows_its_data())
    }

    /// It is a primary that lists this replica, in sync or not.
    pub fn lists(&self, address: &Address) -> bool {
        match &self.role {
            Role::Primary { replicas } => {
                replicas.iter().any(|replica| &replica.address == address)
            }
            Role::Replica { .. } => false,
        }
    }

    /// Nothing speaks against taking what it shows of its data for all that it has. A replica that serves nothing stale
    /// (`replica-serve-stale-data no`) refuses PING while it is detached, and is well.
    pub fn shows_its_data(&self) -> bool {
        self.not_ready.as_deref().is_none_or(|error| error.contains("MASTERDOWN"))
    }

    /// It refuses writes, and PING with them, since it cannot save its data: its disk is full, say. It serves reads.
    pub fn cannot_save(&self) -> bool {
        self.not_ready.as_deref().is_some_and(|error| error.starts_with("MISCONF"))
    }

    /// What its own agent notes of it: the history that it leads, or follows with its link up.
    pub fn seen(&self) -> Option<SeenHistory> {
        let led = self.is_primary();
        ((led || self.is_linked()) && self.not_ready.is_none() && self.keys > 0).then(|| {
            SeenHistory {
                of: self.replid.clone(),
                led,
                offset: self.offset,
                run_id: self.run_id.clone(),
                config_file: self.config_file.clone(),
            }
        })
    }

    /// It is a primary, and was not promoted a moment ago: a promotion keeps the history that it followed before as its
    /// second one (`master_replid2`), until it has had no replica for `repl-backlog-ttl` (an hour).
    pub fn not_lately_promoted(&self) -> bool {
        self.is_primary() && self.replid2.is_none()
    }

    /// Where it restarted as a primary, it does not know whose history its data is of: an append-only file does not
    /// hold that, and Redis before 7.0 reads it from a snapshot only as a replica (`docs/facts/sentinel.md` 19).
    pub fn forgets_history(&self) -> bool {
        let primary = self.is_primary();
        self.append_only || (primary && self.is_before((7, 0)))
    }

    /// Its writes can be held alone: Redis before 6.2 has no `CLIENT PAUSE ... WRITE`.
    pub fn can_hold_writes(&self) -> bool {
        !self.is_before((6, 2))
    }

    /// Its version is older than this one. What cannot be read is new.
    fn is_before(&self, least: (u32, u32)) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>());
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < least,
            _ => false,
        }
    }

    /// It answers reads, as far as PING tells.
    pub fn serves_reads(&self) -> bool {
        self.not_ready.is_none() || self.cannot_save()
    }
}

/// `ROLE`, in today's words.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// It accepts writes.
    Primary {
        /// What it says of each replica that is connected to it.
        replicas: Vec<ConnectedReplica>,
    },
    /// It follows another instance.
    Replica {
        /// The instance it follows.
        of: Address,
        /// Whether the link is up (`connected`): not while it connects or copies.
        link_up: bool,
    },
}

/// One `slaveN:` line of a primary's INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectedReplica {
    /// Where the replica listens, as it announced itself.
    pub address: Address,
    /// `state=online`: the initial sync is over.
    pub online: bool,
    /// The last offset it acknowledged, in bytes.
    pub offset: u64,
    /// Seconds since that acknowledgement.
    pub lag_s: u64,
}

/// Why a Sentinel gave up a failover: its own event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// `-failover-abort-no-good-slave`.
    NoGoodReplica,
    /// `-failover-abort-not-elected`.
    NotElected,
    /// `-failover-abort-slave-timeout`.
    TimedOut,
}

impl GaveUp {
    /// What the event of this name says.
    pub fn of_event(name: &str) -> Option<Self> {
        match name {
            "-failover-abort-no-good-slave" => Some(Self::NoGoodReplica),
            "-failover-abort-not-elected" => Some(Self::NotElected),
            "-failover-abort-slave-timeout" => Some(Self::TimedOut),
            _ => None,
        }
    }
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoGoodReplica => {
                "it sees no replica that it could choose: each is down, has had no link for too long, was not heard for \
                 too long, or has replica-priority 0"
            }
            Self::NotElected => "no majority of the Sentinels elected it: do they hear one another?",
            Self::TimedOut => "the replica that it chose did not become the primary in time",
        })
    }
}

/// The catalog rows found on the group's synthetic node.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsAnswer {
    /// When the rows were asked for.
    pub asked: Mono,
    /// The node, or `None` when it does not exist.
    pub found: Option<Rows>,
    /// The node exists and is not ours: some other program uses its name.
    pub foreign: bool,
    /// The nodes that show the service of the group's writer.
    pub others: BTreeSet<String>,
}

impl RowsAnswer {
    /// The node that has the name of the group's is another's: of another program, or of another group of ours.
    pub fn is_anothers(&self, layout: &Layout) -> bool {
        self.foreign || self.found.as_ref().is_some_and(|rows| is_of_another_group(rows, layout))
    }
}

/// Which group on which Sentinel a question is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The Sentinel whose vote it is.
    pub sentinel: Address,
    /// The group that its vote is about.
    pub group: GroupName,
}
