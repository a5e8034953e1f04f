//! `/primary`, `/replica` and `/health`: 200 while it is so, 503 while it is not or we cannot know.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;

use super::Shown;
use crate::core::identity::address::{Address, GroupName};
use crate::core::published::record::PublishedRole;
use crate::core::shown::status::{GroupStatus, InstanceStatus};

/// Stands for whatever instance of the group it may be.
const ANY: &str = "any";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthQuestion {
    /// It is the writer.
    Primary,
    /// It is a replica in sync.
    Replica,
    /// It answers, whatever its role.
    Health,
}

/// The query of a request: which group, which instance, which generation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The group; the only one when it is not said.
    group: Option<GroupName>,
    /// The instance, or `any`; this host's when it is not said.
    instance: Option<String>,
    /// Only while this is the generation.
    generation: Option<u64>,
}

/// The groups, and this host's instances of each.
pub type Groups = BTreeMap<GroupName, (Shown, Vec<Address>)>;

/// The answer and a line about it.
pub fn answer(wanted: HealthQuestion, ask: &Ask, groups: &Groups) -> (StatusCode, String) {
    match find(ask, groups) {
        Ok((status, instance)) => judge(wanted, ask, &status, instance.as_ref()),
        Err((code, why)) => (code, format!("{why}\n")),
    }
}

type AskedGroup = (GroupStatus, Option<Address>);

/// The group, and the instance unless it is any.
fn find(ask: &Ask, groups: &Groups) -> Result<AskedGroup, (StatusCode, String)> {
    let unclear = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let (shown, local) = match &ask.group {
        Some(name) => {
            let none = || (StatusCode::NOT_FOUND, format!("group {name} is not watched here"));
            groups.get(name).ok_or_else(none)?
        }
        None if groups.len() > 1 => {
            return Err(unclear("there are several groups: say ?group=NAME"));
        }
        None => groups.values().next().ok_or_else(|| unclear("there is no group"))?,
    };
    let instance = match (ask.instance.as_deref(), &local[..]) {
        (Some(ANY), _) | (None, []) => None,
        (Some(text), _) => Some(text.parse::<Address>().map_err(|e| unclear(&e.to_string()))?),
        (None, [only]) => Some(only.clone()),
        (None, _) => {
            return Err(unclear("this host has several instances: say ?instance=HOST:PORT"));
        }
    };
    let status = shown.borrow().as_ref().map(|drawn| drawn.status.clone());
    let status = status
        .ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "nothing is known yet".to_owned()))?;
    Ok((status, instance))
}

fn judge(
    wanted: HealthQuestion,
    ask: &Ask,
    status: &GroupStatus,
    instance: Option<&Address>,
) -> (StatusCode, String) {
    let is = |found: &&InstanceStatus| match wanted {
        HealthQuestion::Primary => found.serves == Some(PublishedRole::Primary),
        HealthQuestion::Replica => found.serves == Some(PublishedRole::Replica),
        HealthQuestion::Health => found.ready,
    };
    let asked = |found: &&InstanceStatus| instance.is_none_or(|i| i == &found.address);
    let right = ask.generation.is_none_or(|generation| generation == status.generation);
    let found = status.instances.iter().filter(asked).find(is);
    let code = match found {
        Some(_) if right => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let role = found.and_then(|found| found.serves).map_or("none", PublishedRole::as_str);
    (code, format!("role {role}, generation {}\n", status.generation))
}
