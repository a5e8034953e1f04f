//! Everything stops at once and comes back at other addresses, as containers do when they are made anew: of all that
//! the Sentinels know, no instance is left. Consul alone goes on.

use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::World;
use consul_redis::redis_link::{fields, text};
use tokio::time::Instant;

use crate::containers::{Container, Group, group, spec};
use crate::promises::{DIED_FIRST, MOVED, MOVED_ALONE, Promise};
use crate::support::{record, until_in_sync, until_named, until_record, until_writer, world};

/// Keys that all instances have.
const COMMON: usize = 20;
/// Keys that the primary and one replica have on top.
const MORE: usize = 20;
async fn write(container: &Container, prefix: &str, count: usize) {
    for number in 0..count {
        container.ask(&["SET", &format!("{prefix}-{number}"), "1"]).await.unwrap();
    }
}

async fn until_keys(container: &Container, wanted: usize) {
    let what = format!("{} has {wanted} keys", container.name);
    until(&what, Duration::from_secs(40), || async {
        let found = text(&container.ask(&["DBSIZE"]).await?).map_err(LabError)?;
        if found == wanted.to_string() { Ok(()) } else { Err(LabError(found)) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", container.log()));
}

/// Three of each. The primary and one replica have everything; one replica, by its number, has been gone for a while.
struct Whole {
    world: World,
    group: Group,
    /// The primary's number, and the address that it had.
    primary: usize,
    old: String,
    behind: usize,
}

/// How instances keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// A snapshot, which says how far it goes.
    Rdb,
    /// Every write; nothing says what history it is of.
    Aof,
}

async fn keep_every_write(container: &Container) {
    container.ask(&["CONFIG", "SET", "appendonly", "yes"]).await.unwrap();
    container.ask(&["CONFIG", "REWRITE"]).await.unwrap();
    until("the append-only file is there", Duration::from_secs(20), || async {
        let info = text(&container.ask(&["INFO", "persistence"]).await?).map_err(LabError)?;
        let busy =
            info.contains("aof_rewrite_in_progress:1") || info.contains("aof_rewrite_scheduled:1");
        if busy { Err(LabError(info)) } else { Ok(()) }
    })
    .await
    .unwrap();
}

/// It is on the volume at most 2 s after it is so.
async fn until_noted(container: &Container, history: &str) {
    let note = container.data.join("consul-redis.member");
    until("it is noted what the data belongs to", Duration::from_secs(10), || async {
        let text = std::fs::read_to_string(&note).unwrap_or_default();
        if text.contains(history) { Ok(()) } else { Err(LabError(text)) }
    })
    .await
    .unwrap();
}

async fn whole(kept: Kept) -> Whole {
    let mut world = world(spec()).await;
    let mut group = group(&mut world, 3, &[]).await;
    let writer = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    group.until_known().await;
    let primary = group.index(&writer);
    if kept == Kept::Aof {
        let history = group.redis[primary].info("master_replid").await.unwrap();
        for container in &group.redis {
            keep_every_write(container).await;
            until_noted(container, &history).await;
        }
    }
    let (full, behind) = ((primary + 1) % 3, (primary + 2) % 3);
    write(&group.redis[primary], "common", COMMON).await;
    until_keys(&group.redis[behind], COMMON).await;
    group.redis[behind].ask(&["SAVE"]).await.unwrap();
    group.redis[behind].kill_server().await;
    write(&group.redis[primary], "more", MORE).await;
    for index in [primary, full] {
        until_keys(&group.redis[index], COMMON + MORE).await;
        group.redis[index].ask(&["SAVE"]).await.unwrap();
    }
    Whole { world, group, primary, old: writer, behind }
}

impl Whole {
    fn logs(&self) -> String {
        let all = self.group.redis.iter().chain(&self.group.sentinels);
        all.map(|container| format!("--- {}\n{}\n", container.name, container.log())).collect()
    }

    /// All instances are back, so far that they answer: they are waited for no longer than is promised. Then each is in
    /// place, with all data, and a failover goes as it should.
    async fn until_whole(&mut self, before: u64, promise: &Promise) {
        for container in &self.group.redis {
            container.until_answers().await;
        }
        let back = Instant::now();
        // Waited for a little longer, to say how late it was.
        let seconds = promise.patience_s() + 20;
        let old = &self.old;
        let moved = |r: &Record| r.writer_address().is_some_and(|at| at.to_string() != *old);
        until_record(&self.world, "redis", seconds, "another writer", moved).await;
        promise.kept(back.elapsed());
        let writer = until_writer(&self.world, "redis", 40, Some(&self.old)).await;
        until_in_sync(&self.world, "redis", 2).await;
        assert_ne!(self.group.index(&writer), self.behind, "{}", self.logs());
        until_named(&self.world, "redis-primary", std::slice::from_ref(&writer)).await;
        for container in &self.group.redis {
            until_keys(container, COMMON + MORE).await;
        }
        self.group.until_known().await;
        let published = record(&self.world, "redis").await.unwrap();
        assert!(published.generation > before, "{}", published.generation);
        let lost = self.group.index(&writer);
        self.group.redis[lost].kill_server().await;
        // Sentinels that vote for three leaders try again after twice failover-timeout (20 s).
        until_writer(&self.world, "redis", 70, Some(&writer)).await;
    }

    async fn generation(&self) -> u64 {
        record(&self.world, "redis").await.unwrap().generation
    }

    fn everything_moves(&mut self) {
        let Self { world, group, .. } = self;
        for container in group.redis.iter_mut().chain(&mut group.sentinels) {
            container.move_on(world);
        }
    }

    /// Those with the least data first.
    fn start_redis(&mut self) {
        let Self { world, group, primary, behind, .. } = self;
        for index in [*behind, 3 - *primary - *behind, *primary] {
            group.redis[index].restart(world);
        }
    }

    fn start_sentinels(&mut self) {
        for sentinel in &mut self.group.sentinels {
            sentinel.restart(&self.world);
        }
    }
}

#[tokio::test]
async fn a_group_that_comes_back_at_other_addresses_is_led_by_the_one_with_the_most_data() {
    let mut all = whole(Kept::Rdb).await;
    let before = all.generation().await;
    all.everything_moves();
    all.start_sentinels();
    all.start_redis();
    all.until_whole(before, &MOVED).await;
}

#[tokio::test]
async fn instances_that_come_back_at_other_addresses_are_found_under_the_sentinels_that_stayed() {
    let mut all = whole(Kept::Rdb).await;
    let before = all.generation().await;
    let Whole { world, group, .. } = &mut all;
    for container in &mut group.redis {
        container.move_on(world);
    }
    all.start_redis();
    all.until_whole(before, &MOVED_ALONE).await;
}

/// Their volumes are gone.
#[tokio::test]
async fn a_group_whose_sentinels_have_lost_what_they_knew_comes_back_at_other_addresses() {
    let mut all = whole(Kept::Rdb).await;
    let before = all.generation().await;
    all.everything_moves();
    for sentinel in &all.group.sentinels {
        std::fs::remove_dir_all(&sentinel.data).unwrap();
        std::fs::create_dir(&sentinel.data).unwrap();
    }
    all.start_redis();
    all.start_sentinels();
    all.until_whole(before, &MOVED).await;
}

/// An append-only file does not hold which history it is of (`docs/facts/sentinel.md` 8); a note on the volume does.
#[tokio::test]
async fn a_group_that_keeps_append_only_files_is_led_by_the_one_that_wrote_the_last() {
    let mut all = whole(Kept::Aof).await;
    let before = all.generation().await;
    all.everything_moves();
    all.start_sentinels();
    all.start_redis();
    all.until_whole(before, &MOVED).await;
    assert!(all.logs().contains("noted in Consul that its data is the group's"), "{}", all.logs());
}

/// It dies for good before any Sentinel has found a replica of it, as where its first one has just begun to follow.
#[tokio::test]
async fn a_primary_that_dies_while_no_sentinel_knows_a_replica_is_replaced() {
    let mut world = world(spec()).await;
    let mut group = group(&mut world, 3, &[]).await;
    // They would find the replicas again after 10 s, and this takes as long where the machine is busy.
    let look_every = async |group: &Group, ms: &str| {
        for sentinel in &group.sentinels {
            let _ = sentinel.ask(&["SENTINEL", "DEBUG", "info-period", ms]).await;
        }
    };
    look_every(&group, "60000").await;
    let writer = until_writer(&world, "redis", 30, None).await;
    let first = group.index(&writer);
    write(&group.redis[first], "common", COMMON).await;
    for container in &group.redis {
        until_keys(container, COMMON).await;
    }
    // Their rows are waited for, once no Sentinel names them.
    until_in_sync(&world, "redis", 2).await;
    for sentinel in &group.sentinels {
        sentinel.ask(&["SENTINEL", "RESET", "redis"]).await.unwrap();
    }
    until("they know one another again, and no replica", Duration::from_secs(20), || async {
        for sentinel in &group.sentinels {
            let master = fields(&sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?);
            let master = master.map_err(LabError)?;
            let counts = (&*master["num-slaves"], &*master["num-other-sentinels"]);
            if counts != ("0", "2") {
                return Err(LabError(format!("{counts:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    look_every(&group, "10000").await;
    let killed = Instant::now();
    group.redis[first].kill_server().await;
    let moved = |r: &Record| r.writer_address().is_some_and(|at| at.to_string() != writer);
    let seconds = DIED_FIRST.patience_s() + 20;
    until_record(&world, "redis", seconds, "another writer", moved).await;
    DIED_FIRST.kept(killed.elapsed());
    let second = until_writer(&world, "redis", 40, Some(&writer)).await;
    until_in_sync(&world, "redis", 1).await;
    until_keys(group.at(&second), COMMON).await;
}
