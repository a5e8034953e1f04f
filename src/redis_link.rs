//! Connections to Redis and Sentinel: TCP or TLS, authenticated, with a deadline on everything, and a
//! signal the moment one is closed.
//!
//! The redis crate's own client reconnects or hides outages; an agent that must distinguish *unknown* from
//! *down* needs neither, so this module makes the stream and hands it to the crate's protocol layer.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Value};
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::core::identity::address::Address;
use crate::core::identity::mark::MarkKey;
use crate::core::shown::unreachable::LOGIN_REFUSED;
use crate::dns::{DnsError, look_up};
use crate::pem;
use crate::secret::{SecretError, SecretSource};

/// How long a server may take that writes its config file before it answers, with an fsync each time.
pub const SAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// How to log in to a kind of server, Redis or Sentinel.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSettings {
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// Where the password is read from, each time it is used.
    pub password: SecretSource,
    /// TLS, when it is spoken.
    pub tls: Option<TlsSettings>,
    /// Deadline for a connection, and for each question on it.
    pub timeout: Duration,
    /// The key of the mark in the data set, which an instance is asked for with what it says of itself.
    pub mark: Option<MarkKey>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            username: None,
            password: SecretSource::None,
            tls: None,
            timeout: Duration::from_millis(500),
            mark: None,
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

    /// Which login this is, for people: the user, and where the password is.
    pub fn login_named(&self) -> String {
        let password = match &self.password {
            SecretSource::None => "no password".to_owned(),
            SecretSource::File(path) => format!("password in {}", path.display()),
            SecretSource::Value(_) => "password from the environment".to_owned(),
        };
        match &self.username {
            Some(user) => format!("user {user}, {password}"),
            None => password,
        }
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
    Connect(io::Error),
    /// No answer within the deadline.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Its name gave no address.
    #[error(transparent)]
    Lookup(#[from] DnsError),
    /// The connection was closed, or the server refused the question.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// The server said why, and closed the connection: in protected mode, or when it has too many clients.
    #[error("{0}")]
    TurnedAway(String),
    /// The server does not take the login.
    #[error("{LOGIN_REFUSED}: {words} ({login})")]
    Refused {
        /// The server's words.
        words: String,
        /// Which login: never the secret, but where it is.
        login: String,
    },
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

/// The server has closed the connection that was open, while it was asked or told something: no reason to wait, it may
/// well answer on another one.
pub fn has_closed<T>(was_open: bool, result: &Result<T, LinkError>) -> bool {
    was_open && matches!(result, Err(LinkError::Redis(_)))
}

/// How long one address of a name is tried alone.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(50);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Longest part of a server's first words that is kept, in bytes.
const FIRST_WORDS_LEN_MAX: usize = 512;

/// A connection that remembers the server's first words when they are an error. A server that turns us away says why
/// before it was asked anything, and closes; the protocol layer, which has no question for that answer, only sees a
/// pipe break.
struct GreetingStream {
    stream: Box<dyn Stream>,
    /// Its first words are still to come.
    fresh: bool,
    words: FirstWords,
}

/// A server's first words, when they are an error.
type FirstWords = Arc<OnceLock<String>>;

impl GreetingStream {
    fn listen(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !std::mem::take(&mut self.fresh) {
            return;
        }
        if let Some(error) = bytes.strip_prefix(b"-") {
            let error = error.get(..FIRST_WORDS_LEN_MAX).unwrap_or(error);
            let text = String::from_utf8_lossy(error);
            // Redis goes on with advice.
            let line = text.lines().next().unwrap_or_default();
            let sentence = line.split(". ").next().unwrap_or_default().trim_end_matches('.');
            let _ = self.words.set(sentence.to_owned());
        }
    }
}

impl AsyncRead for GreetingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.listen(into.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for GreetingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Err(_))) && self.fresh {
            // It has closed already; what it said is still there to be read.
            let mut room = [0; FIRST_WORDS_LEN_MAX];
            let _ = self.as_mut().poll_read(context, &mut ReadBuf::new(&mut room));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection that broke after the server's first words were an error was not broken by the network; and protected
/// mode answers a login as it would have answered nothing.
fn explained(error: LinkError, words: &FirstWords) -> LinkError {
    match (&error, words.get()) {
        (LinkError::Redis(broken), Some(words))
            if broken.is_io_error() || words.starts_with("DENIED ") =>
        {
            LinkError::TurnedAway(words.clone())
        }
        _ => error,
    }
}

/// One open connection for questions.
pub struct Link {
    connection: MultiplexedConnection,
    timeout: Duration,
    /// Which login it was opened with.
    login: String,
    words: FirstWords,
    /// It has answered: its first words say nothing of what ends it.
    answered: bool,
    /// The server does not let this login read settings: it is asked once a connection.
    settings_refused: bool,
    /// What it was when it was last asked about itself: a replica.
    pub was_replica: bool,
    /// The key of the mark that it is asked for.
    pub mark: Option<MarkKey>,
    closed: CancellationToken,
    _driver: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Any [`LinkError`]; never takes longer than the settings' timeout.
    pub async fn open(address: &Address, settings: &LinkSettings) -> Result<Self, LinkError> {
        let end = Instant::now() + settings.timeout;
        within(end, settings.timeout, async {
            // Read before anything is sent.
            let auth = auth(settings)?;
            let (stream, words) = connect(address, settings, end).await?;
            // The protocol layer would log in as well, and keep the server's words to itself.
            let info = RedisConnectionInfo::default().set_skip_set_lib_name();
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&info, stream, config)
                    .await
                    .map_err(|error| explained(error.into(), &words))?;
            let closed = CancellationToken::new();
            let signal = closed.clone();
            // The driver ends when the server closes the connection: that is the tripwire.
            let driver = tokio::spawn(async move {
                driver.await;
                signal.cancel();
            });
            let driver = AbortOnDropHandle::new(driver);
            let (timeout, login) = (settings.timeout, settings.login_named());
            let answered = false;
            let mut link = Self {
                connection,
                timeout,
                login,
                words,
                answered,
                settings_refused: false,
                was_replica: false,
                mark: settings.mark.clone(),
                closed,
                _driver: driver,
            };
            if let Some(auth) = auth {
                link.log_in(&auth).await?;
            }
            Ok(link)
        })
        .await
    }

    async fn log_in(&mut self, auth: &redis::Pipeline) -> Result<(), LinkError> {
        match self.ask(auth).await?.as_slice() {
            [Value::ServerError(error)] => Err(self.refused(error)),
            [_] => Ok(()),
            _ => Err(LinkError::Unexpected("one answer expected".to_owned())),
        }
    }

    fn refused(&self, error: &redis::ServerError) -> LinkError {
        // It turned us away before it was asked: protected mode answers a login as it would have answered nothing.
        if let Some(words) = self.words.get().filter(|words| words.starts_with("DENIED ")) {
            return LinkError::TurnedAway(words.clone());
        }
        let words = server_error(error).trim_end_matches('.').to_owned();
        LinkError::Refused { words, login: self.login.clone() }
    }

    /// Sends all commands in one write and returns one value each; a command that the server refused
    /// gives a [`Value::ServerError`].
    ///
    /// # Errors
    /// [`LinkError::Timeout`] or [`LinkError::Redis`] when the connection is of no more use.
    pub async fn ask(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, LinkError> {
        self.ask_for(commands, self.timeout).await
    }

    /// As [`Link::ask`], of what the server answers only once it has written its config file: its disk may be slow, and
    /// what it has done must not be taken for failed.
    ///
    /// # Errors
    /// As [`Link::ask`], after [`SAVING_TIMEOUT`].
    pub async fn ask_to_save(
        &mut self,
        commands: &redis::Pipeline,
    ) -> Result<Vec<Value>, LinkError> {
        self.ask_for(commands, self.timeout.max(SAVING_TIMEOUT)).await
    }

    async fn ask_for(
        &mut self,
        commands: &redis::Pipeline,
        timeout: Duration,
    ) -> Result<Vec<Value>, LinkError> {
        let count = commands.len();
        within(Instant::now() + timeout, timeout, async {
            let answers = self.connection.send_packed_commands(commands, 0, count).await;
            let answers = answers.map_err(|error| match self.answered {
                true => error.into(),
                false => explained(error.into(), &self.words),
            })?;
            self.answered = true;
            if answers.len() != count {
                return Err(LinkError::Unexpected(format!(
                    "{} answers to {count} commands",
                    answers.len()
                )));
            }
            match answers.iter().find_map(no_auth) {
                Some(error) => Err(self.refused(error)),
                None => Ok(answers),
            }
        })
        .await
    }

    /// Sends one command and returns what it answers.
    ///
    /// # Errors
    /// As [`Link::ask`]; a refusal is [`LinkError::Unexpected`] with the server's words.
    pub async fn call(&mut self, command: &[&str]) -> Result<Value, LinkError> {
        only(self.ask(&one(command)).await?)
    }

    /// As [`Link::call`], of a command as [`Link::ask_to_save`] has them.
    ///
    /// # Errors
    /// As [`Link::call`], after [`SAVING_TIMEOUT`].
    pub async fn call_to_save(&mut self, command: &[&str]) -> Result<Value, LinkError> {
        only(self.ask_to_save(&one(command)).await?)
    }

    /// One setting of the server (`CONFIG GET`); `None` where the login may not ask for it, or where the server has none
    /// of that name.
    ///
    /// # Errors
    /// [`LinkError`] without an answer.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, LinkError> {
        if self.settings_refused {
            return Ok(None);
        }
        match self.call(&["CONFIG", "GET", name]).await {
            Ok(answer) => Ok(list(&answer).ok().and_then(|row| text(row.get(1)?).ok())),
            Err(LinkError::Unexpected(_)) => {
                self.settings_refused = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The connection is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Resolves when the connection is closed. Cancel safe.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

fn one(command: &[&str]) -> redis::Pipeline {
    let mut pipe = redis::pipe();
    if let [name, args @ ..] = command {
        pipe.cmd(name);
        for arg in args {
            pipe.arg(*arg);
        }
    }
    pipe
}

fn only(mut answers: Vec<Value>) -> Result<Value, LinkError> {
    match answers.pop() {
        Some(error @ Value::ServerError(_)) => {
            Err(LinkError::Unexpected(text(&error).err().unwrap_or_default()))
        }
        Some(value) => Ok(value),
        None => Err(LinkError::Unexpected("no answer".to_owned())),
    }
}

/// Connects, logs in, and subscribes to every event.
///
/// # Errors
/// Any [`LinkError`]; never takes longer than the settings' timeout.
pub async fn subscribe(address: &Address, settings: &LinkSettings) -> Result<PubSub, LinkError> {
    let end = Instant::now() + settings.timeout;
    within(end, settings.timeout, async {
        let (stream, words) = connect(address, settings, end).await?;
        let login = login(settings)?;
        let events = async {
            let mut events = PubSub::new(&login, stream).await?;
            events.psubscribe("*").await?;
            Ok(events)
        };
        events.await.map_err(|error: redis::RedisError| explained(error.into(), &words))
    })
    .await
}

async fn within<T>(
    end: Instant,
    timeout: Duration,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout_at(end, work).await.unwrap_or(Err(LinkError::Timeout(timeout)))
}

/// `NOAUTH`: the server wants a login, and got none.
fn no_auth(answer: &Value) -> Option<&redis::ServerError> {
    match answer {
        Value::ServerError(error) if error.code() == "NOAUTH" => Some(error),
        _ => None,
    }
}

/// `AUTH`, where there is a password.
fn auth(settings: &LinkSettings) -> Result<Option<redis::Pipeline>, LinkError> {
    let Some(password) = settings.password.read()? else { return Ok(None) };
    let mut auth = redis::pipe();
    auth.cmd("AUTH");
    if let Some(username) = &settings.username {
        auth.arg(username);
    }
    auth.arg(password.expose_secret());
    Ok(Some(auth))
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

async fn connect(
    address: &Address,
    settings: &LinkSettings,
    end: Instant,
) -> Result<(GreetingStream, FirstWords), LinkError> {
    let heard = |stream: Box<dyn Stream>| {
        let words = FirstWords::default();
        (GreetingStream { stream, fresh: true, words: words.clone() }, words)
    };
    let late = || DnsError::Lookup {
        name: address.host().to_owned(),
        reason: format!("no answer within {} ms", settings.timeout.as_millis()),
    };
    let found = tokio::time::timeout_at(end, look_up(address.host())).await;
    let found = found.unwrap_or_else(|_| Err(late()))?;
    let tcp = connect_to_any(&found, address.port()).await.map_err(LinkError::Connect)?;
    tcp.set_nodelay(true).map_err(LinkError::Connect)?;
    let Some(tls) = &settings.tls else { return Ok(heard(Box::new(tcp))) };
    let name = tls.server_name.as_deref().unwrap_or_else(|| address.host()).to_owned();
    let name = ServerName::try_from(name).map_err(|error| LinkError::Tls(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(tls_config(tls)?));
    // A Redis without TLS waits for the end of a line that never comes.
    let silent = |_| LinkError::Tls("no answer to the handshake: is TLS spoken there?".to_owned());
    let shaken =
        tokio::time::timeout_at(end, connector.connect(name, tcp)).await.map_err(silent)?;
    let stream = shaken.map_err(|error| LinkError::Tls(error.to_string()))?;
    Ok(heard(Box::new(stream)))
}

/// Some of the addresses of a name may lead nowhere: each one after the first is tried a moment later, beside those
/// before it, and the first that answers counts.
async fn connect_to_any(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let connect = |(pause, ip): (Duration, &IpAddr)| {
        let at = SocketAddr::new(*ip, port);
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            TcpStream::connect(at).await
        })
    };
    if let [only] = addresses {
        return TcpStream::connect((*only, port)).await;
    }
    if addresses.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pauses = (0..).map(|nth: u32| NEXT_ADDRESS_AFTER * nth);
    let (stream, _) = futures_util::future::select_ok(pauses.zip(addresses).map(connect)).await?;
    Ok(stream)
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
    words(value).map(Cow::into_owned)
}

/// The same without a copy, where there is none to make.
///
/// # Errors
/// As there.
pub fn words(value: &Value) -> Result<Cow<'_, str>, String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text.into()),
        Value::Okay => Ok("OK".into()),
        Value::Int(number) => Ok(number.to_string().into()),
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
    let fields = Fields::of_list(value)?;
    Ok(fields.0.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

/// A server's error in its own words: `LOADING Redis is loading the dataset in memory`.
pub fn server_error(error: &redis::ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Names and values as a server gives them, in its order: to look a few up in. Every server is asked every second, and
/// a map of all that it says would be most of what an idle agent does.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// The `name:value` lines of an INFO answer.
    pub fn of_info(info: &'a str) -> Self {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A flat list of names and values.
    ///
    /// # Errors
    /// The server's own error, or that the reply is of another kind.
    pub fn of_list(value: &'a Value) -> Result<Self, String> {
        let pair = |name, value| Ok((words(name)?, words(value)?));
        if let Value::Map(pairs) = value {
            return pairs
                .iter()
                .map(|(name, value)| pair(name, value))
                .collect::<Result<_, _>>()
                .map(Self);
        }
        let pairs = list(value)?.chunks_exact(2).map(|both| match both {
            [name, value] => pair(name, value),
            _ => Err("a name without a value".to_owned()),
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that says `words` to every client, and closes.
    async fn asked(words: &'static [u8], settings: LinkSettings, pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(words).await.unwrap();
        });
        let address = Address::new("127.0.0.1", port).unwrap();
        let error = match Link::open(&address, &settings).await {
            Ok(mut link) => {
                tokio::time::sleep(pause).await;
                link.call(&["PING"]).await.unwrap_err()
            }
            Err(error) => error,
        };
        error.to_string()
    }

    /// A Sentinel that changes a group answers after an fsync of its config file, or three: 520 ms were seen for one.
    #[tokio::test]
    async fn a_server_that_writes_its_config_file_is_waited_for() {
        const SLOW_DISK: Duration = Duration::from_millis(700);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = [0; 512];
                stream.readable().await.unwrap();
                let _ = stream.try_read(&mut question);
                tokio::time::sleep(SLOW_DISK).await;
                let _ = stream.write_all(b"+OK\r\n").await;
            }
        });
        let address = Address::new("127.0.0.1", port).unwrap();
        let mut link = Link::open(&address, &LinkSettings::default()).await.unwrap();
        assert_eq!(link.call_to_save(&["CONFIG", "REWRITE"]).await.unwrap(), Value::Okay);
        let mut link = Link::open(&address, &LinkSettings::default()).await.unwrap();
        let asked = link.call(&["PING"]).await;
        assert!(matches!(asked, Err(LinkError::Timeout(_))), "{asked:?}");
    }

    #[tokio::test]
    async fn a_server_that_turns_us_away_is_heard() {
        const DENIED: &[u8] = b"-DENIED Redis is running in protected mode because no password is set for the \
            default user. In this mode connections are only accepted from the loopback interface. And so on.\r\n";
        let denied = "DENIED Redis is running in protected mode because no password is set for the default user";
        let given = SecretSource::Value("secret".into());
        let with_password = LinkSettings { password: given, ..LinkSettings::default() };
        for pause in [Duration::ZERO, Duration::from_millis(100)] {
            assert_eq!(asked(DENIED, LinkSettings::default(), pause).await, denied);
        }
        assert_eq!(asked(DENIED, with_password, Duration::ZERO).await, denied);
        // What is no error explains nothing.
        let said = asked(b"+HELLO\r\n", LinkSettings::default(), Duration::ZERO).await;
        assert!(!said.contains("HELLO"), "{said}");
    }
}
