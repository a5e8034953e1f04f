//! What the documents say of the program is true of the program.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "shared/cures.rs"]
mod cures;

use consul_redis::core::cluster::shown::ClusterProblemCode;
use consul_redis::core::doctor::FindingCode;
use consul_redis::core::shown::status::ProblemCode;
use consul_redis::http::metrics::names;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A file, or all files below a directory.
fn files_below(path: &Path, found: &mut Vec<PathBuf>) {
    match std::fs::read_dir(path) {
        Ok(entries) => {
            entries.for_each(|entry| files_below(&entry.expect("an entry").path(), found));
        }
        Err(_) => found.push(path.to_owned()),
    }
}

/// Runs the program in an empty environment; its exit code and all that it printed.
fn run(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_consul-redis"))
        .args(args)
        .env_clear()
        // Named in the example.
        .env("REDIS_PASSWORD", "secret")
        .output()
        .expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The keys of one table, from the program's own error about a key that does not exist.
fn keys(table: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, format!("{table}\nno_such_key = 1\n")).expect("a file");
    let (code, error) = run(&["plan", "--config", path.to_str().expect("a path")]);
    assert_eq!(code, 64, "{error}");
    let expected = error.split("expected ").nth(1).unwrap_or_else(|| panic!("{table}: {error}"));
    let words = expected.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// Every table of the config file, with what must stand before its first unknown key.
const TABLES: [&str; 19] = [
    "",
    "[agent]",
    "[http]",
    "[log]",
    "[dns]",
    "[consul]",
    "[consul.login]",
    "[sentinels]",
    "[sentinels.login]",
    "[instances]",
    "[[group]]\nname = \"redis\"",
    "[group.settings]",
    "[group.weights]",
    "[group.login]",
    "[[cluster]]\nname = \"a\"\nseeds = [\"10.0.0.1:6379\"]",
    "[[redis]]\naddress = \"10.0.0.1:6379\"",
    "[[sentinel]]\naddress = \"10.0.0.1:26379\"",
    "[[template]]\nsource = \"a\"\ndestination = \"b\"",
    "[[notify]]\nname = \"a\"\ncommand = [\"b\"]",
];

/// A table below `[[group]]` needs its group.
fn with_parent(table: &str) -> String {
    if table.starts_with("[group.") {
        format!("[[group]]\nname = \"redis\"\n{table}")
    } else {
        table.to_owned()
    }
}

#[test]
fn every_config_key_is_in_its_document_and_in_the_example() {
    let (page, example) = (read("docs/config.md"), read("docs/consul-redis.toml"));
    let mut missing = Vec::new();
    let mut count = 0;
    for table in TABLES {
        for key in keys(&with_parent(table)) {
            count += 1;
            let is_in = |text: &str, form: &str| text.contains(&form.replace("KEY", &key));
            let documented =
                ["| `KEY` |", "`[KEY]`", "[[KEY]]"].iter().any(|form| is_in(&page, form));
            let forms = ["\nKEY = ", "[KEY]", ".KEY]"];
            let shown = forms.iter().any(|form| is_in(&example, form));
            if !documented || !shown {
                missing.push(format!("{table}: {key}: config.md {documented}, example {shown}"));
            }
        }
    }
    assert!(count > 50, "only {count} keys were found");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_example_is_accepted() {
    // Nothing of it exists here: the first thing that is read, the token's file, is what it stops at.
    let path = root().join("docs/consul-redis.toml");
    let (code, text) = run(&["plan", "--config", path.to_str().expect("a path")]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("/etc/consul-redis/consul-ca.pem"), "{text}");
}

/// Every metric that a text speaks of: of a histogram, its name without what queries add to it.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("consul_redis_"))
        .map(|word| {
            let stem = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            stem.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn the_metrics_are_those_of_their_document() {
    let document = read("docs/metrics.md");
    let names: BTreeSet<String> = names().into_iter().collect();
    assert!(names.len() > 20, "{names:?}");
    assert_eq!(metrics_in(&document), names);
    for code in ProblemCode::ALL {
        let row = format!("| `{}` | ", code.as_str());
        assert!(document.contains(&row), "problem {} has no row", code.as_str());
    }
}

#[test]
fn the_findings_are_those_of_their_document() {
    let document = read("docs/findings.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let cells: Vec<Vec<&str>> =
        rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    let documented: BTreeSet<(String, &str)> = cells
        .iter()
        .map(|cells| {
            assert_eq!(cells.len(), 4, "{cells:?}");
            assert!(cells[2..].iter().all(|cell| !cell.is_empty()), "{cells:?}");
            (cells[0].trim_matches('`').to_owned(), cells[1])
        })
        .collect();
    let code = |code: &FindingCode| (code.as_str().to_owned(), code.severity().as_str());
    assert_eq!(documented, FindingCode::ALL.iter().map(code).collect());
    assert_eq!(cells.len(), FindingCode::ALL.len(), "each once");
}

/// A Sentinel that is told of a primary has a `down-after-milliseconds` of 30 s and no login, until it is told those, too.
#[test]
fn what_tells_a_sentinel_of_a_primary_tells_it_the_settings() {
    let mut count = 0;
    for dir in ["docs", "docs/how-to", "docs/tutorials"] {
        for entry in std::fs::read_dir(root().join(dir)).expect(dir) {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|end| end != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a page");
            let blocks = text.split("```").skip(1).step_by(2);
            for block in blocks.filter(|block| block.to_lowercase().contains("sentinel monitor")) {
                count += 1;
                assert!(block.contains("down-after-milliseconds"), "{}: {block}", path.display());
            }
        }
    }
    assert!(count >= 3, "only {count} blocks were found");
}

/// Servers, agents and operators are named as such, in documents and in what the program prints.
#[test]
fn no_text_says_nobody_or_whoever() {
    const WORDS: [&str; 6] = ["nobody", "somebody", "whoever", "whomever", "everybody", "anybody"];
    let mut dirs = ["docs", "src", "core/src"].map(|dir| root().join(dir)).to_vec();
    let pages = ["README.md", "SECURITY.md", "ARCHITECTURE.md"].map(|page| root().join(page));
    let (mut files, mut found) = (pages.to_vec(), Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.extension().and_then(|end| end.to_str()) {
                // Notes of what was measured.
                _ if path.ends_with("docs/facts") => {}
                _ if path.is_dir() => dirs.push(path),
                Some("md" | "rs" | "js" | "html" | "json") => files.push(path),
                _ => {}
            }
        }
    }
    assert!(files.len() > 100, "only {} files", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a file");
        for (number, line) in text.lines().enumerate() {
            // The code of a finding, which stays.
            let line = line.to_lowercase().replace("nobody-eligible", "");
            let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            if words.any(|word| WORDS.contains(&word)) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A page that a reader takes in at once, on any screen.
#[test]
fn the_readme_is_a_page() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 130, "{} lines", readme.lines().count());
    let wide = readme.lines().filter(|line| line.chars().count() > 100).collect::<Vec<_>>();
    assert_eq!(wide, Vec::<&str>::new());
}

#[test]
fn every_file_that_a_document_links_to_exists() {
    for document in [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "docs/reference.md",
        "docs/day-two.md",
        "docs/operations.md",
        "docs/compare.md",
        "docs/glossary.md",
        "docs/race.md",
        "docs/guarantees.md",
        "docs/deploy.md",
        "docs/consumers.md",
        "docs/metrics.md",
        "docs/findings.md",
        "docs/clients.md",
        "docs/packages.md",
        "docs/release.md",
    ] {
        let text = read(document);
        let dir = Path::new(document).parent().expect("a directory");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(root().join(dir).join(file).exists(), "{document}: {link}");
        }
    }
    // The code map names modules that exist.
    for word in read("ARCHITECTURE.md").split('`').filter(|word| word.starts_with("src/")) {
        let path = root().join(word.trim_end_matches('/'));
        assert!(path.exists(), "ARCHITECTURE.md: {word}");
    }
}

#[test]
fn the_samples_in_the_document_are_those_that_are_run() {
    let document = read("docs/clients.md");
    let samples = [
        ("python", "examples/clients/redis_py.py"),
        ("python", "examples/clients/redis_py_cluster.py"),
        ("rust", "examples/redis_rs_cluster.rs"),
        ("js", "examples/clients/node_redis_cluster.js"),
        ("rust", "examples/redis_rs.rs"),
        ("js", "examples/clients/node_redis.js"),
    ];
    let scenarios = read("tests/e2e/clients.rs") + &read("tests/e2e/cluster_surfaces.rs");
    for (language, path) in samples {
        let block = format!("```{language}\n{}```\n", read(path));
        assert!(document.contains(&block), "{path} is not in docs/clients.md as it is");
        let name = Path::new(path).file_stem().expect("a name").to_string_lossy();
        assert!(scenarios.contains(&*name), "{path} is not run");
    }
}

#[test]
fn every_test_that_guarantees_names_exists() {
    let mut tests = String::new();
    let dirs = [
        "core/tests/rules",
        "core/tests/sim",
        "core/tests/cluster_sim",
        "core/tests/fleet_sim",
        "tests/e2e",
        "tests/netns",
    ];
    for dir in dirs {
        for entry in std::fs::read_dir(root().join(dir)).expect(dir) {
            let path = entry.expect("an entry").path();
            // What is beside them are snapshots.
            if path.is_file() {
                tests.push_str(&std::fs::read_to_string(path).expect("a test file"));
            }
        }
    }
    let text = read("docs/guarantees.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let names: BTreeSet<&str> = rows
        .flat_map(|line| line.split('|').skip(2))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let missing: Vec<&&str> =
        names.iter().filter(|name| !tests.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_flag_and_variable_of_exec_is_in_its_document() {
    let document = read("docs/deploy.md");
    let help = run(&["exec", "--help"]).1;
    let own = help.split("\nOptions:").nth(1).expect("options");
    let common = run(&["--help"]).1;
    let words: BTreeSet<&str> = own
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| word.starts_with("--") || word.starts_with("CONSUL_REDIS_"))
        .filter(|word| word.len() > 2 && !common.contains(*word))
        .collect();
    assert!(words.len() > 8, "{words:?}");
    let missing: Vec<&&str> = words.iter().filter(|word| !document.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Programs that read `status --json` know every code.
#[test]
fn the_schema_of_status_has_every_problem_code() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("docs/schemas/status.schema.json")).expect("JSON");
    let codes = schema.pointer("/items/oneOf/0/properties/problems/items/properties/code/enum");
    let ours: Vec<&str> = ProblemCode::ALL.into_iter().map(ProblemCode::as_str).collect();
    assert_eq!(codes, Some(&serde_json::json!(ours)));
}

/// The same of clusters, and the page has a row for each.
#[test]
fn every_problem_of_a_cluster_is_in_the_schema_and_on_the_page() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("docs/schemas/status.schema.json")).expect("JSON");
    let codes = schema.pointer("/items/oneOf/1/properties/problems/items/properties/code/enum");
    let ours: Vec<&str> =
        ClusterProblemCode::ALL.into_iter().map(ClusterProblemCode::as_str).collect();
    assert_eq!(codes, Some(&serde_json::json!(ours)));
    let page = read("docs/cluster.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: Vec<&str> = rows.filter(|code| ours.contains(code)).collect();
    assert_eq!(rows, ours, "a row each, worst first");
}

/// What is built into the program is there where the image is built.
#[test]
fn the_image_is_built_from_all_that_the_program_includes() {
    let mut includes = BTreeSet::new();
    let mut dirs = vec![root().join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let program = text.split("#[cfg(test)]").next().unwrap_or_default();
                let files = program
                    .split("include_str!(\"")
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next());
                includes.extend(
                    files.filter_map(|file| file.strip_prefix("../../")).map(str::to_owned),
                );
            }
        }
    }
    assert!(!includes.is_empty());
    let (docker, ignore) = (read("Dockerfile"), read(".dockerignore"));
    for file in includes {
        let dir = file.split('/').next().unwrap_or_default();
        assert!(docker.contains(&format!("COPY {dir} {dir}\n")), "{file}");
        assert!(ignore.contains(&format!("!{dir}\n")), "{file}");
    }
}

/// Each cure is carried out by a scenario, or there is a reason why it is not.
#[test]
fn every_finding_of_doctor_has_a_scenario_that_carries_out_its_cure() {
    let mut listed: Vec<&str> = cures::CURES.iter().map(|(code, _)| *code).collect();
    let ours: BTreeSet<&str> = FindingCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<&str>>(), ours);
    listed.dedup();
    assert_eq!(listed.len(), ours.len(), "a code is listed twice");
    for (code, cure) in cures::CURES {
        match cure {
            cures::Cure::NotHere(reason) => assert!(reason.len() > 20, "{code}: {reason}"),
            cures::Cure::CarriedOut(scenario) => {
                let (file, test) = scenario.split_once("::").expect("file::test");
                let text = read(&format!("tests/e2e/{file}.rs"));
                let begin = text.find(&format!("#[tokio::test]\nasync fn {test}("));
                let begin = begin.unwrap_or_else(|| panic!("{code}: no test {scenario}"));
                let test = text[begin..].split("\n}\n").next().unwrap_or_default();
                assert!(test.contains(&format!("\"{code}\"")), "{scenario} does not name {code}");
            }
        }
    }
}

/// Every variable that Consul's own tools read (its module `api`, `DefaultConfig`, and Go's proxies) is taken, or said
/// not to be.
#[test]
fn every_variable_of_consuls_tools_is_taken_or_refused_by_name() {
    let page = read("docs/how-to/consul-tls.md");
    let (taken, refused) = page.split_once("is not used: ").expect("what is not used");
    let code = read("src/config/resolver/consul.rs") + &read("src/cli.rs");
    for name in [
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_AUTH",
        "CONSUL_HTTP_SSL",
        "CONSUL_HTTP_SSL_VERIFY",
        "CONSUL_TLS_SERVER_NAME",
        "CONSUL_CACERT",
        "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
        "CONSUL_NAMESPACE",
        "CONSUL_PARTITION",
    ] {
        assert!(taken.contains(&format!("`{name}`")), "{name}");
        assert!(code.contains(&format!("\"{name}\"")), "{name}");
    }
    for name in [
        "CONSUL_GRPC_ADDR",
        "CONSUL_GRPC_CACERT",
        "CONSUL_GRPC_CAPATH",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ] {
        assert!(refused.contains(&format!("`{name}`")), "{name}");
    }
}

/// A resolver with a search domain tries others' names where a name has no dot at its end.
#[test]
fn names_in_commands_and_samples_are_absolute() {
    let domain = "service.consul";
    let mut seen = 0;
    let mut files = Vec::new();
    for path in ["README.md", "docker-compose.yml", "docs", "examples", "swarm", "scripts"] {
        files_below(&root().join(path), &mut files);
    }
    for path in files {
        let sample = path.components().any(|part| part.as_os_str() == "examples");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for line in text.lines().filter(|line| sample || line.contains("dig ")) {
            for (at, _) in line.match_indices(domain) {
                seen += 1;
                let rest = &line[at + domain.len()..];
                assert!(rest.starts_with('.'), "{}: {line}", path.display());
            }
        }
    }
    assert!(seen > 10, "{seen} names");
}

/// Scripts that read `doctor --json` know every code.
#[test]
fn the_schema_of_doctor_has_every_finding() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("docs/schemas/doctor.schema.json")).expect("JSON");
    let codes = schema.pointer("/items/properties/findings/items/properties/code/enum");
    let ours: Vec<&str> = FindingCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes, Some(&serde_json::json!(ours)));
}

#[test]
fn every_command_that_prints_json_has_a_schema_that_a_test_holds() {
    let help = run(&["--help"]).1;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let names = commands.filter(|line| !line.starts_with("   "));
    let with_json: BTreeSet<String> = names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help" && run(&[name, "--help"]).1.contains("--json"))
        .map(str::to_owned)
        .collect();
    let dir = std::fs::read_dir(root().join("docs/schemas")).expect("schemas");
    let files = dir.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let schemas = files.map(|name| name.trim_end_matches(".schema.json").to_owned());
    // That of the config file is for editors: tests/book holds it; that of an event, tests/e2e/notify.rs.
    let others = ["config-file", "event"];
    let schemas: BTreeSet<String> = schemas.filter(|name| !others.contains(&&**name)).collect();
    assert_eq!(with_json, schemas);
    let tests = ["scripts.rs", "cures.rs", "cluster.rs", "cluster_surfaces.rs"]
        .map(|name| read(&format!("tests/e2e/{name}")))
        .concat();
    let held = |name: &String| {
        let calls = ["json(&world, ", "json(world, ", "off_schema("];
        calls.iter().any(|call| tests.contains(&format!("{call}\"{name}\"")))
    };
    assert!(schemas.iter().all(held), "{schemas:?}");
}

/// A program is written from its schema alone.
#[test]
fn every_field_of_a_schema_says_what_it_is() {
    fn walk(schema: &serde_json::Value, at: &str, missing: &mut Vec<String>) {
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (name, property) in properties {
            let here = format!("{at}/{name}");
            if property["description"].as_str().is_none_or(|text| text.len() < 4) {
                missing.push(here.clone());
            }
            walk(property, &here, missing);
        }
        let forms = ["anyOf", "oneOf"].into_iter().filter_map(|of| schema[of].as_array()).flatten();
        forms
            .chain([&schema["items"]])
            .filter(|part| part.is_object())
            .for_each(|part| walk(part, at, missing));
    }
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(root().join("docs/schemas")).expect("schemas") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a schema");
        let schema: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(
            schema["description"].is_string() || schema["title"].is_string(),
            "{}",
            path.display()
        );
        walk(&schema, &path.display().to_string(), &mut missing);
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
