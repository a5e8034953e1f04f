//! What a shell completes, asked of the program itself: commands and flags, from their definition, and the names of
//! groups and clusters.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::{CompleteEnv, Shell, env::Shells};

use crate::cli::{
    CLUSTER_OR_NODES, Cli, Common, GROUP, GROUP_FLAG, GROUP_OR_CLUSTER, without_empty,
};
use crate::config::{Config, default_file};
use crate::consul::client::Consul;
use crate::consul::logins::ConsulLogins;
use crate::core::identity::address::GroupName;
use crate::exec::settings::Environment;
use crate::reload::ConfigSource;

/// The program, as it is called.
const NAME: &str = "consul-redis";
/// What a shell sets to ask, to its name.
const ASKED: &str = "CONSUL_REDIS_COMPLETE";
/// Consul's deadline: a person waits for the Tab key.
const CONSUL_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a shell that asks what a line may go on with, and ends; does nothing for any other call.
pub fn answer_shell() {
    CompleteEnv::with_factory(command).var(ASKED).complete();
}

/// The command line, in which the names of groups and clusters are completed.
fn command() -> Command {
    Cli::command().mut_args(completed).mut_subcommands(|command| command.mut_args(completed))
}

fn completed(arg: Arg) -> Arg {
    match arg.get_value_names() {
        Some([name]) if *name == GROUP || *name == GROUP_FLAG => {
            arg.add(ArgValueCandidates::new(groups))
        }
        Some([name]) if *name == GROUP_OR_CLUSTER => {
            arg.add(ArgValueCandidates::new(groups_and_clusters))
        }
        Some([name]) if *name == CLUSTER_OR_NODES => arg.add(ArgValueCandidates::new(clusters)),
        _ => arg,
    }
}

/// The script by which a shell asks.
///
/// # Errors
/// When it cannot be written.
pub fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&shell.to_string()) {
        shell.write_registration(ASKED, NAME, NAME, NAME, &mut script)?;
    }
    Ok(script)
}

/// The groups of the config that the line names, and those that Consul has. What cannot be read adds none.
fn groups() -> Vec<CompletionCandidate> {
    candidates(&names(true, false))
}

fn clusters() -> Vec<CompletionCandidate> {
    candidates(&names(false, true))
}

fn groups_and_clusters() -> Vec<CompletionCandidate> {
    candidates(&names(true, true))
}

fn candidates(names: &BTreeSet<GroupName>) -> Vec<CompletionCandidate> {
    names.iter().map(|name| CompletionCandidate::new(name.to_string())).collect()
}

fn names(groups: bool, clusters: bool) -> BTreeSet<GroupName> {
    let Some(config) = configured() else { return BTreeSet::new() };
    let mut names = in_consul(&config, groups, clusters).unwrap_or_default();
    if groups {
        names.extend(config.groups.iter().map(|group| group.policy.group.clone()));
    }
    if clusters {
        names.extend(config.clusters.iter().map(|cluster| cluster.policy.name.clone()));
    }
    names
}

/// The settings of the line as far as it is written.
fn configured() -> Option<Config> {
    // What is completed comes after `--`, and its last word is not complete.
    let mut words: Vec<OsString> =
        std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    words.pop();
    let command = without_empty(Cli::command()).ignore_errors(true);
    let matches = command.try_get_matches_from(words).ok()?;
    let mut common = Common::from_arg_matches(&matches).ok()?;
    if common.config.is_none() {
        common.config = default_file();
    }
    let (env, logins) = (Environment::of_this_process(), ConsulLogins::default());
    ConfigSource { common, env, logins }.read().ok()
}

fn in_consul(config: &Config, groups: bool, clusters: bool) -> Option<BTreeSet<GroupName>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let consul = Consul::new(&config.consul).ok()?;
    let asked = async {
        let mut names = BTreeSet::new();
        if groups {
            names.extend(consul.groups(&config.prefix).await.unwrap_or_default());
        }
        if clusters {
            names.extend(consul.clusters(&config.prefix).await.unwrap_or_default());
        }
        names
    };
    runtime.block_on(async {
        let asked = tokio::time::timeout(CONSUL_TIMEOUT, asked).await;
        if let Some(login) = &config.consul.login {
            login.log_out().await;
        }
        asked.ok()
    })
}
