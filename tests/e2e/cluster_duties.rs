//! What agents do to a Redis Cluster of real nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consul_redis::cluster::ask;
use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::{LabServer, patiently};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings, TlsSettings};
use consul_redis::secret::SecretSource;
use nix::sys::signal::Signal;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{
    AT_ONCE, CALM, NODE_TIMEOUT_MS, REPLACED_WITHIN, ats, blank_alone, state, text_of,
    until_all_named, until_answers, until_calm,
};
use crate::cures::apart;
use crate::logins::certificates;
use crate::support::{
    agent, http_address, logs, off_schema, run, text, until_logged, until_metric, until_named,
    world,
};

/// An agent with one cluster, and what else its config has.
fn cluster_agent(world: &World, name: &str, seeds: &[&LabServer], more: &str) -> Process {
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{}\"", seed.address)).collect();
    let seeds = match seeds.is_empty() {
        true => String::new(),
        false => format!("seeds = [{}]\n", seeds.join(", ")),
    };
    let table = format!("[[cluster]]\nname = \"orders\"\n{seeds}{more}");
    let path = world.dir().join(format!("{name}.toml"));
    std::fs::write(&path, table).unwrap();
    let args = ["--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    agent(world, name, &args, &[("CONSUL_REDIS_SENTINELS", "")])
}

/// The node beside an agent.
fn beside(node: &LabServer) -> String {
    format!("[[redis]]\naddress = \"{}\"\ncluster = \"orders\"\n", node.address)
}

/// What is under way, as `state` has it.
async fn claims(world: &World) -> Value {
    state(world).await["claims"].clone()
}

async fn until_nothing_is_under_way(world: &World) {
    until("nothing is under way", REPLACED_WITHIN, || async {
        let claims = claims(world).await;
        let busy = ["making", "joining", "hastened", "leaving"];
        match busy.iter().any(|what| !claims[what].is_null()) {
            false => Ok(()),
            true => Err(LabError(format!("{claims:#}"))),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
pub async fn blank_nodes_become_a_cluster_by_themselves_and_keep_their_places() {
    let (world, mut cluster) = blank_alone().await;
    let seeds: Vec<&LabServer> = cluster.nodes.iter().collect();
    let planned = plan_of(&world, &seeds);
    assert!(planned.contains("3 shards of 6 nodes"), "{planned}");
    assert_eq!(state(&world).await, Value::Null, "a plan changes nothing");
    let more = "expect = 6\nreplicas = 1\nfast_failover = \"off\"\n";
    let mut agents: Vec<Process> =
        (0..3).map(|n| cluster_agent(&world, &format!("agent-{n}"), &seeds, more)).collect();
    until("the plan is recorded", AT_ONCE, || async {
        let claims = claims(&world).await;
        if claims["making"].is_null() { Err(LabError(format!("{claims}"))) } else { Ok(()) }
    })
    .await
    .unwrap();
    // Whoever began it dies: another one goes on.
    let by = claims(&world).await["making"]["begun"]["by"].as_str().unwrap_or("agent-0").to_owned();
    let first = agents.iter().position(|agent| agent.name() == by).unwrap();
    agents[first].kill();
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_nothing_is_under_way(&world).await;
    let slots = world.consul.key("redis-ha/cluster/orders/slots").await.unwrap().unwrap();
    assert_eq!(slots.lines().count(), 3, "{slots}");
    assert!(slots.starts_with("0-5460 ") && slots.contains("\n5461-10921 "), "{slots}");
    let before = until_calm(&world).await;
    let names: Vec<String> = world.consul.passing("orders-replica").await.unwrap();
    let replica = cluster.nodes.iter_mut().find(|n| n.address.to_string() == names[0]).unwrap();
    replica.restart().await.unwrap();
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 6).await;
    assert!(until_calm(&world).await >= before, "{}", logs(&agents));
}

/// "Redis High Availability Options", Redis Cluster: masters and slaves that know one another, an agent on each node that
/// advertises it as available for taking requests, and a client that goes to any of them and is told where to go.
#[tokio::test]
pub async fn redis_high_availability_options_redis_cluster_with_an_agent_on_each_node() {
    let (mut world, mut cluster) = blank_alone().await;
    let names = ["node-6", "node-7", "node-8"];
    let more = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    cluster.nodes.extend(more.nodes);
    let agents: Vec<Process> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(n, node)| {
            let more = format!("expect = 9\nshards = 4\n{}", beside(node));
            cluster_agent(&world, &format!("agent-{n}"), &[], &more)
        })
        .collect();
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 9).await;
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 4).await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 5).await;
    until_nothing_is_under_way(&world).await;
    let primaries: Vec<String> = world.consul.passing("orders-primary").await.unwrap();
    // Whichever node it asks, it is served, or told who serves it.
    for node in &cluster.nodes {
        if let Err(LabError(said)) = node.ask(&["SET", "cart:7", "of one"]).await {
            let owner = cluster.nodes.iter().find(|n| said.contains(&n.address.to_string()));
            let owner = owner.unwrap_or_else(|| panic!("{said}"));
            assert!(primaries.contains(&owner.address.to_string()), "{said}: {primaries:?}");
            owner.ask(&["SET", "cart:7", "of one"]).await.unwrap();
        }
    }
    until_calm(&world).await;
    let its = primaries[0].clone();
    let node = cluster.nodes.iter().position(|node| node.address.to_string() == its).unwrap();
    cluster.nodes[node].kill();
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| {
        found.len() == 4 && !found.contains(&its)
    })
    .await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| {
        found.len() == 8 && !found.contains(&its)
    })
    .await;
    cluster.nodes[node].restart().await.unwrap();
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&its)).await;
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found.len() == 9).await;
    drop(agents);
}

/// The rights that docs/cluster.md asks for, and no others, over TLS alone.
#[tokio::test]
pub async fn over_tls_and_with_its_own_user_an_agent_makes_a_cluster_and_hastens_an_election() {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md")).unwrap();
    let rights = |after: &str| {
        let (_, rest) = document.split_once(after).unwrap_or_else(|| panic!("{after}"));
        rest.split('`').next().unwrap().to_owned()
    };
    let rights = format!(
        "{} {}",
        rights("The login that agents use on the nodes needs `"),
        rights("and unless `manage = false`, agents need `")
    );
    assert!(rights.contains("+cluster|meet") && !rights.contains("@all"), "{rights}");
    let (mut world, _) = blank_alone().await;
    let tls = certificates(world.dir());
    let (ca, cert, key) = (tls.ca.display(), tls.cert.display(), tls.key.display());
    let more = format!(
        "port 0\ntls-port {{port}}\ntls-ca-cert-file {ca}\ntls-cert-file {cert}\ntls-key-file {key}\n\
         tls-replication yes\ntls-cluster yes\nuser default off\nuser operator on >lab-secret ~* &* +@all\n\
         user agent on >agent-secret {rights}\nmasteruser operator\nmasterauth lab-secret\n"
    );
    let login = LinkSettings {
        username: Some("operator".to_owned()),
        password: SecretSource::Value(SecretString::from("lab-secret")),
        tls: Some(TlsSettings {
            ca_cert: Some(tls.ca.clone()),
            client_cert: Some((tls.cert.clone(), tls.key.clone())),
            server_name: Some(tls.name.clone()),
        }),
        ..LinkSettings::default()
    };
    let names = ["tls-0", "tls-1", "tls-2", "tls-3", "tls-4", "tls-5"];
    let nodes =
        LabCluster::start_blank_with(&mut world, &names, NODE_TIMEOUT_MS, &more, &login).await;
    let mut nodes = nodes.unwrap().nodes;
    let plain = LinkSettings { tls: None, ..login };
    assert!(Link::open(&nodes[0].address, &plain).await.is_err(), "it speaks plain text");
    let seeds: Vec<&LabServer> = nodes.iter().collect();
    let password = world.dir().join("agent-password");
    std::fs::write(&password, "agent-secret\n").unwrap();
    let more = format!(
        "expect = 6\nreplicas = 1\n[instances]\nusername = \"agent\"\npassword_file = \"{}\"\n\
         ca_cert = \"{ca}\"\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"\nserver_name = \"{}\"\n",
        password.display(),
        tls.name
    );
    let agents: Vec<Process> =
        (0..2).map(|n| cluster_agent(&world, &format!("agent-{n}"), &seeds, &more)).collect();
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_nothing_is_under_way(&world).await;
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 1_000)).await;
    until_calm(&world).await;
    let its = world.consul.passing("orders-primary").await.unwrap().remove(0);
    let dead = nodes.iter().position(|node| node.address.to_string() == its).unwrap();
    nodes[dead].kill();
    let words = "has died: the others wait for a moment only";
    until_logged(|| logs(&agents), 20, words, 1).await;
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| {
        found.len() == 3 && !found.contains(&its)
    })
    .await;
    nodes[dead].restart().await.unwrap();
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&its)).await;
    until_nothing_is_under_way(&world).await;
    let log = logs(&agents);
    assert!(!log.contains("secret") && !log.contains("NOPERM"), "{log}");
}

/// Who would become what.
fn plan_of(world: &World, seeds: &[&LabServer]) -> String {
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{}\"", seed.address)).collect();
    let table = format!(
        "[[cluster]]\nname = \"orders\"\nseeds = [{}]\nexpect = 6\nreplicas = 1\n",
        seeds.join(", ")
    );
    let path = world.dir().join("plan.toml");
    std::fs::write(&path, table).unwrap();
    let path = path.to_str().unwrap();
    text(&run(world, &["--config", path, "cluster", "create", "orders", "--plan"], &[]))
}

#[tokio::test]
pub async fn where_one_of_the_nodes_has_keys_no_cluster_is_made() {
    let (world, cluster) = blank_alone().await;
    // As of a server that was no node of a cluster before.
    let full = &cluster.nodes[2];
    full.ask(&["CLUSTER", "ADDSLOTS", "0"]).await.unwrap();
    let seeds: Vec<&LabServer> = cluster.nodes.iter().collect();
    let agents = [cluster_agent(&world, "agent-0", &seeds, "expect = 6\n")];
    let words = format!("the cluster is not made yet: {} is no blank node", full.address);
    until_logged(|| logs(&agents), 20, &words, 1).await;
    tokio::time::sleep(CALM).await;
    assert_eq!(state(&world).await, Value::Null);
    for node in &cluster.nodes {
        let known = ask(&node.address, &patiently(&node.login)).await.unwrap().table.rows.len();
        assert_eq!(known, 1, "{}", node.name());
    }
}

/// As where a firewall lets the clients' port through, and not the bus.
#[tokio::test]
pub async fn nodes_that_do_not_find_one_another_are_named_and_once_they_are_reset_planned_anew() {
    let (world, cluster) = blank_alone().await;
    let away = &cluster.nodes[5];
    let bus = "cluster-announce-bus-port";
    away.ask(&["CONFIG", "SET", bus, "1"]).await.unwrap();
    let seeds: Vec<&LabServer> = cluster.nodes.iter().collect();
    let more = "expect = 6\nreplicas = 1\nfast_failover = \"off\"\n";
    let agents = [cluster_agent(&world, "agent-0", &seeds, more)];
    let words = format!("does not know {}", away.address);
    until_logged(|| logs(&agents), 90, &words, 1).await;
    let log = logs(&agents);
    assert!(log.contains("nothing has come of it for 30 s") && log.contains("bus port"), "{log}");
    let planned = claims(&world).await["making"]["shards"].to_string();
    away.ask(&["CONFIG", "SET", bus, "0"]).await.unwrap();
    for node in &cluster.nodes {
        node.ask(&["CLUSTER", "RESET", "HARD"]).await.unwrap();
    }
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.len() == 3).await;
    until_nothing_is_under_way(&world).await;
    for node in &cluster.nodes {
        assert!(!planned.contains(&id(node).await.unwrap()), "{planned}\n{}", logs(&agents));
    }
}

#[tokio::test]
pub async fn a_blank_node_beside_an_agent_joins_and_one_that_no_agent_is_beside_does_not() {
    let (mut world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let new = LabCluster::start_blank(&mut world, &["node-6", "node-7"], NODE_TIMEOUT_MS).await;
    let new = new.unwrap().nodes;
    let last = cluster.nodes.last().unwrap();
    let off = "fast_failover = \"off\"\n";
    let more = format!("{off}{}", beside(&new[0]));
    let agents = [
        cluster_agent(&world, "agent-0", &[last, &new[1]], off),
        cluster_agent(&world, "agent-1", &[last], &more),
    ];
    let its = new[0].address.to_string();
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found.contains(&its)).await;
    until_nothing_is_under_way(&world).await;
    assert_eq!(world.consul.passing("orders-replica").await.unwrap().len(), 4, "{}", logs(&agents));
    let other = ask(&new[1].address, &patiently(&new[1].login)).await.unwrap();
    assert!(other.is_blank(), "{other:?}");
    let log = logs(&agents);
    let met: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("is told: CLUSTER MEET ").map(|l| l.1))
        .collect();
    assert!(!met.is_empty() && met.iter().all(|line| line.starts_with(&its)), "{log}");
}

#[tokio::test]
pub async fn all_nodes_at_new_addresses_find_one_another_again() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let off = "fast_failover = \"off\"\n";
    let old = [cluster_agent(&world, "agent-0", &[&cluster.nodes[0]], off)];
    until_all_named(&world, &cluster).await;
    let ids = {
        let mut ids = Vec::new();
        for node in &cluster.nodes {
            ids.push(id(node).await.unwrap());
        }
        ids
    };
    cluster.move_all(&mut world, NODE_TIMEOUT_MS).await.unwrap();
    let seeds: Vec<&LabServer> = cluster.nodes.iter().collect();
    let agents = [cluster_agent(&world, "agent-1", &seeds, off)];
    let all = ats(&seeds);
    until_answers(&world, "orders", REPLACED_WITHIN * 2, |found| found == all).await;
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found.len() == 3).await;
    for (node, its) in cluster.nodes.iter().zip(&ids) {
        assert_eq!(&id(node).await.unwrap(), its);
        let link = text_of(node, &["INFO", "replication"]).await;
        assert!(!link.contains("master_link_status:down"), "{link}");
    }
    drop((old, agents));
}

#[tokio::test]
pub async fn a_primary_that_dies_is_replaced_while_the_others_wait_for_a_moment_only() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let last = cluster.nodes.last().unwrap();
    let agents: Vec<Process> =
        (0..3).map(|n| cluster_agent(&world, &format!("agent-{n}"), &[last], "")).collect();
    until_all_named(&world, &cluster).await;
    // It must have owned its slots for four times what the nodes wait for.
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 1_000)).await;
    until_calm(&world).await;
    cluster.nodes[0].kill();
    let nodes = &cluster.nodes;
    let words = "has died: the others wait for a moment only";
    until_logged(|| logs(&agents), 20, words, 1).await;
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| {
        found.len() == 3 && found.contains(&nodes[3].address.to_string())
    })
    .await;
    until_nothing_is_under_way(&world).await;
    for node in &nodes[1..] {
        let said = text_of_setting(node).await;
        assert_eq!(said, NODE_TIMEOUT_MS.to_string(), "{}: {}", node.name(), logs(&agents));
    }
}

/// What the kernel says to the agent beside it is enough: the others leave a death to the nodes' own pace here.
#[tokio::test]
pub async fn a_primary_whose_process_ends_is_replaced_by_the_word_of_its_hosts_kernel() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let agents: Vec<Process> = (0..6)
        .map(|n| {
            let pace = if n == 0 { "" } else { "fast_failover = \"off\"\n" };
            let more = format!("{pace}{}", beside(&cluster.nodes[n]));
            cluster_agent(&world, &format!("agent-{n}"), &[], &more)
        })
        .collect();
    until_all_named(&world, &cluster).await;
    let (its, pid) = (cluster.nodes[0].address.to_string(), cluster.nodes[0].id().unwrap());
    let said = format!("the end of process {pid} of {its} would be seen at once");
    until_logged(|| logs(&agents), 20, &said, 1).await;
    ends_are_shown(&world, &cluster.nodes[0]);
    let url = http_address(&agents[0]).await;
    let shard = crate::cluster::shard_of(&world, &cluster.nodes[0]).await;
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 1_000)).await;
    until_calm(&world).await;
    cluster.nodes[0].kill();
    let proven = format!(
        "has died: the others wait for a moment only (its process {pid} has ended, as agent-0 sees)"
    );
    until_logged(|| logs(&agents), 20, &proven, 1).await;
    let next = cluster.nodes[3].address.to_string();
    let name = format!("shard-{shard}.orders-primary.service.consul");
    until(&name, REPLACED_WITHIN, || async {
        let found = world.consul.names()?.srv(&name).await.map_err(LabError::new)?;
        let ports: Vec<u16> = found.into_iter().map(|(_, port)| port).collect();
        match ports == [cluster.nodes[3].address.port()] {
            true => Ok(()),
            false => Err(LabError(format!("{ports:?}, not {next}"))),
        }
    })
    .await
    .unwrap();
    until_nothing_is_under_way(&world).await;
    for node in &cluster.nodes[1..] {
        let said = text_of_setting(node).await;
        assert_eq!(said, NODE_TIMEOUT_MS.to_string(), "{}: {}", node.name(), logs(&agents));
    }
    for outcome in ["voting", "replaced"] {
        let labels = format!("cluster=\"orders\",kind=\"process\",outcome=\"{outcome}\"");
        until_metric(&url, &format!("consul_redis_cluster_deaths_total{{{labels}}} 1")).await;
    }
    let timed = "consul_redis_cluster_death_to_published_seconds_count{cluster=\"orders\"}";
    until_metric(&url, &format!("{timed} 1")).await;
    let history = run(&world, &["history", "orders", "--json"], &[]);
    let changes: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(off_schema("history", &changes), Vec::<String>::new(), "{changes:#}");
    let proven = |change: &Value| change["evidence"] == "process";
    assert!(changes.as_array().unwrap().iter().any(proven), "{changes:#}");
    let steps = text(&run(&world, &["history", "orders", "--steps"], &[]));
    assert!(steps.contains("the process of the primary has ended: the others"), "{steps}");
}

/// What an agent says of a cluster's generation: which, and by which agent.
fn generations(agent: &Process) -> BTreeSet<(u64, String)> {
    let log = agent.log();
    let said = log.lines().filter_map(|line| line.split_once("generation ")?.1.split_once(": "));
    let of = |(said, _): (&str, &str)| {
        let (generation, by) = said.split_once(" by ")?;
        Some((generation.parse().ok()?, by.to_owned()))
    };
    said.filter_map(of).collect()
}

/// Each stands beside a primary and its replica.
#[tokio::test]
pub async fn of_three_agents_one_is_killed_and_then_a_primary_beside_it() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let start = |n: usize, cluster: &LabCluster| {
        let beside = [n, n + 3].map(|node| beside(&cluster.nodes[node])).concat();
        let more = format!("fast_failover = \"off\"\n{beside}");
        cluster_agent(&world, &format!("agent-{n}"), &[], &more)
    };
    let mut agents: Vec<Process> = (0..3).map(|n| start(n, &cluster)).collect();
    until_all_named(&world, &cluster).await;
    let before = until_calm(&world).await;
    agents[0].kill();
    cluster.nodes[0].kill();
    let nodes = &cluster.nodes;
    let primaries = ats(&[&nodes[1], &nodes[2], &nodes[3]]);
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found == primaries).await;
    let five = ats(&nodes[1..].iter().collect::<Vec<_>>());
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == five).await;
    until("the one that was killed is away", REPLACED_WITHIN, || async {
        let found = world.consul.key("redis-ha/cluster/orders/agents/agent-0").await?;
        if found.is_none() { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    let after = until_calm(&world).await;
    assert_eq!(world.consul.passing("orders").await.unwrap(), five, "{}", logs(&agents));
    let changes = run(&world, &["history", "orders", "--json"], &[]);
    let changes: Value = serde_json::from_slice(&changes.stdout).unwrap();
    let changes = changes.as_array().unwrap().iter();
    let changes = changes.map(|change| change["generation"].as_u64().unwrap());
    let changes: Vec<u64> = changes.filter(|generation| *generation > before).collect();
    assert!(after > before && changes.iter().rev().copied().eq(before + 1..=after), "{changes:?}");
    let said: BTreeSet<(u64, String)> = agents[1..].iter().flat_map(generations).collect();
    let said: Vec<u64> = said.into_iter().map(|(n, _)| n).filter(|n| *n > before).collect();
    assert!(said.iter().copied().eq(before + 1..=after), "{said:?}: {}", logs(&agents));

    agents[0] = start(0, &cluster);
    cluster.nodes[0].restart().await.unwrap();
    let all = ats(&cluster.nodes.iter().collect::<Vec<_>>());
    until_answers(&world, "orders", REPLACED_WITHIN, |found| found == all).await;
    until("all is well", REPLACED_WITHIN, || async {
        let status = run(&world, &["status", "orders", "--json"], &[]);
        let said: Value = serde_json::from_slice(&status.stdout).map_err(LabError::new)?;
        let three = said[0]["agents"] == json!(["agent-0", "agent-1", "agent-2"]);
        let well = status.status.code() == Some(0) && three;
        if well { Ok(()) } else { Err(LabError(format!("{said:#}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&agents)));
}

/// What `status` and `doctor` say of the node beside agent-0, where they see its process, and in a pid namespace of
/// their own.
fn ends_are_shown(world: &World, node: &LabServer) {
    let config = world.dir().join("agent-0.toml");
    let (beside, away) = (&["env"][..], &["unshare", "--pid", "--fork", "--mount-proc"][..]);
    let said = |way: &[&str], command: &[&str]| -> Value {
        let output = apart(world, &config, way, command);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
    };
    let seen = |way: &[&str]| {
        let all = said(way, &["status", "orders"]);
        assert_eq!(off_schema("status", &all), Vec::<String>::new(), "{all:#}");
        all[0]["ends_seen"].clone()
    };
    let its = node.address.to_string();
    assert_eq!(seen(beside), json!({ its.clone(): "at once" }));
    let why = seen(away)[&its].as_str().unwrap().to_owned();
    assert!(why.contains("pid namespace"), "{why}");
    let unseen = |way: &[&str]| {
        let found = said(way, &["doctor", "orders"]);
        let found = found[0]["findings"].as_array().unwrap().iter();
        let found = found.filter(|one| one["code"] == "death-unseen");
        found.map(|one| one["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(unseen(beside), Vec::<String>::new());
    assert!(unseen(away).concat().contains(&its), "{:?}", unseen(away));
    let shown = text(&run(world, &["status", "orders", "--config", config.to_str().unwrap()], &[]));
    assert!(!shown.contains("their end would not be seen"), "{shown}");
}

async fn text_of_setting(node: &LabServer) -> String {
    let answer = node.ask(&["CONFIG", "GET", "cluster-node-timeout"]).await.unwrap();
    let answer = consul_redis::redis_link::fields(&answer).unwrap();
    answer["cluster-node-timeout"].clone()
}

#[tokio::test]
pub async fn a_spare_takes_the_place_of_a_replica_that_is_dead_for_good() {
    let (mut world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let spare = LabCluster::start_blank(&mut world, &["node-6"], NODE_TIMEOUT_MS).await.unwrap();
    let spare = &spare.nodes[0];
    let last = cluster.nodes.last().unwrap();
    let more =
        format!("replicas = 1\nforget_after = \"3s\"\nfast_failover = \"off\"\n{}", beside(spare));
    let agents = [cluster_agent(&world, "agent-0", &[last], &more)];
    until_all_named(&world, &cluster).await;
    tokio::time::sleep(CALM).await;
    assert!(
        ask(&spare.address, &patiently(&spare.login)).await.unwrap().is_blank(),
        "{}",
        logs(&agents)
    );
    let dead = id(&cluster.nodes[4]).await.unwrap();
    cluster.nodes[4].kill();
    let nodes = &cluster.nodes;
    let replicas = ats(&[&nodes[3], spare, &nodes[5]]);
    until_answers(&world, "orders-replica", REPLACED_WITHIN, |found| found == replicas).await;
    until_named(&world, "orders-replica", &replicas).await;
    let table = text_of(&nodes[0], &["CLUSTER", "NODES"]).await;
    assert!(!table.contains(&dead), "{table}\n{}", logs(&agents));
    assert!(!claims(&world).await["left"][&dead].is_null());
}

/// Its address may be another cluster's by then.
#[tokio::test]
pub async fn what_an_agent_said_of_its_node_goes_when_it_is_away_for_long() {
    let (mut world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let spare = LabCluster::start_blank(&mut world, &["node-6"], NODE_TIMEOUT_MS).await.unwrap();
    let spare = &spare.nodes[0];
    let last = cluster.nodes.last().unwrap();
    let more = "replicas = 1\nforget_after = \"3s\"\nfast_failover = \"off\"\n";
    let mut agents = [
        cluster_agent(&world, "agent-0", &[last], more),
        cluster_agent(&world, "agent-1", &[last], &format!("{more}{}", beside(spare))),
    ];
    until_all_named(&world, &cluster).await;
    let key = format!("redis-ha/cluster/orders/nodes/{}", spare.address);
    let has = async |wanted: bool| {
        until("the key of the spare", REPLACED_WITHIN, || async {
            let found = world.consul.key(&key).await?;
            if found.is_some() == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap();
    };
    has(true).await;
    tokio::time::sleep(CALM * 2).await;
    has(true).await;
    agents[1].kill();
    has(false).await;
    assert!(logs(&agents).contains("has been away for 3 s"), "{}", logs(&agents));
}

/// Where `manage = false`, agents publish the same and tell the nodes nothing.
#[tokio::test]
pub async fn agents_that_only_ask_need_no_more_rights_than_that_and_tell_nothing() {
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let cluster = LabCluster::start_blank(&mut world, &names, NODE_TIMEOUT_MS).await.unwrap();
    cluster.create().await.unwrap();
    for node in &cluster.nodes {
        let rules = "on >secret +ping +info +cluster|info +cluster|nodes +cluster|myid +hello";
        let mut command = vec!["ACL", "SETUSER", "agent", "resetkeys"];
        command.extend(rules.split(' '));
        node.ask(&command).await.unwrap();
    }
    let more = "manage = false\n[instances]\nusername = \"agent\"\npassword_env = \"SECRET\"\n";
    let seed = cluster.nodes.last().unwrap();
    let table = format!("[[cluster]]\nname = \"orders\"\nseeds = [\"{}\"]\n{more}", seed.address);
    let path = world.dir().join("asks.toml");
    std::fs::write(&path, table).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let env = [("CONSUL_REDIS_SENTINELS", ""), ("SECRET", "secret")];
    let agents = [agent(&world, "agent-0", &args, &env)];
    until_all_named(&world, &cluster).await;
    for node in &cluster.nodes {
        let denied = node.ask(&["ACL", "LOG"]).await.unwrap();
        assert_eq!(consul_redis::redis_link::list(&denied).unwrap().len(), 0, "{}", logs(&agents));
    }
}

/// Writes that were acknowledged, and those of which no answer came.
#[derive(Debug, Default)]
struct Counted {
    acknowledged: u64,
    unanswered: u64,
}

/// A client that counts up, and how many of its writes were acknowledged so far.
struct Counter {
    so_far: Arc<AtomicU64>,
    stop: CancellationToken,
    task: JoinHandle<Counted>,
}

impl Counter {
    async fn until_more(&self) {
        let wanted = self.so_far.load(Ordering::Relaxed) + SOME;
        until("more writes are acknowledged", AT_ONCE, || async {
            let so_far = self.so_far.load(Ordering::Relaxed);
            if so_far >= wanted { Ok(()) } else { Err(LabError(format!("{so_far}"))) }
        })
        .await
        .unwrap();
    }

    async fn end(self) -> Counted {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

/// Writes before a move, and after it.
const SOME: u64 = 100;

/// Counts up a key of the first shard at whichever of two nodes takes it.
fn count_up(one: &LabServer, other: &LabServer) -> Counter {
    let nodes = [one, other].map(|node| (node.address.clone(), node.login.clone()));
    let (stop, so_far) = (CancellationToken::new(), Arc::<AtomicU64>::default());
    let (stopped, acknowledged) = (stop.clone(), so_far.clone());
    let task = tokio::spawn(async move {
        let mut counted = Counted::default();
        let mut links: [Option<Link>; 2] = [None, None];
        while !stopped.is_cancelled() {
            for (link, (address, login)) in links.iter_mut().zip(&nodes) {
                let Some(open) = link else {
                    *link = Link::open(address, login).await.ok();
                    continue;
                };
                match open.call(&["INCR", KEY_OF_THE_FIRST]).await {
                    Ok(redis::Value::Int(_)) => {
                        counted.acknowledged += 1;
                        acknowledged.store(counted.acknowledged, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        counted.unanswered += 1;
                        *link = None;
                    }
                }
            }
        }
        counted
    });
    Counter { so_far, stop, task }
}

/// Its slot is 105.
const KEY_OF_THE_FIRST: &str = "orders";

/// None is lost, and none is there twice.
async fn has_all(node: &LabServer, counted: &Counted, more: &str) {
    let there: u64 = text_of(node, &["GET", KEY_OF_THE_FIRST]).await.parse().unwrap();
    let Counted { acknowledged, unanswered } = counted;
    assert!(*acknowledged >= 2 * SOME, "{counted:?}");
    assert!(
        (*acknowledged..=acknowledged + unanswered).contains(&there),
        "{there}, {counted:?}: {more}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn a_shard_moves_to_its_replica_and_no_acknowledged_write_is_lost() {
    let (world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let last = cluster.nodes.last().unwrap();
    let more = "fast_failover = \"off\"\n";
    let _agents = [cluster_agent(&world, "agent-0", &[last], more)];
    until_all_named(&world, &cluster).await;
    let state = state(&world).await;
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[3]);
    let shard = crate::cluster::shard_of(&world, from).await.to_string();
    let args = ["switchover", "orders", "--shard", &shard, "--yes", "--json"];
    let early = run(&world, &args, &[]);
    assert_eq!(early.status.code(), Some(1), "{}", text(&early));
    assert!(text(&early).contains("four times cluster-node-timeout"), "{}", text(&early));
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS)).await;
    let writer = count_up(from, to);
    writer.until_more().await;
    let moved = run_aside(&world, &args).await;
    writer.until_more().await;
    let counted = writer.end().await;
    assert_eq!(moved.status.code(), Some(0), "{}", text(&moved));
    let said: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!(off_schema("switchover", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!((&said["moved"], &said["to"]), (&true.into(), &to.address.to_string().into()));
    has_all(to, &counted, &text(&moved)).await;
    let primaries = ats(&[to, &cluster.nodes[1], &cluster.nodes[2]]);
    until_answers(&world, "orders-primary", AT_ONCE, |found| found == primaries).await;
    let unknown = run(&world, &["switchover", "orders", "--shard", "99", "--yes"], &[]);
    assert!(text(&unknown).contains("no such shard"), "{}", text(&unknown));
    assert!(state["generation"].as_u64() < Some(crate::cluster::generation(&world).await));
}

/// No replica stands for election by itself, and an operator has one take over.
#[tokio::test]
pub async fn a_shard_whose_owner_is_dead_is_forced_to_its_replica_by_an_operator_alone() {
    let (world, mut cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    for node in &cluster.nodes {
        node.ask(&["CONFIG", "SET", "cluster-replica-no-failover", "yes"]).await.unwrap();
    }
    let last = cluster.nodes.last().unwrap();
    let agents = [cluster_agent(&world, "agent-0", &[last], "")];
    until_all_named(&world, &cluster).await;
    let shard = crate::cluster::shard_of(&world, &cluster.nodes[0]).await.to_string();
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 500)).await;
    let plain = ["switchover", "orders", "--shard", &shard, "--yes"];
    let forced = [&plain[..], &["--force"]].concat();
    let lives = run(&world, &forced, &[]);
    assert!(text(&lives).contains("answers: without force, nothing is lost"), "{}", text(&lives));
    let its = cluster.nodes[0].address.to_string();
    cluster.nodes[0].kill();
    // With full coverage the other primaries refuse as well, once they call it failing.
    let without = |found: &[String]| !found.contains(&its) && found.len() < 3;
    until_answers(&world, "orders-primary", AT_ONCE, without).await;
    tokio::time::sleep(Duration::from_millis(2 * NODE_TIMEOUT_MS)).await;
    until_answers(&world, "orders-primary", AT_ONCE, without).await;
    let refused = run(&world, &plain, &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let moved = run(&world, &[&forced[..], &["--json"]].concat(), &[]);
    assert_eq!(moved.status.code(), Some(0), "{}{}", text(&moved), logs(&agents));
    let said: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!(off_schema("switchover", &said), Vec::<String>::new(), "{said:#}");
    assert_eq!((&said["moved"], &said["gap_ms"]), (&true.into(), &Value::Null), "{said:#}");
    let primaries = ats(&[&cluster.nodes[1], &cluster.nodes[2], &cluster.nodes[3]]);
    until_answers(&world, "orders-primary", REPLACED_WITHIN, |found| found == primaries).await;
}

/// A command that takes its time, while this test goes on with its own tasks.
async fn run_aside(world: &World, args: &[&str]) -> std::process::Output {
    tokio::task::block_in_place(|| run(world, args, &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn an_agent_that_is_stopped_hands_the_shards_of_its_host_over() {
    let (world, cluster) = blank_alone().await;
    cluster.create().await.unwrap();
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[3]);
    let last = cluster.nodes.last().unwrap();
    let more = format!("fast_failover = \"off\"\n{}[agent]\nhandover = true\n", beside(from));
    let off = "fast_failover = \"off\"\n";
    let mut agents = [
        cluster_agent(&world, "agent-0", &[last], &more),
        cluster_agent(&world, "agent-1", &[last], off),
    ];
    until_all_named(&world, &cluster).await;
    tokio::time::sleep(Duration::from_millis(4 * NODE_TIMEOUT_MS + 500)).await;
    let writer = count_up(from, to);
    writer.until_more().await;
    agents[0].signal(Signal::SIGTERM).unwrap();
    agents[0].end(AT_ONCE).await.unwrap();
    let primaries = ats(&[to, &cluster.nodes[1], &cluster.nodes[2]]);
    until_answers(&world, "orders-primary", AT_ONCE, |found| found == primaries).await;
    writer.until_more().await;
    has_all(to, &writer.end().await, &logs(&agents)).await;
    assert!(logs(&agents).contains("handed over from"), "{}", logs(&agents));
}
