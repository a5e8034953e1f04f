//! The config file as text: read, parsed, and named with its line when something is wrong.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::ConfigError;
use super::file::File;

/// Largest config file read, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The file, or nothing at all.
pub struct ConfigText {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl ConfigText {
    /// Reads a file. Fails with its path when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LEN_MAX {
            let what = format!("longer than {FILE_LEN_MAX} bytes");
            return Err(ConfigError::Invalid { path: path.to_owned(), what });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Makes sense of it.
    pub fn parse(&self) -> Result<File, ConfigError> {
        toml::from_str(&self.text).map_err(|error| self.invalid(&error))
    }

    /// The parser's own words, with the line in question; without it where it may hold a secret.
    fn invalid(&self, error: &toml::de::Error) -> ConfigError {
        match error.span().filter(|span| self.may_hold_a_secret(span.start)) {
            Some(span) => self.contradiction_at(span.start, error.message().to_owned()),
            None => {
                // The parser's text ends in a line of its own.
                let what = error.to_string().trim_end().to_owned();
                ConfigError::Invalid { path: self.path.clone(), what }
            }
        }
    }

    /// Something on the line sounds like a secret's key, or there is no key at all.
    fn may_hold_a_secret(&self, offset: usize) -> bool {
        let before = self.text.get(..offset).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = self.text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        if !line.contains('=') {
            return !line.starts_with('[');
        }
        let line = line.to_lowercase();
        ["pass", "token", "secret", "auth", "key", "cred"].iter().any(|word| line.contains(word))
    }

    /// Something that contradicts what stands there.
    pub fn contradiction<T>(&self, at: &Spanned<T>, what: String) -> ConfigError {
        self.contradiction_at(at.span().start, what)
    }

    /// The same, by its offset.
    pub fn contradiction_at(&self, offset: usize, what: String) -> ConfigError {
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Contradiction { path: self.path.clone(), line, what }
    }
}
