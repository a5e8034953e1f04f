//! Asks Consul's DNS for each group's name, as a client would: after each switch until it answers what was published,
//! and every minute. [`crate::core::published::name_check`] compares.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::config::DnsConfig;
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::core::doctor::{NameAnswer, NameKind};
use crate::core::group::Published;
use crate::core::identity::address::{Address, GroupName};
use crate::core::published::name_check::{
    CheckResult, DnsAnswer, DnsVerdict, GRACE_MS, NameCheck, compare, problem, stale,
};
use crate::core::published::projection::Layout;
use crate::core::published::record::Record;
use crate::core::shown::status::{Problem, ProblemCode};
use crate::dns::Names;
use crate::meter::Meter;

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same of a server that the operator did not name, for a command: it is not to be waited for.
const UNNAMED_TIMEOUT: Duration = Duration::from_millis(500);
/// Questions of one agent at a time: each takes some 60 KB and three sockets.
const AT_ONCE_MAX: usize = 16;
/// Servers whose resolvers are kept.
const SERVERS_MAX: usize = 16;
/// Pause between two questions of a command that looks once.
const AGAIN: Duration = Duration::from_millis(100);

/// What is wrong with the answers, by server.
pub type Findings = BTreeMap<Address, Problem>;

/// The way of all groups' questions to the DNS servers: so many at a time, and one resolver for each server, which is
/// dearer to make than a question is to ask.
pub struct NameQuestions {
    places: Semaphore,
    resolvers: Mutex<BTreeMap<SocketAddr, Names>>,
}

impl Default for NameQuestions {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE_MAX), resolvers: Mutex::default() }
    }
}

impl NameQuestions {
    /// In its turn, asks `server` for `name`, a name of `domain`; in words why there is no answer.
    async fn ask(&self, server: &Address, name: &str, domain: &str) -> Result<DnsAnswer, String> {
        let _place = self.places.acquire().await;
        ask(server, name, domain, |at| self.resolver(at)).await
    }

    fn resolver(&self, at: SocketAddr) -> Names {
        let mut resolvers = self.resolvers.lock().unwrap_or_else(PoisonError::into_inner);
        // A server that is known by its name may be at another address each time.
        if resolvers.len() >= SERVERS_MAX && !resolvers.contains_key(&at) {
            resolvers.clear();
        }
        resolvers.entry(at).or_insert_with(|| Names::new(Some(at))).clone()
    }
}

/// Asks for one group's name.
pub struct Checker {
    /// The group whose name is looked up.
    pub group: GroupName,
    /// The DNS servers, and the domain.
    pub dns: DnsConfig,
    /// The clock of what was published.
    pub clock: Clock,
    /// The agent's metrics.
    pub meter: Meter,
    /// What is published.
    pub published: watch::Receiver<Option<Published>>,
    /// Grows when the servers are to be asked now, as on SIGHUP.
    pub look: watch::Receiver<u64>,
    /// The problems of each server, for `status`.
    pub findings: watch::Sender<Findings>,
    /// For the questions of all groups.
    pub questions: Arc<NameQuestions>,
    /// The least pause after an answer that is not right, in ms.
    pub pause_min_ms: u64,
    /// Where to say that the name was answered as it was published, with which generation.
    pub right: mpsc::Sender<u64>,
}

impl Checker {
    /// Asks every server until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let all = self.dns.servers.iter().map(|server| self.keep_asking(server));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = futures_util::future::join_all(all) => stop.cancelled().await,
        }
        // A name that is not asked any more is neither wrong nor right.
        self.findings.send_replace(Findings::new());
        for server in &self.dns.servers {
            self.meter.name_unasked(&self.group, server);
        }
    }

    /// Asks one server, until the group's loop, which says what is published, has ended.
    async fn keep_asking(&self, server: &Address) {
        let mut published = self.published.clone();
        let mut look = self.look.clone();
        let mut check = NameCheck::paced(self.pause_min_ms);
        loop {
            if let Some(published) = published.borrow_and_update().as_ref() {
                check.expect(published);
            }
            let name = check.published().map(|p| self.dns.name(&p.service.primary()));
            let question = async {
                let Some(name) = &name else { return std::future::pending().await };
                tokio::time::sleep_until(self.clock.instant(check.next_ask())).await;
                (name, self.questions.ask(server, name, &self.dns.domain).await)
            };
            // Cancel safe: an answer that comes after the next switch says nothing about it.
            let (name, answer) = tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Ok(()) = look.changed() => {
                    check.look(self.clock.now().mono);
                    continue;
                }
                answered = question => answered,
            };
            let now = self.clock.now();
            if let Some(heard) = check.hear(server, name, &answer, now) {
                self.tell(server, &check, &heard).await;
            }
        }
    }

    async fn tell(&self, server: &Address, check: &NameCheck, heard: &CheckResult) {
        self.meter.name_answered(&self.group, server, heard, check.problem());
        let switched =
            check.published().filter(|_| heard.first && heard.verdict == DnsVerdict::Right);
        if let Some(published) = switched {
            let Published { generation, writer, .. } = published;
            let shown = writer.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            match heard.first_after_promotion_ms {
                Some(ms) => info!(
                    "{}: DNS at {server} answers {shown}, generation {generation}, {ms} ms after promotion",
                    self.group
                ),
                None => debug!(
                    "{}: DNS at {server} answers {shown}, generation {generation}",
                    self.group
                ),
            }
            let _ = self.right.send(*generation).await;
        }
        // A server that the operator did not name may not be there at all.
        let found = check.problem().filter(|problem| counts(&self.dns, problem)).cloned();
        self.findings.send_if_modified(|findings| {
            let before = findings.get(server).map(|problem| problem.code);
            let after = found.as_ref().map(|problem| problem.code);
            match &found {
                Some(problem) if before != after => warn!("{}: {}", self.group, problem.text),
                None if before.is_some() => {
                    info!("{}: DNS at {server} answers what is published", self.group);
                }
                _ => {}
            }
            match found {
                Some(problem) => findings.insert(server.clone(), problem),
                None => findings.remove(server),
            };
            before != after
        });
    }
}

/// Silence is a problem only of a server that the operator named.
fn counts(dns: &DnsConfig, problem: &Problem) -> bool {
    dns.named || problem.code != ProblemCode::DnsSilent
}

/// Asks `server` for `name`, a name of `domain`, by the resolver for its address; in words why there is no answer.
async fn ask(
    server: &Address,
    name: &str,
    domain: &str,
    resolver: impl FnOnce(SocketAddr) -> Names,
) -> Result<DnsAnswer, String> {
    let asked = async {
        let names = resolver(socket(server).await?);
        names.service(name, domain).await.map_err(|error| error.to_string())
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// A name is looked up as Consul's own is: by this machine.
async fn socket(server: &Address) -> Result<SocketAddr, String> {
    if let Some(ip) = server.ip() {
        return Ok(SocketAddr::new(ip, server.port()));
    }
    let mut found =
        tokio::net::lookup_host((server.host(), server.port())).await.map_err(|e| e.to_string())?;
    found.next().ok_or_else(|| format!("{} has no address", server.host()))
}

/// Ends with the reason when no program listens at `server`. A question alone would wait for its deadline: it is sent
/// from a socket that is not connected, which gets no refusal.
async fn closed(server: &Address) -> String {
    let refused = async {
        let at = socket(server).await.ok()?;
        let local: SocketAddr = match at {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let probe = UdpSocket::bind(local).await.ok()?;
        probe.connect(at).await.ok()?;
        // No question, so that no answer is due.
        probe.send(&[]).await.ok()?;
        probe.recv(&mut [0; 1]).await.err()
    };
    match refused.await {
        Some(error) => error.to_string(),
        None => std::future::pending().await,
    }
}

/// One look, for commands that look once: what is wrong, and stays so for [`GRACE_MS`] while the record stays the same.
///
/// # Errors
/// [`ConsulError`] when Consul cannot be read again.
pub async fn look(
    dns: &DnsConfig,
    layout: &Layout,
    record: &Record,
    consul: &Consul,
    clock: &Clock,
) -> Result<Vec<Problem>, ConsulError> {
    let asked = dns.servers.iter().map(|server| until_right(dns, server, record, clock));
    let wrong: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    if wrong.is_empty() {
        return Ok(Vec::new());
    }
    let store = consul.group(layout, ReadMode::Consistent, clock).await?.value;
    // Another generation was published meanwhile, and the answers may be its.
    if store.record().is_none_or(|now| now.generation != record.generation) {
        return Ok(Vec::new());
    }
    let name = dns.name(&record.service.primary());
    let say = |(server, answer): (&Address, Result<DnsAnswer, String>)| {
        let age = answer.as_ref().ok().and_then(|a| stale(a, &store.history, clock.now().wall));
        problem(server, &name, &answer, record.writer_address(), age)
    };
    Ok(wrong.into_iter().map(say).filter(|problem| counts(dns, problem)).collect())
}

/// The last answer when none was right in time.
async fn until_right<'a>(
    dns: &DnsConfig,
    server: &'a Address,
    record: &Record,
    clock: &Clock,
) -> Option<(&'a Address, Result<DnsAnswer, String>)> {
    let name = dns.name(&record.service.primary());
    let is_right =
        |answer: &DnsAnswer| compare(record.writer_address(), answer) == DnsVerdict::Right;
    let answer = last_answer(dns, server, &name, clock, is_right).await;
    (!answer.as_ref().is_ok_and(is_right)).then_some((server, answer))
}

/// What every server answers for each name of a group: the first right answer, or the last one within [`GRACE_MS`].
pub async fn answers(dns: &DnsConfig, record: &Record, clock: &Clock) -> Vec<NameAnswer> {
    let ask = |server: &Address, kind: NameKind| {
        let (server, name) = (server.clone(), dns.name(&kind.label(&record.service)));
        async move {
            let is_right = |answer: &DnsAnswer| kind.is_right(record, answer);
            let answer = last_answer(dns, &server, &name, clock, is_right).await;
            NameAnswer { server, named: dns.named, kind, name, answer }
        }
    };
    let all = dns.servers.iter().flat_map(|server| NameKind::ALL.map(|kind| ask(server, kind)));
    futures_util::future::join_all(all).await
}

/// The first answer that is right, or the last one within [`GRACE_MS`].
async fn last_answer(
    dns: &DnsConfig,
    server: &Address,
    name: &str,
    clock: &Clock,
    is_right: impl Fn(&DnsAnswer) -> bool,
) -> Result<DnsAnswer, String> {
    let begun = clock.now().mono;
    loop {
        let patience = if dns.named { ANSWER_TIMEOUT } else { UNNAMED_TIMEOUT };
        // Cancel safe: a question that is not waited for any more.
        let answer = tokio::select! {
            answer = ask(server, name, &dns.domain, |at| Names::new(Some(at))) => answer,
            why = closed(server) => Err(why),
            () = tokio::time::sleep(patience) => Err("no answer in time".to_owned()),
        };
        let right = answer.as_ref().is_ok_and(&is_right);
        if right || answer.is_err() || clock.now().mono - begun >= GRACE_MS {
            return answer;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
