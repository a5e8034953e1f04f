//! Whether DNS answers what was published: the comparison, and when to ask again. Asking is done elsewhere.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::group::Published;
use crate::identity::address::Address;
use crate::published::record::Change;
use crate::shown::status::{Problem, ProblemCode};
use crate::time::{Mono, Now};

/// How long an answer may be other than what is published before it is a problem, in ms: Consul's servers and agents
/// need a moment to hear of a change.
pub const GRACE_MS: u64 = 2_000;
/// How often the name is asked for when all is well, in ms.
pub const EVERY_MS: u64 = 60_000;
/// Pause between two questions after a switch, in ms.
const SOON_MS: u64 = 25;
/// For how long after a switch that pause is kept, in ms.
const SOON_FOR_MS: u64 = 1_000;
/// The pause after that, while the answer is wrong, in ms.
const OFTEN_MS: u64 = 100;
/// For how long after a switch, or after an answer has become wrong, it is kept, in ms.
const OFTEN_FOR_MS: u64 = 30_000;
/// The pause while the answer stays wrong, in ms.
const WRONG_MS: u64 = 5_000;
/// The pause after a first silence, in ms; the usual one later.
const SILENT_MS: u64 = 1_000;
/// How much of the past is remembered before generation 1: nothing.
const FIRST_GENERATION: u64 = 1;

/// What DNS answers a client that asks for a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Every address: A and AAAA.
    pub ips: BTreeSet<IpAddr>,
    /// Target and port of each SRV record.
    pub services: BTreeSet<(String, u16)>,
}

impl DnsAnswer {
    /// The answer has neither an address nor an SRV record.
    pub fn is_none(&self) -> bool {
        self.ips.is_empty() && self.services.is_empty()
    }

    /// It leads to this writer, and nowhere else. Consul answers an SRV record's target with a name of its own for an
    /// address, and a writer that is a name with that name alone.
    fn leads_to(&self, writer: &Address) -> bool {
        let ports = self.services.iter().all(|(_, port)| *port == writer.port());
        let target = match writer.ip() {
            Some(ip) => self.ips.iter().eq(std::iter::once(&ip)),
            None => self.services.iter().all(|(target, _)| {
                target.trim_end_matches('.').eq_ignore_ascii_case(writer.host())
            }),
        };
        self.services.len() == 1 && ports && target
    }

    /// The only instance that it leads to, when that is one.
    fn only(&self) -> Option<Address> {
        let [(target, port)] = &self.services.iter().collect::<Vec<_>>()[..] else { return None };
        let host = match &self.ips.iter().collect::<Vec<_>>()[..] {
            [ip] => ip.to_string(),
            [] => target.trim_end_matches('.').to_owned(),
            _ => return None,
        };
        Address::new(&host, *port).ok()
    }
}

impl fmt::Display for DnsAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("nothing");
        }
        if let Some(only) = self.only() {
            return write!(f, "{only}");
        }
        let ips = self.ips.iter().map(ToString::to_string);
        let ports = self.services.iter().map(|(_, port)| format!("port {port}"));
        let all: Vec<String> = ips.chain(ports).collect();
        f.write_str(&all.join(", "))
    }
}

/// How an answer compares with what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsVerdict {
    /// The answer is the published writer, or none where none is published.
    Right,
    /// There is none, and a writer is published.
    Missing,
    /// It leads elsewhere, or to more than the writer.
    Other,
    /// There is one, and no writer is published.
    Unwanted,
    /// The server did not answer, or does not answer for this domain.
    Silent,
}

impl DnsVerdict {
    /// All verdicts, in the order of the metric.
    pub const ALL: [Self; 5] =
        [Self::Right, Self::Missing, Self::Other, Self::Unwanted, Self::Silent];

    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Missing => "missing",
            Self::Other => "other",
            Self::Unwanted => "unwanted",
            Self::Silent => "silent",
        }
    }
}

/// Compares an answer with the published writer.
pub fn compare(writer: Option<&Address>, answer: &DnsAnswer) -> DnsVerdict {
    match writer {
        None if answer.is_none() => DnsVerdict::Right,
        None => DnsVerdict::Unwanted,
        Some(_) if answer.is_none() => DnsVerdict::Missing,
        Some(writer) if answer.leads_to(writer) => DnsVerdict::Right,
        Some(_) => DnsVerdict::Other,
    }
}

/// For how long an answer has been out of date: since what it says was no longer published, by this history (newest
/// first). `None` when it never was.
pub fn stale(answer: &DnsAnswer, history: &[Change], now: Timestamp) -> Option<SignedDuration> {
    let was = |change: &Change| match &change.to {
        Some(writer) => answer.leads_to(writer),
        None => answer.is_none(),
    };
    // Each change with the one that ended it.
    let ended = history.iter().zip(history.iter().skip(1)).find(|(_, before)| was(before));
    let first = history.last().filter(|change| change.generation == FIRST_GENERATION);
    let ended = ended.map(|(next, _)| next).or(first.filter(|_| answer.is_none()));
    ended.map(|change| now.duration_since(change.at).max(SignedDuration::ZERO))
}

/// The result of one question to one DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Whether the answer is what is published.
    pub verdict: DnsVerdict,
    /// The first right answer since the generation began: how long after the promotion, in ms, where that was seen.
    pub first_after_promotion_ms: Option<u64>,
    /// The first right answer since the generation began.
    pub first: bool,
    /// For how long the server has not answered what is published, in ms: by the history, or as it was seen here.
    pub stale_ms: u64,
}

/// One server's answers about one name, held against what is published.
#[derive(Debug, Default)]
pub struct NameCheck {
    published: Option<Published>,
    seen: bool,
    bad_since: Option<Mono>,
    problem: Option<Problem>,
    next: Mono,
    /// The least pause after an answer that is not right, in ms.
    pause_min_ms: u64,
}

impl NameCheck {
    /// A check that asks again after `pause_min_ms` at the soonest.
    pub fn paced(pause_min_ms: u64) -> Self {
        Self { pause_min_ms, ..Self::default() }
    }

    /// From now on this is the right answer.
    pub fn expect(&mut self, published: &Published) {
        let known = self.published.as_ref().map(|known| known.generation);
        if known == Some(published.generation) {
            return;
        }
        self.published = Some(published.clone());
        self.seen = false;
        self.bad_since = None;
        self.problem = None;
        self.next = published.at;
    }

    /// Ask at once, as on SIGHUP.
    pub fn look(&mut self, now: Mono) {
        self.next = now;
    }

    /// The generation that answers are compared with, once there is one.
    pub fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// When to ask next.
    pub fn next_ask(&self) -> Mono {
        self.next
    }

    /// What is wrong, once it has been for [`GRACE_MS`].
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Takes what `server` has said about `name`, or why it did not; `None` when nothing is published.
    pub fn hear(
        &mut self,
        server: &Address,
        name: &str,
        answer: &Result<DnsAnswer, String>,
        now: Now,
    ) -> Option<CheckResult> {
        let published = self.published.as_ref()?;
        let verdict = match answer {
            Ok(answer) => compare(published.writer.as_ref(), answer),
            Err(_) => DnsVerdict::Silent,
        };
        let after = published.promoted.map(|promoted| now.mono - promoted);
        let mut heard =
            CheckResult { verdict, first: false, first_after_promotion_ms: None, stale_ms: 0 };
        if verdict == DnsVerdict::Right {
            heard.first = !self.seen;
            heard.first_after_promotion_ms = after.filter(|_| !self.seen);
            self.seen = true;
            self.bad_since = None;
            self.problem = None;
            self.next = now.mono.plus_ms(EVERY_MS);
            return Some(heard);
        }
        let since = *self.bad_since.get_or_insert(now.mono);
        let by_history = answer.as_ref().ok();
        let by_history = by_history.and_then(|a| stale(a, &published.history, now.wall));
        let seen_ms = now.mono - since;
        heard.stale_ms =
            by_history.map_or(seen_ms, |age| u64::try_from(age.as_millis()).unwrap_or(0));
        self.problem = (seen_ms >= GRACE_MS)
            .then(|| problem(server, name, answer, published.writer.as_ref(), by_history));
        let pause = pause(verdict, now.mono - published.at.max(since), seen_ms);
        self.next = now.mono.plus_ms(pause.max(self.pause_min_ms));
        Some(heard)
    }
}

/// How long to wait after an answer that is not right, this long after the last switch or the first such answer.
fn pause(verdict: DnsVerdict, ms: u64, seen_ms: u64) -> u64 {
    match verdict {
        DnsVerdict::Silent if seen_ms < OFTEN_FOR_MS => SILENT_MS,
        DnsVerdict::Silent | DnsVerdict::Right => EVERY_MS,
        _ if ms < SOON_FOR_MS => SOON_MS,
        _ if ms < OFTEN_FOR_MS => OFTEN_MS,
        _ => WRONG_MS,
    }
}

/// What is wrong, in words.
pub fn problem(
    server: &Address,
    name: &str,
    answer: &Result<DnsAnswer, String>,
    writer: Option<&Address>,
    stale: Option<SignedDuration>,
) -> Problem {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            let text = format!("DNS at {server} does not answer for {name}: {why}");
            return ProblemCode::DnsSilent.says(text);
        }
    };
    let wanted = match writer {
        Some(writer) => format!("{writer} is published"),
        None => "no writer is published".to_owned(),
    };
    // No answer is of no date.
    let nothing = answer.ips.is_empty() && answer.services.is_empty();
    let age = stale.map(|age| match (age.as_secs(), nothing) {
        (s, true) => format!(", for {s} s"),
        (s, false) => format!(", {s} s out of date"),
    });
    let age = age.unwrap_or_default();
    let text = format!("DNS at {server} answers {answer} for {name}{age}: {wanted}");
    ProblemCode::DnsWrong.says(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::record::Timeline;

    const SERVER: &str = "127.0.0.1:8600";
    const NAME: &str = "redis-primary.service.consul";

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn answer(ips: &[&str], services: &[(&str, u16)]) -> DnsAnswer {
        DnsAnswer {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            services: services.iter().map(|(t, port)| ((*t).to_owned(), *port)).collect(),
        }
    }

    /// What Consul answers for an instance with an IPv4 address.
    fn leads_to(ip: &str) -> DnsAnswer {
        answer(&[ip], &[("0a000005.addr.dc1.consul.", 6379)])
    }

    fn change(generation: u64, at: i64, to: Option<&str>) -> Change {
        Change {
            generation,
            at: Timestamp::from_second(at).unwrap(),
            from: None,
            to: to.map(address),
            level: None,
            epoch: None,
            why: String::new(),
            by: String::new(),
            timeline: Timeline::default(),
        }
    }

    /// 10.0.0.5 until 200, no writer until 202, 10.0.0.6 since then.
    fn history() -> Vec<Change> {
        vec![
            change(3, 202, Some("10.0.0.6:6379")),
            change(2, 200, None),
            change(1, 100, Some("10.0.0.5:6379")),
        ]
    }

    fn published(generation: u64, writer: Option<&str>, at: u64) -> Published {
        Published {
            generation,
            service: "redis".parse().unwrap(),
            writer: writer.map(address),
            promoted: writer.map(|_| Mono(at - 5)),
            at: Mono(at),
            ours: true,
            history: history(),
        }
    }

    fn at(ms: u64) -> Now {
        Now { mono: Mono(ms), wall: Timestamp::from_second(300).unwrap() }
    }

    #[test]
    fn answers_are_compared_with_the_writer() {
        let writer = address("10.0.0.5:6379");
        let nothing = DnsAnswer::default();
        let target = ("x.addr.dc1.consul.", 6379);
        for (published, answer, verdict) in [
            (Some(&writer), leads_to("10.0.0.5"), DnsVerdict::Right),
            (Some(&writer), leads_to("10.0.0.6"), DnsVerdict::Other),
            (Some(&writer), nothing.clone(), DnsVerdict::Missing),
            (None, nothing, DnsVerdict::Right),
            (None, leads_to("10.0.0.5"), DnsVerdict::Unwanted),
            // Another port, one more address, one more port, and half an answer.
            (Some(&writer), answer(&["10.0.0.5"], &[("x.", 6380)]), DnsVerdict::Other),
            (Some(&writer), answer(&["10.0.0.5", "10.0.0.6"], &[target]), DnsVerdict::Other),
            (Some(&writer), answer(&["10.0.0.5"], &[target, ("y.", 6380)]), DnsVerdict::Other),
            (Some(&writer), answer(&["10.0.0.5"], &[]), DnsVerdict::Other),
            (Some(&writer), answer(&["10.0.0.5", "fe80::1"], &[target]), DnsVerdict::Other),
        ] {
            assert_eq!(compare(published, &answer), verdict, "{published:?} {answer:?}");
        }
    }

    #[test]
    fn ipv6_and_names_are_compared_too() {
        let six = address("[2001:db8::5]:6379");
        let target = ("x.addr.dc1.consul.", 6379);
        assert_eq!(compare(Some(&six), &answer(&["2001:db8::5"], &[target])), DnsVerdict::Right);
        assert_eq!(compare(Some(&six), &answer(&["2001:db8::6"], &[target])), DnsVerdict::Other);
        let named = address("redis-0.example.com:6379");
        let right = answer(&["10.9.9.9"], &[("Redis-0.example.com.", 6379)]);
        assert_eq!(compare(Some(&named), &right), DnsVerdict::Right);
        let wrong = answer(&["10.9.9.9"], &[("redis-1.example.com.", 6379)]);
        assert_eq!(compare(Some(&named), &wrong), DnsVerdict::Other);
    }

    #[test]
    fn an_answer_of_the_past_is_as_stale_as_the_history_says() {
        let now = Timestamp::from_second(212).unwrap();
        let age = |answer: &DnsAnswer, history: &[Change]| {
            stale(answer, history, now).map(|age| age.as_secs())
        };
        assert_eq!(age(&leads_to("10.0.0.5"), &history()), Some(12), "gone at 200");
        assert_eq!(
            age(&DnsAnswer::default(), &history()),
            Some(10),
            "there was no writer until 202"
        );
        assert_eq!(age(&leads_to("10.0.0.9"), &history()), None, "it never was published");
        let first = [change(1, 205, Some("10.0.0.5:6379"))];
        assert_eq!(age(&DnsAnswer::default(), &first), Some(7), "no writer before the first one");
        let cut = [change(9, 205, Some("10.0.0.5:6379"))];
        assert_eq!(age(&DnsAnswer::default(), &cut), None, "the past is not known so far back");
    }

    fn hear(check: &mut NameCheck, answer: &DnsAnswer, ms: u64) -> CheckResult {
        check.hear(&address(SERVER), NAME, &Ok(answer.clone()), at(ms)).unwrap()
    }

    #[test]
    fn a_switch_is_asked_for_until_it_is_answered_and_timed_once() {
        let mut check = NameCheck::default();
        check.expect(&published(3, Some("10.0.0.6:6379"), 1_000));
        assert_eq!(check.next_ask(), Mono(1_000));
        let old = hear(&mut check, &leads_to("10.0.0.5"), 1_003);
        assert_eq!((old.verdict, old.stale_ms), (DnsVerdict::Other, 100_000));
        assert_eq!(check.next_ask(), Mono(1_003 + SOON_MS));
        assert_eq!(check.problem(), None, "Consul has a moment");
        let new = hear(&mut check, &leads_to("10.0.0.6"), 1_030);
        assert_eq!((new.verdict, new.first_after_promotion_ms), (DnsVerdict::Right, Some(35)));
        assert!(new.first);
        assert_eq!(check.next_ask(), Mono(1_030 + EVERY_MS));
        let later = hear(&mut check, &leads_to("10.0.0.6"), 61_030);
        assert_eq!((later.first, later.first_after_promotion_ms), (false, None));
        // The same once more changes nothing.
        check.expect(&published(3, Some("10.0.0.6:6379"), 70_000));
        assert_eq!(check.next_ask(), Mono(61_030 + EVERY_MS));
    }

    #[test]
    fn an_answer_that_stays_wrong_is_a_problem_until_it_is_right() {
        let mut check = NameCheck::default();
        check.expect(&published(3, Some("10.0.0.6:6379"), 1_000));
        hear(&mut check, &leads_to("10.0.0.5"), 1_000);
        hear(&mut check, &leads_to("10.0.0.5"), 1_000 + GRACE_MS);
        let problem = check.problem().cloned().unwrap();
        assert_eq!(problem.code, ProblemCode::DnsWrong);
        assert_eq!(
            problem.text,
            "DNS at 127.0.0.1:8600 answers 10.0.0.5:6379 for redis-primary.service.consul, \
             100 s out of date: 10.0.0.6:6379 is published"
        );
        assert_eq!(check.next_ask(), Mono(1_000 + GRACE_MS + OFTEN_MS));
        hear(&mut check, &leads_to("10.0.0.5"), 1_000 + OFTEN_FOR_MS);
        assert_eq!(check.next_ask(), Mono(1_000 + OFTEN_FOR_MS + WRONG_MS));
        hear(&mut check, &leads_to("10.0.0.6"), 40_000);
        assert_eq!(check.problem(), None);
    }

    #[test]
    fn another_generation_is_given_its_own_moment() {
        let mut check = NameCheck::default();
        check.expect(&published(3, Some("10.0.0.6:6379"), 1_000));
        hear(&mut check, &DnsAnswer::default(), 1_000);
        hear(&mut check, &DnsAnswer::default(), 1_000 + GRACE_MS);
        assert!(check.problem().is_some());
        check.expect(&published(4, None, 9_000));
        assert_eq!(check.problem(), None);
        assert_eq!(hear(&mut check, &DnsAnswer::default(), 9_001).verdict, DnsVerdict::Right);
    }

    #[test]
    fn silence_is_a_problem_of_its_own_and_asked_for_less_often() {
        let mut check = NameCheck::default();
        check.expect(&published(3, Some("10.0.0.6:6379"), 1_000));
        let silent = Err("refused".to_owned());
        let mut say = |ms| check.hear(&address(SERVER), NAME, &silent, at(ms)).unwrap().verdict;
        assert_eq!(say(1_000), DnsVerdict::Silent);
        assert_eq!(say(1_000 + GRACE_MS), DnsVerdict::Silent);
        assert_eq!(say(1_000 + OFTEN_FOR_MS), DnsVerdict::Silent);
        assert_eq!(check.next_ask(), Mono(1_000 + OFTEN_FOR_MS + EVERY_MS));
        let problem = check.problem().unwrap();
        assert_eq!(problem.code, ProblemCode::DnsSilent);
        assert!(problem.text.ends_with("redis-primary.service.consul: refused"), "{problem:?}");
    }
}
