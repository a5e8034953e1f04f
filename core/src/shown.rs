//! What operators and load balancers are told of a group.

pub mod health;
pub mod reasons;
pub mod status;
pub mod timeline;
pub mod unreachable;
