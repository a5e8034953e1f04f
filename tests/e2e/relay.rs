//! The Sentinel that leads a failover dies as its replica says that it is the primary: no other Sentinel has heard of
//! that.

use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::first_primary;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{list, text as text_of};
use nix::sys::signal::Signal;

use crate::support::{
    agents, logs, must_follow_a_failover, node_agents, run, text, until_in_sync, until_logged,
    until_record, until_writer, world, writers,
};
use crate::writers::{Done, Kind, lost};

/// Writes before and after.
const SOME: usize = 200;
/// The Sentinel that an operator asks.
const ASKED: usize = 1;
/// What Sentinels wait for where the agents do not, in ms.
const PATIENT_MS: u64 = 60_000;
/// Shorter than it takes a leader to announce what it promoted.
const BEFORE_ANNOUNCED: Duration = Duration::from_millis(400);
/// How long another failover may take that a dead leader leaves behind, in s: twice `failover-timeout`, and one more
/// election.
const ANOTHER_WITHIN_S: u64 = 60;

/// A config with these lines for the group.
fn config(world: &World, lines: &str) -> String {
    let path = world.dir().join("relay.toml");
    std::fs::write(&path, format!("[[group]]\nname = \"redis\"\n{lines}")).unwrap();
    path.display().to_string()
}

/// How a failover begins whose leader dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// The primary dies, and Sentinels elect a leader.
    Elected,
    /// The primary dies, which the agent beside it sees at once: one Sentinel is asked.
    Proven,
    /// An operator asks one Sentinel.
    Asked,
}

async fn begin(world: &mut World, first: &str, begins: Begins) {
    match begins {
        Begins::Elected | Begins::Proven => world.server_mut(first).unwrap().kill(),
        Begins::Asked => {
            world.sentinels[ASKED].ask(&["SENTINEL", "FAILOVER", "redis"]).await.unwrap();
        }
    }
}

/// Has the primary replaced, and stops the Sentinel that leads the failover as soon as a replica says that it is the
/// primary. That replica.
async fn lose_the_leader(
    world: &mut World,
    first: &str,
    begins: Begins,
    signal: Signal,
) -> Address {
    let (promoted, leader) = led(world, first, begins).await;
    world.sentinels[leader].signal(signal).unwrap();
    promoted
}

/// A replica says that it is the primary: which one, and which Sentinel leads that failover.
async fn led(world: &mut World, first: &str, begins: Begins) -> (Address, usize) {
    begin(world, first, begins).await;
    let asked = match begins {
        Begins::Elected => None,
        Begins::Asked => Some(ASKED),
        Begins::Proven => {
            let asked = until_record(world, "redis", 20, "a Sentinel is asked", |record| {
                record.death.is_some()
            });
            let asked = asked.await.death.unwrap().sentinel;
            world.sentinels.iter().position(|sentinel| sentinel.address == asked)
        }
    };
    let replicas = &world.groups[0].redis[1..];
    assert!(replicas.iter().all(|replica| replica.address.to_string() != first));
    // Which one leads is known before: once the replica is promoted, it announces that at its next INFO.
    let leader = async {
        match asked {
            Some(leader) => leader,
            None => elected(world).await,
        }
    };
    let ((promoted, _), leader) = tokio::join!(first_primary(replicas), leader);
    (promoted, leader)
}

/// The Sentinel that leads the failover, as soon as it does.
async fn elected(world: &World) -> usize {
    let found = until("a Sentinel leads the failover", Duration::from_secs(20), || async {
        let asked = world.sentinels.iter().map(|sentinel| sentinel.failover_state("redis"));
        let states = futures_util::future::join_all(asked).await;
        let leads = |state: &Result<Option<String>, LabError>| {
            let state = state.as_ref().ok().and_then(Option::as_deref);
            matches!(state, Some("select_slave" | "send_slaveof_noone" | "wait_promotion"))
        };
        states.iter().position(leads).ok_or_else(|| LabError(format!("{states:?}")))
    });
    found.await.unwrap()
}

/// Writes that this server acknowledged.
fn acknowledged_by(done: Vec<Done>, server: &Address) -> Vec<Done> {
    let by = server.to_string();
    done.into_iter().filter(|done| done.kind != Kind::Reader && done.by.to_string() == by).collect()
}

async fn begun(lines: &str, level: &str, begins: Begins) -> (World, Vec<Process>, String) {
    let spec = WorldSpec::default();
    let down_after_ms = if begins == Begins::Proven { PATIENT_MS } else { spec.down_after_ms };
    let world = world(WorldSpec { down_after_ms, ..spec }).await;
    let agents = if begins == Begins::Proven {
        node_agents(&world, &format!("{lines}publish = \"{level}\""))
    } else {
        let config = config(&world, lines);
        agents(&world, 3, &["--config", &config, "--publish", level])
    };
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    if begins == Begins::Proven {
        let pid = world.server(&first).unwrap().id().unwrap();
        let said = format!("the end of process {pid} of {first} would be seen at once");
        until_logged(|| logs(&agents), 20, &said, 1).await;
    }
    world.calm().await.unwrap();
    (world, agents, first)
}

/// What the promoted one acknowledges stays, its name is published once and not withdrawn.
async fn nothing_is_lost(level: &str, begins: Begins, signal: Signal) {
    let (mut world, agents, first) = begun("", level, begins).await;
    let before = until_in_sync(&world, "redis", 2).await;
    let writers = writers(&world);
    writers.until_more(SOME).await;
    let promoted = lose_the_leader(&mut world, &first, begins, signal).await;
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    assert_eq!(second, promoted.to_string(), "{}", logs(&agents));
    writers.until_more(SOME).await;
    // The one that is left follows, by a Sentinel's hand: the leader's own would have been sooner.
    let left = if begins == Begins::Asked { 2 } else { 1 };
    let after = until_in_sync(&world, "redis", left).await;
    let published = after.generation - before.generation;
    assert!(published <= 2, "withdrawn and published, once each\n{}", logs(&agents));
    assert_eq!(after.writer_address(), Some(&promoted));
    writers.until_more(SOME).await;
    let done = acknowledged_by(writers.stop(), &promoted);
    let lost = lost(&done, &second).await;
    println!("{} writes acknowledged by {promoted}, {} lost", done.len(), lost.len());
    assert!(done.len() >= SOME && lost.is_empty(), "{lost:?}");
    let log = logs(&agents);
    assert!(log.contains(&format!("of {promoted}, the primary at epoch")), "{log}");
    // The leader is back, and says nothing else.
    for sentinel in &mut world.sentinels {
        let _ = sentinel.signal(Signal::SIGCONT);
        if sentinel.failover_state("redis").await.is_err() {
            sentinel.restart().await.unwrap();
        }
    }
    if begins != Begins::Asked {
        world.server_mut(&first).unwrap().restart().await.unwrap();
    }
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let now = until_in_sync(&world, "redis", 2).await;
    assert_eq!(now.writer_address(), Some(&promoted), "{}", logs(&agents));
    assert_eq!(now.generation, after.generation, "{}", logs(&agents));
    if begins != Begins::Proven {
        must_follow_a_failover(&mut world).await;
    }
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_with_the_leader_at_level_promotion() {
    nothing_is_lost("promotion", Begins::Elected, Signal::SIGKILL).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_with_a_leader_that_stands_still() {
    nothing_is_lost("promotion", Begins::Elected, Signal::SIGSTOP).await;
}

/// The majority itself names it, so the level does not matter.
#[tokio::test]
async fn no_acknowledged_write_is_lost_with_the_leader_at_level_quorum() {
    nothing_is_lost("quorum", Begins::Elected, Signal::SIGKILL).await;
}

/// No Sentinel voted for a leader that was asked: agents tell the others at an epoch that no election has.
#[tokio::test]
async fn no_acknowledged_write_is_lost_with_a_leader_that_was_asked_at_level_promotion() {
    nothing_is_lost("promotion", Begins::Asked, Signal::SIGKILL).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_with_a_leader_that_was_asked_at_level_quorum() {
    nothing_is_lost("quorum", Begins::Asked, Signal::SIGKILL).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_with_the_leader_after_a_proven_death() {
    nothing_is_lost("promotion", Begins::Proven, Signal::SIGKILL).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_with_a_leader_that_stands_still_after_a_proven_death() {
    nothing_is_lost("promotion", Begins::Proven, Signal::SIGSTOP).await;
}

/// The agents tell the Sentinels at the promotion: all name the new primary before the leader says a word, and the
/// replica that the leader points nowhere any more follows by the agents' hand.
async fn announced_at_once(begins: Begins) {
    let (mut world, agents, first) = begun("announce = \"eager\"\n", "quorum", begins).await;
    let before = until_in_sync(&world, "redis", 2).await;
    let writers = writers(&world);
    writers.until_more(SOME).await;
    begin(&mut world, &first, begins).await;
    let (promoted, _) = first_primary(&world.groups[0].redis[1..]).await;
    until("all Sentinels name it", Duration::from_secs(2), || async {
        for sentinel in &world.sentinels {
            let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"];
            let answer = sentinel.ask(&asked).await?;
            let words = list(&answer).map_err(LabError)?.iter().map(text_of);
            let named = words.collect::<Result<Vec<_>, _>>().map_err(LabError)?.join(":");
            if named != promoted.to_string() {
                return Err(LabError(format!("{} names {named}", sentinel.address)));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    assert_eq!(second, promoted.to_string(), "{}", logs(&agents));
    // Sentinel itself would do it after 10 s.
    let other = world.groups[0].redis[1..].iter().find(|redis| redis.address != promoted).unwrap();
    until("the other one follows", Duration::from_secs(5), || async {
        let of = other.follows().await?;
        if of.as_ref() == Some(&promoted) { Ok(()) } else { Err(LabError(format!("{of:?}"))) }
    })
    .await
    .unwrap();
    writers.until_more(SOME).await;
    let done = acknowledged_by(writers.stop(), &promoted);
    let lost = lost(&done, &second).await;
    assert!(done.len() >= SOME && lost.is_empty(), "{lost:?}");
    let log = logs(&agents);
    assert!(log.contains("announce = \"eager\""), "{log}");
    if begins != Begins::Asked {
        world.server_mut(&first).unwrap().restart().await.unwrap();
    }
    let after = until_in_sync(&world, "redis", 2).await;
    assert_eq!(after.writer_address(), Some(&promoted), "{log}");
    assert!(after.generation <= before.generation + 2, "{log}");
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn agents_that_are_eager_announce_an_election_at_once() {
    announced_at_once(Begins::Elected).await;
}

#[tokio::test]
async fn agents_that_are_eager_announce_a_forced_failover_at_once() {
    announced_at_once(Begins::Asked).await;
}

/// What the others rest on: without the relay, the Sentinels that are left elect once more, and where they choose
/// another one the writes are gone.
#[tokio::test]
async fn without_the_relay_acknowledged_writes_are_lost_with_the_leader() {
    let (mut world, agents, first) =
        begun("relay = false\nfast_failover = \"proof\"\n", "promotion", Begins::Elected).await;
    let writers = writers(&world);
    writers.until_more(SOME).await;
    let (promoted, leader) = led(&mut world, &first, Begins::Elected).await;
    // No agent publishes what it did not see elected: the leader lives until one has. On a busy machine it stands still
    // before it has told the others, some 0.8 s after the promotion.
    let published = || {
        until_record(&world, "redis", 20, "the promoted one is published", |record| {
            record.writer_address() == Some(&promoted)
        })
    };
    if tokio::time::timeout(BEFORE_ANNOUNCED, published()).await.is_err() {
        world.sentinels[leader].signal(Signal::SIGSTOP).unwrap();
        published().await;
    }
    world.sentinels[leader].signal(Signal::SIGKILL).unwrap();
    // They may choose either replica. The lower number goes first.
    let other = world.groups[0]
        .redis
        .iter()
        .find(|server| server.address != promoted && server.address.to_string() != first);
    other.unwrap().ask(&["CONFIG", "SET", "replica-priority", "1"]).await.unwrap();
    writers.until_more(SOME).await;
    let third = until_record(&world, "redis", ANOTHER_WITHIN_S, "another one is", |record| {
        record.writer_address().is_some_and(|writer| writer != &promoted)
    })
    .await;
    let third = third.writer_address().unwrap().to_string();
    let done = acknowledged_by(writers.stop(), &promoted);
    let lost = lost(&done, &third).await;
    println!("{} writes acknowledged by {promoted}, {} lost", done.len(), lost.len());
    assert!(!lost.is_empty(), "of {}\n{}", done.len(), logs(&agents));
}

/// A Sentinel's user without the right: the agents say so, and publish when a majority names the writer.
#[tokio::test]
async fn where_sentinels_refuse_the_relay_it_is_said_and_the_majority_is_waited_for() {
    // A Sentinel has no users before that.
    let world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let user = |more: &'static str| {
        let all = ["ACL", "SETUSER", "ours", "on", ">secret", "+ping", "+sentinel", "+info"];
        [&all[..], &["+subscribe", more, "&*"]].concat()
    };
    for sentinel in &world.sentinels {
        sentinel.ask(&user("-publish")).await.unwrap();
    }
    let env =
        [("CONSUL_REDIS_SENTINEL_USERNAME", "ours"), ("CONSUL_REDIS_SENTINEL_PASSWORD", "secret")];
    let agent = crate::support::agent(&world, "agent-0", &[], &env);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let said = "do not let this agent tell them how an election ended";
    let log = || async {
        let log = agent.log();
        if log.contains(said) { Ok(()) } else { Err(LabError(log)) }
    };
    until("it is said", Duration::from_secs(20), log).await.unwrap();
    let status = text(&run(&world, &["status"], &env));
    assert!(status.contains(said) && status.contains("+publish"), "{status}");
    let doctor = text(&run(&world, &["doctor"], &env));
    assert!(doctor.contains("relay-refused"), "{doctor}");
    world.calm().await.unwrap();
    // The primary is alive, so nothing but its replacement changes what is published.
    world.server(&first).unwrap().signal(Signal::SIGSTOP).unwrap();
    let second = until_record(&world, "redis", 30, "another writer", |record| {
        record.writer_address().is_some_and(|writer| writer.to_string() != first)
    })
    .await;
    assert_eq!(
        second.evidence.level(),
        consul_redis::core::published::record::Level::Quorum,
        "{}",
        agent.log()
    );
    world.server(&first).unwrap().signal(Signal::SIGCONT).unwrap();
    // It is asked for every 10 s.
    for sentinel in &world.sentinels {
        sentinel.ask(&user("+publish")).await.unwrap();
    }
    until("status has it no more", Duration::from_secs(40), || async {
        let status = text(&run(&world, &["status"], &env));
        if status.contains(said) { Err(LabError(status)) } else { Ok(()) }
    })
    .await
    .unwrap();
    let doctor = text(&run(&world, &["doctor"], &env));
    assert!(!doctor.contains("relay-refused"), "{doctor}");
}
