//! Everything stops at once, and is started again in some order. Consul alone goes on.

use std::path::PathBuf;
use std::time::Duration;

use consul_redis::core::published::record::Record;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::redis_link::text;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::promises::{EMPTIED, EMPTIED_ALONE, EMPTIED_REPLICA, Promise};
use crate::support::{
    logs, must_follow_a_failover, node_agents, until_in_sync, until_left_alone, until_record,
    until_writer, world,
};

/// Keys that all instances have.
const COMMON: usize = 20;
/// Keys that the primary and one replica have on top.
const MORE: usize = 20;

/// How instances keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// A snapshot of what they had when they were stopped.
    Rdb,
    /// Every write.
    Aof,
}

/// What stopped: the primary has all data, so has the second one; the third one was disconnected earlier.
struct Stopped {
    world: World,
    primary: String,
    full: String,
    behind: String,
}

async fn write(server: &LabServer, prefix: &str, count: usize) {
    for number in 0..count {
        server.ask(&["SET", &format!("{prefix}-{number}"), "1"]).await.unwrap();
    }
}

async fn until_keys(server: &LabServer, wanted: usize) {
    let what = format!("{} has {wanted} keys", server.name());
    until(&what, Duration::from_secs(40), || async {
        let found = text(&server.ask(&["DBSIZE"]).await?).map_err(LabError)?;
        if found == wanted.to_string() { Ok(()) } else { Err(LabError(found)) }
    })
    .await
    .unwrap();
}

/// Sentinel before that chooses no replica that is left after all were down (redis#6751).
const CHOOSES_WHAT_IS_LEFT: Option<&str> = Some("6.2.2");

/// Writes, leaves one replica behind, and stops everything at once.
async fn stop_everything(kept: Kept, since: Option<&'static str>) -> Stopped {
    stop_everything_of(WorldSpec { since, ..WorldSpec::default() }, kept).await
}

/// As above, where servers are to be back, and known to the Sentinels, before these call the primary down: a Redis
/// takes a second to start on a busy machine.
async fn stop_everything_for_a_moment(kept: Kept, since: Option<&'static str>) -> Stopped {
    let spec = WorldSpec { down_after_ms: 6_000, since, ..WorldSpec::default() };
    stop_everything_of(spec, kept).await
}

async fn stop_everything_of(spec: WorldSpec, kept: Kept) -> Stopped {
    let mut world = world(spec).await;
    let agents = node_agents(&world, "");
    let primary = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let mut names = world.groups[0].redis.iter().map(|server| server.address.to_string());
    let [_, full, behind] = [(); 3].map(|()| names.next().unwrap());
    drop(names);
    for server in &world.groups[0].redis {
        let aof = if kept == Kept::Aof { "yes" } else { "no" };
        server.ask(&["CONFIG", "SET", "appendonly", aof]).await.unwrap();
        server.ask(&["CONFIG", "REWRITE"]).await.unwrap();
    }
    until_rewritten(&world).await;
    write(world.server(&primary).unwrap(), "common", COMMON).await;
    until_keys(world.server(&behind).unwrap(), COMMON).await;
    save(&world, &behind, kept).await;
    world.server_mut(&behind).unwrap().kill();
    write(world.server(&primary).unwrap(), "more", MORE).await;
    for address in [&full, &primary] {
        until_keys(world.server(address).unwrap(), COMMON + MORE).await;
        save(&world, address, kept).await;
    }
    for server in world.groups[0].redis.iter().chain(&world.sentinels) {
        if server.id().is_some() {
            server.signal(Signal::SIGKILL).unwrap();
        }
    }
    drop(agents);
    Stopped { world, primary, full, behind }
}

/// What a configuration that says nothing about it has: a copy of everything begins 5 s after it is asked for.
async fn as_installed(world: &World) {
    for server in &world.groups[0].redis {
        server.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "5"]).await.unwrap();
        server.ask(&["CONFIG", "REWRITE"]).await.unwrap();
    }
}

/// What it has is on the disk. While an fsync is under way, Redis keeps for up to 2 s what would go to the append-only
/// file.
async fn save(world: &World, address: &str, kept: Kept) {
    let server = world.server(address).unwrap();
    if kept == Kept::Rdb {
        server.ask(&["SAVE"]).await.unwrap();
        return;
    }
    until("the append-only file has everything", Duration::from_secs(20), || async {
        let info = text(&server.ask(&["INFO", "persistence"]).await?).map_err(LabError)?;
        let written =
            info.contains("aof_buffer_length:0") && info.contains("aof_pending_bio_fsync:0");
        if written { Ok(()) } else { Err(LabError(info)) }
    })
    .await
    .unwrap();
}

/// The first rewrite, without which an append-only file does not begin with what was there before.
async fn until_rewritten(world: &World) {
    for server in &world.groups[0].redis {
        until("the append-only file is there", Duration::from_secs(20), || async {
            let info = text(&server.ask(&["INFO", "persistence"]).await?).map_err(LabError)?;
            let busy = info.contains("aof_rewrite_in_progress:1")
                || info.contains("aof_rewrite_scheduled:1");
            if busy { Err(LabError(info)) } else { Ok(()) }
        })
        .await
        .unwrap();
    }
}

impl Stopped {
    async fn start_redis(&mut self, address: &str) {
        self.world.server_mut(address).unwrap().restart().await.unwrap();
    }

    async fn start_sentinels(&mut self) {
        for sentinel in &mut self.world.sentinels {
            sentinel.restart().await.unwrap();
        }
    }

    fn dir(&self, address: &str) -> PathBuf {
        self.world.dir().join(self.world.server(address).unwrap().name())
    }

    /// It starts as a primary.
    fn forget_primary(&self, address: &str) {
        let file = self.dir(address).join("server.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        let own = text.lines().filter(|line| !line.starts_with("replicaof "));
        std::fs::write(&file, own.collect::<Vec<_>>().join("\n")).unwrap();
    }

    /// It starts as a replica.
    fn follow(&self, address: &str, of: &str) {
        let file = self.dir(address).join("server.conf");
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(&format!("\nreplicaof {}\n", of.replace(':', " ")));
        std::fs::write(&file, text).unwrap();
    }

    /// A configuration that says nothing about it has 5 s.
    fn set_sync_delay(&self, address: &str) {
        let file = self.dir(address).join("server.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("repl-diskless-sync-delay 0", "repl-diskless-sync-delay 5");
        assert!(text.contains("repl-diskless-sync-delay 5"), "{text}");
        std::fs::write(&file, text).unwrap();
    }

    /// Loses what an instance has kept.
    fn lose_data(&self, address: &str) {
        let dir = self.dir(address);
        let _ = std::fs::remove_file(dir.join("dump.rdb"));
        let _ = std::fs::remove_dir_all(dir.join("appendonlydir"));
    }

    /// All instances have all keys, and follow this one.
    async fn until_led_by(&self, leader: &str, agents: &[Process]) {
        let found = until_writer(&self.world, "redis", 60, None).await;
        until_in_sync(&self.world, "redis", 2).await;
        let now = until_writer(&self.world, "redis", 5, None).await;
        assert_eq!((found.as_str(), now.as_str()), (leader, leader), "{}", logs(agents));
        for server in &self.world.groups[0].redis {
            until_keys(server, COMMON + MORE).await;
        }
    }
}

/// The primary is among those that return: whichever comes first, it leads, and all instances have its data.
async fn all_return(kept: Kept, order: fn(&Stopped) -> [String; 3], sentinels_first: bool) {
    let mut stopped = stop_everything_for_a_moment(kept, None).await;
    if sentinels_first {
        stopped.start_sentinels().await;
    }
    for address in order(&stopped) {
        stopped.start_redis(&address).await;
    }
    if !sentinels_first {
        stopped.start_sentinels().await;
    }
    let agents = node_agents(&stopped.world, "");
    let primary = stopped.primary.clone();
    stopped.until_led_by(&primary, &agents).await;
    // Sentinels could have done all of that alone.
    stopped.world.calm().await.unwrap();
    must_follow_a_failover(&mut stopped.world).await;
}

#[tokio::test]
async fn after_everything_stopped_the_one_with_the_most_data_leads_when_it_is_the_last_to_return() {
    let order = |s: &Stopped| [s.behind.clone(), s.full.clone(), s.primary.clone()];
    all_return(Kept::Rdb, order, true).await;
}

#[tokio::test]
async fn after_everything_stopped_the_one_with_the_most_data_leads_when_it_is_the_first_to_return()
{
    let order = |s: &Stopped| [s.primary.clone(), s.behind.clone(), s.full.clone()];
    all_return(Kept::Aof, order, false).await;
}

/// The primary's host is gone: of those that return, the one with more data.
async fn without_the_primary(kept: Kept) {
    let mut stopped = stop_everything_for_a_moment(kept, CHOOSES_WHAT_IS_LEFT).await;
    let (behind, full) = (stopped.behind.clone(), stopped.full.clone());
    stopped.start_sentinels().await;
    let agents = node_agents(&stopped.world, "");
    stopped.start_redis(&behind).await;
    stopped.start_redis(&full).await;
    let primary = stopped.primary.clone();
    let writer = until_writer(&stopped.world, "redis", 60, Some(&primary)).await;
    assert_eq!(writer, full, "{}", logs(&agents));
    until_in_sync(&stopped.world, "redis", 1).await;
    until_keys(stopped.world.server(&behind).unwrap(), COMMON + MORE).await;
}

#[tokio::test]
async fn after_everything_stopped_and_without_the_primary_the_replica_with_more_data_leads() {
    without_the_primary(Kept::Rdb).await;
}

/// The primary comes back first, and empty, and Sentinels announce it. Those with the data come later, with configs
/// that say whom they follow: they do not copy its emptiness, and one of them leads.
async fn empty_and_first(kept: Kept, forgotten: bool) {
    // One that has forgotten whom it followed is promoted by none.
    let since = if forgotten { None } else { CHOOSES_WHAT_IS_LEFT };
    let mut stopped = stop_everything(kept, since).await;
    let (primary, full) = (stopped.primary.clone(), stopped.full.clone());
    let behind = stopped.behind.clone();
    stopped.lose_data(&primary);
    stopped.set_sync_delay(&primary);
    if forgotten {
        stopped.forget_primary(&full);
    }
    stopped.start_sentinels().await;
    let agents = node_agents(&stopped.world, "");
    stopped.start_redis(&primary).await;
    let said = format!("{primary} came back without its data");
    until_left_alone(&agents, &primary, 20, &said).await;
    let back = Instant::now();
    stopped.start_redis(&full).await;
    stopped.start_redis(&behind).await;
    until_replaced(&stopped.world, &primary, &EMPTIED_ALONE, back, &agents).await;
    stopped.until_led_by(&full, &agents).await;
}

/// Another one is published, in time.
async fn until_replaced(
    world: &World,
    old: &str,
    promise: &Promise,
    since: Instant,
    agents: &[Process],
) -> String {
    let moved = |r: &Record| r.writer_address().is_some_and(|writer| writer.to_string() != old);
    // Waited for a little longer, to say how late it was.
    let seconds = promise.patience_s() + 20;
    let record = until_record(world, "redis", seconds, "another writer", moved).await;
    promise.kept(since.elapsed());
    let writer = record.writer_address().map(ToString::to_string);
    writer.unwrap_or_else(|| panic!("{}", logs(agents)))
}

#[tokio::test]
async fn an_empty_primary_that_is_the_first_to_return_leads_no_instance_with_data() {
    empty_and_first(Kept::Rdb, false).await;
}

/// An append-only file does not say how far its data is (`docs/facts/sentinel.md` 8): it is one of those who have any.
#[tokio::test]
async fn an_empty_primary_leads_no_instance_whose_data_is_in_an_append_only_file() {
    let mut stopped = stop_everything(Kept::Aof, CHOOSES_WHAT_IS_LEFT).await;
    let (primary, full) = (stopped.primary.clone(), stopped.full.clone());
    stopped.lose_data(&primary);
    stopped.set_sync_delay(&primary);
    stopped.start_sentinels().await;
    let agents = node_agents(&stopped.world, "");
    stopped.start_redis(&primary).await;
    let back = Instant::now();
    stopped.start_redis(&full).await;
    let writer = until_replaced(&stopped.world, &primary, &EMPTIED_ALONE, back, &agents).await;
    assert_eq!(writer, full, "{}", logs(&agents));
    until_in_sync(&stopped.world, "redis", 1).await;
    for address in [&primary, &full] {
        until_keys(stopped.world.server(address).unwrap(), COMMON + MORE).await;
    }
}

/// As a container's does, the other one's config has forgotten which instance it followed: it is a stray primary.
#[tokio::test]
async fn a_stray_primary_that_holds_the_data_leads_in_the_place_of_an_empty_one() {
    empty_and_first(Kept::Rdb, true).await;
}

/// The primary is restarted without its data before a Sentinel calls it down, and its replicas come back to it at once.
#[tokio::test]
async fn a_primary_restarted_without_its_data_leads_no_instance_that_has_it() {
    restarted_without_its_data(WorldSpec::default()).await;
}

/// See above; the world as it is afterwards.
pub async fn restarted_without_its_data(spec: WorldSpec) -> World {
    let mut world = world(spec).await;
    let agents = node_agents(&world, "");
    let primary = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    write(world.server(&primary).unwrap(), "common", COMMON).await;
    for server in &world.groups[0].redis {
        until_keys(server, COMMON).await;
    }
    as_installed(&world).await;
    let server = world.server_mut(&primary).unwrap();
    server.kill();
    let back = Instant::now();
    server.restart().await.unwrap();
    until_replaced(&world, &primary, &EMPTIED, back, &agents).await;
    until_in_sync(&world, "redis", 2).await;
    for server in &world.groups[0].redis {
        until_keys(server, COMMON).await;
    }
    world
}

/// What `docs/guarantees.md` advises: an empty primary that starts as a replica empties no instance, and Sentinels put
/// another one in its place.
#[tokio::test]
async fn an_empty_primary_that_starts_as_a_replica_leads_no_instance() {
    let mut stopped = stop_everything(Kept::Rdb, CHOOSES_WHAT_IS_LEFT).await;
    let (primary, full) = (stopped.primary.clone(), stopped.full.clone());
    stopped.lose_data(&primary);
    stopped.follow(&primary, &full);
    stopped.start_sentinels().await;
    let agents = node_agents(&stopped.world, "");
    let back = Instant::now();
    for address in [primary.clone(), full.clone(), stopped.behind.clone()] {
        stopped.start_redis(&address).await;
    }
    until_replaced(&stopped.world, &primary, &EMPTIED_REPLICA, back, &agents).await;
    stopped.until_led_by(&full, &agents).await;
}
