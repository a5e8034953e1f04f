//! The status page, as a browser shows it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use consul_redis::clock::{Clock, wall};
use consul_redis::config::HttpConfig;
use consul_redis::core::identity::address::{Address, GroupName};
use consul_redis::core::published::record::{Change, PublishedRole, Timeline};
use consul_redis::core::shown::status::{GroupStatus, InstanceStatus, ProblemCode, SentinelStatus};
use consul_redis::http::{HttpServer, HttpSources, STREAMS_MAX};
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::meter::{Counters, Meter};
use consul_redis::secret::SecretSource;
use consul_redis::snapshot::Snapshot;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
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
    browser
        .until(
            "the day has a gap",
            "return document.querySelectorAll('.day .none').length === 1",
            TEXT,
        )
        .await;
    browser
        .until(
            "and says so",
            &shows("The last day: 1 change of the writer, without one for "),
            TEXT,
        )
        .await;
    assert_eq!(browser.run("return window.sameAsBefore").await, json!(true));
    let said = browser.run("return document.getElementById('news').textContent").await;
    assert!(said.as_str().unwrap().contains("redis"), "a screen reader does not say it: {said}");
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
        assert_eq!(seen, json!(true), "it has the focus, and does not show it: {text}");
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
    // The last steps of a switch are written down a moment after it.
    until("both say the same", Duration::from_secs(20), || async {
        let said = run(&world, &["status", "--json", "--dns", &dns], &[]);
        let said = still(&String::from_utf8(said.stdout).unwrap());
        let shown = still(&get(&format!("{url}/status.json"), None).await?.1);
        if shown == said { Ok(()) } else { Err(LabError(format!("{shown:#}\n{said:#}"))) }
    })
    .await
    .unwrap();
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
    let request = request.basic_auth("user", Some("open-sesame")).header("host", "agent.example");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);

    until_writer(&world, "redis", 20, None).await;
    let browser = Browser::start(world.dir()).await;
    browser.open(&url.replace("http://", "http://user:open-sesame@")).await;
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
        zone: None,
        published: Some(PublishedRole::Down),
        serves: None,
        ready: false,
        says: None,
        offset: None,
        behind_bytes: None,
        lag_s: None,
        version: Some(words.to_owned()),
        error: Some(words.to_owned()),
        end_seen: Some(words.to_owned()),
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
        degraded: false,
        consul_read: true,
        problems: vec![ProblemCode::NoWriter.says(words)],
        writer: None,
        generation: 2,
        pause: None,
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        why: Some(words.to_owned()),
        level: None,
        epoch: None,
        votes: 0,
        known_sentinels: 1,
        instances: vec![instance],
        sentinels: vec![sentinel],
        agents: vec![words.to_owned()],
        configured_agents: Vec::new(),
        publishing_only: Vec::new(),
        fast_failover: "vote",
        history: vec![change],
        known_by_agent: None,
    }
}

/// A page without an agent behind it: it shows what it is given.
struct ByHand {
    url: String,
    show: watch::Sender<Option<Snapshot>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl ByHand {
    async fn start(group: &GroupName) -> Self {
        let (listen, token) = ((Ipv4Addr::LOCALHOST, 0).into(), SecretSource::None);
        let settings = HttpConfig { listen, token, tls: None };
        let meter = Meter::new(Clock::start(), Counters::default());
        let (show, shown) = watch::channel(None);
        let groups = watch::Sender::new(BTreeMap::from([(group.clone(), (shown, Vec::new()))]));
        let (files, clusters) = (watch::Sender::default(), watch::Sender::default());
        let (groups, files) = (groups.subscribe(), files.subscribe());
        let clusters = clusters.subscribe();
        let agents = watch::Sender::default().subscribe();
        let exhibits = HttpSources { groups, clusters, agents, files, meter };
        let server = HttpServer::bind(&settings, exhibits).await.unwrap();
        let url = format!("{}/", server.url());
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        Self { url, show, stop, running }
    }
}

#[tokio::test]
async fn what_servers_say_is_shown_as_text_and_never_run() {
    let words = "<img src=x onerror=\"document.body.className='taken'\">";
    let group: GroupName = "redis".parse().unwrap();
    let ByHand { url, show, stop, running } = ByHand::start(&group).await;
    let dir = tempfile::tempdir().unwrap();
    let browser = Browser::start(dir.path()).await;
    browser.look(PHONE.0, PHONE.1, "light").await;
    browser.open(&url).await;
    browser.until("it waits", &shows("Nothing is known yet."), TEXT).await;
    show.send_replace(Some(Snapshot {
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
    // There is no writer that a Sentinel could name.
    let captions = "return [...document.querySelectorAll('caption')].map(one => one.textContent)";
    let captions = browser.run(captions).await;
    assert_eq!(captions, json!(["Instances", "Sentinels: 0 of 1 answer"]));
    assert_eq!(browser.run("return document.images.length").await, json!(0));
    assert_eq!(browser.run("return document.body.className").await, json!(""));
    assert_eq!(browser.run(OVERFLOW).await, json!(0));
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    stop.cancel();
    running.await.unwrap();
}

/// An agent that only looks at both groups, and changes nothing.
fn onlooker(world: &World) -> Process {
    let path = world.dir().join("onlooker.toml");
    let groups =
        ["redis", "cache"].map(|name| format!("[[group]]\nname = \"{name}\"\nmanage = false\n"));
    std::fs::write(&path, format!("[http]\nlisten = \"127.0.0.1:0\"\n{}", groups.concat()))
        .unwrap();
    agent(world, "agent", &["--config", path.to_str().unwrap()], &[])
}

/// A screen reader says all of the page, by role and name.
async fn is_spoken(browser: &Browser, second: &str) {
    let told = browser.told().await;
    let has = |role: &str, name: &str| told.iter().any(|(r, n)| r == role && n.contains(name));
    for (role, name) in [
        ("navigation", "Groups"),
        ("link", "redis"),
        ("link", "cache"),
        ("region", "redis"),
        ("region", "cache"),
        ("image", "redis-primary.service.consul leads to "),
        ("image", "cache-primary.service.consul leads to "),
        ("image", "The last day: no change of the writer, never without one."),
        ("table", "Instances"),
        ("table", "Sentinels: 2 of "),
        ("columnheader", "Published as"),
        ("rowheader", second),
        ("list", "Open problems"),
        ("status", ""),
        ("main", ""),
    ] {
        assert!(has(role, name), "a screen reader does not say {role} {name:?}: {told:#?}");
    }
    // The table of a switch's steps is named by the heading before it.
    let named = ["image", "link", "region", "heading"];
    let nameless: Vec<_> = told
        .iter()
        .filter(|(role, name)| named.contains(&role.as_str()) && name.is_empty())
        .collect();
    assert!(nameless.is_empty(), "{nameless:?}");
}

#[tokio::test]
async fn several_groups_and_what_is_wrong_with_each_can_be_seen_and_heard() {
    let groups = ["redis", "cache"].map(str::to_owned).to_vec();
    let world_spec = WorldSpec { groups, ..WorldSpec::default() };
    let mut world = world(world_spec).await;
    let running = onlooker(&world);
    let url = http_address(&running).await;
    for group in ["redis", "cache"] {
        until_writer(&world, group, 20, None).await;
        until_in_sync(&world, group, 2).await;
    }
    let browser = Browser::start(world.dir()).await;
    browser.look(DESK.0, DESK.1, "light").await;
    browser.open(&format!("{url}/")).await;
    let within = |group: &str, text: &str| {
        format!(
            "return document.getElementById('group-{group}')?.innerText.includes({})",
            json!(text)
        )
    };
    for group in ["redis", "cache"] {
        browser.until("it is well", &within(group, "✓ healthy"), TEXT).await;
        let only = within(group, "Watched by agent (manage = false).");
        browser.until("it only publishes", &only, TEXT).await;
    }
    let order =
        "return [...document.querySelectorAll('nav li')].map(one => one.dataset.group).join()";
    let by_name = format!("{order} === 'cache,redis'");
    browser.until("by name, where all is well", &by_name, TEXT).await;
    // A replica of one group is lost, for good.
    world.groups[0].redis[1].kill();
    let first = format!("{order} === 'redis,cache'");
    browser.until("what is wrong comes first", &first, TEXT).await;
    let glance = "return document.querySelector('nav li .badge').textContent === '✓ healthy'";
    assert_eq!(browser.run(glance).await, json!(false), "and it is said to be");
    // One Sentinel of the second group monitors another primary.
    let stranger = world.start_redis("stranger", None).await.unwrap();
    let (host, port) = (stranger.address.host(), stranger.address.port().to_string());
    let mut both = redis::pipe();
    both.cmd("SENTINEL").arg("REMOVE").arg("cache").cmd("SENTINEL").arg("MONITOR").arg("cache");
    both.arg(host).arg(port).arg(2);
    world.sentinels[2].link().await.unwrap().ask(&both).await.unwrap();
    let names = within("cache", &stranger.address.to_string());
    browser.until("a Sentinel disagrees", &names, TEXT).await;
    // A replica of the first one becomes a primary, and stays one: Sentinels would make it a replica again after 8 s,
    // which a busy machine may need to show it.
    let second = &world.groups[0].redis[2];
    second.ask(&["ACL", "SETUSER", "default", "-slaveof"]).await.unwrap();
    second.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    browser.until("a stray primary", &within("redis", "second-primary"), TEXT).await;
    assert_eq!(browser.run(&within("redis", &stranger.address.to_string())).await, json!(false));
    assert_eq!(browser.run(&within("cache", "second-primary at")).await, json!(false));
    let warned = "return ['redis', 'cache'].map(group => document.querySelectorAll(\
                  `#group-${group} .drawing .box.is-warn`).length > 0)";
    assert_eq!(browser.run(warned).await, json!([true, true]), "the drawings show it");

    is_spoken(&browser, &second.address.to_string()).await;
    // The keys lead to each group, in the order that is shown.
    browser.run("document.activeElement.blur(); scrollTo(0, 0)").await;
    let mut reached = Vec::new();
    for _ in 0..3 {
        browser.tab().await;
        reached.push(browser.run("return document.activeElement.textContent").await);
    }
    assert_eq!(reached, [json!("Skip to the groups"), json!("cache"), json!("redis")]);
    for colours in ["light", "dark"] {
        for (name, (width, height)) in [("groups", DESK), ("groups-phone", PHONE)] {
            browser.look(width, height, colours).await;
            assert_eq!(browser.run(OVERFLOW).await, json!(0), "{name}, {width} px");
            keep_picture(&format!("{name}-{colours}"), &browser.picture(PICTURE_HEIGHT_MAX).await);
        }
    }
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
}

/// The day before now, minute by minute: what is older only says who led when it began.
#[tokio::test]
async fn the_last_day_is_drawn_as_the_history_has_it() {
    let group: GroupName = "redis".parse().unwrap();
    let ByHand { url, show, stop, running } = ByHand::start(&group).await;
    let mut status = ill(&group, "as it was");
    let [first, second] =
        ["10.0.0.1:6379", "10.0.0.2:6379"].map(|text| text.parse::<Address>().unwrap());
    let now = wall();
    let change = |minutes: i64, to: Option<&Address>| Change {
        at: now - jiff::SignedDuration::from_mins(minutes),
        to: to.cloned(),
        ..status.history[0].clone()
    };
    // Newest first; more than a day ago, half a day ago, and an hour later.
    let history = vec![change(660, Some(&second)), change(720, None), change(1_800, Some(&first))];
    status.history = history;
    show.send_replace(Some(Snapshot { status, summary: None, reasons: Vec::new() }));
    let dir = tempfile::tempdir().unwrap();
    let browser = Browser::start(dir.path()).await;
    browser.look(DESK.0, DESK.1, "light").await;
    browser.open(&url).await;
    let said = "The last day: 1 change of the writer, without one for 60 min.";
    browser.until("it is said", &shows(said), TEXT).await;
    let drawn = browser
        .run(
            "return [...document.querySelectorAll('.last-day .day rect:not(.unknown)')].map(one => \
             [one.classList[0], Math.round(one.getAttribute('x') / 10), \
              Math.round(one.getAttribute('width') / 10)])",
        )
        .await;
    assert_eq!(drawn, json!([["led", 0, 72], ["led", 78, 66], ["none", 72, 6]]));
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn addresses_of_ipv6_fit_and_lead_where_they_should() {
    let group: GroupName = "redis".parse().unwrap();
    let ByHand { url, show, stop, running } = ByHand::start(&group).await;
    let mut status = ill(&group, "as it should be");
    let [writer, other, sentinel] = [
        "[2001:db8:1234:5678:9abc:def0:1234:5671]:6379",
        "[2001:db8::2]:6379",
        "[2001:db8::3]:26379",
    ]
    .map(|text| text.parse::<Address>().unwrap());
    let first = &mut status.instances[0];
    first.address = writer.clone();
    (first.published, first.serves) = (Some(PublishedRole::Primary), Some(PublishedRole::Primary));
    (first.ready, first.says, first.error) = (true, Some("primary".to_owned()), None);
    let mut replica = first.clone();
    replica.address = other.clone();
    replica.published = Some(PublishedRole::Replica);
    replica.says = Some(format!("replica of {writer}"));
    status.instances.push(replica);
    status.sentinels[0].address = sentinel.clone();
    (status.sentinels[0].names, status.sentinels[0].error) = (Some(writer.clone()), None);
    (status.writer, status.healthy, status.problems) = (Some(writer.clone()), true, Vec::new());
    show.send_replace(Some(Snapshot { status, summary: None, reasons: Vec::new() }));
    let dir = tempfile::tempdir().unwrap();
    let browser = Browser::start(dir.path()).await;
    for (width, height) in [DESK, PHONE] {
        browser.look(width, height, "light").await;
        browser.open(&url).await;
        let vote = "return document.querySelectorAll('.drawing .edge.is-vote').length > 0";
        browser.until("the Sentinel points to the writer", vote, TEXT).await;
        let follows = "return document.querySelectorAll('.drawing .tip').length >= 2";
        browser.until("the replica follows it", follows, TEXT).await;
        assert_eq!(browser.run(OVERFLOW).await, json!(0), "{width} px");
        let wide = "return [...document.querySelectorAll('.drawing svg text')]\
            .filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.textContent)";
        assert_eq!(browser.run(wide).await, json!([]), "{width} px");
        let said = browser.run("return document.body.innerText + document.querySelector('.drawing svg').textContent").await;
        for address in [&writer, &other, &sentinel] {
            assert!(said.as_str().unwrap().contains(&address.to_string()), "{address}: {said}");
        }
        let shown = browser.run("return document.querySelector('.writer').textContent").await;
        assert_eq!(shown, json!(writer.to_string()));
    }
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    stop.cancel();
    running.await.unwrap();
}
