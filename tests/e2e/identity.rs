//! Who is who: one process at several addresses, an address that replicas write in another way, data whose history no
//! file holds, and instances that Sentinels do not show.

use std::net::Ipv4Addr;
use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::core::known::observed::Role;
use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::clients::write_to;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{LinkSettings, fields, list, text as reply};
use serde_json::Value;
use tokio::time::Instant;

use crate::fencing::{until_all_have, until_all_settled, until_follows};
use crate::promises::{RETURNED_AOF, RETURNED_WHOLE};
use crate::support::{
    agent, agents, logs, must_follow_a_failover, node_agents, record, run, text, until_in_sync,
    until_logged, until_named, until_record, until_writer, world,
};

/// Keys that all instances have.
const KEYS: usize = 100;
/// How long a failover may take, in s: Sentinels that vote for three leaders try again after twice failover-timeout (10
/// s).
const FOLLOWED_WITHIN_S: u64 = 50;

/// Another way to write the address, which the resolver takes for a name and looks up.
fn in_other_words(address: &Address) -> (String, String) {
    let ip: Ipv4Addr = address.host().parse().unwrap();
    (ip.to_bits().to_string(), address.port().to_string())
}

async fn keys(server: &LabServer) -> Result<usize, LabError> {
    let found = reply(&server.ask(&["DBSIZE"]).await?).map_err(LabError)?;
    found.parse().map_err(LabError::new)
}

async fn until_keys(server: &LabServer, wanted: usize) {
    until(&format!("{} has {wanted} keys", server.name()), Duration::from_secs(40), || async {
        let found = keys(server).await?;
        if found == wanted { Ok(()) } else { Err(LabError(found.to_string())) }
    })
    .await
    .unwrap();
}

async fn set(server: &LabServer, name: &str, value: &str) {
    server.ask(&["CONFIG", "SET", name, value]).await.unwrap();
}

async fn until_said(agents: &[Process], said: &str) {
    until_logged(|| logs(agents), 20, said, 1).await;
}

/// The problems that `status` shows now: code and text.
fn problems(world: &World) -> Vec<(String, String)> {
    let output = run(world, &["status", "--json"], &[]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let groups = status.as_array().cloned().unwrap_or_else(|| vec![status.clone()]);
    let all = groups.iter().filter_map(|group| group["problems"].as_array()).flatten();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|problem| (word(&problem["code"]), word(&problem["text"]))).collect()
}

async fn until_problem(world: &World, code: &str, said: &str) {
    until(code, Duration::from_secs(20), || async {
        let found = problems(world);
        let is = |(found, text): &(String, String)| found == code && text.contains(said);
        if found.iter().any(is) { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

fn findings(world: &World) -> Vec<String> {
    let output = run(world, &["doctor", "redis", "--json"], &[]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let all = said[0]["findings"].as_array().cloned().unwrap_or_default();
    all.iter().map(|found| found["code"].as_str().unwrap_or_default().to_owned()).collect()
}

/// `replicaof redis-master PORT`: the primary comes back without its data while one replica, which may have more, is
/// away.
#[tokio::test]
async fn replicas_that_follow_a_name_copy_no_primary_without_data() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let primary = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let (name, port) = in_other_words(&world.server(&primary).unwrap().address);
    for number in 0..KEYS {
        let key = format!("key-{number}");
        world.server(&primary).unwrap().ask(&["SET", &key, "1"]).await.unwrap();
    }
    for server in &world.groups[0].redis[1..] {
        server.ask(&["REPLICAOF", &name, &port]).await.unwrap();
        until_keys(server, KEYS).await;
    }
    // Redis 6.0 connects anew up to a second later.
    let server = world.server(&primary).unwrap();
    until("both are connected", Duration::from_secs(20), || async {
        match server.probe().await?.role {
            Role::Primary { replicas } if replicas.iter().filter(|r| r.online).count() == 2 => {
                Ok(())
            }
            role => Err(LabError(format!("{role:?}"))),
        }
    })
    .await
    .unwrap();
    until_in_sync(&world, "redis", 2).await;
    let found = findings(&world);
    for server in &world.groups[0].redis {
        // What a config that says nothing about it has.
        set(server, "repl-diskless-sync-delay", "5").await;
        server.ask(&["CONFIG", "REWRITE"]).await.unwrap();
    }
    world.groups[0].redis[2].kill();
    let server = world.server_mut(&primary).unwrap();
    server.kill();
    server.restart().await.unwrap();
    let new = until_writer(&world, "redis", FOLLOWED_WITHIN_S, Some(&primary)).await;
    assert_eq!(new, world.groups[0].redis[1].address.to_string(), "{}", logs(&agents));
    until_keys(world.server(&new).unwrap(), KEYS).await;
    until_keys(world.server(&primary).unwrap(), KEYS).await;
    assert!(!found.contains(&"follows-another".to_owned()), "by another name it is: {found:?}");
}

/// It listens on a second address, and the agent beside it has that one in its config.
#[tokio::test]
async fn a_primary_at_two_addresses_is_never_told_to_follow_itself() {
    let mut world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let second = world.address();
    let server = &world.groups[0].redis[0];
    let (first, port) = (server.address.clone(), server.address.port());
    set(server, "bind", &format!("{} {second}", first.host())).await;
    let config = world.dir().join("second.toml");
    let alias = format!("{second}:{port}");
    let file = format!("[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{alias}\"\n");
    std::fs::write(&config, file).unwrap();
    let beside = agent(&world, "node", &["--config", config.to_str().unwrap()], &[]);
    let others = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    assert_eq!(writer, first.to_string());
    let generation = record(&world, "redis").await.unwrap().generation;
    let said = format!("{alias} and {first} are two addresses of one process");
    until_problem(&world, "two-addresses", &said).await;
    assert!(findings(&world).contains(&"two-addresses".to_owned()));
    // Said after 5 s: a stray primary would have been made a replica after 3.
    until_said(std::slice::from_ref(&beside), &said).await;
    until_said(&others, &said).await;
    let now = record(&world, "redis").await.unwrap();
    assert_eq!((now.generation, now.writer_address()), (generation, Some(&first)));
    assert!(world.groups[0].redis[0].probe().await.unwrap().is_primary());
    // As doctor says: the address that the group knows, where the other one is configured.
    let file = format!("[[group]]\nname = \"redis\"\n[[redis]]\naddress = \"{first}\"\n");
    std::fs::write(&config, file).unwrap();
    beside.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    until("it is found no more", Duration::from_secs(30), || async {
        let found = findings(&world);
        let gone = !found.iter().any(|code| ["two-addresses", "not-healthy"].contains(&&**code));
        if gone { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// As production keeps its data: `appendonly yes`.
pub fn with_files() -> WorldSpec {
    WorldSpec { redis_lines: "appendonly yes\n", ..WorldSpec::default() }
}

/// The writer is killed, another one has taken its place, and it is about to come back with its data.
pub async fn replaced(world: &mut World) -> (String, String) {
    let old = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    let server = world.server_mut(&old).unwrap();
    server.ask(&["SET", "kept", "1"]).await.unwrap();
    until_all_have(world, "kept").await;
    let server = world.server_mut(&old).unwrap();
    server.ask(&["SAVE"]).await.unwrap();
    server.kill();
    let new = until_writer(world, "redis", FOLLOWED_WITHIN_S, Some(&old)).await;
    until_all_settled(world, &old, &new).await;
    (old, new)
}

/// A client that never let go of it: how long it takes that one's writes when it is back.
pub async fn late_writes(address: Address, login: LinkSettings) -> Duration {
    let (mut first, mut last) = (None, None);
    loop {
        match write_to(&address, &login, "late").await {
            Ok(()) => {
                first.get_or_insert_with(Instant::now);
                last = Some(Instant::now());
            }
            Err(error) if error.to_string().contains("READONLY") => break,
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.zip(last).map(|(first, last)| last - first).unwrap_or_default()
}

#[tokio::test]
async fn an_old_primary_with_an_append_only_file_is_fenced_as_soon_as_it_is_back() {
    fenced_as_soon_as_it_is_back(with_files()).await;
}

/// It begins another history then, as with an append-only file (docs/facts/sentinel.md 19).
#[tokio::test]
async fn an_old_primary_of_redis_6_with_a_snapshot_is_fenced_as_soon_as_it_is_back() {
    let spec = WorldSpec { version: Some("redis-6.0"), ..WorldSpec::default() };
    fenced_as_soon_as_it_is_back(spec).await;
}

async fn fenced_as_soon_as_it_is_back(spec: WorldSpec) {
    let mut world = world(spec).await;
    let agents = agents(&world, 2, &[]);
    let (old, new) = replaced(&mut world).await;
    let server = world.server(&old).unwrap();
    let client = tokio::spawn(late_writes(server.address.clone(), server.login.clone()));
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let took = tokio::time::timeout(Duration::from_secs(30), client).await.unwrap().unwrap();
    RETURNED_AOF.kept(took);
    until_follows(world.server(&old).unwrap(), &new).await;
    until_said(&agents, &format!("{old} was a stray primary; it is a replica of {new} now")).await;
    until_in_sync(&world, "redis", 2).await;
}

/// Every Sentinel is reset while one instance is away: none lists it any more, and it loses its row.
pub async fn forgotten_by_all(world: &World, old: &str) {
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    }
    world.hurry().await;
    for sentinel in &world.sentinels {
        until("it knows the others again", Duration::from_secs(40), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let found = fields(&answer).map_err(LabError)?;
            let counts = ["num-slaves", "num-other-sentinels"].map(|name| found[name].clone());
            if counts == ["1", "2"] { Ok(()) } else { Err(LabError(format!("{counts:?}"))) }
        })
        .await
        .unwrap();
    }
    let without = |record: &Record| {
        record.writer.is_some() && record.instances.iter().all(|i| i.address.to_string() != old)
    };
    until_record(world, "redis", 60, "it has no row any more", without).await;
}

/// The host comes back whole. Its agent remembers nothing, and no Sentinel lists its Redis: what the agent saw before
/// is in Consul.
#[tokio::test]
async fn an_old_primary_whose_agent_was_away_too_is_known_by_what_that_one_noted() {
    let mut world = world(with_files()).await;
    let mut all = node_agents(&world, "");
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server(&old).unwrap().ask(&["SET", "noted", "1"]).await.unwrap();
    let key = format!("redis-ha/redis/histories/{old}/seen");
    until("its agent has noted what it saw", Duration::from_secs(20), || async {
        let seen = world.consul.key(&key).await?.unwrap_or_default();
        if seen.contains("\"led\":true") { Ok(()) } else { Err(LabError(seen)) }
    })
    .await
    .unwrap();
    let servers = world.groups[0].redis.iter();
    let index = servers.map(|server| server.address.to_string()).position(|at| at == old).unwrap();
    drop(all.remove(index));
    let (again, new) = replaced(&mut world).await;
    assert_eq!(again, old);
    forgotten_by_all(&world, &old).await;

    let server = world.server(&old).unwrap();
    let client = tokio::spawn(late_writes(server.address.clone(), server.login.clone()));
    let name = server.name().to_owned();
    let config = world.dir().join(format!("{name}.toml"));
    let args = ["--config", config.to_str().unwrap()];
    all.push(agent(&world, &format!("back-{name}"), &args, &[]));
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let took = tokio::time::timeout(Duration::from_secs(60), client).await;
    let took = took.unwrap_or_else(|_| panic!("{}", logs(&all))).unwrap();
    RETURNED_WHOLE.kept(took);
    until_follows(world.server(&old).unwrap(), &new).await;
    until_said(&all, &format!("{old} was a stray primary; it is a replica of {new} now")).await;
    until_in_sync(&world, "redis", 2).await;
    for wrong in ["an unrelated history", "cannot prove whose data"] {
        assert!(!logs(&all).contains(wrong), "{}", logs(&all));
    }
}

/// No Sentinel knows it any more, it has no row, and no agent is beside it: no agent can tell whose data it holds.
#[tokio::test]
async fn what_cannot_prove_its_data_takes_no_writes_and_says_what_decides_it() {
    let mut world = world(WorldSpec { since: Some("6.2"), ..with_files() }).await;
    let first = agents(&world, 2, &[]);
    let (old, new) = replaced(&mut world).await;
    drop(first);
    let agents = agents(&world, 2, &[]);
    forgotten_by_all(&world, &old).await;
    let generation = record(&world, "redis").await.unwrap().generation;
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let said = format!("{old} was the writer until generation");
    until_problem(&world, "second-primary", &said).await;
    let server = world.server(&old).unwrap();
    until("its writes are held", Duration::from_secs(20), || async {
        match server.ask(&["SET", "late", "1"]).await {
            Err(error) if error.to_string().contains("no answer") => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap();
    until_said(&agents, &said).await;
    assert!(server.probe().await.unwrap().is_primary(), "as it was");
    assert_eq!(record(&world, "redis").await.unwrap().generation, generation);
    // The command that it says.
    let (_, found) = problems(&world).into_iter().find(|(_, text)| text.contains(&said)).unwrap();
    let command = found.split("run ").nth(1).and_then(|rest| rest.strip_suffix(" there")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    server.ask(&words).await.unwrap();
    until_follows(server, &new).await;
    until_in_sync(&world, "redis", 2).await;
}

/// All its keys were deleted, and an old primary comes back with one.
#[tokio::test]
async fn a_writer_without_keys_that_never_restarted_stays_the_writer() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let server = world.server_mut(&first).unwrap();
    server.ask(&["SET", "kept", "1"]).await.unwrap();
    server.ask(&["SAVE"]).await.unwrap();
    server.kill();
    let second = until_writer(&world, "redis", FOLLOWED_WITHIN_S, Some(&first)).await;
    until_in_sync(&world, "redis", 1).await;
    world.server(&second).unwrap().ask(&["FLUSHALL"]).await.unwrap();
    until_all_settled(&world, &first, &second).await;
    // A leader that agents have told for has its replica pointed at the new primary by them, or by Sentinels in ten seconds.
    for server in &world.groups[0].redis {
        let other = server.address.to_string();
        if other != first && other != second {
            until_follows(server, &second).await;
        }
    }
    until_in_sync(&world, "redis", 1).await;
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert!(moved.status.success(), "{}", text(&moved));
    let third = until_writer(&world, "redis", 20, Some(&second)).await;
    assert_ne!(third, first);
    let generation = record(&world, "redis").await.unwrap().generation;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    // Sentinel makes it a replica, as it does with any; no agent does, for it has data and the writer has none.
    until_follows(world.server(&first).unwrap(), &third).await;
    let now = record(&world, "redis").await.unwrap();
    assert_eq!(now.generation, generation, "{}", logs(&agents));
    assert!(!logs(&agents).contains("came back without its data"), "{}", logs(&agents));
}

/// `replica-announced no`: Sentinels do not show it, and choose it all the same.
#[tokio::test]
async fn a_replica_that_is_not_announced_is_no_read_endpoint_and_is_said() {
    let world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let agents = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let [_, shown, hidden] = [0, 1, 2].map(|index| &world.groups[0].redis[index]);
    set(hidden, "replica-announced", "no").await;
    let said = Instant::now();
    until_named(&world, "redis-replica", &[shown.address.to_string()]).await;
    eprintln!("no read endpoint after {} ms", said.elapsed().as_millis());
    // The only one that may be chosen.
    set(shown, "replica-priority", "0").await;
    world.hurry().await;
    until("Sentinels have read it", Duration::from_secs(30), || async {
        for sentinel in &world.sentinels {
            let answer = sentinel.ask(&["SENTINEL", "REPLICAS", "redis"]).await?;
            let rows = list(&answer).map_err(LabError)?.iter().map(fields);
            let rows = rows.collect::<Result<Vec<_>, _>>().map_err(LabError)?;
            let read = rows.len() == 1 && rows[0]["slave-priority"] == "0";
            if !read {
                return Err(LabError(format!("{rows:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    assert!(findings(&world).contains(&"replica-unannounced".to_owned()), "{:?}", findings(&world));
    let target = hidden.address.to_string();
    let moved = run(&world, &["switchover", "redis", "--to", &target, "--yes"], &[]);
    assert!(
        !moved.status.success() && text(&moved).contains("is not announced"),
        "{}",
        text(&moved)
    );
    // It is chosen all the same, and it leads.
    let moved = run(&world, &["switchover", "redis", "--yes"], &[]);
    assert!(moved.status.success(), "{}\n{}", text(&moved), logs(&agents));
    let writer = until_writer(&world, "redis", 10, None).await;
    assert_eq!(writer, target);
}

/// It follows another replica, as its operator wants, and that one is away for a while.
#[tokio::test]
async fn a_replica_of_a_replica_stays_one_while_that_one_is_away() {
    let mut world = world(WorldSpec::default()).await;
    let between = world.groups[0].redis[1].address.clone();
    let chained = world.start_redis("chained", Some(&between)).await.unwrap();
    world.groups[0].redis.push(chained);
    let agents = node_agents(&world, "");
    until_writer(&world, "redis", 20, None).await;
    let follows = between.to_string();
    let chained = |world: &World| world.groups[0].redis[3].address.clone();
    until("it is connected", Duration::from_secs(20), || async {
        match world.groups[0].redis[3].probe().await?.role {
            Role::Replica { link_up: true, .. } => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap();
    world.groups[0].redis[1].kill();
    let down = |record: &Record| record.replicas().all(|replica| *replica != between);
    until_record(&world, "redis", 20, "it is away", down).await;
    // One that is lost is told after 3 s.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let server = &world.groups[0].redis[3];
    let now = server.follows().await.unwrap().map(|of| of.to_string());
    assert_eq!(now.as_ref(), Some(&follows), "{}", logs(&agents));
    world.groups[0].redis[1].restart().await.unwrap();
    until("it is connected again", Duration::from_secs(20), || async {
        match world.groups[0].redis[3].probe().await?.role {
            Role::Replica { link_up: true, .. } => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap();
    assert!(!logs(&agents).contains(&format!("{} was ", chained(&world))), "{}", logs(&agents));
}
