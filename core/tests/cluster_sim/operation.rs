//! What can happen to a world, in words that can be printed and run again.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::nodes::{Failover, Keeps, Process};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    Kill(Process),
    /// The primary of the slot.
    KillPrimary(u16),
    /// Started again; it loads for so many ms.
    Start(Process, Keeps, u64),
    /// All that are dead are started again.
    StartDead,
    Freeze(Process),
    Thaw(Process),
    /// The two hear nothing of each other.
    CutPair(Process, Process),
    /// Its host is cut off from all other nodes; agents still reach it.
    CutNode(Process),
    /// Its host is cut off from all other nodes and from all agents.
    CutHost(Process),
    /// These nodes, a bit each, are cut off from the others; agents reach all.
    CutMinority(u32),
    /// What the first sends the second is lost.
    Drop(Process, Process),
    /// Its bus takes no connections.
    Deafen(Process),
    HealBus,
    /// One agent does not reach these nodes, a bit each.
    CutAgent(usize, u32),
    CutAgentFromConsul(usize),
    HealAgent(usize),
    KillAgent(usize),
    StartAgent(usize),
    ConsulAway,
    ConsulBack,
    /// Consul is back with what it held some time ago.
    RestoreConsul,
    WipeConsul,
    Tamper(usize),
    /// `CLUSTER FAILOVER` on a replica of this slot's shard.
    Failover(u16, Failover),
    /// A replica takes the slot's shard over, gives it back, and takes it over once more, all within 2 T (2.5).
    BackAndForth(u16),
    /// All others forget it.
    Forget(Process),
    /// One of them forgets it.
    ForgetOn(Process, Process),
    /// A node of the other cluster is started again at the address of a dead one of this.
    ForeignAtDead(Process),
    /// A node of each are stopped, and started at each other's address.
    Swap(Process),
    /// `CLUSTER MEET` of a node of the other cluster.
    MeetForeign(Process),
    /// Stopped, and started at another address.
    Move(Process),
    MoveAll,
    /// Some slots begin to move from one shard to the next, and have moved later.
    MoveSlots(u16),
    /// `CONFIG SET cluster-node-timeout` on all that live; 0 is what it was.
    SetTimeout(u64),
    /// A blank node is started, met, and follows the owner of the slot.
    Join(u16),
    /// `CLUSTER RESET HARD` on a replica, which all others forget; then it joins again under its new id.
    Reset(Process),
    HealAll,
    /// The key `state` is deleted: agents begin anew (`docs/cluster.md`).
    BeginAnew,
    /// What an operator does once all are back: nodes that do not know one another meet, blank ones join, replicas are
    /// pointed at where their primary is.
    Repair,
}

/// How many there are of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub agents: usize,
    pub nodes: usize,
    /// There is another cluster.
    pub foreign: bool,
}

impl Operation {
    /// One of them, any of them.
    pub fn draw(rng: &mut StdRng, sizes: Sizes) -> Self {
        let node = rng.random_range(0..sizes.nodes);
        let other = (node + rng.random_range(1..sizes.nodes)) % sizes.nodes;
        let agent = rng.random_range(0..sizes.agents);
        let slot = rng.random_range(0..16_384);
        let mask = rng.random_range(1..1_u32 << sizes.nodes);
        let rare = |rng: &mut StdRng| rng.random_range(0..6) == 0;
        let keeps = Keeps { data: rng.random_range(0..3) > 0, config: rng.random_range(0..3) > 0 };
        let loads = if rng.random_range(0..3) == 0 { rng.random_range(1..3_000) } else { 0 };
        match rng.random_range(0..64) {
            0..7 => Self::KillPrimary(slot),
            7..10 => Self::Kill(node),
            10..15 => Self::Start(node, keeps, loads),
            15..18 => Self::StartDead,
            18..20 => Self::Freeze(node),
            20..22 => Self::Thaw(node),
            22 => Self::CutPair(node, other),
            23..25 => Self::CutNode(node),
            25..27 => Self::CutHost(node),
            27 => Self::CutMinority(mask),
            28 => Self::Drop(node, other),
            29 => Self::Deafen(node),
            30..33 => Self::HealBus,
            33..35 => Self::CutAgent(agent, mask),
            35 => Self::CutAgentFromConsul(agent),
            36 => Self::HealAgent(agent),
            37 => Self::KillAgent(agent),
            38 => Self::StartAgent(agent),
            39 => Self::ConsulAway,
            40..42 => Self::ConsulBack,
            42 => Self::RestoreConsul,
            43 if rare(rng) => Self::WipeConsul,
            43 => Self::Tamper(node),
            44..48 => Self::Failover(slot, Failover::Plain),
            48 => Self::BackAndForth(slot),
            49 => Self::Forget(node),
            50 => Self::ForgetOn(node, other),
            51..53 if sizes.foreign => Self::ForeignAtDead(node),
            53..55 if sizes.foreign => Self::Swap(node),
            55 if sizes.foreign && rng.random_range(0..2) == 0 => Self::MeetForeign(node),
            51..53 | 55 => Self::Kill(node),
            53..55 => Self::KillPrimary(slot),
            56 => Self::Move(node),
            57 if rare(rng) => Self::MoveAll,
            57..60 => Self::MoveSlots(slot),
            60 => Self::SetTimeout(500),
            61 => Self::SetTimeout(0),
            62 if rare(rng) => Self::Join(slot),
            62 => Self::Reset(node),
            _ => Self::HealAll,
        }
    }
}
