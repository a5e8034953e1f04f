//! The agents, what they have made of the group, and what could not be read.

use jiff::SignedDuration;

use super::facts::fleet_of;
use super::{CheckFn, Facts, Finding, FindingCode, FleetFacts, Observation, pause_found, seen};
use crate::known::clocks::{ahead_ms, skews};
use crate::known::observed::{StoreAnswer, StoredState};
use crate::published::agreed::differing;
use crate::published::notices::Delivery;
use crate::shown::status::{Problem, ProblemCode};

/// So many withdrawals of the writer in [`FLAPPING_WITHIN`] are too many. A failover withdraws it once, a planned move
/// not at all.
const FLAPPING_WITHDRAWALS: usize = 4;
/// The time in which [`FLAPPING_WITHDRAWALS`] withdrawals of the writer are too many.
const FLAPPING_WITHIN: SignedDuration = SignedDuration::from_hours(1);

pub(super) const CHECKS: &[CheckFn] =
    &[watching, paused, notify, keys, flapping, clock, words, unread];

/// What is published is about another group: nothing else that is read can be compared.
pub(super) fn not_ours(facts: &Facts<'_>) -> Option<Finding> {
    let problem = facts.problems.iter().find(|problem| problem.code == ProblemCode::NotOurs)?;
    let from = format!("key {}", facts.layout.state());
    let record = facts.view.record;
    let sentinels = record.into_iter().flat_map(|record| &record.sentinels);
    let sentinels: Vec<String> = sentinels.map(ToString::to_string).collect();
    let read = format!("Sentinels {}", sentinels.join(", "));
    let mend = "give this group another name, or publish it under another service and prefix; where the group was moved here, \
                run `consul-redis adopt` with its name";
    Some(FindingCode::NotOurs.found(&problem.text, vec![seen(from, read)], mend))
}

fn watching(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(store) = &facts.view.observed.store else { return Vec::new() };
    let from = format!("keys {}agents/", facts.layout.root());
    let mend = "start consul-redis agent on another host (or: its token has no right to sessions)";
    match store.agents.iter().collect::<Vec<_>>()[..] {
        [] => {
            let (group, service) = (facts.group(), facts.service().as_str());
            let named = match service == group {
                true => group.to_owned(),
                false => format!("{group}={service}"),
            };
            let mend = format!("consul-redis agent --group {named}");
            let (code, text) = match store.state {
                // Not even an agent that was told to stop: that one leaves what it published.
                StoredState::Absent => (
                    FindingCode::NotStarted,
                    "not started yet: nothing has been published, and no agent watches the group",
                ),
                StoredState::Known(_) | StoredState::Unreadable(_) => (
                    FindingCode::NoAgents,
                    "no agent watches the group: nothing will follow a failover",
                ),
            };
            vec![code.found(text, vec![seen(from, "none")], mend)]
        }
        [only] => {
            let text =
                "one agent alone watches the group: when it stops, nothing follows a failover";
            vec![FindingCode::OneAgent.found(text, vec![seen(from, only)], mend)]
        }
        _ => fewer_watchers(facts, store).into_iter().collect(),
    }
}

fn paused(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(pause) = facts.view.pause() else { return Vec::new() };
    pause_found(&pause, facts.group(), format!("key {}", facts.layout.pause()))
}

/// Targets that have not taken what they were told last.
fn notify(facts: &Facts<'_>) -> Vec<Finding> {
    let store = facts.view.observed.store.as_ref();
    let Some(log) = store.and_then(|store| store.notices.as_ref().ok()) else { return Vec::new() };
    let found = |(target, (delivery, word)): (&str, (&Delivery, &str))| {
        let text = format!("{target} is not told what happens: {word}");
        let read =
            format!("{} of generation {}: {word}", delivery.event.as_str(), delivery.generation);
        let evidence = vec![seen(format!("key {}", facts.layout.notices()), read)];
        let mend = format!(
            "see that {target} takes what it is sent, or correct its [[notify]] and reload the agents"
        );
        FindingCode::NotifyFailed.found(text, evidence, mend)
    };
    log.failing().into_iter().map(found).collect()
}

fn fewer_watchers(facts: &Facts<'_>, store: &StoreAnswer) -> Option<Finding> {
    let FleetFacts { agents, wanted } = facts.fleet.as_ref()?;
    let count = store.agents.len();
    if count >= *wanted {
        return None;
    }
    let named = |agents: Vec<&str>| agents.join(", ");
    let watching = named(store.agents.iter().map(String::as_str).collect());
    let there = named(agents.iter().map(String::as_str).collect());
    let fleet = fleet_of(facts.layout);
    let evidence = vec![
        seen(format!("keys {}agents/", facts.layout.root()), watching),
        seen(format!("keys {}", fleet.agents()), there),
    ];
    let first = agents.iter().take(*wanted).map(String::as_str);
    let missing: Vec<&str> = first.filter(|agent| !store.agents.contains(*agent)).collect();
    let mend = match missing[..] {
        [] => "start consul-redis agent with the same config on another host".to_owned(),
        _ => format!("look at the log of {}, which is to watch it", missing.join(", ")),
    };
    let text = format!("{count} agents watch the group, and {wanted} are to");
    Some(FindingCode::FewerWatchers.found(text, evidence, mend))
}

/// What `status` finds wrong and none of these findings explains, with evidence and a cure.
pub(super) fn unexplained(facts: &Facts<'_>, findings: &[Finding]) -> Vec<Finding> {
    let explained = |code| findings.iter().any(|finding| finding.code.explains().contains(&code));
    let others = facts.problems.iter().filter(|problem| !explained(problem.code));
    let say = |problem: &Problem| {
        let evidence = vec![seen("consul-redis status", problem.code.as_str())];
        let mend = format!("docs/metrics.md says what to do about {}", problem.code.as_str());
        FindingCode::NotHealthy.found(&problem.text, evidence, mend)
    };
    others.map(say).collect()
}

fn keys(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(store) = &facts.view.observed.store else { return Vec::new() };
    let found = |key: String, error: Option<&String>, then: &str| {
        let text = format!(
            "the key {key} cannot be read (consul kv get shows it), and what it did last stays: without it {then}"
        );
        let mend = format!("consul kv delete {key}");
        Some(FindingCode::KeyUnreadable.found(text, vec![seen(format!("key {key}"), error?)], mend))
    };
    let config = found(
        facts.layout.config(),
        store.config.as_ref().err(),
        "the Sentinels have the same settings, until consul-redis config gives them others",
    );
    let maintenance = found(
        facts.layout.maintenance(),
        store.maintenance.as_ref().err(),
        "all instances are back in the names, until consul-redis maintenance on takes some out again",
    );
    let notices = found(
        facts.layout.notices(),
        store.notices.as_ref().err(),
        "problems that are there are told once more",
    );
    config.into_iter().chain(maintenance).chain(notices).collect()
}

fn flapping(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(store) = &facts.view.observed.store else { return Vec::new() };
    let now = facts.view.now.wall;
    let recent =
        store.history.iter().filter(|change| now.duration_since(change.at) < FLAPPING_WITHIN);
    let count = recent.filter(|change| change.to.is_none()).count();
    if count < FLAPPING_WITHDRAWALS {
        return Vec::new();
    }
    let read = format!("withdrawn {count} times within the last hour");
    let evidence = vec![seen(format!("key {}", facts.layout.history()), read)];
    let mend = format!(
        "consul-redis history {0} says why each; if the network is slow: consul-redis config {0} down_after=..., longer than now",
        facts.group()
    );
    vec![FindingCode::Flapping.found("the primary is lost too often", evidence, mend)]
}

/// Clocks that are ahead of this machine's, and those that agents have found ahead of their own.
fn clock(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(store) = &facts.view.observed.store else { return Vec::new() };
    let key = |agent: &str| format!("key {}", facts.layout.agent(agent));
    let here = store.clocks.iter().filter_map(|(agent, clock)| {
        let ms = ahead_ms(clock.at, facts.view.now)?;
        Some(seen(
            key(agent),
            format!("clock {}, {ms} ms or more ahead of this machine's", clock.at),
        ))
    });
    let among = skews(store).map(|(ahead, behind, ms)| {
        seen(key(behind), format!("the clock of {ahead} is {ms} ms or more ahead"))
    });
    let evidence: Vec<Observation> = here.chain(among).collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    let text = "clocks of agents differ: times in their logs and in history cannot be compared";
    let mend = "chronyc makestep, on the host that is wrong";
    vec![FindingCode::AgentClock.found(text, evidence, mend)]
}

/// Agents whose configs have different words of the group.
fn words(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(store) = &facts.view.observed.store else { return Vec::new() };
    let said = differing(store);
    let Some((first, _)) = said.first() else { return Vec::new() };
    let text = format!(
        "the configs of agents have different tags, meta or weights of the group: the rows show those of {first}"
    );
    let key = |agent: &str| format!("key {}", facts.layout.agent(agent));
    let evidence = said.iter().map(|(agent, words)| seen(key(agent), words.to_string()));
    let mend = format!(
        "write the same tags, meta and weights below [[group]] name = \"{}\" on all agents, and reload them (SIGHUP)",
        facts.group()
    );
    vec![FindingCode::WordsDiffer.found(text, evidence.collect(), mend)]
}

/// What no check could look at. One finding for all: each is a right or a login that is missing.
fn unread(facts: &Facts<'_>) -> Vec<Finding> {
    let mut evidence: Vec<Observation> = Vec::new();
    let mut note = |from: String, error: Option<&String>| {
        evidence.extend(error.map(|error| seen(from, error)));
    };
    for (at, more) in &facts.sentinels {
        note(format!("{at}, SENTINEL CONFIG GET"), more.config.as_ref().err());
        note(format!("{at}, SENTINEL CKQUORUM"), more.quorum.as_ref().err());
        note(format!("{at}, INFO"), more.version.as_ref().err());
        note(format!("{at}, rights"), more.refused.as_ref().err());
    }
    for (at, more) in &facts.instances {
        note(format!("{at}, CONFIG GET"), more.config.as_ref().err());
        note(format!("{at}, INFO"), more.info.as_ref().err());
        note(format!("{at}, TIME"), more.clock_ahead_ms.as_ref().err());
        note(format!("{at}, MULTI"), more.refused.as_ref().err());
    }
    note("Consul, /v1/agent/self".to_owned(), facts.consul.as_ref().err());
    note("Consul, /v1/health/service".to_owned(), facts.rows.as_ref().err());
    note("Consul, /v1/internal/acl/authorize".to_owned(), facts.rights.as_ref().err());
    if evidence.is_empty() {
        return Vec::new();
    }
    let mend = "give this command's logins +config|get, +time and +info on Redis, +sentinel on Sentinels, and \
                its token agent_prefix \"\" { policy = \"read\" }";
    vec![FindingCode::Unread.found(
        "some things could not be read, and were not checked",
        evidence,
        mend,
    )]
}
