//! What servers of a lab need of the network: ports that are free, and certificates.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;

use super::LabError;

/// A port that is free for TCP and UDP on all of these addresses.
///
/// # Errors
/// When none can be had.
pub fn free_port(ips: &[Ipv4Addr]) -> Result<u16, LabError> {
    let ports = free_ports(ips, 1)?;
    ports.first().copied().ok_or_else(|| LabError::new("no port"))
}

/// So many different ports that are free for TCP and UDP on all of these addresses.
///
/// # Errors
/// When they cannot be had.
pub fn free_ports(ips: &[Ipv4Addr], count: usize) -> Result<Vec<u16>, LabError> {
    let first = ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST);
    // Held until all are found, so that none is found twice.
    let mut found: Vec<(u16, Vec<TcpListener>)> = Vec::new();
    for _ in 0..64 + count {
        if found.len() == count {
            break;
        }
        let port = TcpListener::bind((first, 0))?.local_addr()?.port();
        let hold = |ip: &Ipv4Addr| {
            UdpSocket::bind((*ip, port)).and_then(|_| TcpListener::bind((*ip, port)))
        };
        if let Ok(held) = ips.iter().map(hold).collect() {
            found.push((port, held));
        }
    }
    if found.len() < count {
        return Err(LabError(format!("no free ports on {ips:?}")));
    }
    Ok(found.into_iter().map(|(port, _)| port).collect())
}

/// Certificates of a world: PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority that signed everything.
    pub ca: PathBuf,
    /// A certificate for servers and clients alike.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The name it is made out to.
    pub name: String,
}
