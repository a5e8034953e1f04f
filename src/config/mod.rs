//! Settings, resolved: the command line over the environment over the config file over the defaults.

mod discovery;
mod error;
pub mod file;
pub mod notify;
pub(crate) mod resolver;
mod source;
pub mod template;
mod types;

use std::path::{Path, PathBuf};

pub use self::discovery::SentinelSources;
pub use self::error::ConfigError;
pub use self::types::*;
use crate::cli::Common;
use crate::consul::logins::ConsulLogins;
use resolver::Resolver;
use source::ConfigText;

/// The config file of every command where neither `--config` nor `CONSUL_REDIS_CONFIG` names one, if it exists.
pub const DEFAULT_FILE: &str = "/etc/consul-redis/consul-redis.toml";

/// [`DEFAULT_FILE`], if it exists. One that this user may not look at exists: reading it says so, where the defaults
/// would be taken in silence.
pub fn default_file() -> Option<PathBuf> {
    Path::new(DEFAULT_FILE).try_exists().unwrap_or(true).then(|| PathBuf::from(DEFAULT_FILE))
}

/// Looks up one environment variable; an empty one counts as not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves all settings.
///
/// # Errors
/// [`ConfigError`], before anything was started.
pub fn resolve(common: &Common, env: Env<'_>) -> Result<Config, ConfigError> {
    resolve_for(common, env, None, &ConsulLogins::default())
}

/// What is wrong with a config file of this text, if anything is.
#[cfg(test)]
pub fn parsed_for_test(text: &str) -> Option<String> {
    let file = ConfigText { path: PathBuf::from("consul-redis.toml"), text: text.to_owned() };
    file.parse().err().map(|error| error.to_string())
}

/// Resolves all settings again, for an agent that runs by `running`: its name, and where its groups are in Consul,
/// stay.
///
/// # Errors
/// [`ConfigError`]: what runs goes on as it is.
pub fn resolve_again(
    common: &Common,
    env: Env<'_>,
    running: &Config,
) -> Result<Config, ConfigError> {
    resolve_for(common, env, Some(running), &ConsulLogins::default())
}

/// Resolves all settings, again where an agent runs by some, for a process that has these logins to Consul.
///
/// # Errors
/// [`ConfigError`], before anything was started or changed.
pub fn resolve_for(
    common: &Common,
    env: Env<'_>,
    running: Option<&Config>,
    logins: &ConsulLogins,
) -> Result<Config, ConfigError> {
    let source = match &common.config {
        Some(path) => ConfigText::read(path)?,
        None => ConfigText { path: PathBuf::from("(no config file)"), text: String::new() },
    };
    Resolver { common, env, file: source.parse()?, source, running, logins }.config()
}
