//! What is alive, and for whom: servers that answer with an error, and groups that are not whole.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{Announced, World, WorldSpec};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::hostnames::own_hosts_file;
use crate::name_server::NameServer;
use crate::support::{
    agent, agents, logs, must_follow_a_failover, off_schema, record, run, set_priorities, text,
    until_all_have, until_in_sync, until_logged, until_named, until_record, until_replicas_are,
    until_writer, world,
};

/// What `status` says, and its exit code.
fn status(world: &World) -> (Option<i32>, String) {
    let output = run(world, &["status"], &[]);
    (output.status.code(), text(&output))
}

/// Waits until `status` ends with this code and says all of this.
async fn until_status(world: &World, code: i32, said: &[&str]) {
    until("status says it", Duration::from_secs(30), || async {
        let (found, text) = status(world);
        if found == Some(code) && said.iter().all(|said| text.contains(said)) {
            return Ok(());
        }
        Err(LabError(format!("{found:?} {text}")))
    })
    .await
    .unwrap();
}

/// Waits until every Sentinel calls these replicas down.
async fn until_called_down(world: &World, replicas: &[String]) {
    let down = |row: &BTreeMap<String, String>| {
        !replicas.contains(&row["name"]) || row["flags"].contains("s_down")
    };
    until_replicas_are(world, "all Sentinels call them down", 30, down).await;
}

#[tokio::test]
async fn replicas_whose_disks_are_full_serve_reads_and_status_says_why_none_is_chosen() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let running = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    // Until then, one may have been out of sync.
    let begun: Vec<usize> = running.iter().map(|agent| agent.log().len()).collect();
    let replicas = &world.groups[0].redis[1..];
    let addresses: Vec<String> = replicas.iter().map(|r| r.address.to_string()).collect();
    for replica in replicas {
        replica.ask(&["CONFIG", "SET", "save", "3600 1000000"]).await.unwrap();
        // What is in the place of its file keeps it from saving, as a full disk does.
        let file = world.dir().join(replica.name()).join("dump.rdb");
        let _ = std::fs::remove_file(&file);
        std::fs::create_dir(&file).unwrap();
        replica.ask(&["BGSAVE"]).await.unwrap();
        let refused = until("PING is refused", Duration::from_secs(10), || async {
            match replica.ask(&["PING"]).await {
                Err(error) if error.to_string().contains("MISCONF") => Ok(()),
                said => Err(LabError(format!("{said:?}"))),
            }
        });
        refused.await.unwrap();
        replica.ask(&["GET", "key"]).await.unwrap();
    }
    until_called_down(&world, &addresses).await;
    // Both are looked at again, and stay.
    until_status(&world, 3, &["degraded", "MISCONF", "no failover selects it"]).await;
    until_named(&world, "redis-replica", &addresses).await;
    let said = running.iter().zip(begun).map(|(agent, begun)| agent.log().split_off(begun));
    let said: String = said.collect();
    assert!(!said.contains(" down"), "{said}");
    assert!(!said.contains("out of sync"), "{said}");
    let doctor = text(&run(&world, &["doctor"], &[]));
    assert!(doctor.contains("MISCONF") && doctor.contains("look at its disk"), "{doctor}");
    assert!(!doctor.contains("ghost-replica"), "{doctor}");
    for code in ["instance-not-ready", "persistence-fails"] {
        assert!(doctor.contains(code), "{doctor}");
    }
    // As it says: there is room again, and the next save succeeds.
    for replica in replicas {
        std::fs::remove_dir(world.dir().join(replica.name()).join("dump.rdb")).unwrap();
        replica.ask(&["BGSAVE"]).await.unwrap();
    }
    until_status(&world, 0, &["redis: healthy"]).await;
    let doctor = text(&run(&world, &["doctor"], &[]));
    for code in ["MISCONF", "instance-not-ready", "persistence-fails"] {
        assert!(!doctor.contains(code), "{doctor}");
    }
}

#[tokio::test]
async fn a_group_that_has_lost_its_replicas_or_a_host_is_degraded() {
    let mut world = world(WorldSpec::default()).await;
    let running = agents(&world, 1, &["--listen", "127.0.0.1:0"]);
    let url = crate::support::http_address(&running[0]).await;
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_status(&world, 0, &["redis: healthy"]).await;
    let metric = |value: &str| format!("consul_redis_degraded{{group=\"redis\"}} {value}");
    crate::support::until_metric(&url, &metric("0.0")).await;
    // A host with a replica and a Sentinel.
    world.groups[0].redis[1].kill();
    world.sentinels[1].kill();
    let down = format!("{} is down", world.groups[0].redis[1].address);
    until_status(&world, 3, &["redis: degraded", &down, "only 2 of 3 known Sentinels answer"])
        .await;
    crate::support::until_metric(&url, &metric("1.0")).await;
    crate::support::until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;
    world.groups[0].redis[2].kill();
    until_status(&world, 3, &["no replica can be read from"]).await;
}

/// `SENTINEL RESET` by cron as the primary dies: the Sentinels find replicas through it alone, and so none any more.
/// The primary that died.
async fn reset_as_the_primary_dies(world: &mut World) -> String {
    let first = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    until_all_have(world.server(&first).unwrap(), "kept", 2).await;
    world.server(&first).unwrap().ask(&["SAVE"]).await.unwrap();
    world.server_mut(&first).unwrap().kill();
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "*"]).await.unwrap();
    }
    until_record(world, "redis", 30, "no writer", |record| record.writer.is_none()).await;
    first
}

/// Agents beside no instance register none: what the record knows leads.
#[tokio::test]
async fn a_group_whose_sentinels_were_reset_as_its_primary_died_is_led_out_by_agents_elsewhere() {
    // Its snapshot says which history its data is of since then.
    let mut world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let running = agents(&world, 2, &[]);
    let first = reset_as_the_primary_dies(&mut world).await;
    let withdrawn = Instant::now();
    let second = until_writer(&world, "redis", 60, Some(&first)).await;
    crate::promises::RESET_AS_IT_DIED.kept(withdrawn.elapsed());
    // The other one, which no Sentinel knows, keeps its row until it follows the new writer.
    let other = world.groups[0].redis.iter().find(|redis| {
        let at = redis.address.to_string();
        at != first && at != second
    });
    let other = other.unwrap();
    let at = other.address.to_string();
    crate::fencing::until_follows(other, &second).await;
    until_in_sync(&world, "redis", 1).await;
    until_named(&world, "redis-replica", std::slice::from_ref(&at)).await;
    let log = logs(&running);
    let all = log.lines().filter(|line| line.contains("redis: instances: "));
    let without: Vec<&str> = all.filter(|line| !line.contains(&at)).collect();
    assert_eq!(without, Vec::<&str>::new(), "{log}");
    // The one that was dead is back, and the group is whole.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// Agents that only observe leave it to the operator.
#[tokio::test]
async fn replicas_that_sentinels_have_forgotten_keep_their_rows_and_doctor_says_how_one_leads() {
    let mut world = world(WorldSpec::default()).await;
    let config = world.dir().join("observe.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nmanage = false\n").unwrap();
    let running = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let first = reset_as_the_primary_dies(&mut world).await;
    let reset = Instant::now();
    let said = until("doctor has the commands", Duration::from_secs(20), || async {
        let said = text(&run(&world, &["doctor"], &[]));
        if said.contains("replicas-forgotten") { Ok(said) } else { Err(LabError(said)) }
    });
    let said = said.await.unwrap();
    // Long after the time in which Sentinels would have found them again.
    while reset.elapsed() < Duration::from_secs(17) {
        let rows = record(&world, "redis").await.unwrap().instances;
        assert_eq!(rows.len(), 3, "{rows:?}\n{}", logs(&running));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (_, shown) = status(&world);
    for replica in &world.groups[0].redis[1..] {
        let row = shown.lines().find(|line| line.contains(&format!("    {} ", replica.address)));
        assert!(row.is_some_and(|row| row.contains("at offset ")), "{shown}");
    }
    // As it says.
    let mend = said.lines().find(|line| line.contains("REPLICAOF NO ONE")).unwrap();
    let next = world.groups[0].redis[1..]
        .iter()
        .find(|replica| {
            mend.contains(&format!("-p {} REPLICAOF", replica.address.port()))
                && mend.contains(replica.address.host())
        })
        .unwrap();
    let (address, port) = (next.address.to_string(), next.address.port().to_string());
    next.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    for sentinel in &world.sentinels {
        sentinel.ask(&["SENTINEL", "REMOVE", "redis"]).await.unwrap();
        let host = next.address.host();
        sentinel.ask(&["SENTINEL", "MONITOR", "redis", host, &port, "2"]).await.unwrap();
    }
    assert_eq!(until_writer(&world, "redis", 40, Some(&first)).await, address);
    // The other one, which followed the dead one, keeps its row, and doctor says how it follows.
    let other =
        world.groups[0].redis[1..].iter().find(|other| other.address != next.address).unwrap();
    let cure = format!("REPLICAOF {} {port}", next.address.host());
    let said = until("doctor has the command", Duration::from_secs(40), || async {
        let said = text(&run(&world, &["doctor"], &[]));
        if said.contains("follows-another") { Ok(said) } else { Err(LabError(said)) }
    });
    let said = said.await.unwrap();
    assert!(said.contains(&cure), "{said}");
    let rows = record(&world, "redis").await.unwrap().instances;
    assert!(rows.iter().any(|row| row.address == other.address), "{rows:?}");
    other.ask(&["REPLICAOF", next.address.host(), &port]).await.unwrap();
    until_in_sync(&world, "redis", 1).await;
    let after = text(&run(&world, &["doctor"], &[]));
    assert!(!after.contains("replicas-forgotten"), "{after}");
}

/// A world whose primary holds what it will take a minute to load; and the primary, which the world has no more.
async fn world_with_slow_loader() -> (World, Vec<Process>, LabServer) {
    let spec = WorldSpec {
        // A key of 1 KiB is an interval: it answers once a key.
        redis_lines: "loading-process-events-interval-bytes 1024\nrdbcompression no\n",
        // Replicas may be chosen for ten times as long after they have lost their link.
        down_after_ms: 5_000,
        // That interval, and what bounds the loading, are not there before that.
        since: Some("7.0"),
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let running = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let value = "x".repeat(1_024);
    let primary = world.groups[0].redis.remove(0);
    assert_eq!(primary.address.to_string(), first);
    for number in 0..600 {
        primary.ask(&["SET", &format!("key-{number}"), &value]).await.unwrap();
    }
    primary.ask(&["SAVE"]).await.unwrap();
    let config = world.dir().join(primary.name()).join("server.conf");
    let mut config = std::fs::File::options().append(true).open(config).unwrap();
    // In microseconds, for each key.
    config.write_all(b"key-load-delay 100000\n").unwrap();
    // Sentinels see that a server was restarted by its INFO.
    world.hurry().await;
    (world, running, primary)
}

/// Kills the primary and starts it again, which is over long after `meanwhile`.
async fn while_it_loads<T>(primary: &mut LabServer, meanwhile: impl Future<Output = T>) -> T {
    tokio::select! {
        done = meanwhile => done,
        () = async { let _ = primary.restart().await; std::future::pending().await } => unreachable!(),
    }
}

/// A primary that is killed, is back at once, and loads for long: Sentinels take LOADING for a good answer.
#[tokio::test]
async fn a_primary_that_loads_for_long_is_said_and_doctor_says_how_it_is_replaced() {
    let (world, running, mut primary) = world_with_slow_loader().await;
    let first = primary.address.to_string();
    let said = async {
        let wanted = format!("the writer {first} answers `LOADING");
        until("it is said", Duration::from_secs(30), || async {
            let log = logs(&running);
            if log.contains(&wanted) { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
        until_status(&world, 2, &["answers `LOADING"]).await;
        let found = text(&run(&world, &["doctor"], &[]));
        assert!(found.contains("SENTINEL FAILOVER redis"), "{found}");
        assert_eq!(record(&world, "redis").await.unwrap().generation, 1, "nothing replaces it");
        // Not while its last look at the replicas is too old.
        until("a Sentinel replaces it", Duration::from_secs(20), || async {
            world.sentinels[0].fail_over("redis").await
        })
        .await
        .unwrap();
        until_writer(&world, "redis", 60, Some(&first)).await
    };
    while_it_loads(&mut primary, said).await;
}

#[tokio::test]
async fn a_primary_that_loads_for_long_is_replaced_where_sentinels_were_told() {
    let (world, running, mut primary) = world_with_slow_loader().await;
    let first = primary.address.to_string();
    let set = run(&world, &["config", "redis", "reboot_down_after=2s"], &[]);
    assert_eq!(set.status.code(), Some(0), "{}", text(&set));
    until("all are told", Duration::from_secs(20), || async {
        let log = logs(&running);
        let told = |s: &LabServer| {
            log.contains(&format!(
                "told Sentinel {} that a restarted primary may load for 2000 ms",
                s.address
            ))
        };
        if world.sentinels.iter().all(told) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    while_it_loads(&mut primary, until_writer(&world, "redis", 60, Some(&first))).await;
}

/// The names of its servers are all that an agent knows of a group, and DNS stops answering.
#[tokio::test]
async fn a_failover_while_dns_is_a_black_hole_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = own_hosts_file(dir.path());
    let announced = Announced::Name(hosts.clone());
    let spec = WorldSpec { announced, since: Some("6.2"), ..WorldSpec::default() };
    let mut world = world(spec).await;
    // The servers go on with the hosts file; agents have two name servers, of which the first is dead.
    let (dead, lives) = (world.address(), world.address());
    let _silent = std::net::UdpSocket::bind((dead, 53)).unwrap();
    let names = NameServer::start(lives.into(), 53, &std::fs::read_to_string(&hosts).unwrap());
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {dead}\nnameserver {lives}\n")).unwrap();
    let bare = dir.path().join("bare");
    std::fs::write(&bare, "127.0.0.1 localhost\n").unwrap();
    let none = None::<&Path>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    for (ours, theirs) in [(&bare, "/etc/hosts"), (&resolv, "/etc/resolv.conf")] {
        mount(Some(ours.as_path()), theirs, none, MsFlags::MS_BIND, none).unwrap();
    }
    let running = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    assert!(names.asked() > 0, "no agent has asked it");
    names.fall_silent();
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 30, Some(&first)).await;
    assert_ne!(second, first, "{}", logs(&running));
    // One that was never looked up says what is the matter.
    let blind = run(&world, &["status", "--group", "redis"], &[]);
    assert!(text(&blind).contains("cannot look up"), "{}", text(&blind));
}

/// A name may have addresses where nothing listens, as AAAA of a host whose Sentinel listens on IPv4 alone.
#[tokio::test]
async fn addresses_of_one_name_are_candidates_and_no_sentinels() {
    let mut world = world(WorldSpec::default()).await;
    let (absent_ip, server) = (world.address(), world.address());
    let sentinel = world.sentinels[0].address.clone();
    let port = consul_redis::lab::world::free_port(&[server]).unwrap();
    let hosts = format!("{} s.test\n{absent_ip} s.test\n", sentinel.host());
    let _names = NameServer::start(server.into(), port, &hosts);
    let listed = format!("s.test:{}", sentinel.port());
    let resolver = format!("{server}:{port}");
    let args = ["--sentinels", &listed, "--resolver", &resolver, "--listen", "127.0.0.1:0"];
    let running = [agent(&world, "agent-0", &args, &[])];
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let absent = format!("{absent_ip}:{}", sentinel.port());
    let url = crate::support::http_address(&running[0]).await;
    until("the agent knows three Sentinels", Duration::from_secs(20), || async {
        let (_, body) = crate::support::get(&format!("{url}/status.json"), None).await?;
        let said: Value = serde_json::from_str(&body).map_err(LabError::new)?;
        let found = said[0]["sentinels"].as_array().map(Vec::len);
        let named = said[0]["sentinels"].to_string().contains(&absent);
        if found == Some(3) && !named { Ok(()) } else { Err(LabError(body)) }
    })
    .await
    .unwrap();
    let doctor = run(&world, &[&["doctor"], &args[..4]].concat(), &[]);
    assert!(!text(&doctor).contains(&absent), "{}", text(&doctor));
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn sentinels_that_know_another_group_say_which_and_no_cure_takes_it_away() {
    let world =
        world(WorldSpec { groups: vec!["mymaster".to_owned()], ..WorldSpec::default() }).await;
    let args = ["--group", "mymaster=redis"];
    let _right = agent(&world, "agent-0", &args, &[]);
    until_writer(&world, "mymaster", 20, None).await;
    let group = ["--group", "redis"];
    let wrong = run(&world, &[&["status"], &group[..]].concat(), &[]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    let wanted = "3 Sentinels answer; none knows `redis`; they know: mymaster";
    assert!(text(&wrong).contains(wanted), "{}", text(&wrong));
    let doctor = text(&run(&world, &[&["doctor"], &group[..]].concat(), &[]));
    assert!(doctor.contains("--group mymaster"), "{doctor}");
    assert!(!doctor.contains("deregister"), "{doctor}");
}

/// A clean-up job takes the node without a Consul agent for a dead host.
#[tokio::test]
async fn a_node_that_is_swept_is_back_within_a_second_and_the_log_says_what_was_swept() {
    let world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let consul = world.consul.client().unwrap();
    let body = json!({"Node": "redis-ha-redis"});
    let swept = Instant::now();
    consul.put("/v1/catalog/deregister", &[], Some(&body)).await.unwrap();
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    crate::promises::SWEPT.kept(swept.elapsed());
    until("it is said", Duration::from_secs(10), || async {
        let log = logs(&running);
        let said = log.contains("put back rows or keys that were changed: node redis-ha-redis");
        if said { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
}

/// The node is taken in the moment in which it is made: what watches it has seen none before, and sees none after.
#[tokio::test]
async fn a_node_that_is_swept_as_it_is_made_is_back_within_a_second() {
    let world = world(WorldSpec::default()).await;
    let consul = world.consul.client().unwrap();
    let _running = agents(&world, 2, &[]);
    loop {
        if world.consul.key("redis-ha/redis/state").await.is_ok_and(|state| state.is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let body = json!({"Node": "redis-ha-redis"});
    let swept = Instant::now();
    consul.put("/v1/catalog/deregister", &[], Some(&body)).await.unwrap();
    let writer = until_writer(&world, "redis", 20, None).await;
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    crate::promises::SWEPT.kept(swept.elapsed());
}

/// A clean-up job takes a single row, or a key.
#[tokio::test]
async fn a_row_or_a_key_that_is_swept_is_back_within_a_second_and_the_log_says_which() {
    let world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let replicas: Vec<String> =
        world.groups[0].redis[1..].iter().map(|redis| redis.address.to_string()).collect();
    until_named(&world, "redis-replica", &replicas).await;
    let consul = world.consul.client().unwrap();
    for id in [format!("redis-replica:{}", replicas[0]), format!("redis:{}", replicas[1])] {
        let body = json!({"Node": "redis-ha-redis", "ServiceID": id});
        let service = id.split(':').next().unwrap();
        let before = world.consul.passing(service).await.unwrap();
        let swept = Instant::now();
        consul.put("/v1/catalog/deregister", &[], Some(&body)).await.unwrap();
        let said = format!("put back rows or keys that were changed: service {id}");
        until("it is back, and said", Duration::from_secs(20), || async {
            let (now, log) = (world.consul.passing(service).await?, logs(&running));
            if now == before && log.contains(&said) { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
        crate::promises::SWEPT.kept(swept.elapsed());
    }
    let key = "redis-ha/redis/replicas";
    let before = world.consul.key(key).await.unwrap();
    let swept = Instant::now();
    consul.call(reqwest::Method::DELETE, &format!("/v1/kv/{key}"), &[], None, CALL).await.unwrap();
    until("the key is back", Duration::from_secs(20), || async {
        let now = world.consul.key(key).await?;
        if now == before { Ok(()) } else { Err(LabError(format!("{now:?}"))) }
    })
    .await
    .unwrap();
    crate::promises::SWEPT.kept(swept.elapsed());
}

/// Deadline for one call to Consul.
const CALL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_servers_and_the_agent_of_this_host_know_is_shown_while_consul_is_away() {
    let mut world = world(WorldSpec::default()).await;
    let local: std::net::Ipv4Addr = world.address();
    let port = consul_redis::lab::world::free_port(&[local]).unwrap();
    let listen = format!("{local}:{port}");
    let running = agents(&world, 1, &["--listen", &listen]);
    let url = crate::support::http_address(&running[0]).await;
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let healthy = "consul_redis_healthy{group=\"redis\"} 1.0";
    crate::support::until_metric(&url, healthy).await;
    world.consul.kill();
    let known = format!("the agent of this host, at {url}/status.json, last read: {writer}, ");
    for command in ["status", "doctor"] {
        let output = run(&world, &[command], &[]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("Consul has not been read"), "{said}");
        assert!(said.contains("does not answer"), "{said}");
        assert!(!said.contains("the agent of this host"), "{said}");
        // Where the config says that an agent of this host answers by HTTP.
        let env = [("CONSUL_REDIS_LISTEN", listen.as_str())];
        let output = run(&world, &[command], &env);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains(&known), "{said}");
        // For programs, too.
        let output = run(&world, &[command, "--json"], &env);
        assert_eq!(output.status.code(), Some(69), "{}", text(&output));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(off_schema(command, &said), Vec::<String>::new(), "{said:#}");
        let told = &said[0]["known_by_agent"];
        assert_eq!(told["url"], format!("{url}/status.json"), "{said:#}");
        assert_eq!(told["shown"]["writer"], writer, "{said:#}");
        if command == "status" {
            assert_eq!(
                (&said[0]["consul_read"], &said[0]["writer"]),
                (&json!(false), &json!(null))
            );
            let names = |sentinel: &Value| sentinel["names"] == writer;
            assert!(said[0]["sentinels"].as_array().unwrap().iter().all(names), "{said:#}");
            let says =
                |instance: &Value| instance["says"].is_string() && instance["offset"].is_number();
            let instances = said[0]["instances"].as_array().unwrap();
            assert!(instances.len() == 3 && instances.iter().all(says), "{said:#}");
        }
    }
    let (_, said) = status(&world);
    assert!(said.contains(&format!("names {writer} at epoch")), "{said}");
    assert!(said.contains("says primary"), "{said}");
    drop(running);
    let output = run(&world, &["status"], &[("CONSUL_REDIS_LISTEN", listen.as_str())]);
    assert!(text(&output).contains("was not asked: it does not run"), "{}", text(&output));
}

/// The writer does not let one of its replicas copy from it any more.
#[tokio::test]
async fn one_replica_that_is_out_of_sync_degrades_the_group_with_its_cause() {
    let world = world(WorldSpec::default()).await;
    let running = agents(&world, 1, &["--listen", "127.0.0.1:0"]);
    let url = crate::support::http_address(&running[0]).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_status(&world, 0, &["redis: healthy"]).await;
    let writer = world.server(&first).unwrap();
    writer.ask(&["ACL", "SETUSER", "default", "-psync", "-sync"]).await.unwrap();
    let list = writer.ask(&["CLIENT", "LIST", "TYPE", "replica"]).await.unwrap();
    let list = consul_redis::redis_link::text(&list).unwrap();
    let link = list.split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap().to_owned();
    writer.ask(&["CLIENT", "KILL", "ADDR", &link]).await.unwrap();
    let said = until("one has lost its link", Duration::from_secs(20), || async {
        let mut late = Vec::new();
        for replica in &world.groups[0].redis[1..] {
            if replica.probe().await?.is_detached() {
                late.push(replica.address.to_string());
            }
        }
        match &late[..] {
            [one] => Ok(format!("{one} is out of sync (its link to {first} is down)")),
            _ => Err(LabError(format!("{late:?}"))),
        }
    });
    let said = said.await.unwrap();
    until_status(&world, 3, &["redis: degraded", &said]).await;
    let problem = "consul_redis_problem{group=\"redis\",code=\"replica-out-of-sync\"} 1.0";
    crate::support::until_metric(&url, problem).await;
    until_logged(|| logs(&running), 30, &said, 1).await;
    writer.ask(&["ACL", "SETUSER", "default", "+@all"]).await.unwrap();
    until_status(&world, 0, &["redis: healthy"]).await;
}

/// Sentinels that cannot choose a replica say so once, and do nothing for twice `failover-timeout`.
#[tokio::test]
async fn why_sentinels_do_nothing_is_relayed_with_when_they_try_again() {
    let mut world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &["--listen", "127.0.0.1:0"]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.hurry().await;
    set_priorities(&world, "0").await;
    world.server_mut(&first).unwrap().kill();
    until_status(&world, 2, &["there is no writer"]).await;
    let said = until("an agent says why", Duration::from_secs(30), || async {
        let log = logs(&running);
        if log.contains("gave up a failover")
            && log.contains("it sees no replica that it could choose")
        {
            Ok(())
        } else {
            Err(LabError(log))
        }
    });
    said.await.unwrap();
    let url = crate::support::http_address(&running[0]).await;
    let (_, shown) = crate::support::get(&format!("{url}/status.json"), None).await.unwrap();
    assert!(shown.contains("Sentinels try again in some"), "{shown}");
    set_priorities(&world, "100").await;
    // With the next attempt, or the one after that: twice `failover-timeout` apart.
    until_writer(&world, "redis", 60, Some(&first)).await;
}
