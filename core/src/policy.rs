//! What the operator asked for, for one group: the fixed part of every decision.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::identity::address::{Address, GroupName, ServiceName, Zone};
use crate::identity::mark::MarkKey;
use crate::published::record::Level;

/// Settings of one group, with all defaults filled in. Times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The group that this applies to.
    pub group: GroupName,
    /// The service it is published as.
    pub service: ServiceName,
    /// How sure a publication must be (`publish`).
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
    /// A Sentinel that no other one has heard for this long is forgotten by the others.
    pub forget_sentinels_after_ms: u64,
    /// Have Sentinels forget Sentinels and replicas that are gone for good (`SENTINEL RESET`).
    pub forget_ghosts: bool,
    /// The instances of this group on the agent's own host (node mode).
    pub local: BTreeSet<Address>,
    /// How many Sentinels the configuration lists: the electorate while none is recorded.
    pub sentinels_configured: usize,
    /// Hold the writes of a stray primary (`CLIENT PAUSE ... WRITE`).
    pub hold_writes: bool,
    /// Hold the writes of this host's primary while the host is isolated.
    pub hold_when_cut_off: bool,
    /// Turn a stray primary into a replica of the writer.
    pub fence: bool,
    /// Have a primary that has come back without its data replaced, and keep the instances that hold it from copying
    /// that.
    pub replace_emptied: bool,
    /// Have the writer replaced at once when its process is seen to end.
    pub fast_failover: FastFailover,
    /// Find a first primary among the registered instances.
    pub bootstrap: bool,
    /// How many instances the first primary is chosen among, when that is known.
    pub expect: Option<usize>,
    /// How long instances are waited for otherwise.
    pub bootstrap_wait_ms: u64,
    /// An operator has paused the group: nothing is changed but Consul, and what Sentinels were told for a moment only.
    pub paused: bool,
    /// Reconfigure Sentinels: `MONITOR` where one lacks the group, `SET` where its settings differ.
    pub tell_sentinels: bool,
    /// Tell the other Sentinels how an election ended where its leader does not (`PUBLISH __sentinel__:hello`).
    pub relay: bool,
    /// When they are told.
    pub announce: Announce,
    /// The key of the mark in the data set, where there is to be one.
    pub mark: Option<MarkKey>,
    /// Write that key on the writer; else it is only read.
    pub write_mark: bool,
    /// Where this agent's host stands.
    pub zone: Option<Zone>,
    /// The order of zones in which Sentinel is to prefer replicas: `replica-priority` of the instances on this host.
    /// Without any, it is left as it is.
    pub prefer_zones: Vec<Zone>,
    /// How often the group is looked at while nothing happens.
    pub pace: Pace,
    /// The installation that this agent belongs to, where it was told.
    pub installation: Option<String>,
    /// Where this agent looks for Sentinels: addresses, and a service.
    pub sources: BTreeSet<String>,
    /// Settings for such a Sentinel; what is `None` is copied from the other Sentinels.
    pub settings: WantedSettings,
}

/// Groups of one agent that are each watched by themselves. Of more than these, what all have in common is asked once.
pub const FEW_GROUPS_MAX: usize = 8;

/// How often a group is looked at while nothing happens, and when in that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often everything is asked while nothing happens, in ms: before an answer is too old.
    pub look_ms: u64,
    /// The same while something happens.
    pub urgent_ms: u64,
    /// How often its rows are compared with what they should be, in ms.
    pub audit_ms: u64,
    /// The group's turn among those of its agent, in thousandths of each period.
    pub turn: u64,
}

impl Pace {
    /// Each group's share of an agent's audits, in ms, and the least between two audits of one group.
    const AUDIT_SHARE_MS: u64 = 300;
    const AUDIT_MIN_MS: u64 = 10_000;
    /// A pause for each period of an audit, in ms.
    const NAME_SHARE_MS: u64 = 25;
    /// However many groups there are: an answer lasts for [`ANSWER_AGE_MAX_MS`].
    const SLOWEST: Self = Self { look_ms: 2_000, urgent_ms: 400, audit_ms: u64::MAX, turn: 0 };

    /// The pace of `group`, one of so many of an agent: what that asks of Consul does not grow with them, and it does not
    /// look at all of them at once.
    pub fn of(group: &GroupName, groups: usize) -> Self {
        let share = u64::try_from(groups).unwrap_or(u64::MAX).saturating_mul(Self::AUDIT_SHARE_MS);
        // In steps, so that one group more changes nothing for all others.
        let steps = share.div_ceil(Self::AUDIT_MIN_MS).max(1);
        let mixed = group.as_str().bytes().fold(7_u64, |mixed, byte| {
            mixed.wrapping_mul(31).wrapping_add(u64::from(byte)) % 1_000
        });
        let turn = if steps == 1 { 0 } else { mixed };
        let audit_ms = steps.saturating_mul(Self::AUDIT_MIN_MS);
        let (usual, most) = (Self::default(), Self::SLOWEST);
        // From some 200 groups on.
        let scaled =
            |usual: u64, most: u64| usual.saturating_mul(steps).div_ceil(6).clamp(usual, most);
        Self {
            look_ms: scaled(usual.look_ms, most.look_ms),
            urgent_ms: scaled(usual.urgent_ms, most.urgent_ms),
            audit_ms,
            turn,
        }
    }

    /// The least pause between two questions for a name that is not right, in ms.
    pub fn name_pause_ms(self) -> u64 {
        (self.audit_ms / Self::AUDIT_MIN_MS).saturating_sub(1).saturating_mul(Self::NAME_SHARE_MS)
    }

    /// The first period after the start: until the group's turn.
    pub fn first(self, period_ms: u64) -> u64 {
        period_ms.saturating_add(period_ms.saturating_mul(self.turn) / 1_000)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { look_ms: 1_000, urgent_ms: 100, audit_ms: Self::AUDIT_MIN_MS, turn: 0 }
    }
}

/// Whether a Sentinel is asked for a failover at once when the writer's process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FastFailover {
    /// When the kernel of the writer's host says so.
    Proof,
    /// When that is so, or the writer's host refuses connections and all else fits: the Sentinels wait for a moment
    /// only, look for themselves, and vote.
    Vote,
    /// Never: the Sentinels wait for `down-after-milliseconds`.
    Off,
}

impl FastFailover {
    /// The word used in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Vote => "vote",
            Self::Off => "off",
        }
    }
}

/// Who tells the other Sentinels how a failover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// The Sentinel that leads it; agents only where it does not.
    Leader,
    /// The agents, as soon as the replica says that it is the primary.
    Eager,
}

impl Announce {
    /// The word used in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Eager => "eager",
        }
    }
}

/// Sentinel settings that the operator fixed: in the config file, or for all agents in the key `config`. What is
/// `None` is left as it is, and copied from the other Sentinels to a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WantedSettings {
    /// Sentinels that must agree that a primary is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<WantedQuorum>,
    /// `down-after-milliseconds`, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_after_ms: Option<u64>,
    /// `failover-timeout`, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_timeout_ms: Option<u64>,
    /// `parallel-syncs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_syncs: Option<u64>,
    /// `master-reboot-down-after-period`, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_down_after_ms: Option<u64>,
}

/// How many Sentinels must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedQuorum {
    /// More than half of the known ones.
    Auto,
    /// This number of Sentinels.
    Fixed(u64),
}

impl WantedSettings {
    /// These, and where they say nothing the others.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        Self {
            quorum: self.quorum.or(others.quorum),
            down_after_ms: self.down_after_ms.or(others.down_after_ms),
            failover_timeout_ms: self.failover_timeout_ms.or(others.failover_timeout_ms),
            parallel_syncs: self.parallel_syncs.or(others.parallel_syncs),
            reboot_down_after_ms: self.reboot_down_after_ms.or(others.reboot_down_after_ms),
        }
    }
}

/// An answer older than this says nothing about now. Three ticks of the loop.
pub const ANSWER_AGE_MAX_MS: u64 = 3_000;
/// How long the published writer may lack its majority, while another address has one or the
/// Sentinels are split, before the name is withdrawn. One tick: long enough for a read in flight.
pub const DISPLACED_AFTER_MS: u64 = 1_000;
/// How long the published writer may answer neither us nor any Sentinel, while no Sentinel hears from enough others to
/// call it objectively down, before the name is withdrawn. Those that can agree do so within a second.
pub const OUT_OF_REACH_AFTER_MS: u64 = 5_000;
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
/// Without a word from Consul for this long, while it is being asked, it counts as out of sight.
pub const CONSUL_SILENT_MS: u64 = 500;
/// How long a host must see neither Consul nor a majority of the Sentinels before it holds writes: with the tick
/// (1 s) and the deadline of a question (500 ms) less than 3 s from the first lost packet.
pub const CUT_OFF_AFTER_MS: u64 = 1_000;
/// How often a hold is renewed, in ms.
pub const HOLD_RENEW_MS: u64 = 1_000;
/// How long an instance that was restarted without its data may have run before what it holds counts as data, in
/// seconds: longer than Sentinel itself would let it be.
pub const RESTARTED_EMPTY_UPTIME_MAX_S: u64 = 30;
/// How long others may take to show up before the old primary leads again, when not all that are recorded answer: the
/// same containers may have other addresses now, and more data. Longer than two looks at the registered instances are
/// apart.
pub const REINSTATED_AFTER_MS: u64 = 6_000;
/// How long a last writer that most Sentinels have forgotten must be seen so, before it is named again: longer than a
/// Sentinel that lives elsewhere takes to show itself by its hello.
pub const FORGOTTEN_AFTER_MS: u64 = 2_500;
/// How long a failover that was asked for may take before another one is, in ms: a Sentinel that cannot choose a
/// replica says so within a second.
pub const REPLACE_AGAIN_MS: u64 = 5_000;
/// The least `down-after-milliseconds` with which a failover is asked for at once, in ms: a forced failover is no
/// election, so the other Sentinels hear of it at its end only, 1.3 s later, and may have begun their own by then
/// (`docs/facts/sentinel.md` 19).
pub const FAST_DOWN_AFTER_MIN_MS: u64 = 3_000;
/// How long before the Sentinels call a dead writer down one may still be asked to replace it, in ms: the 1.3 s until
/// all follow, and the 1 s by which the last answer may be older than the death.
pub const FAST_BEFORE_DOWN_MS: u64 = 2_500;
/// How long after the death a Sentinel may still be asked, in ms, however long they would wait.
pub const FAST_WITHIN_MAX_MS: u64 = 2_000;
/// How long a writer whose failover was asked for stays unpublished although the Sentinels go on naming it, in ms: as
/// long as the request may be late, and the Sentinel that was asked may take to show what it does.
pub const SUPERSEDED_FOR_MS: u64 = 5_000;
/// For how long of that its writes are held when it is back, in ms: Sentinel takes one that is held for longer for
/// dead.
pub const SUPERSEDED_HELD_MS: u64 = 2_500;
/// The least that Sentinels wait for while they are to vote at once, in ms: a living primary on a busy host answers within
/// that.
pub const HASTE_MS: u64 = 201;
/// The most, in ms.
pub const HASTE_MAX_MS: u64 = 901;
/// How long they wait for no longer than that, in ms: an election is over by then, or there is none.
pub const HASTE_FOR_MS: u64 = 3_000;
/// How long after it was decided one is told so, at the most, in ms: one that is told once the election is over soon calls
/// the new primary down, for it is on a busy host, too.
pub const HASTE_WITHIN_MS: u64 = 200;
/// How much later than an agent knows a writer may have died, or be called down by the Sentinel that leads, in ms.
pub const HASTE_LATE_MS: u64 = 1_500;
/// A Sentinel chooses no replica that had lost its link so many `down-after-milliseconds` before it called the primary
/// down (`docs/facts/sentinel.md` 12).
pub const LINK_DOWN_FACTOR: u64 = 10;
/// How long that stays written down, in ms: a command that was on its way is undone by what is written.
pub const HASTE_KEPT_MS: i64 = 15_000;
/// How far apart two refused connections are, in ms, before they say anything: a server that was started again
/// listens by then.
pub const REFUSED_TWICE_MS: u64 = 50;
/// How old the last refusal may be, in ms, for an instance that refuses connections still.
pub const REFUSED_KNOWN_MS: u64 = 2_000;
/// How long a death is remembered, in ms.
pub const DEATH_KNOWN_MS: u64 = 60_000;
/// How far apart two hosts' clocks may be, in ms, before a death that one wrote down counts as old for the other.
pub const CLOCKS_APART_MAX_MS: u64 = 600_000;
/// How long the key `move` of a planned move that died speaks for one that is under way, in ms.
pub const MOVE_KNOWN_MS: u64 = 120_000;
/// How often one instance gets the command to follow the writer, in ms.
pub const FENCE_AGAIN_MS: u64 = 1_000;
/// How long a stray primary that was a replica before is left to Sentinel, which may have promoted it: longer
/// than Sentinel itself waits before it turns one into a replica (`docs/facts/sentinel.md` 4.1).
pub const STRAY_PROMOTED_MS: u64 = 15_000;
/// How long a stray primary is left alone whose past this agent has not seen: longer than a majority needs to
/// follow a promotion.
pub const STRAY_UNSEEN_MS: u64 = 3_000;
/// How long a replica of the primary before is left to the leader of the failover, in ms, once no Sentinel leads one any
/// more: it may have been told, and be about to say so.
pub const LEFT_BEHIND_MS: u64 = 1_000;
/// How long after a failover, in ms, a replica that no Sentinel lists is pointed at the new primary.
pub const LEFT_BEHIND_FOR_MS: u64 = 60_000;
/// The pause between two Sentinels that are made to forget, and after a switch, in ms: a reset one knows no peer for up
/// to 10 s (`docs/facts/sentinel.md` 5).
pub const RESET_GAP_MS: u64 = 30_000;
/// How often one Sentinel gets a changed setting, in ms.
pub const SET_AGAIN_MS: u64 = 1_000;
/// How often one Sentinel is told a setting that it does not show, in ms.
pub const REBOOT_AGAIN_MS: u64 = 3_600_000;
/// How long a primary may take to load its data after a restart before it counts as down, where an agent has told a
/// Sentinel of the group, in ms: with 0, Sentinel's own default, it may take for ever. Together with the 10 s in which
/// the restart is noticed it must stay below ten times `down-after-milliseconds`, after which no replica may be chosen
/// (`docs/facts/sentinel.md` 18).
pub const REBOOT_DOWN_AFTER_MS: u64 = 3_000;
/// How old the last answer of a Sentinel that leads a failover may be, in ms, before agents tell the others how its
/// election ended: it is asked every 100 ms then.
pub const LEADER_SILENT_MS: u64 = 200;
/// How long it may take to tell a majority, from the promotion, in ms: by itself it sees the promotion within 1 s.
pub const TELL_WITHIN_MS: u64 = 1_500;
/// How far above all epochs that are seen the one is at which Sentinels are told of a forced failover: an election that
/// begins in the same moment takes the next one, and must not have the same.
pub const FORCED_EPOCH_AHEAD: u64 = 8;
/// How often one Sentinel is told how one election ended, in ms.
pub const RELAY_AGAIN_MS: u64 = 500;
/// How often one agent writes the mark in the data set, in ms, whatever becomes of it.
pub const MARK_AGAIN_MS: u64 = 5_000;
/// How often one agent sets the `replica-priority` of one instance, in ms, whatever becomes of it.
pub const PRIORITY_AGAIN_MS: u64 = 10_000;
/// The same where the instance has refused it, in ms.
pub const PRIORITY_REFUSED_MS: u64 = 30_000;
/// How long after a generation began its mark may be missing before one look says so, in seconds: it is written once
/// a majority has confirmed the writer.
pub const MARK_LATE_S: i64 = 15;
/// How long a Sentinel may disagree with the majority before it is reconfigured: they correct one another within 2 s.
pub const DISAGREES_AFTER_MS: u64 = 30_000;
/// How often one Sentinel is reconfigured for one group, in ms.
pub const RECONFIGURE_AGAIN_MS: u64 = 5_000;
/// How long Sentinels are told of a first primary no sooner than it lists its replicas, in ms: one is listed within a second
/// or two of its command. Less than [`OUT_OF_REACH_AFTER_MS`]: while no Sentinel knows the group, an agent that does not
/// reach the writer has no one else's word for it.
pub const FIRST_REPLICAS_MS: u64 = 4_000;
/// How often rows or keys that another program changes are put back, in ms: a token that may write rows and not see
/// them would keep an agent at it all the time.
pub const REPAIR_AGAIN_MS: u64 = 500;
/// How long after a switch DNS may first have been seen to answer it, to be noted, in ms: an agent that was started
/// later has not seen the first time.
pub const IN_DNS_WITHIN_MS: u64 = 60_000;
/// Instances of one group that get a row. More than that is a mistake of another program.
pub const INSTANCES_MAX: usize = 128;

impl Policy {
    /// The end of this instance's process is to be acted on at once: it is on this host, and that is wanted.
    pub fn acts_on_death_of(&self, instance: &Address) -> bool {
        self.fast_failover != FastFailover::Off && self.local.contains(instance)
    }

    /// Switches every duty off that changes an instance or a Sentinel: what is left observes and publishes.
    pub fn leave_alone(&mut self) {
        self.hold_writes = false;
        self.hold_when_cut_off = false;
        self.fence = false;
        self.replace_emptied = false;
        self.fast_failover = FastFailover::Off;
        self.bootstrap = false;
        self.tell_sentinels = false;
        self.relay = false;
        self.announce = Announce::Leader;
        self.write_mark = false;
        self.forget_ghosts = false;
        self.prefer_zones.clear();
    }

    /// The same while an operator has paused the group.
    #[must_use]
    pub fn under_pause(&self) -> Self {
        let mut paused = Self { paused: true, ..self.clone() };
        paused.leave_alone();
        // Sentinels that wait for a moment only are told to wait as before all the same.
        paused.tell_sentinels = self.tell_sentinels;
        paused
    }

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
            forget_sentinels_after_ms: 600_000,
            forget_ghosts: true,
            local: BTreeSet::new(),
            sentinels_configured: 0,
            hold_writes: true,
            bootstrap: true,
            expect: None,
            bootstrap_wait_ms: 30_000,
            hold_when_cut_off: true,
            fence: true,
            replace_emptied: true,
            fast_failover: FastFailover::Vote,
            paused: false,
            tell_sentinels: true,
            relay: true,
            announce: Announce::Leader,
            mark: None,
            write_mark: true,
            zone: None,
            prefer_zones: Vec::new(),
            pace: Pace::default(),
            installation: None,
            sources: BTreeSet::new(),
            settings: WantedSettings::default(),
        }
    }
}
