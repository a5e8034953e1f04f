//! The veto layer: what must never be done, checked again, apart from the rules that wanted it.

use super::action::{Action, Purpose, Write};
use super::address::Address;
use super::observed::Role;
use super::projection::TXN_OPS_MAX;
use super::record::PublishedRole;
use super::view::View;

/// Why an action must not be done, or `None` when it may.
pub fn veto(view: &View<'_>, action: &Action) -> Option<String> {
    match action {
        Action::Write(write) => veto_write(view, write),
        Action::Hold(hold) => {
            let certain = says_primary(view, &hold.superseded_by);
            (!certain).then(|| format!("nothing supersedes {} for certain", hold.instance))
        }
        Action::Tell(tell) => {
            if view.writer() != Some(&tell.primary) {
                return Some(format!("{} is not the published writer", tell.primary));
            }
            let leaving = view.tally.being_replaced(&tell.primary);
            leaving.then(|| format!("{} is being replaced", tell.primary))
        }
    }
}

fn veto_write(view: &View<'_>, write: &Write) -> Option<String> {
    if write.ops.len() > TXN_OPS_MAX {
        return Some(format!("{} operations in one transaction", write.ops.len()));
    }
    let record = write.record.as_ref()?;
    let primaries: Vec<&Address> = record
        .instances
        .iter()
        .filter(|i| i.role == PublishedRole::Primary)
        .map(|i| &i.address)
        .collect();
    if primaries != record.writer_address().into_iter().collect::<Vec<_>>() {
        return Some("the rows and the writer would tell different stories".to_owned());
    }
    let begins = matches!(write.purpose, Purpose::Publish | Purpose::Withdraw);
    if begins && record.generation <= view.memory.generation_max {
        return Some(format!("generation {} has been used", record.generation));
    }
    if !begins && view.writer() != record.writer_address() {
        return Some(format!("a {} cannot change the writer", write.purpose.as_str()));
    }
    let writer = record.writer_address().filter(|_| write.purpose == Purpose::Publish)?;
    let proved = says_primary(view, writer);
    (!proved).then(|| format!("{writer} has not said that it is the primary"))
}

/// The instance's last answer is recent and says primary.
fn says_primary(view: &View<'_>, address: &Address) -> bool {
    view.instance(address).is_some_and(|answer| matches!(answer.role, Role::Primary { .. }))
}
