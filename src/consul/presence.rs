//! Agents make themselves visible: a key for each agent and group, bound to a session that ends soon
//! after the agent does. It is for people; nothing else depends on it.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::{CALL_TIMEOUT, Consul, ConsulError};
use crate::core::projection::Layout;
use crate::retry::Retry;

/// The least Consul allows; it lets up to twice as long pass (`docs/facts/consul.md` 5).
const SESSION_TTL: &str = "10s";
/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Deadline for taking the keys away on a clean stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(700);

#[derive(Debug, Deserialize)]
struct SessionId {
    #[serde(rename = "ID")]
    id: String,
}

/// Keeps the agent's keys in place until `stop`, then takes them away.
pub async fn be_present(
    consul: Consul,
    agent: String,
    layouts: Vec<Layout>,
    value: serde_json::Value,
    stop: CancellationToken,
) {
    let mut retry = Retry::consul();
    let mut said = false;
    loop {
        let session = tokio::select! {
            () = stop.cancelled() => return,
            session = open(&consul, &agent, &layouts, &value) => session,
        };
        match session {
            Ok(session) => {
                retry.reset();
                said = false;
                if keep(&consul, &session, &stop).await {
                    leave(&consul, &session).await;
                    return;
                }
                debug!("session {session} is gone, opening another");
            }
            Err(error) => {
                if !said {
                    warn!("this agent does not show in `status`: {error}");
                    said = true;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(retry.next_delay()) => {}
                }
            }
        }
    }
}

async fn open(
    consul: &Consul,
    agent: &str,
    layouts: &[Layout],
    value: &serde_json::Value,
) -> Result<String, ConsulError> {
    let name = format!("consul-redis {agent}");
    let session =
        json!({"Name": name, "TTL": SESSION_TTL, "Behavior": "delete", "LockDelay": "0s"});
    let body = consul.put("/v1/session/create", &[], Some(&session)).await?;
    let SessionId { id } =
        serde_json::from_slice(&body).map_err(|error| ConsulError::Unreadable {
            call: "PUT /v1/session/create".to_owned(),
            what: error.to_string(),
        })?;
    for layout in layouts {
        let path = format!("/v1/kv/{}", layout.agent(agent));
        let acquired = consul.put(&path, &[("acquire", id.as_str())], Some(value)).await?;
        if !acquired.starts_with(b"true") {
            // The session of this agent's former life holds it, until it ends.
            leave(consul, &id).await;
            return Err(ConsulError::Unreadable {
                call: format!("PUT {path}?acquire"),
                what: "another session still holds this agent's key".to_owned(),
            });
        }
    }
    Ok(id)
}

/// Renews until `stop` (true) or until the session is lost (false).
async fn keep(consul: &Consul, session: &str, stop: &CancellationToken) -> bool {
    let path = format!("/v1/session/renew/{session}");
    let mut next = Instant::now() + RENEW_EVERY;
    loop {
        tokio::select! {
            () = stop.cancelled() => return true,
            () = tokio::time::sleep_until(next) => {}
        }
        next = Instant::now() + RENEW_EVERY;
        match consul.call(Method::PUT, &path, &[], None, CALL_TIMEOUT).await {
            Ok(answer) if answer.status == reqwest::StatusCode::NOT_FOUND => return false,
            // Consul away: the session may still be there when it is back.
            Ok(_) | Err(_) => {}
        }
    }
}

async fn leave(consul: &Consul, session: &str) {
    let path = format!("/v1/session/destroy/{session}");
    let _ = consul.call(Method::PUT, &path, &[], None, LEAVE_TIMEOUT).await;
}
