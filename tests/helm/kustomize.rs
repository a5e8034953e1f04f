//! `kubernetes/` is what a kustomization takes, and the lines of docs/deploy.md make what they say. Kustomize itself builds.

use std::path::Path;
use std::process::Command;

use consul_redis::lab::tools;
use serde_json::{Value, json};

use crate::chart::{Objects, files, objects, read, root, said};
use crate::{KUSTOMIZATION, RELEASES, validate};

/// Each directory, and the files that it is made of.
const DIRECTORIES: [(&str, &[&str]); 3] = [
    ("kubernetes", &["kubernetes/redis.yaml", "kubernetes/sentinel.yaml"]),
    ("kubernetes/cluster", &["kubernetes/cluster/redis-cluster.yaml"]),
    ("kubernetes/login", &["kubernetes/login/login.yaml"]),
];

fn build(dir: &Path) -> String {
    let kustomize = tools::kustomize().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(kustomize.path).arg("build").arg(dir).output().expect("kustomize");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn each_directory_is_what_its_files_are() {
    for (dir, its_files) in DIRECTORIES {
        let made = objects(&build(&root().join(dir)));
        let files = files(its_files);
        assert_eq!(made.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "{dir}");
        for (key, object) in &files {
            assert_eq!(&made[key], object, "{dir}: {key:?}");
        }
    }
}

/// The blocks of YAML below the heading: a kustomization, and the patch that it names.
fn sample() -> [String; 2] {
    let page = read("docs/deploy.md");
    let (_, section) = page.split_once("### With kustomize\n").expect("the heading");
    let section = section.split("\n### ").next().expect("a section");
    let blocks = section.split("```yaml\n").skip(1);
    let blocks: Vec<String> = blocks
        .map(|block| block.split_once("```").expect("the end of a block").0.to_owned())
        .collect();
    blocks.try_into().expect("two blocks")
}

/// What the sample makes, in a directory with a copy of ours.
fn made_of_the_sample() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    for (from, its_files) in DIRECTORIES {
        let to = dir.path().join("consul-redis").join(from);
        std::fs::create_dir_all(&to).expect("a directory");
        let ours = format!("{from}/{KUSTOMIZATION}");
        for file in its_files.iter().copied().chain([ours.as_str()]) {
            std::fs::write(dir.path().join("consul-redis").join(file), read(file)).expect("a file");
        }
    }
    for (name, text) in [KUSTOMIZATION, "pods.yaml"].into_iter().zip(sample()) {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    let text = build(dir.path());
    (dir, text)
}

#[test]
fn the_sample_makes_what_the_page_says() {
    let (dir, text) = made_of_the_sample();
    let made: Objects = objects(&text);
    assert_eq!(made.len(), 9, "{:?}", made.keys());
    for ((kind, name), object) in &made {
        assert_eq!(object["metadata"]["namespace"], json!("redis"), "{kind} {name}");
    }
    let of = |name: &str, place: &str| {
        said(&made[&("StatefulSet".to_owned(), name.to_owned())], place).unwrap_or(Value::Null)
    };
    for name in ["redis", "redis-sentinel"] {
        assert_eq!(
            of(name, "/spec/template/spec/containers/0/image"),
            json!("registry.example.com/consul-redis:1")
        );
        assert_eq!(of(name, "env:CONSUL_HTTP_ADDR"), json!("$(HOST_IP):8500"), "and no other");
        // Kubernetes fills in what stands above.
        assert_eq!(of(name, "/spec/template/spec/containers/0/env/0/name"), json!("HOST_IP"));
        assert_eq!(of(name, "env:CONSUL_REDIS_EXPECT"), json!("3"), "the rest stays");
    }
    let limit = "/spec/template/spec/containers/0/resources/limits/memory";
    assert_eq!(of("redis", limit), json!("4Gi"));
    let file = dir.path().join("made.yaml");
    std::fs::write(&file, text).expect("a file");
    for release in RELEASES {
        let output = validate(release, std::slice::from_ref(&file));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "Kubernetes {release}: {said}");
    }
}
