//! One agent's view of one group at one instant: what all rules look at.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::known::memory::{Condition, Memory};
use crate::known::observed::{
    Continued, InstanceAnswer, Observed, ReplId, Role, SentinelAnswer, SentinelGroup, SentinelId,
};
use crate::policy::{ANSWER_AGE_MAX_MS, Policy};
use crate::published::pause::PauseStatus;
use crate::published::record::{PublishedRole, Record};
use crate::situation::election::{Tally, TallyBounds};
use crate::situation::loss::DataLoss;
use crate::situation::writer::{WriterTest, histories, is_of_lineage, writer_test};
use crate::time::{Mono, Now};

/// All that one decision rests on: the readings, the memory, the policy, and what was worked out from them once.
pub struct View<'a> {
    /// The group's settings.
    pub policy: &'a Policy,
    /// What is known of the past.
    pub memory: &'a Memory,
    /// The last readings.
    pub observed: &'a Observed,
    /// The record in Consul; `None` when there is none, or it cannot be read.
    pub record: Option<&'a Record>,
    /// The Sentinels' votes, counted.
    pub tally: Tally,
    /// Answers asked for before this cannot change the writer: the published generation was not there
    /// yet, or it was too long ago.
    pub since: Mono,
    /// Answers asked for before this were too long ago for anything.
    pub recent: Mono,
    /// The moment of the decision; rules read no other clock.
    pub now: Now,
    /// Answers of rules that several others ask, worked out once.
    pub(crate) found: Derived,
}

/// What many rules ask of the same readings, found when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// [`InstanceRows::known`](crate::published::replicas::InstanceRows::known).
    pub known: OnceCell<BTreeSet<Address>>,
    /// [`InstanceRows::followed`](crate::published::replicas::InstanceRows::followed).
    pub followed: OnceCell<BTreeSet<Address>>,
    /// [`InstanceRows::watched`](crate::published::replicas::InstanceRows::watched).
    pub watched: OnceCell<BTreeSet<Address>>,
    /// [`View::alias_of`].
    pub aliases: OnceCell<BTreeMap<Address, Address>>,
    /// [`View::refused`].
    pub refused: OnceCell<BTreeSet<Address>>,
    /// The primary that has come back without its data ([`crate::situation::data_loss`]).
    pub data_loss: OnceCell<Option<DataLoss>>,
}

impl<'a> View<'a> {
    /// The view at `now`.
    pub fn new(policy: &'a Policy, memory: &'a Memory, observed: &'a Observed, now: Now) -> Self {
        let tally = count(policy, observed, bounds(memory, now).0);
        Self::with(policy, memory, observed, now, (tally, Derived::default()))
    }

    /// The same with what was found in these very readings by a view that had less to remember.
    pub(crate) fn with(
        policy: &'a Policy,
        memory: &'a Memory,
        observed: &'a Observed,
        now: Now,
        (tally, found): (Tally, Derived),
    ) -> Self {
        let (since, recent) = bounds(memory, now);
        let record = observed.record();
        Self { policy, memory, observed, record, tally, since, recent, now, found }
    }

    /// A view without a past, for one look: whatever must have lasted has not.
    pub fn of_one_look(
        policy: &'a Policy,
        memory: &'a Memory,
        observed: &'a Observed,
        now: Now,
    ) -> Self {
        let (since, recent) = (Mono(0), Mono(0));
        let found = (count(policy, observed, since), Derived::default());
        Self { since, recent, ..Self::with(policy, memory, observed, now, found) }
    }

    /// The address of the published writer.
    pub fn writer(&self) -> Option<&'a Address> {
        self.record.and_then(Record::writer_address)
    }

    /// The pause that an operator has asked for, while it is on.
    pub fn pause(&self) -> Option<PauseStatus> {
        self.observed.store.as_ref()?.paused(self.now.wall)
    }

    /// The same by another policy.
    pub(crate) fn under<'b>(&'b self, policy: &'b Policy) -> View<'b> {
        let View { memory, observed, record, since, recent, now, .. } = *self;
        let (tally, found) = (self.tally.clone(), Derived::default());
        View { policy, memory, observed, record, tally, since, recent, now, found }
    }

    /// The operator has taken the instance out of service.
    pub fn in_maintenance(&self, address: &Address) -> bool {
        match self.observed.store.as_ref().map(|store| &store.maintenance) {
            None => false,
            Some(Ok(listed)) => listed.contains_key(address),
            // As it was published last: no instance comes back into the names because a list cannot be read.
            Some(Err(_)) => {
                let record = self.record.and_then(|record| record.role_of(address));
                record == Some(PublishedRole::Maintenance)
            }
        }
    }

    /// Puts an instance to the writer test, with answers that may change the writer.
    pub fn test(&self, address: &Address) -> WriterTest<'a> {
        writer_test(self.observed, address, self.since)
    }

    /// What an instance said recently.
    pub fn instance(&self, address: &Address) -> Option<&'a InstanceAnswer> {
        self.observed.instances.get(address)?.since(self.recent)
    }

    /// The instance that answers at this address as well, where the group knows it by another one. An instance is a
    /// process, told by its run id; of its addresses one counts, and what is done to it is done there.
    pub fn alias_of(&self, address: &Address) -> Option<&Address> {
        self.aliases().get(address)
    }

    /// The primary has that replica connected, by its own list.
    pub fn lists(&self, primary: &Address, replica: &Address) -> bool {
        let role = self.instance(primary).map(|answer| &answer.role);
        matches!(role, Some(Role::Primary { replicas }) if replicas.iter().any(|r| r.address == *replica))
    }

    /// All such addresses, with the one that counts.
    pub fn aliases(&self) -> &BTreeMap<Address, Address> {
        self.found.aliases.get_or_init(|| {
            let mut runs: BTreeMap<&str, BTreeSet<&Address>> = BTreeMap::new();
            for (address, reading) in &self.observed.instances {
                if let Some(answer) = reading.since(self.recent).filter(|a| !a.run_id.is_empty()) {
                    runs.entry(&answer.run_id).or_default().insert(address);
                }
            }
            // The writer's process is known even while it does not answer at its own address.
            let writer = self.writer();
            if let Some((writer, life)) = writer.and_then(|w| self.memory.lives.get_key_value(w))
                && let Some(addresses) = runs.get_mut(life.run_id.as_str())
            {
                addresses.insert(writer);
            }
            let several = runs.into_values().filter(|addresses| addresses.len() > 1);
            let principal = |addresses: BTreeSet<&Address>| {
                let first = addresses.iter().min_by_key(|a| (self.rank(a), **a)).copied().cloned();
                first.map(|first| {
                    let others = addresses.into_iter().filter(|a| **a != first).cloned();
                    others.map(|other| (other, first.clone())).collect::<Vec<_>>()
                })
            };
            several.filter_map(principal).flatten().collect()
        })
    }

    /// How well the group knows an address: the lowest counts.
    fn rank(&self, address: &Address) -> u8 {
        let elected = self.tally.elected.as_ref().map(|elected| &elected.address);
        let names = |group: &SentinelGroup| {
            [&group.primary, &group.monitored].contains(&address)
                || group.replicas.iter().any(|replica| &replica.address == address)
        };
        if self.writer() == Some(address) {
            0
        } else if elected == Some(address) {
            1
        } else if self.groups().any(names) {
            2
        } else if self.record.is_some_and(|record| record.role_of(address).is_some()) {
            3
        } else {
            4 + u8::from(address.is_loopback())
        }
    }

    /// The loopback addresses that are registered for the group, or configured on this host, while the group is known
    /// elsewhere: they lead every host to itself.
    pub fn refused(&self) -> &BTreeSet<Address> {
        self.found.refused.get_or_init(|| {
            let all = || self.observed.registered.iter().chain(&self.policy.local);
            let recorded = self.record.and_then(|record| record.last_writer.as_ref());
            let named = self.groups().map(|group| &group.primary);
            let mut known = named.chain(recorded.map(|writer| &writer.address)).peekable();
            let elsewhere = match known.peek() {
                Some(_) => known.all(|address| !address.is_loopback()),
                None => all().any(|address| !address.is_loopback()),
            };
            all().filter(|address| elsewhere && address.is_loopback()).cloned().collect()
        })
    }

    /// What the history of an instance goes on from, where it had to begin one anew and says so itself by none of its
    /// own.
    pub fn continued(&self, answer: &InstanceAnswer) -> Option<&'a Continued> {
        let store = self.observed.store.as_ref()?;
        let known = is_of_lineage(self.record, answer);
        histories(answer).find_map(|id| store.continued.get(id)).filter(|_| !known)
    }

    /// How many writers of the group came after the one whose data an instance holds; `None` when it is not known to
    /// hold any of theirs.
    pub fn age(&self, answer: &InstanceAnswer) -> Option<usize> {
        let lineage = self.record.map(|record| record.lineage.as_slice()).unwrap_or_default();
        let place = |id: &ReplId| lineage.iter().position(|known| known == id);
        let own = histories(answer).filter_map(place).min();
        own.or_else(|| place(&self.continued(answer)?.of))
    }

    /// How many Sentinels answer, whether they know the group or not.
    pub fn sentinels_answering(&self) -> usize {
        self.sentinels().map(|(_, answer)| &answer.id).collect::<BTreeSet<&SentinelId>>().len()
    }

    /// A majority of the Sentinels lists it as a replica.
    pub fn is_listed(&self, address: &Address) -> bool {
        let listed = self.tally.replicas.get(address).map_or(0, |count| count.up + count.down);
        listed >= self.tally.majority()
    }

    /// It is registered for the group, or a majority of the Sentinels lists it: an instance that a single Sentinel was
    /// pointed at by mistake is another group's.
    pub fn is_ours(&self, address: &Address) -> bool {
        self.observed.registered.contains(address)
            || self.policy.local.contains(address)
            || self.is_listed(address)
    }

    /// Some Sentinel does not trust its clock, and what it calls down may be up.
    pub fn any_tilt(&self) -> bool {
        self.sentinels().any(|(_, answer)| answer.tilt)
    }

    /// The condition has been true for at least `ms`.
    pub fn lasted(&self, condition: &Condition, ms: u64) -> bool {
        self.memory.lasted(condition, ms, self.now)
    }

    /// What each Sentinel said recently, by the address it is reached at.
    pub fn sentinels(&self) -> impl Iterator<Item = (&'a Address, &'a SentinelAnswer)> {
        let recent = self.recent;
        self.observed.sentinels.iter().filter_map(move |(a, r)| Some((a, r.since(recent)?)))
    }

    /// What each Sentinel said recently of the group.
    pub fn groups(&self) -> impl Iterator<Item = &'a SentinelGroup> {
        self.sentinels().filter_map(|(_, answer)| answer.group.as_ref())
    }
}

/// From when on answers may change the writer, and from when on they say anything.
fn bounds(memory: &Memory, now: Now) -> (Mono, Mono) {
    let recent = Mono(now.mono.0.saturating_sub(ANSWER_AGE_MAX_MS));
    (memory.generation_seen().max(recent), recent)
}

fn count(policy: &Policy, observed: &Observed, since: Mono) -> Tally {
    let record = observed.record();
    let known_min = record.map_or(policy.sentinels_configured, |r| r.evidence.known);
    Tally::count(observed, TallyBounds { since, known_min })
}
