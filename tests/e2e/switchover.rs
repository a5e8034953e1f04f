//! Planned moves of the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use consul_redis::dns::Names;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings};
use nix::sys::signal::Signal;

use crate::support::{
    agent, agents, logs, run, text, until_in_sync, until_named, until_writer, world,
};

/// A client that counts through the name, and counts what was acknowledged.
struct Counter {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Counter {
    fn start(world: &World) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let names = world.consul.names().unwrap();
        let server = &world.groups[0].redis[0];
        let (port, login) = (server.address.port(), server.login.clone());
        let (count, end) = (acknowledged.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while !end.load(Ordering::Relaxed) {
                if increment(&names, port, &login).await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { acknowledged, stop, task }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}

async fn increment(names: &Names, port: u16, login: &LinkSettings) -> Option<()> {
    let found = names.a("redis-primary.service.consul").await.ok()?;
    let address = format!("{}:{port}", found.first()?).parse().ok()?;
    let mut link = Link::open(&address, login).await.ok()?;
    let mut command = redis::pipe();
    command.cmd("INCR").arg("counter");
    let answers = link.ask(&command).await.ok()?;
    matches!(answers.first(), Some(redis::Value::Int(_))).then_some(())
}

async fn moves_without_losing_a_write(level: &str) {
    let world = world(WorldSpec::default()).await;
    let all = agents(&world, 2, &["--publish", level]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let counter = Counter::start(&world);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let output = run_async(&world, &["switchover", "redis", "--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output), logs(&all));
    let new = until_writer(&world, "redis", 5, Some(&old)).await;
    assert!(
        text(&output).contains(&format!("done: moved from {old} to {new}")),
        "{}",
        text(&output)
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acknowledged = counter.stop().await;
    moved_without_loss(&world, &old, &new, acknowledged).await;
    until_in_sync(&world, "redis", 2).await;
}

/// The new primary has every write that was acknowledged, the old one follows it, and the name leads to it.
async fn moved_without_loss(world: &World, old: &str, new: &str, acknowledged: u64) {
    let kept = world.server(new).unwrap().ask(&["GET", "counter"]).await.unwrap();
    let kept: u64 = consul_redis::redis_link::text(&kept).unwrap().parse().unwrap();
    // One more may have been done whose answer was lost with its connection.
    assert!(kept >= acknowledged, "{acknowledged} acknowledged, {kept} kept");
    assert!(acknowledged > 100, "{acknowledged}");
    let follows = world.server(old).unwrap().follows().await.unwrap();
    assert_eq!(follows.map(|of| of.to_string()), Some(new.to_owned()));
    until_named(world, "redis-primary", &[new.to_owned()]).await;
}

/// Runs a command without keeping this thread's own tasks from going on.
async fn run_async(world: &World, args: &[&str]) -> std::process::Output {
    let mut command = tokio::process::Command::new(crate::support::program());
    command.args(args).envs(world.agent_env()).output().await.unwrap()
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_at_level_promotion() {
    moves_without_losing_a_write("promotion").await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_at_level_quorum() {
    moves_without_losing_a_write("quorum").await;
}

#[tokio::test]
async fn it_goes_where_it_was_asked_to_and_refuses_with_reasons() {
    let world = world(WorldSpec::default()).await;
    let old = until_somebody_publishes(&world).await;
    // The agent that published is gone.
    let refused = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("none watches this group"), "{}", text(&refused));
    let _agents = agents(&world, 1, &[]);
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let refuse = |args: &[&str], why: &str| {
        let output = run(&world, args, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
    };
    refuse(&["switchover", "redis", "--yes", "--to", &old], "is the writer already");
    refuse(&["switchover", "redis", "--yes", "--to", "127.0.0.1:1"], "is no replica of this group");
    refuse(&["switchover", "nonsense", "--yes"], "Consul knows no group `nonsense`");
    refuse(&["switchover", "redis"], "not confirmed");
    let last = world.groups[0].redis[2].address.to_string();
    let priority = world.server(&last).unwrap();
    priority.ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    refuse(&["switchover", "redis", "--yes", "--to", &last], "has priority 0");
    priority.ask(&["CONFIG", "SET", "replica-priority", "100"]).await.unwrap();
    assert_eq!(until_writer(&world, "redis", 5, None).await, old, "nothing has moved");

    let output = run(&world, &["switchover", "redis", "--yes", "--to", &last], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(until_writer(&world, "redis", 5, Some(&old)).await, last);
    let kept = priority.ask(&["CONFIG", "GET", "replica-priority"]).await.unwrap();
    assert!(format!("{kept:?}").contains("100"), "{kept:?}");
}

async fn until_somebody_publishes(world: &World) -> String {
    let agents = agents(world, 1, &[]);
    let writer = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    drop(agents);
    // Consul takes the agent's key away once its session has ended.
    let gone = || async {
        let status = run(world, &["status"], &[]);
        let text = text(&status);
        if text.contains("no agent watches") {
            Ok(())
        } else {
            Err(consul_redis::lab::LabError(text))
        }
    };
    consul_redis::lab::wait::until("no agent", Duration::from_secs(40), gone).await.unwrap();
    writer
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_hands_its_primary_over() {
    let world = world(WorldSpec::default()).await;
    let primary = &world.groups[0].redis[0].address;
    let config = world.dir().join("node.toml");
    let text = format!(
        "[agent]\nhandover = true\n[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{primary}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    // Alone: it has to publish the new writer itself before it goes.
    let mut node = agent(&world, "node", &["--config", config.to_str().unwrap()], &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let counter = Counter::start(&world);
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.signal(Signal::SIGTERM).unwrap();
    let code = node.end(Duration::from_secs(20)).await.unwrap();
    assert_eq!(code, 0, "{}", node.log());
    let new = until_writer(&world, "redis", 5, Some(&old)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acknowledged = counter.stop().await;
    assert!(node.log().contains(&format!("handed over from {old} to {new}")), "{}", node.log());
    moved_without_loss(&world, &old, &new, acknowledged).await;
}

#[tokio::test]
async fn what_cannot_be_handed_over_stays_and_the_agent_stops() {
    let mut world = world(WorldSpec::default()).await;
    let primary = world.groups[0].redis[0].address.clone();
    let config = world.dir().join("node.toml");
    let text = format!(
        "[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{primary}\"\ncheck_interval = \"1s\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut node =
        agent(&world, "node", &["--config", config.to_str().unwrap(), "--handover"], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    for server in &mut world.groups[0].redis[1..] {
        server.kill();
    }
    until_in_sync(&world, "redis", 0).await;
    node.signal(Signal::SIGTERM).unwrap();
    let code = node.end(Duration::from_secs(10)).await.unwrap();
    assert_eq!(code, 0, "{}", node.log());
    assert!(node.log().contains("stays where it is: replicas none of"), "{}", node.log());
    assert_eq!(until_writer(&world, "redis", 5, None).await, writer);
}
