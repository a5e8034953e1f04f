//! The core is pure: it compiles without an async runtime, an HTTP client, a Redis client or a clock.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// What would let the core do I/O, wait, read a clock, or draw a random number.
const IMPURE: [&str; 14] = [
    "tokio",
    "reqwest",
    "redis::",
    "hickory",
    "backoff",
    "tracing",
    "futures",
    "std::net::Tcp",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant",
    "rand::",
];
/// The modules of this crate that the core may use: its own.
const OWN: &str = "crate::core";

/// All files below a directory.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    let mut files = 0;
    let mut found = Vec::new();
    for path in sources(&core) {
        let text = std::fs::read_to_string(&path).expect("a source file");
        files += 1;
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let impure = IMPURE.iter().find(|name| code.contains(*name));
            let foreign = code.contains("crate::") && !code.contains(OWN);
            if impure.is_some() || foreign {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(files > 15, "only {files} files: has the core moved?");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
