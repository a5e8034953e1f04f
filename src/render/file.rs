//! Replacing a file: at once or not at all, and only when there is something new in it.
//!
//! Everything here waits for the disk, so it is called off the runtime's thread.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use tempfile::NamedTempFile;

use crate::config::template::Owner;

/// Permissions of a file that did not exist before, when nothing is said.
const DEFAULT_MODE: u32 = 0o644;
/// The permission bits of a file's mode.
const PERMISSIONS: u32 = 0o7777;

/// Where a rendered text goes, and what the file is to be like.
#[derive(Debug, Clone)]
pub struct Destination {
    path: PathBuf,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// The new file, beside the old one.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    at: Destination,
}

impl Destination {
    /// A destination with its owner looked up.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub fn new(path: &Path, mode: Option<u32>, owner: &Owner) -> Result<Self, String> {
        let user = |name: &str| User::from_name(name).map(|u| u.map(|u| u.uid.as_raw()));
        let group = |name: &str| Group::from_name(name).map(|g| g.map(|g| g.gid.as_raw()));
        Ok(Self {
            path: path.to_owned(),
            mode,
            uid: id(owner.user.as_deref(), "user", user)?,
            gid: id(owner.group.as_deref(), "group", group)?,
        })
    }

    /// The file holds `text` already, and is as it should be.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn holds(&self, text: &str) -> io::Result<bool> {
        let Some(found) = self.found()? else { return Ok(false) };
        let differs = |wanted: Option<u32>, is: u32| wanted.is_some_and(|wanted| wanted != is);
        if differs(self.mode, found.mode() & PERMISSIONS)
            || differs(self.uid, found.uid())
            || differs(self.gid, found.gid())
            || found.len() != text.len() as u64
        {
            return Ok(false);
        }
        Ok(fs::read(&self.path)? == text.as_bytes())
    }

    /// Writes `text` beside the old file, on disk, with the permissions and the owner that it is to have.
    ///
    /// # Errors
    /// When that cannot be done; nothing is left behind.
    pub fn prepare(&self, text: &str) -> io::Result<NewFile> {
        // A link stays a link: what it leads to is replaced.
        let path = match fs::canonicalize(&self.path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.path.clone(),
            Err(error) => return Err(error),
        };
        let at = Self { path, ..self.clone() };
        let found = at.found()?;
        // Hidden, so that a program that reads all of a directory's files does not take it for one.
        let mut file =
            tempfile::Builder::new().prefix(&format!(".{}.", at.name())).tempfile_in(at.dir())?;
        file.write_all(text.as_bytes())?;
        let own = file.as_file().metadata()?;
        let owner = |wanted: Option<u32>, found: Option<u32>, own: u32| {
            wanted.or(found).filter(|id| *id != own)
        };
        let uid = owner(at.uid, found.as_ref().map(Metadata::uid), own.uid());
        let gid = owner(at.gid, found.as_ref().map(Metadata::gid), own.gid());
        if uid.is_some() || gid.is_some() {
            fchown(file.as_file(), uid, gid)?;
        }
        let kept = found.map(|found| found.mode() & PERMISSIONS);
        let mode = at.mode.or(kept).unwrap_or(DEFAULT_MODE);
        // After the owner, for a change of owner takes some permissions away.
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        Ok(NewFile { file, at })
    }

    /// A command is due for the file as it is: it was put in place, and the command has not run since.
    pub fn is_pending(&self) -> bool {
        fs::symlink_metadata(self.pending()).is_ok_and(|found| found.is_file())
    }

    /// The command has succeeded.
    ///
    /// # Errors
    /// When the mark cannot be taken away.
    pub fn settled(&self) -> io::Result<()> {
        match fs::remove_file(self.pending()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn found(&self) -> io::Result<Option<Metadata>> {
        match fs::metadata(&self.path) {
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(_) => Err(io::Error::other("it is there, and no file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn dir(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The mark that a command is due. It outlives us, so that a kill between the two is made good.
    fn pending(&self) -> PathBuf {
        self.dir().join(format!(".{}.pending", self.name()))
    }

    fn old(&self) -> PathBuf {
        self.dir().join(format!("{}.old", self.name()))
    }
}

impl NewFile {
    /// The path of the file that is rendered.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts it in the old file's place, which is kept as `<destination>.old`; `due`: a command is to follow.
    ///
    /// # Errors
    /// When that cannot be done; the old file is still there.
    pub fn put_in_place(self, due: bool) -> io::Result<()> {
        let Self { file, at } = self;
        if at.found()?.is_some() {
            keep(&at.path, &at.old(), at.dir())?;
        }
        if due {
            // Not flushed, nor is the directory: after a loss of power the program is started anew, and a file is
            // either the old one or the new one.
            mark(&at.pending())?;
        }
        file.persist(&at.path).map(drop).map_err(|error| error.error)
    }
}

/// Makes an empty file, where there is none yet. A user who may write to the directory must not lead us to another file
/// by a link of its name.
fn mark(path: &Path) -> io::Result<()> {
    match File::options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(path)? {
                found if found.is_file() => Ok(()),
                _ => Err(io::Error::other(format!("{} is no file of ours", path.display()))),
            }
        }
        made => made.map(drop),
    }
}

/// Makes `old` what `path` is now, leaving `path` as it is.
fn keep(path: &Path, old: &Path, dir: &Path) -> io::Result<()> {
    let beside = tempfile::Builder::new().prefix(".old.").tempfile_in(dir)?.into_temp_path();
    fs::remove_file(&beside)?;
    // Where others' files may not be linked, a copy does as well.
    if fs::hard_link(path, &beside).is_err() {
        fs::copy(path, &beside)?;
    }
    // Two links to one file are left as they are by a rename.
    match fs::remove_file(old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    beside.persist(old).map_err(|error| error.error)
}

/// A name or a number as an id.
fn id(
    name: Option<&str>,
    what: &str,
    look_up: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<Option<u32>, String> {
    let Some(name) = name else { return Ok(None) };
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    match look_up(name) {
        Ok(Some(id)) => Ok(Some(id)),
        Ok(None) => Err(format!("there is no {what} `{name}`")),
        Err(error) => Err(format!("{what} `{name}` cannot be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(path: &Path) -> Destination {
        Destination::new(path, None, &Owner::default()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_keeps_its_mode_and_the_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conf");
        let at = destination(&path);
        assert!(!at.holds("one").unwrap());
        at.prepare("one").unwrap().put_in_place(false).unwrap();
        assert!(at.holds("one").unwrap() && !at.holds("two").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & PERMISSIONS, DEFAULT_MODE);
        assert_eq!(names(dir.path()), ["a.conf"]);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for (text, before) in [("two", "one"), ("three", "two")] {
            at.prepare(text).unwrap().put_in_place(false).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_to_string(dir.path().join("a.conf.old")).unwrap(), before);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & PERMISSIONS, 0o600);
        assert_eq!(names(dir.path()), ["a.conf", "a.conf.old"]);
    }

    #[test]
    fn a_candidate_that_is_not_wanted_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = destination(&dir.path().join("a.conf"));
        let candidate = at.prepare("one").unwrap();
        assert_eq!(fs::read_to_string(candidate.path()).unwrap(), "one");
        drop(candidate);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_mode_that_is_asked_for_is_given_and_seen_to_differ() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conf");
        destination(&path).prepare("one").unwrap().put_in_place(false).unwrap();
        let at = Destination::new(&path, Some(0o640), &Owner::default()).unwrap();
        assert!(!at.holds("one").unwrap());
        at.prepare("one").unwrap().put_in_place(false).unwrap();
        assert!(at.holds("one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & PERMISSIONS, 0o640);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "one").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        destination(&link).prepare("two").unwrap().put_in_place(false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "two");
    }

    #[test]
    fn a_command_is_due_until_it_has_succeeded() {
        let dir = tempfile::tempdir().unwrap();
        let at = destination(&dir.path().join("a.conf"));
        at.prepare("one").unwrap().put_in_place(true).unwrap();
        assert!(at.is_pending());
        at.settled().unwrap();
        at.settled().unwrap();
        assert!(!at.is_pending());
    }

    #[test]
    fn a_link_in_the_place_of_the_mark_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, mark) = (dir.path().join("victim"), dir.path().join(".a.conf.pending"));
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, &mark).unwrap();
        let at = destination(&dir.path().join("a.conf"));
        assert!(!at.is_pending());
        let error = at.prepare("one").unwrap().put_in_place(true).unwrap_err().to_string();
        assert!(error.contains(".a.conf.pending"), "{error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        fs::remove_file(&mark).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &mark).unwrap();
        assert!(at.prepare("one").unwrap().put_in_place(true).is_err());
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(destination(dir.path()).prepare("one").is_err());
        assert!(destination(&dir.path().join("no/such/dir/a")).prepare("one").is_err());
    }

    #[test]
    fn owners_are_names_or_numbers() {
        let owner = |user: &str| Owner { user: Some(user.to_owned()), group: None };
        let path = Path::new("a");
        assert_eq!(Destination::new(path, None, &owner("root")).unwrap().uid, Some(0));
        assert_eq!(Destination::new(path, None, &owner("4711")).unwrap().uid, Some(4711));
        let error = Destination::new(path, None, &owner("no-such-user")).unwrap_err();
        assert_eq!(error, "there is no user `no-such-user`");
    }
}
