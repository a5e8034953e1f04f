//! `consul-redis exec`: a Redis or a Sentinel, and an agent beside it, as one process of a container or a host.
//!
//! The data goes first. The server is started whatever the agent does, and goes on when the agent fails; the agent
//! is started again after a pause. When the server ends, the agent takes its registration away and we end with the
//! server's exit code. When we are asked to stop, the agent stops first (and with it whatever it does on leaving),
//! and then the server gets the signal.

pub mod announce;
mod beside;
mod blank;
pub mod child;
pub mod conf_words;
pub mod config_file;
mod data_files;
mod guard;
pub mod membership;
pub mod place;
pub mod settings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::agent::Agent;
use crate::cli::ExecArgs;
use crate::clock::{Clock, ticks_every};
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::InstanceAnswer;
use crate::core::policy::FastFailover;
use crate::exit::{Exit, Failure};
use crate::instance::probe;
use crate::redis_link::{Link, LinkError};
use crate::reload::{self, ConfigSource};
use crate::telemetry::Log;
pub use beside::AGENT_STOP_TIMEOUT;
use beside::Beside;
use child::{Child, Ended, Received, is_stop};
use config_file::ServerConfig;
use data_files::DataFiles;
use membership::Note;
use settings::{Environment, FORGOTTEN_AFTER, ServerCommand, ServerKind};

/// How often it is looked whether the machine still has the address.
const ADDRESS_EVERY: Duration = Duration::from_secs(2);
/// How often what the data belongs to is looked at, to be noted on the volume.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// The same while the server has just been started, and the agents may wait for it.
const NOTE_AT_START_EVERY: Duration = Duration::from_millis(250);
/// For how long after its start.
const AWAITED_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether others can reach the server.
const REACH_EVERY: Duration = Duration::from_secs(5);
/// How long one attempt to reach it may take.
const REACH_TIMEOUT: Duration = Duration::from_millis(500);
/// The file of a node of a cluster, where its config names no other.
const NODES_FILE: &str = "nodes.conf";
/// Where a server answers that no other host can reach.
const LOOPBACK: &str = "127.0.0.1";
/// How long Consul may take to note it, and the last look before the server is told to stop: no program waits for that.
const NOTE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the agent may take, once the server has died, until it has written down that a Sentinel is asked to replace
/// it.
const NOTED_MAX: Duration = Duration::from_millis(500);
/// How long until another writer is published.
const REPLACED_MAX: Duration = Duration::from_secs(3);
/// How often that is looked at.
const REPLACED_EVERY: Duration = Duration::from_millis(20);

/// What the command line says of the server's place.
#[derive(Debug, Clone)]
struct Given {
    expect: Option<u16>,
    cluster: Option<GroupName>,
}

/// Everything that is known before anything is started.
pub struct Exec {
    /// Where the settings come from.
    settings: ConfigSource,
    given: Given,
    /// Without the server itself: its address may change.
    config: Config,
    command: ServerCommand,
    data: PathBuf,
    server: ServerConfig,
    port: u16,
    /// Where others reach it.
    address: Address,
    /// The address was said, and not found out.
    is_fixed: bool,
    resolve_hostnames: bool,
    /// It is a node of a Redis Cluster (`cluster-enabled yes`).
    is_node: bool,
}

impl Exec {
    /// Resolves all settings, and copies the server's config to the data volume when there is none.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Config`]: nothing has been started.
    pub async fn prepare(
        config: Config,
        args: &ExecArgs,
        settings: ConfigSource,
    ) -> Result<Self, Failure> {
        let env = &settings.env;
        let given = Given { expect: args.expect, cluster: args.cluster.clone() };
        let config = contained(config, env, &given)?;
        let mut command = ServerCommand::parse(&args.server, env)?;
        if given.cluster.is_some() && command.role == ServerKind::Redis {
            command.options.extend(["--cluster-enabled", "yes"].map(str::to_owned));
        }
        let data = args.data_dir.clone().filter(|dir| !dir.as_os_str().is_empty());
        let data = std::path::absolute(data.unwrap_or_else(|| PathBuf::from(".")))?;
        let conf_dir = args.conf_dir.as_ref().filter(|dir| !dir.as_os_str().is_empty());
        let template = || {
            let file = conf_dir?.join(command.role.config_name());
            file.exists().then_some(file)
        };
        let source = command.config.clone().or_else(template);
        let saves = command.setting("save", "").is_none();
        let server = config_file::prepare(source.as_deref(), &data, command.role, saves)?;
        let port = command.port(&server.text)?;
        let said = announce::given(args.announce.as_deref(), env, command.role, port)?;
        let is_fixed = said.is_some();
        let address = match said {
            Some(address) => address,
            None => find_address(&config, port).await?,
        };
        let resolve_hostnames = args.resolve_hostnames;
        let is_node = command.role == ServerKind::Redis
            && command.setting("cluster-enabled", &server.text).is_some_and(|on| on == "yes");
        if is_node && address.ip().is_none() {
            let what = format!(
                "{address}: nodes of a cluster know one another by addresses, and not by names"
            );
            return Err(Failure::new(Exit::Config, what).hint("say an address: --announce"));
        }
        let exec = Self {
            settings,
            given,
            config,
            command,
            data,
            server,
            port,
            address,
            is_fixed,
            resolve_hostnames,
            is_node,
        };
        // Whatever is wrong with the settings is said now, and not by an agent that cannot start.
        Agent::new(exec.agent_config()?)?;
        Ok(exec)
    }

    /// Reads all settings again for each `()`, in a task of its own: Consul may be slow to say what it grants.
    fn keep_reading(&self, log: Arc<Log>) -> (mpsc::Sender<()>, mpsc::Receiver<Config>) {
        let (hangups, mut heard) = mpsc::channel(1);
        let (tell, reloaded) = mpsc::channel(1);
        let (settings, given) = (self.settings.clone(), self.given.clone());
        let (role, address) = (self.command.role, self.address.clone());
        let is_node = self.is_node;
        let mut now = self.config.clone();
        tokio::spawn(async move {
            while heard.recv().await.is_some() {
                let read = || {
                    let next = contained(settings.read_again(&now)?, &settings.env, &given)?;
                    // Refused where no agent could go by it, before anything does.
                    with_server(next.clone(), role, is_node, address.clone())?;
                    Ok(next)
                };
                let Some(next) =
                    reload::again(settings.common.config.as_deref(), read, &now, &log).await
                else {
                    continue;
                };
                now = next.clone();
                if tell.send(next).await.is_err() {
                    return;
                }
            }
        });
        (hangups, reloaded)
    }

    /// The agent's settings, with the server at the address that it has now.
    fn agent_config(&self) -> Result<Config, Failure> {
        with_server(self.config.clone(), self.command.role, self.is_node, self.address.clone())
    }

    fn command_line(&self, follow: Option<&Address>) -> Vec<String> {
        let Self { command, server, address, resolve_hostnames, is_node, .. } = self;
        command.line(&server.path, address, *resolve_hostnames, follow, *is_node)
    }

    /// The address that the server follows at first; `None` for a Sentinel, and for a node of a cluster, which waits until
    /// it may be started.
    async fn place(&self) -> Result<Option<Address>, Failure> {
        if self.command.role == ServerKind::Sentinel {
            return Ok(None);
        }
        let consul = Consul::new(&self.config.consul)?;
        if let Some(cluster) = self.config.clusters.first().filter(|_| self.is_node) {
            let (config, files) = (&self.config, self.data_files());
            let file = self.command.setting("cluster-config-file", &self.server.text);
            let file = files.dir().join(file.unwrap_or_else(|| NODES_FILE.to_owned()));
            guard::until_safe(config, cluster, &consul, &self.address, &files, &file).await;
            return Ok(None);
        }
        let [group] = &self.config.groups[..] else {
            return Err(Failure::new(Exit::Config, "a Redis belongs to one group"));
        };
        Ok(Some(place::find(&self.config, group, &consul, &self.address, &self.data_files()).await))
    }

    /// Where the server keeps its data.
    fn data_dir(&self) -> PathBuf {
        let dir = self.command.setting("dir", &self.server.text).unwrap_or_default();
        self.data.join(dir)
    }

    /// What of that it reads when it is started.
    fn data_files(&self) -> DataFiles {
        DataFiles::new(self.data_dir(), |name| self.command.setting(name, &self.server.text))
    }

    /// What the Redis says of itself now, and its group; `None` for a Sentinel, or while it does not answer.
    async fn look(&self) -> Option<(&GroupConfig, InstanceAnswer)> {
        let group = self
            .config
            .groups
            .first()
            .filter(|_| self.command.role == ServerKind::Redis && !self.is_node)?;
        let mut link = Link::open(&self.address, &group.login).await.ok()?;
        Some((group, probe(&mut link).await.ok()?))
    }

    /// Why others do not reach the server, although it runs: it answers on loopback, and not where it is announced.
    async fn unreached(&self) -> Option<String> {
        let connect = async |host: &str| {
            let connecting = TcpStream::connect((host.to_owned(), self.port));
            matches!(tokio::time::timeout(REACH_TIMEOUT, connecting).await, Ok(Ok(_)))
        };
        let Self { command, server, address, port, .. } = self;
        if address.port() != *port || connect(address.host()).await || !connect(LOOPBACK).await {
            return None;
        }
        let bind = command.setting("bind", &server.text);
        let bind = bind.map_or_else(|| "no bind".to_owned(), |to| format!("bind {to}"));
        Some(format!(
            "{} answers at {LOOPBACK}:{port}, and not at {address}, where it is announced: its config has `{bind}` ({}). Have \
             it listen there, or announce where it does (--announce)",
            command.role,
            server.path.display()
        ))
    }

    /// Sets the address in the server at which others reach it now.
    async fn announce(&self) -> Result<(), LinkError> {
        let (host, config) = (self.address.host(), &self.config);
        let local = Address::new(host, self.port);
        let local = local.map_err(|error| LinkError::Unexpected(error.to_string()))?;
        match self.command.role {
            ServerKind::Redis if self.is_node => {
                let mut link = Link::open(&local, &config.instance_login).await?;
                link.call(&["CONFIG", "SET", "cluster-announce-ip", host]).await?;
            }
            ServerKind::Redis => {
                let login = config.groups.first().map(|group| &group.login);
                let mut link = Link::open(&local, login.unwrap_or(&config.instance_login)).await?;
                link.call(&["CONFIG", "SET", "replica-announce-ip", host]).await?;
            }
            ServerKind::Sentinel => {
                let mut link = Link::open(&local, &config.sentinel_login).await?;
                link.call(&["SENTINEL", "CONFIG", "SET", "announce-ip", host]).await?;
            }
        }
        Ok(())
    }
}

/// The settings of an agent beside a server that is reached at `address`.
fn with_server(
    config: Config,
    role: ServerKind,
    is_node: bool,
    address: Address,
) -> Result<Config, Failure> {
    Ok(match role {
        ServerKind::Redis if is_node => config.with_node(address)?,
        ServerKind::Redis => config.with_redis(address, FORGOTTEN_AFTER)?,
        ServerKind::Sentinel => config.with_sentinel(address, FORGOTTEN_AFTER),
    })
}

/// The settings of an agent beside a server.
fn contained(mut config: Config, env: &Environment, given: &Given) -> Result<Config, Failure> {
    if !config.templates.is_empty() {
        // It waits for all children itself, and would take the commands' ends from the renderer.
        let what = "exec renders no templates: take [[template]] out of its config";
        return Err(Failure::new(Exit::Config, what)
            .hint("run `consul-redis render --watch` where the files are needed"));
    }
    if let Some(name) = &given.cluster {
        config = config.with_cluster(name, given.expect)?;
    }
    settings::apply(&mut config, env, given.expect)?;
    config.handover.get_or_insert(true);
    Ok(config)
}

async fn find_address(config: &Config, port: u16) -> Result<Address, Failure> {
    let found = match announce::towards(&config.consul).await {
        Ok(ip) => Ok(ip),
        // Consul may only be about to start; its network is most likely the one there is.
        Err(_) => announce::elsewhere().await,
    };
    let found = found.map_err(|error| error.to_string());
    let address =
        found.and_then(|ip| Address::new(&ip.to_string(), port).map_err(|e| e.to_string()));
    address.map_err(|error| {
        Failure::new(Exit::Config, format!("cannot find out this server's address: {error}"))
            .hint("say it: --announce HOST[:PORT], or CONSUL_REDIS_ANNOUNCE")
    })
}

/// Runs the server and the agent until the server has ended; its exit code.
///
/// # Errors
/// A [`Failure`] when the server cannot be started.
pub async fn run(exec: Exec, log: Log) -> Result<u8, Failure> {
    let mut received = Received::listen()?;
    say_start(&exec);
    // The server writes its config anew, with passwords that it is told while it runs: this keeps others from reading
    // it.
    umask(Mode::from_bits_truncate(0o077));
    let beside = Beside::start(exec.agent_config()?);
    let follow = tokio::select! {
        follow = exec.place() => follow?,
        signal = until_stop(&mut received) => {
            info!("{signal} before the {} was started", exec.command.role);
            beside.stop().await;
            return Ok(Ended::Signal(signal as i32).exit_code());
        }
    };
    let membership = Note::begin(&exec);
    let command = exec.command_line(follow.as_ref());
    let child = Child::start(&command, &exec.data, &exec.config.secret_variables);
    let child = match child {
        Ok(child) => child,
        Err(failure) => {
            beside.stop().await;
            return Err(failure);
        }
    };
    info!("{} at {} runs as process {}", exec.command.role, exec.address, child.id());
    ExecProcess { exec, child, beside, received, log: Arc::new(log), membership }
        .until_ended()
        .await
}

fn say_start(exec: &Exec) {
    let Exec { command, server, address, is_fixed, .. } = exec;
    let how = if *is_fixed { "as it was given" } else { "the interface that leads to Consul" };
    info!("{} for {address} ({how})", command.role);
    let made = if server.is_new { "made" } else { "kept" };
    info!("config {} ({made})", server.path.display());
    if !server.differs.is_empty() {
        let names: Vec<&str> = server.differs.iter().map(String::as_str).collect();
        warn!(
            "the config that {0} was made of has changed since, and {0} is used as it is: {1}. To apply them: CONFIG SET and \
             CONFIG REWRITE, or change {0} and start again",
            server.path.display(),
            names.join(", ")
        );
    }
}

async fn until_stop(received: &mut Received) -> Signal {
    loop {
        let signal = received.next().await;
        if is_stop(signal) {
            return signal;
        }
    }
}

/// The server runs, and the agent beside it.
struct ExecProcess {
    exec: Exec,
    child: Child,
    beside: Beside,
    received: Received,
    log: Arc<Log>,
    membership: Note,
}

impl ExecProcess {
    async fn until_ended(mut self) -> Result<u8, Failure> {
        let mut look = ticks_every(ADDRESS_EVERY);
        let mut seen = self.exec.address.clone();
        let mut announced = true;
        let mut note = ticks_every(NOTE_AT_START_EVERY);
        let (begun, mut noted) = (Instant::now(), Instant::now());
        let mut reach = ticks_every(REACH_EVERY);
        reach.tick().await;
        let mut unreached = None;
        let (hangups, mut reloaded) = self.exec.keep_reading(self.log.clone());
        loop {
            // Cancel safe: our children's ends and our signals are kept until they are received.
            tokio::select! {
                ended = self.child.ended() => return Ok(self.leave(ended).await),
                Some(next) = reloaded.recv() => self.go_by(next),
                signal = self.received.next() => {
                    if is_stop(signal) {
                        return Ok(self.stop(signal).await);
                    }
                    if signal == Signal::SIGHUP {
                        // A reload that is under way reads what there is now, or is followed by another.
                        let _ = hangups.try_send(());
                        self.beside.look.send_modify(|count| *count += 1);
                    }
                    self.child.signal(signal);
                }
                _ = note.tick() => {
                    let at_start = begun.elapsed() < AWAITED_MAX && self.membership.is_awaited();
                    if at_start || noted.elapsed() >= NOTE_EVERY {
                        noted = Instant::now();
                        self.membership.renew(&self.exec).await;
                    }
                }
                _ = reach.tick() => {
                    let why = self.exec.unreached().await;
                    if let Some(why) = why.as_ref().filter(|why| unreached.as_ref() != Some(*why)) {
                        error!("{why}");
                    }
                    unreached = why;
                }
                _ = look.tick(), if !self.exec.is_fixed => {
                    let last = std::mem::replace(&mut seen, self.address_now().await);
                    // Twice the same: an interface that is being set up may show another one for a moment.
                    if seen == last && seen != self.exec.address {
                        self.move_to(seen.clone());
                        announced = false;
                    }
                    if !announced {
                        announced = self.exec.announce().await.is_ok();
                    }
                }
            }
        }
    }

    /// Goes by settings that were read again. The server is not started anew, and reads its own config by its own
    /// commands.
    fn go_by(&mut self, next: Config) {
        self.exec.config = next;
        self.tell_agent();
    }

    /// The data goes first: whatever is wrong with the agent's settings, the server goes on, and the agent as it was.
    fn tell_agent(&self) {
        match self.exec.agent_config() {
            Ok(config) => drop(self.beside.config.send_replace(config)),
            Err(failure) => warn!("the agent's settings stay: {}", failure.in_one_line()),
        }
    }

    /// The address that it has now, or the last one while it has none. The way to Consul may change from one of the
    /// machine's networks to another: the one that others know stays as long as the machine has it, and where it leads
    /// is theirs to say.
    async fn address_now(&self) -> Address {
        if announce::is_here(self.exec.address.host()).await {
            return self.exec.address.clone();
        }
        let now = announce::towards(&self.exec.config.consul).await.ok();
        let now = now.and_then(|ip| Address::new(&ip.to_string(), self.exec.address.port()).ok());
        now.unwrap_or_else(|| self.exec.address.clone())
    }

    fn move_to(&mut self, address: Address) {
        warn!("the address has changed from {} to {address}", self.exec.address);
        self.exec.address = address;
        self.tell_agent();
    }

    /// The server has ended by itself.
    async fn leave(self, ended: Ended) -> u8 {
        warn!("{} {ended}", self.exec.command.role);
        self.until_replaced().await;
        self.beside.stop().await;
        ended.exit_code()
    }

    /// The agent alone knows for certain that the server has died: it does not leave before it has acted on that.
    async fn until_replaced(&self) {
        let exec = &self.exec;
        if exec.is_node {
            return self.until_shard_replaced().await;
        }
        let group = exec.config.groups.first().filter(|_| exec.command.role == ServerKind::Redis);
        let fast = |group: &&GroupConfig| group.policy.fast_failover != FastFailover::Off;
        let Some(group) = group.filter(fast) else { return };
        let Ok(consul) = Consul::new(&exec.config.consul) else { return };
        let (begun, clock) = (Instant::now(), Clock::start());
        while begun.elapsed() < REPLACED_MAX {
            let reading = consul.group(&group.layout, ReadMode::Consistent, &clock);
            let Ok(Ok(answer)) = tokio::time::timeout(REPLACED_MAX, reading).await else { return };
            let Some(record) = answer.value.record().cloned() else { return };
            let noted = record.death.is_some_and(|death| death.instance == exec.address);
            match record.writer {
                Some(writer) if writer.address != exec.address => return,
                None if !noted => return,
                // Nothing is asked for, and the agent has said why.
                Some(_) if begun.elapsed() > NOTED_MAX => return,
                Some(_) | None => tokio::time::sleep(REPLACED_EVERY).await,
            }
        }
    }

    /// The same where it was a node of a cluster: until another node owns its slots.
    async fn until_shard_replaced(&self) {
        let exec = &self.exec;
        let Some(cluster) = exec.config.clusters.first() else { return };
        let Ok(consul) = Consul::new(&exec.config.consul) else { return };
        let (begun, clock) = (Instant::now(), Clock::start());
        while begun.elapsed() < REPLACED_MAX {
            let reading = consul.cluster(&cluster.policy.layout, &clock);
            let Ok(Ok(store)) = tokio::time::timeout(REPLACED_MAX, reading).await else { return };
            let Some(record) = store.record() else { return };
            let here = |id| record.nodes.get(id).is_some_and(|n| n.address == exec.address);
            let hastened =
                record.claims.hastened.as_ref().is_some_and(|hastened| here(&hastened.dead));
            let owns = record.shards.values().any(|shard| here(&shard.owner));
            if !owns || (!hastened && begun.elapsed() > NOTED_MAX) {
                return;
            }
            tokio::time::sleep(REPLACED_EVERY).await;
        }
    }

    /// We are to stop: first the agent, which puts in order what the group needs, then the server.
    async fn stop(mut self, signal: Signal) -> u8 {
        let role = self.exec.command.role;
        info!("{signal}: the agent leaves, then {role} stops");
        let mut leaving = tokio::spawn(self.beside.stop());
        let ended = loop {
            tokio::select! {
                _ = &mut leaving => break None,
                ended = self.child.ended() => break Some(ended),
                // A second signal is passed on at once.
                again = self.received.next() => self.child.signal(again),
            }
        };
        if ended.is_none() {
            // Leaving may have made it another one's replica, or a primary.
            let _ = tokio::time::timeout(NOTE_TIMEOUT, self.membership.renew(&self.exec)).await;
            self.child.signal(signal);
        }
        let ended = loop {
            tokio::select! {
                ended = self.child.ended() => break ended,
                again = self.received.next() => self.child.signal(again),
            }
        };
        if !leaving.is_finished() {
            let _ = leaving.await;
        }
        info!("{role} {ended}");
        ended.exit_code()
    }
}
