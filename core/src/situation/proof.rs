//! The writer's process has ended, and its host's kernel says so: one Sentinel is asked for a failover at once.
//!
//! Sentinels take a silence for a death after `down-after-milliseconds`. The kernel knows at once, and an agent on that
//! host asks it ([`Death`]). The name is withdrawn and the request written into `state` in one transaction, so that of
//! several agents one asks, and once; then one Sentinel gets `SENTINEL FAILOVER`. What it does is seen, and published,
//! as any failover.
//!
//! That is no election: the other Sentinels hear of it when it has ended. So nothing is asked where they may begin
//! their own meanwhile, and whatever else is under way goes first ([`WhyNotFast`]).

use crate::identity::address::Address;
use crate::known::observed::{Death, DownOpinion, InstanceAnswer, SentinelAnswer, SentinelGroup};
use crate::known::view::View;
use crate::policy::{
    CLOCKS_APART_MAX_MS, DEATH_KNOWN_MS, FAST_BEFORE_DOWN_MS, FAST_DOWN_AFTER_MIN_MS,
    FAST_WITHIN_MAX_MS, FastFailover, MOVE_KNOWN_MS,
};
use crate::published::record::DeathRecord;
use crate::shown::reasons::{End, NotFast, WhyNotFast};
use crate::situation::bootstrap::includes;
use crate::situation::data_loss::{Replace, WhyReplace};
use crate::situation::writer::share_history;
use crate::time::Mono;

/// The published writer and the proven end of its process, unless it is back already with all that it had.
pub fn proven<'a>(view: &View<'a>) -> Option<(&'a Address, &'a Death)> {
    let writer = view.writer()?;
    let death = view.observed.deaths.get(writer)?;
    if view.now.mono - death.at > DEATH_KNOWN_MS {
        return None;
    }
    match back(view, writer, death) {
        Some(answer) if answer.run_id == death.run_id => None,
        Some(answer) => (answer.not_ready.is_some() || lacks(view, writer, answer)).then_some(()),
        None => {
            let life = view.memory.lives.get(writer);
            life.is_some_and(|life| life.run_id == death.run_id).then_some(())
        }
    }
    .map(|()| (writer, death))
}

/// What answers at its address and was asked since.
pub(crate) fn back<'a>(
    view: &View<'a>,
    writer: &Address,
    death: &Death,
) -> Option<&'a InstanceAnswer> {
    let reading = view.observed.instances.get(writer)?;
    reading.since(death.at).filter(|_| reading.asked > death.at)
}

/// A replica holds more of the same history: the writer was started again with an older copy of its data.
fn lacks(view: &View<'_>, writer: &Address, answer: &InstanceAnswer) -> bool {
    let others = view.observed.instances.iter().filter(|(other, _)| *other != writer);
    let mut others = others.filter_map(|(_, reading)| reading.since(view.recent));
    others.any(|other| other.keys > 0 && share_history(other, answer) && !includes(answer, other))
}

/// The failover that is to be asked for now, since the writer's process has ended; `None` when it has not.
///
/// # Errors
/// What speaks against it.
pub fn fast(view: &View<'_>) -> Result<Option<Replace>, Box<NotFast>> {
    let Some((writer, death)) = proven(view) else { return Ok(None) };
    let (instance, end) = (writer.clone(), End::Proven(death.pid));
    let found = allowed(view, writer, death).and_then(|until| {
        let sentinel = healthy_sentinel(view, writer)?;
        let why = WhyReplace::Died { run_id: death.run_id.clone(), until };
        Ok(Replace { sentinel: sentinel.clone(), primary: writer.clone(), why })
    });
    found.map(Some).map_err(|why| Box::new(NotFast { instance, end, why }))
}

/// Nothing speaks against it; until when it may be asked for.
fn allowed(view: &View<'_>, writer: &Address, death: &Death) -> Result<Mono, WhyNotFast> {
    if view.policy.paused {
        return Err(WhyNotFast::Paused);
    }
    if view.policy.fast_failover == FastFailover::Off {
        return Err(WhyNotFast::SwitchedOff);
    }
    // This agent may have been stopped for a while, and hear of the death late: a failover may be about to begin.
    let epoch = undisturbed(view, writer, DownOpinion::Subjective)?;
    let down_after_ms = view.groups().map(|g| g.settings.down_after_ms).min().unwrap_or(0);
    if down_after_ms < FAST_DOWN_AFTER_MIN_MS {
        return Err(WhyNotFast::DownAfter(down_after_ms));
    }
    not_asked_lately(view)?;
    let same = |asked: &DeathRecord| &asked.instance == writer && asked.epoch == epoch;
    if view.record.and_then(|record| record.death.as_ref()).is_some_and(same) {
        return Err(WhyNotFast::AskedAtThisEpoch(epoch));
    }
    let within_ms = (down_after_ms - FAST_BEFORE_DOWN_MS).min(FAST_WITHIN_MAX_MS);
    let until = death.at.plus_ms(within_ms);
    if view.now.mono > until {
        return Err(WhyNotFast::TooLate { ago_ms: view.now.mono - death.at });
    }
    Ok(until)
}

/// Neither an operator nor a Sentinel is at it already: the epoch at which a majority names the writer. A Sentinel is
/// where it leads a failover, or has come as far as this opinion of the writer's death.
pub(crate) fn undisturbed(
    view: &View<'_>,
    writer: &Address,
    opinion: DownOpinion,
) -> Result<u64, WhyNotFast> {
    let tally = &view.tally;
    if is_moving(view) {
        return Err(WhyNotFast::Switchover);
    }
    if view.in_maintenance(writer) {
        return Err(WhyNotFast::Maintenance);
    }
    if tally.answering < tally.majority() {
        return Err(WhyNotFast::NoMajority { heard: tally.answering, known: tally.known });
    }
    let unconfirmed = view.record.is_some_and(|record| record.evidence.is_unconfirmed());
    let busy = |group: &SentinelGroup| group.failover.is_some() || group.down >= opinion;
    let elected = tally.elected.as_ref().filter(|elected| &elected.address == writer);
    let elected = elected.filter(|_| !unconfirmed && !view.groups().any(busy));
    elected.map(|elected| elected.epoch).ok_or(WhyNotFast::Failover)
}

/// The Sentinels were not asked within two failover-timeouts, for a failover or to vote at once.
pub(crate) fn not_asked_lately(view: &View<'_>) -> Result<(), WhyNotFast> {
    let timeout_ms = view.groups().map(|g| g.settings.failover_timeout_ms).max().unwrap_or(0);
    match asked_ago(view, timeout_ms.saturating_mul(2)) {
        Some(ago_ms) => Err(WhyNotFast::AskedLately { ago_s: ago_ms / 1_000 }),
        None => Ok(()),
    }
}

/// A planned move is under way, by the key `move`; one that died speaks for a while only.
fn is_moving(view: &View<'_>) -> bool {
    let moving = view.observed.store.as_ref().and_then(|store| store.moving);
    moving.is_some_and(|since| {
        let age_ms = view.now.wall.as_millisecond() - since.as_millisecond();
        age_ms.unsigned_abs() < MOVE_KNOWN_MS
    })
}

/// How long ago the Sentinels were last asked for a failover, or to vote at once, where that is less than this.
fn asked_ago(view: &View<'_>, within_ms: u64) -> Option<u64> {
    let (memory, record) = (view.memory, view.record);
    let death = record.and_then(|record| record.death.as_ref()).map(|death| death.at);
    let haste = record.and_then(|record| record.haste.as_ref()).map(|haste| haste.at);
    let asked = [(memory.superseding.at(), death), (memory.hastened.at(), haste)];
    let ages = asked.into_iter().filter_map(|(seen, noted)| {
        let ago_ms = view.now.mono - seen?;
        // An agent that was started a moment ago sees an old one for the first time.
        let old = noted.is_some_and(|noted| {
            let age_ms = view.now.wall.as_millisecond() - noted.as_millisecond();
            let most_ms = within_ms.saturating_add(CLOCKS_APART_MAX_MS);
            age_ms > i64::try_from(most_ms).unwrap_or(i64::MAX)
        });
        (ago_ms < within_ms && !old).then_some(ago_ms)
    });
    ages.min()
}

/// The replicas that were in sync, and that may be chosen.
pub(crate) fn candidates<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Address> {
    let in_sync = view.record.into_iter().flat_map(|record| record.replicas());
    in_sync.filter(|address| {
        let own = view.instance(address);
        let well = own
            .is_some_and(|own| own.is_replica() && own.shows_its_data() && own.priority != Some(0));
        let down = view.tally.replicas.get(address).is_some_and(|count| count.down > 0);
        well && !down && !view.in_maintenance(address)
    })
}

/// A Sentinel that names the writer, trusts its clock and sees a replica that was in sync. One of another host goes
/// first: the writer's may be about to end.
fn healthy_sentinel<'a>(view: &View<'a>, writer: &Address) -> Result<&'a Address, WhyNotFast> {
    if candidates(view).next().is_none() {
        return Err(WhyNotFast::NoReplica);
    }
    let healthy = |answer: &SentinelAnswer| {
        let group = answer.group.as_ref().filter(|_| !answer.tilt);
        group.is_some_and(|group| {
            &group.primary == writer && candidates(view).any(|address| group.sees(address))
        })
    };
    let all = view.sentinels().filter(|(_, answer)| healthy(answer)).map(|(at, _)| at);
    all.min_by_key(|at| (at.host() == writer.host(), *at)).ok_or(WhyNotFast::NoSentinel)
}
