//! A Redis Cluster of real nodes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::LabError;
use super::net::free_port;
use super::process::Life;
use super::redis::{LabServer, ServerSpec, patiently};
use super::tools;
use super::wait::until;
use super::world::World;
use crate::cluster::ask;
use crate::core::cluster::judgement::NodeAnswer;
use crate::core::cluster::slots::SLOTS;
use crate::core::cluster::table::TableRole;
use crate::core::identity::address::Address;
use crate::redis_link::LinkSettings;

/// How far from its port a node's bus listens.
const BUS_OFFSET: u16 = 10_000;
/// How long nodes may take to agree: 5 s on an idle machine (`docs/facts/cluster.md` 4).
const AGREE_TIMEOUT: Duration = Duration::from_secs(60);

/// Nodes of a cluster, or blank ones.
#[derive(Debug)]
pub struct LabCluster {
    /// Primaries first, each with slots, then the replica of each.
    pub nodes: Vec<LabServer>,
}

impl LabCluster {
    /// Starts blank nodes, each at an address of its own.
    ///
    /// # Errors
    /// When one does not answer in time.
    pub async fn start_blank(
        world: &mut World,
        names: &[&str],
        node_timeout_ms: u64,
    ) -> Result<Self, LabError> {
        let own = names.iter().map(|name| (*name, world.address())).collect::<Vec<_>>();
        Self::start_blank_at(world, &own, node_timeout_ms).await
    }

    /// Starts blank nodes with more in their configs, for which this is the lab's login.
    ///
    /// # Errors
    /// When one does not answer in time.
    pub async fn start_blank_with(
        world: &mut World,
        names: &[&str],
        node_timeout_ms: u64,
        more: &str,
        login: &LinkSettings,
    ) -> Result<Self, LabError> {
        let mut nodes = Vec::new();
        for name in names {
            let (ip, port) = (world.address(), None);
            let spec = NodeSpec { name, ip, port, node_timeout_ms, more, login };
            nodes.push(start_node(world.dir(), &spec).await?);
        }
        Ok(Self { nodes })
    }

    /// Starts blank nodes, each at an address that some of them may share.
    ///
    /// # Errors
    /// When one does not answer in time.
    pub async fn start_blank_at(
        world: &World,
        names: &[(&str, Ipv4Addr)],
        node_timeout_ms: u64,
    ) -> Result<Self, LabError> {
        let mut nodes = Vec::new();
        for (name, ip) in names {
            let spec = NodeSpec::plain(name, *ip, node_timeout_ms);
            nodes.push(start_node(world.dir(), &spec).await?);
        }
        Ok(Self { nodes })
    }

    /// Starts a node at this address, with more in its config: one of the same name goes on with what that had.
    ///
    /// # Errors
    /// When it does not answer in time, or the address is none of IPv4.
    pub async fn start_at(
        world: &World,
        name: &str,
        at: &Address,
        node_timeout_ms: u64,
        more: &str,
    ) -> Result<LabServer, LabError> {
        let ip = at.host().parse().map_err(LabError::new)?;
        let spec = NodeSpec::plain(name, ip, node_timeout_ms);
        start_node(world.dir(), &NodeSpec { port: Some(at.port()), more, ..spec }).await
    }

    /// Ends all of them, and starts each with what it had at an address that none of them had before.
    ///
    /// # Errors
    /// When one does not answer in time.
    pub async fn move_all(
        &mut self,
        world: &mut World,
        node_timeout_ms: u64,
    ) -> Result<(), LabError> {
        for node in &mut self.nodes {
            node.kill();
        }
        for node in &mut self.nodes {
            let name = node.name().to_owned();
            let spec = NodeSpec::plain(&name, world.address(), node_timeout_ms);
            *node = start_node(world.dir(), &spec).await?;
        }
        Ok(())
    }

    /// Makes a cluster of them: the first half own slots, and each of the others follows one of those.
    ///
    /// # Errors
    /// When they do not agree in time.
    pub async fn create(&self) -> Result<(), LabError> {
        let (primaries, replicas) = self.nodes.split_at(self.nodes.len() / 2);
        let share = SLOTS.div_ceil(primaries.len());
        for (index, node) in primaries.iter().enumerate() {
            let (first, end) = (index * share, ((index + 1) * share).min(SLOTS));
            let (first, last) = (first.to_string(), (end - 1).to_string());
            let epoch = (index + 1).to_string();
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
        }
        let [first, others @ ..] = &self.nodes[..] else { return Ok(()) };
        for node in others {
            first.meet(node).await?;
        }
        until("all nodes know one another", AGREE_TIMEOUT, || self.agree(|_, known| known)).await?;
        for (node, primary) in replicas.iter().zip(primaries) {
            let id = id(primary).await?;
            node.ask(&["CLUSTER", "REPLICATE", &id]).await?;
        }
        until("all nodes agree on who follows whom", AGREE_TIMEOUT, || {
            self.agree(|node, known| {
                let rows = node.table.rows.values();
                let follow = rows.filter(|row| matches!(row.role, TableRole::Replica(_))).count();
                let linked = node.link.as_ref().is_none_or(|link| link.up);
                known && node.state_ok && linked && follow == replicas.len()
            })
        })
        .await?;
        // Valkey 8.0.1 was seen not to start again with the file that it had a moment after this ("corrupted cluster
        // config file": a replica with another shard id than its primary): all of it is written once more, when each
        // node has as many shards as there are.
        let count = primaries.len();
        until("all nodes know who shares a shard", AGREE_TIMEOUT, || self.know_shards(count))
            .await?;
        for node in &self.nodes {
            node.ask(&["CLUSTER", "SAVECONFIG"]).await?;
        }
        Ok(())
    }

    async fn know_shards(&self, count: usize) -> Result<(), LabError> {
        for node in &self.nodes {
            let shards = match node.ask(&["CLUSTER", "SHARDS"]).await {
                Ok(shards) => shards,
                // Redis 6 knows of none.
                Err(error) if error.0.to_lowercase().contains("unknown subcommand") => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let found = crate::redis_link::list(&shards).map_err(LabError)?.len();
            if found != count {
                return Err(LabError(format!("{}: {found} shards", node.name())));
            }
        }
        Ok(())
    }

    async fn agree(&self, fits: impl Fn(&NodeAnswer, bool) -> bool) -> Result<(), LabError> {
        for node in &self.nodes {
            let answer =
                ask(&node.address, &patiently(&node.login)).await.map_err(LabError::new)?;
            let rows = &answer.table.rows;
            let known = rows.len() == self.nodes.len() && rows.values().all(|row| row.is_well());
            if !fits(&answer, known) {
                return Err(LabError(format!("{}: {answer:?}", node.name())));
            }
        }
        Ok(())
    }
}

/// What one node is started with.
struct NodeSpec<'a> {
    name: &'a str,
    ip: Ipv4Addr,
    /// `None`: one that is free.
    port: Option<u16>,
    node_timeout_ms: u64,
    /// More of its config: what is said twice, it takes from here.
    more: &'a str,
    login: &'a LinkSettings,
}

/// A server that asks for nothing.
static NO_LOGIN: LazyLock<LinkSettings> = LazyLock::new(LinkSettings::default);

impl<'a> NodeSpec<'a> {
    fn plain(name: &'a str, ip: Ipv4Addr, node_timeout_ms: u64) -> Self {
        Self { name, ip, port: None, node_timeout_ms, more: "", login: &NO_LOGIN }
    }
}

async fn start_node(dir: &Path, spec: &NodeSpec<'_>) -> Result<LabServer, LabError> {
    let NodeSpec { name, ip, port, node_timeout_ms, more, login } = spec;
    // Nothing else listens at this address, so the port of the bus is free as well.
    let port = port.map_or_else(|| free_port(&[*ip]), Ok)?;
    let config = format!(
        "bind {{ip}}\nport {{port}}\ndir {}\nsave \"\"\nappendonly no\nrepl-diskless-sync yes\n\
         repl-diskless-sync-delay 0\ncluster-enabled yes\ncluster-announce-ip {ip}\ncluster-config-file nodes.conf\n\
         cluster-node-timeout {node_timeout_ms}\n{more}",
        dir.join(name).display()
    );
    let host = ip.to_string();
    let tool = tools::redis_server_since("7.0")?;
    let (args, published, life) = (&[][..], None, Life::WithUs);
    let (config, login, ip) = (config.as_str(), (*login).clone(), IpAddr::V4(*ip));
    let spec =
        ServerSpec { name, tool, ip, host: &host, port, published, config, args, login, dir, life };
    LabServer::start(spec).await
}

/// A node's id.
///
/// # Errors
/// Without an answer.
pub async fn id(node: &LabServer) -> Result<String, LabError> {
    let answer = node.ask(&["CLUSTER", "MYID"]).await?;
    crate::redis_link::text(&answer).map_err(LabError)
}

impl LabServer {
    /// Has this node of a cluster meet another one.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn meet(&self, other: &Self) -> Result<(), LabError> {
        let (host, port) = (other.address.host(), other.address.port());
        let (bus, port) = ((port + BUS_OFFSET).to_string(), port.to_string());
        self.ask(&["CLUSTER", "MEET", host, &port, &bus]).await.map(|_| ())
    }
}
