//! Metrics in the OpenMetrics text format, drawn from what the groups' loops last knew.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode as encode_registry;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::core::record::PublishedRole;
use crate::core::status::{GroupStatus, ProblemCode};
use crate::render::task::FileState;

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// All metrics of these groups and rendered files.
///
/// # Errors
/// Never: text is written into memory.
pub fn encode(groups: &[GroupStatus], files: &[FileState]) -> Result<String, std::fmt::Error> {
    let mut metrics = Metrics::new();
    for group in groups {
        metrics.add(group);
    }
    for file in files {
        metrics.add_file(file);
    }
    let mut text = String::new();
    encode_registry(&mut text, &metrics.registry)?;
    Ok(text)
}

struct Metrics {
    registry: Registry,
    healthy: Gauges,
    problem: Gauges,
    generation: Gauges,
    writer: Gauges,
    since: Gauges,
    sentinels: Gauges,
    votes: Gauges,
    agents: Gauges,
    instances: Gauges,
    behind: Gauges,
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

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("consul_redis");
        let mut gauge = |name: &str, help: &str| {
            let gauges = Gauges::default();
            registry.register(name, help, gauges.clone());
            gauges
        };
        let healthy = gauge("healthy", "1 when all is well with the group");
        let problem = gauge("problem", "1 while something of this kind is wrong");
        let generation = gauge("generation", "Number of the publication");
        let writer = gauge("writer", "1 for the published writer; none while there is none");
        let since = gauge("generation_since_seconds", "When the generation began, in Unix time");
        let sentinels = gauge("sentinels_known", "Sentinels known, whether they answer or not");
        let votes = gauge("sentinels_naming_writer", "Sentinels that name the published writer");
        let agents = gauge("agents", "Agents that watch the group");
        let instances = gauge("instances", "Instances by what they are published as");
        let behind = gauge("replica_behind_bytes", "How far a replica is behind the writer");
        let rendered = gauge("rendered", "1 when the file is up to date and its command succeeded");
        Self {
            registry,
            healthy,
            problem,
            generation,
            writer,
            since,
            sentinels,
            votes,
            agents,
            instances,
            behind,
            rendered,
        }
    }

    fn add_file(&mut self, file: &FileState) {
        // Nothing is said of a file that nothing was to be done about yet.
        let Some(last) = &file.last else { return };
        let labels = vec![("destination", file.destination.display().to_string())];
        self.rendered.get_or_create(&labels).set(f64::from(u8::from(last.is_ok())));
    }

    fn add(&mut self, status: &GroupStatus) {
        let group = || ("group", status.group.to_string());
        let set = |gauges: &Gauges, labels: Labels, value: f64| {
            gauges.get_or_create(&labels).set(value);
        };
        set(&self.healthy, vec![group()], f64::from(u8::from(status.healthy)));
        for code in ProblemCode::ALL {
            let wrong = status.problems.iter().any(|problem| problem.code == code);
            let labels = vec![group(), ("code", code.as_str().to_owned())];
            set(&self.problem, labels, f64::from(u8::from(wrong)));
        }
        set(&self.generation, vec![group()], status.generation as f64);
        if let Some(writer) = &status.writer {
            set(&self.writer, vec![group(), ("address", writer.to_string())], 1.0);
        }
        if let Some(since) = status.since {
            set(&self.since, vec![group()], since.as_millisecond() as f64 / 1_000.0);
        }
        set(&self.sentinels, vec![group()], status.known_sentinels as f64);
        set(&self.votes, vec![group()], status.votes as f64);
        set(&self.agents, vec![group()], status.agents.len() as f64);
        for role in ROLES {
            let as_role = status.instances.iter().filter(|i| i.published == Some(role)).count();
            let labels = vec![group(), ("role", role.as_str().replace(' ', "-"))];
            set(&self.instances, labels, as_role as f64);
        }
        for instance in &status.instances {
            if let Some(bytes) = instance.behind_bytes {
                let labels = vec![group(), ("instance", instance.address.to_string())];
                set(&self.behind, labels, bytes as f64);
            }
        }
    }
}
