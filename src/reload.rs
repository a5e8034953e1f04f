//! Reading the config again while something runs by it (SIGHUP).

use std::path::Path;

use tracing::{info, warn};

use crate::agent::Agent;
use crate::cli::Common;
use crate::config::{Config, ConfigError, resolve_for};
use crate::consul::logins::ConsulLogins;
use crate::exec::settings::Environment;
use crate::exit::Failure;
use crate::telemetry::{self, Log};

/// Where all settings come from: the same command line and environment each time, and the file as it is now.
#[derive(Debug, Clone)]
pub struct ConfigSource {
    /// The command line.
    pub common: Common,
    /// The variables, as they were at the start.
    pub env: Environment,
    /// The logins to Consul of this process.
    pub logins: ConsulLogins,
}

impl ConfigSource {
    /// All settings as they are now.
    ///
    /// # Errors
    /// [`ConfigError`], with the place in the file.
    pub fn read(&self) -> Result<Config, ConfigError> {
        self.resolve(None)
    }

    /// The same for an agent that runs by `running`.
    ///
    /// # Errors
    /// [`ConfigError`], with the place in the file.
    pub fn read_again(&self, running: &Config) -> Result<Config, ConfigError> {
        self.resolve(Some(running))
    }

    fn resolve(&self, running: Option<&Config>) -> Result<Config, ConfigError> {
        let env = |name: &str| self.env.get(name).map(str::to_owned);
        resolve_for(&self.common, &env, running, &self.logins)
    }
}

/// Has `read` read all settings again, from `file` too, and checks them against what runs `now`. Says why not, when
/// they are refused.
pub async fn again(
    file: Option<&Path>,
    read: impl FnOnce() -> Result<Config, Failure>,
    now: &Config,
    log: &Log,
) -> Option<Config> {
    info!("SIGHUP: reading the config again, and looking at everything now");
    let next = async {
        let next = read()?;
        check(&next, now).await?;
        log.set(&next.log)?;
        Ok::<_, Failure>(next)
    };
    match next.await {
        // The agent says when it is in force.
        Ok(next) => Some(next),
        Err(failure) => {
            let failure = failure.located(file);
            warn!("the config is refused, the running one stays: {}", failure.in_one_line());
            None
        }
    }
}

/// An agent by `config`, once everything has been tried that needs no server: settings, secrets, certificates,
/// templates.
///
/// # Errors
/// A [`Failure`] that says what is wrong, and where.
pub fn check_alone(config: &Config) -> Result<Agent, Failure> {
    telemetry::filter(&config.log)?;
    let agent = Agent::new(config.clone())?;
    agent.check_secrets()?;
    Ok(agent)
}

/// Whether an agent could go by `next` instead of `now`: everything that can be known without doing anything, and then
/// whether Consul grants what it takes. A Consul that does not answer is a reason against it only where it is another
/// one.
async fn check(next: &Config, now: &Config) -> Result<(), Failure> {
    let agent = check_alone(next)?;
    match agent.check_rights().await {
        Ok(()) => Ok(()),
        Err(error) if error.is_transient() && next.consul == now.consul => {
            warn!("the new config is not tried on Consul: {error}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
