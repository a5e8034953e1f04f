//! The groups, and which of their servers are this host's.

use std::collections::BTreeMap;

use super::Resolver;
use crate::cli::GroupFlag;
use crate::config::file::{GroupTable, Quorum, SentinelTable, SettingsTable, Span};
use crate::config::{
    ConfigError, DEFAULT_CHECK_INTERVAL, DEFAULT_GROUP, GroupConfig, LocalRedis, LocalSentinel,
    SentinelAuth, auth_of,
};
use crate::core::address::{GroupName, NameError, ServiceName};
use crate::core::policy::{Policy, WantedQuorum, WantedSettings};
use crate::core::projection::Layout;
use crate::core::sentinel_rows;
use crate::redis_link::LinkSettings;
use crate::secret::SecretSource;

impl Resolver<'_> {
    pub(super) fn groups(
        &self,
        prefix: &str,
        login: &LinkSettings,
    ) -> Result<Vec<GroupConfig>, ConfigError> {
        let mut seen: BTreeMap<&GroupName, ()> = BTreeMap::new();
        for table in &self.file.group {
            if seen.insert(table.name.get_ref(), ()).is_some() {
                let what = format!("group `{}` is there twice", table.name.get_ref());
                return Err(self.source.contradiction(&table.name, what));
            }
        }
        let in_file =
            |name: &GroupName| self.file.group.iter().find(|table| table.name.get_ref() == name);
        let mut groups = Vec::new();
        for flag in &self.common.group {
            groups.push(self.group(prefix, login, flag, in_file(&flag.name))?);
        }
        if self.common.group.is_empty() {
            for table in &self.file.group {
                let flag = GroupFlag { name: table.name.get_ref().clone(), service: None };
                groups.push(self.group(prefix, login, &flag, Some(table))?);
            }
        }
        if groups.is_empty() {
            let name: GroupName =
                DEFAULT_GROUP.parse().map_err(|e: NameError| ConfigError::Usage(e.to_string()))?;
            groups.push(self.group(prefix, login, &GroupFlag { name, service: None }, None)?);
        }
        self.refuse_collisions(&groups)?;
        Ok(groups)
    }

    fn group(
        &self,
        prefix: &str,
        login: &LinkSettings,
        flag: &GroupFlag,
        table: Option<&GroupTable>,
    ) -> Result<GroupConfig, ConfigError> {
        let service =
            match flag.service.clone().or_else(|| {
                table.and_then(|table| table.service.as_ref()).map(|s| s.get_ref().clone())
            }) {
                Some(service) => service,
                None => flag.name.as_str().parse::<ServiceName>().map_err(|_| {
                    let what = format!(
                        "group `{0}` needs a service name, for DNS has none like it: \
                     write service = \"...\" or --group {0}=SERVICE",
                        flag.name
                    );
                    table.map_or_else(
                        || ConfigError::Usage(what.clone()),
                        |table| self.source.contradiction(&table.name, what.clone()),
                    )
                })?,
            };
        let mut policy = Policy::new(flag.name.clone(), service, "", "");
        if let Some(table) = table {
            apply(&mut policy, table);
        }
        if let Some(level) = self.common.publish {
            policy.publish = level;
        }
        let login = match table {
            Some(table) => self.login(table.login.as_ref(), login.clone())?,
            None => login.clone(),
        };
        let settings = table.map(|table| &table.settings);
        let sentinel_auth = match settings.and_then(|s| s.auth_password_file.clone()) {
            Some(file) => SentinelAuth {
                username: settings.and_then(|s| s.auth_user.clone()),
                password: SecretSource::File(file),
            },
            None => auth_of(&login),
        };
        Ok(GroupConfig { layout: Layout::new(prefix, &flag.name), policy, login, sentinel_auth })
    }

    /// Two groups that publish one service, or take the Sentinels' names, would answer for each other.
    fn refuse_collisions(&self, groups: &[GroupConfig]) -> Result<(), ConfigError> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        owners.insert(sentinel_rows::SERVICE.to_owned(), "the Sentinels".to_owned());
        for group in groups {
            let policy = &group.policy;
            let place = |what: String| {
                let table = self.file.group.iter().find(|t| t.name.get_ref() == &policy.group);
                match table {
                    Some(table) => self.source.contradiction(&table.name, what),
                    None => ConfigError::Usage(what),
                }
            };
            if policy.group.as_str() == "sentinels" {
                return Err(place(
                    "no group can be called `sentinels`: its node would be the \
                                  Sentinels' own"
                        .to_owned(),
                ));
            }
            for service in policy.service.all() {
                let owner = format!("group `{}`", policy.group);
                if let Some(other) = owners.insert(service.clone(), owner.clone()) {
                    return Err(place(format!(
                        "{other} and {owner} would both publish as `{service}`"
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn local_redis(
        &self,
        groups: &[GroupConfig],
    ) -> Result<Vec<LocalRedis>, ConfigError> {
        let mut all = Vec::new();
        for table in &self.file.redis {
            let group = match &table.group {
                Some(name) => {
                    groups.iter().find(|g| &g.policy.group == name.get_ref()).ok_or_else(|| {
                        let what = format!(
                            "group `{}` is not configured: add [[group]] name = \"{0}\"",
                            name.get_ref()
                        );
                        self.source.contradiction(name, what)
                    })?
                }
                None => match groups {
                    [only] => only,
                    _ => {
                        let what = format!(
                            "{} must say its group, for there are several",
                            table.address.get_ref()
                        );
                        return Err(self.source.contradiction(&table.address, what));
                    }
                },
            };
            all.push(LocalRedis {
                address: table.address.get_ref().clone(),
                group: group.policy.group.clone(),
                service: group.policy.service.server(),
                check_interval: table.check_interval.map_or(DEFAULT_CHECK_INTERVAL, |s| s.0),
                forgotten_after: None,
            });
        }
        Ok(all)
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
    policy.hold_writes = table.hold_writes.unwrap_or(policy.hold_writes);
    policy.tell_sentinels = table.tell_sentinels.unwrap_or(policy.tell_sentinels);
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
    }
}
