//! `consul-redis cluster HOST:PORT...`: which nodes of a Redis Cluster can take requests, and why the others cannot.

use std::fmt::Write as _;

use serde::Serialize;

use super::terminal::{self, Progress, Style};
use crate::cli::ClusterArgs;
use crate::cluster::look;
use crate::config::Config;
use crate::core::cluster::judgement::{Fitness, JudgedNode, Judgement, NoVoters, Shard, judge};
use crate::core::cluster::slots::{SLOTS, SlotRange, in_words};
use crate::core::cluster::table::NodeId;
use crate::core::identity::address::Address;
use crate::dns::Names;
use crate::exit::{Exit, Failure};

/// A cluster, as `cluster --json` prints it.
#[derive(Debug, Serialize)]
struct ShownCluster<'a> {
    /// Every slot is served, and every node can take requests.
    whole: bool,
    /// Slots whose owner can take requests.
    slots_served: usize,
    /// Primaries that own slots, and how many of them answer; 0 where they are not known.
    voters: usize,
    voters_answering: usize,
    /// Why nothing can be said of any node.
    why_not: Option<String>,
    shards: Vec<ShownShard<'a>>,
    slots_unowned: Vec<SlotRange>,
    nodes: Vec<ShownNode<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownShard<'a> {
    owner: &'a str,
    epoch: u64,
    slots: &'a [SlotRange],
    /// Where its owner answers, where that can take requests.
    primary: Option<&'a Address>,
    /// Its replicas that serve reads.
    replicas: Vec<&'a Address>,
}

#[derive(Debug, Serialize)]
struct ShownNode<'a> {
    address: &'a Address,
    id: Option<&'a str>,
    owner: Option<&'a str>,
    /// What can be asked of it: `primary`, `replica`, or nothing.
    serves: Option<&'static str>,
    why_not: Option<String>,
    migrating: bool,
}

/// Looks once, and says what a majority of the voters says. [`Exit::Degraded`] when all slots are served and a node
/// cannot take requests, [`Exit::Unhealthy`] when a slot is not served.
///
/// # Errors
/// A [`Failure`] when the name of a seed gives no address.
pub async fn run(config: Config, args: &ClusterArgs) -> Result<Exit, Failure> {
    let progress = Progress::new("asking the nodes");
    let names = Names::new(config.resolver);
    let found = look(&args.seeds, &config.instance_login, &names).await;
    let readings = found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    drop(progress);
    let judged = judge(&readings);
    let code = match &judged {
        Ok(judged) if judged.is_whole() => Exit::Done,
        Ok(judged) if judged.serves_all() => Exit::Degraded,
        _ => Exit::Unhealthy,
    };
    if args.json {
        println!("{}", terminal::json(&shown(&judged))?);
        return Ok(code);
    }
    match &judged {
        Ok(judged) => print!("{}", in_text(judged, Style::of_stdout())),
        Err(none) => {
            println!("{none}");
            for (address, reading) in &readings {
                if let Err(why) = reading {
                    println!("  {address}  {why}");
                }
            }
        }
    }
    Ok(code)
}

fn shown(judged: &Result<Judgement, NoVoters>) -> ShownCluster<'_> {
    let Ok(judged) = judged else {
        return ShownCluster {
            whole: false,
            slots_served: 0,
            voters: 0,
            voters_answering: 0,
            why_not: judged.as_ref().err().map(ToString::to_string),
            shards: Vec::new(),
            slots_unowned: Vec::new(),
            nodes: Vec::new(),
        };
    };
    let shards = judged.shards.iter().map(|each| {
        let (primary, replicas) = served_by(judged, each);
        let Shard { owner, epoch, slots } = each;
        ShownShard { owner: owner.as_str(), epoch: *epoch, slots, primary, replicas }
    });
    let nodes = judged.nodes.iter().map(|node| ShownNode {
        address: &node.address,
        id: node.id.as_ref().map(NodeId::as_str),
        owner: node.owner.as_ref().map(NodeId::as_str),
        serves: match node.fitness {
            Fitness::Primary => Some("primary"),
            Fitness::Replica => Some("replica"),
            Fitness::Unfit(_) => None,
        },
        why_not: why_not(node),
        migrating: node.migrating,
    });
    ShownCluster {
        whole: judged.is_whole(),
        slots_served: judged.served(),
        voters: judged.voters.len(),
        voters_answering: judged.answering,
        why_not: None,
        shards: shards.collect(),
        slots_unowned: judged.unowned.clone(),
        nodes: nodes.collect(),
    }
}

fn why_not(node: &JudgedNode) -> Option<String> {
    match &node.fitness {
        Fitness::Unfit(why) => Some(why.to_string()),
        Fitness::Primary | Fitness::Replica => None,
    }
}

/// Where a shard's owner takes requests, if it does; and its replicas that serve reads.
fn served_by<'a>(judged: &'a Judgement, shard: &Shard) -> (Option<&'a Address>, Vec<&'a Address>) {
    let of = judged.nodes.iter().filter(|node| node.owner.as_ref() == Some(&shard.owner));
    let fit = |fitness: Fitness| {
        of.clone().filter(move |node| node.fitness == fitness).map(|node| &node.address)
    };
    (fit(Fitness::Primary).next(), fit(Fitness::Replica).collect())
}

fn in_text(judged: &Judgement, style: Style) -> String {
    let mut text = String::new();
    let (served, voters, answering) = (judged.served(), judged.voters.len(), judged.answering);
    let head =
        format!("{served} of {SLOTS} slots are served; {answering} of {voters} voters answer");
    let head = if judged.serves_all() { style.good(&head) } else { style.bad(&head) };
    let _ = writeln!(text, "{head}\n");
    let mut rows = vec![["slots", "primary", "epoch", "replicas"].map(str::to_owned).to_vec()];
    for shard in &judged.shards {
        let (primary, replicas) = served_by(judged, shard);
        let primary = primary.map_or_else(|| "none".to_owned(), ToString::to_string);
        let replicas: Vec<String> = replicas.into_iter().map(ToString::to_string).collect();
        let epoch = shard.epoch.to_string();
        rows.push(vec![in_words(&shard.slots), primary, epoch, replicas.join(" ")]);
    }
    if !judged.unowned.is_empty() {
        let why = "no node owns them for a majority of the voters".to_owned();
        rows.push(vec![in_words(&judged.unowned), why]);
    }
    terminal::columns(&mut text, "", rows, style);
    let unfit: Vec<Vec<String>> = judged
        .nodes
        .iter()
        .filter_map(|node| {
            let id = node.id.as_ref().map(ToString::to_string).unwrap_or_default();
            Some(vec![node.address.to_string(), id, why_not(node)?])
        })
        .collect();
    if !unfit.is_empty() {
        let _ = writeln!(text, "\n{}", style.bold("cannot take requests"));
        terminal::columns(&mut text, "  ", unfit, style);
    }
    let moving: Vec<String> = judged
        .nodes
        .iter()
        .filter(|node| node.migrating)
        .map(|node| node.address.to_string())
        .collect();
    if !moving.is_empty() {
        let _ = writeln!(text, "\nslots are moving from or to {}", moving.join(", "));
    }
    text
}
