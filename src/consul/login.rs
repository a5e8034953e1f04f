//! The login to Consul by an identity: what it is made of, the token that it has given, and why it has failed. All that
//! is told here is shared by every client of one process; [`keeper`](super::login_keeper) logs in and out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::secret::SecretSource;

/// How long the token before is kept once another one is used. A blocking query that was sent with it has ended by then
/// (`blocking`), and this host's registrations have the new one (`registrar`).
pub const OVERLAP: Duration = Duration::from_secs(40);
/// For so long after a login a server may not know the token yet, although another one does.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Pause before a server that does not know a new token is asked again.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// What Consul says of a token, or of an auth method, that it does not know.
pub const UNKNOWN_TOKEN: &str = "ACL not found";
/// Logins of one call that find the token deleted again.
pub const LOST_MAX: u32 = 2;
/// How long all tokens of a process may take to be logged out at its end: together with the rest, less than the 2 s
/// that a stop may take.
const LOG_OUT_TIMEOUT: Duration = Duration::from_millis(500);

/// With what, and as whom, to log in: `[consul.login]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsulLoginSettings {
    /// The auth method in Consul.
    pub method: String,
    /// The file with the JWT.
    pub bearer: SecretSource,
    /// What the token's description says besides.
    pub meta: BTreeMap<String, String>,
}

impl ConsulLoginSettings {
    /// The file with the JWT, for people.
    pub fn file(&self) -> String {
        match &self.bearer {
            SecretSource::File(path) => path.display().to_string(),
            SecretSource::Value(_) | SecretSource::None => "(no file)".to_owned(),
        }
    }

    /// The JWT as it is now.
    ///
    /// # Errors
    /// [`LoginError`] when its file cannot be read, or is empty.
    pub fn jwt(&self) -> Result<SecretString, LoginError> {
        let wrong =
            |what| LoginError { method: self.method.clone(), what, cause: LoginCause::File };
        let read = self.bearer.read().map_err(|error| wrong(error.to_string()))?;
        read.ok_or_else(|| wrong("no file is named".to_owned()))
    }

    /// How a client of Consul is known by it, for people.
    pub fn named(&self) -> String {
        format!("logged in by auth method {} with the JWT in {}", self.method, self.file())
    }
}

/// A token that a login has given.
pub struct LoginToken {
    /// What is shown to Consul.
    pub secret: SecretString,
    /// What it is called where it is listed.
    pub accessor: String,
    /// When it was given.
    pub since: Instant,
    /// How long it lives; `None` for one that never ends.
    pub life: Option<Duration>,
    /// The how many-th of its login it is, from 1.
    pub number: u64,
}

impl LoginToken {
    /// When it ends.
    pub fn end(&self) -> Option<Instant> {
        self.life.map(|life| self.since + life)
    }
}

impl fmt::Debug for LoginToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} of {:?}", self.accessor, self.life)
    }
}

/// Why a login fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoginCause {
    /// The file is missing, cannot be read, or is empty.
    File,
    /// The JWT's time is over.
    Expired,
    /// The JWT's time has not begun.
    Early,
    /// The auth method does not take the JWT: its signature, issuer or audience.
    Jwt,
    /// Consul has no such auth method.
    Method,
    /// No binding rule fits.
    Rule,
    /// Consul's ACLs are off.
    Disabled,
    /// The token was given, and the server that is asked does not know it in time.
    Unknown,
    /// Consul does not answer, or has no leader.
    Silent,
    /// Consul says something else.
    Refused,
}

impl LoginCause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::File,
        Self::Expired,
        Self::Early,
        Self::Jwt,
        Self::Method,
        Self::Rule,
        Self::Disabled,
        Self::Unknown,
        Self::Silent,
        Self::Refused,
    ];

    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Jwt => "jwt",
            Self::Method => "method",
            Self::Rule => "rule",
            Self::Disabled => "disabled",
            Self::Unknown => "unknown",
            Self::Silent => "silent",
            Self::Refused => "refused",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::File => {
                "bearer_token_file ([consul.login], --bearer-token-file) names a file that this user can read, with the JWT \
                 in it: Nomad writes it by identity { file = true }, Kubernetes by a projected service-account token"
            }
            Self::Expired => {
                "what writes the file has not renewed it: Nomad's client, the kubelet; the clocks of this host and of Consul's \
                 servers must agree"
            }
            Self::Early => "the clocks of what signs the JWT and of Consul's servers must agree",
            Self::Jwt => {
                "compare the JWT with the auth method (consul acl auth-method read -name METHOD): its keys, BoundIssuer and \
                 BoundAudiences; `aud` is said where the JWT is asked for"
            }
            Self::Method => {
                "consul acl auth-method list shows which there are; docs/how-to/log-in-by-identity.md makes one"
            }
            Self::Rule => {
                "consul acl binding-rule list -method METHOD: the selector of one must fit this JWT's claims as ClaimMappings \
                 names them, and its role or service identity must exist"
            }
            Self::Disabled => "this Consul asks for no token: take [consul.login] out",
            Self::Unknown => {
                "Consul's servers are behind their leader, or replicate no ACLs: their logs say more"
            }
            Self::Silent => {
                "is Consul running there, with a leader? set CONSUL_HTTP_ADDR or --http-addr"
            }
            Self::Refused => "Consul's own log says more",
        }
    }
}

/// A login that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot log in to Consul by auth method `{method}`: {what}")]
pub struct LoginError {
    /// The auth method.
    pub method: String,
    /// What is wrong.
    pub what: String,
    /// Which kind of fault it is.
    pub cause: LoginCause,
}

impl LoginError {
    /// The next attempt may succeed without a change to any setting or file.
    pub fn is_transient(&self) -> bool {
        matches!(self.cause, LoginCause::Silent | LoginCause::Unknown)
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        self.cause.hint()
    }
}

/// What is known of a login.
#[derive(Debug, Clone, Default)]
pub struct LoginPicture {
    /// The auth method.
    pub method: String,
    /// The token to use.
    pub held: Option<Arc<LoginToken>>,
    /// Why the last attempt failed; `None` since one has succeeded.
    pub failure: Option<LoginError>,
    /// How many logins succeeded.
    pub done: u64,
    /// How many failed, by cause.
    pub failed: BTreeMap<LoginCause, u64>,
}

/// One login that all clients of an endpoint share. It is made by the first call that needs it, and ends with the last
/// client.
#[derive(Clone)]
pub struct ConsulLogin {
    /// As it was asked for.
    pub settings: ConsulLoginSettings,
    shared: Arc<SharedLogin>,
    process: LoginProcess,
}

/// The keepers of one process's logins, and how they are told to end.
#[derive(Debug, Clone, Default)]
pub struct LoginProcess {
    keepers: TaskTracker,
    stop: CancellationToken,
}

/// What the clients of one login have in common.
pub struct SharedLogin {
    picture: Arc<watch::Sender<LoginPicture>>,
    /// A keeper is at work.
    begun: watch::Sender<bool>,
    /// Has the keeper end, once no client is left.
    released: CancellationToken,
    _guard: DropGuard,
}

/// What the keeper of a login works with.
pub struct LoginPart {
    /// What it logs in with.
    pub settings: ConsulLoginSettings,
    /// Where it says what it has.
    pub picture: Arc<watch::Sender<LoginPicture>>,
    /// No client is left.
    pub released: CancellationToken,
    /// The process ends.
    pub stop: CancellationToken,
}

impl ConsulLogin {
    /// A client of this login.
    pub fn new(
        settings: ConsulLoginSettings,
        shared: Arc<SharedLogin>,
        process: LoginProcess,
    ) -> Self {
        Self { settings, shared, process }
    }

    /// The token to use now; where there is none yet, once the keeper has logged in. `keep` makes the keeper, which is
    /// started once.
    ///
    /// # Errors
    /// Why the last attempt failed, while there is no token.
    pub async fn token<F>(
        &self,
        keep: impl FnOnce(LoginPart) -> F,
    ) -> Result<Arc<LoginToken>, LoginError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut picture = self.shared.picture.subscribe();
        if self.shared.begun.send_if_modified(|begun| !std::mem::replace(begun, true)) {
            let SharedLogin { picture, released, .. } = &*self.shared;
            let keeper = keep(LoginPart {
                settings: self.settings.clone(),
                picture: picture.clone(),
                released: released.clone(),
                stop: self.process.stop.clone(),
            });
            self.process.keepers.spawn(keeper);
        }
        loop {
            {
                let now = picture.borrow_and_update();
                match (&now.held, &now.failure) {
                    (Some(token), _) => return Ok(token.clone()),
                    (None, Some(failure)) => return Err(failure.clone()),
                    (None, None) => {}
                }
            }
            // Cancel safe: a watch keeps its value. Its sender is ours.
            let _ = picture.changed().await;
        }
    }

    /// A server does not know this token. A new one is waited for; one that has been in use was deleted, and is used no
    /// more: the keeper logs in again. Whether it was that.
    pub async fn not_found(&self, token: &LoginToken) -> bool {
        if token.since.elapsed() < SETTLED_AFTER {
            tokio::time::sleep(SETTLE_PAUSE).await;
            return false;
        }
        self.shared.picture.send_if_modified(|now| {
            let is_held = now.held.as_ref().is_some_and(|held| held.number == token.number);
            if is_held {
                now.held = None;
                now.failure = None;
            }
            is_held
        })
    }

    /// What is known of it now.
    pub fn picture(&self) -> LoginPicture {
        let method = self.settings.method.clone();
        LoginPicture { method, ..self.shared.picture.borrow().clone() }
    }

    /// Logs out every token of the process: nothing that needs Consul comes after it.
    pub async fn log_out(&self) {
        self.process.log_out().await;
    }
}

impl fmt::Debug for ConsulLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl PartialEq for ConsulLogin {
    /// The same identity, whether it is in use or not.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl LoginProcess {
    /// Logs out every token that is held: the process ends.
    pub async fn log_out(&self) {
        self.stop.cancel();
        self.keepers.close();
        if tokio::time::timeout(LOG_OUT_TIMEOUT, self.keepers.wait()).await.is_err() {
            warn!("Consul did not answer in time: a token of this process stays until it expires");
        }
    }
}

impl Default for SharedLogin {
    fn default() -> Self {
        let released = CancellationToken::new();
        let _guard = released.clone().drop_guard();
        let picture = Arc::new(watch::Sender::default());
        Self { picture, begun: watch::Sender::new(false), released, _guard }
    }
}

/// The same text with nothing of the token in it.
pub fn without_token(text: &str, token: &SecretString) -> String {
    text.replace(token.expose_secret(), "(the JWT)")
}
