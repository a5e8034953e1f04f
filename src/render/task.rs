//! The loop: what Consul shows of the groups goes into one picture, and each template is rendered whenever that
//! changes.
//!
//! Every template has a task of its own, so one whose command hangs holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::command;
use super::context::{Context, GroupRecords, Missing};
use super::engine;
use super::file::Destination;
use super::pace::{ChangePace, FileNews};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::template::{FILE_PLACEHOLDER, TemplateConfig};
use crate::consul::client::{Consul, ConsulError};
use crate::consul::store::ReadMode;
use crate::consul::watch::{watch_cluster, watch_group};
use crate::core::cluster::record::{ClusterStore, StoredCluster};
use crate::core::known::observed::{StoreAnswer, StoredState};
use crate::core::published::projection::Layout;
use crate::exit::{Exit, Failure};
use crate::retry::Retry;

/// Changes that come within this long of the first one are rendered together.
const JOIN: Duration = Duration::from_millis(5);
/// Pause before what failed is tried again: the first and the longest one.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Largest template, in bytes.
const SOURCE_LEN_MAX: u64 = 1024 * 1024;
/// Answers of Consul waiting for one group.
const ANSWERS_MAX: usize = 16;

/// How one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// The file.
    pub destination: PathBuf,
    /// `None` while nothing was to be done yet.
    pub last: Option<Result<(), String>>,
}

/// Everything that is rendered, checked.
pub struct Renderer {
    templates: Vec<Template>,
    layouts: Vec<Layout>,
    clusters: Vec<Layout>,
    consul: Consul,
    clock: Clock,
}

#[derive(Clone)]
struct Template {
    config: TemplateConfig,
    destination: Destination,
    /// Variables that its commands do not get.
    withheld: Arc<BTreeSet<String>>,
}

/// What came of a rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RenderOutcome {
    /// Everything was as it should be.
    Nothing,
    /// The file was replaced.
    Replaced,
    /// The file was in place, and its command was still due.
    Notified,
}

impl Renderer {
    /// Checks what can be checked without doing anything; `None` when there are no templates.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Config`]: a template that cannot be read or parsed, or an owner that is not a user of
    /// this system.
    pub fn new(config: &Config, consul: Consul, clock: Clock) -> Result<Option<Self>, Failure> {
        let wrong = |what: String| {
            Failure::new(Exit::Config, what)
                .hint("consul-redis render --print shows what a template makes; docs/consumers.md has what it sees")
        };
        let mut templates = Vec::new();
        let withheld = Arc::new(config.secret_variables.clone());
        for config in &config.templates {
            let TemplateConfig { destination, mode, owner, .. } = config;
            let at = Destination::new(destination, *mode, owner).map_err(|what| {
                let message = format!("{}: {what}", destination.display());
                Failure::new(Exit::Config, message)
                    .hint("owner = \"user:group\", of users and groups that this machine knows")
            })?;
            let template =
                Template { config: config.clone(), destination: at, withheld: withheld.clone() };
            template.source().and_then(|s| engine::parse(&template.name(), &s)).map_err(wrong)?;
            templates.push(template);
        }
        let layouts = config.groups.iter().map(|group| group.layout.clone()).collect();
        let clusters = config.clusters.iter().map(|cluster| cluster.policy.layout.clone());
        let clusters = clusters.collect();
        let renderer = Self { templates, layouts, clusters, consul, clock };
        Ok((!renderer.templates.is_empty()).then_some(renderer))
    }

    /// Keeps every file up to date until `stop`; whenever `look` changes, templates are read anew. The state of each
    /// file goes to `tell`.
    pub async fn run(
        self,
        stop: CancellationToken,
        look: watch::Receiver<u64>,
        tell: watch::Sender<Vec<FileState>>,
    ) {
        let picture = Arc::new(watch::channel(self.picture()).0);
        let tell = Arc::new(tell);
        tell.send_replace(self.templates.iter().map(Template::untouched).collect());
        let mut tasks = JoinSet::new();
        for (index, template) in self.templates.into_iter().enumerate() {
            let (tell, look) = (tell.clone(), look.clone());
            let say = move |result: Result<(), String>| {
                tell.send_modify(|files| {
                    files.get_mut(index).into_iter().for_each(|f| f.last = Some(result.clone()));
                });
            };
            tasks.spawn(keep_rendered(template, picture.subscribe(), look, say));
        }
        for layout in self.layouts {
            tasks.spawn(learn(self.consul.clone(), layout, self.clock, picture.clone()));
        }
        for layout in self.clusters {
            tasks.spawn(learn_cluster(self.consul.clone(), layout, self.clock, picture.clone()));
        }
        // Cancel safe; dropping the tasks ends what they have started.
        tokio::select! {
            () = stop.cancelled() => {}
            Some(_) = tasks.join_next() => {}
        }
    }

    /// Renders every file once, from what Consul says now.
    ///
    /// # Errors
    /// A [`Failure`] when Consul does not answer, or a file could not be brought up to date: the others were.
    pub async fn once(&self) -> Result<(), Failure> {
        let picture = self.read().await?;
        let mut failed = Vec::new();
        for template in &self.templates {
            let done = match picture.context(template.config.on_no_writer) {
                Ok(context) => template.bring_about(context).await,
                Err(missing) => Err(format!("{} stays as it is: {missing}", template.shown())),
            };
            match done {
                Ok(RenderOutcome::Nothing) => info!("{} is up to date", template.shown()),
                Ok(RenderOutcome::Replaced | RenderOutcome::Notified) => {
                    info!("{} is rendered", template.shown())
                }
                Err(what) => failed.push(what),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, failed.join("\n"))) }
    }

    /// Renders every template, and does nothing else: what would stand in each file.
    ///
    /// # Errors
    /// A [`Failure`] when Consul does not answer, or a template cannot be rendered.
    pub async fn print(&self) -> Result<String, Failure> {
        let picture = self.read().await?;
        let mut text = String::new();
        for template in &self.templates {
            let failed = |what: String| Failure::new(Exit::Failed, what);
            let context = picture
                .context(template.config.on_no_writer)
                .map_err(|missing| failed(format!("{}: {missing}", template.shown())))?;
            text.push_str(&template.render(&context).map_err(failed)?);
        }
        Ok(text)
    }

    fn picture(&self) -> GroupRecords {
        let name = |layout: &Layout| layout.group.clone();
        GroupRecords::new(self.layouts.iter().map(name))
            .with_clusters(self.clusters.iter().map(name))
    }

    async fn read(&self) -> Result<GroupRecords, ConsulError> {
        let mut picture = self.picture();
        for layout in &self.layouts {
            let answer = self.consul.group(layout, ReadMode::Consistent, &self.clock).await?;
            take(&mut picture, layout, answer.value);
        }
        for layout in &self.clusters {
            let answer = self.consul.cluster(layout, &self.clock).await?;
            take_cluster(&mut picture, layout, answer);
        }
        Ok(picture)
    }
}

/// Takes in what Consul answered. Whether it is news.
fn take(picture: &mut GroupRecords, layout: &Layout, answer: StoreAnswer) -> bool {
    match answer.state {
        StoredState::Known(record) => picture.learn(&layout.group, *record),
        StoredState::Absent => picture.miss(&layout.group, "nothing was ever published"),
        StoredState::Unreadable(why) => picture
            .miss(&layout.group, &format!("the key {} cannot be used: {why}", layout.state())),
    }
}

/// Learns whatever Consul shows of one group.
async fn learn(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    picture: Arc<watch::Sender<GroupRecords>>,
) {
    let (send, mut answers) = mpsc::channel(ANSWERS_MAX);
    let watching = watch_group(consul.clone(), layout.clone(), clock, send);
    let learning = async {
        while let Some(answer) = answers.recv().await {
            // Silence changes nothing: what was read stays.
            let Ok(answer) = *answer else { continue };
            let known = picture.borrow().generation(&layout.group);
            let answer = match consul.confirmed(&layout, &clock, answer, known).await {
                Ok(answer) => answer,
                Err(error) => {
                    debug!("{}: {error}", layout.group);
                    continue;
                }
            };
            picture.send_if_modified(|picture| take(picture, &layout, answer));
        }
    };
    tokio::join!(watching, learning);
}

/// Takes in what Consul answered of a cluster. Whether it is news.
fn take_cluster(picture: &mut GroupRecords, layout: &Layout, answer: ClusterStore) -> bool {
    let name = &layout.group;
    match answer.state {
        StoredCluster::Known(record) => picture.learn_cluster(name, *record),
        StoredCluster::Absent => picture.miss_cluster(name, "nothing was ever published"),
        StoredCluster::Unreadable(why) => {
            picture.miss_cluster(name, &format!("the key {} cannot be used: {why}", layout.state()))
        }
    }
}

/// Learns whatever Consul shows of one cluster.
async fn learn_cluster(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    picture: Arc<watch::Sender<GroupRecords>>,
) {
    let (send, mut answers) = mpsc::channel(ANSWERS_MAX);
    let watching = watch_cluster(consul.clone(), layout.clone(), clock, send);
    let learning = async {
        while let Some(answer) = answers.recv().await {
            // Silence changes nothing: what was read stays.
            let Ok(answer) = answer else { continue };
            let known = picture.borrow().cluster_generation(&layout.group);
            let found = answer.record().map(|record| record.generation);
            // A server that lags has an older one: the leader tells.
            let answer = match known.zip(found) {
                Some((known, found)) if found < known => {
                    match consul.cluster(&layout, &clock).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            debug!("{}: {error}", layout.group);
                            continue;
                        }
                    }
                }
                _ => answer,
            };
            picture.send_if_modified(|picture| take_cluster(picture, &layout, answer));
        }
    };
    tokio::join!(watching, learning);
}

/// Renders one template whenever there is a reason to.
async fn keep_rendered(
    template: Template,
    mut picture: watch::Receiver<GroupRecords>,
    mut look: watch::Receiver<u64>,
    say: impl Fn(Result<(), String>),
) {
    let mut retry = Retry::between(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let mut pace = ChangePace::default();
    let mut again: Option<Instant> = None;
    let mut waits_for: Option<Missing> = None;
    // The writers when it was last rendered, with success or without.
    let mut writers = BTreeMap::new();
    // What is new is not rendered yet.
    let mut due = false;
    loop {
        let news = match picture.borrow().context(template.config.on_no_writer) {
            Ok(context) if context.writers() != writers => FileNews::Writer,
            Ok(_) | Err(_) => FileNews::Rest,
        };
        // What failed has a time of its own, which only another writer or the operator makes shorter.
        let waits = match again {
            Some(at) if news == FileNews::Rest => Some(at),
            _ => pace.next(news),
        };
        let at = waits.unwrap_or_else(Instant::now);
        // Cancel safe: watch channels and a timer.
        tokio::select! {
            changed = picture.changed() => if changed.is_err() { return } else {
                due = true;
                // More may come with it.
                tokio::time::sleep(JOIN).await;
                continue;
            },
            changed = look.changed() => if changed.is_err() { return } else {
                due = true;
                again = None;
                continue;
            },
            () = tokio::time::sleep_until(at), if due || again.is_some() => {}
        }
        let context = picture.borrow_and_update().context(template.config.on_no_writer);
        due = false;
        let context = match context {
            Ok(context) => context,
            Err(missing) => {
                if waits_for.as_ref() != Some(&missing) {
                    info!("{} stays as it is: {missing}", template.shown());
                    waits_for = Some(missing);
                }
                again = None;
                continue;
            }
        };
        waits_for = None;
        if news == FileNews::Writer {
            writers = context.writers();
            retry.reset();
        }
        match template.bring_about(context).await {
            Ok(done) => {
                if done == RenderOutcome::Replaced {
                    pace.changed(news, Instant::now());
                }
                if done != RenderOutcome::Nothing || again.is_some() {
                    info!("{} is rendered", template.shown());
                }
                say(Ok(()));
                retry.reset();
                again = None;
            }
            Err(what) => {
                let pause = retry.next_delay();
                warn!("{what}; trying again in {} ms", pause.as_millis());
                say(Err(what));
                again = Some(Instant::now() + pause);
            }
        }
    }
}

impl Template {
    /// Makes the file what `context` says, and has its command take notice.
    async fn bring_about(&self, context: Context) -> Result<RenderOutcome, String> {
        let (of_file, wanted) = (self.clone(), context);
        let prepared = blocking(move || {
            let text = of_file.render(&wanted)?;
            let destination = &of_file.destination;
            let held = destination.holds(&text).map_err(|e| of_file.cannot("read", &e))?;
            let candidate = || destination.prepare(&text).map_err(|e| of_file.cannot("write", &e));
            Ok((if held { None } else { Some(candidate()?) }, destination.is_pending()))
        });
        let (candidate, pending) = prepared.await?;
        let done = match (&candidate, &self.config.command) {
            (Some(_), _) => RenderOutcome::Replaced,
            (None, Some(_)) if pending => RenderOutcome::Notified,
            (None, _) => return Ok(RenderOutcome::Nothing),
        };
        if let Some(candidate) = candidate {
            if let Some(check) = &self.config.check {
                let path = candidate.path().display().to_string();
                self.call(check, &path, "check").await?;
            }
            let (of_file, due) = (self.clone(), self.config.command.is_some());
            let placed = blocking(move || {
                candidate.put_in_place(due).map_err(|error| of_file.cannot("replace", &error))
            });
            placed.await?;
        }
        if let Some(command) = &self.config.command {
            self.call(command, &self.shown(), "command").await?;
            let of_file = self.clone();
            let settled = blocking(move || {
                of_file.destination.settled().map_err(|error| of_file.cannot("mark", &error))
            });
            settled.await?;
        }
        Ok(done)
    }

    async fn call(&self, argv: &[String], file: &str, what: &str) -> Result<(), String> {
        let argv: Vec<String> =
            argv.iter().map(|arg| arg.replace(FILE_PLACEHOLDER, file)).collect();
        let label = format!("{} {what}", self.shown());
        command::run(&argv, self.config.command_timeout, &label, &self.withheld)
            .await
            .map_err(|error| format!("{label}: {error}"))
    }

    fn render(&self, context: &Context) -> Result<String, String> {
        engine::render(&self.name(), &self.source()?, context)
    }

    /// The template's text, as it is now.
    fn source(&self) -> Result<String, String> {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", self.name());
        if std::fs::metadata(&self.config.source).map_err(cannot)?.len() > SOURCE_LEN_MAX {
            return Err(format!("{} is longer than {SOURCE_LEN_MAX} bytes", self.name()));
        }
        std::fs::read_to_string(&self.config.source).map_err(cannot)
    }

    fn name(&self) -> String {
        self.config.source.display().to_string()
    }

    fn shown(&self) -> String {
        self.config.destination.display().to_string()
    }

    fn cannot(&self, what: &str, error: &std::io::Error) -> String {
        format!("cannot {what} {}: {error}", self.shown())
    }

    fn untouched(&self) -> FileState {
        FileState { destination: self.config.destination.clone(), last: None }
    }
}

/// Runs what waits for the disk beside the runtime, which has one thread and a switch to make.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
