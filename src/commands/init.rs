//! `consul-redis init`: looks at what is there, and writes a config file and the Consul policies that it needs.

use std::io::{BufRead, IsTerminal, Write as _};
use std::path::Path;

use super::terminal::Progress;
use crate::cli::{AgentMode, Common, InitArgs};
use crate::config::{Config, SentinelSources};
use crate::consul::client::Consul;
use crate::core::identity::address::{Address, GroupName, ServiceName};
use crate::core::published::projection::Layout;
use crate::core::published::sentinel_rows;
use crate::dns::Names;
use crate::exec::settings::REDIS_PORT;
use crate::exit::{Exit, Failure};
use crate::redis_link::{Link, LinkError};
use crate::secret::SecretSource;
use crate::sentinel::pool::find;
use crate::sentinel::query;

const AGENT_POLICY: &str = include_str!("../../consul/agent-policy.hcl");
const READER_POLICY: &str = include_str!("../../consul/reader-policy.hcl");

/// What was found out, and what is wanted.
struct Plan<'a> {
    config: &'a Config,
    sentinels: Vec<Address>,
    group: GroupName,
    service: ServiceName,
    /// The primary that the Sentinels name: the group is in use.
    primary: Option<Address>,
    /// Node mode: the host of this agent's Redis and Sentinel.
    host: Option<String>,
    prefix: String,
}

/// Writes the files.
///
/// # Errors
/// A [`Failure`] when no Sentinel is named, the group cannot be told, or a file is there already.
pub async fn run(config: Config, common: &Common, args: &InitArgs) -> Result<(), Failure> {
    let sentinels = match config.sources.listed.as_slice() {
        [] => asked_sentinels()?,
        listed => listed.to_vec(),
    };
    let found = look(&config, &sentinels).await?;
    let named = common.group.first();
    let group = match named {
        Some(flag) => flag.name.clone(),
        None => the_group(&found)?,
    };
    let service = match named.and_then(|flag| flag.service.clone()) {
        Some(service) => service,
        None => group.as_str().parse().map_err(|error| {
            Failure::new(Exit::Config, format!("{error}"))
                .hint(format!("give it a name in Consul: --group {group}=SERVICE"))
        })?,
    };
    let known = found.iter().find(|seen| seen.groups.contains(&group));
    let primary = match known {
        Some(seen) => seen.primary(&config, &group).await,
        None => None,
    };
    let host = (args.mode == AgentMode::Node).then(|| args.host.clone()).flatten();
    let prefix = config.prefix.clone();
    let plan = Plan { config: &config, sentinels, group, service, primary, host, prefix };
    let files = [
        ("consul-redis.toml", plan.config_file()?),
        ("agent-policy.hcl", plan.agent_policy()),
        ("reader-policy.hcl", plan.reader_policy()),
    ];
    if !args.force {
        for (name, _) in &files {
            must_be_free(&args.dir.join(name))?;
        }
    }
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(|error| cannot(&args.dir, error))?;
    for (name, text) in &files {
        let path = args.dir.join(name);
        std::fs::write(&path, text).map_err(|error| cannot(&path, error))?;
        println!("wrote {}", path.display());
    }
    plan.say_next(&args.dir);
    Ok(())
}

/// One Sentinel that answers.
struct SentinelSeen {
    at: Address,
    name: Option<String>,
    groups: Vec<GroupName>,
}

impl SentinelSeen {
    async fn open(config: &Config, at: &Address, name: Option<&str>) -> Result<Link, LinkError> {
        Link::open(at, &config.sentinel_login.clone().expecting(name)).await
    }

    /// The primary that it names.
    async fn primary(&self, config: &Config, group: &GroupName) -> Option<Address> {
        let mut link = Self::open(config, &self.at, self.name.as_deref()).await.ok()?;
        let id = query::identity(&mut link).await.ok()?;
        let answer = query::ask(&mut link, &id, group).await.ok()?;
        Some(answer.group?.primary)
    }
}

/// What each Sentinel that answers knows. That one does not answer is said, and no reason to stop.
async fn look(config: &Config, listed: &[Address]) -> Result<Vec<SentinelSeen>, Failure> {
    let _progress = Progress::new("asking the Sentinels");
    let names = Names::new(config.resolver);
    let consul = Consul::new(&config.consul)?;
    let sources = SentinelSources { listed: listed.to_vec(), ..config.sources.clone() };
    let (found, failures) = find(&sources, &names, &consul).await;
    for failure in failures {
        eprintln!("warning: {failure}");
    }
    let mut all = Vec::new();
    for (at, name) in found {
        let asked = async {
            let mut link = SentinelSeen::open(config, &at, name.as_deref()).await?;
            query::groups(&mut link).await
        };
        match asked.await {
            Ok(groups) => all.push(SentinelSeen { at, name, groups }),
            Err(error) => eprintln!("warning: Sentinel {at} does not answer: {error}"),
        }
    }
    Ok(all)
}

/// The only group that the Sentinels know.
fn the_group(found: &[SentinelSeen]) -> Result<GroupName, Failure> {
    let mut groups: Vec<&GroupName> = found.iter().flat_map(|seen| &seen.groups).collect();
    groups.sort();
    groups.dedup();
    match groups.as_slice() {
        [only] => Ok((*only).clone()),
        [] => {
            let message = format!("{} Sentinels answer, and none knows a group", found.len());
            Err(Failure::new(Exit::Failed, message)
                .hint("name the group: --group NAME, or --group NAME=SERVICE"))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|group| group.as_str()).collect();
            let message = format!("the Sentinels know several groups: {}", names.join(", "));
            Err(Failure::new(Exit::Config, message)
                .hint("name one: --group NAME; add a [[group]] for each further one"))
        }
    }
}

/// Asked on a terminal; else they have to be given.
fn asked_sentinels() -> Result<Vec<Address>, Failure> {
    let none = || {
        Failure::new(Exit::Config, "which Sentinels? none is given")
            .hint("for example: consul-redis init --sentinels 10.0.0.1:26379,10.0.0.2:26379")
    };
    if !std::io::stdin().is_terminal() {
        return Err(none());
    }
    print!("Sentinels (HOST:PORT, with commas between them): ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    let words = answer.split(',').map(str::trim).filter(|word| !word.is_empty());
    let parsed: Result<Vec<Address>, _> = words.map(str::parse).collect();
    let parsed = parsed.map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    if parsed.is_empty() { Err(none()) } else { Ok(parsed) }
}

/// A file that sets nothing, as the package brings it, may be replaced.
fn must_be_free(path: &Path) -> Result<(), Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::new(Exit::Failed, format!("{}: {error}", path.display())));
        }
    };
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if !text.lines().any(says) {
        return Ok(());
    }
    let message = format!("{} is there already; nothing was written", path.display());
    Err(Failure::new(Exit::Failed, message)
        .hint("write elsewhere with --dir, or over it with --force"))
}

impl Plan<'_> {
    fn config_file(&self) -> Result<String, Failure> {
        let quoted = |text: &str| format!("\"{}\"", text.escape_default());
        let listed: Vec<String> = self.sentinels.iter().map(|at| quoted(&at.to_string())).collect();
        let Self { config, group, service, .. } = self;
        let mut text = String::from(
            "# Written by `consul-redis init`. docs/config.md has every key.\n\
             # Check it after each change: consul-redis check-config; then: systemctl reload consul-redis\n\n[consul]\n",
        );
        text += &format!("address = {}\n", quoted(&config.consul.display()));
        if config.prefix != crate::config::DEFAULT_PREFIX {
            text += &format!("prefix = {}\n", quoted(&config.prefix));
        }
        match &config.consul.login {
            Some(login) => {
                let (method, file) =
                    (quoted(&login.settings.method), quoted(&login.settings.file()));
                text += &format!("login = {{ method = {method}, bearer_token_file = {file} }}\n");
            }
            None => text += &file_line("token_file", "consul-token", &config.consul.token),
        }
        text += &format!("\n[sentinels]\naddresses = [{}]\n", listed.join(", "));
        text += "\n# The logins. With users of their own, add `username` (docs/reference.md#redis-users).\n";
        text += "[instances]\n";
        text += &file_line("password_file", "redis-password", &config.instance_login.password);
        text += "\n[sentinels.login]\n";
        text += &file_line("password_file", "sentinel-password", &config.sentinel_login.password);
        text += &format!("\n[[group]]\nname = \"{group}\"       # what Sentinel calls it\n");
        text += &format!(
            "service = \"{service}\"    # {}.service.consul is the writer\n",
            service.primary()
        );
        match &self.primary {
            Some(primary) => {
                text += &format!(
                    "# The group is in use ({primary} leads): the agents publish, and change no instance and no Sentinel.\n\
                     # Remove the line once `consul-redis status` has been right for a while.\nmanage = false\n"
                );
            }
            None => {
                text += "# No Sentinel names a primary of this group yet.\n#manage = false\n";
            }
        }
        if let Some(host) = &self.host {
            let redis = Address::new(host, REDIS_PORT)
                .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
            text += &format!(
                "\n# Node mode: the servers of this host. The agent registers them on this host's Consul agent.\n\
                 [[redis]]\naddress = \"{redis}\"\n"
            );
            if let Some(sentinel) = self.sentinels.iter().find(|at| at.host() == host) {
                text += &format!("\n[[sentinel]]\naddress = \"{sentinel}\"\n");
            }
        }
        Ok(text)
    }

    /// The policy that is shipped, with this group's names.
    fn agent_policy(&self) -> String {
        let layout = Layout::new(&self.prefix, &self.group);
        let Self { group, service, prefix, .. } = self;
        let names = [
            ("\"redis-ha/redis/\"", format!("\"{}\"", layout.root())),
            ("\"redis-ha-redis\"", format!("\"{}\"", layout.node())),
            ("\"redis-ha-sentinels\"", format!("\"{}\"", sentinel_rows::node(prefix))),
            ("\"redis\"  ", format!("\"{service}\"")),
            ("\"redis-primary\"", format!("\"{}\"", service.primary())),
            ("\"redis-replica\"", format!("\"{}\"", service.replica())),
            ("\"redis-server\" ", format!("\"{}\"", service.server())),
            (
                "a group `redis` published as service `redis`",
                format!("the group `{group}` published as service `{service}`"),
            ),
        ];
        // A name that was put in is not looked at again.
        AGENT_POLICY.lines().map(|line| replaced(line, &names) + "\n").collect()
    }

    fn reader_policy(&self) -> String {
        let Self { service, prefix, .. } = self;
        let own = format!("service_prefix \"{service}\" {{ policy = \"read\" }}");
        let own = if service.as_str() == "redis" {
            own
        } else {
            format!("{own}\nservice \"redis-sentinel\" {{ policy = \"read\" }}")
        };
        let names = [
            ("service_prefix \"redis\" { policy = \"read\" }", own),
            ("\"redis-ha/\"", format!("\"{prefix}/\"")),
        ];
        READER_POLICY.lines().map(|line| replaced(line, &names) + "\n").collect()
    }

    fn say_next(&self, dir: &Path) {
        let Self { group, service, .. } = self;
        let dir = dir.display();
        match &self.primary {
            Some(primary) => println!("{group}: {primary} leads; manage = false for now"),
            None => println!("{group}: no Sentinel names a primary yet"),
        }
        println!("next, where Consul has ACLs:");
        println!(
            "  consul acl policy create -name consul-redis-agent -rules @{dir}/agent-policy.hcl"
        );
        println!("then, and on each machine with an agent:");
        println!("  consul-redis check-config --config {dir}/consul-redis.toml");
        println!("  consul-redis plan --config {dir}/consul-redis.toml");
        println!("  consul-redis agent --config {dir}/consul-redis.toml");
        println!("the writer is then {}.service.consul", service.primary());
    }
}

/// A key with the file that holds the secret, where one was given; else as an example.
fn file_line(key: &str, usual: &str, given: &SecretSource) -> String {
    match given {
        SecretSource::File(path) => {
            format!("{key} = \"{}\"\n", path.display().to_string().escape_default())
        }
        _ => format!("#{key} = \"/etc/consul-redis/{usual}\"    # mode 0600\n"),
    }
}

/// The line with the first name that is in it replaced; names of one line are replaced once, from left to right.
fn replaced(line: &str, names: &[(&str, String)]) -> String {
    match names.iter().find(|(old, _)| line.contains(old)) {
        Some((old, new)) => line.replacen(old, new, 1),
        None => line.to_owned(),
    }
}
