//! Logs in to Consul by an identity, again before the token ends, and out when it is needed no more. One keeper for each
//! login of a process, started by the first call that needs a token.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection::{Connection, Response};
use super::endpoint::ConsulEndpoint;
use super::error::ConsulError;
use super::login::{
    ConsulLoginSettings, LoginCause, LoginError, LoginPart, LoginToken, OVERLAP, UNKNOWN_TOKEN,
    without_token,
};
use super::txn::words;
use crate::clock::wall;
use crate::retry::Retry;

/// Deadline of one login: as of every other call.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server that is asked may take to know a token that another one has made.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked.
const KNOWN_EVERY: Duration = Duration::from_millis(50);
/// Deadline of logging one token out.
const LOG_OUT_TIMEOUT: Duration = Duration::from_millis(900);
/// Pause before a token that could not be logged out is tried again.
const LOG_OUT_AGAIN: Duration = Duration::from_secs(10);
/// Pause after a login that was refused: the first and the longest one.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How often the same failure is logged.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Keeps one login until no client is left or the process ends, and logs out then.
pub(super) async fn keep_logged_in(part: LoginPart, mut endpoint: ConsulEndpoint) {
    // The client's own login would be in use for as long as its keeper.
    endpoint.login = None;
    LoginKeeper {
        part,
        endpoint,
        due: Some(Instant::now()),
        old: Vec::new(),
        number: 0,
        silent: Retry::consul(),
        refused: Retry::between(REFUSED_PAUSE.0, REFUSED_PAUSE.1),
        said: None,
    }
    .run()
    .await;
}

struct LoginKeeper {
    part: LoginPart,
    endpoint: ConsulEndpoint,
    /// When to log in next.
    due: Option<Instant>,
    /// Tokens that are used no more, and when each is logged out.
    old: Vec<(Instant, Arc<LoginToken>)>,
    /// Of the last token.
    number: u64,
    silent: Retry,
    refused: Retry,
    /// What the log was told last of a login that fails.
    said: Option<(LoginCause, Instant)>,
}

/// What is to be done next.
enum LoginStep {
    LogIn,
    LogOut,
    /// The token was deleted.
    Lost,
    Released,
    Stop,
}

impl LoginKeeper {
    async fn run(mut self) {
        loop {
            match self.next().await {
                LoginStep::LogIn => self.log_in().await,
                LoginStep::LogOut => self.log_out_old().await,
                LoginStep::Lost => {
                    warn!("Consul does not know the token of the login any more: logging in again");
                    self.due = Some(Instant::now());
                }
                LoginStep::Released => {
                    // Cancel safe: a token and a timer.
                    tokio::select! {
                        () = self.part.stop.cancelled() => {}
                        () = tokio::time::sleep(OVERLAP) => {}
                    }
                    break;
                }
                LoginStep::Stop => break,
            }
        }
        let held = self.part.picture.borrow().held.clone();
        let all = self.old.iter().map(|(_, token)| token).chain(&held);
        join_all(all.map(|token| log_out(&self.endpoint, token))).await;
    }

    async fn next(&self) -> LoginStep {
        let mut picture = self.part.picture.subscribe();
        let is_lost = self.due.is_none_or(|due| due > Instant::now());
        let lost = picture.wait_for(|now| now.held.is_none() && now.failure.is_none());
        let old = self.old.iter().map(|(until, _)| *until).min();
        // Cancel safe: tokens, timers, and a watch that keeps its value.
        tokio::select! {
            biased;
            () = self.part.stop.cancelled() => LoginStep::Stop,
            () = self.part.released.cancelled() => LoginStep::Released,
            () = at(self.due) => LoginStep::LogIn,
            _ = lost, if is_lost => LoginStep::Lost,
            () = at(old) => LoginStep::LogOut,
        }
    }

    async fn log_in(&mut self) {
        let number = self.number + 1;
        let settings = &self.part.settings;
        match log_in(&self.endpoint, settings, number, &self.part.stop).await {
            Ok(token) => self.accept(token),
            Err(error) => self.refuse(error),
        }
    }

    fn accept(&mut self, token: LoginToken) {
        self.number = token.number;
        // Two thirds of its life, so that a third is left for a Consul that is away.
        self.due = token.life.map(|life| token.since + life * 2 / 3);
        let life = token.life.map_or_else(
            || "which never expires".to_owned(),
            |life| format!("for {} s", life.as_secs()),
        );
        let method = &self.part.settings.method;
        info!("logged in to Consul by auth method {method}: token {}, {life}", token.accessor);
        let token = Arc::new(token);
        let mut before = None;
        self.part.picture.send_modify(|now| {
            before = now.held.replace(token);
            now.failure = None;
            now.done += 1;
        });
        if let Some(before) = before {
            let until = Instant::now() + OVERLAP;
            self.old.push((before.end().map_or(until, |end| until.min(end)), before));
        }
        self.silent.reset();
        self.refused.reset();
        self.said = None;
    }

    fn refuse(&mut self, error: LoginError) {
        let retry = if error.is_transient() { &mut self.silent } else { &mut self.refused };
        let delay = retry.next_delay();
        self.due = Some(Instant::now() + delay);
        let is_said =
            self.said.is_some_and(|(cause, at)| cause == error.cause && at.elapsed() < SAID_EVERY);
        if !is_said {
            let held = self.part.picture.borrow().held.as_ref().and_then(|held| held.end());
            let left = held.map(|end| end.saturating_duration_since(Instant::now()).as_secs());
            let left = left.map(|left| format!("; the token before is good for {left} s more"));
            warn!("{error}; trying again{} (hint: {})", left.unwrap_or_default(), error.hint());
            self.said = Some((error.cause, Instant::now()));
        }
        self.part.picture.send_modify(|now| {
            *now.failed.entry(error.cause).or_default() += 1;
            now.failure = Some(error);
        });
    }

    async fn log_out_old(&mut self) {
        let now = Instant::now();
        let (over, kept) =
            std::mem::take(&mut self.old).into_iter().partition(|(at, _)| *at <= now);
        self.old = kept;
        let over: Vec<(Instant, Arc<LoginToken>)> = over;
        for (_, token) in over {
            if !log_out(&self.endpoint, &token).await {
                self.old.push((Instant::now() + LOG_OUT_AGAIN, token));
            }
        }
    }
}

/// At that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What Consul answers to a login.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoginAnswer {
    #[serde(rename = "AccessorID")]
    accessor: String,
    #[serde(rename = "SecretID")]
    secret: String,
    create_time: Timestamp,
    expiration_time: Option<Timestamp>,
}

impl LoginAnswer {
    /// By Consul's own clock: ours may differ.
    fn life(&self) -> Option<Duration> {
        let life = self.expiration_time?.duration_since(self.create_time);
        Some(Duration::try_from(life).unwrap_or_default())
    }
}

/// Fetches a token, and waits until the server that is asked knows it.
async fn log_in(
    endpoint: &ConsulEndpoint,
    settings: &ConsulLoginSettings,
    number: u64,
    stop: &CancellationToken,
) -> Result<LoginToken, LoginError> {
    let fail = |cause, what: String| LoginError { method: settings.method.clone(), what, cause };
    let jwt = settings.jwt()?;
    let connection = Connection::new(endpoint);
    let connection = connection.map_err(|error| fail(LoginCause::Refused, error.to_string()))?;
    let ConsulLoginSettings { method, meta, .. } = settings;
    let body = json!({"AuthMethod": method, "BearerToken": jwt.expose_secret(), "Meta": meta});
    let sent = connection
        .send(Method::POST, "/v1/acl/login", &[], Some(&body), LOGIN_TIMEOUT, None)
        .await
        .map_err(|error| fail(LoginCause::Silent, error.to_string()))?;
    let since = sent.asked;
    let answer: LoginAnswer = match sent.status {
        StatusCode::OK => serde_json::from_slice(&sent.body)
            .map_err(|error| fail(LoginCause::Refused, format!("its answer: {error}")))?,
        _ => return Err(refusal(settings, &jwt, &sent)),
    };
    let life = answer.life();
    let token = LoginToken {
        secret: SecretString::from(answer.secret),
        accessor: answer.accessor,
        since,
        life,
        number,
    };
    if is_known(&connection, &token, stop).await {
        return Ok(token);
    }
    log_out(endpoint, &token).await;
    let within = KNOWN_WITHIN.as_secs();
    let what = format!("{} does not know the token within {within} s", endpoint.display());
    Err(fail(LoginCause::Unknown, what))
}

/// Followers learn of a token later than the leader, which has made it; and a Consul agent that was told once that there
/// is none keeps to that for a while. What is asked here is not kept.
async fn is_known(connection: &Connection, token: &LoginToken, stop: &CancellationToken) -> bool {
    let until = Instant::now() + KNOWN_WITHIN;
    // One that stops has no use for it, and logs it out.
    while Instant::now() < until && !stop.is_cancelled() {
        let own = "/v1/acl/token/self";
        let secret = Some(&token.secret);
        let asked =
            connection.send(Method::GET, own, &[("stale", "")], None, LOGIN_TIMEOUT, secret);
        match tokio::time::timeout_at(until, asked).await {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => return true,
            Ok(Ok(answer)) => debug!("token {}: {}", token.accessor, words(&answer.body)),
            Ok(Err(error)) => debug!("token {}: {error}", token.accessor),
            Err(_) => return false,
        }
        tokio::time::sleep(KNOWN_EVERY).await;
    }
    stop.is_cancelled()
}

/// Deletes a token; whether it is gone.
async fn log_out(endpoint: &ConsulEndpoint, token: &LoginToken) -> bool {
    if token.end().is_some_and(|end| end <= Instant::now()) {
        return true;
    }
    let sent = async {
        let connection = Connection::new(endpoint).map_err(|error| error.to_string())?;
        let secret = Some(&token.secret);
        let (post, path) = (Method::POST, "/v1/acl/logout");
        let sent = connection.send(post, path, &[], None, LOG_OUT_TIMEOUT, secret).await;
        sent.map_err(|error: ConsulError| error.to_string())
    };
    match sent.await {
        Ok(answer) if answer.status == StatusCode::OK => true,
        Ok(answer) if words(&answer.body).contains(UNKNOWN_TOKEN) => true,
        Ok(answer) => {
            warn!("token {} is not logged out: {}", token.accessor, words(&answer.body));
            false
        }
        Err(error) => {
            warn!("token {} is not logged out: {error}", token.accessor);
            false
        }
    }
}

/// Why Consul gives no token, from its words and from what the JWT says of itself.
fn refusal(settings: &ConsulLoginSettings, jwt: &SecretString, sent: &Response) -> LoginError {
    let words = without_token(&words(&sent.body), jwt);
    let claims = JwtClaims::read(jwt.expose_secret());
    let cause = cause(sent.status.as_u16(), &words, &claims);
    let file = settings.file();
    let what = match cause {
        LoginCause::Expired => match claims.expired_for() {
            Some(seconds) => format!("the JWT in {file} expired {seconds} s ago"),
            None => format!("the JWT in {file} has expired: {words}"),
        },
        LoginCause::Early => format!("the JWT in {file} is not valid yet: {words}"),
        LoginCause::Jwt => format!("Consul does not take the JWT in {file}: {words}"),
        LoginCause::Method => format!("Consul has no such auth method: {words}"),
        LoginCause::Rule => {
            format!("no binding rule fits the JWT in {file}{}: {words}", claims.in_words())
        }
        LoginCause::Disabled => format!("this Consul has no ACLs: {words}"),
        _ => format!("Consul answers {}: {words}", sent.status.as_u16()),
    };
    LoginError { method: settings.method.clone(), what, cause }
}

fn cause(status: u16, words: &str, claims: &JwtClaims) -> LoginCause {
    let says = |needles: &[&str]| {
        let words = words.to_lowercase();
        needles.iter().any(|needle| words.contains(needle))
    };
    match status {
        401 if says(&["acl support disabled"]) => LoginCause::Disabled,
        403 if says(&["acl not found"]) => LoginCause::Method,
        403 => LoginCause::Rule,
        429 => LoginCause::Silent,
        500.. if says(&["expired"]) => LoginCause::Expired,
        500.. if says(&["not valid yet", "(nbf)", "issued in the future", "(iat)"]) => {
            LoginCause::Early
        }
        500..
            if says(&[
                "jwt",
                "jws",
                "parsing token",
                "signature",
                "claim",
                "audience",
                "issuer",
                "bearer token",
                "unauthorized",
                "validat",
            ]) =>
        {
            LoginCause::Jwt
        }
        500.. if claims.expired_for().is_some() && !says(&["leader", "rpc", "timeout"]) => {
            LoginCause::Expired
        }
        500.. => LoginCause::Silent,
        _ => LoginCause::Refused,
    }
}

/// What a JWT says of itself. Consul alone checks whether it is true.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JwtClaims {
    sub: Option<String>,
    iss: Option<String>,
    aud: Value,
    exp: Option<f64>,
}

impl JwtClaims {
    /// Nothing where it is no JWT.
    fn read(jwt: &str) -> Self {
        let decoded = jwt.split('.').nth(1).map(|part| BASE64_URL_SAFE_NO_PAD.decode(part));
        let claims = decoded.and_then(Result::ok);
        claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default()
    }

    /// For how many seconds its time has been over.
    fn expired_for(&self) -> Option<u64> {
        let late = wall().as_second() as f64 - self.exp?;
        (late > 0.0).then_some(late as u64)
    }

    /// Whom it is about, for whom, and by whom.
    fn in_words(&self) -> String {
        let Self { sub, iss, aud, .. } = self;
        let said = [
            sub.as_ref().map(|sub| format!("sub `{sub}`")),
            (!aud.is_null()).then(|| format!("aud `{}`", aud.to_string().replace('"', ""))),
            iss.as_ref().map(|iss| format!("iss `{iss}`")),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consuls_words_say_what_is_wrong_with_a_login() {
        let over = JwtClaims { exp: Some(1.0), ..JwtClaims::default() };
        let good = JwtClaims { exp: Some(1e12), ..JwtClaims::default() };
        // As Consul 1.8.7 says them.
        for (status, words, claims, expected) in [
            (403, "ACL not found", &good, LoginCause::Method),
            (403, "rpc error making call: ACL not found", &good, LoginCause::Method),
            (403, "Permission denied", &good, LoginCause::Rule),
            (401, "ACL support disabled", &good, LoginCause::Disabled),
            (
                500,
                "error validating claims: validation failed, token is expired (exp)",
                &over,
                LoginCause::Expired,
            ),
            (500, "validation failed, token not valid yet (nbf)", &good, LoginCause::Early),
            (
                500,
                "error parsing token: compact JWS format must have three parts",
                &good,
                LoginCause::Jwt,
            ),
            (
                500,
                "no known key successfully validated the token signature",
                &good,
                LoginCause::Jwt,
            ),
            (500, "missing jwt", &good, LoginCause::Jwt),
            (500, "lookup failed: [invalid bearer token]", &good, LoginCause::Jwt),
            (500, "No cluster leader", &over, LoginCause::Silent),
            (500, "something of its own", &over, LoginCause::Expired),
            (500, "something of its own", &good, LoginCause::Silent),
            (400, "Request decode failed", &good, LoginCause::Refused),
        ] {
            assert_eq!(cause(status, words, claims), expected, "{status} {words}");
        }
    }

    #[test]
    fn what_a_jwt_says_of_itself_is_read_and_nothing_of_what_is_none() {
        let claims = json!({"sub": "redis", "aud": ["consul"], "iss": "lab", "exp": 1});
        let middle = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        let claims = JwtClaims::read(&format!("a.{middle}.c"));
        assert_eq!(claims.in_words(), " (sub `redis`, aud `[consul]`, iss `lab`)");
        assert!(claims.expired_for().is_some_and(|seconds| seconds > 1_000_000));
        for text in ["", "garbage", "a.b.c", "a..c"] {
            let claims = JwtClaims::read(text);
            assert_eq!((claims.in_words().as_str(), claims.expired_for()), ("", None), "{text}");
        }
    }
}
