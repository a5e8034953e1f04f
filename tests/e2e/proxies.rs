//! The templates that are shipped, in front of the programs that they are for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::clock::wall;
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::{self, Tool};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port, free_ports};
use consul_redis::redis_link::text as value_text;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{agent, logs, record, run, text, until_in_sync, until_writer, world};

/// Keys that are written through the proxy.
const KEYS: usize = 10_000;
/// Commands that are sent at once.
const BATCH: usize = 500;

/// A shipped file, with its settings changed: each must be in it.
fn shipped(name: &str, changes: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// The start of a command line that runs a tool from a config: with its libraries.
fn words(tool: &Tool) -> Vec<String> {
    let library = tool.library_path.as_ref();
    let env = library.map(|path| ["env".to_owned(), format!("LD_LIBRARY_PATH={}", path.display())]);
    let program = std::iter::once(tool.path.display().to_string());
    env.into_iter().flatten().chain(program).collect()
}

/// As TOML writes a list.
fn list(words: &[String]) -> String {
    format!("{words:?}")
}

/// Starts a script again whenever it ends, as a service manager does, until this is dropped.
fn keep_running(name: &'static str, script: &str, dir: &Path) -> AbortOnDropHandle<()> {
    let (sh, args) = (Tool::at("/bin/sh".into()), ["-c".to_owned(), script.to_owned()]);
    let dir = dir.to_owned();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let mut process =
                Process::start(name, &sh, &args, &[], &dir, Life::WithUs).expect(name);
            while process.ended().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }))
}

/// A client that speaks no more than a proxy understands.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn open(address: &str) -> Result<Self, LabError> {
        Ok(Self(BufReader::new(TcpStream::connect(address).await?)))
    }

    /// Sends all commands at once. The answers: what a GET found, or the line.
    async fn ask(&mut self, commands: &[Vec<&str>]) -> Result<Vec<String>, LabError> {
        let asked = tokio::time::timeout(Duration::from_secs(10), self.exchange(commands)).await;
        asked.map_err(|_| LabError::new("no answer in time"))?
    }

    async fn exchange(&mut self, commands: &[Vec<&str>]) -> Result<Vec<String>, LabError> {
        let mut sent = String::new();
        for command in commands {
            sent.push_str(&format!("*{}\r\n", command.len()));
            for word in command {
                sent.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
        }
        self.0.get_mut().write_all(sent.as_bytes()).await?;
        let mut answers = Vec::new();
        for _ in commands {
            answers.push(self.answer().await?);
        }
        Ok(answers)
    }

    async fn answer(&mut self) -> Result<String, LabError> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(LabError::new("the connection was closed"));
        }
        let line = line.trim_end().to_owned();
        if let Some(error) = line.strip_prefix('-') {
            return Err(LabError::new(error));
        }
        let Some(length) = line.strip_prefix('$').and_then(|l| l.parse::<usize>().ok()) else {
            return Ok(line);
        };
        let mut value = vec![0; length + 2];
        self.0.read_exact(&mut value).await?;
        value.truncate(length);
        String::from_utf8(value).map_err(LabError::new)
    }
}

async fn once(address: &str, command: &[&str]) -> Result<String, LabError> {
    let mut client = Client::open(address).await?;
    Ok(client.ask(&[command.to_vec()]).await?.concat())
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("key:{number}")).collect()
}

/// Each key's value is its own name. A client connects again when the proxy is started anew.
async fn set_all(address: &str) {
    until("every key is set", Duration::from_secs(20), || async {
        let mut client = Client::open(address).await?;
        for batch in keys().chunks(BATCH) {
            let commands: Vec<Vec<&str>> =
                batch.iter().map(|key| vec!["SET", key.as_str(), key.as_str()]).collect();
            let answers = client.ask(&commands).await?;
            if answers.iter().any(|answer| answer != "+OK") {
                return Err(LabError(format!("{answers:?}")));
            }
        }
        Ok::<(), LabError>(())
    })
    .await
    .unwrap();
}

async fn get_all(address: &str) {
    until("every key has its value", Duration::from_secs(20), || async {
        let mut client = Client::open(address).await?;
        for batch in keys().chunks(BATCH) {
            let commands: Vec<Vec<&str>> =
                batch.iter().map(|key| vec!["GET", key.as_str()]).collect();
            let values = client.ask(&commands).await?;
            // Another value would be another server's, however often it is asked for.
            assert_eq!(values, batch);
        }
        Ok::<(), LabError>(())
    })
    .await
    .unwrap();
}

/// How many keys each group's writer has.
async fn sizes(world: &World) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for group in &world.groups {
        let writer = record(world, &group.name).await.unwrap();
        let writer = writer.writer_address().unwrap().to_string();
        sizes.insert(group.name.clone(), size(world, &writer).await.unwrap());
    }
    sizes
}

async fn size(world: &World, address: &str) -> Result<usize, LabError> {
    let server = world.server(address).ok_or_else(|| LabError::new(address))?;
    let size = value_text(&server.ask(&["DBSIZE"]).await?).map_err(LabError)?;
    size.parse().map_err(LabError::new)
}

/// An agent that renders nutcracker.yml, and twemproxy as a service that the command restarts.
struct Twemproxy {
    running: Process,
    listen: String,
    yml: PathBuf,
    pid: PathBuf,
    _proxy: AbortOnDropHandle<()>,
}

async fn twemproxy(world: &mut World, names: &[&str]) -> Twemproxy {
    let dir = world.dir().to_owned();
    let ip = world.address();
    let ports = free_ports(&[ip], 2).unwrap();
    let listen = format!("{ip}:{}", ports[0]);
    let template = dir.join("nutcracker.yml.j2");
    std::fs::write(&template, shipped("nutcracker.yml.j2", &[("127.0.0.1:22121", &listen)]))
        .unwrap();
    let (yml, pid) = (dir.join("nutcracker.yml"), dir.join("nutcracker.pid"));
    let nutcracker = tools::nutcracker().unwrap();
    let mut check = words(&nutcracker);
    check.extend(["--test-conf", "--conf-file", "{}"].map(str::to_owned));
    let restart = format!("test ! -e {0} || kill -INT $(cat {0})", pid.display());
    let groups =
        names.iter().map(|name| format!("[[group]]\nname = \"{name}\"\n")).collect::<String>();
    let config = dir.join("agent.toml");
    std::fs::write(
        &config,
        format!(
            "{groups}[[template]]\nsource = {template:?}\ndestination = {yml:?}\ncheck = {}\n\
             command = [\"sh\", \"-c\", \"{restart}\"]\n",
            list(&check)
        ),
    )
    .unwrap();
    let running = agent(world, "agent", &["--config", config.to_str().unwrap()], &[]);
    for name in names {
        until_writer(world, name, 20, None).await;
        until_in_sync(world, name, 1).await;
    }
    until("nutcracker.yml", Duration::from_secs(20), || async {
        std::fs::read_to_string(&yml)
            .map_err(|error| LabError(format!("{error}\n{}", running.log())))
    })
    .await
    .unwrap();
    // Debian's twemproxy writes no process id unless it is a daemon.
    let script = format!(
        "echo $$ > {}; exec {} -c {} -o {} -a {ip} -s {}",
        pid.display(),
        words(&nutcracker).join(" "),
        yml.display(),
        dir.join("nutcracker.out").display(),
        ports[1]
    );
    let _proxy = keep_running("nutcracker", &script, &dir);
    until("twemproxy answers", Duration::from_secs(10), || once(&listen, &["GET", "key:1"]))
        .await
        .unwrap();
    Twemproxy { running, listen, yml, pid, _proxy }
}

#[tokio::test]
async fn twemproxy_finds_every_key_where_it_was_after_a_failover() {
    let names = ["users", "carts", "sessions", "feeds"];
    let spec =
        WorldSpec { redis: 2, groups: names.map(str::to_owned).to_vec(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let Twemproxy { running, listen, yml, pid, _proxy } = twemproxy(&mut world, &names).await;
    set_all(&listen).await;
    let before = sizes(&world).await;
    assert_eq!(before.values().sum::<usize>(), KEYS);
    assert!(before.values().all(|size| *size > KEYS / 10), "{before:?}");

    // One fails over, once its replica has everything.
    let old = record(&world, "carts").await.unwrap().writer_address().unwrap().to_string();
    let replica = record(&world, "carts").await.unwrap().replicas().next().unwrap().to_string();
    until("the replica has every key", Duration::from_secs(10), || async {
        let size = size(&world, &replica).await?;
        if size == before["carts"] { Ok(()) } else { Err(LabError(size.to_string())) }
    })
    .await
    .unwrap();
    let first_id = std::fs::read_to_string(&pid).unwrap();
    world.server_mut(&old).unwrap().kill();
    until_writer(&world, "carts", 20, Some(&old)).await;
    until("twemproxy is started again", Duration::from_secs(10), || async {
        let id = std::fs::read_to_string(&pid)?;
        if id == first_id { Err(LabError(running.log())) } else { Ok(()) }
    })
    .await
    .unwrap();
    until("it answers", Duration::from_secs(10), || once(&listen, &["GET", "key:1"]))
        .await
        .unwrap();
    get_all(&listen).await;
    // And a key that is written again is found in its group, and in no other.
    set_all(&listen).await;
    assert_eq!(sizes(&world).await, before);
    assert!(!std::fs::read_to_string(&yml).unwrap().contains(&old));
}

/// HAProxy's own settings of a world: two ports and a socket.
struct Ports {
    writer: String,
    replicas: String,
}

fn ports(ip: Ipv4Addr) -> Ports {
    let ports = free_ports(&[ip], 2).unwrap();
    Ports { writer: format!("{ip}:{}", ports[0]), replicas: format!("{ip}:{}", ports[1]) }
}

/// HAProxy as its service file starts it.
fn haproxy(dir: &Path, config: &Path) -> Process {
    let args = ["-W", "-f", config.to_str().unwrap(), "-p", "haproxy.pid"].map(str::to_owned);
    Process::start("haproxy", &tools::haproxy().unwrap(), &args, &[], dir, Life::WithUs).unwrap()
}

/// What an operator has before Consul, that nothing gets through without a login.
#[tokio::test]
async fn a_proxy_before_consul_that_asks_for_a_login_is_given_it() {
    let spec = WorldSpec { redis: 2, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let ip = world.address();
    let port = free_port(&[ip]).unwrap();
    let dir = world.dir().join("proxy");
    std::fs::create_dir(&dir).unwrap();
    let cfg = dir.join("haproxy.cfg");
    let config = format!(
        "global\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 10m\n  timeout server 10m\n\
         userlist people\n  user agents insecure-password secret\n\
         frontend consul\n  bind {ip}:{port}\n  http-request auth unless {{ http_auth(people) }}\n  \
         default_backend consul\nbackend consul\n  server consul {}\n",
        world.consul.http
    );
    std::fs::write(&cfg, config).unwrap();
    let proxy = haproxy(&dir, &cfg);
    let at = format!("{ip}:{port}");
    until("the proxy is there", Duration::from_secs(20), || async {
        TcpStream::connect(&at).await
    })
    .await
    .unwrap();
    let refused = run(&world, &["status"], &[("CONSUL_HTTP_ADDR", &at)]);
    let said = text(&refused);
    assert_ne!(refused.status.code(), Some(0), "{said}");
    assert!(said.contains("CONSUL_HTTP_AUTH=USER:PASSWORD"), "{said}");
    let env = [("CONSUL_HTTP_ADDR", at.as_str()), ("CONSUL_HTTP_AUTH", "agents:secret")];
    let _agent = agent(&world, "agent-0", &[], &env);
    let first = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 1).await;
    until("status is well", Duration::from_secs(40), || async {
        let status = run(&world, &["status"], &env);
        if status.status.success() { Ok(()) } else { Err(LabError(text(&status))) }
    })
    .await
    .unwrap();
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 30, Some(&first)).await;
    end(proxy).await;
}

/// Waits until a write through `address` is acknowledged, and says when it was.
async fn until_written(address: &str, value: &str) -> jiff::Timestamp {
    let written = until("a write", Duration::from_secs(20), || async {
        let answer = once(address, &["SET", "through", value]).await?;
        if answer == "+OK" { Ok(wall()) } else { Err(LabError(answer)) }
    });
    written.await.unwrap()
}

/// What a write left on a server.
async fn through(world: &World, address: &str) -> String {
    value_text(&world.server(address).unwrap().ask(&["GET", "through"]).await.unwrap()).unwrap()
}

/// Kills the writer, and says how long after the next one was published a write through `address` arrived there.
async fn switch(world: &mut World, address: &str, first: &str) -> Duration {
    world.server_mut(first).unwrap().kill();
    let written = until_written(address, "two").await;
    let second = until_writer(world, "redis", 20, Some(first)).await;
    assert_eq!(through(world, &second).await, "two");
    let since = record(world, "redis").await.unwrap().since;
    let took = written.duration_since(since);
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0))
}

async fn end(mut process: Process) {
    process.signal(Signal::SIGTERM).unwrap();
    process.end(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn haproxy_is_reloaded_without_losing_a_connection() {
    let mut world = world(WorldSpec::default()).await;
    let dir = world.dir().to_owned();
    let ports = ports(world.address());
    let template = dir.join("haproxy.cfg.j2");
    let socket = dir.join("haproxy.sock").display().to_string();
    let source = shipped(
        "haproxy.cfg.j2",
        &[
            ("127.0.0.1:6380", &ports.writer),
            ("127.0.0.1:6381", &ports.replicas),
            ("/run/haproxy/admin.sock", &socket),
        ],
    );
    std::fs::write(&template, &source).unwrap();
    let cfg = dir.join("haproxy.cfg");
    let mut check = words(&tools::haproxy().unwrap());
    check.extend(["-c", "-f", "{}"].map(str::to_owned));
    let config = dir.join("agent.toml");
    let reload = "test ! -e haproxy.pid || kill -USR2 $(cat haproxy.pid)";
    std::fs::write(
        &config,
        format!(
            "[[template]]\nsource = {template:?}\ndestination = {cfg:?}\ncheck = {}\n\
             command = [\"sh\", \"-c\", \"{reload}\"]\n",
            list(&check)
        ),
    )
    .unwrap();
    let running = agent(&world, "agent", &["--config", config.to_str().unwrap()], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until("both replicas are in haproxy.cfg", Duration::from_secs(20), || async {
        let text = std::fs::read_to_string(&cfg)?;
        if text.matches("check inter 1s").count() == 2 { Ok(()) } else { Err(LabError(text)) }
    })
    .await
    .unwrap();
    let proxy = haproxy(&dir, &cfg);
    until_written(&ports.writer, "one").await;
    assert_eq!(through(&world, &first).await, "one");
    let role = once(&ports.replicas, &["ROLE"]).await.unwrap();
    assert!(role.starts_with("*5"), "a replica answers the other port: {role}");

    // Connections come and go while it is reloaded, again and again.
    let address = ports.writer.clone();
    let hammer = tokio::spawn(async move {
        let mut done = 0_u32;
        loop {
            match once(&address, &["PING"]).await {
                Ok(answer) if answer == "+PONG" => done += 1,
                other => return (done, other),
            }
        }
    });
    for round in 1..=3 {
        std::fs::write(&template, format!("{source}# {round}\n")).unwrap();
        running.signal(Signal::SIGHUP).unwrap();
        until("it is reloaded", Duration::from_secs(20), || async {
            let log = proxy.log();
            if log.matches("New worker").count() > round { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
    }
    assert!(!hammer.is_finished(), "{:?}", hammer.await);
    hammer.abort();
    // A file is changed five times within so long at most (docs/consumers.md): the switch begins after that.
    tokio::time::sleep(Duration::from_secs(10)).await;

    let took = switch(&mut world, &ports.writer, &first).await;
    println!("a write arrived {} ms after the new writer was published", took.as_millis());
    assert!(took < Duration::from_secs(2), "{took:?}\n{}", running.log());
    end(proxy).await;
}

#[tokio::test]
async fn haproxy_follows_by_dns_alone() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let dir = world.dir().to_owned();
    let ports = ports(world.address());
    let socket = dir.join("haproxy.sock").display().to_string();
    let cfg = dir.join("haproxy.cfg");
    let dns = world.consul.dns.to_string();
    let text = shipped(
        "haproxy-dns.cfg",
        &[
            ("127.0.0.1:6380", &ports.writer),
            ("127.0.0.1:6381", &ports.replicas),
            ("127.0.0.1:8600", &dns),
            ("/run/haproxy/admin.sock", &socket),
        ],
    );
    std::fs::write(&cfg, text).unwrap();
    let _agent = agent(&world, "agent", &[], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    let proxy = haproxy(&dir, &cfg);
    until_written(&ports.writer, "one").await;
    assert_eq!(through(&world, &first).await, "one");
    until("a replica", Duration::from_secs(20), || async {
        let role = once(&ports.replicas, &["ROLE"]).await?;
        if role.starts_with("*5") { Ok(()) } else { Err(LabError(role)) }
    })
    .await
    .unwrap();

    let took = switch(&mut world, &ports.writer, &first).await;
    println!("a write arrived {} ms after the new writer was published", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}\n{}", proxy.log());
    end(proxy).await;
}

#[tokio::test]
async fn variables_json_and_aliases_are_read_by_those_they_are_for() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let dir = world.dir().to_owned();
    let _agent = agent(&world, "agent", &[], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    let state = until_in_sync(&world, "redis", 1).await;
    let replica = state.replicas().next().unwrap().to_string();
    let mut config = String::new();
    for (source, out) in [
        ("redis.env.j2", "redis.env"),
        ("redis.json.j2", "redis.json"),
        ("redis-aliases.sh.j2", "aliases.sh"),
    ] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(source);
        let out = dir.join(out);
        config.push_str(&format!("[[template]]\nsource = {source:?}\ndestination = {out:?}\n"));
    }
    let path = dir.join("render.toml");
    std::fs::write(&path, config).unwrap();
    let done = run(&world, &["render", "--once", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));

    let sh = |script: &str| {
        let cli = tools::redis_cli().unwrap();
        let search = format!("{}:/usr/bin:/bin", cli.path.parent().unwrap().display());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).current_dir(&dir).env("PATH", search);
        if let Some(library) = cli.library_path {
            command.env("LD_LIBRARY_PATH", library);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
        text(&output).trim().to_owned()
    };
    let said = sh(
        ". ./redis.env; echo $REDIS_HOST:$REDIS_PORT $REDIS_URL $REDIS_REPLICAS $REDIS_GENERATION",
    );
    assert_eq!(said, format!("{writer} redis://{writer} {replica} 1"));
    let aliases = |command: &str| sh(&format!(". ./aliases.sh\neval \"{command}\""));
    assert_eq!(aliases("redis-cli-redis SET alias 1"), "OK");
    assert!(aliases("redis-cli-redis-replica-1 ROLE").starts_with("slave"));

    let json = std::fs::read_to_string(dir.join("redis.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["redis"]["writer"]["address"], writer);
    assert_eq!(json["redis"]["replicas"][0]["address"], replica);
    assert_eq!(json["redis"]["instances"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn haproxy_asks_the_agents() {
    let mut world = world(WorldSpec::default()).await;
    let dir = world.dir().to_owned();
    let ports = ports(world.address());
    let hosts: Vec<Ipv4Addr> =
        world.groups[0].redis.iter().map(|s| s.address.host().parse().unwrap()).collect();
    let http = free_ports(&hosts, 1).unwrap()[0];
    let addresses: Vec<String> =
        world.groups[0].redis.iter().map(|server| server.address.to_string()).collect();
    let running: Vec<Process> = addresses
        .iter()
        .zip(&hosts)
        .enumerate()
        .map(|(index, (address, host))| {
            let config = dir.join(format!("node-{index}.toml"));
            std::fs::write(&config, format!("[[redis]]\naddress = \"{address}\"\n")).unwrap();
            let listen = format!("{host}:{http}");
            let args = ["--config", config.to_str().unwrap(), "--listen", &listen];
            agent(&world, &format!("node-{index}"), &args, &[])
        })
        .collect();
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let socket = dir.join("haproxy.sock").display().to_string();
    let cfg = dir.join("haproxy.cfg");
    let text = shipped(
        "haproxy-httpchk.cfg",
        &[
            ("127.0.0.1:6380", &ports.writer),
            ("127.0.0.1:6381", &ports.replicas),
            ("10.0.0.1:6379", &addresses[0]),
            ("10.0.0.2:6379", &addresses[1]),
            ("10.0.0.3:6379", &addresses[2]),
            ("9790", &http.to_string()),
            ("/run/haproxy/admin.sock", &socket),
        ],
    );
    std::fs::write(&cfg, text).unwrap();
    let proxy = haproxy(&dir, &cfg);
    until_written(&ports.writer, "one").await;
    assert_eq!(through(&world, &first).await, "one");
    // Until it has asked for the first time, HAProxy takes every server for up.
    until("the writer is no replica", Duration::from_secs(10), || async {
        let mut roles = Vec::new();
        for _ in 0..6 {
            roles.push(once(&ports.replicas, &["ROLE"]).await?);
            roles.push(once(&ports.writer, &["ROLE"]).await?);
        }
        let right = roles.chunks(2).all(|pair| pair[0].starts_with("*5") && pair[1] == "*3");
        if right { Ok(()) } else { Err(LabError(format!("{roles:?}"))) }
    })
    .await
    .unwrap();

    let took = switch(&mut world, &ports.writer, &first).await;
    println!("a write arrived {} ms after the new writer was published", took.as_millis());
    assert!(took < Duration::from_secs(3), "{took:?}\n{}\n{}", proxy.log(), logs(&running));
    end(proxy).await;
}
