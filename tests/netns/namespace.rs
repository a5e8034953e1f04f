//! Network namespaces without names: each lives as long as its file is open or a process runs in it, so nothing is
//! left behind however a test ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Output};

use consul_redis::lab::LabError;
use consul_redis::lab::tools::{self, Tool};
use nix::sched::{CloneFlags, setns, unshare};

/// A network of its own.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing but its loopback.
    ///
    /// # Errors
    /// When this process may not make one: says what to do.
    pub fn new() -> Result<Self, LabError> {
        // On a thread of its own, which takes the way there with it.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
            File::open("/proc/thread-self/ns/net")
        });
        let made = made.join().map_err(|_| LabError::new("the thread panicked"))?;
        let namespace = made.map(Self).map_err(|error| {
            LabError(format!(
                "cannot make a network namespace: {error}\n\
                 hint: these tests need root, or what looks like it: \
                 unshare --map-root-user cargo nextest run --test netns"
            ))
        })?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The file that stands for it, for other programs.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Another handle of it, for another thread.
    ///
    /// # Errors
    /// When the system has no more files.
    pub fn handle(&self) -> Result<Self, LabError> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Moves the calling thread into it, with all threads and processes that the thread starts from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn enter(&self) -> Result<(), LabError> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(LabError::new)
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    /// When `ip` does.
    pub fn ip(&self, command: &str) -> Result<(), LabError> {
        self.run("ip", &tools::ip()?, &command.split(' ').collect::<Vec<&str>>())
    }

    /// Runs commands of `nft` in it.
    ///
    /// # Errors
    /// When `nft` does.
    pub fn nft(&self, commands: &str) -> Result<(), LabError> {
        self.run("nft", &tools::nft()?, &[commands])
    }

    fn run(&self, name: &str, tool: &Tool, args: &[&str]) -> Result<(), LabError> {
        let mut run = Command::new("nsenter");
        run.arg(format!("--net={}", self.path().display())).arg(&tool.path);
        if let Some(path) = &tool.library_path {
            run.env("LD_LIBRARY_PATH", path);
        }
        let Output { status, stderr, .. } = run.args(args).output()?;
        if status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&stderr);
        Err(LabError(format!("{name} {args:?}: {status}: {}", stderr.trim())))
    }
}

/// A switch, and a place on it from which everything is watched.
#[derive(Debug)]
pub struct Switch(Namespace);

impl Switch {
    /// A switch with one address of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(ip: Ipv4Addr) -> Result<Self, LabError> {
        let namespace = Namespace::new()?;
        namespace.ip("link add switch type bridge")?;
        namespace.ip(&format!("addr add {ip}/24 dev switch"))?;
        namespace.ip("link set switch up")?;
        Ok(Self(namespace))
    }

    /// Moves the calling thread to the switch.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn enter(&self) -> Result<(), LabError> {
        self.0.enter()
    }

    /// Connects a host at the port that is named after it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect(&self, port: &str, host: &Namespace, ip: Ipv4Addr) -> Result<(), LabError> {
        let there = host.path().display().to_string();
        self.0.ip(&format!("link add {port} type veth peer name eth0 netns {there}"))?;
        self.0.ip(&format!("link set {port} master switch up"))?;
        host.ip(&format!("addr add {ip}/24 dev eth0"))?;
        host.ip("link set eth0 up")
    }

    /// Takes a port down: whatever is sent there or comes from there is lost without a word.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, port: &str) -> Result<(), LabError> {
        self.0.ip(&format!("link set {port} down"))
    }

    /// Takes a port up again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn heal(&self, port: &str) -> Result<(), LabError> {
        self.0.ip(&format!("link set {port} up"))
    }
}
