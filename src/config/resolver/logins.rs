//! How to log in to instances and to Sentinels.

use std::path::PathBuf;

use secrecy::SecretString;
use toml::Spanned;

use super::{Resolver, pair, secret, text, together};
use crate::config::ConfigError;
use crate::config::file::LoginTable;
use crate::redis_link::{LinkSettings, TlsSettings};
use crate::secret::SecretSource;

impl Resolver<'_> {
    pub(super) fn instance_login(&self) -> Result<LinkSettings, ConfigError> {
        let flags = &self.common.logins;
        let from_file = self.login(self.file.instances.as_ref(), LinkSettings::default())?;
        self.override_login(
            from_file,
            &flags.redis_username,
            "CONSUL_REDIS_PASSWORD",
            &flags.redis_password_file,
            TlsFlags {
                on: flags.redis_tls,
                ca_cert: &flags.redis_ca_cert,
                client_cert: &flags.redis_client_cert,
                client_key: &flags.redis_client_key,
                names: "--redis-client-cert and --redis-client-key",
            },
        )
    }

    pub(super) fn sentinel_login(&self) -> Result<LinkSettings, ConfigError> {
        let flags = &self.common.logins;
        let from_file = self.login(self.file.sentinels.login.as_ref(), LinkSettings::default())?;
        self.override_login(
            from_file,
            &flags.sentinel_username,
            "CONSUL_REDIS_SENTINEL_PASSWORD",
            &flags.sentinel_password_file,
            TlsFlags {
                on: flags.sentinel_tls,
                ca_cert: &flags.sentinel_ca_cert,
                client_cert: &flags.sentinel_client_cert,
                client_key: &flags.sentinel_client_key,
                names: "--sentinel-client-cert and --sentinel-client-key",
            },
        )
    }

    /// A login from the file, over `base`.
    pub(super) fn login(
        &self,
        table: Option<&Spanned<LoginTable>>,
        base: LinkSettings,
    ) -> Result<LinkSettings, ConfigError> {
        let Some(spanned) = table else { return Ok(base) };
        let table = spanned.get_ref();
        let wrong = |what: String| self.source.contradiction(spanned, what);
        let mut login = base;
        if table.username.is_some() {
            login.username.clone_from(&table.username);
        }
        match (&table.password_file, &table.password_env) {
            (Some(path), None) => login.password = SecretSource::File(path.clone()),
            (None, Some(name)) => {
                let value = (self.env)(name)
                    .ok_or_else(|| wrong(format!("password_env names {name}, which is not set")))?;
                login.password = SecretSource::Value(SecretString::from(value));
            }
            (Some(_), Some(_)) => {
                return Err(wrong("password_file and password_env exclude each other".to_owned()));
            }
            (None, None) => {}
        }
        let pair = pair(table.client_cert.clone(), table.client_key.clone())
            .ok_or_else(|| wrong(together("client_cert and client_key")))?;
        let mut tls = login.tls.clone().unwrap_or_default();
        let says = table.ca_cert.is_some() || pair.is_some() || table.server_name.is_some();
        tls.ca_cert = table.ca_cert.clone().or(tls.ca_cert);
        tls.client_cert = pair.or(tls.client_cert);
        tls.server_name = table.server_name.clone().or(tls.server_name);
        match table.tls {
            Some(false) if says => {
                return Err(wrong("tls = false, but certificates are given".to_owned()));
            }
            Some(false) => login.tls = None,
            Some(true) => login.tls = Some(tls),
            None if says || login.tls.is_some() => login.tls = Some(tls),
            None => {}
        }
        if let Some(timeout) = table.timeout {
            login.timeout = timeout.0;
        }
        Ok(login)
    }

    fn override_login(
        &self,
        mut login: LinkSettings,
        username: &Option<String>,
        password_env: &str,
        password_file: &Option<PathBuf>,
        tls: TlsFlags<'_>,
    ) -> Result<LinkSettings, ConfigError> {
        if let Some(username) = text(username) {
            login.username = Some(username);
        }
        let file = password_file.clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(password) = secret(file, (self.env)(password_env)) {
            login.password = password;
        }
        let pair = pair(tls.client_cert.clone(), tls.client_key.clone())
            .ok_or_else(|| ConfigError::Usage(together(tls.names)))?;
        if tls.on || tls.ca_cert.is_some() || pair.is_some() {
            let mut settings: TlsSettings = login.tls.unwrap_or_default();
            settings.ca_cert = tls.ca_cert.clone().or(settings.ca_cert);
            settings.client_cert = pair.or(settings.client_cert);
            login.tls = Some(settings);
        }
        if let Some(timeout) = self.common.logins.timeout {
            login.timeout = timeout.0;
        }
        Ok(login)
    }
}

struct TlsFlags<'a> {
    on: bool,
    ca_cert: &'a Option<PathBuf>,
    client_cert: &'a Option<PathBuf>,
    client_key: &'a Option<PathBuf>,
    names: &'static str,
}
