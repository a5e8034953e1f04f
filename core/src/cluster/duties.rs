//! What agents do to a cluster besides looking at it. One thing at a time, each recorded before the first command: never
//! where no majority is heard, never beside a stranger, and never what loses data.

use std::collections::BTreeSet;

use super::claims::{Claims, Hastened, Making};
use super::record::ClusterRecord;
use super::renewal::{ClusterView, Renewed};
use super::scene::Scene;
pub use super::scene::{Due, DutyMemory, LeftDeath};
use super::table::NodeId;
use super::{hurry, join, leave, make, relink};

/// What is to be done now, beside what is to be published.
pub fn due(
    view: &ClusterView<'_>,
    renewed: &Renewed,
    claims_ms: u64,
    memory: &mut DutyMemory,
) -> Due {
    let duties = view.policy.duties;
    let claims = view.record.map(|record| record.claims.clone()).unwrap_or_default();
    let mut due = Due { claims, ..Due::default() };
    if !duties.manage {
        return due;
    }
    let Some(record) =
        view.record.filter(|record| !record.nodes.is_empty() || !record.claims.is_none())
    else {
        // A cluster that was not recorded yet is recorded first.
        let whole = renewed.judged.as_ref().is_some_and(|judged| judged.unowned.is_empty());
        if !whole && !view.paused {
            begin_to_make(view, &mut due);
        }
        return due;
    };
    let judged = renewed.judged.as_ref().filter(|_| renewed.held.is_none());
    let scene = Scene { view, record, judged, claims_ms };
    let begun: Claims = record.claims.clone();
    if view.paused {
        if let Some(hastened) = &begun.hastened {
            hurry::end(&scene, hastened, &mut due);
        }
        return due;
    }
    if let Some(making) = &begun.making {
        make::go_on(&scene, making, memory, &mut due);
        return due;
    }
    memory.made = None;
    if let Some(hastened) = &begun.hastened {
        hurry::note(&scene, hastened, memory);
        hurry::go_on(&scene, hastened, memory, &mut due);
    }
    if judged.is_none() {
        relink::again(&scene, memory, &mut due);
        return due;
    }
    let joining: BTreeSet<&NodeId> = begun.joining.iter().map(|joining| &joining.node.id).collect();
    if let Some(stranger) = scene.stranger(&joining) {
        due.obstacle = Some(format!(
            "nothing is done to the cluster: its voters know node {stranger}, which is not recorded"
        ));
        return due;
    }
    if let Some(joining) = &begun.joining {
        join::go_on(&scene, joining, &mut due);
    }
    if let Some(leaving) = &begun.leaving {
        leave::go_on(&scene, leaving, &mut due);
    }
    let may_hasten = begun.hastened.as_ref().is_none_or(Hastened::is_past);
    if may_hasten && due.claims.hastened == begun.hastened {
        hurry::begin(&scene, memory, &mut due);
    }
    hurry::catch_up(&scene, memory, &mut due);
    relink::again(&scene, memory, &mut due);
    if duties.forget_after_ms.is_some() {
        leave::forget_again(&scene, memory, &mut due);
    }
    if due.claims.is_busy() || begun.is_busy() {
        return due;
    }
    join::begin(&scene, duties.replicas_max, &mut due);
    if due.claims.joining.is_none()
        && let Some(after_ms) = duties.forget_after_ms
    {
        leave::begin(&scene, after_ms, &mut due);
    }
    due
}

/// What is recorded, and that a primary has died, where this host's kernel says so: that waits for no other node's
/// answer, and the names stay as they are.
pub fn claim_death(
    view: &ClusterView<'_>,
    renewed: &Renewed,
    memory: &DutyMemory,
) -> Option<ClusterRecord> {
    let (record, duties) = (view.record?, view.policy.duties);
    let before = record.claims.hastened.as_ref();
    let free = record.claims.making.is_none() && before.is_none_or(Hastened::is_past);
    let judged = renewed.judged.as_ref().filter(|_| renewed.held.is_none())?;
    let scene = Scene { view, record, judged: Some(judged), claims_ms: 0 };
    let joining = record.claims.joining.iter().map(|joining| &joining.node.id).collect();
    if view.paused
        || !duties.manage
        || !duties.hasten
        || !free
        || scene.stranger(&joining).is_some()
    {
        return None;
    }
    let mut due = Due { claims: record.claims.clone(), ..Due::default() };
    hurry::begin(&scene, memory, &mut due);
    let hastened = due.claims.hastened.as_ref();
    let proven = hastened != before && hastened.is_some_and(|hastened| hastened.pid.is_some());
    proven.then(|| ClusterRecord { claims: due.claims, ..record.clone() })
}

fn begin_to_make(view: &ClusterView<'_>, due: &mut Due) {
    let Some(wanted) = view.policy.duties.make else { return };
    let nodes = view.nodes.iter().map(|(address, seen)| (address, seen.now()));
    let zone = view.policy.zone.as_ref();
    match make::blank_nodes(nodes, |address| view.site(address), wanted, zone) {
        Ok(nodes) => {
            let shards = make::plan(&nodes, wanted.shards);
            due.claims.making = Some(Making { begun: view.begun(), shards });
        }
        Err(why) => due.obstacle = Some(format!("the cluster is not made yet: {why}")),
    }
}
