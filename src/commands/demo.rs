//! `consul-redis demo`: the main job, end to end, on real servers.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::terminal::{Progress, Style};
use crate::cli::DemoArgs;
use crate::clock::Clock;
use crate::consul::blocking::WATCH_WAIT;
use crate::consul::store::ReadMode;
use crate::consul::watch::GroupWatch;
use crate::core::identity::address::Address;
use crate::core::published::projection::Layout;
use crate::core::published::record::Record;
use crate::exit::{Exit, Failure};
use crate::lab::LabError;
use crate::lab::clients::{NameWriter, Written, first_primary};
use crate::lab::process::{Life, Process};
use crate::lab::redis::LabServer;
use crate::lab::wait::until;
use crate::lab::world::{World, WorldSpec};
use crate::redis_link::{SubscriptionNews, subscribe};

/// The group of the demo.
const GROUP: &str = "redis";
/// The name that the demo writes through.
const NAME: &str = "redis-primary.service.consul";
/// How long each step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the name is watched after the old primary has come back: longer than Sentinel leaves a stray
/// primary alone (`docs/facts/sentinel.md` 4.1).
const RETURN_WATCH: Duration = Duration::from_secs(13);

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

/// Shows a failover.
///
/// # Errors
/// When a server is missing, or a step does not happen in time.
pub async fn run(args: &DemoArgs) -> Result<(), Failure> {
    tokio::select! {
        shown = show(args) => shown,
        // What was started, and its files, go when `show` is dropped.
        _ = tokio::signal::ctrl_c() => {
            println!();
            Err(Failure::new(Exit::Failed, "interrupted: everything that was started has been ended"))
        }
    }
}

async fn show(args: &DemoArgs) -> Result<(), Failure> {
    let mut demo = if args.from_scratch {
        Demo::start_from_scratch(args.keep).await?
    } else {
        Demo::start(args.keep).await?
    };
    demo.show_names().await?;
    demo.fail_over().await?;
    demo.bring_back().await?;
    if args.keep {
        demo.show_commands();
        // Nothing is ended, and no file is removed.
        std::mem::forget(demo);
    } else {
        demo.say("Done. Everything that was started has been ended.");
    }
    Ok(())
}

/// Waits until the writes have come so far.
async fn until_written(
    written: &mut watch::Receiver<Written>,
    far: impl FnMut(&Written) -> bool,
) -> Result<Written, LabError> {
    match tokio::time::timeout(STEP_TIMEOUT, written.wait_for(far)).await {
        Ok(Ok(written)) => Ok(written.clone()),
        _ => Err(LabError::new("no write through the name is acknowledged")),
    }
}

fn started(servers: &str, begun: Instant) {
    println!("Starting {servers} ... {:.1} s", begun.elapsed().as_secs_f64());
}

struct Demo {
    agents: Vec<Process>,
    world: World,
    program: PathBuf,
    style: Style,
}

impl Demo {
    /// A world without agents, and a line that says so.
    async fn world(keep: bool, from_scratch: bool, servers: &str) -> Result<Self, Failure> {
        let style = Style::of_stdout();
        println!("{}", style.bold("consul-redis demo"));
        println!(
            "{}",
            style.dim("real servers on loopback, started now and ended with this command")
        );
        println!();
        let _progress = Progress::new(format!("starting {servers}"));
        let life = if keep { Life::CanOutliveUs } else { Life::WithUs };
        let world = World::start(WorldSpec { life, from_scratch, ..WorldSpec::default() }).await?;
        let program = std::env::current_exe()?;
        Ok(Self { world, agents: Vec::new(), program, style })
    }

    /// Blank instances, Sentinels that know nothing, and then an agent beside each instance.
    async fn start_from_scratch(keep: bool) -> Result<Self, Failure> {
        let begun = Instant::now();
        let servers = "Consul, three blank Redis and three Sentinels that know nothing";
        let mut demo = Self::world(keep, true, servers).await?;
        started(servers, begun);
        demo.say("No server knows of another:");
        for group in &demo.world.groups {
            for server in &group.redis {
                let keys = server.probe().await?.keys;
                let follows = server.follows().await?.map(|of| format!("follows {of}"));
                let role = follows.unwrap_or_else(|| "a primary by itself".to_owned());
                println!("  Redis    {:<24} {role}, {keys} keys", server.address.to_string());
            }
        }
        for sentinel in &demo.world.sentinels {
            let groups = sentinel.ask(&["SENTINEL", "MASTERS"]).await?;
            let count = crate::redis_link::list(&groups).map_err(LabError::new)?.len();
            println!("  Sentinel {:<24} monitors {count} groups", sentinel.address.to_string());
        }
        demo.say("Starting an agent beside each Redis (expect = 3):");
        let started = Instant::now();
        demo.agents = demo.node_agents()?;
        let begins = demo.until_record("a first primary", |r| r.writer.is_some()).await?;
        let writer = begins.writer_address().map(ToString::to_string).unwrap_or_default();
        demo.step(started, Instant::now(), "published", &format!("{writer}: {}", begins.why));
        demo.until_record("a majority of the Sentinels", |record| {
            record.writer.is_some() && !record.evidence.is_unconfirmed()
        })
        .await?;
        demo.step(
            started,
            Instant::now(),
            "confirmed",
            "the Sentinels were reconfigured, and name it",
        );
        demo.until_record("the replicas", |record| record.replicas().count() == 2).await?;
        demo.step(started, Instant::now(), "in sync", "the two others are its replicas");
        // A failover needs Sentinels that know one another.
        let progress = Progress::new("waiting for the Sentinels to know one another");
        demo.world.settle().await?;
        demo.world.calm().await?;
        drop(progress);
        demo.step(started, Instant::now(), "at rest", "every Sentinel knows all others");
        Ok(demo)
    }

    fn node_agents(&self) -> Result<Vec<Process>, LabError> {
        let servers = self.world.groups.iter().flat_map(|group| &group.redis);
        let start = |server: &LabServer| {
            let name = format!("agent-{}", server.name());
            let path = self.world.dir().join(format!("{name}.toml"));
            let address = &server.address;
            let text = format!(
                "[[group]]\nname = \"{GROUP}\"\nexpect = 3\n\n[[redis]]\naddress = \"{address}\"\n"
            );
            std::fs::write(&path, text).map_err(LabError::new)?;
            let args = ["--config", path.to_str().unwrap_or_default()];
            self.world.start_agent(&self.program, &name, &args, &[])
        };
        servers.map(start).collect()
    }

    async fn until_record(
        &self,
        what: &str,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Record, LabError> {
        let _progress = Progress::new(format!("waiting for {what}"));
        until(what, STEP_TIMEOUT, || async {
            let record = self.record().await?;
            if wanted(&record) { Ok(record) } else { Err(LabError::new("not yet")) }
        })
        .await
    }

    async fn start(keep: bool) -> Result<Self, Failure> {
        let begun = Instant::now();
        let servers = "Consul, three Redis, three Sentinels and two agents";
        let mut demo = Self::world(keep, false, servers).await?;
        let agents = ["agent-a", "agent-b"]
            .iter()
            .map(|name| demo.world.start_agent(&demo.program, name, &[], &[]))
            .collect::<Result<Vec<Process>, LabError>>()?;
        demo.agents = agents;
        let what = "a published writer, and both replicas in sync";
        demo.until_record(what, |record| record.replicas().count() == 2).await?;
        started(servers, begun);
        Ok(demo)
    }

    async fn record(&self) -> Result<Record, LabError> {
        let client = self.world.consul.client()?;
        let group = GROUP.parse().map_err(LabError::new)?;
        let layout = Layout::new("redis-ha", &group);
        let clock = Clock::start();
        let store = client.group(&layout, ReadMode::Consistent, &clock).await;
        let store = store.map_err(LabError::new)?.value;
        store.record().cloned().ok_or_else(|| LabError::new("nothing is published"))
    }

    fn say(&self, text: &str) {
        println!("\n{}", self.style.bold(text));
    }

    async fn show_names(&self) -> Result<(), Failure> {
        self.say("What Consul answers:");
        let names = self.world.consul.names()?;
        for name in [NAME, "primary.redis.service.consul", "redis-replica.service.consul"] {
            let found = names.a(name).await.map_err(LabError::new)?;
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            println!("  DNS A    {name:<32} {}", found.join(", "));
        }
        let services = names.srv(NAME).await.map_err(LabError::new)?;
        for (target, port) in services {
            println!("  DNS SRV  {NAME:<32} {target} port {port}");
        }
        for key in ["primary", "replicas"] {
            let path = format!("redis-ha/{GROUP}/{key}");
            let value = self.world.consul.key(&path).await?.unwrap_or_default();
            println!("  KV       {path:<32} {}", value.trim_end().replace('\n', ", "));
        }
        let record = self.record().await?;
        for instance in &record.instances {
            let tag = instance.role.tag().unwrap_or("(none)");
            println!("  tag      {:<32} {tag}", format!("redis at {}", instance.address));
        }
        Ok(())
    }

    fn writer(&self) -> Result<NameWriter, LabError> {
        let server = self.world.groups.first().and_then(|group| group.redis.first());
        let server = server.ok_or_else(|| LabError::new("no Redis"))?;
        Ok(NameWriter {
            names: self.world.consul.names()?,
            name: NAME.to_owned(),
            port: server.address.port(),
            login: server.login.clone(),
        })
    }

    async fn fail_over(&mut self) -> Result<(), Failure> {
        let (mut written, _writing) = self.writer()?.keep_writing(Duration::from_millis(2));
        let before = until_written(&mut written, |written| written.acknowledged >= 50).await?;
        let old = self.record().await?.writer_address().cloned();
        let old = old.ok_or_else(|| LabError::new("nothing is published"))?;
        self.say("Writing through the name:");
        println!(
            "  {} writes acknowledged by {old}, {} refused",
            before.acknowledged, before.failed
        );
        self.say(&format!("Killing the primary {old} (kill -9):"));
        let down = self.listen_for_odown();
        let published = self.listen_for_publication(&old)?;
        if let Some(server) = self.world.server_mut(&old.to_string()) {
            server.kill();
        }
        let killed = Instant::now();
        self.step(killed, killed, "killed", &old.to_string());
        let others = async {
            let servers = self.world.groups.first().map(|group| group.redis.as_slice());
            first_primary(servers.unwrap_or_default()).await
        };
        let timeline = async {
            let (down, promoted, published) = tokio::join!(down, others, published);
            (down, promoted, published)
        };
        let progress = Progress::new("waiting for the Sentinels to fail over");
        let (down, (new, promoted), published) = tokio::time::timeout(STEP_TIMEOUT, timeline)
            .await
            .map_err(|_| LabError::new("no failover happened in time"))?;
        let by_new = |written: &Written| written.first.iter().find(|(a, _)| a == &new).cloned();
        let after = until_written(&mut written, |written| by_new(written).is_some()).await?;
        drop(progress);
        let acknowledged = by_new(&after).map_or(promoted, |(_, at)| at);
        self.step(killed, down, "down agreed", "by a quorum of the Sentinels");
        self.step(killed, promoted, "promoted", &format!("{new} says that it is the primary"));
        if let Some((at, record)) = published {
            let why = format!("generation {}, {}", record.generation, record.why);
            self.step(killed, at, "published", &why);
        }
        self.step(killed, acknowledged, "first write", "acknowledged through the name");
        Ok(())
    }

    fn step(&self, start: Instant, at: Instant, what: &str, detail: &str) {
        let ms = at.saturating_duration_since(start).as_millis();
        let time = self.style.good(&format!("{ms:>7} ms"));
        println!("  {time}  {what:<12} {}", self.style.dim(detail));
    }

    /// When the first Sentinel says that a quorum agrees.
    fn listen_for_odown(&self) -> impl Future<Output = Instant> + use<> {
        let (send, mut receive) = mpsc::channel(1);
        let listeners: Vec<AbortOnDropHandle<()>> = self
            .world
            .sentinels
            .iter()
            .map(|sentinel| {
                let (address, login, send) =
                    (sentinel.address.clone(), sentinel.login.clone(), send.clone());
                AbortOnDropHandle::new(tokio::spawn(async move {
                    let Ok(mut events) = subscribe(&address, &login).await else { return };
                    while let Some(heard) = events.next().await {
                        if matches!(heard, SubscriptionNews::Event(event, _) if event == "+odown") {
                            let _ = send.send(Instant::now()).await;
                            return;
                        }
                    }
                }))
            })
            .collect();
        async move {
            let at = receive.recv().await;
            drop(listeners);
            at.unwrap_or_else(Instant::now)
        }
    }

    /// When Consul first names another writer than `old`, and the record that does.
    fn listen_for_publication(
        &self,
        old: &Address,
    ) -> Result<impl Future<Output = Option<(Instant, Record)>> + use<>, LabError> {
        let client = self.world.consul.client()?;
        let group = GROUP.parse().map_err(LabError::new)?;
        let (layout, clock, old) = (Layout::new("redis-ha", &group), Clock::start(), old.clone());
        Ok(async move {
            let mut watch = GroupWatch::new(client, layout, clock, WATCH_WAIT);
            loop {
                let answer = watch.next().await.ok()?;
                let at = Instant::now();
                let record = answer.record();
                let moved = record.filter(|r| r.writer_address().is_some_and(|w| w != &old));
                if let Some(record) = moved {
                    return Some((at, record.clone()));
                }
            }
        })
    }

    async fn bring_back(&mut self) -> Result<(), Failure> {
        let before = self.record().await?;
        let gone = before.instances.iter().find(|i| i.role.tag().is_none());
        let Some(gone) = gone.map(|i| i.address.to_string()) else { return Ok(()) };
        self.say(&format!("The old primary {gone} comes back, as a primary:"));
        if let Some(server) = self.world.server_mut(&gone) {
            server.restart().await?;
        }
        let names = self.world.consul.names()?;
        let wanted: Vec<String> =
            before.writer_address().map(|a| a.host().to_owned()).into_iter().collect();
        let (mut asked, begun) = (0_u32, Instant::now());
        let progress =
            Progress::new(format!("asking for the name for {} s", RETURN_WATCH.as_secs()));
        while begun.elapsed() < RETURN_WATCH {
            let found = names.a(NAME).await.map_err(LabError::new)?;
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            if found != wanted {
                return Err(LabError(format!("the name moved to {found:?}")).into());
            }
            asked += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(progress);
        let seconds = begun.elapsed().as_secs();
        println!("  the name was asked for {asked} times in {seconds} s and did not move");
        let is_back =
            |record: &Record| record.replicas().any(|address| address.to_string() == gone);
        let back = self.until_record("the old primary, in sync as a replica", is_back).await?;
        println!(
            "  the agents have made it a replica; redis-replica.service.consul has {} again",
            back.replicas().count()
        );
        Ok(())
    }

    fn show_commands(&self) {
        self.say("Everything goes on running. Try:");
        let env: Vec<String> =
            self.world.agent_env().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (dns, program) = (self.world.consul.dns, self.program.display());
        println!("  export {}", env.join(" "));
        println!("  {program} status");
        println!("  {program} plan");
        println!("  dig +short @{} -p {} {NAME} SRV", dns.ip(), dns.port());
        let group = self.world.groups.first();
        let primary = group.and_then(|group| group.redis.iter().find(|s| s.id().is_some()));
        for server in group.iter().flat_map(|group| &group.redis) {
            if let Some(id) = server.id() {
                println!("  kill -9 {id:<8} # {} at {}", server.name(), server.address);
            }
        }
        if let Some(server) = primary {
            let address = &server.address;
            println!("  redis-cli -h {} -p {} info replication", address.host(), address.port());
        }
        println!("  tail -f {}/agent-*.log", self.world.dir().display());
        let servers = group.iter().flat_map(|group| &group.redis).chain(&self.world.sentinels);
        let ids: Vec<String> = servers
            .filter_map(LabServer::id)
            .chain(self.world.consul.id())
            .chain(self.agents.iter().map(Process::id))
            .map(|id| id.to_string())
            .collect();
        self.say("To end it:");
        println!("  kill -9 {} && rm -r {}", ids.join(" "), self.world.dir().display());
    }
}
