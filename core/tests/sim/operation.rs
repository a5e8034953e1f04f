//! What can happen to a world, in words that can be printed and run again.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::world::Peer;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    KillInstance(usize),
    StartInstance {
        instance: usize,
        empty: bool,
    },
    /// All that are dead are started again.
    StartDead {
        empty: bool,
    },
    FreezeInstance(usize),
    ThawInstance(usize),
    KillPrimary,
    /// Every instance is stopped, and made anew at another address with the data that it had.
    MoveAll,
    /// Its process is replaced by one without its data, before a Sentinel calls it down.
    EmptyPrimary,
    KillSentinel(usize),
    /// Stopped for good.
    RemoveSentinel(usize),
    KillLeader,
    StartSentinel {
        sentinel: usize,
        blank: bool,
    },
    Rollback {
        sentinel: usize,
        to: usize,
    },
    Reset(usize),
    ResetLeader,
    ForceFailover(usize),
    ForceTwoFailovers(usize, usize),
    Tilt(usize),
    ReplicaOfNoOne(usize),
    /// The operator takes an instance out of service, or puts it back.
    Maintenance {
        instance: usize,
        on: bool,
    },
    /// The operator, or an agent that stops, moves the primary on purpose, by what this agent sees.
    Switchover(usize),
    CutSentinels(usize, usize),
    CutSentinelInstance(usize, usize),
    CutAgent(usize, Peer),
    /// The host of an instance and the agent of the same number: cut from everything else.
    IsolateHost(usize),
    KillAgent(usize),
    StartAgent(usize),
    /// It is stopped, and one of this version started in its place.
    Upgrade(usize),
    /// An agent finds a Sentinel no more where it looks for them, and finds it again after a while.
    Dismiss {
        agent: usize,
        sentinel: usize,
    },
    /// What an agent tells instances is dropped for a while: the queue is full.
    FullQueue(usize),
    /// What an agent tells Sentinels is dropped for a while: the watchers lag.
    Lag(usize),
    /// An instance is replaced by one with unrelated data.
    ForeignData(usize),
    Reload {
        agent: usize,
        change: Change,
    },
    Look(usize),
    ConsulAway,
    ConsulBack,
    WipeConsul,
    Tamper(usize),
    HealAll,
}

/// What is different in the config that an agent reads again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    Nothing,
    Level,
    Quorum,
    Fence,
    ForgetAfter,
}

/// How many there are of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub agents: usize,
    pub instances: usize,
    pub sentinels: usize,
    /// Everything moves: then unrelated data, or a Sentinel that is not reconfigured, is for the operator.
    pub moving: bool,
}

impl Operation {
    /// One of them, any of them.
    pub fn draw(rng: &mut StdRng, sizes: Sizes) -> Self {
        let instance = rng.random_range(0..sizes.instances);
        let other = rng.random_range(0..sizes.instances);
        let sentinel = rng.random_range(0..sizes.sentinels);
        let next = (sentinel + 1) % sizes.sentinels;
        let agent = rng.random_range(0..sizes.agents);
        let flip = rng.random_range(0..2) == 0;
        let peer = match rng.random_range(0..3) {
            0 => Peer::Consul,
            1 => Peer::Sentinel(sentinel),
            _ => Peer::Instance(instance),
        };
        let change =
            [Change::Nothing, Change::Level, Change::Quorum, Change::Fence, Change::ForgetAfter]
                [rng.random_range(0..5)];
        match rng.random_range(0..48) {
            0..5 => Self::KillPrimary,
            5 => Self::KillInstance(instance),
            6..9 => Self::StartInstance { instance, empty: rng.random_range(0..6) == 0 },
            9 => Self::FreezeInstance(instance),
            10 => Self::ThawInstance(instance),
            11 => Self::KillSentinel(sentinel),
            12 => Self::KillLeader,
            13..15 => Self::StartSentinel { sentinel, blank: flip },
            15 => Self::Rollback { sentinel, to: other },
            16 => Self::Reset(sentinel),
            17 => Self::ResetLeader,
            18..20 => Self::ForceFailover(sentinel),
            20 => Self::ForceTwoFailovers(sentinel, next),
            21 => Self::Tilt(sentinel),
            22 => Self::ReplicaOfNoOne(instance),
            23 => Self::CutSentinels(sentinel, next),
            24 => Self::CutSentinelInstance(sentinel, instance),
            25..28 => Self::CutAgent(agent, peer),
            28 => Self::KillAgent(agent),
            29 => Self::StartAgent(agent),
            30 => Self::ConsulAway,
            31 => Self::ConsulBack,
            32 if flip => Self::WipeConsul,
            32 => Self::Tamper(rng.random_range(0..10)),
            33 => Self::IsolateHost(instance.min(agent)),
            34 => Self::HealAll,
            35 => Self::Maintenance { instance, on: flip },
            36..38 => Self::Switchover(agent),
            38 => Self::Dismiss { agent, sentinel },
            41..44 if sizes.moving => Self::Look(agent),
            39..41 => Self::FullQueue(agent),
            41..43 => Self::Lag(agent),
            43 => Self::ForeignData(instance),
            44..46 => Self::Reload { agent, change },
            46 => Self::Look(agent),
            _ => Self::EmptyPrimary,
        }
    }
}
