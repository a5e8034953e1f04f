//! Node mode: this host's servers on the local Consul agent.

use std::net::SocketAddr;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::text as said;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::promises::HELD;
use crate::support::{agent, agents, logs, until_all_have, until_in_sync, until_writer, world};
use crate::writers::{Find, Kind, Writers};

/// Writes before the host is isolated.
const SOME: usize = 200;

/// The services on the Consul agent itself.
async fn local(world: &World) -> Result<Value, LabError> {
    let client = world.consul.client()?;
    Ok(client.get("/v1/agent/services", &[]).await.map_err(LabError::new)?.value)
}

async fn until_local(world: &World, seconds: u64, wanted: &[String]) -> Value {
    until("the local registrations", Duration::from_secs(seconds), || async {
        let found = local(world).await?;
        let mut ids: Vec<String> =
            found.as_object().into_iter().flatten().map(|(id, _)| id.clone()).collect();
        ids.sort();
        if ids == wanted { Ok(found) } else { Err(LabError(format!("{ids:?}"))) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn local_servers_are_registered_kept_and_taken_away() {
    let mut world = world(WorldSpec::default()).await;
    let redis = world.groups[0].redis[0].address.to_string();
    let sentinel = world.sentinels[0].address.to_string();
    let config = world.dir().join("node.toml");
    std::fs::write(
        &config,
        format!(
            "[[group]]\nname = \"redis\"\n\n[[redis]]\naddress = \"{redis}\"\ncheck_interval = \"1s\"\n\n\
             [[sentinel]]\naddress = \"{sentinel}\"\ncheck_interval = \"1s\"\n"
        ),
    )
    .unwrap();
    let mut node = agent(&world, "node-a", &["--config", config.to_str().unwrap()], &[]);
    let _observer = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;

    let ids = [format!("redis-sentinel:{sentinel}"), format!("redis-server:{redis}")];
    until_local(&world, 10, &ids).await;
    let found = until("the Sentinel's tags", Duration::from_secs(15), || async {
        let found = local(&world).await?;
        if found[&ids[0]]["Tags"] == serde_json::json!(["redis"]) {
            Ok(found)
        } else {
            Err(LabError(found.to_string()))
        }
    })
    .await
    .unwrap();
    assert_eq!(found[&ids[1]]["Service"], "redis-server");
    assert_eq!(found[&ids[1]]["Tags"], serde_json::json!([]), "health, no role");
    assert_eq!(found[&ids[1]]["Meta"]["group"], "redis");
    assert_eq!(found[&ids[1]]["Meta"]["agent"], "node-a");
    assert!(found[&ids[1]]["Meta"]["version"].is_string());

    // Consul's own check says whether it is there.
    let passing = |wanted: usize| {
        let world = &world;
        async move {
            until("redis-server", Duration::from_secs(45), || async {
                let found = world.consul.passing("redis-server").await?;
                if found.len() == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
            })
            .await
            .unwrap();
        }
    };
    passing(1).await;

    // The observer leaves a Sentinel to the Consul agent that has it: three Sentinels, three rows.
    until("one row for each Sentinel", Duration::from_secs(20), || async {
        let found = world.consul.passing("redis-sentinel").await?;
        if found.len() == 3 { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();

    // Lost in whatever way, it is registered again.
    let client = world.consul.client().unwrap();
    let path = format!("/v1/agent/service/deregister/{}", ids[1]);
    client.put(&path, &[], None).await.unwrap();
    until_local(&world, 10, &ids).await;
    world.consul.wipe().unwrap();
    world.consul.restart().await.unwrap();
    until_local(&world, 30, &ids).await;
    assert!(node.log().contains("registered again"), "{}", node.log());

    // A clean stop takes it away; what is published stays.
    until_writer(&world, "redis", 20, None).await;
    node.signal(Signal::SIGTERM).unwrap();
    until_local(&world, 5, &[]).await;
    assert_eq!(node.end(Duration::from_secs(2)).await.unwrap(), 0);
    until_writer(&world, "redis", 5, None).await;
}

fn node_config(world: &World, name: &str, redis: &str) -> String {
    let path = world.dir().join(format!("{name}.toml"));
    let text = format!("[[group]]\nname = \"redis\"\n\n[[redis]]\naddress = \"{redis}\"\n");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_blank_instance_beside_an_agent_joins_and_one_with_other_data_does_not() {
    let mut world = world(WorldSpec::default()).await;
    let mut all = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let blank = world.start_redis("newcomer", None).await.unwrap();
    let config = node_config(&world, "newcomer", &blank.address.to_string());
    all.push(agent(&world, "newcomer", &["--config", &config], &[]));
    let record = until_in_sync(&world, "redis", 3).await;
    assert!(record.replicas().any(|address| address == &blank.address), "{}", logs(&all));
    assert_eq!(blank.follows().await.unwrap().map(|of| of.to_string()), Some(writer));
    let joined = format!("{} was blank; it is a replica of ", blank.address);
    assert!(logs(&all).contains(&joined), "{}", logs(&all));

    let foreign = world.start_redis("foreign", None).await.unwrap();
    foreign.ask(&["SET", "theirs", "1"]).await.unwrap();
    let config = node_config(&world, "foreign", &foreign.address.to_string());
    all.push(agent(&world, "foreign", &["--config", &config], &[]));
    let refused = format!("{} is a primary with 1 keys of an unrelated history", foreign.address);
    until("it says why it leaves it alone", Duration::from_secs(20), || async {
        let log = logs(&all);
        if log.contains(&refused) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    assert_eq!(foreign.follows().await.unwrap(), None);
}

/// A write without an answer is one that is held; one that is refused, or a closed connection, is not.
async fn hold(server: &LabServer) -> Result<(), LabError> {
    match server.ask(&["SET", "x", "1"]).await {
        Err(error) if error.to_string().contains("no answer") => Ok(()),
        other => Err(LabError(format!("{other:?}"))),
    }
}

async fn until_held(server: &LabServer) {
    until("its writes are held", Duration::from_secs(20), || hold(server)).await.unwrap();
}

/// Clients that write to one Redis.
fn writers_at(server: &LabServer) -> Writers {
    let address: SocketAddr = server.address.to_string().parse().unwrap();
    Writers::start(|| move || Box::new(move || Some(address)) as Find)
}

#[tokio::test]
async fn an_isolated_primary_holds_its_writes_and_heals_by_itself() {
    let world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let redis = world.groups[0].redis[0].address.to_string();
    let config = node_config(&world, "node", &redis);
    let mut all = vec![agent(&world, "node", &["--config", &config], &[])];
    assert_eq!(until_writer(&world, "redis", 20, None).await, redis);
    until_in_sync(&world, "redis", 2).await;
    // An agent that has not heard yet that its Redis is the writer would hold no writes.
    until("it knows that it leads", Duration::from_secs(10), || async {
        let log = all[0].log();
        if log.contains("generation 1") { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    let server = world.server(&redis).unwrap();
    // As seen from its host, everything else stops answering.
    let others = |signal| {
        for sentinel in &world.sentinels {
            sentinel.signal(signal).unwrap();
        }
        world.consul.signal(signal).unwrap();
    };
    let writers = writers_at(server);
    writers.until_more(SOME).await;
    let cut = Instant::now();
    others(Signal::SIGSTOP);
    until_held(server).await;
    assert!(server.ask(&["GET", "x"]).await.is_ok(), "reads go on");
    // Renewed for as long as it lasts: no gap through which a write could go, also of those who wait for one.
    for _ in 0..20 {
        hold(server).await.unwrap_or_else(|error| panic!("{error}\n{}", logs(&all)));
    }
    let done = writers.stop();
    let last = done.iter().rfind(|done| done.kind != Kind::Reader).unwrap();
    HELD.kept(last.at - cut);
    let said = format!("redis: holding writes on {redis}: this host sees neither Consul nor");
    assert_eq!(logs(&all).matches(&said).count(), 1, "{}", logs(&all));
    others(Signal::SIGCONT);
    until("writes go on", Duration::from_secs(20), || server.ask(&["SET", "x", "3"]))
        .await
        .unwrap();

    // Nothing is left behind by an agent that dies while it holds.
    others(Signal::SIGSTOP);
    until_held(server).await;
    all[0].kill();
    until("the hold ends by itself", Duration::from_secs(20), || server.ask(&["SET", "x", "4"]))
        .await
        .unwrap();
    others(Signal::SIGCONT);
}

/// It joined just before the failover: no Sentinel has read of it, and the primary that it follows becomes a replica, from
/// which no Sentinel reads of others. The agent beside it has it follow the new one.
#[tokio::test]
async fn a_newcomer_that_no_sentinel_has_heard_of_follows_the_next_writer() {
    let mut world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    // They read who a primary's replicas are from its INFO.
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "DEBUG", "info-period", "600000"]).await.unwrap();
    }
    let blank = world.start_redis("newcomer", None).await.unwrap();
    let config = node_config(&world, "node", &blank.address.to_string());
    let agents = [agent(&world, "node", &["--config", &config], &[])];
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 3).await;
    until_all_have(world.server(&first).unwrap(), "kept", 3).await;
    world.sentinels[0].fail_over("redis").await.unwrap();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until("it follows the new one", Duration::from_secs(20), || async {
        let of = blank.follows().await?.map(|of| of.to_string());
        if of.as_ref() == Some(&second) { Ok(()) } else { Err(LabError(logs(&agents))) }
    })
    .await
    .unwrap();
    until_in_sync(&world, "redis", 3).await;
    let kept = said(&blank.ask(&["GET", "kept"]).await.unwrap());
    assert_eq!(kept.as_deref(), Ok("1"), "{}", logs(&agents));
}
