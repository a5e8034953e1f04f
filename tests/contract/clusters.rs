//! One script, run on the nodes of the clusters' simulation and on real ones: what the simulation shows holds only as far
//! as its nodes behave like Redis.
//!
//! The model is given the time that it takes, by its own clock; then real nodes have to say the same, as far as
//! [`NodeAnswer`] has it: who is what, owns what, by which of the epochs, and is well, for each node that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consul_redis::cluster::ask;
use consul_redis::core::cluster::judgement::NodeAnswer;
use consul_redis::core::cluster::table::{NodeId, TableRole};
use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::tools::{Age, Family, run_all_on};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};

use crate::nodes::{Failover, Keeps, Nodes, Version};

/// `cluster-node-timeout` of most scripts, in ms: longer than a busy machine has a node stand still.
const TIMEOUT_MS: u64 = 4_000;
/// How long real nodes may take to say what the model says: the longest of it is an election, on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
/// What the model is given for the same, in its own time, in ms.
const MODEL_MS: u64 = 25_000;
/// Nodes: three primaries, then the replica of each.
const COUNT: usize = 6;

/// What one node says, with the nodes by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    state_ok: bool,
    not_ready: bool,
    link_up: Option<bool>,
    rows: BTreeMap<usize, Row>,
    /// Rows of none of them: in handshake, above all.
    others: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    role: String,
    failing: bool,
    outside: bool,
    linked: bool,
    slots: String,
    /// Which of the epochs that are there it has: elections that failed raise them.
    epoch: usize,
}

/// What each says; none of those that do not answer.
type Picture = Vec<Option<Said>>;

fn picture(answers: Vec<Option<NodeAnswer>>, names: &[NodeId]) -> Picture {
    let number = |id: &NodeId| names.iter().position(|name| name == id);
    let rows = answers.iter().flatten().flat_map(|answer| answer.table.rows.values());
    let epochs: BTreeSet<u64> = rows.map(|row| row.config_epoch).collect();
    let said = |answer: NodeAnswer| {
        let row = |row: &consul_redis::core::cluster::table::TableRow| Row {
            role: match &row.role {
                TableRole::Primary => "primary".to_owned(),
                TableRole::Replica(of) => format!("replica of {:?}", number(of)),
                TableRole::Unknown => "unknown".to_owned(),
            },
            failing: row.failing,
            outside: row.outside,
            linked: row.linked,
            slots: row.slots.iter().map(|range| format!("{range} ")).collect(),
            epoch: epochs.iter().position(|epoch| *epoch == row.config_epoch).unwrap_or(0),
        };
        let rows = &answer.table.rows;
        let known = rows.values().filter_map(|r| Some((number(&r.id)?, row(r))));
        Said {
            state_ok: answer.state_ok,
            not_ready: answer.not_ready.is_some(),
            link_up: answer.link.map(|link| link.up),
            rows: known.collect(),
            others: rows.keys().filter(|id| number(id).is_none()).count(),
        }
    };
    answers.into_iter().map(|answer| answer.map(said)).collect()
}

/// Both of them, which are told the same.
struct Pair {
    model: Nodes,
    _world: World,
    real: LabCluster,
    names: Vec<NodeId>,
}

impl Pair {
    async fn blank(version: Version, timeout_ms: u64) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let spec = WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() };
        let mut world = World::start(spec).await.unwrap();
        let called = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
        let real = LabCluster::start_blank(&mut world, &called, timeout_ms).await.unwrap();
        let mut names = Vec::new();
        let mut model = Nodes::new(1, version);
        for node in &real.nodes {
            let name = NodeId::parse(&id(node).await.unwrap()).unwrap();
            let process = model.start_blank(&node.address, timeout_ms);
            // Which of two is the smaller one decides.
            let its = model.nodes[process].id;
            model.ids[its] = name.clone();
            names.push(name);
        }
        Self { model, _world: world, real, names }
    }

    async fn whole(version: Version, timeout_ms: u64) -> Self {
        let mut pair = Self::blank(version, timeout_ms).await;
        pair.create().await;
        pair
    }

    fn go_on(&mut self, ms: u64) {
        let end = self.model.now + ms;
        while self.model.now < end {
            let next = self.model.now + 20;
            self.model.tick(next);
        }
    }

    /// The same commands, in the same order, as the lab's.
    async fn create(&mut self) {
        self.real.create().await.unwrap();
        let primaries = COUNT / 2;
        let share = 16_384_usize.div_ceil(primaries);
        for index in 0..primaries {
            let (first, end) = (index * share, ((index + 1) * share).min(16_384));
            self.model.set_config_epoch(index, index as u64 + 1).unwrap();
            let (first, last) = (first.try_into().unwrap(), (end - 1).try_into().unwrap());
            self.model.add_slots(index, first, last).unwrap();
        }
        for other in 1..COUNT {
            let at = self.model.address(other).clone();
            self.model.meet(0, &at).unwrap();
        }
        self.go_on(3_000);
        for replica in primaries..COUNT {
            let name = self.model.name(replica - primaries).clone();
            self.model.replicate(replica, &name).unwrap();
        }
        self.go_on(MODEL_MS);
    }

    /// Kills both.
    fn kill(&mut self, node: usize) {
        self.real.nodes[node].kill();
        self.model.kill(node);
    }

    async fn restart(&mut self, node: usize) {
        self.real.nodes[node].restart().await.unwrap();
        self.model.restart(node, Keeps::ALL, 0);
    }

    /// Tells both the same. Both do it, or both refuse it, in the same words.
    async fn tell(
        &mut self,
        node: usize,
        command: &[&str],
        as_model: impl FnOnce(&mut Nodes) -> Result<(), String>,
    ) {
        let real = self.real.nodes[node].ask(command).await;
        let model = as_model(&mut self.model);
        match (&real, &model) {
            (Ok(_), Ok(())) => {}
            (Err(LabError(said)), Err(expected)) => {
                // The client library words the kind of an error anew.
                let words = expected.trim_start_matches("ERR ");
                assert!(said.contains(words), "{command:?}: {said}, and the model: {expected}");
            }
            _ => panic!("{command:?}: {real:?}, and the model: {model:?}"),
        }
    }

    fn modelled(&self) -> Picture {
        let answer = |node| self.model.runs(node).then(|| self.model.answer(node));
        picture((0..COUNT).map(answer).collect(), &self.names)
    }

    async fn seen(&self) -> Picture {
        let mut answers = Vec::new();
        for node in &self.real.nodes {
            answers.push(ask(&node.address, &node.login).await.ok());
        }
        picture(answers, &self.names)
    }

    /// Both say the same, once they have had the time that it takes.
    async fn agree(&mut self, what: &str) {
        self.go_on(MODEL_MS);
        let model = self.modelled();
        let same = || async {
            let seen = self.seen().await;
            let differs = seen.iter().zip(&model).enumerate().find(|(_, (a, b))| a != b);
            match differs {
                None => Ok(()),
                Some((node, (seen, model))) => {
                    Err(LabError(format!("node {node} says\n{seen:#?}\nand the model\n{model:#?}")))
                }
            }
        };
        until(what, WITHIN, same).await.unwrap();
    }

    fn said(&self, node: usize) -> Said {
        self.modelled()[node].clone().expect("a node that answers")
    }
}

/// What they say of a death and a return.
async fn a_death_and_a_return(version: Version) {
    let mut pair = Pair::blank(version, TIMEOUT_MS).await;
    pair.agree("blank").await;
    assert!(!pair.said(0).state_ok && pair.said(0).rows.len() == 1);
    pair.create().await;
    pair.agree("created").await;
    assert!(pair.said(0).state_ok && pair.said(3).link_up == Some(true));
    pair.kill(0);
    pair.agree("elected").await;
    assert_eq!(pair.said(3).rows[&3].slots, "0-5461 ");
    assert!(pair.said(1).rows[&0].failing && !pair.said(1).rows[&0].linked);
    pair.restart(0).await;
    pair.agree("the old primary is back").await;
    assert_eq!(pair.said(0).rows[&0].role, "replica of Some(3)");
}

/// What they do and refuse.
async fn what_is_done_and_refused(version: Version) {
    let mut pair = Pair::whole(version, TIMEOUT_MS).await;
    let model = pair.names.clone();
    let real: Vec<String> = model.iter().map(|name| name.as_str().to_owned()).collect();
    for (node, command, refused) in [
        (0, vec!["CLUSTER", "SET-CONFIG-EPOCH", "9"], Refused::Epoch),
        (0, vec!["CLUSTER", "ADDSLOTSRANGE", "0", "10"], Refused::Slots),
        (0, vec!["CLUSTER", "FAILOVER"], Refused::Failover),
        (0, vec!["CLUSTER", "REPLICATE", &real[1]], Refused::Replicate(1)),
        (3, vec!["CLUSTER", "REPLICATE", &real[4]], Refused::Replicate(4)),
        (3, vec!["CLUSTER", "REPLICATE", &real[3]], Refused::Replicate(3)),
        (3, vec!["CLUSTER", "FORGET", &real[0]], Refused::Forget(0)),
        (3, vec!["CLUSTER", "FORGET", &real[3]], Refused::Forget(3)),
    ] {
        let told = |nodes: &mut Nodes| match refused {
            Refused::Epoch => nodes.set_config_epoch(node, 9),
            Refused::Slots => nodes.add_slots(node, 0, 10),
            Refused::Failover => nodes.failover(node, Failover::Plain),
            Refused::Replicate(of) => nodes.replicate(node, &model[of]),
            Refused::Forget(of) => nodes.forget(node, &model[of]),
        };
        assert!(told(&mut pair.model.clone()).is_err(), "{command:?}");
        pair.tell(node, &command, told).await;
    }
    let plain = ["CLUSTER", "FAILOVER"];
    pair.tell(3, &plain, |nodes| nodes.failover(3, Failover::Plain)).await;
    pair.agree("a planned failover").await;
    assert_eq!(pair.said(0).rows[&0].role, "replica of Some(3)");
    // A replica goes to another shard, and its primary stays alone.
    let command = ["CLUSTER", "REPLICATE", real[1].as_str()];
    pair.tell(5, &command, |nodes| nodes.replicate(5, &model[1])).await;
    pair.go_on(1_000);
    assert_eq!(pair.said(2).rows[&5].role, "replica of Some(1)");
    // And back, before the cluster gives that one another replica by itself.
    let command = ["CLUSTER", "REPLICATE", real[2].as_str()];
    pair.tell(5, &command, |nodes| nodes.replicate(5, &model[2])).await;
    pair.agree("a replica that has gone and come back").await;
    for node in [0, 1, 2, 3, 5] {
        let command = ["CLUSTER", "FORGET", real[4].as_str()];
        pair.tell(node, &command, |nodes| nodes.forget(node, &model[4])).await;
    }
    let command = ["CLUSTER", "FORGET", real[4].as_str()];
    pair.tell(0, &command, |nodes| nodes.forget(0, &model[4])).await;
    pair.agree("forgotten").await;
    // It goes on as ever, and is a member for no other node.
    assert!(pair.said(4).state_ok && pair.said(4).link_up == Some(true));
    assert!(!pair.said(0).rows.contains_key(&4));
}

/// What is refused of a node, by the number of the node that it names.
#[derive(Debug, Clone, Copy)]
enum Refused {
    Epoch,
    Slots,
    Failover,
    Replicate(usize),
    Forget(usize),
}

async fn a_lower_timeout(version: Version) {
    let mut pair = Pair::whole(version, 60_000).await;
    pair.kill(1);
    // For longer than that, nothing is seen of it but that its connections are closed.
    pair.go_on(2_000);
    assert!(
        !pair.said(0).rows[&1].failing && !pair.said(0).rows[&1].linked && pair.said(0).state_ok
    );
    let model = pair.modelled();
    let same = || async {
        let seen = pair.seen().await;
        if seen == model { Ok(()) } else { Err(LabError(format!("{seen:#?}"))) }
    };
    until("a death that nothing calls failing", WITHIN, same).await.unwrap();
    for node in [0, 2, 3, 4, 5] {
        let command = ["CONFIG", "SET", "cluster-node-timeout", "500"];
        pair.tell(node, &command, |nodes| nodes.set_timeout(node, 500)).await;
    }
    let begun = pair.model.now;
    while pair.model.nodes[4].kind != crate::nodes::Kind::Primary {
        pair.go_on(20);
    }
    assert!(pair.model.now - begun <= 2_000, "{}", pair.model.now - begun);
    pair.agree("elected, long before 60 s").await;
    assert_eq!(pair.said(4).rows[&4].slots, "5462-10923 ");
}

/// All servers of the test are the newest of the family; those of the machine where there is none.
fn on_newest(family: Option<Family>) {
    if let Some(family) = family {
        run_all_on(family, Age::Newest).unwrap();
    }
}

/// The same scripts on each of the versions that the model knows.
macro_rules! on_version {
    ($module:ident, $version:ident, $family:expr) => {
        mod $module {
            use super::Version::$version;

            #[tokio::test]
            async fn nodes_of_the_simulation_say_what_real_ones_say_of_a_death_and_a_return() {
                super::on_newest($family);
                super::a_death_and_a_return($version).await;
            }

            #[tokio::test]
            async fn nodes_of_the_simulation_do_and_refuse_what_real_ones_do_and_refuse() {
                super::on_newest($family);
                super::what_is_done_and_refused($version).await;
            }

            #[tokio::test]
            async fn a_lower_timeout_makes_elections_quick_on_both() {
                super::on_newest($family);
                super::a_lower_timeout($version).await;
            }
        }
    };
}

on_version!(redis_7, Redis7, None);
on_version!(redis_8, Redis8, Some(super::Family::Redis));
on_version!(valkey_9, Valkey9, Some(super::Family::Valkey));
