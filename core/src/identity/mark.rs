//! The mark in a data set: one small key, which says whose data it is.
//!
//! An append-only file does not hold how its data's history is called (`docs/facts/sentinel.md` 8). A key is data like
//! any other: it is in the file, and comes back with it. Agents write it on the published writer
//! ([`crate::duty::mark`]), and its replicas have it from there. Any client that may write may change it, so a mark
//! that is read is one sign among others, and its history must be one that the record knows: a replication id is
//! random, and no other group has the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::address::GroupName;
use crate::identity::ids::ReplId;
use crate::published::record::Record;

/// Longest name of the key that is accepted, in bytes.
pub const MARK_KEY_LEN_MAX: usize = 128;
/// Longest value that is read and written, in bytes: what is longer is no mark.
pub const MARK_LEN_MAX: usize = 2_048;

/// The key that the mark is in (`mark`), in database 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MarkKey(String);

/// Why a text is not a [`MarkKey`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("mark `{0}` must be 1 to {MARK_KEY_LEN_MAX} of A-Z a-z 0-9 . _ - : /")]
pub struct MarkKeyError(String);

impl MarkKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MarkKey {
    type Err = MarkKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What is no pattern in an ACL rule (`~KEY`), and needs no quotes in a shell.
        let allowed =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'/');
        if text.is_empty() || text.len() > MARK_KEY_LEN_MAX || !text.bytes().all(allowed) {
            return Err(MarkKeyError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for MarkKey {
    type Error = MarkKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MarkKey> for String {
    fn from(key: MarkKey) -> Self {
        key.0
    }
}

/// Whose data a data set is, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMark {
    /// The group, as Sentinel has it.
    pub group: GroupName,
    /// Below which prefix the group's keys are in Consul.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The installation that the group belongs to, where its agents were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
    /// The generation at which the instance was the writer.
    pub generation: u64,
    /// The history that it wrote then (`master_replid`).
    pub history: ReplId,
}

impl DataMark {
    /// The mark of what is published; `None` without a writer.
    pub fn of(record: &Record) -> Option<Self> {
        Some(Self {
            group: record.group.clone(),
            prefix: record.prefix.clone(),
            installation: record.installation.clone(),
            generation: record.generation,
            history: record.writer.as_ref()?.replid.clone(),
        })
    }

    /// It has the names of the group that is published.
    pub fn is_named_as(&self, record: &Record) -> bool {
        self.group == record.group
            && self.prefix == record.prefix
            && self.installation == record.installation
    }

    /// As the value of the key.
    ///
    /// # Panics
    /// Never: every field has a JSON form.
    #[expect(clippy::expect_used, reason = "every field has a JSON form")]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a mark has no map keys that are not strings")
    }
}

/// A mark that could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedMark {
    /// The run of the instance that was to have it.
    pub run_id: String,
    /// What was to be written.
    pub mark: DataMark,
    /// The words of the instance, or why it did not answer.
    pub words: String,
}

/// What an instance has in the key of the mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FoundMark {
    /// Not known: it was not asked, or could not tell.
    #[default]
    Unknown,
    /// There is no such key.
    Absent,
    /// The key holds something that is no mark.
    Other,
    /// It does not let this login read the key, in these words.
    Refused(String),
    /// A mark.
    Is(DataMark),
}

impl FoundMark {
    /// What a value is. Fields that are not known are of a later version.
    pub fn of_value(value: &[u8]) -> Self {
        match value {
            [] => Self::Absent,
            long if long.len() > MARK_LEN_MAX => Self::Other,
            value => serde_json::from_slice(value).map_or(Self::Other, Self::Is),
        }
    }

    /// The mark, where there is one.
    pub fn mark(&self) -> Option<&DataMark> {
        match self {
            Self::Is(mark) => Some(mark),
            Self::Unknown | Self::Absent | Self::Other | Self::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_needs_no_quotes() {
        for text in ["consul-redis", "app:consul/mark_1.x"] {
            assert_eq!(text.parse::<MarkKey>().unwrap().as_str(), text);
        }
        let long = "k".repeat(MARK_KEY_LEN_MAX + 1);
        for text in ["", "a b", "a\n", "*", "k[0]", "\u{e4}", &long] {
            let error = text.parse::<MarkKey>().unwrap_err().to_string();
            assert!(error.contains("must be 1 to 128 of"), "{error}");
        }
    }

    #[test]
    fn what_is_no_mark_is_said_to_be_none() {
        let mark = DataMark {
            group: "redis".parse().unwrap(),
            prefix: Some("redis-ha".to_owned()),
            installation: None,
            generation: 7,
            history: ReplId("a".repeat(40)),
        };
        let value = mark.encode();
        assert_eq!(FoundMark::of_value(value.as_bytes()), FoundMark::Is(mark.clone()));
        // A later version may say more.
        let later = value.replacen('{', "{\"more\":[1],", 1);
        assert_eq!(FoundMark::of_value(later.as_bytes()), FoundMark::Is(mark));
        assert_eq!(FoundMark::of_value(b""), FoundMark::Absent);
        let long = format!("{value}{}", " ".repeat(MARK_LEN_MAX));
        let odd = value.replace("redis\"", "re dis\"");
        let negative = value.replace(":7", ":-7");
        for other in ["1", "{}", "\u{0}", &value[1..], &long, &odd, &negative] {
            assert_eq!(FoundMark::of_value(other.as_bytes()), FoundMark::Other, "{other}");
        }
        assert_eq!(FoundMark::of_value(&[0xff, 0xfe]), FoundMark::Other);
    }
}
