//! How `maintenance` keeps a server out: a key in Consul, and a setting of the server.

use std::time::Duration;

use serde::Serialize;

use super::config::unwritten;
use crate::consul::client::Consul;
use crate::core::group::Outcome;
use crate::core::identity::address::Address;
use crate::core::published::projection::Op;
use crate::exit::{Exit, Failure};
use crate::redis_link::{Link, LinkSettings, fields};
use crate::switchover::failed;

/// How long agents and Sentinels may take to follow: Sentinel reads priorities every 10 s.
pub const FOLLOW_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks.
pub const STEP: Duration = Duration::from_millis(250);

/// Writes which are out, where the key is still the one that was read.
///
/// # Errors
/// A [`Failure`] when Consul refuses it, or another client was first.
pub async fn write_kept(
    consul: &Consul,
    key: String,
    kept: &impl Serialize,
    index: u64,
) -> Result<(), Failure> {
    let value = serde_json::to_string(kept)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    match consul.txn(&[Op::KeyCas { key: key.clone(), index, value }], &key).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Lost => {
            let message = format!("another client changed {key} at the same time");
            Err(Failure::new(Exit::Failed, message).hint("run it again"))
        }
        Outcome::Refused(what) | Outcome::Unknown(what) => Err(unwritten(&what)),
    }
}

/// Reads a setting of a server.
///
/// # Errors
/// A [`Failure`] without an answer, or when it has no such setting.
pub async fn setting(at: &Address, login: &LinkSettings, name: &str) -> Result<String, Failure> {
    let answer = call(at, login, &["CONFIG", "GET", name]).await?;
    let value = fields(&answer).map_err(|error| failed(at, &error))?.remove(name);
    value.ok_or_else(|| Failure::new(Exit::Failed, format!("{at} has no {name}")))
}

/// Sets it, so that it stays over a restart where the server has a config file.
///
/// # Errors
/// A [`Failure`] without an answer, or with a refusal.
pub async fn set(
    at: &Address,
    login: &LinkSettings,
    name: &str,
    value: &str,
) -> Result<(), Failure> {
    call(at, login, &["CONFIG", "SET", name, value]).await?;
    // Fails without a config file.
    let _ = call(at, login, &["CONFIG", "REWRITE"]).await;
    Ok(())
}

async fn call(
    at: &Address,
    login: &LinkSettings,
    command: &[&str],
) -> Result<redis::Value, Failure> {
    let opened = Link::open(at, login).await;
    let mut link = opened.map_err(|error| failed(at, &error))?;
    link.call_to_save(command).await.map_err(|error| failed(at, &error))
}
