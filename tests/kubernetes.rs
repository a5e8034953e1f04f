//! The files in `kubernetes/` are what Kubernetes takes: held to its published schemas, strictly.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
        .collect();
    files.sort();
    files
}

#[test]
fn the_files_are_valid() {
    let mut files = files();
    assert_eq!(files.len(), 3, "{files:?}");
    files.extend(files_in("kubernetes/cluster"));
    assert_eq!(files.len(), 4, "{files:?}");
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
