//! Members at new addresses: those that have lost one another meet again, and replicas follow their primary to where it
//! is now.

use super::order::{MetNode, NodeCommand};
use super::scene::{Due, DutyMemory, Present, Scene};
use super::table::{NodeId, TableRole, TableRow};
use crate::identity::address::Address;

/// Has one agent bring them together.
pub(super) fn again(scene: &Scene<'_>, memory: &mut DutyMemory, due: &mut Due) {
    let mut wanted = Due::default();
    meet_again(scene, &mut wanted);
    // Members that have lost one another have no majority for anything else.
    if scene.judged.is_some() {
        follow_again(scene, &mut wanted);
    }
    scene.in_turn(wanted, &mut memory.apart, due);
}

/// Has members meet that do not find one another any more.
fn meet_again(scene: &Scene<'_>, due: &mut Due) {
    let mut members = scene.members();
    // One that knows a node of another cluster would bring that with it.
    members.retain(|_, present| !knows_a_stranger(scene, present));
    for (one, Present { address, answer }) in &members {
        for row in answer.table.rows.values().filter(|row| row.id != **one && !row.is_well()) {
            let Some(there) = members.get(&row.id) else { continue };
            let bus_port = there.answer.table.own_row().and_then(|row| row.bus_port);
            if let Some(bus_port) = bus_port
                && is_elsewhere(scene, row, there)
            {
                let (id, at, blank) = (row.id.clone(), there.address.clone(), false);
                let met = MetNode { id, address: at, bus_port, blank };
                due.tell(address, one, NodeCommand::Meet(met));
            }
        }
    }
}

/// It has a node in its table that is neither recorded nor about to join, and was not forgotten.
pub(super) fn knows_a_stranger(scene: &Scene<'_>, present: &Present<'_>) -> bool {
    let claims = &scene.record.claims;
    let known = |id: &NodeId| {
        let joins = claims.joining.as_ref().is_some_and(|joining| joining.node.id == *id);
        joins || scene.record.is_own(id)
    };
    present.answer.table.rows.values().any(|row| !row.outside && !known(&row.id))
}

/// The row's node answers, and not at the address that the row has.
fn is_elsewhere(scene: &Scene<'_>, row: &TableRow, there: &Present<'_>) -> bool {
    let here = row.address.as_ref().and_then(|address| scene.answer(address));
    let answers_here = here.is_some_and(|answer| answer.table.own == row.id);
    row.address.as_ref() != Some(there.address) && !answers_here
}

/// A replica that knows where its primary is, and follows an address where it was: it is told to follow the same node.
fn follow_again(scene: &Scene<'_>, due: &mut Due) {
    for (id, Present { address, answer }) in scene.members() {
        let Some(own) = answer.table.own_row() else { continue };
        let TableRole::Replica(of) = &own.role else { continue };
        let Some(link) = answer.link.as_ref().filter(|link| !link.up) else { continue };
        let Some(row) = answer.table.rows.get(of).filter(|row| row.is_well() && row.linked) else {
            continue;
        };
        let primary = row.address.as_ref();
        // Its port may be that of TLS, where clients have another one.
        let host = |address: Option<&Address>| address.map(|at| at.host().to_owned());
        let followed = host(link.primary.as_ref());
        let elsewhere = followed.is_some() && followed != host(primary);
        let answers = primary.and_then(|at| scene.answer(at)).is_some_and(|a| a.table.own == *of);
        if elsewhere && answers {
            due.tell(address, id, NodeCommand::Replicate(of.clone()));
        }
    }
}
