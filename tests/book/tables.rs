//! The tables of findings, problems and metrics, from their definitions: what an operator reads of each stands at the
//! code, and the pages are written from that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use consul_redis::core::doctor::FindingCode;
use consul_redis::core::shown::status::ProblemCode;
use consul_redis::http::metrics::{Definition, definitions};

use crate::definitions::{Kind, tables};
use crate::overrides::resolved;
use crate::{hold, read, written};

const FINDINGS: &str = "core/src/doctor/mod.rs";
const PROBLEMS: &str = "core/src/shown/status.rs";
const METRICS: &str = "docs/metrics.md";

/// What the comments before each line of a list say, from the line after `begin` to the one that closes it: the line
/// without its indent, what the code means, and its cure. Plain comments begin a part.
struct Said {
    line: String,
    part: String,
    meaning: String,
    cure: String,
}

fn said(source: &str, begin: &str) -> Vec<Said> {
    let text = read(source);
    let lines = text.lines().skip_while(|line| *line != begin).skip(1);
    let (mut all, mut part, mut comment) = (Vec::new(), String::new(), String::new());
    for line in lines.take_while(|line| *line != "}").map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            comment.push_str(words);
        } else if let Some(name) = line.strip_prefix("// ") {
            part = name.trim_end_matches('.').to_owned();
        } else if !line.is_empty() {
            let (meaning, cure) = comment
                .split_once(" Cure: ")
                .unwrap_or_else(|| panic!("{source}: {line} says no cure"));
            let cell = |text: &str| text.trim().trim_end_matches('.').replace('|', "\\|");
            let (meaning, cure) = (cell(meaning), cell(cure));
            all.push(Said { line: line.to_owned(), part: part.clone(), meaning, cure });
            comment.clear();
        }
    }
    all
}

fn findings() -> BTreeMap<String, String> {
    let said = said(FINDINGS, "codes! {");
    assert_eq!(said.len(), FindingCode::ALL.len());
    let mut tables = BTreeMap::new();
    for (code, said) in FindingCode::ALL.iter().zip(said) {
        let begins = said.line.contains(&format!("\"{}\"", code.as_str()));
        assert!(begins, "{code} is not {}", said.line);
        let table: &mut String = tables.entry(said.part).or_insert_with(|| {
            "| code | severity | what it means | what to do |\n|---|---|---|---|\n".to_owned()
        });
        let severity = code.severity().as_str();
        writeln!(table, "| `{code}` | {severity} | {} | {} |", said.meaning, said.cure)
            .expect("text");
    }
    tables
}

#[test]
fn the_findings_are_those_of_the_program() {
    let path = "docs/findings.md";
    let tables = findings();
    let mut page = read(path);
    for (part, table) in &tables {
        assert!(page.contains(&format!("\n## {part}\n\n<!-- Written")), "{path} has no {part}");
        page = written(&page, path, &format!("{FINDINGS}, {part}"), table);
    }
    hold(path, &page);
}

/// The page with the table of problems.
fn with_problems(page: &str) -> String {
    let said = said(PROBLEMS, "pub enum ProblemCode {");
    let mut table = "| code | what it is | what to do |\n|---|---|---|\n".to_owned();
    let names: Vec<String> = said.iter().map(|said| said.line.replace(',', "")).collect();
    let known: Vec<String> = ProblemCode::ALL.iter().map(|code| format!("{code:?}")).collect();
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>(),
        known.iter().collect::<BTreeSet<_>>(),
        "each is in `ALL`"
    );
    for said in &said {
        let name = said.line.trim_end_matches(',');
        let code = ProblemCode::ALL.into_iter().find(|code| format!("{code:?}") == name);
        let code = code.expect("it is in `ALL`").as_str();
        writeln!(table, "| `{code}` | {} | {} |", said.meaning, said.cure).expect("text");
    }
    written(page, METRICS, PROBLEMS, &table)
}

/// Of a metric's row, all but what to do about it is written.
#[test]
fn the_metrics_and_problems_are_those_of_the_program() {
    let all = definitions();
    let row = |line: &str, found: &Definition| {
        let advice = line.trim_end_matches(" |").rsplit(" | ").next().expect("a last cell");
        let labels: Vec<String> = found.labels.iter().map(|label| format!("`{label}`")).collect();
        let Definition { name, kind, help, .. } = found;
        format!("| `{name}` | {kind} | {} | {help} | {advice} |", labels.join(", "))
    };
    let (mut page, mut shown) = (String::new(), Vec::new());
    for line in read(METRICS).lines() {
        let name = line.strip_prefix("| `consul_redis_").and_then(|rest| rest.split('`').next());
        let name = name.map(|name| format!("consul_redis_{name}"));
        let found = name.map(|name| {
            let found = all.iter().find(|definition| definition.name == name);
            found.unwrap_or_else(|| panic!("{METRICS}: there is no {name}"))
        });
        shown.extend(found.map(|found| &found.name));
        page.push_str(&found.map_or_else(|| line.to_owned(), |found| row(line, found)));
        page.push('\n');
    }
    let known: BTreeSet<&String> = all.iter().map(|definition| &definition.name).collect();
    assert_eq!(shown.len(), known.len(), "each once");
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), known);
    hold(METRICS, &with_problems(&page));
}

/// What `manage = false` switches off, and every duty that has a switch, as the reference has it.
#[test]
fn the_table_of_duties_is_true_of_the_settings() {
    let page = read("docs/reference.md");
    let (_, rest) = page.split_once("\n## What agents do, and to which server\n").expect("it");
    let chapter = rest.split("\n## ").next().expect("the chapter");
    let rows = chapter.lines().filter(|line| line.starts_with("| ")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 7, "{line}");
        (cells[1].trim_matches('`').to_owned(), cells[4].to_owned())
    });
    let rows: BTreeMap<String, String> = rows.collect();
    let config = resolved("[[group]]\nname = \"redis\"\nmanage = false\n", &[], &[]);
    let left = &config.groups[0].policy;
    let switches = [
        ("fence", left.fence),
        ("hold_writes", left.hold_writes),
        ("hold_when_cut_off", left.hold_when_cut_off),
        ("replace_emptied", left.replace_emptied),
        ("fast_failover", format!("{:?}", left.fast_failover) != "Off"),
        ("bootstrap", left.bootstrap),
        ("tell_sentinels", left.tell_sentinels),
        ("relay", left.relay),
        ("mark", left.write_mark),
        ("forget_ghosts", left.forget_ghosts),
    ];
    for (key, on) in switches {
        let wanted = if on { "yes" } else { "no" };
        assert_eq!(rows.get(key).map(String::as_str), Some(wanted), "{key}");
    }
    let flags = &tables()["GroupTable"].keys;
    let flags = flags.iter().filter(|key| matches!(key.kind, Kind::Flag) && key.name != "manage");
    let missing: Vec<&str> =
        flags.map(|key| &*key.name).filter(|key| !rows.contains_key(*key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
