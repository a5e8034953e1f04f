//! What must hold whatever happens, and the truth that it is told by: what the nodes themselves hold, not what agents
//! read of them.
//!
//! A cluster's own blind time: a primary that is cut off is called failing by a majority, and refuses writes itself,
//! within 1.5 T and 0.3 T of gossip (`docs/facts/cluster.md` 2.1, 3.1; `docs/cluster.md`, "What this cannot know").
//! After that, agents have one period of questions (`ASK_MS`, 1 s) and one write to Consul, which the world may lose or
//! hold up.

use super::*;
use consul_redis_core::cluster::rows::project;

/// How long a wrong name may stay while an agent sees everything: a question's period, 1.5 s of silence, an answer of
/// Consul that is lost (3 s), and a write that is late (4 s), in ms.
const WRONG_MAX_MS: u64 = 10_000;
/// How long names may stay without a majority, in ms: 5 s, the others' 3 s, and as above.
const UNHEARD_MAX_MS: u64 = 16_000;
/// An agent that began, or was cut off, before that long knows what there is to know, in ms.
const AGENT_READY_MS: u64 = 3_000;
/// Nothing is written so long after the last change, in ms: nodes that do not vote are asked for their tables every
/// 10 s, rows are compared every 10 s, and a write may be lost.
pub const QUIET_MS: u64 = 26_000;
/// How old what a write says of an owner may be, in ms.
const PROOF_AGE_MAX_MS: u64 = 8_000;
/// All replicas have a write so soon after it, in ms.
const COPIED_MS: u64 = 100;

impl World {
    /// The owners of slots whom more than half of themselves hold for the owners, where there is one such set.
    pub fn sovereign(&self) -> Result<BTreeSet<Id>, bool> {
        let mut held: BTreeMap<BTreeSet<Id>, usize> = BTreeMap::new();
        for process in self.own().into_iter().filter(|process| self.nodes.runs(*process)) {
            let owners = self.nodes.owners_for(process);
            if owners.contains(&self.nodes.nodes[process].id) {
                *held.entry(owners).or_default() += 1;
            }
        }
        let several = |count: usize| Err(count > 1);
        let mut most = held.into_iter().filter(|(owners, count)| count * 2 > owners.len());
        match (most.next(), most.count()) {
            (Some((owners, _)), 0) => Ok(owners),
            (None, _) => several(0),
            (Some(_), more) => several(1 + more),
        }
    }

    /// The processes of voters that run.
    fn voting(&self, voters: &BTreeSet<Id>) -> Vec<Process> {
        let running = |process: &Process| self.nodes.runs(*process);
        voters.iter().filter_map(|id| self.nodes.process_of(*id)).filter(running).collect()
    }

    /// Who owns each cell for more than half of the voters, and by which epoch.
    fn majority_map(&self, voters: &BTreeSet<Id>) -> Vec<Option<(Id, u64)>> {
        let voting = self.voting(voters);
        let of = |cell: usize| {
            let mut votes: BTreeMap<(Id, u64), usize> = BTreeMap::new();
            for process in &voting {
                if let Some(id) = self.nodes.map_of(*process)[cell] {
                    let epoch = self.nodes.epoch_of(*process, id).unwrap_or(0);
                    *votes.entry((id, epoch)).or_default() += 1;
                }
            }
            votes.into_iter().find(|(_, count)| count * 2 > voters.len()).map(|(claim, _)| claim)
        };
        (0..self.nodes.cells()).map(of).collect()
    }

    /// More than half of the voters say so.
    fn most(&self, voters: &BTreeSet<Id>, says: impl Fn(Process) -> bool) -> bool {
        self.voting(voters).into_iter().filter(|voter| says(*voter)).count() * 2 > voters.len()
    }

    /// The nodes that can take requests now, by what the nodes themselves hold.
    pub fn able(&self) -> BTreeMap<NodeId, (ClusterRole, String)> {
        let Ok(voters) = self.sovereign() else { return BTreeMap::new() };
        let map = self.majority_map(&voters);
        let owns = |id: Id| map.iter().flatten().any(|(owner, _)| *owner == id);
        let mut found = BTreeMap::new();
        for process in (0..self.ours.len()).filter(|process| self.nodes.runs(*process)) {
            let node = &self.nodes.nodes[process];
            let well = self.most(&voters, |voter| self.nodes.sees_well(voter, node.id));
            let unlinked = self.most(&voters, |voter| !self.nodes.links_to(voter, node.id));
            if !well || unlinked || !node.state_ok {
                continue;
            }
            let role = match self.nodes.follows(process, node.id) {
                None => {
                    let mut claims = map.iter().enumerate();
                    let kept = claims.all(|(cell, claim)| {
                        claim.is_none_or(|(owner, epoch)| {
                            let own = self.nodes.map_of(process)[cell] == Some(node.id);
                            let same = self.nodes.epoch_of(process, node.id) == Some(epoch);
                            owner != node.id || (own && same)
                        })
                    });
                    (owns(node.id) && kept).then_some(ClusterRole::Primary)
                }
                Some(of) => {
                    let follows =
                        self.most(&voters, |voter| self.nodes.follows(voter, node.id) == Some(of));
                    let linked = self.nodes.copies(process).is_some();
                    let fresh = self.nodes.heard_within(process, 11_999);
                    (owns(of) && follows && linked && fresh).then_some(ClusterRole::Replica)
                }
            };
            if let Some(role) = role {
                let name = self.nodes.name(process).clone();
                found.insert(name, (role, self.nodes.address(process).to_string()));
            }
        }
        found
    }

    /// Remembers what a node says, and when that changed.
    pub(super) fn note_seen(&mut self, process: Process, answer: Option<&NodeAnswer>) {
        let stale = |answer: &NodeAnswer| {
            answer.link.as_ref().and_then(|link| link.heard_s).is_some_and(|seconds| seconds > 11)
        };
        let same = |known: &Option<NodeAnswer>| match (known, answer) {
            (Some(known), Some(answer)) => {
                let linked = |answer: &NodeAnswer| answer.link.as_ref().map(|link| link.up);
                known.state_ok == answer.state_ok
                    && known.not_ready == answer.not_ready
                    && (linked(known), stale(known)) == (linked(answer), stale(answer))
                    && known.table == answer.table
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !self.seen.get(&process).is_some_and(same) {
            self.last_change = self.now;
            self.seen.insert(process, answer.cloned());
        }
    }

    pub(super) fn note_named(&mut self) {
        let rows = self.consul.rows(&self.layout.node(), Mono(self.now)).found;
        let mut named = BTreeMap::new();
        for row in rows.into_iter().flat_map(|rows| rows.services.into_values()) {
            let role = match row.service.as_str() {
                "orders-primary" => ClusterRole::Primary,
                "orders-replica" => ClusterRole::Replica,
                _ => continue,
            };
            let name = NodeId::parse(&row.meta["node"]).expect("an id");
            let address = Address::new(&row.address, row.port).expect("an address").to_string();
            let shard = row.tags.first().cloned().unwrap_or_default();
            named.insert(name, Named { role, shard, address });
        }
        self.named = named;
        self.last_change = self.now;
    }

    /// An agent that hears everything, and has for a while.
    fn an_agent_sees_all(&self) -> bool {
        let ready = |agent: &Agent| {
            let since = self.now.saturating_sub(agent.since);
            agent.up && since > AGENT_READY_MS && agent.cut.is_empty() && !agent.cut_from_consul
        };
        !self.consul_away && self.agents.iter().any(ready)
    }

    /// What is so now, and since when.
    pub(super) fn look_at_truth(&mut self) {
        self.look_at_writes();
        self.ticks += 1;
        if self.ticks % 5 != 1 {
            return;
        }
        let ids: BTreeSet<Id> = self.own_ids.clone();
        let is_foreign = |id: &Id| !ids.contains(id);
        let knows = |process: &Process| {
            let alien = |other: &Process| {
                let id = self.nodes.nodes[*other].id;
                is_foreign(&id) && self.nodes.has_row(*process, id)
            };
            (0..self.ours.len()).any(|other| !self.ours[other] && alien(&other))
        };
        if !self.merged && self.own().iter().any(knows) {
            self.counts.note("merged");
            self.log.push(format!("{} two clusters know each other", self.now));
            self.merged = true;
        }
        let sovereign = self.sovereign();
        match &sovereign {
            Ok(voters) => {
                self.none_since = None;
                self.voters = voters.clone();
                self.note_owners(voters);
            }
            Err(_) => {
                if self.none_since.is_none() {
                    self.counts.note("without a majority");
                }
                self.none_since.get_or_insert(self.now);
            }
        }
        self.sees_all_since = match self.an_agent_sees_all() {
            true => Some(self.sees_all_since.unwrap_or(self.now)),
            false => None,
        };
        self.look_who_is_apart();
        self.check_wrong(sovereign);
    }

    fn note_owners(&mut self, voters: &BTreeSet<Id>) {
        for (id, _) in self.majority_map(voters).into_iter().flatten() {
            self.owned_at.insert(id, self.now);
        }
    }

    fn look_who_is_apart(&mut self) {
        for process in self.own() {
            let voting = self.voting(&self.voters);
            let heard = voting
                .iter()
                .filter(|voter| **voter == process || self.nodes.converse(process, **voter));
            let with_most = heard.count() * 2 > self.voters.len() && self.nodes.runs(process);
            if with_most {
                self.apart.remove(&process);
            } else {
                self.apart.entry(process).or_insert(self.now);
            }
        }
    }

    /// While an agent sees everything, no name stays with a node that the majority does not keep, that is gone, or that
    /// belongs to a cluster without a majority.
    fn check_wrong(&mut self, sovereign: Result<BTreeSet<Id>, bool>) {
        if !self.an_agent_sees_all() || sovereign == Err(true) {
            return self.wrong.clear();
        }
        let named: Vec<(NodeId, Named)> =
            self.named.iter().map(|(id, named)| (id.clone(), named.clone())).collect();
        self.wrong.retain(|id, _| named.iter().any(|(name, _)| name == id));
        let map = sovereign.as_ref().map(|voters| self.majority_map(voters)).unwrap_or_default();
        for (name, as_what) in named {
            let process = self.nodes.id_of(&name).and_then(|id| self.nodes.process_of(id));
            let gone = process.is_none_or(|process| {
                !self.nodes.runs(process)
                    || self.nodes.address(process).to_string() != as_what.address
            });
            let (wrong, most) = match &sovereign {
                // Whose voters they are is no question for the names then.
                _ if self.merged => (gone, WRONG_MAX_MS),
                Ok(voters) => {
                    let id = self.nodes.id_of(&name).unwrap_or(usize::MAX);
                    let against = self.most(voters, |voter| {
                        !self.nodes.sees_well(voter, id) || !self.nodes.links_to(voter, id)
                    });
                    let owns = map.iter().flatten().any(|(owner, _)| *owner == id);
                    let replaced = as_what.role == ClusterRole::Primary && !owns;
                    (gone || against || replaced, WRONG_MAX_MS)
                }
                Err(_) => (true, UNHEARD_MAX_MS),
            };
            if !wrong {
                self.wrong.remove(&name);
                continue;
            }
            let since = *self.wrong.entry(name.clone()).or_insert(self.now);
            if self.now - since > most {
                let what = format!(
                    "{name} at {} is in the names, and wrong since {since}",
                    as_what.address
                );
                return self.break_with(format!("{what}\n{}", self.state()));
            }
        }
    }

    /// Which writes are acknowledged by a node in the names.
    fn look_at_writes(&mut self) {
        let new = self.acks_seen..self.nodes.acks.len();
        self.acks_seen = self.nodes.acks.len();
        for write in new {
            let by = self.nodes.acks[write].by;
            let published = self.named.get(self.nodes.name(by)).is_some_and(|named| {
                named.role == ClusterRole::Primary
                    && named.address == self.nodes.address(by).to_string()
            });
            if published && self.ours[by] {
                // Since when an agent could know.
                let apart = self
                    .apart
                    .get(&by)
                    .map(|since| self.sees_all_since.map_or(self.now, |able| able.max(*since)));
                self.published_acks.insert(write, (apart, false));
                self.pending.push(Pending { write, looked_at: self.now + COPIED_MS });
            }
        }
        let now = self.now;
        let due: Vec<Pending> = self.pending.extract_if(.., |p| p.looked_at <= now).collect();
        for Pending { write, .. } in due {
            let owner = self.nodes.nodes[self.nodes.acks[write].by].id;
            let mut replicas = self.own().into_iter().filter(|process| {
                self.nodes.follows(*process, self.nodes.nodes[*process].id) == Some(owner)
            });
            let mut any = false;
            let all = replicas.all(|process| {
                any = true;
                self.nodes.has(process, write)
            });
            if let Some(ack) = self.published_acks.get_mut(&write) {
                ack.1 = any && all;
            }
        }
    }

    /// What an agent has just written.
    pub(super) fn committed(&mut self, agent: usize, before: Option<ClusterRecord>) {
        self.commits += 1;
        let quiet = self.now - self.last_change;
        if quiet > QUIET_MS {
            let since = self.last_change;
            self.break_with(format!("agent-{agent} writes, and nothing has changed since {since}"));
        }
        self.last_commit = self.now;
        let old = std::mem::take(&mut self.named);
        let changed = self.last_change;
        self.note_named();
        let Some(record) = self.record() else {
            return self.break_with(format!("agent-{agent} leaves no record"));
        };
        if self.named == old && before.as_ref().is_some_and(|b| b.is_as(&record)) {
            // A doubt, or a row that is put back.
            self.last_change = changed;
        }
        self.log.push(format!(
            "{} agent-{agent} commits generation {}: {}",
            self.now, record.generation, record.why
        ));
        let known = self.agents[agent].generation;
        let was = before.as_ref().map_or(0, |record| record.generation);
        let same = before.as_ref().is_some_and(|before| before.is_as(&record));
        // The plan of a cluster that is to be made publishes nothing.
        let planned = record.nodes.is_empty() && record.generation == was;
        let risen = record.generation > was || planned || (same && record.generation == was);
        if !risen || record.generation < known {
            let what = format!("generation {} after {was}, {known} was known", record.generation);
            self.break_with(format!("agent-{agent} writes {what}"));
        }
        if record.unheard.is_some() {
            self.counts.note("doubts");
        }
        self.check_haste(agent, before.as_ref(), &record);
        self.check_places(before.as_ref(), &record);
        let rows = self.consul.rows(&self.layout.node(), Mono(self.now)).found;
        match rows == Some(project(&record).rows) {
            true => self.tampered = false,
            false if !self.tampered => {
                self.break_with(format!("agent-{agent} leaves rows that are not the record's"));
            }
            false => {}
        }
        self.check_names(&old);
    }

    /// An election is hastened by the kernel's word for a node alone whose process has ended, by the agent beside it.
    fn check_haste(&mut self, agent: usize, before: Option<&ClusterRecord>, now: &ClusterRecord) {
        let begun = |record: &ClusterRecord| record.claims.hastened.clone().map(|h| h.begun);
        let Some(hastened) = now.claims.hastened.as_ref().filter(|hastened| {
            !hastened.over && before.and_then(begun).as_ref() != Some(&hastened.begun)
        }) else {
            return;
        };
        let Some(pid) = hastened.pid else { return self.counts.note("begun by refusals") };
        self.counts.note("begun by the kernel's word");
        let id = self.nodes.id_of(&hastened.dead);
        let killed = id.is_some_and(|id| self.killed_at.contains_key(&id));
        let process = id.and_then(|id| self.nodes.process_of(id));
        let beside =
            process.is_some_and(|p| faults::process_id(p) == pid && p % self.agents.len() == agent);
        if !killed || !beside {
            let dead = &hastened.dead;
            self.break_with(format!("agent-{agent} takes {dead} for dead, which never died"));
        }
    }

    /// Of one cluster, one primary a shard, and each new one an owner by the majority.
    fn check_names(&mut self, old: &BTreeMap<NodeId, Named>) {
        if let Ok(voters) = self.sovereign() {
            self.note_owners(&voters);
        }
        // Without the record, nothing tells the two clusters of a merged one apart.
        let lost = self.counts.of("Consul wiped") + self.counts.of("Consul restored") > 0;
        let one_for_agents = self.merged && lost;
        let mut primaries: BTreeMap<&str, &NodeId> = BTreeMap::new();
        let mut broken = None;
        let mut notes = Vec::new();
        for (name, named) in &self.named {
            let id = self.nodes.id_of(name);
            let own = id.is_some_and(|id| self.own_ids.contains(&id));
            let before = old.get(name);
            let joined = self.merged
                && (one_for_agents || named.role == ClusterRole::Replica || before.is_some());
            if !own && !joined {
                broken = Some(format!("{name} at {} is of another cluster", named.address));
            }
            if named.role != ClusterRole::Primary {
                continue;
            }
            if let Some(other) = primaries.insert(&named.shard, name) {
                broken = Some(format!("{name} and {other} are both primaries of {}", named.shard));
            }
            let entered = before.is_none_or(|before| before.role != ClusterRole::Primary);
            let owned = id.and_then(|id| self.owned_at.get(&id)).copied();
            let proven = owned.is_some_and(|at| self.now - at <= PROOF_AGE_MAX_MS);
            if entered && !proven && !self.tampered && !one_for_agents {
                broken =
                    Some(format!("{name} enters as a primary, and owned slots last at {owned:?}"));
            }
            if entered && before.is_some() {
                notes.push("replicas that became primaries");
            }
        }
        if self.named.is_empty() && !old.is_empty() {
            notes.push("all names withdrawn");
        }
        for note in notes {
            self.counts.note(note);
        }
        if let Some(what) = broken {
            self.break_with(what);
        }
    }

    /// Nothing that agents can see has changed for so long.
    pub fn is_still(&self, ms: u64) -> bool {
        self.now - self.last_change > ms
    }

    /// What holds once the world is still. Whether the cluster has a majority, so that names must be there.
    pub fn check_converged(&mut self) -> bool {
        let sovereign = self.sovereign();
        if self.merged || sovereign == Err(true) {
            return false;
        }
        // All addresses are new, and the seeds are old ones.
        let able = if self.is_found() { self.able() } else { BTreeMap::new() };
        let named: BTreeMap<NodeId, (ClusterRole, String)> =
            self.named.iter().map(|(id, n)| (id.clone(), (n.role, n.address.clone()))).collect();
        if able != named {
            let what = format!("able: {able:?}\nnamed: {named:?}\n{}", self.state());
            self.break_with(format!("what can take requests is not what is published\n{what}"));
        }
        let record = self.record();
        let wanted = record.as_ref().map(|record| project(record).rows);
        let rows = self.consul.rows(&self.layout.node(), Mono(self.now)).found;
        if rows != wanted {
            self.break_with("the rows are not the record's in the end".to_owned());
        }
        self.check_lost_writes();
        sovereign.is_ok() && self.is_found()
    }

    /// A node that had been forgotten, or was made anew, owns slots: the operator has to say that it is right.
    pub fn waits_for_the_operator(&self) -> bool {
        let new = ["forgotten", "started without nodes.conf", "blank nodes joined", "reset"];
        let new: usize = new.iter().map(|what| self.counts.of(what)).sum();
        let held = |line: &String| line.contains("which is not recorded, owns slots");
        new > 0 && !self.merged && self.sovereign().is_ok() && self.log.iter().any(held)
    }

    /// For how long a primary that is cut off takes writes, and looks well to the others.
    pub fn blind_ms(&self) -> u64 {
        self.timeout * 3 / 2 + self.timeout * 3 / 10 + 200
    }

    /// Some agent follows the address of one that answers.
    fn is_found(&self) -> bool {
        let own = self.own().into_iter().filter(|process| self.nodes.runs(*process));
        let mut addresses = own.map(|process| self.nodes.address(process));
        addresses.any(|at| self.agents.iter().any(|agent| agent.lines.contains_key(at)))
    }

    /// What a published primary acknowledged, and no owner has in the end.
    fn check_lost_writes(&mut self) {
        let blind = self.blind_ms() + WRONG_MAX_MS;
        let all: Vec<(usize, (Option<u64>, bool))> =
            self.published_acks.iter().map(|(write, ack)| (*write, *ack)).collect();
        for (write, (apart, copied)) in all {
            let ack = self.nodes.acks[write].clone();
            let owner = self.owner_of(ack.slot);
            if owner.is_none_or(|owner| self.nodes.has(owner, write)) {
                continue;
            }
            self.counts.note("published writes lost");
            let since = apart.map(|since| ack.at.saturating_sub(since));
            let by = self.nodes.address(ack.by).to_string();
            if since.is_some_and(|since| since > blind) {
                let what = format!("lost a write of {}, apart since {apart:?}", ack.at);
                self.break_with(format!("{by}, published, {what}, blind time {blind} ms"));
            }
            let strange = self.nodes.unsynced + self.nodes.strangers_copied > 0;
            let excused = self.data_moved || strange;
            if since.is_none() && copied && !excused {
                let what = format!("lost a write of {} that all its replicas had", ack.at);
                self.break_with(format!("{by}, published, {what}\n{}", self.state()));
            }
        }
    }

    /// The nodes, for people.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for process in 0..self.ours.len() {
            let node = &self.nodes.nodes[process];
            let state = match (node.up, node.frozen) {
                (false, _) => "down",
                (_, true) => "frozen",
                _ if node.state_ok => "ok",
                _ => "fail",
            };
            let (at, name) = (self.nodes.address(process), self.nodes.name(process));
            let copies = self.nodes.copies(process);
            text += &format!("{process} {name} {at} {state}, copies {copies:?}\n");
            for row in self.nodes.answer(process).table.rows.values() {
                let at = row.address.as_ref().map(ToString::to_string).unwrap_or_default();
                let flags =
                    [(row.failing, "fail"), (row.outside, "outside"), (!row.linked, "unlinked")];
                let flags: Vec<&str> =
                    flags.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
                let role = match &row.role {
                    TableRole::Primary => "primary".to_owned(),
                    TableRole::Replica(of) => format!("of {of}"),
                    TableRole::Unknown => "?".to_owned(),
                };
                let slots: Vec<String> = row.slots.iter().map(ToString::to_string).collect();
                let slots = slots.join(" ");
                let epoch = row.config_epoch;
                text +=
                    &format!("    {} {at} {role} {epoch} {} {slots}\n", row.id, flags.join(","));
            }
        }
        text
    }
}
