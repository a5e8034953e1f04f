//! What an agent answers by HTTP: a page that shows its groups, metrics, and whether it is well.
//!
//! It shows what the groups' loops last drew up; no request makes an agent ask Redis, Sentinel or Consul.

mod guard;
mod health;
mod limits;
pub mod metrics;
mod page;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Router, serve};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::HttpConfig;
use crate::core::cluster::shown::{ClusterProblemCode, ClusterStatus};
use crate::core::identity::address::GroupName;
use crate::core::shown::status::{GroupStatus, ProblemCode};
use crate::exit::{Exit, Failure};
use crate::fleet::GroupAgents;
use crate::meter::Meter;
use crate::render::task::FileState;
use crate::retry::Retry;
use crate::secret::SecretSource;
use crate::snapshot::Snapshot;
use guard::authorised;
pub use health::Groups;
use health::{Ask, HealthQuestion};
use limits::Limited;
pub use limits::{CONNECTIONS_MAX, REQUEST_MAX};
pub use page::STREAMS_MAX;
use tls::{Certificates, Peer, TlsListener};

/// How long requests that are under way may take once the server is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before an address that cannot be had is tried again: the first and the longest one.
const LISTEN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// One group as it was last drawn up; `None` until its loop has begun.
pub type Shown = watch::Receiver<Option<Snapshot>>;

/// One cluster as it was last drawn up; `None` until its loop has begun.
pub type ShownCluster = watch::Receiver<Option<ClusterStatus>>;

/// All clusters.
pub type Clusters = BTreeMap<GroupName, ShownCluster>;

/// The server, listening.
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Certificates>,
    asks: Asks,
    exhibits: HttpSources,
}

/// What a client needs for the pages that are not public.
struct Asks {
    token: SecretSource,
    /// A client certificate that the handshake has verified.
    certificate: bool,
}

/// The state that all handlers share.
struct Site {
    groups: watch::Receiver<Groups>,
    clusters: watch::Receiver<Clusters>,
    agents: watch::Receiver<GroupAgents>,
    files: watch::Receiver<Vec<FileState>>,
    asks: Asks,
    meter: Meter,
    /// One place for each page that is kept up to date.
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Site {
    fn statuses(&self) -> Vec<GroupStatus> {
        let agents = self.agents.borrow();
        let status = |(group, (shown, _)): (&GroupName, &(Shown, _))| {
            let mut status = shown.borrow().as_ref()?.status.clone();
            status.configured_agents = agents.get(group).cloned().unwrap_or_default();
            Some(status)
        };
        self.groups.borrow().iter().filter_map(status).collect()
    }

    fn cluster_statuses(&self) -> Vec<ClusterStatus> {
        let clusters = self.clusters.borrow();
        clusters.values().filter_map(|shown| shown.borrow().clone()).collect()
    }
}

impl HttpServer {
    /// Listens.
    ///
    /// # Errors
    /// A [`Failure`]: with [`Exit::Failed`] when the address cannot be had now, with [`Exit::Config`] when a
    /// certificate cannot be read or used.
    pub async fn bind(settings: &HttpConfig, exhibits: HttpSources) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            let message = format!("cannot listen on {}: {error}", settings.listen);
            Failure::new(Exit::Failed, message).hint("choose another --listen, or end what has it")
        };
        let listener = TcpListener::bind(settings.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let tls = certificates(settings)?;
        let certificate = settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let asks = Asks { token: settings.token.clone(), certificate };
        Ok(Self { listener, address, tls, asks, exhibits })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, tls, asks, exhibits, .. } = self;
        let HttpSources { groups, clusters, agents, files, meter } = exhibits;
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        let site = Arc::new(Site {
            groups,
            clusters,
            agents,
            files,
            asks,
            meter,
            places,
            stop: stop.clone(),
        });
        let open = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/primary", role(HealthQuestion::Primary))
            .route("/replica", role(HealthQuestion::Replica))
            .route("/health", role(HealthQuestion::Health));
        let closed = Router::new()
            .route("/metrics", get(show_metrics))
            .layer(from_fn_with_state(site.clone(), authorised));
        let router = open.merge(closed).merge(page::router(&site)).with_state(site);
        let stopped = stop.clone().cancelled_owned();
        let serving = async {
            match tls {
                None => {
                    let listener = Limited::new(listener);
                    serve(listener, router).with_graceful_shutdown(stopped).await
                }
                Some(certificates) => {
                    let router = router.into_make_service_with_connect_info::<Peer>();
                    let listener = Limited::new(TlsListener::new(listener, certificates));
                    serve(listener, router).with_graceful_shutdown(stopped).await
                }
            }
        };
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            ended = serving => {
                if let Err(failed) = ended {
                    error!("the HTTP server failed: {failed}");
                }
            }
            () = drained => debug!("HTTP clients that had not finished their requests were not waited for"),
        }
    }
}

/// What a server shows.
#[derive(Clone)]
pub struct HttpSources {
    /// What each group's loop shows.
    pub groups: watch::Receiver<Groups>,
    /// What each cluster's loop shows.
    pub clusters: watch::Receiver<Clusters>,
    /// The agents that are configured with each group.
    pub agents: watch::Receiver<GroupAgents>,
    /// How the rendered files are.
    pub files: watch::Receiver<Vec<FileState>>,
    /// The counters behind `/metrics`.
    pub meter: Meter,
}

/// A server without groups on loopback: its address, and what ends it when it is dropped.
#[cfg(test)]
pub async fn serving_for_test() -> (String, tokio_util::sync::DropGuard) {
    let (clock, stop) = (crate::clock::Clock::start(), CancellationToken::new());
    let meter = Meter::new(clock, crate::meter::Counters::default());
    let exhibits = HttpSources {
        groups: watch::Sender::default().subscribe(),
        clusters: watch::Sender::default().subscribe(),
        agents: watch::Sender::default().subscribe(),
        files: watch::Sender::default().subscribe(),
        meter,
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = HttpConfig { listen, token: SecretSource::None, tls: None };
    let server = HttpServer::bind(&settings, exhibits).await;
    let server = server.unwrap_or_else(|failure| panic!("{}", failure.message));
    let at = server.address.to_string();
    tokio::spawn(server.run(stop.clone()));
    (at, stop.drop_guard())
}

/// Answers by HTTP until `stop`. An address that cannot be had now is tried again; `bound` is a server that has it.
pub async fn keep_answering(
    settings: HttpConfig,
    exhibits: HttpSources,
    bound: Option<HttpServer>,
    stop: CancellationToken,
) {
    let mut retry = Retry::between(LISTEN_PAUSE.0, LISTEN_PAUSE.1);
    let mut next = bound.map(Ok);
    let mut said = false;
    let server = loop {
        let tried = match next.take() {
            Some(tried) => tried,
            None => HttpServer::bind(&settings, exhibits.clone()).await,
        };
        match tried {
            Ok(server) => break server,
            Err(failure) if !said => {
                warn!("no answers by HTTP, trying again: {}", failure.in_one_line());
                said = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(retry.next_delay()) => {}
        }
    };
    info!("answering {}", server.url());
    server.run(stop).await;
}

/// What TLS is spoken with.
///
/// # Errors
/// A [`Failure`] with [`Exit::Config`] when a file cannot be read or used.
fn certificates(settings: &HttpConfig) -> Result<Option<Certificates>, Failure> {
    let unusable = |why: String| {
        let message = format!("cannot speak TLS on {}: {why}", settings.listen);
        Failure::new(Exit::Config, message)
            .hint("--listen-cert, --listen-key and --listen-client-ca are PEM files")
    };
    settings.tls.as_ref().map(Certificates::read).transpose().map_err(unusable)
}

/// Whether a server could speak TLS by these settings.
///
/// # Errors
/// A [`Failure`] with [`Exit::Config`] when a file cannot be read or used.
pub fn check_certificates(settings: &HttpConfig) -> Result<(), Failure> {
    certificates(settings).map(drop)
}

/// `/healthz`: the process is alive.
async fn healthz() -> &'static str {
    "alive\n"
}

/// What keeps this agent from doing its duty, though it has read Consul once.
const NOT_READY: [ProblemCode; 3] =
    [ProblemCode::ConsulRefuses, ProblemCode::ConsulSilent, ProblemCode::InstanceRefuses];

/// `/readyz`: every loop has read Consul.
async fn readyz(State(site): State<Arc<Site>>) -> (StatusCode, String) {
    let clusters = waiting_clusters(&site.clusters.borrow());
    let waiting: Vec<String> = site
        .groups
        .borrow()
        .iter()
        .filter_map(|(group, (shown, _))| {
            let shown = shown.borrow();
            let Some(drawn) = shown.as_ref().filter(|drawn| drawn.status.consul_read) else {
                return Some(format!("{group}: Consul has not been read yet\n"));
            };
            let mut problems = drawn.status.problems.iter();
            let problem = problems.find(|problem| NOT_READY.contains(&problem.code))?;
            Some(format!("{group}: {}\n", problem.text))
        })
        .chain(clusters)
        .collect();
    match waiting.as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        waiting => (StatusCode::SERVICE_UNAVAILABLE, waiting.concat()),
    }
}

fn waiting_clusters(clusters: &Clusters) -> Vec<String> {
    let waits = |(name, shown): (&GroupName, &ShownCluster)| {
        let shown = shown.borrow();
        let Some(status) = shown.as_ref().filter(|status| status.consul_read) else {
            return Some(format!("{name}: Consul has not been read yet\n"));
        };
        let refuses = ClusterProblemCode::ConsulRefuses;
        let problem = status.problems.iter().find(|problem| problem.code == refuses)?;
        Some(format!("{name}: {}\n", problem.text))
    };
    clusters.iter().filter_map(waits).collect()
}

/// Load balancers ask with GET, HEAD or OPTIONS.
fn role(wanted: HealthQuestion) -> MethodRouter<Arc<Site>> {
    let answer = move |State(site): State<Arc<Site>>, Query(ask): Query<Ask>| async move {
        health::answer(wanted, &ask, &site.groups.borrow())
    };
    get(answer).options(answer)
}

async fn show_metrics(State(site): State<Arc<Site>>) -> Response {
    match metrics::encode(&site.statuses(), &site.files.borrow(), &site.meter) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, failed.to_string()).into_response(),
    }
}
