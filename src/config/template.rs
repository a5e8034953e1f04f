//! `[[template]]`, checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::ConfigError;
use super::file::{OnNoWriter, TemplateTable};
use super::resolver::Resolver;

/// Stands for the file in a command's arguments.
pub const FILE_PLACEHOLDER: &str = "{}";
/// How long a command may take, when nothing is said.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The permissions a file can have: read, write and execute.
const MODE_MAX: u32 = 0o777;

/// One file that is rendered from the groups' state.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateConfig {
    /// The template.
    pub source: PathBuf,
    /// The file that is rendered from it.
    pub destination: PathBuf,
    /// What is run once the file is in place: a program and its arguments.
    pub command: Option<Vec<String>>,
    /// What looks at the file before it is put in place.
    pub check: Option<Vec<String>>,
    /// How long each of the two may take.
    pub command_timeout: Duration,
    /// The file's permissions; `None`: those it has.
    pub mode: Option<u32>,
    /// Whose the file is.
    pub owner: Owner,
    /// What becomes of the file when a group has no writer.
    pub on_no_writer: OnNoWriter,
}

/// Whose a file is, by name or number; `None`: whose it is already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user, by name or number.
    pub user: Option<String>,
    /// The group of users, by name or number.
    pub group: Option<String>,
}

impl Owner {
    /// `user`, `user:group` or `:group`.
    fn parse(text: &str) -> Option<Self> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let part = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let owner = Self { user: part(user), group: part(group) };
        let plain = !text.contains(char::is_whitespace) && !group.contains(':');
        (plain && owner != Self::default()).then_some(owner)
    }
}

impl Resolver<'_> {
    pub(super) fn templates(&self) -> Result<Vec<TemplateConfig>, ConfigError> {
        let mut destinations = BTreeSet::new();
        let mut templates = Vec::new();
        for table in &self.file.template {
            let template = self.template(table)?;
            if !destinations.insert(template.destination.clone()) {
                let what = format!("{} is rendered twice", template.destination.display());
                return Err(self.source.contradiction(&table.destination, what));
            }
            templates.push(template);
        }
        Ok(templates)
    }

    fn template(&self, table: &TemplateTable) -> Result<TemplateConfig, ConfigError> {
        let destination = table.destination.get_ref().clone();
        if destination.file_name().is_none() {
            let what = format!("destination `{}` is no file", destination.display());
            return Err(self.source.contradiction(&table.destination, what));
        }
        let check = self.command("check", table.check.as_ref())?;
        if let (Some(argv), Some(at)) = (&check, &table.check)
            && !argv.iter().any(|arg| arg.contains(FILE_PLACEHOLDER))
        {
            let what = "check names no file: write {} where the new file is to stand".to_owned();
            return Err(self.source.contradiction(at, what));
        }
        Ok(TemplateConfig {
            source: table.source.clone(),
            destination,
            command: self.command("command", table.command.as_ref())?,
            check,
            command_timeout: table.command_timeout.map_or(DEFAULT_COMMAND_TIMEOUT, |span| span.0),
            mode: table.mode.as_ref().map(|mode| self.mode(mode)).transpose()?,
            owner: table.owner.as_ref().map(|o| self.owner(o)).transpose()?.unwrap_or_default(),
            on_no_writer: table.on_no_writer.unwrap_or_default(),
        })
    }

    pub(super) fn command(
        &self,
        key: &str,
        given: Option<&Spanned<Vec<String>>>,
    ) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(given) = given else { return Ok(None) };
        if given.get_ref().first().is_none_or(String::is_empty) {
            let what = format!("{key} names no program: write [\"program\", \"argument\"]");
            return Err(self.source.contradiction(given, what));
        }
        Ok(Some(given.get_ref().clone()))
    }

    fn mode(&self, given: &Spanned<String>) -> Result<u32, ConfigError> {
        let mode = u32::from_str_radix(given.get_ref(), 8).ok().filter(|mode| *mode <= MODE_MAX);
        mode.ok_or_else(|| {
            let what =
                format!("mode `{}` is none: write it in octal, as \"0640\"", given.get_ref());
            self.source.contradiction(given, what)
        })
    }

    fn owner(&self, given: &Spanned<String>) -> Result<Owner, ConfigError> {
        Owner::parse(given.get_ref()).ok_or_else(|| {
            let what = format!("owner `{}` is none: write \"user:group\"", given.get_ref());
            self.source.contradiction(given, what)
        })
    }
}
