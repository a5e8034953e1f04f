//! Addresses and names, in the exact spelling Sentinel announces.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest group name accepted. Consul has no limit of its own here; a bound keeps KV keys and log
/// lines sane.
pub const GROUP_NAME_LEN_MAX: usize = 64;
/// Longest service name: a DNS label is 63 bytes and the longest suffix we add is `-primary`.
pub const SERVICE_NAME_LEN_MAX: usize = 63 - "-primary".len();
/// What stands before a zone in a tag.
pub(crate) const ZONE_TAG: &str = "zone-";
/// Longest zone: with `zone-` before it, it is one DNS label (63 bytes).
pub const ZONE_LEN_MAX: usize = 63 - ZONE_TAG.len();

/// Where a Redis or a Sentinel listens: `host:port`, `name:port` or `[v6]:port`.
///
/// The host is kept exactly as Sentinel announces it (an address, or a name under
/// `announce-hostnames`), because a `REPLICAOF` with any other spelling makes Sentinel repair the
/// replica for ever (`docs/facts/sentinel.md` 3). Addresses that parse as an IP are put in canonical form.
///
/// The order is numeric for IP addresses, so "the lowest address" means what a person expects.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// Parsed once: addresses are compared far more often than they are made.
    ip: Option<IpAddr>,
    host: Arc<str>,
    port: u16,
}

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// There is no `:port` at the end.
    #[error("`{0}` has no port: write host:port, or [v6]:port")]
    NoPort(String),
    /// The part after the last colon is not a port from 1 to 65535.
    #[error("`{0}` has no valid port: a port is a number from 1 to 65535")]
    BadPort(String),
    /// The host is empty, holds a space, or is an unbracketed IPv6 address.
    #[error("`{0}` has no valid host: write an address, a DNS name, or [v6]:port")]
    BadHost(String),
}

impl Address {
    /// An address from a host (IP or DNS name, IPv6 without brackets) and a port.
    ///
    /// # Errors
    /// [`AddressError`] when the host could not stand in a Redis command or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        if port == 0 {
            return Err(AddressError::BadPort(format!("{host}:{port}")));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self { ip: Some(ip), host: ip.to_string().into(), port });
        }
        let name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(name_byte) {
            return Err(AddressError::BadHost(format!("{host}:{port}")));
        }
        Ok(Self { ip: None, host: host.into(), port })
    }

    /// An address from an IP and a port that is not 0.
    pub fn of_ip(ip: IpAddr, port: std::num::NonZeroU16) -> Self {
        Self { ip: Some(ip), host: ip.to_string().into(), port: port.get() }
    }

    /// The host: an IP address without brackets, or a DNS name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1` and the like: another machine's on each machine, so that it says nothing of what listens there.
    pub fn is_each_hosts_own(&self) -> bool {
        matches!(self.host(), "127.0.0.1" | "::1" | "localhost")
    }

    /// It leads every host to itself.
    pub fn is_loopback(&self) -> bool {
        match self.ip {
            Some(ip) => ip.is_loopback(),
            None => {
                let host = self.host.to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost")
            }
        }
    }

    /// The host as an IP address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let port: u16 = port.parse().map_err(|_| AddressError::BadPort(text.to_owned()))?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner,
            None if host.contains(':') => return Err(AddressError::BadHost(text.to_owned())),
            None => host,
        };
        Self::new(host, port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        // Addresses come before names, so the order is total whatever a group mixes.
        let by_host = match (self.ip, other.ip) {
            (Some(IpAddr::V4(a)), Some(IpAddr::V4(b))) => a.to_bits().cmp(&b.to_bits()),
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => a.is_none().cmp(&b.is_none()).then_with(|| self.host.cmp(&other.host)),
        };
        by_host.then_with(|| self.port.cmp(&other.port))
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// Why a text is not a group or service name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Sentinel itself would refuse the name, or it could not stand in a Consul key.
    #[error("group name `{0}` must be 1 to {GROUP_NAME_LEN_MAX} of A-Z a-z 0-9 . _ -")]
    Group(String),
    /// The name would not be a DNS label once a role is added to it.
    #[error(
        "service name `{0}` must be 1 to {SERVICE_NAME_LEN_MAX} of A-Z a-z 0-9 - and start with a letter or digit"
    )]
    Service(String),
    /// The tag with the zone would not be a DNS label.
    #[error(
        "zone `{0}` must be 1 to {ZONE_LEN_MAX} of a-z 0-9 - and begin and end with a letter or digit"
    )]
    Zone(String),
}

/// What Sentinel calls a master name: the name of one group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The set Sentinel accepts in SENTINEL MONITOR, which is also safe in a Consul key.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // `.` and `..` would be path segments in a Consul key (GH-22850).
        let dots = text.bytes().all(|b| b == b'.');
        if text.is_empty() || text.len() > GROUP_NAME_LEN_MAX || dots || !text.bytes().all(allowed)
        {
            return Err(NameError::Group(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The Consul service a group is published as; the role services add `-primary` and so on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

impl ServiceName {
    /// The name as text: the service that holds one row an instance.
    ///
    /// Answers every instance; each with its role as a tag: `primary.redis.service.consul`,
    /// `replica.redis.service.consul`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The service whose only row is the writer.
    ///
    /// Answers the writer; no answer (NXDOMAIN) while there is none. In programs with a dot at its end
    /// ([clients.md](clients.md)).
    pub fn primary(&self) -> String {
        format!("{}-primary", self.0)
    }

    /// The service with one row for each replica in sync.
    ///
    /// Answers every replica that is in sync.
    pub fn replica(&self) -> String {
        format!("{}-replica", self.0)
    }

    /// The service that node mode registers on the local Consul agent: health, no role.
    ///
    /// Answers in node mode: every Redis whose TCP check passes, whatever its role.
    pub fn server(&self) -> String {
        format!("{}-server", self.0)
    }

    /// All four names, to find collisions between groups.
    pub fn all(&self) -> [String; 4] {
        [self.0.clone(), self.primary(), self.replica(), self.server()]
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !starts_well || text.len() > SERVICE_NAME_LEN_MAX || !text.bytes().all(allowed) {
            return Err(NameError::Service(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a host stands, as its agent was told: what is in one zone may be lost together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of the rows of what stands there: `zone-eu-1a`.
    pub fn tag(&self) -> String {
        format!("{ZONE_TAG}{}", self.0)
    }

    /// The metadata of those rows.
    pub(crate) fn meta(&self) -> (String, String) {
        ("zone".to_owned(), self.to_string())
    }
}

impl FromStr for Zone {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends = [text.bytes().next(), text.bytes().next_back()];
        let ends_well = ends.into_iter().all(|end| end.is_some_and(plain));
        let allowed = text.bytes().all(|b| plain(b) || b == b'-');
        if !ends_well || !allowed || text.len() > ZONE_LEN_MAX {
            return Err(NameError::Zone(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! name_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name_conversions!(GroupName);
name_conversions!(ServiceName);
name_conversions!(Zone);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_sentinels_spelling() {
        for text in ["10.0.0.5:6379", "[::1]:6379", "redis-0.redis:6379"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[0:0::1]:1".parse::<Address>().unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for (text, message) in [
            ("redis", "`redis` has no port: write host:port, or [v6]:port"),
            ("redis:0", "`redis:0` has no valid port: a port is a number from 1 to 65535"),
            ("redis:70000", "`redis:70000` has no valid port: a port is a number from 1 to 65535"),
            (
                "::1:6379",
                "`::1:6379` has no valid host: write an address, a DNS name, or [v6]:port",
            ),
            ("a b:1", "`a b:1` has no valid host: write an address, a DNS name, or [v6]:port"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn lowest_address_is_numeric() {
        let mut all: Vec<Address> =
            ["redis:1", "10.0.0.10:1", "10.0.0.9:2", "10.0.0.9:1", "[::1]:1"]
                .map(|t| t.parse().unwrap())
                .into();
        all.sort();
        let sorted: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(sorted, ["10.0.0.9:1", "10.0.0.9:2", "10.0.0.10:1", "[::1]:1", "redis:1"]);
    }

    #[test]
    fn names_that_dns_or_keys_could_not_hold_are_refused() {
        assert!("my.group_1".parse::<GroupName>().is_ok());
        for bad in ["", "..", "a b", "a/b", "a:b", &"x".repeat(65)] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad}");
        }
        assert!("cache-1".parse::<ServiceName>().is_ok());
        for bad in ["", "-a", "a.b", "a_b", &"x".repeat(56)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
        let long = "z".repeat(ZONE_LEN_MAX);
        for good in ["eu-1a", "1", long.as_str()] {
            assert!(good.parse::<Zone>().unwrap().tag().len() <= 63, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"z".repeat(59)] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }
}
