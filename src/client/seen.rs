//! What is known of a group's writer, and how it changes with each answer. Pure: values in, values out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::error::Error;
use crate::core::identity::address::Address;
use crate::core::known::observed::{StoreAnswer, StoredState};
use crate::core::published::projection::Layout;

/// Why there is no writer, where DNS alone was asked.
const NO_ANSWER: &str = "DNS has no such name";
/// The label behind the address in an SRV record's target, when the service's address is an IP.
const ADDR_LABEL: &str = "addr";

/// A group's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Writer {
    /// Where it listens.
    pub address: Address,
    /// +1 whenever the published writer changes, to or from none included. DNS does not have it.
    pub generation: Option<u64>,
    /// When the generation began, by the clock of the agent that published it. DNS does not have it.
    pub since: Option<SystemTime>,
}

/// `host:port`, as Redis clients take it.
impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What is known, and how fresh it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seen {
    /// The writer; none while there is no writer.
    pub writer: Option<Writer>,
    /// Why, in one sentence.
    pub why: String,
    /// What is wrong with the last answer, or with getting one. What is known stays as it was.
    pub trouble: Option<Error>,
    generation: Option<u64>,
    heard: Instant,
}

impl Seen {
    /// How long ago Consul said so last. When all is well it is asked every 10 s at least.
    pub fn age(&self) -> Duration {
        self.heard.elapsed()
    }
}

/// One answer that says which instance is the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WriterAnswer {
    writer: Option<Writer>,
    generation: Option<u64>,
    why: String,
}

/// All that was heard so far.
#[derive(Debug, Clone, Default)]
pub(super) struct LastAnswer {
    /// The last good answer.
    pub seen: Option<Seen>,
    /// Why there is none.
    pub trouble: Option<Error>,
}

impl LastAnswer {
    /// Takes in what came of asking, at this moment.
    pub fn take(&mut self, answer: Result<WriterAnswer, Error>, heard: Instant) {
        match (answer, &mut self.seen) {
            (Ok(WriterAnswer { writer, generation, why }), seen) => {
                *seen = Some(Seen { writer, why, trouble: None, generation, heard });
                self.trouble = None;
            }
            (Err(error), Some(seen)) => seen.trouble = Some(error),
            (Err(error), None) => self.trouble = Some(error),
        }
    }

    /// The generation that was read last.
    pub fn generation(&self) -> Option<u64> {
        self.seen.as_ref()?.generation
    }
}

/// The answer in a group's keys.
pub(super) fn in_keys(layout: &Layout, keys: &StoreAnswer) -> Result<WriterAnswer, Error> {
    match &keys.state {
        StoredState::Known(record) => Ok(WriterAnswer {
            writer: record.writer.as_ref().map(|writer| Writer {
                address: writer.address.clone(),
                generation: Some(record.generation),
                since: Some(record.since.into()),
            }),
            generation: Some(record.generation),
            why: record.why.clone(),
        }),
        StoredState::Absent => Err(Error::NothingPublished(layout.group.to_string())),
        StoredState::Unreadable(why) => {
            Err(Error::Unreadable(format!("the key {} cannot be used: {why}", layout.state())))
        }
    }
}

/// The answer in a name's SRV records.
pub(super) fn in_records(name: &str, records: &[(String, u16)]) -> Result<WriterAnswer, Error> {
    let unreadable = |what: &str| Error::Unreadable(format!("DNS says of `{name}`: {what}"));
    let writer = match records {
        [] => None,
        [(target, port)] => {
            let address = Address::new(&host(target), *port);
            let address = address.map_err(|error| unreadable(&error.to_string()))?;
            Some(Writer { address, generation: None, since: None })
        }
        // Never of ours; a name such as `redis.service.consul` is all instances.
        more => {
            return Err(unreadable(&format!("{} instances, and one is the writer", more.len())));
        }
    };
    let why = if writer.is_none() { NO_ANSWER } else { "DNS says so" };
    Ok(WriterAnswer { writer, generation: None, why: why.to_owned() })
}

/// The host that an SRV record's target stands for: the address that Consul has put into it
/// (`0a000001.addr.dc1.consul`, `docs/facts/consul.md` 3), or the name itself.
fn host(target: &str) -> String {
    let name = target.trim_end_matches('.');
    let mut labels = name.split('.');
    let (first, second) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    let ip = match first.len() {
        8 => u32::from_str_radix(first, 16).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        32 => {
            u128::from_str_radix(first, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    };
    ip.filter(|_| second == ADDR_LABEL).map_or_else(|| name.to_owned(), |ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(generation: u64, writer: Option<&str>) -> WriterAnswer {
        let writer = writer.map(|address| Writer {
            address: address.parse().unwrap(),
            generation: Some(generation),
            since: Some(SystemTime::UNIX_EPOCH),
        });
        WriterAnswer { writer, generation: Some(generation), why: "a test".to_owned() }
    }

    fn silent() -> Error {
        Error::Silent("no server is there".to_owned())
    }

    #[test]
    fn silence_takes_nothing_away_and_shows_its_age() {
        let now = Instant::now();
        let long_ago = now.checked_sub(Duration::from_secs(30)).unwrap();
        let mut picture = LastAnswer::default();
        picture.take(Err(silent()), long_ago);
        assert_eq!(picture.trouble, Some(silent()));
        assert!(picture.seen.is_none());
        picture.take(Ok(answer(7, Some("10.0.0.1:6379"))), long_ago);
        assert_eq!((picture.trouble.clone(), picture.generation()), (None, Some(7)));
        picture.take(Err(silent()), now);
        let seen = picture.seen.clone().unwrap();
        assert_eq!(seen.writer.as_ref().unwrap().to_string(), "10.0.0.1:6379");
        assert_eq!(seen.trouble, Some(silent()));
        assert!(seen.age() >= Duration::from_secs(30), "{:?}", seen.age());
        picture.take(Ok(answer(8, None)), now);
        let seen = picture.seen.unwrap();
        assert_eq!((seen.writer.clone(), seen.trouble.clone()), (None, None));
        assert!(seen.age() < Duration::from_secs(30), "{:?}", seen.age());
    }

    #[test]
    fn keys_without_a_record_are_no_answer() {
        let layout = Layout::new("redis-ha", &"cache".parse().unwrap());
        let none = StoreAnswer::from_keys(&layout, crate::core::time::Mono(1), []);
        let error = in_keys(&layout, &none).unwrap_err();
        assert_eq!(error, Error::NothingPublished("cache".to_owned()));
        let key = crate::core::known::observed::Key {
            key: layout.state(),
            value: b"{\"v\": 99}".to_vec(),
            modify_index: 1,
            locked: false,
        };
        let newer = StoreAnswer::from_keys(&layout, crate::core::time::Mono(1), [key]);
        let error = in_keys(&layout, &newer).unwrap_err().to_string();
        assert!(
            error.starts_with("the key redis-ha/cache/state cannot be used: written"),
            "{error}"
        );
    }

    #[test]
    fn dns_names_one_writer_or_none() {
        let of = |records: &[(&str, u16)]| {
            let records: Vec<_> = records.iter().map(|(t, p)| ((*t).to_owned(), *p)).collect();
            in_records("redis-primary.service.consul", &records)
        };
        let writer = |target: &str| of(&[(target, 6379)]).unwrap().writer.unwrap().to_string();
        assert_eq!(writer("0a000005.addr.dc1.consul."), "10.0.0.5:6379");
        let six = "fd000000000000000000000000000001.addr.dc1.consul.";
        assert_eq!(writer(six), "[fd00::1]:6379");
        assert_eq!(writer("redis-1.example."), "redis-1.example:6379");
        // A host may be called so.
        assert_eq!(writer("deadbeef.example."), "deadbeef.example:6379");
        assert_eq!(of(&[]).unwrap().writer, None);
        let two = of(&[("a.example.", 1), ("b.example.", 2)]).unwrap_err().to_string();
        let said = "DNS says of `redis-primary.service.consul`: 2 instances, and one is the writer";
        assert_eq!(two, said);
        assert!(of(&[("", 1)]).is_err());
    }
}
