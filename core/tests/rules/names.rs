//! Names as Consul compares them: whose node it is, and whose service.

use consul_redis_core::shown::status::{ProblemCode, assess};

use crate::scene::{A, Scene, layout};

fn said(scene: &Scene) -> String {
    scene.decision().said().join("\n")
}

fn problems(scene: &Scene) -> Vec<ProblemCode> {
    let decision = scene.decision();
    let problems = assess(&scene.view(), &layout(), &decision).problems;
    problems.iter().map(|problem| problem.code).collect()
}

/// The node's metadata, and that of its rows.
fn meta(change: impl Fn(&mut std::collections::BTreeMap<String, String>)) -> Scene {
    let mut scene = Scene::healthy(3);
    let found = scene.observed.rows.as_mut().expect("rows").found.as_mut().expect("a node");
    change(&mut found.node.meta);
    scene
}

#[test]
fn a_node_of_another_prefix_or_group_is_foreign() {
    for (key, other) in [("group", "Redis"), ("group", "ha-redis"), ("prefix", "redis")] {
        let scene = meta(|meta| drop(meta.insert(key.to_owned(), other.to_owned())));
        assert!(said(&scene).contains("is not this group's"), "{}", said(&scene));
        assert!(scene.decision().write.is_none());
        assert!(problems(&scene).contains(&ProblemCode::ForeignNode), "{:?}", problems(&scene));
    }
    // From before nodes said whose they are.
    let older = || {
        meta(|meta| {
            meta.remove("group");
            meta.remove("prefix");
        })
    };
    assert_eq!(problems(&older()), [ProblemCode::NoAgents], "{}", said(&older()));
    assert!(older().decision().sound, "it comes with the next change");
    let mut others = older();
    let found = others.observed.rows.as_mut().unwrap().found.as_mut().unwrap();
    for row in found.services.values_mut() {
        row.meta.insert("group".to_owned(), "other".to_owned());
    }
    assert!(said(&others).contains("is not this group's"), "{}", said(&others));
}

#[test]
fn a_service_that_another_node_shows_is_not_published_beside_it() {
    let shown = |mut scene: Scene, nodes: &[&str]| {
        let rows = scene.observed.rows.as_mut().unwrap();
        rows.others = nodes.iter().map(|node| (*node).to_owned()).collect();
        scene
    };
    let taken = shown(Scene::unpublished(3), &["redis-ha-b-redis", "redis-ha-redis"]);
    assert!(taken.decision().write.is_none());
    let text = "service redis-primary is published by another node, redis-ha-b-redis";
    assert!(said(&taken).contains(text), "{}", said(&taken));
    assert!(problems(&taken).contains(&ProblemCode::ServiceTaken));
    // Its own node, in whatever case.
    let own = shown(Scene::unpublished(3), &["Redis-HA-redis"]);
    assert_eq!(own.published_now().0, A);
    assert!(own.decision().write.is_some());
    // What is published stays: the other one is the newcomer, or we are and have not seen it.
    let late = shown(Scene::healthy(3), &["web-1", "redis-ha-redis"]);
    assert!(problems(&late).contains(&ProblemCode::ServiceTaken));
    assert!(late.keeps().starts_with(&format!("writer {A}, named by")), "{}", late.keeps());
    assert_eq!(problems(&shown(Scene::healthy(3), &["redis-ha-redis"])), [ProblemCode::NoAgents]);
}
