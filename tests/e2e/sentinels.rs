//! Sentinels that are blank, behind a name, or wrong: the cases that have cost people their data.

use std::time::Duration;

use consul_redis::core::duty::sentinels::{Reconfigure, ReconfigureKind};
use consul_redis::core::identity::address::GroupName;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::patiently;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings, fields, list, text as words};
use consul_redis::sentinel::query;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::fencing::until_follows;
use crate::hammer::Hammer;
use crate::promises::{DISAGREEMENT, SETTINGS_TOLD};
use crate::support::{
    agent, agents, logs, must_follow_a_failover, record, run, text, until_in_sync, until_named,
    until_record, until_replicas_are, until_writer, world,
};

async fn failed_over(world: &mut World) -> (String, String) {
    let first = until_writer(world, "redis", 20, None).await;
    until_in_sync(world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(world, "redis", 20, Some(&first)).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(world, "redis", 2).await;
    world.calm().await.unwrap();
    (first, second)
}

#[tokio::test]
async fn one_sentinel_rolled_back_to_an_old_address_moves_nothing() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 3, &[]);
    let (first, second) = failed_over(&mut world).await;
    let before = record(&world, "redis").await.unwrap();
    let hammer = Hammer::start(&world);
    let (host, port) = first.rsplit_once(':').unwrap();
    let rolled_back = &world.sentinels[2];
    // An agent that sees it between the two tells it where the primary is.
    until("it is rolled back", Duration::from_secs(10), || async {
        rolled_back.ask(&["SENTINEL", "REMOVE", "redis"]).await?;
        rolled_back.ask(&["SENTINEL", "MONITOR", "redis", host, port, "2"]).await
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = record(&world, "redis").await.unwrap();
    assert_eq!(
        (after.generation, &after.writer),
        (before.generation, &before.writer),
        "{}",
        logs(&agents)
    );
    hammer.until_enough().await;
    let seen = hammer.stop().await;
    seen.never_two_writers();
    seen.never_a_replica();
    seen.never_back_from(&second);
    // The rolled-back one has heard the others by now, and all of it was seen by agents that live.
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// Whatever Sentinel makes of it, in the end the name is what its majority names and what says so itself,
/// and no answer on the way held two writers.
async fn ends_well(mut world: World, hammer: Hammer, running: &[Process]) {
    let end = until("Sentinels and Consul agree", Duration::from_secs(120), || async {
        let mut named = Vec::new();
        for sentinel in &world.sentinels {
            let answer = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"]).await?;
            let parts = list(&answer).map_err(LabError)?;
            let parts: Result<Vec<String>, String> = parts.iter().map(words).collect();
            named.push(parts.map_err(LabError)?.join(":"));
        }
        let record = record(&world, "redis").await?;
        let published = record.writer_address().map(ToString::to_string).unwrap_or_default();
        let agree = named.iter().all(|name| *name == published);
        let level = record.evidence.level();
        if !agree || level != consul_redis::core::published::record::Level::Quorum {
            return Err(LabError(format!("{named:?}, published {published:?} at {level:?}")));
        }
        let server = world.server(&published).ok_or_else(|| LabError("a stranger".to_owned()))?;
        match server.follows().await? {
            None => Ok(published),
            Some(of) => Err(LabError(format!("{published} follows {of}"))),
        }
    })
    .await;
    let writer = end.unwrap_or_else(|error| panic!("{error}\n{}", logs(running)));
    until_named(&world, "redis-primary", &[writer]).await;
    hammer.until_enough().await;
    hammer.stop().await.never_two_writers();
    // Sentinels can come to an end without us; to follow them takes agents.
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn a_reset_on_the_leader_in_mid_failover_ends_with_one_writer() {
    let mut world = world(WorldSpec { failover_timeout_ms: 5_000, ..WorldSpec::default() }).await;
    let running = agents(&world, 3, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let hammer = Hammer::start(&world);
    world.server_mut(&first).unwrap().kill();
    // The leader is the one that has chosen a replica; its promotion is decided, and the replica has not got the
    // command. An election that failed is tried again after twice the failover-timeout.
    let leader = until("a leader", Duration::from_secs(20), || async {
        for (index, sentinel) in world.sentinels.iter().enumerate() {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let state = fields(&answer).map_err(LabError)?.remove("failover-state");
            if state.is_some_and(|state| state == "reconf_slaves" || state == "wait_promotion") {
                return Ok(index);
            }
        }
        Err(LabError("no Sentinel leads".to_owned()))
    })
    .await
    .unwrap();
    world.sentinels[leader].ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.server_mut(&first).unwrap().restart().await.unwrap();
    ends_well(world, hammer, &running).await;
}

#[tokio::test]
async fn two_failovers_at_once_end_with_one_writer() {
    let world = world(WorldSpec { failover_timeout_ms: 5_000, ..WorldSpec::default() }).await;
    let running = agents(&world, 3, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let hammer = Hammer::start(&world);
    let (one, other) =
        tokio::join!(world.sentinels[0].fail_over("redis"), world.sentinels[1].fail_over("redis"));
    one.unwrap();
    other.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    ends_well(world, hammer, &running).await;
}

#[tokio::test]
async fn a_sentinel_that_does_not_know_the_group_is_reconfigured() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let blank = world.start_sentinel("sentinel-blank", false).await.unwrap();
    let list: Vec<String> = world
        .sentinels
        .iter()
        .chain([&blank])
        .map(|sentinel| sentinel.address.to_string())
        .collect();
    // Only the third agent knows of it.
    let third = agent(&world, "agent-2", &["--sentinels", &list.join(",")], &[]);
    let answer = until("it is reconfigured", Duration::from_secs(20), || async {
        fields(&blank.ask(&["SENTINEL", "MASTER", "redis"]).await?).map_err(LabError)
    });
    let answer = answer.await.unwrap_or_else(|e| panic!("{e}\n{}\n{}", third.log(), logs(&agents)));
    assert_eq!(answer["port"], world.groups[0].redis[0].address.port().to_string());
    assert_eq!(answer["down-after-milliseconds"], world.spec.down_after_ms.to_string());
    assert_eq!(answer["failover-timeout"], world.spec.failover_timeout_ms.to_string());
    assert_eq!(answer["quorum"], "2");
    world.sentinels.push(blank);
    world.settle().await.unwrap();
    until_record(&world, "redis", 20, "four Sentinels are known", |r| r.evidence.known == 4).await;
}

#[tokio::test]
async fn sentinels_are_found_by_a_dns_name_by_a_service_and_by_each_other() {
    let world = world(WorldSpec::default()).await;
    let _first = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    // The first agent has published where the Sentinels are. All three have different ports, so for the
    // name they get a fourth way in: Consul's DNS gives their addresses, and the port is the same.
    until("the Sentinels are registered", Duration::from_secs(20), || async {
        let found = world.consul.passing("redis-sentinel").await?;
        if found.len() == 3 { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    let cases: [(&str, Vec<String>); 3] = [
        ("by-service", vec!["--sentinel-service".into(), "redis-sentinel".into()]),
        ("by-peers", vec!["--sentinels".into(), world.sentinels[1].address.to_string()]),
        (
            "by-name",
            vec![
                "--sentinels".into(),
                format!("redis-sentinel.service.consul:{}", world.sentinels[0].address.port()),
                "--resolver".into(),
                world.consul.dns.to_string(),
            ],
        ),
    ];
    for (name, args) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let found = agent(
            &world,
            name,
            &args,
            &[("CONSUL_REDIS_SENTINELS", ""), ("CONSUL_REDIS_LOG", "debug")],
        );
        until(name, Duration::from_secs(20), || async {
            let log = found.log();
            let all = world
                .sentinels
                .iter()
                .all(|sentinel| log.contains(&format!("watching Sentinel {}\n", sentinel.address)));
            let seen = log.contains("(found in Consul)");
            if all && seen { Ok(()) } else { Err(LabError(log)) }
        })
        .await
        .unwrap();
    }
}

/// Waits until every Sentinel has a setting.
async fn until_all_have(world: &World, name: &str, wanted: &str) {
    for sentinel in &world.sentinels {
        let what = format!("{} has {name} {wanted}", sentinel.name());
        until(&what, SETTINGS_TOLD.patience(), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let found = fields(&answer).map_err(LabError)?[name].clone();
            if found == wanted { Ok(()) } else { Err(LabError(found)) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn settings_reach_all_sentinels_and_stay() {
    let world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    until_writer(&world, "redis", 20, None).await;
    // A setting that is not named in any config.
    let one = &world.sentinels[1];
    one.ask(&["SENTINEL", "SET", "redis", "parallel-syncs", "2"]).await.unwrap();
    let config = |args: &[&str]| {
        let output = run(&world, &[&["config", "redis"], args].concat(), &[]);
        (output.status.code(), text(&output))
    };
    let (code, shown) = config(&[]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("down_after        (as each Sentinel has it)"), "{shown}");
    for bad in ["quorum=0", "quorum=many", "down_after=5", "colour=red", "quorum"] {
        assert_eq!(config(&[bad]).0, Some(64), "{bad}");
    }
    let (code, shown) = config(&["down_after=2300ms", "quorum=auto"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("warning"), "{shown}");
    until_all_have(&world, "down-after-milliseconds", "2300").await;
    until_all_have(&world, "quorum", "2").await;
    // One that drifts is set right; what is not configured is left alone.
    one.ask(&["SENTINEL", "SET", "redis", "down-after-milliseconds", "9000"]).await.unwrap();
    let drifted = Instant::now();
    until_all_have(&world, "down-after-milliseconds", "2300").await;
    SETTINGS_TOLD.kept(drifted.elapsed());
    let answer = one.ask(&["SENTINEL", "MASTER", "redis"]).await.unwrap();
    assert_eq!(fields(&answer).unwrap()["parallel-syncs"], "2");
    let log = logs(&agents);
    assert!(log.contains(": down-after-milliseconds 2300"), "{log}");
    let (code, shown) = config(&["down_after="]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("down_after        (as each Sentinel has it)"), "{shown}");
    let (code, shown) = config(&["down_after=1100ms"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("warning: down_after 1100ms is so short that Sentinel"), "{shown}");
}

#[tokio::test]
async fn a_sentinel_that_disagrees_for_long_is_reconfigured() {
    let mut world = world(WorldSpec::default()).await;
    let agents = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    let stranger = world.start_redis("stranger", None).await.unwrap();
    let (host, port) = (stranger.address.host().to_owned(), stranger.address.port().to_string());
    let wrong = &world.sentinels[2];
    // In one write, before an agent can tell one that knows no group.
    let mut both = redis::pipe();
    both.cmd("SENTINEL").arg("REMOVE").arg("redis").cmd("SENTINEL").arg("MONITOR").arg("redis");
    both.arg(host).arg(port).arg(2);
    wrong.link().await.unwrap().ask(&both).await.unwrap();
    let disagrees = Instant::now();
    until("it monitors the writer again", DISAGREEMENT.patience(), || async {
        let answer = wrong.ask(&["SENTINEL", "MASTER", "redis"]).await?;
        let master = fields(&answer).map_err(LabError)?;
        let found = format!("{}:{}", master["ip"], master["port"]);
        if found == writer { Ok(()) } else { Err(LabError(found)) }
    })
    .await
    .unwrap();
    DISAGREEMENT.kept(disagrees.elapsed());
    until("an agent says so", Duration::from_secs(10), || async {
        let log = logs(&agents);
        if log.contains("which had disagreed") { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    assert_eq!(stranger.follows().await.unwrap(), None, "it is none of ours");
    world.settle().await.unwrap();
    assert_eq!(until_writer(&world, "redis", 5, None).await, writer);
}

/// Its leader does not end a failover while the replica that it promoted is down (`docs/facts/sentinel.md` 13).
#[tokio::test]
async fn a_failover_that_its_leader_never_ends_hides_no_later_one() {
    // A Sentinel before that hears too seldom of its replicas to choose one a second time.
    let since = Some("7.0");
    let spec = WorldSpec { failover_timeout_ms: 10_000, since, ..WorldSpec::default() };
    let mut world = world(spec).await;
    // Where the others are told in its place, it ends.
    let config = world.dir().join("no-relay.toml");
    let text = "[[group]]\nname = \"redis\"\nrelay = false\nfast_failover = \"off\"\n";
    std::fs::write(&config, text).unwrap();
    let running = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    // One replica may not be chosen, and will not come to follow another primary.
    let late = &world.groups[0].redis[2];
    late.ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    late.ask(&["CONFIG", "SET", "masterauth", "wrong"]).await.unwrap();
    let port = late.address.port().to_string();
    let host = late.address.host().to_owned();
    let known = |row: &std::collections::BTreeMap<String, String>| {
        row["ip"] != host || row["port"] != port || row["slave-priority"] == "0"
    };
    until_replicas_are(&world, "the Sentinels know which may not be chosen", 20, known).await;
    world.calm().await.unwrap();
    world.sentinels[0].fail_over("redis").await.unwrap();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until_follows(world.server(&first).unwrap(), &second).await;
    world.server_mut(&second).unwrap().kill();
    let third = until_writer(&world, "redis", 30, Some(&second)).await;
    assert_eq!(third, first, "{}", logs(&running));
    let leads = world.sentinels[0].ask(&["SENTINEL", "MASTER", "redis"]).await.unwrap();
    let state = fields(&leads).unwrap().remove("failover-state");
    assert_eq!(state.as_deref(), Some("reconf_slaves"), "{}", logs(&running));
    // It would go on with it for as long as that replica is down.
    until("it names what the others name", Duration::from_secs(60), || async {
        let named =
            world.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"]).await?;
        let named: Vec<String> =
            list(&named).and_then(|parts| parts.iter().map(words).collect()).map_err(LabError)?;
        if named.join(":") == first { Ok(()) } else { Err(LabError(named.join(":"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
    let late = &world.groups[0].redis[2];
    late.ask(&["CONFIG", "SET", "masterauth", ""]).await.unwrap();
    world.server_mut(&second).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// Between the decision and the command it may begin a failover, which `REMOVE` would end, or be reconfigured by
/// another agent.
#[tokio::test]
async fn a_sentinel_is_asked_once_more_before_it_is_reconfigured() {
    let world = world(WorldSpec { redis: 2, sentinels: 1, ..WorldSpec::default() }).await;
    let group: GroupName = "redis".parse().unwrap();
    let [primary, replica] = &world.groups[0].redis[..] else { panic!("two") };
    let sentinel = &world.sentinels[0];
    let mut link =
        Link::open(&sentinel.address, &patiently(&LinkSettings::default())).await.unwrap();
    let id = query::identity(&mut link).await.unwrap();
    let known = until("it knows the replica", Duration::from_secs(30), || async {
        let mut link = Link::open(&sentinel.address, &patiently(&LinkSettings::default())).await;
        let link = link.as_mut().map_err(|error| LabError(error.to_string()))?;
        let answer = query::ask(link, &id, &group).await.map_err(LabError::new)?;
        let known = answer.group.filter(|group| group.replicas.len() == 1);
        known.ok_or_else(|| LabError("not yet".to_owned()))
    })
    .await
    .unwrap();
    let tell = |what, primary: &consul_redis::core::identity::address::Address| Reconfigure {
        sentinel: sentinel.address.clone(),
        what,
        primary: primary.clone(),
        settings: known.settings,
        had: known.settings,
        epoch: known.config_epoch,
    };
    // It names that one: a REMOVE would cost it the replica for ten seconds.
    for what in [ReconfigureKind::Repoint, ReconfigureKind::Monitor, ReconfigureKind::Settings] {
        let tell = tell(what, &primary.address);
        assert!(
            query::reconfigure(&mut link, &id, &group, &tell, &[], || true)
                .await
                .unwrap()
                .is_none(),
            "{what:?}"
        );
    }
    let now = query::ask(&mut link, &id, &group).await.unwrap().group.unwrap();
    assert_eq!(now.replicas.len(), 1, "{now:?}");
    world.calm().await.unwrap();
    // It leads a failover, which goes on for as long as the replica does not answer.
    replica.signal(Signal::SIGSTOP).unwrap();
    sentinel.fail_over("redis").await.unwrap();
    let repoint = tell(ReconfigureKind::Repoint, &replica.address);
    assert!(
        query::reconfigure(&mut link, &id, &group, &repoint, &[], || true).await.unwrap().is_none()
    );
    let now = query::ask(&mut link, &id, &group).await.unwrap().group.unwrap();
    assert!(now.failover.is_some(), "{now:?}");
    replica.signal(Signal::SIGCONT).unwrap();
}
