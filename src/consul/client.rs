//! One HTTP client for Consul: every call has a deadline, every answer a bound.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

pub use super::connection::Response;
use super::connection::{Connection, stamps};
use super::endpoint::ConsulEndpoint;
pub use super::error::{ClientError, ConsulError};
use super::login::{LOST_MAX, LoginError, LoginPicture, UNKNOWN_TOKEN};
use super::login_keeper::keep_logged_in;
use super::places::Places;
use super::recovery::Recovery;
use super::txn::{Tenancy, words};
use crate::foreign::harmless_json;
use crate::meter::Counters;
use crate::secret::SecretSource;

/// Deadline of one ordinary call. Consul itself gives up on finding a leader after 7 s
/// (`docs/facts/consul.md` 1), and its answer says more than our own timeout.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files of the certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);

/// An answer and the index it was given at.
#[derive(Debug)]
pub struct Indexed<T> {
    /// `X-Consul-Index`.
    pub index: u64,
    /// The decoded body.
    pub value: T,
}

/// A client for one Consul. Cheap to clone; changed settings hold for all clones.
#[derive(Debug, Clone)]
pub struct Consul {
    now: Arc<watch::Sender<Arc<Connection>>>,
    errors: Counters,
    recovery: Arc<Recovery>,
    places: Arc<Places>,
}

/// A way to a Consul that nothing goes yet.
#[derive(Debug)]
pub struct Prepared(Connection);

impl Consul {
    /// A client for `endpoint`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError`] when a certificate cannot be read or used.
    pub fn new(endpoint: &ConsulEndpoint) -> Result<Self, ClientError> {
        let now = Arc::new(watch::Sender::new(Arc::new(Connection::new(endpoint)?)));
        let (recovery, places) = (Arc::new(Recovery::new()), Arc::new(Places::default()));
        Ok(Self { now, errors: Counters::default(), recovery, places })
    }

    /// A way to `endpoint`, by certificates that are read anew: all that can fail when this client is to turn to it.
    ///
    /// # Errors
    /// [`ClientError`] when a certificate cannot be read or used.
    pub fn prepare(endpoint: &ConsulEndpoint) -> Result<Prepared, ClientError> {
        Ok(Prepared(Connection::new(endpoint)?))
    }

    /// From now on this client and its clones go that way. Blocking queries that wait for an answer of another Consul
    /// end without one.
    pub fn apply_config(&self, Prepared(mut next): Prepared) {
        let before = self.connection();
        let elsewhere = before.endpoint != next.endpoint;
        if !elsewhere {
            // A task that waits with the settings before is to hear when these are replaced.
            next.replaced = before.replaced.clone();
        }
        self.now.send_replace(Arc::new(next));
        if elsewhere {
            before.replaced.cancel();
        }
    }

    /// Reads the token, where there is to be one, or what it is fetched with.
    ///
    /// # Errors
    /// [`ConsulError::Secret`] or [`ConsulError::Login`] when it cannot be read now.
    pub fn check_token(&self) -> Result<(), ConsulError> {
        let connection = self.connection();
        match &connection.endpoint.login {
            Some(login) => drop(login.settings.jwt()?),
            None => drop(connection.endpoint.token.read()?),
        }
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
            match Self::prepare(endpoint) {
                Ok(next) => {
                    self.apply_config(next);
                    info!("the certificates for Consul have changed, and were read again");
                }
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

    /// Which token is shown to Consul, for people: where it is, never what it is.
    pub fn token_named(&self) -> String {
        let connection = self.connection();
        if let Some(login) = &connection.endpoint.login {
            return login.settings.named();
        }
        match &connection.endpoint.token {
            SecretSource::None => "without a token".to_owned(),
            SecretSource::File(path) => format!("token in {}", path.display()),
            SecretSource::Value(_) => "token from the environment".to_owned(),
        }
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
    ) -> Result<Response, ConsulError> {
        let connection = self.connection();
        let result = ask(&connection, &method, path, query, body, timeout).await;
        self.counted(result)
    }

    /// What is known of the login, where the token comes from one.
    pub fn login(&self) -> Option<LoginPicture> {
        Some(self.connection().endpoint.login.as_ref()?.picture())
    }

    /// Why the login fails, where the token comes from one.
    pub fn login_failure(&self) -> Option<LoginError> {
        self.login()?.failure
    }

    /// The how many-th token of the login it is that is used; 0 where there is none.
    pub fn token_number(&self) -> u64 {
        self.login().and_then(|login| login.held).map_or(0, |token| token.number)
    }

    /// Counts it, where it is an error.
    pub(super) fn counted(
        &self,
        result: Result<Response, ConsulError>,
    ) -> Result<Response, ConsulError> {
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

    /// One blocking query, for [`BlockingQuery`](super::blocking::BlockingQuery) alone. It ends early when the settings
    /// name another Consul. What fails is not counted here: one that a proxy has ended is no error.
    ///
    /// # Errors
    /// [`ConsulError::Unreachable`] without an answer in `timeout`, [`ConsulError::Secret`], and
    /// [`ConsulError::NoIndex`] where the answer has none.
    pub(super) async fn blocking(
        &self,
        path: &str,
        query: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Response, ConsulError> {
        let connection = self.connection();
        // Cancel safe: what is asked changes nothing.
        let result = tokio::select! {
            answer = ask(&connection, &Method::GET, path, query, None, timeout) => answer,
            () = connection.replaced.cancelled() => Err(ConsulError::Unreachable {
                address: connection.endpoint.display(),
                reason: "the settings name another Consul now".to_owned(),
            }),
        };
        result.and_then(|answer| answer.with_index(&format!("GET {path}")))
    }

    /// When this Consul may be asked again, where it does not answer.
    pub(super) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// How many requests are at this Consul at a time.
    pub fn places(&self) -> &Places {
        &self.places
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

/// Sends a request, with the token of the login where there is one. A server that does not know it has done nothing: it
/// is asked again, once it knows the token, or there is another one.
async fn ask(
    connection: &Connection,
    method: &Method,
    path: &str,
    query: &[(&str, &str)],
    body: Option<&Value>,
    timeout: Duration,
) -> Result<Response, ConsulError> {
    let Some(login) = &connection.endpoint.login else {
        return connection.send(method.clone(), path, query, body, timeout, None).await;
    };
    let mut lost = 0;
    loop {
        let token = login.token(|part| keep_logged_in(part, connection.endpoint.clone())).await?;
        let sent = connection
            .send(method.clone(), path, query, body, timeout, Some(&token.secret))
            .await?;
        if !sent.is_unknown_token() || lost == LOST_MAX {
            return Ok(sent);
        }
        lost += u32::from(login.not_found(&token).await);
    }
}

impl Response {
    /// Consul does not know the token.
    fn is_unknown_token(&self) -> bool {
        self.status == StatusCode::FORBIDDEN && words(&self.body).contains(UNKNOWN_TOKEN)
    }

    /// This answer, unless it should have an index and has none: Consul's is never 0 (`docs/facts/consul.md` 4).
    fn with_index(self, call: &str) -> Result<Self, ConsulError> {
        let is_read = matches!(self.status, StatusCode::OK | StatusCode::NOT_FOUND);
        if is_read && self.index == 0 {
            return Err(ConsulError::NoIndex { call: call.to_owned() });
        }
        Ok(self)
    }

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
        let value = serde_json::from_slice(&harmless_json(&answer.body)).map_err(|error| {
            ConsulError::Unreadable { call: call.to_owned(), what: error.to_string() }
        })?;
        Ok(Indexed { index: answer.index, value })
    }
}

/// What kind of error a call has met, if any. That there is no such key, or that a transaction was not applied, is an
/// answer.
fn error_kind(result: &Result<Response, ConsulError>) -> Option<&'static str> {
    match result {
        Ok(answer) => match answer.status.as_u16() {
            401 | 403 => Some("denied"),
            429 | 500.. => Some("failed"),
            _ => None,
        },
        Err(ConsulError::Unreadable { .. } | ConsulError::NoIndex { .. }) => Some("unreadable"),
        Err(error) if error.is_refusal() => Some("denied"),
        Err(_) => Some("unreachable"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_way_that_was_prepared_is_gone_though_its_certificate_is_gone_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let certificate = rcgen::generate_simple_self_signed(["consul".to_owned()]).unwrap();
        std::fs::write(&ca, certificate.cert.pem()).unwrap();
        let address = "https://127.0.0.1:8501".parse().unwrap();
        let next = ConsulEndpoint { address, ca_cert: Some(ca.clone()), ..Default::default() };
        let consul = Consul::new(&ConsulEndpoint::default()).unwrap();
        let prepared = Consul::prepare(&next).unwrap();
        std::fs::remove_file(&ca).unwrap();
        assert!(Consul::prepare(&next).is_err());
        consul.apply_config(prepared);
        assert_eq!(consul.address(), "https://127.0.0.1:8501");
    }

    #[test]
    fn authorities_are_read_from_a_directory_too_and_a_file_without_any_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, empty) = (dir.path().join("ca"), dir.path().join("empty.pem"));
        std::fs::create_dir(&ca).unwrap();
        let certificate = rcgen::generate_simple_self_signed(["consul".to_owned()]).unwrap();
        std::fs::write(&empty, certificate.signing_key.serialize_pem()).unwrap();
        let endpoint = |ca_cert: Option<PathBuf>, ca_path: Option<PathBuf>| ConsulEndpoint {
            address: "https://127.0.0.1:8501".parse().unwrap(),
            ca_cert,
            ca_path,
            ..Default::default()
        };
        let refused = |endpoint| match Consul::new(&endpoint) {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        };
        let said = refused(endpoint(Some(empty.clone()), None));
        assert_eq!(said, format!("{} holds no certificate", empty.display()));
        let said = refused(endpoint(None, Some(ca.clone())));
        assert_eq!(said, format!("{} holds no certificate", ca.display()));
        std::fs::write(ca.join("one.pem"), certificate.cert.pem()).unwrap();
        assert_eq!(refused(endpoint(None, Some(ca))), "");
    }

    /// A proxy before Consul asks for a login, in words that are not Consul's.
    #[tokio::test]
    async fn a_login_for_a_proxy_is_sent_and_a_refusal_of_its_has_a_hint_of_its_own() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let len = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..len]).to_lowercase();
                // user:password
                let known = request.contains("authorization: basic dxnlcjpwyxnzd29yza==");
                let (status, body) = match known {
                    true => ("200 OK", "[]"),
                    false => ("401 Unauthorized", "<html>who are you</html>"),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut endpoint =
            ConsulEndpoint { address: address.parse().unwrap(), ..Default::default() };
        let ask = async |endpoint: &ConsulEndpoint| {
            let consul = Consul::new(endpoint).unwrap();
            consul.get::<Vec<String>>("/v1/catalog/services", &[]).await
        };
        let error = ask(&endpoint).await.unwrap_err();
        assert!(error.hint().unwrap().contains("CONSUL_HTTP_AUTH"), "{error}");
        endpoint.http_auth = SecretSource::Value("user:password".into());
        assert_eq!(ask(&endpoint).await.unwrap().value, Vec::<String>::new());
    }
}
