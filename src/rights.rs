//! What a login may do on a server, asked without doing any of it.
//!
//! Every command is put into a transaction that is then discarded: a server refuses what it does not know and what the
//! login may not do when it is put in (`docs/facts/sentinel.md` 16). This needs no right but `MULTI`, works from 6.0
//! on, and heeds `rename-command`, which `ACL DRYRUN` does not.

use redis::Value;

use crate::redis_link::{Link, LinkError, list, server_error, text};

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

/// What of `commands` another user may not do: by `ACL DRYRUN`, and before Redis 7.0 by the user's rules. A command
/// that the server does not know by its name is none of them. `Err(_)` within: this login may not ask.
///
/// # Errors
/// [`LinkError`] without an answer.
pub async fn lacks(
    link: &mut Link,
    user: &str,
    commands: &[&[&str]],
) -> Result<Result<Vec<String>, String>, LinkError> {
    let mut pipe = redis::pipe();
    for command in commands {
        pipe.cmd("ACL").arg("DRYRUN").arg(user);
        for word in command.iter() {
            pipe.arg(*word);
        }
    }
    let mut lacks = Vec::new();
    for (command, answer) in commands.iter().zip(link.ask(&pipe).await?) {
        match text(&answer) {
            Ok(said) if said == "OK" => {}
            Ok(_) => lacks.push(named(command)),
            Err(error) if error.contains("not found") => {}
            Err(error) if error.to_lowercase().contains("unknown subcommand") => {
                return lacks_by_rules(link, user, commands).await;
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(lacks))
}

async fn lacks_by_rules(
    link: &mut Link,
    user: &str,
    commands: &[&[&str]],
) -> Result<Result<Vec<String>, String>, LinkError> {
    let mut pipe = redis::pipe();
    pipe.cmd("ACL").arg("GETUSER").arg(user).cmd("COMMAND").arg("INFO");
    for command in commands {
        pipe.arg(command.first().copied().unwrap_or_default());
    }
    let answers = link.ask(&pipe).await?;
    let [rules, known] = answers.as_slice() else {
        return Err(LinkError::Unexpected("two answers expected".to_owned()));
    };
    Ok(Rules::parse(rules).and_then(|rules| rules.lacks(commands, list(known)?)))
}

/// A user's rules, as `ACL GETUSER` has them before Redis 7.0 (`docs/facts/sentinel.md` 19).
#[derive(Debug, Default)]
struct Rules {
    /// `-@all +ping +config|rewrite`: the last one that fits a command decides.
    commands: String,
    /// The patterns of its channels, from 6.2 on.
    channels: Option<Vec<String>>,
}

impl Rules {
    fn parse(answer: &Value) -> Result<Self, String> {
        let mut rules = Self::default();
        for pair in list(answer)?.chunks(2) {
            let [name, value] = pair else { continue };
            match text(name)?.as_str() {
                "commands" => rules.commands = text(value)?,
                "channels" => {
                    rules.channels = Some(list(value)?.iter().map(text).collect::<Result<_, _>>()?);
                }
                _ => {}
            }
        }
        Ok(rules)
    }

    /// What they do not allow; `known` is what `COMMAND INFO` says of each.
    fn lacks(&self, commands: &[&[&str]], known: &[Value]) -> Result<Vec<String>, String> {
        let mut lacks = Vec::new();
        for (command, known) in commands.iter().zip(known) {
            // Renamed, or of a later version.
            let Ok([_, _, _, _, _, _, categories, ..]) = list(known) else { continue };
            let categories: Vec<String> =
                list(categories)?.iter().map(text).collect::<Result<_, _>>()?;
            if !self.allow(command, &categories) {
                lacks.push(named(command));
            }
        }
        Ok(lacks)
    }

    fn allow(&self, command: &[&str], categories: &[String]) -> bool {
        let [name, args @ ..] = command else { return true };
        let fits = |what: &str| match what.split_once('|') {
            Some((of, sub)) => {
                of.eq_ignore_ascii_case(name)
                    && args.first().is_some_and(|arg| arg.eq_ignore_ascii_case(sub))
            }
            None if what.starts_with('@') => {
                what == "@all" || categories.iter().any(|category| category == what)
            }
            None => what.eq_ignore_ascii_case(name),
        };
        let decides = |rule: &&str| fits(rule.trim_start_matches(['+', '-']));
        let last = self.commands.split_whitespace().rfind(decides);
        let to_channel = matches!(*name, "PUBLISH" | "SUBSCRIBE");
        let channel = args.first().filter(|_| to_channel);
        let heard = |channel: &&str| {
            let patterns = self.channels.as_ref();
            patterns.is_none_or(|all| all.iter().any(|pattern| may_match(pattern, channel)))
        };
        last.is_some_and(|rule| rule.starts_with('+')) && channel.is_none_or(heard)
    }
}

/// The pattern is the word, or begins as the word does up to its first special character: what comes after that is
/// not looked at, so that no right is missed that is there.
fn may_match(pattern: &str, word: &str) -> bool {
    match pattern.split_once(['*', '?', '[', '\\']) {
        Some((start, _)) => word.starts_with(start),
        None => pattern == word,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentinel::login::SENTINEL_NEEDS;

    /// The categories as Redis 6.0.16 says them.
    fn categories(command: &str) -> Vec<String> {
        let all: &[&str] = match command {
            "CONFIG" | "SLAVEOF" => &["@admin", "@slow", "@dangerous"],
            "CLIENT" => &["@admin", "@slow", "@dangerous", "@connection"],
            "PUBLISH" => &["@pubsub", "@fast"],
            "SUBSCRIBE" => &["@pubsub", "@slow"],
            "INFO" => &["@slow", "@dangerous"],
            _ => &["@fast", "@connection"],
        };
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn lacking(commands: &str, channels: Option<&[&str]>) -> Vec<String> {
        let channels = channels.map(|all| all.iter().map(|name| (*name).to_owned()).collect());
        let rules = Rules { commands: commands.to_owned(), channels };
        let lacks = |need: &&&[&str]| !rules.allow(need, &categories(need[0]));
        SENTINEL_NEEDS.iter().filter(lacks).map(|need| named(need)).collect()
    }

    #[test]
    fn the_last_rule_that_fits_a_command_decides() {
        let none: [&str; 0] = [];
        assert_eq!(lacking("+@all", None), none);
        assert_eq!(lacking("", None).len(), SENTINEL_NEEDS.len());
        let documented = "-@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info \
                          +client|setname +client|kill +script|kill";
        assert_eq!(lacking(documented, None), none);
        assert_eq!(
            lacking("+@all -@dangerous", None),
            ["INFO", "SLAVEOF", "CONFIG REWRITE", "CLIENT KILL"]
        );
        let some = "+@all -@dangerous +info +slaveof +config|get +client|kill";
        assert_eq!(lacking(some, None), ["CONFIG REWRITE"]);
        assert_eq!(lacking("+@all -@admin +@admin -publish", None), ["PUBLISH"]);
    }

    #[test]
    fn a_channel_is_a_right_of_its_own_from_6_2_on() {
        let none: [&str; 0] = [];
        assert_eq!(lacking("+@all", Some(&["*"])), none);
        assert_eq!(lacking("+@all", Some(&["news:*", "__sentinel__:hello"])), none);
        assert_eq!(lacking("+@all", Some(&["__sentinel__:h?llo"])), none);
        assert_eq!(lacking("+@all", Some(&[])), ["PUBLISH", "SUBSCRIBE"]);
        assert_eq!(lacking("+@all", Some(&["news:*", "__sentinel__"])), ["PUBLISH", "SUBSCRIBE"]);
    }
}
