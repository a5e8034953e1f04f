//! A planned move of the primary: whether it can be done now, and everything that speaks against it.

use crate::duty::fence::{Fence, StrayKind};
use crate::identity::address::Address;
use crate::known::observed::{DownOpinion, InstanceAnswer, Role};
use crate::known::view::View;
use crate::situation::writer::WriterTest;

/// A replica that has last spoken to the primary longer ago than this is not caught up, in seconds.
const LAG_MAX_S: u64 = 1;

/// A switchover that can be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switchover {
    /// The primary now.
    pub from: Address,
    /// The one to become it, when one was asked for; else Sentinel chooses among the candidates.
    pub to: Option<Address>,
    /// The replicas that are caught up.
    pub candidates: Vec<Address>,
    /// The one Sentinel that is to do it.
    pub sentinel: Address,
    /// How the primary's writes are stopped.
    pub stops: Stops,
}

/// How the old primary is kept from taking writes that the new one would not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stops {
    /// It holds them (`CLIENT PAUSE ... WRITE`), from Redis 6.2 on.
    Holding,
    /// It follows this candidate from the moment on in which it takes no more of them.
    Following(Address),
}

/// Something that must be so before a primary is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The condition, as `switchover` lists it.
    pub what: &'static str,
    /// What was found: well, or what is wrong with it.
    pub found: Result<String, String>,
}

/// Looks at everything, and says what move can be made; `None` when a check has failed.
pub fn prepare(view: &View<'_>, to: Option<&Address>) -> (Vec<Check>, Option<Switchover>) {
    let candidates = candidates(view);
    let checks = vec![
        Check { what: "writer", found: writer(view) },
        Check { what: "Sentinels", found: sentinels(view) },
        Check { what: "failover", found: no_failover(view) },
        Check { what: "replicas", found: caught_up(view, &candidates) },
        Check { what: "target", found: target(view, &candidates, to) },
        Check { what: "agents", found: agents(view) },
    ];
    let sentinel = view.sentinels().find(|(_, answer)| answer.group.is_some() && !answer.tilt);
    let well = checks.iter().all(|check| check.found.is_ok());
    let switchover = view.writer().zip(sentinel).filter(|_| well).map(|(from, (sentinel, _))| {
        let (from, to, sentinel) = (from.clone(), to.cloned(), sentinel.clone());
        let can_hold = view.instance(&from).is_none_or(InstanceAnswer::can_hold_writes);
        let first = to.as_ref().or(candidates.first()).filter(|_| !can_hold);
        let stops = first.map_or(Stops::Holding, |first| Stops::Following(first.clone()));
        Switchover { from, to, candidates, sentinel, stops }
    });
    (checks, switchover)
}

/// A replica has every write that the primary had taken when its writes were paused, at this offset.
pub fn has_all(target: u64, replica: &InstanceAnswer) -> bool {
    replica.offset >= target
}

/// The primary has heard from a replica that it has what was written up to this offset: it is sent what is written.
/// After a copy of everything without a disk it is sent nothing before it has said so once, though both call the link up
/// (`docs/facts/sentinel.md` 19).
pub fn has_said(target: u64, primary: &InstanceAnswer, replica: &Address) -> bool {
    let Role::Primary { replicas } = &primary.role else { return false };
    replicas.iter().any(|row| row.address == *replica && row.online && row.offset >= target)
}

/// How the old primary is made a replica of the new one; `None` when it is a replica already.
pub fn retire(from: &Address, now: &InstanceAnswer, new: &Address) -> Option<Fence> {
    now.is_primary().then(|| Fence {
        instance: from.clone(),
        run_id: now.run_id.clone(),
        follow: new.clone(),
        follow_run: None,
        kind: StrayKind::Returned,
        replid: now.replid.clone(),
    })
}

fn writer(view: &View<'_>) -> Result<String, String> {
    let record = view.record.ok_or("nothing is published")?;
    let writer = record.writer_address().ok_or("there is no writer")?;
    if record.evidence.is_unconfirmed() {
        return Err(format!("{writer} is not confirmed by a majority yet"));
    }
    match view.test(writer) {
        WriterTest::Passes(answer) if !answer.can_hold_writes() => Ok(format!(
            "{writer} is published and says that it is the primary; Redis {} cannot hold its writes, and is made a replica first",
            answer.version
        )),
        WriterTest::Passes(_) => {
            Ok(format!("{writer} is published and says that it is the primary"))
        }
        WriterTest::Fails(why) => Err(format!("{writer} {why}")),
        WriterTest::Unknown(why) => Err(format!("{writer} does not answer: {why}")),
    }
}

fn sentinels(view: &View<'_>) -> Result<String, String> {
    let tally = &view.tally;
    let (heard, known) = (tally.answering, tally.known);
    if heard < tally.majority() {
        return Err(format!("only {heard} of {known} answer: no majority could follow"));
    }
    // One of the others is asked, and follows as all do: the move takes no vote.
    let in_tilt: Vec<String> =
        view.sentinels().filter(|(_, answer)| answer.tilt).map(|(at, _)| at.to_string()).collect();
    if heard.saturating_sub(in_tilt.len()) < tally.majority() {
        let all = in_tilt.join(", ");
        return Err(format!("in TILT, and not to be trusted by their own clocks: {all}"));
    }
    let elected = tally.elected.as_ref().map(|elected| &elected.address);
    if elected != view.writer() || tally.votes.len() > 1 {
        return Err("they do not all name the published writer".to_owned());
    }
    if view.groups().any(|group| group.down > DownOpinion::Up) {
        return Err("one of them calls the writer down".to_owned());
    }
    Ok(format!("{heard} of {known} answer and name it"))
}

fn no_failover(view: &View<'_>) -> Result<String, String> {
    match view.groups().find(|group| group.failover.is_some()) {
        Some(group) => Err(format!("one of {} is under way", group.monitored)),
        None => Ok("none is under way".to_owned()),
    }
}

/// The replicas that the writer lists as online and recent, that say so themselves, and that no Sentinel calls down.
fn candidates(view: &View<'_>) -> Vec<Address> {
    let Some(writer) = view.writer().and_then(|writer| view.instance(writer)) else {
        return Vec::new();
    };
    let Role::Primary { replicas } = &writer.role else { return Vec::new() };
    let current = replicas.iter().filter(|replica| replica.online && replica.lag_s <= LAG_MAX_S);
    let well = |address: &Address| {
        let own = view.instance(address);
        let follows = !view.in_maintenance(address)
            && own.is_some_and(|own| {
                matches!(&own.role, Role::Replica { link_up: true, .. })
                    && own.not_ready.is_none()
                    && own.priority != Some(0)
            });
        let down = view.tally.replicas.get(address).is_some_and(|count| count.down > 0);
        follows && !down
    };
    current.map(|replica| replica.address.clone()).filter(well).collect()
}

fn caught_up(view: &View<'_>, candidates: &[Address]) -> Result<String, String> {
    if candidates.is_empty() {
        let count = view.groups().map(|group| group.replicas.len()).max().unwrap_or(0);
        return Err(format!("none of {count} is caught up and may be chosen"));
    }
    Ok(format!("{} caught up", candidates.len()))
}

fn target(view: &View<'_>, candidates: &[Address], to: Option<&Address>) -> Result<String, String> {
    let hidden = |at: &Address| view.instance(at).is_some_and(|own| !own.announced);
    let Some(to) = to else {
        let choice = "Sentinel's choice among the replicas".to_owned();
        return Ok(match candidates.iter().find(|at| hidden(at)) {
            Some(at) => format!("{choice}, among them {at}, which is not announced"),
            None => choice,
        });
    };
    if view.writer() == Some(to) {
        return Err(format!("{to} is the writer already"));
    }
    if hidden(to) {
        return Err(format!(
            "{to} is not announced (replica-announced no): no Sentinel shows it, or can be seen to prefer it"
        ));
    }
    if candidates.contains(to) {
        return Ok(format!("{to}"));
    }
    let own = view.instance(to);
    Err(match own {
        None => format!("{to} does not answer, or is no replica of this group"),
        Some(_) if view.in_maintenance(to) => format!("{to} is in maintenance"),
        Some(own) if own.priority == Some(0) => {
            format!("{to} has priority 0: it is never to become the primary")
        }
        Some(_) => format!("{to} is not caught up"),
    })
}

fn agents(view: &View<'_>) -> Result<String, String> {
    let count = view.observed.store.as_ref().map_or(0, |store| store.agents.len());
    if count == 0 {
        return Err("none watches this group: nothing would publish the new writer".to_owned());
    }
    Ok(format!("{count} watch this group"))
}
