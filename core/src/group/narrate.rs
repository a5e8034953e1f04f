//! What goes to the log and the history: each change once, and what has stood in the way for a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::{Discriminant, discriminant};
use std::net::{IpAddr, SocketAddr};

use super::{GroupLoop, LogLevel, LogLine, Output};
use crate::decide::Decision;
use crate::duty::action::Purpose;
use crate::identity::address::Address;
use crate::known::memory::Steps;
use crate::published::publication::{KeepReason, Verdict};
use crate::published::record::{HasteRecord, Record};
use crate::shown::reasons::Reason;
use crate::shown::status::{Problem, ProblemCode};
use crate::situation::election::Tally;
use crate::situation::writer::writer_test;
use crate::time::{Mono, Now};

/// How long the same obstacle must stand before it is worth a warning, in ms.
pub const OBSTACLE_SAID_AFTER_MS: u64 = 5_000;

/// The longest unit that stands at a number (`bytes`), in characters.
const UNIT_LEN_MAX: usize = 5;

/// How often it is looked whether a problem is to be said, in ms.
const PROBLEMS_EVERY_MS: u64 = 1_000;
/// The problems that no reason of a decision says, and that a person should look at.
const SAID: [ProblemCode; 6] = [
    ProblemCode::WriterFails,
    ProblemCode::NoMajority,
    ProblemCode::NoReplicas,
    ProblemCode::CannotSave,
    ProblemCode::ReplicaOutOfSync,
    ProblemCode::ClockSkew,
];

/// Lines of one kind that are said as they come...
const LINES_MAX: usize = 5;
/// ... within this long, in ms. What more there is of them is counted.
const LINES_WINDOW_MS: u64 = 10_000;

/// The pace of a line that may repeat for as long as two sides disagree.
#[derive(Default)]
pub(super) struct LinePace {
    said: VecDeque<Mono>,
    left_out: u32,
}

impl LinePace {
    /// The line, where it may be said now, with how many were left out before it.
    pub(super) fn line(&mut self, text: String, now: Mono) -> Option<String> {
        self.said.retain(|at| now - *at < LINES_WINDOW_MS);
        if self.said.len() >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.said.push_back(now);
        match std::mem::take(&mut self.left_out) {
            0 => Some(text),
            more => Some(format!("{text} ({more} like it before, not logged)")),
        }
    }
}

/// What stands in the way, of one subject: since when, whatever words it is in.
struct Obstacle {
    since: Mono,
    /// What its text is now, without its numbers, and since when it is that.
    kind: (String, Mono),
    /// The last kind that was said.
    said: Option<String>,
}

impl Obstacle {
    fn new(now: Mono) -> Self {
        Self { since: now, kind: (String::new(), now), said: None }
    }

    /// Whether this text is to be said now: the first one of the subject once the subject has lasted, another one once
    /// it has itself.
    fn is_due(&mut self, text: &str, now: Mono) -> bool {
        let kind = kind_of(text);
        if self.kind.0 != kind {
            self.kind = (kind, now);
        }
        let (kind, since) = &self.kind;
        let since = if self.said.is_some() { *since } else { self.since };
        let due = self.said.as_ref() != Some(kind) && now - since >= OBSTACLE_SAID_AFTER_MS;
        if due {
            self.said = Some(kind.clone());
        }
        due
    }
}

/// What stands in the way is told apart by: a text says the same of it in other words a moment later.
#[derive(PartialEq, Eq)]
enum Subject {
    /// That there is no writer.
    NoWriter,
    /// That the writer stays as it is.
    Kept(Discriminant<KeepReason>),
    /// What is not done, to which instance.
    Reason(Discriminant<Reason>, Option<Address>),
}

impl Subject {
    fn of_kept(why: &KeepReason) -> Self {
        match why {
            KeepReason::NoWriter(_)
            | KeepReason::NoFirst(_)
            | KeepReason::NotRelocated(_)
            | KeepReason::NotAgain(_) => Self::NoWriter,
            _ => Self::Kept(discriminant(why)),
        }
    }

    fn of_reason(reason: &Reason) -> Self {
        let instance = match reason {
            Reason::LeftAlone(left) => Some(&left.instance),
            Reason::NotMarked(why) => Some(&why.writer),
            Reason::NotPreferred(why) => Some(&why.instance),
            Reason::TwoAddresses { address, .. } | Reason::Loopback { address, .. } => {
                Some(address)
            }
            Reason::Held(instance) | Reason::NotHeld { instance, .. } => Some(instance),
            _ => None,
        };
        Self::Reason(discriminant(reason), instance.cloned())
    }
}

/// All that stands in the way now; one of it is said.
#[derive(Default)]
pub(super) struct Obstacles(Vec<(Subject, Obstacle)>);

impl Obstacles {
    /// This agent stood still: what has not been said yet begins anew.
    pub(super) fn keep_what_was_said(&mut self) {
        self.0.retain(|(_, obstacle)| obstacle.said.is_some());
    }

    /// Begins the clock of what is new, and drops what is over.
    fn see(&mut self, all: Vec<Subject>, now: Mono) {
        self.0.retain(|(subject, _)| all.contains(subject));
        for subject in all {
            if self.0.iter().all(|(known, _)| *known != subject) {
                self.0.push((subject, Obstacle::new(now)));
            }
        }
    }

    fn is_due(&mut self, subject: &Subject, text: &str, now: Mono) -> bool {
        let mut found = self.0.iter_mut().filter(|(known, _)| known == subject);
        found.next().is_some_and(|(_, obstacle)| obstacle.is_due(text, now))
    }
}

/// Problems that are said in the log, each once.
#[derive(Default)]
pub(super) struct OpenProblems {
    at: Mono,
    /// By code, and by the instance that it is about where there may be several.
    open: BTreeMap<(ProblemCode, String), Obstacle>,
}

impl OpenProblems {
    /// It is time to look for problems again.
    pub(super) fn is_due(&self, now: Now) -> bool {
        now.mono - self.at >= PROBLEMS_EVERY_MS
    }
}

/// The text with a place for each number, time and span: a count of keys that grows is no other obstacle. Addresses
/// stay as they are.
fn kind_of(text: &str) -> String {
    let number = |word: &str| {
        let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
        let unit = |c: char| c.is_ascii_alphabetic() || c == '%';
        let digits = bare.trim_end_matches(unit);
        let figure = |c: char| c.is_ascii_digit() || ".,:-+TZ".contains(c);
        let units = bare.len() - digits.len();
        bare.starts_with(|c: char| c.is_ascii_digit())
            && units <= UNIT_LEN_MAX
            && digits.chars().all(figure)
            && bare.parse::<SocketAddr>().is_err()
            && bare.parse::<IpAddr>().is_err()
    };
    let words = text.split_whitespace().map(|word| if number(word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The instance that a problem is about, where several may have the same; its text begins with it.
fn instance_of(problem: &Problem) -> String {
    match problem.code {
        ProblemCode::CannotSave | ProblemCode::ReplicaOutOfSync => {
            problem.text.split(' ').next().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    }
}

impl GroupLoop {
    pub(super) fn say_committed(
        &mut self,
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
                let text = format!("{}: instances: {}", record.group, rows.join(", "));
                let Some(text) = self.rows_line.line(text, now.mono) else { return };
                text
            }
            Purpose::Forget => {
                let sentinel = record.reset.as_ref().map(|reset| reset.sentinel.to_string());
                format!(
                    "{}: Sentinel {} is to forget the servers that are gone (SENTINEL RESET)",
                    record.group,
                    sentinel.unwrap_or_default()
                )
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
            Purpose::Hasten => {
                let (group, Some(haste)) = (&record.group, &record.haste) else { return };
                let HasteRecord { instance, evidence, pace_ms, .. } = haste;
                match &haste.answers {
                    Some(agent) => {
                        format!("{group}: {instance} answers {agent}: Sentinels wait as before")
                    }
                    None => format!(
                        "{group}: {instance} seems to be dead ({evidence}): Sentinels are to wait {pace_ms} ms for it, and to vote"
                    ),
                }
            }
            Purpose::Note | Purpose::Repair | Purpose::Seen => return,
        };
        // Clients have no writer: a log that is filtered by level shows it, too.
        let weight = match purpose {
            Purpose::Withdraw => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        out.push(say(weight, text));
    }

    /// Notes when each step of a failover was first seen, for the log and the history.
    pub(super) fn remember_steps(&mut self, tally: &Tally, now: Now) {
        let record = self.observed.record();
        let Some((record, last)) = record.and_then(|r| Some((r, r.last_writer.as_ref()?))) else {
            return;
        };
        let down = tally.agree_down(&last.address);
        let settled = record.writer.is_some() && !record.evidence.is_unconfirmed();
        // While Consul is away, the Sentinels may have finished a failover that is not published yet.
        let elected = tally.elected.as_ref().map(|elected| &elected.address);
        if settled && !down && tally.failovers.is_empty() && elected == Some(&last.address) {
            self.memory.steps = Steps::default();
            self.memory.promoted = None;
            self.memory.decided = None;
            return;
        }
        let chosen = tally.failovers.iter().find_map(|failover| failover.chosen.as_ref());
        let promoted = chosen
            .or(elected)
            .filter(|next| **next != last.address)
            .filter(|next| writer_test(&self.observed, next, Mono(0)).is_primary());
        let steps = &mut self.memory.steps;
        if down {
            steps.down_agreed.get_or_insert(now.mono);
        }
        if chosen.is_some() {
            steps.selected.get_or_insert(now.mono);
        }
        if let Some(next) = promoted
            && self.memory.promoted.as_ref().is_none_or(|(address, _)| address != next)
        {
            steps.promoted = Some(now.mono);
            self.memory.promoted = Some((next.clone(), now.mono));
        }
    }

    /// Notes when it was first decided which writer is to be published.
    pub(super) fn remember_decided(&mut self, decision: &Decision, now: Now) {
        let Verdict::Publish { to, .. } = &decision.verdict else { return };
        if self.memory.decided.as_ref().is_none_or(|(address, _)| *address != to.address) {
            self.memory.decided = Some((to.address.clone(), now.mono));
        }
    }

    /// Says that a pause has begun, and that it is over.
    fn note_pause(&mut self, decision: &Decision, out: &mut Vec<Output>) {
        let group = &self.policy.group;
        let pause = match decision.reasons.first() {
            Some(Reason::Paused(pause)) => Some(pause),
            _ => None,
        };
        let (weight, text) = match pause {
            Some(pause) => (LogLevel::Warn, format!("{group}: {pause}")),
            None => {
                let text = "the pause is over: agents do again what is wanted";
                (LogLevel::Info, format!("{group}: {text}"))
            }
        };
        let paused = pause.is_some();
        if paused != std::mem::replace(&mut self.paused, paused) {
            out.push(say(weight, text));
        }
    }

    /// Says, once, what has stood in the way for a while; and a pause.
    pub(super) fn note_obstacle(&mut self, decision: &Decision, now: Now, out: &mut Vec<Output>) {
        self.note_pause(decision, out);
        let kept = match &decision.verdict {
            Verdict::Keep(KeepReason::Confirmed { .. } | KeepReason::AwaitingConfirmation(_)) => {
                None
            }
            Verdict::Keep(why) => Some(why),
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
        // A death has a line of its own.
        let lasting = |reason: &&Reason| !matches!(reason, Reason::NotFast(_));
        let reasons = || {
            let all = decision.reasons.iter().filter(lasting);
            all.map(|reason| (Subject::of_reason(reason), reason))
        };
        let all = reasons().map(|(subject, _)| subject).chain(kept.map(Subject::of_kept)).collect();
        let blocked = kept.map(|why| (Subject::of_kept(why), decision.summary.clone()));
        let blocked = match blocked {
            Some(blocked) if first => Some(blocked),
            blocked => {
                let group = &self.policy.group;
                let reason = reasons().next();
                let reason = reason.map(|(subject, why)| (subject, format!("{group}: {why}")));
                reason.or(blocked)
            }
        };
        let obstacles = &mut self.obstacles;
        let was_said = obstacles.0.iter().any(|(_, obstacle)| obstacle.said.is_some());
        obstacles.see(all, now.mono);
        match blocked {
            Some((subject, text)) if obstacles.is_due(&subject, &text, now.mono) => {
                out.push(say(LogLevel::Warn, text));
            }
            Some(_) => {}
            None if was_said => {
                let now = decision.summary.replacen(": ", ": resolved: ", 1);
                out.push(say(LogLevel::Info, now));
            }
            None => {}
        }
    }

    /// Says each problem of [`SAID`] once it has lasted, and that it is over.
    pub(super) fn note_problems(&mut self, found: Vec<Problem>, now: Now, out: &mut Vec<Output>) {
        let group = &self.policy.group;
        let found = found.into_iter().filter(|problem| SAID.contains(&problem.code));
        let texts: BTreeMap<(ProblemCode, String), String> =
            found.map(|problem| ((problem.code, instance_of(&problem)), problem.text)).collect();
        let noted = &mut self.noted;
        noted.at = now.mono;
        noted.open.retain(|(code, instance), obstacle| {
            let stays = texts.contains_key(&(*code, instance.clone()));
            if obstacle.said.is_some() && !stays && texts.keys().all(|(other, _)| other != code) {
                out.push(say(LogLevel::Info, format!("{group}: {} is over", code.as_str())));
            }
            stays
        });
        for (key, text) in texts {
            let obstacle = noted.open.entry(key).or_insert_with(|| Obstacle::new(now.mono));
            if obstacle.is_due(&text, now.mono) {
                out.push(say(LogLevel::Warn, format!("{group}: {text}")));
            }
        }
    }
}

impl GroupLoop {
    /// Says, once each, what has lasted for some seconds ([`standing`](crate::shown::status::standing)), and that it is
    /// over.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_repeats_has_a_pace_and_what_was_left_out_is_counted() {
        let mut pace = LinePace::default();
        let line = |pace: &mut LinePace, ms| pace.line("rows".to_owned(), Mono(ms));
        for ms in 0..5 {
            assert_eq!(line(&mut pace, ms * 100), Some("rows".to_owned()));
        }
        for ms in 5..100 {
            assert_eq!(line(&mut pace, ms * 100), None);
        }
        let again = Some("rows (95 like it before, not logged)".to_owned());
        assert_eq!(line(&mut pace, 10_000), again);
        assert_eq!(line(&mut pace, 30_000), Some("rows".to_owned()));
    }

    #[test]
    fn what_changes_in_a_text_is_no_part_of_its_kind() {
        for (text, kind) in [
            ("with 100 keys, which", "with # keys, which"),
            ("(no answer within 500 ms), 12s ago", "(no answer within # ms), # ago"),
            ("not before 02:57:57", "not before #"),
            ("since 2026-11-28T18:00:00.123Z: 3.5 MiB, 80%", "since # # MiB, #"),
            (
                "10.0.0.1:6379 at 10.0.0.2 and [fd00::1]:6379,",
                "10.0.0.1:6379 at 10.0.0.2 and [fd00::1]:6379,",
            ),
            ("generation 7, history 4f2eab00c1", "generation # history 4f2eab00c1"),
        ] {
            assert_eq!(kind_of(text), kind);
        }
    }
}
