//! Where Consul is, and under which prefix the keys are.

use std::path::PathBuf;

use secrecy::SecretString;
use toml::Spanned;

use super::{Resolver, pair, secret, text, together};
use crate::config::file::ConsulTable;
use crate::config::{ConfigError, DEFAULT_PREFIX};
use crate::consul::endpoint::{BadConsulAddress, ConsulEndpoint};
use crate::consul::login::ConsulLoginSettings;
use crate::secret::SecretSource;

impl Resolver<'_> {
    pub(super) fn consul(&self) -> Result<ConsulEndpoint, ConfigError> {
        let table: &ConsulTable = &self.file.consul;
        let (env, common) = (self.env, self.common);
        let mut endpoint = ConsulEndpoint::default();
        let bad = |error: BadConsulAddress| error.to_string();
        if let Some(address) = text(&common.http_addr) {
            endpoint.address = address.parse().map_err(bad).map_err(ConfigError::Usage)?;
        } else if let Some(address) = &table.address {
            endpoint.address = address
                .get_ref()
                .parse()
                .map_err(bad)
                .map_err(|what| self.source.contradiction(address, what))?;
        }
        let path = |name: &str| env(name).map(PathBuf::from);
        let in_file = |path: &Option<Spanned<PathBuf>>| path.as_ref().map(|p| p.get_ref().clone());
        endpoint.tls = self.flag("CONSUL_HTTP_SSL")?.unwrap_or(false);
        endpoint.tls_verify =
            self.flag("CONSUL_HTTP_SSL_VERIFY")?.or(table.tls_verify).unwrap_or(true);
        endpoint.ca_cert = path("CONSUL_CACERT").or_else(|| table.ca_cert.clone());
        endpoint.ca_path = path("CONSUL_CAPATH");
        endpoint.client_cert = pair(
            path("CONSUL_CLIENT_CERT").or_else(|| in_file(&table.client_cert)),
            path("CONSUL_CLIENT_KEY").or_else(|| in_file(&table.client_key)),
        )
        .ok_or_else(|| match table.client_cert.as_ref().or(table.client_key.as_ref()) {
            Some(half) => self.source.contradiction(half, together("client_cert and client_key")),
            None => ConfigError::Usage(together("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY")),
        })?;
        endpoint.tls_server_name =
            env("CONSUL_TLS_SERVER_NAME").or_else(|| table.tls_server_name.clone());
        endpoint.namespace = env("CONSUL_NAMESPACE").or_else(|| table.namespace.clone());
        endpoint.partition = env("CONSUL_PARTITION").or_else(|| table.partition.clone());
        let file = common.token_file.clone().filter(|path| !path.as_os_str().is_empty());
        // As Consul's own tools: a file goes before a token given outright.
        endpoint.token = secret(file, env("CONSUL_HTTP_TOKEN"))
            .or_else(|| table.token_file.clone().map(SecretSource::File))
            .unwrap_or(SecretSource::None);
        if let Some(auth) = env("CONSUL_HTTP_AUTH") {
            endpoint.http_auth = SecretSource::Value(SecretString::from(auth));
        }
        if let Some(settings) = self.consul_login(&endpoint.token)? {
            endpoint.login = Some(self.logins.login(&endpoint, settings));
        }
        Ok(endpoint)
    }

    /// The login that gives the token, where one is wanted.
    fn consul_login(
        &self,
        token: &SecretSource,
    ) -> Result<Option<ConsulLoginSettings>, ConfigError> {
        let (common, spanned) = (self.common, self.file.consul.login.as_ref());
        let table = spanned.map(Spanned::get_ref);
        let given = common.bearer_token_file.clone().filter(|path| !path.as_os_str().is_empty());
        let method =
            text(&common.login_method).or_else(|| table.and_then(|table| text(&table.method)));
        let file = given.or_else(|| table.and_then(|table| table.bearer_token_file.clone()));
        let wrong = |what: &str| match spanned {
            Some(spanned) => self.source.contradiction(spanned, what.to_owned()),
            None => ConfigError::Usage(what.to_owned()),
        };
        let (method, file) = match (method, file) {
            (Some(method), Some(file)) => (method, file),
            (None, None) if spanned.is_none() && common.login_meta.is_empty() => return Ok(None),
            _ => return Err(wrong("a login to Consul needs method and bearer_token_file")),
        };
        if token.is_some() {
            let named = match token {
                SecretSource::File(path) => format!("the one in {}", path.display()),
                SecretSource::Value(_) | SecretSource::None => "CONSUL_HTTP_TOKEN".to_owned(),
            };
            return Err(wrong(&format!(
                "a token ({named}) and a login to Consul contradict each other"
            )));
        }
        let mut meta = table.and_then(|table| table.meta.clone()).unwrap_or_default();
        if !common.login_meta.is_empty() {
            let pairs = common.login_meta.iter();
            meta = pairs.map(|pair| (pair.key.clone(), pair.value.clone())).collect();
        }
        Ok(Some(ConsulLoginSettings { method, bearer: SecretSource::File(file), meta }))
    }

    /// A variable that Consul's tools read as Go's `strconv.ParseBool` does.
    fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = (self.env)(name) else { return Ok(None) };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(ConfigError::Usage(format!("{name}={value}: write true or false"))),
        }
    }

    pub(super) fn prefix(&self) -> Result<String, ConfigError> {
        let flag = text(&self.common.prefix);
        let table = self.file.consul.prefix.as_ref().filter(|_| flag.is_none());
        let prefix = flag
            .or_else(|| table.map(|prefix| prefix.get_ref().clone()))
            .unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        let segment = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !part.is_empty() && part.bytes().any(|b| b != b'.') && part.bytes().all(allowed)
        };
        if prefix.split('/').all(segment) {
            return Ok(prefix);
        }
        let what = format!(
            "prefix `{prefix}` must be names of A-Z a-z 0-9 . _ - with slashes between them"
        );
        Err(table.map_or_else(
            || ConfigError::Usage(what.clone()),
            |prefix| self.source.contradiction(prefix, what.clone()),
        ))
    }
}
