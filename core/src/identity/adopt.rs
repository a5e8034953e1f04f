//! An operator's word that the Sentinels here are the group's electorate from now on (`consul-redis adopt`).
//!
//! It changes whose word counts, and no data: where the primary that is named does not go on from what was published,
//! the histories before are no more the group's own, and no instance that holds them is made a replica.

use crate::duty::sentinels::{addresses, ids};
use crate::identity::electorate::not_ours;
use crate::known::view::View;
use crate::published::projection::{Layout, Op, project, row_changes};
use crate::published::publication::NotYet;
use crate::published::record::{Basis, Change, Evidence, RECORD_VERSION, Record, Timeline, Writer};
use crate::published::write::{remembered, transaction};
use crate::shown::reasons::{NotAdopted, NotOurs};
use crate::situation::writer::WriterTest;

/// What an adoption writes, and what it means.
#[derive(Debug)]
pub struct Adoption {
    /// The record as it becomes.
    pub record: Record,
    /// The operations, fenced by what was read.
    pub ops: Vec<Op>,
    /// What it changes, for a person to decide on.
    pub means: Vec<String>,
}

/// What it takes for the Sentinels that answer here to be the group's electorate.
///
/// # Errors
/// [`NotAdopted`]: why there is nothing to adopt, or why it cannot be.
pub fn adoption(view: &View<'_>, layout: &Layout) -> Result<Adoption, Box<NotAdopted>> {
    let store = view.observed.store.as_ref().ok_or(NotAdopted::NothingPublished)?;
    let before = view.record.ok_or(NotAdopted::NothingPublished)?;
    let rows = view.observed.rows.as_ref();
    if rows.is_none_or(|rows| rows.is_anothers(layout)) {
        return Err(Box::new(NotAdopted::ForeignNode(layout.node())));
    }
    let why = not_ours(view).ok_or(NotAdopted::IsOurs)?;
    let mut record = before.clone();
    record.generation = before.generation.saturating_add(1);
    record.nonce = format!("{}-{}-adopt", view.policy.agent, view.policy.run);
    record.by.clone_from(&view.policy.agent);
    record.v = RECORD_VERSION;
    record.since = view.now.wall;
    record.writer = None;
    record.prefix = Some(layout.prefix.clone());
    (record.claim, record.reset, record.data_loss) = (None, None, None);
    let mut means = Vec::new();
    if before.installation != view.policy.installation {
        record.installation.clone_from(&view.policy.installation);
        let name = record.installation.as_ref();
        means.push(match name {
            Some(name) => format!("it belongs to installation `{name}`"),
            None => "it belongs to no installation".to_owned(),
        });
    }
    if let NotOurs::Sentinels { .. } = why {
        rest_on_these(view, before, &mut record, &mut means)?;
    }
    record.evidence.basis = Basis::None { votes: 0 };
    record.why = format!("adopted by an operator: {}", means.join("; "));
    means.push("the agents of the Sentinels before publish it no more".to_owned());
    let shown = project(&record);
    let mut changes = Vec::new();
    if rows.is_some_and(|rows| rows.found.is_some()) {
        // In one operation, however many rows there are.
        changes.push(Op::NodeDelete { node: layout.node() });
    }
    changes.extend(row_changes(&layout.node(), None, &shown.rows));
    changes.extend(crate::published::projection::plain_changes(layout, &store.plain, &shown.plain));
    let change = Change {
        generation: record.generation,
        at: record.since,
        from: before.writer_address().cloned(),
        to: None,
        level: None,
        epoch: None,
        why: record.why.clone(),
        by: record.by.clone(),
        timeline: Timeline::default(),
    };
    let history = remembered(store, change);
    let ops = transaction(layout, store, &record, changes, Some(&history));
    Ok(Adoption { record, ops, means })
}

/// The Sentinels here, and the primary that they name, as those of the group.
fn rest_on_these(
    view: &View<'_>,
    before: &Record,
    record: &mut Record,
    means: &mut Vec<String>,
) -> Result<(), Box<NotAdopted>> {
    let (heard, known) = (view.tally.answering, view.tally.counted);
    let no_majority = || NotAdopted::NoPrimary(NotYet::NoMajority { heard, known });
    // Against those that they know, for those that are recorded are others.
    let mut votes = view.tally.votes.iter();
    let most = votes.find(|(_, votes)| votes.count > known / 2).ok_or_else(no_majority)?;
    let (primary, WriterTest::Passes(answer)) = (most.0, view.test(most.0)) else {
        return Err(Box::new(NotAdopted::NotPrimary(most.0.clone())));
    };
    record.sentinel_ids = ids(view);
    record.sentinels = addresses(view).unwrap_or_else(|| {
        let heard = view.sentinels().filter(|(_, answer)| answer.group.is_some());
        heard.map(|(at, _)| at.clone()).collect()
    });
    record.evidence = Evidence { basis: Basis::None { votes: 0 }, confirmed_epoch: 0, known };
    // The instances of before are no more the group's: those that are named get rows again.
    record.instances.clear();
    let names: Vec<String> = record.sentinels.iter().map(ToString::to_string).collect();
    means.push(format!("it rests on the Sentinels {}, which name {primary}", names.join(", ")));
    let keys = answer.keys;
    if view.age(answer).is_some() {
        record.last_writer = Some(Writer::of(primary, answer));
        means.push(format!(
            "{primary} ({keys} keys) goes on from what was published: an instance of before that comes back is made its replica"
        ));
    } else {
        record.lineage.clear();
        record.last_writer = None;
        let last = before.last_writer.as_ref().map(|last| last.address.to_string());
        means.push(format!(
            "{primary} ({keys} keys) does not go on from what was published: no data is deleted, and instances that hold what \
             was published, such as {}, are left as they are",
            last.unwrap_or_default()
        ));
    }
    Ok(())
}
