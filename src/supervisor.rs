//! The agent's tasks: each is critical, and the end of one is the end of the process.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// How long tasks have to put things in order once the agent stops. Together with the rest, less
/// than the 2 s that a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A set of tasks that live and die together.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<&'static str>,
    /// Told to tasks when the agent stops.
    pub stop: CancellationToken,
}

/// A task ended that should have gone on.
#[derive(Debug, thiserror::Error)]
#[error("{0} ended unexpectedly")]
pub struct TaskEnded(pub String);

impl Supervisor {
    /// Runs a task. It may end only after [`Supervisor::stop`] was cancelled.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until `signal`, then stops all tasks in order.
    ///
    /// # Errors
    /// [`TaskEnded`] when a task ended before that.
    pub async fn run(mut self, signal: impl Future<Output = ()>) -> Result<(), TaskEnded> {
        let ended = tokio::select! {
            () = signal => None,
            Some(ended) = self.tasks.join_next() => Some(ended),
        };
        self.stop.cancel();
        if let Some(ended) = ended {
            let name = ended.map_or_else(|error| error.to_string(), str::to_owned);
            error!("{name} ended unexpectedly, stopping");
            self.tasks.shutdown().await;
            return Err(TaskEnded(name));
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            warn!("not everything was put in order in time");
            self.tasks.shutdown().await;
        }
        Ok(())
    }
}
