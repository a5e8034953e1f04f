//! Slots that move from one member to another: which, as the two say it, and what stays recorded of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::slots::{SlotRange, append};
use super::table::{NodeId, OpenSlot, TableRole, TableRow};

/// Slots that move between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMigration {
    /// The node that has had them.
    pub from: NodeId,
    /// The node that gets them.
    pub to: NodeId,
    /// The slots, in order.
    pub slots: Vec<SlotRange>,
}

/// From where to where, and which.
type Moves = BTreeMap<(NodeId, NodeId), BTreeSet<u16>>;

/// What moves, as nodes say it, each in its own row: one of the two is enough.
pub(super) fn said<'a>(own_rows: impl Iterator<Item = &'a TableRow>) -> Vec<SlotMigration> {
    let mut moves = Moves::new();
    for own in own_rows {
        // A replica has what its primary has.
        let here = match &own.role {
            TableRole::Replica(of) => of,
            TableRole::Primary | TableRole::Unknown => &own.id,
        };
        for OpenSlot { slot, importing, other } in &own.open {
            let (from, to) = if *importing { (other, here) } else { (here, other) };
            moves.entry((from.clone(), to.clone())).or_default().insert(*slot);
        }
    }
    listed(moves)
}

/// What is recorded next. A member that does not answer this agent, and that the cluster has not lost, may say to another
/// agent what is recorded: that stays.
pub(super) fn recorded(
    said: &[SlotMigration],
    before: &[SlotMigration],
    unheard: impl Fn(&NodeId) -> bool,
) -> Vec<SlotMigration> {
    let stays = before.iter().filter(|one| unheard(&one.from) || unheard(&one.to));
    let mut moves = Moves::new();
    for SlotMigration { from, to, slots } in said.iter().chain(stays) {
        let slots = slots.iter().flat_map(|range| range.first()..=range.last());
        moves.entry((from.clone(), to.clone())).or_default().extend(slots);
    }
    listed(moves)
}

fn listed(moves: Moves) -> Vec<SlotMigration> {
    let migration = |((from, to), all): ((NodeId, NodeId), BTreeSet<u16>)| {
        let mut slots = Vec::new();
        for slot in all {
            SlotRange::new(slot, slot).into_iter().for_each(|one| append(&mut slots, one));
        }
        SlotMigration { from, to, slots }
    };
    moves.into_iter().map(migration).collect()
}
