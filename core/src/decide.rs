//! One decision: from what is known to what is to be done, with no I/O and no clock.
//!
//! `consul-redis plan` prints exactly this; the agent carries it out; `status`, the page, `/primary` and the metrics
//! read it. Nothing else asks a rule.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::duty::action::{Action, Write};
use crate::duty::hold::{self, is_blind, is_isolated};
use crate::duty::relay::refusing;
use crate::duty::safety;
use crate::duty::stale_peers::forget;
use crate::duty::{Duties, Duty, SentinelDuty, duties, sentinel_duties};
use crate::identity::address::Address;
use crate::known::view::View;
use crate::published::agreed::{differing, kept_off};
use crate::published::projection::Layout;
use crate::published::publication::{Verdict, verdict};
use crate::published::record::Level;
use crate::published::write::{Next, WantedWrite, claimed, taken, write};
use crate::shown::reasons::{NotPromotedAgain, Reason};
use crate::situation::data_loss::replace;
use crate::situation::election::copies;
use crate::situation::haste;
use crate::situation::proof::fast;
use crate::situation::{Situation, situation};

/// What follows from one view: what is published, what is done to each server, and what is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The situation of the group, the first one that matches.
    pub situation: Situation,
    /// What follows from that for the published writer.
    pub verdict: Verdict,
    /// The transaction that is to be sent. Removals come before additions.
    pub write: Option<Box<Write>>,
    /// What is done to each instance that is not left alone.
    pub instances: BTreeMap<Address, Duty>,
    /// What is done to each Sentinel that is not left alone.
    pub sentinels: BTreeMap<Address, SentinelDuty>,
    /// This host sees neither Consul nor a majority of the Sentinels, or has not seen since that its primary still
    /// leads.
    pub is_isolated: bool,
    /// What is concluded, in one sentence, for the log and for `plan`.
    pub summary: String,
    /// What was not done, and why not.
    pub reasons: Vec<Reason>,
    /// Rows and keys were compared with the record, and show it.
    pub sound: bool,
}

impl Decision {
    /// All actions, in the order in which they are carried out.
    pub fn actions(&self) -> Vec<Action> {
        let write = self.write.iter().cloned().map(Action::Write);
        let instances = self.instances.values().filter_map(Duty::action);
        let sentinels = self.sentinels.values().filter_map(SentinelDuty::action);
        let mut actions: Vec<Action> = write.chain(instances).chain(sentinels).collect();
        actions.sort_by_key(Action::order);
        actions
    }

    /// What was not done, and why not, in words.
    pub fn said(&self) -> Vec<String> {
        self.reasons.iter().map(ToString::to_string).collect()
    }
}

/// Decides for one group. The same view gives the same decision.
pub fn decide(view: &View<'_>, layout: &Layout) -> Decision {
    let Some(pause) = view.pause() else { return decide_by(view, layout) };
    let policy = view.policy.under_pause();
    let mut decision = decide_by(&view.under(&policy), layout);
    decision.reasons.insert(0, Reason::Paused(pause));
    decision
}

/// Decides by the view's policy.
fn decide_by(view: &View<'_>, layout: &Layout) -> Decision {
    let situation = situation(view);
    let verdict = verdict(view, &situation);
    if let Situation::NotOurs(_) = &situation {
        return not_ours(view, situation, verdict);
    }
    let (mut reasons, mut refused) = (Vec::new(), Vec::new());
    reasons.extend(renamed(view));
    let published = view.record.is_some_and(|record| record.last_writer.is_some());
    reasons.extend(taken(view, layout).filter(|_| published));
    reasons.extend(copies(view.observed, view.recent).into_iter().map(Reason::SameId));
    reasons.extend(relay_refused(view));
    let mut sentinels_refused = Vec::new();
    let mut sentinels = sentinel_duties(view, &mut sentinels_refused);
    let (replacing, forgetting, fast) = (replace(view), forget(view), fast(view));
    let haste = match &fast {
        Ok(Some(_)) => Ok(None),
        _ => haste::due(view),
    };
    let next = Next {
        // A Sentinel that is reconfigured now is made to forget the next time.
        forget: forgetting
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .filter(|forget| !sentinels.contains_key(&forget.sentinel)),
        replace: replacing.as_ref().ok().and_then(Option::as_ref),
        fast: fast.as_ref().ok().and_then(Option::as_ref),
        haste: haste.as_ref().ok().and_then(Option::as_ref),
    };
    let (mut wanted, mut sound) = (None, false);
    match write(view, layout, &verdict, &next) {
        Ok(WantedWrite::Write(write)) => wanted = Some(write),
        Ok(WantedWrite::Sound) => sound = true,
        Ok(WantedWrite::Nothing) => {}
        Err(reason) => reasons.push(*reason),
    }
    let write = wanted.filter(|write| {
        let veto = safety::veto(view, &Action::Write(write.clone()));
        refused.extend(veto.map(Reason::Refused));
        refused.is_empty()
    });
    sentinels.extend(write.as_deref().and_then(once_written));
    let Duties { instances, left_alone, not_done, refused: forbidden } = duties(view, &situation);
    refused.extend(forbidden.into_iter().chain(sentinels_refused));
    reasons.extend(isolated(view));
    reasons.extend(again(&situation));
    reasons.extend(gave_up(view));
    reasons.extend(left_alone.into_iter().map(Reason::LeftAlone));
    // What no Sentinel is asked for they may be voting on.
    let voting = haste::is_voting(view) || matches!(haste, Ok(Some(_)));
    let not_fast = fast.err().or(haste.err()).filter(|_| !voting);
    reasons.extend(not_fast.map(|why| Reason::NotFast(*why)));
    reasons.extend(replacing.err().map(|why| Reason::NotReplaced(*why)));
    reasons.extend(forgetting.err().map(|why| Reason::NotForgotten(*why)));
    reasons.extend(refused);
    reasons.extend(ignored(view, layout));
    reasons.extend(misnamed(view).into_iter().chain(words_said(view)));
    reasons.extend(not_done);
    let summary = summary(view, &verdict);
    let is_isolated = is_blind(view) || is_isolated(view);
    Decision {
        situation,
        verdict,
        write,
        instances,
        sentinels,
        is_isolated,
        summary,
        reasons,
        sound,
    }
}

/// A promotion could be lost with the Sentinel that leads it: it is not published before a majority names it.
fn relay_refused(view: &View<'_>) -> Option<Reason> {
    let refusing = refusing(view);
    let owned = refusing.iter().map(|(at, words)| ((*at).clone(), (*words).to_owned()));
    (view.policy.publish == Level::Promotion && !refusing.is_empty())
        .then(|| Reason::RelayRefused(owned.collect()))
}

/// What is published is about another group: whatever a rule would want, nothing is done.
fn not_ours(view: &View<'_>, situation: Situation, verdict: Verdict) -> Decision {
    Decision {
        summary: summary(view, &verdict),
        is_isolated: is_blind(view) || is_isolated(view),
        situation,
        verdict,
        write: None,
        instances: BTreeMap::new(),
        sentinels: BTreeMap::new(),
        reasons: Vec::new(),
        sound: false,
    }
}

/// What is done to a Sentinel once the write is in Consul.
fn once_written(write: &Write) -> Option<(Address, SentinelDuty)> {
    let forget = write.forget.clone();
    let replace = write.replace.clone();
    let forget = forget.map(|forget| (forget.sentinel.clone(), SentinelDuty::Forget(forget)));
    let replace = replace.map(|replace| (replace.sentinel.clone(), SentinelDuty::Replace(replace)));
    forget.or(replace)
}

/// Why Sentinels do nothing while there is no writer, and when they try again: one that gave up lets twice
/// `failover-timeout` pass since it began (`docs/facts/sentinel.md` 1).
fn gave_up(view: &View<'_>) -> Option<Reason> {
    let (sentinel, why, at) = view.memory.gave_up.as_ref()?;
    if view.writer().is_some() || !view.tally.failovers.is_empty() {
        return None;
    }
    let timeout_ms = view.groups().map(|group| group.settings.failover_timeout_ms).max()?;
    let ago_ms = view.now.mono - *at;
    let (pause_ms, sentinel) = (timeout_ms.saturating_mul(2), sentinel.clone());
    // Long after the next attempt was due there is something else in its way.
    (ago_ms < pause_ms.saturating_mul(2)).then(|| Reason::GaveUp {
        sentinel,
        why: *why,
        ago_s: ago_ms / 1_000,
        again_s: pause_ms.saturating_sub(ago_ms) / 1_000,
    })
}

/// Why the old primary is not made one again.
fn again(situation: &Situation) -> Option<Reason> {
    match situation {
        Situation::Returned { again: Err(why), .. } if *why != NotPromotedAgain::NoCase => {
            Some(Reason::NotPromotedAgain(why.clone()))
        }
        _ => None,
    }
}

/// The primaries of an isolated host: whose writes are held, and which go on taking writes.
fn isolated(view: &View<'_>) -> impl Iterator<Item = Reason> {
    hold::isolated_primaries(view).map(|(instance, answer)| match answer.can_hold_writes() {
        true => Reason::Held(instance.clone()),
        false => Reason::NotHeld { instance: instance.clone(), version: answer.version.clone() },
    })
}

/// The keys of operators that cannot be read.
fn ignored(view: &View<'_>, layout: &Layout) -> Vec<Reason> {
    let Some(store) = &view.observed.store else { return Vec::new() };
    let config = store.config.as_ref().err().map(|error| (layout.config(), error));
    let maintenance = store.maintenance.as_ref().err().map(|error| (layout.maintenance(), error));
    let all = config.into_iter().chain(maintenance);
    all.map(|(key, error)| Reason::Ignored { key, error: error.clone() }).collect()
}

/// Addresses that are of no use: another one of a process that the group knows, and loopback ones.
fn misnamed(view: &View<'_>) -> Vec<Reason> {
    let two = view.aliases().iter().map(|(address, of)| (address.clone(), of.clone()));
    let two = two.map(|(address, of)| Reason::TwoAddresses { address, of });
    let loopback = view.refused().iter().map(|address| Reason::Loopback {
        address: address.clone(),
        configured: view.policy.local.contains(address),
    });
    two.chain(loopback).collect()
}

/// Why the operator's own words are not on the rows, and that agents have different ones.
fn words_said(view: &View<'_>) -> Vec<Reason> {
    let Some(store) = &view.observed.store else { return Vec::new() };
    let kept_off: Vec<String> = kept_off(store).into_iter().map(str::to_owned).collect();
    let hidden = (!kept_off.is_empty()).then_some(Reason::WordsHidden(kept_off));
    let said = differing(store).into_iter();
    let said: Vec<_> = said.map(|(agent, words)| (agent.to_owned(), words.to_string())).collect();
    let differ = (!said.is_empty()).then_some(Reason::WordsDiffer(said));
    hidden.into_iter().chain(differ).collect()
}

/// A group keeps the service it was first published as: a name that moved would be gone for its users.
fn renamed(view: &View<'_>) -> Option<Reason> {
    let (wanted, group) = (&view.policy.service, &view.policy.group);
    let published = &view.record?.service;
    (published != wanted).then(|| Reason::Renamed {
        group: group.clone(),
        published: published.clone(),
        wanted: wanted.clone(),
    })
}

fn summary(view: &View<'_>, verdict: &Verdict) -> String {
    let mut text = format!("{}: ", view.policy.group);
    let _ = match verdict {
        Verdict::Publish { to, why, .. } => {
            let from = view.record.and_then(|r| r.last_writer.as_ref()).map(|w| &w.address);
            match from.filter(|from| *from != &to.address) {
                Some(from) => write!(text, "writer {from} -> {}, {why}", to.address),
                None => write!(text, "writer {}, {why}", to.address),
            }
        }
        Verdict::Withdraw(why) => write!(text, "no writer: {why}"),
        Verdict::Claim(claim) => write!(text, "{}", claimed(view, claim)),
        Verdict::Confirm { writer, evidence } => write!(
            text,
            "writer {} confirmed by {} of {} Sentinels at epoch {}",
            writer.address,
            evidence.basis.votes(),
            evidence.known,
            evidence.confirmed_epoch
        ),
        Verdict::Keep(why) => write!(text, "{why}"),
    };
    text
}
