//! Rules 2 and 6: the primary that a majority of the known Sentinels names.

use std::collections::BTreeSet;

use crate::identity::address::{Address, GroupName};
use crate::known::memory::Condition;
use crate::known::observed::InstanceAnswer;
use crate::known::view::View;
use crate::policy::{FEWER_KNOWN_AFTER_MS, REBASELINE_AFTER_MS};
use crate::published::record::{Basis, Evidence, Writer};
use crate::shown::reasons::NotYet;
use crate::situation::data_loss::data_loss;
use crate::situation::election::Elected;
use crate::situation::promotion;
use crate::situation::superseded::is_superseded;
use crate::situation::writer::{Lineage, WriterTest, is_of_lineage};
use crate::time::Mono;

/// A primary that a majority names, and that says so itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The writer, with its history as it is now.
    pub writer: Writer,
    /// What it rests on now.
    pub evidence: Evidence,
    /// Whether that is news to what is published.
    pub standing: Standing,
}

/// How a primary that a majority names stands to what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Another one is published, or none.
    New {
        /// Its history does not go on from the last writer's.
        unrelated: bool,
    },
    /// It is published, and more is known of it.
    BetterKnown,
    /// It is published just so.
    Published,
}

/// The address that a majority names and that is not published, when it passes the writer test.
///
/// # Errors
/// [`NotYet`]: why it cannot be published.
pub fn candidate(view: &View<'_>) -> Result<Named, NotYet> {
    let tally = &view.tally;
    if tally.answering == 0 {
        return Err(no_sentinels(view));
    }
    let (heard, known) = (tally.answering, tally.known);
    let elected = tally.elected.as_ref().ok_or(NotYet::NoMajority { heard, known })?;
    let address = &elected.address;
    // One agent may hear those that call it down and another one may not: the name must not go back and
    // forth between them.
    let called_down = tally.down.get(address).map_or(0, |down| down.subjective);
    if tally.any_objective(address) || called_down >= tally.majority() {
        return Err(NotYet::Down(address.clone()));
    }
    if tally.being_replaced(address) || is_superseded(view, address) {
        return Err(NotYet::BeingReplaced(address.clone()));
    }
    epoch_allows(view, elected)?;
    let answer = passes(view, address)?;
    if let Some(loss) = data_loss(view) {
        return Err(NotYet::DataLoss(loss.why()));
    }
    if let Some(rival) = tally.rivals(elected).find(|rival| passes(view, rival).is_ok()) {
        return Err(NotYet::Contested(address.clone(), rival.clone()));
    }
    Ok(Named {
        writer: Writer::of(address, answer),
        evidence: evidence(view, elected),
        standing: Standing::New {
            unrelated: Lineage::of(answer, view.record) == Lineage::Unrelated,
        },
    })
}

/// No Sentinel that knows the group answers: how many do, and which groups they know.
pub(crate) fn no_sentinels(view: &View<'_>) -> NotYet {
    let others: BTreeSet<&GroupName> =
        view.sentinels().flat_map(|(_, answer)| &answer.others).collect();
    NotYet::NoSentinels {
        // Those that know it have answered before what is published now.
        answer: if view.groups().next().is_some() { 0 } else { view.sentinels_answering() },
        group: view.policy.group.clone(),
        others: others.into_iter().cloned().collect(),
    }
}

/// The published writer, which the majority names.
pub fn published(view: &View<'_>, current: &Writer, elected: &Elected) -> Named {
    let address = &current.address;
    // Its history changes when it restarts, and the next writer is compared with the new one.
    // An answer from before the record's last change would take it back to the old history, and another agent
    // would change it again.
    let asked = view.observed.instances.get(address).map(|reading| reading.asked);
    let recent = asked >= Some(view.memory.store_changed);
    let writer = match passes(view, address) {
        Ok(answer) if recent && is_sure(view, address, answer) => Writer::of(address, answer),
        Ok(_) | Err(_) => current.clone(),
    };
    let better = &writer != current || better_evidence(view, elected);
    let standing = if better { Standing::BetterKnown } else { Standing::Published };
    Named { writer, evidence: evidence(view, elected), standing }
}

/// What it writes is known for the group's history: one that was started a moment ago without data may have lost it
/// ([`data_loss`]), and what was heard of the others before it was started says nothing of that.
fn is_sure(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    if is_of_lineage(view.record, answer) || (answer.keys > 0 && !answer.started_empty) {
        return true;
    }
    let Some(own) = view.observed.instances.get(address) else { return false };
    let begun = Mono(own.asked.0.saturating_sub(answer.uptime_s.saturating_mul(1_000)));
    let rows = view.record.into_iter().flat_map(|record| &record.instances);
    let mut others = rows.map(|row| &row.address).filter(|other| *other != address);
    others.all(|other| view.observed.instances.get(other).is_none_or(|other| other.asked >= begun))
}

/// Rules 3 and 6: whether the majority's epoch lets it overrule what is recorded.
pub(crate) fn epoch_allows(view: &View<'_>, elected: &Elected) -> Result<(), NotYet> {
    let Some(record) = view.record else { return Ok(()) };
    let confirmed = record.evidence.confirmed_epoch;
    let later = confirmed.saturating_add(1);
    // Where the promotion's own epoch is known, nothing below it is newer.
    let elected_in = record.evidence.basis.epoch().unwrap_or(later);
    if promotion::is_awaited(view) && elected.epoch < elected_in.max(later) {
        return Err(NotYet::OldEpoch(elected.address.clone(), elected.epoch));
    }
    let lower = Condition::LowerEpoch(elected.address.clone(), elected.epoch);
    if elected.epoch < confirmed && !view.lasted(&lower, REBASELINE_AFTER_MS) {
        return Err(NotYet::LowerEpoch(elected.address.clone(), elected.epoch));
    }
    Ok(())
}

/// The instance passes the writer test.
pub(crate) fn passes<'a>(view: &View<'a>, address: &Address) -> Result<&'a InstanceAnswer, NotYet> {
    match view.test(address) {
        WriterTest::Passes(answer) => Ok(answer),
        WriterTest::Fails(why) => Err(NotYet::Refuses(address.clone(), why)),
        WriterTest::Unknown(why) => Err(NotYet::Unproven(address.clone(), why)),
    }
}

fn better_evidence(view: &View<'_>, elected: &Elected) -> bool {
    let Some(recorded) = view.record.map(|record| &record.evidence) else { return true };
    let lower = Condition::LowerEpoch(elected.address.clone(), elected.epoch);
    recorded.is_unconfirmed()
        || elected.epoch > recorded.confirmed_epoch
        || view.tally.known > recorded.known
        || view.lasted(&lower, REBASELINE_AFTER_MS)
        || fewer_known(view).is_some_and(|c| view.lasted(&c, FEWER_KNOWN_AFTER_MS))
}

fn evidence(view: &View<'_>, elected: &Elected) -> Evidence {
    let fewer = fewer_known(view).filter(|c| view.lasted(c, FEWER_KNOWN_AFTER_MS));
    let known = match fewer {
        Some(Condition::FewerKnown(known)) => known,
        _ => view.tally.known,
    };
    let basis = Basis::Majority { epoch: elected.epoch, votes: elected.votes };
    Evidence { basis, confirmed_epoch: elected.epoch, known }
}

/// The conditions of this module that hold now, for [`crate::known::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    lower_epoch(view).into_iter().chain(fewer_known(view)).collect()
}

fn lower_epoch(view: &View<'_>) -> Option<Condition> {
    let elected = view.tally.elected.as_ref()?;
    let confirmed = view.record?.evidence.confirmed_epoch;
    (elected.epoch < confirmed)
        .then(|| Condition::LowerEpoch(elected.address.clone(), elected.epoch))
}

/// Every Sentinel of a majority of the recorded electorate counts fewer than are recorded.
fn fewer_known(view: &View<'_>) -> Option<Condition> {
    let recorded = view.record?.evidence.known;
    let counted = view.tally.counted;
    let enough = view.tally.answering >= view.tally.majority();
    (enough && counted < recorded).then_some(Condition::FewerKnown(counted))
}
