//! One HTTP client for Consul: every call has a deadline, every answer a bound.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::endpoint::{ConsulAddress, ConsulEndpoint};
use super::txn::{Tenancy, words};
use crate::meter::Counters;
use crate::pem::{self, Stamp};
use crate::secret::SecretError;

/// Deadline of one ordinary call. Consul itself gives up on finding a leader after 7 s
/// (`docs/facts/consul.md` 1), and its answer says more than our own timeout.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for the connection itself.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a blocking query waits for a change.
pub const WATCH_WAIT: Duration = Duration::from_secs(60);
/// How often the files of the certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
/// Longest answer read, in bytes: far above 512 KiB, the most Consul stores under one key.
pub const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;

/// A call that did not succeed.
#[derive(Debug, Error)]
pub enum ConsulError {
    /// No answer: refused, timed out, broken off.
    #[error("Consul at {address} does not answer: {reason}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What happened.
        reason: String,
    },
    /// 401 or 403: the token is unknown, or may not do this.
    #[error("Consul denies {call}: {what}")]
    Denied {
        /// What was asked for.
        call: String,
        /// Consul's words.
        what: String,
    },
    /// Any other status.
    #[error("Consul answers {status} to {call}: {what}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        call: String,
        /// Consul's words.
        what: String,
    },
    /// The answer is not what the API promises.
    #[error("Consul's answer to {call} cannot be read: {what}")]
    Unreadable {
        /// What was asked for.
        call: String,
        /// What is wrong with it.
        what: String,
    },
    /// The token's file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl ConsulError {
    /// Trying again later may help: nobody answered, or Consul has no leader just now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            Self::Denied { .. } | Self::Unreadable { .. } | Self::Secret(_) => false,
        }
    }

    /// Consul was asked for a namespace or a partition, and is not Enterprise.
    pub fn is_about_enterprise(&self) -> bool {
        matches!(self, Self::Status { status: 400, what, .. } if what.contains("Enterprise feature"))
    }

    /// What to do about it, where there is more to say.
    pub fn hint(&self) -> Option<&'static str> {
        let has = |text: &str, needle: &str| text.contains(needle);
        Some(match self {
            // What the TLS library calls an answer that is not in TLS.
            Self::Unreachable { reason, .. } if has(reason, "corrupt message") => {
                "that port speaks no TLS: write http:// and Consul's http port, or unset CONSUL_HTTP_SSL"
            }
            Self::Unreachable { reason, .. }
                if has(reason, "NotValidForName") || has(reason, "not valid for name") =>
            {
                "CONSUL_TLS_SERVER_NAME is the name that Consul's certificate is made out to, as server.dc1.consul"
            }
            Self::Unreachable { reason, .. } if has(reason, "certificate") => {
                "CONSUL_CACERT names the authority that signed Consul's certificate; where Consul asks for one of \
                 ours, CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"
            }
            Self::Unreachable { .. } => {
                "is Consul running there? set CONSUL_HTTP_ADDR or --http-addr"
            }
            Self::Denied { what, .. } if has(what, "ACL not found") => {
                "Consul does not know this token: CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE is mistyped, of another \
                 cluster, or was deleted"
            }
            Self::Denied { .. } => {
                "check CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE against consul/agent-policy.hcl"
            }
            Self::Status { what, .. } if has(what, "HTTP request to an HTTPS server") => {
                "that port speaks TLS: write https://, or set CONSUL_HTTP_SSL=true"
            }
            Self::Status { what, .. } if has(what, "No cluster leader") => {
                "Consul has no leader: a majority of its servers must run and reach one another"
            }
            Self::Status { .. } if self.is_about_enterprise() => {
                "only Consul Enterprise has namespaces and partitions: unset CONSUL_NAMESPACE and CONSUL_PARTITION, \
                 and take `namespace` and `partition` out of [consul]"
            }
            Self::Status { status: 429, .. } => {
                "Consul limits requests: raise its limits, or ask less often"
            }
            Self::Status { status: 500.., .. } => "Consul's own log says more",
            Self::Status { .. } | Self::Unreadable { .. } => {
                "is it Consul's HTTP API that answers there? look at CONSUL_HTTP_ADDR"
            }
            Self::Secret(_) => {
                "CONSUL_HTTP_TOKEN_FILE, --token-file or [consul] token_file names a file that this user can read, \
                 with the token in it and nothing else"
            }
        })
    }
}

/// A client that could not be made from its settings.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A PEM file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The HTTP client refuses the settings.
    #[error("cannot set up the Consul client: {}", root_cause(.0))]
    Setup(#[from] reqwest::Error),
}

/// An answer and the index it was given at.
#[derive(Debug)]
pub struct Indexed<T> {
    /// `X-Consul-Index`.
    pub index: u64,
    /// The answer.
    pub value: T,
}

/// A raw answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// `X-Consul-Index`, 0 when there is none.
    pub index: u64,
    /// The body, at most [`ANSWER_LEN_MAX`].
    pub body: Vec<u8>,
}

/// A client for one Consul. Cheap to clone; what one clone is told about it holds for all.
#[derive(Debug, Clone)]
pub struct Consul {
    now: Arc<watch::Sender<Arc<Connection>>>,
    errors: Counters,
}

/// How Consul is reached now.
#[derive(Debug)]
struct Connection {
    http: reqwest::Client,
    base: String,
    endpoint: ConsulEndpoint,
    /// The PEM files as they were read: their times and sizes.
    files: Vec<Option<Stamp>>,
    /// Blocking queries end with it: the next one goes to another Consul.
    replaced: CancellationToken,
}

impl Connection {
    fn new(endpoint: &ConsulEndpoint) -> Result<Self, ClientError> {
        // Before they are read: a change in between is seen later.
        let files = stamps(endpoint);
        let mut builder = reqwest::Client::builder()
            // The local agent is never behind a proxy, whatever HTTP_PROXY says.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(4)
            .tcp_keepalive(Duration::from_secs(15))
            .user_agent(concat!("consul-redis/", env!("CARGO_PKG_VERSION")));
        let base = endpoint.base_url();
        if let Some(path) = &endpoint.ca_cert {
            let pem = read_pem(path)?;
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
        } else if !base.starts_with("https://") {
            // Nobody has to be trusted, and a small image has no authorities to offer.
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

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Answer, ConsulError> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.base)).query(query).timeout(timeout);
        request = self.authorised(request)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| ConsulError::Unreachable {
            address: self.endpoint.display(),
            reason: root_cause(&error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let header = response.headers().get("x-consul-index").and_then(|v| v.to_str().ok());
        let index = header.and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                let what = format!("longer than {ANSWER_LEN_MAX} bytes");
                return Err(ConsulError::Unreadable { call: path.to_owned(), what });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, index, body })
    }

    fn authorised(&self, mut request: RequestBuilder) -> Result<RequestBuilder, ConsulError> {
        if let Some(token) = self.endpoint.token.read()? {
            request = request.header("X-Consul-Token", token.expose_secret());
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

impl Consul {
    /// A client for `endpoint`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError`] when a certificate cannot be read or used.
    pub fn new(endpoint: &ConsulEndpoint) -> Result<Self, ClientError> {
        let now = Arc::new(watch::Sender::new(Arc::new(Connection::new(endpoint)?)));
        Ok(Self { now, errors: Counters::default() })
    }

    /// From now on this client and its clones ask `endpoint`, by certificates that are read anew. Blocking queries that
    /// wait for an answer of another Consul end without one.
    ///
    /// # Errors
    /// [`ClientError`] when a certificate cannot be read or used: everything stays as it was.
    pub fn turn_to(&self, endpoint: &ConsulEndpoint) -> Result<(), ClientError> {
        let mut next = Connection::new(endpoint)?;
        let before = self.connection();
        let elsewhere = before.endpoint != *endpoint;
        if !elsewhere {
            // Whoever waits by the one before is to hear when this one is replaced.
            next.replaced = before.replaced.clone();
        }
        self.now.send_replace(Arc::new(next));
        if elsewhere {
            before.replaced.cancel();
        }
        Ok(())
    }

    /// Reads the token, where there is to be one.
    ///
    /// # Errors
    /// [`ConsulError::Secret`] when it cannot be read now.
    pub fn check_token(&self) -> Result<(), ConsulError> {
        self.connection().endpoint.token.read()?;
        Ok(())
    }

    /// Reads the certificates and the key again whenever their files have changed.
    pub async fn keep_certificates_fresh(self) {
        let mut failed = None;
        loop {
            tokio::time::sleep(CERTIFICATES_EVERY).await;
            let Connection { endpoint, files, .. } = &*self.connection();
            let found = stamps(endpoint);
            if *files == found || failed.as_ref() == Some(&found) {
                continue;
            }
            match self.turn_to(endpoint) {
                Ok(()) => info!("the certificates for Consul have changed, and were read again"),
                Err(error) => {
                    warn!("the certificates for Consul have changed, the old ones stay: {error}");
                    failed = Some(found);
                }
            }
        }
    }

    fn connection(&self) -> Arc<Connection> {
        self.now.borrow().clone()
    }

    /// Where Consul is, for messages.
    pub fn address(&self) -> String {
        self.connection().endpoint.display()
    }

    /// Calls of this client and its clones without an answer to go by: `unreachable`, `denied`, `failed` (500 and
    /// above, or too many requests) and `unreadable`.
    pub fn errors(&self) -> Counters {
        self.errors.clone()
    }

    /// Enterprise tenancy for objects in a transaction.
    pub fn tenancy(&self) -> Tenancy {
        let ConsulEndpoint { namespace, partition, .. } = &self.connection().endpoint;
        Tenancy { namespace: namespace.clone(), partition: partition.clone() }
    }

    /// One call. `path` starts with `/v1/`; any status is an answer.
    ///
    /// # Errors
    /// [`ConsulError::Unreachable`] without an answer in `timeout`, and [`ConsulError::Secret`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Answer, ConsulError> {
        let connection = self.connection();
        let result = connection.send(method, path, query, body, timeout).await;
        self.counted(result)
    }

    fn counted(&self, result: Result<Answer, ConsulError>) -> Result<Answer, ConsulError> {
        if let Some(kind) = error_kind(&result) {
            self.errors.get_or_create(&vec![("kind", kind.to_owned())]).inc();
        }
        result
    }

    /// `GET`, decoded. A status other than 200 is an error.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Indexed<T>, ConsulError> {
        let answer = self.call(Method::GET, path, query, None, CALL_TIMEOUT).await?;
        answer.decode(&format!("GET {path}"))
    }

    /// A blocking query: the answer once it has changed since the index `after`, or after `wait`; at once for 0.
    ///
    /// # Errors
    /// [`ConsulError::Unreachable`] without an answer in time, and [`ConsulError::Secret`].
    pub async fn watch(
        &self,
        path: &str,
        query: &[(&str, &str)],
        after: u64,
        wait: Duration,
    ) -> Result<Answer, ConsulError> {
        let (index, period) = (after.to_string(), format!("{}ms", wait.as_millis()));
        let blocking = [("index", index.as_str()), ("wait", period.as_str())];
        // Consul adds up to a sixteenth, and may look for a leader for 7 s.
        let timeout = wait * 17 / 16 + CALL_TIMEOUT;
        let connection = self.connection();
        let query = [query, &blocking].concat();
        // Cancel safe: what is asked changes nothing.
        let result = tokio::select! {
            answer = connection.send(Method::GET, path, &query, None, timeout) => answer,
            () = connection.replaced.cancelled() => Err(ConsulError::Unreachable {
                address: connection.endpoint.display(),
                reason: "the settings name another Consul now".to_owned(),
            }),
        };
        self.counted(result)
    }

    /// `PUT`, with the body of the answer. A status other than 200 is an error.
    ///
    /// # Errors
    /// Any [`ConsulError`].
    pub async fn put(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Vec<u8>, ConsulError> {
        let answer = self.call(Method::PUT, path, query, body, CALL_TIMEOUT).await?;
        answer.ok(&format!("PUT {path}")).map(|answer| answer.body)
    }
}

impl Answer {
    /// This answer if its status is 200.
    ///
    /// # Errors
    /// [`ConsulError::Denied`] or [`ConsulError::Status`].
    pub fn ok(self, call: &str) -> Result<Self, ConsulError> {
        if self.status == StatusCode::OK {
            return Ok(self);
        }
        let call = call.to_owned();
        let what = words(&self.body);
        let status = self.status.as_u16();
        Err(match status {
            401 | 403 => ConsulError::Denied { call, what },
            _ => ConsulError::Status { status, call, what },
        })
    }

    /// The body as JSON, if the status is 200.
    ///
    /// # Errors
    /// [`ConsulError::Denied`], [`ConsulError::Status`] or [`ConsulError::Unreadable`].
    pub fn decode<T: DeserializeOwned>(self, call: &str) -> Result<Indexed<T>, ConsulError> {
        let answer = self.ok(call)?;
        let value = serde_json::from_slice(&answer.body).map_err(|error| {
            ConsulError::Unreadable { call: call.to_owned(), what: error.to_string() }
        })?;
        Ok(Indexed { index: answer.index, value })
    }
}

/// What kind of error a call has met, if any. That there is no such key, or that a transaction was not applied, is an
/// answer.
fn error_kind(result: &Result<Answer, ConsulError>) -> Option<&'static str> {
    match result {
        Ok(answer) => match answer.status.as_u16() {
            401 | 403 => Some("denied"),
            429 | 500.. => Some("failed"),
            _ => None,
        },
        Err(ConsulError::Unreadable { .. }) => Some("unreadable"),
        Err(ConsulError::Secret(_) | ConsulError::Denied { .. }) => Some("denied"),
        Err(ConsulError::Unreachable { .. } | ConsulError::Status { .. }) => Some("unreachable"),
    }
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
fn stamps(endpoint: &ConsulEndpoint) -> Vec<Option<Stamp>> {
    let ConsulEndpoint { ca_cert, client_cert, .. } = endpoint;
    let pair = client_cert.iter().flat_map(|(cert, key)| [cert, key]);
    pem::stamps(ca_cert.iter().chain(pair))
}

fn read_pem(path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::Pem { path: path.to_owned(), source })
}

/// The innermost cause: reqwest's own words only repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
