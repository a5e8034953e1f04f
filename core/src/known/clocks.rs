//! Agents' wall clocks: whether one is ahead of ours.
//!
//! Each agent shows in its key what its clock says now. A moment that was shown before we read it and lies in our
//! future proves that the other clock is ahead, however long the way through Consul took. Whichever of two clocks is
//! behind, its agent sees that, as soon as the other one has shown itself anew. So an agent that has started, or whose
//! clock was set, asks for that in its key, and each of the others answers once.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::published::store::{AgentClock, StoreAnswer};
use crate::time::{Mono, Now};

/// Clocks may differ by this much, in ms.
pub const SKEW_MAX_MS: u64 = 1_000;
/// A wall clock that has moved so far against the monotonic one was set, in ms.
const SET_MS: u64 = 500;
/// Pause between two writes of the key, in ms.
const SHOW_AGAIN_MS: u64 = 1_000;
/// After this long without being seen in Consul, what was shown is taken for lost, in ms.
const LOST_AFTER_MS: u64 = 5_000;

/// What one agent knows of the others' clocks.
#[derive(Debug, Clone, Default)]
pub struct Clocks {
    /// The moment that each of the others showed last.
    seen: BTreeMap<String, Timestamp>,
    /// Whose clock is ahead of ours, by at least how many ms.
    ahead: BTreeMap<String, u64>,
    /// Another agent has asked since then.
    is_asked: bool,
    /// What our key is to say, and since when.
    shown: Option<(AgentClock, Mono)>,
    /// How far the wall clock was from the monotonic one then, in ms.
    offset: i64,
}

impl Clocks {
    /// Looks at what the agents show. What our own key is to say from now on, where that has changed.
    pub fn look(&mut self, store: &StoreAnswer, own: &str, now: Now) -> Option<AgentClock> {
        if !store.agents.contains(own) {
            return None;
        }
        let offset = offset(now);
        let was_set = self.shown.is_some() && offset.abs_diff(self.offset) > SET_MS;
        if was_set {
            // Found with another clock.
            self.ahead.clear();
        }
        let is_there = |agent: &String| store.clocks.contains_key(agent);
        self.seen.retain(|agent, _| is_there(agent));
        self.ahead.retain(|agent, _| is_there(agent));
        for (agent, clock) in store.clocks.iter().filter(|(agent, _)| *agent != own) {
            if self.seen.insert(agent.clone(), clock.at) == Some(clock.at) {
                continue;
            }
            self.is_asked |= clock.asks;
            match ahead_ms(clock.at, now) {
                Some(ms) => self.ahead.insert(agent.clone(), ms),
                None => self.ahead.remove(agent),
            };
        }
        let (asks, answers) = match &self.shown {
            None => (true, false),
            Some((shown, at)) => {
                let ago_ms = now.mono - *at;
                let lost = match store.clocks.get(own) {
                    None => ago_ms >= SHOW_AGAIN_MS,
                    Some(found) => found != shown && ago_ms >= LOST_AFTER_MS,
                };
                let news = self.is_asked || shown.ahead != self.ahead;
                (was_set || lost, news && ago_ms >= SHOW_AGAIN_MS)
            }
        };
        (asks || answers).then(|| {
            let clock = AgentClock { at: now.wall, asks, ahead: self.ahead.clone() };
            self.shown = Some((clock.clone(), now.mono));
            self.is_asked = false;
            self.offset = offset;
            clock
        })
    }
}

fn offset(now: Now) -> i64 {
    let mono = i64::try_from(now.mono.0).unwrap_or(i64::MAX);
    now.wall.as_millisecond().saturating_sub(mono)
}

/// By how many ms the clock that showed `at` is ahead of ours, where that is too much.
pub fn ahead_ms(at: Timestamp, now: Now) -> Option<u64> {
    let ms = at.as_millisecond().saturating_sub(now.wall.as_millisecond());
    u64::try_from(ms).ok().filter(|ms| *ms > SKEW_MAX_MS)
}

/// Which agents' clocks are ahead of which others', by at least how many ms, as those say.
pub fn skews(store: &StoreAnswer) -> impl Iterator<Item = (&str, &str, u64)> {
    store.clocks.iter().flat_map(|(behind, clock)| {
        clock.ahead.iter().map(move |(ahead, ms)| (ahead.as_str(), behind.as_str(), *ms))
    })
}
