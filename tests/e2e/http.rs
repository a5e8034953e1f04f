//! What an agent answers by HTTP.

use std::collections::BTreeSet;
use std::time::Duration;

use consul_redis::http::metrics::definitions;
use consul_redis::http::{CONNECTIONS_MAX, REQUEST_MAX};
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{
    agent, counted, get, http_address, logs, run, text, until_in_sync, until_metric, until_writer,
    world,
};

#[tokio::test]
async fn metrics_follow_a_failover() {
    let mut world = world(WorldSpec::default()).await;
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 1.0").await;
    until_metric(&url, &format!("consul_redis_writer{{group=\"redis\",address=\"{first}\"}} 1.0"))
        .await;
    until_metric(&url, "consul_redis_instances{group=\"redis\",role=\"replica\"} 2.0").await;
    assert_eq!(get(&format!("{url}/healthz"), None).await.unwrap().0, 200);
    assert_eq!(get(&format!("{url}/readyz"), None).await.unwrap().0, 200);
    assert_eq!(get(&format!("{url}/nothing"), None).await.unwrap().0, 404);

    until_metric(&url, "# TYPE consul_redis_replica_behind_bytes gauge").await;
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    for name in ["build_info", "replica_lag_seconds", "sentinels_answering"] {
        assert!(all.contains(&format!("# TYPE consul_redis_{name} gauge\n")), "{name}\n{all}");
    }
    until_metric(&url, "consul_redis_sentinels_naming_another{group=\"redis\"} 0.0").await;
    assert!(counted(&all, "consul_redis_decisions_total{group=\"redis\",verdict=\"keep\"}") > 1.0);
    let published = "consul_redis_writes_total{group=\"redis\",purpose=\"publish\",outcome=";
    let committed = format!("{published}\"committed\"}}");
    let before = counted(&all, &committed);
    assert!(before >= 1.0, "{all}");
    let timed = "consul_redis_promotion_to_published_seconds_count{group=\"redis\"}";
    assert_eq!(counted(&all, timed), 0.0, "no instance was promoted yet\n{all}");
    for sentinel in &world.sentinels {
        let labels = format!("{{group=\"redis\",sentinel=\"{}\"}}", sentinel.address);
        let age = counted(&all, &format!("consul_redis_sentinel_look_age_seconds{labels}"));
        assert!((0.0..5.0).contains(&age), "{age}\n{all}");
    }

    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&first)).await;
    until_metric(&url, &format!("consul_redis_writer{{group=\"redis\",address=\"{second}\"}} 1.0"))
        .await;
    until_metric(&url, "consul_redis_generation{group=\"redis\"} 3.0").await;
    let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
    let writers: Vec<&str> =
        all.lines().filter(|line| line.starts_with("consul_redis_writer{")).collect();
    assert_eq!(writers.len(), 1, "the old writer is gone\n{all}");
    assert_eq!(counted(&all, &committed), before + 1.0, "{all}");
    assert_eq!(counted(&all, timed), 1.0, "{all}");
    let taken = counted(&all, &timed.replace("_count{", "_sum{"));
    assert!(taken < 5.0, "{taken} s from the promotion to its publication");
    let labels = format!("{{group=\"redis\",address=\"{first}\"}}");
    assert!(counted(&all, &format!("consul_redis_instance_errors_total{labels}")) >= 1.0, "{all}");
    let age = counted(&all, &format!("consul_redis_instance_look_age_seconds{labels}"));
    assert!(age > 1.0, "it was killed before the Sentinels agreed\n{all}");
    assert!(all.ends_with("# EOF\n"), "{all}");
    // The replica that is left is in sync a moment later.
    until("every metric is there", Duration::from_secs(30), || async {
        let (_, all) = get(&format!("{url}/metrics"), None).await?;
        let unseen = unseen(&all);
        if unseen.is_empty() { Ok(()) } else { Err(LabError(format!("{unseen:?}"))) }
    })
    .await
    .unwrap();
}

/// docs/metrics.md has the definitions; each line has the labels of its own. Metrics that have no line and should.
fn unseen(all: &str) -> Vec<String> {
    let definitions = definitions();
    let mut held = BTreeSet::new();
    for line in all.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').expect("each has labels");
        let name = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let found = definitions.iter().find(|definition| definition.name == name);
        let labels = rest.rsplit_once('}').expect("an end").0.split("\",");
        let labels =
            labels.filter_map(|label| label.split('=').next()).filter(|label| *label != "le");
        assert_eq!(labels.collect::<Vec<_>>(), found.expect(name).labels, "{line}");
        held.insert(name);
    }
    let unseen = definitions.iter().filter(|definition| !held.contains(definition.name.as_str()));
    // No name of this world is asked for, no writer's process is watched, no cluster, no file is written, no target is told,
    // and the agent does not log in to Consul.
    let without = [
        "cluster_",
        "deaths",
        "death_to",
        "promotion_to_dns",
        "dns_",
        "rendered",
        "paused_since",
        "notices",
        "consul_errors",
        "consul_logins",
        "consul_token_left",
        "sentinel_errors",
    ];
    let excused =
        |name: &str| without.iter().any(|part| name.contains(&format!("consul_redis_{part}")));
    unseen.map(|definition| definition.name.clone()).filter(|name| !excused(name)).collect()
}

#[tokio::test]
async fn silence_is_counted_and_the_last_good_look_ages() {
    let mut world = world(WorldSpec { redis: 1, ..WorldSpec::default() }).await;
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    until_metric(&url, "consul_redis_sentinels_answering{group=\"redis\"} 3.0").await;
    world.consul.kill();
    let silent = world.sentinels[0].address.to_string();
    world.sentinels[0].kill();
    let labels = format!("{{group=\"redis\",sentinel=\"{silent}\"}}");
    let errors = [
        "consul_redis_consul_errors_total{kind=\"unreachable\"}".to_owned(),
        format!("consul_redis_sentinel_errors_total{labels}"),
    ];
    until("the errors are counted, and the ages grow", Duration::from_secs(30), || async {
        let (_, all) = get(&format!("{url}/metrics"), None).await?;
        let counts = errors.iter().map(|name| counted(&all, name));
        let ages = [
            counted(&all, "consul_redis_consul_look_age_seconds{group=\"redis\"}"),
            counted(&all, &format!("consul_redis_sentinel_look_age_seconds{labels}")),
        ];
        let grown = ages.iter().all(|age| *age > 2.0);
        if counts.into_iter().all(|count| count >= 1.0) && grown {
            Ok(())
        } else {
            Err(LabError(all))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn data_that_has_gone_different_ways_raises_its_metric() {
    let world = world(WorldSpec { from_scratch: true, ..WorldSpec::default() }).await;
    for server in &world.groups[0].redis[..2] {
        server.ask(&["SET", "mine", "1"]).await.unwrap();
    }
    let path = world.dir().join("node.toml");
    let rows: Vec<String> = world.groups[0]
        .redis
        .iter()
        .map(|server| format!("[[redis]]\naddress = \"{}\"\n", server.address))
        .collect();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[group]]\nname = \"redis\"\nexpect = 3\n{}",
        rows.concat()
    );
    std::fs::write(&path, config).unwrap();
    let running = agent(&world, "node", &["--config", path.to_str().unwrap()], &[]);
    let url = http_address(&running).await;
    let line = "consul_redis_problem{group=\"redis\",code=\"data-diverged\"} 1.0";
    until_metric(&url, line).await;
    until_metric(&url, "consul_redis_healthy{group=\"redis\"} 0.0").await;
}

#[tokio::test]
async fn beyond_this_machine_a_token_is_needed() {
    let world: World = world(WorldSpec::default()).await;
    let refused = run(&world, &["agent", "--listen", "0.0.0.0:0"], &[]);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    assert!(text(&refused).contains("hint: give [http] token_file"), "{}", text(&refused));
    let token = world.dir().join("token");
    std::fs::write(&token, "open sesame\n").unwrap();
    let args = ["--listen", "0.0.0.0:0", "--listen-token-file", token.to_str().unwrap()];
    let running = agent(&world, "agent", &args, &[]);
    let url = http_address(&running).await.replace("0.0.0.0", "127.0.0.1");
    let metrics = format!("{url}/metrics");
    let code = |token: Option<&'static str>| {
        let metrics = metrics.clone();
        async move { get(&metrics, token).await.unwrap().0 }
    };
    assert_eq!(code(None).await, 401, "{}", logs(&[running]));
    assert_eq!(code(Some("open sesam")).await, 401);
    assert_eq!(code(Some("open sesame")).await, 200);
    assert_eq!(get(&format!("{url}/healthz"), None).await.unwrap().0, 200);
    // Read anew for each request.
    std::fs::write(&token, "another").unwrap();
    assert_eq!(code(Some("open sesame")).await, 401);
    assert_eq!(code(Some("another")).await, 200);
}

/// As many connections as there may be and more, and one whose request never ends.
#[tokio::test]
async fn clients_that_are_many_or_slow_keep_the_metrics_from_no_other_one() {
    let world: World = world(WorldSpec::default()).await;
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let at = url.trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&at).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await.unwrap();
    let mut still = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 20 {
        still.push(TcpStream::connect(&at).await.unwrap());
        // It is not the one that has been still for the longest.
        slow.write_all(b"a").await.unwrap();
    }
    assert_eq!(asked(&url, "/metrics").await.0, 200);
    // The first of them has had its place taken.
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_secs(10), still[0].read(&mut byte)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    let begun = Instant::now();
    let closed = async {
        while slow.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(REQUEST_MAX * 3, closed).await.unwrap_or_else(|_| {
        panic!("a request goes on for {:?}: {}", begun.elapsed(), running.log());
    });
    assert_eq!(asked(&url, "/metrics").await.0, 200);
}

/// The status that a path is answered with, and the line.
async fn asked(url: &str, path: &str) -> (u16, String) {
    get(&format!("{url}{path}"), None).await.unwrap()
}

async fn until_asked(url: &str, path: &str, wanted: u16) -> String {
    until(path, Duration::from_secs(20), || async {
        let (code, line) = get(&format!("{url}{path}"), None).await?;
        if code == wanted { Ok(line) } else { Err(LabError(format!("{code} {line}"))) }
    })
    .await
    .unwrap()
}

/// Has Consul's agent ask a URL, as a check of a service.
async fn register_check(world: &World, name: &str, url: &str) {
    let body = serde_json::json!({
        "Name": "by-check", "ID": name, "Address": "127.0.0.1", "Port": 1,
        "Check": {"HTTP": url, "Interval": "1s", "Timeout": "1s"},
    });
    let client = world.consul.client().unwrap();
    client.put("/v1/agent/service/register", &[], Some(&body)).await.unwrap();
}

async fn until_checked(world: &World, count: usize) {
    until("the checks", Duration::from_secs(20), || async {
        let passing = world.consul.passing("by-check").await?;
        if passing.len() == count { Ok(()) } else { Err(LabError(format!("{passing:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn load_balancers_get_the_role_and_its_generation() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let running = agent(&world, "agent", &["--listen", "127.0.0.1:0"], &[]);
    let url = http_address(&running).await;
    let first = until_writer(&world, "redis", 20, None).await;
    let state = until_in_sync(&world, "redis", 1).await;
    let second = state.replicas().next().unwrap().to_string();
    let of = |path: &str, instance: &str| format!("/{path}?instance={instance}");
    let line = until_asked(&url, &of("primary", &first), 200).await;
    assert_eq!(line, "role primary, generation 1\n");
    until_asked(&url, &of("replica", &second), 200).await;
    assert_eq!(asked(&url, &of("primary", &second)).await.0, 503);
    assert_eq!(asked(&url, &of("replica", &first)).await.0, 503);
    for instance in [&first, &second] {
        assert_eq!(asked(&url, &of("health", instance)).await.0, 200);
    }
    assert_eq!(asked(&url, &of("health", "10.9.9.9:1")).await.0, 503, "no agent knows it");
    // Without an instance in observer mode: whichever it may be.
    assert_eq!(asked(&url, "/primary").await.0, 200);
    assert_eq!(asked(&url, "/replica?instance=any&group=redis").await.0, 200);
    // Bound to the generation.
    let bound = format!("{}&generation=1", of("primary", &first));
    assert_eq!(asked(&url, &bound).await.0, 200);
    let later = format!("{}&generation=2", of("primary", &first));
    assert_eq!(asked(&url, &later).await.0, 503);
    // Queries that make no sense.
    assert_eq!(asked(&url, "/primary?group=other").await.0, 404);
    assert_eq!(asked(&url, "/primary?instance=nonsense").await.0, 400);
    assert_eq!(asked(&url, "/primary?role=primary").await.0, 400);
    // As a load balancer that sends OPTIONS, or HEAD.
    let client = reqwest::Client::new();
    for method in [reqwest::Method::OPTIONS, reqwest::Method::HEAD] {
        let answer = client.request(method, format!("{url}/primary")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
    }
    // And as a check of Consul.
    for (index, instance) in [&first, &second].into_iter().enumerate() {
        let asked = format!("{url}{}", of("primary", instance));
        register_check(&world, &format!("check-{index}"), &asked).await;
    }
    until_checked(&world, 1).await;

    world.server_mut(&first).unwrap().kill();
    until_asked(&url, &of("health", &first), 503).await;
    assert_eq!(asked(&url, &bound).await.0, 503, "it does not answer, so it is no primary");
    until_writer(&world, "redis", 20, Some(&first)).await;
    let line = until_asked(&url, &of("primary", &second), 200).await;
    assert_eq!(line, "role primary, generation 3\n");
    assert_eq!(asked(&url, &of("replica", &second)).await.0, 503);
    until_checked(&world, 1).await;

    // Neither Consul nor a majority of the Sentinels: it is unknown which instance leads.
    world.consul.kill();
    assert_eq!(asked(&url, &of("primary", &second)).await.0, 200, "the Sentinels still say so");
    for sentinel in &mut world.sentinels {
        sentinel.kill();
    }
    until_asked(&url, &of("primary", &second), 503).await;
    assert_eq!(asked(&url, &of("health", &second)).await.0, 200, "it is alive all the same");
}
