//! One script, run on the servers of the bench of very many groups and on real ones: what an agent reads of them before a
//! death, and after the failover that follows.

use std::time::Duration;

use consul_redis::core::identity::address::{Address, GroupName};
use consul_redis::core::known::observed::{InstanceAnswer, SentinelGroup};
use consul_redis::instance::probe;
use consul_redis::lab::LabError;
use consul_redis::lab::many::ManyGroups;
use consul_redis::lab::redis::patiently;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings};
use consul_redis::sentinel::query::{ask, ask_all, identity, summary};

/// Longest wait for a failover of real servers.
const WITHIN: Duration = Duration::from_secs(60);

/// What matters of a group, with its two instances as `old` and `new`.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// Of each Sentinel.
    sentinels: Vec<SaidBySentinel>,
    /// Of each instance that answers.
    instances: Vec<(&'static str, SaidByInstance)>,
}

#[derive(Debug, PartialEq, Eq)]
struct SaidBySentinel {
    primary: &'static str,
    epoch: u64,
    calm: bool,
    others: usize,
    peers: usize,
    quorum: u64,
    replicas: Vec<&'static str>,
    /// The line of the summary: its state, primary and counts.
    row: String,
    /// The answer to several questions at once is the answer to each.
    same_at_once: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct SaidByInstance {
    role: &'static str,
    ready: bool,
    has_data: bool,
    /// It continues the history that the first primary had before the death.
    continues: bool,
    has_fork: bool,
    replicas: usize,
}

struct Subject {
    group: GroupName,
    sentinels: Vec<Address>,
    old: Address,
    new: Address,
    first_replid: String,
}

impl Subject {
    async fn new(group: &str, sentinels: Vec<Address>, old: Address, new: Address) -> Self {
        let answer = asked(&old).await.unwrap();
        let first_replid = answer.replid.0;
        Self { group: group.parse().unwrap(), sentinels, old, new, first_replid }
    }

    fn named(&self, address: &Address) -> &'static str {
        match address {
            address if *address == self.old => "old",
            address if *address == self.new => "new",
            _ => "another",
        }
    }

    async fn said(&self) -> Result<Said, LabError> {
        let mut sentinels = Vec::new();
        for sentinel in &self.sentinels {
            sentinels.push(self.said_by(sentinel).await?);
        }
        let mut instances = Vec::new();
        for (name, address) in [("old", &self.old), ("new", &self.new)] {
            let answer = asked(address).await?;
            instances.push((name, self.said_by_instance(&answer)));
        }
        Ok(Said { sentinels, instances })
    }

    async fn said_by(&self, sentinel: &Address) -> Result<SaidBySentinel, LabError> {
        let mut link = open(sentinel).await?;
        let id = identity(&mut link).await.map_err(LabError::new)?;
        let answer = ask(&mut link, &id, &self.group).await.map_err(LabError::new)?;
        let all = summary(&mut link).await.map_err(LabError::new)?;
        let both = [self.group.clone(), self.group.clone()];
        let at_once = ask_all(&mut link, &id, &both, &all).await.map_err(LabError::new)?;
        let same = |other: &Result<_, _>| other.as_ref().is_ok_and(|other| *other == answer);
        let same_at_once = at_once.len() == 2 && at_once.iter().all(same);
        let row = all.groups.get(&self.group).cloned().unwrap_or_default();
        let row = row.replace(&self.old.to_string(), "old").replace(&self.new.to_string(), "new");
        let group: SentinelGroup = answer.group.ok_or_else(|| LabError::new("no such group"))?;
        Ok(SaidBySentinel {
            primary: self.named(&group.primary),
            epoch: group.config_epoch,
            calm: group.only_master_flag && group.failover.is_none() && !group.disconnected,
            others: group.other_sentinels,
            peers: group.peers.len(),
            quorum: group.settings.quorum,
            replicas: group.replicas.iter().map(|replica| self.named(&replica.address)).collect(),
            row,
            same_at_once,
        })
    }

    fn said_by_instance(&self, answer: &InstanceAnswer) -> SaidByInstance {
        let before = answer.replid2.as_ref().map(|id| id.0.as_str());
        SaidByInstance {
            role: if answer.is_primary() { "primary" } else { "replica" },
            ready: answer.not_ready.is_none(),
            has_data: answer.keys > 0,
            continues: [Some(answer.replid.0.as_str()), before]
                .contains(&Some(self.first_replid.as_str())),
            has_fork: answer.forked_at.is_some(),
            replicas: match &answer.role {
                consul_redis::core::known::observed::Role::Primary { replicas } => replicas.len(),
                consul_redis::core::known::observed::Role::Replica { .. } => 0,
            },
        }
    }
}

async fn open(address: &Address) -> Result<Link, LabError> {
    Link::open(address, &patiently(&LinkSettings::default())).await.map_err(LabError::new)
}

async fn asked(address: &Address) -> Result<InstanceAnswer, LabError> {
    probe(&mut open(address).await?).await.map_err(LabError::new)
}

#[tokio::test]
async fn the_servers_of_very_many_groups_say_what_redis_and_sentinel_say() {
    let spec = WorldSpec { redis: 2, sentinels: 3, ..WorldSpec::default() };
    let mut world = World::start(spec).await.unwrap();
    world.calm().await.unwrap();
    let of = |n: usize| world.groups[0].redis[n].address.clone();
    let (old, new) = (of(0), of(1));
    let mut link = open(&old).await.unwrap();
    link.call(&["SET", "key", "value"]).await.unwrap();
    let sentinels = world.sentinels.iter().map(|sentinel| sentinel.address.clone()).collect();
    let real = Subject::new("redis", sentinels, old.clone(), new).await;

    let many = ManyGroups::start(2).await.unwrap();
    let (first, second) = (many.writer(0).unwrap(), many.replica(0).unwrap());
    let modelled = Subject::new("g0000", many.sentinels(), first, second).await;

    agree(&real, &modelled, "before").await;
    world.server_mut(&old.to_string()).unwrap().kill();
    many.kill(0).await.unwrap();
    until("the real replica is the primary", WITHIN, || async {
        let answer = asked(&real.new).await?;
        if answer.is_primary() { Ok(()) } else { Err(LabError::new("a replica")) }
    })
    .await
    .unwrap();
    world.server_mut(&old.to_string()).unwrap().restart().await.unwrap();
    agree(&real, &modelled, "after").await;
}

/// Waits until both say the same. What the model says does not change any more by then.
async fn agree(real: &Subject, modelled: &Subject, when: &str) {
    until(when, WITHIN, || async {
        let (real, modelled) = (real.said().await?, modelled.said().await?);
        if real == modelled {
            return Ok(());
        }
        Err(LabError(format!("really {real:#?}, and modelled {modelled:#?}")))
    })
    .await
    .unwrap();
}
