//! A fleet: more agents than watch a group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use consul_redis::consul::fleet::FleetReader;
use consul_redis::core::fleet::{FleetLayout, FleetView, GroupHash, GroupList, ranked};
use consul_redis::core::published::projection::Layout;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::promises::REPLACED;
use crate::support::{
    agent, counted, get, http_address, json, logs, record, run, text, until_in_sync, until_writer,
    world,
};

const GROUPS: [&str; 4] = ["orders", "carts", "users", "stock"];
const WATCHERS: usize = 3;

/// The agents whose keys say that they watch the group.
async fn watchers(world: &World, group: &str) -> Result<BTreeSet<String>, LabError> {
    let layout = Layout::new("redis-ha", &group.parse().map_err(LabError::new)?);
    let found = world.consul.client()?.watchers(&layout).await.map_err(LabError::new)?;
    Ok(found.into_iter().collect())
}

/// The agents that are to watch the group, of those that are there.
fn first(there: &BTreeSet<String>, group: &str) -> BTreeSet<String> {
    let hash = |group: &str| GroupHash::new(None, &group.parse().unwrap());
    let list = Arc::new(GroupList::new(GROUPS.map(hash)));
    let fleet: FleetView = there.iter().map(|id| (id.clone(), list.clone())).collect();
    ranked(&fleet, hash(group)).into_iter().take(WATCHERS).map(str::to_owned).collect()
}

/// Waits until each group is watched by those that are to watch it, and by no other one.
async fn until_shared(world: &World, there: &BTreeSet<String>, within: Duration) {
    until("each group has its watchers", within, || async {
        let mut wrong = BTreeMap::new();
        for group in GROUPS {
            let found = watchers(world, group).await?;
            if found != first(there, group) {
                wrong.insert(group, (found, first(there, group)));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(LabError(format!("{wrong:?}"))) }
    })
    .await
    .unwrap();
}

fn config(world: &World) -> String {
    let path = world.dir().join("fleet.toml");
    let groups = GROUPS.map(|group| format!("[[group]]\nname = \"{group}\"\n"));
    let text = format!("[agent]\nwatchers = {WATCHERS}\n{}", groups.concat());
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What `doctor` finds of this kind, and its cure.
fn found(world: &World, config: &str, code: &str) -> Option<String> {
    let output = run(world, &["doctor", "carts", "--json", "--config", config], &[]);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let mut findings = said[0]["findings"].as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["code"] == code)?;
    Some(format!("{}; {}", finding["text"].as_str()?, finding["mend"].as_str()?))
}

async fn shares(agents: &[Process]) -> (f64, Vec<f64>) {
    let (mut watched, mut configured) = (0.0, Vec::new());
    for agent in agents {
        let url = http_address(agent).await;
        let (_, all) = get(&format!("{url}/metrics"), None).await.unwrap();
        watched += counted(&all, "consul_redis_groups{state=\"watched\"}");
        configured.push(counted(&all, "consul_redis_groups{state=\"configured\"}"));
    }
    (watched, configured)
}

fn names(agents: &[Process]) -> BTreeSet<String> {
    agents.iter().map(|agent| agent.name().to_owned()).collect()
}

#[tokio::test]
async fn seven_agents_share_groups_and_replace_one_another() {
    let groups = GROUPS.map(str::to_owned).to_vec();
    let mut world = world(WorldSpec { redis: 2, groups, ..WorldSpec::default() }).await;
    let config = config(&world);
    let args = ["--config", config.as_str(), "--listen", "127.0.0.1:0"];
    let start = |world: &World, index: usize| agent(world, &format!("agent-{index}"), &args, &[]);
    let mut agents: Vec<Process> = (0..7).map(|index| start(&world, index)).collect();
    let mut writers = BTreeMap::new();
    for group in GROUPS {
        writers.insert(group, until_writer(&world, group, 30, None).await);
        until_in_sync(&world, group, 1).await;
    }
    let all = names(&agents);
    until_shared(&world, &all, Duration::from_secs(60)).await;
    assert_eq!(shares(&agents).await, (12.0, vec![4.0; 7]), "{}", logs(&agents));
    let said = json(&world, "status", &["status", "orders", "--json", "--config", &config]);
    let watching: BTreeSet<String> = serde_json::from_value(said[0]["agents"].clone()).unwrap();
    let configured: BTreeSet<String> =
        serde_json::from_value(said[0]["configured_agents"].clone()).unwrap();
    assert_eq!((watching, configured), (first(&all, "orders"), all.clone()));
    let shown = text(&run(&world, &["status", "orders", "--config", &config], &[]));
    assert!(shown.contains("(of 7 agents that share the groups)"), "{shown}");
    assert_eq!(found(&world, &config, "fewer-watchers"), None);

    // Two of the group's three die, and then its primary does.
    let doomed: Vec<String> = first(&all, "orders").into_iter().take(2).collect();
    for agent in agents.iter_mut().filter(|agent| doomed.contains(&agent.name().to_owned())) {
        agent.kill();
    }
    let died = Instant::now();
    let old = writers["orders"].clone();
    world.server_mut(&old).unwrap().kill();
    let new = until_writer(&world, "orders", 20, Some(&old)).await;
    let by = record(&world, "orders").await.unwrap().by;
    assert!(!doomed.contains(&by), "{by}");
    agents.retain(|agent| !doomed.contains(&agent.name().to_owned()));
    let left = names(&agents);
    until("the dead are replaced", REPLACED.patience(), || async {
        for group in GROUPS {
            let found = watchers(&world, group).await?;
            // At no time there is none.
            assert!(!found.is_disjoint(&left), "{group}: {found:?}");
            if !first(&left, group).is_subset(&found) {
                return Err(LabError(format!("{group}: {found:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    REPLACED.kept(died.elapsed());
    until_shared(&world, &left, Duration::from_secs(30)).await;
    assert_eq!(record(&world, "orders").await.unwrap().writer.unwrap().address.to_string(), new);

    // Two are left, and three are to watch: that is found, and what it says cures it.
    stop_all_but(2, &mut agents).await;
    until_shared(&world, &names(&agents), Duration::from_secs(10)).await;
    let few = "2 agents watch the group, and 3 are to; start consul-redis agent with the same config on another host";
    assert_eq!(found(&world, &config, "fewer-watchers").as_deref(), Some(few));
    agents.push(start(&world, 7));
    until_shared(&world, &names(&agents), Duration::from_secs(20)).await;
    assert_eq!(found(&world, &config, "fewer-watchers"), None);
    assert!(logs(&agents).contains("agents share the groups"), "{}", logs(&agents));
}

async fn stop_all_but(left: usize, agents: &mut Vec<Process>) {
    for agent in agents.iter_mut().skip(left) {
        agent.signal(Signal::SIGTERM).unwrap();
        assert_eq!(agent.end(Duration::from_secs(2)).await.unwrap(), 0, "{}", agent.log());
    }
    agents.truncate(left);
}

/// A token that may not write the fleet's keys: each agent watches all, as agents did before there was a fleet.
#[tokio::test]
async fn agents_without_the_right_to_share_watch_all_their_groups() {
    let token = Some("3d7f9c1e-0000-4000-8000-000000000001".to_owned());
    let world = world(WorldSpec { redis: 2, master_token: token, ..WorldSpec::default() }).await;
    let policy =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/consul/agent-policy.hcl"));
    let policy =
        policy.unwrap().replace("key_prefix \"redis-ha/=fleet/\"", "key_prefix \"other/\"");
    let token = world.consul.token("agent", &policy).await.unwrap();
    let path = world.dir().join("one.toml");
    std::fs::write(&path, "[agent]\nwatchers = 1\n[[group]]\nname = \"redis\"\n").unwrap();
    let env = [("CONSUL_HTTP_TOKEN", token.as_str())];
    let args = ["--config", path.to_str().unwrap()];
    let agents: Vec<Process> =
        (0..3).map(|index| agent(&world, &format!("agent-{index}"), &args, &env)).collect();
    until_writer(&world, "redis", 20, None).await;
    // Longer than it takes to let a group go.
    let began = Instant::now();
    until("they watch all the time", Duration::from_secs(60), || async {
        let found = watchers(&world, "redis").await?;
        match began.elapsed() > Duration::from_secs(15) {
            true if found == names(&agents) => Ok(()),
            true => panic!("{found:?}: {}", logs(&agents)),
            false => Err(LabError(format!("{found:?}"))),
        }
    })
    .await
    .unwrap();
    let said = "other agents do not count on this one: Consul denies";
    assert!(logs(&agents).contains(said), "{}", logs(&agents));
}

fn write_config(world: &World, name: &str, watchers: usize, more: &str) -> String {
    let path = world.dir().join(format!("{name}.toml"));
    let text = format!("[agent]\nwatchers = {watchers}\n[[group]]\nname = \"redis\"\n{more}");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Waits until these watch the group, of all agents that there are: one shows that it watches before it is one of them.
async fn until_watched_by(world: &World, wanted: &BTreeSet<String>, agents: &[Process]) {
    until("the group has its watchers", Duration::from_secs(40), || async {
        let layout = FleetLayout { prefix: "redis-ha".to_owned() };
        let mut reader = FleetReader::new(world.consul.client()?, layout, Arc::default());
        let there = reader.read().await.map_err(LabError::new)?;
        let found = watchers(world, "redis").await?;
        if found == *wanted && there.keys().eq(&names(agents)) {
            Ok(())
        } else {
            Err(LabError(format!("{found:?} of {there:?}")))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {}", logs(agents)));
}

/// Local duties stay where the instance is, and a reload says how many are to watch.
#[tokio::test]
async fn an_agent_beside_an_instance_watches_its_group_whichever_ranks_first() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let all: BTreeSet<String> = (0..4).map(|index| format!("agent-{index}")).collect();
    let hash = GroupHash::new(None, &"redis".parse().unwrap());
    let list = Arc::new(GroupList::new([hash]));
    let fleet: FleetView = all.iter().map(|id| (id.clone(), list.clone())).collect();
    let ranks: Vec<String> = ranked(&fleet, hash).into_iter().map(str::to_owned).collect();
    let local = format!("[[redis]]\naddress = \"{}\"\n", world.groups[0].redis[0].address);
    let more = |id: &String| if *id == ranks[3] { local.as_str() } else { "" };
    let start = |id: &String| {
        let config = write_config(&world, id, 1, more(id));
        agent(&world, id, &["--config", &config], &[])
    };
    let agents: Vec<Process> = all.iter().map(start).collect();
    until_writer(&world, "redis", 20, None).await;
    let few = BTreeSet::from([ranks[0].clone(), ranks[3].clone()]);
    until_watched_by(&world, &few, &agents).await;
    for (watchers, wanted) in [(4, &all), (1, &few)] {
        for agent in &agents {
            let id = agent.name().to_owned();
            write_config(&world, &id, watchers, more(&id));
            agent.signal(Signal::SIGHUP).unwrap();
        }
        until_watched_by(&world, wanted, &agents).await;
    }
    let said = "the new config is in force: [agent] watchers";
    assert!(logs(&agents).contains(said), "{}", logs(&agents));
}

/// While Consul is away nothing is let go, and where it has lost everything, the agents find one another again.
#[tokio::test]
async fn a_consul_that_is_away_or_wiped_leaves_no_group_alone() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let all: BTreeSet<String> = (0..4).map(|index| format!("agent-{index}")).collect();
    let config = write_config(&world, "all", 2, "");
    let start = |id: &String| agent(&world, id, &["--config", &config], &[]);
    let agents: Vec<Process> = all.iter().map(start).collect();
    let old = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    let hash = GroupHash::new(None, &"redis".parse().unwrap());
    let list = Arc::new(GroupList::new([hash]));
    let fleet: FleetView = all.iter().map(|id| (id.clone(), list.clone())).collect();
    let two: BTreeSet<String> =
        ranked(&fleet, hash).into_iter().take(2).map(str::to_owned).collect();
    until_watched_by(&world, &two, &agents).await;
    let left = logs(&agents).matches("leaving redis").count();

    // The primary dies meanwhile.
    world.consul.kill();
    world.server_mut(&old).unwrap().kill();
    let silent = || logs(&agents).matches("trying again, and what is published stays").count();
    until("those that watch say that it is away", Duration::from_secs(20), || async {
        if silent() >= 2 { Ok(()) } else { Err(LabError(logs(&agents))) }
    })
    .await
    .unwrap();
    world.consul.restart().await.unwrap();
    let new = until_writer(&world, "redis", 40, Some(&old)).await;
    until_watched_by(&world, &two, &agents).await;
    assert_eq!(logs(&agents).matches("leaving redis").count(), left, "{}", logs(&agents));

    world.consul.wipe().unwrap();
    world.consul.restart().await.unwrap();
    assert_eq!(until_writer(&world, "redis", 40, None).await, new);
    until_watched_by(&world, &two, &agents).await;
}
