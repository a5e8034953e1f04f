//! `consul-redis health`: what a container's health check calls.

use crate::cli::HealthArgs;
use crate::config::Config;
use crate::core::identity::address::Address;
use crate::exec::settings::{Environment, SENTINEL_PORT, ServerKind};
use crate::exit::{Exit, Failure};
use crate::redis_link::{Link, LinkError};

/// Asks one server for a sign of life.
///
/// # Errors
/// A [`Failure`] when it does not answer.
pub async fn run(config: Config, args: &HealthArgs, env: &Environment) -> Result<Exit, Failure> {
    let role = match &args.asked {
        Some(asked) if asked.port() == SENTINEL_PORT => ServerKind::Sentinel,
        Some(_) => ServerKind::Redis,
        None => ServerKind::of_environment(env),
    };
    let here = Address::new("127.0.0.1", role.default_port())
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let asked = args.asked.clone().unwrap_or(here);
    let login = match role {
        ServerKind::Redis => &config.instance_login,
        ServerKind::Sentinel => &config.sentinel_login,
    };
    let answer = match Link::open(&asked, login).await {
        Ok(mut link) => link.call(&["PING"]).await.map(|_| ()),
        Err(error) => Err(error),
    };
    match answer {
        Ok(()) => Ok(Exit::Done),
        // It says no, but it says something: a server that loads its data must not be killed for that.
        Err(LinkError::Unexpected(_) | LinkError::TurnedAway(_)) => Ok(Exit::Done),
        Err(LinkError::Redis(error)) if error.code().is_some() => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Failed, format!("{role} at {asked}: {error}")).hint(
            "another address: consul-redis health HOST:PORT; a Sentinel: SENTINEL=1, or port 26379",
        )),
    }
}
