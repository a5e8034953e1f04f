//! The alerts and the dashboard in `contrib/`: held to Prometheus's own judgement, and to the metrics that there are.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consul_redis::http::metrics::names;
use consul_redis::lab::tools;
use serde_json::Value;

const RULES: &str = "contrib/prometheus-rules.yml";
const RULES_TEST: &str = "contrib/prometheus-rules.test.yml";
const DASHBOARD: &str = "contrib/grafana-dashboard.json";
/// Cells of Grafana's grid beside each other.
const GRID_WIDTH: u64 = 24;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn promtool(args: &[&str], file: &Path) -> Output {
    let tool = tools::promtool().expect("promtool, as `scripts/tools.sh tests` gets it");
    Command::new(&tool.path).args(args).arg(file).output().expect("promtool runs")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The metrics that a query asks for, without what it adds to a histogram's name.
fn metrics_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("consul_redis_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// The rules' alerts, in order.
fn alerts() -> Vec<String> {
    let text = read(RULES);
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn prometheus_takes_the_rules() {
    let output = promtool(&["check", "rules"], &root().join(RULES));
    assert!(output.status.success(), "{}", said(&output));
    let found = format!("SUCCESS: {} rules found", alerts().len());
    assert!(said(&output).contains(&found), "{}", said(&output));
}

#[test]
fn every_alert_fires_when_it_should_and_none_when_all_is_well() {
    let output = promtool(&["test", "rules"], &root().join(RULES_TEST));
    assert!(output.status.success(), "{}", said(&output));
    let test = read(RULES_TEST);
    for alert in alerts() {
        let firing = format!("alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(test.contains(&firing), "{alert} never fires in {RULES_TEST}");
    }
}

#[test]
fn the_tests_of_the_rules_find_a_rule_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let rules = read(RULES);
    for (right, wrong) in [("for: 10s", "for: 5m"), ("code=\"no-writer\"", "code=\"drift\"")] {
        assert!(rules.contains(right), "the wrong file");
        let path = dir.path().join("prometheus-rules.yml");
        std::fs::write(path, rules.replace(right, wrong)).expect("a file");
        let test = dir.path().join("test.yml");
        std::fs::write(&test, read(RULES_TEST)).expect("a file");
        let output = promtool(&["test", "rules"], &test);
        assert!(!output.status.success(), "{wrong}: {}", said(&output));
    }
}

#[test]
fn the_alerts_and_the_dashboard_ask_for_metrics_that_exist() {
    let names: BTreeSet<String> = names().into_iter().collect();
    for path in [RULES, RULES_TEST, DASHBOARD] {
        let asked = metrics_in(&read(path));
        let unknown: Vec<&String> = asked.difference(&names).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    // A metric that no panel shows might as well not be measured.
    let shown = metrics_in(&read(DASHBOARD));
    let hidden: Vec<&String> =
        names.difference(&shown).filter(|name| *name != "consul_redis_problem").collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn every_alert_is_in_the_document() {
    let document = read("docs/metrics.md");
    let missing: Vec<String> =
        alerts().into_iter().filter(|alert| !document.contains(&format!("`{alert}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// All queries of the dashboard, as Grafana would send them for everything.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let notes = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    let queries = targets.chain(notes).filter_map(|target| target["expr"].as_str());
    let fill = |query: &str| {
        query
            .replace("$__rate_interval", "1m")
            .replace("$__interval", "1m")
            .replace("$__range", "1h")
            .replace("$job", ".+")
            .replace("$group", ".+")
    };
    queries.map(fill).collect()
}

#[test]
fn prometheus_takes_every_query_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let queries = queries(&dashboard);
    assert!(queries.len() > 25, "{}", queries.len());
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(
            |(index, query)| serde_json::json!({"record": format!("query_{index}"), "expr": query}),
        )
        .collect();
    let file = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.yml");
    std::fs::write(&path, file.to_string()).expect("a file");
    let output = promtool(&["check", "rules"], &path);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_dashboard_is_one_that_grafana_can_lay_out() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: BTreeSet<&str> = variables.iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["datasource", "group", "job"]));
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: an id twice");
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place on the grid");
        assert!(place("x") + place("w") <= GRID_WIDTH, "{title}: off the grid");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title}: over another panel");
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            // Whichever Prometheus is chosen, and not one that exists here alone.
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

/// What Prometheus's plugin reads of an annotation besides what Grafana does.
const OF_PROMETHEUS: [&str; 4] = ["step", "textFormat", "titleFormat", "useValueForTime"];

#[test]
fn the_dashboard_is_as_grafanas_own_schema_says() {
    let schema = read("tests/fixtures/grafana/dashboard.json");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let off = |dashboard: &Value| -> Vec<String> {
        let errors = validator.iter_errors(dashboard);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    };
    let mut dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    for note in dashboard["annotations"]["list"].as_array_mut().expect("annotations") {
        let note = note.as_object_mut().expect("an annotation");
        note.retain(|key, _| !OF_PROMETHEUS.contains(&key.as_str()));
    }
    assert_eq!(off(&dashboard), Vec::<String>::new());
    // Each part is held: a panel, its options, its queries, a variable.
    let wrong = [
        ("/title", Value::from(1)),
        ("/panels/1/gridPos/w", Value::from("half")),
        ("/panels/1/options/no_such_option", Value::from(1)),
        ("/panels/1/targets/0/no_such_key", Value::from(1)),
        ("/templating/list/0/type", Value::from("no such type")),
    ];
    for (place, value) in wrong {
        let mut other = dashboard.clone();
        let (parent, key) = place.rsplit_once('/').expect("a place");
        let parent = other.pointer_mut(parent).expect(place).as_object_mut().expect(place);
        parent.insert(key.to_owned(), value);
        assert_ne!(off(&other), Vec::<String>::new(), "{place}");
    }
}
