//! `consul-redis cluster NAME` or `HOST:PORT...`: which nodes of a Redis Cluster can take requests, and why the others
//! cannot; and what is published of it.

use std::fmt::Write as _;

use serde::Serialize;

use super::terminal::{self, Progress, Style};
use crate::cli::{ClusterArgs, ClusterCommand, ClusterPlace};
use crate::clock::Clock;
use crate::cluster::{look, seeds_of};
use crate::config::Config;
use crate::consul::client::Consul;
use crate::core::cluster::claims::{PlannedNode, PlannedShard};
use crate::core::cluster::judgement::{Fitness, JudgedNode, Judgement, NoVoters, Shard, judge};
use crate::core::cluster::make::{blank_nodes, plan};
use crate::core::cluster::record::{ClusterRecord, ClusterRole, NodeRecord, NodeSite};
use crate::core::cluster::slots::{SLOTS, SlotRange, in_words};
use crate::core::cluster::table::NodeId;
use crate::core::identity::address::{Address, GroupName};
use crate::core::published::projection::Layout;
use crate::dns::Names;
use crate::exit::{Exit, Failure};

/// A cluster, as `cluster --json` prints it.
#[derive(Debug, Serialize)]
struct ClusterReport<'a> {
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
    /// What Consul shows of it, where it was asked for by its name.
    published: Option<ShownRecord<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownRecord<'a> {
    service: String,
    generation: u64,
    since: String,
    by: &'a str,
    why: &'a str,
    slots_served: usize,
    primaries: Vec<&'a Address>,
    replicas: Vec<&'a Address>,
    /// Members in no name, and why.
    unfit: Vec<ShownUnfit<'a>>,
    /// What agents have begun to do to it.
    under_way: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ShownUnfit<'a> {
    address: &'a Address,
    why: &'a str,
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
/// A [`Failure`] when the name of a seed gives no address, or Consul does not say what is published.
pub async fn run(config: Config, args: &ClusterArgs) -> Result<Exit, Failure> {
    if let Some(ClusterCommand::Create(args)) = &args.more {
        return planned(config, &args.name).await;
    }
    let (seeds, record) = places(&config, &args.places).await?;
    let progress = Progress::new("asking the nodes");
    let names = Names::new(config.resolver);
    let found = look(&seeds, &config.instance_login, &names, false).await;
    let readings = found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    drop(progress);
    let judged = judge(&readings);
    let code = match &judged {
        Ok(judged) if judged.is_whole() => Exit::Done,
        Ok(judged) if judged.serves_all() => Exit::Degraded,
        _ => Exit::Unhealthy,
    };
    if args.json {
        let published = record.as_ref().map(shown_record);
        println!("{}", terminal::json(&ClusterReport { published, ..shown(&judged) })?);
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
    if let Some(record) = &record {
        print!("{}", record_in_text(record, Style::of_stdout()));
    }
    Ok(code)
}

/// Who would become what.
async fn planned(config: Config, name: &GroupName) -> Result<Exit, Failure> {
    let known = config.clusters.iter().find(|cluster| cluster.policy.name == *name);
    let wanted = known.and_then(|cluster| Some((cluster, cluster.policy.duties.make?)));
    let Some((cluster, wanted)) = wanted else {
        let message = format!("no cluster {name} with `expect` is configured here");
        let hint =
            "write [[cluster]] name, expect = 6, and seeds or consul_service into the config";
        return Err(Failure::new(Exit::Config, message).hint(hint));
    };
    let consul = Consul::new(&config.consul)?;
    let store = consul.cluster(&cluster.policy.layout, &Clock::start()).await?;
    if let Some(record) = store.record().filter(|record| !record.nodes.is_empty()) {
        println!("{name} is a cluster of {} nodes: there is nothing to make", record.nodes.len());
        return Ok(Exit::Done);
    }
    let mut seeds = seeds_of(cluster, &consul).await?;
    seeds.extend(cluster.local.iter().chain(store.announced.keys()).cloned());
    let names = Names::new(config.resolver);
    let found = look(&seeds, &config.instance_login, &names, false).await;
    let readings = found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let site = |address: &Address| NodeSite::of(&store.announced, address);
    let nodes = readings.iter().map(|(address, reading)| (address, reading.as_ref().ok()));
    let nodes = match blank_nodes(nodes, site, wanted, cluster.policy.zone.as_ref()) {
        Ok(nodes) => nodes,
        Err(why) => {
            println!("the cluster is not made yet: {why}");
            return Ok(Exit::Unhealthy);
        }
    };
    let style = Style::of_stdout();
    let mut text = format!("{} shards of {} nodes\n\n", wanted.shards, nodes.len());
    let mut rows = vec![["slots", "primary", "replicas"].map(str::to_owned).to_vec()];
    let placed = |node: &PlannedNode| match site(&node.address).zone {
        Some(zone) => format!("{} ({zone})", node.address),
        None => node.address.to_string(),
    };
    for PlannedShard { slots, primary, replicas } in plan(&nodes, wanted.shards) {
        let replicas: Vec<String> = replicas.iter().map(placed).collect();
        rows.push(vec![slots.to_string(), placed(&primary), replicas.join(" ")]);
    }
    terminal::columns(&mut text, "", rows, style);
    print!("{text}");
    Ok(Exit::Done)
}

/// The nodes to begin with; and what is published, where a cluster is asked for by its name.
async fn places(
    config: &Config,
    places: &[ClusterPlace],
) -> Result<(Vec<Address>, Option<ClusterRecord>), Failure> {
    if let [ClusterPlace::Published(name)] = places {
        return published(config, name).await;
    }
    let node = |place: &ClusterPlace| match place {
        ClusterPlace::Node(address) => Ok(address.clone()),
        ClusterPlace::Published(name) => {
            let message =
                format!("`{name}` has no port: write host:port, or one cluster's name alone");
            Err(Failure::new(Exit::Config, message))
        }
    };
    Ok((places.iter().map(node).collect::<Result<_, _>>()?, None))
}

async fn published(
    config: &Config,
    name: &GroupName,
) -> Result<(Vec<Address>, Option<ClusterRecord>), Failure> {
    let consul = Consul::new(&config.consul)?;
    let layout = Layout::of_cluster(&config.prefix, name);
    let store = consul.cluster(&layout, &Clock::start()).await?;
    let record = store.record().cloned();
    let known = config.clusters.iter().find(|cluster| cluster.policy.name == *name);
    let mut seeds = match known {
        Some(known) => seeds_of(known, &consul).await?,
        None => Vec::new(),
    };
    let nodes = record.iter().flat_map(|record| record.nodes.values());
    seeds.extend(nodes.map(|node| node.address.clone()));
    if seeds.is_empty() {
        let message = format!("no cluster {name} is configured here, and none is published");
        let hint = "write it into the config as [[cluster]], or name its nodes: HOST:PORT";
        return Err(Failure::new(Exit::Config, message).hint(hint));
    }
    Ok((seeds, record))
}

fn shown_record(record: &ClusterRecord) -> ShownRecord<'_> {
    let fit = |role: ClusterRole| {
        let serves = move |node: &&NodeRecord| node.serves().is_some_and(|(of, _)| of == role);
        record.nodes.values().filter(serves).map(|node| &node.address).collect()
    };
    ShownRecord {
        service: record.service.to_string(),
        generation: record.generation,
        since: record.since.to_string(),
        by: &record.by,
        why: &record.why,
        slots_served: record.served(),
        primaries: fit(ClusterRole::Primary),
        replicas: fit(ClusterRole::Replica),
        unfit: unfit(record).collect(),
        under_way: record.claims.in_words(),
    }
}

fn unfit(record: &ClusterRecord) -> impl Iterator<Item = ShownUnfit<'_>> {
    let unfit = record.nodes.values().filter(|node| node.serves().is_none());
    unfit.map(|node| ShownUnfit {
        address: &node.address,
        why: node.why.as_deref().unwrap_or("it belongs to no shard"),
    })
}

fn record_in_text(record: &ClusterRecord, style: Style) -> String {
    let ClusterRecord { generation, since, by, why, service, .. } = record;
    let shown = shown_record(record);
    let (primaries, replicas) = (shown.primaries.len(), shown.replicas.len());
    let mut text = format!(
        "\npublished as {}: {primaries} in {}, {replicas} in {}\n  generation {generation}, {since}, by {by}: {why}\n",
        style.bold(service.as_str()),
        service.primary(),
        service.replica()
    );
    if let Some(unheard) = &record.unheard {
        let _ = writeln!(text, "  {} hears no majority: {}", unheard.by, unheard.why);
    }
    for line in &shown.under_way {
        let _ = writeln!(text, "  under way: {line}");
    }
    let rows = shown.unfit.iter().map(|node| vec![node.address.to_string(), node.why.to_owned()]);
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        let _ = writeln!(text, "\n{}", style.bold("in no name"));
        terminal::columns(&mut text, "  ", rows, style);
    }
    text
}

fn shown(judged: &Result<Judgement, NoVoters>) -> ClusterReport<'_> {
    let Ok(judged) = judged else {
        return ClusterReport {
            whole: false,
            slots_served: 0,
            voters: 0,
            voters_answering: 0,
            why_not: judged.as_ref().err().map(ToString::to_string),
            shards: Vec::new(),
            slots_unowned: Vec::new(),
            nodes: Vec::new(),
            published: None,
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
    ClusterReport {
        whole: judged.is_whole(),
        slots_served: judged.served(),
        voters: judged.voters.len(),
        voters_answering: judged.answering,
        why_not: None,
        shards: shards.collect(),
        slots_unowned: judged.unowned.clone(),
        nodes: nodes.collect(),
        published: None,
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
    let place = |id: &NodeId| {
        let node = judged.nodes.iter().find(|node| node.id.as_ref() == Some(id));
        node.map_or_else(|| id.as_str().to_owned(), |node| node.address.to_string())
    };
    let moving: Vec<Vec<String>> = judged
        .migrations
        .iter()
        .map(|one| {
            vec![in_words(&one.slots), format!("{} -> {}", place(&one.from), place(&one.to))]
        })
        .collect();
    if !moving.is_empty() {
        let _ = writeln!(text, "\n{}", style.bold("slots that migrate"));
        terminal::columns(&mut text, "  ", moving, style);
    }
    text
}
