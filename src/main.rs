//! The command: parses, runs, and turns the end into an exit code.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use consul_redis::cli::{Cli, Command as Chosen, without_empty};
use consul_redis::commands;
use consul_redis::completion;
use consul_redis::config::{Config, default_file};
use consul_redis::consul::logins::ConsulLogins;
use consul_redis::exec::settings::{Environment, with_known_names};
use consul_redis::exit::{Exit, Failure};
use consul_redis::reload::ConfigSource;

fn main() -> ExitCode {
    completion::answer_shell();
    match parse().and_then(run) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}

fn parse() -> Result<Cli, Failure> {
    let command = Cli::command().mut_args(|arg| arg.hide_env_values(true));
    let command = without_empty(command);
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // --help and --version come this way too.
        let code = if error.use_stderr() { Exit::Config } else { Exit::Done };
        let _ = error.print();
        std::process::exit(code as i32);
    })
}

fn run(cli: Cli) -> Result<u8, Failure> {
    // They need no settings, and are called where there are none.
    match &cli.command {
        Chosen::Completions(args) => return commands::shell::completions(args).map(|()| 0),
        Chosen::Man(args) => return commands::shell::man(args).map(|()| 0),
        _ => {}
    }
    // One TLS provider for everything.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let env = Environment::of_this_process();
    let contained = matches!(cli.command, Chosen::Exec(_) | Chosen::Health(_));
    let mut common = if contained { with_known_names(&cli.common, &env)? } else { cli.common };
    // The demo has a world of its own.
    if common.config.is_none() && !matches!(cli.command, Chosen::Demo(_)) {
        common.config = default_file();
    }
    let file = common.config.clone();
    run_by(cli.command, ConfigSource { common, env, logins: ConsulLogins::default() })
        .map_err(|failure| failure.located(file.as_deref()))
}

fn run_by(command: Chosen, settings: ConfigSource) -> Result<u8, Failure> {
    let (config, logins) = (settings.read()?, settings.logins.clone());
    // One thread: an agent waits far more than it works, and a single one keeps it small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let ended = run_command(config, &command, settings).await;
        // Whatever has become of it, no token of ours is left behind.
        logins.log_out().await;
        ended
    });
    // Look-ups by the system's own resolver, which nothing can interrupt, are not waited for.
    runtime.shutdown_background();
    ended
}

async fn run_command(
    config: Config,
    command: &Chosen,
    settings: ConfigSource,
) -> Result<u8, Failure> {
    let code = match command {
        // Its exit code is that of its server.
        Chosen::Exec(args) => return commands::exec::run(config, args, settings).await,
        Chosen::Health(args) => commands::health::run(config, args, &settings.env).await?,
        Chosen::Agent => commands::agent::run(config, settings).await.map(|()| Exit::Done)?,
        Chosen::CheckConfig => {
            commands::check_config::run(config, &settings.common).map(|()| Exit::Done)?
        }
        Chosen::Status(args) => commands::status::run(config, args).await?,
        Chosen::History(args) => commands::history::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Cluster(args) => commands::cluster::run(config, args).await?,
        Chosen::Wait(args) => commands::wait::run(config, args).await?,
        Chosen::Doctor(args) => commands::doctor::run(config, args).await?,
        Chosen::Plan(args) => commands::plan::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Render(args) => {
            commands::render::run(config, args, &settings).await.map(|()| Exit::Done)?
        }
        Chosen::Retire(args) => commands::retire::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Adopt(args) => commands::adopt::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Config(args) => commands::config::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Switchover(args) => {
            commands::switchover::run(config, args).await.map(|()| Exit::Done)?
        }
        Chosen::Maintenance(args) => {
            commands::maintenance::run(config, args).await.map(|()| Exit::Done)?
        }
        Chosen::Pause(args) => {
            commands::pause::run_pause(config, args).await.map(|()| Exit::Done)?
        }
        Chosen::Resume(args) => {
            commands::pause::run_resume(config, args).await.map(|()| Exit::Done)?
        }
        Chosen::Forget(args) => commands::forget::run(config, args).await.map(|()| Exit::Done)?,
        Chosen::Init(args) => {
            commands::init::run(config, &settings.common, args).await.map(|()| Exit::Done)?
        }
        Chosen::SupportBundle(args) => {
            let common = &settings.common;
            commands::support_bundle::run(config, common, args).await.map(|()| Exit::Done)?
        }
        Chosen::Demo(args) => commands::demo::run(args).await.map(|()| Exit::Done)?,
        Chosen::Completions(_) | Chosen::Man(_) => Exit::Done,
    };
    Ok(code as u8)
}
