//! DNS, asked anew each time: names of Sentinels to all their addresses, and what Consul's DNS
//! answers a client.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
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
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::identity::address::Address;
use crate::core::published::name_check::DnsAnswer;

/// Deadline of one question to one server.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses taken from one name.
pub const ADDRESSES_MAX: usize = 64;

/// How long an answer is taken for what is so now.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long an answer is waited for, where an older one is known.
const LATE_AFTER: Duration = Duration::from_millis(100);
/// A look-up that has not ended by then never does.
const LOOKUP_MAX: Duration = Duration::from_secs(10);
/// Names whose addresses are kept.
const NAMES_MAX: usize = 1_024;

/// What is known of one name.
#[derive(Debug, Clone, Default)]
struct Looked {
    /// Its addresses, as they were last answered.
    addresses: Vec<IpAddr>,
    /// When the last look-up ended.
    ended: Option<Instant>,
    /// Why it gave nothing.
    failure: Option<String>,
    /// The one that is under way, since when.
    begun: Option<Instant>,
}

impl Looked {
    /// There is to be another look-up, and none is under way.
    fn is_due(&self) -> bool {
        let free = self.begun.is_none_or(|begun| begun.elapsed() >= LOOKUP_MAX);
        free && self.ended.is_none_or(|ended| ended.elapsed() >= FRESH_FOR)
    }

    /// When what is known is good enough for a connection.
    fn enough(&self) -> Option<Instant> {
        match self.begun {
            None => Some(Instant::now()),
            Some(_) if self.addresses.is_empty() => None,
            // The last one failed: this one is not waited for.
            Some(begun) if self.failure.is_some() => Some(begun),
            Some(begun) => Some(begun + LATE_AFTER),
        }
    }
}

/// The names that were looked up by this process: each is looked up once at a time, however many connections want it.
static LOOKED: Mutex<BTreeMap<String, watch::Sender<Looked>>> = Mutex::new(BTreeMap::new());

/// The place of a name. Nothing waits while it is held.
fn place_of(name: &str) -> watch::Sender<Looked> {
    let mut all = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= NAMES_MAX && !all.contains_key(name) {
        all.retain(|_, place| place.receiver_count() > 0);
    }
    all.entry(name.to_owned()).or_default().clone()
}

/// The addresses of a server that is known by its name: those that DNS and this machine's files give now, or gave last
/// while the answer is late or fails. The look-up goes on by itself when a connection gives up waiting for it, and
/// takes no thread.
///
/// # Errors
/// [`DnsError::Lookup`] when nothing was ever answered, or the name does not exist.
pub async fn look_up(name: &str) -> Result<Vec<IpAddr>, DnsError> {
    if let Ok(ip) = name.parse() {
        return Ok(vec![ip]);
    }
    let place = place_of(name);
    let mut news = place.subscribe();
    loop {
        let begins = place.send_if_modified(|looked| {
            let due = looked.is_due();
            if due {
                looked.begun = Some(Instant::now());
            }
            due
        });
        if begins {
            tokio::spawn(look_up_now(name.to_owned(), place.clone()));
        }
        let enough = news.borrow_and_update().enough();
        if enough.is_some_and(|at| at <= Instant::now()) {
            break;
        }
        let until = enough.unwrap_or_else(|| Instant::now() + LOOKUP_MAX);
        // Cancel safe: a change that is not seen here is seen by the next look.
        let _ = tokio::time::timeout_at(until, news.changed()).await;
    }
    let looked = news.borrow().clone();
    if looked.addresses.is_empty() {
        let reason = looked.failure.unwrap_or_else(|| "no address".to_owned());
        return Err(DnsError::Lookup { name: name.to_owned(), reason });
    }
    Ok(looked.addresses)
}

/// One look-up, and what it changes.
async fn look_up_now(name: String, place: watch::Sender<Looked>) {
    let found = tokio::time::timeout(LOOKUP_MAX, ask(&name)).await;
    let found = found.unwrap_or_else(|_| Err("no answer".to_owned()));
    place.send_modify(|looked| {
        (looked.begun, looked.ended) = (None, Some(Instant::now()));
        match found {
            Ok(addresses) => {
                let none = addresses.is_empty();
                looked.failure = none.then(|| "no such name".to_owned());
                looked.addresses = addresses;
            }
            Err(failure) => looked.failure = Some(failure),
        }
    });
}

/// Asks the servers and the hosts file of this machine, as they are configured now. That there is no such name is an
/// answer, and no error; but then the system may know it in other ways (nsswitch.conf).
async fn ask(name: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(resolver) = Names::new(None).resolver() {
        match resolver.lookup_ip(name).await {
            Ok(found) if found.iter().next().is_some() => {
                return Ok(sorted(found.iter()));
            }
            Ok(_) | Err(NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(_))) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => Ok(sorted(found.map(|address| address.ip()))),
        // DNS has said so already, or there is none.
        Err(_) => Ok(Vec::new()),
    }
}

fn sorted(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = found.take(ADDRESSES_MAX).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// A name that gave no address.
#[derive(Debug, Error)]
pub enum DnsError {
    /// The resolver cannot be set up from the system's configuration.
    #[error("cannot use this machine's DNS configuration (set resolver): {0}")]
    Setup(String),
    /// The name has no address, or the servers do not answer.
    #[error("cannot look up {name}: {reason}")]
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
        sorted(found.iter())
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

/// The zone in whose name a server says that there is no record, when that is not `domain`: a server that passes
/// questions on knows nothing of Consul's names.
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
    // Its own choice is any port above 1023: one that a server of this host is about to listen on, which then does not
    // start. The system keeps to its range for clients, and out of what `net.ipv4.ip_local_reserved_ports` keeps for
    // servers.
    options.os_port_selection = true;
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

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    /// Of 20 ports from 1024 on, all would be in the upper half of them once in a million times.
    #[tokio::test]
    async fn a_question_leaves_from_a_port_of_the_systems_range_for_clients() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let ends: Vec<u16> = range.split_whitespace().map(|end| end.parse().unwrap()).collect();
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let names = Names::new(Some(server.local_addr().unwrap()));
        for _ in 0..20 {
            let mut question = [0; 512];
            let (asked, from) = tokio::join!(names.a("redis.test"), async {
                let (length, from) = server.recv_from(&mut question).await.unwrap();
                let mut answer = question[..length].to_vec();
                // A response (RFC 1035, 4.1.1): there is no such name.
                (answer[2], answer[3]) = (answer[2] | 0x80, 3);
                server.send_to(&answer, from).await.unwrap();
                from.port()
            });
            assert_eq!(asked.unwrap(), [] as [IpAddr; 0]);
            assert!((ends[0]..=ends[1]).contains(&from), "{from} is not in {range}");
        }
    }
}
