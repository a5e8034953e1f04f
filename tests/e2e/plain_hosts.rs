//! Two Redis and three Sentinels from config files, as people set them up by hand and try them out: set on one, read on
//! the other, kill the master, ask a Sentinel and the replica. With agents beside them, the name has followed.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use consul_redis::redis_link::{fields, text};

use crate::support::{agents, logs, until_in_sync, until_named, until_writer, world};

const GROUP: &str = "myMaster";
const ARGS: [&str; 2] = ["--group", "myMaster=redis"];

/// `info replication` has each of these lines, or begins of lines.
async fn until_info(server: &LabServer, lines: &[&str]) {
    let what = format!("info replication of {}", server.name());
    until(&what, Duration::from_secs(20), || async {
        let info = text(&server.ask(&["INFO", "replication"]).await?).map_err(LabError)?;
        let has = |wanted: &&str| info.lines().any(|line| line.starts_with(wanted));
        if lines.iter().all(has) { Ok(()) } else { Err(LabError(info)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn plain_hosts() {
    let groups = vec![GROUP.to_owned()];
    let spec = WorldSpec { redis: 2, groups, since: Some("6.2"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let agents = agents(&world, 2, &ARGS);
    let [node1, node2] = &world.groups[0].redis[..] else { panic!("two") };
    let (first, second) = (node1.address.to_string(), node2.address.to_string());
    for node in [node1, node2] {
        // What makes Redis tell of `min_slaves_good_slaves`.
        node.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await.unwrap();
    }

    // Check the replication state on any of the nodes.
    let online =
        format!("slave0:ip={},port={},state=online,", node2.address.host(), node2.address.port());
    let lines = ["role:master", "connected_slaves:1", "min_slaves_good_slaves:1", online.as_str()];
    until_info(node1, &lines).await;

    // The slaves are discovered automatically, and the Sentinels' own config files are updated.
    let replica =
        format!("sentinel known-replica {GROUP} {} {}", node2.address.host(), node2.address.port());
    for sentinel in &world.sentinels {
        let file = world.dir().join(sentinel.name()).join("server.conf");
        until("the Sentinel's config file", Duration::from_secs(20), || async {
            let text = std::fs::read_to_string(&file)?;
            let others = text.matches(&format!("sentinel known-sentinel {GROUP} ")).count();
            let found = text.contains(&replica) && others == 2;
            if found { Ok(()) } else { Err(LabError(text)) }
        })
        .await
        .unwrap();
    }
    assert_eq!(until_writer(&world, GROUP, 20, None).await, first);
    until_in_sync(&world, GROUP, 1).await;
    until_named(&world, "redis-primary", std::slice::from_ref(&first)).await;

    // 1. Set a key in master and see that it is replicated on the slave.
    assert_eq!(text(&node1.ask(&["SET", "k1", "val1"]).await.unwrap()).unwrap(), "OK");
    until("k1 on the slave", Duration::from_secs(10), || async {
        match node2.ask(&["GET", "k1"]).await? {
            redis::Value::Nil => Err(LabError::new("nil")),
            found => text(&found).map_err(LabError),
        }
    })
    .await
    .map(|found| assert_eq!(found, "val1"))
    .unwrap();

    // 2. Kill the master.
    world.server_mut(&first).unwrap().kill();

    // 3.1 The replica node would report this.
    let node2 = world.server(&second).unwrap();
    let refused = "Error condition on socket for SYNC: Connection refused";
    until(refused, Duration::from_secs(10), || async {
        let log = node2.log();
        if log.contains(refused) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    // 3.2 The Sentinels would promote the replica as master; consul-redis has published it.
    assert_eq!(until_writer(&world, GROUP, 20, Some(&first)).await, second);
    until_named(&world, "redis-primary", std::slice::from_ref(&second)).await;
    let key = world.consul.key(&format!("redis-ha/{GROUP}/primary")).await.unwrap();
    assert_eq!(key.as_deref(), Some(second.as_str()), "{}", logs(&agents));
    // 3.3 Connect to a Sentinel and see the state.
    until("the Sentinel has followed", Duration::from_secs(20), || async {
        let answer = world.sentinels[0].ask(&["SENTINEL", "MASTER", GROUP]).await?;
        let master = fields(&answer).map_err(LabError)?;
        let found = (master["name"].as_str(), format!("{}:{}", master["ip"], master["port"]));
        if found == (GROUP, second.clone()) { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    // 3.4 Connect to the slave node and get the replication state.
    let alone = ["role:master", "connected_slaves:0", "min_slaves_good_slaves:0"];
    until_info(node2, &[&alone[..], &["master_failover_state:no-failover"]].concat()).await;
    assert_eq!(text(&node2.ask(&["GET", "k1"]).await.unwrap()).unwrap(), "val1");

    // And started again, the old master is the new one's replica.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, GROUP, 1).await;
    let node2 = world.server(&second).unwrap();
    until_info(node2, &["role:master", "connected_slaves:1", "min_slaves_good_slaves:1"]).await;
    until_info(world.server(&first).unwrap(), &["role:slave", "master_link_status:up"]).await;
    assert_eq!(until_writer(&world, GROUP, 5, None).await, second);
}
