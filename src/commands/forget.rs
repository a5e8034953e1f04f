//! `consul-redis forget HOST:PORT...`: the Sentinels forget servers that are gone for good now, and not after
//! `forget_after`.
//!
//! It is the agents' own rule (`core::duty::stale_peers`) with the operator's word in the place of the time that a
//! server must have been silent: one Sentinel at a time, each noted in `state` first, and only while the group is at
//! rest. A server that answers is never forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::maintenance::only_group;
use super::switchover::find_group;
use super::terminal::Progress;
use crate::cli::ForgetArgs;
use crate::clock::Clock;
use crate::config::resolver::unique;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::core::decide::decide;
use crate::core::duty::action::Write;
use crate::core::duty::stale_peers::{Forget, conditions, stale_peers};
use crate::core::group::Outcome;
use crate::core::identity::address::Address;
use crate::core::known::memory::{Condition, Memory, StalePeer};
use crate::core::known::observed::Observed;
use crate::core::known::view::View;
use crate::core::policy::Policy;
use crate::core::published::record::Record;
use crate::core::shown::reasons::Reason;
use crate::dns::Names;
use crate::exit::{Exit, Failure};
use crate::observe::look;
use crate::redis_link::Link;
use crate::sentinel::pool::find;
use crate::sentinel::query;

/// How long all of it may take: each Sentinel is reset 30 s after the one before, and finds the others again within 10
/// s.
const TAKE_MAX: Duration = Duration::from_secs(600);
/// How long the agents may take to remove the row once no Sentinel names the server.
const ROW_MAX: Duration = Duration::from_secs(40);
/// Pause between two looks.
const STEP: Duration = Duration::from_secs(1);

/// Has every Sentinel forget these servers.
///
/// # Errors
/// A [`Failure`] when a server answers, when no Sentinel knows it, or when the group does not come to rest in time.
pub async fn run(config: Config, args: &ForgetArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    let group = find_group(&config, &consul, &clock, &only_group(&config)?).await?;
    let policy = Policy {
        agent: config.agent.clone(),
        run: unique(),
        installation: config.sources.installation.clone(),
        sources: config.sources.names(),
        forget_ghosts: true,
        forget_after_ms: 0,
        forget_sentinels_after_ms: 0,
        ..group.policy.clone()
    };
    let memory = Memory::default();
    let names = Names::new(config.resolver);
    let gone: BTreeSet<Address> = args.gone.iter().cloned().collect();
    let forgetter =
        Forgetter { config: &config, group: &group, consul: &consul, names, clock, policy, gone };
    forgetter.run(memory).await
}

struct Forgetter<'a> {
    config: &'a Config,
    group: &'a GroupConfig,
    consul: &'a Consul,
    names: Names,
    clock: Clock,
    policy: Policy,
    gone: BTreeSet<Address>,
}

impl Forgetter<'_> {
    async fn run(self, mut memory: Memory) -> Result<(), Failure> {
        let observed = self.look().await?;
        for gone in &self.gone {
            self.must_be_gone(&observed, gone)?;
        }
        let progress = Progress::new("Sentinels are reset one at a time, 30 s apart");
        let deadline = Instant::now() + TAKE_MAX;
        let mut why = "the group did not come to rest".to_owned();
        while Instant::now() < deadline {
            let observed = self.look().await?;
            if self.gone.iter().all(|gone| listed_by(&observed, gone).is_empty()) {
                return self.until_unpublished(&progress).await;
            }
            match self.next(&observed, &mut memory) {
                Ok(Some(write)) => {
                    if let Some(forget) = write.forget.clone() {
                        self.carry_out(&write, &forget, &mut memory, &progress).await?;
                    }
                }
                Ok(None) => {}
                Err(not_now) => {
                    progress.tell(not_now.clone());
                    why = not_now;
                }
            }
            tokio::time::sleep(STEP).await;
        }
        Err(Failure::new(Exit::Failed, format!("{} is still known: {why}", self.named())).hint(
            "run it again when the group is at rest: it goes on with the Sentinels that are left",
        ))
    }

    /// The servers in words.
    fn named(&self) -> String {
        self.gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    async fn look(&self) -> Result<Observed, Failure> {
        let Self { config, group, consul, names, clock, .. } = self;
        Ok(look(config, group, consul, names, clock).await?.observed)
    }

    /// There is something to forget, and it does not answer.
    fn must_be_gone(&self, observed: &Observed, gone: &Address) -> Result<(), Failure> {
        let group = &self.group.policy.group;
        if observed.record().and_then(|record| record.writer_address()) == Some(gone) {
            return Err(Failure::new(Exit::Failed, format!("{gone} is the writer of {group}"))
                .hint("consul-redis switchover moves the primary first"));
        }
        let instance = observed.instances.get(gone).is_some_and(|reading| reading.result.is_ok());
        let sentinel = observed.sentinels.get(gone).is_some_and(|reading| reading.result.is_ok());
        if instance || sentinel {
            return Err(Failure::new(Exit::Failed, format!("{gone} answers: it is not gone"))
                .hint("stop it first; the Sentinels find a server that runs again within 10 s"));
        }
        if listed_by(observed, gone).is_empty() {
            let heard =
                observed.sentinels.values().filter(|reading| reading.result.is_ok()).count();
            let message = format!("no Sentinel of {group} knows {gone} ({heard} answer)");
            return Err(Failure::new(Exit::Failed, message)
                .hint("consul-redis status lists the addresses that are known"));
        }
        Ok(())
    }

    /// The write that an agent would make now, if the server had been silent for long enough.
    fn next(&self, observed: &Observed, memory: &mut Memory) -> Result<Option<Box<Write>>, String> {
        let now = self.clock.now();
        memory.see_generation(observed, now);
        // All that are silent, and of them those that were named.
        memory.keep(conditions(&View::of_one_look(&self.policy, memory, observed, now)), now);
        let silent = stale_peers(&View::of_one_look(&self.policy, memory, observed, now));
        let named = silent.into_iter().filter_map(|peer| match peer {
            StalePeer::Sentinel(id, at) if self.gone.contains(&at) => {
                Some(Condition::SentinelSilent(id))
            }
            StalePeer::Replica(at) if self.gone.contains(&at) => Some(Condition::ReplicaSilent(at)),
            _ => None,
        });
        let named: BTreeSet<Condition> = named.collect();
        if named.is_empty() {
            return Err(format!(
                "not every Sentinel that knows {} calls it down yet",
                self.named()
            ));
        }
        memory.keep(named, now);
        let view = View::of_one_look(&self.policy, memory, observed, now);
        let decision = decide(&view, &self.group.layout);
        let waits = |reason: &Reason| matches!(reason, Reason::NotForgotten(_));
        match decision.reasons.iter().find(|reason| waits(reason)) {
            Some(reason) => Err(reason.to_string()),
            None => Ok(decision.write.filter(|write| write.forget.is_some())),
        }
    }

    /// Notes the reset in `state`, by which all agents wait, and resets the Sentinel.
    async fn carry_out(
        &self,
        write: &Write,
        forget: &Forget,
        memory: &mut Memory,
        progress: &Progress,
    ) -> Result<(), Failure> {
        memory.written += 1;
        match self.consul.txn(&write.ops, &self.group.layout.state()).await {
            Outcome::Committed { .. } => {}
            // An agent wrote first, or may have: the next look says what is left.
            Outcome::Lost | Outcome::Unknown(_) => return Ok(()),
            Outcome::Refused(what) => {
                return Err(Failure::new(Exit::Denied, format!("Consul refuses: {what}"))
                    .hint("the token needs what consul/agent-policy.hcl says"));
            }
        }
        let sentinel = &forget.sentinel;
        let (found, _) = find(&self.config.sources, &self.names, self.consul).await;
        let name = found.get(sentinel).and_then(Option::as_deref);
        let login = self.config.sentinel_login.clone().expecting(name);
        let done = async {
            let mut link = Link::open(sentinel, &login).await?;
            let id = query::identity(&mut link).await?;
            query::forget(&mut link, &id, &self.group.policy.group, forget).await
        };
        match done.await {
            Ok(true) => progress.say(&format!("{sentinel} has forgotten {}", forget.names())),
            Ok(false) => progress.say(&format!("{sentinel} says something else by now")),
            Err(error) => progress.say(&format!("{sentinel}: {error}; it is asked again in 30 s")),
        }
        Ok(())
    }

    /// The agents remove the row of a server that no Sentinel names.
    async fn until_unpublished(&self, progress: &Progress) -> Result<(), Failure> {
        let gone = self.named();
        progress.now("the agents remove it from Consul");
        let deadline = Instant::now() + ROW_MAX;
        loop {
            let observed = self.look().await?;
            let shown = |record: &Record| self.gone.iter().any(|at| record.role_of(at).is_some());
            if !observed.record().is_some_and(shown) {
                progress.say(&format!("forgotten: {gone}"));
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message =
                    format!("the Sentinels have forgotten {gone}, and Consul still shows it");
                return Err(Failure::new(Exit::Failed, message)
                    .hint("an agent removes it: consul-redis status says whether one runs"));
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// The Sentinels that know the server as a replica or as another Sentinel.
fn listed_by(observed: &Observed, gone: &Address) -> BTreeSet<Address> {
    let answers = observed
        .sentinels
        .iter()
        .filter_map(|(at, reading)| Some((at, reading.result.as_ref().ok()?.group.as_ref()?)));
    let lists = answers.filter(|(_, group)| {
        group.peers.iter().any(|peer| &peer.address == gone)
            || group.replicas.iter().any(|replica| &replica.address == gone)
    });
    lists.map(|(at, _)| at.clone()).collect()
}
