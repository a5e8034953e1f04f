//! What a running agent of this host knows, for commands that cannot read Consul themselves: it is asked where the config
//! says that it answers by HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::config::{Config, HttpConfig};

/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the agent last read in Consul, in lines of text by group; nothing where the config has no address to ask.
pub async fn known_by_agent(config: &Config) -> BTreeMap<String, String> {
    let Some(http) = config.http.as_ref().filter(|http| http.listen.port() != 0) else {
        return BTreeMap::new();
    };
    let url = url_of(http);
    let told = match &http.tls {
        // What is shown there is for whom its operator has let in.
        Some(_) => Err("it speaks TLS: ask it with curl and what it wants to see".to_owned()),
        None => ask(http, &url).await,
    };
    match told {
        Ok(groups) => groups.iter().filter_map(|group| describe(group, &url)).collect(),
        Err(error) => {
            let text = format!("  the agent of this host, at {url}, was not asked: {error}\n");
            config
                .groups
                .iter()
                .map(|group| (group.policy.group.to_string(), text.clone()))
                .collect()
        }
    }
}

fn url_of(http: &HttpConfig) -> String {
    let mut at = http.listen;
    // An agent that answers at every address answers at this one.
    if at.ip().is_unspecified() {
        at.set_ip(match at.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{at}/status.json")
}

async fn ask(http: &HttpConfig, url: &str) -> Result<Vec<Value>, String> {
    let token = http.token.read().map_err(|error| error.to_string())?;
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build();
    let mut request = client.map_err(|error| error.to_string())?.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = request.send().await.map_err(|error| {
        if error.is_timeout() {
            "it does not answer".to_owned()
        } else {
            "it does not run".to_owned()
        }
    })?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("it answers {status}"));
    }
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body).map_err(|error| format!("it answers something else: {error}"))
}

/// One group, as the agent's `/status.json` has it.
fn describe(group: &Value, url: &str) -> Option<(String, String)> {
    let name = group["group"].as_str()?;
    let mut text = format!("  the agent of this host, at {url}, ");
    let generation = group["generation"].as_u64().filter(|_| group["consul_read"] == true);
    let _ = match generation {
        None => writeln!(text, "has not read Consul either"),
        Some(generation) => {
            let writer = group["writer"].as_str().unwrap_or("no writer");
            let since = group["since"].as_str().unwrap_or_default();
            let why = group["why"].as_str().unwrap_or_default();
            writeln!(text, "last read: {writer}, generation {generation}, since {since}: {why}")
        }
    };
    for problem in group["problems"].as_array().into_iter().flatten() {
        if let Some(said) = problem["text"].as_str() {
            let _ = writeln!(text, "    it says: {said}");
        }
    }
    Some((name.to_owned(), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_agent_last_read_is_told_with_its_problems() {
        let group = json!({
            "group": "redis", "consul_read": true, "generation": 7, "writer": "10.0.0.1:6379",
            "since": "2026-11-21T00:00:01Z", "why": "promoted by Sentinel epoch 3",
            "problems": [{"code": "consul-silent", "text": "Consul does not answer"}],
        });
        let (name, text) = describe(&group, "http://127.0.0.1:9121/status.json").unwrap();
        assert_eq!(name, "redis");
        assert_eq!(
            text,
            "  the agent of this host, at http://127.0.0.1:9121/status.json, last read: 10.0.0.1:6379, generation 7, since \
             2026-11-21T00:00:01Z: promoted by Sentinel epoch 3\n    it says: Consul does not answer\n"
        );
        let blind =
            json!({"group": "redis", "consul_read": false, "generation": 0, "problems": []});
        let (_, text) = describe(&blind, "http://127.0.0.1:9121/status.json").unwrap();
        assert!(text.ends_with("has not read Consul either\n"), "{text}");
    }
}
