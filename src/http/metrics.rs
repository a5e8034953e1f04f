//! Metrics in the OpenMetrics text format: what the groups' loops last knew, and what was counted on the way.
//!
//! docs/metrics.md explains each of them, and a test holds it to [`names`].

use prometheus_client::encoding::text::encode as encode_registry;
use prometheus_client::registry::{Metric, Registry};

use crate::clock::Clock;
use crate::core::published::record::PublishedRole;
use crate::core::shown::status::{GroupStatus, ProblemCode};
use crate::meter::{Counters, Gauges, Labels, Meter, instance_of, of, sentinel_of};
use crate::render::task::FileState;

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "consul_redis";

/// All metrics of these groups and rendered files.
///
/// # Errors
/// Never: text is written into memory.
pub fn encode(
    groups: &[GroupStatus],
    files: &[FileState],
    meter: &Meter,
) -> Result<String, std::fmt::Error> {
    let metrics = Metrics::new(meter);
    metrics.build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1.0);
    for group in groups {
        metrics.add(group, meter);
    }
    for file in files {
        metrics.add_file(file);
    }
    let mut text = String::new();
    encode_registry(&mut text, &metrics.registry)?;
    Ok(text)
}

/// The names of all metrics, as queries write them: counters with `_total`; of a histogram, what stands before
/// `_bucket`, `_count` and `_sum`.
pub fn names() -> Vec<String> {
    Metrics::new(&Meter::new(Clock::start(), Counters::default())).names
}

struct Metrics {
    registry: Registry,
    names: Vec<String>,
    build: Gauges,
    healthy: Gauges,
    degraded: Gauges,
    problem: Gauges,
    generation: Gauges,
    writer: Gauges,
    since: Gauges,
    sentinels: Gauges,
    answering: Gauges,
    votes: Gauges,
    others: Gauges,
    agents: Gauges,
    instances: Gauges,
    behind: Gauges,
    lag: Gauges,
    consul_age: Gauges,
    sentinel_age: Gauges,
    instance_age: Gauges,
    rendered: Gauges,
}

/// Every role that an instance can be published as.
const ROLES: [PublishedRole; 5] = [
    PublishedRole::Primary,
    PublishedRole::Replica,
    PublishedRole::OutOfSync,
    PublishedRole::Down,
    PublishedRole::Maintenance,
];

/// A registry that is being filled.
struct Filling {
    registry: Registry,
    names: Vec<String>,
}

impl Filling {
    fn put(&mut self, name: &str, suffix: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
        self.names.push(format!("{PREFIX}_{name}{suffix}"));
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauges {
        let gauges = Gauges::default();
        self.put(name, "", help, gauges.clone());
        gauges
    }

    fn counted(&mut self, meter: &Meter) {
        let mut counter = |name: &str, help: &str, counters: &Counters| {
            self.put(name, "_total", help, counters.clone());
        };
        counter("decisions", "Decisions, by what was concluded", &meter.decisions);
        counter("writes", "Transactions sent to Consul, by purpose and outcome", &meter.writes);
        counter("consul_errors", "Calls that Consul did not answer well", &meter.consul_errors);
        let help = "Questions about the group that the Sentinel did not answer";
        counter("sentinel_errors", help, &meter.sentinel_errors);
        let help = "Questions that the instance did not answer";
        counter("instance_errors", help, &meter.instance_errors);
        let help = "Ends of writers' processes that the kernel told of, by what became of them";
        counter("deaths", help, &meter.deaths);
        let help = "From the end of a writer's process to when another one was published";
        let published = meter.death_to_published.clone();
        self.put("death_to_published_seconds", "", help, published);
        let help =
            "From when the new primary was seen to be one to when this agent had published it";
        let published = meter.promotion_to_published.clone();
        self.put("promotion_to_published_seconds", "", help, published);
        let help = "From when the new primary was seen to be one to when DNS answered it";
        self.put("promotion_to_dns_seconds", "", help, meter.promotion_to_dns.clone());
        let help =
            "Answers of DNS for the group's name, by how they compare with what was published";
        self.put("dns_answers", "_total", help, meter.dns_answers.clone());
        let help = "1 while DNS answers something else than what was published";
        self.put("dns_wrong", "", help, meter.dns_wrong.clone());
        let help = "How old the answer of DNS is when it is not what was published, else 0";
        self.put("dns_stale_seconds", "", help, meter.dns_stale.clone());
    }
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        let mut to = Filling { registry: Registry::with_prefix(PREFIX), names: Vec::new() };
        to.counted(meter);
        Self {
            build: to.gauge("build_info", "1, with the version of this agent"),
            healthy: to.gauge("healthy", "1 when the group has a writer and agents, as it should"),
            degraded: to.gauge("degraded", "1 when it is healthy, and survives less than it could"),
            problem: to.gauge("problem", "1 while something of this kind is wrong"),
            generation: to.gauge("generation", "Number of the publication"),
            writer: to.gauge("writer", "1 for the published writer; none while there is none"),
            since: to.gauge("generation_since_seconds", "When the generation began, in Unix time"),
            sentinels: to.gauge("sentinels_known", "Sentinels known, whether they answer or not"),
            answering: to.gauge("sentinels_answering", "Sentinels that answer about the group"),
            votes: to.gauge("sentinels_naming_writer", "Sentinels that name the published writer"),
            others: to.gauge("sentinels_naming_another", "Sentinels that name another primary"),
            agents: to.gauge("agents", "Agents that watch the group"),
            instances: to.gauge("instances", "Instances by what they are published as"),
            behind: to.gauge("replica_behind_bytes", "How far a replica is behind the writer"),
            lag: to.gauge("replica_lag_seconds", "Since the writer last heard from the replica"),
            consul_age: to.gauge("consul_look_age_seconds", "Since Consul last answered"),
            sentinel_age: to.gauge("sentinel_look_age_seconds", "Since the Sentinel last answered"),
            instance_age: to.gauge("instance_look_age_seconds", "Since the instance last answered"),
            rendered: to
                .gauge("rendered", "1 when the file is up to date and its command succeeded"),
            registry: to.registry,
            names: to.names,
        }
    }

    fn add_file(&self, file: &FileState) {
        // Nothing is said of a file that nothing was to be done about yet.
        let Some(last) = &file.last else { return };
        let labels = vec![("destination", file.destination.display().to_string())];
        set(&self.rendered, labels, bit(last.is_ok()));
    }

    fn add(&self, status: &GroupStatus, meter: &Meter) {
        let group = || ("group", status.group.to_string());
        set(&self.healthy, vec![group()], bit(status.healthy));
        set(&self.degraded, vec![group()], bit(status.degraded));
        for code in ProblemCode::ALL {
            let wrong = status.problems.iter().any(|problem| problem.code == code);
            set(&self.problem, vec![group(), ("code", code.as_str().to_owned())], bit(wrong));
        }
        set(&self.generation, vec![group()], status.generation as f64);
        if let Some(writer) = &status.writer {
            set(&self.writer, vec![group(), ("address", writer.to_string())], 1.0);
        }
        if let Some(since) = status.since {
            set(&self.since, vec![group()], since.as_millisecond() as f64 / 1_000.0);
        }
        set(&self.agents, vec![group()], status.agents.len() as f64);
        set(&self.consul_age, of(&status.group), meter.consul_age(&status.group));
        self.add_sentinels(status, meter);
        self.add_instances(status, meter);
    }

    fn add_sentinels(&self, status: &GroupStatus, meter: &Meter) {
        let group = &status.group;
        let naming = || status.sentinels.iter().filter_map(|sentinel| sentinel.names.as_ref());
        let another = naming().filter(|named| Some(*named) != status.writer.as_ref()).count();
        set(&self.sentinels, of(group), status.known_sentinels as f64);
        set(&self.answering, of(group), naming().count() as f64);
        set(&self.votes, of(group), status.votes as f64);
        set(&self.others, of(group), another as f64);
        for sentinel in &status.sentinels {
            let age = meter.sentinel_age(group, &sentinel.address);
            set(&self.sentinel_age, sentinel_of(group, &sentinel.address), age);
        }
    }

    fn add_instances(&self, status: &GroupStatus, meter: &Meter) {
        let group = &status.group;
        for role in ROLES {
            let as_role = status.instances.iter().filter(|i| i.published == Some(role)).count();
            let labels =
                vec![("group", group.to_string()), ("role", role.as_str().replace(' ', "-"))];
            set(&self.instances, labels, as_role as f64);
        }
        for instance in &status.instances {
            let labels = instance_of(group, &instance.address);
            set(&self.instance_age, labels.clone(), meter.instance_age(group, &instance.address));
            if let Some(bytes) = instance.behind_bytes {
                set(&self.behind, labels.clone(), bytes as f64);
            }
            if let Some(seconds) = instance.lag_s {
                set(&self.lag, labels, seconds as f64);
            }
        }
    }
}

fn set(gauges: &Gauges, labels: Labels, value: f64) {
    gauges.get_or_create(&labels).set(value);
}

fn bit(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
