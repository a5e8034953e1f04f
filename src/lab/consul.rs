//! A Consul of a lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::LabError;
use super::net::{TlsFiles, free_ports};
use super::process::{Life, Process};
use super::tools::Tool;
use super::wait::until;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::endpoint::ConsulEndpoint;
use crate::dns::Names;
use crate::secret::SecretSource;

/// The configuration of a Consul agent that the documentation recommends.
const RECOMMENDED: &str = include_str!("../../consul/consul-agent.hcl");
/// Where a server has it, in its directory.
const RECOMMENDED_FILE: &str = "consul-agent.hcl";
/// How long Consul may take to elect itself.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// One Consul server with its state on disk.
#[derive(Debug)]
pub struct ConsulServer {
    /// Where its HTTP API is, as CONSUL_HTTP_ADDR.
    pub http: SocketAddr,
    /// Where it speaks HTTPS, in a world with certificates.
    pub https: SocketAddr,
    /// The socket it speaks HTTP on as well.
    pub socket: PathBuf,
    /// Where its DNS is.
    pub dns: SocketAddr,
    tool: Tool,
    dir: PathBuf,
    life: Life,
    token: Option<String>,
    process: Option<Process>,
}

/// What a Consul is started from.
pub struct ConsulSpec<'a> {
    /// Its program.
    pub tool: Tool,
    /// The address it listens at.
    pub ip: Ipv4Addr,
    /// Where its directory is made.
    pub dir: &'a Path,
    /// Denies by default, and this token may do everything.
    pub master_token: Option<&'a str>,
    /// Speaks HTTPS too, and wants to see a certificate.
    pub tls: Option<&'a TlsFiles>,
    /// Runs checks that are scripts.
    pub script_checks: bool,
    /// One of several servers, each on an address of its own; `None` for a server that is alone.
    pub cluster: Option<ClusterSpec<'a>>,
    /// How long it lives.
    pub life: Life,
}

/// The cluster that a Consul server belongs to; its directory is named after the server.
pub struct ClusterSpec<'a> {
    /// The server's name in it.
    pub node: &'a str,
    /// All its servers.
    pub servers: &'a [Ipv4Addr],
    /// The ports of each of them, in the order of [`USUAL_PORTS`].
    pub ports: [u16; 6],
}

/// HTTP, DNS, server RPC, LAN and WAN gossip, HTTPS: as Consul numbers them.
pub const USUAL_PORTS: [u16; 6] = [8500, 8600, 8300, 8301, 8302, 8501];

impl ConsulSpec<'_> {
    fn config(&self, dir: &Path, socket: &Path, ports: [u16; 6]) -> Value {
        let [http, dns, server, serf_lan, serf_wan, https] = ports;
        let ip = self.ip.to_string();
        let alone = [self.ip];
        let servers = self.cluster.as_ref().map_or(&alone[..], |cluster| cluster.servers);
        let others = servers.iter().filter(|server| **server != self.ip);
        let node = self.cluster.as_ref().map_or("lab", |cluster| cluster.node);
        let mut config = json!({
            "server": true, "bootstrap_expect": servers.len(), "node_name": node,
            "retry_join": others.map(|other| format!("{other}:{serf_lan}")).collect::<Vec<_>>(),
            "retry_interval": "200ms",
            "data_dir": dir.join("data"), "bind_addr": ip,
            "client_addr": ip, "advertise_addr": ip,
            "addresses": {"http": format!("{ip} unix://{}", socket.display())},
            "disable_update_check": true, "log_level": "warn", "leave_on_terminate": false,
            "performance": {"raft_multiplier": 1},
            "enable_script_checks": self.script_checks,
            "ports": {"http": http, "dns": dns, "server": server, "serf_lan": serf_lan,
                      "serf_wan": serf_wan, "grpc": -1, "https": -1},
        });
        if let Some(tls) = self.tls {
            config["ports"]["https"] = json!(https);
            config["ca_file"] = json!(tls.ca);
            config["cert_file"] = json!(tls.cert);
            config["key_file"] = json!(tls.key);
            config["verify_incoming_https"] = json!(true);
        }
        if let Some(token) = self.master_token {
            // `initial_management` since 1.11; `master` is what 1.8 knows, and both still take.
            config["acl"] = json!({"enabled": true, "default_policy": "deny", "enable_key_list_policy": true,
                                   "tokens": {"master": token}});
        }
        config
    }
}

/// Ports for a Consul server on each of these addresses.
///
/// # Errors
/// When they cannot be had.
pub fn consul_ports(ips: &[Ipv4Addr]) -> Result<[u16; 6], LabError> {
    free_ports(ips, 6)?.try_into().map_err(|_| LabError::new("six ports expected"))
}

impl ConsulServer {
    /// Starts Consul.
    ///
    /// # Errors
    /// When it has no leader in time: with the end of its log.
    pub async fn start(spec: ConsulSpec<'_>) -> Result<Self, LabError> {
        let consul = Self::spawn(spec)?;
        consul.until_led().await?;
        Ok(consul)
    }

    /// Starts Consul and waits for nothing: a server of a cluster has no leader before others are there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(spec: ConsulSpec<'_>) -> Result<Self, LabError> {
        let name = spec.cluster.as_ref().map_or("consul", |cluster| cluster.node);
        let dir = spec.dir.join(name);
        std::fs::create_dir_all(dir.join("data"))?;
        let ports = match &spec.cluster {
            Some(cluster) => cluster.ports,
            None => consul_ports(&[spec.ip])?,
        };
        let [http, dns, _, _, _, https] = ports;
        let socket = dir.join("http.sock");
        std::fs::write(dir.join("config.json"), spec.config(&dir, &socket, ports).to_string())?;
        std::fs::write(dir.join(RECOMMENDED_FILE), RECOMMENDED)?;
        let mut consul = Self {
            http: SocketAddr::from((spec.ip, http)),
            https: SocketAddr::from((spec.ip, https)),
            socket,
            dns: SocketAddr::from((spec.ip, dns)),
            tool: spec.tool,
            dir,
            life: spec.life,
            token: spec.master_token.map(str::to_owned),
            process: None,
        };
        consul.run()?;
        Ok(consul)
    }

    /// Starts the process again on the state it left.
    ///
    /// # Errors
    /// When it has no leader in time: with the end of its log.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.run()?;
        self.until_led().await
    }

    fn run(&mut self) -> Result<(), LabError> {
        self.kill();
        let mut args = vec!["agent".to_owned()];
        for file in ["config.json", RECOMMENDED_FILE] {
            args.extend(["-config-file".to_owned(), self.dir.join(file).display().to_string()]);
        }
        self.process =
            Some(Process::start("consul", &self.tool, &args, &[], &self.dir, self.life)?);
        Ok(())
    }

    /// Waits until it has a leader that takes writes, and knows of ACLs where there are any.
    ///
    /// # Errors
    /// When it has none in time: with the end of its log.
    pub async fn until_led(&self) -> Result<(), LabError> {
        let client = self.client()?;
        let up = until("Consul has a leader", START_TIMEOUT, || async {
            let body = json!([{"KV": {"Verb": "set", "Key": "lab/started", "Value": "eWVz"}}]);
            client.put("/v1/txn", &[], Some(&body)).await?;
            if self.token.is_some() {
                // Followers are a moment in "legacy mode", and refuse policies.
                client.get::<Value>("/v1/acl/policies", &[]).await?;
            }
            Ok::<(), ConsulError>(())
        });
        match up.await {
            Ok(()) => Ok(()),
            Err(error) => Err(LabError(format!("{error}\n{}", self.log()))),
        }
    }

    /// The server that leads, as this one sees it.
    ///
    /// # Errors
    /// Without an answer, and while it knows of none.
    pub async fn leader(&self) -> Result<IpAddr, LabError> {
        let answer = self.client()?.get::<String>("/v1/status/leader", &[]).await;
        let leader = answer.map_err(LabError::new)?.value;
        let leader: SocketAddr = leader.parse().map_err(|_| LabError::new("no Consul leader"))?;
        Ok(leader.ip())
    }

    /// Kills it and throws its state away.
    ///
    /// # Errors
    /// When the state cannot be removed.
    pub fn wipe(&mut self) -> Result<(), LabError> {
        self.kill();
        std::fs::remove_dir_all(self.dir.join("data"))?;
        std::fs::create_dir_all(self.dir.join("data"))?;
        Ok(())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        match &self.process {
            Some(process) => process.signal(signal),
            None => Err(LabError("Consul does not run".to_owned())),
        }
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self) -> Result<Consul, LabError> {
        self.client_with(self.token.as_deref())
    }

    /// A client with a token.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client_with(&self, token: Option<&str>) -> Result<Consul, LabError> {
        let endpoint = ConsulEndpoint {
            address: self.http.to_string().parse().map_err(LabError::new)?,
            token: token.map_or(SecretSource::None, |token| {
                SecretSource::Value(secrecy::SecretString::from(token.to_owned()))
            }),
            ..ConsulEndpoint::default()
        };
        Consul::new(&endpoint).map_err(LabError::new)
    }

    /// A client of its DNS.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn names(&self) -> Result<Names, LabError> {
        Ok(Names::new(Some(self.dns)))
    }

    /// `host:port` of every healthy row of a service.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn passing(&self, service: &str) -> Result<Vec<String>, LabError> {
        let path = format!("/v1/health/service/{service}");
        let found: Value =
            self.client()?.get(&path, &[("passing", "")]).await.map_err(LabError::new)?.value;
        let row = |entry: &Value| {
            let service = &entry["Service"];
            format!("{}:{}", service["Address"].as_str().unwrap_or_default(), service["Port"])
        };
        let mut rows: Vec<String> = found.as_array().into_iter().flatten().map(row).collect();
        rows.sort();
        Ok(rows)
    }

    /// One key, as text; `None` when it does not exist.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn key(&self, key: &str) -> Result<Option<String>, LabError> {
        let client = self.client()?;
        let path = format!("/v1/kv/{key}");
        let answer = client
            .call(reqwest::Method::GET, &path, &[("raw", "")], None, Duration::from_secs(5))
            .await
            .map_err(LabError::new)?;
        match answer.status.as_u16() {
            404 => Ok(None),
            200 => Ok(Some(String::from_utf8_lossy(&answer.body).into_owned())),
            other => Err(LabError(format!("{other} for {key}"))),
        }
    }

    /// Creates a token with one policy, and returns it.
    ///
    /// # Errors
    /// When Consul refuses.
    pub async fn token(&self, name: &str, rules: &str) -> Result<String, LabError> {
        let client = self.client()?;
        let policy = json!({"Name": name, "Rules": rules});
        client.put("/v1/acl/policy", &[], Some(&policy)).await.map_err(LabError::new)?;
        let token = json!({"Description": name, "Policies": [{"Name": name}]});
        let body = client.put("/v1/acl/token", &[], Some(&token)).await.map_err(LabError::new)?;
        let answer: Value = serde_json::from_slice(&body).map_err(LabError::new)?;
        answer["SecretID"].as_str().map(str::to_owned).ok_or_else(|| LabError::new("no SecretID"))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The process id; `None` once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }
}
