//! Rules 2 to 6: who the published writer should be, given what the Sentinels and instances say.
//!
//! [`judge`] answers with one [`Verdict`]. It never guesses: whatever it cannot prove, it leaves as
//! it is, and says what is missing.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

use super::bootstrap::{Bootstrap, NoFirst, bootstrap};
use super::emptied::{WhyEmptied, emptied};
use super::moved::{self, NotMoved, successor};
use crate::address::Address;
use crate::election::{Elected, Failover};
use crate::memory::Condition;
use crate::observed::{DownOpinion, InstanceAnswer, SentinelGroup, StoredState};
use crate::policy::{
    DISPLACED_AFTER_MS, FEWER_KNOWN_AFTER_MS, OUT_OF_REACH_AFTER_MS, REBASELINE_AFTER_MS,
};
use crate::record::{Basis, Evidence, Level, Writer};
use crate::view::View;
use crate::writer::{Lineage, NotWriter, WriterTest};

/// What is to be done about the published writer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Publish this writer.
    Publish {
        /// The writer.
        to: Writer,
        /// What it rests on.
        evidence: Evidence,
        /// Why.
        why: PublishReason,
    },
    /// Publish that there is no writer.
    Withdraw(WithdrawReason),
    /// Write down who is to become the first primary.
    Claim(Address),
    /// The writer stays; what is known of it has become better.
    Confirm {
        /// The writer, with its history as it is now.
        writer: Writer,
        /// What it rests on now.
        evidence: Evidence,
    },
    /// All stays as it is.
    Keep(KeepReason),
}

impl Verdict {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Withdraw(_) => "withdraw",
            Self::Claim(_) => "claim",
            Self::Confirm { .. } => "confirm",
            Self::Keep(_) => "keep",
        }
    }
}

/// Why a writer is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishReason {
    /// Rule 2: a majority names it.
    Majority {
        /// How many Sentinels name it.
        votes: usize,
        /// How many are known.
        known: usize,
        /// At which epoch.
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
        /// Forced by an operator.
        forced: bool,
    },
    /// Nobody knew of a primary, and this one's data includes everybody else's.
    First,
    /// The Sentinels knew nobody who is left, and this one's data includes everybody else's.
    Moved,
}

/// Why the writer is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithdrawReason {
    /// Rule 4: the Sentinels agree that it is down.
    Down {
        /// The writer.
        writer: Address,
        /// How many Sentinels get no answer from it.
        votes: usize,
        /// How many are known.
        known: usize,
    },
    /// Rule 4: it answers neither us nor any Sentinel that answers, and those cannot agree: they do not find one another,
    /// or have lost what they knew.
    OutOfReach {
        /// The writer.
        writer: Address,
        /// How many Sentinels answer.
        heard: usize,
        /// How many are known.
        known: usize,
    },
    /// Rule 4: it says itself that it is a replica now.
    IsReplica {
        /// The writer.
        writer: Address,
        /// Whom it follows.
        of: Address,
    },
    /// It came back without its data, and others hold it or may.
    Emptied(WhyEmptied),
    /// Rule 3: the majority did not follow in time.
    Unconfirmed {
        /// The writer.
        writer: Address,
        /// How long it had, in ms.
        within_ms: u64,
    },
    /// Rule 5: the majority has left it, and the one it names cannot be published.
    Displaced {
        /// The writer.
        writer: Address,
        /// Whom the majority names, when there is a majority.
        by: Option<Address>,
    },
}

/// Why nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    /// Consul has not been read yet.
    ConsulUnread,
    /// `state` holds something this version must not overwrite.
    StateUnreadable(String),
    /// The published writer is the one the majority names.
    Confirmed {
        /// The writer.
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
    /// Nobody knows of a primary who is left, and the one written down is being made one.
    Promoting(Address),
    /// Nobody knows of a primary, and there is none yet.
    NoFirst(NoFirst),
    /// The Sentinels know nobody who is left, and nobody else leads yet.
    NotMoved(NotMoved),
    /// There is no writer, and nobody that could be proved to be one.
    NoWriter(NotYet),
}

/// Why nobody can be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotYet {
    /// No Sentinel answered, or none knows the group.
    NoSentinels,
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
    Emptied(WhyEmptied),
    /// Another primary is named at the same epoch.
    Contested(Address, Address),
    /// The majority's epoch is not above the one of the promotion being awaited.
    OldEpoch(Address, u64),
    /// The majority's epoch is lower than recorded, and has been for too short a time.
    LowerEpoch(Address, u64),
}

/// Looks at one group.
pub fn judge(view: &View<'_>) -> Verdict {
    let Some(store) = &view.observed.store else { return Verdict::Keep(KeepReason::ConsulUnread) };
    if let StoredState::Unreadable(error) = &store.state {
        return Verdict::Keep(KeepReason::StateUnreadable(error.clone()));
    }
    Judge(view).verdict()
}

/// The conditions of this module that hold now, for [`crate::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    let judge = Judge(view);
    let mut holding = BTreeSet::new();
    holding.extend(judge.lower_epoch());
    holding.extend(judge.displaced().map(|(writer, _)| Condition::Displaced(writer)));
    holding.extend(judge.fewer_known());
    holding.extend(judge.out_of_reach().map(|(writer, _)| Condition::OutOfReach(writer)));
    holding
}

struct Judge<'v, 'a>(&'v View<'a>);

impl<'a> Deref for Judge<'_, 'a> {
    type Target = View<'a>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl<'a> Judge<'_, 'a> {
    fn verdict(&self) -> Verdict {
        let current = self.record.and_then(|record| record.writer.as_ref());
        let confirmed =
            current.zip(self.tally.elected.as_ref()).filter(|(c, e)| c.address == e.address);
        let not_yet = match (confirmed, self.majority_candidate()) {
            (None, Ok(publish)) => return publish,
            (None, Err(not_yet)) => Some(not_yet),
            (Some(_), _) => None,
        };
        if let Some(publish) = self.promotion_candidate() {
            return publish;
        }
        if let Some(reason) = current.and_then(|current| self.withdrawal(&current.address)) {
            return Verdict::Withdraw(reason);
        }
        match (confirmed, current, not_yet) {
            (Some((current, elected)), ..) => self.confirmed(current, elected),
            (None, Some(current), _) if self.awaiting_confirmation() => {
                Verdict::Keep(KeepReason::AwaitingConfirmation(current.address.clone()))
            }
            (None, Some(current), not_yet) => Verdict::Keep(KeepReason::Holding(
                current.address.clone(),
                not_yet.unwrap_or(NotYet::NoSentinels),
            )),
            (None, None, not_yet) => self.first(not_yet.unwrap_or(NotYet::NoSentinels)),
        }
    }

    /// Nobody is published and nobody can be: perhaps there never was anybody, or nobody is left where they were.
    fn first(&self, not_yet: NotYet) -> Verdict {
        match bootstrap(self.0) {
            Ok(step) => self.step(step, PublishReason::First),
            Err(NoFirst::NotBlank) => match successor(self.0) {
                Ok(step) => self.step(step, PublishReason::Moved),
                Err(NotMoved::NoCase) => Verdict::Keep(KeepReason::NoWriter(not_yet)),
                Err(why) => Verdict::Keep(KeepReason::NotMoved(why)),
            },
            Err(why) => Verdict::Keep(KeepReason::NoFirst(why)),
        }
    }

    /// The next step to a primary that no Sentinel has named.
    fn step(&self, step: Bootstrap<'_>, why: PublishReason) -> Verdict {
        match step {
            Bootstrap::Publish(address, answer) => Verdict::Publish {
                to: writer_of(address, answer),
                evidence: Evidence {
                    basis: Basis::Agents,
                    confirmed_epoch: self.record.map_or(0, |r| r.evidence.confirmed_epoch),
                    known: self.tally.known,
                },
                why,
            },
            Bootstrap::Claim(address) => Verdict::Claim(address.clone()),
            Bootstrap::Promote(address, _) => Verdict::Keep(KeepReason::Promoting(address.clone())),
        }
    }

    /// Rule 2: the address that a majority names, when it passes the writer test.
    fn majority_candidate(&self) -> Result<Verdict, NotYet> {
        if self.tally.heard == 0 {
            return Err(NotYet::NoSentinels);
        }
        let (heard, known) = (self.tally.heard, self.tally.known);
        let elected = self.tally.elected.as_ref().ok_or(NotYet::NoMajority { heard, known })?;
        let address = &elected.address;
        // One agent may hear those that call it down and another one may not: the name must not go back and
        // forth between them.
        let called_down = self.tally.down.get(address).map_or(0, |down| down.subjective);
        if self.tally.any_objective(address) || called_down >= self.tally.majority() {
            return Err(NotYet::Down(address.clone()));
        }
        if self.tally.being_replaced(address) {
            return Err(NotYet::BeingReplaced(address.clone()));
        }
        self.epoch_allows(elected)?;
        let answer = self.passes(address)?;
        if let Some(emptied) = emptied(self.0) {
            return Err(NotYet::Emptied(emptied.why()));
        }
        if let Some(rival) = self.tally.rivals(elected).find(|rival| self.passes(rival).is_ok()) {
            return Err(NotYet::Contested(address.clone(), rival.clone()));
        }
        let unrelated = Lineage::of(answer, self.record) == Lineage::Unrelated;
        let (votes, epoch) = (elected.votes, elected.epoch);
        Ok(Verdict::Publish {
            to: writer_of(address, answer),
            evidence: self.majority_evidence(elected),
            why: PublishReason::Majority { votes, known, epoch, unrelated },
        })
    }

    /// Rules 3 and 6: whether the majority's epoch lets it overrule what is recorded.
    fn epoch_allows(&self, elected: &Elected) -> Result<(), NotYet> {
        let Some(record) = self.record else { return Ok(()) };
        let confirmed = record.evidence.confirmed_epoch;
        // Where the promotion's own epoch is known, nothing below it is newer.
        let elected_in = record.evidence.basis.epoch().unwrap_or(confirmed + 1);
        if self.awaiting_confirmation() && elected.epoch < elected_in.max(confirmed + 1) {
            return Err(NotYet::OldEpoch(elected.address.clone(), elected.epoch));
        }
        let lower = Condition::LowerEpoch(elected.address.clone(), elected.epoch);
        if elected.epoch < confirmed && !self.lasted(&lower, REBASELINE_AFTER_MS) {
            return Err(NotYet::LowerEpoch(elected.address.clone(), elected.epoch));
        }
        Ok(())
    }

    /// Rule 3: an elected leader has chosen a replica, and that replica says it is the primary.
    fn promotion_candidate(&self) -> Option<Verdict> {
        if self.policy.publish != Level::Promotion {
            return None;
        }
        // Without a last writer there is no history that the new one could be seen to continue.
        let record = self.record.filter(|record| record.last_writer.is_some())?;
        let (failover, chosen) = self.only_choice()?;
        if record.writer_address() == Some(chosen) {
            return None;
        }
        let confirmed = record.evidence.confirmed_epoch;
        if failover.epoch.is_some_and(|epoch| epoch <= confirmed) || self.is_outdated(failover) {
            return None;
        }
        if self.tally.agree_down(chosen) || self.tally.being_replaced(chosen) {
            return None;
        }
        let answer = self.passes(chosen).ok()?;
        if !Lineage::of(answer, self.record).continues() {
            return None;
        }
        Some(Verdict::Publish {
            to: writer_of(chosen, answer),
            evidence: Evidence {
                basis: Basis::Promotion {
                    leader: failover.leader.clone(),
                    epoch: failover.epoch,
                    votes: self.tally.votes_for(chosen),
                },
                confirmed_epoch: confirmed,
                known: self.tally.known,
            },
            why: PublishReason::Promotion {
                leader: failover.leader.clone(),
                epoch: failover.epoch,
                forced: failover.forced,
            },
        })
    }

    /// A majority has already followed a newer failover than this one.
    fn is_outdated(&self, failover: &Failover) -> bool {
        let confirmed = self.record.map_or(0, |record| record.evidence.confirmed_epoch);
        self.tally.elected.as_ref().is_some_and(|elected| {
            elected.epoch > confirmed && failover.epoch.is_none_or(|epoch| epoch <= elected.epoch)
        })
    }

    /// The one replica that a leader has chosen. Two leaders with two choices are no choice.
    fn only_choice(&self) -> Option<(&Failover, &Address)> {
        let mut choices =
            self.tally.failovers.iter().filter_map(|f| f.chosen.as_ref().map(|c| (f, c)));
        let first = choices.next()?;
        choices.all(|(_, chosen)| chosen == first.1).then_some(first)
    }

    /// Rules 3, 4 and 5: why the published writer must go, if it must.
    fn withdrawal(&self, writer: &Address) -> Option<WithdrawReason> {
        let test = self.test(writer);
        if let WriterTest::Fails(NotWriter::IsReplica { of }) = test {
            return Some(WithdrawReason::IsReplica { writer: writer.clone(), of });
        }
        if self.tally.agree_down(writer) {
            let votes = self.tally.down.get(writer).map_or(0, |down| down.subjective);
            let known = self.tally.known;
            return Some(WithdrawReason::Down { writer: writer.clone(), votes, known });
        }
        if let Some(emptied) = emptied(self.0).filter(|emptied| emptied.primary == writer) {
            return Some(WithdrawReason::Emptied(emptied.why()));
        }
        if let Some((writer, heard)) = self.out_of_reach() {
            let condition = Condition::OutOfReach(writer.clone());
            if self.lasted(&condition, OUT_OF_REACH_AFTER_MS) {
                let known = self.tally.known;
                return Some(WithdrawReason::OutOfReach { writer, heard, known });
            }
        }
        if self.leads_by_itself() && self.groups().all(|group| moved::knows_nobody(self.0, group)) {
            // That they name a dead one is no denial: they are about to be told.
            return None;
        }
        if self.confirmation_overdue(writer) {
            let within_ms = self.policy.confirm_within_ms;
            return Some(WithdrawReason::Unconfirmed { writer: writer.clone(), within_ms });
        }
        let (displaced, by) = self.displaced()?;
        let condition = Condition::Displaced(displaced);
        self.lasted(&condition, DISPLACED_AFTER_MS)
            .then(|| WithdrawReason::Displaced { writer: writer.clone(), by })
    }

    /// The published writer is the one that the majority names.
    fn confirmed(&self, current: &Writer, elected: &Elected) -> Verdict {
        let address = &current.address;
        // Its history changes when it restarts, and the next writer is compared with the new one.
        // An answer from before the record's last change would take it back to the old history, and another agent
        // would change it again.
        let asked = self.observed.instances.get(address).map(|reading| reading.asked);
        let writer = match self.passes(address) {
            Ok(answer) if asked >= Some(self.memory.store_changed) => writer_of(address, answer),
            Ok(_) | Err(_) => current.clone(),
        };
        if &writer != current || self.better_evidence(elected) {
            return Verdict::Confirm { writer, evidence: self.majority_evidence(elected) };
        }
        let (votes, known) = (elected.votes, self.tally.known);
        let (writer, epoch) = (address.clone(), elected.epoch);
        Verdict::Keep(KeepReason::Confirmed { writer, votes, known, epoch })
    }

    fn better_evidence(&self, elected: &Elected) -> bool {
        let Some(recorded) = self.record.map(|record| &record.evidence) else { return true };
        let lower = Condition::LowerEpoch(elected.address.clone(), elected.epoch);
        recorded.is_unconfirmed()
            || elected.epoch > recorded.confirmed_epoch
            || self.tally.known > recorded.known
            || self.lasted(&lower, REBASELINE_AFTER_MS)
            || self.fewer_known().is_some_and(|c| self.lasted(&c, FEWER_KNOWN_AFTER_MS))
    }

    fn majority_evidence(&self, elected: &Elected) -> Evidence {
        let fewer = self.fewer_known().filter(|c| self.lasted(c, FEWER_KNOWN_AFTER_MS));
        let known = match fewer {
            Some(Condition::FewerKnown(known)) => known,
            _ => self.tally.known,
        };
        let basis = Basis::Majority { epoch: elected.epoch, votes: elected.votes };
        Evidence { basis, confirmed_epoch: elected.epoch, known }
    }

    /// The published writer is an unconfirmed promotion that still has time, or whose leader is
    /// still at work.
    fn awaiting_confirmation(&self) -> bool {
        let Some((record, writer)) = self.record.zip(self.writer()) else { return false };
        if record.evidence.level() != Level::Promotion {
            return false;
        }
        let age_ms = self.now.mono - self.memory.generation_seen();
        let leader_at_work = self.tally.failovers.iter().any(|f| f.chosen.as_ref() == Some(writer));
        age_ms <= self.policy.confirm_within_ms || leader_at_work
    }

    /// No Sentinel has named what is published, and none could have.
    fn leads_by_itself(&self) -> bool {
        self.record.is_some_and(|record| record.evidence.basis == Basis::Agents)
    }

    fn confirmation_overdue(&self, writer: &Address) -> bool {
        let unconfirmed =
            self.record.is_some_and(|record| record.evidence.level() == Level::Promotion);
        let elected = self.tally.elected.as_ref().is_some_and(|e| &e.address == writer);
        // Silence is not a denial: with no majority heard at all, what is published stays.
        let majority_heard = self.tally.heard >= self.tally.majority();
        unconfirmed && !elected && majority_heard && !self.awaiting_confirmation()
    }

    /// The published writer, when it does not answer us, and a majority of the Sentinels answers and has nobody: each
    /// calls the writer down, or none knows the group. And how many they are. Where they know nothing, it may be our
    /// login that does not fit: then nobody answers us; or only we do not reach it: then its replicas have their link.
    fn out_of_reach(&self) -> Option<(Address, usize)> {
        let writer = self.writer().filter(|writer| self.instance(writer).is_none())?;
        let heard = self.heard();
        let lost = |group: &SentinelGroup| {
            &group.primary == writer && group.down > DownOpinion::Up && group.failover.is_none()
        };
        let all = !self.any_tilt() && self.groups().all(lost);
        let confirmed = self.groups().count() >= self.tally.majority();
        let answers = || self.observed.instances.values().filter_map(|r| r.since(self.recent));
        let alone = answers().next().is_some() && !answers().any(moved::follows_somebody);
        let forgotten = self.groups().next().is_none() && heard >= self.tally.majority() && alone;
        (all && (confirmed || forgotten)).then(|| (writer.clone(), heard))
    }

    /// The published writer, when its majority has gone to another address or into a split.
    fn displaced(&self) -> Option<(Address, Option<Address>)> {
        let writer = self.writer()?;
        match &self.tally.elected {
            Some(elected) if &elected.address == writer => None,
            Some(elected) => self
                .epoch_allows(elected)
                .is_ok()
                .then(|| (writer.clone(), Some(elected.address.clone()))),
            None => {
                let split = self.tally.heard >= self.tally.majority();
                // Rule 6: what a Sentinel says at an older epoch is about to be corrected.
                let confirmed = self.record.map_or(0, |record| record.evidence.confirmed_epoch);
                let rival = self.tally.votes.iter().any(|(named, votes)| {
                    named != writer && votes.epoch >= confirmed && self.passes(named).is_ok()
                });
                let settled = !self.awaiting_confirmation();
                (split && rival && settled).then(|| (writer.clone(), None))
            }
        }
    }

    fn lower_epoch(&self) -> Option<Condition> {
        let elected = self.tally.elected.as_ref()?;
        let confirmed = self.record?.evidence.confirmed_epoch;
        (elected.epoch < confirmed)
            .then(|| Condition::LowerEpoch(elected.address.clone(), elected.epoch))
    }

    /// Every Sentinel of a majority of the recorded electorate counts fewer than are recorded.
    fn fewer_known(&self) -> Option<Condition> {
        let recorded = self.record?.evidence.known;
        let counted = self.tally.counted;
        let enough = self.tally.heard >= self.tally.majority();
        (enough && counted < recorded).then_some(Condition::FewerKnown(counted))
    }

    fn passes(&self, address: &Address) -> Result<&'a InstanceAnswer, NotYet> {
        match self.test(address) {
            WriterTest::Passes(answer) => Ok(answer),
            WriterTest::Fails(why) => Err(NotYet::Refuses(address.clone(), why)),
            WriterTest::Unknown(why) => Err(NotYet::Unproven(address.clone(), why)),
        }
    }

    fn lasted(&self, condition: &Condition, ms: u64) -> bool {
        self.memory.lasted(condition, ms, self.now)
    }
}

fn writer_of(address: &Address, answer: &InstanceAnswer) -> Writer {
    Writer { address: address.clone(), replid: answer.replid.clone() }
}

impl fmt::Display for PublishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Majority { votes, known, epoch, unrelated } => {
                write!(f, "named by {votes} of {known} Sentinels at epoch {epoch}")?;
                if *unrelated {
                    f.write_str(", with a history that does not continue the last writer's")?;
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
            Self::First => f.write_str("the first primary: nobody knew of one"),
            Self::Moved => {
                f.write_str("it has the data, and the Sentinels knew nobody who is left")
            }
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
            Self::Emptied(why) => write!(f, "{why}"),
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
            Self::Confirmed { writer, votes, known, epoch } => {
                write!(f, "writer {writer}, named by {votes} of {known} Sentinels at epoch {epoch}")
            }
            Self::AwaitingConfirmation(writer) => {
                write!(f, "writer {writer}, promoted, not yet confirmed by a majority")
            }
            Self::Holding(writer, not_yet) => write!(f, "writer {writer} stays: {not_yet}"),
            Self::Promoting(address) => write!(f, "{address} is being made the primary"),
            Self::NoFirst(why) => write!(f, "{why}"),
            Self::NotMoved(why) => write!(f, "no writer: {why}"),
            Self::NoWriter(not_yet) => write!(f, "no writer: {not_yet}"),
        }
    }
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSentinels => f.write_str("no Sentinel that knows the group answers"),
            Self::NoMajority { heard, known } => {
                write!(f, "no majority ({heard} of {known} Sentinels answer)")
            }
            Self::Down(a) => write!(f, "the Sentinels name {a} and agree that it is down"),
            Self::BeingReplaced(a) => write!(f, "a failover is replacing {a}"),
            Self::Refuses(a, why) => write!(f, "{a} {why}"),
            Self::Unproven(a, why) => write!(f, "{a} could not be asked: {why}"),
            Self::Emptied(why) => write!(f, "{why}"),
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
