//! When what is asked: every second, more often while something is going on.

use std::collections::BTreeSet;

use super::{GroupLoop, Output};
use crate::identity::address::Address;
use crate::known::observed::{DownOpinion, FailoverPhase, RowsAnswer};
use crate::policy::{REFUSED_KNOWN_MS, REPAIR_AGAIN_MS};
use crate::time::{Mono, Now};

/// How often the rows are asked for that could not be read yet, in ms.
pub const TICK_MS: u64 = 1_000;
/// How long the shorter period is kept up, in ms.
pub const URGENT_FOR_MS: u64 = 60_000;
/// How often a chosen replica is asked whether it is the primary yet. The closed connection tells
/// sooner (`docs/facts/sentinel.md` 6); this is for when it does not.
pub const CHASE_MS: u64 = 20;

impl GroupLoop {
    /// When [`Input::Tick`](super::Input::Tick) is due next.
    pub fn next_wake(&self) -> Mono {
        let chase = self.chosen().map_or(self.next_look, |_| self.next_chase);
        // What was swept since the last repair is put back as soon as it may be.
        let repair = self.memory.repaired.map(|at| at.plus_ms(REPAIR_AGAIN_MS));
        let repair = repair.filter(|at| *at > self.turned).unwrap_or(self.next_look);
        self.next_look.min(chase).min(self.next_audit).min(repair)
    }

    /// Asks for what is due.
    pub(super) fn look(&mut self, now: Now, out: &mut Vec<Output>) {
        if now.mono >= self.next_look {
            let pace = self.policy.pace;
            let period = match self.urgent(now) {
                true => pace.urgent_ms,
                false if self.next_look == Mono(0) => pace.first(pace.look_ms),
                false => pace.look_ms,
            };
            self.next_look = now.mono.plus_ms(period);
            out.push(Output::AskSentinels);
            out.push(Output::Probe(self.known.clone()));
            let unanswered = self.in_flight.as_ref().is_some_and(|f| f.unanswered.is_some());
            // Whether Consul answers is only known by asking.
            if unanswered || self.blind || self.doubtful {
                out.push(Output::ReadStore);
            }
        } else if let Some(chosen) = self.chosen().filter(|_| now.mono >= self.next_chase) {
            self.next_chase = now.mono.plus_ms(CHASE_MS);
            out.push(Output::Probe(BTreeSet::from([chosen])));
        }
        if now.mono >= self.next_audit {
            // Nothing can be written before the rows were read once, nor a first time while others have the service.
            let own = self.layout.node();
            let free =
                |rows: &RowsAnswer| rows.others.iter().all(|node| node.eq_ignore_ascii_case(&own));
            let published = self.observed.record().is_some();
            let read = self.observed.rows.as_ref().is_some_and(|rows| published || free(rows));
            let pace = self.policy.pace;
            let period = match read {
                false => TICK_MS,
                true if self.audited => pace.audit_ms,
                true => pace.first(pace.audit_ms),
            };
            self.audited |= read;
            self.next_audit = now.mono.plus_ms(period);
            out.push(Output::ReadRows);
        }
    }

    /// The replica that a leader has chosen and that is not published yet.
    pub(super) fn chosen(&self) -> Option<Address> {
        let published = self.observed.record().and_then(|r| r.writer_address());
        self.observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
            .filter(|group| group.failover.is_some_and(FailoverPhase::elected))
            .find_map(|group| group.replicas.iter().find(|r| r.promoted).map(|r| r.address.clone()))
            .filter(|chosen| Some(chosen) != published)
    }

    /// A failover is under way, a promotion waits for its majority, or there is no writer: look
    /// often, but only for the minute that such a thing takes, not for days of a broken group.
    pub(super) fn note_urgency(&mut self, now: Now) {
        let record = self.observed.record();
        let unsettled = record.is_some_and(|r| r.writer.is_none() || r.evidence.is_unconfirmed());
        let trouble = self
            .observed
            .sentinels
            .values()
            .filter_map(|reading| reading.result.as_ref().ok()?.group.as_ref())
            .any(|group| group.down > DownOpinion::Up || group.failover.is_some());
        // What refuses this agent may be dead: what the others see of it is to be new.
        let refused = record
            .and_then(|record| self.observed.refusals.get(record.writer_address()?))
            .is_some_and(|refusal| now.mono - refusal.latest <= REFUSED_KNOWN_MS);
        let trouble = trouble || self.blind || refused;
        self.urgent_since = match (unsettled || trouble, self.urgent_since) {
            (true, None) => Some(now.mono),
            (true, since) => since,
            (false, _) => None,
        };
    }

    /// No writer is published, or that is not known: an instance that is registered may be what the group waits for.
    pub fn lacks_writer(&self) -> bool {
        self.observed.record().is_none_or(|record| record.writer.is_none())
    }

    /// Nothing is going on: a writer is published, and nothing is under way.
    pub fn is_calm(&self, now: Now) -> bool {
        !self.urgent(now) && !self.lacks_writer() && self.in_flight.is_none() && !self.blind
    }

    pub(super) fn urgent(&self, now: Now) -> bool {
        self.urgent_since.is_some_and(|since| now.mono - since < URGENT_FOR_MS)
    }
}
