//! Consul over HTTP. Hand-written: no crate has `/v1/txn` or a sound blocking query.

pub mod blocking;
pub mod client;
mod connection;
pub mod endpoint;
pub mod error;
pub mod fleet;
pub mod login;
mod login_keeper;
pub mod logins;
pub mod places;
pub mod presence;
#[cfg(test)]
mod proxy;
mod recovery;
pub mod registrar;
pub mod sentinel_rows;
pub(crate) mod services;
pub mod shared_watch;
pub mod store;
pub mod txn;
pub mod watch;
