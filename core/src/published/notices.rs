//! What targets outside are told (`[[notify]]`), and the key `notices`: what they were told, which agent does it, and
//! which problems they know of.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::brief::unread;
use crate::identity::address::{Address, GroupName, ServiceName};
use crate::published::record::Change;

/// The name of the key, below a group's root.
pub const NOTICES: &str = "notices";
/// Version of the key's form, and of a notice's.
pub const NOTICES_VERSION: u32 = 1;
/// How many deliveries the key keeps. Those that are not over stay in any case.
pub const DELIVERIES_MAX: usize = 60;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// The writer's process has ended, and a Sentinel was asked for a failover.
    Proof,
    /// There is no writer any more.
    Withdrawal,
    /// Another writer is published.
    Switch,
    /// A problem has lasted.
    Problem,
    /// A problem is over.
    Resolved,
}

impl NoticeKind {
    /// All of them, in the order in which those of one change are told.
    pub const ALL: [Self; 5] =
        [Self::Proof, Self::Withdrawal, Self::Switch, Self::Problem, Self::Resolved];

    /// As JSON and configs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Withdrawal => "withdrawal",
            Self::Switch => "switch",
            Self::Problem => "problem",
            Self::Resolved => "resolved",
        }
    }

    /// It ends an incident.
    pub fn ends(self) -> bool {
        matches!(self, Self::Switch | Self::Resolved)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeSeverity {
    /// Clients cannot write, or may not be able to.
    Critical,
    /// The writer serves all the same, or is about to be replaced.
    Warning,
    /// It is good news.
    Info,
}

/// One event, as a target is told: docs/schemas/event.schema.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// [`NOTICES_VERSION`].
    pub v: u32,
    /// The same whenever it is told.
    pub id: String,
    /// What it belongs to: a switch ends what a withdrawal began.
    pub incident: String,
    /// It ends the incident.
    pub ends: bool,
    /// What happened.
    pub event: NoticeKind,
    /// How bad it is.
    pub severity: NoticeSeverity,
    /// When, by the clock of the agent that made or saw it.
    pub at: Timestamp,
    /// The group, as Sentinel has it.
    pub group: GroupName,
    /// The service that it is published as.
    pub service: ServiceName,
    /// The name that DNS answers with the writer.
    pub name: String,
    /// The writer before.
    pub old: Option<Address>,
    /// The writer since.
    pub new: Option<Address>,
    /// The generation.
    pub generation: u64,
    /// The code of the problem.
    pub code: Option<String>,
    /// Why, in one sentence.
    pub why: String,
    /// All of it in one line.
    pub text: String,
    /// The agent that made the change, or saw the problem.
    pub by: String,
    /// The agent that tells it.
    pub told_by: String,
}

/// What notices of one group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeSubject {
    /// Below which prefix the group is in Consul.
    pub prefix: String,
    /// The group, as Sentinel has it.
    pub group: GroupName,
    /// The service that it is published as.
    pub service: ServiceName,
    /// The installation that it belongs to: what tells groups of one name apart outside.
    pub installation: Option<String>,
    /// This agent.
    pub agent: String,
}

impl NoticeSubject {
    fn place(&self) -> String {
        let Self { prefix, group, .. } = self;
        match &self.installation {
            Some(installation) => format!("{installation}/{prefix}/{group}"),
            None => format!("{prefix}/{group}"),
        }
    }

    /// The id of what a generation began with.
    pub fn id_of(&self, generation: u64) -> String {
        format!("{}/{generation}", self.place())
    }

    fn notice(&self, kind: NoticeKind, about: &str, at: Timestamp) -> Notice {
        Notice {
            v: NOTICES_VERSION,
            id: String::new(),
            incident: format!("{}/{about}", self.place()),
            ends: kind.ends(),
            event: kind,
            severity: NoticeSeverity::Info,
            at,
            group: self.group.clone(),
            service: self.service.clone(),
            name: format!("{}.service.consul", self.service.primary()),
            old: None,
            new: None,
            generation: 0,
            code: None,
            why: String::new(),
            text: String::new(),
            by: self.agent.clone(),
            told_by: self.agent.clone(),
        }
    }

    /// What a change of the writer is told as, one of `history`: one notice, and before it the proof where there was one.
    pub fn of_change(&self, change: &Change, history: &[Change]) -> Vec<Notice> {
        let Change { generation, at, from, to, why, by, timeline, .. } = change;
        // After a withdrawal, the one that was withdrawn.
        let withdrawn =
            history.iter().find(|before| before.generation.checked_add(1) == Some(*generation));
        let withdrawn = withdrawn.filter(|before| before.to.is_none());
        let from = from.as_ref().or_else(|| withdrawn?.from.as_ref()).cloned();
        let group = &self.group;
        let kind = if to.is_some() { NoticeKind::Switch } else { NoticeKind::Withdrawal };
        let arrow = from.as_ref().map(|from| format!("{from} -> ")).unwrap_or_default();
        let said = match to {
            Some(to) => format!("{group}: writer {arrow}{to}, generation {generation}: {why}"),
            None => format!("{group}: no writer, generation {generation}: {why}"),
        };
        let of = |kind, severity, id: String, at, text| Notice {
            id,
            severity,
            old: from.clone(),
            new: to.clone(),
            generation: *generation,
            why: why.clone(),
            text,
            by: by.clone(),
            ..self.notice(kind, "writer", at)
        };
        let id = self.id_of(*generation);
        let severity = match kind {
            NoticeKind::Withdrawal => NoticeSeverity::Critical,
            _ => NoticeSeverity::Info,
        };
        let died = timeline.died.filter(|_| to.is_none()).map(|died| {
            let gone = from.as_ref().map(ToString::to_string).unwrap_or_default();
            let text = format!(
                "{group}: the process of {gone} has ended, and a Sentinel is asked for a failover"
            );
            of(NoticeKind::Proof, NoticeSeverity::Warning, format!("{id}/proof"), died, text)
        });
        died.into_iter().chain([of(kind, severity, id.clone(), *at, said)]).collect()
    }

    /// That a problem has lasted.
    pub fn of_problem(&self, told: &OpenNotice, code: &str, generation: u64) -> Notice {
        let severity =
            if told.degrades { NoticeSeverity::Warning } else { NoticeSeverity::Critical };
        Notice {
            id: told.id.clone(),
            severity,
            generation,
            code: Some(code.to_owned()),
            why: told.text.clone(),
            text: format!("{}: {}", self.group, told.text),
            ..self.notice(NoticeKind::Problem, code, told.since)
        }
    }

    /// That it is over.
    pub fn of_end(&self, told: &OpenNotice, code: &str, generation: u64, at: Timestamp) -> Notice {
        Notice {
            id: format!("{}/resolved", told.id),
            generation,
            code: Some(code.to_owned()),
            why: told.text.clone(),
            text: format!("{}: {code} is over", self.group),
            ..self.notice(NoticeKind::Resolved, code, at)
        }
    }

    /// A problem as the key has it from now on.
    pub fn opened(
        &self,
        code: &str,
        seen: &SeenProblem,
        run: &str,
        since: Timestamp,
    ) -> OpenNotice {
        OpenNotice {
            id: format!("{}/{code}/{}", self.place(), since.as_millisecond()),
            since,
            text: seen.text.clone(),
            degrades: seen.degrades,
            by: self.agent.clone(),
            run: run.to_owned(),
            passed_on: false,
        }
    }
}

/// A problem as one agent has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenProblem {
    /// In words.
    pub text: String,
    /// The writer serves all the same.
    pub degrades: bool,
}

/// A problem that targets know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenNotice {
    /// The notice's.
    pub id: String,
    /// Since when.
    pub since: Timestamp,
    /// In words, as it was told.
    pub text: String,
    /// The writer serves all the same.
    #[serde(default)]
    pub degrades: bool,
    /// The agent that has it.
    pub by: String,
    /// Which loop of that agent: one that was started anew knows nothing of it.
    pub run: String,
    /// That agent has it no more: another one that does takes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passed_on: bool,
}

/// What became of one notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The notice's.
    pub id: String,
    /// What it was.
    pub event: NoticeKind,
    /// The generation; of a problem, the one then.
    pub generation: u64,
    /// Since when it is as it is here, by the clock of the agent that tells it.
    pub at: Timestamp,
    /// The agent that tells it.
    pub by: String,
    /// Which loop of that agent.
    pub run: String,
    /// What is told, until that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Box<Notice>>,
    /// What became of it, by target; none where none wanted it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<String, String>,
}

/// The word of a target that has taken a notice; any other one says why not.
pub const DELIVERED: &str = "delivered";

/// What the key says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeLog {
    /// [`NOTICES_VERSION`].
    pub v: u32,
    /// The problems that targets know of, by their codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<String, OpenNotice>,
    /// What was told and is being told, newest first.
    #[serde(default)]
    pub deliveries: Vec<Delivery>,
}

impl Default for NoticeLog {
    fn default() -> Self {
        Self { v: NOTICES_VERSION, open: BTreeMap::new(), deliveries: Vec::new() }
    }
}

impl NoticeLog {
    /// Makes sense of the key's value.
    ///
    /// # Errors
    /// Why it cannot be read, or that a newer version wrote it: it is not to be written.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        let log: Self = serde_json::from_slice(value).map_err(|error| unread(&error))?;
        if log.v > NOTICES_VERSION {
            return Err(format!("written by a newer consul-redis (format {})", log.v));
        }
        Ok(log)
    }

    /// What became of the notice with this id.
    pub fn delivery(&self, id: &str) -> Option<&Delivery> {
        self.deliveries.iter().find(|delivery| delivery.id == id)
    }

    /// Puts a delivery in the place of the one with its id, or before all others.
    pub fn note(&mut self, delivery: Delivery) {
        match self.deliveries.iter_mut().find(|known| known.id == delivery.id) {
            Some(known) => *known = delivery,
            None => self.deliveries.insert(0, delivery),
        }
        let mut kept = 0;
        self.deliveries.retain(|delivery| {
            kept += 1;
            kept <= DELIVERIES_MAX || delivery.notice.is_some()
        });
    }

    /// The targets that have not taken what they were told last, and what became of that.
    pub fn failing(&self) -> BTreeMap<&str, (&Delivery, &str)> {
        let mut last = BTreeMap::new();
        for delivery in &self.deliveries {
            for (target, word) in &delivery.targets {
                last.entry(target.as_str()).or_insert((delivery, word.as_str()));
            }
        }
        last.retain(|_, (_, word)| *word != DELIVERED);
        last
    }
}
