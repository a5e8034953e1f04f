//! `consul-redis render`: the `[[template]]`s of the config, without an agent.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::RenderArgs;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::consul::client::Consul;
use crate::exit::{Code, Failure};
use crate::render::task::Renderer;
use crate::telemetry;

/// Renders once, or until SIGTERM or SIGINT.
///
/// # Errors
/// A [`Failure`] when there is nothing to render, or with `--once` and `--print` when something could not be rendered.
pub async fn run(config: Config, args: &RenderArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let renderer = Renderer::new(&config, consul, Clock::start())?;
    let renderer = renderer.ok_or_else(|| {
        ConfigError::Usage("there is nothing to render: the config has no [[template]]".to_owned())
    })?;
    if args.how.print {
        print!("{}", renderer.print().await?);
        return Ok(());
    }
    telemetry::start(&config.log, config.log_format)?;
    if args.how.once {
        return renderer.once().await;
    }
    watch(renderer).await
}

async fn watch(renderer: Renderer) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (look, looks) = watch::channel(0_u64);
    let (tell, _told) = watch::channel(Vec::new());
    let running = renderer.run(CancellationToken::new(), looks, tell);
    tokio::pin!(running);
    loop {
        // Cancel safe: signals are kept until they are received.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                info!("SIGHUP: reading all templates anew");
                look.send_modify(|count| *count += 1);
            }
            () = &mut running => {
                return Err(Failure::new(Code::Internal, "rendering ended unexpectedly"));
            }
        }
    }
}
