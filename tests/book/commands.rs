//! The chapters of docs/config.md about the command line, from its definition.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};
use consul_redis::cli::Cli;

use crate::overrides::OVERRIDES;

/// A flag with its variable; what is no flag is a variable.
pub fn names(by: &str) -> Vec<String> {
    let command = Cli::command();
    let flag = command
        .get_arguments()
        .find(|arg| format!("--{}", arg.get_long().unwrap_or_default()) == by);
    let variable = flag.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    [by.to_owned()].into_iter().chain(variable).collect()
}

/// All that is to be said of the command line.
pub fn chapter() -> String {
    let mut command = Cli::command();
    let mut text = String::from(
        "\n## Options of every command\n\nEvery command takes these, before or after its name, and heeds those that concern it. \
         Passwords are never given on the command line.\n\n",
    );
    let global: Vec<&Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).collect();
    text.push_str("| flag | variable | default | what it means | key |\n|---|---|---|---|---|\n");
    for arg in &global {
        let by = format!("--{}", arg.get_long().expect("a long form"));
        let keys = OVERRIDES.iter().filter(|row| row.by == by).map(|row| format!("`{}`", row.key));
        let keys = keys.collect::<Vec<_>>().join(", ");
        writeln!(text, "{} {keys} |", row(arg)).expect("text");
    }
    text.push_str("\n## Commands\n");
    let exit_codes = command.get_after_help().expect("exit codes").to_string();
    for sub in command.get_subcommands_mut() {
        text.push_str(&about(sub));
    }
    text.push_str("\n## Exit codes\n\n| code | meaning |\n|---:|---|\n");
    for line in exit_codes.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').expect("a code and its meaning");
        writeln!(text, "| {code} | {} |", meaning.trim()).expect("text");
    }
    text
}

/// One command.
fn about(command: &mut Command) -> String {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace("  ", " ");
    let name = command.get_name();
    let said = command.get_about().expect("a command says what it does");
    let own: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_global_set()).collect();
    let mut text = format!("\n### `{name}`\n\n{said}.\n\n```text\nconsul-redis {usage}\n```\n");
    if !own.is_empty() {
        text.push_str("\n| argument | variable | default | what it means |\n|---|---|---|---|\n");
        for arg in own {
            writeln!(text, "{}", row(arg)).expect("text");
        }
    }
    text
}

/// The first four cells of an argument's row.
fn row(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = arg.get_num_args().is_none_or(|count| count.takes_values())
        && arg.get_action().takes_values();
    let value = if takes { values.join(" ") } else { String::new() };
    let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    let name = match arg.get_long() {
        None => value,
        Some(long) if value.is_empty() => format!("--{long}"),
        Some(long) if arg.is_require_equals_set() => format!("--{long}[={value}]"),
        Some(long) if optional => format!("--{long} [{value}]"),
        Some(long) => format!("--{long} {value}"),
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let help = arg.get_long_help().or(arg.get_help()).expect("an argument says what it means");
    let help =
        help.to_string().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    // Help puts what is no constant into words.
    let (meaning, words) = match help.split_once(" [default: ") {
        Some((meaning, rest)) => (meaning.to_owned(), rest.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let literal: Vec<String> =
        arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
    assert!(words.is_empty() || literal.is_empty(), "{name}: {words} or {literal:?}?");
    let words = if takes { literal.concat() + &words } else { words };
    let possible: Vec<String> =
        arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
    let possible = if takes && !possible.is_empty() {
        format!(" ({})", possible.join(", "))
    } else {
        String::new()
    };
    format!(
        "| {short}`{}` | {} | {words} | {meaning}{possible} |",
        name.replace('|', "\\|"),
        variable.unwrap_or_default(),
    )
}
