//! `consul-redis health`: what a container's health check calls.

use crate::cli::HealthArgs;
use crate::config::Config;
use crate::core::address::Address;
use crate::exec::settings::{Environment, Role, SENTINEL_PORT};
use crate::exit::{Code, Failure};
use crate::redis_link::{Link, LinkError};

/// Asks one server for a sign of life.
///
/// # Errors
/// A [`Failure`] when it does not answer.
pub async fn run(config: Config, args: &HealthArgs, env: &Environment) -> Result<Code, Failure> {
    let role = match &args.asked {
        Some(asked) if asked.port() == SENTINEL_PORT => Role::Sentinel,
        Some(_) => Role::Redis,
        None => Role::of_environment(env),
    };
    let here = Address::new("127.0.0.1", role.default_port())
        .map_err(|error| Failure::new(Code::Config, error.to_string()))?;
    let asked = args.asked.clone().unwrap_or(here);
    let login = match role {
        Role::Redis => &config.instance_login,
        Role::Sentinel => &config.sentinel_login,
    };
    let answer = match Link::open(&asked, login).await {
        Ok(mut link) => link.call(&["PING"]).await.map(|_| ()),
        Err(error) => Err(error),
    };
    match answer {
        Ok(()) => Ok(Code::Done),
        // It says no, but it says something: one that loads its data must not be killed for that.
        Err(LinkError::Unexpected(_) | LinkError::TurnedAway(_)) => Ok(Code::Done),
        Err(LinkError::Redis(error)) if error.code().is_some() => Ok(Code::Done),
        Err(error) => Err(Failure::new(Code::Failed, format!("{role} at {asked}: {error}")).hint(
            "another address: consul-redis health HOST:PORT; a Sentinel: SENTINEL=1, or port 26379",
        )),
    }
}
