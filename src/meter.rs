//! What an agent counts and times while it runs: shown by HTTP at `/metrics`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::clock::Clock;
use crate::consul::login::LoginPicture;
use crate::core::cluster::watch::ClusterFigures;
use crate::core::duty::action::Purpose;
use crate::core::group::{Aftermath, Outcome, Published};
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::{DeathSign, InstanceAnswer, Reading, SentinelAnswer};
use crate::core::published::name_check::{self, CheckResult};
use crate::core::published::publication::Verdict;
use crate::core::shown::status::Problem;
use crate::core::time::Mono;

/// Names and values of the labels of one line of a metric.
pub type Labels = Vec<(&'static str, String)>;
/// Something that is counted.
pub type Counters = Family<Labels, Counter>;
/// Something that is timed, in seconds.
pub type Histograms = Family<Labels, Histogram, Buckets>;
/// Something that goes up and down.
pub type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
/// When something was last seen, in ms of the agent's clock; 0 is before everything.
type Moments = Family<Labels, Gauge<u64, AtomicU64>>;

/// Upper bounds of what is timed, in seconds: from what a switch takes to what is too long for any user.
const BUCKETS_S: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Makes histograms with `BUCKETS_S`.
#[derive(Debug, Clone, Copy)]
pub struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS_S)
    }
}

/// All of it. Clones count together.
#[derive(Clone)]
pub struct Meter {
    /// The clock of [`Meter::sentinel_age`] and the like.
    clock: Clock,
    /// Decisions, by group and verdict.
    pub decisions: Counters,
    /// Transactions sent to Consul, by group, purpose and outcome.
    pub writes: Counters,
    /// Calls to Consul without an answer to go by, by kind.
    pub consul_errors: Counters,
    /// What became of events that targets were to be told, by target and outcome.
    pub notices: Counters,
    /// Events that wait, by target.
    pub notices_waiting: Gauges,
    /// Questions that a Sentinel did not answer, by group and Sentinel.
    pub sentinel_errors: Counters,
    /// Questions that an instance did not answer, by group and instance.
    pub instance_errors: Counters,
    /// From when an instance was seen to be promoted to when it was published, by group.
    pub promotion_to_published: Histograms,
    /// Ends of writers' processes that the kernel told of, by group, kind of proof and what became of it.
    pub deaths: Counters,
    /// From such an end to when another writer was seen to be published, by group.
    pub death_to_published: Histograms,
    /// From then to when DNS answered it, by group and server.
    pub promotion_to_dns: Histograms,
    /// Answers of DNS servers, by group, server and how they compare with what was published.
    pub dns_answers: Counters,
    /// 1 while a server's answers are not what was published, by group and server.
    pub dns_wrong: Gauges,
    /// For how long they have not been, in seconds.
    pub dns_stale: Gauges,
    /// The groups that this agent is configured with, and those of them that it watches.
    pub groups: Gauges,
    /// What is published of each cluster, by cluster.
    pub clusters: ClusterGauges,
    /// What is counted of each cluster.
    pub cluster_counts: ClusterCounts,
    login: Arc<dyn Fn() -> Option<LoginPicture> + Send + Sync>,
    consul_seen: Moments,
    sentinels_seen: Moments,
    instances_seen: Moments,
    loops_seen: Moments,
}

impl Meter {
    /// Nothing has been counted yet. `consul_errors` are those of the agent's client.
    pub fn new(clock: Clock, consul_errors: Counters) -> Self {
        Self {
            clock,
            consul_errors,
            decisions: Counters::default(),
            writes: Counters::default(),
            notices: Counters::default(),
            notices_waiting: Gauges::default(),
            sentinel_errors: Counters::default(),
            instance_errors: Counters::default(),
            promotion_to_published: Histograms::new_with_constructor(Buckets),
            deaths: Counters::default(),
            death_to_published: Histograms::new_with_constructor(Buckets),
            promotion_to_dns: Histograms::new_with_constructor(Buckets),
            dns_answers: Counters::default(),
            dns_wrong: Gauges::default(),
            dns_stale: Gauges::default(),
            groups: Gauges::default(),
            clusters: ClusterGauges::default(),
            cluster_counts: ClusterCounts::default(),
            login: Arc::new(|| None),
            consul_seen: Moments::default(),
            sentinels_seen: Moments::default(),
            instances_seen: Moments::default(),
            loops_seen: Moments::default(),
        }
    }

    /// The same with what `login` says of the login to Consul.
    #[must_use]
    pub fn with_login(
        self,
        login: impl Fn() -> Option<LoginPicture> + Send + Sync + 'static,
    ) -> Self {
        Self { login: Arc::new(login), ..self }
    }

    /// What is known of the login to Consul, where there is one.
    pub fn login(&self) -> Option<LoginPicture> {
        (self.login)()
    }

    /// Seconds since Consul last answered for this group, or since the start.
    pub fn consul_age(&self, group: &GroupName) -> f64 {
        self.age(&self.consul_seen, &of(group))
    }

    /// Seconds since this Sentinel last answered for this group, or since the start.
    pub fn sentinel_age(&self, group: &GroupName, sentinel: &Address) -> f64 {
        self.age(&self.sentinels_seen, &sentinel_of(group, sentinel))
    }

    /// Seconds since this instance last answered, or since the start.
    pub fn instance_age(&self, group: &GroupName, instance: &Address) -> f64 {
        self.age(&self.instances_seen, &instance_of(group, instance))
    }

    /// Seconds since this group's loop last turned, or since the start.
    pub fn loop_age(&self, group: &GroupName) -> f64 {
        self.age(&self.loops_seen, &of(group))
    }

    /// So many groups are in the config, and the agent watches so many of them.
    pub fn shares(&self, configured: usize, watched: usize) {
        for (state, count) in [("configured", configured), ("watched", watched)] {
            self.groups.get_or_create(&vec![("state", state.to_owned())]).set(count as f64);
        }
    }

    /// This server is asked for the group's name no more.
    pub fn name_unasked(&self, group: &GroupName, server: &Address) {
        let labels = vec![("group", group.to_string()), ("server", server.to_string())];
        self.dns_wrong.remove(&labels);
        self.dns_stale.remove(&labels);
    }

    /// A DNS server has answered for the group's name, or not; `problem` is what is wrong with that by now.
    pub fn name_answered(
        &self,
        group: &GroupName,
        server: &Address,
        heard: &CheckResult,
        problem: Option<&Problem>,
    ) {
        let labels = vec![("group", group.to_string()), ("server", server.to_string())];
        for verdict in name_check::DnsVerdict::ALL {
            let result = [&labels[..], &[("result", verdict.as_str().to_owned())]].concat();
            let counter = self.dns_answers.get_or_create_owned(&result);
            counter.inc_by(u64::from(verdict == heard.verdict));
        }
        if let Some(ms) = heard.first_after_promotion_ms {
            self.promotion_to_dns.get_or_create(&labels).observe(seconds(ms));
        }
        // Nothing is known of the answers of a server that gives none.
        if heard.verdict == name_check::DnsVerdict::Silent {
            self.dns_wrong.remove(&labels);
            self.dns_stale.remove(&labels);
            return;
        }
        self.dns_wrong.get_or_create(&labels).set(f64::from(u8::from(problem.is_some())));
        self.dns_stale.get_or_create(&labels).set(seconds(heard.stale_ms));
    }

    fn age(&self, moments: &Moments, labels: &Labels) -> f64 {
        let seen = moments.get(labels).map_or(0, |moment| moment.get());
        seconds(self.clock.now().mono - Mono(seen))
    }
}

/// What is published of clusters, in figures.
#[derive(Debug, Clone, Default)]
pub struct ClusterGauges {
    /// The number of the publication, by cluster.
    pub generation: Gauges,
    /// Slots with a published primary, by cluster.
    pub slots: Gauges,
    /// Members, by cluster and what they are published as.
    pub nodes: Gauges,
    /// Voters, by cluster.
    pub voters: Gauges,
    /// Those of them that answer, by cluster.
    pub answering: Gauges,
    /// Since when it is paused, by cluster and whether that ends by itself.
    pub paused: Gauges,
}

/// What is counted and timed of clusters.
#[derive(Debug, Clone)]
pub struct ClusterCounts {
    /// What nodes were told, by cluster, command and outcome.
    pub told: Counters,
    /// Deaths of owners of slots, by cluster, what they are known by and what became of it.
    pub deaths: Counters,
    /// From such a death to when another primary of the shard was published, by cluster.
    pub death_to_published: Histograms,
}

impl Default for ClusterCounts {
    fn default() -> Self {
        let death_to_published = Histograms::new_with_constructor(Buckets);
        Self { told: Counters::default(), deaths: Counters::default(), death_to_published }
    }
}

/// The part of a [`Meter`] that one cluster's loop shows its figures with, for as long as it is there.
pub struct ClusterMeter {
    gauges: ClusterGauges,
    counts: ClusterCounts,
    cluster: GroupName,
}

impl ClusterMeter {
    /// A meter that labels all it shows with this cluster.
    pub fn new(meter: &Meter, cluster: GroupName) -> Self {
        let counts = meter.cluster_counts.clone();
        Self { gauges: meter.clusters.clone(), counts, cluster }
    }

    /// Counts what a node was told.
    pub fn told(&self, command: &'static str, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        let more = vec![("command", command.to_owned()), ("outcome", outcome.to_owned())];
        self.counts.told.get_or_create(&[self.labels(), more].concat()).inc();
    }

    /// An owner of slots has died, and this became of it.
    pub fn died(&self, sign: DeathSign, aftermath: Aftermath) {
        let more = died_as(sign, aftermath);
        self.counts.deaths.get_or_create(&[self.labels(), more].concat()).inc();
        if let Aftermath::Replaced(ms) = aftermath {
            let histograms = &self.counts.death_to_published;
            histograms.get_or_create(&self.labels()).observe(seconds(ms));
        }
    }

    fn labels(&self) -> Labels {
        vec![("cluster", self.cluster.to_string())]
    }

    fn as_what(&self, what: &str) -> Labels {
        [self.labels(), vec![("published", what.to_owned())]].concat()
    }

    fn ending(&self, ends: bool) -> Labels {
        [self.labels(), vec![("ends", ends_by(ends).to_owned())]].concat()
    }

    fn unpause(&self, paused: &Gauges) {
        for ends in [true, false] {
            paused.remove(&self.ending(ends));
        }
    }

    /// Shows what is known now.
    pub fn show(&self, figures: &ClusterFigures) {
        let set = |gauges: &Gauges, labels: Labels, value: f64| {
            gauges.get_or_create(&labels).set(value);
        };
        let ClusterGauges { generation, slots, nodes, voters, answering, paused } = &self.gauges;
        self.unpause(paused);
        if let Some((since, ends)) = figures.paused {
            let since = since.map_or(0.0, |at| at.as_millisecond() as f64 / 1_000.0);
            set(paused, self.ending(ends), since);
        }
        set(generation, self.labels(), figures.generation as f64);
        set(slots, self.labels(), figures.slots_served as f64);
        set(voters, self.labels(), figures.voters as f64);
        set(answering, self.labels(), figures.answering as f64);
        set(nodes, self.as_what("primary"), figures.primaries as f64);
        set(nodes, self.as_what("replica"), figures.replicas as f64);
        set(nodes, self.as_what("none"), figures.unfit as f64);
    }
}

impl Drop for ClusterMeter {
    fn drop(&mut self) {
        let ClusterGauges { generation, slots, nodes, voters, answering, paused } = &self.gauges;
        self.unpause(paused);
        for gauges in [generation, slots, voters, answering] {
            gauges.remove(&self.labels());
        }
        for what in ["primary", "replica", "none"] {
            nodes.remove(&self.as_what(what));
        }
    }
}

/// Whether a pause ends by itself, as the label `ends` has it.
pub fn ends_by(itself: bool) -> &'static str {
    if itself { "by-itself" } else { "never" }
}

/// The label `group`, which every metric of a group has.
pub fn of(group: &GroupName) -> Labels {
    vec![("group", group.to_string())]
}

/// The labels of a Sentinel, asked about a group.
pub fn sentinel_of(group: &GroupName, sentinel: &Address) -> Labels {
    vec![("group", group.to_string()), ("sentinel", sentinel.to_string())]
}

/// The labels of a group's instance. Not `instance`, which is Prometheus's own for the target that it has scraped.
pub fn instance_of(group: &GroupName, instance: &Address) -> Labels {
    vec![("group", group.to_string()), ("address", instance.to_string())]
}

/// The labels of a death, besides whose it is.
fn died_as(sign: DeathSign, aftermath: Aftermath) -> Labels {
    vec![("kind", sign.as_str().to_owned()), ("outcome", aftermath.as_str().to_owned())]
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// The part of a [`Meter`] that one target's task counts with.
#[derive(Clone)]
pub struct NoticeMeter {
    notices: Counters,
    waiting: Gauges,
    target: String,
}

impl NoticeMeter {
    /// A meter that labels all it counts with this target. What has not happened yet is 0, and not missing.
    pub fn new(meter: &Meter, target: &str) -> Self {
        let (notices, waiting) = (meter.notices.clone(), meter.notices_waiting.clone());
        let meter = Self { notices, waiting, target: target.to_owned() };
        for outcome in NOTICE_OUTCOMES {
            meter.notices.get_or_create(&meter.as_outcome(outcome)).inc_by(0);
        }
        meter.waiting(0);
        meter
    }

    fn as_outcome(&self, outcome: &str) -> Labels {
        vec![("target", self.target.clone()), ("outcome", outcome.to_owned())]
    }

    /// An event has ended so: one of [`NOTICE_OUTCOMES`].
    pub fn ended(&self, outcome: &str) {
        self.notices.get_or_create(&self.as_outcome(outcome)).inc();
    }

    /// So many events are not told yet.
    pub fn waiting(&self, count: usize) {
        self.waiting.get_or_create(&vec![("target", self.target.clone())]).set(count as f64);
    }

    /// The target is told nothing more.
    pub fn end(&self) {
        self.waiting.remove(&vec![("target", self.target.clone())]);
        for outcome in NOTICE_OUTCOMES {
            self.notices.remove(&self.as_outcome(outcome));
        }
    }
}

/// What becomes of an event at a target.
pub const NOTICE_OUTCOMES: [&str; 3] = ["delivered", "failed", "dropped"];

/// The part of a [`Meter`] that one group's loop counts with.
pub struct GroupMeter {
    meter: Meter,
    group: GroupName,
    followed: BTreeSet<Address>,
}

impl GroupMeter {
    /// A meter that labels all it counts with this group.
    pub fn new(meter: Meter, group: GroupName) -> Self {
        Self { meter, group, followed: BTreeSet::new() }
    }

    /// The loop has turned.
    pub fn beat(&self, now: Mono) {
        self.meter.loops_seen.get_or_create(&of(&self.group)).set(now.0);
    }

    /// A Sentinel answered, or failed to.
    pub fn sentinel_answered(&self, sentinel: &Address, reading: &Reading<SentinelAnswer>) {
        let Meter { sentinel_errors, sentinels_seen, .. } = &self.meter;
        note(sentinel_errors, sentinels_seen, &sentinel_of(&self.group, sentinel), reading);
    }

    /// A Sentinel is asked no more.
    pub fn sentinel_gone(&self, sentinel: &Address) {
        let labels = sentinel_of(&self.group, sentinel);
        self.meter.sentinel_errors.remove(&labels);
        self.meter.sentinels_seen.remove(&labels);
    }

    /// An instance answered, or failed to. An instance that is not watched any more may be answered for once more, and
    /// does not count.
    pub fn instance_answered(&self, instance: &Address, reading: &Reading<InstanceAnswer>) {
        let Meter { instance_errors, instances_seen, .. } = &self.meter;
        if self.followed.contains(instance) {
            note(instance_errors, instances_seen, &instance_of(&self.group, instance), reading);
        }
    }

    /// Consul's answer about the group has arrived: a watch is asked for long before.
    pub fn consul_answered(&self, now: Mono) {
        self.meter.consul_seen.get_or_create(&of(&self.group)).set(now.0);
    }

    /// Exactly these instances are followed; the others are counted no more.
    pub fn follows(&mut self, wanted: &BTreeSet<Address>) {
        for gone in self.followed.difference(wanted) {
            let labels = instance_of(&self.group, gone);
            self.meter.instance_errors.remove(&labels);
            self.meter.instances_seen.remove(&labels);
        }
        self.followed.clone_from(wanted);
    }

    /// The loop has decided.
    pub fn decided(&self, verdict: &Verdict) {
        let labels =
            vec![("group", self.group.to_string()), ("verdict", verdict.as_str().to_owned())];
        self.meter.decisions.get_or_create(&labels).inc();
    }

    /// Another generation is in Consul.
    pub fn published(&self, published: &Published) {
        let promoted = published.promoted.filter(|_| published.ours);
        if let Some(promoted) = promoted {
            let taken = seconds(published.at - promoted);
            let histograms = &self.meter.promotion_to_published;
            histograms.get_or_create(&of(&self.group)).observe(taken);
        }
    }

    /// A writer's process has ended, and this became of it.
    pub fn died(&self, sign: DeathSign, aftermath: Aftermath) {
        let labels = [of(&self.group), died_as(sign, aftermath)].concat();
        self.meter.deaths.get_or_create(&labels).inc();
        if let Aftermath::Replaced(ms) = aftermath {
            let histograms = &self.meter.death_to_published;
            histograms.get_or_create(&of(&self.group)).observe(seconds(ms));
        }
    }

    /// How the transactions for this purpose end, for the task that sends one.
    pub fn writes(&self, purpose: Purpose) -> impl Fn(&Outcome) + Send + 'static {
        let (writes, group) = (self.meter.writes.clone(), self.group.to_string());
        move |outcome| {
            let labels = vec![
                ("group", group.clone()),
                ("purpose", purpose.as_str().to_owned()),
                ("outcome", outcome.as_str().to_owned()),
            ];
            writes.get_or_create(&labels).inc();
        }
    }
}

fn note<T>(errors: &Counters, seen: &Moments, labels: &Labels, reading: &Reading<T>) {
    // Made in any case: what has never failed is 0, and not missing.
    let errors = errors.get_or_create_owned(labels);
    match &reading.result {
        Ok(_) => {
            seen.get_or_create(labels).set(reading.asked.0);
        }
        Err(_) => {
            errors.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(asked: u64, result: Result<(), &str>) -> Reading<()> {
        let result = result.map_err(str::to_owned);
        Reading { asked: Mono(asked), answered: Mono(asked + 1), result }
    }

    #[test]
    fn a_failure_is_counted_and_leaves_the_last_good_look_as_it_was() {
        let (errors, seen) = (Counters::default(), Moments::default());
        let labels = vec![("sentinel", "10.0.0.1:26379".to_owned())];
        note(&errors, &seen, &labels, &reading(5, Ok(())));
        note(&errors, &seen, &labels, &reading(9, Err("no answer in time")));
        assert_eq!(errors.get_or_create(&labels).get(), 1);
        assert_eq!(seen.get_or_create(&labels).get(), 5);
    }

    #[test]
    fn an_instance_that_is_let_go_of_is_counted_no_more() {
        let meter = Meter::new(Clock::start(), Counters::default());
        let mut group = GroupMeter::new(meter.clone(), "redis".parse().unwrap());
        let instance: Address = "10.0.0.5:6379".parse().unwrap();
        let labels = instance_of(&group.group, &instance);
        let result = Err("closed".to_owned());
        let failed = Reading { asked: Mono(1), answered: Mono(2), result };
        group.follows(&BTreeSet::from([instance.clone()]));
        group.instance_answered(&instance, &failed);
        assert!(meter.instance_errors.get(&labels).is_some());
        group.follows(&BTreeSet::new());
        group.instance_answered(&instance, &failed);
        assert!(meter.instance_errors.get(&labels).is_none());
    }
}
