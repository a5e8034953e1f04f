//! `consul-redis agent`

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::agent::{self, Agent};
use crate::config::Config;
use crate::exit::Failure;
use crate::reload::{self, ConfigSource};
use crate::systemd;
use crate::telemetry;

/// Runs the agent until SIGTERM or SIGINT; SIGHUP has it read its config again.
///
/// # Errors
/// A [`Failure`] when it cannot start or loses a part of itself.
pub async fn run(config: Config, settings: ConfigSource) -> Result<(), Failure> {
    Agent::new(config.clone())?;
    let log = telemetry::start(&config.log, config.log_format)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (look, looks) = watch::channel(0_u64);
    let (configs, config) = watch::channel(config);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            systemd::reloading();
            let now = configs.borrow().clone();
            match reload::again(
                settings.common.config.as_deref(),
                || Ok(settings.read_again(&now)?),
                &now,
                &log,
            )
            .await
            {
                Some(next) => drop(configs.send_replace(next)),
                None => systemd::ready(),
            }
            look.send_modify(|count| *count += 1);
        }
    });
    let stop = async move {
        // Cancel safe: signals are kept until they are received.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    agent::run(config, looks, stop).await
}
