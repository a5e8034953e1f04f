//! A client that asks Consul's DNS for the writer all the time.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use consul_redis::dns::Names;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The name.
const NAME: &str = "redis-primary.service.consul";
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// What was answered so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many answers there were.
    pub answers: u64,
    /// How many of them had no writer.
    pub empty: u64,
    /// Those with two writers.
    pub wrong: Vec<String>,
    /// The writer of the last answer.
    last: Option<String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, empty, wrong, .. } = self;
        write!(f, "{answers} answers, {empty} without a writer, with two: {wrong:?}")
    }
}

/// A task that asks Consul's DNS for the writer, and counts the answers.
pub struct Reader {
    seen: watch::Receiver<Seen>,
    _task: AbortOnDropHandle<()>,
}

impl Reader {
    /// Asks this DNS from now on.
    pub fn start(dns: SocketAddr) -> Self {
        let (send, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            let names = Names::new(Some(dns));
            loop {
                if let Ok(found) = names.a(NAME).await {
                    send.send_modify(|seen| {
                        seen.answers += 1;
                        seen.empty += u64::from(found.is_empty());
                        seen.last = found.first().map(ToString::to_string);
                        if found.len() > 1 {
                            seen.wrong.push(format!("{found:?}"));
                        }
                    });
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// The writer of the last answer.
    pub fn last(&self) -> Option<String> {
        self.seen.borrow().last.clone()
    }

    /// Everything so far.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}
