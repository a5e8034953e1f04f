//! What settings are, once they are resolved.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::discovery::SentinelSources;
use super::error::ConfigError;
use super::file::LogFormat;
use super::notify::NotifyConfig;
use super::template::TemplateConfig;
use crate::consul::endpoint::ConsulEndpoint;
use crate::consul::services::RegisteredBy;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::wanted::{ClusterDuties, Wanted};
use crate::core::identity::address::{Address, GroupName, Zone};
use crate::core::policy::Policy;
use crate::core::published::projection::Layout;
use crate::core::published::words::{AgentWords, InstanceWords};
use crate::discovery::ServerSource;
use crate::redis_link::LinkSettings;
use crate::secret::SecretSource;

/// The group when none is named.
pub const DEFAULT_GROUP: &str = "redis";
/// The KV prefix when none is given.
pub const DEFAULT_PREFIX: &str = "redis-ha";
/// Consul's domain, when nothing is said.
pub const DEFAULT_DNS_DOMAIN: &str = "consul";
/// The port at which a Consul agent answers DNS by default.
pub const CONSUL_DNS_PORT: u16 = 8600;
/// How many agents watch a group, when nothing is said: all of a few, and some of many.
pub const DEFAULT_WATCHERS: usize = 0;
/// How often Consul checks what node mode registers, when nothing is said.
pub const DEFAULT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Everything that was asked for, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The name this agent shows.
    pub agent: String,
    /// Keys whose new values wait until the agent that runs is started again.
    pub waiting: Vec<&'static str>,
    /// Where Consul is.
    pub consul: ConsulEndpoint,
    /// The prefix of all keys and nodes in Consul.
    pub prefix: String,
    /// Where this host stands.
    pub zone: Option<Zone>,
    /// Log level or filter.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What the agent answers by HTTP, when it does.
    pub http: Option<HttpConfig>,
    /// Whether DNS answers what was published, when it is to be asked.
    pub dns: Option<DnsConfig>,
    /// Whether this host's primaries are handed over before the agent stops; `None` where neither was said.
    pub handover: Option<bool>,
    /// How many agents watch a group; 0: all of a few, and some of many
    /// ([`wanted_watchers`](crate::core::fleet::wanted_watchers)).
    pub watchers: usize,
    /// Where Sentinels are.
    pub sources: SentinelSources,
    /// DNS server for their names.
    pub resolver: Option<std::net::SocketAddr>,
    /// How to log in to the Sentinels.
    pub sentinel_login: LinkSettings,
    /// The groups to publish.
    pub groups: Vec<GroupConfig>,
    /// The groups were named, by flag or file, and are not just the default.
    pub groups_named: bool,
    /// How to log in to instances of a group that is not configured.
    pub instance_login: LinkSettings,
    /// The Redis Clusters to publish.
    pub clusters: Vec<ClusterConfig>,
    /// Node mode: this host's instances.
    pub redis: Vec<LocalRedis>,
    /// Node mode: this host's Sentinels.
    pub sentinels: Vec<LocalSentinel>,
    /// Variables of the environment that hold secrets: what we start does not get them.
    pub secret_variables: BTreeSet<String>,
    /// The files that are rendered from the groups' state.
    pub templates: Vec<TemplateConfig>,
    /// Who is told what happens.
    pub notify: Vec<NotifyConfig>,
}

impl Config {
    /// Every token and password, wherever it is read from.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        let Self { consul, http, groups, notify, .. } = self;
        let told = groups.iter().map(|group| &group.sentinel_auth.password);
        let bearer = consul.login.iter().map(|login| &login.settings.bearer);
        let tokens = std::iter::once(&consul.token).chain(bearer);
        let tokens = tokens.chain(http.iter().map(|http| &http.token));
        let outside = notify.iter().flat_map(NotifyConfig::secrets);
        tokens.chain(self.logins().map(|login| &login.password)).chain(told).chain(outside)
    }

    /// How it logs in to Sentinels and to instances, those of each group too.
    pub fn logins(&self) -> impl Iterator<Item = &LinkSettings> {
        let logins = self.groups.iter().map(|group| &group.login);
        [&self.sentinel_login, &self.instance_login].into_iter().chain(logins)
    }

    /// Its templates can be rendered, and there is no Sentinel that an agent could ask.
    pub fn only_renders(&self) -> bool {
        let no_sentinels = self.sources.listed.is_empty() && self.sources.consul_service.is_none();
        no_sentinels && !self.templates.is_empty() && self.clusters.is_empty()
    }

    /// The same, with one more Redis of this host: the only group's.
    ///
    /// # Errors
    /// When there are several groups.
    pub fn with_redis(
        mut self,
        address: Address,
        forgotten_after: Duration,
    ) -> Result<Self, ConfigError> {
        let [group] = &mut self.groups[..] else {
            return Err(ConfigError::Usage(
                "there are several groups: say which one this Redis belongs to, with --group"
                    .to_owned(),
            ));
        };
        group.policy.local.insert(address.clone());
        let beside = InstanceWords { zone: self.zone.clone(), ..InstanceWords::default() };
        group.words.instances.entry(address.clone()).or_insert(beside);
        self.redis.push(LocalRedis {
            address,
            group: group.policy.group.clone(),
            service: group.policy.service.server(),
            check_interval: DEFAULT_CHECK_INTERVAL,
            forgotten_after: Some(forgotten_after),
        });
        Ok(self)
    }

    /// The same, with this Redis Cluster and no group that the config does not name. It is made of so many nodes.
    ///
    /// # Errors
    /// When the name is no service's, or so many nodes make no cluster.
    pub fn with_cluster(
        mut self,
        name: &GroupName,
        expect: Option<u16>,
    ) -> Result<Self, ConfigError> {
        if !self.groups_named {
            self.groups.clear();
        }
        if self.clusters.iter().any(|cluster| cluster.policy.name == *name) {
            return Ok(self);
        }
        let usage = |what: String| ConfigError::Usage(what);
        let service = name.as_str().parse().map_err(|_| {
            usage(format!(
                "cluster `{name}`: DNS has no such name; write [[cluster]] with a service"
            ))
        })?;
        let make = expect.map(|nodes| Wanted::new(usize::from(nodes), None, None)).transpose();
        let policy = ClusterPolicy {
            name: name.clone(),
            service,
            layout: Layout::of_cluster(&self.prefix, name),
            agent: self.agent.clone(),
            zone: None,
            duties: ClusterDuties { make: make.map_err(usage)?, ..ClusterDuties::default() },
        };
        let (seeds, local, login) = (Vec::new(), Vec::new(), self.instance_login.clone());
        let consul_service = None;
        self.clusters.push(ClusterConfig { policy, seeds, consul_service, local, login });
        Ok(self)
    }

    /// The same, with one more node of a Redis Cluster on this host: the only cluster's.
    ///
    /// # Errors
    /// When there is none, or there are several.
    pub fn with_node(mut self, address: Address) -> Result<Self, ConfigError> {
        let [cluster] = &mut self.clusters[..] else {
            return Err(ConfigError::Usage(
                "cluster-enabled yes: the config has to have the one [[cluster]] that this Redis belongs to".to_owned(),
            ));
        };
        cluster.local.push(address);
        cluster.policy.zone.clone_from(&self.zone);
        Ok(self)
    }

    /// The same, with one more Sentinel of this host.
    #[must_use]
    pub fn with_sentinel(mut self, address: Address, forgotten_after: Duration) -> Self {
        self.sources.listed.push(address.clone());
        for group in &mut self.groups {
            group.policy.sources = self.sources.names();
        }
        self.sentinels.push(LocalSentinel {
            address,
            check_interval: DEFAULT_CHECK_INTERVAL,
            forgotten_after: Some(forgotten_after),
        });
        self
    }
}

/// One group's settings, its place in Consul, and its logins.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupConfig {
    /// What is wanted of it, complete but for `run`, which each loop has of its own.
    pub policy: Policy,
    /// The group's keys and node in Consul.
    pub layout: Layout,
    /// How to log in to its instances.
    pub login: LinkSettings,
    /// The login that a reconfigured Sentinel gets for the instances.
    pub sentinel_auth: SentinelAuth,
    /// What the operator wants on the rows besides: of the group, and of its instances on this host.
    pub words: AgentWords,
}

/// One Redis Cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// What is wanted of it.
    pub policy: ClusterPolicy,
    /// Where its nodes are looked for at first. A host that is a name stands for all its addresses.
    pub seeds: Vec<Address>,
    /// The service in Consul whose instances are such places, too.
    pub consul_service: Option<String>,
    /// The nodes that this agent stands beside.
    pub local: Vec<Address>,
    /// How to log in to its nodes.
    pub login: LinkSettings,
}

impl ClusterConfig {
    /// Where its nodes are looked for at first: what agents publish of a cluster leads to none. Those that this agent stands
    /// beside are some of them.
    pub fn sources(&self) -> BTreeSet<ServerSource> {
        let service = |name: &String| ServerSource::Service(name.clone(), RegisteredBy::Others);
        let listed = self.seeds.iter().chain(&self.local).cloned().map(ServerSource::Listed);
        listed.chain(self.consul_service.iter().map(service)).collect()
    }
}

/// What is said of a group whose agents change no instance and no Sentinel.
pub const ONLY_PUBLISHES: &str = "; manage = false: no instance and no Sentinel is changed";

impl GroupConfig {
    /// An agent changes nothing but Consul: no instance and no Sentinel (`manage = false`).
    pub fn only_publishes(&self) -> bool {
        let mut left_alone = self.policy.clone();
        left_alone.leave_alone();
        self.policy == left_alone
    }
}

/// Where the agent answers by HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConfig {
    /// The address and port to listen at.
    pub listen: std::net::SocketAddr,
    /// The token that a client needs to see the groups.
    pub token: SecretSource,
    /// TLS, when it is spoken.
    pub tls: Option<HttpTls>,
}

/// TLS towards HTTP clients: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTls {
    /// The certificate that the server shows: a PEM file.
    pub cert: PathBuf,
    /// The key of the certificate: a PEM file.
    pub key: PathBuf,
    /// The authority whose certificates open what the token opens.
    pub client_ca: Option<PathBuf>,
}

/// The DNS servers to ask whether they answer what was published.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    /// Consul agents or servers, or what passes questions on to them.
    pub servers: Vec<Address>,
    /// They were named; else it is the Consul that is written to, whose DNS may be elsewhere or nowhere.
    pub named: bool,
    /// Consul's domain.
    pub domain: String,
    /// What stands between `service` and the domain: the namespace and partition.
    pub tenancy: String,
}

impl DnsConfig {
    /// The name that clients look up for a service.
    pub fn name(&self, service: &str) -> String {
        format!("{service}.service.{}{}", self.tenancy, self.domain)
    }
}

/// A login that is passed on to Sentinels.
#[derive(Debug, Clone, PartialEq)]
pub struct SentinelAuth {
    /// The ACL user; none is the user `default`.
    pub username: Option<String>,
    /// Where the password is read from, each time it is told.
    pub password: SecretSource,
    /// The operator has chosen it for Sentinels; else it is the agent's own.
    pub chosen: bool,
}

/// A Redis of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRedis {
    /// Where others reach it.
    pub address: Address,
    /// The group that it belongs to.
    pub group: GroupName,
    /// The service it is registered as.
    pub service: String,
    /// How often Consul checks it.
    pub check_interval: Duration,
    /// Consul forgets it after this long without an answer: for one whose address will not come back.
    pub forgotten_after: Option<Duration>,
}

/// A Sentinel of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalSentinel {
    /// Where others reach it.
    pub address: Address,
    /// How often Consul checks it.
    pub check_interval: Duration,
    /// Consul forgets it after this long without an answer: for one whose address will not come back.
    pub forgotten_after: Option<Duration>,
}

/// Sentinels log in as we do, where nothing else is said.
pub fn auth_of(login: &LinkSettings) -> SentinelAuth {
    let (username, password) = (login.username.clone(), login.password.clone());
    SentinelAuth { username, password, chosen: false }
}
