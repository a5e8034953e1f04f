//! The errors that a program gets instead of a writer.

use std::time::Duration;

use thiserror::Error;

use crate::config::ConfigError;
use crate::consul::client::{ClientError, ConsulError};
use crate::dns::DnsError;

/// Why there is no writer to be had, or no word of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be used. Nothing was started.
    #[error("{0}")]
    Settings(String),
    /// Consul, or its DNS, does not answer, or has no leader.
    #[error("{0}")]
    Silent(String),
    /// Consul denies it.
    #[error("{0}")]
    Denied(String),
    /// Nothing was ever published for this group, or it was retired.
    #[error("nothing is published for the group `{0}`")]
    NothingPublished(String),
    /// What Consul holds is not what this version understands.
    #[error("{0}")]
    Unreadable(String),
    /// There was no writer in this time.
    #[error("no writer within {} ms: {why}", waited.as_millis())]
    NoWriter {
        /// How long was waited.
        waited: Duration,
        /// Why the last one was withdrawn.
        why: String,
    },
}

impl Error {
    /// What to do about it, where there is more to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Settings(_) | Self::NoWriter { .. } => None,
            Self::Silent(_) => Some("is Consul running there? look at CONSUL_HTTP_ADDR"),
            Self::Denied(_) => Some(
                "look at CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE; consul/reader-policy.hcl is what it needs",
            ),
            Self::NothingPublished(_) => Some(
                "is it the name that Sentinel knows, does an agent watch it, and may the token read redis-ha/?",
            ),
            Self::Unreadable(_) => Some("a newer consul-redis may have written it"),
        }
    }

    /// Waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Silent(_) | Self::NothingPublished(_) | Self::NoWriter { .. })
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error.to_string())
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        Self::Settings(error.to_string())
    }
}

impl From<ConsulError> for Error {
    fn from(error: ConsulError) -> Self {
        let text = error.to_string();
        match error {
            _ if error.is_about_settings() => Self::Settings(text),
            _ if error.is_refusal() => Self::Denied(text),
            ConsulError::Unreadable { .. } | ConsulError::NoIndex { .. } => Self::Unreadable(text),
            _ => Self::Silent(text),
        }
    }
}

impl From<DnsError> for Error {
    fn from(error: DnsError) -> Self {
        match error {
            DnsError::Setup(_) => Self::Settings(error.to_string()),
            DnsError::Lookup { .. } => Self::Silent(error.to_string()),
        }
    }
}
