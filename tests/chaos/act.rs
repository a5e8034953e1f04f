//! Does the faults to a world, and heals them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use consul_redis::lab::process::{Life, Process};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fault::{Drawn, Fault, HOSTS, Part, Round, Scope, Who};
use crate::history::{Note, Spell, Touches, host_of};
use crate::http::MANAGEMENT;
use crate::run::seconds;
use crate::world::{
    IPS, Mode, World, expect_text, name, program, set_clock, words, write_sentinel_config,
};

/// How long Consul may take to take back what was saved.
const RESTORE_WITHIN: Duration = Duration::from_secs(40);
/// How long a host's agent may be without a token once all is healed.
const TOKEN_WITHIN_S: u64 = 40;
/// The firewall of a fault that cuts.
const TABLE: &str = "chaos";
/// What fills a disk.
const FILLER: &str = "filler";
/// What Redis has on its disk.
const DATA: [&str; 2] = ["dump.rdb", "appendonlydir"];

/// A fault that is on.
#[derive(Debug, Clone)]
struct Active {
    drawn: Drawn,
    host: usize,
    parts: Vec<(Part, usize)>,
    spell: usize,
}

/// What does a round.
pub struct Act<'a> {
    world: &'a mut World,
    /// What was done.
    pub spells: Vec<Spell>,
    /// What happened, in words.
    pub notes: Vec<Note>,
    active: Vec<Active>,
    saved: Vec<u8>,
    restoring: Option<JoinHandle<Result<(), String>>>,
    moves: Vec<Process>,
    writer: usize,
}

impl<'a> Act<'a> {
    /// Saves what some faults bring back.
    pub async fn new(world: &'a mut World, writer: usize) -> Result<Self, String> {
        for host in 0..HOSTS {
            let _ = world.redis(host, &["SAVE"]).await;
            let (disk, stash) = (&world.hosts[host].disk, world.hosts[host].dir.join("stash"));
            let _ = std::fs::remove_dir_all(&stash);
            copy_data(disk, &stash)?;
        }
        let leader = world.consul_leader().await?;
        let url = format!("http://{}/v1/snapshot", world.places.at(leader, 8500));
        let saved = world.http.snapshot(&url).await?;
        let (spells, notes, active, moves) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { world, spells, notes, active, saved, restoring: None, moves, writer })
    }

    /// Does a round, and returns when all is healed.
    pub async fn run(&mut self, round: &Round) -> Result<(), String> {
        let begun = Instant::now();
        let mut steps: Vec<(u64, bool, Drawn)> = Vec::new();
        for drawn in &round.faults {
            steps.push((drawn.at_ms, true, *drawn));
            steps.push((drawn.at_ms + drawn.lasts_ms, false, *drawn));
        }
        steps.sort_by_key(|(at, ..)| *at);
        for (at, begins, drawn) in steps {
            sleep_until(begun + Duration::from_millis(at)).await;
            if begins {
                self.begin(drawn).await;
            } else if let Some(at) = self.active.iter().position(|one| one.drawn == drawn) {
                let active = self.active.remove(at);
                self.heal(&active).await?;
            }
        }
        if let Some(restoring) = self.restoring.take() {
            let restored = restoring.await.map_err(words)?;
            self.note(format!("Consul has taken back what was saved: {restored:?}"));
            restored?;
        }
        self.check_tokens().await
    }

    fn note(&mut self, what: String) {
        let at = self.world.places.now();
        println!("{:>9} s  {what}", seconds(at));
        self.notes.push(Note { at, what });
    }

    async fn begin(&mut self, drawn: Drawn) {
        let host = self.host(drawn.fault).await;
        let parts = parts(drawn.fault, host);
        let busy: BTreeSet<(Part, usize)> =
            self.active.iter().flat_map(|one| one.parts.iter().copied()).collect();
        if let Some((part, host)) = parts.iter().find(|part| busy.contains(part)) {
            let name = name(*host);
            return self
                .note(format!("left out {:?}: another fault has {part:?} {name}", drawn.fault));
        }
        let from = self.world.places.now();
        match self.inject(drawn.fault, host).await {
            Ok(said) => {
                let what = format!("{:?} at {}{said}", drawn.fault, name(host));
                self.note(what.clone());
                let (of, touches) = touches(drawn.fault);
                let host_of = of.then_some(host);
                let spell = self.spells.len();
                self.spells.push(Spell { from, until: u64::MAX, host: host_of, touches, what });
                self.active.push(Active { drawn, host, parts, spell });
            }
            Err(error) => {
                self.note(format!("left out {:?} at {}: {error}", drawn.fault, name(host)))
            }
        }
    }

    async fn heal(&mut self, active: &Active) -> Result<(), String> {
        let healed = self.undo(active.drawn.fault, active.host).await;
        let until = self.world.places.now();
        self.spells[active.spell].until = until;
        self.note(format!("  over: {:?} at {}", active.drawn.fault, name(active.host)));
        healed.map_err(|error| format!("{:?} cannot be healed: {error}", active.drawn.fault))
    }

    /// The host that a fault is done to.
    async fn host(&mut self, fault: Fault) -> usize {
        if let Ok(state) = self.world.state().await {
            let writer = &state["writer"];
            let writer = writer.as_str().or_else(|| writer["address"].as_str());
            self.writer = writer.and_then(host_of).unwrap_or(self.writer);
        }
        match fault {
            Fault::KillConsulLeader | Fault::FreezeConsulLeader => {
                self.world.consul_leader().await.unwrap_or(0)
            }
            Fault::KillConsul(host)
            | Fault::SentinelFailover(host)
            | Fault::SentinelReset(host)
            | Fault::SentinelRemove(host)
            | Fault::Switchover(host) => host,
            other => match other.takes().first() {
                Some((_, Scope::One(Who::Host(host)))) => *host,
                Some((_, Scope::One(Who::Writer))) => self.writer,
                _ => 0,
            },
        }
    }

    async fn inject(&mut self, fault: Fault, host: usize) -> Result<String, String> {
        not_in(self.world.spec.mode, fault)?;
        match fault {
            Fault::SentinelFailover(_) => self.on_sentinel(host, "FAILOVER").await,
            Fault::SentinelReset(_) => self.on_sentinel(host, "RESET").await,
            Fault::SentinelRemove(_) => self.on_sentinel(host, "REMOVE").await,
            Fault::Switchover(_) => self.switchover(host),
            Fault::RotatePassword => self.add_password().await,
            Fault::RevokeToken(_) => {
                let at = self.world.consul_leader().await?;
                self.world.revoke(host, at).await.map(|()| String::new())
            }
            Fault::CutOff(_)
            | Fault::CutIn(_)
            | Fault::CutOut(_)
            | Fault::CutPeers(_)
            | Fault::Lose(..)
            | Fault::Throttle(..)
            | Fault::DenyDns(_) => self.disturb(fault, host).map(|()| String::new()),
            _ => self.strike(fault, host).map(|()| String::new()),
        }
    }

    /// What is done to processes and their files.
    fn strike(&mut self, fault: Fault, host: usize) -> Result<(), String> {
        let one = &mut self.world.hosts[host];
        let dir = one.dir.clone();
        match fault {
            Fault::KillRedis(_) => one.redis.kill(),
            Fault::StopRedis(_) => one.redis.signal(Signal::SIGTERM, true)?,
            Fault::FreezeRedis(_) => one.redis.signal(Signal::SIGSTOP, false)?,
            Fault::EmptyRedis(_) => {
                one.redis.kill();
                remove_data(&one.disk);
            }
            Fault::OldRedis(_) => {
                one.redis.kill();
                remove_data(&one.disk);
                copy_data(&dir.join("stash"), &one.disk)?;
            }
            Fault::FillDisk(_) => fill(&one.disk),
            Fault::KillSentinel(_) => one.sentinel.kill(),
            Fault::FreezeSentinel(_) => one.sentinel.signal(Signal::SIGSTOP, false)?,
            Fault::BlankSentinel(_) => blank_sentinel(self.world, host)?,
            Fault::KillAgent(_) => self.each_agent(host, |agent| agent.kill()),
            Fault::FreezeAgent(_) => self.signal_agent(host, Signal::SIGSTOP)?,
            Fault::ReloadAgent(_) => self.signal_agent(host, Signal::SIGHUP)?,
            Fault::StepClock(_, seconds) => set_clock(&dir, seconds)?,
            Fault::KillConsul(_) | Fault::KillConsulLeader => one.consul.kill(),
            Fault::FreezeConsulLeader => one.consul.signal(Signal::SIGSTOP).map_err(words)?,
            Fault::KillHost(_) => self.kill_host(host),
            _ => return self.strike_all(fault),
        }
        Ok(())
    }

    fn strike_all(&mut self, fault: Fault) -> Result<(), String> {
        for host in 0..HOSTS {
            let one = &mut self.world.hosts[host];
            match fault {
                Fault::StopConsul => one.consul.kill(),
                Fault::RestoreConsul => one.consul.wipe().map_err(words)?,
                Fault::KillAllRedis => one.redis.kill(),
                Fault::KillAllSentinels => one.sentinel.kill(),
                Fault::BlankSentinels => blank_sentinel(self.world, host)?,
                Fault::KillAllAgents => self.each_agent(host, |agent| agent.kill()),
                Fault::KillAll => self.kill_host(host),
                other => return Err(format!("{other:?} is not known")),
            }
        }
        Ok(())
    }

    fn kill_host(&mut self, host: usize) {
        self.each_agent(host, |agent| agent.kill());
        let one = &mut self.world.hosts[host];
        one.redis.kill();
        one.sentinel.kill();
        one.consul.kill();
    }

    fn each_agent(&mut self, host: usize, act: impl Fn(&mut crate::server::Server)) {
        self.world.hosts[host].agent.as_mut().into_iter().for_each(act);
    }

    fn signal_agent(&self, host: usize, signal: Signal) -> Result<(), String> {
        let one = &self.world.hosts[host];
        match &one.agent {
            Some(agent) => agent.signal(signal, true),
            // Its agents are the processes that the servers are children of.
            None => {
                one.redis.signal(signal, true)?;
                one.sentinel.signal(signal, true)
            }
        }
    }

    /// What is done to a host's network.
    fn disturb(&self, fault: Fault, host: usize) -> Result<(), String> {
        let others = IPS.iter().enumerate().filter(|(number, _)| *number != host);
        let others: Vec<String> = others.map(|(_, ip)| ip.to_string()).collect();
        let others = others.join(", ");
        let (input, output) = match fault {
            Fault::CutOff(_) => return self.world.switch.cut(&name(host)).map_err(words),
            Fault::Throttle(_, kbit) => {
                let rate = format!("{kbit}kbit");
                let shape = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate];
                let shape = [&shape[..], &["burst", "16kb", "latency", "400ms"]].concat();
                return self.world.run_in(host, "tc", &shape);
            }
            Fault::CutIn(_) => ("iifname eth0 drop".to_owned(), None),
            Fault::CutOut(_) => {
                ("iifname none drop".to_owned(), Some("oifname eth0 drop".to_owned()))
            }
            Fault::CutPeers(_) => (
                format!("ip saddr {{ {others} }} drop"),
                Some(format!("ip daddr {{ {others} }} drop")),
            ),
            Fault::Lose(_, share) => {
                (format!("iifname eth0 numgen random mod 100 < {share} drop"), None)
            }
            _ => {
                ("udp dport 8600 drop; add rule inet chaos in tcp dport 8600 drop".to_owned(), None)
            }
        };
        let mut commands = format!(
            "add table inet {TABLE}; \
             add chain inet {TABLE} in {{ type filter hook input priority 0; }}; \
             add chain inet {TABLE} out {{ type filter hook output priority 0; }}; \
             add rule inet {TABLE} in {input}"
        );
        if let Some(output) = output {
            commands.push_str(&format!("; add rule inet {TABLE} out {output}"));
        }
        self.world.hosts[host].namespace.nft(&commands).map_err(words)
    }

    async fn undo(&mut self, fault: Fault, host: usize) -> Result<(), String> {
        let one = &mut self.world.hosts[host];
        match fault {
            Fault::StopRedis(_) => {
                one.redis.kill();
                one.redis.start()
            }
            Fault::KillRedis(_) | Fault::EmptyRedis(_) | Fault::OldRedis(_) => one.redis.start(),
            Fault::FreezeRedis(_) => one.redis.signal(Signal::SIGCONT, false),
            Fault::FillDisk(_) => std::fs::remove_file(one.disk.join(FILLER)).map_err(words),
            Fault::KillSentinel(_) | Fault::BlankSentinel(_) => one.sentinel.start(),
            Fault::FreezeSentinel(_) => one.sentinel.signal(Signal::SIGCONT, false),
            Fault::KillAgent(_) => start_agent(one),
            Fault::FreezeAgent(_) => self.signal_agent(host, Signal::SIGCONT),
            Fault::StepClock(..) => set_clock(&one.dir.clone(), 0),
            Fault::RevokeToken(_) => self.give_token(host).await,
            Fault::KillConsul(_) | Fault::KillConsulLeader => self.world.start_consul(host),
            Fault::FreezeConsulLeader => one.consul.signal(Signal::SIGCONT).map_err(words),
            Fault::CutOff(_) => self.world.switch.heal(&name(host)).map_err(words),
            Fault::Throttle(..) => {
                self.world.run_in(host, "tc", &["qdisc", "del", "dev", "eth0", "root"])
            }
            Fault::CutIn(_)
            | Fault::CutOut(_)
            | Fault::CutPeers(_)
            | Fault::Lose(..)
            | Fault::DenyDns(_) => {
                one.namespace.nft(&format!("delete table inet {TABLE}")).map_err(words)
            }
            Fault::RotatePassword => self.take_password().await,
            Fault::KillHost(_) => self.start_host(host),
            Fault::RestoreConsul => {
                self.undo_all(fault)?;
                self.restore();
                Ok(())
            }
            _ => self.undo_all(fault),
        }
    }

    fn undo_all(&mut self, fault: Fault) -> Result<(), String> {
        for host in 0..HOSTS {
            let one = &mut self.world.hosts[host];
            match fault {
                Fault::StopConsul | Fault::RestoreConsul => self.world.start_consul(host)?,
                Fault::KillAllRedis => one.redis.start()?,
                Fault::KillAllSentinels | Fault::BlankSentinels => one.sentinel.start()?,
                Fault::KillAllAgents => start_agent(one)?,
                Fault::KillAll => self.start_host(host)?,
                // Over at once.
                _ => {}
            }
        }
        Ok(())
    }

    fn start_host(&mut self, host: usize) -> Result<(), String> {
        self.world.start_consul(host)?;
        let one = &mut self.world.hosts[host];
        one.redis.start()?;
        one.sentinel.start()?;
        start_agent(one)
    }

    async fn on_sentinel(&self, host: usize, command: &str) -> Result<String, String> {
        let said = self.world.sentinel(host, &["SENTINEL", command, "redis"]).await?;
        Ok(format!(", which says {said:?}"))
    }

    fn switchover(&mut self, host: usize) -> Result<String, String> {
        let one = &self.world.hosts[host];
        let config = one.dir.join("agent.toml").display().to_string();
        let args = ["switchover", "redis", "--yes", "--config", &config].map(str::to_owned);
        let tool = program().within(&one.namespace.path());
        let env = self.world.env(host);
        let begun = Process::start("switchover", &tool, &args, &env, &one.dir, Life::WithUs);
        self.moves.push(begun.map_err(words)?);
        Ok(String::new())
    }

    /// Has Consul take back what was saved, as soon as it is led.
    fn restore(&mut self) {
        let (http, places, saved) =
            (self.world.http.clone(), self.world.places.clone(), self.saved.clone());
        self.restoring = Some(tokio::spawn(async move {
            let end = Instant::now() + RESTORE_WITHIN;
            loop {
                let url = |path: &str| format!("http://{}{path}", places.at(0, 8500));
                let leader = http.get(&url("/v1/status/leader"), MANAGEMENT).await;
                let led = matches!(&leader, Ok(Some(Value::String(at))) if !at.is_empty());
                let restored = match led {
                    true => http.restore(&url("/v1/snapshot"), saved.clone()).await,
                    false => Err(format!("no leader: {leader:?}")),
                };
                match restored {
                    Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
                    other => return other,
                }
            }
        }));
    }

    async fn give_token(&mut self, host: usize) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(TOKEN_WITHIN_S);
        loop {
            let given = match self.world.consul_leader().await {
                Ok(at) => self.world.new_token(host, at).await,
                Err(error) => Err(error),
            };
            match given {
                // Later, when all else is healed.
                Err(_) if self.restoring.is_some() || !self.active.is_empty() => return Ok(()),
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
                other => return other,
            }
        }
    }

    /// A token that was made after what Consul has taken back is none any more: the operator makes another one.
    async fn check_tokens(&mut self) -> Result<(), String> {
        for host in 0..HOSTS {
            let end = Instant::now() + Duration::from_secs(TOKEN_WITHIN_S);
            loop {
                let dir = &self.world.hosts[host].dir;
                let token = std::fs::read_to_string(dir.join("token")).map_err(words)?;
                let url = format!("http://{}/v1/acl/token/self", self.world.places.at(host, 8500));
                match self.world.http.get(&url, &token).await {
                    Ok(Some(_)) => break,
                    Err(error) if error == "403" => {
                        self.give_token(host).await?;
                        self.note(format!("{} gets another token", name(host)));
                        break;
                    }
                    other if Instant::now() > end => return Err(format!("no token: {other:?}")),
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
        }
        Ok(())
    }

    /// Both passwords are valid from here on.
    async fn add_password(&mut self) -> Result<String, String> {
        self.world.password.1 += 1;
        let new = format!("redis-password-8b31-{}", self.world.password.1);
        self.world.secrets.push(new.clone());
        let add = format!(">{new}");
        for host in 0..HOSTS {
            expect_text(self.world.redis(host, &["ACL", "SETUSER", "default", &add]).await?)?;
        }
        for host in 0..HOSTS {
            let set = ["CONFIG", "SET", "masterauth", &new];
            expect_text(self.world.redis(host, &set).await?)?;
            std::fs::write(self.world.hosts[host].dir.join("password"), &new).map_err(words)?;
        }
        for host in 0..HOSTS {
            // One that does not know the group just now gets it from an agent.
            let _ =
                self.world.sentinel(host, &["SENTINEL", "SET", "redis", "auth-pass", &new]).await;
        }
        Ok(String::new())
    }

    /// Only the new one is.
    async fn take_password(&mut self) -> Result<(), String> {
        let new = format!("redis-password-8b31-{}", self.world.password.1);
        let end = Instant::now() + Duration::from_secs(TOKEN_WITHIN_S);
        for host in 0..HOSTS {
            loop {
                let set = self.world.redis(host, &["CONFIG", "SET", "requirepass", &new]).await;
                let set = set.and_then(expect_text);
                match set {
                    Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
                    other => break other?,
                }
            }
            // The others have the old one yet.
            let at = self.world.places.at(host, 6379);
            let save = ["CONFIG", "REWRITE"];
            let saved = crate::resp::ask(at, Some(&new), Duration::from_secs(2), &save).await;
            saved.map_err(|fail| fail.text().to_owned()).and_then(expect_text)?;
        }
        self.world.password.0.send(new).map_err(words)
    }
}

/// Ends a Sentinel and takes its files away.
fn blank_sentinel(world: &mut World, host: usize) -> Result<(), String> {
    let is_exec = world.spec.mode == Mode::Exec;
    let one = &mut world.hosts[host];
    one.sentinel.kill();
    if !is_exec {
        return write_sentinel_config(host, &one.dir);
    }
    let home = one.dir.join("sentinel");
    std::fs::remove_dir_all(&home).map_err(words)?;
    std::fs::create_dir_all(&home).map_err(words)
}

/// Why a fault cannot be done in a mode.
fn not_in(mode: Mode, fault: Fault) -> Result<(), String> {
    let agent = matches!(fault, Fault::KillAgent(_) | Fault::KillAllAgents | Fault::StepClock(..));
    // The config of a server is on its volume and in the image.
    let exec = agent || fault == Fault::RotatePassword;
    if mode == Mode::Exec && exec { Err("not under exec".to_owned()) } else { Ok(()) }
}

fn start_agent(host: &mut crate::world::Host) -> Result<(), String> {
    host.agent.as_mut().map_or(Ok(()), crate::server::Server::start)
}

fn parts(fault: Fault, host: usize) -> Vec<(Part, usize)> {
    let all = |(part, scope)| match scope {
        Scope::One(_) => vec![(part, host)],
        Scope::All => (0..HOSTS).map(|host| (part, host)).collect(),
    };
    fault.takes().into_iter().flat_map(all).collect()
}

/// Whether a fault is one of one host, and what it touches.
fn touches(fault: Fault) -> (bool, Touches) {
    let none = Touches::default();
    let whole =
        Touches { redis: true, killed: true, sentinel: true, agent: true, consul: true, ..none };
    let one = |touches| (true, touches);
    match fault {
        Fault::KillRedis(_) => one(Touches { redis: true, killed: true, ..none }),
        Fault::StopRedis(_) | Fault::FreezeRedis(_) => one(Touches { redis: true, ..none }),
        Fault::EmptyRedis(_) => one(Touches { redis: true, data: true, ..none }),
        Fault::OldRedis(_) => one(Touches { redis: true, data: true, older: true, ..none }),
        Fault::FillDisk(_) => one(Touches { disk: true, ..none }),
        Fault::KillSentinel(_)
        | Fault::FreezeSentinel(_)
        | Fault::BlankSentinel(_)
        | Fault::SentinelReset(_)
        | Fault::SentinelRemove(_) => one(Touches { sentinel: true, ..none }),
        Fault::KillAgent(_)
        | Fault::FreezeAgent(_)
        | Fault::RevokeToken(_)
        | Fault::StepClock(..)
        | Fault::ReloadAgent(_) => one(Touches { agent: true, ..none }),
        Fault::KillConsul(_)
        | Fault::KillConsulLeader
        | Fault::FreezeConsulLeader
        | Fault::StopConsul => (false, Touches { consul: true, ..none }),
        Fault::RestoreConsul => (false, Touches { consul: true, restored: true, ..none }),
        Fault::CutOff(_) | Fault::CutPeers(_) => one(Touches { net: true, cut: true, ..none }),
        Fault::CutIn(_) | Fault::CutOut(_) | Fault::Lose(..) | Fault::Throttle(..) => {
            one(Touches { net: true, ..none })
        }
        Fault::DenyDns(_) => one(Touches { dns: true, ..none }),
        Fault::SentinelFailover(_) => (false, Touches { asked: true, ..none }),
        Fault::Switchover(_) => (false, Touches { planned: true, ..none }),
        Fault::RotatePassword => (false, Touches { agent: true, ..none }),
        Fault::KillHost(_) => one(whole),
        Fault::BlankSentinels | Fault::KillAllSentinels => {
            (false, Touches { sentinel: true, ..none })
        }
        Fault::KillAllRedis => (false, Touches { redis: true, killed: true, ..none }),
        Fault::KillAllAgents => (false, Touches { agent: true, ..none }),
        Fault::KillAll => (false, whole),
    }
}

fn remove_data(disk: &Path) {
    for file in DATA {
        let path = disk.join(file);
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
    }
}

fn copy_data(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::create_dir_all(to).map_err(words)?;
    for file in DATA {
        let (from, to) = (from.join(file), to.join(file));
        if from.is_dir() {
            std::fs::create_dir_all(&to).map_err(words)?;
            for entry in std::fs::read_dir(&from).map_err(words)?.flatten() {
                // One that was rewritten meanwhile is not there any more.
                let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
            }
        } else if from.exists() {
            std::fs::copy(&from, &to).map_err(words)?;
        }
    }
    Ok(())
}

/// Writes until the disk takes no more.
fn fill(disk: &Path) {
    let Ok(mut file) = std::fs::File::create(disk.join(FILLER)) else { return };
    let block = vec![0; 64 * 1_024];
    while file.write_all(&block).is_ok() {}
}
