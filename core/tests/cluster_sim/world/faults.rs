//! What is done to the world, and what operators do in it.

use super::*;
use crate::nodes::{Failover, Keeps};

/// How long slots take to move, in ms.
const MOVE_MS: (u64, u64) = (50, 3_000);
/// How long after its MEET a blank node is told whom to follow, in ms.
const FOLLOW_AFTER_MS: u64 = 2_500;
/// Nodes that one history may have at most.
const NODES_MAX: usize = 14;

pub(super) fn process_id(process: Process) -> u32 {
    u32::try_from(process).expect("a process id") + 100
}

impl World {
    pub(super) fn operate(&mut self, operation: Operation) {
        match operation {
            Operation::Kill(process) => self.kill(process),
            Operation::KillPrimary(slot) => {
                if let Some(process) = self.owner_of(slot) {
                    self.counts.note("primaries killed");
                    self.kill(process);
                }
            }
            Operation::Start(process, keeps, loads) => self.start(process, keeps, loads),
            Operation::StartDead => {
                for process in self.own() {
                    self.start(process, Keeps::ALL, 0);
                }
            }
            Operation::Freeze(process) => {
                self.counts.note("frozen");
                self.nodes.freeze(process);
            }
            Operation::Thaw(process) => self.nodes.thaw(process),
            Operation::CutPair(..)
            | Operation::CutNode(_)
            | Operation::CutHost(_)
            | Operation::CutMinority(_)
            | Operation::Drop(..)
            | Operation::Deafen(_)
            | Operation::HealBus => self.operate_on_bus(operation),
            Operation::CutAgent(..)
            | Operation::CutAgentFromConsul(_)
            | Operation::HealAgent(_)
            | Operation::KillAgent(_)
            | Operation::StartAgent(_)
            | Operation::ConsulAway
            | Operation::ConsulBack
            | Operation::RestoreConsul
            | Operation::WipeConsul
            | Operation::Tamper(_) => self.operate_on_agents(operation),
            Operation::HealAll => self.heal(),
            operation => self.operate_as_operator(operation),
        }
    }

    /// The processes of the cluster.
    pub fn own(&self) -> Vec<Process> {
        (0..self.ours.len()).filter(|process| self.ours[*process]).collect()
    }

    fn foreign(&self) -> Vec<Process> {
        (0..self.ours.len()).filter(|process| !self.ours[*process]).collect()
    }

    /// The process that owns a slot for the most nodes.
    pub fn owner_of(&self, slot: u16) -> Option<Process> {
        let cell = self.nodes.cell_of(slot);
        let mut votes: BTreeMap<Id, usize> = BTreeMap::new();
        for process in self.own().into_iter().filter(|process| self.nodes.runs(*process)) {
            if let Some(id) = self.nodes.map_of(process)[cell] {
                *votes.entry(id).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, count)| *count)?.0;
        self.nodes.process_of(most).filter(|process| self.ours[*process])
    }

    /// A living replica of a slot's shard.
    pub fn replica_of(&self, slot: u16) -> Option<Process> {
        let owner = self.nodes.nodes[self.owner_of(slot)?].id;
        let follows = |process: &Process| {
            let own = self.nodes.nodes[*process].id;
            self.nodes.runs(*process) && self.nodes.follows(*process, own) == Some(owner)
        };
        self.own().into_iter().find(follows)
    }

    fn kill(&mut self, process: Process) {
        if !self.nodes.nodes[process].up {
            return;
        }
        self.counts.note("killed");
        let run = Some((process, self.nodes.nodes[process].life));
        self.killed_at.insert(self.nodes.nodes[process].id, self.now);
        self.prove(process);
        self.nodes.kill(process);
        // Connections to it end.
        for agent in 0..self.agents.len() {
            if self.agents[agent].cut.contains(&process) {
                continue;
            }
            let lines = self.agents[agent].lines.iter();
            let ended = lines.filter(|(_, line)| line.run == run).map(|(at, _)| at.clone());
            for address in ended.collect::<Vec<_>>() {
                self.post(agent, &address, true);
            }
        }
    }

    /// The kernel tells the agent beside it.
    fn prove(&mut self, process: Process) {
        if self.proofs == Proofs::None {
            return;
        }
        let agent = process % self.agents.len();
        let drawn = self.proofs == Proofs::Drawn;
        if drawn && self.rng.random_range(0..8) == 0 {
            self.counts.note("agents killed with their node");
            let at = self.now + self.rng.random_range(0..80);
            self.schedule(at, Operation::KillAgent(agent));
        }
        let late = drawn && self.rng.random_range(0..20) == 0;
        let late_ms = if late { self.rng.random_range(500..4_000) } else { 0 };
        let at = self.now + late_ms + self.delay();
        let (run_id, pid) = (format!("run-{process}"), process_id(process));
        let death = Death { run_id, pid, kind: ProofKind::Process, at: Mono(at) };
        let (address, life) = (self.nodes.address(process).clone(), self.agents[agent].life);
        let mut told = at + self.delay();
        let times = if drawn { self.rng.random_range(1..6) / 5 + 1 } else { 1 };
        for _ in 0..times {
            let input = ClusterInput::Process(address.clone(), ProcessState::Ended(death.clone()));
            self.push(told, Event::Deliver(agent, life, Box::new(input)));
            told += self.rng.random_range(1..4_000);
        }
    }

    fn start(&mut self, process: Process, keeps: Keeps, loads: u64) {
        // Its address may have another node by now.
        let taken = self.nodes.at(self.nodes.nodes[process].place).is_some();
        if self.nodes.nodes[process].up || taken {
            return;
        }
        self.counts.note("started");
        if !keeps.data {
            self.counts.note("started without data");
            self.data_moved = true;
        }
        if !keeps.config {
            self.counts.note("started without nodes.conf");
            self.data_moved = true;
        }
        self.nodes.restart(process, keeps, loads);
        if self.ours[process] {
            self.own_ids.insert(self.nodes.nodes[process].id);
        }
    }

    fn cut_off(&mut self, side: &BTreeSet<Process>) {
        for one in 0..self.nodes.nodes.len() {
            for other in (0..one).filter(|other| side.contains(other) != side.contains(&one)) {
                self.nodes.cut.insert((other, one));
            }
        }
    }

    fn picked(&self, mask: u32) -> BTreeSet<Process> {
        self.own().into_iter().filter(|process| mask & (1 << process) != 0).collect()
    }

    fn operate_on_bus(&mut self, operation: Operation) {
        match operation {
            Operation::CutPair(one, other) => {
                self.counts.note("pairs cut");
                self.nodes.cut.insert((one.min(other), one.max(other)));
            }
            Operation::CutNode(process) => {
                self.counts.note("nodes cut off");
                self.cut_off(&BTreeSet::from([process]));
            }
            Operation::CutHost(process) => {
                self.counts.note("hosts cut off");
                self.cut_off(&BTreeSet::from([process]));
                for agent in &mut self.agents {
                    agent.cut.insert(process);
                }
            }
            Operation::CutMinority(mask) => {
                self.counts.note("minorities cut off");
                let side = self.picked(mask);
                self.cut_off(&side);
            }
            Operation::Drop(from, to) => {
                self.counts.note("cut in one direction");
                self.nodes.dropped.insert((from, to));
            }
            Operation::Deafen(process) => {
                self.counts.note("deaf");
                self.nodes.deaf.insert(process);
            }
            _ => {
                self.nodes.cut.clear();
                self.nodes.dropped.clear();
                self.nodes.deaf.clear();
            }
        }
    }

    fn operate_on_agents(&mut self, operation: Operation) {
        match operation {
            Operation::CutAgent(agent, mask) => {
                self.counts.note("agents cut from nodes");
                self.agents[agent].cut = self.picked(mask);
            }
            Operation::CutAgentFromConsul(agent) => {
                self.counts.note("agents cut from Consul");
                self.agents[agent].cut_from_consul = true;
            }
            Operation::HealAgent(agent) => {
                self.agents[agent].cut.clear();
                self.agents[agent].cut_from_consul = false;
            }
            Operation::KillAgent(agent) => {
                self.counts.note("agents killed");
                self.agents[agent].up = false;
            }
            Operation::StartAgent(agent) => self.start_agent(agent),
            Operation::ConsulAway => {
                self.counts.note("Consul away");
                self.consul_away = true;
            }
            Operation::ConsulBack => self.consul_away = false,
            Operation::RestoreConsul | Operation::WipeConsul => {
                let count = self.backups.len();
                let pick = self.rng.random_range(0..count.max(1));
                match self
                    .backups
                    .get(pick)
                    .cloned()
                    .filter(|_| operation == Operation::RestoreConsul)
                {
                    Some(backup) => {
                        self.counts.note("Consul restored");
                        self.consul = backup;
                    }
                    None => {
                        self.counts.note("Consul wiped");
                        self.consul.wipe();
                    }
                }
                self.consul_life += 1;
                self.consul_away = false;
                self.tampered = true;
                self.note_named();
                // Every watch breaks with it.
                for agent in 0..self.agents.len() {
                    self.agents[agent].away = true;
                    let life = self.agents[agent].life;
                    let silent = Box::new(ClusterInput::ConsulSilent);
                    self.push(self.now, Event::Deliver(agent, life, silent));
                }
            }
            Operation::Tamper(pick) => {
                self.counts.note("rows deleted");
                self.tampered = true;
                self.consul.tamper(&self.layout.node(), pick);
                self.note_named();
            }
            _ => {}
        }
    }

    fn operate_as_operator(&mut self, operation: Operation) {
        match operation {
            Operation::Failover(slot, how) => {
                let done = self.replica_of(slot).map(|process| self.nodes.failover(process, how));
                if done == Some(Ok(())) {
                    let plain = how == Failover::Plain;
                    self.counts.note(if plain { "planned failovers" } else { "forced failovers" });
                    self.data_moved |= !plain;
                }
            }
            Operation::BackAndForth(slot) => {
                for times in 0..3 {
                    let at = self.now + times * self.timeout * 3 / 5;
                    self.schedule(at, Operation::Failover(slot, Failover::Plain));
                }
            }
            Operation::Forget(process) => self.forget(process, None),
            Operation::ForgetOn(on, process) => self.forget(process, Some(on)),
            Operation::ForeignAtDead(process) => self.take_address(process),
            Operation::Swap(process) => self.swap(process),
            Operation::MeetForeign(process) => {
                let foreign = self.foreign().into_iter().find(|other| self.nodes.nodes[*other].up);
                if let Some(foreign) = foreign {
                    let at = self.nodes.address(foreign).clone();
                    if self.nodes.meet(process, &at).is_ok() {
                        self.counts.note("foreign nodes met");
                    }
                }
            }
            Operation::Move(process) => self.move_nodes(&[process]),
            Operation::MoveAll => {
                self.counts.note("all moved");
                self.move_nodes(&self.own());
            }
            Operation::MoveSlots(slot) => self.begin_move(slot),
            Operation::SetTimeout(ms) => {
                self.counts.note("timeouts set");
                let ms = if ms == 0 { self.timeout } else { ms };
                for process in self.own() {
                    let _ = self.nodes.set_timeout(process, ms);
                }
            }
            Operation::Join(slot) => self.join(slot),
            Operation::Reset(process) => self.reset(process),
            Operation::Repair => self.repair(),
            Operation::BeginAnew => {
                self.counts.note("begun anew");
                let prefix = self.layout.state();
                self.consul.txn(&[Op::KeyDeleteTree { prefix }], "");
                self.tampered = true;
            }
            _ => {}
        }
    }

    fn forget(&mut self, process: Process, on: Option<Process>) {
        self.counts.note("forgotten");
        let name = self.nodes.name(process).clone();
        let by = on.map_or_else(|| self.own(), |on| vec![on]);
        for other in by.into_iter().filter(|other| *other != process) {
            let _ = self.nodes.forget(other, &name);
        }
    }

    /// A dead one's address goes to a node of another cluster.
    fn take_address(&mut self, process: Process) {
        let Some(foreign) = self.foreign().first().copied() else { return };
        if self.nodes.nodes[process].up {
            self.kill(process);
            let at = self.now + self.rng.random_range(500..5_000);
            return self.schedule(at, Operation::ForeignAtDead(process));
        }
        let at = self.nodes.address(process).clone();
        if self.nodes.at(self.nodes.nodes[process].place).is_some() {
            return;
        }
        self.counts.note("foreign nodes at a dead one's address");
        self.kill(foreign);
        self.nodes.move_to(foreign, &at);
        self.start(foreign, Keeps::ALL, 0);
        // It is to be found elsewhere itself when it returns.
        let own = self.fresh_address();
        self.nodes.move_to(process, &own);
    }

    fn swap(&mut self, process: Process) {
        let Some(foreign) = self.foreign().last().copied() else { return };
        self.counts.note("addresses swapped");
        let (one, other) =
            (self.nodes.address(process).clone(), self.nodes.address(foreign).clone());
        self.kill(process);
        self.kill(foreign);
        self.nodes.move_to(process, &other);
        self.nodes.move_to(foreign, &one);
        self.start(process, Keeps::ALL, 0);
        self.start(foreign, Keeps::ALL, 0);
    }

    fn fresh_address(&mut self) -> Address {
        self.next_address += 1;
        address(format!("10.1.{}.{}:6379", self.next_address / 250, self.next_address % 250 + 1))
    }

    fn move_nodes(&mut self, all: &[Process]) {
        self.counts.note("moved");
        for process in all {
            self.kill(*process);
        }
        for process in all {
            let at = self.fresh_address();
            self.nodes.move_to(*process, &at);
            self.start(*process, Keeps::ALL, 0);
        }
    }

    fn begin_move(&mut self, slot: u16) {
        let next = u16::try_from((usize::from(slot) + 5_462) % 16_384).expect("a slot");
        // So few borders that a history stays small.
        let room = self.nodes.cells() < 20;
        let Some((from, to)) = self.owner_of(slot).zip(self.owner_of(next)).filter(|_| room) else {
            return;
        };
        let (first, last) = (slot, slot.saturating_add(9).min(16_383));
        if from != to && self.nodes.begin_move(from, to, first, last).is_ok() {
            self.counts.note("slots begin to move");
            let (least, most) = MOVE_MS;
            let at = self.now + self.rng.random_range(least..most);
            self.push(at, Event::EndMove(from, to, first, last));
        }
    }

    pub(super) fn end_move(&mut self, from: Process, to: Process, first: u16, last: u16) {
        self.last_change = self.now;
        match self.nodes.end_move(from, to, first, last) {
            Ok(()) => {
                self.counts.note("slots moved");
                self.data_moved = true;
            }
            Err(_) => {
                self.nodes.stop_moves(from);
                self.nodes.stop_moves(to);
            }
        }
    }

    fn join(&mut self, slot: u16) {
        if self.ours.len() >= NODES_MAX {
            return;
        }
        let Some(member) = self.owner_of(slot) else { return };
        let at = self.fresh_address();
        let process = self.start_own(&at);
        self.nodes.nodes[process].full_coverage = self.nodes.nodes[member].full_coverage;
        self.counts.note("blank nodes joined");
        let _ = self.nodes.meet(member, &at);
        self.push(self.now + FOLLOW_AFTER_MS, Event::Follow(process, slot));
    }

    fn reset(&mut self, process: Process) {
        let old = self.nodes.name(process).clone();
        if self.nodes.reset_hard(process).is_err() {
            return;
        }
        self.counts.note("reset");
        self.own_ids.insert(self.nodes.nodes[process].id);
        for other in self.own() {
            let _ = self.nodes.forget(other, &old);
        }
        let slot = u16::try_from(process % 3 * 5_462).expect("a slot");
        if let Some(member) = self.owner_of(slot) {
            let at = self.nodes.address(process).clone();
            let _ = self.nodes.meet(member, &at);
            self.push(self.now + FOLLOW_AFTER_MS, Event::Follow(process, slot));
        }
    }

    pub(super) fn follow(&mut self, process: Process, slot: u16) {
        let Some(owner) = self.owner_of(slot).filter(|owner| *owner != process) else { return };
        let name = self.nodes.name(owner).clone();
        self.last_change = self.now;
        let _ = self.nodes.replicate(process, &name);
    }

    fn heal(&mut self) {
        self.counts.note("healed");
        self.nodes.cut.clear();
        self.nodes.dropped.clear();
        self.nodes.deaf.clear();
        self.consul_away = false;
        for process in 0..self.nodes.nodes.len() {
            self.nodes.thaw(process);
            self.start(process, Keeps::ALL, 0);
            if self.ours[process] {
                let _ = self.nodes.set_timeout(process, self.timeout);
            }
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].cut.clear();
            self.agents[agent].cut_from_consul = false;
            self.start_agent(agent);
        }
    }

    /// As `docs/facts/cluster.md` 5 and 6 say that it is mended.
    fn repair(&mut self) {
        if self.merged {
            return;
        }
        self.log.push(format!("{} before the repair:\n{}", self.now, self.state()));
        let own = self.own();
        for (one, other) in own.iter().flat_map(|a| own.iter().map(move |b| (*a, *b))) {
            let id = self.nodes.nodes[other].id;
            if one != other && !(self.nodes.sees_well(one, id) && self.nodes.links_to(one, id)) {
                let at = self.nodes.address(other).clone();
                if self.nodes.meet(one, &at).is_ok() {
                    self.counts.note("repaired by MEET");
                }
            }
        }
        for process in own {
            let owner = self.nodes.follows(process, self.nodes.nodes[process].id);
            let unlinked = self.nodes.copies(process).is_none();
            let blank = self.nodes.peers_of(process) == 0;
            let slot = u16::try_from(process % 3 * 5_462).expect("a slot");
            match owner.map(|owner| self.nodes.ids[owner].clone()) {
                Some(name) if unlinked => {
                    if self.nodes.replicate(process, &name).is_ok() {
                        self.counts.note("repaired by REPLICATE");
                    }
                }
                None if blank => {
                    self.push(self.now + FOLLOW_AFTER_MS, Event::Follow(process, slot))
                }
                Some(_) | None => {}
            }
        }
    }
}
