//! SIGHUP: an agent goes on by another config, and what it has subscribed to stays subscribed.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use consul_redis::core::published::record::{Change, Level};
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port};
use consul_redis::redis_link::text as words;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::hammer::Hammer;
use crate::promises::PASSWORD_TOLD;
use crate::support::{
    agent, get, http_address, must_follow_a_failover, record, run, set_sentinel_user, text,
    until_in_sync, until_logged, until_writer, world,
};

/// Waits until the agent has said this so many times.
async fn until_said(agent: &Process, what: &str, times: usize) {
    until_logged(|| agent.log(), 20, what, times).await;
}

fn reload(agent: &Process, path: &Path, config: &str) {
    std::fs::write(path, config).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
}

/// The subscriptions that a Sentinel has, by the number that it gave to each connection.
async fn subscriptions(sentinel: &LabServer) -> Vec<String> {
    let answer = sentinel.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.unwrap();
    let all = words(&answer).unwrap();
    let id = |line: &str| line.split(' ').find_map(|word| word.strip_prefix("id=").map(Into::into));
    all.lines().filter(|line| line.contains("psub=1")).filter_map(id).collect()
}

async fn all_subscriptions(world: &World) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for sentinel in &world.sentinels {
        all.push(subscriptions(sentinel).await);
    }
    all
}

async fn is_shown(world: &World, group: &str) -> Result<bool, LabError> {
    Ok(world.consul.key(&format!("redis-ha/{group}/agents/agent-0")).await?.is_some())
}

async fn until_shown(world: &World, group: &str, wanted: bool) {
    until("the agent shows itself", Duration::from_secs(10), || async {
        if is_shown(world, group).await? == wanted { Ok(()) } else { Err(LabError(group.into())) }
    })
    .await
    .unwrap();
}

async fn until_registered(world: &World, count: usize) {
    until("this host's Redis is registered", Duration::from_secs(20), || async {
        let found = world.consul.passing("redis-server").await?;
        if found.len() == count { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
}

async fn two_groups() -> World {
    let groups = vec!["redis".to_owned(), "cache.main".to_owned()];
    world(WorldSpec { redis: 2, groups, ..WorldSpec::default() }).await
}

#[tokio::test]
async fn a_reload_changes_everything_but_the_subscriptions() {
    let mut world = two_groups().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let local = format!(
        "[[redis]]\naddress = \"{}\"\ngroup = \"redis\"\n",
        world.groups[0].redis[1].address
    );
    let first_config =
        format!("[http]\nlisten = \"127.0.0.1:0\"\n[[group]]\nname = \"redis\"\n{local}");
    std::fs::write(&path, first_config).unwrap();
    let running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    until_registered(&world, 1).await;
    let old_page = http_address(&running).await;
    assert_eq!(get(&format!("{old_page}/healthz"), None).await.unwrap().0, 200);
    let before = all_subscriptions(&world).await;
    assert!(before.iter().all(|ids| ids.len() == 1), "{before:?}");
    assert!(!running.log().contains("DEBUG"), "{}", running.log());
    let hammer = Hammer::start(&world);
    hammer.until_enough().await;

    // Another group, another level for the first one, a file, a listener elsewhere, more in the log, no Redis here.
    let (template, file) = (dir.path().join("writer.j2"), dir.path().join("writer"));
    std::fs::write(&template, "{{ groups['cache.main'].writer.address }}").unwrap();
    let second_config = format!(
        "[log]\nlevel = \"debug\"\n[http]\nlisten = \"127.0.0.2:0\"\n\
         [[group]]\nname = \"redis\"\npublish = \"quorum\"\n\
         [[group]]\nname = \"cache.main\"\nservice = \"cache\"\n\
         [[template]]\nsource = \"{}\"\ndestination = \"{}\"\n",
        template.display(),
        file.display()
    );
    reload(&running, &path, &second_config);
    let cache = until_writer(&world, "cache.main", 20, None).await;
    until_said(&running, "the new config is in force", 1).await;
    let log = running.log();
    let line = log.lines().find_map(|line| line.split("the new config is in force: ").nth(1));
    assert_eq!(
        line,
        Some(
            "[http], group cache.main is watched, group redis, what this host registers, \
             [log] level, [[template]]"
        )
    );
    until_said(&running, "DEBUG", 1).await;
    until_shown(&world, "cache.main", true).await;
    until_registered(&world, 0).await;
    until("the file is there", Duration::from_secs(10), || async {
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        if found == cache { Ok(()) } else { Err(LabError(found)) }
    })
    .await
    .unwrap();
    until_said(&running, "answering http://127.0.0.2:", 1).await;
    let said = running.log();
    let page = said.lines().rev().find_map(|line| line.split("answering ").nth(1)).unwrap();
    let (code, both) = get(&format!("{page}/status.json"), None).await.unwrap();
    assert!(code == 200 && both.contains("cache.main"), "{code} {both}");
    get(&format!("{old_page}/healthz"), None).await.expect_err("nothing listens there any more");
    assert_eq!(all_subscriptions(&world).await, before);
    hammer.until_enough().await;
    hammer.stop().await.always(&writer);
    // At level quorum now, and it still follows.
    must_follow_a_failover(&mut world).await;
    let last = last_change(&world).await;
    assert_eq!(last.level, Some(Level::Quorum), "{last:?}");
    assert_eq!(all_subscriptions(&world).await, before);
}

/// The newest entry of the group's history.
async fn last_change(world: &World) -> Change {
    let changes = world.consul.key("redis-ha/redis/history").await.unwrap().unwrap();
    let changes: Vec<Change> = serde_json::from_str(&changes).unwrap();
    changes.into_iter().next().unwrap()
}

/// Two groups, the first of them at the level that is given, and the agent reloads that.
fn at_level(level: &str) -> String {
    format!(
        "[[group]]\nname = \"redis\"\npublish = \"{level}\"\n\
         [[group]]\nname = \"cache.main\"\nservice = \"cache\"\n"
    )
}

#[tokio::test]
async fn a_config_that_is_refused_changes_nothing_and_a_group_can_be_left_alone() {
    let mut world = two_groups().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, at_level("promotion")).unwrap();
    let running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    let cache = until_writer(&world, "cache.main", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    let before = all_subscriptions(&world).await;
    reload(&running, &path, &at_level("quorum"));
    until_said(&running, "the new config is in force: group redis", 1).await;

    // check-config says the same beforehand.
    reload(&running, &path, &at_level("quorum").replace("publish", "publsh"));
    until_said(&running, "the config is refused, the running one stays", 1).await;
    let log = running.log();
    assert!(log.contains("unknown field `publsh`"), "{log}");
    let checked = run(&world, &["check-config", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(checked.status.code(), Some(64));
    assert!(text(&checked).contains("unknown field `publsh`"), "{}", text(&checked));

    // The group goes by its new level, and the events still come.
    world.server_mut(&first).unwrap().kill();
    let moved = until_writer(&world, "redis", 20, Some(&first)).await;
    let last = last_change(&world).await;
    assert_eq!(last.to.as_ref().map(ToString::to_string), Some(moved));
    assert_eq!(last.level, Some(Level::Quorum));

    // A group that is not watched any more: what it published stays, and no agent says that it watches the group.
    reload(&running, &path, "[[group]]\nname = \"redis\"\npublish = \"quorum\"\n");
    until_said(&running, "group cache.main is not watched any more", 1).await;
    until_shown(&world, "cache.main", false).await;
    assert!(is_shown(&world, "redis").await.unwrap());
    let left = record(&world, "cache.main").await.unwrap();
    assert_eq!(left.writer_address().map(ToString::to_string), Some(cache));
    assert_eq!(all_subscriptions(&world).await, before);

    // What takes a restart is said to.
    reload(&running, &path, "[consul]\nprefix = \"other\"\n[[group]]\nname = \"redis\"\n");
    until_said(&running, "waits until the agent is started again: [consul] prefix", 1).await;
}

/// How long a process has run so far, in hundredths of a second.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_listener_moves_under_those_who_look_on() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, token) = (dir.path().join("agent.toml"), dir.path().join("token"));
    std::fs::write(&token, "secret").unwrap();
    let port = free_port(&[Ipv4Addr::LOCALHOST]).unwrap();
    let config = |http: &str, service: &str, every: &str| {
        format!(
            "{http}\n[[group]]\nname = \"redis\"\nservice = \"{service}\"\n\
             [[redis]]\naddress = \"{}\"\ncheck_interval = \"{every}\"\n",
            world.groups[0].redis[1].address
        )
    };
    let open = format!("[http]\nlisten = \"127.0.0.1:{port}\"");
    let closed = format!("{open}\ntoken_file = \"{}\"", token.display());
    std::fs::write(&path, config(&open, "redis", "5s")).unwrap();
    let mut running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &[]);
    until_writer(&world, "redis", 20, None).await;
    until_registered(&world, 1).await;
    let url = http_address(&running).await;

    // A page is open, and a client never finishes its request.
    let mut page = reqwest::get(format!("{url}/events")).await.unwrap();
    assert!(page.chunk().await.unwrap().is_some());
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x").unwrap();

    // This host's Redis is checked more often; the only group begins anew.
    reload(&running, &path, &config(&open, "redis", "1s"));
    until_said(&running, "changed the registration of", 1).await;
    reload(&running, &path, &config(&open, "other", "1s"));
    until_said(&running, "in force: group redis is watched", 1).await;
    assert_eq!(get(&format!("{url}/healthz"), None).await.unwrap().0, 200);
    // The same port, and a token; then every address of this host.
    reload(&running, &path, &config(&closed, "redis", "1s"));
    until_said(&running, &format!("answering http://127.0.0.1:{port}"), 2).await;
    assert_eq!(get(&format!("{url}/status.json"), None).await.unwrap().0, 401);
    reload(&running, &path, &config(&closed.replace("127.0.0.1", "0.0.0.0"), "redis", "1s"));
    until_said(&running, &format!("answering http://0.0.0.0:{port}"), 1).await;
    assert_eq!(get(&format!("{url}/healthz"), None).await.unwrap().0, 200);
    // No page can be open any more, and the agent has nothing to do for one.
    reload(&running, &path, &config("", "redis", "1s"));
    until_said(&running, "in force: [http]", 3).await;
    get(&format!("{url}/healthz"), None).await.expect_err("no server listens there any more");
    let before = ticks(&running);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(ticks(&running) - before < 100, "it turns without an end");
    running.signal(Signal::SIGTERM).unwrap();
    assert_eq!(running.end(Duration::from_secs(2)).await.unwrap(), 0);
}

/// Denies by default.
const MASTER: &str = "11111111-2222-3333-4444-555555555555";

#[tokio::test]
async fn a_token_that_is_replaced_is_read_again_and_a_bad_one_is_refused() {
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/consul/agent-policy.hcl");
    let policy = std::fs::read_to_string(policy).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("token"));
    let old = world.consul.token("old", &policy).await.unwrap();
    std::fs::write(&file, &old).unwrap();
    let config = format!("[consul]\ntoken_file = \"{}\"\n", file.display());
    std::fs::write(&path, &config).unwrap();
    let env = [("CONSUL_HTTP_TOKEN", "")];
    let running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &env);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;

    // Without a signal: the old one is of no use any more.
    let new = world.consul.token("new", &policy.replace("# ", "#  ")).await.unwrap();
    std::fs::write(&file, &new).unwrap();
    let master = world.consul.client_with(Some(MASTER)).unwrap();
    let selves = world.consul.client_with(Some(&old)).unwrap();
    let own: serde_json::Value = selves.get("/v1/acl/token/self", &[]).await.unwrap().value;
    let gone = format!("/v1/acl/token/{}", own["AccessorID"].as_str().unwrap());
    let timeout = Duration::from_secs(10);
    let deleted = master.call(reqwest::Method::DELETE, &gone, &[], None, timeout).await.unwrap();
    assert_eq!(deleted.status.as_u16(), 200);
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;

    // With one: an unknown token, or a file that is not there, is not gone over to.
    let bad = dir.path().join("bad");
    std::fs::write(&bad, "no-such-token").unwrap();
    reload(&running, &path, &format!("[consul]\ntoken_file = \"{}\"\n", bad.display()));
    until_said(&running, "the config is refused, the running one stays: Consul denies", 1).await;
    reload(&running, &path, "[consul]\ntoken_file = \"/no/such/file\"\n");
    let said = format!("stays: {}:2: cannot read the secret in /no/such/file", path.display());
    until_said(&running, &said, 1).await;
    reload(&running, &path, &config);
    until_said(&running, "the config is unchanged", 1).await;
}

/// How often each Sentinel's commands to a Redis go by this user.
async fn logged_in_as(redis: &LabServer, user: &str) -> usize {
    let answer = redis.ask(&["CLIENT", "LIST"]).await.unwrap();
    let all = words(&answer).unwrap();
    let by = format!(" user={user} ");
    all.lines().filter(|line| line.contains("name=sentinel-") && line.contains(&by)).count()
}

#[tokio::test]
async fn sentinels_get_a_password_that_was_replaced() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("agent.toml"), dir.path().join("password"));
    std::fs::write(&file, "old").unwrap();
    let config = format!(
        "[[group]]\nname = \"redis\"\n\
         settings = {{ auth_user = \"watcher\", auth_password_file = \"{}\" }}\n",
        file.display()
    );
    std::fs::write(&path, config).unwrap();
    let running = agent(&world, "agent-0", &["--config", path.to_str().unwrap()], &[]);
    until_writer(&world, "redis", 20, None).await;
    for redis in &world.groups[0].redis {
        let user = ["watcher", "on", ">new", "~*", "+@all"];
        set_sentinel_user(redis, &user).await;
        assert_eq!(logged_in_as(redis, "watcher").await, 0);
    }
    // The Sentinels' tags come from the look in which the agent took note of what they know.
    until("the Sentinels' tags", Duration::from_secs(20), || async {
        let names = world.consul.names()?;
        let tagged = names.srv("redis.redis-sentinel.service.consul").await;
        let tagged = tagged.map_err(LabError::new)?.len();
        if tagged == 3 { Ok(()) } else { Err(LabError(tagged.to_string())) }
    })
    .await
    .unwrap();
    std::fs::write(&file, "new").unwrap();
    let changed = Instant::now();
    until("the Sentinels have logged in anew", PASSWORD_TOLD.patience(), || async {
        let mut all = Vec::new();
        for redis in &world.groups[0].redis {
            all.push(logged_in_as(redis, "watcher").await);
        }
        // A connection for commands and one to listen on, of three Sentinels.
        if all == [6, 6, 6] { Ok(()) } else { Err(LabError(format!("{all:?}\n{}", running.log()))) }
    })
    .await
    .unwrap();
    PASSWORD_TOLD.kept(changed.elapsed());
    // The agent says it once the Sentinel has answered, which has logged in by then.
    until_said(&running, "the new login for the instances", 3).await;
    assert_eq!(running.log().matches("the new login for the instances").count(), 3);
    assert!(!running.log().contains("auth-pass"), "{}", running.log());
}
