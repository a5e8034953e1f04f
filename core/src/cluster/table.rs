//! One node's table of its cluster, as `CLUSTER NODES` answers it: the only answer that decides (`docs/facts/cluster.md`
//! 1.1).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::slots::{SLOTS, SlotRange};
use crate::brief::brief;
use crate::identity::address::Address;

/// Length of a node's id: 40 hexadecimal digits.
const ID_LEN: usize = 40;
/// How much of an id is shown to people.
const ID_LEN_SHOWN: usize = 8;
/// Nodes of one table that are read: Redis Cluster is made for 1,000 at most.
pub const NODES_MAX: usize = 1_024;

/// A node's own name, which it keeps at every address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The id in this text.
    ///
    /// # Errors
    /// Says so when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let right = text.len() == ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if right { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is no node id")) }
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    /// As much of it as tells two nodes apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..ID_LEN_SHOWN).unwrap_or(&self.0))
    }
}

/// What a table says that a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRole {
    /// `master`: it may own slots.
    Primary,
    /// `slave`, of this node.
    Replica(NodeId),
    /// Neither is known yet (`noflags`, `handshake`).
    Unknown,
}

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// Whose row it is.
    pub id: NodeId,
    /// Where it answers clients. None where the table has no address: a blank node's own row.
    pub address: Option<Address>,
    /// The port of its bus, where the table has one.
    pub bus_port: Option<u16>,
    /// What it is.
    pub role: TableRole,
    /// Flag `fail?` or `fail`: the table's node, or a majority, gets no answer from it.
    pub failing: bool,
    /// Flag `handshake` or `noaddr`: it is not, or no longer, linked as a member is.
    pub outside: bool,
    /// The link to it is up. `connected` is also said of one that is being made.
    pub linked: bool,
    /// The epoch of its claim to its slots: a greater one wins.
    pub config_epoch: u64,
    /// The slots that it owns.
    pub slots: Vec<SlotRange>,
    /// Slots are moving from it or to it: only in its own row.
    pub migrating: bool,
    /// Which, as far as that can be read.
    pub open: Vec<OpenSlot>,
}

/// A slot that moves from a node to another one, as one of the two has it in its own row. Valkey has it in those of their
/// replicas as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSlot {
    /// The slot.
    pub slot: u16,
    /// It comes from the other node.
    pub importing: bool,
    /// The other node.
    pub other: NodeId,
}

impl TableRow {
    /// The table shows it as a member that answers.
    pub fn is_well(&self) -> bool {
        !self.failing && !self.outside
    }
}

/// A node's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The node whose table it is.
    pub own: NodeId,
    /// What it says of every node that it knows, itself too.
    pub rows: BTreeMap<NodeId, TableRow>,
}

impl Table {
    /// Reads the answer to `CLUSTER NODES`.
    ///
    /// # Errors
    /// Says which line is not as Redis and Valkey write them, or that there is not one row with the flag `myself`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut own, mut rows) = (Vec::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.is_empty()).take(NODES_MAX) {
            let (row, myself) =
                row(line).map_err(|why| brief(&format!("{why}: {line}")).into_owned())?;
            own.extend(myself.then(|| row.id.clone()));
            rows.insert(row.id.clone(), row);
        }
        match <[NodeId; 1]>::try_from(own) {
            Ok([own]) => Ok(Self { own, rows }),
            Err(own) => Err(format!("one row with the flag `myself` expected, got {}", own.len())),
        }
    }

    /// Its own row.
    pub fn own_row(&self) -> Option<&TableRow> {
        self.rows.get(&self.own)
    }

    /// It knows no other node.
    pub fn is_alone(&self) -> bool {
        self.rows.len() == 1
    }

    /// The nodes that own slots.
    pub fn owners(&self) -> impl Iterator<Item = &TableRow> {
        self.rows.values().filter(|row| !row.slots.is_empty())
    }
}

/// One line: `<id> <ip:port@busport[,hostname…]> <flags> <primary or -> <ping> <pong> <epoch> <link> <slots…>`. Whether
/// it is the answering node's own.
fn row(line: &str) -> Result<(TableRow, bool), String> {
    let mut fields = line.split_whitespace();
    let mut next = |what: &str| fields.next().ok_or_else(|| format!("no {what}"));
    let id = NodeId::parse(next("id")?)?;
    let place = next("address")?;
    let (address, bus_port) = (address(place)?, bus_port(place));
    let flags: Vec<&str> = next("flags")?.split(',').collect();
    let (primary, _, _) = (next("primary")?, next("ping")?, next("pong")?);
    let epoch = next("epoch")?;
    let config_epoch = epoch.parse().map_err(|_| format!("`{epoch}` is no epoch"))?;
    let linked = next("link")? == "connected";
    let (moving, slots): (Vec<&str>, Vec<&str>) = fields.partition(|slots| slots.starts_with('['));
    let slots = slots.into_iter().map(str::parse).collect::<Result<Vec<SlotRange>, _>>()?;
    let has = |flag: &str| flags.contains(&flag);
    let role = match (has("master"), has("slave"), primary) {
        (true, ..) => TableRole::Primary,
        (_, true, primary) if primary != "-" => TableRole::Replica(NodeId::parse(primary)?),
        _ => TableRole::Unknown,
    };
    let row = TableRow {
        id,
        address,
        bus_port,
        role,
        failing: has("fail?") || has("fail"),
        outside: has("handshake") || has("noaddr"),
        linked,
        config_epoch,
        slots,
        migrating: !moving.is_empty(),
        open: moving.into_iter().filter_map(open_slot).collect(),
    };
    Ok((row, has("myself")))
}

/// `[93-<-<id>]` comes from that node, and `[77->-<id>]` goes to it.
fn open_slot(text: &str) -> Option<OpenSlot> {
    let text = text.strip_prefix('[')?.strip_suffix(']')?;
    let (importing, (slot, other)) = match text.split_once("-<-") {
        Some(parts) => (true, parts),
        None => (false, text.split_once("->-")?),
    };
    let slot = slot.parse().ok().filter(|slot| usize::from(*slot) < SLOTS)?;
    Some(OpenSlot { slot, importing, other: NodeId::parse(other).ok()? })
}

/// `10.0.0.5:6379@16379,name`. The address of IPv6 has no brackets, and a blank node's none at all.
fn address(text: &str) -> Result<Option<Address>, String> {
    let client = text.split(['@', ',']).next().unwrap_or_default();
    let (host, port) = client.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port"))?;
    if host.is_empty() {
        return Ok(None);
    }
    match port.parse() {
        // A node that was never reached, or that serves TLS alone and no other port.
        Ok(0) => Ok(None),
        Ok(port) => Address::new(host, port).map(Some).map_err(|error| error.to_string()),
        Err(_) => Err(format!("`{text}` has no valid port")),
    }
}

/// The port behind the `@`.
fn bus_port(text: &str) -> Option<u16> {
    let (_, bus) = text.split_once('@')?;
    bus.split(',').next()?.parse().ok().filter(|port| *port != 0)
}
