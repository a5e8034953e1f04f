//! The core is pure. What it depends on decides that, and the compiler holds it; here is what neither holds: that it
//! depends on nothing else, and that it leaves alone what the standard library has for I/O, time and chance.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What may be built in: values, their forms, and times that are handed in.
const DEPENDENCIES: [&str; 5] = ["jiff", "serde", "serde_json", "thiserror", "xxhash-rust"];
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
        .filter(|n| !n.is_empty() && !n.starts_with('#'))
        .collect();
    assert_eq!(names, DEPENDENCIES);
}

/// Which modules of a crate each one takes something from, by their paths. What is in one of `whole` is one module.
fn imports(src: &Path, whole: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let path_of = |path: &Path| {
        let below = path.strip_prefix(src).expect("a source file").to_string_lossy().into_owned();
        let below = below.trim_end_matches(".rs").trim_end_matches("/mod");
        below.replace('/', "::")
    };
    let module_of = |path: &str| {
        let first = path.split("::").next().unwrap_or_default();
        if whole.contains(&first) { first.to_owned() } else { path.to_owned() }
    };
    let files: Vec<(PathBuf, String)> = sources(src)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .filter(|path| !path.ends_with("lib.rs") && !path.ends_with("main.rs"))
        .map(|path| (path.clone(), path_of(&path)))
        .collect();
    let modules: BTreeSet<&str> = files.iter().map(|(_, path)| path.as_str()).collect();
    // The longest part of a path that is a module: what follows is in it.
    let taken = |path: &str| {
        let mut path = path;
        loop {
            if modules.contains(path) {
                return Some(module_of(path));
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, path) in &files {
        let text = std::fs::read_to_string(file).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code
            .lines()
            .flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"])
            .collect();
        let own = module_of(path);
        let found = imports.entry(own.clone()).or_default();
        let parent = path.rsplit_once("::").map(|(parent, _)| format!("{parent}::"));
        for (start, base) in [("crate::", String::new()), ("super::", parent.unwrap_or_default())] {
            for rest in code.split(start).skip(1) {
                let words = rest.split(|c: char| c != '_' && c != ':' && !c.is_alphanumeric());
                let words = words.take(1).collect::<String>();
                let path = format!("{base}{}", words.trim_end_matches(':'));
                found.extend(taken(&path).filter(|taken| *taken != own));
            }
        }
    }
    imports
}

/// Those that take something from one another.
fn circles(mut left: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    // Those that take nothing from any that is left go, until none does: the rest takes from itself.
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, from| !from.is_disjoint(&names));
        left.values_mut().for_each(|from| from.retain(|name| names.contains(name)));
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn imports_of_the_core_go_one_way() {
    // Directories that are one module each.
    let all = imports(&root().join("src"), &["doctor", "group"]);
    assert!(all.values().map(BTreeSet::len).sum::<usize>() > 100, "{all:?}");
    let left = circles(all);
    assert!(left.is_empty(), "circles: {left:#?}");
}

#[test]
fn imports_of_the_program_go_one_way() {
    let all = imports(&root().join("../src"), &[]);
    assert!(all.values().map(BTreeSet::len).sum::<usize>() > 200, "{all:?}");
    let left = circles(all);
    assert!(left.is_empty(), "circles, and what takes from them: {left:#?}");
}

#[test]
fn a_circle_is_found() {
    let take = |name: &str, from: &[&str]| {
        (name.to_owned(), from.iter().map(|name| (*name).to_owned()).collect())
    };
    let all = [take("a", &["b"]), take("b", &["c"]), take("c", &["b"]), take("d", &[])];
    let left = circles(BTreeMap::from(all));
    assert_eq!(left.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
}

/// A name of a type means one thing. These two are one thing in two forms: what Consul holds, and what other programs are
/// given of it.
const TWO_FORMS: [&str; 1] = ["Writer"];

#[test]
fn no_two_types_have_one_name() {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in [root().join("src"), root().join("../src")].iter().flat_map(|dir| sources(dir)) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for line in code.lines() {
            let words = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let words = words.trim_start_matches("pub(super) ");
            let kinds = ["struct ", "enum ", "trait ", "type "];
            let Some(name) = kinds.iter().find_map(|kind| words.strip_prefix(kind)) else {
                continue;
            };
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            found.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    assert!(found.len() > 300, "only {} types: what is read?", found.len());
    found.retain(|name, at| at.len() > 1 && !TWO_FORMS.contains(&name.as_str()));
    assert!(found.is_empty(), "{found:#?}");
}
