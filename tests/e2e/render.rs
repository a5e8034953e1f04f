//! Files rendered from the groups' state, and the commands that follow.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::tools::Tool;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    agent, base64, program, record, run, text, until_in_sync, until_logged, until_record,
    until_writer, world,
};

/// Two Redis are enough.
fn small() -> WorldSpec {
    WorldSpec { redis: 2, ..WorldSpec::default() }
}

/// A template, what is rendered from it, and a command that writes down each time it is run.
struct Rendered {
    dir: PathBuf,
}

impl Rendered {
    fn new(world: &World, source: &str) -> Self {
        let dir = world.dir().join("rendered");
        std::fs::create_dir_all(&dir).unwrap();
        let rendered = Self { dir };
        std::fs::write(rendered.path("source.j2"), source).unwrap();
        rendered
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A config with this template, `more` of its keys, and what stands before it.
    fn config(&self, before: &str, more: &str) -> String {
        let path = self.path("config.toml");
        let (source, out) = (self.path("source.j2"), self.path("out"));
        let text = format!(
            "{before}\n[[template]]\nsource = \"{}\"\ndestination = \"{}\"\n{more}\n",
            source.display(),
            out.display()
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A command that notes that it was run, and with what.
    fn noting(&self) -> String {
        format!("command = [\"sh\", \"-c\", \"cat {{}} >> {}\"]", self.path("noted").display())
    }

    fn out(&self) -> Option<String> {
        std::fs::read_to_string(self.path("out")).ok()
    }

    fn noted(&self) -> String {
        std::fs::read_to_string(self.path("noted")).unwrap_or_default()
    }

    /// Waits until the command was run for this; how often it was run by then.
    async fn until_noted(&self, line: &str) -> usize {
        until("the command", Duration::from_secs(5), || async {
            let noted = self.noted();
            let last = noted.lines().last().unwrap_or_default();
            if last == line { Ok(noted.lines().count()) } else { Err(LabError(noted)) }
        })
        .await
        .unwrap()
    }

    async fn until_out(&self, seconds: u64, wanted: &str) {
        until("the file", Duration::from_secs(seconds), || async {
            if self.out().as_deref() == Some(wanted) {
                return Ok(());
            }
            Err(LabError(format!("{:?} instead of {wanted:?}", self.out())))
        })
        .await
        .unwrap();
    }
}

/// `render --watch` as a process.
fn watcher(world: &World, config: &str) -> Process {
    let tool = Tool::at(program().to_owned());
    let args = ["render", "--watch", "--config", config].map(str::to_owned);
    Process::start("render", &tool, &args, &world.agent_env(), world.dir(), world.spec.life)
        .unwrap()
}

async fn until_log(process: &Process, seconds: u64, wanted: &str) {
    until_logged(|| process.log(), seconds, wanted, 1).await;
}

const WRITER: &str = "{{ groups.redis.writer.address }} {{ groups.redis.generation }}\n";

#[tokio::test]
async fn a_file_follows_a_failover_beside_an_agent_and_without_one() {
    let mut world = world(small()).await;
    let rendered = Rendered::new(&world, WRITER);
    let config = rendered.config("[http]\nlisten = \"127.0.0.1:0\"", &rendered.noting());
    let in_agent = agent(&world, "agent", &["--config", &config], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    rendered.until_out(10, &format!("{first} 1\n")).await;

    // A second one, by `render --watch` alone.
    let other = Rendered { dir: world.dir().join("other") };
    std::fs::create_dir_all(&other.dir).unwrap();
    std::fs::write(other.path("source.j2"), WRITER).unwrap();
    let alone = watcher(&world, &other.config("", &other.noting()));
    other.until_out(10, &format!("{first} 1\n")).await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    let generation = record(&world, "redis").await.unwrap().generation;
    assert_eq!(generation, 3, "withdrawn in between");
    for file in [&rendered, &other] {
        file.until_out(5, &format!("{second} 3\n")).await;
        let old = std::fs::read_to_string(file.path("out.old")).unwrap();
        assert_eq!(old, format!("{first} 1\n"));
        until("the command", Duration::from_secs(5), || async {
            let noted = file.noted();
            // Not for the withdrawal: the writer in the file stays until there is another one.
            if noted == format!("{first} 1\n{second} 3\n") { Ok(()) } else { Err(LabError(noted)) }
        })
        .await
        .unwrap();
    }
    // The agent says so to those who look.
    let url = in_agent.log().lines().find_map(|l| l.split("answering ").nth(1).map(str::to_owned));
    let metrics = reqwest::get(format!("{}/metrics", url.unwrap())).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = format!("rendered{{destination=\"{}\"}} 1.0", rendered.path("out").display());
    assert!(metrics.contains(&line), "{metrics}");

    alone.signal(Signal::SIGTERM).unwrap();
    let mut alone = alone;
    assert_eq!(alone.end(Duration::from_secs(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_is_rendered_from_what_is_not_known() {
    let mut world = world(small()).await;
    let rendered = Rendered::new(&world, WRITER);
    std::fs::write(rendered.path("out"), "the last good one\n").unwrap();
    let config = rendered.config("", &rendered.noting());
    let args = ["render", "--once", "--config", &config];

    // Nothing was ever published: neither once nor in time.
    let nothing = run(&world, &args, &[]);
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing));
    assert!(text(&nothing).contains("redis: nothing was ever published"), "{}", text(&nothing));
    let mut watching = watcher(&world, &config);
    until_log(&watching, 10, "stays as it is: redis: nothing was ever published").await;

    // A record that cannot be read.
    let client = world.consul.client().unwrap();
    let set = |value: &str| {
        let value = base64(value);
        json!([{"KV": {"Verb": "set", "Key": "redis-ha/redis/state", "Value": value}}])
    };
    client.put("/v1/txn", &[], Some(&set("{\"v\": 99}"))).await.unwrap();
    until_log(&watching, 10, "written by a newer consul-redis").await;
    let unreadable = run(&world, &args, &[]);
    assert_eq!(unreadable.status.code(), Some(1), "{}", text(&unreadable));
    assert_eq!(rendered.out().unwrap(), "the last good one\n");
    let delete = json!([{"KV": {"Verb": "delete", "Key": "redis-ha/redis/state"}}]);
    client.put("/v1/txn", &[], Some(&delete)).await.unwrap();

    // Published, and Consul falls silent, is wiped, and answers again: the file stays.
    let agent = agent(&world, "agent", &[], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    rendered.until_out(10, &format!("{first} 1\n")).await;
    drop(agent);
    world.consul.kill();
    until_log(&watching, 10, "trying again, and what is published stays").await;
    let silent = run(&world, &args, &[]);
    assert_eq!(silent.status.code(), Some(69), "{}", text(&silent));
    world.consul.wipe().unwrap();
    world.consul.restart().await.unwrap();
    until_log(&watching, 20, "answers again").await;
    // Long enough for the answer to have been rendered, had it been.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rendered.out().unwrap(), format!("{first} 1\n"));
    assert_eq!(rendered.noted(), format!("{first} 1\n"));
    assert_eq!(watching.ended(), None, "{}", watching.log());
}

#[tokio::test]
async fn without_a_writer_the_file_stays_or_says_so() {
    let mut world = world(WorldSpec { sentinels: 1, ..small() }).await;
    let rendered = Rendered::new(
        &world,
        "{{ 'yes' if groups.redis.writer else 'no, ' ~ groups.redis.why }}\n",
    );
    let config = rendered.config("", "on_no_writer = \"render\"");
    let kept = Rendered { dir: world.dir().join("kept") };
    std::fs::create_dir_all(&kept.dir).unwrap();
    std::fs::write(kept.path("source.j2"), WRITER).unwrap();
    let kept_config = kept.config("", "");
    let _running = agent(&world, "agent", &["--config", &config], &[]);
    let _kept = watcher(&world, &kept_config);
    let first = until_writer(&world, "redis", 20, None).await;
    rendered.until_out(10, "yes\n").await;
    kept.until_out(10, &format!("{first} 1\n")).await;

    // No instance is left to take its place.
    for server in &mut world.groups[0].redis {
        server.kill();
    }
    let down = until_record(&world, "redis", 30, "no writer", |r| r.writer.is_none()).await;
    rendered.until_out(5, &format!("no, {}\n", down.why)).await;
    assert_eq!(kept.out().unwrap(), format!("{first} 1\n"));
    let once = run(&world, &["render", "--once", "--config", &kept_config], &[]);
    assert_eq!(once.status.code(), Some(1), "{}", text(&once));
    let said = format!("{} stays as it is: redis: there is no writer", kept.path("out").display());
    assert!(text(&once).contains(&said), "{}", text(&once));
    assert_eq!(kept.out().unwrap(), format!("{first} 1\n"));
}

#[tokio::test]
async fn a_check_that_fails_leaves_the_file_and_is_tried_again() {
    let world = world(small()).await;
    let rendered = Rendered::new(&world, WRITER);
    let good = rendered.path("good");
    let check = format!(
        "check = [\"sh\", \"-c\", \"echo looking at $1; test -e {} && grep -q : $1\", \"-\", \"{{}}\"]\n{}",
        good.display(),
        rendered.noting()
    );
    std::fs::write(rendered.path("out"), "the last good one\n").unwrap();
    let config = rendered.config("", &check);
    let running = agent(&world, "agent", &["--config", &config], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_log(&running, 10, "check: sh failed (exit status: 1); trying again in").await;
    assert!(running.log().contains("check: looking at "), "{}", running.log());
    assert_eq!(rendered.out().unwrap(), "the last good one\n");
    std::fs::write(good, "").unwrap();
    rendered.until_out(10, &format!("{first} 1\n")).await;
    until_log(&running, 5, "out is rendered").await;
    assert_eq!(rendered.noted(), format!("{first} 1\n"));
    let mut left: Vec<String> = std::fs::read_dir(&rendered.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["config.toml", "good", "noted", "out", "out.old", "source.j2"]);
}

#[tokio::test]
async fn a_command_that_fails_is_tried_again_even_by_the_next_process() {
    let world = world(small()).await;
    let _agent = agent(&world, "agent", &[], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    let rendered = Rendered::new(&world, WRITER);
    let ready = rendered.path("ready");
    let command = format!(
        "command = [\"sh\", \"-c\", \"test -e {} && echo once >> {}\"]",
        ready.display(),
        rendered.path("noted").display()
    );
    let config = rendered.config("", &command);
    let args = ["render", "--once", "--config", &config];
    let failed = run(&world, &args, &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("command: sh failed (exit status: 1)"), "{}", text(&failed));
    assert_eq!(rendered.out().unwrap(), format!("{first} 1\n"), "the new file is a good one");
    // It is up to date, and its command has not run.
    std::fs::write(&ready, "").unwrap();
    for _ in 0..2 {
        let done = run(&world, &args, &[]);
        assert_eq!(done.status.code(), Some(0), "{}", text(&done));
        assert_eq!(rendered.noted(), "once\n");
    }
    // A command that hangs is killed, and tried again.
    std::fs::remove_file(&ready).unwrap();
    std::fs::remove_file(rendered.path("out")).unwrap();
    let hangs =
        "command = [\"sh\", \"-c\", \"echo hanging; sleep 60\"]\ncommand_timeout = \"300ms\"";
    let watching = watcher(&world, &rendered.config("", hangs));
    until_log(&watching, 10, "command: hanging").await;
    until_log(&watching, 10, "command: sh was killed after 300 ms; trying again in").await;
    until("it is tried again", Duration::from_secs(10), || async {
        let count = watching.log().matches("command: hanging").count();
        if count >= 2 { Ok(()) } else { Err(LabError(watching.log())) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_storm_of_changes_is_joined() {
    let world = world(small()).await;
    let running = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let steady = until_in_sync(&world, "redis", 1).await;
    drop(running);
    let rendered = Rendered::new(&world, "{{ groups.redis.generation }}\n");
    let watching = watcher(&world, &rendered.config("", &rendered.noting()));
    rendered.until_out(10, "1\n").await;
    let client = world.consul.client().unwrap();
    let mut storm = steady.clone();
    for generation in 2..=60 {
        storm.generation = generation;
        let value = base64(&consul_redis::core::published::record::encode(&storm));
        let set = json!([{"KV": {"Verb": "set", "Key": "redis-ha/redis/state", "Value": value}}]);
        client.put("/v1/txn", &[], Some(&set)).await.unwrap();
    }
    rendered.until_out(20, "60\n").await;
    let times = rendered.until_noted("60").await;
    assert!((2..=6).contains(&times), "the command ran {times} times\n{}", watching.log());
    // Nothing changes: nothing is done, whatever is looked at.
    watching.signal(Signal::SIGHUP).unwrap();
    until_log(&watching, 5, "SIGHUP").await;
    // And an older generation is believed only when a consistent read says so: it does.
    let value = base64(&consul_redis::core::published::record::encode(&steady));
    let set = json!([{"KV": {"Verb": "set", "Key": "redis-ha/redis/state", "Value": value}}]);
    client.put("/v1/txn", &[], Some(&set)).await.unwrap();
    rendered.until_out(20, "1\n").await;
    assert_eq!(rendered.until_noted("1").await, times + 1);
}

/// Writes a record as another agent would.
async fn write_record(world: &World, record: &Record) {
    let value = base64(&consul_redis::core::published::record::encode(record));
    let set = json!([{"KV": {"Verb": "set", "Key": "redis-ha/redis/state", "Value": value}}]);
    world.consul.client().unwrap().put("/v1/txn", &[], Some(&set)).await.unwrap();
}

/// The instance that is not `writer`.
fn other(record: &Record, writer: &Address) -> Address {
    let mut addresses = record.instances.iter().map(|instance| &instance.address);
    addresses.find(|address| *address != writer).unwrap().clone()
}

/// Seven other changes, far enough apart that each is one of its own.
async fn storm(world: &World, record: &mut Record) {
    for generation in 2..=8 {
        record.generation = generation;
        write_record(world, record).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_switch_in_a_storm_of_other_changes_is_shown_at_once() {
    let world = world(small()).await;
    let running = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let mut record = until_in_sync(&world, "redis", 1).await;
    drop(running);
    let rendered =
        Rendered::new(&world, "{{ groups.redis.generation }} {{ groups.redis.writer.address }}\n");
    let _watching = watcher(&world, &rendered.config("", &rendered.noting()));
    let writer = record.writer_address().unwrap().clone();
    rendered.until_out(10, &format!("1 {writer}\n")).await;
    storm(&world, &mut record).await;
    let replica = other(&record, &writer);
    record.generation = 9;
    record.writer.as_mut().unwrap().address = replica.clone();
    write_record(&world, &record).await;
    rendered.until_out(3, &format!("9 {replica}\n")).await;
}

#[tokio::test]
async fn a_command_that_fails_keeps_its_pause_whatever_else_changes() {
    let world = world(small()).await;
    let running = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let mut record = until_in_sync(&world, "redis", 1).await;
    drop(running);
    let rendered = Rendered::new(&world, "{{ groups.redis.generation }}\n");
    let watching = watcher(&world, &rendered.config("", "command = [\"false\"]"));
    until_log(&watching, 10, "trying again in").await;
    storm(&world, &mut record).await;
    // After 1 s and after 2 s more, each a third more or less.
    let tries = watching.log().matches("trying again in").count();
    assert!(tries <= 2, "{}", watching.log());
    // Another writer is tried at once.
    let writer = record.writer_address().unwrap().clone();
    let replica = other(&record, &writer);
    record.generation = 9;
    record.writer.as_mut().unwrap().address = replica;
    write_record(&world, &record).await;
    rendered.until_out(1, "9\n").await;
}

/// What a config with this `[[template]]` is answered with, at once.
fn refused(world: &World, dir: &Path, entry: &str) -> String {
    let config = dir.join("refused.toml");
    std::fs::write(&config, format!("[[template]]\n{entry}\n")).unwrap();
    let shown = config.display().to_string();
    let refused = run(world, &["render", "--once", "--config", &shown], &[]);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    let agent = run(world, &["agent", "--config", &shown], &[]);
    assert_eq!(agent.status.code(), Some(64), "{}", text(&agent));
    text(&refused).replace(&format!("{}/", dir.display()), "")
}

#[tokio::test]
async fn templates_that_cannot_be_used_are_refused_at_once() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let dir = world.dir().to_owned();
    std::fs::write(dir.join("bad.j2"), "one\n{% for %}\n").unwrap();
    std::fs::write(dir.join("good.j2"), "one\n").unwrap();
    let entry = |source: &str, more: &str| {
        format!("source = \"{0}/{source}\"\ndestination = \"{0}/out\"\n{more}", dir.display())
    };
    let said = refused(&world, &dir, &entry("none.j2", ""));
    assert!(said.starts_with("error: refused.toml:2: cannot read none.j2: No such file"), "{said}");
    let said = refused(&world, &dir, &entry("bad.j2", ""));
    assert!(said.starts_with("error: refused.toml:2: bad.j2:2: syntax error"), "{said}");
    let said = refused(&world, &dir, &entry("good.j2", "owner = \"no-such-user\""));
    assert_eq!(
        said,
        "error: refused.toml:4: out: there is no user `no-such-user`\n\
         hint: owner = \"user:group\", of users and groups that this machine knows\n"
    );
    // A template that asks for what is not there gets an error with the line.
    std::fs::write(dir.join("good.j2"), "one\n{{ groups.radis.writer }}\n").unwrap();
    let _agent = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let config = dir.join("typo.toml");
    std::fs::write(&config, format!("[[template]]\n{}\n", entry("good.j2", ""))).unwrap();
    let typo = run(&world, &["render", "--print", "--config", config.to_str().unwrap()], &[]);
    assert_eq!(typo.status.code(), Some(1));
    assert!(text(&typo).contains("good.j2:2: undefined value"), "{}", text(&typo));
    assert!(!dir.join("out").exists());
}
