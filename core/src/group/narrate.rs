//! What goes to the log and the history: each change once, and what has stood in the way for a while.

use std::collections::BTreeSet;

use super::super::action::Purpose;
use super::super::address::Address;
use super::super::decide::Decision;
use super::super::election::Tally;
use super::super::publication::{KeepReason, Verdict};
use super::super::record::{Record, Timeline};
use super::super::time::{Mono, Now};
use super::super::writer::writer_test;
use super::{GroupLoop, LogLevel, LogLine, Output, Problem, ProblemCode};

/// How long the same obstacle must stand before it is worth a warning, in ms.
pub const OBSTACLE_SAID_AFTER_MS: u64 = 5_000;

/// What stands in the way.
pub(super) struct Obstacle {
    pub(super) text: String,
    pub(super) since: Mono,
    pub(super) said: bool,
}

impl GroupLoop {
    pub(super) fn say_committed(
        &self,
        purpose: Purpose,
        record: &Record,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let text = match purpose {
            Purpose::Publish => {
                let old = self.observed.record();
                let from = old.and_then(|record| record.last_writer.as_ref()).map(|w| &w.address);
                let promoted = self.memory.promoted.as_ref();
                let promoted = promoted
                    .filter(|(address, _)| Some(address) == record.writer_address())
                    .map(|(_, at)| now.mono - *at);
                change_line(record, from, promoted)
            }
            Purpose::Withdraw => change_line(record, None, None),
            Purpose::Claim => format!("{}: {}", record.group, record.why),
            Purpose::Confirm => format!(
                "{}: writer {} confirmed by {} of {} Sentinels at epoch {}",
                record.group,
                record.writer_address().map(ToString::to_string).unwrap_or_default(),
                record.evidence.basis.votes(),
                record.evidence.known,
                record.evidence.confirmed_epoch
            ),
            Purpose::InstanceRows => {
                let rows: Vec<String> = record
                    .instances
                    .iter()
                    .map(|i| format!("{} {}", i.address, i.role.as_str()))
                    .collect();
                format!("{}: instances: {}", record.group, rows.join(", "))
            }
            Purpose::Forget => {
                let sentinel = record.reset.as_ref().map(|reset| reset.sentinel.to_string());
                format!("{}: Sentinel {} is to forget", record.group, sentinel.unwrap_or_default())
            }
            Purpose::Replace => {
                let data_loss = record.data_loss.as_ref();
                let primary = data_loss.map(|data_loss| data_loss.instance.to_string());
                let sentinel = data_loss.and_then(|e| e.sentinel.as_ref()).map(ToString::to_string);
                format!(
                    "{}: Sentinel {} is asked to replace {}, which came back without its data",
                    record.group,
                    sentinel.unwrap_or_default(),
                    primary.unwrap_or_default()
                )
            }
            Purpose::Note | Purpose::Repair => return,
        };
        out.push(say(LogLevel::Info, text));
    }

    /// Notes when each step of a failover was first seen, for the log and the history.
    pub(super) fn remember_timeline(&mut self, tally: &Tally, now: Now) {
        let record = self.observed.record();
        let Some((record, last)) = record.and_then(|r| Some((r, r.last_writer.as_ref()?))) else {
            return;
        };
        let down = tally.agree_down(&last.address);
        let settled = record.writer.is_some() && !record.evidence.is_unconfirmed();
        if settled && !down && tally.failovers.is_empty() {
            self.memory.timeline = Timeline::default();
            self.memory.promoted = None;
            return;
        }
        let chosen = tally.failovers.iter().find_map(|failover| failover.chosen.as_ref());
        let next = chosen.or(tally.elected.as_ref().map(|elected| &elected.address));
        let promoted = next
            .filter(|next| **next != last.address)
            .filter(|next| writer_test(&self.observed, next, Mono(0)).is_primary());
        let timeline = &mut self.memory.timeline;
        if down {
            timeline.down_agreed.get_or_insert(now.wall);
        }
        if chosen.is_some() {
            timeline.selected.get_or_insert(now.wall);
        }
        if let Some(next) = promoted
            && self.memory.promoted.as_ref().is_none_or(|(address, _)| address != next)
        {
            timeline.promoted = Some(now.wall);
            self.memory.promoted = Some((next.clone(), now.mono));
        }
    }

    /// Says, once, what has stood in the way for a while.
    pub(super) fn note_obstacle(&mut self, decision: &Decision, now: Now, out: &mut Vec<Output>) {
        let blocked = match &decision.verdict {
            Verdict::Keep(KeepReason::Confirmed { .. } | KeepReason::AwaitingConfirmation(_)) => {
                None
            }
            Verdict::Keep(_) => Some(decision.summary.clone()),
            Verdict::Publish { .. }
            | Verdict::Withdraw(_)
            | Verdict::Claim(_)
            | Verdict::Confirm { .. } => None,
        };
        // Why there is no first primary, or no other one, goes before whatever else waits for one.
        let first = matches!(
            &decision.verdict,
            Verdict::Keep(
                KeepReason::NoFirst(_) | KeepReason::NotRelocated(_) | KeepReason::NotAgain(_)
            )
        );
        let blocked = match blocked {
            Some(blocked) if first => Some(blocked),
            blocked => decision.reasons.first().map(ToString::to_string).or(blocked),
        };
        let Some(text) = blocked else {
            if self.obstacle.take().is_some_and(|obstacle| obstacle.said) {
                out.push(say(LogLevel::Info, decision.summary.clone()));
            }
            return;
        };
        if self.obstacle.is_none() {
            self.obstacle = Some(Obstacle { text: text.clone(), since: now.mono, said: false });
        }
        let Some(obstacle) = self.obstacle.as_mut() else { return };
        let is_another = counts_aside(&obstacle.text) != counts_aside(&text);
        if !is_another {
            // Clients write to it, and it is the same one.
            obstacle.text.clone_from(&text);
        }
        if is_another {
            obstacle.text.clone_from(&text);
            obstacle.since = now.mono;
            obstacle.said = false;
        }
        if !obstacle.said && now.mono - obstacle.since >= OBSTACLE_SAID_AFTER_MS {
            obstacle.said = true;
            out.push(say(LogLevel::Warn, text));
        }
    }
}

/// The text without how many keys there are: that changes with each write, and the obstacle does not.
fn counts_aside(text: &str) -> Vec<&str> {
    let words: Vec<&str> = text.split(' ').collect();
    let is_count = |index: usize| words.get(index + 1).is_some_and(|next| next.starts_with("keys"));
    let kept = words.iter().enumerate().filter(|(index, _)| !is_count(*index));
    kept.map(|(_, word)| *word).collect()
}

impl GroupLoop {
    /// Says, once each, what has lasted for some seconds ([`standing`](super::super::status::standing)), and that it is over.
    pub(super) fn note_standing(
        &mut self,
        problems: Vec<((ProblemCode, Address), Problem)>,
        out: &mut Vec<Output>,
    ) {
        let group = &self.policy.group;
        let mut now = BTreeSet::new();
        for (key, problem) in problems {
            if !self.standing.contains(&key) {
                out.push(say(LogLevel::Warn, format!("{group}: {}", problem.text)));
            }
            now.insert(key);
        }
        if now.is_empty() && !self.standing.is_empty() {
            out.push(say(
                LogLevel::Info,
                format!("{group}: all instances answer this agent, and take what they should"),
            ));
        }
        self.standing = now;
    }
}

/// A generation in words: `redis: writer 10.0.0.5:6379 -> 10.0.0.6:6379, generation 8, promoted by
/// Sentinel epoch 3, published 3 ms after promotion`.
pub(super) fn change_line(
    record: &Record,
    from: Option<&Address>,
    promoted_ms: Option<u64>,
) -> String {
    let Record { group, generation, why, .. } = record;
    let Some(writer) = record.writer_address() else {
        return format!("{group}: no writer, generation {generation}: {why}");
    };
    let arrow =
        from.filter(|from| *from != writer).map(|from| format!("{from} -> ")).unwrap_or_default();
    let published =
        promoted_ms.map(|ms| format!(", published {ms} ms after promotion")).unwrap_or_default();
    format!("{group}: writer {arrow}{writer}, generation {generation}, {why}{published}")
}

/// One line for the log.
pub(super) fn say(weight: LogLevel, text: String) -> Output {
    Output::Say(LogLine { weight, text })
}
