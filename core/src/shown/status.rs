//! What a person wants to know of a group, from one look at it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decide::Decision;
use crate::duty::fence::may_be_former;
use crate::identity::address::{Address, GroupName, Zone};
use crate::known::clocks::skews;
use crate::known::memory::Condition;
use crate::known::observed::{
    DownOpinion, InstanceAnswer, Reading, Role, SentinelAnswer, SentinelId, StoreAnswer,
    StoredState,
};
use crate::known::view::View;
use crate::policy::Policy;
use crate::published::pause::PauseStatus;
use crate::published::projection::{Layout, differences, project};
use crate::published::record::{Change, InstanceRecord, Level, PublishedRole, Record};
use crate::published::replicas::InstanceRows;
use crate::shown::health::{is_ready, serves};
use crate::shown::reasons::{LeftAlone, NoFirst, NotRelocated, Reason, WhyLeft};
use crate::shown::unreachable::refuses_writes;
use crate::shown::unreachable::{UNREACHABLE_AFTER_MS, unreachable};
use crate::situation::Situation;
use crate::situation::writer::WriterTest;

/// What `status`, the page and the metrics show of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupStatus {
    /// The group's name, as Sentinel has it.
    pub group: GroupName,
    /// The name that DNS answers with the writer.
    pub name: String,
    /// There is a confirmed writer that says so itself, what Consul shows agrees, and an agent watches.
    pub healthy: bool,
    /// It is healthy, and survives less than it could: a replica or a Sentinel is missing.
    pub degraded: bool,
    /// Consul has been read.
    pub consul_read: bool,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
    /// The published writer.
    pub writer: Option<Address>,
    /// The generation; 0 before the first publication.
    pub generation: u64,
    /// When the generation began.
    pub since: Option<Timestamp>,
    /// Why the writer is published or was withdrawn, in one sentence.
    pub why: Option<String>,
    /// The level of the publication; `None` without a writer.
    pub level: Option<Level>,
    /// Sentinel's epoch of the writer, when one is known.
    pub epoch: Option<u64>,
    /// The pause that an operator has asked for, while it is on.
    pub pause: Option<PauseStatus>,
    /// How many Sentinels name the writer now.
    pub votes: usize,
    /// How many Sentinels are known.
    pub known_sentinels: usize,
    /// Every instance that was asked.
    pub instances: Vec<InstanceStatus>,
    /// Every Sentinel that was asked.
    pub sentinels: Vec<SentinelStatus>,
    /// The agents that watch the group.
    pub agents: Vec<String>,
    /// The agents that are configured with the group, in the order in which they are to watch it; empty where that was not
    /// read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configured_agents: Vec<String>,
    /// Those that watch it and change no instance and no Sentinel of it (`manage = false`).
    pub publishing_only: Vec<String>,
    /// What is done before Sentinels have waited for `down-after-milliseconds`: `proof`, `vote` or `off`.
    pub fast_failover: &'static str,
    /// The last changes, newest first.
    pub history: Vec<Change>,
    /// What a running agent of this host knows, where a command could not read Consul and that agent answers by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_by_agent: Option<KnownByAgent>,
}

/// What was asked of a running agent of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownByAgent {
    /// Where it was asked.
    pub url: String,
    /// Why it has not told anything; `None` when it has.
    pub error: Option<String>,
    /// What it shows of the group; `None` where it does not watch it.
    pub shown: Option<AgentShows>,
}

/// What an agent shows of one group, of whatever version it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentShows {
    /// It has read Consul at some time: what follows was there then.
    pub consul_read: bool,
    /// The published writer.
    pub writer: Option<Address>,
    /// The generation; 0 before the first publication.
    pub generation: u64,
    /// When the generation began.
    pub since: Option<Timestamp>,
    /// Why the writer is published or was withdrawn, in one sentence.
    pub why: Option<String>,
    /// What is wrong, as it sees it.
    pub problems: Vec<AgentProblem>,
}

/// One problem that an agent shows; its code may be of another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentProblem {
    /// Which kind of problem.
    pub code: String,
    /// What is wrong, as that agent says it.
    pub text: String,
}

impl GroupStatus {
    /// Adds what was found wrong elsewhere.
    pub fn add(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
        (self.healthy, self.degraded) = judge(&self.problems);
    }
}

/// Healthy, and degraded.
fn judge(problems: &[Problem]) -> (bool, bool) {
    let healthy = problems.iter().all(|problem| problem.code.only_degrades());
    (healthy, healthy && !problems.is_empty())
}

/// One problem of a group, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which kind of problem: the label of the metric, and what an alert can match.
    pub code: ProblemCode,
    /// In words, with what to do about it.
    pub text: String,
}

/// The kinds of things that can be wrong with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The key `state` is damaged, or a newer version wrote it.
    ///
    /// Cure: upgrade this agent; a damaged one: delete the key, and agents write it again.
    StateUnreadable,
    /// What is published under this name is another group's.
    ///
    /// Cure: another group name, or another service and prefix; after a move of the group, `consul-redis adopt GROUP`.
    NotOurs,
    /// The group was never published.
    ///
    /// Cure: wait for the first agent; look at its log.
    NothingPublished,
    /// The group has no first primary yet.
    ///
    /// Cure: `text` names what the agents wait for: `expect`, `bootstrap_wait`.
    NoFirstPrimary,
    /// The data of two instances has [diverged](glossary.md#diverged-data), and neither is recorded as the last writer.
    ///
    /// Cure: decide which data is right, and delete the other's: nothing is overwritten until then
    /// ([recover-data.md](how-to/recover-data.md#the-data-of-two-instances-has-diverged)).
    DataDiverged,
    /// The name is withdrawn: a majority of the Sentinels says that the primary is down, or they are split.
    ///
    /// Cure: wait for the failover; longer than that: Sentinels' logs for `-failover-abort-...`, often no replica that
    /// may be selected.
    NoWriter,
    /// The published writer does not answer from here, or does not report the role of a primary.
    ///
    /// Cure: the network from this agent, when other agents reach it; else Sentinels are about to fail over.
    WriterFails,
    /// A majority of the Sentinels names another address, or none.
    ///
    /// Cure: `status` shows what each Sentinel names; agents correct a minority after 30 s. A majority that names a
    /// dead primary: [recover-sentinels.md](how-to/recover-sentinels.md).
    SentinelsDisagree,
    /// The writer was promoted, and a majority has yet to follow.
    ///
    /// Cure: longer than `confirm_within`: the Sentinels do not hear one another; the network between them, their
    /// `announce-ip`, their logs.
    Unconfirmed,
    /// No agent watches the group.
    ///
    /// Cure: start one.
    NoAgents,
    /// Rows or keys in Consul are not what was published.
    ///
    /// Cure: agents put them back within 10 s; longer: look for another program that changes them.
    Drift,
    /// Another node shows the service of the group's writer: the name has two writers, or the group is not published
    /// for that reason.
    ///
    /// Cure: choose another service, or `consul-redis retire` the group below the other prefix.
    ServiceTaken,
    /// The node that the group's rows belong on is another program's or another group's: nothing is published.
    ///
    /// Cure: choose another prefix or group name.
    ForeignNode,
    /// The config wants another service name.
    ///
    /// Cure: `text` has the command.
    Renamed,
    /// A [stray primary](glossary.md#stray-primary): another instance reports the role of a primary.
    ///
    /// Cure: `text` says why it is left alone; if it holds other data:
    /// [recover-data.md](how-to/recover-data.md#the-data-of-two-instances-has-diverged).
    SecondPrimary,
    /// One process answers at two addresses: the group knows it by one, and an agent or a service has the other.
    ///
    /// Cure: `text` has both: write the one that the Sentinels know in `[[redis]]`. Nothing is done to the instance at
    /// the other address.
    TwoAddresses,
    /// A loopback address is configured or registered, and the group is known at other addresses: it would lead every
    /// host to itself, so it is ignored.
    ///
    /// Cure: write the address that the Sentinels know in `[[redis]]`.
    LoopbackAddress,
    /// An instance in maintenance may be selected by a failover, or is the writer.
    ///
    /// Cure: `consul-redis maintenance on` or `switchover`.
    Maintenance,
    /// Several Sentinels have one id, and count as one.
    ///
    /// Cure: delete `sentinel myid` in the config of all but one, and start those again.
    SameSentinelId,
    /// Sentinels do not let the agent tell them how an election ended whose leader dies: at level `promotion` a new
    /// writer is published when a majority names it, some 0.9 s later.
    ///
    /// Cure: `ACL SETUSER` on the Sentinels `text` names: `+publish` and `&__sentinel__:hello`; or `relay = false`.
    RelayRefused,
    /// Too few Sentinels answer for a failover.
    ///
    /// Cure: start them again ([recover-sentinels.md](how-to/recover-sentinels.md), when they are gone for good).
    NoMajority,
    /// The look-up of the Sentinels fails.
    ///
    /// Cure: correct the name or the service that they are listed under; `dig` it.
    SentinelsNotFound,
    /// A DNS server answers something else than what was published, for 2 s or more.
    ///
    /// Cure: the name is answered elsewhere, and not here: `text` has the server. `, N s out of date`: it lags behind
    /// Consul's leader, or caches. Two addresses: something else is registered under the same service name. Nothing at
    /// all, with ACLs: its DNS token lacks [consul/reader-policy.hcl](../consul/reader-policy.hcl); or no client uses
    /// DNS: `[dns] check = false`.
    DnsWrong,
    /// A server of `[dns] servers` does not answer, or answers for another domain.
    ///
    /// Cure: start it, or correct `servers` and `domain`.
    DnsSilent,
    /// The login that Sentinels have or are to get for the instances is refused, lacks rights that Sentinel needs, or
    /// cannot be stored by it; Sentinels keep the one that they have.
    ///
    /// Cure: `text` names the file and the server: correct the file, or `ACL SETUSER` on every instance.
    SentinelLogin,
    /// Sentinels call an instance up and it does not answer this agent, for 5 s and longer than
    /// `down-after-milliseconds`.
    ///
    /// Cure: the network and firewall from this agent; TLS.
    InstanceSilent,
    /// An instance does not take the agent's login, for 5 s: this agent could not follow its promotion.
    ///
    /// Cure: `text` names the instance and the file: correct it, or `ACL SETUSER` there (Redis does not replicate
    /// users).
    InstanceRefuses,
    /// Consul denies what this agent reads, for 5 s.
    ///
    /// Cure: `text` names the file with the token: replace it, or compare it with
    /// [consul/agent-policy.hcl](../consul/agent-policy.hcl).
    ConsulRefuses,
    /// The login to Consul fails ([`[consul.login]`](how-to/log-in-by-identity.md)). The token before is used for as long as
    /// it lives, which is a third of its life from when it is to be renewed.
    ///
    /// Cure: `text` says what is wrong: the file with the JWT, its time, the auth method, its binding rule.
    ConsulLogin,
    /// Consul does not answer this agent, for 5 s; what is published stays.
    ///
    /// Cure: the way to it; its own log.
    ConsulSilent,
    /// The writer refuses every write, for 5 s: `NOREPLICAS` (`min-replicas-to-write`, and no replica keeps up) or
    /// `OOM` (`maxmemory` under `noeviction`), known from INFO. The name stays, since no other instance could take the
    /// writes. (`MISCONF` and `READONLY` are `writer-fails`).
    ///
    /// Cure: start replicas, or lower `min-replicas-to-write`; more memory, or another `maxmemory-policy`.
    WritesRefused,
    /// Node mode: this host is [isolated](glossary.md#isolated), and the writes of its primary are held: its clients wait.
    ///
    /// Cure: the network of this host; the writes go on by themselves once it sees Consul or the Sentinels, and that it
    /// still is the primary.
    WritesHeld,
    /// Node mode: this host is [isolated](glossary.md#isolated), and its primary is a Redis before 6.2, which cannot
    /// hold writes: what it takes may be lost.
    ///
    /// Cure: the network of this host; `min-replicas-to-write` 1, or Redis 6.2 or later.
    WritesNotHeld,
    /// There are instances besides the writer, and `<service>-replica` is empty.
    ///
    /// Cure: `text` says of each why it is not to be read from.
    NoReplicas,
    /// A majority of the Sentinels gets no answer from an instance.
    ///
    /// Cure: start it again; an instance that is gone for good is forgotten after `forget_after`.
    InstanceDown,
    /// A replica answers PING with `MISCONF`: it cannot save its data. It stays in `<service>-replica`, and no failover
    /// selects it.
    ///
    /// Cure: its disk, and its log; `BGSAVE`.
    CannotSave,
    /// A replica is out of sync for more than 5 s: its link is down, or the writer has not heard it. Others serve
    /// reads.
    ///
    /// Cure: its log, its network, `masterauth`; `status` says which.
    ReplicaOutOfSync,
    /// Some Sentinels do not answer, and a majority does.
    ///
    /// Cure: start them again; a Sentinel that is gone for good is forgotten after `forget_sentinels_after`.
    SentinelsMissing,
    /// The writer's data set has no mark of what is published, although there is to be one (`mark`): the agents' login
    /// may not read or write the key, Redis refuses it (`OOM`, `MISCONF`, `NOREPLICAS`), or the key holds something else.
    ///
    /// Cure: `text` has the words of Redis. `NOPERM`: `ACL SETUSER` on every instance, `+getrange +set` and `~KEY`
    /// ([redis-users.md](how-to/redis-users.md)); a key that holds something else: another one in `mark`.
    MarkMissing,
    /// An operator has [paused](how-to/pause.md) the group: agents observe and publish, and change nothing else. `text`
    /// says since when, by whom and until when, and which agents are of versions that know no pause, and go on.
    ///
    /// Cure: `consul-redis resume GROUP`, once what it was for is done; agents of older versions: upgrade or stop them.
    Paused,
    /// Tags, metadata, weights and zones of the config are on no row: an agent of a version that knows none watches the
    /// group, and would take them off again.
    ///
    /// Cure: upgrade the agents that `text` names, or stop them.
    WordsHidden,
    /// The configs of agents have different `tags`, `meta` or `weights` of the group. The rows show those of the first
    /// agent by its id that has any.
    ///
    /// Cure: write the same in `[[group]]` on all agents, and reload them (SIGHUP).
    WordsDiffer,
    /// The `replica-priority` of an instance is not what `prefer_zones` says: Redis refuses it to the agent beside the
    /// instance, or another agent stands beside it, too. A failover may choose a replica of another zone.
    ///
    /// Cure: `text` has the words of Redis. `NOPERM`: `ACL SETUSER` on every instance, `+config|set`
    /// ([redis-users.md](how-to/redis-users.md)); two agents: one beside each instance, or the same zone and order in both.
    ZoneOrder,
    /// The clock of an agent is more than a second ahead of another one's, as that one has found. Nothing rests on it
    /// but the times of logs.
    ///
    /// Cure: `chronyc makestep`, on the host that is wrong.
    ClockSkew,
    /// Consul does not answer, or has not been read yet: what is published is not known here.
    ///
    /// Cure: [recover-consul.md](how-to/recover-consul.md), when its data is lost; what the Sentinels and instances
    /// report is shown all the same.
    ConsulUnread,
}

impl ProblemCode {
    /// All of them.
    pub const ALL: [Self; 45] = [
        Self::StateUnreadable,
        Self::NotOurs,
        Self::NothingPublished,
        Self::NoFirstPrimary,
        Self::DataDiverged,
        Self::NoWriter,
        Self::WriterFails,
        Self::SentinelsDisagree,
        Self::Unconfirmed,
        Self::NoAgents,
        Self::Drift,
        Self::ServiceTaken,
        Self::ForeignNode,
        Self::Renamed,
        Self::SecondPrimary,
        Self::TwoAddresses,
        Self::LoopbackAddress,
        Self::Maintenance,
        Self::SameSentinelId,
        Self::RelayRefused,
        Self::NoMajority,
        Self::SentinelsNotFound,
        Self::DnsWrong,
        Self::DnsSilent,
        Self::SentinelLogin,
        Self::InstanceSilent,
        Self::InstanceRefuses,
        Self::ConsulRefuses,
        Self::ConsulLogin,
        Self::ConsulSilent,
        Self::WritesRefused,
        Self::WritesHeld,
        Self::WritesNotHeld,
        Self::NoReplicas,
        Self::InstanceDown,
        Self::CannotSave,
        Self::ReplicaOutOfSync,
        Self::SentinelsMissing,
        Self::MarkMissing,
        Self::Paused,
        Self::WordsHidden,
        Self::WordsDiffer,
        Self::ZoneOrder,
        Self::ClockSkew,
        Self::ConsulUnread,
    ];

    /// The writer serves all the same, and the group survives less than it could, or its history cannot be trusted.
    pub fn only_degrades(self) -> bool {
        use ProblemCode::{
            CannotSave, ClockSkew, ConsulLogin, InstanceDown, MarkMissing, NoReplicas, Paused,
            RelayRefused, ReplicaOutOfSync, SentinelsMissing, WordsDiffer, WordsHidden, ZoneOrder,
        };
        matches!(
            self,
            NoReplicas
                | InstanceDown
                | CannotSave
                | RelayRefused
                | ReplicaOutOfSync
                | SentinelsMissing
                | MarkMissing
                | Paused
                | WordsHidden
                | WordsDiffer
                | ZoneOrder
                | ClockSkew
                | ConsulLogin
        )
    }

    /// As it stands in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StateUnreadable => "state-unreadable",
            Self::NotOurs => "not-ours",
            Self::NothingPublished => "nothing-published",
            Self::NoFirstPrimary => "no-first-primary",
            Self::DataDiverged => "data-diverged",
            Self::NoWriter => "no-writer",
            Self::WriterFails => "writer-fails",
            Self::SentinelsDisagree => "sentinels-disagree",
            Self::Unconfirmed => "unconfirmed",
            Self::NoAgents => "no-agents",
            Self::Drift => "drift",
            Self::ServiceTaken => "service-taken",
            Self::ForeignNode => "foreign-node",
            Self::Renamed => "renamed",
            Self::SecondPrimary => "second-primary",
            Self::TwoAddresses => "two-addresses",
            Self::LoopbackAddress => "loopback-address",
            Self::Maintenance => "maintenance",
            Self::SameSentinelId => "same-sentinel-id",
            Self::RelayRefused => "relay-refused",
            Self::NoMajority => "no-majority",
            Self::SentinelsNotFound => "sentinels-not-found",
            Self::DnsWrong => "dns-wrong",
            Self::DnsSilent => "dns-silent",
            Self::SentinelLogin => "sentinel-login",
            Self::InstanceSilent => "instance-silent",
            Self::InstanceRefuses => "instance-refuses",
            Self::ConsulRefuses => "consul-refuses",
            Self::ConsulLogin => "consul-login",
            Self::ConsulSilent => "consul-silent",
            Self::WritesRefused => "writes-refused",
            Self::WritesHeld => "writes-held",
            Self::WritesNotHeld => "writes-not-held",
            Self::NoReplicas => "no-replicas",
            Self::InstanceDown => "instance-down",
            Self::CannotSave => "cannot-save",
            Self::SentinelsMissing => "sentinels-missing",
            Self::ReplicaOutOfSync => "replica-out-of-sync",
            Self::MarkMissing => "mark-missing",
            Self::Paused => "paused",
            Self::WordsHidden => "words-hidden",
            Self::WordsDiffer => "words-differ",
            Self::ZoneOrder => "zone-order",
            Self::ClockSkew => "clock-skew",
            Self::ConsulUnread => "consul-unread",
        }
    }

    /// A problem with this code.
    pub fn says(self, text: impl Into<String>) -> Problem {
        Problem { code: self, text: text.into() }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceStatus {
    /// Where it listens.
    pub address: Address,
    /// What it is published as; `None` when it has no row.
    pub published: Option<PublishedRole>,
    /// Where it stands, as its rows show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// The role it can be used in now: published, said by itself, and seen by this agent.
    pub serves: Option<PublishedRole>,
    /// It answers, and is ready for commands.
    pub ready: bool,
    /// What it says it is: `primary`, or `replica of <address>`; `None` when it does not answer.
    pub says: Option<String>,
    /// Its replication offset, in bytes.
    pub offset: Option<u64>,
    /// How many bytes it is behind the writer.
    pub behind_bytes: Option<u64>,
    /// Seconds since the writer last heard from it.
    pub lag_s: Option<u64>,
    /// The version of Redis or Valkey, when it answers.
    pub version: Option<String>,
    /// Why it does not answer, or is not ready.
    pub error: Option<String>,
    /// An instance of this host, where its end is to be acted on at once (`fast_failover`): `at once`, or why it would
    /// not be seen.
    pub end_seen: Option<String>,
}

/// One Sentinel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SentinelStatus {
    /// Where it listens.
    pub address: Address,
    /// The primary it names.
    pub names: Option<Address>,
    /// The `config-epoch` at which it names that.
    pub epoch: Option<u64>,
    /// Its opinion of that primary: `up`, `down` (its own), `agreed down`, or `just promoted`.
    pub opinion: Option<&'static str>,
    /// It is in TILT: it does not trust its clock, and takes no part in failovers.
    pub tilt: bool,
    /// Why it does not answer, or that it does not know the group.
    pub error: Option<String>,
}

/// Draws conclusions from one look, and from what was decided on it.
pub fn assess(view: &View<'_>, layout: &Layout, decision: &Decision) -> GroupStatus {
    let View { policy, observed, record, tally, .. } = view;
    let (store, record) = (observed.store.as_ref(), *record);
    let writer = view.writer().cloned();
    let problems = problems(view, layout, decision);
    let (healthy, degraded) = judge(&problems);
    GroupStatus {
        group: policy.group.clone(),
        name: format!("{}.service.consul", service(policy, record)),
        healthy,
        degraded,
        problems,
        consul_read: store.is_some(),
        votes: writer.as_ref().map_or(0, |writer| tally.votes_for(writer)),
        writer,
        generation: record.map_or(0, |record| record.generation),
        since: record.map(|record| record.since),
        why: record.map(|record| record.why.clone()),
        level: record.filter(|r| r.writer.is_some()).map(|record| record.evidence.level()),
        epoch: record.and_then(|record| record.evidence.basis.epoch()),
        pause: view.pause(),
        known_sentinels: tally.known,
        instances: instances(view, decision),
        sentinels: observed.sentinels.iter().map(|(a, reading)| sentinel(a, reading)).collect(),
        agents: store.map(|s| s.agents.iter().cloned().collect()).unwrap_or_default(),
        configured_agents: Vec::new(),
        fast_failover: policy.fast_failover.as_str(),
        publishing_only: store
            .map(|s| s.publishing_only.iter().cloned().collect())
            .unwrap_or_default(),
        history: store.map(|store| store.history.clone()).unwrap_or_default(),
        known_by_agent: None,
    }
}

/// A record knows its service; without one the configured name is the best guess.
fn service(policy: &Policy, record: Option<&Record>) -> String {
    record.map_or_else(|| policy.service.primary(), |record| record.service.primary())
}

/// What is wrong with the group.
pub(crate) fn problems(view: &View<'_>, layout: &Layout, decision: &Decision) -> Vec<Problem> {
    let View { observed, record, tally, .. } = view;
    let mut problems = Vec::new();
    let store = observed.store.as_ref();
    if let Some(StoredState::Unreadable(error)) = store.map(|store| &store.state) {
        let text = format!("the key {} cannot be used: {error}", layout.state());
        problems.push(ProblemCode::StateUnreadable.says(text));
    }
    if let Situation::NotOurs(why) = &decision.situation {
        // The rest is about the other group.
        problems.push(ProblemCode::NotOurs.says(why.to_string()));
        return problems;
    }
    match record {
        None if store.is_none() => {
            let text = "Consul has not been read: what is published is not known";
            problems.push(ProblemCode::ConsulUnread.says(text));
        }
        None => {
            let why = match &decision.situation {
                Situation::Held { writer: None, why } => format!(": {why}"),
                _ => String::new(),
            };
            let text = format!("nothing has been published{why}");
            problems.push(ProblemCode::NothingPublished.says(text));
            problems.extend(no_first(decision));
        }
        Some(record) => match &record.writer {
            None => problems.extend(no_writer(view, record, decision)),
            Some(writer) => problems.extend(writer_problem(view, record, &writer.address)),
        },
    }
    if store.is_some_and(|store| store.agents.is_empty()) {
        let text = "no agent watches this group: nothing will follow a failover";
        problems.push(ProblemCode::NoAgents.says(text));
    }
    problems.extend(drift(view, layout));
    problems.extend(decision.reasons.iter().filter_map(noteworthy));
    problems.extend(maintained(view));
    problems.extend(standing(view).into_iter().map(|(_, problem)| problem));
    if tally.known > 0 && tally.answering < tally.majority() {
        problems.push(ProblemCode::NoMajority.says(format!(
            "only {} of {} known Sentinels answer: no failover is possible{}{}",
            tally.answering,
            tally.known,
            blank(view),
            to_reset(view)
        )));
    } else if tally.answering < tally.known {
        problems.push(ProblemCode::SentinelsMissing.says(format!(
            "only {} of {} known Sentinels answer: a failover is possible while {} of them do",
            tally.answering,
            tally.known,
            tally.majority()
        )));
    }
    problems.extend(replicas_missing(view));
    problems.extend(store.and_then(clocks_differ));
    problems
}

/// Whose clock is ahead of another agent's: texts that give times then contradict one another.
fn clocks_differ(store: &StoreAnswer) -> Option<Problem> {
    let differ: Vec<String> = skews(store)
        .map(|(ahead, behind, ms)| {
            format!("the clock of {ahead} is {} s or more ahead of {behind}'s", ms / 1_000)
        })
        .collect();
    let text = format!("clocks of agents differ: {}", differ.join("; "));
    (!differ.is_empty()).then(|| ProblemCode::ClockSkew.says(text))
}

/// Which instances are not to be read from, or not to be chosen, and why.
fn replicas_missing(view: &View<'_>) -> Vec<Problem> {
    let Some(record) = view.record.filter(|record| record.writer.is_some()) else {
        return Vec::new();
    };
    let others = record.instances.iter().filter(|i| Some(&i.address) != record.writer_address());
    let others: Vec<_> = others.filter(|i| i.role != PublishedRole::Maintenance).collect();
    let mut problems = Vec::new();
    let none_left = !others.is_empty() && record.replicas().next().is_none();
    if none_left {
        let why: Vec<String> = others.iter().map(|i| why_not_read(view, i)).collect();
        let text = format!("no replica can be read from: {}", why.join("; "));
        problems.push(ProblemCode::NoReplicas.says(text));
    }
    for instance in others {
        let address = &instance.address;
        let unable = view.instance(address).filter(|answer| answer.cannot_save());
        if instance.role == PublishedRole::Down {
            let text = format!("{address} is down: {}", error_of(view, address));
            problems.push(ProblemCode::InstanceDown.says(text));
        } else if let Some(error) = unable.and_then(|answer| answer.not_ready.as_ref()) {
            let text = format!(
                "{address} cannot save its data, and no failover selects it (look at its disk and its log): {error}"
            );
            problems.push(ProblemCode::CannotSave.says(text));
        } else if !none_left && is_out_of_sync(view, instance) {
            let text = format!(
                "{address} is out of sync ({}): what it lacks is lost where a failover selects it",
                why_not_in_sync(view, address)
            );
            problems.push(ProblemCode::ReplicaOutOfSync.says(text));
        }
    }
    problems
}

/// The writer does not list it as online and recent, or it says itself that its link is down: for some seconds, as far
/// as one look can tell. One that is not to be shown is kept out on purpose, and a second primary is a problem of its
/// own.
fn is_out_of_sync(view: &View<'_>, instance: &InstanceRecord) -> bool {
    let address = &instance.address;
    let said = |answer: &InstanceAnswer| !answer.announced || answer.is_primary();
    if view.instance(address).is_some_and(said) {
        return false;
    }
    if view.memory.generation.is_none() {
        // Right after a switch every replica is, for a moment.
        let since = view.record.map_or(view.now.wall, |record| record.since);
        let led_ms = view.now.wall.duration_since(since).as_millis();
        return instance.role == PublishedRole::OutOfSync
            && led_ms >= i128::from(UNREACHABLE_AFTER_MS);
    }
    view.lasted(&Condition::OutOfSync(address.clone()), UNREACHABLE_AFTER_MS)
}

/// The Sentinels that answer and count for nothing, since they do not know the group.
fn blank(view: &View<'_>) -> String {
    let blank = view.sentinels().filter(|(_, answer)| answer.group.is_none());
    let blank: Vec<String> = blank.map(|(at, _)| at.to_string()).collect();
    match blank.as_slice() {
        [] => String::new(),
        some => format!(" ({} answer and do not know the group)", some.join(", ")),
    }
}

/// Why an instance is no read endpoint.
fn why_not_read(view: &View<'_>, instance: &InstanceRecord) -> String {
    let address = &instance.address;
    let role = instance.role.as_str();
    format!("{address} is {role} ({})", why_not_in_sync(view, address))
}

/// Why an instance is not in sync with the writer.
fn why_not_in_sync(view: &View<'_>, address: &Address) -> String {
    let Some(answer) = view.instance(address) else { return error_of(view, address) };
    match (&answer.not_ready, &answer.role) {
        (Some(error), _) => format!("it answers `{error}`"),
        (None, Role::Primary { .. }) => "it says that it is a primary".to_owned(),
        (None, Role::Replica { of, link_up: false }) => format!("its link to {of} is down"),
        (None, Role::Replica { of, .. }) if Some(of) != view.writer() => {
            format!("it follows {of}")
        }
        (None, Role::Replica { .. }) => match lag_of(view, address) {
            Some(lag_s) => format!("the writer has not heard it for {lag_s} s"),
            None => "the writer does not list it as online yet".to_owned(),
        },
    }
}

/// For how long the writer has not heard a replica that it lists as online, in s, where that is too long.
fn lag_of(view: &View<'_>, address: &Address) -> Option<u64> {
    let Role::Primary { replicas } = &view.instance(view.writer()?)?.role else { return None };
    let listed = replicas.iter().find(|r| &r.address == address && r.online)?;
    let late = listed.lag_s.saturating_mul(1_000) > view.policy.replica_lag_max_ms;
    late.then_some(listed.lag_s)
}

/// Why an instance does not answer.
fn error_of(view: &View<'_>, address: &Address) -> String {
    match view.observed.instances.get(address).map(|reading| &reading.result) {
        Some(Err(error)) => error.clone(),
        Some(Ok(_)) => "the Sentinels get no answer from it".to_owned(),
        None => "not asked yet".to_owned(),
    }
}

/// What an operator may do where those that answer are all that live, by what each of them says: agents reset none
/// without a majority.
fn to_reset(view: &View<'_>) -> String {
    let heard =
        || view.sentinels().filter_map(|(at, answer)| Some((at, answer, answer.group.as_ref()?)));
    let ids: BTreeSet<&SentinelId> = heard().map(|(_, answer, _)| &answer.id).collect();
    let named: BTreeSet<&Address> = heard().map(|(.., group)| &group.primary).collect();
    let knows_the_living = heard().all(|(_, answer, group)| {
        let up = group.peers.iter().filter(|peer| !peer.s_down).map(|peer| &peer.id);
        let up: BTreeSet<&SentinelId> = up.chain([&answer.id]).collect();
        up == ids
    });
    let gone: BTreeSet<String> = heard()
        .flat_map(|(.., group)| &group.peers)
        .filter(|peer| peer.s_down)
        .map(|peer| peer.address.to_string())
        .collect();
    if ids.len() < 2 || named.len() != 1 || !knows_the_living || gone.is_empty() {
        return String::new();
    }
    let list = heard().filter(|(.., group)| group.peers.iter().any(|peer| peer.s_down));
    let list: Vec<String> = list.map(|(at, ..)| at.to_string()).collect();
    format!(
        ". Those that answer know one another, and call {} down. If these are gone for good, run SENTINEL RESET {} on {}, 30 s \
         apart, while the primary is well: no agent does that without a majority",
        gone.into_iter().collect::<Vec<_>>().join(", "),
        view.policy.group,
        list.join(", then ")
    )
}

/// What Consul shows otherwise than it was published. Rows from before the record changed say nothing.
fn drift(view: &View<'_>, layout: &Layout) -> Option<Problem> {
    let (record, store) = (view.record?, view.observed.store.as_ref()?);
    let rows = view.observed.rows.as_ref().filter(|r| r.asked >= view.memory.store_changed)?;
    let ops = differences(layout, &project(record), rows.found.as_ref(), &store.plain);
    (ops > 0).then(|| {
        ProblemCode::Drift.says(format!(
            "{ops} rows or keys in Consul are not what was published (an agent puts them back)"
        ))
    })
}

/// What is wrong with those in maintenance: they may not be chosen, and are not.
fn maintained(view: &View<'_>) -> Vec<Problem> {
    let store = view.observed.store.as_ref();
    let listed = store.and_then(|store| store.maintenance.as_ref().ok());
    let wrong = |address: &Address| {
        if view.writer() == Some(address) {
            return Some(format!("{address} is in maintenance, and is the writer"));
        }
        let priority = view.instance(address).and_then(|answer| answer.priority)?;
        (priority != 0).then(|| {
            format!(
                "{address} is in maintenance, and may be chosen: its replica-priority is \
                 {priority} (consul-redis maintenance on {address} sets it to 0 again)"
            )
        })
    };
    let addresses = listed.into_iter().flatten().map(|(address, _)| address);
    addresses.filter_map(wrong).map(|text| ProblemCode::Maintenance.says(text)).collect()
}

/// What stands between a blank group and its first primary.
fn no_first(decision: &Decision) -> Option<Problem> {
    let Situation::Blank(Err(why)) = &decision.situation else { return None };
    let code = match why {
        NoFirst::Diverged(..) => ProblemCode::DataDiverged,
        _ => ProblemCode::NoFirstPrimary,
    };
    Some(code.says(why.to_string()))
}

/// The name is withdrawn. What stands in the way now says more than why it was.
fn no_writer(view: &View<'_>, record: &Record, decision: &Decision) -> Vec<Problem> {
    let relocated = match &decision.situation {
        Situation::Relocated(Err(why)) => Some(why),
        _ => None,
    };
    let waits = |reason: &Reason| match reason {
        Reason::NotReplaced(why) => Some(why.to_string()),
        Reason::GaveUp { .. } => Some(format!("{}; {reason}", record.why)),
        _ => None,
    };
    let again = match &decision.situation {
        Situation::Forgotten(Err(why)) => Some(why.to_string()),
        _ => None,
    };
    let now = relocated.map(ToString::to_string).or(again);
    let now = now.or_else(|| out_of_reach(view));
    let now = now.or_else(|| decision.reasons.iter().find_map(waits));
    let why = now.unwrap_or_else(|| record.why.clone());
    let mut problems = vec![ProblemCode::NoWriter.says(format!("there is no writer: {why}"))];
    if let Some(why @ NotRelocated::Diverged(..)) = relocated {
        problems.push(ProblemCode::DataDiverged.says(why.to_string()));
    }
    problems
}

/// The instance that leads does not answer this agent.
fn out_of_reach(view: &View<'_>) -> Option<String> {
    let leads = &view.tally.elected.as_ref()?.address;
    let unreachable = unreachable(view).into_iter().find(|found| found.instance == leads)?;
    Some(format!("a majority of the Sentinels names {leads}, and {unreachable}"))
}

/// What has lasted for some seconds and keeps the group from being used, or this agent from doing its duty: each with
/// what it is told apart by, whatever its text says now.
pub(crate) fn standing(view: &View<'_>) -> Vec<((ProblemCode, Address), Problem)> {
    let mut problems = Vec::new();
    for found in unreachable(view) {
        let code = match found.refuses() {
            true => ProblemCode::InstanceRefuses,
            false => ProblemCode::InstanceSilent,
        };
        // Of the writer that is said already.
        if found.refuses() || view.writer() != Some(found.instance) {
            problems.push(((code, found.instance.clone()), code.says(found.to_string())));
        }
    }
    let one_look = view.memory.generation.is_none();
    let lasted = |at: &Address| {
        let condition = Condition::RefusesWrites(at.clone());
        one_look || view.lasted(&condition, UNREACHABLE_AFTER_MS)
    };
    if let Some(writer) = refuses_writes(view).filter(|at| lasted(at)) {
        let answer = view.instance(writer).and_then(|answer| answer.refuses_writes.as_ref());
        let why = answer.map_or("", String::as_str);
        let text = format!("the writer {writer} refuses writes: {why}");
        let code = ProblemCode::WritesRefused;
        problems.push(((code, writer.clone()), code.says(text)));
    }
    problems
}

/// What is not done that a person has to know of, whatever is published.
fn noteworthy(reason: &Reason) -> Option<Problem> {
    match reason {
        Reason::Renamed { .. } => Some(ProblemCode::Renamed.says(reason.to_string())),
        Reason::Paused(_) => Some(ProblemCode::Paused.says(reason.to_string())),
        Reason::SameId(_) => Some(ProblemCode::SameSentinelId.says(reason.to_string())),
        Reason::RelayRefused(_) => Some(ProblemCode::RelayRefused.says(reason.to_string())),
        Reason::Taken { .. } => Some(ProblemCode::ServiceTaken.says(reason.to_string())),
        Reason::ForeignNode(_) => Some(ProblemCode::ForeignNode.says(reason.to_string())),
        Reason::LeftAlone(left) => Some(ProblemCode::SecondPrimary.says(second_primary(left))),
        Reason::TwoAddresses { .. } => Some(ProblemCode::TwoAddresses.says(reason.to_string())),
        Reason::Held(_) => Some(ProblemCode::WritesHeld.says(reason.to_string())),
        Reason::NotHeld { .. } => Some(ProblemCode::WritesNotHeld.says(reason.to_string())),
        Reason::NotMarked(_) => Some(ProblemCode::MarkMissing.says(reason.to_string())),
        Reason::NotPreferred(_) => Some(ProblemCode::ZoneOrder.says(reason.to_string())),
        Reason::WordsHidden(_) => Some(ProblemCode::WordsHidden.says(reason.to_string())),
        Reason::WordsDiffer(_) => Some(ProblemCode::WordsDiffer.says(reason.to_string())),
        Reason::Loopback { .. } => Some(ProblemCode::LoopbackAddress.says(reason.to_string())),
        _ => None,
    }
}

fn second_primary(left: &LeftAlone) -> String {
    match left.why {
        WhyLeft::Unrelated { .. }
        | WhyLeft::Unproven { .. }
        | WhyLeft::WriterIsEmpty { .. }
        | WhyLeft::SwitchedOff
        | WhyLeft::Stranger => left.to_string(),
        WhyLeft::MayBePromoted | WhyLeft::NoCertainWriter(_) => {
            format!("{} says that it is a primary as well", left.instance)
        }
    }
}

fn writer_problem(view: &View<'_>, record: &Record, writer: &Address) -> Option<Problem> {
    let tally = &view.tally;
    let fails = |text: String| Some(ProblemCode::WriterFails.says(text));
    match view.test(writer) {
        WriterTest::Fails(why) => return fails(format!("the writer {writer} {why}")),
        WriterTest::Unknown(why) => {
            return fails(format!("the writer {writer} does not answer from here: {why}"));
        }
        WriterTest::Passes(_) => {}
    }
    let confirmed = tally.elected.as_ref().is_some_and(|elected| &elected.address == writer);
    if !confirmed && tally.answering >= tally.majority() {
        let named = tally.elected.as_ref().map(|elected| elected.address.to_string());
        let named = named.unwrap_or_else(|| "no address by a majority".to_owned());
        let text = format!("the Sentinels name {named}, not the published {writer}");
        return Some(ProblemCode::SentinelsDisagree.says(text));
    }
    if record.evidence.is_unconfirmed() {
        let text = format!("{writer} was promoted and is not confirmed by a majority yet");
        return Some(ProblemCode::Unconfirmed.says(text));
    }
    None
}

fn instances(view: &View<'_>, decision: &Decision) -> Vec<InstanceStatus> {
    let (observed, record) = (view.observed, view.record);
    let writer = record.and_then(Record::writer_address);
    let writer_answer =
        writer.and_then(|writer| observed.instances.get(writer)?.result.as_ref().ok());
    let followed = InstanceRows::new(view).followed();
    // What is only the address of a writer of before is shown when that one may be back.
    let former = |at: &Address| view.instance(at).is_some_and(|own| may_be_former(view, own));
    let shown = |at: &Address| {
        followed.contains(at) || !InstanceRows::new(view).watched().contains(at) || former(at)
    };
    observed
        .instances
        .iter()
        .filter(|(address, _)| shown(address))
        .map(|(address, reading)| {
            let answer = reading.result.as_ref().ok();
            let listed = writer_answer.and_then(|writer| match &writer.role {
                Role::Primary { replicas } => replicas.iter().find(|r| &r.address == address),
                Role::Replica { .. } => None,
            });
            let behind = match (writer_answer, answer) {
                (Some(writer), Some(own)) if writer.replid == own.replid => {
                    Some(writer.offset.saturating_sub(own.offset))
                }
                _ => None,
            };
            InstanceStatus {
                address: address.clone(),
                published: record.and_then(|record| record.role_of(address)),
                zone: record.and_then(|record| record.words.get(address)?.instance.zone.clone()),
                serves: serves(view, decision, address),
                ready: is_ready(view, address),
                says: answer.map(|answer| match &answer.role {
                    Role::Primary { .. } => "primary".to_owned(),
                    Role::Replica { of, link_up: true } => format!("replica of {of}"),
                    Role::Replica { of, link_up: false } => format!("replica of {of}, link down"),
                }),
                offset: answer.map(|answer| answer.offset),
                behind_bytes: behind.filter(|_| Some(address) != writer),
                lag_s: listed.map(|listed| listed.lag_s),
                version: answer.map(|answer| answer.version.clone()),
                error: match &reading.result {
                    Ok(answer) => answer.not_ready.clone(),
                    Err(error) => Some(error.clone()),
                },
                end_seen: end_seen(view, address),
            }
        })
        .collect()
}

fn end_seen(view: &View<'_>, address: &Address) -> Option<String> {
    view.observed.processes.get(address)?.end_seen().map(str::to_owned)
}

fn sentinel(address: &Address, reading: &Reading<SentinelAnswer>) -> SentinelStatus {
    let answer = reading.result.as_ref();
    let group = answer.ok().and_then(|answer| answer.group.as_ref());
    SentinelStatus {
        address: address.clone(),
        names: group.map(|group| group.primary.clone()),
        epoch: group.map(|group| group.config_epoch),
        opinion: group.map(|group| match group.down {
            // Its flags are still about the primary before (docs/facts/sentinel.md 0.1).
            _ if group.monitored != group.primary => "just promoted",
            DownOpinion::Up => "up",
            DownOpinion::Subjective => "down",
            DownOpinion::Objective => "agreed down",
        }),
        tilt: answer.is_ok_and(|answer| answer.tilt),
        error: match answer {
            Err(error) => Some(error.clone()),
            Ok(answer) if answer.group.is_none() => Some("does not know the group".to_owned()),
            Ok(_) => None,
        },
    }
}
