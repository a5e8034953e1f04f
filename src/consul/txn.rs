//! `/v1/txn`: operations to JSON, and answers to outcomes (`docs/facts/consul.md` 1).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::Response;
use super::error::ConsulError;

use crate::core::group::Outcome;
use crate::core::published::projection::{Op, Weights};
use crate::foreign::{brief, harmless, harmless_json};

/// Enterprise tenancy, which a transaction wants on each object.
#[derive(Debug, Clone, Default)]
pub struct Tenancy {
    /// Namespace of services and checks.
    pub namespace: Option<String>,
    /// Partition of nodes, services and checks.
    pub partition: Option<String>,
}

/// The body of a transaction.
pub fn body(ops: &[Op], tenancy: &Tenancy) -> Value {
    Value::Array(ops.iter().map(|op| encode(op, tenancy)).collect())
}

fn encode(op: &Op, tenancy: &Tenancy) -> Value {
    match op {
        Op::KeyCas { key, index, value } => {
            let mut kv =
                json!({"Verb": "cas", "Key": key, "Index": index, "Value": BASE64.encode(value)});
            tenancy.stamp(&mut kv);
            json!({ "KV": kv })
        }
        Op::KeyCheckIndex { key, index } => {
            let mut kv = json!({"Verb": "check-index", "Key": key, "Index": index});
            tenancy.stamp(&mut kv);
            json!({ "KV": kv })
        }
        Op::KeySet { key, value } => {
            let mut kv = json!({"Verb": "set", "Key": key, "Value": BASE64.encode(value)});
            tenancy.stamp(&mut kv);
            json!({ "KV": kv })
        }
        Op::KeyDeleteTree { prefix } => {
            let mut kv = json!({"Verb": "delete-tree", "Key": prefix});
            tenancy.stamp(&mut kv);
            json!({ "KV": kv })
        }
        Op::NodeSet { node, row } => {
            let mut node = json!({"Node": node, "Address": row.address, "Meta": row.meta});
            tenancy.stamp_partition(&mut node);
            json!({"Node": {"Verb": "set", "Node": node}})
        }
        Op::NodeDelete { node } => {
            let mut node = json!({"Node": node});
            tenancy.stamp_partition(&mut node);
            json!({"Node": {"Verb": "delete", "Node": node}})
        }
        Op::ServiceSet { node, id, row } => {
            let Weights { passing, warning } = row.weights;
            let mut service = json!({
                "ID": id, "Service": row.service, "Tags": row.tags, "Address": row.address,
                "Port": row.port, "Meta": row.meta,
                "Weights": {"Passing": passing, "Warning": warning},
            });
            tenancy.stamp(&mut service);
            json!({"Service": {"Verb": "set", "Node": node, "Service": service}})
        }
        Op::ServiceDelete { node, id, service } => {
            let mut service = json!({"ID": id, "Service": service});
            tenancy.stamp(&mut service);
            json!({"Service": {"Verb": "delete", "Node": node, "Service": service}})
        }
        Op::CheckSet { node, id, row } => {
            let mut check = json!({
                "Node": node, "CheckID": id, "Name": "consul-redis", "Status": row.status.as_str(),
                "Output": row.output, "ServiceID": row.service_id, "ServiceName": row.service,
            });
            tenancy.stamp(&mut check);
            json!({"Check": {"Verb": "set", "Check": check}})
        }
    }
}

impl Tenancy {
    fn stamp(&self, object: &mut Value) {
        if let Some(namespace) = &self.namespace {
            object["Namespace"] = json!(namespace);
        }
        self.stamp_partition(object);
    }

    fn stamp_partition(&self, object: &mut Value) {
        if let Some(partition) = &self.partition {
            object["Partition"] = json!(partition);
        }
    }
}

/// Operations in one transaction at the most (`docs/facts/consul.md` 1).
pub const OPS_MAX: usize = 64;

/// The body of a transaction that asks whether keys still have these indexes, 0 where there is none. It is read only.
pub fn unchanged<'a>(keys: impl Iterator<Item = (&'a str, u64)>, tenancy: &Tenancy) -> Value {
    let check = |(key, index)| {
        let mut kv = match index {
            0 => json!({"Verb": "check-not-exists", "Key": key}),
            _ => json!({"Verb": "check-index", "Key": key, "Index": index}),
        };
        tenancy.stamp(&mut kv);
        json!({ "KV": kv })
    };
    Value::Array(keys.map(check).collect())
}

/// The body of a transaction that writes keys which a session holds from then on. Consul refuses it where another session
/// holds one of them.
pub fn locked<'a>(
    keys: impl Iterator<Item = (String, &'a Value)>,
    session: &str,
    tenancy: &Tenancy,
) -> Value {
    let lock = |(key, value): (String, &Value)| {
        let value = BASE64.encode(value.to_string());
        let mut kv = json!({"Verb": "lock", "Key": key, "Value": value, "Session": session});
        tenancy.stamp(&mut kv);
        json!({ "KV": kv })
    };
    Value::Array(keys.map(lock).collect())
}

/// Which operations of a transaction have failed, and why, in Consul's words.
///
/// # Errors
/// Any [`ConsulError`].
pub fn failed_ops(answer: Response) -> Result<Vec<(usize, String)>, ConsulError> {
    const CALL: &str = "PUT /v1/txn";
    if answer.status != StatusCode::CONFLICT {
        return answer.ok(CALL).map(|_| Vec::new());
    }
    let read = serde_json::from_slice::<TxnResponse>(&harmless_json(&answer.body));
    let read = read.map_err(|error| ConsulError::Unreadable {
        call: CALL.to_owned(),
        what: error.to_string(),
    })?;
    let errors = read.errors.unwrap_or_default().into_iter();
    Ok(errors.map(|error| (error.op_index, brief(&error.what).into_owned())).collect())
}

/// The answer to a transaction. Read leniently: servers differ in what else they put in.
#[derive(Debug, Deserialize, Serialize)]
struct TxnResponse {
    #[serde(rename = "Results")]
    results: Option<Vec<BTreeMap<String, Value>>>,
    #[serde(rename = "Errors")]
    errors: Option<Vec<TxnError>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct TxnError {
    #[serde(rename = "OpIndex")]
    op_index: usize,
    #[serde(rename = "What")]
    what: String,
}

/// What Consul says before another server's words, once for each that passed them on (`docs/facts/consul.md` 3).
const PASSED_ON: &str = "rpc error making call: ";
/// Characters kept of what Consul says.
const WORDS_LEN_MAX: usize = 300;

/// What Consul says in the body of a refusal: the same, whichever server was asked.
pub fn words(body: &[u8]) -> String {
    let said = harmless(String::from_utf8_lossy(body));
    said.trim().trim_start_matches(PASSED_ON).chars().take(WORDS_LEN_MAX).collect()
}

/// What an answer means. `state_key` is the key whose new ModifyIndex is wanted.
pub fn outcome(status: u16, body: &[u8], state_key: &str) -> Outcome {
    let text = || words(body);
    match status {
        200 => match serde_json::from_slice::<TxnResponse>(&harmless_json(body)) {
            Ok(answer) => Outcome::Committed { index: new_index(&answer, state_key) },
            Err(error) => {
                Outcome::Unknown(format!("unreadable answer: {}", brief(&error.to_string())))
            }
        },
        409 => match serde_json::from_slice::<TxnResponse>(&harmless_json(body)) {
            Ok(answer) => rolled_back(answer.errors.unwrap_or_default()),
            Err(_) => Outcome::Refused(text()),
        },
        // The request itself is wrong or not allowed: it was not applied.
        400 | 401 | 403 | 404 | 405 | 413 => Outcome::Refused(format!("{status}: {}", text())),
        // Rate limits, lost leaders, proxies: it is unknown whether it was applied.
        _ => Outcome::Unknown(format!("{status}: {}", text())),
    }
}

fn new_index(answer: &TxnResponse, state_key: &str) -> u64 {
    let rows = answer.results.iter().flatten().filter_map(|row| row.get("KV"));
    rows.filter(|kv| kv.get("Key").and_then(Value::as_str) == Some(state_key))
        .find_map(|kv| kv.get("ModifyIndex").and_then(Value::as_u64))
        .unwrap_or(0)
}

/// 409 also carries refusals; only a moved index or an existing key is a lost race.
fn rolled_back(errors: Vec<TxnError>) -> Outcome {
    let lost = |error: &TxnError| {
        ["index is stale", "failed index check", "failed to check index", "already exists"]
            .iter()
            .any(|text| error.what.contains(text))
    };
    // The fence goes first: once it is stale, what the others say is about rows that the winner has changed.
    let fence_lost = errors.iter().any(|error| error.op_index == 0 && lost(error));
    let denied = |error: &TxnError| error.what.contains("ermission denied");
    match errors.iter().find(|error| if fence_lost { denied(error) } else { !lost(error) }) {
        None if errors.is_empty() => Outcome::Refused("rolled back without a reason".to_owned()),
        None => Outcome::Lost,
        Some(refusal) => {
            Outcome::Refused(format!("operation {}: {}", refusal.op_index, brief(&refusal.what)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_distinguished() {
        let stale = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"failed to set key \"a/state\", index is stale"}]}"#;
        let denied = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"x, index is stale"},{"OpIndex":2,"What":"Permission denied"}]}"#;
        let moved = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"x, index is stale"},{"OpIndex":2,"What":"Missing service registration"}]}"#;
        let done = r#"{"Results":[{"KV":{"Key":"a/b","ModifyIndex":9}},{"KV":{"Key":"a/state","ModifyIndex":18}},{"Service":{}}],"Errors":null}"#;
        for (status, body, wanted) in [
            (200, done, Outcome::Committed { index: 18 }),
            (409, stale, Outcome::Lost),
            (409, moved, Outcome::Lost),
            (409, denied, Outcome::Refused("operation 2: Permission denied".to_owned())),
            (403, "ACL not found", Outcome::Refused("403: ACL not found".to_owned())),
            (
                403,
                "rpc error making call: rpc error making call: ACL not found",
                Outcome::Refused("403: ACL not found".to_owned()),
            ),
            (500, "No cluster leader", Outcome::Unknown("500: No cluster leader".to_owned())),
            (429, "slow down", Outcome::Unknown("429: slow down".to_owned())),
        ] {
            assert_eq!(outcome(status, body.as_bytes(), "a/state"), wanted);
        }
    }

    #[test]
    fn tenancy_is_sent_only_when_set() {
        let op = Op::ServiceDelete { node: "n".into(), id: "i".into(), service: "s".into() };
        let plain = body(std::slice::from_ref(&op), &Tenancy::default()).to_string();
        assert!(!plain.contains("Namespace") && !plain.contains("Partition"), "{plain}");
        let tenancy = Tenancy { namespace: Some("team".into()), partition: Some("eu".into()) };
        let stamped = body(&[op], &tenancy).to_string();
        assert!(
            stamped.contains(r#""Namespace":"team""#) && stamped.contains(r#""Partition":"eu""#)
        );
    }
}
