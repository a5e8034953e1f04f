//! `consul-redis switchover GROUP`: moves the primary on purpose, without losing a write.

use std::io::{BufRead, IsTerminal, Write as _};

use super::status::unconfigured;
use super::terminal::Style;
use crate::cli::SwitchoverArgs;
use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::address::GroupName;
use crate::core::memory::Memory;
use crate::core::projection::Layout;
use crate::core::switchover::{Check, Switchover, prepare};
use crate::core::view::View;
use crate::dns::Names;
use crate::exit::{Code, Failure};
use crate::observe::look;
use crate::switchover::{Mover, Step};

/// Moves the primary.
///
/// # Errors
/// A [`Failure`] when a check fails, or a step does not happen in time; writes go on where they were.
pub async fn run(config: Config, args: &SwitchoverArgs) -> Result<(), Failure> {
    let style = Style::of_stdout();
    let consul = Consul::new(&config.consul)?;
    let names = Names::new(config.resolver);
    let clock = Clock::start();
    let group = find_group(&config, &consul, &clock, &args.moved).await?;
    let seen = look(&config, &group, &consul, &names, &clock).await?;
    let memory = Memory::default();
    let view = View::of_one_look(&group.policy, &memory, &seen.observed, clock.now());
    let (checks, switchover) = prepare(&view, args.to.as_ref());
    show(&checks, style);
    let Some(switchover) = switchover else {
        let wrong = checks.iter().filter(|check| check.found.is_err()).count();
        let message = format!("not moved: {wrong} of {} checks failed", checks.len());
        return Err(Failure::new(Code::Failed, message));
    };
    if !args.yes && !confirmed(&switchover)? {
        return Err(Failure::new(Code::Failed, "not moved: not confirmed")
            .hint("answer yes, or give --yes"));
    }
    let report = move |step: Step| print_step(&step, style);
    let mover = Mover { config: &config, group: &group, consul: &consul, clock, report: &report };
    let moved = mover.go(&switchover).await?;
    println!(
        "{} moved from {} to {}; no write was possible for {} ms",
        style.bold("done:"),
        moved.from,
        moved.to,
        moved.gap.as_millis()
    );
    Ok(())
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
        return Err(Failure::new(Code::Failed, message));
    };
    Ok(unconfigured(config, name.clone(), record.service.clone(), layout))
}

fn show(checks: &[Check], style: Style) {
    for check in checks {
        match &check.found {
            Ok(text) => println!("  {}  {:<10} {text}", style.good("ok"), check.what),
            Err(text) => println!("  {}  {:<10} {text}", style.bad("NO"), check.what),
        }
    }
}

fn confirmed(switchover: &Switchover) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("Move the primary away from {}? [y/N] ", switchover.from);
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn print_step(step: &Step, style: Style) {
    let time = step.after.map(|after| format!("{:>7} ms", after.as_millis()));
    let time = style.good(&time.unwrap_or_else(|| " ".repeat(10)));
    println!("  {time}  {:<10} {}", step.what, style.dim(&step.detail));
}
