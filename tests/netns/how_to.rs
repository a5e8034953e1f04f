//! The pages of docs/how-to and docs/tutorials: each command is run as it stands there, page by page, on three hosts with a Redis, a
//! Sentinel, an agent and a Consul server each. What cannot be run is marked in the page, above its block:
//!
//! - `<!-- not run: REASON -->`: the block below is not run;
//! - `<!-- test: stop redis -->`: the test stops the Redis whose address is in /tmp/gone;
//! - `<!-- test: stop agents -->`: the test stops all agents.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consul_redis::lab::tools;

use crate::hosts::{Hosts, HostsSpec};

/// The pages, in an order in which each finds what it needs: the last ones remove a Redis, and everything.
const PAGES: [&str; 13] = [
    "tutorials/first-group.md",
    "tutorials/remote-mode.md",
    "tutorials/node-mode.md",
    "tutorials/containers.md",
    "how-to/write-a-config.md",
    "how-to/find-out-what-is-wrong.md",
    "how-to/use-it-in-scripts.md",
    "how-to/move-the-primary.md",
    "how-to/take-an-instance-out.md",
    "how-to/set-sentinel-settings.md",
    "how-to/report-a-bug.md",
    "how-to/remove-a-server.md",
    "how-to/uninstall.md",
];
/// Sentinel's `down-after-milliseconds`, as docs/how-to/set-sentinel-settings.md sets it.
const DOWN_AFTER_MS: u64 = 2_000;

/// What of /etc the programs of a page need, and every user may read.
const ETC: [&str; 7] =
    ["alternatives", "group", "hosts", "ld.so.cache", "nsswitch.conf", "passwd", "resolv.conf"];

/// What a page has the test do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A block of commands.
    Run(String),
    /// What stands in `<!-- test: ... -->`.
    Do(String),
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// What is run of a page, in its order, and how many blocks are marked as not run.
fn steps(page: &str) -> (Vec<Step>, usize) {
    let text = std::fs::read_to_string(docs().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
    let (mut steps, mut left_out) = (Vec::new(), 0);
    let (mut block, mut not_run): (Option<(usize, String)>, bool) = (None, false);
    for line in text.lines() {
        let bare = line.trim_start();
        match &mut block {
            Some((_, text)) if bare == "```" => {
                let text = std::mem::take(text);
                block = None;
                if std::mem::take(&mut not_run) {
                    left_out += 1;
                } else {
                    steps.push(Step::Run(text));
                }
            }
            Some((indent, text)) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            None if bare == "```sh" => block = Some((line.len() - bare.len(), String::new())),
            None => {
                let mark = |what: &str| bare.strip_prefix(what)?.strip_suffix(" -->");
                if let Some(reason) = mark("<!-- not run: ") {
                    assert!(reason.len() > 10, "{page}: a reason: {reason}");
                    not_run = true;
                }
                steps.extend(mark("<!-- test: ").map(|what| Step::Do(what.to_owned())));
            }
        }
    }
    assert!(!not_run && block.is_none(), "{page}: a mark or a block without an end");
    (steps, left_out)
}

/// A shell on the first host, with the tools on its PATH, a /tmp of its own, and an /etc with our config file in it.
struct Shell {
    dir: PathBuf,
    net: PathBuf,
    path: String,
}

impl Shell {
    fn new(hosts: &Hosts, dir: &Path) -> Self {
        // Copies of what programs look for, so that the system's own stays as it is.
        let etc = dir.join("etc");
        std::fs::create_dir_all(&etc).expect("a directory");
        for name in ETC.iter().map(|name| Path::new("/etc").join(name)).filter(|path| path.exists())
        {
            let copied = Command::new("cp").arg("-a").arg(&name).arg(&etc).status().expect("cp");
            assert!(copied.success(), "{}", name.display());
        }
        std::fs::create_dir_all(dir.join("tmp")).expect("a directory");
        let ours = etc.join("consul-redis");
        std::fs::create_dir_all(&ours).expect("a directory");
        let config = std::fs::read_to_string(hosts.config(0)).expect("the agent's config");
        let config = format!("[consul]\naddress = \"10.0.0.1:8500\"\n\n{config}");
        std::fs::write(ours.join("consul-redis.toml"), config).expect("the config file");
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        let program = Path::new(env!("CARGO_BIN_EXE_consul-redis"));
        std::os::unix::fs::symlink(program, bin.join("consul-redis")).expect("a link");
        for (name, tool) in [
            ("consul", tools::consul().expect("Consul")),
            ("redis-cli", tools::redis_cli().expect("redis-cli")),
        ] {
            let libraries = tool.library_path.unwrap_or_default();
            let (libraries, program) = (libraries.display(), tool.path.display());
            let script = format!("#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program} \"$@\"\n");
            let path = bin.join(name);
            std::fs::write(&path, script).expect("a script");
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a script");
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let dir = dir.to_owned();
        Self { dir, net: hosts.all[0].namespace.path(), path }
    }

    /// Runs a block; it must succeed, each of its commands.
    fn run(&self, page: &str, block: &str) -> Output {
        let dir = self.dir.display();
        let mounts = format!("mount --bind {dir}/etc /etc; mount --bind {dir}/tmp /tmp");
        let script = format!("{mounts}\nset -eux\n{block}");
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.net.display()))
            .args(["unshare", "--mount", "sh", "-c", &script])
            .env_clear()
            .env("PATH", &self.path)
            .env("CONSUL_HTTP_ADDR", "10.0.0.1:8500")
            .output()
            .expect("nsenter");
        let text = [output.stdout.clone(), output.stderr.clone()].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{page}: {}\n{block}\n{text}", output.status);
        output
    }
}

#[tokio::test]
async fn every_command_of_the_how_to_pages_works() {
    let spec = HostsSpec { down_after_ms: DOWN_AFTER_MS, hold_when_cut_off: true };
    let mut hosts = Hosts::start(spec).await;
    // Not below /tmp, which the shell has another one in the place of.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let shell = Shell::new(&hosts, dir.path());
    let mut count = 0;
    for page in PAGES {
        for step in steps(page).0 {
            match step {
                Step::Run(block) => {
                    count += 1;
                    shell.run(page, &block);
                }
                Step::Do(what) => do_in_test(&mut hosts, dir.path(), page, &what),
            }
        }
        eprintln!("{page}: done");
    }
    assert!(count > 25, "only {count} blocks were run");
    let left = hosts.all[0].consul.key("redis-ha/redis/state").await.expect("Consul");
    assert_eq!(left, None, "uninstall.md leaves nothing");
}

fn do_in_test(hosts: &mut Hosts, dir: &Path, page: &str, what: &str) {
    match what {
        "stop redis" => {
            let gone = std::fs::read_to_string(dir.join("tmp/gone")).expect("the address");
            let at = hosts.of(&gone.trim().parse().expect("an address"));
            hosts.all[at].redis.kill();
        }
        "stop agents" => hosts.all.iter_mut().for_each(|host| host.kill_agent()),
        _ => panic!("{page}: nothing is known of `{what}`"),
    }
}

/// No page is forgotten, and what is not run is the smaller part.
#[test]
fn every_how_to_page_and_tutorial_is_run() {
    let mut found = Vec::new();
    for dir in ["how-to", "tutorials"] {
        for entry in std::fs::read_dir(docs().join(dir)).expect(dir) {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            found.push(format!("{dir}/{name}"));
        }
    }
    found.sort();
    let mut pages = PAGES.map(str::to_owned).to_vec();
    pages.sort();
    assert_eq!(found, pages);
    let (run, left_out) = PAGES.iter().fold((0, 0), |(run, left_out), page| {
        let (steps, marked) = steps(page);
        (run + steps.len(), left_out + marked)
    });
    assert!(run > 2 * left_out, "{run} are run, {left_out} are not");
}
