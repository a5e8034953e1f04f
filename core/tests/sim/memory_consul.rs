//! Consul in memory: what `/v1/txn`, KV reads and the catalog do, as far as the agent can tell.
//!
//! `tests/contract.rs` of the program runs one suite against this and against a real Consul, so that what the
//! simulation shows holds outside it.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::group::Outcome;
use consul_redis_core::known::observed::{Key, RowsAnswer, StoreAnswer};
use consul_redis_core::published::projection::{CheckRow, CheckStatus, Layout, Op, Rows, is_ours};
use consul_redis_core::time::Mono;

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    value: String,
    modify_index: u64,
}

/// The whole of a Consul.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryConsul {
    index: u64,
    /// Counts every change, and goes on counting when everything is lost.
    version: u64,
    keys: BTreeMap<String, Entry>,
    nodes: BTreeMap<String, Rows>,
}

impl MemoryConsul {
    /// Applies a transaction: all of it, or nothing.
    pub fn txn(&mut self, ops: &[Op], fence: &str) -> Outcome {
        if ops.len() > 64 {
            return Outcome::Refused("413: too many operations".to_owned());
        }
        let mut next = self.clone();
        next.index += 1;
        for (at, op) in ops.iter().enumerate() {
            if let Err(rejection) = next.apply(op) {
                return match rejection {
                    Rejection::Stale => Outcome::Lost,
                    Rejection::Wrong(what) => Outcome::Refused(format!("operation {at}: {what}")),
                };
            }
        }
        next.version += 1;
        *self = next;
        Outcome::Committed { index: self.keys.get(fence).map_or(0, |entry| entry.modify_index) }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Rejection> {
        match op {
            Op::KeyCas { key, index, value } => {
                let found = self.keys.get(key).map_or(0, |entry| entry.modify_index);
                if found != *index {
                    return Err(Rejection::Stale);
                }
                self.set_key(key, value);
            }
            Op::KeyCheckIndex { key, index } => {
                if self.keys.get(key).is_none_or(|entry| entry.modify_index != *index) {
                    return Err(Rejection::Stale);
                }
            }
            Op::KeySet { key, value } => self.set_key(key, value),
            Op::KeyDeleteTree { prefix } => self.keys.retain(|key, _| !key.starts_with(prefix)),
            Op::NodeSet { node, row } => {
                let fresh =
                    Rows { node: row.clone(), services: BTreeMap::new(), checks: BTreeMap::new() };
                self.nodes.entry(node.clone()).or_insert(fresh).node = row.clone();
            }
            Op::NodeDelete { node } => {
                self.nodes.remove(node);
            }
            Op::ServiceSet { node, id, row } => {
                let rows = self.node(node)?;
                rows.services.insert(id.clone(), row.clone());
            }
            Op::ServiceDelete { node, id, .. } => {
                if let Some(rows) = self.nodes.get_mut(node) {
                    rows.services.remove(id);
                    rows.checks.retain(|_, check| &check.service_id != id);
                }
            }
            Op::CheckSet { node, id, row } => {
                let rows = self.node(node)?;
                if !rows.services.contains_key(&row.service_id) {
                    return Err(Rejection::Wrong("Missing service registration".to_owned()));
                }
                rows.checks.insert(id.clone(), row.clone());
            }
        }
        Ok(())
    }

    /// A value that stays the same keeps its ModifyIndex, as in the real one.
    fn set_key(&mut self, key: &str, value: &str) {
        let index = self.index;
        let entry = self
            .keys
            .entry(key.to_owned())
            .or_insert(Entry { value: String::new(), modify_index: 0 });
        if entry.modify_index == 0 || entry.value != value {
            value.clone_into(&mut entry.value);
            entry.modify_index = index;
        }
    }

    fn node(&mut self, node: &str) -> Result<&mut Rows, Rejection> {
        self.nodes
            .get_mut(node)
            .ok_or_else(|| Rejection::Wrong("Missing node registration".to_owned()))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.keys.iter().map(|(key, entry)| Key {
            key: key.clone(),
            value: entry.value.clone().into_bytes(),
            modify_index: entry.modify_index,
            locked: false,
        })
    }

    /// The group's keys.
    pub fn group(&self, layout: &Layout, asked: Mono) -> StoreAnswer {
        StoreAnswer::from_keys(layout, asked, self.keys())
    }

    /// Different after every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The rows of a node.
    pub fn rows(&self, node: &str, asked: Mono) -> RowsAnswer {
        let found = self.nodes.get(node).cloned();
        let foreign = found.as_ref().is_some_and(|rows| !is_ours(&rows.node));
        RowsAnswer { asked, found, foreign, others: BTreeSet::new() }
    }

    /// What DNS and `?passing` answer for a service: every row without a critical check.
    pub fn passing(&self, service: &str, tag: Option<&str>) -> Vec<String> {
        let mut answer: Vec<String> = self
            .nodes
            .values()
            .flat_map(|rows| rows.services.iter().map(move |(id, row)| (rows, id, row)))
            .filter(|(_, _, row)| row.service == service)
            .filter(|(_, _, row)| tag.is_none_or(|tag| row.tags.iter().any(|t| t == tag)))
            .filter(|(rows, id, _)| passes(rows, id))
            .map(|(_, _, row)| format!("{}:{}", row.address, row.port))
            .collect();
        answer.sort();
        answer
    }

    /// Everything is lost, as with a dev agent that restarts.
    pub fn wipe(&mut self) {
        *self = Self { version: self.version + 1, ..Self::default() };
    }

    /// A row that another program deletes.
    pub fn tamper(&mut self, node: &str, pick: usize) {
        self.version += 1;
        if let Some(rows) = self.nodes.get_mut(node) {
            let id = rows.services.keys().nth(pick % rows.services.len().max(1)).cloned();
            if let Some(id) = id {
                rows.services.remove(&id);
                rows.checks.retain(|_, check| check.service_id != id);
            }
        }
    }
}

fn passes(rows: &Rows, service: &str) -> bool {
    let own = |check: &&CheckRow| check.service_id == service;
    rows.checks.values().filter(own).all(|check| check.status == CheckStatus::Passing)
}

enum Rejection {
    Stale,
    Wrong(String),
}
