//! Very many groups of one Sentinel: one cheap question for all of them, and the details of those alone that have
//! changed, were hinted at, or have their turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Questions, SentinelReport, Watcher};
use crate::core::identity::address::GroupName;
use crate::core::known::observed::{DownOpinion, Reading, SentinelAnswer};
use crate::core::policy::FEW_GROUPS_MAX;
use crate::core::time::Mono;
use crate::redis_link::{Link, LinkError, has_closed};
use crate::sentinel::query::{self, Identity, Summary};

/// Groups whose details are asked for in one write. A command waits for no more.
const ASKED_AT_ONCE: usize = 16;
/// How long the answer to the cheap question counts, in ms.
const SUMMARY_AGE_MAX_MS: u64 = 500;
/// Least time between two questions for the details of one group, but for hints, in ms.
const DETAILS_AGAIN_MS: u64 = 200;
/// Groups whose login is looked at in one inventory.
const LOGINS_AT_ONCE: usize = 30;
/// Each group's share of the questions for details, in ms, and the least between two of them about one group.
const DETAILS_SHARE_MS: u64 = 100;
const DETAILS_EVERY_MIN_MS: u64 = 10_000;

/// What a Sentinel of very many groups has said.
#[derive(Default)]
pub(super) struct Crowd {
    summary: Option<HeardSummary>,
    details: BTreeMap<GroupName, Details>,
    /// The group whose login was looked at last.
    looked_at: Option<GroupName>,
}

/// The answer to the cheap question.
#[derive(Clone)]
struct HeardSummary {
    asked: Mono,
    answered: Mono,
    summary: Arc<Summary>,
}

/// The details of one group.
struct Details {
    asked: Mono,
    answer: SentinelAnswer,
    /// What the Sentinel said of the group in its summary at that time.
    row: Option<String>,
}

impl Watcher {
    /// It is asked about so many groups that it is asked for all of them at once.
    pub(super) fn has_crowd(&self) -> bool {
        self.settings.groups.len() > FEW_GROUPS_MAX
    }

    /// Answers some of what is asked.
    pub(super) async fn answer_some(&mut self, questions: &mut Questions) {
        let hinted = questions.hinted_first(ASKED_AT_ONCE);
        let summary = match self.summary(!hinted.is_empty()).await {
            Ok(summary) => summary,
            Err(silence) => {
                self.note(&silence);
                let mut all = questions.take();
                all.extend(hinted);
                return self.report_all(all, &silence).await;
            }
        };
        let known = &*summary.summary;
        let mut wanted = hinted;
        for group in std::mem::take(&mut questions.due) {
            if let Some(answer) = self.said_again(&group, known, summary.asked) {
                let (asked, answered) = (summary.asked, summary.answered);
                self.report_again(group, Reading { asked, answered, result: Ok(answer) }).await;
            } else if self.was_just_asked(&group) {
                // It is asked for again and again, and an event would be a hint.
            } else if wanted.len() < ASKED_AT_ONCE {
                wanted.push(group);
            } else {
                questions.due.insert(group);
            }
        }
        if !wanted.is_empty() {
            self.ask_details(wanted, known).await;
        }
    }

    /// What the Sentinel says of all groups, no older than [`SUMMARY_AGE_MAX_MS`]. Where something was hinted at, the
    /// last one does: details are asked for in any case.
    async fn summary(&mut self, hinted: bool) -> Result<HeardSummary, Reading<SentinelAnswer>> {
        let clock = self.settings.clock;
        let now = clock.now().mono;
        let known = self.crowd.summary.as_ref();
        if let Some(known) = known.filter(|s| hinted || now - s.asked <= SUMMARY_AGE_MAX_MS) {
            return Ok(known.clone());
        }
        let was_open = self.link.is_some();
        let mut result = self.ask_summary().await;
        if has_closed(was_open, &result) {
            result = self.ask_summary().await;
        }
        let answered = clock.now().mono;
        match result {
            Ok(summary) => {
                let heard = HeardSummary { asked: now, answered, summary: Arc::new(summary) };
                self.crowd.summary = Some(heard.clone());
                if let Some((_, id)) = &mut self.link {
                    id.summary = Some(heard.summary.clone());
                }
                Ok(heard)
            }
            Err(error) => {
                self.crowd = Crowd::default();
                Err(Reading { asked: now, answered, result: Err(error.to_string()) })
            }
        }
    }

    /// As the inventory of few groups, of which each has its turn.
    pub(super) async fn inventory_of_many(&mut self) {
        let Ok(HeardSummary { summary, .. }) = self.summary(false).await else { return };
        let groups: Vec<GroupName> = summary.groups.keys().cloned().collect();
        let after = self.crowd.looked_at.take();
        let next = groups.iter().filter(|group| Some(*group) > after.as_ref());
        for group in next.take(LOGINS_AT_ONCE) {
            self.look_at_login(group).await;
            self.crowd.looked_at = Some(group.clone());
        }
        let sentinel = self.sentinel.clone();
        let _ = self.reports.send(SentinelReport::Inventory { sentinel, groups }).await;
    }

    async fn ask_summary(&mut self) -> Result<Summary, LinkError> {
        self.on_link(async |link: &mut Link, _: &Identity| query::summary(link).await).await
    }

    /// What the Sentinel said of a group, where the summary and its silence say that this still holds: all else that
    /// matters is an event, and its events are heard.
    fn said_again(
        &self,
        group: &GroupName,
        summary: &Summary,
        asked: Mono,
    ) -> Option<SentinelAnswer> {
        let details = self.crowd.details.get(group)?;
        let share = u64::try_from(self.settings.groups.len()).unwrap_or(u64::MAX);
        let every = share.saturating_mul(DETAILS_SHARE_MS).max(DETAILS_EVERY_MIN_MS);
        let calm = !summary.tilt && is_calm(&details.answer);
        let same = details.row.as_ref() == summary.groups.get(group);
        let fresh = asked - details.asked <= every && asked >= details.asked;
        let heard = self.hears_events.load(Ordering::Relaxed);
        (calm && same && fresh && heard).then(|| details.answer.clone())
    }

    /// Its details were asked for a moment ago.
    fn was_just_asked(&self, group: &GroupName) -> bool {
        let now = self.settings.clock.now().mono;
        self.crowd.details.get(group).is_some_and(|known| now - known.asked < DETAILS_AGAIN_MS)
    }

    async fn ask_details(&mut self, groups: Vec<GroupName>, summary: &Summary) {
        let clock = self.settings.clock;
        let asked = clock.now().mono;
        let ask =
            async |link: &mut Link, id: &Identity| query::ask_all(link, id, &groups, summary).await;
        let result = self.on_link(ask).await;
        let answered = clock.now().mono;
        let answers = match result {
            Ok(answers) => answers,
            Err(error) => {
                self.crowd = Crowd::default();
                let silence = Reading { asked, answered, result: Err(error.to_string()) };
                self.note(&silence);
                return self.report_all(groups.into_iter().collect(), &silence).await;
            }
        };
        for (group, result) in groups.into_iter().zip(answers) {
            match &result {
                Ok(answer) => {
                    let row = summary.groups.get(&group).cloned();
                    let details = Details { asked, answer: answer.clone(), row };
                    self.crowd.details.insert(group.clone(), details);
                }
                Err(_) => drop(self.crowd.details.remove(&group)),
            }
            let result = result.map_err(|error| error.to_string());
            let reading = Reading { asked, answered, result };
            self.note(&reading);
            if let Ok(answer) = &reading.result {
                self.judge_login(&group, answer).await;
            }
            self.report(group, reading).await;
        }
    }

    /// As [`Watcher::report`], of what was reported before.
    async fn report_again(&self, group: GroupName, reading: Reading<SentinelAnswer>) {
        let (sentinel, reading) = (self.sentinel.clone(), Box::new(reading));
        let _ = self.reports.send(SentinelReport::Again { sentinel, group, reading }).await;
    }
}

/// Nothing is going on in the group, as far as the Sentinel says.
fn is_calm(answer: &SentinelAnswer) -> bool {
    let calm = |group: &crate::core::known::observed::SentinelGroup| {
        group.down == DownOpinion::Up && group.failover.is_none() && group.only_master_flag
    };
    !answer.tilt && answer.group.as_ref().is_some_and(calm)
}
