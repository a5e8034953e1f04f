//! The server's own config file, on the data volume.
//!
//! Redis and Sentinel keep what they have become in their config file, so it must be one that they can write to and
//! that outlives the container. A file from the image or a mounted one is copied there once, and never again: what
//! stands there then is the server's own.
//!
//! Files that it includes are copied into it: the server writes its config anew, and would find what it has written and
//! what it includes to say the same twice. What it was made of is kept beside it, so that another image's file, which
//! is not used any more, is not passed over without a word.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::exec::conf_words::words;
use crate::exec::settings::ServerKind;
use crate::exit::{Exit, Failure};

/// Longest config file read, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// The mode of a config file.
const OURS_ALONE: u32 = 0o600;
/// How deep files may include one another.
const INCLUDES_MAX: usize = 8;
/// What is appended to the name of a config, for what it was made of.
const SOURCE: &str = ".source";
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
    /// The directives that the image's file, or the mounted one, has otherwise than when this one was made of it, and
    /// that this one does not have either.
    pub differs: BTreeSet<String>,
}

impl ServerConfig {
    /// It holds a password.
    pub fn is_secret(&self) -> bool {
        holds_secret(&self.text)
    }
}

/// Finds the file on the data volume, or copies it there. One that is made says when Redis saves its data, if it
/// `saves` as it does without a word.
///
/// # Errors
/// A [`Failure`] that names the file which cannot be read or written.
pub fn prepare(
    source: Option<&Path>,
    data: &Path,
    role: ServerKind,
    saves: bool,
) -> Result<ServerConfig, Failure> {
    let name = source.and_then(Path::file_name).unwrap_or_else(|| role.config_name().as_ref());
    let path = data.join(name);
    let foreign = source.filter(|source| !lies_in(source, data));
    let given = match foreign {
        Some(source) => read(source)?.map(|text| included(source, &text, data, 0)).transpose()?,
        None => None,
    };
    if let Some(text) = read(&path)? {
        narrow(&path);
        // The file stays as it is; what it includes is as good as in it.
        let text = included(&path, &text, data, 0)?;
        let differs = given.map(|given| changed(&path, &given, &text)).transpose()?;
        return Ok(ServerConfig {
            path,
            text,
            is_new: false,
            differs: differs.unwrap_or_default(),
        });
    }
    let text = match source {
        // A file that is to be on the volume, and is not there yet, is made.
        Some(source) => match given {
            Some(text) => text,
            None if lies_in(source, data) => made(role, saves),
            None => {
                let message = format!("there is no {}", source.display());
                return Err(Failure::new(Exit::Config, message)
                    .hint("name the config that is in the image or on the host, or none at all"));
            }
        },
        None => made(role, saves),
    };
    if foreign.is_some() {
        keep_source(&path, &text)?;
    }
    write_new(&path, &text)?;
    Ok(ServerConfig { path, text, is_new: true, differs: BTreeSet::new() })
}

/// The text with every file that it includes in its place. The server looks for them from its working directory, the
/// data directory; an image's file may mean those beside it.
fn included(path: &Path, text: &str, data: &Path, depth: usize) -> Result<String, Failure> {
    let mut whole = String::new();
    for line in text.lines() {
        // The server says what is wrong with a line that has no words.
        let mut words = words(line).unwrap_or_default().into_iter();
        let is_include = words.next().is_some_and(|word| word.eq_ignore_ascii_case("include"));
        let Some(name) = words.next().filter(|_| is_include) else {
            whole.push_str(line);
            whole.push('\n');
            continue;
        };
        let name = name.as_str();
        let wrong = |what: String| {
            let message = format!("{}: include {name}: {what}", path.display());
            Err(Failure::new(Exit::Config, message).hint(
                "name each file, by its path; exec copies what it holds into the server's config",
            ))
        };
        if name.contains(['*', '?', '[']) {
            return wrong("patterns are not followed".to_owned());
        }
        if depth == INCLUDES_MAX {
            return wrong(format!("files include one another more than {INCLUDES_MAX} deep"));
        }
        let beside = path.parent().unwrap_or(Path::new(".")).join(name);
        let found = [data.join(name), beside].into_iter().find(|file| file.is_file());
        let Some(found) = found else { return wrong("there is no such file".to_owned()) };
        let Some(inner) = read(&found)? else { return wrong("there is no such file".to_owned()) };
        whole.push_str(&included(&found, &inner, data, depth + 1)?);
    }
    Ok(whole)
}

fn source_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SOURCE);
    PathBuf::from(name)
}

/// Notes what a config was made of.
fn keep_source(path: &Path, text: &str) -> Result<(), Failure> {
    let kept = source_of(path);
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot write {}: {error}", kept.display());
            Err(Failure::new(Exit::Config, message))
        }
        Ok(()) | Err(_) => write_new(&kept, text),
    }
}

/// The directives of `given` that `text` was not made of, and does not hold. Once it holds them all, it is as good as
/// made of this one.
fn changed(path: &Path, given: &str, text: &str) -> Result<BTreeSet<String>, Failure> {
    let Some(before) = read(&source_of(path))? else {
        // An earlier version has noted nothing: from now on it is.
        keep_source(path, given)?;
        return Ok(BTreeSet::new());
    };
    let (before, holds) = (lines(&before), lines(text));
    let given_lines = lines(given);
    let added = given_lines.difference(&before).filter(|line| !holds.contains(*line));
    let gone = before.difference(&given_lines).filter(|line| holds.contains(*line));
    let name = |line: &Vec<String>| line.first().cloned().unwrap_or_default();
    let differs: BTreeSet<String> = added.chain(gone).map(name).collect();
    if differs.is_empty() && before != given_lines {
        keep_source(path, given)?;
    }
    Ok(differs)
}

/// Each directive in its words.
fn lines(text: &str) -> BTreeSet<Vec<String>> {
    let words = |line: &str| -> Vec<String> {
        let mut words = words(line).unwrap_or_else(|| vec![line.trim().to_owned()]);
        if let Some(name) = words.first_mut() {
            name.make_ascii_lowercase();
        }
        words
    };
    text.lines().map(words).filter(|line| !line.is_empty()).collect()
}

/// Redis before 7.0 saves nothing when it has a config that says nothing of it, and does without one: what later ones
/// do is written down.
fn made(role: ServerKind, saves: bool) -> String {
    let saves = match role {
        ServerKind::Redis if saves => "save 3600 1\nsave 300 100\nsave 60 10000\n",
        _ => "",
    };
    format!("# The config of this {role}, made by consul-redis exec. {role} keeps it.\n{saves}")
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

/// One from before is for its owner alone from now on: the server writes passwords into it that it is told while it
/// runs.
fn narrow(path: &Path) {
    let narrowed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(OURS_ALONE));
    if let Err(error) = narrowed {
        tracing::warn!("others may read {}: {error}", path.display());
    }
}

fn holds_secret(text: &str) -> bool {
    text.lines().filter_map(words).any(|words| {
        let line = words.join(" ").to_ascii_lowercase();
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
        let first = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
        assert_eq!((first.text.as_str(), first.is_new), ("port 7000\n", true));
        assert_eq!(first.path, data.path().join("my.conf"));
        assert_eq!(mode(&first.path), 0o600);
        let wide = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&first.path, wide).unwrap();
        std::fs::write(&first.path, "port 7000\nreplicaof 10.0.0.1 6379\n").unwrap();
        std::fs::write(&source, "port 8000\n").unwrap();
        let again = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
        assert!(!again.is_new && again.text.contains("replicaof"), "{again:?}");
        assert_eq!(mode(&first.path), 0o600, "an older one is narrowed");
        // The volume alone is enough.
        std::fs::remove_file(&source).unwrap();
        assert!(!prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap().is_new);
        assert_eq!(
            std::fs::read_dir(data.path()).unwrap().count(),
            2,
            "it, and what it was made of"
        );
    }

    #[test]
    fn what_the_image_has_otherwise_by_now_is_told_until_it_is_applied() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = image.path().join("redis.conf");
        let again = |text: &str| {
            std::fs::write(&source, text).unwrap();
            let prepared = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
            prepared.differs.into_iter().collect::<Vec<_>>().join(", ")
        };
        assert_eq!(again("maxmemory 1gb\nappendonly yes\n"), "");
        assert_eq!(again("# a comment\nmaxmemory  1gb\nappendonly yes\n"), "");
        let other = "maxmemory 2gb\nrequirepass secret\n";
        assert_eq!(again(other), "appendonly, maxmemory, requirepass");
        assert_eq!(again(other), "appendonly, maxmemory, requirepass", "it is not forgotten");
        let own = data.path().join("redis.conf");
        std::fs::write(&own, "maxmemory 2gb\nappendonly yes\nreplicaof a 1\n").unwrap();
        assert_eq!(again(other), "appendonly, requirepass");
        std::fs::write(&own, other).unwrap();
        assert_eq!(again(other), "");
        assert_eq!(again("maxmemory 3gb\nrequirepass secret\n"), "maxmemory");
    }

    #[test]
    fn files_that_are_included_are_copied_into_it() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = image.path().join("redis.conf");
        std::fs::write(&source, "appendonly yes\ninclude more.conf\nmaxmemory 1gb\n").unwrap();
        let missing = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap_err();
        assert!(missing.message.ends_with("include more.conf: there is no such file"), "{missing}");
        let more = image.path().join("more.conf");
        std::fs::write(&more, "port 7000\nuser app on >hunter2 ~* +@all\n").unwrap();
        let made = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
        let wanted = "appendonly yes\nport 7000\nuser app on >hunter2 ~* +@all\nmaxmemory 1gb\n";
        assert_eq!(std::fs::read_to_string(&made.path).unwrap(), wanted);
        assert!(made.is_secret());
        for kept in [made.path.clone(), source_of(&made.path)] {
            assert_eq!(mode(&kept), 0o600, "{}", kept.display());
        }
        // One that is there already counts with all that it includes.
        std::fs::write(&made.path, format!("include {}\n", more.display())).unwrap();
        let kept = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
        assert!(kept.is_secret() && kept.text.contains("port 7000"), "{kept:?}");
        for (name, wrong) in [("*.conf", "patterns"), ("redis.conf", "more than 8 deep")] {
            let looping = tempfile::tempdir().unwrap();
            let file = looping.path().join("redis.conf");
            std::fs::write(&file, format!("include {name}\n")).unwrap();
            let data = tempfile::tempdir().unwrap();
            let refused = prepare(Some(&file), data.path(), ServerKind::Redis, true).unwrap_err();
            assert!(refused.message.contains(wrong), "{refused}");
        }
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
            let made = prepare(Some(&source), data.path(), ServerKind::Redis, true).unwrap();
            assert_eq!(made.is_secret(), secret, "{line}");
            assert_eq!(mode(&made.path), 0o600, "{line}");
        }
    }

    #[test]
    fn without_one_there_is_one_all_the_same() {
        let data = tempfile::tempdir().unwrap();
        let redis = prepare(None, data.path(), ServerKind::Redis, true).unwrap();
        assert_eq!(redis.path, data.path().join("redis.conf"));
        assert!(redis.text.contains("\nsave 3600 1\n"), "{}", redis.text);
        let named = data.path().join("own.conf");
        assert_eq!(
            prepare(Some(&named), data.path(), ServerKind::Sentinel, true).unwrap().path,
            named
        );
        let missing =
            prepare(Some(Path::new("/no/such.conf")), data.path(), ServerKind::Redis, true);
        assert_eq!(missing.unwrap_err().message, "there is no /no/such.conf");
        let readonly = prepare(None, Path::new("/proc"), ServerKind::Redis, true).unwrap_err();
        assert!(readonly.message.starts_with("cannot write /proc/redis.conf"), "{readonly}");
        assert!(readonly.hint.unwrap().contains("must be a volume that this user may write to"));
    }
}
