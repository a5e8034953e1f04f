//! The agent's tasks: each is critical, and the end of one is the end of the process, unless it was stopped.

use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// How long tasks have to put things in order once the agent stops. Together with the rest, less
/// than the 2 s that a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A set of tasks that live and die together.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<EndedTask>,
    stop: CancellationToken,
}

/// How long one task has to end when only it is stopped: a client of the HTTP server may not let go.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A task ended by itself.
struct EndedTask {
    name: &'static str,
    was_told: bool,
}

/// One task that may be ended before the others.
pub struct TaskHandle {
    stop: CancellationToken,
    ended: CancellationToken,
    task: AbortHandle,
}

impl TaskHandle {
    /// Stops it, and waits until it has ended; a task that does not within a second is aborted.
    pub async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(END_TIMEOUT, self.ended.cancelled()).await.is_err() {
            self.task.abort();
            self.ended.cancelled().await;
        }
    }
}

/// A task ended that should have gone on.
#[derive(Debug, thiserror::Error)]
#[error("{0} ended unexpectedly")]
pub struct TaskEnded(pub String);

impl Supervisor {
    /// Runs a task. It may end only after the token that it is given was cancelled.
    pub fn spawn<F>(
        &mut self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) -> TaskHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, ended) = (self.stop.child_token(), CancellationToken::new());
        // Boxed: a future that is awaited inside of another one is there twice, and a group's is large.
        let task = Box::pin(task(stop.clone()));
        let (told, gone) = (stop.clone(), ended.clone().drop_guard());
        let task = self.tasks.spawn(async move {
            let _gone = gone;
            task.await;
            EndedTask { name, was_told: told.is_cancelled() }
        });
        TaskHandle { stop, ended, task }
    }

    /// Waits until a task has ended that should have gone on. Cancel safe.
    pub async fn lost(&mut self) -> TaskEnded {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(ended)) if ended.was_told => {}
                Some(Ok(ended)) => return TaskEnded(ended.name.to_owned()),
                // Aborted by `TaskHandle::end`.
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => return TaskEnded(error.to_string()),
                None => std::future::pending().await,
            }
        }
    }

    /// Stops all tasks in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            warn!("not everything was put in order in time");
            self.tasks.shutdown().await;
        }
    }

    /// Stops all tasks at once, since one was lost.
    pub async fn give_up(mut self, lost: TaskEnded) -> TaskEnded {
        error!("{} ended unexpectedly, stopping", lost.0);
        self.stop.cancel();
        self.tasks.shutdown().await;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_does_not_end_is_cut_short() {
        let mut supervisor = Supervisor::default();
        let part = supervisor.spawn("one that hangs", |_| std::future::pending());
        part.end().await;
        supervisor.spawn("one that goes by itself", |_| async {});
        assert_eq!(supervisor.lost().await.0, "one that goes by itself");
    }

    #[tokio::test]
    async fn only_a_task_that_was_not_stopped_is_lost() {
        let mut supervisor = Supervisor::default();
        let part = supervisor.spawn("one that may go", CancellationToken::cancelled_owned);
        part.end().await;
        supervisor.spawn("one that goes by itself", |_| async {});
        assert_eq!(supervisor.lost().await.0, "one that goes by itself");
    }
}
