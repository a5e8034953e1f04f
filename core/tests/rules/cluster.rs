//! Which nodes of a Redis Cluster can take requests, and why the others cannot.

use std::collections::BTreeMap;

use consul_redis_core::cluster::judgement::{
    Fitness, Judgement, NoVoters, NodeAnswer, NodeReadings, ReplicaLink, Unfit, VoterCount, judge,
};
use consul_redis_core::cluster::slots::{SLOTS, SlotRange, count};
use consul_redis_core::cluster::table::{NodeId, Table, TableRole, TableRow};
use consul_redis_core::identity::address::Address;
use proptest::prelude::*;

/// Three shards: a, b and c own slots; d, e and f follow them.
pub(crate) const NODES: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];
pub(crate) const SLOTS_OF: [&str; 3] = ["0-5460", "5461-10922", "10923-16383"];

pub(crate) fn id(node: char) -> NodeId {
    NodeId::parse(&node.to_string().repeat(40)).expect("an id")
}

pub(crate) fn at(node: char) -> Address {
    let last = match node.to_digit(10) {
        Some(digit) => 100 + digit,
        None => u32::from(node) - u32::from('a') + 1,
    };
    format!("10.0.0.{last}:6379").parse().expect("an address")
}

/// One row of a table, before it is written as Redis writes it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) flags: String,
    pub(crate) primary: Option<char>,
    pub(crate) epoch: u64,
    pub(crate) link: &'static str,
    pub(crate) slots: String,
}

impl Line {
    pub(crate) fn primary(epoch: u64, slots: &str) -> Self {
        let flags = "master".to_owned();
        Self { flags, primary: None, epoch, link: "connected", slots: slots.to_owned() }
    }

    pub(crate) fn replica(of: char, epoch: u64) -> Self {
        let flags = "slave".to_owned();
        Self { flags, primary: Some(of), epoch, link: "connected", slots: String::new() }
    }
}

/// One node: its table, and what it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) table: BTreeMap<char, Line>,
    pub(crate) answers: bool,
    pub(crate) state_ok: bool,
    pub(crate) not_ready: Option<String>,
    pub(crate) link: Option<ReplicaLink>,
    pub(crate) has_keys: bool,
    pub(crate) timeout_ms: Option<u64>,
}

/// A replica's link to this node.
pub(crate) fn link_to(primary: char, up: bool, heard_s: Option<u64>) -> ReplicaLink {
    ReplicaLink { up, heard_s, primary: Some(at(primary)) }
}

/// A cluster, node by node.
#[derive(Debug, Clone)]
pub(crate) struct Cluster(pub(crate) BTreeMap<char, Node>);

impl Cluster {
    pub(crate) fn healthy() -> Self {
        let mut table = BTreeMap::new();
        for (index, slots) in SLOTS_OF.iter().enumerate() {
            let epoch = index as u64 + 1;
            table.insert(NODES[index], Line::primary(epoch, slots));
            table.insert(NODES[index + 3], Line::replica(NODES[index], epoch));
        }
        let up = |name: char| link_to(char::from(name as u8 - 3), true, Some(1));
        let node = |name: char| Node {
            table: table.clone(),
            answers: true,
            state_ok: true,
            not_ready: None,
            link: ('d'..='f').contains(&name).then(|| up(name)),
            has_keys: false,
            timeout_ms: Some(5_000),
        };
        Self(NODES.into_iter().map(|name| (name, node(name))).collect())
    }

    pub(crate) fn node(&mut self, name: char) -> &mut Node {
        self.0.get_mut(&name).expect("a node")
    }

    /// What these say of one node.
    pub(crate) fn say(&mut self, who: &[char], of: char, change: impl Fn(&mut Line)) {
        for name in who {
            if let Some(line) = self.node(*name).table.get_mut(&of) {
                change(line);
            }
        }
    }

    pub(crate) fn dies(&mut self, name: char) {
        self.node(name).answers = false;
        for other in NODES {
            self.say(&[other], name, |line| line.link = "disconnected");
        }
    }

    /// d takes the place of a, which is known as its replica's predecessor without slots.
    pub(crate) fn d_is_elected(&mut self) {
        let others: Vec<char> = NODES.into_iter().filter(|name| *name != 'a').collect();
        self.say(&others, 'd', |line| *line = Line::primary(4, SLOTS_OF[0]));
        self.say(&others, 'a', |line| line.slots.clear());
        self.node('d').link = None;
    }

    fn table(&self, own: char) -> String {
        let rows = self.0[&own].table.iter().map(|(name, line)| {
            let myself = if *name == own { "myself," } else { "" };
            let primary = line.primary.map_or("-".to_owned(), |of| id(of).as_str().to_owned());
            let Line { flags, epoch, link, slots, .. } = line;
            let id = id(*name);
            let (id, at) = (
                id.as_str(),
                match flags.contains("noaddr") {
                    true => ":0@0".to_owned(),
                    false => format!("{}@16379", at(*name)),
                },
            );
            format!("{id} {at} {myself}{flags} {primary} 0 1700000000000 {epoch} {link} {slots}\n")
        });
        rows.collect()
    }

    pub(crate) fn readings(&self) -> NodeReadings {
        let read = |name: char, node: &Node| {
            if !node.answers {
                return Err("no answer within 500 ms".to_owned());
            }
            let table = Table::parse(&self.table(name)).expect("a table");
            let Node { state_ok, not_ready, link, has_keys, timeout_ms, .. } = node.clone();
            Ok(NodeAnswer { table, state_ok, not_ready, link, has_keys, timeout_ms })
        };
        self.0.iter().map(|(name, node)| (at(*name), read(*name, node))).collect()
    }

    fn judged(&self) -> Judgement {
        judge(&self.readings()).expect("voters")
    }

    fn fitness(&self, name: char) -> Fitness {
        let judged = self.judged();
        judged.nodes.into_iter().find(|node| node.address == at(name)).expect("a node").fitness
    }
}

/// What a node answers that is no replica.
pub(crate) fn bare(table: Table, state_ok: bool) -> NodeAnswer {
    let (not_ready, link, has_keys, timeout_ms) = (None, None, false, None);
    NodeAnswer { table, state_ok, not_ready, link, has_keys, timeout_ms }
}

fn votes(say: usize) -> VoterCount {
    VoterCount { say, of: 3 }
}

#[test]
fn a_table_is_read_as_every_version_writes_it() {
    let text = "\
07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,hostname4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 ::1:30002@31002,,shard-id=69bc080733d1355567173199cff4a6a039a2f024 master,fail? - 0 1426238316232 2 disconnected 5461-10922 12000
e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca :30001@31001 myself,master - 0 0 1 connected 0-5460 [93-<-292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f]
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f :0@0 handshake,noaddr - 1426238316232 0 0 disconnected
";
    let table = Table::parse(text).unwrap();
    let own = table.own_row().unwrap();
    assert_eq!(
        (own.id.as_str(), &own.address, own.migrating),
        ("e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca", &None, true)
    );
    let rows: Vec<_> = table.rows.values().collect();
    assert_eq!(rows[0].address, Some("127.0.0.1:30004".parse().unwrap()));
    assert_eq!(rows[0].role, TableRole::Replica(own.id.clone()));
    assert!((rows[1].role == TableRole::Unknown) && rows[1].outside && !rows[1].is_well());
    assert_eq!(rows[2].address, Some("[::1]:30002".parse().unwrap()));
    assert!(rows[2].failing && !rows[2].linked && rows[2].role == TableRole::Primary);
    let slots: Vec<String> = rows[2].slots.iter().map(ToString::to_string).collect();
    assert_eq!(slots, ["5461-10922", "12000"]);
}

#[test]
fn what_is_no_table_is_said_with_its_line() {
    for (text, said) in [
        ("", "one row with the flag `myself` expected, got 0"),
        ("abc 10.0.0.1:1@2 myself,master - 0 0 1 connected", "`abc` is no node id: abc"),
        (&format!("{} 10.0.0.1 myself,master - 0 0 1 connected", id('a').as_str()), "has no port"),
        (
            &format!("{} 10.0.0.1:1@2 myself,master - 0 0 1 connected 5-3", id('a').as_str()),
            "`5-3` is no range of slots",
        ),
        (&format!("{} 10.0.0.1:1@2 myself,master - 0 0", id('a').as_str()), "no epoch"),
    ] {
        let error = Table::parse(text).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_cluster_that_agrees_is_whole() {
    let judged = Cluster::healthy().judged();
    assert!(judged.is_whole(), "{judged:#?}");
    assert_eq!((judged.served(), judged.voters.len(), judged.answering), (SLOTS, 3, 3));
    let owners: Vec<_> =
        judged.shards.iter().map(|shard| (shard.owner.clone(), shard.epoch)).collect();
    assert_eq!(owners, [(id('a'), 1), (id('b'), 2), (id('c'), 3)]);
    assert!(judged.unowned.is_empty());
    let replica = judged.nodes.iter().find(|node| node.address == at('d')).unwrap();
    assert_eq!((&replica.fitness, &replica.owner), (&Fitness::Replica, &Some(id('a'))));
}

#[test]
fn a_primary_that_dies_serves_no_more_and_the_rest_goes_on_as_it_says() {
    let mut cluster = Cluster::healthy();
    cluster.dies('a');
    let unfit = Fitness::Unfit(Unfit::Silent("no answer within 500 ms".to_owned()));
    assert_eq!(cluster.fitness('a'), unfit);
    assert_eq!(cluster.fitness('b'), Fitness::Primary);
    let judged = cluster.judged();
    assert_eq!(judged.served(), 10_923);
    let dead = judged.nodes.iter().find(|node| node.address == at('a')).unwrap();
    assert_eq!(dead.id, Some(id('a')), "a voter's table has it");
    // All of them refuse while one shard has no owner.
    cluster.node('b').state_ok = false;
    assert_eq!(cluster.fitness('b'), Fitness::Unfit(Unfit::StateFail));
}

#[test]
fn the_replica_that_was_elected_owns_the_slots_and_a_returning_primary_does_not() {
    let mut cluster = Cluster::healthy();
    cluster.dies('a');
    cluster.d_is_elected();
    assert_eq!(cluster.fitness('d'), Fitness::Primary);
    assert_eq!(cluster.judged().served(), SLOTS);
    // Restarted behind a partition, it says ok and takes writes that will be lost.
    cluster.node('a').answers = true;
    let slots = vec!["0-5460".parse::<SlotRange>().unwrap()];
    assert_eq!(cluster.fitness('a'), Fitness::Unfit(Unfit::Unlinked(votes(3))));
    for voter in ['b', 'c', 'd'] {
        cluster.say(&[voter], 'a', |line| line.link = "connected");
    }
    assert_eq!(cluster.fitness('a'), Fitness::Unfit(Unfit::Replaced(slots)));
}

/// It promotes itself with the votes of an election that it had won before (Redis 7 and 8).
#[test]
fn a_replica_that_no_voter_knows_as_a_primary_owns_nothing() {
    let mut cluster = Cluster::healthy();
    cluster.say(&['d'], 'd', |line| *line = Line::primary(4, SLOTS_OF[0]));
    cluster.say(&['d'], 'a', |line| line.slots.clear());
    let slots = vec!["0-5460".parse::<SlotRange>().unwrap()];
    assert_eq!(cluster.fitness('d'), Fitness::Unfit(Unfit::Replaced(slots)));
    assert_eq!(cluster.fitness('a'), Fitness::Primary);
}

#[test]
fn a_node_that_was_forgotten_is_fit_for_nothing_whatever_it_says_itself() {
    for forgotten in ['a', 'd'] {
        let mut cluster = Cluster::healthy();
        for voter in NODES.into_iter().filter(|name| *name != forgotten) {
            cluster.node(voter).table.remove(&forgotten);
        }
        let known = usize::from(forgotten == 'a');
        let fitness = match judge(&cluster.readings()) {
            // The others own what is left, and a alone holds that there are three.
            Ok(judged) => {
                judged.nodes.into_iter().find(|n| n.address == at(forgotten)).unwrap().fitness
            }
            Err(none) => panic!("{none}"),
        };
        let of = if forgotten == 'a' { 2 } else { 3 };
        assert_eq!(fitness, Fitness::Unfit(Unfit::Unlisted(VoterCount { say: 0, of })), "{known}");
    }
}

#[test]
fn a_minority_says_nothing() {
    let mut cluster = Cluster::healthy();
    for other in ['b', 'c', 'e', 'f'] {
        cluster.node(other).answers = false;
    }
    let none = judge(&cluster.readings()).unwrap_err();
    assert_eq!(none, NoVoters::Disagree { owners: 3, hold: 1 });
    assert_eq!(
        none.to_string(),
        "no majority: of 3 primaries that own slots, 1 answer and agree on who they are"
    );
    for name in NODES {
        cluster.node(name).answers = false;
    }
    assert_eq!(judge(&cluster.readings()).unwrap_err(), NoVoters::Silent);
}

#[test]
fn nodes_of_two_clusters_are_none_that_can_be_judged() {
    let mut readings = Cluster::healthy().readings();
    for (index, name) in ['1', '2', '3'].into_iter().enumerate() {
        let others = ['1', '2', '3'].iter().zip(SLOTS_OF).map(|(other, slots)| {
            let myself = if *other == name { "myself,master" } else { "master" };
            let id = other.to_string().repeat(40);
            format!("{id} 10.9.0.{other}:6379@16379 {myself} - 0 0 {other} connected {slots}\n")
        });
        let table = Table::parse(&others.collect::<String>()).unwrap();
        let answer = bare(table, true);
        readings.insert(format!("10.9.0.{}:6379", index + 1).parse().unwrap(), Ok(answer));
    }
    assert_eq!(judge(&readings).unwrap_err(), NoVoters::Several(2));
}

#[test]
fn blank_nodes_are_said_to_be() {
    let blank = format!("{} :7000@17000 myself,master - 0 0 0 connected", id('9').as_str());
    let table = Table::parse(&blank).unwrap();
    let answer = bare(table, false);
    let alone = BTreeMap::from([(at('a'), Ok(answer.clone()))]);
    assert_eq!(judge(&alone).unwrap_err(), NoVoters::Blank);
    let mut readings = Cluster::healthy().readings();
    let spare: Address = "10.0.0.9:7000".parse().unwrap();
    readings.insert(spare.clone(), Ok(answer));
    let judged = judge(&readings).unwrap();
    let node = judged.nodes.iter().find(|node| node.address == spare).unwrap();
    assert_eq!(node.fitness, Fitness::Unfit(Unfit::Blank));
    assert!(judged.serves_all() && !judged.is_whole());
}

#[test]
fn one_voters_opinion_of_a_node_is_none_of_the_majority() {
    for flag in ["master,fail?", "master,fail", "master,noaddr"] {
        let mut cluster = Cluster::healthy();
        cluster.say(&['b'], 'a', |line| line.flags = flag.to_owned());
        assert_eq!(cluster.fitness('a'), Fitness::Primary, "{flag}");
        cluster.say(&['c'], 'a', |line| line.flags = flag.to_owned());
        assert_eq!(cluster.fitness('a'), Fitness::Unfit(Unfit::Failing(votes(2))), "{flag}");
    }
    let mut cluster = Cluster::healthy();
    cluster.say(&['b'], 'd', |line| line.link = "disconnected");
    assert_eq!(cluster.fitness('d'), Fitness::Replica);
    cluster.say(&['c'], 'd', |line| line.link = "disconnected");
    assert_eq!(cluster.fitness('d'), Fitness::Unfit(Unfit::Unlinked(votes(2))));
}

#[test]
fn a_replica_serves_reads_while_it_hears_the_primary_that_the_majority_has_it_follow() {
    let with_link = |up, heard_s| {
        let mut cluster = Cluster::healthy();
        cluster.node('d').link = Some(link_to('a', up, heard_s));
        cluster.fitness('d')
    };
    assert_eq!(with_link(true, Some(10)), Fitness::Replica);
    assert_eq!(with_link(true, Some(12)), Fitness::Unfit(Unfit::Stale(12)));
    assert_eq!(with_link(false, None), Fitness::Unfit(Unfit::LinkDown));
    let mut cluster = Cluster::healthy();
    cluster.say(&['d'], 'd', |line| *line = Line::replica('b', 2));
    assert_eq!(cluster.fitness('d'), Fitness::Unfit(Unfit::FollowsAnother(id('b'))));
}

#[test]
fn a_node_that_loads_takes_no_commands() {
    let mut cluster = Cluster::healthy();
    cluster.node('a').not_ready = Some("LOADING".to_owned());
    assert_eq!(cluster.fitness('a'), Fitness::Unfit(Unfit::NotReady("LOADING".to_owned())));
}

#[test]
fn a_slot_that_its_owner_dropped_is_said_and_one_without_a_majority_is_unowned() {
    let mut cluster = Cluster::healthy();
    cluster.say(&['a'], 'a', |line| line.slots = "1-5460".to_owned());
    let dropped = ["0-5460".parse::<SlotRange>().unwrap()];
    let Fitness::Unfit(Unfit::Dropped(found)) = cluster.fitness('a') else { panic!("{cluster:?}") };
    // For two of three it owns them all.
    assert!(found.iter().all(|slots| dropped[0].holds(*slots)) && !found.is_empty(), "{found:?}");
    cluster.say(&['b'], 'a', |line| line.slots = "1-5460".to_owned());
    let judged = cluster.judged();
    assert_eq!(judged.unowned, ["0".parse().unwrap()]);
    assert_eq!(cluster.fitness('a'), Fitness::Primary, "for the rest");
    assert_eq!(judged.served(), SLOTS - 1);
    // Another epoch is another claim.
    let mut cluster = Cluster::healthy();
    cluster.say(&['a'], 'a', |line| line.epoch = 9);
    let other = Unfit::OtherClaim { own: 9, majority: 1 };
    assert_eq!(cluster.fitness('a'), Fitness::Unfit(other));
}

proptest! {
    /// Whatever the tables say: no slot has two nodes that take writes, and each of these is in a majority's tables
    /// with its own claim.
    #[test]
    fn no_slot_has_two_primaries(
        changes in prop::collection::vec((0_usize..6, 0_usize..6, 0_usize..3, 1_u64..5, 0_usize..4), 0..24),
        silent in prop::collection::btree_set(0_usize..6, 0..4),
    ) {
        let mut cluster = Cluster::healthy();
        for (who, of, slots, epoch, what) in changes {
            cluster.say(&[NODES[who]], NODES[of], |line| match what {
                0 => *line = Line::primary(epoch, SLOTS_OF[slots]),
                1 => *line = Line::replica(NODES[slots], epoch),
                2 => line.flags.push_str(",fail?"),
                _ => line.link = "disconnected",
            });
        }
        for name in silent {
            cluster.node(NODES[name]).answers = false;
        }
        let readings = cluster.readings();
        if let Ok(judged) = judge(&readings) {
            let mut taken: Vec<SlotRange> = Vec::new();
            let fit = judged.nodes.iter().filter(|node| node.fitness == Fitness::Primary);
            for node in fit {
                let own = node.id.clone().unwrap();
                let shard = judged.shards.iter().find(|shard| shard.owner == own).unwrap();
                taken.extend(&shard.slots);
                let by = |says: &dyn Fn(&TableRow) -> bool| {
                    let voters = readings.values().flatten();
                    let voters = voters.filter(|node| judged.voters.contains(&node.table.own));
                    let say = voters.filter(|node| node.table.rows.get(&own).is_some_and(says));
                    say.count() * 2 > judged.voters.len()
                };
                prop_assert!(by(&|row| row.config_epoch == shard.epoch));
                prop_assert!(by(&|row| row.is_well()));
            }
            taken.sort();
            prop_assert!(taken.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{taken:?}");
            prop_assert_eq!(count(&taken), judged.served());
        }
    }
}
