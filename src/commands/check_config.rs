//! `consul-redis check-config`: whether an agent could go by the config, before one does.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::terminal::{Style, columns};
use crate::cli::Common;
use crate::config::notify::NotifyWay;
use crate::config::template::TemplateConfig;
use crate::config::{ClusterConfig, Config, GroupConfig, ONLY_PUBLISHES};
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::cluster::slots::SLOTS;
use crate::core::doctor::short_down_after;
use crate::core::policy::Policy;
use crate::core::published::record::PublishedRole;
use crate::exit::{Exit, Failure};
use crate::reload::check_alone;
use crate::render::clusters::{ClusterValue, ShardValue};
use crate::render::context::{Context, GroupValue, InstanceValue};
use crate::render::endpoint::Endpoint;
use crate::render::engine::render;
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
    let templates = config.templates.iter().flat_map(|template| {
        let file = template.destination.display().to_string();
        let warn = move |what: String| format!("template {file}: {what}");
        template_warnings(template, config).into_iter().map(warn)
    });
    let notify = config.notify.iter().filter_map(|target| match &target.to {
        NotifyWay::Url(_) => None,
        NotifyWay::Command(command) => {
            let program = command.first().filter(|program| !is_program(program))?;
            let name = &target.name;
            Some(format!("notify {name}: it runs {program}, and there is no such program"))
        }
    });
    let groups = config.groups.iter().filter_map(|group| warning(&group.policy));
    groups.chain(open).chain(templates).chain(notify).collect()
}

/// What would keep a template from being rendered, put in place or followed by its command, as far as it is seen here
/// and now. No error: a directory or a program may come later, and an agent has another PATH.
fn template_warnings(template: &TemplateConfig, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let dir = template.destination.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
        found.push(format!("there is no directory {}", dir.display()));
    }
    for (key, command) in [("check", &template.check), ("command", &template.command)] {
        let program = command.as_ref().and_then(|command| command.first());
        if let Some(program) = program.filter(|program| !is_program(program)) {
            found.push(format!("its `{key}` runs {program}, and there is no such program"));
        }
    }
    let name = template.source.display().to_string();
    if let Ok(source) = std::fs::read_to_string(&template.source)
        && let Err(why) = render(&name, &source, &sample(&config.groups, &config.clusters))
    {
        found.push(format!("with a writer and two replicas, {why}"));
    }
    found
}

/// A file that may be executed: by its path, or on the PATH. Where there is no PATH, a name without a path is not
/// looked for.
fn is_program(program: &str) -> bool {
    let may_run = |path: &Path| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return may_run(Path::new(program));
    }
    let Some(path) = std::env::var_os("PATH") else { return true };
    std::env::split_paths(&path).any(|dir| may_run(&dir.join(program)))
}

/// What a template sees of healthy groups, at addresses that are for examples (TEST-NET-1).
fn sample(groups: &[GroupConfig], clusters: &[ClusterConfig]) -> Context {
    let host = |n: usize| format!("192.0.2.{n}");
    let endpoint = |n| Endpoint { address: format!("{}:6379", host(n)), host: host(n), port: 6379 };
    let instance = |(n, role)| InstanceValue {
        address: format!("{}:6379", host(n)),
        host: host(n),
        port: 6379,
        role,
    };
    let roles = [PublishedRole::Primary, PublishedRole::Replica, PublishedRole::Replica];
    let instances: Vec<InstanceValue> = (1..).zip(roles).map(instance).collect();
    let value = |group: &GroupConfig| {
        let name = group.policy.group.to_string();
        let value = GroupValue {
            name: name.clone(),
            service: group.policy.service.to_string(),
            writer: Some(endpoint(1)),
            replicas: vec![endpoint(2), endpoint(3)],
            generation: 1,
            since: "2026-01-01T00:00:00Z".to_owned(),
            why: "an example".to_owned(),
            instances: instances.clone(),
        };
        (name, value)
    };
    let shard = |number: u32, n: usize, slots: &str| ShardValue {
        number,
        slots: vec![slots.to_owned()],
        primary: Some(endpoint(n)),
        replicas: vec![endpoint(n + 2)],
    };
    let cluster = |cluster: &ClusterConfig| {
        let value = ClusterValue {
            name: cluster.policy.name.to_string(),
            service: cluster.policy.service.to_string(),
            seeds: (1..=4).map(endpoint).collect(),
            shards: vec![shard(1, 1, "0-8191"), shard(2, 2, "8192-16383")],
            zones: (1..=4).map(|n| (endpoint(n).address, Some("a-zone".to_owned()))).collect(),
            slots_served: SLOTS,
            generation: 1,
            since: "2026-01-01T00:00:00Z".to_owned(),
            why: "an example".to_owned(),
        };
        (value.name.clone(), value)
    };
    Context {
        groups: groups.iter().map(value).collect(),
        clusters: clusters.iter().map(cluster).collect(),
    }
}

/// Where the nodes of a cluster are found that has neither seeds nor a service.
const BESIDE_AGENTS: &str = "the nodes that agents stand beside";

fn rows(config: &Config) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let those_of = |service: &String| format!("those of service {service}");
    let mut say = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    for group in &config.groups {
        let policy = &group.policy;
        let (name, level) = (policy.service.primary(), policy.publish.as_str());
        let only = if group.only_publishes() { ONLY_PUBLISHES } else { "" };
        say("group", format!("{} as {name}.service.consul, level {level}{only}", policy.group));
    }
    for cluster in &config.clusters {
        let ClusterPolicy { name, service, .. } = &cluster.policy;
        let of_service = cluster.consul_service.iter().map(those_of);
        let seeds = cluster.seeds.iter().map(ToString::to_string).chain(of_service);
        let seeds = seeds.collect::<Vec<_>>().join(", ");
        let seeds = if seeds.is_empty() { BESIDE_AGENTS.to_owned() } else { seeds };
        say("cluster", format!("{name} as {service}.service.consul, from {seeds}"));
    }
    let listed = config.sources.listed.iter().map(ToString::to_string);
    let service = config.sources.consul_service.iter().map(those_of);
    if config.only_renders() {
        say("Sentinels", "none: for `consul-redis render`, and for no agent".to_owned());
    } else if !config.groups.is_empty() {
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
    for target in &config.notify {
        let of = target.events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ");
        let to = match &target.to {
            NotifyWay::Url(_) => "a URL",
            NotifyWay::Command(_) => "a command",
        };
        say("notify", format!("{}, {to}, of {of}", target.name));
    }
    rows
}
