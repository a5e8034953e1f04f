//! Metrics in the OpenMetrics text format: what the groups' loops last knew, and what was counted on the way.
//!
//! docs/metrics.md explains each of them, and a test holds it to [`names`].

use prometheus_client::encoding::text::encode as encode_registry;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::consul::login::{LoginCause, LoginPicture};
use crate::core::published::record::PublishedRole;
use crate::core::shown::status::{GroupStatus, ProblemCode};
use crate::meter::{
    ClusterCounts, ClusterGauges, Counters, Gauges, Labels, Meter, ends_by, instance_of, of,
    sentinel_of,
};
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
    definitions().into_iter().map(|definition| definition.name).collect()
}

/// What each metric is, in the order in which they are shown.
pub fn definitions() -> Vec<Definition> {
    Metrics::new(&Meter::new(Clock::start(), Counters::default())).definitions
}

/// What a metric is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// As queries write it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The labels of each of its lines.
    pub labels: &'static [&'static str],
    /// What its value is, without a full stop.
    pub help: &'static str,
}

/// The labels that most have.
const OF_GROUP: &[&str] = &["group"];
const OF_SENTINEL: &[&str] = &["group", "sentinel"];
const OF_INSTANCE: &[&str] = &["group", "address"];
const OF_SERVER: &[&str] = &["group", "server"];
const OF_CLUSTER: &[&str] = &["cluster"];

struct Metrics {
    registry: Registry,
    definitions: Vec<Definition>,
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
    paused: Gauges,
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

/// What the values of the metrics are.
const DEATHS: &str = "Deaths of the writer, by what this agent takes them from (process and child, under exec: the kernel; \
    refused: connections) and outcome. First asked (a Sentinel, for a failover) or voting (the Sentinels are to, at once), \
    then replaced (another writer is published), refused (by the Sentinel) or stayed (they left it in its place). Or left to \
    the Sentinels, and why: switched-off, paused, down-after, failover, switchover, maintenance, asked-lately, too-late, \
    no-majority, no-replica, no-sentinel, disagree";
const CLUSTER_DEATHS: &str = "Deaths of owners of slots, by what this agent takes them from (process and child, under exec: the \
    kernel; refused: connections) and outcome. First voting (this agent had the nodes vote at once), then replaced (another \
    primary of the shard is published) or stayed (it answers again, and owns its slots). Or left to the nodes' own pace, and \
    why: switched-off, slots-moving, maintenance, no-replica, timeout-unknown, timeout-short, owned-lately, hurried-lately";
const HEALTHY: &str =
    "1 when the group has a confirmed writer, agents watch it, and Consul shows what was published";
const DEGRADED: &str = "1 when the group is healthy, and a replica or a Sentinel is missing: it survives less than it could";
const PROBLEM: &str = "1 while a problem of this kind exists, else 0";
const WRITER: &str = "1 for the published writer; no such line while there is none";
const PAUSED: &str = "When an operator paused it, in Unix time; ends: by-itself or never; no such line while it is not \
    paused";
const KNOWN: &str =
    "Sentinels known, whether they answer or not: every majority is counted against them";
const ANSWERING: &str = "Sentinels that answer about the group";
const VOTES: &str = "Sentinels that name the published writer";
const INSTANCES: &str =
    "How many are published as primary, replica, out-of-sync, down, in-maintenance";
const BEHIND: &str = "How far a replica is behind the writer, in bytes";
const LAG: &str = "Since the writer last heard from the replica";
const CONSUL_AGE: &str =
    "Since Consul last answered about the group; up to 10 when nothing happens";
const SENTINEL_AGE: &str = "Since the Sentinel last answered, or since the agent's start";
const INSTANCE_AGE: &str = "Since the instance last answered, or since the agent's start";
const RENDERED: &str =
    "1 when the file of a [[template]] is up to date and its command succeeded, else 0";

const LOGINS: &str = "Logins to Consul by an identity: done, or why it failed: file, expired, early, jwt, method, rule, disabled, \
    unknown (the token, on the server that is asked), silent, refused";
const TOKEN_LEFT: &str = "How long the token of the login lives on, in seconds; no such line without one, or where it never expires";

/// A registry that is being filled.
struct Filling {
    registry: Registry,
    definitions: Vec<Definition>,
}

impl Filling {
    fn put(
        &mut self,
        name: &str,
        labels: &'static [&'static str],
        help: &'static str,
        metric: impl Metric,
    ) {
        let (kind, suffix) = match metric.metric_type() {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        self.registry.register(name, help, metric);
        let name = format!("{PREFIX}_{name}{suffix}");
        self.definitions.push(Definition { name, kind, labels, help });
    }

    fn gauge(&mut self, name: &str, labels: &'static [&'static str], help: &'static str) -> Gauges {
        let gauges = Gauges::default();
        self.put(name, labels, help, gauges.clone());
        gauges
    }

    /// What is counted or timed on the way.
    fn metered(&mut self, meter: &Meter) {
        let help = "Decisions by result: keep, publish, withdraw, claim, confirm";
        self.put("decisions", &["group", "verdict"], help, meter.decisions.clone());
        let help = "Transactions sent to Consul: committed; lost to another agent that wrote first, usual with several \
                    agents; refused; unknown, when the answer was lost";
        self.put("writes", &["group", "purpose", "outcome"], help, meter.writes.clone());
        let help = "Calls that Consul did not answer well: unreachable, denied, failed (500 and above, or too many \
                    requests), unreadable";
        self.put("consul_errors", &["kind"], help, meter.consul_errors.clone());
        self.login(meter.login());
        let help = "Queries that the Sentinel did not answer";
        self.put("sentinel_errors", OF_SENTINEL, help, meter.sentinel_errors.clone());
        let help = "Queries that the instance did not answer";
        self.put("instance_errors", OF_INSTANCE, help, meter.instance_errors.clone());
        self.put("deaths", &["group", "kind", "outcome"], DEATHS, meter.deaths.clone());
        let help = "From the end of the writer's process to when another writer was seen to be published; only on the \
                    agent beside it";
        let published = meter.death_to_published.clone();
        self.put("death_to_published_seconds", OF_GROUP, help, published);
        let help = "From when this agent saw the new primary's role to when it had published it; only on the agent \
                    that published";
        let published = meter.promotion_to_published.clone();
        self.put("promotion_to_published_seconds", OF_GROUP, help, published);
        let help = "From when this agent saw the new primary's role to when DNS answered with it";
        self.put("promotion_to_dns_seconds", OF_SERVER, help, meter.promotion_to_dns.clone());
        let help = "Answers of DNS: right; missing (none, and there is a writer); other; unwanted (one, and there is \
                    no writer); silent. Some that are not right after each switch are usual";
        self.put("dns_answers", &["group", "server", "result"], help, meter.dns_answers.clone());
        let help = "1 while the answer has not been what was published for 2 s; no such line while the server is \
                    silent";
        self.put("dns_wrong", OF_SERVER, help, meter.dns_wrong.clone());
        let help = "How old a wrong answer is: since its content was no longer published, or since it was first \
                    seen; else 0";
        self.put("dns_stale_seconds", OF_SERVER, help, meter.dns_stale.clone());
    }

    /// The login to Consul by an identity.
    fn login(&mut self, login: Option<LoginPicture>) {
        let logins = Counters::default();
        if let Some(login) = &login {
            let failed = LoginCause::ALL.map(|cause| {
                (cause.as_str(), login.failed.get(&cause).copied().unwrap_or_default())
            });
            for (outcome, count) in failed.into_iter().chain([("done", login.done)]) {
                logins.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(count);
            }
        }
        self.put("consul_logins", &["outcome"], LOGINS, logins);
        let left = self.gauge("consul_token_left_seconds", &["method"], TOKEN_LEFT);
        let Some(login) = login else { return };
        if let Some(end) = login.held.and_then(|held| held.end()) {
            let seconds = end.saturating_duration_since(Instant::now()).as_secs_f64();
            set(&left, vec![("method", login.method)], seconds);
        }
    }

    /// What targets outside are told.
    fn notices(&mut self, meter: &Meter) {
        let help = "Events that a target of [[notify]] was to be told: delivered; failed, after all tries; dropped, since too many \
                    waited";
        self.put("notices", &["target", "outcome"], help, meter.notices.clone());
        let help = "Events that a target of [[notify]] is to be told and has not taken yet";
        self.put("notices_waiting", &["target"], help, meter.notices_waiting.clone());
    }

    /// How agents share the groups.
    fn shares(&mut self, groups: &Gauges) {
        let help = "Groups that this agent is configured with (configured), and those of them that it watches (watched)";
        self.put("groups", &["state"], help, groups.clone());
    }

    /// What is published of clusters.
    fn clusters(&mut self, gauges: &ClusterGauges, counts: &ClusterCounts) {
        let ClusterGauges { generation, slots, nodes, voters, answering, paused } = gauges.clone();
        let help = "Number of the publication of the Redis Cluster";
        self.put("cluster_generation", OF_CLUSTER, help, generation);
        let help = "Slots of 16384 whose owner is published as their primary";
        self.put("cluster_slots_served", OF_CLUSTER, help, slots);
        let help = "Members of the Redis Cluster that are published as primary, replica, none";
        self.put("cluster_nodes", &["cluster", "published"], help, nodes);
        let help =
            "Primaries that own slots, and vote; 0 while this agent hears no majority of them";
        self.put("cluster_voters", OF_CLUSTER, help, voters);
        let help = "Voters that answer this agent; 0 while it hears no majority of them";
        self.put("cluster_voters_answering", OF_CLUSTER, help, answering);
        self.put("cluster_paused_since_seconds", &["cluster", "ends"], PAUSED, paused);
        let help = "Commands to nodes of the Redis Cluster, by command and outcome (done, failed)";
        let ClusterCounts { told, deaths, death_to_published } = counts.clone();
        self.put("cluster_told", &["cluster", "command", "outcome"], help, told);
        let labels = &["cluster", "kind", "outcome"];
        self.put("cluster_deaths", labels, CLUSTER_DEATHS, deaths);
        let help = "From the end of the owner's process, or its first refusal, to when another primary of its shard was \
                    seen to be published; only on the agent that had the nodes vote";
        self.put("cluster_death_to_published_seconds", OF_CLUSTER, help, death_to_published);
    }

    /// What the groups' loops last knew.
    fn metrics(mut self) -> Metrics {
        let to = &mut self;
        Metrics {
            build: to.gauge("build_info", &["version"], "1"),
            healthy: to.gauge("healthy", OF_GROUP, HEALTHY),
            degraded: to.gauge("degraded", OF_GROUP, DEGRADED),
            problem: to.gauge("problem", &["group", "code"], PROBLEM),
            generation: to.gauge("generation", OF_GROUP, "Number of the publication"),
            writer: to.gauge("writer", OF_INSTANCE, WRITER),
            since: to.gauge("generation_since_seconds", OF_GROUP, "When it began, in Unix time"),
            sentinels: to.gauge("sentinels_known", OF_GROUP, KNOWN),
            answering: to.gauge("sentinels_answering", OF_GROUP, ANSWERING),
            votes: to.gauge("sentinels_naming_writer", OF_GROUP, VOTES),
            others: to.gauge("sentinels_naming_another", OF_GROUP, "Sentinels that disagree"),
            paused: to.gauge("paused_since_seconds", &["group", "ends"], PAUSED),
            agents: to.gauge("agents", OF_GROUP, "Agents that watch the group"),
            instances: to.gauge("instances", &["group", "role"], INSTANCES),
            behind: to.gauge("replica_behind_bytes", OF_INSTANCE, BEHIND),
            lag: to.gauge("replica_lag_seconds", OF_INSTANCE, LAG),
            consul_age: to.gauge("consul_look_age_seconds", OF_GROUP, CONSUL_AGE),
            sentinel_age: to.gauge("sentinel_look_age_seconds", OF_SENTINEL, SENTINEL_AGE),
            instance_age: to.gauge("instance_look_age_seconds", OF_INSTANCE, INSTANCE_AGE),
            rendered: to.gauge("rendered", &["destination"], RENDERED),
            registry: self.registry,
            definitions: self.definitions,
        }
    }
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        let mut to = Filling { registry: Registry::with_prefix(PREFIX), definitions: Vec::new() };
        to.metered(meter);
        to.notices(meter);
        to.shares(&meter.groups);
        to.clusters(&meter.clusters, &meter.cluster_counts);
        to.metrics()
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
        if let Some(pause) = &status.pause {
            let ends = ("ends", ends_by(pause.until.is_some()).to_owned());
            let since = pause.since.map_or(0.0, |at| at.as_millisecond() as f64 / 1_000.0);
            set(&self.paused, vec![group(), ends], since);
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
