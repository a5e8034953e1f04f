//! `consul-redis plan`: the agent's own decision, printed instead of carried out.

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::action::Action;
use crate::core::decide::{Decision, decide};
use crate::core::memory::Memory;
use crate::core::projection::Op;
use crate::core::sentinels::TellWhat;
use crate::core::view::View;
use crate::dns::Names;
use crate::exit::Failure;
use crate::observe::{Look, look};

/// Prints what an agent would do now for each group.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read.
pub async fn run(config: Config) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let names = Names::new(config.resolver);
    let clock = Clock::start();
    for group in &config.groups {
        let seen = look(&config, group, &consul, &names, &clock).await?;
        print!("{}", describe(group, &seen, &clock));
    }
    Ok(())
}

fn describe(group: &GroupConfig, look: &Look, clock: &Clock) -> String {
    // One look remembers nothing, so whatever must last before it counts has not lasted.
    let mut memory = Memory::default();
    if let Some(record) = look.observed.record() {
        memory.generation_max = record.generation;
    }
    let view = View::of_one_look(&group.policy, &memory, &look.observed, clock.now());
    let decision = decide(&view, &group.layout);
    let mut text = format!("{}\n", decision.summary);
    for failure in &look.failures {
        text.push_str(&format!("  note: {failure}\n"));
    }
    for reason in &decision.reasons {
        text.push_str(&format!("  not done: {reason}\n"));
    }
    text.push_str(&actions(&decision));
    text
}

fn actions(decision: &Decision) -> String {
    if decision.actions.is_empty() {
        return "  nothing to do\n".to_owned();
    }
    let mut text = String::new();
    for action in &decision.actions {
        match action {
            Action::Write(write) => {
                let purpose = write.purpose.as_str();
                text.push_str(&format!("  {purpose}: one transaction in Consul\n"));
                for op in &write.ops {
                    text.push_str(&format!("    {}\n", operation(op)));
                }
                if let Some(replace) = &write.replace {
                    text.push_str(&format!(
                        "  then ask Sentinel {} to replace {} (SENTINEL FAILOVER)\n",
                        replace.sentinel, replace.primary
                    ));
                }
            }
            Action::Hold(hold) => text.push_str(&format!(
                "  hold writes on {} for {} ms: {}\n",
                hold.instance, hold.for_ms, hold.why
            )),
            Action::Shelter(shelter) => text.push_str(&format!(
                "  keep {} from copying {}, which has no data: it follows nobody for the moment\n",
                shelter.instance, shelter.from
            )),
            Action::Promote(promote) => {
                text.push_str(&format!("  make {} a primary\n", promote.instance))
            }
            Action::Fence(fence) => text.push_str(&format!(
                "  turn {} into a replica of {}\n",
                fence.instance, fence.follow
            )),
            Action::Tell(tell) => text.push_str(&format!(
                "  tell Sentinel {} ({}): the primary is {}, quorum {}\n",
                tell.sentinel,
                match tell.what {
                    TellWhat::Monitor => "it does not know the group",
                    TellWhat::Repoint => "it has disagreed for long",
                    TellWhat::Settings => "its settings differ",
                },
                tell.primary,
                tell.settings.quorum
            )),
        }
    }
    text
}

fn operation(op: &Op) -> String {
    match op {
        Op::KeyCas { key, index: 0, .. } => format!("create {key} if it does not exist"),
        Op::KeyCas { key, index, .. } => format!("set {key} if it is still at index {index}"),
        Op::KeyCheckIndex { key, index } => format!("only if {key} is still at index {index}"),
        Op::KeySet { key, value } if value.len() <= 60 => {
            format!("set {key} = {:?}", value)
        }
        Op::KeySet { key, value } => format!("set {key} ({} bytes)", value.len()),
        Op::KeyDeleteTree { prefix } => format!("delete all keys below {prefix}"),
        Op::NodeSet { node, row } => format!("set node {node} at {}", row.address),
        Op::NodeDelete { node } => format!("delete node {node} and everything on it"),
        Op::ServiceSet { id, row, .. } => {
            let tags = if row.tags.is_empty() {
                String::new()
            } else {
                format!(", tags {}", row.tags.join(", "))
            };
            format!("set service {id} at {}:{}{tags}", row.address, row.port)
        }
        Op::ServiceDelete { id, .. } => format!("delete service {id}"),
        Op::CheckSet { id, row, .. } => {
            format!("set check {id}: {}, {:?}", row.status.as_str(), row.output)
        }
    }
}
