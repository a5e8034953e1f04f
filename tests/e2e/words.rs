//! The operator's own words on the rows: zones, tags, metadata and weights.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RData;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cures::{until_found_among, until_gone};
use crate::support::{
    agent, json as printed, must_follow_a_failover, record, run, text, until_in_sync, until_writer,
    world,
};

/// How long rows may take to show what a config says, on a busy machine: a repair comes within an audit, which is 10 s.
const SHOWN_WITHIN: Duration = Duration::from_secs(40);
/// More than one audit of the rows.
const IDLE: Duration = Duration::from_secs(13);
const ZONES: [&str; 3] = ["eu-1a", "eu-1b", "eu-1c"];

/// The agent's config beside the server of this number.
fn config(world: &World, number: usize) -> String {
    let address = &world.groups[0].redis[number].address;
    let weights = if number == 2 { "[redis.weights]\npassing = 3\n" } else { "" };
    format!(
        "[agent]\nzone = \"{}\"\n\
         [[group]]\nname = \"redis\"\ntags = [\"traefik.enable=true\", \"gen-{{generation}}\"]\n\
         meta = {{ team = \"cache\", at = \"{{host}}:{{port}}\" }}\n\
         [group.weights]\npassing = 10\n\
         [[redis]]\naddress = \"{address}\"\ntags = [\"disk-{number}\"]\n{weights}",
        ZONES[number]
    )
}

fn start(world: &World, number: usize, config: &str) -> Process {
    let path = world.dir().join(format!("words-{number}.toml"));
    std::fs::write(&path, config).unwrap();
    agent(world, &format!("agent-{number}"), &["--config", path.to_str().unwrap()], &[])
}

fn reload(world: &World, agent: &Process, number: usize, config: &str) {
    std::fs::write(world.dir().join(format!("words-{number}.toml")), config).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
}

async fn get(world: &World, path: &str) -> Result<Value, LabError> {
    Ok(world.consul.client()?.get(path, &[]).await.map_err(LabError::new)?.value)
}

/// A service's rows in the catalog, by `host:port`.
async fn rows(world: &World, service: &str) -> Result<BTreeMap<String, Value>, LabError> {
    let all = get(world, &format!("/v1/catalog/service/{service}")).await?;
    let named = |row: &Value| {
        let host = row["ServiceAddress"].as_str().unwrap();
        (format!("{host}:{}", row["ServicePort"]), row.clone())
    };
    Ok(all.as_array().unwrap().iter().map(named).collect())
}

/// What the row of an instance is to be, beside which the agent of this number stands.
fn wanted(world: &World, number: usize, role: Option<&str>, generation: Option<u64>) -> Value {
    let address = &world.groups[0].redis[number].address;
    let mut tags: Vec<String> = role.into_iter().map(str::to_owned).collect();
    tags.extend([format!("zone-{}", ZONES[number]), "traefik.enable=true".to_owned()]);
    tags.extend(generation.map(|generation| format!("gen-{generation}")));
    tags.push(format!("disk-{number}"));
    let mut meta = json!({
        "managed-by": "consul-redis", "group": "redis", "zone": ZONES[number], "team": "cache",
        "at": address.to_string(),
    });
    if let Some(generation) = generation {
        meta["generation"] = json!(generation.to_string());
    }
    let passing = if number == 2 { 3 } else { 10 };
    json!({
        "tags": tags, "meta": meta, "weights": {"Passing": passing, "Warning": 1},
    })
}

fn found(row: &Value) -> Value {
    json!({
        "tags": row["ServiceTags"], "meta": row["ServiceMeta"], "weights": row["ServiceWeights"],
    })
}

/// Waits until every row of the group is as it is to be. The writer, by its number.
async fn until_all_shown(world: &World) -> usize {
    until("all rows have their words", SHOWN_WITHIN, || async {
        let record = record(world, "redis").await?;
        let writer = record.writer_address().ok_or_else(|| LabError::new("no writer"))?;
        let number = |at: &str| {
            world.groups[0].redis.iter().position(|server| server.address.to_string() == at)
        };
        for (service, role) in
            [("redis-primary", None), ("redis-replica", None), ("redis", Some("tag"))]
        {
            for (at, row) in rows(world, service).await? {
                let is_writer = at == writer.to_string();
                let generation = is_writer.then_some(record.generation);
                let out = record.instances.iter().find(|i| i.address.to_string() == at);
                let tag = out.and_then(|instance| instance.role.tag());
                let wanted = wanted(world, number(&at).unwrap(), role.and(tag), generation);
                if found(&row) != wanted {
                    return Err(LabError(format!("{service} {at}: {row:#}, and not {wanted:#}")));
                }
            }
        }
        Ok(number(&writer.to_string()).unwrap())
    })
    .await
    .unwrap()
}

/// The weight and the port of each SRV record of a name.
fn srv(server: SocketAddr, name: &str) -> Vec<(u16, u16)> {
    // An id, RD, one question.
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.bytes());
    }
    question.extend([0, 0, 33, 0, 1]);
    let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&question, server).unwrap();
    let mut answer = [0; 4_096];
    let len = socket.recv(&mut answer).unwrap();
    let answer = Message::from_vec(&answer[..len]).unwrap();
    let records = answer.answers.iter().filter_map(|record| match &record.data {
        RData::SRV(service) => Some((service.weight, service.port)),
        _ => None,
    });
    let mut records: Vec<_> = records.collect();
    records.sort_unstable();
    records
}

/// Waits until the replicas of a zone are these, by their numbers, with the weights of their rows.
async fn until_near(world: &World, zone: &str, numbers: &[usize]) {
    let name = format!("zone-{zone}.redis-replica.service.consul");
    let port = |number: &usize| world.groups[0].redis[*number].address.port();
    let weight = |number: &usize| if *number == 2 { 3 } else { 10 };
    let mut wanted: Vec<_> = numbers.iter().map(|n| (weight(n), port(n))).collect();
    wanted.sort_unstable();
    until(&name, SHOWN_WITHIN, || async {
        let found = srv(world.consul.dns, &name);
        if found == wanted { Ok(()) } else { Err(LabError(format!("{found:?}, not {wanted:?}"))) }
    })
    .await
    .unwrap();
}

/// When each row of the group was last written.
async fn written(world: &World) -> BTreeMap<String, u64> {
    let mut written = BTreeMap::new();
    for service in ["redis-primary", "redis-replica", "redis"] {
        for (at, row) in rows(world, service).await.unwrap() {
            written.insert(format!("{service} {at}"), row["ModifyIndex"].as_u64().unwrap());
        }
    }
    assert!(written.len() >= 4, "{written:?}");
    written
}

/// For more than an audit no row is written.
async fn must_rest(world: &World) {
    let before = written(world).await;
    tokio::time::sleep(IDLE).await;
    assert_eq!(written(world).await, before);
}

/// Another program writes one row of the group anew.
async fn overwrite(world: &World, at: &str) {
    let row = rows(world, "redis-replica").await.unwrap().remove(at).unwrap();
    let service = json!({
        "ID": row["ServiceID"], "Service": "redis-replica", "Tags": ["zone-eu-9z"],
        "Address": row["ServiceAddress"], "Port": row["ServicePort"], "Meta": row["ServiceMeta"],
        "Weights": {"Passing": 99, "Warning": 1},
    });
    let body = json!({
        "Node": row["Node"], "Address": row["Address"], "SkipNodeUpdate": true, "Service": service,
    });
    let client = world.consul.client().unwrap();
    client.put("/v1/catalog/register", &[], Some(&body)).await.unwrap();
    let now = rows(world, "redis-replica").await.unwrap().remove(at).unwrap();
    assert_eq!(now["ServiceTags"], json!(["zone-eu-9z"]));
}

#[tokio::test]
async fn rows_have_their_words_and_zones_answer_before_and_after_a_failover() {
    let mut world = world(WorldSpec::default()).await;
    let running: Vec<Process> =
        (0..3).map(|number| start(&world, number, &config(&world, number))).collect();
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let writer = until_all_shown(&world).await;
    for (number, zone) in ZONES.into_iter().enumerate() {
        let near: &[usize] = if number == writer { &[] } else { &[number] };
        until_near(&world, zone, near).await;
    }
    let generation = record(&world, "redis").await.unwrap().generation;
    must_rest(&world).await;

    let replica = (0..3).find(|number| *number != writer).unwrap();
    overwrite(&world, &world.groups[0].redis[replica].address.to_string()).await;
    until_all_shown(&world).await;
    assert_eq!(record(&world, "redis").await.unwrap().generation, generation);

    let status = printed(&world, "status", &["status", "redis", "--json"]);
    for (number, zone) in ZONES.iter().enumerate() {
        let at = world.groups[0].redis[number].address.to_string();
        let instances = status[0]["instances"].as_array().unwrap();
        assert_eq!(instances.iter().find(|i| i["address"] == at).unwrap()["zone"], *zone);
    }
    let shown = text(&run(&world, &["status", "redis"], &[]));
    assert!(shown.contains("replica in zone eu-1"), "{shown}");

    must_follow_a_failover(&mut world).await;
    let new = until_all_shown(&world).await;
    assert_ne!(new, writer);
    until_near(&world, ZONES[new], &[]).await;
    let left = (0..3).find(|number| ![writer, new].contains(number)).unwrap();
    until_near(&world, ZONES[left], &[left]).await;
    until_near(&world, ZONES[writer], &[]).await;
    drop(running);
}

fn remote(tags: &str) -> String {
    format!("[[group]]\nname = \"redis\"\n{tags}\n")
}

async fn until_tags(world: &World, wanted: &[&str]) {
    until("the writer's row has these tags", SHOWN_WITHIN, || async {
        let row = rows(world, "redis-primary").await?.into_values().next();
        let tags = row.map(|row| row["ServiceTags"].clone()).unwrap_or_default();
        if tags == json!(wanted) {
            Ok(())
        } else {
            Err(LabError(format!("{tags}, not {wanted:?}")))
        }
    })
    .await
    .unwrap();
}

async fn until_problem(world: &World, code: &str) {
    until(code, SHOWN_WITHIN, || async {
        let output = run(world, &["status", "redis", "--json"], &[]);
        let status: Value = serde_json::from_slice(&output.stdout).map_err(LabError::new)?;
        let problems = status[0]["problems"].as_array().cloned().unwrap_or_default();
        let there = problems.iter().any(|problem| problem["code"] == code);
        if there { Ok(()) } else { Err(LabError(text(&output))) }
    })
    .await
    .unwrap();
}

/// An agent of a version that knows no words, as far as others see.
async fn show_older_agent(world: &World) -> String {
    let client = world.consul.client().unwrap();
    let session = json!({"Name": "older", "TTL": "120s", "Behavior": "delete", "LockDelay": "0s"});
    let made = client.put("/v1/session/create", &[], Some(&session)).await.unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let id = made["ID"].as_str().unwrap().to_owned();
    let value = json!({"version": "0.0.1", "pauses": true});
    let path = "/v1/kv/redis-ha/redis/agents/older";
    let held = client.put(path, &[("acquire", id.as_str())], Some(&value)).await.unwrap();
    assert!(held.starts_with(b"true"));
    id
}

#[tokio::test]
async fn agents_with_different_words_do_not_fight_and_older_ones_hide_them() {
    let mut world = world(WorldSpec::default()).await;
    let configs = ["", "tags = [\"blue\"]", "tags = [\"green\"]"];
    let running: Vec<Process> =
        configs.iter().enumerate().map(|(n, tags)| start(&world, n, &remote(tags))).collect();
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_problem(&world, "words-differ").await;
    until_tags(&world, &["blue"]).await;
    must_rest(&world).await;
    let findings = until_found_among(&world, "words-differ").await;
    let of_words = findings.iter().find(|finding| finding["code"] == "words-differ").unwrap();
    let of_words = of_words.to_string();
    for said in ["agent-1", "tags blue", "agent-2", "tags green"] {
        assert!(of_words.contains(said), "{of_words}");
    }
    reload(&world, &running[2], 2, &remote(configs[1]));
    until_gone(&world, "words-differ").await;
    until_tags(&world, &["blue"]).await;

    let session = show_older_agent(&world).await;
    until_tags(&world, &[]).await;
    until_problem(&world, "words-hidden").await;
    let path = format!("/v1/session/destroy/{session}");
    let client = world.consul.client().unwrap();
    client.call(Method::PUT, &path, &[], None, Duration::from_secs(5)).await.unwrap();
    until_tags(&world, &["blue"]).await;
    must_follow_a_failover(&mut world).await;
    until_tags(&world, &["blue"]).await;
}

#[tokio::test]
async fn a_config_with_words_that_no_row_can_show_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |text: &str, wanted: &[&str]| {
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        let said = check(&path);
        for part in wanted {
            assert!(said.contains(part), "{said} lacks {part}");
        }
    };
    let head = "[[group]]\nname = \"redis\"\n";
    let own = "a.toml:3: tag `primary` is the agents' own";
    refused(&format!("{head}tags = [\"primary\"]\n"), &[own]);
    let all = "{role} {generation} {group} {zone} {address} {host} {port}";
    refused(&format!("{head}meta = {{ a = \"{{rolle}}\" }}\n"), &["a.toml:3: ", "{rolle}", all]);
    refused(&format!("{head}meta = {{ zone = \"x\" }}\n"), &["a.toml:3: meta key `zone`"]);
    refused(&format!("{head}[group.weights]\npassing = 0\n"), &["a.toml:3: weights: passing"]);
    let redis = "[[redis]]\naddress = \"10.0.0.1:6379\"\n";
    refused(&format!("{head}{redis}tags = [\"zone-x\"]\n"), &["a.toml:5: tag `zone-x`"]);
    let cluster = "[[cluster]]\nname = \"orders\"\n";
    let node = format!("{cluster}{redis}cluster = \"orders\"\ntags = [\"x\"]\n");
    refused(&node, &["a.toml:6: tags, meta and weights are for"]);
}

fn check(path: &Path) -> String {
    let output = std::process::Command::new(crate::support::program())
        .args(["check-config", "--sentinels", "127.0.0.1:1", "--config", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    text(&output)
}
