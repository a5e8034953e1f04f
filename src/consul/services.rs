//! What is registered under the name of a service.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::client::{Consul, ConsulError, Response};
use crate::core::identity::address::Address;
use crate::core::published::projection::MANAGED_BY;
use crate::core::published::sentinel_rows::INSTALLATION;

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
    #[serde(rename = "Meta")]
    meta: Option<BTreeMap<String, String>>,
}

/// The agent that registered it: what others have registered says nothing of installations.
pub const AGENT: &str = "agent";

/// Whose instances of a service count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisteredBy {
    /// Those that no agent has registered or made a row of, and those of agents of this installation, or of none.
    Installation(Option<String>),
    /// Those that no agent has registered or made a row of: what agents publish is no source of it.
    Others,
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

    /// An agent has registered it, or made its row.
    fn is_by_agents(&self) -> bool {
        let meta = self.service.meta.as_ref();
        meta.is_some_and(|meta| meta.contains_key(AGENT) || meta.contains_key(MANAGED_BY.0))
    }

    /// It was not registered, and its row was not made, by an agent of another installation.
    fn is_of(&self, installation: Option<&str>) -> bool {
        let theirs = self.service.meta.as_ref().and_then(|meta| meta.get(INSTALLATION));
        !self.is_by_agents() || theirs.map(String::as_str) == installation
    }

    fn is_by(&self, by: &RegisteredBy) -> bool {
        match by {
            RegisteredBy::Installation(installation) => self.is_of(installation.as_deref()),
            RegisteredBy::Others => !self.is_by_agents(),
        }
    }
}

/// Where all instances of a service are.
pub(super) fn path(service: &str) -> String {
    format!("/v1/health/service/{service}")
}

/// Their addresses in Consul's answer, without those of other installations.
pub(super) fn addresses(
    answer: Response,
    call: &str,
    installation: Option<&str>,
) -> Result<BTreeSet<Address>, ConsulError> {
    let entries: Vec<HealthEntry> = answer.decode(call)?.value;
    let ours = entries.iter().filter(|entry| entry.is_of(installation));
    Ok(ours.filter_map(HealthEntry::address).collect())
}

impl Consul {
    /// All instances of a service, healthy or not.
    pub(super) async fn instances(&self, service: &str) -> Result<Vec<HealthEntry>, ConsulError> {
        Ok(self.get(&path(service), &[("consistent", "")]).await?.value)
    }

    /// Every address that these have registered under a service, healthy or not.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn service_addresses(
        &self,
        service: &str,
        by: &RegisteredBy,
    ) -> Result<Vec<Address>, ConsulError> {
        let all = self.instances(service).await?;
        let ours = all.iter().filter(|entry| entry.is_by(by));
        Ok(ours.filter_map(HealthEntry::address).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_agents_of_another_installation_registered_or_made_a_row_of_is_none_of_ours() {
        let entry = |meta| -> HealthEntry {
            let service = json!({"Address": "10.0.0.1", "Port": 26379, "Meta": meta});
            let node = json!({"Node": "n", "Address": "10.0.0.1"});
            serde_json::from_value(json!({"Node": node, "Service": service})).unwrap()
        };
        let (agent, row) = (json!({"agent": "a"}), json!({"managed-by": "consul-redis"}));
        let by_hand = entry(serde_json::Value::Null);
        for made in [agent, row] {
            let of_none = entry(made.clone());
            assert!(!of_none.is_by(&RegisteredBy::Others), "{made}");
            assert!(of_none.is_of(None) && !of_none.is_of(Some("prod")), "{made}");
            let mut made = made;
            made["installation"] = json!("prod");
            let of_prod = entry(made);
            assert!(of_prod.is_of(Some("prod")) && !of_prod.is_of(None));
            assert!(!of_prod.is_of(Some("test")));
            assert!(of_prod.is_by(&RegisteredBy::Installation(Some("prod".to_owned()))));
            assert!(!of_prod.is_by(&RegisteredBy::Others));
        }
        assert!(by_hand.is_by(&RegisteredBy::Others));
        assert!(by_hand.is_of(None) && by_hand.is_of(Some("prod")), "it says nothing of that");
    }
}
