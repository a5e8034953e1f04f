//! The groups, and which of their servers are this host's.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::{CommonToAll, Resolver};
use crate::cli::GroupFlag;
use crate::config::file::{
    GroupTable, Quorum, RedisTable, SentinelTable, SettingsTable, Span, WeightsTable,
};
use crate::config::{
    ConfigError, DEFAULT_CHECK_INTERVAL, DEFAULT_GROUP, GroupConfig, LocalRedis, LocalSentinel,
    SentinelAuth, auth_of,
};
use crate::core::duty::zone_order::PREFER_ZONES_MAX;
use crate::core::identity::address::{GroupName, NameError, ServiceName, Zone};
use crate::core::policy::{Announce, Pace, Policy, WantedQuorum, WantedSettings};
use crate::core::published::projection::Layout;
use crate::core::published::sentinel_rows;
use crate::core::published::words::{AgentWords, InstanceWords, Weights, Words, WordsError};
use crate::secret::SecretSource;

/// A Redis of this host, and the group that it belongs to.
pub(super) struct ConfiguredInstance<'a> {
    table: &'a RedisTable,
    group: GroupName,
}

impl Resolver<'_> {
    /// The groups, and the services that they are to be published as.
    pub(super) fn wanted_groups(&self) -> Result<Vec<GroupFlag>, ConfigError> {
        let mut seen: BTreeSet<&GroupName> = BTreeSet::new();
        for table in &self.file.group {
            if !seen.insert(table.name.get_ref()) {
                let what = format!("group `{}` is there twice", table.name.get_ref());
                return Err(self.source.contradiction(&table.name, what));
            }
        }
        if !self.common.group.is_empty() {
            return Ok(self.common.group.clone());
        }
        let named = |name: GroupName| GroupFlag { name, service: None };
        if !self.file.group.is_empty() {
            let names = self.file.group.iter().map(|table| table.name.get_ref().clone());
            return Ok(names.map(named).collect());
        }
        // The default is for Sentinels; without any, clusters alone are published.
        let no_sentinels = self.common.sentinels.is_empty()
            && self.common.sentinel_service.is_none()
            && self.file.sentinels.addresses.is_none()
            && self.file.sentinels.consul_service.is_none()
            && self.file.sentinel.is_empty();
        if no_sentinels && !self.file.cluster.is_empty() {
            return Ok(Vec::new());
        }
        let name = DEFAULT_GROUP.parse();
        Ok(vec![named(name.map_err(|e: NameError| ConfigError::Usage(e.to_string()))?)])
    }

    pub(super) fn groups(
        &self,
        wanted: &[GroupFlag],
        places: &[ConfiguredInstance<'_>],
        common: &CommonToAll<'_>,
    ) -> Result<Vec<GroupConfig>, ConfigError> {
        let groups: Vec<GroupConfig> =
            wanted.iter().map(|flag| self.group(flag, places, common)).collect::<Result<_, _>>()?;
        self.refuse_collisions(&groups)?;
        Ok(groups)
    }

    fn group(
        &self,
        flag: &GroupFlag,
        places: &[ConfiguredInstance<'_>],
        common: &CommonToAll<'_>,
    ) -> Result<GroupConfig, ConfigError> {
        let table = self.file.group.iter().find(|table| table.name.get_ref() == &flag.name);
        let service = self.service(flag, table)?;
        let here = places.iter().filter(|place| place.group == flag.name);
        let mut policy = Policy {
            local: here.map(|place| place.table.address.get_ref().clone()).collect(),
            sentinels_configured: common.sources.listed.len(),
            sources: common.sources.names(),
            installation: common.sources.installation.clone(),
            pace: Pace::of(&flag.name, common.groups),
            zone: self.zone(),
            ..Policy::new(flag.name.clone(), service, common.agent, "")
        };
        if let Some(table) = table {
            apply(&mut policy, table);
            policy.prefer_zones = self.prefer_zones(table)?;
            if let Some(announce) =
                table.announce.as_ref().filter(|a| *a.get_ref() == Announce::Eager)
                && !policy.relay
            {
                let what = "announce = \"eager\" needs relay = true: agents tell the Sentinels nothing without it";
                return Err(self.source.contradiction(announce, what.to_owned()));
            }
        }
        if let Some(level) = self.common.publish {
            policy.publish = level;
        }
        let mut login = match table {
            Some(table) => self.login(table.login.as_ref(), common.login.clone())?,
            None => common.login.clone(),
        };
        login.mark.clone_from(&policy.mark);
        let settings = table.map(|table| &table.settings);
        let sentinel_auth = match settings.and_then(|s| s.auth_password_file.clone()) {
            Some(file) => SentinelAuth {
                username: settings.and_then(|s| s.auth_user.clone()),
                password: SecretSource::File(file),
                chosen: true,
            },
            None => auth_of(&login),
        };
        let layout = Layout::new(common.prefix, &flag.name);
        let words = self.words(flag, table, places)?;
        Ok(GroupConfig { layout, policy, login, sentinel_auth, words })
    }

    /// The order of zones, each once; none where no instance is changed.
    fn prefer_zones(&self, table: &GroupTable) -> Result<Vec<Zone>, ConfigError> {
        let Some(listed) = &table.prefer_zones else { return Ok(Vec::new()) };
        let zones = listed.get_ref();
        let mut seen = BTreeSet::new();
        if let Some(twice) = zones.iter().find(|zone| !seen.insert(*zone)) {
            let what = format!("prefer_zones: {twice} is there twice");
            return Err(self.source.contradiction(listed, what));
        }
        if zones.len() > PREFER_ZONES_MAX {
            let what = format!(
                "prefer_zones: {} zones, and there may be {PREFER_ZONES_MAX}; what stands in any other one comes after these",
                zones.len()
            );
            return Err(self.source.contradiction(listed, what));
        }
        Ok(if table.manage == Some(false) { Vec::new() } else { zones.clone() })
    }

    /// The operator's own words for the rows: of the group, and of each of its instances on this host.
    fn words(
        &self,
        flag: &GroupFlag,
        table: Option<&GroupTable>,
        places: &[ConfiguredInstance<'_>],
    ) -> Result<AgentWords, ConfigError> {
        let group = match table {
            Some(table) => self.checked(&table.tags, &table.meta, &table.weights)?,
            None => Words::default(),
        };
        let here = places.iter().filter(|place| place.group == flag.name);
        let beside = here.map(|ConfiguredInstance { table, .. }| {
            let own = self.checked(&table.tags, &table.meta, &table.weights)?;
            Ok((table.address.get_ref().clone(), InstanceWords { zone: self.zone(), own }))
        });
        let instances = beside.collect::<Result<_, ConfigError>>()?;
        Ok(AgentWords { group, instances })
    }

    /// The words of one table, where rows can show them.
    fn checked(
        &self,
        tags: &Option<Spanned<Vec<String>>>,
        meta: &Option<Spanned<BTreeMap<String, String>>>,
        weights: &Option<Spanned<WeightsTable>>,
    ) -> Result<Words, ConfigError> {
        let weights_of = |table: &WeightsTable| {
            let usual = Weights::default();
            let WeightsTable { passing, warning } = table;
            let or = |given: &Option<u16>, usual| given.unwrap_or(usual);
            Weights { passing: or(passing, usual.passing), warning: or(warning, usual.warning) }
        };
        let one = Words {
            tags: tags.as_ref().map(|tags| tags.get_ref().clone()).unwrap_or_default(),
            ..Words::default()
        };
        let refuse = |at: usize| {
            move |error: WordsError| self.source.contradiction_at(at, error.to_string())
        };
        let start = |span: Option<std::ops::Range<usize>>| span.map_or(0, |span| span.start);
        let at_tags = start(tags.as_ref().map(Spanned::span));
        one.check().map_err(refuse(at_tags))?;
        let two = Words {
            meta: meta.as_ref().map(|meta| meta.get_ref().clone()).unwrap_or_default(),
            ..one
        };
        let at_meta = start(meta.as_ref().map(Spanned::span));
        two.check().map_err(refuse(at_meta))?;
        let weights_at = start(weights.as_ref().map(Spanned::span));
        let all =
            Words { weights: weights.as_ref().map(|table| weights_of(table.get_ref())), ..two };
        all.check().map_err(refuse(weights_at))?;
        Ok(all)
    }

    /// The service that a group is published as: its own name, unless another one is given.
    fn service(
        &self,
        flag: &GroupFlag,
        table: Option<&GroupTable>,
    ) -> Result<ServiceName, ConfigError> {
        let in_file = || table?.service.as_ref().map(|service| service.get_ref().clone());
        if let Some(service) = flag.service.clone().or_else(in_file) {
            return Ok(service);
        }
        flag.name.as_str().parse().map_err(|_| {
            let what = format!(
                "group `{0}` needs a service name, for DNS has none like it: \
                 write service = \"...\" or --group {0}=SERVICE",
                flag.name
            );
            match table {
                Some(table) => self.source.contradiction(&table.name, what),
                None => ConfigError::Usage(what),
            }
        })
    }

    /// Two groups that publish one service, or take the Sentinels' names, would answer for each other.
    fn refuse_collisions(&self, groups: &[GroupConfig]) -> Result<(), ConfigError> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        owners.insert(sentinel_rows::SERVICE.to_owned(), "the Sentinels".to_owned());
        let mut nodes: BTreeMap<String, String> = BTreeMap::new();
        for group in groups {
            let policy = &group.policy;
            let place = |what: String| {
                let table = self.file.group.iter().find(|t| t.name.get_ref() == &policy.group);
                match table {
                    Some(table) => self.source.contradiction(&table.name, what),
                    None => ConfigError::Usage(what),
                }
            };
            if policy.group.as_str().eq_ignore_ascii_case("sentinels") {
                return Err(place(
                    "no group can be called `sentinels`: its node would be the \
                                  Sentinels' own"
                        .to_owned(),
                ));
            }
            // Consul compares names without their case.
            let owner = format!("group `{}`", policy.group);
            for service in policy.service.all() {
                if let Some(other) = owners.insert(service.to_ascii_lowercase(), owner.clone()) {
                    return Err(place(format!(
                        "{other} and {owner} would both publish as `{service}`"
                    )));
                }
            }
            let node = group.layout.node();
            if let Some(other) = nodes.insert(node.to_ascii_lowercase(), owner.clone()) {
                return Err(place(format!("{other} and {owner} would both be on node `{node}`")));
            }
        }
        Ok(())
    }

    /// Which group each Redis of this host belongs to.
    pub(super) fn places(
        &self,
        wanted: &[GroupFlag],
    ) -> Result<Vec<ConfiguredInstance<'_>>, ConfigError> {
        let place = |table| Ok(ConfiguredInstance { table, group: self.group_of(table, wanted)? });
        self.file.redis.iter().filter(|table| table.cluster.is_none()).map(place).collect()
    }

    fn group_of(&self, table: &RedisTable, wanted: &[GroupFlag]) -> Result<GroupName, ConfigError> {
        match (&table.group, wanted) {
            (Some(name), _) if wanted.iter().any(|flag| &flag.name == name.get_ref()) => {
                Ok(name.get_ref().clone())
            }
            (Some(name), _) => {
                let what = format!(
                    "group `{}` is not configured: add [[group]] name = \"{0}\"",
                    name.get_ref()
                );
                Err(self.source.contradiction(name, what))
            }
            (None, [only]) => Ok(only.name.clone()),
            (None, _) => {
                let address = table.address.get_ref();
                let what = format!("{address} must say its group, for there are several");
                Err(self.source.contradiction(&table.address, what))
            }
        }
    }

    pub(super) fn local_redis(
        &self,
        places: &[ConfiguredInstance<'_>],
        groups: &[GroupConfig],
    ) -> Vec<LocalRedis> {
        let local = |place: &ConfiguredInstance<'_>| {
            let group = groups.iter().find(|group| group.policy.group == place.group)?;
            Some(LocalRedis {
                address: place.table.address.get_ref().clone(),
                group: place.group.clone(),
                service: group.policy.service.server(),
                check_interval: place.table.check_interval.map_or(DEFAULT_CHECK_INTERVAL, |s| s.0),
                forgotten_after: None,
            })
        };
        places.iter().filter_map(local).collect()
    }

    pub(super) fn local_sentinels(&self) -> Vec<LocalSentinel> {
        let local = |table: &SentinelTable| LocalSentinel {
            address: table.address.get_ref().clone(),
            check_interval: table.check_interval.map_or(DEFAULT_CHECK_INTERVAL, |s| s.0),
            forgotten_after: None,
        };
        self.file.sentinel.iter().map(local).collect()
    }
}

fn apply(policy: &mut Policy, table: &GroupTable) {
    let ms = |span: Option<Span>, default: u64| span.map_or(default, Span::as_ms);
    policy.publish = table.publish.unwrap_or(policy.publish);
    policy.confirm_within_ms = ms(table.confirm_within, policy.confirm_within_ms);
    policy.replica_lag_max_ms = ms(table.replica_lag_max, policy.replica_lag_max_ms);
    policy.forget_after_ms = ms(table.forget_after, policy.forget_after_ms);
    policy.forget_sentinels_after_ms =
        ms(table.forget_sentinels_after, policy.forget_sentinels_after_ms);
    if table.manage == Some(false) {
        policy.leave_alone();
    }
    policy.forget_ghosts = table.forget_ghosts.unwrap_or(policy.forget_ghosts);
    policy.bootstrap = table.bootstrap.unwrap_or(policy.bootstrap);
    policy.expect = table.expect.map(usize::from);
    policy.bootstrap_wait_ms = ms(table.bootstrap_wait, policy.bootstrap_wait_ms);
    policy.hold_when_cut_off = table.hold_when_cut_off.unwrap_or(policy.hold_when_cut_off);
    policy.fence = table.fence.unwrap_or(policy.fence);
    policy.replace_emptied = table.replace_emptied.unwrap_or(policy.replace_emptied);
    policy.fast_failover = table.fast_failover.unwrap_or(policy.fast_failover);
    policy.hold_writes = table.hold_writes.unwrap_or(policy.hold_writes);
    policy.tell_sentinels = table.tell_sentinels.unwrap_or(policy.tell_sentinels);
    policy.relay = table.relay.unwrap_or(policy.relay);
    policy.announce = table.announce.as_ref().map_or(policy.announce, |a| *a.get_ref());
    policy.mark.clone_from(&table.mark);
    policy.settings = wanted(&table.settings);
}

fn wanted(table: &SettingsTable) -> WantedSettings {
    WantedSettings {
        quorum: table.quorum.map(|quorum| match quorum {
            Quorum::Auto => WantedQuorum::Auto,
            Quorum::Fixed(quorum) => WantedQuorum::Fixed(quorum),
        }),
        down_after_ms: table.down_after.map(Span::as_ms),
        failover_timeout_ms: table.failover_timeout.map(Span::as_ms),
        parallel_syncs: table.parallel_syncs,
        reboot_down_after_ms: table.reboot_down_after.map(Span::as_ms),
    }
}
