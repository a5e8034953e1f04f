//! What is done to the world, drawn from a seed: a schedule is a value that can be printed, repeated and cut down.

use std::fmt;

use crate::rng::Rng;

/// Hosts of a world.
pub const HOSTS: usize = 3;
/// Faults of one round.
const FAULTS_MIN: u64 = 2;
const FAULTS_MAX: u64 = 4;
/// The faults of a round begin within so many ms.
const BEGIN_WITHIN_MS: u64 = 6_000;
/// How long one lasts, in ms.
const LASTS_MIN_MS: u64 = 200;
const LASTS_MAX_MS: u64 = 12_000;

/// Whose server is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The host whose Redis is published as the writer when the fault begins.
    Writer,
    /// The host of this number.
    Host(usize),
}

/// One fault. Each heals when its time is over, by what its comment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Redis is killed; it is started again on its files.
    KillRedis(Who),
    /// Redis is told to stop (SIGTERM); it is started again on its files.
    StopRedis(Who),
    /// Redis stands still (SIGSTOP); it goes on (SIGCONT).
    FreezeRedis(Who),
    /// Redis is killed and loses its files; it is started again without any.
    EmptyRedis(Who),
    /// Redis is killed; it is started again on the files that it had when the round began.
    OldRedis(Who),
    /// The disk of Redis is full; it is not any more.
    FillDisk(Who),
    /// The Sentinel is killed; it is started again on its file.
    KillSentinel(usize),
    /// The Sentinel stands still; it goes on.
    FreezeSentinel(usize),
    /// The Sentinel is killed and loses its file: it is started again blank, with a new id.
    BlankSentinel(usize),
    /// All Sentinels lose their files.
    BlankSentinels,
    /// The agent is killed; it is started again.
    KillAgent(usize),
    /// The agent stands still; it goes on.
    FreezeAgent(usize),
    /// The agent reads its config again (SIGHUP).
    ReloadAgent(usize),
    /// The agent's wall clock is so many seconds off; it is right again.
    StepClock(usize, i64),
    /// The Consul server is killed; it is started again on its files.
    KillConsul(usize),
    /// The Consul server that leads is killed; it is started again on its files.
    KillConsulLeader,
    /// The Consul server that leads stands still; it goes on.
    FreezeConsulLeader,
    /// All Consul servers are killed; they are started again on their files.
    StopConsul,
    /// All Consul servers lose their data and get back what was saved when the round began.
    RestoreConsul,
    /// The host is cut off from all others, in both directions; it is connected again.
    CutOff(Who),
    /// What others send does not reach the host.
    CutIn(Who),
    /// What the host sends reaches no other one.
    CutOut(Who),
    /// The host is cut off from the other two hosts, and clients reach it.
    CutPeers(Who),
    /// So many of a hundred packets to the host are lost.
    Lose(Who, u64),
    /// The host's link has so many kbit/s.
    Throttle(Who, u64),
    /// Nothing asks the host's Consul by DNS.
    DenyDns(usize),
    /// The agent's Consul token is deleted; it gets another one.
    RevokeToken(usize),
    /// `SENTINEL FAILOVER` on this host's Sentinel.
    SentinelFailover(usize),
    /// `SENTINEL RESET` there.
    SentinelReset(usize),
    /// `SENTINEL REMOVE` there.
    SentinelRemove(usize),
    /// `consul-redis switchover`, on this host.
    Switchover(usize),
    /// The password of Redis is replaced as docs/how-to/rotate-secrets.md says.
    RotatePassword,
    /// All of a host is killed; all of it is started again.
    KillHost(Who),
    /// Every Redis is killed, one right after the other.
    KillAllRedis,
    /// Every Sentinel is killed.
    KillAllSentinels,
    /// Every agent is killed.
    KillAllAgents,
    /// Everything is killed.
    KillAll,
}

/// A fault with its time in the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// From the begin of the round, in ms.
    pub at_ms: u64,
    /// Until it heals, in ms.
    pub lasts_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Faults that begin in one settled world, before it is to settle again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// From 1.
    pub number: usize,
    /// In the order in which they begin.
    pub faults: Vec<Drawn>,
}

/// A kind of part that the world is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Redis, and its disk.
    Redis,
    /// The Sentinel.
    Sentinel,
    /// The agent.
    Agent,
    /// The Consul server.
    Consul,
    /// The network.
    Net,
}

/// Of which hosts a fault takes a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of this one.
    One(Who),
    /// Of all.
    All,
}

impl Fault {
    /// What it takes. Two faults of one time take different parts.
    pub fn takes(self) -> Vec<(Part, Scope)> {
        let one = |part, who| vec![(part, Scope::One(who))];
        let everything = |scope| {
            [Part::Redis, Part::Sentinel, Part::Agent, Part::Consul]
                .map(|part| (part, scope))
                .into()
        };
        match self {
            Self::KillRedis(who)
            | Self::StopRedis(who)
            | Self::FreezeRedis(who)
            | Self::EmptyRedis(who)
            | Self::OldRedis(who)
            | Self::FillDisk(who) => one(Part::Redis, who),
            Self::KillSentinel(host) | Self::FreezeSentinel(host) | Self::BlankSentinel(host) => {
                one(Part::Sentinel, Who::Host(host))
            }
            Self::KillAgent(host)
            | Self::FreezeAgent(host)
            | Self::ReloadAgent(host)
            | Self::StepClock(host, _)
            | Self::RevokeToken(host) => one(Part::Agent, Who::Host(host)),
            Self::KillConsul(_)
            | Self::KillConsulLeader
            | Self::FreezeConsulLeader
            | Self::StopConsul
            | Self::RestoreConsul => vec![(Part::Consul, Scope::All)],
            Self::CutOff(who)
            | Self::CutIn(who)
            | Self::CutOut(who)
            | Self::CutPeers(who)
            | Self::Lose(who, _)
            | Self::Throttle(who, _) => one(Part::Net, who),
            Self::DenyDns(host) => one(Part::Net, Who::Host(host)),
            Self::SentinelFailover(_)
            | Self::SentinelReset(_)
            | Self::SentinelRemove(_)
            | Self::Switchover(_) => Vec::new(),
            // The page has all servers up, and reached.
            Self::RotatePassword => [Part::Redis, Part::Sentinel, Part::Agent, Part::Net]
                .map(|part| (part, Scope::All))
                .into(),
            Self::KillHost(who) => everything(Scope::One(who)),
            Self::BlankSentinels | Self::KillAllSentinels => vec![(Part::Sentinel, Scope::All)],
            Self::KillAllRedis => vec![(Part::Redis, Scope::All)],
            Self::KillAllAgents => vec![(Part::Agent, Scope::All)],
            Self::KillAll => everything(Scope::All),
        }
    }

    /// It takes data away that a Redis had on disk.
    pub fn takes_data(self) -> bool {
        matches!(self, Self::EmptyRedis(_) | Self::OldRedis(_))
    }
}

fn who(rng: &mut Rng) -> Who {
    // Half of what is done to an instance is done to the writer.
    if rng.below(2) == 0 { Who::Writer } else { Who::Host(host(rng)) }
}

fn host(rng: &mut Rng) -> usize {
    usize::try_from(rng.below(HOSTS as u64)).unwrap_or(0)
}

/// A fault, and how often it is drawn beside the others.
type Kind = (u64, fn(&mut Rng) -> Fault);

const KINDS: [Kind; 37] = [
    (8, |r| Fault::KillRedis(who(r))),
    (3, |r| Fault::StopRedis(who(r))),
    (6, |r| Fault::FreezeRedis(who(r))),
    (4, |r| Fault::EmptyRedis(who(r))),
    (3, |r| Fault::OldRedis(who(r))),
    (3, |r| Fault::FillDisk(who(r))),
    (4, |r| Fault::KillSentinel(host(r))),
    (4, |r| Fault::FreezeSentinel(host(r))),
    (2, |r| Fault::BlankSentinel(host(r))),
    (1, |_| Fault::BlankSentinels),
    (5, |r| Fault::KillAgent(host(r))),
    (4, |r| Fault::FreezeAgent(host(r))),
    (2, |r| Fault::ReloadAgent(host(r))),
    (2, |r| Fault::StepClock(host(r), r.pick(&[-7_200, -30, 30, 86_400]))),
    (3, |r| Fault::KillConsul(host(r))),
    (4, |_| Fault::KillConsulLeader),
    (3, |_| Fault::FreezeConsulLeader),
    (2, |_| Fault::StopConsul),
    (2, |_| Fault::RestoreConsul),
    (6, |r| Fault::CutOff(who(r))),
    (3, |r| Fault::CutIn(who(r))),
    (3, |r| Fault::CutOut(who(r))),
    (4, |r| Fault::CutPeers(who(r))),
    (3, |r| Fault::Lose(who(r), r.pick(&[5, 20, 50]))),
    (2, |r| Fault::Throttle(who(r), r.pick(&[64, 512]))),
    (2, |r| Fault::DenyDns(host(r))),
    (2, |r| Fault::RevokeToken(host(r))),
    (4, |r| Fault::SentinelFailover(host(r))),
    (2, |r| Fault::SentinelReset(host(r))),
    (2, |r| Fault::SentinelRemove(host(r))),
    (3, |r| Fault::Switchover(host(r))),
    (1, |_| Fault::RotatePassword),
    (3, |r| Fault::KillHost(who(r))),
    (1, |_| Fault::KillAllRedis),
    (1, |_| Fault::KillAllSentinels),
    (1, |_| Fault::KillAllAgents),
    (1, |_| Fault::KillAll),
];

fn draw_fault(rng: &mut Rng) -> Fault {
    let all = KINDS.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.below(all);
    for (weight, make) in KINDS {
        if at < weight {
            return make(rng);
        }
        at -= weight;
    }
    Fault::KillRedis(Who::Writer)
}

/// Two faults of one round that would undo each other, or leave nothing to be known: what two of them take from two
/// instances may be lost. Which host the writer's is, is not known yet.
fn clash(a: Fault, b: Fault) -> bool {
    let meet = |one: Scope, other: Scope| one == Scope::All || other == Scope::All || one == other;
    let takes = b.takes();
    let shared = a.takes().into_iter().any(|(part, scope)| {
        takes.iter().any(|(other, where_)| part == *other && meet(scope, *where_))
    });
    shared || a == b || (a.takes_data() && b.takes_data())
}

/// The schedule of a seed: rounds with so many faults in all.
pub fn draw(seed: u64, count: usize) -> Vec<Round> {
    let mut rng = Rng::new(seed);
    let (mut rounds, mut left) = (Vec::new(), count);
    while left > 0 {
        let wanted = usize::try_from(rng.between(FAULTS_MIN, FAULTS_MAX)).unwrap_or(1).min(left);
        let mut faults: Vec<Drawn> = Vec::new();
        while faults.len() < wanted {
            let fault = draw_fault(&mut rng);
            let at_ms = rng.below(BEGIN_WITHIN_MS);
            let lasts_ms = rng.between(LASTS_MIN_MS, LASTS_MAX_MS);
            if !faults.iter().any(|other| clash(other.fault, fault)) {
                faults.push(Drawn { at_ms, lasts_ms, fault });
            }
        }
        faults.sort_by_key(|drawn| drawn.at_ms);
        left -= faults.len();
        rounds.push(Round { number: rounds.len() + 1, faults });
    }
    rounds
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} ms, for {:>5} ms: {:?}", self.at_ms, self.lasts_ms, self.fault)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "round {}", self.number)?;
        self.faults.iter().try_for_each(|drawn| writeln!(f, "  {drawn}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another_one() {
        assert_eq!(draw(7, 200), draw(7, 200));
        assert_ne!(draw(7, 200), draw(8, 200));
        assert_eq!(draw(7, 200).iter().map(|round| round.faults.len()).sum::<usize>(), 200);
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let name = |fault: Fault| format!("{fault:?}").split('(').next().unwrap().to_owned();
        let drawn = draw(1, 2_000).into_iter().flat_map(|round| round.faults);
        let drawn: BTreeSet<String> = drawn.map(|drawn| name(drawn.fault)).collect();
        assert_eq!(drawn.len(), KINDS.len(), "{drawn:?}");
    }

    #[test]
    fn no_two_faults_of_a_round_take_the_same() {
        for round in draw(3, 2_000) {
            for (at, one) in round.faults.iter().enumerate() {
                for other in &round.faults[at + 1..] {
                    assert!(!clash(one.fault, other.fault), "{round}");
                }
            }
        }
    }
}
