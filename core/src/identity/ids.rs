//! What identifies a server when its address changes: run ids and replication ids.

use serde::{Deserialize, Serialize};

/// A Sentinel's stable identity (`SENTINEL MYID`): two addresses of one Sentinel have one vote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SentinelId(pub String);

/// Identity of a replication history (`master_replid`): the lineage of a data set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplId(pub String);
