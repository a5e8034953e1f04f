//! `consul-redis check-config`: whether an agent could go by the config, before one does.

use std::collections::BTreeSet;
use std::path::Path;

use super::terminal::{Style, columns};
use crate::cli::Common;
use crate::config::{Config, ONLY_PUBLISHES};
use crate::core::doctor::short_down_after;
use crate::core::policy::Policy;
use crate::exit::{Exit, Failure};
use crate::reload::check_alone;
use crate::secret::SecretSource;
use crate::sentinel::login::Login;

/// Checks all settings, secrets, certificates and templates, connects to no server, and shows what they come to.
///
/// # Errors
/// A [`Failure`] that says what is wrong, and where.
pub fn run(config: Config, common: &Common) -> Result<(), Failure> {
    if config.only_renders() {
        super::render::renderer(&config)?;
    } else {
        check_alone(&config)?;
        check_sentinel_logins(&config)?;
    }
    let of = match &common.config {
        Some(file) => file.display().to_string(),
        None => "the command line and the environment".to_owned(),
    };
    let style = Style::of_stdout();
    let mut text = format!("{of}: {}\n", style.good("good"));
    columns(&mut text, "  ", rows(&config), style);
    for warning in warnings(&config) {
        text.push_str(&format!("  {}: {warning}\n", style.bold("warning")));
    }
    print!("{text}");
    Ok(())
}

/// No Sentinel could start again with a login that it cannot store.
fn check_sentinel_logins(config: &Config) -> Result<(), Failure> {
    for group in config.groups.iter().filter(|group| group.policy.tell_sentinels) {
        let Ok(Some(login)) = Login::read(&group.sentinel_auth) else { continue };
        if let Some(why) = login.not_storable() {
            let (name, named) = (&group.policy.group, login.named());
            let message = format!("group {name}: agents cannot give Sentinels {named}: {why}");
            let hint = "give Sentinels one of their own (auth_user, auth_password_file), or set tell_sentinels = false";
            return Err(Failure::new(Exit::Config, message).hint(hint));
        }
    }
    Ok(())
}

/// What an agent would go by, and what is unwise all the same.
fn warnings(config: &Config) -> Vec<String> {
    let warning = |policy: &Policy| {
        let ms = policy.settings.down_after_ms;
        let why = short_down_after(ms)?;
        Some(format!("group {}: down_after {}ms is {why}", policy.group, ms.unwrap_or_default()))
    };
    let open: BTreeSet<&Path> = config.secrets().filter_map(SecretSource::open_to_all).collect();
    let open = open.into_iter().map(|path| {
        let path = path.display();
        format!("every user may read the secret in {path}: chmod o-rwx {path}")
    });
    config.groups.iter().filter_map(|group| warning(&group.policy)).chain(open).collect()
}

fn rows(config: &Config) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut say = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    for group in &config.groups {
        let policy = &group.policy;
        let (name, level) = (policy.service.primary(), policy.publish.as_str());
        let only = if group.only_publishes() { ONLY_PUBLISHES } else { "" };
        say("group", format!("{} as {name}.service.consul, level {level}{only}", policy.group));
    }
    let listed = config.sources.listed.iter().map(ToString::to_string);
    let service = config.sources.consul_service.iter().map(|s| format!("those of service {s}"));
    if config.only_renders() {
        say("Sentinels", "none: for `consul-redis render`, and for no agent".to_owned());
    } else {
        say("Sentinels", listed.chain(service).collect::<Vec<_>>().join(", "));
    }
    say("Consul", config.consul.display());
    let redis = config.redis.iter().map(|redis| format!("Redis {}", redis.address));
    let sentinels = config.sentinels.iter().map(|local| format!("Sentinel {}", local.address));
    let local: Vec<String> = redis.chain(sentinels).collect();
    if !local.is_empty() {
        say("this host", local.join(", "));
    }
    if let Some(http) = &config.http {
        say("HTTP", http.listen.to_string());
    }
    for template in &config.templates {
        say("template", template.destination.display().to_string());
    }
    rows
}
