//! Redis Cluster: which of its nodes can take requests, and what Consul shows of them.
//!
//! A node's own `cluster_state:ok` is its opinion of the others, and it starts out rosy. What counts is what more than
//! half of the voting primaries' own tables say (`docs/facts/cluster.md` 3.3).

pub mod judgement;
pub mod record;
pub mod renewal;
pub mod rows;
pub mod slots;
pub mod table;
pub mod watch;
