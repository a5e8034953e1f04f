//! `consul-redis exec -- redis-server ...`

use crate::cli::ExecArgs;
use crate::config::Config;
use crate::exec::{Exec, run as run_server};
use crate::exit::Failure;
use crate::reload::ConfigSource;
use crate::telemetry;

/// Runs a server until it ends; the exit code is the server's.
///
/// # Errors
/// A [`Failure`] when the server cannot be started.
pub async fn run(config: Config, args: &ExecArgs, settings: ConfigSource) -> Result<u8, Failure> {
    let (level, format) = (config.log.clone(), config.log_format);
    let exec = Exec::prepare(config, args, settings).await?;
    let log = telemetry::start(&level, format)?;
    run_server(exec, log).await
}
