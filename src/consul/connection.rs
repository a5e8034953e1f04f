//! The way to one Consul: its address, its certificates, and what one request and its answer are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::endpoint::{ConsulAddress, ConsulEndpoint};
use super::error::{ClientError, ConsulError, root_cause};
use crate::pem::{self, Stamp};

/// Deadline for the connection itself.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that are kept while nothing is asked on them.
const CONNECTIONS_KEPT: usize = 12;
/// How far Consul was when it answered: what a blocking query goes on from.
const INDEX_HEADER: &str = "X-Consul-Index";
/// Files that are read of `CONSUL_CAPATH`.
const CA_FILES_MAX: usize = 512;
/// Longest answer read, in bytes: far above 512 KiB, the most Consul stores under one key.
pub const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;

/// A raw answer.
#[derive(Debug)]
pub struct Response {
    /// When the request was sent.
    pub asked: Instant,
    /// The HTTP status.
    pub status: StatusCode,
    /// `X-Consul-Index`, 0 when there is none.
    pub index: u64,
    /// The body, at most [`ANSWER_LEN_MAX`].
    pub body: Vec<u8>,
}

/// How Consul is reached now.
#[derive(Debug)]
pub(super) struct Connection {
    http: reqwest::Client,
    base: String,
    /// The settings that it was made from.
    pub endpoint: ConsulEndpoint,
    /// The PEM files as they were read: their times and sizes.
    pub files: Vec<Option<Stamp>>,
    /// Blocking queries end with it: the next one goes to another Consul.
    pub replaced: CancellationToken,
}

impl Connection {
    pub fn new(endpoint: &ConsulEndpoint) -> Result<Self, ClientError> {
        // Before they are read: a change in between is seen later.
        let files = stamps(endpoint);
        let mut builder = reqwest::Client::builder()
            // The local agent is never behind a proxy, whatever HTTP_PROXY says.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(CONNECTIONS_KEPT)
            .tcp_keepalive(Duration::from_secs(15))
            .user_agent(concat!("consul-redis/", env!("CARGO_PKG_VERSION")));
        let base = endpoint.base_url();
        if endpoint.ca_cert.is_some() || endpoint.ca_path.is_some() {
            builder = builder.tls_certs_only(authorities(endpoint)?);
        } else if !base.starts_with("https://") {
            // No authority has to be trusted, and a small image has no authorities to offer.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        if let Some((cert, key)) = &endpoint.client_cert {
            let mut pem = read_pem(cert)?;
            pem.extend(read_pem(key)?);
            builder = builder.identity(reqwest::Identity::from_pem(&pem)?);
        }
        if !endpoint.tls_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let ConsulAddress::Unix(path) = &endpoint.address {
            builder = builder.unix_socket(path.clone());
        }
        if let (Some(_), Some(host)) = (&endpoint.tls_server_name, endpoint.host()) {
            builder = builder.dns_resolver(ConnectTo(host));
        }
        let http = builder.build()?;
        let endpoint = endpoint.clone();
        Ok(Self { http, base, endpoint, files, replaced: CancellationToken::new() })
    }

    /// Sends one request with `token`, or with that of the settings.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        timeout: Duration,
        token: Option<&SecretString>,
    ) -> Result<Response, ConsulError> {
        let asked = Instant::now();
        let mut request =
            self.http.request(method, format!("{}{path}", self.base)).query(query).timeout(timeout);
        request = self.authorised(request, token)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| ConsulError::Unreachable {
            address: self.endpoint.display(),
            reason: root_cause(&error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let header = response.headers().get(INDEX_HEADER).and_then(|v| v.to_str().ok());
        let index = header.and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                let what = format!("longer than {ANSWER_LEN_MAX} bytes");
                return Err(ConsulError::Unreadable { call: path.to_owned(), what });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { asked, status, index, body })
    }

    fn authorised(
        &self,
        mut request: RequestBuilder,
        token: Option<&SecretString>,
    ) -> Result<RequestBuilder, ConsulError> {
        let own = match token {
            Some(_) => None,
            None => self.endpoint.token.read()?,
        };
        if let Some(token) = token.or(own.as_ref()) {
            request = request.header("X-Consul-Token", token.expose_secret());
        }
        if let Some(auth) = self.endpoint.http_auth.read()? {
            // As Consul's own tools: without a colon, all of it is the user.
            let (user, password) = match auth.expose_secret().split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (auth.expose_secret(), None),
            };
            request = request.basic_auth(user, password);
        }
        if let Some(namespace) = &self.endpoint.namespace {
            request = request.query(&[("ns", namespace)]);
        }
        if let Some(partition) = &self.endpoint.partition {
            request = request.query(&[("partition", partition)]);
        }
        Ok(request)
    }
}

/// The authorities of the file and of the files in the directory.
fn authorities(endpoint: &ConsulEndpoint) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let mut all = Vec::new();
    for path in ca_files(endpoint) {
        all.extend(reqwest::Certificate::from_pem_bundle(&read_pem(&path)?)?);
    }
    let named = endpoint.ca_cert.iter().chain(&endpoint.ca_path);
    match named.last() {
        Some(path) if all.is_empty() => Err(ClientError::NoCertificate { path: path.clone() }),
        _ => Ok(all),
    }
}

/// Every file that holds authorities.
fn ca_files(endpoint: &ConsulEndpoint) -> Vec<PathBuf> {
    let listed = endpoint.ca_path.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let mut files: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .take(CA_FILES_MAX)
        .collect();
    files.sort();
    files.extend(endpoint.ca_cert.clone());
    files
}

/// Connects to one host whatever the URL says: for a certificate made out to another name.
struct ConnectTo(String);

impl Resolve for ConnectTo {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// How the PEM files are now.
pub(super) fn stamps(endpoint: &ConsulEndpoint) -> Vec<Option<Stamp>> {
    let files = ca_files(endpoint);
    let pair = endpoint.client_cert.iter().flat_map(|(cert, key)| [cert, key]);
    pem::stamps(files.iter().chain(pair))
}

fn read_pem(path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::Pem { path: path.to_owned(), source })
}
