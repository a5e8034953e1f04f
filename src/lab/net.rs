//! What servers of a lab need of the network: ports that are free, and certificates.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;

use super::LabError;

/// The ports that servers of a lab get: above those of well-known services, below those that Linux gives to clients
/// (`net.ipv4.ip_local_port_range` begins at 32768).
const PORT_START: u16 = 10_240;
const PORT_END: u16 = 32_768;

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
    // Below those that the system gives to whatever asks a server: a question of another test, from any address of this machine,
    // must not sit on a port between now and the server's start.
    let span = u64::from(PORT_END - PORT_START);
    let start = RandomState::new().hash_one(std::process::id()) % span;
    // Held until all are found, so that none is found twice.
    let mut found: Vec<(u16, Vec<(UdpSocket, TcpListener)>)> = Vec::new();
    for step in 0..span {
        if found.len() == count {
            break;
        }
        let port = PORT_START + u16::try_from((start + step) % span).unwrap_or(0);
        let hold = |ip: &Ipv4Addr| -> std::io::Result<(UdpSocket, TcpListener)> {
            Ok((UdpSocket::bind((*ip, port))?, TcpListener::bind((*ip, port))?))
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
    /// The certificate's key.
    pub key: PathBuf,
    /// The name it is made out to.
    pub name: String,
}
