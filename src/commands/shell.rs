//! `consul-redis completions` and `consul-redis man`: what shells and `man` know of the command line, from its
//! definition.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::completion;
use crate::exit::{Exit, Failure};

/// Prints a shell's completions.
///
/// # Errors
/// A [`Failure`] when they cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    std::io::stdout().write_all(&completion::script(args.shell)?)?;
    Ok(())
}

/// Writes a page for the program and one for each command.
///
/// # Errors
/// A [`Failure`] when the directory cannot be made or written to.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot write to {}: {error}", args.dir.display()))
            .hint("name a directory that this user may write to: consul-redis man /usr/local/share/man/man1")
    })
}
