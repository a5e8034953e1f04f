//! `consul-redis agent`

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::agent::{Agent, Leaving};
use crate::config::Config;
use crate::exit::Failure;
use crate::telemetry;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// A [`Failure`] when it cannot start or loses a part of itself.
pub async fn run(config: Config) -> Result<(), Failure> {
    let agent = Agent::new(config.clone())?;
    telemetry::start(&config.log, config.log_format)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (look, looks) = watch::channel(0_u64);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("SIGHUP: looking at everything now");
            look.send_modify(|count| *count += 1);
        }
    });
    let stop = async move {
        // Cancel safe: signals are kept until they are received.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Leaving::ForGood
    };
    tokio::pin!(stop);
    tokio::select! {
        _ = &mut stop => return Ok(()),
        ready = agent.reach_consul() => ready?,
    }
    agent.run(stop, looks).await
}
