//! What must hold in any scene at all, however contradictory.

use std::collections::BTreeSet;

use consul_redis_core::duty::action::{Action, Purpose, Write};
use consul_redis_core::known::observed::{
    DownOpinion, FailoverPhase, InstanceAnswer, ReplId, Role, SentinelId, SentinelReplica,
    StoredState,
};
use consul_redis_core::published::projection::{Op, Rows, TXN_OPS_MAX, project, row_changes};
use consul_redis_core::published::publication::{Verdict, WithdrawReason};
use consul_redis_core::published::record::{InstanceRecord, Level, PublishedRole, Record, decode};
use consul_redis_core::shown::status::{ProblemCode, assess};
use proptest::prelude::*;

use crate::scene::{A, B, C, Scene, at, id, layout, primary, replica, sentinel_at};

const NAMES: [&str; 3] = [A, B, C];

fn instance() -> impl Strategy<Value = Option<InstanceAnswer>> {
    let ids = (0..4_u64, proptest::option::of(0..4_u64));
    let of = 0..3_usize;
    prop_oneof![
        Just(None),
        (ids, proptest::sample::subsequence(NAMES.to_vec(), 0..=3))
            .prop_map(|((id, id2), replicas)| Some(primary(id, id2, &replicas))),
        (0..4_u64, of, any::<bool>()).prop_map(|(id, of, link_up)| {
            let mut answer = replica(id, NAMES[of]);
            answer.role = Role::Replica { of: at(NAMES[of]), link_up };
            Some(answer)
        }),
        (0..4_u64).prop_map(|id| {
            let mut answer = primary(id, None, &[]);
            answer.not_ready = Some("LOADING".to_owned());
            Some(answer)
        }),
    ]
}

#[derive(Debug, Clone)]
struct Said {
    silent: bool,
    blank: bool,
    tilt: bool,
    primary: usize,
    monitored: usize,
    epoch: u64,
    down: u8,
    failover: Option<u8>,
    forced: bool,
    /// The epoch at which its peers have voted for it.
    votes: Option<u64>,
    chosen: Option<usize>,
    others: usize,
    down_replicas: Vec<bool>,
}

fn said() -> impl Strategy<Value = Said> {
    (
        (prop::bool::weighted(0.15), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        (0..3_usize, 0..3_usize, 0..4_u64),
        (0..3_u8, proptest::option::weighted(0.4, 0..6_u8), any::<bool>()),
        (
            proptest::option::of(0..3_usize),
            0..5_usize,
            prop::collection::vec(any::<bool>(), 3),
            proptest::option::of(0..6_u64),
        ),
    )
        .prop_map(|((silent, blank, tilt), (primary, monitored, epoch), rest, more)| Said {
            silent,
            blank,
            tilt,
            primary,
            monitored,
            epoch,
            down: rest.0,
            failover: rest.1,
            forced: rest.2,
            votes: more.3,
            chosen: more.0,
            others: more.1,
            down_replicas: more.2,
        })
}

fn phase(number: u8) -> FailoverPhase {
    [
        FailoverPhase::WaitStart,
        FailoverPhase::SelectReplica,
        FailoverPhase::SendReplicaofNoOne,
        FailoverPhase::WaitPromotion,
        FailoverPhase::ReconfReplicas,
        FailoverPhase::UpdateConfig,
    ][usize::from(number)]
}

fn apply(scene: Scene, index: usize, said: &Said) -> Scene {
    if said.silent {
        return scene.silent(index);
    }
    let scene = scene.answer(index, |answer| answer.tilt = said.tilt);
    if said.blank {
        return scene.answer(index, |answer| answer.group = None);
    }
    scene.sentinel(index, |group| {
        group.primary = at(NAMES[said.primary]);
        group.monitored = at(NAMES[said.monitored]);
        group.config_epoch = said.epoch;
        group.down = [DownOpinion::Up, DownOpinion::Subjective, DownOpinion::Objective]
            [usize::from(said.down)];
        group.failover = said.failover.map(phase);
        group.failover_forced = said.forced;
        group.other_sentinels = said.others;
        for peer in &mut group.peers {
            peer.voted = said.votes.map(|epoch| (id(index), epoch));
        }
        group.replicas = NAMES
            .iter()
            .enumerate()
            .map(|(at_index, name)| SentinelReplica {
                address: at(name),
                s_down: said.down_replicas[at_index],
                promoted: said.chosen == Some(at_index),
                priority: None,
            })
            .collect();
    })
}

/// Another program has changed a row or a key.
fn damage(scene: &mut Scene, what: u8) {
    let store = scene.observed.store.as_mut().expect("the keys were read");
    let Some(rows) = scene.observed.rows.as_mut().and_then(|rows| rows.found.as_mut()) else {
        return;
    };
    match what {
        0 => {
            // Its checks go with it.
            let gone = rows.services.pop_first().map(|(id, _)| id).unwrap_or_default();
            rows.checks.retain(|_, check| check.service_id != gone);
        }
        1 => drop(rows.checks.pop_last()),
        2 => drop(store.plain.insert("primary".to_owned(), C.to_owned())),
        3 => store.plain.clear(),
        _ => {}
    }
}

prop_compose! {
    /// Any scene: whatever is published, whatever the servers say; and how long it has lasted, in ms.
    fn told()(
        published in 0..3_u8,
        level in any::<bool>(),
        sentinels in prop::collection::vec(said(), 3),
        instances in prop::collection::vec(instance(), 3),
        age_ms in prop_oneof![Just(100_u64), Just(3_000), Just(20_000)],
        lasting_ms in prop_oneof![Just(0_u64), Just(5_000), Just(40_000)],
        damaged in 0..8_u8,
    ) -> (Scene, u64) {
        let mut scene = match published {
            0 => Scene::unpublished(3),
            1 => Scene::healthy(3),
            _ => Scene::healthy(3).promoted(B, age_ms),
        };
        scene.policy.publish = if level { Level::Promotion } else { Level::Quorum };
        for (index, said) in sentinels.iter().enumerate() {
            scene = apply(scene, index, said);
        }
        for (name, answer) in NAMES.iter().zip(instances) {
            scene = match answer {
                Some(answer) => scene.instance(name, answer),
                None => scene.dead(name),
            };
        }
        damage(&mut scene, damaged);
        (scene, lasting_ms)
    }
}

pub(crate) fn scene() -> impl Strategy<Value = Scene> {
    told().prop_map(|(scene, lasting_ms)| scene.lasting(lasting_ms))
}

/// Each Sentinel has the place of the next one: its address and its identity.
fn each_the_next(mut scene: Scene) -> Scene {
    let next = |id: &SentinelId| {
        let index: usize = id.0.trim_start_matches("sentinel-").parse().expect("an index");
        SentinelId(format!("sentinel-{}", (index + 1) % 3))
    };
    let readings = std::mem::take(&mut scene.observed.sentinels);
    for (index, (_, mut reading)) in readings.into_iter().enumerate() {
        if let Ok(answer) = &mut reading.result {
            answer.id = next(&answer.id);
            for peer in answer.group.iter_mut().flat_map(|group| &mut group.peers) {
                peer.id = next(&peer.id);
                peer.address = sentinel_at((0..3).find(|i| peer.id == id(*i)).expect("one"));
                peer.voted = peer.voted.take().map(|(leader, epoch)| (next(&leader), epoch));
            }
        }
        scene.observed.sentinels.insert(sentinel_at((index + 1) % 3), reading);
    }
    scene
}

/// What is done, without the Sentinels' names.
fn outline(scene: &Scene) -> Vec<String> {
    let outline = |action: &Action| match action {
        Action::Write(write) => {
            let record = write.record.as_ref();
            let known = record.map(|r| (r.writer_address(), &r.instances, r.evidence.level()));
            let counted = record.map(|r| (r.evidence.basis.votes(), r.evidence.known));
            format!("{:?} {known:?} {counted:?}", write.purpose)
        }
        Action::Reconfigure(reconfigure) => format!(
            "tell {:?} {} {:?}",
            reconfigure.what, reconfigure.primary, reconfigure.settings
        ),
        other => format!("{other:?}"),
    };
    let mut all: Vec<String> = scene.decision().actions().iter().map(outline).collect();
    all.sort();
    all
}

fn says_primary(scene: &Scene, name: &consul_redis_core::identity::address::Address) -> bool {
    let answer =
        scene.observed.instances.get(name).and_then(|reading| reading.result.as_ref().ok());
    answer.is_some_and(|answer| {
        matches!(answer.role, Role::Primary { .. }) && answer.not_ready.is_none()
    })
}

/// Carries a write out, as Consul would: rows and keys.
fn carry_out(scene: &mut Scene, write: &Write) {
    commit(&mut scene.observed.rows.as_mut().expect("the rows were read").found, &write.ops);
    let store = scene.observed.store.as_mut().expect("the keys were read");
    let root = layout().root();
    for op in &write.ops {
        let (Op::KeyCas { key, value, .. } | Op::KeySet { key, value }) = op else { continue };
        match key.strip_prefix(&root).expect("a key of the group") {
            "state" => {
                let record = decode(value.as_bytes()).expect("a record");
                store.state = StoredState::Known(Box::new(record));
                store.state_index += 1;
            }
            "history" => store.history = serde_json::from_str(value).expect("a history"),
            name => drop(store.plain.insert(name.to_owned(), value.clone())),
        }
    }
    if let Some(record) = &write.record {
        scene.memory.generation_max = record.generation;
    }
}

/// Carries the rows of a write out.
fn commit(rows: &mut Option<Rows>, ops: &[Op]) {
    for op in ops {
        match op {
            Op::NodeSet { row, .. } => match rows {
                Some(rows) => rows.node = row.clone(),
                None => {
                    *rows = Some(Rows {
                        node: row.clone(),
                        services: Default::default(),
                        checks: Default::default(),
                    });
                }
            },
            Op::ServiceSet { id, row, .. } => {
                let rows = rows.as_mut().expect("the node comes first");
                rows.services.insert(id.clone(), row.clone());
            }
            Op::ServiceDelete { id, .. } => {
                if let Some(rows) = rows {
                    rows.services.remove(id);
                    rows.checks.retain(|_, check| &check.service_id != id);
                }
            }
            Op::CheckSet { id, row, .. } => {
                let rows = rows.as_mut().expect("the node comes first");
                assert!(rows.services.contains_key(&row.service_id), "a check without its service");
                rows.checks.insert(id.clone(), row.clone());
            }
            _ => {}
        }
    }
}

/// The problems that say that the writer's name leads nowhere, or elsewhere.
const ABOUT_THE_NAME: [ProblemCode; 7] = [
    ProblemCode::StateUnreadable,
    ProblemCode::NotOurs,
    ProblemCode::NothingPublished,
    ProblemCode::NoWriter,
    ProblemCode::WriterFails,
    ProblemCode::SentinelsDisagree,
    ProblemCode::Unconfirmed,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_published_writer_has_said_that_it_is_the_primary(scene in scene()) {
        if let Verdict::Publish { to, .. } = scene.verdict() {
            prop_assert!(says_primary(&scene, &to.address));
        }
    }

    #[test]
    fn it_makes_no_difference_which_of_the_sentinels_says_what((scene, lasting_ms) in told()) {
        let other = each_the_next(scene.clone()).lasting(lasting_ms);
        prop_assert_eq!(outline(&scene.lasting(lasting_ms)), outline(&other));
    }

    #[test]
    fn every_write_is_one_transaction_with_one_writer_and_one_story(scene in scene()) {
        for action in scene.decision().actions() {
            let Action::Write(write) = action else { continue };
            prop_assert!(write.ops.len() <= TXN_OPS_MAX);
            let Some(record) = &write.record else { continue };
            let fence = matches!(&write.ops[0], Op::KeyCas { index, .. } if *index == write.base_index);
            prop_assert!(fence, "the fence comes first");
            let mut rows = scene.observed.rows.as_ref().and_then(|rows| rows.found.clone());
            commit(&mut rows, &write.ops);
            prop_assert_eq!(rows.as_ref(), Some(&project(record).rows));
            let primaries = record.instances.iter().filter(|i| i.role == PublishedRole::Primary);
            prop_assert_eq!(
                primaries.map(|i| &i.address).collect::<Vec<_>>(),
                record.writer_address().into_iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_generation_begins_exactly_when_the_writer_changes(scene in scene()) {
        let before = scene.observed.record().cloned();
        for action in scene.decision().actions() {
            let Action::Write(write) = action else { continue };
            let Some(record) = &write.record else { continue };
            let old = before.as_ref().map_or(0, |record| record.generation);
            let moved = before.as_ref().and_then(Record::writer_address) != record.writer_address();
            prop_assert_eq!(record.generation > old, moved);
            prop_assert_eq!(matches!(write.purpose, Purpose::Publish | Purpose::Withdraw), moved);
        }
    }

    /// At either level, whatever it says of the primary, its epoch, and who is down. One that knows of Sentinels that
    /// no other one knows makes the majority larger: then the others are none, and a stray primary that it names is a
    /// split.
    #[test]
    fn a_minority_cannot_move_a_writer_that_the_majority_names(
        liar in said(),
        others in 0..=10_usize,
        elected in prop::bool::weighted(0.2),
        level in any::<bool>(),
        instances in prop::collection::vec(instance(), 2),
    ) {
        // That it leads a failover past its election is another lie: the next test.
        let failover = liar.failover.map(|_| 0).filter(|_| !elected);
        let liar = Said { others, failover, ..liar };
        let scene = lied_to(&liar, level, instances);
        let verdict = scene.verdict();
        let moved = matches!(verdict, Verdict::Publish { .. } | Verdict::Withdraw(_));
        prop_assert!(!moved || splits(&verdict, &liar, &scene), "{verdict:?}");
        prop_assert!(!touches(&scene, A), "{:?}", scene.decision());
    }

    /// An elected leader is a majority's choice, and only itself says that it was elected. It moves the name to
    /// one that says itself that it is the primary and goes on from the last writer's history, at level `promotion`; or
    /// to no writer, when it calls the primary objectively down.
    #[test]
    fn one_that_says_it_leads_a_failover_moves_the_name_no_further_than_an_instance_bears_it_out(
        liar in said(),
        phase in 1..6_u8,
        others in 0..=10_usize,
        level in any::<bool>(),
        instances in prop::collection::vec(instance(), 2),
    ) {
        let liar = Said { others, failover: Some(phase), silent: false, blank: false, ..liar };
        let scene = lied_to(&liar, level, instances);
        match scene.verdict() {
            Verdict::Publish { to, evidence, .. } => {
                prop_assert_eq!(scene.policy.publish, Level::Promotion);
                prop_assert_eq!(evidence.level(), Level::Promotion);
                prop_assert!(says_primary(&scene, &to.address));
                let own = scene.observed.instances[&to.address].result.as_ref().expect("an answer");
                let last = ReplId("1".to_owned());
                prop_assert!(own.replid == last || own.replid2 == Some(last), "{own:?}");
                prop_assert_eq!(liar.chosen.map(|chosen| at(NAMES[chosen])), Some(to.address));
            }
            verdict if splits(&verdict, &liar, &scene) => {}
            Verdict::Withdraw(why) => {
                prop_assert!(matches!(why, WithdrawReason::Down { .. }), "{why}");
                prop_assert!(liar.down == 2 && !liar.forced && !liar.tilt, "{liar:?}");
                // It was elected for this failover, and not for one before.
                let in_force = liar.failover >= Some(4);
                let newer = |at: u64| if in_force { at == liar.epoch } else { at > liar.epoch };
                prop_assert!(liar.votes.is_some_and(newer), "{liar:?}");
                prop_assert_eq!(NAMES[liar.monitored], A);
            }
            Verdict::Keep(_) | Verdict::Confirm { .. } | Verdict::Claim(_) => {}
        }
        // Its writes are held while the one that is said to be promoted says that it is the primary.
        let chosen = liar.chosen.map(|chosen| at(NAMES[chosen]));
        let led = chosen.is_some_and(|chosen| chosen != at(A) && says_primary(&scene, &chosen));
        prop_assert!(led || !touches(&scene, A), "{:?}", scene.decision());
        let decision = scene.decision();
        let told = |action: &Action| !matches!(action, Action::Hold(_)) && is_acted_on(action, A);
        prop_assert!(!decision.actions().iter().any(told), "{decision:?}");
    }

    #[test]
    fn silence_changes_nothing(scene in scene()) {
        let scene = (0..3).fold(scene, Scene::silent);
        let scene = NAMES.iter().fold(scene, |scene, name| scene.dead(name));
        let quiet = scene.decision().actions().iter().all(
            |action| matches!(action, Action::Write(write) if write.purpose == Purpose::Repair),
        );
        prop_assert!(quiet, "{:?}", scene.decision());
    }

    /// A name that leads nowhere, to what is no primary, or to another one than a majority names, has a reason that is
    /// said.
    #[test]
    fn no_name_is_empty_or_wrong_without_a_problem(scene in scene()) {
        let mut scene = scene;
        for _ in 0..5 {
            let Some(write) = scene.decision().write else { break };
            carry_out(&mut scene, &write);
            scene = scene.remembering();
        }
        let mut scene = scene.lasting(60_000);
        let store = scene.observed.store.as_mut().expect("the keys were read");
        store.agents = ["agent-0".to_owned()].into();
        let record = scene.observed.record();
        let writer = record.and_then(Record::writer_address);
        let named = scene.view().tally.elected.as_ref().map(|elected| elected.address.clone());
        let is_wrong = writer.is_none_or(|writer| {
            !says_primary(&scene, writer) || named.as_ref().is_some_and(|named| named != writer)
        });
        let serves_none = record.is_some_and(|record| {
            record.instances.len() > 1 && record.replicas().next().is_none()
        });
        let found = assess(&scene.view(), &layout(), &scene.decision()).problems;
        // What else is wrong with the group does not stand for it.
        let is_said = found.iter().any(|problem| ABOUT_THE_NAME.contains(&problem.code));
        let no_replicas = found.iter().any(|problem| problem.code == ProblemCode::NoReplicas);
        prop_assert!(!is_wrong || is_said, "{found:?} {:?}", scene.decision());
        prop_assert!(!serves_none || is_said || no_replicas, "{found:?} {:?}", scene.decision());
    }

    #[test]
    fn a_decision_once_carried_out_is_not_made_again(scene in scene()) {
        let mut scene = scene;
        for _ in 0..5 {
            let Some(write) = scene.decision().write else { return Ok(()) };
            carry_out(&mut scene, &write);
            scene = scene.remembering();
        }
        prop_assert!(false, "it goes on for ever: {:?}", scene.decision());
    }
}

/// A healthy group of which one Sentinel says something else, and has for long.
fn lied_to(liar: &Said, level: bool, instances: Vec<Option<InstanceAnswer>>) -> Scene {
    let level = if level { Level::Promotion } else { Level::Quorum };
    let mut scene = apply(Scene::healthy(3), 0, liar).at_level(level);
    for (name, answer) in [B, C].iter().zip(instances) {
        if let Some(answer) = answer {
            scene = scene.instance(name, answer);
        }
    }
    scene.lasting(60_000)
}

/// The name is withdrawn since one knows many others and names another one, which says itself that it is the primary.
fn splits(verdict: &Verdict, liar: &Said, scene: &Scene) -> bool {
    let split = matches!(verdict, Verdict::Withdraw(WithdrawReason::Displaced { by: None, .. }));
    split && liar.others > 2 && says_primary(scene, &at(NAMES[liar.primary]))
}

/// The instance gets a command that keeps it from being the primary.
fn touches(scene: &Scene, name: &str) -> bool {
    scene.decision().actions().iter().any(|action| is_acted_on(action, name))
}

fn is_acted_on(action: &Action, name: &str) -> bool {
    match action {
        Action::Hold(hold) => hold.instance == at(name),
        Action::Fence(fence) => fence.instance == at(name),
        Action::Detach(detach) => detach.instance == at(name),
        Action::Write(_)
        | Action::Relay(_)
        | Action::Promote(_)
        | Action::Reconfigure(_)
        | Action::Mark(_)
        | Action::Prioritize(_) => false,
    }
}

/// B was made a primary by hand, and a Sentinel says that it did so itself.
fn claimed(level: Level) -> Scene {
    let scene = Scene::healthy(3).leading(0, B, FailoverPhase::WaitPromotion).at_level(level);
    scene.instance(B, crate::scene::promoted_b()).lasting(60_000)
}

#[test]
fn a_minority_that_says_it_was_elected_is_believed() {
    assert_eq!(claimed(Level::Promotion).published_now(), (B.to_owned(), Level::Promotion));
    // Where only a majority moves the name, it is gone until the claim is.
    assert!(claimed(Level::Quorum).withdraws().contains("is down"));
    let denied = claimed(Level::Quorum).sentinel(0, |group| group.down = DownOpinion::Subjective);
    denied.keeps();
}

/// It makes the majority larger than there are Sentinels: nothing moves until the others are all it knows again. At
/// level `promotion` an elected leader's choice is published all the same.
#[test]
fn a_minority_that_knows_many_others_keeps_a_majority_from_moving_the_name() {
    let followed = |level| {
        let scene = Scene::healthy(3).naming(&[1, 2], B, 2).dead(A).at_level(level);
        scene.instance(B, crate::scene::promoted_b()).instance(C, replica(2, B))
    };
    let lying = |scene: Scene| scene.sentinel(0, |group| group.other_sentinels = 10);
    for level in [Level::Quorum, Level::Promotion] {
        assert_eq!(followed(level).published_now(), (B.to_owned(), Level::Quorum));
        let why = lying(followed(level)).lasting(60_000).keeps();
        assert!(why.contains("no majority"), "{why}");
    }
    let led = |level| {
        let scene = Scene::healthy(3).down(&[1, 2], DownOpinion::Objective).dead(A);
        let scene = scene.leading(1, B, FailoverPhase::WaitPromotion).at_level(level);
        lying(scene.instance(B, crate::scene::promoted_b())).lasting(60_000)
    };
    assert_eq!(led(Level::Promotion).published_now(), (B.to_owned(), Level::Promotion));
    assert!(led(Level::Quorum).withdraws().contains("is down"));
    // With a stray primary at hand it withdraws the name.
    let second = |others| {
        let scene = Scene::healthy(3).naming(&[0], B, 1).instance(B, crate::scene::promoted_b());
        scene.sentinel(0, |group| group.other_sentinels = others).lasting(60_000)
    };
    second(2).keeps();
    assert!(second(4).withdraws().contains("split"));
}

fn record_of(instances: &[(u8, u8)], writer: Option<u8>) -> Record {
    let mut record = Scene::healthy(3).observed.record().expect("a record").clone();
    let name = |index: u8| at(&format!("10.0.2.{}:6379", index + 1));
    let role = |number: u8| {
        [PublishedRole::Replica, PublishedRole::OutOfSync, PublishedRole::Down][usize::from(number)]
    };
    let unique: BTreeSet<u8> = instances.iter().map(|(index, _)| *index).collect();
    record.writer = writer.map(|index| consul_redis_core::published::record::Writer {
        address: name(index),
        replid: ReplId("1".to_owned()),
    });
    record.instances = unique
        .into_iter()
        .filter(|index| Some(*index) != writer)
        .map(|index| {
            let found = instances.iter().find(|(i, _)| *i == index).map_or(0, |(_, role)| *role);
            InstanceRecord { address: name(index), role: role(found) }
        })
        .collect();
    if let Some(index) = writer {
        record
            .instances
            .push(InstanceRecord { address: name(index), role: PublishedRole::Primary });
    }
    record.instances.sort();
    record
}

proptest! {
    #[test]
    fn changes_lead_from_any_rows_to_any_others(
        from in prop::collection::vec((0..9_u8, 0..3_u8), 0..9),
        from_writer in proptest::option::of(0..9_u8),
        to in prop::collection::vec((0..9_u8, 0..3_u8), 0..9),
        to_writer in proptest::option::of(0..9_u8),
    ) {
        let (old, new) = (project(&record_of(&from, from_writer)), project(&record_of(&to, to_writer)));
        let mut rows = Some(old.rows.clone());
        commit(&mut rows, &row_changes("node", Some(&old.rows), &new.rows));
        prop_assert_eq!(rows, Some(new.rows.clone()));
        let mut fresh = None;
        commit(&mut fresh, &row_changes("node", None, &new.rows));
        prop_assert_eq!(fresh, Some(new.rows));
    }
}

#[test]
fn a_group_of_a_hundred_is_published_in_several_transactions_the_writer_in_the_first() {
    let names: Vec<String> = (1..=100).map(|n| format!("10.0.3.{n}:6379")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = Scene::unpublished(3).instance(A, primary(1, None, &all));
    for index in 0..3 {
        scene = scene.sentinel(index, |group| {
            group.replicas = names
                .iter()
                .map(|name| SentinelReplica {
                    address: at(name),
                    s_down: false,
                    promoted: false,
                    priority: None,
                })
                .collect();
        });
    }
    for name in &names {
        scene = scene.instance(name, replica(1, A));
    }
    let mut writes = 0;
    while let Some(write) = scene.decision().write {
        assert!(write.ops.len() <= TXN_OPS_MAX, "{}", write.ops.len());
        let record = write.record.clone().expect("a record");
        assert_eq!(record.writer_address(), Some(&at(A)));
        scene.show(&record);
        scene.memory.generation_max = record.generation;
        writes += 1;
        assert!(writes < 20, "it goes on for ever");
    }
    let record = scene.observed.record().expect("a record");
    assert_eq!(record.replicas().count(), 100);
    assert!(writes >= 5, "{writes}");
    assert_eq!(layout().node(), "redis-ha-redis");
}
