//! The config file (TOML). Every key is optional; an unknown one is an error that names its line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::core::identity::address::{Address, GroupName, ServiceName, Zone};
use crate::core::identity::mark::MarkKey;
use crate::core::policy::{Announce, FastFailover};
use crate::core::published::notices::NoticeKind;
use crate::core::published::record::Level;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// This agent.
    pub agent: AgentTable,
    /// Where Consul is.
    pub consul: ConsulTable,
    /// The log.
    pub log: LogTable,
    /// What the agent answers by HTTP.
    pub http: HttpTable,
    /// Whether DNS answers what was published.
    pub dns: DnsTable,
    /// Where Sentinels are and how to log in to them.
    pub sentinels: SentinelsTable,
    /// How to log in to Redis instances.
    pub instances: Option<Spanned<LoginTable>>,
    /// The groups to publish.
    pub group: Vec<GroupTable>,
    /// The Redis Clusters to publish.
    pub cluster: Vec<ClusterTable>,
    /// Node mode: this host's Redis instances.
    pub redis: Vec<RedisTable>,
    /// Node mode: this host's Sentinels.
    pub sentinel: Vec<SentinelTable>,
    /// The files that are rendered from the groups' state.
    pub template: Vec<TemplateTable>,
    /// Who is told what happens.
    pub notify: Vec<NotifyTable>,
}

/// `[agent]`: this agent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentTable {
    /// The name it shows in `status`. Default: host name and a random part.
    pub id: Option<String>,
    /// Node mode: move this host's primaries away before it stops. Default: `false`; for `exec` `true`.
    pub handover: Option<bool>,
    /// The installation that its groups belong to, such as `prod-eu`. Once it is recorded, agents of another
    /// installation, or of none, leave the group alone.
    pub installation: Option<String>,
    /// Where this host stands, such as `eu-1a`: what is in one zone may be lost together. Agents spread a Redis Cluster
    /// over zones, and the rows of the instances on this host (`[[redis]]`, `exec`) get the tag `zone-eu-1a`, by which
    /// `zone-eu-1a.redis-replica.service.consul` answers those near by.
    pub zone: Option<Zone>,
    /// How many agents watch a group that more are configured with: they share the groups. An agent beside an instance
    /// watches its group in any case. `0` is all up to five agents, and three of more.
    pub watchers: Option<u16>,
}

/// `[consul]`: where Consul is, in the words of Consul's own tools.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulTable {
    /// `host:port`, `http://`, `https://` or `unix://`. `CONSUL_HTTP_SSL=true` means TLS where it does not say.
    pub address: Option<Spanned<String>>,
    /// File with the ACL token, read again at each call. (`CONSUL_HTTP_AUTH`, `user:password`, is for a proxy before
    /// Consul.)
    pub token_file: Option<PathBuf>,
    /// Authorities to trust (PEM); those in the directory `CONSUL_CAPATH` as well. Default: the system's.
    pub ca_cert: Option<PathBuf>,
    /// Our certificate (PEM).
    pub client_cert: Option<Spanned<PathBuf>>,
    /// Its key (PEM).
    pub client_key: Option<Spanned<PathBuf>>,
    /// The name to expect in Consul's certificate. Default: the host of `address`.
    pub tls_server_name: Option<String>,
    /// Check Consul's certificate.
    pub tls_verify: Option<bool>,
    /// Enterprise namespace; sent only when set.
    pub namespace: Option<String>,
    /// Enterprise partition; sent only when set.
    pub partition: Option<String>,
    /// KV prefix, and the first part of the synthetic nodes' names.
    pub prefix: Option<Spanned<String>>,
    /// Log in by an identity instead of with a token ([how](how-to/log-in-by-identity.md)).
    pub login: Option<Spanned<ConsulLoginTable>>,
}

/// `[consul.login]`: log in to Consul by an identity that Nomad or Kubernetes renews, instead of with a token. The token
/// that the login gives is fetched anew at two thirds of its life, and deleted on a clean stop.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulLoginTable {
    /// The auth method in Consul, of type `jwt` or `kubernetes`. Default: none; needed with `bearer_token_file`.
    pub method: Option<String>,
    /// File with the JWT, read again at each login. Default: none; needed with `method`.
    pub bearer_token_file: Option<PathBuf>,
    /// What the token's description says besides, where tokens are listed. Default: nothing.
    pub meta: Option<BTreeMap<String, String>>,
}

/// `[http]`: the status page, and `/metrics`, `/status.json`, `/primary`, `/replica`, `/health`, `/healthz` and
/// `/readyz`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpTable {
    /// Where to answer. Default: nowhere.
    pub listen: Option<Spanned<std::net::SocketAddr>>,
    /// File with the token that the page (as a password), `/status.json` and `/metrics` ask for. This or
    /// `client_ca` is required when listening on more than loopback.
    pub token_file: Option<PathBuf>,
    /// Our certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// The authority whose certificates open what the token opens (PEM).
    pub client_ca: Option<PathBuf>,
}

/// `[dns]`: whether Consul's DNS answers what was published, after each switch and every minute.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsTable {
    /// Ask at all.
    pub check: Option<bool>,
    /// The servers to ask. Each that is named here must answer. Default: Consul's host with port 8600, which may be silent.
    pub servers: Option<Vec<Address>>,
    /// Consul's domain.
    pub domain: Option<String>,
}

/// `[log]`: the log, on stderr.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogTable {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,consul_redis::sentinel=debug`.
    pub level: Option<String>,
    /// For people, or one JSON object a line.
    pub format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A login table: how to log in, in `[instances]` (every Redis), `[group.login]` (one group's, where it differs)
/// and `[sentinels.login]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginTable {
    /// ACL user. Default: the user `default`.
    pub username: Option<String>,
    /// File with its password, read again at each connection.
    pub password_file: Option<PathBuf>,
    /// Name of the environment variable with its password, instead of a file.
    pub password_env: Option<String>,
    /// Speak TLS. A certificate in this table says so, too.
    pub tls: Option<bool>,
    /// Authorities to trust (PEM). Default: the system's.
    pub ca_cert: Option<PathBuf>,
    /// Our certificate (PEM).
    pub client_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub client_key: Option<PathBuf>,
    /// The name to expect in the server's certificate. Default: the name it was listed under, else its address.
    pub server_name: Option<String>,
    /// Deadline for a connection and for each question.
    pub timeout: Option<Span>,
}

/// `[sentinels]`: where Sentinels are. Addresses or a service, one of them at least; one Sentinel is enough to find
/// the others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SentinelsTable {
    /// `host:port` each. A name stands for all its A and AAAA records.
    pub addresses: Option<Vec<Address>>,
    /// Find those registered in Consul under this service.
    pub consul_service: Option<String>,
    /// Ask those that are found about the others.
    pub peers: Option<bool>,
    /// How often names and the service are looked up again.
    pub refresh: Option<Span>,
    /// DNS server for the names. Default: this machine's.
    pub resolver: Option<std::net::SocketAddr>,
    /// How to log in to them: a login table.
    pub login: Option<Spanned<LoginTable>>,
}

/// `[[group]]`: a group that is published, one table each. Without any: the group `redis`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTable {
    /// What Sentinel calls it.
    pub name: Spanned<GroupName>,
    /// What Consul calls it: `cache` is published as `cache-primary`, `cache-replica` and `cache`. Default: the
    /// name.
    #[serde(default)]
    pub service: Option<Spanned<ServiceName>>,
    /// How sure a publication must be: as soon as the replica that was chosen says it is the primary, or when a
    /// majority of the Sentinels names it.
    #[serde(default)]
    pub publish: Option<Level>,
    /// How long a promotion holds without its majority.
    #[serde(default)]
    pub confirm_within: Option<Span>,
    /// A replica leaves the read endpoints after this long out of sync.
    #[serde(default)]
    pub replica_lag_max: Option<Span>,
    /// An instance that has been down this long loses its row, and Sentinels forget it.
    #[serde(default)]
    pub forget_after: Option<Span>,
    /// A Sentinel that no other one has heard for this long is forgotten by the others.
    #[serde(default)]
    pub forget_sentinels_after: Option<Span>,
    /// Have Sentinels forget the servers that are gone for good (`SENTINEL RESET`, one Sentinel at a time, 30 s apart).
    #[serde(default)]
    pub forget_ghosts: Option<bool>,
    /// `false`: only observe and publish; the other duties below, and `forget_ghosts`, are off unless they are
    /// switched on.
    #[serde(default)]
    pub manage: Option<bool>,
    /// Hold the writes of an old primary during a promotion (`CLIENT PAUSE ... WRITE`, 2 s at most).
    #[serde(default)]
    pub hold_writes: Option<bool>,
    /// Node mode: hold the writes of this host's primary while the host sees neither Consul nor a majority of the
    /// Sentinels.
    #[serde(default)]
    pub hold_when_cut_off: Option<bool>,
    /// Turn a stray primary (a returned old one, or a blank one) into a replica of the writer at once.
    #[serde(default)]
    pub fence: Option<bool>,
    /// If the primary comes back without its data, promote a replica that still has the data, and keep the others from
    /// copying the empty data set.
    #[serde(default)]
    pub replace_emptied: Option<bool>,
    /// What is done before Sentinels have waited for `down-after-milliseconds`. `proof`: in node mode and under `exec`,
    /// when the kernel tells that the writer's process has ended, one Sentinel is asked to have a replica take its place
    /// at once (`down-after-milliseconds` 3000 and more). `vote`: that, and in every mode, when the writer's host refuses
    /// connections, as most agents, the replicas and the Sentinels see it, Sentinels wait for a moment only, look for
    /// themselves, and vote (`down-after-milliseconds` 1000 and more). `off`: it is left to the Sentinels.
    #[serde(default)]
    pub fast_failover: Option<FastFailover>,
    /// Node mode: choose a primary when no Sentinel knows one. That is for a new group, after all instances changed
    /// address, and for a primary that is back before it was replaced.
    #[serde(default)]
    pub bootstrap: Option<bool>,
    /// How many instances the first primary is chosen among, or that of a relocated group. Default: all that are there
    /// after `bootstrap_wait`.
    #[serde(default)]
    pub expect: Option<u8>,
    /// How long instances are waited for, where `expect` does not say how many.
    #[serde(default)]
    pub bootstrap_wait: Option<Span>,
    /// Reconfigure Sentinels: those that lack the group or have disagreed for 30 s get its primary, and all get their
    /// settings.
    #[serde(default)]
    pub tell_sentinels: Option<bool>,
    /// Tell the other Sentinels how an election ended where the Sentinel that leads it does not, so that what is
    /// written to the new primary is not lost with that Sentinel (`PUBLISH __sentinel__:hello`).
    #[serde(default)]
    pub relay: Option<bool>,
    /// Who tells the Sentinels how a failover ended: the Sentinel that leads it, and agents where that one does not; or,
    /// with `eager`, the agents as soon as the replica says that it is the primary. Then Sentinel's own clients switch
    /// some 0.9 s sooner, and the agents point the other replicas at it.
    #[serde(default)]
    pub announce: Option<Spanned<Announce>>,
    /// Keep a mark in the data set: one small key of this name in database 0, which agents write on the writer. An old
    /// primary whose append-only file does not say whose data it holds is known by it, and fenced at once. The same on
    /// all agents; the agents' login needs `+getrange +set` and `~KEY`. With `manage = false` the key is only read.
    /// Default: no mark.
    #[serde(default)]
    pub mark: Option<MarkKey>,
    /// The order of zones in which Sentinel is to prefer replicas, the best first, nine at the most: the agent beside an
    /// instance keeps its `replica-priority` at 10 in the first zone, 20 in the second and so on, and at 100 in any other
    /// one ([how](operations.md#a-group-over-several-zones)). One of 0 stays. The same on all agents, each with its own
    /// `zone`; the agents' login needs `+config|set`. With `manage = false` nothing is set. Default: none, and every
    /// priority stays as it is.
    #[serde(default)]
    pub prefer_zones: Option<Spanned<Vec<Zone>>>,
    /// Tags for all its rows, after the agents' own: [how](consumers.md#your-own-tags-metadata-and-weights). `{role}`, `{group}`, `{zone}`,
    /// `{address}`, `{host}` and `{port}` stand for those of the row, `{generation}` for that of the writer: other rows
    /// have no such tag. The same on all agents, as `meta` and `weights`.
    #[serde(default)]
    pub tags: Option<Spanned<Vec<String>>>,
    /// Metadata for all its rows, in the same form.
    #[serde(default)]
    pub meta: Option<Spanned<BTreeMap<String, String>>>,
    /// How much its rows weigh in DNS (SRV), as Consul's `Weights`. Default: 1 and 1.
    #[serde(default)]
    pub weights: Option<Spanned<WeightsTable>>,
    /// Settings that all Sentinels are kept at.
    #[serde(default)]
    pub settings: SettingsTable,
    /// How to log in to this group's instances, where it differs from `[instances]`: a login table.
    #[serde(default)]
    pub login: Option<Spanned<LoginTable>>,
}

/// `[group.settings]`: kept the same on all Sentinels, where `consul-redis config` says nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsTable {
    /// Sentinels that must agree that a primary is down; `"auto"`: a majority of the known ones. Default: as each
    /// Sentinel has it.
    pub quorum: Option<Quorum>,
    /// Silence after which an instance is called down. Default: as each Sentinel has it.
    pub down_after: Option<Span>,
    /// Bound on each phase of a failover. Default: as each Sentinel has it.
    pub failover_timeout: Option<Span>,
    /// Replicas pointed at a new primary at the same time. Default: as each Sentinel has it.
    pub parallel_syncs: Option<u64>,
    /// How long a restarted primary may load its data before it is called down (`master-reboot-down-after-period`,
    /// Redis 7.0 and later). Default: as each Sentinel has it; 3 s on one that an agent has told of the group.
    pub reboot_down_after: Option<Span>,
    /// ACL user that Sentinels log in to the instances as. Heeded with `auth_password_file` only. Default: the
    /// agent's own.
    pub auth_user: Option<String>,
    /// File with its password. Default: the agent's own.
    pub auth_password_file: Option<PathBuf>,
}

/// `[group.weights]`, and `[redis.weights]` for one instance, which goes before: how much a row weighs in DNS (SRV).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsTable {
    /// While its checks pass: 1 or more. Default: 1.
    pub passing: Option<u16>,
    /// While one of them warns. No check of the agents' does. Default: 1.
    pub warning: Option<u16>,
}

/// A quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// A majority of the known Sentinels.
    Auto,
    /// This many.
    Fixed(u64),
}

/// `[[cluster]]`: a Redis Cluster that is published, one table each: [cluster.md](cluster.md). The login is that of
/// `[instances]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTable {
    /// What its keys and its node in Consul are called.
    pub name: Spanned<GroupName>,
    /// What Consul calls it: `orders` is published as `orders`, `orders-primary` and `orders-replica`. Default: the
    /// name.
    #[serde(default)]
    pub service: Option<Spanned<ServiceName>>,
    /// Some of its nodes, `host:port` each; the others are found. A name stands for all its A and AAAA records. Not
    /// needed with `consul_service`, or where agents stand beside nodes of it (`[[redis]] cluster`, `exec`).
    #[serde(default)]
    pub seeds: Option<Spanned<Vec<Address>>>,
    /// Nodes are the instances that are registered in Consul under this service, too, healthy or not; the others are
    /// found. It is not one that agents publish.
    #[serde(default)]
    pub consul_service: Option<Spanned<String>>,
    /// Agents only ask the nodes with `false`, and publish what they find. Default: `true`.
    #[serde(default)]
    pub manage: Option<bool>,
    /// When so many blank nodes are there, and no others, they are made into a cluster.
    #[serde(default)]
    pub expect: Option<Spanned<u16>>,
    /// How many of `expect` nodes own slots, 3 at least. Default: what `replicas` leaves.
    #[serde(default)]
    pub shards: Option<Spanned<u16>>,
    /// How many replicas each shard is made with, and gets from the blank nodes beside agents. Default: 1 where `expect`
    /// is made into a cluster, and no bound for nodes that join.
    #[serde(default)]
    pub replicas: Option<Spanned<u16>>,
    /// `off`: an owner of slots that has died is left to the nodes' own pace. Default: `vote`.
    #[serde(default)]
    pub fast_failover: Option<ClusterHaste>,
    /// A member without slots that is dead for so long is forgotten by all others, and taken back when it returns; `0s`:
    /// never. Default: `15m`.
    #[serde(default)]
    pub forget_after: Option<Span>,
}

/// What is done when an owner of slots has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterHaste {
    /// The others wait for a moment only before they call it failing, look for themselves, and vote.
    Vote,
    /// They wait for `cluster-node-timeout`.
    Off,
}

/// `[[redis]]`: node mode: a Redis of this host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTable {
    /// Where it listens, as others reach it.
    pub address: Spanned<Address>,
    /// The group it belongs to. Default: the only group.
    #[serde(default)]
    pub group: Option<Spanned<GroupName>>,
    /// The Redis Cluster that it is a node of, or is to join, instead of a group.
    #[serde(default)]
    pub cluster: Option<Spanned<GroupName>>,
    /// Tags for its rows besides the group's, in the same form.
    #[serde(default)]
    pub tags: Option<Spanned<Vec<String>>>,
    /// Metadata for its rows; a key goes before the same one of the group.
    #[serde(default)]
    pub meta: Option<Spanned<BTreeMap<String, String>>>,
    /// How much its rows weigh in DNS (SRV). Default: as the group's.
    #[serde(default)]
    pub weights: Option<Spanned<WeightsTable>>,
    /// How often Consul tries to connect.
    #[serde(default)]
    pub check_interval: Option<Span>,
}

/// `[[sentinel]]`: node mode: a Sentinel of this host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentinelTable {
    /// Where it listens, as others reach it.
    pub address: Spanned<Address>,
    /// How often Consul tries to connect.
    #[serde(default)]
    pub check_interval: Option<Span>,
}

/// `[[template]]`: a file that is rendered from the groups' state: `docs/consumers.md`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateTable {
    /// The template.
    pub source: PathBuf,
    /// The file that is rendered from it.
    pub destination: Spanned<PathBuf>,
    /// What is run once the file is in place: `["program", "argument"]`; `{}` is the file.
    #[serde(default)]
    pub command: Option<Spanned<Vec<String>>>,
    /// What looks at the file before it is put in place, in the same form.
    #[serde(default)]
    pub check: Option<Spanned<Vec<String>>>,
    /// How long each of the two may take.
    #[serde(default)]
    pub command_timeout: Option<Span>,
    /// The file's permissions, in octal: `"0640"`. Default: what the file has, or `0644`.
    #[serde(default)]
    pub mode: Option<Spanned<String>>,
    /// Whose the file is: `"user:group"`. Default: what the file has.
    #[serde(default)]
    pub owner: Option<Spanned<String>>,
    /// A group without a writer stays in the file as it was, or the template is rendered and sees that there is
    /// none.
    #[serde(default)]
    pub on_no_writer: Option<OnNoWriter>,
}

/// `[[notify]]`: a URL or a command that is told what happens, the same on all agents: [notify.md](notify.md).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyTable {
    /// What it is called in logs, metrics and `history`.
    pub name: Spanned<String>,
    /// Where events are sent by POST. This, `url_file` or `command`.
    #[serde(default)]
    pub url: Option<Spanned<String>>,
    /// File with the URL, where that is a secret, read again at each try.
    #[serde(default)]
    pub url_file: Option<Spanned<PathBuf>>,
    /// What is run with the event on its stdin: `["program", "argument"]`.
    #[serde(default)]
    pub command: Option<Spanned<Vec<String>>>,
    /// The kinds of events that it is told. Default: all.
    #[serde(default)]
    pub events: Option<Spanned<Vec<NoticeKind>>>,
    /// The groups whose events it is told. Default: all.
    #[serde(default)]
    pub groups: Option<Spanned<Vec<GroupName>>>,
    /// A template of the body. Default: the event itself.
    #[serde(default)]
    pub body: Option<Spanned<PathBuf>>,
    /// File with the secret that the body is signed with (`X-Consul-Redis-Signature`), read again at each try.
    #[serde(default)]
    pub hmac_file: Option<Spanned<PathBuf>>,
    /// File with a token (`Authorization: Bearer`), read again at each try.
    #[serde(default)]
    pub token_file: Option<Spanned<PathBuf>>,
    /// File with the `key` that the template sees, read again at each try.
    #[serde(default)]
    pub key_file: Option<Spanned<PathBuf>>,
    /// Authorities to trust (PEM). Default: the system's.
    #[serde(default)]
    pub ca_cert: Option<Spanned<PathBuf>>,
    /// Deadline for each try.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// How often an event is tried, 20 times at most.
    #[serde(default)]
    pub tries: Option<Spanned<u8>>,
    /// How long a problem must last before it is told, and be away before it is over. Of several tables, the longest
    /// counts.
    #[serde(default)]
    pub debounce: Option<Span>,
}

/// What becomes of a rendered file when a group has no writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNoWriter {
    /// The group stays in the file as it was.
    #[default]
    Keep,
    /// The template is rendered, and sees that there is none.
    Render,
}

/// A length of time, written `500ms`, `10s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// In whole milliseconds.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("`{text}` is no length of time: write 500ms, 10s, 5m or 1h");
        let span: jiff::SignedDuration = text.parse().map_err(|_| wanted())?;
        let span = Duration::try_from(span).map_err(|_| wanted())?;
        if span.is_zero() || span > Duration::from_secs(366 * 24 * 3_600) {
            return Err(wanted());
        }
        Ok(Self(span))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Quorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quorum;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 up, or \"auto\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Quorum, E> {
                match u64::try_from(number) {
                    Ok(number) if number > 0 => Ok(Quorum::Fixed(number)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quorum, E> {
                match text {
                    "auto" => Ok(Quorum::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}
