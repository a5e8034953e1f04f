//! `consul-redis maintenance on|off|list [HOST:PORT]`: keeps an instance out of the names, and from being chosen. For a
//! node of a Redis Cluster: `cluster_maintenance`.
//!
//! The key `maintenance` keeps it out of the names, whatever agents there are; its `replica-priority` of 0 keeps
//! Sentinel from choosing it. What it was before stands in the key, so that nothing is lost in between.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use super::cluster_maintenance::cluster_meant;
use super::kept_out::{FOLLOW_MAX, STEP, set, setting, write_kept};
use super::switchover::find_group;
use super::terminal::{self, Progress};
use crate::cli::{MaintenanceArgs, MaintenanceWhat};
use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::Observed;
use crate::core::published::record::PublishedRole;
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::instance::PRIORITY;
use crate::observe::look;

/// Takes an instance out of service, puts it back, or lists those that are out.
///
/// # Errors
/// A [`Failure`] when the instance is the writer, is not known, or does not answer.
pub async fn run(config: Config, args: &MaintenanceArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    if let Some(cluster) = cluster_meant(&config, args, &consul, &clock).await? {
        return cluster.run(args).await;
    }
    let name = only_group(&config)?;
    let group = find_group(&config, &consul, &clock, &name).await?;
    let keeper = Keeper { config: &config, group: &group, consul: &consul, clock, json: args.json };
    match args.what {
        MaintenanceWhat::List => keeper.list().await,
        MaintenanceWhat::On => keeper.on(&instance(&config, args)?).await,
        MaintenanceWhat::Off => keeper.off(&instance(&config, args)?).await,
    }
}

/// The only group of the config.
pub(super) fn only_group(config: &Config) -> Result<GroupName, Failure> {
    match config.groups.as_slice() {
        [only] => Ok(only.policy.group.clone()),
        _ => Err(Failure::new(Exit::Config, "which group? several are configured")
            .hint("name one: --group NAME")),
    }
}

/// The instance that was named, or the only one of this host.
fn instance(config: &Config, args: &MaintenanceArgs) -> Result<Address, Failure> {
    match (&args.instance, config.redis.as_slice()) {
        (Some(named), _) => Ok(named.clone()),
        (None, [only]) => Ok(only.address.clone()),
        (None, _) => Err(Failure::new(Exit::Config, "which instance? name it as HOST:PORT")
            .hint("consul-redis status lists them")),
    }
}

struct Keeper<'a> {
    config: &'a Config,
    group: &'a GroupConfig,
    consul: &'a Consul,
    clock: Clock,
    json: bool,
}

/// Those that are out, for programs.
#[derive(Debug, Serialize)]
struct Out<'a> {
    group: &'a GroupName,
    instances: Vec<OneOut<'a>>,
}

#[derive(Debug, Serialize)]
struct OneOut<'a> {
    address: &'a Address,
    /// The `replica-priority` that it gets back.
    priority_before: u64,
}

/// The instances in maintenance with the priority that each had before, and the ModifyIndex of the key.
type MaintenanceKey = (BTreeMap<Address, u64>, u64);

impl Keeper<'_> {
    async fn look(&self) -> Result<Observed, Failure> {
        let names = Names::new(self.config.resolver);
        Ok(look(self.config, self.group, self.consul, &names, &self.clock).await?.observed)
    }

    fn kept(&self, observed: &Observed) -> Result<MaintenanceKey, Failure> {
        let Some(store) = &observed.store else { return Ok(MaintenanceKey::default()) };
        match &store.maintenance {
            Ok(kept) => Ok((kept.clone(), store.maintenance_index)),
            Err(error) => {
                let key = self.group.layout.maintenance();
                let message = format!("{key} cannot be read: {error}");
                let hint = format!("consul kv delete {key} takes all out of maintenance");
                Err(Failure::new(Exit::Failed, message).hint(hint))
            }
        }
    }

    async fn list(&self) -> Result<(), Failure> {
        let observed = self.look().await?;
        let (kept, _) = self.kept(&observed)?;
        if self.json {
            return self.show(&kept);
        }
        for (address, before) in &kept {
            println!("{address}  in maintenance ({PRIORITY} was {before})");
        }
        if kept.is_empty() {
            println!("{}: none in maintenance", self.group.policy.group);
        }
        Ok(())
    }

    fn show(&self, kept: &BTreeMap<Address, u64>) -> Result<(), Failure> {
        let one = |(address, before): (_, &u64)| OneOut { address, priority_before: *before };
        let instances = kept.iter().map(one).collect();
        println!("{}", terminal::json(&Out { group: &self.group.policy.group, instances })?);
        Ok(())
    }

    /// Prints how a step went, unless JSON is wanted.
    fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// The end of a change.
    fn done(&self, kept: &BTreeMap<Address, u64>, text: &str) -> Result<(), Failure> {
        self.say(text);
        if self.json { self.show(kept) } else { Ok(()) }
    }

    async fn on(&self, instance: &Address) -> Result<(), Failure> {
        let observed = self.look().await?;
        let (mut kept, index) = self.kept(&observed)?;
        let record = observed.record();
        if record.and_then(|record| record.writer_address()) == Some(instance) {
            let hint = format!("consul-redis switchover {} moves it away", self.group.policy.group);
            let message = format!("{instance} is the writer");
            return Err(Failure::new(Exit::Failed, message).hint(hint));
        }
        if !observed.instances.contains_key(instance) {
            let known: Vec<String> = observed.instances.keys().map(ToString::to_string).collect();
            let message = format!("{instance} is no instance of {}", self.group.policy.group);
            let hint = format!("known are: {}", known.join(", "));
            return Err(Failure::new(Exit::Failed, message).hint(hint));
        }
        let before = self.priority(instance).await?;
        // Taken out twice, it goes back to what it was before the first time.
        kept.entry(instance.clone()).or_insert(before);
        self.write(&kept, index).await?;
        self.set_priority(instance, 0).await?;
        self.say("waiting until agents and Sentinels have seen it (up to 10 s)");
        let seen = |observed: &Observed| {
            role(observed, instance) != Some(PublishedRole::Replica)
                && priorities(observed, instance).all(|priority| priority == 0)
        };
        self.until(seen, instance).await?;
        self.done(&kept, &format!("{instance} is out of the names, and will not be chosen"))
    }

    async fn off(&self, instance: &Address) -> Result<(), Failure> {
        let observed = self.look().await?;
        let (mut kept, index) = self.kept(&observed)?;
        let Some(before) = kept.remove(instance) else {
            return self.done(&kept, &format!("{instance} is not in maintenance"));
        };
        let restored = self.set_priority(instance, before).await;
        if let Err(failure) = &restored {
            eprintln!("{}: its {PRIORITY}, {before} before, is still 0", failure.message);
        }
        self.write(&kept, index).await?;
        let rest = match restored {
            Ok(()) => "is back; it answers as a replica once it is in sync",
            Err(_) => "is in maintenance no more; it is in no name while it does not answer",
        };
        self.done(&kept, &format!("{instance} {rest}"))
    }

    async fn write(&self, kept: &BTreeMap<Address, u64>, index: u64) -> Result<(), Failure> {
        write_kept(self.consul, self.group.layout.maintenance(), kept, index).await
    }

    async fn priority(&self, instance: &Address) -> Result<u64, Failure> {
        let value = setting(instance, &self.group.login, PRIORITY).await?;
        let unread = || Failure::new(Exit::Failed, format!("{instance} has no {PRIORITY}"));
        value.parse().map_err(|_| unread())
    }

    async fn set_priority(&self, instance: &Address, priority: u64) -> Result<(), Failure> {
        set(instance, &self.group.login, PRIORITY, &priority.to_string()).await
    }

    async fn until(
        &self,
        seen: impl Fn(&Observed) -> bool,
        instance: &Address,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + FOLLOW_MAX;
        let _progress = Progress::new("waiting for agents and Sentinels");
        while Instant::now() < deadline {
            if seen(&self.look().await?) {
                return Ok(());
            }
            tokio::time::sleep(STEP).await;
        }
        let message =
            format!("{instance} is in maintenance, and not all agents and Sentinels have seen it");
        Err(Failure::new(Exit::Failed, message).hint("consul-redis status says which have not"))
    }
}

fn role(observed: &Observed, instance: &Address) -> Option<PublishedRole> {
    observed.record()?.role_of(instance)
}

/// The priority of an instance, as each Sentinel that lists it has last read it.
fn priorities<'a>(
    observed: &'a Observed,
    instance: &'a Address,
) -> impl Iterator<Item = u64> + use<'a> {
    let answers = observed.sentinels.values().filter_map(|reading| reading.result.as_ref().ok());
    let replicas = answers.filter_map(|answer| answer.group.as_ref()).flat_map(|g| &g.replicas);
    let rows = replicas.filter(move |replica| &replica.address == instance);
    rows.filter_map(|replica| replica.priority)
}
