//! What the data on the volume belongs to, noted beside it.
//!
//! An append-only file does not hold the replication id (`docs/facts/sentinel.md` 8), so a Redis that keeps nothing else
//! comes back with data of a history that nobody knows; and where its address has changed too, nobody can tell that it is
//! the group's own. So the last history that it followed or led is noted on the volume, and the record knows the group's.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::core::address::GroupName;
use crate::core::observed::{InstanceAnswer, ReplId, Role};
use crate::core::record::Record;

/// The file's name, in the server's data directory.
pub const FILE: &str = "consul-redis.member";

/// The group that the data was last a part of, and the history that it was at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: GroupName,
    /// The history.
    pub replid: ReplId,
}

impl Membership {
    /// What is noted on the volume; `None` when nothing is, or nothing that can be read.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data.join(FILE)).ok()?).ok()
    }

    /// What is to be noted of an instance: the history it leads, or follows with its link up.
    pub fn of(group: &GroupName, answer: &InstanceAnswer) -> Option<Self> {
        let is_at_it = match answer.role {
            Role::Primary { .. } => true,
            Role::Replica { link_up, .. } => link_up,
        };
        let (group, replid) = (group.clone(), answer.replid.clone());
        (is_at_it && answer.not_ready.is_none()).then_some(Self { group, replid })
    }

    /// Notes it, whole or not at all.
    ///
    /// # Errors
    /// When the volume cannot be written to.
    pub fn write(&self, data: &Path) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.persist(data.join(FILE))?;
        Ok(())
    }

    /// The data is the group's own: one of its writers has written that history.
    pub fn is_of(&self, record: &Record) -> bool {
        self.group == record.group && record.lineage.contains(&self.replid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Membership::read(dir.path()), None);
        let noted = Membership { group: "redis".parse().unwrap(), replid: ReplId("a".to_owned()) };
        noted.write(dir.path()).unwrap();
        noted.write(dir.path()).unwrap();
        assert_eq!(Membership::read(dir.path()), Some(noted));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Membership::read(dir.path()), None);
    }
}
