//! A fleet of agents that share groups: agents that start, die, stop, and are cut off from Consul, each with its own
//! picture of the others. Sessions end as Consul's do, between one and two times their TTL after the last renewal.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use consul_redis_core::fleet::{
    FleetView, GroupHash, LET_GO_AFTER_MS, Share, WATCHED_BY_ALL_MAX, ranked, wanted_watchers,
};
use consul_redis_core::time::Mono;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The least and the most time after an agent's end until Consul has its keys no more, in ms.
const SESSION_MS: (u64, u64) = (10_000, 20_000);
/// The interval: an agent has read what is in Consul by then, in ms.
const INTERVAL_MS: u64 = 1_000;
/// What the simulation's time grows by, in ms.
const STEP_MS: u64 = 500;
/// How long a group may be watched by none after the last agent was lost that was to watch it, in ms.
const ALONE_MAX_MS: u64 = SESSION_MS.1 + INTERVAL_MS + STEP_MS;
/// By then all is as it is to be, when nothing more happens, in ms.
const SETTLED_MS: u64 = SESSION_MS.1 + LET_GO_AFTER_MS + 5 * INTERVAL_MS;

/// One agent, its process and its session.
struct Agent {
    id: String,
    share: Share,
    /// The groups that it is configured with, by their numbers.
    configured: Arc<[usize]>,
    runs: bool,
    /// It does not reach Consul.
    cut_off: bool,
    /// Consul has its keys, until then where it renews them no more.
    keys: bool,
    ends: Option<u64>,
    /// It has to show itself then.
    shows: Option<u64>,
    read: u64,
}

impl Agent {
    /// It can publish.
    fn serves(&self) -> bool {
        self.runs && !self.cut_off
    }
}

/// All of it.
struct World {
    now: u64,
    random: StdRng,
    watchers: usize,
    hashes: Vec<GroupHash>,
    agents: Vec<Agent>,
    /// Agents that can publish and watch the group, by group.
    serving: Vec<u16>,
    /// Agents that run and watch it.
    watching: Vec<u16>,
    unserved_since: Vec<u64>,
    longest_unserved: u64,
    /// Agents that something happened to, and when last.
    disturbed: Vec<u64>,
    /// When each agent was last lost.
    lost: Vec<u64>,
    taken: usize,
    let_go: usize,
}

impl World {
    /// `lists` has the groups of each agent. All agents start within two seconds.
    fn start(seed: u64, groups: usize, watchers: usize, lists: Vec<Arc<[usize]>>) -> Self {
        let name = |number: usize| format!("group-{number}").parse().expect("a name");
        let hashes: Vec<GroupHash> =
            (0..groups).map(|number| GroupHash::new(Some("prod"), &name(number))).collect();
        let count = lists.len();
        let mut world = Self {
            now: 0,
            random: StdRng::seed_from_u64(seed),
            watchers,
            hashes,
            agents: Vec::new(),
            serving: vec![0; groups],
            watching: vec![0; groups],
            unserved_since: vec![0; groups],
            longest_unserved: 0,
            disturbed: vec![0; count],
            lost: vec![0; count],
            taken: 0,
            let_go: 0,
        };
        for (number, configured) in lists.into_iter().enumerate() {
            let id = format!("agent-{number}");
            let share = world.share(&id, &configured);
            let (runs, cut_off, keys) = (false, false, false);
            let (ends, shows, read) = (None, None, 0);
            world.agents.push(Agent {
                id,
                share,
                configured,
                runs,
                cut_off,
                keys,
                ends,
                shows,
                read,
            });
        }
        world
    }

    fn share(&self, id: &str, configured: &[usize]) -> Share {
        let hashes = configured.iter().map(|group| self.hashes[*group]).collect();
        Share::new(id, self.watchers, hashes, BTreeSet::new())
    }

    /// What is in Consul.
    fn fleet(&self) -> FleetView {
        let there = self.agents.iter().filter(|agent| agent.keys);
        there.map(|agent| (agent.id.clone(), agent.share.list().clone())).collect()
    }

    fn boot(&mut self, number: usize) {
        let Agent { id, configured, .. } = &self.agents[number];
        let mut share = self.share(id, configured);
        share.saw(&self.fleet(), Mono(self.now));
        let shows = self.now + self.random.random_range(0..=STEP_MS);
        let agent = &mut self.agents[number];
        agent.share = share;
        (agent.runs, agent.cut_off) = (true, false);
        // The keys of its former life are there until its session ends.
        (agent.shows, agent.read) = (Some(shows), self.now);
        self.disturbed[number] = self.now;
        self.take(number);
    }

    /// The process ends; where it is told to, its session does, too.
    fn end(&mut self, number: usize, told: bool) {
        self.count_all(number, false);
        let ends = self.session_end();
        let agent = &mut self.agents[number];
        agent.runs = false;
        agent.shows = None;
        agent.ends = Some(if told { self.now } else { ends });
        (self.disturbed[number], self.lost[number]) = (self.now, self.now);
    }

    fn session_end(&mut self) -> u64 {
        self.now + self.random.random_range(SESSION_MS.0..=SESSION_MS.1)
    }

    fn cut_off(&mut self, number: usize) {
        let ends = self.session_end();
        self.change(number, |agent| {
            (agent.cut_off, agent.ends, agent.shows) = (true, Some(ends), None);
        });
        self.lost[number] = self.now;
    }

    fn heal(&mut self, number: usize) {
        let shows = self.now + self.random.random_range(0..=4_000);
        self.change(number, |agent| {
            agent.cut_off = false;
            // What has not ended is renewed.
            agent.ends = None;
            agent.shows = (!agent.keys).then_some(shows);
        });
    }

    /// What changes of an agent whether it can publish.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Agent)) {
        self.count_all(number, false);
        change(&mut self.agents[number]);
        self.disturbed[number] = self.now;
        self.count_all(number, true);
    }

    fn count_all(&mut self, number: usize, there: bool) {
        let places = 0..self.agents[number].configured.len();
        let watched = places.filter(|place| self.agents[number].share.watches(*place));
        self.count(number, &watched.collect::<Vec<_>>(), there);
    }

    /// Counts an agent among those that watch these of its groups, or no more.
    fn count(&mut self, number: usize, places: &[usize], there: bool) {
        let agent = &self.agents[number];
        let (runs, serves) = (agent.runs, agent.serves());
        let step = |count: &mut u16| *count = if there { *count + 1 } else { *count - 1 };
        for place in places {
            let group = agent.configured[*place];
            if runs {
                step(&mut self.watching[group]);
            }
            if serves {
                let before = self.serving[group];
                step(&mut self.serving[group]);
                if there && before == 0 {
                    let since = self.unserved_since[group].max(self.last_loss(group));
                    self.longest_unserved = self.longest_unserved.max(self.now - since);
                } else if self.serving[group] == 0 {
                    self.unserved_since[group] = self.now;
                }
            }
        }
    }

    /// When the last agent was lost that comes before the first one that was there all the time: each of them was to
    /// watch the group until its session ended.
    fn last_loss(&self, group: usize) -> u64 {
        let all = self.agents.iter();
        let all: FleetView =
            all.map(|agent| (agent.id.clone(), agent.share.list().clone())).collect();
        let is_new = |id: &&str| {
            let number = number_of(id);
            !self.agents[number].serves() || self.disturbed[number] + ALONE_MAX_MS > self.now
        };
        let before = ranked(&all, self.hashes[group]).into_iter().take_while(is_new);
        before.map(|id| self.lost[number_of(id)]).max().unwrap_or_default()
    }

    fn take(&mut self, number: usize) {
        let taken = self.agents[number].share.take();
        self.taken += taken.len();
        self.count(number, &taken, true);
    }

    /// The agent asks who watches the groups that it may let go.
    fn let_go(&mut self, number: usize) {
        let now = Mono(self.now);
        for place in self.agents[number].share.to_let_go(now) {
            let group = self.agents[number].configured[place];
            let has_key = |id: &&str| {
                let other = &self.agents[number_of(id)];
                let place = other.configured.binary_search(&group);
                other.keys && place.is_ok_and(|place| other.share.watches(place))
            };
            if self.agents[number].share.successors(place).iter().all(has_key) {
                self.count(number, &[place], false);
                self.agents[number].share.let_go(place);
                self.let_go += 1;
            } else {
                self.agents[number].share.wait_for_others(place, now);
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP_MS;
        for number in 0..self.agents.len() {
            let agent = &mut self.agents[number];
            if agent.ends.is_some_and(|ends| ends <= self.now) {
                (agent.keys, agent.ends) = (false, None);
            }
            if agent.shows.is_some_and(|shows| shows <= self.now) && agent.ends.is_none() {
                (agent.keys, agent.shows) = (true, None);
            }
        }
        let fleet = self.fleet();
        for number in 0..self.agents.len() {
            if !self.agents[number].serves() {
                continue;
            }
            let due = self.now - self.agents[number].read >= INTERVAL_MS;
            if due || self.random.random_bool(0.5) {
                self.agents[number].read = self.now;
                self.agents[number].share.saw(&fleet, Mono(self.now));
            }
            self.take(number);
            self.let_go(number);
        }
        self.hold();
    }

    /// What must hold at any time: no more watch a group than are wanted, and those that something has happened to.
    fn hold(&self) {
        let lately = |at: &u64| *at + SETTLED_MS >= self.now;
        let moving = self.disturbed.iter().filter(|at| lately(at)).count();
        let moving = self.agents.iter().filter(|agent| agent.cut_off).count() + moving;
        let wanted = if self.watchers == 0 { WATCHED_BY_ALL_MAX } else { self.watchers };
        let most = self.watching.iter().copied().max().map_or(0, usize::from);
        assert!(most <= wanted + moving, "{most} watch a group, and {moving} are in transition");
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    /// Nothing happens any more: each group is watched by those that rank highest, and by no other one.
    fn settle(&mut self) {
        self.run(SETTLED_MS + 15_000);
        let fleet = self.fleet();
        let mut right: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.agents.len()];
        for (group, hash) in self.hashes.iter().enumerate() {
            let agents = ranked(&fleet, *hash);
            let wanted = wanted_watchers(self.watchers, agents.len());
            for id in agents.into_iter().take(wanted) {
                right[number_of(id)].insert(group);
            }
        }
        for (agent, right) in self.agents.iter().zip(right).filter(|(agent, _)| agent.serves()) {
            let places = agent.configured.iter().enumerate();
            let watched = places.filter(|(place, _)| agent.share.watches(*place));
            let watched: BTreeSet<usize> = watched.map(|(_, group)| *group).collect();
            assert!(watched == right, "{}: {} and {}", agent.id, watched.len(), right.len());
        }
    }

    /// How much more than its share the agent with the most groups has.
    fn imbalance(&self) -> f64 {
        let loads = self.agents.iter().filter(|agent| agent.runs);
        let loads: Vec<usize> = loads.map(|agent| agent.share.watched()).collect();
        let most = loads.iter().copied().max().unwrap_or_default();
        most as f64 * loads.len() as f64 / loads.iter().sum::<usize>().max(1) as f64
    }

    fn never_unserved_for_long(&self) {
        assert!(self.longest_unserved <= ALONE_MAX_MS, "{} ms", self.longest_unserved);
        let alone = self.serving.iter().filter(|count| **count == 0).count();
        assert_eq!(alone, 0, "groups that no agent watches");
    }

    fn pick(&mut self, fits: impl Fn(&Agent) -> bool) -> Option<usize> {
        let numbers = (0..self.agents.len()).filter(|number| fits(&self.agents[*number]));
        let numbers: Vec<usize> = numbers.collect();
        if numbers.is_empty() {
            return None;
        }
        Some(numbers[self.random.random_range(0..numbers.len())])
    }

    /// Something happens to an agent, while more than half of all serve.
    fn happen(&mut self) {
        let serving = self.agents.iter().filter(|agent| agent.serves()).count();
        let what = self.random.random_range(0..5);
        if what < 3 && serving * 2 > self.agents.len() + 2 {
            let Some(number) = self.pick(Agent::serves) else { return };
            match what {
                0 => self.end(number, false),
                1 => self.end(number, true),
                _ => self.cut_off(number),
            }
        } else if what == 3 {
            if let Some(number) = self.pick(|agent| agent.runs && agent.cut_off) {
                self.heal(number);
            }
        } else if let Some(number) = self.pick(|agent| !agent.runs) {
            self.boot(number);
        }
    }
}

fn number_of(id: &str) -> usize {
    id.strip_prefix("agent-").and_then(|number| number.parse().ok()).expect("an agent")
}

/// All agents with all groups.
fn same(agents: usize, groups: usize) -> Vec<Arc<[usize]>> {
    let all: Arc<[usize]> = (0..groups).collect();
    vec![all; agents]
}

#[test]
fn two_hundred_agents_share_a_hundred_thousand_groups() {
    let (agents, groups) = (200, 100_000);
    let mut world = World::start(1, groups, 0, same(agents, groups));
    for number in 0..190 {
        world.boot(number);
    }
    world.settle();
    assert!(world.imbalance() < 1.15, "{}", world.imbalance());

    // One dies: its groups move, each to one agent, and no other one does.
    let own = world.agents[7].share.watched();
    (world.taken, world.let_go) = (0, 0);
    world.end(7, false);
    world.settle();
    assert_eq!((world.taken, world.let_go), (own, 0));

    // Ten more start: they take what they are to watch, and others let no more go.
    world.taken = 0;
    for number in 190..200 {
        world.boot(number);
    }
    world.settle();
    assert_eq!(world.taken, world.let_go);
    let own: usize = (190..200).map(|number| world.agents[number].share.watched()).sum();
    // The ten did not know of one another at first.
    assert!(world.taken < own * 11 / 10, "{} for {own}", world.taken);

    // A rack goes down while another one is cut off, and some are stopped.
    (20..40).for_each(|number| world.end(number, false));
    (40..50).for_each(|number| world.cut_off(number));
    (50..55).for_each(|number| world.end(number, true));
    world.settle();
    (40..50).for_each(|number| world.heal(number));
    world.run(10_000);
    (20..30).for_each(|number| world.boot(number));
    world.settle();
    for _ in 0..20 {
        world.happen();
        world.run(3_000);
    }
    world.settle();
    assert!(world.imbalance() < 1.15, "{}", world.imbalance());
    world.never_unserved_for_long();
}

/// Small fleets, in which all that can happen does: agents with other groups than others, few of them, and a Consul that
/// loses all sessions.
#[test]
fn whatever_happens_no_group_is_alone_for_longer_than_a_session_and_an_interval() {
    for seed in 0..60 {
        let (agents, groups) = (4 + (seed as usize % 17), 300);
        let mut lists = same(agents, groups);
        if seed % 3 == 1 {
            // Each third is not configured with a third of the groups.
            for (number, list) in lists.iter_mut().enumerate().filter(|(_, _)| agents > 9) {
                *list = (0..groups).filter(|group| group % 3 != number % 3).collect();
            }
        }
        let watchers = [0, 1, 2, 3][seed as usize % 4];
        let mut world = World::start(seed, groups, watchers, lists);
        (0..agents).for_each(|number| world.boot(number));
        world.settle();
        for _ in 0..40 {
            world.happen();
            let ms = world.random.random_range(500..9_000);
            world.run(ms);
        }
        world.settle();
        // Consul is restored without a session: each agent opens another one.
        for number in 0..agents {
            let shows = world.now + world.random.random_range(0..5_000);
            let agent = &mut world.agents[number];
            agent.keys = false;
            agent.shows = agent.serves().then_some(shows);
            world.disturbed[number] = world.now;
        }
        world.settle();
        world.never_unserved_for_long();
    }
}
