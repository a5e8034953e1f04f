//! For Rust programs that want a group's writer: its address now, and every change.
//!
//! ```no_run
//! # async fn run() -> Result<(), consul_redis::client::Error> {
//! use std::time::Duration;
//! use consul_redis::client::Writers;
//!
//! // CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, CONSUL_CACERT, ... as for Consul's own tools.
//! let writers = Writers::from_env()?.group("redis").start()?;
//! let writer = writers.wait_for_writer(Duration::from_secs(30)).await?;
//! println!("writing to {writer}, generation {:?}", writer.generation);
//!
//! let mut changes = writers.watch();
//! loop {
//!     match changes.next().await {
//!         Some(writer) => println!("connect to {writer}, and drop the connections to any other"),
//!         None => println!("there is no writer: wait for the next change"),
//!     }
//! }
//! # }
//! ```
//!
//! A task in the background asks Consul, by a blocking query on the group's keys; so a change is here some milliseconds
//! after it was published. It ends with the last [`Writers`] and [`Changes`] that belong to it. What it rests on:
//!
//! - An answer with an older generation than one that was seen is not believed, unless a consistent read shows it too,
//!   as it does after Consul was wiped or restored. Nothing else leads a program back to an old writer.
//! - Silence takes nothing away: while Consul does not answer, denies, or holds nothing that can be read, the last
//!   known writer stays, [`Seen::age`] grows and [`Seen::trouble`] says why. Whether it is too old is for the program
//!   to say.
//! - That there is no writer is an answer, and not silence: [`Writers::writer`] is `Ok(None)`, [`Changes::next`] is
//!   `None`.
//! - A connection to a writer that was replaced may still be open: `READONLY` from Redis, or a closed connection, means
//!   the same as a change here.
//!
//! By DNS alone ([`Writers::by_dns`]), a name is looked up every half second, and there are no generations.

mod error;
mod seen;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::error::Error;
use self::seen::LastAnswer;
pub use self::seen::{Seen, Writer};
use crate::cli::Common;
use crate::clock::Clock;
use crate::config::{DEFAULT_GROUP, DEFAULT_PREFIX, resolve};
use crate::consul::client::Consul;
use crate::consul::endpoint::ConsulEndpoint;
use crate::consul::watch::GroupWatch;
#[doc(inline)]
pub use crate::core::identity::address::Address;
use crate::core::identity::address::GroupName;
use crate::core::published::projection::Layout;
use crate::dns::Names;
use crate::exec::settings::Environment;
use crate::secret::SecretSource;

/// Deadline for the first answer. Consul itself gives up on finding a leader after 7 s (`docs/facts/consul.md` 1).
pub const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a blocking query waits for a change: as old as what is known gets while all is well.
const WATCH_WAIT: Duration = Duration::from_secs(10);
/// Between two look-ups of a name.
const DNS_PERIOD: Duration = Duration::from_millis(500);

/// The writer of one group, kept up to date in the background. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writers {
    picture: watch::Receiver<LastAnswer>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// Where a group's writer is to be read.
#[derive(Debug, Clone)]
#[must_use = "nothing is asked before start()"]
pub struct Builder {
    endpoint: ConsulEndpoint,
    address: Option<String>,
    prefix: String,
    group: String,
}

impl Writers {
    /// By the group's keys, in the Consul at 127.0.0.1:8500 unless another one is named.
    pub fn builder() -> Builder {
        Builder {
            endpoint: ConsulEndpoint::default(),
            address: None,
            prefix: DEFAULT_PREFIX.to_owned(),
            group: DEFAULT_GROUP.to_owned(),
        }
    }

    /// By the group's keys, in the Consul that the environment names: `CONSUL_HTTP_ADDR`, `CONSUL_HTTP_TOKEN`,
    /// `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_CACERT`, `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`, `CONSUL_TLS_SERVER_NAME`,
    /// `CONSUL_HTTP_SSL`, `CONSUL_HTTP_SSL_VERIFY`, `CONSUL_NAMESPACE`, `CONSUL_PARTITION`; and `CONSUL_REDIS_PREFIX`.
    ///
    /// # Errors
    /// [`Error::Settings`] when a variable means nothing.
    pub fn from_env() -> Result<Builder, Error> {
        let env = Environment::of_this_process();
        Builder::of_env(&|name| env.get(name).map(str::to_owned))
    }

    /// By Consul's DNS at `server`, such as 127.0.0.1:8600, which may be asked more cheaply and by more programs.
    /// `name` is the writer's, such as `redis-primary.service.consul`.
    ///
    /// DNS does not say whether there is no writer, nothing was ever published, or Consul's DNS token may not see it:
    /// all of it is "no writer".
    ///
    /// # Errors
    /// [`Error::Settings`] outside a tokio runtime.
    pub fn by_dns(server: SocketAddr, name: &str) -> Result<Self, Error> {
        let (names, name) = (Names::new(Some(server)), name.to_owned());
        Self::start(|tell| look_up(names, name, tell))
    }

    fn start<F>(ask: impl FnOnce(watch::Sender<LastAnswer>) -> F) -> Result<Self, Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Handle::try_current().map_err(|error| Error::Settings(error.to_string()))?;
        let (tell, picture) = watch::channel(LastAnswer::default());
        let task = AbortOnDropHandle::new(runtime.spawn(ask(tell)));
        Ok(Self { picture, _task: Arc::new(task) })
    }

    /// The writer as it is known now; none while there is no writer. Waits for the first answer,
    /// [`FIRST_ANSWER_TIMEOUT`] at most, and after that for nothing.
    ///
    /// # Errors
    /// Only before the first answer: why there is none.
    pub async fn writer(&self) -> Result<Option<Writer>, Error> {
        let mut picture = self.picture.clone();
        let answered = picture.wait_for(|picture| {
            // What Consul says for certain is not waited for.
            let certain = |error: &Error| !matches!(error, Error::Silent(_));
            picture.seen.is_some() || picture.trouble.as_ref().is_some_and(certain)
        });
        // Whether it was in time or not, what is known now is the answer.
        let _ = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, answered).await;
        let now = self.picture.borrow();
        match (&now.seen, &now.trouble) {
            (Some(seen), _) => Ok(seen.writer.clone()),
            (None, trouble) => Err(trouble.clone().unwrap_or_else(no_answer)),
        }
    }

    /// The writer as it is known now, or the next one. Waits while there is none, and while Consul was not heard yet.
    ///
    /// # Errors
    /// After `timeout`: [`Error::NoWriter`], or why there was no answer at all.
    pub async fn wait_for_writer(&self, timeout: Duration) -> Result<Writer, Error> {
        let known =
            |picture: &LastAnswer| picture.seen.as_ref().and_then(|seen| seen.writer.clone());
        let mut picture = self.picture.clone();
        let found = picture.wait_for(|picture| known(picture).is_some());
        if let Ok(Ok(picture)) = tokio::time::timeout(timeout, found).await {
            // It was waited for.
            return known(&picture).ok_or_else(no_answer);
        }
        let now = self.picture.borrow();
        Err(match (&now.seen, &now.trouble) {
            (Some(seen), _) => Error::NoWriter { waited: timeout, why: seen.why.clone() },
            (None, trouble) => trouble.clone().unwrap_or_else(no_answer),
        })
    }

    /// What is known, with its age and what is wrong; `None` before the first answer. Waits for nothing.
    pub fn seen(&self) -> Option<Seen> {
        self.picture.borrow().seen.clone()
    }

    /// Every change of the writer, beginning with what is known.
    pub fn watch(&self) -> Changes {
        Changes { writers: self.clone(), last: None }
    }
}

/// The writers of a group, one after the other. Those that came and went between two looks are left out.
#[derive(Debug)]
pub struct Changes {
    writers: Writers,
    last: Option<Option<Writer>>,
}

impl Changes {
    /// Waits for the next change: the writer, or none when it was withdrawn. The first time it is what is known, or the
    /// first answer of Consul. Another generation is a change, even to the same address. Cancel safe.
    ///
    /// Silence is no change, and this has no deadline: [`Writers::seen`] says how things are meanwhile.
    pub async fn next(&mut self) -> Option<Writer> {
        loop {
            let seen = self.writers.picture.borrow_and_update().seen.clone();
            if let Some(Seen { writer, .. }) = seen
                && self.last.as_ref() != Some(&writer)
            {
                self.last = Some(writer.clone());
                return writer;
            }
            if self.writers.picture.changed().await.is_err() {
                // The runtime ends, and this with it.
                std::future::pending().await
            }
        }
    }
}

impl Builder {
    fn of_env(env: crate::config::Env<'_>) -> Result<Self, Error> {
        let common = Common {
            http_addr: env("CONSUL_HTTP_ADDR"),
            token_file: env("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from),
            login_method: env("CONSUL_REDIS_LOGIN_METHOD"),
            bearer_token_file: env("CONSUL_REDIS_BEARER_TOKEN_FILE").map(PathBuf::from),
            prefix: env("CONSUL_REDIS_PREFIX"),
            ..Common::default()
        };
        let config = resolve(&common, env)?;
        Ok(Self { endpoint: config.consul, prefix: config.prefix, ..Writers::builder() })
    }

    /// Where Consul is, as `CONSUL_HTTP_ADDR`: `host:port`, `http://`, `https://` or `unix://`.
    pub fn consul(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// Consul's ACL token.
    pub fn token(mut self, token: &str) -> Self {
        self.endpoint.login = None;
        self.endpoint.token = SecretSource::Value(SecretString::from(token.to_owned()));
        self
    }

    /// A file with Consul's ACL token, read again for each question.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.endpoint.login = None;
        self.endpoint.token = SecretSource::File(path.into());
        self
    }

    /// A PEM file with the authorities to trust, instead of the system's.
    pub fn ca_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.endpoint.ca_cert = Some(path.into());
        self
    }

    /// The group, as Sentinel calls it. Default: `redis`.
    pub fn group(mut self, group: &str) -> Self {
        group.clone_into(&mut self.group);
        self
    }

    /// The KV prefix of the agents that publish it. Default: `redis-ha`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Begins to ask. Waits for nothing, so Consul may be away.
    ///
    /// # Errors
    /// [`Error::Settings`] when the address, the group or a certificate cannot be used, or outside a tokio runtime.
    pub fn start(mut self) -> Result<Writers, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::Settings(error.to_string());
        if let Some(address) = &self.address {
            self.endpoint.address = address.parse().map_err(|error| wrong(&error))?;
        }
        let group: GroupName = self.group.parse().map_err(|error| wrong(&error))?;
        let layout = Layout::new(&self.prefix, &group);
        let consul = Consul::new(&self.endpoint)?;
        Writers::start(|tell| follow(consul, layout, tell))
    }
}

/// Asks for a group's keys for ever.
async fn follow(consul: Consul, layout: Layout, tell: watch::Sender<LastAnswer>) {
    let clock = Clock::start();
    let mut watch = GroupWatch::new(consul.clone(), layout.clone(), clock, WATCH_WAIT);
    loop {
        let answer = match watch.next().await {
            Ok(answer) => {
                let known = tell.borrow().generation();
                consul.confirmed(&layout, &clock, answer, known).await
            }
            Err(error) => Err(error),
        };
        let answer = answer.map_err(Error::from).and_then(|keys| seen::in_keys(&layout, &keys));
        tell.send_modify(|picture| picture.take(answer, Instant::now()));
    }
}

/// Looks a name up for ever.
async fn look_up(names: Names, name: String, tell: watch::Sender<LastAnswer>) {
    loop {
        let answer = names.srv(&name).await.map_err(Error::from);
        let answer = answer.and_then(|records| seen::in_records(&name, &records));
        tell.send_modify(|picture| picture.take(answer, Instant::now()));
        tokio::time::sleep(DNS_PERIOD).await;
    }
}

fn no_answer() -> Error {
    Error::Silent("Consul has not answered yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_by_everything_else() {
        let env = |name: &str| match name {
            "CONSUL_HTTP_ADDR" => Some("https://consul.example:8501".to_owned()),
            "CONSUL_HTTP_TOKEN_FILE" => Some("/run/token".to_owned()),
            "CONSUL_CACERT" => Some("/run/ca.pem".to_owned()),
            "CONSUL_REDIS_PREFIX" => Some("a/b".to_owned()),
            _ => None,
        };
        let builder = Builder::of_env(&env).unwrap();
        assert_eq!(builder.endpoint.base_url(), "https://consul.example:8501");
        assert_eq!(builder.endpoint.ca_cert, Some("/run/ca.pem".into()));
        assert_eq!(format!("{:?}", builder.endpoint.token), "in /run/token");
        assert_eq!((builder.prefix.as_str(), builder.group.as_str()), ("a/b", "redis"));
        let wrong = |name: &str| (name == "CONSUL_HTTP_ADDR").then(|| "ftp://consul".to_owned());
        let error = Builder::of_env(&wrong).unwrap_err();
        assert!(error.to_string().starts_with("`ftp://consul` is no Consul address"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_said_before_anything_is_asked() {
        for builder in [
            Writers::builder().consul("ftp://consul"),
            Writers::builder().group("a b"),
            Writers::builder().ca_cert("/no/such/file"),
        ] {
            assert!(matches!(builder.start(), Err(Error::Settings(_))));
        }
    }

    #[test]
    fn without_a_runtime_there_is_an_error_and_no_panic() {
        let started = Writers::by_dns(([127, 0, 0, 1], 1).into(), "redis-primary.service.consul");
        assert!(matches!(started, Err(Error::Settings(_))), "{started:?}");
    }
}
