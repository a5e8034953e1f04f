//! `consul-redis retire GROUP|CLUSTER`

use std::collections::BTreeSet;

use super::clusters::cluster_meant;
use crate::cli::RetireArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::cluster::record::StoredCluster;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::group::Outcome;
use crate::core::identity::address::GroupName;
use crate::core::known::observed::RowsAnswer;
use crate::core::published::projection::{Layout, Op};
use crate::core::published::sentinel_rows::node;
use crate::exit::{Exit, Failure};

/// Takes a group or a cluster out of Consul: its keys and its node with all rows go in one transaction, and with the
/// last group the Sentinels' node.
///
/// # Errors
/// A [`Failure`] when agents still watch it, or Consul refuses.
pub async fn run(config: Config, args: &RetireArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    if let Some(cluster) = cluster_meant(&config, &consul, &clock, &args.retired).await? {
        return retire_cluster(&cluster, &consul, &clock, args).await;
    }
    let layout = Layout::new(&config.prefix, &args.retired);
    let store = consul.group(&layout, ReadMode::Consistent, &clock).await?.value;
    let rows = consul.rows(&layout.node(), &clock).await?;
    if store.record().is_none() && store.plain.is_empty() && rows.found.is_none() {
        let message = format!("Consul knows no group and no cluster `{}`", args.retired);
        return Err(Failure::new(Exit::Failed, message).hint(known_groups(&config, &consul).await));
    }
    let agents: Vec<&str> = store.agents.iter().map(String::as_str).collect();
    refuse(&agents, &rows, &layout, args)?;
    delete(&layout, store.state_index, &consul, args).await?;
    let left = consul.groups(&config.prefix).await?;
    let sentinels = node(&config.prefix);
    if left.is_empty() && consul.rows(&sentinels, &clock).await?.found.is_some() {
        commit(&consul, &[Op::NodeDelete { node: sentinels.clone() }]).await?;
        println!("it was the last group: node {sentinels} is gone too");
    }
    println!("the Sentinels were not touched: they fail {} over as before", args.retired);
    Ok(())
}

async fn retire_cluster(
    cluster: &ClusterPolicy,
    consul: &Consul,
    clock: &Clock,
    args: &RetireArgs,
) -> Result<(), Failure> {
    let layout = &cluster.layout;
    let store = consul.cluster(layout, clock).await?;
    let rows = consul.rows(&layout.node(), clock).await?;
    if store.state == StoredCluster::Absent && store.plain.is_empty() && rows.found.is_none() {
        let message = format!("nothing is published of the cluster {}", cluster.name);
        return Err(Failure::new(Exit::Failed, message));
    }
    let agents: Vec<&str> = store.agents().collect();
    refuse(&agents, &rows, layout, args)?;
    delete(layout, store.index, consul, args).await?;
    println!("its nodes were not touched: the cluster goes on as before");
    Ok(())
}

/// What speaks against it.
fn refuse(
    agents: &[&str],
    rows: &RowsAnswer,
    layout: &Layout,
    args: &RetireArgs,
) -> Result<(), Failure> {
    if !agents.is_empty() && !args.force {
        let message = format!(
            "{} agent(s) still watch `{}` and would publish it again: {}",
            agents.len(),
            args.retired,
            agents.join(", ")
        );
        return Err(Failure::new(Exit::Failed, message)
            .hint("take it out of their config first, or use --force"));
    }
    if rows.is_anothers(layout) {
        let message = format!("node {} is not ours; it is left alone", layout.node());
        return Err(Failure::new(Exit::Failed, message)
            .hint("it was registered by another program: another --prefix makes other nodes"));
    }
    Ok(())
}

/// Everything in one transaction; with an index of `state`, unless that has changed meanwhile.
async fn delete(
    layout: &Layout,
    index: u64,
    consul: &Consul,
    args: &RetireArgs,
) -> Result<(), Failure> {
    let mut ops = Vec::new();
    if index > 0 {
        ops.push(Op::KeyCheckIndex { key: layout.state(), index });
    }
    ops.push(Op::KeyDeleteTree { prefix: layout.root() });
    ops.push(Op::NodeDelete { node: layout.node() });
    commit(consul, &ops).await?;
    println!(
        "{}: gone from Consul (keys below {}, node {})",
        args.retired,
        layout.root(),
        layout.node()
    );
    Ok(())
}

/// The names of the known groups and clusters, as a hint when there is none of the name that was given.
pub async fn known_groups(config: &Config, consul: &Consul) -> String {
    let groups = match consul.groups(&config.prefix).await {
        Ok(known) => known,
        Err(error) => return error.to_string(),
    };
    let clusters = consul.clusters(&config.prefix).await.unwrap_or_default();
    let named = |all: BTreeSet<GroupName>| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match (groups.is_empty(), clusters.is_empty()) {
        (true, true) => format!("there is no group under {}/", config.prefix),
        (false, true) => format!("the groups there are: {}", named(groups)),
        (true, false) => format!("there is no group; the clusters there are: {}", named(clusters)),
        (false, false) => {
            format!("the groups there are: {}; the clusters: {}", named(groups), named(clusters))
        }
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
