//! The login that Sentinels have for the instances: whose it is, and what an agent makes of a wrong one.

use std::path::Path;
use std::time::Duration;

use consul_redis::core::group::Outcome;
use consul_redis::core::published::projection::Op;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{fields, text as words};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::support::{
    agent, get, http_address, logs, must_follow_a_failover, run, set_sentinel_user, text,
    until_logged, until_writer, world,
};

async fn until_said(agent: &Process, what: &str, times: usize) {
    until_logged(|| agent.log(), 30, what, times).await;
}

/// By SIGHUP, so that the test does not wait for the next look at the file.
fn look_again(agent: &Process) {
    agent.signal(Signal::SIGHUP).unwrap();
}

/// What a Sentinel thinks of the primary.
async fn flags(sentinel: &LabServer) -> Result<String, LabError> {
    let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
    fields(&answer).map_err(LabError)?.remove("flags").ok_or_else(|| LabError::new("no flags"))
}

async fn until_up(sentinel: &LabServer) {
    until("it sees the primary", Duration::from_secs(30), || async {
        let flags = flags(sentinel).await?;
        if flags == "master" { Ok(()) } else { Err(LabError(flags)) }
    })
    .await
    .unwrap();
}

/// The users that Sentinels are logged in as on a Redis.
async fn users(redis: &LabServer) -> Vec<String> {
    let all = words(&redis.ask(&["CLIENT", "LIST"]).await.unwrap()).unwrap();
    let user =
        |line: &str| line.split(' ').find_map(|word| word.strip_prefix("user=").map(Into::into));
    all.lines().filter(|line| line.contains("name=sentinel-")).filter_map(user).collect()
}

fn file_config(path: &Path, lines: &str, file: &Path) {
    let text = format!(
        "[[group]]\nname = \"redis\"\n[instances]\n{lines}password_file = \"{}\"\n",
        file.display()
    );
    std::fs::write(path, text).unwrap();
}

/// Sentinels are to have a user of their own.
fn watcher_config(path: &Path, file: &Path) {
    let config = format!(
        "[[group]]\nname = \"redis\"\n\
         settings = {{ auth_user = \"watcher\", auth_password_file = \"{}\" }}\n",
        file.display()
    );
    std::fs::write(path, config).unwrap();
}

/// The Sentinels' tags come from a look in which the agent took note of what they know.
async fn until_looked_at(world: &World, sentinels: usize) {
    until("the Sentinels' tags", Duration::from_secs(20), || async {
        let names = world.consul.names()?;
        let tagged = names.srv("redis.redis-sentinel.service.consul").await;
        let tagged = tagged.map_err(LabError::new)?.len();
        if tagged == sentinels { Ok(()) } else { Err(LabError(tagged.to_string())) }
    })
    .await
    .unwrap();
}

async fn all_up(world: &World) {
    for sentinel in &world.sentinels {
        assert_eq!(flags(sentinel).await.unwrap(), "master", "{}", sentinel.name());
    }
}

#[tokio::test]
async fn a_typo_in_one_agents_password_file_reaches_no_sentinel() {
    let secret = "redis-secret";
    let spec = WorldSpec { redis_password: Some(secret.to_owned()), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, secret).unwrap();
    file_config(&path, "", &file);
    let args = ["--config", path.to_str().unwrap()];
    let running = agent(&world, "agent-0", &args, &[("CONSUL_REDIS_PASSWORD", "")]);
    until_writer(&world, "redis", 20, None).await;
    until_looked_at(&world, 3).await;
    std::fs::write(&file, "redis-secrte").unwrap();
    look_again(&running);
    until_said(&running, "keeps its own login for the instances", 3).await;
    assert!(!running.log().contains("reconfigured Sentinel"), "{}", running.log());
    all_up(&world).await;
    std::fs::write(&file, secret).unwrap();
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn a_login_that_the_writer_refuses_is_given_to_no_sentinel() {
    let mut world = world(WorldSpec::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "old").unwrap();
    watcher_config(&path, &file);
    let named = format!("user watcher, password in {}", file.display());
    let args = ["--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let running = agent(&world, "agent-0", &args, &[]);
    let url = http_address(&running).await;
    let writer = until_writer(&world, "redis", 20, None).await;
    until_looked_at(&world, 3).await;
    std::fs::write(&file, "mistyped").unwrap();
    look_again(&running);
    until_said(&running, &format!("ERROR redis: {writer} refuses {named}: WRONGPASS"), 1).await;
    // A problem with its code, and a finding.
    until("it is a problem", Duration::from_secs(10), || async {
        let (_, status) = get(&format!("{url}/status.json"), None).await?;
        let has = status.contains("\"sentinel-login\"") && status.contains(&named);
        if has { Ok(()) } else { Err(LabError(status)) }
    })
    .await
    .unwrap();
    let doctor = text(&run(&world, &["doctor", "redis", "--config", path.to_str().unwrap()], &[]));
    let finding = doctor.lines().find(|line| line.contains("sentinel-login"));
    assert!(finding.is_some_and(|line| line.contains(&named)), "{doctor}");
    // A user that may not do what Sentinel needs is as bad.
    for redis in &world.groups[0].redis {
        let user = ["ACL", "SETUSER", "watcher", "on", ">weak", "+ping", "+info"];
        redis.ask(&user).await.unwrap();
    }
    std::fs::write(&file, "weak").unwrap();
    look_again(&running);
    until_said(&running, &format!("does not let {named} use MULTI, which Sentinel needs"), 1).await;
    assert!(!running.log().contains("reconfigured Sentinel"), "{}", running.log());
    all_up(&world).await;
    // Once it is right, it is given, and nothing is wrong any more.
    for redis in &world.groups[0].redis {
        let user = ["watcher", "~*", "+@all"];
        set_sentinel_user(redis, &user).await;
    }
    look_again(&running);
    until_said(&running, "the new login for the instances", 3).await;
    until("all is well", Duration::from_secs(10), || async {
        let (_, status) = get(&format!("{url}/status.json"), None).await?;
        if status.contains("sentinel-login") { Err(LabError(status)) } else { Ok(()) }
    })
    .await
    .unwrap();
    assert!(!running.log().contains("mistyped"), "{}", running.log());
    let doctor = text(&run(&world, &["doctor", "redis", "--config", path.to_str().unwrap()], &[]));
    assert!(!doctor.contains("sentinel-login"), "{doctor}");
    must_follow_a_failover(&mut world).await;
}

/// Sentinel would write it without quotes, and not start again.
#[tokio::test]
async fn a_login_that_sentinel_cannot_store_is_told_to_none() {
    let mut world = world(WorldSpec::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "two words").unwrap();
    watcher_config(&path, &file);
    for redis in &world.groups[0].redis {
        set_sentinel_user(redis, &["watcher", "on", ">two words", "+@all"]).await;
    }
    let args = ["--config", path.to_str().unwrap()];
    let named = format!("user watcher, password in {}", file.display());
    let cannot = format!("no Sentinel is given {named}: it has a space");
    let checked = text(&run(&world, &["check-config", args[0], args[1]], &[]));
    assert!(checked.contains("it has a space"), "{checked}");
    let running = agent(&world, "agent-0", &args, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_said(&running, &cannot, 1).await;
    let doctor = text(&run(&world, &["doctor", "redis", args[0], args[1]], &[]));
    assert!(doctor.contains("sentinel-login") && doctor.contains("it has a space"), "{doctor}");
    for sentinel in &mut world.sentinels {
        sentinel.restart().await.unwrap();
        until_up(sentinel).await;
    }
    for redis in &world.groups[0].redis {
        assert!(users(redis).await.iter().all(|user| user == "default"));
    }
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn what_an_agent_gave_another_one_renews_and_a_user_that_is_taken_out_goes() {
    let secret = "redis-secret";
    let spec = WorldSpec {
        redis_password: Some(secret.to_owned()),
        since: Some("6.2"),
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    for redis in &world.groups[0].redis {
        let user = ["ops", "on", ">ops-secret", "~*", "+@all"];
        set_sentinel_user(redis, &user).await;
    }
    let blank = world.start_sentinel("sentinel-blank", false).await.unwrap();
    let list = format!("{},{}", world.sentinels[0].address, blank.address);
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "ops-secret").unwrap();
    file_config(&path, "username = \"ops\"\n", &file);
    let args = ["--config", path.to_str().unwrap(), "--sentinels", &list];
    let env = [("CONSUL_REDIS_PASSWORD", "")];
    let mut first = agent(&world, "agent-0", &args, &env);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_up(&blank).await;
    let redis = world.server(&writer).unwrap();
    assert!(users(redis).await.contains(&"ops".to_owned()), "{}", first.log());
    let id = words(&blank.ask(&["SENTINEL", "MYID"]).await.unwrap()).unwrap();
    let key = format!("redis-ha/redis/logins/{id}");
    until("it is noted", Duration::from_secs(20), || async {
        world.consul.key(&key).await?.ok_or_else(|| LabError::new("no key"))
    })
    .await
    .unwrap();
    first.kill();
    // Another agent knows from Consul which Sentinel has its login from an agent.
    let debug = [("CONSUL_REDIS_PASSWORD", ""), ("CONSUL_REDIS_LOG", "debug")];
    let second = agent(&world, "agent-1", &args, &debug);
    until_said(&second, "is taken to have the login as it is now", 4).await;
    std::fs::write(&file, secret).unwrap();
    file_config(&path, "", &file);
    look_again(&second);
    until_said(&second, "the new login for the instances", 1).await;
    until_said(&second, "keeps its own login for the instances", 3).await;
    until("no Sentinel is logged in as ops", Duration::from_secs(20), || async {
        let users = users(redis).await;
        let gone = users.len() == 8 && users.iter().all(|user| user == "default");
        if gone { Ok(()) } else { Err(LabError(format!("{users:?}\n{}", second.log()))) }
    })
    .await
    .unwrap();
    until_up(&blank).await;
    assert_eq!(second.log().matches("the new login for the instances").count(), 1);
    must_follow_a_failover(&mut world).await;
}

/// How often the Sentinel was told a password, as it says itself.
fn times_told(world: &World, sentinel: &LabServer) -> usize {
    let log = world.dir().join(sentinel.name()).join(format!("{}.log", sentinel.name()));
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().filter(|line| line.contains("+set ") && line.contains(" auth-pass ")).count()
}

/// Agents that have looked at what each Sentinel has, and write everything into their logs.
async fn that_have_looked(world: &World, count: usize, config: &Path) -> Vec<Process> {
    let args = ["--config", config.to_str().unwrap()];
    let start = |n| agent(world, &format!("agent-{n}"), &args, &[("CONSUL_REDIS_LOG", "debug")]);
    let agents: Vec<Process> = (0..count).map(start).collect();
    until_writer(world, "redis", 20, None).await;
    for agent in &agents {
        until_said(agent, "is taken to have the login as it is now", world.sentinels.len()).await;
    }
    agents
}

const GIVEN: &str = "the new login for the instances";
const GIVEN_BY_ANOTHER: &str = "another agent gave Sentinel";

#[tokio::test]
async fn of_several_agents_one_gives_a_sentinel_the_new_login() {
    let mut world = world(WorldSpec::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "old").unwrap();
    sentinels_user(&path, "watcher", &file);
    let agents = that_have_looked(&world, 3, &path).await;
    for (round, password) in ["new", "newer"].into_iter().enumerate() {
        for redis in &world.groups[0].redis {
            let add = format!(">{password}");
            set_sentinel_user(redis, &["watcher", "on", &add, "~*", "+@all"]).await;
        }
        std::fs::write(&file, password).unwrap();
        for agent in &agents {
            look_again(agent);
        }
        until("every agent knows that every Sentinel has it", Duration::from_secs(60), || async {
            let count = |what: &str| -> Vec<usize> {
                agents.iter().map(|agent| agent.log().matches(what).count()).collect()
            };
            let (given, taken) = (count(GIVEN), count(GIVEN_BY_ANOTHER));
            let all = 3 * (round + 1);
            let known = given.iter().zip(&taken).all(|(given, taken)| given + taken >= all);
            if known { Ok(()) } else { Err(LabError(format!("{given:?} {taken:?}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", logs(&agents)));
        for sentinel in &world.sentinels {
            let told = times_told(&world, sentinel);
            assert_eq!(told, round + 1, "{}\n{}", sentinel.name(), logs(&agents));
            until_up(sentinel).await;
        }
    }
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

/// What another agent has noted is no more than a note.
#[tokio::test]
async fn a_login_that_another_agent_did_not_give_is_given() {
    let (secret, since) = (Some("redis-secret".to_owned()), Some("7.0"));
    let spec = WorldSpec { redis_password: secret, since, ..WorldSpec::default() };
    let mut world = world(spec).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "old").unwrap();
    sentinels_user(&path, "watcher", &file);
    let running = that_have_looked(&world, 1, &path).await.remove(0);
    for redis in &world.groups[0].redis {
        set_sentinel_user(redis, &["watcher", "on", ">new", "~*", "+@all"]).await;
    }
    // One agent has died before it gave a login, and one says that it gave what it did not.
    let (died, lied) = (&world.sentinels[0], &world.sentinels[1]);
    for (sentinel, note) in [(died, "giving by agent-9"), (lied, "given by agent-9")] {
        let id = words(&sentinel.ask(&["SENTINEL", "MYID"]).await.unwrap()).unwrap();
        let (key, value) = (format!("redis-ha/redis/logins/{id}"), note.to_owned());
        let noted = world.consul.client().unwrap().txn(&[Op::KeySet { key, value }], "").await;
        assert!(matches!(noted, Outcome::Committed { .. }), "{noted:?}");
    }
    std::fs::write(&file, "new").unwrap();
    look_again(&running);
    let given_to = |sentinel: &LabServer| {
        format!("reconfigured Sentinel {}: the new login for the instances", sentinel.address)
    };
    until_said(&running, &given_to(&world.sentinels[2]), 1).await;
    until_said(&running, &format!("{GIVEN_BY_ANOTHER} {} its login", lied.address), 1).await;
    assert!(!running.log().contains(&given_to(died)), "{}", running.log());
    until_said(&running, &given_to(died), 1).await;
    assert!(!running.log().contains(&given_to(lied)), "{}", running.log());
    let other = ["SENTINEL", "SET", "redis", "auth-user", "watcher", "auth-pass", "other"];
    lied.ask(&other).await.unwrap();
    until_said(&running, &given_to(lied), 1).await;
    until_up(lied).await;
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}

#[tokio::test]
async fn a_sentinel_that_cannot_save_its_config_is_told_once() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let running = agent(&world, "agent-0", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let name = world.sentinels[0].name().to_owned();
    std::fs::rename(world.dir().join(&name), world.dir().join("elsewhere")).unwrap();
    let set = run(&world, &["config", "redis", "down_after=2300ms"], &[]);
    assert_eq!(set.status.code(), Some(0), "{}", text(&set));
    for sentinel in &world.sentinels {
        until("it has the setting", Duration::from_secs(20), || async {
            let answer = sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let found = fields(&answer).map_err(LabError)?["down-after-milliseconds"].clone();
            if found == "2300" { Ok(()) } else { Err(LabError(found)) }
        })
        .await
        .unwrap();
    }
    let at = &world.sentinels[0].address;
    until_said(&running, &format!("Sentinel {at} does what it is told and cannot save"), 1).await;
    until_said(&running, ": down-after-milliseconds 2300", 3).await;
    let doctor = text(&run(&world, &["doctor", "redis"], &[]));
    assert!(doctor.contains("sentinel-config-unsaved"), "{doctor}");
    assert!(doctor.contains(&format!("{at}: ERR Failed to save config file")), "{doctor}");
    let log = running.log();
    assert_eq!(log.matches("cannot save its config file").count(), 1, "{log}");
    // A Sentinel that was asked before it had the setting may be told twice.
    assert!(log.matches("reconfigured Sentinel").count() <= 6, "{log}");
    assert!(!log.contains("cannot tell"), "{log}");
    // As it says: it may write there again.
    std::fs::rename(world.dir().join("elsewhere"), world.dir().join(&name)).unwrap();
    let doctor = text(&run(&world, &["doctor", "redis"], &[]));
    assert!(!doctor.contains("sentinel-config-unsaved"), "{doctor}");
}

/// `[[group]] settings` with this user for the Sentinels.
fn sentinels_user(path: &Path, user: &str, file: &Path) {
    let text = format!(
        "[[group]]\nname = \"redis\"\nsettings = {{ auth_user = \"{user}\", auth_password_file = \"{}\" }}\n",
        file.display()
    );
    std::fs::write(path, text).unwrap();
}

/// The login is right, as far as any agent can try it; the Sentinel does not get to the primary all the same.
#[tokio::test]
async fn a_login_under_which_a_sentinel_loses_the_primary_is_taken_back() {
    let network = Namespace::new().unwrap_or_else(|error| panic!("{error}"));
    // The system's own addresses are looked up after the rule that cuts one way off.
    network.ip("rule add pref 100 lookup local").unwrap();
    network.ip("rule del pref 0").unwrap();
    network.enter().unwrap();
    // Each Sentinel asks from its own address, which to Redis is no loopback one.
    let (sentinel_lines, redis_lines) = ("bind-source-addr {ip}\n", "protected-mode no\n");
    let since = Some("7.0");
    let spec = WorldSpec { sentinel_lines, redis_lines, since, ..WorldSpec::default() };
    let mut world = world(spec).await;
    for redis in &world.groups[0].redis {
        for user in ["before", "after"] {
            let user = ["ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all"];
            redis.ask(&user).await.unwrap();
        }
    }
    let own = ["SENTINEL", "SET", "redis", "auth-user", "before", "auth-pass", "secret"];
    for sentinel in &world.sentinels {
        sentinel.ask(&own).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "secret").unwrap();
    sentinels_user(&path, "before", &file);
    let running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_looked_at(&world, 3).await;
    for sentinel in &world.sentinels {
        until_up(sentinel).await;
    }
    sentinels_user(&path, "after", &file);
    look_again(&running);
    let given = "the new login for the instances";
    until_said(&running, given, 3).await;
    let cut_off = &world.sentinels[0];
    let (from, to) = (cut_off.address.host(), world.server(&writer).unwrap().address.host());
    network.ip(&format!("rule add pref 10 from {from} to {to} blackhole")).unwrap();
    let back = format!("Sentinel {} called {writer} down once it had user after", cut_off.address);
    until_said(&running, &back, 1).await;
    assert!(running.log().contains("it has the login before again"), "{}", running.log());
    network.ip("rule del pref 10").unwrap();
    until_up(cut_off).await;
    // The other two keep the new one, and it is not tried on this one again.
    let redis = world.server(&writer).unwrap();
    until("one Sentinel has the login before", Duration::from_secs(20), || async {
        let mut users = users(redis).await;
        users.sort();
        let wanted = ["after", "after", "after", "after", "before", "before"];
        if users == wanted { Ok(()) } else { Err(LabError(format!("{users:?}"))) }
    })
    .await
    .unwrap();
    look_again(&running);
    until_said(&running, "the config is unchanged", 1).await;
    assert_eq!(running.log().matches(given).count(), 3, "{}", running.log());
    world.calm().await.unwrap();
    must_follow_a_failover(&mut world).await;
}
