//! The config file (TOML). Every key is optional; an unknown one is an error that names its line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::core::address::{Address, GroupName, ServiceName};
use crate::core::record::Level;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// This agent.
    pub agent: AgentTable,
    /// Where Consul is.
    pub consul: ConsulTable,
    /// Logs.
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
    /// Node mode: this host's Redis instances.
    pub redis: Vec<RedisTable>,
    /// Node mode: this host's Sentinels.
    pub sentinel: Vec<SentinelTable>,
    /// The files that are rendered from the groups' state.
    pub template: Vec<TemplateTable>,
}

/// `[agent]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentTable {
    /// The name it shows in `status`.
    pub id: Option<String>,
    /// Move this host's primaries away before it stops.
    pub handover: Option<bool>,
}

/// `[consul]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulTable {
    /// As CONSUL_HTTP_ADDR.
    pub address: Option<Spanned<String>>,
    /// File with the ACL token.
    pub token_file: Option<PathBuf>,
    /// Authorities to trust (PEM).
    pub ca_cert: Option<PathBuf>,
    /// Our certificate (PEM).
    pub client_cert: Option<Spanned<PathBuf>>,
    /// Its key (PEM).
    pub client_key: Option<Spanned<PathBuf>>,
    /// The name to expect in Consul's certificate.
    pub tls_server_name: Option<String>,
    /// Check Consul's certificate.
    pub tls_verify: Option<bool>,
    /// Enterprise namespace.
    pub namespace: Option<String>,
    /// Enterprise partition.
    pub partition: Option<String>,
    /// KV prefix, and the first part of the synthetic nodes' names.
    pub prefix: Option<Spanned<String>>,
}

/// `[http]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpTable {
    /// Where to answer, `ip:port`.
    pub listen: Option<Spanned<std::net::SocketAddr>>,
    /// File with the token that whoever wants to see the groups must have.
    pub token_file: Option<PathBuf>,
    /// Our certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// The authority whose certificates open what the token opens (PEM).
    pub client_ca: Option<PathBuf>,
}

/// `[dns]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsTable {
    /// Ask at all.
    pub check: Option<bool>,
    /// Whom to ask, `host:port` each.
    pub servers: Option<Vec<Address>>,
    /// Consul's domain.
    pub domain: Option<String>,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogTable {
    /// error, warn, info, debug, trace, or a filter such as `info,consul_redis::sentinel=debug`.
    pub level: Option<String>,
    /// text or json.
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

/// A login: `[instances]`, and part of `[sentinels]` and `[[group]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginTable {
    /// ACL user.
    pub username: Option<String>,
    /// File with its password.
    pub password_file: Option<PathBuf>,
    /// Name of the environment variable with its password.
    pub password_env: Option<String>,
    /// Speak TLS.
    pub tls: Option<bool>,
    /// Authorities to trust (PEM).
    pub ca_cert: Option<PathBuf>,
    /// Our certificate (PEM).
    pub client_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub client_key: Option<PathBuf>,
    /// The name to expect in the server's certificate.
    pub server_name: Option<String>,
    /// Deadline for a connection and for each question.
    pub timeout: Option<Span>,
}

/// `[sentinels]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SentinelsTable {
    /// `host:port` each. A name stands for all its A and AAAA records.
    pub addresses: Option<Vec<Address>>,
    /// Or registered in Consul under this service.
    pub consul_service: Option<String>,
    /// Ask those that are found about the others.
    pub peers: Option<bool>,
    /// How often names and the service are looked up again.
    pub refresh: Option<Span>,
    /// DNS server for the names, `ip:port`.
    pub resolver: Option<std::net::SocketAddr>,
    /// How to log in.
    pub login: Option<Spanned<LoginTable>>,
}

/// `[[group]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTable {
    /// What Sentinel calls it.
    pub name: Spanned<GroupName>,
    /// The Consul service it is published as.
    #[serde(default)]
    pub service: Option<Spanned<ServiceName>>,
    /// How sure a publication must be.
    #[serde(default)]
    pub publish: Option<Level>,
    /// How long an unconfirmed promotion holds.
    #[serde(default)]
    pub confirm_within: Option<Span>,
    /// A replica leaves the read endpoints after this long out of sync.
    #[serde(default)]
    pub replica_lag_max: Option<Span>,
    /// An instance that has been down this long loses its row.
    #[serde(default)]
    pub forget_after: Option<Span>,
    /// A Sentinel that nobody has heard for this long is forgotten by the others.
    #[serde(default)]
    pub forget_sentinels_after: Option<Span>,
    /// Have Sentinels forget those who are gone for good.
    #[serde(default)]
    pub forget_ghosts: Option<bool>,
    /// Leave the group as it is: only observe and publish.
    #[serde(default)]
    pub manage: Option<bool>,
    /// Hold the writes of a second primary.
    #[serde(default)]
    pub hold_writes: Option<bool>,
    /// Hold the writes of this host's primary while the host is cut off.
    #[serde(default)]
    pub hold_when_cut_off: Option<bool>,
    /// Turn a second primary into a replica.
    #[serde(default)]
    pub fence: Option<bool>,
    /// Have a primary that has come back without its data replaced.
    #[serde(default)]
    pub replace_emptied: Option<bool>,
    /// Find a first primary.
    #[serde(default)]
    pub bootstrap: Option<bool>,
    /// Among how many instances.
    #[serde(default)]
    pub expect: Option<u8>,
    /// How long they are waited for otherwise.
    #[serde(default)]
    pub bootstrap_wait: Option<Span>,
    /// Tell Sentinels that lack the group.
    #[serde(default)]
    pub tell_sentinels: Option<bool>,
    /// Settings for such a Sentinel.
    #[serde(default)]
    pub settings: SettingsTable,
    /// How to log in to this group's instances, where it differs from `[instances]`.
    #[serde(default)]
    pub login: Option<Spanned<LoginTable>>,
}

/// `[group.settings]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsTable {
    /// Sentinels that must agree that a primary is down: a number, or `"auto"`.
    pub quorum: Option<Quorum>,
    /// Silence after which an instance is called down.
    pub down_after: Option<Span>,
    /// Bound on each phase of a failover.
    pub failover_timeout: Option<Span>,
    /// Replicas pointed at a new primary at the same time.
    pub parallel_syncs: Option<u64>,
    /// ACL user that Sentinels log in to the instances as, when it is not ours.
    pub auth_user: Option<String>,
    /// File with its password.
    pub auth_password_file: Option<PathBuf>,
}

/// A quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// A majority of the known Sentinels.
    Auto,
    /// This many.
    Fixed(u64),
}

/// `[[redis]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTable {
    /// Where it listens, as others reach it.
    pub address: Spanned<Address>,
    /// The group it belongs to.
    #[serde(default)]
    pub group: Option<Spanned<GroupName>>,
    /// How often Consul tries to connect.
    #[serde(default)]
    pub check_interval: Option<Span>,
}

/// `[[sentinel]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentinelTable {
    /// Where it listens, as others reach it.
    pub address: Spanned<Address>,
    /// How often Consul tries to connect.
    #[serde(default)]
    pub check_interval: Option<Span>,
}

/// `[[template]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateTable {
    /// The template.
    pub source: PathBuf,
    /// The file that is rendered from it.
    pub destination: Spanned<PathBuf>,
    /// What is run once the file is in place: a program and its arguments.
    #[serde(default)]
    pub command: Option<Spanned<Vec<String>>>,
    /// What looks at the file before it is put in place.
    #[serde(default)]
    pub check: Option<Spanned<Vec<String>>>,
    /// How long each of the two may take.
    #[serde(default)]
    pub command_timeout: Option<Span>,
    /// The file's permissions, in octal.
    #[serde(default)]
    pub mode: Option<Spanned<String>>,
    /// Whose the file is, `user:group`.
    #[serde(default)]
    pub owner: Option<Spanned<String>>,
    /// What becomes of the file when a group has no writer.
    #[serde(default)]
    pub on_no_writer: Option<OnNoWriter>,
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
