//! What must hold whatever happens, and what is remembered to tell whether it does.

use super::*;
use consul_redis_core::published::record::Basis;

impl World {
    pub(super) fn note_late_answer(&mut self, agent: usize, input: &Input) {
        let Input::Sentinel(address, reading) = input else { return };
        let is_it = |s: &Sentinel| &s.address == address;
        let index = self.cluster.sentinels.iter().position(is_it);
        let dismissed = index.and_then(|index| self.agents[agent].dismissed.get(&index));
        let late = dismissed.is_some_and(|(at, _)| reading.asked.0 <= *at);
        self.counts.late_answers += usize::from(late);
    }

    /// Its data is unrelated, and was never published as the group's.
    pub(super) fn is_foreign(&self, index: usize) -> bool {
        let instance = &self.cluster.instances[index];
        let lineage = self.last_record.iter().flat_map(|record| &record.lineage);
        let own = self.cluster.probe(&instance.address);
        let known = own.is_some_and(|own| {
            lineage.into_iter().any(|id| *id == own.replid || Some(id) == own.replid2.as_ref())
        });
        instance.foreign && instance.offset > 0 && !known
    }

    /// What a Sentinel said that is not asked any more does not count, and is not waited for.
    pub(super) fn check_dismissed(&mut self) {
        for agent in 0..self.agents.len() {
            let Agent { machine, up: true, dismissed, .. } = &self.agents[agent] else { continue };
            let still = dismissed.iter().find(|(sentinel, (_, until))| {
                let address = &self.cluster.sentinels[**sentinel].address;
                *until > self.now && machine.observed().sentinels.contains_key(address)
            });
            if let Some((sentinel, (at, _))) = still {
                let what = format!("agent-{agent} goes by {sentinel}, dismissed at {at}");
                self.break_with(what);
            }
        }
    }

    /// While some agent sees everything, the name does not stay with a writer that the Sentinels agree
    /// is dead, nor with a promotion that they deny.
    pub(super) fn check_timely(&mut self) {
        let record = self.last_record.as_ref();
        let wrong = record.is_some_and(|record| {
            let Some(writer) = record.writer_address() else { return false };
            let denied = record.evidence.level() == Level::Promotion
                && self.cluster.majority().is_some_and(|majority| &majority != writer)
                && self.cluster.chosen().is_empty();
            denied || self.cluster.agree_down(writer)
        });
        let seen =
            !self.consul_away && self.agents.iter().any(|agent| agent.up && agent.cut.is_empty());
        if !(wrong && seen) {
            self.wrong_since = None;
            return;
        }
        let since = *self.wrong_since.get_or_insert(self.now);
        if self.now - since > WRONG_FOR_MAX_MS {
            let writer = record.and_then(Record::writer_address).cloned();
            self.break_with(format!("{writer:?} has been wrong since {since}"));
        }
    }

    /// Never published without its own word for it.
    pub(super) fn check_proof(&mut self, agent: usize, write: &Write) {
        let Some(record) = write.record.as_ref().filter(|_| write.purpose == Purpose::Publish)
        else {
            return;
        };
        let Some(writer) = record.writer_address() else {
            return self.break_with(format!("agent-{agent} publishes no writer"));
        };
        // It said so after the generation that it is to follow was committed, or its word is older than
        // what it overrules.
        let base = self.commit_times.get(&write.base_index).copied().unwrap_or(0);
        let said = self.agents[agent].said_primary.get(writer).copied();
        if said.is_none_or(|said| said < base || self.now - said > PROOF_AGE_MAX_MS) {
            let what = format!("agent-{agent} publishes {writer}, which last said so at {said:?}");
            self.break_with(what);
        }
        let named = self.named_recently(writer, record.evidence.level());
        // The first primary of a group that no Sentinel knows: the one with the most data.
        let first = self.most_data.is_some() && record.generation == 1;
        if first && self.most_data.as_ref() != Some(writer) {
            let what = format!("{writer} is the first primary, {:?} has more", self.most_data);
            return self.break_with(what);
        }
        // In a relocated group, no Sentinel knows an instance that answers.
        let by_itself = record.evidence.basis == Basis::Agents;
        let moved = self.moved > 0 && by_itself;
        if let Some(holder) = self.holder_passed_over(agent, record, writer).filter(|_| moved) {
            let what = format!("agent-{agent} publishes {writer} without data, {holder} has some");
            return self.break_with(what);
        }
        let foreign = |index: &usize| self.is_foreign(*index);
        if moved && self.index_of(writer).filter(foreign).is_some() {
            return self.break_with(format!("agent-{agent} publishes {writer}, of foreign data"));
        }
        self.successors += usize::from(moved);
        if !named && !first && !moved {
            let what =
                format!("agent-{agent} publishes {writer}, which the Sentinels did not name");
            self.break_with(what);
        }
    }

    /// A blank one is about to lead: an instance that the agent reaches, and that has been there for a while, holds the
    /// group's data.
    pub(super) fn holder_passed_over(
        &self,
        agent: usize,
        next: &Record,
        writer: &Address,
    ) -> Option<Address> {
        self.cluster.instance(writer).filter(|leads| leads.offset == 0)?;
        let ours = |i: &Instance| {
            self.cluster.probe(&i.address).is_some_and(|a| is_of_lineage(Some(next), &a))
        };
        let holds = |(index, i): &(usize, &Instance)| {
            let reached = !self.agents[agent].cut.contains(&Peer::Instance(*index));
            reached && i.answers() && i.offset > 0 && self.now - i.started > 3_000 && ours(i)
        };
        let mut all = self.cluster.instances.iter().enumerate();
        all.find(holds).map(|(_, holder)| holder.address.clone())
    }

    /// In truth, not in an agent's view: a majority named it, or an elected leader had chosen it.
    pub(super) fn named_recently(&self, writer: &Address, level: Level) -> bool {
        let from = self.now.saturating_sub(PROOF_AGE_MAX_MS);
        let kept = match level {
            Level::Quorum => &self.named_at,
            Level::Promotion => &self.chosen_at,
        };
        kept.get(writer).is_some_and(|at| *at >= from)
    }

    pub(super) fn note_truth(&mut self) {
        if let Some(majority) = self.cluster.majority() {
            // Whatever it holds is the group's then: that is the Sentinels' doing.
            self.cluster.adopt(&majority);
            self.named_at.insert(majority, self.now);
        }
        for chosen in self.cluster.chosen() {
            self.chosen_at.insert(chosen, self.now);
        }
    }

    pub(super) fn committed(&mut self, agent: usize, write: &Write) {
        *self.commits.entry(write.purpose).or_default() += 1;
        self.last_commit = self.now;
        let begins = matches!(write.purpose, Purpose::Publish | Purpose::Withdraw);
        let answer = self.consul.group(&self.layout, Mono(self.now));
        let Some(record) = answer.record().cloned() else {
            return self.break_with("a write left no record".to_owned());
        };
        self.log.push(format!(
            "{} agent-{agent} {}: generation {}, writer {:?}, level {}, {}",
            self.now,
            write.purpose.as_str(),
            record.generation,
            record.writer_address(),
            record.evidence.level().as_str(),
            record.why
        ));
        if record.writer.is_some() {
            self.cluster.idle = false;
        }
        self.check_no_step_back(&record);
        self.last_record = Some(record.clone());
        if begins {
            self.generation_at = self.now;
        }
        self.commit_times.insert(answer.state_index, self.generation_at);
        if record.generation < self.generation_max
            || (begins && record.generation == self.generation_max)
        {
            let before = self.generation_max;
            self.break_with(format!("generation {} after {before}", record.generation));
        }
        self.generation_max = record.generation;
        let remembered = &mut self.agents[agent].generation_max;
        if begins && record.generation <= *remembered {
            let what = format!("agent-{agent} knew of generation {remembered} already");
            return self.break_with(what);
        }
        *remembered = record.generation;
        self.check_answers(&record, &answer);
    }

    /// The majority's old answer does not overrule a promotion that still has time.
    pub(super) fn check_no_step_back(&mut self, record: &Record) {
        let Some(last) = &self.last_record else { return };
        let young = self.now - self.generation_at < 4_000;
        let promoted = last.evidence.level() == Level::Promotion && last.writer.is_some();
        let moved = record.writer.is_some() && record.writer_address() != last.writer_address();
        let old_epoch = record.evidence.level() == Level::Quorum
            && record.evidence.basis.epoch() <= Some(last.evidence.confirmed_epoch);
        if young && promoted && moved && old_epoch {
            self.break_with("the old answer overruled a promotion".to_owned());
        }
    }

    /// One writer in every answer, and the same story everywhere.
    pub(super) fn check_answers(&mut self, record: &Record, answer: &StoreAnswer) {
        let wanted: Vec<String> =
            record.writer_address().map(ToString::to_string).into_iter().collect();
        let by_name = self.consul.passing("redis-primary", None);
        let by_tag = self.consul.passing("redis", Some("primary"));
        let key = answer.plain.get("primary").cloned().unwrap_or_default();
        if by_name.len() > 1 || by_tag.len() > 1 {
            self.break_with(format!("two writers: {by_name:?} {by_tag:?}"));
        }
        if key != wanted.concat() {
            self.break_with(format!("the key says {key:?}, the record {wanted:?}"));
        }
        if self.tampered {
            return;
        }
        if by_name != wanted || by_tag != wanted {
            self.break_with(format!("DNS says {by_name:?} {by_tag:?}, the record {wanted:?}"));
        }
        let shown = self.consul.rows(&self.layout.node(), Mono(self.now)).found;
        if shown.as_ref() != Some(&project(record).rows) {
            self.break_with(format!("the rows are not the record's: {shown:?}"));
        }
    }

    /// A failover is forced in the place of one that has died for certain, and once at an epoch.
    pub(super) fn check_superseded(&mut self, sentinel: usize, replace: &Replace, run_id: &str) {
        let primary = &replace.primary;
        let lives = self.cluster.instance(primary).is_some_and(|instance| {
            instance.up && format!("run-{}-{primary}", instance.run) == run_id
        });
        if lives {
            self.break_with(format!("{primary} is replaced for its death, and {run_id} lives"));
        }
        let epoch = self.cluster.sentinels[sentinel].config_epoch;
        if !self.superseded.insert((primary.clone(), epoch)) {
            self.break_with(format!("{primary} is replaced twice at epoch {epoch}"));
        }
    }

    pub(super) fn break_with(&mut self, what: String) {
        self.log.push(format!("{} BROKEN: {what}", self.now));
        self.broken.get_or_insert(what);
    }

    /// A primary on a host that has been isolated for long takes no writes.
    pub(super) fn check_isolated(&mut self) {
        for host in 0..self.agents.len().min(self.cluster.instances.len()) {
            let instance = &self.cluster.instances[host];
            if !(instance.answers() && instance.is_primary()) {
                self.primary_since.remove(&host);
                continue;
            }
            let primary_since = *self.primary_since.entry(host).or_insert(self.now);
            let able = self.agents[host].full_until;
            let since = self.isolated.get(&host);
            let Some(since) = since.map(|since| primary_since.max(*since).max(able)) else {
                continue;
            };
            let held = instance.held_until + HOLD_GAP_MS > self.now;
            if self.now.saturating_sub(since) > ISOLATED_MAX_MS && !held {
                let address = instance.address.clone();
                self.break_with(format!("{address} takes writes, isolated since {since}"));
            }
        }
    }

    /// What all agents must agree on once the world has been still for long.
    pub fn check_converged(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let answer = self.consul.group(&self.layout, Mono(self.now));
        let published = answer.record().and_then(Record::writer_address).cloned();
        let level = answer.record().map(|record| record.evidence.level());
        // Equal epochs for two addresses never converge in Sentinel itself; then no address is named.
        let Some(majority) = self.cluster.majority() else { return };
        if !self.cluster.is_settled() {
            return;
        }
        if published.is_none() && self.cluster.is_left_to_the_operator(&majority) {
            self.left_to_the_operator = true;
            return;
        }
        self.converged = true;
        if published.as_ref() != Some(&majority) {
            self.break_with(format!("{published:?} is published, the Sentinels name {majority}"));
        }
        if level != Some(Level::Quorum) {
            self.break_with("the promotion was never confirmed".to_owned());
        }
        for agent in 0..self.agents.len() {
            let store = self.agents[agent].machine.observed().store.as_ref();
            let seen = store.and_then(StoreAnswer::record).and_then(Record::writer_address);
            if seen != Some(&majority) {
                let seen = seen.cloned();
                self.break_with(format!("agent-{agent} sees {seen:?}, not {majority}"));
            }
        }
        let kept = answer.maintenance.as_ref().expect("a map of addresses").keys();
        let role = |address: &&Address| answer.record().and_then(|r| r.role_of(address));
        if let Some(kept) = kept.clone().find(|a| role(a) == Some(PublishedRole::Replica)) {
            self.break_with(format!("{kept} is in maintenance, and published"));
        }
        let wanted = answer.record().map(|record| project(record).rows);
        if self.consul.rows(&self.layout.node(), Mono(self.now)).found != wanted {
            self.break_with("the rows are not the record's in the end".to_owned());
        }
        if self.now - self.last_commit < 3_000 {
            self.break_with("the agents still write in a still world".to_owned());
        }
    }
}
