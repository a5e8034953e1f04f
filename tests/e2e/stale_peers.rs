//! Sentinels and replicas that are gone for good: the others forget them, one at a time, and the quorum follows.

use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::fields;
use tokio::time::Instant;

use crate::support::{
    agents, logs, must_follow_a_failover, record, run, text, until_in_sync, until_record,
    until_writer, world,
};

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

/// A Sentinel that was made anew has heard a late hello of its former self, and lists itself since: it counts once, and
/// is made to forget that. No other one is reset.
#[tokio::test]
async fn a_sentinel_that_lists_itself_counts_once_and_is_made_to_forget() {
    let world = world(WorldSpec::default()).await;
    let config = world.dir().join("agents.toml");
    let text = "[[group]]\nname = \"redis\"\nforget_sentinels_after = \"10s\"\n\
                [group.settings]\nquorum = \"auto\"\n";
    std::fs::write(&config, text).unwrap();
    let running = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_all_say(&world, 60, &[("num-other-sentinels", "2")]).await.unwrap();
    let sentinel = &world.sentinels[1];
    let (host, port) = writer.rsplit_once(':').unwrap();
    let (own, at) = (sentinel.address.host(), sentinel.address.port());
    let hello = format!("{own},{at},{},0,redis,{host},{port},0", "1".repeat(40));
    sentinel.ask(&["PUBLISH", "__sentinel__:hello", &hello]).await.unwrap();
    let others = async |wanted: &str| {
        until(&format!("it knows {wanted} others"), Duration::from_secs(120), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let known = fields(&answer).map_err(LabError)?["num-other-sentinels"].clone();
            if known == wanted { Ok(()) } else { Err(LabError(known)) }
        })
        .await
    };
    others("3").await.unwrap();
    others("2").await.unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
    assert_eq!(forgotten_at(&running).len(), 1, "{}", logs(&running));
    // It never counted for two.
    let said = logs(&running);
    assert!(!said.contains("of 4 Sentinels") && !said.contains("of 4 known"), "{said}");
    assert_eq!(record(&world, "redis").await.unwrap().evidence.known, 3);
    until_all_say(&world, 60, &[("num-other-sentinels", "2"), ("quorum", "2")]).await.unwrap();
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

#[tokio::test]
async fn what_is_gone_for_good_is_forgotten_when_an_operator_says_so() {
    let mut world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let more = world.start_sentinel("sentinel-3", true).await.unwrap();
    world.sentinels.push(more);
    until_all_say(&world, 60, &[("num-other-sentinels", "3"), ("num-slaves", "2")]).await.unwrap();
    until_record(&world, "redis", 20, "four are known", |r| r.evidence.known == 4).await;
    let forget = |world: &World, gone: &[&str]| {
        let output = run(world, &[&["forget"], gone].concat(), &[]);
        (output.status.code(), text(&output))
    };
    // What answers is not forgotten, nor what is not known.
    let replica = world.groups[0].redis[2].address.to_string();
    for (gone, why) in [
        (first.as_str(), "is the writer"),
        (replica.as_str(), "answers: it is not gone"),
        (world.sentinels[3].address.to_string().as_str(), "answers: it is not gone"),
        ("127.0.0.1:1", "no Sentinel of redis knows"),
    ] {
        let (code, said) = forget(&world, &[gone]);
        assert_eq!((code, said.contains(why)), (Some(1), true), "{gone}: {said}");
    }

    let mut sentinel = world.sentinels.pop().unwrap();
    sentinel.kill();
    world.groups[0].redis.pop().unwrap().kill();
    let began = Instant::now();
    let gone = [replica.as_str(), &sentinel.address.to_string()].map(str::to_owned);
    let (code, said) = forget(&world, &gone.each_ref().map(String::as_str));
    assert_eq!(code, Some(0), "{said}\n{}", logs(&running));
    // By itself an agent waits ten minutes for a Sentinel and an hour for a replica.
    assert!(began.elapsed() < Duration::from_secs(420), "{:?}", began.elapsed());
    let resets = said.lines().filter(|line| line.contains(" has forgotten ")).count();
    assert_eq!(resets, 3, "each Sentinel once: {said}");
    let left = [("num-other-sentinels", "2"), ("num-slaves", "1"), ("flags", "master")];
    until_all_say(&world, 20, &left).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(&running)));
    let record = record(&world, "redis").await.unwrap();
    assert_eq!(record.generation, 1, "the name has not moved");
    assert!(record.instances.iter().all(|i| i.address.to_string() != replica), "{record:?}");
    // No agent did it once more.
    assert_eq!(forgotten_at(&running).len(), 0, "{}", logs(&running));
    until_record(&world, "redis", 60, "three are known", |r| r.evidence.known == 3).await;

    world.calm().await.unwrap();
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 30, Some(&first)).await;
}

/// One Sentinel was made anew three times, with another id at another address each time: three of six that are counted
/// live. No agent resets any without a majority.
#[tokio::test]
async fn where_most_sentinels_that_are_counted_are_gone_status_says_what_to_reset() {
    let mut world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let others = async |sentinel: &LabServer, wanted: &str| {
        until(&format!("it knows {wanted} others"), Duration::from_secs(40), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let found = fields(&answer).map_err(LabError)?["num-other-sentinels"].clone();
            if found == wanted { Ok(()) } else { Err(LabError(found)) }
        })
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", sentinel.name()));
    };
    for index in 3..6 {
        world.sentinels.pop().unwrap().kill();
        let anew = world.start_sentinel(&format!("sentinel-{index}"), true).await.unwrap();
        world.sentinels.push(anew);
        world.hurry().await;
        for sentinel in &world.sentinels[..2] {
            others(sentinel, &index.to_string()).await;
        }
    }
    let said = until("status says what to run", Duration::from_secs(60), || async {
        let status = text(&run(&world, &["status"], &[]));
        let list = status.split("run SENTINEL RESET redis on ").nth(1);
        let list = list.and_then(|rest| rest.split(", 30 s").next()).map(str::to_owned);
        list.ok_or(LabError(status))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
    let named: Vec<&str> = said.split(", then ").collect();
    let mut wanted: Vec<_> = world.sentinels[..2].iter().map(|s| s.address.clone()).collect();
    wanted.sort();
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    assert_eq!(named, wanted, "those that list the three that are gone");
    assert!(!logs(&running).contains("was made to forget"), "{}", logs(&running));
    for address in named {
        let mut all = world.sentinels.iter();
        let sentinel = all.find(|sentinel| sentinel.address.to_string() == address).unwrap();
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
        others(sentinel, "2").await;
    }
    let three = |record: &Record| record.writer.is_some() && record.evidence.known == 3;
    until_record(&world, "redis", 90, "three are known", three).await;
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}
