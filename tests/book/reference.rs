//! What docs/reference.md says of names, keys and exit codes, from their definitions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::CommandFactory as _;
use consul_redis::cli::Cli;
use consul_redis::core::fleet::FleetLayout;
use consul_redis::core::identity::address::{Address, GroupName, ServiceName};
use consul_redis::core::known::observed::{ReplId, SentinelId};
use consul_redis::core::published::projection::Layout;
use consul_redis::core::published::sentinel_rows;
use syn::{ImplItem, Item, Type, Visibility};

use crate::definitions::comment;
use crate::{hold, read, written};

const PAGE: &str = "docs/reference.md";
/// The keys besides those of [`Layout`]: `projection.rs` writes them together.
const PLAIN: [(&str, &str); 3] = [
    ("primary", "`host:port` of the writer; empty while there is none, never missing"),
    ("primary/host`, `redis-ha/redis/primary/port", "its parts"),
    ("replicas", "one `host:port` a line"),
];

/// What the comments of a type's public methods say of the method's value in a paragraph that begins with `verb`, in
/// the order
/// of the source; `None` where none does.
fn said(source: &str, of: &str, verb: &str) -> Vec<(String, Option<String>)> {
    let file = syn::parse_file(&read(source)).expect("the source parses");
    let methods = file.items.into_iter().filter_map(|item| match item {
        Item::Impl(found) if found.trait_.is_none() => match &*found.self_ty {
            Type::Path(path) if path.path.is_ident(of) => Some(found.items),
            _ => None,
        },
        _ => None,
    });
    let public = methods.flatten().filter_map(|item| match item {
        ImplItem::Fn(method) if matches!(method.vis, Visibility::Public(_)) => Some(method),
        _ => None,
    });
    let told = public.map(|method| {
        let text = comment(&method.attrs);
        let value = text.split_once(&format!(" {verb} ")).map(|(_, value)| value.to_owned());
        (method.sig.ident.to_string(), value)
    });
    told.collect()
}

/// A row for each method that a value is given for; those that have words and no value, or a value and no words, are
/// missing.
fn rows(values: &[(&str, String)], said: &[(String, Option<String>)]) -> String {
    let values: BTreeMap<&str, &String> =
        values.iter().map(|(name, value)| (*name, value)).collect();
    let worded = said.iter().filter_map(|(name, words)| Some((name, words.as_ref()?)));
    let worded: Vec<_> = worded.collect();
    let names: Vec<&str> = worded.iter().map(|(name, _)| name.as_str()).collect();
    let mut known: Vec<&str> = values.keys().copied().collect();
    known.sort_by_key(|name| names.iter().position(|other| other == name));
    assert_eq!(known, names, "each has words, and each is known here");
    let row = |(name, words): &(&String, &String)| {
        format!("| `{}` | {} |\n", values[name.as_str()], words.trim_end_matches('.'))
    };
    worded.iter().map(row).collect()
}

fn names() -> String {
    let service: ServiceName = "redis".parse().expect("a name");
    let values = [
        ("as_str", service.as_str().to_owned()),
        ("primary", service.primary()),
        ("replica", service.replica()),
        ("server", service.server()),
    ];
    let values = values.map(|(method, name)| (method, format!("{name}.service.consul")));
    let said = said("core/src/identity/address.rs", "ServiceName", "Answers");
    let mut text = "| name | answers |\n|---|---|\n".to_owned() + &rows(&values, &said);
    let sentinels = sentinel_rows::SERVICE;
    writeln!(
        text,
        "| `{sentinels}.service.consul` | the Sentinels; tags are the groups that each reports |"
    )
    .expect("text");
    text
}

fn keys() -> String {
    let group: GroupName = "redis".parse().expect("a name");
    let layout = Layout::new("redis-ha", &group);
    let cluster = Layout::of_cluster("redis-ha", &"orders".parse().expect("a name"));
    let address: Address = "127.0.0.1:6379".parse().expect("an address");
    let shown = |key: String, of: &str, word: &str| key.replace(of, word);
    let values = [
        ("state", layout.state()),
        ("history", layout.history()),
        ("config", layout.config()),
        ("maintenance", layout.maintenance()),
        ("pause", layout.pause()),
        ("notices", layout.notices()),
        ("agent", layout.agent("<id>")),
        ("continued", layout.continued(&ReplId("<id>".to_owned()))),
        ("seen", shown(layout.seen(&address), "127.0.0.1:6379", "<address>")),
        ("moving", layout.moving()),
        ("refused", layout.refused("<agent>")),
        ("login_given", layout.login_given(&SentinelId("<Sentinel>".to_owned()))),
        ("seeds", cluster.seeds()),
        ("slots", cluster.slots()),
        ("announced", shown(cluster.announced(&address), "127.0.0.1:6379", "<address>")),
        ("shard_primary", cluster.shard_primary("<N>")),
        ("shard_replicas", cluster.shard_replicas("<N>")),
    ];
    let fleet = FleetLayout { prefix: "redis-ha".to_owned() };
    let fleet = [("agent", fleet.agent("<id>")), ("list", fleet.list("<id>"))];
    let words = said("core/src/fleet.rs", "FleetLayout", "Holds");
    let shared = rows(&fleet, &words);
    let said = said("core/src/published/store.rs", "Layout", "Holds");
    let plain = PLAIN.map(|(name, words)| format!("| `{}{name}` | {words} |\n", layout.root()));
    ["| key | value |\n|---|---|\n", &plain.concat(), &rows(&values, &said), &shared].concat()
}

fn exit_codes() -> String {
    let codes = Cli::command().get_after_help().expect("exit codes").to_string();
    let mut text = "| exit code | meaning |\n|---:|---|\n".to_owned();
    for line in codes.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').expect("a code and its meaning");
        let meaning =
            ["status", "doctor", "wait"].iter().fold(meaning.trim().to_owned(), |text, command| {
                text.replace(&format!("{command}:"), &format!("`{command}`:"))
            });
        writeln!(text, "| {code} | {meaning} |").expect("text");
    }
    text
}

#[test]
fn names_keys_and_exit_codes_are_those_of_the_program() {
    let parts = [
        ("core/src/identity/address.rs", names()),
        ("core/src/published/store.rs", keys()),
        ("src/cli.rs", exit_codes()),
    ];
    let mut page = read(PAGE);
    for (source, wanted) in parts {
        page = written(&page, PAGE, source, &wanted);
    }
    hold(PAGE, &page);
}

/// The keys of [`PLAIN`] are those that agents write.
#[test]
fn the_plain_keys_are_all_there() {
    let source = read("core/src/published/projection.rs");
    let (_, body) = source.split_once("fn plain_keys(").expect("the function");
    let body = body.split("\n}\n").next().expect("its body");
    let quoted = body.split("(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let written: Vec<&str> = quoted.filter(|word| !word.contains('{')).collect();
    let known = PLAIN.iter().flat_map(|(names, _)| names.split("`, `redis-ha/redis/"));
    let known: Vec<&str> = known.collect();
    assert_eq!(written, known);
}
