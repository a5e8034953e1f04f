//! What is wrong with a group, and with what it runs on: facts in, findings out.
//!
//! One small function a check, by subject; each code stands in `docs/findings.md`, and `tests/rules/doctor.rs` has a
//! world with that fault for each. A fact that could not be read is no fault: it gives [`FindingCode::Unread`] and
//! nothing else.

mod agents;
mod consul;
mod facts;
mod instances;
mod names;
mod sentinels;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::identity::address::Address;

pub use sentinels::short_down_after;

pub use facts::{
    ConsulAgent, ConsulRow, Facts, Fields, InstanceFacts, LoginFacts, NameAnswer, NameKind,
    Refused, Right, RightKind, SentinelFacts, rights,
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work, or a failover would not.
    Error,
    /// It works now, and will not when one more thing goes wrong.
    Warning,
    /// It could be better, or could not be looked at.
    Hint,
}

impl Severity {
    /// As it stands in JSON and in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Hint => "hint",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $severity:ident;)*) => {
        /// The kinds of findings. Their names are stable: scripts go by them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum FindingCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl FindingCode {
            /// All codes, by subject.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As it stands in JSON and in the document.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    /// Too few Sentinels answer for a failover.
    NoMajority "no-majority" Error;
    /// More Sentinels must agree than there are.
    QuorumTooHigh "quorum-too-high" Error;
    /// A Sentinel says itself that no failover is possible.
    NoQuorum "no-quorum" Error;
    /// A Sentinel names another primary than the majority.
    SentinelsDisagree "sentinels-disagree" Error;
    /// A Sentinel does not trust its own clock.
    Tilt "tilt" Error;
    /// Several Sentinels have one id: their config was copied.
    SameSentinelId "same-sentinel-id" Error;
    /// The Sentinels know no replica of a primary that is gone, and instances that they do not know hold its data.
    ReplicasForgotten "replicas-forgotten" Error;
    /// Names are announced that a Sentinel does not look up.
    NamesNotResolved "names-not-resolved" Error;
    /// The login that Sentinels are to have for the instances is refused, or cannot be stored.
    SentinelLogin "sentinel-login" Error;
    /// The user that Sentinels are logged in as may not do what a failover needs.
    SentinelUserWeak "sentinel-user-weak" Error;
    /// A Sentinel of the group is down, and still counts in every majority.
    SentinelDown "sentinel-down" Warning;
    /// The other Sentinels hear a Sentinel, and we do not.
    SentinelUnreachable "sentinel-unreachable" Warning;
    /// A Sentinel does not let the agents tell it how an election ended.
    RelayRefused "relay-refused" Warning;
    /// A Sentinel does not know the group.
    SentinelLacksGroup "sentinel-lacks-group" Warning;
    /// Sentinels know different numbers of Sentinels.
    SentinelCountDiffers "sentinel-count-differs" Warning;
    /// Fewer than three Sentinels.
    SentinelsFew "sentinels-few" Warning;
    /// An even number of Sentinels.
    SentinelsEven "sentinels-even" Warning;
    /// All Sentinels must agree: one that is down stops failovers.
    QuorumNoSpare "quorum-no-spare" Warning;
    /// One Sentinel alone calls the primary down.
    QuorumOne "quorum-one" Warning;
    /// Sentinels have different quorums.
    QuorumDiffers "quorum-differs" Warning;
    /// Sentinels have different down-after-milliseconds.
    DownAfterDiffers "down-after-differs" Warning;
    /// So short that one failover brings another.
    DownAfterShort "down-after-short" Warning;
    /// Sentinels have different failover-timeouts.
    FailoverTimeoutDiffers "failover-timeout-differs" Warning;
    /// So short that a failover is given up that would have succeeded.
    FailoverTimeoutShort "failover-timeout-short" Warning;
    /// Sentinels have different parallel-syncs.
    ParallelSyncsDiffers "parallel-syncs-differs" Warning;
    /// Sentinels differ from the settings that were given to the group.
    SettingsNotKept "settings-not-kept" Warning;
    /// A replica that all Sentinels call down.
    GhostReplica "ghost-replica" Warning;
    /// Some of the group are announced by name and some by address.
    NamesMixed "names-mixed" Warning;
    /// Some announce an address that leads only to themselves.
    LoopbackAnnounced "loopback-announced" Error;
    /// A Sentinel that is new would get a login that may not do what a failover needs.
    SentinelLoginWeak "sentinel-login-weak" Warning;
    /// A Sentinel refuses this login what agents ask of it.
    SentinelRight "sentinel-right" Warning;
    /// A Sentinel cannot save its config file.
    SentinelConfigUnsaved "sentinel-config-unsaved" Warning;
    /// A version of Sentinel with a known fault.
    SentinelVersion "sentinel-version" Warning;
    /// So long that writes fail for longer than they have to.
    DownAfterLong "down-after-long" Hint;
    /// A restarted primary may load for ever, and no failover begins.
    RebootUnbounded "reboot-unbounded" Hint;
    /// So long that the second attempt comes late.
    FailoverTimeoutLong "failover-timeout-long" Hint;

    /// An instance besides the writer says that it is a primary.
    SecondPrimary "second-primary" Error;
    /// The writer has no replica.
    NoReplicas "no-replicas" Error;
    /// No replica may be chosen.
    NobodyEligible "nobody-eligible" Error;
    /// The writer refuses writes: it has fewer replicas than it wants.
    MinReplicasUnmet "min-replicas-unmet" Error;
    /// What is to be saved is not.
    PersistenceFails "persistence-fails" Error;
    /// An instance does not answer us, and the Sentinels do not call it down.
    InstanceSilent "instance-silent" Warning;
    /// An instance is loading, or refuses commands.
    InstanceNotReady "instance-not-ready" Warning;
    /// A replica's link to its primary is down.
    LinkDown "link-down" Warning;
    /// A replica follows another than the writer.
    FollowsAnother "follows-another" Warning;
    /// A replica is late.
    ReplicaLags "replica-lags" Warning;
    /// One replica that is lost stops writes.
    MinReplicasNoSpare "min-replicas-no-spare" Warning;
    /// Instances want different numbers of replicas.
    MinReplicasDiffer "min-replicas-differ" Warning;
    /// Nothing is saved.
    PersistenceOff "persistence-off" Warning;
    /// An instance refuses this login what agents do to it.
    InstanceRight "instance-right" Warning;
    /// An instance does not know commands of a failover by their names.
    CommandRenamed "command-renamed" Hint;
    /// An instance is of a version that cannot hold writes.
    WritesNotHeld "writes-not-held" Hint;
    /// One process answers at two addresses of the group's.
    TwoAddresses "two-addresses" Warning;
    /// A loopback address is registered for a group that is known elsewhere.
    LoopbackAddress "loopback-address" Warning;
    /// An instance announces another address than Sentinels know it by.
    AnnounceDiffers "announce-differs" Warning;
    /// Clients can write to a replica.
    ReplicaWritable "replica-writable" Warning;
    /// A full synchronisation is longer than the buffer for it.
    ReplicaBufferSmall "replica-buffer-small" Warning;
    /// Instances have different limits of memory.
    MaxmemoryDiffers "maxmemory-differs" Warning;
    /// Instances evict differently.
    MaxmemoryPolicyDiffers "maxmemory-policy-differs" Warning;
    /// An instance has no config file to note its role in.
    ConfigFileMissing "config-file-missing" Warning;
    /// Clocks differ.
    ClockSkew "clock-skew" Warning;
    /// A replica is older than the writer.
    VersionsDiffer "versions-differ" Warning;
    /// A replica will never be chosen.
    PriorityZero "priority-zero" Hint;
    /// A replica that is not announced may be chosen.
    ReplicaUnannounced "replica-unannounced" Hint;
    /// A primary that is cut off goes on taking writes.
    MinReplicasOff "min-replicas-off" Hint;
    /// A full synchronisation waits for long.
    DisklessDelay "diskless-delay" Hint;
    /// The end of an instance's process is not seen at once.
    DeathUnseen "death-unseen" Hint;
    /// An instance is kept out of service.
    InMaintenance "in-maintenance" Hint;

    /// A version of Consul whose DNS ignores tags.
    ConsulTags "consul-tags" Error;
    /// Another program registers under the group's names.
    ForeignRow "foreign-row" Error;
    /// A node that another program registered has the name of the group's.
    ForeignNode "foreign-node" Error;
    /// The token lacks a right.
    AclRight "acl-right" Error;
    /// DNS may not see what is published.
    DnsToken "dns-token" Error;
    /// A version of Consul that checks too few rights.
    ConsulTxnAcl "consul-txn-acl" Warning;
    /// DNS answers for years from what it last knew.
    MaxStale "max-stale" Warning;
    /// The writer's name may be cached.
    ServiceTtl "service-ttl" Warning;
    /// DNS answers from the Consul agent's cache.
    DnsCache "dns-cache" Warning;
    /// DNS answers rows whose check warns.
    OnlyPassing "only-passing" Warning;
    /// The token has no session right.
    AclSession "acl-session" Hint;
    /// DNS leaves replicas out of its answers, and does not say so.
    DnsTruncate "dns-truncate" Hint;

    /// DNS answers something else for the writer's name.
    DnsWrong "dns-wrong" Error;
    /// DNS answers something else for the writer's tag.
    DnsTagWrong "dns-tag-wrong" Error;
    /// DNS answers something else for the replicas' name.
    DnsReplicasWrong "dns-replicas-wrong" Warning;
    /// A DNS server that was named does not answer.
    DnsSilent "dns-silent" Warning;

    /// What is published under this name is another group's.
    NotOurs "not-ours" Error;
    /// No agent watches the group.
    NoAgents "no-agents" Error;
    /// The group is not well, as `status` says.
    NotHealthy "not-healthy" Error;
    /// A key that operators write cannot be read.
    KeyUnreadable "key-unreadable" Error;
    /// One agent alone watches the group.
    OneAgent "one-agent" Warning;
    /// The primary moves too often.
    Flapping "flapping" Warning;
    /// An agent's clock is ahead of another one's, or of this machine's.
    AgentClock "agent-clock" Warning;
    /// Something could not be read.
    Unread "unread" Hint;
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One finding: a fault or a risk, with what shows it and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The code, as docs/findings.md has it.
    pub code: FindingCode,
    /// Error, warning or hint; it follows from the code.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub text: String,
    /// What each server said that shows it.
    pub evidence: Vec<Observation>,
    /// What mends it: a command, where one does.
    pub mend: String,
}

/// What one server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// The server, or the part of Consul.
    pub from: String,
    /// What was read there.
    pub read: String,
}

/// What was read, and from which server.
fn seen(from: impl fmt::Display, read: impl fmt::Display) -> Observation {
    Observation { from: from.to_string(), read: read.to_string() }
}

impl FindingCode {
    /// A finding of this kind.
    fn found(
        self,
        text: impl Into<String>,
        evidence: Vec<Observation>,
        mend: impl Into<String>,
    ) -> Finding {
        let (text, mend) = (text.into(), mend.into());
        Finding { code: self, severity: self.severity(), text, evidence, mend }
    }
}

/// Finds the faults of one subject; what could not be read gives none.
type Check = fn(&Facts<'_>) -> Vec<Finding>;

/// All findings, the worst first.
pub fn diagnose(facts: &Facts<'_>) -> Vec<Finding> {
    if let Some(other) = agents::not_ours(facts) {
        // What is recorded is another group's: no advice that compares ours with it would mend anything.
        return vec![other];
    }
    let all = [sentinels::CHECKS, instances::CHECKS, consul::CHECKS, names::CHECKS, agents::CHECKS];
    let mut findings = merged(all.into_iter().flatten().flat_map(|check| check(facts)));
    findings.sort_by_key(|finding| (finding.severity, finding.code));
    findings
}

/// The same finding of several servers, each told by what its evidence is from, is one: with all their evidence, and
/// each cure once.
fn merged(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let subject_of = |finding: &Finding| {
        let from = finding.evidence.first().map(|seen| seen.from.clone()).unwrap_or_default();
        (!from.is_empty() && finding.text.contains(&from)).then_some(from)
    };
    let mut order = Vec::new();
    let mut alike: BTreeMap<(FindingCode, String), Vec<Finding>> = BTreeMap::new();
    for finding in findings {
        let text = match subject_of(&finding) {
            Some(subject) => finding.text.replace(&subject, "SERVER"),
            None => finding.text.clone(),
        };
        let kind = (finding.code, text);
        if !alike.contains_key(&kind) {
            order.push(kind.clone());
        }
        alike.entry(kind).or_default().push(finding);
    }
    let one = |kind| {
        let mut found = alike.remove(&kind)?.into_iter();
        let mut first = found.next()?;
        let (mut others, mut cures) = (Vec::new(), vec![first.mend.clone()]);
        for finding in found {
            others.extend(subject_of(&finding));
            if !cures.contains(&finding.mend) {
                cures.push(finding.mend);
            }
            let new = finding.evidence.into_iter().filter(|seen| !first.evidence.contains(seen));
            let new: Vec<Observation> = new.collect();
            first.evidence.extend(new);
        }
        if !others.is_empty() {
            first.text = format!("{} (the same of {})", first.text, others.join(", "));
        }
        first.mend = cures.join("; ");
        Some(first)
    };
    order.into_iter().filter_map(one).collect()
}

/// A command to one server.
fn redis_cli(at: &Address, command: impl fmt::Display) -> String {
    format!("redis-cli -h {} -p {} {command}", at.host(), at.port())
}

/// Whether values differ, as evidence of which server has which; nothing when they are all the same.
fn differing<T: PartialEq + fmt::Display>(
    what: &str,
    values: Vec<(&Address, T)>,
) -> Option<Vec<Observation>> {
    let (_, first) = values.first()?;
    let differ = values.iter().any(|(_, value)| value != first);
    differ.then(|| values.iter().map(|(from, v)| seen(from, format!("{what} {v}"))).collect())
}

/// What one server refuses a login, as evidence, and the command that allows it; `None` where it refuses nothing.
fn refusals(at: &Address, refused: &Refused) -> Option<(Vec<Observation>, String)> {
    let Refused { user, commands } = refused;
    if commands.is_empty() {
        return None;
    }
    let words = |(command, words): &(String, String)| seen(at, format!("{command}: {words}"));
    let forbidden = commands.iter().filter(|(_, words)| words.starts_with("NOPERM"));
    let rule =
        |(command, _): &(String, String)| format!(" +{}", command.to_lowercase().replace(' ', "|"));
    let rules: String = forbidden.map(rule).collect();
    let mend = match rules.is_empty() {
        true => "take the command's rename-command out of its config: an ACL keeps users from it as well".to_owned(),
        false => redis_cli(at, format!("ACL SETUSER {user}{rules}")),
    };
    Some((commands.iter().map(words).collect(), mend))
}

/// `major.minor.patch` of a version text, whatever follows it.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(['.', '+', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}
