//! The login that one Sentinel has for the instances of its groups: it is renewed when it has changed, and taken back
//! where the Sentinel does worse with it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{SentinelReport, Watcher};
use crate::clock::wall;
use crate::core::duty::sentinels::{Reconfigure, ReconfigureKind};
use crate::core::group::Outcome;
use crate::core::identity::address::GroupName;
use crate::core::known::observed::{DownOpinion, SentinelAnswer};
use crate::core::published::pause::PauseKey;
use crate::core::published::projection::Op;
use crate::redis_link::Link;
use crate::sentinel::login::{Giving, Login, Trial};
use crate::sentinel::query::{self, Identity};

/// What is known of the login that the Sentinel has for one group's instances.
#[derive(Default)]
pub(super) struct KnownLogin {
    /// What the file said when the Sentinel was last told, or when it was first looked at.
    login: Option<Login>,
    /// We gave the Sentinel its login, and that is to be noted in Consul (`false`), or is (`true`).
    given: Option<bool>,
    /// The note of that as it was when the Sentinel had `login`, as far as this agent knows.
    noted: Option<LoginNote>,
    /// The note says that this agent is about to give a login, at this ModifyIndex.
    claim: Option<u64>,
    /// The note has said that another agent is about to, since when.
    waited: Option<(u64, Instant)>,
    /// Another agent gave it `login`, as the note says; the one before.
    believed: Option<Login>,
    /// It was given another one, and what becomes of its instances is watched.
    on_trial: Option<OnTrial>,
    /// It was taken back: not given again.
    taken_back: Option<Login>,
    /// What the file said when it was last looked at was not what the Sentinel has.
    differed: bool,
    /// What was reported to be wrong.
    wrong: Option<String>,
}

/// A login that the Sentinel has just been given.
struct OnTrial {
    before: Login,
    until: Instant,
}

/// How long it is watched what becomes of a Sentinel's instances under another login, beside its
/// `down-after-milliseconds`: it connects anew and asks within a second.
const TRIAL: Duration = Duration::from_secs(5);

/// A note that was read.
struct LoginNote {
    /// Its ModifyIndex, 0 where there is none.
    index: u64,
    read: Instant,
    /// When it was seen that another agent has given a login.
    changed: Option<Instant>,
}

impl LoginNote {
    fn at(index: u64) -> Self {
        Self { index, read: Instant::now(), changed: None }
    }

    /// The note with this index says of a login that was given lately, and not by this agent.
    fn is_news(&self, index: u64) -> bool {
        index != self.index || self.changed.is_some_and(|at| at.elapsed() < TAKEN_FOR_OURS)
    }
}

/// Who gives the Sentinel a login that has changed.
enum Turn {
    /// No agent: the Sentinel keeps its own.
    None,
    /// Another agent has, as the note with this index says.
    Given(u64),
    /// Another agent is about to.
    Wait,
    /// This agent, once the note with this index says so; or at once.
    Ours(Option<u64>),
}

/// How often it is looked whether another agent has given a login, while this agent's own stays.
const NOTE_EVERY: Duration = Duration::from_secs(300);
/// For how long a login that another agent gave is taken for the one that this agent's config has next: it reaches
/// all agents within that time.
const TAKEN_FOR_OURS: Duration = Duration::from_secs(3600);
/// How long another agent may take to give a login that it is about to give.
const GIVING_MAX: Duration = Duration::from_secs(15);
/// How the note begins while an agent is about to give a login.
const GIVING: &str = "giving";

impl Watcher {
    /// Gives the Sentinel a login for the instances that has changed since we look, where the one that it has is an
    /// agent's or the operator has chosen this one for it: by the old one it would soon call them down.
    pub(super) async fn look_at_login(&mut self, group: &GroupName) {
        let Some(giving) = self.settings.logins.get(group).cloned() else { return };
        let login = match Login::read(&giving.auth) {
            Ok(Some(login)) => login,
            Ok(None) => return,
            // It may be readable in a moment; the Sentinel keeps what it has.
            Err(error) => {
                self.logins.entry(group.clone()).or_default().differed = true;
                return self.report_login(group, Some(error.to_string())).await;
            }
        };
        self.note_given(group, &giving).await;
        let first = self.logins.get(group).is_none_or(|known| known.login.is_none());
        if first {
            let noted = self.read_note(group, &giving).await.ok();
            debug!("{group}: Sentinel {} is taken to have the login as it is now", self.sentinel);
            let known = self.logins.entry(group.clone()).or_default();
            known.noted = noted.map(|(index, _)| LoginNote::at(index));
        }
        self.doubt(group, &login, &giving).await;
        let known = self.logins.entry(group.clone()).or_default();
        let before = known.login.get_or_insert_with(|| login.clone()).clone();
        if known.taken_back.as_ref() == Some(&login) {
            return;
        }
        let differed = std::mem::replace(&mut known.differed, before != login);
        if before == login {
            if differed {
                self.report_login(group, None).await;
            }
            return self.heed_note(group, &giving).await;
        }
        self.renew(group, &giving, login, before).await;
    }

    /// The Sentinel has another login than the config. One agent gives it this one, so that its connections close once.
    async fn renew(&mut self, group: &GroupName, giving: &Giving, login: Login, before: Login) {
        let sentinel = self.sentinel.clone();
        if self.is_paused(giving).await {
            return debug!(
                "{group}: paused: Sentinel {sentinel} keeps its login for the instances"
            );
        }
        let claimed = match self.turn(group, giving).await {
            Ok(Turn::Ours(claimed)) => claimed,
            Ok(Turn::Wait) => return debug!("{group}: another agent is about to tell {sentinel}"),
            Ok(Turn::Given(index)) => {
                info!(
                    "{group}: another agent gave Sentinel {sentinel} its login for the instances"
                );
                let known = self.logins.entry(group.clone()).or_default();
                (known.login, known.believed) = (Some(login), Some(before));
                (known.noted, known.given) = (Some(LoginNote::at(index)), Some(true));
                return self.report_login(group, None).await;
            }
            Ok(Turn::None) => {
                info!("{group}: Sentinel {sentinel} keeps its own login for the instances");
                let known = self.logins.entry(group.clone()).or_default();
                (known.login, known.given) = (Some(login), None);
                return;
            }
            Err(error) => {
                return debug!("{group}: whether agents gave a login is not known: {error}");
            }
        };
        if let Err(wrong) = self.try_on_all(group, &login, giving).await {
            return self.report_login(group, wrong).await;
        }
        if let Some(index) = claimed
            && !self.claim(group, giving, index).await
        {
            return debug!("{group}: another agent was first to tell {sentinel}");
        }
        self.give(group, login, before).await;
        self.note_given(group, giving).await;
    }

    /// An operator has paused the group: it is looked again.
    async fn is_paused(&self, giving: &Giving) -> bool {
        let key = self.consul.key(&giving.layout.pause()).await.ok().flatten();
        let key = key.map_or(PauseKey::Absent, |(value, _)| PauseKey::read(&value));
        key.on(wall(), std::iter::empty()).is_some()
    }

    async fn turn(&mut self, group: &GroupName, giving: &Giving) -> Result<Turn, String> {
        let note = self.read_note(group, giving).await;
        let known = self.logins.entry(group.clone()).or_default();
        let (index, is_giving) = match note {
            Ok(note) => note,
            // Rather twice than not at all.
            Err(_) if giving.auth.chosen || known.given.is_some() => return Ok(Turn::Ours(None)),
            Err(error) => return Err(error),
        };
        if index == 0 && !giving.auth.chosen && known.given != Some(false) {
            return Ok(Turn::None);
        }
        if known.claim == Some(index) {
            return Ok(Turn::Ours(None));
        }
        if !is_giving && known.noted.as_ref().is_some_and(|noted| noted.is_news(index)) {
            return Ok(Turn::Given(index));
        }
        if is_giving {
            let since = known.waited.filter(|(of, _)| *of == index).map(|(_, since)| since);
            let since = since.unwrap_or_else(Instant::now);
            known.waited = Some((index, since));
            if since.elapsed() < GIVING_MAX {
                return Ok(Turn::Wait);
            }
        }
        Ok(Turn::Ours(Some(index)))
    }

    /// The note's ModifyIndex, 0 where there is none, and whether it says that an agent is about to give a login.
    async fn read_note(
        &mut self,
        group: &GroupName,
        giving: &Giving,
    ) -> Result<(u64, bool), String> {
        let (_, id) = self.link().await.map_err(|error| error.to_string())?;
        let key = giving.layout.login_given(&id.id);
        let note = self.consul.key(&key).await.map_err(|error| error.to_string())?;
        debug!("{group}: the note of {}'s login: {note:?}", self.sentinel);
        Ok(note.map_or((0, false), |(value, at)| (at, value.starts_with(GIVING.as_bytes()))))
    }

    /// Now and then, whether another agent has given a login that this one's config does not have yet.
    async fn heed_note(&mut self, group: &GroupName, giving: &Giving) {
        let known = self.logins.entry(group.clone()).or_default();
        if known.noted.as_ref().is_some_and(|noted| noted.read.elapsed() < NOTE_EVERY) {
            return;
        }
        let Ok((index, is_giving)) = self.read_note(group, giving).await else { return };
        let known = self.logins.entry(group.clone()).or_default();
        match &mut known.noted {
            Some(noted) if noted.index != index && !is_giving => {
                let (now, at) = (Instant::now(), index);
                *noted = LoginNote { index: at, read: now, changed: Some(now) };
            }
            Some(noted) => noted.read = Instant::now(),
            None => known.noted = Some(LoginNote::at(index)),
        }
    }

    /// A login that another agent gave is not the config's, where an instance lets this agent in by that and answers
    /// the Sentinel with errors: it is renewed like any other.
    async fn doubt(&mut self, group: &GroupName, login: &Login, giving: &Giving) {
        let known = self.logins.get(group);
        if known.is_none_or(|known| known.believed.is_none() || known.login.as_ref() != Some(login))
        {
            return;
        }
        let ask = async |link: &mut Link, _: &Identity| query::refusing(link, group).await;
        for at in self.on_link(ask).await.unwrap_or_default() {
            if login.try_on(&at, &giving.way).await == Trial::Accepted {
                let sentinel = &self.sentinel;
                info!("{group}: {at} refuses Sentinel {sentinel}, which another agent told");
                let known = self.logins.entry(group.clone()).or_default();
                known.login = known.believed.take();
                return;
            }
        }
    }

    /// Notes in Consul that this agent is about to give the Sentinel a login. Whether it is to.
    async fn claim(&mut self, group: &GroupName, giving: &Giving, index: u64) -> bool {
        let Ok((_, id)) = self.link().await else { return false };
        let key = giving.layout.login_given(&id.id);
        let value = format!("{GIVING} by {}", giving.by);
        let op = Op::KeyCas { key: key.clone(), index, value };
        match self.consul.txn(&[op], &key).await {
            Outcome::Committed { index } => {
                self.logins.entry(group.clone()).or_default().claim = Some(index);
                true
            }
            Outcome::Lost => false,
            // Rather twice than not at all.
            outcome => {
                debug!("{group}: not noted who gives a login: {outcome:?}");
                true
            }
        }
    }

    async fn give(&mut self, group: &GroupName, login: Login, before: Login) {
        let options = login.options();
        let set = async |link: &mut Link, _: &Identity| query::set(link, group, &options).await;
        let sentinel = self.sentinel.clone();
        match self.on_link(set).await {
            Ok(saved) => {
                info!("{group}: reconfigured Sentinel {sentinel}: the new login for the instances");
                self.note_saved(group, saved);
                let until = Instant::now() + TRIAL;
                let known = self.logins.entry(group.clone()).or_default();
                known.login = Some(login);
                known.on_trial = Some(OnTrial { before, until });
                (known.given, known.believed) = (Some(false), None);
                self.report_login(group, None).await;
            }
            Err(error) => {
                warn!("{group}: cannot give Sentinel {sentinel} the new login: {error}");
            }
        }
    }

    /// The Sentinel was told of a group, with this login.
    pub(super) async fn has_been_given(&mut self, group: &GroupName, login: Login) {
        let known = self.logins.entry(group.clone()).or_default();
        (known.login, known.believed) = (Some(login), None);
        known.given.get_or_insert(false);
        if let Some(giving) = self.settings.logins.get(group).cloned() {
            self.note_given(group, &giving).await;
        }
        self.report_login(group, None).await;
    }

    /// A login is given where the operator has chosen it for Sentinels, or where the one before was given by an agent.
    async fn is_ours_to_give(
        &mut self,
        group: &GroupName,
        giving: &Giving,
    ) -> Result<bool, String> {
        let known = self.logins.get(group);
        if giving.auth.chosen || known.is_some_and(|known| known.given.is_some()) {
            return Ok(true);
        }
        let (index, _) = self.read_note(group, giving).await?;
        Ok(index > 0)
    }

    /// Notes in Consul that the Sentinel has its login from an agent: other agents renew it as well, and one at a time.
    async fn note_given(&mut self, group: &GroupName, giving: &Giving) {
        let known = self.logins.get(group).filter(|known| known.given == Some(false));
        let Some(claim) = known.map(|known| known.claim) else { return };
        let Ok((_, id)) = self.link().await else { return };
        let key = giving.layout.login_given(&id.id);
        let value = format!("given by {}", giving.by);
        let op = match claim {
            Some(index) => Op::KeyCas { key: key.clone(), index, value },
            None => Op::KeySet { key: key.clone(), value },
        };
        let outcome = self.consul.txn(&[op], &key).await;
        let known = self.logins.entry(group.clone()).or_default();
        match outcome {
            Outcome::Committed { index } => {
                known.noted = Some(LoginNote::at(index));
                (known.given, known.claim) = (Some(true), None);
            }
            // Another agent has taken it that this one had died.
            Outcome::Lost => (known.given, known.claim) = (Some(true), None),
            outcome => debug!("{group}: not noted who has its login from us: {outcome:?}"),
        }
    }

    /// Tries a login on the primary that the Sentinel names, and on the replicas that it reaches. What is wrong with
    /// it, when something is; `Err(None)` when that cannot be known now.
    async fn try_on_all(
        &mut self,
        group: &GroupName,
        login: &Login,
        giving: &Giving,
    ) -> Result<(), Option<String>> {
        let kept = "the Sentinels keep the one that they have";
        if let Some(why) = login.not_storable() {
            return Err(Some(format!("Sentinel cannot store {}: {why}; {kept}", login.named())));
        }
        let answer = self.ask(group).await.result.map_err(|_| None)?;
        let Some(known) = answer.group else { return Err(None) };
        let replicas = known.replicas.iter().filter(|replica| !replica.s_down);
        let mut tried = false;
        for at in std::iter::once(&known.primary).chain(replicas.map(|replica| &replica.address)) {
            match login.try_on(at, &giving.way).await {
                Trial::Accepted => tried = true,
                Trial::Lacks(what) => {
                    return Err(Some(format!(
                        "{at} does not let {} use {what}, which Sentinel needs; {kept}",
                        login.named()
                    )));
                }
                Trial::Refused(words) => {
                    return Err(Some(format!("{at} refuses {}: {words}; {kept}", login.named())));
                }
                Trial::Silent(error) => debug!("{group}: {at} cannot be asked: {error}"),
            }
            if !tried {
                // The primary is the one that counts.
                return Err(None);
            }
        }
        Ok(())
    }

    /// What has become of the Sentinel's instances since it was given another login. One that calls a primary down
    /// which lets us in by that login gets the one before, and no other until the file changes.
    pub(super) async fn judge_login(&mut self, group: &GroupName, now: &SentinelAnswer) {
        let Some(known) = self.logins.get_mut(group) else { return };
        let (Some(trial), Some(login)) = (&known.on_trial, known.login.clone()) else { return };
        let Some(seen) = now.group.as_ref() else { return };
        let wait = Duration::from_millis(seen.settings.down_after_ms);
        let (before, over) = (trial.before.clone(), Instant::now() > trial.until + wait);
        if seen.down == DownOpinion::Up {
            if over {
                known.on_trial = None;
            }
            return;
        }
        known.on_trial = None;
        let Some(giving) = self.settings.logins.get(group).cloned() else { return };
        let (new, old) = tokio::join!(
            login.try_on(&seen.primary, &giving.way),
            before.try_on(&seen.primary, &giving.way)
        );
        if new != Trial::Accepted || old != Trial::Accepted {
            return debug!("{group}: it is not the login: {new:?}, the one before: {old:?}");
        }
        let options = before.options();
        let set = async |link: &mut Link, _: &Identity| query::set(link, group, &options).await;
        if let Err(error) = self.on_link(set).await {
            let sentinel = &self.sentinel;
            return warn!("{group}: cannot give Sentinel {sentinel} its login back: {error}");
        }
        let (at, named, sentinel) = (&seen.primary, login.named(), &self.sentinel);
        let wrong = format!(
            "Sentinel {sentinel} called {at} down once it had {named}, which {at} takes from here; it has the login \
             before again"
        );
        let known = self.logins.entry(group.clone()).or_default();
        known.login = Some(before);
        known.taken_back = Some(login);
        self.report_login(group, Some(wrong)).await;
    }

    /// Passes on what is wrong with the login, when that has changed.
    pub(super) async fn report_login(&mut self, group: &GroupName, wrong: Option<String>) {
        let known = self.logins.entry(group.clone()).or_default();
        if known.wrong == wrong {
            return;
        }
        known.wrong.clone_from(&wrong);
        let (sentinel, group) = (self.sentinel.clone(), group.clone());
        let _ = self.reports.send(SentinelReport::Login { sentinel, group, wrong }).await;
    }

    /// The login that goes with a group that is new to the Sentinel, once the writer has taken it. `Err`: it gets none,
    /// and so is not told of the group; why, when that is known.
    pub(super) async fn login_for(
        &mut self,
        group: &GroupName,
        reconfigure: &Reconfigure,
    ) -> Result<Option<Login>, Option<String>> {
        let Some(giving) = self.settings.logins.get(group).cloned() else { return Ok(None) };
        let Some(login) = Login::read(&giving.auth).map_err(|e| Some(e.to_string()))? else {
            return Ok(None);
        };
        let (at, sentinel) = (&reconfigure.primary, self.sentinel.clone());
        let untold = format!("Sentinel {sentinel} is not told about the group");
        if let Some(why) = login.not_storable() {
            let named = login.named();
            return Err(Some(format!("Sentinel cannot store {named}: {why}; {untold}")));
        }
        match login.try_on(at, &giving.way).await {
            Trial::Accepted => {}
            Trial::Lacks(what) => {
                let lacks = format!("{at} does not let {} use {what}", login.named());
                let ours = self.is_ours_to_give(group, &giving).await;
                if reconfigure.what == ReconfigureKind::Repoint && ours != Ok(true) {
                    return Err(Some(format!(
                        "{lacks}, which Sentinel needs: Sentinel {sentinel} keeps its own login, and the primary that it \
                         names (set auth_user and auth_password_file)"
                    )));
                }
                warn!(
                    "{group}: {lacks}, which Sentinel {sentinel} needs for a failover (set auth_user and \
                     auth_password_file)"
                );
            }
            Trial::Refused(words) => {
                return Err(Some(format!("{at} refuses {}: {words}; {untold}", login.named())));
            }
            Trial::Silent(error) => {
                debug!("{group}: {at} cannot be asked: {error}; {untold}");
                return Err(None);
            }
        }
        Ok(Some(login))
    }
}
