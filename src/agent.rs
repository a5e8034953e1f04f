//! The agent: all its tasks, from one config, and from the next one when that changes.

mod rights;
mod running;

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::group::Outcome;
use crate::core::identity::address::ServiceName;
use crate::core::published::projection::Layout;
use crate::exit::Failure;
use crate::handover::hand_over;
use crate::http::check_certificates;
use crate::notify::group::subject;
use crate::notify::send::Teller;
use crate::redis_link;
use crate::render::task::Renderer;
use crate::retry::Retry;
use crate::systemd;
use rights::{denied_right, rights_probe};
use running::AgentTasks;

/// An agent whose settings, secrets and certificates were checked.
pub struct Agent {
    config: Config,
    consul: Consul,
    clock: Clock,
    renderer: Option<Renderer>,
    tellers: Vec<Arc<Teller>>,
}

/// Runs an agent until `signal`. Whenever `configs` changes it goes on by the new one; `look` wakes all groups.
///
/// # Errors
/// A [`Failure`] when it cannot start, or a part of it ended.
pub async fn run(
    mut configs: watch::Receiver<Config>,
    look: watch::Receiver<u64>,
    signal: impl Future<Output = ()>,
) -> Result<(), Failure> {
    tokio::pin!(signal);
    loop {
        let agent = Agent::new(configs.borrow_and_update().clone())?;
        systemd::waiting(&agent.consul.address());
        // Cancel safe: a signal, a watch that keeps its value, and questions that change nothing.
        tokio::select! {
            () = &mut signal => return Ok(()),
            Ok(()) = configs.changed() => {}
            () = systemd::keep_alive() => {}
            ready = agent.reach_consul() => {
                ready?;
                return agent.run(configs, look, signal).await;
            }
        }
    }
}

impl Agent {
    /// Checks what can be checked without starting anything.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Config`](crate::exit::Exit::Config).
    pub fn new(config: Config) -> Result<Self, Failure> {
        let no_sentinels =
            config.sources.listed.is_empty() && config.sources.consul_service.is_none();
        if no_sentinels && (!config.groups.is_empty() || config.clusters.is_empty()) {
            return Err(ConfigError::Usage(
                "no Sentinels: give --sentinels or --sentinel-service, or list them in the config"
                    .to_owned(),
            )
            .into());
        }
        let consul = Consul::new(&config.consul)?;
        let clock = Clock::start();
        let renderer = Renderer::new(&config, consul.clone(), clock)?;
        let tellers = tellers(&config)?;
        Ok(Self { config, consul, clock, renderer, tellers })
    }

    /// Checks besides that every secret and certificate can be read now.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Config`](crate::exit::Exit::Config).
    pub fn check_secrets(&self) -> Result<(), Failure> {
        for secret in self.config.secrets() {
            secret.read().map_err(|error| ConfigError::Usage(error.to_string()))?;
        }
        if let Some(http) = &self.config.http {
            check_certificates(http)?;
        }
        for tls in self.config.logins().filter_map(|login| login.tls.as_ref()) {
            redis_link::tls_config(tls).map_err(|error| ConfigError::Usage(error.to_string()))?;
        }
        Ok(())
    }

    /// Asks Consul for every right the agent needs, changing nothing: a transaction that its first
    /// operation always rolls back is checked against the ACL all the same. Before that it is read, since who
    /// answers a transaction with a refusal may be no Consul, or none that can do what is configured.
    ///
    /// # Errors
    /// The right that is missing, or that Consul does not answer.
    pub async fn check_rights(&self) -> Result<(), ConsulError> {
        self.consul.check_token()?;
        for group in &self.config.groups {
            self.consul.group(&group.layout, ReadMode::Consistent, &self.clock).await?;
            self.check_writes(&group.layout, &group.policy.service).await?;
        }
        for cluster in &self.config.clusters {
            let ClusterPolicy { layout, service, .. } = &cluster.policy;
            self.consul.cluster(layout, &self.clock).await?;
            self.check_writes(layout, service).await?;
        }
        Ok(())
    }

    async fn check_writes(
        &self,
        layout: &Layout,
        service: &ServiceName,
    ) -> Result<(), ConsulError> {
        let ops = rights_probe(layout, service);
        match self.consul.txn(&ops, "").await {
            Outcome::Committed { .. } | Outcome::Lost => Ok(()),
            Outcome::Refused(what) => {
                let denied = denied_right(&what, &ops);
                let call = denied.unwrap_or_else(|| "PUT /v1/txn".to_owned());
                Err(ConsulError::Denied { call, what })
            }
            Outcome::Unknown(reason) => {
                Err(ConsulError::Unreachable { address: self.consul.address(), reason })
            }
        }
    }

    /// Waits for Consul; any answer but a right one is final, silence is not.
    async fn reach_consul(&self) -> Result<(), Failure> {
        let mut retry = Retry::consul();
        loop {
            match self.check_rights().await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error.into()),
                Err(error) => {
                    let delay = retry.next_delay();
                    let what = Failure::from(error).in_one_line();
                    warn!("{what}; trying again in {} ms", delay.as_millis());
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn run(
        self,
        mut configs: watch::Receiver<Config>,
        look: watch::Receiver<u64>,
        signal: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let mut running = AgentTasks::start(self, look).await?;
        tokio::pin!(signal);
        loop {
            // Cancel safe: a signal, the tasks' own ends, and a watch that keeps its value.
            tokio::select! {
                () = &mut signal => break,
                lost = running.supervisor.lost() => return Err(running.give_up(lost).await),
                Ok(()) = running.left.changed() => running.share_groups().await,
                Ok(()) = configs.changed() => {
                    let next = configs.borrow_and_update().clone();
                    match running.apply_config(next).await {
                        Ok(changes) => changes.say(),
                        Err(failure) => warn!("the running config stays: {}", failure.in_one_line()),
                    }
                    systemd::ready();
                }
            }
        }
        systemd::stopping();
        // The agent goes on publishing until this host's primaries have been handed over, where that is wanted.
        if running.config.handover == Some(true) {
            // Cancel safe: what is half done ends by itself, as if the agent had died.
            tokio::select! {
                () = hand_over(&running.config, &running.consul, running.clock) => {}
                () = sigterm() => warn!("stopped again: what was not handed over stays"),
                lost = running.supervisor.lost() => return Err(running.give_up(lost).await),
            }
        }
        running.settle_notices().await;
        running.supervisor.stop().await;
        info!("stopped; what is published stays");
        Ok(())
    }
}

/// What tells each target, tried as far as it can be without a server.
///
/// # Errors
/// A [`Failure`] with [`Exit::Config`](crate::exit::Exit::Config).
fn tellers(config: &Config) -> Result<Vec<Arc<Teller>>, Failure> {
    let withheld = Arc::new(config.secret_variables.clone());
    // What a body sees is the same of each group.
    let Some(group) = config.groups.first() else { return Ok(Vec::new()) };
    let subject = subject(group);
    let tellers = config.notify.iter().map(|target| {
        Teller::new(target.clone(), withheld.clone(), &subject).map(Arc::new).map_err(|what| {
            Failure::new(crate::exit::Exit::Config, what)
                .hint("docs/notify.md has what a body sees, and what each file holds")
        })
    });
    tellers.collect()
}

async fn sigterm() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
