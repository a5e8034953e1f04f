//! The key `pause`: an operator's word that agents are to observe and publish, and to change nothing else, until it ends
//! by itself or another word ends it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::brief::unread;

/// The name of the key, below the root of a group or a cluster.
pub const PAUSE: &str = "pause";

/// The last pause. It stays in its key when it is over, for people who look back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, by the clock of the operator's host.
    pub since: Timestamp,
    /// Who asked for it: user and host.
    pub by: String,
    /// When it ends by itself; where it does not, an operator has to end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What it is for, where the operator said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When an operator ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Timestamp>,
}

/// What the key says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PauseKey {
    /// There was never a pause.
    #[default]
    Absent,
    /// The last pause.
    Known(Box<Pause>),
    /// Something else: a pause was wanted, and of what kind is not known. It counts as one that does not end by itself.
    Unreadable(String),
}

/// A pause that is on, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PauseStatus {
    /// Since when; `None` where the key cannot be read.
    pub since: Option<Timestamp>,
    /// Who asked for it.
    pub by: Option<String>,
    /// When it ends by itself; `None` where it does not.
    pub until: Option<Timestamp>,
    /// What it is for.
    pub why: Option<String>,
    /// Agents of older versions, which know no pause and go on.
    pub unaware: Vec<String>,
}

impl Pause {
    /// It has neither ended by itself nor been ended.
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.resumed.is_none() && self.until.is_none_or(|until| now < until)
    }

    /// It in words, whether it is on or over.
    pub fn in_words(&self, now: Timestamp) -> String {
        let Self { since, by, until, why, resumed } = self;
        let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let ended = resumed.or(*until).filter(|_| !self.is_on(now));
        match (ended, until) {
            (Some(ended), _) => format!("was paused from {since:.0} to {ended:.0} by {by}{why}"),
            (None, Some(until)) => {
                format!("paused since {since:.0} by {by}{why}, until {until:.0}")
            }
            (None, None) => {
                format!("paused since {since:.0} by {by}{why}, until `consul-redis resume` ends it")
            }
        }
    }
}

impl PauseKey {
    /// Makes sense of the key's value.
    pub fn read(value: &[u8]) -> Self {
        match serde_json::from_slice(value) {
            Ok(pause) => Self::Known(Box::new(pause)),
            Err(error) => Self::Unreadable(unread(&error)),
        }
    }

    /// The pause that is on now, with those of the agents that know of no pause.
    pub fn on<'a>(
        &self,
        now: Timestamp,
        unaware: impl Iterator<Item = &'a str>,
    ) -> Option<PauseStatus> {
        let unaware = unaware.map(str::to_owned).collect();
        match self {
            Self::Absent => None,
            Self::Known(pause) => pause.is_on(now).then(|| {
                let Pause { since, by, until, why, .. } = (**pause).clone();
                PauseStatus { since: Some(since), by: Some(by), until, why, unaware }
            }),
            Self::Unreadable(error) => {
                let why = Some(format!("the key {PAUSE} cannot be read: {error}"));
                Some(PauseStatus { since: None, by: None, until: None, why, unaware })
            }
        }
    }
}

impl fmt::Display for PauseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, by, until, why, unaware } = self;
        f.write_str("paused")?;
        if let Some(since) = since {
            write!(f, " since {since:.0}")?;
        }
        if let Some(by) = by {
            write!(f, " by {by}")?;
        }
        if let Some(why) = why {
            write!(f, " ({why})")?;
        }
        match until {
            Some(until) => write!(f, ", until {until:.0}")?,
            None => f.write_str(", until `consul-redis resume` ends it")?,
        }
        f.write_str(": agents observe and publish, and change nothing else")?;
        match &unaware[..] {
            [] => Ok(()),
            [one] => write!(f, "; {one} is of a version that knows no pause, and goes on"),
            more => {
                write!(f, "; {} are of versions that know no pause, and go on", more.join(", "))
            }
        }
    }
}
