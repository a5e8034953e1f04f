//! Consul's and the agents' HTTP, as plain JSON.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

/// Consul's management token.
pub const MANAGEMENT: &str = "5d9a9ce8-3f5c-4d0b-9a53-0d0e9d1f6c11";
/// How long Consul may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest for a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(20);

/// A client.
#[derive(Debug, Clone)]
pub struct Http(Client);

impl Http {
    /// A new one, with its connections.
    pub fn new() -> Self {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build();
        Self(client.expect("an HTTP client"))
    }

    /// A JSON document; `None` for 404.
    pub async fn get(&self, url: &str, token: &str) -> Result<Option<Value>, String> {
        let asked = self.0.get(url).header("X-Consul-Token", token).bearer_auth(token).send();
        let answer = asked.await.map_err(|error| words(&error))?;
        match answer.status().as_u16() {
            200 => answer.json().await.map(Some).map_err(|error| words(&error)),
            404 => Ok(None),
            other => Err(format!("{other}")),
        }
    }

    /// Sends a JSON document.
    pub async fn send(&self, method: Method, url: &str, body: &Value) -> Result<Value, String> {
        let asked = self.0.request(method, url).header("X-Consul-Token", MANAGEMENT).json(body);
        let answer = asked.send().await.map_err(|error| words(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| words(&error))?;
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// What Consul has saved.
    pub async fn snapshot(&self, url: &str) -> Result<Vec<u8>, String> {
        let asked = self.0.get(url).header("X-Consul-Token", MANAGEMENT).timeout(SNAPSHOT_PATIENCE);
        let answer = asked.send().await.map_err(|error| words(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| words(&error))?;
        if status.is_success() { Ok(bytes.to_vec()) } else { Err(format!("{status}")) }
    }

    /// Has Consul take what was saved.
    pub async fn restore(&self, url: &str, saved: Vec<u8>) -> Result<(), String> {
        let asked = self.0.put(url).header("X-Consul-Token", MANAGEMENT).body(saved);
        let answer =
            asked.timeout(SNAPSHOT_PATIENCE).send().await.map_err(|error| words(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{status}: {}", answer.text().await.unwrap_or_default()))
    }
}

fn words(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
