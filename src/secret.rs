//! Secrets: where they come from, read anew whenever they are used, shown nowhere.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// Longest secret read from a file, in bytes. More than that is the wrong file.
pub const SECRET_LEN_MAX: u64 = 16 * 1024;
/// In the mode of a file: those who neither own it nor are of its group may read it.
const READ_BY_OTHERS: u32 = 0o004;

/// Variables that hold our own secrets. No program that we start has any need of them.
pub const VARIABLES: [&str; 4] = [
    "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_AUTH",
    "CONSUL_REDIS_PASSWORD",
    "CONSUL_REDIS_SENTINEL_PASSWORD",
];

/// Where a secret is.
#[derive(Clone, Default)]
pub enum SecretSource {
    /// There is none.
    #[default]
    None,
    /// In a file, read again at each use, so that a rotated secret needs no restart. White space at
    /// the end is not part of it.
    File(PathBuf),
    /// Given in the environment.
    Value(SecretString),
}

/// A secret that cannot be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is no secret: it is empty, longer than {SECRET_LEN_MAX} bytes, or not text", .0.display())]
    NoSecret(PathBuf),
}

impl SecretSource {
    /// The secret as it is now.
    ///
    /// # Errors
    /// [`SecretError`] when its file cannot be read or holds no secret.
    pub fn read(&self) -> Result<Option<SecretString>, SecretError> {
        match self {
            Self::None => Ok(None),
            Self::Value(secret) => Ok(Some(secret.clone())),
            Self::File(path) => read_file(path).map(Some),
        }
    }

    /// The file, if every user may read the secret in it.
    pub fn open_to_all(&self) -> Option<&Path> {
        let Self::File(path) = self else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        (mode & READ_BY_OTHERS != 0).then_some(path)
    }

    /// There is a secret, readable or not.
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
}

fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > SECRET_LEN_MAX {
        return Err(SecretError::NoSecret(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| SecretError::NoSecret(path.to_owned()))?;
    let secret = text.trim_end();
    if secret.is_empty() {
        return Err(SecretError::NoSecret(path.to_owned()));
    }
    Ok(SecretString::from(secret.to_owned()))
}

impl PartialEq for SecretSource {
    /// The same place; for one that was given, the same secret.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::File(ours), Self::File(theirs)) => ours == theirs,
            (Self::Value(ours), Self::Value(theirs)) => {
                ours.expose_secret() == theirs.expose_secret()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Value(_) => f.write_str("given"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_is_read_again_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let source = SecretSource::File(path.clone());
        for secret in ["first", "second"] {
            std::fs::write(&path, format!("{secret}\n")).unwrap();
            assert_eq!(source.read().unwrap().unwrap().expose_secret(), secret);
        }
        let given = SecretSource::Value(SecretString::from("hunter2".to_owned()));
        assert!(!format!("{source:?} {given:?}").contains("hunter2"));
    }

    #[test]
    fn an_empty_or_missing_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let missing = SecretSource::File(path.clone()).read().unwrap_err().to_string();
        assert!(missing.starts_with(&format!("cannot read the secret in {}", path.display())));
        std::fs::write(&path, "\n").unwrap();
        let empty = SecretSource::File(path.clone()).read().unwrap_err().to_string();
        assert!(empty.starts_with(&format!("{} is no secret", path.display())), "{empty}");
    }
}
