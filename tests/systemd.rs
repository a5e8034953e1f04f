//! contrib/systemd: what systemd itself says of the units, and how much they are exposed, as docs/packages.md states
//! it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consul_redis::lab::tools;

const UNIT: &str = "contrib/systemd/consul-redis.service";
const DROP_IN: &str = "contrib/systemd/templates.conf";
/// Where the unit has the program.
const INSTALLED: &str = "/usr/bin/consul-redis";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn analyze(args: &[&str], unit: &Path) -> Output {
    let tool =
        tools::systemd_analyze().expect("systemd-analyze, as `scripts/tools.sh tests` gets it");
    let mut command = Command::new(&tool.path);
    if let Some(libraries) = &tool.library_path {
        // Unpacked beside a system without systemd: its own units are there too.
        let units = libraries.join("../../../lib/systemd/system");
        command.env("LD_LIBRARY_PATH", libraries).env("SYSTEMD_UNIT_PATH", units);
    }
    command.env("SYSTEMD_COLORS", "0").args(args).arg(unit).output().expect("systemd-analyze runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The unit under a name, with the program of this build.
fn unit(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let text = read(UNIT);
    assert_eq!(text.matches(INSTALLED).count(), 1, "started");
    std::fs::write(&path, text.replace(INSTALLED, env!("CARGO_BIN_EXE_consul-redis")))
        .expect("a file");
    path
}

fn add_drop_in(unit: &Path, text: &str) {
    let dir = PathBuf::from(format!("{}.d", unit.display()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("drop-in.conf"), text).expect("a file");
}

/// How exposed the service is, from 0 to 10.
fn exposure(unit: &Path) -> String {
    let output = analyze(&["security", "--offline=true", "--no-pager"], unit);
    let text = said(&output);
    let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or(&text);
    let after = line.split(": ").nth(1).unwrap_or_else(|| panic!("{text}"));
    after.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn systemd_accepts_the_unit_and_its_template() {
    for name in ["consul-redis.service", "consul-redis@.service"] {
        let dir = tempfile::tempdir().expect("a directory");
        let unit = unit(dir.path(), name);
        for drop_in in [None, Some(read(DROP_IN))] {
            if let Some(text) = drop_in {
                add_drop_in(&unit, &text);
            }
            let output = analyze(&["verify", "--man=no"], &unit);
            assert!(output.status.success(), "{name}: {}", said(&output));
            let said = said(&output);
            // Of systemd's own units, where they are not in their place.
            let about_ours = said.lines().filter(|line| !line.starts_with("Suspicious symlink "));
            assert_eq!(about_ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{name}");
        }
    }
}

#[test]
fn a_mistake_in_the_unit_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let unit = unit(dir.path(), "consul-redis.service");
    add_drop_in(&unit, "[Service]\nDynamicUsers=yes\n");
    let output = analyze(&["verify", "--man=no"], &unit);
    assert!(said(&output).contains("Unknown key 'DynamicUsers'"), "{}", said(&output));
}

#[test]
fn the_exposure_is_what_the_document_says() {
    let document = read("docs/packages.md");
    let dir = tempfile::tempdir().expect("a directory");
    let unit = unit(dir.path(), "consul-redis.service");
    let stated = |exposure: &str, sentence: &str| {
        let sentence = sentence.replace("{}", exposure);
        assert!(document.contains(&sentence), "docs/packages.md does not say: {sentence}");
    };
    stated(&exposure(&unit), "says exposure {} (0 is best");
    add_drop_in(&unit, &read(DROP_IN));
    stated(&exposure(&unit), "and exposure is {}. Or");
    let closed = document.split("```ini").nth(1).and_then(|block| block.split("```").next());
    add_drop_in(&unit, closed.expect("the first drop-in of the document"));
    stated(&exposure(&unit), "brings exposure down to {}:");
}
