//! The pack: with its defaults it makes the jobs in `nomad/`, to the letter. There is no nomad-pack here; tests/helm/render.go has
//! the same template engine.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::job::{self, Client, JobFile};
use crate::render::Renderer;

/// The jobs that it has. The consumer is an example of an application, and no part of it.
const JOBS: [&str; 4] = ["cluster", "observer", "redis", "sentinel"];

fn read(file: &str) -> String {
    std::fs::read_to_string(job::root().join("nomad/pack").join(file)).expect("a file of the pack")
}

/// The variables' defaults, by their names.
fn defaults() -> Map<String, Value> {
    let body = hcl::parse(&read("variables.hcl")).expect("HCL");
    let mut all = Map::new();
    for block in body.blocks() {
        let name = block.labels()[0].as_str().to_owned();
        let [description, kind, default] = ["description", "type", "default"].map(|key| {
            let found = block.body().attributes().find(|attribute| attribute.key() == key);
            found.unwrap_or_else(|| panic!("{name} has no {key}")).expr().clone()
        });
        assert!(description.to_string().len() > 10, "{name}");
        let value: Value = hcl::from_str(&format!("it = {default}"))
            .map(|mut table: Map<String, Value>| table.remove("it").expect("a value"))
            .expect("a value");
        let expected = match &value {
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            _ => "list(string)",
        };
        assert_eq!(kind.to_string().trim_matches(['$', '{', '}']), expected, "{name}");
        assert!(all.insert(name.clone(), value).is_none(), "{name} is there twice");
    }
    all
}

/// The texts for each set of variables over the defaults, by the templates' names.
fn rendered(over: &[Value]) -> Vec<BTreeMap<String, String>> {
    let file = |job: &str| format!("templates/{job}.nomad.tpl");
    let mut templates: BTreeMap<String, String> =
        JOBS.iter().map(|job| ((*job).to_owned(), read(&file(job)))).collect();
    templates.insert("outputs".to_owned(), read("outputs.tpl"));
    let releases: Vec<Value> = over
        .iter()
        .map(|over| {
            let mut values = defaults();
            for (name, value) in over.as_object().expect("variables") {
                assert!(values.insert(name.clone(), value.clone()).is_some(), "no variable {name}");
            }
            json!({"name": "redis", "values": values})
        })
        .collect();
    let all = Renderer::build().run(&json!({"templates": templates, "releases": releases}));
    all.into_iter()
        .map(|one| {
            assert_eq!(one.error, "");
            one.files.expect("files")
        })
        .collect()
}

#[test]
fn the_pack_makes_the_jobs() {
    let all = json!({"cluster": true, "observer": true});
    let [default, all] = &rendered(&[json!({}), all])[..] else { panic!("two") };
    for job in JOBS {
        assert_eq!(all[job], job::text(job), "{job}");
    }
    assert_eq!(default["redis"], all["redis"]);
    assert_eq!(default["sentinel"], all["sentinel"]);
    // What is off has no text, and nomad-pack runs no such job.
    assert_eq!(default["cluster"].trim(), "");
    assert_eq!(default["observer"].trim(), "");
    assert!(default["outputs"].contains("redis-primary.service.consul"), "{}", default["outputs"]);
}

#[test]
fn the_packs_variables_are_the_jobs() {
    let second = json!({"group": "stock", "redis_job": "stock", "redis_count": 5, "port": 6380,
        "datacenters": ["dc1", "dc2"], "login_method": "nomad-workloads"});
    let files = &rendered(&[second])[0];
    let redis = JobFile::parse(&files["redis"]).expect("a job");
    assert_eq!(redis.job(&[], &Client::default()).expect("a job").name(), "stock");
    let said = |file: &JobFile, name: &str| file.variables[name].to_string();
    for (name, value) in [
        ("group", "\"stock\""),
        ("redis_count", "5"),
        ("port", "6380"),
        ("login_method", "\"nomad-workloads\""),
    ] {
        assert_eq!(said(&redis, name), value, "{name}");
    }
    assert_eq!(redis.variables["datacenters"], hcl::value!(["dc1", "dc2"]));
    let sentinel = JobFile::parse(&files["sentinel"]).expect("a job");
    assert_eq!(said(&sentinel, "groups"), "\"stock\"");
}

/// A variable that is not used misleads.
#[test]
fn every_variable_of_the_pack_does_something() {
    let on = json!({"cluster": true, "observer": true});
    let changed = defaults().into_iter().map(|(name, value)| {
        let value = match value {
            Value::Bool(on) => json!(!on),
            Value::Number(number) => json!(number.as_u64().expect("a number") + 1),
            Value::String(_) => json!("another"),
            _ => json!(["another"]),
        };
        let mut over = on.clone();
        let is_switch = value.is_boolean();
        // Those that are off are on already.
        over[&name] = if is_switch { json!(false) } else { value };
        (name, over)
    });
    let (names, mut over): (Vec<String>, Vec<Value>) = changed.unzip();
    assert!(names.len() > 20, "{names:?}");
    over.insert(0, on.clone());
    let all = rendered(&over);
    for (name, files) in names.iter().zip(&all[1..]) {
        assert_ne!(files, &all[0], "{name} does nothing");
    }
}

#[test]
fn the_packs_version_is_the_programs() {
    let about = read("metadata.hcl");
    assert!(about.contains(&format!("version     = \"{}\"", env!("CARGO_PKG_VERSION"))), "{about}");
}
