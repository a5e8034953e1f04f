//! Hash slots: ranges of them.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many hash slots a Redis Cluster has.
pub const SLOTS: usize = 16_384;

/// Hash slots from the first to the last of them, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotRange {
    first: u16,
    last: u16,
}

impl SlotRange {
    /// These slots; `None` where the first comes after the last, or the last is none of the [`SLOTS`].
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last && usize::from(last) < SLOTS).then_some(Self { first, last })
    }

    /// The first of them.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last of them.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many they are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// All of the other one's slots are among these.
    pub fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl FromStr for SlotRange {
    type Err = String;

    /// As `CLUSTER NODES` writes them: `0-5460`, or `7` for one.
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => Self::new(first, last),
            _ => None,
        };
        range.ok_or_else(|| format!("`{text}` is no range of slots"))
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Serialize for SlotRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Adds slots to a list of them in order that has none after these: to its last range where they follow it.
pub(crate) fn append(ranges: &mut Vec<SlotRange>, more: SlotRange) {
    match ranges.last_mut() {
        Some(last) if usize::from(last.last) + 1 == usize::from(more.first) => {
            last.last = more.last
        }
        _ => ranges.push(more),
    }
}

/// How many slots these ranges hold, which have none in common.
pub fn count(ranges: &[SlotRange]) -> usize {
    ranges.iter().map(|range| range.count()).sum()
}

/// The slots that are in both lists.
pub fn common(one: &[SlotRange], other: &[SlotRange]) -> Vec<SlotRange> {
    let both =
        |a: &SlotRange, b: &SlotRange| SlotRange::new(a.first.max(b.first), a.last.min(b.last));
    let mut found: Vec<SlotRange> =
        one.iter().flat_map(|a| other.iter().filter_map(move |b| both(a, b))).collect();
    found.sort();
    found
}

/// `0-5460 7000-7002`, or `none`.
pub fn in_words(ranges: &[SlotRange]) -> String {
    match ranges {
        [] => "none".to_owned(),
        ranges => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}
