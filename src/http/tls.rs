//! TLS for HTTP clients: a listener that axum takes, and which of them have shown a certificate of our authority.
//!
//! A handshake is a task of its own, with a deadline: one that hangs keeps no other client waiting.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, info};

use super::limits::Limited;
use crate::config::HttpTls;
use crate::pem::{self, Stamp};

/// Handshakes under way at a time; a client that comes after that waits for one of them.
const HANDSHAKES_MAX: usize = 128;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP listener with TLS on it.
pub struct TlsListener {
    tcp: TcpListener,
    certificates: Certificates,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    /// `certificates` are looked at again for each connection.
    pub fn new(tcp: TcpListener, certificates: Certificates) -> Self {
        Self { tcp, certificates, handshakes: JoinSet::new() }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let room = self.handshakes.len() < HANDSHAKES_MAX;
            let connection = async {
                if room { Listener::accept(&mut self.tcp).await } else { pending().await }
            };
            let done = async {
                match self.handshakes.join_next().await {
                    Some(done) => done,
                    None => pending().await,
                }
            };
            // Cancel safe, both: a connection or a handshake is taken whole, or later.
            tokio::select! {
                (stream, from) = connection => {
                    let acceptor = self.certificates.acceptor();
                    self.handshakes.spawn(shake_hands(acceptor, stream, from));
                }
                done = done => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((stream, from)),
        Ok(Err(failed)) => {
            debug!("TLS with {from}: {failed}");
            None
        }
        Err(_) => {
            debug!("TLS with {from}: no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs());
            None
        }
    }
}

/// The client at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// It has shown a certificate, which the handshake has held against our authority.
    verified: bool,
}

impl Connected<IncomingStream<'_, Limited<TlsListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Limited<TlsListener>>) -> Self {
        let (_, session) = stream.io().get_ref().get_ref();
        Self { verified: session.peer_certificates().is_some() }
    }
}

/// Whether the client that sent this has shown a certificate of our authority.
pub fn is_verified(request: &Request) -> bool {
    request.extensions().get::<ConnectInfo<Peer>>().is_some_and(|peer| peer.0.verified)
}

/// What the files say, as they were when they were last read.
pub struct Certificates {
    files: HttpTls,
    stamps: Vec<Option<Stamp>>,
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    /// In words, what cannot be read or does not belong together.
    pub fn read(files: &HttpTls) -> Result<Self, String> {
        // First, so that what changes meanwhile is read again.
        let stamps = stamps(files);
        Ok(Self { config: config(files)?, files: files.clone(), stamps })
    }

    /// For the next connection: with new files, when they have changed. What cannot be used, such as a certificate
    /// whose key is still to come, changes nothing.
    fn acceptor(&mut self) -> TlsAcceptor {
        let stamps = stamps(&self.files);
        if stamps != self.stamps {
            self.stamps = stamps;
            match config(&self.files) {
                Ok(config) => {
                    info!("HTTP: certificates read again from {}", self.files.cert.display());
                    self.config = config;
                }
                Err(failed) => error!("HTTP: the certificates stay as they were: {failed}"),
            }
        }
        TlsAcceptor::from(self.config.clone())
    }
}

fn stamps(files: &HttpTls) -> Vec<Option<Stamp>> {
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    pem::stamps(paths.into_iter().flatten())
}

fn config(files: &HttpTls) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(pem::authorities(path)?));
            // What is public is so without a certificate; the guard looks for one.
            let verifier = verifier.allow_unauthenticated().build();
            let unusable = |error| format!("{}: {error}", path.display());
            builder.with_client_cert_verifier(verifier.map_err(unusable)?)
        }
        None => builder.with_no_client_auth(),
    };
    let (certificates, key) = (pem::certificates(&files.cert)?, pem::key(&files.key)?);
    let unusable = |error| format!("{}: {error}", files.cert.display());
    let mut config = builder.with_single_cert(certificates, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
