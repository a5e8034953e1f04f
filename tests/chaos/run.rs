//! A run: round after round of faults, each judged when the world has settled again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::act::Act;
use crate::checker::{Tally, Terms, Timeline, Violation, check, lost, shape};
use crate::clients::Clients;
use crate::fault::{Fault, HOSTS, Round};
use crate::history::{Held, History, Ms, Note, Outcome, Spell, Touches, Way, host_of};
use crate::resp::{Conn, Reply};
use crate::settle::settled;
use crate::world::{Mode, Spec, World, name, words};

/// How long a world may take to settle once all is healed: a Sentinel that stood still trusts its clock again after
/// 30 s, one that calls a primary down that it cannot replace tries again after twice `failover-timeout`.
const SETTLES_WITHIN_S: u64 = 90;
/// Where Sentinels lost their files: those that are gone are forgotten after `forget_sentinels_after` (30 s), one
/// Sentinel at a time, 30 s apart.
const SETTLES_BLANK_S: u64 = 210;
/// The first time.
const BEGINS_WITHIN_S: u64 = 90;
/// For all keys at once.
const KEYS_PATIENCE: Duration = Duration::from_secs(10);
/// Keys that are asked for at once.
const BATCH: usize = 500;
/// So many acknowledged keys stay; older ones are deleted between two rounds.
const KEYS_KEPT: usize = 20_000;
/// For so long a fault counts that was healed: what a planned move that has died leaves behind.
const FAULTS_KNOWN_MS: Ms = 150_000;
/// What is on its way when all has settled.
const FLIGHT: Duration = Duration::from_millis(300);
/// An agent may write a line of one shape so often in a minute.
const LINES_A_MINUTE: usize = 60;
/// Memory and descriptors that an agent may have more in the end.
const MEMORY_MORE_KB: u64 = 32 * 1_024;
const FILES_MORE: usize = 24;
/// Files of the world itself, or of servers, that hold a secret.
const OWN_FILES: [&str; 7] =
    ["token", "password", "listen", "config.json", "redis.conf", "server.conf", "first.conf"];

/// What came of a run.
#[derive(Debug, Default)]
pub struct Result_ {
    /// Faults that were done.
    pub faults: usize,
    /// Rounds.
    pub rounds: usize,
    /// The writes.
    pub tally: Tally,
    /// Changes of what is published.
    pub generations: u64,
    /// The longest that a round took to settle, in ms.
    pub slowest_ms: Ms,
    /// Each violation, with its round, and the story of that round.
    pub violations: Vec<(usize, Violation)>,
    /// The stories of rounds with violations.
    pub stories: Vec<String>,
    /// Where the logs are, if there are violations.
    pub kept: Option<std::path::PathBuf>,
}

struct Run {
    world: World,
    clients: Clients,
    history: History,
    held: Vec<Held>,
    result: Result_,
    logs: Vec<u64>,
    footprints: BTreeMap<u32, (u64, usize)>,
}

/// Runs a schedule in a world of its own, on a thread of its own. It ends with the first round with a violation, or
/// with `go_on` with the first one that does not settle.
pub fn run(spec: Spec, rounds: &[Round], go_on: bool) -> Result_ {
    let rounds = rounds.to_vec();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let begun = Run::start(spec).await;
            let mut run = begun.unwrap_or_else(|error| panic!("the world does not begin: {error}"));
            for round in &rounds {
                let may_go_on = run.round(round).await;
                if !may_go_on || (!go_on && !run.result.violations.is_empty()) {
                    break;
                }
            }
            run.end()
        })
    });
    thread.join().expect("the run")
}

impl Run {
    async fn start(spec: Spec) -> Result<Self, String> {
        let world = World::start(spec).await?;
        let clients = Clients::start(&world.places, std::sync::Arc::clone(&world.switch));
        let mut run = Self {
            world,
            clients,
            history: History::default(),
            held: Vec::new(),
            result: Result_::default(),
            logs: vec![0; HOSTS],
            footprints: BTreeMap::new(),
        };
        let begun = run.settle(BEGINS_WITHIN_S).await;
        if let Err(error) = begun {
            let kept = run.keep();
            return Err(format!("{error}\nlogs: {kept:?}"));
        }
        run.drain();
        run.history = History { begun: run.world.places.now(), ..History::default() };
        Ok(run)
    }

    async fn settle(&mut self, seconds: u64) -> Result<usize, String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            self.start_ended()?;
            match settled(&self.world).await {
                Ok(writer) => return Ok(writer),
                Err(last) if Instant::now() > end => {
                    return Err(format!("not settled within {seconds} s; last seen: {last}"));
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// What a service manager does with a Redis that has ended, and an operator with one whose append-only file a full
    /// disk has left unreadable: it copies all from the writer.
    fn start_ended(&mut self) -> Result<(), String> {
        let now = self.world.places.now();
        for (number, host) in self.world.hosts.iter_mut().enumerate() {
            for other in [Some(&mut host.sentinel), host.agent.as_mut()].into_iter().flatten() {
                if other.has_ended() {
                    println!(
                        "{:>9} s  {} at {} has ended, started again",
                        seconds(now),
                        other.name,
                        name(number)
                    );
                    other.start()?;
                }
            }
            if !host.redis.has_ended() {
                continue;
            }
            let log = std::fs::read_to_string(host.redis.log()).unwrap_or_default();
            let bad = log.lines().rev().take(4).any(|line| {
                line.contains("Bad file format reading the append only file")
                    || line.contains("Unexpected end of file reading the append only file")
            });
            let what = if bad { "bad file, taken away" } else { "has ended" };
            let what = format!("Redis at {}: {what}, started again", name(number));
            println!("{:>9} s  {what}", seconds(now));
            if bad {
                let _ = std::fs::remove_dir_all(host.disk.join("appendonlydir"));
            }
            let touches = Touches { redis: true, killed: true, data: bad, ..Touches::default() };
            let host_ = Some(number);
            self.history.spells.push(Spell { from: now, until: now, host: host_, touches, what });
            host.redis.start()?;
        }
        Ok(())
    }

    fn drain(&mut self) {
        while let Ok(seen) = self.clients.seen.try_recv() {
            self.history.take(seen);
        }
    }

    /// Whether another round can follow.
    async fn round(&mut self, round: &Round) -> bool {
        println!("{round}");
        let mut violations = Vec::new();
        let mut notes = match self.act(round).await {
            Ok(done) => done,
            Err(error) => {
                let at = self.world.places.now();
                violations.push(Violation { rule: "the test itself", at, what: error });
                Vec::new()
            }
        };
        self.history.healed = self.world.places.now();
        let blank = |fault: Fault| matches!(fault, Fault::BlankSentinel(_) | Fault::BlankSentinels);
        let blank = round.faults.iter().any(|drawn| blank(drawn.fault));
        let within = if blank { SETTLES_BLANK_S } else { SETTLES_WITHIN_S };
        let settled = self.settle(within).await;
        sleep(FLIGHT).await;
        self.drain();
        self.history.settled = self.world.places.now();
        self.history.sort();
        let settled = settled.inspect_err(|error| {
            let at = self.history.settled;
            violations.push(Violation { rule: "it does not settle", at, what: error.clone() });
        });
        let beside = self.world.spec.mode != Mode::Observer;
        let appends = std::array::from_fn(|host| host % 2 == self.world.spec.parity);
        let terms = Terms { beside, still: self.clients.still(), appends };
        let has_settled = settled.is_ok() && violations.is_empty();
        violations.extend(check(&self.history, terms));
        // Where a world has not settled, it is not known what its writer is to have.
        if let Ok(writer) = settled {
            violations.extend(self.keys(writer, terms).await);
        }
        violations.extend(self.beside().await);
        self.result.rounds += 1;
        let took = self.history.settled - self.history.healed;
        self.result.slowest_ms = self.result.slowest_ms.max(took);
        notes.push(Note { at: self.history.healed, what: "all is healed".to_owned() });
        notes.push(Note { at: self.history.settled, what: format!("settled, {took} ms later") });
        println!(
            "{:>9} s  settled after {took} ms; stood still for {} ms; {} lost",
            seconds(self.history.settled),
            terms.still,
            self.result.tally.lost.values().sum::<usize>()
        );
        if !violations.is_empty() {
            let begun = self.history.begun;
            for spell in self
                .history
                .spells
                .iter()
                .filter(|spell| spell.from == spell.until && spell.from >= begun)
            {
                notes.push(Note { at: spell.from, what: spell.what.clone() });
            }
            let story = story(round, &self.history, notes, &violations);
            println!("{story}");
            self.result.stories.push(story);
            self.result.violations.extend(violations.into_iter().map(|one| (round.number, one)));
        }
        self.next();
        has_settled
    }

    async fn act(&mut self, round: &Round) -> Result<Vec<Note>, String> {
        let state = self.world.state().await?;
        let writer = &state["writer"];
        let writer = writer.as_str().or_else(|| writer["address"].as_str()).and_then(host_of);
        let writer = writer.ok_or("no writer at the begin of a round")?;
        let mut act = Act::new(&mut self.world, writer).await?;
        let done = act.run(round).await;
        let (notes, spells) = (act.notes, act.spells);
        self.result.faults += spells.len();
        self.history.spells.extend(spells);
        done.map(|()| notes)
    }

    /// Keys that were acknowledged and are not there, each explained or a violation.
    async fn keys(&mut self, writer: usize, terms: Terms) -> Vec<Violation> {
        for write in self.history.writes.iter().filter(|write| write.outcome == Outcome::Acked) {
            let Some(by) = host_of(&write.to) else { continue };
            let (key, at, manner) = (write.key.clone(), write.done, write.manner);
            self.held.push(Held { key, at, by, manner });
            self.result.tally.acked += 1;
        }
        let at = self.world.places.now();
        let found = match self.look_for(writer).await {
            Ok(found) => found,
            Err(what) => return vec![Violation { rule: "the keys cannot be read", at, what }],
        };
        let timeline = Timeline::new(&self.history);
        let (mut kept, mut violations) = (Vec::new(), Vec::new());
        for (held, is_there) in std::mem::take(&mut self.held).into_iter().zip(found) {
            if is_there {
                kept.push(Held { at: self.history.settled, by: writer, ..held });
                continue;
            }
            match lost(&held, &self.history, &timeline, terms) {
                Ok(cause) => *self.result.tally.lost.entry(cause).or_insert(0) += 1,
                Err(violation) => violations.push(violation),
            }
        }
        if violations.len() > 3 {
            let count = violations.len();
            violations.truncate(3);
            violations[0].what.push_str(&format!(" (the first of {count})"));
        }
        self.held = kept;
        if let Err(what) = self.trim(writer).await {
            violations.push(Violation { rule: "the test itself", at, what });
        }
        violations
    }

    /// Deletes the oldest keys, and knows them no more: what is written is to stay within a disk.
    async fn trim(&mut self, writer: usize) -> Result<(), String> {
        let spare = self.held.len().saturating_sub(KEYS_KEPT);
        for batch in self.held.drain(..spare).collect::<Vec<Held>>().chunks(BATCH) {
            let mut command = vec!["DEL"];
            command.extend(batch.iter().map(|held| held.key.as_str()));
            match self.world.redis(writer, &command).await? {
                Reply::Int(_) => {}
                other => return Err(format!("DEL: {other:?}")),
            }
        }
        Ok(())
    }

    async fn look_for(&self, writer: usize) -> Result<Vec<bool>, String> {
        let password = self.world.places.password.borrow().clone();
        let at = self.world.places.at(writer, 6379);
        let conn = Conn::open(at, Some(&password), KEYS_PATIENCE).await;
        let mut conn = conn.map_err(|fail| fail.text().to_owned())?;
        let mut found = Vec::new();
        for batch in self.held.chunks(BATCH) {
            let ask = |held: &Held| vec!["EXISTS".to_owned(), held.key.clone()];
            let commands: Vec<Vec<String>> = batch.iter().map(ask).collect();
            let replies = conn.calls(&commands).await.map_err(|fail| fail.text().to_owned())?;
            found.extend(replies.iter().map(|reply| *reply == Reply::Int(1)));
        }
        Ok(found)
    }

    /// Other people's data, the logs, and what agents take of the machine.
    async fn beside(&mut self) -> Vec<Violation> {
        let at = self.world.places.now();
        let minutes = usize::try_from((at - self.history.begun) / 60_000 + 1).unwrap_or(1);
        let mut found = Vec::new();
        if let Some(what) = self.world.foreign_is_touched().await {
            found.push(Violation { rule: "other people's data", at, what });
        }
        for host in 0..HOSTS {
            for line in self.new_lines(host) {
                if let Some(secret) = self.world.secrets.iter().find(|one| line.contains(*one)) {
                    let what = format!("{}: {}", name(host), line.replace(secret, "(a secret)"));
                    found.push(Violation { rule: "a secret in a log", at, what });
                }
            }
            found.extend(self.footprint(host, at));
        }
        found.extend(self.paces(minutes, at));
        for host in 0..HOSTS {
            self.logs[host] = std::fs::metadata(self.log(host)).map_or(0, |file| file.len());
        }
        found.extend(self.readable(at));
        found
    }

    fn log(&self, host: usize) -> std::path::PathBuf {
        let one = &self.world.hosts[host];
        one.agent.as_ref().unwrap_or(&one.redis).log()
    }

    fn new_lines(&self, host: usize) -> Vec<String> {
        let bytes = std::fs::read(self.log(host)).unwrap_or_default();
        let from = usize::try_from(self.logs[host]).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).lines().map(str::to_owned).collect()
    }

    fn paces(&self, minutes: usize, at: Ms) -> Vec<Violation> {
        let mut found = Vec::new();
        for host in 0..HOSTS {
            let mut counts: BTreeMap<String, (usize, String)> = BTreeMap::new();
            for line in self.new_lines(host) {
                counts.entry(shape(&line)).or_insert((0, line)).0 += 1;
            }
            let often = counts.into_values().filter(|(count, _)| *count > LINES_A_MINUTE * minutes);
            found.extend(often.map(|(count, line)| Violation {
                rule: "a line without a pace",
                at,
                what: format!("{}: {count} times in {minutes} min: {line}", name(host)),
            }));
        }
        found
    }

    /// An agent that runs since a round before has about what it had then.
    fn footprint(&mut self, host: usize, at: Ms) -> Option<Violation> {
        let one = &self.world.hosts[host];
        let id = one.agent.as_ref().unwrap_or(&one.redis).id()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory: u64 = memory.trim().trim_end_matches(" kB").parse().ok()?;
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
        let (first_memory, first_files) = *self.footprints.entry(id).or_insert((memory, files));
        if memory > first_memory + MEMORY_MORE_KB || files > first_files + FILES_MORE {
            let what = format!(
                "the agent of {} has {memory} kB and {files} descriptors, and had {first_memory} kB and {first_files}",
                name(host)
            );
            return Some(Violation { rule: "memory and descriptors", at, what });
        }
        None
    }

    /// Files that all may read, and that hold a secret.
    fn readable(&self, at: Ms) -> Vec<Violation> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut found = Vec::new();
        for host in &self.world.hosts {
            for dir in [&host.dir, &host.disk, &host.dir.join("sentinel")] {
                for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                    let name = file.file_name().to_string_lossy().into_owned();
                    let open = file.metadata().is_ok_and(|data| {
                        data.is_file()
                            && data.permissions().mode() & 0o004 != 0
                            && data.len() < 1_000_000
                    });
                    if !open || OWN_FILES.contains(&name.as_str()) {
                        continue;
                    }
                    let text = std::fs::read(file.path()).unwrap_or_default();
                    let text = String::from_utf8_lossy(&text);
                    if self.world.secrets.iter().any(|secret| text.contains(secret.as_str())) {
                        let what = file.path().display().to_string();
                        found.push(Violation {
                            rule: "a secret in a file that all may read",
                            at,
                            what,
                        });
                    }
                }
            }
        }
        found
    }

    /// The next round begins with what was published last.
    fn next(&mut self) {
        let timeline = Timeline::new(&self.history);
        self.result.generations += timeline.0.len().saturating_sub(1) as u64;
        let last = self.history.answers.iter().rev().find(|answer| {
            answer.way == Way::Kv && answer.generation == Some(timeline.generation())
        });
        let answers = last.cloned().into_iter().collect();
        let begun = self.history.settled;
        let since = begun.saturating_sub(FAULTS_KNOWN_MS);
        let mut spells = std::mem::take(&mut self.history.spells);
        spells.retain(|spell| spell.until >= since);
        self.history = History { answers, spells, begun, ..History::default() };
    }

    fn keep(&mut self) -> Option<std::path::PathBuf> {
        std::env::var_os("CHAOS_KEEP")?;
        let kept = std::env::temp_dir().join(format!("chaos-{}", std::process::id()));
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(self.world.dir.path())
            .arg(&kept)
            .status();
        copied.map_err(words).is_ok_and(|status| status.success()).then_some(kept)
    }

    fn end(mut self) -> Result_ {
        self.clients.stop();
        if !self.result.violations.is_empty() {
            self.result.kept = self.keep();
        }
        self.result
    }
}

/// A moment in seconds, to be shown.
pub fn seconds(at: Ms) -> String {
    format!("{}.{:03}", at / 1_000, at % 1_000)
}

/// What happened in a round, so that a person can follow it.
fn story(
    round: &Round,
    history: &History,
    mut notes: Vec<Note>,
    violations: &[Violation],
) -> String {
    for one in Timeline::new(history).0 {
        let writer = one.writer.map_or("no writer".to_owned(), name);
        let what = format!("generation {}: {writer} ({})", one.generation, one.why);
        notes.push(Note { at: one.from, what });
    }
    for violation in violations {
        notes.push(Note {
            at: violation.at,
            what: format!("VIOLATED, {}: {}", violation.rule, violation.what),
        });
    }
    let mut outcomes: BTreeMap<(Ms, String), usize> = BTreeMap::new();
    for write in &history.writes {
        let outcome = match &write.outcome {
            Outcome::Acked => "acknowledged".to_owned(),
            Outcome::Failed(error) => format!("failed: {error}"),
            Outcome::Unknown(error) => format!("unknown: {error}"),
        };
        let what = format!("{:?} writes to {} {outcome}", write.manner, write.to);
        *outcomes.entry((write.done / 1_000 * 1_000, what)).or_insert(0) += 1;
    }
    for ((at, what), count) in outcomes {
        notes.push(Note { at, what: format!("  {count} {what}") });
    }
    notes.sort_by_key(|note| note.at);
    let mut text = format!("{round}\n");
    for note in notes {
        let _ = writeln!(text, "{:>9} s  {}", seconds(note.at), note.what);
    }
    text
}
