//! Histories that are written, not drawn: what `docs/facts/cluster.md` has measured, and what agents make of it.

use std::collections::BTreeSet;

use consul_redis_core::cluster::record::ClusterRole;
use consul_redis_core::cluster::wanted::ClusterDuties;
use consul_redis_core::cluster::watch::{ASK_MS, ASK_QUICK_MS};

use crate::nodes::{Failover, Keeps, Process, Version};
use crate::operation::Operation;
use crate::world::{Proofs, World};

const T: u64 = 2_000;
/// What a scenario's messages and its write to Consul may take, in ms: the world's slowest ones.
const SLACK_MS: u64 = 1_500;

/// Six nodes, and perhaps three of another cluster, with two agents, published.
fn published(seed: u64, version: Version, foreign: bool) -> World {
    let mut world = World::of(seed, version, T, foreign);
    world.add_agent();
    world.add_agent();
    world.run_for(8_000);
    assert_eq!(world.named.len(), 6, "{}", world.log.join("\n"));
    world
}

fn is_named(world: &World, process: Process, role: ClusterRole) -> bool {
    world.named.get(world.nodes.name(process)).is_some_and(|named| named.role == role)
}

/// Runs in steps until `reached`, at most for `ms`. How long it took.
#[track_caller]
fn run_until(world: &mut World, ms: u64, reached: impl Fn(&World) -> bool) -> u64 {
    let begin = world.now;
    while !reached(world) {
        let late = world.now - begin >= ms || world.broken.is_some();
        assert!(!late, "never reached\n{}\n{}", world.log.join("\n"), world.state());
        world.run_for(5);
    }
    world.now - begin
}

#[track_caller]
fn does(world: &mut World, operation: Operation) {
    world.schedule(world.now, operation);
    world.run_for(1);
    assert!(world.broken.is_none(), "{}", world.log.join("\n"));
}

#[track_caller]
fn finish(world: &mut World) {
    does(world, Operation::HealAll);
    world.run_for(12_000);
    does(world, Operation::Repair);
    run_until(world, 120_000, |world| world.is_still(16_000));
    let served = world.check_converged();
    assert!(world.broken.is_none(), "{}", world.log.join("\n"));
    assert!(served, "{}\n{}", world.log.join("\n"), world.state());
}

const VERSIONS: [Version; 3] = [Version::Redis7, Version::Redis8, Version::Valkey9];

/// With how many seeds each is run.
fn seeds() -> u64 {
    (crate::histories() / 200).clamp(2, 10)
}

fn each(mut run: impl FnMut(u64, Version)) {
    for version in VERSIONS {
        for seed in 0..seeds() {
            run(seed, version);
        }
    }
}

#[test]
fn any_number_of_agents_publish_a_cluster_once_and_a_quiet_one_is_not_written_to() {
    for seed in 0..seeds() {
        let mut world = World::of(seed, Version::Redis7, T, false);
        for _ in 0..5 {
            world.add_agent();
        }
        world.run_for(600_000);
        assert_eq!((world.commits, world.named.len()), (1, 6), "{}", world.log.join("\n"));
        assert!(world.check_converged() && world.broken.is_none());
    }
}

/// 2.1: a dead one leaves at once, its successor enters as soon as it is elected, and it returns as a replica.
#[test]
fn a_dead_primary_leaves_at_once_and_its_replica_enters_with_its_election() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let dead = world.owner_of(0).expect("an owner");
        let successor = world.replica_of(0).expect("a replica");
        world.schedule(world.now, Operation::KillPrimary(0));
        let left = run_until(&mut world, 3_000, |w| !is_named(w, dead, ClusterRole::Primary));
        assert!(left <= SLACK_MS, "{left}");
        let elected = run_until(&mut world, 3 * T, |w| w.owner_of(0) == Some(successor));
        assert!((T / 2..=2 * T).contains(&(left + elected)), "{left} + {elected}");
        let entered =
            run_until(&mut world, 4 * T, |w| is_named(w, successor, ClusterRole::Primary));
        assert!(entered <= 2_000 + ASK_QUICK_MS + SLACK_MS, "{entered}");
        does(&mut world, Operation::Start(dead, Keeps::ALL, 0));
        run_until(&mut world, 20_000, |w| is_named(w, dead, ClusterRole::Replica));
        finish(&mut world);
    });
}

/// 3.1: what it acknowledges for the cluster's blind time is lost, and no longer. `docs/cluster.md` says that agents find
/// it out within T, as the cluster itself does: T and half of it, with its gossip.
#[test]
fn a_primary_that_is_cut_off_leaves_within_the_clusters_blind_time() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let old = world.owner_of(0).expect("an owner");
        let begin = world.now;
        does(&mut world, Operation::CutNode(old));
        run_until(&mut world, 4 * T, |w| !is_named(w, old, ClusterRole::Primary));
        let left = world.now - begin;
        assert!(left >= T, "{left}: nothing was to be seen before");
        assert!(left <= T * 3 / 2 + T * 3 / 10 + ASK_MS + SLACK_MS, "{left}");
        let acks = world.nodes.acks.iter().filter(|ack| ack.by == old && ack.at > begin);
        let last = acks.map(|ack| ack.at).max().expect("it took writes") - begin;
        assert!((T..=T * 3 / 2 + 200).contains(&last), "{last}");
        run_until(&mut world, 20_000, |w| w.named.len() == 5);
        finish(&mut world);
    });
}

/// 0.1: replaced, and started again where it reaches no other node, it says ok from 2 s on and takes writes.
#[test]
fn a_replaced_primary_that_is_started_alone_takes_writes_and_is_in_no_name() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let old = world.owner_of(0).expect("an owner");
        does(&mut world, Operation::KillPrimary(0));
        run_until(&mut world, 5 * T, |w| w.named.len() == 5 && w.owner_of(0) != Some(old));
        does(&mut world, Operation::CutNode(old));
        let begin = world.now;
        does(&mut world, Operation::Start(old, Keeps::ALL, 0));
        let mut rosy = BTreeSet::new();
        for _ in 0..200 {
            world.run_for(50);
            if world.nodes.takes_writes(old, 0) {
                rosy.insert(world.now - begin);
            }
            assert!(!world.named.contains_key(world.nodes.name(old)), "{}", world.log.join("\n"));
        }
        // T is so short that it calls the others failing before it may take writes, but for what is left of 1.5 T.
        let ends = rosy.last().copied().unwrap_or(0);
        assert!(ends <= 3 * T / 2 + 300, "{rosy:?}");
        finish(&mut world);
    });
}

/// The same where T is longer than 2 s.
#[test]
fn it_takes_writes_from_two_seconds_on_to_one_and_a_half_of_its_timeout() {
    let mut world = World::of(1, Version::Redis7, 5_000, false);
    world.add_agent();
    world.run_for(8_000);
    let old = world.owner_of(0).expect("an owner");
    does(&mut world, Operation::KillPrimary(0));
    run_until(&mut world, 30_000, |w| w.named.len() == 5 && w.owner_of(0) != Some(old));
    does(&mut world, Operation::CutNode(old));
    let begin = world.now;
    does(&mut world, Operation::Start(old, Keeps::ALL, 0));
    let took = run_until(&mut world, 3_000, |w| w.nodes.takes_writes(old, 0));
    assert!((1_900..2_300).contains(&took), "{took}");
    run_until(&mut world, 10_000, |w| !w.nodes.takes_writes(old, 0));
    let ended = world.now - begin;
    assert!((5_000..7_800).contains(&ended), "{ended}");
    assert!(!world.named.contains_key(world.nodes.name(old)));
    finish(&mut world);
}

/// 0.9: a frozen primary that was replaced executes what waits in its sockets; the names have left it before.
#[test]
fn a_frozen_primary_that_goes_on_is_in_no_name_when_it_acknowledges_what_is_lost() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let old = world.owner_of(0).expect("an owner");
        does(&mut world, Operation::Freeze(old));
        run_until(&mut world, 6 * T, |w| {
            w.owner_of(0) != Some(old) && !w.named.contains_key(w.nodes.name(old))
        });
        does(&mut world, Operation::Thaw(old));
        world.run_for(10_000);
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        finish(&mut world);
    });
    let mut world = published(3, Version::Redis7, false);
    let old = world.owner_of(0).expect("an owner");
    does(&mut world, Operation::Freeze(old));
    world.run_for(5 * T);
    let before = world.nodes.acks.len();
    does(&mut world, Operation::Thaw(old));
    let queued = world.nodes.acks[before..].iter().filter(|ack| ack.by == old).count();
    assert!(queued > 0, "nothing waited");
}

/// 2.5: r wins, p takes its slots back, and dies within 2 T of r's win.
#[test]
fn a_replica_that_promotes_itself_by_old_votes_is_in_no_name_as_a_primary() {
    for version in [Version::Redis7, Version::Redis8] {
        let mut world = published(5, version, false);
        let (p, r) =
            (world.owner_of(0).expect("an owner"), world.replica_of(0).expect("a replica"));
        does(&mut world, Operation::Failover(0, Failover::Plain));
        run_until(&mut world, 3_000, |w| w.owner_of(0) == Some(r));
        run_until(&mut world, 5_000, |w| w.nodes.copies(p) == Some(r));
        // The others have voted for this shard within 2 T; FORCE asks for no majority's flag.
        does(&mut world, Operation::Failover(0, Failover::Takeover));
        run_until(&mut world, 3_000, |w| w.owner_of(0) == Some(p));
        run_until(&mut world, 5_000, |w| w.nodes.copies(r) == Some(p));
        does(&mut world, Operation::Failover(0, Failover::Force));
        world.run_for(500);
        assert_eq!(world.nodes.without_votes, 1, "{}", world.state());
        world.run_for(3_000);
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        assert_eq!(world.owner_of(0), Some(p), "{}", world.state());
        finish(&mut world);
    }
    // Valkey holds a true election (its voters deny it within 2 T).
    let mut world = published(5, Version::Valkey9, false);
    for how in [Failover::Plain, Failover::Takeover, Failover::Force] {
        does(&mut world, Operation::Failover(0, how));
        world.run_for(1_500);
    }
    assert_eq!(world.nodes.without_votes, 0);
}

/// 0.4: one MEET merges two clusters; whose claims are older loses its slots.
#[test]
fn two_clusters_that_merge_put_no_stranger_in_the_names_as_a_primary() {
    let mut taken = 0;
    each(|seed, version| {
        let mut world = published(seed, version, true);
        does(&mut world, Operation::MeetForeign(4));
        run_until(&mut world, 5_000, |world| world.merged);
        world.run_for(20_000);
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        let foreign = |process: Process| is_named(&world, process, ClusterRole::Primary);
        assert!(!(6..9).any(foreign), "{}", world.log.join("\n"));
        taken +=
            usize::from(world.log.iter().any(|line| line.contains("were two clusters merged?")))
    });
    assert!(taken > 0);
}

/// 0.5: Valkey 9 sends a MEET by itself to what has a dead one's address; Redis does not.
#[test]
fn a_dead_ones_address_that_another_cluster_has_merges_with_valkey_alone() {
    for version in VERSIONS {
        let mut merged = 0;
        for seed in 0..seeds() {
            let mut world = published(seed, version, true);
            // The process ends; its address is silent, as that of a container.
            let places: BTreeSet<usize> = (0..6).map(|p| world.nodes.nodes[p].place).collect();
            world.nodes.silent = places;
            does(&mut world, Operation::Kill(4));
            world.run_for(12_000);
            does(&mut world, Operation::ForeignAtDead(4));
            world.run_for(20_000);
            assert!(world.broken.is_none(), "{}", world.log.join("\n"));
            merged += u64::from(world.merged);
        }
        let all = if version == Version::Valkey9 { seeds() } else { 0 };
        assert_eq!(merged, all, "{version:?}");
    }
}

/// 6: a node that the others have forgotten sees itself as a member, and serves nothing.
#[test]
fn a_forgotten_node_thinks_itself_well_and_is_in_no_name() {
    for process in [1, 4] {
        let mut world = published(2, Version::Redis7, false);
        does(&mut world, Operation::Forget(process));
        run_until(&mut world, 5_000, |w| !w.named.contains_key(w.nodes.name(process)));
        world.run_for(20_000);
        let answer = world.nodes.answer(process);
        let well = answer.table.rows.values().all(|row| row.is_well() && row.linked);
        assert!(well && answer.table.rows.len() == 6, "{}", world.state());
        let ghost = |w: &World| !w.named.contains_key(w.nodes.name(process));
        assert!(ghost(&world));
        match process {
            // Its own replica may not forget it, and tells the others again after a minute.
            1 => drop(run_until(&mut world, 60_000, |w| !ghost(w))),
            _ => {
                world.run_for(70_000);
                assert!(ghost(&world));
            }
        }
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

/// 5: when all addresses are new nothing heals alone, and 0.12: a replica stays on its primary's old address.
#[test]
fn a_cluster_that_has_moved_is_in_no_name_until_its_nodes_meet_again() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        does(&mut world, Operation::MoveAll);
        world.run_for(25_000);
        assert_eq!(world.named.len(), 0, "{}\n{}", world.log.join("\n"), world.state());
        let seen = world.nodes.nodes.iter().filter(|node| node.state_ok).count();
        println!("{version:?}, {seed}: {seen} of 6 say ok");
        does(&mut world, Operation::Repair);
        world.run_for(10_000);
        finish(&mut world);
        assert_eq!(world.named.len(), 6, "{}", world.state());
    });
}

/// One node at a new address is known at once, and its replica follows.
#[test]
fn a_node_that_moves_alone_is_in_the_names_at_its_new_address() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        for process in [0, 4] {
            does(&mut world, Operation::Move(process));
            let at = world.nodes.address(process).to_string();
            run_until(&mut world, 8_000, |w| w.answered("orders").contains(&at));
            run_until(&mut world, 8_000, |w| w.named.len() == 6);
        }
        finish(&mut world);
    });
}

/// 2.4: with a lower timeout a death is followed in 2 s, and while all live it does nothing.
#[test]
fn a_lower_timeout_makes_an_election_quick_and_does_nothing_while_all_live() {
    each(|seed, version| {
        let mut world = World::of(seed, version, 15_000, false);
        world.add_agent();
        world.run_for(8_000);
        does(&mut world, Operation::SetTimeout(500));
        world.run_for(1_500);
        does(&mut world, Operation::SetTimeout(0));
        assert!(world.nodes.elected.is_empty(), "{}", world.state());
        assert!((0..6).all(|p| (0..6).all(|q| world.nodes.sees_well(p, world.nodes.nodes[q].id))));
        let successor = world.replica_of(0).expect("a replica");
        does(&mut world, Operation::KillPrimary(0));
        world.run_for(30);
        does(&mut world, Operation::SetTimeout(500));
        let took = run_until(&mut world, 2_500, |w| w.owner_of(0) == Some(successor));
        println!("{version:?}, {seed}: elected after {took} ms");
        finish(&mut world);
    });
}

/// A cluster that agents may hasten, and that has been so for long.
fn managed(seed: u64, version: Version, proofs: Proofs) -> World {
    let mut world = World::of(seed, version, 5_000, false);
    (world.duties, world.proofs) = (ClusterDuties::default(), proofs);
    world.add_agent();
    world.add_agent();
    world.run_for(30_000);
    assert_eq!(world.named.len(), 6, "{}", world.log.join("\n"));
    world
}

/// The primary of the first slot is killed: what its death is taken from, until when that is recorded, and until when a
/// replica is elected, in ms.
fn death(world: &mut World) -> (String, u64, u64) {
    let hastened = |w: &World| w.record().and_then(|record| record.claims.hastened);
    does(world, Operation::KillPrimary(0));
    let begun = run_until(world, 4_000, |w| hastened(w).is_some());
    let found = hastened(world).expect("a death");
    let elected = run_until(world, 4_500, |w| {
        w.owner_of(0).is_some_and(|owner| *w.nodes.name(owner) != found.dead)
    });
    (found.evidence, begun, begun + elected)
}

/// 2.4: by the kernel's word sooner than by what refuses.
#[test]
fn a_death_that_the_kernel_tells_of_is_acted_on_sooner_than_one_that_is_seen() {
    let (mut seen, mut told, mut by_its_word) = (0, 0, 0);
    each(|seed, version| {
        for proofs in [Proofs::None, Proofs::Prompt] {
            let mut world = managed(seed, version, proofs);
            let (evidence, begun, elected) = death(&mut world);
            println!("{version:?}, {seed}: {evidence} after {begun} ms, elected after {elected}");
            *if proofs == Proofs::None { &mut seen } else { &mut told } += begun;
            // Its agent may be slow for once, and another one before it.
            by_its_word += u64::from(evidence == "process");
            assert!(proofs != Proofs::None || evidence == "refused", "{evidence}");
            assert!(elected < 5_000, "{elected}");
            finish(&mut world);
        }
    });
    assert!(told < seen, "{told} of {seen}");
    assert!(by_its_word * 2 > 3 * seeds(), "{by_its_word}");
}

/// 0.11: a primary that restarts empty inside T keeps its role, and its replica is emptied.
#[test]
fn a_primary_that_restarts_empty_in_time_empties_its_replica() {
    let mut world = published(4, Version::Redis7, false);
    let (p, r) = (world.owner_of(0).expect("an owner"), world.replica_of(0).expect("a replica"));
    let had = world.nodes.offset(r);
    assert!(had > 20);
    does(&mut world, Operation::KillPrimary(0));
    world.run_for(200);
    does(&mut world, Operation::Start(p, Keeps { data: false, config: true }, 0));
    world.run_for(3_500);
    assert_eq!((world.owner_of(0), world.nodes.copies(r)), (Some(p), Some(p)));
    assert!(world.nodes.offset(r) < had / 2, "{} of {had}", world.nodes.offset(r));
    finish(&mut world);
}

/// 2.3: no acknowledged write is lost, and the names follow.
#[test]
fn a_planned_failover_loses_no_write_and_is_followed() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let r = world.replica_of(0).expect("a replica");
        does(&mut world, Operation::Failover(0, Failover::Plain));
        let moved = run_until(&mut world, 2_000, |w| w.owner_of(0) == Some(r));
        let named = run_until(&mut world, 4_000, |w| is_named(w, r, ClusterRole::Primary));
        assert!(moved <= 300 && named <= ASK_MS + SLACK_MS, "{moved}, {named}");
        finish(&mut world);
        assert_eq!(world.counts.of("published writes lost"), 0);
    });
}

/// 2.3: without a vote, and on the minority's side, it wins when the cut heals, by its epoch: no rule sees that coming.
#[test]
fn a_takeover_behind_a_cut_wins_when_it_heals_and_is_named_then_alone() {
    let mut world = published(1, Version::Redis7, false);
    let (p, r) = (world.owner_of(0).expect("an owner"), world.replica_of(0).expect("a replica"));
    does(&mut world, Operation::CutNode(r));
    world.run_for(500);
    does(&mut world, Operation::Failover(0, Failover::Takeover));
    assert!(world.nodes.takes_writes(r, 0), "{}", world.state());
    world.run_for(10_000);
    assert!(
        is_named(&world, p, ClusterRole::Primary) && !world.named.contains_key(world.nodes.name(r))
    );
    does(&mut world, Operation::HealBus);
    run_until(&mut world, 10_000, |w| is_named(w, r, ClusterRole::Primary));
    finish(&mut world);
}

/// A minority refuses requests after T: its nodes leave as soon as they say so, or no majority is heard.
#[test]
fn a_minority_leaves_the_names_and_the_majority_goes_on() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        // One shard, with its replica, has no majority; the other four nodes have.
        let (p, r) =
            (world.owner_of(0).expect("an owner"), world.replica_of(0).expect("a replica"));
        does(&mut world, Operation::CutMinority(1 << p | 1 << r));
        run_until(&mut world, 5 * T, |w| {
            let out = |process| !w.named.contains_key(w.nodes.name(process));
            out(p) && out(r)
        });
        // No replica of its shard is there: with full coverage, all refuse.
        run_until(&mut world, 5 * T, |w| w.named.is_empty());
        finish(&mut world);
    });
}

/// What one agent alone does not hear says nothing of the cluster.
#[test]
fn an_agent_that_is_cut_off_changes_no_name_while_another_hears_all() {
    for seed in 0..seeds() {
        let mut world = published(seed, Version::Redis7, false);
        let before = world.named.clone();
        does(&mut world, Operation::CutAgent(0, 0b11_1111));
        world.run_for(40_000);
        assert_eq!(world.named, before, "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

/// 6: it leaves nothing behind, and joins again as a blank node does (4).
#[test]
fn a_replica_that_is_reset_leaves_and_joins_under_a_new_id() {
    each(|seed, version| {
        let mut world = published(seed, version, false);
        let old = world.nodes.name(4).clone();
        does(&mut world, Operation::Reset(4));
        run_until(&mut world, 5_000, |w| !w.named.contains_key(&old));
        run_until(&mut world, 10_000, |w| is_named(w, 4, ClusterRole::Replica));
        finish(&mut world);
        assert!(!world.record().expect("a record").nodes.contains_key(&old));
    });
}

/// The generation goes on above what agents have seen.
#[test]
fn a_consul_that_is_restored_or_wiped_is_filled_again_above_the_last_generation() {
    for operation in [Operation::RestoreConsul, Operation::WipeConsul] {
        let mut world = published(6, Version::Redis7, false);
        does(&mut world, Operation::KillPrimary(0));
        run_until(&mut world, 6 * T, |w| w.named.len() == 5);
        world.run_for(3_000);
        let generation = world.record().expect("a record").generation;
        does(&mut world, operation);
        run_until(&mut world, 20_000, |w| {
            w.named.len() == 5 && w.record().is_some_and(|record| record.generation > generation)
        });
        finish(&mut world);
    }
}
