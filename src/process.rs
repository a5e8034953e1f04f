//! The process of an instance on this host. Its kernel gives a handle of it (`pidfd`) that becomes readable when it
//! ends, however it does, and at once.
//!
//! What answers at an address names its process id, which means nothing in another pid namespace. So the process must
//! own the socket that listens on the instance's port, in our own network. Whatever cannot be looked at is no proof,
//! and is said.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::core::identity::address::Address;
use crate::core::known::observed::{Death, ProcessState, ProofKind};
use crate::redis_link::{Fields, Link, LinkError, LinkSettings, id, text};
use crate::retry::Retry;

/// Pause before it is looked again for a process: the first and the longest one. One that was started again at once is
/// found soon.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often the list of sockets is read that lacks the one that is looked for, and the pause between.
const LOOKS_MAX: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The lists of this host's sockets.
const SOCKETS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// `TCP_LISTEN`, as those lists have it.
const LISTENS: &str = "0A";

/// What an instance says of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedProcess {
    /// The `run_id`.
    pub run_id: String,
    /// `process_id`, in its own pid namespace.
    pub pid: u32,
    /// The port that it listens on.
    pub port: u16,
}

/// A process that is known to be the instance's.
struct Handle {
    named: NamedProcess,
    kind: ProofKind,
    fd: AsyncFd<OwnedFd>,
}

/// Watches the process at an address, and the next one when it has ended. Another login counts from the next process
/// on. Ends when the receiver of the news has ended.
pub async fn watch_process(
    address: Address,
    login: watch::Receiver<LinkSettings>,
    clock: Clock,
    news: mpsc::Sender<Box<(Address, ProcessState)>>,
) {
    let mut retry = Retry::between(AGAIN.0, AGAIN.1);
    let mut said = None;
    loop {
        let settings = login.borrow().clone();
        match take(&address, &settings).await {
            Ok(Some(handle)) => {
                retry.reset();
                said = None;
                let NamedProcess { run_id, pid, .. } = handle.named.clone();
                let watched = ProcessState::Watched { run_id: run_id.clone(), pid };
                if news.send(Box::new((address.clone(), watched))).await.is_err() {
                    return;
                }
                if let Err(error) = handle.fd.ready(Interest::READABLE).await {
                    tracing::debug!(instance = %address, %error, "the handle of process {pid}");
                } else {
                    let at = clock.now().mono;
                    let death = Death { run_id, pid, kind: handle.kind, at };
                    let ended = ProcessState::Ended(death);
                    if news.send(Box::new((address.clone(), ended))).await.is_err() {
                        return;
                    }
                }
            }
            // It does not answer, or was started again meanwhile.
            Ok(None) => {}
            Err(why) if said.as_ref() == Some(&why) => {}
            Err(why) => {
                said = Some(why.clone());
                let unseen = ProcessState::Unseen(why);
                if news.send(Box::new((address.clone(), unseen))).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(retry.next_delay()).await;
    }
}

/// A handle of the process that answers at an address; `None` while none answers.
///
/// # Errors
/// Why its end could not be seen.
async fn take(address: &Address, settings: &LinkSettings) -> Result<Option<Handle>, String> {
    let Ok(mut link) = Link::open(address, settings).await else { return Ok(None) };
    let Ok(named) = ask(&mut link).await else { return Ok(None) };
    let fd = open(named.pid)?;
    let checked = named.clone();
    let kind =
        spawn_blocking(move || check(&checked)).await.map_err(|error| error.to_string())??;
    // The same process still answers: the handle is not of one that had the same id before or after it.
    match ask(&mut link).await {
        Ok(again) if again == named => Ok(Some(Handle { named, kind, fd })),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// What the instance says of its process.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn ask(link: &mut Link) -> Result<NamedProcess, LinkError> {
    let info = text(&link.call(&["INFO", "server"]).await?).map_err(LinkError::Unexpected)?;
    let fields = Fields::of_info(&info);
    let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u32>().ok());
    let named = || {
        Some(NamedProcess {
            run_id: id(fields.get("run_id")?).ok()?,
            pid: number("process_id")?,
            port: number("tcp_port")?.try_into().ok()?,
        })
    };
    named().ok_or_else(|| LinkError::Unexpected("INFO names no process".to_owned()))
}

/// Whether the end of the process that answers there would be seen from here; `None` where it does not answer.
pub async fn look(address: &Address, settings: &LinkSettings) -> Option<ProcessState> {
    let mut link = Link::open(address, settings).await.ok()?;
    let named = ask(&mut link).await.ok()?;
    let (run_id, pid) = (named.run_id.clone(), named.pid);
    let provable = spawn_blocking(move || is_provable(&named)).await.ok()?;
    Some(provable.map_or_else(ProcessState::Unseen, |()| ProcessState::Watched { run_id, pid }))
}

/// Whether the end of the process that an instance names could be seen from here.
///
/// # Errors
/// Why not, with what to do about it.
pub fn is_provable(named: &NamedProcess) -> Result<(), String> {
    open_fd(named.pid)?;
    check(named).map(|_| ())
}

#[expect(
    deprecated,
    reason = "an OwnedFd is one descriptor for as long as it lives; the newer way is unsafe code"
)]
fn open(pid: u32) -> Result<AsyncFd<OwnedFd>, String> {
    AsyncFd::with_interest(open_fd(pid)?, Interest::READABLE).map_err(|error| error.to_string())
}

fn open_fd(pid: u32) -> Result<OwnedFd, String> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| format!("{pid} is no process id"))?;
    pidfd_open(id, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH => elsewhere(pid),
        Errno::NOSYS => {
            "this kernel tells of no process (pidfd_open: Linux 5.3 and later)".to_owned()
        }
        other => format!("process {pid} cannot be watched (pidfd_open): {other}"),
    })
}

/// There is no such process any more, whatever `/proc` shows.
fn has_ended(pid: u32) -> bool {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    id.is_some_and(|id| test_kill_process(id) == Err(Errno::SRCH))
}

/// The process that answers is in another pid namespace.
fn elsewhere(pid: u32) -> String {
    format!(
        "process {pid}, which it names, is none of those that this agent sees: it runs in a container of its own. \
         Run the agent in the same pid namespace (`consul-redis exec` beside it)"
    )
}

/// The process owns a socket that listens on its port; what its end would be known by. The list of sockets is no
/// snapshot: on a host where many begin and end it may lack one, and is read again.
fn check(named: &NamedProcess) -> Result<ProofKind, String> {
    let mut looked = look_at(named);
    for _ in 1..LOOKS_MAX {
        match looked {
            Ok(None) => std::thread::sleep(LOOK_AGAIN),
            Ok(Some(kind)) => return Ok(kind),
            Err(why) => return Err(why),
        }
        looked = look_at(named);
    }
    looked?.ok_or_else(|| format!("{}, or in a network of its own", elsewhere(named.pid)))
}

/// The same by one look; `None` where the list lacks the socket.
fn look_at(named: &NamedProcess) -> Result<Option<ProofKind>, String> {
    let NamedProcess { pid, port, .. } = named;
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| match error.kind() {
        ErrorKind::NotFound if has_ended(*pid) => {
            format!("process {pid} ended before this agent had looked at it")
        }
        ErrorKind::NotFound => format!(
            "/proc does not show process {pid} (hidepid, or ProtectProc in the agent's unit): docs/packages.md"
        ),
        ErrorKind::PermissionDenied => format!(
            "the sockets of process {pid} are not to be seen: run the agent as the same user, or give it CAP_SYS_PTRACE \
             (docs/packages.md)"
        ),
        _ => format!("/proc/{pid}/fd: {error}"),
    })?;
    let lists: Vec<String> =
        SOCKETS.iter().filter_map(|list| std::fs::read_to_string(list).ok()).collect();
    if lists.is_empty() {
        return Err(format!("{} cannot be read", SOCKETS[0]));
    }
    let listening: BTreeSet<String> =
        lists.iter().flat_map(|list| list.lines()).filter_map(|row| listener(row, *port)).collect();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let mut sockets = links.filter_map(|link| link.to_str().map(str::to_owned));
    if !sockets.any(|socket| listening.contains(&socket)) {
        return Ok(None);
    }
    let ours = parent(*pid) == Some(std::process::id());
    Ok(Some(if ours { ProofKind::Child } else { ProofKind::Process }))
}

/// The name of the socket in a row of `/proc/net/tcp`, where it listens on this port.
fn listener(row: &str, port: u16) -> Option<String> {
    let mut words = row.split_ascii_whitespace();
    let (_, local, _, state) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (_, own) = local.rsplit_once(':')?;
    let listens = state == LISTENS && u16::from_str_radix(own, 16) == Ok(port);
    // tx:rx, timer, retransmits, uid, timeout, inode
    let inode = words.nth(5)?;
    listens.then(|| format!("socket:[{inode}]"))
}

/// The parent of a process: the second word after the name, which stands in parentheses and may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_meanwhile_is_not_hidden() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let named = NamedProcess { run_id: id("a1").unwrap(), pid, port: 6379 };
        let why = look_at(&named).unwrap_err();
        assert!(why.contains("ended before"), "{why}");
        let living = NamedProcess { pid: std::process::id(), ..named };
        assert_eq!(look_at(&living).map(|found| found.is_some()), Ok(false), "another port's");
    }

    #[test]
    fn the_socket_that_listens_on_the_port_is_found() {
        let row = "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21394 1 00 100 0";
        assert_eq!(listener(row, 6379).as_deref(), Some("socket:[21394]"));
        assert_eq!(listener(row, 6380), None);
        let connected = row.replace(" 0A ", " 01 ");
        assert_eq!(listener(&connected, 6379), None);
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue", 6379), None);
    }

    #[test]
    fn a_process_that_does_not_listen_there_is_not_the_instance() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (run_id, port) = ("a".to_owned(), listener.local_addr().unwrap().port());
        let own = NamedProcess { run_id, pid: std::process::id(), port };
        assert_eq!(is_provable(&own), Ok(()));
        // Process 1 is there, and listens on no such port.
        let other = NamedProcess { pid: 1, ..own.clone() };
        assert!(is_provable(&other).is_err());
        drop(listener);
        let why = is_provable(&own).unwrap_err();
        assert!(why.contains("container of its own"), "{why}");
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
