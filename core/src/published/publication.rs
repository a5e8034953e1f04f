//! What is to be done about the published writer: it follows from the situation, and from nothing else.

use std::collections::BTreeSet;

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::view::View;
use crate::published::record::{Basis, Evidence, Writer};
pub use crate::shown::reasons::{KeepReason, NotYet, PublishReason, WithdrawReason};
use crate::situation::bootstrap::Step;
use crate::situation::election::Tally;
use crate::situation::majority::{self, Named, Standing};
use crate::situation::promotion::Promotion;
use crate::situation::withdrawal;
use crate::situation::{Situation, Withdrawn};

/// What is to be done about the published writer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Publish this writer.
    Publish {
        /// The writer to publish.
        to: Writer,
        /// The basis that goes into the record.
        evidence: Evidence,
        /// The reason that goes into the record (`why`).
        why: PublishReason,
    },
    /// Publish that there is no writer.
    Withdraw(WithdrawReason),
    /// Write down in `claim` which instance is to become the first primary.
    Claim(Address),
    /// The writer stays; what is known of it has become better.
    Confirm {
        /// The writer, with its history as it is now.
        writer: Writer,
        /// What it rests on now.
        evidence: Evidence,
    },
    /// All stays as it is.
    Keep(KeepReason),
}

impl Verdict {
    /// The label `verdict` of `consul_redis_decisions_total`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Withdraw(_) => "withdraw",
            Self::Claim(_) => "claim",
            Self::Confirm { .. } => "confirm",
            Self::Keep(_) => "keep",
        }
    }
}

/// What the situation means for the published writer.
pub fn verdict(view: &View<'_>, situation: &Situation) -> Verdict {
    match situation {
        Situation::Unread => Verdict::Keep(KeepReason::ConsulUnread),
        Situation::Foreign(error) => Verdict::Keep(KeepReason::StateUnreadable(error.clone())),
        Situation::NotOurs(why) => Verdict::Keep(KeepReason::NotOurs(why.clone())),
        Situation::Blank(Ok(step)) => step_to(view, step, PublishReason::First),
        Situation::Blank(Err(why)) => Verdict::Keep(KeepReason::NoFirst(why.clone())),
        Situation::Named(named) => named_by_majority(&view.tally, named),
        Situation::Promoting(promotion) => promoted(promotion),
        Situation::DataLost(published) | Situation::Returned { published, .. } => match published {
            Withdrawn::Due(why) => Verdict::Withdraw(why.clone()),
            Withdrawn::Done(why) => Verdict::Keep(KeepReason::NoWriter(why.clone())),
        },
        Situation::Gone(why) => Verdict::Withdraw(why.clone()),
        Situation::Relocated(Ok(step)) => step_to(view, step, PublishReason::Relocated),
        Situation::Relocated(Err(why)) => Verdict::Keep(KeepReason::NotRelocated(why.clone())),
        Situation::Forgotten(Ok(step)) => step_to(view, step, PublishReason::Again),
        Situation::Forgotten(Err(why)) => Verdict::Keep(KeepReason::NotAgain(why.clone())),
        Situation::Held { writer: Some(writer), why } => {
            Verdict::Keep(KeepReason::Holding(writer.clone(), why.clone()))
        }
        Situation::Held { writer: None, why } => Verdict::Keep(KeepReason::NoWriter(why.clone())),
    }
}

/// The next step to a primary that no Sentinel has named.
fn step_to(view: &View<'_>, step: &Step, why: PublishReason) -> Verdict {
    match step {
        Step::Publish(writer) => Verdict::Publish {
            to: writer.clone(),
            evidence: Evidence {
                basis: Basis::Agents,
                confirmed_epoch: view.record.map_or(0, |r| r.evidence.confirmed_epoch),
                known: view.tally.known,
            },
            why,
        },
        Step::Claim(address) => Verdict::Claim(address.clone()),
        Step::Promote(promote) => Verdict::Keep(KeepReason::Promoting(promote.instance.clone())),
    }
}

fn named_by_majority(tally: &Tally, named: &Named) -> Verdict {
    let Named { writer, evidence, standing } = named.clone();
    let (votes, known) = (evidence.basis.votes(), tally.known);
    let epoch = evidence.confirmed_epoch;
    match standing {
        Standing::New { unrelated } => Verdict::Publish {
            to: writer,
            evidence,
            why: PublishReason::Majority { votes, known, epoch, unrelated },
        },
        Standing::BetterKnown => Verdict::Confirm { writer, evidence },
        Standing::Published => {
            let writer = writer.address;
            Verdict::Keep(KeepReason::Confirmed { writer, votes, known, epoch })
        }
    }
}

fn promoted(promotion: &Promotion) -> Verdict {
    match promotion.clone() {
        Promotion::Chosen { writer, evidence, leader, epoch, forced } => Verdict::Publish {
            to: writer,
            evidence,
            why: PublishReason::Promotion { leader, epoch, forced },
        },
        Promotion::Awaited(writer) => Verdict::Keep(KeepReason::AwaitingConfirmation(writer)),
    }
}

/// What rules 2 to 6 must see last before it counts, for [`crate::known::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    majority::conditions(view).into_iter().chain(withdrawal::conditions(view)).collect()
}
