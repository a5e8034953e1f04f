//! What the jobs say, held to Nomad's words and to the program's own parsers.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use consul_redis::cli::{Cli, Command, ExecArgs};
use consul_redis::config::{Config, resolve};
use consul_redis::core::cluster::wanted::Wanted;
use consul_redis::core::published::projection::Layout;
use consul_redis::core::published::sentinel_rows;
use consul_redis::exec::AGENT_STOP_TIMEOUT;
use consul_redis::exec::announce::given;
use consul_redis::exec::settings::{
    self, Environment, ServerCommand, ServerKind, with_known_names,
};
use hcl::Body;

use crate::job::{Client, JOBS, Job, JobFile, Task, label, list, root, string, text, used};
use crate::template::{render, waits_for};

/// What Nomad takes in each block, of that what the jobs use: attributes and blocks.
/// From the job specification, developer.hashicorp.com/nomad/docs/job-specification.
const KNOWN: [(&str, &str); 23] = [
    ("", "variable job"),
    ("variable", "type default"),
    ("job", "datacenters type update migrate group"),
    ("update", "max_parallel health_check min_healthy_time healthy_deadline progress_deadline"),
    ("migrate", "max_parallel health_check min_healthy_time healthy_deadline"),
    ("group", "count constraint disconnect network volume restart service task ephemeral_disk"),
    ("constraint", "operator value"),
    ("disconnect", "lost_after replace reconcile"),
    ("network", "mode port"),
    ("port", "static"),
    ("volume", "type source"),
    ("restart", "attempts interval delay mode"),
    ("ephemeral_disk", "sticky migrate size"),
    ("service", "provider name port check"),
    ("check", "type interval timeout"),
    (
        "task",
        "driver config env volume_mount template consul identity kill_signal kill_timeout resources",
    ),
    ("config", "image network_mode entrypoint command args init"),
    ("volume_mount", "volume destination"),
    ("template", "destination env change_mode splay data"),
    ("consul", ""),
    ("identity", "name aud file ttl"),
    ("resources", "cpu memory"),
    // Any name.
    ("env", "*"),
];

/// What Nomad does not know.
fn unknown(block: &str, body: &Body) -> Vec<String> {
    let known = KNOWN.iter().find(|(name, _)| *name == block).map(|(_, keys)| *keys);
    let Some(known) = known else { return vec![block.to_owned()] };
    if known == "*" {
        return Vec::new();
    }
    let keys = body.attributes().map(|attribute| attribute.key());
    let keys = keys.chain(body.blocks().map(|block| block.identifier()));
    let mut found: Vec<String> = keys
        .filter(|key| !known.split(' ').any(|word| word == *key))
        .map(|key| format!("{block}: {key}"))
        .collect();
    for inner in body.blocks() {
        found.extend(unknown(inner.identifier(), inner.body()));
    }
    found
}

fn job(name: &str) -> Job {
    JobFile::parse(&text(name)).unwrap().job(&[], &Client::default()).unwrap()
}

#[test]
fn the_jobs_are_what_nomad_takes() {
    for name in JOBS {
        let file = JobFile::parse(&text(name)).unwrap();
        assert_eq!(unknown("", &file.body), Vec::<String>::new(), "{name}");
        let expected = if name == "redis" { name.to_owned() } else { format!("redis-{name}") };
        assert_eq!(job(name).name(), expected);
        let kind = if name == "observer" { "system" } else { "service" };
        assert_eq!(job(name).kind(), kind);
    }
    let misspelt = text("redis").replace("kill_timeout", "kill_timout");
    let body = JobFile::parse(&misspelt).unwrap().body;
    assert_eq!(unknown("", &body), ["task: kill_timout"]);
}

#[test]
fn every_variable_is_declared_and_used() {
    for name in JOBS {
        let file = JobFile::parse(&text(name)).unwrap();
        let declared: BTreeSet<String> = file.variables.keys().cloned().collect();
        assert_eq!(used(&text(name)), declared, "{name}");
        // Each has an effect on what is started.
        assert!(file.job(&[], &Client::default()).is_ok(), "{name}");
    }
    let misspelt = text("redis").replace("var.image", "var.imgae");
    let error = JobFile::parse(&misspelt).unwrap().job(&[], &Client::default()).err();
    assert!(error.is_some_and(|error| error.contains("imgae")));
}

#[test]
fn every_block_is_explained() {
    for name in JOBS {
        let text = text(name);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let begins = line.ends_with('{') || *line == "consul {}";
            let explained = at > 0 && lines[at - 1].starts_with('#');
            assert!(!begins || explained, "{name}: line {}: {line}", at + 1);
        }
    }
}

/// The program's own command line: what its environment says is said by flags.
fn parse(task: &Task) -> (Cli, Config, Environment) {
    let words = task.words();
    assert_eq!(words[0], "consul-redis");
    let (before, after) =
        words.split_at(words.iter().position(|w| w == "--").unwrap_or(words.len()));
    let mut line = before.to_vec();
    let command = Cli::command();
    let chosen = command.find_subcommand(&words[1]).expect("a command");
    let document = std::fs::read_to_string(root().join("docs/deploy.md")).unwrap();
    for (name, value) in &task.env {
        let mut args = chosen.get_arguments().chain(command.get_arguments());
        match args.find(|arg| arg.get_env().is_some_and(|env| env == name.as_str())) {
            // A variable that is set to nothing is not set.
            Some(_) if value.is_empty() => {}
            Some(arg) => line.push(format!("--{}={value}", arg.get_long().expect("a flag"))),
            None => assert!(
                name.starts_with("NOMAD_") || document.contains(&format!("`{name}`")),
                "no file reads {name}"
            ),
        }
    }
    line.extend(after.iter().cloned());
    let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    let env: Environment = task.env.clone().into_iter().collect();
    let common = with_known_names(&cli.common, &env).unwrap();
    let config = resolve(&common, &|name| env.get(name).map(str::to_owned)).unwrap();
    (cli, config, env)
}

fn exec(task: &Task) -> (ExecArgs, Config, Environment) {
    let (cli, mut config, env) = parse(task);
    let Command::Exec(args) = cli.command else { panic!("{:?}", cli.command) };
    settings::apply(&mut config, &env, args.expect).unwrap();
    (args, config, env)
}

#[test]
fn what_is_said_to_redis_is_understood() {
    let job = job("redis");
    let task = job.task();
    let (args, config, env) = exec(&task);
    let command = ServerCommand::parse(&args.server, &env).unwrap();
    assert_eq!(command.role, ServerKind::Redis);
    let port = command.port("").unwrap();
    // Announced is the port that Nomad gave, and that is what Redis listens on.
    let announced = given(args.announce.as_deref(), &env, command.role, port).unwrap();
    assert_eq!(announced.unwrap().to_string(), "10.0.0.5:20001");
    assert_eq!(port, 20_001);
    let policy = &config.groups[0].policy;
    assert_eq!((policy.group.as_str(), policy.expect), ("redis", Some(3)));
    assert_eq!(policy.settings.down_after_ms, Some(5_000));
    assert_eq!(policy.settings.failover_timeout_ms, Some(20_000));
    // The data is on the volume.
    let data = args.data_dir.unwrap().display().to_string();
    assert_eq!(task.mounts, [data]);
    // The agent may use all of its time, and Redis has some left.
    assert!(task.kill_timeout >= AGENT_STOP_TIMEOUT + Duration::from_secs(10));
}

#[test]
fn what_is_said_to_a_node_of_a_cluster_is_understood() {
    let task = job("cluster").task();
    let (args, config, env) = exec(&task);
    let command = ServerCommand::parse(&args.server, &env).unwrap();
    assert_eq!((command.role, command.port("").unwrap()), (ServerKind::Redis, 20_001));
    let name = args.cluster.expect("a cluster");
    let config = config.with_cluster(&name, args.expect).unwrap();
    let [cluster] = &config.clusters[..] else { panic!("one cluster") };
    assert_eq!(cluster.policy.name.as_str(), "orders");
    assert_eq!(cluster.policy.duties.make, Some(Wanted { nodes: 6, shards: 3 }));
    assert!(config.groups.is_empty());
    let data = args.data_dir.unwrap().display().to_string();
    assert_eq!(task.mounts, [data]);
    assert!(task.kill_timeout >= AGENT_STOP_TIMEOUT + Duration::from_secs(10));
}

#[test]
fn what_is_said_to_a_sentinel_is_understood() {
    let task = job("sentinel").task();
    let (args, config, env) = exec(&task);
    let command = ServerCommand::parse(&args.server, &env).unwrap();
    assert_eq!((command.role, command.port("").unwrap()), (ServerKind::Sentinel, 20_001));
    let announced = given(None, &env, command.role, 1).unwrap();
    assert_eq!(announced.unwrap().to_string(), "10.0.0.5:20001");
    assert_eq!(config.groups[0].policy.group.as_str(), "redis");
    assert_eq!(args.data_dir.unwrap().display().to_string(), "/alloc/data");
    assert!(task.kill_timeout >= AGENT_STOP_TIMEOUT);
}

#[test]
fn what_is_said_to_the_observer_is_understood() {
    let (cli, config, _) = parse(&job("observer").task());
    assert!(matches!(cli.command, Command::Agent));
    assert_eq!(config.sources.consul_service.as_deref(), Some(sentinel_rows::SERVICE));
    assert_eq!(config.http.unwrap().listen.to_string(), "127.0.0.1:20001");
    assert!(config.redis.is_empty() && config.sentinels.is_empty());
}

#[test]
fn nomad_registers_nothing_in_consul() {
    for name in JOBS {
        let job = job(name);
        for service in job.blocks("service") {
            assert_eq!(string(service.body(), "provider").as_deref(), Some("nomad"));
            let port = string(service.body(), "port");
            assert!(job.blocks("port").iter().any(|label_of| Some(label(label_of)) == port));
        }
        // Every task that asks Consul has a token, or an identity to fetch one by.
        let token = if name == "consumer" { "consul" } else { "identity" };
        assert_eq!(job.blocks(token).len(), job.blocks("task").len(), "{name}");
    }
}

/// Nomad's servers that were away take their clients for lost: what holds data is left where it is. And each job says the
/// least version that takes what is in it.
#[test]
fn a_client_that_is_not_heard_keeps_its_redis_and_the_version_is_said() {
    for name in JOBS {
        let job = job(name);
        let holds_data = ["redis", "sentinel", "cluster"].contains(&name);
        let version = if holds_data { "1.8" } else { "1.7" };
        assert!(text(name).contains(&format!("\n# Nomad {version} and later.")), "{name}");
        let found = job.blocks("disconnect");
        assert_eq!(found.len(), usize::from(holds_data), "{name}");
        for block in found {
            let said = ["lost_after", "replace", "reconcile"].map(|key| string(block.body(), key));
            let said = said.map(Option::unwrap);
            assert_eq!(said, ["12h", "false", "keep_original"], "{name}");
        }
    }
}

/// Nomad writes the JWT of the identity `NAME` to `nomad_NAME.jwt` in the task's secrets, which is /secrets in Docker.
#[test]
fn agents_log_in_by_the_identity_that_nomad_signs_for_their_task() {
    let config: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(root().join("consul/login-nomad.json")).unwrap(),
    )
    .unwrap();
    for name in JOBS.into_iter().filter(|name| *name != "consumer") {
        let file = JobFile::parse(&text(name)).unwrap();
        let method = [("login_method", "nomad-workloads".into())];
        let job = file.job(&method, &Client::default()).unwrap();
        let (_, config_of, _) = parse(&job.task());
        let login = config_of.consul.login.unwrap().settings;
        let [identity] = job.blocks("identity")[..] else { panic!("one identity") };
        let identified = string(identity.body(), "name").unwrap();
        assert_eq!(login.file(), format!("/secrets/nomad_{identified}.jwt"), "{name}");
        assert_eq!(login.method, "nomad-workloads");
        // The auth method is for the audience that Nomad is asked for.
        let audience = format!("{:?}", list(identity.body(), "aud").unwrap());
        assert_eq!(
            config["BoundAudiences"],
            serde_json::from_str::<serde_json::Value>(&audience).unwrap()
        );
        assert!(parse(&self::job(name).task()).1.consul.login.is_none(), "{name}: without ACLs");
    }
}

/// The text of the application's template.
pub fn consumer_template() -> String {
    let job = job("consumer");
    let [template] = job.blocks("template")[..] else { panic!("one template") };
    assert_eq!(string(template.body(), "change_mode").as_deref(), Some("restart"));
    assert_eq!(string(template.body(), "env").as_deref(), Some("true"));
    string(template.body(), "data").unwrap()
}

#[test]
fn the_consumer_s_template_is_safe_on_no_writer() {
    let template = consumer_template();
    let shipped = root().join("consul/templates/redis.env.ctmpl");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let (_, shipped) = shipped.split_once("*/ -}}\n").unwrap();
    assert_eq!(template.trim(), shipped.trim());

    let layout = Layout::new("redis-ha", &"redis".parse().unwrap());
    let state = layout.state();
    let record = r#"{"writer": {"address": "[fd00::5]:6379"}, "generation": 8}"#;
    assert_eq!(
        render(&template, &[(&state, record)]).unwrap(),
        "REDIS_HOST=fd00::5\nREDIS_PORT=6379\nREDIS_URL=redis://[fd00::5]:6379\n\
         REDIS_GENERATION=8\n"
    );
    let no_writer = render(&template, &[(&state, r#"{"writer": null, "generation": 8}"#)]);
    let key = format!("{}no-writer", state.strip_suffix("state").unwrap());
    assert!(waits_for(no_writer.as_ref().unwrap_err(), &key), "{no_writer:?}");
    let unpublished = render(&template, &[]).unwrap_err();
    assert!(waits_for(&unpublished, &state), "{unpublished}");
}
