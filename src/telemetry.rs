//! Logs: to stderr, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock::wall;
use crate::config::ConfigError;
use crate::config::file::LogFormat;

struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{:.3}", wall())
    }
}

/// Sets up the log of this process.
///
/// # Errors
/// [`ConfigError::Usage`] when `level` is no level or filter.
pub fn start(level: &str, format: LogFormat) -> Result<(), ConfigError> {
    // A bare level is ours; the libraries below only speak up about what is wrong.
    let directives = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("warn,consul_redis={level}")
    };
    let filter = EnvFilter::try_new(&directives).map_err(|_| {
        ConfigError::Usage(format!(
            "`{level}` is no log level: write error, warn, info, debug, trace, or a filter"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Rfc3339)
        .with_writer(std::io::stderr);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Text => {
            let _ = builder.with_target(false).with_ansi(colour).try_init();
        }
        LogFormat::Json => {
            let _ = builder.json().flatten_event(true).try_init();
        }
    }
    Ok(())
}
