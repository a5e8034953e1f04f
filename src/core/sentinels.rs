//! Telling Sentinels: one that does not know the group is told where its primary lives.
//!
//! Sentinels never share their settings, so a told one gets those that the others have, unless the
//! operator fixed them.

use std::collections::BTreeSet;

use super::address::Address;
use super::observed::SentinelSettings;
use super::policy::TELL_AGAIN_MS;
use super::record::Level;
use super::view::View;
use super::writer::WriterTest;

/// Settings for a group that no other Sentinel knows: a LAN's values (`docs/facts/sentinel.md` 6).
pub const DEFAULT_SETTINGS: SentinelSettings = SentinelSettings {
    quorum: 2,
    down_after_ms: 1_000,
    failover_timeout_ms: 20_000,
    parallel_syncs: 1,
};

/// One Sentinel that is to be told about the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    /// The Sentinel.
    pub sentinel: Address,
    /// The primary it is to monitor.
    pub primary: Address,
    /// With which settings.
    pub settings: SentinelSettings,
}

/// The Sentinels to be told now.
///
/// Only what is published, confirmed, and says so itself is told: a Sentinel told wrong would take
/// part in the next election with the wrong address.
pub fn tells(view: &View<'_>) -> Vec<Tell> {
    let Some((record, primary)) =
        view.record.zip(view.writer()).filter(|_| view.policy.tell_sentinels)
    else {
        return Vec::new();
    };
    if record.evidence.level != Level::Quorum || !view.tally.failovers.is_empty() {
        return Vec::new();
    }
    let contradicted = view.tally.votes.keys().any(|named| named != primary);
    if contradicted || !matches!(view.test(primary), WriterTest::Passes(_)) {
        return Vec::new();
    }
    let due = |sentinel: &Address| {
        let last = view.memory.told.get(sentinel);
        last.is_none_or(|at| view.now.mono - *at >= TELL_AGAIN_MS)
    };
    let settings = settings(view);
    view.sentinels()
        .filter(|(sentinel, answer)| answer.group.is_none() && due(sentinel))
        .map(|(sentinel, _)| Tell { sentinel: sentinel.clone(), primary: primary.clone(), settings })
        .collect()
}

/// What the operator fixed, else what most Sentinels have, else [`DEFAULT_SETTINGS`].
fn settings(view: &View<'_>) -> SentinelSettings {
    let have: Vec<SentinelSettings> = view.groups().map(|group| group.settings).collect();
    let most = |of: fn(&SentinelSettings) -> u64, default: u64| {
        let values: BTreeSet<u64> = have.iter().map(of).collect();
        let count = |value: u64| have.iter().filter(|s| of(s) == value).count();
        values.into_iter().max_by_key(|value| count(*value)).unwrap_or(default)
    };
    let wanted = &view.policy.settings;
    let majority = u64::try_from(view.tally.majority()).unwrap_or(DEFAULT_SETTINGS.quorum);
    SentinelSettings {
        quorum: wanted.quorum.unwrap_or(majority),
        down_after_ms: wanted
            .down_after_ms
            .unwrap_or_else(|| most(|s| s.down_after_ms, DEFAULT_SETTINGS.down_after_ms)),
        failover_timeout_ms: wanted.failover_timeout_ms.unwrap_or_else(|| {
            most(|s| s.failover_timeout_ms, DEFAULT_SETTINGS.failover_timeout_ms)
        }),
        parallel_syncs: wanted
            .parallel_syncs
            .unwrap_or_else(|| most(|s| s.parallel_syncs, DEFAULT_SETTINGS.parallel_syncs)),
    }
}

/// The addresses of the group's Sentinels, as they name one another; `None` while fewer than a
/// majority answer, so that agents with different views do not rewrite each other's list.
pub fn addresses(view: &View<'_>) -> Option<Vec<Address>> {
    if view.tally.heard < view.tally.majority() {
        return None;
    }
    let named: BTreeSet<Address> =
        view.groups().flat_map(|group| group.peers.iter().map(|peer| peer.address.clone())).collect();
    if !named.is_empty() {
        return Some(named.into_iter().collect());
    }
    // A lone Sentinel has nobody to name it; it is known by the address it answers at.
    let alone = view.sentinels().filter(|(_, answer)| answer.group.is_some());
    Some(alone.map(|(address, _)| address.clone()).collect())
}
