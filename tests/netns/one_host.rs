//! Any one of three hosts is lost, with all that runs on it: Consul, Redis, Sentinel and agent.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::clients::NameWriter;
use consul_redis::lab::wait::until;
use consul_redis::redis_link::{LinkSettings, text};

use crate::hosts::{Hosts, HostsSpec};
use crate::readers::Readers;

/// The least that is worth using (`docs/facts/sentinel.md` 6): what counts here is who is lost, not how soon it shows.
const DOWN_AFTER_MS: u64 = 1_500;
/// How long writes through the name may fail once a host is lost: Sentinel's failover and Consul's new leader.
const WRITES_AGAIN: Duration = Duration::from_secs(30);

/// A client that asks one host's Consul for the writer each time.
fn client(hosts: &Hosts, at: usize) -> NameWriter {
    NameWriter {
        names: hosts.all[at].consul.names().expect("a DNS client"),
        name: "redis-primary.service.consul".to_owned(),
        port: hosts.all[at].redis.address.port(),
        login: LinkSettings::default(),
    }
}

/// Writes through the name, as each of these hosts tells it, reach a Redis that is not the lost one.
async fn until_written(hosts: &Hosts, survivors: &[usize], value: &str) {
    for survivor in survivors {
        let client = client(hosts, *survivor);
        let what = format!("a write through the name at {}", hosts.all[*survivor].name);
        until(&what, WRITES_AGAIN, || async {
            let by = client.write(value).await?;
            let known = survivors.iter().any(|at| hosts.all[*at].redis.address == by);
            if known { Ok(()) } else { Err(LabError(format!("{by} acknowledged it"))) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn losing_any_one_host_leaves_a_writer_and_it_joins_again_by_itself() {
    let spec =
        HostsSpec { down_after_ms: DOWN_AFTER_MS, hold_when_cut_off: true, ..HostsSpec::default() };
    let mut hosts = Hosts::start(spec).await;
    let readers = Readers::start(&hosts);
    let mut moves = 0;
    for lost in 0..hosts.all.len() {
        let survivors = hosts.others(lost);
        let before = hosts.until_writer(&survivors, None).await;
        let was_writer = hosts.all[lost].redis.address == before;
        hosts.cut(lost);
        hosts.kill(lost);
        let gone = was_writer.then_some(&before);
        let writer = hosts.until_writer(&survivors, gone).await;
        until_written(&hosts, &survivors, &format!("without host {lost}")).await;
        if was_writer {
            moves += 1;
        } else {
            assert_eq!(writer, before, "it stays on a writer that lives");
        }
        hosts.heal(lost);
        hosts.boot_again(lost).await;
        hosts.until_settled(&[0, 1, 2], &writer, Some(DOWN_AFTER_MS)).await;
        until_written(&hosts, &[0, 1, 2], &format!("with host {lost} again")).await;
    }
    assert!(moves > 0, "the writer's host was never lost");
    let told = readers.stop().await;
    told.never_two();
    for host in &hosts.all {
        until("the last write is everywhere", Duration::from_secs(10), || async {
            let kept = text(&host.redis.ask(&["GET", "consul-redis"]).await?).map_err(LabError)?;
            if kept == "with host 2 again" { Ok(()) } else { Err(LabError(kept)) }
        })
        .await
        .unwrap();
    }
}
