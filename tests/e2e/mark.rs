//! The mark in the data set, on real servers: an old primary with an append-only file that only its data can speak
//! for.

use std::time::Duration;

use consul_redis::core::identity::mark::{DataMark, FoundMark};
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::text as reply;
use serde_json::Value;

use crate::fencing::until_follows;
use crate::identity::{forgotten_by_all, late_writes, replaced, with_files};
use crate::promises::RETURNED_MARKED;
use crate::support::{
    agent, agents, logs, must_follow_a_failover, record, run, until_in_sync, until_left_alone,
    until_logged, until_record, until_writer, world,
};

/// The key that the agents are told.
const KEY: &str = "app:consul-redis";

/// A config whose agents keep the mark.
fn config(world: &World) -> String {
    let path = world.dir().join("mark.toml");
    std::fs::write(&path, format!("[[group]]\nname = \"redis\"\nmark = \"{KEY}\"\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn mark_of(server: &LabServer) -> Result<FoundMark, LabError> {
    match server.ask(&["GET", KEY]).await? {
        redis::Value::Nil => Ok(FoundMark::Absent),
        value => Ok(FoundMark::of_value(reply(&value).map_err(LabError)?.as_bytes())),
    }
}

/// Waits until every instance that is up has the mark of what is published now.
async fn until_marked(world: &World, up: &[&str]) {
    until("all have the mark of what is published", Duration::from_secs(30), || async {
        let wanted = DataMark::of(&record(world, "redis").await?).map(FoundMark::Is);
        for at in up {
            let found = mark_of(world.server(at).unwrap()).await?;
            if Some(&found) != wanted.as_ref() {
                return Err(LabError(format!("{at} has {found:?}, and not {wanted:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

fn addresses(world: &World) -> Vec<String> {
    world.groups[0].redis.iter().map(|server| server.address.to_string()).collect()
}

/// No Sentinel lists it, it has no row, and no agent that is there has seen its earlier run: the key is all that tells
/// whose data its file holds. (Without it, its writes are held and an operator decides:
/// `what_cannot_prove_its_data_takes_no_writes_and_says_what_decides_it`.)
#[tokio::test]
async fn an_old_primary_is_known_by_the_mark_in_its_append_only_file() {
    let mut world = world(with_files()).await;
    let config = config(&world);
    let args = ["--config", config.as_str()];
    let first = agents(&world, 2, &args);
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let all = addresses(&world);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    until_marked(&world, &all).await;
    // Its owner deletes everything: it is written again.
    world.server(&old).unwrap().ask(&["FLUSHALL"]).await.unwrap();
    until_marked(&world, &all).await;
    let (again, new) = replaced(&mut world).await;
    assert_eq!(again, old);
    let up: Vec<&str> = all.iter().copied().filter(|at| *at != old).collect();
    until_marked(&world, &up).await;
    drop(first);
    let agents = agents(&world, 2, &args);
    forgotten_by_all(&world, &old).await;

    let server = world.server(&old).unwrap();
    let client = tokio::spawn(late_writes(server.address.clone(), server.login.clone()));
    world.server_mut(&old).unwrap().restart().await.unwrap();
    let took = tokio::time::timeout(Duration::from_secs(60), client).await;
    let took = took.unwrap_or_else(|_| panic!("{}", logs(&agents))).unwrap();
    RETURNED_MARKED.kept(took);
    until_follows(world.server(&old).unwrap(), &new).await;
    let said = format!("{old} was a stray primary; it is a replica of {new} now");
    until_logged(|| logs(&agents), 20, &said, 1).await;
    until_in_sync(&world, "redis", 2).await;
    until_marked(&world, &all).await;
    for wrong in ["an unrelated history", "cannot prove whose data"] {
        assert!(!logs(&agents).contains(wrong), "{}", logs(&agents));
    }
}

/// A Redis with another group's append-only file is started at an address that a majority of the Sentinels lists, and
/// that has a row: without the mark it would be taken for the one that was there.
#[tokio::test]
async fn the_data_of_another_group_is_left_alone_by_its_mark() {
    // The directory of the append-only files is copied.
    let mut world = world(WorldSpec { since: Some("7.0"), ..with_files() }).await;
    let config = config(&world);
    let agents = agents(&world, 2, &["--config", &config]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let all = addresses(&world);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    until_marked(&world, &all).await;
    let other = world.start_redis("other", None).await.unwrap();
    let theirs = DataMark {
        group: "theirs".parse().unwrap(),
        ..DataMark::of(&record(&world, "redis").await.unwrap()).unwrap()
    };
    let theirs = DataMark { history: other.probe().await.unwrap().replid, ..theirs };
    other.ask(&["SET", "theirs", "1"]).await.unwrap();
    other.ask(&["SET", KEY, &theirs.encode()]).await.unwrap();
    let reused = all[2].to_owned();
    let server = world.server_mut(&reused).unwrap();
    server.kill();
    let dir = server.name().to_owned();
    let dir = world.dir().join(dir);
    let files =
        ["other", dir.to_str().unwrap()].map(|at| world.dir().join(at).join("appendonlydir"));
    // One that is killed may not have written all of it yet, where the disk is busy.
    let _ = other.ask(&["SHUTDOWN", "NOSAVE"]).await;
    let [from, to] = files;
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let path = dir.join("server.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    let own = text.lines().filter(|line| !line.starts_with("replicaof "));
    std::fs::write(&path, own.collect::<Vec<_>>().join("\n")).unwrap();
    world.server_mut(&reused).unwrap().restart().await.unwrap();
    let server = world.server(&reused).unwrap();
    until_left_alone(&agents, &reused, 8, "its mark is of group theirs").await;
    // Neither fenced nor held. (Sentinel makes it a replica some 10 s after it is back.)
    server.ask(&["SET", "theirs", "2"]).await.unwrap();
    assert!(server.probe().await.unwrap().is_primary(), "{}", logs(&agents));
    assert_eq!(mark_of(server).await.unwrap(), FoundMark::Is(theirs));
}

/// The problems that `status` shows and the cures that `doctor` has for rights, with the agents' config and login.
fn said(world: &World, config: &str, env: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<String>) {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |command: &[&str], list: &str| {
        let output = run(world, &[command, &["--config", config, "--json"]].concat(), env);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let group = value.get(0).unwrap_or(&value);
        group[list].as_array().cloned().unwrap_or_default()
    };
    let problems = of(&["status"], "problems");
    let findings = of(&["doctor", "redis"], "findings");
    let problems =
        problems.iter().map(|problem| (word(&problem["code"]), word(&problem["text"]))).collect();
    let rights = findings.iter().filter(|finding| finding["code"] == "instance-right");
    (problems, rights.map(|finding| word(&finding["mend"])).collect())
}

/// Waits until `status` says this of the mark, and `doctor` has this cure at its end (empty: none).
async fn until_wrong(world: &World, config: &str, env: &[(&str, &str)], says: &str, cure: &str) {
    until(&format!("`{says}` and `{cure}`"), Duration::from_secs(40), || async {
        let (problems, cures) = said(world, config, env);
        let of_mark = problems.iter().filter(|(code, _)| code == "mark-missing");
        let texts: Vec<&String> = of_mark.map(|(_, text)| text).collect();
        let is_said = match says {
            "" => problems.is_empty(),
            says => texts.iter().any(|text| text.contains(says)),
        };
        let is_cured = match cure {
            "" => cures.is_empty(),
            // The same on each instance.
            cure => cures.iter().any(|found| found.matches(cure).count() == 3),
        };
        if is_said && is_cured {
            return Ok(());
        }
        Err(LabError(format!("{problems:?} {cures:?}")))
    })
    .await
    .unwrap();
}

async fn set_user(world: &World, rules: &[&str]) {
    for server in &world.groups[0].redis {
        server.ask(&[&["ACL", "SETUSER", "little"], rules].concat()).await.unwrap();
    }
}

/// The rights that the agents' user has without the setting: what they lack is said with what gives it, and all else
/// goes on.
#[tokio::test]
async fn a_login_that_may_not_keep_the_mark_is_said_and_nothing_else_changes() {
    // Sentinel's users, and rules for one command of several, need that.
    let mut world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let config = config(&world);
    let rules = [
        &["on", ">secret", "+ping", "+info", "+replicaof", "+client|pause", "+client|unpause"][..],
        &["+client|kill", "+config|rewrite", "+multi", "+discard"][..],
    ];
    set_user(&world, &rules.concat()).await;
    let env = [("CONSUL_REDIS_USERNAME", "little"), ("CONSUL_REDIS_PASSWORD", "secret")];
    let args = ["--config", config.as_str()];
    let all: Vec<Process> =
        ["agent-0", "agent-1"].iter().map(|name| agent(&world, name, &args, &env)).collect();
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let may_not_read = "this login may not read it (`NOPERM";
    until_wrong(&world, &config, &env, may_not_read, "SETUSER little +getrange +set").await;
    until_logged(|| all[0].log(), 20, may_not_read, 1).await;
    // What it says; then the key is what it lacks.
    set_user(&world, &["+getrange", "+set"]).await;
    let key = format!("SETUSER little ~{KEY}");
    until_wrong(&world, &config, &env, may_not_read, &key).await;
    set_user(&world, &[&format!("~{KEY}")]).await;
    let names = addresses(&world);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    until_marked(&world, &names).await;
    until_wrong(&world, &config, &env, "", "").await;
    // It may read, and not write.
    set_user(&world, &["-set"]).await;
    let writer = until_writer(&world, "redis", 5, None).await;
    world.server(&writer).unwrap().ask(&["DEL", KEY]).await.unwrap();
    let may_not_write = "it could not be written (`NOPERM";
    until_logged(|| logs(&all), 30, may_not_write, 1).await;
    until_wrong(&world, &config, &env, "no agent has written it", "SETUSER little +set").await;
    // An application has the key: it is never overwritten.
    set_user(&world, &["+set"]).await;
    until_marked(&world, &names).await;
    let server = world.server(&writer).unwrap();
    server.ask(&["SET", KEY, "theirs"]).await.unwrap();
    until_wrong(&world, &config, &env, "holds something that is no mark", "").await;
    until_record(&world, "redis", 5, "a writer", |record| record.writer.is_some()).await;
    let found = reply(&server.ask(&["GET", KEY]).await.unwrap()).unwrap();
    assert_eq!(found, "theirs");
    must_follow_a_failover(&mut world).await;
    assert!(!logs(&all).contains(" panicked "), "{}", logs(&all));
}
