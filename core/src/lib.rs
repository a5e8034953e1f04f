//! The pure core: what is known in, what is to be done out.
//!
//! Nothing in here does I/O, reads a clock or draws a random number: it depends on nothing that could, and
//! `tests/purity.rs` holds the rest.

pub mod action;
pub mod address;
pub mod adopt;
pub mod bootstrap;
pub mod conditions;
pub mod data_loss;
pub mod decide;
pub mod doctor;
pub mod duty;
pub mod election;
pub mod electorate;
pub mod fence;
pub mod forgotten;
pub mod group;
pub mod health;
pub mod hold;
pub mod ids;
pub mod loss;
pub mod majority;
pub mod memory;
pub mod name_check;
pub mod observed;
pub mod policy;
pub mod projection;
pub mod promote_again;
pub mod promotion;
pub mod publication;
pub mod reasons;
pub mod record;
pub mod relocated;
pub mod replicas;
pub mod safety;
pub mod sentinel_rows;
pub mod sentinels;
pub mod situation;
pub mod stale_peers;
pub mod status;
pub mod store;
pub mod switchover;
pub mod time;
pub mod timeline;
pub mod unreachable;
pub mod view;
pub mod withdrawal;
pub mod write;
pub mod writer;
