//! The operator's own words on the rows, and how agents agree on them.

use std::collections::BTreeMap;

use consul_redis_core::duty::action::Purpose;
use consul_redis_core::identity::address::Address;
use consul_redis_core::known::observed::{Key, SentinelReplica};
use consul_redis_core::published::agreed::{agreed, differing};
use consul_redis_core::published::projection::{Op, ServiceRow, TXN_OPS_MAX, project};
use consul_redis_core::published::record::{PublishedRole, Record, decode, encode};
use consul_redis_core::published::store::StoreAnswer;
use consul_redis_core::published::words::{
    AgentWords, InstanceWords, PAIRS_MAX, RowWords, WORDS_LEN_MAX, Weights, Words,
};
use consul_redis_core::shown::reasons::Reason;
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;
use proptest::prelude::*;
use serde_json::json;

use crate::scene::{A, B, C, Scene, at, layout, primary, promoted_b, replica};

fn tagged(tags: &[&str]) -> Words {
    Words { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Words::default() }
}

fn meta(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn zoned(zone: &str) -> InstanceWords {
    InstanceWords { zone: Some(zone.parse().expect("a zone")), ..InstanceWords::default() }
}

fn beside(address: &str, words: InstanceWords) -> BTreeMap<Address, InstanceWords> {
    BTreeMap::from([(at(address), words)])
}

/// These agents watch, and say this.
fn said(mut scene: Scene, words: &[(&str, AgentWords)]) -> Scene {
    let store = scene.observed.store.as_mut().expect("a store");
    store.agents = words.iter().map(|(agent, _)| (*agent).to_owned()).collect();
    store.words = words.iter().map(|(agent, words)| ((*agent).to_owned(), words.clone())).collect();
    scene
}

/// Consul takes what is to be written; what the agents say stays.
fn written(mut scene: Scene) -> (Purpose, Scene) {
    let write = scene.write();
    let before = scene.observed.store.clone().expect("a store");
    scene.show(write.record.as_ref().expect("a record"));
    let store = scene.observed.store.as_mut().expect("a store");
    (store.agents, store.words) = (before.agents, before.words);
    (write.purpose, scene)
}

fn record(scene: &Scene) -> Record {
    scene.observed.record().expect("a record").clone()
}

fn row(record: &Record, id: &str) -> ServiceRow {
    project(record).rows.services.get(id).unwrap_or_else(|| panic!("no {id}")).clone()
}

fn of_group(group: Words) -> AgentWords {
    AgentWords { group, ..AgentWords::default() }
}

#[test]
fn without_words_a_record_and_its_rows_are_as_before() {
    let record = record(&Scene::healthy(3));
    assert!(!encode(&record).contains("words"), "{}", encode(&record));
    for row in project(&record).rows.services.values() {
        let json = serde_json::to_string(row).expect("JSON");
        assert!(!json.contains("weights"), "{json}");
    }
}

#[test]
fn words_stand_on_every_row_after_the_agents_own() {
    let group = Words {
        tags: vec!["traefik.enable=true".to_owned(), "gen-{generation}".to_owned()],
        meta: meta(&[("team", "cache"), ("at", "{host}/{port}"), ("since", "{generation}")]),
        weights: Some(Weights { passing: 5, warning: 2 }),
    };
    let own = Words {
        tags: vec!["{role}-of-{group}".to_owned(), "traefik.enable=true".to_owned()],
        meta: meta(&[("team", "platform"), ("where", "{zone} {{x}")]),
        weights: None,
    };
    let mut record = record(&Scene::healthy(3));
    for (address, zone) in [(A, "eu-1a"), (B, "eu-1b")] {
        let instance = InstanceWords { own: own.clone(), ..zoned(zone) };
        record.words.insert(at(address), RowWords { group: group.clone(), instance });
    }
    assert_eq!(decode(encode(&record).as_bytes()), Ok(record.clone()));
    let primary = row(&record, "redis-primary");
    let tags = ["zone-eu-1a", "traefik.enable=true", "gen-7", "primary-of-redis"];
    assert_eq!(primary.tags, tags);
    assert_eq!(row(&record, &format!("redis:{A}")).tags, [&["primary"], &tags[..]].concat());
    let wanted = [
        ("at", "10.0.0.1/6379"),
        ("generation", "7"),
        ("group", "redis"),
        ("managed-by", "consul-redis"),
        ("since", "7"),
        ("team", "platform"),
        ("where", "eu-1a {x}"),
        ("zone", "eu-1a"),
    ];
    assert_eq!(primary.meta, meta(&wanted));
    assert_eq!(primary.weights, Weights { passing: 5, warning: 2 });
    // A new generation changes nothing of the others' rows.
    let replica = row(&record, &format!("redis-replica:{B}"));
    assert_eq!(replica.tags, ["zone-eu-1b", "traefik.enable=true", "replica-of-redis"]);
    assert!(!replica.meta.contains_key("since"), "{replica:?}");
    record.generation += 1;
    assert_eq!(row(&record, &format!("redis-replica:{B}")), replica);
    // No checks of theirs, and none of an instance without any.
    assert_eq!(row(&record, &format!("redis-replica:{C}")).weights, Weights::default());
    assert!(row(&record, &format!("redis-replica:{C}")).tags.is_empty());
}

/// A group that is called `primary` would have its replicas answer as `primary.redis`.
#[test]
fn no_placeholder_makes_a_tag_of_the_agents_own() {
    let mut record = record(&Scene::healthy(3));
    record.group = "Primary".parse().expect("a name");
    let group = tagged(&["{group}", "{role}", "x"]);
    record.words.insert(at(B), RowWords { group, ..RowWords::default() });
    assert_eq!(row(&record, &format!("redis:{B}")).tags, ["replica", "x"]);
    assert_eq!(row(&record, &format!("redis-replica:{B}")).tags, ["x"]);
}

#[test]
fn what_no_row_can_show_is_refused_in_words() {
    let refused = |words: Words| words.check().expect_err("it is refused").to_string();
    let key = |key: &str| Words { meta: meta(&[(key, "x")]), ..Words::default() };
    for tag in ["primary", "Replica", "zone-eu-1a", "ZONE-x"] {
        assert!(refused(tagged(&[tag])).contains("the agents' own"), "{tag}");
    }
    for own in ["managed-by", "group", "generation", "prefix", "zone", "installation", "agent"] {
        assert!(refused(key(own)).contains("not free"), "{own}");
    }
    assert!(refused(key("consul-x")).contains("not free"));
    for bad in ["", "a.b", "a b", "\u{e4}", &"k".repeat(129)] {
        assert!(refused(key(bad)).contains("A-Z a-z 0-9 _ -"), "{bad}");
    }
    for bad in ["", "a\nb", "\u{7f}", &"v".repeat(513)] {
        assert!(refused(tagged(&[bad])).contains("control characters"), "{bad:?}");
    }
    let unknown = refused(tagged(&["{rolle}"]));
    for known in ["{rolle}", "{role}", "{generation}", "{group}", "{zone}", "{address}", "{host}"] {
        assert!(unknown.contains(known), "{unknown}");
    }
    assert!(refused(tagged(&["a{role"])).contains("{{"));
    let many: Vec<String> = (0..=PAIRS_MAX).map(|n| format!("k{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "x")).collect();
    assert!(refused(Words { meta: meta(&many), ..Words::default() }).contains("29 keys"));
    let long = "t".repeat(500);
    assert!(refused(tagged(&[&long, &long, &long])).contains(&WORDS_LEN_MAX.to_string()));
    let weights = Some(Weights { passing: 0, warning: 1 });
    assert!(refused(Words { weights, ..Words::default() }).contains("passing"));
    // Not a name that DNS could look up, and Consul's all the same.
    let free = tagged(&["traefik.http.routers.x.rule=Host(`a`)", "{{", "a } b", "{role}-{port}"]);
    free.check().expect("a tag");
}

#[test]
fn words_come_by_a_write_of_their_own_and_begin_no_generation() {
    let words = AgentWords { group: tagged(&["a"]), instances: beside(B, zoned("eu-1b")) };
    let scene = said(Scene::healthy(3), &[("agent-0", words)]);
    let generation = record(&scene).generation;
    let (purpose, scene) = written(scene);
    assert_eq!((purpose, record(&scene).generation), (Purpose::InstanceRows, generation));
    assert_eq!(row(&record(&scene), "redis-primary").tags, ["a"]);
    assert_eq!(row(&record(&scene), &format!("redis-replica:{B}")).tags, ["zone-eu-1b", "a"]);
    let decision = scene.decision();
    assert!(decision.actions().is_empty() && decision.sound, "{decision:?}");
    let status = assess(&scene.view(), &layout(), &decision);
    let zone = |address| status.instances.iter().find(|i| i.address == at(address)).expect("it");
    assert_eq!(zone(B).zone, "eu-1b".parse().ok());
    assert_eq!(zone(C).zone, None);
    // They leave with the config.
    let scene = said(scene, &[("agent-0", AgentWords::default())]);
    let (purpose, scene) = written(scene);
    assert_eq!(purpose, Purpose::InstanceRows);
    assert!(row(&record(&scene), "redis-primary").tags.is_empty());
    assert_eq!(row(&record(&scene), &format!("redis-replica:{B}")).tags, ["zone-eu-1b"]);
}

#[test]
fn words_of_an_instance_stay_while_its_agent_is_away_and_go_with_its_row() {
    let words = AgentWords { group: tagged(&["a"]), instances: beside(B, zoned("eu-1b")) };
    let other = of_group(tagged(&["a"]));
    let scene = said(Scene::healthy(3), &[("agent-0", other.clone()), ("agent-1", words)]);
    let (_, scene) = written(scene);
    let scene = said(scene, &[("agent-0", other.clone())]);
    assert!(scene.decision().actions().is_empty(), "{:?}", scene.decision());
    // An agent that is back with nothing to say of it takes them away.
    let silent =
        AgentWords { group: tagged(&["a"]), instances: beside(B, InstanceWords::default()) };
    let back = said(scene.clone(), &[("agent-0", other.clone()), ("agent-1", silent)]);
    let (_, back) = written(back);
    assert_eq!(row(&record(&back), &format!("redis-replica:{B}")).tags, ["a"]);
    let instances = record(&scene).instances.into_iter().filter(|i| i.address != at(B));
    let instances: Vec<_> = instances.collect();
    let store = scene.observed.store.as_ref().expect("a store");
    let left = agreed(store, "agent-0", scene.observed.record(), &instances);
    assert_eq!(left.keys().collect::<Vec<_>>(), [&at(A), &at(C)]);
}

/// It reads what is published before its own key is there.
#[test]
fn an_agent_that_does_not_show_itself_yet_leaves_words_as_they_are() {
    let scene = said(Scene::healthy(3), &[("agent-0", of_group(tagged(&["a"])))]);
    let (_, scene) = written(scene);
    let alone = said(scene, &[]);
    assert!(alone.decision().actions().is_empty(), "{:?}", alone.decision());
    let beside_another = said(alone, &[("agent-7", of_group(tagged(&["b"])))]);
    assert!(beside_another.decision().actions().is_empty(), "{:?}", beside_another.decision());
}

#[test]
fn while_an_agent_knows_no_words_none_are_shown_and_it_is_said() {
    let words = AgentWords { group: tagged(&["a"]), instances: beside(A, zoned("eu-1a")) };
    let (_, mut scene) = written(said(Scene::healthy(3), &[("agent-0", words)]));
    scene.observed.store.as_mut().expect("a store").agents.insert("agent-1".to_owned());
    let decision = scene.decision();
    assert!(decision.reasons.contains(&Reason::WordsHidden(vec!["agent-1".to_owned()])));
    let problems = assess(&scene.view(), &layout(), &decision).problems;
    let hidden = problems.iter().find(|problem| problem.code == ProblemCode::WordsHidden);
    assert!(hidden.is_some_and(|problem| problem.text.contains("agent-1")), "{problems:?}");
    let (_, scene) = written(scene);
    assert!(record(&scene).words.is_empty());
    // Where there is nothing to show, nothing is missing.
    let mut scene = said(Scene::healthy(3), &[("agent-0", AgentWords::default())]);
    scene.observed.store.as_mut().expect("a store").agents.insert("agent-1".to_owned());
    assert!(scene.decision().reasons.is_empty(), "{:?}", scene.decision().reasons);
}

#[test]
fn of_differing_words_the_first_agents_are_shown_and_no_two_write_in_turn() {
    let (none, a, b) = (AgentWords::default(), of_group(tagged(&["a"])), of_group(tagged(&["b"])));
    let all = [("agent-0", none), ("agent-1", a), ("agent-2", b)];
    let mut scene = said(Scene::healthy(3), &all);
    "agent-2".clone_into(&mut scene.policy.agent);
    let (_, mut scene) = written(scene);
    assert_eq!(row(&record(&scene), "redis-primary").tags, ["a"]);
    for agent in ["agent-0", "agent-1", "agent-2"] {
        agent.clone_into(&mut scene.policy.agent);
        let decision = scene.decision();
        assert!(decision.actions().is_empty(), "{agent}: {decision:?}");
        let wanted = vec![
            ("agent-1".to_owned(), "tags a".to_owned()),
            ("agent-2".to_owned(), "tags b".to_owned()),
        ];
        assert_eq!(decision.reasons, [Reason::WordsDiffer(wanted)]);
    }
    let text = scene.decision().said().concat();
    assert!(
        text.contains("agent-1 has tags a (which the rows show), agent-2 has tags b"),
        "{text}"
    );
    assert!(!scene.decision().sound || text.contains("SIGHUP"));
}

/// A publication does not wait for words, and takes those along that it finds.
#[test]
fn a_failover_takes_words_along() {
    let words = of_group(tagged(&["gen-{generation}"]));
    let scene = Scene::healthy(3).naming(&[0, 1, 2], B, 2).dead(A).instance(B, promoted_b());
    let (purpose, scene) = written(said(scene, &[("agent-0", words)]));
    assert_eq!(purpose, Purpose::Publish);
    assert_eq!(row(&record(&scene), "redis-primary").tags, ["gen-8"]);
}

#[test]
fn a_large_group_gets_new_words_in_several_transactions() {
    let names: Vec<String> = (1..=100).map(|n| format!("10.0.3.{n}:6379")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = Scene::unpublished(3).instance(A, primary(1, None, &all));
    let replicas: Vec<SentinelReplica> = names
        .iter()
        .map(|name| {
            let (s_down, promoted, priority) = (false, false, None);
            SentinelReplica { address: at(name), s_down, promoted, priority }
        })
        .collect();
    for index in 0..3 {
        scene = scene.sentinel(index, |group| group.replicas.clone_from(&replicas));
    }
    for name in &names {
        scene = scene.instance(name, replica(1, A));
    }
    // As long as they may be.
    let long = "t".repeat(490);
    let group = tagged(&[&long, &format!("u{long}")]);
    group.check().expect("words");
    for words in [AgentWords::default(), of_group(group.clone())] {
        scene = said(scene, &[("agent-0", words)]);
        let mut writes = 0;
        while let Some(write) = scene.decision().write {
            assert!(write.ops.len() <= TXN_OPS_MAX, "{}", write.ops.len());
            let json: usize =
                write.ops.iter().map(|op| serde_json::to_string(op).expect("JSON").len()).sum();
            let state = encode(write.record.as_ref().expect("a record")).len();
            assert!(json + state / 3 < 512 * 1_024 - 64 * 1_024, "{json} and {state} bytes");
            let keys = |op: &&Op| matches!(op, Op::KeyCas { .. });
            assert_eq!(write.ops.iter().filter(keys).count(), 1);
            (_, scene) = written(scene);
            scene.memory.generation_max = record(&scene).generation;
            writes += 1;
            assert!(writes < 40, "it goes on for ever");
        }
    }
    let record = record(&scene);
    assert_eq!((record.generation, record.replicas().count()), (1, 100));
    assert_eq!(record.words.len(), 101);
    assert!(record.words.values().all(|words| words.group == group));
}

fn key(agent: &str, value: serde_json::Value) -> Key {
    let key = layout().agent(agent);
    Key { key, value: value.to_string().into_bytes(), modify_index: 1, locked: true }
}

#[test]
fn what_a_key_says_that_no_row_can_show_is_worth_nothing() {
    let said = json!({"group": {"tags": ["a"]}, "instances": {A: {"zone": "z"}, B: {}}});
    let keys = [
        key("agent-0", json!({"words": said})),
        key("agent-1", json!({"words": {"group": {"tags": ["primary"]}}})),
        key("agent-2", json!({"words": "damage", "pauses": true})),
        key("agent-3", json!({"pauses": true})),
    ];
    let store = StoreAnswer::from_keys(&layout(), Mono(1), keys);
    let words = |agent: &str| store.words.get(agent).cloned();
    let instances = BTreeMap::from([(at(A), zoned("z")), (at(B), InstanceWords::default())]);
    assert_eq!(words("agent-0"), Some(AgentWords { group: tagged(&["a"]), instances }));
    assert_eq!(words("agent-1"), Some(AgentWords::default()));
    assert_eq!(words("agent-2"), Some(AgentWords::default()));
    assert_eq!(words("agent-3"), None);
    assert!(store.pausing.contains("agent-2"));
}

fn some_words() -> impl Strategy<Value = AgentWords> {
    let tags = prop::collection::vec("[a-c]", 0..3);
    let zones = prop::collection::btree_map(0..3_u8, proptest::option::of("[a-c]"), 0..3);
    (tags, zones).prop_map(|(tags, zones)| {
        let place = |n: u8| at([A, B, C][usize::from(n)]);
        let instances = zones.into_iter().map(|(n, zone)| {
            (place(n), zone.map_or_else(InstanceWords::default, |zone| zoned(&zone)))
        });
        AgentWords { group: Words { tags, ..Words::default() }, instances: instances.collect() }
    })
}

proptest! {
    /// Whatever order Consul lists the keys in, and whichever agent reads them.
    #[test]
    fn all_agents_come_to_the_same_words(
        all in prop::collection::btree_map("agent-[0-4]", some_words(), 1..5),
        turn in 0..5_usize,
    ) {
        let scene = Scene::healthy(3);
        let record = record(&scene);
        let mut keys: Vec<Key> =
            all.iter().map(|(agent, words)| key(agent, json!({"words": words}))).collect();
        let mut answers = Vec::new();
        for _ in 0..2 {
            let store = StoreAnswer::from_keys(&layout(), Mono(1), keys.clone());
            prop_assert_eq!(&store.words, &all);
            for agent in all.keys() {
                answers.push(agreed(&store, agent, Some(&record), &record.instances));
            }
            answers.dedup();
            prop_assert_eq!(answers.len(), 1);
            let by = turn % keys.len();
            keys.rotate_left(by);
            keys.reverse();
        }
        let words = answers.remove(0);
        let store = StoreAnswer::from_keys(&layout(), Mono(1), keys);
        // Those that are recorded then are those that are agreed on again.
        let next = Record { words: words.clone(), ..record.clone() };
        for agent in all.keys() {
            prop_assert_eq!(&agreed(&store, agent, Some(&next), &next.instances), &words);
        }
        let groups: std::collections::BTreeSet<&Words> =
            all.values().map(|words| &words.group).filter(|words| !words.is_empty()).collect();
        prop_assert_eq!(differing(&store).is_empty(), groups.len() < 2);
    }
}

#[test]
fn a_role_is_one_word_as_in_state() {
    let roles = [
        PublishedRole::Primary,
        PublishedRole::Replica,
        PublishedRole::OutOfSync,
        PublishedRole::Down,
        PublishedRole::Maintenance,
    ];
    for role in roles {
        assert_eq!(json!(role), role.as_word());
        let mut record = record(&Scene::healthy(3));
        record.instances[1].role = role;
        let group = tagged(&["is-{role}"]);
        record.words.insert(at(B), RowWords { group, ..RowWords::default() });
        let tags = row(&record, &format!("redis:{B}")).tags;
        assert_eq!(tags.last(), Some(&format!("is-{}", role.as_word())));
    }
}
