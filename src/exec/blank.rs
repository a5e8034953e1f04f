//! Sentinels that were all made anew: none of them replaces a primary that it does not know.

use std::collections::BTreeSet;

use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::identity::address::Address;
use crate::core::known::observed::{SentinelAnswer, SentinelId};
use crate::core::published::record::Record;
use crate::dns::Names;
use crate::redis_link::{Link, LinkError};
use crate::sentinel::pool::find;
use crate::sentinel::query;

/// As many Sentinels answer as the group has, and none of them knows it.
pub async fn are_all_blank(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    record: &Record,
) -> bool {
    let names = Names::new(config.resolver);
    let (found, _) = find(&config.sources, &names, consul).await;
    let all: BTreeSet<&Address> = found.keys().chain(&record.sentinels).collect();
    let asks = all.into_iter().map(|at| ask(config, group, at));
    let answers = futures_util::future::join_all(asks).await;
    let answers: Vec<SentinelAnswer> = answers.into_iter().filter_map(Result::ok).collect();
    let ids: BTreeSet<&SentinelId> = answers.iter().map(|answer| &answer.id).collect();
    ids.len() >= record.evidence.known && answers.iter().all(|answer| answer.group.is_none())
}

async fn ask(
    config: &Config,
    group: &GroupConfig,
    at: &Address,
) -> Result<SentinelAnswer, LinkError> {
    let mut link = Link::open(at, &config.sentinel_login).await?;
    let identity = query::identity(&mut link).await?;
    query::ask(&mut link, &identity, &group.policy.group).await
}
