//! What a history must not show, by what docs/guarantees.md promises. It shares no code with the product.

use std::collections::BTreeMap;

use crate::fault::HOSTS;
use crate::history::{Answer, Held, History, Manner, Ms, Outcome, Sample, Spell, Way, host_of};

/// Of three Consul servers, none gives an older answer later than 250 ms after another one has given a newer one; with
/// as long again for the noise of a machine.
const LATE_MS: Ms = 500;
/// While Consul has no leader, a server answers what it last knew, until `max_stale` (5 s); one that is started again
/// gives older answers for 2 s more; and as long as an election.
const LATE_DISTURBED_MS: Ms = 12_000;
/// A Consul server that is started again, or goes on, gives older answers, or none of a key that exists, until the
/// leader has reached it: 2 s, and as long again and a half for the noise of a machine.
const RESTARTED_MS: Ms = 5_000;
/// A reader of the state may be so much later than one of DNS.
const LEAD_MS: Ms = 2_000;
/// A name may be wrong for so long before a problem is shown: 5 s, and 2 s for readers that look every half second.
const UNSAID_MS: Ms = 7_000;
/// How long after a writer's successor was published its own writes may be acknowledged, beside a fault: what a bare
/// `SENTINEL FAILOVER` takes (11 s), twice.
const STRAY_MS: Ms = 22_000;
/// How long before a failover a write may have been acknowledged that no replica had, where nothing stood between
/// the primary and the replica that was chosen.
const LAG_MS: Ms = 3_000;
/// From when on a cut-off primary holds its writes: before `down-after-milliseconds` has passed.
const ISOLATED_MS: Ms = 4_800;
/// A writer whose process has ended is replaced in this time (2 s where it is proved, 3 s where it is voted), twice.
const PROVEN_MS: Ms = 6_000;
/// Sentinels are asked for a failover once in two failover-timeouts.
const PACE_MS: Ms = 24_000;
/// For so long a planned move that has died is taken to be under way.
const PLANNED_MS: Ms = 125_000;
/// An answer that is on its way.
const FLIGHT_MS: Ms = 100;
/// Violations of one kind that are told.
const TOLD_MAX: usize = 3;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: &'static str,
    /// When.
    pub at: Ms,
    /// What was seen.
    pub what: String,
}

/// One published writer, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its generation.
    pub generation: u64,
    /// Its host.
    pub writer: Option<usize>,
    /// When it was first read.
    pub from: Ms,
    /// Why.
    pub why: String,
}

/// All writers of a round in their order.
#[derive(Debug, Clone, Default)]
pub struct Timeline(pub Vec<Published>);

impl Timeline {
    /// From the answers with a generation.
    pub fn new(history: &History) -> Self {
        let mut all: BTreeMap<u64, Published> = BTreeMap::new();
        let mut highest = 0;
        for answer in history.answers.iter().filter(|answer| answer.way == Way::Kv) {
            let Some(generation) = answer.generation.filter(|generation| *generation > 0) else {
                continue;
            };
            // What Consul has got back is older, and is read again.
            if generation < highest {
                continue;
            }
            highest = generation;
            let writer = answer.writers.first().and_then(|writer| host_of(writer));
            let (from, why) = (answer.received, answer.why.clone());
            all.entry(generation).or_insert(Published { generation, writer, from, why });
        }
        Self(all.into_values().collect())
    }

    /// The highest generation.
    pub fn generation(&self) -> u64 {
        self.0.last().map_or(0, |last| last.generation)
    }

    /// This host was the writer at some time from one moment to another one.
    fn was_writer(&self, host: usize, from: Ms, until: Ms) -> bool {
        self.0.iter().enumerate().any(|(at, one)| {
            let end = self.0.get(at + 1).map_or(Ms::MAX, |next| next.from);
            one.writer == Some(host) && one.from <= until && end >= from
        })
    }

    /// What is published at a moment.
    fn at(&self, moment: Ms) -> Option<&Published> {
        self.0.iter().rev().find(|one| one.from <= moment)
    }

    /// The first other writer than this host behind a moment.
    fn next_other(&self, host: usize, behind: Ms) -> Option<(usize, Ms)> {
        let later = self.0.iter().filter(|one| one.from > behind);
        later.filter_map(|one| Some((one.writer?, one.from))).find(|(writer, _)| *writer != host)
    }

    /// The last other writer than this host that was published before a moment, if the host was not published since.
    fn replaced(&self, host: usize, before: Ms) -> Option<(usize, Ms)> {
        let mut earlier =
            self.0.iter().rev().filter(|one| one.from <= before && one.writer.is_some());
        let last = earlier.next()?;
        let writer = last.writer.filter(|writer| *writer != host)?;
        // It may have been the writer for several publications.
        let first = earlier.take_while(|one| one.writer == Some(writer)).last().unwrap_or(last);
        Some((writer, first.from))
    }
}

/// What a round is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// An agent stands beside each instance.
    pub beside: bool,
    /// What the machine stood still for, in ms.
    pub still: Ms,
    /// The hosts with append-only files: which do not say how far their data goes.
    pub appends: [bool; HOSTS],
}

/// What became of the writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged.
    pub acked: usize,
    /// Acknowledged, and not there in the end, by what explains it.
    pub lost: BTreeMap<String, usize>,
}

/// All violations of a round, but for those of keys.
pub fn check(history: &History, terms: Terms) -> Vec<Violation> {
    let timeline = Timeline::new(history);
    let mut found = Vec::new();
    found.extend(two_writers(history));
    found.extend(one_generation_two_writers(history));
    found.extend(generation_back(history, terms));
    found.extend(old_answers(history, &timeline, terms));
    found.extend(old_writes(history, &timeline, terms));
    found.extend(cut_off_writes(history, &timeline, terms));
    found.extend(unsaid(history, &timeline, terms));
    found
}

/// Those of one rule that are told, with how many there are.
fn told(mut all: Vec<Violation>) -> Vec<Violation> {
    let count = all.len();
    all.truncate(TOLD_MAX);
    if let Some(first) = all.first_mut().filter(|_| count > TOLD_MAX) {
        first.what.push_str(&format!(" (the first of {count})"));
    }
    all
}

fn two_writers(history: &History) -> Vec<Violation> {
    let of = |answer: &Answer| {
        let mut writers = answer.writers.clone();
        writers.sort();
        writers.dedup();
        let (at, server, way) = (answer.received, answer.server + 1, answer.way);
        (writers.len() > 1).then(|| Violation {
            rule: "two writers",
            at,
            what: format!("Consul {server} answers {writers:?} ({way:?})"),
        })
    };
    told(history.answers.iter().filter_map(of).collect())
}

fn one_generation_two_writers(history: &History) -> Vec<Violation> {
    let mut known: BTreeMap<u64, &Answer> = BTreeMap::new();
    let mut found = Vec::new();
    for answer in history.answers.iter().filter(|answer| answer.way == Way::Kv) {
        let Some(generation) = answer.generation.filter(|generation| *generation > 0) else {
            continue;
        };
        let first = known.entry(generation).or_insert(answer);
        if first.writers != answer.writers {
            let what =
                format!("generation {generation}: {:?} and {:?}", first.writers, answer.writers);
            found.push(Violation {
                rule: "one generation, two writers",
                at: answer.received,
                what,
            });
        }
    }
    told(found)
}

/// Consul's servers, or the ways to them, were disturbed shortly before.
fn disturbed(history: &History, from: Ms, until: Ms) -> bool {
    let touches = |spell: &&Spell| spell.touches.consul || spell.touches.net;
    let before = from.saturating_sub(LATE_DISTURBED_MS);
    history.spells.iter().filter(touches).any(|spell| spell.overlaps(before, until))
}

/// A Consul server was started again, or goes on, shortly before: 5 s after its first answer at most.
fn restarted(history: &History, server: usize, from: Ms) -> bool {
    let mut spells = history.spells.iter().filter(|one| one.touches.consul && one.is_at(server));
    spells.any(|spell| {
        let first = |answer: &&Answer| answer.server == server && answer.sent >= spell.until;
        let first = history.answers.iter().find(first).map_or(spell.until, |answer| answer.sent);
        spell.until <= from && from <= first + RESTARTED_MS
    })
}

fn tolerance(history: &History, terms: Terms, from: Ms, until: Ms) -> Ms {
    let late = if disturbed(history, from, until) { LATE_DISTURBED_MS } else { LATE_MS };
    late + terms.still
}

/// From when Consul has got old data until the generation is above all that were read before.
fn restored(history: &History) -> Vec<(Ms, Ms)> {
    let spells = history.spells.iter().filter(|spell| spell.touches.restored);
    let window = |spell: &Spell| {
        let known = history.answers.iter().filter(|answer| answer.received < spell.from);
        let known = known.filter_map(|answer| answer.generation).max().unwrap_or(0);
        let above = |answer: &&Answer| {
            answer.sent > spell.until && answer.generation.is_some_and(|one| one > known)
        };
        let end = history.answers.iter().find(above).map_or(Ms::MAX, |answer| answer.received);
        // Each server has it a moment later.
        (spell.from, end.saturating_add(LATE_DISTURBED_MS))
    };
    spells.map(window).collect()
}

fn is_restored(windows: &[(Ms, Ms)], answer: &Answer) -> bool {
    windows.iter().any(|(from, until)| answer.received >= *from && answer.sent <= *until)
}

fn generation_back(history: &History, terms: Terms) -> Vec<Violation> {
    let windows = restored(history);
    let mut found = Vec::new();
    // For each generation, when it was first read.
    let mut first: BTreeMap<u64, Ms> = BTreeMap::new();
    for answer in history.answers.iter().filter(|answer| answer.way == Way::Kv) {
        let Some(generation) = answer.generation else { continue };
        let late = tolerance(history, terms, answer.sent, answer.received);
        let newer = first.range(generation + 1..).find(|(_, read)| **read + late < answer.sent);
        if let Some((newer, read)) = newer
            && !is_restored(&windows, answer)
            && !restarted(history, answer.server, answer.sent)
        {
            let what = format!(
                "Consul {} answers generation {generation}, {} ms after {newer} was read",
                answer.server + 1,
                answer.sent - read
            );
            found.push(Violation { rule: "the generation goes back", at: answer.received, what });
        }
        first.entry(generation).or_insert(answer.received);
    }
    told(found)
}

fn old_answers(history: &History, timeline: &Timeline, terms: Terms) -> Vec<Violation> {
    let windows = restored(history);
    let old = |answer: &&Answer| {
        let late = tolerance(history, terms, answer.sent, answer.received);
        let hosts = answer.writers.iter().filter_map(|writer| host_of(writer));
        let (from, until) = (answer.sent.saturating_sub(late), answer.received + LEAD_MS);
        let mut unknown = hosts.filter(|host| !timeline.was_writer(*host, from, until));
        let excused =
            is_restored(&windows, answer) || restarted(history, answer.server, answer.sent);
        unknown.next().is_some() && !excused
    };
    let tell = |answer: &Answer| Violation {
        rule: "an answer that was replaced",
        at: answer.received,
        what: format!(
            "Consul {} answers {:?} ({:?}) when it is not the writer any more",
            answer.server + 1,
            answer.writers,
            answer.way
        ),
    };
    told(history.answers.iter().filter(old).map(tell).collect())
}

/// A client that looks the name up for each write gets none acknowledged by an instance that was replaced before.
fn old_writes(history: &History, timeline: &Timeline, terms: Terms) -> Vec<Violation> {
    let windows = restored(history);
    let acked = history.writes.iter().filter(|write| write.outcome == Outcome::Acked);
    let mut found = Vec::new();
    for write in acked.filter(|write| write.manner == Manner::Looks) {
        let Some(host) = host_of(&write.to) else { continue };
        let looked = write.looked.1;
        let late = tolerance(history, terms, looked, write.invoked);
        let during = windows.iter().any(|(from, until)| looked >= *from && looked <= *until);
        let from = looked.saturating_sub(late);
        if !during
            && !restarted(history, write.looked.0, looked)
            && !timeline.was_writer(host, from, write.done + LEAD_MS)
        {
            let what = format!(
                "{} was looked up at Consul {} {} ms after {} was replaced, which acknowledged it",
                write.key,
                write.looked.0 + 1,
                looked.saturating_sub(timeline.replaced(host, looked).map_or(0, |(_, at)| at)),
                write.to
            );
            found.push(Violation {
                rule: "a write to one that was replaced",
                at: write.done,
                what,
            });
        }
    }
    told(found)
}

/// Node mode, `down-after-milliseconds` 5000: once another writer is published, a primary whose host is cut off
/// acknowledges nothing.
fn cut_off_writes(history: &History, timeline: &Timeline, terms: Terms) -> Vec<Violation> {
    let mut found = Vec::new();
    if !terms.beside {
        return found;
    }
    for write in history.writes.iter().filter(|write| write.outcome == Outcome::Acked) {
        let Some(host) = host_of(&write.to) else { continue };
        let Some((by, replaced)) = timeline.replaced(host, write.invoked) else { continue };
        let cut = history.spells.iter().find(|spell| {
            spell.touches.cut && spell.is_at(host) && spell.overlaps(replaced, write.invoked)
        });
        let Some(cut) = cut.filter(|cut| cut.from + ISOLATED_MS <= replaced) else { continue };
        let agent = |spell: &&Spell| {
            spell.touches.agent
                && spell.is_at(host)
                && spell.overlaps(cut.from.saturating_sub(STRAY_MS), write.done)
        };
        let late = FLIGHT_MS + terms.still;
        if history.spells.iter().find(agent).is_none() && write.invoked > replaced + late {
            let what = format!(
                "h{} is cut off and acknowledges {} {} ms after h{} was published",
                host + 1,
                write.key,
                write.invoked - replaced,
                by + 1
            );
            found.push(Violation { rule: "a cut-off primary writes", at: write.done, what });
        }
    }
    told(found)
}

/// While the name is wrong for long, every agent that is well says that something is.
fn unsaid(history: &History, timeline: &Timeline, terms: Terms) -> Vec<Violation> {
    let samples = by_host(history);
    let (mut found, mut since) = (Vec::new(), None);
    let mut spells = Vec::new();
    for moment in (history.begun..history.settled).step_by(250) {
        let is_right = timeline.at(moment).and_then(|one| one.writer).is_some_and(|host| {
            let blind = |spell: &Spell| {
                spell.touches.net
                    && spell.is_at(host)
                    && spell.overlaps(moment.saturating_sub(2_000), moment)
            };
            history.spells.iter().any(blind) || is_primary(&samples[host], moment)
        });
        match (is_right, since) {
            (true, Some(from)) => {
                spells.push((from, moment));
                since = None;
            }
            (false, None) => since = Some(moment),
            _ => {}
        }
    }
    spells.extend(since.map(|from| (from, history.settled)));
    for (from, until) in spells {
        for look in &history.looks {
            // Agents know that it is over before readers do.
            let within =
                look.received >= from + UNSAID_MS + terms.still && look.received + LEAD_MS < until;
            let agent = |spell: &Spell| {
                let touches = spell.touches.agent || spell.touches.net || spell.touches.consul;
                touches
                    && spell.is_at(look.host)
                    && spell.overlaps(look.received.saturating_sub(UNSAID_MS), look.received)
            };
            if within && look.problems.is_empty() && !history.spells.iter().any(agent) {
                let what = format!(
                    "the name is wrong for {} ms, and the agent of h{} shows no problem",
                    look.received - from,
                    look.host + 1
                );
                found.push(Violation {
                    rule: "a wrong name without a problem",
                    at: look.received,
                    what,
                });
            }
        }
    }
    told(found)
}

fn by_host(history: &History) -> Vec<Vec<&Sample>> {
    let of = |host| history.samples.iter().filter(|sample| sample.host == host).collect();
    (0..HOSTS).map(of).collect()
}

/// The last that it said by then was that it is a primary.
fn is_primary(samples: &[&Sample], moment: Ms) -> bool {
    let last = samples.partition_point(|sample| sample.received <= moment);
    let last = last.checked_sub(1).and_then(|at| samples.get(at));
    last.and_then(|sample| sample.said.as_ref()).is_some_and(|said| said.primary)
}

/// What a fault takes of the data of this host: a snapshot is older than what a killed Redis had.
fn takes(spell: &Spell, host: usize, terms: Terms) -> bool {
    let snapshot = spell.touches.killed && !terms.appends[host];
    spell.is_at(host) && (spell.touches.data || snapshot)
}

/// A primary that came back with less may not have been replaced before (docs/guarantees.md, what a dead writer alone
/// had): something kept the agents from knowing it, the Sentinels from being asked, or these from electing. An
/// append-only file does not say that it is older, so it is enough where that was back at once.
fn back_in_time(history: &History, timeline: &Timeline, spell: &Spell, appends: bool) -> bool {
    let before = spell.from.saturating_sub(LATE_DISTURBED_MS);
    let pace = spell.from.saturating_sub(PACE_MS);
    // Until then, one that has died may be under way.
    let planned = spell.from.saturating_sub(PLANNED_MS);
    let kept = |other: &Spell| {
        let touches = other.touches;
        let keeps = touches.agent || touches.net || touches.consul || touches.sentinel;
        (keeps && other.overlaps(before, spell.until))
            || (touches.planned && other.overlaps(planned, spell.until))
            || (touches.asked && other.overlaps(pace, spell.until))
    };
    let mut changes = timeline.0.iter().skip(1);
    let moved = changes.any(|one| one.from < spell.until && one.from > pace);
    let at_once = appends && spell.until - spell.from < PROVEN_MS;
    moved || at_once || history.spells.iter().any(kept)
}

/// What explains that a key is not there, or what is violated.
pub fn lost(
    lost: &Held,
    history: &History,
    timeline: &Timeline,
    terms: Terms,
) -> Result<String, Violation> {
    let (mut holder, mut since) = (lost.by, lost.at);
    let manner = lost.manner;
    let violation = |what: String| Violation {
        rule: "a lost write",
        at: lost.at,
        what: format!(
            "{} ({manner:?}), last known to be there on h{}: {what}",
            lost.key,
            lost.by + 1
        ),
    };
    if let Some((by, at)) = timeline.replaced(holder, since) {
        let disturbs =
            |spell: &&Spell| spell.is_at(holder) && (spell.touches.redis || spell.touches.net);
        let healed = history.spells.iter().filter(disturbs).map(|spell| spell.until.min(since));
        let from = healed.max().unwrap_or(0).max(at);
        if since - from <= STRAY_MS {
            return Ok("acknowledged by one that was replaced".to_owned());
        }
        let late = since - from;
        return Err(violation(format!("written {late} ms after h{} was published", by + 1)));
    }
    while let Some((next, at)) = timeline.next_other(holder, since) {
        let had = synced(history, holder, next, at);
        if since >= had {
            return by_replication(history, holder, next, since, at).map_err(violation);
        }
        // The next one had it.
        let taken = |spell: &&Spell| takes(spell, next, terms) && spell.until >= had;
        if let Some(spell) = history.spells.iter().find(taken) {
            return Ok(format!("a fault took what the next writer had: {}", kind(spell)));
        }
        (holder, since) = (next, at);
    }
    let taken = |spell: &&Spell| takes(spell, holder, terms) && spell.until >= since;
    let Some(spell) = history.spells.iter().find(taken) else {
        return Err(violation("no failover and no fault explains it".to_owned()));
    };
    let (less, appends) = (spell.touches.older || !spell.touches.data, terms.appends[holder]);
    if less && back_in_time(history, timeline, spell, appends) {
        return Ok(format!("back with less before it was replaced: {}", kind(spell)));
    }
    let away = |host: usize| {
        let (from, until) = (spell.from.saturating_sub(STRAY_MS), spell.until + STRAY_MS);
        let touches =
            |other: &Spell| other.touches.redis || other.touches.net || other.touches.disk;
        history.spells.iter().any(|other| {
            (other.from != spell.from || other.host.is_none())
                && touches(other)
                && other.is_at(host)
                && other.overlaps(from, until)
        })
    };
    if (0..HOSTS).filter(|host| *host != holder).all(away) {
        return Ok(format!("a fault took it, and no other one was there: {}", kind(spell)));
    }
    Err(violation(format!("{}, and others had it", spell.what)))
}

/// The kind of a fault.
fn kind(spell: &Spell) -> &str {
    spell.what.split(['(', ' ']).next().unwrap_or_default()
}

/// What is acknowledged before this moment by the one has reached the other one before that is published.
fn synced(history: &History, from: usize, to: usize, published: Ms) -> Ms {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in history.samples.iter().filter(|one| one.host == to && one.received <= published) {
        if let Some(said) = sample.said.as_ref().filter(|said| !said.primary) {
            let most = reached.entry(said.replid.as_str()).or_insert(0);
            *most = said.offset.max(*most);
        }
    }
    let earlier =
        history.samples.iter().filter(|one| one.host == from && one.received <= published);
    let has = |sample: &&Sample| {
        sample.said.as_ref().is_some_and(|said| {
            said.primary
                && reached.get(said.replid.as_str()).is_some_and(|most| *most >= said.offset)
        })
    };
    earlier.filter(has).map(|sample| sample.sent).max().unwrap_or(0)
}

fn by_replication(
    history: &History,
    from: usize,
    to: usize,
    acked: Ms,
    published: Ms,
) -> Result<String, String> {
    let said = format!("asynchronous replication, when h{} took over from h{}", to + 1, from + 1);
    let touches = |spell: &&Spell| {
        let touches = spell.touches;
        let between = touches.redis || touches.net || touches.disk || touches.asked;
        let near = spell.is_at(from) || spell.is_at(to);
        between && near && spell.overlaps(acked.saturating_sub(LAG_MS), published)
    };
    // A failover after a fault before this one may still be on: its replica copies everything anew.
    let begun = history.spells.iter().filter(touches).map(|spell| spell.from).min();
    let bound = begun.unwrap_or(published).saturating_sub(LAG_MS);
    if acked >= bound {
        return Ok("asynchronous replication across a failover".to_owned());
    }
    Err(format!("{said}, {} ms later, and nothing stood between them", published - acked))
}

/// Text without what differs from line to line.
pub fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        let changes = word.chars().any(|letter| letter.is_ascii_digit());
        shape.push_str(if changes { "#" } else { word });
        shape.push(' ');
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Said, Touches, Write};

    fn kv(at: Ms, server: usize, generation: u64, writer: Option<usize>) -> Answer {
        let writers = writer.map(|host| format!("10.0.0.{}:6379", host + 1)).into_iter().collect();
        let (generation, why) = (Some(generation), String::new());
        Answer { sent: at, received: at + 1, server, way: Way::Kv, writers, generation, why }
    }

    fn dns(at: Ms, writers: &[&str]) -> Answer {
        let writers = writers.iter().map(|one| (*one).to_owned()).collect();
        let (way, generation, why) = (Way::A, None, String::new());
        Answer { sent: at, received: at + 1, server: 0, way, writers, generation, why }
    }

    fn acked(at: Ms, key: &str, host: usize) -> Write {
        let (manner, outcome) = (Manner::Looks, Outcome::Acked);
        let to = format!("10.0.0.{}:6379", host + 1);
        Write {
            manner,
            key: key.to_owned(),
            looked: (0, at),
            to,
            invoked: at,
            done: at + 1,
            outcome,
        }
    }

    fn spell(from: Ms, until: Ms, host: usize, touches: Touches) -> Spell {
        Spell { from, until, host: Some(host), touches, what: "a fault".to_owned() }
    }

    fn sample(at: Ms, host: usize, primary: bool, offset: u64) -> Sample {
        let said = Some(Said { primary, replid: "a".to_owned(), offset });
        Sample { sent: at, received: at + 1, host, said }
    }

    const TERMS: Terms = Terms { beside: true, still: 0, appends: [true, false, true] };

    /// The writer moves from h1 to h2 at 10 s.
    fn moved() -> History {
        let answers =
            vec![kv(100, 0, 1, Some(0)), kv(9_500, 0, 2, None), kv(10_000, 0, 3, Some(1))];
        History { answers, settled: 60_000, ..History::default() }
    }

    fn rules(history: &History) -> Vec<&'static str> {
        check(history, TERMS).into_iter().map(|found| found.rule).collect()
    }

    #[test]
    fn a_move_that_goes_well_violates_nothing() {
        let mut history = moved();
        history.writes = vec![acked(9_000, "one", 0), acked(10_100, "two", 1)];
        history.answers.push(dns(9_900, &["10.0.0.1"]));
        history.samples =
            (0..600).map(|at| sample(at * 100, usize::from(at > 98), true, 1)).collect();
        assert_eq!(rules(&history), Vec::<&str>::new());
    }

    #[test]
    fn two_writers_in_one_answer_are_found() {
        let mut history = moved();
        history.answers.push(dns(10_100, &["10.0.0.1", "10.0.0.2"]));
        assert!(rules(&history).contains(&"two writers"));
    }

    #[test]
    fn a_generation_that_goes_back_is_found_unless_consul_got_old_data() {
        let mut history = moved();
        history.answers.push(kv(11_000, 1, 1, Some(0)));
        assert!(rules(&history).contains(&"the generation goes back"));
        let touches = Touches { restored: true, consul: true, ..Touches::default() };
        history.spells = vec![spell(10_500, 10_900, 0, touches)];
        assert!(!rules(&history).contains(&"the generation goes back"));
        // Once it is above what was known, an older one is a fault again.
        history.answers.push(kv(12_000, 1, 4, Some(1)));
        history.answers.push(kv(40_000, 1, 2, None));
        assert!(rules(&history).contains(&"the generation goes back"));
    }

    #[test]
    fn one_generation_with_two_writers_is_found() {
        let mut history = moved();
        history.answers.push(kv(10_100, 1, 3, Some(2)));
        assert!(rules(&history).contains(&"one generation, two writers"));
    }

    #[test]
    fn an_answer_and_a_write_that_are_too_late_are_found() {
        let mut history = moved();
        history.answers.push(dns(10_800, &["10.0.0.1"]));
        history.writes = vec![acked(10_800, "late", 0)];
        let found = rules(&history);
        assert!(found.contains(&"an answer that was replaced"), "{found:?}");
        assert!(found.contains(&"a write to one that was replaced"), "{found:?}");
    }

    #[test]
    fn what_a_cut_off_primary_acknowledges_is_found() {
        let mut history = moved();
        let touches = Touches { cut: true, net: true, ..Touches::default() };
        history.spells = vec![spell(4_000, 20_000, 0, touches)];
        history.writes = vec![Write { manner: Manner::Keeps, ..acked(10_500, "held", 0) }];
        assert!(rules(&history).contains(&"a cut-off primary writes"));
        // Its agent could not hold them.
        let touches = Touches { agent: true, ..Touches::default() };
        history.spells.push(spell(4_000, 20_000, 0, touches));
        assert!(!rules(&history).contains(&"a cut-off primary writes"));
    }

    #[test]
    fn a_name_that_is_wrong_without_a_problem_is_found() {
        use crate::history::Look;
        let mut history = moved();
        let look = |received, problems: &[&str]| {
            let problems = problems.iter().map(|code| (*code).to_owned()).collect();
            Look { received, host: 2, problems }
        };
        history.looks = vec![look(18_000, &["writer-fails"])];
        assert!(!rules(&history).contains(&"a wrong name without a problem"));
        history.looks.push(look(18_500, &[]));
        assert!(rules(&history).contains(&"a wrong name without a problem"));
    }

    fn held(at: Ms, by: usize) -> Held {
        Held { key: "key".to_owned(), at, by, manner: Manner::Looks }
    }

    #[test]
    fn a_lost_write_is_explained_by_replication_only_where_no_replica_had_it() {
        let mut history = moved();
        let timeline = Timeline::new(&history);
        // h2 was in step at 8 s, and stopped there.
        history.samples = vec![sample(8_000, 0, true, 50), sample(8_010, 1, false, 50)];
        assert!(lost(&held(8_500, 0), &history, &timeline, TERMS).is_ok());
        assert!(lost(&held(7_500, 0), &history, &timeline, TERMS).is_err());
        // What is much older than the failover needs a fault.
        history.samples.clear();
        assert!(lost(&held(2_000, 0), &history, &timeline, TERMS).is_err());
        let touches = Touches { net: true, ..Touches::default() };
        history.spells = vec![spell(1_500, 9_000, 0, touches)];
        assert!(lost(&held(2_000, 0), &history, &timeline, TERMS).is_ok());
    }

    #[test]
    fn a_write_that_is_lost_without_a_failover_is_found() {
        let mut history = moved();
        let timeline = Timeline::new(&history);
        assert!(lost(&held(20_000, 1), &history, &timeline, TERMS).is_err());
        let touches = Touches { data: true, redis: true, ..Touches::default() };
        history.spells = vec![spell(25_000, 26_000, 1, touches)];
        // h1 and h3 could have led.
        assert!(lost(&held(20_000, 1), &history, &timeline, TERMS).is_err());
    }

    /// Append-only files do not say that they are older; a snapshot says how far it goes.
    #[test]
    fn older_files_explain_a_loss_where_nothing_could_know_it_in_time() {
        let mut history = moved();
        history.answers = vec![kv(100, 0, 1, Some(0))];
        let touches = Touches { data: true, older: true, redis: true, ..Touches::default() };
        history.spells = vec![spell(25_000, 26_000, 0, touches)];
        let timeline = Timeline::new(&history);
        assert!(lost(&held(20_000, 0), &history, &timeline, TERMS).is_ok());
        let snapshots = Terms { appends: [false, true, false], ..TERMS };
        assert!(lost(&held(20_000, 0), &history, &timeline, snapshots).is_err());
        // It was away for long, and nothing kept the others from replacing it.
        history.spells = vec![spell(25_000, 36_000, 0, touches)];
        assert!(lost(&held(20_000, 0), &history, &timeline, TERMS).is_err());
        // Its agent was dead.
        let agent = Touches { agent: true, ..Touches::default() };
        history.spells.push(spell(24_000, 36_000, 0, agent));
        assert!(lost(&held(20_000, 0), &history, &timeline, snapshots).is_ok());
    }

    #[test]
    fn a_snapshot_of_a_killed_redis_is_older_than_its_data() {
        let mut history = moved();
        history.answers = vec![kv(100, 0, 1, Some(0))];
        let timeline = Timeline::new(&history);
        let killed = Touches { killed: true, redis: true, ..Touches::default() };
        history.spells = vec![Spell { host: None, ..spell(25_000, 36_000, 0, killed) }];
        let snapshots = Terms { appends: [false, true, false], ..TERMS };
        // All were killed.
        assert!(lost(&held(20_000, 0), &history, &timeline, snapshots).is_ok());
        assert!(lost(&held(20_000, 0), &history, &timeline, TERMS).is_err());
        // It alone was.
        history.spells = vec![spell(25_000, 36_000, 0, killed)];
        assert!(lost(&held(20_000, 0), &history, &timeline, snapshots).is_err());
    }

    #[test]
    fn lines_of_one_shape_count_as_one() {
        let one = shape("2026-11-01T10:00:00Z WARN 10.0.0.1:6379 does not answer");
        assert_eq!(one, shape("2026-11-02T11:11:11Z WARN 10.0.0.2:6379 does not answer"));
    }
}
