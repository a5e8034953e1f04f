//! The templates for consul-template, rendered by Go's own text/template from what an agent publishes.
//!
//! Debian has no consul-template, so what is run is the language it is made of, with the functions that the templates
//! use (main.go beside this). What they read is what `core::published::projection` writes.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use consul_redis::config::file::OnNoWriter;
use consul_redis::core::published::projection::{Layout, project};
use consul_redis::core::published::record::{Record, encode};
use consul_redis::lab::tools::{self, Tool};
use consul_redis::render::context::GroupRecords;
use consul_redis::render::engine;
use serde::Deserialize;
use serde_json::json;

/// A key that is never there: what a template asks for while there is no writer.
const NEVER: &str = "no-writer";

/// The store that consul-template reads, by full key.
type Store = BTreeMap<String, String>;

/// What main.go says of one execution.
#[derive(Debug, Deserialize)]
struct Rendered {
    read: BTreeSet<String>,
    missing: BTreeSet<String>,
    text: String,
}

/// main.go, built.
struct Renderer {
    program: PathBuf,
    _dir: tempfile::TempDir,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Renderer {
    fn build() -> Self {
        let go = tools::go().unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("render");
        let mut build = command(&go);
        build.args(["build", "-o"]).arg(&program).arg("tests/consul_template/main.go");
        // Nothing but the standard library, from nowhere but the disk.
        build.envs([("GO111MODULE", "off"), ("GOPROXY", "off"), ("CGO_ENABLED", "0")]);
        build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        build.env("GOPATH", dir.path()).current_dir(root());
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { program, _dir: dir }
    }

    fn render(&self, template: &Path, store: &Store) -> Rendered {
        let mut run = Command::new(&self.program);
        run.arg(template).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.spawn().unwrap();
        let store = serde_json::to_vec(store).unwrap();
        child.stdin.take().unwrap().write_all(&store).unwrap();
        let done = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {error}", template.display());
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// Every shipped template, by its name.
    fn all(&self, store: &Store) -> BTreeMap<String, Rendered> {
        let dir = root().join("consul/templates");
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().to_owned();
        files.map(|file| (name(&file), self.render(&file, store))).collect()
    }
}

fn command(tool: &Tool) -> Command {
    let mut command = Command::new(&tool.path);
    if let Some(path) = &tool.library_path {
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}

/// A record as it stands in Consul.
fn record(generation: u64, writer: Option<&str>, replicas: &[&str]) -> Record {
    let role = |role: &str, address: &str| json!({"address": address, "role": role});
    let mut instances: Vec<_> = replicas.iter().map(|replica| role("replica", replica)).collect();
    instances.extend(writer.map(|writer| role("primary", writer)));
    instances.push(role("down", "10.0.0.99:6379"));
    let value = json!({
        "v": 1, "group": "redis", "service": "redis", "generation": generation, "nonce": "n", "by": "a",
        "writer": writer.map(|writer| json!({"address": writer, "replid": "a".repeat(40)})), "last_writer": null,
        "evidence": {"level": "quorum", "config_epoch": 1, "confirmed_epoch": 1, "votes": 3,
                     "known": 3, "sentinel": null},
        "since": "2026-11-21T00:00:00Z", "why": "a test", "instances": instances, "sentinels": [],
    });
    serde_json::from_value(value).unwrap()
}

/// Every key that an agent writes for this record.
fn store(record: &Record) -> Store {
    let layout = Layout::new("redis-ha", &record.group);
    let plain = project(record).plain.into_iter();
    let mut store: Store = plain.map(|(name, value)| (layout.root() + &name, value)).collect();
    store.insert(layout.state(), encode(record));
    store
}

/// What our own template of that name makes of it.
fn ours(name: &str, record: &Record) -> String {
    let mut picture = GroupRecords::new([record.group.clone()]);
    picture.learn(&record.group, record.clone());
    let context = picture.context(OnNoWriter::Keep).unwrap();
    engine::render(name, &read(&format!("templates/{name}")), &context).unwrap()
}

/// What matters of a config file: its lines without comments and blank ones.
fn lines(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.filter(|line| !line.trim_start().starts_with('#')).collect()
}

#[test]
fn they_read_only_what_agents_write_and_make_what_ours_make() {
    let renderer = Renderer::build();
    for (generation, writer, replicas) in [
        (8, "10.0.0.5:6379", &["10.0.0.6:6379", "10.0.0.7:6379"][..]),
        (9, "redis-1.example:6379", &[]),
        // As many as no group will ever have: a number of JSON is a floating one in Go.
        (12_345_678, "[fd00::5]:6379", &["[fd00::6]:6379"]),
    ] {
        let record = record(generation, Some(writer), replicas);
        let store = store(&record);
        let all = renderer.all(&store);
        assert_eq!(all.len(), 3, "{:?}", all.keys());
        for (name, rendered) in &all {
            assert!(rendered.missing.is_empty(), "{name} waits for {:?}", rendered.missing);
            assert_eq!(rendered.read, ["redis-ha/redis/state".to_owned()].into(), "{name}");
            assert!(!rendered.text.contains("10.0.0.99") && !rendered.text.contains("<no value>"));
        }
        let env = ours("redis.env.j2", &record);
        // Consul's own has no lists to join.
        let wanted: Vec<&str> =
            lines(&env).into_iter().filter(|l| !l.contains("_REPLICAS=")).collect();
        assert_eq!(lines(&all["redis.env.ctmpl"].text), wanted);
        for (theirs, mine) in
            [("haproxy.cfg.ctmpl", "haproxy.cfg.j2"), ("nutcracker.yml.ctmpl", "nutcracker.yml.j2")]
        {
            assert_eq!(lines(&all[theirs].text), lines(&ours(mine, &record)), "{theirs}");
        }
    }
}

#[test]
fn without_a_writer_they_wait_for_a_key_that_is_never_there() {
    let renderer = Renderer::build();
    let none = record(8, None, &["10.0.0.6:6379"]);
    let store = store(&none);
    let never = format!("redis-ha/redis/{NEVER}");
    assert!(!store.contains_key(&never), "an agent writes it");
    for (name, rendered) in renderer.all(&store) {
        assert_eq!(rendered.missing, [never.clone()].into(), "{name}: {}", rendered.text);
    }
    // Nor is anything written before Consul has answered.
    for (name, rendered) in renderer.all(&Store::new()) {
        assert!(rendered.missing.contains("redis-ha/redis/state"), "{name}");
    }
}

#[test]
fn the_proxies_accept_what_they_make() {
    let renderer = Renderer::build();
    let dir = tempfile::tempdir().unwrap();
    for (writer, replica) in
        [("10.0.0.5:6379", "10.0.0.6:6379"), ("[fd00::5]:6379", "[fd00::6]:6379")]
    {
        let all = renderer.all(&store(&record(8, Some(writer), &[replica])));
        for (tool, name, args) in [
            (tools::haproxy().unwrap(), "haproxy.cfg.ctmpl", &["-c", "-f"][..]),
            (tools::nutcracker().unwrap(), "nutcracker.yml.ctmpl", &["--test-conf", "--conf-file"]),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, &all[name].text).unwrap();
            let checked = command(&tool).args(args).arg(&path).output().unwrap();
            let said = [checked.stdout, checked.stderr].concat();
            let accepted = checked.status.success();
            assert!(accepted, "{name} for {writer}: {}", String::from_utf8_lossy(&said));
        }
    }
}
