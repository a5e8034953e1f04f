//! Words of servers, as they may be shown: a terminal that prints them, a log or a page must not obey what is in them
//! (escape sequences, carriage returns that hide a line, marks that turn the direction of writing). What is taken out is
//! shown as Rust writes it: `\u{1b}`.
//!
//! Every answer of a Redis, a Sentinel or Consul comes through here, so that nothing behind it has to think of it.

use std::borrow::Cow;

pub use crate::core::brief::brief;

/// A terminal may obey it, wherever it stands. Lines end as servers end them.
fn is_obeyed(c: char) -> bool {
    match c {
        '\n' | '\r' | '\t' => false,
        // Marks, embeddings, overrides and isolates: what stands behind them is shown in another order.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        // Other ends of a line, and of a paragraph.
        '\u{2028}' | '\u{2029}' => true,
        c => c.is_control(),
    }
}

/// The text, with what a terminal would obey written out.
pub fn harmless(text: Cow<'_, str>) -> Cow<'_, str> {
    // A carriage return ends a line with what follows; alone it goes back over the line that it stands in.
    let returns = |rest: &str| rest.starts_with('\r') && !rest.starts_with("\r\n");
    let has_return = || text.match_indices('\r').any(|(at, _)| text.get(at..).is_some_and(returns));
    if !text.contains(is_obeyed) && !has_return() {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for (at, c) in text.char_indices() {
        if is_obeyed(c) || text.get(at..).is_some_and(returns) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// The same of what is one line: what would begin another one is written out as well.
pub fn one_line(text: Cow<'_, str>) -> Cow<'_, str> {
    let ends = |c: char| matches!(c, '\n' | '\r');
    let text = harmless(text);
    if text.contains(ends) { text.replace('\r', "\\r").replace('\n', "\\n").into() } else { text }
}

/// JSON whose strings have what a terminal would obey written out, and what would begin another line, whether it stood
/// there as it is or as an escape. What is no UTF-8 is no JSON, before and after.
pub fn harmless_json(json: &[u8]) -> Cow<'_, [u8]> {
    let Ok(mut rest) = std::str::from_utf8(json) else {
        let part = |chunk: std::str::Utf8Chunk<'_>| {
            [harmless(chunk.valid().into()).as_bytes(), chunk.invalid()].concat()
        };
        return json.utf8_chunks().flat_map(part).collect();
    };
    if !rest.contains(is_obeyed)
        && !["\\u", "\\b", "\\f", "\\n", "\\r"].iter().any(|escape| rest.contains(escape))
    {
        return json.into();
    }
    let mut shown = String::with_capacity(rest.len() + 8);
    while let Some(at) = rest.find(|c| c == '\\' || is_obeyed(c)) {
        let (plain, found) = rest.split_at(at);
        shown.push_str(plain);
        let mut after = found.chars();
        match (after.next(), after.clone().next()) {
            (Some('\\'), Some(kind)) if !is_obeyed(kind) => {
                after.next();
                let obeyed = match kind {
                    'u' => is_obeyed_code(after.as_str()),
                    kind => matches!(kind, 'b' | 'f' | 'n' | 'r'),
                };
                // A backslash in a string of JSON is written twice.
                shown.push_str(if obeyed { "\\\\" } else { "\\" });
                shown.push(kind);
            }
            (Some(obeyed), _) if is_obeyed(obeyed) => {
                shown.push('\\');
                shown.extend(obeyed.escape_default());
            }
            (other, _) => shown.extend(other),
        }
        rest = after.as_str();
    }
    shown.push_str(rest);
    shown.into_bytes().into()
}

/// The four digits of an escape are those of a character that a terminal may obey.
fn is_obeyed_code(digits: &str) -> bool {
    let code = digits.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let obeyed = |c: char| is_obeyed(c) || matches!(c, '\n' | '\r');
    code.and_then(char::from_u32).is_some_and(obeyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let shown = |text: &'static str| harmless(text.into());
        assert_eq!(shown("ERR \u{1b}[2J\u{7} gone\r\n"), "ERR \\u{1b}[2J\\u{7} gone\r\n");
        // The one-character form of an escape sequence.
        assert_eq!(shown("\u{9b}2J"), "\\u{9b}2J");
        assert!(matches!(shown("maître\tredis\r\n"), Cow::Borrowed(_)), "nothing is copied");
        // It hides what stands before it in the line.
        assert_eq!(shown("role:master\rrole:slave\r\n"), "role:master\\rrole:slave\r\n");
        // From there on from right to left, and another line.
        assert_eq!(shown("a\u{202e}b\u{2028}c"), "a\\u{202e}b\\u{2028}c");
        assert_eq!(one_line("one\ntwo\r\nthree\rfour".into()), "one\\ntwo\\r\\nthree\\rfour");
    }

    #[test]
    fn so_it_is_in_the_strings_of_json() {
        let read = |json: &str| -> String {
            let json = harmless_json(json.as_bytes()).into_owned();
            serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {json:?}"))
        };
        assert_eq!(read(r#""a\u001b[31mb\u0007""#), r"a\u001b[31mb\u0007");
        assert_eq!(read(r#""\b\f""#), r"\b\f");
        // A backslash before it was one, and is.
        assert_eq!(read(r#""\\u001b \\\u001b \\b""#), r"\u001b \\u001b \b");
        assert_eq!(read("\"\u{9b}2J \u{7f}\""), r"\u{9b}2J \u{7f}");
        // What was written out before stays as it is.
        assert_eq!(read("\"\\\\u{1b} \u{9b}\""), r"\u{1b} \u{9b}");
        assert_eq!(read(r#""\u00e9\ttwo \ud83d\ude00""#), "é\ttwo 😀");
        // A name is no line of its own.
        assert_eq!(read(r#""a\nb\rc\u000ad\u000De""#), r"a\nb\rc\u000ad\u000De");
        // What stands between strings stays.
        assert_eq!(read("\r\n\"a\u{202e}b\"\r"), r"a\u{202e}b");
        assert!(matches!(harmless_json(b"{\"a\": [1, \"b\"]}"), Cow::Borrowed(_)));
        // What ends in the middle of an escape is no JSON before and after.
        for cut in ["\"\\", "\"\\u", "\"\\u00", "\\"] {
            assert!(serde_json::from_slice::<String>(&harmless_json(cut.as_bytes())).is_err());
        }
        // Which is read as text all the same, where it is no record.
        assert_eq!(harmless_json(b"\xff\x1b[2J").as_ref(), b"\xff\\u{1b}[2J");
    }
}
