//! What is wrong with a group, and with what it runs on: facts in, findings out.
//!
//! One small function a check, by subject; each code stands in `docs/findings.md`, and `tests/rules/doctor.rs` has a
//! world with that fault for each. A fact that could not be read is no fault: it gives [`FindingCode::Unread`] and
//! nothing else.

mod agents;
mod clusters;
mod consul;
mod facts;
mod instances;
mod names;
mod sentinels;
mod zones;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::identity::address::Address;
use crate::published::pause::PauseStatus;
use crate::shown::status::ProblemCode;

pub use clusters::{ClusterFacts, NodeFacts, diagnose_cluster};
pub use sentinels::short_down_after;

pub use facts::{
    ConsulAgent, ConsulLoginFailure, ConsulRow, Facts, FleetFacts, InstanceFacts, LoginFacts,
    NameAnswer, NameKind, ReadFields, Refused, Right, RightKind, SentinelFacts, rights,
};

/// What is found of a pause that is on.
fn pause_found(pause: &PauseStatus, name: &str, key: String) -> Vec<Finding> {
    let resume = format!("consul-redis resume {name}");
    let mut found =
        vec![FindingCode::Paused.found(pause.to_string(), vec![seen(&key, "there")], resume)];
    if !pause.unaware.is_empty() {
        let agents = pause.unaware.join(", ");
        let text = format!("it is paused, and these agents know no pause, and go on: {agents}");
        let mend = "upgrade them, or stop them";
        found.push(FindingCode::PauseUnaware.found(text, vec![seen(key, agents)], mend));
    }
    found
}

/// What mends an agent that sees no end of the processes beside it.
const SEE_PROCESSES: &str = "run the agent as the user of Redis, where it sees its processes (docs/packages.md); or set \
    fast_failover = \"off\"";

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
    // Sentinels.
    /// Fewer than half of the known Sentinels answer: no failover is possible.
    ///
    /// Cure: start them again; check the network from here; gone for good:
    /// [recover-sentinels.md](how-to/recover-sentinels.md).
    NoMajority "no-majority" Error;
    /// More Sentinels must agree than there are.
    ///
    /// Cure: `consul-redis config GROUP quorum=auto`.
    QuorumTooHigh "quorum-too-high" Error;
    /// A Sentinel says (`SENTINEL CKQUORUM`) that it hears too few others.
    ///
    /// Cure: the network between the Sentinels, their `announce-ip`, their passwords.
    NoQuorum "no-quorum" Error;
    /// Not all Sentinels name the published writer.
    ///
    /// Cure: agents correct a minority after 30 s; the finding has the commands: `SENTINEL REMOVE`, `MONITOR` and `SET`
    /// on it.
    SentinelsDisagree "sentinels-disagree" Error;
    /// A Sentinel's clock jumped or it stood still; it calls no instance down for 30 s.
    ///
    /// Cure: when it comes back: the host's clock, disk and DNS.
    Tilt "tilt" Error;
    /// Sentinels were copied with their config file, `sentinel myid` included: they do not find one another, and count
    /// as one.
    ///
    /// Cure: delete the line `sentinel myid` in all but one of the files, and start those again.
    SameSentinelId "same-sentinel-id" Error;
    /// The Sentinels know no replica of a primary that is gone (`SENTINEL RESET` while it was down), so that they can
    /// elect none, and instances that they do not know hold its data.
    ///
    /// Cure: the finding has the commands, for the instance that holds the most: `REPLICAOF NO ONE` there, then
    /// `SENTINEL REMOVE` and `SENTINEL MONITOR` with its address on every Sentinel. Agents that tell Sentinels do it
    /// themselves, some 9 s after the name is withdrawn.
    ReplicasForgotten "replicas-forgotten" Error;
    /// An address is announced by name, and a Sentinel resolves no names.
    ///
    /// Cure: `SENTINEL CONFIG SET resolve-hostnames yes` on it.
    NamesNotResolved "names-not-resolved" Error;
    /// The login that agents give Sentinels (`auth_password_file`) is refused by an instance, lacks rights that
    /// Sentinel needs, or cannot be stored by Sentinel.
    ///
    /// Cure: correct the file; `ACL SETUSER` on every instance; a password without spaces and quotes.
    SentinelLogin "sentinel-login" Error;
    /// The user that Sentinels are logged in as may not do what a failover needs (asked by `ACL DRYRUN`, before 7.0 by
    /// `ACL GETUSER`).
    ///
    /// Cure: `ACL SETUSER` on every instance, with [the rights that Sentinel
    /// needs](https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#redis-access-control-list-authentication).
    SentinelUserWeak "sentinel-user-weak" Error;
    /// No other Sentinel hears a Sentinel, and it still counts in every majority.
    ///
    /// Cure: start it again; agents make the others forget it after `forget_sentinels_after`.
    SentinelDown "sentinel-down" Warning;
    /// Other Sentinels hear it, and it does not answer from here.
    ///
    /// Cure: the network from here; the Sentinels' password and TLS.
    SentinelUnreachable "sentinel-unreachable" Warning;
    /// A Sentinel does not let the agents' user say a hello to it. So agents cannot tell it how an election ended whose
    /// leader dies. Where too few others are left, a new writer is published when a majority names it, some 0.9 s later.
    ///
    /// Cure: `ACL SETUSER` on it: `+publish` and `&__sentinel__:hello`; or `relay = false`.
    RelayRefused "relay-refused" Warning;
    /// A Sentinel does not know the group.
    ///
    /// Cure: `SENTINEL MONITOR` and `SENTINEL SET` on it, as the finding has them; agents with `tell_sentinels` do so.
    /// Where no Sentinel knows it, and they know another one: `--group` with that name.
    SentinelLacksGroup "sentinel-lacks-group" Warning;
    /// Sentinels know different numbers of Sentinels, so their majorities differ.
    ///
    /// Cure: `SENTINEL RESET`, one Sentinel at a time, 30 s apart, as the finding has it.
    SentinelCountDiffers "sentinel-count-differs" Warning;
    /// One or two Sentinels: no failover when one is gone.
    ///
    /// Cure: start another one on another host.
    SentinelsFew "sentinels-few" Warning;
    /// An even number survives no more losses than one less.
    ///
    /// Cure: start another one on another host.
    SentinelsEven "sentinels-even" Warning;
    /// All Sentinels must agree that the primary is down.
    ///
    /// Cure: `consul-redis config GROUP quorum=auto`.
    QuorumNoSpare "quorum-no-spare" Warning;
    /// One Sentinel alone calls the primary down.
    ///
    /// Cure: the same.
    QuorumOne "quorum-one" Warning;
    /// Sentinels have different quorums.
    ///
    /// Cure: the same.
    QuorumDiffers "quorum-differs" Warning;
    /// Sentinels have different `down-after-milliseconds`.
    ///
    /// Cure: `consul-redis config GROUP down_after=...`.
    DownAfterDiffers "down-after-differs" Warning;
    /// Below 1500 ms one failover may become two; at 1100 ms or less Sentinel at times replaces a healthy new primary
    /// by itself, for it sends it the first PING a second after the switch.
    ///
    /// Cure: the same, 1500 ms or more.
    DownAfterShort "down-after-short" Warning;
    /// Sentinels have different `failover-timeout`.
    ///
    /// Cure: `consul-redis config GROUP failover_timeout=20s`.
    FailoverTimeoutDiffers "failover-timeout-differs" Warning;
    /// Below 5 s: a slow failover may be aborted.
    ///
    /// Cure: the same.
    FailoverTimeoutShort "failover-timeout-short" Warning;
    /// Sentinels have different `parallel-syncs`.
    ///
    /// Cure: `consul-redis config GROUP parallel_syncs=1`.
    ParallelSyncsDiffers "parallel-syncs-differs" Warning;
    /// Sentinels differ from the settings of `consul-redis config`.
    ///
    /// Cure: an agent with `tell_sentinels`, and without `manage = false`; the finding says which of them there are.
    SettingsNotKept "settings-not-kept" Warning;
    /// A [stale peer](glossary.md#stale-peer): every Sentinel calls a replica down, and none forgets it.
    ///
    /// Cure: start it again; agents make the Sentinels forget it after `forget_after`.
    GhostReplica "ghost-replica" Warning;
    /// Some addresses are announced by name and some by IP: Sentinels take one server for two.
    ///
    /// Cure: `replica-announce-ip`, `resolve-hostnames`, `announce-hostnames` alike everywhere; then `SENTINEL RESET`
    /// where a Sentinel lists one server twice.
    NamesMixed "names-mixed" Warning;
    /// Some servers announce 127.0.0.1, which every host takes for itself.
    ///
    /// Cure: monitor the primary by its own address; `replica-announce-ip`, `sentinel announce-ip`.
    LoopbackAnnounced "loopback-announced" Error;
    /// A Sentinel that agents configure would get the agents' own login, which lacks rights that Sentinel needs.
    ///
    /// Cure: `auth_user` and `auth_password_file` below `[group.settings]`.
    SentinelLoginWeak "sentinel-login-weak" Warning;
    /// A Sentinel refuses the login of `doctor` what agents tell Sentinels (asked about a group that it does not have):
    /// give `doctor` the agents' login.
    ///
    /// Cure: `ACL SETUSER` there, as the finding has it.
    SentinelRight "sentinel-right" Warning;
    /// A Sentinel cannot save its config file: after a restart it has forgotten what it was told.
    ///
    /// Cure: mount the directory, not the file; its disk.
    SentinelConfigUnsaved "sentinel-config-unsaved" Warning;
    /// A version with a known fault.
    ///
    /// Cure: upgrade it.
    SentinelVersion "sentinel-version" Warning;
    /// Above 10 s: writes fail for that long before anything happens.
    ///
    /// Cure: `consul-redis config GROUP down_after=5s`.
    DownAfterLong "down-after-long" Hint;
    /// No agent keeps `master-reboot-down-after-period` (Redis 7.0 and later; Sentinel does not show its own value,
    /// which is 0 unless it was set): a primary that restarts and loads for minutes is not replaced.
    ///
    /// Cure: `consul-redis config GROUP reboot_down_after=3s`.
    RebootUnbounded "reboot-unbounded" Hint;
    /// Above 60 s: after a failover that failed, the next comes after twice that.
    ///
    /// Cure: `consul-redis config GROUP failover_timeout=20s`.
    FailoverTimeoutLong "failover-timeout-long" Hint;

    // Instances.
    /// A [stray primary](glossary.md#stray-primary): another instance reports the role of a primary.
    ///
    /// Cure: an agent makes it a replica, unless it holds other data: `REPLICAOF` gives that up.
    SecondPrimary "second-primary" Error;
    /// The writer has no replica in sync: a failover has no instance to select.
    ///
    /// Cure: `REPLICAOF` on another instance.
    NoReplicas "no-replicas" Error;
    /// Every replica has `replica-priority` 0.
    ///
    /// Cure: `CONFIG SET replica-priority 100`.
    NobodyEligible "nobody-eligible" Error;
    /// The writer refuses writes: fewer replicas than `min-replicas-to-write`.
    ///
    /// Cure: start replicas, or lower it.
    MinReplicasUnmet "min-replicas-unmet" Error;
    /// The last save failed.
    ///
    /// Cure: its disk, its log.
    PersistenceFails "persistence-fails" Error;
    /// It does not answer from here, and the Sentinels do not call it down.
    ///
    /// Cure: the network from here; its password and TLS.
    InstanceSilent "instance-silent" Warning;
    /// The Sentinels call an instance down that answers from here: as the primary it is withdrawn, as a replica no
    /// failover selects it.
    ///
    /// Cure: the Sentinels' login for the instances (`auth-pass`, `auth-user`), and the network from them to it.
    CalledDown "called-down" Error;
    /// It is loading, or refuses commands.
    ///
    /// Cure: wait for the first (`INFO persistence` shows the progress); its log.
    InstanceNotReady "instance-not-ready" Warning;
    /// A replica's link to its primary is down.
    ///
    /// Cure: its log, `masterauth`, `client-output-buffer-limit`.
    LinkDown "link-down" Warning;
    /// A replica follows another instance than the writer.
    ///
    /// Cure: `REPLICAOF` with the writer.
    FollowsAnother "follows-another" Warning;
    /// The writer has not heard a replica for 10 s.
    ///
    /// Cure: its host: network, disk, `SLOWLOG GET`.
    ReplicaLags "replica-lags" Warning;
    /// Writes stop when one replica is lost.
    ///
    /// Cure: lower `min-replicas-to-write`.
    MinReplicasNoSpare "min-replicas-no-spare" Warning;
    /// `min-replicas-to-write` differs: a failover changes when writes are refused.
    ///
    /// Cure: set it alike.
    MinReplicasDiffer "min-replicas-differ" Warning;
    /// Neither RDB nor an append-only file: a primary that restarts is empty, and all data is gone when all stop at once.
    ///
    /// Cure: `CONFIG SET appendonly yes`.
    PersistenceOff "persistence-off" Warning;
    /// An instance refuses the login of `doctor` what agents do to it (asked in a transaction that is discarded), by
    /// its ACL or by `rename-command`, or the key of the [mark](glossary.md#mark): give `doctor` the agents' login.
    ///
    /// Cure: `ACL SETUSER` there, as the finding has it.
    InstanceRight "instance-right" Warning;
    /// An instance does not know commands of a failover by their names (`rename-command`): a Sentinel that was not told
    /// the others cannot fail over, and no command says whether it was.
    ///
    /// Cure: `SENTINEL SET GROUP rename-command COMMAND ITS-NAME` on every Sentinel; better an ACL than
    /// `rename-command`.
    CommandRenamed "command-renamed" Hint;
    /// Redis before 6.2 cannot hold its writes: as the primary of an isolated host, or while another one is promoted,
    /// it goes on taking what will be lost.
    ///
    /// Cure: Redis 6.2 or later; until then `min-replicas-to-write` 1 bounds what an isolated one takes.
    WritesNotHeld "writes-not-held" Hint;
    /// One process answers at two addresses: the group knows it by one, and an agent or a service has the other.
    ///
    /// Cure: write the one that the Sentinels know in `[[redis]]`.
    TwoAddresses "two-addresses" Warning;
    /// A loopback address is registered for a group that is known elsewhere; it is ignored, for it leads every host to
    /// itself.
    ///
    /// Cure: write the address that the Sentinels know in `[[redis]]`.
    LoopbackAddress "loopback-address" Warning;
    /// It announces another address than Sentinels know it by.
    ///
    /// Cure: `CONFIG SET replica-announce-ip`, then `CLIENT KILL TYPE master` on a replica, which says it once for each
    /// connection.
    AnnounceDiffers "announce-differs" Warning;
    /// Clients can write to a replica, and lose these writes.
    ///
    /// Cure: `CONFIG SET replica-read-only yes`.
    ReplicaWritable "replica-writable" Warning;
    /// The buffer for replicas is less than a tenth of the data: a full synchronisation under load never ends.
    ///
    /// Cure: `CONFIG SET client-output-buffer-limit`.
    ReplicaBufferSmall "replica-buffer-small" Warning;
    /// An instance that takes over may refuse writes or evict.
    ///
    /// Cure: set it everywhere as the writer has it.
    MaxmemoryDiffers "maxmemory-differs" Warning;
    /// A failover changes which keys are evicted.
    ///
    /// Cure: the same.
    MaxmemoryPolicyDiffers "maxmemory-policy-differs" Warning;
    /// Without a config file it forgets its role when it is restarted.
    ///
    /// Cure: start it with one, or with `consul-redis exec`.
    ConfigFileMissing "config-file-missing" Warning;
    /// Its clock is more than a second off ours.
    ///
    /// Cure: `chronyc makestep`.
    ClockSkew "clock-skew" Warning;
    /// A replica is older than the writer, and may not understand it.
    ///
    /// Cure: upgrade replicas first.
    VersionsDiffer "versions-differ" Warning;
    /// The writer and all replicas that may be selected are in one zone, and an instance of another zone is in maintenance,
    /// has priority 0, follows another instance or does not answer: when that zone is gone, no failover is possible.
    ///
    /// Cure: let that instance lead: `maintenance off`, `CONFIG SET replica-priority 100`, `REPLICAOF`, or start it.
    GroupOneZone "group-one-zone" Warning;
    /// A replica will never be selected, and is not in maintenance.
    ///
    /// Cure: `CONFIG SET replica-priority 100`.
    PriorityZero "priority-zero" Hint;
    /// `prefer_zones` is set, and the `replica-priority` of a replica is not what it says, or the zone of the replica is
    /// not known: Redis refuses `CONFIG SET` to the agent beside it, or no agent stands there.
    ///
    /// Cure: `CONFIG SET replica-priority`, as the finding has it, and `+config|set` for the agents' user, which keep it
    /// then; or an agent beside it, with its zone.
    ZoneOrder "zone-order" Hint;
    /// A replica with `replica-announced no` is no read endpoint, and a failover may select it all the same.
    ///
    /// Cure: `CONFIG SET replica-priority 0`.
    ReplicaUnannounced "replica-unannounced" Hint;
    /// `min-replicas-to-write` 0: an isolated primary keeps taking writes (agents in node mode hold them).
    ///
    /// Cure: `CONFIG SET min-replicas-to-write 1`.
    MinReplicasOff "min-replicas-off" Hint;
    /// Every full synchronisation waits for more than 5 s.
    ///
    /// Cure: `CONFIG SET repl-diskless-sync-delay 5`.
    DisklessDelay "diskless-delay" Hint;
    /// Node mode, unless `fast_failover = "off"`: an agent that runs like this command would not see at once that the
    /// Redis of this host has died (another user's process, `hidepid` or `ProtectProc`, another pid namespace);
    /// Sentinels wait for `down-after-milliseconds`. The same of a node of a Redis Cluster, whose others wait for
    /// `cluster-node-timeout`.
    ///
    /// Cure: run the agent as the user of Redis, where it sees its processes ([packages.md](packages.md)); or set
    /// `fast_failover = "off"`.
    DeathUnseen "death-unseen" Hint;
    /// It is paused, and agents of versions before pauses watch it: they know of none, and go on.
    ///
    /// Cure: upgrade these agents, or stop them.
    PauseUnaware "pause-unaware" Warning;
    /// An operator has [paused](how-to/pause.md) the group or the Redis Cluster: agents observe and publish, and change
    /// nothing else.
    ///
    /// Cure: `consul-redis resume NAME`, once what it was for is done.
    Paused "paused" Warning;
    /// An instance is kept out of service.
    ///
    /// Cure: `consul-redis maintenance off HOST:PORT`.
    InMaintenance "in-maintenance" Hint;

    // Redis Cluster.
    /// No majority of the primaries that own slots answers and agrees: no slot can change its owner, and after
    /// `cluster-node-timeout` the cluster takes no requests.
    ///
    /// Cure: start them again; the network between them; gone for good: a person decides, by `CLUSTER FAILOVER TAKEOVER`.
    ClusterNoMajority "cluster-no-majority" Error;
    /// A dead primary was forgotten before its replica was elected (Redis 7 and 8): no voter knows whose slots the
    /// replica asks for, and its shard stays without an owner.
    ///
    /// Cure: a person decides: `CLUSTER FAILOVER TAKEOVER` on the replica, as the finding has it.
    ClusterUnelectable "cluster-unelectable" Error;
    /// A node says that it is the primary of slots, no voter's table gives it one, and the owner that they name does not
    /// answer: Redis 7 and 8 count the votes of an election a second time within twice `cluster-node-timeout`. It takes
    /// writes that the others do not follow.
    ///
    /// Cure: a person decides: `CLUSTER BUMPEPOCH` on it where the owner is dead for good; else start the owner, and the
    /// writes since then are lost.
    ClusterSelfPromoted "cluster-self-promoted" Error;
    /// A node does not answer where the voters have it, and they do not call it failing: clients are sent there.
    ///
    /// Cure: `cluster-announce-ip` on it; the network from here. A node that has died just now is found, too.
    ClusterNodeSilent "cluster-node-silent" Error;
    /// A node takes itself for a member that the voters have forgotten: it goes on answering, with data that grows old.
    ///
    /// Cure: `CLUSTER MEET` from each voter to have it back, again where it does not stay; stop it, or `CLUSTER RESET HARD`, to be rid of it.
    ClusterGhost "cluster-ghost" Warning;
    /// A voter's table has a node that is not recorded: a new one that no agent has seen yet, or one of another cluster,
    /// of which one `CLUSTER MEET` merges all.
    ///
    /// Cure: start an agent; where it does not belong here, `CLUSTER FORGET` it on all nodes before it gets a role.
    ClusterStranger "cluster-stranger" Warning;
    /// A dead node is not forgotten, and a node runs Valkey 8.1 to 9.1, which sends MEET to its address by itself: when
    /// another cluster's node gets that address, both clusters merge.
    ///
    /// Cure: start it again, or `CLUSTER FORGET` it on all others, once its slots have another owner.
    ClusterNotForgotten "cluster-not-forgotten" Warning;
    /// A shard has no replica that could take over.
    ///
    /// Cure: start it again; `CLUSTER REPLICATE` on another node.
    ClusterNoReplica "cluster-no-replica" Warning;
    /// The primary of a shard and all its replicas are on one host.
    ///
    /// Cure: have them change places with those of another shard: `CLUSTER REPLICATE`.
    ClusterOneHost "cluster-one-host" Warning;
    /// The primary of a shard and all its replicas are in one zone, and a node of another zone could be its replica.
    ///
    /// Cure: have them change places with a replica in another zone: `CLUSTER REPLICATE`.
    ClusterOneZone "cluster-one-zone" Warning;
    /// A primary refuses writes as soon as one replica is missing: after a failover always, where a shard has one replica.
    ///
    /// Cure: `CONFIG SET min-replicas-to-write 0`, or two replicas for each shard.
    ClusterMinReplicas "cluster-min-replicas" Warning;
    /// Neither RDB nor an append-only file: a primary that restarts empty within `cluster-node-timeout` stays the
    /// primary, and its replica is emptied.
    ///
    /// Cure: `CONFIG SET appendonly yes`; or start it again only after `cluster-node-timeout`.
    ClusterPersistenceOff "cluster-persistence-off" Warning;
    /// `cluster-node-timeout` above 5 s: when a primary dies, its slots are not served for that long, and up to 1.6 times
    /// as long.
    ///
    /// Cure: `CONFIG SET cluster-node-timeout 5000` on every node.
    ClusterNodeTimeout "cluster-node-timeout" Warning;
    /// `cluster-node-timeout` of a node is 500 ms, and most others have a longer one: agents lower it to that for the
    /// moment of an election, and this node was away when they put it back, or what they had recorded was. A short pause
    /// of another node is a death for it. Agents put it back after 30 s.
    ///
    /// Cure: `CONFIG SET cluster-node-timeout` as on the others.
    ClusterHasteLeft "cluster-haste-left" Warning;
    /// `cluster-allow-reads-when-down`: a node that is cut off goes on answering reads from old data until it is back.
    ///
    /// Cure: `CONFIG SET cluster-allow-reads-when-down no` on every node.
    ClusterReadsWhenDown "cluster-reads-when-down" Warning;
    /// A node is in no name, and no other finding says why it is unfit.
    ///
    /// Cure: the text says why; `consul-redis cluster NAME` asks the nodes now.
    ClusterDegraded "cluster-degraded" Warning;
    /// `cluster-require-full-coverage` (the default): while one shard has no primary, all nodes refuse all requests.
    ///
    /// Cure: `CONFIG SET cluster-require-full-coverage no` on every node, where clients can do with a part of the slots.
    ClusterFullCoverage "cluster-full-coverage" Hint;

    // Consul.
    /// The login to Consul by an identity fails: agents use the token that they have for as long as it lives, and then no
    /// longer read or write. [How it is set up](how-to/log-in-by-identity.md).
    ///
    /// Cure: what the finding says: the file with the JWT, its time, the auth method or its binding rule.
    ConsulLogin "consul-login" Error;
    /// 1.19.0 and 1.19.1: DNS ignores tags.
    ///
    /// Cure: upgrade; `experiments = ["v1dns"]`; look up `NAME-primary`.
    ConsulTags "consul-tags" Error;
    /// Another program registers under the group's names: DNS answers both.
    ///
    /// Cure: `consul services deregister`.
    ForeignRow "foreign-row" Error;
    /// The group's node belongs to another program: nothing can be published.
    ///
    /// Cure: another `--prefix`.
    ForeignNode "foreign-node" Error;
    /// The token lacks a right that an agent needs.
    ///
    /// Cure: add the rule that it names ([agent-policy.hcl](../consul/agent-policy.hcl)).
    AclRight "acl-right" Error;
    /// Consul has the row and DNS answers nothing: its token may not see it.
    ///
    /// Cure: give the DNS or default token [reader-policy.hcl](../consul/reader-policy.hcl).
    DnsToken "dns-token" Error;
    /// With ACLs, up to 1.8.14, 1.9.8 and 1.10.1: tokens write services that they have no right to.
    ///
    /// Cure: upgrade.
    ConsulTxnAcl "consul-txn-acl" Warning;
    /// A server that is isolated answers DNS from what it last knew, for ten years by default.
    ///
    /// Cure: [consul-agent.hcl](../consul/consul-agent.hcl).
    MaxStale "max-stale" Warning;
    /// Resolvers may keep the writer's name for longer than a second.
    ///
    /// Cure: `service_ttl` 0 for it.
    ServiceTtl "service-ttl" Warning;
    /// DNS answers from the agent's cache.
    ///
    /// Cure: `use_cache = false`.
    DnsCache "dns-cache" Warning;
    /// A row whose check warns is answered.
    ///
    /// Cure: `only_passing = true`, or the cause of the check's warning.
    OnlyPassing "only-passing" Warning;
    /// Without a session the agent does not show in `status`.
    ///
    /// Cure: `session_prefix "" { policy = "write" }`.
    AclSession "acl-session" Hint;
    /// Without the keys of the fleet other agents do not count on this one: all watch all groups.
    ///
    /// Cure: `key_prefix "redis-ha/=fleet/" { policy = "write" }`.
    AclFleet "acl-fleet" Hint;
    /// DNS leaves replicas out of UDP answers, and does not say so.
    ///
    /// Cure: `enable_truncate = true`.
    DnsTruncate "dns-truncate" Hint;

    // Names.
    /// DNS answers something else than the writer for 2 s.
    ///
    /// Cure: look for another program that registers the name; check that the server has a leader.
    DnsWrong "dns-wrong" Error;
    /// The same for `primary.NAME`.
    ///
    /// Cure: the same; `consul-tags`.
    DnsTagWrong "dns-tag-wrong" Error;
    /// DNS answers other addresses than the replicas.
    ///
    /// Cure: the same.
    DnsReplicasWrong "dns-replicas-wrong" Warning;
    /// A server of `--dns` does not answer.
    ///
    /// Cure: start it, or correct `--dns`: `dig @SERVER redis-primary.service.consul.`.
    DnsSilent "dns-silent" Warning;

    // Agents.
    /// What is published under this name rests on other Sentinels, or belongs to another
    /// [installation](operations.md#several-groups-on-one-consul): these agents do nothing.
    ///
    /// Cure: choose another group name, or another service and prefix; after a move, `consul-redis adopt GROUP`.
    NotOurs "not-ours" Error;
    /// Nothing will follow a failover.
    ///
    /// Cure: start `consul-redis agent`.
    NoAgents "no-agents" Error;
    /// Another problem that `status` shows.
    ///
    /// Cure: [metrics.md](metrics.md) has a row for each.
    NotHealthy "not-healthy" Error;
    /// `config`, `maintenance` or `notices` is damaged; the settings, and the instances that are kept out of the names,
    /// stay as they were.
    ///
    /// Cure: `consul kv delete` it: the Sentinels keep their settings until `consul-redis config` gives them others;
    /// without `maintenance` all instances are back in the names, then `maintenance on` again for those that are to
    /// stay out; without `notices` open problems are told once more.
    KeyUnreadable "key-unreadable" Error;
    /// A target of [`[[notify]]`](notify.md) has not taken the last event that it was told of.
    ///
    /// Cure: the finding says why: the target, its URL or secret, the program; then a reload, where the config was wrong. It
    /// clears with the next event that the target takes.
    NotifyFailed "notify-failed" Warning;
    /// When it stops, nothing follows a failover.
    ///
    /// Cure: start another one elsewhere.
    OneAgent "one-agent" Warning;
    /// Fewer agents watch the group than `watchers` says, or than are configured with it where it says nothing. One that
    /// has died is replaced after 20 s.
    ///
    /// Cure: start another one with the same config; where one is there that is to watch the group, its log says what keeps
    /// it.
    FewerWatchers "fewer-watchers" Warning;
    /// The writer was withdrawn four times, or more, within an hour. Planned moves do not count.
    ///
    /// Cure: `history` says why each; a longer `down_after`.
    Flapping "flapping" Warning;
    /// An agent's clock is more than a second ahead of another agent's, or of ours.
    ///
    /// Cure: `chronyc makestep`.
    AgentClock "agent-clock" Warning;
    /// The configs of agents have different `tags`, `meta` or `weights` of the group. The rows show those of the first
    /// agent by its id that has any.
    ///
    /// Cure: write the same in `[[group]]` on all agents, and reload them (SIGHUP).
    WordsDiffer "words-differ" Warning;
    /// No agent has published the group yet: what a new group, or a new installation, looks like before its first agent.
    ///
    /// Cure: start `consul-redis agent`; where the group was published before, Consul has lost its data:
    /// [recover-consul.md](how-to/recover-consul.md).
    NotStarted "not-started" Hint;
    /// Something could not be read, and was not checked.
    ///
    /// Cure: the rights above.
    Unread "unread" Hint;
}

impl FindingCode {
    /// The problems of `status` that a finding of this kind is about, with evidence and a cure.
    pub fn explains(self) -> &'static [ProblemCode] {
        use ProblemCode as Problem;
        match self {
            Self::NoMajority => &[Problem::NoMajority, Problem::SentinelsMissing],
            Self::SentinelsDisagree => &[Problem::SentinelsDisagree],
            Self::SentinelLacksGroup => &[Problem::SentinelsDisagree, Problem::SentinelsMissing],
            Self::SameSentinelId => &[Problem::SameSentinelId],
            Self::SentinelLogin => &[Problem::SentinelLogin],
            Self::SentinelDown | Self::SentinelUnreachable | Self::SentinelCountDiffers => {
                &[Problem::SentinelsMissing]
            }
            Self::RelayRefused => &[Problem::RelayRefused],
            Self::GhostReplica => &[Problem::InstanceDown, Problem::ReplicaOutOfSync],
            Self::SecondPrimary => &[Problem::SecondPrimary],
            Self::NoReplicas => &[Problem::NoReplicas, Problem::WritesRefused],
            Self::MinReplicasUnmet => &[Problem::WritesRefused],
            Self::PersistenceFails => &[Problem::CannotSave, Problem::WritesRefused],
            Self::InstanceSilent => {
                &[Problem::InstanceSilent, Problem::InstanceRefuses, Problem::ReplicaOutOfSync]
            }
            Self::InstanceNotReady => {
                &[Problem::CannotSave, Problem::InstanceDown, Problem::ReplicaOutOfSync]
            }
            Self::LinkDown | Self::FollowsAnother | Self::ReplicaLags => {
                &[Problem::ReplicaOutOfSync]
            }
            Self::CalledDown => &[Problem::InstanceDown],
            Self::TwoAddresses => &[Problem::TwoAddresses],
            Self::InstanceRight => &[Problem::MarkMissing, Problem::ZoneOrder],
            Self::ZoneOrder => &[Problem::ZoneOrder],
            Self::LoopbackAddress => &[Problem::LoopbackAddress],
            Self::ForeignRow => &[Problem::ServiceTaken, Problem::DnsWrong],
            Self::ConsulLogin => &[Problem::ConsulLogin, Problem::ConsulUnread],
            Self::ForeignNode => &[Problem::ForeignNode],
            Self::DnsToken | Self::DnsWrong => &[Problem::DnsWrong],
            Self::DnsSilent => &[Problem::DnsSilent],
            Self::NoAgents => &[Problem::NoAgents],
            Self::NotStarted => {
                &[Problem::NothingPublished, Problem::NoAgents, Problem::NoFirstPrimary]
            }
            Self::AgentClock => &[Problem::ClockSkew],
            Self::Paused => &[Problem::Paused],
            Self::WordsDiffer => &[Problem::WordsDiffer],
            _ => &[],
        }
    }
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
type CheckFn = fn(&Facts<'_>) -> Vec<Finding>;

/// All findings, the worst first.
pub fn diagnose(facts: &Facts<'_>) -> Vec<Finding> {
    if let Some(other) = agents::not_ours(facts) {
        // What is recorded is another group's: no advice that compares ours with it would mend anything.
        return vec![other];
    }
    let servers = [sentinels::CHECKS, instances::CHECKS, zones::CHECKS];
    let all = servers.into_iter().chain([consul::CHECKS, names::CHECKS, agents::CHECKS]);
    let found: Vec<Finding> = all.flatten().flat_map(|check| check(facts)).collect();
    let others = agents::unexplained(facts, &found);
    let mut findings = merged(found.into_iter().chain(others));
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
fn refusals(
    at: &Address,
    user: &str,
    commands: &[&(String, String)],
    key: Option<&str>,
) -> Option<(Vec<Observation>, String)> {
    if commands.is_empty() {
        return None;
    }
    let words = |(command, words): &&(String, String)| seen(at, format!("{command}: {words}"));
    let forbidden = commands.iter().filter(|(_, words)| words.starts_with("NOPERM"));
    let rule = |(command, words): &&(String, String)| match key {
        // The command is allowed, and the key is not.
        Some(key) if words.contains(" access ") => format!(" ~{key}"),
        _ => format!(" +{}", command.to_lowercase().replace(' ', "|")),
    };
    let mut rules: Vec<String> = Vec::new();
    for rule in forbidden.map(rule) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let rules = rules.concat();
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
