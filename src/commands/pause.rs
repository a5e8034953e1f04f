//! `consul-redis pause|resume [GROUP|CLUSTER]`: agents observe and publish, and change nothing else, until the pause ends
//! by itself or is ended. It is a key in Consul (`core::published::pause`), which every agent reads with the others.

use jiff::{SignedDuration, Timestamp};

use super::clusters::cluster_meant;
use super::config::unwritten;
use super::retire::known_groups;
use super::switchover::find_group;
use crate::cli::{PauseArgs, PausedArgs, ResumeArgs};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolver::host_name;
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::group::Outcome;
use crate::core::identity::address::GroupName;
use crate::core::published::pause::{Pause, PauseKey, PauseStatus};
use crate::core::published::projection::{Layout, Op};
use crate::exit::{Exit, Failure};

/// A group or a cluster that an operator means.
struct Pausable {
    name: GroupName,
    layout: Layout,
    is_cluster: bool,
}

/// Pauses what was named.
///
/// # Errors
/// A [`Failure`] when it is not known, or Consul cannot be read or written.
pub async fn run_pause(config: Config, args: &PauseArgs) -> Result<(), Failure> {
    let operator = PausingOperator::new(config)?;
    let meant = operator.meant(&args.paused).await?;
    for target in &meant {
        let now = operator.clock.now().wall;
        let until = args.ends.map(|span| end_of(now, span.as_ms())).transpose()?;
        let before = operator.key(target).await?;
        // A pause that is on goes on: its end and what it is for are new.
        let since = match before {
            PauseKey::Known(pause) if pause.is_on(now) => pause.since,
            _ => now,
        };
        let (by, why) = (operator_named(), args.why.clone());
        operator.write(target, &Pause { since, by, until, why, resumed: None }).await?;
    }
    operator.tell(&meant, WantedPause::Paused).await?;
    if args.ends.is_none() {
        let names: Vec<String> = meant.iter().map(|target| target.name.to_string()).collect();
        let names = if args.paused.all { "--all".to_owned() } else { names.join(" ") };
        eprintln!(
            "warning: it does not end by itself: `consul-redis resume {names}` ends it (--for 2h would end it in two hours)"
        );
    }
    Ok(())
}

/// Ends the pause of what was named.
///
/// # Errors
/// As [`run_pause`].
pub async fn run_resume(config: Config, args: &ResumeArgs) -> Result<(), Failure> {
    let operator = PausingOperator::new(config)?;
    let meant = operator.meant(&args.paused).await?;
    for target in &meant {
        let now = operator.clock.now().wall;
        let pause = match operator.key(target).await? {
            PauseKey::Absent => continue,
            PauseKey::Known(pause) if !pause.is_on(now) => continue,
            PauseKey::Known(pause) => Pause { resumed: Some(now), ..*pause },
            // What it was is not known; that it is over is.
            PauseKey::Unreadable(_) => {
                let by = operator_named();
                Pause { since: now, by, until: None, why: None, resumed: Some(now) }
            }
        };
        operator.write(target, &pause).await?;
    }
    operator.tell(&meant, WantedPause::Resumed).await
}

/// What the command was to come to.
#[derive(Clone, Copy)]
enum WantedPause {
    Paused,
    Resumed,
}

struct PausingOperator {
    config: Config,
    consul: Consul,
    clock: Clock,
}

impl PausingOperator {
    fn new(config: Config) -> Result<Self, Failure> {
        Ok(Self { consul: Consul::new(&config.consul)?, clock: Clock::start(), config })
    }

    /// Which groups and clusters are meant.
    async fn meant(&self, args: &PausedArgs) -> Result<Vec<Pausable>, Failure> {
        let Self { config, consul, clock } = self;
        let known = self.known().await?;
        match &args.name {
            _ if args.all && known.is_empty() => {
                let hint = known_groups(config, consul).await;
                Err(Failure::new(Exit::Failed, "there is nothing to pause or resume").hint(hint))
            }
            _ if args.all => Ok(known),
            Some(name) => {
                if let Some(cluster) = cluster_meant(config, consul, clock, name).await? {
                    let (name, layout) = (cluster.name, cluster.layout);
                    return Ok(vec![Pausable { name, layout, is_cluster: true }]);
                }
                let group = find_group(config, consul, clock, name).await?;
                let (name, layout) = (group.policy.group, group.layout);
                Ok(vec![Pausable { name, layout, is_cluster: false }])
            }
            None => match known.len() {
                1 => Ok(known),
                _ => {
                    let message = "which group or cluster? name one, or say --all";
                    let hint = known_groups(config, consul).await;
                    Err(Failure::new(Exit::Config, message).hint(hint))
                }
            },
        }
    }

    /// The groups and clusters of the config, and those that Consul has.
    async fn known(&self) -> Result<Vec<Pausable>, Failure> {
        let Self { config, consul, .. } = self;
        let mut groups = consul.groups(&config.prefix).await?;
        if config.groups_named {
            groups.extend(config.groups.iter().map(|group| group.policy.group.clone()));
        }
        let mut clusters = consul.clusters(&config.prefix).await?;
        clusters.extend(config.clusters.iter().map(|cluster| cluster.policy.name.clone()));
        let group = |name: GroupName| {
            let layout = Layout::new(&config.prefix, &name);
            Pausable { name, layout, is_cluster: false }
        };
        let cluster = |name: GroupName| {
            let layout = Layout::of_cluster(&config.prefix, &name);
            Pausable { name, layout, is_cluster: true }
        };
        Ok(groups.into_iter().map(group).chain(clusters.into_iter().map(cluster)).collect())
    }

    async fn key(&self, target: &Pausable) -> Result<PauseKey, Failure> {
        let found = self.consul.key(&target.layout.pause()).await?;
        Ok(found.map_or(PauseKey::Absent, |(value, _)| PauseKey::read(&value)))
    }

    async fn write(&self, target: &Pausable, pause: &Pause) -> Result<(), Failure> {
        let value = serde_json::to_string(pause)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let key = target.layout.pause();
        match self.consul.txn(&[Op::KeySet { key, value }], "").await {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Lost => {
                Err(Failure::new(Exit::Failed, "another client was first").hint("run it again"))
            }
            Outcome::Refused(what) | Outcome::Unknown(what) => Err(unwritten(&what)),
        }
    }

    /// The pause that is on, as agents see it.
    async fn paused(&self, target: &Pausable) -> Result<Option<PauseStatus>, Failure> {
        let now = self.clock.now().wall;
        if target.is_cluster {
            return Ok(self.consul.cluster(&target.layout, &self.clock).await?.paused(now));
        }
        let read = self.consul.group(&target.layout, ReadMode::Consistent, &self.clock);
        Ok(read.await?.value.paused(now))
    }

    async fn tell(&self, meant: &[Pausable], wanted: WantedPause) -> Result<(), Failure> {
        for target in meant {
            let name = &target.name;
            match (self.paused(target).await?, wanted) {
                (Some(pause), _) => println!("{name}: {pause}"),
                (None, WantedPause::Resumed) => {
                    println!("{name}: not paused: agents do what is wanted");
                }
                (None, WantedPause::Paused) => {
                    println!("{name}: another client ended the pause at the same time");
                }
            }
        }
        Ok(())
    }
}

fn end_of(now: Timestamp, ms: u64) -> Result<Timestamp, Failure> {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let end = now.checked_add(SignedDuration::from_millis(ms));
    end.map_err(|_| Failure::new(Exit::Config, "--for: that is longer than any calendar has days"))
}

/// Who runs this command: the user, and the host.
fn operator_named() -> String {
    let named = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(named);
    let user = user.unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()));
    format!("{user}@{}", host_name())
}
