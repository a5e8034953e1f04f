//! The server as our child: started, signalled, reaped, and its end passed on.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tracing::debug;

use crate::exit::{Exit, Failure};

/// What is passed on to the server. SIGTERM and SIGINT stop it; of those it gets its own when the agent has stopped.
const PASSED_ON: [Signal; 4] = [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// The code that we end with in its stead, as a shell would: 128 and the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    fn of(status: WaitStatus) -> Option<(Pid, Self)> {
        match status {
            // A process has eight bits for it.
            WaitStatus::Exited(pid, code) => {
                Some((pid, Self::Code(u8::try_from(code & 0xff).ok()?)))
            }
            WaitStatus::Signaled(pid, signal, _) => Some((pid, Self::Signal(signal as i32))),
            _ => None,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(number) => {
                let name = Signal::try_from(*number).map_or("unknown", Signal::as_str);
                write!(f, "was ended by signal {number} ({name})")
            }
        }
    }
}

/// The server.
///
/// All our children are waited for here and nowhere else: as a container's first process we inherit those of others,
/// and to wait for one of them alone would leave the rest as zombies.
pub struct Child {
    pid: Pid,
    ended: Option<Ended>,
    died: Signals,
}

impl Child {
    /// Starts it in `dir`, without those variables of the environment that are `withheld`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        command: &[String],
        dir: &Path,
        withheld: &BTreeSet<String>,
    ) -> Result<Self, Failure> {
        let [program, args @ ..] = command else {
            return Err(Failure::new(Exit::Config, "no command"));
        };
        // As a container's first process we inherit orphans anyway; elsewhere this makes it so.
        prctl::set_child_subreaper(true).map_err(std::io::Error::from)?;
        // Listened to before there is a child that could die.
        let died = signal(SignalKind::child())?;
        let mut command = std::process::Command::new(program);
        // A group of its own: Ctrl-C in our terminal is for us, and we pass it on when it is time.
        command.args(args).current_dir(dir).process_group(0);
        for name in withheld {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(|error| {
            Failure::new(Exit::Config, format!("cannot start {program}: {error}"))
                .hint("is it installed, and on PATH?")
        })?;
        let pid =
            i32::try_from(child.id()).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        Ok(Self { pid: Pid::from_raw(pid), ended: None, died })
    }

    /// The process id, also after its end.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits for its end, and meanwhile for that of every process that was left to us. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        loop {
            self.reap();
            if let Some(ended) = self.ended {
                return ended;
            }
            // Signals that arrive between the two are kept.
            if self.died.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => match Ended::of(status) {
                    Some((pid, ended)) if pid == self.pid => self.ended = Some(ended),
                    Some((pid, ended)) => debug!("process {pid}, left to us, {ended}"),
                    None => {}
                },
                Err(Errno::EINTR) => {}
                Err(error) => {
                    debug!("waitpid: {error}");
                    return;
                }
            }
        }
    }

    /// Sends it a signal; none once it has ended, for its id may be another process's then.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none()
            && let Err(error) = kill(self.pid, signal)
        {
            debug!("{signal} to {}: {error}", self.pid);
        }
    }
}

/// The signals that we are sent.
pub struct Received {
    terminate: Signals,
    interrupt: Signals,
    passed_on: Vec<(Signal, Signals)>,
}

impl Received {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system will not have it.
    pub fn listen() -> Result<Self, Failure> {
        let kind = |signal: Signal| SignalKind::from_raw(signal as i32);
        let listen = |s: Signal| Ok::<_, Failure>((s, signal(kind(s))?));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            passed_on: PASSED_ON.into_iter().map(listen).collect::<Result<_, _>>()?,
        })
    }

    /// The next one. Cancel safe: signals are kept until they are received.
    pub async fn next(&mut self) -> Signal {
        let passed_on = self.passed_on.iter_mut().map(|(signal, listener)| {
            let signal = *signal;
            Box::pin(async move {
                if listener.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
                signal
            })
        });
        let passed_on = futures_util::future::select_all(passed_on);
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            (signal, ..) = passed_on => signal,
        }
    }
}

/// It asks us to stop.
pub fn is_stop(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kept_and_signals_are_128_and_more() {
        let pid = Pid::from_raw(7);
        let code = |status| Ended::of(status).map(|(_, ended)| ended.exit_code());
        assert_eq!(code(WaitStatus::Exited(pid, 0)), Some(0));
        assert_eq!(code(WaitStatus::Exited(pid, 255)), Some(255));
        assert_eq!(code(WaitStatus::Signaled(pid, Signal::SIGKILL, false)), Some(137));
        assert_eq!(code(WaitStatus::Signaled(pid, Signal::SIGTERM, false)), Some(143));
        assert_eq!(code(WaitStatus::StillAlive), None);
        let killed = Ended::Signal(9).to_string();
        assert_eq!(killed, "was ended by signal 9 (SIGKILL)");
    }
}
