//! Logs: to stderr, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::wall;
use crate::config::ConfigError;
use crate::config::file::LogFormat;

struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{:.3}", wall())
    }
}

/// The log of this process, once it is set up.
pub struct Log {
    filter: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
}

impl Log {
    /// Says more, or less, from now on.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] when `level` is no level or filter.
    pub fn set(&self, level: &str) -> Result<(), ConfigError> {
        (self.filter)(filter(level)?).map_err(|error| ConfigError::Usage(error.to_string()))
    }
}

/// What a level or filter lets through.
///
/// # Errors
/// [`ConfigError::Usage`] when `level` is neither.
pub fn filter(level: &str) -> Result<Targets, ConfigError> {
    // A bare level is ours; the libraries below only speak up about what is wrong.
    let directives = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("warn,consul_redis={level}")
    };
    directives.parse().map_err(|_| {
        ConfigError::Usage(format!(
            "`{level}` is no log level: write error, warn, info, debug, trace, or a filter"
        ))
    })
}

/// Sets up the log of this process.
///
/// # Errors
/// [`ConfigError::Usage`] when `level` is no level or filter.
pub fn start(level: &str, format: LogFormat) -> Result<Log, ConfigError> {
    let filter = filter(level)?;
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_timer(Rfc3339)
        .with_writer(std::io::stderr);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Ok(match format {
        LogFormat::Text => {
            let (filter, handle) = reload::Layer::new(filter);
            let _ = builder.with_target(false).with_ansi(colour).finish().with(filter).try_init();
            Log { filter: Box::new(move |filter| handle.reload(filter)) }
        }
        LogFormat::Json => {
            let (filter, handle) = reload::Layer::new(filter);
            let _ = builder.json().flatten_event(true).finish().with(filter).try_init();
            Log { filter: Box::new(move |filter| handle.reload(filter)) }
        }
    })
}
