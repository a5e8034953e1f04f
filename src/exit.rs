//! How the process ends: documented codes, a message, and a hint where there is more to say.

use std::fmt;
use std::path::Path;

use crate::config::ConfigError;
use crate::consul::client::{ClientError, ConsulError};
use crate::supervisor::TaskEnded;

/// The exit codes, as `--help` and the README list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// `status`: a group is not healthy; `wait`: it was not in time; `doctor`: a finding is an error.
    Unhealthy = 2,
    /// `status`: every group is healthy, and one is degraded.
    Degraded = 3,
    /// The command line or the config is wrong.
    Config = 64,
    /// Consul does not answer.
    Unavailable = 69,
    /// A part of the agent ended.
    Internal = 70,
    /// Consul denies what is needed.
    Denied = 77,
}

/// An error that ends a command: exit code, message and hint.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub code: Exit,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// An end with a message.
    pub fn new(code: Exit, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The message and the hint, for a log.
    pub fn in_one_line(&self) -> String {
        let hint = self.hint.iter().map(|hint| format!("; {hint}"));
        let text: String = std::iter::once(self.message.clone()).chain(hint).collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The same with its line in the config file, where a value that the message names stands there. What is found when
    /// the file itself is read names its line already; this is for what is found when its values are used: a secret, a
    /// certificate, an owner, a level.
    #[must_use]
    pub fn located(mut self, file: Option<&Path>) -> Self {
        let Some(file) = file.filter(|_| self.code == Exit::Config) else { return self };
        let name = file.display().to_string();
        if self.message.starts_with(&name) {
            return self;
        }
        let line =
            std::fs::read_to_string(file).ok().and_then(|text| line_of(&text, &self.message));
        if let Some(line) = line {
            self.message = format!("{name}:{line}: {}", self.message);
        }
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The line, counted from 1, with a value that a message names: in backticks, or else a path.
fn line_of(text: &str, message: &str) -> Option<usize> {
    let quoted = |value: &str| message.contains(&format!("`{value}`"));
    let is_path = |value: &str| {
        let mut words = message.split(|c: char| c.is_whitespace() || ":,;`".contains(c));
        value.starts_with('/') && words.any(|word| word == value)
    };
    let line_with = |named: &dyn Fn(&str) -> bool| {
        let holds = |line: &str| {
            let mut values = line.split(['"', '\'']).skip(1).step_by(2);
            !line.trim_start().starts_with('#') && values.any(named)
        };
        text.lines().position(holds).map(|at| at + 1)
    };
    line_with(&quoted).or_else(|| line_with(&is_path))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Self { code: Exit::Config, message: error.to_string(), hint }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(Exit::Config, error.to_string()).hint(
            "CONSUL_CACERT, CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY, or [consul] in the config, name PEM files",
        )
    }
}

impl From<ConsulError> for Failure {
    fn from(error: ConsulError) -> Self {
        let code = match &error {
            _ if error.is_about_settings() => Exit::Config,
            _ if error.is_refusal() => Exit::Denied,
            _ if error.is_transient() => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let hint = error.hint().map(str::to_owned);
        Self { code, message: error.to_string(), hint }
    }
}

impl From<TaskEnded> for Failure {
    fn from(error: TaskEnded) -> Self {
        Self::new(Exit::Internal, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}
