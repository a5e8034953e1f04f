//! The name itself: what DNS answers is held against what is published.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use consul_redis::core::published::record::Level;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::support::{
    agent, agents, counted, get, history, http_address, on_one_and_three_servers, run, text,
    until_in_sync, until_metric, until_writer, world,
};

on_one_and_three_servers!(
    a_switch_is_followed_into_dns_and_timed,
    a_switch_at_level_quorum_is_timed_to_its_end_as_well,
);

const NAME: &str = "redis-primary.service.consul";

/// An agent that asks this DNS server, and where it answers.
async fn asking(world: &World, server: SocketAddr) -> (Process, String) {
    let args = ["--listen", "127.0.0.1:0", "--dns", &server.to_string()];
    let running = agent(world, "agent", &args, &[]);
    let url = http_address(&running).await;
    (running, url)
}

fn metric(name: &str, server: SocketAddr) -> String {
    format!("consul_redis_{name}{{group=\"redis\",server=\"{server}\"}}")
}

/// `status`, asking this DNS server: its exit code and what it says.
fn status(world: &World, server: &str, more: &[&str]) -> (Option<i32>, String) {
    let args = [&["status", "--dns", server], more].concat();
    let output = run(world, &args, &[]);
    (output.status.code(), text(&output))
}

async fn a_switch_is_followed_into_dns_and_timed(consul_servers: u8) {
    let mut world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let dns = world.consul.dns;
    let (running, url) = asking(&world, dns).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_metric(&url, &format!("{} 0.0", metric("dns_wrong", dns))).await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;
    let (code, said) = status(&world, &dns.to_string(), &[]);
    assert_eq!(code, Some(0), "{said}");

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    let timed = metric("promotion_to_dns_seconds_count", dns);
    until_metric(&url, &format!("{timed} 1")).await;
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    let taken = counted(&all, &timed.replace("_count{", "_sum{"));
    let published = "consul_redis_promotion_to_published_seconds_sum{group=\"redis\"}";
    assert!(taken >= counted(&all, published) && taken < 5.0, "{taken} s\n{all}");
    let line = format!("redis: DNS at {dns} answers {second}, generation 3, ");
    assert!(running.log().contains(&line), "{}", running.log());

    // The confirmation has written down when it was seen, or a moment later what was seen after it was decided.
    let timeline = until("the history", Duration::from_secs(10), || async {
        let history = history(&world).await?;
        let change = history.first().ok_or_else(|| LabError::new("no history"))?;
        let timeline = change.timeline.clone();
        let whole = timeline.confirmed.and(timeline.in_dns).map(|_| timeline);
        whole.ok_or_else(|| LabError(format!("{history:?}")))
    });
    let timeline = timeline.await.unwrap();
    let (promoted, seen) = (timeline.promoted.unwrap(), timeline.in_dns.unwrap());
    assert!(promoted <= seen && promoted <= timeline.confirmed.unwrap(), "{timeline:?}");
}

async fn a_switch_at_level_quorum_is_timed_to_its_end_as_well(consul_servers: u8) {
    let mut world = world(WorldSpec { consul_servers, ..WorldSpec::default() }).await;
    let dns = world.consul.dns.to_string();
    let _running = agents(&world, 2, &["--publish", "quorum", "--dns", &dns]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    let change = until("the history", Duration::from_secs(15), || async {
        let history = history(&world).await?;
        let change = history.first().filter(|change| change.timeline.in_dns.is_some());
        change.cloned().ok_or_else(|| LabError(format!("{history:?}")))
    });
    let change = change.await.unwrap();
    assert_eq!((change.level, change.timeline.confirmed), (Some(Level::Quorum), Some(change.at)));
    let taken = change.timeline.in_dns.unwrap().duration_since(change.at).as_millis();
    assert!((0..5_000).contains(&taken), "{taken} ms");
    // The first writer of all as well.
    let history = history(&world).await.unwrap();
    assert!(history.last().unwrap().timeline.in_dns.is_some(), "{history:?}");
}

#[tokio::test]
async fn another_program_under_the_same_name_is_reported_until_it_is_gone() {
    let world = world(WorldSpec { redis: 1, ..WorldSpec::default() }).await;
    let dns = world.consul.dns;
    let (running, url) = asking(&world, dns).await;
    until_writer(&world, "redis", 20, None).await;
    until_metric(&url, &format!("{} 0.0", metric("dns_wrong", dns))).await;

    let client = world.consul.client().unwrap();
    let body = serde_json::json!({
        "Name": "redis-primary", "ID": "theirs", "Address": "10.9.9.9", "Port": 6379,
    });
    client.put("/v1/agent/service/register", &[], Some(&body)).await.unwrap();
    // Within a minute, or on SIGHUP.
    running.signal(Signal::SIGHUP).unwrap();
    until_metric(&url, "consul_redis_problem{group=\"redis\",code=\"dns-wrong\"} 1.0").await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 0.0").await;
    until_metric(&url, &format!("{} 1.0", metric("dns_wrong", dns))).await;
    let (code, said) = status(&world, &dns.to_string(), &["--json"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("\"dns-wrong\"") && said.contains("10.9.9.9"), "{said}");
    // Without the check, what the DNS answers is not reported; that another node has the name is.
    let (code, said) = status(&world, &dns.to_string(), &["--dns-check=false"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is published by another node") && !said.contains("10.9.9.9"), "{said}");

    client.put("/v1/agent/service/deregister/theirs", &[], None).await.unwrap();
    until_metric(&url, "consul_redis_problem{group=\"redis\",code=\"dns-wrong\"} 0.0").await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;
    until_metric(&url, &format!("{} 0.0", metric("dns_stale_seconds", dns))).await;
    let log = running.log();
    let wrong = log.matches(&format!("DNS at {dns} answers ")).count();
    assert!(
        wrong >= 2 && log.contains(&format!("for {NAME}")),
        "said when it began and ended\n{log}"
    );
}

/// A DNS server that answers for [`NAME`] what the test set last, whatever Consul says: one that lags behind.
struct Lagging {
    address: SocketAddr,
    answer: watch::Sender<Option<(Ipv4Addr, u16)>>,
}

impl Lagging {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (answer, told) = watch::channel(None);
        // A thread, for it answers while the test waits for a command to end.
        std::thread::spawn(move || {
            let mut question = [0; 512];
            loop {
                let (len, from) = socket.recv_from(&mut question).unwrap();
                let Ok(question) = Message::from_vec(&question[..len]) else { continue };
                let reply = reply(&question, *told.borrow()).to_vec().unwrap();
                socket.send_to(&reply, from).unwrap();
            }
        });
        Self { address, answer }
    }

    fn tell(&self, writer: &str) {
        let writer: SocketAddr = writer.parse().unwrap();
        let IpAddr::V4(ip) = writer.ip() else { panic!("{writer}") };
        self.answer.send_replace(Some((ip, writer.port())));
    }
}

fn reply(question: &Message, told: Option<(Ipv4Addr, u16)>) -> Message {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    let query = question.queries.first().unwrap();
    reply.add_query(query.clone());
    let name = query.name().clone();
    assert_eq!(name.to_utf8().trim_end_matches('.'), NAME);
    match (told, query.query_type()) {
        (Some((ip, _)), RecordType::A) => {
            reply.add_answer(Record::from_rdata(name, 0, RData::A(A(ip))));
        }
        (Some((_, port)), RecordType::SRV) => {
            let target = Name::from_ascii("lagging.node.dc1.consul.").unwrap();
            reply.add_answer(Record::from_rdata(name, 0, RData::SRV(SRV::new(1, 1, port, target))));
        }
        (Some(_), _) => {}
        (None, _) => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply
}

#[tokio::test]
async fn a_server_that_lags_is_named_with_the_age_of_its_answer() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let lagging = Lagging::start();
    let (running, url) = asking(&world, lagging.address).await;
    let first = until_writer(&world, "redis", 20, None).await;
    lagging.tell(&first);
    until_metric(&url, &format!("{} 0.0", metric("dns_wrong", lagging.address))).await;
    until_in_sync(&world, "redis", 1).await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until_metric(&url, "consul_redis_problem{group=\"redis\",code=\"dns-wrong\"} 1.0").await;
    let (code, said) = status(&world, &lagging.address.to_string(), &[]);
    assert_eq!(code, Some(2), "{said}");
    let text = format!("DNS at {} answers {first} for {NAME}, ", lagging.address);
    assert!(said.contains(&text) && said.contains(" s out of date: "), "{said}");
    assert!(running.log().contains(&text), "{}", running.log());
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    let stale = counted(&all, &metric("dns_stale_seconds", lagging.address));
    assert!(stale >= 2.0, "{stale} s\n{all}");

    lagging.tell(&second);
    until_metric(&url, "consul_redis_problem{group=\"redis\",code=\"dns-wrong\"} 0.0").await;
    let timed = metric("promotion_to_dns_seconds_count", lagging.address);
    until_metric(&url, &format!("{timed} 1")).await;
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    let taken = counted(&all, &timed.replace("_count{", "_sum{"));
    assert!(taken >= 2.0, "{taken} s: it was wrong for longer than a moment\n{all}");
}

#[tokio::test]
async fn a_server_that_is_named_must_answer_and_for_this_domain() {
    let world = world(WorldSpec { redis: 1, ..WorldSpec::default() }).await;
    let _running = agent(&world, "agent", &[], &[]);
    until_writer(&world, "redis", 20, None).await;
    let dns = world.consul.dns.to_string();
    until("all is well", Duration::from_secs(20), || async {
        let (code, said) = status(&world, &dns, &[]);
        if code == Some(0) { Ok(()) } else { Err(LabError(said)) }
    })
    .await
    .unwrap();
    // No server answers DNS at port 8600 here, and the config names none.
    let output = run(&world, &["status"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let closed = SocketAddr::new(world.consul.dns.ip(), 9).to_string();
    let (code, said) = status(&world, &closed, &["--json"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("\"dns-silent\"") && said.contains(&closed), "{said}");
    assert!(said.contains("onnection refused"), "it was not waited for\n{said}");
    let (code, said) = status(&world, &dns, &["--dns-domain", "example.com", "--json"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("\"dns-silent\""), "{said}");
    assert!(said.contains("redis-primary.service.example.com"), "{said}");
}
