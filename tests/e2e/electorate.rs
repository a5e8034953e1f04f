//! Whose Sentinels these are: two groups of one name on one Consul, and one group whose Sentinels are all made anew.

use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{list, text as said};
use tokio::time::Instant;

use crate::containers::{Container, PLAIN, group, spec};
use crate::promises::{ALL_FORGOTTEN, FORGOTTEN};
use crate::support::{
    agent, agents, logs, must_follow_a_failover, record, run, text, until_in_sync, until_logged,
    until_record, until_writer, world,
};

/// Keys of the first group.
const KEYS: usize = 50;

async fn keys(server: &LabServer) -> String {
    said(&server.ask(&["DBSIZE"]).await.unwrap()).unwrap()
}

async fn write(world: &World, count: usize) {
    for number in 0..count {
        let key = format!("key-{number}");
        world.groups[0].redis[0].ask(&["SET", &key, "1"]).await.unwrap();
    }
}

/// Every instance of the group has all of its keys, and follows its own primary.
async fn until_whole(world: &World, wanted: usize) {
    for (index, server) in world.groups[0].redis.iter().enumerate() {
        let first = &world.groups[0].redis[0].address;
        until("it has all keys", Duration::from_secs(20), || async {
            let (found, follows) = (keys(server).await, server.follows().await?);
            if found == wanted.to_string() && follows.as_ref() == Some(first).filter(|_| index > 0)
            {
                return Ok(());
            }
            Err(LabError(format!("{}: {found} keys, follows {follows:?}", server.name())))
        })
        .await
        .unwrap();
    }
}

/// An agent of a world whose Consul is another one's.
fn agent_at(world: &World, consul: &World, name: &str) -> Process {
    let http = consul.consul.http.to_string();
    agent(world, name, &[], &[("CONSUL_HTTP_ADDR", &http)])
}

fn run_at(world: &World, consul: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = run(world, args, &[("CONSUL_HTTP_ADDR", &consul.consul.http.to_string())]);
    (output.status.code(), text(&output))
}

async fn until_said(agents: &[Process], what: &str) {
    until_logged(|| logs(agents), 30, what, 1).await;
}

/// Two environments, each with its own Redis and Sentinels, with the default name, on one Consul.
#[tokio::test]
async fn another_group_of_the_same_name_is_left_alone_until_an_operator_adopts_it() {
    let spec = WorldSpec { redis: 2, ..WorldSpec::default() };
    let (ours, other) = (world(spec.clone()).await, world(spec).await);
    write(&ours, KEYS).await;
    write(&other, 3).await;
    let first = agents(&ours, 2, &[]);
    let writer = until_writer(&ours, "redis", 20, None).await;
    let before = until_in_sync(&ours, "redis", 1).await;
    assert_eq!(before.sentinel_ids.len(), 3, "{before:?}");
    let others: Vec<Process> =
        ["other-0", "other-1"].iter().map(|name| agent_at(&other, &ours, name)).collect();
    until_said(&others, "WARN").await;
    until_said(&others, &format!("another group is published as redis, by {}", before.by)).await;
    // What it does not say is how to delete another's data.
    let (code, found) = run_at(&other, &ours, &["doctor", "redis"]);
    assert!(code == Some(2) && found.contains("not-ours"), "{found}");
    assert!(!found.contains("REPLICAOF"), "{found}");
    let (code, found) = run_at(&other, &ours, &["status"]);
    assert!(code == Some(2) && found.contains("consul-redis adopt redis"), "{found}");
    until_whole(&ours, KEYS).await;
    until_whole(&other, 3).await;
    let now = record(&ours, "redis").await.unwrap();
    assert_eq!(
        (now.generation, now.writer_address()),
        (before.generation, before.writer_address())
    );

    // An operator says so: the name moves, and all data stays.
    let (code, found) = run_at(&ours, &ours, &["adopt", "redis", "--yes"]);
    assert!(code == Some(1) && found.contains("nothing to adopt"), "{found}");
    let (code, found) = run_at(&other, &ours, &["adopt", "redis"]);
    assert!(code == Some(1) && found.contains("not confirmed"), "{found}");
    let (code, found) = run_at(&other, &ours, &["adopt", "redis", "--yes"]);
    assert!(code == Some(0) && found.contains("no data is deleted"), "{found}");
    let adopted = until_writer(&ours, "redis", 20, Some(&writer)).await;
    assert_eq!(adopted, other.groups[0].redis[0].address.to_string(), "{}", logs(&others));
    until_said(&first, "another group is published as redis, by other-").await;
    let (_, found) = run_at(&other, &ours, &["doctor", "redis"]);
    assert!(!found.contains("not-ours"), "{found}");
    until_whole(&ours, KEYS).await;
    until_whole(&other, 3).await;
    assert_eq!(until_writer(&ours, "redis", 5, None).await, adopted);
}

/// New hosts, new ids: they were pointed at the primary by their config.
#[tokio::test]
async fn sentinels_that_are_all_made_anew_are_the_groups_own() {
    let mut world = world(WorldSpec::default()).await;
    let old = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    for mut sentinel in std::mem::take(&mut world.sentinels) {
        sentinel.kill();
    }
    // What they said last is not to be heard by those that follow.
    for server in &world.groups[0].redis {
        until("it has let go of the Sentinels", Duration::from_secs(20), || async {
            let clients = said(&server.ask(&["CLIENT", "LIST"]).await?).map_err(LabError)?;
            let gone = !clients.contains("name=sentinel-");
            if gone { Ok(()) } else { Err(LabError(clients)) }
        })
        .await
        .unwrap();
    }
    for index in 3..6 {
        let sentinel = world.start_sentinel(&format!("sentinel-{index}"), true).await.unwrap();
        world.sentinels.push(sentinel);
    }
    // A hello of one that is gone may have been on its way all the same.
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    }
    world.settle().await.unwrap();
    drop(old);
    let before = record(&world, "redis").await.unwrap();
    let new = agents(&world, 2, &[]);
    until_record(&world, "redis", 20, "the new ones are recorded", |record| {
        record.sentinel_ids.len() == 3 && record.sentinel_ids != before.sentinel_ids
    })
    .await;
    assert_eq!(until_writer(&world, "redis", 5, None).await, writer, "{}", logs(&new));
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// Blank, at its old address.
fn make_anew(world: &World, index: usize) {
    let file = world.dir().join(world.sentinels[index].name()).join("server.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let own = text
        .lines()
        .filter(|line| !line.starts_with("sentinel ") || line.starts_with("sentinel announce-"));
    std::fs::write(&file, own.collect::<Vec<_>>().join("\n") + "\n").unwrap();
}

/// A scheduler took their hosts for lost, and the writer's: it is back as `exec` starts it, a replica of no instance.
#[tokio::test]
async fn a_group_that_most_of_its_sentinels_have_forgotten_is_named_again() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    write(&world, KEYS).await;
    until_whole(&world, KEYS).await;
    for index in [1, 2] {
        world.sentinels[index].kill();
        make_anew(&world, index);
    }
    let dir = world.dir().to_owned();
    let server = world.server_mut(&writer).unwrap();
    // It ends with all that it has on the disk, once its replicas have acknowledged everything.
    let _ = server.ask(&["SHUTDOWN", "SAVE"]).await;
    let saved = dir.join(server.name()).join("dump.rdb");
    until("it has saved its data", Duration::from_secs(20), || async {
        if saved.exists() { Ok(()) } else { Err(LabError("no file".to_owned())) }
    })
    .await
    .unwrap();
    server.kill();
    let file = dir.join(server.name()).join("server.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "\nreplicaof 192.0.2.1 6379\n").unwrap();
    server.restart().await.unwrap();
    let gone = |record: &Record| record.writer.is_none();
    let before = until_record(&world, "redis", 20, "it is withdrawn", gone).await;
    let back = Instant::now();
    for index in [1, 2] {
        world.sentinels[index].restart().await.unwrap();
    }
    let seconds = FORGOTTEN.patience_s() + 20;
    let named = |record: &Record| record.writer.is_some();
    let record = until_record(&world, "redis", seconds, "it is named again", named).await;
    let took = back.elapsed();
    assert_eq!(record.writer_address().map(ToString::to_string), Some(writer.clone()));
    assert_eq!(record.generation, before.generation + 1, "{}", logs(&agents));
    FORGOTTEN.kept(took);
    assert_eq!(until_writer(&world, "redis", 20, None).await, writer, "{}", logs(&agents));
    for sentinel in &world.sentinels {
        let answer = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"]).await;
        let parts = list(&answer.unwrap()).unwrap().iter().map(said).collect::<Vec<_>>();
        let named = parts.into_iter().map(Result::unwrap).collect::<Vec<_>>().join(":");
        assert_eq!(named, writer, "{}", sentinel.name());
    }
    until_whole(&world, KEYS).await;
}

/// A scheduler took everything for lost: all Sentinels are blank, and all Redis are back with their data.
#[tokio::test]
async fn a_group_that_all_sentinels_have_forgotten_is_led_again() {
    let mut world = world(spec()).await;
    let mut all = group(&mut world, 3, &[]).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    all.at(&writer).ask(&["SET", "key", "1"]).await.unwrap();
    for container in &all.redis {
        assert_eq!(container.get("key").await, "1");
        container.ask(&["SAVE"]).await.unwrap();
    }
    for container in all.redis.iter_mut().chain(&mut all.sentinels) {
        container.kill_server().await;
    }
    for sentinel in &mut all.sentinels {
        std::fs::remove_dir_all(&sentinel.data).unwrap();
        std::fs::create_dir(&sentinel.data).unwrap();
    }
    let back = Instant::now();
    for container in all.sentinels.iter_mut().chain(&mut all.redis) {
        container.restart(&world);
    }
    let again = |r: &Record| r.writer.is_some() && r.generation > before.generation;
    let seconds = ALL_FORGOTTEN.patience_s() + 20;
    until_record(&world, "redis", seconds, "it is led again", again).await;
    let took = back.elapsed();
    for container in &all.redis {
        assert_eq!(container.get("key").await, "1");
    }
    ALL_FORGOTTEN.kept(took);
}

/// A host was cloned, its Sentinel's config and all.
#[tokio::test]
async fn sentinels_with_one_id_are_named() {
    // Before that a Sentinel does not say its id.
    let since = Some("6.2");
    let mut world = world(WorldSpec { redis: 2, since, ..WorldSpec::default() }).await;
    let conf = |world: &World, index: usize| {
        world.dir().join(world.sentinels[index].name()).join("server.conf")
    };
    for sentinel in &mut world.sentinels {
        sentinel.kill();
    }
    let text_of = |path| std::fs::read_to_string(path).unwrap();
    let first = text_of(conf(&world, 0));
    let id = first.lines().find(|line| line.starts_with("sentinel myid ")).unwrap().to_owned();
    for index in 0..3 {
        let text = text_of(conf(&world, index));
        let own = text.lines().filter(|line| !line.starts_with("sentinel known-sentinel "));
        let with_id = |line| if str::starts_with(line, "sentinel myid ") { &id } else { line };
        let text = own.map(with_id).collect::<Vec<_>>().join("\n") + "\n";
        std::fs::write(conf(&world, index), text).unwrap();
    }
    for sentinel in &mut world.sentinels {
        sentinel.restart().await.unwrap();
    }
    let agents = agents(&world, 1, &[]);
    let mut all: Vec<_> = world.sentinels.iter().map(|sentinel| &sentinel.address).collect();
    all.sort();
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    let said = format!("Sentinels {} have the same id", names.join(", "));
    until_said(&agents, &said).await;
    let status = text(&run(&world, &["status"], &[]));
    assert!(status.contains(&said), "{status}");
    let doctor = text(&run(&world, &["doctor", "redis"], &[]));
    assert!(doctor.contains("same-sentinel-id"), "{doctor}");
    // As it says.
    for index in 1..3 {
        world.sentinels[index].kill();
        let text = text_of(conf(&world, index));
        let others = text.lines().filter(|line| !line.starts_with("sentinel myid "));
        std::fs::write(conf(&world, index), others.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        world.sentinels[index].restart().await.unwrap();
    }
    // What they were called before is still heard of a moment after they are killed, by way of a replica that copies.
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    }
    world.settle().await.unwrap();
    let doctor = text(&run(&world, &["doctor", "redis"], &[]));
    assert!(!doctor.contains("same-sentinel-id"), "{doctor}");
}

/// A blank Redis and a blank Sentinel, started with nothing but Consul's address, where a group of the default name
/// belongs to an installation.
#[tokio::test]
async fn an_installation_does_not_let_blank_servers_of_others_in() {
    let mut world = world(spec()).await;
    let production = group(&mut world, 2, &[("CONSUL_REDIS_INSTALLATION", "prod")]).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    let before = until_in_sync(&world, "redis", 1).await;
    assert_eq!(before.installation.as_deref(), Some("prod"));
    production.until_known().await;
    let redis = Container::start(&mut world, "redis-stranger", PLAIN).await;
    let sentinel = Container::start(&mut world, "sentinel-stranger", PLAIN).await;
    for container in [&redis, &sentinel] {
        until("it says why it does nothing", Duration::from_secs(30), || async {
            let log = container.log();
            let why = "group redis belongs to installation `prod`, and this agent to none";
            if log.contains(why) { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
    }
    // Production's agents have looked at what is registered since.
    let log = production.redis.iter().map(Container::log).collect::<String>();
    assert_eq!(redis.info("master_host").await.unwrap(), "192.0.2.1", "{log}");
    let groups = sentinel.ask(&["SENTINEL", "MASTERS"]).await.unwrap();
    assert_eq!(groups, redis::Value::Array(Vec::new()), "{log}");
    let now = record(&world, "redis").await.unwrap();
    assert_eq!(now.writer_address().map(ToString::to_string), Some(writer));
    assert_eq!((now.instances.len(), now.sentinel_ids.len()), (2, 3), "{now:?}");
    let status = run(&world, &["status"], &[("CONSUL_REDIS_INSTALLATION", "prod")]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
}
