//! The mark in the data set ([`crate::identity::mark`]): when it is written, and what one that is found proves.
//!
//! It is written on the published writer alone, once a majority has confirmed that. It proves something only of a
//! primary that does not know its own history (an append-only file, or Redis before 7.0), and only at an address that
//! the group knows: a copy of the data that is restored elsewhere carries the mark too. Nothing is published, promoted
//! or taken in because of a mark.

use crate::identity::address::Address;
use crate::identity::mark::{DataMark, FoundMark, MARK_LEN_MAX, MarkKey};
use crate::known::observed::{InstanceAnswer, Role};
use crate::known::view::View;
use crate::policy::{MARK_AGAIN_MS, MARK_LATE_S};
use crate::published::record::Record;
use crate::published::replicas::InstanceRows;
use crate::shown::reasons::{NoProof, NotMarked, WhyNotMarked};
use crate::situation::data_loss::data_loss;
use crate::situation::writer::WriterTest;

/// The mark that is to be written, and on which instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marking {
    /// The published writer.
    pub instance: Address,
    /// The run of it that was seen: another run must be looked at anew.
    pub run_id: String,
    /// The key.
    pub key: MarkKey,
    /// What it is to hold.
    pub mark: DataMark,
}

impl Marking {
    /// Whether what the instance says at the last moment is still what this was decided on: another run, another role
    /// or another history must be looked at anew, and what is no mark is never overwritten.
    pub fn still_holds(&self, now: &InstanceAnswer) -> bool {
        now.run_id == self.run_id
            && now.is_primary()
            && now.not_ready.is_none()
            && !now.failover_running
            && now.replid == self.mark.history
            && matches!(now.mark, FoundMark::Absent | FoundMark::Is(_))
    }
}

/// What is to be written now, and what keeps the writer's data set without the mark of what is published.
pub fn marking(view: &View<'_>) -> (Option<Marking>, Option<NotMarked>) {
    let nothing = (None, None);
    let (Some(key), Some(record)) = (&view.policy.mark, view.record) else { return nothing };
    let (Some(writer), Some(mark)) = (record.writer_address(), DataMark::of(record)) else {
        return nothing;
    };
    let Some(answer) = settled(view, record, writer) else { return nothing };
    // Its history is about to be recorded; or it has the mark.
    if answer.replid != mark.history || answer.mark == FoundMark::Is(mark.clone()) {
        return nothing;
    }
    let marking =
        Marking { instance: writer.clone(), run_id: answer.run_id.clone(), key: key.clone(), mark };
    let not = |why: WhyNotMarked| NotMarked {
        writer: writer.clone(),
        generation: record.generation,
        key: key.clone(),
        why,
    };
    match &answer.mark {
        FoundMark::Unknown => return nothing,
        FoundMark::Other => return (None, Some(not(WhyNotMarked::Other))),
        FoundMark::Refused(words) => return (None, Some(not(WhyNotMarked::Unread(words.clone())))),
        FoundMark::Absent | FoundMark::Is(_) => {}
    }
    if marking.mark.encode().len() > MARK_LEN_MAX {
        return (None, Some(not(WhyNotMarked::TooLong)));
    }
    let failed = view
        .memory
        .not_marked
        .as_ref()
        .filter(|failed| failed.run_id == marking.run_id && failed.mark == marking.mark);
    let why = match failed {
        Some(failed) => Some(WhyNotMarked::Unwritten(failed.words.clone())),
        // One look has not tried: it sees only that agents have not.
        None if view.memory.generation.is_none() => {
            let age_s = view.now.wall.as_second().saturating_sub(record.since.as_second());
            (age_s >= MARK_LATE_S).then_some(WhyNotMarked::Late)
        }
        None => None,
    };
    let due = view.memory.marked.is_none_or(|at| view.now.mono - at >= MARK_AGAIN_MS);
    let wanted = (view.policy.write_mark && due).then_some(marking);
    (wanted, why.map(not))
}

/// The published writer's answer, while a majority names it and nothing is going on.
fn settled<'a>(view: &View<'a>, record: &Record, writer: &Address) -> Option<&'a InstanceAnswer> {
    let named = view.tally.elected.as_ref().is_some_and(|elected| &elected.address == writer);
    let calm = named && view.tally.failovers.is_empty() && !record.evidence.is_unconfirmed();
    match view.test(writer) {
        WriterTest::Passes(answer) if calm && data_loss(view).is_none() => Some(answer),
        WriterTest::Passes(_) | WriterTest::Fails(_) | WriterTest::Unknown(_) => None,
    }
}

/// Whether the mark of a stray primary proves that its data is the group's.
///
/// # Errors
/// [`NoProof`]: why it does not; `None` where no mark is asked for.
pub fn proof(
    view: &View<'_>,
    address: &Address,
    answer: &InstanceAnswer,
) -> Result<(), Option<NoProof>> {
    let mark = match &answer.mark {
        FoundMark::Unknown => return Err(None),
        FoundMark::Absent => return Err(Some(NoProof::Absent)),
        FoundMark::Other => return Err(Some(NoProof::Other)),
        FoundMark::Refused(words) => return Err(Some(NoProof::Unread(words.clone()))),
        FoundMark::Is(mark) => mark,
    };
    let record = view.record.ok_or(None)?;
    let generation = mark.generation;
    if !mark.is_named_as(record) {
        return Err(Some(NoProof::Anothers(Box::new(mark.clone()))));
    }
    if generation > record.generation {
        let published = record.generation;
        return Err(Some(NoProof::Later { generation, published }));
    }
    if !record.lineage.contains(&mark.history) {
        return Err(Some(NoProof::UnknownHistory { generation }));
    }
    if leads_others(view, answer) {
        return Err(Some(NoProof::LeadsOthers));
    }
    match has_place(view, record, address) {
        true => Ok(()),
        false => Err(Some(NoProof::NoPlace)),
    }
}

/// The mark says that the data is another group's: it has other names, and a history that is none of the group's. (One
/// that was written before the group got another prefix has a known history.)
pub fn is_anothers(view: &View<'_>, answer: &InstanceAnswer) -> bool {
    let (Some(mark), Some(record)) = (answer.mark.mark(), view.record) else { return false };
    !mark.is_named_as(record) && !record.lineage.contains(&mark.history)
}

/// It has a replica that the group does not know: it is the primary of something else.
pub fn leads_others(view: &View<'_>, answer: &InstanceAnswer) -> bool {
    let Role::Primary { replicas } = &answer.role else { return false };
    let known = InstanceRows::new(view).known();
    replicas.iter().any(|replica| !known.contains(&replica.address))
}

/// The group knows the address as one of its own instances'.
fn has_place(view: &View<'_>, record: &Record, address: &Address) -> bool {
    let store = view.observed.store.iter();
    let within_ms = view.policy.forget_after_ms;
    let mut former = store.flat_map(|store| store.former_writers(view.now.wall, within_ms));
    record.role_of(address).is_some()
        || view.is_ours(address)
        || former.any(|former| former == address)
}
