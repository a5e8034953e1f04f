//! Histories that are written, not drawn: the ones that have cost people their data.

use consul_redis_core::duty::action::Purpose;
use consul_redis_core::published::record::{Level, Record};
use consul_redis_core::time::Mono;

use crate::operation::Operation;
use crate::world::World;

fn published(world: &World) -> Option<Record> {
    world.consul.group(&world.layout, Mono(world.now)).record().cloned()
}

/// Runs in steps until `reached`, at most for `ms`.
#[track_caller]
fn run_until(world: &mut World, ms: u64, reached: impl Fn(&World) -> bool) {
    let end = world.now + ms;
    while !reached(world) {
        assert!(world.now < end, "never reached\n{}", world.log.join("\n"));
        world.run(world.now + 5);
    }
}

#[track_caller]
fn finish(world: &mut World) {
    world.schedule(world.now, Operation::HealAll);
    world.run(world.now + 60_000);
    world.check_converged();
    assert!(world.broken.is_none(), "{}", world.log.join("\n"));
}

fn settled(seed: u64, agents: usize) -> World {
    let mut world = World::new(seed, agents, 3, 3);
    world.run(5_000);
    assert!(published(&world).is_some(), "{}", world.log.join("\n"));
    world
}

fn patient(seed: u64) -> World {
    let mut world = World::patient(seed, 3, 3, 3);
    world.run(5_000);
    world
}

fn is_promotion(world: &World) -> bool {
    published(world).is_some_and(|record| record.evidence.level() == Level::Promotion)
}

/// With how many seeds each is run.
fn seeds() -> u64 {
    (crate::histories() / 50).clamp(4, 40)
}

#[test]
fn any_number_of_agents_publish_one_writer_once() {
    for seed in 0..seeds() {
        let world = settled(seed, 8);
        assert_eq!(world.commits.get(&Purpose::Publish), Some(&1), "{}", world.log.join("\n"));
        assert_eq!(published(&world).unwrap().generation, 1);
        assert_eq!(world.follow_ups, 1, "{}", world.log.join("\n"));
    }
}

#[test]
fn a_quiet_group_is_not_written_to() {
    let mut world = settled(1, 3);
    let before = world.commits.values().sum::<usize>();
    let follow_ups = world.follow_ups;
    world.run(world.now + 600_000);
    assert_eq!(world.follow_ups, follow_ups);
    assert_eq!(world.commits.values().sum::<usize>(), before, "{}", world.log.join("\n"));
}

#[test]
fn a_leader_that_dies_after_the_promotion_leaves_one_writer_in_the_end() {
    let mut seen = 0;
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::KillPrimary);
        run_until(&mut world, 20_000, |world| {
            published(world).is_some_and(|record| record.generation >= 3 && record.writer.is_some())
        });
        seen += usize::from(is_promotion(&world));
        world.schedule(world.now, Operation::KillLeader);
        world.run(world.now + 40_000);
        finish(&mut world);
    }
    assert!(seen > seeds() as usize / 2, "only {seen} promotions were published before the end");
}

/// What befalls the leader whose chosen replica has just become a primary.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Dies,
    StandsStill,
    IsCutOff,
    GivesUp,
}

/// The others hear of it from the agents, elect no other one, and its name is published once. Where an agent has not
/// seen the election in time, or saw half of its votes, another one may follow: as if there were no agents.
#[test]
fn a_promotion_outlives_its_leader() {
    outlives_its_leader(Operation::KillPrimary);
}

/// No Sentinel voted for its leader: it is told at an epoch that no election has.
#[test]
fn a_forced_failover_outlives_its_leader() {
    outlives_its_leader(Operation::ForceFailover(0));
}

fn outlives_its_leader(begins: Operation) {
    for fate in [Fate::Dies, Fate::StandsStill, Fate::IsCutOff, Fate::GivesUp] {
        let (mut kept, mut relays) = (0, 0);
        for seed in 0..seeds() {
            let mut world = settled(seed, 3);
            world.schedule(world.now + 10, begins);
            run_until(&mut world, 20_000, |world| world.cluster.awaits_promotion().is_some());
            let (leader, chosen) = world.cluster.awaits_promotion().unwrap();
            let others = (0..3).filter(|other| *other != leader);
            match fate {
                Fate::Dies => world.cluster.kill(leader),
                Fate::StandsStill => world.schedule(world.now, Operation::KillSentinel(leader)),
                Fate::IsCutOff => {
                    others.for_each(|o| {
                        world.schedule(world.now, Operation::CutSentinels(leader, o))
                    });
                }
                Fate::GivesUp => world.cluster.abort(leader),
            }
            world.run(world.now + 12_000);
            let followed = world.cluster.majority().as_ref() == Some(&chosen);
            let record = published(&world).unwrap();
            let once = record.generation <= 3 && record.writer_address() == Some(&chosen);
            kept += usize::from(followed && once);
            relays += world.counts.relays;
            finish(&mut world);
        }
        println!("{fate:?}: {kept} of {} promotions kept, {relays} Sentinels told", seeds());
        assert!(kept * 4 >= seeds() as usize * 3, "{fate:?}: {kept} of {}", seeds());
        assert!(relays > 0, "{fate:?}");
    }
}

/// The promoted one dies with the leader, or right after it: another one leads in the end.
#[test]
fn a_promotion_that_dies_with_its_leader_leaves_one_writer_in_the_end() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::KillPrimary);
        run_until(&mut world, 20_000, |world| world.cluster.awaits_promotion().is_some());
        let (_, chosen) = world.cluster.awaits_promotion().unwrap();
        let index = world.cluster.instances.iter().position(|i| i.address == chosen).unwrap();
        world.schedule(world.now, Operation::KillLeader);
        world.schedule(world.now + 60 * seed, Operation::KillInstance(index));
        world.run(world.now + 40_000);
        finish(&mut world);
    }
}

#[test]
fn a_reset_on_the_leader_in_mid_failover_leaves_one_writer_in_the_end() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::KillPrimary);
        run_until(&mut world, 20_000, |world| !world.cluster.chosen().is_empty());
        world.schedule(world.now + 30 * seed, Operation::ResetLeader);
        world.run(world.now + 30_000);
        finish(&mut world);
    }
}

#[test]
fn two_failovers_at_once_leave_one_writer_in_the_end() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::ForceTwoFailovers(0, 1));
        world.run(world.now + 40_000);
        finish(&mut world);
    }
}

#[test]
fn one_sentinel_rolled_back_changes_nothing() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::ForceFailover(0));
        world.run(world.now + 20_000);
        let before = published(&world).unwrap();
        assert!(before.generation > 1, "{}", world.log.join("\n"));
        world.schedule(world.now, Operation::Rollback { sentinel: 2, to: 0 });
        world.run(world.now + 20_000);
        assert_eq!(published(&world).unwrap().generation, before.generation);
        finish(&mut world);
    }
}

#[test]
fn consul_away_for_a_minute_changes_nothing_and_then_catches_up() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::ConsulAway);
        world.schedule(world.now + 20_000, Operation::KillPrimary);
        world.run(world.now + 60_000);
        assert_eq!(published(&world).unwrap().generation, 1);
        world.schedule(world.now, Operation::ConsulBack);
        run_until(&mut world, 15_000, |world| {
            published(world).is_some_and(|record| record.generation > 1 && record.writer.is_some())
        });
        finish(&mut world);
    }
}

#[test]
fn all_sentinels_away_change_nothing() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        for sentinel in 0..3 {
            world.schedule(world.now + 10, Operation::KillSentinel(sentinel));
        }
        world.run(world.now + 60_000);
        let record = published(&world).unwrap();
        assert_eq!((record.generation, record.writer.is_some()), (1, true));
        finish(&mut world);
    }
}

#[test]
fn agents_that_die_change_nothing() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        for agent in 0..3 {
            world.schedule(world.now + 10, Operation::KillAgent(agent));
        }
        world.schedule(world.now + 5_000, Operation::KillPrimary);
        world.run(world.now + 30_000);
        assert_eq!(published(&world).unwrap().generation, 1);
        finish(&mut world);
        assert!(published(&world).unwrap().generation > 1);
    }
}

#[test]
fn a_returning_old_primary_does_not_get_its_name_back() {
    let (mut held, mut fenced) = (0, 0);
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::KillPrimary);
        run_until(&mut world, 20_000, |world| {
            published(world).is_some_and(|record| record.generation >= 3 && record.writer.is_some())
        });
        world.run(world.now + 5_000);
        let before = published(&world).unwrap();
        world.schedule(world.now, Operation::StartInstance { instance: 0, empty: false });
        world.run(world.now + 20_000);
        let after = published(&world).unwrap();
        assert_eq!((after.generation, after.writer), (before.generation, before.writer));
        held += world.holds;
        fenced += world.fences;
        finish(&mut world);
    }
    println!("{held} holds, {fenced} fences");
    assert!(fenced >= seeds() as usize, "it was fenced only {fenced} times");
}

#[test]
fn a_blank_sentinel_is_reconfigured() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now, Operation::StartSentinel { sentinel: 1, blank: true });
        world.run(world.now + 10_000);
        assert!(world.reconfigurations > 0, "{}", world.log.join("\n"));
        assert!(world.cluster.sentinels[1].knows);
        finish(&mut world);
    }
}

#[test]
fn an_isolated_primary_takes_no_writes_and_heals_by_itself() {
    let mut holds = 0;
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        // The first primary is on the first host.
        world.schedule(world.now + 10, Operation::IsolateHost(0));
        world.run(world.now + 20_000);
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        let record = published(&world).unwrap();
        assert!(record.generation > 1 && record.writer.is_some(), "{}", world.log.join("\n"));
        holds += world.holds;
        finish(&mut world);
    }
    assert!(holds > seeds() as usize * 5, "{holds} holds");
}

#[test]
fn a_blank_group_gets_the_first_primary_with_the_most_data() {
    for seed in 0..seeds() * 5 {
        let mut world = World::from_scratch(seed, 3, 3, 3);
        run_until(&mut world, 30_000, |world| {
            published(world).is_some_and(|record| {
                record.writer.is_some() && record.evidence.level() == Level::Quorum
            })
        });
        run_until(&mut world, 30_000, |world| {
            published(world).is_some_and(|record| record.replicas().count() == 2)
        });
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        assert_eq!(published(&world).unwrap().generation, 1, "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

#[test]
fn sentinels_that_are_gone_are_forgotten_one_at_a_time() {
    for seed in 0..seeds() {
        forgets_one_at_a_time(World::new(seed, 3, 3, 5));
    }
}

/// Agents that drop from the record which Sentinel was reset last do not hasten the next.
#[test]
fn and_so_they_are_beside_agents_of_an_older_version() {
    for seed in 0..seeds() {
        forgets_one_at_a_time(World::half_upgraded(seed, 3, 3, 5));
    }
}

fn forgets_one_at_a_time(mut world: World) {
    world.run(5_000);
    for sentinel in [3, 4] {
        world.schedule(world.now + 10, Operation::RemoveSentinel(sentinel));
    }
    let knows_two_others = |world: &World| {
        let alive = world.cluster.sentinels.iter().take(3);
        alive.filter(|sentinel| sentinel.peers.len() == 2).count() == 3
    };
    run_until(&mut world, 200_000, knows_two_others);
    run_until(&mut world, 60_000, |world| {
        published(world).is_some_and(|record| record.evidence.known == 3)
    });
    assert!(world.broken.is_none(), "{}", world.log.join("\n"));
    assert_eq!(published(&world).unwrap().generation, 1, "{}", world.log.join("\n"));
    let quorums = |world: &World| world.cluster.sentinels.iter().take(3).all(|s| s.quorum == 2);
    run_until(&mut world, 10_000, quorums);
    // An agent that has not read yet how many they are now may tell the old quorum once more.
    world.run(world.now + 3_000);
    run_until(&mut world, 10_000, quorums);
    // A majority of three can elect again.
    world.schedule(world.now + 10, Operation::KillSentinel(2));
    world.schedule(world.now + 20, Operation::KillPrimary);
    run_until(&mut world, 30_000, |world| {
        published(world).is_some_and(|record| record.generation > 2 && record.writer.is_some())
    });
    finish(&mut world);
}

/// The primary comes back without its data before a Sentinel calls it down: another one leads, with all that it had,
/// and no instance has copied the emptiness.
#[test]
fn a_primary_that_comes_back_empty_leads_no_instance_with_data() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        let old = published(&world).unwrap().writer.unwrap().address;
        let index = world.cluster.instances.iter().position(|i| i.address == old).unwrap();
        let had = world.cluster.instances[index].offset;
        world.schedule(world.now, Operation::KillInstance(index));
        world.schedule(world.now + 200, Operation::StartInstance { instance: index, empty: true });
        world.run(world.now + 300);
        run_until(&mut world, 30_000, |world| {
            published(world).is_some_and(|record| record.writer.is_some_and(|w| w.address != old))
        });
        let new = published(&world).unwrap().writer.unwrap().address;
        let leads = world.cluster.instance(&new).unwrap();
        assert!(leads.offset + 200 >= had, "{had}: {leads:?}\n{}", world.log.join("\n"));
        assert!(world.detachments > 0 && world.replacements == 1, "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

/// All stop, and the one that was the primary is back first, without its data: no writer is published until those are
/// back who hold it, and then one of them.
#[test]
fn an_empty_primary_waits_for_those_who_may_hold_the_data() {
    for seed in 0..seeds() {
        let mut world = patient(seed);
        let old = published(&world).unwrap().writer.unwrap().address;
        let had = world.cluster.instance(&old).unwrap().offset;
        let first = world.cluster.instances.iter().position(|i| i.address == old).unwrap();
        for instance in 0..3 {
            world.schedule(world.now, Operation::KillInstance(instance));
        }
        let back = world.now + 100;
        world.schedule(back, Operation::StartInstance { instance: first, empty: true });
        for instance in (0..3).filter(|instance| *instance != first) {
            world.schedule(back + 8_000, Operation::StartInstance { instance, empty: false });
        }
        world.run(back + 6_000);
        assert_eq!(published(&world).unwrap().writer, None, "{}", world.log.join("\n"));
        run_until(&mut world, 40_000, |world| published(world).unwrap().writer.is_some());
        let new = published(&world).unwrap().writer.unwrap().address;
        let leads = world.cluster.instance(&new).unwrap();
        assert!(new != old && leads.offset + 100 >= had, "{leads:?}\n{}", world.log.join("\n"));
        finish(&mut world);
    }
}

/// No other instance comes back: the empty one leads after `bootstrap_wait`, since there is nothing to lose.
#[test]
fn an_empty_primary_that_stays_alone_leads_after_the_wait() {
    let mut world = patient(3);
    let old = published(&world).unwrap().writer.unwrap().address;
    let first = world.cluster.instances.iter().position(|i| i.address == old).unwrap();
    for instance in 0..3 {
        world.schedule(world.now, Operation::KillInstance(instance));
    }
    let back = world.now + 100;
    world.schedule(back, Operation::StartInstance { instance: first, empty: true });
    world.run(back + 25_000);
    assert_eq!(published(&world).unwrap().writer, None, "{}", world.log.join("\n"));
    run_until(&mut world, 20_000, |world| published(world).unwrap().writer.is_some());
    assert_eq!(published(&world).unwrap().writer.unwrap().address, old);
}

/// Sentinels that know only dead ones elect none, for ever: the agents find the one with the most data, and reconfigure
/// them.
#[test]
fn a_relocated_group_is_led_by_the_one_with_the_most_data() {
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        for index in 0..(seed % 3) as usize {
            world.schedule(world.now + 10, Operation::KillInstance(index));
        }
        world.run(world.now + 3_000);
        let before = published(&world).unwrap();
        let at = |index: &usize| {
            before.writer_address() == Some(&world.cluster.instances[*index].address)
        };
        let primary = (0..3).find(at).expect("a writer");
        world.schedule(world.now + 10, Operation::MoveAll);
        if seed % 4 == 1 {
            world.schedule(world.now + 5_000, Operation::KillAgent(0));
        }
        world.run(world.now + 45_000);
        let after = published(&world).unwrap();
        let expected = crate::cluster::address(11, primary);
        let log = world.log.join("\n");
        assert_eq!(after.writer_address(), Some(&expected), "seed {seed}\n{log}");
        assert!(
            after.generation > before.generation && world.removals >= 3,
            "{}",
            world.log.join("\n")
        );
        assert_eq!(after.evidence.level(), Level::Quorum, "{}", world.log.join("\n"));
        // What comes after it is as before.
        world.schedule(world.now, Operation::KillPrimary);
        world.run(world.now + 20_000);
        let last = published(&world).unwrap();
        assert!(last.writer.is_some() && last.generation > after.generation, "seed {seed}");
        finish(&mut world);
    }
}

/// The steps of `consul-redis switchover`, with nothing that disturbs them.
#[test]
fn a_planned_move_loses_no_acknowledged_write() {
    let mut done = 0;
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now + 10, Operation::Switchover(0));
        world.run(world.now + 20_000);
        done += world.counts.moves_done;
        finish(&mut world);
    }
    assert_eq!(done, seeds() as usize);
}

/// What the move is compared with: the same failover, and no agent holds the writes.
#[test]
fn a_forced_failover_by_itself_loses_some() {
    let mut lost = 0;
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        let replid = world.cluster.instances[0].replid;
        world.schedule(world.now + 10, Operation::ForceFailover(0));
        world.run(world.now + 20_000);
        let went_on = world.cluster.instances.iter().find(|i| i.is_primary()).expect("a primary");
        let (history, wrote) = world.cluster.instances[0].wrote;
        lost += usize::from(history == replid && wrote >= went_on.forked_at);
        finish(&mut world);
    }
    assert!(lost > 0, "the check of planned moves would find nothing");
}

/// A late answer of a Sentinel that is gone for good does not keep an agent from making a stray primary a replica.
#[test]
fn a_sentinel_that_is_dismissed_is_not_waited_for() {
    let mut late = 0;
    for seed in 0..seeds() {
        let mut world = settled(seed, 3);
        world.schedule(world.now, Operation::KillPrimary);
        world.run(world.now + 20_000);
        let fenced = world.fences;
        // Its last question is on its way.
        world.schedule(world.now + 50 + 25 * seed, Operation::RemoveSentinel(2));
        world.run(world.now + 1_000);
        for agent in 0..3 {
            let sentinel = 2;
            world.schedule(world.now + 60 * agent as u64, Operation::Dismiss { agent, sentinel });
        }
        world.run(world.now + 500);
        let start = Operation::StartInstance { instance: 0, empty: false };
        world.schedule(world.now, start);
        world.run(world.now + 900);
        late += world.counts.late_answers;
        assert!(world.broken.is_none(), "{}", world.log.join("\n"));
        assert!(world.fences > fenced, "seed {seed}\n{}", world.log.join("\n"));
    }
    assert!(late > 0, "no answer came late");
}

/// Agents that hear of the ends of the processes beside them, and Sentinels that wait for 5 s.
fn told(seed: u64) -> World {
    let mut world = World::patient(seed, 3, 3, 3).told_of_deaths();
    world.run(5_000);
    assert!(published(&world).is_some(), "{}", world.log.join("\n"));
    world
}

/// Agents that are refused by what has died, and Sentinels that wait for 5 s.
fn refused(seed: u64) -> World {
    let mut world = World::patient(seed, 3, 3, 3).refused_by_the_dead();
    world.run(5_000);
    assert!(published(&world).is_some(), "{}", world.log.join("\n"));
    world
}

fn they_wait_as_before(world: &World, seed: u64) {
    let paces: Vec<_> = world.cluster.sentinels.iter().filter_map(|s| s.pace).collect();
    assert_eq!(paces, Vec::<u64>::new(), "seed {seed}\n{}", world.log.join("\n"));
}

/// They vote at once, and wait as before again.
#[test]
fn where_a_writer_refuses_all_agents_the_sentinels_vote_at_once() {
    let mut soon = 0;
    for seed in 0..seeds() {
        let mut world = refused(seed);
        let first = published(&world).unwrap().writer.unwrap();
        world.schedule(world.now + 10, Operation::KillPrimary);
        let begun = world.now;
        run_until(&mut world, 60_000, |world| {
            published(world).is_some_and(|r| r.writer.is_some_and(|w| w.address != first.address))
        });
        // Half of the time that they wait; what is heard of late, or not at all, is theirs.
        soon += u64::from(world.now - begun < 2_500);
        world.run(world.now + 10_000);
        they_wait_as_before(&world, seed);
        finish(&mut world);
    }
    assert!(soon * 10 >= seeds() * 6, "only {soon} of {}", seeds());
}

/// A command that was on its way for long hurries no Sentinel about the primary that was elected meanwhile.
#[test]
fn a_sentinel_is_hurried_too_late_by_no_agent() {
    let mut late = 0;
    for seed in 0..4 * seeds() {
        let mut world = refused(seed).tardy();
        world.schedule(world.now + 10, Operation::KillPrimary);
        world.run(world.now + 30_000);
        late += world.counts.late_paces;
        they_wait_as_before(&world, seed);
        finish(&mut world);
    }
    assert!(late > 0, "no agent was late");
}

/// What stands before a living writer refuses the agents in its place: it answers the Sentinels.
#[test]
fn a_writer_that_lives_is_not_replaced_where_something_else_refuses_the_agents() {
    for seed in 0..seeds() {
        let mut world = refused(seed);
        let before = published(&world).unwrap();
        let index = 0;
        assert_eq!(world.cluster.instances[index].address, before.writer.clone().unwrap().address);
        world.refuse_falsely(index);
        world.run(world.now + 20_000);
        let after = published(&world).unwrap();
        assert_eq!(after.generation, before.generation, "{}", world.log.join("\n"));
        assert_eq!(world.counts.paces, 0, "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

/// It is back as the Sentinels vote, or before.
#[test]
fn a_writer_that_refused_and_is_back_leaves_one_writer_and_the_sentinels_at_their_pace() {
    for seed in 0..seeds() {
        let mut world = refused(seed);
        world.schedule(world.now + 10, Operation::KillPrimary);
        let back = Operation::StartDead { empty: seed % 3 == 0 };
        world.schedule(world.now + 40 + 50 * seed, back);
        world.run(world.now + 40_000);
        they_wait_as_before(&world, seed);
        finish(&mut world);
    }
}

/// The agent that has told them is gone: any other one tells them to wait as before.
#[test]
fn sentinels_wait_as_before_again_whichever_agents_are_left() {
    for seed in 0..seeds() {
        let mut world = refused(seed);
        world.schedule(world.now + 10, Operation::KillPrimary);
        let end = world.now + 3_000;
        while world.counts.paces == 0 && world.now < end {
            world.run(world.now + 5);
        }
        for agent in 0..2 {
            world.schedule(world.now + seed, Operation::KillAgent(agent));
        }
        world.run(world.now + 40_000);
        they_wait_as_before(&world, seed);
        finish(&mut world);
    }
}

fn is_withdrawn(world: &World) -> bool {
    published(world).is_some_and(|record| record.writer.is_none() && record.death.is_some())
}

#[test]
fn a_proven_death_is_followed_long_before_sentinels_would_see_it() {
    let mut soon = 0;
    for seed in 0..seeds() {
        let mut world = told(seed);
        let first = published(&world).unwrap().writer.unwrap();
        world.schedule(world.now + 10, Operation::KillPrimary);
        let begun = world.now;
        run_until(&mut world, 40_000, |world| {
            published(world).is_some_and(|r| r.writer.is_some_and(|w| w.address != first.address))
        });
        // Half of the time that they wait; what is heard of late, or written late, is theirs.
        soon += u64::from(world.now - begun < 2_500);
        assert!(world.superseded.len() <= 1, "{}", world.log.join("\n"));
        finish(&mut world);
    }
    assert!(soon * 10 >= seeds() * 7, "only {soon} of {}", seeds());
}

#[test]
fn a_primary_that_is_back_at_once_does_not_take_the_role_back() {
    let mut back = 0;
    for seed in 0..seeds() {
        let mut world = told(seed);
        let first = published(&world).unwrap().writer.unwrap().address;
        world.schedule(world.now + 10, Operation::KillPrimary);
        let end = world.now + 3_000;
        while !is_withdrawn(&world) && world.now < end {
            world.run(world.now + 2);
        }
        let asked = is_withdrawn(&world);
        world.schedule(world.now + seed, Operation::StartDead { empty: seed % 3 == 0 });
        run_until(&mut world, 60_000, |world| {
            published(world).is_some_and(|record| record.writer.is_some())
        });
        let next = published(&world).unwrap().writer.unwrap().address;
        if asked && !world.superseded.is_empty() {
            back += 1;
            assert_ne!(next, first, "{}", world.log.join("\n"));
        }
        finish(&mut world);
    }
    assert!(back * 2 >= seeds(), "only {back} of {}", seeds());
}

/// Nothing was asked, so the Sentinels go on naming it: it is published again when it is back with its data.
#[test]
fn an_agent_that_dies_before_it_asks_costs_some_seconds() {
    for seed in 0..seeds() {
        let mut world = told(seed);
        world.schedule(world.now + 10, Operation::KillPrimary);
        let end = world.now + 3_000;
        while !is_withdrawn(&world) && world.now < end {
            world.run(world.now + 1);
        }
        for agent in 0..3 {
            world.schedule(world.now, Operation::KillAgent(agent));
        }
        for agent in 0..3 {
            world.schedule(world.now + 300, Operation::StartAgent(agent));
        }
        world.schedule(world.now + 500, Operation::StartDead { empty: false });
        run_until(&mut world, 60_000, |world| {
            published(world).is_some_and(|record| record.writer.is_some())
        });
        assert!(world.superseded.len() <= 1, "{}", world.log.join("\n"));
        finish(&mut world);
    }
}

#[test]
fn the_sentinel_that_was_asked_dies_in_mid_failover() {
    for seed in 0..seeds() {
        let mut world = told(seed);
        world.schedule(world.now + 10, Operation::KillPrimary);
        let end = world.now + 6_000;
        while world.cluster.chosen().is_empty() && world.now < end {
            world.run(world.now + 5);
        }
        world.schedule(world.now + 40 * seed, Operation::KillLeader);
        world.run(world.now + 40_000);
        finish(&mut world);
    }
}

/// The second one is left to the Sentinels: one request at a time.
#[test]
fn two_primaries_that_die_one_after_the_other_leave_one_writer() {
    for seed in 0..seeds() {
        let mut world = told(seed);
        world.schedule(world.now + 10, Operation::KillPrimary);
        world.run(world.now + 1_500 + 50 * seed);
        world.schedule(world.now, Operation::KillPrimary);
        world.run(world.now + 5_000);
        assert!(world.superseded.len() <= 1, "{}", world.log.join("\n"));
        world.run(world.now + 40_000);
        finish(&mut world);
    }
}
