//! What was seen, with times in ms since the begin of the run.

/// A moment.
pub type Ms = u64;

/// How a name was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A records of DNS.
    A,
    /// SRV records.
    Srv,
    /// A records of the tag of the role.
    Tag,
    /// The healthy rows.
    Health,
    /// All rows.
    Catalog,
    /// The key with the state.
    Kv,
}

/// An answer about the writer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When the question was sent.
    pub sent: Ms,
    /// When the answer was there.
    pub received: Ms,
    /// The Consul server that was asked.
    pub server: usize,
    /// How.
    pub way: Way,
    /// The hosts in it.
    pub writers: Vec<String>,
    /// Of the state: its generation.
    pub generation: Option<u64>,
    /// Of the state: why.
    pub why: String,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Acked,
    /// It was not done.
    Failed(String),
    /// It may have been done.
    Unknown(String),
}

/// How a client finds the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It looks the name up for each write.
    Looks,
    /// It keeps its connection until that fails, as docs/clients.md says.
    Keeps,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// Its client.
    pub manner: Manner,
    /// Its key, which no other write has.
    pub key: String,
    /// The Consul server that was asked for the address, and when.
    pub looked: (usize, Ms),
    /// The host that it went to.
    pub to: String,
    /// When it was sent.
    pub invoked: Ms,
    /// When its outcome was known.
    pub done: Ms,
    /// What became of it.
    pub outcome: Outcome,
}

/// What an instance says of itself.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was asked.
    pub sent: Ms,
    /// When it answered, or did not.
    pub received: Ms,
    /// Its host.
    pub host: usize,
    /// Its answer; `None` without one.
    pub said: Option<Said>,
}

/// Of `INFO replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// It says that it is a primary.
    pub primary: bool,
    /// Of the history that it writes or follows.
    pub replid: String,
    /// How far it has come in that.
    pub offset: u64,
}

/// What an agent says is wrong.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub received: Ms,
    /// The agent's host.
    pub host: usize,
    /// The codes of the problems.
    pub problems: Vec<String>,
}

/// Anything that was seen.
#[derive(Debug, Clone)]
pub enum Seen {
    /// By a reader.
    Answer(Answer),
    /// By a writer.
    Write(Write),
    /// By the sampler.
    Sample(Sample),
    /// By the reader of `/status.json`.
    Look(Look),
}

/// What a fault touches, for the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touches {
    /// Redis stands still, or is down.
    pub redis: bool,
    /// Redis ends without saving.
    pub killed: bool,
    /// Redis loses data.
    pub data: bool,
    /// What it gets back is an older state of its files, and not none.
    pub older: bool,
    /// Redis refuses writes or saves nothing.
    pub disk: bool,
    /// The Sentinel.
    pub sentinel: bool,
    /// The agent.
    pub agent: bool,
    /// The Consul server.
    pub consul: bool,
    /// All Consul servers lose what they had, and get older data.
    pub restored: bool,
    /// The network.
    pub net: bool,
    /// The host is cut off from the other hosts, in both directions.
    pub cut: bool,
    /// DNS alone.
    pub dns: bool,
    /// A failover was asked for by a bare command.
    pub asked: bool,
    /// A planned move.
    pub planned: bool,
}

/// A fault that was done.
#[derive(Debug, Clone)]
pub struct Spell {
    /// From when.
    pub from: Ms,
    /// Until it was healed.
    pub until: Ms,
    /// Its host; `None` for all.
    pub host: Option<usize>,
    /// What it touches.
    pub touches: Touches,
    /// In words.
    pub what: String,
}

impl Spell {
    /// It touches this host.
    pub fn is_at(&self, host: usize) -> bool {
        self.host.is_none_or(|own| own == host)
    }

    /// It was on at some time from one moment to another one.
    pub fn overlaps(&self, from: Ms, until: Ms) -> bool {
        self.from <= until && self.until >= from
    }
}

/// A line of the timeline.
#[derive(Debug, Clone)]
pub struct Note {
    /// When.
    pub at: Ms,
    /// What.
    pub what: String,
}

/// A key that was acknowledged and is to be there.
#[derive(Debug, Clone)]
pub struct Held {
    /// The key.
    pub key: String,
    /// When it was last known to be there: acknowledged, or found.
    pub at: Ms,
    /// Its instance at that time.
    pub by: usize,
    /// Its client.
    pub manner: Manner,
}

/// All that is known of a round.
#[derive(Debug, Default)]
pub struct History {
    /// By the readers.
    pub answers: Vec<Answer>,
    /// By the clients.
    pub writes: Vec<Write>,
    /// Of the instances.
    pub samples: Vec<Sample>,
    /// Of the agents.
    pub looks: Vec<Look>,
    /// What was done.
    pub spells: Vec<Spell>,
    /// When all was healed, and when all had settled.
    pub healed: Ms,
    /// The end.
    pub settled: Ms,
    /// When the round began.
    pub begun: Ms,
}

impl History {
    /// Takes what was seen.
    pub fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Answer(answer) => self.answers.push(answer),
            Seen::Write(write) => self.writes.push(write),
            Seen::Sample(sample) => self.samples.push(sample),
            Seen::Look(look) => self.looks.push(look),
        }
    }

    /// In the order of time.
    pub fn sort(&mut self) {
        self.answers.sort_by_key(|answer| answer.received);
        self.writes.sort_by_key(|write| write.done);
        self.samples.sort_by_key(|sample| sample.received);
        self.looks.sort_by_key(|look| look.received);
        self.spells.sort_by_key(|spell| spell.from);
    }
}

/// The host of an address of the world: `10.0.0.1` or `10.0.0.1:6379` is 0.
pub fn host_of(address: &str) -> Option<usize> {
    let last = address.split(':').next()?.rsplit('.').next()?.parse::<usize>().ok()?;
    last.checked_sub(1).filter(|host| *host < crate::fault::HOSTS)
}
