//! Several groups on one set of Sentinels, and what is left of a group that is taken away.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};

use crate::support::{
    agent, agents, record, run, text, until_in_sync, until_named, until_writer, world,
};

async fn everything_in_consul(world: &World) -> Vec<String> {
    let client = world.consul.client().unwrap();
    let nodes: serde_json::Value = client.get("/v1/catalog/nodes", &[]).await.unwrap().value;
    let services: serde_json::Value = client.get("/v1/catalog/services", &[]).await.unwrap().value;
    let keys: Vec<String> = client.get("/v1/kv/", &[("keys", "")]).await.unwrap().value;
    let nodes =
        nodes.as_array().unwrap().iter().map(|node| node["Node"].as_str().unwrap().to_owned());
    let services = services.as_object().unwrap().keys().cloned();
    nodes
        .chain(services)
        .chain(keys)
        .filter(|name| name.contains("redis") || name.contains("cache"))
        .collect()
}

#[tokio::test]
async fn two_groups_do_not_touch_each_other_and_leave_nothing_behind() {
    let spec = WorldSpec {
        redis: 2,
        groups: vec!["redis".to_owned(), "cache.main".to_owned()],
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let flags = ["--group", "redis", "--group", "cache.main=cache"];
    let mut running = agents(&world, 2, &flags);
    let first = until_writer(&world, "redis", 20, None).await;
    let cache = until_writer(&world, "cache.main", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    let before = until_in_sync(&world, "cache.main", 1).await;
    until_named(&world, "cache-primary", std::slice::from_ref(&cache)).await;
    until("the Sentinels' tags", Duration::from_secs(20), || async {
        let names = world.consul.names()?;
        let tagged = names.srv("redis.redis-sentinel.service.consul").await;
        let all = world.consul.passing("redis-sentinel").await?;
        let tagged = tagged.map_err(LabError::new)?.len();
        if (tagged, all.len()) == (3, 3) {
            Ok(())
        } else {
            Err(LabError(format!("{tagged} {all:?}")))
        }
    })
    .await
    .unwrap();

    // One fails over. The other does not notice.
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    let after = record(&world, "cache.main").await.unwrap();
    assert_eq!((after.generation, after.nonce), (before.generation, before.nonce));

    // A group that is still watched is not retired by accident.
    let refused = run(&world, &["retire", "cache.main"], &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("2 agent(s) still watch `cache.main`"), "{}", text(&refused));
    assert!(text(&refused).contains("agent-0, agent-1"), "{}", text(&refused));

    for agent in &mut running {
        agent.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    for agent in &mut running {
        assert_eq!(agent.end(Duration::from_secs(2)).await.unwrap(), 0);
    }
    let gone = run(&world, &["retire", "cache.main"], &[]);
    assert_eq!(gone.status.code(), Some(0), "{}", text(&gone));
    let left = everything_in_consul(&world).await;
    assert!(left.iter().all(|name| !name.contains("cache")), "{left:?}");
    assert!(left.iter().any(|name| name == "redis-ha-redis"), "{left:?}");
    let gone = run(&world, &["retire", "redis"], &[]);
    assert!(text(&gone).contains("it was the last group"), "{}", text(&gone));
    assert_eq!(everything_in_consul(&world).await, Vec::<String>::new());
    let unknown = run(&world, &["retire", "redis"], &[]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        text(&unknown),
        "error: Consul knows no group and no cluster `redis`\nhint: there is no group under redis-ha/\n"
    );
}

/// As docs/operations.md describes it.
#[tokio::test]
async fn a_group_moves_to_another_prefix_and_its_name_never_has_two_writers() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let mut old = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    let never_two = async || match &world.consul.passing("redis-primary").await?[..] {
        [_, _, ..] => panic!("two writers"),
        found => Ok::<bool, LabError>(found.is_empty()),
    };
    let new = agent(&world, "agent-new", &["--prefix", "redis-ha/b"], &[]);
    let why = "service redis-primary is published by another node, redis-ha-redis";
    until("it waits, and says why", Duration::from_secs(20), || async {
        never_two().await?;
        let log = new.log();
        if log.contains(why) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    assert_eq!(world.consul.key("redis-ha/b/redis/state").await.unwrap(), None);
    for agent in &mut old {
        agent.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(agent.end(Duration::from_secs(2)).await.unwrap(), 0);
    }
    let gone = run(&world, &["retire", "redis"], &[]);
    assert_eq!(gone.status.code(), Some(0), "{}", text(&gone));
    until("it is published below the new prefix", Duration::from_secs(20), || async {
        never_two().await?;
        let key = world.consul.key("redis-ha/b/redis/primary").await?;
        if key.as_deref() == Some(&writer) { Ok(()) } else { Err(LabError(format!("{key:?}"))) }
    })
    .await
    .unwrap();
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    assert!(!never_two().await.unwrap());
}

/// `redis-ha` and `eu-x`, `redis-ha/eu` and `x`: one name for two nodes.
#[tokio::test]
async fn two_groups_whose_nodes_have_one_name_do_not_answer_for_each_other() {
    let groups = vec!["eu-x".to_owned(), "x".to_owned()];
    let world = world(WorldSpec { redis: 1, groups, ..WorldSpec::default() }).await;
    let _first = agents(&world, 1, &["--group", "eu-x"]);
    let writer = until_writer(&world, "eu-x", 20, None).await;
    let flags = ["--prefix", "redis-ha/eu", "--group", "x"];
    let other = agent(&world, "agent-other", &flags, &[]);
    until("it says whose the node is", Duration::from_secs(20), || async {
        let log = other.log();
        let why = "node redis-ha-eu-x exists and is not this group's";
        if log.contains(why) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    until_named(&world, "eu-x-primary", std::slice::from_ref(&writer)).await;
    assert_eq!(world.consul.passing("x-primary").await.unwrap(), Vec::<String>::new());
    let status = run(&world, &[&["status"], &flags[..]].concat(), &[]);
    assert!(text(&status).contains("is not this group's"), "{}", text(&status));
}

/// Consul has one node, and one service, for names that differ in case alone.
#[tokio::test]
async fn groups_and_services_that_differ_in_case_alone_do_not_answer_for_each_other() {
    let groups = ["Cache", "cache", "other"].map(str::to_owned).to_vec();
    let world = world(WorldSpec { redis: 1, groups, ..WorldSpec::default() }).await;
    let _first = agents(&world, 1, &["--group", "Cache=Cache"]);
    let writer = until_writer(&world, "Cache", 20, None).await;
    let named = |world: &World| {
        let client = world.consul.client().unwrap();
        async move {
            let path = "/v1/catalog/service/cache-primary";
            let rows: serde_json::Value = client.get(path, &[]).await.unwrap().value;
            let rows = rows.as_array().cloned().unwrap_or_default();
            let at = |row: &serde_json::Value| {
                let address = row["ServiceAddress"].as_str().unwrap_or_default();
                format!("{address}:{}", row["ServicePort"])
            };
            rows.iter().map(at).collect::<Vec<String>>()
        }
    };
    let before = named(&world).await;
    // One has the group's name, the other one the service's.
    for (name, flags, why) in [
        (
            "agent-group",
            ["--group", "cache=elsewhere"],
            "node redis-ha-cache exists and is not this group's",
        ),
        (
            "agent-service",
            ["--group", "other=cache"],
            "service cache-primary is published by another node, redis-ha-Cache",
        ),
    ] {
        let other = agent(&world, name, &flags, &[]);
        until("it says why it publishes nothing", Duration::from_secs(20), || async {
            let log = other.log();
            if log.contains(why) { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
        let status = run(&world, &[&["status"], &flags[..]].concat(), &[]);
        assert!(text(&status).contains(why), "{}", text(&status));
    }
    assert_eq!(named(&world).await, before);
    assert_eq!(until_writer(&world, "Cache", 5, None).await, writer);
    for group in ["cache", "other"] {
        let found = world.consul.key(&format!("redis-ha/{group}/state")).await.unwrap();
        assert_eq!(found, None, "{group}");
    }
    // In one config, they are refused.
    let both = ["check-config", "--group", "Cache", "--group", "cache"];
    let refused = run(&world, &both, &[]);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
}
