//! A question to Consul's DNS, and its answer: it shares nothing with the product's resolver.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Addresses.
    A,
    /// Hosts and ports.
    Srv,
}

const TYPE_A: u16 = 1;
const TYPE_SRV: u16 = 33;
/// The server has answered, or there is no such name.
const NO_ERROR: u16 = 0;
const NX_DOMAIN: u16 = 3;
/// A name that leads from one part of the message to another one more often than this is none.
const JUMPS_MAX: usize = 32;

/// Asks once. No entry for a name that does not exist; an address each, with a port for `Srv`.
pub async fn ask(
    server: SocketAddr,
    name: &str,
    asked: Asked,
    patience: Duration,
) -> Result<Vec<String>, String> {
    let kind = if asked == Asked::A { TYPE_A } else { TYPE_SRV };
    let mut query = vec![0x5a, 0x17, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).map_err(|error| error.to_string())?);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    let exchange = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(server).await?;
        socket.send(&query).await?;
        let mut bytes = vec![0; 4_096];
        let length = socket.recv(&mut bytes).await?;
        bytes.truncate(length);
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = timeout(patience, exchange).await.map_err(|_| "no answer in time".to_owned())?;
    let bytes = bytes.map_err(|error| error.to_string())?;
    parse(&bytes, asked).ok_or_else(|| "no DNS answer".to_owned())?
}

fn parse(bytes: &[u8], asked: Asked) -> Option<Result<Vec<String>, String>> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    match word(2)? & 0xf {
        NO_ERROR => {}
        NX_DOMAIN => return Some(Ok(Vec::new())),
        other => return Some(Err(format!("DNS refuses: {other}"))),
    }
    let (_, mut at) = name(bytes, 12)?;
    at += 4;
    let records = usize::from(word(6)?) + usize::from(word(8)?) + usize::from(word(10)?);
    let answers = usize::from(word(6)?);
    let (mut of, mut found, mut rows) = (BTreeMap::new(), Vec::new(), Vec::new());
    for number in 0..records {
        let (owner, next) = name(bytes, at)?;
        let (kind, length) = (word(next)?, usize::from(word(next + 8)?));
        let data = next + 10;
        if kind == TYPE_A {
            let four: [u8; 4] = bytes.get(data..data + 4)?.try_into().ok()?;
            let address = Ipv4Addr::from(four).to_string();
            if number < answers {
                found.push(address.clone());
            }
            of.insert(owner, address);
        } else if kind == TYPE_SRV {
            rows.push((name(bytes, data + 6)?.0, word(data + 4)?));
        }
        at = data + length;
    }
    if asked == Asked::Srv {
        found = rows
            .into_iter()
            .map(|(target, port)| format!("{}:{port}", of.get(&target).unwrap_or(&target)))
            .collect();
    }
    found.sort();
    found.dedup();
    Some(Ok(found))
}

/// A name, and what comes behind it.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut behind) = (String::new(), None);
    for _ in 0..JUMPS_MAX {
        let length = usize::from(*bytes.get(at)?);
        if length == 0 {
            return Some((text, behind.unwrap_or(at + 1)));
        }
        if length & 0xc0 == 0xc0 {
            behind = behind.or(Some(at + 2));
            at = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            continue;
        }
        text.push_str(&String::from_utf8_lossy(bytes.get(at + 1..at + 1 + length)?));
        text.push('.');
        at += 1 + length;
    }
    None
}
