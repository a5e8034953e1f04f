//! Asking one Sentinel, and reconfiguring it.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;

use crate::core::duty::relay::Relay;
use crate::core::duty::sentinels::{Reconfigure, ReconfigureKind};
use crate::core::duty::stale_peers::Forget;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::{
    DownOpinion, FailoverPhase, SentinelAnswer, SentinelGroup, SentinelId, SentinelPeer,
    SentinelReplica, SentinelSettings,
};
use crate::core::situation::data_loss::Replace;
use crate::redis_link::{Fields, Link, LinkError, id, line, list, server_error, text, words};

/// Rows read of one Sentinel's list of replicas or peers. More is a mistake somewhere.
pub const ROWS_MAX: usize = 256;
/// What a Sentinel is asked about a group.
const QUESTIONS: [&str; 4] = ["GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS", "SENTINELS"];
/// Names of other groups that are kept of one Sentinel.
const OTHERS_MAX: usize = 8;
/// How old the last answer to a PING may be, at the least, of an instance that answers, in ms: Sentinel sends one a
/// second.
const PING_REPLY_AGE_MIN_MS: u64 = 2_500;

/// What a Sentinel answers, from 7.0 on, that has done what it was told and could not write it into its config file
/// (`docs/facts/sentinel.md` 16).
pub const NOT_SAVED: &str = "Failed to save config file";

/// What a Sentinel was told, and has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconfigured {
    /// The settings that were sent.
    pub set: Vec<(&'static str, u64)>,
    /// It has it in its config file, as far as it says.
    pub saved: bool,
}

/// Who a Sentinel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id, which it keeps.
    pub id: SentinelId,
    /// Its process, where it says so.
    pub process: Option<String>,
    /// Its words when it does not let this login say a hello to it ([`may_relay`]).
    pub refuses_relay: Option<String>,
    /// What it said last of very many groups: with each question about one it would say a line for all of them.
    pub summary: Option<Arc<Summary>>,
}

/// The channel on which Sentinels say hello to one another.
const HELLO: &str = "__sentinel__:hello";

/// Who the Sentinel is: `SENTINEL MYID`, or before 6.2 the run id of its process.
///
/// # Errors
/// [`LinkError`] without an answer to either.
pub async fn identity(link: &mut Link) -> Result<Identity, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("MYID").cmd("INFO").arg("server");
    let answers = link.ask(&commands).await?;
    let [own, info] = answers.as_slice() else { return Err(unexpected("two answers expected")) };
    let info = words(info);
    let process =
        info.as_ref().ok().and_then(|info| Fields::of_info(info).get("run_id").map(str::to_owned));
    let own = match line(own) {
        Ok(own) => Some(own),
        // Which the login may not be allowed to say.
        Err(_) => {
            info.map_err(LinkError::Unexpected)?;
            process.clone()
        }
    };
    let own = own.ok_or_else(|| unexpected("it has neither MYID nor run_id"))?;
    let process = process.map(|process| id(&process)).transpose().map_err(LinkError::Unexpected)?;
    let id = SentinelId(id(&own).map_err(LinkError::Unexpected)?);
    Ok(Identity { id, process, refuses_relay: None, summary: None })
}

/// Whether the login may say a hello to the Sentinel, asked with one that says nothing: a Sentinel ignores what has not
/// eight parts. Its words where it refuses.
///
/// # Errors
/// [`LinkError`] without an answer.
pub async fn may_relay(link: &mut Link) -> Result<Option<String>, LinkError> {
    match link.call(&["PUBLISH", HELLO, "-"]).await {
        Ok(_) => Ok(None),
        Err(LinkError::Unexpected(words)) => Ok(Some(words)),
        Err(error) => Err(error),
    }
}

/// Tells the Sentinel how an election ended, after it was asked once more what it knows. Whether it was told.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words.
pub async fn relay(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
    relay: &Relay,
) -> Result<bool, LinkError> {
    if !relay.still_holds(&ask(link, id, group).await?) {
        return Ok(false);
    }
    link.call(&["PUBLISH", HELLO, &relay.hello(group)]).await?;
    Ok(true)
}

/// What the Sentinel says of one group. All commands go out in one write, so a Sentinel, which is
/// single-threaded, answers them from one state (`docs/facts/sentinel.md` 0.1).
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn ask(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
) -> Result<SentinelAnswer, LinkError> {
    if let Some(summary) = &id.summary {
        let answers = ask_all(link, id, std::slice::from_ref(group), summary).await?;
        return answers.into_iter().next().unwrap_or(Err(unexpected("no answer")));
    }
    let name = group.as_str();
    let mut commands = redis::pipe();
    for what in QUESTIONS {
        commands.cmd("SENTINEL").arg(what).arg(name);
    }
    commands.cmd("INFO").arg("sentinel");
    let answers = link.ask(&commands).await?;
    let [of_group @ .., info] = answers.as_slice() else {
        return Err(unexpected("five answers expected"));
    };
    let info = words(info).map_err(LinkError::Unexpected)?;
    let fields = Fields::of_info(&info);
    answer_of(id, of_group, is_in_tilt(&fields), || monitored(&fields))
}

/// What a Sentinel says of all its groups in one answer: `INFO sentinel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// It does not trust its clock.
    pub tilt: bool,
    /// What it says of each group: its state, its primary, and how many replicas and Sentinels it has.
    pub groups: BTreeMap<GroupName, String>,
}

/// Asks what the Sentinel says of all its groups.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn summary(link: &mut Link) -> Result<Summary, LinkError> {
    let info = link.call(&["INFO", "sentinel"]).await?;
    let info = words(&info).map_err(LinkError::Unexpected)?;
    let fields = Fields::of_info(&info);
    let tilt = is_in_tilt(&fields);
    let row = |row: &str| {
        let (name, rest) = row.strip_prefix("name=")?.split_once(',')?;
        Some((name.parse().ok()?, rest.to_owned()))
    };
    let rows = fields.iter().filter(|(name, _)| is_group_row(name));
    let groups = rows.filter_map(|(_, text)| row(text)).collect();
    Ok(Summary { tilt, groups })
}

/// The same as [`ask`] about several groups in one write, where the [`Summary`] is known.
///
/// # Errors
/// [`LinkError`] without an answer. For each group, what is wrong with the answer about it.
pub async fn ask_all(
    link: &mut Link,
    id: &Identity,
    groups: &[GroupName],
    summary: &Summary,
) -> Result<Vec<Result<SentinelAnswer, LinkError>>, LinkError> {
    let mut commands = redis::pipe();
    for group in groups {
        for what in QUESTIONS {
            commands.cmd("SENTINEL").arg(what).arg(group.as_str());
        }
    }
    let answers = link.ask(&commands).await?;
    let others = || summary.groups.keys().take(OTHERS_MAX).cloned().collect();
    let one = |answers: &[Value]| answer_of(id, answers, summary.tilt, others);
    Ok(answers.chunks(QUESTIONS.len()).map(one).collect())
}

/// What the answers to [`QUESTIONS`] say; the names of other groups matter where it does not know this one.
pub(crate) fn answer_of(
    id: &Identity,
    answers: &[Value],
    tilt: bool,
    others: impl FnOnce() -> Vec<GroupName>,
) -> Result<SentinelAnswer, LinkError> {
    let [primary, master, replicas, peers] = answers else {
        return Err(unexpected("four answers expected"));
    };
    let group = match primary {
        Value::Nil => None,
        Value::ServerError(error) => {
            return Err(LinkError::Unexpected(refusal(server_error(error))));
        }
        primary => {
            Some(parse_group(primary, master, replicas, peers).map_err(LinkError::Unexpected)?)
        }
    };
    let others = if group.is_none() { others() } else { Vec::new() };
    let Identity { id, process, refuses_relay, .. } = id.clone();
    Ok(SentinelAnswer { id, process, tilt, group, others, refuses_relay })
}

fn is_in_tilt(info: &Fields<'_>) -> bool {
    info.get("sentinel_tilt").is_some_and(|tilt| tilt != "0")
}

/// What a server says that answers no question about a group. One that does not know `SENTINEL` is a Redis.
fn refusal(words: String) -> String {
    if words.contains("unknown command") {
        format!("a Redis, and no Sentinel, listens there ({words})")
    } else {
        words
    }
}

fn is_group_row(name: &str) -> bool {
    name.strip_prefix("master").is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The groups that INFO names: `master0:name=mymaster,status=ok,...`.
fn monitored(info: &Fields<'_>) -> Vec<GroupName> {
    let rows = info.iter().filter(|(name, _)| is_group_row(name)).take(OTHERS_MAX);
    rows.filter_map(|(_, row)| row.strip_prefix("name=")?.split(',').next()?.parse().ok()).collect()
}

/// The groups the Sentinel monitors.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn groups(link: &mut Link) -> Result<Vec<GroupName>, LinkError> {
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("MASTERS");
    let answers = link.ask(&commands).await?;
    let rows = answers.first().map_or(Ok(&[][..]), list).map_err(LinkError::Unexpected)?;
    let mut groups: Vec<GroupName> = rows
        .iter()
        .take(ROWS_MAX)
        .filter_map(|row| Fields::of_list(row).ok()?.get("name")?.parse().ok())
        .collect();
    groups.sort();
    Ok(groups)
}

/// Tells the Sentinel what [`Reconfigure`] says, after it was asked once more what it knows. `None`: that has changed
/// meanwhile, or its answer has come too late.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words.
pub async fn reconfigure(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
    reconfigure: &Reconfigure,
    auth: &[(&str, String)],
    in_time: impl Fn() -> bool,
) -> Result<Option<Reconfigured>, LinkError> {
    let now = ask(link, id, group).await?;
    if !reconfigure.still_holds(&now) || !in_time() {
        return Ok(None);
    }
    let name = group.as_str();
    if let ReconfigureKind::Reboot(ms) = reconfigure.what {
        return set_reboot(link, name, ms).await;
    }
    let settings = reconfigure.settings;
    let mut commands = redis::pipe();
    if reconfigure.what == ReconfigureKind::Repoint {
        commands.cmd("SENTINEL").arg("REMOVE").arg(name);
    }
    let alone = matches!(reconfigure.what, ReconfigureKind::Settings | ReconfigureKind::Pace(_));
    if !alone {
        let (host, port) = (reconfigure.primary.host(), reconfigure.primary.port());
        commands.cmd("SENTINEL").arg("MONITOR").arg(name).arg(host).arg(port).arg(settings.quorum);
    }
    let auth = if alone { &[] } else { auth };
    add_set(&mut commands, name, auth);
    let set = reconfigure.to_set(now.group.map_or(reconfigure.had, |group| group.settings));
    add_set(&mut commands, name, &set);
    let saved = all_done(link, &commands).await?;
    Ok(Some(Reconfigured { set, saved }))
}

/// Sets how long a restarted primary may load. A Sentinel before 7.0 does not know the setting, and is left as it is.
async fn set_reboot(
    link: &mut Link,
    name: &str,
    ms: u64,
) -> Result<Option<Reconfigured>, LinkError> {
    const OPTION: &str = "master-reboot-down-after-period";
    match link.call_to_save(&["SENTINEL", "SET", name, OPTION, &ms.to_string()]).await {
        Ok(_) => Ok(Some(Reconfigured { set: Vec::new(), saved: true })),
        Err(LinkError::Unexpected(error)) if error.contains(NOT_SAVED) => {
            Ok(Some(Reconfigured { set: Vec::new(), saved: false }))
        }
        Err(LinkError::Unexpected(refused)) if refused.contains("Unknown option") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets options of a group that the Sentinel monitors. Whether it has them in its config file, too.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words.
pub async fn set(
    link: &mut Link,
    group: &GroupName,
    options: &[(&str, String)],
) -> Result<bool, LinkError> {
    let mut commands = redis::pipe();
    add_set(&mut commands, group.as_str(), options);
    all_done(link, &commands).await
}

/// All options by one command: a Sentinel stands still while its config is saved, and saves it for each command.
fn add_set<V: redis::ToRedisArgs>(
    commands: &mut redis::Pipeline,
    group: &str,
    options: &[(&str, V)],
) {
    if options.is_empty() {
        return;
    }
    let command = commands.cmd("SENTINEL").arg("SET").arg(group);
    for (option, value) in options {
        command.arg(*option).arg(value);
    }
}

/// Has the Sentinel let go of a group whose primary is gone, after it was asked once more. `None`: that has changed.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words.
pub async fn remove(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
    reconfigure: &Reconfigure,
) -> Result<Option<Reconfigured>, LinkError> {
    if !reconfigure.still_holds(&ask(link, id, group).await?) {
        return Ok(None);
    }
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("REMOVE").arg(group.as_str());
    let saved = all_done(link, &commands).await?;
    Ok(Some(Reconfigured { set: Vec::new(), saved }))
}

/// Whether all of it is in the Sentinel's config file, too. What is done and not saved is done.
async fn all_done(link: &mut Link, commands: &redis::Pipeline) -> Result<bool, LinkError> {
    let mut saved = true;
    for answer in link.ask_to_save(commands).await? {
        match text(&answer) {
            Ok(_) => {}
            Err(error) if error.contains(NOT_SAVED) => saved = false,
            Err(error) => return Err(LinkError::Unexpected(error)),
        }
    }
    Ok(saved)
}

/// The instances that the Sentinel calls down, and that answer it with errors: as a rule they do not let it in.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn refusing(link: &mut Link, group: &GroupName) -> Result<Vec<Address>, LinkError> {
    let mut commands = redis::pipe();
    for what in ["MASTER", "REPLICAS"] {
        commands.cmd("SENTINEL").arg(what).arg(group.as_str());
    }
    let answers = link.ask(&commands).await?;
    let [master, replicas] = answers.as_slice() else {
        return Err(unexpected("two answers expected"));
    };
    let rows = std::iter::once(master).chain(list(replicas).map_err(LinkError::Unexpected)?);
    let refuse = rows.take(ROWS_MAX).filter_map(|row| {
        let row = Fields::of_list(row).ok()?;
        let refuses = flags(&row).contains(&"s_down") && answers_with_an_error(&row);
        refuses.then(|| address(row.get("ip")?, row.get("port")?).ok())?
    });
    Ok(refuse.collect())
}

/// Has the Sentinel forget the peers that [`Forget`] names, after it was asked once more. Whether it did.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words.
pub async fn forget(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
    forget: &Forget,
) -> Result<bool, LinkError> {
    if !forget.still_holds(&ask(link, id, group).await?) {
        return Ok(false);
    }
    link.call(&["SENTINEL", "RESET", group.as_str()]).await?;
    Ok(true)
}

/// Asks the Sentinel for a failover, after it was asked once more what it knows. Whether the failover was asked for.
///
/// # Errors
/// [`LinkError`] without an answer, or with a refusal in the Sentinel's words (`NOGOODSLAVE`, `INPROG`).
pub async fn replace(
    link: &mut Link,
    id: &Identity,
    group: &GroupName,
    replace: &Replace,
) -> Result<bool, LinkError> {
    if !replace.still_holds(&ask(link, id, group).await?) {
        return Ok(false);
    }
    link.call(&["SENTINEL", "FAILOVER", group.as_str()]).await?;
    Ok(true)
}

/// Whether the Sentinel has given up the failover of this primary that it was asked for: it leads none, and names that
/// primary still. The end of a failover, and the name of the new primary, are one to it.
///
/// # Errors
/// [`LinkError`] without an answer, or with one that cannot be read.
pub async fn gave_up(
    link: &mut Link,
    group: &GroupName,
    primary: &Address,
) -> Result<bool, LinkError> {
    let answer = link.call(&["SENTINEL", "MASTER", group.as_str()]).await?;
    let read = || -> Result<bool, String> {
        let master = Fields::of_list(&answer)?;
        let named = address(field(&master, "ip")?, field(&master, "port")?)?;
        Ok(named == *primary && !flags(&master).contains(&"failover_in_progress"))
    };
    read().map_err(LinkError::Unexpected)
}

fn unexpected(what: &str) -> LinkError {
    LinkError::Unexpected(what.to_owned())
}

fn rows(value: &Value) -> Result<Vec<Fields<'_>>, String> {
    list(value)?.iter().take(ROWS_MAX).map(Fields::of_list).collect()
}

fn parse_group(
    primary: &Value,
    master: &Value,
    replicas: &Value,
    peers: &Value,
) -> Result<SentinelGroup, String> {
    let primary = match list(primary)? {
        [host, port] => address(&line(host)?, &line(port)?)?,
        other => return Err(format!("an address expected, got a list of {}", other.len())),
    };
    let master = Fields::of_list(master)?;
    let flags = flags(&master);
    let peers = rows(peers)?;
    Ok(SentinelGroup {
        primary,
        monitored: address(field(&master, "ip")?, field(&master, "port")?)?,
        config_epoch: number(&master, "config-epoch")?,
        down: match () {
            () if flags.contains(&"o_down") => DownOpinion::Objective,
            () if flags.contains(&"s_down") => DownOpinion::Subjective,
            () => DownOpinion::Up,
        },
        only_master_flag: flags == ["master"],
        disconnected: flags.contains(&"disconnected"),
        failover: master.get("failover-state").and_then(FailoverPhase::parse),
        failover_forced: flags.contains(&"force_failover"),
        // One whose address another has taken stays with port 0 (`+sentinel-invalid-addr`).
        other_sentinels: other_sentinels(&master)?
            .saturating_sub(peers.iter().filter(|row| is_invalid(row)).count()),
        settings: SentinelSettings {
            quorum: number(&master, "quorum")?,
            down_after_ms: number(&master, "down-after-milliseconds")?,
            failover_timeout_ms: number(&master, "failover-timeout")?,
            parallel_syncs: number(&master, "parallel-syncs")?,
        },
        // A row without a usable address is one of Redis's phantoms (redis#14728): skipped.
        replicas: rows(replicas)?.iter().filter_map(parse_replica).collect(),
        peers: peers.iter().filter_map(parse_peer).collect(),
    })
}

/// One that says that it knows more than can be listed would have every majority be missed.
fn other_sentinels(master: &Fields<'_>) -> Result<usize, String> {
    let known = number(master, "num-other-sentinels")?;
    let known = usize::try_from(known).ok().filter(|known| *known <= ROWS_MAX);
    known.ok_or_else(|| format!("more than {ROWS_MAX} other Sentinels"))
}

fn is_invalid(row: &Fields<'_>) -> bool {
    row.get("port").is_some_and(|port| port == "0")
}

fn parse_replica(row: &Fields<'_>) -> Option<SentinelReplica> {
    let flags = flags(row);
    Some(SentinelReplica {
        address: address(row.get("ip")?, row.get("port")?).ok()?,
        s_down: flags.contains(&"s_down") && !answers_with_an_error(row),
        promoted: flags.contains(&"promoted"),
        priority: row.get("slave-priority").and_then(|priority| priority.parse().ok()),
    })
}

/// It answers PING, and its answers do not count for Sentinel: all but PONG, LOADING and MASTERDOWN
/// (`docs/facts/sentinel.md` 8).
fn answers_with_an_error(row: &Fields<'_>) -> bool {
    let ms = |name: &str| number(row, name).ok();
    let (any, good) = (ms("last-ping-reply"), ms("last-ok-ping-reply"));
    let recent = ms("down-after-milliseconds").unwrap_or_default().max(PING_REPLY_AGE_MIN_MS);
    any.zip(good).is_some_and(|(any, good)| any < good && any < recent)
}

fn parse_peer(row: &Fields<'_>) -> Option<SentinelPeer> {
    let voted = row
        .get("voted-leader")
        .filter(|leader| *leader != "?")
        .zip(row.get("voted-leader-epoch").and_then(|epoch| epoch.parse().ok()))
        .and_then(|(leader, epoch)| Some((SentinelId(id(leader).ok()?), epoch)));
    Some(SentinelPeer {
        address: address(row.get("ip")?, row.get("port")?).ok()?,
        id: SentinelId(id(row.get("runid")?).ok()?),
        s_down: flags(row).contains(&"s_down"),
        voted,
    })
}

fn flags<'a>(row: &'a Fields<'_>) -> Vec<&'a str> {
    row.get("flags").map(|flags| flags.split(',').collect()).unwrap_or_default()
}

fn field<'a>(row: &'a Fields<'_>, name: &str) -> Result<&'a str, String> {
    row.get(name).ok_or_else(|| format!("no field `{name}`"))
}

fn number(row: &Fields<'_>, name: &str) -> Result<u64, String> {
    let text = field(row, name)?;
    text.parse().map_err(|_| format!("field `{name}` is no number: {text}"))
}

fn address(host: &str, port: &str) -> Result<Address, String> {
    let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    Address::new(host, port).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: SentinelSettings = SentinelSettings {
        quorum: 2,
        down_after_ms: 1_500,
        failover_timeout_ms: 20_000,
        parallel_syncs: 1,
    };

    fn answer(primary: &str, failover: Option<FailoverPhase>) -> SentinelAnswer {
        let primary: Address = primary.parse().unwrap();
        let group = SentinelGroup {
            monitored: primary.clone(),
            primary,
            config_epoch: 1,
            down: DownOpinion::Objective,
            only_master_flag: false,
            disconnected: false,
            failover,
            failover_forced: false,
            other_sentinels: 2,
            settings: SETTINGS,
            replicas: Vec::new(),
            peers: Vec::new(),
        };
        SentinelAnswer {
            id: SentinelId("a".to_owned()),
            process: None,
            tilt: false,
            group: Some(group),
            others: Vec::new(),
            refuses_relay: None,
        }
    }

    #[test]
    fn a_sentinel_is_reconfigured_only_while_the_decision_holds() {
        let (old, new) = ("10.0.0.1:6379", "10.0.0.2:6379");
        let reconfigure = |what, settings| Reconfigure {
            sentinel: "10.0.0.9:26379".parse().unwrap(),
            what,
            primary: new.parse().unwrap(),
            settings,
            had: SETTINGS,
            epoch: 1,
        };
        let nothing = SentinelAnswer { group: None, ..answer(old, None) };
        let holds = |what, now: &SentinelAnswer| reconfigure(what, SETTINGS).still_holds(now);
        assert!(holds(ReconfigureKind::Monitor, &nothing));
        assert!(!holds(ReconfigureKind::Monitor, &answer(old, None)));
        assert!(holds(ReconfigureKind::Repoint, &answer(old, None)));
        assert!(!holds(ReconfigureKind::Repoint, &answer(new, None)), "it knows by now");
        let leads = answer(old, Some(FailoverPhase::WaitPromotion));
        assert!(!holds(ReconfigureKind::Repoint, &leads), "it would forget its failover");
        let mut stuck = answer(old, Some(FailoverPhase::ReconfReplicas));
        assert!(!holds(ReconfigureKind::Repoint, &stuck), "it ends by itself");
        stuck.group.as_mut().unwrap().replicas.push(SentinelReplica {
            address: old.parse().unwrap(),
            s_down: true,
            promoted: true,
            priority: None,
        });
        assert!(holds(ReconfigureKind::Repoint, &stuck));
        assert!(!holds(ReconfigureKind::Repoint, &nothing), "what it lacks it gets by MONITOR");
        assert!(holds(ReconfigureKind::Remove(1), &answer(old, None)));
        assert!(!holds(ReconfigureKind::Remove(1), &leads));
        assert!(!holds(ReconfigureKind::Settings, &answer(new, None)), "it has them by now");
        let other = SentinelSettings { quorum: 3, ..SETTINGS };
        assert!(reconfigure(ReconfigureKind::Settings, other).still_holds(&answer(new, None)));
        assert!(!holds(ReconfigureKind::Settings, &nothing));
    }

    #[test]
    fn a_sentinel_is_hurried_only_while_the_vote_is_open() {
        let (old, new) = ("10.0.0.1:6379", "10.0.0.2:6379");
        let quick = SentinelSettings { down_after_ms: 200, ..SETTINGS };
        let pace = |settings: SentinelSettings, had| Reconfigure {
            sentinel: "10.0.0.9:26379".parse().unwrap(),
            what: ReconfigureKind::Pace(settings.down_after_ms),
            primary: old.parse().unwrap(),
            settings,
            had,
            epoch: 1,
        };
        let (hurry, restore) = (pace(quick, SETTINGS), pace(SETTINGS, quick));
        assert!(hurry.hastens() && !restore.hastens());
        assert!(hurry.within_ms() < restore.within_ms());
        assert!(hurry.still_holds(&answer(old, None)));
        assert!(hurry.still_holds(&answer(old, Some(FailoverPhase::WaitStart))), "not elected");
        // The vote is over: what is monitored now is the new primary, or soon is.
        assert!(!hurry.still_holds(&answer(new, None)));
        assert!(!hurry.still_holds(&answer(old, Some(FailoverPhase::WaitPromotion))));
        let mut later = answer(old, None);
        later.group.as_mut().unwrap().config_epoch = 2;
        assert!(!hurry.still_holds(&later));
        // It waits as before again in any case.
        for at in [old, new] {
            let mut hurried = answer(at, None);
            hurried.group.as_mut().unwrap().settings = quick;
            assert!(restore.still_holds(&hurried));
        }
    }
}
