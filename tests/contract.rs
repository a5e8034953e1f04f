//! One suite, run against the Consul of the simulation and against a real one: what the simulation shows
//! holds only as far as its Consul behaves like Consul. The same for the nodes of the clusters' simulation.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../core/tests/sim/memory_consul.rs"]
#[expect(dead_code, reason = "the simulation's own, which uses all of it")]
mod memory_consul;

#[path = "../core/tests/cluster_sim/nodes/mod.rs"]
#[expect(dead_code, reason = "the simulation's own, which uses all of it")]
mod nodes;

#[path = "contract/clusters.rs"]
mod clusters;

#[path = "contract/many.rs"]
mod many;

use std::collections::BTreeMap;

use consul_redis::clock::Clock;
use consul_redis::consul::client::Consul;
use consul_redis::consul::store::ReadMode;
use consul_redis::core::group::Outcome;
use consul_redis::core::known::observed::{RowsAnswer, StoreAnswer};
use consul_redis::core::published::projection::{
    CheckRow, CheckStatus, Layout, MANAGED_BY, NodeRow, Op, ServiceRow, Weights, node_row,
};
use consul_redis::core::time::Mono;
use consul_redis::lab::consul::{ConsulServer, ConsulSpec};
use consul_redis::lab::process::Life;
use consul_redis::lab::tools;

use self::memory_consul::MemoryConsul;

/// Either of them.
enum Subject {
    Memory(Box<MemoryConsul>),
    Real(Box<(Consul, ConsulServer, Clock)>),
}

impl Subject {
    async fn txn(&mut self, ops: &[Op], fence: &str) -> Outcome {
        match self {
            Self::Memory(consul) => consul.txn(ops, fence),
            Self::Real(real) => real.0.txn(ops, fence).await,
        }
    }

    async fn group(&self, layout: &Layout) -> StoreAnswer {
        match self {
            Self::Memory(consul) => consul.group(layout, Mono(1)),
            Self::Real(real) => {
                real.0.group(layout, ReadMode::Consistent, &real.2).await.unwrap().value
            }
        }
    }

    async fn rows(&self, node: &str) -> RowsAnswer {
        match self {
            Self::Memory(consul) => consul.rows(node, Mono(1)),
            Self::Real(real) => real.0.rows(node, &real.2).await.unwrap(),
        }
    }

    async fn passing(&self, service: &str) -> Vec<String> {
        match self {
            Self::Memory(consul) => consul.passing(service, None),
            Self::Real(real) => real.1.passing(service).await.unwrap(),
        }
    }
}

fn layout(name: &str) -> Layout {
    Layout::new("contract", &name.parse().unwrap())
}

fn service(name: &str, address: &str) -> ServiceRow {
    ServiceRow {
        service: name.to_owned(),
        address: address.to_owned(),
        port: 6379,
        tags: vec!["primary".to_owned()],
        meta: BTreeMap::from([("group".to_owned(), "x".to_owned())]),
        weights: Weights::default(),
    }
}

fn check(id: &str, name: &str, status: CheckStatus) -> CheckRow {
    CheckRow {
        service_id: id.to_owned(),
        service: name.to_owned(),
        status,
        output: "why".to_owned(),
    }
}

fn set(key: String, value: &str) -> Op {
    Op::KeySet { key, value: value.to_owned() }
}

fn cas(key: String, index: u64, value: &str) -> Op {
    Op::KeyCas { key, index, value: value.to_owned() }
}

#[track_caller]
fn committed(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Committed { index } => index,
        other => panic!("not committed: {other:?}"),
    }
}

async fn suite(consul: &mut Subject) {
    a_compare_and_set_at_zero_creates_once(consul).await;
    a_compare_and_set_wins_only_at_the_index_it_read(consul).await;
    a_value_that_stays_the_same_keeps_its_index(consul).await;
    a_check_of_an_index_guards_what_follows(consul).await;
    one_failure_undoes_everything(consul).await;
    later_operations_see_earlier_ones(consul).await;
    a_service_needs_its_node_and_a_check_its_service(consul).await;
    deleting_what_is_not_there_is_no_failure(consul).await;
    a_deleted_service_takes_its_checks_along(consul).await;
    a_deleted_node_takes_everything_along(consul).await;
    a_node_can_be_deleted_and_made_anew_in_one_transaction(consul).await;
    a_critical_check_hides_its_service(consul).await;
    rows_come_back_as_they_were_written(consul).await;
    a_group_that_does_not_exist_is_empty(consul).await;
    a_tree_is_deleted_by_its_prefix_alone(consul).await;
    sixty_four_operations_are_one_transaction_and_more_are_none(consul).await;
    a_node_without_our_mark_is_foreign(consul).await;
}

async fn a_compare_and_set_at_zero_creates_once(consul: &mut Subject) {
    let key = layout("create").state();
    let first = committed(consul.txn(&[cas(key.clone(), 0, "a")], &key).await);
    assert!(first > 0);
    assert_eq!(consul.txn(&[cas(key.clone(), 0, "b")], &key).await, Outcome::Lost);
}

async fn a_compare_and_set_wins_only_at_the_index_it_read(consul: &mut Subject) {
    let layout = layout("cas");
    let key = layout.state();
    let first = committed(consul.txn(&[cas(key.clone(), 0, "a")], &key).await);
    let second = committed(consul.txn(&[cas(key.clone(), first, "b")], &key).await);
    assert!(second > first);
    assert_eq!(consul.group(&layout).await.state_index, second);
    assert_eq!(consul.txn(&[cas(key.clone(), first, "c")], &key).await, Outcome::Lost);
}

async fn a_value_that_stays_the_same_keeps_its_index(consul: &mut Subject) {
    let key = layout("same").state();
    let first = committed(consul.txn(&[cas(key.clone(), 0, "a")], &key).await);
    let again = committed(consul.txn(&[cas(key.clone(), first, "a")], &key).await);
    assert_eq!(first, again);
}

async fn a_check_of_an_index_guards_what_follows(consul: &mut Subject) {
    let layout = layout("guard");
    let key = layout.state();
    let missing = Op::KeyCheckIndex { key: key.clone(), index: 5 };
    let plain = format!("{}primary", layout.root());
    assert_eq!(consul.txn(&[missing, set(plain.clone(), "x")], "").await, Outcome::Lost);
    let index = committed(consul.txn(&[cas(key.clone(), 0, "a")], &key).await);
    let guard = |index| Op::KeyCheckIndex { key: key.clone(), index };
    committed(consul.txn(&[guard(index), set(plain.clone(), "y")], "").await);
    let moved = [guard(index + 1_000), set(plain.clone(), "z")];
    assert_eq!(consul.txn(&moved, "").await, Outcome::Lost);
    assert_eq!(consul.group(&layout).await.plain["primary"], "y");
}

async fn one_failure_undoes_everything(consul: &mut Subject) {
    let layout = layout("undo");
    let plain = format!("{}primary", layout.root());
    let ops = [
        set(plain, "x"),
        Op::NodeSet { node: layout.node(), row: node_row(None) },
        cas(layout.state(), 99_999, "no"),
    ];
    assert_eq!(consul.txn(&ops, "").await, Outcome::Lost);
    assert!(consul.group(&layout).await.plain.is_empty());
    assert_eq!(consul.rows(&layout.node()).await.found, None);
}

async fn later_operations_see_earlier_ones(consul: &mut Subject) {
    let node = layout("order").node();
    let id = "order-primary".to_owned();
    let ops = [
        Op::NodeSet { node: node.clone(), row: node_row(Some("10.0.0.1")) },
        Op::ServiceSet { node: node.clone(), id: id.clone(), row: service(&id, "10.0.0.1") },
        Op::CheckSet {
            node: node.clone(),
            id: id.clone(),
            row: check(&id, &id, CheckStatus::Passing),
        },
    ];
    committed(consul.txn(&ops, "").await);
    assert_eq!(consul.passing("order-primary").await, ["10.0.0.1:6379"]);
}

async fn a_service_needs_its_node_and_a_check_its_service(consul: &mut Subject) {
    let node = layout("needs").node();
    let alone = Op::ServiceSet {
        node: node.clone(),
        id: "needs".to_owned(),
        row: service("needs", "10.0.0.1"),
    };
    let refused = consul.txn(&[alone], "").await;
    assert!(
        matches!(&refused, Outcome::Refused(what) if what.contains("Missing node registration")),
        "{refused:?}"
    );
    let ops = [
        Op::NodeSet { node: node.clone(), row: node_row(None) },
        Op::CheckSet {
            node,
            id: "needs".to_owned(),
            row: check("needs", "needs", CheckStatus::Passing),
        },
    ];
    let refused = consul.txn(&ops, "").await;
    assert!(matches!(&refused, Outcome::Refused(_)), "{refused:?}");
}

async fn deleting_what_is_not_there_is_no_failure(consul: &mut Subject) {
    let layout = layout("absent");
    let ops = [
        Op::ServiceDelete {
            node: layout.node(),
            id: "absent".to_owned(),
            service: "absent".to_owned(),
        },
        Op::NodeDelete { node: layout.node() },
        Op::KeyDeleteTree { prefix: layout.root() },
    ];
    committed(consul.txn(&ops, "").await);
}

async fn with_one_service(consul: &mut Subject, name: &str) -> String {
    let node = layout(name).node();
    let ops = [
        Op::NodeSet { node: node.clone(), row: node_row(None) },
        Op::ServiceSet { node: node.clone(), id: name.to_owned(), row: service(name, "10.0.0.1") },
        Op::CheckSet {
            node: node.clone(),
            id: name.to_owned(),
            row: check(name, name, CheckStatus::Passing),
        },
    ];
    committed(consul.txn(&ops, "").await);
    node
}

async fn a_deleted_service_takes_its_checks_along(consul: &mut Subject) {
    let node = with_one_service(consul, "cascade").await;
    let delete = Op::ServiceDelete {
        node: node.clone(),
        id: "cascade".to_owned(),
        service: "cascade".to_owned(),
    };
    committed(consul.txn(&[delete], "").await);
    let rows = consul.rows(&node).await.found.unwrap();
    assert!(rows.services.is_empty() && rows.checks.is_empty(), "{rows:?}");
}

async fn a_deleted_node_takes_everything_along(consul: &mut Subject) {
    let node = with_one_service(consul, "gone").await;
    committed(consul.txn(&[Op::NodeDelete { node: node.clone() }], "").await);
    assert_eq!(consul.rows(&node).await.found, None);
    assert!(consul.passing("gone").await.is_empty());
}

async fn a_node_can_be_deleted_and_made_anew_in_one_transaction(consul: &mut Subject) {
    let node = with_one_service(consul, "anew").await;
    let ops = [
        Op::NodeDelete { node: node.clone() },
        Op::NodeSet { node: node.clone(), row: node_row(None) },
        Op::ServiceSet {
            node: node.clone(),
            id: "other".to_owned(),
            row: service("anew", "10.0.0.2"),
        },
    ];
    committed(consul.txn(&ops, "").await);
    let rows = consul.rows(&node).await.found.unwrap();
    assert_eq!(rows.services.keys().collect::<Vec<_>>(), ["other"]);
    assert!(rows.checks.is_empty(), "{rows:?}");
}

async fn a_critical_check_hides_its_service(consul: &mut Subject) {
    let node = with_one_service(consul, "hidden").await;
    assert_eq!(consul.passing("hidden").await.len(), 1);
    let row = check("hidden", "hidden", CheckStatus::Critical);
    committed(consul.txn(&[Op::CheckSet { node, id: "hidden".to_owned(), row }], "").await);
    assert!(consul.passing("hidden").await.is_empty());
}

async fn rows_come_back_as_they_were_written(consul: &mut Subject) {
    let node = with_one_service(consul, "same-rows").await;
    let rows = consul.rows(&node).await.found.unwrap();
    assert_eq!(rows.node, node_row(None));
    assert_eq!(rows.services["same-rows"], service("same-rows", "10.0.0.1"));
    assert_eq!(rows.checks["same-rows"], check("same-rows", "same-rows", CheckStatus::Passing));
}

async fn a_group_that_does_not_exist_is_empty(consul: &mut Subject) {
    let answer = consul.group(&layout("nothing")).await;
    assert_eq!((answer.state_index, answer.plain.len(), answer.history.len()), (0, 0, 0));
    assert_eq!(answer.record(), None);
}

async fn a_tree_is_deleted_by_its_prefix_alone(consul: &mut Subject) {
    let (one, other) = (layout("tree"), layout("tree-2"));
    let key = |layout: &Layout| format!("{}primary", layout.root());
    committed(consul.txn(&[set(key(&one), "x"), set(key(&other), "y")], "").await);
    committed(consul.txn(&[Op::KeyDeleteTree { prefix: one.root() }], "").await);
    assert!(consul.group(&one).await.plain.is_empty());
    assert_eq!(consul.group(&other).await.plain["primary"], "y");
}

async fn sixty_four_operations_are_one_transaction_and_more_are_none(consul: &mut Subject) {
    let root = layout("many").root();
    let ops = |count: usize| -> Vec<Op> {
        (0..count).map(|n| set(format!("{root}key-{n}"), "x")).collect()
    };
    committed(consul.txn(&ops(64), "").await);
    // Newer servers take 128; no server takes 129.
    assert!(matches!(consul.txn(&ops(129), "").await, Outcome::Refused(_)));
}

async fn a_node_without_our_mark_is_foreign(consul: &mut Subject) {
    let node = layout("foreign").node();
    let row = NodeRow { address: "10.9.9.9".to_owned(), meta: BTreeMap::new() };
    committed(consul.txn(&[Op::NodeSet { node: node.clone(), row: row.clone() }], "").await);
    let found = consul.rows(&node).await;
    assert!(found.foreign);
    let (key, value) = MANAGED_BY;
    let ours = NodeRow { meta: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..row };
    committed(consul.txn(&[Op::NodeSet { node: node.clone(), row: ours }], "").await);
    assert!(!consul.rows(&node).await.foreign);
}

#[tokio::test]
async fn the_consul_of_the_simulation_keeps_the_contract() {
    suite(&mut Subject::Memory(Box::default())).await;
}

#[tokio::test]
async fn a_real_consul_keeps_the_contract() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let server = ConsulServer::start(ConsulSpec {
        tool: tools::consul().unwrap(),
        ip: [127, 0, 0, 1].into(),
        dir: dir.path(),
        master_token: None,
        tls: None,
        script_checks: false,
        cluster: None,
        life: Life::WithUs,
    })
    .await
    .unwrap();
    let client = server.client().unwrap();
    suite(&mut Subject::Real(Box::new((client, server, Clock::start())))).await;
}
