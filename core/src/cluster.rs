//! Redis Cluster: which of its nodes can take requests, and what Consul shows of them.
//!
//! A node's own `cluster_state:ok` is its opinion of the others, and it starts out rosy. What counts is what more than
//! half of the voting primaries' own tables say (`docs/facts/cluster.md` 3.3).

pub mod claims;
pub mod duties;
pub mod history;
mod hurry;
mod join;
pub mod judgement;
mod leave;
pub mod make;
pub mod migration;
pub mod order;
pub mod record;
mod relink;
pub mod renewal;
pub mod rows;
mod scene;
pub mod shard_move;
pub mod shown;
pub mod slots;
pub mod start;
pub mod table;
pub mod wanted;
pub mod watch;

pub use hurry::HASTE_LEFT_TO_ONE_MS;
