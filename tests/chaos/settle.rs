//! Whether a world has settled, as its servers say.

use std::time::Duration;

use serde_json::Value;

use crate::clients::NAME;
use crate::dns::{self, Asked};
use crate::fault::HOSTS;
use crate::history::host_of;
use crate::resp::Reply;
use crate::world::{IPS, World};

/// How long DNS may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The host of the writer, if all agree on it and nothing is wrong.
pub async fn settled(world: &World) -> Result<usize, String> {
    let mut first: Option<(u64, usize)> = None;
    for host in 0..HOSTS {
        let at = |error: String| format!("Consul {}: {error}", host + 1);
        let state = world.consul(host, "/v1/kv/redis-ha/redis/state?raw").await.map_err(at)?;
        let state = state.ok_or_else(|| at("no state".to_owned()))?;
        let writer = &state["writer"];
        let writer = writer.as_str().or_else(|| writer["address"].as_str());
        let writer = writer.and_then(host_of);
        let why = &state["why"];
        let writer = writer.ok_or_else(|| at(format!("no writer: {why}")))?;
        if state["evidence"]["level"] != "quorum" {
            return Err(at(format!("not confirmed: {why}")));
        }
        let own = (state["generation"].as_u64().unwrap_or(0), writer);
        if *first.get_or_insert(own) != own {
            return Err(at(format!("{own:?} and not {first:?}")));
        }
        names(world, host, writer).await.map_err(at)?;
    }
    let (_, writer) = first.ok_or("no Consul")?;
    for host in 0..HOSTS {
        role(world, host, writer).await.map_err(|error| format!("Redis {}: {error}", host + 1))?;
        let calm = sentinel(world, host, writer).await;
        calm.map_err(|error| format!("Sentinel {}: {error}", host + 1))?;
    }
    for host in 0..HOSTS {
        let url = format!("http://{}/status.json", world.places.at(host, 9790));
        let said = world.http.get(&url, &world.places.listen_token).await;
        let said = said.map_err(|error| format!("agent {}: {error}", host + 1))?;
        let said = said.ok_or("no status")?;
        if said[0]["healthy"] != true || said[0]["problems"] != Value::Array(Vec::new()) {
            let (host, problems) = (host + 1, &said[0]["problems"]);
            return Err(format!("agent {host}: {problems}"));
        }
    }
    Ok(writer)
}

async fn names(world: &World, host: usize, writer: usize) -> Result<(), String> {
    let server = world.places.at(host, 8600);
    let ip = IPS[writer].to_string();
    let found = dns::ask(server, NAME, Asked::A, PATIENCE).await?;
    if found != [ip.clone()] {
        return Err(format!("A: {found:?}"));
    }
    let found = dns::ask(server, NAME, Asked::Srv, PATIENCE).await?;
    if found != [format!("{ip}:6379")] {
        return Err(format!("SRV: {found:?}"));
    }
    let found = dns::ask(server, "redis-replica.service.consul", Asked::A, PATIENCE).await?;
    if found.len() != HOSTS - 1 || found.contains(&ip) {
        return Err(format!("replicas: {found:?}"));
    }
    Ok(())
}

async fn role(world: &World, host: usize, writer: usize) -> Result<(), String> {
    let Reply::List(role) = world.redis(host, &["ROLE"]).await? else {
        return Err("no ROLE".to_owned());
    };
    let text = |at: usize| role.get(at).and_then(Reply::text);
    let right = match host == writer {
        true => text(0) == Some("master"),
        false => {
            text(0) == Some("slave")
                && text(1) == Some(IPS[writer].to_string().as_str())
                && text(3) == Some("connected")
        }
    };
    if right { Ok(()) } else { Err(format!("{role:?}")) }
}

async fn sentinel(world: &World, host: usize, writer: usize) -> Result<(), String> {
    let master = world.sentinel(host, &["SENTINEL", "MASTER", "redis"]).await?;
    let field = |name: &str| master.field(name).unwrap_or("nothing").to_owned();
    let wanted = [
        ("ip", IPS[writer].to_string()),
        ("flags", "master".to_owned()),
        ("num-other-sentinels", (HOSTS - 1).to_string()),
        ("num-slaves", (HOSTS - 1).to_string()),
    ];
    for (name, value) in wanted {
        if field(name) != value {
            return Err(format!("{name} is {} and not {value}", field(name)));
        }
    }
    Ok(())
}
