//! What became of the death of an owner of slots: each of it is told once.

use super::{ClusterLoop, ClusterOutput};
use crate::cluster::claims::{Claims, Hastened};
use crate::cluster::duties::LeftDeath;
use crate::cluster::record::{ClusterRecord, ClusterRole, ClusterStore};
use crate::cluster::renewal::NodeSeen;
use crate::cluster::table::NodeId;
use crate::group::Aftermath;
use crate::known::observed::DeathSign;
use crate::time::Mono;

/// A death for which this agent had the nodes hurry.
#[derive(Debug)]
pub(super) struct HastenedDeath {
    sign: DeathSign,
    /// The number of its shard.
    shard: u32,
    /// When it ended, as far as this agent knows.
    ended: Mono,
    /// When it was written down.
    told: Mono,
}

impl ClusterLoop {
    /// This agent has written down that the nodes are to hurry.
    pub(super) fn note_hastened(
        &mut self,
        store: &ClusterStore,
        claims: &Claims,
        now: Mono,
        outputs: &mut Vec<ClusterOutput>,
    ) {
        let before = self.claims.0.hastened.as_ref().map(|hastened| &hastened.begun);
        let is_new = |hastened: &&Hastened| {
            !hastened.over
                && hastened.begun.by == self.policy.agent
                && Some(&hastened.begun) != before
        };
        // What was there before this agent was started, an agent of its name has counted.
        let new = claims.hastened.as_ref().filter(|_| self.store.is_some()).filter(is_new);
        let found = new.zip(store.record()).and_then(|(hastened, record)| {
            let shard = shard_of(record, &hastened.dead)?;
            Some((&hastened.dead, shard, &record.nodes.get(&hastened.dead)?.address))
        });
        let Some((dead, shard, address)) = found else { return };
        let refused = || self.nodes.get(address).and_then(|seen| seen.refused_since);
        let (sign, ended) = match self.deaths.get(dead) {
            Some(death) => (death.sign(), death.at),
            None => (DeathSign::Refused, refused().unwrap_or(now)),
        };
        outputs.push(ClusterOutput::Died(sign, Aftermath::Voting));
        self.hastened.insert(dead.clone(), HastenedDeath { sign, shard, ended, told: now });
    }

    /// Another node is published in the place of one for which this agent had the nodes hurry.
    pub(super) fn note_replaced(
        &mut self,
        store: &ClusterStore,
        now: Mono,
        outputs: &mut Vec<ClusterOutput>,
    ) {
        let Some(record) = store.record() else { return };
        self.hastened.retain(|dead, death| {
            let owner = record.shards.get(&death.shard).map(|shard| &shard.owner);
            let another = owner.is_some_and(|owner| owner != dead);
            let served = record.serving(death.shard, ClusterRole::Primary).next().is_some();
            if another && served {
                let after = Aftermath::Replaced(now - death.ended);
                outputs.push(ClusterOutput::Died(death.sign, after));
            }
            !(another && served)
        });
    }

    /// Says, of each death once, why it is left to the nodes; and whether they have left the owner in its place.
    pub(super) fn note_left(&mut self, left: Option<LeftDeath>, outputs: &mut Vec<ClusterOutput>) {
        let Some(record) = self.store.as_ref().and_then(ClusterStore::record) else { return };
        let answers_since = |id: &NodeId, since: Mono| {
            let seen = record.nodes.get(id).and_then(|node| self.nodes.get(&node.address));
            let own = |seen: &&NodeSeen| {
                seen.asked > since && seen.now().is_some_and(|answer| answer.table.own == *id)
            };
            seen.filter(own).is_some()
        };
        let hurries = |id: &NodeId| {
            let hastened = record.claims.hastened.as_ref().filter(|hastened| !hastened.over);
            hastened.is_some_and(|hastened| hastened.dead == *id)
        };
        self.hastened.retain(|dead, death| {
            let owns = shard_of(record, dead).is_some();
            let stays = owns && !hurries(dead) && answers_since(dead, death.told);
            if stays {
                outputs.push(ClusterOutput::Died(death.sign, Aftermath::Stayed));
            }
            !stays
        });
        self.unhurried
            .retain(|id| shard_of(record, id).is_some() && !answers_since(id, Mono::default()));
        let Some(LeftDeath { dead, sign, why }) = left else { return };
        if self.unhurried.insert(dead) {
            outputs.push(ClusterOutput::Died(sign, Aftermath::Left(why)));
        }
    }
}

/// The number of the shard that it owns the slots of.
fn shard_of(record: &ClusterRecord, owner: &NodeId) -> Option<u32> {
    let mut shards = record.shards.iter();
    shards.find(|(_, shard)| shard.owner == *owner).map(|(number, _)| *number)
}
