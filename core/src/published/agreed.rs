//! How agents agree on the operator's own words.
//!
//! Each agent says in its key what its config has of the group and of the instances beside it. What the rows show is in
//! the record, by address, and every agent works it out alike from the keys of the agents that are there. So agents with
//! different configs do not rewrite each other, and a change of a config begins no generation.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::Address;
use crate::published::record::{InstanceRecord, Record};
use crate::published::store::StoreAnswer;
use crate::published::words::{AgentWords, RowWords, Words};

/// The agents that are there and whose version knows no words: they would take them off the rows again and again.
pub fn unaware(store: &StoreAnswer) -> BTreeSet<&str> {
    let unaware = store.agents.iter().filter(|agent| !store.words.contains_key(*agent));
    unaware.map(String::as_str).collect()
}

/// Agents have words in their configs, and these agents know none.
pub fn kept_off(store: &StoreAnswer) -> BTreeSet<&str> {
    if store.words.values().any(AgentWords::says_something) {
        return unaware(store);
    }
    BTreeSet::new()
}

/// The agents that say something of the group, the one whose words are shown first; none where all say the same.
pub fn differing(store: &StoreAnswer) -> Vec<(&str, &Words)> {
    let said = store.words.iter().map(|(agent, words)| (agent.as_str(), &words.group));
    let said: Vec<(&str, &Words)> = said.filter(|(_, words)| !words.is_empty()).collect();
    let first = said.first().map(|(_, words)| *words);
    match said.iter().all(|(_, words)| Some(*words) == first) {
        true => Vec::new(),
        false => said,
    }
}

/// The words that the rows of these instances are to show.
///
/// The group's are those of the first agent by its id that has any; an instance's are those of the agent beside it, and
/// stay while that one is away. An agent that does not show itself yet changes none.
pub fn agreed(
    store: &StoreAnswer,
    own: &str,
    record: Option<&Record>,
    instances: &[InstanceRecord],
) -> BTreeMap<Address, RowWords> {
    let recorded = |at: &Address| record.and_then(|record| record.words.get(at));
    let of = |at: &Address| -> Option<RowWords> {
        if !store.agents.contains(own) {
            return recorded(at).cloned();
        }
        let beside = store.words.values().find_map(|words| words.instances.get(at));
        let before = || recorded(at).map(|words| &words.instance);
        let groups = store.words.values().map(|words| &words.group);
        Some(RowWords {
            group: groups.clone().find(|words| !words.is_empty()).cloned().unwrap_or_default(),
            instance: beside.or_else(before).cloned().unwrap_or_default(),
        })
    };
    if !unaware(store).is_empty() {
        return BTreeMap::new();
    }
    let each = instances.iter().map(|instance| &instance.address);
    let words = each.filter_map(|at| Some((at.clone(), of(at)?)));
    words.filter(|(_, words)| !words.is_empty()).collect()
}
