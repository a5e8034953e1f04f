//! The agent beside the server: run, and run again when it fails, for as long as the server does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent;
use crate::config::Config;
use crate::retry::Retry;

/// Pause before a failed agent is started again: the first and the longest one.
const AGENT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the agent may take to leave, before the server is stopped all the same.
pub const AGENT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The agent beside the server.
pub struct Beside {
    /// Sends the agent another config.
    pub config: watch::Sender<Config>,
    /// Has the agent look at everything now.
    pub look: watch::Sender<u64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Beside {
    /// Starts the agent as a task, and again after each error.
    pub fn start(config: Config) -> Self {
        let (config, configs) = watch::channel(config);
        let (look, looks) = watch::channel(0);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_agent(configs, looks, stop.clone()));
        Self { config, look, stop, task }
    }

    /// Lets it leave: it deregisters the server, and does whatever else it is configured to do on leaving.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(AGENT_STOP_TIMEOUT, self.task).await.is_err() {
            warn!("the agent did not leave within {} s", AGENT_STOP_TIMEOUT.as_secs());
        }
    }
}

/// Runs an agent, and another one whenever it fails, until `stop`.
async fn keep_agent(
    configs: watch::Receiver<Config>,
    looks: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let mut retry = Retry::between(AGENT_PAUSE.0, AGENT_PAUSE.1);
    while !stop.is_cancelled() {
        let started = Instant::now();
        let ended = agent::run(configs.clone(), looks.clone(), stop.cancelled()).await;
        let Err(failure) = ended else { continue };
        if started.elapsed() > AGENT_PAUSE.1 {
            retry.reset();
        }
        let pause = retry.next_delay();
        let seconds = pause.as_secs().max(1);
        warn!("no agent for {seconds} s, the server goes on: {}", failure.message);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
