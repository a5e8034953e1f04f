//! docs/config.md and the config file's JSON schema, from the definitions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use consul_redis::config::Config;
use consul_redis::config::file::{LogFormat, OnNoWriter};
use consul_redis::consul::endpoint::DEFAULT_ADDRESS;
use consul_redis::core::published::record::Level;
use serde_json::{Map, Value, json};

use crate::commands;
use crate::definitions::{Key, Kind, Table, tables};
use crate::overrides::{OVERRIDES, resolved};
use crate::{hold, read};

const HEAD: &str = "\
<!-- Written by `make docs` from src/config/file.rs and src/cli.rs: change those. -->

# Settings and commands

Flags override the environment, which overrides the config file (`--config FILE`, `CONSUL_REDIS_CONFIG`), which overrides the defaults. A variable that is set to nothing is not set. Nothing is required
but a way to find a Sentinel. Of a token or password given twice, a file goes before a value. `consul-redis exec` knows some [more names](deploy.md#the-names-that-you-know).

- [The config file](#the-config-file)
- [Options of every command](#options-of-every-command)
- [Commands](#commands)
- [Exit codes](#exit-codes)

## The config file

TOML; [consul-redis.toml](consul-redis.toml) is one with every key. A key that does not exist is an error that names its line. Times are written `500ms`, `10s`, `5m`, `1h 30m`. Editors that know JSON schemas
complete and check it with [schemas/config-file.schema.json](schemas/config-file.schema.json): `#:schema PATH_OR_URL` in the first line, for those that use taplo.
Passwords and tokens do not stand in it: they have files of their own, or come by the environment.
";

/// A group, and one of each of the tables that can be left out.
const LEAST: &str = "\
[[group]]
name = 'redis'
[[redis]]
address = '10.0.0.1:6379'
[[sentinel]]
address = '10.0.0.1:26379'
[[template]]
source = '/a'
destination = '/b'
[[notify]]
name = 'a'
command = ['/a']
";

/// The tables in the order of the page, each with the type that defines it. A login table stands in three places.
const ORDER: [(&str, &str); 16] = [
    ("sentinels", "SentinelsTable"),
    ("group", "GroupTable"),
    ("group.settings", "SettingsTable"),
    ("group.weights", "WeightsTable"),
    ("cluster", "ClusterTable"),
    ("login", "LoginTable"),
    ("consul", "ConsulTable"),
    ("consul.login", "ConsulLoginTable"),
    ("agent", "AgentTable"),
    ("http", "HttpTable"),
    ("dns", "DnsTable"),
    ("log", "LogTable"),
    ("redis", "RedisTable"),
    ("sentinel", "SentinelTable"),
    ("template", "TemplateTable"),
    ("notify", "NotifyTable"),
];

/// Where a login table stands.
const LOGINS: [&str; 3] = ["instances", "group.login", "sentinels.login"];

/// What the program does where nothing is said, in the words of the config file.
pub fn defaults() -> BTreeMap<&'static str, String> {
    let config = resolved(LEAST, &["--id=x".to_owned()], &[]);
    let Config { consul, prefix, log, log_format, http, dns, sources, .. } = &config;
    let [group] = &config.groups[..] else { panic!("one group") };
    let ([redis], [sentinel]) = (&config.redis[..], &config.sentinels[..]) else {
        panic!("one each")
    };
    let [template] = &config.templates[..] else { panic!("one template") };
    let [notify] = &config.notify[..] else { panic!("one target") };
    let (policy, login) = (&group.policy, &config.instance_login);
    let level = match policy.publish {
        Level::Promotion => "promotion",
        Level::Quorum => "quorum",
    };
    let on_no_writer = match template.on_no_writer {
        OnNoWriter::Keep => "keep",
        OnNoWriter::Render => "render",
    };
    let format = match log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    assert!(http.is_none() && config.handover.is_none() && policy.expect.is_none());
    let domain = dns.as_ref().map(|dns| dns.domain.clone()).unwrap_or_default();
    let ms = |ms: u64| time(Duration::from_millis(ms));
    BTreeMap::from([
        ("consul.address", DEFAULT_ADDRESS.to_owned()),
        ("consul.tls_verify", consul.tls_verify.to_string()),
        ("consul.prefix", prefix.clone()),
        ("agent.watchers", config.watchers.to_string()),
        ("dns.check", dns.is_some().to_string()),
        ("dns.domain", domain),
        ("log.level", log.clone()),
        ("log.format", format.to_owned()),
        ("login.tls", login.tls.is_some().to_string()),
        ("login.timeout", time(login.timeout)),
        ("sentinels.peers", sources.peers.to_string()),
        ("sentinels.refresh", time(sources.refresh)),
        ("group.publish", level.to_owned()),
        ("group.confirm_within", ms(policy.confirm_within_ms)),
        ("group.replica_lag_max", ms(policy.replica_lag_max_ms)),
        ("group.forget_after", ms(policy.forget_after_ms)),
        ("group.forget_sentinels_after", ms(policy.forget_sentinels_after_ms)),
        ("group.forget_ghosts", policy.forget_ghosts.to_string()),
        // Nothing is left alone by itself.
        ("group.manage", policy.fence.to_string()),
        ("group.hold_writes", policy.hold_writes.to_string()),
        ("group.hold_when_cut_off", policy.hold_when_cut_off.to_string()),
        ("group.fence", policy.fence.to_string()),
        ("group.replace_emptied", policy.replace_emptied.to_string()),
        ("group.fast_failover", policy.fast_failover.as_str().to_owned()),
        ("group.announce", policy.announce.as_str().to_owned()),
        ("group.bootstrap", policy.bootstrap.to_string()),
        ("group.bootstrap_wait", ms(policy.bootstrap_wait_ms)),
        ("group.tell_sentinels", policy.tell_sentinels.to_string()),
        ("group.relay", policy.relay.to_string()),
        ("redis.check_interval", time(redis.check_interval)),
        ("sentinel.check_interval", time(sentinel.check_interval)),
        ("template.command_timeout", time(template.command_timeout)),
        ("template.on_no_writer", on_no_writer.to_owned()),
        ("notify.timeout", time(notify.timeout)),
        ("notify.tries", notify.tries.to_string()),
        ("notify.debounce", time(notify.debounce)),
    ])
}

/// `500ms`, `10s`, `5m` or `1h`.
fn time(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| ms.is_multiple_of(*unit)).expect("a unit");
    format!("{}{name}", ms / unit)
}

fn page() -> String {
    let tables = tables();
    let mut left = defaults();
    let mut page = HEAD.to_owned();
    for (name, definition) in ORDER {
        let table = tables.get(definition).unwrap_or_else(|| panic!("no {definition}"));
        let heading = match (name, many(&tables, name)) {
            ("login", _) => "A login table".to_owned(),
            (_, true) => format!("`[[{name}]]`"),
            (_, false) => format!("`[{name}]`"),
        };
        // The heading has it.
        let intro = table.intro.split_once(": ").map_or(table.intro.as_str(), |(_, rest)| rest);
        write!(page, "\n### {heading}\n\n{}\n\n", capital(intro)).expect("text");
        page.push_str(
            "| key | may be | default | what it means | overridden by |\n|---|---|---|---|---|\n",
        );
        for key in &table.keys {
            let default = default_of(key, left.remove(&*format!("{name}.{}", key.name)));
            let by = overridden_by(name, &key.name);
            let (kind, meaning) = (key.kind.shown(), &key.meaning);
            writeln!(page, "| `{}` | {kind} | {default} | {meaning} | {by} |", key.name)
                .expect("text");
        }
    }
    assert!(left.is_empty(), "defaults of keys that do not exist: {left:?}");
    page.push_str(&commands::chapter());
    page
}

/// The file has any number of these.
fn many(tables: &BTreeMap<String, Table>, name: &str) -> bool {
    let file = tables.get("File").expect("the file");
    file.keys.iter().any(|key| key.name == name && matches!(key.kind, Kind::List(_)))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// From the code where the code has one; a comment has it only in words.
fn default_of(key: &Key, literal: Option<String>) -> String {
    match (literal, &key.default, key.required) {
        (Some(literal), None, false) => format!("`{literal}`"),
        (None, Some(words), false) => words.clone(),
        (None, None, true) => "required".to_owned(),
        (None, None, false) => String::new(),
        (literal, words, required) => {
            panic!("{}: {literal:?}, or {words:?}, or required ({required})?", key.name)
        }
    }
}

/// Every flag and variable that goes before a key; of a login table by the place where it stands.
fn overridden_by(table: &str, key: &str) -> String {
    let of = |table: &str| -> Vec<String> {
        let rows = OVERRIDES.iter().filter(|row| row.key == format!("{table}.{key}"));
        rows.flat_map(|row| commands::names(row.by)).map(|name| format!("`{name}`")).collect()
    };
    if table != "login" {
        return of(table).join(", ");
    }
    let places = LOGINS.iter().map(|place| (place, of(place)));
    let said = places.filter(|(_, names)| !names.is_empty());
    said.map(|(place, names)| format!("`[{place}]`: {}", names.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn config_md_is_what_the_definitions_say() {
    hold("docs/config.md", &page());
}

/// Every key has a text: what it means, and what is done without it.
#[test]
fn every_key_says_what_it_means() {
    let tables = tables();
    let shown: BTreeSet<&str> = ORDER.iter().map(|(_, definition)| *definition).collect();
    let defined: BTreeSet<&str> =
        tables.keys().map(String::as_str).filter(|n| *n != "File").collect();
    assert_eq!(shown, defined);
    for key in tables.values().flat_map(|table| &table.keys) {
        assert!(key.meaning.ends_with(['.', '`', ')']) || key.default.is_some(), "{}", key.name);
        assert!(key.meaning.len() > 5, "{}: {}", key.name, key.meaning);
    }
}

/// A variable that the resolver reads, and that is no flag's, is in the page.
#[test]
fn every_variable_is_in_config_md() {
    let parts = ["consul", "groups", "http", "logins"];
    let page = page();
    let source: String =
        parts.iter().map(|part| read(&format!("src/config/resolver/{part}.rs"))).collect();
    let words = source.split('"').filter(|word| word.starts_with("CONSUL_"));
    let variables: BTreeSet<&str> =
        words.filter(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).collect();
    assert!(variables.len() > 8, "{variables:?}");
    let missing: Vec<&&str> = variables
        .iter()
        .filter(|name| !page.contains(&format!("`{name}`")) && !page.contains(&format!("`{name}=")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn schema() -> Value {
    let tables = tables();
    let object = |table: &Table| {
        let properties: Map<String, Value> = table
            .keys
            .iter()
            .map(|key| {
                let mut schema = key.kind.schema();
                if let (Value::Object(parts), false) = (&mut schema, key.meaning.is_empty()) {
                    parts.insert("description".to_owned(), json!(key.meaning));
                }
                (key.name.clone(), schema)
            })
            .collect();
        let required: Vec<&String> =
            table.keys.iter().filter(|key| key.required).map(|key| &key.name).collect();
        let mut object =
            json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        object
    };
    let mut schema = object(tables.get("File").expect("the file"));
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("The config file of consul-redis");
    let defs = tables.iter().filter(|(name, _)| *name != "File");
    schema["$defs"] = defs.map(|(name, table)| (name.clone(), object(table))).collect();
    schema
}

#[test]
fn the_schema_is_what_the_definitions_say() {
    let text = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    hold("docs/schemas/config-file.schema.json", &text);
}

#[test]
fn the_schema_takes_the_example_and_no_key_that_does_not_exist() {
    let schema = jsonschema::validator_for(&schema()).expect("a schema");
    let check = |toml: &str| {
        let value: Value = toml::from_str(toml).expect("TOML");
        schema.iter_errors(&value).map(|error| error.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(check(&read("docs/consul-redis.toml")), Vec::<String>::new());
    assert_eq!(check(LEAST), Vec::<String>::new());
    for wrong in [
        "no_such_table = 1",
        "[consul]\nno_such_key = 1",
        "[[group]]\nservice = 'a'",
        "[[cluster]]\nseeds = ['10.0.0.1:6379']",
        "[[group]]\nname = 'redis'\npublish = 'sometimes'",
        "[[group]]\nname = 'redis'\n[group.settings]\nquorum = 'most'",
        "[instances]\npassword = 'hunter2'",
    ] {
        assert_ne!(check(wrong), Vec::<String>::new(), "{wrong}");
    }
}
