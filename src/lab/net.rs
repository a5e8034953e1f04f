//! What servers of a lab need of the network: ports that are free, and certificates.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use tokio::sync::oneshot;

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
    // Below those that the system gives to whatever asks a server: a question of another test, from any address of this
    // machine, must not sit on a port between now and the server's start.
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

/// What leads from an address to a server that listens elsewhere, as a router that translates addresses does, or the
/// published port of a container. It goes on while the test waits for a program. Dropped, it leads nowhere.
#[derive(Debug)]
pub struct Forward {
    _until: oneshot::Sender<()>,
}

impl Forward {
    /// Forwards every connection to `from`.
    ///
    /// # Errors
    /// When `from` is taken.
    pub fn start(from: SocketAddr, to: SocketAddr) -> Result<Self, LabError> {
        let listener = TcpListener::bind(from)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (until, dropped) = oneshot::channel();
        std::thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = forward(listener, to) => {}
                    _ = dropped => {}
                }
            });
        });
        Ok(Self { _until: until })
    }
}

async fn forward(listener: TcpListener, to: SocketAddr) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((mut here, _)) = listener.accept().await {
        tokio::spawn(async move {
            // Where nothing listens, the connection is closed at once.
            if let Ok(mut there) = tokio::net::TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            }
        });
    }
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
