//! One try to tell one target.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::body;
use crate::config::notify::{NotifyConfig, NotifyUrl, NotifyWay, wrong_url};
use crate::consul::error::root_cause;
use crate::core::published::notices::{Notice, NoticeSubject};
use crate::foreign::harmless;
use crate::render::command::{self, CommandInput};
use crate::secret::{SecretError, SecretSource};

/// The header with the signature.
pub const SIGNATURE: &str = "X-Consul-Redis-Signature";
/// What is said of an answer, in bytes.
const ANSWER_LEN_MAX: usize = 200;

/// What one target is told by.
#[derive(Debug)]
pub struct Teller {
    /// Its settings.
    pub config: NotifyConfig,
    /// Variables of the environment that its command does not get.
    withheld: Arc<BTreeSet<String>>,
}

/// A try that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub enum TryError {
    /// Another one may.
    Again(String),
    /// No other one will.
    Final(String),
}

impl TryError {
    /// What went wrong.
    pub fn words(&self) -> &str {
        match self {
            Self::Again(words) | Self::Final(words) => words,
        }
    }
}

impl From<SecretError> for TryError {
    /// A secret that is being replaced is there a moment later.
    fn from(error: SecretError) -> Self {
        Self::Again(error.to_string())
    }
}

impl Teller {
    /// What tells by these settings, once they have been tried as far as they can be without a server: its files, and the
    /// body of each kind of event.
    ///
    /// # Errors
    /// In words, what is wrong.
    pub fn new(
        config: NotifyConfig,
        withheld: Arc<BTreeSet<String>>,
        subject: &NoticeSubject,
    ) -> Result<Self, String> {
        let teller = Self { config, withheld };
        let of = |what: String| format!("[[notify]] `{}`: {what}", teller.config.name);
        if let NotifyWay::Url(way) = &teller.config.to {
            client(way).map_err(of)?;
            if let Some(url) = read(&way.url).map_err(|e| of(e.to_string()))? {
                let wrong = wrong_url(url.expose_secret());
                wrong.map_or(Ok(()), |wrong| Err(of(format!("url_file: {wrong}"))))?;
            }
            let key = SecretString::from("key".to_owned());
            for notice in body::samples(subject) {
                let told = teller.config.events.contains(&notice.event);
                if told {
                    body::render(way.body.as_deref(), &notice, Some(&key)).map_err(of)?;
                }
            }
        }
        Ok(teller)
    }

    /// Tries once.
    ///
    /// # Errors
    /// [`TryError`], which says whether another try may succeed.
    pub async fn send(&self, notice: &Notice) -> Result<(), TryError> {
        let timeout = self.config.timeout;
        match &self.config.to {
            NotifyWay::Url(way) => {
                let late =
                    || TryError::Again(format!("no answer within {} ms", timeout.as_millis()));
                tokio::time::timeout(timeout, post(way, notice)).await.map_err(|_| late())?
            }
            NotifyWay::Command(argv) => {
                let stdin = serde_json::to_vec(notice);
                let stdin = stdin.map_err(|error| TryError::Final(error.to_string()))?;
                let input = CommandInput { stdin, env: variables(notice) };
                let label = format!("notify {}", self.config.name);
                let run = command::run_with(argv, timeout, &label, &self.withheld, Some(input));
                run.await.map_err(|error| TryError::Again(error.to_string()))
            }
        }
    }
}

fn read(secret: &SecretSource) -> Result<Option<SecretString>, SecretError> {
    secret.read()
}

/// A client for one event: its certificates are as they are now.
fn client(way: &NotifyUrl) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("consul-redis/", env!("CARGO_PKG_VERSION")));
    let plain = match &way.url {
        SecretSource::Value(url) => url.expose_secret().starts_with("http://"),
        _ => false,
    };
    if let Some(path) = &way.ca_cert {
        builder = builder.tls_certs_only(authorities(path)?);
    } else if plain {
        // No authority has to be trusted, and a small image has no authorities to offer.
        builder = builder.tls_certs_only(std::iter::empty());
    }
    builder.build().map_err(|error| root_cause(&error))
}

fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let cannot = |error: String| format!("cannot read {}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| cannot(root_cause(&e)))?;
    if all.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(all)
}

async fn post(way: &NotifyUrl, notice: &Notice) -> Result<(), TryError> {
    let (token, key, signing) = (read(&way.token)?, read(&way.key)?, read(&way.hmac)?);
    let url = read(&way.url)?.ok_or_else(|| TryError::Final("there is no URL".to_owned()))?;
    if let Some(wrong) = wrong_url(url.expose_secret()) {
        return Err(TryError::Again(wrong));
    }
    let body = body::render(way.body.as_deref(), notice, key.as_ref()).map_err(TryError::Again)?;
    let client = client(way).map_err(TryError::Again)?;
    let mut request = client.post(url.expose_secret()).header(CONTENT_TYPE, "application/json");
    if let Some(token) = &token {
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
        let mut bearer =
            bearer.map_err(|_| TryError::Again("the token is no text of one line".to_owned()))?;
        bearer.set_sensitive(true);
        request = request.header(AUTHORIZATION, bearer);
    }
    if let Some(secret) = &signing {
        request = request.header(SIGNATURE, signature(secret, &body));
    }
    let sent = request.body(body).send().await;
    let mut answer = sent.map_err(|error| TryError::Again(root_cause(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let said = match answer.chunk().await {
        Ok(Some(chunk)) => {
            let said = chunk.get(..ANSWER_LEN_MAX).unwrap_or(&chunk);
            let secrets = [Some(&url), token.as_ref(), key.as_ref(), signing.as_ref()];
            in_one_line(said, secrets.into_iter().flatten())
        }
        _ => String::new(),
    };
    let words = format!("HTTP {}{said}", status.as_u16());
    let again = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    Err(if again { TryError::Again(words) } else { TryError::Final(words) })
}

/// What a receiver answers may repeat what it was sent.
fn in_one_line<'a>(said: &[u8], secrets: impl Iterator<Item = &'a SecretString>) -> String {
    let mut text = harmless(String::from_utf8_lossy(said)).into_owned();
    for secret in secrets {
        text = text.replace(secret.expose_secret(), "***");
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!(": {text}") }
}

/// `sha256=` and the HMAC of the body, in hexadecimal digits.
pub fn signature(secret: &SecretString, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let digits =
        hmac::sign(&key, body).as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("sha256={digits}")
}

/// What a command finds in its environment.
fn variables(notice: &Notice) -> Vec<(&'static str, String)> {
    let address = |at: &Option<crate::core::identity::address::Address>| {
        at.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    vec![
        ("CONSUL_REDIS_EVENT", notice.event.as_str().to_owned()),
        ("CONSUL_REDIS_GROUP", notice.group.to_string()),
        ("CONSUL_REDIS_OLD", address(&notice.old)),
        ("CONSUL_REDIS_NEW", address(&notice.new)),
        ("CONSUL_REDIS_GENERATION", notice.generation.to_string()),
        ("CONSUL_REDIS_CODE", notice.code.clone().unwrap_or_default()),
        ("CONSUL_REDIS_ID", notice.id.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_by_hmac_sha256() {
        // RFC 4231, test case 2.
        let secret = SecretString::from("Jefe".to_owned());
        assert_eq!(
            signature(&secret, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn what_an_answer_repeats_of_a_secret_or_a_terminal_would_obey_is_not_said() {
        let secret = SecretString::from("hunter2".to_owned());
        let said = in_one_line(b"no such key:\n hunter2", [&secret].into_iter());
        assert_eq!(said, ": no such key: ***");
        let said = in_one_line(b"\x1b[2Jno", [&secret].into_iter());
        assert_eq!(said, ": \\u{1b}[2Jno");
    }
}
