//! What the operator asked for, for one group: the fixed part of every decision.

use super::address::{GroupName, ServiceName};
use super::record::Level;

/// Settings of one group, with all defaults filled in. Times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The group.
    pub group: GroupName,
    /// The service it is published as.
    pub service: ServiceName,
    /// How sure a publication must be.
    pub publish: Level,
    /// This agent's id, as it stands in `by`.
    pub agent: String,
    /// Unique to this run of the agent: what makes its nonces unlike all others.
    pub run: String,
    /// An unconfirmed promotion holds this long against the majority's old answer.
    pub confirm_within_ms: u64,
    /// A replica leaves the read endpoints after this long out of sync.
    pub replica_lag_max_ms: u64,
    /// An instance that has been down this long loses its row.
    pub forget_after_ms: u64,
    /// How many Sentinels the configuration lists: the electorate while none is recorded.
    pub sentinels_configured: usize,
    /// Hold the writes of a second primary (`CLIENT PAUSE ... WRITE`).
    pub hold_writes: bool,
    /// Tell a Sentinel that lacks the group where its primary lives (`SENTINEL MONITOR`).
    pub tell_sentinels: bool,
    /// Settings for such a Sentinel; what is `None` is copied from the other Sentinels.
    pub settings: WantedSettings,
}

/// Sentinel settings that the operator fixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedSettings {
    /// Sentinels that must agree that a primary is down; `None` is a majority of the known ones.
    pub quorum: Option<u64>,
    /// `down-after-milliseconds`.
    pub down_after_ms: Option<u64>,
    /// `failover-timeout`, in ms.
    pub failover_timeout_ms: Option<u64>,
    /// `parallel-syncs`.
    pub parallel_syncs: Option<u64>,
}

/// An answer older than this says nothing about now. Three ticks of the loop.
pub const ANSWER_AGE_MAX_MS: u64 = 3_000;
/// How long the published writer may lack its majority, while another address has one or the
/// Sentinels are split, before the name is withdrawn. One tick: long enough for a read in flight.
pub const DISPLACED_AFTER_MS: u64 = 1_000;
/// How long a majority must hold on to a lower epoch than recorded before it is believed. Sentinels
/// correct one another within 2 s (`docs/facts/sentinel.md` 2.1).
pub const REBASELINE_AFTER_MS: u64 = 10_000;
/// How long every Sentinel must agree on a smaller electorate before it is believed: the pause
/// between two Sentinels being reset by the book (`docs/facts/sentinel.md` 5).
pub const FEWER_KNOWN_AFTER_MS: u64 = 30_000;
/// How long no Sentinel may name an instance before its row is removed. A reset Sentinel finds its
/// replicas again within 10 s (`docs/facts/sentinel.md` 5).
pub const UNNAMED_AFTER_MS: u64 = 15_000;
/// How long one hold lasts, in ms. It ends by itself when the agent dies.
pub const HOLD_MS: u64 = 2_000;
/// How often a hold is renewed, in ms.
pub const HOLD_RENEW_MS: u64 = 1_000;
/// How often one Sentinel is told about one group, in ms.
pub const TELL_AGAIN_MS: u64 = 5_000;
/// Instances of one group that get a row. More than that is somebody else's mistake.
pub const INSTANCES_MAX: usize = 128;

impl Policy {
    /// The defaults for a group published under `service`.
    pub fn new(group: GroupName, service: ServiceName, agent: &str, run: &str) -> Self {
        Self {
            group,
            service,
            publish: Level::Promotion,
            agent: agent.to_owned(),
            run: run.to_owned(),
            confirm_within_ms: 5_000,
            replica_lag_max_ms: 10_000,
            forget_after_ms: 3_600_000,
            sentinels_configured: 0,
            hold_writes: true,
            tell_sentinels: true,
            settings: WantedSettings::default(),
        }
    }
}
