//! What can be wrong with settings, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

/// From which likeness on a key is taken for another one, mistyped: 1 is the same, 0 nothing alike.
const LIKENESS_MIN: f64 = 0.85;

/// Settings that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The path of the config file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file is not what it should be: TOML's own words, with line, column and the line itself.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file contradicts itself.
    #[error("{}:{line}: {what}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The line of the setting, counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
}

impl ConfigError {
    /// What to do about it, where there is more to say.
    pub fn hint(&self) -> Option<String> {
        let text = self.to_string();
        if let Some(meant) = meant(&text) {
            return Some(format!("did you mean `{meant}`? docs/config.md has every key"));
        }
        self.usual_hint(&text).map(str::to_owned)
    }

    fn usual_hint(&self, text: &str) -> Option<&'static str> {
        let has = |needle: &str| text.contains(needle);
        let hints = [
            (
                "unknown field `password",
                "secrets do not go into the config: write password_file or token_file, or set the environment variable",
            ),
            (
                "unknown field `token",
                "secrets do not go into the config: write password_file or token_file, or set the environment variable",
            ),
            (
                "unknown field",
                "docs/config.md has every key, docs/consul-redis.toml an example of each",
            ),
            (
                "no Sentinels",
                "for example: consul-redis agent --sentinels 10.0.0.1:26379,10.0.0.2:26379,10.0.0.3:26379",
            ),
            (
                "invalid type: map, expected a sequence",
                "there may be several: write it as [[group]], with two brackets",
            ),
            ("invalid socket address", "write ip:port, or [v6]:port"),
            (
                "open to others",
                "give [http] token_file or client_ca (--listen-token-file, --listen-client-ca), or listen on 127.0.0.1",
            ),
            ("publish as", "give one of them another service: --group NAME=SERVICE"),
            ("both be published as", "give the cluster another service: service = \"...\""),
            (
                "cannot find its nodes under",
                "register the nodes under a service of their own, such as `NAME-nodes`, and write consul_service = \"NAME-nodes\"",
            ),
            (
                "can be called",
                "have Sentinel know it by another name: SENTINEL REMOVE, SENTINEL MONITOR",
            ),
            ("which is not set", "set the variable, or write password_file"),
            (
                "a token (",
                "keep one: take [consul.login] and its flags away; or unset CONSUL_HTTP_TOKEN and CONSUL_HTTP_TOKEN_FILE, and take \
                 token_file away. In a Nomad job a consul block in the task sets CONSUL_HTTP_TOKEN",
            ),
            (
                "a login to Consul needs",
                "give both: [consul.login], or --login-method and --bearer-token-file; docs/how-to/log-in-by-identity.md",
            ),
            ("exclude each other", "keep the one that holds the password"),
            ("only of use together", "give both, or neither"),
            ("but certificates are given", "write tls = true, or take the certificates away"),
            ("is there twice", "one [[group]] for each name that Sentinel knows"),
            ("is rendered twice", "give one of the two another destination"),
            ("must say its group", "write group = \"NAME\" below it"),
            (
                "which one this Redis belongs to",
                "for example: consul-redis exec --group redis -- redis-server",
            ),
            ("nothing to render", "docs/consumers.md shows one; name the file with --config"),
        ];
        if let Some((_, hint)) = hints.into_iter().find(|(needle, _)| has(needle)) {
            return Some(hint);
        }
        if matches!(self, Self::Unreadable { .. }) {
            return Some(
                "name a file that this user can read by --config or CONSUL_REDIS_CONFIG; /dev/null is a config without settings",
            );
        }
        None
    }
}

/// The key that is most like an unknown one, if any is much like it. Those of secrets have a hint of their own.
fn meant(text: &str) -> Option<&str> {
    let mut quoted = text.split_once("unknown field `")?.1.split('`').step_by(2);
    let unknown = quoted.next()?;
    if unknown.starts_with("password") || unknown.starts_with("token") {
        return None;
    }
    let likeness = |known: &str| strsim::jaro_winkler(unknown, known);
    let best = quoted.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS_MIN).then_some(best)
}
