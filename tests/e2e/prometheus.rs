//! The alerts in `contrib/` on a real Prometheus that scrapes real agents, through a failover and a loss of the writer.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{agent, get, http_address, until_in_sync, until_record, until_writer, world};

/// The alert that everything here is about.
const NO_WRITER: &str = "ConsulRedisNoWriter";

struct Prometheus {
    url: String,
    process: Process,
}

impl Prometheus {
    /// Starts it with the rules as they are shipped; what is scraped and evaluated every second is all that differs
    /// from the usual.
    async fn start(world: &World, targets: &[String]) -> Self {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus-rules.yml");
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "consul-redis", "static_configs": [{"targets": targets}],
            }],
        });
        let path = world.dir().join("prometheus.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let listen =
            SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(&[Ipv4Addr::LOCALHOST]).unwrap()));
        let args = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", world.dir().join("prometheus").display()),
            format!("--web.listen-address={listen}"),
        ];
        let tool = tools::prometheus().unwrap();
        let process =
            Process::start("prometheus", &tool, &args, &[], world.dir(), Life::WithUs).unwrap();
        let prometheus = Self { url: format!("http://{listen}"), process };
        let ready = format!("{}/-/ready", prometheus.url);
        until("Prometheus is ready", Duration::from_secs(30), || async {
            let (code, said) = get(&ready, None).await?;
            if code == 200 { Ok(()) } else { Err(LabError(format!("{code} {said}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", prometheus.process.log()));
        prometheus
    }

    /// The labels and value of each series that a query gives.
    async fn query(&self, query: &str) -> Result<Vec<(Value, f64)>, LabError> {
        let url = format!("{}/api/v1/query", self.url);
        let answer = reqwest::Client::new().get(url).query(&[("query", query)]).send().await;
        let answer: Value = answer.map_err(LabError::new)?.json().await.map_err(LabError::new)?;
        let found = answer["data"]["result"].as_array();
        let found = found.ok_or_else(|| LabError(format!("{query}: {answer}")))?;
        let value = |series: &Value| {
            let value = series["value"][1].as_str().and_then(|text| text.parse().ok());
            (series["metric"].clone(), value.unwrap_or(f64::NAN))
        };
        Ok(found.iter().map(value).collect())
    }

    /// The alerts in this state (`pending` or `firing`), by name.
    async fn alerts(&self, state: &str) -> Result<Vec<String>, LabError> {
        let found = self.query(&format!("ALERTS{{alertstate=\"{state}\"}}")).await?;
        let name = |(labels, _): &(Value, f64)| labels["alertname"].as_str().map(str::to_owned);
        Ok(found.iter().filter_map(name).collect())
    }

    async fn until_value(&self, query: &str, wanted: f64) {
        until(query, Duration::from_secs(30), || async {
            let found = self.query(query).await?;
            let all = !found.is_empty() && found.iter().all(|(_, value)| *value == wanted);
            if all { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_alert_fires_when_there_is_no_writer_and_clears_when_there_is_one() {
    let mut world = world(WorldSpec::default()).await;
    let dns = world.consul.dns.to_string();
    let args = ["--listen", "127.0.0.1:0", "--dns", &dns];
    let agents: Vec<Process> =
        (0..2).map(|index| agent(&world, &format!("agent-{index}"), &args, &[])).collect();
    let mut targets = Vec::new();
    for agent in &agents {
        targets.push(http_address(agent).await.trim_start_matches("http://").to_owned());
    }
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let prometheus = Prometheus::start(&world, &targets).await;
    prometheus.until_value("up", 1.0).await;
    prometheus.until_value("consul_redis_healthy", 1.0).await;
    assert_eq!(prometheus.alerts("firing").await.unwrap(), [""; 0]);

    // A failover is over before an alert is sent.
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    prometheus.until_value("max by (group) (consul_redis_generation)", 3.0).await;
    let timed = "sum(consul_redis_promotion_to_dns_seconds_count)";
    until("both agents have seen the switch in DNS", Duration::from_secs(20), || async {
        let found = prometheus.query(timed).await?;
        let seen = found.first().is_some_and(|(_, count)| *count >= 1.0);
        if seen { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    let fired =
        format!("max_over_time(ALERTS{{alertname=\"{NO_WRITER}\",alertstate=\"firing\"}}[1m])");
    assert_eq!(prometheus.query(&fired).await.unwrap().len(), 0);

    // The other two stop: there is no replica to choose.
    let alive = |server: &&consul_redis::lab::redis::LabServer| server.address.to_string() != first;
    for server in world.groups[0].redis.iter().filter(alive) {
        server.signal(Signal::SIGSTOP).unwrap();
    }
    until_record(&world, "redis", 20, "the name is withdrawn", |r| r.writer.is_none()).await;
    until("the alert fires", Duration::from_secs(40), || async {
        let firing = prometheus.alerts("firing").await?;
        if firing.iter().any(|name| name == NO_WRITER) {
            Ok(())
        } else {
            Err(LabError(format!("{firing:?}")))
        }
    })
    .await
    .unwrap();
    let said = prometheus.query(&format!("ALERTS{{alertname=\"{NO_WRITER}\"}}")).await.unwrap();
    assert_eq!(said[0].0["group"], "redis", "{said:?}");
    assert_eq!(said[0].0["severity"], "critical", "{said:?}");

    for server in world.groups[0].redis.iter().filter(alive) {
        server.signal(Signal::SIGCONT).unwrap();
    }
    until_writer(&world, "redis", 60, None).await;
    until("the alert has cleared", Duration::from_secs(30), || async {
        let all =
            [prometheus.alerts("firing").await?, prometheus.alerts("pending").await?].concat();
        if all.iter().any(|name| name == NO_WRITER) {
            Err(LabError(format!("{all:?}")))
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
}
