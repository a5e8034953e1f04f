//! Instances that the Sentinels reach and this agent does not, and a writer that refuses writes.

use consul_redis_core::duty::switchover::{Stops, has_said, prepare};
use consul_redis_core::known::observed::{ConnectedReplica, InstanceAnswer, Role};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::shown::unreachable::{LOGIN_REFUSED, UNREACHABLE_AFTER_MS};

use crate::scene::{A, B, C, Scene, at, layout, primary, replica};

fn problems(scene: &Scene) -> Vec<ProblemCode> {
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let ours =
        [ProblemCode::InstanceSilent, ProblemCode::InstanceRefuses, ProblemCode::WritesRefused];
    status.problems.into_iter().map(|p| p.code).filter(|code| ours.contains(code)).collect()
}

/// An instance that refuses the login.
fn refusing(mut scene: Scene, address: &str) -> Scene {
    scene = scene.dead(address);
    let reading = scene.observed.instances.get_mut(&at(address)).expect("an instance");
    reading.result = Err(format!("{LOGIN_REFUSED}: WRONGPASS (user ours, password in /run/redis)"));
    scene
}

#[test]
fn an_instance_that_the_sentinels_reach_and_we_do_not_is_a_problem_after_a_while() {
    let refused = refusing(Scene::healthy(3), C);
    assert_eq!(problems(&refused), []);
    let refused = refused.lasting(UNREACHABLE_AFTER_MS);
    assert_eq!(problems(&refused), [ProblemCode::InstanceRefuses]);
    // One that is silent may be about to be called down.
    let silent =
        Scene::healthy(3).dead(C).sentinel(0, |group| group.settings.down_after_ms = 30_000);
    assert_eq!(problems(&silent.clone().lasting(UNREACHABLE_AFTER_MS)), []);
    assert_eq!(problems(&silent.lasting(31_000)), [ProblemCode::InstanceSilent]);
}

#[test]
fn one_that_the_sentinels_call_down_is_none_of_it() {
    let down = |scene: Scene, index| {
        scene.sentinel(index, |group| {
            group.replicas.iter_mut().filter(|r| r.address == at(C)).for_each(|r| r.s_down = true);
        })
    };
    let scene = (0..3).fold(refusing(Scene::healthy(3), C), down);
    assert_eq!(problems(&scene.lasting(60_000)), []);
}

#[test]
fn while_it_leads_the_present_reason_is_shown() {
    let scene = Scene::healthy(3).published(|record| record.writer = None).naming(&[0, 1, 2], B, 2);
    let scene = refusing(scene, B).lasting(UNREACHABLE_AFTER_MS);
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let said = &status.problems[0].text;
    assert!(said.contains(&format!("names {B}, and {B} does not let this agent in")), "{said}");
    assert!(said.contains("/run/redis"), "{said}");
}

/// Where the primary cannot hold its writes, it is made a replica before another one is promoted.
#[test]
fn a_move_follows_first_where_writes_cannot_be_held_alone() {
    let versions =
        [("6.0.16", false), ("6.2.0", true), ("7.0.15", true), ("8.6.3", true), ("x", true)];
    for (version, can) in versions {
        let writer = InstanceAnswer { version: version.to_owned(), ..primary(1, None, &[B, C]) };
        let mut scene = Scene::healthy(3).instance(A, writer);
        scene.observed.store.as_mut().expect("a store").agents = ["agent-0".to_owned()].into();
        for (to, first) in [(None, B), (Some(at(C)), C)] {
            let (checks, switchover) = prepare(&scene.view(), to.as_ref());
            let wanted = if can { Stops::Holding } else { Stops::Following(at(first)) };
            let stops = switchover.map(|switchover| switchover.stops);
            assert_eq!(stops, Some(wanted), "{version}: {checks:?}");
            let said = checks[0].found.as_ref().expect("it is well");
            assert_eq!(said.contains("is made a replica first"), !can, "{version}: {said}");
        }
    }
}

/// After a copy of everything it is listed as online, and is sent nothing before its first word.
#[test]
fn a_replica_that_the_primary_has_not_heard_from_is_not_sent_what_is_written() {
    let heard = |offset: u64, online: bool| {
        let row = ConnectedReplica { address: at(B), online, offset, lag_s: 0 };
        let role = Role::Primary { replicas: vec![row] };
        has_said(900, &InstanceAnswer { role, ..primary(1, None, &[]) }, &at(B))
    };
    assert!(heard(900, true) && heard(950, true));
    assert!(!heard(0, true) && !heard(899, true) && !heard(900, false));
    assert!(!has_said(0, &primary(1, None, &[B]), &at(C)), "it does not list it");
    assert!(!has_said(0, &replica(1, A), &at(B)), "no primary any more");
}

#[test]
fn a_writer_that_refuses_writes_is_a_problem_and_stays_published() {
    let refuses = Some("OOM, for `maxmemory` is used up under `noeviction`".to_owned());
    let writer = InstanceAnswer { refuses_writes: refuses, ..primary(1, None, &[B, C]) };
    let scene = Scene::healthy(3).instance(A, writer);
    assert_eq!(problems(&scene), []);
    let scene = scene.lasting(UNREACHABLE_AFTER_MS);
    assert_eq!(problems(&scene), [ProblemCode::WritesRefused]);
    assert_eq!(scene.view().writer(), Some(&at(A)));
    assert!(scene.decision().actions().is_empty());
}
