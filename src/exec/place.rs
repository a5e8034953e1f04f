//! What a Redis follows when it is started. It never starts as a primary.
//!
//! It is the first thing that can go wrong: a primary that comes back without its data would empty all others that
//! still follow it. So it follows the published writer, where that is another one and following it can delete nothing,
//! and otherwise starts detached ([`is_detached_address`](crate::core::published::projection::is_detached_address)),
//! until the agents give it its place.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::duty::sentinels::DEFAULT_SETTINGS;
use crate::core::identity::address::Address;
use crate::core::known::observed::Role;
use crate::core::published::projection::{detached_address, is_detached_address};
use crate::core::published::record::Record;
use crate::exec::blank::are_all_blank;
use crate::exec::data_files::DataFiles;
use crate::exec::membership::Membership;
use crate::instance::probe;
use crate::redis_link::Link;

/// How long Consul may take to say which instance is the writer.
const CONSUL_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at what is published.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a failover may take, from when the Sentinels notice.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(15);

/// What is published, and what it means for this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartRole {
    /// Another one is the writer, and this one may follow it at once.
    Behind(Address),
    /// Detached: Consul shows no writer to follow, or the agents have to look at its data first.
    Nowhere(&'static str),
    /// It was the writer itself, and others are in sync: the Sentinels are about to replace it.
    BeingReplaced {
        /// Those others.
        by: Vec<Address>,
        /// Its files hold what the last writer wrote: it wrote that itself.
        wrote_last: bool,
    },
}

/// What lies on the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Data that the server will read, or that a copy of another one's would overwrite.
    pub holds_data: bool,
    /// What that was last a part of, where it was noted.
    pub membership: Option<Membership>,
}

impl Volume {
    fn look(files: &DataFiles) -> Self {
        Self { holds_data: files.holds_any(), membership: Membership::read(files.dir()) }
    }
}

/// Which instance a Redis follows when it starts, by the record and its volume.
pub fn place(record: Option<&Record>, own: &Address, volume: &Volume) -> StartRole {
    let Some(record) = record else { return StartRole::Nowhere("nothing is published") };
    let noted = volume.membership.as_ref().is_some_and(|membership| membership.is_of(record));
    let is_member = record.role_of(own).is_some() || noted;
    let last = record.last_writer.as_ref().map(|writer| &writer.address);
    match (record.writer_address(), last) {
        // A member's data is the group's own; that of a stranger is looked at by the agents first.
        (Some(writer), _) if writer != own => match !volume.holds_data || is_member {
            true => StartRole::Behind(writer.clone()),
            false => StartRole::Nowhere("its data has to be looked at first"),
        },
        (_, Some(last)) if last == own => {
            let by: Vec<Address> =
                record.replicas().filter(|other| *other != own).cloned().collect();
            let wrote_last = volume.membership.as_ref().is_some_and(|m| m.wrote_last(record));
            match by.is_empty() {
                true => {
                    StartRole::Nowhere("it was the last writer, and no other instance is in sync")
                }
                false => StartRole::BeingReplaced { by, wrote_last },
            }
        }
        _ => StartRole::Nowhere("there is no writer"),
    }
}

/// Finds out which address the instance is to follow; waits while the Sentinels replace it, as they do with a primary
/// that is down. Started before that, it would answer them, and they take 20 s and more to see that it is no primary.
pub async fn find(
    config: &Config,
    group: &GroupConfig,
    consul: &Consul,
    own: &Address,
    files: &DataFiles,
) -> Address {
    let clock = Clock::start();
    let volume = Volume::look(files);
    let down_after = group.policy.settings.down_after_ms.unwrap_or(DEFAULT_SETTINGS.down_after_ms);
    let patience = Instant::now() + Duration::from_millis(down_after) + FAILOVER_TIMEOUT;
    let mut said = false;
    let mut until = Instant::now() + CONSUL_TIMEOUT;
    loop {
        let wait = match read(group, consul, &clock, until).await {
            Err(error) => {
                warn!(
                    "starts detached, for Consul does not say which instance is the writer: {error}"
                );
                return detached_address();
            }
            Ok(Some(record)) if is_anothers(&record, group) => {
                StartRole::Nowhere("the group belongs to another installation")
            }
            Ok(record) => match (place(record.as_ref(), own, &volume), record) {
                (StartRole::BeingReplaced { .. }, Some(record))
                    if are_all_blank(config, group, consul, &record).await =>
                {
                    StartRole::Nowhere("it was the last writer, and no Sentinel knows the group")
                }
                (place, _) => place,
            },
        };
        match wait {
            StartRole::Behind(writer) => {
                info!("starts as a replica of the writer, {writer}");
                return writer;
            }
            // All were stopped: none of the others has run on, and none can have more.
            StartRole::BeingReplaced { by, wrote_last: true } if !any_runs_on(group, &by).await => {
                info!("starts detached: it was the last writer, and the others were stopped, too");
                return detached_address();
            }
            StartRole::BeingReplaced { .. } if Instant::now() < patience => {
                if !said {
                    info!("was the writer: starts when the Sentinels have replaced it, or cannot");
                    said = true;
                }
            }
            StartRole::BeingReplaced { .. } => {
                warn!("starts detached: no instance has taken its place as the writer");
                return detached_address();
            }
            StartRole::Nowhere(why) => {
                info!("starts detached: {why}");
                return detached_address();
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        until = Instant::now() + CONSUL_TIMEOUT;
    }
}

/// An installation is recorded, and it is not ours.
fn is_anothers(record: &Record, group: &GroupConfig) -> bool {
    record.installation.is_some() && record.installation != group.policy.installation
}

/// Some of these instances answer and are in their places: they were not started anew, detached.
async fn any_runs_on(group: &GroupConfig, others: &[Address]) -> bool {
    let runs_on = |address| async move {
        let Ok(mut link) = Link::open(address, &group.login).await else { return false };
        let answer = probe(&mut link).await;
        answer.is_ok_and(|answer| match answer.role {
            Role::Replica { of, .. } => !is_detached_address(&of),
            Role::Primary { .. } => true,
        })
    };
    futures_util::future::join_all(others.iter().map(runs_on)).await.contains(&true)
}

/// Reads what is published, again until `until` while Consul does not answer.
async fn read(
    group: &GroupConfig,
    consul: &Consul,
    clock: &Clock,
    until: Instant,
) -> Result<Option<Record>, String> {
    loop {
        let read = consul.group(&group.layout, ReadMode::Consistent, clock);
        let error = match tokio::time::timeout_at(until, read).await {
            Ok(Ok(answer)) => return Ok(answer.value.record().cloned()),
            Ok(Err(error)) if error.is_refusal() => return Err(error.to_string()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => return Err(format!("no answer within {} s", CONSUL_TIMEOUT.as_secs())),
        };
        if Instant::now() + LOOK_EVERY >= until {
            return Err(error);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::known::observed::ReplId;
    use crate::core::published::record::decode;

    const OWN: &str = "10.0.0.1:6379";
    const OTHER: &str = "10.0.0.2:6379";

    /// A record as an agent writes it.
    fn record(writer: Option<&str>, last: &str, instances: &[(&str, &str)]) -> Record {
        let writer_of = |address: &str| serde_json::json!({"address": address, "replid": "a"});
        let rows =
            instances.iter().map(|(a, role)| serde_json::json!({"address": a, "role": role}));
        let json = serde_json::json!({
            "v": 1, "group": "redis", "service": "redis", "generation": 7, "nonce": "n", "by": "x",
            "writer": writer.map(writer_of), "last_writer": writer_of(last),
            "evidence": {"level": "quorum", "config_epoch": 1, "confirmed_epoch": 1, "votes": 3,
                         "known": 3, "sentinel": null},
            "since": "2026-01-01T00:00:00Z", "why": "w",
            "instances": rows.collect::<Vec<_>>(), "sentinels": [], "lineage": [], "claim": null,
        });
        decode(json.to_string().as_bytes()).unwrap()
    }

    fn placed(record: Option<&Record>, holds_data: bool) -> StartRole {
        place(record, &OWN.parse().unwrap(), &Volume { holds_data, membership: None })
    }

    #[test]
    fn data_that_was_noted_as_the_group_s_own_needs_no_look() {
        let at = |replid: &str, group: &str| {
            let (group, replid) = (group.parse().unwrap(), ReplId(replid.to_owned()));
            let membership = Some(Membership { group, replid, led: false, explained: None });
            Volume { holds_data: true, membership }
        };
        let mut record = record(Some(OTHER), OTHER, &[(OTHER, "primary")]);
        record.lineage = vec![ReplId("new".to_owned()), ReplId("old".to_owned())];
        let placed = |volume: &Volume| place(Some(&record), &OWN.parse().unwrap(), volume);
        let behind = StartRole::Behind(OTHER.parse().unwrap());
        assert_eq!(placed(&at("old", "redis")), behind, "at another address than before");
        assert!(matches!(placed(&at("foreign", "redis")), StartRole::Nowhere(_)));
        assert!(matches!(placed(&at("old", "other")), StartRole::Nowhere(_)));
    }

    #[test]
    fn another_writer_is_followed_where_that_can_delete_nothing() {
        let behind = StartRole::Behind(OTHER.parse().unwrap());
        let member = record(Some(OTHER), OTHER, &[(OTHER, "primary"), (OWN, "down")]);
        assert_eq!(placed(Some(&member), true), behind);
        let stranger = record(Some(OTHER), OTHER, &[(OTHER, "primary")]);
        assert_eq!(placed(Some(&stranger), false), behind);
        assert!(matches!(placed(Some(&stranger), true), StartRole::Nowhere(_)));
    }

    #[test]
    fn the_last_writer_waits_for_its_successor_where_there_can_be_one() {
        for writer in [Some(OWN), None] {
            let alone = record(writer, OWN, &[(OWN, "primary"), (OTHER, "down")]);
            assert!(matches!(placed(Some(&alone), true), StartRole::Nowhere(_)), "{writer:?}");
            let others = record(writer, OWN, &[(OWN, "primary"), (OTHER, "replica")]);
            let wait = |wrote_last| {
                let by = vec![OTHER.parse().unwrap()];
                StartRole::BeingReplaced { by, wrote_last }
            };
            assert_eq!(placed(Some(&others), true), wait(false), "{writer:?}");
            // Its note says that it wrote the last history itself, or an earlier one.
            for (replid, led, wrote_last) in
                [("a", true, true), ("a", false, false), ("b", true, false)]
            {
                let (group, replid) = ("redis".parse().unwrap(), ReplId(replid.to_owned()));
                let membership = Some(Membership { group, replid, led, explained: None });
                let volume = Volume { holds_data: true, membership };
                let found = place(Some(&others), &OWN.parse().unwrap(), &volume);
                assert_eq!(found, wait(wrote_last), "{writer:?}");
            }
        }
    }

    #[test]
    fn without_a_writer_it_starts_detached() {
        assert!(matches!(placed(None, false), StartRole::Nowhere(_)));
        let gone = record(None, OTHER, &[(OTHER, "down"), (OWN, "replica")]);
        assert!(matches!(placed(Some(&gone), true), StartRole::Nowhere(_)));
    }
}
