//! One of three Sentinels lies to the agents, and is honest among the Sentinels: whatever it says, the name moves to no
//! instance that the other two do not name, and a failover of theirs is followed.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::lab::{LabError, net};
use consul_redis::redis_link::{fields, list, text};
use redis::Value;

use crate::support::{
    agent, logs, record, until_in_sync, until_named, until_record, until_writer, world,
};

/// The Sentinel that lies.
const LIAR: usize = 2;
/// Long enough for all that an agent waits for before it takes a change for certain.
const LIES_FOR: Duration = Duration::from_secs(12);
/// Above all that is true.
const EPOCH: &str = "99";

/// What it says of the group.
#[derive(Debug, Clone)]
enum Lie {
    /// The truth.
    None,
    /// This replica is the primary, by a later election.
    Names(String),
    /// All have elected it, and it is promoting this replica in the place of the writer, which is down.
    Promotes(String),
    /// It has promoted this one, which is the primary for it, and points the others at it.
    HasPromoted(String),
    /// The same, and a quorum calls the writer down.
    SaysDown(String),
    /// The writer that all name has the role by a later election than it does.
    Later,
}

/// What stands before a Sentinel and says something else in its name.
struct Liar {
    lie: Arc<Mutex<Lie>>,
}

impl Liar {
    /// Stands at `from`, and asks the Sentinel at `to`.
    fn start(from: SocketAddr, to: SocketAddr, id: String) -> Self {
        let listener = TcpListener::bind(from).unwrap();
        let lie = Arc::new(Mutex::new(Lie::None));
        let told = lie.clone();
        // It goes on while the test waits for a program, and ends with it.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (told, id) = (told.clone(), id.clone());
                std::thread::spawn(move || serve(client, to, &id, &told));
            }
        });
        Self { lie }
    }

    fn say(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }
}

/// Answers one connection, until either side closes it.
fn serve(mut client: TcpStream, to: SocketAddr, id: &str, lie: &Mutex<Lie>) -> Option<()> {
    let mut server = TcpStream::connect(to).ok()?;
    let (mut asked, mut answered) = (redis::Parser::new(), redis::Parser::new());
    let mut commands = BufReader::new(client.try_clone().ok()?);
    let mut answers = BufReader::new(server.try_clone().ok()?);
    loop {
        let command = asked.parse_value(&mut commands).ok()?;
        let words: Vec<String> =
            list(&command).ok()?.iter().filter_map(|word| text(word).ok()).collect();
        server.write_all(&encode(&command)).ok()?;
        if words.first()?.to_ascii_uppercase().ends_with("SUBSCRIBE") {
            return pass_on(server, client);
        }
        let answer = answered.parse_value(&mut answers).ok()?;
        let lie = lie.lock().ok()?.clone();
        let said = said(&lie, id, &words, answer);
        client.write_all(&encode(&said)).ok()?;
    }
}

/// Events are as they are.
fn pass_on(mut from: TcpStream, mut to: TcpStream) -> Option<()> {
    let mut chunk = [0; 4_096];
    loop {
        let read = from.read(&mut chunk).ok().filter(|read| *read > 0)?;
        to.write_all(chunk.get(..read)?).ok()?;
    }
}

/// What the Sentinel with this id says in the place of an answer.
fn said(lie: &Lie, id: &str, command: &[String], answer: Value) -> Value {
    let what = command.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    match (lie, what.as_str()) {
        (Lie::Names(at) | Lie::HasPromoted(at) | Lie::SaysDown(at), "GET-MASTER-ADDR-BY-NAME") => {
            let (host, port) = at.rsplit_once(':').unwrap();
            Value::Array(vec![bulk(host), bulk(port)])
        }
        (Lie::Names(at), "MASTER") => {
            let (host, port) = at.rsplit_once(':').unwrap();
            changed(&answer, &[("ip", host), ("port", port), ("config-epoch", EPOCH)])
        }
        (Lie::Promotes(_), "MASTER") => leading(&answer, "s_down", "wait_promotion"),
        (Lie::HasPromoted(_), "MASTER") => leading(&answer, "s_down", "reconf_slaves"),
        (Lie::SaysDown(_), "MASTER") => {
            changed(&leading(&answer, "s_down,o_down", "reconf_slaves"), &[("config-epoch", EPOCH)])
        }
        (Lie::Later, "MASTER") => changed(&answer, &[("config-epoch", EPOCH)]),
        (Lie::Promotes(at) | Lie::HasPromoted(at) | Lie::SaysDown(at), "REPLICAS" | "SLAVES") => {
            let rows = list(&answer).unwrap_or_default().iter();
            let promoted = |row: &Value| match fields(row) {
                Ok(found) if format!("{}:{}", found["ip"], found["port"]) == *at => {
                    changed(row, &[("flags", "slave,promoted")])
                }
                _ => row.clone(),
            };
            Value::Array(rows.map(promoted).collect())
        }
        (Lie::Promotes(_) | Lie::HasPromoted(_) | Lie::SaysDown(_), "SENTINELS") => {
            let rows = list(&answer).unwrap_or_default().iter();
            let votes = [("voted-leader", id), ("voted-leader-epoch", EPOCH)];
            Value::Array(rows.map(|row| changed(row, &votes)).collect())
        }
        _ => answer,
    }
}

/// It was elected, and has come so far.
fn leading(master: &Value, down: &str, phase: &str) -> Value {
    let flags = format!("master,{down},failover_in_progress");
    changed(master, &[("flags", &flags), ("failover-state", phase)])
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// A list of names and values with other values, and with names that were not in it.
fn changed(row: &Value, to: &[(&str, &str)]) -> Value {
    let Ok(words) = list(row) else { return row.clone() };
    let mut pairs: Vec<(String, Value)> = words
        .chunks_exact(2)
        .filter_map(|pair| Some((text(pair.first()?).ok()?, pair.get(1)?.clone())))
        .collect();
    for (name, value) in to {
        pairs.retain(|(known, _)| known != name);
        pairs.push(((*name).to_owned(), bulk(value)));
    }
    Value::Array(pairs.into_iter().flat_map(|(name, value)| [bulk(&name), value]).collect())
}

/// As RESP2 has it.
fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Nil => b"$-1\r\n".to_vec(),
        Value::Int(number) => format!(":{number}\r\n").into_bytes(),
        Value::Okay => b"+OK\r\n".to_vec(),
        Value::SimpleString(words) => format!("+{words}\r\n").into_bytes(),
        Value::BulkString(bytes) => {
            [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
        }
        Value::Array(items) => {
            let all: Vec<u8> = items.iter().flat_map(encode).collect();
            [format!("*{}\r\n", items.len()).into_bytes(), all].concat()
        }
        Value::ServerError(error) => {
            format!("-{} {}\r\n", error.code(), error.details().unwrap_or_default()).into_bytes()
        }
        other => panic!("no server of RESP2 says {other:?}"),
    }
}

/// A world whose third Sentinel is known to all by the address of the liar before it.
async fn lied_to(world: &World) -> (Liar, Vec<Process>) {
    let real = &world.sentinels[LIAR];
    let to: SocketAddr = real.address.to_string().parse().unwrap();
    let port = net::free_port(&[to.ip().to_string().parse().unwrap()]).unwrap();
    let from = SocketAddr::new(to.ip(), port);
    let id = text(&real.ask(&["SENTINEL", "MYID"]).await.unwrap()).unwrap();
    let liar = Liar::start(from, to, id);
    let announced = port.to_string();
    real.ask(&["SENTINEL", "CONFIG", "SET", "announce-port", &announced]).await.unwrap();
    until("the others know it by that address", Duration::from_secs(20), || async {
        for other in &world.sentinels[..LIAR] {
            let rows = other.ask(&["SENTINEL", "SENTINELS", "redis"]).await?;
            let mut ports = Vec::new();
            for row in list(&rows).map_err(LabError)? {
                ports.push(fields(row).map_err(LabError)?["port"].clone());
            }
            if ports.len() != 2 || !ports.contains(&announced) {
                return Err(LabError(format!("{ports:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let honest = world.sentinels[..LIAR].iter().map(|sentinel| sentinel.address.to_string());
    let all: Vec<String> = honest.chain([from.to_string()]).collect();
    let all = all.join(",");
    let env = [("CONSUL_REDIS_SENTINELS", all.as_str())];
    let agents = (0..2).map(|number| agent(world, &format!("agent-{number}"), &[], &env)).collect();
    (liar, agents)
}

/// A group with a liar, at rest.
struct LiedTo {
    world: World,
    liar: Liar,
    agents: Vec<Process>,
    first: String,
    before: Record,
    replica: String,
}

async fn at_rest() -> LiedTo {
    let world = world(WorldSpec::default()).await;
    let (liar, agents) = lied_to(&world).await;
    let first = until_writer(&world, "redis", 20, None).await;
    let before = until_in_sync(&world, "redis", 2).await;
    let replica = before.replicas().next().map(ToString::to_string).unwrap();
    LiedTo { world, liar, agents, first, before, replica }
}

/// Each server is what it was: the first leads, and the others follow it.
async fn assert_untouched(world: &World, first: &str, agents: &[Process]) {
    for server in &world.groups[0].redis {
        let of = server.follows().await.unwrap().map(|of| of.to_string());
        let should = (server.address.to_string() != first).then(|| first.to_owned());
        assert_eq!(of, should, "{}\n{}", server.name(), logs(agents));
    }
}

#[tokio::test]
async fn what_one_sentinel_says_of_the_primary_and_of_its_failover_moves_no_name() {
    let LiedTo { mut world, liar, agents, first, before, replica } = at_rest().await;
    for lie in [Lie::Names, Lie::Promotes, Lie::HasPromoted] {
        let lie = lie(replica.clone());
        liar.say(lie.clone());
        tokio::time::sleep(LIES_FOR).await;
        let now = record(&world, "redis").await.unwrap();
        assert_eq!(now.generation, before.generation, "{lie:?}: {}\n{}", now.why, logs(&agents));
        until_named(&world, "redis-primary", std::slice::from_ref(&first)).await;
        assert_untouched(&world, &first, &agents).await;
    }
    // It goes on as all three, by their own votes, elect another one.
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    liar.say(Lie::None);
    until_named(&world, "redis-primary", &[second]).await;
    let after = until_in_sync(&world, "redis", 1).await;
    assert!(after.generation <= before.generation + 2, "{}\n{}", after.generation, logs(&agents));
}

#[tokio::test]
async fn one_sentinel_holds_up_what_is_published_and_no_more() {
    let LiedTo { mut world, liar, agents, first, replica, .. } = at_rest().await;
    // Two writers would be worse than none.
    liar.say(Lie::SaysDown(replica));
    until_record(&world, "redis", 20, "no writer", |record| record.writer.is_none()).await;
    tokio::time::sleep(LIES_FOR).await;
    assert_untouched(&world, &first, &agents).await;
    liar.say(Lie::None);
    assert_eq!(until_writer(&world, "redis", 20, None).await, first, "{}", logs(&agents));
    until_named(&world, "redis-primary", std::slice::from_ref(&first)).await;
    let later = |record: &Record| record.evidence.confirmed_epoch.to_string() == EPOCH;
    liar.say(Lie::Later);
    until_record(&world, "redis", 20, "a later epoch", later).await;
    liar.say(Lie::None);
    assert_untouched(&world, &first, &agents).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 40, Some(&first)).await;
    until_named(&world, "redis-primary", &[second]).await;
}
