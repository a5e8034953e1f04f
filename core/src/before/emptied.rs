//! A primary that has come back without its data, while others hold it.
//!
//! To Sentinels it is a primary that answers, so they go on announcing it, and those that follow it copy its
//! emptiness: at once, or after `repl-diskless-sync-delay` (5 s unless changed, since Redis 7). Three things keep the
//! data. Whoever holds it is pointed at nobody ([`shelters`]), where it can be chosen all the same; the emptied one is
//! not published; and one Sentinel is asked for a failover ([`replace`]), by the one agent whose transaction has written
//! that down. When those that may hold the data do not answer, they are waited for.

use std::fmt;

use crate::address::Address;
use crate::memory::Condition;
use crate::observed::{DownOpinion, InstanceAnswer, ReplId, Role, SentinelAnswer, SentinelGroup};
use crate::policy::{EMPTIED_UPTIME_MAX_S, REINSTATED_AFTER_MS, REPLACE_AGAIN_MS};
use crate::projection::is_nowhere;
use crate::record::EmptiedPrimary;
use crate::replicas::Roster;
use crate::view::View;
use crate::writer::{is_of_lineage, share_history};

/// A priority that nobody has changed.
const DEFAULT_PRIORITY: u64 = 100;

/// What was found: the primary without data, and those who may have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Emptied<'a> {
    /// The primary that a majority announces.
    pub primary: &'a Address,
    /// Its run.
    pub run_id: &'a str,
    /// Who holds the group's data.
    pub holders: Vec<(&'a Address, &'a InstanceAnswer)>,
    /// Who may hold it, and does not answer.
    pub unheard: Vec<Address>,
}

/// An instance that is to follow nobody for the time being, and keeps its data: it follows a primary that has none, or
/// says that it is a primary itself, and Sentinel would make it follow that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelter {
    /// The instance.
    pub instance: Address,
    /// The primary without data.
    pub from: Address,
    /// The run of the instance that was seen.
    pub run_id: String,
    /// The history of the instance that was seen: a promotion begins another.
    pub replid: ReplId,
}

/// One failover that is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The Sentinel to ask.
    pub sentinel: Address,
    /// The primary that has come back without its data.
    pub primary: Address,
}

/// Why a primary without data is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyEmptied {
    /// The primary.
    pub primary: Address,
    /// Who holds the data, and how many keys.
    pub holder: Option<(Address, u64)>,
    /// Who may hold it, when nobody does for certain.
    pub unheard: Vec<Address>,
}

impl fmt::Display for WhyEmptied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = &self.primary;
        if let Some((holder, keys)) = &self.holder {
            return write!(
                f,
                "{primary} came back without its data, and {holder} holds {keys} keys"
            );
        }
        let unheard: Vec<String> = self.unheard.iter().map(ToString::to_string).collect();
        let unheard = unheard.join(", ");
        write!(f, "{primary} came back without its data, and {unheard} may hold it")
    }
}

impl Emptied<'_> {
    fn condition(&self) -> Condition {
        Condition::Emptied(self.primary.clone())
    }

    /// In words.
    pub fn why(&self) -> WhyEmptied {
        let most = self.holders.iter().max_by_key(|(_, answer)| answer.keys);
        WhyEmptied {
            primary: self.primary.clone(),
            holder: most.map(|(address, answer)| ((*address).clone(), answer.keys)),
            unheard: self.unheard.clone(),
        }
    }
}

impl Shelter {
    /// Whether what the instance says at the last moment is still what was decided on.
    pub fn still_holds(&self, now: &InstanceAnswer) -> bool {
        let exposed = is_exposed(now, &self.from);
        exposed && now.run_id == self.run_id && now.replid == self.replid && now.keys > 0
    }
}

impl Replace {
    /// What was decided still holds for what the Sentinel says now.
    pub fn still_holds(&self, now: &SentinelAnswer) -> bool {
        let still =
            |group: &SentinelGroup| group.primary == self.primary && group.failover.is_none();
        now.group.as_ref().is_some_and(still)
    }
}

/// The primary that a majority announces, when it has come back without its data, and others hold it or may: those
/// that do not answer are waited for as long as for a first primary.
pub fn emptied<'a>(view: &View<'a>) -> Option<Emptied<'a>> {
    let found = find(view)?;
    let waited = view.memory.lasted(&found.condition(), view.policy.bootstrap_wait_ms, view.now);
    (!found.holders.is_empty() || !waited).then_some(found)
}

/// The condition of this module, for [`crate::memory::Memory::keep`].
pub fn condition(view: &View<'_>) -> Option<Condition> {
    find(view).map(|found| found.condition())
}

fn find<'a>(view: &View<'a>) -> Option<Emptied<'a>> {
    if !view.policy.replace_emptied {
        return None;
    }
    let elected = &view.tally.elected.as_ref()?.address;
    let (primary, reading) = view.observed.instances.get_key_value(elected)?;
    let answer = reading.since(view.since)?;
    let empty = matches!(answer.role, Role::Primary { .. })
        && answer.not_ready.is_none()
        && is_empty(view, primary, answer);
    if !empty {
        return None;
    }
    let (mut holders, mut unheard) = (Vec::new(), Vec::new());
    for other in Roster::new(view).followed().iter().filter(|other| *other != primary) {
        match view.observed.instances.get_key_value(other) {
            Some((address, reading)) => match reading.since(view.recent) {
                Some(own) if !is_loading(own) => {
                    if own.keys > 0 && !share_history(own, answer) && is_ours(view, address, own) {
                        holders.push((address, own));
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
    let run_id = answer.run_id.as_str();
    some.then_some(Emptied { primary, run_id, holders, unheard })
}

/// The replicas that are to stop following it now.
pub fn shelters(view: &View<'_>) -> Vec<Shelter> {
    let Some(emptied) = emptied(view) else { return Vec::new() };
    let due = |address: &Address, answer: &InstanceAnswer| {
        let replica = matches!(answer.role, Role::Replica { .. });
        is_exposed(answer, emptied.primary)
            && (replica || was_not_promoted(view, address, &answer.run_id))
            && view.memory.told_long_ago(address, view.now)
    };
    emptied
        .holders
        .iter()
        .filter(|(address, answer)| due(address, answer))
        .map(|(address, answer)| Shelter {
            instance: (*address).clone(),
            from: emptied.primary.clone(),
            run_id: answer.run_id.clone(),
            replid: answer.replid.clone(),
        })
        .collect()
}

/// A second primary with data may be one that a leader promotes, and that we do not hear. It is taken for a stray one
/// under the conditions under which a stray one is made a replica ([`super::fence`]): it has been one for long enough,
/// and every Sentinel has been asked since.
fn was_not_promoted(view: &View<'_>, address: &Address, run_id: &str) -> bool {
    let stray = Condition::Stray(address.clone());
    let wait_ms = view.memory.origin(address, run_id).left_alone_ms();
    let Some(seen) = view.memory.since.get(&stray) else { return false };
    let heard = view.observed.sentinels.values().all(|reading| reading.asked >= *seen);
    heard && view.memory.lasted(&stray, wait_ms, view.now)
}

/// It copies the primary's emptiness when it reaches it, or Sentinel would make it do so.
fn is_exposed(answer: &InstanceAnswer, primary: &Address) -> bool {
    match &answer.role {
        Role::Replica { of, .. } => of == primary,
        Role::Primary { .. } => true,
    }
}

/// The failover that is to be asked for now; `None` when there is no case, or it was asked for a moment ago.
///
/// # Errors
/// What speaks against it, in words.
pub fn replace(view: &View<'_>) -> Result<Option<Replace>, String> {
    let Some(emptied) = emptied(view) else { return Ok(None) };
    let wait = |why: String| format!("{}: {why}", emptied.why());
    if emptied.holders.is_empty() {
        return Ok(None);
    }
    let settled = view.memory.lasted(&emptied.condition(), REINSTATED_AFTER_MS, view.now);
    if let Some(unheard) = emptied.unheard.first().filter(|_| !settled) {
        return Err(wait(format!("{unheard}, which may hold more, does not answer yet")));
    }
    if view.tally.heard < view.tally.majority() {
        return Err(wait("no majority of the Sentinels answers".to_owned()));
    }
    let busy =
        |group: &SentinelGroup| group.failover.is_some() || group.down == DownOpinion::Objective;
    if view.groups().any(busy) {
        return Ok(None);
    }
    if let Some((address, _)) =
        emptied.holders.iter().find(|(_, answer)| is_exposed(answer, emptied.primary))
    {
        return Err(wait(format!("{address} has yet to let go of it")));
    }
    let first = would_choose(view)
        .ok_or_else(|| wait("the Sentinels see no replica that they could choose".to_owned()))?;
    if !emptied.holders.iter().any(|(address, _)| *address == first) {
        return Err(wait(format!(
            "the Sentinels would choose {first}, which does not hold it. Set `replica-priority 0` there (CONFIG SET), \
             and lower it where the data is"
        )));
    }
    if view.memory.replacing.at().is_some_and(|at| view.now.mono - at < REPLACE_AGAIN_MS) {
        return Ok(None);
    }
    let able = view.sentinels().find(|(_, answer)| {
        let group = answer.group.as_ref().filter(|_| !answer.tilt);
        group.is_some_and(|group| {
            let up = group.replicas.iter().any(|r| r.address == *first && !r.s_down);
            up && &group.primary == emptied.primary
        })
    });
    let (sentinel, _) =
        able.ok_or_else(|| wait(format!("no Sentinel sees {first} and trusts its clock")))?;
    Ok(Some(Replace { sentinel: sentinel.clone(), primary: emptied.primary.clone() }))
}

/// What the record notes of it when it is withdrawn, or a failover is asked for.
pub fn noted(view: &View<'_>, asked: Option<&Replace>) -> Option<EmptiedPrimary> {
    let emptied = emptied(view)?;
    let before = view.record.and_then(|record| record.emptied.as_ref());
    let before = before.filter(|noted| noted.run_id == emptied.run_id);
    let already = before.map_or(0, |noted| noted.asked);
    Some(EmptiedPrimary {
        instance: emptied.primary.clone(),
        run_id: emptied.run_id.to_owned(),
        asked: already + u64::from(asked.is_some()),
        sentinel: asked
            .map(|asked| asked.sentinel.clone())
            .or_else(|| before.and_then(|noted| noted.sentinel.clone())),
    })
}

/// It has no keys, or had none when it was started a moment ago. What clients have written since is not the group's
/// data; one that was found to be like that stays so while it runs.
fn is_empty(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let noted = view.record.and_then(|record| record.emptied.as_ref());
    let found = noted.is_some_and(|noted| noted.run_id == answer.run_id)
        || view.memory.since.contains_key(&Condition::Emptied(address.clone()));
    // One that has copied the group's data since it was started, or has led since, writes a history of the group.
    let began_anew = answer.started_empty && !is_of_lineage(view.record, answer);
    answer.keys == 0 || (began_anew && (answer.uptime_s <= EMPTIED_UPTIME_MAX_S || found))
}

/// The keys it shows are not all that it has.
fn is_loading(answer: &InstanceAnswer) -> bool {
    answer.not_ready.as_deref().is_some_and(|error| error.contains("LOADING"))
}

/// It writes, or follows, a history that a writer of this group has written; or it has its place here, and is a
/// replica by its own config. (An append-only file does not keep the history, `docs/facts/sentinel.md` 8.)
fn is_ours(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let placed = view.record.is_some_and(|record| record.role_of(address).is_some());
    let elected = view.tally.elected.as_ref().map(|elected| &elected.address);
    let follows = match &answer.role {
        Role::Replica { of, .. } => Some(of) == elected || is_nowhere(of),
        Role::Primary { .. } => false,
    };
    is_of_lineage(view.record, answer) || (placed && follows)
}

/// Whom a Sentinel would choose: of the replicas that answer, the lowest priority above 0, then the one that has come
/// farthest (`docs/facts/sentinel.md` 1).
fn would_choose<'a>(view: &View<'a>) -> Option<&'a Address> {
    let up = |address: &Address| {
        let counted = view.tally.replicas.get(address);
        counted.is_some_and(|count| count.up > 0 && count.down == 0)
    };
    view.observed
        .instances
        .iter()
        .filter_map(|(address, reading)| Some((address, reading.since(view.recent)?)))
        .filter(|(address, answer)| {
            let replica = matches!(answer.role, Role::Replica { .. });
            replica && answer.priority != Some(0) && up(address)
        })
        .min_by_key(|(_, answer)| {
            let priority = answer.priority.unwrap_or(DEFAULT_PRIORITY);
            (priority, std::cmp::Reverse(answer.offset))
        })
        .map(|(address, _)| address)
}
