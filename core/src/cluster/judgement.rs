//! From what the nodes answer to which of them can take requests, and why the others cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::migration::{self, SlotMigration};
use super::slots::{SLOTS, SlotRange, append, count, in_words};
use super::table::{NodeId, Table, TableRole, TableRow};
use crate::identity::address::Address;

/// How long a replica may not have heard of its primary, in s: a primary says something every 10 s.
const HEARD_WITHIN_S: u64 = 11;

/// What one node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAnswer {
    /// Its table: `CLUSTER NODES`.
    pub table: Table,
    /// Its opinion of the cluster: `cluster_state:ok`. Without it, it refuses requests.
    pub state_ok: bool,
    /// Why it takes no commands (`LOADING`), where it says so.
    pub not_ready: Option<String>,
    /// On a replica: its link to its primary.
    pub link: Option<ReplicaLink>,
    /// It has keys; asked of a node that knows no other.
    pub has_keys: bool,
    /// Its `cluster-node-timeout`, in ms, where it says that.
    pub timeout_ms: Option<u64>,
}

impl NodeAnswer {
    /// It knows no other node, owns no slot, has no key and no epoch: it may become any cluster's.
    pub fn is_blank(&self) -> bool {
        self.why_not_blank().is_none()
    }

    /// What it has that a blank node has not.
    pub fn why_not_blank(&self) -> Option<&'static str> {
        let own = self.table.own_row();
        let has = |what: fn(&TableRow) -> bool| own.is_none_or(what);
        if self.has_keys {
            Some("has keys")
        } else if !self.table.is_alone() {
            Some("is no blank node: it knows other nodes")
        } else if has(|row| !row.slots.is_empty()) {
            Some("is no blank node: it owns slots")
        } else if has(|row| row.config_epoch != 0) {
            Some(
                "is no blank node: it has an epoch, which CLUSTER RESET SOFT leaves, and CLUSTER RESET HARD takes from it",
            )
        } else {
            self.not_ready.as_ref().map(|_| "is no blank node yet: it takes no commands")
        }
    }
}

/// A replica's link to its primary, as `INFO replication` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaLink {
    /// `master_link_status:up`.
    pub up: bool,
    /// How long ago it last heard of its primary, in s: `master_last_io_seconds_ago`.
    pub heard_s: Option<u64>,
    /// Where it has its primary: `master_host` and `master_port`.
    pub primary: Option<Address>,
}

/// What every address answered that a table names, or an operator; or why there is no answer.
pub type NodeReadings = BTreeMap<Address, Result<NodeAnswer, String>>;

/// Why there are no voters, so that nothing can be said of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoVoters {
    /// No node answers.
    Silent,
    /// No node's table has an owner of a slot.
    Blank,
    /// No set of owners is held by more than half of its own members: the others do not answer, or disagree.
    Disagree {
        /// The owners that the most of their own members hold for the owners.
        owners: usize,
        /// How many of them hold it.
        hold: usize,
    },
    /// There are several clusters among these nodes.
    Several(usize),
}

impl fmt::Display for NoVoters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no node answers"),
            Self::Blank => f.write_str("no node owns a slot: the nodes are blank"),
            Self::Disagree { owners, hold } => write!(
                f,
                "no majority: of {owners} primaries that own slots, {hold} answer and agree on who they are"
            ),
            Self::Several(count) => write!(f, "these are nodes of {count} clusters"),
        }
    }
}

/// Why a node cannot take requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It gave no answer: why.
    Silent(String),
    /// It takes no commands: its words.
    NotReady(String),
    /// It knows no other node.
    Blank,
    /// Too few voters have it in their tables: it was forgotten, or is a stranger.
    Unlisted(VoterCount),
    /// A majority calls it failing, or has no address of it.
    Failing(VoterCount),
    /// A majority has no link to it.
    Unlinked(VoterCount),
    /// A primary without slots.
    NoSlots,
    /// It claims slots that a majority gives to others, or to no node.
    Replaced(Vec<SlotRange>),
    /// It does not claim these slots, which a majority gives to it.
    Dropped(Vec<SlotRange>),
    /// Its claim to its slots has another epoch than the majority's.
    OtherClaim {
        /// The epoch of its own claim.
        own: u64,
        /// That of the majority.
        majority: u64,
    },
    /// It says `cluster_state:fail`, and so refuses requests.
    StateFail,
    /// A replica of a node that owns no slot for the majority, or for itself of another one than for the majority.
    FollowsAnother(NodeId),
    /// Its link to its primary is down.
    LinkDown,
    /// It has not heard of its primary for so many s.
    Stale(u64),
    /// What it is, is not known yet.
    Unknown,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(why) => f.write_str(why),
            Self::NotReady(words) => write!(f, "it answers `{words}`"),
            Self::Blank => f.write_str("it is blank: it knows no other node"),
            Self::Unlisted(votes) => {
                write!(f, "{votes} know it: it was forgotten, or is none of the cluster")
            }
            Self::Failing(votes) => write!(f, "{votes} call it failing"),
            Self::Unlinked(votes) => write!(f, "{votes} have no link to it"),
            Self::NoSlots => f.write_str("a primary without slots"),
            Self::Replaced(slots) => {
                write!(f, "it claims slots {}, which a majority gives to others", in_words(slots))
            }
            Self::Dropped(slots) => {
                write!(f, "it does not own slots {}, which a majority gives to it", in_words(slots))
            }
            Self::OtherClaim { own, majority } => {
                write!(
                    f,
                    "its claim to its slots is of epoch {own}, and the majority's of {majority}"
                )
            }
            Self::StateFail => f.write_str("it says cluster_state:fail"),
            Self::FollowsAnother(primary) => {
                write!(f, "it follows {primary}, which for the majority is not its primary")
            }
            Self::LinkDown => f.write_str("its link to its primary is down"),
            Self::Stale(seconds) => write!(f, "it has not heard of its primary for {seconds} s"),
            Self::Unknown => f.write_str("what it is, is not known yet"),
        }
    }
}

/// How many voters say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoterCount {
    /// So many.
    pub say: usize,
    /// Of so many, whether they answer or not.
    pub of: usize,
}

impl VoterCount {
    fn are_majority(self) -> bool {
        self.say * 2 > self.of
    }
}

impl fmt::Display for VoterCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} voters", self.say, self.of)
    }
}

/// What can be asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// Reads and writes of its slots.
    Primary,
    /// Reads of its primary's slots.
    Replica,
    /// Nothing: why.
    Unfit(Unfit),
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedNode {
    /// Where it answers.
    pub address: Address,
    /// Its id, where it or a voter's table says it.
    pub id: Option<NodeId>,
    /// The owner of the slots that it serves, or would: itself, or its primary, as the majority has it.
    pub owner: Option<NodeId>,
    /// What can be asked of it.
    pub fitness: Fitness,
    /// Slots are moving from it or to it.
    pub migrating: bool,
    /// A majority of the voters calls it well, and not more than half have no link to it.
    pub trusted: bool,
}

/// The slots of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The node that a majority gives them to.
    pub owner: NodeId,
    /// The epoch of its claim.
    pub epoch: u64,
    /// The slots, in order.
    pub slots: Vec<SlotRange>,
}

/// What a majority of the voters says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The primaries that own slots, and vote.
    pub voters: BTreeSet<NodeId>,
    /// How many of them answer.
    pub answering: usize,
    /// Who owns what, by the first slot.
    pub shards: Vec<Shard>,
    /// Slots that no majority gives to one node.
    pub unowned: Vec<SlotRange>,
    /// Every node that was asked.
    pub nodes: Vec<JudgedNode>,
    /// Slots that move between two nodes.
    pub migrations: Vec<SlotMigration>,
}

impl Judgement {
    /// How many slots have an owner that can take requests.
    pub fn served(&self) -> usize {
        let fit = |owner: &NodeId| {
            let of = |node: &&JudgedNode| node.id.as_ref() == Some(owner);
            self.nodes.iter().filter(of).any(|node| node.fitness == Fitness::Primary)
        };
        let shards = self.shards.iter().filter(|shard| fit(&shard.owner));
        shards.map(|shard| count(&shard.slots)).sum()
    }

    /// Every slot is served, and every node can take requests.
    pub fn is_whole(&self) -> bool {
        let unfit = |node: &JudgedNode| matches!(node.fitness, Fitness::Unfit(_));
        self.serves_all() && !self.nodes.iter().any(unfit)
    }

    /// Every slot is served.
    pub fn serves_all(&self) -> bool {
        self.served() == SLOTS
    }
}

/// Judges what the nodes answer by the primaries that own slots in more than half of their own tables.
///
/// # Errors
/// Where there are no such primaries, or several sets of them.
pub fn judge(readings: &NodeReadings) -> Result<Judgement, NoVoters> {
    let voters = voters(readings)?;
    let tables: Vec<&Table> = answers(readings)
        .map(|answer| &answer.table)
        .filter(|table| voters.contains(&table.own))
        .collect();
    let (shards, unowned) = owners(&tables, voters.len());
    let majority = Majority { tables, of: voters.len(), shards: &shards };
    let nodes =
        readings.iter().map(|(address, reading)| majority.judge(address, reading)).collect();
    let answering = majority.tables.len();
    let own_rows = readings.values().flatten().filter_map(|answer| answer.table.own_row());
    let migrations = migration::said(own_rows);
    Ok(Judgement { voters, answering, shards, unowned, nodes, migrations })
}

/// One answer a node, though it may answer at several addresses.
fn answers(readings: &NodeReadings) -> impl Iterator<Item = &NodeAnswer> {
    let mut seen = BTreeSet::new();
    readings.values().flatten().filter(move |answer| seen.insert(&answer.table.own))
}

/// The owners of slots that more than half of themselves hold for the owners.
fn voters(readings: &NodeReadings) -> Result<BTreeSet<NodeId>, NoVoters> {
    let mut held: BTreeMap<BTreeSet<NodeId>, usize> = BTreeMap::new();
    let mut silent = true;
    for answer in answers(readings) {
        silent = false;
        let owners: BTreeSet<NodeId> = answer.table.owners().map(|row| row.id.clone()).collect();
        if owners.contains(&answer.table.own) {
            *held.entry(owners).or_default() += 1;
        }
    }
    if silent {
        return Err(NoVoters::Silent);
    }
    let agreed: Vec<&BTreeSet<NodeId>> =
        held.iter().filter(|(owners, hold)| **hold * 2 > owners.len()).map(|(o, _)| o).collect();
    match agreed[..] {
        [owners] => Ok(owners.clone()),
        [] => Err(held.iter().max_by_key(|(_, hold)| **hold).map_or(
            NoVoters::Blank,
            |(owners, hold)| NoVoters::Disagree { owners: owners.len(), hold: *hold },
        )),
        [..] => Err(NoVoters::Several(agreed.len())),
    }
}

/// Who owns what for more than half of `of` voters, of whom these tables are; and the slots that have no such owner.
fn owners(tables: &[&Table], of: usize) -> (Vec<Shard>, Vec<SlotRange>) {
    // Between two of these, no table's claim begins or ends.
    let mut starts = BTreeSet::from([0]);
    let claims: Vec<BTreeMap<u16, (SlotRange, &TableRow)>> = tables
        .iter()
        .map(|table| {
            let rows =
                table.owners().flat_map(|row| row.slots.iter().map(move |slots| (slots, row)));
            rows.map(|(slots, row)| (slots.first(), (*slots, row))).collect()
        })
        .collect();
    for (slots, _) in claims.iter().flat_map(BTreeMap::values) {
        starts.insert(usize::from(slots.first()));
        starts.insert(usize::from(slots.last()) + 1);
    }
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([SLOTS]).collect();
    let (mut shards, mut unowned): (BTreeMap<NodeId, Shard>, Vec<SlotRange>) = Default::default();
    for (start, end) in starts.into_iter().zip(ends) {
        let range = |first: usize, end: usize| {
            SlotRange::new(u16::try_from(first).ok()?, u16::try_from(end.checked_sub(1)?).ok()?)
        };
        let Some(slots) = range(start, end) else { continue };
        let mut votes: BTreeMap<(&NodeId, u64), usize> = BTreeMap::new();
        for claims in &claims {
            let claim = claims.range(..=slots.first()).next_back().map(|(_, claim)| claim);
            if let Some((_, row)) = claim.filter(|(range, _)| range.holds(slots)) {
                *votes.entry((&row.id, row.config_epoch)).or_default() += 1;
            }
        }
        match votes.into_iter().find(|(_, say)| VoterCount { say: *say, of }.are_majority()) {
            Some(((owner, epoch), _)) => {
                let shard = Shard { owner: owner.clone(), epoch, slots: Vec::new() };
                append(&mut shards.entry(owner.clone()).or_insert(shard).slots, slots);
            }
            None => append(&mut unowned, slots),
        }
    }
    let mut shards: Vec<Shard> = shards.into_values().collect();
    shards.sort_by(|one, other| one.slots.cmp(&other.slots));
    (shards, unowned)
}

/// The voters that answer, and what their majority says of the slots.
struct Majority<'a> {
    tables: Vec<&'a Table>,
    of: usize,
    shards: &'a [Shard],
}

impl Majority<'_> {
    fn judge(&self, address: &Address, reading: &Result<NodeAnswer, String>) -> JudgedNode {
        let of_address = |row: &&TableRow| row.address.as_ref() == Some(address);
        let id = match reading {
            Ok(answer) => Some(answer.table.own.clone()),
            Err(_) => {
                let rows = self.tables.iter().flat_map(|table| table.rows.values());
                rows.into_iter().find(of_address).map(|row| row.id.clone())
            }
        };
        let owner = id.as_ref().and_then(|id| self.owner(id));
        let fitness = match reading {
            Err(why) => Err(Unfit::Silent(why.clone())),
            Ok(answer) => self.fitness(owner, answer),
        };
        let migrating = reading
            .as_ref()
            .is_ok_and(|answer| answer.table.own_row().is_some_and(|row| row.migrating));
        let owner = owner.map(|shard| shard.owner.clone());
        let trusted = id.as_ref().is_some_and(|id| {
            self.votes(TableRow::is_well, id).are_majority()
                && !self.votes(|row| !row.linked, id).are_majority()
        });
        JudgedNode {
            address: address.clone(),
            id,
            owner,
            fitness: fitness.unwrap_or_else(Fitness::Unfit),
            migrating,
            trusted,
        }
    }

    fn votes(&self, says: impl Fn(&TableRow) -> bool, id: &NodeId) -> VoterCount {
        let say = self.tables.iter().filter(|table| table.rows.get(id).is_some_and(&says)).count();
        VoterCount { say, of: self.of }
    }

    /// The shard that a node owns, or whose owner a majority has it follow.
    fn owner(&self, id: &NodeId) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.owner == *id).or_else(|| {
            let follows = |shard: &&Shard| {
                let of = |row: &TableRow| row.role == TableRole::Replica(shard.owner.clone());
                self.votes(of, id).are_majority()
            };
            self.shards.iter().find(follows)
        })
    }

    fn fitness(&self, shard: Option<&Shard>, answer: &NodeAnswer) -> Result<Fitness, Unfit> {
        let id = &answer.table.own;
        if let Some(words) = &answer.not_ready {
            return Err(Unfit::NotReady(words.clone()));
        }
        let Some(own) = answer.table.own_row() else { return Err(Unfit::Unknown) };
        if answer.table.is_alone() && own.slots.is_empty() {
            return Err(Unfit::Blank);
        }
        let listed = self.votes(|_| true, id);
        if !listed.are_majority() {
            return Err(Unfit::Unlisted(listed));
        }
        let failing = self.votes(|row| !row.is_well(), id);
        let well = self.votes(TableRow::is_well, id);
        if !well.are_majority() {
            return Err(Unfit::Failing(failing));
        }
        // Its own table's row of itself is always connected.
        let unlinked = self.votes(|row| !row.linked, id);
        if unlinked.are_majority() {
            return Err(Unfit::Unlinked(unlinked));
        }
        match &own.role {
            TableRole::Primary => primary(own, shard.filter(|shard| shard.owner == *id)),
            TableRole::Replica(of) => {
                let led = shard.is_some_and(|shard| shard.owner == *of);
                if led {
                    replica(answer.link.as_ref())
                } else {
                    Err(Unfit::FollowsAnother(of.clone()))
                }
            }
            TableRole::Unknown => Err(Unfit::Unknown),
        }
        .and_then(|fit| if answer.state_ok { Ok(fit) } else { Err(Unfit::StateFail) })
    }
}

/// Whether its own claim is the majority's.
fn primary(own: &TableRow, shard: Option<&Shard>) -> Result<Fitness, Unfit> {
    let Some(shard) = shard else {
        return Err(match own.slots[..] {
            [] => Unfit::NoSlots,
            [..] => Unfit::Replaced(own.slots.clone()),
        });
    };
    if own.config_epoch != shard.epoch {
        return Err(Unfit::OtherClaim { own: own.config_epoch, majority: shard.epoch });
    }
    let claims = |slots: &SlotRange| own.slots.iter().any(|own| own.holds(*slots));
    let dropped: Vec<SlotRange> =
        shard.slots.iter().copied().filter(|slots| !claims(slots)).collect();
    if dropped.is_empty() { Ok(Fitness::Primary) } else { Err(Unfit::Dropped(dropped)) }
}

fn replica(link: Option<&ReplicaLink>) -> Result<Fitness, Unfit> {
    match link {
        Some(ReplicaLink { up: true, heard_s, .. }) => match *heard_s {
            Some(seconds) if seconds > HEARD_WITHIN_S => Err(Unfit::Stale(seconds)),
            _ => Ok(Fitness::Replica),
        },
        Some(ReplicaLink { up: false, .. }) | None => Err(Unfit::LinkDown),
    }
}
