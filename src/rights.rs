//! What a login may do on a server, asked without doing any of it.
//!
//! Every command is put into a transaction that is then discarded: a server refuses what it does not know and what the
//! login may not do when it is put in (`docs/facts/sentinel.md` 16). This needs no right but `MULTI`, works from 6.0 on,
//! and heeds `rename-command`, which `ACL DRYRUN` does not.

use redis::Value;

use crate::redis_link::{Link, LinkError, server_error};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// It refuses these commands, each with the server's words; perhaps none.
    Refuses(Vec<(String, String)>),
    /// It refuses the transaction, in these words: nothing is known of the commands.
    Unknown(String),
}

/// What of `commands` the server would refuse on this connection.
///
/// # Errors
/// [`LinkError`] without an answer. The connection is of no more use then.
pub async fn may(link: &mut Link, commands: &[&[&str]]) -> Result<Rights, LinkError> {
    // Alone: where it is refused, what comes after it would be done.
    match link.call(&["MULTI"]).await {
        Ok(_) => {}
        Err(LinkError::Unexpected(words)) => return Ok(Rights::Unknown(words)),
        Err(error) => return Err(error),
    }
    let mut pipe = redis::pipe();
    for command in commands {
        if let [name, args @ ..] = command {
            pipe.cmd(name);
            for arg in args.iter() {
                pipe.arg(*arg);
            }
        }
    }
    pipe.cmd("DISCARD");
    let answers = link.ask(&pipe).await?;
    if let Some(Value::ServerError(error)) = answers.last() {
        // It stays in the transaction: the caller must not go on with it.
        return Err(LinkError::Unexpected(server_error(error)));
    }
    let refused = commands.iter().zip(&answers).filter_map(|(command, answer)| match answer {
        Value::ServerError(error) => Some((named(command), server_error(error))),
        _ => None,
    });
    Ok(Rights::Refuses(refused.collect()))
}

/// REPLICAOF and SLAVEOF are one: either will do.
pub fn either_follows(refused: &mut Vec<(String, String)>) {
    let is_follow = |command: &str| command == "REPLICAOF" || command == "SLAVEOF";
    if refused.iter().filter(|(command, _)| is_follow(command)).count() == 1 {
        refused.retain(|(command, _)| !is_follow(command));
    }
}

/// The server does not know the command, rather than forbid it: `rename-command`, or an older version.
pub fn is_unknown(words: &str) -> bool {
    words.starts_with("ERR unknown command")
}

/// A command without its arguments: `CLIENT KILL`.
pub fn named(command: &[&str]) -> String {
    let words = match command {
        [name @ ("CLIENT" | "CONFIG" | "SENTINEL"), sub, ..] => vec![*name, *sub],
        [name, ..] => vec![*name],
        [] => Vec::new(),
    };
    words.join(" ")
}
