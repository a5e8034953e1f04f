//! A group at IPv6 addresses, in a network of its own.

use std::net::IpAddr;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::published::name_check::DnsAnswer;
use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{ADDRESSES_PER_WORLD, Announced, World, WorldSpec};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::namespace::Namespace;
use crate::support::{
    logs, node_agents, run, text, until_in_sync, until_well, until_writer, world,
};

const NAME: &str = "redis-primary.service.consul";

/// A reader that asks for the name's addresses all the time.
struct Reader {
    stop: CancellationToken,
    task: JoinHandle<Vec<(Instant, DnsAnswer)>>,
}

impl Reader {
    fn start(names: Names) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            while !stopped.is_cancelled() {
                let asked = Instant::now();
                if let Ok(answer) = names.service(NAME, "consul").await {
                    all.push((asked, answer));
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            all
        });
        Self { stop, task }
    }

    /// No answer had two addresses, or an IPv4 one, and none went back.
    async fn moved_once(self, from: IpAddr, to: IpAddr) {
        self.stop.cancel();
        let all = self.task.await.unwrap();
        assert!(all.len() > 40, "{} answers", all.len());
        assert!(all.iter().all(|(_, answer)| answer.ips.len() <= 1), "two addresses");
        let mut seen: Vec<IpAddr> = all.iter().flat_map(|(_, answer)| answer.ips.clone()).collect();
        seen.dedup();
        assert_eq!(seen, [from, to]);
    }
}

/// The name, rows and keys are this writer's.
async fn until_shown(world: &World, writer: &Address) {
    let (names, ip) = (world.consul.names().unwrap(), writer.ip().unwrap());
    until("AAAA and SRV of the writer", Duration::from_secs(10), || async {
        let answer = names.service(NAME, "consul").await.map_err(LabError::new)?;
        let ports: Vec<u16> = answer.services.iter().map(|(_, port)| *port).collect();
        if answer.ips.iter().eq([&ip]) && ports == [writer.port()] {
            return Ok(());
        }
        Err(LabError(format!("{answer:?}")))
    })
    .await
    .unwrap();
    assert!(names.a(NAME).await.unwrap().is_empty(), "no A record");
    // What a client does that follows SRV: the target has the address in its name.
    let (target, _) = names.srv(NAME).await.unwrap().remove(0);
    assert!(names.service(&target, "consul").await.unwrap().ips.contains(&ip), "{target}");
    let rows = world.consul.passing("redis-primary").await.unwrap();
    assert_eq!(rows, [format!("{}:{}", writer.host(), writer.port())]);
    for (key, wanted) in
        [("primary", writer.to_string()), ("primary/host", writer.host().to_owned())]
    {
        let found = world.consul.key(&format!("redis-ha/redis/{key}")).await.unwrap();
        assert_eq!(found, Some(wanted));
    }
    let servers = world.consul.passing("redis-server").await.unwrap();
    assert!(servers.iter().all(|row| row.starts_with("fd00::")), "{servers:?}");
}

#[tokio::test]
async fn a_group_at_ipv6_addresses_is_followed_through_a_failover() {
    let network = Namespace::new().unwrap_or_else(|error| panic!("{error}"));
    for last in 1..=ADDRESSES_PER_WORLD {
        network.ip(&format!("addr add fd00::{last:x}/64 dev lo nodad")).unwrap();
    }
    network.enter().unwrap();
    // To Redis, such an address is no loopback one.
    let redis_lines = "protected-mode no\n";
    let spec = WorldSpec { announced: Announced::Ipv6, redis_lines, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = node_agents(&world, "");
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let old: Address = first.parse().unwrap();
    assert_eq!(old, world.groups[0].redis[0].address);
    until_shown(&world, &old).await;

    let reader = Reader::start(world.consul.names().unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    let new: Address = second.parse().unwrap();
    until_shown(&world, &new).await;
    // The old one returns, and follows.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    reader.moved_once(old.ip().unwrap(), new.ip().unwrap()).await;
    assert_eq!(world.server(&first).unwrap().follows().await.unwrap(), Some(new));
    until("all three are registered", Duration::from_secs(30), || async {
        let rows = world.consul.passing("redis-server").await?;
        if rows.len() == 3 { Ok(()) } else { Err(LabError(format!("{rows:?}"))) }
    })
    .await
    .unwrap();

    world.calm().await.unwrap();
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&agents));
    let third = until_writer(&world, "redis", 5, Some(&second)).await;
    until_shown(&world, &third.parse().unwrap()).await;
    until_well(&world).await;
}
