//! What is written, where, and who copies it.

use super::{Id, Kind, Nodes, Process};

/// How often a client writes, in ms.
const WRITE_EVERY_MS: u64 = 200;
/// How long a client waits for an answer that does not come, in ms.
const CLIENT_TIMEOUT_MS: u64 = 1_000;
/// `repl-timeout`, in ms.
const REPL_TIMEOUT_MS: u64 = 60_000;
/// A primary that is not written to says something this often, in ms.
const HEARTBEAT_MS: u64 = 10_000;
/// How long it takes until a replica is linked, and how much longer at random, in ms.
const SYNC_MS: (u64, u64) = (200, 1_000);

/// A write that a node has acknowledged.
#[derive(Debug, Clone)]
pub struct Ack {
    pub at: u64,
    pub by: Process,
    /// The first slot of its cell when it was written.
    pub slot: u16,
}

/// A program that writes to one range of slots.
#[derive(Debug, Clone)]
pub(super) struct Client {
    believes: Process,
    /// How many processes it asks where none says better.
    known: usize,
    next: u64,
}

/// A replica's link to its primary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ReplLink {
    #[default]
    Down,
    /// It copies everything, until then.
    Syncing(Process, u64, u64),
    Up(Process, u64),
}

/// Whom a replica copies, and how that goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Replication {
    /// `master_host` and `master_port`.
    place: Option<usize>,
    link: ReplLink,
    /// When its link last went down; `None` where it never was up in this run: then it is as old as can be.
    down_since: Option<u64>,
    pub(super) heard: u64,
    /// It has had all that its primary of today has.
    synced: bool,
}

impl Replication {
    pub(super) fn place(&self) -> Option<usize> {
        self.place
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, ReplLink::Up(..))
    }

    /// How old its data may be.
    pub(super) fn age(&self, now: u64) -> u64 {
        let since = if self.is_up() { Some(self.heard) } else { self.down_since };
        since.map_or(u64::MAX, |since| now - since)
    }

    pub(super) fn has_synced(&self) -> bool {
        self.synced
    }

    /// Its process has just been started.
    pub(super) fn forget_link(&mut self) {
        (self.link, self.down_since) = (ReplLink::Down, None);
    }
}

impl Nodes {
    /// How much a node has.
    pub fn offset(&self, process: Process) -> u64 {
        self.nodes[process].data.iter().map(|cell| cell.len() as u64).sum()
    }

    pub(super) fn replicate_from(&mut self, me: Process, place: Option<usize>) {
        let now = self.now;
        let replication = &mut self.nodes[me].replication;
        let was_up = replication.is_up();
        replication.place = place;
        replication.link = ReplLink::Down;
        replication.synced = false;
        if was_up {
            replication.down_since = Some(now);
        }
    }

    pub(super) fn become_replica(&mut self, me: Process, of: Id) {
        let node = &mut self.nodes[me];
        node.kind = Kind::Replica(Some(of));
        node.manual = None;
        (node.paused_until, node.minority) = (0, None);
        node.moving.clear();
        let own = node.id;
        node.owner.iter_mut().filter(|owner| **owner == Some(own)).for_each(|owner| *owner = None);
        self.follow_primary(me);
    }

    /// Copies whom its table says.
    pub(super) fn follow_primary(&mut self, me: Process) {
        let node = &self.nodes[me];
        let place = match node.kind {
            Kind::Replica(Some(of)) => node.peers.get(&of).and_then(|peer| peer.place),
            Kind::Primary | Kind::Replica(None) => None,
        };
        self.replicate_from(me, place);
    }

    /// What a replica does all the time.
    pub(super) fn replicate_step(&mut self, me: Process) {
        let Some(place) = self.nodes[me].replication.place else { return };
        let now = self.now;
        match self.nodes[me].replication.link {
            ReplLink::Down => {
                let Some(of) = self.at(place).filter(|of| self.serves_copies(me, *of)) else {
                    return;
                };
                let (least, more) = SYNC_MS;
                let until = now + least + self.below(more);
                let life = self.nodes[of].life;
                self.nodes[me].replication.link = ReplLink::Syncing(of, life, until);
            }
            ReplLink::Syncing(of, life, until) => {
                if self.nodes[of].life != life || !self.serves_copies(me, of) {
                    self.nodes[me].replication.link = ReplLink::Down;
                } else if until <= now {
                    // A replica copies what answers at its primary's address, whichever node that is.
                    let meant = self.nodes[me].kind == Kind::Replica(Some(self.nodes[of].id));
                    self.strangers_copied += usize::from(!meant);
                    self.copy(me, of);
                    let replication = &mut self.nodes[me].replication;
                    (replication.link, replication.heard) = (ReplLink::Up(of, life), now);
                    replication.synced = true;
                }
            }
            ReplLink::Up(of, life) => {
                let ended = !self.nodes[of].up || self.nodes[of].life != life;
                let silent = now - self.nodes[me].replication.heard > REPL_TIMEOUT_MS;
                if (ended && self.joined(me, of)) || silent {
                    let replication = &mut self.nodes[me].replication;
                    (replication.link, replication.down_since) = (ReplLink::Down, Some(now));
                } else if !ended && self.runs(of) && self.delivers(of, me) {
                    let late = now - self.nodes[me].replication.heard >= HEARTBEAT_MS;
                    if self.copy(me, of) || late {
                        self.nodes[me].replication.heard = now;
                    }
                }
            }
        }
    }

    /// A replica copies a primary, or a replica that copies one.
    fn serves_copies(&self, me: Process, of: Process) -> bool {
        let node = &self.nodes[of];
        let linked = node.kind == Kind::Primary || node.replication.is_up();
        of != me && self.runs(of) && self.converse(me, of) && linked
    }

    /// Has what the other one has. Whether that is more than before.
    fn copy(&mut self, me: Process, of: Process) -> bool {
        let mut news = false;
        for cell in 0..self.cells.len() {
            let (own, other) = (&self.nodes[me].data[cell], &self.nodes[of].data[cell]);
            if own.len() == other.len() && own.last() == other.last() {
                continue;
            }
            news = true;
            let goes_on = match own.len() {
                0 => true,
                count => other.get(count - 1) == own.last(),
            };
            let more: Vec<u32> = if goes_on { other[own.len()..].to_vec() } else { other.clone() };
            let own = &mut self.nodes[me].data[cell];
            if !goes_on {
                own.clear();
            }
            own.extend(more);
        }
        news
    }

    /// Programs begin to write to every slot, and know these nodes.
    pub fn begin_writes(&mut self, known: usize) {
        let now = self.now;
        let client = |cell| Client { believes: 0, known, next: now + 37 * cell as u64 };
        self.clients = (0..self.cells.len()).map(client).collect();
    }

    pub(super) fn split_clients(&mut self, at: usize) {
        if let Some(client) = self.clients.get(at - 1).cloned() {
            self.clients.insert(at, client);
        }
    }

    pub(super) fn write_all(&mut self) {
        for cell in 0..self.clients.len() {
            if self.clients[cell].next > self.now {
                continue;
            }
            let process = self.clients[cell].believes;
            self.clients[cell].next = self.now + WRITE_EVERY_MS;
            if self.write_at(process, cell) {
                continue;
            }
            let node = &self.nodes[process];
            let told = node.owner[cell].filter(|id| *id != node.id && self.runs(process));
            let place = told.and_then(|id| node.peers.get(&id)).and_then(|peer| peer.place);
            let next = place.and_then(|place| self.at(place));
            if node.frozen {
                self.clients[cell].next = self.now + CLIENT_TIMEOUT_MS;
            }
            // MOVED, or whichever one answers.
            let any = self.below(self.clients[cell].known as u64) as usize;
            self.clients[cell].believes = next.unwrap_or(any);
        }
    }

    /// It would acknowledge a write to this cell.
    pub fn takes_writes(&self, process: Process, cell: usize) -> bool {
        let node = &self.nodes[process];
        let owns = node.kind == Kind::Primary && node.owner[cell] == Some(node.id);
        self.runs(process) && node.state_ok && owns && node.paused_until <= self.now
    }

    pub(super) fn write_at(&mut self, process: Process, cell: usize) -> bool {
        if self.nodes[process].frozen {
            self.nodes[process].queued.push(cell);
            return false;
        }
        if !self.takes_writes(process, cell) {
            return false;
        }
        let write = u32::try_from(self.acks.len()).expect("a history has fewer writes");
        let (at, slot) = (self.now, self.cells[cell]);
        self.acks.push(Ack { at, by: process, slot });
        self.nodes[process].data[cell].push(write);
        true
    }

    /// It has this write.
    pub fn has(&self, process: Process, write: usize) -> bool {
        let cell = self.cell_of(self.acks[write].slot);
        let is_it = |have: &u32| *have as usize == write;
        self.nodes[process].data[cell].iter().rev().any(is_it)
    }

    /// The cell that a slot is in.
    pub fn cell_of(&self, slot: u16) -> usize {
        self.cells.partition_point(|first| *first <= slot) - 1
    }

    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Whether a replica's link to its primary is up, and to whom.
    pub fn copies(&self, process: Process) -> Option<Process> {
        match self.nodes[process].replication.link {
            ReplLink::Up(of, _) => Some(of),
            ReplLink::Down | ReplLink::Syncing(..) => None,
        }
    }

    /// It has heard of its primary within so many ms.
    pub fn heard_within(&self, process: Process, ms: u64) -> bool {
        self.now - self.nodes[process].replication.heard <= ms
    }
}
