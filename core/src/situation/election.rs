//! Rule 1: what the Sentinels say together.
//!
//! Votes are counted against the Sentinels that are *known*, not those that answered, so a minority
//! cut off from the rest can never look like a majority (`docs/facts/sentinel.md` 5).

use std::collections::BTreeMap;

use crate::identity::address::Address;
use crate::known::observed::{
    DownOpinion, FailoverPhase, Observed, Reading, SentinelAnswer, SentinelGroup, SentinelId,
    SentinelPeer,
};
use crate::time::Mono;

/// What the answers of all Sentinels add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// How many Sentinels are known, reachable or not.
    pub known: usize,
    /// The same by what those say that answered, whatever is recorded.
    pub counted: usize,
    /// How many of them answered and monitor the group.
    pub answering: usize,
    /// How many Sentinels name which primary.
    pub votes: BTreeMap<Address, Votes>,
    /// The address a majority of the known Sentinels names.
    pub elected: Option<Elected>,
    /// Failovers that are past their election, by the Sentinel that leads them.
    pub failovers: Vec<Failover>,
    /// For each monitored address, how many Sentinels call it down.
    pub down: BTreeMap<Address, DownCount>,
    /// For each replica, how many Sentinels get an answer from it and how many do not.
    pub replicas: BTreeMap<Address, ReplicaCount>,
}

/// The Sentinels that name one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Votes {
    /// How many Sentinels, each counted once by its id.
    pub count: usize,
    /// The highest epoch at which one of them does.
    pub epoch: u64,
}

/// The address that a majority names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// The address that they name.
    pub address: Address,
    /// The highest epoch of its voters.
    pub epoch: u64,
    /// How many Sentinels name it.
    pub votes: usize,
}

/// A failover past its election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// The Sentinel that leads it.
    pub leader: Address,
    /// The primary it replaces.
    pub old: Address,
    /// The replica it chose, once it has.
    pub chosen: Option<Address>,
    /// The epoch of the election, when the leader's peers show it or it is already in force.
    pub epoch: Option<u64>,
    /// Forced (`SENTINEL FAILOVER`), without an election.
    pub forced: bool,
}

impl Failover {
    /// A majority has reached its epoch: how it ended is known, or it was overtaken.
    pub fn is_reached(&self, elected: &Elected) -> bool {
        self.epoch.is_some_and(|epoch| epoch <= elected.epoch)
    }

    /// It replaces, chooses and vetoes nothing any more: a majority has reached its epoch and names another one. Its
    /// leader goes on with it for as long as the replica that it promoted is down (`docs/facts/sentinel.md` 13).
    pub(crate) fn is_over(&self, elected: &Elected) -> bool {
        self.is_reached(elected) && self.chosen.as_ref() != Some(&elected.address)
    }
}

/// How many Sentinels call an address down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DownCount {
    /// How many find it subjectively down, at least.
    pub subjective: usize,
    /// How many find it objectively down.
    pub objective: usize,
}

/// What the Sentinels that list a replica think of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaCount {
    /// How many Sentinels get an answer from the replica.
    pub up: usize,
    /// How many get none.
    pub down: usize,
}

/// What bounds the tally besides the answers themselves.
#[derive(Debug, Clone, Copy)]
pub struct TallyBounds {
    /// Answers asked for before this say nothing about now.
    pub since: Mono,
    /// The number of Sentinels last recorded in Consul, or configured while nothing is recorded:
    /// a restarted Sentinel that knows only itself must not look like the whole electorate.
    pub known_min: usize,
}

impl Tally {
    /// Adds up the answers that were asked for at `bounds.since` or later.
    pub fn count(observed: &Observed, bounds: TallyBounds) -> Self {
        let heard = distinct_answers(&observed.sentinels, bounds.since);
        let answering = answering(&observed.sentinels, bounds.since);
        let each_counts = heard.values().map(|(_, answer, group)| {
            // One at whose address another answers is gone, however many still list it; and a Sentinel may list itself.
            let gone =
                |peer: &&SentinelPeer| peer.id == answer.id || is_superseded(peer, &answering);
            let all = group.other_sentinels.saturating_add(1);
            all.saturating_sub(group.peers.iter().filter(gone).count())
        });
        let counted = each_counts.max().unwrap_or(0).max(heard.len());
        let mut tally = Self {
            known: counted.max(bounds.known_min),
            counted,
            answering: heard.len(),
            votes: BTreeMap::new(),
            elected: None,
            failovers: Vec::new(),
            down: BTreeMap::new(),
            replicas: BTreeMap::new(),
        };
        for (address, answer, group) in heard.values() {
            let votes = tally.votes.entry(group.primary.clone()).or_default();
            votes.count += 1;
            votes.epoch = votes.epoch.max(group.config_epoch);
            // A Sentinel in TILT does not trust its own clock, so nor do we.
            if !answer.tilt {
                let down = tally.down.entry(group.monitored.clone()).or_default();
                down.subjective += usize::from(group.down >= DownOpinion::Subjective);
                down.objective += usize::from(group.down >= DownOpinion::Objective);
                for replica in &group.replicas {
                    let count = tally.replicas.entry(replica.address.clone()).or_default();
                    count.up += usize::from(!replica.s_down);
                    count.down += usize::from(replica.s_down);
                }
            }
            tally.failovers.extend(failover_led_by(address, answer, group));
        }
        let majority = tally.majority();
        tally.elected = tally.votes.iter().find(|(_, votes)| votes.count >= majority).map(
            |(address, votes)| Elected {
                address: address.clone(),
                epoch: votes.epoch,
                votes: votes.count,
            },
        );
        if let Some(elected) = &tally.elected {
            tally.failovers.retain(|failover| !failover.is_over(elected));
        }
        tally
    }

    /// More than half of the known Sentinels. At least 1, so that no answers are no majority.
    pub fn majority(&self) -> usize {
        self.known / 2 + 1
    }

    /// How many Sentinels name `address`.
    pub fn votes_for(&self, address: &Address) -> usize {
        self.votes.get(address).map_or(0, |votes| votes.count)
    }

    /// The Sentinels agree that `address` is down: a majority gets no answer and at least one has
    /// heard a quorum say so; or a Sentinel that called it objectively down was elected to replace it.
    pub fn agree_down(&self, address: &Address) -> bool {
        let Some(down) = self.down.get(address) else { return false };
        let majority_down = down.subjective >= self.majority();
        let replaced = self.failovers.iter().any(|f| &f.old == address && !f.forced);
        down.objective > 0 && (majority_down || replaced)
    }

    /// Some Sentinel has heard a quorum call `address` down.
    pub fn any_objective(&self, address: &Address) -> bool {
        self.down.get(address).is_some_and(|down| down.objective > 0)
    }

    /// Another address that is named at the epoch of `elected`: two truths at one epoch.
    pub fn rivals<'a>(&'a self, elected: &'a Elected) -> impl Iterator<Item = &'a Address> {
        self.votes
            .iter()
            .filter(move |(a, votes)| **a != elected.address && votes.epoch == elected.epoch)
            .map(|(a, _)| a)
    }

    /// A failover that replaces `address` is under way.
    pub fn being_replaced(&self, address: &Address) -> bool {
        self.failovers.iter().any(|f| &f.old == address)
    }
}

/// Who answers at which address, whether it knows the group or not.
pub(crate) type Answering<'a> = BTreeMap<&'a Address, &'a SentinelId>;

pub(crate) fn answering(
    readings: &BTreeMap<Address, Reading<SentinelAnswer>>,
    since: Mono,
) -> Answering<'_> {
    readings.iter().filter_map(|(at, r)| Some((at, &r.since(since)?.id))).collect()
}

/// Another Sentinel answers at its address, and it answers nowhere: it was made anew.
pub(crate) fn is_superseded(peer: &SentinelPeer, answering: &Answering<'_>) -> bool {
    let another = answering.get(&peer.address).is_some_and(|id| **id != peer.id);
    another && !peer.address.is_each_hosts_own() && !answering.values().any(|id| **id == peer.id)
}

type Vote<'a> = (&'a Address, &'a SentinelAnswer, &'a SentinelGroup);

/// One answer a Sentinel, however many addresses it is reached at: the latest one counts.
fn distinct_answers(
    readings: &BTreeMap<Address, Reading<SentinelAnswer>>,
    since: Mono,
) -> BTreeMap<&SentinelId, Vote<'_>> {
    let mut latest: BTreeMap<&SentinelId, (Mono, Vote<'_>)> = BTreeMap::new();
    for (address, reading) in readings {
        let Some(answer) = reading.since(since) else { continue };
        let Some(group) = &answer.group else { continue };
        let newer = latest.get(&answer.id).is_none_or(|(asked, _)| *asked < reading.asked);
        if newer {
            latest.insert(&answer.id, (reading.asked, (address, answer, group)));
        }
    }
    latest.into_iter().map(|(id, (_, heard))| (id, heard)).collect()
}

/// The Sentinels that answer with one id and are several processes: their config file was copied. Each takes the hellos
/// of the others for its own, and they count as one.
pub fn copies(observed: &Observed, since: Mono) -> Vec<Vec<Address>> {
    let mut by_id: BTreeMap<&SentinelId, BTreeMap<&String, &Address>> = BTreeMap::new();
    for (at, reading) in &observed.sentinels {
        let Some(answer) = reading.since(since) else { continue };
        if let Some(process) = &answer.process {
            by_id.entry(&answer.id).or_default().insert(process, at);
        }
    }
    let several = by_id.into_values().filter(|processes| processes.len() > 1);
    let addresses = |processes: BTreeMap<&String, &Address>| {
        let mut at: Vec<Address> = processes.into_values().cloned().collect();
        at.sort();
        at
    };
    several.map(addresses).collect()
}

/// The failovers past their election that Sentinels led at `since` or later, by their last answer, and that have not
/// answered since: a Sentinel that times out may go on with it.
pub fn led_in_silence(observed: &Observed, since: Mono) -> Vec<Failover> {
    let heard = distinct_answers(&observed.sentinels_answered, since);
    heard
        .values()
        .filter_map(|(address, answer, group)| failover_led_by(address, answer, group))
        .collect()
}

/// The epoch at which this Sentinel was elected to lead its failover, and by how many votes with its own; `None`
/// while it is not past the election, or where there was none.
///
/// Its list goes on showing the votes of elections before, and before Redis 7.0 it does not say that it was forced
/// (`docs/facts/sentinel.md` 19). A failover has an epoch above that of the configuration that it replaces, and
/// from the promotion on that epoch is in force.
pub fn elected_by(answer: &SentinelAnswer, group: &SentinelGroup) -> Option<(u64, usize)> {
    let phase = group.failover.filter(|phase| phase.elected())?;
    let of_this = |epoch: u64| match phase >= FailoverPhase::ReconfReplicas {
        true => epoch == group.config_epoch,
        false => epoch > group.config_epoch,
    };
    let votes = || answer.votes().filter(|epoch| of_this(*epoch));
    let epoch = votes().max().filter(|_| !group.failover_forced)?;
    Some((epoch, 1 + votes().filter(|of| *of == epoch).count()))
}

/// The failover that this Sentinel leads, once it is past the election.
fn failover_led_by(
    leader: &Address,
    answer: &SentinelAnswer,
    group: &SentinelGroup,
) -> Option<Failover> {
    let phase = group.failover.filter(|phase| phase.elected())?;
    let chosen = group.replicas.iter().find(|r| r.promoted).map(|r| r.address.clone());
    // Before the promotion the epoch is only visible in the votes of the leader's peers; after it,
    // the leader announces the new primary at the new epoch.
    let elected_at = elected_by(answer, group).map(|(epoch, _)| epoch);
    let in_force = (phase >= FailoverPhase::ReconfReplicas).then_some(group.config_epoch);
    // One that was elected has seen the votes of its peers.
    let unelected = elected_at.is_none() && !group.peers.is_empty();
    Some(Failover {
        leader: leader.clone(),
        old: group.monitored.clone(),
        chosen,
        epoch: in_force.or(elected_at),
        forced: group.failover_forced || unelected,
    })
}
