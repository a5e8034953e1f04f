//! `consul-redis retire GROUP`

use crate::cli::RetireArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::group::Outcome;
use crate::core::published::projection::{Layout, Op};
use crate::core::published::sentinel_rows::node;
use crate::exit::{Exit, Failure};

/// Takes a group out of Consul: its keys and its node with all rows go in one transaction, and with the
/// last group the Sentinels' node.
///
/// # Errors
/// A [`Failure`] when agents still watch the group, or Consul refuses.
pub async fn run(config: Config, args: &RetireArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    let layout = Layout::new(&config.prefix, &args.retired);
    let store = consul.group(&layout, ReadMode::Consistent, &clock).await?.value;
    let rows = consul.rows(&layout.node(), &clock).await?;
    if store.record().is_none() && store.plain.is_empty() && rows.found.is_none() {
        let message = format!("Consul knows no group `{}`", args.retired);
        return Err(Failure::new(Exit::Failed, message).hint(known_groups(&config, &consul).await));
    }
    if !store.agents.is_empty() && !args.force {
        let agents: Vec<&str> = store.agents.iter().map(String::as_str).collect();
        let message = format!(
            "{} agent(s) still watch `{}` and would publish it again: {}",
            agents.len(),
            args.retired,
            agents.join(", ")
        );
        return Err(Failure::new(Exit::Failed, message)
            .hint("take the group out of their config first, or use --force"));
    }
    if rows.is_anothers(&layout) {
        let message = format!("node {} is not ours; it is left alone", layout.node());
        return Err(Failure::new(Exit::Failed, message)
            .hint("it was registered by another program: another --prefix makes other nodes"));
    }
    let mut ops = Vec::new();
    if store.state_index > 0 {
        ops.push(Op::KeyCheckIndex { key: layout.state(), index: store.state_index });
    }
    ops.push(Op::KeyDeleteTree { prefix: layout.root() });
    ops.push(Op::NodeDelete { node: layout.node() });
    commit(&consul, &ops).await?;
    println!(
        "{}: gone from Consul (keys below {}, node {})",
        args.retired,
        layout.root(),
        layout.node()
    );
    let left = consul.groups(&config.prefix).await?;
    let sentinels = node(&config.prefix);
    if left.is_empty() && consul.rows(&sentinels, &clock).await?.found.is_some() {
        commit(&consul, &[Op::NodeDelete { node: sentinels.clone() }]).await?;
        println!("it was the last group: node {sentinels} is gone too");
    }
    println!("the Sentinels were not touched: they fail {} over as before", args.retired);
    Ok(())
}

/// The names of the known groups, as a hint when an operator has named a group that does not exist.
pub async fn known_groups(config: &Config, consul: &Consul) -> String {
    match consul.groups(&config.prefix).await {
        Ok(known) if known.is_empty() => format!("there is no group under {}/", config.prefix),
        Ok(known) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            format!("the groups there are: {}", known.join(", "))
        }
        Err(error) => error.to_string(),
    }
}

async fn commit(consul: &Consul, ops: &[Op]) -> Result<(), Failure> {
    let lost = "an agent still publishes it; try again once none does";
    committed(consul.txn(ops, "").await, lost, "run the command again: it does no harm twice")
}

/// What became of an operator's transaction, with what to do when the group changed meanwhile, and when the answer was
/// lost.
pub(super) fn committed(outcome: Outcome, lost: &str, unknown: &str) -> Result<(), Failure> {
    match outcome {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Lost => Err(Failure::new(Exit::Failed, "the group changed meanwhile").hint(lost)),
        Outcome::Refused(what) => {
            Err(Failure::new(Exit::Denied, format!("Consul refuses: {what}"))
                .hint("the token needs what consul/agent-policy.hcl says"))
        }
        Outcome::Unknown(what) => {
            Err(Failure::new(Exit::Unavailable, format!("the answer was lost: {what}"))
                .hint(unknown))
        }
    }
}
