//! Peers: scripts that register whatever `+switch-master` says.

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::world::World;
use consul_redis::redis_link::subscribe;
use futures_util::StreamExt;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

/// What most scripts do: register the new address under a name, on a node of its own.
pub async fn register(world: &World, name: &str, address: &Address) -> Result<(), LabError> {
    let client = world.consul.client()?;
    let body = json!({
        "Node": name, "Address": address.host(),
        "Service": {"Service": name, "Address": address.host(), "Port": address.port()},
    });
    client.put("/v1/catalog/register", &[], Some(&body)).await.map_err(LabError::new).map(|_| ())
}

/// Registers what `+switch-master` says on the first `count` Sentinels, as soon as one says it.
pub fn listen(world: &World, name: &'static str, count: usize) -> Vec<AbortOnDropHandle<()>> {
    let mut listeners = Vec::new();
    for sentinel in world.sentinels.iter().take(count) {
        let (address, login) = (sentinel.address.clone(), sentinel.login.clone());
        let client = world.consul.client().expect("a client");
        listeners.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let events = subscribe(&address, &login).await.expect("a subscription");
            let mut events = events.into_on_message();
            while let Some(event) = events.next().await {
                if event.get_channel_name() != "+switch-master" {
                    continue;
                }
                let text = String::from_utf8_lossy(event.get_payload_bytes()).into_owned();
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
