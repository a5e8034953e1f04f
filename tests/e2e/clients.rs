//! The samples of docs/clients.md, as they are: each writes by the name, over everything that happens to the primary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::Tool;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::text as value_text;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::support::{agents, logs, record, until_in_sync, until_writer, world};

/// From when the new writer is published until a sample writes to it: a second for a connection that says nothing, a
/// tenth of one between attempts, and the machine's own slowness.
const RESUME_MAX: Duration = Duration::from_secs(5);
/// How many acknowledged writes replication may be behind: a second's worth, at one in 10 ms. A write is sent to the
/// replicas at once, but no answer waits for them.
const BEHIND_MAX: usize = 100;
/// Writes between two events.
const SOME: usize = 50;

/// What a sample says of one write.
#[derive(Debug, Clone)]
pub struct Line {
    pub acknowledged: bool,
    pub number: u64,
    pub why: String,
}

impl Line {
    /// Redis' own words; the code before them is not shown by every client.
    fn is_refused(&self) -> bool {
        self.why.contains("read only replica")
    }
}

/// A running sample.
pub struct Sample {
    pub process: Process,
}

impl Sample {
    pub fn start(world: &World, interpreter: &Path, args: &[String]) -> Self {
        let env = [("CONSUL_DNS".to_owned(), world.consul.dns.to_string())];
        let tool = Tool::at(interpreter.to_owned());
        let process = Process::start("sample", &tool, args, &env, world.dir(), Life::WithUs);
        Self { process: process.expect("a sample") }
    }

    /// All that it said so far; the last line may not be whole yet.
    pub fn lines(&self) -> Vec<Line> {
        let log = self.process.log();
        let whole = log.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        whole.lines().filter_map(line).collect()
    }

    /// Waits for what it says after the first `seen` lines.
    pub async fn until(
        &self,
        what: &str,
        seen: usize,
        wanted: impl Fn(&[Line]) -> bool,
    ) -> Vec<Line> {
        let found = until(what, Duration::from_secs(30), || async {
            let lines = self.lines();
            if wanted(lines.get(seen..).unwrap_or_default()) {
                return Ok(lines);
            }
            Err(LabError(format!("{:?}", lines.last())))
        });
        found.await.unwrap_or_else(|error| panic!("{error}\n{}", self.process.log()))
    }

    pub async fn until_some_more(&self) {
        let seen = self.lines().len();
        let many = |lines: &[Line]| lines.iter().filter(|line| line.acknowledged).count() >= SOME;
        self.until("writes go on", seen, many).await;
    }
}

fn line(text: &str) -> Option<Line> {
    let mut words = text.splitn(3, ' ');
    let acknowledged = match words.next()? {
        "acknowledged" => true,
        "failed" => false,
        _ => return None,
    };
    let number = words.next()?.parse().ok()?;
    Some(Line { acknowledged, number, why: words.next().unwrap_or_default().to_owned() })
}

/// What came of the writes.
struct Outcome {
    acknowledged: Vec<u64>,
    failed: Vec<u64>,
    /// What an event may have cost: the last writes that were acknowledged before it.
    at_risk: Vec<u64>,
    /// How long after the new writer was published it was written to.
    resumed: Vec<Duration>,
}

impl Outcome {
    /// Holds the sample to what the writer has.
    async fn check(&self, name: &str, world: &World, writer: &str) {
        let server = world.server(writer).expect("a server");
        let has = async |number: u64| {
            let answer = server.ask(&["GET", &format!("written:{number}")]).await;
            value_text(&answer.expect("an answer")).is_ok_and(|value| value == number.to_string())
        };
        let mut lost = Vec::new();
        for number in &self.acknowledged {
            if !has(*number).await {
                lost.push(*number);
            }
        }
        let mut done = 0;
        for number in &self.failed {
            done += usize::from(has(*number).await);
        }
        println!(
            "{name}: {} writes acknowledged, {} of them lost; {} failed, {done} of them written all the same; \
             writes went on {:?} after the new writer was published",
            self.acknowledged.len(),
            lost.len(),
            self.failed.len(),
            self.resumed
        );
        let unexplained: Vec<&u64> =
            lost.iter().filter(|number| !self.at_risk.contains(*number)).collect();
        assert!(unexplained.is_empty(), "{name} lost {unexplained:?}");
        assert!(!self.failed.is_empty(), "nothing ever failed: nothing was tried");
        assert!(self.resumed.iter().all(|took| *took < RESUME_MAX), "{:?}", self.resumed);
    }
}

/// The last that were acknowledged before the first failure after `seen` lines.
pub fn last_before_failure(lines: &[Line], seen: usize) -> Vec<u64> {
    let failure = lines.iter().skip(seen).position(|line| !line.acknowledged);
    let end = seen + failure.expect("a failure");
    let before = lines.iter().take(end).filter(|line| line.acknowledged).map(|line| line.number);
    before.rev().take(BEHIND_MAX).collect()
}

/// How long Sentinels may take to replace a primary. One that says it is a replica is called down two INFO periods
/// after `down-after-milliseconds`, which are 20 s where the lab cannot shorten them (before Redis 7.0).
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

/// The primary does not serve any more: waits for the next one, and for the sample to write to it.
async fn follow(world: &World, sample: &Sample, old: &str, outcome: &mut Outcome) -> String {
    until("another writer", REPLACED_WITHIN, || async {
        let record = record(world, "redis").await?;
        let writer = record.writer_address().map(Address::to_string);
        match writer {
            Some(writer) if writer != old => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap();
    let published = Instant::now();
    let seen = sample.lines().len();
    sample.until("a write", seen, |lines| lines.iter().any(|line| line.acknowledged)).await;
    outcome.resumed.push(published.elapsed());
    until_writer(world, "redis", 20, Some(old)).await
}

/// A sample writes while the primary is killed and comes back, is made a replica by mistake, and freezes and thaws.
async fn survives(name: &str, interpreter: PathBuf, args: &[String]) {
    // Before 7.0 the lab cannot shorten Sentinel's INFO period: replicas that have lost their link for three of them
    // and this may be chosen only below ten times this (`docs/facts/sentinel.md` 20).
    let mut world = world(WorldSpec { down_after_ms: 4_000, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let mut sample = Sample::start(&world, &interpreter, args);
    let mut outcome = Outcome {
        acknowledged: Vec::new(),
        failed: Vec::new(),
        at_risk: Vec::new(),
        resumed: Vec::new(),
    };
    sample.until_some_more().await;

    // Killed: its connections are closed.
    let seen = sample.lines().len();
    world.server_mut(&first).unwrap().kill();
    let second = follow(&world, &sample, &first, &mut outcome).await;
    outcome.at_risk.extend(last_before_failure(&sample.lines(), seen));
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    sample.until_some_more().await;

    // A replica by mistake, of TEST-NET-1 (not of 192.0.2.1, which agents know as their own word, and heal): it
    // answers, closes nothing, and takes no writes. Sentinels call that down two of their INFO periods after
    // down-after-milliseconds (some 20 s, which is not the subject here), and make it follow the next primary, and
    // close its connections, 8 s after that.
    let seen = sample.lines().len();
    world.hurry().await;
    let server = world.server(&second).unwrap();
    server.ask(&["REPLICAOF", "192.0.2.7", "6379"]).await.unwrap();
    let refused = |lines: &[Line]| lines.iter().any(Line::is_refused);
    sample.until("a write is refused", seen, refused).await;
    // It looks the name up anew. That leads there for as long as no agent has taken the name away, so that a new connection
    // is asked for its role.
    let anew = |lines: &[Line]| lines.iter().any(|line| !line.acknowledged && !line.is_refused());
    sample.until("it has looked the name up anew", seen, anew).await;
    let third = follow(&world, &sample, &second, &mut outcome).await;
    outcome.at_risk.extend(last_before_failure(&sample.lines(), seen));
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    sample.until_some_more().await;

    // Frozen: nothing is closed, and nothing is answered. Then it thaws, as a primary.
    let seen = sample.lines().len();
    world.server(&third).unwrap().signal(Signal::SIGSTOP).unwrap();
    let fourth = follow(&world, &sample, &third, &mut outcome).await;
    outcome.at_risk.extend(last_before_failure(&sample.lines(), seen));
    world.server(&third).unwrap().signal(Signal::SIGCONT).unwrap();
    until_in_sync(&world, "redis", 2).await;
    sample.until_some_more().await;

    assert_eq!(sample.process.ended(), None, "{}", sample.process.log());
    sample.process.kill();
    for line in sample.lines() {
        let to = if line.acknowledged { &mut outcome.acknowledged } else { &mut outcome.failed };
        to.push(line.number);
    }
    outcome.check(name, &world, &fourth).await;
    assert!(!logs(&agents).contains("panicked"), "{}", logs(&agents));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An interpreter that finds its Redis client.
pub fn interpreter(name: &str) -> PathBuf {
    let ours = root().join(".tools/bin").join(name);
    assert!(ours.exists(), "no {name}: run scripts/tools.sh clients");
    ours
}

pub fn sample(name: &str) -> Vec<String> {
    vec![root().join("examples/clients").join(name).display().to_string()]
}

#[tokio::test]
async fn the_sample_for_redis_py_survives() {
    survives("redis-py", interpreter("python-with-redis"), &sample("redis_py.py")).await;
}

#[tokio::test]
async fn the_sample_for_node_redis_survives() {
    survives("node-redis", interpreter("node-with-redis"), &sample("node_redis.js")).await;
}

/// Builds an example, and says where it is.
pub fn example(name: &str) -> PathBuf {
    // Examples are built with all tests, but not with one alone.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--example", name])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // target/debug/deps/this
    let exe = std::env::current_exe().expect("this program");
    let dir = exe.ancestors().nth(2).expect("a directory");
    dir.join("examples").join(name)
}

#[tokio::test]
async fn the_sample_for_redis_rs_survives() {
    survives("redis-rs", example("redis_rs"), &[]).await;
}
