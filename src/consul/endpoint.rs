//! Where Consul is and how to speak to it, in the words of Consul's own tools.

use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::login::ConsulLogin;
use crate::secret::SecretSource;

/// Consul's address when nothing is set.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";

/// Where Consul listens (`CONSUL_HTTP_ADDR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsulAddress {
    /// `http://`, `https://` or a bare `host:port`.
    Tcp {
        /// Use TLS; `None` when the address does not say (`CONSUL_HTTP_SSL` decides).
        tls: Option<bool>,
        /// `host:port`, IPv6 in brackets, with a path prefix if there is one.
        authority: String,
    },
    /// `unix:///path/to/socket`.
    Unix(PathBuf),
}

/// A `CONSUL_HTTP_ADDR` that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no Consul address: write http://host:port, https://host:port, host:port or unix:///path"
)]
pub struct BadConsulAddress(String);

impl FromStr for ConsulAddress {
    type Err = BadConsulAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadConsulAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            if path.is_empty() {
                return Err(bad());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (tls, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (Some(true), rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Some(false), rest)
        } else {
            (None, text)
        };
        let authority = rest.trim_end_matches('/');
        let odd = |c: char| c.is_whitespace() || c == '@' || c == '?' || c == '#';
        if authority.is_empty() || authority.contains("://") || authority.contains(odd) {
            return Err(bad());
        }
        Ok(Self::Tcp { tls, authority: authority.to_owned() })
    }
}

/// Everything needed to speak to Consul.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsulEndpoint {
    /// Where it listens.
    pub address: ConsulAddress,
    /// `CONSUL_HTTP_SSL`: TLS for an address that does not say.
    pub tls: bool,
    /// `CONSUL_HTTP_SSL_VERIFY`: check its certificate.
    pub tls_verify: bool,
    /// `CONSUL_CACERT`: PEM file with the authorities to trust, instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// `CONSUL_CAPATH`: a directory of such files.
    pub ca_path: Option<PathBuf>,
    /// `CONSUL_CLIENT_CERT` and `CONSUL_CLIENT_KEY`: PEM files of our own certificate.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// `CONSUL_TLS_SERVER_NAME`: the name to expect in its certificate.
    pub tls_server_name: Option<String>,
    /// `CONSUL_HTTP_TOKEN` or `CONSUL_HTTP_TOKEN_FILE`.
    pub token: SecretSource,
    /// Where the token comes from instead, if it is fetched by a login.
    pub login: Option<ConsulLogin>,
    /// `CONSUL_HTTP_AUTH`: user and password for a proxy before Consul, with a colon between them.
    pub http_auth: SecretSource,
    /// `CONSUL_NAMESPACE` (Enterprise). Sent only when set.
    pub namespace: Option<String>,
    /// `CONSUL_PARTITION` (Enterprise). Sent only when set.
    pub partition: Option<String>,
}

impl Default for ConsulEndpoint {
    fn default() -> Self {
        Self {
            address: ConsulAddress::Tcp { tls: None, authority: DEFAULT_ADDRESS.to_owned() },
            tls: false,
            tls_verify: true,
            ca_cert: None,
            ca_path: None,
            client_cert: None,
            tls_server_name: None,
            token: SecretSource::None,
            login: None,
            http_auth: SecretSource::None,
            namespace: None,
            partition: None,
        }
    }
}

impl ConsulEndpoint {
    /// The URL that paths are appended to, without a slash at the end.
    pub fn base_url(&self) -> String {
        match &self.address {
            ConsulAddress::Tcp { tls, authority } => {
                let scheme = if tls.unwrap_or(self.tls) { "https" } else { "http" };
                match &self.tls_server_name {
                    // The certificate's name goes into the URL; the client connects to `authority`
                    // all the same (see `client::Client::new`).
                    Some(name) if scheme == "https" => {
                        let (_, rest) = split_authority(authority);
                        format!("https://{name}{rest}")
                    }
                    _ => format!("{scheme}://{authority}"),
                }
            }
            ConsulAddress::Unix(_) => "http://localhost".to_owned(),
        }
    }

    /// The address as a person would write it, for messages.
    pub fn display(&self) -> String {
        match &self.address {
            ConsulAddress::Tcp { tls, authority } => {
                let scheme = if tls.unwrap_or(self.tls) { "https" } else { "http" };
                format!("{scheme}://{authority}")
            }
            ConsulAddress::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// The host that is connected to, when there is one.
    pub fn host(&self) -> Option<String> {
        match &self.address {
            ConsulAddress::Tcp { authority, .. } => {
                let (host, _) = split_authority(authority);
                Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
            }
            ConsulAddress::Unix(_) => None,
        }
    }
}

/// `host` (IPv6 in brackets) and the rest: `:port` and a path, either of which may be missing.
fn split_authority(authority: &str) -> (&str, &str) {
    let end_of_host = if authority.starts_with('[') {
        authority.find(']').map_or(authority.len(), |at| at + 1)
    } else {
        authority.find([':', '/']).unwrap_or(authority.len())
    };
    authority.split_at(end_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str) -> ConsulEndpoint {
        ConsulEndpoint { address: address.parse().unwrap(), ..ConsulEndpoint::default() }
    }

    #[test]
    fn addresses_are_read_as_consuls_own_tools_read_them() {
        for (text, url) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://consul:8500/", "http://consul:8500"),
            ("https://consul.example:8501", "https://consul.example:8501"),
            ("https://proxy.example/consul", "https://proxy.example/consul"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("unix:///run/consul.sock", "http://localhost"),
        ] {
            assert_eq!(endpoint(text).base_url(), url);
        }
    }

    #[test]
    fn ssl_decides_for_an_address_that_does_not_say() {
        let mut bare = endpoint("consul:8501");
        bare.tls = true;
        assert_eq!(bare.base_url(), "https://consul:8501");
        let mut plain = endpoint("http://consul:8500");
        plain.tls = true;
        assert_eq!(plain.base_url(), "http://consul:8500");
    }

    #[test]
    fn the_server_name_goes_into_the_url_and_not_into_the_connection() {
        let mut tls = endpoint("https://10.0.0.1:8501");
        tls.tls_server_name = Some("server.dc1.consul".to_owned());
        assert_eq!(tls.base_url(), "https://server.dc1.consul:8501");
        assert_eq!(tls.host().as_deref(), Some("10.0.0.1"));
        assert_eq!(tls.display(), "https://10.0.0.1:8501");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "ftp://x", "unix://", "a b:1", "http://u@h:1"] {
            let error = text.parse::<ConsulAddress>().unwrap_err().to_string();
            assert!(error.contains("is no Consul address: write http://host:port"), "{error}");
        }
    }
}
