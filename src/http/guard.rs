//! Which request may see what.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use tracing::error;

use super::Site;
use super::tls::is_verified;

/// What a browser may not do with the page: run, load or send anything that is not its own, or put it into a frame.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Sent with the page and all that belongs to it, refusals included.
const HEADERS: [(header::HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Lets a request pass that carries what is asked for: a client certificate, or the token, as a bearer token or as the
/// password that a browser asks its user for. Either is enough.
pub async fn authorised(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if site.asks.certificate && is_verified(&request) {
        return next.run(request).await;
    }
    let wanted = match site.asks.token.read() {
        Ok(None) if site.asks.certificate => {
            return (StatusCode::UNAUTHORIZED, "a client certificate is needed\n").into_response();
        }
        Ok(None) => return next.run(request).await,
        Ok(Some(token)) => token,
        Err(failed) => {
            error!("HTTP requests are refused: {failed}");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let given = token(request.headers());
    if given.is_some_and(|given| same(&given, wanted.expose_secret().as_bytes())) {
        return next.run(request).await;
    }
    let ask = AppendHeaders([
        (header::WWW_AUTHENTICATE, "Basic realm=\"consul-redis: the token is the password\""),
        (header::WWW_AUTHENTICATE, "Bearer"),
    ]);
    (StatusCode::UNAUTHORIZED, ask, "a bearer token is needed, or the token as a password\n")
        .into_response()
}

/// The token of a request; a user's name beside it is not looked at.
fn token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)?;
    if let Some(token) = given.strip_prefix(b"Bearer ") {
        return Some(token.to_vec());
    }
    let pair = STANDARD.decode(given.strip_prefix(b"Basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Compares in a time that does not depend on where the first difference is.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let difference = given.iter().zip(wanted).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == wanted.len() && difference == 0
}

/// Where nothing is asked for, only a request for this machine by address, or for `localhost`, is answered: another
/// site's script could make its own name lead here, and would be let read what it gets.
pub async fn addressed(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let asks = site.asks.token.is_some() || site.asks.certificate;
    if asks || host.is_some_and(is_this_machine) {
        return next.run(request).await;
    }
    let why = "without a token, ask for this machine by its address\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Adds what keeps a browser from doing harm with the page.
pub async fn kept_in(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_only_when_they_are() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secrex"[..], b"secre", b"secrets", b""] {
            assert!(!same(other, b"secret"));
        }
    }

    #[test]
    fn a_token_comes_as_one_or_as_a_password() {
        let of = |value: String| {
            let value = HeaderValue::from_str(&value).unwrap();
            token(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
        };
        let basic = |pair: &str| of(format!("Basic {}", STANDARD.encode(pair)));
        assert_eq!(of("Bearer a:b".to_owned()).unwrap(), b"a:b");
        assert_eq!(basic("user:a:b").unwrap(), b"a:b");
        assert_eq!(basic(":secret").unwrap(), b"secret");
        assert_eq!(basic("secret"), None);
        assert_eq!(of("Basic not base64".to_owned()), None);
        assert_eq!(of("secret".to_owned()), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn this_machine_is_asked_for_by_its_address() {
        for host in
            ["127.0.0.1:9790", "127.0.0.1", "[::1]:9790", "[::1]", "localhost:1", "LocalHost"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["evil.example:9790", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
