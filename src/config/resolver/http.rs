//! What the agent answers by HTTP, and whose DNS it asks.

use std::path::PathBuf;

use super::{Resolver, pair, text, together};
use crate::config::{
    CONSUL_DNS_PORT, ConfigError, DEFAULT_DNS_DOMAIN, DnsConfig, HttpConfig, HttpTls,
};
use crate::consul::endpoint::ConsulEndpoint;
use crate::core::identity::address::Address;
use crate::secret::SecretSource;

impl Resolver<'_> {
    /// Beyond this machine only with a token or client certificates: what it shows is a map of the group.
    pub(super) fn http(&self) -> Result<Option<HttpConfig>, ConfigError> {
        let (common, table) = (self.common, &self.file.http);
        let in_file = table.listen.as_ref().map(|listen| *listen.get_ref());
        let Some(listen) = common.listen.or(in_file) else { return Ok(None) };
        let wrong = |what: String| match (common.listen, &table.listen) {
            (None, Some(at)) => self.source.contradiction(at, what),
            _ => ConfigError::Usage(what),
        };
        let file = |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.clone().or(key.clone());
        let client_ca = file(&common.listen_client_ca, &table.client_ca);
        let cert = file(&common.listen_cert, &table.tls_cert);
        let key = file(&common.listen_key, &table.tls_key);
        let names = "tls_cert and tls_key (--listen-cert, --listen-key)";
        let tls = match pair(cert, key).ok_or_else(|| wrong(together(names)))? {
            Some((cert, key)) => Some(HttpTls { cert, key, client_ca }),
            None if client_ca.is_some() => {
                return Err(wrong(format!("client_ca asks for certificates, which needs {names}")));
            }
            None => None,
        };
        let token = file(&common.listen_token_file, &table.token_file);
        let asks = token.is_some() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !asks && !listen.ip().is_loopback() {
            let what = format!(
                "{listen} is open to others, and neither a token nor a client certificate is asked for"
            );
            return Err(wrong(what));
        }
        let token = token.map_or(SecretSource::None, SecretSource::File);
        Ok(Some(HttpConfig { listen, token, tls }))
    }

    /// The DNS of the Consul that is written to, unless another one is named.
    pub(super) fn dns(&self, consul: &ConsulEndpoint) -> Option<DnsConfig> {
        let (common, table) = (self.common, &self.file.dns);
        let check = common.dns_check.or(table.check).unwrap_or(true);
        let in_file = || table.servers.clone().unwrap_or_default();
        let named = if common.dns.is_empty() { in_file() } else { common.dns.clone() };
        // A Consul that is reached by a socket is on this machine.
        let host = consul.host().unwrap_or_else(|| "127.0.0.1".to_owned());
        let servers = match &named[..] {
            [] => Address::new(&host, CONSUL_DNS_PORT).into_iter().collect(),
            _ => named.clone(),
        };
        let domain = text(&common.dns_domain).or_else(|| table.domain.clone());
        let domain = domain.unwrap_or_else(|| DEFAULT_DNS_DOMAIN.to_owned());
        let part = |name: &Option<String>, kind: &str| {
            name.as_ref().map(|name| format!("{name}.{kind}.")).unwrap_or_default()
        };
        let tenancy = part(&consul.namespace, "ns") + &part(&consul.partition, "ap");
        let domain = domain.trim_matches('.').to_owned();
        let config = DnsConfig { servers, named: !named.is_empty(), domain, tenancy };
        (check && !config.servers.is_empty()).then_some(config)
    }
}
