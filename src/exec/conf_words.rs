//! A line of `redis.conf` in its words, as the servers themselves take it apart.

/// The words of a line of a config, as Redis and Sentinel take it apart: between `"` with escapes, between `'` with
/// one, and a quote that is closed ends the word. None of a comment; `None` of a line that they refuse to start with.
pub fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split('\0').next().unwrap_or_default();
    let mut rest = line.trim_matches([' ', '\t', '\r', '\n']).as_bytes();
    let mut words = Vec::new();
    if rest.first() == Some(&b'#') {
        return Some(words);
    }
    loop {
        let blanks = rest.iter().take_while(|byte| is_space(**byte)).count();
        rest = rest.get(blanks..)?;
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = word(rest)?;
        words.push(String::from_utf8_lossy(&word).into_owned());
        rest = after;
    }
}

/// What C's `isspace` takes for a blank.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

/// The first word, and what stands after it (`sdssplitargs` of Redis).
fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut quote = None;
    loop {
        let step = match (quote, rest) {
            (None, [] | [b' ' | b'\n' | b'\r' | b'\t', ..]) => return Some((word, rest)),
            // A quote that is not closed.
            (Some(_), []) => return None,
            (Some(b'"'), [b'\\', b'x', high, low, ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digits = [*high, *low];
                word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                4
            }
            (Some(b'"'), [b'\\', escaped, ..]) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                2
            }
            (Some(b'\''), [b'\\', b'\'', ..]) => {
                word.push(b'\'');
                2
            }
            (Some(open), [close, after @ ..]) if open == *close => {
                let ends = after.first().is_none_or(|next| is_space(*next));
                return ends.then_some((word, after));
            }
            (None, [open @ (b'"' | b'\''), ..]) => {
                quote = Some(*open);
                1
            }
            (_, [plain, ..]) => {
                word.push(*plain);
                1
            }
        };
        rest = rest.get(step..)?;
    }
}
