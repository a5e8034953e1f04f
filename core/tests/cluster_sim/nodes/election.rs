//! Elections and failovers: `clusterHandleSlaveFailover`, and who votes.

use std::collections::{BTreeMap, BTreeSet};

use super::bus::Message;
use super::{Id, Kind, Nodes, Process, Version};

/// How long a planned failover may take, in ms; writes are held for twice as long.
pub(super) const MANUAL_MS: u64 = 5_000;
/// How long at least an election lasts, in ms.
const ELECTION_MIN_MS: u64 = 2_000;
/// How long a replica waits before it stands, and how much longer at random, in ms.
const ELECTION_DELAY_MS: (u64, u64) = (500, 500);
/// How much longer for each replica with more data, in ms.
const RANK_DELAY_MS: u64 = 1_000;
/// `cluster-replica-validity-factor`, and `repl-ping-replica-period` in ms.
const VALIDITY: (u64, u64) = (10, 10_000);
/// A primary that has lost its replicas for so long gets another one, in ms.
const ORPHANED_MS: u64 = 5_000;

/// A replica's last election.
#[derive(Debug, Clone, Default)]
pub(super) struct Election {
    /// When it stands, or stood.
    at: Option<u64>,
    sent: bool,
    votes: BTreeSet<Id>,
    rank: u64,
    epoch: u64,
}

/// A failover by command, on the replica and on its primary.
#[derive(Debug, Clone)]
pub(super) struct Manual {
    pub(super) until: u64,
    /// The replica has all that the primary had, or does not ask.
    pub(super) can_start: bool,
    /// Up to here the primary's writes go.
    pub(super) target: Option<u64>,
}

impl Nodes {
    /// Ends a failover by command that took too long, and begins one that may.
    pub(super) fn manual_step(&mut self, me: Process) {
        let (now, offset) = (self.now, self.offset(me));
        let node = &mut self.nodes[me];
        let Some(manual) = &mut node.manual else { return };
        if manual.until < now {
            (node.manual, node.paused_until) = (None, 0);
        } else if manual.target.is_some_and(|target| offset >= target) {
            manual.can_start = true;
        }
    }

    /// A primary holds its writes for a replica of its own, and says how far they go.
    pub(super) fn pause_for(&mut self, me: Process, replica: Id) {
        let now = self.now;
        let node = &mut self.nodes[me];
        let follows = node.peers.get(&replica).is_some_and(|peer| peer.primary() == Some(node.id));
        if node.kind != Kind::Primary || !follows {
            return;
        }
        node.manual = Some(Manual { until: now + MANUAL_MS, can_start: false, target: None });
        node.paused_until = now + 2 * MANUAL_MS;
        self.ping(me, replica);
    }

    /// Its primary's writes end there.
    pub(super) fn take_pause(&mut self, me: Process, sender: Id, paused: Option<u64>) {
        let node = &mut self.nodes[me];
        if node.kind == Kind::Replica(Some(sender))
            && let (Some(manual), Some(_)) = (&mut node.manual, paused)
        {
            manual.target = manual.target.or(paused);
        }
    }

    /// How many replicas of the same primary have more data.
    fn rank(&self, me: Process) -> u64 {
        let (node, own) = (&self.nodes[me], self.offset(me));
        let more = node.peers.values().filter(|peer| peer.kind == node.kind && peer.offset > own);
        more.count() as u64
    }

    fn majority(&self, me: Process) -> usize {
        self.owners_for(me).len() / 2 + 1
    }

    pub(super) fn election_step(&mut self, me: Process) {
        let now = self.now;
        let node = &self.nodes[me];
        let Kind::Replica(Some(primary)) = node.kind else { return };
        let manual = node.manual.as_ref();
        let may_start = manual.is_some_and(|manual| manual.can_start);
        let Some(row) = node.peers.get(&primary) else { return };
        if (row.fail.is_none() && !may_start) || !Self::owns(node, primary) {
            return;
        }
        let (factor, period) = VALIDITY;
        let age = node.replication.age(now).saturating_sub(node.timeout);
        if age > period + node.timeout * factor && manual.is_none() {
            return;
        }
        let is_manual = manual.is_some();
        let lasts = (2 * node.timeout).max(ELECTION_MIN_MS);
        let again = 2 * lasts;
        let stands = node.election.at;
        if stands.is_none_or(|at| now > at + again) {
            let (least, more) = ELECTION_DELAY_MS;
            let delay = least + self.below(more);
            let rank = if is_manual { 0 } else { self.rank(me) };
            let delay = match self.version {
                _ if is_manual => 0,
                // The best one at once (1.2).
                Version::Valkey9 if rank == 0 => 0,
                Version::Valkey9 | Version::Redis7 | Version::Redis8 => {
                    delay + rank * RANK_DELAY_MS
                }
            };
            let election = &mut self.nodes[me].election;
            (election.at, election.sent, election.rank) = (Some(now + delay), false, rank);
            election.votes.clear();
            self.broadcast(me, &Message::Pong);
            self.deliver_all();
            if delay > 0 {
                return;
            }
        }
        self.stand(me, primary, lasts, is_manual);
    }

    fn stand(&mut self, me: Process, primary: Id, lasts: u64, is_manual: bool) {
        let now = self.now;
        if !self.nodes[me].election.sent && !is_manual {
            let rank = self.rank(me);
            let election = &mut self.nodes[me].election;
            if rank > election.rank {
                let more = (rank - election.rank) * RANK_DELAY_MS;
                election.at = election.at.map(|at| at + more);
                election.rank = rank;
            }
        }
        let election = &self.nodes[me].election;
        let Some(at) = election.at.filter(|at| *at <= now && now - at <= lasts) else { return };
        if !election.sent {
            let node = &mut self.nodes[me];
            node.current += 1;
            node.election.epoch = node.current;
            node.election.sent = true;
            self.broadcast(me, &Message::AskVote);
            return self.deliver_all();
        }
        let before = self.elected.contains(&(self.nodes[me].id, election.epoch));
        if election.votes.len() >= self.majority(me) && at <= now {
            self.without_votes += usize::from(before);
            self.win(me, primary);
        }
    }

    /// It takes its primary's slots.
    pub(super) fn win(&mut self, me: Process, primary: Id) {
        let valkey = self.version == Version::Valkey9;
        let node = &mut self.nodes[me];
        node.epoch = node.epoch.max(node.election.epoch);
        let won = (node.id, node.election.epoch);
        if valkey {
            // Its votes are used up; the others forget that (2.5).
            node.election.votes.clear();
            node.election.at = None;
        }
        self.elected.push(won);
        // Its data is of another shard, or of before (2.3).
        self.unsynced += usize::from(!self.nodes[me].replication.has_synced());
        self.replace_primary(me, primary);
    }

    pub(super) fn replace_primary(&mut self, me: Process, primary: Id) {
        let node = &mut self.nodes[me];
        let own = node.id;
        node.kind = Kind::Primary;
        (node.manual, node.paused_until) = (None, 0);
        node.owner.iter_mut().filter(|of| **of == Some(primary)).for_each(|of| *of = Some(own));
        self.replicate_from(me, None);
        self.update_state(me);
        self.broadcast(me, &Message::Pong);
        self.deliver_all();
    }

    /// `clusterSendFailoverAuthIfNeeded`.
    pub(super) fn vote(
        &mut self,
        me: Process,
        replica: Id,
        current: u64,
        epoch: u64,
        cells: u128,
        forced: bool,
    ) {
        let now = self.now;
        let node = &self.nodes[me];
        let votes = node.kind == Kind::Primary && Self::owns(node, node.id);
        let Some(Kind::Replica(Some(of))) = node.peers.get(&replica).map(|peer| peer.kind) else {
            return;
        };
        let Some(primary) = node.peers.get(&of) else { return };
        let denied = primary.fail.is_none() && !forced;
        // One vote an epoch, and one for the replacement of a primary in 2T (2.3).
        let lately = primary.voted.is_some_and(|at| now - at < 2 * node.timeout);
        let newer = node.owner.iter().enumerate().any(|(cell, owner)| {
            let held = owner.and_then(|id| self.epoch_of(me, id));
            cells & (1 << cell) != 0 && held.is_some_and(|held| held > epoch)
        });
        if !votes
            || denied
            || lately
            || newer
            || current < node.current
            || node.last_vote == node.current
        {
            return;
        }
        let node = &mut self.nodes[me];
        node.last_vote = node.current;
        if let Some(primary) = node.peers.get_mut(&of) {
            primary.voted = Some(now);
        }
        self.send(me, replica, Message::Vote);
    }

    pub(super) fn count_vote(&mut self, me: Process, voter: Id, current: u64) {
        let node = &mut self.nodes[me];
        let Kind::Replica(Some(primary)) = node.kind else { return };
        if !Self::owns(node, voter) || current < node.election.epoch {
            return;
        }
        node.election.votes.insert(voter);
        if self.nodes[me].election.votes.len() >= self.majority(me) {
            self.win(me, primary);
        }
    }

    /// A spare replica goes to a primary that has lost all of its own (2.3).
    pub(super) fn watch_orphans(&mut self, me: Process) {
        let now = self.now;
        let node = &mut self.nodes[me];
        let mut living: BTreeMap<Id, usize> = BTreeMap::new();
        for peer in node.peers.values().filter(|peer| !peer.fails()) {
            if let Kind::Replica(Some(of)) = peer.kind {
                *living.entry(of).or_default() += 1;
            }
        }
        let owners: BTreeSet<Id> = node.owner.iter().flatten().copied().collect();
        for (id, peer) in &mut node.peers {
            let count = living.get(id).copied().unwrap_or(0);
            peer.had_replicas |= count > 0;
            let orphaned = owners.contains(id) && count == 0 && peer.had_replicas && !peer.fails();
            peer.orphaned = if orphaned { Some(peer.orphaned.unwrap_or(now)) } else { None };
        }
        let Kind::Replica(Some(primary)) = node.kind else { return };
        // It is not in its own table's rows.
        let mates = living.get(&primary).copied().unwrap_or(0);
        let smallest = node.peers.iter().all(|(id, peer)| {
            peer.kind != node.kind || peer.fails() || self.ids[*id] > self.ids[node.id]
        });
        let lasts = |at: &u64| now - at > ORPHANED_MS;
        let orphan = node.peers.iter().find(|(_, p)| p.orphaned.as_ref().is_some_and(lasts));
        if let Some((orphan, _)) = orphan.filter(|_| mates >= 1 && smallest) {
            let orphan = *orphan;
            self.migrated += 1;
            self.become_replica(me, orphan);
        }
    }
}
