//! What every scenario needs: agents, waiting, and one-shot commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use consul_redis::core::published::record::{Change, Record, decode};
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{fields, list};
use serde_json::Value;

/// Makes two tests of each scenario: with one Consul server, and with three.
macro_rules! on_one_and_three_servers {
    ($($scenario:ident),+ $(,)?) => {
        mod one_server {
            $(#[tokio::test] async fn $scenario() { super::$scenario(1).await; })+
        }
        mod three_servers {
            $(#[tokio::test] async fn $scenario() { super::$scenario(3).await; })+
        }
    };
}
pub(crate) use on_one_and_three_servers;

use crate::writers::Writers;

/// How long a failover may take that a scenario ends with, in s: `down-after-milliseconds` 1500, the election, and a
/// busy machine.
const FOLLOWED_WITHIN_S: u64 = 30;

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_consul-redis"))
}

/// A world, with TLS set up as `main` does.
pub async fn world(spec: WorldSpec) -> World {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    World::start(spec).await.expect("a world")
}

/// The host of `host:port`.
pub fn host(address: &str) -> &str {
    address.rsplit_once(':').unwrap().0
}

/// Starts agents `agent-0`, `agent-1`, ...
pub fn agents(world: &World, count: usize, args: &[&str]) -> Vec<Process> {
    (0..count).map(|index| agent(world, &format!("agent-{index}"), args, &[])).collect()
}

/// Starts one agent.
pub fn agent(world: &World, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
    world.start_agent(program(), name, args, env).expect("an agent")
}

/// An agent beside each Redis of the first group, with more settings for the group.
pub fn node_agents(world: &World, more: &str) -> Vec<Process> {
    let servers = world.groups[0].redis.iter();
    servers
        .map(|server| {
            let path = world.dir().join(format!("{}.toml", server.name()));
            let text = format!(
                "[[group]]\nname = \"redis\"\n{more}\n[[redis]]\naddress = \"{}\"\n",
                server.address
            );
            std::fs::write(&path, text).unwrap();
            let args = ["--config", path.to_str().unwrap()];
            agent(world, &format!("node-{}", server.name()), &args, &[])
        })
        .collect()
}

/// Makes a user on an instance that Sentinels may log in as: in every channel, where there are rights to channels
/// (6.2).
pub async fn set_sentinel_user(redis: &LabServer, rules: &[&str]) {
    let channels = redis.probe().await.unwrap().can_hold_writes().then_some("&*");
    let command: Vec<&str> =
        ["ACL", "SETUSER"].into_iter().chain(rules.iter().copied()).chain(channels).collect();
    redis.ask(&command).await.unwrap();
}

/// Waits until the agents say why they leave an instance alone; and they do.
#[track_caller]
pub fn until_left_alone<'a>(
    agents: &'a [Process],
    instance: &'a str,
    seconds: u64,
    said: &'a str,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let found = until(
            "the agents say why they leave it alone",
            Duration::from_secs(seconds),
            || async {
                let log = logs(agents);
                if log.contains(said) { Ok(()) } else { Err(LabError(log)) }
            },
        );
        found.await.unwrap_or_else(|error| panic!("{error} (at {caller})"));
        let done = format!("{instance} was ");
        assert!(!logs(agents).contains(&done), "{} (at {caller})", logs(agents));
    }
}

/// Runs a command in this world and waits for its end.
pub fn run(world: &World, args: &[&str], env: &[(&str, &str)]) -> Output {
    std::process::Command::new(program())
        .args(args)
        .envs(world.agent_env())
        .envs(env.iter().copied())
        .output()
        .expect("the program runs")
}

/// What a command printed, both ways.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What a schema in `docs/schemas` says of a value; empty when it is as the schema says.
pub fn off_schema(schema: &str, value: &Value) -> Vec<String> {
    let path = format!("{}/docs/schemas/{schema}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    // A schema that takes anything would hold nothing.
    assert!(!validator.is_valid(&serde_json::json!([{ "group": 1 }])), "{schema}");
    assert!(!validator.is_valid(&serde_json::json!({ "group": 1 })), "{schema}");
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

/// What a command prints for programs: it succeeds, and says it as the schema has it.
#[track_caller]
pub fn json(world: &World, schema: &str, args: &[&str]) -> Value {
    let output = run(world, args, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(off_schema(schema, &value), Vec::<String>::new(), "{value:#}");
    value
}

/// The published record of a group.
pub async fn record(world: &World, group: &str) -> Result<Record, LabError> {
    let key = format!("redis-ha/{group}/state");
    let value = world.consul.key(&key).await?.ok_or_else(|| LabError(format!("no {key}")))?;
    decode(value.as_bytes()).map_err(LabError)
}

/// Waits until the record is as wanted.
#[track_caller]
pub fn until_record<'a>(
    world: &'a World,
    group: &'a str,
    seconds: u64,
    what: &'a str,
    wanted: impl Fn(&Record) -> bool + 'a,
) -> impl Future<Output = Record> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let found = until(what, Duration::from_secs(seconds), || async {
            let record = record(world, group).await?;
            if wanted(&record) {
                return Ok(record);
            }
            Err(LabError(format!(
                "generation {}, writer {:?}, {}, {:?}",
                record.generation,
                record.writer_address(),
                record.why,
                record.instances
            )))
        });
        found.await.unwrap_or_else(|error| panic!("{error} (at {caller})"))
    }
}

/// Waits until there is a writer that a majority has confirmed, and that is not `other`.
#[track_caller]
pub fn until_writer<'a>(
    world: &'a World,
    group: &'a str,
    seconds: u64,
    other: Option<&'a str>,
) -> impl Future<Output = String> + 'a {
    let wait = until_record(world, group, seconds, "a confirmed writer", move |record| {
        let confirmed =
            record.evidence.level() == consul_redis::core::published::record::Level::Quorum;
        let writer = record.writer_address().map(ToString::to_string);
        confirmed && writer.is_some() && writer.as_deref() != other
    });
    async move { wait.await.writer_address().map(ToString::to_string).unwrap_or_default() }
}

/// Waits until all that are alive are in sync: the writer and this many replicas.
#[track_caller]
pub fn until_in_sync<'a>(
    world: &'a World,
    group: &'a str,
    replicas: usize,
) -> impl Future<Output = Record> + 'a {
    until_record(world, group, 40, "all replicas are in sync", move |record| {
        record.writer.is_some() && record.replicas().count() == replicas
    })
}

/// Gives every replica this `replica-priority`: with 0 no Sentinel may choose one. All Sentinels know it in the end.
pub async fn set_priorities(world: &World, value: &str) {
    for replica in &world.groups[0].redis[1..] {
        replica.ask(&["CONFIG", "SET", "replica-priority", value]).await.unwrap();
    }
    let known = |row: &BTreeMap<String, String>| row["slave-priority"] == value;
    until_replicas_are(world, "all Sentinels know the priority", 20, known).await;
}

/// Waits until what every Sentinel says of each replica is so.
pub async fn until_replicas_are(
    world: &World,
    what: &str,
    seconds: u64,
    fits: impl Fn(&BTreeMap<String, String>) -> bool,
) {
    until(what, Duration::from_secs(seconds), || async {
        for sentinel in &world.sentinels {
            let rows = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            for row in list(&rows).map_err(LabError)? {
                let row = fields(row).map_err(LabError)?;
                if !fits(&row) {
                    return Err(LabError(format!("{row:?}")));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

/// Waits until `status` finds nothing wrong: right after a switch some rows and replicas are late for a moment.
pub async fn until_well(world: &World) {
    until("all is well", Duration::from_secs(30), || async {
        let status = run(world, &["status"], &[]);
        if status.status.success() { Ok(()) } else { Err(LabError(text(&status))) }
    })
    .await
    .unwrap();
}

/// The changes of group `redis` that Consul holds, the latest first.
pub async fn history(world: &World) -> Result<Vec<Change>, LabError> {
    let text = world.consul.key("redis-ha/redis/history").await?.unwrap_or_default();
    serde_json::from_str(&text).map_err(LabError::new)
}

/// Waits until a name answers exactly this, in the DNS and the health API of every Consul server.
#[track_caller]
pub fn until_named<'a>(
    world: &'a World,
    service: &'a str,
    wanted: &'a [String],
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let mut ports: Vec<u16> =
            wanted.iter().filter_map(|a| a.rsplit(':').next()?.parse().ok()).collect();
        ports.sort_unstable();
        let named = until(service, Duration::from_secs(20), || async {
            for server in world.consul_servers() {
                let healthy = server.passing(service).await?;
                let srv = server.names()?.srv(&format!("{service}.service.consul")).await;
                let mut found: Vec<u16> =
                    srv.map_err(LabError::new)?.into_iter().map(|(_, port)| port).collect();
                found.sort_unstable();
                if healthy != wanted || found != ports {
                    let dns = server.dns;
                    return Err(LabError(format!("{healthy:?}, SRV ports {found:?} at {dns}")));
                }
            }
            Ok(())
        });
        named.await.unwrap_or_else(|error| panic!("{error} (at {caller})"));
    }
}

/// Ends a scenario in which nothing was to change, or in which Sentinels alone could have done everything: the writer
/// of the first group is killed, and the agents publish the next one. Agents that had died on the way would not. A
/// failover that is still under way is waited for by `World::calm`, before. The new writer.
#[track_caller]
pub fn must_follow_a_failover(world: &mut World) -> impl Future<Output = String> {
    must_follow_within(world, FOLLOWED_WITHIN_S)
}

/// The same, within so many seconds.
#[track_caller]
pub fn must_follow_within(world: &mut World, seconds: u64) -> impl Future<Output = String> {
    let caller = std::panic::Location::caller();
    async move {
        let group = world.groups[0].name.clone();
        let old = until_writer(world, &group, 20, None).await;
        let server = world.server_mut(&old);
        server.unwrap_or_else(|| panic!("{old} is a stranger (at {caller})")).kill();
        let new = until_writer(world, &group, seconds, Some(&old)).await;
        let named = world.consul.key(&format!("redis-ha/{group}/primary")).await.unwrap();
        assert_eq!(named.as_deref(), Some(new.as_str()), "(at {caller})");
        new
    }
}

/// Clients that write through `redis-primary`, as Consul's DNS has it.
pub fn writers(world: &World) -> Writers {
    Writers::by_name(world.consul.dns)
}

/// Waits until what this log says is there so many times, for so many seconds.
pub async fn until_logged(log: impl Fn() -> String, seconds: u64, what: &str, times: usize) {
    until(what, Duration::from_secs(seconds), || async {
        let log = log();
        if log.matches(what).count() >= times { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
}

/// The logs of all agents, for a failing test.
pub fn logs(agents: &[Process]) -> String {
    agents.iter().map(|agent| format!("--- {}\n{}\n", agent.name(), agent.log())).collect()
}

/// Where the agent says that it answers by HTTP.
pub async fn http_address(agent: &Process) -> String {
    until("it listens", Duration::from_secs(10), || async {
        let log = agent.log();
        let line = log.lines().find_map(|line| line.split("answering ").nth(1).map(str::to_owned));
        line.ok_or(LabError(log))
    })
    .await
    .unwrap()
}

/// The status and the body of what is answered to a GET.
pub async fn get(url: &str, token: Option<&str>) -> Result<(u16, String), LabError> {
    let mut request = reqwest::Client::new().get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.map_err(LabError::new)?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(LabError::new)?))
}

/// Waits until the metrics have this line.
pub async fn until_metric(url: &str, line: &str) {
    until(line, Duration::from_secs(30), || async {
        let (_, text) = get(&format!("{url}/metrics"), None).await?;
        if text.lines().any(|found| found == line) { Ok(()) } else { Err(LabError(text)) }
    })
    .await
    .unwrap();
}

/// The value of one metric's line; 0 when there is none.
pub fn counted(all: &str, name: &str) -> f64 {
    let value = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// As Consul's transactions take values.
pub fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Writes a key, and waits until so many replicas have it.
pub async fn until_all_have(primary: &LabServer, key: &str, replicas: i64) {
    // WAIT is about the writes of its own connection.
    let mut write = redis::pipe();
    write.cmd("SET").arg(key).arg(1).cmd("WAIT").arg(replicas).arg(300);
    until("all replicas have it", Duration::from_secs(20), || async {
        let answers = primary.link().await?.ask(&write).await.map_err(LabError::new)?;
        match answers.last() {
            Some(redis::Value::Int(count)) if *count >= replicas => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap();
}
