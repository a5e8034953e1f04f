//! Connections to Redis and Sentinel: TCP or TLS, authenticated, with a deadline on everything, and a
//! signal the moment one is closed.
//!
//! The redis crate's own client reconnects or hides outages; an agent that has to tell *unknown* from
//! *down* needs neither, so this module makes the stream and hands it to the crate's protocol layer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Value};
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::core::address::Address;
use crate::pem;
use crate::secret::{SecretError, SecretSource};

/// How to log in to a kind of server, Redis or Sentinel.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSettings {
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: SecretSource,
    /// TLS, when it is spoken.
    pub tls: Option<TlsSettings>,
    /// Deadline for a connection, and for each question on it.
    pub timeout: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            username: None,
            password: SecretSource::None,
            tls: None,
            timeout: Duration::from_millis(500),
        }
    }
}

impl LinkSettings {
    /// The same for a server that was listed under a name: its certificate is made out to that, unless
    /// the settings say otherwise.
    #[must_use]
    pub fn expecting(mut self, name: Option<&str>) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.server_name = tls.server_name.take().or_else(|| name.map(str::to_owned));
        }
        self
    }
}

/// TLS towards a Redis or Sentinel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file with the authorities to trust, instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// The name to expect in the server's certificate, instead of its address.
    pub server_name: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Nothing listens there, or the network says no.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// No answer within the deadline.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection was closed, or the server refused the question.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// A certificate cannot be read, or the handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The password cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The answer is not what the command promises.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One open connection for questions.
pub struct Link {
    connection: MultiplexedConnection,
    timeout: Duration,
    closed: CancellationToken,
    _driver: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Any [`LinkError`]; never takes longer than the settings' timeout.
    pub async fn open(address: &Address, settings: &LinkSettings) -> Result<Self, LinkError> {
        within(settings.timeout, async {
            let stream = connect(address, settings).await?;
            let info = login(settings)?;
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&info, stream, config).await?;
            let closed = CancellationToken::new();
            let signal = closed.clone();
            // The driver ends when the server closes the connection: that is the tripwire.
            let driver = tokio::spawn(async move {
                driver.await;
                signal.cancel();
            });
            let driver = AbortOnDropHandle::new(driver);
            Ok(Self { connection, timeout: settings.timeout, closed, _driver: driver })
        })
        .await
    }

    /// Sends all commands in one write and returns one value each; a command that the server refused
    /// gives a [`Value::ServerError`].
    ///
    /// # Errors
    /// [`LinkError::Timeout`] or [`LinkError::Redis`] when the connection is of no more use.
    pub async fn ask(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, LinkError> {
        let count = commands.len();
        within(self.timeout, async {
            let answers = self.connection.send_packed_commands(commands, 0, count).await?;
            if answers.len() != count {
                return Err(LinkError::Unexpected(format!(
                    "{} answers to {count} commands",
                    answers.len()
                )));
            }
            Ok(answers)
        })
        .await
    }

    /// Sends one command and returns what it answers.
    ///
    /// # Errors
    /// As [`Link::ask`]; a refusal is [`LinkError::Unexpected`] with the server's words.
    pub async fn call(&mut self, command: &[&str]) -> Result<Value, LinkError> {
        let mut pipe = redis::pipe();
        if let [name, args @ ..] = command {
            pipe.cmd(name);
            for arg in args {
                pipe.arg(*arg);
            }
        }
        match self.ask(&pipe).await?.pop() {
            Some(error @ Value::ServerError(_)) => {
                Err(LinkError::Unexpected(text(&error).err().unwrap_or_default()))
            }
            Some(value) => Ok(value),
            None => Err(LinkError::Unexpected("no answer".to_owned())),
        }
    }

    /// Resolves when the connection is closed. Cancel safe.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// Connects, logs in, and subscribes to every event.
///
/// # Errors
/// Any [`LinkError`]; never takes longer than the settings' timeout.
pub async fn subscribe(address: &Address, settings: &LinkSettings) -> Result<PubSub, LinkError> {
    within(settings.timeout, async {
        let stream = connect(address, settings).await?;
        let mut events = PubSub::new(&login(settings)?, stream).await?;
        events.psubscribe("*").await?;
        Ok(events)
    })
    .await
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(LinkError::Timeout(timeout)))
}

fn login(settings: &LinkSettings) -> Result<RedisConnectionInfo, LinkError> {
    let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(password) = settings.password.read()? {
        info = info.set_password(password.expose_secret());
        if let Some(username) = &settings.username {
            info = info.set_username(username);
        }
    }
    Ok(info)
}

async fn connect(address: &Address, settings: &LinkSettings) -> Result<Box<dyn Stream>, LinkError> {
    let tcp =
        TcpStream::connect((address.host(), address.port())).await.map_err(LinkError::Connect)?;
    tcp.set_nodelay(true).map_err(LinkError::Connect)?;
    let Some(tls) = &settings.tls else { return Ok(Box::new(tcp)) };
    let name = tls.server_name.as_deref().unwrap_or_else(|| address.host()).to_owned();
    let name = ServerName::try_from(name).map_err(|error| LinkError::Tls(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(tls_config(tls)?));
    let stream =
        connector.connect(name, tcp).await.map_err(|error| LinkError::Tls(error.to_string()))?;
    Ok(Box::new(stream))
}

/// Read anew for each connection, so that rotated certificates need no restart.
///
/// # Errors
/// [`LinkError::Tls`] when a certificate or the key cannot be read or used.
pub fn tls_config(tls: &TlsSettings) -> Result<rustls::ClientConfig, LinkError> {
    let failed = |error: rustls::Error| LinkError::Tls(error.to_string());
    let builder = rustls::ClientConfig::builder();
    let builder = match &tls.ca_cert {
        Some(path) => {
            builder.with_root_certificates(pem::authorities(path).map_err(LinkError::Tls)?)
        }
        None => builder.with_platform_verifier().map_err(failed)?,
    };
    match &tls.client_cert {
        Some((cert, key)) => {
            let certificates = pem::certificates(cert).map_err(LinkError::Tls)?;
            let key = pem::key(key).map_err(LinkError::Tls)?;
            builder.with_client_auth_cert(certificates, key).map_err(failed)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A reply as text.
///
/// # Errors
/// The server's own error, or that the reply is of another kind.
pub fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Ok(text.clone()),
        Value::VerbatimString { text, .. } => Ok(text.clone()),
        Value::Okay => Ok("OK".to_owned()),
        Value::Int(number) => Ok(number.to_string()),
        Value::ServerError(error) => Err(server_error(error)),
        other => Err(format!("text expected, got {other:?}")),
    }
}

/// A reply as a list.
///
/// # Errors
/// The server's own error, or that the reply is of another kind.
pub fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::ServerError(error) => Err(server_error(error)),
        other => Err(format!("a list expected, got {other:?}")),
    }
}

/// A flat list of names and values as a map.
///
/// # Errors
/// The server's own error, or that the reply is of another kind.
pub fn fields(value: &Value) -> Result<std::collections::BTreeMap<String, String>, String> {
    if let Value::Map(pairs) = value {
        return pairs.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect();
    }
    let items = list(value)?;
    items
        .chunks_exact(2)
        .map(|pair| match pair {
            [name, value] => Ok((text(name)?, text(value)?)),
            _ => Err("a name without a value".to_owned()),
        })
        .collect()
}

/// A server's error in its own words: `LOADING Redis is loading the dataset in memory`.
pub fn server_error(error: &redis::ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}
