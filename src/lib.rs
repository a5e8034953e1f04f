//! consul-redis keeps Consul pointing at the Redis writer.
//!
//! [`client`] is for other programs: it gives a group's writer and its changes.
//!
//! Everything else is what the command is made of, may change with any version, and is not shown here. `core`, a crate
//! of its own, decides, and does nothing else; the rest asks, and carries out. ARCHITECTURE.md has the map.

#[doc(hidden)]
pub mod agent;
#[doc(hidden)]
pub mod cli;
pub mod client;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod cluster;
#[doc(hidden)]
pub mod cluster_task;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod completion;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod consul;
#[doc(hidden)]
pub mod discovery;
#[doc(hidden)]
pub mod dns;
#[doc(hidden)]
pub mod doctor;
#[doc(hidden)]
pub mod exec;
#[doc(hidden)]
pub mod exit;
#[doc(hidden)]
pub mod fleet;
#[doc(hidden)]
pub mod foreign;
pub mod group_task;
#[doc(hidden)]
pub mod handover;
#[cfg(test)]
mod hostile;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod instance;
#[doc(hidden)]
pub mod lab;
#[doc(hidden)]
pub mod mailbox;
#[doc(hidden)]
pub mod meter;
#[cfg(test)]
#[path = "../tests/shared/mutations.rs"]
mod mutations;
#[doc(hidden)]
pub mod name_check;
#[doc(hidden)]
pub mod notify;
#[doc(hidden)]
pub mod observe;
#[doc(hidden)]
pub mod pem;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod redis_link;
#[doc(hidden)]
pub mod refusal;
pub mod reload;
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod retry;
#[doc(hidden)]
pub mod rights;
#[cfg(test)]
mod scripted;
#[doc(hidden)]
pub mod secret;
#[doc(hidden)]
pub mod sentinel;
/// Moving a shard of a Redis Cluster to one of its replicas.
pub mod shard_move;
#[doc(hidden)]
pub mod snapshot;
#[doc(hidden)]
pub mod supervisor;
#[doc(hidden)]
pub mod switchover;
#[doc(hidden)]
pub mod systemd;
#[doc(hidden)]
pub mod telemetry;

#[doc(hidden)]
pub use consul_redis_core as core;
