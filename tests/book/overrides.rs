//! Which flags and variables override which key of the config file, tried on the program's own resolver.

use clap::builder::Resettable;
use clap::{Command, CommandFactory, FromArgMatches};
use consul_redis::cli::{Cli, Common};
use consul_redis::config::{Config, resolve};

/// One flag or variable, and the key that it goes before.
pub struct Override {
    /// The key, with its table.
    pub key: &'static str,
    /// A flag, or a variable that has none.
    pub by: &'static str,
    /// Two values of the key, as TOML.
    values: [&'static str; 2],
    /// What the flag or variable says.
    given: &'static str,
}

const fn row(
    key: &'static str,
    by: &'static str,
    values: [&'static str; 2],
    given: &'static str,
) -> Override {
    Override { key, by, values, given }
}

const FILES: [&str; 2] = ["'/a'", "'/b'"];
const NAMES: [&str; 2] = ["'a'", "'b'"];
const SWITCH: [&str; 2] = ["true", "false"];
const SOCKETS: [&str; 2] = ["'127.0.0.1:1'", "'127.0.0.1:2'"];
const LISTS: [&str; 2] = ["['10.0.0.1:1']", "['10.0.0.1:2']"];
const TIMES: [&str; 2] = ["'1s'", "'2s'"];

/// All of them.
pub const OVERRIDES: &[Override] = &[
    row("agent.id", "--id", NAMES, "c"),
    row("agent.installation", "--installation", NAMES, "c"),
    row("agent.zone", "--zone", NAMES, "c"),
    row("agent.handover", "--handover", SWITCH, "false"),
    row("consul.address", "--http-addr", ["'a:1'", "'b:1'"], "c:1"),
    row("consul.token_file", "--token-file", FILES, "/c"),
    row("consul.token_file", "CONSUL_HTTP_TOKEN", FILES, "c"),
    row("consul.ca_cert", "CONSUL_CACERT", FILES, "/c"),
    row("consul.client_cert", "CONSUL_CLIENT_CERT", FILES, "/c"),
    row("consul.client_key", "CONSUL_CLIENT_KEY", FILES, "/c"),
    row("consul.tls_server_name", "CONSUL_TLS_SERVER_NAME", NAMES, "c"),
    row("consul.tls_verify", "CONSUL_HTTP_SSL_VERIFY", SWITCH, "false"),
    row("consul.namespace", "CONSUL_NAMESPACE", NAMES, "c"),
    row("consul.partition", "CONSUL_PARTITION", NAMES, "c"),
    row("consul.prefix", "--prefix", NAMES, "c"),
    row("consul.login.method", "--login-method", NAMES, "c"),
    row("consul.login.bearer_token_file", "--bearer-token-file", FILES, "/c"),
    row("consul.login.meta", "--login-meta", ["{a = 'b'}", "{a = 'c'}"], "a=d"),
    row("http.listen", "--listen", SOCKETS, "127.0.0.1:3"),
    row("http.token_file", "--listen-token-file", FILES, "/c"),
    row("http.tls_cert", "--listen-cert", FILES, "/c"),
    row("http.tls_key", "--listen-key", FILES, "/c"),
    row("http.client_ca", "--listen-client-ca", FILES, "/c"),
    row("dns.check", "--dns-check", SWITCH, "false"),
    row("dns.servers", "--dns", LISTS, "10.0.0.1:3"),
    row("dns.domain", "--dns-domain", NAMES, "c"),
    row("log.level", "--log", NAMES, "c"),
    row("log.format", "--log-format", ["'text'", "'json'"], "json"),
    row("sentinels.addresses", "--sentinels", LISTS, "10.0.0.1:3"),
    row("sentinels.consul_service", "--sentinel-service", NAMES, "c"),
    row("sentinels.resolver", "--resolver", SOCKETS, "127.0.0.1:3"),
    row("group.name", "--group", NAMES, "c"),
    row("group.service", "--group", NAMES, "redis=c"),
    row("group.publish", "--publish", ["'promotion'", "'quorum'"], "quorum"),
    row("instances.username", "--redis-username", NAMES, "c"),
    row("instances.password_file", "--redis-password-file", FILES, "/c"),
    row("instances.password_file", "CONSUL_REDIS_PASSWORD", FILES, "c"),
    row("instances.tls", "--redis-tls", ["false", "true"], ""),
    row("instances.ca_cert", "--redis-ca-cert", FILES, "/c"),
    row("instances.client_cert", "--redis-client-cert", FILES, "/c"),
    row("instances.client_key", "--redis-client-key", FILES, "/c"),
    row("instances.timeout", "--timeout", TIMES, "3s"),
    row("sentinels.login.username", "--sentinel-username", NAMES, "c"),
    row("sentinels.login.password_file", "--sentinel-password-file", FILES, "/c"),
    row("sentinels.login.password_file", "CONSUL_REDIS_SENTINEL_PASSWORD", FILES, "c"),
    row("sentinels.login.tls", "--sentinel-tls", ["false", "true"], ""),
    row("sentinels.login.ca_cert", "--sentinel-ca-cert", FILES, "/c"),
    row("sentinels.login.client_cert", "--sentinel-client-cert", FILES, "/c"),
    row("sentinels.login.client_key", "--sentinel-client-key", FILES, "/c"),
    row("sentinels.login.timeout", "--timeout", TIMES, "3s"),
];

/// Flags that stand for no key.
const NO_KEY: [&str; 3] = ["config", "help", "version"];

/// The command line, deaf to this process's environment.
pub fn deaf() -> Command {
    let deaf = |command: Command| command.mut_args(|arg| arg.env(Resettable::Reset));
    deaf(Cli::command()).mut_subcommands(deaf)
}

/// The settings of a config file with a command line and an environment over it. What is drawn at random is not in it.
pub fn resolved(file: &str, flags: &[String], env: &[(&str, &str)]) -> Config {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("consul-redis.toml");
    std::fs::write(&path, file).expect("the file");
    let words = ["consul-redis", "plan"].map(str::to_owned).into_iter().chain(flags.to_owned());
    let matches = deaf().try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
    let common = Cli::from_arg_matches(&matches).expect("what was parsed").common;
    let common = Common { config: Some(path), ..common };
    let variable =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let mut config = resolve(&common, &variable).unwrap_or_else(|error| panic!("{file}{error}"));
    for group in &mut config.groups {
        group.policy.run.clear();
    }
    config
}

/// A config file that says one key, and what that needs beside it.
fn file(key: &str, value: &str) -> String {
    let (table, key) = key.rsplit_once('.').expect("table.key");
    let beside = match (table, key) {
        ("group", "name") => "",
        ("group", _) => "name = 'redis'\n",
        (_, "client_cert") => "client_key = '/k'\n",
        (_, "client_key") => "client_cert = '/k'\n",
        ("consul.login", "method") => "bearer_token_file = '/j'\n",
        ("consul.login", "bearer_token_file") => "method = 'm'\n",
        ("consul.login", "meta") => "bearer_token_file = '/j'\nmethod = 'm'\n",
        ("http", "tls_cert") => "listen = '127.0.0.1:9'\ntls_key = '/k'\n",
        ("http", "tls_key") => "listen = '127.0.0.1:9'\ntls_cert = '/k'\n",
        ("http", "client_ca") => "listen = '127.0.0.1:9'\ntls_cert = '/k'\ntls_key = '/k'\n",
        ("http", "token_file") => "listen = '127.0.0.1:9'\n",
        _ => "",
    };
    let head = if table == "group" { "[[group]]".to_owned() } else { format!("[{table}]") };
    format!("{head}\n{beside}{key} = {value}\n")
}

/// The other half of a certificate, where one is given.
fn half(by: &str) -> Option<String> {
    let other = [("_CERT", "_KEY"), ("_KEY", "_CERT"), ("-cert", "-key"), ("-key", "-cert")];
    let (this, that) = other.into_iter().find(|(this, _)| by.ends_with(this))?;
    let stem = by.strip_suffix(this)?;
    let of_a_pair = ["client", "--listen"].iter().any(|end| stem.to_lowercase().ends_with(end));
    of_a_pair.then(|| format!("{stem}{that}"))
}

#[test]
fn what_overrides_a_key_does() {
    for Override { key, by, values, given } in OVERRIDES {
        let mut flags = Vec::new();
        if *key != "agent.id" {
            flags.push("--id=x".to_owned());
        }
        let half = half(by);
        let mut env = Vec::new();
        let (quiet_flags, quiet_env) = (flags.clone(), env.clone());
        for (by, given) in [(*by, *given)].into_iter().chain(half.as_deref().map(|by| (by, "/h"))) {
            match (by.starts_with("--"), given) {
                (true, "") => flags.push(by.to_owned()),
                (true, _) => flags.push(format!("{by}={given}")),
                (false, _) => env.push((by, given)),
            }
        }
        let shown = |value, flags: &[String], env: &[(&str, &str)]| {
            format!("{:?}", resolved(&file(key, value), flags, env))
        };
        let [quiet_a, quiet_b] = values.map(|value| shown(value, &quiet_flags, &quiet_env));
        let [loud_a, loud_b] = values.map(|value| shown(value, &flags, &env));
        assert_ne!(quiet_a, quiet_b, "{key} changes nothing");
        assert_ne!(quiet_a, loud_a, "{by} changes nothing over {key}");
        assert_eq!(loud_a, loud_b, "{by} does not override {key}");
    }
}

#[test]
fn every_flag_of_all_commands_overrides_a_key() {
    let command = deaf();
    let flags = command.get_arguments().filter(|arg| !NO_KEY.contains(&arg.get_id().as_str()));
    let flags: Vec<String> =
        flags.map(|arg| format!("--{}", arg.get_long().expect("a long form"))).collect();
    assert!(flags.len() > 20, "{flags:?}");
    let without: Vec<&String> =
        flags.iter().filter(|flag| OVERRIDES.iter().all(|row| row.by != **flag)).collect();
    assert!(without.is_empty(), "of which key? {without:?}: tests/book/overrides.rs");
}
