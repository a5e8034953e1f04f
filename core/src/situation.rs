//! What a group is in: one situation at a time, and the first that fits.
//!
//! This is the only place that says which rule goes before which. Each rule is a module that answers for one situation;
//! what is published ([`crate::published::publication`]) and what is done to each server ([`crate::duty`]) follow from
//! the answer. That a host is isolated is another matter: it is of the host, and not of the group
//! ([`crate::duty::hold`]).

pub mod bootstrap;
pub mod data_loss;
pub mod election;
pub mod forgotten;
pub mod haste;
pub mod loss;
pub mod majority;
pub mod promote_again;
pub mod promotion;
pub mod proof;
pub mod relocated;
pub mod superseded;
pub mod withdrawal;
pub mod writer;

use crate::identity::address::Address;
use crate::identity::electorate::not_ours;
use crate::known::observed::StoredState;
use crate::known::view::View;
use crate::shown::reasons::{NoFirst, NotAgain, NotOurs, NotPromotedAgain, NotYet, WithdrawReason};
use crate::situation::bootstrap::{Promote, Step, bootstrap};
use crate::situation::majority::Named;
use crate::situation::promote_again::promote_again;
use crate::situation::promotion::Promotion;
use crate::situation::relocated::{NotRelocated, successor};
use crate::situation::withdrawal::withdrawal;

/// The situations, and what each rests on.
#[derive(Debug, Clone, PartialEq)]
pub enum Situation {
    /// Consul has not been read yet.
    Unread,
    /// `state` holds something that this version must not overwrite.
    Foreign(String),
    /// `state` is about another group of the same name.
    NotOurs(NotOurs),
    /// Nothing was ever published, and no Sentinel knows the group: the next step to a first primary.
    Blank(Result<Step, NoFirst>),
    /// A majority names a primary that says so itself.
    Named(Named),
    /// An elected leader has chosen a replica, which says that it is the primary; no majority has followed.
    Promoting(Promotion),
    /// The primary that a majority names has come back without its data, and others hold it or may.
    DataLost(Withdrawn),
    /// The last writer is back and detached, and a majority names it.
    Returned {
        /// Whether the writer is still to be withdrawn.
        published: Withdrawn,
        /// It is to be made the primary again, or why not.
        again: Result<Promote, NotPromotedAgain>,
    },
    /// The published writer cannot be the writer any more.
    Gone(WithdrawReason),
    /// Most Sentinels were made anew and know no group, and the last writer is back: the next step.
    Forgotten(Result<Step, NotAgain>),
    /// Of all that the Sentinels know none is left, and instances of the group answer elsewhere: the next step.
    Relocated(Result<Step, NotRelocated>),
    /// Nothing can be proved that would change what is published.
    Held {
        /// The published writer, if there is one.
        writer: Option<Address>,
        /// What is missing for another one.
        why: NotYet,
    },
}

/// A writer that is published, and must not be; or that is withdrawn already.
#[derive(Debug, Clone, PartialEq)]
pub enum Withdrawn {
    /// It is published still, and must be withdrawn.
    Due(WithdrawReason),
    /// There is no writer, and this is what is missing for one.
    Done(NotYet),
}

/// What the group is in now.
pub fn situation(view: &View<'_>) -> Situation {
    let Some(store) = &view.observed.store else { return Situation::Unread };
    if let StoredState::Unreadable(error) = &store.state {
        return Situation::Foreign(error.clone());
    }
    if let Some(why) = not_ours(view) {
        return Situation::NotOurs(why);
    }
    if let Some(first) = bootstrap(view) {
        return Situation::Blank(first);
    }
    let writer = view.record.and_then(|record| record.writer.as_ref());
    let elected = view.tally.elected.as_ref();
    let confirmed = writer.zip(elected).filter(|(writer, e)| writer.address == e.address);
    let candidate = confirmed.is_none().then(|| majority::candidate(view));
    if let Some(Ok(named)) = candidate {
        return Situation::Named(named);
    }
    if let Some(promotion) = promotion::chosen(view) {
        return Situation::Promoting(promotion);
    }
    if let Some(why) = withdrawal(view) {
        return withdrawn(view, why);
    }
    if let Some((writer, elected)) = confirmed {
        return Situation::Named(majority::published(view, writer, elected));
    }
    let why = candidate.and_then(Result::err).unwrap_or_else(|| majority::no_sentinels(view));
    let Some(writer) = writer else { return without_writer(view, why) };
    let writer = writer.address.clone();
    if promotion::is_awaited(view) {
        return Situation::Promoting(Promotion::Awaited(writer));
    }
    Situation::Held { writer: Some(writer), why }
}

/// The published writer must go: what that is called.
fn withdrawn(view: &View<'_>, why: WithdrawReason) -> Situation {
    match (why, promote_again(view)) {
        (why @ WithdrawReason::DataLoss(_), _) => Situation::DataLost(Withdrawn::Due(why)),
        (why, Err(NotPromotedAgain::NoCase)) => Situation::Gone(why),
        (why, again) => Situation::Returned { published: Withdrawn::Due(why), again },
    }
}

/// No writer is published, and none can be by what the Sentinels say.
fn without_writer(view: &View<'_>, why: NotYet) -> Situation {
    let again = promote_again(view);
    if again.is_ok() {
        return Situation::Returned { published: Withdrawn::Done(why), again };
    }
    if let Some(step) = forgotten::again(view) {
        return Situation::Forgotten(step);
    }
    // What the Sentinels are left to do they cannot, where they know none that answers.
    match (successor(view), again) {
        (Err(NotRelocated::NoCase), Err(NotPromotedAgain::NoCase)) => match why {
            NotYet::DataLoss(_) => Situation::DataLost(Withdrawn::Done(why)),
            why => Situation::Held { writer: None, why },
        },
        (Err(NotRelocated::NoCase), again) => {
            Situation::Returned { published: Withdrawn::Done(why), again }
        }
        (step, _) => Situation::Relocated(step),
    }
}

/// A row of the table of situations, as ARCHITECTURE.md shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// [`Situation::name`].
    pub situation: &'static str,
    /// How it is recognised, when none of the rows above is.
    pub recognised: &'static str,
    /// What is published.
    pub published: &'static str,
    /// What is done to instances and Sentinels. Where it is safe, rows, fences and Sentinels go on in every situation.
    pub done: &'static str,
    /// The test that shows it.
    pub test: &'static str,
}

/// The table, in the order in which [`situation`] looks.
pub const TABLE: [Row; 14] = [
    Row {
        situation: "Unread",
        recognised: "Consul has not been read",
        published: "unchanged",
        done: "nothing",
        test: "an_agent_that_has_not_read_consul_writes_nothing",
    },
    Row {
        situation: "Foreign",
        recognised: "`state` holds what this version must not overwrite",
        published: "unchanged",
        done: "nothing",
        test: "a_record_of_a_newer_version_is_left_alone",
    },
    Row {
        situation: "NotOurs",
        recognised: "`state` rests on other Sentinels than those that name a primary here, or belongs to another installation",
        published: "unchanged",
        done: "nothing",
        test: "an_agent_whose_sentinels_are_not_in_the_record_does_nothing",
    },
    Row {
        situation: "Blank",
        recognised: "nothing was ever published, no Sentinel knows the group, and an instance is registered",
        published: "the instance with the most data, once it says that it is the primary",
        done: "it is written down in `claim`, then promoted; the Sentinels are reconfigured",
        test: "a_replica_is_written_down_before_it_is_made_the_first_primary",
    },
    Row {
        situation: "Named",
        recognised: "a majority names a primary that is not published, and the primary says so",
        published: "that primary (rule 2)",
        done: "its Sentinels are reconfigured where they differ",
        test: "the_first_writer_is_the_one_a_majority_names",
    },
    Row {
        situation: "Promoting",
        recognised: "the one replica that elected leaders have chosen says that it is the primary, and continues the last writer's history",
        published: "that replica, unconfirmed, where `publish` is `promotion` (rule 3)",
        done: "writes on the old primary are held",
        test: "a_chosen_replica_that_says_it_is_primary_is_published_at_once",
    },
    Row {
        situation: "DataLost",
        recognised: "the primary that a majority names came back without its data, and others hold it or may",
        published: "no writer",
        done: "instances with data are detached; one Sentinel is asked for a failover",
        test: "a_primary_that_is_back_without_its_data_is_withdrawn_and_no_instance_copies_that",
    },
    Row {
        situation: "Returned",
        recognised: "the last writer, which a majority names, says that it is detached",
        published: "no writer",
        done: "it is promoted again when no instance holds more",
        test: "it_is_the_primary_again_when_it_holds_what_all_others_hold",
    },
    Row {
        situation: "Gone",
        recognised: "the published writer is a replica, agreed down, out of reach, unconfirmed for too long, or left by its majority; or its process has ended",
        published: "no writer (rules 3, 4 and 5)",
        done: "nothing: the Sentinels act; one is asked for a failover at once where the process has ended",
        test: "a_majority_that_agrees_on_its_death_withdraws_the_writer",
    },
    Row {
        situation: "Named",
        recognised: "a majority names the published writer",
        published: "the same, with what is better known (rule 2)",
        done: "stray primaries are fenced; Sentinels are reconfigured where they differ, and forget stale peers",
        test: "what_a_majority_names_is_confirmed_as_it_is_published",
    },
    Row {
        situation: "Promoting",
        recognised: "the published writer is a promotion that still has time",
        published: "the same (rule 3)",
        done: "writes on the old primary are held",
        test: "the_majoritys_old_answer_does_not_overrule_a_promotion",
    },
    Row {
        situation: "Forgotten",
        recognised: "there is no writer, a minority of the Sentinels names the last one, which is back, and all others that live know no group",
        published: "the last writer, once it says that it is the primary and holds all that the others hold",
        done: "it is written down in `claim`, then promoted; the Sentinels are told",
        test: "the_last_writer_is_named_again_where_the_other_sentinels_are_blank",
    },
    Row {
        situation: "Relocated",
        recognised: "there is no writer, all that the Sentinels know is dead, and registered instances answer elsewhere; where none is registered, such as have a row and the last writer's own data",
        published: "the instance with the group's data, once it says that it is the primary",
        done: "it is written down in `claim`, then promoted; the Sentinels are reconfigured: they let go of the dead one, then monitor it",
        test: "the_one_with_the_most_data_leads_once_all_are_back",
    },
    Row {
        situation: "Held",
        recognised: "nothing of this can be proved",
        published: "unchanged",
        done: "nothing more",
        test: "silence_withdraws_nothing",
    },
];

impl Situation {
    /// The name of the variant, as ARCHITECTURE.md's table has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unread => "Unread",
            Self::Foreign(_) => "Foreign",
            Self::NotOurs(_) => "NotOurs",
            Self::Blank(_) => "Blank",
            Self::Named(_) => "Named",
            Self::Promoting(_) => "Promoting",
            Self::DataLost(_) => "DataLost",
            Self::Returned { .. } => "Returned",
            Self::Gone(_) => "Gone",
            Self::Forgotten(_) => "Forgotten",
            Self::Relocated(_) => "Relocated",
            Self::Held { .. } => "Held",
        }
    }

    /// The instance that is to be made a primary now.
    pub fn promotes(&self) -> Option<&Promote> {
        match self {
            Self::Blank(Ok(Step::Promote(promote)))
            | Self::Forgotten(Ok(Step::Promote(promote)))
            | Self::Relocated(Ok(Step::Promote(promote))) => Some(promote),
            Self::Returned { again: Ok(promote), .. } => Some(promote),
            _ => None,
        }
    }
}
