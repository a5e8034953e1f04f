//! The times in docs/guarantees.md are those that scenarios assert (`tests/shared/promises.rs`), those of the program's
//! settings, and, of what is not promised, those that were measured.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use regex::Regex;

use crate::promises::{ALL, BUSY_FACTOR, HELD_DOWN_AFTER_MS, Promise};
use crate::settings::defaults;
use crate::{hold, read};

const PAGE: &str = "docs/guarantees.md";
const BEGIN: &str = "<!-- Written by `make docs` from tests/shared/promises.rs: change that. -->\n";
const END: &str = "<!-- The end of what `make docs` writes. -->\n";
/// Where promises end.
const NOT_PROMISED: &str = "\n## Not promised\n";

/// What is measured of others, and not promised: as the page has it, and where it was measured, in the words there.
const MEASURED: [(&str, &str, &str); 6] = [
    ("300 ms", "docs/facts/sentinel.md", "| **1378** [1329..1463] |"),
    ("1.1 to 1.2 s", "docs/race.md", "three took 1.1 to 1.2 s"),
    ("10 s", "docs/facts/sentinel.md", "**10.0-11.2 s** (LAB) until `+convert-to-slave`"),
    (
        "10 s",
        "docs/facts/sentinel.md",
        "cached full INFO of master+replicas with age ms: cheap bulk topology view, <=10 s",
    ),
    ("0 s", "docs/facts/consul.md", "TTL 0 (node_ttl, service_ttl)"),
    ("5 s", "core/src/doctor/instances.rs", "const DISKLESS_DELAY_MAX_S: u64 = 5;"),
];

/// Settings of the program whose defaults the page has.
const SETTINGS: [&str; 2] = ["bootstrap_wait", "confirm_within"];

/// The page without what is written from the promises.
fn prose() -> String {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("where the figures begin");
    let (_, after) = rest.split_once(END).expect("where the figures end");
    [before, after].concat()
}

/// The times in a text.
fn times(text: &str) -> Vec<String> {
    let time = Regex::new(r"\d+(\.\d+)?( to \d+(\.\d+)?)? m?s\b").expect("an expression");
    time.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

/// The default of a setting stands behind its name: "`bootstrap_wait` (30 s)".
fn settings() -> Vec<(String, String)> {
    let defaults = defaults();
    let default = |name: &str| defaults[&*format!("group.{name}")].replace('s', " s");
    SETTINGS
        .into_iter()
        .map(|name| (format!("`{name}` ({})", default(name)), default(name)))
        .collect()
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) {
        (ms / 1_000).to_string()
    } else {
        format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
    }
}

fn table() -> String {
    let mut text = format!(
        "A figure is asserted with {BUSY_FACTOR} times the time that is promised, for the noise of a busy machine; that an \
         isolated primary acknowledges nothing is asserted without it.\n\n\
         | promised | from what to what | asserted | by |\n|---|---|---|---|\n"
    );
    for (_, promise) in ALL {
        let most = seconds(promise.within_ms * u64::from(BUSY_FACTOR));
        let asserted = match promise.at_least_ms {
            0 => format!("{most} s at most"),
            least => format!("{} to {most} s", seconds(least)),
        };
        let tests: Vec<String> = promise.held_by.iter().map(|test| format!("`{test}`")).collect();
        let page = match promise.page {
            PAGE => String::new(),
            other => {
                let beside = other.trim_start_matches("docs/");
                format!(" ([{beside}]({beside}))")
            }
        };
        let Promise { says, what, .. } = promise;
        let _ = writeln!(text, "| {says}{page} | {what} | {asserted} | {} |", tests.join(", "));
    }
    text
}

#[test]
fn the_figures_are_those_of_the_promises() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("where the figures begin");
    let (_, after) = rest.split_once(END).expect("where the figures end");
    hold(PAGE, &[before, BEGIN, &table(), END, after].concat());
}

/// A scenario, as the file that it stands in.
fn scenarios() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let test = Regex::new(r"async fn (\w+)\(").expect("an expression");
    for dir in ["tests/e2e", "tests/netns"] {
        for entry in std::fs::read_dir(crate::root().join(dir)).expect(dir) {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a file");
            let names = test.captures_iter(&text).map(|found| found[1].to_owned());
            all.extend(names.map(|name| (name, text.clone())).collect::<Vec<_>>());
        }
    }
    all
}

#[test]
fn every_figure_is_asserted_by_the_scenarios_that_it_names() {
    let scenarios = scenarios();
    let names: BTreeSet<&str> = ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), ALL.len(), "each once");
    for (name, promise) in ALL {
        assert!(!promise.held_by.is_empty(), "{name} is asserted nowhere");
        for test in promise.held_by {
            let found = scenarios.iter().find(|(scenario, _)| scenario == test);
            let (_, file) = found.unwrap_or_else(|| panic!("{name}: there is no {test}"));
            let asserts =
                [".kept(", ".exactly("].iter().any(|call| file.contains(&format!("{name}{call}")));
            assert!(asserts || file.contains(&format!("&{name}")), "{test} does not assert {name}");
        }
        assert!(
            read(promise.page).contains(promise.says),
            "{} has no {}",
            promise.page,
            promise.says
        );
    }
}

#[test]
fn every_time_on_the_page_is_promised_set_or_measured() {
    let prose = prose();
    let (promised, rest) = prose.split_once(NOT_PROMISED).expect("what is not promised");
    let settings = settings();
    let is_set = |text: &str, time: &str| {
        settings.iter().any(|(shown, default)| default == time && text.contains(shown))
    };
    // A row's time is asserted by one of the row's tests.
    let rows = promised.lines().filter(|line| line.starts_with("| "));
    let mut quoted = BTreeSet::new();
    for row in rows {
        let promise = row.split('|').nth(1).unwrap_or_default();
        for time in times(promise) {
            let held =
                ALL.iter().filter(|(_, promise)| promise.page == PAGE && promise.says == time);
            let held = held.filter(|(_, promise)| {
                promise.held_by.iter().any(|test| row.contains(&format!("`{test}`")))
            });
            let names: Vec<&str> = held.map(|(name, _)| *name).collect();
            assert!(
                !names.is_empty() || is_set(promise, &time),
                "no test of this row asserts {time}: {promise}"
            );
            quoted.extend(names);
        }
    }
    let ours = ALL.iter().filter(|(_, promise)| promise.page == PAGE).map(|(name, _)| *name);
    assert_eq!(
        quoted,
        ours.collect::<BTreeSet<_>>(),
        "a promise that the page does not make, or without its tests"
    );
    assert!(promised.contains(&format!("`down-after-milliseconds` {HELD_DOWN_AFTER_MS} or more")));
    for (time, source, words) in MEASURED {
        assert!(rest.contains(time), "{time} is not on the page");
        assert!(read(source).contains(words), "{source} has no `{words}`");
    }
    for time in times(rest) {
        let known = MEASURED.iter().any(|(measured, ..)| *measured == time)
            || ALL.iter().any(|(_, promise)| promise.says == time);
        assert!(known || is_set(rest, &time), "where does {time} come from?");
    }
}
