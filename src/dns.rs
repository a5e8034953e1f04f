//! DNS, asked anew each time: names of Sentinels to all their addresses, and what Consul's DNS
//! answers a client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use thiserror::Error;

use crate::core::address::Address;
use crate::core::name_check::DnsAnswer;

/// Deadline of one question to one server.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses taken from one name.
pub const ADDRESSES_MAX: usize = 64;

/// A name that gave no address.
#[derive(Debug, Error)]
pub enum DnsError {
    /// The resolver cannot be set up from the system's configuration.
    #[error("cannot use this machine's DNS configuration (set resolver): {0}")]
    Setup(String),
    /// The name has no address, or the servers do not answer.
    #[error("cannot resolve `{name}`: {reason}")]
    Lookup {
        /// The name that was looked up.
        name: String,
        /// The DNS server's answer or the error, in words.
        reason: String,
    },
}

/// A resolver that caches nothing.
#[derive(Clone)]
pub struct Names {
    /// Or why the system's configuration cannot be used: of no matter until a name is looked up.
    resolver: Result<TokioResolver, String>,
}

impl Names {
    /// Asks `server`, or the servers and the hosts file of this machine.
    pub fn new(server: Option<SocketAddr>) -> Self {
        Self { resolver: build(server).map_err(|error| error.to_string()) }
    }

    fn resolver(&self) -> Result<&TokioResolver, DnsError> {
        self.resolver.as_ref().map_err(|error| DnsError::Setup(error.clone()))
    }

    /// All addresses that `address` stands for: itself, or every A and AAAA record of its name.
    ///
    /// # Errors
    /// [`DnsError::Lookup`] when the name gives none.
    pub async fn addresses(&self, address: &Address) -> Result<Vec<Address>, DnsError> {
        if address.ip().is_some() {
            return Ok(vec![address.clone()]);
        }
        let name = address.host();
        let failed = |reason: String| DnsError::Lookup { name: name.to_owned(), reason };
        let found = self.resolver()?.lookup_ip(name).await.map_err(|e| failed(e.to_string()))?;
        let mut addresses: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
        addresses.sort();
        addresses.dedup();
        addresses
            .into_iter()
            .map(|ip| Address::new(&ip.to_string(), address.port()))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(error.to_string()))
    }

    /// The A records of a name; none when it does not exist.
    ///
    /// # Errors
    /// [`DnsError::Lookup`] when the server does not answer.
    pub async fn a(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let found = records(name, self.resolver()?.ipv4_lookup(absolute(name)).await)?;
        let address = |data: RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        };
        Ok(found.into_iter().filter_map(address).collect())
    }

    /// Target and port of each SRV record of a name; none when it does not exist.
    ///
    /// # Errors
    /// [`DnsError::Lookup`] when the server does not answer.
    pub async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, DnsError> {
        let found = records(name, self.resolver()?.srv_lookup(absolute(name)).await)?;
        let service = |data: RData| match data {
            RData::SRV(service) => Some((service.target.to_utf8(), service.port)),
            _ => None,
        };
        Ok(found.into_iter().filter_map(service).collect())
    }
}

impl Names {
    /// What the DNS server answers for `name`, which is one of `domain`: A, AAAA and SRV.
    ///
    /// # Errors
    /// [`DnsError::Lookup`] when the server does not answer, or answers for another domain than this one.
    pub async fn service(&self, name: &str, domain: &str) -> Result<DnsAnswer, DnsError> {
        let (resolver, absolute) = (self.resolver()?, absolute(name));
        let (v4, v6, services) = tokio::join!(
            resolver.ipv4_lookup(absolute.as_str()),
            resolver.ipv6_lookup(absolute.as_str()),
            resolver.srv_lookup(absolute.as_str()),
        );
        let mut answer = DnsAnswer::default();
        let led_on = services.as_ref().is_ok_and(|found| !found.answers().is_empty());
        for found in [services, v4, v6] {
            // An instance that is known by a name: Consul does not look that up where it has no recursor.
            let refused = matches!(
                &found,
                Err(NetError::Dns(hickory_resolver::net::DnsError::ResponseCode(_)))
            );
            if refused && led_on {
                continue;
            }
            if let Err(error) = &found
                && let Some(zone) = foreign(error, domain)
            {
                let reason = format!("the server answers for `{zone}`, not for `{domain}.`");
                return Err(DnsError::Lookup { name: name.to_owned(), reason });
            }
            for data in records(name, found)? {
                match data {
                    RData::A(address) => _ = answer.ips.insert(IpAddr::V4(address.0)),
                    RData::AAAA(address) => _ = answer.ips.insert(IpAddr::V6(address.0)),
                    RData::SRV(service) => {
                        answer.services.insert((service.target.to_utf8(), service.port));
                    }
                    _ => {}
                }
            }
        }
        Ok(answer)
    }
}

/// The zone in whose name a server says that there is no record, when that is not `domain`: a server that passes questions on
/// knows nothing of Consul's names.
fn foreign(error: &NetError, domain: &str) -> Option<String> {
    let NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none)) = error else {
        return None;
    };
    let zone = none.soa.as_ref()?.name.to_utf8();
    let is_ours = zone.trim_end_matches('.').eq_ignore_ascii_case(domain.trim_end_matches('.'));
    (!is_ours).then_some(zone)
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        Some(server) => {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio()?,
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = DNS_TIMEOUT;
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    if server.is_some() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    builder.build()
}

/// A name that is not to be looked for in search domains.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

/// That a name does not exist is an answer: no records.
fn records(name: &str, found: Result<Lookup, NetError>) -> Result<Vec<RData>, DnsError> {
    match found {
        Ok(found) => Ok(found.answers().iter().map(|record| record.data.clone()).collect()),
        Err(NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(_))) => Ok(Vec::new()),
        Err(error) => Err(DnsError::Lookup { name: name.to_owned(), reason: error.to_string() }),
    }
}
