//! What a small command costs: requests to Consul, and connections to each server. Times on a busy machine say little;
//! on loopback each of these takes a millisecond or less.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use consul_redis::core::identity::address::Address;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Fields, text as redis_text};

use crate::support::{agents, logs, program, run, text, until_in_sync, until_writer, world};

/// How often `status` is run for one count.
const RUNS: usize = 5;
/// Requests to Consul of one `status` of a group: of its keys, its rows, this host's and the former writers' names, and of
/// the agents that share it.
const CONSUL_REQUESTS_MAX: usize = 10;
/// What ends the first line of a request.
const REQUEST: &[u8] = b" HTTP/1.1\r\n";

/// Passes everything on to `to`, and counts the requests.
fn counted_requests(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let at = passed_on(to, move |sent| {
        let found = sent.windows(REQUEST.len()).filter(|bytes| *bytes == REQUEST);
        counter.fetch_add(found.count(), Ordering::SeqCst);
    });
    (at, count)
}

/// Passes everything on to `to`, after it was shown what is sent, in threads of their own: the commands block ours. They
/// end with the test.
fn passed_on(to: SocketAddr, sees: impl Fn(&[u8]) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let (answers, asker) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let sees = sees.clone();
            std::thread::spawn(move || pass_on(client, server, sees));
            std::thread::spawn(move || pass_on(answers, asker, |_| ()));
        }
    });
    at
}

/// Until one side ends; then so does the other.
fn pass_on(mut from: TcpStream, mut to: TcpStream, sees: impl Fn(&[u8])) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        sees(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// How many connections each server has ever taken, the one for this question included.
async fn connections(world: &World) -> BTreeMap<Address, u64> {
    let mut all = BTreeMap::new();
    let servers: Vec<&LabServer> = world.groups[0].redis.iter().chain(&world.sentinels).collect();
    for server in servers {
        let info = server.ask(&["INFO", "stats"]).await.unwrap();
        let info = redis_text(&info).unwrap();
        let info = Fields::of_info(&info);
        all.insert(
            server.address.clone(),
            info.get("total_connections_received").unwrap().parse().unwrap(),
        );
    }
    all
}

#[tokio::test]
async fn status_asks_each_server_once_and_consul_a_few_times() {
    let world = world(WorldSpec::default()).await;
    let watching = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    // What agents ask is not counted: the record stays without them.
    drop(watching);
    let (at, requests) = counted_requests(world.consul.http);
    let address = at.to_string();
    let before = connections(&world).await;
    for _ in 0..RUNS {
        let status = run(&world, &["status"], &[("CONSUL_HTTP_ADDR", &address)]);
        assert!(text(&status).contains("now named by 3 of 3 Sentinels"), "{}", text(&status));
    }
    let after = connections(&world).await;
    let asked = requests.load(Ordering::SeqCst);
    assert!(asked >= RUNS, "Consul is asked through the counter: {asked}");
    assert!(asked <= CONSUL_REQUESTS_MAX * RUNS, "{asked} requests to Consul of {RUNS} looks");
    for (server, before) in before {
        // Without the one of the second question. A server that stood still may have lost others, which come back: less
        // than one a look.
        let taken = usize::try_from(after[&server] - before - 1).unwrap();
        assert!((RUNS..2 * RUNS).contains(&taken), "{server}: {taken} connections of {RUNS} looks");
    }
}

/// The first question that has this in it waits until the sender of the channel says so, or is gone. The other channel
/// hears of it.
fn held_at(
    to: SocketAddr,
    question: &'static [u8],
) -> (SocketAddr, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (asked, hears) = mpsc::channel();
    let (lets_go, held) = mpsc::channel();
    let gate = Arc::new(Mutex::new(Some((asked, held))));
    let at = passed_on(to, move |sent| {
        if !sent.windows(question.len()).any(|bytes| bytes == question) {
            return;
        }
        let first = gate.lock().unwrap().take();
        if let Some((asked, held)) = first {
            asked.send(()).unwrap();
            let _ = held.recv();
        }
    });
    (at, hears, lets_go)
}

/// What is published and what Consul shows of it are two questions. A replica that dies between them is a change, and no
/// sign that Consul shows anything else than what was published.
#[tokio::test]
async fn what_changes_between_two_questions_is_not_called_a_difference() {
    let mut world = world(WorldSpec::default()).await;
    let watching = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let (at, asked, lets_go) = held_at(world.consul.http, b"GET /v1/catalog/service/redis-primary");
    let mut status = std::process::Command::new(program());
    status.arg("status").envs(world.agent_env()).env("CONSUL_HTTP_ADDR", at.to_string());
    let status = std::thread::spawn(move || status.output().expect("the program runs"));
    tokio::task::spawn_blocking(move || asked.recv().expect("the rows are asked for"))
        .await
        .unwrap();
    drop(world.groups[0].redis.pop());
    until_in_sync(&world, "redis", 1).await;
    lets_go.send(()).unwrap();
    let status =
        tokio::task::spawn_blocking(move || status.join().expect("it ends")).await.unwrap();
    let said = text(&status);
    assert!(!said.contains("not what was published"), "{said}{}", logs(&watching));
    assert!(said.contains("generation 1"), "{said}");
}
