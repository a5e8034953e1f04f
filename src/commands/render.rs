//! `consul-redis render`: the `[[template]]`s of the config, without an agent.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::RenderArgs;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::consul::client::Consul;
use crate::exit::{Exit, Failure};
use crate::reload::ConfigSource;
use crate::render::task::Renderer;
use crate::telemetry::{self, Log};

/// Renders once, or until SIGTERM or SIGINT.
///
/// # Errors
/// A [`Failure`] when there is nothing to render, or with `--once` and `--print` when something could not be rendered.
pub async fn run(
    config: Config,
    args: &RenderArgs,
    settings: &ConfigSource,
) -> Result<(), Failure> {
    let renderer = renderer(&config)?;
    if args.how.print {
        print!("{}", renderer.print().await?);
        return Ok(());
    }
    let log = telemetry::start(&config.log, config.log_format)?;
    if args.how.once {
        return renderer.once().await;
    }
    watch(renderer, settings, &log).await
}

/// What is to be rendered, read and parsed.
///
/// # Errors
/// A [`Failure`] when that is nothing, or cannot be.
pub(super) fn renderer(config: &Config) -> Result<Renderer, Failure> {
    let consul = Consul::new(&config.consul)?;
    Renderer::new(config, consul, Clock::start())?.ok_or_else(|| {
        ConfigError::Usage("there is nothing to render: the config has no [[template]]".to_owned())
            .into()
    })
}

async fn watch(renderer: Renderer, settings: &ConfigSource, log: &Log) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // A run reads the templates anew when it begins.
    let (_look, looks) = watch::channel(0_u64);
    let (tell, _told) = watch::channel(Vec::new());
    let run = |renderer: Renderer| {
        Box::pin(renderer.run(CancellationToken::new(), looks.clone(), tell.clone()))
    };
    let mut running = run(renderer);
    loop {
        // Cancel safe: signals are kept until they are received.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                info!("SIGHUP: reading the config and all templates again");
                match next(settings, log) {
                    Ok(next) => running = run(next),
                    Err(failure) => warn!("refused, what runs stays: {}", failure.in_one_line()),
                }
            }
            () = &mut running => {
                return Err(Failure::new(Exit::Internal, "rendering ended unexpectedly"));
            }
        }
    }
}

fn next(settings: &ConfigSource, log: &Log) -> Result<Renderer, Failure> {
    let config = settings.read()?;
    let next = renderer(&config)?;
    log.set(&config.log)?;
    Ok(next)
}
