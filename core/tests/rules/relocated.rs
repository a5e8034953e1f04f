//! A relocated group: no instance is left where its Sentinels look, and its instances are back at other addresses.

use consul_redis_core::duty::action::{Action, Purpose};
use consul_redis_core::duty::sentinels::{Reconfigure, ReconfigureKind};
use consul_redis_core::known::memory::Condition;
use consul_redis_core::known::observed::{
    Continued, DownOpinion, FailoverPhase, InstanceAnswer, ReplId, Role,
};
use consul_redis_core::policy::{OUT_OF_REACH_AFTER_MS, REINSTATED_AFTER_MS};
use consul_redis_core::published::projection::detached_address;
use consul_redis_core::published::record::{Basis, Level};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::situation::relocated::{NotRelocated, condition, successor};
use consul_redis_core::time::Mono;

use crate::instance_rows::reset_as_it_died;
use crate::scene::{A, B, C, NOW, Scene, at, layout, primary, replica, sentinel_at};

/// Where A, B and C are now.
const D: &str = "10.0.2.1:6379";
const E: &str = "10.0.2.2:6379";
const F: &str = "10.0.2.3:6379";

/// A detached instance, with so much of history 1.
fn waiting(offset: u64) -> InstanceAnswer {
    let role = Role::Replica { of: detached_address(), link_up: false };
    InstanceAnswer { role, offset, ..replica(1, A) }
}

/// All instances that the Sentinels know are dead to all of them.
pub fn dead() -> Scene {
    let scene = Scene::healthy(3).dead(A).dead(B).dead(C);
    (0..3).fold(scene.down(&[0, 1, 2], DownOpinion::Objective), |scene, index| {
        scene.sentinel(index, |group| group.replicas.iter_mut().for_each(|r| r.s_down = true))
    })
}

/// They are, the writer is withdrawn, and these are registered elsewhere.
fn moved(instances: &[(&str, InstanceAnswer)]) -> Scene {
    let mut scene = dead().published(|record| record.writer = None);
    for (address, answer) in instances {
        scene.observed.registered.insert(at(address));
        scene.set_instance(address, answer.clone());
    }
    scene
}

/// The same with all three, of which E has the most data.
pub fn all_relocated() -> Scene {
    moved(&[(D, waiting(900)), (E, waiting(1_000)), (F, waiting(800))])
}

/// It has been so for so long.
fn for_ms(mut scene: Scene, ms: u64) -> Scene {
    let condition = condition(&scene.view()).expect("a case");
    scene.memory.since.insert(condition, Mono(NOW - ms));
    scene
}

fn claimed(scene: &Scene) -> String {
    let write = scene.write();
    assert_eq!(write.purpose, Purpose::Claim);
    write.record.expect("a record").claim.expect("a claim").to_string()
}

#[track_caller]
fn why_not(scene: &Scene) -> NotRelocated {
    successor(&scene.view()).expect_err("a reason")
}

/// Rows are kept up to date, and that is all.
fn leaves_all_alone(scene: &Scene) -> bool {
    let rows = |action: &Action| match action {
        Action::Write(write) => write.purpose == Purpose::InstanceRows,
        _ => false,
    };
    scene.decision().actions().iter().all(rows)
}

fn told(scene: &Scene) -> Vec<Reconfigure> {
    let reconfigure = |action| match action {
        Action::Reconfigure(reconfigure) => Some(reconfigure),
        _ => None,
    };
    scene.decision().actions().into_iter().filter_map(reconfigure).collect()
}

#[test]
fn the_one_with_the_most_data_leads_once_all_are_back() {
    let waiting_for = NotRelocated::Waiting { answered: 3, of: 3 };
    assert_eq!(why_not(&for_ms(all_relocated(), REINSTATED_AFTER_MS - 1)), waiting_for);
    let mut scene = for_ms(all_relocated(), REINSTATED_AFTER_MS);
    assert_eq!(claimed(&scene), E);
    let said = scene.decision().summary;
    assert_eq!(said, format!("redis: {E} is to become the primary"));
    // Written down, it is made one; and published when it says that it is.
    scene.show(&scene.write().record.unwrap());
    let promoted = scene.decision().actions().into_iter().find_map(|action| match action {
        Action::Promote(promote) => Some(promote.instance.to_string()),
        _ => None,
    });
    assert_eq!(promoted.as_deref(), Some(E));
    scene.set_instance(E, primary(2, Some(1), &[]));
    assert_eq!(scene.published_now(), (E.to_owned(), Level::Promotion));
    let record = scene.write().record.unwrap();
    assert_eq!((record.generation, record.claim), (8, None));
    // What the Sentinels say of the dead one does not overrule it meanwhile.
    assert_eq!(record.evidence.confirmed_epoch, 1);
}

#[test]
fn one_that_was_written_down_and_has_lost_its_data_since_does_not_lead() {
    let mut scene = for_ms(all_relocated(), REINSTATED_AFTER_MS);
    scene.show(&scene.write().record.unwrap());
    let scene = scene.instance(E, InstanceAnswer { keys: 0, ..waiting(0) });
    assert_eq!(claimed(&scene), D, "another one is written down");
}

/// A blank one, or one of long ago, that is back alone: an instance that follows it loses what the others hold.
#[test]
fn less_than_the_last_writer_s_data_never_leads_while_others_may_have_it() {
    let blank = || InstanceAnswer { keys: 0, ..waiting(0) };
    let alone = for_ms(moved(&[(D, blank()), (E, blank())]), 90_000);
    assert_eq!(why_not(&alone), NotRelocated::Waiting { answered: 2, of: 3 });
    let gone = alone.published(|record| record.instances.clear());
    assert_eq!(claimed(&for_ms(gone, 30_000)), D, "even their rows are gone");
    let older = moved(&[(D, waiting(900)), (E, waiting(800))]);
    let older = older.published(|record| record.lineage.insert(0, ReplId("2".to_owned())));
    assert_eq!(why_not(&for_ms(older, 90_000)), NotRelocated::Waiting { answered: 2, of: 3 });
    let kept = InstanceAnswer { priority: Some(0), ..waiting(500) };
    let kept = for_ms(moved(&[(D, blank()), (E, blank()), (F, kept)]), 90_000);
    assert_eq!(why_not(&kept), NotRelocated::NeverToLead, "it alone holds the data");
}

#[test]
fn an_instance_that_shows_up_or_changes_is_looked_at_for_a_while() {
    let scene = for_ms(moved(&[(D, waiting(900)), (E, waiting(800))]), 30_000);
    assert_eq!(claimed(&scene), D);
    let mut more = scene.clone();
    more.observed.registered.insert(at(F));
    assert_eq!(
        why_not(&more.instance(F, waiting(1))),
        NotRelocated::Waiting { answered: 3, of: 3 }
    );
    let again = InstanceAnswer { run_id: "another".to_owned(), ..waiting(800) };
    let again = scene.instance(E, again);
    assert_eq!(why_not(&again), NotRelocated::Waiting { answered: 2, of: 3 });
}

#[test]
fn no_instance_is_promoted_beside_another_primary_with_data_or_while_one_follows_a_living_one() {
    let behind = InstanceAnswer { offset: 400, ..primary(1, None, &[]) };
    let scene = for_ms(moved(&[(D, behind), (E, waiting(1_000)), (F, waiting(900))]), 60_000);
    assert_eq!(why_not(&scene), NotRelocated::Rival(at(E), at(D)));
    let blank = InstanceAnswer { keys: 0, offset: 0, ..primary(7, None, &[]) };
    let scene = moved(&[(D, blank), (E, waiting(1_000)), (F, waiting(900))]);
    assert_eq!(claimed(&for_ms(scene, REINSTATED_AFTER_MS)), E, "it has nothing to lose");
    let followed = all_relocated().instance(D, replica(1, "10.0.9.9:6379"));
    assert_eq!(why_not(&followed), NotRelocated::NoCase);
}

#[test]
fn where_not_all_are_back_the_others_are_waited_for() {
    let two = moved(&[(D, waiting(900)), (E, waiting(800))]);
    let waiting_for = NotRelocated::Waiting { answered: 2, of: 3 };
    assert_eq!(why_not(&for_ms(two.clone(), 29_999)), waiting_for);
    assert_eq!(claimed(&for_ms(two.clone(), 30_000)), D);
    let mut enough = for_ms(two, REINSTATED_AFTER_MS);
    enough.policy.expect = Some(2);
    assert_eq!(claimed(&enough), D, "so many are expected");
    let few = for_ms(all_relocated(), 30_000).silent(0);
    assert_eq!(claimed(&few), E, "a majority of the Sentinels is enough in the end");
    let few = for_ms(all_relocated(), REINSTATED_AFTER_MS).silent(0);
    assert_eq!(why_not(&few), NotRelocated::Waiting { answered: 3, of: 3 });
    let fewer = for_ms(all_relocated(), 30_000).silent(0).silent(1);
    assert_eq!(why_not(&fewer), NotRelocated::Sentinels { answered: 1, of: 3 });
}

#[test]
fn no_instance_leads_while_a_sentinel_knows_one_that_is_up() {
    let case = |scene: &Scene, why: &str| assert_eq!(why_not(scene), NotRelocated::NoCase, "{why}");
    let still = |index, change: fn(&mut consul_redis_core::known::observed::SentinelGroup)| {
        all_relocated().sentinel(index, change)
    };
    case(&still(2, |group| group.down = DownOpinion::Up), "one Sentinel reaches the primary");
    case(&still(2, |group| group.replicas[0].s_down = false), "one Sentinel reaches a replica");
    case(&all_relocated().instance(B, waiting(500)), "we reach a replica");
    case(&all_relocated().instance(A, primary(1, None, &[])), "we reach the primary");
    case(&all_relocated().answer(1, |answer| answer.tilt = true), "it does not trust its clock");
    let published = |record: &mut consul_redis_core::published::record::Record| {
        record.writer.clone_from(&record.last_writer);
    };
    case(&all_relocated().published(published), "there is a writer");
    case(&moved(&[]), "no instance is registered elsewhere");
    let observer = dead().published(|record| record.writer = None).instance(D, waiting(1_000));
    case(&observer, "no row says that it is the group's");
    assert!(observer.keeps().contains("agree that it is down"), "{}", observer.keeps());
    // One that has got the old primary's address, and says that it is a replica, is as good as gone.
    let taken = for_ms(all_relocated().instance(A, waiting(10)), 30_000);
    assert_eq!(claimed(&taken), E);
}

#[test]
fn sentinels_that_have_lost_what_they_knew_know_no_instance() {
    let lost = (0..3).fold(all_relocated(), |scene, index| scene.answer(index, |a| a.group = None));
    assert_eq!(claimed(&for_ms(lost, REINSTATED_AFTER_MS)), E);
}

#[test]
fn only_the_group_s_own_data_leads_and_the_youngest_of_it() {
    let foreign = InstanceAnswer { replid: ReplId("9".to_owned()), ..waiting(5_000) };
    let one = moved(&[(D, foreign.clone()), (E, waiting(100)), (F, waiting(90))]);
    assert_eq!(claimed(&for_ms(one, REINSTATED_AFTER_MS)), E);
    let blank = InstanceAnswer { keys: 0, ..waiting(0) };
    let strange = for_ms(moved(&[(D, foreign), (E, blank.clone()), (F, blank.clone())]), 60_000);
    assert_eq!(why_not(&strange), NotRelocated::Unrelated(at(D), 10));
    assert!(strange.keeps().contains("not known to be the group's"), "{}", strange.keeps());
    assert!(leaves_all_alone(&strange));
    let blanks = moved(&[(F, blank.clone()), (E, blank.clone()), (D, blank)]);
    assert_eq!(claimed(&for_ms(blanks, REINSTATED_AFTER_MS)), D, "the lowest address");
    // An old primary that no agent has seen since another one took its place: more of a history that has ended.
    let newer = InstanceAnswer { replid: ReplId("2".to_owned()), ..waiting(600) };
    let old = moved(&[(D, waiting(2_000)), (E, newer), (F, waiting(2_000))]);
    let old = old.published(|record| record.lineage.insert(0, ReplId("2".to_owned())));
    assert_eq!(claimed(&for_ms(old, REINSTATED_AFTER_MS)), E);
}

/// An append-only file does not hold how the history is called: each began another one, and says what it goes on from.
#[test]
fn where_no_instance_can_say_how_far_it_has_come_the_one_that_wrote_the_history_leads() {
    let anew = |replid: &str| InstanceAnswer { replid: ReplId(replid.to_owned()), ..waiting(1) };
    let explained = |led: &[&str]| {
        let mut scene = moved(&[(D, anew("d")), (E, anew("e")), (F, anew("f"))]);
        let store = scene.observed.store.as_mut().expect("a record");
        for replid in ["d", "e", "f"] {
            let of = Continued { of: ReplId("1".to_owned()), led: led.contains(&replid) };
            store.continued.insert(ReplId(replid.to_owned()), of);
        }
        scene
    };
    assert_eq!(claimed(&for_ms(explained(&["e"]), REINSTATED_AFTER_MS)), E);
    // Without it any of them, when it has been waited for.
    let waiting_for = NotRelocated::Waiting { answered: 3, of: 3 };
    assert_eq!(why_not(&for_ms(explained(&[]), 29_999)), waiting_for);
    assert_eq!(claimed(&for_ms(explained(&[]), 30_000)), D);
    let one = explained(&[]).instance(F, waiting(700));
    assert_eq!(claimed(&for_ms(one, 30_000)), F, "one that says how far it has come");
    // An instance with an earlier writer's history stays behind it.
    let mut older = explained(&["e"]).published(|record| {
        record.lineage.insert(0, ReplId("2".to_owned()));
    });
    let of = Continued { of: ReplId("2".to_owned()), led: false };
    let explain = |scene: &mut Scene, of: Continued| {
        let store = scene.observed.store.as_mut().expect("a record");
        store.continued.insert(ReplId("f".to_owned()), of);
    };
    explain(&mut older, of);
    assert_eq!(claimed(&for_ms(older, 30_000)), F);
    let mut foreign = moved(&[(D, anew("d")), (E, anew("e")), (F, anew("f"))]);
    explain(&mut foreign, Continued { of: ReplId("9".to_owned()), led: true });
    assert_eq!(why_not(&for_ms(foreign, 60_000)), NotRelocated::Unrelated(at(D), 10));
}

#[test]
fn one_that_may_hold_more_is_waited_for_and_one_that_serves_nothing_stale_is_not() {
    let unready = |error: &str| {
        let answer = InstanceAnswer { not_ready: Some(error.to_owned()), ..waiting(1_000) };
        for_ms(all_relocated().instance(E, answer), 60_000)
    };
    let loading = why_not(&unready("LOADING"));
    assert_eq!(loading, NotRelocated::NotReady(at(E), "LOADING".to_owned()));
    let refuses =
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
    assert_eq!(claimed(&unready(refuses)), E);
}

#[test]
fn data_that_has_gone_different_ways_and_priorities_are_the_operator_s() {
    let apart = |address: u64| primary(address, Some(1), &[]);
    let scene = for_ms(moved(&[(D, apart(2)), (E, apart(3)), (F, waiting(100))]), 60_000);
    assert_eq!(why_not(&scene), NotRelocated::Diverged(at(D), at(E)));
    assert!(scene.keeps().contains("SENTINEL MONITOR"), "{}", scene.keeps());
    let problems = assess(&scene.view(), &layout(), &scene.decision()).problems;
    let codes: Vec<ProblemCode> = problems.iter().map(|problem| problem.code).collect();
    assert!(codes.contains(&ProblemCode::NoWriter) && codes.contains(&ProblemCode::DataDiverged));
    let text = &problems.iter().find(|problem| problem.code == ProblemCode::NoWriter).unwrap().text;
    assert!(text.contains("no address that the Sentinels know answers; the data of"), "{text}");
    let never = |offset| InstanceAnswer { priority: Some(0), ..waiting(offset) };
    let scene = moved(&[(D, never(2_000)), (E, waiting(900)), (F, waiting(800))]);
    assert_eq!(why_not(&for_ms(scene, 60_000)), NotRelocated::NeverToLead, "it has more than they");
    let scene = moved(&[(D, never(900)), (E, waiting(900)), (F, waiting(800))]);
    assert_eq!(claimed(&for_ms(scene, REINSTATED_AFTER_MS)), E);
    let scene = moved(&[(D, never(1)), (E, never(1)), (F, never(1))]);
    assert_eq!(why_not(&for_ms(scene, 60_000)), NotRelocated::NeverToLead);
    let mut off = for_ms(all_relocated(), 60_000);
    off.policy.bootstrap = false;
    assert_eq!(why_not(&off), NotRelocated::SwitchedOff);
    let mut unchanged = for_ms(all_relocated(), 60_000);
    unchanged.policy.tell_sentinels = false;
    assert_eq!(why_not(&unchanged), NotRelocated::SwitchedOff, "they would never follow");
    assert!(leaves_all_alone(&off));
}

/// Two that begin at once elect none, and each waits for ten seconds: a Sentinel that leads nothing has nothing to lose,
/// and all others wait for it.
#[test]
fn a_sentinel_that_was_not_elected_lets_go_of_the_dead_one() {
    let scene =
        all_relocated().promoted(E, 100).published(|record| record.evidence.basis = Basis::Agents);
    let scene = scene.instance(E, primary(2, Some(1), &[]));
    let told = told(&scene);
    let own = told.iter().find(|one| one.sentinel == sentinel_at(1)).expect("it is told");
    assert_eq!(own.what, ReconfigureKind::Remove(1));
    let holds = |phase: Option<FailoverPhase>| {
        let scene = scene.clone().sentinel(1, |group| group.failover = phase);
        let reading = &scene.observed.sentinels[&sentinel_at(1)];
        own.still_holds(reading.since(Mono(0)).expect("it answers"))
    };
    assert!(holds(None));
    assert!(holds(Some(FailoverPhase::WaitStart)));
    let waiting =
        scene.clone().sentinel(1, |group| group.failover = Some(FailoverPhase::WaitStart));
    assert!(told.iter().eq(&crate::relocated::told(&waiting)), "it is told while it waits");
    assert!(!holds(Some(FailoverPhase::SelectReplica)), "it was elected");
}

/// A Sentinel that gets the new primary while others still name the dead one would be changed back by them.
#[test]
fn the_sentinels_let_go_of_the_dead_one_before_any_of_them_gets_the_new_one() {
    let scene =
        all_relocated().promoted(E, 100).published(|record| record.evidence.basis = Basis::Agents);
    let scene = scene.instance(E, primary(2, Some(1), &[]));
    let whats = |scene: &Scene| -> Vec<(String, ReconfigureKind)> {
        told(scene)
            .into_iter()
            .map(|reconfigure| (reconfigure.sentinel.to_string(), reconfigure.what))
            .collect()
    };
    let all = |what| (0..3).map(|index| (sentinel_at(index).to_string(), what)).collect::<Vec<_>>();
    assert_eq!(whats(&scene), all(ReconfigureKind::Remove(1)));
    let forgot = |scene: Scene, index| scene.answer(index, |answer| answer.group = None);
    let one_left = forgot(forgot(scene.clone(), 0), 1);
    assert_eq!(whats(&one_left), [(sentinel_at(2).to_string(), ReconfigureKind::Remove(1))]);
    let none_left = forgot(one_left, 2);
    // They would not find those that follow it later for ten seconds.
    assert_eq!(whats(&none_left), []);
    let follow = |scene: &Scene| {
        let fences = scene.decision().actions().into_iter().filter_map(|action| match action {
            Action::Fence(fence) => Some(fence.instance.to_string()),
            _ => None,
        });
        fences.collect::<Vec<_>>()
    };
    assert_eq!(follow(&none_left), [""; 0]);
    // Detached as they are, they follow at once.
    let mut seen = none_left.clone();
    seen.memory.since.extend([D, F].map(|at_| (Condition::Stray(at(at_)), Mono(NOW - 60))));
    assert_eq!(follow(&seen), [D, F]);
    let none_left = none_left
        .instance(E, primary(2, Some(1), &[D, F]))
        .instance(D, replica(2, E))
        .instance(F, replica(2, E));
    assert_eq!(whats(&none_left), all(ReconfigureKind::Monitor));
    assert!(
        told(&none_left)
            .iter()
            .all(|reconfigure| reconfigure.primary == at(E) && reconfigure.settings.quorum == 2)
    );
    // A Sentinel that has found an instance that is up is left alone: it may elect that one.
    let alive = scene.clone().sentinel(1, |group| group.replicas[0].s_down = false);
    assert_eq!(whats(&alive).len(), 2);
    // It cannot elect an instance any more once most have let go.
    let last = forgot(forgot(alive, 0), 2);
    assert_eq!(whats(&last), [(sentinel_at(1).to_string(), ReconfigureKind::Remove(1))]);
    // What they say of the dead one is no denial, however long it takes to tell them.
    let mut late = scene.clone();
    late.memory.generation = Some((8, Mono(NOW - 60_000)));
    assert!(late.keeps().contains("10.0.2.2:6379"), "{}", late.keeps());
    // And at the last moment it is asked once more.
    let reconfigure = told(&scene).remove(0);
    let answer = |scene: &Scene| {
        scene.observed.sentinels[&sentinel_at(0)].result.clone().expect("an answer")
    };
    assert!(reconfigure.still_holds(&answer(&scene)));
    for changed in [
        scene.clone().sentinel(0, |group| group.primary = at(E)),
        scene.clone().sentinel(0, |group| group.down = DownOpinion::Up),
        scene.clone().sentinel(0, |group| group.config_epoch = 2),
        scene.clone().sentinel(0, |group| group.failover = Some(FailoverPhase::SelectReplica)),
        forgot(scene, 0),
    ] {
        assert!(!reconfigure.still_holds(&answer(&changed)));
    }
}

/// Sentinels that were relocated as well do not find one another, and each calls the writer down by itself.
#[test]
fn a_writer_out_of_reach_is_withdrawn_though_the_sentinels_cannot_agree() {
    let lasting = |scene: Scene, ms| {
        let mut scene = scene;
        scene.memory.since.insert(Condition::OutOfReach(at(A)), Mono(NOW - ms));
        scene
    };
    let alone = (0..3).fold(dead(), |scene, index| {
        scene.sentinel(index, |group| group.down = DownOpinion::Subjective)
    });
    assert!(alone.conditions().contains(&Condition::OutOfReach(at(A))));
    let early = lasting(alone.clone(), OUT_OF_REACH_AFTER_MS - 1);
    assert!(early.keeps().contains("named by 3 of 3"), "{}", early.keeps());
    let late = lasting(alone.clone(), OUT_OF_REACH_AFTER_MS);
    assert!(late.withdraws().contains("answers neither us nor any of the 3 of 3"));
    // It is not published again by an agent that reaches it.
    let reached = alone.clone().published(|record| record.writer = None);
    let reached = reached.instance(A, primary(1, None, &[]));
    assert!(reached.keeps().contains("agree that it is down"), "{}", reached.keeps());
    for (why, scene) in [
        ("it answers us", alone.clone().instance(A, primary(1, None, &[]))),
        ("one Sentinel reaches it", alone.clone().sentinel(0, |g| g.down = DownOpinion::Up)),
        ("no majority answers", alone.clone().silent(0).silent(1)),
        ("a clock is not trusted", alone.answer(0, |answer| answer.tilt = true)),
    ] {
        assert!(!scene.conditions().contains(&Condition::OutOfReach(at(A))), "{why}");
    }
    // Where they know nothing at all, our own login may be wrong: then no instance answers us.
    let forgot = |scene: Scene| (0..3).fold(scene, |s, index| s.answer(index, |a| a.group = None));
    let blind = forgot(Scene::healthy(3)).dead(A).dead(B).dead(C);
    assert!(!blind.conditions().contains(&Condition::OutOfReach(at(A))));
    let sees = lasting(blind.clone().instance(D, waiting(1_000)), OUT_OF_REACH_AFTER_MS);
    assert!(sees.withdraws().contains("answers neither us"));
    // Or only we do not reach it, and its replicas do.
    let follows = blind.instance(B, replica(1, A));
    assert!(!follows.conditions().contains(&Condition::OutOfReach(at(A))));
    // A minority that calls it down is none the better for others that know nothing.
    let mixed = Scene::healthy(3).dead(A).silent(1).answer(2, |answer| answer.group = None);
    let mixed = mixed.down(&[0], DownOpinion::Subjective);
    assert!(!mixed.conditions().contains(&Condition::OutOfReach(at(A))));
}

/// `SENTINEL RESET` while the primary is dead, and agents beside no instance: what the record knows takes the place of
/// what is registered.
#[test]
fn one_with_a_row_leads_where_none_is_registered_and_no_sentinel_knows_any() {
    let waiting_for = |answered| NotRelocated::Waiting { answered, of: 2 };
    let early = for_ms(reset_as_it_died(), REINSTATED_AFTER_MS - 1);
    assert_eq!(why_not(&early), waiting_for(2));
    assert_eq!(claimed(&for_ms(reset_as_it_died(), REINSTATED_AFTER_MS)), C);
    // One that is away may hold more: it is waited for as long as for a first primary.
    let wait_ms = reset_as_it_died().policy.bootstrap_wait_ms;
    let alone = || reset_as_it_died().dead(C).lasting(60_000);
    assert_eq!(why_not(&for_ms(alone(), wait_ms - 1)), waiting_for(1));
    assert_eq!(claimed(&for_ms(alone(), wait_ms)), B);
    // What answers at its address is another group's.
    let other = InstanceAnswer { replid: replica(9, A).replid, ..cut_off(A) };
    assert_eq!(why_not(&for_ms(reset_as_it_died().instance(C, other), 6_000)), waiting_for(1));
}

/// A replica whose link is down.
fn cut_off(of: &str) -> InstanceAnswer {
    InstanceAnswer { role: Role::Replica { of: at(of), link_up: false }, ..replica(1, of) }
}

#[test]
fn none_with_a_row_leads_where_agents_run_beside_instances_or_the_operator_does_it() {
    let mut registered = reset_as_it_died();
    registered.observed.registered.insert(at(D));
    assert_eq!(why_not(&registered), NotRelocated::NoCase);
    let mut beside = reset_as_it_died();
    beside.policy.local.insert(at(D));
    assert_eq!(why_not(&beside), NotRelocated::NoCase);
    let mut observing = reset_as_it_died();
    observing.policy.tell_sentinels = false;
    assert_eq!(why_not(&observing), NotRelocated::SwitchedOff);
    // One of them has found a primary that is alive.
    let led = reset_as_it_died().instance(B, replica(1, D));
    assert!(leaves_all_alone(&led), "{:?}", led.decision());
}
