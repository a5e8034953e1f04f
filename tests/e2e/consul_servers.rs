//! Three Consul servers with disks: how late the last one's DNS is, and what happens when one dies.

use std::time::Duration;

use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::hammer::Hammer;
use crate::support::{agents, logs, until_in_sync, until_named, until_record, until_writer, world};

/// Changes of the writer, and as many times as many others after each, that are compared.
const CHANGES: u8 = 5;
const ALONE: u8 = 3;
/// Pause between two questions to one server's DNS.
const DNS_PAUSE: Duration = Duration::from_millis(1);

/// How long Consul takes to elect another leader, with `raft_multiplier = 1` and on a busy machine. Until then a follower
/// may not know that what the dead leader acknowledged last is committed.
const ELECTION_MAX: Duration = Duration::from_secs(10);

/// Which of `more_consul` leads. The test asks another one, wherever the leadership has gone since the start.
async fn leader(world: &mut World) -> usize {
    let leader = world.consul.leader().await.unwrap();
    if world.consul.http.ip() == leader {
        std::mem::swap(&mut world.consul, &mut world.more_consul[0]);
    }
    world.more_consul.iter().position(|server| server.http.ip() == leader).unwrap()
}

/// Between the withdrawal of the old writer and the publication of the new one. An agent asks one Consul, so the one whose
/// server that was can only wait for it; the others publish.
#[tokio::test]
async fn the_name_follows_although_the_leader_of_consul_dies_in_mid_switch() {
    let mut world = world(WorldSpec { consul_servers: 3, ..WorldSpec::default() }).await;
    let agents = agents(&world, 3, &["--publish", "quorum"]);
    let first = until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    until_named(&world, "redis-primary", std::slice::from_ref(&first)).await;
    let leader = leader(&mut world).await;
    let dead = world.more_consul[leader].http;
    let hammer = Hammer::start(&world);
    hammer.until_answered().await;
    world.server_mut(&first).unwrap().kill();
    until_record(&world, "redis", 10, "the writer is withdrawn", |r| r.writer.is_none()).await;
    world.more_consul[leader].kill();
    let killed = Instant::now();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    eprintln!("published {} ms after the leader's death", killed.elapsed().as_millis());
    hammer.until_told(&second, 2).await;
    let after = until_in_sync(&world, "redis", 1).await;
    assert_eq!(after.generation, before.generation + 2, "withdrawn and published, once each");
    let lost = format!("Consul at http://{dead} does not answer");
    let mute = agents.iter().find(|agent| agent.log().contains(&lost)).expect("its agent says so");

    let seen = hammer.stop().await;
    let published = seen.change(after.generation);
    assert_ne!(published.by, mute.name(), "{}", logs(&agents));
    seen.never_two_writers();
    let late = seen.in_order();
    assert!(late <= ELECTION_MAX, "{late:?}");
    let seen = seen.without(dead);
    seen.never_back_from(&second);

    // It comes back with what it has on its disk, and learns the rest.
    world.more_consul[leader].restart().await.unwrap();
    until_named(&world, "redis-primary", &[second]).await;
    until("its agent goes on", Duration::from_secs(10), || async {
        let log = mute.log();
        if log.contains(&format!("Consul at http://{dead} answers again")) {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await
    .unwrap();
}

/// Asks each server's DNS without pause; when the last one answers another address than this, behind the first one.
fn spread(world: &World, name: &str, old: &str) -> impl Future<Output = Duration> + use<> {
    let ask = |server: &ConsulServer| {
        let (names, name, old) = (server.names().unwrap(), name.to_owned(), old.to_owned());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let found = names.a(&name).await.unwrap_or_default();
                if !found.is_empty() && found.iter().all(|found| found.to_string() != old) {
                    return Instant::now();
                }
                tokio::time::sleep(DNS_PAUSE).await;
            }
        }))
    };
    let asked: Vec<_> = world.consul_servers().map(ask).collect();
    async move {
        let mut seen = Vec::new();
        for answer in asked {
            let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
            seen.push(answer.unwrap().unwrap());
        }
        let (first, last) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        *last - *first
    }
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of[of.len() / 2]
}

/// A follower learns with the next entry that the last one is committed. What is compared with is a change by itself, in the same
/// datacenter and on the same busy machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_consul_server_answers_right_behind_the_first() {
    let world = world(WorldSpec { consul_servers: 3, ..WorldSpec::default() }).await;
    let agents = agents(&world, 1, &[]);
    let mut old = until_writer(&world, "redis", 20, None).await;
    let (mut moves, mut alone) = (Vec::new(), Vec::new());
    let host = |address: &str| address.rsplit_once(':').unwrap().0.to_owned();
    let mut lone = String::new();
    for round in 0..CHANGES {
        until_in_sync(&world, "redis", 2).await;
        world.calm().await.unwrap();
        let behind = spread(&world, "redis-primary.service.consul", &host(&old));
        world.sentinels[0].ask(&["SENTINEL", "FAILOVER", "redis"]).await.unwrap();
        moves.push(behind.await);
        old = until_writer(&world, "redis", 30, Some(&old)).await;
        for n in 1..=ALONE {
            let address = format!("192.0.2.{}", ALONE * round + n);
            let behind = spread(&world, "lone.service.consul", &lone);
            let body = json!({"Node": "lone", "Address": address, "Service": {"Service": "lone"}});
            let client = world.consul.client().unwrap();
            client.put("/v1/catalog/register", &[], Some(&body)).await.unwrap();
            alone.push(behind.await);
            lone = address;
        }
    }
    eprintln!(
        "the last server behind the first: a change of the writer {moves:?}, one alone {alone:?}"
    );
    let (moves, alone) = (median(moves), median(alone));
    // 0.4 of it and less where nothing else uses the processors; 1 where nothing follows the change.
    let said = format!("{moves:?}, and a change that nothing follows {alone:?}");
    assert!(moves * 4 < alone * 3, "{said}\n{}", logs(&agents));
}
