//! Where Sentinels are to be found.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::consul::services::RegisteredBy;
use crate::core::identity::address::Address;
use crate::discovery::ServerSource;

/// Where Sentinels are to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelSources {
    /// Listed. A host that is a name stands for all its addresses.
    pub listed: Vec<Address>,
    /// Registered in Consul under this service.
    pub consul_service: Option<String>,
    /// Ask the ones that are found about the others.
    pub peers: bool,
    /// Those that agents of another installation have registered are none of ours.
    pub installation: Option<String>,
    /// How often names and the service are looked up again.
    pub refresh: Duration,
}

impl SentinelSources {
    /// Each of them.
    pub fn all(&self) -> Vec<ServerSource> {
        let by = RegisteredBy::Installation(self.installation.clone());
        let service = |name: &String| ServerSource::Service(name.clone(), by.clone());
        let listed = self.listed.iter().cloned().map(ServerSource::Listed);
        listed.chain(self.consul_service.iter().map(service)).collect()
    }

    /// What tells them from the sources of others: a loopback address is each host's own.
    pub fn names(&self) -> BTreeSet<String> {
        let listed = self.listed.iter().filter(|address| !address.is_each_hosts_own());
        let service = self.consul_service.iter().map(|service| format!("service {service}"));
        listed.map(ToString::to_string).chain(service).collect()
    }
}
