//! docs/clients.md: what passes `consul.` on to Consul's DNS follows a failover as Consul does, with the lines that are
//! there; docs/consul.md: what it does with other settings.

use std::net::Ipv4Addr;
use std::time::Duration;

use consul_redis::dns::Names;
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec, free_port};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{agents, host, until_in_sync, until_writer, world};

const CLIENTS: &str = include_str!("../../docs/clients.md");
/// The writer's name.
const NAME: &str = "redis-primary.service.consul.";
/// Longest wait for a DNS server that was just started.
const SOON: Duration = Duration::from_secs(20);
/// Between two questions of the reader that keeps a resolver busy.
const OFTEN: Duration = Duration::from_millis(5);

/// The lines of a program in docs/clients.md, as they lead to this Consul.
fn lines(program: &str, dns: std::net::SocketAddr) -> String {
    let head = format!("```text\n# {program}: ");
    let (_, block) = CLIENTS.split_once(&head).expect("its lines");
    let (block, _) = block.split_once("\n```").unwrap();
    let (_, lines) = block.split_once('\n').unwrap();
    let (ip, port) = (dns.ip(), dns.port());
    let lines = lines.replace("127.0.0.1#8600", &format!("{ip}#{port}"));
    lines.replace("127.0.0.1@8600", &format!("{ip}@{port}"))
}

/// A resolver in between, and what asks it.
struct Resolver {
    names: Names,
    _process: Process,
}

impl Resolver {
    fn dnsmasq(world: &World, ip: Ipv4Addr, name: &str, lines: &str) -> Self {
        let port = free_port(&[ip]).unwrap();
        let text = format!(
            "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\npid-file=\n{lines}\n"
        );
        let file = world.dir().join(format!("{name}.conf"));
        std::fs::write(&file, text).unwrap();
        let args = ["--keep-in-foreground".to_owned(), format!("--conf-file={}", file.display())];
        let tool = tools::dnsmasq().unwrap();
        let process = Process::start(name, &tool, &args, &[], world.dir(), Life::WithUs).unwrap();
        Self { names: Names::new(Some((ip, port).into())), _process: process }
    }

    fn unbound(world: &World, ip: Ipv4Addr, name: &str, lines: &str) -> Self {
        let (port, dir) = (free_port(&[ip]).unwrap(), world.dir().display().to_string());
        let text = format!(
            "server:\n  interface: {ip}\n  port: {port}\n  do-daemonize: no\n  use-syslog: no\n  username: \"\"\n  \
             chroot: \"\"\n  directory: \"{dir}\"\n  pidfile: \"\"\n{lines}\nremote-control:\n  control-enable: no\n"
        );
        let file = world.dir().join(format!("{name}.conf"));
        std::fs::write(&file, text).unwrap();
        let args = ["-c".to_owned(), file.display().to_string()];
        let tool = tools::unbound().unwrap();
        let process = Process::start(name, &tool, &args, &[], world.dir(), Life::WithUs).unwrap();
        Self { names: Names::new(Some((ip, port).into())), _process: process }
    }

    /// What it answers; nothing where there is no such name, or no address.
    async fn answer(&self) -> Result<Vec<String>, LabError> {
        answer(&self.names).await
    }

    async fn until(&self, wanted: &[&str]) {
        until(&format!("{NAME} is {wanted:?}"), SOON, || async {
            let found = self.answer().await?;
            if found == wanted { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap();
    }

    /// Asks all the time, so that whatever could be kept is.
    fn kept_busy(&self) -> AbortOnDropHandle<()> {
        let names = self.names.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let _ = names.a(NAME).await;
                tokio::time::sleep(OFTEN).await;
            }
        }))
    }
}

async fn answer(names: &Names) -> Result<Vec<String>, LabError> {
    let found = names.a(NAME).await.map_err(LabError::new)?;
    Ok(found.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn resolvers_in_between_follow_a_failover_as_consul_does() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let (ip, dns) = (world.address(), world.consul.dns);
    // Protection against rebinding is on: the lines of the page are to let the name through.
    let dnsmasq = format!("stop-dns-rebind\n{}", lines("dnsmasq", dns));
    let unbound = lines("unbound", dns).replacen("server:", "  private-address: 127.0.0.0/8", 1);
    let resolvers = [
        Resolver::dnsmasq(&world, ip, "dnsmasq", &dnsmasq),
        Resolver::unbound(&world, ip, "unbound", &unbound),
    ];
    // Without the line that lets it through.
    let hidden = [
        Resolver::dnsmasq(
            &world,
            ip,
            "dnsmasq-rebind",
            &dnsmasq.replace("rebind-domain-ok=/consul/", ""),
        ),
        Resolver::unbound(
            &world,
            ip,
            "unbound-rebind",
            &unbound.replace("private-domain: \"consul.\"", ""),
        ),
    ];
    let _agents = agents(&world, 1, &[]);
    let old = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 1).await;
    for resolver in &resolvers {
        resolver.until(&[host(&old)]).await;
    }
    for resolver in &hidden {
        // What is not there in time would be an error.
        resolver.until(&[]).await;
    }
    let _busy: Vec<_> = resolvers.iter().map(Resolver::kept_busy).collect();

    let consul = world.consul.names().unwrap();
    world.server_mut(&old).unwrap().kill();
    until("Consul answers with another writer", Duration::from_secs(40), || async {
        let found = answer(&consul).await?;
        for resolver in &resolvers {
            // What Consul has said is what the resolver says, at the first question; or what came meanwhile.
            let passed_on = resolver.answer().await?;
            let now = answer(&consul).await?;
            assert!(passed_on == found || passed_on == now, "{passed_on:?} of {found:?}, {now:?}");
        }
        let is_new = !found.is_empty() && found != [host(&old)];
        if is_new { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    // The last one: no writer is passed on, too.
    let new = until_writer(&world, "redis", 20, Some(&old)).await;
    world.server_mut(&new).unwrap().kill();
    until("Consul answers with none", Duration::from_secs(40), || async {
        let found = answer(&consul).await?;
        if found.is_empty() { Ok(()) } else { Err(LabError(format!("{found:?}"))) }
    })
    .await
    .unwrap();
    for resolver in &resolvers {
        assert_eq!(resolver.answer().await.unwrap(), Vec::<String>::new());
    }
    for resolver in &hidden {
        assert_eq!(resolver.answer().await.unwrap(), Vec::<String>::new());
    }
}
