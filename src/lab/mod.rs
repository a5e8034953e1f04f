//! A small world of real servers on loopback: Consul, Redis and Sentinel as processes of their own.
//!
//! `consul-redis demo` shows it, the end-to-end tests and the race run in it. Every server has a loopback
//! address of its own and a port that the system assigned, so worlds never clash; what a world started
//! it ends, by process id, and nothing else.

pub mod clients;
pub mod cluster;
pub mod consul;
pub mod contention;
pub mod many;
pub mod net;
pub mod process;
pub mod redis;
pub mod tools;
pub mod wait;
pub mod world;

/// Anything that keeps a world from being built.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LabError(pub String);

impl LabError {
    /// An error with some context.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl From<std::io::Error> for LabError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}
