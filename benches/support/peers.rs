//! Peers: what people run to keep a name at the writer without agents.

use std::path::{Path, PathBuf};

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::world::World;
use consul_redis::redis_link::{SubscriptionNews, subscribe};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

/// The name that each keeps, and what it is.
pub const PEERS: [(&str, &str); 4] = [
    ("listener-all", "listener of +switch-master on all Sentinels"),
    ("listener-one", "listener of +switch-master on one Sentinel"),
    ("reconfig", "Sentinel's client-reconfig-script with curl"),
    ("role-check", "Consul script check on ROLE, every second"),
];

/// Starts all of them. What the script needs is in `dir`, where [`reconfig_script`] put it.
pub async fn start(world: &World, dir: &Path, first: &Address) -> Vec<AbortOnDropHandle<()>> {
    std::fs::write(dir.join("consul"), world.consul.http.to_string()).expect("a file");
    put_right(world, first).await;
    let mut listeners = listen(world, "listener-one", 1);
    listeners.extend(listen(world, "listener-all", world.sentinels.len()));
    register_role_checks(world).await.expect("registered");
    listeners
}

/// After two failovers in a row, one that writes down what it hears last may be wrong for good.
pub async fn put_right(world: &World, primary: &Address) {
    for name in ["listener-one", "listener-all", "reconfig"] {
        let found = world.consul.passing(name).await.expect("an answer");
        if found == [primary.to_string()] {
            continue;
        }
        if !found.is_empty() {
            eprintln!("{name} was left pointing elsewhere; set right for the next lap");
        }
        register(world, name, primary).await.expect("registered");
    }
}

/// What most scripts do: register the new address under a name, on a node of its own.
async fn register(world: &World, name: &str, address: &Address) -> Result<(), LabError> {
    let client = world.consul.client()?;
    let body = json!({
        "Node": name, "Address": address.host(),
        "Service": {"Service": name, "Address": address.host(), "Port": address.port()},
    });
    client.put("/v1/catalog/register", &[], Some(&body)).await.map_err(LabError::new).map(|_| ())
}

/// Registers what `+switch-master` says on the first `count` Sentinels, as soon as one says it.
fn listen(world: &World, name: &'static str, count: usize) -> Vec<AbortOnDropHandle<()>> {
    let mut listeners = Vec::new();
    for sentinel in world.sentinels.iter().take(count) {
        let (address, login) = (sentinel.address.clone(), sentinel.login.clone());
        let client = world.consul.client().expect("a client");
        listeners.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut events = subscribe(&address, &login).await.expect("a subscription");
            while let Some(heard) = events.next().await {
                let SubscriptionNews::Event(event, text) = heard else { continue };
                if event != "+switch-master" {
                    continue;
                }
                let words: Vec<&str> = text.split(' ').collect();
                let [_, _, _, host, port] = words[..] else { continue };
                let body = json!({
                    "Node": name, "Address": host,
                    "Service": {"Service": name, "Address": host,
                                "Port": port.parse::<u16>().unwrap_or_default()},
                });
                let _ = client.put("/v1/catalog/register", &[], Some(&body)).await;
            }
        })));
    }
    listeners
}

/// Sentinel calls it with: group, role, state, old host, old port, new host, new port.
pub fn reconfig_script(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("reconfig.sh");
    let text = format!(
        "#!/bin/sh\nexec curl -s -X PUT -d '{{\"Node\":\"reconfig\",\"Address\":\"'$6'\",\
         \"Service\":{{\"Service\":\"reconfig\",\"Address\":\"'$6'\",\"Port\":'$7'}}}}' \
         http://$(cat {}/consul)/v1/catalog/register\n",
        dir.display()
    );
    std::fs::write(&path, text).expect("the script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("the script");
    path
}

/// Every Redis is registered with a check that passes while it says that it is the primary.
async fn register_role_checks(world: &World) -> Result<(), LabError> {
    let client = world.consul.client()?;
    for server in &world.groups[0].redis {
        let (host, port) = (server.address.host(), server.address.port());
        let command = format!("redis-cli -h {host} -p {port} role | grep -q ^master || exit 2");
        let body = json!({
            "ID": server.name(), "Name": "role-check", "Address": host, "Port": port,
            "Check": {"Args": ["sh", "-c", command], "Interval": "1s", "Timeout": "1s"},
        });
        let path = "/v1/agent/service/register";
        client.put(path, &[], Some(&body)).await.map_err(LabError::new)?;
    }
    Ok(())
}
