//! A group's keys and rows in Consul, read and written as the core sees them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::{CALL_TIMEOUT, Consul, ConsulError, Indexed, Response};
use super::txn;
use crate::clock::Clock;
use crate::core::cluster::record::ClusterStore;
use crate::core::group::Outcome;
use crate::core::identity::address::{GroupName, ServiceName};
use crate::core::known::observed::{Key, RowsAnswer, StoreAnswer};
use crate::core::published::projection::{
    CheckRow, CheckStatus, Layout, NodeRow, Op, Rows, ServiceRow, Weights, is_ours,
};
use crate::core::published::store::CLUSTERS;
use crate::core::time::Mono;
use crate::foreign::harmless_json;

/// How a group's keys are read once. Every change of them is read by [`GroupWatch`](super::watch::GroupWatch).
#[derive(Debug, Clone, Copy)]
pub enum ReadMode {
    /// The leader confirms with its peers that it still is the leader.
    Consistent,
}

#[derive(Debug, Deserialize)]
struct KvEntry {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: Option<String>,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
    #[serde(rename = "Session", default)]
    session: Option<String>,
}

impl Consul {
    /// Reads all keys of a group as one snapshot.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn group(
        &self,
        layout: &Layout,
        mode: ReadMode,
        clock: &Clock,
    ) -> Result<Indexed<StoreAnswer>, ConsulError> {
        let ReadMode::Consistent = mode;
        let _place = self.places().read().await;
        let (path, query) = (keys_path(layout), [("recurse", ""), ("consistent", "")]);
        let answer = self.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        let (index, empty) = (answer.index, answer.status == StatusCode::NOT_FOUND);
        if empty {
            self.may_read(&layout.state()).await?;
        }
        Ok(Indexed { index, value: in_answer(layout, clock, answer)? })
    }

    /// Reads all keys of a cluster as one snapshot.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn cluster(
        &self,
        layout: &Layout,
        clock: &Clock,
    ) -> Result<ClusterStore, ConsulError> {
        let (path, query) = (keys_path(layout), [("recurse", ""), ("consistent", "")]);
        let answer = self.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        if answer.status == StatusCode::NOT_FOUND {
            self.may_read(&layout.state()).await?;
        }
        cluster_in_answer(layout, clock, answer)
    }

    /// Consul leaves out of a list what the token may not see, and so an empty list is no answer: of a single key it
    /// says that it is denied.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn may_read(&self, key: &str) -> Result<(), ConsulError> {
        let path = format!("/v1/kv/{key}");
        let answer = self.call(Method::GET, &path, &[], None, CALL_TIMEOUT).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        answer.ok(&format!("GET {path}")).map(|_| ())
    }

    /// Sends one transaction; `fence` is the key whose new ModifyIndex is wanted. Never fails: what
    /// is not known is [`Outcome::Unknown`].
    pub async fn txn(&self, ops: &[Op], fence: &str) -> Outcome {
        let body = txn::body(ops, &self.tenancy());
        match self.call(Method::PUT, "/v1/txn", &[], Some(&body), CALL_TIMEOUT).await {
            Ok(answer) => txn::outcome(answer.status.as_u16(), &answer.body, fence),
            Err(ConsulError::Secret(error)) => Outcome::Refused(error.to_string()),
            // The caller knows where it should be.
            Err(ConsulError::Unreachable { reason, .. }) => Outcome::Unknown(reason),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }

    /// Reads the rows of a group's synthetic node.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn rows(&self, node: &str, clock: &Clock) -> Result<RowsAnswer, ConsulError> {
        let asked = clock.now().mono;
        // Not what a server with discovery_max_stale remembers.
        let consistent = [("consistent", "")];
        // Not /v1/catalog/node, which takes a service's id for its name when it looks at what the token may see.
        let found: CatalogNode =
            self.get(&format!("/v1/catalog/node-services/{node}"), &consistent).await?.value;
        let Some(found_node) = found.node else {
            return Ok(RowsAnswer { asked, found: None, foreign: false, others: BTreeSet::new() });
        };
        let checks: Vec<HealthCheck> =
            self.get(&format!("/v1/health/node/{node}"), &consistent).await?.value;
        let found = rows(found_node, found.services.unwrap_or_default(), checks);
        let foreign = !is_ours(&found.node);
        Ok(RowsAnswer { asked, found: Some(found), foreign, others: BTreeSet::new() })
    }

    /// The same, and which nodes show the service of the group's writer.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn rows_of(
        &self,
        node: &str,
        service: &ServiceName,
        clock: &Clock,
    ) -> Result<RowsAnswer, ConsulError> {
        let _place = self.places().read().await;
        let path = format!("/v1/catalog/service/{}", service.primary());
        let shown: Vec<ShownOn> = self.get(&path, &[("consistent", "")]).await?.value;
        let rows = self.rows(node, clock).await?;
        Ok(RowsAnswer { others: shown.into_iter().map(|shown| shown.node).collect(), ..rows })
    }

    /// A key and its ModifyIndex, where it exists.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn key(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, ConsulError> {
        let (path, query) = (format!("/v1/kv/{key}"), [("consistent", "")]);
        let answer = self.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let entries: Vec<KvEntry> = answer.decode(&format!("GET {path}"))?.value;
        Ok(keys(entries).next().map(|key| (key.value, key.modify_index)))
    }

    /// The groups that have keys under `prefix`.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn groups(&self, prefix: &str) -> Result<BTreeSet<GroupName>, ConsulError> {
        let mut groups = self.directories(prefix).await?;
        // The directory of the clusters, unless a group of before has that name.
        let clusters = groups.iter().find(|group| group.as_str() == CLUSTERS).cloned();
        if let Some(clusters) = clusters
            && self.key(&Layout::new(prefix, &clusters).state()).await?.is_none()
        {
            groups.remove(&clusters);
        }
        Ok(groups)
    }

    /// The clusters that have keys under `prefix`.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn clusters(&self, prefix: &str) -> Result<BTreeSet<GroupName>, ConsulError> {
        self.directories(&format!("{prefix}/{CLUSTERS}")).await
    }

    /// The directories right below `prefix`.
    async fn directories(&self, prefix: &str) -> Result<BTreeSet<GroupName>, ConsulError> {
        let path = format!("/v1/kv/{prefix}/");
        let query = [("keys", ""), ("separator", "/")];
        let answer = self.call(Method::GET, &path, &query, None, CALL_TIMEOUT).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(BTreeSet::new());
        }
        let keys: Vec<String> = answer.decode(&format!("GET {path}"))?.value;
        let head = format!("{prefix}/");
        let name = |key: &String| key.strip_prefix(&head)?.strip_suffix('/')?.parse().ok();
        Ok(keys.iter().filter_map(name).collect())
    }
}

/// Where all keys of a group are.
pub(super) fn keys_path(layout: &Layout) -> String {
    format!("/v1/kv/{}", layout.root())
}

/// The group's keys in Consul's answer.
pub(super) fn in_answer(
    layout: &Layout,
    clock: &Clock,
    answer: Response,
) -> Result<StoreAnswer, ConsulError> {
    keys_in(layout, clock, answer, StoreAnswer::from_keys)
}

/// The cluster's keys in Consul's answer.
pub(super) fn cluster_in_answer(
    layout: &Layout,
    clock: &Clock,
    answer: Response,
) -> Result<ClusterStore, ConsulError> {
    keys_in(layout, clock, answer, ClusterStore::from_keys)
}

fn keys_in<T>(
    layout: &Layout,
    clock: &Clock,
    answer: Response,
    from_keys: fn(&Layout, Mono, Vec<Key>) -> T,
) -> Result<T, ConsulError> {
    let asked = clock.mono(answer.asked);
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(from_keys(layout, asked, Vec::new()));
    }
    let entries: Vec<KvEntry> = answer.decode(&format!("GET {}", keys_path(layout)))?.value;
    Ok(from_keys(layout, asked, keys(entries).collect()))
}

/// The keys in an answer to a question with `recurse`; none where there is none.
///
/// # Errors
/// Any [`ConsulError`].
pub(crate) fn any_keys_in(answer: Response, call: &str) -> Result<Vec<Key>, ConsulError> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let entries: Vec<KvEntry> = answer.decode(call)?.value;
    Ok(keys(entries).collect())
}

/// A value as readers get it: JSON for the most part, and never what a terminal would obey.
fn plain(value: Vec<u8>) -> Vec<u8> {
    match harmless_json(&value) {
        Cow::Owned(value) => value,
        Cow::Borrowed(_) => value,
    }
}

/// What Consul sent, with values in plain bytes.
fn keys(entries: Vec<KvEntry>) -> impl Iterator<Item = Key> {
    entries.into_iter().map(|entry| Key {
        // Consul itself made the Base64, so it is right; and if it were not, an empty value is one
        // that no reader below takes for a record.
        value: entry
            .value
            .and_then(|value| BASE64.decode(value).ok())
            .map(plain)
            .unwrap_or_default(),
        key: entry.key,
        modify_index: entry.modify_index,
        locked: entry.session.is_some(),
    })
}

#[derive(Debug, Deserialize)]
struct CatalogNode {
    #[serde(rename = "Node")]
    node: Option<NodeObject>,
    #[serde(rename = "Services")]
    services: Option<Vec<ServiceObject>>,
}

#[derive(Debug, Deserialize)]
struct ShownOn {
    #[serde(rename = "Node")]
    node: String,
}

#[derive(Debug, Deserialize)]
struct NodeObject {
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Meta")]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct ServiceObject {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Service")]
    service: String,
    #[serde(rename = "Tags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "Meta")]
    meta: Option<BTreeMap<String, String>>,
    #[serde(rename = "Weights")]
    weights: Option<WeightsObject>,
}

#[derive(Debug, Deserialize)]
struct WeightsObject {
    #[serde(rename = "Passing", default)]
    passing: i64,
    #[serde(rename = "Warning", default)]
    warning: i64,
}

impl WeightsObject {
    /// Out of range is another program's, and differs from all of ours.
    fn weights(&self) -> Weights {
        let of = |weight: i64| u16::try_from(weight).unwrap_or(0);
        Weights { passing: of(self.passing), warning: of(self.warning) }
    }
}

#[derive(Debug, Deserialize)]
struct HealthCheck {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(rename = "Status")]
    status: String,
    #[serde(rename = "Output")]
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    #[serde(rename = "ServiceName")]
    service: String,
}

fn rows(node: NodeObject, services: Vec<ServiceObject>, checks: Vec<HealthCheck>) -> Rows {
    let service = |object: ServiceObject| {
        let row = ServiceRow {
            service: object.service,
            address: object.address,
            port: object.port,
            tags: object.tags.unwrap_or_default(),
            meta: object.meta.unwrap_or_default(),
            weights: object.weights.as_ref().map(WeightsObject::weights).unwrap_or_default(),
        };
        (object.id, row)
    };
    let check = |object: HealthCheck| {
        let status = match object.status.as_str() {
            "passing" => CheckStatus::Passing,
            _ => CheckStatus::Critical,
        };
        let HealthCheck { service_id, service, output, .. } = object;
        CheckRow { service_id, service, status, output }
    };
    Rows {
        node: NodeRow { address: node.address, meta: node.meta.unwrap_or_default() },
        services: services.into_iter().map(service).collect(),
        checks: checks.into_iter().map(|object| (object.id.clone(), check(object))).collect(),
    }
}
