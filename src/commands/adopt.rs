//! `consul-redis adopt GROUP`: an operator's word that the Sentinels here are the group's from now on.

use std::io::{BufRead, IsTerminal, Write as _};

use super::retire::committed;
use super::switchover::find_group;
use super::terminal::Progress;
use crate::cli::AdoptArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolver::unique;
use crate::consul::client::Consul;
use crate::core::identity::adopt::adoption;
use crate::core::known::memory::Memory;
use crate::core::known::view::View;
use crate::core::policy::Policy;
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::observe::look;

/// Shows what an adoption means, and writes it.
///
/// # Errors
/// A [`Failure`] when there is nothing to adopt, it is not confirmed, or Consul refuses.
pub async fn run(config: Config, args: &AdoptArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    let group = find_group(&config, &consul, &clock, &args.adopted).await?;
    let names = Names::new(config.resolver);
    let progress = Progress::new(format!("{}: asking Sentinels, Redis and Consul", args.adopted));
    let seen = look(&config, &group, &consul, &names, &clock).await?;
    drop(progress);
    let memory = Memory::default();
    let policy = Policy {
        agent: config.agent.clone(),
        run: unique(),
        installation: config.sources.installation.clone(),
        sources: config.sources.names(),
        ..group.policy.clone()
    };
    let view = View::of_one_look(&policy, &memory, &seen.observed, clock.now());
    let adoption = adoption(&view, &group.layout)
        .map_err(|why| Failure::new(Exit::Failed, format!("{}: {why}", args.adopted)))?;
    if let Some(record) = view.record {
        let writer = record.writer_address().map(ToString::to_string);
        println!(
            "{}: writer {}, generation {}, last written by {}",
            record.group,
            writer.unwrap_or_else(|| "(none)".to_owned()),
            record.generation,
            record.by
        );
    }
    println!("from generation {} on:", adoption.record.generation);
    for line in &adoption.means {
        println!("  {line}");
    }
    println!("  the agents of the Sentinels here publish the writer at once");
    if !args.yes && !confirmed(&args.adopted.to_string())? {
        return Err(Failure::new(Exit::Failed, "not adopted: not confirmed")
            .hint("answer yes, or give --yes"));
    }
    committed(
        consul.txn(&adoption.ops, &group.layout.state()).await,
        "run it again, and see what it says now",
        "run it again: it says when there is nothing left to adopt",
    )?;
    println!("adopted");
    Ok(())
}

fn confirmed(group: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("Adopt {group}? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
