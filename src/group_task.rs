//! One group's loop over real connections: readings in, [`GroupLoop`]'s outputs carried out.
//!
//! The one task that owns a group's state. Everything slow (Consul, Redis, Sentinel) happens in tasks of
//! its own and comes back as an input, so no server that hangs can hold up a switch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::config::GroupConfig;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::consul::watch::watch_group;
use crate::core::action::Write;
use crate::core::address::Address;
use crate::core::decide::Decision;
use crate::core::group::{GroupLoop, Input, Outcome, Output, Published, Weight};
use crate::core::observed::{InstanceAnswer, Reading};
use crate::core::time::{Mono, Now};
use crate::http::Drawn;
use crate::instance::{self, InstanceCommand, follow};
use crate::meter::GroupMeter;
use crate::name_check::Findings;
use crate::redis_link::LinkSettings;
use crate::sentinel::watch::SentinelCommand;

/// Pause between two changes of the registered instances: a check that flaps wakes us, and changes nothing.
const REGISTERED_PAUSE: Duration = Duration::from_millis(200);
/// Pause after a failure to hear of them.
const REGISTERED_AGAIN: Duration = Duration::from_secs(5);
/// How often what is known is drawn up for those who look from outside, in ms.
const SHOW_EVERY_MS: u64 = 100;
/// Inputs waiting for one group.
pub const INPUTS_MAX: usize = 1_024;

/// What a group's task needs.
pub struct GroupTask {
    /// The group. What is wanted of it, and the login, may change; its place in Consul stays.
    pub group: watch::Receiver<GroupConfig>,
    /// Consul.
    pub consul: Consul,
    /// The clock of all readings.
    pub clock: Clock,
    /// To all Sentinels.
    pub sentinels: broadcast::Sender<SentinelCommand>,
    /// What arrives.
    pub inputs: mpsc::Receiver<Input>,
    /// A way to send oneself inputs.
    pub own_inputs: mpsc::Sender<Input>,
    /// For those who look from outside: what is known now.
    pub shown: watch::Sender<Option<Drawn>>,
    /// Somebody looks at all.
    pub looked_at: watch::Receiver<bool>,
    /// What it counts with.
    pub meter: GroupMeter,
    /// For those who ask DNS for the name: what is published.
    pub published: watch::Sender<Option<Published>>,
    /// What is wrong with DNS's answers.
    pub findings: watch::Receiver<Findings>,
}

type InstanceReading = (Address, Reading<InstanceAnswer>);

struct Instance {
    commands: mpsc::Sender<InstanceCommand>,
    _task: AbortOnDropHandle<()>,
}

struct Hands {
    group: GroupConfig,
    login: watch::Sender<LinkSettings>,
    consul: Consul,
    clock: Clock,
    sentinels: broadcast::Sender<SentinelCommand>,
    inputs: mpsc::Sender<Input>,
    readings: mpsc::Sender<InstanceReading>,
    instances: BTreeMap<Address, Instance>,
    reading_store: Option<AbortOnDropHandle<()>>,
    reading_rows: Option<AbortOnDropHandle<()>>,
    meter: GroupMeter,
    published: watch::Sender<Option<Published>>,
}

impl GroupTask {
    /// Runs until `stop`. Nothing that is published changes when it ends.
    pub async fn run(mut self, stop: CancellationToken) {
        let group = self.group.borrow_and_update().clone();
        let layout = group.layout.clone();
        let watch =
            watch_group(self.consul.clone(), layout.clone(), self.clock, self.own_inputs.clone());
        let _watch = AbortOnDropHandle::new(tokio::spawn(watch));
        let registered = watch_registered(
            self.consul.clone(),
            group.policy.service.server(),
            self.own_inputs.clone(),
        );
        let _registered = AbortOnDropHandle::new(tokio::spawn(registered));
        let (readings, mut read) = mpsc::channel(INPUTS_MAX);
        let mut machine = GroupLoop::new(group.policy.clone(), layout);
        let mut hands = Hands {
            login: watch::Sender::new(group.login.clone()),
            group,
            consul: self.consul,
            clock: self.clock,
            sentinels: self.sentinels,
            inputs: self.own_inputs,
            readings,
            instances: BTreeMap::new(),
            reading_store: None,
            reading_rows: None,
            meter: self.meter,
            published: self.published,
        };
        let mut shown_at = Mono::default();
        let mut is_shown = true;
        loop {
            let looked_at = *self.looked_at.borrow();
            let show_at = hands.clock.instant(shown_at.plus_ms(SHOW_EVERY_MS));
            // Cancel safe: channels, timers and a token.
            let input = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((address, reading)) = read.recv() => Some(Input::Instance(address, reading)),
                Some(input) = self.inputs.recv() => Some(input),
                Ok(()) = self.group.changed() => {
                    Some(hands.turn_to(self.group.borrow_and_update().clone()))
                }
                () = tokio::time::sleep_until(show_at), if looked_at && !is_shown => None,
                () = tokio::time::sleep_until(hands.clock.instant(machine.next_wake())) => {
                    Some(Input::Tick)
                }
            };
            if let Some(input) = input {
                let now = hands.clock.now();
                hands.meter.beat(now.mono);
                hands.meter.heard(&input, now.mono);
                for output in machine.on(input, now) {
                    hands.carry_out(output);
                }
                if let Some(decision) = machine.decision() {
                    hands.meter.decided(&decision.verdict);
                }
            }
            if looked_at {
                let now = hands.clock.now();
                is_shown = now.mono - shown_at >= SHOW_EVERY_MS;
                if is_shown {
                    shown_at = now.mono;
                    self.shown.send_replace(Some(draw(&machine, &self.findings.borrow(), now)));
                }
            }
        }
    }
}

/// What is known, for those who look from outside.
fn draw(machine: &GroupLoop, findings: &Findings, now: Now) -> Drawn {
    let mut status = machine.status(now);
    status.add(findings.values().cloned());
    let decision = machine.decision();
    Drawn {
        status,
        summary: decision.map(|decision| decision.summary.clone()),
        reasons: decision.map(Decision::said).unwrap_or_default(),
    }
}

/// Hears which instances node-mode agents have registered, until nobody listens any more.
async fn watch_registered(consul: Consul, service: String, inputs: mpsc::Sender<Input>) {
    let mut index = 0;
    loop {
        match consul.watch_service_addresses(&service, index).await {
            Ok(found) => {
                // An index that went back starts again, and 0 would not block at all.
                index = if found.index < index { 0 } else { found.index.max(1) };
                let registered = found.value.into_iter().collect();
                if inputs.send(Input::Registered(registered)).await.is_err() {
                    return;
                }
                tokio::time::sleep(REGISTERED_PAUSE).await;
            }
            // Unknown, not gone: those that were registered stay.
            Err(error) => {
                debug!("{service}: {error}");
                index = 0;
                tokio::time::sleep(REGISTERED_AGAIN).await;
            }
        }
    }
}

impl Hands {
    /// Other settings of the same group, for what comes, and for the loop.
    fn turn_to(&mut self, group: GroupConfig) -> Input {
        self.login.send_replace(group.login.clone());
        self.group = group;
        Input::Policy(Box::new(self.group.policy.clone()))
    }

    /// Starts what an output asks for. Never waits.
    fn carry_out(&mut self, output: Output) {
        let group = &self.group.policy.group;
        match output {
            Output::AskSentinels => {
                // No receivers: no Sentinel has been found yet.
                let _ = self.sentinels.send(SentinelCommand::Ask(group.clone()));
            }
            Output::Probe(addresses) => {
                for address in addresses {
                    self.command(&address, InstanceCommand::Probe);
                }
            }
            Output::Follow(addresses) => self.follow(addresses),
            Output::ReadStore => self.read_store(),
            Output::ReadRows => self.read_rows(),
            Output::Write(id, write) => self.write(id, *write),
            Output::Hold(hold) => {
                self.command(&hold.instance, InstanceCommand::Hold { for_ms: hold.for_ms });
            }
            Output::Shelter(shelter) => {
                let instance = shelter.instance.clone();
                self.command(&instance, InstanceCommand::Shelter(shelter));
            }
            Output::Promote(promote) => {
                let instance = promote.instance.clone();
                self.command(&instance, InstanceCommand::Promote(promote));
            }
            Output::Fence(fence) => {
                let instance = fence.instance.clone();
                self.command(&instance, InstanceCommand::Fence(fence));
            }
            Output::Tell(tell) => {
                let _ = self.sentinels.send(SentinelCommand::Tell(group.clone(), tell));
            }
            Output::Forget(forget, until) => {
                let command = SentinelCommand::Forget(group.clone(), forget, until);
                let _ = self.sentinels.send(command);
            }
            Output::Published(published) => {
                self.meter.published(&published);
                self.published.send_replace(Some(*published));
            }
            Output::Replace(replace, until) => {
                let command = SentinelCommand::Replace(group.clone(), replace, until);
                let _ = self.sentinels.send(command);
            }
            Output::Say(saying) => match saying.weight {
                Weight::Debug => debug!("{}", saying.text),
                Weight::Info => info!("{}", saying.text),
                Weight::Warn => warn!("{}", saying.text),
            },
        }
    }

    fn command(&self, address: &Address, command: InstanceCommand) {
        if let Some(instance) = self.instances.get(address) {
            // A full queue already holds a probe.
            let _ = instance.commands.try_send(command);
        }
    }

    fn follow(&mut self, wanted: BTreeSet<Address>) {
        self.meter.follows(&wanted);
        self.instances.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let (clock, login, readings) =
                (self.clock, self.login.subscribe(), self.readings.clone());
            self.instances.entry(address.clone()).or_insert_with(|| {
                let (commands, receiver) = mpsc::channel(instance::COMMANDS_MAX);
                let task = tokio::spawn(follow(address, login, clock, receiver, readings));
                Instance { commands, _task: AbortOnDropHandle::new(task) }
            });
        }
    }

    fn read_store(&mut self) {
        if self.reading_store.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (consul, layout, clock) = (self.consul.clone(), self.group.layout.clone(), self.clock);
        let inputs = self.inputs.clone();
        self.reading_store = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match consul.group(&layout, ReadMode::Consistent, &clock).await {
                Ok(answer) => {
                    let _ = inputs.send(Input::Consistent(answer.value)).await;
                }
                Err(error) => debug!("{}: {error}", layout.group),
            }
        })));
    }

    fn read_rows(&mut self) {
        if self.reading_rows.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (consul, layout, clock) = (self.consul.clone(), self.group.layout.clone(), self.clock);
        let inputs = self.inputs.clone();
        self.reading_rows = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match consul.rows(&layout.node(), &clock).await {
                Ok(rows) => {
                    let _ = inputs.send(Input::Rows(rows)).await;
                }
                // Being away is said by the watch; being denied would keep us from ever writing.
                Err(error @ ConsulError::Denied { .. }) => warn!("{}: {error}", layout.group),
                Err(error) => debug!("{}: {error}", layout.group),
            }
        })));
    }

    fn write(&self, id: u64, write: Write) {
        let (consul, fence) = (self.consul.clone(), self.group.layout.state());
        let inputs = self.inputs.clone();
        let count = self.meter.writes(write.purpose);
        tokio::spawn(async move {
            let outcome: Outcome = consul.txn(&write.ops, &fence).await;
            count(&outcome);
            let _ = inputs.send(Input::Written(id, outcome)).await;
        });
    }
}
