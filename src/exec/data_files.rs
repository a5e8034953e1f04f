//! Which of the files in its directory a server reads when it is started: its append-only files or its snapshot, and never
//! both. A snapshot beside `appendonly yes` is not read, nor is what a crash has left half written (`temp-PID.rdb`).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::core::cluster::start::{ReplPosition, StoredData};
use crate::core::identity::ids::ReplId;

/// The fields at the beginning of a snapshot fit into so many bytes: there are some ten of them.
const SNAPSHOT_HEAD_LEN: u64 = 4_096;
/// `REDIS0012`, or `VALKEY080`.
const MAGIC_LEN: usize = 9;
/// What a snapshot's magic begins with.
const MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];
/// A name and a value follow.
const FIELD: u8 = 0xFA;

/// Where a server has its data, by its settings.
#[derive(Debug, Clone)]
pub struct DataFiles {
    dir: PathBuf,
    appends: bool,
    snapshot: String,
    append_file: String,
    append_dir: String,
}

impl DataFiles {
    /// Those of a server with these settings; what they do not say is as Redis has it.
    pub fn new(dir: PathBuf, setting: impl Fn(&str) -> Option<String>) -> Self {
        let named = |name: &str, default: &str| setting(name).unwrap_or_else(|| default.to_owned());
        Self {
            dir,
            appends: setting("appendonly").is_some_and(|on| on.eq_ignore_ascii_case("yes")),
            snapshot: named("dbfilename", "dump.rdb"),
            append_file: named("appendfilename", "appendonly.aof"),
            append_dir: named("appenddirname", "appendonlydir"),
        }
    }

    /// The directory that they are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server will read.
    pub fn stored(&self) -> StoredData {
        let snapshot = self.dir.join(&self.snapshot);
        match self.appends {
            true if self.has_appended() => StoredData::Writes,
            false if has_bytes(&snapshot) => StoredData::Snapshot(snapshot_end(&snapshot)),
            true | false => StoredData::None,
        }
    }

    /// There is something that the server will read, or a snapshot that it would overwrite as another one's replica.
    pub fn holds_any(&self) -> bool {
        self.stored() != StoredData::None || has_bytes(&self.dir.join(&self.snapshot))
    }

    /// Redis before 7 has one file.
    fn has_appended(&self) -> bool {
        let manifest = format!("{}.manifest", self.append_file);
        has_bytes(&self.dir.join(&self.append_dir).join(manifest))
            || has_bytes(&self.dir.join(&self.append_file))
    }
}

fn has_bytes(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// Where a snapshot ends in its history; `None` where it does not say that: its server had never had a replica.
fn snapshot_end(path: &Path) -> Option<ReplPosition> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(SNAPSHOT_HEAD_LEN).read_to_end(&mut head).ok()?;
    end_in(&head)
}

fn end_in(head: &[u8]) -> Option<ReplPosition> {
    let (magic, fields) = head.split_at_checked(MAGIC_LEN)?;
    if !MAGICS.iter().any(|known| magic.starts_with(known)) {
        return None;
    }
    let (mut fields, mut history, mut offset) = (SnapshotHead(fields), None, None);
    while fields.byte() == Some(FIELD) {
        let (name, value) = (fields.text()?, fields.text()?);
        match name.as_str() {
            "repl-id" => history = Some(ReplId(value)),
            "repl-offset" => offset = value.parse().ok(),
            _ => {}
        }
    }
    Some(ReplPosition { history: history?, offset: offset? })
}

/// What is left of a snapshot's beginning.
struct SnapshotHead<'a>(&'a [u8]);

impl<'a> SnapshotHead<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A length; the error is the encoding of something else.
    fn length(&mut self) -> Option<Result<usize, u8>> {
        let first = self.byte()?;
        let low = first & 0x3F;
        Some(match first >> 6 {
            0 => Ok(usize::from(low)),
            1 => Ok(usize::from(low) << 8 | usize::from(self.byte()?)),
            2 => Ok(usize::try_from(u32::from_be_bytes(self.array()?)).ok()?),
            _ => Err(low),
        })
    }

    /// A string, or a number in few bytes. What is compressed is skipped: none of what is looked for is.
    fn text(&mut self) -> Option<String> {
        let number = match self.length()? {
            Ok(length) => return String::from_utf8(self.bytes(length)?.to_vec()).ok(),
            Err(0) => i32::from(i8::from_le_bytes(self.array()?)),
            Err(1) => i32::from(i16::from_le_bytes(self.array()?)),
            Err(2) => i32::from_le_bytes(self.array()?),
            Err(_) => {
                let (packed, _) = (self.length()?.ok()?, self.length()?);
                self.bytes(packed)?;
                return Some(String::new());
            }
        };
        Some(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, settings: &[(&str, &str)]) -> DataFiles {
        let setting = |name: &str| {
            let found = settings.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        DataFiles::new(dir.to_owned(), setting)
    }

    #[test]
    fn without_append_only_files_the_snapshot_counts_and_what_a_crash_has_left_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), "REDIS0011").unwrap();
        let plain = files(dir.path(), &[]);
        write("redis.conf");
        write("temp-4711.rdb");
        write("old.rdb");
        assert_eq!((plain.stored(), plain.holds_any()), (StoredData::None, false));
        // The server does not read these without `appendonly yes`.
        std::fs::create_dir(dir.path().join("appendonlydir")).unwrap();
        write("appendonlydir/appendonly.aof.manifest");
        write("appendonly.aof");
        assert_eq!(plain.stored(), StoredData::None);
        write("dump.rdb");
        assert_eq!(plain.stored(), StoredData::Snapshot(None));
        let named = files(dir.path(), &[("dbfilename", "orders.data")]);
        assert_eq!(named.stored(), StoredData::None);
        write("orders.data");
        assert_eq!(named.stored(), StoredData::Snapshot(None));
        std::fs::write(dir.path().join("orders.data"), "").unwrap();
        assert_eq!(named.stored(), StoredData::None);
    }

    #[test]
    fn with_append_only_files_they_alone_count_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), "file").unwrap();
        let appends = files(dir.path(), &[("appendonly", "yes")]);
        write("dump.rdb");
        assert_eq!(appends.stored(), StoredData::None);
        assert!(appends.holds_any(), "a copy of another one's data would overwrite it");
        std::fs::create_dir(dir.path().join("appendonlydir")).unwrap();
        assert_eq!(appends.stored(), StoredData::None, "an empty directory holds nothing");
        write("appendonlydir/appendonly.aof.manifest");
        assert_eq!(appends.stored(), StoredData::Writes);
        let elsewhere =
            [("appendonly", "yes"), ("appenddirname", "writes"), ("appendfilename", "w.log")];
        let elsewhere = files(dir.path(), &elsewhere);
        assert_eq!(elsewhere.stored(), StoredData::None);
        std::fs::create_dir(dir.path().join("writes")).unwrap();
        write("writes/w.log.manifest");
        assert_eq!(elsewhere.stored(), StoredData::Writes);
        std::fs::remove_dir_all(dir.path().join("writes")).unwrap();
        write("w.log");
        assert_eq!(elsewhere.stored(), StoredData::Writes, "as Redis before 7 has it");
    }

    /// As Redis 7.0 writes it.
    #[test]
    fn a_snapshot_says_where_it_ends() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let head = |offset: &[u8]| {
            let mut head =
                b"REDIS0010\xFA\x09redis-ver\x067.0.15\xFA\x0Aredis-bits\xC0\x40".to_vec();
            head.extend(b"\xFA\x05ctime\xC2\x6D\xA0\x5C\x65\xFA\x0Erepl-stream-db\xC0\x00");
            head.extend(b"\xFA\x07repl-id\x28");
            head.extend(id.as_bytes());
            head.extend(b"\xFA\x0Brepl-offset");
            head.extend(offset);
            head.extend(b"\xFA\x08aof-base\xC0\x00\xFE\x00\xFB\x01\x00");
            head
        };
        let end = |offset| Some(ReplPosition { history: ReplId(id.to_owned()), offset });
        assert_eq!(end_in(&head(b"\xC1\xD2\x04")), end(1_234));
        assert_eq!(end_in(&head(b"\x0C123456789012")), end(123_456_789_012));
        assert_eq!(end_in(&head(b"\xC3\x05\x0Aabcde")), None, "what is compressed");
        let valkey = [b"VALKEY080".as_slice(), &head(b"\xC0\x07")[MAGIC_LEN..]].concat();
        assert_eq!(end_in(&valkey), end(7));
        for damaged in [&head(b"")[..20], b"REDIS", b"", b"REDIS0010\xFE\x00", b"something else"] {
            assert_eq!(end_in(damaged), None);
        }
    }
}
