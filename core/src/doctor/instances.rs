//! The instances: whether one could take over, and what would be lost.

use super::{
    CheckFn, Facts, Finding, FindingCode, InstanceFacts, Observation, Refused, SEE_PROCESSES,
    differing, redis_cli, refusals, seen, version,
};
use crate::identity::address::Address;
use crate::identity::mark::MarkKey;
use crate::known::observed::{InstanceAnswer, Role};
use crate::published::replicas::InstanceRows;

/// A replica that the writer has not heard for longer is late, in seconds: Redis sends one a second.
const LAG_MAX_S: u64 = 10;
/// Longer waits before a full synchronisation are more than Redis's own default, in seconds.
const DISKLESS_DELAY_MAX_S: u64 = 5;
/// Clocks that differ by more make logs and expiry times differ, in ms.
const CLOCK_SKEW_MAX_MS: u64 = 1_000;

pub(super) const CHECKS: &[CheckFn] = &[
    silent,
    up_and_called_down,
    not_ready,
    second_primary,
    misnamed,
    unannounced,
    links,
    lags,
    no_replicas,
    priorities,
    min_replicas,
    persistence_off,
    persistence_fails,
    announced,
    writable,
    buffers,
    limits_differ,
    diskless_delay,
    death_unseen,
    config_file,
    clocks,
    versions,
    in_maintenance,
    rights,
    renamed,
    not_held,
];

/// What is to be found of each instance of which `check` says something.
fn each(
    facts: &Facts<'_>,
    code: FindingCode,
    check: impl Fn(&Address, &InstanceFacts) -> Option<(String, String, String)>,
) -> Vec<Finding> {
    let found = facts.instances.iter().filter_map(|(at, more)| {
        let (text, read, mend) = check(at, more)?;
        Some(code.found(text, vec![seen(at, read)], mend))
    });
    found.collect()
}

/// Sentinels get no answer from it either, which is another finding.
fn called_down(facts: &Facts<'_>, at: &Address) -> bool {
    let tally = &facts.view.tally;
    let replica = tally.replicas.get(at).is_some_and(|count| count.up == 0 && count.down > 0);
    replica || tally.down.get(at).is_some_and(|count| count.subjective >= tally.majority())
}

fn silent(facts: &Facts<'_>) -> Vec<Finding> {
    let silent = facts.view.observed.instances.iter().filter_map(|(at, reading)| {
        let error = reading.result.as_ref().err()?;
        let elsewhere = called_down(facts, at) || facts.view.writer() == Some(at);
        (!elsewhere).then_some((at, error))
    });
    let say = |(at, error): (&Address, &String)| {
        let text = format!("{at} does not answer from here, and the Sentinels do not call it down");
        let mend = "look at the network from here, at --redis-password-file and at TLS";
        FindingCode::InstanceSilent.found(text, vec![seen(at, error)], mend)
    };
    silent.map(say).collect()
}

/// Sentinels get no answer from an instance that is up: their login is refused there, or the way from them is cut.
fn up_and_called_down(facts: &Facts<'_>) -> Vec<Finding> {
    let tally = &facts.view.tally;
    let ready = answers(facts).filter(|(_, answer)| answer.not_ready.is_none());
    let say = |(at, _): (&Address, &InstanceAnswer)| {
        let replica = tally.replicas.get(at).map_or(0, |count| count.down);
        let count = replica.max(tally.down.get(at).map_or(0, |count| count.subjective));
        let text = format!(
            "the Sentinels call {at} down, and it answers from here: no failover selects it"
        );
        let evidence =
            vec![seen(at, format!("{count} Sentinels get no answer from it; PONG from here"))];
        let mend = format!(
            "look at the login that the Sentinels have for the instances (SENTINEL SET {0} auth-pass PASSWORD, and auth-user, \
             on every Sentinel), and at the network from them to the instance",
            facts.group()
        );
        FindingCode::CalledDown.found(text, evidence, mend)
    };
    ready.filter(|(at, _)| called_down(facts, at)).map(say).collect()
}

/// The answers of all instances that answer.
fn answers<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Address, &'a InstanceAnswer)> {
    let view = facts.view;
    view.observed.instances.keys().filter_map(move |at| Some((at, view.instance(at)?)))
}

fn not_ready(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = loading_writer(facts);
    let waiting = answers(facts).filter(|(at, _)| facts.view.writer() != Some(at));
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let why = answer.not_ready.as_ref()?;
        if answer.cannot_save() {
            let text = format!(
                "{at} cannot save its data, refuses PING with it, and is called down by the Sentinels: no failover selects it"
            );
            let mend = "look at its disk and its log; PING answers again after the next BGSAVE that succeeds";
            return Some(FindingCode::InstanceNotReady.found(text, vec![seen(at, why)], mend));
        }
        let text = format!("{at} is not ready for commands");
        let mend = redis_cli(at, "INFO persistence");
        Some(FindingCode::InstanceNotReady.found(text, vec![seen(at, why)], mend))
    };
    findings.extend(waiting.filter_map(say));
    findings
}

/// Sentinels take `LOADING` for a good answer, and wait for as long as it takes.
fn loading_writer(facts: &Facts<'_>) -> Vec<Finding> {
    let writer = facts.view.writer().and_then(|at| Some((at, facts.view.instance(at)?)));
    let loads = writer.and_then(|(at, answer)| Some((at, answer.not_ready.as_ref()?)));
    let Some((at, why)) = loads.filter(|(_, why)| why.contains("LOADING")) else {
        return Vec::new();
    };
    let text = format!(
        "the writer {at} loads its data and refuses every command: the Sentinels wait for it"
    );
    let group = facts.group();
    let now = facts.groups().next().map(|(sentinel, ..)| {
        redis_cli(sentinel, format!("SENTINEL FAILOVER {group} (it replaces it now, for as long as the replicas have had no link for less than ten times down-after-milliseconds); "))
    });
    let mend = format!(
        "{}consul-redis config {group} reboot_down_after=3s, so that they do so themselves the next time",
        now.unwrap_or_default()
    );
    vec![FindingCode::InstanceNotReady.found(text, vec![seen(at, why)], mend)]
}

fn second_primary(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(writer) = facts.view.writer() else { return Vec::new() };
    let others = answers(facts)
        .filter(|(at, answer)| *at != writer && answer.is_primary())
        .filter(|(at, _)| facts.view.alias_of(at).is_none());
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let text = format!("{at} says that it is a primary as well as {writer}");
        let read = format!("role:master, {} keys, history {}", answer.keys, answer.replid.0);
        let command = format!("REPLICAOF {} {}", writer.host(), writer.port());
        let mend = format!(
            "an agent makes it a replica, unless it holds other data; to give that up: {}",
            redis_cli(at, command)
        );
        FindingCode::SecondPrimary.found(text, vec![seen(at, read)], mend)
    };
    others.map(say).collect()
}

/// Addresses that are of no use: another one of a process that the group knows, and loopback ones.
fn misnamed(facts: &Facts<'_>) -> Vec<Finding> {
    let view = facts.view;
    let two = view.aliases().iter().map(|(at, of)| {
        let run = view.instance(at).map(|answer| answer.run_id.as_str()).unwrap_or_default();
        let text = format!("{at} and {of} are two addresses of one process: only {of} counts");
        let mend = format!("write {of} where {at} is configured ([[redis]]) or registered");
        let evidence = [at, of].map(|from| seen(from, format!("run_id:{run}"))).into();
        FindingCode::TwoAddresses.found(text, evidence, mend)
    });
    let loopback = view.refused().iter().map(|at| {
        let text = format!(
            "{at} is registered for the group and ignored: it leads every host to itself, and the group is known elsewhere"
        );
        let mend = "write the address that the Sentinels know in [[redis]] of the agent that registered it";
        let read = format!("registered in Consul as {}", view.policy.service.server());
        FindingCode::LoopbackAddress.found(text, vec![seen(at, read)], mend)
    });
    two.chain(loopback).collect()
}

fn unannounced(facts: &Facts<'_>) -> Vec<Finding> {
    let hidden = facts.replicas().filter(|(_, answer)| !answer.announced);
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        if answer.priority == Some(0) {
            return None;
        }
        let text = format!(
            "{at} is not announced, and may be chosen all the same: it is no read endpoint, and no Sentinel shows it"
        );
        let mend = redis_cli(at, "CONFIG SET replica-priority 0");
        Some(FindingCode::ReplicaUnannounced.found(
            text,
            vec![seen(at, "replica_announced:0")],
            mend,
        ))
    };
    hidden.filter_map(say).collect()
}

fn links(facts: &Facts<'_>) -> Vec<Finding> {
    let writer = facts.view.writer();
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let Role::Replica { of, link_up } = &answer.role else { return None };
        let other =
            writer.filter(|writer| *writer != of && facts.view.alias_of(of) != Some(writer));
        // By a name that leads to the writer, or by another of its addresses: what is connected decides.
        let known = InstanceRows::new(facts.view).known().contains(of);
        let connected = !known && writer.is_some_and(|writer| facts.view.lists(writer, at));
        if let Some(writer) = other.filter(|writer| *writer != at && !connected) {
            let text = format!("{at} follows {of}, not the writer {writer}");
            let read = format!("master_host:{} master_port:{}", of.host(), of.port());
            let mend = redis_cli(at, format!("REPLICAOF {} {}", writer.host(), writer.port()));
            return Some(FindingCode::FollowsAnother.found(text, vec![seen(at, read)], mend));
        }
        if *link_up {
            return None;
        }
        let text =
            format!("the link from {at} to its primary {of} is down: it takes no writes over");
        let mend =
            "look at its log, at masterauth, and at client-output-buffer-limit of the primary";
        Some(FindingCode::LinkDown.found(text, vec![seen(at, "master_link_status:down")], mend))
    };
    facts.replicas().filter_map(say).collect()
}

fn lags(facts: &Facts<'_>) -> Vec<Finding> {
    let Some((writer, answer)) = facts.writer() else { return Vec::new() };
    let Role::Primary { replicas } = &answer.role else { return Vec::new() };
    let late = replicas.iter().filter(|replica| replica.lag_s > LAG_MAX_S);
    let say = |replica: &crate::known::observed::ConnectedReplica| {
        let text =
            format!("replica {} is late: what it lacks is lost when it is chosen", replica.address);
        let read = format!("offset {}, lag {} s, as {writer} says", replica.offset, replica.lag_s);
        let mend = "look at its host: network, disk, and commands that take long (SLOWLOG GET)";
        FindingCode::ReplicaLags.found(text, vec![seen(&replica.address, read)], mend)
    };
    late.map(say).collect()
}

fn no_replicas(facts: &Facts<'_>) -> Vec<Finding> {
    let Some((writer, 0)) = facts.replicas_online() else { return Vec::new() };
    let text = "the writer has no replica in sync: when it is gone, there is none to choose";
    let mend =
        format!("redis-cli -h REPLICA -p PORT REPLICAOF {} {}", writer.host(), writer.port());
    vec![FindingCode::NoReplicas.found(text, vec![seen(writer, "0 replicas online")], mend)]
}

/// A replica that is kept out of elections: on purpose in maintenance, else by mistake.
fn priorities(facts: &Facts<'_>) -> Vec<Finding> {
    let replicas: Vec<_> = facts.replicas().collect();
    let (zero, others): (Vec<_>, Vec<_>) =
        replicas.iter().partition(|(_, answer)| answer.priority == Some(0));
    let evidence = |at: &Address| seen(at, "slave_priority:0");
    let mend = |at: &Address| redis_cli(at, "CONFIG SET replica-priority 100");
    if others.is_empty() && !zero.is_empty() {
        let text = "no replica may be chosen: no failover is possible";
        let commands: Vec<String> = zero.iter().map(|(at, _)| mend(at)).collect();
        let evidence = zero.iter().map(|(at, _)| evidence(at)).collect();
        return vec![FindingCode::NobodyEligible.found(text, evidence, commands.join("; "))];
    }
    // One that is not announced is kept out on purpose, as its own finding asks for.
    let forgotten =
        zero.iter().filter(|(at, answer)| answer.announced && !facts.view.in_maintenance(at));
    let say = |(at, _): &(&Address, &InstanceAnswer)| {
        let text = format!("replica {at} will never be chosen, and is not in maintenance");
        FindingCode::PriorityZero.found(text, vec![evidence(at)], mend(at))
    };
    forgotten.map(say).collect()
}

fn min_replicas(facts: &Facts<'_>) -> Vec<Finding> {
    let wanted = facts.settings("min-replicas-to-write");
    let mend = |count: u64| {
        format!("redis-cli CONFIG SET min-replicas-to-write {count}, on every instance")
    };
    if let Some(evidence) = differing("min-replicas-to-write", wanted.clone()) {
        let text = "instances want different numbers of replicas: a failover changes when writes are refused";
        return vec![FindingCode::MinReplicasDiffer.found(text, evidence, mend(1))];
    }
    let Some((writer, online)) = facts.replicas_online() else { return Vec::new() };
    let wanted = facts.instances.get(writer).and_then(|more| more.number("min-replicas-to-write"));
    let Some(wanted) = wanted else { return Vec::new() };
    let read = format!("min-replicas-to-write {wanted}, {online} replicas online");
    let found = |code: FindingCode, text: &str, count: u64| {
        vec![code.found(text, vec![seen(writer, &read)], mend(count))]
    };
    match wanted {
        0 => found(
            FindingCode::MinReplicasOff,
            "the primary of an isolated host goes on taking writes that will be lost",
            1,
        ),
        // Without any there is a graver finding.
        _ if online == 0 => Vec::new(),
        _ if wanted > online => found(
            FindingCode::MinReplicasUnmet,
            "the writer refuses writes: too few replicas follow it",
            1,
        ),
        _ if wanted == online && online > 1 => found(
            FindingCode::MinReplicasNoSpare,
            "writes stop when one replica is lost",
            online - 1,
        ),
        _ => Vec::new(),
    }
}

fn persistence_off(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::PersistenceOff, |at, more| {
        let off = more.setting("save")?.is_empty() && more.setting("appendonly")? == "no";
        off.then(|| {
            (
                format!(
                    "{at} saves nothing: a primary that restarts is empty, and when all stop at once, all data is gone"
                ),
                "save \"\", appendonly no".to_owned(),
                redis_cli(at, "CONFIG SET appendonly yes"),
            )
        })
    })
}

fn persistence_fails(facts: &Facts<'_>) -> Vec<Finding> {
    const STATUS: [&str; 3] =
        ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"];
    each(facts, FindingCode::PersistenceFails, |at, more| {
        let failed = STATUS.into_iter().find(|name| more.info(name) == Some("err"))?;
        let text = format!("{at} cannot save its data, and may refuse writes for it");
        Some((text, format!("{failed}:err"), "look at its disk and its log".to_owned()))
    })
}

fn announced(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::AnnounceDiffers, |at, more| {
        let host = more.setting("replica-announce-ip").filter(|host| !host.is_empty())?;
        let port = more.number("replica-announce-port").filter(|port| *port != 0);
        let differs = host != at.host() || port.is_some_and(|port| port != u64::from(at.port()));
        differs.then(|| {
            let ip = redis_cli(at, format!("CONFIG SET replica-announce-ip {}", at.host()));
            let wrong = port.is_some_and(|port| port != u64::from(at.port()));
            let mend = match wrong {
                true => {
                    let port = format!("CONFIG SET replica-announce-port {}", at.port());
                    format!("{ip}; {}", redis_cli(at, port))
                }
                false => ip,
            };
            let port = port.map_or_else(String::new, |port| format!(" {port}"));
            // A replica says it once for each connection to its primary.
            let mend = match facts.view.instance(at).is_some_and(InstanceAnswer::is_replica) {
                true => format!("{mend}; {}", redis_cli(at, "CLIENT KILL TYPE master")),
                false => mend,
            };
            (
                format!("{at} announces another address: after a failover it is known by two"),
                format!("replica-announce-ip and -port {host}{port}"),
                mend,
            )
        })
    })
}

fn writable(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::ReplicaWritable, |at, more| {
        (more.setting("replica-read-only")? == "no").then(|| {
            (
                format!("{at} takes writes while it is a replica, which are lost"),
                "replica-read-only no".to_owned(),
                redis_cli(at, "CONFIG SET replica-read-only yes"),
            )
        })
    })
}

/// The hard limit of `client-output-buffer-limit` for replicas, in bytes; 0 is none.
fn replica_buffer(limits: &str) -> Option<u64> {
    let words: Vec<&str> = limits.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "slave" || *word == "replica")?;
    words.get(at + 1)?.parse().ok()
}

fn buffers(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::ReplicaBufferSmall, |at, more| {
        let hard = replica_buffer(more.setting("client-output-buffer-limit")?)?;
        let used: u64 = more.info("used_memory")?.parse().ok()?;
        // What is written during a full synchronisation waits there: a tenth of the data is not much.
        (hard > 0 && hard < used / 10).then(|| {
            (
                format!(
                    "{at} disconnects a replica that synchronises while a tenth of the data changes"
                ),
                format!("client-output-buffer-limit for replicas {hard}, used_memory {used} bytes"),
                redis_cli(
                    at,
                    format!(
                        "CONFIG SET client-output-buffer-limit \"replica {0} {0} 60\"",
                        used / 4
                    ),
                ),
            )
        })
    })
}

fn limits_differ(facts: &Facts<'_>) -> Vec<Finding> {
    let found = |code: FindingCode, name: &str, text: &str| {
        let evidence: Option<Vec<Observation>> = differing(name, facts.settings(name));
        let of_writer = facts.view.writer().and_then(|at| facts.instances.get(at)?.setting(name));
        let value = of_writer.unwrap_or("VALUE");
        let mend = format!("redis-cli CONFIG SET {name} {value}, on every instance");
        Some(code.found(text, evidence?, mend))
    };
    let memory =
        "instances have different limits of memory: one that takes over may refuse writes or evict";
    let policy = "instances evict differently: a failover changes what becomes of keys";
    [
        found(FindingCode::MaxmemoryDiffers, "maxmemory", memory),
        found(FindingCode::MaxmemoryPolicyDiffers, "maxmemory-policy", policy),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn death_unseen(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::DeathUnseen, |at, more| {
        let text = format!(
            "the end of {at} is not seen at once by an agent that runs like this command: Sentinels wait for down-after-milliseconds"
        );
        Some((text, more.death_unseen.clone()?, SEE_PROCESSES.to_owned()))
    })
}

fn diskless_delay(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::DisklessDelay, |at, more| {
        let on = more.setting("repl-diskless-sync")? == "yes";
        let delay = more
            .number("repl-diskless-sync-delay")
            .filter(|delay| *delay > DISKLESS_DELAY_MAX_S)?;
        on.then(|| {
            (
                format!("{at} waits {delay} s before each full synchronisation, and has fewer replicas meanwhile"),
                format!("repl-diskless-sync-delay {delay}"),
                redis_cli(at, format!("CONFIG SET repl-diskless-sync-delay {DISKLESS_DELAY_MAX_S}")),
            )
        })
    })
}

fn config_file(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::ConfigFileMissing, |at, more| {
        more.info("config_file")?.is_empty().then(|| {
            (
                format!("{at} was started without a config file: after a restart it forgets which instance it followed"),
                "config_file: (empty)".to_owned(),
                "start it with a config file that it may write, or with consul-redis exec".to_owned(),
            )
        })
    })
}

fn clocks(facts: &Facts<'_>) -> Vec<Finding> {
    each(facts, FindingCode::ClockSkew, |at, more| {
        let ahead = *more.clock_ahead_ms.as_ref().ok()?;
        (ahead.unsigned_abs() > CLOCK_SKEW_MAX_MS).then(|| {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            (
                format!("the clock of {at} is {way} this machine's: keys expire at other times after a failover"),
                format!("TIME: {} ms {way} ours", ahead.unsigned_abs()),
                "chronyc makestep, on the host that is wrong".to_owned(),
            )
        })
    })
}

fn versions(facts: &Facts<'_>) -> Vec<Finding> {
    let Some((writer, newest)) = facts.writer() else { return Vec::new() };
    // An RDB of a newer minor version may be unreadable for an older one.
    let minor = |text: &str| version(text).map(|(major, minor, _)| (major, minor));
    let Some(newer) = minor(&newest.version) else { return Vec::new() };
    let older = facts.replicas().filter(|(_, a)| minor(&a.version).is_some_and(|own| own < newer));
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let text = format!("{at} is older than the writer, and may not understand what it is sent");
        let evidence = vec![
            seen(at, format!("version {}", answer.version)),
            seen(writer, format!("version {}", newest.version)),
        ];
        FindingCode::VersionsDiffer.found(text, evidence, "upgrade replicas before the primary")
    };
    older.map(say).collect()
}

/// What agents may not do where they will have to. `doctor` asks with the login that it has.
fn rights(facts: &Facts<'_>) -> Vec<Finding> {
    const OF_MARK: [&str; 2] = ["GETRANGE", "SET"];
    const OF_ORDER: &str = "CONFIG SET";
    let key = facts.view.policy.mark.as_ref().map(MarkKey::as_str);
    let refusing = facts.instances.iter().filter_map(|(at, more)| {
        let Refused { user, commands } = more.refused.as_ref().ok()?;
        let (of_mark, others): (Vec<_>, Vec<_>) =
            commands.iter().partition(|(command, _)| OF_MARK.contains(&command.as_str()));
        let (of_order, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(command, _)| command == OF_ORDER);
        let found = |commands: &[&(String, String)], key: Option<&str>, what: &str| {
            let (evidence, mend) = refusals(at, user, commands, key)?;
            let text = format!("{at} refuses this login {what}");
            Some(FindingCode::InstanceRight.found(text, evidence, mend))
        };
        let commanded =
            "what agents do to a stray primary, or to one whose writes are to be held";
        let marked = "the mark in the data set: an old primary with an append-only file may only be held when it comes back";
        let ordered = "the replica-priority that prefer_zones asks for";
        Some([
            found(&others, None, commanded),
            found(&of_mark, key, marked),
            found(&of_order, None, ordered),
        ])
    });
    refusing.flatten().flatten().collect()
}

/// Whether Sentinels know the other names cannot be asked.
fn renamed(facts: &Facts<'_>) -> Vec<Finding> {
    let group = facts.group();
    each(facts, FindingCode::CommandRenamed, |at, more| {
        let renamed = more.renamed.as_ref().ok().filter(|renamed| !renamed.is_empty())?;
        let text = format!(
            "{at} does not know commands of a failover by their names: a Sentinel that was not told the others cannot fail over"
        );
        let all = renamed.join(", ");
        let mend =
            format!("on every Sentinel: SENTINEL SET {group} rename-command COMMAND ITS-NAME");
        Some((text, format!("it does not know {all}"), mend))
    })
}

fn not_held(facts: &Facts<'_>) -> Vec<Finding> {
    let old = answers(facts).filter(|(_, answer)| !answer.can_hold_writes());
    let say = |(at, answer): (&Address, &InstanceAnswer)| {
        let text = format!(
            "{at} cannot hold its writes: as the primary of an isolated host, or while another one is promoted, it goes on taking what will be lost"
        );
        let evidence = vec![seen(at, format!("version {}", answer.version))];
        let mend = "upgrade it to Redis 6.2 or later; until then, min-replicas-to-write 1 bounds what an isolated one takes";
        FindingCode::WritesNotHeld.found(text, evidence, mend)
    };
    old.map(say).collect()
}

fn in_maintenance(facts: &Facts<'_>) -> Vec<Finding> {
    let store = facts.view.observed.store.as_ref();
    let listed = store.and_then(|store| store.maintenance.as_ref().ok()).into_iter().flatten();
    let say = |(at, _): (&Address, &u64)| {
        let evidence = vec![seen(at, format!("listed in the key {}", facts.layout.maintenance()))];
        let mend = format!("consul-redis maintenance off {at}");
        FindingCode::InMaintenance.found(format!("{at} is kept out of service"), evidence, mend)
    };
    listed.map(say).collect()
}
