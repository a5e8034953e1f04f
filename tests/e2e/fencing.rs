//! Stray primaries on real servers. How quickly one is fenced is measured by `make race`, not here; here it
//! is an agent that does it, sooner than Sentinel, which waits for some ten seconds.

use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::write_to;
use consul_redis::lab::contention::waited_within;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, SubscriptionNews, fields, list, subscribe};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    agents, logs, must_follow_a_failover, on_one_and_three_servers, run, text, until_in_sync,
    until_left_alone, until_record, until_writer, world,
};

on_one_and_three_servers!(
    a_returning_old_primary_is_fenced_and_its_clients_are_disconnected,
    a_primary_replaced_by_hand_is_fenced_once_the_majority_has_followed,
    foreign_data_is_refused_with_a_reason,
    one_that_returns_without_its_data_is_fenced_although_clients_write_to_it_at_once,
);

/// Sentinel leaves a stray primary alone for 8 s at least (`docs/facts/sentinel.md` 4.1).
const SENTINEL_WAITS: Duration = Duration::from_secs(8);

/// What was `what` follows the new writer, by the hand of an agent and of no Sentinel, which would wait for longer after
/// `since`; and an agent says so.
pub async fn until_fenced(
    server: &LabServer,
    what: &str,
    new: &str,
    since: Instant,
    agents: &[Process],
) {
    until_follows(server, new).await;
    let took = since.elapsed();
    let most = SENTINEL_WAITS + waited_within(took);
    assert!(took < most, "{took:?}, Sentinel did it: {}", logs(agents));
    until_made_replica(agents, &server.address.to_string(), &[what], new).await;
}

/// An agent says that it has made a replica of what was one of these. An agent says so of its own command alone, and gives
/// none to what is a replica already; it follows a moment before the agent has the answer.
async fn until_made_replica(agents: &[Process], old: &str, whats: &[&str], new: &str) {
    let said = |what: &&str| format!("{old} was {what}; it is a replica of {new} now");
    let said: Vec<String> = whats.iter().map(said).collect();
    until("an agent says what it did", Duration::from_secs(5), || async {
        let log = logs(agents);
        let found = said.iter().any(|said| log.contains(said));
        if found { Ok(()) } else { Err(LabError(format!("none of {said:?} in\n{log}"))) }
    })
    .await
    .unwrap();
}

/// Waits until it follows that one.
pub async fn until_follows(server: &LabServer, of: &str) {
    let what = format!("{} follows {of}", server.name());
    until(&what, Duration::from_secs(20), || async {
        match server.follows().await? {
            Some(found) if found.to_string() == of => Ok(()),
            other => Err(LabError(format!("it follows {other:?}"))),
        }
    })
    .await
    .unwrap();
}

/// Every Sentinel has switched, and has called the old primary down since: the leader is the last to switch.
pub async fn until_all_settled(world: &World, old: &str, new: &str) {
    for sentinel in &world.sentinels {
        let what = format!("{} monitors {new} and calls {old} down", sentinel.name());
        until(&what, Duration::from_secs(20), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let master = fields(&answer).map_err(LabError)?;
            let found = format!("{}:{}", master["ip"], master["port"]);
            let answer = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            let rows = list(&answer).map_err(LabError)?.iter().map(fields);
            let rows = rows.collect::<Result<Vec<_>, _>>().map_err(LabError)?;
            let down = rows.iter().any(|row| row["name"] == old && row["flags"].contains("s_down"));
            if found == new && down { Ok(()) } else { Err(LabError(format!("{found} {rows:?}"))) }
        })
        .await
        .unwrap();
    }
}

/// All events of all Sentinels from now on.
async fn events(world: &World) -> (mpsc::Receiver<String>, Vec<AbortOnDropHandle<()>>) {
    let (send, receive) = mpsc::channel(1_000);
    let mut tasks = Vec::new();
    for sentinel in &world.sentinels {
        let mut events = subscribe(&sentinel.address, &sentinel.login).await.unwrap();
        let send = send.clone();
        tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(heard) = events.next().await {
                if let SubscriptionNews::Event(event, payload) = heard {
                    let _ = send.try_send(format!("{event} {payload}"));
                }
            }
        })));
    }
    (receive, tasks)
}

/// The events of a Sentinel that a fence has disturbed: it calls a server down, or fails over.
fn disturbances(mut events: mpsc::Receiver<String>) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(event) = events.try_recv() {
        let bad = ["+sdown", "+odown", "+try-failover", "+switch-master", "+tilt"];
        if bad.iter().any(|name| event.starts_with(name)) {
            all.push(event);
        }
    }
    all
}

/// Every Redis has the key.
pub async fn until_all_have(world: &World, key: &str) {
    for server in &world.groups[0].redis {
        until("it has the key", Duration::from_secs(20), || async {
            match server.ask(&["EXISTS", key]).await? {
                redis::Value::Int(1) => Ok(()),
                other => Err(LabError(format!("{other:?}"))),
            }
        })
        .await
        .unwrap();
    }
}

pub async fn a_returning_old_primary_is_fenced_and_its_clients_are_disconnected(
    consul_servers: u8,
) {
    let mut world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let server = world.server_mut(&old).unwrap();
    server.ask(&["SET", "kept", "1"]).await.unwrap();
    // Else the writer would have less than it, and it would be left alone, as it should be.
    until_all_have(&world, "kept").await;
    let server = world.server_mut(&old).unwrap();
    // It comes back with its data, as it would with persistence.
    server.ask(&["SAVE"]).await.unwrap();
    server.kill();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    until_all_settled(&world, &old, &new).await;
    let (heard, _tasks) = events(&world).await;
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let (server, returned) = (world.server(&old).unwrap(), Instant::now());
    until_fenced(server, "a stray primary", &new, returned, &agents).await;
    until_in_sync(&world, "redis", 2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(disturbances(heard), Vec::<String>::new());

    // Frozen and thawed: a client that was connected all the time is disconnected.
    world.calm().await.unwrap();
    let server = world.server(&new).unwrap();
    let mut client = server.link().await.unwrap();
    server.signal(Signal::SIGSTOP).unwrap();
    let third = until_writer(&world, "redis", 20, Some(&new)).await;
    server.signal(Signal::SIGCONT).unwrap();
    until_fenced(server, "a stray primary", &third, Instant::now(), &agents).await;
    tokio::time::timeout(Duration::from_secs(5), client.closed()).await.expect("disconnected");
}

pub async fn a_primary_replaced_by_hand_is_fenced_once_the_majority_has_followed(
    consul_servers: u8,
) {
    let world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let begun = Instant::now();
    world.sentinels[0].fail_over("redis").await.unwrap();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    until_fenced(world.server(&old).unwrap(), "blank", &new, begun, &agents).await;
    until_in_sync(&world, "redis", 2).await;
    let record = until_record(&world, "redis", 5, "written", |_| true).await;
    assert_eq!(record.writer_address().map(ToString::to_string), Some(new));
}

#[tokio::test]
pub async fn left_to_sentinel_when_the_operator_wants_it_so() {
    let mut world = world(WorldSpec::default()).await;
    let config = world.dir().join("config.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nfence = false\n").unwrap();
    let agents = agents(&world, 1, &["--config", config.to_str().unwrap()]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.sentinels[0].fail_over("redis").await.unwrap();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let server = world.server(&old).unwrap();
    assert_eq!(server.follows().await.unwrap(), None, "{}", logs(&agents));
    let status = run(&world, &["status", "--config", config.to_str().unwrap()], &[]);
    let said = format!(
        "{old} is a stray primary, and it is left to Sentinel (fence = false, manage = false, or a pause)"
    );
    assert!(text(&status).contains(&said), "{}", text(&status));
    until_follows(server, &new).await;
    // The agent lives, and left it alone all the same.
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// An instance whose address a group's Sentinels know, with data of its own: no agent deletes data.
pub async fn foreign_data_is_refused_with_a_reason(consul_servers: u8) {
    // Before that a primary's snapshot is as good as an append-only file: it does not say whose data it is.
    let since = Some("7.0");
    let mut world = world(WorldSpec { consul_servers, since, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let reused: Address = world.groups[0].redis[2].address.clone();
    // Another group's primary takes over the address.
    let other = world.start_redis("other", None).await.unwrap();
    other.ask(&["SET", "theirs", "1"]).await.unwrap();
    other.ask(&["SAVE"]).await.unwrap();
    let server = world.server_mut(&reused.to_string()).unwrap();
    server.kill();
    let dir = server.name().to_owned();
    let dir = world.dir().join(dir);
    std::fs::copy(world.dir().join("other/dump.rdb"), dir.join("dump.rdb")).unwrap();
    let config = dir.join("server.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    let own = text.lines().filter(|line| !line.starts_with("replicaof "));
    std::fs::write(&config, own.collect::<Vec<_>>().join("\n")).unwrap();
    world.server_mut(&reused.to_string()).unwrap().restart().await.unwrap();
    // Its own clients go on writing, so that what is said of it changes all the time.
    let login = world.server(&reused.to_string()).unwrap().login.clone();
    let (address, settings) = (reused.clone(), login);
    let client = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut link = Link::open(&address, &settings).await.unwrap();
        for number in 0_u64.. {
            link.call(&["SET", &format!("theirs-{number}"), "1"]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }));
    let said = " keys of an unrelated history";
    until_left_alone(&agents, &reused.to_string(), 8, said).await;
    assert!(logs(&agents).contains(&format!("{reused} is a primary with ")), "{}", logs(&agents));
    assert!(!client.is_finished(), "the client writes all the time");
}

/// A client that never let go writes to it within a millisecond of its return, so it is not blank for long.
pub async fn one_that_returns_without_its_data_is_fenced_although_clients_write_to_it_at_once(
    consul_servers: u8,
) {
    // Before that a Redis does not say whether it had data when it was started.
    let since = Some("7.0");
    let mut world = world(WorldSpec { consul_servers, since, ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&old).unwrap().kill();
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    until_all_settled(&world, &old, &new).await;
    let server = world.server(&old).unwrap();
    let (address, login) = (server.address.clone(), server.login.clone());
    let client = tokio::spawn(async move {
        let (mut first, mut last) = (None, None);
        loop {
            let written = write_to(&address, &login, "late").await;
            let now = Instant::now();
            match (written, first) {
                (Ok(()), _) => {
                    first.get_or_insert(now);
                    last = Some(now);
                }
                (Err(error), _) if error.to_string().contains("READONLY") => return (first, last),
                (Err(error), Some(at)) => eprintln!("{:?} {error}", now - at),
                (Err(_), None) => {}
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let (first, last) =
        tokio::time::timeout(Duration::from_secs(30), client).await.unwrap().unwrap();
    let took = first.zip(last).map(|(first, last)| last - first);
    assert!(took.is_some_and(|took| took < SENTINEL_WAITS), "{took:?}\n{}", logs(&agents));
    // An agent may be quicker than the client's first write; then it was blank still.
    let whats = ["a stray primary, restarted without its data", "blank"];
    until_made_replica(&agents, &old, &whats, &new).await;
}
