//! The status page, as a browser shows it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use consul_redis::clock::Clock;
use consul_redis::config::HttpConfig;
use consul_redis::core::address::GroupName;
use consul_redis::core::record::{Change, PublishedRole, Timeline};
use consul_redis::core::status::{GroupStatus, InstanceStatus, ProblemCode, SentinelStatus};
use consul_redis::http::{Drawn, STREAMS_MAX, Server};
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use consul_redis::meter::{Counters, Meter};
use consul_redis::secret::SecretSource;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::browser::Browser;
use crate::support::{
    agent, get, http_address, run, until_in_sync, until_metric, until_writer, world,
};

/// Where to put pictures of the page, if anywhere: `make pictures`.
const PICTURES: &str = "CONSUL_REDIS_PICTURES";
/// Those that the README shows.
const KEPT: [&str; 3] = ["status-light", "status-dark", "phone-dark"];
/// How much of the page is on them, in CSS pixels, and how large they may be, in bytes.
const PICTURE_HEIGHT_MAX: u32 = 1_200;
const PICTURE_LEN_MAX: usize = 150_000;
/// A phone, and a desk.
const PHONE: (u32, u32) = (360, 740);
const DESK: (u32, u32) = (1120, 900);
/// What the page shows, as text.
const TEXT: &str = "return document.body.innerText";
/// How wide the page is beyond its window.
const OVERFLOW: &str =
    "return document.documentElement.scrollWidth - document.documentElement.clientWidth";

async fn answer(url: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = reqwest::Client::new().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.text().await.unwrap())
}

fn keep_picture(name: &str, picture: &[u8]) {
    assert!(picture.len() > 10_000, "{name} is blank");
    assert!(picture.len() < PICTURE_LEN_MAX, "{name} is too large for the repository");
    let Some(dir) = std::env::var_os(PICTURES).filter(|_| KEPT.contains(&name)) else { return };
    std::fs::write(Path::new(&dir).join(format!("{name}.png")), picture).unwrap();
}

fn shows(text: &str) -> String {
    format!("return document.body.innerText.includes({})", json!(text))
}

#[tokio::test]
async fn a_failover_is_seen_without_a_reload() {
    let mut world = world(WorldSpec::default()).await;
    let dns = world.consul.dns.to_string();
    let mut running = agent(&world, "agent", &["--listen", "127.0.0.1:0", "--dns", &dns], &[]);
    let url = http_address(&running).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;

    let browser = Browser::start(world.dir()).await;
    browser.look(DESK.0, DESK.1, "light").await;
    // What it does before it has anything to do with us.
    browser.requested().await;
    browser.open(&format!("{url}/")).await;
    let writer = |address: &str| {
        format!("return document.querySelector('.writer')?.textContent === {}", json!(address))
    };
    browser.until("the writer is shown", &writer(&first), TEXT).await;
    browser.until("it is well", &shows("✓ healthy"), TEXT).await;
    // Gone if the page were loaded again.
    browser.run("window.sameAsBefore = true").await;

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    browser.until("the new writer is shown", &writer(&second), TEXT).await;
    browser.until("a majority has followed", &shows("Majority has followed"), TEXT).await;
    browser.until("it was seen in DNS", &shows("Seen in DNS"), TEXT).await;
    assert_eq!(browser.run("return window.sameAsBefore").await, json!(true));
    let said = browser.run("return document.getElementById('news').textContent").await;
    assert!(said.as_str().unwrap().contains("redis"), "nobody who does not see it is told: {said}");
    let steps = browser
        .run("return [...document.querySelectorAll('.steps')][0].innerText.split('\\n')")
        .await
        .to_string();
    let order = ["agreed: down", "withdrawn", "chosen", "says it is the primary", "Published"];
    let places: Vec<usize> = order.iter().map(|step| steps.find(step).expect(step)).collect();
    assert!(places.is_sorted(), "{steps}");
    let drawn = browser.run("return document.querySelector('.drawing svg').textContent").await;
    let drawn = drawn.as_str().unwrap();
    for shown in [&first, &second] {
        assert!(drawn.contains(shown.as_str()), "{shown} is not drawn: {drawn}");
    }
    assert!(drawn.contains("down"), "{drawn}");

    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    let back = "return document.querySelectorAll('.drawing .box.is-good').length === 5";
    browser.until("two replicas and three Sentinels are well", back, TEXT).await;
    browser.until("and so is all", &shows("✓ healthy"), TEXT).await;
    looks_good(&browser).await;
    can_be_reached_by_keys(&browser).await;

    for asked in browser.requested().await {
        let own = asked.starts_with(&url) || asked.starts_with("data:");
        assert!(own, "asked for {asked}");
    }
    assert_eq!(browser.console().await, [""; 0]);
    // An agent that stops is not kept by those who look on, and the page says so.
    running.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(running.end(Duration::from_secs(5)).await.unwrap(), 0);
    browser.until("it is not live", &shows("Not connected to the agent."), TEXT).await;
    browser.close().await;
}

/// On a desk and on a phone, dark and light.
async fn looks_good(browser: &Browser) {
    let mut grounds = Vec::new();
    for colours in ["light", "dark"] {
        for (name, (width, height)) in [("status", DESK), ("phone", PHONE)] {
            browser.look(width, height, colours).await;
            let drawn = format!(
                "return document.querySelector('.drawing svg').viewBox.baseVal.width < {width}"
            );
            browser.until("it is drawn anew", &drawn, TEXT).await;
            assert_eq!(browser.run(OVERFLOW).await, json!(0), "{name}, {width} px");
            let cut = "return [...document.querySelectorAll('td, th, p, li, summary')]\
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)\
                .map(e => e.textContent)";
            assert_eq!(browser.run(cut).await, json!([]), "beyond the window of {width} px");
            keep_picture(&format!("{name}-{colours}"), &browser.picture(PICTURE_HEIGHT_MAX).await);
        }
        let ground = "return getComputedStyle(document.body).backgroundColor";
        grounds.push(browser.run(ground).await);
    }
    assert_ne!(grounds[0], grounds[1], "dark is as light");
    browser.look(DESK.0, DESK.1, "light").await;
}

/// The Tab key leads through all that can be used, in the order in which it stands.
async fn can_be_reached_by_keys(browser: &Browser) {
    browser.run("document.activeElement.blur(); scrollTo(0, 0)").await;
    let mut reached = Vec::new();
    for _ in 0..12 {
        browser.tab().await;
        let text = browser.run("return document.activeElement.textContent.slice(0, 20)").await;
        let seen = browser.run("return document.activeElement.matches(':focus-visible')").await;
        assert_eq!(seen, json!(true), "nobody sees that it has the focus: {text}");
        reached.push(text.as_str().unwrap().to_owned());
        if reached.last().is_some_and(|text| text == "Metrics") {
            break;
        }
    }
    assert_eq!(reached.first().unwrap(), "Skip to the groups", "{reached:?}");
    assert!(reached.iter().any(|text| text.starts_with("Generation 1:")), "{reached:?}");
    assert_eq!(reached.last().unwrap(), "Metrics", "{reached:?}");
    let missing = browser
        .run(
            "return ['main', 'header', 'footer', 'h1', 'section[aria-labelledby]', '[aria-live]', \
             'svg[role=img][aria-label]', 'table caption', 'html[lang]']\
             .filter(wanted => !document.querySelector(wanted))",
        )
        .await;
    assert_eq!(missing, json!([]), "what a screen reader needs");
}

#[tokio::test]
async fn what_is_served_is_kept_in_and_the_same_as_status_says() {
    let world = world(WorldSpec::default()).await;
    let dns = world.consul.dns.to_string();
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0", "--dns", &dns], &[]);
    let url = http_address(&running).await;
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/status.json", "application/json"),
    ] {
        let (status, headers, body) = answer(&format!("{url}{path}"), &[]).await;
        assert_eq!((status, &headers["content-type"]), (200, &kind.parse().unwrap()), "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert!(!body.is_empty(), "{path}");
    }
    // Another site's name that leads here, as it may be made to.
    let foreign = [("host", "evil.example")];
    for path in ["/", "/status.json", "/events"] {
        assert_eq!(answer(&format!("{url}{path}"), &foreign).await.0, 421, "{path}");
    }

    // What the two see of offsets and lag differs by the moment; nothing else does.
    let still = |text: &str| {
        let mut all: Value = serde_json::from_str(text).unwrap();
        for instance in all[0]["instances"].as_array_mut().unwrap() {
            for moving in ["offset", "behind_bytes", "lag_s"] {
                assert!(instance.as_object_mut().unwrap().remove(moving).is_some(), "{moving}");
            }
        }
        all
    };
    let said = run(&world, &["status", "--json", "--dns", &dns], &[]);
    let shown = get(&format!("{url}/status.json"), None).await.unwrap().1;
    assert_eq!(still(&shown), still(&String::from_utf8(said.stdout).unwrap()));
}

#[tokio::test]
async fn a_browser_gives_the_token_as_a_password() {
    let world = world(WorldSpec { redis: 1, ..WorldSpec::default() }).await;
    let token = world.dir().join("token");
    std::fs::write(&token, "open-sesame\n").unwrap();
    let args = ["--listen", "0.0.0.0:0", "--listen-token-file", token.to_str().unwrap()];
    let running = agent(&world, "agent", &args, &[]);
    let url = http_address(&running).await.replace("0.0.0.0", "127.0.0.1");
    for path in ["/", "/page.js", "/page.css", "/icon.svg", "/status.json", "/events"] {
        let (status, headers, body) = answer(&format!("{url}{path}"), &[]).await;
        assert_eq!(status, 401, "{path}");
        let asks: Vec<_> = headers.get_all("www-authenticate").iter().collect();
        assert_eq!(asks.len(), 2, "{asks:?}");
        assert!(headers.contains_key("content-security-policy"), "{path}");
        assert!(!body.contains("127.0.0.1"), "{body}");
        let wrong = [("authorization", "Basic YW55Ym9keTp3cm9uZw==")];
        assert_eq!(answer(&format!("{url}{path}"), &wrong).await.0, 401, "{path}");
    }
    // By a name too: who has the token may call it as they like.
    let request = reqwest::Client::new().get(format!("{url}/status.json"));
    let request =
        request.basic_auth("anybody", Some("open-sesame")).header("host", "agent.example");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);

    until_writer(&world, "redis", 20, None).await;
    let browser = Browser::start(world.dir()).await;
    browser.open(&url.replace("http://", "http://anybody:open-sesame@")).await;
    let live = "return document.getElementById('link').className === 'link live'";
    browser.until("the events come too", live, TEXT).await;
    browser.until("the group is shown", &shows("redis-primary.service.consul"), TEXT).await;
    browser.close().await;
}

#[tokio::test]
async fn only_so_many_look_on() {
    let world = world(WorldSpec { redis: 1, ..WorldSpec::default() }).await;
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let events = format!("{url}/events");
    let client = reqwest::Client::new();
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = client.get(&events).send().await.unwrap();
        assert_eq!(stream.status().as_u16(), 200);
        let begun = stream.chunk().await.unwrap().unwrap();
        assert!(begun.starts_with(b"data: {\"at\":"), "{begun:?}");
        streams.push(stream);
    }
    assert_eq!(get(&events, None).await.unwrap().0, 503);
    assert_eq!(get(&format!("{url}/status.json"), None).await.unwrap().0, 200);
    // One who leaves makes room.
    streams.pop();
    until("there is room again", Duration::from_secs(20), || async {
        let again = client.get(&events).send().await.map_err(LabError::new)?;
        let status = again.status().as_u16();
        if status == 200 { Ok(()) } else { Err(LabError(status.to_string())) }
    })
    .await
    .unwrap();
}

/// A group that is as ill as can be, in these words.
fn ill(group: &GroupName, words: &str) -> GroupStatus {
    let instance = InstanceStatus {
        address: "10.0.0.1:6379".parse().unwrap(),
        published: Some(PublishedRole::Down),
        serves: None,
        ready: false,
        says: None,
        offset: None,
        behind_bytes: None,
        lag_s: None,
        version: Some(words.to_owned()),
        error: Some(words.to_owned()),
    };
    let sentinel = SentinelStatus {
        address: "10.0.0.2:26379".parse().unwrap(),
        names: None,
        epoch: None,
        opinion: None,
        tilt: false,
        error: Some(words.to_owned()),
    };
    let change = Change {
        generation: 2,
        at: jiff::Timestamp::UNIX_EPOCH,
        from: Some(instance.address.clone()),
        to: None,
        level: None,
        epoch: None,
        why: words.to_owned(),
        by: words.to_owned(),
        timeline: Timeline::default(),
    };
    GroupStatus {
        group: group.clone(),
        name: "redis-primary.service.consul".to_owned(),
        healthy: false,
        consul_read: true,
        problems: vec![ProblemCode::NoWriter.says(words)],
        writer: None,
        generation: 2,
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        why: Some(words.to_owned()),
        level: None,
        epoch: None,
        votes: 0,
        known_sentinels: 1,
        instances: vec![instance],
        sentinels: vec![sentinel],
        agents: vec![words.to_owned()],
        history: vec![change],
    }
}

#[tokio::test]
async fn what_servers_say_is_shown_as_text_and_never_run() {
    let words = "<img src=x onerror=\"document.body.className='taken'\">";
    let settings = HttpConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        token: SecretSource::None,
        tls: None,
    };
    let meter = Meter::new(Clock::start(), Counters::default());
    let group: GroupName = "redis".parse().unwrap();
    let (show, shown) = watch::channel(None);
    let groups = BTreeMap::from([(group.clone(), (shown, Vec::new()))]);
    let (_groups, groups) = watch::channel(groups);
    let (_files, files) = watch::channel(Vec::new());
    let server = Server::bind(&settings, groups, files, meter).await.unwrap();
    let url = format!("{}/", server.url());
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    let dir = tempfile::tempdir().unwrap();
    let browser = Browser::start(dir.path()).await;
    browser.look(PHONE.0, PHONE.1, "light").await;
    browser.open(&url).await;
    browser.until("it waits", &shows("Nothing is known yet."), TEXT).await;
    show.send_replace(Some(Drawn {
        status: ill(&group, words),
        summary: Some(words.to_owned()),
        reasons: vec![words.to_owned()],
    }));
    browser.until("it is shown", &shows("▲ 1 problem"), TEXT).await;
    let said = browser.run(TEXT).await;
    // Why, the last decision, what was not done, the problem, who watches, the switch, and both tables.
    let times = said.as_str().unwrap().matches("<img src=x").count();
    assert!(times >= 8, "{times} times in {said}");
    assert!(said.as_str().unwrap().contains("no-writer"), "{said}");
    assert_eq!(browser.run("return document.images.length").await, json!(0));
    assert_eq!(browser.run("return document.body.className").await, json!(""));
    assert_eq!(browser.run(OVERFLOW).await, json!(0));
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    stop.cancel();
    running.await.unwrap();
}
