//! `consul-redis switchover GROUP`: moves the primary on purpose, without losing a write; with `--shard`, that of one
//! shard of a cluster.

use std::io::{BufRead, IsTerminal, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use super::retire::known_groups;
use super::status::unconfigured;
use super::terminal::{self, Progress, Style};
use crate::cli::SwitchoverArgs;
use crate::clock::Clock;
use crate::cluster::look as look_at_nodes;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::cluster::judgement::judge;
use crate::core::cluster::shard_move::{MovedShard, WantedMove, prepare_shard};
use crate::core::duty::switchover::{Check, prepare};
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::memory::Memory;
use crate::core::known::view::View;
use crate::core::published::projection::Layout;
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::observe::look;
use crate::shard_move::move_shard;
use crate::switchover::{Moved, Mover, SwitchoverStep, rights};

/// How long a Consul that is away is waited for when a move is over.
const CONSUL_BACK_MAX: Duration = Duration::from_secs(60);

/// How a move went, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    group: &'a GroupName,
    moved: bool,
    /// What speaks against the move, in a sentence; nothing when it was made.
    why_not: Option<&'a str>,
    from: Option<&'a Address>,
    to: Option<&'a Address>,
    /// How long no write was possible.
    gap_ms: Option<u128>,
    checks: Vec<Checked<'a>>,
    steps: Vec<Stepped<'a>>,
}

#[derive(Debug, Serialize)]
struct Checked<'a> {
    what: &'a str,
    ok: bool,
    found: &'a str,
}

#[derive(Debug, Serialize)]
struct Stepped<'a> {
    what: &'a str,
    /// Since writes were paused.
    after_ms: Option<u128>,
    detail: &'a str,
}

impl<'a> Report<'a> {
    fn new(
        group: &'a GroupName,
        checks: &'a [Check],
        steps: &'a [SwitchoverStep],
        ended: &'a Result<Moved, Failure>,
    ) -> Self {
        let moved = ended.as_ref().ok();
        let checked = |check: &'a Check| Checked {
            what: check.what,
            ok: check.found.is_ok(),
            found: match &check.found {
                Ok(text) | Err(text) => text,
            },
        };
        let stepped = |step: &'a SwitchoverStep| Stepped {
            what: step.what,
            after_ms: step.after.map(|after| after.as_millis()),
            detail: &step.detail,
        };
        Self {
            group,
            moved: moved.is_some(),
            why_not: ended.as_ref().err().map(|failure| failure.message.as_str()),
            from: moved.map(|moved| &moved.from),
            to: moved.map(|moved| &moved.to),
            gap_ms: moved.map(|moved| moved.gap.as_millis()),
            checks: checks.iter().map(checked).collect(),
            steps: steps.iter().map(stepped).collect(),
        }
    }
}

/// Moves the primary.
///
/// # Errors
/// A [`Failure`] when a check fails, or a step does not happen in time; writes go on where they were.
pub async fn run(config: Config, args: &SwitchoverArgs) -> Result<(), Failure> {
    if let Some(shard) = args.shard {
        return of_shard(config, args, shard).await;
    }
    let style = Style::of_stdout();
    let consul = Consul::new(&config.consul)?;
    let names = Names::new(config.resolver);
    let clock = Clock::start();
    let group = find_group(&config, &consul, &clock, &args.moved).await?;
    let progress = Progress::new(format!("{}: asking Sentinels, Redis and Consul", args.moved));
    let seen = look(&config, &group, &consul, &names, &clock).await?;
    drop(progress);
    let memory = Memory::default();
    let view = View::of_one_look(&group.policy, &memory, &seen.observed, clock.now());
    let (mut checks, switchover) = prepare(&view, args.to.as_ref());
    let switchover = match switchover {
        Some(switchover) => {
            checks.push(rights(&group, &switchover).await);
            Some(switchover).filter(|_| checks.iter().all(|check| check.found.is_ok()))
        }
        None => None,
    };
    if !args.json {
        show(&checks, style);
    }
    let (noted, steps) = mpsc::channel();
    let from = switchover.as_ref().map(|switchover| switchover.from.clone());
    let ended = match allowed(args, &checks, switchover, from.as_ref()) {
        Ok(switchover) => {
            let progress = Progress::new("pausing writes");
            let report = |step: SwitchoverStep| {
                if !args.json {
                    progress.say(&step_line(&step, style));
                }
                progress.now(after(&step));
                let _ = noted.send(step);
            };
            let (config, group, consul, report) = (&config, &group, &consul, &report);
            let (server_stops, waits_for_consul) = (false, CONSUL_BACK_MAX);
            Mover { config, group, consul, clock, server_stops, waits_for_consul, report }
                .go(&switchover)
                .await
        }
        Err(failure) => Err(failure),
    };
    let steps: Vec<SwitchoverStep> = steps.try_iter().collect();
    ended_with(args, &checks, &steps, ended)
}

/// Moves one shard of a cluster.
async fn of_shard(config: Config, args: &SwitchoverArgs, shard: u32) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let (name, names) = (&args.moved, Names::new(config.resolver));
    let layout = Layout::of_cluster(&config.prefix, name);
    let clock = Clock::start();
    let store = consul.cluster(&layout, &clock).await?;
    let Some(record) = store.record().filter(|record| !record.nodes.is_empty()) else {
        let message = format!("Consul knows no cluster `{name}`");
        return Err(Failure::new(Exit::Failed, message)
            .hint("without --shard, switchover moves the primary of a group"));
    };
    let progress = Progress::new(format!("{name}: asking the nodes"));
    let nodes: Vec<Address> = record.nodes.values().map(|node| node.address.clone()).collect();
    let login = &config.instance_login;
    let found = look_at_nodes(&nodes, login, &names, true).await;
    let readings = found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    drop(progress);
    let judged = judge(&readings).map_err(|none| {
        Failure::new(Exit::Failed, format!("not moved: {none}"))
            .hint(format!("consul-redis cluster {name} says which nodes answer"))
    })?;
    let shard = MovedShard::Numbered(shard);
    let wanted = WantedMove { shard, to: args.to.as_ref(), forced: args.force };
    let (checks, plan) = prepare_shard(record, &judged, &readings, wanted, clock.now().wall);
    if !args.json {
        show(&checks, Style::of_stdout());
    }
    let from = plan.as_ref().map(|plan| plan.from.1.clone());
    let ended = match allowed(args, &checks, plan, from.as_ref()) {
        Ok(plan) => move_shard(&plan, &nodes, login, &names)
            .await
            .map(|gap| Moved { from: plan.from.1, to: plan.to.1, gap })
            .map_err(|why| Failure::new(Exit::Failed, why)),
        Err(failure) => Err(failure),
    };
    ended_with(args, &checks, &[], ended)
}

/// Says how it went.
fn ended_with(
    args: &SwitchoverArgs,
    checks: &[Check],
    steps: &[SwitchoverStep],
    ended: Result<Moved, Failure>,
) -> Result<(), Failure> {
    let style = Style::of_stdout();
    if args.json {
        let mut report = Report::new(&args.moved, checks, steps, &ended);
        // How long its slots took no writes before, is not known here.
        report.gap_ms = report.gap_ms.filter(|_| !args.force);
        println!("{}", terminal::json(&report)?);
    }
    let moved = ended?;
    if args.force && !args.json {
        println!("{} {} has taken over from {}", style.bold("done:"), moved.to, moved.from);
    } else if !args.json {
        println!(
            "{} moved from {} to {}; no write was possible for {} ms",
            style.bold("done:"),
            moved.from,
            moved.to,
            moved.gap.as_millis()
        );
    }
    Ok(())
}

/// The move, when nothing speaks against it.
fn allowed<T>(
    args: &SwitchoverArgs,
    checks: &[Check],
    switchover: Option<T>,
    from: Option<&Address>,
) -> Result<T, Failure> {
    let Some((switchover, from)) = switchover.zip(from) else {
        let wrong = checks.iter().filter(|check| check.found.is_err()).count();
        let message = format!("not moved: {wrong} of {} checks failed", checks.len());
        return Err(Failure::new(Exit::Failed, message).hint(format!(
            "the lines with NO say why; consul-redis doctor {} has what mends it",
            args.moved
        )));
    };
    if !args.yes && !confirmed(from)? {
        return Err(Failure::new(Exit::Failed, "not moved: not confirmed")
            .hint("answer yes, or give --yes"));
    }
    Ok(switchover)
}

/// The group as it is configured here, else as Consul knows it.
pub async fn find_group(
    config: &Config,
    consul: &Consul,
    clock: &Clock,
    name: &GroupName,
) -> Result<GroupConfig, Failure> {
    let configured = config.groups.iter().find(|group| &group.policy.group == name);
    if let Some(group) = configured.filter(|_| config.groups_named) {
        return Ok(group.clone());
    }
    let layout = Layout::new(&config.prefix, name);
    let store = consul.group(&layout, ReadMode::Consistent, clock).await?.value;
    let Some(record) = store.record() else {
        let message = format!("Consul knows no group `{name}`");
        return Err(Failure::new(Exit::Failed, message).hint(known_groups(config, consul).await));
    };
    Ok(unconfigured(config, name.clone(), record, layout))
}

fn show(checks: &[Check], style: Style) {
    for check in checks {
        match &check.found {
            Ok(text) => println!("  {}  {:<10} {text}", style.good("ok"), check.what),
            Err(text) => println!("  {}  {:<10} {text}", style.bad("NO"), check.what),
        }
    }
}

fn confirmed(from: &Address) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("Move the primary away from {from}? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn step_line(step: &SwitchoverStep, style: Style) -> String {
    let time = step.after.map(|after| format!("{:>7} ms", after.as_millis()));
    let time = style.good(&time.unwrap_or_else(|| " ".repeat(10)));
    format!("  {time}  {:<10} {}", step.what, style.dim(&step.detail))
}

/// What is waited for once a step is done.
fn after(step: &SwitchoverStep) -> &'static str {
    match step.what {
        "paused" => "writes are paused: waiting for a replica to have them all",
        "caught up" => "waiting for a Sentinel to promote a replica",
        "promoted" => "waiting for the agents to publish it",
        "published" => "waiting for a majority of the Sentinels to follow",
        "followed" => "waiting for the old primary to follow",
        "waiting" => "waiting for a Sentinel to read the new priority",
        _ => "ending",
    }
}
