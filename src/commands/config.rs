//! `consul-redis config GROUP [KEY=VALUE ...]`: the Sentinel settings that all agents keep on all Sentinels.

use serde::Serialize;
use serde_json::{Value, json};

use super::terminal;
use crate::cli::{ConfigArgs, SettingArg};
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::doctor::short_down_after;
use crate::core::group::Outcome;
use crate::core::identity::address::GroupName;
use crate::core::policy::{WantedQuorum, WantedSettings};
use crate::core::published::projection::{Layout, Op};
use crate::core::published::store::StoreAnswer;
use crate::exit::{Exit, Failure};

/// The settings for programs: what is not set is null.
#[derive(Debug, Serialize)]
struct SettingsJson<'a> {
    group: &'a GroupName,
    /// A number, or `auto`.
    quorum: Option<Value>,
    down_after_ms: Option<u64>,
    failover_timeout_ms: Option<u64>,
    parallel_syncs: Option<u64>,
    reboot_down_after_ms: Option<u64>,
}

impl<'a> SettingsJson<'a> {
    fn new(group: &'a GroupName, wanted: &WantedSettings) -> Self {
        let quorum = wanted.quorum.map(|quorum| match quorum {
            WantedQuorum::Auto => json!("auto"),
            WantedQuorum::Fixed(quorum) => json!(quorum),
        });
        Self {
            group,
            quorum,
            down_after_ms: wanted.down_after_ms,
            failover_timeout_ms: wanted.failover_timeout_ms,
            parallel_syncs: wanted.parallel_syncs,
            reboot_down_after_ms: wanted.reboot_down_after_ms,
        }
    }
}

/// Shows the settings, or changes them.
///
/// # Errors
/// A [`Failure`] when Consul refuses, or another client changed them at the same time.
pub async fn run(config: Config, args: &ConfigArgs) -> Result<(), Failure> {
    let consul = Consul::new(&config.consul)?;
    let clock = Clock::start();
    let layout = Layout::new(&config.prefix, &args.configured);
    let store = consul.group(&layout, ReadMode::Consistent, &clock).await?.value;
    let unkept = unkept(&store);
    let mut wanted = match store.config {
        Ok(wanted) => wanted,
        // Setting something replaces what cannot be read.
        Err(_) if !args.settings.is_empty() => WantedSettings::default(),
        Err(error) => {
            let message = format!("{} cannot be read: {error}", layout.config());
            return Err(Failure::new(Exit::Failed, message).hint("set a value to replace it"));
        }
    };
    if !args.settings.is_empty() {
        for setting in &args.settings {
            apply(&mut wanted, setting);
        }
        let value = serde_json::to_string(&wanted)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let op = Op::KeyCas { key: layout.config(), index: store.config_index, value };
        match consul.txn(&[op], &layout.config()).await {
            Outcome::Committed { .. } => {}
            Outcome::Lost => {
                let message = "another client changed the settings at the same time";
                return Err(Failure::new(Exit::Failed, message).hint("look again, and repeat"));
            }
            Outcome::Refused(what) | Outcome::Unknown(what) => {
                return Err(unwritten(&what));
            }
        }
    }
    if let Some(why) = unkept.filter(|_| !args.settings.is_empty()) {
        eprintln!("warning: {why}");
    }
    let down_after_ms = wanted.down_after_ms;
    if let Some(why) = short_down_after(down_after_ms) {
        eprintln!("warning: down_after {}ms is {why}", down_after_ms.unwrap_or_default());
    }
    if args.json {
        println!("{}", terminal::json(&SettingsJson::new(&args.configured, &wanted))?);
    } else {
        show(&wanted);
    }
    Ok(())
}

/// Why no Sentinel gets the settings for now, if none does.
fn unkept(store: &StoreAnswer) -> Option<String> {
    if store.agents.is_empty() {
        let why = "no agent watches the group: no Sentinel gets these settings before one does";
        return Some(why.to_owned());
    }
    let agents: Vec<&str> = store.agents.iter().map(String::as_str).collect();
    let all = store.agents.is_subset(&store.publishing_only);
    all.then(|| {
        format!(
            "all agents of the group have manage = false ({}): no Sentinel gets these settings",
            agents.join(", ")
        )
    })
}

/// Consul did not take what was to be written, or its answer was lost.
pub fn unwritten(what: &str) -> Failure {
    Failure::new(Exit::Failed, format!("Consul: {what}")).hint(
        "the token needs what consul/agent-policy.hcl says; run it again: it does no harm twice",
    )
}

fn apply(wanted: &mut WantedSettings, setting: &SettingArg) {
    match setting {
        SettingArg::Quorum(quorum) => wanted.quorum = *quorum,
        SettingArg::DownAfter(ms) => wanted.down_after_ms = *ms,
        SettingArg::FailoverTimeout(ms) => wanted.failover_timeout_ms = *ms,
        SettingArg::ParallelSyncs(syncs) => wanted.parallel_syncs = *syncs,
        SettingArg::RebootDownAfter(ms) => wanted.reboot_down_after_ms = *ms,
    }
}

fn show(wanted: &WantedSettings) {
    let quorum = match wanted.quorum {
        None => UNSET.to_owned(),
        Some(WantedQuorum::Auto) => "auto (more than half of the known Sentinels)".to_owned(),
        Some(WantedQuorum::Fixed(quorum)) => quorum.to_string(),
    };
    let ms = |ms: Option<u64>| ms.map_or_else(|| UNSET.to_owned(), |ms| format!("{ms}ms"));
    let syncs = wanted.parallel_syncs.map_or_else(|| UNSET.to_owned(), |syncs| syncs.to_string());
    println!("quorum            {quorum}");
    println!("down_after        {}", ms(wanted.down_after_ms));
    println!("failover_timeout  {}", ms(wanted.failover_timeout_ms));
    println!("parallel_syncs    {syncs}");
    println!("reboot_down_after {}", ms(wanted.reboot_down_after_ms));
}

/// Nothing is said about a setting.
const UNSET: &str = "(as each Sentinel has it)";
