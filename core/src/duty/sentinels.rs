//! Reconfiguring Sentinels: one that does not know the group gets `MONITOR`, one that has disagreed with the
//! majority for long gets it anew, and one whose settings differ from those that are wanted gets `SET`.
//!
//! Sentinels never share their settings; the agents do it for them.

use std::collections::BTreeSet;

use crate::duty::fence::is_to_follow;
use crate::identity::address::Address;
use crate::known::memory::Condition;
pub use crate::known::memory::ReconfigureKind;
use crate::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, SentinelAnswer, SentinelGroup, SentinelId,
    SentinelSettings,
};
use crate::known::view::View;
use crate::policy::{
    DISAGREES_AFTER_MS, FIRST_REPLICAS_MS, HASTE_WITHIN_MS, REBOOT_AGAIN_MS, REBOOT_DOWN_AFTER_MS,
    RECONFIGURE_AGAIN_MS, SET_AGAIN_MS, WantedQuorum, WantedSettings,
};
use crate::published::record::{Basis, is_haste};
use crate::published::replicas::InstanceRows;
use crate::situation::bootstrap::is_untold;
use crate::situation::haste::pace;
use crate::situation::relocated::knows_only_silent;
use crate::situation::writer::WriterTest;

/// Settings for a group that no other Sentinel knows: a LAN's values (`docs/facts/sentinel.md` 6).
pub const DEFAULT_SETTINGS: SentinelSettings = SentinelSettings {
    quorum: 2,
    down_after_ms: 1_500,
    failover_timeout_ms: 20_000,
    parallel_syncs: 1,
};

/// A setting as Sentinel calls it, and its value.
type NamedSetting = (&'static str, fn(&SentinelSettings) -> u64);

/// One Sentinel that is to be reconfigured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconfigure {
    /// The Sentinel that gets the commands.
    pub sentinel: Address,
    /// Which commands: `MONITOR`, `REMOVE` or `SET`.
    pub what: ReconfigureKind,
    /// The primary it is to monitor.
    pub primary: Address,
    /// The settings that it is to have for the group.
    pub settings: SentinelSettings,
    /// The settings that it had when this was decided; the same for one that did not know the group.
    pub had: SentinelSettings,
    /// The epoch at which it named its primary then; 0 for one that did not know the group.
    pub epoch: u64,
}

/// How long after it was decided a Sentinel is told, at the most, in ms. It is decided anew after [`SET_AGAIN_MS`] or
/// more.
pub const RECONFIGURE_WITHIN_MS: u64 = 2_000;

impl Reconfigure {
    /// What a Sentinel with these settings is sent: for a group that is new to it, all of them; else those that were to
    /// change and have not yet. What an operator has changed meanwhile stays as it is.
    pub fn to_set(&self, has: SentinelSettings) -> Vec<(&'static str, u64)> {
        let all: [NamedSetting; 4] = [
            ("quorum", |s| s.quorum),
            ("down-after-milliseconds", |s| s.down_after_ms),
            ("failover-timeout", |s| s.failover_timeout_ms),
            ("parallel-syncs", |s| s.parallel_syncs),
        ];
        let wanted = |of: fn(&SentinelSettings) -> u64| {
            let to = of(&self.settings);
            let alone = matches!(self.what, ReconfigureKind::Settings | ReconfigureKind::Pace(_));
            !alone || (of(&self.had) != to && of(&has) != to)
        };
        let chosen = all.into_iter().filter(|(_, of)| wanted(*of));
        chosen.map(|(name, of)| (name, of(&self.settings))).collect()
    }

    /// The Sentinel is to call its primary down sooner than by itself.
    pub fn hastens(&self) -> bool {
        matches!(self.what, ReconfigureKind::Pace(ms) if ms < self.had.down_after_ms)
    }

    /// How long after it was decided the Sentinel may be told, in ms.
    pub fn within_ms(&self) -> u64 {
        if self.hastens() { HASTE_WITHIN_MS } else { RECONFIGURE_WITHIN_MS }
    }

    /// What was decided still holds for what the Sentinel says now. A Sentinel that was reconfigured by another agent
    /// meanwhile, or corrected by another Sentinel, is left as it is; one that leads a failover is never made to forget
    /// it, which `REMOVE` does; and one that has followed an election gives the new primary all the time it has.
    pub fn still_holds(&self, now: &SentinelAnswer) -> bool {
        let differs = |group: &SentinelGroup| !self.to_set(group.settings).is_empty();
        let ended = |group: &SentinelGroup| {
            let elected = group.failover.is_some_and(FailoverPhase::elected);
            elected || group.monitored != self.primary || group.config_epoch != self.epoch
        };
        let lost = |group: &SentinelGroup, epoch: u64| {
            let dead = group.primary != self.primary && group.down > DownOpinion::Up;
            // One that began an election and was not elected waits for ten seconds, and leads nothing.
            let leads = group.failover.is_some_and(FailoverPhase::elected);
            dead && !leads && group.config_epoch == epoch
        };
        let Some(group) = &now.group else { return self.what == ReconfigureKind::Monitor };
        match self.what {
            ReconfigureKind::Monitor => false,
            ReconfigureKind::Repoint => {
                (group.failover.is_none() || group.is_stuck()) && group.primary != self.primary
            }
            ReconfigureKind::Settings => differs(group),
            ReconfigureKind::Pace(_) => {
                let by_another = group.settings.down_after_ms != self.had.down_after_ms;
                differs(group) && !(self.hastens() && (ended(group) || by_another))
            }
            ReconfigureKind::Remove(epoch) => lost(group, epoch),
            ReconfigureKind::Reboot(_) => group.primary == self.primary,
        }
    }
}

/// The Sentinels to be reconfigured now.
///
/// They get only a primary that is published, confirmed, and says so itself: a Sentinel with a wrong one would take
/// part in the next election with the wrong address.
pub fn reconfigurations(view: &View<'_>) -> Vec<Reconfigure> {
    let Some((record, primary)) = view
        .record
        .zip(view.writer())
        .filter(|_| view.policy.tell_sentinels && !view.policy.paused)
    else {
        return Vec::new();
    };
    // The first primary of all has no majority to name it before they are reconfigured; nor has one in a relocated
    // group.
    let first = record.evidence.basis == Basis::Agents;
    let promotion = matches!(record.evidence.basis, Basis::Promotion { .. });
    if promotion || !view.tally.failovers.is_empty() {
        return Vec::new();
    }
    if !matches!(view.test(primary), WriterTest::Passes(_)) {
        return Vec::new();
    }
    let contradicted = view.tally.votes.keys().any(|named| named != primary);
    // A few Sentinels that still know a primary cannot elect it, once most have let go.
    let blank = view.sentinels_answering().saturating_sub(view.tally.answering);
    let lets_go = |group: &SentinelGroup| {
        knows_only_silent(view, group)
            || (blank >= view.tally.majority() && group.down > DownOpinion::Up)
    };
    let wanted = wanted(view);
    let settings = settings(view, &wanted);
    view.sentinels()
        .filter_map(|(sentinel, answer)| {
            let (what, again_ms) = match &answer.group {
                Some(group) if group.primary != *primary && first && lets_go(group) => {
                    (ReconfigureKind::Remove(group.config_epoch), SET_AGAIN_MS)
                }
                Some(group) if group.primary != *primary => repoint(view, sentinel)
                    .then_some((ReconfigureKind::Repoint, RECONFIGURE_AGAIN_MS))?,
                _ if contradicted => return None,
                None if first && awaits_replicas(view, primary) => return None,
                None => (ReconfigureKind::Monitor, RECONFIGURE_AGAIN_MS),
                // It is to be as it was first.
                Some(group) if hastens(view, sentinel, group) => return None,
                Some(group) => {
                    let differs = group.settings != apply(&wanted, group.settings, view);
                    match differs {
                        true => (ReconfigureKind::Settings, SET_AGAIN_MS),
                        false => (reboot(view, sentinel, &wanted)?, REBOOT_AGAIN_MS),
                    }
                }
            };
            let settings = match (&answer.group, what) {
                (Some(group), ReconfigureKind::Settings) => apply(&wanted, group.settings, view),
                (Some(group), ReconfigureKind::Reboot(_)) => group.settings,
                _ => settings,
            };
            let last = view.memory.reconfigured.get(&(sentinel.clone(), what));
            let due = last.is_none_or(|at| view.now.mono - *at >= again_ms);
            let (sentinel, primary) = (sentinel.clone(), primary.clone());
            let had = answer.group.as_ref().map_or(settings, |group| group.settings);
            let epoch = answer.group.as_ref().map_or(0, |group| group.config_epoch);
            due.then_some(Reconfigure { sentinel, what, primary, settings, had, epoch })
        })
        .collect()
}

/// An instance that is to be a replica is not listed by this first primary yet, or was not asked since. A Sentinel finds
/// replicas in the INFO of the primary alone, which it asks for when it is told of it and ten seconds later: until then,
/// it would have none to choose (`docs/facts/sentinel.md` 5). One that never comes is waited for a while only.
fn awaits_replicas(view: &View<'_>, primary: &Address) -> bool {
    let since = view.memory.generation_seen();
    let lately = view.now.mono - since < FIRST_REPLICAS_MS;
    let Some(leader) = view.instance(primary).filter(|_| lately && is_untold(view)) else {
        return false;
    };
    // One whose link is up is listed, by whatever address the primary has it.
    let begins = |address: &Address| match view.observed.instances.get(address) {
        Some(reading) if reading.asked >= since => {
            let begins = |own: &InstanceAnswer| own.follows(primary) && !own.is_linked();
            reading.since(since).is_some_and(begins) && !leader.lists(address)
        }
        _ => true,
    };
    let mut others = InstanceRows::new(view).followed().iter().filter(|other| *other != primary);
    others.any(begins) || is_to_follow(view)
}

/// The Sentinels that are to wait for a moment only, or as before again.
pub fn paces(view: &View<'_>) -> Vec<Reconfigure> {
    if !view.policy.tell_sentinels {
        return Vec::new();
    }
    let groups = view.sentinels().filter_map(|(at, answer)| Some((at, answer.group.as_ref()?)));
    groups
        .filter_map(|(sentinel, group)| {
            let down_after_ms = pace(view, sentinel, group)?;
            let what = ReconfigureKind::Pace(down_after_ms);
            let last = view.memory.reconfigured.get(&(sentinel.clone(), what));
            // There is little time to tell it once more.
            let again_ms = if is_haste(down_after_ms) { HASTE_WITHIN_MS } else { SET_AGAIN_MS };
            let due = last.is_none_or(|at| view.now.mono - *at >= again_ms);
            let (sentinel, primary) = (sentinel.clone(), group.monitored.clone());
            let settings = SentinelSettings { down_after_ms, ..group.settings };
            let (had, epoch) = (group.settings, group.config_epoch);
            due.then_some(Reconfigure { sentinel, what, primary, settings, had, epoch })
        })
        .collect()
}

/// How long a restarted primary may load before it counts as down: what is wanted, else, for a Sentinel that was told
/// of the group by us, what fits. One that was set up by its operator is left as it is.
fn reboot(view: &View<'_>, sentinel: &Address, wanted: &WantedSettings) -> Option<ReconfigureKind> {
    let ours = view.memory.reconfigured.contains_key(&(sentinel.clone(), ReconfigureKind::Monitor));
    let ms = wanted.reboot_down_after_ms.or(ours.then_some(REBOOT_DOWN_AFTER_MS))?;
    Some(ReconfigureKind::Reboot(ms))
}

/// The Sentinel waits for a moment only, as it was told.
fn hastens(view: &View<'_>, sentinel: &Address, group: &SentinelGroup) -> bool {
    let haste = view.record.and_then(|record| record.haste.as_ref());
    let told = haste.filter(|haste| haste.before.contains_key(sentinel));
    told.is_some() && is_haste(group.settings.down_after_ms)
}

/// The Sentinels that name another primary than the majority does, for [`crate::known::memory::Memory::keep`].
pub fn conditions<'v>(view: &'v View<'_>) -> impl Iterator<Item = Condition> + use<'v> {
    let elected = view.tally.elected.as_ref().map(|elected| elected.address.clone());
    view.sentinels().filter_map(move |(sentinel, answer)| {
        let group = answer.group.as_ref()?;
        let disagrees = elected.as_ref().is_some_and(|elected| elected != &group.primary);
        disagrees.then(|| Condition::Disagrees(sentinel.clone()))
    })
}

/// It has disagreed for long, and the majority names what is published.
fn repoint(view: &View<'_>, sentinel: &Address) -> bool {
    let elected = view.tally.elected.as_ref().map(|elected| &elected.address);
    let disagrees = Condition::Disagrees(sentinel.clone());
    elected == view.writer() && view.memory.lasted(&disagrees, DISAGREES_AFTER_MS, view.now)
}

/// What is wanted by all agents goes before what this one's file says. Of what cannot be read nothing is known: a newer
/// agent keeps it, and ours would undo that.
pub fn wanted(view: &View<'_>) -> WantedSettings {
    match view.observed.store.as_ref().map(|store| &store.config) {
        None => view.policy.settings.clone(),
        Some(Ok(shared)) => shared.or(&view.policy.settings),
        Some(Err(_)) => WantedSettings::default(),
    }
}

/// The settings that one has, with what is wanted.
fn apply(wanted: &WantedSettings, has: SentinelSettings, view: &View<'_>) -> SentinelSettings {
    SentinelSettings {
        quorum: match wanted.quorum {
            Some(WantedQuorum::Fixed(quorum)) => quorum,
            Some(WantedQuorum::Auto) => majority(view),
            None => has.quorum,
        },
        down_after_ms: wanted.down_after_ms.unwrap_or(has.down_after_ms),
        failover_timeout_ms: wanted.failover_timeout_ms.unwrap_or(has.failover_timeout_ms),
        parallel_syncs: wanted.parallel_syncs.unwrap_or(has.parallel_syncs),
    }
}

fn majority(view: &View<'_>) -> u64 {
    // Before the first is reconfigured, all that answer are about to be.
    let first = view.groups().next().is_none();
    let all =
        if first { view.tally.known.max(view.sentinels_answering()) } else { view.tally.known };
    u64::try_from(all / 2 + 1).unwrap_or(DEFAULT_SETTINGS.quorum)
}

/// For a Sentinel that is new: what is wanted, else what most Sentinels have, else [`DEFAULT_SETTINGS`].
fn settings(view: &View<'_>, wanted: &WantedSettings) -> SentinelSettings {
    let have: Vec<SentinelSettings> = view.groups().map(|group| group.settings).collect();
    let most = |of: fn(&SentinelSettings) -> u64, default: u64| {
        let values: BTreeSet<u64> = have.iter().map(of).collect();
        let count = |value: u64| have.iter().filter(|s| of(s) == value).count();
        values.into_iter().max_by_key(|value| count(*value)).unwrap_or(default)
    };
    let others = SentinelSettings {
        quorum: majority(view),
        down_after_ms: most(|s| s.down_after_ms, DEFAULT_SETTINGS.down_after_ms),
        failover_timeout_ms: most(|s| s.failover_timeout_ms, DEFAULT_SETTINGS.failover_timeout_ms),
        parallel_syncs: most(|s| s.parallel_syncs, DEFAULT_SETTINGS.parallel_syncs),
    };
    apply(wanted, others, view)
}

/// The ids of the group's Sentinels: those that answer, and those that they list.
pub fn ids(view: &View<'_>) -> Vec<SentinelId> {
    let heard = view.sentinels().filter(|(_, answer)| answer.group.is_some());
    let listed = view.groups().flat_map(|group| &group.peers).map(|peer| &peer.id);
    let all: BTreeSet<&SentinelId> = heard.map(|(_, answer)| &answer.id).chain(listed).collect();
    all.into_iter().cloned().collect()
}

/// The addresses of the group's Sentinels, as they name one another; `None` while fewer than a
/// majority answer, so that agents with different views do not rewrite each other's list.
pub fn addresses(view: &View<'_>) -> Option<Vec<Address>> {
    if view.tally.answering < view.tally.majority() {
        return None;
    }
    let named: BTreeSet<&Address> =
        view.groups().flat_map(|group| &group.peers).map(|peer| &peer.address).collect();
    if !named.is_empty() {
        return Some(named.into_iter().cloned().collect());
    }
    // A lone Sentinel has no peer to name it; it is known by the address it answers at.
    let alone = view.sentinels().filter(|(_, answer)| answer.group.is_some());
    Some(alone.map(|(address, _)| address.clone()).collect())
}
