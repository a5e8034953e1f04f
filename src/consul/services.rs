//! What is registered under the name of a service.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::client::{Consul, ConsulError, Response};
use crate::core::address::Address;

/// One instance of a service.
#[derive(Debug, Deserialize)]
pub(super) struct HealthEntry {
    #[serde(rename = "Node")]
    node: HealthNode,
    #[serde(rename = "Service")]
    service: HealthService,
}

#[derive(Debug, Deserialize)]
struct HealthNode {
    #[serde(rename = "Node")]
    node: String,
    #[serde(rename = "Address")]
    address: String,
}

#[derive(Debug, Deserialize)]
struct HealthService {
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Port")]
    port: u16,
}

impl HealthEntry {
    /// The node that it is registered on.
    pub fn node(&self) -> &str {
        &self.node.node
    }

    /// The service's address and port; the node's address where the service has none.
    pub fn address(&self) -> Option<Address> {
        let own = &self.service.address;
        let host = if own.is_empty() { &self.node.address } else { own };
        Address::new(host, self.service.port).ok()
    }
}

/// Where all instances of a service are.
pub(super) fn path(service: &str) -> String {
    format!("/v1/health/service/{service}")
}

/// Their addresses in Consul's answer.
pub(super) fn addresses(answer: Response, call: &str) -> Result<BTreeSet<Address>, ConsulError> {
    let entries: Vec<HealthEntry> = answer.decode(call)?.value;
    Ok(entries.iter().filter_map(HealthEntry::address).collect())
}

impl Consul {
    /// All instances of a service, healthy or not.
    pub(super) async fn instances(&self, service: &str) -> Result<Vec<HealthEntry>, ConsulError> {
        Ok(self.get(&path(service), &[]).await?.value)
    }

    /// Every address registered under a service, healthy or not.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn service_addresses(&self, service: &str) -> Result<Vec<Address>, ConsulError> {
        Ok(self.instances(service).await?.iter().filter_map(HealthEntry::address).collect())
    }
}
