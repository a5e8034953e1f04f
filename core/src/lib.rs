//! The pure core: what is known in, what is to be done out.
//!
//! Nothing in here does I/O, reads a clock or draws a random number: it depends on nothing that could, and
//! `tests/purity.rs` holds the rest.
//!
//! A look at the world goes through the modules in this order: [`identity`], [`known`], [`situation`], [`published`]
//! and [`duty`], which [`decide`] puts together; [`group`] repeats it, and [`shown`] and [`doctor`] say what came out.
//! [`cluster`] is of Redis Cluster, which needs none of these.

pub mod brief;
pub mod cluster;
pub mod decide;
pub mod doctor;
pub mod duty;
pub mod fleet;
pub mod group;
pub mod identity;
pub mod known;
pub mod policy;
pub mod published;
pub mod shown;
pub mod situation;
pub mod time;
