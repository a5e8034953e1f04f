//! `consul-redis plan`: the agent's own decision, printed instead of carried out.

use std::collections::BTreeSet;

use serde::Serialize;

use super::terminal;
use crate::cli::PlanArgs;
use crate::clock::Clock;
use crate::cluster::{look as look_at_nodes, seeds_of};
use crate::config::{ClusterConfig, Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::cluster::order::NodeOrder;
use crate::core::cluster::slots::SLOTS;
use crate::core::cluster::table::NodeId;
use crate::core::cluster::watch::{ClusterLook, ClusterLoop, ClusterPlan};
use crate::core::decide::decide;
use crate::core::duty::action::{Action, Promote, Purpose};
use crate::core::duty::fence::Fence;
use crate::core::duty::hold::Hold;
use crate::core::duty::mark::Marking;
use crate::core::duty::relay::Relay;
use crate::core::duty::sentinels::{Reconfigure, ReconfigureKind};
use crate::core::duty::zone_order::Prioritize;
use crate::core::identity::address::{Address, GroupName, Zone};
use crate::core::identity::mark::MarkKey;
use crate::core::known::memory::Memory;
use crate::core::known::observed::SentinelSettings;
use crate::core::known::view::View;
use crate::core::published::projection::Op;
use crate::core::situation::data_loss::Detach;
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::observe::{Look, look, published_of_cluster};

/// What an agent would do for one group, or for one cluster.
#[derive(Debug, Serialize)]
struct Planned {
    #[serde(flatten)]
    name: PlannedFor,
    /// What is concluded, in one sentence.
    summary: String,
    /// What could not be found out.
    notes: Vec<String>,
    /// What is not done, and why not.
    not_done: Vec<String>,
    actions: Vec<PlannedAction>,
}

/// What it would be done for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum PlannedFor {
    Group(GroupName),
    Cluster(GroupName),
}

/// One action, in the form of `plan --json`.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum PlannedAction {
    /// One transaction in Consul, and what is done once it is written.
    Write {
        purpose: &'static str,
        operations: Vec<Op>,
        forget: Option<Told>,
        replace: Option<Told>,
    },
    /// Pause an instance's writes.
    Hold { instance: Address, for_ms: u64, why: String },
    /// Keep an instance from copying a primary that has no data.
    #[serde(rename = "shelter")]
    Detach { instance: Address, from: Address },
    /// Make an instance a primary.
    Promote { instance: Address },
    /// Make an instance a replica.
    Fence { instance: Address, follow: Address },
    /// Write the mark into the writer's data set.
    Mark { instance: Address, key: MarkKey, generation: u64 },
    /// Set an instance's `replica-priority`, for the order of zones.
    Prioritize { instance: Address, zone: Zone, had: u64, priority: u64 },
    /// Tell a Sentinel how an election ended whose leader does not.
    Relay { sentinel: Address, leader: Address, epoch: u64, primary: Address },
    /// Reconfigure a Sentinel (`tell` in JSON).
    #[serde(rename = "tell")]
    Reconfigure {
        sentinel: Address,
        why: &'static str,
        primary: Address,
        settings: SentinelSettings,
    },
    /// Tell a node of a cluster something.
    #[serde(rename = "tell-node")]
    TellNode { node: Address, id: NodeId, command: String },
}

/// A Sentinel that is asked for something.
#[derive(Debug, Serialize)]
struct Told {
    sentinel: Address,
    /// The command, as `SENTINEL RESET`.
    command: &'static str,
    about: String,
}

/// Prints what an agent would do now for each group and each cluster.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read.
pub async fn run(config: Config, args: &PlanArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let names = Names::new(config.resolver);
    let clock = Clock::start();
    let mut all = Vec::new();
    for group in &config.groups {
        let seen = look(&config, group, &consul, &names, &clock).await?;
        all.push(plan(group, seen, &clock));
    }
    for cluster in &config.clusters {
        all.push(plan_cluster(cluster, &consul, &names, &clock).await?);
    }
    if args.json {
        println!("{}", terminal::json(&all)?);
    } else {
        for planned in &all {
            print!("{}", describe(planned));
        }
    }
    Ok(())
}

fn plan(group: &GroupConfig, look: Look, clock: &Clock) -> Planned {
    // One look remembers nothing, so whatever must last before it counts has not lasted.
    let mut memory = Memory::default();
    if let Some(record) = look.observed.record() {
        memory.generation_max = record.generation;
    }
    let view = View::of_one_look(&group.policy, &memory, &look.observed, clock.now());
    let decision = decide(&view, &group.layout);
    Planned {
        name: PlannedFor::Group(group.policy.group.clone()),
        notes: look.failures,
        not_done: decision.said(),
        actions: decision.actions().into_iter().map(PlannedAction::from).collect(),
        summary: decision.summary,
    }
}

async fn plan_cluster(
    cluster: &ClusterConfig,
    consul: &Consul,
    names: &Names,
    clock: &Clock,
) -> Result<Planned, Failure> {
    let policy = &cluster.policy;
    let (store, rows) = published_of_cluster(policy, consul, clock).await?;
    let mut places = seeds_of(cluster, consul).await?;
    places.extend(cluster.local.iter().cloned());
    let mut seeds = BTreeSet::new();
    for place in &places {
        // What a name stands for is looked up once more with the nodes, which says what is wrong with it.
        seeds.extend(names.addresses(place).await.unwrap_or_default());
    }
    let record = store.record();
    let recorded = record.into_iter().flat_map(|record| record.nodes.values());
    places.extend(store.announced.keys().chain(recorded.map(|node| &node.address)).cloned());
    let readings = look_at_nodes(&places, &cluster.login, names, policy.duties.manage).await;
    let readings = readings.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let silent = readings.iter().filter_map(|(at, reading)| Some((at, reading.as_ref().err()?)));
    let notes = silent.map(|(at, why)| format!("{at}: {why}")).collect();
    let name = policy.name.clone();
    let summary = match record {
        None => format!("{name}: nothing is published"),
        Some(record) => format!(
            "{name}: generation {}, {} of {SLOTS} slots have a published primary",
            record.generation,
            record.served()
        ),
    };
    let seen = ClusterLook { seeds, store, rows, readings };
    let ClusterPlan { ops: operations, orders, not_done } =
        ClusterLoop::planned(policy.clone(), seen, clock.now());
    let write = (!operations.is_empty()).then(|| {
        let purpose = Purpose::Publish.as_str();
        PlannedAction::Write { purpose, operations, forget: None, replace: None }
    });
    let orders = orders.into_iter().map(|NodeOrder { to: node, id, command }| {
        PlannedAction::TellNode { node, id, command: command.to_string() }
    });
    let actions = write.into_iter().chain(orders).collect();
    Ok(Planned { name: PlannedFor::Cluster(name), summary, notes, not_done, actions })
}

impl From<Action> for PlannedAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Write(write) => Self::Write {
                purpose: write.purpose.as_str(),
                operations: write.ops,
                forget: write.forget.map(|forget| Told {
                    about: forget.names(),
                    sentinel: forget.sentinel,
                    command: "SENTINEL RESET",
                }),
                replace: write.replace.map(|replace| Told {
                    about: replace.primary.to_string(),
                    sentinel: replace.sentinel,
                    command: "SENTINEL FAILOVER",
                }),
            },
            Action::Hold(Hold { instance, why, for_ms }) => {
                Self::Hold { instance, for_ms, why: why.to_string() }
            }
            Action::Mark(Marking { instance, key, mark, .. }) => {
                Self::Mark { instance, key, generation: mark.generation }
            }
            Action::Prioritize(Prioritize { instance, zone, had, priority, .. }) => {
                Self::Prioritize { instance, zone, had, priority }
            }
            Action::Detach(Detach { instance, from, .. }) => Self::Detach { instance, from },
            Action::Promote(Promote { instance, .. }) => Self::Promote { instance },
            Action::Fence(Fence { instance, follow, .. }) => Self::Fence { instance, follow },
            Action::Relay(Relay {
                sentinel, leader_at: leader, epoch, chosen: primary, ..
            }) => Self::Relay { sentinel, leader, epoch, primary },
            Action::Reconfigure(Reconfigure { sentinel, what, primary, settings, .. }) => {
                let why = match what {
                    ReconfigureKind::Monitor => "it does not know the group",
                    ReconfigureKind::Repoint => "it has disagreed for long",
                    ReconfigureKind::Remove(_) => {
                        "it knows only addresses that do not answer, and is to forget them first"
                    }
                    ReconfigureKind::Settings => "its settings differ",
                    ReconfigureKind::Pace(_) => {
                        "it is to wait for a moment only, or as before again"
                    }
                    ReconfigureKind::Reboot(_) => {
                        "master-reboot-down-after-period, which no Sentinel shows, is told once an hour"
                    }
                };
                Self::Reconfigure { sentinel, why, primary, settings }
            }
        }
    }
}

fn describe(planned: &Planned) -> String {
    let mut text = format!("{}\n", planned.summary);
    for failure in &planned.notes {
        text.push_str(&format!("  note: {failure}\n"));
    }
    for reason in &planned.not_done {
        text.push_str(&format!("  not done: {reason}\n"));
    }
    if planned.actions.is_empty() {
        text.push_str("  nothing to do\n");
    }
    text.extend(planned.actions.iter().map(todo));
    text
}

fn todo(todo: &PlannedAction) -> String {
    match todo {
        PlannedAction::Write { purpose, operations, forget, replace } => {
            let mut text = format!("  {purpose}: one transaction in Consul\n");
            for op in operations {
                text.push_str(&format!("    {}\n", operation(op)));
            }
            if let Some(Told { sentinel, command, about }) = forget {
                text.push_str(&format!(
                    "  then have Sentinel {sentinel} forget {about} ({command})\n"
                ));
            }
            if let Some(Told { sentinel, command, about }) = replace {
                text.push_str(&format!(
                    "  then ask Sentinel {sentinel} to replace {about} ({command})\n"
                ));
            }
            text
        }
        PlannedAction::Hold { instance, for_ms, why } => {
            format!("  hold writes on {instance} for {for_ms} ms: {why}\n")
        }
        PlannedAction::Detach { instance, from } => {
            format!("  detach {instance}, so that it does not copy {from}, which has no data\n")
        }
        PlannedAction::Promote { instance } => format!("  make {instance} a primary\n"),
        PlannedAction::Fence { instance, follow } => {
            format!("  turn {instance} into a replica of {follow}\n")
        }
        PlannedAction::Mark { instance, key, generation } => format!(
            "  write the mark of generation {generation} into the key {key} of {instance}\n"
        ),
        PlannedAction::Prioritize { instance, zone, had, priority } => format!(
            "  set the replica-priority of {instance}, {had} now, to {priority}: prefer_zones, zone {zone}\n"
        ),
        PlannedAction::Relay { sentinel, leader, epoch, primary } => format!(
            "  tell Sentinel {sentinel} that {leader} was elected at epoch {epoch} and made {primary} the primary\n"
        ),
        PlannedAction::Reconfigure { sentinel, why, primary, settings } => format!(
            "  reconfigure Sentinel {sentinel} ({why}): the primary is {primary}, quorum {}\n",
            settings.quorum
        ),
        PlannedAction::TellNode { node, id, command } => {
            format!("  tell node {node} ({id}): {command}\n")
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::duty::action::{Purpose, Write};
    use crate::core::duty::fence::StrayKind;
    use crate::core::duty::hold::HoldReason;
    use crate::core::duty::relay::RelayReason;
    use crate::core::duty::stale_peers::{Forget, StalePeer};
    use crate::core::known::observed::{ReplId, SentinelId};
    use crate::core::published::projection::{
        CheckRow, CheckStatus, MANAGED_BY, NodeRow, ServiceRow, Weights,
    };
    use crate::core::situation::data_loss::{Replace, WhyReplace};

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn operations() -> Vec<Op> {
        let text = str::to_owned;
        let (key, node, id, service) = (text("k"), text("n"), text("i"), text("s"));
        let meta = [MANAGED_BY].map(|(name, value)| (text(name), text(value)));
        let row = ServiceRow {
            service: service.clone(),
            address: text("10.0.0.5"),
            port: 6379,
            tags: vec![text("primary")],
            meta: meta.clone().into(),
            weights: Weights::default(),
        };
        let check = CheckRow {
            service_id: id.clone(),
            service: service.clone(),
            status: CheckStatus::Passing,
            output: text("the primary"),
        };
        vec![
            Op::KeyCas { key: key.clone(), index: 0, value: text("v") },
            Op::KeyCas { key: key.clone(), index: 7, value: text("v") },
            Op::KeyCheckIndex { key: key.clone(), index: 7 },
            Op::KeySet { key: key.clone(), value: text("v") },
            Op::KeyDeleteTree { prefix: key },
            Op::NodeSet {
                node: node.clone(),
                row: NodeRow { address: text("192.0.2.1"), meta: meta.into() },
            },
            Op::NodeDelete { node: node.clone() },
            Op::ServiceSet { node: node.clone(), id: id.clone(), row },
            Op::ServiceDelete { node: node.clone(), id: id.clone(), service },
            Op::CheckSet { node, id, row: check },
        ]
    }

    fn actions() -> Vec<Action> {
        let [old, new, sentinel] =
            ["10.0.0.5:6379", "10.0.0.6:6379", "10.0.0.7:26379"].map(address);
        let replid: ReplId = serde_json::from_value("0123456789abcdef".into()).unwrap();
        let (run_id, instance) = ("1".to_owned(), old.clone());
        let stale_peers = vec![StalePeer::Replica(new.clone())];
        let replace =
            Replace { sentinel: sentinel.clone(), primary: old.clone(), why: WhyReplace::DataLoss };
        let write = |forget, replace| {
            let (purpose, ops) = (Purpose::InstanceRows, operations());
            let (base_index, record, history) = (7, None, None);
            Action::Write(Box::new(Write {
                purpose,
                base_index,
                record,
                history,
                forget,
                replace,
                ops,
            }))
        };
        vec![
            write(
                Some(Forget { sentinel: sentinel.clone(), primary: old.clone(), stale_peers }),
                None,
            ),
            write(None, Some(replace)),
            Action::Hold(Hold { instance: old.clone(), why: HoldReason::Isolated, for_ms: 2_000 }),
            Action::Fence(Fence {
                instance: instance.clone(),
                run_id: run_id.clone(),
                follow: new.clone(),
                follow_run: None,
                kind: StrayKind::Returned,
                replid: replid.clone(),
            }),
            Action::Detach(Detach {
                instance,
                from: new,
                follows: None,
                run_id: run_id.clone(),
                replid,
            }),
            Action::Promote(Promote { instance: old.clone(), run_id: run_id.clone() }),
            Action::Prioritize(Prioritize {
                instance: address("10.0.0.6:6379"),
                run_id,
                follows: old.clone(),
                zone: "eu-1a".parse().unwrap(),
                had: 50,
                priority: 10,
            }),
            Action::Relay(Relay {
                sentinel: sentinel.clone(),
                leader: SentinelId("leader".to_owned()),
                leader_at: address("10.0.0.8:26379"),
                epoch: 4,
                forced: false,
                old: old.clone(),
                chosen: old.clone(),
                why: RelayReason::Silent,
            }),
            Action::Reconfigure(Reconfigure {
                sentinel,
                what: ReconfigureKind::Monitor,
                primary: old,
                settings: crate::core::duty::sentinels::DEFAULT_SETTINGS,
                had: crate::core::duty::sentinels::DEFAULT_SETTINGS,
                epoch: 0,
            }),
        ]
    }

    fn planned() -> Planned {
        Planned {
            name: PlannedFor::Group("redis".parse().unwrap()),
            summary: "redis: unknown".to_owned(),
            notes: vec!["no name leads anywhere".to_owned()],
            not_done: vec!["not wanted".to_owned()],
            actions: actions().into_iter().map(PlannedAction::from).collect(),
        }
    }

    #[test]
    fn whatever_is_planned_is_as_the_schema_says() {
        let schema = include_str!("../../docs/schemas/plan.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let said = serde_json::to_value([planned()]).unwrap();
        let wrong: Vec<String> =
            validator.iter_errors(&said).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{said:#}");
    }

    #[test]
    fn whatever_is_planned_is_a_line() {
        let text = describe(&planned());
        for line in [
            "  note: no name leads anywhere\n",
            "  not done: not wanted\n",
            "    create k if it does not exist\n",
            "  then have Sentinel 10.0.0.7:26379 forget replica 10.0.0.6:6379 (SENTINEL RESET)\n",
            "  then ask Sentinel 10.0.0.7:26379 to replace 10.0.0.5:6379 (SENTINEL FAILOVER)\n",
            "  turn 10.0.0.5:6379 into a replica of 10.0.0.6:6379\n",
            "  make 10.0.0.5:6379 a primary\n",
            "  set the replica-priority of 10.0.0.6:6379, 50 now, to 10: prefer_zones, zone eu-1a\n",
            "  tell Sentinel 10.0.0.7:26379 that 10.0.0.8:26379 was elected at epoch 4 and made 10.0.0.5:6379 the primary\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
