//! Sentinels and replicas that are gone for good: the others forget them, one at a time, and the quorum follows.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::fields;

use crate::support::{agents, logs, record, until_in_sync, until_record, until_writer, world};

/// Waits until every Sentinel has these fields.
async fn until_all_say(
    world: &World,
    seconds: u64,
    wanted: &[(&str, &str)],
) -> Result<(), LabError> {
    until(&format!("all say {wanted:?}"), Duration::from_secs(seconds), || async {
        for sentinel in &world.sentinels {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let found = fields(&answer).map_err(LabError)?;
            for (name, value) in wanted {
                if found[*name] != *value {
                    let name = format!("{}: {name} {}", sentinel.name(), found[*name]);
                    return Err(LabError(name));
                }
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn from_three_sentinels_to_five_and_back() {
    let mut world = world(WorldSpec::default()).await;
    let config = world.dir().join("agents.toml");
    let text = "[[group]]\nname = \"redis\"\nforget_after = \"3s\"\n\
                forget_sentinels_after = \"3s\"\n[group.settings]\nquorum = \"auto\"\n";
    std::fs::write(&config, text).unwrap();
    let running = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    for index in 3..5 {
        let more = world.start_sentinel(&format!("sentinel-{index}"), true).await.unwrap();
        world.sentinels.push(more);
    }
    let five = [("num-other-sentinels", "4"), ("quorum", "3")];
    until_all_say(&world, 60, &five).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(&running)));
    until_record(&world, "redis", 20, "five are known", |r| r.evidence.known == 5).await;

    // Two Sentinels and a replica go for good.
    for mut gone in world.sentinels.split_off(3) {
        gone.kill();
    }
    world.groups[0].redis.pop().unwrap().kill();
    let three = [("num-other-sentinels", "2"), ("num-slaves", "1"), ("quorum", "2")];
    until_all_say(&world, 240, &three).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(&running)));
    until_record(&world, "redis", 60, "three are known", |r| r.evidence.known == 3).await;
    let times = forgotten_at(&running);
    assert_eq!(times.len(), 3, "{}", logs(&running));
    let apart = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs());
    assert!(apart.into_iter().all(|seconds| seconds >= 29), "{}", logs(&running));
    assert_eq!(record(&world, "redis").await.unwrap().generation, 1, "the name has not moved");

    // Two of three agree again.
    world.calm().await.unwrap();
    world.sentinels[2].kill();
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 30, Some(&first)).await;
    assert_ne!(second, first);
}

/// When a Sentinel was made to forget, in order, from the agents' logs.
fn forgotten_at(agents: &[consul_redis::lab::process::Process]) -> Vec<jiff::Timestamp> {
    let log = logs(agents);
    let lines = log.lines().filter(|line| line.contains("was made to forget"));
    let mut times: Vec<jiff::Timestamp> =
        lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    times.sort();
    times
}
