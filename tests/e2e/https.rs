//! What an agent answers by HTTPS, and to whom.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};

use crate::certificates::Authority;
use crate::support::{agent, http_address, logs, run, text, until_logged, until_writer, world};

/// The files of an agent's certificate.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(dir: &Path, authority: &Authority) -> Self {
        let files = Self { cert: dir.join("agent.pem"), key: dir.join("agent-key.pem") };
        let (cert, key) = authority.issue(&["127.0.0.1", "localhost"]);
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    fn args(&self) -> [&str; 6] {
        let (cert, key) = (self.cert.to_str().unwrap(), self.key.to_str().unwrap());
        ["--listen", "0.0.0.0:0", "--listen-cert", cert, "--listen-key", key]
    }
}

/// A client that believes one authority, and shows a certificate of another, or none.
fn visitor(believes: &Authority, shows: Option<&Authority>) -> reqwest::Client {
    let pem = std::fs::read(&believes.file).unwrap();
    let roots = reqwest::Certificate::from_pem_bundle(&pem).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only(roots);
    let builder = match shows {
        Some(authority) => {
            let (cert, key) = authority.issue(&["prometheus"]);
            let identity = reqwest::Identity::from_pem((cert + &key).as_bytes()).unwrap();
            builder.identity(identity)
        }
        None => builder,
    };
    builder.build().unwrap()
}

async fn started(world: &World, name: &str, args: &[&str]) -> (Process, String) {
    let running = agent(world, name, args, &[]);
    let url = http_address(&running).await.replace("0.0.0.0", "127.0.0.1");
    assert!(url.starts_with("https://"), "{url}");
    (running, url)
}

/// The status of each path in turn.
async fn codes<const N: usize>(
    visitor: &reqwest::Client,
    url: &str,
    token: Option<&str>,
    paths: [&str; N],
) -> [u16; N] {
    let mut codes = [0; N];
    for (path, code) in paths.into_iter().zip(&mut codes) {
        let mut request = visitor.get(format!("{url}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        *code = request.send().await.unwrap().status().as_u16();
    }
    codes
}

const CLOSED: [&str; 4] = ["/", "/status.json", "/metrics", "/events"];
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/primary"];

/// It is drawn up at most 100 ms after it is so.
async fn until_open(visitor: &reqwest::Client, url: &str) {
    until("what is open to all is well", Duration::from_secs(10), || async {
        let codes = codes(visitor, url, None, OPEN).await;
        if codes == [200; 3] { Ok(()) } else { Err(LabError(format!("{codes:?}"))) }
    })
    .await
    .unwrap();
}

fn small() -> WorldSpec {
    WorldSpec { redis: 1, ..WorldSpec::default() }
}

#[tokio::test]
async fn a_client_certificate_opens_what_a_token_opens() {
    let world = world(small()).await;
    let (ours, other) = (Authority::new(world.dir(), "ours"), Authority::new(world.dir(), "other"));
    let files = Files::new(world.dir(), &ours);
    let (ca, token) = (ours.file.to_str().unwrap(), world.dir().join("token"));
    std::fs::write(&token, "open sesame\n").unwrap();
    let asks = [&files.args()[..], &["--listen-client-ca", ca]].concat();
    let (_alone, url) = started(&world, "agent-0", &asks).await;
    until_writer(&world, "redis", 20, None).await;
    let (anonymous, known) = (visitor(&ours, None), visitor(&ours, Some(&ours)));
    assert_eq!(codes(&anonymous, &url, None, CLOSED).await, [401; 4]);
    assert_eq!(
        codes(&anonymous, &url, Some("open sesame"), CLOSED).await,
        [401; 4],
        "there is none"
    );
    until_open(&anonymous, &url).await;
    assert_eq!(codes(&known, &url, None, CLOSED).await, [200; 4]);
    // One of another authority is not even let ask what is open to all.
    let stranger = visitor(&ours, Some(&other));
    let refused = stranger.get(format!("{url}/healthz")).send().await;
    assert!(refused.is_err(), "{refused:?}");
    // The page's own rules go with every answer.
    let answer = known.get(&url).send().await.unwrap();
    assert!(answer.headers().contains_key("content-security-policy"), "{answer:?}");
    assert!(answer.text().await.unwrap().contains("<html"));

    // Where both are asked for, either is enough.
    let asks = [&asks[..], &["--listen-token-file", token.to_str().unwrap()]].concat();
    let (_both, url) = started(&world, "agent-1", &asks).await;
    until_open(&anonymous, &url).await;
    assert_eq!(codes(&anonymous, &url, None, CLOSED).await, [401; 4]);
    assert_eq!(codes(&anonymous, &url, Some("open sesame"), CLOSED).await, [200; 4]);
    assert_eq!(codes(&anonymous, &url, Some("open sesam"), CLOSED).await, [401; 4]);
    assert_eq!(codes(&known, &url, None, CLOSED).await, [200; 4]);
    // Who believes in another authority asks nothing.
    let wary = visitor(&other, None).get(format!("{url}/healthz")).send().await;
    assert!(wary.is_err(), "{wary:?}");
}

#[tokio::test]
async fn a_renewed_certificate_needs_no_restart() {
    let world = world(small()).await;
    let (old, new) = (Authority::new(world.dir(), "old"), Authority::new(world.dir(), "new"));
    let ca = world.dir().join("clients.pem");
    std::fs::copy(&old.file, &ca).unwrap();
    let files = Files::new(world.dir(), &old);
    let args = [&files.args()[..], &["--listen-client-ca", ca.to_str().unwrap()]].concat();
    let (running, url) = started(&world, "agent", &args).await;
    // A connection is kept open, and a new one is wanted each time.
    let asks = |believes: &Authority, shows: &Authority| {
        let request = visitor(believes, Some(shows)).get(format!("{url}/status.json"));
        async move { request.send().await.ok().map(|answer| answer.status().as_u16()) }
    };
    assert_eq!(asks(&old, &old).await, Some(200));
    assert_eq!(asks(&new, &old).await, None);
    // Half of it is of no use yet.
    let (cert, key) = new.issue(&["127.0.0.1"]);
    std::fs::write(&files.cert, cert).unwrap();
    assert_eq!(asks(&old, &old).await, Some(200), "{}", running.log());
    let log = running.log();
    assert!(log.contains("the certificates stay as they were: "), "{log}");
    std::fs::write(&files.key, key).unwrap();
    assert_eq!(asks(&new, &old).await, Some(200), "{}", running.log());
    assert_eq!(asks(&old, &old).await, None, "the old one is gone");
    // The authority of the visitors is renewed in the same way.
    assert_eq!(asks(&new, &new).await, None);
    std::fs::copy(&new.file, &ca).unwrap();
    assert_eq!(asks(&new, &new).await, Some(200), "{}", running.log());
    assert_eq!(asks(&new, &old).await, None, "no client believes it any more");
}

#[tokio::test]
async fn a_handshake_that_hangs_keeps_anonymous_waiting() {
    let world = world(small()).await;
    let ours = Authority::new(world.dir(), "ours");
    let files = Files::new(world.dir(), &ours);
    let token = world.dir().join("token");
    std::fs::write(&token, "open sesame\n").unwrap();
    let args = [&files.args()[..], &["--listen-token-file", token.to_str().unwrap()]].concat();
    let (running, url) = started(&world, "agent", &args).await;
    let address = url.trim_start_matches("https://").to_owned();
    let mut silent: Vec<std::net::TcpStream> =
        (0..20).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    // The client has no certificate to show, and the token is asked for.
    let anonymous = visitor(&ours, None);
    let asked = async {
        assert_eq!(codes(&anonymous, &url, None, ["/healthz", "/status.json"]).await, [200, 401]);
        assert_eq!(codes(&anonymous, &url, Some("open sesame"), CLOSED).await, [200; 4]);
    };
    tokio::time::timeout(Duration::from_secs(3), asked).await.unwrap();
    // Who speaks plain HTTP is not answered.
    let plain = reqwest::get(format!("http://{address}/healthz")).await;
    assert!(plain.is_err(), "{plain:?}");
    let mut last = silent.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let read = tokio::task::spawn_blocking(move || last.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap(), 0, "hung up on after 5 s: {}", logs(&[running]));
}

#[tokio::test]
async fn what_cannot_be_read_is_reported_at_the_start() {
    let world = world(small()).await;
    let ours = Authority::new(world.dir(), "ours");
    let files = Files::new(world.dir(), &ours);
    let [_, _, _, cert, _, key] = files.args();
    for (cert, key, why) in [
        ("/no/such/cert.pem", key, "cannot read /no/such/cert.pem: "),
        (cert, ours.file.to_str().unwrap(), "cannot read "),
        (key, key, "cannot speak TLS on 127.0.0.1:0: "),
    ] {
        let args = ["agent", "--listen", "127.0.0.1:0", "--listen-cert", cert, "--listen-key", key];
        let refused = run(&world, &args, &[]);
        assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
        assert!(text(&refused).contains(why), "{}", text(&refused));
        assert!(text(&refused).contains("hint: --listen-cert"), "{}", text(&refused));
    }
}

/// What `status` says, with Consul away, of the agent that its config names.
async fn until_told(world: &World, env: &[(&str, &str)], wanted: &str) {
    let said = || async {
        let said = text(&run(world, &["status"], env));
        if said.contains(wanted) { Ok(()) } else { Err(LabError(said)) }
    };
    until(wanted, Duration::from_secs(20), said).await.unwrap();
}

#[tokio::test]
async fn status_asks_an_agent_that_speaks_tls_while_consul_is_away_or_says_why_not() {
    let mut world = world(small()).await;
    let (ours, other) = (Authority::new(world.dir(), "ours"), Authority::new(world.dir(), "other"));
    let (ca, other_ca) = (ours.file.to_str().unwrap(), other.file.to_str().unwrap());
    let files = Files::new(world.dir(), &ours);
    let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
    let token = world.dir().join("token");
    std::fs::write(&token, "open sesame\n").unwrap();
    let token = token.to_str().unwrap();
    let at = world.address();
    let ports = consul_redis::lab::world::free_ports(&[at], 3).unwrap();
    let listen: Vec<String> = ports.iter().map(|port| format!("{at}:{port}")).collect();
    let asks = [
        ("CONSUL_REDIS_LISTEN_TOKEN_FILE", token),
        ("CONSUL_REDIS_LISTEN_CLIENT_CA", ca),
        ("CONSUL_REDIS_LISTEN_CLIENT_CA", other_ca),
    ];
    let env = |index: usize| {
        [
            ("CONSUL_REDIS_LISTEN", listen[index].as_str()),
            ("CONSUL_REDIS_LISTEN_CERT", cert),
            ("CONSUL_REDIS_LISTEN_KEY", key),
            asks[index],
        ]
    };
    let running: Vec<Process> =
        (0..3).map(|index| agent(&world, &format!("agent-{index}"), &[], &env(index))).collect();
    let writer = until_writer(&world, "redis", 20, None).await;
    for agent in &running {
        let url = http_address(agent).await;
        assert!(url.starts_with("https://"), "{url}");
        // The one that is asked has read what is published.
        until_logged(|| agent.log(), 20, &writer, 1).await;
    }
    world.consul.kill();
    for index in 0..2 {
        until_told(&world, &env(index), &format!("/status.json, last read: {writer}, ")).await;
    }
    until_told(&world, &env(2), "it lets in certificates of its client_ca, and refuses its own")
        .await;
    // An agent of another config, or another program, at its address.
    let (theirs, their_key) = (world.dir().join("theirs.pem"), world.dir().join("theirs-key.pem"));
    let (pem, pem_key) = other.issue(&["127.0.0.1"]);
    std::fs::write(&theirs, pem).unwrap();
    std::fs::write(&their_key, pem_key).unwrap();
    let mut wrong = env(0);
    wrong[1].1 = theirs.to_str().unwrap();
    wrong[2].1 = their_key.to_str().unwrap();
    until_told(&world, &wrong, "it shows another certificate than the config names").await;
    drop(running);
    until_told(&world, &env(0), "was not asked: it does not run").await;
}
