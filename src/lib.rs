//! consul-redis keeps Consul pointing at the Redis writer.
//!
//! [`core`] decides, and does nothing else; the rest asks, and carries out. ARCHITECTURE.md has the map.
//!
//! [`client`] is for other programs: it gives a group's writer and its changes. Everything else is what the command is
//! made of, and may change with any version.

pub mod agent;
pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod consul;
pub mod core;
pub mod dns;
pub mod doctor;
pub mod exec;
pub mod exit;
pub mod group_task;
pub mod handover;
pub mod http;
pub mod instance;
pub mod lab;
pub mod mailbox;
pub mod meter;
pub mod name_check;
pub mod observe;
pub mod pem;
pub mod redis_link;
pub mod reload;
pub mod render;
pub mod retry;
pub mod secret;
pub mod sentinel;
pub mod snapshot;
pub mod supervisor;
pub mod switchover;
pub mod systemd;
pub mod telemetry;
