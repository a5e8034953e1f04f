//! What became of the writer's death: each of it is told once.

use super::narrate::say;
use super::{Aftermath, GroupLoop, LogLevel, Output};
use crate::decide::Decision;
use crate::identity::address::Address;
use crate::known::observed::{Death, DeathSign};
use crate::policy::HASTE_KEPT_MS;
use crate::published::record::Record;
use crate::shown::reasons::{End, NotFast, Reason};
use crate::time::{Mono, Now};

/// For how long an instance refuses connections before it is said why it is left to the Sentinels, in ms: the other
/// agents, the replicas and the Sentinels see it a moment later.
const REFUSED_SAID_MS: u64 = 2_000;

/// What this agent had the Sentinels vote on.
pub(super) struct Voting {
    sign: DeathSign,
    instance: Address,
    /// When it ended, as far as this agent knows.
    ended: Mono,
    /// When it was written down.
    told: Mono,
}

impl GroupLoop {
    /// What a publication says of a death that this agent has seen, or had the Sentinels vote on.
    pub(super) fn tell_replaced(&mut self, record: &Record, now: Now, out: &mut Vec<Output>) {
        let Some(writer) = record.writer_address() else { return };
        let voted = self.voting.take_if(|voting| &voting.instance != writer);
        if let Some(Voting { sign, ended, .. }) = voted {
            out.push(Output::Died(sign, Aftermath::Replaced(now.mono - ended)));
        }
        let noted = record.death.as_ref().filter(|noted| &noted.instance != writer);
        let Some(noted) = noted else { return };
        let death = self.observed.deaths.get(&noted.instance);
        if let Some(death) = death.filter(|death| death.run_id == noted.run_id) {
            let replaced = Aftermath::Replaced(now.mono - death.at);
            out.push(Output::Died(death.sign(), replaced));
            self.observed.deaths.remove(&noted.instance);
        }
    }

    /// This agent has written down that the Sentinels are to vote.
    pub(super) fn tell_voting(&mut self, record: &Record, now: Now, out: &mut Vec<Output>) {
        let Some(haste) = record.haste.as_ref().filter(|haste| haste.answers.is_none()) else {
            return;
        };
        let instance = haste.instance.clone();
        let death = self.observed.deaths.get(&instance);
        let (sign, ended) = match death.filter(|death| death.run_id == haste.run_id) {
            Some(death) => (death.sign(), death.at),
            None => {
                let refusal = self.observed.refusals.get(&instance);
                (DeathSign::Refused, refusal.map_or(now.mono, |refusal| refusal.since))
            }
        };
        out.push(Output::Died(sign, Aftermath::Voting));
        self.voting = Some(Voting { sign, instance, ended, told: now.mono });
    }

    /// Says, of each death once, why it is left to the Sentinels; and whether they have left the writer in its place.
    pub(super) fn note_not_fast(&mut self, decision: &Decision, now: Now, out: &mut Vec<Output>) {
        let over = |told: Mono| i64::try_from(now.mono - told).is_ok_and(|ms| ms > HASTE_KEPT_MS);
        if let Some(voting) = self.voting.take_if(|voting| over(voting.told)) {
            out.push(Output::Died(voting.sign, Aftermath::Stayed));
        }
        let why = decision.reasons.iter().find_map(|reason| match reason {
            Reason::NotFast(why) => Some(why),
            _ => None,
        });
        let due = |why: &&NotFast| match why.end {
            End::Proven(_) => true,
            End::Refused(since) => now.mono - since >= REFUSED_SAID_MS,
        };
        let said = |why: &&NotFast| {
            let before = self.not_fast.as_ref();
            before.is_some_and(|said| said.instance == why.instance && said.end == why.end)
        };
        let Some(why) = why.filter(due).filter(|why| !said(why)) else { return };
        out.push(say(LogLevel::Warn, format!("{}: {why}", self.policy.group)));
        let sign = match why.end {
            End::Proven(_) => {
                let death = self.observed.deaths.get(&why.instance);
                death.map(Death::sign)
            }
            End::Refused(_) => Some(DeathSign::Refused),
        };
        let left = Aftermath::Left(why.why.as_str());
        out.extend(sign.map(|sign| Output::Died(sign, left)));
        self.not_fast = Some(why.clone());
    }
}
