//! Where a server listens, as templates see it.

use serde::Serialize;

use crate::core::identity::address::Address;

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// `host:port`, or `[v6]:port`.
    pub address: String,
    /// The host, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// This address.
    pub fn of(address: &Address) -> Self {
        Self { address: address.to_string(), host: address.host().to_owned(), port: address.port() }
    }
}
