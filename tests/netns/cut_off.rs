//! The primary's host loses its network while clients on that very host go on writing.

use std::time::Duration;

use tokio::time::Instant;

use crate::hosts::{Hosts, HostsSpec};
use crate::promises::{self, HELD_DOWN_AFTER_MS as DOWN_AFTER_MS};
use crate::readers::Readers;
use crate::shared_writers::{Done, Kind, lost};
use crate::writers;

/// What has been acknowledged and is on its way to a client when the hold comes is received a little later.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// For how long the host stays cut off once the other writer is published: what its clients do then is looked at.
const STAYS_CUT_OFF: Duration = Duration::from_secs(1);

/// What became of the clients on the losing side.
struct Lost {
    cut: Instant,
    published: Instant,
    healed: Instant,
    done: Vec<Done>,
    /// Of the acknowledged writes, those that the new writer does not have.
    lost: usize,
}

impl Lost {
    /// How many writes were acknowledged at or after a moment.
    fn acknowledged_since(&self, kind: Kind, at: Instant) -> usize {
        self.done.iter().filter(|done| done.kind == kind && done.at >= at).count()
    }

    /// The last acknowledged write before a moment, as a time since the cut.
    fn last_before(&self, at: Instant) -> Option<Duration> {
        let mut writes = self.done.iter().filter(|done| done.kind != Kind::Reader);
        writes.rfind(|done| done.at < at).map(|done| done.at.saturating_duration_since(self.cut))
    }
}

/// What happens once another writer is published, and before the network heals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing.
    ItHeals,
    /// All agents but that of the losing host die: it alone must find out who leads.
    TheOtherAgentsDie,
}

/// Cuts the primary's host off, waits until another writer is published, and heals it again; all agents agree in
/// the end.
async fn cut_off_and_heal(hold_when_cut_off: bool, then: Then) -> Lost {
    let spec =
        HostsSpec { down_after_ms: DOWN_AFTER_MS, hold_when_cut_off, ..HostsSpec::default() };
    let mut hosts = Hosts::start(spec).await;
    let old = hosts.until_writer(&[0], None).await;
    let losing = hosts.of(&old);
    let others = hosts.others(losing);
    let (readers, writers) = (Readers::start(&hosts), writers::start(&hosts.all[losing]));
    tokio::time::sleep(Duration::from_secs(1)).await;

    let cut = Instant::now();
    hosts.cut(losing);
    let new = hosts.until_writer(&others, Some(&old)).await;
    if then == Then::TheOtherAgentsDie {
        for other in &others {
            hosts.all[*other].kill_agent();
        }
    }
    tokio::time::sleep(STAYS_CUT_OFF).await;
    let healed = Instant::now();
    hosts.heal(losing);
    hosts.until_follows(losing, &new).await;
    let followed = healed.elapsed();
    hosts.until_settled(&[0, 1, 2], &new, Some(DOWN_AFTER_MS)).await;

    let done = writers.stop();
    let told = readers.stop().await;
    told.never_two();
    told.never_back_from(&new, &others);
    let gone = lost(&done, &new.to_string()).await.len();
    let lost = Lost { cut, published: told.first_named(&new), healed, done, lost: gone };
    println!(
        "published {} ms after the cut, the last write before that {:?} after it; then {} on kept connections, {} on \
         new ones; {} lost; a replica {} ms after it healed",
        (lost.published - cut).as_millis(),
        lost.last_before(lost.published),
        lost.acknowledged_since(Kind::Kept, lost.published),
        lost.acknowledged_since(Kind::New, lost.published),
        lost.lost,
        followed.as_millis(),
    );
    lost
}

#[tokio::test]
async fn an_isolated_primary_acknowledges_nothing_after_the_new_writer_is_published() {
    let lost = cut_off_and_heal(true, Then::ItHeals).await;
    let last = lost.last_before(lost.published).expect("writes before the cut");
    // Without the noise of the machine: what is acknowledged late is lost.
    let most = promises::HELD.exactly() + IN_FLIGHT;
    assert!(last < most, "a write was acknowledged {last:?} after the cut");
    for kind in [Kind::Kept, Kind::New] {
        let before =
            lost.done.iter().filter(|done| done.kind == kind && done.at < lost.cut).count();
        assert!(before > 0, "{kind:?} clients wrote nothing before the cut");
        let after = lost.acknowledged_since(kind, lost.published);
        let healing = lost.acknowledged_since(kind, lost.healed);
        assert_eq!(
            after, 0,
            "{kind:?} writes were acknowledged, {healing} of them after it healed"
        );
    }
    // Reads go on, and come from the losing side all the time.
    let reads = lost.done.iter().filter(|done| done.kind == Kind::Reader);
    let held = reads.filter(|done| done.at > lost.published && done.at < lost.healed).count();
    assert!(held > 100, "{held} reads while writes were held");
}

/// The Sentinels are back at once, Consul only when its servers have elected a leader anew: until both have said who
/// leads, the hold goes on.
#[tokio::test]
async fn a_healed_primary_takes_no_writes_until_it_knows_who_leads() {
    let lost = cut_off_and_heal(true, Then::TheOtherAgentsDie).await;
    for kind in [Kind::Kept, Kind::New] {
        let after = lost.acknowledged_since(kind, lost.published);
        assert_eq!(after, 0, "{kind:?} writes were acknowledged");
    }
}

/// Off when the owner says so, and proof that the test above can fail.
#[tokio::test]
async fn without_the_hold_it_does_acknowledge_writes() {
    let lost = cut_off_and_heal(false, Then::ItHeals).await;
    for kind in [Kind::Kept, Kind::New] {
        let after = lost.acknowledged_since(kind, lost.published);
        assert!(after > 0, "no {kind:?} write was acknowledged after the new writer was published");
    }
    assert!(lost.lost > 0, "what it acknowledged was not lost");
}
