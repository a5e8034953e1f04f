//! The agent: all its tasks, from one config.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::presence::be_present;
use crate::consul::registrar::{Monitored, Registration, keep_registered};
use crate::consul::sentinel_rows;
use crate::core::address::GroupName;
use crate::core::group::{Input, Outcome};
use crate::core::projection::{NO_ADDRESS, Op, ServiceRow, node_row};
use crate::core::sentinel_rows::SERVICE as SENTINEL_SERVICE;
use crate::dns::Names;
use crate::exit::Failure;
use crate::group_task::{GroupTask, INPUTS_MAX};
use crate::handover::hand_over;
use crate::http::{Drawn, Server};
use crate::meter::{GroupMeter, Meter};
use crate::name_check::{Checker, Findings};
use crate::render::task::Renderer;
use crate::retry::Retry;
use crate::sentinel::pool::Pool;
use crate::sentinel::watch::{COMMANDS_MAX, SentinelCommand, WatchSettings};
use crate::supervisor::Supervisor;

/// News about Sentinels waiting to be published.
const NEWS_MAX: usize = 256;

/// Why an agent is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The host, or its server, is about to stop.
    ForGood,
    /// Another agent takes its place at once, with other settings.
    ToReturn,
}

/// An agent ready to run.
pub struct Agent {
    config: Config,
    consul: Consul,
    clock: Clock,
    names: Names,
    renderer: Option<Renderer>,
}

impl Agent {
    /// Checks what can be checked without starting anything.
    ///
    /// # Errors
    /// A [`Failure`] with [`Code::Config`].
    pub fn new(config: Config) -> Result<Self, Failure> {
        if config.sources.listed.is_empty() && config.sources.consul_service.is_none() {
            return Err(crate::config::ConfigError::Usage(
                "no Sentinels: give --sentinels or --sentinel-service, or list them in the config"
                    .to_owned(),
            )
            .into());
        }
        let consul = Consul::new(&config.consul)?;
        let names = Names::new(config.resolver);
        let clock = Clock::start();
        let renderer = Renderer::new(&config, consul.clone(), clock)?;
        Ok(Self { config, consul, clock, names, renderer })
    }

    /// Asks Consul for every right the agent needs, changing nothing: a transaction that its first
    /// operation always rolls back is checked against the ACL all the same.
    ///
    /// # Errors
    /// The right that is missing, or that Consul does not answer.
    pub async fn check_rights(&self) -> Result<(), ConsulError> {
        for group in &self.config.groups {
            let ops = rights_probe(group);
            match self.consul.txn(&ops, "").await {
                Outcome::Committed { .. } | Outcome::Lost => {}
                Outcome::Refused(what) => {
                    let denied = denied_right(&what, &ops);
                    let call = denied.unwrap_or_else(|| "PUT /v1/txn".to_owned());
                    return Err(ConsulError::Denied { call, what });
                }
                Outcome::Unknown(reason) => {
                    return Err(ConsulError::Unreachable {
                        address: self.consul.address(),
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    /// Waits for Consul; a refusal is final, silence is not.
    ///
    /// # Errors
    /// A [`Failure`] when Consul denies what is needed.
    pub async fn reach_consul(&self) -> Result<(), Failure> {
        let mut retry = Retry::consul();
        loop {
            match self.check_rights().await {
                Ok(()) => return Ok(()),
                Err(error @ (ConsulError::Denied { .. } | ConsulError::Secret(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    let delay = retry.next_delay();
                    warn!("{error}; trying again in {} ms", delay.as_millis());
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Where Consul is, for messages.
    pub fn consul_address(&self) -> String {
        self.consul.address()
    }

    /// Runs until `signal`; `look` wakes all groups.
    ///
    /// # Errors
    /// A [`Failure`] when a part of the agent ended.
    pub async fn run(
        mut self,
        signal: impl Future<Output = Leaving>,
        look: watch::Receiver<u64>,
    ) -> Result<(), Failure> {
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop.clone();
        let (commands, _) = broadcast::channel(COMMANDS_MAX);
        let mut groups = BTreeMap::new();
        let meter = Meter::new(self.clock, self.consul.errors());
        let mut http = match &self.config.http {
            Some(settings) => Some(Server::bind(settings, meter.clone()).await?),
            None => None,
        };
        for group in &self.config.groups {
            let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
            groups.insert(group.policy.group.clone(), inputs.clone());
            let shown = http.as_mut().map(|http| {
                http.show(&group.policy.group, group.policy.local.iter().cloned().collect())
            });
            let counted = GroupMeter::new(meter.clone(), group.policy.group.clone());
            let ends = Ends { inputs, receiver, sentinels: commands.clone(), shown };
            self.start_group(&mut supervisor, group, ends, counted, &look);
        }
        let (news, heard) = mpsc::channel(NEWS_MAX);
        let (monitored, monitors) = watch::channel(Monitored::new());
        let rows = sentinel_rows::publish(
            self.consul.clone(),
            self.config.prefix.clone(),
            self.clock,
            heard,
            monitored,
        );
        let pool = Pool {
            sources: self.config.sources.clone(),
            names: self.names.clone(),
            consul: self.consul.clone(),
            settings: self.watch_settings(),
            commands,
            groups: groups.clone(),
            news,
        };
        let layouts = self.config.groups.iter().map(|group| group.layout.clone()).collect();
        let id = self.config.agent.clone();
        let presence = be_present(self.consul.clone(), id, layouts, self.presence(), stop.clone());
        let registrar =
            keep_registered(self.consul.clone(), self.registrations(), monitors, stop.clone());
        let (tell, files) = watch::channel(Vec::new());
        if let Some(renderer) = self.renderer.take() {
            supervisor.spawn("the templates", renderer.run(stop.clone(), look.clone(), tell));
        }
        if let Some(mut server) = http {
            server.show_files(files);
            info!("answering http://{}", server.address());
            supervisor.spawn("the HTTP server", server.run(stop.clone()));
        }
        supervisor.spawn("the Sentinels' pool", until(stop.clone(), pool.run()));
        supervisor.spawn("the Sentinels' rows", until(stop.clone(), rows));
        supervisor.spawn("the look-now signal", until(stop, pass_on_looks(look, groups)));
        supervisor.spawn("the agent's presence", presence);
        supervisor.spawn("the registrar", registrar);
        self.say_start();
        supervisor.run(self.handed_over(signal)).await?;
        info!("stopped; what is published stays");
        Ok(())
    }

    /// One group's loop, and beside it the question whether DNS answers what the loop published.
    fn start_group(
        &self,
        supervisor: &mut Supervisor,
        group: &GroupConfig,
        ends: Ends,
        meter: GroupMeter,
        look: &watch::Receiver<u64>,
    ) {
        let stop = supervisor.stop.clone();
        let (publish, published) = watch::channel(None);
        let findings = self.config.dns.clone().map(|dns| {
            let (findings, found) = watch::channel(Findings::new());
            let checker = Checker {
                group: group.policy.group.clone(),
                dns,
                clock: self.clock,
                meter: meter.whole(),
                published,
                look: look.clone(),
                findings,
                inputs: ends.inputs.clone(),
            };
            supervisor.spawn("the check of the name", checker.run(stop.clone()));
            found
        });
        let task = GroupTask {
            group: group.clone(),
            consul: self.consul.clone(),
            clock: self.clock,
            sentinels: ends.sentinels,
            inputs: ends.receiver,
            own_inputs: ends.inputs,
            shown: ends.shown,
            meter,
            published: publish,
            findings,
        };
        supervisor.spawn("a group's loop", task.run(stop));
    }

    /// Waits for `signal`, and then, where it is wanted, until this host's primaries have been moved away; a second
    /// SIGTERM cuts that short. The agent goes on publishing meanwhile.
    async fn handed_over(&self, signal: impl Future<Output = Leaving>) {
        let leaving = signal.await;
        if leaving == Leaving::ToReturn || self.config.handover != Some(true) {
            return;
        }
        // Cancel safe: what is half done ends by itself, as if the agent had died.
        tokio::select! {
            () = hand_over(&self.config, &self.consul, self.clock) => {}
            () = sigterm() => warn!("told to stop again: what was not handed over stays"),
        }
    }

    fn is_node_mode(&self) -> bool {
        !self.config.redis.is_empty() || !self.config.sentinels.is_empty()
    }

    fn say_start(&self) {
        for group in &self.config.groups {
            info!(
                "{}: watching, publishing {}.service.consul at level {}",
                group.policy.group,
                group.policy.service.primary(),
                group.policy.publish.as_str()
            );
        }
        let mode = if self.is_node_mode() { "node" } else { "observer" };
        info!("agent {} in {mode} mode, Consul at {}", self.config.agent, self.consul.address());
        let listed = self.config.sources.listed.len();
        if listed > 0 && listed.is_multiple_of(2) {
            warn!("{listed} Sentinels are listed; an odd number survives more");
        }
    }

    fn presence(&self) -> serde_json::Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "mode": if self.is_node_mode() { "node" } else { "observer" },
            "since": self.clock.now().wall.to_string(),
        })
    }

    fn watch_settings(&self) -> WatchSettings {
        let groups = self.config.groups.iter().map(|group| group.policy.group.clone()).collect();
        WatchSettings {
            link: self.config.sentinel_login.clone(),
            groups,
            auths: self
                .config
                .groups
                .iter()
                .map(|group| (group.policy.group.clone(), group.sentinel_auth.clone()))
                .collect(),
            clock: self.clock,
        }
    }

    /// This host's servers as the local Consul agent is to know them.
    fn registrations(&self) -> Vec<Registration> {
        let meta = |group: Option<&GroupName>| {
            let mut meta = BTreeMap::from([
                ("agent".to_owned(), self.config.agent.clone()),
                ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ]);
            meta.extend(group.map(|group| ("group".to_owned(), group.to_string())));
            meta
        };
        let redis = self.config.redis.iter().map(|local| Registration {
            id: format!("{}:{}", local.service, local.address),
            service: local.service.clone(),
            address: local.address.clone(),
            tags: Vec::new(),
            meta: meta(Some(&local.group)),
            check_interval: local.check_interval,
            forgotten_after: local.forgotten_after,
        });
        let sentinels = self.config.sentinels.iter().map(|local| Registration {
            id: format!("{SENTINEL_SERVICE}:{}", local.address),
            service: SENTINEL_SERVICE.to_owned(),
            address: local.address.clone(),
            tags: Vec::new(),
            meta: meta(None),
            check_interval: local.check_interval,
            forgotten_after: local.forgotten_after,
        });
        redis.chain(sentinels).collect()
    }
}

/// What connects a group's loop with the rest of the agent.
struct Ends {
    inputs: mpsc::Sender<Input>,
    receiver: mpsc::Receiver<Input>,
    sentinels: broadcast::Sender<SentinelCommand>,
    shown: Option<watch::Sender<Option<Drawn>>>,
}

async fn sigterm() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Runs `task` until `stop`.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// Wakes all groups whenever `look` changes.
async fn pass_on_looks(
    mut look: watch::Receiver<u64>,
    groups: BTreeMap<GroupName, mpsc::Sender<Input>>,
) {
    while look.changed().await.is_ok() {
        for inputs in groups.values() {
            let _ = inputs.send(Input::Look).await;
        }
    }
    std::future::pending().await
}

/// Every kind of write the agent makes for a group, behind a guard that never holds.
fn rights_probe(group: &GroupConfig) -> Vec<Op> {
    let (layout, service) = (&group.layout, &group.policy.service);
    let mut ops = vec![
        Op::KeyCheckIndex { key: layout.state(), index: u64::MAX >> 1 },
        Op::KeySet { key: layout.state(), value: String::new() },
        Op::NodeSet { node: layout.node(), row: node_row(None) },
    ];
    for name in [service.as_str().to_owned(), service.primary(), service.replica()] {
        let row = ServiceRow {
            service: name,
            address: NO_ADDRESS.to_owned(),
            port: 1,
            tags: Vec::new(),
            meta: BTreeMap::new(),
        };
        ops.push(Op::ServiceSet { node: layout.node(), id: "probe".to_owned(), row });
    }
    ops
}

/// The right that a refusal is about, in words.
fn denied_right(what: &str, ops: &[Op]) -> Option<String> {
    let index: usize = what.strip_prefix("operation ")?.split(':').next()?.parse().ok()?;
    Some(match ops.get(index)? {
        Op::KeyCheckIndex { key, .. } | Op::KeySet { key, .. } => format!("to write key {key}"),
        Op::NodeSet { node, .. } => format!("to write node {node}"),
        Op::ServiceSet { row, .. } => format!("to write service {}", row.service),
        _ => return None,
    })
}
