//! A primary that has come back without its data, while others hold it.
//!
//! To Sentinels it is a primary that answers, so they go on announcing it, and those that follow it copy its emptiness:
//! at once, or after `repl-diskless-sync-delay` (5 s unless changed, since Redis 7). Three things keep the data. Each
//! instance that holds it is detached ([`detachments`]), and can be chosen all the same; the primary is not published;
//! and one Sentinel is asked for a failover ([`replace`]), by the one agent whose transaction has written that down.
//! When those that may hold the data do not answer, they are waited for.

use crate::identity::address::Address;
use crate::known::memory::{Condition, Origin};
use crate::known::observed::{
    DownOpinion, InstanceAnswer, ReplId, Role, SentinelAnswer, SentinelGroup,
};
use crate::known::view::View;
use crate::policy::{REINSTATED_AFTER_MS, REPLACE_AGAIN_MS, RESTARTED_EMPTY_UPTIME_MAX_S};
use crate::published::projection::is_detached_address;
use crate::published::record::DataLossRecord;
use crate::published::replicas::InstanceRows;
use crate::shown::reasons::{NotReplaced, WhyNotReplaced};
use crate::situation::election::led_in_silence;
pub use crate::situation::loss::DataLoss;
use crate::situation::superseded::is_superseded;
use crate::situation::writer::{is_of_lineage, share_history};
use crate::time::Mono;

/// Redis' default of `replica-priority`.
pub const DEFAULT_PRIORITY: u64 = 100;

/// An instance that is to be detached for the time being, and keeps its data: it follows a primary that has none, or
/// says that it is a primary itself, and Sentinel would make it follow that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// The instance that holds the data.
    pub instance: Address,
    /// The primary without data, which it would copy.
    pub from: Address,
    /// What the instance followed when it was seen, in its own words: a name may lead to that primary.
    pub follows: Option<Address>,
    /// The run of the instance that was seen.
    pub run_id: String,
    /// The history of the instance that was seen: a promotion begins another.
    pub replid: ReplId,
}

/// One `SENTINEL FAILOVER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The Sentinel that gets the command.
    pub sentinel: Address,
    /// The primary that is to be replaced.
    pub primary: Address,
    /// Why.
    pub why: WhyReplace,
}

/// Why a primary is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyReplace {
    /// It has come back without its data.
    DataLoss,
    /// Its process has ended ([`crate::situation::proof`]).
    Died {
        /// The `run_id` of the process.
        run_id: String,
        /// No Sentinel is asked any more after this: they begin to see it themselves.
        until: Mono,
    },
}

impl Detach {
    /// Whether what the instance says at the last moment is still what was decided on.
    pub fn still_holds(&self, now: &InstanceAnswer) -> bool {
        let exposed = match &now.role {
            Role::Replica { of, .. } => of == &self.from || Some(of) == self.follows.as_ref(),
            Role::Primary { .. } => true,
        };
        exposed && now.run_id == self.run_id && now.replid == self.replid && now.keys > 0
    }
}

impl Replace {
    /// What was decided still holds for what the Sentinel says now.
    pub fn still_holds(&self, now: &SentinelAnswer) -> bool {
        // One that agrees on the death is about to begin its own.
        let died = matches!(self.why, WhyReplace::Died { .. });
        let still = |group: &SentinelGroup| {
            group.primary == self.primary
                && group.failover.is_none()
                && !(died && group.down == DownOpinion::Objective)
        };
        now.group.as_ref().is_some_and(still)
    }
}

/// The primary that a majority announces, when it has come back without its data, and others hold it or may: those
/// that do not answer are waited for as long as for a first primary.
pub fn data_loss<'v>(view: &'v View<'_>) -> Option<&'v DataLoss> {
    let found = found(view)?;
    let waited = view.memory.lasted(&found.condition(), view.policy.bootstrap_wait_ms, view.now);
    (!found.holders.is_empty() || !waited).then_some(found)
}

/// The condition of this module, for [`crate::known::memory::Memory::keep`].
pub fn condition(view: &View<'_>) -> Option<Condition> {
    found(view).map(DataLoss::condition)
}

/// [`find`]'s answer, which a view works out once.
fn found<'v>(view: &'v View<'_>) -> Option<&'v DataLoss> {
    view.found.data_loss.get_or_init(|| find(view)).as_ref()
}

fn find(view: &View<'_>) -> Option<DataLoss> {
    if !view.policy.replace_emptied {
        return None;
    }
    let elected = &view.tally.elected.as_ref()?.address;
    let (primary, reading) = view.observed.instances.get_key_value(elected)?;
    let answer = reading.since(view.since)?;
    let empty =
        answer.is_primary() && answer.not_ready.is_none() && is_empty(view, primary, answer);
    if !empty {
        return None;
    }
    let (mut holders, mut unheard) = (Vec::new(), Vec::new());
    for other in InstanceRows::new(view).followed().iter().filter(|other| *other != primary) {
        match view.observed.instances.get_key_value(other) {
            Some((address, reading)) => match reading.since(view.recent) {
                Some(own) if !is_loading(own) => {
                    let lacks = own.keys > 0 && !share_history(own, answer);
                    if lacks && is_ours(view, primary, address, own) {
                        holders.push((address.clone(), own.keys));
                    }
                }
                Some(_) | None => unheard.push(address.clone()),
            },
            None => unheard.push(other.clone()),
        }
    }
    // Only those that had a place here can hold what is missing.
    unheard.retain(|address| view.record.is_some_and(|r| r.role_of(address).is_some()));
    let some = !holders.is_empty() || (!unheard.is_empty() && !is_of_lineage(view.record, answer));
    let (primary, run_id) = (primary.clone(), answer.run_id.clone());
    some.then_some(DataLoss { primary, run_id, holders, unheard })
}

/// The holders with what each says.
fn holders<'a>(
    view: &View<'a>,
    loss: &DataLoss,
) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> {
    loss.holders.iter().filter_map(|(address, _)| {
        let (address, reading) = view.observed.instances.get_key_value(address)?;
        Some((address, reading.since(view.recent)?))
    })
}

/// The replicas that are to stop following it now.
pub fn detachments(view: &View<'_>) -> Vec<Detach> {
    let Some(loss) = data_loss(view) else { return Vec::new() };
    let due = |address: &Address, answer: &InstanceAnswer| {
        let replica = answer.is_replica();
        is_exposed(view, answer, &loss.primary)
            && (replica || was_not_promoted(view, address, &answer.run_id))
            && view.memory.commanded_long_ago(address, view.now)
    };
    holders(view, loss)
        .filter(|(address, answer)| due(address, answer))
        .map(|(address, answer)| Detach {
            instance: address.clone(),
            from: loss.primary.clone(),
            follows: follows(answer).cloned(),
            run_id: answer.run_id.clone(),
            replid: answer.replid.clone(),
        })
        .collect()
}

/// A stray primary with data may be one that a leader promotes, and that we do not hear. It is taken for a stray one
/// under the conditions under which a stray one is made a replica ([`crate::duty::fence`]): it has been one for long
/// enough, and every Sentinel has been asked since.
fn was_not_promoted(view: &View<'_>, address: &Address, run_id: &str) -> bool {
    let stray = Condition::Stray(address.clone());
    let wait_ms = view.memory.origin(address, run_id).left_alone_ms();
    let Some(seen) = view.memory.since.get(&stray) else { return false };
    let heard = view.observed.sentinels.values().all(|reading| reading.asked >= *seen);
    let mut silent = led_in_silence(view.observed, view.recent).into_iter();
    heard
        && silent.all(|led| led.chosen.as_ref() != Some(address))
        && view.memory.lasted(&stray, wait_ms, view.now)
}

/// It copies the primary's emptiness when it reaches it, or may, or Sentinel would make it do so.
fn is_exposed(view: &View<'_>, answer: &InstanceAnswer, primary: &Address) -> bool {
    follows(answer).is_none_or(|of| may_be(view, of, primary))
}

fn follows(answer: &InstanceAnswer) -> Option<&Address> {
    match &answer.role {
        Role::Replica { of, .. } => Some(of),
        Role::Primary { .. } => None,
    }
}

/// Nothing proves that this address, in a replica's words, leads to another instance than the primary: a name leads
/// anywhere, and a process may listen at several addresses.
fn may_be(view: &View<'_>, of: &Address, primary: &Address) -> bool {
    if of == primary || is_detached_address(of) {
        return of == primary;
    }
    match (view.instance(of), view.instance(primary)) {
        (Some(there), Some(own)) => there.run_id == own.run_id,
        _ => !InstanceRows::new(view).known().contains(of),
    }
}

/// The failover that is to be asked for now; `None` when there is no case, or it was asked for a moment ago.
///
/// # Errors
/// What speaks against it.
pub fn replace(view: &View<'_>) -> Result<Option<Replace>, Box<NotReplaced>> {
    let Some(loss) = data_loss(view).filter(|loss| !loss.holders.is_empty()) else {
        return Ok(None);
    };
    let wait = |why: WhyNotReplaced| Box::new(NotReplaced { loss: loss.why(), why });
    let settled = view.memory.lasted(&loss.condition(), REINSTATED_AFTER_MS, view.now);
    if let Some(unheard) = loss.unheard.first().filter(|_| !settled) {
        return Err(wait(WhyNotReplaced::Unheard(unheard.clone())));
    }
    if view.tally.answering < view.tally.majority() {
        return Err(wait(WhyNotReplaced::NoMajority));
    }
    let busy =
        |group: &SentinelGroup| group.failover.is_some() || group.down == DownOpinion::Objective;
    if view.groups().any(busy) || is_superseded(view, &loss.primary) {
        return Ok(None);
    }
    let exposed =
        |(_, answer): &(&Address, &InstanceAnswer)| is_exposed(view, answer, &loss.primary);
    if let Some((address, _)) = holders(view, loss).find(exposed) {
        return Err(wait(WhyNotReplaced::StillFollows(address.clone())));
    }
    let first = would_choose(view).ok_or_else(|| wait(WhyNotReplaced::NoReplica))?;
    if !loss.holders.iter().any(|(address, _)| address == first) {
        return Err(wait(WhyNotReplaced::WouldChoose(first.clone())));
    }
    if view.memory.replacing.at().is_some_and(|at| view.now.mono - at < REPLACE_AGAIN_MS) {
        return Ok(None);
    }
    let able = view.sentinels().find(|(_, answer)| {
        let group = answer.group.as_ref().filter(|_| !answer.tilt);
        group.is_some_and(|group| group.sees(first) && group.primary == loss.primary)
    });
    let (sentinel, _) = able.ok_or_else(|| wait(WhyNotReplaced::NoSentinel(first.clone())))?;
    Ok(Some(Replace {
        sentinel: sentinel.clone(),
        primary: loss.primary.clone(),
        why: WhyReplace::DataLoss,
    }))
}

/// What the record notes of it when it is withdrawn, or a failover is asked for.
pub fn noted(view: &View<'_>, asked: Option<&Replace>) -> Option<DataLossRecord> {
    let loss = data_loss(view)?;
    let before = view.record.and_then(|record| record.data_loss.as_ref());
    let before = before.filter(|noted| noted.run_id == loss.run_id);
    let already = before.map_or(0, |noted| noted.asked);
    Some(DataLossRecord {
        instance: loss.primary.clone(),
        run_id: loss.run_id.clone(),
        asked: already.saturating_add(u64::from(asked.is_some())),
        sentinel: asked
            .map(|asked| asked.sentinel.clone())
            .or_else(|| before.and_then(|noted| noted.sentinel.clone())),
    })
}

/// It has begun anew and has no keys, or had none when it was started a moment ago. What clients have written since is
/// not the group's data; one that was found to be like that stays so while it runs.
fn is_empty(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let noted = view.record.and_then(|record| record.data_loss.as_ref());
    let found = noted.is_some_and(|noted| noted.run_id == answer.run_id)
        || view.memory.since.contains_key(&Condition::DataLoss(address.clone()));
    // One that has copied the group's data since it was started, or has led since, writes a history of the group.
    let ours = is_of_lineage(view.record, answer);
    if answer.keys > 0 {
        let began_anew = answer.started_empty && !ours;
        return began_anew && (answer.uptime_s <= RESTARTED_EMPTY_UPTIME_MAX_S || found);
    }
    // What has not restarted has lost nothing: it writes a history of the group itself, or was promoted in this run.
    // (One that loaded an old snapshot names the group's history too, as the one before its own.)
    let writes = view.record.is_some_and(|record| record.lineage.contains(&answer.replid));
    let promoted = ours && view.memory.origin(address, &answer.run_id) == Origin::WasReplica;
    !(writes || promoted)
}

/// The keys it shows are not all that it has.
fn is_loading(answer: &InstanceAnswer) -> bool {
    answer.not_ready.as_deref().is_some_and(|error| error.contains("LOADING"))
}

/// It writes, or follows, a history that a writer of this group has written; or it has its place here, and is a
/// replica by its own config. (An append-only file does not keep the history, `docs/facts/sentinel.md` 8.)
fn is_ours(view: &View<'_>, primary: &Address, address: &Address, answer: &InstanceAnswer) -> bool {
    let placed = view.record.is_some_and(|record| record.role_of(address).is_some());
    let follows = match &answer.role {
        Role::Replica { of, .. } if of == primary || is_detached_address(of) => true,
        // One that is connected has the history of what it follows, which is not this primary's.
        Role::Replica { of, link_up } => !link_up && may_be(view, of, primary),
        Role::Primary { .. } => false,
    };
    is_of_lineage(view.record, answer) || (placed && follows)
}

/// The replica that a Sentinel would choose: of the replicas that answer, the lowest priority above 0, then the one
/// that has come farthest (`docs/facts/sentinel.md` 1).
fn would_choose<'a>(view: &View<'a>) -> Option<&'a Address> {
    let up = |address: &Address| {
        let counted = view.tally.replicas.get(address);
        // One that is not announced is in no list, and may be chosen all the same.
        let hidden = view.instance(address).is_some_and(|answer| !answer.announced);
        hidden || counted.is_some_and(|count| count.up > 0 && count.down == 0)
    };
    view.observed
        .instances
        .iter()
        .filter_map(|(address, reading)| Some((address, reading.since(view.recent)?)))
        .filter(|(address, answer)| {
            let replica = answer.is_replica();
            replica && answer.priority != Some(0) && up(address)
        })
        .min_by_key(|(_, answer)| {
            let priority = answer.priority.unwrap_or(DEFAULT_PRIORITY);
            (priority, std::cmp::Reverse(answer.offset))
        })
        .map(|(address, _)| address)
}
