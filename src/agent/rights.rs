//! The rights that an agent needs in Consul.

use std::collections::BTreeMap;

use crate::core::identity::address::ServiceName;
use crate::core::published::projection::{Layout, NO_ADDRESS, Op, ServiceRow, Weights, node_row};

/// Every kind of write the agent makes for a group or a cluster, behind a guard that never holds.
pub fn rights_probe(layout: &Layout, service: &ServiceName) -> Vec<Op> {
    let mut ops = vec![
        Op::KeyCheckIndex { key: layout.state(), index: u64::MAX >> 1 },
        Op::KeySet { key: layout.state(), value: String::new() },
        Op::NodeSet { node: layout.node(), row: node_row(None) },
    ];
    for name in [service.as_str().to_owned(), service.primary(), service.replica()] {
        let row = ServiceRow {
            service: name,
            address: NO_ADDRESS.to_owned(),
            port: 1,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weights: Weights::default(),
        };
        ops.push(Op::ServiceSet { node: layout.node(), id: "probe".to_owned(), row });
    }
    ops
}

/// The right that a refusal is about, in words.
pub fn denied_right(what: &str, ops: &[Op]) -> Option<String> {
    let index: usize = what.strip_prefix("operation ")?.split(':').next()?.parse().ok()?;
    Some(match ops.get(index)? {
        Op::KeyCheckIndex { key, .. } | Op::KeySet { key, .. } => format!("to write key {key}"),
        Op::NodeSet { node, .. } => format!("to write node {node}"),
        Op::ServiceSet { row, .. } => format!("to write service {}", row.service),
        _ => return None,
    })
}
