//! What the checks look at.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::fleet::FleetLayout;
use crate::identity::address::Address;
use crate::known::observed::{InstanceAnswer, Role, SentinelAnswer, SentinelGroup};
use crate::known::view::View;
use crate::published::name_check::DnsAnswer;
use crate::published::projection::Layout;
use crate::published::record::Record;
use crate::shown::status::Problem;
use crate::{identity::address::ServiceName, published::sentinel_rows};

/// Names and values, as a server gives them.
pub type ReadFields = BTreeMap<String, String>;

/// Everything that was read. Whatever could not be is an error in words.
pub struct Facts<'a> {
    /// The readings of the group, as an agent's decision has them.
    pub view: &'a View<'a>,
    /// The group's keys and node in Consul.
    pub layout: &'a Layout,
    /// The problems that `status` shows.
    pub problems: &'a [Problem],
    /// More about each Sentinel that answers.
    pub sentinels: BTreeMap<Address, SentinelFacts>,
    /// More about each instance that answers.
    pub instances: BTreeMap<Address, InstanceFacts>,
    /// What `/v1/agent/self` of the Consul agent says, or why it could not be read.
    pub consul: Result<ConsulAgent, String>,
    /// Every row of the group's services, those of other programs too.
    pub rows: Result<Vec<ConsulRow>, String>,
    /// Which rights the token has; `None` where there are no ACLs.
    pub rights: Result<Option<Vec<(Right, bool)>>, String>,
    /// Each DNS server's answer for each name of the group.
    pub names: Vec<NameAnswer>,
    /// The login that agents give Sentinels, where they give one.
    pub login: Option<LoginFacts>,
    /// Why the login to Consul fails, where it does.
    pub consul_login: Option<ConsulLoginFailure>,
    /// The agents that share the groups, where they could be read.
    pub fleet: Option<FleetFacts>,
}

/// A login to Consul that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulLoginFailure {
    /// What is wrong.
    pub said: String,
    /// What to do about it.
    pub mend: String,
    /// The auth method, and the file with the JWT.
    pub named: String,
}

/// The agents that share a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetFacts {
    /// Those that are configured with it, in the order in which they are to watch it.
    pub agents: Vec<String>,
    /// How many are to watch it.
    pub wanted: usize,
}

/// The login for the instances that agents give Sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFacts {
    /// Which one: the user, and where the password is.
    pub named: String,
    /// The operator has chosen it for Sentinels (`auth_password_file`); else it is the agents' own.
    pub chosen: bool,
    /// Why Sentinel cannot keep it in its config file.
    pub not_storable: Option<&'static str>,
    /// What instances say that do not take it.
    pub refused: BTreeMap<Address, String>,
    /// The commands that instances refuse it, and that Sentinel needs.
    pub lacks: BTreeMap<Address, String>,
}

/// More about one Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelFacts {
    /// `SENTINEL CONFIG GET`: `resolve-hostnames` and `announce-hostnames`. Redis before 6.2 has none.
    pub config: Result<ReadFields, String>,
    /// What `SENTINEL CKQUORUM` answers; a refusal is an answer.
    pub quorum: Result<Result<String, String>, String>,
    /// Its version, as INFO gives it.
    pub version: Result<String, String>,
    /// Whether it is Valkey, whose version numbers are its own.
    pub valkey: bool,
    /// What it refuses this login of what agents ask of it.
    pub refused: Result<Refused, String>,
    /// What it says when it is to save its config file (`SENTINEL FLUSHCONFIG`): before 7.0 never that it cannot.
    pub saved: Result<Result<(), String>, String>,
}

/// More about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// `CONFIG GET` of [`InstanceFacts::SETTINGS`].
    pub config: Result<ReadFields, String>,
    /// All fields of `INFO`, or why it could not be read.
    pub info: Result<ReadFields, String>,
    /// How far its clock is ahead of ours, in ms, once the time that the question took is taken off; below 0 when it is
    /// behind.
    pub clock_ahead_ms: Result<i64, String>,
    /// The users that Sentinels are logged in as, and the commands that a failover needs and that each may not run.
    /// `Err` where the login may not ask for that, or the server is older than 7.0.
    pub sentinel_users: Result<BTreeMap<String, String>, String>,
    /// What it refuses this login of what agents do to an instance.
    pub refused: Result<Refused, String>,
    /// The commands of a failover that it does not know by their names (`rename-command`).
    pub renamed: Result<Vec<String>, String>,
    /// Why the end of its process would not be seen from here; `None` where it would, or where it is not wanted to be:
    /// on other hosts, or with `fast_failover = "off"`.
    pub death_unseen: Option<String>,
}

/// What a server refuses a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The user that it is logged in as.
    pub user: String,
    /// The commands, each with the server's words.
    pub commands: Vec<(String, String)>,
}

impl InstanceFacts {
    /// The settings that are read with `CONFIG GET`.
    pub const SETTINGS: [&str; 11] = [
        "min-replicas-to-write",
        "save",
        "appendonly",
        "replica-announce-ip",
        "replica-announce-port",
        "replica-read-only",
        "repl-diskless-sync",
        "repl-diskless-sync-delay",
        "client-output-buffer-limit",
        "maxmemory",
        "maxmemory-policy",
    ];

    /// The value of one of [`Self::SETTINGS`]; `None` where it could not be read.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.config.as_ref().ok()?.get(name).map(String::as_str)
    }

    /// The same as a number; `None` where it is none.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// One field of `INFO`; `None` where it could not be read.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.get(name).map(String::as_str)
    }
}

/// What a Consul agent says of itself (`/v1/agent/self`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulAgent {
    /// The name of the node that the Consul agent runs on.
    pub node: String,
    /// The version of Consul, as `1.22.2`.
    pub version: String,
    /// ACLs are enforced.
    pub acls: bool,
    /// DNS answers from a server that has lost its leader, for as long as `max_stale`.
    pub allow_stale: bool,
    /// Consul's `dns_config.max_stale`: how old a server's answer by DNS may be.
    pub max_stale: Option<SignedDuration>,
    /// DNS leaves out what warns.
    pub only_passing: bool,
    /// DNS answers from the agent's cache.
    pub use_cache: bool,
    /// DNS says when it leaves rows out.
    pub truncate: bool,
    /// How many rows an answer by UDP has at most.
    pub udp_answers: u64,
    /// How long an answer may be kept, by service: its name, `prefix*`, or `*`.
    pub service_ttl: BTreeMap<String, SignedDuration>,
}

impl ConsulAgent {
    /// How long an answer for a service may be kept: an exact name goes before the longest prefix.
    pub fn ttl(&self, service: &str) -> SignedDuration {
        let exact = self.service_ttl.get(service);
        let prefixes = self.service_ttl.iter().filter_map(|(name, ttl)| {
            let prefix = name.strip_suffix('*').filter(|prefix| service.starts_with(prefix))?;
            Some((prefix.len(), ttl))
        });
        let longest = prefixes.max_by_key(|(len, _)| *len).map(|(_, ttl)| ttl);
        exact.or(longest).copied().unwrap_or_default()
    }
}

/// One row of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulRow {
    /// The name of the service.
    pub service: String,
    /// The node that it is on.
    pub node: String,
    /// The service id, unique on its node.
    pub id: String,
    /// `host:port`.
    pub address: String,
    /// The tags, as DNS can be asked for them.
    pub tags: Vec<String>,
    /// The worst of its checks: `passing`, `warning` or `critical`.
    pub status: String,
    /// The group that an agent has published it for, as its metadata says.
    pub group: Option<String>,
}

/// A right that an agent needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// `key`, `node`, `service` or `session`.
    pub kind: RightKind,
    /// The key, node or service by name, or its prefix.
    pub on: String,
    /// `read` or `write`.
    pub access: &'static str,
}

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightKind {
    /// `key` or `key_prefix`.
    Key,
    /// The same, where the agents of a fleet show themselves.
    Fleet,
    /// `node` or `node_prefix`.
    Node,
    /// `service` or `service_prefix`.
    Service,
    /// `session`: what an agent's presence needs.
    Session,
}

impl RightKind {
    /// The word of Consul's ACL rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key | Self::Fleet => "key",
            Self::Node => "node",
            Self::Service => "service",
            Self::Session => "session",
        }
    }
}

/// Where the agents of the group show themselves to one another.
pub(super) fn fleet_of(layout: &Layout) -> FleetLayout {
    FleetLayout { prefix: layout.prefix.clone() }
}

/// What `consul/agent-policy.hcl` gives, one by one.
pub fn rights(layout: &Layout, service: &ServiceName) -> Vec<Right> {
    let write = |kind, on: String| Right { kind, on, access: "write" };
    let keys = [layout.state(), layout.history(), format!("{}primary", layout.root())];
    let nodes = [layout.node(), sentinel_rows::node(&layout.prefix)];
    let services = service.all().into_iter().chain([sentinel_rows::SERVICE.to_owned()]);
    let mut rights: Vec<Right> = keys.map(|key| write(RightKind::Key, key)).into();
    rights.push(write(RightKind::Fleet, fleet_of(layout).agents()));
    rights.extend(nodes.map(|node| write(RightKind::Node, node)));
    rights.extend(services.map(|name| write(RightKind::Service, name)));
    rights.push(write(RightKind::Session, layout.node()));
    rights
}

/// Which name was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// The writer's own.
    Primary,
    /// The service's, with the tag.
    Tag,
    /// The name of the replicas.
    Replica,
}

impl NameKind {
    /// All kinds, in the order in which they are asked for.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Tag, Self::Replica];

    /// What stands before `.service`.
    pub fn label(self, service: &ServiceName) -> String {
        match self {
            Self::Primary => service.primary(),
            Self::Tag => format!("primary.{service}"),
            Self::Replica => service.replica(),
        }
    }

    /// Whether the answer is what the record says. Answers by UDP hold some of the replicas.
    pub fn is_right(self, record: &Record, answer: &DnsAnswer) -> bool {
        use crate::published::name_check::{DnsVerdict, compare};
        match self {
            Self::Primary | Self::Tag => {
                compare(record.writer_address(), answer) == DnsVerdict::Right
            }
            Self::Replica => {
                let known: Vec<_> = record.replicas().collect();
                let is_known = |ip| known.iter().any(|address| address.ip() == Some(ip));
                let named = known.iter().any(|address| address.ip().is_none());
                answer.is_none() == known.is_empty()
                    && (named || answer.ips.iter().all(|ip| is_known(*ip)))
            }
        }
    }
}

/// What one DNS server answered for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAnswer {
    /// The DNS server that was asked.
    pub server: Address,
    /// The operator named it; else it is the Consul that is written to, whose DNS may be elsewhere or nowhere.
    pub named: bool,
    /// Which of the group's names was asked for.
    pub kind: NameKind,
    /// The name as it was asked for.
    pub name: String,
    /// The answer, or why there is none.
    pub answer: Result<DnsAnswer, String>,
}

impl<'a> Facts<'a> {
    /// What each Sentinel says of the group. A Sentinel that is reached at two addresses is two here.
    pub(super) fn groups(
        &self,
    ) -> impl Iterator<Item = (&'a Address, &'a SentinelAnswer, &'a SentinelGroup)> {
        let sentinels = self.view.sentinels();
        sentinels.filter_map(|(at, answer)| Some((at, answer, answer.group.as_ref()?)))
    }

    /// The group's name, as findings show it.
    pub(super) fn group(&self) -> &'a str {
        self.view.policy.group.as_str()
    }

    /// The service that the group is published as, or is to be.
    pub(super) fn service(&self) -> &'a ServiceName {
        self.view.record.map_or(&self.view.policy.service, |record| &record.service)
    }

    /// The published writer, and what it says, when it says that it is a primary.
    pub(super) fn writer(&self) -> Option<(&'a Address, &'a InstanceAnswer)> {
        let writer = self.view.writer()?;
        let answer = self.view.instance(writer)?;
        answer.is_primary().then_some((writer, answer))
    }

    /// How many replicas are connected to the writer and in sync, once it has said so.
    pub(super) fn replicas_online(&self) -> Option<(&'a Address, u64)> {
        let (writer, answer) = self.writer()?;
        let Role::Primary { replicas } = &answer.role else { return None };
        let online = replicas.iter().filter(|replica| replica.online).count();
        Some((writer, u64::try_from(online).unwrap_or(u64::MAX)))
    }

    /// Every instance that answers and is a replica.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> {
        let view = self.view;
        let answers = view.observed.instances.keys();
        answers
            .filter_map(move |at| Some((at, view.instance(at)?)))
            .filter(|(_, answer)| answer.is_replica())
    }

    /// One setting of every instance, where it could be read.
    pub(super) fn settings(&self, name: &str) -> Vec<(&Address, &str)> {
        let instances = self.instances.iter();
        instances.filter_map(|(at, facts)| Some((at, facts.setting(name)?))).collect()
    }
}
