//! Where agents put replicas: not in the zone of their primary where another choice is as good otherwise.

use super::*;
use consul_redis_core::cluster::claims::{Joining, Making};

impl World {
    /// The zone that the agent beside a node has said.
    fn zone_at(&self, address: &Address) -> Option<Zone> {
        let store = self.store(&self.consul, Mono(self.now));
        store.announced.get(address)?.zone.clone()
    }

    /// What was begun with this change.
    pub(super) fn check_places(&mut self, before: Option<&ClusterRecord>, now: &ClusterRecord) {
        let (old, new) = (before.map(|record| &record.claims), &now.claims);
        if self.zones.is_empty() {
            return;
        }
        let making = new.making.as_ref().filter(|_| old.is_none_or(|old| old.making.is_none()));
        if let Some(making) = making {
            self.counts.note("made over zones");
            self.check_plan(making);
        }
        let joining = new.joining.as_ref().filter(|_| old.is_none_or(|old| old.joining.is_none()));
        if let Some(joining) = joining {
            self.counts.note("joined over zones");
            self.check_join(joining, now);
        }
    }

    /// No two replicas could change places so that both are elsewhere than their primaries.
    fn check_plan(&mut self, making: &Making) {
        let zone = |at: &Address| self.zone_at(at);
        let mut replicas = Vec::new();
        for (index, shard) in making.shards.iter().enumerate() {
            let led = zone(&shard.primary.address);
            let of = |at: &Address| (index, led.clone(), zone(at));
            replicas.extend(shard.replicas.iter().map(|node| of(&node.address)));
        }
        let beside = |led: &Option<Zone>, own: &Option<Zone>| own.is_some() && led == own;
        let mut forced = 0;
        for (shard, led, own) in replicas.iter().filter(|(_, led, own)| beside(led, own)) {
            forced += 1;
            let better = |(other, its_led, its_own): &&(usize, Option<Zone>, Option<Zone>)| {
                other != shard && !beside(led, its_own) && !beside(its_led, own)
            };
            if replicas.iter().any(|other| better(&other)) {
                let what =
                    format!("a replica is planned in its primary's zone {own:?}: {making:?}");
                return self.break_with(what);
            }
        }
        self.counts
            .0
            .entry("planned in the primary's zone")
            .and_modify(|n| *n += forced)
            .or_insert(forced);
    }

    /// No other shard that has as few replicas is led elsewhere.
    fn check_join(&mut self, joining: &Joining, record: &ClusterRecord) {
        let Some(own) = self.zone_at(&joining.node.address) else { return };
        let replicas = |shard: u32| {
            let follows = |node: &&consul_redis_core::cluster::record::NodeRecord| {
                node.shard == Some(shard) && node.role == Some(ClusterRole::Replica)
            };
            record.nodes.values().filter(follows).count()
        };
        let led = |shard: u32| {
            let owner = record.nodes.get(&record.shards.get(&shard)?.owner)?;
            owner.zone.clone()
        };
        let mine = joining.shard;
        if led(mine).as_ref() != Some(&own) {
            return self.counts.note("joined elsewhere than the primary");
        }
        self.counts.note("joined in the primary's zone");
        let equal = |shard: &u32| {
            *shard != mine
                && replicas(*shard) == replicas(mine)
                && led(*shard).is_some_and(|zone| zone != own)
        };
        if let Some(other) = record.shards.keys().find(|shard| equal(shard)) {
            let what = format!(
                "{} joins shard {mine}, which is led in its zone {own}, and shard {other} needs it as much",
                joining.node.address
            );
            self.break_with(what);
        }
    }
}
