//! `consul-redis exec` as containers run it: each Redis and each Sentinel is the child of a process of ours, and knows
//! of the others only where Consul is.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::redis::patiently;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::free_port;
use consul_redis::redis_link::{Link, LinkSettings, fields};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::containers::{Container, PLAIN, Said, group, group_with, spec};
use crate::promises::ALL_RESTARTED;
use crate::support::{
    record, run, text, until_in_sync, until_named, until_record, until_writer, world, writers,
};
use crate::writers::none_lost;

/// Writes before a handover, and after it.
const SOME: usize = 200;

#[tokio::test]
async fn blank_containers_become_a_group_and_a_killed_primary_comes_back_as_a_replica() {
    let mut world = world(spec()).await;
    let begun = Instant::now();
    let settings = [
        ("REDIS_QUORUM", "2"),
        ("REDIS_DOWN_AFTER_MS", "1700"),
        ("REDIS_FAILOVER_TIMEOUT", "21000"),
        ("REDIS_PARALLEL_SYNCS", "2"),
    ];
    let mut group = group(&mut world, 3, &settings).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    eprintln!("a writer {} ms after the start", begun.elapsed().as_millis());
    until_in_sync(&world, "redis", 2).await;
    eprintln!("in sync {} ms after the start", begun.elapsed().as_millis());
    until_named(&world, "redis-primary", std::slice::from_ref(&writer)).await;
    group.until_known().await;
    let master = group.sentinels[0].ask(&["SENTINEL", "MASTER", "redis"]).await.unwrap();
    let master = fields(&master).unwrap();
    for (field, wanted) in [
        ("quorum", "2"),
        ("down-after-milliseconds", "1700"),
        ("failover-timeout", "21000"),
        ("parallel-syncs", "2"),
    ] {
        assert_eq!(master.get(field).map(String::as_str), Some(wanted), "{field}");
    }
    // The health check: alive, and not.
    let old = group.index(&writer);
    assert_eq!(run(&world, &["health", &writer], &[]).status.code(), Some(0));
    let port = free_port(&[world.address()]).unwrap();
    let closed = run(&world, &["health", &format!("127.0.0.1:{port}")], &[]);
    assert_eq!(closed.status.code(), Some(1), "{}", text(&closed));

    assert_eq!(group.redis[old].kill_server().await, 137, "128 and SIGKILL");
    let said = group.redis[old].log();
    assert!(said.contains("Redis was ended by signal 9 (SIGKILL)"), "{said}");
    let new = until_writer(&world, "redis", 30, Some(&writer)).await;
    group.redis[old].restart(&world);
    group.redis[old].until_answers().await;
    assert_eq!(group.redis[old].info("role").await.unwrap(), "slave", "{}", group.redis[old].log());
    until_in_sync(&world, "redis", 2).await;
    assert_eq!(until_writer(&world, "redis", 5, None).await, new);
    let master = group.redis[old].info("master_host").await.unwrap();
    assert_eq!(master, group.at(&new).address.host());
}

/// Detached instances refuse PING then, and are well.
#[tokio::test]
async fn instances_that_serve_nothing_stale_become_a_group_too() {
    let mut world = world(spec()).await;
    let config = world.dir().join("image.conf");
    std::fs::write(&config, "replica-serve-stale-data no\n").unwrap();
    let group = group_with(&mut world, 2, &[], Some(&config)).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 1).await;
    let replica = group.redis.iter().find(|c| c.address.to_string() != writer).unwrap();
    let setting = replica.ask(&["CONFIG", "GET", "replica-serve-stale-data"]).await.unwrap();
    assert_eq!(fields(&setting).unwrap()["replica-serve-stale-data"], "no");
}

/// It was the primary, its volume is gone, and it is back before a Sentinel has noticed.
#[tokio::test]
async fn a_reborn_empty_primary_does_no_harm() {
    let mut world = world(spec()).await;
    // No agent hurries the Sentinels.
    let config = world.dir().join("agent.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nfast_failover = \"off\"\n").unwrap();
    let config = config.to_str().unwrap().to_owned();
    let settings = [("REDIS_DOWN_AFTER_MS", "5000"), ("CONSUL_REDIS_CONFIG", &config)];
    let mut group = group(&mut world, 3, &settings).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let old = group.index(&writer);
    group.redis[old].ask(&["SET", "kept", "1"]).await.unwrap();
    for container in &group.redis {
        assert_eq!(container.get("kept").await, "1");
    }
    group.redis[old].kill_server().await;
    std::fs::remove_dir_all(&group.redis[old].data).unwrap();
    std::fs::create_dir(&group.redis[old].data).unwrap();
    let reborn = Instant::now();
    group.redis[old].restart(&world);
    let new = until_writer(&world, "redis", 30, Some(&writer)).await;
    eprintln!("another writer {} ms after it was reborn", reborn.elapsed().as_millis());
    assert!(
        group.redis[old].log().contains("was the writer: starts when"),
        "{}",
        group.redis[old].log()
    );
    until_in_sync(&world, "redis", 2).await;
    for container in &group.redis {
        assert_eq!(container.get("kept").await, "1", "{}", container.name);
    }
    assert_eq!(until_writer(&world, "redis", 5, None).await, new);
}

/// No instance can take its place, its Sentinels still announce it, and it always starts as a replica.
#[tokio::test]
async fn a_lone_primary_with_its_data_is_the_primary_again() {
    let mut world = world(spec()).await;
    let mut group = group(&mut world, 1, &[("REDIS_DOWN_AFTER_MS", "60000")]).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    group.redis[0].ask(&["SET", "kept", "1"]).await.unwrap();
    group.redis[0].process().signal(Signal::SIGTERM).unwrap();
    let code = group.redis[0].process().end(Duration::from_secs(15)).await.unwrap();
    assert_eq!(code, 0, "{}", group.redis[0].log());
    let generation = record(&world, "redis").await.unwrap().generation;
    group.redis[0].restart(&world);
    group.redis[0].until_answers().await;
    let up = Instant::now();
    let what = "it leads again";
    until(what, Duration::from_secs(20), || async {
        match group.redis[0].info("role").await?.as_str() {
            "master" => Ok(()),
            other => Err(LabError(other.to_owned())),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", group.redis[0].log()));
    eprintln!("leads again {} ms after it answers", up.elapsed().as_millis());
    // A failover with Sentinel's default of 60 s takes longer than that; so does one with 1500 ms, by a little.
    assert!(up.elapsed() < Duration::from_millis(3_500), "{:?}", up.elapsed());
    assert_eq!(until_writer(&world, "redis", 10, None).await, writer);
    // The same one when it leads before an agent has seen it as a replica.
    assert!(record(&world, "redis").await.unwrap().generation >= generation);
    assert_eq!(group.redis[0].get("kept").await, "1");
}

#[tokio::test]
async fn signals_reach_the_server_its_exit_code_is_ours_and_orphans_are_reaped() {
    let mut world = world(spec()).await;
    let wrapper = ["sh", "-c", "(sleep 5 &); exec \"$@\"", "sh"];
    let config = world.dir().join("agent.toml");
    std::fs::write(&config, "").unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let said = Said { wrapper: &wrapper, options: &options, ..PLAIN };
    let mut container = Container::start(&mut world, "redis", said).await;
    // An orphan is ours once its parent is gone.
    let ours = container.process().id();
    let orphans = || children(ours).into_iter().filter(|(_, name, _)| name == "sleep");
    assert_eq!(orphans().count(), 1, "{:?}", children(ours));
    until("no zombie is left", Duration::from_secs(20), || async {
        match orphans().next() {
            None => Ok(()),
            Some(orphan) => Err(LabError(format!("{orphan:?}"))),
        }
    })
    .await
    .unwrap();
    // SIGHUP makes the agent read its config again, and stops neither it nor the server.
    for (text, said) in [
        ("[http]\nlisten = \"127.0.0.1:0\"\n", "in force: [http]"),
        ("[log]\nlevl = \"debug\"\n", "unknown field `levl`"),
        ("[[group]]\nname = \"a\"\n[[group]]\nname = \"b\"\n", "there are several groups"),
    ] {
        std::fs::write(&config, text).unwrap();
        container.process().signal(Signal::SIGHUP).unwrap();
        until(said, Duration::from_secs(10), || async {
            let log = container.log();
            if log.contains(said) { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
    }
    assert!(container.log().contains("the running one stays"), "{}", container.log());
    std::fs::write(&config, "").unwrap();
    container.ask(&["SET", "x", "1"]).await.expect_err("a detached instance takes no writes");
    container.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(container.process().end(Duration::from_secs(10)).await.unwrap(), 0);
    let said = container.log();
    let (left, stopped) = (said.find("SIGTERM: the agent leaves"), said.find("Received SIGTERM"));
    assert!(left.is_some() && left < stopped, "the agent first, then the server\n{said}");

    // A server that cannot start says so by its own exit code.
    std::fs::write(container.data.join("redis.conf"), "no-such-setting 1\n").unwrap();
    container.restart(&world);
    assert_eq!(container.process().end(Duration::from_secs(10)).await.unwrap(), 1);
    // SIGQUIT ends Redis where it stands (SIGUSR2, from Redis 8 on, does not).
    std::fs::write(container.data.join("redis.conf"), "").unwrap();
    container.restart(&world);
    container.until_answers().await;
    container.process().signal(Signal::SIGQUIT).unwrap();
    assert_eq!(container.process().end(Duration::from_secs(10)).await.unwrap(), 128 + 3);
}

/// Process id, name and state of each child.
fn children(parent: u32) -> Vec<(u32, String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let mut fields = tail.split_whitespace();
        let (state, of) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if of == parent.to_string() {
            let name = head.split_once('(').map_or("", |(_, name)| name);
            all.push((id, name.to_owned(), state.to_owned()));
        }
    }
    all
}

#[tokio::test]
async fn without_consul_the_server_serves_all_the_same() {
    let mut world = world(spec()).await;
    let config = world.dir().join("image.conf");
    std::fs::write(&config, "maxmemory 77mb\nrequirepass hunter2\nmasterauth hunter2\n").unwrap();
    let environ = world.dir().join("environ");
    let script = format!("env > {}; exec \"$@\"", environ.display());
    let said = Said {
        wrapper: &["sh", "-c", &script, "sh"],
        env: &[("CONSUL_REDIS_PASSWORD", "hunter2")],
        config: Some(&config),
        ..PLAIN
    };
    let mut container = Container::new(&mut world, "redis", said);
    world.consul.kill();
    container.restart(&world);
    let login = LinkSettings {
        password: consul_redis::secret::SecretSource::Value("hunter2".to_owned().into()),
        ..LinkSettings::default()
    };
    let ask = async |command: &[&str]| {
        let login = patiently(&login);
        let mut link = Link::open(&container.address, &login).await.map_err(LabError::new)?;
        link.call(command).await.map_err(LabError::new)
    };
    until("it serves", Duration::from_secs(15), || ask(&["PING"])).await.unwrap();
    // Its scripts see nothing of what only we need.
    let environ = std::fs::read_to_string(&environ).unwrap();
    assert!(environ.contains("CONSUL_REDIS_ID=") && !environ.contains("hunter2"), "{environ}");
    let memory = ask(&["CONFIG", "GET", "maxmemory"]).await.unwrap();
    assert_eq!(fields(&memory).unwrap().get("maxmemory").map(String::as_str), Some("80740352"));
    // What it writes to its config stays there, and stays secret.
    ask(&["CONFIG", "SET", "maxmemory", "99mb"]).await.unwrap();
    ask(&["CONFIG", "REWRITE"]).await.unwrap();
    let kept = container.data.join("image.conf");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let log = container.log();
    assert!(log.contains("starts detached, for Consul does not say"), "{log}");
    container.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(container.process().end(Duration::from_secs(10)).await.unwrap(), 0);
    std::fs::remove_file(&config).unwrap();
    container.restart(&world);
    until("it serves again", Duration::from_secs(15), || async {
        let mut link = Link::open(&container.address, &login).await.map_err(LabError::new)?;
        let memory = link.call(&["CONFIG", "GET", "maxmemory"]).await.map_err(LabError::new)?;
        let memory = fields(&memory).map_err(LabError)?;
        match memory.get("maxmemory").map(String::as_str) {
            Some("103809024") => Ok(()),
            other => Err(LabError(format!("{other:?}"))),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", container.log()));
}

/// `docker stop` on the primary: the name is at another one before the old one ends.
#[tokio::test]
async fn a_primary_that_is_stopped_hands_over_first() {
    let mut world = world(spec()).await;
    let mut group = group(&mut world, 3, &[]).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let old = group.index(&writer);
    let writers = writers(&world);
    writers.until_more(SOME).await;
    group.redis[old].process().signal(Signal::SIGTERM).unwrap();
    let code = group.redis[old].process().end(Duration::from_secs(30)).await.unwrap();
    let log = group.redis[old].log();
    assert_eq!(code, 0, "{log}");
    let new = until_writer(&world, "redis", 5, Some(&writer)).await;
    assert!(log.contains(&format!("handed over from {writer} to {new}")), "{log}");
    writers.until_more(SOME).await;
    none_lost(&writers.stop(), &writer, &new).await;
}

/// `nomad job stop` and `run`, or `compose down` and `up`: all Redis are told to stop at once, while clients write, and
/// are started again at their addresses. Their append-only files do not say which of them has come farthest; the last
/// writer's note does.
#[tokio::test]
async fn where_all_were_stopped_the_last_writer_leads_again_and_nothing_is_lost() {
    let mut world = world(spec()).await;
    let config = world.dir().join("image.conf");
    std::fs::write(&config, "appendonly yes\n").unwrap();
    let mut group = group_with(&mut world, 3, &[], Some(&config)).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let writers = writers(&world);
    writers.until_more(SOME).await;
    for container in &mut group.redis {
        container.process().signal(Signal::SIGTERM).unwrap();
    }
    for container in &mut group.redis {
        container.process().end(Duration::from_secs(40)).await.unwrap();
    }
    // A handover may have made it another one, in the moment before.
    let last = record(&world, "redis").await.unwrap().last_writer.unwrap().address;
    let gone = |record: &Record| record.writer.is_none() && record.replicas().next().is_none();
    until_record(&world, "redis", 30, "the name is withdrawn", gone).await;
    for container in &mut group.redis {
        container.restart(&world);
    }
    for container in &group.redis {
        container.until_answers().await;
    }
    let back = Instant::now();
    let seconds = ALL_RESTARTED.patience_s() + 40;
    let led = |record: &Record| record.writer.is_some();
    let found = until_record(&world, "redis", seconds, "a writer", led).await;
    let took = back.elapsed();
    let new = found.writer_address().unwrap().to_string();
    let logs = || group.redis.iter().map(|c| format!("--- {}\n{}", c.name, c.log()));
    assert_eq!(new, last.to_string(), "{}", logs().collect::<String>());
    writers.until_more(SOME).await;
    none_lost(&writers.stop(), &writer, &new).await;
    ALL_RESTARTED.kept(took);
    until_in_sync(&world, "redis", 2).await;
}

/// Redis writes its users into the file that it was started with, and does not start where it finds one in two files.
#[tokio::test]
async fn a_server_whose_config_includes_its_users_starts_again_after_it_has_written_them() {
    let mut world = world(spec()).await;
    let (config, more) = (world.dir().join("image.conf"), world.dir().join("more.conf"));
    std::fs::write(&config, "include more.conf\n").unwrap();
    std::fs::write(&more, "user app on >hunter2 ~* +@all\n").unwrap();
    let said = Said { config: Some(&config), ..PLAIN };
    let mut container = Container::start(&mut world, "redis-0", said).await;
    container.until_answers().await;
    for _ in 0..2 {
        container.ask(&["CONFIG", "REWRITE"]).await.unwrap();
        container.restart(&world);
        container.until_answers().await;
        let users = format!("{:?}", container.ask(&["ACL", "USERS"]).await.unwrap());
        assert!(users.contains("app"), "{users}: {}", container.log());
    }
    let kept = std::fs::metadata(container.data.join("image.conf")).unwrap().permissions();
    assert_eq!(kept.mode() & 0o777, 0o600);
}

/// As Debian's own config has it. Others are told an address where nothing listens, and the health check is well.
#[tokio::test]
async fn a_server_that_listens_on_loopback_alone_is_an_error_that_names_the_line() {
    let mut world = world(spec()).await;
    let (config, more) = (world.dir().join("image.conf"), world.dir().join("more.conf"));
    std::fs::write(&config, "include more.conf\n").unwrap();
    std::fs::write(&more, "bind 127.0.0.1\n").unwrap();
    let said = Said { config: Some(&config), ..PLAIN };
    let mut container = Container::new(&mut world, "redis-0", said);
    container.without_bind();
    container.restart(&world);
    let port = container.address.port();
    let wanted = format!(
        "redis answers at 127.0.0.1:{port}, and not at {}, where it is announced: its config has `bind 127.0.0.1`",
        container.address
    );
    until("it is said", Duration::from_secs(30), || async {
        let log = container.log();
        if log.to_lowercase().contains(&wanted) { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    // The image's file is another one by now, and the volume's is used.
    std::fs::write(&more, "bind 127.0.0.1\nmaxmemory 1gb\n").unwrap();
    container.restart(&world);
    until("what differs is said", Duration::from_secs(20), || async {
        let log = container.log();
        let said =
            log.contains("has changed since") && log.contains("is used as it is: maxmemory.");
        if said { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
}
