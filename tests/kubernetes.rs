//! The files in `kubernetes/` are what Kubernetes takes: held to its published schemas, strictly. So is what the chart makes.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "helm/chart.rs"]
mod chart;
#[path = "helm/kustomize.rs"]
mod kustomize;
#[path = "helm/render.rs"]
mod render;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What each directory is for `kubectl apply -k`, and no object.
const KUSTOMIZATION: &str = "kustomization.yaml";

/// The oldest release that is still looked after, and the newest that is known.
const RELEASES: [&str; 2] = ["1.34.0", "1.37.0"];

fn validate(release: &str, files: &[PathBuf]) -> Output {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/kubernetes-validate");
    let program = if ours.exists() { ours } else { PathBuf::from("kubernetes-validate") };
    let mut command = Command::new(&program);
    command.args(["--strict", "--quiet", "-k", release]).args(files);
    command.output().expect("kubernetes-validate, as `scripts/tools.sh tests` gets it")
}

fn files() -> Vec<PathBuf> {
    files_in("kubernetes")
}

fn files_in(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|path| !path.ends_with(KUSTOMIZATION))
        .collect();
    files.sort();
    files
}

#[test]
fn the_files_are_valid() {
    let mut files = files();
    assert_eq!(files.len(), 3, "{files:?}");
    files.extend(files_in("kubernetes/cluster"));
    files.extend(files_in("kubernetes/login"));
    assert_eq!(files.len(), 5, "{files:?}");
    for release in RELEASES {
        let output = validate(release, &files);
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "Kubernetes {release}: {said}{failed}");
    }
}

#[test]
fn a_misspelt_key_is_found() {
    let text = std::fs::read_to_string(files().remove(1)).expect("a file");
    assert!(text.contains("maxUnavailable"), "the wrong file");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wrong.yaml");
    std::fs::write(&path, text.replace("maxUnavailable", "maxUnavailible")).expect("a file");
    let output = validate(RELEASES[1], &[path]);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The token that pods mount is for the audience that the auth method is for, at the path that the login reads, of the
/// account that the binding rule lets in.
#[test]
fn pods_log_in_by_the_token_that_they_mount() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).expect("a file")
    };
    let method: serde_json::Value =
        serde_json::from_str(&read("consul/login-kubernetes.json")).expect("JSON");
    let audience = method["BoundAudiences"][0].as_str().expect("an audience");
    let login = read("kubernetes/login/login.yaml");
    let script = read("consul/login.sh");
    assert!(script.contains("value.account == \"consul-redis\""));
    for file in ["redis.yaml", "sentinel.yaml", "cluster/redis-cluster.yaml"] {
        let text = read(&format!("kubernetes/{file}"));
        assert!(text.contains("serviceAccountName: consul-redis\n"), "{file}");
        assert!(
            text.contains("configMapRef: {name: consul-redis-login, optional: true}"),
            "{file}"
        );
        let token = format!(
            "serviceAccountToken: {{audience: {audience}, expirationSeconds: 3600, path: token}}"
        );
        assert!(text.contains(&token), "{file}");
        assert!(
            text.contains("mountPath: /var/run/secrets/consul-redis, readOnly: true"),
            "{file}"
        );
    }
    assert!(login.contains("BEARER_TOKEN_FILE: /var/run/secrets/consul-redis/token\n"), "{login}");
    assert!(login.contains("name: consul-redis-login\n"), "{login}");
}
