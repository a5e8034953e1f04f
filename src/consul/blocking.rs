//! Blocking queries (`docs/facts/consul.md` 4): how the index goes on, how long one waits, how soon the next one is
//! sent, and when one that failed is sent again. No other place knows any of it.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{CALL_TIMEOUT, Consul, ConsulError, Response};
use crate::retry::Retry;

/// How long a query waits for a change. With the sixteenth that Consul adds it is over before the 30 s after which many
/// a proxy ends what is idle.
pub const WATCH_WAIT: Duration = Duration::from_secs(25);
/// A query that waited for so long before it was ended was accepted: whatever ended it is not Consul's silence yet.
const CUT_AFTER_MIN: Duration = Duration::from_secs(1);
/// Queries that are ended after times that differ by no more are ended by a proxy, at its own bound.
const CUT_SPREAD_MAX: Duration = Duration::from_millis(500);
/// The shortest wait that is learnt from a proxy's bound.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// What a gateway answers in the place of a Consul that has not answered in its time.
const GATEWAY: [u16; 3] = [502, 503, 504];
/// Least time between two answers of one query, but for a burst: what changes all the time would keep Consul and us
/// busy.
const ANSWER_GAP: Duration = Duration::from_millis(20);
/// Answers that may follow one another at once.
const ANSWER_BURST: u32 = 3;
/// Pause after an answer that is of no use (denied, unreadable): the first and the longest one.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// One path of Consul's API, asked for again and again: each answer as soon as something has changed.
#[derive(Debug)]
pub struct BlockingQuery {
    consul: Consul,
    path: String,
    query: Vec<(&'static str, &'static str)>,
    wait: Duration,
    /// The index of the last answer; 0: the next one comes at once.
    index: u64,
    pace: AnswerPace,
    refused: Retry,
    again: Option<Again>,
    /// After how long the last query was ended that was ended before its time.
    cut: Option<Duration>,
}

/// When a query that failed is sent again.
#[derive(Debug, Clone, Copy)]
enum Again {
    /// Then: it was answered, and the answer is of no use.
    At(Instant),
    /// With all others that Consul does not answer.
    InTurn,
}

impl BlockingQuery {
    /// Asks for `path` with `query`; an answer comes with a change, and after `wait` in any case.
    pub fn new(
        consul: Consul,
        path: String,
        query: Vec<(&'static str, &'static str)>,
        wait: Duration,
    ) -> Self {
        Self {
            consul,
            path,
            query,
            wait,
            index: 0,
            pace: AnswerPace::new(ANSWER_GAP, ANSWER_BURST),
            refused: Retry::between(REFUSED_PAUSE.0, REFUSED_PAUSE.1),
            again: None,
            cut: None,
        }
    }

    /// The same with no two answers closer together than `gap`.
    #[must_use]
    pub fn paced(mut self, gap: Duration) -> Self {
        self.pace = AnswerPace::new(gap, 1);
        self
    }

    /// What is asked, for messages.
    pub fn call(&self) -> String {
        format!("GET {}", self.path)
    }

    /// The next answer, as `read` reads it; the first one at once. After an error it pauses before it asks again.
    /// Cancel safe.
    ///
    /// # Errors
    /// Any [`ConsulError`]. [`ConsulError::Unreadable`] where an answer has no index to go on from.
    pub async fn next<T>(
        &mut self,
        read: impl FnOnce(Response) -> Result<T, ConsulError>,
    ) -> Result<T, ConsulError> {
        match self.again {
            None => tokio::time::sleep_until(self.pace.due()).await,
            Some(Again::At(at)) => tokio::time::sleep_until(at).await,
            Some(Again::InTurn) => self.consul.recovery().turn().await,
        }
        let answer = self.answer().await;
        let index = answer.as_ref().map_or(0, |answer| answer.index);
        let result = answer.and_then(read);
        self.note(index, result.as_ref().err());
        result
    }

    /// One that was ended while it waited is asked again at once, and for an answer at once: only when that fails, too,
    /// is it Consul that does not answer. So is one that shows an older state than the last.
    async fn answer(&mut self) -> Result<Response, ConsulError> {
        let asked = Instant::now();
        let mut answer = self.ask().await;
        let took = asked.elapsed();
        let cut = took >= CUT_AFTER_MIN && is_cut(&answer) && took < self.held();
        if cut && self.index > 0 {
            self.learn(took);
        }
        if self.index > 0 && (cut || self.went_back(&answer)) {
            self.index = 0;
            answer = self.ask().await;
        }
        self.consul.counted(answer)
    }

    /// A Consul that was restored or wiped, or a server that does not know all of it yet.
    fn went_back(&self, answer: &Result<Response, ConsulError>) -> bool {
        answer.as_ref().is_ok_and(|answer| (1..self.index).contains(&answer.index))
    }

    /// A proxy ends all at the same time: next time the answer is there before.
    fn learn(&mut self, took: Duration) {
        if self.cut.is_some_and(|before| before.abs_diff(took) <= CUT_SPREAD_MAX) {
            self.wait = self.wait.min(took * 3 / 4).max(WAIT_MIN);
        }
        self.cut = Some(took);
    }

    /// Consul adds up to a sixteenth. At index 0 it does not wait.
    fn held(&self) -> Duration {
        if self.index == 0 { Duration::ZERO } else { self.wait * 17 / 16 }
    }

    /// Without an index to go on from, the leader has to confirm the answer: a server that has just been started shows
    /// its past for a moment (`docs/facts/consul.md` 4).
    async fn ask(&self) -> Result<Response, ConsulError> {
        let (index, wait) = (self.index.to_string(), format!("{}ms", self.wait.as_millis()));
        let blocking = [("index", index.as_str()), ("wait", wait.as_str())];
        let confirmed: &[(&str, &str)] = if self.index == 0 { &[("consistent", "")] } else { &[] };
        let query = [&self.query[..], &blocking, confirmed].concat();
        // It may look for a leader for 7 s.
        self.consul.blocking(&self.path, &query, self.held() + CALL_TIMEOUT).await
    }

    /// What follows from how the last query ended.
    fn note(&mut self, index: u64, error: Option<&ConsulError>) {
        match error {
            None => {
                self.index = index;
                self.again = None;
                self.refused.reset();
                self.pace.answered(Instant::now());
                self.consul.recovery().answered();
            }
            Some(error) => {
                self.index = 0;
                self.again = Some(if error.is_transient() {
                    self.consul.recovery().failed();
                    Again::InTurn
                } else {
                    Again::At(Instant::now() + self.refused.next_delay())
                });
            }
        }
    }
}

/// The connection has ended, or a gateway has answered.
fn is_cut(answer: &Result<Response, ConsulError>) -> bool {
    match answer {
        Ok(answer) => GATEWAY.contains(&answer.status.as_u16()),
        Err(error) => matches!(error, ConsulError::Unreachable { .. }),
    }
}

/// How fast answers may follow one another: `burst` at once, and then one in each `gap`.
#[derive(Debug)]
struct AnswerPace {
    gap: Duration,
    burst: u32,
    /// When all of the burst may come again.
    full: Instant,
}

impl AnswerPace {
    fn new(gap: Duration, burst: u32) -> Self {
        Self { gap, burst, full: Instant::now() }
    }

    fn answered(&mut self, at: Instant) {
        self.full = self.full.max(at) + self.gap;
    }

    /// When the next answer may come.
    fn due(&self) -> Instant {
        let ahead = self.gap * self.burst.saturating_sub(1);
        self.full.checked_sub(ahead).unwrap_or(self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::proxy::Proxy;

    impl Proxy {
        fn query(&self) -> BlockingQuery {
            BlockingQuery::new(self.consul.clone(), "/v1/kv/a".to_owned(), Vec::new(), WATCH_WAIT)
        }
    }

    fn ok(index: &str) -> String {
        format!("HTTP/1.1 200 OK\r\n{index}Content-Length: 2\r\n\r\n[]")
    }

    async fn next(query: &mut BlockingQuery) -> Result<u64, ConsulError> {
        query.next(|answer| answer.ok("GET /v1/kv/a").map(|answer| answer.index)).await
    }

    /// Asks for half a second; how often there was an answer.
    async fn for_half_a_second(query: &mut BlockingQuery) -> usize {
        let (end, mut answers) = (Instant::now() + Duration::from_millis(500), 0);
        while let Ok(answer) = tokio::time::timeout_at(end, next(query)).await {
            answers += usize::from(answer.is_ok());
        }
        answers
    }

    #[test]
    fn a_query_has_ended_before_the_token_that_it_was_sent_with() {
        let longest = WATCH_WAIT * 17 / 16 + CALL_TIMEOUT;
        assert!(crate::consul::login::OVERLAP > longest, "{longest:?}");
    }

    #[tokio::test]
    async fn an_answer_without_an_index_is_said_and_does_not_spin() {
        for index in ["", "X-Consul-Index: 0\r\n", "X-Consul-Index: many\r\n"] {
            let proxy = Proxy::start(move |_, _| ok(index)).await;
            let mut query = proxy.query();
            let error = next(&mut query).await.unwrap_err();
            assert!(matches!(error, ConsulError::NoIndex { .. }), "{error:?}");
            assert!(error.to_string().contains("X-Consul-Index"), "{error}");
            assert!(error.hint().unwrap().contains("X-Consul-Index"));
            assert_eq!(for_half_a_second(&mut query).await, 0);
            // After 100 ms, 200 ms and 400 ms, each a third more or less.
            assert!((2..=5).contains(&proxy.requests()), "{}", proxy.requests());
        }
    }

    #[tokio::test]
    async fn what_is_denied_is_said_as_that_though_it_has_no_index() {
        let denied = "HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nPermission denied";
        let proxy = Proxy::start(|_, _| denied.to_owned()).await;
        let error = next(&mut proxy.query()).await.unwrap_err();
        assert!(matches!(error, ConsulError::Denied { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn answers_come_in_a_burst_and_then_at_a_pace() {
        let proxy = Proxy::start(|n, _| ok(&format!("X-Consul-Index: {}\r\n", n + 1))).await;
        let mut query = proxy.query();
        let began = Instant::now();
        for _ in 0..ANSWER_BURST {
            next(&mut query).await.unwrap();
        }
        let burst = began.elapsed();
        for _ in 0..10 {
            next(&mut query).await.unwrap();
        }
        assert!(began.elapsed() >= burst + ANSWER_GAP * 8, "{:?}", began.elapsed());
        let more = for_half_a_second(&mut query).await;
        assert!(more <= 26, "{more}");
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_is_tried_again_at_a_pace() {
        let proxy =
            Proxy::start(|n, _| if n == 3 { ok("X-Consul-Index: 7\r\n") } else { String::new() })
                .await;
        let mut query = proxy.query();
        let began = Instant::now();
        let found = loop {
            match next(&mut query).await {
                Ok(index) => break index,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        };
        assert_eq!(found, 7);
        // The client itself may repeat what was cut before an answer began.
        assert!(began.elapsed() >= Duration::from_millis(70), "{:?}", began.elapsed());
        assert_eq!(query.index, 7);
    }

    /// Ends what waits after a time of its own, without a word or with a gateway's.
    #[tokio::test]
    async fn a_proxy_that_ends_what_waits_is_no_silence_and_its_bound_is_learnt() {
        const BOUND: Duration = Duration::from_millis(1_100);
        let learns = async |ends_with: &'static str| {
            let answer = move |_, head: &str| match head.contains("index=0&") {
                true => ok("X-Consul-Index: 7\r\n"),
                false => ends_with.to_owned(),
            };
            let proxy = Proxy::late(BOUND, answer).await;
            let mut query = proxy.query();
            for _ in 0..3 {
                assert_eq!(next(&mut query).await.unwrap(), 7, "{ends_with}");
            }
            assert!(query.wait < BOUND, "{:?}", query.wait);
        };
        let gateway = "HTTP/1.1 504 Gateway Time-out\r\nContent-Length: 0\r\n\r\n";
        tokio::join!(learns(""), learns(gateway));
    }

    #[tokio::test]
    async fn a_consul_that_ends_while_a_query_waits_is_silent_at_once() {
        let proxy = Proxy::late(Duration::from_millis(1_100), |n, _| match n {
            0 => ok("X-Consul-Index: 7\r\n"),
            _ => String::new(),
        })
        .await;
        let mut query = proxy.query();
        assert_eq!(next(&mut query).await.unwrap(), 7);
        let error = next(&mut query).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(query.index, 0);
    }

    /// What is at an older index than the last answer is not handed on before the leader has confirmed it.
    #[tokio::test]
    async fn an_index_that_went_back_begins_anew() {
        let proxy = Proxy::start(|n, _| {
            ok(&format!("X-Consul-Index: {}\r\n", [9, 4, 5].get(n).unwrap_or(&6)))
        })
        .await;
        let mut query = proxy.query();
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.push((next(&mut query).await.unwrap(), query.index, proxy.requests()));
        }
        assert_eq!(seen, [(9, 9, 1), (5, 5, 3)]);
    }

    /// A server that has just been started: what it shows by itself is from before its end.
    #[tokio::test]
    async fn an_answer_without_one_before_it_is_confirmed_by_the_leader() {
        let proxy = Proxy::start(|n, head| match (n, head.contains("consistent")) {
            (1, _) => String::new(),
            (_, true) => ok("X-Consul-Index: 9\r\n"),
            (_, false) if head.contains("index=9") => ok("X-Consul-Index: 10\r\n"),
            (_, false) => ok("X-Consul-Index: 4\r\n"),
        })
        .await;
        let mut query = proxy.query();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(next(&mut query).await);
        }
        assert_eq!(seen, [9, 9, 10], "at first, after a failure, and then as ever");
    }

    #[tokio::test]
    async fn the_pace_is_a_burst_and_then_even() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = AnswerPace { gap: Duration::from_millis(20), burst: 3, full: start };
        for _ in 0..3 {
            assert!(pace.due() <= start, "{:?}", pace.due() - start);
            pace.answered(start);
        }
        assert_eq!(pace.due(), ms(20));
        pace.answered(ms(20));
        assert_eq!(pace.due(), ms(40));
        pace.answered(ms(1_000));
        assert!(pace.due() <= ms(1_000));
    }
}
