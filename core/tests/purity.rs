//! The core is pure. What it depends on decides that, and the compiler holds it; here is what neither holds: that it
//! depends on nothing else, and that it leaves alone what the standard library has for I/O, time and chance.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// What may be built in: values, their forms, and times that are handed in.
const DEPENDENCIES: [&str; 4] = ["jiff", "serde", "serde_json", "thiserror"];
/// What the standard library has for I/O, waiting, clocks and chance.
const IMPURE: [&str; 11] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "RandomState",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    let mut files = 0;
    let mut found = Vec::new();
    for path in sources(&root().join("src")) {
        let text = std::fs::read_to_string(&path).expect("a source file");
        files += 1;
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if IMPURE.iter().any(|name| code.contains(name)) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(files > 15, "only {files} files: has the core moved?");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_depends_on_nothing_that_does() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let (_, after) = manifest.split_once("[dependencies]\n").expect("dependencies");
    let names = after.lines().take_while(|line| !line.starts_with('['));
    let names: Vec<&str> = names
        .filter_map(|line| line.split(['=', '.', ' ']).next())
        .filter(|n| !n.is_empty())
        .collect();
    assert_eq!(names, DEPENDENCIES);
}
