//! What is done to the world, and what operators do in it.

use super::*;

/// How often an agent tells that an instance refuses it, and every how many ms.
const REFUSED_TIMES: u64 = 6;
const REFUSED_AGAIN_MS: u64 = 700;

impl World {
    /// One that is gone for good, and that no other Sentinel names, is not asked any more.
    pub(super) fn dismiss_the_unnamed(&mut self) {
        for sentinel in 0..self.cluster.sentinels.len() {
            let named = |s: &Sentinel| s.up && s.peers.contains(&sentinel);
            if !self.cluster.sentinels[sentinel].gone || self.cluster.sentinels.iter().any(named) {
                continue;
            }
            for agent in 0..self.agents.len() {
                if !self.agents[agent].dismissed.contains_key(&sentinel) {
                    self.dismiss(agent, sentinel, u64::MAX);
                }
            }
        }
    }

    pub(super) fn dismiss(&mut self, agent: usize, sentinel: usize, until: u64) {
        if !self.agents[agent].up {
            return;
        }
        self.counts.dismissals += 1;
        self.agents[agent].dismissed.insert(sentinel, (self.now, until));
        let address = self.cluster.sentinels[sentinel].address.clone();
        self.input(agent, Input::SentinelGone(address));
    }

    pub(super) fn operate(&mut self, operation: Operation) {
        match operation {
            Operation::KillInstance(_)
            | Operation::StartInstance { .. }
            | Operation::FreezeInstance(_)
            | Operation::ThawInstance(_)
            | Operation::StartDead { .. }
            | Operation::KillPrimary
            | Operation::EmptyPrimary
            | Operation::MoveAll
            | Operation::ForeignData(_)
            | Operation::ReplicaOfNoOne(_) => self.operate_on_instances(operation),
            Operation::CutSentinels(a, b) => {
                self.cluster.cut_sentinels.insert((a.min(b), a.max(b)));
            }
            Operation::CutSentinelInstance(s, i) => {
                let address = self.cluster.instances[i].address.clone();
                self.cluster.cut_instances.insert((s, address));
            }
            Operation::CutAgent(agent, peer) => {
                if peer == Peer::Instance(agent) {
                    self.isolated.remove(&agent);
                }
                self.agents[agent].cut.insert(peer);
            }
            Operation::IsolateHost(host) => self.isolate(host),
            Operation::Maintenance { instance, on } => self.maintain(instance, on),
            Operation::Switchover(agent) => self.switch_over(agent),
            Operation::KillAgent(agent) => {
                self.agents[agent].up = false;
                self.isolated.remove(&agent);
            }
            Operation::StartAgent(agent) => self.start_agent(agent),
            Operation::Upgrade(agent) => {
                self.older.remove(&agent);
                self.operate(Operation::KillAgent(agent));
                self.start_agent(agent);
            }
            Operation::Dismiss { agent, sentinel } => {
                let until = self.now + self.rng.random_range(1_000..8_000);
                self.dismiss(agent, sentinel, until);
            }
            Operation::FullQueue(agent) => {
                self.agents[agent].full_until = self.now + self.rng.random_range(5_000..20_000);
            }
            Operation::Lag(agent) => {
                self.agents[agent].lags_until = self.now + self.rng.random_range(5_000..20_000);
            }
            Operation::Reload { agent, change } => self.reload(agent, change),
            Operation::Look(agent) => self.look(agent),
            Operation::ConsulAway => self.consul_away = true,
            Operation::ConsulBack => self.consul_away = false,
            Operation::WipeConsul => {
                // The fence itself is gone; only what agents remember keeps it from going back.
                self.generation_max = 0;
                self.last_record = None;
                self.consul_life += 1;
                self.consul.wipe();
                self.old_consul.wipe();
                // Every watch breaks with it.
                for agent in 0..self.agents.len() {
                    self.agents[agent].away = true;
                    self.push(self.now, Event::Deliver(agent, Box::new(Input::ConsulSilent)));
                }
            }
            Operation::Tamper(pick) => {
                self.tampered = true;
                self.consul.tamper(&self.layout.node(), pick);
            }
            Operation::HealAll => self.heal(),
            operation => self.operate_on_sentinels(operation),
        }
    }

    /// As `consul-redis maintenance` does: the key says who, and the priority keeps Sentinels from choosing it.
    pub(super) fn maintain(&mut self, index: usize, on: bool) {
        if on == (self.cluster.instances[index].priority == 0) {
            return;
        }
        self.cluster.instances[index].priority = if on { 0 } else { PRIORITY };
        let kept = self.cluster.instances.iter().filter(|instance| instance.priority == 0);
        let kept: BTreeMap<&Address, u64> = kept.map(|i| (&i.address, PRIORITY)).collect();
        let (key, value) = (self.layout.maintenance(), serde_json::to_string(&kept));
        let set = Op::KeySet { key, value: value.expect("a map of addresses") };
        self.consul.txn(&[set], &self.layout.state());
    }

    /// An agent reads its config again. Whatever is due has been decided before, so what is decided now is the
    /// reload's.
    pub(super) fn reload(&mut self, agent: usize, change: Change) {
        let policy = &mut self.policies[agent];
        match change {
            Change::Nothing => {}
            Change::Level => {
                let quorum = policy.publish == Level::Quorum;
                policy.publish = if quorum { Level::Promotion } else { Level::Quorum };
            }
            Change::Quorum => {
                let auto = policy.settings.quorum == Some(WantedQuorum::Auto);
                let all = WantedQuorum::Fixed(self.cluster.sentinels.len() as u64);
                policy.settings.quorum = Some(if auto { all } else { WantedQuorum::Auto });
            }
            Change::Fence => policy.fence = !policy.fence,
            Change::ForgetAfter => policy.forget_after_ms = 63_000 - policy.forget_after_ms,
        }
        if !self.agents[agent].up {
            return;
        }
        self.counts.reloads += 1;
        self.input(agent, Input::Tick);
        let mut policy = self.policy(agent);
        policy.run = format!("run-{}", self.agents[agent].life);
        let now = self.clock();
        let Agent { machine, .. } = &mut self.agents[agent];
        let outputs = machine.on(Input::Policy(Box::new(policy)), now);
        let answers = machine.observed().sentinels.values().filter_map(|r| r.result.as_ref().ok());
        let mut groups = answers.filter_map(|answer| answer.group.as_ref());
        // At the other level a failover that is under way moves the name by right.
        let excused = change == Change::Level && groups.any(|group| group.failover.is_some());
        let moves = outputs.iter().any(|output| {
            let Output::Write(_, write) = output else { return false };
            matches!(write.purpose, Purpose::Publish | Purpose::Withdraw)
        });
        if moves && !excused {
            self.break_with(format!("agent-{agent} moves the name for a reload: {change:?}"));
        }
        self.take(agent, outputs);
    }

    /// All servers are asked at once.
    pub(super) fn look(&mut self, agent: usize) {
        if !self.agents[agent].up {
            return;
        }
        self.counts.looks += 1;
        let now = self.clock();
        let outputs = self.agents[agent].machine.on(Input::Look, now);
        if !outputs.contains(&Output::AskSentinels) {
            self.break_with(format!("agent-{agent} was made to look, and asks no Sentinel"));
        }
        self.take(agent, outputs);
    }

    /// As `consul-redis switchover` does: by what it sees, and only when nothing speaks against it.
    pub(super) fn switch_over(&mut self, agent: usize) {
        let mut observed = self.agents[agent].machine.observed().clone();
        if let Some(store) = &mut observed.store {
            // Their presence is bound to sessions, which are not simulated.
            store.agents.insert(self.policies[agent].agent.clone());
        }
        let memory = Memory::default();
        let view = View::of_one_look(&self.policies[agent], &memory, &observed, self.clock());
        let Some(planned) = prepare(&view, None).1.filter(|_| self.agents[agent].up) else {
            return;
        };
        let is_it = |s: &Sentinel| s.address == planned.sentinel;
        let index = self.index_of(&planned.from);
        let sentinel = self.cluster.sentinels.iter().position(is_it);
        let Some((from, sentinel)) = index.zip(sentinel) else { return };
        let old = &self.cluster.instances[from];
        if !old.answers() || !old.is_primary() || !self.reaches(agent, from, sentinel) {
            return;
        }
        // The key `move`: a second one that gives up would end the pause of the first.
        if self.now < self.moving_until {
            return;
        }
        self.moving_until = self.now + MOVE_LOCK_MS;
        let (run, replid, target) = (old.run, old.replid, old.offset);
        self.moves += 1;
        self.hold(agent, from, MOVE_HOLD_MS);
        let (begun, step) = (self.now, Step::CatchUp);
        let planned = Move { planned, from, sentinel, run, replid, target, begun, step };
        self.push(self.now + MOVE_STEP_MS, Event::Move(agent, planned));
    }

    pub(super) fn reaches(&self, agent: usize, instance: usize, sentinel: usize) -> bool {
        let cut = &self.agents[agent].cut;
        !cut.contains(&Peer::Instance(instance)) && !cut.contains(&Peer::Sentinel(sentinel))
    }

    /// The next step of a planned move, until it has ended.
    pub(super) fn go_on(&mut self, agent: usize, mut planned: Move) {
        let Move { from, sentinel, begun, .. } = planned;
        let reached = self.agents[agent].up && self.reaches(agent, from, sentinel);
        let patience = match planned.step {
            Step::CatchUp => CATCH_UP_MAX_MS,
            Step::Promote => CATCH_UP_MAX_MS + PROMOTION_MAX_MS,
            Step::Follow(_) => FOLLOW_MAX_MS,
        };
        let late = self.now - begun > patience;
        if !reached || late {
            // Writes go on where they were, unless another instance leads already.
            if reached && !matches!(planned.step, Step::Follow(_)) {
                self.cluster.instances[from].held_until = self.now;
            }
            if self.agents[agent].up {
                self.moving_until = self.now;
            }
            return;
        }
        let answers: Vec<(Address, InstanceAnswer)> = planned
            .planned
            .candidates
            .iter()
            .filter_map(|a| Some((a.clone(), self.cluster.probe(a)?)))
            .collect();
        let all = answers.len() == planned.planned.candidates.len();
        match &planned.step {
            Step::CatchUp if all && answers.iter().all(|(_, a)| has_all(planned.target, a)) => {
                let asked = &self.cluster.sentinels[sentinel];
                if !asked.up || !asked.knows || asked.failover.is_some() {
                    self.cluster.instances[from].held_until = self.now;
                    self.moving_until = self.now;
                    return;
                }
                self.cluster.start_failover(sentinel, self.now, true);
                planned.step = Step::Promote;
            }
            Step::Promote => {
                let leads = |a: &InstanceAnswer| matches!(a.role, Role::Primary { .. });
                if let Some((new, _)) = answers.iter().find(|(_, answer)| leads(answer)) {
                    planned.step = Step::Follow(new.clone());
                }
            }
            Step::Follow(new) if self.is_followed(new) => {
                let new = new.clone();
                return self.end_move(&planned, &new);
            }
            Step::CatchUp | Step::Follow(_) => {}
        }
        self.push(self.now + MOVE_STEP_MS, Event::Move(agent, planned));
    }

    pub(super) fn is_followed(&self, new: &Address) -> bool {
        let answer = self.consul.group(&self.layout, Mono(self.now));
        let published = answer.record().and_then(Record::writer_address);
        published == Some(new) && self.cluster.majority().as_ref() == Some(new)
    }

    /// The old primary follows, and every write that it acknowledged is the new one's.
    pub(super) fn end_move(&mut self, planned: &Move, new: &Address) {
        let Move { from, run, replid, begun, .. } = *planned;
        let address = self.cluster.instances[from].address.clone();
        let now = self.cluster.probe(&address);
        if let Some(fence) = now.and_then(|now| retire(&address, &now, new)) {
            self.cluster.fence(from, &fence);
        }
        let (old, leads) = (&self.cluster.instances[from], self.cluster.instance(new));
        // One that was restarted was not held any more; nor was one that had to wait for longer than it is.
        let held = old.run == run && self.now - begun < MOVE_HOLD_MS;
        let went_on = leads.filter(|leads| leads.replid2 == Some(replid) && held);
        if let Some(leads) = went_on {
            let (wrote, forked_at) = (old.wrote, leads.forked_at);
            if wrote.0 == replid && wrote.1 >= forked_at {
                let what = format!("{new} goes on from {forked_at}, {address} wrote {wrote:?}");
                return self.break_with(what);
            }
            self.counts.moves_done += 1;
        }
        self.cluster.instances[from].held_until = self.now;
        self.moving_until = self.now;
    }

    /// What is done to instances, and what the agents beside them hear of it.
    pub(super) fn operate_on_instances(&mut self, operation: Operation) {
        let alive = |i: &Instance| (i.up, i.run, i.address.clone());
        let before: Vec<_> = self.cluster.instances.iter().map(alive).collect();
        self.change_instances(operation);
        for (index, (was_up, run, address)) in before.into_iter().enumerate() {
            let now = &self.cluster.instances[index];
            if was_up && (!now.up || now.run != run) {
                self.tell_of_death(index, run, &address);
                self.refuse(&format!("run-{run}-{address}"), &address);
            }
        }
    }

    /// Every agent that reaches its host is refused from now on: some see it late, and some not at all.
    fn refuse(&mut self, run_id: &str, address: &Address) {
        for agent in 0..self.agents.len() {
            if !self.refused || self.rng.random_range(0..8) == 0 {
                continue;
            }
            let late = self.rng.random_range(0..8) == 0;
            let delay = if late { self.rng.random_range(200..3_000) } else { 55 + self.delay() };
            // As long as it goes on, it is told again.
            for again in 0..REFUSED_TIMES {
                let at = self.now + delay + again * REFUSED_AGAIN_MS;
                let (run_id, since) = (run_id.to_owned(), Mono(self.now));
                let refusal = Refusal { run_id, since, latest: Mono(at) };
                let refused = Input::Refused(address.clone(), Some(refusal));
                self.push(at, Event::Deliver(agent, Box::new(refused)));
            }
        }
    }

    /// What stands before a living instance refuses connections in its place.
    pub fn refuse_falsely(&mut self, index: usize) {
        let instance = &self.cluster.instances[index];
        let (run_id, address) =
            (format!("run-{}-{}", instance.run, instance.address), instance.address.clone());
        self.refuse(&run_id, &address);
    }

    /// The kernel tells at once, and the agent may be busy with something else; it may hear of it twice.
    fn tell_of_death(&mut self, index: usize, run: u64, address: &Address) {
        if !self.told || index >= self.agents.len() {
            return;
        }
        let times = if self.rng.random_range(0..8) == 0 { 2 } else { 1 };
        for _ in 0..times {
            let late = self.rng.random_range(0..8) == 0;
            let delay = if late { self.rng.random_range(200..7_000) } else { self.delay() };
            let at = self.now + delay;
            let death = Death {
                run_id: format!("run-{run}-{address}"),
                pid: run as u32,
                kind: ProofKind::Process,
                at: Mono(at),
            };
            let ended = Input::Process(address.clone(), ProcessState::Ended(death));
            self.push(at, Event::Deliver(index, Box::new(ended)));
        }
    }

    fn change_instances(&mut self, operation: Operation) {
        let instances = &mut self.cluster.instances;
        match operation {
            Operation::KillInstance(i) => instances[i].up = false,
            Operation::FreezeInstance(i) => instances[i].frozen = true,
            Operation::ThawInstance(i) => instances[i].frozen = false,
            Operation::StartInstance { instance, empty } => {
                self.cluster.start_instance(instance, empty);
            }
            Operation::StartDead { empty } => {
                for index in 0..self.cluster.instances.len() {
                    self.cluster.start_instance(index, empty);
                }
            }
            Operation::KillPrimary => {
                let primary = self.cluster.majority();
                if let Some(index) = primary.and_then(|primary| self.index_of(&primary)) {
                    self.cluster.instances[index].up = false;
                }
            }
            Operation::MoveAll => self.move_all(),
            Operation::ForeignData(i) => {
                // Another process, whose writes no agent has held yet.
                self.primary_since.remove(&i);
                self.cluster.start_foreign(i);
            }
            Operation::EmptyPrimary => {
                let primary = self.cluster.majority();
                if let Some(index) = primary.and_then(|primary| self.index_of(&primary)) {
                    self.cluster.instances[index].up = false;
                    self.cluster.start_instance(index, true);
                }
            }
            Operation::ReplicaOfNoOne(i) => {
                let address = instances[i].address.clone();
                self.cluster.promote(&address);
            }
            other => panic!("{other:?} is not about instances"),
        }
    }

    /// Containers that are made anew have other addresses, and agents that know them.
    pub(super) fn move_all(&mut self) {
        self.moved += 1;
        let count = self.cluster.instances.len();
        let to: Vec<Address> =
            (0..count).map(|index| crate::cluster::address(10 + self.moved, index)).collect();
        for (index, to) in to.iter().enumerate() {
            self.cluster.move_instance(index, to.clone());
        }
        for agent in 0..self.agents.len() {
            if let Some(to) = to.get(agent) {
                self.policies[agent].local = BTreeSet::from([to.clone()]);
            }
            self.operate(Operation::KillAgent(agent));
            self.start_agent(agent);
            let delay = 2_000 + 10 * self.delay();
            let registered = Box::new(Input::Registered(to.iter().cloned().collect()));
            self.push(self.now + delay, Event::Deliver(agent, registered));
        }
    }

    pub(super) fn operate_on_sentinels(&mut self, operation: Operation) {
        let now = self.now;
        let sentinels = &mut self.cluster.sentinels;
        match operation {
            Operation::KillSentinel(s) => sentinels[s].up = false,
            Operation::RemoveSentinel(s) => {
                sentinels[s].up = false;
                sentinels[s].gone = true;
            }
            Operation::KillLeader => {
                let leads = |s: &Sentinel| s.up && s.failover.is_some();
                if let Some(leader) = sentinels.iter().position(leads) {
                    self.cluster.kill(leader);
                }
            }
            Operation::StartSentinel { sentinel, blank } => {
                sentinels[sentinel].up = !sentinels[sentinel].gone;
                if blank {
                    sentinels[sentinel].knows = false;
                    sentinels[sentinel].peers.clear();
                }
            }
            Operation::Tilt(s) => sentinels[s].tilt_until = now + 10_000,
            Operation::Rollback { sentinel, to } => {
                let address = self.cluster.instances[to].address.clone();
                self.cluster.remonitor(sentinel, &address);
            }
            Operation::Reset(s) => self.cluster.reset(s),
            Operation::ResetLeader => {
                if let Some(leader) = sentinels.iter().position(|s| s.failover.is_some()) {
                    self.cluster.reset(leader);
                }
            }
            Operation::ForceFailover(s) => {
                let Sentinel { up, knows, failover, .. } = &sentinels[s];
                if *up && *knows && failover.is_none() {
                    self.cluster.start_failover(s, now, true);
                }
            }
            Operation::ForceTwoFailovers(a, b) => {
                self.operate(Operation::ForceFailover(a));
                self.operate(Operation::ForceFailover(b));
            }
            other => panic!("{other:?} is not about Sentinels"),
        }
    }

    pub(super) fn start_agent(&mut self, agent: usize) {
        let life = self.agents[agent].life + 1;
        if self.agents[agent].up || self.no_agents {
            return;
        }
        let mut policy = self.policy(agent);
        policy.run = format!("run-{life}");
        let machine = GroupLoop::new(policy, self.layout.clone());
        let sentinels = self.cluster.sentinels.len();
        let cut = self.agents[agent].cut.clone();
        // Messages of the old life still arrive: they belong to no question of the new one, but they
        // are true, so they must do no harm.
        let said_primary = self.agents[agent].said_primary.clone();
        let fresh = Agent::new(machine, sentinels);
        self.agents[agent] = Agent { life, cut, said_primary, ..fresh };
        self.push(self.now + 1, Event::Wake(agent));
    }

    pub(super) fn isolate(&mut self, host: usize) {
        if host >= self.agents.len() || host >= self.cluster.instances.len() {
            return;
        }
        let address = self.cluster.instances[host].address.clone();
        self.agents[host].cut.insert(Peer::Consul);
        for sentinel in 0..self.cluster.sentinels.len() {
            self.agents[host].cut.insert(Peer::Sentinel(sentinel));
            self.cluster.cut_instances.insert((sentinel, address.clone()));
        }
        for agent in (0..self.agents.len()).filter(|agent| *agent != host) {
            self.agents[agent].cut.insert(Peer::Instance(host));
        }
        for other in (0..self.cluster.instances.len()).filter(|other| *other != host) {
            self.agents[host].cut.insert(Peer::Instance(other));
        }
        // One that has never seen anything has nothing to lose.
        let knows = self.agents[host].machine.observed().record().is_some();
        if self.agents[host].up && knows {
            let blind_to_own = self.agents[host].cut.contains(&Peer::Instance(host));
            if !blind_to_own {
                self.isolated.entry(host).or_insert(self.now);
            }
        }
    }

    /// Every fault ends: what stopped starts, what was cut is joined.
    pub(super) fn heal(&mut self) {
        self.consul_away = false;
        self.isolated.clear();
        // One is left where the operator has put it.
        for index in 1..self.cluster.instances.len() {
            self.maintain(index, false);
        }
        self.cluster.cut_sentinels.clear();
        self.cluster.cut_instances.clear();
        for index in 0..self.cluster.instances.len() {
            self.cluster.instances[index].frozen = false;
            self.cluster.start_instance(index, false);
        }
        for sentinel in &mut self.cluster.sentinels {
            sentinel.up = !sentinel.gone;
            sentinel.tilt_until = 0;
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].cut.clear();
            self.agents[agent].dismissed.retain(|_, (_, until)| *until == u64::MAX);
            (self.agents[agent].full_until, self.agents[agent].lags_until) = (0, 0);
            self.start_agent(agent);
        }
    }
}
