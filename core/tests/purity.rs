//! The core is pure. What it depends on decides that, and the compiler holds it; here is what neither holds: that it
//! depends on nothing else, and that it leaves alone what the standard library has for I/O, time and chance.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
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

/// Directories that are one module each; in the others, each file is a module.
const WHOLE: [&str; 2] = ["doctor", "group"];

/// Which modules of the core each one takes something from, by the last part of their names, which no two share.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let src = root().join("src");
    let name_of = |path: &Path| {
        let below = path.strip_prefix(&src).expect("a source file").to_string_lossy().into_owned();
        let below = below.trim_end_matches(".rs");
        let (dir, file) = below.split_once('/').unwrap_or((below, below));
        if WHOLE.contains(&dir) { dir.to_owned() } else { file.to_owned() }
    };
    let files: Vec<PathBuf> =
        sources(&src).into_iter().filter(|path| !path.ends_with("lib.rs")).collect();
    let modules: BTreeSet<String> = files.iter().map(|path| name_of(path)).collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in &files {
        let text = std::fs::read_to_string(path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
        let name = name_of(path);
        let found = imports.entry(name.clone()).or_default();
        for line in code {
            for path in line.split("super::").skip(1).chain(line.split("crate::").skip(1)) {
                let mut words = path.split(|c: char| c != '_' && c != ':' && !c.is_alphanumeric());
                let words = words.next().unwrap_or_default().split("::");
                // A directory's module is what is taken; the directory itself, where something of its own file is.
                let taken = words.take_while(|word| modules.contains(*word)).last();
                found.extend(taken.filter(|taken| *taken != name).map(str::to_owned));
            }
        }
    }
    imports
}

#[test]
fn imports_go_one_way() {
    let mut left = imports();
    assert!(left.values().map(BTreeSet::len).sum::<usize>() > 100, "{left:?}");
    // Those that take nothing from any that is left go, until none does: the rest takes from itself.
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, from| !from.is_disjoint(&names));
        if left.len() == before {
            break;
        }
    }
    let names: BTreeSet<String> = left.keys().cloned().collect();
    left.values_mut().for_each(|from| from.retain(|name| names.contains(name)));
    assert!(left.is_empty(), "circles: {left:#?}");
}
