//! Agents whose clocks differ or are set, agents and a Consul that stand still for a while: what is said of when, and
//! what is done late.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::tools::faketime;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{list, text as words};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    agent, agents, counted, get, history, http_address, logs, must_follow_a_failover, node_agents,
    record, run, set_priorities, text, until_in_sync, until_named, until_record, until_writer,
    world,
};

/// Two hours, in ms.
const HOURS_MS: i64 = 7_200_000;
/// No step of a switch takes longer in these scenarios, in ms.
const SWITCH_MS: i64 = 90_000;

/// The wall clock of one agent, which can be set while it runs.
struct WallClock {
    file: PathBuf,
}

impl WallClock {
    fn ahead_by(world: &World, seconds: i64) -> Self {
        let clock = Self { file: world.dir().join("wall-clock") };
        clock.set(seconds);
        clock
    }

    /// So far ahead of the true time from now on, in s.
    fn set(&self, seconds: i64) {
        // At once: half a file would be no time.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn agent(&self, world: &World, name: &str, args: &[&str]) -> Process {
        let library = faketime().unwrap();
        let env = [
            ("LD_PRELOAD", path(&library)),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.file)),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        agent(world, name, args, &env)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The times that `history --steps` shows of the last switch, with what each is of.
fn steps(world: &World) -> Vec<(i64, String)> {
    let said = text(&run(world, &["history", "redis", "--steps"], &[]));
    let last = said.lines().skip(1).take_while(|line| line.starts_with(' '));
    let step = |line: &str| {
        let (ms, what) = line.trim().split_once(" ms  ")?;
        Some((ms.parse().ok()?, what.to_owned()))
    };
    let steps: Vec<_> = last.filter_map(step).collect();
    assert!(!steps.is_empty(), "{said}");
    steps
}

fn step(steps: &[(i64, String)], what: &str) -> i64 {
    let found = steps.iter().find(|(_, name)| name == what);
    found.unwrap_or_else(|| panic!("no `{what}`: {steps:?}")).0
}

/// Whether `status` names clocks, and whether `doctor` does.
fn clocks_named(world: &World) -> (bool, bool, String) {
    let status = text(&run(world, &["status"], &[]));
    let doctor = text(&run(world, &["doctor"], &[]));
    let named = (status.contains("clocks of agents differ"), doctor.contains("agent-clock"));
    (named.0, named.1, format!("{status}\n{doctor}"))
}

async fn until_clocks(world: &World, differ: bool) {
    until("clocks are named", Duration::from_secs(40), || async {
        let (status, doctor, said) = clocks_named(world);
        if (status, doctor) == (differ, differ) { Ok(()) } else { Err(LabError(said)) }
    })
    .await
    .unwrap();
}

/// One agent withdraws the name, another one publishes the next writer, and their clocks are two hours apart.
#[tokio::test]
async fn a_switch_that_two_agents_saw_is_timed_though_their_clocks_differ_by_hours() {
    let mut world = world(WorldSpec::default()).await;
    let dns = world.consul.dns.to_string();
    let args = ["--dns", dns.as_str()];
    let clock = WallClock::ahead_by(&world, HOURS_MS / 1_000);
    let (fast, right) =
        (clock.agent(&world, "agent-1", &args), agent(&world, "agent-0", &args, &[]));
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_clocks(&world, true).await;
    let (.., said) = clocks_named(&world);
    let named = "the clock of agent-1 is 7199 s or more ahead of agent-0's";
    assert!(said.contains(named) || said.contains(&named.replace("7199", "7200")), "{said}");
    let finding: Value =
        serde_json::from_slice(&run(&world, &["doctor", "--json"], &[]).stdout).unwrap();
    let finding =
        finding[0]["findings"].as_array().unwrap().iter().find(|f| f["code"] == "agent-clock");
    assert_eq!(finding.unwrap()["mend"], "chronyc makestep, on the host that is wrong");
    // It is said once.
    let warned = logs(std::slice::from_ref(&right)).matches(" WARN ").count();

    world.hurry().await;
    set_priorities(&world, "0").await;
    right.signal(Signal::SIGSTOP).unwrap();
    world.server_mut(&first).unwrap().kill();
    let withdrawn = until_record(&world, "redis", 30, "no writer", |r| r.writer.is_none()).await;
    assert_eq!(withdrawn.by, "agent-1");
    right.signal(Signal::SIGCONT).unwrap();
    until("agent-0 knows", Duration::from_secs(20), || async {
        let log = right.log();
        if log.contains("no writer, generation 2") { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    fast.signal(Signal::SIGSTOP).unwrap();
    set_priorities(&world, "100").await;
    // With the next attempt: twice `failover-timeout` after the first.
    let second = until_writer(&world, "redis", 60, Some(&first)).await;
    fast.signal(Signal::SIGCONT).unwrap();
    let change = until("it was seen in DNS", Duration::from_secs(20), || async {
        let history = history(&world).await?;
        let change = history.first().filter(|change| change.timeline.in_dns.is_some());
        change.cloned().ok_or_else(|| LabError(format!("{history:?}")))
    });
    assert_eq!(change.await.unwrap().by, "agent-0");
    let found = steps(&world);
    for (ms, what) in &found {
        assert!((0..SWITCH_MS).contains(ms), "{ms} ms {what}: {found:?}");
    }
    // What DNS answers and whom the Sentinels name are two things: either may come first.
    for last in ["in DNS", "confirmed"] {
        let order = ["withdrawn", "promoted", "sent to Consul", last];
        let times: Vec<i64> = order.iter().map(|what| step(&found, what)).collect();
        assert!(times.is_sorted(), "{found:?}");
    }
    assert_eq!(found[0].1, "without a writer, as clients had it");
    assert!(found[0].0 > 1_000, "{found:?}");
    until_named(&world, "redis-primary", std::slice::from_ref(&second)).await;

    // The cure: the finding is gone, and the clock that was set has moved nothing.
    let before = record(&world, "redis").await.unwrap().generation;
    clock.set(0);
    until_clocks(&world, false).await;
    clock.set(-HOURS_MS / 1_000);
    until_clocks(&world, true).await;
    clock.set(0);
    until_clocks(&world, false).await;
    assert_eq!(record(&world, "redis").await.unwrap().generation, before);
    assert!(warned <= 1, "{}", right.log());
    drop(right);
    // The one whose clock was set goes on alone.
    until_in_sync(&world, "redis", 1).await;
    must_follow_a_failover(&mut world).await;
}

async fn names(sentinel: &LabServer) -> Result<String, LabError> {
    let answer = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"]).await?;
    let parts = list(&answer).map_err(LabError)?;
    let parts: Result<Vec<String>, String> = parts.iter().map(words).collect();
    Ok(parts.map_err(LabError)?.join(":"))
}

/// Consul stands still while the Sentinels replace the primary: what took so long is Consul, and the steps say so.
#[tokio::test]
async fn a_failover_while_consul_stands_still_is_timed_by_when_things_happened() {
    const STILL: Duration = Duration::from_secs(6);
    let mut world = world(WorldSpec::default()).await;
    let dns = world.consul.dns.to_string();
    let running = agents(&world, 1, &["--dns", &dns, "--listen", "127.0.0.1:0"]);
    let url = http_address(&running[0]).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.consul.signal(Signal::SIGSTOP).unwrap();
    world.server_mut(&first).unwrap().kill();
    until("a Sentinel names another one", Duration::from_secs(40), || async {
        let named = names(&world.sentinels[0]).await?;
        if named == first { Err(LabError(named)) } else { Ok(()) }
    })
    .await
    .unwrap();
    // It is the length of Consul's absence that is measured.
    tokio::time::sleep(STILL).await;
    world.consul.signal(Signal::SIGCONT).unwrap();
    until_writer(&world, "redis", 40, Some(&first)).await;
    until("it was seen in DNS", Duration::from_secs(20), || async {
        let history = history(&world).await?;
        let seen = history.first().filter(|change| change.timeline.in_dns.is_some());
        seen.map(|_| ()).ok_or_else(|| LabError(format!("{history:?}")))
    })
    .await
    .unwrap();
    let found = steps(&world);
    let still_ms = i64::try_from(STILL.as_millis()).unwrap();
    assert_eq!(found[0].1, "without a writer, as clients had it", "{found:?}");
    assert!(found[0].0 >= still_ms, "{found:?}");
    let promoted = step(&found, "promoted");
    assert!(step(&found, "acknowledged by Consul") - promoted >= still_ms, "{found:?}");
    assert!(step(&found, "decided") - promoted < 2_000, "{found:?}");
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    let slow = "consul_redis_promotion_to_published_seconds_sum{group=\"redis\"}";
    assert!(counted(&all, slow) >= STILL.as_secs_f64(), "{}", counted(&all, slow));
}

/// An agent is suspended through two failovers, as a VM or a container is, and goes on.
#[tokio::test]
async fn an_agent_that_was_suspended_through_two_failovers_does_nothing_late() {
    const STOPPED: Duration = Duration::from_secs(60);
    let mut world = world(WorldSpec::default()).await;
    let mut running = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let late = running.remove(1);
    late.signal(Signal::SIGSTOP).unwrap();
    let stopped = tokio::time::Instant::now();
    let mut writer = first;
    for _ in 0..2 {
        world.calm().await.unwrap();
        world.server_mut(&writer).unwrap().kill();
        let next = until_writer(&world, "redis", 40, Some(&writer)).await;
        world.server_mut(&writer).unwrap().restart().await.unwrap();
        until_in_sync(&world, "redis", 2).await;
        writer = next;
    }
    world.calm().await.unwrap();
    // Longer than its session, and than everything that it had decided.
    tokio::time::sleep_until(stopped + STOPPED).await;
    let before = record(&world, "redis").await.unwrap();
    let said = late.log().len();
    late.signal(Signal::SIGCONT).unwrap();
    until("it is there again", Duration::from_secs(40), || async {
        let key = world.consul.key("redis-ha/redis/agents/agent-1").await?;
        let log = late.log();
        let knows = log[said..].contains(&format!("generation {}", before.generation));
        if key.is_some() && knows { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    // It looks at all of it more than once.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = record(&world, "redis").await.unwrap();
    assert_eq!(
        (after.generation, after.writer_address()),
        (before.generation, before.writer_address())
    );
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    let log = late.log();
    let nonsense: Vec<&str> = log[said..]
        .lines()
        .filter(|line| {
            line.contains(" WARN ")
                || line.contains(" ERROR ")
                || line.contains("holding writes")
                || line.contains(" it is a replica of ")
                || line.contains("is a primary now")
        })
        .collect();
    assert!(nonsense.is_empty(), "{}", nonsense.join("\n"));
    running.clear();
    must_follow_a_failover(&mut world).await;
}

/// A failover that went well is no reason to look at a log: what is wrong is about the server that is gone.
#[tokio::test]
async fn a_failover_a_return_and_a_planned_move_leave_no_warning() {
    let mut world = world(WorldSpec::default()).await;
    let mut running = node_agents(&world, "");
    running.extend(agents(&world, 2, &[]));
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}", text(&moved));
    until_writer(&world, "redis", 40, Some(&second)).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let said = logs(&running);
    let wrong = said.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let others: Vec<&str> = wrong.filter(|line| !line.contains(&first)).collect();
    assert!(others.is_empty(), "{}", others.join("\n"));
}
