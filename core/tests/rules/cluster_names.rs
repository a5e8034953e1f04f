//! What agents publish of a Redis Cluster: loops over a scripted cluster and a Consul in memory.

use std::collections::{BTreeMap, BTreeSet};

use consul_redis_core::cluster::judgement::{NodeAnswer, NodeReadings};
use consul_redis_core::cluster::order::NodeOrder;
use consul_redis_core::cluster::record::{ClusterRecord, ClusterStore, StoredCluster};
use consul_redis_core::cluster::renewal::{ClusterPolicy, HOLD_NAMES_MS, NoAnswer};
use consul_redis_core::cluster::shown::ClusterStatus;
use consul_redis_core::cluster::slots::SLOTS;
use consul_redis_core::cluster::table::Table;
use consul_redis_core::cluster::wanted::ClusterDuties;
use consul_redis_core::cluster::watch::{
    ASK_QUICK_MS, ClusterInput, ClusterLook, ClusterLoop, ClusterOutput, ClusterPlan, NodeReading,
};
use consul_redis_core::group::{Aftermath, Outcome};
use consul_redis_core::identity::address::Address;
use consul_redis_core::known::observed::{DeathSign, Key, RowsAnswer};
use consul_redis_core::published::projection::{Layout, Op, Rows, TXN_OPS_MAX};
use consul_redis_core::time::{Mono, Now};
use jiff::Timestamp;

use crate::cluster::{Cluster, Line, NODES, SLOTS_OF, at, bare, id, link_to};

/// A turn of the scripted world.
pub(crate) const STEP_MS: u64 = ASK_QUICK_MS;
/// Long enough for whatever agents do at once.
pub(crate) const AT_ONCE: usize = 4;
/// Long enough for all that takes time.
pub(crate) const LATER: usize = 60;

pub(crate) fn layout() -> Layout {
    Layout::of_cluster("redis-ha", &"orders".parse().expect("a name"))
}

/// Consul's part: keys and rows, and who wrote how often.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) index: u64,
    pub(crate) keys: BTreeMap<String, (Vec<u8>, u64)>,
    pub(crate) rows: Option<Rows>,
    pub(crate) writes: Vec<String>,
}

impl Kept {
    fn apply(&mut self, by: &str, ops: &[Op]) -> Outcome {
        assert!(ops.len() <= TXN_OPS_MAX, "{} operations", ops.len());
        let now = |key: &String| self.keys.get(key).map_or(0, |(_, index)| *index);
        let holds = |op: &Op| match op {
            Op::KeyCas { key, index, .. } | Op::KeyCheckIndex { key, index } => now(key) == *index,
            _ => true,
        };
        if !ops.iter().all(holds) {
            return Outcome::Lost;
        }
        self.index += 1;
        self.writes.push(by.to_owned());
        for op in ops.iter().cloned() {
            match op {
                Op::KeyCas { key, value, .. } | Op::KeySet { key, value } => {
                    self.keys.insert(key, (value.into_bytes(), self.index));
                }
                Op::KeyDeleteTree { prefix } => {
                    self.keys.retain(|key, _| !key.starts_with(&prefix))
                }
                Op::NodeSet { row, .. } => {
                    let (services, checks) = (BTreeMap::new(), BTreeMap::new());
                    let rows =
                        self.rows.get_or_insert(Rows { node: row.clone(), services, checks });
                    rows.node = row;
                }
                Op::NodeDelete { .. } => self.rows = None,
                Op::ServiceSet { id, row, .. } => {
                    self.rows.as_mut().expect("a node").services.insert(id, row);
                }
                Op::ServiceDelete { id, .. } => {
                    let row = self.rows.as_mut().expect("a node").services.remove(&id);
                    assert!(row.is_some(), "{id} is not there");
                }
                Op::KeyCheckIndex { .. } => {}
                Op::CheckSet { .. } => panic!("no check is written"),
            }
        }
        let state = layout().state();
        Outcome::Committed { index: self.keys.get(&state).map_or(0, |(_, index)| *index) }
    }

    fn store(&self, asked: Mono) -> ClusterStore {
        let keys = self.keys.iter().map(|(key, (value, index))| Key {
            key: key.clone(),
            value: value.clone(),
            modify_index: *index,
            // The session of an agent that is there.
            locked: key.contains("/agents/"),
        });
        ClusterStore::from_keys(&layout(), asked, keys)
    }

    fn key(&self, name: &str) -> String {
        let key = format!("{}{name}", layout().root());
        String::from_utf8(self.keys.get(&key).expect(name).0.clone()).expect("text")
    }
}

/// One agent.
pub(crate) struct Watcher {
    pub(crate) name: String,
    pub(crate) machine: ClusterLoop,
    pub(crate) followed: BTreeSet<Address>,
    pub(crate) seen: u64,
    /// What it gets no answer from, and why.
    pub(crate) deaf: BTreeMap<Address, NoAnswer>,
    pub(crate) said: Vec<String>,
    /// What it has counted of deaths.
    pub(crate) died: Vec<(DeathSign, Aftermath)>,
}

/// A scripted world.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// Other nodes than those.
    pub(crate) others: NodeReadings,
    pub(crate) kept: Kept,
    pub(crate) agents: Vec<Watcher>,
    pub(crate) now: u64,
    /// Which agent has told what.
    pub(crate) told: Vec<(String, NodeOrder)>,
    /// What is done to the cluster when a node is told something.
    pub(crate) obeys: fn(&mut Cluster, &NodeOrder),
}

impl Stage {
    pub(crate) fn new(cluster: Cluster, agents: usize) -> Self {
        Self::with_duties(cluster, agents, ClusterDuties::NONE)
    }

    pub(crate) fn with_duties(cluster: Cluster, agents: usize, duties: ClusterDuties) -> Self {
        let names = (0..agents).map(|n| format!("agent-{n}"));
        let agents = names.map(|name| Watcher::new(name, duties)).collect();
        let (others, kept, told) = (NodeReadings::new(), Kept::default(), Vec::new());
        let mut stage = Self { cluster, others, kept, agents, now: 1, told, obeys: |_, _| {} };
        stage.seed(&[at('f')]);
        stage
    }

    pub(crate) fn seed(&mut self, seeds: &[Address]) {
        for index in 0..self.agents.len() {
            let seeds = seeds.iter().cloned().collect();
            self.hand_in(index, ClusterInput::Seeds(seeds));
        }
    }

    pub(crate) fn published() -> Self {
        Self::published_by(1)
    }

    pub(crate) fn published_by(agents: usize) -> Self {
        let mut stage = Self::new(Cluster::healthy(), agents);
        stage.turn(AT_ONCE);
        assert_eq!(stage.named("orders-primary"), ats("abc"));
        stage.kept.writes.clear();
        stage
    }

    pub(crate) fn turn(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += STEP_MS;
            for index in 0..self.agents.len() {
                self.hand_in(index, ClusterInput::Tick);
                if self.agents[index].seen != self.kept.index {
                    self.agents[index].seen = self.kept.index;
                    let store = self.kept.store(Mono(self.now));
                    self.hand_in(index, ClusterInput::Watched(store));
                    // What the watch of the rows tells.
                    let rows = self.rows();
                    self.hand_in(index, ClusterInput::Rows(rows));
                }
            }
        }
    }

    pub(crate) fn rows(&self) -> RowsAnswer {
        let others = BTreeSet::new();
        RowsAnswer { asked: Mono(self.now), found: self.kept.rows.clone(), foreign: false, others }
    }

    pub(crate) fn hand_in(&mut self, index: usize, input: ClusterInput) {
        let now = Now {
            mono: Mono(self.now),
            wall: Timestamp::from_millisecond(1_700_000_000_000 + self.now as i64).expect("a time"),
        };
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            for output in self.agents[index].machine.on(inputs.remove(0), now) {
                match output {
                    ClusterOutput::Follow(addresses) => self.agents[index].followed = addresses,
                    ClusterOutput::Ask(_) => {
                        for address in self.agents[index].followed.clone() {
                            let answer = self.answer(index, &address);
                            let reading = NodeReading { asked: now.mono, answer };
                            inputs.push(ClusterInput::Node(address, reading));
                        }
                    }
                    ClusterOutput::ReadStore => {
                        inputs.push(ClusterInput::Consistent(self.kept.store(now.mono)));
                    }
                    ClusterOutput::ReadRows => inputs.push(ClusterInput::Rows(self.rows())),
                    ClusterOutput::Write(ops) => {
                        let name = self.agents[index].name.clone();
                        inputs.push(ClusterInput::Written(self.kept.apply(&name, &ops)));
                    }
                    ClusterOutput::Retract(ops) => {
                        let name = self.agents[index].name.clone();
                        self.kept.apply(&name, &ops);
                    }
                    ClusterOutput::Say(line) => self.agents[index].said.push(line.text),
                    ClusterOutput::Died(sign, aftermath) => {
                        self.agents[index].died.push((sign, aftermath));
                    }
                    ClusterOutput::Tell(order, _) => {
                        (self.obeys)(&mut self.cluster, &order);
                        self.told.push((self.agents[index].name.clone(), order.clone()));
                        inputs.push(ClusterInput::Told(order, Ok(())));
                    }
                }
            }
        }
    }

    pub(crate) fn answer(&self, agent: usize, address: &Address) -> Result<NodeAnswer, NoAnswer> {
        if let Some(why) = self.agents[agent].deaf.get(address) {
            return Err(why.clone());
        }
        let readings = self.cluster.readings();
        let refused = || NoAnswer::Refused("cannot connect: refused".to_owned());
        let found = readings.get(address).or_else(|| self.others.get(address));
        found.cloned().ok_or_else(refused)?.map_err(|_| refused())
    }

    /// What Consul holds.
    pub(crate) fn store(&self) -> ClusterStore {
        self.kept.store(Mono(self.now))
    }

    pub(crate) fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// What an agent shows.
    pub(crate) fn shown(&self, agent: usize) -> ClusterStatus {
        self.agents[agent].machine.shown()
    }

    pub(crate) fn value_of(&self, key: &str) -> String {
        String::from_utf8(self.kept.keys.get(key).expect(key).0.clone()).expect("text")
    }

    /// Another program writes a key.
    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.kept.index += 1;
        self.kept.keys.insert(key.to_owned(), (value.as_bytes().to_vec(), self.kept.index));
    }

    /// An operator deletes a key.
    pub(crate) fn delete(&mut self, key: &str) {
        self.kept.index += 1;
        assert!(self.kept.keys.remove(key).is_some(), "{key} is not there");
    }

    pub(crate) fn record(&self) -> ClusterRecord {
        self.kept.store(Mono(self.now)).record().expect("a record").clone()
    }

    /// Which addresses a name answers.
    pub(crate) fn named(&self, service: &str) -> BTreeSet<String> {
        let rows = self.kept.rows.iter().flat_map(|rows| rows.services.values());
        rows.filter(|row| row.service == service)
            .map(|row| format!("{}:{}", row.address, row.port))
            .collect()
    }

    pub(crate) fn tags(&self, service: &str, node: char) -> Vec<String> {
        let key = format!("{service}:{}", at(node));
        self.kept.rows.as_ref().expect("rows").services[&key].tags.clone()
    }

    pub(crate) fn deafen(&mut self, agent: usize, nodes: &str, why: fn(String) -> NoAnswer) {
        let why = why("no answer within 500 ms".to_owned());
        self.agents[agent].deaf = nodes.chars().map(|node| (at(node), why.clone())).collect();
    }

    pub(crate) fn said(&self, agent: usize, words: &str) -> usize {
        self.agents[agent].said.iter().filter(|line| line.contains(words)).count()
    }
}

impl Watcher {
    pub(crate) fn new(name: String, duties: ClusterDuties) -> Self {
        let machine = ClusterLoop::new(ClusterPolicy { duties, ..policy(&name) });
        let (followed, deaf, said) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        Self { name, machine, followed, seen: u64::MAX, deaf, said, died: Vec::new() }
    }
}

/// What is wanted of the cluster.
pub(crate) fn policy(agent: &str) -> ClusterPolicy {
    ClusterPolicy {
        name: "orders".parse().expect("a name"),
        service: "orders".parse().expect("a name"),
        layout: layout(),
        agent: agent.to_owned(),
        zone: None,
        duties: ClusterDuties::NONE,
    }
}

pub(crate) fn ats(nodes: &str) -> BTreeSet<String> {
    nodes.chars().map(|node| at(node).to_string()).collect()
}

/// d leads in a's place, and the cluster says so.
fn replaced(cluster: &mut Cluster) {
    cluster.dies('a');
    cluster.d_is_elected();
}

/// a is back, as d's replica.
fn back(cluster: &mut Cluster) {
    let slave = Line::replica('d', 4);
    let table = cluster.node('d').table.clone();
    let up = Some(link_to('d', true, Some(1)));
    let a = cluster.node('a');
    (a.answers, a.table, a.link) = (true, table, up);
    cluster.say(&NODES, 'a', |line| *line = slave.clone());
}

#[test]
fn blank_nodes_are_in_no_name_and_a_cluster_is_in_all_of_them_by_one_write() {
    let mut stage = Stage::new(Cluster::healthy(), 1);
    let whole = stage.cluster.clone();
    for name in NODES {
        let node = stage.cluster.node(name);
        node.table.retain(|other, _| *other == name);
        node.table.insert(name, Line::primary(0, ""));
        (node.state_ok, node.link) = (false, None);
    }
    stage.seed(&NODES.map(at));
    stage.turn(LATER);
    assert_eq!((stage.kept.writes.len(), &stage.kept.rows), (0, &None));
    assert_eq!(stage.said(0, "the nodes are blank"), 1, "{:?}", stage.agents[0].said);
    stage.cluster = whole;
    stage.turn(LATER);
    assert_eq!(stage.kept.writes.len(), 1, "one write, and none after it");
    assert_eq!(stage.named("orders"), ats("abcdef"));
    assert_eq!(stage.named("orders-primary"), ats("abc"));
    assert_eq!(stage.named("orders-replica"), ats("def"));
    assert_eq!(stage.tags("orders", 'e'), ["replica", "shard-2"]);
    assert_eq!(stage.tags("orders-primary", 'c'), ["shard-3"]);
    assert_eq!(stage.kept.key("shards/1/primary"), at('a').to_string());
    assert_eq!(stage.kept.key("shards/1/replicas"), format!("{}\n", at('d')));
    let slots: String = (0..3).map(|n| format!("{} {}\n", SLOTS_OF[n], at(NODES[n]))).collect();
    assert_eq!(stage.kept.key("slots"), slots);
    assert_eq!(stage.kept.key("seeds").lines().count(), 6);
    let record = stage.record();
    assert_eq!((record.generation, record.served(), record.by.as_str()), (1, SLOTS, "agent-0"));
    let row = &stage.kept.rows.as_ref().unwrap().services["orders-primary:10.0.0.1:6379"];
    assert_eq!(row.meta["node"], id('a').as_str());
    assert_eq!((row.meta["slots"].as_str(), row.meta["epoch"].as_str()), ("0-5460", "1"));
}

#[test]
fn a_dead_primary_leaves_at_once_its_successor_has_its_shard_and_it_returns_as_a_replica() {
    let mut stage = Stage::published();
    stage.cluster.dies('a');
    stage.turn(1);
    assert_eq!(stage.named("orders-primary"), ats("bc"));
    assert_eq!(stage.named("orders"), ats("bcdef"));
    assert_eq!(stage.kept.key("shards/1/primary"), "");
    assert!(stage.kept.key("slots").starts_with("0-5460 -\n"));
    assert_eq!(stage.said(0, "10923 of 16384 slots are served"), 1, "{:?}", stage.agents[0].said);
    let generation = stage.record().generation;
    assert_eq!(generation, 2);
    stage.cluster.d_is_elected();
    stage.turn(1);
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert_eq!(stage.tags("orders", 'd'), ["primary", "shard-1"]);
    assert_eq!(stage.named("orders-replica"), ats("ef"));
    back(&mut stage.cluster);
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-replica"), ats("aef"));
    assert_eq!(stage.tags("orders-replica", 'a'), ["shard-1"]);
    let (record, writes) = (stage.record(), stage.kept.writes.len());
    assert_eq!((record.generation, writes), (4, 3));
    assert_eq!(record.nodes[&id('d')].generation, 3);
    stage.turn(LATER);
    assert_eq!(stage.kept.writes.len(), writes, "nothing is written when nothing changes");
}

/// An operator takes it out of service. An owner of slots stays, for its slots would be in no name.
#[test]
fn a_replica_in_maintenance_is_in_no_name_and_an_owner_stays() {
    let key = format!("{}maintenance", layout().root());
    let mut stage = Stage::published();
    stage.put(&key, &format!(r#"{{"{}": "no", "{}": "no"}}"#, id('d').as_str(), id('a').as_str()));
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-primary"), ats("abc"));
    assert_eq!(stage.named("orders-replica"), ats("ef"), "{:?}", stage.agents[0].said);
    assert!(stage.record().nodes[&id('d')].in_maintenance());
    assert_eq!(stage.kept.writes.len(), 1, "it stays so");
    let problems: Vec<String> =
        stage.shown(0).problems.into_iter().map(|problem| problem.text).collect();
    assert_eq!(problems, ["shard 1 has no replica that could take its slots over"]);
    // What becomes of it meanwhile is the operator's, and every agent says the same of it.
    stage.cluster.dies('d');
    stage.turn(LATER);
    assert!(stage.record().nodes[&id('d')].in_maintenance());
    assert_eq!(stage.kept.writes.len(), 1);
    // One that was dead before is out of service all the same.
    stage.put(&key, "{}");
    stage.turn(AT_ONCE);
    assert!(!stage.record().nodes[&id('d')].in_maintenance());
    stage.put(&key, &format!(r#"{{"{}": "no"}}"#, id('d').as_str()));
    stage.turn(AT_ONCE);
    assert!(stage.record().nodes[&id('d')].in_maintenance());
    stage.cluster = Cluster::healthy();
    stage.put(&key, "{}");
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-replica"), ats("def"));
    stage.put(&key, "all of them");
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-replica"), ats("def"));
    let said = stage.shown(0).problems.into_iter().map(|problem| problem.text);
    let said: Vec<String> = said.collect();
    assert!(said[0].contains("maintenance cannot be read"), "{said:?}");
}

/// What `plan` shows is what an agent would do, from one look.
#[test]
fn one_look_says_what_an_agent_would_do() {
    let planned = |stage: &Stage| {
        let asked = NODES.map(at);
        let readings = asked.into_iter().map(|at| {
            let found = stage.cluster.readings().get(&at).cloned();
            (at, found.unwrap_or_else(|| Err("refused".to_owned())))
        });
        let look = ClusterLook {
            seeds: NODES.map(at).into(),
            store: stage.store(),
            rows: stage.rows(),
            readings: readings.collect(),
        };
        let wall = Timestamp::from_millisecond(1_700_000_100_000).expect("a time");
        ClusterLoop::planned(policy("agent-0"), look, Now { mono: Mono(0), wall })
    };
    let mut new = Stage::new(Cluster::healthy(), 0);
    let first = planned(&new);
    assert!(first.ops.iter().any(|op| matches!(op, Op::KeyCas { index: 0, .. })), "{first:?}");
    new.cluster.dies('a');
    new.cluster.dies('b');
    let none = planned(&new);
    assert_eq!(none.ops, []);
    assert!(!none.not_done.is_empty(), "no majority is heard");
    let mut stage = Stage::published();
    assert_eq!(planned(&stage), ClusterPlan::default());
    stage.cluster.dies('a');
    let dead = planned(&stage);
    let leaves = |op: &&Op| matches!(op, Op::ServiceDelete { .. });
    assert_eq!(dead.ops.iter().filter(leaves).count(), 2, "{dead:?}");
    assert_eq!(dead.not_done, Vec::<String>::new());
}

#[test]
fn a_node_that_the_others_have_forgotten_is_in_no_name_and_gone_from_the_record() {
    let mut stage = Stage::published();
    for voter in NODES.into_iter().filter(|name| *name != 'f') {
        stage.cluster.node(voter).table.remove(&'f');
    }
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders"), ats("abcde"));
    assert!(!stage.record().nodes.contains_key(&id('f')));
    assert_eq!(stage.kept.writes.len(), 1);
}

#[test]
fn what_two_agents_see_is_written_once() {
    let mut stage = Stage::published_by(2);
    replaced(&mut stage.cluster);
    stage.turn(LATER);
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert_eq!(stage.kept.writes.len(), 2, "a leaves, d leads: {:?}", stage.kept.writes);
    stage.agents.remove(0);
    back(&mut stage.cluster);
    stage.turn(LATER);
    assert_eq!(stage.kept.writes[2..], ["agent-1"]);
    assert_eq!(stage.named("orders"), ats("abcdef"));
}

#[test]
fn a_node_that_one_agent_alone_does_not_reach_is_put_back_by_another_and_stays() {
    for why in [NoAnswer::Silent, NoAnswer::Refused] {
        let mut stage = Stage::published_by(2);
        stage.deafen(0, "d", why);
        stage.turn(LATER);
        assert_eq!(stage.named("orders"), ats("abcdef"));
        assert_eq!(stage.kept.writes, ["agent-0", "agent-1"]);
        // What the voters say of it counts all the same.
        stage.cluster.dies('d');
        stage.agents.remove(1);
        stage.turn(AT_ONCE);
        assert_eq!(stage.named("orders"), ats("abcef"));
    }
}

#[test]
fn an_agent_that_hears_no_majority_changes_no_name_while_another_hears_one() {
    let mut stage = Stage::published_by(2);
    stage.deafen(0, "abcdef", NoAnswer::Silent);
    stage.turn(4 * LATER);
    assert_eq!(stage.named("orders"), ats("abcdef"));
    assert_eq!(stage.kept.writes, ["agent-0", "agent-1"], "a doubt, and its answer");
    assert_eq!(stage.record().generation, 1);
    stage.agents[0].deaf.clear();
    stage.turn(AT_ONCE);
    stage.deafen(1, "abcdef", NoAnswer::Silent);
    stage.turn(LATER);
    assert_eq!((stage.named("orders"), stage.record().generation), (ats("abcdef"), 1));
}

#[test]
fn where_no_agent_hears_a_majority_all_names_are_held_and_go() {
    let mut stage = Stage::published_by(2);
    for agent in [0, 1] {
        stage.deafen(agent, "abcdef", NoAnswer::Silent);
    }
    let held = usize::try_from(HOLD_NAMES_MS / STEP_MS).unwrap();
    stage.turn(held - 2);
    assert_eq!(stage.named("orders"), ats("abcdef"));
    stage.turn(2 * held);
    assert_eq!(stage.named("orders"), BTreeSet::new());
    assert_eq!((stage.kept.key("seeds"), stage.kept.key("shards/2/primary")), Default::default());
    let writes = stage.kept.writes.len();
    assert_eq!(writes, 2, "a doubt that no agent answers, and the names");
    stage.turn(LATER);
    assert_eq!(stage.kept.writes.len(), writes);
    for agent in [0, 1] {
        stage.agents[agent].deaf.clear();
    }
    stage.turn(LATER);
    assert_eq!((stage.named("orders"), stage.kept.writes.len()), (ats("abcdef"), writes + 1));
}

#[test]
fn in_a_minority_what_refuses_or_says_that_it_refuses_goes_at_once() {
    let mut stage = Stage::published();
    for name in ['a', 'b', 'd'] {
        stage.cluster.dies(name);
    }
    stage.turn(1);
    assert_eq!(stage.named("orders"), ats("cef"));
    stage.cluster.node('c').state_ok = false;
    stage.turn(1);
    assert_eq!(stage.named("orders"), ats("ef"));
    assert!(stage.said(0, "nothing enters the names: no majority") <= 1);
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), BTreeSet::new());
}

/// It was reset, and has another id since; the simulation of clusters found it.
#[test]
fn in_a_minority_a_node_whose_address_another_one_has_goes_at_once() {
    let mut stage = Stage::published();
    stage.cluster.dies('b');
    stage.cluster.dies('c');
    stage.cluster.0.remove(&'e');
    let text = format!("{} {}@1 myself,master - 0 0 0 connected\n", id('9').as_str(), at('e'));
    stage.others.insert(at('e'), Ok(bare(Table::parse(&text).expect("a table"), true)));
    stage.turn(AT_ONCE);
    assert!(!stage.named("orders").contains(&at('e').to_string()), "{:?}", stage.agents[0].said);
    assert!(stage.named("orders").contains(&at('a').to_string()));
}

#[test]
fn a_login_that_fails_on_every_node_withdraws_nothing() {
    let mut stage = Stage::published();
    stage.deafen(0, "abcdef", NoAnswer::Denied);
    stage.turn(4 * LATER);
    assert_eq!((stage.named("orders"), stage.kept.writes.len()), (ats("abcdef"), 0));
}

#[test]
fn a_stranger_that_owns_slots_of_recorded_nodes_enters_no_name() {
    let mut stage = Stage::published();
    let voters: Vec<char> = NODES.to_vec();
    for name in voters {
        let table = &mut stage.cluster.node(name).table;
        table.insert('1', Line::primary(9, SLOTS_OF[0]));
        table.get_mut(&'a').unwrap().slots.clear();
    }
    let mut stranger = stage.cluster.node('b').clone();
    stranger.table.get_mut(&'b').unwrap();
    stage.cluster.0.insert('1', stranger);
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("bcef"), "a and its replica serve nothing");
    assert_eq!(stage.said(0, "were two clusters merged?"), 1, "{:?}", stage.agents[0].said);
    // The operator knows better.
    stage.kept.keys.remove(&layout().state());
    stage.kept.index += 1;
    stage.turn(LATER);
    assert!(stage.named("orders-primary").contains(&at('1').to_string()));
    assert!(stage.record().generation > 2, "{}", stage.record().generation);
}

/// Two clusters are being merged: the voters have heard of a node of the other one, and not yet of its claims.
#[test]
fn a_stranger_is_not_recorded_before_its_claims_are_known() {
    let mut stage = Stage::published();
    for name in NODES {
        stage.cluster.node(name).table.insert('1', Line::primary(9, ""));
    }
    let mut stranger = stage.cluster.node('b').clone();
    let claims = |table: &mut BTreeMap<char, Line>| {
        table.insert('1', Line::primary(9, SLOTS_OF[0]));
        table.get_mut(&'a').unwrap().slots.clear();
    };
    claims(&mut stranger.table);
    stage.cluster.0.insert('1', stranger);
    stage.turn(LATER);
    assert!(!stage.record().nodes.contains_key(&id('1')));
    assert_eq!(stage.named("orders"), ats("abcdef"));
    // Nor while it does not answer.
    stage.cluster.node('1').answers = false;
    stage.turn(LATER);
    assert!(!stage.record().nodes.contains_key(&id('1')));
    stage.cluster.node('1').answers = true;
    for name in NODES {
        claims(&mut stage.cluster.node(name).table);
    }
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("bcef"), "a and its replica serve nothing");
    assert_eq!(stage.said(0, "were two clusters merged?"), 1, "{:?}", stage.agents[0].said);
}

#[test]
fn a_node_that_joins_is_recorded_when_it_answers_and_is_in_the_names_when_it_serves() {
    let mut stage = Stage::published();
    for name in NODES {
        stage.cluster.node(name).table.insert('1', Line::primary(0, ""));
    }
    let mut fresh = stage.cluster.node('b').clone();
    fresh.answers = false;
    stage.cluster.0.insert('1', fresh);
    stage.turn(LATER);
    assert!(!stage.record().nodes.contains_key(&id('1')));
    stage.cluster.node('1').answers = true;
    stage.turn(LATER);
    assert!(stage.record().nodes.contains_key(&id('1')));
    assert_eq!(stage.named("orders"), ats("abcdef"));
    let all: Vec<char> = stage.cluster.0.keys().copied().collect();
    stage.cluster.say(&all, '1', |line| *line = Line::replica('a', 1));
    stage.cluster.node('1').link = stage.cluster.node('d').link.clone();
    stage.turn(LATER);
    assert_eq!(stage.named("orders-replica"), ats("def1"));
}

/// Two clusters were merged, and this one's primaries have taken all slots: the other one's nodes are replicas here.
#[test]
fn a_replica_that_another_cluster_has_recorded_is_a_stranger_until_that_one_drops_it() {
    let mut stage = Stage::published();
    let others = |stage: &mut Stage, ids: &[char]| {
        let others = vec![ids.iter().map(|name| id(*name)).collect()];
        for agent in 0..stage.agents.len() {
            stage.hand_in(agent, ClusterInput::Others(others.clone()));
        }
    };
    others(&mut stage, &['1', '2']);
    let fresh = stage.cluster.node('d').clone();
    stage.cluster.0.insert('1', fresh);
    let all: Vec<char> = stage.cluster.0.keys().copied().collect();
    for name in &all {
        stage.cluster.node(*name).table.insert('1', Line::replica('a', 1));
    }
    stage.turn(LATER);
    assert!(!stage.record().nodes.contains_key(&id('1')));
    assert_eq!(stage.named("orders"), ats("abcdef"));
    // The same cluster under another name.
    others(&mut stage, &['1', 'b']);
    stage.turn(LATER);
    assert!(stage.record().nodes.contains_key(&id('1')));
    // What is recorded stays.
    others(&mut stage, &['1', '2']);
    stage.turn(LATER);
    assert_eq!(stage.named("orders-replica"), ats("def1"));
}

#[test]
fn what_the_voters_have_forgotten_leaves_although_a_stranger_owns_slots() {
    let mut stage = Stage::published();
    for name in NODES {
        let table = &mut stage.cluster.node(name).table;
        table.insert('1', Line::primary(9, SLOTS_OF[0]));
        table.get_mut(&'a').unwrap().slots.clear();
    }
    let stranger = stage.cluster.node('b').clone();
    stage.cluster.0.insert('1', stranger);
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("bcef"));
    for name in ['b', 'c', 'd', '1'] {
        stage.cluster.node(name).table.remove(&'f');
    }
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("bce"));
    assert!(stage.record().nodes.contains_key(&id('f')), "it is still a member");
}

#[test]
fn nodes_of_another_cluster_at_a_members_address_are_none_of_it() {
    let mut stage = Stage::published();
    stage.cluster.dies('f');
    stage.cluster.0.remove(&'f');
    let text =
        format!("{} {}@1 myself,master - 0 0 1 connected 0-16383\n", id('9').as_str(), at('f'));
    let table = Table::parse(&text).unwrap();
    let answer = bare(table, true);
    stage.others.insert(at('f'), Ok(answer));
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("abcde"));
    assert_eq!(stage.record().served(), SLOTS);
}

/// A node that answers with another id at a member's address takes that from the member in the voters' tables: on real
/// servers two of three dead members were no longer recorded then.
pub(crate) fn another_answers_at(stage: &mut Stage, member: char) {
    stage.cluster.dies(member);
    stage.cluster.0.remove(&member);
    let (own, at) = (id('9'), at(member));
    let text = format!("{} {at}@1 myself,master - 0 0 1 connected 0-16383\n", own.as_str());
    stage.others.insert(at, Ok(bare(Table::parse(&text).expect("a table"), true)));
    let all: Vec<char> = stage.cluster.0.keys().copied().collect();
    stage.cluster.say(&all, member, |line| line.flags.push_str(",noaddr"));
}

#[test]
fn a_member_of_which_the_voters_have_no_address_stays_one() {
    let mut stage = Stage::published();
    another_answers_at(&mut stage, 'f');
    stage.turn(LATER);
    let record = stage.record();
    let member = record.nodes.get(&id('f')).expect("it is still a member");
    assert_eq!((&member.address, member.fit), (&at('f'), false));
    assert_eq!(stage.named("orders"), ats("abcde"));
    assert_eq!(record.served(), SLOTS);
    let writes = stage.kept.writes.len();
    stage.turn(LATER);
    assert_eq!(stage.kept.writes.len(), writes, "nothing changes");
    // What they have forgotten does not.
    for name in ['a', 'b', 'c', 'd', 'e'] {
        stage.cluster.node(name).table.remove(&'f');
    }
    stage.turn(LATER);
    assert!(!stage.record().nodes.contains_key(&id('f')));
}

/// Nothing tells then which nodes were the cluster's own, but whom the seeds lead to.
#[test]
fn nodes_of_another_cluster_at_a_members_address_are_none_of_it_when_consul_is_wiped() {
    let mut stage = Stage::published();
    stage.cluster.dies('e');
    stage.cluster.0.remove(&'e');
    let other: Address = "10.9.0.9:6379".parse().unwrap();
    for (own, at_own) in [('9', at('e')), ('8', other.clone())] {
        let line = |n: char, at: &Address, slots: &str| {
            let myself = if n == own { "myself," } else { "" };
            format!("{} {at}@1 {myself}master - 0 0 1 connected {slots}\n", id(n).as_str())
        };
        let (one, two) = (line('9', &at('e'), "0-8191"), line('8', &other, "8192-16383"));
        let table = Table::parse(&(one + &two)).unwrap();
        let answer = bare(table, true);
        stage.others.insert(at_own, Ok(answer));
    }
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("abcdf"));
    assert!(!stage.agents[0].followed.contains(&other));
    let generation = stage.record().generation;
    (stage.kept.keys, stage.kept.rows) = Default::default();
    stage.kept.index = 1;
    stage.hand_in(0, ClusterInput::ConsulSilent);
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("abcdf"), "{:?}", stage.agents[0].said);
    assert!(!stage.agents[0].followed.contains(&other));
    assert!(stage.record().generation > generation);
}

/// It may be all that an agent has heard of a generation, when Consul is restored meanwhile.
#[test]
fn what_the_watch_says_while_a_write_is_under_way_counts_for_the_generation() {
    let mut stage = Stage::published();
    let now = |ms: u64| Now {
        mono: Mono(ms),
        wall: Timestamp::from_millisecond(1_700_000_000_000).expect("a time"),
    };
    let mut newer = stage.kept.store(Mono(stage.now));
    let restored = newer.clone();
    let mut record = stage.record();
    record.generation = 9;
    newer.state = StoredCluster::Known(Box::new(record));
    newer.index += 9;
    stage.cluster.dies('f');
    let reading = NodeReading {
        asked: Mono(stage.now + 1),
        answer: Err(NoAnswer::Refused("cannot connect: refused".to_owned())),
    };
    let machine = &mut stage.agents[0].machine;
    let outputs = machine.on(ClusterInput::Node(at('f'), reading), now(stage.now + 1));
    assert!(outputs.iter().any(|o| matches!(o, ClusterOutput::Write(_))), "{outputs:?}");
    machine.on(ClusterInput::Watched(newer), now(stage.now + 2));
    machine.on(ClusterInput::ConsulSilent, now(stage.now + 3));
    machine.on(ClusterInput::Watched(restored), now(stage.now + 4));
    machine.on(ClusterInput::Written(Outcome::Unknown("lost".to_owned())), now(stage.now + 5));
    stage.turn(LATER);
    assert_eq!(stage.named("orders"), ats("abcde"));
    assert!(stage.record().generation > 9, "{}", stage.record().generation);
}

#[test]
fn slots_that_move_keep_the_numbers_of_their_shards() {
    let mut stage = Stage::published();
    stage.cluster.say(&NODES, 'a', |line| line.slots = "0-99".to_owned());
    stage.cluster.say(&NODES, 'b', |line| {
        (line.slots, line.epoch) = ("100-10922".to_owned(), 7);
    });
    stage.turn(LATER);
    assert_eq!(stage.tags("orders-primary", 'b'), ["shard-2"]);
    assert_eq!(stage.kept.key("slots").lines().next(), Some("0-99 10.0.0.1:6379"));
    // a gives away its last slots, and gets others later.
    stage.cluster.say(&NODES, 'a', |line| line.slots.clear());
    stage.cluster.say(&NODES, 'b', |line| line.slots = "0-10922".to_owned());
    stage.turn(LATER);
    assert!(!stage.kept.keys.keys().any(|key| key.contains("shards/1/")));
    stage.cluster.say(&NODES, 'b', |line| line.slots = "0-9999".to_owned());
    stage.cluster.say(&NODES, 'a', |line| {
        (line.slots, line.epoch) = ("10000-10922".to_owned(), 8);
    });
    stage.turn(LATER);
    assert_eq!(stage.tags("orders-primary", 'a'), ["shard-4"]);
}

#[test]
fn an_older_claim_to_recorded_slots_enters_no_name() {
    let mut stage = Stage::published();
    stage.cluster.d_is_elected();
    stage.cluster.say(&NODES, 'd', |line| line.epoch = 1);
    stage.cluster.say(&NODES, 'a', |line| line.slots.clear());
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-primary"), ats("bc"));
    assert_eq!(stage.said(0, "by epoch 1"), 1, "{:?}", stage.agents[0].said);
}

#[test]
fn what_another_program_removes_is_put_back_and_a_wiped_consul_goes_on_above_the_generation() {
    let mut stage = Stage::published();
    replaced(&mut stage.cluster);
    stage.turn(AT_ONCE);
    stage.kept.rows.as_mut().unwrap().services.remove("orders-primary:10.0.0.4:6379");
    stage.kept.keys.remove(&format!("{}seeds", layout().root()));
    stage.kept.index += 1;
    stage.turn(LATER);
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert_eq!(stage.kept.key("seeds").lines().count(), 5);
    let generation = stage.record().generation;
    (stage.kept.keys, stage.kept.rows) = Default::default();
    stage.kept.index = 1;
    stage.hand_in(0, ClusterInput::ConsulSilent);
    stage.turn(AT_ONCE);
    assert_eq!(stage.named("orders-primary"), ats("bcd"));
    assert!(stage.record().generation > generation);
}

#[test]
fn what_is_no_record_of_this_version_is_left_alone() {
    let mut stage = Stage::published();
    stage.kept.keys.insert(layout().state(), (br#"{"v": 99}"#.to_vec(), 77));
    stage.kept.index = 77;
    stage.cluster.dies('a');
    stage.turn(LATER);
    assert_eq!((stage.named("orders-primary"), stage.kept.writes.len()), (ats("abc"), 0));
    assert_eq!(stage.said(0, "is left alone: written by a newer consul-redis"), 1);
}

/// Redis before Valkey 9 counts the votes of one election twice: how long ago the last one was has to be known.
#[test]
fn an_owner_that_has_lost_its_slots_and_taken_them_back_between_two_looks_has_them_since_then() {
    let mut stage = Stage::published();
    let before = stage.record().shards[&1].since;
    stage.turn(LATER);
    assert_eq!(stage.record().shards[&1].since, before);
    stage.cluster.say(&NODES, 'a', |line| line.epoch = 9);
    stage.turn(LATER);
    assert!(stage.record().shards[&1].since > before);
}

/// `redis-cli --cluster create` gives slots out one node after the other.
#[test]
fn a_cluster_that_is_being_made_is_recorded_when_it_is_whole_and_one_that_stays_in_part_after_a_while()
 {
    let mut stage = Stage::new(Cluster::healthy(), 1);
    stage.cluster.say(&NODES, 'a', |line| line.slots.clear());
    stage.turn(AT_ONCE);
    assert_eq!(stage.kept.writes.len(), 0, "{:?}", stage.agents[0].said);
    stage.cluster = Cluster::healthy();
    stage.turn(AT_ONCE);
    assert_eq!(stage.tags("orders-primary", 'a'), ["shard-1"]);
    let mut stage = Stage::new(Cluster::healthy(), 1);
    stage.cluster.say(&NODES, 'a', |line| line.slots.clear());
    stage.turn(LATER);
    assert_eq!(stage.named("orders-primary"), ats("bc"));
}

/// 60 nodes do not fit one transaction of Consul's.
#[test]
fn a_large_cluster_is_published_by_several_writes_and_a_change_of_it_by_one() {
    const SHARDS: usize = 30;
    let node = |n: usize| format!("10.1.0.{}:6379", n + 1);
    let ids = |n: usize| format!("{n:040x}");
    let line = |own: usize, n: usize| {
        let myself = if own == n { "myself," } else { "" };
        let (first, end) = ((n % SHARDS) * SLOTS / SHARDS, (n % SHARDS + 1) * SLOTS / SHARDS);
        let (epoch, of, at) = (n % SHARDS + 1, ids(n % SHARDS), node(n));
        match n < SHARDS {
            true => format!(
                "{} {at}@1 {myself}master - 0 0 {epoch} connected {first}-{}\n",
                ids(n),
                end - 1
            ),
            false => format!("{} {at}@1 {myself}slave {of} 0 0 {epoch} connected\n", ids(n)),
        }
    };
    let mut stage = Stage::new(Cluster(BTreeMap::new()), 2);
    let up = link_to('a', true, Some(1));
    for own in 0..2 * SHARDS {
        let text: String = (0..2 * SHARDS).map(|n| line(own, n)).collect();
        let table = Table::parse(&text).unwrap();
        let link = (own >= SHARDS).then(|| up.clone());
        let answer = NodeAnswer { link, ..bare(table, true) };
        stage.others.insert(node(own).parse().unwrap(), Ok(answer));
    }
    stage.seed(&[node(0).parse().unwrap()]);
    stage.turn(LATER);
    assert_eq!(stage.named("orders").len(), 2 * SHARDS);
    assert_eq!(stage.named("orders-primary").len(), SHARDS);
    assert_eq!(stage.record().served(), SLOTS);
    let writes = stage.kept.writes.len();
    assert!((3..=6).contains(&writes), "{writes}");
    stage.others.remove(&node(40).parse::<Address>().unwrap());
    stage.turn(LATER);
    assert_eq!((stage.named("orders").len(), stage.kept.writes.len()), (59, writes + 1));
}
