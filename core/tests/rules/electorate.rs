//! An electorate is a recorded set of Sentinels: who belongs to it, and what is done where none does.

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::safety;
use consul_redis_core::identity::adopt::adoption;
use consul_redis_core::known::memory::{Condition, InstanceRun, Origin};
use consul_redis_core::known::observed::{InstanceAnswer, ReplId, SentinelId};
use consul_redis_core::published::publication::Verdict;
use consul_redis_core::published::record::{InstanceRecord, PublishedRole, Writer};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::situation::Situation;
use consul_redis_core::time::Mono;

use crate::scene::{A, B, C, NOW, Scene, at, id, layout, primary, replica, run, sentinel_at};

/// Another group's writer, and its replica.
const X: &str = "10.9.0.1:6379";
const Y: &str = "10.9.0.2:6379";

/// What is published rests on other Sentinels, and on other instances, with other data.
pub fn others() -> Scene {
    let mut scene = Scene::healthy(3).published(|record| {
        record.writer = Some(Writer { address: at(X), replid: ReplId("x".to_owned()) });
        record.last_writer.clone_from(&record.writer);
        record.lineage = vec![ReplId("x".to_owned())];
        let row = |address, role| InstanceRecord { address: at(address), role };
        record.instances = vec![row(X, PublishedRole::Primary), row(Y, PublishedRole::Replica)];
        record.sentinels = vec![at("10.9.1.1:26379")];
        record.sentinel_ids = vec![SentinelId("other".to_owned())];
    });
    scene.policy.sources = ["10.0.1.1:26379".to_owned()].into();
    let answer =
        |answer: InstanceAnswer| InstanceAnswer { replid: ReplId("x".to_owned()), ..answer };
    scene.set_instance(X, answer(primary(1, None, &[Y])));
    scene.set_instance(Y, answer(replica(1, X)));
    // It would be fenced at once.
    let life = InstanceRun { run_id: run(X), origin: Origin::Started };
    scene.memory.lives.insert(at(X), life);
    scene.memory.since.insert(Condition::Stray(at(X)), Mono(NOW - 20_000));
    scene
}

#[track_caller]
fn is_left_alone(scene: &Scene) {
    let decision = scene.decision();
    assert!(matches!(decision.situation, Situation::NotOurs(_)), "{:?}", decision.situation);
    assert_eq!(decision.actions(), []);
    let problems = assess(&scene.view(), &layout(), &decision).problems;
    assert_eq!(problems.iter().map(|p| p.code).collect::<Vec<_>>(), [ProblemCode::NotOurs]);
}

#[track_caller]
fn is_ours(scene: &Scene) {
    let situation = scene.decision().situation;
    assert!(!matches!(situation, Situation::NotOurs(_)), "{situation:?}");
}

#[test]
fn an_agent_whose_sentinels_are_not_in_the_record_does_nothing() {
    is_left_alone(&others());
    let text = others().keeps();
    for part in [
        "another group is published as redis, by agent-9: its last writer is 10.9.0.1:6379, its Sentinels are \
         10.9.1.1:26379. The Sentinels here are others: 10.0.1.1:26379, 10.0.1.2:26379, 10.0.1.3:26379, which name \
         10.0.0.1:6379.",
        "consul-redis adopt redis",
        "another --prefix",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Where no majority is heard, too.
    is_left_alone(&others().silent(1).silent(2));
    // One of the other group's in our list by mistake.
    let mixed = others().answer(2, |answer| answer.id = SentinelId("other".to_owned()));
    let mixed = mixed.naming(&[2], X, 1).sentinel(2, |group| group.peers.clear());
    let mixed = [0, 1].into_iter().fold(mixed, |mixed, index| {
        mixed.sentinel(index, |group| group.peers.retain(|peer| peer.id != id(2)))
    });
    is_left_alone(&mixed);
    // The veto says so by itself.
    let mut write = Scene::unpublished(3).write();
    write.record.as_mut().unwrap().generation = 9;
    let veto = safety::veto(&others().view(), &Action::Write(Box::new(write)));
    assert_eq!(veto, Some(format!("no Sentinel of the record names {A}")));
}

/// Replaced one after the other, renumbered, moved, or pointed at the group by their config.
#[test]
fn sentinels_are_known_by_id_by_address_by_their_peers_and_by_what_they_name() {
    is_ours(&others().published(|record| record.sentinel_ids.push(id(1))));
    is_ours(&others().published(|record| record.sentinels.push(at("10.0.1.2:26379"))));
    is_ours(&others().sentinel(0, |group| group.peers[0].id = SentinelId("other".to_owned())));
    is_ours(&others().sentinel(0, |group| group.peers[0].address = at("10.9.1.1:26379")));
    is_ours(&others().sentinel(0, |group| group.replicas[0].address = at(Y)));
    let row = |record: &mut consul_redis_core::published::record::Record| {
        record.instances.push(InstanceRecord { address: at(A), role: PublishedRole::Down });
    };
    is_ours(&others().published(row));
    // From before ids were recorded: the addresses are there.
    is_ours(&Scene::healthy(3).published(|record| record.sentinel_ids.clear()));
    is_left_alone(&others().published(|record| record.sentinel_ids.clear()));
    // Each host's own.
    let mut local = others().published(|record| record.sentinels.push(at("127.0.0.1:26379")));
    let reading = local.observed.sentinels.remove(&at("10.0.1.1:26379")).unwrap();
    local.observed.sentinels.insert(at("127.0.0.1:26379"), reading);
    is_left_alone(&local);
}

/// All of it was made anew elsewhere, and the data has come along.
#[test]
fn data_of_the_record_is_a_proof_where_nothing_of_the_original_is_left() {
    let moved = |scene: Scene| scene.published(|r| r.lineage.push(ReplId("1".to_owned())));
    is_left_alone(&moved(others()));
    let gone = || moved(others()).dead(X).dead(Y);
    is_ours(&gone());
    // A copy of production, where production cannot be reached.
    let with_agents = |sources: Option<&str>| {
        let mut scene = gone();
        let store = scene.observed.store.as_mut().unwrap();
        store.agents = ["agent-0".to_owned(), "agent-9".to_owned()].into();
        let sources = sources.map(|source| ("agent-9".to_owned(), [source.to_owned()].into()));
        store.agent_sources = sources.into_iter().collect();
        scene
    };
    is_left_alone(&with_agents(None));
    is_left_alone(&with_agents(Some("10.9.1.1:26379")));
    is_ours(&with_agents(Some("10.0.1.1:26379")));
    // Not asked yet is not gone.
    let mut unasked = gone();
    unasked.observed.instances.remove(&at(X));
    is_left_alone(&unasked);
}

#[test]
fn an_installation_leaves_the_groups_of_others_alone() {
    let of = |recorded: Option<&str>, ours: Option<&str>| {
        let recorded = recorded.map(str::to_owned);
        let mut scene = Scene::healthy(3).published(|record| record.installation = recorded);
        scene.policy.installation = ours.map(str::to_owned);
        scene
    };
    is_left_alone(&of(Some("prod"), None));
    is_left_alone(&of(Some("prod"), Some("staging")));
    let text = of(Some("prod"), None).keeps();
    assert!(text.contains("belongs to installation `prod`, and this agent to none"), "{text}");
    is_ours(&of(Some("prod"), Some("prod")));
    is_ours(&of(None, None));
    // It is recorded by the first that knows.
    let record = of(None, Some("prod")).write().record.unwrap();
    assert_eq!(record.installation.as_deref(), Some("prod"));
    // No instance joins it by being blank, either.
    let mut blank = of(Some("prod"), None);
    blank.set_instance(C, InstanceAnswer { keys: 0, ..primary(9, None, &[]) });
    is_left_alone(&blank);
}

/// The ids are recorded once, by the first agent that hears a majority.
#[test]
fn the_electorate_is_recorded_with_its_ids() {
    let scene = Scene::healthy(3).published(|record| record.sentinel_ids.clear());
    assert_eq!(scene.write().record.unwrap().sentinel_ids, [id(0), id(1), id(2)]);
    let scene = Scene::healthy(3).published(|record| record.sentinel_ids = vec![id(7)]);
    let few = scene.silent(1).silent(2).lasting(60_000);
    assert!(few.decision().write.is_none(), "{:?}", few.decision().write);
}

/// A replica that was started from its append-only file, and promoted before it had copied anything, has a history of
/// its own. It is known by its place; the old primary is still the group's own, and is made its replica.
#[test]
fn one_that_was_promoted_right_behind_its_start_from_an_append_only_file_keeps_the_line() {
    let lineage = |answer: InstanceAnswer| {
        let scene = Scene::healthy(3).naming(&[0, 1, 2], B, 2).instance(B, answer);
        let record = scene.write().record.unwrap();
        assert_eq!(record.writer_address(), Some(&at(B)));
        record.lineage.into_iter().map(|id| id.0).collect::<Vec<_>>()
    };
    let from_a_file = |second| InstanceAnswer { append_only: true, ..primary(9, second, &[]) };
    assert_eq!(lineage(from_a_file(Some(8))), ["9", "1"]);
    // One that was started as a primary may hold what an operator has put there.
    assert_eq!(lineage(from_a_file(None)), ["9"]);
    // A snapshot would have named the history.
    assert_eq!(lineage(primary(9, Some(8), &[])), ["9"]);
}

/// The Sentinels were pointed at a primary with other data. What is left of the data before is not deleted.
#[test]
fn an_unrelated_history_is_no_licence_to_delete_the_one_before() {
    let scene = Scene::healthy(3).naming(&[0, 1, 2], X, 2).instance(X, primary(9, None, &[]));
    let record = scene.write().record.unwrap();
    assert_eq!(record.writer_address(), Some(&at(X)));
    assert_eq!(record.lineage, [ReplId("9".to_owned())]);
    // One that goes on from what was published keeps the line.
    let known = Scene::healthy(3).naming(&[0, 1, 2], B, 2).instance(B, primary(2, Some(1), &[]));
    let record = known.write().record.unwrap();
    assert_eq!(record.lineage, [ReplId("2".to_owned()), ReplId("1".to_owned())]);
    // The old primary, later.
    let mut later = scene.published(|record| {
        record.writer = Some(Writer { address: at(X), replid: ReplId("9".to_owned()) });
        record.lineage = vec![ReplId("9".to_owned())];
        record.evidence.confirmed_epoch = 2;
    });
    let life = InstanceRun { run_id: run(A), origin: Origin::Started };
    later.memory.lives.insert(at(A), life);
    later.memory.since.insert(Condition::Stray(at(A)), Mono(NOW - 20_000));
    let said = later.decision().said().join("\n");
    assert!(
        said.contains(&format!("{A} is a primary with 10 keys of an unrelated history")),
        "{said}"
    );
    assert!(!later.decision().instances.contains_key(&at(A)));
}

#[test]
fn an_operator_may_adopt_a_group() {
    let scene = others();
    let adopted = adoption(&scene.view(), &layout()).unwrap();
    let record = &adopted.record;
    assert_eq!((record.generation, &record.writer, &record.last_writer), (8, &None, &None));
    assert_eq!(record.sentinel_ids, [id(0), id(1), id(2)]);
    assert_eq!((record.lineage.len(), record.instances.len()), (0, 0));
    let means = adopted.means.join("\n");
    assert!(
        means.contains("does not go on from what was published: no data is deleted"),
        "{means}"
    );
    // It is published at once from here, and no more from there.
    let here = scene.clone().published(|was| *was = record.clone());
    assert!(matches!(here.verdict(), Verdict::Publish { .. }), "{:?}", here.verdict());
    let there = Scene::healthy(3).published(|was| {
        *was = record.clone();
        was.sentinels = vec![at("10.8.1.1:26379")];
        was.sentinel_ids = vec![SentinelId("new".to_owned())];
    });
    is_left_alone(&there);
    let why = |scene: &Scene| adoption(&scene.view(), &layout()).unwrap_err().to_string();
    assert!(why(&Scene::healthy(3)).contains("nothing to adopt"), "{}", why(&Scene::healthy(3)));
    assert!(why(&others().dead(A)).contains("does not say that it is the primary"));
    assert!(why(&others().naming(&[0], B, 1).naming(&[1], C, 1)).contains("no majority"));
}

/// Before 6.2 a Sentinel answers with its process, and its peers list it by its id, which votes are for.
#[test]
fn a_sentinel_that_does_not_say_its_id_is_known_by_what_its_peers_list() {
    let mut scene = Scene::healthy(3);
    let unnamed = |scene: &Scene, index: usize| {
        let mut reading = scene.observed.sentinels[&sentinel_at(index)].clone();
        let answer = reading.result.as_mut().expect("it answers");
        let process = format!("process-{index}");
        (answer.id, answer.process) = (SentinelId(process.clone()), Some(process));
        reading
    };
    let ids = |scene: &Scene| -> Vec<SentinelId> {
        let answers = scene.observed.sentinels.values();
        answers.map(|reading| reading.result.as_ref().expect("it answers").id.clone()).collect()
    };
    let asked: Vec<_> = (0..3).map(|index| (sentinel_at(index), unnamed(&scene, index))).collect();
    for (at, reading) in asked.clone() {
        scene.observed.see_sentinel(at, reading);
    }
    assert_eq!(ids(&scene), [id(0), id(1), id(2)]);
    // The others forget it for a moment, as at a RESET.
    let mut scene = (1..3).fold(scene, |scene, index| {
        scene.sentinel(index, |group| group.peers.retain(|peer| peer.id != id(0)))
    });
    let (at, reading) = asked[0].clone();
    scene.observed.see_sentinel(at.clone(), reading.clone());
    assert_eq!(ids(&scene)[0], id(0));
    // Another process may be another Sentinel.
    let mut anew = reading;
    let answer = anew.result.as_mut().expect("it answers");
    (answer.id, answer.process) = (SentinelId("anew".to_owned()), Some("anew".to_owned()));
    scene.observed.see_sentinel(at, anew);
    assert_eq!(ids(&scene)[0], SentinelId("anew".to_owned()));
}
