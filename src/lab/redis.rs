//! Redis and Sentinel servers of a lab, and questions to them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::Value;

use super::LabError;
use super::net::Forward;
use super::process::{Life, Process};
use super::tools::Tool;
use super::wait::until;
use crate::core::identity::address::Address;
use crate::core::known::observed::{InstanceAnswer, Role};
use crate::instance::probe;
use crate::redis_link::{Link, LinkSettings, fields};

/// How long a server may take to answer its first PING.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take for a question of a test, which says nothing of how fast it is: on a machine that runs many tests
/// at once, half a second is too short now and then.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The same login, for a question that may take its time.
#[must_use]
pub fn patiently(login: &LinkSettings) -> LinkSettings {
    LinkSettings { timeout: ASK_TIMEOUT, ..login.clone() }
}

/// A Redis or a Sentinel.
#[derive(Debug)]
pub struct LabServer {
    /// Where it listens.
    pub address: Address,
    /// How to log in to it.
    pub login: LinkSettings,
    name: String,
    tool: Tool,
    args: Vec<String>,
    dir: PathBuf,
    life: Life,
    process: Option<Process>,
    _forward: Option<Forward>,
}

/// What a server is started from.
pub struct ServerSpec<'a> {
    /// Its name in messages, and of its directory.
    pub name: &'a str,
    /// Its program.
    pub tool: Tool,
    /// The address it listens at.
    pub ip: IpAddr,
    /// What it announces itself as: that address, or a name that leads to it.
    pub host: &'a str,
    /// The port it listens on.
    pub port: u16,
    /// The port that it announces, from where everything is forwarded to it; `None`: the one that it listens on.
    pub published: Option<u16>,
    /// Its config file.
    pub config: &'a str,
    /// More arguments.
    pub args: &'a [&'a str],
    /// How to log in to it.
    pub login: LinkSettings,
    /// Where its directory is made.
    pub dir: &'a Path,
    /// How long it lives.
    pub life: Life,
}

impl LabServer {
    /// Starts a server from a config that `{ip}`, `{port}`, `{host}` and `{announced}` stand in: where it listens, and
    /// what it announces.
    ///
    /// # Errors
    /// When it does not answer in time: with the end of its log.
    pub async fn start(spec: ServerSpec<'_>) -> Result<Self, LabError> {
        let port = spec.port;
        let dir = spec.dir.join(spec.name);
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("server.conf");
        let ip = spec.ip.to_string();
        let config = spec.config.replace("{ip}", &ip).replace("{host}", spec.host);
        let config = config.replace("{port}", &port.to_string());
        let announced = spec.published.unwrap_or(port);
        let config = config.replace("{announced}", &announced.to_string());
        std::fs::write(&file, config)?;
        let mut args = vec![file.display().to_string()];
        args.extend(spec.args.iter().map(|arg| (*arg).to_owned()));
        let address = Address::new(spec.host, announced).map_err(LabError::new)?;
        let from = address.ip().filter(|_| spec.published.is_some());
        let forward = from.map(|from| {
            let to = SocketAddr::new(spec.ip, port);
            Forward::start(SocketAddr::new(from, announced), to)
        });
        let mut server = Self {
            address,
            _forward: forward.transpose()?,
            login: spec.login,
            name: spec.name.to_owned(),
            tool: spec.tool,
            args,
            dir,
            life: spec.life,
            process: None,
        };
        server.restart().await?;
        Ok(server)
    }

    /// Starts the process again, with the config as the server has left it.
    ///
    /// # Errors
    /// When it does not answer in time: with the end of its log.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.kill();
        self.process =
            Some(Process::start(&self.name, &self.tool, &self.args, &[], &self.dir, self.life)?);
        let what = format!("{} answers", self.name);
        match until(&what, START_TIMEOUT, || self.ask(&["PING"])).await {
            Ok(_) => Ok(()),
            Err(error) => Err(LabError(format!("{error}\n{}", self.log()))),
        }
    }

    /// The same by another program, as after an upgrade.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub async fn upgrade(&mut self, tool: Tool) -> Result<(), LabError> {
        self.tool = tool;
        self.restart().await
    }

    /// One command, on a connection of its own.
    ///
    /// # Errors
    /// Without an answer, or with an error for an answer.
    pub async fn ask(&self, command: &[&str]) -> Result<Value, LabError> {
        let mut link = self.link().await?;
        let answer = match saves(command) {
            true => link.call_to_save(command).await,
            false => link.call(command).await,
        };
        answer.map_err(LabError::new)
    }

    /// Has this Sentinel replace the primary of a group, and returns once it has chosen a replica. A Sentinel accepts
    /// the command and gives up two rounds later where its last INFO of every replica has grown too old meanwhile, on a
    /// busy machine (`docs/facts/sentinel.md` 20): it is asked again then.
    ///
    /// # Errors
    /// When it refuses, or has chosen none in time.
    pub async fn fail_over(&self, group: &str) -> Result<(), LabError> {
        self.fail_over_by(&["SENTINEL", "FAILOVER", group], group).await
    }

    /// As [`Self::fail_over`], by another form of the command.
    ///
    /// # Errors
    /// As there.
    pub async fn fail_over_by(&self, command: &[&str], group: &str) -> Result<(), LabError> {
        const CHOOSES: [&str; 2] = ["wait_start", "select_slave"];
        let mut link = self.link().await?;
        let before = self.named(&mut link, group).await?.0;
        let until = tokio::time::Instant::now() + START_TIMEOUT;
        while tokio::time::Instant::now() < until {
            link.call(command).await.map_err(LabError::new)?;
            loop {
                let (primary, state) = self.named(&mut link, group).await?;
                match state {
                    _ if primary != before => return Ok(()),
                    None => break,
                    Some(state) if !CHOOSES.contains(&state.as_str()) => return Ok(()),
                    Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
        Err(LabError(format!("{} gives every failover up", self.name)))
    }

    /// How far this Sentinel is with the failover of a group that it leads.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn failover_state(&self, group: &str) -> Result<Option<String>, LabError> {
        Ok(self.named(&mut self.link().await?, group).await?.1)
    }

    /// The primary that this Sentinel names, and the state of the failover that it leads.
    async fn named(
        &self,
        link: &mut Link,
        group: &str,
    ) -> Result<([String; 2], Option<String>), LabError> {
        let answer = link.call(&["SENTINEL", "MASTER", group]).await.map_err(LabError::new)?;
        let mut master = fields(&answer).map_err(LabError)?;
        let mut take = |name: &str| master.remove(name);
        let state = take("failover-state").filter(|state| state != "none");
        Ok((["ip", "port"].map(|name| take(name).unwrap_or_default()), state))
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn probe(&self) -> Result<InstanceAnswer, LabError> {
        probe(&mut self.link().await?).await.map_err(LabError::new)
    }

    /// The address that it follows; `None` when it is a primary.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn follows(&self) -> Result<Option<Address>, LabError> {
        Ok(match self.probe().await?.role {
            Role::Primary { .. } => None,
            Role::Replica { of, .. } => Some(of),
        })
    }

    /// A connection to it.
    ///
    /// # Errors
    /// Without one.
    pub async fn link(&self) -> Result<Link, LabError> {
        Link::open(&self.address, &patiently(&self.login))
            .await
            .map_err(|error| LabError(format!("{} at {}: {error}", self.name, self.address)))
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends a signal: SIGSTOP freezes it, SIGCONT thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        match &self.process {
            Some(process) => process.signal(signal),
            None => Err(LabError(format!("{} does not run", self.name))),
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Its process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// It is answered once a file is on the disk.
fn saves(command: &[&str]) -> bool {
    matches!(
        command,
        ["SAVE"]
            | ["CONFIG", "REWRITE"]
            | ["SENTINEL", "SET" | "MONITOR" | "REMOVE" | "FLUSHCONFIG", ..]
    )
}
