//! From the command line, the environment and the file to one value for each setting.

mod clusters;
mod consul;
mod groups;
mod http;
mod logins;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::file::{File, LogFormat};
use super::source::ConfigText;
use super::{Config, ConfigError, DEFAULT_WATCHERS, Env, LocalSentinel, SentinelSources};
use crate::cli::Common;
use crate::consul::logins::ConsulLogins;
use crate::core::identity::address::Zone;
use crate::redis_link::LinkSettings;
use crate::secret::{SecretSource, VARIABLES};

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
    pub source: ConfigText,
    /// What runs already.
    pub running: Option<&'a Config>,
    /// The logins to Consul of this process.
    pub logins: &'a ConsulLogins,
}

/// What an agent keeps for as long as it runs, and what waits until it is started again.
struct Lasting {
    agent: String,
    prefix: String,
    log_format: LogFormat,
    waiting: Vec<&'static str>,
}

/// What goes into every group.
struct CommonToAll<'a> {
    agent: &'a str,
    prefix: &'a str,
    login: &'a LinkSettings,
    sources: &'a SentinelSources,
    /// How many groups there are.
    groups: usize,
}

impl Resolver<'_> {
    /// All settings, checked.
    pub fn config(self) -> Result<Config, ConfigError> {
        let consul = self.consul()?;
        let dns = self.dns(&consul);
        let Lasting { agent, prefix, log_format, waiting } = self.lasting()?;
        let instance_login = self.instance_login()?;
        let wanted = self.wanted_groups()?;
        let places = self.places(&wanted)?;
        let sentinels = self.local_sentinels();
        let sources = self.sources(&sentinels);
        let common = CommonToAll {
            agent: &agent,
            prefix: &prefix,
            login: &instance_login,
            sources: &sources,
            groups: wanted.len(),
        };
        let groups = self.groups(&wanted, &places, &common)?;
        let clusters = self.clusters(&groups, &common)?;
        let redis = self.local_redis(&places, &groups);
        let notify = self.notify(&groups)?;
        Ok(Config {
            consul,
            log: text(&self.common.log)
                .or_else(|| self.file.log.level.clone())
                .unwrap_or_else(|| "info".to_owned()),
            log_format,
            http: self.http()?,
            dns,
            handover: self.common.handover.or(self.file.agent.handover),
            watchers: self.file.agent.watchers.map_or(DEFAULT_WATCHERS, usize::from),
            sources,
            resolver: self.common.logins.resolver.or(self.file.sentinels.resolver),
            sentinel_login: self.sentinel_login()?,
            groups,
            groups_named: !self.common.group.is_empty() || !self.file.group.is_empty(),
            instance_login,
            clusters,
            redis,
            sentinels,
            secret_variables: self.secret_variables(),
            templates: self.templates()?,
            notify,
            zone: self.zone(),
            agent,
            prefix,
            waiting,
        })
    }

    /// Where this host stands.
    fn zone(&self) -> Option<Zone> {
        self.common.zone.clone().or_else(|| self.file.agent.zone.clone())
    }

    /// What an agent keeps for as long as it runs.
    fn lasting(&self) -> Result<Lasting, ConfigError> {
        let given = text(&self.common.id).or_else(|| self.file.agent.id.clone());
        let prefix = self.prefix()?;
        let log_format = self.common.log_format.or(self.file.log.format).unwrap_or(LogFormat::Text);
        let Some(Config { agent, prefix: kept, log_format: form, .. }) = self.running else {
            let agent = agent_id(given)?;
            return Ok(Lasting { agent, prefix, log_format, waiting: Vec::new() });
        };
        let given = given.map(|given| agent_id(Some(given))).transpose()?;
        let waiting = [
            ("[agent] id", given.is_some_and(|given| given != *agent)),
            ("[consul] prefix", prefix != *kept),
            ("[log] format", log_format != *form),
        ];
        Ok(Lasting {
            agent: agent.clone(),
            prefix: kept.clone(),
            log_format: *form,
            waiting: waiting.into_iter().filter(|(_, waits)| *waits).map(|(key, _)| key).collect(),
        })
    }

    /// Our own, and those that the file names.
    fn secret_variables(&self) -> BTreeSet<String> {
        let groups = self.file.group.iter().filter_map(|group| group.login.as_ref());
        let logins = self.file.instances.iter().chain(&self.file.sentinels.login).chain(groups);
        let named = logins.filter_map(|login| login.get_ref().password_env.clone());
        VARIABLES.map(str::to_owned).into_iter().chain(named).collect()
    }

    fn sources(&self, local: &[LocalSentinel]) -> SentinelSources {
        let mut listed = if self.common.sentinels.is_empty() {
            self.file.sentinels.addresses.clone().unwrap_or_default()
        } else {
            self.common.sentinels.clone()
        };
        listed.extend(local.iter().map(|sentinel| sentinel.address.clone()));
        listed.sort();
        listed.dedup();
        SentinelSources {
            listed,
            consul_service: text(&self.common.sentinel_service)
                .or_else(|| self.file.sentinels.consul_service.clone()),
            peers: self.file.sentinels.peers.unwrap_or(true),
            installation: text(&self.common.installation)
                .or_else(|| self.file.agent.installation.clone()),
            refresh: self.file.sentinels.refresh.map_or(DEFAULT_REFRESH, |span| span.0),
        }
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

fn agent_id(given: Option<String>) -> Result<String, ConfigError> {
    let id = given.unwrap_or_else(|| format!("{}-{:.4}", host_name(), unique()));
    // It stands in a KV key.
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let id: String = id.chars().map(plain).collect();
    // A path would lead elsewhere.
    if id.bytes().all(|b| b == b'.') {
        return Err(ConfigError::Usage(format!("agent id `{id}` needs a letter or a digit")));
    }
    Ok(id)
}

/// What this host is called.
pub fn host_name() -> String {
    // Not from /proc, of which a hardened service sees only its own.
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".to_owned())
}

/// Sixteen hexadecimal digits unlike any others: the standard library's random hash keys.
pub fn unique() -> String {
    let number = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{resolve, resolve_again};

    fn named(id: &str) -> Common {
        Common { id: Some(id.to_owned()), ..Common::default() }
    }

    #[test]
    fn an_agents_id_never_leads_out_of_its_key() {
        for id in [".", "..", "..."] {
            let error = resolve(&named(id), &|_| None).unwrap_err().to_string();
            assert!(error.contains(&format!("`{id}`")), "{error}");
        }
        let id = |id: &str| resolve(&named(id), &|_| None).unwrap().agent;
        assert_eq!((id("a.b"), id("../x"), id("..a")), ("a.b".into(), "..-x".into(), "..a".into()));
    }

    #[test]
    fn what_the_file_names_as_a_password_is_a_secret_variable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let text = r#"
            [instances]
            password_env = "A"
            [sentinels.login]
            password_env = "B"
            [[group]]
            name = "redis"
            login = { password_env = "C" }
        "#;
        std::fs::write(&path, text).unwrap();
        let common = Common { config: Some(path), ..Common::default() };
        let env = |name: &str| (name.len() == 1).then(|| "x".to_owned());
        let secret = resolve(&common, &env).unwrap().secret_variables;
        for name in ["A", "B", "C", "CONSUL_HTTP_TOKEN", "CONSUL_REDIS_PASSWORD"] {
            assert!(secret.contains(name), "{name}: {secret:?}");
        }
    }

    #[test]
    fn what_an_agent_keeps_waits_for_a_restart_and_is_in_every_policy() {
        let running = resolve(&named("one"), &|_| None).unwrap();
        let next = Common { prefix: Some("other".to_owned()), ..named("two") };
        let next = resolve_again(&next, &|_| None, &running).unwrap();
        assert_eq!(next.waiting, ["[agent] id", "[consul] prefix"]);
        assert_eq!((next.agent.as_str(), &next.prefix), ("one", &running.prefix));
        assert_eq!(next.groups, running.groups);
        assert_eq!(next.groups[0].policy.agent, "one");
        let unnamed = resolve_again(&Common::default(), &|_| None, &running).unwrap();
        assert_eq!((unnamed.agent.as_str(), unnamed.waiting.len()), ("one", 0));
    }
}
