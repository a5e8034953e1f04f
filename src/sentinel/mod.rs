//! Redis Sentinel: asking it, hearing its events, finding all of them.

pub mod events;
pub mod login;
pub mod pool;
pub mod query;
pub mod watch;
