//! What the data on the volume belongs to, noted beside it.
//!
//! An append-only file does not hold the replication id (`docs/facts/sentinel.md` 8), so a Redis that keeps nothing else
//! comes back with data of a history that nobody knows; and where its address has changed too, nobody can tell that it is
//! the group's own. So the last history that it followed or led is noted on the volume, and the record knows the group's.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::core::address::GroupName;
use crate::core::observed::{Continued, InstanceAnswer, ReplId, Role};
use crate::core::record::Record;
use crate::core::writer::histories;

/// The file's name, in the server's data directory.
pub const FILE: &str = "consul-redis.member";

/// The group that the data was last a part of, and the history that it was at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: GroupName,
    /// The history.
    pub replid: ReplId,
    /// The server wrote that history itself.
    #[serde(default)]
    pub led: bool,
    /// The history that is explained in Consul, until the server has found its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained: Option<ReplId>,
}

impl Membership {
    /// What is noted on the volume; `None` when nothing is, or nothing that can be read.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data.join(FILE)).ok()?).ok()
    }

    /// What is to be noted of an instance: the history it leads, or follows with its link up.
    pub fn of(group: &GroupName, answer: &InstanceAnswer) -> Option<Self> {
        let (led, is_at_it) = match answer.role {
            Role::Primary { .. } => (true, true),
            Role::Replica { link_up, .. } => (false, link_up),
        };
        let (group, replid) = (group.clone(), answer.replid.clone());
        (is_at_it && answer.not_ready.is_none()).then_some(Self {
            group,
            replid,
            led,
            explained: None,
        })
    }

    /// What the history of a server that was started on this volume goes on from, where it had to begin one anew, and
    /// has not found its place yet.
    pub fn continued(&self, group: &GroupName, answer: &InstanceAnswer) -> Option<Continued> {
        let waits = matches!(answer.role, Role::Replica { link_up: false, .. });
        let anew = histories(answer).all(|id| id != &self.replid);
        let ours = &self.group == group && answer.keys > 0 && answer.shows_its_data();
        let (of, led) = (self.replid.clone(), self.led);
        (ours && waits && anew).then_some(Continued { of, led })
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
        let (group, replid) = ("redis".parse().unwrap(), ReplId("a".to_owned()));
        let noted = Membership { group, replid, led: true, explained: None };
        noted.write(dir.path()).unwrap();
        noted.write(dir.path()).unwrap();
        assert_eq!(Membership::read(dir.path()), Some(noted));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Membership::read(dir.path()), None);
    }
}
