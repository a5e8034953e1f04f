//! Reading the config again while something runs by it (SIGHUP).

use tracing::warn;

use crate::agent::Agent;
use crate::cli::Common;
use crate::config::{Config, ConfigError, resolve};
use crate::consul::client::ConsulError;
use crate::exec::settings::Environment;
use crate::exit::Failure;

/// Where all settings come from: the same command line and environment each time, and the file as it is now.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The command line.
    pub common: Common,
    /// The environment.
    pub env: Environment,
}

impl Settings {
    /// All settings as they are now.
    ///
    /// # Errors
    /// [`ConfigError`], with the place in the file.
    pub fn read(&self) -> Result<Config, ConfigError> {
        resolve(&self.common, &|name| self.env.get(name).map(str::to_owned))
    }
}

/// Whether an agent could go by `config`: everything that can be known without doing anything, and then whether Consul
/// grants what it takes. A Consul that does not answer is no reason against it.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn check(config: &Config) -> Result<(), Failure> {
    let agent = Agent::new(config.clone())?;
    agent.check_secrets()?;
    match agent.check_rights().await {
        Ok(()) => Ok(()),
        Err(error @ (ConsulError::Denied { .. } | ConsulError::Secret(_))) => Err(error.into()),
        Err(error) => {
            warn!("the new config is not tried on Consul: {error}");
            Ok(())
        }
    }
}
