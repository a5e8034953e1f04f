//! From the command line, the environment and the file to one value for each setting.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;

use super::file::{
    ConsulTable, File, GroupTable, LogFormat, LoginTable, Quorum, SentinelTable, SettingsTable,
    Span,
};
use super::source::Source;
use super::{
    CONSUL_DNS_PORT, Config, ConfigError, DEFAULT_CHECK_INTERVAL, DEFAULT_DNS_DOMAIN,
    DEFAULT_GROUP, DEFAULT_PREFIX, DnsConfig, Env, GroupConfig, HttpConfig, HttpTls, LocalRedis,
    LocalSentinel, SentinelAuth, SentinelSources, auth_of,
};
use crate::cli::{Common, GroupFlag};
use crate::consul::endpoint::{BadConsulAddress, ConsulEndpoint};
use crate::core::address::{Address, GroupName, NameError, ServiceName};
use crate::core::policy::{Policy, WantedQuorum, WantedSettings};
use crate::core::projection::Layout;
use crate::core::sentinel_rows;
use crate::redis_link::{LinkSettings, TlsSettings};
use crate::secret::SecretSource;

/// How often names of Sentinels are looked up again, when nothing is said.
const DEFAULT_REFRESH: Duration = Duration::from_secs(10);

/// All that settings can come from.
pub struct Resolver<'a> {
    /// The command line, and the environment that it stands for.
    pub common: &'a Common,
    /// The rest of the environment.
    pub env: Env<'a>,
    /// The config file.
    pub file: File,
    /// Its text.
    pub source: Source,
}

impl Resolver<'_> {
    /// All settings, checked.
    pub fn config(self) -> Result<Config, ConfigError> {
        let consul = self.consul()?;
        let dns = self.dns(&consul);
        let prefix = self.prefix()?;
        let instance_login = self.instance_login()?;
        let groups = self.groups(&prefix, &instance_login)?;
        let (redis, sentinels) = (self.local_redis(&groups)?, self.local_sentinels());
        let mut listed = if self.common.sentinels.is_empty() {
            self.file.sentinels.addresses.clone().unwrap_or_default()
        } else {
            self.common.sentinels.clone()
        };
        listed.extend(sentinels.iter().map(|sentinel| sentinel.address.clone()));
        listed.sort();
        listed.dedup();
        let sources = SentinelSources {
            listed,
            consul_service: text(&self.common.sentinel_service)
                .or_else(|| self.file.sentinels.consul_service.clone()),
            peers: self.file.sentinels.peers.unwrap_or(true),
            refresh: self.file.sentinels.refresh.map_or(DEFAULT_REFRESH, |span| span.0),
        };
        let count = sources.listed.len();
        let groups_named = !self.common.group.is_empty() || !self.file.group.is_empty();
        let given = text(&self.common.id).or_else(|| self.file.agent.id.clone());
        let agent_named = given.is_some();
        let agent = agent_id(given);
        let run = unique();
        let finish = |mut group: GroupConfig| {
            let name = &group.policy.group;
            let local = redis.iter().filter(|instance| &instance.group == name);
            group.policy.local = local.map(|instance| instance.address.clone()).collect();
            group.policy.agent.clone_from(&agent);
            group.policy.run.clone_from(&run);
            group.policy.sentinels_configured = count;
            group
        };
        Ok(Config {
            consul,
            prefix,
            log: text(&self.common.log)
                .or_else(|| self.file.log.level.clone())
                .unwrap_or_else(|| "info".to_owned()),
            log_format: self.common.log_format.or(self.file.log.format).unwrap_or(LogFormat::Text),
            http: self.http()?,
            dns,
            handover: self.common.handover.or(self.file.agent.handover),
            sources,
            resolver: self.common.logins.resolver.or(self.file.sentinels.resolver),
            sentinel_login: self.sentinel_login()?,
            groups: groups.into_iter().map(finish).collect(),
            groups_named,
            instance_login,
            redis,
            sentinels,
            templates: self.templates()?,
            agent,
            agent_named,
            run,
        })
    }

    /// Beyond this machine only with a token or client certificates: what it shows is a map of the group.
    fn http(&self) -> Result<Option<HttpConfig>, ConfigError> {
        let (common, table) = (self.common, &self.file.http);
        let in_file = table.listen.as_ref().map(|listen| *listen.get_ref());
        let Some(listen) = common.listen.or(in_file) else { return Ok(None) };
        let wrong = |what: String| match (common.listen, &table.listen) {
            (None, Some(at)) => self.source.contradiction(at, what),
            _ => ConfigError::Usage(what),
        };
        let file = |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.clone().or(key.clone());
        let client_ca = file(&common.listen_client_ca, &table.client_ca);
        let cert = file(&common.listen_cert, &table.tls_cert);
        let key = file(&common.listen_key, &table.tls_key);
        let names = "tls_cert and tls_key (--listen-cert, --listen-key)";
        let tls = match pair(cert, key).ok_or_else(|| wrong(together(names)))? {
            Some((cert, key)) => Some(HttpTls { cert, key, client_ca }),
            None if client_ca.is_some() => {
                return Err(wrong(format!("client_ca asks for certificates, which needs {names}")));
            }
            None => None,
        };
        let token = file(&common.listen_token_file, &table.token_file);
        let asks = token.is_some() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !asks && !listen.ip().is_loopback() {
            let what = format!(
                "{listen} is open to others, and neither a token nor a client certificate is asked for"
            );
            return Err(wrong(what));
        }
        let token = token.map_or(SecretSource::None, SecretSource::File);
        Ok(Some(HttpConfig { listen, token, tls }))
    }

    /// The DNS of the Consul that is written to, unless another one is named.
    fn dns(&self, consul: &ConsulEndpoint) -> Option<DnsConfig> {
        let (common, table) = (self.common, &self.file.dns);
        let check = common.dns_check.or(table.check).unwrap_or(true);
        let in_file = || table.servers.clone().unwrap_or_default();
        let named = if common.dns.is_empty() { in_file() } else { common.dns.clone() };
        // One that is reached by a socket is on this machine.
        let host = consul.host().unwrap_or_else(|| "127.0.0.1".to_owned());
        let servers = match &named[..] {
            [] => Address::new(&host, CONSUL_DNS_PORT).into_iter().collect(),
            _ => named.clone(),
        };
        let domain = text(&common.dns_domain).or_else(|| table.domain.clone());
        let domain = domain.unwrap_or_else(|| DEFAULT_DNS_DOMAIN.to_owned());
        let part = |name: &Option<String>, kind: &str| {
            name.as_ref().map(|name| format!("{name}.{kind}.")).unwrap_or_default()
        };
        let tenancy = part(&consul.namespace, "ns") + &part(&consul.partition, "ap");
        let domain = domain.trim_matches('.').to_owned();
        let config = DnsConfig { servers, named: !named.is_empty(), domain, tenancy };
        (check && !config.servers.is_empty()).then_some(config)
    }

    fn consul(&self) -> Result<ConsulEndpoint, ConfigError> {
        let table: &ConsulTable = &self.file.consul;
        let (env, common) = (self.env, self.common);
        let mut endpoint = ConsulEndpoint::default();
        let bad = |error: BadConsulAddress| error.to_string();
        if let Some(address) = text(&common.http_addr) {
            endpoint.address = address.parse().map_err(bad).map_err(ConfigError::Usage)?;
        } else if let Some(address) = &table.address {
            endpoint.address = address
                .get_ref()
                .parse()
                .map_err(bad)
                .map_err(|what| self.source.contradiction(address, what))?;
        }
        let path = |name: &str| env(name).map(PathBuf::from);
        let in_file = |path: &Option<Spanned<PathBuf>>| path.as_ref().map(|p| p.get_ref().clone());
        endpoint.tls = self.flag("CONSUL_HTTP_SSL")?.unwrap_or(false);
        endpoint.tls_verify =
            self.flag("CONSUL_HTTP_SSL_VERIFY")?.or(table.tls_verify).unwrap_or(true);
        endpoint.ca_cert = path("CONSUL_CACERT").or_else(|| table.ca_cert.clone());
        endpoint.client_cert = pair(
            path("CONSUL_CLIENT_CERT").or_else(|| in_file(&table.client_cert)),
            path("CONSUL_CLIENT_KEY").or_else(|| in_file(&table.client_key)),
        )
        .ok_or_else(|| match table.client_cert.as_ref().or(table.client_key.as_ref()) {
            Some(half) => self.source.contradiction(half, together("client_cert and client_key")),
            None => ConfigError::Usage(together("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY")),
        })?;
        endpoint.tls_server_name =
            env("CONSUL_TLS_SERVER_NAME").or_else(|| table.tls_server_name.clone());
        endpoint.namespace = env("CONSUL_NAMESPACE").or_else(|| table.namespace.clone());
        endpoint.partition = env("CONSUL_PARTITION").or_else(|| table.partition.clone());
        let file = common.token_file.clone().filter(|path| !path.as_os_str().is_empty());
        // As Consul's own tools: a file goes before a token given outright.
        endpoint.token = secret(file, env("CONSUL_HTTP_TOKEN"))
            .or_else(|| table.token_file.clone().map(SecretSource::File))
            .unwrap_or(SecretSource::None);
        Ok(endpoint)
    }

    /// A variable that Consul's tools read as Go's `strconv.ParseBool` does.
    fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = (self.env)(name) else { return Ok(None) };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(ConfigError::Usage(format!("{name}={value}: write true or false"))),
        }
    }

    fn prefix(&self) -> Result<String, ConfigError> {
        let flag = text(&self.common.prefix);
        let table = self.file.consul.prefix.as_ref().filter(|_| flag.is_none());
        let prefix = flag
            .or_else(|| table.map(|prefix| prefix.get_ref().clone()))
            .unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        let segment = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !part.is_empty() && part.bytes().any(|b| b != b'.') && part.bytes().all(allowed)
        };
        if prefix.split('/').all(segment) {
            return Ok(prefix);
        }
        let what = format!(
            "prefix `{prefix}` must be names of A-Z a-z 0-9 . _ - with slashes between them"
        );
        Err(table.map_or_else(
            || ConfigError::Usage(what.clone()),
            |prefix| self.source.contradiction(prefix, what.clone()),
        ))
    }

    fn groups(&self, prefix: &str, login: &LinkSettings) -> Result<Vec<GroupConfig>, ConfigError> {
        let mut seen: BTreeMap<&GroupName, ()> = BTreeMap::new();
        for table in &self.file.group {
            if seen.insert(table.name.get_ref(), ()).is_some() {
                let what = format!("group `{}` is there twice", table.name.get_ref());
                return Err(self.source.contradiction(&table.name, what));
            }
        }
        let in_file =
            |name: &GroupName| self.file.group.iter().find(|table| table.name.get_ref() == name);
        let mut groups = Vec::new();
        for flag in &self.common.group {
            groups.push(self.group(prefix, login, flag, in_file(&flag.name))?);
        }
        if self.common.group.is_empty() {
            for table in &self.file.group {
                let flag = GroupFlag { name: table.name.get_ref().clone(), service: None };
                groups.push(self.group(prefix, login, &flag, Some(table))?);
            }
        }
        if groups.is_empty() {
            let name: GroupName =
                DEFAULT_GROUP.parse().map_err(|e: NameError| ConfigError::Usage(e.to_string()))?;
            groups.push(self.group(prefix, login, &GroupFlag { name, service: None }, None)?);
        }
        self.refuse_collisions(&groups)?;
        Ok(groups)
    }

    fn group(
        &self,
        prefix: &str,
        login: &LinkSettings,
        flag: &GroupFlag,
        table: Option<&GroupTable>,
    ) -> Result<GroupConfig, ConfigError> {
        let service =
            match flag.service.clone().or_else(|| {
                table.and_then(|table| table.service.as_ref()).map(|s| s.get_ref().clone())
            }) {
                Some(service) => service,
                None => flag.name.as_str().parse::<ServiceName>().map_err(|_| {
                    let what = format!(
                        "group `{0}` needs a service name, for DNS has none like it: \
                     write service = \"...\" or --group {0}=SERVICE",
                        flag.name
                    );
                    table.map_or_else(
                        || ConfigError::Usage(what.clone()),
                        |table| self.source.contradiction(&table.name, what.clone()),
                    )
                })?,
            };
        let mut policy = Policy::new(flag.name.clone(), service, "", "");
        if let Some(table) = table {
            apply(&mut policy, table);
        }
        if let Some(level) = self.common.publish {
            policy.publish = level;
        }
        let login = match table {
            Some(table) => self.login(table.login.as_ref(), login.clone())?,
            None => login.clone(),
        };
        let settings = table.map(|table| &table.settings);
        let sentinel_auth = match settings.and_then(|s| s.auth_password_file.clone()) {
            Some(file) => SentinelAuth {
                username: settings.and_then(|s| s.auth_user.clone()),
                password: SecretSource::File(file),
            },
            None => auth_of(&login),
        };
        Ok(GroupConfig { layout: Layout::new(prefix, &flag.name), policy, login, sentinel_auth })
    }

    /// Two groups that publish one service, or take the Sentinels' names, would answer for each other.
    fn refuse_collisions(&self, groups: &[GroupConfig]) -> Result<(), ConfigError> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        owners.insert(sentinel_rows::SERVICE.to_owned(), "the Sentinels".to_owned());
        for group in groups {
            let policy = &group.policy;
            let place = |what: String| {
                let table = self.file.group.iter().find(|t| t.name.get_ref() == &policy.group);
                match table {
                    Some(table) => self.source.contradiction(&table.name, what),
                    None => ConfigError::Usage(what),
                }
            };
            if policy.group.as_str() == "sentinels" {
                return Err(place(
                    "no group can be called `sentinels`: its node would be the \
                                  Sentinels' own"
                        .to_owned(),
                ));
            }
            for service in policy.service.all() {
                let owner = format!("group `{}`", policy.group);
                if let Some(other) = owners.insert(service.clone(), owner.clone()) {
                    return Err(place(format!(
                        "{other} and {owner} would both publish as `{service}`"
                    )));
                }
            }
        }
        Ok(())
    }

    fn local_redis(&self, groups: &[GroupConfig]) -> Result<Vec<LocalRedis>, ConfigError> {
        let mut all = Vec::new();
        for table in &self.file.redis {
            let group = match &table.group {
                Some(name) => {
                    groups.iter().find(|g| &g.policy.group == name.get_ref()).ok_or_else(|| {
                        let what = format!(
                            "group `{}` is not configured: add [[group]] name = \"{0}\"",
                            name.get_ref()
                        );
                        self.source.contradiction(name, what)
                    })?
                }
                None => match groups {
                    [only] => only,
                    _ => {
                        let what = format!(
                            "{} must say its group, for there are several",
                            table.address.get_ref()
                        );
                        return Err(self.source.contradiction(&table.address, what));
                    }
                },
            };
            all.push(LocalRedis {
                address: table.address.get_ref().clone(),
                group: group.policy.group.clone(),
                service: group.policy.service.server(),
                check_interval: table.check_interval.map_or(DEFAULT_CHECK_INTERVAL, |s| s.0),
                forgotten_after: None,
            });
        }
        Ok(all)
    }

    fn local_sentinels(&self) -> Vec<LocalSentinel> {
        let local = |table: &SentinelTable| LocalSentinel {
            address: table.address.get_ref().clone(),
            check_interval: table.check_interval.map_or(DEFAULT_CHECK_INTERVAL, |s| s.0),
            forgotten_after: None,
        };
        self.file.sentinel.iter().map(local).collect()
    }

    fn instance_login(&self) -> Result<LinkSettings, ConfigError> {
        let flags = &self.common.logins;
        let from_file = self.login(self.file.instances.as_ref(), LinkSettings::default())?;
        self.override_login(
            from_file,
            &flags.redis_username,
            "CONSUL_REDIS_PASSWORD",
            &flags.redis_password_file,
            TlsFlags {
                on: flags.redis_tls,
                ca_cert: &flags.redis_ca_cert,
                client_cert: &flags.redis_client_cert,
                client_key: &flags.redis_client_key,
                names: "--redis-client-cert and --redis-client-key",
            },
        )
    }

    fn sentinel_login(&self) -> Result<LinkSettings, ConfigError> {
        let flags = &self.common.logins;
        let from_file = self.login(self.file.sentinels.login.as_ref(), LinkSettings::default())?;
        self.override_login(
            from_file,
            &flags.sentinel_username,
            "CONSUL_REDIS_SENTINEL_PASSWORD",
            &flags.sentinel_password_file,
            TlsFlags {
                on: flags.sentinel_tls,
                ca_cert: &flags.sentinel_ca_cert,
                client_cert: &flags.sentinel_client_cert,
                client_key: &flags.sentinel_client_key,
                names: "--sentinel-client-cert and --sentinel-client-key",
            },
        )
    }

    /// A login from the file, over `base`.
    fn login(
        &self,
        table: Option<&Spanned<LoginTable>>,
        base: LinkSettings,
    ) -> Result<LinkSettings, ConfigError> {
        let Some(spanned) = table else { return Ok(base) };
        let table = spanned.get_ref();
        let wrong = |what: String| self.source.contradiction(spanned, what);
        let mut login = base;
        if table.username.is_some() {
            login.username.clone_from(&table.username);
        }
        match (&table.password_file, &table.password_env) {
            (Some(path), None) => login.password = SecretSource::File(path.clone()),
            (None, Some(name)) => {
                let value = (self.env)(name)
                    .ok_or_else(|| wrong(format!("password_env names {name}, which is not set")))?;
                login.password = SecretSource::Value(SecretString::from(value));
            }
            (Some(_), Some(_)) => {
                return Err(wrong("password_file and password_env exclude each other".to_owned()));
            }
            (None, None) => {}
        }
        let pair = pair(table.client_cert.clone(), table.client_key.clone())
            .ok_or_else(|| wrong(together("client_cert and client_key")))?;
        let mut tls = login.tls.clone().unwrap_or_default();
        let says = table.ca_cert.is_some() || pair.is_some() || table.server_name.is_some();
        tls.ca_cert = table.ca_cert.clone().or(tls.ca_cert);
        tls.client_cert = pair.or(tls.client_cert);
        tls.server_name = table.server_name.clone().or(tls.server_name);
        match table.tls {
            Some(false) if says => {
                return Err(wrong("tls = false, but certificates are given".to_owned()));
            }
            Some(false) => login.tls = None,
            Some(true) => login.tls = Some(tls),
            None if says || login.tls.is_some() => login.tls = Some(tls),
            None => {}
        }
        if let Some(timeout) = table.timeout {
            login.timeout = timeout.0;
        }
        Ok(login)
    }

    fn override_login(
        &self,
        mut login: LinkSettings,
        username: &Option<String>,
        password_env: &str,
        password_file: &Option<PathBuf>,
        tls: TlsFlags<'_>,
    ) -> Result<LinkSettings, ConfigError> {
        if let Some(username) = text(username) {
            login.username = Some(username);
        }
        let file = password_file.clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(password) = secret(file, (self.env)(password_env)) {
            login.password = password;
        }
        let pair = pair(tls.client_cert.clone(), tls.client_key.clone())
            .ok_or_else(|| ConfigError::Usage(together(tls.names)))?;
        if tls.on || tls.ca_cert.is_some() || pair.is_some() {
            let mut settings: TlsSettings = login.tls.unwrap_or_default();
            settings.ca_cert = tls.ca_cert.clone().or(settings.ca_cert);
            settings.client_cert = pair.or(settings.client_cert);
            login.tls = Some(settings);
        }
        if let Some(timeout) = self.common.logins.timeout {
            login.timeout = timeout.0;
        }
        Ok(login)
    }
}

struct TlsFlags<'a> {
    on: bool,
    ca_cert: &'a Option<PathBuf>,
    client_cert: &'a Option<PathBuf>,
    client_key: &'a Option<PathBuf>,
    names: &'static str,
}

fn apply(policy: &mut Policy, table: &GroupTable) {
    let ms = |span: Option<Span>, default: u64| span.map_or(default, Span::as_ms);
    policy.publish = table.publish.unwrap_or(policy.publish);
    policy.confirm_within_ms = ms(table.confirm_within, policy.confirm_within_ms);
    policy.replica_lag_max_ms = ms(table.replica_lag_max, policy.replica_lag_max_ms);
    policy.forget_after_ms = ms(table.forget_after, policy.forget_after_ms);
    policy.forget_sentinels_after_ms =
        ms(table.forget_sentinels_after, policy.forget_sentinels_after_ms);
    if table.manage == Some(false) {
        policy.leave_alone();
    }
    policy.forget_ghosts = table.forget_ghosts.unwrap_or(policy.forget_ghosts);
    policy.bootstrap = table.bootstrap.unwrap_or(policy.bootstrap);
    policy.expect = table.expect.map(usize::from);
    policy.bootstrap_wait_ms = ms(table.bootstrap_wait, policy.bootstrap_wait_ms);
    policy.hold_when_cut_off = table.hold_when_cut_off.unwrap_or(policy.hold_when_cut_off);
    policy.fence = table.fence.unwrap_or(policy.fence);
    policy.replace_emptied = table.replace_emptied.unwrap_or(policy.replace_emptied);
    policy.hold_writes = table.hold_writes.unwrap_or(policy.hold_writes);
    policy.tell_sentinels = table.tell_sentinels.unwrap_or(policy.tell_sentinels);
    policy.settings = wanted(&table.settings);
}

fn wanted(table: &SettingsTable) -> WantedSettings {
    WantedSettings {
        quorum: table.quorum.map(|quorum| match quorum {
            Quorum::Auto => WantedQuorum::Auto,
            Quorum::Fixed(quorum) => WantedQuorum::Fixed(quorum),
        }),
        down_after_ms: table.down_after.map(Span::as_ms),
        failover_timeout_ms: table.failover_timeout.map(Span::as_ms),
        parallel_syncs: table.parallel_syncs,
    }
}

/// A secret in a file that a flag or the environment names, else one in the environment itself.
fn secret(file: Option<PathBuf>, value: Option<String>) -> Option<SecretSource> {
    let value = value.map(|value| SecretSource::Value(SecretString::from(value)));
    file.map(SecretSource::File).or(value)
}

/// A text that is set and not empty.
fn text(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.is_empty())
}

/// Both or neither; `None` when there is only one.
fn pair(cert: Option<PathBuf>, key: Option<PathBuf>) -> Option<Option<(PathBuf, PathBuf)>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Some(Some((cert, key))),
        (None, None) => Some(None),
        _ => None,
    }
}

fn together(names: &str) -> String {
    format!("{names} are only of use together")
}

fn agent_id(given: Option<String>) -> String {
    let id = given.unwrap_or_else(|| format!("{}-{:.4}", host_name(), unique()));
    // It stands in a KV key.
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    id.chars().map(plain).collect()
}

fn host_name() -> String {
    // Not from /proc, of which a hardened service sees only its own.
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".to_owned())
}

/// Sixteen hexadecimal digits unlike any others: the standard library's random hash keys.
pub fn unique() -> String {
    let number = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{number:016x}")
}
