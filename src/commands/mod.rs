//! One file a subcommand.

pub mod agent;
pub mod plan;
pub mod retire;
pub mod status;
