//! Hosts as network namespaces, each with a Consul server, a Redis, a Sentinel and an agent: what happens when one of
//! them is isolated, or lost altogether.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod cluster_cut;
mod cut_off;
mod firewall;
mod hosts;
mod how_to;
mod namespace;
mod one_host;
#[path = "../shared/promises.rs"]
mod promises;
mod readers;
#[path = "../shared/writers.rs"]
mod shared_writers;
mod two_networks;
mod writers;
