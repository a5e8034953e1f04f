//! What every duty looks at.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{Begun, Claims, LEFT_TO_ONE_MS};
use super::judgement::{Judgement, NodeAnswer};
use super::order::{NodeCommand, NodeOrder};
use super::record::ClusterRecord;
use super::renewal::ClusterView;
use super::table::NodeId;
use crate::identity::address::Address;
use crate::known::observed::DeathSign;
use crate::time::Mono;

/// A node that answers now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'a> {
    pub(super) address: &'a Address,
    pub(super) answer: &'a NodeAnswer,
}

/// What is known, and what a majority says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) view: &'a ClusterView<'a>,
    /// What is recorded.
    pub(super) record: &'a ClusterRecord,
    /// What a majority says, where one is heard and followed.
    pub(super) judged: Option<&'a Judgement>,
    /// For how long the agent has known what is begun, in ms.
    pub(super) claims_ms: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// What is to be recorded as begun.
    pub claims: Claims,
    /// What nodes are to be told.
    pub orders: Vec<NodeOrder>,
    /// What keeps something that is wanted from being done.
    pub obstacle: Option<String>,
    /// The death of an owner that is left to the nodes' own pace.
    pub left: Option<LeftDeath>,
}

/// An owner has died, and no election is hastened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftDeath {
    /// The owner.
    pub dead: NodeId,
    /// What its death is taken from.
    pub sign: DeathSign,
    /// Why, as the metrics have it.
    pub why: &'static str,
}

/// What an agent remembers of the duties from one look to the next.
#[derive(Debug, Clone, Default)]
pub struct DutyMemory {
    /// How much of the cluster that is being made was there at the most, and since when.
    pub(super) made: Option<(usize, Mono)>,
    /// Since when members are to meet, or to follow the same node again.
    pub(super) apart: Option<Mono>,
    /// Since when nodes know one again that was forgotten.
    pub(super) given_back: Option<Mono>,
    /// Since when nodes are left with what they were told for the moment of an election.
    pub(super) left_behind: BTreeMap<NodeId, Mono>,
    /// For whose death an election was last hastened, and when that was last so.
    pub(super) hastened: BTreeMap<NodeId, Mono>,
    /// Which election is hastened, and the nodes that have been seen to wait for a moment only since.
    pub(super) hurried: Option<(Begun, BTreeSet<NodeId>)>,
}

impl<'a> Scene<'a> {
    /// What a node answers, where it does now.
    pub(super) fn answer(&self, address: &Address) -> Option<&'a NodeAnswer> {
        self.view.nodes.get(address)?.now()
    }

    /// Every node that answers, by its id: at its recorded address, where it answers there too.
    pub(super) fn present(&self) -> BTreeMap<&'a NodeId, Present<'a>> {
        let mut found = BTreeMap::<&NodeId, Present<'a>>::new();
        for (address, seen) in self.view.nodes {
            let Some(answer) = seen.now() else { continue };
            let id = &answer.table.own;
            let recorded = self.record.nodes.get(id).is_some_and(|node| node.address == *address);
            if recorded || !found.contains_key(id) {
                found.insert(id, Present { address, answer });
            }
        }
        found
    }

    /// The members that answer.
    pub(super) fn members(&self) -> BTreeMap<&'a NodeId, Present<'a>> {
        let mut present = self.present();
        present.retain(|id, _| self.record.nodes.contains_key(*id));
        present
    }

    /// What was begun is this agent's to go on with.
    pub(super) fn is_mine(&self, begun: &Begun) -> bool {
        begun.is_for(&self.view.policy.agent, self.claims_ms)
    }

    /// What any agent may do, and has not been recorded, the first of those that are there does; each of the others when
    /// it has been wanted for so much longer.
    pub(super) fn is_its_turn(&self, wanted_ms: u64) -> bool {
        let own = self.view.policy.agent.as_str();
        let before = self.view.agents.iter().filter(|agent| agent.as_str() < own).count();
        let before = u64::try_from(before).unwrap_or(u64::MAX);
        wanted_ms >= before.saturating_mul(LEFT_TO_ONE_MS)
    }

    /// Passes on what is wanted of nodes once it is this agent's turn; `since` is when it began to be wanted.
    pub(super) fn in_turn(&self, wanted: Due, since: &mut Option<Mono>, due: &mut Due) {
        if wanted.orders.is_empty() {
            *since = None;
            return;
        }
        let now = self.view.now.mono;
        if self.is_its_turn(now - *since.get_or_insert(now)) {
            due.orders.extend(wanted.orders);
        }
    }

    /// A node that a voter's table has, and that is no member: two clusters may be about to merge.
    pub(super) fn stranger(&self, but: &BTreeSet<&NodeId>) -> Option<NodeId> {
        let judged = self.judged?;
        let voters = self.members().into_iter().filter(|(id, _)| judged.voters.contains(*id));
        let rows = voters.flat_map(|(_, present)| present.answer.table.rows.values());
        // A node that is met has another id until it has answered.
        let rows = rows.filter(|row| !row.outside);
        let known = |id: &NodeId| self.record.is_own(id) || but.contains(id);
        rows.map(|row| &row.id).find(|id| !known(id)).cloned()
    }

    /// Slots are moving between members.
    pub(super) fn migrating(&self) -> bool {
        self.judged.is_some_and(|judged| judged.nodes.iter().any(|node| node.migrating))
    }
}

impl Due {
    pub(super) fn tell(&mut self, to: &Address, id: &NodeId, command: NodeCommand) {
        self.orders.push(NodeOrder { to: to.clone(), id: id.clone(), command });
    }
}
