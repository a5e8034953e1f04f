//! What is to be run, and the settings by the names that people already use.
//!
//! Flags go before our own `CONSUL_REDIS_*` variables, those before the names of the images that `exec` replaces
//! (`docs/deploy.md`), and those before the config file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::cli::Common;
use crate::config::{Config, ConfigError};
use crate::core::identity::address::Address;
use crate::core::policy::WantedQuorum;
use crate::core::published::sentinel_rows::SERVICE as SENTINEL_SERVICE;
use crate::exec::conf_words::words;

/// Sentinel's port where nothing else is said.
pub const SENTINEL_PORT: u16 = 26_379;
/// Redis' port where nothing else is said.
pub const REDIS_PORT: u16 = 6_379;
/// The number that `REDIS_QUORUM` and the like may have at the most.
const COUNT_MAX: u64 = 1_000;
/// Longest time that a variable in milliseconds may say: a day.
const MS_MAX: u64 = 24 * 3_600 * 1_000;

/// The variables of the environment that are not empty.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process. A variable that is not text is left out.
    pub fn of_this_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of one variable; `None` where it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names that begin with `prefix`, without it, and their values.
    pub fn beginning<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, &**value)))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Self {
        Self(all.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }
}

/// Which of Redis' two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// It holds data.
    Redis,
    /// It watches those that do.
    Sentinel,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Sentinel => "Sentinel",
        })
    }
}

impl ServerKind {
    /// `SENTINEL=1` (or `true`, `yes`) means a Sentinel.
    pub fn of_environment(env: &Environment) -> Self {
        let said = env.get("SENTINEL").unwrap_or_default().to_ascii_lowercase();
        if ["1", "true", "yes"].contains(&said.as_str()) { Self::Sentinel } else { Self::Redis }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Sentinel => "redis-sentinel",
        }
    }

    /// What its config file is called when it has no name yet.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::Redis => "redis.conf",
            Self::Sentinel => "sentinel.conf",
        }
    }

    /// Its port where nothing else is said.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Redis => REDIS_PORT,
            Self::Sentinel => SENTINEL_PORT,
        }
    }
}

/// A server's command line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCommand {
    /// What it is.
    pub role: ServerKind,
    /// The program, and whatever stands before it (`setpriv`, `numactl`, ...).
    pub program: Vec<String>,
    /// Its config file, when one is named.
    pub config: Option<PathBuf>,
    /// What stands behind that.
    pub options: Vec<String>,
}

impl ServerCommand {
    /// Takes apart what stands behind `exec --`. As with the official image, a command that begins with an option or
    /// a config file is the default server's; so is none at all.
    ///
    /// # Errors
    /// When it is no Redis and no Sentinel, or its config comes from standard input.
    pub fn parse(words: &[String], env: &Environment) -> Result<Self, ConfigError> {
        let default = ServerKind::of_environment(env);
        let bare = words.first().is_none_or(|w| w.starts_with('-') || w.ends_with(".conf"));
        let mut all = words.to_vec();
        if bare {
            all.insert(0, default.program().to_owned());
        }
        let at = all.iter().position(|word| role_of_program(word).is_some()).ok_or_else(|| {
            ConfigError::Usage(format!(
                "`{}` runs neither redis-server nor redis-sentinel: write consul-redis exec -- redis-server ...",
                words.join(" ")
            ))
        })?;
        let mut options = all.split_off(at + 1);
        let named = options.first().is_some_and(|word| !word.starts_with("--"));
        let config = named.then(|| PathBuf::from(options.remove(0)));
        if config.as_deref() == Some(Path::new("-")) {
            return Err(ConfigError::Usage(
                "a config from standard input cannot be kept: give a file".to_owned(),
            ));
        }
        let sentinel = options.iter().any(|word| word == "--sentinel");
        let role = all.last().and_then(|word| role_of_program(word)).unwrap_or(default);
        let role = if sentinel { ServerKind::Sentinel } else { role };
        Ok(Self { role, program: all, config, options })
    }

    /// The value of a setting: on the command line, else in the config.
    pub fn setting(&self, name: &str, config: &str) -> Option<String> {
        let flag = format!("--{name}");
        let given = self.options.iter().rposition(|word| word.eq_ignore_ascii_case(&flag));
        let given = given.and_then(|at| self.options.get(at + 1));
        let in_file = || {
            let mut lines = config.lines().rev().filter_map(words);
            lines.find_map(|words| match words.as_slice() {
                [key, value, ..] if key.eq_ignore_ascii_case(name) => Some(value.clone()),
                _ => None,
            })
        };
        given.cloned().or_else(in_file)
    }

    /// The port it listens on.
    ///
    /// # Errors
    /// When it is no port.
    pub fn port(&self, config: &str) -> Result<u16, ConfigError> {
        let port = |name: &str| match self.setting(name, config) {
            None => Ok(None),
            Some(text) => text
                .parse::<u16>()
                .map(Some)
                .map_err(|_| ConfigError::Usage(format!("{name} {text}: no port"))),
        };
        match port("port")? {
            Some(0) => match port("tls-port")? {
                Some(port) if port > 0 => Ok(port),
                _ => Err(ConfigError::Usage(
                    "port 0 and no tls-port: no client can reach it".to_owned(),
                )),
            },
            Some(port) => Ok(port),
            None => Ok(self.role.default_port()),
        }
    }

    /// The server's whole command line. Options go before what the config file says, and the server itself writes
    /// them there when it changes something.
    pub fn line(
        &self,
        config: &Path,
        address: &Address,
        resolve_hostnames: bool,
        follow: Option<&Address>,
        is_node: bool,
    ) -> Vec<String> {
        let mut line = self.program.clone();
        line.push(config.display().to_string());
        line.extend(self.options.iter().cloned());
        let (host, port) = (address.host(), address.port().to_string());
        let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
        // A server that went into the background would be gone for us.
        add(&["--daemonize", "no", "--supervised", "no"]);
        match self.role {
            // The bus has the address, and each node sees the others' own ports.
            ServerKind::Redis if is_node => add(&["--cluster-announce-ip", host]),
            ServerKind::Redis => {
                add(&["--replica-announce-ip", host, "--replica-announce-port", &port]);
                if let Some(follow) = follow {
                    add(&["--replicaof", follow.host(), &follow.port().to_string()]);
                }
            }
            ServerKind::Sentinel => {
                if resolve_hostnames {
                    add(&["--sentinel", "resolve-hostnames", "yes"]);
                    add(&["--sentinel", "announce-hostnames", "yes"]);
                }
                add(&["--sentinel", "announce-ip", host, "--sentinel", "announce-port", &port]);
            }
        }
        line
    }
}

fn role_of_program(word: &str) -> Option<ServerKind> {
    match Path::new(word).file_name()?.to_str()? {
        "redis-server" | "valkey-server" | "keydb-server" => Some(ServerKind::Redis),
        "redis-sentinel" | "valkey-sentinel" | "keydb-sentinel" => Some(ServerKind::Sentinel),
        _ => None,
    }
}

/// The command line with what the known names say where it says nothing itself.
///
/// # Errors
/// When one of them cannot be used.
pub fn with_known_names(common: &Common, env: &Environment) -> Result<Common, ConfigError> {
    let mut common = common.clone();
    if common.group.is_empty()
        && let Some(group) = env.get("REDIS_GROUP")
    {
        common.group = vec![parsed("REDIS_GROUP", group)?];
    }
    let service = common.sentinel_service.as_ref().is_some_and(|name| !name.is_empty());
    if common.sentinels.is_empty() && !service {
        common.sentinels.extend(named_sentinels(env)?);
    }
    Ok(common)
}

/// `SENTINEL_NAME` (a name that stands for all of them), else Kubernetes' variables of a service `redis-sentinel`.
fn named_sentinels(env: &Environment) -> Result<Option<Address>, ConfigError> {
    let (name, host, port) = match env.get("SENTINEL_NAME") {
        Some(host) => ("SENTINEL_NAME", host, None),
        None => match env.get("REDIS_SENTINEL_SERVICE_HOST") {
            // What Kubernetes says of a headless service.
            None | Some("None") => return Ok(None),
            Some(host) => {
                ("REDIS_SENTINEL_SERVICE_HOST", host, env.get("REDIS_SENTINEL_SERVICE_PORT"))
            }
        },
    };
    let port = match port {
        Some(port) => parsed("REDIS_SENTINEL_SERVICE_PORT", port)?,
        None => SENTINEL_PORT,
    };
    let with_port = host.parse::<Address>();
    let address = with_port.or_else(|_| Address::new(host.trim_matches(['[', ']']), port));
    address.map(Some).map_err(|error| ConfigError::Usage(format!("{name}: {error}")))
}

fn parsed<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<T, ConfigError> {
    text.parse().map_err(|error| ConfigError::Usage(format!("{name}={text}: {error}")))
}

/// The settings of Sentinels by their known names, over those of the file, and what `exec` does by itself where
/// nothing is said: Sentinels that are found in Consul, and a quorum that follows their number.
///
/// # Errors
/// When a variable is no number, or out of bounds.
pub fn apply(
    config: &mut Config,
    env: &Environment,
    expect: Option<u16>,
) -> Result<(), ConfigError> {
    let count = |name| number(env, name, COUNT_MAX);
    let ms = |name| number(env, name, MS_MAX);
    let quorum = count("REDIS_QUORUM")?.or(count("QUORUM")?).map(WantedQuorum::Fixed);
    let (down_after, failover_timeout) =
        (ms("REDIS_DOWN_AFTER_MS")?, ms("REDIS_FAILOVER_TIMEOUT")?);
    let parallel_syncs = count("REDIS_PARALLEL_SYNCS")?;
    for group in &mut config.groups {
        let settings = &mut group.policy.settings;
        settings.quorum = quorum.or(settings.quorum).or(Some(WantedQuorum::Auto));
        settings.down_after_ms = down_after.or(settings.down_after_ms);
        settings.failover_timeout_ms = failover_timeout.or(settings.failover_timeout_ms);
        settings.parallel_syncs = parallel_syncs.or(settings.parallel_syncs);
        group.policy.expect = expect.map(usize::from).or(group.policy.expect);
    }
    let sources = &mut config.sources;
    let no_groups = config.groups.is_empty();
    if sources.listed.is_empty() && sources.consul_service.is_none() && !no_groups {
        sources.consul_service = Some(SENTINEL_SERVICE.to_owned());
    }
    let names = sources.names();
    for group in &mut config.groups {
        group.policy.sources.clone_from(&names);
    }
    Ok(())
}

fn number(env: &Environment, name: &str, most: u64) -> Result<Option<u64>, ConfigError> {
    let Some(text) = env.get(name) else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ => Err(ConfigError::Usage(format!("{name}={text}: write a number from 1 to {most}"))),
    }
}

/// How long Consul keeps a container that does not answer: the least that it allows.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;

    fn env(all: &[(&str, &str)]) -> Environment {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn parse(line: &str, all: &[(&str, &str)]) -> Result<ServerCommand, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        ServerCommand::parse(&words, &env(all)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_taken_apart() {
        let command = parse("/usr/bin/redis-server /etc/redis.conf --port 7000", &[]).unwrap();
        assert_eq!(command.role, ServerKind::Redis);
        assert_eq!(command.program, ["/usr/bin/redis-server"]);
        assert_eq!(command.config, Some(PathBuf::from("/etc/redis.conf")));
        assert_eq!(command.options, ["--port", "7000"]);
        let wrapped = parse("setpriv --pdeathsig KILL valkey-sentinel s.conf", &[]).unwrap();
        assert_eq!(wrapped.role, ServerKind::Sentinel);
        assert_eq!(wrapped.program, ["setpriv", "--pdeathsig", "KILL", "valkey-sentinel"]);
        assert_eq!(
            parse("redis-server s.conf --sentinel", &[]).unwrap().role,
            ServerKind::Sentinel
        );
    }

    #[test]
    fn without_a_program_the_environment_says_which() {
        for (line, all, program, config) in [
            ("", &[][..], "redis-server", None),
            ("", &[("SENTINEL", "1")], "redis-sentinel", None),
            ("", &[("SENTINEL", "0")], "redis-server", None),
            ("--port 7", &[], "redis-server", None),
            ("/my.conf", &[("SENTINEL", "true")], "redis-sentinel", Some("/my.conf")),
            ("redis-server", &[("SENTINEL", "1")], "redis-server", None),
        ] {
            let command = parse(line, all).unwrap();
            assert_eq!(command.program, [program], "{line} {all:?}");
            assert_eq!(command.config, config.map(PathBuf::from), "{line}");
        }
        let error = parse("nginx -g x", &[]).unwrap_err();
        assert!(error.contains("`nginx -g x` runs neither redis-server nor"), "{error}");
        assert!(parse("redis-server -", &[]).unwrap_err().contains("standard input"));
    }

    #[test]
    fn ports_come_from_the_command_or_the_config() {
        let port = |line: &str, config: &str| {
            parse(line, &[]).unwrap().port(config).map_err(|error| error.to_string())
        };
        assert_eq!(port("redis-server", ""), Ok(6379));
        assert_eq!(port("redis-sentinel", "# port 1\nPort 5000\n"), Ok(5000));
        assert_eq!(port("redis-server --port 7000", "port 5000\n"), Ok(7000));
        assert_eq!(port("redis-server", "port 0\ntls-port 6390\n"), Ok(6390));
        assert!(port("redis-server", "port 0\n").unwrap_err().contains("no client can reach it"));
        assert!(port("redis-server --port x", "").unwrap_err().contains("port x: no port"));
    }

    fn resolved(flags: Common, all: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env = env(all);
        let common = with_known_names(&flags, &env)?;
        let mut config = resolve(&common, &|name| env.get(name).map(str::to_owned))?;
        apply(&mut config, &env, None)?;
        Ok(config)
    }

    #[test]
    fn the_known_names_are_understood() {
        let config = resolved(
            Common::default(),
            &[
                ("REDIS_GROUP", "cache"),
                ("REDIS_QUORUM", "2"),
                ("REDIS_DOWN_AFTER_MS", "60000"),
                ("REDIS_FAILOVER_TIMEOUT", "180000"),
                ("REDIS_PARALLEL_SYNCS", "3"),
                ("REDIS_SENTINEL_SERVICE_HOST", "10.0.0.9"),
                ("REDIS_SENTINEL_SERVICE_PORT", "26380"),
            ],
        );
        let config = config.unwrap();
        let policy = &config.groups[0].policy;
        assert_eq!(policy.group.as_str(), "cache");
        assert_eq!(policy.settings.quorum, Some(WantedQuorum::Fixed(2)));
        assert_eq!(policy.settings.down_after_ms, Some(60_000));
        assert_eq!(policy.settings.failover_timeout_ms, Some(180_000));
        assert_eq!(policy.settings.parallel_syncs, Some(3));
        assert_eq!(config.sources.listed, ["10.0.0.9:26380".parse().unwrap()]);
        assert_eq!(config.sources.consul_service, None);
    }

    #[test]
    fn our_own_names_and_flags_go_before_the_known_ones() {
        let flags = Common {
            group: vec!["own".parse().unwrap()],
            sentinels: vec!["10.0.0.1:1".parse().unwrap()],
            ..Common::default()
        };
        let config = resolved(flags, &[("REDIS_GROUP", "theirs"), ("SENTINEL_NAME", "s")]).unwrap();
        assert_eq!(config.groups[0].policy.group.as_str(), "own");
        assert_eq!(config.sources.listed, ["10.0.0.1:1".parse().unwrap()]);
    }

    #[test]
    fn sentinels_have_a_name_or_are_found_in_consul() {
        let listed = |all: &[(&str, &str)]| resolved(Common::default(), all).unwrap().sources;
        let found = listed(&[("SENTINEL_NAME", "sentinel"), ("QUORUM", "2")]);
        assert_eq!(found.listed, ["sentinel:26379".parse().unwrap()]);
        assert_eq!(listed(&[("SENTINEL_NAME", "s:5")]).listed, ["s:5".parse().unwrap()]);
        let none = listed(&[("REDIS_SENTINEL_SERVICE_HOST", "None")]);
        assert_eq!(
            (none.listed.len(), none.consul_service.as_deref()),
            (0, Some("redis-sentinel"))
        );
        let config = resolved(Common::default(), &[]).unwrap();
        assert_eq!(config.groups[0].policy.settings.quorum, Some(WantedQuorum::Auto));
    }

    #[test]
    fn what_is_no_number_is_refused_by_name() {
        for (name, value) in
            [("QUORUM", "0"), ("REDIS_DOWN_AFTER_MS", "5s"), ("REDIS_GROUP", "a b")]
        {
            let error = resolved(Common::default(), &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
        }
    }
}
