//! One group's loop over real connections: what happens is turned into [`Input`]s, and [`GroupLoop`]'s outputs are
//! carried out. The only place where the rest of the agent meets the loop.
//!
//! The one task that owns a group's state. Everything slow (Consul, Redis, Sentinel) happens in tasks of
//! its own and comes back as an event, so no server that hangs can hold up a switch.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::config::GroupConfig;
use crate::config::resolver::unique;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::places::WriteKind;
use crate::consul::shared_watch::{KeysSender, SharedWatch};
use crate::consul::store::ReadMode;
use crate::consul::watch::{poll_registered, watch_group, watch_registered, watch_rows};
use crate::core::duty::action::{Purpose, Write};
use crate::core::duty::mark::Marking;
use crate::core::duty::zone_order::Prioritize;
use crate::core::group::{GroupLoop, Input, LogLevel, Outcome, Output, Published};
use crate::core::identity::address::Address;
use crate::core::known::observed::{
    InstanceAnswer, ProcessState, Reading, RowsAnswer, StoreAnswer,
};
use crate::core::policy::Policy;
use crate::core::published::projection::Op;
use crate::core::published::store::AgentClock;
use crate::core::shown::status::{Problem, ProblemCode};
use crate::core::time::{Mono, Now};
use crate::instance::{InstanceCommand, RefusalNews, Todo, follow, prioritize, write_mark};
use crate::mailbox::Mailbox;
use crate::meter::GroupMeter;
use crate::name_check::Findings;
use crate::notify::group::{GroupNotices, TargetHandles};
use crate::notify::target::TargetReport;
use crate::process::watch_process;
use crate::redis_link::{LinkError, LinkSettings};
use crate::sentinel::pool::{PoolReport, SentinelHandles};
use crate::sentinel::watch::{COMMANDS_MAX, SentinelCommand};
use crate::snapshot::Snapshot;

/// How often what is known is drawn up for the page, metrics and systemd, in ms.
const SHOW_EVERY_MS: u64 = 100;
/// Reports of Sentinels, readings of instances and ends of calls to Consul waiting for one group, each.
pub const EVENTS_MAX: usize = 1_024;
/// Answers of a watch in Consul waiting for one group. A watch that is not listened to asks for no more.
const ANSWERS_MAX: usize = 16;
/// What happened to one of very many groups that is decided by at once, at the most.
const INPUTS_MAX: usize = 64;
/// How long Consul must refuse or be silent before it is a problem, in ms.
const TROUBLE_AFTER_MS: u64 = 5_000;
/// Servers' right answers for the name waiting for one group.
pub const RIGHT_MAX: usize = 16;

/// The channels and settings of one group's task.
pub struct GroupTask {
    /// The group. What is wanted of it, and the login, may change; its place in Consul stays.
    pub group: watch::Receiver<GroupConfig>,
    /// The client for reading and writing the group.
    pub consul: Consul,
    /// The clock of all readings.
    pub clock: Clock,
    /// The way to each Sentinel.
    pub sentinels: watch::Receiver<SentinelHandles>,
    /// Where the keys are watched of very many groups; `None` where each group has blocking queries of its own.
    pub shared: Option<SharedWatch>,
    /// What the Sentinels say.
    pub reports: mpsc::Receiver<PoolReport>,
    /// Generations that a DNS server has answered.
    pub in_dns: mpsc::Receiver<u64>,
    /// Grows when everything is to be looked at now, as on SIGHUP.
    pub look: watch::Receiver<u64>,
    /// For the page, metrics and systemd: what is known now.
    pub shown: watch::Sender<Option<Snapshot>>,
    /// Whether the HTTP server or systemd shows what is known.
    pub looked_at: watch::Receiver<bool>,
    /// The group's metrics.
    pub meter: GroupMeter,
    /// For the name check: what is published.
    pub published: watch::Sender<Option<Published>>,
    /// What is wrong with DNS's answers.
    pub findings: watch::Receiver<Findings>,
    /// What this agent's key below each group is to say of clocks, by the group's root.
    pub clocks: watch::Sender<BTreeMap<String, AgentClock>>,
    /// Who is told what happens.
    pub targets: watch::Receiver<TargetHandles>,
    /// Something is being told, or to be noted.
    pub telling: watch::Sender<bool>,
}

/// What wakes the group's task.
enum Event {
    Process(Box<(Address, ProcessState)>),
    Refused(Box<RefusalNews>),
    Instance(Address, Box<Reading<InstanceAnswer>>),
    Sentinel(PoolReport),
    Keys(Box<Result<StoreAnswer, ConsulError>>),
    Registered(BTreeSet<Address>),
    /// The rows on the group's node have changed.
    Rows,
    Done(Completed),
    InDns(u64),
    Config(Box<GroupConfig>),
    Told(TargetReport),
    Look,
    Tick,
}

/// How something ended that the loop asked for.
enum Completed {
    ReadStore(Box<StoreAnswer>),
    ReadRows(Box<RowsAnswer>),
    Wrote(u64, Outcome),
    /// A write was not sent: it has waited for its turn.
    NotSent(u64),
    Marked(Box<Marking>, Result<bool, String>),
    Prioritized(Box<Prioritize>, Result<bool, String>),
    /// What targets were told is noted, or not.
    Noted(Outcome),
    /// A read failed.
    Failed(StorePart, Box<ConsulError>),
}

/// What is read in Consul.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StorePart {
    Keys,
    Rows,
}

/// Consul's answer to a read, while it is none.
struct Trouble {
    since: Mono,
    problem: Problem,
}

type InstanceReading = (Address, Box<Reading<InstanceAnswer>>);

/// All that a group's loop listens to.
struct Events {
    processes: mpsc::Receiver<Box<(Address, ProcessState)>>,
    refusals: mpsc::Receiver<Box<RefusalNews>>,
    instances: mpsc::Receiver<InstanceReading>,
    done: mpsc::Receiver<Completed>,
    sentinels: mpsc::Receiver<PoolReport>,
    keys: mpsc::Receiver<Box<Result<StoreAnswer, ConsulError>>>,
    registered: mpsc::Receiver<BTreeSet<Address>>,
    rows: mpsc::Receiver<()>,
    in_dns: mpsc::Receiver<u64>,
    config: watch::Receiver<GroupConfig>,
    told: mpsc::Receiver<TargetReport>,
    look: watch::Receiver<u64>,
    _watches: Vec<AbortOnDropHandle<()>>,
}

impl Events {
    /// The next one. Cancel safe: channels.
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(news) = self.processes.recv() => Event::Process(news),
            Some(news) = self.refusals.recv() => Event::Refused(news),
            Some((address, reading)) = self.instances.recv() => Event::Instance(address, reading),
            Some(done) = self.done.recv() => Event::Done(done),
            Some(report) = self.sentinels.recv() => Event::Sentinel(report),
            Some(answer) = self.keys.recv() => Event::Keys(answer),
            Some(found) = self.registered.recv() => Event::Registered(found),
            Some(()) = self.rows.recv() => Event::Rows,
            Some(generation) = self.in_dns.recv() => Event::InDns(generation),
            Ok(()) = self.config.changed() => {
                Event::Config(Box::new(self.config.borrow_and_update().clone()))
            }
            Some(report) = self.told.recv() => Event::Told(report),
            Ok(()) = self.look.changed() => Event::Look,
            else => pending().await,
        }
    }
}

struct Instance {
    todo: Arc<Mailbox<Todo>>,
    _task: AbortOnDropHandle<()>,
}

/// What the loop wants to have read in Consul.
#[derive(Debug, Default)]
struct Owed {
    keys: bool,
    rows: bool,
}

/// Carries out what the loop asks for, and reports the result to it.
struct Executor {
    group: GroupConfig,
    /// The loop's own: its writes are numbered from the start, and none may be taken for one of an earlier loop.
    run: String,
    login: watch::Sender<LinkSettings>,
    consul: Consul,
    clock: Clock,
    sentinels: watch::Receiver<SentinelHandles>,
    done: mpsc::Sender<Completed>,
    readings: mpsc::Sender<InstanceReading>,
    process_news: mpsc::Sender<Box<(Address, ProcessState)>>,
    refusal_news: mpsc::Sender<Box<RefusalNews>>,
    instances: BTreeMap<Address, Instance>,
    /// The tasks that watch the processes of this host's instances.
    processes: BTreeMap<Address, AbortOnDropHandle<()>>,
    reading_store: Option<AbortOnDropHandle<()>>,
    reading_rows: Option<AbortOnDropHandle<()>>,
    /// The rows have changed since they were asked for: what is being read may be older.
    rows_changed: bool,
    marking: Option<AbortOnDropHandle<()>>,
    /// The tasks that set priorities, one for each instance.
    prioritizing: BTreeMap<Address, AbortOnDropHandle<()>>,
    /// Consul does not answer the watch, which asks again and again: what is to be read once it does.
    away: Option<Owed>,
    /// What is wrong with the logins of Sentinels for the instances.
    wrong_logins: BTreeMap<Address, String>,
    /// What Consul refuses, or does not answer.
    trouble: BTreeMap<StorePart, Trouble>,
    meter: GroupMeter,
    published: watch::Sender<Option<Published>>,
    clocks: watch::Sender<BTreeMap<String, AgentClock>>,
    /// What targets outside are told.
    notices: GroupNotices,
    /// Something is going on in the group, or it has no writer.
    busy: watch::Sender<bool>,
    /// The watch of the keys of very many groups, of which this is one.
    shared: Option<SharedWatch>,
}

/// Where what is watched in Consul goes.
struct Watches {
    tell_keys: KeysSender,
    tell_registered: mpsc::Sender<BTreeSet<Address>>,
    tell_rows: mpsc::Sender<()>,
}

impl Watches {
    /// By blocking queries of the group's own.
    fn own(self, consul: &Consul, group: &GroupConfig, clock: Clock) -> Vec<AbortOnDropHandle<()>> {
        let policy = &group.policy;
        let (service, installation) = (policy.service.server(), policy.installation.clone());
        let keys = watch_group(consul.clone(), group.layout.clone(), clock, self.tell_keys);
        let registered =
            watch_registered(consul.clone(), service, installation, self.tell_registered);
        let rows = watch_rows(consul.clone(), group.layout.node(), self.tell_rows);
        vec![
            AbortOnDropHandle::new(tokio::spawn(keys)),
            AbortOnDropHandle::new(tokio::spawn(registered)),
            AbortOnDropHandle::new(tokio::spawn(rows)),
        ]
    }

    /// With all other groups of the agent. Its rows are only read as often as they are audited.
    fn shared(
        self,
        shared: &SharedWatch,
        consul: &Consul,
        group: &GroupConfig,
        busy: &watch::Sender<bool>,
    ) -> Vec<AbortOnDropHandle<()>> {
        let policy = &group.policy;
        let (service, installation) = (policy.service.server(), policy.installation.clone());
        shared.join(group.layout.clone(), self.tell_keys, busy.subscribe());
        let pace = (busy.subscribe(), Duration::from_millis(policy.pace.audit_ms));
        let registered =
            poll_registered(consul.clone(), service, installation, self.tell_registered, pace);
        vec![AbortOnDropHandle::new(tokio::spawn(registered))]
    }
}

/// What the page, metrics and systemd show, and when.
struct Display {
    looked_at: watch::Receiver<bool>,
    shown: watch::Sender<Option<Snapshot>>,
    findings: watch::Receiver<Findings>,
    last: Mono,
    is_due: bool,
}

impl Display {
    /// Waits until there is something new to show, and the HTTP server or systemd shows it. Cancel safe.
    async fn due(&self, clock: Clock) {
        if self.is_due && *self.looked_at.borrow() {
            tokio::time::sleep_until(clock.instant(self.last.plus_ms(SHOW_EVERY_MS))).await;
        } else {
            pending().await
        }
    }

    fn show(&mut self, machine: &GroupLoop, more: &[Problem], now: Now) {
        if !*self.looked_at.borrow() {
            return;
        }
        self.is_due = now.mono - self.last < SHOW_EVERY_MS;
        if !self.is_due {
            self.last = now.mono;
            let snapshot = Snapshot::of(machine, &self.findings.borrow(), more, now);
            self.shown.send_replace(Some(snapshot));
        }
    }
}

impl GroupTask {
    /// Runs until `stop`. Nothing that is published changes when it ends.
    pub async fn run(self, stop: CancellationToken) {
        let (mut executor, mut events, mut display) = self.begin();
        let mut machine = GroupLoop::new(executor.policy(), executor.group.layout.clone());
        let mut decided = 0;
        loop {
            // Cancel safe: events, timers and a token.
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.next() => Some(event),
                () = display.due(executor.clock) => None,
                () = tokio::time::sleep_until(executor.clock.instant(machine.next_wake())) => {
                    Some(Event::Tick)
                }
            };
            let now = executor.clock.now();
            if let Some(event) = event {
                executor.meter.beat(now.mono);
                let mut inputs = vec![executor.input(event, now)];
                if executor.is_many() {
                    // One decision does for all that wait.
                    while inputs.len() < INPUTS_MAX
                        && let Some(event) = events.next().now_or_never()
                    {
                        inputs.push(executor.input(event, now));
                    }
                }
                let outputs = match executor.is_many() {
                    true => machine.on_news(inputs, now),
                    false => machine.on_all(inputs, now),
                };
                for output in outputs {
                    executor.carry_out(output);
                }
                executor.note_busy(!machine.is_calm(now));
                executor.tell_targets(&machine, &display.findings, now);
                if let Some(decision) = machine.decision().filter(|_| machine.decisions() > decided)
                {
                    decided = machine.decisions();
                    executor.meter.decided(&decision.verdict);
                }
            }
            display.show(&machine, &executor.problems(), executor.clock.now());
        }
    }

    /// Begins to listen.
    fn begin(mut self) -> (Executor, Events, Display) {
        let group = self.group.borrow_and_update().clone();
        self.look.mark_unchanged();
        let (tell_keys, keys) = mpsc::channel(ANSWERS_MAX);
        let (tell_registered, registered) = mpsc::channel(ANSWERS_MAX);
        let (tell_rows, rows) = mpsc::channel(ANSWERS_MAX);
        let (busy, shared) = (watch::Sender::new(true), self.shared.take());
        let watches = Watches { tell_keys, tell_registered, tell_rows };
        let watches = match &shared {
            None => watches.own(&self.consul, &group, self.clock),
            Some(shared) => watches.shared(shared, &self.consul, &group, &busy),
        };
        let (readings, instances) = mpsc::channel(EVENTS_MAX);
        let (tell_done, done) = mpsc::channel(EVENTS_MAX);
        let (process_news, processes) = mpsc::channel(ANSWERS_MAX);
        let (refusal_news, refusals) = mpsc::channel(ANSWERS_MAX);
        let (tell_told, told) = mpsc::channel(EVENTS_MAX);
        let events = Events {
            processes,
            refusals,
            instances,
            done,
            sentinels: self.reports,
            keys,
            registered,
            rows,
            in_dns: self.in_dns,
            config: self.group,
            told,
            look: self.look,
            _watches: watches,
        };
        let executor = Executor {
            login: watch::Sender::new(group.login.clone()),
            group,
            run: unique(),
            consul: self.consul,
            clock: self.clock,
            sentinels: self.sentinels,
            done: tell_done,
            readings,
            process_news,
            refusal_news,
            instances: BTreeMap::new(),
            processes: BTreeMap::new(),
            reading_store: None,
            reading_rows: None,
            rows_changed: false,
            marking: None,
            prioritizing: BTreeMap::new(),
            away: None,
            wrong_logins: BTreeMap::new(),
            trouble: BTreeMap::new(),
            meter: self.meter,
            published: self.published,
            clocks: self.clocks,
            notices: GroupNotices::new(self.targets, tell_told, self.telling),
            busy,
            shared,
        };
        let display = Display {
            looked_at: self.looked_at,
            shown: self.shown,
            findings: self.findings,
            last: Mono::default(),
            is_due: false,
        };
        (executor, events, display)
    }
}

impl Executor {
    /// What is wanted of the group by this loop.
    fn policy(&self) -> Policy {
        Policy { run: self.run.clone(), ..self.group.policy.clone() }
    }

    /// What happened, as the loop takes it.
    fn input(&mut self, event: Event, now: Now) -> Input {
        match event {
            Event::Instance(address, reading) => {
                self.meter.instance_answered(&address, &reading);
                Input::Instance(address, *reading)
            }
            Event::Sentinel(PoolReport::Answered(sentinel, reading)) => {
                self.meter.sentinel_answered(&sentinel, &reading);
                Input::Sentinel(sentinel, *reading)
            }
            Event::Sentinel(PoolReport::Login(sentinel, wrong)) => {
                self.note_login(sentinel, wrong);
                Input::Tick
            }
            Event::Sentinel(PoolReport::Gone(sentinel)) => {
                self.meter.sentinel_gone(&sentinel);
                self.wrong_logins.remove(&sentinel);
                Input::SentinelGone(sentinel)
            }
            Event::Sentinel(PoolReport::GaveUp(sentinel, why)) => Input::GaveUp(sentinel, why),
            Event::Sentinel(PoolReport::Hurried(sentinel)) => Input::Hurried(sentinel),
            Event::Sentinel(PoolReport::NotBegun(replace, words)) => {
                Input::NotBegun(*replace, words)
            }
            Event::Process(news) => Input::Process(news.0, news.1),
            Event::Refused(news) => Input::Refused(news.0, news.1),
            Event::Keys(answer) => self.keys(*answer, now),
            Event::Registered(found) => Input::Registered(found),
            Event::Done(Completed::Failed(source, error)) => {
                self.note_trouble(source, &error, now);
                if source == StorePart::Rows {
                    self.rows_were_read();
                }
                Input::Tick
            }
            Event::Rows => self.rows_have_changed(),
            Event::Done(Completed::ReadStore(answer)) => {
                self.trouble.remove(&StorePart::Keys);
                self.meter.consul_answered(now.mono);
                Input::Consistent(*answer)
            }
            Event::Done(Completed::ReadRows(answer)) => {
                self.trouble.remove(&StorePart::Rows);
                self.meter.consul_answered(now.mono);
                self.rows_were_read();
                Input::Rows(*answer)
            }
            Event::Done(Completed::Wrote(id, outcome)) => {
                if let (Some(shared), Outcome::Committed { index }) = (&self.shared, &outcome) {
                    shared.written(&self.group.layout, *index);
                }
                Input::Written(id, outcome)
            }
            Event::Done(Completed::NotSent(id)) => Input::NotSent(id),
            Event::Done(Completed::Marked(wanted, outcome)) => self.marked(*wanted, outcome),
            Event::Done(Completed::Prioritized(wanted, done)) => self.prioritized(*wanted, done),
            Event::Done(Completed::Noted(outcome)) => self.noted(&outcome, now),
            Event::Told(report) => {
                self.notices.reported(report);
                Input::Tick
            }
            Event::InDns(generation) => Input::SeenInDns(generation),
            Event::Config(group) => {
                self.login.send_replace(group.login.clone());
                self.group = *group;
                self.watch_processes();
                Input::Policy(Box::new(self.policy()))
            }
            Event::Look => Input::Look,
            Event::Tick => Input::Tick,
        }
    }

    /// What targets were told is noted, or not.
    fn noted(&mut self, outcome: &Outcome, now: Now) -> Input {
        if let (Some(shared), Outcome::Committed { .. }) = (&self.shared, outcome) {
            shared.changed(vec![self.group.layout.root()]);
        }
        self.notices.wrote(outcome, now);
        Input::Tick
    }

    fn marked(&self, wanted: Marking, outcome: Result<bool, String>) -> Input {
        let Marking { instance, key, mark, .. } = &wanted;
        match &outcome {
            Ok(true) => info!(
                "{}: the data set of {instance} has the mark of generation {} in its key {key}",
                mark.group, mark.generation
            ),
            Ok(false) => debug!(%instance, "not what it was any more: no mark is written"),
            Err(error) => debug!(%instance, error, "the mark is not written"),
        }
        self.command(instance, InstanceCommand::Probe);
        Input::Marked(wanted, outcome)
    }

    /// What the instance says of its priority now is asked for at once.
    fn prioritized(&self, wanted: Prioritize, outcome: Result<bool, String>) -> Input {
        self.command(&wanted.instance, InstanceCommand::Probe);
        Input::Prioritized(wanted, outcome)
    }

    /// The group is one of very many.
    fn is_many(&self) -> bool {
        self.shared.is_some()
    }

    fn note_busy(&self, busy: bool) {
        self.busy.send_if_modified(|before| std::mem::replace(before, busy) != busy);
    }

    /// What is wrong with the login that a Sentinel has or is to get: said once for all Sentinels.
    fn note_login(&mut self, sentinel: Address, wrong: Option<String>) {
        let Some(wrong) = wrong else {
            self.wrong_logins.remove(&sentinel);
            return;
        };
        if !self.wrong_logins.values().any(|said| *said == wrong) {
            error!("{}: {wrong}", self.group.policy.group);
        }
        self.wrong_logins.insert(sentinel, wrong);
    }

    /// What is wrong that the loop does not know of.
    fn problems(&self) -> Vec<Problem> {
        let logins: BTreeSet<&String> = self.wrong_logins.values().collect();
        let logins = logins.into_iter().map(|wrong| ProblemCode::SentinelLogin.says(wrong));
        let now = self.clock.now().mono;
        let lasts = |trouble: &&Trouble| now - trouble.since >= TROUBLE_AFTER_MS;
        let consul = self.trouble.values().filter(lasts).map(|trouble| trouble.problem.clone());
        let failure = self.consul.login_failure();
        let renewal = failure.map(|error| ProblemCode::ConsulLogin.says(error.to_string()));
        logins.chain(consul).chain(renewal).collect()
    }

    /// Consul refuses what is read, or does not answer: said once, with the token in question.
    fn note_trouble(&mut self, source: StorePart, error: &ConsulError, now: Now) {
        let refused = error.is_refusal();
        let problem = match refused {
            true => {
                let text = format!("{error} ({})", self.consul.token_named());
                ProblemCode::ConsulRefuses.says(text)
            }
            false => ProblemCode::ConsulSilent.says(error.to_string()),
        };
        let before = self.trouble.get(&source);
        if refused && before.is_none_or(|before| before.problem.code != problem.code) {
            error!("{}: {}", self.group.policy.group, problem.text);
        }
        let since = before.map_or(now.mono, |before| before.since);
        self.trouble.insert(source, Trouble { since, problem });
    }

    /// What the watch says of Consul. While that does not answer, the watch asks; nothing else needs to.
    fn keys(&mut self, answer: Result<StoreAnswer, ConsulError>, now: Now) -> Input {
        match answer {
            Ok(answer) => {
                self.trouble.remove(&StorePart::Keys);
                let owed = self.away.take().unwrap_or_default();
                if owed.keys {
                    self.read_store();
                }
                if owed.rows {
                    self.read_rows();
                }
                self.meter.consul_answered(now.mono);
                Input::Watched(answer)
            }
            Err(error) => {
                self.note_trouble(StorePart::Keys, &error, now);
                if error.is_transient() {
                    self.away.get_or_insert_default();
                } else {
                    // It answers, if only this: what can be read otherwise is read.
                    self.away = None;
                }
                Input::ConsulSilent
            }
        }
    }

    /// Starts what an output asks for. Never waits.
    fn carry_out(&mut self, output: Output) {
        let group = &self.group.policy.group;
        match output {
            Output::AskSentinels => {
                for sentinel in self.sentinels.borrow().values() {
                    sentinel.ask(group);
                }
            }
            Output::Probe(addresses) => self.probe(addresses),
            Output::Follow(addresses) => self.follow(addresses),
            Output::ReadStore => self.read_store(),
            Output::ReadRows => self.read_rows(),
            Output::Write(id, write) => self.write(id, *write),
            Output::FollowUp(ops) => self.follow_up(ops),
            Output::Hold(hold) => {
                self.command(&hold.instance, InstanceCommand::Hold { for_ms: hold.for_ms });
            }
            Output::Detach(detach) => {
                let instance = detach.instance.clone();
                self.command(&instance, InstanceCommand::Detach(detach));
            }
            Output::Promote(promote) => {
                let instance = promote.instance.clone();
                self.command(&instance, InstanceCommand::Promote(promote));
            }
            Output::Mark(marking) => self.mark(marking),
            Output::Prioritize(wanted, until) => self.prioritize(wanted, until),
            Output::Fence(fence) => {
                let instance = fence.instance.clone();
                self.command(&instance, InstanceCommand::Fence(fence));
            }
            Output::Relay(relay, until) => {
                let sentinel = relay.sentinel.clone();
                self.tell(&sentinel, SentinelCommand::Relay(group.clone(), relay, until));
            }
            Output::Reconfigure(tell, until) => {
                let sentinel = tell.sentinel.clone();
                self.tell(&sentinel, SentinelCommand::Reconfigure(group.clone(), tell, until));
            }
            Output::Forget(forget, until) => {
                let sentinel = forget.sentinel.clone();
                self.tell(&sentinel, SentinelCommand::Forget(group.clone(), forget, until));
            }
            Output::Published(published) => {
                self.meter.published(&published);
                self.published.send_replace(Some(*published));
            }
            Output::Died(sign, aftermath) => self.meter.died(sign, aftermath),
            Output::Replace(replace, until) => {
                let sentinel = replace.sentinel.clone();
                self.tell(&sentinel, SentinelCommand::Replace(group.clone(), replace, until));
            }
            Output::ShowClock(clock) => {
                let root = self.group.layout.root();
                self.clocks.send_modify(|clocks| drop(clocks.insert(root, clock)));
            }
            Output::Say(saying) => match saying.weight {
                LogLevel::Debug => debug!("{}", saying.text),
                LogLevel::Info => info!("{}", saying.text),
                LogLevel::Warn => warn!("{}", saying.text),
            },
        }
    }

    fn probe(&self, addresses: BTreeSet<Address>) {
        let light = self.is_many() && !*self.busy.borrow();
        let writer = self.published.borrow().as_ref().and_then(|p| p.writer.clone());
        for address in addresses {
            let probe = match (light, Some(&address) == writer.as_ref()) {
                (false, _) => InstanceCommand::Probe,
                (true, true) => InstanceCommand::Ping,
                // The Sentinels say when a replica is down.
                (true, false) => InstanceCommand::Listen,
            };
            self.command(&address, probe);
        }
    }

    fn command(&self, address: &Address, command: InstanceCommand) {
        if let Some(instance) = self.instances.get(address) {
            instance.todo.post(|todo| todo.add(command));
        }
    }

    /// Has one Sentinel do something. A Sentinel that is watched no more has nothing to do.
    fn tell(&self, sentinel: &Address, command: SentinelCommand) {
        let Some(handle) = self.sentinels.borrow().get(sentinel).cloned() else { return };
        let group = command.group().clone();
        if handle.command(command).is_err() {
            warn!("{group}: {COMMANDS_MAX} commands wait for Sentinel {sentinel}: one is left out");
        }
    }

    fn follow(&mut self, wanted: BTreeSet<Address>) {
        self.meter.follows(&wanted);
        self.instances.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let (clock, login, readings) =
                (self.clock, self.login.subscribe(), self.readings.clone());
            let (group, refusals) = (self.group.policy.group.clone(), self.refusal_news.clone());
            self.instances.entry(address.clone()).or_insert_with(|| {
                let todo = Arc::<Mailbox<Todo>>::default();
                let following =
                    follow(group, address, login, clock, todo.clone(), readings, refusals);
                let task = tokio::spawn(following);
                Instance { todo, _task: AbortOnDropHandle::new(task) }
            });
        }
        self.watch_processes();
    }

    /// Watches the processes of this host's instances, where that is of use.
    fn watch_processes(&mut self) {
        let policy = &self.group.policy;
        let wanted = |address: &Address| {
            policy.acts_on_death_of(address) && self.instances.contains_key(address)
        };
        self.processes.retain(|address, _| wanted(address));
        for address in policy.local.iter().filter(|address| wanted(address)) {
            let (login, clock, news) =
                (self.login.subscribe(), self.clock, self.process_news.clone());
            self.processes.entry(address.clone()).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(watch_process(
                    address.clone(),
                    login,
                    clock,
                    news,
                )))
            });
        }
    }

    fn read_store(&mut self) {
        if let Some(owed) = &mut self.away {
            owed.keys = true;
            return;
        }
        if self.reading_store.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (consul, layout, clock) = (self.consul.clone(), self.group.layout.clone(), self.clock);
        let done = self.done.clone();
        self.reading_store = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match consul.group(&layout, ReadMode::Consistent, &clock).await {
                Ok(answer) => {
                    let _ = done.send(Completed::ReadStore(Box::new(answer.value))).await;
                }
                Err(error) => {
                    debug!("{}: {error}", layout.group);
                    let _ = done.send(Completed::Failed(StorePart::Keys, Box::new(error))).await;
                }
            }
        })));
    }

    fn read_rows(&mut self) {
        if let Some(owed) = &mut self.away {
            owed.rows = true;
            return;
        }
        if self.is_reading_rows() {
            return;
        }
        let (consul, layout, clock) = (self.consul.clone(), self.group.layout.clone(), self.clock);
        let (done, service) = (self.done.clone(), self.group.policy.service.clone());
        self.reading_rows = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match consul.rows_of(&layout.node(), &service, &clock).await {
                Ok(rows) => {
                    let _ = done.send(Completed::ReadRows(Box::new(rows))).await;
                }
                // Being away is said by the watch; being denied would keep us from ever writing.
                Err(error) => {
                    debug!("{}: {error}", layout.group);
                    let _ = done.send(Completed::Failed(StorePart::Rows, Box::new(error))).await;
                }
            }
        })));
    }

    fn is_reading_rows(&self) -> bool {
        self.reading_rows.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Only a hint: what is on the group's node is read, and put back where it is not what was published.
    fn rows_have_changed(&mut self) -> Input {
        self.rows_changed = self.is_reading_rows();
        self.read_rows();
        Input::Tick
    }

    /// A read has ended; a change that came while it was under way is read, too.
    fn rows_were_read(&mut self) {
        self.reading_rows = None;
        if std::mem::take(&mut self.rows_changed) {
            self.read_rows();
        }
    }

    /// One more entry in Consul's log, right behind a change of the writer: the followers learn with it that the change
    /// is committed. Without it, their DNS answers are some 80 ms late.
    fn follow_up(&self, ops: Vec<Op>) {
        let (consul, fence) = (self.consul.clone(), self.group.layout.state());
        let group = self.group.policy.group.clone();
        tokio::spawn(async move {
            // Any other write does as well.
            let Some(_place) = consul.places().write_alone() else { return };
            match consul.txn(&ops, &fence).await {
                Outcome::Lost => {}
                other => {
                    debug!("{group}: the write that follows a change of the writer: {other:?}")
                }
            }
        });
    }

    /// Has targets outside told what there is to tell, and what became of that noted.
    fn tell_targets(
        &mut self,
        machine: &GroupLoop,
        findings: &watch::Receiver<Findings>,
        now: Now,
    ) {
        let (store, now_ms) = (machine.observed().store.as_ref(), now.mono);
        if !self.notices.is_due(&self.group, &self.run, store, now_ms) {
            return;
        }
        let mut problems = machine.problems().to_vec();
        problems.extend(self.problems());
        problems.extend(findings.borrow().values().cloned());
        let ops = self.notices.look(store, &problems, now);
        let Some(ops) = ops else { return };
        let (consul, key, done) =
            (self.consul.clone(), self.group.layout.notices(), self.done.clone());
        tokio::spawn(async move {
            let outcome = match consul.places().write(WriteKind::Later).await {
                Some(_place) => consul.txn(&ops, &key).await,
                None => Outcome::Lost,
            };
            let _ = done.send(Completed::Noted(outcome)).await;
        });
    }

    /// Writes the mark. The next one waits for this one's deadline.
    fn mark(&mut self, wanted: Marking) {
        if self.marking.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (login, done) = (self.group.login.clone(), self.done.clone());
        self.marking = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = write_mark(&wanted, &login).await.map_err(in_words);
            let _ = done.send(Completed::Marked(Box::new(wanted), outcome)).await;
        })));
    }

    /// Sets a priority. The next one of the same instance waits for this one's deadline.
    fn prioritize(&mut self, wanted: Prioritize, until: Mono) {
        self.prioritizing.retain(|_, task| !task.is_finished());
        if self.prioritizing.contains_key(&wanted.instance) {
            return;
        }
        let (login, done, clock) = (self.group.login.clone(), self.done.clone(), self.clock);
        let instance = wanted.instance.clone();
        let task = tokio::spawn(async move {
            let in_time = || clock.now().mono <= until;
            let outcome = prioritize(&wanted, &login, in_time).await.map_err(in_words);
            let _ = done.send(Completed::Prioritized(Box::new(wanted), outcome)).await;
        });
        self.prioritizing.insert(instance, AbortOnDropHandle::new(task));
    }

    fn write(&self, id: u64, write: Write) {
        let (consul, fence) = (self.consul.clone(), self.group.layout.state());
        let done = self.done.clone();
        let count = self.meter.writes(write.purpose);
        tokio::spawn(async move {
            let kind = match write.purpose {
                Purpose::Publish => WriteKind::Publication,
                Purpose::Withdraw => WriteKind::Withdrawal,
                _ => WriteKind::Later,
            };
            let Some(_place) = consul.places().write(kind).await else {
                let _ = done.send(Completed::NotSent(id)).await;
                return;
            };
            let outcome = consul.txn(&write.ops, &fence).await;
            count(&outcome);
            let _ = done.send(Completed::Wrote(id, outcome)).await;
        });
    }
}

/// What an instance refuses, in its own words alone.
fn in_words(error: LinkError) -> String {
    match error {
        LinkError::Unexpected(words) => words,
        error => error.to_string(),
    }
}
