//! Connections to Redis and Sentinel: TCP or TLS, authenticated, with a deadline on everything, and a
//! signal the moment one is closed.
//!
//! The redis crate's own client reconnects or hides outages; an agent that must distinguish *unknown* from
//! *down* needs neither. So this module makes the stream, puts the crate's commands on it, and gives the crate what is
//! answered to read, no more of it than [`ANSWER_LEN_MAX`]. A connection that is not asked takes a kilobyte and no task:
//! an agent of very many groups has thousands.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::{RedisError, Value};
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::core::identity::address::Address;
use crate::core::identity::mark::MarkKey;
use crate::core::shown::unreachable::LOGIN_REFUSED;
use crate::dns::{DnsError, look_up};
use crate::foreign::{brief, harmless, one_line};
use crate::pem;
use crate::secret::{SecretError, SecretSource};

/// How long a server may take that writes its config file before it answers, with an fsync each time.
pub const SAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer to all commands of one write, in bytes. What a server says of itself is some kilobytes; a Sentinel of
/// a thousand groups answers 85 bytes of each.
pub const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// Most values in it, those inside of arrays counted: read, each takes some 60 bytes.
const VALUES_MAX: usize = 262_144;
/// So much of an answer, in bytes, is read whatever others take.
const ANSWER_LEN_SURE: usize = 256 * 1024;
/// What may be held of all longer answers at a time, in bytes: servers that one hostile Sentinel or node names may be
/// hundreds.
const ANSWERS_LEN_MAX: usize = 128 * 1024 * 1024;
/// Longest line of an answer, in bytes: what is longer comes with its length.
const LINE_LEN_MAX: usize = 64 * 1024;
/// Longest event of a subscription, in bytes: Sentinel's are some hundred.
const EVENT_LEN_MAX: usize = 64 * 1024;
/// Longest id of a process, a Sentinel or a history, in bytes: Redis' have 40.
const ID_LEN_MAX: usize = 64;
/// Least room for what is read next, in bytes.
const READ_LEN: usize = 4_096;

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
    #[error("{}", brief(&one_line(.0.to_string().into())))]
    Redis(#[from] RedisError),
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
    #[error("unexpected answer: {}", brief(&one_line(.0.into())))]
    Unexpected(String),
}

/// The server has closed the connection that was open, while it was asked or told something: no reason to wait, it may
/// well answer on another one.
pub fn has_closed<T>(was_open: bool, result: &Result<T, LinkError>) -> bool {
    was_open && matches!(result, Err(LinkError::Redis(_)))
}

/// How long one address of a name is tried alone.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(50);

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

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
            let error = String::from_utf8_lossy(error);
            // Redis goes on with advice.
            let line = one_line(error.lines().next().unwrap_or_default().into());
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
        (LinkError::Redis(broken), Some(words)) if broken.is_io_error() || turns_away(words) => {
            LinkError::TurnedAway(words.clone())
        }
        _ => error,
    }
}

/// One open connection for questions.
pub struct Link {
    stream: GreetingStream,
    /// What was read of the answers to what is asked now.
    read: Vec<u8>,
    /// Of no more use: it was closed, or an answer to a question before may still come.
    is_spent: bool,
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
}

/// How far the answers to some commands have come in: RESP2, of which the lengths alone are looked at.
struct Arriving {
    /// Values that are still to begin, those inside of arrays among them.
    values: usize,
    /// Values that were announced.
    announced: usize,
    /// Where the next one begins.
    at: usize,
    /// Up to where no line ends that begins there: a server that sends one byte at a time must not have all of them
    /// looked at each time.
    searched: usize,
}

impl Arriving {
    fn new(values: usize) -> Self {
        Self { values, announced: values, at: 0, searched: 0 }
    }

    /// All of them are in `read`, which begins with what it began with before.
    ///
    /// # Errors
    /// What makes the answer none of RESP2.
    fn is_whole(&mut self, read: &[u8]) -> Result<bool, &'static str> {
        while self.values > 0 {
            let Some(end) = self.line_end(read)? else { return Ok(false) };
            let [kind, length @ ..] = read.get(self.at..end).unwrap_or_default() else {
                return Err("an empty line");
            };
            let length = || std::str::from_utf8(length).ok()?.parse::<i64>().ok();
            let length = match kind {
                b'+' | b'-' | b':' => None,
                // Less than none: nil, of which nothing follows.
                b'$' | b'*' => usize::try_from(length().ok_or("a length that is no number")?).ok(),
                _ => return Err("a type that RESP2 does not have"),
            };
            self.values -= 1;
            self.at = end + 2;
            match (kind, length) {
                (b'$', Some(length)) => self.at = self.at.saturating_add(length).saturating_add(2),
                (_, Some(length)) => {
                    self.values = self.values.saturating_add(length);
                    self.announced = self.announced.saturating_add(length);
                }
                (_, None) => {}
            }
            if self.announced > VALUES_MAX {
                return Err("too many values");
            }
        }
        Ok(read.len() >= self.at)
    }

    /// Where the line ends that begins at `at`, where that has come in.
    fn line_end(&mut self, read: &[u8]) -> Result<Option<usize>, &'static str> {
        let from = self.at.max(self.searched);
        let Some(new) = read.get(from..) else { return Ok(None) };
        let end = new.windows(2).position(|two| two == b"\r\n").map(|end| from + end);
        // Its last byte may be the first half of the end.
        self.searched = end.unwrap_or(read.len().saturating_sub(1));
        match self.searched.saturating_sub(self.at) > LINE_LEN_MAX {
            true => Err("a line that does not end"),
            false => Ok(end),
        }
    }
}

/// What is held of all answers that are long, in bytes.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// What one answer takes of [`ANSWERS_LEN_MAX`], until this is dropped.
#[derive(Default)]
struct Room(usize);

impl Room {
    /// There is room for an answer of `len` bytes.
    fn has(&mut self, len: usize) -> bool {
        let wanted = len.saturating_sub(ANSWER_LEN_SURE);
        let more = wanted.saturating_sub(self.0);
        if more == 0 {
            return true;
        }
        self.0 += more;
        HELD.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= ANSWERS_LEN_MAX
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
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
            let mut link = Self {
                stream,
                read: Vec::new(),
                is_spent: false,
                timeout: settings.timeout,
                login: settings.login_named(),
                words,
                answered: false,
                settings_refused: false,
                was_replica: false,
                mark: settings.mark.clone(),
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
            let answers = self.exchange(&commands.get_packed_pipeline(), count).await;
            let answers = answers.map_err(|error| match self.answered {
                true => error.into(),
                false => explained(error.into(), &self.words),
            })?;
            let first = !std::mem::replace(&mut self.answered, true);
            let words = self.words.get().filter(|words| first && turns_away(words));
            if let Some(words) = words {
                // Said before it was asked: no answer.
                return Err(LinkError::TurnedAway(words.clone()));
            }
            match answers.iter().find_map(no_auth) {
                Some(error) => Err(self.refused(error)),
                None => Ok(answers),
            }
        })
        .await
    }

    /// Not cancel safe: the connection is of no more use then.
    async fn exchange(&mut self, packed: &[u8], count: usize) -> Result<Vec<Value>, RedisError> {
        if !self.answered {
            // A server that says something of its own has said it by now: it is there once the runtime has looked.
            tokio::task::yield_now().await;
        }
        // What has come already is no answer to this.
        if self.is_closed() || std::mem::replace(&mut self.is_spent, true) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        self.stream.write_all(packed).await?;
        self.stream.flush().await?;
        let (mut arriving, mut room) = (Arriving::new(count), Room::default());
        while !arriving.is_whole(&self.read).map_err(not_resp)? {
            if self.read.len() > ANSWER_LEN_MAX {
                return Err(not_resp("it does not end"));
            }
            if !room.has(self.read.len()) {
                return Err(not_resp("too much is being answered, by other servers as well"));
            }
            self.read.reserve(READ_LEN);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
        }
        let read = std::mem::take(&mut self.read);
        let (mut parser, mut rest) = (redis::Parser::new(), read.as_slice());
        let values: Result<Vec<Value>, RedisError> =
            (0..count).map(|_| parser.parse_value(&mut rest)).collect();
        self.is_spent = values.is_err();
        values
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
    pub fn is_closed(&mut self) -> bool {
        self.closed().now_or_never().is_some()
    }

    /// Resolves when the connection is closed, or of no more use. Cancel safe.
    pub async fn closed(&mut self) {
        if !self.is_spent {
            // Nothing was asked: what a server says now are its last words, and no answer.
            if self.stream.fresh {
                self.read.reserve(FIRST_WORDS_LEN_MAX);
            }
            let _ = self.stream.read_buf(&mut self.read).await;
            self.is_spent = true;
        }
    }
}

/// What a server says to a client that it does not take, and closes the connection.
fn turns_away(words: &str) -> bool {
    ["DENIED ", "ERR max number of clients "].iter().any(|known| words.starts_with(known))
}

/// The server speaks another protocol, or does not stop.
fn not_resp(why: &'static str) -> RedisError {
    (redis::ErrorKind::Parse, "not an answer of Redis", why.to_owned()).into()
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
pub async fn subscribe(
    address: &Address,
    settings: &LinkSettings,
) -> Result<Subscription, LinkError> {
    let end = Instant::now() + settings.timeout;
    within(end, settings.timeout, async {
        let mut events = Subscription { link: Link::open(address, settings).await? };
        let words = events.link.words.clone();
        let subscribed = async {
            events.send(&["PSUBSCRIBE", "*"]).await?;
            events.value().await
        };
        let subscribed = subscribed.await.map_err(|error| explained(error.into(), &words))?;
        match subscribed {
            Value::ServerError(error) => Err(LinkError::Unexpected(server_error(&error))),
            _ => Ok(events),
        }
    })
    .await
}

/// What a server says of itself, for as long as the connection is open: of each event no more than [`EVENT_LEN_MAX`].
pub struct Subscription {
    link: Link,
}

/// What came on a subscription.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionNews {
    /// An event: its name, and what is said of it.
    Event(String, String),
    /// The answer to [`Subscription::ping`].
    Pong,
}

impl Subscription {
    /// The next event; `None` once there is none any more, or what comes is none. Cancel safe: what was read stays.
    pub async fn next(&mut self) -> Option<SubscriptionNews> {
        loop {
            // Answers to other commands are passed over.
            if let Some(heard) = heard(&self.value().await.ok()?) {
                return Some(heard);
            }
        }
    }

    /// Asks whether it is still there, which [`Subscription::next`] tells.
    ///
    /// # Errors
    /// [`LinkError`] when it cannot be asked within the link's timeout.
    pub async fn ping(&mut self) -> Result<(), LinkError> {
        let timeout = self.link.timeout;
        within(Instant::now() + timeout, timeout, async { Ok(self.send(&["PING"]).await?) }).await
    }

    /// What is held of what was read, in bytes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.link.read.capacity()
    }

    async fn send(&mut self, command: &[&str]) -> Result<(), RedisError> {
        self.link.stream.write_all(&one(command).get_packed_pipeline()).await?;
        Ok(self.link.stream.flush().await?)
    }

    async fn value(&mut self) -> Result<Value, RedisError> {
        let Link { stream, read, .. } = &mut self.link;
        let mut arriving = Arriving::new(1);
        while !arriving.is_whole(read).map_err(not_resp)? {
            if read.len() > EVENT_LEN_MAX {
                return Err(not_resp("an event that does not end"));
            }
            read.reserve(READ_LEN);
            // Cancel safe: what was read is in `read`.
            if stream.read_buf(read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
        }
        let value = redis::Parser::new().parse_value(read.get(..arriving.at).unwrap_or_default());
        read.drain(..arriving.at);
        value
    }
}

/// `pmessage`, pattern, channel, payload; or `pong` and what was sent with the PING.
fn heard(value: &Value) -> Option<SubscriptionNews> {
    let Value::Array(parts) = value else {
        return (text(value).as_deref() == Ok("PONG")).then_some(SubscriptionNews::Pong);
    };
    let parts: Vec<String> = parts.iter().map(line).collect::<Result<_, _>>().ok()?;
    match parts.as_slice() {
        [kind, ..] if kind == "pong" => Some(SubscriptionNews::Pong),
        [kind, _, channel, payload] if kind == "pmessage" => {
            Some(SubscriptionNews::Event(channel.clone(), payload.clone()))
        }
        _ => None,
    }
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
        Value::BulkString(bytes) => Ok(harmless(String::from_utf8_lossy(bytes))),
        Value::SimpleString(text) => Ok(one_line(text.into())),
        Value::VerbatimString { text, .. } => Ok(harmless(text.into())),
        Value::Okay => Ok("OK".into()),
        Value::Int(number) => Ok(number.to_string().into()),
        Value::ServerError(error) => Err(server_error(error)),
        other => Err(format!("text expected, got {}", kind_of(other))),
    }
}

/// A reply that is one line of text.
///
/// # Errors
/// As [`text`].
pub fn line(value: &Value) -> Result<String, String> {
    words(value).map(|words| one_line(words).into_owned())
}

/// What kind of reply it is: what is in it may be of any length.
pub fn kind_of(value: &Value) -> String {
    match value {
        Value::Nil => "nothing".to_owned(),
        Value::Int(_) => "a number".to_owned(),
        Value::BulkString(bytes) => format!("{} bytes of text", bytes.len()),
        Value::SimpleString(_) | Value::VerbatimString { .. } | Value::Okay => "a word".to_owned(),
        Value::ServerError(_) => "an error".to_owned(),
        Value::Array(items) | Value::Set(items) => format!("a list of {}", items.len()),
        _ => "a value that RESP2 does not have".to_owned(),
    }
}

/// An id of a process, a Sentinel or a history, as servers make them: it goes into what is published, and into what
/// other servers are told.
///
/// # Errors
/// Says that it is none.
pub fn id(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match (1..=ID_LEN_MAX).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{}` is no id", brief(&one_line(text.into())))),
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
        other => Err(format!("a list expected, got {}", kind_of(other))),
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
    let words = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    brief(&one_line(words.into())).into_owned()
}

/// Names and values as a server gives them, in its order: to look a few up in. Every server is asked every second, and
/// a map of all that it says would be most of what an idle agent does.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// The `name:value` lines of an INFO answer.
    pub fn of_info(info: &'a str) -> Self {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(name, value)| (name.into(), one_line(value.into()))).collect())
    }

    /// A flat list of names and values.
    ///
    /// # Errors
    /// The server's own error, or that the reply is of another kind.
    pub fn of_list(value: &'a Value) -> Result<Self, String> {
        let pair = |name, value| Ok((one_line(words(name)?), one_line(words(value)?)));
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

/// What is held of all answers that are long, in bytes.
#[cfg(test)]
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Whether these bytes are so many answers.
#[cfg(test)]
pub fn is_whole(bytes: &[u8], answers: usize) -> Result<bool, &'static str> {
    Arriving::new(answers).is_whole(bytes)
}

/// The same where they come bit by bit.
#[cfg(test)]
pub fn drips<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    answers: usize,
) -> Result<bool, &'static str> {
    let mut arriving = Arriving::new(answers);
    let mut whole = Ok(false);
    for part in parts {
        whole = arriving.is_whole(part);
        if whole.is_err() {
            break;
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::scripted::Scripted;

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

    #[test]
    fn an_answer_is_whole_when_all_of_it_is_there() {
        let whole: &[&[u8]] = &[
            b"+PONG\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"*2\r\n*1\r\n$0\r\n\r\n:7\r\n",
            b"*-1\r\n",
            b"$-1\r\n",
            b"*0\r\n",
            b"-ERR no\r\n",
        ];
        let all = whole.concat();
        let mut arriving = Arriving::new(whole.len());
        for len in 0..all.len() {
            assert_eq!(arriving.is_whole(&all[..len]), Ok(false), "{len}");
        }
        assert_eq!(arriving.is_whole(&all), Ok(true));
        let mut parser = redis::Parser::new();
        let mut rest = all.as_slice();
        let values: Vec<Value> =
            whole.iter().map(|_| parser.parse_value(&mut rest).unwrap()).collect();
        assert_eq!(values[1], Value::BulkString(b"a\r\nbc".to_vec()));
        assert_eq!(values[4], Value::Nil);
        assert!(matches!(values[6], Value::ServerError(_)), "{:?}", values[6]);
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        for wrong in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"\r\n", b"$x\r\n", b"%1\r\n"] {
            let words = String::from_utf8_lossy(wrong);
            assert!(Arriving::new(1).is_whole(wrong).is_err(), "{words}");
        }
        let mut many = b"*262144\r\n".repeat(2);
        many.extend(b"+\r\n");
        assert_eq!(Arriving::new(1).is_whole(&many), Err("too many values"));
        // Lengths that no number of this machine holds.
        for endless in [&b"$9223372036854775807\r\nab"[..], b"$99999999999999999999\r\n"] {
            assert_ne!(Arriving::new(1).is_whole(endless), Ok(true));
        }
    }

    /// Each byte of it is looked at once, however many come at a time.
    #[test]
    fn a_line_that_comes_byte_by_byte_takes_no_time() {
        let line = [b"+".as_slice(), &[b'x'; 60_000], b"\r\n"].concat();
        let begun = Instant::now();
        assert_eq!(drips((0..=line.len()).map(|len| &line[..len]), 1), Ok(true));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let endless = [b"+".as_slice(), &[b'x'; 2 * LINE_LEN_MAX]].concat();
        assert_eq!(is_whole(&endless, 1), Err("a line that does not end"));
    }

    /// A server that answers without end, as quickly as it can, neither fills the memory nor keeps the agent from going on.
    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 64]).await;
                    let _ = stream.write_all(b"$8000000000\r\n").await;
                    while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
                });
            }
        });
        let address = Address::new("127.0.0.1", port).unwrap();
        let patient = LinkSettings { timeout: Duration::from_secs(20), ..LinkSettings::default() };
        let mut link = Link::open(&address, &patient).await.unwrap();
        let error = link.call(&["PING"]).await.unwrap_err().to_string();
        assert!(error.contains("it does not end"), "{error}");
        assert!(link.read.capacity() <= 2 * ANSWER_LEN_MAX, "{}", link.read.capacity());
        assert!(link.is_closed(), "what comes next is no answer to another question");
    }

    /// Arrays in arrays: what reads them must not run out of its stack.
    #[tokio::test]
    async fn an_answer_that_is_nested_without_end_is_an_error() {
        let nested = "*1\r\n".repeat(100_000) + ":1\r\n";
        let server = Scripted::start(move |_, _| Some(nested.clone())).await;
        let mut link = Link::open(&server.address, &LinkSettings::default()).await.unwrap();
        link.call(&["PING"]).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_a_terminal_would_obey_is_written_out() {
        let words = "-ERR \u{1b}[2Jnothing is wrong\r\n";
        let server = Scripted::start(move |_, _| Some(words.to_owned())).await;
        let mut link = Link::open(&server.address, &LinkSettings::default()).await.unwrap();
        let error = link.call(&["PING"]).await.unwrap_err().to_string();
        assert!(
            error.contains("\\u{1b}[2Jnothing is wrong") && !error.contains('\u{1b}'),
            "{error:?}"
        );
    }

    /// A question that is not waited for any more leaves an answer behind, which is none to the next question.
    #[tokio::test]
    async fn a_question_that_was_given_up_spends_the_connection() {
        let server = Scripted::start(|_, words| {
            let word = words.split("\r\n").find(|line| !line.starts_with(['*', '$']));
            word.map(|word| format!("+{word}\r\n"))
        })
        .await;
        let mut link = Link::open(&server.address, &LinkSettings::default()).await.unwrap();
        assert_eq!(link.call(&["FIRST"]).await.unwrap(), Value::SimpleString("FIRST".to_owned()));
        {
            let asked = std::pin::pin!(link.call(&["SECOND"]));
            assert!(asked.now_or_never().is_none(), "it has not answered yet");
        }
        let third = link.call(&["THIRD"]).await;
        assert!(has_closed(true, &third), "{third:?}");
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
