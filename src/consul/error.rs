//! What can go wrong with Consul, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use super::login::{LoginCause, LoginError, UNKNOWN_TOKEN};
use crate::foreign::brief;
use crate::secret::SecretError;

/// A call that did not succeed.
#[derive(Debug, Error)]
pub enum ConsulError {
    /// No answer: refused, timed out, broken off.
    #[error("Consul at {address} does not answer: {}", brief(reason))]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// The error of the connection, in words.
        reason: String,
    },
    /// 401 or 403: the token is unknown, or may not do this.
    #[error("Consul denies {call}: {}", brief(what))]
    Denied {
        /// What was asked for.
        call: String,
        /// Consul's words.
        what: String,
    },
    /// Any other status.
    #[error("Consul answers {status} to {call}: {}", brief(what))]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        call: String,
        /// Consul's words.
        what: String,
    },
    /// The answer is not what the API promises.
    #[error("Consul's answer to {call} cannot be read: {}", brief(what))]
    Unreadable {
        /// What was asked for.
        call: String,
        /// What is wrong with it.
        what: String,
    },
    /// The answer lacks the index that a blocking query goes on from: something in between took it out.
    #[error("Consul's answer to {call} cannot be read: it has no X-Consul-Index")]
    NoIndex {
        /// What was asked for.
        call: String,
    },
    /// The token's file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is no token: the login that is to give one fails.
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl ConsulError {
    /// Trying again later may help: no server answered, or Consul has no leader just now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            Self::Login(error) => error.is_transient(),
            Self::Denied { .. }
            | Self::Unreadable { .. }
            | Self::NoIndex { .. }
            | Self::Secret(_) => false,
        }
    }

    /// Nothing can be read for now: Consul does not answer, or gives no token. What can be seen without it may be shown.
    pub fn leaves_unread(&self) -> bool {
        self.is_transient() || matches!(self, Self::Login(_))
    }

    /// Consul refuses what is asked, or there is no token to ask with, and trying again alone does not help.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Secret(_) => true,
            Self::Login(error) => !error.is_transient(),
            _ => false,
        }
    }

    /// What was set is wrong: a file of a secret.
    pub fn is_about_settings(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Login(error) => error.cause == LoginCause::File,
            _ => self.is_about_enterprise(),
        }
    }

    /// Consul was asked for a namespace or a partition, and is not Enterprise.
    pub fn is_about_enterprise(&self) -> bool {
        matches!(self, Self::Status { status: 400, what, .. } if what.contains("Enterprise feature"))
    }

    /// What to do about it, where there is more to say.
    pub fn hint(&self) -> Option<&'static str> {
        let has = |text: &str, needle: &str| text.contains(needle);
        Some(match self {
            // What the TLS library calls an answer that is not in TLS.
            Self::Unreachable { reason, .. } if has(reason, "corrupt message") => {
                "that port speaks no TLS: write http:// and Consul's http port, or unset CONSUL_HTTP_SSL"
            }
            Self::Unreachable { reason, .. }
                if has(reason, "NotValidForName") || has(reason, "not valid for name") =>
            {
                "CONSUL_TLS_SERVER_NAME is the name that Consul's certificate is made out to, as server.dc1.consul"
            }
            Self::Unreachable { reason, .. } if has(reason, "certificate") => {
                "CONSUL_CACERT names the authority that signed Consul's certificate; where Consul asks for one of \
                 ours, CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"
            }
            Self::Unreachable { .. } => {
                "is Consul running there? set CONSUL_HTTP_ADDR or --http-addr"
            }
            Self::Denied { what, .. } if has(what, UNKNOWN_TOKEN) => {
                "Consul does not know this token: the one in CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or [consul] token_file \
                 is mistyped, of another cluster, or was deleted"
            }
            Self::Denied { what, .. } if !is_consuls(what) => {
                "these are not Consul's words: what stands before it asks for a login (CONSUL_HTTP_AUTH=USER:PASSWORD), \
                 or CONSUL_HTTP_ADDR leads elsewhere"
            }
            Self::Denied { call, .. } if call.starts_with("GET ") => {
                "check the token (CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, [consul] token_file) against \
                 consul/reader-policy.hcl, and an agent's against consul/agent-policy.hcl"
            }
            Self::Denied { .. } => {
                "check the token (CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, [consul] token_file) against \
                 consul/agent-policy.hcl"
            }
            Self::Status { what, .. } if has(what, "HTTP request to an HTTPS server") => {
                "that port speaks TLS: write https://, or set CONSUL_HTTP_SSL=true"
            }
            Self::Status { what, .. } if has(what, "No cluster leader") => {
                "Consul has no leader: a majority of its servers must run and reach one another"
            }
            Self::Status { .. } if self.is_about_enterprise() => {
                "only Consul Enterprise has namespaces and partitions: unset CONSUL_NAMESPACE and CONSUL_PARTITION, \
                 and take `namespace` and `partition` out of [consul]"
            }
            Self::Status { status: 429, .. } => {
                "Consul limits requests: raise its limits, or ask less often"
            }
            Self::Status { status: 500.., .. } => "Consul's own log says more",
            Self::NoIndex { .. } => {
                "what stands between here and Consul takes X-Consul-Index out of its answers: have it let that header \
                 pass, or set CONSUL_HTTP_ADDR to Consul itself"
            }
            Self::Status { .. } | Self::Unreadable { .. } => {
                "is it Consul's HTTP API that answers there? look at CONSUL_HTTP_ADDR"
            }
            Self::Login(error) => error.hint(),
            Self::Secret(_) => {
                "CONSUL_HTTP_TOKEN_FILE, --token-file or [consul] token_file names a file that this user can read, \
                 with the token in it and nothing else"
            }
        })
    }
}

/// It is Consul that denies: a proxy says other things, in HTML as a rule.
fn is_consuls(what: &str) -> bool {
    ["ermission denied", "ACL", "lacks permission"].iter().any(|words| what.contains(words))
}

/// A client that could not be made from its settings.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A PEM file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of authorities without a certificate: nothing would be trusted, without a reason that shows.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file, or the directory.
        path: PathBuf,
    },
    /// The HTTP client refuses the settings.
    #[error("cannot set up the Consul client: {}", root_cause(.0))]
    Setup(#[from] reqwest::Error),
}

/// The innermost cause: reqwest's own words only repeat the URL.
pub fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
