//! Real processes: Consul, Redis, Sentinels and agents of this build, and everything that goes wrong.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod agents;
mod all_stopped;
mod browser;
mod certificates;
mod client;
mod clients;
mod cluster;
mod cluster_duties;
mod cluster_exec;
mod cluster_places;
mod cluster_strangers;
mod cluster_surfaces;
mod consul;
mod consul_servers;
mod containers;
mod cures;
mod datacenters;
mod demo;
mod disks;
mod doctor;
mod electorate;
mod errors;
mod exec;
mod fencing;
mod first_primary;
mod first_steps;
mod fleet;
mod groups;
mod hammer;
mod hostile;
mod hostnames;
mod http;
mod https;
mod identity;
mod ipv6;
#[path = "../shared/jwt.rs"]
mod jwt;
mod login;
mod logins;
mod maintenance;
mod many_groups;
mod mark;
mod name_server;
mod names;
#[path = "../netns/namespace.rs"]
#[expect(dead_code, reason = "the switch and its hosts are of tests/netns")]
mod namespace;
mod node_mode;
mod notify;
mod on_versions;
mod overtaken;
mod page;
mod pause;
mod plain_hosts;
mod progress;
mod prometheus;
#[path = "../shared/promises.rs"]
mod promises;
mod proof;
mod proxies;
mod published_ports;
mod reach;
mod refusals;
mod relay;
mod reload;
mod relocated;
mod renamed;
mod render;
mod resolvers;
mod round_trips;
mod scripts;
mod sentinel_logins;
mod sentinels;
mod stale_peers;
mod stopping;
mod support;
mod switch;
mod switchover;
mod systemd;
mod times;
mod upgrade;
mod versions;
mod votes;
mod words;
#[path = "../shared/writers.rs"]
mod writers;
mod zones;
