//! Stray primaries: an instance that says it is a primary while a majority names another one.
//!
//! Sentinel leaves one alone for 10 s, and it takes writes meanwhile that are lost when it is turned into a
//! replica (`docs/facts/sentinel.md` 4.1). It is turned into one at once instead: a returned old primary
//! (its clients are disconnected too), or a blank instance that was just started. Never an instance that Sentinels
//! may be promoting, and never one that holds unrelated data.

use crate::duty::mark::{self, leads_others};
use crate::identity::address::Address;
use crate::known::memory::{Condition, Origin};
use crate::known::observed::{InstanceAnswer, ReplId, Role, SentinelPeer};
use crate::known::view::View;
use crate::policy::{
    Announce, LEFT_BEHIND_FOR_MS, LEFT_BEHIND_MS, RESTARTED_EMPTY_UPTIME_MAX_S, STRAY_UNSEEN_MS,
};
use crate::published::projection::is_detached_address;
use crate::published::replicas::{InstanceRows, named_by};
pub use crate::shown::reasons::{LeftAlone, WhyLeft};
use crate::situation::bootstrap::{is_untold, may_follow_untold};
use crate::situation::data_loss::data_loss;
use crate::situation::election::{Tally, TallyBounds, led_in_silence};
use crate::situation::writer::{Lineage, WriterTest, share_history, writer_test};

/// One stray primary that is to follow the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The stray primary, which becomes a replica.
    pub instance: Address,
    /// The run of it that was seen: another run must be looked at anew.
    pub run_id: String,
    /// The writer that it is to follow, in exactly the words Sentinel announces.
    pub follow: Address,
    /// The run of that one, where it was seen: an instance that answers at another address as well is never made a
    /// replica of itself.
    pub follow_run: Option<String>,
    /// What it is.
    pub kind: StrayKind,
    /// The history it writes. It begins another one when it is promoted, so a command that arrives late,
    /// when the instance has been a replica and was promoted again, is recognised.
    pub replid: ReplId,
}

/// What kind of stray primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayKind {
    /// It holds the group's data.
    Returned,
    /// It holds no data at all.
    Blank,
    /// One of the group's instances that was restarted without its data, and may have taken a few writes since, from
    /// clients that were still connected to it.
    RestartedEmpty,
    /// No primary but a replica: detached, or of an address that does not answer while no Sentinel knows it.
    Lost,
    /// A replica of the primary before, which no leader will point at the new one any more.
    LeftBehind,
}

/// The stray primaries: those to be turned into replicas now, and those that are left alone.
pub fn fences(view: &View<'_>) -> (Vec<Fence>, Vec<LeftAlone>) {
    let (mut fences, mut left) = (Vec::new(), Vec::new());
    let Some(writer) = view.writer() else {
        // There is no writer that it could follow.
        return (fences, left);
    };
    if data_loss(view).is_some_and(|loss| &loss.primary == writer) {
        // It is about to be withdrawn, and no instance with data is to copy its emptiness.
        return (fences, left);
    }
    for (address, answer) in stray_primaries(view) {
        match judge(view, address, answer) {
            Ok(fence) if view.memory.commanded_long_ago(address, view.now) => fences.push(fence),
            Ok(_) => {}
            // A replica that is to follow the writer in a moment is no second primary.
            Err(WhyLeft::MayBePromoted | WhyLeft::NoCertainWriter(_)) if answer.is_replica() => {}
            Err(why) => left.push(LeftAlone { instance: address.clone(), why }),
        }
    }
    (fences, left)
}

impl Fence {
    /// Whether what answers where the writer is, right before the command, is still the process that leads: a command
    /// that comes late makes no instance a replica of a writer that is gone, nor of itself.
    pub fn is_led_by(&self, writer: &InstanceAnswer) -> bool {
        let same = self.follow_run.as_ref().is_none_or(|run| *run == writer.run_id);
        same && writer.run_id != self.run_id && writer.is_primary()
    }

    /// Whether what the instance says at the last moment is still what the fence was decided on: another
    /// run, another history, or data where there was none, must be looked at anew.
    pub fn still_holds(&self, now: &InstanceAnswer) -> bool {
        let blank_still = self.kind != StrayKind::Blank || now.keys == 0;
        blank_still
            && now.run_id == self.run_id
            && Some(&now.run_id) != self.follow_run.as_ref()
            && now.replid == self.replid
            && now.shows_its_data()
            && match now.role {
                Role::Primary { .. } => {
                    !matches!(self.kind, StrayKind::Lost | StrayKind::LeftBehind)
                }
                Role::Replica { link_up, ref of } => match self.kind {
                    StrayKind::Lost => !link_up,
                    StrayKind::LeftBehind => of != &self.follow,
                    _ => false,
                },
            }
    }
}

/// Every instance that says it is a primary, and is neither published nor named by a majority.
pub fn stray_primaries<'v, 'a>(
    view: &'v View<'a>,
) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> + use<'v, 'a> {
    let (known, watched) = (InstanceRows::new(view).followed(), InstanceRows::new(view).watched());
    let elected = view.tally.elected.as_ref().map(|elected| elected.address.clone());
    let (writer, recent) = (view.writer(), view.recent);
    view.observed
        .instances
        .iter()
        .filter(move |(address, _)| {
            watched.contains(*address)
                && Some(*address) != writer
                && Some(*address) != elected.as_ref()
                && view.alias_of(address).is_none()
        })
        .filter_map(move |(address, reading)| Some((address, reading.since(recent)?)))
        .filter(|(address, answer)| {
            let primary = answer.is_primary();
            match known.contains(*address) {
                true => {
                    primary
                        || is_lost(view, address, answer)
                        || is_left_behind(view, address, answer)
                }
                false => may_be_former(view, answer),
            }
        })
}

/// What answers at the address of a writer of before may be that one: it holds data of the group, or such as cannot
/// tell. The address may be another group's by now: then its data says so, or it has replicas of its own, or there is
/// nothing to lose.
pub(crate) fn may_be_former(view: &View<'_>, answer: &InstanceAnswer) -> bool {
    let cannot_tell = || {
        let marked = answer.forgets_history() && answer.mark.mark().is_some();
        (answer.append_only || marked)
            && !mark::is_anothers(view, answer)
            && !leads_others(view, answer)
    };
    answer.is_primary() && answer.keys > 0 && (view.age(answer).is_some() || cannot_tell())
}

/// A registered instance that follows something that does not answer, and that no Sentinel would point anywhere
/// else soon: none knows it, or it is detached, which they let be for `failover-timeout`.
fn is_lost(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let Role::Replica { of, link_up: false } = &answer.role else { return false };
    let writer = view.writer();
    let listed = || writer.and_then(|at| view.instance(at)).is_some_and(|own| own.lists(address));
    // In its first sync: it has the writer by another one of its names.
    let begins = is_untold(view) && !is_detached_address(of) && listed();
    if begins || follows_known_replica(view, of, answer) {
        return false;
    }
    let has_row = view.record.is_some_and(|record| record.role_of(address).is_some());
    let ours = has_row
        || view.observed.registered.contains(address)
        || view.policy.local.contains(address);
    let known = view.groups().any(|group| named_by(group).any(|named| named == address));
    ours && (!known || is_detached_address(of)) && writer.is_some_and(|writer| writer != of)
}

/// It follows the primary before, and no leader is at work that would point it at the new one: it died, or the agents have
/// told the Sentinels in its place. Sentinel itself would do so some 10 s later with one that it lists, and never with one
/// that began to follow that primary just before the failover: the agent beside that one does it, where it saw that
/// failover. One that follows an earlier primary since then is where its operator wants it.
pub(crate) fn is_left_behind(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let Role::Replica { of, .. } = &answer.role else { return false };
    let store = view.observed.store.as_ref();
    // A withdrawal may stand between them.
    let mut changes = store.into_iter().flat_map(|store| &store.history);
    let other = |from: &&Address| Some(*from) != view.writer();
    let before = changes.find_map(|change| change.from.as_ref().filter(other));
    let led = || view.groups().any(|group| group.failover.is_some());
    let memory = view.memory;
    let lately = view.now.mono - memory.generation_seen() <= LEFT_BEHIND_FOR_MS;
    let joined = view.policy.local.contains(address) && memory.saw_it_begin && lately;
    let known = view.is_listed(address) || joined;
    before == Some(of) && known && (is_eager(view) || !led())
}

fn is_eager(view: &View<'_>) -> bool {
    view.policy.announce == Announce::Eager
}

/// It follows another instance of the group, as its operator wants, and that one is only away: it has the writer's own
/// history, which it can have from nowhere else. (One that followed a primary that is gone has that one's.)
fn follows_known_replica(view: &View<'_>, of: &Address, answer: &InstanceAnswer) -> bool {
    let writer = view.writer().filter(|writer| *writer != of);
    let same = writer.and_then(|writer| view.instance(writer)).map(|own| &own.replid);
    same == Some(&answer.replid) && InstanceRows::new(view).known().contains(of)
}

/// An instance that has nothing to lose is made a replica of the writer now, or in a moment.
pub(crate) fn is_to_follow(view: &View<'_>) -> bool {
    let mut strays = stray_primaries(view).filter(|(_, answer)| answer.loses_nothing());
    strays.any(|(address, answer)| match judge(view, address, answer) {
        Ok(_) => true,
        Err(why) => matches!(why, WhyLeft::MayBePromoted | WhyLeft::NoCertainWriter(_)),
    })
}

/// Which one is the writer is certain, and what this one holds is not the writer's data: no agent makes a replica of it.
pub(crate) fn is_left_for_good(
    view: &View<'_>,
    address: &Address,
    answer: &InstanceAnswer,
) -> bool {
    let why = judge(view, address, answer).err();
    why.is_some_and(|why| {
        matches!(why, WhyLeft::Unrelated { .. } | WhyLeft::WriterIsEmpty { .. } | WhyLeft::Stranger)
    })
}

fn judge(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> Result<Fence, WhyLeft> {
    if !view.policy.fence {
        return Err(WhyLeft::SwitchedOff);
    }
    let (follow, writer) = certain_writer(view, address).map_err(WhyLeft::NoCertainWriter)?;
    let kind = match answer.role {
        // Without a key too: a client may write to it before the command arrives, and it is the same one still.
        Role::Primary { .. } if restarted_empty(view, address, answer) => StrayKind::RestartedEmpty,
        _ if answer.keys > 0 && !is_related(view, address, answer, writer) => {
            return Err(unrelated(view, address, answer, &follow));
        }
        Role::Replica { .. } if is_left_behind(view, address, answer) => StrayKind::LeftBehind,
        Role::Replica { .. } => StrayKind::Lost,
        Role::Primary { .. } if answer.keys == 0 => {
            if !view.is_ours(address) {
                return Err(WhyLeft::Stranger);
            }
            StrayKind::Blank
        }
        Role::Primary { .. } => StrayKind::Returned,
    };
    // What an instance without its data has taken since is not the group's data.
    if answer.keys > 0 && writer.keys == 0 && kind != StrayKind::RestartedEmpty {
        return Err(WhyLeft::WriterIsEmpty { writer: follow, keys: answer.keys });
    }
    if !answer.shows_its_data() {
        return Err(WhyLeft::NoCertainWriter("it is not ready yet"));
    }
    let at_once = match &answer.role {
        Role::Primary { .. } => kind == StrayKind::Blank,
        Role::Replica { of, .. } => is_detached_address(of),
    };
    let wait_ms = match view.memory.origin(address, &answer.run_id) {
        _ if at_once && is_untold(view) => 0,
        _ if kind == StrayKind::Lost => STRAY_UNSEEN_MS,
        _ if kind == StrayKind::LeftBehind && is_eager(view) => 0,
        _ if kind == StrayKind::LeftBehind => LEFT_BEHIND_MS,
        _ if was_overtaken(view, answer) => 0,
        Origin::Unseen if answer.not_lately_promoted() => 0,
        origin => origin.left_alone_ms(),
    };
    if !view.memory.lasted(&Condition::Stray(address.clone()), wait_ms, view.now) {
        return Err(WhyLeft::MayBePromoted);
    }
    let (instance, run_id) = (address.clone(), answer.run_id.clone());
    let (follow_run, replid) = (Some(writer.run_id.clone()), answer.replid.clone());
    Ok(Fence { instance, run_id, follow, follow_run, kind, replid })
}

/// No failover that is under way promotes it: it goes on from the data of a writer before, and what is promoted in the
/// place of the writer goes on from the writer's own. The failover that chose it is over, and its command was late
/// (`docs/facts/sentinel.md` 21). A Sentinel that only this agent does not reach may know better.
fn was_overtaken(view: &View<'_>, answer: &InstanceAnswer) -> bool {
    let earlier = view.age(answer).is_some() && !Lineage::of(answer, view.record).continues();
    let heard = |peer: &SentinelPeer| view.sentinels().any(|(_, other)| other.id == peer.id);
    let mut peers = view.groups().flat_map(|group| &group.peers);
    earlier && !peers.any(|peer| !peer.s_down && !heard(peer))
}

/// It holds data of the group. Where it cannot say which history its data belongs to
/// ([`InstanceAnswer::forgets_history`]), it is known by its place: a majority of the Sentinels lists it, which would
/// make it a replica all the same, only later; or the agent on its own host has seen the run before at this address,
/// with a history of the group; or its data set has a mark, and the mark goes before the place, which is a guess.
fn is_related(
    view: &View<'_>,
    address: &Address,
    answer: &InstanceAnswer,
    writer: &InstanceAnswer,
) -> bool {
    let by_place = || {
        let seen = view.memory.histories.get(address);
        let before =
            seen.is_some_and(|id| is_known(view, id)) && view.policy.local.contains(address);
        let placed = view.record.is_some_and(|record| record.role_of(address).is_some());
        (placed && view.is_listed(address)) || before || was_seen(view, address, answer)
    };
    let marked = || answer.is_primary() && mark::proof(view, address, answer).is_ok();
    share_history(answer, writer)
        || view.age(answer).is_some()
        || (answer.forgets_history()
            && !mark::is_anothers(view, answer)
            && (marked() || by_place()))
}

/// The agent on its host has noted in Consul that it had data of the group, and it was started from the same config
/// file. One under `exec` never starts as a primary, and has a note with its data.
fn was_seen(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let Some(store) = &view.observed.store else { return false };
    // Its agent may have it by another one of its addresses.
    let others = view.aliases().iter().filter(|(_, of)| *of == address).map(|(other, _)| other);
    let mut seen = others.chain([address]).filter_map(|at| store.seen.get(at));
    answer.is_primary()
        && seen.any(|seen| is_known(view, &seen.of) && seen.config_file == answer.config_file)
}

fn is_known(view: &View<'_>, history: &ReplId) -> bool {
    view.record.is_some_and(|record| record.lineage.contains(history))
}

/// Why an instance with other data is left alone: it is another group's, or it was the group's and cannot prove what it
/// holds.
fn unrelated(
    view: &View<'_>,
    address: &Address,
    answer: &InstanceAnswer,
    writer: &Address,
) -> WhyLeft {
    let keys = answer.keys;
    let store = view.observed.store.as_ref();
    let mut changes = store.into_iter().flat_map(|store| &store.history);
    let until = changes.find(|change| change.from.as_ref() == Some(address));
    let until = until.map(|change| change.generation.saturating_sub(1));
    let placed = view.record.is_some_and(|record| record.role_of(address).is_some());
    let anothers = mark::is_anothers(view, answer);
    let mark = mark::proof(view, address, answer).err().flatten();
    if answer.forgets_history() && !anothers && (placed || until.is_some()) {
        let (writer, append_only) = (writer.clone(), answer.append_only);
        let holds = answer.can_hold_writes();
        return WhyLeft::Unproven { keys, until, writer, append_only, holds, mark };
    }
    WhyLeft::Unrelated { keys, mark: mark.filter(|_| anothers) }
}

/// A majority of the Sentinels lists it as this group's, it was started after it was last seen, and all that it holds
/// was written in the moments since. (Unrelated data would have been there when it was started, or for longer.)
fn restarted_empty(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    answer.started_empty
        && answer.uptime_s <= RESTARTED_EMPTY_UPTIME_MAX_S
        && view.is_listed(address)
        && view.memory.origin(address, &answer.run_id) == Origin::Started
}

/// The writer, when it is as certain as it can be: published, confirmed, named by a majority that was asked
/// after the stray primary had been seen, passing the writer test, and not being replaced. Where no Sentinel knows the
/// group yet, there is nothing to confirm it, and nothing that could replace it.
fn certain_writer<'a>(
    view: &View<'a>,
    stray: &Address,
) -> Result<(Address, &'a InstanceAnswer), &'static str> {
    let record = view.record.ok_or("nothing is published")?;
    let writer = record.writer_address().ok_or("there is no writer")?;
    let untold = may_follow_untold(view, stray);
    if record.evidence.is_unconfirmed() && !untold {
        return Err("the writer is not confirmed by a majority yet");
    }
    let seen = view.memory.since.get(&Condition::Stray(stray.clone()));
    // One look has no past, and asks after it has seen.
    let since = view.since.max(seen.copied().unwrap_or(view.since));
    // A Sentinel that does not answer was asked, and has failed: a leader must not be overlooked for being slow.
    if view.observed.sentinels.values().any(|reading| reading.asked < since) {
        return Err("not every Sentinel has been asked since");
    }
    // It may be another run by now: the writer's own, which answers at another address as well.
    if view.observed.instances.get(stray).is_some_and(|reading| reading.asked < since) {
        return Err("it has not been asked since");
    }
    let tested = || match writer_test(view.observed, writer, since) {
        // Asked since as well: a process that was started again has another run id, at all of its addresses.
        WriterTest::Passes(answer) => Ok((writer.clone(), answer)),
        WriterTest::Fails(_) | WriterTest::Unknown(_) => Err("the writer does not answer"),
    };
    if untold {
        return tested();
    }
    let bounds = TallyBounds { since, known_min: record.evidence.known };
    let tally = Tally::count(view.observed, bounds);
    let elected = tally.elected.as_ref().filter(|elected| &elected.address == writer);
    let elected = elected.ok_or("no majority has named the writer since")?;
    let rival = tally.votes.get(stray).is_some_and(|votes| votes.epoch >= elected.epoch);
    if rival || elected.epoch < record.evidence.confirmed_epoch {
        return Err("the Sentinels do not agree");
    }
    // What a leader said a moment ago counts too, when it has said nothing since.
    let lately = led_in_silence(view.observed, view.recent);
    let lately = lately.iter().filter(|failover| !failover.is_over(elected));
    let mut failovers = lately.chain(&tally.failovers);
    if failovers.any(|failover| failover.chosen.as_ref() != Some(writer)) {
        return Err("a failover is under way");
    }
    // A leader may have replaced it already, and be slow to say so.
    if tally.any_objective(writer) {
        return Err("a Sentinel calls the writer down");
    }
    tested()
}
