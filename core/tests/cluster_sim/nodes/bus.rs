//! The bus: who pings whom, what a packet says, and what is made of it (`clusterCron`, `clusterProcessPacket`).

use std::collections::{BTreeMap, BTreeSet};

use super::{BusLink, Id, Kind, Node, Nodes, Peer, Process, Version};

/// How often a node pings one of the others, whatever it has heard, in ms.
const PING_EVERY_MS: u64 = 1_000;
/// How long a handshake lasts at least, in ms.
const HANDSHAKE_MIN_MS: u64 = 1_000;
/// Rows that a packet tells of at most, besides those that do not answer.
const GOSSIP: usize = 3;
/// How long a node that was forgotten is not taken from gossip, in ms (6).
pub(super) const BAN_MS: u64 = 60_000;

/// What a packet's head says of its sender.
#[derive(Debug, Clone)]
struct Head {
    sender: Id,
    from: Process,
    place: usize,
    current: u64,
    /// The epoch and the cells of the sender, or of its primary.
    epoch: u64,
    cells: u128,
    kind: Kind,
    offset: u64,
    /// A primary that holds its writes for a planned failover says how far they go.
    paused: Option<u64>,
    /// It is in a planned failover, or in a forced one.
    forced: bool,
}

#[derive(Debug, Clone)]
struct Gossip {
    id: Id,
    place: Option<usize>,
    fails: bool,
    noaddr: bool,
    is_primary: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    Ping,
    Pong,
    Meet,
    Fail(Id),
    AskVote,
    Vote,
    /// Who owns these cells by which epoch.
    Update(Id, u64, u128),
    /// A replica has its primary hold its writes.
    Pause,
    Forget(Id),
}

#[derive(Debug, Clone)]
pub(super) struct Packet {
    to: Process,
    head: Head,
    gossip: Vec<Gossip>,
    message: Message,
    /// A ping's own row, on the sender.
    row: Option<Id>,
    /// The receiver's own link that an answer comes back on, by its row.
    over: Option<Id>,
}

impl Nodes {
    fn head(&self, from: Process) -> Head {
        let node = &self.nodes[from];
        let primary = match node.kind {
            Kind::Replica(Some(of)) => node.peers.get(&of).map(|peer| (of, peer.epoch)),
            Kind::Primary | Kind::Replica(None) => None,
        };
        let (owner, epoch) = primary.unwrap_or((node.id, node.epoch));
        let offset = self.offset(from);
        Head {
            sender: node.id,
            from,
            place: node.place,
            current: node.current,
            epoch,
            cells: Self::cells_in(node, owner),
            kind: node.kind,
            offset,
            paused: (node.paused_until > self.now).then_some(offset),
            forced: node.manual.is_some(),
        }
    }

    fn gossip(&mut self, from: Process, to: Option<Id>) -> Vec<Gossip> {
        let start = usize::try_from(self.below(64)).unwrap_or(0);
        let node = &self.nodes[from];
        let told = |(id, peer): &(&Id, &Peer)| {
            let linked = peer.link != BusLink::Down || Self::owns(node, **id);
            Some(**id) != to && peer.handshake.is_none() && !peer.noaddr && linked
        };
        let all: Vec<(&Id, &Peer)> = node.peers.iter().filter(told).collect();
        let count = all.len();
        let drawn = |at: usize| count <= GOSSIP || (at + count - start % count) % count < GOSSIP;
        let chosen = all.into_iter().enumerate().filter(|(at, (_, peer))| peer.pfail || drawn(*at));
        let entry = |(_, (id, peer)): (usize, (&Id, &Peer))| Gossip {
            id: *id,
            place: peer.place,
            fails: peer.fails(),
            noaddr: peer.noaddr,
            is_primary: peer.kind == Kind::Primary,
        };
        chosen.map(entry).collect()
    }

    /// Sends over the link to a row's process.
    pub(super) fn send(&mut self, from: Process, id: Id, message: Message) {
        let Some(peer) = self.nodes[from].peers.get(&id) else { return };
        let BusLink::Up(to, life) = peer.link else { return };
        if !self.delivers(from, to) || !self.runs(to) || self.nodes[to].life != life {
            return;
        }
        let gossip = match message {
            Message::Ping | Message::Meet => self.gossip(from, Some(id)),
            _ => Vec::new(),
        };
        let head = self.head(from);
        self.queue.push_back(Packet { to, head, gossip, message, row: Some(id), over: None });
    }

    /// Sends a ping, whose answer is waited for.
    pub(super) fn ping(&mut self, from: Process, id: Id) {
        let now = self.now;
        let Some(peer) = self.nodes[from].peers.get_mut(&id) else { return };
        peer.ping_sent.get_or_insert(now);
        let message = if std::mem::take(&mut peer.meet) { Message::Meet } else { Message::Ping };
        self.send(from, id, message);
    }

    /// Tells all that it is linked to.
    pub(super) fn broadcast(&mut self, from: Process, message: &Message) {
        let all: Vec<Id> = self.nodes[from].peers.keys().copied().collect();
        for id in all {
            self.send(from, id, message.clone());
        }
    }

    pub(super) fn deliver_all(&mut self) {
        while let Some(packet) = self.queue.pop_front() {
            if self.runs(packet.to) {
                self.receive(packet);
            }
        }
    }

    /// What a node does ten times a second.
    pub(super) fn cron(&mut self, me: Process) {
        let now = self.now;
        self.nodes[me].banned.retain(|_, until| *until > now);
        let handshake_max = self.nodes[me].timeout.max(HANDSHAKE_MIN_MS);
        let gone = |peer: &Peer| peer.handshake.is_some_and(|since| now - since > handshake_max);
        self.nodes[me].peers.retain(|_, peer| !gone(peer));
        let all: Vec<Id> = self.nodes[me].peers.keys().copied().collect();
        for id in &all {
            self.keep_link(me, *id);
        }
        if self.nodes[me].next_ping <= now {
            self.nodes[me].next_ping = now + PING_EVERY_MS;
            self.ping_oldest(me);
        }
        for id in all {
            self.watch_peer(me, id);
        }
        self.watch_orphans(me);
        self.manual_step(me);
        self.election_step(me);
        self.update_state(me);
    }

    /// Opens a link that is not there.
    fn keep_link(&mut self, me: Process, id: Id) {
        let now = self.now;
        let Some(peer) = self.nodes[me].peers.get(&id) else { return };
        let (Some(place), false) = (peer.place, peer.noaddr) else { return };
        let was = peer.link;
        if let BusLink::Up(to, life) = was {
            let ended = !self.nodes[to].up || self.nodes[to].life != life;
            // The end of a process is told; that of a host is not.
            if !(ended && self.joined(me, to)) {
                return;
            }
        }
        let link = match self.at(place) {
            Some(to) if to == me => BusLink::Up(me, self.nodes[me].life),
            Some(to) if !self.converse(me, to) || self.deaf.contains(&to) => BusLink::Opening,
            Some(to) if self.loads(to) => BusLink::Down,
            Some(to) => BusLink::Up(to, self.nodes[to].life),
            None => match self.nodes.iter().position(|node| node.place == place) {
                Some(to) if !self.joined(me, to) => BusLink::Opening,
                Some(_) | None if self.silent.contains(&place) => BusLink::Opening,
                Some(_) | None => BusLink::Down,
            },
        };
        let Some(peer) = self.nodes[me].peers.get_mut(&id) else { return };
        (peer.link, peer.link_since) = (link, now);
        match link {
            BusLink::Up(..) => self.ping(me, id),
            BusLink::Opening | BusLink::Down => drop(peer.ping_sent.get_or_insert(now)),
        }
    }

    /// One of those that it has not heard of for the longest.
    fn ping_oldest(&mut self, me: Process) {
        let peers = self.nodes[me].peers.iter();
        let idle = peers.filter(|(_, p)| {
            matches!(p.link, BusLink::Up(..)) && p.ping_sent.is_none() && p.handshake.is_none()
        });
        if let Some(id) = idle.min_by_key(|(_, peer)| peer.pong).map(|(id, _)| *id) {
            self.ping(me, id);
        }
    }

    /// Pings what was not heard for long, gives up a link that brings nothing, and calls it failing after T.
    fn watch_peer(&mut self, me: Process, id: Id) {
        let (now, half) = (self.now, self.nodes[me].timeout / 2);
        let timeout = self.nodes[me].timeout;
        let meets = self.version == Version::Valkey9;
        let Some(peer) = self.nodes[me].peers.get_mut(&id) else { return };
        if peer.noaddr {
            return;
        }
        // It is linked to, and has no link to here: it may have forgotten this node, and is met again (0.5).
        let one_way = peer.inbound_gone.is_some_and(|since| now - since > half);
        let open = peer.link != BusLink::Down && peer.handshake.is_none();
        if meets && one_way && open && !peer.fails() && !peer.meet {
            peer.meet = true;
            peer.inbound_gone = Some(now);
            self.own_meets += 1;
        }
        let late = peer.ping_sent.is_some_and(|sent| now - sent > half && peer.pong < sent);
        let is_up = matches!(peer.link, BusLink::Up(..));
        if is_up && late && now - peer.heard > half && now - peer.link_since > timeout {
            peer.link = BusLink::Down;
            // It is opened again at once.
            self.keep_link(me, id);
        }
        let Some(peer) = self.nodes[me].peers.get(&id) else { return };
        if is_up && peer.ping_sent.is_none() && now - peer.pong > half {
            return self.ping(me, id);
        }
        let Some(sent) = peer.ping_sent else { return };
        let delay = (now - sent).min(now - peer.heard);
        if delay > timeout && !peer.fails() && peer.handshake.is_none() {
            let Some(peer) = self.nodes[me].peers.get_mut(&id) else { return };
            peer.pfail = true;
            self.fail_if_most_agree(me, id);
        }
    }

    /// More than half of the voters call it failing: all are told.
    fn fail_if_most_agree(&mut self, me: Process, id: Id) {
        let now = self.now;
        let node = &mut self.nodes[me];
        let owners = node.owner.iter().flatten().collect::<BTreeSet<_>>().len();
        let votes = node.kind == Kind::Primary && Self::owns(node, node.id);
        let lasts = 2 * node.timeout;
        let Some(peer) = node.peers.get_mut(&id).filter(|peer| peer.pfail) else { return };
        peer.reports.retain(|_, at| now - *at <= lasts);
        let own = usize::from(votes);
        if peer.reports.len() + own < owners / 2 + 1 {
            return;
        }
        (peer.pfail, peer.fail) = (false, Some(now));
        self.broadcast(me, &Message::Fail(id));
        self.update_state(me);
    }

    fn receive(&mut self, packet: Packet) {
        let Packet { to: me, head, gossip, message, row, over } = packet;
        let now = self.now;
        let sender = head.sender;
        if let Some(peer) = self.nodes[me].peers.get_mut(&sender) {
            if peer.handshake.is_none() {
                peer.epoch = peer.epoch.max(head.epoch);
                (peer.heard, peer.offset) = (now, head.offset);
                let current = self.nodes[me].current.max(head.current);
                self.nodes[me].current = current;
                self.take_pause(me, sender, head.paused);
            }
        } else if matches!(message, Message::Meet) && sender != self.nodes[me].id {
            self.shake_hands(me, head.place, false);
        }
        if matches!(message, Message::Ping | Message::Meet) && self.delivers(me, head.from) {
            let (own, gossip) = (self.head(me), self.gossip(me, Some(sender)));
            let (to, message) = (head.from, Message::Pong);
            self.queue.push_back(Packet { to, head: own, gossip, message, row: None, over: row });
        }
        match message {
            Message::Ping | Message::Pong | Message::Meet => {
                let is_ping = matches!(message, Message::Ping);
                if let Some(sender) = self.identify(me, &head, over, is_ping) {
                    self.take_head(me, sender, &head);
                    self.take_gossip(me, sender, gossip);
                }
            }
            _ if !self.knows(me, sender) => {}
            Message::Fail(id) => {
                if let Some(peer) = self.nodes[me].peers.get_mut(&id)
                    && peer.fail.is_none()
                {
                    (peer.pfail, peer.fail) = (false, Some(now));
                    self.update_state(me);
                }
            }
            Message::AskVote => {
                self.vote(me, sender, head.current, head.epoch, head.cells, head.forced)
            }
            Message::Vote => self.count_vote(me, sender, head.current),
            Message::Update(owner, epoch, cells) => self.take_update(me, owner, epoch, cells),
            Message::Pause => self.pause_for(me, sender),
            Message::Forget(id) => self.forget_row(me, id),
        }
    }

    pub(super) fn knows(&self, me: Process, id: Id) -> bool {
        self.nodes[me].peers.get(&id).is_some_and(|peer| peer.handshake.is_none())
    }

    /// A row in handshake, for whatever answers there.
    pub(super) fn shake_hands(&mut self, me: Process, place: usize, meet: bool) {
        let now = self.now;
        let known = |peer: &Peer| peer.handshake.is_some() && peer.place == Some(place);
        if self.nodes[me].peers.values().any(known) {
            return;
        }
        let mut peer = Peer::new(Some(place), Kind::Primary, now);
        (peer.handshake, peer.meet) = (Some(now), meet);
        let id = self.fresh_id();
        self.nodes[me].peers.insert(id, peer);
    }

    /// Whom a packet is of, where that is a member; what a row's address turned out to be.
    fn identify(
        &mut self,
        me: Process,
        head: &Head,
        over: Option<Id>,
        is_ping: bool,
    ) -> Option<Id> {
        let (now, sender) = (self.now, head.sender);
        if let Some(row) = over {
            let peer = self.nodes[me].peers.get(&row)?;
            if peer.handshake.is_some() {
                let mut peer = self.nodes[me].peers.remove(&row)?;
                if sender == self.nodes[me].id {
                    return None;
                }
                if self.knows(me, sender) {
                    self.renew_address(me, sender, head.place);
                    return Some(sender);
                }
                (peer.handshake, peer.kind, peer.epoch) = (None, head.kind, head.epoch);
                self.nodes[me].peers.insert(sender, peer);
                let current = self.nodes[me].current.max(head.current);
                self.nodes[me].current = current;
            } else if row != sender {
                // Another node has its address.
                let peer = self.nodes[me].peers.get_mut(&row)?;
                (peer.noaddr, peer.place, peer.link) = (true, None, BusLink::Down);
                return None;
            }
            let timeout = self.nodes[me].timeout;
            let owns = Self::owns(&self.nodes[me], sender);
            let peer = self.nodes[me].peers.get_mut(&sender)?;
            (peer.pong, peer.heard, peer.ping_sent, peer.pfail) = (now, now, None, false);
            let is_owner = owns && peer.kind == Kind::Primary;
            peer.fail = peer.fail.filter(|since| is_owner && now - since <= 2 * timeout);
            return Some(sender);
        }
        if !self.knows(me, sender) {
            return None;
        }
        self.nodes[me].peers.get_mut(&sender)?.inbound_gone = None;
        if is_ping {
            self.renew_address(me, sender, head.place);
        }
        Some(sender)
    }

    /// A member says itself where it is: a replica of it follows (0.12, where gossip was no sooner).
    fn renew_address(&mut self, me: Process, id: Id, place: usize) {
        let Some(peer) = self.nodes[me].peers.get_mut(&id) else { return };
        if peer.place == Some(place) && !peer.noaddr {
            return;
        }
        (peer.place, peer.noaddr, peer.link) = (Some(place), false, BusLink::Down);
        if self.nodes[me].kind == Kind::Replica(Some(id)) {
            self.replicate_from(me, Some(place));
        }
        self.keep_link(me, id);
    }

    /// The role and the slots of a member.
    fn take_head(&mut self, me: Process, sender: Id, head: &Head) {
        let node = &mut self.nodes[me];
        let Some(peer) = node.peers.get_mut(&sender) else { return };
        let was_primary = peer.kind == Kind::Primary;
        peer.kind = head.kind;
        if was_primary && head.kind != Kind::Primary {
            node.owner.iter_mut().filter(|of| **of == Some(sender)).for_each(|of| *of = None);
        }
        let owner = match head.kind {
            Kind::Primary => sender,
            Kind::Replica(Some(of)) => of,
            Kind::Replica(None) => return,
        };
        if head.kind == Kind::Primary && head.cells != Self::cells_in(node, sender) {
            self.claim(me, sender, head.epoch, head.cells);
        }
        self.tell_newer_claim(me, sender, owner, head);
        let node = &self.nodes[me];
        let equal = node.kind == Kind::Primary && head.kind == Kind::Primary;
        // The smaller id takes a greater epoch (3.2).
        if equal && head.epoch == node.epoch && self.ids[sender] > self.ids[node.id] {
            let node = &mut self.nodes[me];
            node.current += 1;
            node.epoch = node.current;
        }
    }

    /// A sender that claims what another one owns by a greater epoch is told so.
    fn tell_newer_claim(&mut self, me: Process, sender: Id, owner: Id, head: &Head) {
        let node = &self.nodes[me];
        let newer = node.owner.iter().enumerate().find_map(|(cell, of)| {
            let of = of.filter(|of| head.cells & (1 << cell) != 0 && *of != owner)?;
            let epoch = if of == node.id { node.epoch } else { node.peers.get(&of)?.epoch };
            (epoch > head.epoch).then(|| (of, epoch, Self::cells_in(node, of)))
        });
        if let Some((of, epoch, cells)) = newer {
            self.send(me, sender, Message::Update(of, epoch, cells));
        }
    }

    fn take_update(&mut self, me: Process, owner: Id, epoch: u64, cells: u128) {
        let Some(peer) = self.nodes[me].peers.get_mut(&owner) else { return };
        if peer.epoch >= epoch {
            return;
        }
        (peer.epoch, peer.kind) = (epoch, Kind::Primary);
        self.claim(me, owner, epoch, cells);
    }

    /// A strictly greater epoch wins a slot (3.2); who loses all follows the winner.
    pub(super) fn claim(&mut self, me: Process, by: Id, epoch: u64, cells: u128) {
        let node = &mut self.nodes[me];
        let own = node.id;
        let led_by = match node.kind {
            Kind::Primary => Some(own),
            Kind::Replica(of) => of,
        };
        let epochs: BTreeMap<Id, u64> =
            node.peers.iter().map(|(id, peer)| (*id, peer.epoch)).collect();
        let (mut lost, mut emptied) = (false, Vec::new());
        for cell in 0..node.owner.len() {
            if cells & (1 << cell) == 0 || node.owner[cell] == Some(by) {
                continue;
            }
            // What is being imported is given by the command alone.
            if node.moving.get(&cell) == Some(&true) {
                continue;
            }
            let old = node.owner[cell];
            let held =
                old.map(
                    |of| if of == own { node.epoch } else { epochs.get(&of).copied().unwrap_or(0) },
                );
            if held.is_some_and(|held| held >= epoch) {
                continue;
            }
            if old == Some(own) {
                emptied.push(cell);
                node.moving.remove(&cell);
            }
            lost |= old.is_some() && old == led_by;
            node.owner[cell] = Some(by);
        }
        let left = led_by.is_some_and(|id| Self::owns(node, id));
        if lost && !left {
            self.become_replica(me, by);
        } else {
            for cell in emptied {
                self.nodes[me].data[cell].clear();
            }
        }
        self.update_state(me);
    }

    fn take_gossip(&mut self, me: Process, sender: Id, gossip: Vec<Gossip>) {
        let now = self.now;
        let votes = Self::owns(&self.nodes[me], sender);
        for Gossip { id, place, fails, noaddr, is_primary } in gossip {
            let node: &mut Node = &mut self.nodes[me];
            if id == node.id {
                continue;
            }
            let banned = node.banned.contains_key(&id);
            let Some(peer) = node.peers.get_mut(&id) else {
                if !noaddr && !banned && place.is_some() {
                    let kind = if is_primary { Kind::Primary } else { Kind::Replica(None) };
                    node.peers.insert(id, Peer::new(place, kind, now));
                }
                continue;
            };
            if votes && fails {
                peer.reports.insert(sender, now);
            } else if votes {
                peer.reports.remove(&sender);
            }
            // Where it is now, others have heard; replication does not follow (0.12).
            if peer.fails() && !fails && !noaddr && peer.place != place {
                (peer.place, peer.noaddr, peer.link) = (place, false, BusLink::Down);
            }
            if votes && fails {
                self.fail_if_most_agree(me, id);
            }
        }
    }
}
