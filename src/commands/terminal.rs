//! How text is laid out for a person: colour, and columns that fit.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Changes of a history that `status` shows.
pub const HISTORY_SHOWN: usize = 5;
/// Between two columns.
const GAP: &str = "  ";
/// Where a text is cut.
const CUT: char = '…';
/// A terminal that is narrower than this is taken to be as wide.
const WIDTH_MIN: usize = 40;

/// Whether to colour, and how wide a line may be.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
    width: Option<usize>,
}

impl Style {
    /// Colour on a terminal, unless NO_COLOR says otherwise; and lines as wide as it is.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::plain();
        }
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Self { colour, width: width.map(|width| width.max(WIDTH_MIN)) }
    }

    /// No colour, and lines as long as they are.
    pub fn plain() -> Self {
        Self { colour: false, width: None }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Green, where colours are on.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Red, where colours are on.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// [`health`], with its colour.
    pub fn health(self, healthy: bool, degraded: bool) -> String {
        let said = health(healthy, degraded);
        if healthy && !degraded { self.good(said) } else { self.bad(said) }
    }

    /// Bold, where colours are on.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Dim, where colours are on.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// As much of a line without colour as fits.
    fn fit(self, line: &str) -> String {
        match self.width {
            Some(width) if line.chars().count() > width => {
                line.chars().take(width - 1).chain([CUT]).collect()
            }
            _ => line.to_owned(),
        }
    }
}

/// How a group or a cluster is.
pub fn health(healthy: bool, degraded: bool) -> &'static str {
    match (healthy, degraded) {
        (false, _) => "NOT HEALTHY",
        (true, true) => "degraded",
        (true, false) => "healthy",
    }
}

/// Rows with columns as wide as their widest cell, nothing after the last cell, and cut where the terminal ends.
/// Columns without anything in them are left out.
pub fn columns(text: &mut String, indent: &str, rows: Vec<Vec<String>>, style: Style) {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let len = |cell: &String| cell.chars().count();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(len).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .filter(|(_, width)| **width > 0)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let line = format!("{indent}{}", cells.join(GAP));
        let _ = writeln!(text, "{}", style.fit(line.trim_end()));
    }
}

/// How often the line of a [`Progress`] is drawn again.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What is being waited for, and for how long: a line on stderr, when that is a terminal. It goes when it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Waiting for this.
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        let line = ProgressBar::new_spinner().with_message(what);
        // The form is fixed, and so right.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            line.set_style(style);
        }
        line.enable_steady_tick(PROGRESS_EVERY);
        Self(line)
    }

    /// Still waiting; this is known by now.
    pub fn tell(&self, what: impl Into<Cow<'static, str>>) {
        self.0.set_message(what);
    }

    /// Waiting for something else now.
    pub fn now(&self, what: impl Into<Cow<'static, str>>) {
        self.0.set_message(what);
        self.0.reset_elapsed();
    }

    /// Writes to stdout what stays.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| println!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `3 s`, `12 min`, `5 h`, `9 days`.
pub fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// For programs.
///
/// # Errors
/// Never: what is shown has a JSON form.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// A value as one line of JSON.
///
/// # Errors
/// A [`Failure`] that no value of ours has.
pub fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let line = serde_json::to_string(value);
    line.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// One of many looks: on a terminal in the place of the last one, below the time; else after it.
///
/// # Errors
/// When the output is closed.
pub fn show(frame: &str, now: Timestamp, bare: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if bare {
        writeln!(out, "{frame}")?;
    } else if out.is_terminal() {
        // Home, each line cleared before it is written, and whatever is left below.
        let frame = frame.replace('\n', "\x1b[K\n");
        write!(out, "\x1b[H{now:.0}\x1b[K\n\x1b[K\n{frame}\x1b[J")?;
    } else {
        writeln!(out, "{now:.0}\n{frame}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_where_the_terminal_does() {
        let narrow = Style { colour: false, width: Some(20) };
        let rows = vec![
            vec!["10.0.0.5:6379".to_owned(), String::new(), "down, says a majority".to_owned()],
            vec!["é:1".to_owned(), String::new(), "up".to_owned()],
        ];
        let mut text = String::new();
        columns(&mut text, "  ", rows.clone(), narrow);
        assert_eq!(text, "  10.0.0.5:6379  do…\n  é:1            up\n");
        let mut whole = String::new();
        columns(&mut whole, "", rows, Style::plain());
        assert_eq!(whole, "10.0.0.5:6379  down, says a majority\né:1            up\n");
    }
}
