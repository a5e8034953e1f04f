//! Planned moves of the primary.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::promises::BOTH_WRITE;
use crate::support::{
    agent, agents, logs, run, text, until_in_sync, until_named, until_writer, world, writers,
};
use crate::writers::{Done, lost, none_lost};

/// Writes before a move, and after it.
const SOME: usize = 200;

async fn moves_without_losing_a_write(level: &str) {
    let world = world(WorldSpec::default()).await;
    let all = agents(&world, 2, &["--publish", level]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let writers = writers(&world);
    writers.until_more(SOME).await;
    let output = run_async(&world, &["switchover", "redis", "--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output), logs(&all));
    let new = until_writer(&world, "redis", 5, Some(&old)).await;
    assert!(
        text(&output).contains(&format!("done: moved from {old} to {new}")),
        "{}",
        text(&output)
    );
    writers.until_more(SOME).await;
    moved_without_loss(&world, &old, &new, &writers.stop()).await;
    until_in_sync(&world, "redis", 2).await;
}

/// The new primary has every write that was acknowledged, the old one follows it, and the name leads to it.
async fn moved_without_loss(world: &World, old: &str, new: &str, done: &[Done]) {
    none_lost(done, old, new).await;
    let follows = world.server(old).unwrap().follows().await.unwrap();
    assert_eq!(follows.map(|of| of.to_string()), Some(new.to_owned()));
    until_named(world, "redis-primary", &[new.to_owned()]).await;
}

/// Runs a command without keeping this thread's own tasks from going on.
pub async fn run_async(world: &World, args: &[&str]) -> std::process::Output {
    let mut command = tokio::process::Command::new(crate::support::program());
    command.args(args).envs(world.agent_env()).output().await.unwrap()
}

#[tokio::test]
pub async fn no_acknowledged_write_is_lost_at_level_promotion() {
    moves_without_losing_a_write("promotion").await;
}

#[tokio::test]
pub async fn no_acknowledged_write_is_lost_at_level_quorum() {
    moves_without_losing_a_write("quorum").await;
}

/// Proof that the two above can fail: the same clients, the same agents but for what they do to instances, and nothing
/// but Sentinel's own command.
#[tokio::test]
pub async fn a_bare_sentinel_failover_loses_acknowledged_writes() {
    let world = world(WorldSpec::default()).await;
    let config = world.dir().join("observer.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nmanage = false\n").unwrap();
    let all = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let writers = writers(&world);
    writers.until_more(SOME).await;
    let asked = Instant::now();
    world.sentinels[0].fail_over("redis").await.unwrap();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    writers.until_more(SOME).await;
    // Only then is what the old one took gone.
    until("the old primary follows the new one", Duration::from_secs(30), || async {
        let follows = world.server(&old).unwrap().follows().await?.map(|of| of.to_string());
        if follows.as_ref() == Some(&new) { Ok(()) } else { Err(LabError(format!("{follows:?}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&all)));
    until_in_sync(&world, "redis", 2).await;
    let done = writers.stop();
    let lost = lost(&done, &new).await;
    println!("{} of {} answers were of writes that are lost", lost.len(), done.len());
    assert!(!lost.is_empty(), "no acknowledged write was lost");
    assert!(lost.iter().all(|done| done.by.to_string() == old), "{lost:?}");
    BOTH_WRITE.kept(lost.last().unwrap().at - asked);
}

#[tokio::test]
pub async fn it_goes_where_it_was_asked_to_and_refuses_with_reasons() {
    let world = world(WorldSpec::default()).await;
    let old = until_a_writer_is_published(&world).await;
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

/// How old a Sentinel's INFO of a replica may be is three of these, in ms.
async fn set_info_period(world: &World, ms: &str) {
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "DEBUG", "info-period", ms]).await.unwrap();
    }
}

/// With it, a replica that fits when a failover is asked for does so no more at the Sentinel's next round.
const GIVES_UP: &str = "15";

#[tokio::test]
pub async fn a_failover_that_sentinel_gives_up_is_asked_for_again() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let _agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    set_info_period(&world, GIVES_UP).await;
    until("it is given up", Duration::from_secs(30), || async {
        let output = run_async(&world, &["switchover", "redis", "--yes"]).await;
        let said = text(&output);
        if said.contains("gave the failover up") { Ok(()) } else { Err(LabError(said)) }
    })
    .await
    .unwrap();
    set_info_period(&world, "1000").await;
    world.calm().await.unwrap();
    let before = until_writer(&world, "redis", 10, None).await;
    let output = run_async(&world, &["switchover", "redis", "--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    until_writer(&world, "redis", 5, Some(&before)).await;
}

#[tokio::test]
pub async fn a_handover_that_sentinels_give_up_at_first_is_made_all_the_same() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let primary = &world.groups[0].redis[0].address;
    let config = world.dir().join("node.toml");
    let text = format!("[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{primary}\"\n");
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--handover"];
    let mut node = agent(&world, "node", &args, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    set_info_period(&world, GIVES_UP).await;
    node.signal(Signal::SIGTERM).unwrap();
    // Three to six attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    set_info_period(&world, "1000").await;
    let code = node.end(Duration::from_secs(20)).await.unwrap();
    assert_eq!(code, 0, "{}", node.log());
    let new = until_writer(&world, "redis", 5, Some(&old)).await;
    assert!(node.log().contains(&format!("handed over from {old} to {new}")), "{}", node.log());
}

async fn until_a_writer_is_published(world: &World) -> String {
    let agents = agents(world, 1, &[]);
    let writer = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    drop(agents);
    // Consul takes the agent's key away once its session has ended.
    let gone = || async {
        let status = run(world, &["status"], &[]);
        let text = text(&status);
        if text.contains("no agent watches") { Ok(()) } else { Err(LabError(text)) }
    };
    until("no agent", Duration::from_secs(40), gone).await.unwrap();
    writer
}

#[tokio::test]
pub async fn an_agent_that_is_stopped_hands_its_primary_over() {
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
    let writers = writers(&world);
    writers.until_more(SOME).await;
    node.signal(Signal::SIGTERM).unwrap();
    let code = node.end(Duration::from_secs(20)).await.unwrap();
    assert_eq!(code, 0, "{}", node.log());
    let new = until_writer(&world, "redis", 5, Some(&old)).await;
    writers.until_more(SOME).await;
    let done = writers.stop();
    assert!(node.log().contains(&format!("handed over from {old} to {new}")), "{}", node.log());
    moved_without_loss(&world, &old, &new, &done).await;
}

#[tokio::test]
pub async fn what_cannot_be_handed_over_stays_and_the_agent_stops() {
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

/// While the note of a move stands in Consul, no dead writer is replaced at once, and no other move begins.
#[tokio::test]
pub async fn a_move_that_fails_while_consul_is_away_leaves_no_note_behind() {
    let mut world = world(WorldSpec::default()).await;
    let all = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    // It is not published where the new primary is.
    all.iter().for_each(|agent| agent.signal(Signal::SIGSTOP).unwrap());
    let (out, dir) = (world.dir().join("move.out"), world.dir().to_owned());
    let output = std::fs::File::create(&out).unwrap();
    let mut command = tokio::process::Command::new(crate::support::program());
    command.args(["switchover", "redis", "--yes"]).envs(world.agent_env()).current_dir(dir);
    command.stdout(output.try_clone().unwrap()).stderr(output).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let says = async |what: &str, within: u64| {
        until(what, Duration::from_secs(within), || async {
            let said = std::fs::read_to_string(&out).unwrap_or_default();
            if said.contains(what) { Ok(()) } else { Err(LabError(said)) }
        })
        .await
        .unwrap();
    };
    says("promoted", 20).await;
    world.consul.kill();
    // The move has failed, and what it has noted cannot be taken back now.
    says("a move is under way", 60).await;
    world.consul.restart().await.unwrap();
    until("the note is gone", Duration::from_secs(10), || async {
        match world.consul.key("redis-ha/redis/move").await? {
            None => Ok(()),
            Some(since) => Err(LabError(format!("a move is under way since {since}"))),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(&out).unwrap()));
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
}
