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

impl Wanted {
    /// What so many nodes make: of so many shards, or with so many replicas each (1 unless said).
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(
        nodes: usize,
        shards: Option<usize>,
        replicas: Option<usize>,
    ) -> Result<Self, String> {
        let shards = match (shards, replicas) {
            (Some(shards), None) => shards,
            (None, replicas) => nodes / (replicas.unwrap_or(1) + 1),
            (Some(shards), Some(replicas)) if shards * (replicas + 1) == nodes => shards,
            (Some(shards), Some(replicas)) => {
                return Err(format!(
                    "expect = {nodes} is not {shards} shards with {replicas} replicas each: {} nodes are",
                    shards * (replicas + 1)
                ));
            }
        };
        if shards < SHARDS_MIN || shards > nodes {
            return Err(format!(
                "{nodes} nodes make {shards} shards: a cluster needs {SHARDS_MIN} at least, for two primaries are no majority when one is dead"
            ));
        }
        Ok(Self { nodes, shards })
    }
}

/// A dead member is forgotten after so long, in ms, unless the config says otherwise.
pub const FORGET_AFTER_MS: u64 = 900_000;

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

impl Default for ClusterDuties {
    fn default() -> Self {
        Self {
            manage: true,
            make: None,
            replicas_max: None,
            hasten: true,
            forget_after_ms: Some(FORGET_AFTER_MS),
        }
    }
}

impl ClusterDuties {
    /// An owner's death is acted on at once.
    pub fn acts_on_deaths(&self) -> bool {
        self.manage && self.hasten
    }

    /// The nodes are only asked.
    pub const NONE: Self = Self {
        manage: false,
        make: None,
        replicas_max: None,
        hasten: false,
        forget_after_ms: None,
    };
}
