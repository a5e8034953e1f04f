//! Moving a primary on purpose, without losing an acknowledged write.
//!
//! Writes are paused on the old primary until its replicas have them all; one Sentinel fails over; the agents publish
//! the new primary; and the old one is made its replica before the pause ends, so no write is ever taken by a primary
//! that is about to lose it (`docs/facts/sentinel.md` 4.4). Where it cannot pause them (before Redis 6.2), it is made a
//! replica before another one is promoted.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{Config, GroupConfig};
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::duty::switchover::{Check, Stops, Switchover, has_all, has_said, retire};
use crate::core::group::Outcome;
use crate::core::identity::address::Address;
use crate::core::known::memory::Memory;
use crate::core::known::observed::InstanceAnswer;
use crate::core::known::view::View;
use crate::core::published::projection::Op;
use crate::dns::Names;
use crate::doctor::sentinel_users;
use crate::exit::{Exit, Failure};
use crate::instance::{self, FOLLOW_AT_ONCE, PRIORITY, probe};
use crate::observe::look;
use crate::redis_link::{Link, LinkError, LinkSettings, list, text};
use crate::rights::{Rights, either_follows, is_unknown, may};
use crate::sentinel::login::SENTINEL_NEEDS;
use crate::sentinel::query;

/// How long writes are paused at the most: the pause ends by itself if we die.
const PAUSE: Duration = Duration::from_secs(5);
/// The same on a server that is being stopped, from the beginning: longer than the move, the agent's leaving and the
/// server's end take together. However the move ends, and wherever it is broken off, the server takes none again.
const HELD_UNTIL_STOPPED: Duration = Duration::from_secs(60);
/// How long the replicas may take to catch up while writes are paused.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How long the primary may take to hear from each replica how far it is: they say it every second.
const HEARD_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at that.
const HEARD_STEP: Duration = Duration::from_millis(20);
/// How long Sentinel may take to promote one.
const PROMOTION_MAX: Duration = Duration::from_secs(4);
/// How long the agents and the majority may take to follow.
const FOLLOW_MAX: Duration = Duration::from_secs(30);
/// How long the old primary may take to follow the new one.
const RETIRE_MAX: Duration = Duration::from_secs(5);
/// How long Sentinel may take to read a changed priority: its INFO period is 10 s.
const PRIORITY_MAX: Duration = Duration::from_secs(15);
/// How often the pause is renewed until the old primary follows.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// A move that was noted longer ago than this has died: longer than all its steps may take together.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// Pause between two questions.
const STEP: Duration = Duration::from_millis(5);
/// Between two attempts to take back that a move is under way, while Consul is away.
const END_STEP: Duration = Duration::from_millis(250);
/// The priority of the replica that is asked for: below every other in use.
const FIRST_PRIORITY: u64 = 1;

/// One step of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverStep {
    /// When, since writes were paused; `None` before that.
    pub after: Option<Duration>,
    /// The step in one word, as JSON has it.
    pub what: &'static str,
    /// The server and what it said, in words.
    pub detail: String,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The primary before.
    pub from: Address,
    /// The primary now.
    pub to: Address,
    /// How long no write was possible.
    pub gap: Duration,
}

/// Moves one group's primary.
pub struct Mover<'a> {
    /// How to find Sentinels and instances, and how to log in to them.
    pub config: &'a Config,
    /// The group whose primary moves.
    pub group: &'a GroupConfig,
    /// Where the agents publish.
    pub consul: &'a Consul,
    /// The clock of all readings.
    pub clock: Clock,
    /// The old primary is about to be stopped: whatever becomes of the move, it takes no writes any more. A replica may
    /// have been promoted unseen, or be chosen once it is gone.
    pub server_stops: bool,
    /// How long a Consul that is away is waited for, to take back that a move is under way.
    pub waits_for_consul: Duration,
    /// Hears of each step.
    pub report: &'a (dyn Fn(SwitchoverStep) + Sync),
}

impl Mover<'_> {
    /// Makes the move that [`crate::core::duty::switchover::prepare`] has found possible.
    ///
    /// # Errors
    /// A [`Failure`] when a step does not happen in time; writes go on where they were.
    pub async fn go(&self, switchover: &Switchover) -> Result<Moved, Failure> {
        let alone = self.begin_alone().await?;
        let moved = self.go_alone(switchover).await;
        self.end_alone(alone).await;
        moved
    }

    /// Takes back what [`Self::begin_alone`] has noted: while it stands, no dead writer is replaced at once, and no
    /// other move begins.
    async fn end_alone(&self, noted: u64) {
        let key = self.group.layout.moving();
        let ops = [
            Op::KeyCheckIndex { key: key.clone(), index: noted },
            Op::KeyDeleteTree { prefix: key },
        ];
        let until = Instant::now() + self.waits_for_consul;
        let mut waits = false;
        loop {
            match self.consul.txn(&ops, "").await {
                // Lost: an answer that did not come was a deletion, or another move has passed over this one.
                Outcome::Committed { .. } | Outcome::Lost => return,
                Outcome::Refused(_) => break,
                Outcome::Unknown(_) if Instant::now() >= until => break,
                Outcome::Unknown(_) => {
                    if !waits {
                        let what = "for Consul, which has noted that a move is under way";
                        self.note("waits", what.to_owned());
                    }
                    waits = true;
                    tokio::time::sleep(END_STEP).await;
                }
            }
        }
        let message = format!("that a move is under way, for {} s more", MOVE_MAX.as_secs());
        self.note("noted", message);
    }

    /// Writes down in Consul that a move is under way: one that gives up ends the pause of another. Its ModifyIndex.
    async fn begin_alone(&self) -> Result<u64, Failure> {
        let key = self.group.layout.moving();
        let now = self.clock.now().wall;
        let found = self.consul.key(&key).await?;
        let index = match found {
            None => 0,
            Some((value, index)) => {
                let text = String::from_utf8_lossy(&value).into_owned();
                let since = text.parse::<Timestamp>().ok();
                let age = since.map(|since| now.duration_since(since).unsigned_abs());
                if age.is_some_and(|age| age < MOVE_MAX) {
                    let message = format!("not moved: another move is under way since {text}");
                    let hint = format!(
                        "try again when it has ended; one that died is passed over after {} s, or delete the key {key}",
                        MOVE_MAX.as_secs()
                    );
                    return Err(Failure::new(Exit::Failed, message).hint(hint));
                }
                index
            }
        };
        let op = Op::KeyCas { key: key.clone(), index, value: now.to_string() };
        match self.consul.txn(&[op], &key).await {
            Outcome::Committed { index } => Ok(index),
            Outcome::Lost => {
                Err(Failure::new(Exit::Failed, "not moved: another move has just begun"))
            }
            Outcome::Refused(what) | Outcome::Unknown(what) => {
                let message =
                    format!("not moved: that a move begins cannot be noted in {key}: {what}");
                Err(Failure::new(Exit::Failed, message)
                    .hint("the token needs to write the group's keys (consul/agent-policy.hcl)"))
            }
        }
    }

    async fn go_alone(&self, switchover: &Switchover) -> Result<Moved, Failure> {
        let priority = match &switchover.to {
            Some(to) => Some((to, self.prefer(to, &switchover.sentinel).await?)),
            None => None,
        };
        let moved = match self.until_heard(switchover).await {
            Ok(()) => self.move_primary(switchover).await,
            Err(failure) => Err(failure),
        };
        if let Some((to, before)) = priority {
            // Whatever became of it, the next election is as before.
            let command = ["CONFIG", "SET", PRIORITY, before.as_str()];
            if let Err(error) = self.instance(to, &command).await {
                self.note(
                    "priority",
                    format!("{to} keeps {FIRST_PRIORITY}, was {before}: {error}"),
                );
            }
        }
        moved
    }

    /// Where the old primary follows first, its replicas must all have been sent the same by then: waits until it has
    /// heard from each that may be chosen.
    async fn until_heard(&self, switchover: &Switchover) -> Result<(), Failure> {
        if switchover.stops == Stops::Holding {
            return Ok(());
        }
        let from = &switchover.from;
        let until = Instant::now() + HEARD_MAX;
        let mut target = None;
        loop {
            let primary = self.probe(from).await.map_err(|error| failed(from, &error))?;
            let target = *target.get_or_insert(primary.offset);
            let mut wanted = wanted(switchover).iter();
            let Some(silent) = wanted.find(|at| !has_said(target, &primary, at)) else {
                return Ok(());
            };
            if Instant::now() > until {
                let message = format!("not moved: {from} has not heard how far {silent} is");
                let failure = Failure::new(Exit::Failed, message);
                return Err(failure.hint(format!("writes go on at {from}")));
            }
            tokio::time::sleep(HEARD_STEP).await;
        }
    }

    async fn move_primary(&self, switchover: &Switchover) -> Result<Moved, Failure> {
        let from = &switchover.from;
        let mut old = Link::open(from, &self.group.login).await.map_err(|e| failed(from, &e))?;
        let begun = Instant::now();
        let (promoted, renewed) = match &switchover.stops {
            Stops::Holding => {
                let pause = if self.server_stops { HELD_UNTIL_STOPPED } else { PAUSE };
                instance::hold(&mut old, ms(pause)).await.map_err(|error| failed(from, &error))?;
                self.step(begun, "paused", &format!("writes on {from}"));
                let renewed = keep_paused(from.clone(), self.group.login.clone(), pause);
                (self.promote(switchover, &mut old, begun).await, Some(renewed))
            }
            Stops::Following(first) => {
                // One that did not answer may have done it.
                let sent = instance::follow_at_once(&mut old, first).await;
                if let Err(error @ LinkError::Unexpected(_)) = &sent {
                    return Err(failed(from, error).hint(format!("writes go on at {from}")));
                }
                let promoted = match sent {
                    Ok(true) => {
                        self.step(
                            begun,
                            "paused",
                            &format!("writes on {from}, which follows {first}"),
                        );
                        self.promote_sent(switchover, begun).await
                    }
                    Ok(false) => Err(Failure::new(
                        Exit::Failed,
                        format!(
                            "not moved: a replica of {from} was not sent all that it had taken"
                        ),
                    )),
                    Err(error) => Err(failed(from, &error)),
                };
                (promoted, None)
            }
        };
        let new = match promoted {
            Ok(new) => new,
            Err(failure) if self.server_stops => {
                return Err(failure.hint(format!("{from} takes no writes: it is being stopped")));
            }
            Err(failure) => {
                let held = renewed.is_some();
                drop(renewed);
                if held {
                    let _ = old.call(&["CLIENT", "UNPAUSE"]).await;
                } else if let Err(error) = self.lead_again(from).await {
                    return Err(failure.hint(format!(
                        "{from} takes no writes ({error}): run REPLICAOF NO ONE there"
                    )));
                }
                return Err(failure.hint(format!("writes go on at {from}")));
            }
        };
        let published = self.until_published(&new).await?;
        self.step(begun, "published", &format!("generation {published}"));
        let gap = begun.elapsed();
        // Clients that wait for the pause to end would wait for nothing: let them look the name up again.
        for kind in ["normal", "pubsub"] {
            let _ = old.call(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
        self.until_followed(switchover, &new).await?;
        self.step(begun, "followed", "by a majority of the Sentinels");
        self.retire_old(from, &new, renewed).await?;
        self.step(begun, "fenced", &format!("{from} follows {new}"));
        Ok(Moved { from: from.clone(), to: new, gap })
    }

    /// Takes back what [`instance::follow_at_once`] has done. Its connections may have been closed.
    async fn lead_again(&self, from: &Address) -> Result<(), LinkError> {
        let until = Instant::now() + RETIRE_MAX;
        loop {
            let tried = async {
                let mut old = Link::open(from, &self.group.login).await?;
                instance::replica_of(&mut old, "NO", "ONE").await
            };
            match tried.await {
                Err(_) if Instant::now() < until => tokio::time::sleep(STEP).await,
                ended => return ended,
            }
        }
    }

    /// Has one replica promoted, once each that may be has taken all that it was sent by the old primary, which closed
    /// their connections; which one.
    async fn promote_sent(
        &self,
        switchover: &Switchover,
        begun: Instant,
    ) -> Result<Address, Failure> {
        let mut offsets = Vec::new();
        for address in wanted(switchover) {
            let until = Instant::now() + CATCH_UP_MAX;
            offsets.push(loop {
                let answer = self.probe(address).await.map_err(|error| failed(address, &error))?;
                // What was sent is read before the end of the connection is.
                if answer.is_detached() {
                    break answer.offset;
                }
                if Instant::now() > until {
                    let message = format!("not moved: {address} has not read all that it was sent");
                    return Err(Failure::new(Exit::Failed, message));
                }
                tokio::time::sleep(STEP).await;
            });
        }
        if offsets.iter().any(|offset| Some(offset) != offsets.first()) {
            let message = "not moved: the replicas were not sent the same";
            return Err(Failure::new(Exit::Failed, message));
        }
        self.step(begun, "caught up", &format!("{} replica(s), every byte", offsets.len()));
        self.fail_over(switchover, begun).await
    }

    /// Has one replica promoted that has every write; which one.
    async fn promote(
        &self,
        switchover: &Switchover,
        old: &mut Link,
        begun: Instant,
    ) -> Result<Address, Failure> {
        let from = &switchover.from;
        let mut links = Vec::new();
        for address in wanted(switchover) {
            let link = Link::open(address, &self.group.login).await;
            links.push((address, link.map_err(|error| failed(address, &error))?));
        }
        let target = probe(old).await.map_err(|error| failed(from, &error))?.offset;
        for (address, link) in &mut links {
            let until = Instant::now() + CATCH_UP_MAX;
            loop {
                let answer = probe(link).await.map_err(|error| failed(address, &error))?;
                if has_all(target, &answer) {
                    break;
                }
                if Instant::now() > until {
                    let behind = target - answer.offset;
                    let message = format!("not moved: {address} is still {behind} bytes behind");
                    return Err(Failure::new(Exit::Failed, message));
                }
                tokio::time::sleep(STEP).await;
            }
        }
        self.step(begun, "caught up", &format!("{} replica(s), every byte", links.len()));
        self.fail_over(switchover, begun).await
    }

    /// Has the Sentinel promote one of the candidates; which one. A failover that it accepted and gave up is asked for
    /// again, and where it refuses then, its words are said (`docs/facts/sentinel.md` 20).
    async fn fail_over(&self, switchover: &Switchover, begun: Instant) -> Result<Address, Failure> {
        let (group, sentinel) = (&self.group.policy.group, &switchover.sentinel);
        let opened = Link::open(sentinel, &self.config.sentinel_login).await;
        let mut link = opened.map_err(|error| failed(sentinel, &error))?;
        let until = Instant::now() + PROMOTION_MAX;
        while Instant::now() < until {
            let asked = link.call(&["SENTINEL", "FAILOVER", group.as_str()]).await;
            asked.map_err(|error| failed(sentinel, &error))?;
            while Instant::now() < until {
                // All candidates are watched, when one was asked for and another is chosen.
                for address in &switchover.candidates {
                    if self.probe(address).await.is_ok_and(|answer| is_primary(&answer)) {
                        let said = format!("{address} says that it is the primary");
                        self.step(begun, "promoted", &said);
                        return Ok(address.clone());
                    }
                }
                let gave_up = query::gave_up(&mut link, group, &switchover.from).await;
                if gave_up.unwrap_or(false) {
                    self.note("again", format!("{sentinel} gave the failover up"));
                    break;
                }
                tokio::time::sleep(STEP).await;
            }
        }
        let message = format!("not moved: {sentinel} promoted no replica");
        Err(Failure::new(Exit::Failed, message))
    }

    /// Makes Sentinel prefer one replica; the priority that it had.
    async fn prefer(&self, to: &Address, sentinel: &Address) -> Result<String, Failure> {
        let answer = self.instance(to, &["CONFIG", "GET", PRIORITY]).await?;
        let row = list(&answer).map_err(|error| failed(to, &error))?;
        let before = row.get(1).map(text).and_then(Result::ok).unwrap_or_else(|| "100".to_owned());
        let first = FIRST_PRIORITY.to_string();
        self.instance(to, &["CONFIG", "SET", PRIORITY, &first]).await?;
        let wait = format!("until {sentinel} has read the new priority of {to} (up to 10 s)");
        self.note("waiting", wait);
        let group = &self.group.policy.group;
        let opened = Link::open(sentinel, &self.config.sentinel_login).await;
        let mut link = opened.map_err(|error| failed(sentinel, &error))?;
        let id = query::identity(&mut link).await.map_err(|error| failed(sentinel, &error))?;
        let until = Instant::now() + PRIORITY_MAX;
        while Instant::now() < until {
            let known =
                query::ask(&mut link, &id, group).await.map_err(|e| failed(sentinel, &e))?;
            let mut replicas = known.group.iter().flat_map(|group| &group.replicas);
            if replicas
                .any(|replica| &replica.address == to && replica.priority == Some(FIRST_PRIORITY))
            {
                return Ok(before);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let _ = self.instance(to, &["CONFIG", "SET", PRIORITY, &before]).await;
        let message = format!("not moved: {sentinel} did not read the new priority of {to}");
        Err(Failure::new(Exit::Failed, message))
    }

    async fn until_published(&self, new: &Address) -> Result<u64, Failure> {
        let until = Instant::now() + FOLLOW_MAX;
        while Instant::now() < until {
            let layout = &self.group.layout;
            let answer = self.consul.group(layout, ReadMode::Consistent, &self.clock).await;
            if let Ok(store) = answer
                && let Some(record) = store.value.record()
                && record.writer_address() == Some(new)
            {
                return Ok(record.generation);
            }
            tokio::time::sleep(STEP).await;
        }
        Err(Failure::new(
            Exit::Failed,
            format!("{new} is the primary, and no agent has published it"),
        )
        .hint("consul-redis status says which agents watch this group"))
    }

    async fn until_followed(&self, switchover: &Switchover, new: &Address) -> Result<(), Failure> {
        let names = Names::new(self.config.resolver);
        let until = Instant::now() + FOLLOW_MAX;
        while Instant::now() < until {
            let seen = look(self.config, self.group, self.consul, &names, &self.clock).await?;
            let memory = Memory::default();
            let view =
                View::of_one_look(&self.group.policy, &memory, &seen.observed, self.clock.now());
            if view.tally.elected.as_ref().is_some_and(|elected| &elected.address == new) {
                return Ok(());
            }
            tokio::time::sleep(STEP).await;
        }
        let message = format!("{new} is the primary, and no majority names it yet");
        let hint = format!("{} is left to Sentinel", switchover.from);
        Err(Failure::new(Exit::Failed, message).hint(hint))
    }

    /// Makes the old primary a replica before its pause ends. An agent may be doing the same, and its fence closes
    /// every connection at any moment: then it is asked anew.
    async fn retire_old(
        &self,
        from: &Address,
        new: &Address,
        renewed: Option<AbortOnDropHandle<()>>,
    ) -> Result<(), Failure> {
        let until = Instant::now() + RETIRE_MAX;
        loop {
            match self.follow_new(from, new).await {
                Ok(mut old) => {
                    if renewed.is_some() {
                        drop(renewed);
                        let _ = old.call(&["CLIENT", "UNPAUSE"]).await;
                    }
                    return Ok(());
                }
                Err(error) if Instant::now() > until => return Err(failed(from, &error)),
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }

    async fn follow_new(&self, from: &Address, new: &Address) -> Result<Link, LinkError> {
        let mut old = Link::open(from, &self.group.login).await?;
        let now = probe(&mut old).await?;
        if let Some(fence) = retire(from, &now, new)
            && instance::fence(&mut old, &fence).await?
        {
            instance::after_fence(&mut old, &fence).await?;
        }
        // It may follow one that was not chosen.
        if now.is_replica() && !now.follows(new) {
            instance::replica_of(&mut old, new.host(), &new.port().to_string()).await?;
        }
        Ok(old)
    }

    async fn probe(&self, address: &Address) -> Result<InstanceAnswer, LinkError> {
        probe(&mut Link::open(address, &self.group.login).await?).await
    }

    async fn instance(&self, at: &Address, command: &[&str]) -> Result<redis::Value, Failure> {
        let mut link = Link::open(at, &self.group.login).await.map_err(|e| failed(at, &e))?;
        link.call(command).await.map_err(|error| failed(at, &error))
    }

    fn step(&self, begun: Instant, what: &'static str, detail: &str) {
        let after = Some(begun.elapsed());
        (self.report)(SwitchoverStep { after, what, detail: detail.to_owned() });
    }

    fn note(&self, what: &'static str, detail: String) {
        (self.report)(SwitchoverStep { after: None, what, detail });
    }
}

/// The replicas of which one is to be promoted.
fn wanted(switchover: &Switchover) -> &[Address] {
    match &switchover.to {
        Some(to) => std::slice::from_ref(to),
        None => &switchover.candidates,
    }
}

/// Holds writes on and on, for as long as what is returned lives and `pause` more: nothing that the old primary takes
/// before it follows the new one would be kept.
fn keep_paused(from: Address, login: LinkSettings, pause: Duration) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut link = None;
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            // An agent's fence closes every connection.
            let open = match link.take() {
                Some(open) => Ok(open),
                None => Link::open(&from, &login).await,
            };
            if let Ok(mut open) = open
                && instance::hold(&mut open, ms(pause)).await.is_ok()
            {
                link = Some(open);
            }
        }
    }))
}

/// Whether all that a move takes may be done on every instance, by this login and by Sentinel's: asked without doing
/// any of it. Where that cannot be known, nothing speaks against the move.
pub async fn rights(group: &GroupConfig, switchover: &Switchover) -> Check {
    const HOLDING: [&[&str]; 3] = [
        &["CLIENT", "PAUSE", "1", "WRITE"],
        &["CLIENT", "UNPAUSE"],
        &["CLIENT", "KILL", "TYPE", "normal"],
    ];
    const OLD: [&[&str]; 3] = [&["INFO"], &["REPLICAOF", "NO", "ONE"], &["SLAVEOF", "NO", "ONE"]];
    const TARGET: [&[&str]; 2] = [&["CONFIG", "GET", PRIORITY], &["CONFIG", "SET", PRIORITY, "1"]];
    let (mut wrong, mut renamed) = (Vec::new(), Vec::new());
    let stop = match &switchover.stops {
        Stops::Holding => HOLDING,
        Stops::Following(_) => FOLLOW_AT_ONCE,
    };
    let needs = [&stop[..], &OLD].concat();
    let old = std::iter::once((&switchover.from, &needs[..]));
    for (at, needs) in old.chain(switchover.to.iter().map(|to| (to, &TARGET[..]))) {
        match refused(at, &group.login, needs).await {
            Ok(Ok(refused)) => wrong.extend(refused),
            // Nothing is known of the rights then; and where the move is a transaction itself, there can be none.
            Ok(Err(words)) => wrong.extend(
                matches!(switchover.stops, Stops::Following(_))
                    .then(|| format!("{at} refuses MULTI: {words}")),
            ),
            Err(error) => wrong.push(format!("{at}: {error}")),
        }
    }
    let all = std::iter::once(&switchover.from).chain(&switchover.candidates);
    for at in all {
        let Ok(mut link) = Link::open(at, &group.login).await else { continue };
        if let Ok(Rights::Refuses(refused)) = may(&mut link, &SENTINEL_NEEDS).await {
            let unknown = refused.into_iter().filter(|(_, why)| is_unknown(why));
            let unknown: Vec<String> = unknown.map(|(command, _)| command).collect();
            renamed
                .extend((!unknown.is_empty()).then(|| format!("{} at {at}", unknown.join(", "))));
        }
        let Ok(Ok(users)) = sentinel_users(&mut link).await else { continue };
        for (user, lacks) in users.into_iter().filter(|(_, lacks)| !lacks.is_empty()) {
            wrong.push(format!("{at} refuses {lacks} to {user}, which Sentinels are logged in as"));
        }
    }
    let found = match (wrong.is_empty(), renamed.is_empty()) {
        (true, true) => Ok("nothing that a move takes is refused".to_owned()),
        (true, false) => Ok(format!(
            "nothing that a move takes is refused to this login; Sentinels must know the other names of {}",
            renamed.join("; ")
        )),
        (false, _) => Err(wrong.join("; ")),
    };
    Check { what: "rights", found }
}

/// What of `needs` an instance refuses; of REPLICAOF and SLAVEOF, which are one, either will do. `Err` within: it
/// cannot be asked.
async fn refused(
    at: &Address,
    login: &LinkSettings,
    needs: &[&[&str]],
) -> Result<Result<Vec<String>, String>, LinkError> {
    let mut link = Link::open(at, login).await?;
    let mut refused = match may(&mut link, needs).await? {
        Rights::Refuses(refused) => refused,
        Rights::Unknown(words) => return Ok(Err(words)),
    };
    either_follows(&mut refused);
    let say = |(command, why): (String, String)| format!("{at} refuses {command}: {why}");
    Ok(Ok(refused.into_iter().map(say).collect()))
}

fn is_primary(answer: &InstanceAnswer) -> bool {
    answer.is_primary()
}

/// What one server did not do.
pub fn failed(at: &Address, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{at}: {error}"))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
