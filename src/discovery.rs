//! Finding servers: at the addresses and names that are listed, and among what is registered in Consul.

use futures_util::future::join_all;
use thiserror::Error;

use crate::consul::client::{Consul, ConsulError};
use crate::consul::services::RegisteredBy;
use crate::core::identity::address::Address;
use crate::dns::{DnsError, Names};

/// Where servers are looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerSource {
    /// An address, or a name that stands for all its addresses.
    Listed(Address),
    /// The instances of this service in Consul, healthy or not, that these have registered.
    Service(String, RegisteredBy),
}

/// Why a source says nothing.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The name has no address, or the DNS server does not answer.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// Consul does not say what is registered.
    #[error(transparent)]
    Consul(#[from] ConsulError),
}

impl ServerSource {
    /// The addresses that it stands for now. A service without instances has none. Consul says the same where the token
    /// may not read the service and its nodes.
    ///
    /// # Errors
    /// [`SourceError`] when that is not known.
    pub async fn addresses(
        &self,
        names: &Names,
        consul: &Consul,
    ) -> Result<Vec<Address>, SourceError> {
        Ok(match self {
            Self::Listed(address) => names.addresses(address).await?,
            Self::Service(service, by) => consul.service_addresses(service, by).await?,
        })
    }
}

/// What each source stands for now. All are asked at the same time.
pub async fn look_up<'a>(
    sources: impl IntoIterator<Item = &'a ServerSource>,
    names: &Names,
    consul: &Consul,
) -> Vec<(&'a ServerSource, Result<Vec<Address>, SourceError>)> {
    let asked = sources
        .into_iter()
        .map(|source| async move { (source, source.addresses(names, consul).await) });
    join_all(asked).await
}
