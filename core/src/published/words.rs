//! The operator's own words on a group's rows: tags, metadata, weights and zones.
//!
//! An agent's key has those of its config, and the record those that the rows show; how one comes from the other is in
//! [`crate::published::agreed`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::address::{Address, GroupName, ZONE_TAG, Zone};

/// What tags and metadata of one table may take as JSON, in bytes: an agent's key and the record hold them.
pub const WORDS_LEN_MAX: usize = 1_024;
/// Pairs of metadata in one table: Consul takes 64 on a service, and a row has those of two tables and the agents' own.
pub const PAIRS_MAX: usize = 28;
/// Longest key of metadata, in bytes: Consul's own bound.
const META_KEY_LEN_MAX: usize = 128;
/// Longest value of metadata, in bytes: Consul's own bound. A tag has the same.
const VALUE_LEN_MAX: usize = 512;
/// The tags that agents write, besides those of zones.
const OWN_TAGS: [&str; 2] = ["primary", "replica"];
/// The keys of metadata that agents write.
const OWN_KEYS: [&str; 8] =
    ["managed-by", "group", "generation", "prefix", "zone", "installation", "agent", "version"];
/// Keys of metadata that begin so are Consul's.
const CONSULS_KEYS: &str = "consul-";
/// Characters of one agent's words that are shown to a person.
const SHOWN_LEN_MAX: usize = 200;

/// How much a row weighs in the answers of DNS (SRV), as Consul's `Weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weights {
    /// While its checks pass; 1 at least.
    pub passing: u16,
    /// While one of them warns.
    pub warning: u16,
}

impl Default for Weights {
    /// What Consul itself gives a service.
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

impl Weights {
    /// They are what Consul gives a service by itself.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Tags, metadata and weights of a group or of one instance, as the config has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Words {
    /// Tags, each with placeholders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Metadata; the values have placeholders.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// The weights, where they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
}

/// Why tags, metadata or weights cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WordsError {
    /// A tag that agents write themselves.
    #[error("tag `{0}` is the agents' own: primary, replica and zone-... are")]
    OwnTag(String),
    /// A key of metadata that agents write themselves, or Consul.
    #[error(
        "meta key `{0}` is not free: {OWN_KEYS:?} are the agents' own, and consul-... Consul's"
    )]
    OwnKey(String),
    /// Not a key of metadata.
    #[error("meta key `{0}` must be 1 to {META_KEY_LEN_MAX} of A-Z a-z 0-9 _ -")]
    Key(String),
    /// Too many pairs.
    #[error("meta has {0} keys, and may have {PAIRS_MAX}")]
    Pairs(usize),
    /// A tag or value that is empty, too long, or has characters that no row may have.
    #[error("{0:?} must be 1 to {VALUE_LEN_MAX} bytes, without control characters")]
    Value(String),
    /// A `{` that nothing closes.
    #[error("`{0}`: a {{ without }}; write {{{{ where a {{ is meant")]
    Open(String),
    /// No such placeholder.
    #[error("`{0}`: there is no {{{1}}}; there are {known}; write {{{{ where a {{ is meant", known = Placeholder::list())]
    Unknown(String, String),
    /// Together too long.
    #[error("tags and meta take {0} bytes, and may take {WORDS_LEN_MAX}")]
    Long(usize),
    /// A row of this weight is in no answer.
    #[error("weights: passing must be 1 to 65535")]
    Weight,
}

/// What a value may have between braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Role,
    Generation,
    Group,
    Zone,
    Address,
    Host,
    Port,
}

impl Placeholder {
    const ALL: [(Self, &str); 7] = [
        (Self::Role, "role"),
        (Self::Generation, "generation"),
        (Self::Group, "group"),
        (Self::Zone, "zone"),
        (Self::Address, "address"),
        (Self::Host, "host"),
        (Self::Port, "port"),
    ];

    fn list() -> String {
        Self::ALL.map(|(_, name)| format!("{{{name}}}")).join(" ")
    }
}

/// What placeholders stand for on one row.
#[derive(Debug, Clone, Copy)]
pub struct RowFacts<'a> {
    /// What the instance is published as, in one word.
    pub role: &'a str,
    /// The generation, on the writer's rows alone.
    pub generation: Option<u64>,
    /// The group.
    pub group: &'a GroupName,
    /// The instance.
    pub at: &'a Address,
}

impl RowFacts<'_> {
    fn value(&self, placeholder: Placeholder, zone: Option<&Zone>) -> Option<String> {
        Some(match placeholder {
            Placeholder::Role => self.role.to_owned(),
            Placeholder::Generation => self.generation?.to_string(),
            Placeholder::Group => self.group.to_string(),
            Placeholder::Zone => zone?.to_string(),
            Placeholder::Address => self.at.to_string(),
            Placeholder::Host => self.at.host().to_owned(),
            Placeholder::Port => self.at.port().to_string(),
        })
    }
}

/// The text with its placeholders filled in; `None` where one of them has no value.
fn filled(
    text: &str,
    value: impl Fn(Placeholder) -> Option<String>,
) -> Result<Option<String>, WordsError> {
    let (mut done, mut rest, mut lacks) = (String::new(), text, false);
    while let Some((before, after)) = rest.split_once('{') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            done.push('{');
            rest = after;
            continue;
        }
        let closed = after.split_once('}').ok_or_else(|| WordsError::Open(text.to_owned()));
        let (name, after) = closed?;
        let known = Placeholder::ALL.into_iter().find(|(_, known)| *known == name);
        let unknown = || WordsError::Unknown(text.to_owned(), name.to_owned());
        match value(known.ok_or_else(unknown)?.0) {
            Some(value) => done.push_str(&value),
            None => lacks = true,
        }
        rest = after;
    }
    done.push_str(rest);
    Ok((!lacks).then_some(done))
}

/// A tag that agents write. Consul's DNS compares tags without their case.
fn is_own_tag(tag: &str) -> bool {
    let tag = tag.to_ascii_lowercase();
    tag.starts_with(ZONE_TAG) || OWN_TAGS.contains(&tag.as_str())
}

fn is_value(text: &str) -> bool {
    (1..=VALUE_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Words {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether rows can show it.
    ///
    /// # Errors
    /// [`WordsError`]: what is wrong first.
    pub fn check(&self) -> Result<(), WordsError> {
        for tag in &self.tags {
            if is_own_tag(tag) {
                return Err(WordsError::OwnTag(tag.clone()));
            }
        }
        for key in self.meta.keys() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
            if !(1..=META_KEY_LEN_MAX).contains(&key.len()) || !key.bytes().all(plain) {
                return Err(WordsError::Key(key.clone()));
            }
            if OWN_KEYS.contains(&key.as_str()) || key.starts_with(CONSULS_KEYS) {
                return Err(WordsError::OwnKey(key.clone()));
            }
        }
        if self.meta.len() > PAIRS_MAX {
            return Err(WordsError::Pairs(self.meta.len()));
        }
        for text in self.tags.iter().chain(self.meta.values()) {
            if !is_value(text) {
                return Err(WordsError::Value(text.clone()));
            }
            filled(text, |_| None)?;
        }
        let len = serde_json::to_string(self).map_or(0, |json| json.len());
        if len > WORDS_LEN_MAX {
            return Err(WordsError::Long(len));
        }
        match self.weights {
            Some(Weights { passing: 0, .. }) => Err(WordsError::Weight),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.tags.is_empty() {
            parts.push(format!("tags {}", self.tags.join(", ")));
        }
        if !self.meta.is_empty() {
            let pairs = self.meta.iter().map(|(key, value)| format!("{key}={value}"));
            parts.push(format!("meta {}", pairs.collect::<Vec<_>>().join(", ")));
        }
        if let Some(Weights { passing, warning }) = self.weights {
            parts.push(format!("weights {passing}/{warning}"));
        }
        let all = parts.join("; ");
        match all.char_indices().nth(SHOWN_LEN_MAX) {
            Some((end, _)) => write!(f, "{}...", &all[..end]),
            None => f.write_str(&all),
        }
    }
}

/// What the agent beside an instance says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceWords {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// What its table in the config says.
    #[serde(skip_serializing_if = "Words::is_empty")]
    pub own: Words,
}

impl InstanceWords {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All words on the rows of one instance, as the record has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowWords {
    /// The group's.
    #[serde(skip_serializing_if = "Words::is_empty")]
    pub group: Words,
    /// The instance's own.
    #[serde(skip_serializing_if = "InstanceWords::is_empty")]
    pub instance: InstanceWords,
}

/// What one agent's config says, as its key has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentWords {
    /// Of the group.
    #[serde(skip_serializing_if = "Words::is_empty")]
    pub group: Words,
    /// Of each instance beside it, one of which nothing is said among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<Address, InstanceWords>,
}

impl AgentWords {
    /// Whatever wrote it, rows can show it.
    pub fn is_sound(&self) -> bool {
        let own = self.instances.values().map(|instance| &instance.own);
        std::iter::once(&self.group).chain(own).all(|words| words.check().is_ok())
    }

    /// It has anything to show.
    pub fn says_something(&self) -> bool {
        !self.group.is_empty() || self.instances.values().any(|instance| !instance.is_empty())
    }
}

impl RowWords {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn filled(&self, text: &str, facts: &RowFacts<'_>) -> Option<String> {
        let zone = self.instance.zone.as_ref();
        let text = filled(text, |placeholder| facts.value(placeholder, zone)).ok()?;
        text.filter(|text| is_value(text))
    }

    /// The tags that a row has after its role's: the zone's, the group's and the instance's own, each once.
    pub fn tags(&self, facts: &RowFacts<'_>) -> Vec<String> {
        let mut tags: Vec<String> = self.instance.zone.iter().map(Zone::tag).collect();
        for tag in self.group.tags.iter().chain(&self.instance.own.tags) {
            // One that became ours by its placeholders would lead names astray.
            let tag = self.filled(tag, facts).filter(|tag| !is_own_tag(tag));
            tags.extend(tag.filter(|tag| !tags.contains(tag)));
        }
        tags
    }

    /// The metadata that a row has besides what agents write: the instance's goes before the group's.
    pub fn meta(&self, facts: &RowFacts<'_>) -> BTreeMap<String, String> {
        let said = self.group.meta.iter().chain(&self.instance.own.meta);
        let said = said.filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
        let mut meta: BTreeMap<String, String> = said
            .filter_map(|(key, value)| Some((key.clone(), self.filled(value, facts)?)))
            .collect();
        meta.extend(self.instance.zone.as_ref().map(Zone::meta));
        meta
    }

    /// How much its rows weigh.
    pub fn weights(&self) -> Weights {
        self.instance.own.weights.or(self.group.weights).unwrap_or_default()
    }
}
