//! What a running agent of this host knows, for commands that cannot read Consul themselves: it is asked where the
//! config says that it answers by HTTP.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::config::{Config, HttpConfig, HttpTls};
use crate::core::identity::address::GroupName;
use crate::core::shown::status::{AgentShows, KnownByAgent};
use crate::pem;

/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the agent beside this command told of all its groups.
#[derive(Debug, Default)]
pub struct AgentBeside(Option<(String, Result<Vec<Value>, String>)>);

impl AgentBeside {
    /// Asks the agent, where the config says how.
    pub async fn ask(config: &Config) -> Self {
        let Some(http) = config.http.as_ref().filter(|http| http.listen.port() != 0) else {
            return Self::default();
        };
        let url = url_of(http);
        let told = ask(http, &url).await;
        Self(Some((url, told)))
    }

    /// What it knows of one group; `None` where the config has no address to ask.
    pub fn of(&self, group: &GroupName) -> Option<KnownByAgent> {
        let (url, told) = self.0.as_ref()?;
        let (error, shown) = match told {
            Err(error) => (Some(error.clone()), None),
            Ok(groups) => match groups.iter().find(|told| told["group"] == group.as_str()) {
                None => (None, None),
                Some(told) => match serde_json::from_value::<AgentShows>(told.clone()) {
                    Ok(shown) => (None, Some(shown)),
                    Err(error) => (Some(format!("it answers something else: {error}")), None),
                },
            },
        };
        Some(KnownByAgent { url: url.clone(), error, shown })
    }
}

fn url_of(http: &HttpConfig) -> String {
    let mut at = http.listen;
    // An agent that answers at every address answers at this one.
    if at.ip().is_unspecified() {
        at.set_ip(match at.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{at}/status.json")
}

async fn ask(http: &HttpConfig, url: &str) -> Result<Vec<Value>, String> {
    let token = http.token.read().map_err(|error| error.to_string())?;
    let mut builder = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT);
    if let Some(tls) = &http.tls {
        builder = builder.tls_backend_preconfigured(client_tls(tls, token.as_ref())?);
    }
    let mut request = builder.build().map_err(|error| error.to_string())?.get(url);
    if let Some(token) = &token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = request.send().await.map_err(|error| why_silent(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("it answers {status}"));
    }
    let body = answer.bytes().await.map_err(|error| why_silent(&error))?;
    serde_json::from_slice(&body).map_err(|error| format!("it answers something else: {error}"))
}

/// As the agent is set up: its certificate is the one in the file, and where it asks for a certificate and for no
/// token, the same one is shown.
fn client_tls(tls: &HttpTls, token: Option<&SecretString>) -> Result<ClientConfig, String> {
    let own = pem::certificates(&tls.cert)?;
    let certificate = own.first().cloned();
    let certificate =
        certificate.ok_or_else(|| format!("{} holds no certificate", tls.cert.display()))?;
    let provider = CryptoProvider::get_default().ok_or("no provider of cryptography")?;
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Only { certificate, algorithms }));
    if tls.client_ca.is_some() && token.is_none() {
        let unusable = |error| format!("{}: {error}", tls.cert.display());
        builder.with_client_auth_cert(own, pem::key(&tls.key)?).map_err(unusable)
    } else {
        Ok(builder.with_no_client_auth())
    }
}

/// In words, why there is no answer.
fn why_silent(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer".to_owned();
    }
    let mut cause = error.source();
    let mut innermost = error.to_string();
    while let Some(inner) = cause {
        match inner.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::ConnectionRefused => {
                return "it does not run".to_owned();
            }
            _ => innermost = inner.to_string(),
        }
        cause = inner.source();
    }
    if innermost.contains("ApplicationVerificationFailure") {
        return "it shows another certificate than the config names".to_owned();
    }
    if innermost.contains("received fatal alert") {
        return format!(
            "it lets in certificates of its client_ca, and refuses its own ({innermost}): set token_file as well, or ask it \
             with curl and a certificate that it lets in"
        );
    }
    innermost
}

/// Believes one certificate, whatever name it is made out to and whichever authority has issued it.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The same in lines of text.
pub fn describe(known: &KnownByAgent) -> String {
    let KnownByAgent { url, error, shown } = known;
    let mut text = format!("  the agent of this host, at {url}, ");
    let _ = match (error, shown) {
        (Some(error), _) => writeln!(text, "was not asked: {error}"),
        (None, None) => writeln!(text, "does not watch this group"),
        (None, Some(shown)) if !shown.consul_read => writeln!(text, "has not read Consul either"),
        (None, Some(shown)) => {
            let writer =
                shown.writer.as_ref().map_or_else(|| "no writer".to_owned(), ToString::to_string);
            let since = shown.since.map(|since| since.to_string()).unwrap_or_default();
            let why = shown.why.as_deref().unwrap_or_default();
            let generation = shown.generation;
            writeln!(text, "last read: {writer}, generation {generation}, since {since}: {why}")
        }
    };
    for problem in shown.iter().flat_map(|shown| &shown.problems) {
        let _ = writeln!(text, "    it says: {}", problem.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const URL: &str = "http://127.0.0.1:9121/status.json";

    fn told(group: &Value) -> String {
        let beside = AgentBeside(Some((URL.to_owned(), Ok(vec![group.clone()]))));
        describe(&beside.of(&"redis".parse().unwrap()).unwrap())
    }

    #[test]
    fn what_an_agent_last_read_is_told_with_its_problems() {
        let mut group = json!({
            "group": "redis", "consul_read": true, "generation": 7, "writer": "10.0.0.1:6379",
            "since": "2026-11-21T00:00:01Z", "why": "promoted by Sentinel epoch 3", "of_a_later_version": [],
            "problems": [{"code": "of-a-later-version", "text": "Consul does not answer"}],
        });
        assert_eq!(
            told(&group),
            "  the agent of this host, at http://127.0.0.1:9121/status.json, last read: 10.0.0.1:6379, generation 7, since \
             2026-11-21T00:00:01Z: promoted by Sentinel epoch 3\n    it says: Consul does not answer\n"
        );
        group["group"] = json!("other");
        assert!(told(&group).ends_with("does not watch this group\n"), "{}", told(&group));
        group["group"] = json!("redis");
        group["generation"] = json!("seven");
        assert!(told(&group).contains("was not asked: it answers something else: "), "{group}");
        let blind =
            json!({"group": "redis", "consul_read": false, "generation": 0, "problems": []});
        assert!(told(&blind).ends_with("has not read Consul either\n"), "{}", told(&blind));
    }
}
