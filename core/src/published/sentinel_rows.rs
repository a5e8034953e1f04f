//! Where Sentinels are: one `redis-sentinel` row each, on a synthetic node that all groups share.
//!
//! Every agent computes the same row: its tags are the groups that the Sentinel itself reports, its
//! health is what the other Sentinels say of it. So plain `set`s cannot fight, and need no fence.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::address::{Address, GroupName};
use crate::known::observed::SentinelGroup;
use crate::published::projection::{
    CheckRow, CheckStatus, MANAGED_BY, Rows, ServiceRow, Weights, node_row,
};
use crate::time::{Mono, Now};

/// The service that all Sentinels are rows of.
pub const SERVICE: &str = "redis-sentinel";
/// What a row or a registration says of the installation that it belongs to.
pub const INSTALLATION: &str = "installation";
/// A Sentinel that has not answered this agent for this long is one it does not know, in ms.
pub const SILENT_AFTER_MS: u64 = 60_000;
/// What one Sentinel said of the others counts for this long, in ms.
const OPINION_AGE_MAX_MS: u64 = 10_000;

/// The synthetic node of all Sentinels under `prefix`.
pub fn node(prefix: &str) -> String {
    format!("{}-sentinels", prefix.replace('/', "-"))
}

/// What one agent knows of where Sentinels are.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    heard: BTreeMap<Address, (Vec<GroupName>, Mono)>,
    opinions: BTreeMap<(Address, GroupName), (BTreeMap<Address, bool>, Mono)>,
    left: BTreeSet<GroupName>,
}

impl Directory {
    /// These groups are watched by other agents alone.
    pub fn leave(&mut self, groups: &BTreeSet<GroupName>) {
        self.left.clone_from(groups);
    }

    /// A Sentinel has said which groups it monitors. True when that is news.
    pub fn hear(&mut self, sentinel: Address, groups: Vec<GroupName>, now: Now) -> bool {
        let old = self.heard.insert(sentinel, (groups.clone(), now.mono));
        old.is_none_or(|(before, _)| before != groups)
    }

    /// A Sentinel has named the others of one group.
    pub fn note_peers(
        &mut self,
        sentinel: Address,
        group: GroupName,
        view: &SentinelGroup,
        now: Now,
    ) {
        let peers = view.peers.iter().map(|peer| (peer.address.clone(), peer.s_down)).collect();
        self.opinions.insert((sentinel, group), (peers, now.mono));
    }

    /// The rows there should be, given those that are there and the Sentinels that Consul agents have
    /// registered themselves. A row belongs to the installation of the agent that made it, so that agents of another one
    /// do not take that Sentinel for theirs.
    pub fn rows(
        &mut self,
        found: Option<&Rows>,
        elsewhere: &BTreeSet<Address>,
        installation: Option<&str>,
        now: Now,
    ) -> Rows {
        self.heard.retain(|_, (_, at)| now.mono - *at < SILENT_AFTER_MS);
        self.opinions.retain(|_, (_, at)| now.mono - *at < OPINION_AGE_MAX_MS);
        let mut rows =
            Rows { node: node_row(None), services: BTreeMap::new(), checks: BTreeMap::new() };
        for (address, (groups, _)) in &self.heard {
            if !elsewhere.contains(address) {
                let tags = groups.iter().map(ToString::to_string).collect();
                self.add(&mut rows, address, tags, found, installation);
            }
        }
        for (id, row) in found.iter().flat_map(|rows| &rows.services) {
            let Ok(address) = Address::new(&row.address, row.port) else { continue };
            let decided = rows.services.contains_key(id) || elsewhere.contains(&address);
            // Without a Sentinel's word on it, a row is left to the agents that know better.
            if !decided && (!self.judges(&row.tags) || self.named(&address)) {
                self.add(&mut rows, &address, row.tags.clone(), found, None);
            }
        }
        rows
    }

    fn add(
        &self,
        rows: &mut Rows,
        address: &Address,
        tags: Vec<String>,
        found: Option<&Rows>,
        installation: Option<&str>,
    ) {
        let (key, value) = MANAGED_BY;
        let id = format!("{SERVICE}:{address}");
        // Agents of two installations may watch one Sentinel: its row stays with the first of them.
        let first = found.and_then(|rows| rows.services.get(&id)?.meta.get(INSTALLATION)).cloned();
        let installation = first.or_else(|| installation.map(str::to_owned));
        let mut meta = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        meta.extend(installation.map(|name| (INSTALLATION.to_owned(), name)));
        let before = found.and_then(|rows| rows.checks.get(&id)).map(|check| check.status);
        // Without a Sentinel's word on it, it stays what it was.
        let down = if self.named(address) {
            self.called_down(address)
        } else {
            before == Some(CheckStatus::Critical) && !self.heard.contains_key(address)
        };
        rows.services.insert(
            id.clone(),
            ServiceRow {
                service: SERVICE.to_owned(),
                address: address.host().to_owned(),
                port: address.port(),
                tags,
                meta,
                weights: Weights::default(),
            },
        );
        rows.checks.insert(
            id.clone(),
            CheckRow {
                service_id: id,
                service: SERVICE.to_owned(),
                status: if down { CheckStatus::Critical } else { CheckStatus::Passing },
                output: if down { "down, say the other Sentinels" } else { "up" }.to_owned(),
            },
        );
    }

    /// Sentinels have said something, and would have said it of a Sentinel of these groups: those of groups that other
    /// agents watch are known to these.
    fn judges(&self, groups: &[String]) -> bool {
        let spoken_of = |group: &String| self.opinions.keys().any(|(_, of)| of.as_str() == group);
        let left = |group: &String| self.left.iter().any(|left| left.as_str() == group);
        let is_known_here = groups.iter().any(spoken_of) || !groups.iter().any(left);
        !self.opinions.is_empty() && is_known_here
    }

    fn named(&self, address: &Address) -> bool {
        self.opinions.values().any(|(peers, _)| peers.contains_key(address))
    }

    /// More than half of the Sentinels that name it get no answer from it.
    fn called_down(&self, address: &Address) -> bool {
        let opinions: Vec<bool> =
            self.opinions.values().filter_map(|(peers, _)| peers.get(address).copied()).collect();
        opinions.iter().filter(|down| **down).count() * 2 > opinions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::observed::{DownOpinion, SentinelId, SentinelPeer, SentinelSettings};

    fn at(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn now(ms: u64) -> Now {
        Now { mono: Mono(ms), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn view(peers: &[(&str, bool)]) -> SentinelGroup {
        SentinelGroup {
            primary: at("10.0.0.1:6379"),
            monitored: at("10.0.0.1:6379"),
            config_epoch: 1,
            down: DownOpinion::Up,
            only_master_flag: true,
            disconnected: false,
            failover: None,
            failover_forced: false,
            other_sentinels: peers.len(),
            settings: SentinelSettings {
                quorum: 2,
                down_after_ms: 1_000,
                failover_timeout_ms: 10_000,
                parallel_syncs: 1,
            },
            replicas: Vec::new(),
            peers: peers
                .iter()
                .map(|(address, s_down)| SentinelPeer {
                    address: at(address),
                    id: SentinelId((*address).to_owned()),
                    s_down: *s_down,
                    voted: None,
                })
                .collect(),
        }
    }

    fn group() -> GroupName {
        "redis".parse().unwrap()
    }

    #[test]
    fn a_row_has_the_groups_the_sentinel_reports() {
        let mut directory = Directory::default();
        assert!(directory.hear(at("s1:1"), vec![group()], now(1)));
        assert!(!directory.hear(at("s1:1"), vec![group()], now(2)));
        let rows = directory.rows(None, &BTreeSet::new(), None, now(3));
        assert_eq!(rows.services["redis-sentinel:s1:1"].tags, ["redis"]);
        assert_eq!(rows.checks["redis-sentinel:s1:1"].status, CheckStatus::Passing);
    }

    #[test]
    fn one_that_a_consul_agent_registers_is_left_to_it() {
        let mut directory = Directory::default();
        directory.hear(at("s1:1"), vec![group()], now(1));
        let elsewhere = BTreeSet::from([at("s1:1")]);
        assert!(directory.rows(None, &elsewhere, None, now(2)).services.is_empty());
    }

    #[test]
    fn health_is_what_the_others_say() {
        let mut directory = Directory::default();
        directory.hear(at("s1:1"), vec![group()], now(1));
        directory.note_peers(at("s2:1"), group(), &view(&[("s1:1", true)]), now(1));
        directory.note_peers(at("s3:1"), group(), &view(&[("s1:1", true)]), now(1));
        let rows = directory.rows(None, &BTreeSet::new(), None, now(2));
        assert_eq!(rows.checks["redis-sentinel:s1:1"].status, CheckStatus::Critical);
        directory.note_peers(at("s3:1"), group(), &view(&[("s1:1", false)]), now(2));
        let rows = directory.rows(None, &BTreeSet::new(), None, now(3));
        assert_eq!(rows.checks["redis-sentinel:s1:1"].status, CheckStatus::Passing);
    }

    #[test]
    fn a_silent_one_goes_when_no_other_names_it_and_stays_when_one_does() {
        let mut directory = Directory::default();
        directory.hear(at("s1:1"), vec![group()], now(1));
        let found = directory.rows(None, &BTreeSet::new(), None, now(2));
        let later = now(1 + SILENT_AFTER_MS);
        let mut named = directory.clone();
        named.note_peers(at("s2:1"), group(), &view(&[("s1:1", true)]), later);
        let rows = named.rows(Some(&found), &BTreeSet::new(), None, later);
        assert_eq!(rows.checks["redis-sentinel:s1:1"].status, CheckStatus::Critical);
        let mut unnamed = directory.clone();
        unnamed.note_peers(at("s2:1"), group(), &view(&[("s3:1", false)]), later);
        assert!(unnamed.rows(Some(&found), &BTreeSet::new(), None, later).services.is_empty());
        // No Sentinel has said anything: another agent may know better.
        assert_eq!(directory.rows(Some(&found), &BTreeSet::new(), None, later), found);
    }

    #[test]
    fn one_of_a_group_that_others_watch_is_left_to_them() {
        let mut directory = Directory::default();
        let (other, later) = ("other".parse::<GroupName>().unwrap(), now(1 + SILENT_AFTER_MS));
        directory.hear(at("s9:1"), vec![other.clone()], now(1));
        let found = directory.rows(None, &BTreeSet::new(), None, now(2));
        directory.note_peers(at("s2:1"), group(), &view(&[("s3:1", false)]), later);
        let mut leaves = directory.clone();
        leaves.leave(&BTreeSet::from([other.clone()]));
        assert_eq!(leaves.rows(Some(&found), &BTreeSet::new(), None, later), found);
        // It goes where that group is watched as well, or in no config any more.
        leaves.note_peers(at("s2:1"), other, &view(&[("s3:1", false)]), later);
        assert!(leaves.rows(Some(&found), &BTreeSet::new(), None, later).services.is_empty());
        assert!(directory.rows(Some(&found), &BTreeSet::new(), None, later).services.is_empty());
    }

    #[test]
    fn a_row_belongs_to_the_installation_whose_agent_was_the_first() {
        let of =
            |rows: &Rows| rows.services.values().next().unwrap().meta.get(INSTALLATION).cloned();
        let mut directory = Directory::default();
        directory.hear(at("s1:1"), vec![group()], now(1));
        let mut turn = |found: Option<&Rows>, installation| {
            directory.rows(found, &BTreeSet::new(), installation, now(2))
        };
        let of_none = turn(None, None);
        assert_eq!(of(&of_none), None);
        let of_prod = turn(Some(&of_none), Some("prod"));
        assert_eq!(of(&of_prod).as_deref(), Some("prod"));
        for other in [None, Some("test"), Some("prod")] {
            assert_eq!(turn(Some(&of_prod), other), of_prod, "two do not fight over it");
        }
    }
}
