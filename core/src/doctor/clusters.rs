//! Redis Clusters: what lengthens a failover, loses data or merges clusters, and what the cluster cannot end by itself.
//! Each rests on a measured fact (`docs/facts/cluster.md`).

use std::collections::{BTreeMap, BTreeSet};

use super::facts::ReadFields;
use super::{
    Finding, FindingCode, Observation, SEE_PROCESSES, merged, pause_found, redis_cli, seen, version,
};
use crate::cluster::claims::Hastened;
use crate::cluster::judgement::{
    Fitness, JudgedNode, Judgement, NoVoters, NodeAnswer, NodeReadings, Shard, Unfit, judge,
};
use crate::cluster::order::{HASTE_TIMEOUT_MS, usual_timeout};
use crate::cluster::record::ClusterRecord;
use crate::cluster::shown::{ClusterProblem, ClusterProblemCode, ClusterStatus};
use crate::cluster::slots::{common, in_words};
use crate::cluster::table::{NodeId, Table, TableRole, TableRow};
use crate::identity::address::{Address, Zone};

/// A longer `cluster-node-timeout` is a longer outage, in ms: the first write takes one to 1.6 times as long.
const NODE_TIMEOUT_MAX_MS: u64 = 5_000;
/// Valkey that meets again by itself whatever answers at a dead node's address: from this version ...
const MEETS_AGAIN_FROM: (u64, u64) = (8, 1);
/// ... to this one.
const MEETS_AGAIN_TO: (u64, u64) = (9, 1);

/// Everything that was read of one cluster. Whatever could not be is an error in words.
pub struct ClusterFacts<'a> {
    /// What `status` shows.
    pub status: &'a ClusterStatus,
    /// What is published, where that could be read.
    pub record: Option<&'a ClusterRecord>,
    /// What every node answered.
    pub readings: &'a NodeReadings,
    /// More about each node that answers.
    pub nodes: BTreeMap<Address, NodeFacts>,
}

/// More about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The values of [`NodeFacts::SETTINGS`], or why they could not be read.
    pub config: Result<ReadFields, String>,
    /// The fields of `INFO server`, or why it could not be read.
    pub info: Result<ReadFields, String>,
    /// Why the end of a node of this host would not be seen from here, where agents act on it.
    pub death_unseen: Option<String>,
}

impl NodeFacts {
    /// The settings that are read with `CONFIG GET`.
    pub const SETTINGS: [&str; 6] = [
        "cluster-node-timeout",
        "cluster-require-full-coverage",
        "cluster-allow-reads-when-down",
        "min-replicas-to-write",
        "save",
        "appendonly",
    ];

    fn setting(&self, name: &str) -> Option<&str> {
        self.config.as_ref().ok()?.get(name).map(String::as_str)
    }
}

/// What a majority of the voters says, and their tables.
struct TableHeard<'a> {
    facts: &'a ClusterFacts<'a>,
    judged: &'a Judgement,
    tables: Vec<&'a Table>,
}

/// Finds the faults of one subject; what could not be read gives none.
type ClusterCheck = fn(&TableHeard<'_>) -> Vec<Finding>;

const CHECKS: &[ClusterCheck] = &[
    unelectable,
    self_promoted,
    silent,
    ghosts,
    strangers,
    meets_again,
    no_replica,
    one_host,
    one_zone,
    min_replicas,
    persistence,
];

/// All findings of a cluster, the worst first.
pub fn diagnose_cluster(facts: &ClusterFacts<'_>) -> Vec<Finding> {
    let judged = judge(facts.readings);
    let mut found = settings(facts);
    match &judged {
        Err(none) => found.extend(unheard(facts, none)),
        Ok(judged) => {
            let own = |answer: &&NodeAnswer| judged.voters.contains(&answer.table.own);
            let answers = facts.readings.values().flatten().filter(own);
            let heard = TableHeard { facts, judged, tables: answers.map(|a| &a.table).collect() };
            found.extend(CHECKS.iter().flat_map(|check| check(&heard)));
        }
    }
    found.extend(agents(facts));
    let ClusterStatus { pause, cluster, .. } = facts.status;
    let key = "the cluster's key `pause`".to_owned();
    found.extend(pause.iter().flat_map(|pause| pause_found(pause, cluster.as_str(), key.clone())));
    found.extend(unread(facts));
    found.extend(unexplained(facts, &found));
    let mut findings = merged(found.into_iter());
    findings.sort_by_key(|finding| (finding.severity, finding.code));
    findings
}

fn unheard(facts: &ClusterFacts<'_>, none: &NoVoters) -> Option<Finding> {
    let answers = facts.readings.iter().map(|(at, reading)| match reading {
        Ok(answer) => seen(at, format!("it is {}", answer.table.own)),
        Err(why) => seen(at, why),
    });
    let mend = "start the primaries that are down, and look at the network between them; where a majority of them is gone for \
                good, a person has to choose what counts: CLUSTER FAILOVER TAKEOVER on a replica of each";
    Some(FindingCode::ClusterNoMajority.found(none.to_string(), answers.collect(), mend))
}

/// The settings of every node that answers, whatever the voters say.
fn settings(facts: &ClusterFacts<'_>) -> Vec<Finding> {
    let found = facts.nodes.iter().flat_map(|(at, node)| {
        [
            node_timeout(at, node),
            full_coverage(at, node),
            reads_when_down(at, node),
            end_unseen(at, node),
        ]
    });
    found.flatten().chain(haste_left(facts)).collect()
}

/// While an election is hastened, nodes wait for a moment on purpose.
fn haste_left(facts: &ClusterFacts<'_>) -> Vec<Finding> {
    let hastened = facts.record.and_then(|record| record.claims.hastened.as_ref());
    let timeouts = facts.nodes.iter().filter_map(|(at, node)| {
        Some((at, node.setting("cluster-node-timeout")?.parse::<u64>().ok()?))
    });
    let timeouts: Vec<(&Address, u64)> = timeouts.collect();
    let usual = usual_timeout(timeouts.iter().map(|(_, ms)| *ms));
    let Some(usual) = usual.filter(|_| hastened.is_none_or(Hastened::is_past)) else {
        return Vec::new();
    };
    let left = timeouts.into_iter().filter(|(_, ms)| *ms == HASTE_TIMEOUT_MS);
    let found = left.map(|(at, ms)| {
        let said = format!(
            "{at} calls a node failing after {ms} ms, and most others after {usual}: agents lower it to that for the moment of an \
             election, and it was not put back here"
        );
        let mend = redis_cli(at, format!("CONFIG SET cluster-node-timeout {usual}"));
        let read = format!("cluster-node-timeout {ms}");
        FindingCode::ClusterHasteLeft.found(said, vec![seen(at, read)], mend)
    });
    found.collect()
}

fn node_timeout(at: &Address, node: &NodeFacts) -> Option<Finding> {
    let text = node.setting("cluster-node-timeout")?;
    let ms: u64 = text.parse().ok().filter(|ms| *ms > NODE_TIMEOUT_MAX_MS)?;
    let said = format!(
        "{at} waits {ms} ms for a node before it calls it failing: when a primary dies, all or some slots are not served for \
         that long and up to 1.6 times as long"
    );
    let mend = redis_cli(at, format!("CONFIG SET cluster-node-timeout {NODE_TIMEOUT_MAX_MS}"));
    let read = format!("cluster-node-timeout {text}");
    Some(FindingCode::ClusterNodeTimeout.found(said, vec![seen(at, read)], mend))
}

fn full_coverage(at: &Address, node: &NodeFacts) -> Option<Finding> {
    (node.setting("cluster-require-full-coverage")? == "yes").then_some(())?;
    let said = format!("{at} refuses all requests while any shard has no primary");
    let mend = redis_cli(at, "CONFIG SET cluster-require-full-coverage no");
    let read = "cluster-require-full-coverage yes";
    Some(FindingCode::ClusterFullCoverage.found(said, vec![seen(at, read)], mend))
}

fn reads_when_down(at: &Address, node: &NodeFacts) -> Option<Finding> {
    (node.setting("cluster-allow-reads-when-down")? == "yes").then_some(())?;
    let said =
        format!("{at} goes on answering reads with old data while it is cut off from the majority");
    let mend = redis_cli(at, "CONFIG SET cluster-allow-reads-when-down no");
    let read = "cluster-allow-reads-when-down yes";
    Some(FindingCode::ClusterReadsWhenDown.found(said, vec![seen(at, read)], mend))
}

fn end_unseen(at: &Address, node: &NodeFacts) -> Option<Finding> {
    let why = node.death_unseen.as_ref()?;
    let said = format!(
        "the end of {at} is not seen at once by an agent that runs like this command: its successor is elected at once only where \
         agents on other hosts are refused connections"
    );
    Some(FindingCode::DeathUnseen.found(said, vec![seen(at, why)], SEE_PROCESSES))
}

impl<'a> TableHeard<'a> {
    fn answer(&self, at: &Address) -> Option<&'a NodeAnswer> {
        self.facts.readings.get(at)?.as_ref().ok()
    }

    fn more(&self, at: &Address) -> Option<&'a NodeFacts> {
        self.facts.nodes.get(at)
    }

    /// What the voters that answer say of one node.
    fn rows(&self, id: &NodeId) -> Vec<(&'a NodeId, &'a TableRow)> {
        let tables = self.tables.iter();
        tables.filter_map(|table| Some((&table.own, table.rows.get(id)?))).collect()
    }

    /// So many of the voters, of whom not all may answer.
    fn are_majority(&self, count: usize) -> bool {
        count * 2 > self.judged.voters.len()
    }

    fn voters(&self) -> usize {
        self.judged.voters.len()
    }

    /// The node that owns slots for the majority, where it was asked.
    fn owner_of(&self, shard: &Shard) -> Option<&'a JudgedNode> {
        self.judged.nodes.iter().find(|node| node.id.as_ref() == Some(&shard.owner))
    }

    /// The replicas of an owner, as the majority has them.
    fn replicas_of(&self, owner: &NodeId) -> impl Iterator<Item = &'a JudgedNode> {
        let follows = move |node: &&JudgedNode| {
            node.owner.as_ref() == Some(owner) && node.id.as_ref() != Some(owner)
        };
        self.judged.nodes.iter().filter(follows).collect::<Vec<_>>().into_iter()
    }

    /// The zone of a member, where an agent has said it.
    fn zone(&self, id: &NodeId) -> Option<&'a Zone> {
        self.facts.record?.nodes.get(id)?.zone.as_ref()
    }

    fn zone_of(&self, node: &JudgedNode) -> Option<&'a Zone> {
        self.zone(node.id.as_ref()?)
    }

    /// Where a node answers, or the voters have it.
    fn address_of(&self, id: &NodeId) -> String {
        let known = self.rows(id).into_iter().find_map(|(_, row)| row.address.as_ref());
        known.map_or_else(|| id.to_string(), ToString::to_string)
    }
}

/// A dead primary was forgotten before its replica was elected (facts 0.10): no voter knows whose slots it asks for.
fn unelectable(heard: &TableHeard<'_>) -> Vec<Finding> {
    let Judgement { unowned, nodes, .. } = heard.judged;
    if unowned.is_empty() {
        return Vec::new();
    }
    let found = nodes.iter().filter_map(|node| {
        let answer = heard.answer(&node.address)?;
        let own = answer.table.own_row()?;
        let TableRole::Replica(of) = &own.role else { return None };
        let knowing = heard.rows(of).len();
        if heard.are_majority(knowing) || !heard.are_majority(heard.rows(&own.id).len()) {
            return None;
        }
        let at = &node.address;
        let text = format!(
            "{at} follows {of}, which the voters have forgotten: they elect no replica of a primary that they do not know, and \
             slots {} stay without an owner",
            in_words(unowned)
        );
        let mend = format!(
            "where {of} is gone for good, decide it by hand: {}; its data is what the slots then hold",
            redis_cli(at, "CLUSTER FAILOVER TAKEOVER")
        );
        let read = format!("{knowing} of {} voters know {of}", heard.voters());
        Some(FindingCode::ClusterUnelectable.found(text, vec![seen(at, read)], mend))
    });
    found.collect()
}

/// A node that made itself a primary by votes of an election before (facts 2.5): no voter's table gives it a slot, and
/// the owner that they name does not answer. Where that answers, it is a replaced primary, which finds out by itself.
fn self_promoted(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.nodes.iter().filter_map(|node| {
        let Fitness::Unfit(Unfit::Replaced(slots)) = &node.fitness else { return None };
        let id = node.id.as_ref()?;
        let names = |(_, row): &(&NodeId, &TableRow)| !row.slots.is_empty();
        if heard.rows(id).iter().any(names) {
            return None;
        }
        let overlaps = |shard: &&Shard| !common(&shard.slots, slots).is_empty();
        let shard = heard.judged.shards.iter().find(overlaps)?;
        if heard.owner_of(shard).is_some_and(|owner| heard.answer(&owner.address).is_some()) {
            return None;
        }
        let (at, owner) = (&node.address, heard.address_of(&shard.owner));
        let text = format!(
            "{at} says that it is the primary of slots {}, and no voter does: for them the owner is {owner}, which does not \
             answer. It takes writes that the others do not follow",
            in_words(slots)
        );
        let mend = format!(
            "decide it by hand: where {owner} is dead for good, {} makes the others follow; where it can be started again, start \
             it, and the writes on {at} since then are lost",
            redis_cli(at, "CLUSTER BUMPEPOCH")
        );
        let read = format!("myself,master with slots {}", in_words(slots));
        Some(FindingCode::ClusterSelfPromoted.found(text, vec![seen(at, read)], mend))
    });
    found.collect()
}

/// The voters do not call it failing, and it does not answer where they have it.
fn silent(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.nodes.iter().filter_map(|node| {
        let Err(why) = heard.facts.readings.get(&node.address)? else { return None };
        let id = node.id.as_ref()?;
        let here = |row: &TableRow| row.is_well() && row.address.as_ref() == Some(&node.address);
        let well = heard.rows(id).into_iter().filter(|(_, row)| here(row)).count();
        if !heard.are_majority(well) {
            return None;
        }
        let at = &node.address;
        let text = format!(
            "{at} ({id}) does not answer, and {well} of {} voters do not call it failing: clients are sent there",
            heard.voters()
        );
        let elsewhere = heard.judged.nodes.iter().find(|other| {
            heard.answer(&other.address).is_some_and(|answer| answer.table.own == *id)
        });
        let mend = match elsewhere {
            Some(own) => format!(
                "it answers at {}: {}",
                own.address,
                redis_cli(&own.address, format!("CONFIG SET cluster-announce-ip {}", own.address.host()))
            ),
            None => "it has died within the last cluster-node-timeout, or cluster-announce-ip on it is wrong, or the network \
                     from here to it"
                .to_owned(),
        };
        Some(FindingCode::ClusterNodeSilent.found(text, vec![seen(at, why)], mend))
    });
    found.collect()
}

/// It knows the voters, and they do not know it.
fn ghosts(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.nodes.iter().filter_map(|node| {
        let Fitness::Unfit(Unfit::Unlisted(votes)) = &node.fitness else { return None };
        let answer = heard.answer(&node.address)?;
        let knows = |voter: &NodeId| answer.table.rows.contains_key(voter);
        if !heard.judged.voters.iter().any(knows) {
            return None;
        }
        let at = &node.address;
        let says = if answer.state_ok { "ok" } else { "fail" };
        let text = format!(
            "{at} takes itself for a member, and {votes} know it: they have forgotten it, and it goes on as if nothing had \
             happened"
        );
        // For 60 s what was forgotten comes back by the word of no other node; from Redis 7.2 on the others have it
        // forgotten again for as long.
        let meet = |voter: &NodeId| {
            let known = heard.rows(voter).into_iter().find_map(|(_, row)| row.address.clone());
            let from = known.filter(|from| heard.answer(from).is_some())?;
            Some(redis_cli(&from, format!("CLUSTER MEET {} {}", at.host(), at.port())))
        };
        let back: Vec<String> = heard.judged.voters.iter().filter_map(meet).collect();
        let mend = format!(
            "to have it back, and again 60 s after it was forgotten where it does not stay: {}; to be rid of it: stop it, or {}",
            back.join("; "),
            redis_cli(at, "CLUSTER RESET HARD")
        );
        let read = format!("cluster_state:{says}");
        Some(FindingCode::ClusterGhost.found(text, vec![seen(at, read)], mend))
    });
    found.collect()
}

/// A voter knows a node that is not recorded. Agents record whom a majority knows, within a second.
fn strangers(heard: &TableHeard<'_>) -> Vec<Finding> {
    let Some(record) = heard.facts.record.filter(|record| !record.nodes.is_empty()) else {
        return Vec::new();
    };
    let ids: BTreeSet<&NodeId> = heard.tables.iter().flat_map(|table| table.rows.keys()).collect();
    let found = ids.into_iter().filter(|id| !record.nodes.contains_key(*id)).filter_map(|id| {
        let rows: Vec<_> = heard.rows(id).into_iter().filter(|(_, row)| !row.outside).collect();
        if rows.is_empty() {
            return None;
        }
        let at = heard.address_of(id);
        let owns = rows.iter().any(|(_, row)| !row.slots.is_empty());
        let more = if owns { ", with slots of its own: two clusters may have merged" } else { "" };
        let text = format!(
            "node {id} at {at} is in the tables of {} of {} voters, and no agent has recorded it{more}",
            rows.len(),
            heard.voters()
        );
        let from = format!("the table of {}", rows.first()?.0);
        let mend = format!(
            "where it belongs here, start an agent, or look again in a few seconds; where it does not, before it gets slots or \
             a replica's role: CLUSTER FORGET {} on every other node, within 60 s",
            id.as_str()
        );
        Some(FindingCode::ClusterStranger.found(text, vec![seen(from, at)], mend))
    });
    found.collect()
}

/// Valkey sends MEET by itself to a dead node's address (facts 0.5).
fn meets_again(heard: &TableHeard<'_>) -> Vec<Finding> {
    let affected: Vec<(&Address, String)> = heard
        .facts
        .nodes
        .iter()
        .filter_map(|(at, node)| {
            let said = node.info.as_ref().ok()?.get("valkey_version")?;
            let (major, minor, _) = version(said)?;
            let within = (MEETS_AGAIN_FROM..=MEETS_AGAIN_TO).contains(&(major, minor));
            within.then(|| (at, format!("valkey_version {said}")))
        })
        .collect();
    let Some((first, read)) = affected.first() else { return Vec::new() };
    let dead = heard.judged.nodes.iter().filter_map(|node| {
        let id = node.id.as_ref()?;
        let failing = heard.rows(id).into_iter().filter(|(_, row)| row.failing).count();
        let silent = heard.answer(&node.address).is_none();
        if !silent || !heard.are_majority(failing) {
            return None;
        }
        let at = &node.address;
        let text = format!(
            "{at} ({id}) is dead and not forgotten: Valkey 8.1 to 9.1 sends MEET to its address by itself, and when a node of \
             another cluster gets that address, both clusters merge and lose half of their keys"
        );
        let mend = format!(
            "start it again; where it is gone for good, once its slots have another owner, on every other node: CLUSTER FORGET \
             {}",
            id.as_str()
        );
        let read = vec![seen(at, format!("{failing} voters call it failing")), seen(first, read)];
        Some(FindingCode::ClusterNotForgotten.found(text, read, mend))
    });
    dead.collect()
}

fn no_replica(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.shards.iter().filter_map(|shard| {
        let fit = |node: &JudgedNode| node.fitness == Fitness::Replica;
        if heard.replicas_of(&shard.owner).any(fit) {
            return None;
        }
        let owner = heard.address_of(&shard.owner);
        let text = format!(
            "slots {} have no replica that could take over from {owner}",
            in_words(&shard.slots)
        );
        let unfit = heard.replicas_of(&shard.owner).filter_map(|node| match &node.fitness {
            Fitness::Unfit(why) => Some(seen(&node.address, why)),
            _ => None,
        });
        let unfit: Vec<Observation> = unfit.collect();
        let evidence =
            if unfit.is_empty() { vec![seen(&owner, "no node follows it")] } else { unfit };
        let id = shard.owner.as_str();
        let mend = format!("start its replica again, or on another node: CLUSTER REPLICATE {id}");
        Some(FindingCode::ClusterNoReplica.found(text, evidence, mend))
    });
    found.collect()
}

fn one_host(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.shards.iter().filter_map(|shard| {
        let owner = &heard.owner_of(shard)?.address;
        let replicas: Vec<&Address> =
            heard.replicas_of(&shard.owner).map(|node| &node.address).collect();
        if replicas.is_empty() || replicas.iter().any(|at| at.host() != owner.host()) {
            return None;
        }
        let text = format!(
            "the primary of slots {} and all its replicas are on {}: when that host is gone, so is all of them",
            in_words(&shard.slots),
            owner.host()
        );
        let mut evidence = vec![seen(owner, "primary")];
        evidence.extend(replicas.iter().map(|at| seen(at, "replica")));
        let mend = "have replicas change places with those of another shard: CLUSTER REPLICATE on each";
        Some(FindingCode::ClusterOneHost.found(text, evidence, mend))
    });
    found.collect()
}

/// A node that does not lead, as doctor would have it elsewhere.
struct Exchange<'a> {
    at: &'a Address,
    zone: &'a Zone,
    /// Whom it follows; a spare follows no node.
    of: Option<&'a NodeId>,
}

fn one_zone(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.shards.iter().filter_map(|shard| {
        let owner = &heard.owner_of(shard)?.address;
        let zone = heard.zone(&shard.owner)?;
        let replicas: Vec<&JudgedNode> = heard.replicas_of(&shard.owner).collect();
        let here = |node: &&JudgedNode| heard.zone_of(node) == Some(zone);
        let first = replicas.first().copied()?;
        if !replicas.iter().all(here) {
            return None;
        }
        let other = elsewhere(heard, shard, zone)?;
        let text = format!(
            "the primary of slots {} and all its replicas are in zone {zone}: when that zone is gone, so is all of them; {}, in zone \
             {}, could be a replica of it",
            in_words(&shard.slots),
            other.at,
            other.zone
        );
        let mut evidence = vec![seen(owner, format!("primary, zone {zone}"))];
        evidence.extend(replicas.iter().map(|n| seen(&n.address, format!("replica, zone {zone}"))));
        let replicate = |at: &Address, of: &NodeId| {
            redis_cli(at, format!("CLUSTER REPLICATE {}", of.as_str()))
        };
        let to = replicate(other.at, &shard.owner);
        let mend = match other.of {
            Some(of) => format!("{to}; then {}", replicate(&first.address, of)),
            None => to,
        };
        Some(FindingCode::ClusterOneZone.found(text, evidence, mend))
    });
    found.collect()
}

/// A node of another zone that could be a replica of this shard: a spare, or a replica of another one that is not led in
/// this zone or has more replicas than that.
fn elsewhere<'a>(heard: &TableHeard<'a>, shard: &Shard, zone: &Zone) -> Option<Exchange<'a>> {
    let found = heard.judged.nodes.iter().filter_map(|node| {
        let its = heard.zone_of(node).filter(|its| *its != zone)?;
        let own = heard.answer(&node.address)?.table.own_row()?;
        match (&own.role, &node.owner) {
            (TableRole::Replica(_), Some(of)) if *of != shard.owner => {
                let apart = heard.zone(of) != Some(zone) || heard.replicas_of(of).count() > 1;
                apart.then_some(Exchange { at: &node.address, zone: its, of: Some(of) })
            }
            (TableRole::Primary, _) if own.slots.is_empty() => {
                Some(Exchange { at: &node.address, zone: its, of: None })
            }
            _ => None,
        }
    });
    found.min_by_key(|exchange| exchange.of.is_some())
}

/// With one replica a shard, its loss stops the writes.
fn min_replicas(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.shards.iter().filter_map(|shard| {
        let owner = &heard.owner_of(shard)?.address;
        let text = heard.more(owner)?.setting("min-replicas-to-write")?;
        let wanted: usize = text.parse().ok().filter(|wanted| *wanted > 0)?;
        let replicas = heard.replicas_of(&shard.owner).count();
        if wanted < replicas {
            return None;
        }
        let said = format!(
            "{owner} refuses writes without {wanted} replicas, and has {replicas}: when one is lost, or takes over, its slots \
             take no writes"
        );
        let mend = redis_cli(owner, "CONFIG SET min-replicas-to-write 0");
        let read = format!("min-replicas-to-write {text}");
        Some(FindingCode::ClusterMinReplicas.found(said, vec![seen(owner, read)], mend))
    });
    found.collect()
}

/// A primary that restarts empty within the node timeout keeps its role, and empties its replica (facts 0.11).
fn persistence(heard: &TableHeard<'_>) -> Vec<Finding> {
    let found = heard.judged.shards.iter().filter_map(|shard| {
        let owner = &heard.owner_of(shard)?.address;
        let node = heard.more(owner)?;
        let (save, append) = (node.setting("save")?, node.setting("appendonly")?);
        if !save.is_empty() || append != "no" {
            return None;
        }
        let text = format!(
            "{owner} keeps nothing on disk: when it restarts empty within cluster-node-timeout, it stays the primary, and its \
             replicas are emptied, too"
        );
        let mend = format!(
            "{}; or have its service manager wait for longer than cluster-node-timeout before it starts it again",
            redis_cli(owner, "CONFIG SET appendonly yes")
        );
        let read = "save \"\", appendonly no";
        Some(FindingCode::ClusterPersistenceOff.found(text, vec![seen(owner, read)], mend))
    });
    found.collect()
}

fn agents(facts: &ClusterFacts<'_>) -> Vec<Finding> {
    let ClusterStatus { consul_read, agents, cluster, .. } = facts.status;
    if !consul_read {
        return Vec::new();
    }
    let mend = "start consul-redis agent on another host, with this [[cluster]] in its config";
    match &agents[..] {
        [] => {
            let text =
                format!("no agent watches the cluster {cluster}: what is published stays as it is");
            let mend = "start consul-redis agent with this [[cluster]] in its config";
            vec![FindingCode::NoAgents.found(
                text,
                vec![seen("its agents in Consul", "none")],
                mend,
            )]
        }
        [only] => {
            let text =
                "one agent alone watches the cluster: when it stops, its names stay as they are";
            vec![FindingCode::OneAgent.found(text, vec![seen("its agents in Consul", only)], mend)]
        }
        [..] => Vec::new(),
    }
}

fn unread(facts: &ClusterFacts<'_>) -> Vec<Finding> {
    let found = facts.nodes.iter().filter_map(|(at, node)| {
        let why = node.config.as_ref().err().or(node.info.as_ref().err())?;
        let text = format!("{at} does not tell its settings: they were not checked");
        let mend = format!("a login that may do this: {}", redis_cli(at, "CONFIG GET save"));
        Some(FindingCode::Unread.found(text, vec![seen(at, why)], mend))
    });
    found.collect()
}

/// What `status` shows, and no finding is about.
fn unexplained(facts: &ClusterFacts<'_>, found: &[Finding]) -> Vec<Finding> {
    use ClusterProblemCode as Problem;
    let has = |codes: &[FindingCode]| found.iter().any(|finding| codes.contains(&finding.code));
    let explained = |code: Problem| match code {
        Problem::NoAgents => has(&[FindingCode::NoAgents]),
        Problem::Paused => has(&[FindingCode::Paused]),
        Problem::NoReplica => has(&[FindingCode::ClusterNoReplica]),
        Problem::NoMajority => has(&[FindingCode::ClusterNoMajority]),
        Problem::NodesUnfit => has(&[
            FindingCode::ClusterNoReplica,
            FindingCode::ClusterNodeSilent,
            FindingCode::ClusterNotForgotten,
            FindingCode::ClusterNoMajority,
        ]),
        Problem::SlotsUnserved => has(&[
            FindingCode::ClusterNoMajority,
            FindingCode::ClusterUnelectable,
            FindingCode::ClusterSelfPromoted,
        ]),
        Problem::StateUnreadable
        | Problem::NothingPublished
        | Problem::Held
        | Problem::LeftUndone
        | Problem::Drift
        | Problem::ForeignNode
        | Problem::ConsulRefuses
        | Problem::ConsulLogin
        | Problem::ConsulUnread => false,
    };
    let open = facts.status.problems.iter().filter(|problem| !explained(problem.code));
    let say = |problem: &ClusterProblem| {
        let read = vec![seen("consul-redis status", problem.code.as_str())];
        let mend = format!("docs/cluster.md says what {} means", problem.code.as_str());
        let code = match problem.code.only_degrades() {
            true => FindingCode::ClusterDegraded,
            false => FindingCode::NotHealthy,
        };
        code.found(&problem.text, read, mend)
    };
    open.map(say).collect()
}
