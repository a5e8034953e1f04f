//! Redis Clusters in memory: processes, their bus, elections, replication and what clients write, after
//! `docs/facts/cluster.md` (its sections are named at each rule) and Redis's own `cluster.c`, which it measures.
//!
//! `tests/contract.rs` of the program runs scripts on this and on real nodes.

mod bus;
mod commands;
mod data;
mod election;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consul_redis_core::cluster::judgement::{NodeAnswer, ReplicaLink};
use consul_redis_core::cluster::slots::{SLOTS, SlotRange};
use consul_redis_core::cluster::table::{NodeId, OpenSlot, Table, TableRole, TableRow};
use consul_redis_core::identity::address::Address;

use bus::Packet;
pub use commands::Failover;
pub use data::Ack;
use data::{Client, Replication};
use election::{Election, Manual};

/// The port of every bus.
const BUS_PORT: u16 = 16_379;
/// Redis's `clusterCron` runs this often, in ms.
const CRON_MS: u64 = 100;
/// A primary refuses writes for so long after its start, in ms (0.1).
const WRITABLE_DELAY_MS: u64 = 2_000;
/// Bounds of the time that a primary waits before it takes writes when it is in a majority again, in ms.
const REJOIN_MS: (u64, u64) = (500, 5_000);

/// A node's name, by its place in [`Nodes::ids`].
pub type Id = usize;
/// A process, by its place in [`Nodes::nodes`].
pub type Process = usize;

/// Whose code the nodes run (1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Votes count twice (2.5); FORGET is not told.
    Redis7,
    /// Votes count twice; FORGET is told.
    Redis8,
    /// True elections at once; meets by itself (0.5); `noaddr` counts as gone (0.1).
    Valkey9,
}

/// What a node takes another one for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Primary,
    /// Of whom, once that is known.
    Replica(Option<Id>),
}

/// An outgoing link of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BusLink {
    /// Refused, or there is no address.
    Down,
    /// Nothing is heard: shown as connected (1.1).
    Opening,
    /// To this run of that process.
    Up(Process, u64),
}

/// A row of a node's table.
#[derive(Debug, Clone)]
struct Peer {
    place: Option<usize>,
    kind: Kind,
    epoch: u64,
    pfail: bool,
    /// Since when a majority calls it failing.
    fail: Option<u64>,
    /// Since when it is in handshake.
    handshake: Option<u64>,
    meet: bool,
    noaddr: bool,
    link: BusLink,
    link_since: u64,
    /// Since when it has no link to here; `None` while it has.
    inbound_gone: Option<u64>,
    ping_sent: Option<u64>,
    pong: u64,
    heard: u64,
    voted: Option<u64>,
    offset: u64,
    reports: BTreeMap<Id, u64>,
    /// Since when it owns slots and has lost all its replicas.
    orphaned: Option<u64>,
    had_replicas: bool,
}

impl Peer {
    fn new(place: Option<usize>, kind: Kind, now: u64) -> Self {
        Self {
            place,
            kind,
            epoch: 0,
            pfail: false,
            fail: None,
            handshake: None,
            meet: false,
            noaddr: false,
            link: BusLink::Down,
            link_since: now,
            inbound_gone: Some(now),
            ping_sent: None,
            pong: 0,
            heard: now,
            voted: None,
            offset: 0,
            reports: BTreeMap::new(),
            orphaned: None,
            had_replicas: false,
        }
    }

    fn fails(&self) -> bool {
        self.pfail || self.fail.is_some()
    }

    fn primary(&self) -> Option<Id> {
        match self.kind {
            Kind::Primary => None,
            Kind::Replica(of) => of,
        }
    }
}

/// One process, and the disk that it leaves.
#[derive(Debug, Clone)]
pub struct Node {
    pub id: Id,
    pub place: usize,
    pub host: usize,
    pub up: bool,
    pub frozen: bool,
    /// `cluster-node-timeout`, in ms.
    pub timeout: u64,
    pub full_coverage: bool,
    pub kind: Kind,
    pub state_ok: bool,
    /// Counts its starts.
    pub life: u64,
    loading_until: u64,
    peers: BTreeMap<Id, Peer>,
    epoch: u64,
    current: u64,
    last_vote: u64,
    /// Who owns each cell.
    owner: Vec<Option<Id>>,
    /// Cells that are moving from or to it.
    moving: BTreeMap<usize, bool>,
    first_update: Option<u64>,
    minority: Option<u64>,
    banned: BTreeMap<Id, u64>,
    election: Election,
    manual: Option<Manual>,
    paused_until: u64,
    replication: Replication,
    /// The acknowledged writes that it has, by cell.
    data: Vec<Vec<u32>>,
    /// Writes that wait in its sockets while it is frozen, by cell.
    queued: Vec<usize>,
    next_cron: u64,
    next_ping: u64,
}

/// All processes, and what is between them.
#[derive(Debug, Clone)]
pub struct Nodes {
    pub now: u64,
    pub version: Version,
    pub nodes: Vec<Node>,
    /// Every name that was ever used.
    pub ids: Vec<NodeId>,
    pub places: Vec<Address>,
    /// Hosts between which nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// What one process sends another one is lost, and no connection can be made between them.
    pub dropped: BTreeSet<(Process, Process)>,
    /// Processes whose bus takes no connection, and that connect to all others (0.1).
    pub deaf: BTreeSet<Process>,
    /// Addresses without a process that are silent instead of refusing.
    pub silent: BTreeSet<usize>,
    pub acks: Vec<Ack>,
    /// Elections that were won, by replica and epoch.
    pub elected: Vec<(Id, u64)>,
    /// Promotions by votes of an election before (2.5).
    pub without_votes: usize,
    /// Elections of replicas that did not have their primary's data yet.
    pub unsynced: usize,
    /// Replicas that copied another node than the one that they follow.
    pub strangers_copied: usize,
    /// MEETs that nodes sent by themselves (0.5).
    pub own_meets: usize,
    /// Replicas that followed a primary without any (2.3).
    pub migrated: usize,
    /// The first slot of each cell: slots that no command has told apart.
    cells: Vec<u16>,
    clients: Vec<Client>,
    queue: VecDeque<Packet>,
    chance: u64,
}

impl Nodes {
    pub fn new(seed: u64, version: Version) -> Self {
        Self {
            now: 1,
            version,
            nodes: Vec::new(),
            ids: Vec::new(),
            places: Vec::new(),
            cut: BTreeSet::new(),
            dropped: BTreeSet::new(),
            deaf: BTreeSet::new(),
            silent: BTreeSet::new(),
            acks: Vec::new(),
            elected: Vec::new(),
            without_votes: 0,
            unsynced: 0,
            strangers_copied: 0,
            own_meets: 0,
            migrated: 0,
            cells: vec![0],
            clients: Vec::new(),
            queue: VecDeque::new(),
            chance: seed ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Starts a blank node on a host of its own.
    pub fn start_blank(&mut self, address: &Address, timeout: u64) -> Process {
        let (id, place) = (self.fresh_id(), self.place(address));
        let cells = self.cells.len();
        let process = self.nodes.len();
        let phase = self.below(CRON_MS);
        self.nodes.push(Node {
            id,
            place,
            host: process,
            up: true,
            frozen: false,
            timeout,
            full_coverage: true,
            kind: Kind::Primary,
            state_ok: false,
            life: 1,
            loading_until: 0,
            peers: BTreeMap::new(),
            epoch: 0,
            current: 0,
            last_vote: 0,
            owner: vec![None; cells],
            moving: BTreeMap::new(),
            first_update: None,
            minority: None,
            banned: BTreeMap::new(),
            election: Election::default(),
            manual: None,
            paused_until: 0,
            replication: Replication::default(),
            data: vec![Vec::new(); cells],
            queued: Vec::new(),
            next_cron: self.now + phase,
            next_ping: self.now,
        });
        process
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.chance;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end.max(1)
    }

    fn fresh_id(&mut self) -> Id {
        let digits: Vec<u64> = (0..3).map(|_| self.below(u64::MAX)).collect();
        let text = format!("{:016x}{:016x}{:08x}", digits[0], digits[1], digits[2] as u32);
        self.ids.push(NodeId::parse(&text).expect("an id"));
        self.ids.len() - 1
    }

    /// The number of an address.
    pub fn place(&mut self, address: &Address) -> usize {
        self.places.iter().position(|known| known == address).unwrap_or_else(|| {
            self.places.push(address.clone());
            self.places.len() - 1
        })
    }

    pub fn address(&self, process: Process) -> &Address {
        &self.places[self.nodes[process].place]
    }

    pub fn name(&self, process: Process) -> &NodeId {
        &self.ids[self.nodes[process].id]
    }

    /// The process that has this id now.
    pub fn process_of(&self, id: Id) -> Option<Process> {
        self.nodes.iter().position(|node| node.id == id)
    }

    pub fn id_of(&self, name: &NodeId) -> Option<Id> {
        self.ids.iter().position(|id| id == name)
    }

    /// The process that listens at an address.
    pub fn at(&self, place: usize) -> Option<Process> {
        self.nodes.iter().position(|node| node.up && node.place == place)
    }

    /// It takes commands, and packets of the bus: a node that loads takes no connection of it (1.1).
    pub fn runs(&self, process: Process) -> bool {
        let node = &self.nodes[process];
        node.up && !node.frozen && !self.loads(process)
    }

    pub fn loads(&self, process: Process) -> bool {
        self.nodes[process].up && self.now < self.nodes[process].loading_until
    }

    fn joined(&self, a: Process, b: Process) -> bool {
        let (one, other) = (self.nodes[a].host, self.nodes[b].host);
        one == other || !self.cut.contains(&(one.min(other), one.max(other)))
    }

    /// What a sends arrives at b, over a connection that is there.
    fn delivers(&self, a: Process, b: Process) -> bool {
        self.joined(a, b) && !self.dropped.contains(&(a, b))
    }

    /// Both can hear each other.
    pub fn converse(&self, a: Process, b: Process) -> bool {
        self.delivers(a, b) && self.delivers(b, a)
    }

    /// Lets time pass until `now`: every 20 ms at least.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        for process in 0..self.nodes.len() {
            if self.runs(process) && self.nodes[process].next_cron <= now {
                self.nodes[process].next_cron = now + CRON_MS;
                self.cron(process);
                self.deliver_all();
            }
        }
        for process in 0..self.nodes.len() {
            if self.runs(process) {
                self.replicate_step(process);
            }
        }
        self.write_all();
    }

    /// The process ends. Its host goes on, and refuses, unless its address is silent from then on.
    pub fn kill(&mut self, process: Process) {
        let node = &mut self.nodes[process];
        if !node.up {
            return;
        }
        (node.up, node.frozen) = (false, false);
        node.queued.clear();
        let id = node.id;
        for other in (0..self.nodes.len()).filter(|other| *other != process) {
            let reached = self.converse(process, other);
            let Some(peer) = self.nodes[other].peers.get_mut(&id) else { continue };
            if reached {
                peer.inbound_gone.get_or_insert(self.now);
            }
        }
    }

    /// Starts it again: with its data or without, with its `nodes.conf` or as a blank node.
    pub fn restart(&mut self, process: Process, keeps: Keeps, loads_ms: u64) {
        if self.nodes[process].up {
            return;
        }
        let fresh = (!keeps.config).then(|| self.fresh_id());
        let (now, cells) = (self.now, self.cells.len());
        let node = &mut self.nodes[process];
        (node.up, node.state_ok) = (true, false);
        node.life += 1;
        node.loading_until = now + loads_ms;
        (node.first_update, node.minority, node.manual) = (None, None, None);
        (node.paused_until, node.next_cron) = (0, now + loads_ms);
        node.election = Election::default();
        node.banned.clear();
        node.moving.clear();
        if let Some(id) = fresh {
            (node.id, node.kind, node.epoch) = (id, Kind::Primary, 0);
            (node.current, node.last_vote) = (0, 0);
            node.peers.clear();
            node.owner = vec![None; cells];
        }
        node.peers.retain(|_, peer| peer.handshake.is_none());
        for peer in node.peers.values_mut() {
            let old = peer.clone();
            *peer = Peer::new(old.place, old.kind, now);
            (peer.epoch, peer.noaddr, peer.fail) = (old.epoch, old.noaddr, old.fail.map(|_| now));
        }
        if !keeps.data {
            node.data = vec![Vec::new(); cells];
        }
        self.nodes[process].replication.forget_link();
        self.follow_primary(process);
    }

    pub fn freeze(&mut self, process: Process) {
        if self.nodes[process].up {
            self.nodes[process].frozen = true;
        }
    }

    /// It goes on. What waits in its sockets is executed first (0.9), then it hears what it has missed.
    pub fn thaw(&mut self, process: Process) {
        let now = self.now;
        let node = &mut self.nodes[process];
        if !std::mem::take(&mut node.frozen) {
            return;
        }
        for cell in std::mem::take(&mut self.nodes[process].queued) {
            self.write_at(process, cell);
        }
        for peer in self.nodes[process].peers.values_mut() {
            // Their packets have waited, too.
            peer.heard = now;
            peer.ping_sent = peer.ping_sent.map(|_| now);
        }
        let all: Vec<Id> = self.nodes[process].peers.keys().copied().collect();
        for id in all {
            self.ping(process, id);
        }
        self.deliver_all();
    }

    /// It is found at another address from its next start on.
    pub fn move_to(&mut self, process: Process, address: &Address) {
        self.nodes[process].place = self.place(address);
    }

    /// Cells get their borders where a command has some.
    fn split_at(&mut self, slot: usize) {
        let Ok(first) = u16::try_from(slot) else { return };
        if slot >= SLOTS || self.cells.contains(&first) {
            return;
        }
        let at = self.cells.partition_point(|cell| *cell < first);
        self.cells.insert(at, first);
        for node in &mut self.nodes {
            node.owner.insert(at, node.owner[at - 1]);
            let copy = node.data[at - 1].clone();
            node.data.insert(at, copy);
            let moving = std::mem::take(&mut node.moving);
            let shifted = moving.into_iter().map(|(cell, to)| (cell + usize::from(cell >= at), to));
            node.moving = shifted.collect();
            for cell in &mut node.queued {
                *cell += usize::from(*cell >= at);
            }
        }
        self.split_clients(at);
    }

    /// The cells of slots from `first` to `last`.
    fn cells_of(&mut self, first: u16, last: u16) -> Vec<usize> {
        self.split_at(usize::from(first));
        self.split_at(usize::from(last) + 1);
        (0..self.cells.len()).filter(|cell| (first..=last).contains(&self.cells[*cell])).collect()
    }

    fn cells_in(node: &Node, owner: Id) -> u128 {
        let owned = node.owner.iter().enumerate().filter(|(_, of)| **of == Some(owner));
        owned.fold(0, |mask, (cell, _)| mask | 1 << cell)
    }

    /// In this node's own table.
    fn owns(node: &Node, id: Id) -> bool {
        node.owner.contains(&Some(id))
    }

    /// The primaries that own slots, in this node's own table.
    pub fn owners_for(&self, process: Process) -> BTreeSet<Id> {
        self.nodes[process].owner.iter().flatten().copied().collect()
    }

    /// Whom this node has for the owner of each cell.
    pub fn map_of(&self, process: Process) -> &[Option<Id>] {
        &self.nodes[process].owner
    }

    /// It has this row, and sees nothing wrong with it.
    pub fn sees_well(&self, process: Process, id: Id) -> bool {
        let node = &self.nodes[process];
        if node.id == id {
            return true;
        }
        let well = |peer: &&Peer| !peer.fails() && peer.handshake.is_none() && !peer.noaddr;
        node.peers.get(&id).filter(well).is_some()
    }

    /// It shows a link to this one.
    pub fn links_to(&self, process: Process, id: Id) -> bool {
        let node = &self.nodes[process];
        node.id == id || node.peers.get(&id).is_some_and(|peer| self.shows_linked(process, peer))
    }

    fn shows_linked(&self, process: Process, peer: &Peer) -> bool {
        match peer.link {
            BusLink::Down => false,
            BusLink::Opening => true,
            // Its end is told at once, where anything is.
            BusLink::Up(to, life) => {
                let there = self.nodes[to].up && self.nodes[to].life == life;
                there || !self.joined(process, to)
            }
        }
    }

    /// The epoch that it has of an owner's claim.
    pub fn epoch_of(&self, process: Process, id: Id) -> Option<u64> {
        let node = &self.nodes[process];
        if node.id == id { Some(node.epoch) } else { Some(node.peers.get(&id)?.epoch) }
    }

    /// Whom it has this node follow.
    pub fn follows(&self, process: Process, id: Id) -> Option<Id> {
        let node = &self.nodes[process];
        let kind = if node.id == id { node.kind } else { node.peers.get(&id)?.kind };
        if let Kind::Replica(of) = kind { of } else { None }
    }

    /// How many other nodes it knows, those in handshake too.
    pub fn peers_of(&self, process: Process) -> usize {
        self.nodes[process].peers.len()
    }

    /// It knows this node as a member.
    pub fn has_row(&self, process: Process, id: Id) -> bool {
        self.nodes[process].id == id || self.knows(process, id)
    }

    /// The slots that move from or to it, with the node that has them at the other end: it may not have them any more.
    fn open_slots(&self, process: Process) -> Vec<OpenSlot> {
        let other = |cell: &usize, importing: bool| {
            let is = |node: &&Node| node.moving.get(cell) == Some(&!importing);
            let node = self.nodes.iter().find(is)?;
            Some(self.ids[node.id].clone())
        };
        let open = |(cell, importing): (&usize, &bool)| {
            let (range, importing) = (self.range(*cell), *importing);
            let other = other(cell, importing)?;
            Some((range.first()..=range.last()).map(move |slot| OpenSlot {
                slot,
                importing,
                other: other.clone(),
            }))
        };
        self.nodes[process].moving.iter().filter_map(open).flatten().collect()
    }

    /// What it answers to `CLUSTER NODES`, `CLUSTER INFO` and `INFO replication`, while it answers.
    pub fn answer(&self, process: Process) -> NodeAnswer {
        let node = &self.nodes[process];
        let mut rows = BTreeMap::new();
        let mut slots: BTreeMap<Id, Vec<SlotRange>> = BTreeMap::new();
        for (cell, owner) in node.owner.iter().enumerate() {
            let Some(owner) = owner else { continue };
            let ranges = slots.entry(*owner).or_default();
            let range = self.range(cell);
            match ranges.last_mut().filter(|last| last.last() + 1 == range.first()) {
                Some(last) => *last = SlotRange::new(last.first(), range.last()).expect("slots"),
                None => ranges.push(range),
            }
        }
        let role = |kind: Kind| match kind {
            Kind::Primary => TableRole::Primary,
            Kind::Replica(Some(of)) => TableRole::Replica(self.ids[of].clone()),
            Kind::Replica(None) => TableRole::Unknown,
        };
        // Replicas are shown with their primary's epoch (3.2).
        let epoch = |id: Id, kind: Kind, own: u64| match kind {
            Kind::Replica(Some(of)) if of != id => self.epoch_of(process, of).unwrap_or(own),
            Kind::Primary | Kind::Replica(_) => own,
        };
        for (id, peer) in &node.peers {
            let row = TableRow {
                id: self.ids[*id].clone(),
                address: peer
                    .place
                    .filter(|_| !peer.noaddr)
                    .map(|place| self.places[place].clone()),
                bus_port: Some(BUS_PORT),
                role: if peer.handshake.is_some() { TableRole::Unknown } else { role(peer.kind) },
                failing: peer.fails(),
                outside: peer.handshake.is_some() || peer.noaddr,
                linked: self.shows_linked(process, peer),
                config_epoch: epoch(*id, peer.kind, peer.epoch),
                slots: slots.remove(id).unwrap_or_default(),
                migrating: false,
                open: Vec::new(),
            };
            rows.insert(self.ids[*id].clone(), row);
        }
        let own = self.ids[node.id].clone();
        let row = TableRow {
            id: own.clone(),
            address: Some(self.places[node.place].clone()),
            bus_port: Some(BUS_PORT),
            role: role(node.kind),
            failing: false,
            outside: false,
            linked: true,
            config_epoch: epoch(node.id, node.kind, node.epoch),
            slots: slots.remove(&node.id).unwrap_or_default(),
            migrating: !node.moving.is_empty(),
            open: self.open_slots(process),
        };
        rows.insert(own.clone(), row);
        let link = matches!(node.kind, Kind::Replica(_)).then(|| self.replica_link(process));
        let not_ready = self.loads(process).then(|| "LOADING".to_owned());
        let has_keys = node.data.iter().any(|cell| !cell.is_empty());
        let (table, state_ok, timeout_ms) =
            (Table { own, rows }, node.state_ok, Some(node.timeout));
        NodeAnswer { table, state_ok, not_ready, link, has_keys, timeout_ms }
    }

    fn replica_link(&self, process: Process) -> ReplicaLink {
        let replication = &self.nodes[process].replication;
        let up = replication.is_up();
        let heard_s = up.then(|| (self.now - replication.heard) / 1_000);
        let primary = replication.place().map(|place| self.places[place].clone());
        ReplicaLink { up, heard_s, primary }
    }

    fn range(&self, cell: usize) -> SlotRange {
        let end = self.cells.get(cell + 1).map_or(SLOTS, |next| usize::from(*next));
        let last = u16::try_from(end - 1).expect("a slot");
        SlotRange::new(self.cells[cell], last).expect("slots")
    }

    /// What clients of a node are refused by: `clusterUpdateState`.
    fn update_state(&mut self, process: Process) {
        let (now, version) = (self.now, self.version);
        let node = &mut self.nodes[process];
        let is_primary = node.kind == Kind::Primary;
        let since = *node.first_update.get_or_insert(now);
        // It is not to take writes at once when it is back (0.1).
        if is_primary && !node.state_ok && now - since < WRITABLE_DELAY_MS {
            return;
        }
        let failed = |id: &Id| node.peers.get(id).is_some_and(|peer| peer.fail.is_some());
        let covered = node.owner.iter().all(|owner| owner.as_ref().is_some_and(|id| !failed(id)));
        let owners: BTreeSet<Id> = node.owner.iter().flatten().copied().collect();
        let reached = |id: &&Id| {
            let gone = |p: &Peer| p.fails() || (version == Version::Valkey9 && p.noaddr);
            !node.peers.get(id).is_some_and(gone)
        };
        let reachable = owners.iter().filter(reached).count();
        let mut ok = covered || !node.full_coverage;
        if reachable < owners.len() / 2 + 1 {
            (ok, node.minority) = (false, Some(now));
        }
        let rejoin = node.timeout.clamp(REJOIN_MS.0, REJOIN_MS.1);
        let early = node.minority.is_some_and(|at| now - at < rejoin);
        if ok && !node.state_ok && is_primary && early {
            return;
        }
        node.state_ok = ok;
    }
}

/// What a process finds again when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    pub data: bool,
    pub config: bool,
}

impl Keeps {
    pub const ALL: Self = Self { data: true, config: true };
}
