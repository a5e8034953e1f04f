//! .github: workflows, forms and the rest are what their schemas say, call only make targets that exist, and name files
//! that exist.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the schema says against a file.
fn off_schema(schema: &str, value: &Value) -> Vec<String> {
    let schema: Value =
        serde_json::from_str(&read(&format!("tests/fixtures/github/{schema}.json"))).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn files(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(dir)).expect(dir);
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    names.map(|name| format!("{dir}/{name}")).collect()
}

#[test]
fn every_file_is_as_its_schema_says() {
    let workflows = files(".github/workflows");
    assert!(workflows.len() >= 3, "{workflows:?}");
    let forms = files(".github/ISSUE_TEMPLATE");
    let (config, forms): (Vec<_>, Vec<_>) =
        forms.into_iter().partition(|f| f.ends_with("config.yml"));
    let all = workflows.iter().map(|file| ("github-workflows", file.clone()));
    let all = all.chain(forms.into_iter().map(|file| ("github-issue-forms", file)));
    let all = all.chain(config.into_iter().map(|file| ("github-issue-config", file)));
    let all = all.chain([("dependabot", ".github/dependabot.yml".to_owned())]);
    for (schema, file) in all {
        let mut value = yaml(&file);
        assert_eq!(off_schema(schema, &value), Vec::<String>::new(), "{file}");
        // A schema that takes anything would hold nothing.
        value.as_object_mut().expect("a table").insert("no_such_key".to_owned(), Value::Null);
        assert_ne!(off_schema(schema, &value), Vec::<String>::new(), "{file}: {schema}");
    }
}

#[test]
fn workflows_call_make_targets_that_exist() {
    let makefile = read("Makefile");
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).expect("targets");
    let targets: Vec<&str> = phony.split(' ').collect();
    let mut called = Vec::new();
    for file in files(".github/workflows") {
        let workflow = yaml(&file);
        for (name, job) in workflow["jobs"].as_object().expect("jobs") {
            assert!(job["timeout-minutes"].is_number(), "{file}: {name} has no end");
            for step in job["steps"].as_array().expect("steps") {
                let run = step["run"].as_str().unwrap_or_default();
                let make = run.lines().filter_map(|line| line.trim().strip_prefix("make "));
                called.extend(make.flat_map(str::split_whitespace).map(str::to_owned));
            }
        }
        assert!(workflow["permissions"].is_object(), "{file}: rights are the least");
    }
    for target in &called {
        assert!(targets.contains(&target.as_str()), "{target} is no target");
    }
    for target in ["test", "test-versions", "dist", "book"] {
        assert!(called.iter().any(|one| one == target), "no workflow calls {target}");
    }
}

/// One account, in every place that names it.
#[test]
fn the_owner_is_the_same_everywhere() {
    let manifest = read("Cargo.toml");
    let urls = manifest.split("https://github.com/").skip(1);
    let owners: Vec<&str> = urls.filter_map(|rest| rest.split('/').next()).collect();
    assert_eq!(owners.len(), 2, "repository and homepage");
    for package in [&manifest, &read("core/Cargo.toml")] {
        for key in
            ["repository.workspace = true", "homepage.workspace = true", "documentation = \""]
        {
            assert!(package.contains(&format!("\n{key}")), "{key}: {package}");
        }
    }
    let code = read(".github/CODEOWNERS");
    for owner in owners {
        assert!(code.lines().any(|line| line == format!("* @{owner}")), "{owner}: {code}");
    }
    assert!(read("Makefile").contains("\nowner:\n"));
}

#[test]
fn a_bug_report_asks_for_what_the_commands_show() {
    let form = read(".github/ISSUE_TEMPLATE/bug.yml");
    for command in ["status --json", "doctor --json", "support-bundle", "--version"] {
        assert!(form.contains(&format!("consul-redis {command}")), "{command}");
    }
}
