//! What newer versions bring: each on the version that has it, whatever the other scenarios run on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consul_redis::core::known::observed::Role;
use consul_redis::core::published::record::Level;
use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings, fields, list, text};
use tokio_util::sync::CancellationToken;

use crate::all_stopped::restarted_without_its_data;
use crate::fencing::until_follows;
use crate::hammer::Hammer;
use crate::support::{
    agents, history, logs, must_follow_a_failover, record, until_in_sync, until_writer, world,
};

/// Acknowledged writes before a primary is moved, and after it.
const MOVED_AMONG: u64 = 50;

/// Redis 8 copies a data set over a second connection (`repl-rdb-channel yes`, its default).
#[tokio::test]
async fn no_instance_copies_an_empty_primary_over_an_rdb_channel() {
    let spec = WorldSpec { version: Some("redis-8"), ..WorldSpec::default() };
    let world = restarted_without_its_data(spec).await;
    let mut used = 0;
    for server in &world.groups[0].redis {
        let row = server.ask(&["CONFIG", "GET", "repl-rdb-channel"]).await.unwrap();
        assert_eq!(fields(&row).unwrap()["repl-rdb-channel"], "yes");
        let log = world.dir().join(server.name()).join(format!("{}.log", server.name()));
        let log = std::fs::read_to_string(log).unwrap();
        used += log.matches("Full sync will continue with dedicated rdb channel").count();
    }
    assert!(used > 0, "no copy went over a second connection");
}

/// Clients that write keys of their own through the name, and note those that were acknowledged.
struct Writers {
    stop: CancellationToken,
    count: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Writers {
    fn start(world: &World, count: usize) -> Self {
        let (stop, acknowledged) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let server = &world.groups[0].redis[0];
        let (port, login) = (server.address.port(), server.login.clone());
        let tasks = (0..count).map(|writer| {
            let (stop, login, count) = (stop.clone(), login.clone(), acknowledged.clone());
            let names = world.consul.names().unwrap();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0_u64.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let key = format!("key-{writer}-{number}");
                    if write(&names, port, &login, &key).await.is_some() {
                        acknowledged.push(key);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                acknowledged
            })
        });
        Self { tasks: tasks.collect(), count: acknowledged, stop }
    }

    /// Waits until so many more are acknowledged.
    async fn until_more(&self, more: u64) {
        let before = self.count.load(Ordering::Relaxed);
        until("more writes are acknowledged", Duration::from_secs(20), || async {
            let now = self.count.load(Ordering::Relaxed);
            if now >= before + more { Ok(()) } else { Err(LabError(format!("{before}, {now}"))) }
        })
        .await
        .unwrap();
    }

    /// Every key that was acknowledged.
    async fn stop(self) -> Vec<String> {
        self.stop.cancel();
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

async fn write(names: &Names, port: u16, login: &LinkSettings, key: &str) -> Option<()> {
    let found = names.a("redis-primary.service.consul").await.ok()?;
    let address = format!("{}:{port}", found.first()?).parse().ok()?;
    let mut link = Link::open(&address, login).await.ok()?;
    link.call(&["SET", key, "1"]).await.ok().map(|_| ())
}

/// The first of these keys that a server does not have.
async fn first_missing(world: &World, server: &str, keys: &[String]) -> Option<String> {
    let mut link = world.server(server).unwrap().link().await.unwrap();
    for key in keys {
        if text(&link.call(&["EXISTS", key]).await.unwrap()).unwrap() != "1" {
            return Some(key.clone());
        }
    }
    None
}

/// Waits until a Sentinel's flags for the group hold this one; what stood beside it.
async fn until_flag(world: &World, sentinel: usize, flag: &str) -> BTreeMap<String, String> {
    until(flag, Duration::from_secs(5), || async {
        let row = world.sentinels[sentinel].ask(&["SENTINEL", "PRIMARY", "redis"]).await?;
        let row = fields(&row).map_err(LabError)?;
        if row["flags"].contains(flag) { Ok(row) } else { Err(LabError(format!("{row:?}"))) }
    })
    .await
    .unwrap()
}

/// Valkey 9 can move a primary by itself, in agreement with it. Who asks for that is not us.
async fn coordinated_by_another(level: &str) {
    let spec = WorldSpec { version: Some("valkey-9"), ..WorldSpec::default() };
    let world = world(spec).await;
    let agents = agents(&world, 2, &["--publish", level]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let (hammer, writers) = (Hammer::start(&world), Writers::start(&world, 2));
    writers.until_more(MOVED_AMONG).await;
    let asked = &world.sentinels[1];
    let command = ["SENTINEL", "FAILOVER", "redis", "COORDINATED"];
    asked.fail_over_by(&command, "redis").await.unwrap();
    let seen = until_flag(&world, 1, "coordinated_failover").await;
    assert!(!seen["flags"].contains("force_failover"), "{seen:?}");
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    until_follows(world.server(&old).unwrap(), &new).await;
    until_in_sync(&world, "redis", 2).await;
    writers.until_more(MOVED_AMONG).await;
    let acknowledged = writers.stop().await;
    // Until then, a Sentinel may yet close its clients' connections.
    world.calm().await.unwrap();
    let missing = first_missing(&world, &new, &acknowledged).await;
    assert_eq!(missing, None, "of {} acknowledged\n{}", acknowledged.len(), logs(&agents));
    hammer.until_enough().await;
    let seen = hammer.stop().await;
    seen.never_two_writers();
    // The old primary says that it is a replica 2 ms after the promotion, and the name follows some ms later.
    seen.never_back_from(&new);
    // It was moved once.
    let record = record(&world, "redis").await.unwrap();
    assert_eq!(record.writer_address().map(ToString::to_string), Some(new));
    assert_eq!(record.evidence.confirmed_epoch, 1, "{record:?}");
    let log = logs(&agents);
    if level == "promotion" {
        assert!(log.contains(", promoted by Sentinel epoch 1"), "{log}");
    }
}

#[tokio::test]
async fn a_coordinated_failover_by_another_loses_nothing_at_level_promotion() {
    coordinated_by_another("promotion").await;
}

#[tokio::test]
async fn a_coordinated_failover_by_another_loses_nothing_at_level_quorum() {
    coordinated_by_another("quorum").await;
}

/// The Sentinel that won the last election leads again, by force, and does not say so (`docs/facts/sentinel.md` 19).
#[tokio::test]
async fn a_forced_failover_after_an_election_is_published_at_the_promotion() {
    let spec = WorldSpec { version: Some("redis-6.0"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let elected = |sentinel: &&LabServer| {
        let log = world.dir().join(sentinel.name()).join(format!("{}.log", sentinel.name()));
        std::fs::read_to_string(log).unwrap().contains("+elected-leader")
    };
    let leader = world.sentinels.iter().find(elected).expect("one was elected");
    leader.fail_over("redis").await.unwrap();
    let third = until_writer(&world, "redis", 20, Some(&second)).await;
    let change = history(&world).await.unwrap().remove(0);
    assert_eq!(change.to.map(|writer| writer.to_string()), Some(third));
    assert_eq!(change.level, Some(Level::Promotion), "{}", logs(&agents));
    let said = format!(", promoted by SENTINEL FAILOVER on {}", leader.address);
    assert!(logs(&agents).contains(&said), "no `{said}`\n{}", logs(&agents));
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// Redis 6.0 cannot hold writes, so the old primary becomes a replica first. A replica that has just copied everything
/// is up for both sides, and is sent none of what is written since before its next word (`docs/facts/sentinel.md` 19).
#[tokio::test]
async fn a_move_on_redis_6_waits_until_every_replica_is_sent_what_is_written() {
    let world = world(WorldSpec { version: Some("redis-6.0"), ..WorldSpec::default() }).await;
    let all = agents(&world, 2, &[]);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let writers = crate::support::writers(&world);
    writers.until_more(200).await;
    let servers = &world.groups[0].redis;
    let late = servers.iter().find(|server| server.address.to_string() != old).unwrap();
    let (host, port) = old.rsplit_once(':').unwrap();
    // It writes a history of its own, so that it copies everything.
    late.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    late.ask(&["REPLICAOF", host, port]).await.unwrap();
    let primary = world.server(&old).unwrap();
    until("its link is up for both sides", Duration::from_secs(20), || async {
        let (own, other) = (late.probe().await?.role, primary.probe().await?.role);
        match (&own, &other) {
            (Role::Replica { link_up: true, .. }, Role::Primary { replicas })
                if replicas.iter().any(|r| r.address == late.address && r.online) =>
            {
                Ok(())
            }
            _ => Err(LabError(format!("{own:?}, {other:?}"))),
        }
    })
    .await
    .unwrap();
    let mut command = tokio::process::Command::new(crate::support::program());
    command.args(["switchover", "redis", "--yes"]).envs(world.agent_env());
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{}", crate::support::text(&output), logs(&all));
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    writers.until_more(200).await;
    let done = writers.stop();
    let lost = crate::writers::lost(&done, &new).await;
    assert!(lost.is_empty(), "{} lost of {}: {:?}", lost.len(), done.len(), lost.first());
}

/// Valkey asks and is asked in other words, and answers in the old ones (`docs/facts/sentinel.md` 15).
#[tokio::test]
async fn sentinels_that_are_asked_for_a_primary_answer_as_for_a_master() {
    let spec = WorldSpec { version: Some("valkey-9"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = agents(&world, 1, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    for sentinel in &world.sentinels {
        let ask = async |words: &[&str]| sentinel.ask(&[&["SENTINEL"][..], words].concat()).await;
        // Both have the age of the last PING in them.
        let settled = |row: &redis::Value| {
            let names =
                ["name", "ip", "port", "runid", "flags", "config-epoch", "num-slaves", "quorum"];
            let row = fields(row).unwrap();
            names.map(|name| row.get(name).cloned())
        };
        let (old, new) = (ask(&["MASTER", "redis"]).await, ask(&["PRIMARY", "redis"]).await);
        assert_eq!(settled(&old.unwrap()), settled(&new.unwrap()));
        let (old, new) = (ask(&["MASTERS"]).await.unwrap(), ask(&["PRIMARIES"]).await.unwrap());
        let rows = |all: &redis::Value| list(all).unwrap().iter().map(settled).collect::<Vec<_>>();
        assert_eq!(rows(&old), rows(&new));
        let old = ask(&["GET-MASTER-ADDR-BY-NAME", "redis"]).await.unwrap();
        let new = ask(&["GET-PRIMARY-ADDR-BY-NAME", "redis"]).await.unwrap();
        assert_eq!(old, new);
        let named = list(&new).unwrap().iter().map(|part| text(part).unwrap());
        assert_eq!(named.collect::<Vec<_>>().join(":"), second, "{}", logs(&agents));
    }
}
