//! What the handbook shows can be typed: every command line of ours parses, every piece of a config file is accepted,
//! and every link leads to a file, and to a heading in it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::overrides::{deaf, resolved};
use crate::{read, root};

/// Every document, generated or not.
fn documents() -> Vec<String> {
    let of = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root().join(dir)).expect(dir);
        let names = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        let pages = names.filter(|name| name.ends_with(".md"));
        pages.map(|name| if dir.is_empty() { name } else { format!("{dir}/{name}") }).collect()
    };
    [of(""), of("docs"), of("docs/how-to"), of("docs/tutorials"), of("docs/facts"), of(".github")]
        .concat()
}

/// The fenced blocks of a language, without what they are indented by.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match &mut block {
            None if bare == format!("```{language}") => {
                block = Some((line.len() - bare.len(), String::new()))
            }
            Some((_, text)) if bare == "```" => {
                blocks.push(std::mem::take(text));
                block = None;
            }
            Some((indent, text)) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// Our command lines in a piece of shell: from the program's name on, without comments and what a shell adds.
fn commands(block: &str) -> Vec<Vec<String>> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Variables may stand before it.
            let at = words.iter().position(|word| !word.contains('='))?;
            let ours = words.get(at)?.ends_with("consul-redis").then(|| &words[at + 1..])?;
            let typed = ours
                .iter()
                .take_while(|word| !["|", "||", ">", "2>", "&&", ";", "&"].contains(word));
            Some(typed.map(|word| word.trim_matches('"').to_owned()).collect())
        })
        .collect()
}

#[test]
fn every_command_line_parses() {
    let mut count = 0;
    for document in documents() {
        for words in blocks(&read(&document), "sh").iter().flat_map(|block| commands(block)) {
            count += 1;
            // `...` stands for what is left out.
            let words = words.into_iter().filter(|word| word != "...");
            // A variable of the shell holds an address.
            let variable = |word: &String| word.starts_with('$');
            let words: Vec<String> = words
                .map(|word| if variable(&word) { "10.0.0.1:6379".to_owned() } else { word })
                .collect();
            let line = [vec!["consul-redis".to_owned()], words].concat();
            if let Err(error) = deaf().try_get_matches_from(&line) {
                // --help and --version are no mistakes.
                assert!(!error.use_stderr(), "{document}: {}\n{error}", line.join(" "));
            }
        }
    }
    assert!(count > 30, "only {count} command lines were found");
}

#[test]
fn every_piece_of_a_config_file_is_accepted() {
    let mut count = 0;
    for document in documents() {
        for block in blocks(&read(&document), "toml") {
            if !block.contains('[') || document == "README.md" && block.contains("[dependencies]") {
                continue;
            }
            count += 1;
            resolved(&block, &[], &[]);
        }
    }
    assert!(count > 5, "only {count} pieces were found");
}

/// The anchors of a document's headings, as they are shown on the web.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let dir = Path::new(&document).parent().expect("a directory");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
            let path =
                if file.is_empty() { Path::new(&document).to_owned() } else { dir.join(file) };
            assert!(root().join(&path).exists(), "{document}: {link}");
            if let Some(anchor) = anchor.filter(|_| path.extension().is_some_and(|end| end == "md"))
            {
                let there = std::fs::read_to_string(root().join(&path)).expect("a document");
                assert!(
                    anchors(&there).contains(anchor),
                    "{document}: {link}: {:?}",
                    anchors(&there)
                );
            }
        }
    }
}

/// The site has every page, and each page of a task or a lesson is named where a reader looks for it.
#[test]
fn every_page_is_in_the_book() {
    let pages =
        documents().into_iter().filter_map(|path| Some(path.strip_prefix("docs/")?.to_owned()));
    let pages: BTreeSet<String> = pages.filter(|page| page != "SUMMARY.md").collect();
    let linked = |path: &str| -> BTreeSet<String> {
        let text = read(path);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.filter_map(|link| link.split('#').next()).map(str::to_owned).collect()
    };
    assert_eq!(linked("docs/SUMMARY.md"), pages);
    let index = linked("docs/index.md");
    let tasks =
        pages.iter().filter(|page| page.starts_with("how-to/") || page.starts_with("tutorials/"));
    let missing: Vec<&String> = tasks.filter(|page| !index.contains(*page)).collect();
    assert!(missing.is_empty(), "docs/index.md has no {missing:?}");
}

/// CONTRIBUTING.md and ARCHITECTURE.md name files that exist.
#[test]
fn every_path_that_a_newcomer_is_sent_to_exists() {
    let starts =
        ["src/", "tests/", "docs/", "contrib/", "consul/", "scripts/", "templates/", "core/"];
    // Other hands write these.
    let coming = ["docs/release.md"];
    for document in ["CONTRIBUTING.md", "ARCHITECTURE.md"] {
        let text = read(document);
        let words = text.split('`').skip(1).step_by(2);
        for word in words.filter(|word| starts.iter().any(|start| word.starts_with(start))) {
            if word.contains(['*', '{', ' ', '<']) || coming.contains(&word) {
                continue;
            }
            let path = word.split(',').next().unwrap_or_default().trim_end_matches('/');
            let exists = |path: &str| {
                let path = root().join(path);
                path.exists() || path.with_extension("rs").exists()
            };
            assert!(exists(path) || exists(&format!("src/{path}")), "{document}: {word}");
        }
    }
}

/// Every metric and every problem has something to do about it.
#[test]
fn every_metric_and_problem_says_what_to_do() {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells: Vec<Vec<&str>> =
        rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    assert!(cells.len() > 40, "{}", cells.len());
    for row in cells {
        // What is labelled by nothing has an empty cell for it.
        let last = row.last().copied().unwrap_or_default();
        assert!(
            row.len() >= 3 && last.len() > 5 && row.iter().skip(2).all(|cell| !cell.is_empty()),
            "{row:?}"
        );
    }
}
