//! `[[notify]]`, checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use toml::Spanned;

use super::file::NotifyTable;
use super::resolver::Resolver;
use super::{ConfigError, GroupConfig};
use crate::core::identity::address::GroupName;
use crate::core::published::notices::NoticeKind;
use crate::secret::SecretSource;

/// How long a try may take, when nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an event is tried, when nothing is said.
pub const DEFAULT_TRIES: u8 = 5;
/// How often it can be tried at the most.
const TRIES_MAX: u8 = 20;
/// How long a problem must last, when nothing is said.
pub const DEFAULT_DEBOUNCE: Duration = Duration::from_secs(10);
/// Longest name of a target, in characters: it is a label of metrics.
const NAME_LEN_MAX: usize = 64;

/// One target that is told what happens.
#[derive(Debug, Clone, PartialEq)]
pub struct NotifyConfig {
    /// What it is called.
    pub name: String,
    /// Where, or what is run.
    pub to: NotifyWay,
    /// The kinds of events that it is told.
    pub events: BTreeSet<NoticeKind>,
    /// The groups whose events it is told; `None`: all.
    pub groups: Option<BTreeSet<GroupName>>,
    /// How long each try may take.
    pub timeout: Duration,
    /// How often an event is tried.
    pub tries: u8,
    /// How long a problem must last before it is told, and be away before it is over.
    pub debounce: Duration,
}

/// How a target is told.
#[derive(Debug, Clone, PartialEq)]
pub enum NotifyWay {
    /// By POST.
    Url(Box<NotifyUrl>),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// What a POST is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct NotifyUrl {
    /// Where: a value or a file with it.
    pub url: SecretSource,
    /// A template of the body; `None`: the event itself.
    pub body: Option<PathBuf>,
    /// What the body is signed with.
    pub hmac: SecretSource,
    /// A bearer token.
    pub token: SecretSource,
    /// What the template sees as `key`.
    pub key: SecretSource,
    /// Authorities to trust: a PEM file.
    pub ca_cert: Option<PathBuf>,
}

impl NotifyConfig {
    /// It is told of this group at all.
    pub fn hears_of(&self, group: &GroupName) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.contains(group))
    }

    /// Every secret that it needs, wherever that is read from.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        let of_url = match &self.to {
            NotifyWay::Url(url) => vec![&url.url, &url.hmac, &url.token, &url.key],
            NotifyWay::Command(_) => Vec::new(),
        };
        of_url.into_iter()
    }
}

/// What is wrong with a URL, if anything: it has to be one that can be sent to.
pub fn wrong_url(text: &str) -> Option<String> {
    match Url::parse(text) {
        Err(error) => Some(format!("it is no URL: {error}")),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Some("it is no URL: it has to begin with http:// or https://".to_owned())
        }
        Ok(_) => None,
    }
}

/// A secret in the file that is named, or none.
fn in_file(path: &Option<Spanned<PathBuf>>) -> SecretSource {
    path.as_ref().map_or(SecretSource::None, |path| SecretSource::File(path.get_ref().clone()))
}

impl Resolver<'_> {
    pub(super) fn notify(&self, groups: &[GroupConfig]) -> Result<Vec<NotifyConfig>, ConfigError> {
        let known: BTreeSet<&GroupName> = groups.iter().map(|g| &g.policy.group).collect();
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for table in &self.file.notify {
            let target = self.notify_target(table, &known)?;
            if !names.insert(target.name.clone()) {
                let what = format!("two [[notify]] are called `{}`", target.name);
                return Err(self.source.contradiction(&table.name, what));
            }
            targets.push(target);
        }
        Ok(targets)
    }

    fn notify_target(
        &self,
        table: &NotifyTable,
        known: &BTreeSet<&GroupName>,
    ) -> Result<NotifyConfig, ConfigError> {
        let name = table.name.get_ref().clone();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(plain) {
            let what = format!(
                "name `{name}` is none: write letters, digits, `.`, `_` and `-`, {NAME_LEN_MAX} at most"
            );
            return Err(self.source.contradiction(&table.name, what));
        }
        let groups = table.groups.as_ref().map(|groups| self.notify_groups(groups, known));
        let events = match &table.events {
            Some(events) if events.get_ref().is_empty() => {
                let what = format!("[[notify]] `{name}` is told of no event: leave `events` out");
                return Err(self.source.contradiction(events, what));
            }
            Some(events) => events.get_ref().iter().copied().collect(),
            None => NoticeKind::ALL.into(),
        };
        let tries = match &table.tries {
            Some(tries) if !(1..=TRIES_MAX).contains(tries.get_ref()) => {
                let what = format!("tries is a number from 1 to {TRIES_MAX}");
                return Err(self.source.contradiction(tries, what));
            }
            tries => tries.as_ref().map_or(DEFAULT_TRIES, |tries| *tries.get_ref()),
        };
        Ok(NotifyConfig {
            to: self.notify_way(table)?,
            events,
            groups: groups.transpose()?,
            timeout: table.timeout.map_or(DEFAULT_TIMEOUT, |span| span.0),
            tries,
            debounce: table.debounce.map_or(DEFAULT_DEBOUNCE, |span| span.0),
            name,
        })
    }

    fn notify_groups(
        &self,
        groups: &Spanned<Vec<GroupName>>,
        known: &BTreeSet<&GroupName>,
    ) -> Result<BTreeSet<GroupName>, ConfigError> {
        match groups.get_ref().iter().find(|group| !known.contains(group)) {
            Some(unknown) => {
                let what = format!("`{unknown}` is no [[group]] of this config");
                Err(self.source.contradiction(groups, what))
            }
            None if groups.get_ref().is_empty() => {
                let what = "[[notify]] is told of no group: leave `groups` out".to_owned();
                Err(self.source.contradiction(groups, what))
            }
            None => Ok(groups.get_ref().iter().cloned().collect()),
        }
    }

    fn notify_way(&self, table: &NotifyTable) -> Result<NotifyWay, ConfigError> {
        let NotifyTable { name, url, url_file, command, body, .. } = table;
        let given = [url.is_some(), url_file.is_some(), command.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let what =
                format!("[[notify]] `{}` needs one of url, url_file and command", name.get_ref());
            return Err(self.source.contradiction(name, what));
        }
        if let Some(command) = self.command("command", command.as_ref())? {
            let of_url = [
                ("body", body),
                ("hmac_file", &table.hmac_file),
                ("token_file", &table.token_file),
                ("key_file", &table.key_file),
                ("ca_cert", &table.ca_cert),
            ];
            let useless = of_url.iter().find_map(|(key, given)| Some((key, given.as_ref()?)));
            if let Some((key, at)) = useless {
                let what = format!("{key} is for a URL, and this is a command");
                return Err(self.source.contradiction(at, what));
            }
            return Ok(NotifyWay::Command(command));
        }
        if let (Some(key), None) = (&table.key_file, body) {
            let what = "key_file is for a template: give body, too".to_owned();
            return Err(self.source.contradiction(key, what));
        }
        let address = match url {
            Some(url) => {
                if let Some(wrong) = wrong_url(url.get_ref()) {
                    return Err(self.source.contradiction(url, format!("url: {wrong}")));
                }
                SecretSource::Value(url.get_ref().clone().into())
            }
            None => in_file(url_file),
        };
        Ok(NotifyWay::Url(Box::new(NotifyUrl {
            url: address,
            body: body.as_ref().map(|body| body.get_ref().clone()),
            hmac: in_file(&table.hmac_file),
            token: in_file(&table.token_file),
            key: in_file(&table.key_file),
            ca_cert: table.ca_cert.as_ref().map(|path| path.get_ref().clone()),
        })))
    }
}
