//! A server of a host as a process: it is started, killed, stopped and thawed, and nothing waits for it.

use std::path::{Path, PathBuf};

use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools::Tool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A Redis, a Sentinel or an agent. Under `exec` the first two are the children of a process with an agent.
#[derive(Debug)]
pub struct Server {
    /// Its name, and that of its log.
    pub name: String,
    /// Its directory, with `server.conf` of a server.
    pub dir: PathBuf,
    tool: Tool,
    args: Vec<String>,
    env: Vec<(String, String)>,
    has_child: bool,
    process: Option<Process>,
}

impl Server {
    /// One that is not started yet.
    pub fn new(
        name: &str,
        dir: &Path,
        tool: Tool,
        args: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Self {
        let (name, dir) = (name.to_owned(), dir.to_owned());
        Self { name, dir, tool, args, env, has_child: false, process: None }
    }

    /// The same with a child that is the server.
    #[must_use]
    pub fn with_child(self) -> Self {
        Self { has_child: true, ..self }
    }

    /// Starts it, unless it runs.
    pub fn start(&mut self) -> Result<(), String> {
        if self.process.as_mut().is_some_and(|process| process.ended().is_none()) {
            return Ok(());
        }
        let started =
            Process::start(&self.name, &self.tool, &self.args, &self.env, &self.dir, Life::WithUs);
        self.process = Some(started.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Ends it at once. What `exec` runs ends with it.
    pub fn kill(&mut self) {
        if let Some(child) = self.child() {
            let _ = kill(child, Signal::SIGKILL);
        }
        self.process = None;
    }

    /// Sends a signal to the server itself, or with `to_agent` to the process with an agent that it is a child of.
    pub fn signal(&self, signal: Signal, to_agent: bool) -> Result<(), String> {
        let own = self.process.as_ref().ok_or_else(|| format!("{} does not run", self.name))?;
        match self.child().filter(|_| !to_agent) {
            Some(child) => kill(child, signal).map_err(|error| error.to_string()),
            None => own.signal(signal).map_err(|error| error.to_string()),
        }
    }

    /// It was started, and has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_some())
    }

    fn child(&self) -> Option<Pid> {
        if !self.has_child {
            return None;
        }
        let log = self.process.as_ref()?.log();
        let id = log.lines().rev().find_map(|line| line.split("runs as process ").nth(1))?;
        Some(Pid::from_raw(id.trim().parse().ok()?))
    }

    /// Its process.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }
}
