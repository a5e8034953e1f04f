//! A name server for one scenario: A records from lines of a hosts file, and silence when it is told so.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Questions of type A.
const TYPE_A: u16 = 1;
/// Where a question begins.
const HEADER_LEN: usize = 12;

/// It answers for as long as the test's process lives.
pub struct NameServer {
    silent: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Answers at this address, of the names in `hosts`.
    pub fn start(at: IpAddr, port: u16, hosts: &str) -> Self {
        let mut names: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
        for line in hosts.lines() {
            let Some((ip, name)) = line.split_once(' ') else { continue };
            names.entry(name.to_owned()).or_default().push(ip.parse().unwrap());
        }
        let socket = UdpSocket::bind((at, port)).unwrap();
        let (silent, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (quiet, count) = (silent.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut question = [0; 1_500];
            while let Ok((len, from)) = socket.recv_from(&mut question) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer(&question[..len], &names);
                if let Some(answer) = answer.filter(|_| !quiet.load(Ordering::Relaxed)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { silent, asked }
    }

    /// It takes questions, and answers none any more.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// How many questions have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The answer to a question: RFC 1035, 4.1.
fn answer(question: &[u8], names: &BTreeMap<String, Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), HEADER_LEN);
    loop {
        let len = usize::from(*question.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    let end = at + 4;
    let found = names.get(&labels.join("."));
    let addresses = found.filter(|_| kind == TYPE_A).map(Vec::as_slice).unwrap_or_default();
    let code: u8 = if found.is_some() { 0 } else { 3 };
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(question.get(HEADER_LEN..end)?);
    for address in addresses {
        // The question's name, A, IN, for no time, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
