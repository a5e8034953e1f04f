//! One server as a process: started, stopped, frozen, killed, and ended with its owner.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tokio::time::Instant;

use super::tools::Tool;
use super::{LabError, contention};

/// How long a server lives.
#[derive(Debug, Clone, Copy)]
pub enum Life {
    /// Until it is dropped, or we die.
    WithUs,
    /// Until it is dropped; a server that is forgotten (`std::mem::forget`) outlives us.
    CanOutliveUs,
}

/// A running server.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `tool`, with its output in `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        tool: &Tool,
        args: &[String],
        env: &[(String, String)],
        dir: &Path,
        life: Life,
    ) -> Result<Self, LabError> {
        let log = dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = match life {
            // The kernel ends it when we die, however we die.
            Life::WithUs => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL"]);
                command
            }
            // A session of its own, so that Ctrl-C in our terminal does not reach it.
            Life::CanOutliveUs => Command::new("setsid"),
        };
        if let Some(namespace) = &tool.namespace {
            let mut net = OsString::from("--net=");
            net.push(namespace);
            command.arg("nsenter").arg(net);
        }
        command.arg(&tool.path).args(args).current_dir(dir);
        if let Some(path) = &tool.library_path {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.envs(tool.env.iter().chain(env).cloned());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| {
            LabError(format!("cannot start {name} ({}): {error}", tool.path.display()))
        })?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit code, once it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok()??;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for its end, and returns its exit code.
    ///
    /// # Errors
    /// When it still runs after `deadline`, and the time in which the world waited for a processor: with its log.
    pub async fn end(&mut self, deadline: Duration) -> Result<i32, LabError> {
        let start = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            let took = start.elapsed();
            if contention::is_over(deadline, took) {
                let ms = took.as_millis();
                return Err(LabError(format!("{} runs after {ms} ms\n{}", self.name, self.log())));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let id = i32::try_from(self.child.id()).map_err(LabError::new)?;
        kill(Pid::from_raw(id), signal)
            .map_err(|error| LabError(format!("{}: {signal}: {error}", self.name)))
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
