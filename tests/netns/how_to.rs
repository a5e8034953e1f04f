//! The pages of docs/how-to and docs/tutorials: each command is run as it stands there, page by page, on three hosts
//! with a Redis, a Sentinel, an agent and a Consul server each. What cannot be run is marked in the page, above its
//! block:
//!
//! - `<!-- not run: REASON -->`: the block below is not run;
//! - `<!-- test: WHAT -->`: the test does what no command there can do ([`do_in_test`]). `config` is the `toml` block
//!   below, which becomes a part of every agent's config.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use consul_redis::lab::wait::until;
use consul_redis::lab::{LabError, tools};

use crate::hosts::{FIRST_PASSWORD, Hosts, HostsSpec, MANAGEMENT_TOKEN};

/// The pages, in an order in which each finds what it needs: the last ones remove a Redis, and everything.
const PAGES: [&str; 24] = [
    "tutorials/first-group.md",
    "tutorials/remote-mode.md",
    "tutorials/node-mode.md",
    "tutorials/containers.md",
    "how-to/write-a-config.md",
    "how-to/install.md",
    "how-to/find-out-what-is-wrong.md",
    "how-to/use-it-in-scripts.md",
    "how-to/move-the-primary.md",
    "how-to/take-an-instance-out.md",
    "how-to/pause.md",
    "how-to/set-sentinel-settings.md",
    "how-to/report-a-bug.md",
    "how-to/consul-tls.md",
    "how-to/log-in-by-identity.md",
    "how-to/redis-tls.md",
    "how-to/move-a-group.md",
    "how-to/upgrade.md",
    "how-to/recover-consul.md",
    "how-to/recover-data.md",
    "how-to/recover-sentinels.md",
    "how-to/remove-a-server.md",
    "how-to/add-a-server.md",
    "how-to/uninstall.md",
];
/// The pages about secrets, on hosts whose Consul denies by default, and whose Redis has a password.
const SECRETS: [&str; 3] =
    ["how-to/consul-acls.md", "how-to/redis-users.md", "how-to/rotate-secrets.md"];
/// Sentinel's `down-after-milliseconds`, as docs/how-to/set-sentinel-settings.md sets it.
const DOWN_AFTER_MS: u64 = 2_000;
/// How long the hosts may take to settle between two pages.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// What of /etc the programs of a page need, and every user may read.
const ETC: [&str; 8] = [
    "alternatives",
    "group",
    "hosts",
    "ld.so.cache",
    "nsswitch.conf",
    "passwd",
    "resolv.conf",
    "ssl",
];

/// What a page has the test do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A block of commands.
    Run(String),
    /// What stands in `<!-- test: ... -->`.
    Do(String),
    /// A part of a config.
    Config(String),
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// What is run of a page, in its order, and how many blocks are marked as not run.
fn steps(page: &str) -> (Vec<Step>, usize) {
    let text = std::fs::read_to_string(docs().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
    let (mut steps, mut left_out) = (Vec::new(), 0);
    let (mut block, mut not_run): (Option<(usize, String)>, bool) = (None, false);
    let (mut config, mut in_config) = (false, false);
    for line in text.lines() {
        let bare = line.trim_start();
        match &mut block {
            Some((_, text)) if bare == "```" => {
                let text = std::mem::take(text);
                block = None;
                if std::mem::take(&mut not_run) {
                    left_out += 1;
                } else if std::mem::take(&mut in_config) {
                    steps.push(Step::Config(text));
                } else {
                    steps.push(Step::Run(text));
                }
            }
            Some((indent, text)) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            None if bare == "```sh" || (bare == "```toml" && config) => {
                in_config = std::mem::take(&mut config);
                block = Some((line.len() - bare.len(), String::new()));
            }
            None => {
                let mark = |what: &str| bare.strip_prefix(what)?.strip_suffix(" -->");
                if let Some(reason) = mark("<!-- not run: ") {
                    assert!(reason.len() > 10, "{page}: a reason: {reason}");
                    not_run = true;
                }
                match mark("<!-- test: ") {
                    Some("config") => config = true,
                    what => steps.extend(what.map(|what| Step::Do(what.to_owned()))),
                }
            }
        }
    }
    assert!(!not_run && !config && block.is_none(), "{page}: a mark or a block without an end");
    (steps, left_out)
}

/// A shell on the first host, with the tools on its PATH, a /tmp of its own, and an /etc with our config file in it.
struct Shell {
    dir: PathBuf,
    net: PathBuf,
    path: String,
    token: Option<&'static str>,
}

/// A config with the keys of another one: those of a table that both have replace its own.
fn merged(config: &str, part: &str) -> String {
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    let mut at = 0;
    for line in part.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('[') {
            at = lines.iter().position(|other| other == line).unwrap_or(lines.len());
            if at == lines.len() {
                lines.push(line.to_owned());
            }
            at += 1;
            continue;
        }
        let key = line.split('=').next().expect("a key");
        let table = lines[at..].iter().position(|other| other.starts_with('['));
        let table = at..table.map_or(lines.len(), |length| at + length);
        if let Some(old) = table.into_iter().find(|old| lines[*old].starts_with(key)) {
            lines.remove(old);
        }
        lines.insert(at, line.to_owned());
    }
    lines.join("\n") + "\n"
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
        let config = config.replace(&etc.display().to_string(), "/etc");
        let config = merged(&config, "[consul]\naddress = \"10.0.0.1:8500\"\n");
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
            // An error that a server answers is a failure here.
            let errors = if name == "redis-cli" { " -e" } else { "" };
            let script =
                format!("#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program}{errors} \"$@\"\n");
            let path = bin.join(name);
            std::fs::write(&path, script).expect("a script");
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a script");
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let dir = dir.to_owned();
        Self { dir, net: hosts.all[0].namespace.path(), path, token: None }
    }

    /// Gives this part to the config of every agent, and to that of the shell.
    fn configure(&self, hosts: &Hosts, part: &str) {
        let etc = self.dir.join("etc");
        let at_hosts = part.replace("/etc/", &format!("{}/", etc.display()));
        let files = (0..hosts.all.len()).map(|host| (hosts.config(host).to_owned(), &*at_hosts));
        for (file, part) in files.chain([(etc.join("consul-redis/consul-redis.toml"), part)]) {
            let config = std::fs::read_to_string(&file).expect("a config");
            std::fs::write(&file, merged(&config, part)).expect("a config");
        }
    }

    /// Runs a page on these hosts; how many blocks there were.
    async fn page(&self, hosts: &mut Hosts, page: &str) -> usize {
        let mut count = 0;
        self.settle().await;
        for step in steps(page).0 {
            match step {
                Step::Run(block) => {
                    count += 1;
                    self.run(page, &block);
                }
                Step::Config(part) => self.configure(hosts, &part),
                Step::Do(what) => do_in_test(hosts, &self.dir, page, &what).await,
            }
        }
        eprintln!("{page}: done");
        count
    }

    /// The page before may have moved the primary a moment ago: a person reads for longer than what that leaves takes
    /// to be put right.
    async fn settle(&self) {
        let end = tokio::time::Instant::now() + SETTLED_WITHIN;
        let well = || matches!(self.output("consul-redis status").status.code(), Some(0 | 3));
        while !well() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Runs a block; it must succeed, each of its commands.
    fn run(&self, page: &str, block: &str) -> Output {
        let output = self.output(block);
        let text = [output.stdout.clone(), output.stderr.clone()].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{page}: {}\n{block}\n{text}", output.status);
        output
    }

    fn output(&self, block: &str) -> Output {
        let dir = self.dir.display();
        let mounts = format!("mount --bind {dir}/etc /etc; mount --bind {dir}/tmp /tmp");
        let script = format!("{mounts}\nset -eux\n{block}");
        Command::new("nsenter")
            .arg(format!("--net={}", self.net.display()))
            .args(["unshare", "--mount", "sh", "-c", &script])
            .env_clear()
            .env("PATH", &self.path)
            .env("CONSUL_HTTP_ADDR", "10.0.0.1:8500")
            .envs(self.token.iter().map(|token| ("CONSUL_HTTP_TOKEN", token)))
            .output()
            .expect("nsenter")
    }
}

#[tokio::test]
async fn every_command_of_the_how_to_pages_works() {
    let spec =
        HostsSpec { down_after_ms: DOWN_AFTER_MS, hold_when_cut_off: true, ..HostsSpec::default() };
    let mut hosts = Hosts::start(spec).await;
    // Not below /tmp, which the shell has another one in the place of.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let shell = Shell::new(&hosts, dir.path());
    let mut count = 0;
    for page in PAGES {
        count += shell.page(&mut hosts, page).await;
    }
    assert!(count > 45, "only {count} blocks were run");
    let left = hosts.all[0].consul.key("redis-ha/redis/state").await.expect("Consul");
    assert_eq!(left, None, "uninstall.md leaves nothing");
}

/// After all of them, the agents, Sentinels and replicas have the new secrets: a failover is followed, and Consul's
/// DNS says so.
#[tokio::test]
async fn every_command_of_the_pages_about_secrets_works() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let etc = dir.path().join("etc");
    for (name, secret) in
        [("consul-redis/consul-token", MANAGEMENT_TOKEN), ("redis/password", FIRST_PASSWORD)]
    {
        let path = etc.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, format!("{secret}\n")).expect("a secret");
    }
    let spec = HostsSpec {
        down_after_ms: DOWN_AFTER_MS,
        hold_when_cut_off: true,
        secrets: Some(etc.clone()),
    };
    let mut hosts = Hosts::start(spec).await;
    let shell = Shell { token: Some(MANAGEMENT_TOKEN), ..Shell::new(&hosts, dir.path()) };
    for page in SECRETS {
        shell.page(&mut hosts, page).await;
    }
    for (name, first) in
        [("consul-redis/consul-token", MANAGEMENT_TOKEN), ("redis/password", FIRST_PASSWORD)]
    {
        let now = std::fs::read_to_string(etc.join(name)).expect("a secret");
        assert!(now.len() > 30 && !now.contains(first), "{name} is a new one");
    }
    let all: Vec<usize> = (0..hosts.all.len()).collect();
    let before = hosts.until_writer(&all, None).await;
    let lost = hosts.of(&before);
    hosts.all[lost].redis.kill();
    let writer = hosts.until_writer(&all, Some(&before)).await;
    until("Consul's DNS answers the new writer", Duration::from_secs(20), || async {
        let names = hosts.all[0].consul.names()?;
        let found = names.a("redis-primary.service.consul").await.map_err(LabError::new)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        if found == [writer.host()] { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    // The replicas' own login is the new one as well.
    shell.run("rotate-secrets.md", "consul-redis wait redis --replicas 1");
}

/// What a page has the test do. `redis` is the one whose address is in /tmp/gone.
async fn do_in_test(hosts: &mut Hosts, dir: &Path, page: &str, what: &str) {
    let gone = || {
        let gone = std::fs::read_to_string(dir.join("tmp/gone")).expect("the address");
        gone.trim().parse().expect("an address")
    };
    match what {
        "stop redis" => {
            let at = hosts.of(&gone());
            hosts.all[at].redis.kill();
        }
        "start redis" | "restart redis" => {
            let at = hosts.of(&gone());
            hosts.all[at].redis.restart().await.expect("Redis");
        }
        "restart sentinel" => hosts.all[2].sentinel.restart().await.expect("Sentinel"),
        "lose sentinels" => [1, 2].into_iter().for_each(|host| hosts.lose_sentinel(host)),
        "start blank sentinels" => {
            for host in [1, 2] {
                hosts.all[host].sentinel.restart().await.expect("Sentinel");
            }
        }
        "wipe consul" => hosts.wipe_consul().await,
        "reload agents" => hosts.all.iter().for_each(|host| host.reload_agent()),
        "restart agents" => {
            for host in &mut hosts.all {
                host.kill_agent();
                host.start_agent().expect("an agent");
            }
        }
        "stop agents" => hosts.all.iter_mut().for_each(|host| host.kill_agent()),
        _ => panic!("{page}: nothing is known of `{what}`"),
    }
}

/// The languages of blocks that are no commands.
const NO_COMMANDS: [&str; 3] = ["text", "toml", "yaml"];

/// No page is forgotten, what is not run is the smaller part, and no block of commands is called something else. README
/// has its commands from the tutorials, which are run: each block says so.
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
    let mut pages = [&PAGES[..], &SECRETS[..]].concat();
    pages.sort_unstable();
    assert_eq!(found, pages);
    let (run, left_out) = pages.iter().fold((0, 0), |(run, left_out), page| {
        let (steps, marked) = steps(page);
        (run + steps.len(), left_out + marked)
    });
    assert!(run > 2 * left_out, "{run} are run, {left_out} are not");
    for page in pages.iter().chain([&"../README.md"]) {
        let text = std::fs::read_to_string(docs().join(page)).expect("a page");
        let fences = text.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        // Every second one ends a block.
        for language in fences.step_by(2).filter(|language| *language != "sh") {
            assert!(NO_COMMANDS.contains(&language), "{page}: a block of `{language}`");
        }
    }
    let (steps, marked) = steps("../README.md");
    assert_eq!((steps, marked), (Vec::new(), 2), "README: a block without a mark");
}
