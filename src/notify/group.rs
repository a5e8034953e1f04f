//! One group's part: what its loop sees goes into the keeper, and what the keeper wants told goes to the targets.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::target::{Answers, DROPPED, QueuedNotice, TargetHandle, TargetReport};
use crate::config::GroupConfig;
use crate::core::group::{NoticeKeeper, NoticeOutput, Outcome};
use crate::core::known::observed::StoreAnswer;
use crate::core::published::notices::{Notice, NoticeSubject, SeenProblem};
use crate::core::published::projection::Op;
use crate::core::shown::status::Problem;
use crate::core::time::{Mono, Now};

/// The word of a target that a reload took away.
const GONE: &str = "dropped: not in the config any more";

/// All targets, for the groups' loops.
pub type TargetHandles = Arc<Vec<TargetHandle>>;

/// What one group's loop has told, and is to tell.
pub struct GroupNotices {
    targets: watch::Receiver<TargetHandles>,
    /// `None` where no target hears of the group.
    keeper: Option<NoticeKeeper>,
    reports: mpsc::Sender<TargetReport>,
    awaited: BTreeMap<String, Answers>,
    /// Something is to be told or noted.
    busy: watch::Sender<bool>,
}

/// What notices of this group have in common.
pub fn subject(group: &GroupConfig) -> NoticeSubject {
    NoticeSubject {
        prefix: group.layout.prefix.clone(),
        group: group.layout.group.clone(),
        service: group.policy.service.clone(),
        installation: group.policy.installation.clone(),
        agent: group.policy.agent.clone(),
    }
}

impl GroupNotices {
    /// Nothing is told yet; what becomes of it goes to `reports`, and whether there is something to tell to `busy`.
    pub fn new(
        mut targets: watch::Receiver<TargetHandles>,
        reports: mpsc::Sender<TargetReport>,
        busy: watch::Sender<bool>,
    ) -> Self {
        // The first look makes the keeper.
        targets.mark_changed();
        Self { targets, keeper: None, reports, awaited: BTreeMap::new(), busy }
    }

    /// There is something to look at: the targets, what Consul says, what was told, or the time.
    pub fn is_due(
        &mut self,
        group: &GroupConfig,
        run: &str,
        store: Option<&StoreAnswer>,
        now: Mono,
    ) -> bool {
        self.heed(group, run);
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_due(store, now))
    }

    /// Has the targets told what there is to tell. What is to be written in Consul, if anything.
    pub fn look(
        &mut self,
        store: Option<&StoreAnswer>,
        problems: &[Problem],
        now: Now,
    ) -> Option<Vec<Op>> {
        let keeper = self.keeper.as_mut()?;
        let problems = problems.iter().map(|problem| {
            let degrades = problem.code.only_degrades();
            let seen = SeenProblem { text: problem.text.clone(), degrades };
            (problem.code.as_str().to_owned(), seen)
        });
        let mut ops = None;
        for output in keeper.look(store, problems.collect(), now) {
            match output {
                NoticeOutput::Tell(notice) => self.tell(*notice),
                NoticeOutput::Write(write) => ops = Some(write),
            }
        }
        self.note_busy();
        ops
    }

    /// Goes by the targets that there are now.
    fn heed(&mut self, group: &GroupConfig, run: &str) {
        if !self.targets.has_changed().unwrap_or(false) {
            return;
        }
        let name = &group.policy.group;
        let targets = self.targets.borrow_and_update().clone();
        self.forget_targets(&targets);
        let hearing = targets.iter().filter(|target| target.teller.config.hears_of(name));
        let Some(debounce) = hearing.map(|target| target.teller.config.debounce).max() else {
            self.keeper = None;
            return;
        };
        let debounce_ms = u64::try_from(debounce.as_millis()).unwrap_or(u64::MAX);
        match &mut self.keeper {
            Some(keeper) => keeper.set_debounce(debounce_ms),
            None => {
                let (key, run) = (group.layout.notices(), run.to_owned());
                self.keeper = Some(NoticeKeeper::new(subject(group), key, run, debounce_ms));
            }
        }
    }

    /// Targets that are there no more say nothing.
    fn forget_targets(&mut self, targets: &[TargetHandle]) {
        let is_there = |name: &String| targets.iter().any(|t| t.teller.config.name == *name);
        for answers in self.awaited.values_mut() {
            let gone: Vec<String> =
                answers.awaited.iter().filter(|name| !is_there(name)).cloned().collect();
            for name in gone {
                answers.awaited.remove(&name);
                answers.words.insert(name, GONE.to_owned());
            }
        }
        for id in self.awaited.keys().cloned().collect::<Vec<_>>() {
            self.settle(&id);
        }
    }

    fn tell(&mut self, notice: Notice) {
        let notice = Arc::new(notice);
        let mut answers = Answers::default();
        for target in self.targets.borrow().iter() {
            let config = &target.teller.config;
            if !config.hears_of(&notice.group) || !config.events.contains(&notice.event) {
                continue;
            }
            let queued = QueuedNotice { notice: notice.clone(), report: self.reports.clone() };
            if target.queue.try_send(queued).is_ok() {
                answers.awaited.insert(config.name.clone());
            } else {
                answers.words.insert(config.name.clone(), DROPPED.to_owned());
            }
        }
        self.awaited.insert(notice.id.clone(), answers);
        self.settle(&notice.id);
    }

    /// One target has said what became of an event.
    pub fn reported(&mut self, report: TargetReport) {
        let TargetReport { id, target, word } = report;
        if let Some(answers) = self.awaited.get_mut(&id) {
            answers.awaited.remove(&target);
            answers.words.insert(target, word);
        }
        self.settle(&id);
    }

    /// Once all targets have said it, it can be noted.
    fn settle(&mut self, id: &str) {
        if self.awaited.get(id).is_some_and(|answers| answers.awaited.is_empty())
            && let Some(answers) = self.awaited.remove(id)
            && let Some(keeper) = &mut self.keeper
        {
            keeper.told(id, answers.words);
        }
    }

    /// How the write has ended that [`Self::look`] wanted.
    pub fn wrote(&mut self, outcome: &Outcome, now: Now) {
        if let Some(keeper) = &mut self.keeper {
            keeper.wrote(outcome, now.mono);
        }
    }

    fn note_busy(&self) {
        let busy = self.keeper.as_ref().is_some_and(NoticeKeeper::is_busy);
        self.busy.send_if_modified(|before| std::mem::replace(before, busy) != busy);
    }
}
