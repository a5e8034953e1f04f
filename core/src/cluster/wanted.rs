//! What an operator wants of a cluster, besides its names.

/// Two primaries have no majority when one is dead.
pub const SHARDS_MIN: usize = 3;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// How many nodes there must be.
    pub nodes: usize,
    /// How many of them own slots.
    pub shards: usize,
}

/// What an operator wants agents to do to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterDuties {
    /// Nodes are told anything at all.
    pub manage: bool,
    /// What blank nodes are made into.
    pub make: Option<Wanted>,
    /// A shard with so many replicas needs no more.
    pub replicas_max: Option<usize>,
    /// An election is hastened where an owner's process is certainly gone.
    pub hasten: bool,
    /// A member that is dead for so long is forgotten, in ms.
    pub forget_after_ms: Option<u64>,
}

impl ClusterDuties {
    /// The nodes are only asked.
    pub const NONE: Self =
        Self { manage: false, make: None, replicas_max: None, hasten: false, forget_after_ms: None };
}
