//! The server's own config file, on the data volume.
//!
//! Redis and Sentinel keep what they have become in their config file, so it must be one that they can write to and
//! that outlives the container. A file from the image or a mounted one is copied there once, and never again: what
//! stands there then is the server's own.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::exec::settings::ServerKind;
use crate::exit::{Exit, Failure};

/// Longest config file read, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// The mode of a config file.
const OURS_ALONE: u32 = 0o600;
/// What a line with a secret begins with.
const SECRETS: [&str; 7] = [
    "requirepass",
    "masterauth",
    "user",
    "sentinel auth-pass",
    "sentinel sentinel-pass",
    "tls-key-file-pass",
    "tls-client-key-file-pass",
];

/// The file that the server is started with, and what it says.
#[derive(Debug)]
pub struct ServerConfig {
    /// The path on the data volume.
    pub path: PathBuf,
    /// The text of the file.
    pub text: String,
    /// It was made now.
    pub is_new: bool,
}

impl ServerConfig {
    /// It holds a password.
    pub fn is_secret(&self) -> bool {
        holds_secret(&self.text)
    }
}

/// Finds the file on the data volume, or copies it there.
///
/// # Errors
/// A [`Failure`] that names the file which cannot be read or written.
pub fn prepare(
    source: Option<&Path>,
    data: &Path,
    role: ServerKind,
) -> Result<ServerConfig, Failure> {
    let name = source.and_then(Path::file_name).unwrap_or_else(|| role.config_name().as_ref());
    let path = data.join(name);
    if let Some(text) = read(&path)? {
        narrow(&path);
        return Ok(ServerConfig { path, text, is_new: false });
    }
    let text = match source {
        // A file that is to be on the volume, and is not there yet, is made.
        Some(source) => match read(source)? {
            Some(text) => text,
            None if lies_in(source, data) => made(role),
            None => {
                let message = format!("there is no {}", source.display());
                return Err(Failure::new(Exit::Config, message)
                    .hint("name the config that is in the image or on the host, or none at all"));
            }
        },
        None => made(role),
    };
    write_new(&path, &text)?;
    Ok(ServerConfig { path, text, is_new: true })
}

fn made(role: ServerKind) -> String {
    format!("# The config of this {role}, made by consul-redis exec. {role} keeps it.\n")
}

fn lies_in(file: &Path, dir: &Path) -> bool {
    let parent = file.parent().map(std::fs::canonicalize);
    parent.is_some_and(|parent| parent.ok() == std::fs::canonicalize(dir).ok())
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Config, format!("cannot read {}: {error}", path.display()))
            .hint("it must be a file that this user may read")
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.len() > FILE_LEN_MAX => {
            let what = format!("{} is longer than {FILE_LEN_MAX} bytes", path.display());
            return Err(Failure::new(Exit::Config, what));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(failed)
}

/// Written beside it and put in place in one step: a container that dies half-way leaves none, or all of it.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Config, format!("cannot write {}: {error}", path.display()))
            .hint(format!("{} must be a volume that this user may write to", dir.display()))
    };
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(OURS_ALONE);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error.error)),
    }
}

/// One from before is for its owner alone from now on: the server writes passwords into it that it is told while it runs.
fn narrow(path: &Path) {
    let narrowed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(OURS_ALONE));
    if let Err(error) = narrowed {
        tracing::warn!("others may read {}: {error}", path.display());
    }
}

fn holds_secret(text: &str) -> bool {
    text.lines().map(|line| line.trim_start().to_ascii_lowercase()).any(|line| {
        let begins = |word: &&str| {
            line.strip_prefix(*word).is_some_and(|rest| rest.starts_with(char::is_whitespace))
        };
        SECRETS.iter().any(begins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_copied_once_and_kept() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = image.path().join("my.conf");
        std::fs::write(&source, "port 7000\n").unwrap();
        let first = prepare(Some(&source), data.path(), ServerKind::Redis).unwrap();
        assert_eq!((first.text.as_str(), first.is_new), ("port 7000\n", true));
        assert_eq!(first.path, data.path().join("my.conf"));
        assert_eq!(mode(&first.path), 0o600);
        let wide = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&first.path, wide).unwrap();
        std::fs::write(&first.path, "port 7000\nreplicaof 10.0.0.1 6379\n").unwrap();
        std::fs::write(&source, "port 8000\n").unwrap();
        let again = prepare(Some(&source), data.path(), ServerKind::Redis).unwrap();
        assert!(!again.is_new && again.text.contains("replicaof"), "{again:?}");
        assert_eq!(mode(&first.path), 0o600, "an older one is narrowed");
        // The volume alone is enough.
        std::fs::remove_file(&source).unwrap();
        assert!(!prepare(Some(&source), data.path(), ServerKind::Redis).unwrap().is_new);
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn one_with_a_secret_is_for_us_alone() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, line, secret) in [
            ("a.conf", "requirepass hunter2", true),
            ("b.conf", "  Sentinel AUTH-PASS redis hunter2", true),
            ("c.conf", "user app on >hunter2 ~* +@all", true),
            ("d.conf", "# requirepass x\nusername-like yes", false),
        ] {
            let source = image.path().join(name);
            std::fs::write(&source, line).unwrap();
            let made = prepare(Some(&source), data.path(), ServerKind::Redis).unwrap();
            assert_eq!(made.is_secret(), secret, "{line}");
            assert_eq!(mode(&made.path), 0o600, "{line}");
        }
    }

    #[test]
    fn without_one_there_is_one_all_the_same() {
        let data = tempfile::tempdir().unwrap();
        let redis = prepare(None, data.path(), ServerKind::Redis).unwrap();
        assert_eq!(redis.path, data.path().join("redis.conf"));
        let named = data.path().join("own.conf");
        assert_eq!(prepare(Some(&named), data.path(), ServerKind::Sentinel).unwrap().path, named);
        let missing = prepare(Some(Path::new("/no/such.conf")), data.path(), ServerKind::Redis);
        assert_eq!(missing.unwrap_err().message, "there is no /no/such.conf");
        let readonly = prepare(None, Path::new("/proc"), ServerKind::Redis).unwrap_err();
        assert!(readonly.message.starts_with("cannot write /proc/redis.conf"), "{readonly}");
        assert!(readonly.hint.unwrap().contains("must be a volume that this user may write to"));
    }
}
