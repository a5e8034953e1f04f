//! The handbook is true of the program: what can be written from the definitions is, and the rest is held to them.
//!
//! `make docs` writes docs/config.md, docs/schemas/config-file.schema.json, the figures of docs/guarantees.md, the names,
//! keys and exit codes of docs/reference.md, docs/findings.md and the tables of docs/metrics.md anew.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod commands;
mod definitions;
mod examples;
mod figures;
mod overrides;
#[path = "../shared/promises.rs"]
mod promises;
mod reference;
mod settings;
mod tables;

use std::path::{Path, PathBuf};

/// Set to `write`, stale pages are written anew instead of being complained about.
const WRITE: &str = "CONSUL_REDIS_DOCS";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A generated page is what the definitions say now.
fn hold(path: &str, wanted: &str) {
    if std::env::var(WRITE).is_ok_and(|word| word == "write") {
        std::fs::write(root().join(path), wanted).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let found = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    if let Some((at, (found, wanted))) =
        found.lines().zip(wanted.lines()).enumerate().find(|(_, (found, wanted))| found != wanted)
    {
        panic!("{path}:{}: `make docs` makes it\n{wanted}\nand it is\n{found}", at + 1);
    }
    assert_eq!(found.len(), wanted.len(), "{path} is shorter or longer: `make docs`");
}

/// Ends what is written into a page.
const END: &str = "<!-- The end of what `make docs` writes. -->\n";

/// A page with `wanted` in the place of what was written into it from `source`.
fn written(page: &str, path: &str, source: &str, wanted: &str) -> String {
    let begin = format!("<!-- Written by `make docs` from {source}: change that. -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path}: {begin}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{path}: no end of {begin}"));
    [before, &begin, wanted, END, after].concat()
}
