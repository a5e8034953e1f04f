//! From a record to everything Consul shows of it, and from one such picture to the next.
//!
//! [`project`] is a pure function of the record, so the role rows, tags, checks and plain keys of one
//! record cannot contradict one another; [`changes`] is the shortest list of operations between two
//! pictures, removals first. Together with the compare-and-set on `state` they make one transaction.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use serde::Serialize;

use crate::identity::address::{Address, GroupName, ServiceName};
use crate::published::record::{PublishedRole, Record};
pub use crate::published::store::Layout;
use crate::published::words::RowFacts;
pub use crate::published::words::Weights;

/// Operations in one transaction: what Consul before 1.14 accepts (`docs/facts/consul.md` 1).
pub const TXN_OPS_MAX: usize = 64;
/// Marks every node and service of ours.
pub const MANAGED_BY: (&str, &str) = ("managed-by", "consul-redis");
/// The synthetic node's own address while there is no writer: TEST-NET-1 (RFC 5737), which leads
/// nowhere, so a consumer that reads the node's address by mistake reaches no Redis at all.
pub const NO_ADDRESS: &str = "192.0.2.1";
/// [`NO_ADDRESS`] as an address: TEST-NET-1 (RFC 5737), which never answers.
const TEST_NET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// With [`NO_ADDRESS`], what a detached instance follows.
pub const NOWHERE_PORT: NonZeroU16 = NonZeroU16::new(6379).unwrap();

/// The address that a detached instance follows: see [`NO_ADDRESS`].
pub fn detached_address() -> Address {
    Address::of_ip(IpAddr::V4(TEST_NET), NOWHERE_PORT)
}

/// Whether it is [`detached_address`].
pub fn is_detached_address(address: &Address) -> bool {
    address.ip() == Some(IpAddr::V4(TEST_NET)) && address.port() == NOWHERE_PORT.get()
}

/// A node as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// The address that DNS answers for the node.
    pub address: String,
    /// Metadata; `managed-by` marks ours.
    pub meta: BTreeMap<String, String>,
}

/// The node has [`MANAGED_BY`] in its metadata.
pub fn is_ours(node: &NodeRow) -> bool {
    let (key, value) = MANAGED_BY;
    node.meta.get(key).is_some_and(|found| found == value)
}

/// The metadata that tells groups apart whose nodes have one name, as Consul compares names.
const PREFIX: &str = "prefix";
/// See [`PREFIX`]; the rows have it, too.
const GROUP: &str = "group";

/// The node of these rows, which has the name of the group's, is that of another group of ours. A node from before
/// nodes said whose they are is known by its rows.
pub fn is_of_another_group(rows: &Rows, layout: &Layout) -> bool {
    let other = |meta: &BTreeMap<String, String>, key: &str, own: &str| {
        meta.get(key).is_some_and(|found| found != own)
    };
    let group = layout.group.as_str();
    let node = &rows.node.meta;
    other(node, PREFIX, &layout.prefix)
        || other(node, GROUP, group)
        || rows.services.values().any(|row| other(&row.meta, GROUP, group))
}

/// A service as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceRow {
    /// The name that DNS answers, as `redis-primary`.
    pub service: String,
    /// The instance's host: an IP address, or a name.
    pub address: String,
    /// The port it listens on.
    pub port: u16,
    /// The tags, in a fixed order, so that equal rows are equal.
    pub tags: Vec<String>,
    /// Metadata, as the generation.
    pub meta: BTreeMap<String, String>,
    /// How much it weighs in the answers of DNS.
    #[serde(skip_serializing_if = "Weights::is_default")]
    pub weights: Weights,
}

/// A check as the catalog holds it. Nothing evaluates it: it stays what was written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckRow {
    /// The service (by id) it belongs to.
    pub service_id: String,
    /// That service's name, without which an ACL would deny the write (`docs/facts/consul.md` 1).
    pub service: String,
    /// Passing or critical: whether DNS answers the service.
    pub status: CheckStatus,
    /// What it says to a person.
    pub output: String,
}

/// The status of a check, of the two that agents write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// DNS answers it.
    Passing,
    /// DNS leaves it out.
    Critical,
}

impl CheckStatus {
    /// Consul's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Critical => "critical",
        }
    }
}

/// One synthetic node with all that is on it. Services and checks are keyed by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// The synthetic node itself.
    pub node: NodeRow,
    /// Its services by service id.
    pub services: BTreeMap<String, ServiceRow>,
    /// Its checks by check id.
    pub checks: BTreeMap<String, CheckRow>,
}

/// All that Consul shows of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// The plain keys, by their name below the group's prefix.
    pub plain: BTreeMap<String, String>,
    /// The synthetic node.
    pub rows: Rows,
}

/// One operation of a transaction in Consul (`/v1/txn`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Set a key if its ModifyIndex is `index`; 0 means if it does not exist.
    KeyCas {
        /// Its path, without a slash at the front.
        key: String,
        /// The index it must have.
        index: u64,
        /// The new value.
        value: String,
    },
    /// Go on only if the key has this ModifyIndex.
    KeyCheckIndex {
        /// Its path, without a slash at the front.
        key: String,
        /// The index it must have.
        index: u64,
    },
    /// Set a key, whatever it holds.
    KeySet {
        /// Its path, without a slash at the front.
        key: String,
        /// The new value.
        value: String,
    },
    /// Delete all keys with a prefix.
    KeyDeleteTree {
        /// What their paths begin with.
        prefix: String,
    },
    /// Create or change a node.
    NodeSet {
        /// Its name.
        node: String,
        /// What it becomes.
        row: NodeRow,
    },
    /// Delete a node with everything on it.
    NodeDelete {
        /// Its name.
        node: String,
    },
    /// Create or change a service.
    ServiceSet {
        /// The node it is on.
        node: String,
        /// The id of the service, unique on its node.
        id: String,
        /// What it becomes.
        row: ServiceRow,
    },
    /// Delete a service with its checks.
    ServiceDelete {
        /// The node it is on.
        node: String,
        /// The id of the service, unique on its node.
        id: String,
        /// Its name, which Consul wants to see for the ACL.
        service: String,
    },
    /// Create or change a check.
    CheckSet {
        /// The node it is on.
        node: String,
        /// The id of the check, unique on its node.
        id: String,
        /// What it becomes.
        row: CheckRow,
    },
}

/// How many rows and keys Consul shows otherwise than it is to.
pub fn differences(
    layout: &Layout,
    shown: &Projection,
    rows: Option<&Rows>,
    plain: &BTreeMap<String, String>,
) -> usize {
    row_changes(&layout.node(), rows, &shown.rows).len()
        + plain_changes(layout, plain, &shown.plain).len()
}

/// Everything Consul is to show of `record`.
pub fn project(record: &Record) -> Projection {
    let host = record.writer_address().map(Address::host);
    let node = marked_node(host, record.prefix.as_deref(), &record.group);
    let mut rows = Rows { node, services: BTreeMap::new(), checks: BTreeMap::new() };
    if let Some(writer) = &record.writer {
        let (name, role) = (record.service.primary(), PublishedRole::Primary);
        let row = service_row(record, name, &writer.address, (role, None));
        let output = format!("generation {}: {}", record.generation, record.why);
        add(&mut rows, primary_id(record), row, CheckStatus::Passing, output);
    }
    for instance in &record.instances {
        let answered = instance.role.tag().is_some();
        let status = if answered { CheckStatus::Passing } else { CheckStatus::Critical };
        let name = record.service.as_str().to_owned();
        let role = (instance.role, instance.role.tag());
        let row = service_row(record, name, &instance.address, role);
        let id = instance_id(&record.service, &instance.address);
        add(&mut rows, id, row, status, instance.role.as_str().to_owned());
        if instance.role == PublishedRole::Replica {
            let (name, role) = (record.service.replica(), (instance.role, None));
            let row = service_row(record, name, &instance.address, role);
            rows.services.insert(replica_id(&record.service, &instance.address), row);
        }
    }
    Projection { plain: plain_keys(record), rows }
}

/// The id of the writer's row. There is one such id, so there can be only one such row.
fn primary_id(record: &Record) -> String {
    record.service.primary()
}

fn replica_id(service: &ServiceName, address: &Address) -> String {
    format!("{}:{address}", service.replica())
}

fn instance_id(service: &ServiceName, address: &Address) -> String {
    format!("{service}:{address}")
}

/// The synthetic node, at the writer's host.
pub fn node_row(host: Option<&str>) -> NodeRow {
    let (key, value) = MANAGED_BY;
    NodeRow {
        address: host.unwrap_or(NO_ADDRESS).to_owned(),
        meta: BTreeMap::from([(key.to_owned(), value.to_owned())]),
    }
}

/// The same, and whose it is.
pub(crate) fn marked_node(host: Option<&str>, prefix: Option<&str>, group: &GroupName) -> NodeRow {
    let mut node = node_row(host);
    node.meta.extend(prefix.map(|prefix| (PREFIX.to_owned(), prefix.to_owned())));
    node.meta.insert(GROUP.to_owned(), group.to_string());
    node
}

/// The metadata that all rows of a group have.
pub(crate) fn row_meta(group: &GroupName) -> BTreeMap<String, String> {
    let (key, value) = MANAGED_BY;
    [(key, value), (GROUP, group.as_str())].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// A row of an instance, with the tag of its role where the service has one, and then the operator's own words.
fn service_row(
    record: &Record,
    service: String,
    at: &Address,
    (role, tag): (PublishedRole, Option<&str>),
) -> ServiceRow {
    let mut meta = row_meta(&record.group);
    // Only the writer's rows change with the generation; the others' need not be written again.
    let generation = (record.writer_address() == Some(at)).then_some(record.generation);
    meta.extend(generation.map(|generation| ("generation".to_owned(), generation.to_string())));
    let mut row = ServiceRow {
        service,
        address: at.host().to_owned(),
        port: at.port(),
        tags: tag.map(str::to_owned).into_iter().collect(),
        meta,
        weights: Weights::default(),
    };
    if let Some(words) = record.words.get(at) {
        let facts = RowFacts { role: role.as_word(), generation, group: &record.group, at };
        row.tags.extend(words.tags(&facts));
        row.meta.extend(words.meta(&facts));
        row.weights = words.weights();
    }
    row
}

fn add(rows: &mut Rows, id: String, row: ServiceRow, status: CheckStatus, output: String) {
    let check = CheckRow { service_id: id.clone(), service: row.service.clone(), status, output };
    rows.checks.insert(id.clone(), check);
    rows.services.insert(id, row);
}

/// The keys that templates and scripts read. No writer is an explicit empty value.
fn plain_keys(record: &Record) -> BTreeMap<String, String> {
    let writer = record.writer_address();
    let replicas: String = record.replicas().map(|a| format!("{a}\n")).collect();
    BTreeMap::from([
        ("primary".to_owned(), writer.map(ToString::to_string).unwrap_or_default()),
        ("primary/host".to_owned(), writer.map(|a| a.host().to_owned()).unwrap_or_default()),
        ("primary/port".to_owned(), writer.map(|a| a.port().to_string()).unwrap_or_default()),
        ("replicas".to_owned(), replicas),
    ])
}

/// The operations that turn the plain keys `from` into `to`.
pub fn plain_changes(
    layout: &Layout,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
) -> Vec<Op> {
    to.iter()
        .filter(|(name, value)| from.get(*name) != Some(value))
        .map(|(name, value)| Op::KeySet {
            key: format!("{}{name}", layout.root()),
            value: value.clone(),
        })
        .collect()
}

/// The node shows what it should. Agents of an older version write none of what tells nodes apart, and would take it
/// back again and again: it comes with the next change.
fn shows(found: &NodeRow, wanted: &NodeRow) -> bool {
    let may_lack = |key: &String| key == PREFIX || key == GROUP;
    found.address == wanted.address
        && found.meta.iter().all(|(key, value)| wanted.meta.get(key) == Some(value))
        && wanted.meta.keys().all(|key| found.meta.contains_key(key) || may_lack(key))
}

/// The operations that turn the rows `from` (or no node at all) into `to`, removals first.
pub fn row_changes(node: &str, from: Option<&Rows>, to: &Rows) -> Vec<Op> {
    let mut ops = Vec::new();
    let name = || node.to_owned();
    for (id, row) in from.iter().flat_map(|rows| &rows.services) {
        // A service cannot change its name under one id, so that is a removal too.
        if to.services.get(id).is_none_or(|new| new.service != row.service) {
            let service = row.service.clone();
            ops.push(Op::ServiceDelete { node: name(), id: id.clone(), service });
        }
    }
    if from.is_none_or(|rows| !shows(&rows.node, &to.node)) {
        ops.push(Op::NodeSet { node: name(), row: to.node.clone() });
    }
    for (id, row) in &to.services {
        if from.and_then(|rows| rows.services.get(id)) != Some(row) {
            ops.push(Op::ServiceSet { node: name(), id: id.clone(), row: row.clone() });
        }
    }
    for (id, row) in &to.checks {
        if from.and_then(|rows| rows.checks.get(id)) != Some(row) {
            ops.push(Op::CheckSet { node: name(), id: id.clone(), row: row.clone() });
        }
    }
    ops
}

/// The operations that turn what one record shows into what another shows.
pub fn changes(layout: &Layout, from: Option<&Record>, to: &Record) -> Vec<Op> {
    let old = from.map(project);
    let new = project(to);
    let none = BTreeMap::new();
    let old_plain = old.as_ref().map_or(&none, |p| &p.plain);
    let mut ops = row_changes(&layout.node(), old.as_ref().map(|p| &p.rows), &new.rows);
    ops.extend(plain_changes(layout, old_plain, &new.plain));
    ops
}
