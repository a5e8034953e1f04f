//! The cures of `doctor` on real servers: a fault is made, its finding says what to do, that is done, and the finding
//! is gone, with no other in its place. `tests/shared/cures.rs` has the scenario of each finding.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::tools::{self, faketime};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{ADDRESSES_PER_WORLD, Announced, World, WorldSpec};
use consul_redis::redis_link::fields;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::support::{
    agent, agents, off_schema, program, run, text, until_in_sync, until_writer, world,
};

/// How long a finding may take to come or to go: Sentinels ask for INFO every 10 s, and one that had no processor is in
/// TILT for 30 s.
const FOUND_WITHIN: Duration = Duration::from_secs(90);

/// What `doctor --json` says: its exit code, and the findings.
pub fn doctor(world: &World, env: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let dns = world.consul.dns.to_string();
    said(&run(world, &["doctor", "redis", "--json", "--dns", &dns], env))
}

fn said(output: &Output) -> (Option<i32>, Vec<Value>) {
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)));
    assert_eq!(off_schema("doctor", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!(said[0]["group"], "redis");
    (output.status.code(), said[0]["findings"].as_array().unwrap().clone())
}

pub fn codes(findings: &[Value]) -> BTreeSet<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// Waits until the findings are exactly of these kinds.
pub async fn until_found(world: &World, env: &[(&str, &str)], wanted: &[&str]) -> Vec<Value> {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    until_doctor(&format!("doctor finds {wanted:?}"), || doctor(world, env), |now| *now == wanted)
        .await
}

/// Waits until this is found; what else there is may be one fault with it.
pub async fn until_found_among(world: &World, code: &str) -> Vec<Value> {
    let what = format!("doctor finds {code}");
    until_doctor(&what, || doctor(world, &[]), |now| now.contains(code)).await
}

/// Waits until this is not found any more.
pub async fn until_gone(world: &World, code: &str) {
    let what = format!("doctor does not find {code}");
    until_doctor(&what, || doctor(world, &[]), |now| !now.contains(code)).await;
}

async fn until_doctor(
    what: &str,
    look: impl Fn() -> (Option<i32>, Vec<Value>),
    fits: impl Fn(&BTreeSet<&str>) -> bool,
) -> Vec<Value> {
    until(what, FOUND_WITHIN, || async {
        let (code, findings) = look();
        let error = findings.iter().any(|finding| finding["severity"] == "error");
        assert_eq!(code, Some(if error { 2 } else { 0 }), "{findings:#?}");
        if fits(&codes(&findings)) { Ok(findings) } else { Err(LabError(format!("{findings:#?}"))) }
    })
    .await
    .unwrap()
}

/// What the finding of this kind says is to be done.
fn mend<'a>(findings: &'a [Value], code: &str) -> &'a str {
    let found = findings.iter().find(|finding| finding["code"] == code);
    found.unwrap_or_else(|| panic!("no {code}: {findings:#?}"))["mend"].as_str().unwrap()
}

pub async fn set(servers: &[LabServer], name: &str, value: &str) {
    let command = ["CONFIG", "SET", name, value];
    for server in servers {
        until("it is set", Duration::from_secs(20), || server.ask(&command)).await.unwrap();
    }
}

/// A world in which all is well: saved to disk, and held to one replica.
pub async fn well(spec: WorldSpec) -> (World, Vec<Process>, String) {
    // What an older one lacks is a finding by itself.
    let world = world(WorldSpec { since: Some("7.0"), ..spec }).await;
    let running = agents(&world, 2, &[]);
    let writer = make_well(&world).await;
    (world, running, writer)
}

async fn make_well(world: &World) -> String {
    set(&world.groups[0].redis, "save", "3600 1").await;
    set(&world.groups[0].redis, "min-replicas-to-write", "1").await;
    let writer = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", world.spec.redis - 1).await;
    let kept = run(world, &["config", "redis", "reboot_down_after=3s"], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    writer
}

/// The words of a command, as a shell takes them apart.
fn words(command: &str) -> Vec<&str> {
    let parts = command.split('"').enumerate();
    let words = parts.map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().collect(),
        _ => vec![part],
    });
    words.collect::<Vec<Vec<&str>>>().concat()
}

/// The command in a part of a cure, after the words that say when it is to be run.
fn command_in(part: &str) -> Option<&str> {
    let begins = ["redis-cli ", "consul-redis ", "consul "].into_iter();
    let at = begins.filter_map(|program| part.find(program)).min()?;
    part.get(at..)
}

/// Carries out what the findings say: commands to one server, to all of a kind, to Consul, and our own.
pub async fn cure(world: &World, findings: &[Value]) {
    for finding in findings {
        let mend = finding["mend"].as_str().unwrap();
        let commands: Vec<&str> = mend.split("; ").filter_map(command_in).collect();
        assert!(!commands.is_empty(), "no command: {mend}");
        for command in commands {
            carry_out(world, command).await;
        }
    }
}

async fn carry_out(world: &World, cure: &str) {
    let everywhere = cure.strip_suffix(", on every instance");
    let command = everywhere.or(cure.strip_suffix(", on that node")).unwrap_or(cure);
    match words(command)[..] {
        ["consul", ref theirs @ ..] => {
            let mut consul = std::process::Command::new(tools::consul().unwrap().path);
            let output = consul.args(theirs).envs(world.agent_env()).output().unwrap();
            assert!(output.status.success(), "{cure}: {}", text(&output));
        }
        ["consul-redis", ref ours @ ..] => {
            let output = run(world, ours, &[]);
            assert_eq!(output.status.code(), Some(0), "{cure}: {}", text(&output));
        }
        ["redis-cli", "-h", host, "-p", port, ref command @ ..] => {
            let at = format!("{host}:{port}");
            let sentinel = world.sentinels.iter().find(|s| s.address.to_string() == at);
            let server = world.server(&at).or(sentinel);
            let server = server.unwrap_or_else(|| panic!("{at} is no server of this world"));
            server.ask(command).await.unwrap();
            // What comes after it waits until this one has found the others again.
            if let ["SENTINEL", "RESET", ..] = command {
                until_knows_all(world, server).await;
            }
        }
        ["redis-cli", ref command @ ..] if everywhere.is_some() => {
            for server in &world.groups[0].redis {
                server.ask(command).await.unwrap();
            }
        }
        _ => panic!("no command: {cure}"),
    }
}

async fn until_knows_all(world: &World, sentinel: &LabServer) {
    let wanted = [world.groups[0].redis.len() - 1, world.sentinels.len() - 1];
    until("it knows all again", Duration::from_secs(40), || async {
        let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
        let fields = fields(&answer).map_err(LabError)?;
        let counts = ["num-slaves", "num-other-sentinels"].map(|name| fields[name].parse().ok());
        if counts == wanted.map(Some) { Ok(()) } else { Err(LabError(format!("{counts:?}"))) }
    })
    .await
    .unwrap();
}

/// Waits until this is found, among others, and carries out what it says.
pub async fn cure_of(world: &World, code: &str) {
    let found = until_found_among(world, code).await;
    let of_code: Vec<Value> = found.into_iter().filter(|found| found["code"] == code).collect();
    cure(world, &of_code).await;
}

/// What a Sentinel says of where it is.
async fn announce(sentinel: &LabServer, host: &str) {
    sentinel.ask(&["SENTINEL", "CONFIG", "SET", "announce-ip", host]).await.unwrap();
}

/// A group on Redis 6.0 is upgraded, and for a while its writer is newer than its replicas.
#[tokio::test]
async fn an_upgrade_cures_what_older_versions_lack() {
    let spec = WorldSpec {
        version: Some("redis-6.0"),
        // A Sentinel of 6.0 connects from its own address, which a newer Redis does not take for this machine's.
        redis_lines: "save 3600 1\nmin-replicas-to-write 1\nprotected-mode no\n",
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let running = agents(&world, 2, &[]);
    let old = make_well(&world).await;
    until_found_among(&world, "writes-not-held").await;
    until_found_among(&world, "sentinel-version").await;
    // As Sentinel has every instance do that it has pointed elsewhere.
    for redis in &world.groups[0].redis {
        redis.ask(&["CONFIG", "REWRITE"]).await.unwrap();
    }
    let newer = tools::version("redis-7.0").unwrap();

    let replicas: Vec<String> =
        world.groups[0].redis[1..].iter().map(|redis| redis.address.to_string()).collect();
    assert!(!replicas.contains(&old));
    // What 6.0 has written of a user has no channels in it, and to 7.0 that means none (`docs/facts/sentinel.md` 15):
    // Sentinels could not fail over to it.
    let upgraded = async |world: &mut World, at: &str| {
        world.server_mut(at).unwrap().upgrade(newer.clone()).await.unwrap();
        until_in_sync(world, "redis", 2).await;
        let found = until_found_among(world, "sentinel-user-weak").await;
        assert!(mend(&found, "sentinel-user-weak").contains("allchannels"), "{found:#?}");
        let server = world.server(at).unwrap();
        server.ask(&["ACL", "SETUSER", "default", "allchannels"]).await.unwrap();
        server.ask(&["CONFIG", "REWRITE"]).await.unwrap();
        until_gone(world, "sentinel-user-weak").await;
    };
    upgraded(&mut world, &replicas[0]).await;
    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--to", &replicas[0], "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), crate::support::logs(&running));
    let found = until_found_among(&world, "versions-differ").await;
    assert_eq!(mend(&found, "versions-differ"), "upgrade replicas before the primary");
    for late in [&replicas[1], &old] {
        upgraded(&mut world, late).await;
    }
    until_gone(&world, "versions-differ").await;
    until_gone(&world, "writes-not-held").await;
    for sentinel in &mut world.sentinels {
        sentinel.upgrade(newer.clone()).await.unwrap();
    }
    until_found(&world, &[], &["relay-refused"]).await;
    for sentinel in &world.sentinels {
        sentinel.ask(&["ACL", "SETUSER", "default", "allchannels"]).await.unwrap();
        sentinel.ask(&["SENTINEL", "FLUSHCONFIG"]).await.unwrap();
    }
    until_found(&world, &[], &[]).await;
}

/// Sentinels that are gone, that others have forgotten, that hear too few, and that do not trust their clock.
#[tokio::test]
async fn sentinels_that_are_gone_or_hear_too_few_are_brought_back() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    for sentinel in &mut world.sentinels[1..] {
        sentinel.kill();
    }
    let found = until_found_among(&world, "no-majority").await;
    assert!(mend(&found, "no-majority").contains("start the Sentinels again"), "{found:#?}");
    for sentinel in &mut world.sentinels[1..] {
        sentinel.restart().await.unwrap();
    }
    until_found(&world, &[], &[]).await;
    // A fourth is gone for good, and one Sentinel was made to forget it.
    let fourth = world.start_sentinel("sentinel-3", true).await.unwrap();
    world.sentinels.push(fourth);
    world.settle().await.unwrap();
    until_found_among(&world, "sentinels-even").await;
    drop(world.sentinels.pop());
    world.sentinels[0].ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    until_knows_all(&world, &world.sentinels[0]).await;
    cure_of(&world, "sentinel-count-differs").await;
    until_found(&world, &[], &[]).await;
    // Two that announce an address where they are not: the third hears neither.
    let nowhere = world.address().to_string();
    for sentinel in &world.sentinels[..2] {
        announce(sentinel, &nowhere).await;
    }
    let found = until_found_among(&world, "no-quorum").await;
    assert!(mend(&found, "no-quorum").contains("announce-ip"), "{found:#?}");
    for sentinel in &world.sentinels[..2] {
        announce(sentinel, sentinel.address.host()).await;
    }
    until_found(&world, &[], &[]).await;
    // One that stood still.
    world.sentinels[1].signal(Signal::SIGSTOP).unwrap();
    until_found_among(&world, "sentinel-down").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.sentinels[1].signal(Signal::SIGCONT).unwrap();
    until_found_among(&world, "tilt").await;
    // The 30 s that it says, made short.
    world.sentinels[1].ask(&["SENTINEL", "DEBUG", "tilt-period", "1000"]).await.unwrap();
    until_found(&world, &[], &[]).await;
}

/// A login that one server does not know, one that lacks a right, and replication that has a wrong one.
#[tokio::test]
async fn logins_that_are_refused_are_let_in() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    let rules = ["ACL", "SETUSER", "little", "on", ">secret", "~*", "&*", "+@all"];
    let (redis, sentinel) = (&world.groups[0].redis[1], &world.sentinels[2]);
    for server in world.groups[0].redis.iter().chain(&world.sentinels) {
        server.ask(&rules).await.unwrap();
    }
    let env = [
        ("CONSUL_REDIS_USERNAME", "little"),
        ("CONSUL_REDIS_PASSWORD", "secret"),
        ("CONSUL_REDIS_SENTINEL_USERNAME", "little"),
        ("CONSUL_REDIS_SENTINEL_PASSWORD", "secret"),
    ];
    until_found(&world, &env, &[]).await;
    sentinel.ask(&["ACL", "DELUSER", "little"]).await.unwrap();
    let found = until_found(&world, &env, &["sentinel-unreachable"]).await;
    assert!(mend(&found, "sentinel-unreachable").contains("password"), "{found:#?}");
    sentinel.ask(&rules).await.unwrap();
    until_found(&world, &env, &[]).await;
    redis.ask(&["ACL", "DELUSER", "little"]).await.unwrap();
    let found = until_found(&world, &env, &["instance-silent"]).await;
    assert!(mend(&found, "instance-silent").contains("--redis-password-file"), "{found:#?}");
    redis.ask(&rules).await.unwrap();
    until_found(&world, &env, &[]).await;
    redis.ask(&["ACL", "SETUSER", "little", "-config|get", "-time"]).await.unwrap();
    let found = until_found(&world, &env, &["unread"]).await;
    let allow: Vec<&str> = mend(&found, "unread")
        .split([' ', ','])
        .filter(|word| ["+config|get", "+time"].contains(word))
        .collect();
    assert_eq!(allow.len(), 2, "{found:#?}");
    redis.ask(&[&["ACL", "SETUSER", "little"], &allow[..]].concat()).await.unwrap();
    until_found(&world, &env, &[]).await;
    // The replica's own login at its primary.
    for (name, value) in [("masteruser", "absent"), ("masterauth", "wrong")] {
        redis.ask(&["CONFIG", "SET", name, value]).await.unwrap();
    }
    redis.ask(&["CLIENT", "KILL", "TYPE", "master"]).await.unwrap();
    let found = until_found(&world, &[], &["link-down"]).await;
    assert!(mend(&found, "link-down").contains("masterauth"), "{found:#?}");
    for name in ["masteruser", "masterauth"] {
        redis.ask(&["CONFIG", "SET", name, ""]).await.unwrap();
    }
    until_found(&world, &[], &[]).await;
    crate::support::must_follow_a_failover(&mut world).await;
}

/// Hosts that stand still, have a wrong clock, or run a Redis without its config.
#[tokio::test]
async fn hosts_that_are_not_as_they_should_be_are_put_right() {
    let (mut world, _agents, writer) = well(WorldSpec::default()).await;
    // A wrong clock: this one's.
    let library = faketime().unwrap().display().to_string();
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", "+7200"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let found = until_found(&world, &env, &["clock-skew"]).await;
    assert!(mend(&found, "clock-skew").contains("chronyc makestep"), "{found:#?}");
    until_found(&world, &[], &[]).await;
    // The end of a process that is not seen: by what runs in another pid namespace.
    let config = world.dir().join("node.toml");
    let of_node = |more: &str| {
        let text = format!(
            "[[group]]\nname = \"redis\"\n{more}\n[[redis]]\naddress = \"{}\"\n",
            world.groups[0].redis[1].address
        );
        std::fs::write(&config, text).unwrap();
    };
    of_node("fast_failover = \"proof\"");
    let apart = || doctor_apart(&world, &config, &["unshare", "--pid", "--fork", "--mount-proc"]);
    let beside = || doctor_apart(&world, &config, &["env"]);
    let is = |now: &BTreeSet<&str>| now.contains("death-unseen");
    let found = until_doctor("doctor finds death-unseen", apart, is).await;
    let said = mend(&found, "death-unseen");
    assert!(said.contains("where it sees its processes"), "{said}");
    let status = |way: &[&str]| {
        let all = status_apart(&world, &config, way);
        let instances = all[0]["instances"].as_array().unwrap().clone();
        let local = world.groups[0].redis[1].address.to_string();
        let of = |at: &Value| at["address"] == local;
        instances.iter().find(|one| of(one)).unwrap()["end_seen"].clone()
    };
    let unseen = status(&["unshare", "--pid", "--fork", "--mount-proc"]);
    assert!(unseen.as_str().unwrap().contains("pid namespace"), "{unseen}");
    assert_eq!(status(&["env"]), "at once");
    let is_not = |now: &BTreeSet<&str>| now.is_empty();
    until_doctor("where it sees its processes", beside, is_not).await;
    assert!(said.contains("fast_failover = \"off\""), "{said}");
    of_node("fast_failover = \"off\"");
    until_doctor("with fast_failover off", apart, is_not).await;
    // A host that stands still, for longer than the 10 s of a replica that is late.
    let replica =
        world.groups[0].redis.iter().position(|s| s.address.to_string() != writer).unwrap();
    world.groups[0].redis[replica].signal(Signal::SIGSTOP).unwrap();
    let found = until_found_among(&world, "replica-lags").await;
    assert!(mend(&found, "replica-lags").contains("look at its host"), "{found:#?}");
    world.groups[0].redis[replica].signal(Signal::SIGCONT).unwrap();
    until_found(&world, &[], &[]).await;
    // One without a config file.
    let mut bare = Bare::start(&mut world, &writer);
    bare.until_answers().await;
    let found = until_found_among(&world, "config-file-missing").await;
    let said = mend(&found, "config-file-missing");
    assert!(said.contains("start it with a config file"), "{said}");
    bare.with_a_file(&world);
    bare.until_answers().await;
    until_found(&world, &[], &[]).await;
}

/// What comes of a command that runs by way of another program.
pub(crate) fn apart(world: &World, config: &Path, way: &[&str], command: &[&str]) -> Output {
    let mut by = std::process::Command::new(way[0]);
    by.args(&way[1..]).arg(program()).args(command).envs(world.agent_env());
    by.args(["--json", "--config", config.to_str().unwrap()]);
    by.env_remove("CONSUL_REDIS_CONFIG").output().unwrap()
}

fn status_apart(world: &World, config: &Path, way: &[&str]) -> Value {
    let output = apart(world, config, way, &["status"]);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

fn doctor_apart(world: &World, config: &Path, way: &[&str]) -> (Option<i32>, Vec<Value>) {
    said(&apart(world, config, way, &["doctor", "redis"]))
}

/// A replica that was started from a command line.
struct Bare {
    address: Address,
    args: Vec<(String, String)>,
    process: Process,
}

impl Bare {
    fn start(world: &mut World, writer: &str) -> Self {
        let host = world.address().to_string();
        let port = writer.rsplit(':').next().unwrap();
        let dir = world.dir().join("bare");
        std::fs::create_dir_all(&dir).unwrap();
        let args = [
            ("bind", host.as_str()),
            ("port", port),
            ("dir", dir.to_str().unwrap()),
            ("replica-announce-ip", &host),
            ("replicaof", &writer.replace(':', " ")),
            ("min-replicas-to-write", "1"),
            ("repl-diskless-sync-delay", "0"),
            ("save", "3600 1"),
        ];
        let args: Vec<_> = args.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let of = |(name, value): &(String, String)| {
            let values = value.split(' ').map(str::to_owned);
            [format!("--{name}")].into_iter().chain(values).collect::<Vec<_>>()
        };
        let line: Vec<String> = args.iter().flat_map(of).collect();
        let process = run_redis(world, &line);
        Self { address: format!("{host}:{port}").parse().unwrap(), args, process }
    }

    /// The same, from a file that it may write.
    fn with_a_file(&mut self, world: &World) {
        self.process.kill();
        let file = world.dir().join("bare/redis.conf");
        let lines = self.args.iter().map(|(name, value)| format!("{name} {value}\n"));
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        self.process = run_redis(world, &[file.display().to_string()]);
    }

    async fn until_answers(&self) {
        until("it answers", Duration::from_secs(20), || async {
            let login = Default::default();
            let link = consul_redis::redis_link::Link::open(&self.address, &login).await;
            link.map_err(LabError::new)?.call(&["PING"]).await.map_err(LabError::new)
        })
        .await
        .unwrap();
    }
}

fn run_redis(world: &World, args: &[String]) -> Process {
    let tool = tools::redis_server_since("7.0").unwrap();
    Process::start("bare", &tool, args, &[], world.dir(), world.spec.life).unwrap()
}

/// Agents that observe leave to the operator what agents that manage do.
#[tokio::test]
async fn what_agents_that_observe_leave_alone_is_done_by_an_operator() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let config = world.dir().join("observe.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nmanage = false\n").unwrap();
    let _agents = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let writer = make_well(&world).await;
    until_found(&world, &[], &[]).await;
    let replica = world.groups[0].redis.iter().find(|s| s.address.to_string() != writer).unwrap();
    // Sentinels make a replica of it themselves, some 8 s later: the cure is there before.
    replica.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    cure_of(&world, "second-primary").await;
    until_found(&world, &[], &[]).await;
    // What no agent tells the Sentinels.
    let kept = run(&world, &["config", "redis", "failover_timeout=20s"], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    let found = until_found(&world, &[], &["settings-not-kept"]).await;
    let said = mend(&found, "settings-not-kept");
    assert!(said.contains("all agents have manage = false (agent-0, agent-1)"), "{said}");
    let _third = agent(&world, "agent-2", &["--group", "redis"], &[]);
    until_found(&world, &[], &[]).await;
}

/// Sentinels with a wrong password call a primary down that answers agents and clients.
#[tokio::test]
async fn a_primary_that_sentinels_cannot_log_in_to_is_called_down_and_up_again() {
    let spec = WorldSpec {
        since: Some("7.0"),
        redis_password: Some("secret".to_owned()),
        ..WorldSpec::default()
    };
    let world = world(spec).await;
    let config = world.dir().join("observe.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nmanage = false\n").unwrap();
    let _agents = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let writer = make_well(&world).await;
    until_found(&world, &[], &[]).await;
    let told = async |password: &str| {
        for sentinel in &world.sentinels {
            let set = ["SENTINEL", "SET", "redis", "auth-pass", password];
            sentinel.ask(&set).await.unwrap();
        }
    };
    told("wrong").await;
    // Nothing is gone, or to be started again.
    let found = until_found_among(&world, "called-down").await;
    let down = found.iter().find(|finding| finding["code"] == "called-down").unwrap();
    assert_eq!(down["evidence"][0]["from"], *writer, "{found:#?}");
    assert!(!codes(&found).contains("ghost-replica"), "{found:#?}");
    let said = mend(&found, "called-down");
    assert!(said.contains("SENTINEL SET redis auth-pass PASSWORD"), "{said}");
    told("secret").await;
    until_gone(&world, "called-down").await;
    until_writer(&world, "redis", 60, None).await;
    until_found(&world, &[], &[]).await;
}

/// A node of the group's name that was there before, a primary without replicas, and a name server that is not there.
#[tokio::test]
async fn a_group_that_begins_alone_is_made_whole() {
    let spec = WorldSpec { redis: 1, sentinels: 2, since: Some("7.0"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let (client, node) = (world.consul.client().unwrap(), "redis-ha-redis");
    let theirs = json!({"Node": node, "Address": "10.9.9.9"});
    client.put("/v1/catalog/register", &[], Some(&theirs)).await.unwrap();
    let _agents = agents(&world, 2, &[]);
    let found = until_found_among(&world, "foreign-node").await;
    assert!(mend(&found, "foreign-node").contains("rename that node"), "{found:#?}");
    let renamed = json!({"Node": "theirs", "Address": "10.9.9.9"});
    client.put("/v1/catalog/deregister", &[], Some(&json!({"Node": node}))).await.unwrap();
    client.put("/v1/catalog/register", &[], Some(&renamed)).await.unwrap();
    let writer = until_writer(&world, "redis", 20, None).await;
    until_gone(&world, "foreign-node").await;
    let found = until_found_among(&world, "no-replicas").await;
    let late = world.start_redis("late", None).await.unwrap();
    let at = format!("-h {} -p {}", late.address.host(), late.address.port());
    world.groups[0].redis.push(late);
    let command = mend(&found, "no-replicas").replace("-h REPLICA -p PORT", &at);
    carry_out(&world, &command).await;
    until_gone(&world, "no-replicas").await;
    until_in_sync(&world, "redis", 1).await;
    // Another Sentinel, beside the two.
    let found = until_found_among(&world, "sentinels-few").await;
    assert!(mend(&found, "sentinels-few").contains("start one more Sentinel"), "{found:#?}");
    let third = world.start_sentinel("sentinel-2", true).await.unwrap();
    world.sentinels.push(third);
    world.settle().await.unwrap();
    until_gone(&world, "sentinels-few").await;
    // A name server that is not there, and then is.
    let silent = format!("{}:{}", world.address(), writer.rsplit(':').next().unwrap());
    let found = said(&run(&world, &["doctor", "redis", "--json", "--dns", &silent], &[])).1;
    let dig = mend(&found, "dns-silent");
    assert!(dig.ends_with(" redis-primary.service.consul."), "{dig}");
    until_gone(&world, "dns-silent").await;
}

/// Others' rows and checks, and settings of Consul's DNS.
#[tokio::test]
async fn names_that_others_answer_for_are_the_groups_again() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    for (service, tag, wrong) in [
        ("redis-primary", None, "dns-wrong"),
        ("redis", Some("primary"), "dns-tag-wrong"),
        ("redis-replica", None, "dns-replicas-wrong"),
    ] {
        let tags: Vec<&str> = tag.into_iter().collect();
        let theirs = json!({"Name": service, "ID": "theirs", "Tags": tags,
            "Address": "10.9.9.9", "Port": 6379});
        let client = world.consul.client().unwrap();
        client.put("/v1/agent/service/register", &[], Some(&theirs)).await.unwrap();
        let found = until_found_among(&world, wrong).await;
        assert!(mend(&found, wrong).contains("foreign-row"), "{found:#?}");
        cure_of(&world, "foreign-row").await;
        until_found(&world, &[], &[]).await;
    }
    // Another program's check of a row of the group's, and an answer that is cut short.
    let node = "redis-ha-redis";
    let client = world.consul.client().unwrap();
    let warns = json!({"Node": node, "SkipNodeUpdate": true, "Check": {"Node": node,
        "CheckID": "theirs", "Name": "theirs", "Status": "warning"}});
    client.put("/v1/catalog/register", &[], Some(&warns)).await.unwrap();
    let file = world.dir().join("consul/consul-agent.hcl");
    let always = "max_stale = \"5s\"\nudp_answer_limit = 1\n";
    std::fs::write(&file, format!("dns_config {{\n{always}}}\n")).unwrap();
    world.consul.restart().await.unwrap();
    let found = until_found(&world, &[], &["only-passing", "dns-truncate"]).await;
    let said = found.iter().map(|finding| {
        let mend = finding["mend"].as_str().unwrap();
        let block = mend.strip_prefix("set dns_config {").expect("a block of dns_config");
        block.split_once('}').unwrap().0
    });
    let right = said.collect::<Vec<_>>().join("\n");
    std::fs::write(&file, format!("dns_config {{\n{always}{right}\n}}\n")).unwrap();
    world.consul.restart().await.unwrap();
    until_gone(&world, "only-passing").await;
    until_gone(&world, "dns-truncate").await;
    let gone = json!({"Node": node, "CheckID": "theirs"});
    world.consul.client().unwrap().put("/v1/catalog/deregister", &[], Some(&gone)).await.unwrap();
    until_found(&world, &[], &[]).await;
}

/// A Sentinel that announces a loopback address, and an agent that registers one.
#[tokio::test]
async fn loopback_addresses_are_replaced_by_those_that_lead_to_the_servers() {
    let network = Namespace::new().unwrap_or_else(|error| panic!("{error}"));
    for last in 1..=ADDRESSES_PER_WORLD {
        network.ip(&format!("addr add fd00::{last:x}/64 dev lo nodad")).unwrap();
    }
    network.enter().unwrap();
    let spec = WorldSpec {
        announced: Announced::Ipv6,
        redis_lines: "protected-mode no\n",
        ..WorldSpec::default()
    };
    let (world, _agents, writer) = well(spec).await;
    until_found(&world, &[], &[]).await;
    let sentinel = &world.sentinels[2];
    announce(sentinel, "127.0.0.1").await;
    let found = until_found_among(&world, "loopback-announced").await;
    assert!(mend(&found, "loopback-announced").contains("sentinel announce-ip"), "{found:#?}");
    announce(sentinel, sentinel.address.host()).await;
    until_found(&world, &[], &[]).await;
    // An agent beside a replica, whose config has the address that it reaches it by.
    let replica = world.groups[0].redis.iter().find(|s| s.address.to_string() != writer).unwrap();
    let port = replica.address.port();
    let both = format!("{} 127.0.0.1", replica.address.host());
    replica.ask(&["CONFIG", "SET", "bind", &both]).await.unwrap();
    let config = world.dir().join("node.toml");
    let of = |address: &str| {
        let text = format!("[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{address}\"\n");
        std::fs::write(&config, text).unwrap();
    };
    of(&format!("127.0.0.1:{port}"));
    let beside = agent(&world, "node", &["--config", config.to_str().unwrap()], &[]);
    let found = until_found_among(&world, "loopback-address").await;
    assert!(mend(&found, "loopback-address").contains("[[redis]]"), "{found:#?}");
    of(&replica.address.to_string());
    beside.signal(Signal::SIGHUP).unwrap();
    until_found(&world, &[], &[]).await;
}
