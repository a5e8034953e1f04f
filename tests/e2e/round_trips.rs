//! What a small command costs: requests to Consul, and connections to each server. Times on a busy machine say little;
//! on loopback each of these takes a millisecond or less.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consul_redis::core::identity::address::Address;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Fields, text as redis_text};

use crate::support::{agents, run, text, until_in_sync, until_writer, world};

/// How often `status` is run for one count.
const RUNS: usize = 5;
/// Requests to Consul of one `status` of a group: of its keys, its rows, this host's and the former writers' names.
const CONSUL_REQUESTS_MAX: usize = 9;
/// What ends the first line of a request.
const REQUEST: &[u8] = b" HTTP/1.1\r\n";

/// Passes everything on to `to`, and counts the requests, in threads of their own: the commands block ours. They end with
/// the test.
fn counted_requests(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let (answers, asker) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let counter = counter.clone();
            std::thread::spawn(move || pass_on(client, server, &counter));
            std::thread::spawn(move || pass_on(answers, asker, &AtomicUsize::new(0)));
        }
    });
    (at, count)
}

/// Until one side ends; then so does the other.
fn pass_on(mut from: TcpStream, mut to: TcpStream, requests: &AtomicUsize) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let found = buffer[..read].windows(REQUEST.len()).filter(|bytes| *bytes == REQUEST);
        requests.fetch_add(found.count(), Ordering::SeqCst);
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
