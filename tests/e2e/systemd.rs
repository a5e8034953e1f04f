//! The notifications that a service manager gets.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{WorldSpec, free_port};
use nix::sys::signal::Signal;

use crate::support::{agent, until_writer, world};

/// Where a service manager listens.
fn manager(dir: &Path) -> (String, UnixDatagram) {
    let path = dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    (path.display().to_string(), socket)
}

/// Takes what has come by now.
fn hear(socket: &UnixDatagram, heard: &mut Vec<String>) {
    let mut buffer = [0; 4_096];
    while let Ok(len) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        heard.extend(text.lines().map(str::to_owned));
    }
}

async fn until_heard(
    socket: &UnixDatagram,
    heard: &Mutex<Vec<String>>,
    what: String,
    times: usize,
) {
    until(&what, Duration::from_secs(10), || async {
        let mut heard = heard.lock().unwrap();
        hear(socket, &mut heard);
        let count = heard.iter().filter(|line| line.starts_with(&what)).count();
        if count >= times { Ok(()) } else { Err(LabError(format!("{heard:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn systemd_hears_when_the_agent_is_ready_what_it_sees_and_that_it_lives() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = manager(dir.path());
    let env = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000")];
    let mut running = agent(&world, "agent-0", &[], &env);
    let writer = until_writer(&world, "redis", 20, None).await;
    let heard = Mutex::new(Vec::new());
    let until_heard = |what: String, times: usize| until_heard(&socket, &heard, what, times);
    until_heard("READY=1".to_owned(), 1).await;
    until_heard("STATUS=waiting for Consul at http://".to_owned(), 1).await;
    until_heard(format!("STATUS=redis: writer {writer}, generation 1"), 1).await;
    until_heard("WATCHDOG=1".to_owned(), 3).await;
    running.signal(Signal::SIGHUP).unwrap();
    until_heard("RELOADING=1".to_owned(), 1).await;
    until_heard("MONOTONIC_USEC=".to_owned(), 1).await;
    until_heard("READY=1".to_owned(), 2).await;
    let at = |what: &str| heard.lock().unwrap().iter().rposition(|line| line == what);
    assert!(at("RELOADING=1") < at("READY=1"), "{heard:?}");
    running.signal(Signal::SIGTERM).unwrap();
    until_heard("STOPPING=1".to_owned(), 1).await;
    assert_eq!(running.end(Duration::from_secs(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn an_agent_that_waits_for_consul_is_up_and_alive() {
    let world = world(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = manager(dir.path());
    let silent = format!("127.0.0.1:{}", free_port(&[Ipv4Addr::LOCALHOST]).unwrap());
    let env = [
        ("NOTIFY_SOCKET", path.as_str()),
        ("WATCHDOG_USEC", "1000000"),
        ("CONSUL_HTTP_ADDR", silent.as_str()),
    ];
    let _running = agent(&world, "agent-0", &[], &env);
    let heard = Mutex::new(Vec::new());
    for (what, times) in
        [("READY=1", 1), ("STATUS=waiting for Consul at http://127.0.0.1:", 1), ("WATCHDOG=1", 4)]
    {
        until_heard(&socket, &heard, what.to_owned(), times).await;
    }
}
