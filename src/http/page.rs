//! The status page: what it is made of, and the stream of events that keeps it up to date.
//!
//! The files of `page/` are part of the program, and load nothing else. They draw what [`draw`] gives.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::select_all;
use futures_util::stream::unfold;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::guard::{addressed, authorised, kept_in};
use super::{Clusters, Groups, Shown, ShownCluster, Site};
use crate::clock::wall;
use crate::core::cluster::shown::ClusterStatus;
use crate::core::identity::address::{Address, GroupName};
use crate::core::published::record::Change;
use crate::core::shown::status::GroupStatus;
use crate::core::shown::timeline::{Switch, switches};
use crate::snapshot::{AnyStatus, Snapshot};

/// Pages that can be kept up to date at a time.
pub const STREAMS_MAX: usize = 32;
/// Pause between two events of a stream: faster than a person can read, and slow enough for a phone.
const EVENT_PAUSE: Duration = Duration::from_millis(200);
/// After this long a stream ends, and the page asks for another: with a token that was changed, it does not get one.
const STREAM_FOR: Duration = Duration::from_mins(10);
/// How often a stream without news says that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Switches shown of a group.
const SWITCHES_MAX: usize = 10;

/// The files of the page: where, of which type, and what.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// The page, its events, and the same as JSON.
pub fn router(site: &Arc<Site>) -> Router<Arc<Site>> {
    let mut router =
        Router::new().route("/events", get(events)).route("/status.json", get(status_json));
    for (path, kind, text) in FILES {
        router =
            router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }));
    }
    // The last is the first to see a request.
    router
        .layer(from_fn_with_state(site.clone(), authorised))
        .layer(from_fn_with_state(site.clone(), addressed))
        .layer(from_fn(kept_in))
}

/// `/status.json`: the same as `status --json`.
async fn status_json(State(site): State<Arc<Site>>) -> Response {
    let groups = site.statuses().into_iter().map(Box::new).map(AnyStatus::Group);
    let clusters = site.cluster_statuses().into_iter().map(Box::new).map(AnyStatus::Cluster);
    match serde_json::to_string_pretty(&groups.chain(clusters).collect::<Vec<_>>()) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/json")], format!("{text}\n")).into_response()
        }
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, failed.to_string()).into_response(),
    }
}

/// What the page gets of one group.
#[derive(Debug, PartialEq, Serialize)]
struct GroupView {
    group: GroupName,
    /// `None` until its loop has begun.
    status: Option<GroupStatus>,
    /// What the agent concluded last.
    summary: Option<String>,
    /// What it did not do, and why not.
    reasons: Vec<String>,
    /// The last switches, newest first.
    switches: Vec<Switch>,
    /// Since when which writer was published, oldest first: for the timeline of a day.
    writers: Vec<WriterSince>,
}

/// What the page gets of one cluster.
#[derive(Debug, PartialEq, Serialize)]
struct ClusterCard {
    cluster: GroupName,
    /// `None` until its loop has begun.
    status: Option<ClusterStatus>,
}

/// One stretch of the timeline.
#[derive(Debug, PartialEq, Serialize)]
struct WriterSince {
    at: Timestamp,
    writer: Option<Address>,
}

/// One event.
#[derive(Debug, Serialize)]
struct PageEvent<'a> {
    /// When it was drawn up, by this machine's clock.
    at: Timestamp,
    version: &'static str,
    groups: &'a [GroupView],
    clusters: &'a [ClusterCard],
}

fn draw(group: &GroupName, snapshot: Option<Snapshot>) -> GroupView {
    let group = group.clone();
    let Some(Snapshot { mut status, summary, reasons }) = snapshot else {
        return GroupView {
            group,
            status: None,
            summary: None,
            reasons: Vec::new(),
            switches: Vec::new(),
            writers: Vec::new(),
        };
    };
    // The switches say it all, and say it shorter.
    let history = std::mem::take(&mut status.history);
    let mut switches = switches(&history);
    switches.truncate(SWITCHES_MAX);
    let since = |change: Change| WriterSince { at: change.at, writer: change.to };
    let writers = history.into_iter().rev().map(since).collect();
    GroupView { group, status: Some(status), summary, reasons, switches, writers }
}

/// A page that looks on.
struct Onlooker {
    site: Arc<Site>,
    all: watch::Receiver<Groups>,
    groups: Vec<(GroupName, Shown)>,
    all_clusters: watch::Receiver<Clusters>,
    clusters: Vec<(GroupName, ShownCluster)>,
    told: Option<(Vec<GroupView>, Vec<ClusterCard>)>,
    told_at: Option<Instant>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Onlooker {
    /// The next event, once there is news; `None` when the stream is to end.
    async fn next(&mut self) -> Option<Event> {
        let stop = self.site.stop.clone();
        loop {
            let groups: Vec<GroupView> = (self.groups.iter_mut())
                .map(|(group, shown)| draw(group, shown.borrow_and_update().clone()))
                .collect();
            let clusters: Vec<ClusterCard> = (self.clusters.iter_mut())
                .map(|(cluster, shown)| ClusterCard {
                    cluster: cluster.clone(),
                    status: shown.borrow_and_update().clone().map(last_changes),
                })
                .collect();
            let drawn = (groups, clusters);
            if self.told.as_ref() != Some(&drawn) {
                let event = event(&drawn.0, &drawn.1);
                self.told = Some(drawn);
                self.told_at = Some(Instant::now());
                return event;
            }
            let pause = self.told_at.map_or(self.until, |at| at + EVENT_PAUSE);
            // Cancel safe: channels, timers and a token.
            let others = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                Ok(()) = self.all.changed() => true,
                Ok(()) = self.all_clusters.changed() => true,
                () = news(&mut self.groups) => false,
                () = news(&mut self.clusters) => false,
            };
            if others {
                self.groups = shown_groups(&mut self.all);
                self.clusters = shown_clusters(&mut self.all_clusters);
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep_until(pause) => {}
            }
        }
    }
}

/// The status with as many changes as the page shows.
fn last_changes(mut status: ClusterStatus) -> ClusterStatus {
    status.history.truncate(SWITCHES_MAX);
    status
}

/// Waits until one of these has changed.
async fn news<T: Send + Sync>(shown: &mut [(GroupName, watch::Receiver<T>)]) {
    let all: Vec<_> = shown.iter_mut().map(|(_, shown)| Box::pin(shown.changed())).collect();
    if !all.is_empty()
        && let (Ok(()), ..) = select_all(all).await
    {
        return;
    }
    // There are none, or a loop has ended: others are about to be shown.
    pending().await
}

fn shown_groups(all: &mut watch::Receiver<Groups>) -> Vec<(GroupName, Shown)> {
    let all = all.borrow_and_update();
    all.iter().map(|(group, (shown, _))| (group.clone(), shown.clone())).collect()
}

fn shown_clusters(all: &mut watch::Receiver<Clusters>) -> Vec<(GroupName, ShownCluster)> {
    let all = all.borrow_and_update();
    all.iter().map(|(name, shown)| (name.clone(), shown.clone())).collect()
}

fn event(groups: &[GroupView], clusters: &[ClusterCard]) -> Option<Event> {
    let version = env!("CARGO_PKG_VERSION");
    let view = PageEvent { at: wall(), version, groups, clusters };
    let text = serde_json::to_string(&view).ok()?;
    Some(Event::default().data(text))
}

/// `/events`: every change, as it happens.
async fn events(State(site): State<Arc<Site>>) -> Response {
    let Ok(place) = site.places.clone().try_acquire_owned() else {
        let why = format!("{STREAMS_MAX} pages look on already\n");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let mut all = site.groups.clone();
    let groups = shown_groups(&mut all);
    let mut all_clusters = site.clusters.clone();
    let clusters = shown_clusters(&mut all_clusters);
    let until = Instant::now() + STREAM_FOR;
    let (told, told_at) = (None, None);
    let onlooker =
        Onlooker { site, all, groups, all_clusters, clusters, told, told_at, until, _place: place };
    let stream = unfold(onlooker, |mut onlooker| async move {
        let event = onlooker.next().await?;
        Some((Ok::<_, Infallible>(event), onlooker))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response()
}
