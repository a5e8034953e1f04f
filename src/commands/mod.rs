//! One file a subcommand.

pub mod adopt;
pub mod agent;
pub mod beside;
pub mod check_config;
pub mod cluster;
pub mod cluster_maintenance;
pub mod clusters;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod exec;
pub mod forget;
pub mod health;
pub mod history;
pub mod init;
pub mod kept_out;
pub mod maintenance;
pub mod plan;
pub mod render;
pub mod retire;
pub mod shell;
pub mod status;
pub mod support_bundle;
pub mod switchover;
pub mod terminal;
pub mod wait;
