//! The command line. What it says overrides the environment, which overrides the config file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::file::{LogFormat, Span};
use crate::core::identity::address::{Address, AddressError, GroupName, ServiceName, Zone};
use crate::core::policy::WantedQuorum;
use crate::core::published::record::Level;

/// What stands for a group's name in the help. Shells complete it (`completion`).
pub const GROUP: &str = "GROUP";
/// What stands for the name of a group or a cluster.
pub const GROUP_OR_CLUSTER: &str = "GROUP|CLUSTER";
/// What stands for a cluster, by its name or by its nodes.
pub const CLUSTER_OR_NODES: &str = "NAME|HOST:PORT";
/// The same as [`GROUP`] in `--group`.
pub const GROUP_FLAG: &str = "NAME[=SERVICE]";
/// The least time between two looks of `status --watch`, in ms.
const WATCH_EVERY_MIN_MS: u64 = 100;
/// The least time of a pause that ends by itself, in ms.
const PAUSE_MIN_MS: u64 = 1_000;

const EXIT_CODES: &str = "\
Exit codes:
  0   done; for status: every group and cluster is healthy; for doctor: no finding is an error
  1   failed while running
  2   status: a group or a cluster is not healthy; wait: it was not in time; doctor: a finding is an error
  3   status: one is degraded: it works, and a replica, a node or a Sentinel is missing
  64  the command line or the config is wrong; nothing was started
  69  Consul does not answer
  70  the agent lost one of its own parts
  77  Consul denies what is needed";

/// Keeps Consul pointing at the Redis writer.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What all commands share.
    #[command(flatten, next_help_heading = "Options of every command")]
    pub common: Common,
}

/// What is to be done: one of these, or an error that lists them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch Sentinels and keep Consul pointing at each group's writer
    Agent,
    /// Look at what is there, and write a config and the Consul policies for it
    Init(InitArgs),
    /// Check the config as an agent would, and show what it comes to; connect to no server
    CheckConfig,
    /// Run a Redis or a Sentinel with an agent beside it: a container's main process
    Exec(ExecArgs),
    /// Ask a Redis or a Sentinel whether it is alive: a container's health check
    Health(HealthArgs),
    /// Show who the writer is, since when, why, and how everything around it is; and how each Redis Cluster is
    Status(StatusArgs),
    /// Show who the writer was, since when, and why; of a Redis Cluster, what has changed
    History(HistoryArgs),
    /// Wait until a group has a writer, or replicas in sync, or a cluster serves every slot; print their addresses
    Wait(WaitArgs),
    /// Look for faults in Redis, Sentinel, Consul and DNS, and say what mends each
    Doctor(DoctorArgs),
    /// Show what an agent would do now and why, and change nothing
    Plan(PlanArgs),
    /// Render the config's templates from the groups' state, without an agent
    Render(RenderArgs),
    /// Take a group or a Redis Cluster out of Consul, leaving nothing behind
    Retire(RetireArgs),
    /// Make the Sentinels here those of a group that is published from others, after all its Sentinels were replaced
    Adopt(AdoptArgs),
    /// Move a group's primary on purpose, without losing a write
    Switchover(SwitchoverArgs),
    /// Show or change the Sentinel settings that agents keep on all Sentinels of a group
    Config(ConfigArgs),
    /// Keep an instance out of the names and from being chosen, or put it back
    Maintenance(MaintenanceArgs),
    /// Have all agents observe and publish, and change nothing else, for a while
    Pause(PauseArgs),
    /// End a pause
    Resume(ResumeArgs),
    /// Show which nodes of a Redis Cluster can take requests, and why the others cannot
    Cluster(ClusterArgs),
    /// Make the Sentinels forget a server that is gone for good now, and not after `forget_after`
    Forget(ForgetArgs),
    /// Write what a bug report needs into one file, without secrets
    SupportBundle(SupportBundleArgs),
    /// Start a small world of real servers, kill its primary, and show what happens
    Demo(DemoArgs),
    /// Print what a shell needs to complete this command line
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
}

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The address that others reach the server at
    /// [default: NOMAD_*, POD_IP, or the address of the interface that leads to Consul]
    #[arg(long, env = "CONSUL_REDIS_ANNOUNCE", value_name = "HOST[:PORT]")]
    pub announce: Option<String>,
    /// The volume that the server's config is kept on [default: the working directory]
    #[arg(long, env = "CONSUL_REDIS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where redis.conf and sentinel.conf are, when the command names none [default: none is needed]
    #[arg(long, env = "CONSUL_REDIS_CONF_DIR", value_name = "DIR")]
    pub conf_dir: Option<PathBuf>,
    /// How many Redis the first primary is chosen among, or a Redis Cluster is made of
    #[arg(long, env = "CONSUL_REDIS_EXPECT", value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub expect: Option<u16>,
    /// The Redis Cluster that this Redis is a node of, or joins; `--expect` blank nodes become that cluster
    #[arg(long, env = "CONSUL_REDIS_CLUSTER", value_name = "NAME")]
    pub cluster: Option<GroupName>,
    /// Let Sentinel look up names (`resolve-hostnames`), for addresses that are announced as names
    #[arg(long, env = "CONSUL_REDIS_RESOLVE_HOSTNAMES", value_parser = BoolishValueParser::new())]
    pub resolve_hostnames: bool,
    /// redis-server or redis-sentinel, with its config file and options
    /// [default: redis-server, or redis-sentinel where SENTINEL=1]
    #[arg(last = true, value_name = "COMMAND")]
    pub server: Vec<String>,
}

/// Options of `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The server to ask [default: 127.0.0.1:6379, or port 26379 where SENTINEL=1]
    #[arg(value_name = "HOST:PORT")]
    pub asked: Option<Address>,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The group or the cluster [default: all that are configured, or that Consul knows]
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub shown: Option<GroupName>,
    /// Print JSON (with --watch: one line a look)
    #[arg(long)]
    pub json: bool,
    /// Look again this often, until interrupted
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "1s", value_parser = every)]
    pub watch: Option<Span>,
}

/// Looks that follow one another at once would only ask for load.
fn every(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.as_ms() < WATCH_EVERY_MIN_MS {
        return Err(format!("at least {WATCH_EVERY_MIN_MS}ms"));
    }
    Ok(span)
}

/// Options of `cluster`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ClusterArgs {
    /// What else is to be known of a cluster.
    #[command(subcommand)]
    pub more: Option<ClusterCommand>,
    /// Nodes to begin with, where a name stands for all of its addresses; or a cluster that agents publish, by its name:
    /// then what is published is shown as well
    #[arg(value_name = CLUSTER_OR_NODES, required = true)]
    pub places: Vec<ClusterPlace>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `cluster` does besides.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show which of the blank nodes would own which slots, and who would follow whom
    Create(ClusterCreateArgs),
}

/// Options of `cluster create`.
#[derive(Debug, Args)]
pub struct ClusterCreateArgs {
    /// A cluster of the config, with `expect`
    #[arg(value_name = "NAME")]
    pub name: GroupName,
    /// Change nothing: agents make the cluster, as soon as all of its nodes are there
    #[arg(long, required = true)]
    pub plan: bool,
}

/// Where to look for a cluster.
#[derive(Debug, Clone)]
pub enum ClusterPlace {
    /// In the config or in Consul, under this name.
    Published(GroupName),
    /// At this node.
    Node(Address),
}

impl FromStr for ClusterPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return text.parse().map(Self::Node).map_err(|error: AddressError| error.to_string());
        }
        let named = text.parse().map(Self::Published);
        named.map_err(|_| format!("`{text}` is no cluster's name, and no node: write host:port"))
    }
}

/// Options of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The group or the cluster
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub shown: GroupName,
    /// Show each switch step by step, in ms: down, withdrawn, chosen, promoted, sent to Consul, in DNS, confirmed; of a
    /// cluster, each time in which slots had no primary
    #[arg(long, conflicts_with = "json")]
    pub steps: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The group or the cluster
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub awaited: GroupName,
    /// Wait for a writer, or for every slot of a cluster (what it does when nothing is said)
    #[arg(long, conflicts_with = "replicas")]
    pub primary: bool,
    /// Wait until this many replicas are in sync; of a cluster, in each shard
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub replicas: Option<u16>,
    /// Wait for this long at most; exit status 2 when it was not enough
    // Instead of the one of all commands: nothing that this one does would heed that.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: Span,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where they are written
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The group or the cluster [default: all that are configured, or that Consul knows]
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub examined: Option<GroupName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// How.
    #[command(flatten)]
    pub how: RenderHow,
}

/// One of the ways to render.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RenderHow {
    /// Bring every file up to date, run the commands that are due, and end
    #[arg(long)]
    pub once: bool,
    /// Keep every file up to date
    #[arg(long)]
    pub watch: bool,
    /// Print what would be rendered, and touch nothing
    #[arg(long)]
    pub print: bool,
}

/// Options of `retire`.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// The group or the cluster
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub retired: GroupName,
    /// Do it even though agents still watch it (they will publish it again)
    #[arg(long)]
    pub force: bool,
}

/// Options of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The group
    #[arg(value_name = GROUP)]
    pub adopted: GroupName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Options of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The group
    #[arg(value_name = GROUP)]
    pub configured: GroupName,
    /// quorum (a number or auto), down_after, failover_timeout, parallel_syncs, reboot_down_after; KEY= takes one
    /// away
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<SettingArg>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The group, or with --shard a Redis Cluster
    #[arg(value_name = GROUP)]
    pub moved: GroupName,
    /// The replica to become the primary [default: Sentinel's choice; of a shard, any that can take requests]
    #[arg(long, value_name = "HOST:PORT")]
    pub to: Option<Address>,
    /// The shard of the Redis Cluster, by its number
    #[arg(long, value_name = "NUMBER")]
    pub shard: Option<u32>,
    /// The owner of the shard is dead, and no replica was elected by itself: have one take over without it. What that one
    /// has not copied is lost
    #[arg(long, requires = "shard")]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print JSON, once it is over
    #[arg(long, requires = "yes")]
    pub json: bool,
}

/// Options of `maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// What to do
    #[arg(value_name = "on|off|list")]
    pub what: MaintenanceWhat,
    /// The instance [default: the only Redis of this host's config]
    #[arg(value_name = "HOST:PORT")]
    pub instance: Option<Address>,
    /// Print which are out as JSON; for on and off too, once it is done
    #[arg(long)]
    pub json: bool,
}

/// What `maintenance` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MaintenanceWhat {
    /// Take it out of service
    On,
    /// Put it back
    Off,
    /// Show which are out
    List,
}

/// Whom `pause` and `resume` are about.
#[derive(Debug, Args)]
pub struct PausedArgs {
    /// The group or the cluster [default: the only one that there is]
    #[arg(value_name = GROUP_OR_CLUSTER)]
    pub name: Option<GroupName>,
    /// All groups and clusters that there are now
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
}

/// Options of `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// What is paused.
    #[command(flatten)]
    pub paused: PausedArgs,
    /// End it by itself after so long, such as 2h [default: it does not end by itself]
    #[arg(long = "for", value_name = "TIME", value_parser = pause_time)]
    pub ends: Option<Span>,
    /// What it is for, for those who see it
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// Options of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// What is paused no more.
    #[command(flatten)]
    pub paused: PausedArgs,
}

fn pause_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.as_ms() < PAUSE_MIN_MS {
        return Err("at least 1s".to_owned());
    }
    Ok(span)
}

/// Options of `forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// The Redis or Sentinels that do not come back; those that are gone at one time are named together
    #[arg(value_name = "HOST:PORT", required = true)]
    pub gone: Vec<Address>,
}

/// Options of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// `remote`: an agent anywhere; `node`: an agent on a host with a Redis or a Sentinel of the group
    #[arg(long, value_name = "MODE", default_value = "remote")]
    pub mode: AgentMode,
    /// Node mode: the host of the Redis and the Sentinel that the agent runs beside, as the Sentinels know it
    #[arg(long, value_name = "HOST", required_if_eq("mode", "node"))]
    pub host: Option<String>,
    /// Where consul-redis.toml, agent-policy.hcl and reader-policy.hcl are written
    #[arg(long, value_name = "DIR", default_value = "/etc/consul-redis")]
    pub dir: PathBuf,
    /// Write over files that are there
    #[arg(long)]
    pub force: bool,
}

/// Where an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AgentMode {
    /// Anywhere; `observer` is the old word
    #[value(alias = "observer")]
    Remote,
    /// On a host with a Redis or a Sentinel
    Node,
}

/// Options of `support-bundle`.
#[derive(Debug, Args)]
pub struct SupportBundleArgs {
    /// The file to write; it must not exist
    #[arg(value_name = "FILE.tar.gz")]
    pub file: PathBuf,
    /// A log whose last lines go into it [default: the journal of the unit consul-redis]
    #[arg(long = "log-file", value_name = "FILE")]
    pub logs: Vec<PathBuf>,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave everything running, and print the commands to try
    #[arg(long)]
    pub keep: bool,
    /// Start from blank Redis, and Sentinels that know nothing, with an agent beside each Redis
    #[arg(long)]
    pub from_scratch: bool,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Config file (TOML) [default: /etc/consul-redis/consul-redis.toml, if it exists]
    #[arg(long, short, global = true, env = "CONSUL_REDIS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sentinels; a name stands for all its A and AAAA records
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_SENTINELS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub sentinels: Vec<Address>,
    /// Find Sentinels registered in Consul under this service
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_SERVICE", value_name = "NAME")]
    pub sentinel_service: Option<String>,
    /// Group to publish, and its Consul service where that has another name [default: redis]
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_GROUP",
        value_name = GROUP_FLAG,
        value_delimiter = ','
    )]
    pub group: Vec<GroupFlag>,
    /// How sure a publication must be: `promotion` (as soon as the replica chosen by an elected
    /// leader says it is the primary) or `quorum` (when a majority of the Sentinels names it)
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_PUBLISH",
        value_name = "LEVEL",
        value_parser = parse_level
    )]
    pub publish: Option<Level>,
    /// Consul, as CONSUL_HTTP_ADDR [default: 127.0.0.1:8500]
    #[arg(long, global = true, env = "CONSUL_HTTP_ADDR", value_name = "ADDRESS")]
    pub http_addr: Option<String>,
    /// File with Consul's ACL token, as CONSUL_HTTP_TOKEN_FILE
    #[arg(long, global = true, env = "CONSUL_HTTP_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Log in to Consul by this auth method, with the JWT in --bearer-token-file, instead of with a token
    #[arg(long, global = true, env = "CONSUL_REDIS_LOGIN_METHOD", value_name = "METHOD")]
    pub login_method: Option<String>,
    /// File with the JWT of --login-method, read again at each login
    #[arg(long, global = true, env = "CONSUL_REDIS_BEARER_TOKEN_FILE", value_name = "FILE")]
    pub bearer_token_file: Option<PathBuf>,
    /// What the description of the token that --login-method gives says
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_LOGIN_META",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub login_meta: Vec<MetaPair>,
    /// KV prefix, and first part of the synthetic nodes' names [default: redis-ha]
    #[arg(long, global = true, env = "CONSUL_REDIS_PREFIX", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The name this agent shows in `status` [default: host name and a random part]
    #[arg(long, global = true, env = "CONSUL_REDIS_ID", value_name = "ID")]
    pub id: Option<String>,
    /// The installation that the groups belong to: agents of another one, or of none, leave them alone
    #[arg(long, global = true, env = "CONSUL_REDIS_INSTALLATION", value_name = "NAME")]
    pub installation: Option<String>,
    /// Where this host stands, such as `eu-1a`: Redis Clusters are spread over zones, and rows have it as a tag
    #[arg(long, global = true, env = "CONSUL_REDIS_ZONE", value_name = "ZONE")]
    pub zone: Option<Zone>,
    /// Move this host's primaries away before stopping, up to 20 s [default: false; for exec: true]
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_HANDOVER",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub handover: Option<bool>,
    /// Show a status page by HTTP here, and answer /metrics, /status.json, /primary, /replica, /health, /healthz and
    /// /readyz
    #[arg(long, global = true, env = "CONSUL_REDIS_LISTEN", value_name = "IP:PORT", value_parser = socket)]
    pub listen: Option<SocketAddr>,
    /// File with the token that the page (as a password), /status.json and /metrics ask for
    #[arg(long, global = true, env = "CONSUL_REDIS_LISTEN_TOKEN_FILE", value_name = "FILE")]
    pub listen_token_file: Option<PathBuf>,
    /// Our certificate (PEM): --listen speaks HTTPS
    #[arg(long, global = true, env = "CONSUL_REDIS_LISTEN_CERT", value_name = "FILE")]
    pub listen_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_LISTEN_KEY", value_name = "FILE")]
    pub listen_key: Option<PathBuf>,
    /// Authorities (PEM) whose client certificates open what the token opens
    #[arg(long, global = true, env = "CONSUL_REDIS_LISTEN_CLIENT_CA", value_name = "FILE")]
    pub listen_client_ca: Option<PathBuf>,
    /// Consul's DNS, which is asked whether it answers what was published
    /// [default: the host of --http-addr, port 8600, if it answers]
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_DNS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub dns: Vec<Address>,
    /// Consul's domain [default: consul]
    #[arg(long, global = true, env = "CONSUL_REDIS_DNS_DOMAIN", value_name = "DOMAIN")]
    pub dns_domain: Option<String>,
    /// Ask DNS after each switch and every minute [default: true]
    #[arg(
        long,
        global = true,
        env = "CONSUL_REDIS_DNS_CHECK",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub dns_check: Option<bool>,
    /// Log level or filter [default: info]
    #[arg(long, global = true, env = "CONSUL_REDIS_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, global = true, env = "CONSUL_REDIS_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// How to reach Redis and Sentinel.
    #[command(flatten)]
    pub logins: Logins,
}

/// How to log in. Passwords come from files or from the environment variables
/// `CONSUL_REDIS_PASSWORD` and `CONSUL_REDIS_SENTINEL_PASSWORD`, never from the command line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Logins (passwords also by CONSUL_REDIS_PASSWORD and \
                               CONSUL_REDIS_SENTINEL_PASSWORD)")]
pub struct Logins {
    /// ACL user on Redis
    #[arg(long, global = true, env = "CONSUL_REDIS_USERNAME", value_name = "USER")]
    pub redis_username: Option<String>,
    /// File with its password
    #[arg(long, global = true, env = "CONSUL_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// Speak TLS to Redis
    #[arg(long, global = true, env = "CONSUL_REDIS_TLS", value_parser = BoolishValueParser::new())]
    pub redis_tls: bool,
    /// Authorities to trust for Redis (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_CACERT", value_name = "FILE")]
    pub redis_ca_cert: Option<PathBuf>,
    /// Our certificate for Redis (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_CLIENT_CERT", value_name = "FILE")]
    pub redis_client_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_CLIENT_KEY", value_name = "FILE")]
    pub redis_client_key: Option<PathBuf>,
    /// ACL user on Sentinels
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_USERNAME", value_name = "USER")]
    pub sentinel_username: Option<String>,
    /// File with its password
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    pub sentinel_password_file: Option<PathBuf>,
    /// Speak TLS to Sentinels
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_TLS", value_parser = BoolishValueParser::new())]
    pub sentinel_tls: bool,
    /// Authorities to trust for Sentinels (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_CACERT", value_name = "FILE")]
    pub sentinel_ca_cert: Option<PathBuf>,
    /// Our certificate for Sentinels (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_CLIENT_CERT", value_name = "FILE")]
    pub sentinel_client_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, env = "CONSUL_REDIS_SENTINEL_CLIENT_KEY", value_name = "FILE")]
    pub sentinel_client_key: Option<PathBuf>,
    /// DNS server for the names of Sentinels, ip:port [default: this machine's]
    #[arg(long, global = true, env = "CONSUL_REDIS_RESOLVER", value_name = "IP:PORT", value_parser = socket)]
    pub resolver: Option<SocketAddr>,
    /// Deadline for each connection and question [default: 500ms]
    #[arg(long, global = true, env = "CONSUL_REDIS_TIMEOUT", value_name = "TIME")]
    pub timeout: Option<Span>,
}

/// `KEY=VALUE`: of what a token's description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaPair {
    /// What it is called.
    pub key: String,
    /// What it says.
    pub value: String,
}

impl FromStr for MetaPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("`{text}`: write KEY=VALUE")),
        }
    }
}

/// `NAME` or `NAME=SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFlag {
    /// The group's name, as Sentinel has it.
    pub name: GroupName,
    /// Its service, when it is given.
    pub service: Option<ServiceName>,
}

impl FromStr for GroupFlag {
    type Err = crate::core::identity::address::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, service)) => {
                Ok(Self { name: name.parse()?, service: Some(service.parse()?) })
            }
            None => Ok(Self { name: text.parse()?, service: None }),
        }
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write ip:port, or [v6]:port".to_owned())
}

fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "promotion" => Ok(Level::Promotion),
        "quorum" => Ok(Level::Quorum),
        _ => Err("write promotion or quorum".to_owned()),
    }
}

/// One `KEY=VALUE` of the command line; an empty value takes the key away.
#[derive(Debug, Clone)]
pub enum SettingArg {
    /// `quorum`: how many Sentinels are to agree.
    Quorum(Option<WantedQuorum>),
    /// `down_after`, in ms.
    DownAfter(Option<u64>),
    /// `failover_timeout`, in ms.
    FailoverTimeout(Option<u64>),
    /// `parallel_syncs`
    ParallelSyncs(Option<u64>),
    /// `reboot_down_after`, in ms.
    RebootDownAfter(Option<u64>),
}

impl FromStr for SettingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("write KEY=VALUE, or KEY= to take it away")?;
        let value = Some(value).filter(|value| !value.is_empty());
        let span = || value.map(|v| v.parse().map(Span::as_ms)).transpose();
        let number = |value: &str| match value.parse::<u64>() {
            Ok(number) if (1..=1_000).contains(&number) => Ok(number),
            _ => Err(format!("`{value}` is no number from 1 to 1000")),
        };
        Ok(match key {
            "quorum" => Self::Quorum(match value {
                Some("auto") => Some(WantedQuorum::Auto),
                value => value.map(number).transpose()?.map(WantedQuorum::Fixed),
            }),
            "down_after" => Self::DownAfter(span()?),
            "failover_timeout" => Self::FailoverTimeout(span()?),
            "parallel_syncs" => Self::ParallelSyncs(value.map(number).transpose()?),
            "reboot_down_after" => Self::RebootDownAfter(span()?),
            _ => {
                let keys =
                    "quorum, down_after, failover_timeout, parallel_syncs, reboot_down_after";
                return Err(format!("`{key}` is none of {keys}"));
            }
        })
    }
}

/// The command line for which a variable that is set to nothing, as compose files do, is not set.
pub fn without_empty(command: clap::Command) -> clap::Command {
    fn of_one(mut command: clap::Command) -> clap::Command {
        let empty: Vec<clap::Id> = command
            .get_arguments()
            .filter(|arg| {
                arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
            })
            .map(|arg| arg.get_id().clone())
            .collect();
        for id in empty {
            command = command.mut_arg(id, |arg| arg.env(Resettable::Reset));
        }
        command
    }
    of_one(command).mut_subcommands(of_one)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
