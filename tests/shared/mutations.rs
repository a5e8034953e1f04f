// What a stranger may make of an answer that a server really gives: inputs for the tests of what reads it. Included by
// tests of both crates.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What is put into an answer, or in the place of a number or a word of it.
const BITS: [&[u8]; 32] = [
    b"",
    b"0",
    b"-1",
    b"+7",
    b"65536",
    b"2147483648",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"1e400",
    b"NaN",
    b"null",
    b"\0",
    b"\x1b[2J",
    b"\x1b]0;owned\x07",
    b"\xc2\x9b1A",
    b"\xe2\x80\xae",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n",
    b"\r\n",
    b"\xff\xfe",
    b"\xc3\xa9",
    b"\\u001b\\n",
    b":",
    b",",
    b"\"",
    b"[[[[[[[[",
    b"{\"a\":",
    b"'",
];

/// One change of an answer.
#[derive(Debug, Clone)]
enum Change {
    /// It ends there.
    Cut(Index),
    /// A part of it is not there.
    Drop(Index, usize),
    /// A part of it comes twice.
    Double(Index, usize),
    /// Something stands there as well.
    Put(Index, &'static [u8]),
    /// A word or a number is another one.
    Word(Index, &'static [u8]),
    /// Two lines change places.
    Swap(Index, Index),
    /// A word is very long.
    Long(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let bits = || select(&BITS[..]);
    prop_oneof![
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..40_usize).prop_map(|(at, len)| Change::Drop(at, len)),
        1 => (at(), 1..400_usize).prop_map(|(at, len)| Change::Double(at, len)),
        2 => (at(), bits()).prop_map(|(at, bits)| Change::Put(at, bits)),
        6 => (at(), bits()).prop_map(|(at, bits)| Change::Word(at, bits)),
        1 => (at(), at()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => (at(), 1..3_000_usize).prop_map(|(at, len)| Change::Long(at, len)),
    ]
}

/// Where the words and numbers of it are.
fn words(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut begun) = (Vec::new(), None);
    for (at, byte) in bytes.iter().chain(b" ").enumerate() {
        match (byte.is_ascii_alphanumeric(), begun) {
            (true, None) => begun = Some(at),
            (false, Some(from)) => {
                found.push((from, at));
                begun = None;
            }
            _ => {}
        }
    }
    found
}

fn apply(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match change {
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Drop(at, len) => {
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
        }
        Change::Double(at, len) => {
            let at = at.index(bytes.len());
            let part = bytes[at..(at + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        Change::Put(at, bits) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, bits.iter().copied());
        }
        Change::Word(at, bits) => {
            let words = words(&bytes);
            if !words.is_empty() {
                let (from, to) = words[at.index(words.len())];
                bytes.splice(from..to, bits.iter().copied());
            }
        }
        Change::Swap(one, other) => {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            bytes = lines.concat();
        }
        Change::Long(at, len) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, std::iter::repeat_n(b'7', *len));
        }
    }
    bytes
}

/// A real answer after some changes, and at times bytes that are none at all.
pub fn hostile(answer: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let answer = answer.as_bytes().to_vec();
    let changed =
        vec(change(), 0..6).prop_map(move |changes| changes.iter().fold(answer.clone(), apply));
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..200)]
}

/// A line of a log, a terminal or a page may have it: no character that one would obey, and no more than it can hold.
pub fn is_showable(text: &str) -> bool {
    let turns = |c: char| matches!(u32::from(c), 0x61c | 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069);
    text.len() <= 4_000 && !text.chars().any(|c| c != '\t' && (c.is_control() || turns(c)))
}
