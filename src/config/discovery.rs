//! Where Sentinels are to be found.

use std::time::Duration;

use crate::core::address::Address;

/// Where Sentinels are to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelSources {
    /// Listed. A host that is a name stands for all its addresses.
    pub listed: Vec<Address>,
    /// Registered in Consul under this service.
    pub consul_service: Option<String>,
    /// Ask the ones that are found about the others.
    pub peers: bool,
    /// How often names and the service are looked up again.
    pub refresh: Duration,
}
