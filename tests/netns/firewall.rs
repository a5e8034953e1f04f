//! A firewall on the primary's host resets connections to its Redis: what refuses them is not the server.

use std::time::Duration;

use consul_redis::core::identity::address::Address;
use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::redis_link::fields;

use crate::hosts::{Hosts, HostsSpec};
use crate::readers::Readers;

/// What the Sentinels wait for by themselves, in ms: longer than any of these tests.
const PATIENT_MS: u64 = 120_000;

async fn start() -> (Hosts, Address) {
    let spec =
        HostsSpec { down_after_ms: PATIENT_MS, hold_when_cut_off: true, ..HostsSpec::default() };
    let hosts = Hosts::start(spec).await;
    let writer = hosts.until_writer(&[0], None).await;
    (hosts, writer)
}

/// It is as dead for all: the Sentinels vote at once, and it is made a replica as soon as it is reached again.
#[tokio::test]
async fn where_it_rejects_all_the_sentinels_vote_at_once_and_there_is_one_writer() {
    let (hosts, old) = start().await;
    let (host, readers) = (hosts.of(&old), Readers::start(&hosts));
    let others = hosts.others(host);
    hosts.reject(host, &[0, 1, 2]);
    let new = hosts.until_writer(&others, Some(&old)).await;
    hosts.let_in(host);
    hosts.until_follows(host, &new).await;
    hosts.until_settled(&[0, 1, 2], &new, Some(PATIENT_MS)).await;
    let told = readers.stop().await;
    told.never_two();
    told.never_back_from(&new, &others);
}

/// The agent beside it finds it alive: the Sentinels are told to wait as before, and it stays.
#[tokio::test]
async fn where_it_rejects_all_others_the_agent_beside_it_speaks_for_the_writer() {
    let (hosts, writer) = start().await;
    let host = hosts.of(&writer);
    let others = hosts.others(host);
    hosts.reject(host, &others);
    until("it seems to be dead", Duration::from_secs(20), || async {
        let logs: Vec<String> = others.iter().map(|other| hosts.agent_log(*other)).collect();
        let said = logs.iter().any(|log| log.contains("seems to be dead (refused)"));
        if said { Ok(()) } else { Err(LabError(logs.concat())) }
    })
    .await
    .unwrap();
    until("the Sentinels wait as before", Duration::from_secs(20), || async {
        for host in &hosts.all {
            let answer = host.sentinel.ask(&["SENTINEL", "MASTER", "redis"]).await?;
            let now = fields(&answer).map_err(LabError)?["down-after-milliseconds"].to_string();
            if now != PATIENT_MS.to_string() {
                return Err(LabError(format!("{}: {now}", host.name)));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    hosts.let_in(host);
    hosts.until_settled(&[0, 1, 2], &writer, Some(PATIENT_MS)).await;
    assert_eq!(hosts.until_writer(&[host], None).await, writer);
}

/// For the others it is not: it stays, and nothing changes for the Sentinels.
#[tokio::test]
async fn where_it_rejects_one_other_host_the_writer_stays() {
    let (hosts, writer) = start().await;
    let host = hosts.of(&writer);
    let other = hosts.others(host)[0];
    hosts.reject(host, &[other]);
    until("its agent says why it is left to the Sentinels", Duration::from_secs(20), || async {
        let log = hosts.agent_log(other);
        let said = log.contains("refuses connections, and it is left to the Sentinels: ")
            && log.contains(" of 3 agents are refused");
        if said { Ok(()) } else { Err(LabError(log)) }
    })
    .await
    .unwrap();
    assert_eq!(hosts.until_writer(&[host], None).await, writer);
    hosts.let_in(host);
    hosts.until_settled(&[0, 1, 2], &writer, Some(PATIENT_MS)).await;
}
