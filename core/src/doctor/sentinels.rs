//! The Sentinels: whether they could fail over, and agree.

use super::{
    CheckFn, Facts, Finding, FindingCode, Observation, Refused, differing, redis_cli, refusals,
    seen, version,
};
use crate::identity::address::{Address, GroupName};
use crate::known::observed::{SentinelAnswer, SentinelGroup, SentinelSettings};
use crate::policy::WantedQuorum;
use crate::situation::election::copies;
use crate::situation::relocated::stranded;

/// Below this little is left beside the second that a Sentinel lets pass after a switch, in ms
/// (`docs/facts/sentinel.md` 13).
const DOWN_AFTER_MIN_MS: u64 = 1_500;
/// At this and below, Sentinel at times calls the new primary down before it has asked it anything, in ms
/// (`docs/facts/sentinel.md` 13).
const DOWN_AFTER_REPLACES_MS: u64 = 1_100;
/// Above this writes fail for longer than any pause of a machine, in ms.
const DOWN_AFTER_MAX_MS: u64 = 10_000;
/// Below this a phase of a failover may be given up that only takes its time, in ms: INFO alone is a second.
const FAILOVER_TIMEOUT_MIN_MS: u64 = 5_000;
/// Above this the next attempt, which comes after twice the time, is late, in ms.
const FAILOVER_TIMEOUT_MAX_MS: u64 = 60_000;
/// Fewer Sentinels have no majority when one is gone.
const SENTINELS_MIN: usize = 3;

pub(super) const CHECKS: &[CheckFn] = &[
    no_majority,
    quorum,
    quorum_by_itself,
    disagree,
    tilt,
    same_id,
    names_not_resolved,
    silent,
    lacks_group,
    relay_refused,
    replicas_forgotten,
    count_differs,
    how_many,
    settings_differ,
    times,
    reboot_unbounded,
    rights,
    not_kept,
    ghost_replicas,
    names_mixed,
    loopback,
    versions,
    login,
    users,
    unsaved,
];

fn config(facts: &Facts<'_>, what: &str) -> String {
    format!("consul-redis config {} {what}", facts.group())
}

/// What a Sentinel is told so that it monitors a primary with the settings that another one has.
fn monitor(facts: &Facts<'_>, sentinel: &Address, primary: &Address) -> Option<String> {
    let others = facts.groups().filter(|(at, ..)| *at != sentinel);
    let settings = others.map(|(_, _, group)| group.settings).next()?;
    let SentinelSettings { quorum, down_after_ms, failover_timeout_ms, parallel_syncs } = settings;
    let (group, host, port) = (facts.group(), primary.host(), primary.port());
    let first = format!("SENTINEL MONITOR {group} {host} {port} {quorum}");
    let then = format!(
        "SENTINEL SET {group} down-after-milliseconds {down_after_ms} failover-timeout {failover_timeout_ms} \
         parallel-syncs {parallel_syncs}"
    );
    // No Sentinel shows the login that it has.
    let login = match &facts.login {
        Some(_) => ", auth-user and auth-pass as the others have them",
        None => "",
    };
    Some(format!("{}; {}{login}", redis_cli(sentinel, first), redis_cli(sentinel, then)))
}

fn known(facts: &Facts<'_>) -> Observation {
    let tally = &facts.view.tally;
    seen("the Sentinels", format!("{} known, {} answer", tally.known, tally.answering))
}

fn lacks_majority(facts: &Facts<'_>) -> bool {
    let tally = &facts.view.tally;
    tally.known > 0 && tally.answering < tally.majority()
}

fn no_majority(facts: &Facts<'_>) -> Vec<Finding> {
    if !lacks_majority(facts) {
        return Vec::new();
    }
    let text = "fewer than half of the known Sentinels answer: no failover is possible";
    let mend = "start the Sentinels again, or look at the network from here";
    vec![FindingCode::NoMajority.found(text, vec![known(facts)], mend)]
}

fn quorum(facts: &Facts<'_>) -> Vec<Finding> {
    let Ok(count) = u64::try_from(facts.view.tally.known) else { return Vec::new() };
    let having = |wrong: &dyn Fn(u64) -> bool| -> Vec<Observation> {
        let wrong = facts.groups().filter(|(_, _, group)| wrong(group.settings.quorum));
        let say = |(at, _, group): (&Address, _, &SentinelGroup)| {
            seen(at, format!("quorum {} of {count} Sentinels", group.settings.quorum))
        };
        wrong.map(say).collect()
    };
    let found = |code: FindingCode, text: &str, evidence: Vec<Observation>| {
        let mend = config(facts, "quorum=auto");
        (!evidence.is_empty()).then(|| code.found(text, evidence, mend))
    };
    [
        found(
            FindingCode::QuorumTooHigh,
            "more Sentinels must agree than there are: no failover is possible",
            having(&|quorum| quorum > count),
        ),
        found(
            FindingCode::QuorumNoSpare,
            "all Sentinels must agree: one that is down stops failovers",
            having(&|quorum| quorum == count && count > 2),
        ),
        found(
            FindingCode::QuorumOne,
            "one Sentinel alone calls the primary down: its own network is enough for that",
            having(&|quorum| quorum == 1 && count > 1),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What Sentinels say themselves, where nothing else explains it.
fn quorum_by_itself(facts: &Facts<'_>) -> Vec<Finding> {
    if lacks_majority(facts) || quorum(facts).iter().any(|f| f.code == FindingCode::QuorumTooHigh) {
        return Vec::new();
    }
    let refused: Vec<Observation> = facts
        .sentinels
        .iter()
        .filter_map(|(at, more)| match &more.quorum {
            Ok(Err(refusal)) => Some(seen(at, refusal)),
            _ => None,
        })
        .collect();
    if refused.is_empty() {
        return Vec::new();
    }
    let text = "a Sentinel hears too few others for a failover";
    let mend = "look at the network between the Sentinels, and at their announce-ip and passwords";
    vec![FindingCode::NoQuorum.found(text, refused, mend)]
}

fn disagree(facts: &Facts<'_>) -> Vec<Finding> {
    let mut views: Vec<_> =
        facts.groups().map(|(at, _, group)| (at, group.primary.to_string())).collect();
    // The published writer counts as one more opinion, where there are others.
    if let Some(writer) = facts.view.writer().filter(|_| !views.is_empty()) {
        views.push((writer, writer.to_string()));
    }
    let Some(evidence) = differing("the primary is", views) else { return Vec::new() };
    let text = "the Sentinels do not all name the published writer: an agent with tell_sentinels corrects a minority after \
                30 s";
    let mend = minority(facts).unwrap_or_else(|| {
        "wait for the failover that is under way; else SENTINEL REMOVE and SENTINEL MONITOR on those that are wrong"
            .to_owned()
    });
    vec![FindingCode::SentinelsDisagree.found(text, evidence, mend)]
}

/// What corrects the Sentinels that name another primary, where a majority names the published writer.
fn minority(facts: &Facts<'_>) -> Option<String> {
    let (view, group) = (facts.view, facts.group());
    let writer = view.writer().filter(|at| view.tally.votes_for(at) >= view.tally.majority())?;
    let others = facts.groups().filter(|(_, _, group)| group.primary != *writer);
    let command = |(at, ..): (&Address, _, &SentinelGroup)| {
        let remove = redis_cli(at, format!("SENTINEL REMOVE {group}"));
        Some(format!("{remove}; {}", monitor(facts, at, writer)?))
    };
    let commands: Option<Vec<String>> = others.map(command).collect();
    Some(commands?.join("; "))
}

fn same_id(facts: &Facts<'_>) -> Vec<Finding> {
    let view = facts.view;
    let say = |sentinels: Vec<Address>| {
        let names: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
        let text = format!("Sentinels {} have the same id, and count as one", names.join(", "));
        let id = |at: &Address| {
            let reading = view.observed.sentinels.get(at)?;
            Some(seen(at, format!("SENTINEL MYID {}", reading.result.as_ref().ok()?.id.0)))
        };
        let mend = "delete the line `sentinel myid` in the config file of all but one, and start those again";
        FindingCode::SameSentinelId.found(text, sentinels.iter().filter_map(id).collect(), mend)
    };
    copies(view.observed, view.recent).into_iter().map(say).collect()
}

fn tilt(facts: &Facts<'_>) -> Vec<Finding> {
    let tilted = facts.view.sentinels().filter(|(_, answer)| answer.tilt);
    let say = |(at, _): (&Address, &SentinelAnswer)| {
        let text = format!(
            "{at} is in TILT: its clock jumped or it stood still, and it calls no server down"
        );
        let mend = "it ends after 30 s; when it comes back, look at the host's clock, disk and DNS";
        FindingCode::Tilt.found(text, vec![seen(at, "sentinel_tilt:1")], mend)
    };
    tilted.map(say).collect()
}

/// All addresses of the group, with the Sentinel or instance that said so.
fn announced<'a>(facts: &Facts<'a>) -> Vec<(&'a Address, &'a Address)> {
    let of = |(at, _, group): (&'a Address, _, &'a SentinelGroup)| {
        let replicas = group.replicas.iter().map(|replica| &replica.address);
        let all: Vec<_> = std::iter::once(&group.primary).chain(replicas).collect();
        all.into_iter().map(move |address| (at, address))
    };
    facts.groups().flat_map(of).collect()
}

/// The login that agents give Sentinels.
fn login(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(login) = &facts.login else { return Vec::new() };
    let named = &login.named;
    let evidence = |of: &std::collections::BTreeMap<Address, String>| -> Vec<Observation> {
        of.iter().map(|(at, words)| seen(at, words)).collect()
    };
    let mut findings = Vec::new();
    if let Some(why) = login.not_storable {
        let text = format!("Sentinel cannot store {named}: agents give it to no Sentinel");
        let mend =
            "give Sentinels a password without spaces and quotes: auth_user and auth_password_file";
        findings.push(FindingCode::SentinelLogin.found(text, vec![seen(named, why)], mend));
    }
    if login.chosen && !login.refused.is_empty() {
        let text = format!("the login for Sentinels is refused: {named}");
        let mend = "correct the file, or ACL SETUSER on every instance";
        findings.push(FindingCode::SentinelLogin.found(text, evidence(&login.refused), mend));
    }
    if !login.lacks.is_empty() {
        let code =
            if login.chosen { FindingCode::SentinelLogin } else { FindingCode::SentinelLoginWeak };
        let text = format!("a Sentinel with {named} could not fail over: it lacks rights");
        let mend =
            "set auth_user and auth_password_file to a user with the rights that Sentinel needs";
        findings.push(code.found(text, evidence(&login.lacks), mend));
    }
    findings
}

/// The logins that Sentinels have.
fn users(facts: &Facts<'_>) -> Vec<Finding> {
    let mut weak: std::collections::BTreeMap<&str, (Vec<Observation>, bool)> = <_>::default();
    for (at, more) in &facts.instances {
        for (user, lacks) in more.sentinel_users.iter().flatten().filter(|(_, l)| !l.is_empty()) {
            let (evidence, channels) = weak.entry(user).or_insert((Vec::new(), true));
            evidence.push(seen(at, format!("refuses it {lacks}")));
            *channels &=
                lacks.split(", ").all(|command| ["PUBLISH", "SUBSCRIBE"].contains(&command));
        }
    }
    let found = weak.into_iter().map(|(user, (evidence, channels))| {
        let text =
            format!("Sentinels are logged in as {user}, which may not do what a failover needs");
        // What Redis before 6.2 has written of a user has no channels in it, and from 7.0 on that means none.
        let mend = if channels {
            format!(
                "redis-cli ACL SETUSER {user} allchannels, on every instance; redis-cli CONFIG REWRITE, on every instance; \
                 where users are in an aclfile, ACL SAVE instead"
            )
        } else {
            format!("ACL SETUSER {user} on every instance, with the rights that Sentinel needs")
        };
        FindingCode::SentinelUserWeak.found(text, evidence, mend)
    });
    found.collect()
}

/// What agents may not tell a Sentinel. `doctor` asks with the login that it has.
fn rights(facts: &Facts<'_>) -> Vec<Finding> {
    let refusing = facts.sentinels.iter().filter_map(|(at, more)| {
        let Refused { user, commands } = more.refused.as_ref().ok()?;
        let commands: Vec<_> = commands.iter().collect();
        let (evidence, mend) = refusals(at, user, &commands, None)?;
        let text = format!("Sentinel {at} refuses this login what agents tell Sentinels");
        Some(FindingCode::SentinelRight.found(text, evidence, mend))
    });
    refusing.collect()
}

fn unsaved(facts: &Facts<'_>) -> Vec<Finding> {
    let cannot = facts.sentinels.iter().filter_map(|(at, more)| match &more.saved {
        Ok(Err(words)) => Some(seen(at, words)),
        _ => None,
    });
    let evidence: Vec<Observation> = cannot.collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    let text =
        "a Sentinel cannot save its config file: after a restart it has forgotten what it was told";
    let mend = "mount the directory of its config file, not the file; let it write there; look at its disk";
    vec![FindingCode::SentinelConfigUnsaved.found(text, evidence, mend)]
}

fn names_not_resolved(facts: &Facts<'_>) -> Vec<Finding> {
    let off = |at: &Address, name: &str| {
        let config = facts.sentinels.get(at).and_then(|more| more.config.as_ref().ok());
        config.and_then(|config| config.get(name)).is_some_and(|value| value == "no")
    };
    let named = announced(facts).into_iter().find(|(_, address)| address.ip().is_none());
    let Some((_, name)) = named else { return Vec::new() };
    let blind = facts.groups().filter(|(at, _, _)| off(at, "resolve-hostnames"));
    let say = |(at, _, _): (&Address, _, _)| {
        let text = format!("{name} is announced by name, and {at} looks up no names");
        let evidence = vec![seen(at, "resolve-hostnames no")];
        let mend = redis_cli(at, "SENTINEL CONFIG SET resolve-hostnames yes");
        FindingCode::NamesNotResolved.found(text, evidence, mend)
    };
    blind.map(say).collect()
}

/// Sentinels that do not answer us: down, when no other Sentinel hears them either, or out of our reach.
fn silent(facts: &Facts<'_>) -> Vec<Finding> {
    let silent = facts.view.observed.sentinels.iter().filter_map(|(at, reading)| {
        let error = reading.result.as_ref().err()?;
        Some((at, error))
    });
    let say = |(at, error): (&Address, &String)| {
        let opinions: Vec<_> = facts
            .groups()
            .filter_map(|(from, _, group)| {
                Some((from, group.peers.iter().find(|peer| &peer.address == at)?.s_down))
            })
            .collect();
        let mut evidence = vec![seen(at, error)];
        let word = |down: bool| if down { "gets no answer from it" } else { "hears it" };
        evidence.extend(opinions.iter().map(|(from, down)| seen(from, word(*down))));
        if opinions.iter().any(|(_, down)| !down) {
            let text = format!("{at} does not answer from here, and other Sentinels hear it");
            let mend = "look at the network from here, at --sentinel-password-file and at TLS";
            return FindingCode::SentinelUnreachable.found(text, evidence, mend);
        }
        let text = format!("Sentinel {at} is down, and still counts in every majority");
        let mend = "start it again; agents make the others forget it after forget_sentinels_after";
        FindingCode::SentinelDown.found(text, evidence, mend)
    };
    silent.map(say).collect()
}

/// `SENTINEL RESET` while the primary was dead: a Sentinel finds replicas through the primary alone.
fn replicas_forgotten(facts: &Facts<'_>) -> Vec<Finding> {
    let view = facts.view;
    let Some((best, answer)) = stranded(view) else { return Vec::new() };
    let mut evidence: Vec<Observation> = facts
        .groups()
        .map(|(at, _, group)| {
            let count = group.replicas.len();
            seen(at, format!("{} is down, {count} replicas", group.monitored))
        })
        .collect();
    let answers = view.observed.instances.keys().filter_map(|at| Some((at, view.instance(at)?)));
    evidence.extend(answers.map(|(at, answer)| seen(at, format!("offset {}", answer.offset))));
    let Some(settings) = facts.groups().map(|(_, _, group)| group.settings).next() else {
        return Vec::new();
    };
    let SentinelSettings { quorum, down_after_ms, failover_timeout_ms, parallel_syncs, .. } =
        settings;
    let (group, host, port) = (facts.group(), best.host(), best.port());
    let text = format!(
        "the Sentinels know no replica of the primary, which is gone; {best} holds the most of its data (offset {})",
        answer.offset
    );
    let mend = format!(
        "{}; then on every Sentinel: SENTINEL REMOVE {group}, SENTINEL MONITOR {group} {host} {port} {quorum}, and what \
         it had before: SENTINEL SET {group} down-after-milliseconds {down_after_ms} failover-timeout {failover_timeout_ms} \
         parallel-syncs {parallel_syncs}, and auth-pass and auth-user where there are any",
        redis_cli(best, "REPLICAOF NO ONE")
    );
    vec![FindingCode::ReplicasForgotten.found(text, evidence, mend)]
}

fn relay_refused(facts: &Facts<'_>) -> Vec<Finding> {
    let refusing = facts.view.sentinels().filter(|_| facts.view.policy.relay);
    let refusing = refusing.filter_map(|(at, answer)| Some((at, answer.refuses_relay.as_ref()?)));
    let evidence: Vec<Observation> =
        refusing.map(|(at, words)| seen(at, format!("PUBLISH: {words}"))).collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    let text = "a Sentinel does not let agents tell it how an election ended whose leader dies";
    let mend = "give the agents' user on the Sentinels +publish and &__sentinel__:hello, or set relay = false";
    vec![FindingCode::RelayRefused.found(text, evidence, mend)]
}

fn lacks_group(facts: &Facts<'_>) -> Vec<Finding> {
    let lacking = facts.view.sentinels().filter(|(_, answer)| answer.group.is_none());
    let say = |(at, answer): (&Address, &SentinelAnswer)| {
        let text = format!("{at} does not know the group {}", facts.group());
        let mut evidence = vec![seen(at, "SENTINEL GET-MASTER-ADDR-BY-NAME: nothing")];
        // Where none knows it, it is called something else more likely than it is missing.
        let others: Vec<&str> = answer.others.iter().map(GroupName::as_str).collect();
        if !others.is_empty() && facts.groups().next().is_none() {
            evidence.push(seen(at, format!("INFO sentinel: {}", others.join(", "))));
            let mend = format!(
                "name the group as the Sentinels know it: --group {}",
                others.join(" or --group ")
            );
            return FindingCode::SentinelLacksGroup.found(text, evidence, mend);
        }
        let told = facts.view.writer().and_then(|writer| monitor(facts, at, writer));
        let mend = told.unwrap_or_else(|| "publish the group first".to_owned());
        FindingCode::SentinelLacksGroup.found(text, evidence, mend)
    };
    lacking.map(say).collect()
}

fn count_differs(facts: &Facts<'_>) -> Vec<Finding> {
    let counts = facts.groups().map(|(at, _, group)| (at, group.other_sentinels)).collect();
    let Some(evidence) = differing("num-other-sentinels", counts) else { return Vec::new() };
    let text = "the Sentinels know different numbers of Sentinels: their majorities differ";
    vec![FindingCode::SentinelCountDiffers.found(text, evidence, reset_all(facts))]
}

/// What has every Sentinel find all others, and all replicas, anew.
fn reset_all(facts: &Facts<'_>) -> String {
    let reset =
        |(at, ..): (&Address, _, _)| redis_cli(at, format!("SENTINEL RESET {}", facts.group()));
    let commands: Vec<String> = facts.groups().map(reset).collect();
    commands.join("; 30 s later, while the primary is well: ")
}

fn how_many(facts: &Facts<'_>) -> Vec<Finding> {
    let count = facts.view.tally.known;
    let mend =
        "start one more Sentinel on another host, with `sentinel monitor` as the others have it";
    let (code, text) = match count {
        0 => return Vec::new(),
        _ if count < SENTINELS_MIN => {
            let text = format!("{count} Sentinels: no failover is possible when one is gone");
            (FindingCode::SentinelsFew, text)
        }
        _ if count.is_multiple_of(2) => {
            let text = format!("{count} Sentinels: they survive no more losses than {}", count - 1);
            (FindingCode::SentinelsEven, text)
        }
        _ => return Vec::new(),
    };
    vec![code.found(text, vec![known(facts)], mend)]
}

/// One setting of a Sentinel: its code, its name, how `config` calls it, and its value.
type SettingCheck = (FindingCode, &'static str, &'static str, fn(&SentinelSettings) -> u64);

const SETTINGS: [SettingCheck; 4] = [
    (FindingCode::QuorumDiffers, "quorum", "quorum=auto", |s| s.quorum),
    (FindingCode::DownAfterDiffers, "down-after-milliseconds", "down_after=5s", |s| {
        s.down_after_ms
    }),
    (FindingCode::FailoverTimeoutDiffers, "failover-timeout", "failover_timeout=20s", |s| {
        s.failover_timeout_ms
    }),
    (FindingCode::ParallelSyncsDiffers, "parallel-syncs", "parallel_syncs=1", |s| s.parallel_syncs),
];

fn settings_differ(facts: &Facts<'_>) -> Vec<Finding> {
    if !not_kept(facts).is_empty() {
        return Vec::new();
    }
    let found = |(code, name, command, get): SettingCheck| {
        let values = facts.groups().map(|(at, _, group)| (at, get(&group.settings))).collect();
        let evidence = differing(name, values)?;
        let text = format!("the Sentinels have different values of {name}");
        Some(code.found(text, evidence, config(facts, command)))
    };
    SETTINGS.into_iter().filter_map(found).collect()
}

/// What is wrong with a `down-after-milliseconds` that is too short, in ms; `None` when it is not.
pub fn short_down_after(ms: Option<u64>) -> Option<&'static str> {
    match ms? {
        0..=DOWN_AFTER_REPLACES_MS => Some(
            "so short that Sentinel at times replaces a healthy new primary by itself: after a switch it sends the first \
             PING a second later, and by then calls it down",
        ),
        ms if ms < DOWN_AFTER_MIN_MS => Some(
            "so short that a new primary that is slow for a moment is replaced at once: one failover becomes two",
        ),
        _ => None,
    }
}

fn times(facts: &Facts<'_>) -> Vec<Finding> {
    let down = |s: &SentinelSettings| s.down_after_ms;
    let timeout = |s: &SentinelSettings| s.failover_timeout_ms;
    let having =
        |name: &str, wrong: &dyn Fn(&SentinelSettings) -> Option<u64>| -> Vec<Observation> {
            let values = facts.groups().filter_map(|(at, _, g)| Some((at, wrong(&g.settings)?)));
            values.map(|(at, value)| seen(at, format!("{name} {value}"))).collect()
        };
    let (down_after, failover) = ("down-after-milliseconds", "failover-timeout");
    [
        (
            FindingCode::DownAfterShort,
            short_down_after(facts.groups().map(|(_, _, group)| down(&group.settings)).min())
                .unwrap_or_default(),
            having(down_after, &|s| Some(down(s)).filter(|ms| *ms < DOWN_AFTER_MIN_MS)),
            "down_after=1500ms",
        ),
        (
            FindingCode::DownAfterLong,
            "a primary that is gone is missed for that long before anything happens",
            having(down_after, &|s| Some(down(s)).filter(|ms| *ms > DOWN_AFTER_MAX_MS)),
            "down_after=5s",
        ),
        (
            FindingCode::FailoverTimeoutShort,
            "so short that a failover may be given up that only takes its time",
            having(failover, &|s| Some(timeout(s)).filter(|ms| *ms < FAILOVER_TIMEOUT_MIN_MS)),
            "failover_timeout=20s",
        ),
        (
            FindingCode::FailoverTimeoutLong,
            "after a failover that did not succeed, the next comes after twice that time",
            having(failover, &|s| Some(timeout(s)).filter(|ms| *ms > FAILOVER_TIMEOUT_MAX_MS)),
            "failover_timeout=20s",
        ),
    ]
    .into_iter()
    .filter(|(_, _, evidence, _)| !evidence.is_empty())
    .map(|(code, text, evidence, command)| code.found(text, evidence, config(facts, command)))
    .collect()
}

/// Sentinels since 7.0 can give up on a primary that loads for long, and do not by themselves. What they have is shown
/// by none of them (`docs/facts/sentinel.md` 18).
fn reboot_unbounded(facts: &Facts<'_>) -> Vec<Finding> {
    let able = |more: &super::SentinelFacts| {
        let version = more.version.as_ref().ok().and_then(|text| version(text));
        version.is_some_and(|(major, ..)| major >= 7)
    };
    let store = facts.view.observed.store.as_ref();
    let Some(Ok(shared)) = store.map(|store| &store.config) else { return Vec::new() };
    let kept = shared.reboot_down_after_ms.or(facts.view.policy.settings.reboot_down_after_ms);
    let able: Vec<&Address> =
        facts.sentinels.iter().filter(|(_, more)| able(more)).map(|(at, _)| at).collect();
    if kept.is_some() || able.is_empty() {
        return Vec::new();
    }
    let evidence = vec![seen(format!("key {}", facts.layout.config()), "no reboot_down_after")];
    let text = "a primary that is restarted may load its data for as long as it likes: the Sentinels wait for it \
                (master-reboot-down-after-period, which they do not show, is 0 unless it was set)";
    vec![FindingCode::RebootUnbounded.found(text, evidence, config(facts, "reboot_down_after=3s"))]
}

/// What was given to the whole group, and some Sentinel has otherwise.
fn not_kept(facts: &Facts<'_>) -> Vec<Finding> {
    let store = facts.view.observed.store.as_ref();
    let Some(Ok(wanted)) = store.map(|store| &store.config) else { return Vec::new() };
    let auto = u64::try_from(facts.view.tally.majority()).unwrap_or(u64::MAX);
    let quorum = wanted.quorum.map(|quorum| match quorum {
        WantedQuorum::Auto => auto,
        WantedQuorum::Fixed(count) => count,
    });
    let wanted = [quorum, wanted.down_after_ms, wanted.failover_timeout_ms, wanted.parallel_syncs];
    let mut evidence = Vec::new();
    for ((_, name, _, get), wanted) in SETTINGS.into_iter().zip(wanted) {
        let Some(wanted) = wanted else { continue };
        let others = facts.groups().map(|(at, _, group)| (at, get(&group.settings)));
        let say = |(at, has)| seen(at, format!("{name} {has}, {wanted} is wanted"));
        evidence.extend(others.filter(|(_, has)| *has != wanted).map(say));
    }
    if evidence.is_empty() {
        return Vec::new();
    }
    let text = format!("Sentinels differ from the key {}", facts.layout.config());
    let mend = match store {
        Some(store) if store.agents.is_empty() => "start an agent: none watches the group".to_owned(),
        Some(store) if store.agents.is_subset(&store.publishing_only) => {
            let agents: Vec<&str> = store.agents.iter().map(String::as_str).collect();
            format!(
                "all agents have manage = false ({}): take that out of the config of one, or SENTINEL SET on each Sentinel",
                agents.join(", ")
            )
        }
        _ => "an agent with tell_sentinels reconfigures them within 2 s: its log says what hinders it".to_owned(),
    };
    vec![FindingCode::SettingsNotKept.found(text, evidence, mend)]
}

fn ghost_replicas(facts: &Facts<'_>) -> Vec<Finding> {
    let counts = facts.view.tally.replicas.iter();
    // One that answers is not gone: `called-down` says what it is.
    let gone = counts
        .filter(|(at, count)| count.up == 0 && count.down > 0 && facts.view.instance(at).is_none());
    let say = |(at, count): (&Address, &crate::situation::election::ReplicaCount)| {
        let text = format!("replica {at} is down, and Sentinels never forget it by themselves");
        let evidence = vec![seen(at, format!("{} Sentinels get no answer from it", count.down))];
        let mend = "start it again; agents make the Sentinels forget it after forget_after";
        FindingCode::GhostReplica.found(text, evidence, mend)
    };
    gone.map(say).collect()
}

fn names_mixed(facts: &Facts<'_>) -> Vec<Finding> {
    let all = announced(facts);
    let named = all.iter().find(|(_, address)| address.ip().is_none());
    let numbered = all.iter().find(|(_, address)| address.ip().is_some());
    let (Some(named), Some(numbered)) = (named, numbered) else { return Vec::new() };
    let evidence = [named, numbered].map(|(from, address)| seen(from, address)).into();
    let text = "some of the group are announced by name and some by address: Sentinels take one server for two";
    let mend = format!(
        "set replica-announce-ip, resolve-hostnames and announce-hostnames alike everywhere; then SENTINEL RESET {} on \
         each Sentinel that lists one server twice, one at a time",
        facts.group()
    );
    vec![FindingCode::NamesMixed.found(text, evidence, mend)]
}

fn loopback(facts: &Facts<'_>) -> Vec<Finding> {
    let peers = facts
        .groups()
        .flat_map(|(at, _, group)| group.peers.iter().map(move |peer| (at, &peer.address)));
    let all: Vec<_> = announced(facts).into_iter().chain(peers).collect();
    let local = |address: &Address| address.ip().is_some_and(|ip| ip.is_loopback());
    let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, address)| local(address));
    if own.is_empty() || others.is_empty() {
        return Vec::new();
    }
    let evidence = own.iter().map(|(from, address)| seen(from, address)).collect();
    let text = "a loopback address is announced, which leads every host to itself";
    let mend = "monitor the primary by its own address, and set replica-announce-ip and sentinel announce-ip";
    vec![FindingCode::LoopbackAnnounced.found(text, evidence, mend)]
}

/// What is known of some versions (`docs/facts/sentinel.md` 9).
fn fault_of(valkey: bool, version: (u64, u64, u64)) -> Option<&'static str> {
    match (valkey, version) {
        (false, (0..=5, ..)) => Some("before 6.0 it is not what this program is tested with"),
        (false, (6, 0..=1, _) | (6, 2, 0..=1)) => {
            Some("a replica that is left after all were down is never chosen (redis#6751)")
        }
        (true, (9, 0, 0)) => Some("with ACLs, no failover succeeds (valkey#2779)"),
        (true, (9, 1, 0)) => Some("FAILOVER COORDINATED ends the process (valkey#4066)"),
        _ => None,
    }
}

fn versions(facts: &Facts<'_>) -> Vec<Finding> {
    let bad = facts.sentinels.iter().filter_map(|(at, more)| {
        let text = more.version.as_ref().ok()?;
        Some((at, text, fault_of(more.valkey, version(text)?)?))
    });
    let say = |(at, text, fault): (&Address, &String, &str)| {
        let said = format!("Sentinel {at} is of a version with a known fault: {fault}");
        FindingCode::SentinelVersion.found(
            said,
            vec![seen(at, format!("version {text}"))],
            "upgrade it",
        )
    };
    bad.map(say).collect()
}
