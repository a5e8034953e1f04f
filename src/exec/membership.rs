//! What the data on the volume belongs to, noted beside it.
//!
//! An append-only file does not hold the replication id (`docs/facts/sentinel.md` 8), so a Redis that keeps nothing
//! else comes back with data of an unknown history; and where its address has changed too, no agent can see that it is
//! the group's own. So the last history that it followed or led is noted on the volume, and the record knows the
//! group's.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::{Exec, NOTE_TIMEOUT};
use crate::config::GroupConfig;
use crate::consul::client::Consul;
use crate::core::group::Outcome;
use crate::core::identity::address::GroupName;
use crate::core::known::observed::{Continued, InstanceAnswer, ReplId};
use crate::core::published::projection::Op;
use crate::core::published::record::Record;
use crate::core::situation::writer::histories;

/// The file's name, in the server's data directory.
pub const FILE: &str = "consul-redis.member";

/// The group that the data was last a part of, and the history that it was at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group's name, as Sentinel has it.
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
        let led = answer.is_primary();
        let (group, replid) = (group.clone(), answer.replid.clone());
        ((led || answer.is_linked()) && answer.not_ready.is_none()).then_some(Self {
            group,
            replid,
            led,
            explained: None,
        })
    }

    /// What the history of a server that was started on this volume goes on from, where it had to begin one anew, and
    /// has not found its place yet.
    pub fn continued(&self, group: &GroupName, answer: &InstanceAnswer) -> Option<Continued> {
        let waits = answer.is_detached();
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
        // On disk before it takes the old one's place: after a power cut an empty note would make the data a
        // stranger's.
        file.as_file().sync_all()?;
        file.persist(data.join(FILE))?;
        std::fs::File::open(data)?.sync_all()
    }

    /// The server wrote the last history of the group itself: its files hold what the last writer took.
    pub fn wrote_last(&self, record: &Record) -> bool {
        let last = record.last_writer.as_ref().map(|writer| &writer.replid);
        self.group == record.group && self.led && last == Some(&self.replid)
    }

    /// The data is the group's own: one of its writers has written that history.
    pub fn is_of(&self, record: &Record) -> bool {
        self.group == record.group && record.lineage.contains(&self.replid)
    }
}

/// What is noted of the data: on the volume, and in Consul, while the agents cannot see from it alone that it is the
/// group's.
pub(super) struct Note {
    /// What was on the volume before the server was started.
    before: Option<Membership>,
    /// What is there now.
    now: Option<Membership>,
    /// The history that was begun anew, as the last look found it.
    anew: Option<ReplId>,
    /// The history that is explained in Consul.
    explained: Option<ReplId>,
}

impl Note {
    /// What is there before the server is started.
    pub fn begin(exec: &Exec) -> Self {
        let before = Membership::read(&exec.data_dir());
        let explained = before.as_ref().and_then(|before| before.explained.clone());
        Self { before, now: None, anew: None, explained }
    }

    /// What was there belongs to a group, and the server has not found its place since it was started: the agents may
    /// wait to be told whose history its data goes on from.
    pub fn is_awaited(&self) -> bool {
        self.before.is_some()
            && self.now.is_none()
            && (self.anew.is_none() || self.explained != self.anew)
    }

    /// Notes what has changed.
    pub async fn renew(&mut self, exec: &Exec) {
        let Some((group, answer)) = exec.look().await else { return };
        if let Some(now) = Membership::of(&group.policy.group, &answer) {
            let settled = match &self.explained {
                Some(history) => put(exec, group, vec![forget(group, history)]).await,
                None => true,
            };
            if settled {
                self.explained = None;
            }
            let now = Membership { explained: self.explained.clone(), ..now };
            if self.now.as_ref() != Some(&now) && write(exec, &now) {
                self.now = Some(now);
            }
            return;
        }
        let began = answer.replid.clone();
        let Some(before) = self.before.as_mut().filter(|_| self.explained.as_ref() != Some(&began))
        else {
            return;
        };
        let Some(of) = before.continued(&group.policy.group, &answer) else { return };
        // An instance that is about to find its place has found it by the next look.
        if self.anew.replace(began.clone()).as_ref() != Some(&began) {
            return;
        }
        // First on the volume: what is in Consul is taken away by the next run, if not by this one.
        before.explained = Some(began.clone());
        if !write(exec, before) {
            return;
        }
        let key = group.layout.continued(&began);
        let value = serde_json::to_string(&of).unwrap_or_default();
        let last = self.explained.as_ref().map(|last| forget(group, last));
        let ops = last.into_iter().chain([Op::KeySet { key, value }]).collect();
        if put(exec, group, ops).await {
            info!(
                "noted in Consul that its data is the group's: it goes on from history {}",
                of.of.0
            );
            self.explained = Some(began);
        }
    }
}

fn write(exec: &Exec, note: &Membership) -> bool {
    let written = note.write(&exec.data_dir());
    if let Err(error) = &written {
        debug!("cannot note what the data belongs to: {error}");
    }
    written.is_ok()
}

fn forget(group: &GroupConfig, history: &ReplId) -> Op {
    Op::KeyDeleteTree { prefix: group.layout.continued(history) }
}

async fn put(exec: &Exec, group: &GroupConfig, ops: Vec<Op>) -> bool {
    let Ok(consul) = Consul::new(&exec.config.consul) else { return false };
    let fence = group.layout.state();
    let outcome = tokio::time::timeout(NOTE_TIMEOUT, consul.txn(&ops, &fence)).await;
    let done = matches!(outcome, Ok(Outcome::Committed { .. }));
    if !done {
        debug!("cannot note in Consul what the data belongs to: {outcome:?}");
    }
    done
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
