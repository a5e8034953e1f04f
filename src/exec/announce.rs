//! Where others reach this container's server.
//!
//! What was said goes first, then what a scheduler says, then the address of the interface that leads to Consul:
//! a client that looks the server up there comes from that side.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::settings::{Environment, ServerKind};
use crate::config::ConfigError;
use crate::consul::endpoint::ConsulEndpoint;
use crate::core::identity::address::Address;

/// Deadline for Consul's name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Somewhere else, for the question which interface leads there; nothing is sent (RFC 5737, RFC 3849).
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// The address that a flag, a variable of ours or a scheduler says; `port` is where the server listens.
///
/// # Errors
/// When it is no address.
pub fn given(
    said: Option<&str>,
    env: &Environment,
    role: ServerKind,
    port: u16,
) -> Result<Option<Address>, ConfigError> {
    let bad = |name: &str, error: String| ConfigError::Usage(format!("{name}: {error}"));
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        return address(said, port).map(Some).map_err(|error| bad("announce", error));
    }
    if let Some((name, said)) = by_nomad(env, role) {
        return address(&said, port).map(Some).map_err(|error| bad(&name, error));
    }
    let pod = env.get("POD_IP").map(|ip| address(ip, port));
    pod.transpose().map_err(|error| bad("POD_IP", error))
}

/// `host`, `host:port`, an IPv6 address with or without brackets.
fn address(said: &str, port: u16) -> Result<Address, String> {
    let bare = said.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || !said.contains(':') {
        return Address::new(bare, port).map_err(|error| error.to_string());
    }
    said.parse::<Address>().map_err(|error| error.to_string())
}

/// What Nomad says of the port that is called `redis` or `sentinel`, or of the only port there is: the host's side
/// of it where it is mapped, else the address in the network.
fn by_nomad(env: &Environment, role: ServerKind) -> Option<(String, String)> {
    let own = match role {
        ServerKind::Redis => "redis",
        ServerKind::Sentinel => "sentinel",
    };
    for (whole, ip, port) in [
        ("NOMAD_HOST_ADDR_", "NOMAD_HOST_IP_", "NOMAD_HOST_PORT_"),
        ("NOMAD_ADDR_", "NOMAD_IP_", "NOMAD_PORT_"),
    ] {
        let labels: Vec<&str> = env.beginning(ip).map(|(label, _)| label).collect();
        let alone = match labels[..] {
            [only] => Some(only),
            _ => None,
        };
        let label = env.beginning(ip).chain(env.beginning(whole)).map(|(label, _)| label);
        let label = label.into_iter().find(|label| *label == own).or(alone);
        let Some(label) = label else { continue };
        if let Some(said) = env.get(&format!("{whole}{label}")) {
            return Some((format!("{whole}{label}"), said.to_owned()));
        }
        let host = env.get(&format!("{ip}{label}"))?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = env.get(&format!("{port}{label}"))?;
        return Some((format!("{ip}{label}"), format!("{host}:{port}")));
    }
    None
}

/// The address of the interface that leads to Consul; to the other hosts, where Consul is on this machine.
///
/// # Errors
/// When nothing leads there, or Consul's name has no address.
pub async fn towards(consul: &ConsulEndpoint) -> io::Result<IpAddr> {
    let Some(host) = consul.host() else { return elsewhere().await };
    let lookup = tokio::net::lookup_host((host.as_str(), ELSEWHERE[0].port()));
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for target in found {
        match source(target).await {
            Ok(ip) if ip.is_loopback() => return elsewhere().await,
            Ok(ip) => return Ok(ip),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The address of the interface that leads away from this machine.
///
/// # Errors
/// When none does.
pub async fn elsewhere() -> io::Result<IpAddr> {
    match source(ELSEWHERE[0]).await {
        Ok(ip) => Ok(ip),
        Err(_) => source(ELSEWHERE[1]).await,
    }
}

/// It is an address of this machine, on an interface that is up: the kernel sends from it to itself.
pub async fn is_here(host: &str) -> bool {
    let Ok(ip) = host.parse::<IpAddr>() else { return false };
    // The kernel sends to all of 127.0.0.0/8 from 127.0.0.1.
    ip.is_loopback()
        || source(SocketAddr::new(ip, ELSEWHERE[0].port())).await.is_ok_and(|from| from == ip)
}

/// Connecting a UDP socket sends nothing; the kernel says which address it would send from.
async fn source(target: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    let ip = socket.local_addr()?.ip();
    if ip.is_unspecified() {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of our own"));
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_by(
        said: Option<&str>,
        role: ServerKind,
        all: &[(&str, &str)],
    ) -> Result<String, String> {
        let env: Environment =
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match given(said, &env, role, 6379) {
            Ok(address) => Ok(address.map_or_else(String::new, |address| address.to_string())),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_said_goes_first() {
        let pod = [("POD_IP", "10.1.0.7")];
        for (said, wanted) in [
            ("10.0.0.5", "10.0.0.5:6379"),
            ("10.0.0.5:16379", "10.0.0.5:16379"),
            ("fd00::5", "[fd00::5]:6379"),
            ("[fd00::5]", "[fd00::5]:6379"),
            ("[fd00::5]:7000", "[fd00::5]:7000"),
            ("redis-0.redis", "redis-0.redis:6379"),
            ("", "10.1.0.7:6379"),
        ] {
            assert_eq!(given_by(Some(said), ServerKind::Redis, &pod).unwrap(), wanted);
        }
        assert!(
            given_by(Some("a b"), ServerKind::Redis, &[]).unwrap_err().starts_with("announce: ")
        );
        assert_eq!(given_by(None, ServerKind::Redis, &[]).unwrap(), "");
    }

    #[test]
    fn a_scheduler_says_it_too() {
        let nomad = [
            ("NOMAD_IP_redis", "10.0.0.5"),
            ("NOMAD_PORT_redis", "20001"),
            ("NOMAD_ADDR_redis", "10.0.0.5:20001"),
            ("NOMAD_IP_sentinel", "10.0.0.5"),
            ("NOMAD_PORT_sentinel", "20002"),
            ("POD_IP", "10.1.0.7"),
        ];
        assert_eq!(given_by(None, ServerKind::Redis, &nomad).unwrap(), "10.0.0.5:20001");
        assert_eq!(given_by(None, ServerKind::Sentinel, &nomad).unwrap(), "10.0.0.5:20002");
        let only = [("NOMAD_IP_db", "fd00::5"), ("NOMAD_PORT_db", "20001")];
        assert_eq!(given_by(None, ServerKind::Redis, &only).unwrap(), "[fd00::5]:20001");
        let mapped =
            [("NOMAD_ADDR_db", "172.26.0.2:6379"), ("NOMAD_HOST_ADDR_redis", "10.0.0.5:31000")];
        assert_eq!(given_by(None, ServerKind::Redis, &mapped).unwrap(), "10.0.0.5:31000");
        assert_eq!(
            given_by(None, ServerKind::Redis, &[("POD_IP", "fd00::7")]).unwrap(),
            "[fd00::7]:6379"
        );
    }

    #[tokio::test]
    async fn the_address_towards_consul_is_one_of_ours() {
        let endpoint = |address: &str| ConsulEndpoint {
            address: address.parse().unwrap(),
            ..ConsulEndpoint::default()
        };
        for address in ["127.0.0.1:8500", "unix:///run/consul.sock"] {
            // A machine without a network has none, and says so.
            if let Ok(ip) = towards(&endpoint(address)).await {
                assert!(!ip.is_loopback() && !ip.is_unspecified(), "{ip}");
                assert!(is_here(&ip.to_string()).await, "{ip}");
            }
        }
        assert!(is_here("127.0.0.7").await);
        assert!(!is_here("192.0.2.1").await && !is_here("redis-0.example").await);
        assert!(towards(&endpoint("no-such-name.invalid:8500")).await.is_err());
    }
}
