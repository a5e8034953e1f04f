//! Consul: what it would do to what is published, and what it lets us do.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::facts::fleet_of;
use super::{CheckFn, Facts, Finding, FindingCode, NameKind, Right, RightKind, seen, version};

/// For how long DNS may answer from what it last knew.
const MAX_STALE: SignedDuration = SignedDuration::from_secs(60);
/// For how long the writer's name may be cached.
const TTL_MAX: SignedDuration = SignedDuration::from_secs(1);

pub(super) const CHECKS: &[CheckFn] = &[
    login,
    tags,
    txn_acl,
    max_stale,
    service_ttl,
    cache,
    only_passing,
    truncate,
    foreign_rows,
    foreign_node,
    acl_rights,
    dns_token,
];

/// One finding about the Consul agent, when `check` says something: in a sentence, what was read, what mends it.
fn agent(
    facts: &Facts<'_>,
    code: FindingCode,
    check: impl FnOnce(&super::ConsulAgent) -> Option<(String, String, String)>,
) -> Vec<Finding> {
    let Ok(agent) = &facts.consul else { return Vec::new() };
    let found = check(agent).map(|(text, read, mend)| {
        code.found(text, vec![seen(format!("Consul agent {}", agent.node), read)], mend)
    });
    found.into_iter().collect()
}

fn login(facts: &Facts<'_>) -> Vec<Finding> {
    let found = facts.consul_login.iter().map(|failure| {
        let read = vec![seen("Consul", &failure.named)];
        FindingCode::ConsulLogin.found(&failure.said, read, &failure.mend)
    });
    found.collect()
}

/// 1.19.0 and 1.19.1: `docs/facts/consul.md` 3.
fn tags(facts: &Facts<'_>) -> Vec<Finding> {
    agent(facts, FindingCode::ConsulTags, |agent| {
        matches!(version(&agent.version)?, (1, 19, 0..=1)).then(|| {
            (
                "the DNS of this Consul ignores tags: primary.NAME answers every instance"
                    .to_owned(),
                format!("version {}", agent.version),
                "upgrade to 1.19.2, or set experiments = [\"v1dns\"]; clients: use NAME-primary"
                    .to_owned(),
            )
        })
    })
}

/// GH-10798: `docs/facts/consul.md` 1.
fn txn_acl(facts: &Facts<'_>) -> Vec<Finding> {
    agent(facts, FindingCode::ConsulTxnAcl, |agent| {
        let old = match version(&agent.version)? {
            (1, minor, patch) => match minor {
                0..=7 => true,
                8 => patch <= 14,
                9 => patch <= 8,
                10 => patch <= 1,
                _ => false,
            },
            _ => false,
        };
        (old && agent.acls).then(|| {
            (
                "this Consul lets tokens write services in transactions that they have no right to"
                    .to_owned(),
                format!("version {}, ACLs on", agent.version),
                "upgrade Consul to 1.8.15, 1.9.9, 1.10.2 or later".to_owned(),
            )
        })
    })
}

fn max_stale(facts: &Facts<'_>) -> Vec<Finding> {
    agent(facts, FindingCode::MaxStale, |agent| {
        let stale = agent.max_stale.filter(|stale| agent.allow_stale && *stale > MAX_STALE)?;
        Some((
            "an isolated Consul server goes on answering DNS from what it last knew".to_owned(),
            format!("dns_config: allow_stale, max_stale {} h", stale.as_hours().max(1)),
            "set dns_config { max_stale = \"5s\" } (consul/consul-agent.hcl)".to_owned(),
        ))
    })
}

fn service_ttl(facts: &Facts<'_>) -> Vec<Finding> {
    let service = facts.view.record.map_or(&facts.view.policy.service, |record| &record.service);
    agent(facts, FindingCode::ServiceTtl, |agent| {
        let ttl = agent.ttl(&service.primary()).max(agent.ttl(service.as_str()));
        (ttl > TTL_MAX).then(|| {
            (
                "resolvers may keep the writer's name for that long after a switch".to_owned(),
                format!("dns_config: service_ttl {} s", ttl.as_secs()),
                format!(
                    "set dns_config {{ service_ttl {{ \"{}\" = \"0s\" }} }}",
                    service.primary()
                ),
            )
        })
    })
}

fn cache(facts: &Facts<'_>) -> Vec<Finding> {
    agent(facts, FindingCode::DnsCache, |agent| {
        agent.use_cache.then(|| {
            (
                "DNS answers from the agent's cache, without looking".to_owned(),
                "dns_config: use_cache true".to_owned(),
                "set dns_config { use_cache = false }".to_owned(),
            )
        })
    })
}

fn only_passing(facts: &Facts<'_>) -> Vec<Finding> {
    let rows = facts.rows.iter().flatten();
    let warns: Vec<_> = rows.filter(|row| row.status == "warning").collect();
    agent(facts, FindingCode::OnlyPassing, |agent| {
        let row = warns.first().filter(|_| !agent.only_passing)?;
        Some((
            "a row whose check warns is answered by DNS".to_owned(),
            format!("only_passing false; {} at {} warns", row.service, row.address),
            "set dns_config { only_passing = true }, or mend what the check warns of".to_owned(),
        ))
    })
}

fn truncate(facts: &Facts<'_>) -> Vec<Finding> {
    let replicas = facts.view.record.map_or(0, |record| record.replicas().count());
    agent(facts, FindingCode::DnsTruncate, |agent| {
        let many = u64::try_from(replicas).ok().filter(|count| *count > agent.udp_answers);
        let many = many.filter(|_| agent.udp_answers > 0 && !agent.truncate)?;
        Some((
            "DNS answers some of the replicas by UDP, and does not say that there are more"
                .to_owned(),
            format!(
                "enable_truncate false, udp_answer_limit {}, {many} replicas",
                agent.udp_answers
            ),
            "set dns_config { enable_truncate = true }".to_owned(),
        ))
    })
}

/// Rows under the group's names that are not on its node: DNS answers them beside ours.
fn foreign_rows(facts: &Facts<'_>) -> Vec<Finding> {
    let node = facts.layout.node();
    let Ok(rows) = &facts.rows else { return Vec::new() };
    let foreign = rows.iter().filter(|row| row.node != node);
    let say = |row: &super::ConsulRow| {
        let text = format!("another program registers {} at {}", row.service, row.address);
        let read = format!("service {}, id {}, tags {:?}", row.service, row.id, row.tags);
        let evidence = vec![seen(format!("Consul's node {}", row.node), read)];
        // What another group's agents publish is not to be taken from its clients.
        if let Some(group) = row.group.as_deref().filter(|group| *group != facts.group()) {
            let text = format!("{} is published by the agents of the group {group}", row.service);
            let mend = format!(
                "--group {group}, if that is the group you mean; else another service: --group {}=NAME",
                facts.group()
            );
            return FindingCode::ForeignRow.found(text, evidence, mend);
        }
        let mend = format!("consul services deregister -id={}, on that node", row.id);
        FindingCode::ForeignRow.found(text, evidence, mend)
    };
    foreign.map(say).collect()
}

fn foreign_node(facts: &Facts<'_>) -> Vec<Finding> {
    let rows = facts.view.observed.rows.as_ref();
    if !rows.is_some_and(|rows| rows.is_anothers(facts.layout)) {
        return Vec::new();
    }
    let node = facts.layout.node();
    let evidence = vec![seen(
        "Consul's catalog",
        format!("node {node} lacks managed-by=consul-redis, or says another prefix or group"),
    )];
    let text = format!("the node {node} is another program's: nothing can be published");
    vec![FindingCode::ForeignNode.found(
        text,
        evidence,
        "choose another --prefix, or rename that node",
    )]
}

/// All rules that a policy lacks, to be added at once, and sessions and the fleet's keys, which are no error.
fn acl_rights(facts: &Facts<'_>) -> Vec<Finding> {
    let Ok(Some(rights)) = &facts.rights else { return Vec::new() };
    let missing = rights.iter().filter(|(_, allowed)| !allowed).map(|(right, _)| right);
    let (sessions, others): (Vec<&Right>, Vec<&Right>) =
        missing.partition(|right| right.kind == RightKind::Session);
    let (fleet, others): (Vec<&Right>, Vec<&Right>) =
        others.into_iter().partition(|right| right.kind == RightKind::Fleet);
    let lacks = |code: FindingCode, rights: &[&Right], text: String| {
        let mut rules: Vec<String> = Vec::new();
        for rule in rights.iter().map(|right| rule(facts, right)) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let from = "Consul, of this command's token";
        let evidence = rules.iter().map(|rule| seen(from, format!("{rule}: denied"))).collect();
        let mend = match rules.as_slice() {
            [only] => format!("add to its policy: {only}"),
            all => format!("add to its policy:\n{}", all.join("\n")),
        };
        (!rules.is_empty()).then(|| code.found(text, evidence, mend))
    };
    let mut named: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Right { kind, on, access } in &others {
        named.entry(access).or_default().push(format!("the {} {on}", kind.as_str()));
    }
    let named = named.iter().map(|(access, on)| format!("{access} {}", on.join(", ")));
    let text = format!("the token has no right to {}", named.collect::<Vec<_>>().join("; or to "));
    let no_session = "the token has no right to sessions: the agent does not show in status";
    let no_fleet = "the token has no right to the keys by which agents share groups: other agents do not count on this \
                    one, and it watches all groups";
    let found = [
        lacks(FindingCode::AclRight, &others, text),
        lacks(FindingCode::AclSession, &sessions, no_session.to_owned()),
        lacks(FindingCode::AclFleet, &fleet, no_fleet.to_owned()),
    ];
    found.into_iter().flatten().collect()
}

/// The rule of a policy that gives a right.
fn rule(facts: &Facts<'_>, right: &Right) -> String {
    let Right { kind, on, access } = right;
    let (resource, name) = match kind {
        RightKind::Key => ("key_prefix", facts.layout.root()),
        RightKind::Fleet => ("key_prefix", fleet_of(facts.layout).root()),
        RightKind::Session => ("session_prefix", String::new()),
        RightKind::Node | RightKind::Service => (kind.as_str(), on.clone()),
    };
    format!("{resource} \"{name}\" {{ policy = \"{access}\" }}")
}

/// Consul has the row, we see it, and DNS answers nothing: DNS asks with another token.
pub(super) fn dns_token(facts: &Facts<'_>) -> Vec<Finding> {
    let acls = matches!(facts.rights, Ok(Some(_))) || facts.consul.as_ref().is_ok_and(|a| a.acls);
    let Some(record) = facts.view.record.filter(|_| acls) else { return Vec::new() };
    let service = record.service.primary();
    let shown = |row: &&super::ConsulRow| row.service == service && row.status == "passing";
    let Some(row) = facts.rows.iter().flatten().find(shown) else { return Vec::new() };
    let nothing = facts.names.iter().filter(|asked| {
        asked.kind == NameKind::Primary
            && asked.answer.as_ref().is_ok_and(|answer| answer.is_none())
    });
    let say = |asked: &super::NameAnswer| {
        let text = "DNS may not see what is published: its token lacks service:read or node:read";
        let evidence = vec![
            seen(format!("DNS at {}", asked.server), format!("{}: nothing", asked.name)),
            seen("Consul's catalog", format!("{service} at {}, passing", row.address)),
        ];
        let mend = "give the DNS (or default) token of the Consul agents consul/reader-policy.hcl";
        FindingCode::DnsToken.found(text, evidence, mend)
    };
    nothing.map(say).collect()
}
