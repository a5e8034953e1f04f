//! `consul-redis doctor`

use std::fmt::Write as _;

use serde::Serialize;

use super::beside::{self, AgentBeside};
use super::clusters::clusters;
use super::status::groups;
use super::terminal::{self, Progress, Style};
use crate::cli::DoctorArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::{Consul, ConsulError};
use crate::core::doctor::{Finding, Severity};
use crate::core::identity::address::GroupName;
use crate::core::shown::status::KnownByAgent;
use crate::dns::Names;
use crate::doctor::{examine, examine_cluster};
use crate::exit::{Exit, Failure};

/// What is wrong with one group or one cluster: it has `group` or `cluster`.
#[derive(Debug, Serialize)]
pub struct Examined {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<GroupName>,
    findings: Vec<Finding>,
    /// What a running agent of this host knows, where Consul was not read and that agent answers by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    known_by_agent: Option<KnownByAgent>,
}

/// Shows what is wrong with each group and cluster. [`Exit::Unhealthy`] when a finding is an error.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read, or the group is not known.
pub async fn run(config: Config, args: &DoctorArgs) -> Result<Exit, Failure> {
    let (all, away) = report(&config, args.examined.as_ref()).await?;
    if args.json {
        println!("{}", terminal::json(&all)?);
    } else {
        let style = Style::of_stdout();
        let texts: Vec<String> = all.iter().map(|one| describe(one, style)).collect();
        print!("{}", texts.join("\n"));
        let known = all.iter().filter_map(|one| one.known_by_agent.as_ref());
        known.for_each(|known| print!("{}", beside::describe(known)));
    }
    if let Some(error) = away {
        return Err(error.into());
    }
    let mut findings = all.iter().flat_map(|one| &one.findings);
    let failed = findings.any(|finding| finding.severity == Severity::Error);
    Ok(if failed { Exit::Unhealthy } else { Exit::Done })
}

/// The findings of one group or cluster, or of all, as `doctor --json` shows them, and why Consul was not read, where it was not.
///
/// # Errors
/// A [`Failure`] when Consul refuses, or the group is not known.
pub async fn report(
    config: &Config,
    wanted: Option<&GroupName>,
) -> Result<(Vec<Examined>, Option<ConsulError>), Failure> {
    let consul = Consul::new(&config.consul)?;
    let names = Names::new(config.resolver);
    let clock = Clock::start();
    let (mut all, mut away) = (Vec::new(), None);
    for group in groups(config, &consul, &clock).await? {
        let name = group.policy.group.clone();
        if wanted.is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let progress = Progress::new(format!("{name}: asking Sentinels, Redis, Consul and DNS"));
        let (findings, unread) = examine(config, &group, &consul, &names, &clock).await?;
        drop(progress);
        away = unread.or(away);
        all.push(Examined { group: Some(name), cluster: None, findings, known_by_agent: None });
    }
    if away.is_some() {
        let beside = AgentBeside::ask(config).await;
        for one in &mut all {
            one.known_by_agent = one.group.as_ref().and_then(|group| beside.of(group));
        }
    }
    for policy in clusters(config, &consul, &clock).await? {
        let name = policy.name.clone();
        if wanted.is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let progress = Progress::new(format!("{name}: asking the nodes and Consul"));
        let (findings, unread) = examine_cluster(config, &policy, &consul, &names, &clock).await?;
        drop(progress);
        away = unread.or(away);
        all.push(Examined { group: None, cluster: Some(name), findings, known_by_agent: None });
    }
    if let (Some(wanted), true) = (wanted, all.is_empty()) {
        let message =
            format!("no group and no cluster {wanted} is configured here or known to Consul");
        return Err(Failure::new(Exit::Config, message).hint("name it with --group"));
    }
    Ok((all, away))
}

fn describe(examined: &Examined, style: Style) -> String {
    let Examined { group, cluster, findings, .. } = examined;
    let named = group.as_ref().or(cluster.as_ref()).map_or("", GroupName::as_str);
    let group = style.bold(named);
    if findings.is_empty() {
        return format!("{group}: {}\n", style.good("no findings"));
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let counts = [Severity::Error, Severity::Warning, Severity::Hint]
        .map(|severity| (count(severity), severity.as_str()));
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
        .collect();
    let mut text = format!("{group}: {}\n", counts.join(", "));
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => style.bad("error"),
            Severity::Warning => style.bold("warning"),
            Severity::Hint => style.dim("hint"),
        };
        let _ = writeln!(text, "  {severity} {}: {}", finding.code, finding.text);
        for seen in &finding.evidence {
            let _ = writeln!(text, "    {}", style.dim(&format!("{}: {}", seen.from, seen.read)));
        }
        let _ = writeln!(text, "    do: {}", finding.mend.replace('\n', "\n        "));
    }
    text
}
