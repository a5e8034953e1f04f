//! What agents ask and tell, and what becomes of it on its way: delays, losses, answers, commands carried out.

use consul_redis_core::known::observed::SentinelAnswer;
use consul_redis_core::published::words::{AgentWords, InstanceWords};

use super::*;

impl World {
    /// What an agent takes a record for, or leaves of it: an older one drops what it does not know.
    pub(super) fn as_known(&self, agent: usize, state: &str) -> String {
        let mut record: serde_json::Value = serde_json::from_str(state).expect("a record");
        let fields = record.as_object_mut().expect("a record");
        for unknown in self.older.get(&agent).copied().unwrap_or_default() {
            fields.remove(*unknown);
        }
        serde_json::to_string(&record).expect("a record")
    }

    /// The group's keys as an agent understands them.
    pub(super) fn group_for(
        &self,
        agent: usize,
        consul: &MemoryConsul,
        asked: Mono,
    ) -> StoreAnswer {
        let mut answer = consul.group(&self.layout, asked);
        for policy in self.policies.iter().filter(|policy| policy.zone.is_some()) {
            let said = |at: &Address| (at.clone(), InstanceWords::default());
            let instances = policy.local.iter().map(said).collect();
            let words = AgentWords { instances, ..AgentWords::default() };
            answer.words.insert(policy.agent.clone(), words);
        }
        if let Some(record) = answer.record().filter(|_| self.older.contains_key(&agent)) {
            let known = self.as_known(agent, &encode(record));
            answer.state =
                StoredState::Known(Box::new(decode(known.as_bytes()).expect("a record")));
        }
        answer
    }

    /// No instance with unrelated data is ever made the primary.
    pub(super) fn promote(&mut self, agent: usize, index: usize, promote: &Promote) {
        let reached = !self.agents[agent].cut.contains(&Peer::Instance(index));
        let now = self.cluster.probe(&promote.instance).filter(|_| reached);
        if now.is_some_and(|now| now.run_id == promote.run_id && now.shows_its_data()) {
            if self.is_foreign(index) {
                self.break_with(format!("{} was promoted, with foreign data", promote.instance));
            }
            self.cluster.promote(&promote.instance);
        }
    }

    /// The mark of a generation is never written on another instance than its writer.
    pub(super) fn mark(&mut self, agent: usize, index: usize, marking: &Marking) {
        if self.agents[agent].cut.contains(&Peer::Instance(index)) {
            return;
        }
        let written = self.cluster.mark(index, marking);
        self.counts.marks += usize::from(written);
        let record = self.last_record.as_ref();
        let record = record.filter(|record| record.generation == marking.mark.generation);
        let other = record.is_some_and(|record| record.writer_address() != Some(&marking.instance));
        if written && other {
            self.break_with(format!("{} has the mark of another writer", marking.instance));
        }
        if written {
            self.input(agent, Input::Marked(marking.clone(), Ok(true)));
        }
    }

    /// A priority of 0 is an operator's, and stays.
    pub(super) fn prioritize(
        &mut self,
        agent: usize,
        index: usize,
        prioritize: &Prioritize,
        until: Mono,
    ) {
        let cut = self.agents[agent].cut.contains(&Peer::Instance(index));
        if cut || self.now > until.0 {
            return;
        }
        let before = self.cluster.instances[index].priority;
        let set = self.cluster.prioritize(index, prioritize);
        self.counts.priorities += usize::from(set);
        if set && before == 0 {
            self.break_with(format!("{} may lead again", prioritize.instance));
        }
        self.input(agent, Input::Prioritized(prioritize.clone(), Ok(set)));
    }

    /// What a Sentinel says when a command for it arrives, where it does, and in time.
    fn on_arrival(&self, agent: usize, sentinel: usize, until: Mono) -> Option<SentinelAnswer> {
        let cut = self.agents[agent].cut.contains(&Peer::Sentinel(sentinel));
        self.cluster.ask(sentinel, self.now).filter(|_| !cut && self.now <= until.0)
    }

    pub(super) fn reconfigure(
        &mut self,
        agent: usize,
        sentinel: usize,
        reconfigure: &Reconfigure,
        until: Mono,
    ) {
        let answer = self.on_arrival(agent, sentinel, until);
        if !answer.as_ref().is_some_and(|answer| reconfigure.still_holds(answer)) {
            self.counts.late_paces += usize::from(reconfigure.hastens());
            return;
        }
        match reconfigure.what {
            ReconfigureKind::Monitor => {}
            ReconfigureKind::Repoint => {
                let leads = self.cluster.sentinels[sentinel].failover.is_some();
                self.counts.failovers_ended += usize::from(leads);
            }
            ReconfigureKind::Settings => {
                let now = answer.and_then(|now| now.group);
                let to_set =
                    now.map(|group| reconfigure.to_set(group.settings)).unwrap_or_default();
                if to_set.iter().any(|(name, _)| *name == "quorum") {
                    self.cluster.sentinels[sentinel].quorum = reconfigure.settings.quorum;
                }
                return;
            }
            ReconfigureKind::Pace(ms) => {
                self.check_pace(agent, sentinel, reconfigure, until);
                let own = self.cluster.down_after_ms;
                self.cluster.sentinels[sentinel].pace = (ms != own).then_some(ms);
                self.counts.paces += 1;
                return;
            }
            ReconfigureKind::Reboot(_) => return,
            ReconfigureKind::Remove(_) => {
                self.removals += 1;
                self.cluster.remove(sentinel);
                return;
            }
        }
        self.cluster.sentinels[sentinel].quorum = reconfigure.settings.quorum;
        self.reconfigurations += 1;
        self.cluster.remonitor(sentinel, &reconfigure.primary);
        self.note_truth();
    }

    /// What a Sentinel is told on the grounds of a vote is about the primary that the vote was about.
    fn check_pace(
        &mut self,
        agent: usize,
        sentinel: usize,
        reconfigure: &Reconfigure,
        until: Mono,
    ) {
        let answer = self.cluster.ask(sentinel, self.now);
        let Some(group) = answer.and_then(|answer| answer.group) else { return };
        let elected = group.failover.is_some_and(|phase| phase.elected());
        if reconfigure.hastens() && (group.monitored != reconfigure.primary || elected) {
            self.break_with(format!(
                "agent {agent} hurries Sentinel {sentinel} about {}, decided about {} {} ms ago",
                group.monitored,
                reconfigure.primary,
                (self.now + reconfigure.within_ms()).saturating_sub(until.0)
            ));
        }
    }

    pub(super) fn input(&mut self, agent: usize, input: Input) {
        let now = self.clock();
        let machine = &mut self.agents[agent].machine;
        let outputs = match self.crowded {
            true => machine.on_news(vec![input], now),
            false => machine.on(input, now),
        };
        self.take(agent, outputs);
    }

    pub(super) fn take(&mut self, agent: usize, outputs: Vec<Output>) {
        for output in outputs {
            self.carry_out(agent, output);
        }
        let wake = self.agents[agent].machine.next_wake().0.max(self.now + 1);
        if wake < self.agents[agent].next_wake || self.agents[agent].next_wake <= self.now {
            self.agents[agent].next_wake = wake;
            self.push(wake, Event::Wake(agent));
        }
    }

    pub(super) fn carry_out(&mut self, agent: usize, output: Output) {
        match output {
            Output::AskSentinels => {
                for sentinel in 0..self.cluster.sentinels.len() {
                    self.send_ask(agent, sentinel);
                }
            }
            Output::Probe(addresses) => {
                for index in 0..self.cluster.instances.len() {
                    if addresses.contains(&self.cluster.instances[index].address) {
                        self.send_probe(agent, index);
                    }
                    let alias = self.cluster.instances[index].alias.clone();
                    if let Some(alias) = alias.filter(|alias| addresses.contains(alias)) {
                        let (asked, delay) = (self.now, self.delay());
                        self.push(self.now + delay, Event::AskAlias(agent, index, alias, asked));
                    }
                }
            }
            Output::Follow(_) | Output::Published(_) | Output::ShowClock(_) | Output::Died(..) => {}
            Output::ReadStore => {
                let delay = self.delay();
                self.push(self.now + delay, Event::Read(agent, ReadKind::Consistent));
            }
            Output::ReadRows => {
                let delay = self.delay();
                self.push(self.now + delay, Event::Read(agent, ReadKind::Rows));
            }
            Output::Write(id, write) => {
                self.check_proof(agent, &write);
                let fate = match self.rng.random_range(0..100) {
                    0..92 => Fate::Answered,
                    92..97 => Fate::AnswerLost,
                    _ => Fate::RequestLost,
                };
                // A request may sit in a queue for long after it was given up.
                let late = self.rng.random_range(0..100) < 3;
                let delay = if late { self.rng.random_range(500..6_000) } else { self.delay() };
                self.push(self.now + delay, Event::Apply(agent, id, write, fate, self.consul_life));
            }
            Output::FollowUp(ops) => {
                let delay = self.delay();
                self.push(self.now + delay, Event::FollowUp(agent, ops, self.consul_life));
            }
            Output::Say(saying) => {
                self.log.push(format!("{} agent-{agent}: {}", self.now, saying.text));
            }
            output => self.command(agent, output),
        }
    }

    /// Commands to instances and Sentinels.
    pub(super) fn command(&mut self, agent: usize, output: Output) {
        match output {
            Output::Reconfigure(..)
            | Output::Forget(..)
            | Output::Replace(..)
            | Output::Relay(..) => {
                self.command_sentinel(agent, output);
            }
            output => self.command_instance(agent, output),
        }
    }

    pub(super) fn command_instance(&mut self, agent: usize, output: Output) {
        if self.agents[agent].full_until > self.now {
            self.counts.full_queues += 1;
            return;
        }
        let (instance, delay) = match &output {
            // One that is renewed each second.
            Output::Hold(hold) => (&hold.instance, self.delay()),
            Output::Fence(fence) => (&fence.instance, self.command_delay()),
            Output::Detach(detach) => (&detach.instance, self.command_delay()),
            Output::Promote(promote) => (&promote.instance, self.command_delay()),
            Output::Mark(marking) => (&marking.instance, self.command_delay()),
            Output::Prioritize(prioritize, _) => (&prioritize.instance, self.command_delay()),
            other => panic!("{other:?} is no command"),
        };
        let Some(index) = self.index_of(instance) else { return };
        let event = match output {
            Output::Hold(hold) => Event::Hold(agent, index, hold.for_ms),
            Output::Fence(fence) => Event::Fence(agent, index, fence),
            Output::Detach(detach) => Event::Detach(agent, index, detach),
            Output::Promote(promote) => Event::Promote(agent, index, promote),
            Output::Mark(marking) => Event::Mark(agent, index, marking),
            Output::Prioritize(prioritize, until) => {
                Event::Prioritize(agent, index, prioritize, until)
            }
            other => panic!("{other:?} is no command"),
        };
        self.push(self.now + delay, event);
    }

    pub(super) fn command_sentinel(&mut self, agent: usize, output: Output) {
        let address = match &output {
            Output::Reconfigure(reconfigure, _) => &reconfigure.sentinel,
            Output::Forget(forget, _) => &forget.sentinel,
            Output::Replace(replace, _) => &replace.sentinel,
            Output::Relay(relay, _) => &relay.sentinel,
            other => panic!("{other:?} is no command"),
        };
        let is_it = |s: &Sentinel| &s.address == address;
        let Some(sentinel) = self.cluster.sentinels.iter().position(is_it) else { return };
        if self.agents[agent].lags_until > self.now || self.is_dismissed(agent, sentinel) {
            self.counts.lags += 1;
            return;
        }
        let forget = matches!(output, Output::Forget(..));
        let delay = if forget { self.late_delay() } else { self.command_delay() };
        let event = match output {
            Output::Reconfigure(reconfigure, until) => {
                Event::Reconfigure(agent, sentinel, reconfigure, until)
            }
            Output::Forget(forget, until) => Event::Forget(agent, sentinel, forget, until),
            Output::Replace(replace, until) => Event::Replace(agent, sentinel, replace, until),
            Output::Relay(relay, until) => {
                // What is sent twice is heard twice.
                if self.rng.random_range(0..8) == 0 {
                    let again = Event::Relay(agent, sentinel, relay.clone(), until);
                    self.push(self.now + 2 * delay, again);
                }
                Event::Relay(agent, sentinel, relay, until)
            }
            other => panic!("{other:?} is no command"),
        };
        self.push(self.now + delay, event);
    }

    /// Now and then a command is on its way for long.
    pub(super) fn command_delay(&mut self) -> u64 {
        if self.tardy { self.late_delay() } else { self.delay() }
    }

    pub(super) fn late_delay(&mut self) -> u64 {
        if self.rng.random_range(0..10) > 0 {
            return self.delay();
        }
        self.counts.late_commands += 1;
        self.rng.random_range(500..9_000)
    }

    pub(super) fn is_dismissed(&self, agent: usize, sentinel: usize) -> bool {
        let dismissed = self.agents[agent].dismissed.get(&sentinel);
        dismissed.is_some_and(|(_, until)| *until > self.now)
    }

    pub(super) fn index_of(&self, address: &Address) -> Option<usize> {
        self.cluster.instances.iter().position(|instance| instance.is_at(address))
    }

    pub(super) fn send_ask(&mut self, agent: usize, sentinel: usize) {
        if self.is_dismissed(agent, sentinel) {
            return;
        }
        let (asked, delay) = (self.now, self.delay());
        self.push(self.now + delay, Event::AskSentinel(agent, sentinel, asked));
    }

    pub(super) fn send_probe(&mut self, agent: usize, instance: usize) {
        let (asked, delay) = (self.now, self.delay());
        self.push(self.now + delay, Event::AskInstance(agent, instance, asked));
    }

    pub(super) fn ask_sentinel(&mut self, agent: usize, sentinel: usize, asked: u64) {
        let cut = self.agents[agent].cut.contains(&Peer::Sentinel(sentinel));
        let answer = if cut { None } else { self.cluster.ask(sentinel, self.now) };
        let (result, delay) = match answer {
            Some(answer) => (Ok(answer), self.delay()),
            None => (Err("no answer".to_owned()), ASK_TIMEOUT_MS),
        };
        let answered = Mono(self.now + delay);
        let reading = Reading { asked: Mono(asked), answered, result };
        let address = self.cluster.sentinels[sentinel].address.clone();
        self.push(
            self.now + delay,
            Event::Deliver(agent, Box::new(Input::Sentinel(address, reading))),
        );
    }

    pub(super) fn ask_instance(&mut self, agent: usize, instance: usize, asked: u64) {
        let address = self.cluster.instances[instance].address.clone();
        self.ask_instance_at(agent, instance, address, asked);
    }

    pub(super) fn ask_instance_at(
        &mut self,
        agent: usize,
        instance: usize,
        address: Address,
        asked: u64,
    ) {
        let cut = self.agents[agent].cut.contains(&Peer::Instance(instance));
        let answer = if cut { None } else { self.cluster.probe(&address) };
        let (result, delay) = match answer {
            Some(answer) => {
                if matches!(answer.role, Role::Primary { .. }) {
                    self.agents[agent].said_primary.insert(address.clone(), self.now);
                }
                (Ok(answer), self.delay())
            }
            None => (Err("no answer".to_owned()), ASK_TIMEOUT_MS),
        };
        let answered = Mono(self.now + delay);
        let reading = Reading { asked: Mono(asked), answered, result };
        self.push(
            self.now + delay,
            Event::Deliver(agent, Box::new(Input::Instance(address, reading))),
        );
    }

    pub(super) fn hold(&mut self, agent: usize, instance: usize, for_ms: u64) {
        if self.agents[agent].cut.contains(&Peer::Instance(instance)) {
            return;
        }
        self.holds += 1;
        let until = self.now + for_ms;
        let instance = &mut self.cluster.instances[instance];
        if instance.answers() {
            instance.held_until = instance.held_until.max(until);
        }
    }

    /// No instance that the Sentinels want to be the primary is ever made a replica, however late the command
    /// arrives, and none with data ever follows one without.
    pub(super) fn fence(&mut self, agent: usize, index: usize, fence: &Fence) {
        if self.agents[agent].cut.contains(&Peer::Instance(index)) {
            return;
        }
        let has_data = self.cluster.instances[index].offset > 0;
        let foreign = self.is_foreign(index);
        if !self.cluster.fence(index, fence) {
            return;
        }
        self.fences += 1;
        let instance = &fence.instance;
        if self.index_of(&fence.follow) == Some(index) {
            self.break_with(format!("{instance} was made to follow itself, {}", fence.follow));
        }
        self.log.push(format!("{} agent-{agent} fences {instance}", self.now));
        if foreign {
            self.break_with(format!("{instance} was fenced, and its data is unrelated"));
        }
        if self.cluster.majority().as_ref() == Some(instance) {
            self.break_with(format!("{instance} was fenced, and a majority names it"));
        }
        if self.cluster.chosen().contains(instance) {
            self.break_with(format!("{instance} was fenced while a Sentinel promotes it"));
        }
        let empty = |leads: &Instance| leads.offset == 0 && self.now - leads.started > UNSEEN_MS;
        let leads = self.cluster.instance(&fence.follow);
        if has_data && leads.is_some_and(empty) {
            self.break_with(format!("{instance} has data and was made to follow an empty one"));
        }
    }

    /// No instance that the Sentinels want to be the primary is ever kept from being it, and only data is kept.
    pub(super) fn detach(&mut self, agent: usize, index: usize, detach: &Detach) {
        if self.agents[agent].cut.contains(&Peer::Instance(index)) {
            return;
        }
        let led = self.cluster.instances[index].is_primary();
        if !self.cluster.detach(index, detach) {
            return;
        }
        self.detachments += 1;
        let instance = &detach.instance;
        self.log.push(format!("{} agent-{agent} shelters {instance}", self.now));
        if led && self.cluster.majority().as_ref() == Some(instance) {
            self.break_with(format!("{instance} was detached, and a majority names it"));
        }
        if led && self.cluster.chosen().contains(instance) {
            self.break_with(format!("{instance} was detached while a Sentinel promotes it"));
        }
        if self.cluster.instances[index].offset == 0 {
            self.break_with(format!("{instance} has no data, and was detached"));
        }
    }

    /// At most one failover is asked for at a time.
    pub(super) fn replace(
        &mut self,
        agent: usize,
        sentinel: usize,
        replace: &Replace,
        until: Mono,
    ) {
        let answer = self.on_arrival(agent, sentinel, until);
        if !answer.is_some_and(|answer| replace.still_holds(&answer)) {
            return;
        }
        self.log.push(format!("{} agent-{agent} has {sentinel} replace", self.now));
        if let WhyReplace::Died { run_id, .. } = &replace.why {
            self.check_superseded(sentinel, replace, run_id);
            if self.cluster.best_replica(sentinel).is_none() {
                let words = "NOGOODSLAVE No suitable replica to promote".to_owned();
                let refused = Input::NotBegun(replace.clone(), words);
                let delay = self.delay();
                self.push(self.now + delay, Event::Deliver(agent, Box::new(refused)));
                return;
            }
        }
        self.replacements += 1;
        let last = self.last_replacement.replace(self.now);
        if let Some(at) = last.filter(|at| self.now - at < REPLACE_GAP_MS) {
            self.break_with(format!("a failover was asked for, and another one at {at}"));
        }
        self.cluster.start_failover(sentinel, self.now, true);
    }

    /// A Sentinel is told what an election has come to, and nothing else; and no epoch goes back.
    pub(super) fn relay(&mut self, agent: usize, sentinel: usize, relay: &Relay, until: Mono) {
        let answer = self.on_arrival(agent, sentinel, until);
        if !answer.is_some_and(|answer| relay.still_holds(&answer)) {
            return;
        }
        self.log.push(format!("{} agent-{agent} tells {sentinel} {}", self.now, relay.chosen));
        match self.cluster.relay(sentinel, relay) {
            Ok(followed) => self.counts.relays += usize::from(followed),
            Err(what) => self.break_with(what),
        }
        self.note_truth();
    }

    /// One Sentinel at a time: the last one knows all peers again.
    pub(super) fn forget(&mut self, agent: usize, sentinel: usize, forget: &Forget, until: Mono) {
        let answer = self.on_arrival(agent, sentinel, until);
        if !answer.is_some_and(|answer| forget.still_holds(&answer)) {
            return;
        }
        self.log.push(format!("{} agent-{agent} has {sentinel} forget", self.now));
        self.forgets += 1;
        self.cluster.reset(sentinel);
        let last = self.last_forget.replace((self.now, sentinel));
        if let Some((at, other)) = last.filter(|(at, _)| self.now - at < FORGET_GAP_MS) {
            self.break_with(format!("{sentinel} was reset, and {other} at {at}"));
        }
    }

    pub(super) fn read(&mut self, agent: usize, kind: ReadKind) {
        if kind == ReadKind::Watch {
            // A blocking query that is always there; the change reaches it after a while.
            self.push(self.now + 40, Event::Read(agent, ReadKind::Watch));
        }
        if !self.agents[agent].up {
            return;
        }
        if !self.consul_answers(agent) {
            // Noticed once, when the connection breaks.
            if kind == ReadKind::Watch && !std::mem::replace(&mut self.agents[agent].away, true) {
                let silent = Box::new(Input::ConsulSilent);
                self.push(self.now, Event::Deliver(agent, silent));
            }
            return;
        }
        let back = kind == ReadKind::Watch && std::mem::take(&mut self.agents[agent].away);
        if back {
            self.agents[agent].watched = None;
        }
        let asked = Mono(self.now);
        // A blocking query comes back when something changed, and now and then for no reason.
        let news = self.agents[agent].watched != Some(self.consul.version());
        if kind == ReadKind::Watch && !news && self.rng.random_range(0..500) > 0 {
            return;
        }
        let input = match kind {
            ReadKind::Consistent => Input::Consistent(self.group_for(agent, &self.consul, asked)),
            ReadKind::Rows => Input::Rows(self.consul.rows(&self.layout.node(), asked)),
            ReadKind::Watch => {
                // A deposed leader, or a server that lags, answers with the past.
                let stale = self.rng.random_range(0..40) == 0;
                self.agents[agent].watched = (!stale).then(|| self.consul.version());
                let source = if stale { &self.old_consul } else { &self.consul };
                Input::Watched(self.group_for(agent, source, asked))
            }
        };
        let delay = self.delay();
        self.push(self.now + delay, Event::Deliver(agent, Box::new(input)));
    }

    /// An operation as an agent of its version sends it.
    pub(super) fn as_sent(&self, agent: usize, op: &Op) -> Op {
        match op {
            Op::KeyCas { key, index, value } if self.older.contains_key(&agent) => {
                let value = self.as_known(agent, value);
                Op::KeyCas { key: key.clone(), index: *index, value }
            }
            other => other.clone(),
        }
    }

    pub(super) fn consul_answers(&self, agent: usize) -> bool {
        !self.consul_away && !self.agents[agent].cut.contains(&Peer::Consul)
    }

    /// It is there for the entry in Consul's log alone: it changes nothing, and a change of the writer has one.
    pub(super) fn follow_up(&mut self, agent: usize, ops: &[Op], life: u64) {
        self.follow_ups += 1;
        let changes = self
            .commits
            .iter()
            .filter(|(purpose, _)| matches!(purpose, Purpose::Publish | Purpose::Withdraw));
        let changes: usize = changes.map(|(_, count)| count).sum();
        if self.follow_ups > changes {
            let (sent, what) = (self.follow_ups, format!("agent-{agent} follows up"));
            self.break_with(format!("{what} {changes} changes of the writer {sent} times"));
        }
        if !self.consul_answers(agent) || life != self.consul_life {
            return;
        }
        let ops: Vec<Op> = ops.iter().map(|op| self.as_sent(agent, op)).collect();
        let outcome = self.consul.txn(&ops, &self.layout.state());
        if matches!(outcome, Outcome::Committed { .. }) {
            self.break_with(format!(
                "agent-{agent} follows a change up, and that changes something"
            ));
        }
    }

    pub(super) fn apply(&mut self, agent: usize, id: u64, write: &Write, fate: Fate) {
        let reaches = self.consul_answers(agent) && fate != Fate::RequestLost;
        let unknown = Outcome::Unknown("no answer in time".to_owned());
        let (outcome, delay) = if reaches {
            let before = self.consul.clone();
            let ops: Vec<Op> = write.ops.iter().map(|op| self.as_sent(agent, op)).collect();
            let outcome = self.consul.txn(&ops, &self.layout.state());
            if matches!(outcome, Outcome::Committed { .. }) {
                self.old_consul = before;
                self.committed(agent, write);
            }
            match fate {
                Fate::Answered => (outcome, self.delay()),
                Fate::AnswerLost | Fate::RequestLost => (unknown, CONSUL_TIMEOUT_MS),
            }
        } else {
            (unknown, CONSUL_TIMEOUT_MS)
        };
        self.push(self.now + delay, Event::Deliver(agent, Box::new(Input::Written(id, outcome))));
    }
}
