//! What a node is told, and answers: one method for each command, its error as Redis words it.

use consul_redis_core::cluster::slots::SLOTS;
use consul_redis_core::cluster::table::NodeId;
use consul_redis_core::identity::address::Address;

use super::bus::{BAN_MS, Message};
use super::election::{MANUAL_MS, Manual};
use super::{BusLink, Id, Kind, Nodes, Process, Version};

/// How `CLUSTER FAILOVER` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    Plain,
    Force,
    Takeover,
}

impl Nodes {
    /// The node takes commands now.
    fn answers(&self, process: Process) -> Result<(), String> {
        match &self.nodes[process] {
            node if !node.up => Err("Connection refused".to_owned()),
            node if node.frozen => Err("no answer".to_owned()),
            _ if self.loads(process) => {
                Err("LOADING Redis is loading the dataset in memory".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn known(&self, process: Process, name: &NodeId) -> Result<Id, String> {
        let unknown = || format!("ERR Unknown node {}", name.as_str());
        let id = self.id_of(name).ok_or_else(unknown)?;
        let node = &self.nodes[process];
        if id == node.id || node.peers.contains_key(&id) { Ok(id) } else { Err(unknown()) }
    }

    /// `CLUSTER MEET`: what listens there is met, for T (0.4).
    pub fn meet(&mut self, process: Process, address: &Address) -> Result<(), String> {
        self.answers(process)?;
        let place = self.place(address);
        self.shake_hands(process, place, true);
        Ok(())
    }

    /// `CLUSTER ADDSLOTSRANGE first last`: all of them, or none.
    pub fn add_slots(&mut self, process: Process, first: u16, last: u16) -> Result<(), String> {
        self.answers(process)?;
        if first > last || usize::from(last) >= SLOTS {
            return Err("ERR Invalid or out of range slot".to_owned());
        }
        let cells = self.cells_of(first, last);
        let busy = cells.iter().find(|cell| self.nodes[process].owner[**cell].is_some());
        if let Some(cell) = busy {
            return Err(format!("ERR Slot {} is already busy", self.cells[*cell]));
        }
        let node = &mut self.nodes[process];
        for cell in cells {
            node.owner[cell] = Some(node.id);
        }
        self.update_state(process);
        Ok(())
    }

    /// `CLUSTER SET-CONFIG-EPOCH`: while it knows no other node.
    pub fn set_config_epoch(&mut self, process: Process, epoch: u64) -> Result<(), String> {
        self.answers(process)?;
        let node = &mut self.nodes[process];
        if !node.peers.is_empty() {
            let why = "ERR The user can assign a config epoch only when the node does not know any other node.";
            return Err(why.to_owned());
        }
        if node.epoch != 0 {
            return Err("ERR Node config epoch is already non-zero".to_owned());
        }
        node.epoch = epoch;
        node.current = node.current.max(epoch);
        Ok(())
    }

    /// `CLUSTER REPLICATE`.
    pub fn replicate(&mut self, process: Process, name: &NodeId) -> Result<(), String> {
        self.answers(process)?;
        let of = self.known(process, name)?;
        let node = &self.nodes[process];
        if of == node.id {
            return Err("ERR Can't replicate myself".to_owned());
        }
        if node.peers.get(&of).is_some_and(|peer| peer.kind != Kind::Primary) {
            return Err("ERR I can only replicate a master, not a replica.".to_owned());
        }
        let has = Self::owns(node, node.id) || node.data.iter().any(|cell| !cell.is_empty());
        if node.kind == Kind::Primary && has {
            let why = "ERR To set a master the node must be empty and without assigned slots.";
            return Err(why.to_owned());
        }
        // The same again points its replication at the address of today (0.12).
        self.become_replica(process, of);
        self.update_state(process);
        self.broadcast(process, &Message::Pong);
        self.deliver_all();
        Ok(())
    }

    /// `CLUSTER FORGET`: for a minute, on this node, and where it is told on, on all (6).
    pub fn forget(&mut self, process: Process, name: &NodeId) -> Result<(), String> {
        self.answers(process)?;
        let until = self.id_of(name).and_then(|id| self.nodes[process].banned.get(&id));
        if self.version != Version::Redis7 && until.is_some_and(|until| *until > self.now) {
            // It may have been told by another node.
            return Ok(());
        }
        let id = self.known(process, name)?;
        let node = &self.nodes[process];
        if id == node.id {
            return Err("ERR I tried hard but I can't forget myself...".to_owned());
        }
        if node.kind == Kind::Replica(Some(id)) {
            return Err("ERR Can't forget my master!".to_owned());
        }
        self.forget_row(process, id);
        if self.version != Version::Redis7 {
            self.broadcast(process, &Message::Forget(id));
            self.deliver_all();
        }
        Ok(())
    }

    pub(super) fn forget_row(&mut self, process: Process, id: Id) {
        let until = self.now + BAN_MS;
        let node = &mut self.nodes[process];
        if id == node.id || node.kind == Kind::Replica(Some(id)) || !node.peers.contains_key(&id) {
            return;
        }
        node.peers.remove(&id);
        node.banned.insert(id, until);
        node.owner.iter_mut().filter(|of| **of == Some(id)).for_each(|of| *of = None);
        for peer in node.peers.values_mut() {
            peer.reports.remove(&id);
            if peer.kind == Kind::Replica(Some(id)) {
                peer.kind = Kind::Replica(None);
            }
        }
        self.update_state(process);
    }

    /// `CLUSTER FAILOVER`: `Ok` means that it begins (2.3).
    pub fn failover(&mut self, process: Process, how: Failover) -> Result<(), String> {
        self.answers(process)?;
        let now = self.now;
        let node = &self.nodes[process];
        let primary = match node.kind {
            Kind::Primary => {
                return Err("ERR You should send CLUSTER FAILOVER to a replica".to_owned());
            }
            Kind::Replica(of) => of.filter(|of| node.peers.contains_key(of)),
        };
        let Some(primary) = primary else {
            return Err("ERR I'm a replica but my master is unknown to me".to_owned());
        };
        let linked = self.links_to(process, primary);
        let failed = node.peers.get(&primary).is_none_or(|peer| peer.fail.is_some());
        if how == Failover::Plain && (failed || !linked) {
            let why = "ERR Master is down or failed, please use CLUSTER FAILOVER FORCE";
            return Err(why.to_owned());
        }
        let manual =
            Manual { until: now + MANUAL_MS, can_start: how != Failover::Plain, target: None };
        match how {
            Failover::Takeover => {
                self.bump_epoch(process);
                self.replace_primary(process, primary);
            }
            Failover::Force => self.nodes[process].manual = Some(manual),
            Failover::Plain => {
                self.nodes[process].manual = Some(manual);
                self.send(process, primary, Message::Pause);
                self.deliver_all();
            }
        }
        Ok(())
    }

    /// A greater epoch than any that it knows, without a vote.
    fn bump_epoch(&mut self, process: Process) {
        let node = &mut self.nodes[process];
        let others = node.peers.values().map(|peer| peer.epoch);
        let greatest = others.chain([node.current, node.epoch]).max().unwrap_or(0);
        if node.epoch == 0 || node.epoch != greatest {
            node.current = greatest.max(node.current) + 1;
            node.epoch = node.current;
        }
    }

    /// `CONFIG SET cluster-node-timeout` (2.4).
    pub fn set_timeout(&mut self, process: Process, ms: u64) -> Result<(), String> {
        self.answers(process)?;
        self.nodes[process].timeout = ms;
        Ok(())
    }

    /// `CLUSTER RESET HARD`: blank, with a new id.
    pub fn reset_hard(&mut self, process: Process) -> Result<(), String> {
        self.answers(process)?;
        let keys = self.nodes[process].data.iter().any(|cell| !cell.is_empty());
        if self.nodes[process].kind == Kind::Primary && keys {
            let why = "ERR CLUSTER RESET can't be called with master nodes containing keys";
            return Err(why.to_owned());
        }
        let (id, cells) = (self.fresh_id(), self.cells.len());
        let node = &mut self.nodes[process];
        node.data = vec![Vec::new(); cells];
        (node.id, node.kind, node.epoch, node.current) = (id, Kind::Primary, 0, 0);
        node.last_vote = 0;
        node.peers.clear();
        node.banned.clear();
        node.moving.clear();
        node.owner = vec![None; cells];
        self.replicate_from(process, None);
        self.update_state(process);
        Ok(())
    }

    /// `CLUSTER SETSLOT slot MIGRATING` on one and `IMPORTING` on the other: shown in their own rows only (1.1).
    pub fn begin_move(
        &mut self,
        from: Process,
        to: Process,
        first: u16,
        last: u16,
    ) -> Result<(), String> {
        self.answers(from)?;
        self.answers(to)?;
        let cells = self.cells_of(first, last);
        let own = self.nodes[from].id;
        if cells.iter().any(|cell| self.nodes[from].owner[*cell] != Some(own)) {
            return Err("ERR I'm not the owner of hash slot".to_owned());
        }
        if self.nodes[to].kind != Kind::Primary || !self.nodes[to].peers.contains_key(&own) {
            return Err("ERR I don't know about node".to_owned());
        }
        for cell in cells {
            self.nodes[from].moving.insert(cell, false);
            self.nodes[to].moving.insert(cell, true);
        }
        Ok(())
    }

    /// `MIGRATE` of all keys, then `CLUSTER SETSLOT slot NODE` on the new owner and on the old one.
    pub fn end_move(
        &mut self,
        from: Process,
        to: Process,
        first: u16,
        last: u16,
    ) -> Result<(), String> {
        self.answers(from)?;
        self.answers(to)?;
        let cells = self.cells_of(first, last);
        let moves = |at: Process, way: bool| {
            cells.iter().all(|cell| self.nodes[at].moving.get(cell) == Some(&way))
        };
        let owns =
            cells.iter().all(|cell| self.nodes[from].owner[*cell] == Some(self.nodes[from].id));
        if !moves(from, false) || !moves(to, true) || !owns || !self.converse(from, to) {
            return Err("ERR the slot does not move from there to here".to_owned());
        }
        if self.nodes[to].kind != Kind::Primary {
            return Err("ERR You can use SETSLOT only with masters.".to_owned());
        }
        self.bump_epoch(to);
        for cell in cells {
            let keys = std::mem::take(&mut self.nodes[from].data[cell]);
            self.nodes[to].data[cell] = keys;
            let id = self.nodes[to].id;
            for at in [from, to] {
                self.nodes[at].moving.remove(&cell);
                self.nodes[at].owner[cell] = Some(id);
            }
        }
        for at in [to, from] {
            self.broadcast(at, &Message::Pong);
            self.deliver_all();
            self.update_state(at);
        }
        Ok(())
    }

    /// Nothing moves any more: `SETSLOT slot STABLE`.
    pub fn stop_moves(&mut self, process: Process) {
        self.nodes[process].moving.clear();
    }

    /// No link of the bus is left that nothing listens at, and none in handshake.
    pub fn is_linked(&self, process: Process) -> bool {
        let linked =
            |peer: &super::Peer| matches!(peer.link, BusLink::Up(..)) && peer.handshake.is_none();
        self.nodes[process].peers.values().all(linked)
    }
}
