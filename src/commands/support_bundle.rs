//! `consul-redis support-bundle FILE.tar.gz`: what a bug report needs, in one file, without secrets.
//!
//! What is collected holds no secret by itself. Still, every secret that the config and the environment name is looked
//! for in every text and taken out: a log of another program may have it.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::doctor;
use super::status;
use super::terminal;
use crate::cli::{Common, SupportBundleArgs};
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::core::cluster::history::changes_of;
use crate::core::cluster::record::StoredCluster;
use crate::core::published::projection::Layout;
use crate::exit::{Exit, Failure};
use crate::secret::{SecretSource, VARIABLES};

/// The end of each log that goes into the file, in bytes.
const LOG_LEN_MAX: u64 = 2 * 1024 * 1024;
/// Lines asked of the journal.
const JOURNAL_LINES: &str = "5000";
/// What stands in the place of a secret.
const TAKEN_OUT: &str = "(secret)";
/// A secret shorter than this is only taken out where it is a word of its own: each `a` of a text is no secret.
const SECRET_LEN_SURE: usize = 6;

/// Writes the file.
///
/// # Errors
/// A [`Failure`] when the file exists or cannot be written. What cannot be collected is said in the file.
pub async fn run(config: Config, common: &Common, args: &SupportBundleArgs) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot write {}: {error}", args.file.display()))
    };
    // For its owner alone: addresses and names are no secrets, and not for everyone.
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&args.file).map_err(cannot)?;
    let secrets = secrets(&config);
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let mut names = Vec::new();
    for (name, text) in collect(config, common, args).await {
        let text = without(&text, &secrets);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Clock::start().now().wall.as_second()).unwrap_or(0));
        let path = format!("consul-redis-support/{name}");
        archive.append_data(&mut header, path, text.as_bytes()).map_err(cannot)?;
        names.push(format!("{name} ({} bytes)", text.len()));
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|file| file.sync_all())
        .map_err(cannot)?;
    println!("{}: {}", args.file.display(), names.join(", "));
    println!("no password and no token that the config names is in it; read it before you send it");
    Ok(())
}

/// All texts, each with its name.
async fn collect(
    config: Config,
    common: &Common,
    args: &SupportBundleArgs,
) -> Vec<(String, String)> {
    let mut texts = vec![("about.json".to_owned(), about(&config))];
    texts.push(("config.json".to_owned(), config_text(common.config.as_deref())));
    texts.push(("status.json".to_owned(), told(status::report(config.clone()).await)));
    texts.push(("doctor.json".to_owned(), told(doctor::report(&config, None).await)));
    texts.push(("history.json".to_owned(), history(&config).await));
    texts.push(("clusters.json".to_owned(), cluster_records(&config).await));
    if args.logs.is_empty() {
        texts.push(("journal.log".to_owned(), journal().await));
    }
    for (at, log) in args.logs.iter().enumerate() {
        let name = log.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let text = end_of(log).unwrap_or_else(|error| format!("cannot read it: {error}\n"));
        texts.push((format!("log-{at}-{name}"), text));
    }
    texts
}

/// The program, the system, and which of our variables are set.
fn about(config: &Config) -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = [std::env::consts::OS, release.trim(), std::env::consts::ARCH].join(" ");
    let ours = |name: &String| name.starts_with("CONSUL_") || name.starts_with("REDIS_");
    let set: Vec<String> =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours).collect();
    let groups: Vec<String> =
        config.groups.iter().map(|group| group.policy.group.to_string()).collect();
    let clusters: Vec<String> =
        config.clusters.iter().map(|cluster| cluster.policy.name.to_string()).collect();
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "system": system,
        "written": Clock::start().now().wall.to_string(),
        "agent": config.agent,
        "groups": groups,
        "clusters": clusters,
        "variables_that_are_set": set,
    });
    pretty(&about)
}

/// The config file as it was understood: without comments, and of commands only the program.
fn config_text(path: Option<&Path>) -> String {
    let Some(path) = path else { return pretty(&json!({ "file": null })) };
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let parsed = read.and_then(|text| {
        // The parser's own words would show the line.
        toml::from_str::<Value>(&text).map_err(|_| "it is not TOML".to_owned())
    });
    match parsed {
        Ok(mut value) => {
            hide(&mut value);
            pretty(&json!({ "file": path.display().to_string(), "settings": value }))
        }
        Err(error) => pretty(&json!({ "file": path.display().to_string(), "error": error })),
    }
}

/// Takes out what may hold a secret that is not known to be one: arguments of commands, and users in addresses.
fn hide(value: &mut Value) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                match value {
                    Value::Array(words) if ["command", "check"].contains(&key.as_str()) => {
                        words.truncate(1);
                        words.push(json!("(arguments left out)"));
                    }
                    value => hide(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, host)) = rest.rsplit_once('@')
            {
                *text = format!("{scheme}://{TAKEN_OUT}@{host}");
            }
        }
        _ => {}
    }
}

/// What a command would show, and why not all of it.
fn told(report: Result<(impl serde::Serialize, Option<ConsulError>), Failure>) -> String {
    let shown = report.and_then(|(all, away)| {
        let all = terminal::json(&all)?;
        Ok(match away {
            Some(error) => format!("{all}\n{error}\n"),
            None => format!("{all}\n"),
        })
    });
    shown.unwrap_or_else(|failure| format!("{failure}\n"))
}

/// The last changes of every group that Consul knows.
async fn history(config: &Config) -> String {
    let read = async {
        let (consul, clock) = (Consul::new(&config.consul)?, Clock::start());
        let mut all = serde_json::Map::new();
        for group in consul.groups(&config.prefix).await? {
            let layout = Layout::new(&config.prefix, &group);
            let store = consul.group(&layout, ReadMode::Consistent, &clock).await?.value;
            let history = serde_json::to_value(&store.history).unwrap_or_default();
            all.insert(group.to_string(), history);
        }
        Ok::<_, Failure>(pretty(&Value::Object(all)))
    };
    read.await.unwrap_or_else(|failure| format!("{failure}\n"))
}

/// What Consul holds of every cluster: its record, and its last changes.
async fn cluster_records(config: &Config) -> String {
    let read = async {
        let (consul, clock) = (Consul::new(&config.consul)?, Clock::start());
        let mut names = consul.clusters(&config.prefix).await?;
        names.extend(config.clusters.iter().map(|cluster| cluster.policy.name.clone()));
        let mut all = serde_json::Map::new();
        for name in names {
            let store = consul.cluster(&Layout::of_cluster(&config.prefix, &name), &clock).await?;
            let state = match &store.state {
                StoredCluster::Known(record) => serde_json::to_value(record).unwrap_or_default(),
                StoredCluster::Absent => Value::Null,
                StoredCluster::Unreadable(why) => json!({ "unreadable": why }),
            };
            let agents: Vec<&str> = store.agents().collect();
            let history = changes_of(&store);
            all.insert(
                name.to_string(),
                json!({ "state": state, "history": history, "agents": agents }),
            );
        }
        Ok::<_, Failure>(pretty(&Value::Object(all)))
    };
    read.await.unwrap_or_else(|failure| format!("{failure}\n"))
}

/// What the system's journal has of the service.
async fn journal() -> String {
    let mut command = tokio::process::Command::new("journalctl");
    command.args(["--unit=consul-redis", "--no-pager", "--lines", JOURNAL_LINES]);
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    match command.output().await {
        Ok(output) => {
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        }
        Err(error) => format!("journalctl: {error}; name a log by --log-file\n"),
    }
}

/// The end of a log.
fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_LEN_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Every secret that can be read now, and how JSON writes it. A user and a password with a colon between them are two.
fn secrets(config: &Config) -> Vec<String> {
    let logins = config.groups.iter().map(|group| &group.login.password);
    let given = config.groups.iter().map(|group| &group.sentinel_auth.password);
    let http = config.http.iter().map(|http| &http.token);
    let own = [
        &config.consul.token,
        &config.consul.http_auth,
        &config.sentinel_login.password,
        &config.instance_login.password,
    ];
    let login = config.consul.login.as_ref();
    let bearer = login.map(|login| &login.settings.bearer);
    let sources: Vec<&SecretSource> =
        own.into_iter().chain(bearer).chain(logins).chain(given).chain(http).collect();
    let read = sources.into_iter().filter_map(|source| source.read().ok().flatten());
    let read = read.map(|secret| secret.expose_secret().to_owned());
    let held = login.and_then(|login| login.picture().held);
    let held = held.map(|token| token.secret.expose_secret().to_owned());
    let variables = config.secret_variables.iter().filter_map(|name| std::env::var(name).ok());
    let whole: Vec<String> = read.chain(held).chain(variables).collect();
    let parts = whole.iter().filter_map(|secret| secret.split_once(':'));
    let parts: Vec<String> = parts.map(|(_, password)| password.to_owned()).collect();
    let mut all: Vec<String> = whole.into_iter().chain(parts).filter(|s| !s.is_empty()).collect();
    let escaped = all.iter().filter_map(|secret| serde_json::to_string(secret).ok());
    let escaped: Vec<String> = escaped.map(|text| text.trim_matches('"').to_owned()).collect();
    all.extend(escaped);
    // The longest first: one may be a part of another.
    all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    all.dedup();
    all
}

/// The text without any of them.
fn without(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if secret.len() >= SECRET_LEN_SURE {
            text = text.replace(secret, TAKEN_OUT);
        } else {
            text = without_word(&text, secret);
        }
    }
    text
}

/// The text without this word, where nothing of a word is beside it.
fn without_word(text: &str, word: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        let (before, found) = rest.split_at(at);
        let after = found.get(word.len()..).unwrap_or_default();
        let part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let joined = part(before.chars().next_back().or(kept.chars().next_back()));
        kept.push_str(before);
        kept.push_str(if joined || part(after.chars().next()) { word } else { TAKEN_OUT });
        rest = after;
    }
    kept + rest
}

fn pretty(value: &Value) -> String {
    terminal::json(value).map_or_else(|failure| failure.to_string(), |text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_wherever_they_stand() {
        let secrets = ["long-\"secret".to_owned(), "long-\\\"secret".to_owned(), "abc".to_owned()];
        let text = "x long-\"secret y \"long-\\\"secret\" abc abcd dabc =abc";
        let wanted = "x (secret) y \"(secret)\" (secret) abcd dabc =(secret)";
        assert_eq!(without(text, &secrets), wanted);
    }

    #[test]
    fn of_a_config_what_may_hold_a_secret_is_left_out() {
        let mut value = json!({
            "consul": { "address": "https://user:hunter2@consul:8501" },
            "template": [{ "source": "a", "command": ["curl", "-u", "me:hunter2"] }],
        });
        hide(&mut value);
        assert!(!value.to_string().contains("hunter2"), "{value}");
        assert_eq!(value["template"][0]["command"][0], "curl");
        assert_eq!(value["consul"]["address"], "https://(secret)@consul:8501");
    }
}
